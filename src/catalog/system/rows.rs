//! Builds the rows of a system relation: columns are given by name, those left out are NULL, or zero where a column
//! cannot be NULL.

use crate::types::record_batch::batch_of_rows;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Float32Builder, Int16Builder, Int32Builder, Int64Builder, ListBuilder, RecordBatch,
    StringBuilder, TimestampMicrosecondBuilder, UInt32Builder, new_null_array,
};
use arrow::datatypes::{DataType, Field, TimeUnit};

use super::definitions::Relation;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// Any integer, an OID, microseconds since 1970.
    Integer(i64),
    Float(f32),
    Text(String),
    Texts(Vec<String>),
    Integers(Vec<i64>),
}

macro_rules! value_from {
    ($($from:ty => $variant:ident($convert:expr);)*) => {$(
        impl From<$from> for Value {
            fn from(value: $from) -> Value {
                let convert: fn($from) -> _ = $convert;
                Value::$variant(convert(value))
            }
        }
    )*};
}

value_from! {
    bool => Bool(|value| value);
    i16 => Integer(i64::from);
    i32 => Integer(i64::from);
    u32 => Integer(i64::from);
    i64 => Integer(|value| value);
    u64 => Integer(|value| i64::try_from(value).unwrap_or(i64::MAX));
    crate::ids::Oid => Integer(|value| i64::from(value.0));
    f32 => Float(|value| value);
    &str => Text(str::to_owned);
    &String => Text(String::clone);
    String => Text(|value| value);
    Vec<String> => Texts(|value| value);
    Vec<i64> => Integers(|value| value);
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Value {
        value.map_or(Value::Null, Into::into)
    }
}

pub(super) struct Rows {
    relation: &'static Relation,
    rows: Vec<Vec<Value>>,
    /// Where the values of the last row went: rows of one relation mostly come from one place, in one order.
    positions: Vec<usize>,
}

/// `row!(rows, column = value, ..)`.
macro_rules! row {
    ($rows:expr, $($column:ident = $value:expr),* $(,)?) => {
        $rows.push(vec![$((stringify!($column), $crate::catalog::system::rows::Value::from($value))),*])
    };
}
pub(super) use row;

impl Rows {
    pub(super) fn of(relation: &'static Relation) -> Rows {
        Rows {
            relation,
            rows: Vec::new(),
            positions: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, values: Vec<(&'static str, Value)>) {
        let mut row = vec![Value::Null; self.relation.columns.len()];
        self.positions.resize(values.len().max(self.positions.len()), 0);
        for ((name, value), position) in values.into_iter().zip(&mut self.positions) {
            if self.relation.columns[*position].name != name {
                let index = self.relation.columns.iter().position(|column| column.name == name);
                *position = index.expect("columns are named as in relations.txt; a test builds every relation");
            }
            row[*position] = value;
        }
        self.rows.push(row);
    }

    pub(super) fn finish(self) -> RecordBatch {
        let schema = Arc::clone(&self.relation.arrow);
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(index, field)| column(field, self.rows.iter().map(|row| &row[index])))
            .collect();
        batch_of_rows(schema, columns, self.rows.len())
            .expect("columns are built for the fields they belong to; a test builds every relation")
    }
}

fn column<'a>(field: &Field, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    let nullable = field.is_nullable();
    let integer = |value: &Value| match value {
        Value::Integer(number) => Some(*number),
        _ => (!nullable).then_some(0),
    };
    let text = |value: &'a Value| match value {
        Value::Text(text) => Some(text.as_str()),
        _ => (!nullable).then_some(""),
    };
    macro_rules! integers {
        ($builder:ty, $native:ty) => {{
            let mut builder = <$builder>::new();
            // Values are made for the width of their column; what does not fit cannot be shown.
            values.for_each(|value| {
                builder.append_option(integer(value).and_then(|number| <$native>::try_from(number).ok()))
            });
            Arc::new(builder.finish())
        }};
    }
    match field.data_type() {
        DataType::Boolean => {
            let mut builder = BooleanBuilder::new();
            values.for_each(|value| {
                builder.append_option(match value {
                    Value::Bool(flag) => Some(*flag),
                    _ => (!nullable).then_some(false),
                })
            });
            Arc::new(builder.finish())
        }
        DataType::Int16 => integers!(Int16Builder, i16),
        DataType::Int32 => integers!(Int32Builder, i32),
        DataType::Int64 => integers!(Int64Builder, i64),
        DataType::UInt32 => integers!(UInt32Builder, u32),
        DataType::Float32 => {
            let mut builder = Float32Builder::new();
            values.for_each(|value| {
                builder.append_option(match value {
                    Value::Float(number) => Some(*number),
                    _ => (!nullable).then_some(0.0),
                })
            });
            Arc::new(builder.finish())
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let mut builder = TimestampMicrosecondBuilder::new();
            values.for_each(|value| builder.append_option(integer(value)));
            Arc::new(builder.finish().with_timezone_opt(zone.clone()))
        }
        DataType::Utf8 => {
            let mut builder = StringBuilder::new();
            values.for_each(|value| builder.append_option(text(value)));
            Arc::new(builder.finish())
        }
        DataType::List(element) => list(field, element, values),
        other => new_null_array(other, values.count()),
    }
}

fn list<'a>(field: &Field, element: &Arc<Field>, values: impl Iterator<Item = &'a Value>) -> ArrayRef {
    let valid_when_missing = !field.is_nullable();
    macro_rules! lists {
        ($builder:ty, $variant:ident, $append:expr) => {{
            let mut builder = ListBuilder::new(<$builder>::new()).with_field(Arc::clone(element));
            for value in values {
                let append: fn(&mut $builder, &_) = $append;
                if let Value::$variant(items) = value {
                    items.iter().for_each(|item| append(builder.values(), item));
                    builder.append(true);
                } else {
                    builder.append(valid_when_missing);
                }
            }
            Arc::new(builder.finish())
        }};
    }
    match element.data_type() {
        DataType::Int16 => lists!(Int16Builder, Integers, |b, n: &i64| b
            .append_option(i16::try_from(*n).ok())),
        DataType::UInt32 => lists!(UInt32Builder, Integers, |b, n: &i64| b
            .append_option(u32::try_from(*n).ok())),
        DataType::Utf8 => lists!(StringBuilder, Texts, |b, text: &String| b.append_value(text)),
        _ => new_null_array(field.data_type(), values.count()),
    }
}

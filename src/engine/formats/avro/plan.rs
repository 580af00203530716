//! How records of a writer's schema become rows of a table: decided once for each schema, by the columns' names and types.
//!
//! This is Avro's schema resolution with the table in the place of the reader's schema: fields are found by name (as everywhere in SQL one that
//! differs only in upper and lower case will do), a column that the writer did not know is NULL, fields that nobody asks for are stepped over.
//! Numbers widen as Avro says; they also narrow, each value checked. Text is read as the column's type, as in JSON.

use arrow::datatypes::{DataType, Field, FieldRef, Fields};

use crate::engine::formats::avro::schema::{AvroSchema, Kind, Logical, NodeId, Optional, RecordField, Unit};
use crate::engine::formats::columns::type_word;

/// What is done with each field of a record, in the writer's order.
#[derive(Debug)]
pub struct RecordPlan {
    pub steps: Vec<FieldStep>,
    /// Columns that are NOT NULL and that the writer does not know.
    pub missing: Option<String>,
}

#[derive(Debug)]
pub enum FieldStep {
    Skip(NodeId),
    Read(usize, Read),
}

/// How a value is read into a column.
#[derive(Debug)]
pub enum Read {
    Null,
    Boolean,
    /// An int or a long, as it is.
    Integer,
    /// An int or a long that counts something: multiplied, then divided.
    Scaled(i64, i64),
    Float,
    Double,
    Bytes,
    Fixed(usize),
    Text,
    Symbol(Vec<String>),
    /// Two's complement, of this many bytes if the schema says how many; its scale.
    Decimal(Option<usize>, i8),
    Duration,
    Record(Box<RecordPlan>),
    List(Box<Read>),
    Map(Box<Read>),
    /// Null is this branch.
    Optional(i64, Box<Read>),
    /// A union of one type.
    Only(Box<Read>),
}

impl RecordPlan {
    /// `required`: whether a column that must not be NULL may be missing is for whoever reads the plan to say; the first is named.
    pub fn new(schema: &AvroSchema, fields: &[RecordField], columns: &Fields) -> Result<RecordPlan, String> {
        let mut of_column = vec![None; columns.len()];
        for (column, place) in columns.iter().zip(&mut of_column) {
            *place = position(fields, column.name());
        }
        let mut steps = Vec::with_capacity(fields.len());
        for (at, field) in fields.iter().enumerate() {
            steps.push(match of_column.iter().position(|place| *place == Some(at)) {
                None => FieldStep::Skip(field.node),
                Some(column) => {
                    let read = Read::new(schema, field.node, &columns[column]);
                    FieldStep::Read(column, read.map_err(|reason| within(columns[column].name(), &reason))?)
                }
            });
        }
        let missing = columns
            .iter()
            .zip(&of_column)
            .find(|(column, place)| place.is_none() && !column.is_nullable());
        Ok(RecordPlan {
            steps,
            missing: missing.map(|(column, _)| column.name().clone()),
        })
    }

    /// The plan of rows of a table whose columns are `columns`.
    pub fn of_rows(schema: &AvroSchema, columns: &Fields) -> Result<RecordPlan, String> {
        let (_, fields) = schema.record()?;
        RecordPlan::new(schema, fields, columns)
    }
}

/// The field of a column.
pub fn position(fields: &[RecordField], column: &str) -> Option<usize> {
    let exactly = fields.iter().position(|field| field.name == column);
    exactly.or_else(|| fields.iter().position(|field| field.name.eq_ignore_ascii_case(column)))
}

fn within(column: &str, reason: &str) -> String {
    match reason.strip_prefix("column \"") {
        Some(rest) => format!("column \"{column}.{rest}"),
        None => format!("column \"{column}\": {reason}"),
    }
}

impl Read {
    fn new(schema: &AvroSchema, node: NodeId, column: &Field) -> Result<Read, String> {
        let (value, optional) = schema.optional(node)?;
        let read = Read::value(schema, value, column)?;
        Ok(match optional {
            Optional::Plain => read,
            Optional::Only => Read::Only(Box::new(read)),
            Optional::NullIs(branch) => Read::Optional(branch, Box::new(read)),
        })
    }

    fn value(schema: &AvroSchema, node: NodeId, column: &Field) -> Result<Read, String> {
        let of_writer = schema.node(node);
        let into = column.data_type();
        let read = match (&of_writer.kind, into) {
            (Kind::Null, _) => Some(Read::Null),
            (Kind::Boolean, DataType::Boolean) => Some(Read::Boolean),
            (Kind::Int | Kind::Long, _) => integer(of_writer.logical, into),
            (Kind::Float, DataType::Float32 | DataType::Float64) => Some(Read::Float),
            (Kind::Double, DataType::Float32 | DataType::Float64) => Some(Read::Double),
            (Kind::Bytes, _) => bytes(of_writer.logical, None, into),
            (Kind::Fixed { size, .. }, _) => bytes(of_writer.logical, Some(*size), into),
            (Kind::String, DataType::Struct(_) | DataType::List(_) | DataType::Map(..)) => None,
            (Kind::String, _) => Some(Read::Text),
            (Kind::Enum { symbols, .. }, DataType::Utf8) => Some(Read::Symbol(symbols.clone())),
            (Kind::Record { fields, .. }, DataType::Struct(columns)) => {
                Some(Read::Record(Box::new(RecordPlan::new(schema, fields, columns)?)))
            }
            (Kind::Array(items), DataType::List(element)) => {
                Some(Read::List(Box::new(Read::new(schema, *items, element)?)))
            }
            (Kind::Map(values), DataType::Map(entries, _)) => match map_value(entries) {
                Some(value) => Some(Read::Map(Box::new(Read::new(schema, *values, value)?))),
                None => None,
            },
            _ => None,
        };
        read.ok_or_else(|| {
            format!(
                "Avro type {} cannot be read as {}",
                schema.describe(node),
                type_word(into)
            )
        })
    }
}

/// The value of a map whose keys are text, as Avro's are.
pub fn map_value(entries: &FieldRef) -> Option<&FieldRef> {
    match entries.data_type() {
        DataType::Struct(fields) if fields.len() == 2 && fields[0].data_type() == &DataType::Utf8 => fields.get(1),
        _ => None,
    }
}

/// To microseconds.
fn scaled(unit: Unit) -> Read {
    match unit {
        Unit::Millis => Read::Scaled(1000, 1),
        Unit::Micros => Read::Scaled(1, 1),
        Unit::Nanos => Read::Scaled(1, 1000),
    }
}

fn integer(logical: Logical, into: &DataType) -> Option<Read> {
    match (logical, into) {
        (Logical::Date, DataType::Date32) => Some(Read::Integer),
        (Logical::Time(unit), DataType::Time64(_)) => Some(scaled(unit)),
        (Logical::Timestamp(unit) | Logical::LocalTimestamp(unit), DataType::Timestamp(..)) => Some(scaled(unit)),
        // As the number that it is.
        (_, DataType::Float32 | DataType::Float64 | DataType::Decimal128(..)) => Some(Read::Integer),
        (_, of_column) if of_column.is_integer() => Some(Read::Integer),
        _ => None,
    }
}

fn bytes(logical: Logical, size: Option<usize>, into: &DataType) -> Option<Read> {
    match (logical, into, size) {
        (Logical::Decimal { scale, .. }, DataType::Decimal128(..), _) => {
            Some(Read::Decimal(size, i8::try_from(scale).ok()?))
        }
        (Logical::Decimal { scale: 0, .. }, of_column, _) if of_column.is_integer() => Some(Read::Decimal(size, 0)),
        (Logical::Duration, DataType::Interval(_), _) => Some(Read::Duration),
        (_, DataType::FixedSizeBinary(16), Some(16)) => Some(Read::Fixed(16)),
        (_, DataType::Binary, Some(size)) => Some(Read::Fixed(size)),
        (_, DataType::Binary, None) => Some(Read::Bytes),
        // Avro promotes bytes to strings.
        (Logical::None, DataType::Utf8, None) => Some(Read::Text),
        _ => None,
    }
}

//! Rows to Avro's binary encoding, by any schema whose fields the columns can fill: the one derived from the columns, or one that was
//! there before them.
//!
//! A field without a column gets its default, or null where it may be null.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Fields, Float32Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use serde_json::Value;

use crate::engine::error::Error;
use crate::engine::formats::avro::plan::{map_value, position};
use crate::engine::formats::avro::schema::{AvroSchema, Kind, Logical, NodeId, Optional, RecordField, Unit};
use crate::engine::formats::columns::type_word;
use crate::engine::formats::decimal_bytes::shortest;
use crate::error::SqlState;

/// How a record is written.
#[derive(Debug)]
pub struct RecordWriter {
    fields: Vec<(String, Source)>,
}

#[derive(Debug)]
enum Source {
    Column(usize, Write),
    /// Encoded once.
    Constant(Vec<u8>),
}

/// How a value is written.
#[derive(Debug)]
enum Write {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Text,
    Symbol(Vec<String>),
    Bytes,
    Fixed(usize),
    /// Of this many bytes, if the schema says how many.
    Decimal(Option<usize>),
    /// Whole numbers of 64 bits without a sign, as a decimal.
    Unsigned(Option<usize>),
    UuidText,
    /// A column of microseconds, multiplied and divided.
    Time(i64, i64),
    Timestamp(i64, i64),
    Record(Box<RecordWriter>),
    Array(Box<Write>),
    Map(Box<Write>),
    /// Null is this branch of the two.
    Optional(i64, Box<Write>),
    Only(Box<Write>),
}

impl RecordWriter {
    /// A writer of rows of `columns`.
    pub fn of_rows(schema: &AvroSchema, columns: &Fields) -> Result<RecordWriter, String> {
        let (_, fields) = schema.record()?;
        RecordWriter::new(schema, fields, columns)
    }

    fn new(schema: &AvroSchema, fields: &[RecordField], columns: &Fields) -> Result<RecordWriter, String> {
        let of_column: Vec<Option<usize>> = columns.iter().map(|column| position(fields, column.name())).collect();
        if let Some(at) = of_column.iter().position(Option::is_none) {
            return Err(format!("column \"{}\" is not in the schema", columns[at].name()));
        }
        let mut sources = Vec::with_capacity(fields.len());
        for (at, field) in fields.iter().enumerate() {
            let source = match of_column.iter().position(|place| *place == Some(at)) {
                Some(column) => {
                    let write = Write::new(schema, field.node, &columns[column]);
                    let write = write.map_err(|reason| format!("column \"{}\": {reason}", columns[column].name()))?;
                    Source::Column(column, write)
                }
                None => Source::Constant(constant(schema, field)?),
            };
            sources.push((field.name.clone(), source));
        }
        Ok(RecordWriter { fields: sources })
    }

    pub fn write(&self, columns: &[ArrayRef], row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        for (name, source) in &self.fields {
            match source {
                Source::Constant(bytes) => out.extend_from_slice(bytes),
                Source::Column(column, write) => {
                    write.value(&columns[*column], row, out).map_err(|fault| match fault {
                        Error::Data { code, message, detail } if !message.starts_with("column ") => Error::Data {
                            code,
                            message: format!("column \"{name}\": {message}"),
                            detail,
                        },
                        other => other,
                    })?
                }
            }
        }
        Ok(())
    }
}

impl Write {
    fn new(schema: &AvroSchema, node: NodeId, column: &Field) -> Result<Write, String> {
        let (value, optional) = schema.optional(node)?;
        let write = Write::present(schema, value, column)?;
        Ok(match optional {
            Optional::Plain => write,
            Optional::Only => Write::Only(Box::new(write)),
            Optional::NullIs(branch) => Write::Optional(branch, Box::new(write)),
        })
    }

    fn present(schema: &AvroSchema, node: NodeId, column: &Field) -> Result<Write, String> {
        let of_field = schema.node(node);
        let from = column.data_type();
        let found = match (&of_field.kind, from) {
            (Kind::Boolean, DataType::Boolean) => Some(Write::Boolean),
            (Kind::Int | Kind::Long, _) => integer(&of_field.kind, of_field.logical, from),
            (Kind::Float, DataType::Float32) => Some(Write::Float),
            (Kind::Double, DataType::Float32 | DataType::Float64) => Some(Write::Double),
            (Kind::Double, of_column) if of_column.is_integer() && of_column != &DataType::UInt64 => {
                Some(Write::Double)
            }
            (Kind::String, DataType::Utf8) => Some(Write::Text),
            (Kind::String, DataType::FixedSizeBinary(16)) => Some(Write::UuidText),
            (Kind::Enum { symbols, .. }, DataType::Utf8) => Some(Write::Symbol(symbols.clone())),
            (Kind::Bytes, _) => bytes(of_field.logical, None, from),
            (Kind::Fixed { size, .. }, _) => bytes(of_field.logical, Some(*size), from),
            (Kind::Record { fields, .. }, DataType::Struct(columns)) => {
                Some(Write::Record(Box::new(RecordWriter::new(schema, fields, columns)?)))
            }
            (Kind::Array(items), DataType::List(element)) => {
                Some(Write::Array(Box::new(Write::new(schema, *items, element)?)))
            }
            (Kind::Map(values), DataType::Map(entries, _)) => match map_value(entries) {
                Some(value) => Some(Write::Map(Box::new(Write::new(schema, *values, value)?))),
                None => None,
            },
            _ => None,
        };
        found.ok_or_else(|| {
            format!(
                "type {} cannot be written as Avro type {}",
                type_word(from),
                schema.describe(node)
            )
        })
    }

    fn value(&self, column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Write::Optional(of_null, write) => {
                let is_null = column.is_null(row);
                long(if is_null { *of_null } else { 1 - of_null }, out);
                if is_null { Ok(()) } else { write.value(column, row, out) }
            }
            Write::Only(write) => {
                long(0, out);
                write.value(column, row, out)
            }
            _ if column.is_null(row) => Err(data(
                SqlState::NOT_NULL_VIOLATION,
                "null value where the schema has no null",
            )),
            _ => self.there(column, row, out),
        }
    }

    /// A value that is not null.
    fn there(&self, column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        match self {
            Write::Boolean => out.push(column.as_boolean().value(row).into()),
            Write::Long => long(whole(column, row)?, out),
            Write::Int => match i32::try_from(whole(column, row)?) {
                Ok(number) => long(number.into(), out),
                Err(_) => {
                    let number = whole(column, row)?;
                    let message = format!("value \"{number}\" is out of range for Avro type int");
                    return Err(data(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, &message));
                }
            },
            Write::Float => out.extend_from_slice(&column.as_primitive::<Float32Type>().value(row).to_le_bytes()),
            Write::Double => out.extend_from_slice(&double(column, row)?.to_le_bytes()),
            Write::Text => sized(column.as_string::<i32>().value(row).as_bytes(), out),
            Write::Symbol(symbols) => symbol(symbols, column.as_string::<i32>().value(row), out)?,
            Write::Bytes => sized(column.as_binary::<i32>().value(row), out),
            Write::Fixed(size) => fixed(*size, column, row, out)?,
            Write::Decimal(size) => decimal(column.as_primitive::<Decimal128Type>().value(row), *size, out)?,
            Write::Unsigned(size) => decimal(column.as_primitive::<UInt64Type>().value(row).into(), *size, out)?,
            Write::UuidText => {
                let bytes = column.as_fixed_size_binary().value(row);
                let id = uuid::Uuid::from_slice(bytes).unwrap_or_default();
                sized(
                    id.hyphenated()
                        .encode_lower(&mut uuid::Uuid::encode_buffer())
                        .as_bytes(),
                    out,
                );
            }
            Write::Time(by, per) => {
                let micros = column.as_primitive::<Time64MicrosecondType>().value(row);
                long(scaled(micros, *by, *per)?, out);
            }
            Write::Timestamp(by, per) => long(scaled(timestamp_micros(column, row)?, *by, *per)?, out),
            Write::Record(record) => record.write(column.as_struct().columns(), row, out)?,
            Write::Array(write) => {
                let list = column.as_list::<i32>();
                let (start, end) = (list.value_offsets()[row], list.value_offsets()[row + 1]);
                block(start, end, out, |item, out| write.value(list.values(), item, out))?;
            }
            Write::Map(write) => {
                let map = column.as_map();
                let (start, end) = (map.value_offsets()[row], map.value_offsets()[row + 1]);
                let keys = map.keys().as_string::<i32>();
                block(start, end, out, |item, out| {
                    sized(keys.value(item).as_bytes(), out);
                    write.value(map.values(), item, out)
                })?;
            }
            // Were resolved by the caller.
            Write::Optional(..) | Write::Only(_) => {}
        }
        Ok(())
    }
}

fn integer(kind: &Kind, logical: Logical, from: &DataType) -> Option<Write> {
    let micros = |unit| match unit {
        Unit::Millis => (1, 1000),
        Unit::Micros => (1, 1),
        Unit::Nanos => (1000, 1),
    };
    match (logical, from) {
        (Logical::Date, DataType::Date32) => Some(Write::Int),
        (Logical::Time(unit), DataType::Time64(TimeUnit::Microsecond)) => {
            let (by, per) = micros(unit);
            Some(Write::Time(by, per))
        }
        (Logical::Timestamp(unit) | Logical::LocalTimestamp(unit), DataType::Timestamp(..)) => {
            let (by, per) = micros(unit);
            Some(Write::Timestamp(by, per))
        }
        (Logical::None, DataType::UInt64) => None,
        (Logical::None, of_column) if of_column.is_integer() => match kind {
            Kind::Int => Some(Write::Int),
            _ => Some(Write::Long),
        },
        _ => None,
    }
}

fn bytes(logical: Logical, size: Option<usize>, from: &DataType) -> Option<Write> {
    match (logical, from) {
        // Digits are neither lost nor made up.
        (Logical::Decimal { scale, .. }, DataType::Decimal128(_, of_column)) => {
            (i64::from(scale) == i64::from(*of_column)).then_some(Write::Decimal(size))
        }
        (Logical::Decimal { scale: 0, .. }, DataType::UInt64) => Some(Write::Unsigned(size)),
        (Logical::None, DataType::Binary) => Some(size.map_or(Write::Bytes, Write::Fixed)),
        (Logical::None | Logical::Uuid, DataType::FixedSizeBinary(16)) if size == Some(16) => Some(Write::Fixed(16)),
        _ => None,
    }
}

/// What a field without a column is written as.
fn constant(schema: &AvroSchema, field: &RecordField) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    match (&field.default, schema.optional(field.node)) {
        (Some(default), _) => encode_default(schema, field.node, default, &mut out).ok_or_else(|| {
            format!(
                "field \"{}\" of the schema has no column, and its default cannot be written",
                field.name
            )
        })?,
        (None, Ok((_, Optional::NullIs(branch)))) => long(branch, &mut out),
        (None, _) if schema.node(field.node).kind == Kind::Null => {}
        (None, _) => {
            return Err(format!(
                "field \"{}\" of the schema has no column and no default",
                field.name
            ));
        }
    }
    Ok(out)
}

/// A default as the schema writes it in JSON; `None`: it is none of the simple ones.
fn encode_default(schema: &AvroSchema, node: NodeId, default: &Value, out: &mut Vec<u8>) -> Option<()> {
    match (&schema.node(node).kind, default) {
        (Kind::Union(branches), _) => {
            for (number, branch) in branches.iter().enumerate() {
                let mut value = Vec::new();
                if encode_default(schema, *branch, default, &mut value).is_some() {
                    long(number as i64, out);
                    out.extend(value);
                    return Some(());
                }
            }
            return None;
        }
        (Kind::Null, Value::Null) => {}
        (Kind::Boolean, Value::Bool(value)) => out.push((*value).into()),
        (Kind::Int | Kind::Long, Value::Number(number)) => long(number.as_i64()?, out),
        (Kind::Float, Value::Number(number)) => out.extend_from_slice(&(number.as_f64()? as f32).to_le_bytes()),
        (Kind::Double, Value::Number(number)) => out.extend_from_slice(&number.as_f64()?.to_le_bytes()),
        (Kind::String, Value::String(text)) => sized(text.as_bytes(), out),
        // Each character is a byte.
        (Kind::Bytes, Value::String(text)) => {
            let bytes: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect();
            sized(&bytes?, out);
        }
        (Kind::Enum { symbols, .. }, Value::String(text)) => symbol(symbols, text, out).ok()?,
        (Kind::Array(_), Value::Array(items)) if items.is_empty() => long(0, out),
        (Kind::Map(_), Value::Object(items)) if items.is_empty() => long(0, out),
        _ => return None,
    }
    Some(())
}

/// Zigzag, seven bits a byte, the least significant first.
pub fn long(number: i64, out: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// With its length before it.
pub fn sized(bytes: &[u8], out: &mut Vec<u8>) {
    long(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// The items of an array or a map, and the empty block that ends it.
fn block(
    start: i32,
    end: i32,
    out: &mut Vec<u8>,
    mut each: impl FnMut(usize, &mut Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    if end > start {
        long((end - start).into(), out);
        for item in start..end {
            each(item as usize, out)?;
        }
    }
    long(0, out);
    Ok(())
}

fn data(code: SqlState, message: &str) -> Error {
    Error::Data {
        code,
        message: message.to_owned(),
        detail: None,
    }
}

fn whole(column: &ArrayRef, row: usize) -> Result<i64, Error> {
    macro_rules! of {
        ($($data_type:pat => $arrow:ident),*) => {
            match column.data_type() {
                DataType::Int64 => column.as_primitive::<Int64Type>().value(row),
                DataType::Date32 => column.as_primitive::<Date32Type>().value(row).into(),
                $($data_type => column.as_primitive::<arrow::datatypes::$arrow>().value(row).into(),)*
                other => return Err(Error::Internal(format!("{other} is no whole number"))),
            }
        };
    }
    Ok(of!(
        DataType::Int8 => Int8Type, DataType::Int16 => Int16Type, DataType::Int32 => Int32Type,
        DataType::UInt8 => UInt8Type, DataType::UInt16 => UInt16Type, DataType::UInt32 => UInt32Type
    ))
}

fn double(column: &ArrayRef, row: usize) -> Result<f64, Error> {
    Ok(match column.data_type() {
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row),
        DataType::Float32 => column.as_primitive::<Float32Type>().value(row).into(),
        _ => whole(column, row)? as f64,
    })
}

fn symbol(symbols: &[String], text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
    match symbols.iter().position(|symbol| symbol == text) {
        Some(number) => long(number as i64, out),
        None => {
            let message = format!("invalid input value for enum: \"{text}\"");
            return Err(data(SqlState::INVALID_TEXT_REPRESENTATION, &message));
        }
    }
    Ok(())
}

fn fixed(size: usize, column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let bytes = match column.data_type() {
        DataType::FixedSizeBinary(_) => column.as_fixed_size_binary().value(row),
        _ => column.as_binary::<i32>().value(row),
    };
    if bytes.len() != size {
        let message = format!("{} bytes do not fit Avro type fixed({size})", bytes.len());
        return Err(data(SqlState::STRING_DATA_RIGHT_TRUNCATION, &message));
    }
    out.extend_from_slice(bytes);
    Ok(())
}

/// No longer than it must be.
fn decimal(number: i128, size: Option<usize>, out: &mut Vec<u8>) -> Result<(), Error> {
    let bytes = number.to_be_bytes();
    let digits = shortest(&bytes);
    match size {
        None => sized(digits, out),
        Some(size) if size < digits.len() => {
            let message = format!("a decimal does not fit Avro type fixed({size})");
            return Err(data(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, &message));
        }
        Some(size) => {
            let filler = if number < 0 { 0xff } else { 0 };
            out.extend(std::iter::repeat_n(filler, size - digits.len()));
            out.extend_from_slice(digits);
        }
    }
    Ok(())
}

fn scaled(micros: i64, by: i64, per: i64) -> Result<i64, Error> {
    let out_of_range = || {
        data(
            SqlState::DATETIME_FIELD_OVERFLOW,
            "a time is out of range for its Avro type",
        )
    };
    micros
        .checked_mul(by)
        .map(|number| number.div_euclid(per))
        .ok_or_else(out_of_range)
}

fn timestamp_micros(column: &ArrayRef, row: usize) -> Result<i64, Error> {
    use arrow::datatypes::{TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType};
    let (number, by, per) = match column.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => {
            (column.as_primitive::<TimestampSecondType>().value(row), 1_000_000, 1)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            (column.as_primitive::<TimestampMillisecondType>().value(row), 1000, 1)
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            (column.as_primitive::<TimestampNanosecondType>().value(row), 1, 1000)
        }
        _ => (column.as_primitive::<TimestampMicrosecondType>().value(row), 1, 1),
    };
    scaled(number, by, per)
}

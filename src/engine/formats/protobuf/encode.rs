//! Columns to messages.
//!
//! A NULL is an absent field: where the schema gives fields no presence (plain fields of proto3) it is read as the default, and
//! a default is not written, as the format wants it. Lists and maps that are NULL are empty; elements have no way to be NULL, which
//! is an error, as is a value that its field cannot hold and a name that is none of an enum's.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array,
    Int64Array, IntervalMonthDayNanoArray, StringArray, Time64MicrosecondArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::CastOptions;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int64Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, IntervalUnit, SchemaRef, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    UInt64Type,
};
use arrow::util::display::array_value_to_string;
use prost_reflect::{FieldDescriptor, MessageDescriptor};

use crate::engine::error::Error;
use crate::engine::formats::added_rows::for_each_added;
use crate::engine::formats::columns::is_json;
use crate::engine::formats::protobuf::decode::Framing;
use crate::engine::formats::protobuf::known_messages::{put_date, put_decimal, put_time_of_day};
use crate::engine::formats::protobuf::types::{self, Purpose, Scalar, Shape, Value};
use crate::engine::formats::protobuf::values::{EnumNames, message_of_json};
use crate::engine::formats::protobuf::wire::{WireType, put_delimited, put_numbers, put_tag, put_varint, zagzig};
use crate::engine::formats::registered::{SinkSchema, Writer};
use crate::engine::formats::{Encoder, Written};
use crate::engine::message::Chunk;
use crate::error::SqlState;

pub struct ProtobufEncoder {
    message: MessageDescriptor,
    framing: Framing,
}

impl ProtobufEncoder {
    pub fn new(message: &MessageDescriptor, schema: &SchemaRef, framing: Framing) -> Result<ProtobufEncoder, Error> {
        types::check(message, schema, Purpose::Write)?;
        Ok(ProtobufEncoder {
            message: message.clone(),
            framing,
        })
    }
}

impl Encoder for ProtobufEncoder {
    /// Records that are handed on one by one end with a line feed, which is no part of them.
    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        encode_rows(&self.message, self.framing, chunk, out, written)
    }
}

/// By a schema that a registry is asked for. The id and what follows it are for whoever sends the messages to put in front of them.
pub struct RegisteredEncoder {
    schema: Arc<SinkSchema>,
}

impl RegisteredEncoder {
    pub fn new(schema: Arc<SinkSchema>) -> RegisteredEncoder {
        RegisteredEncoder { schema }
    }
}

impl Encoder for RegisteredEncoder {
    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        match &self.schema.answer()?.writer {
            Writer::Protobuf(message) => encode_rows(message, Framing::Message, chunk, out, written),
            _ => Err(Error::Internal("a schema that is none of Protobuf's".into())),
        }
    }
}

fn encode_rows(
    message: &MessageDescriptor,
    framing: Framing,
    chunk: &Chunk,
    out: &mut Vec<u8>,
    written: &mut Written<'_>,
) -> Result<(), Error> {
    let schema = chunk.rows.schema_ref();
    let fields = fields(message, schema.fields(), chunk.rows.columns(), "")?;
    for_each_added(chunk, |row| {
        match framing {
            Framing::Delimited => put_delimited(out, |out| put_fields(&fields, row, out))?,
            Framing::Message => {
                put_fields(&fields, row, out)?;
                out.push(b'\n');
            }
        }
        written(row, out);
        Ok(())
    })
}

/// A column of a chunk on its way into a field.
struct FieldWriter {
    number: u32,
    /// For messages about it.
    name: String,
    is_group: bool,
    /// A value that is the default is not written.
    hides_default: bool,
    nulls: Option<NullBuffer>,
    shape: Cells,
}

enum Cells {
    One(ValueWriter),
    Repeated {
        offsets: OffsetBuffer<i32>,
        elements: Elements,
        packed: bool,
    },
    Map {
        offsets: OffsetBuffer<i32>,
        keys: ValueWriter,
        values: Elements,
    },
}

/// Values that must not be NULL.
struct Elements {
    nulls: Option<NullBuffer>,
    values: ValueWriter,
}

/// The values of a column, in the one type that its kind of value is written from.
enum ValueWriter {
    Boolean(BooleanArray),
    Signed(Int64Array, Scalar),
    Unsigned(UInt64Array, Scalar),
    Real(Float32Array),
    Double(Float64Array),
    Text(StringArray),
    Bytes(BinaryArray),
    EnumName(StringArray, Arc<EnumNames>),
    Timestamp(TimestampMicrosecondArray),
    Duration(IntervalMonthDayNanoArray),
    Date(Date32Array),
    TimeOfDay(Time64MicrosecondArray),
    Decimal(Decimal128Array),
    Wrapper(Box<ValueWriter>),
    Json(StringArray, MessageDescriptor),
    Message(Vec<FieldWriter>),
}

fn fields(
    message: &MessageDescriptor,
    columns: &[FieldRef],
    arrays: &[ArrayRef],
    path: &str,
) -> Result<Vec<FieldWriter>, Error> {
    let mut writers = Vec::with_capacity(columns.len());
    for (column, array) in columns.iter().zip(arrays) {
        let name = format!("{path}{}", column.name());
        let Some(field) = types::field_named(message, column.name()) else {
            return Err(Error::Internal(format!("no field \"{name}\"")));
        };
        writers.push(FieldWriter {
            number: field.number(),
            is_group: field.is_group(),
            hides_default: !field.supports_presence(),
            nulls: array.nulls().cloned(),
            shape: cells(&field, column, array, &name)?,
            name,
        });
    }
    // As everybody writes them.
    writers.sort_by_key(|writer| writer.number);
    Ok(writers)
}

fn cells(field: &FieldDescriptor, column: &Field, array: &ArrayRef, name: &str) -> Result<Cells, Error> {
    Ok(match types::shape(field) {
        Shape::One(value) => Cells::One(value_writer(value, column, array, name)?),
        Shape::Repeated(value) => {
            let Some(list) = array.as_list_opt::<i32>() else {
                return Err(Error::Internal(format!("column \"{name}\" is no list")));
            };
            let DataType::List(element) = list.data_type() else {
                return Err(Error::Internal(format!("column \"{name}\" is no list")));
            };
            Cells::Repeated {
                offsets: list.offsets().clone(),
                elements: elements(value, element, list.values(), name)?,
                packed: field.is_packed(),
            }
        }
        Shape::Map(key, value) => {
            let Some(map) = array.as_map_opt() else {
                return Err(Error::Internal(format!("column \"{name}\" is no map")));
            };
            let DataType::Struct(entries) = map.entries().data_type() else {
                return Err(Error::Internal(format!("column \"{name}\" is no map")));
            };
            Cells::Map {
                offsets: map.offsets().clone(),
                keys: value_writer(Value::Scalar(key), &entries[0], map.keys(), name)?,
                values: elements(value, &entries[1], map.values(), name)?,
            }
        }
    })
}

fn elements(value: Value, column: &Field, array: &ArrayRef, name: &str) -> Result<Elements, Error> {
    Ok(Elements {
        nulls: array.nulls().cloned(),
        values: value_writer(value, column, array, name)?,
    })
}

fn cast(array: &ArrayRef, to: &DataType, name: &str) -> Result<ArrayRef, Error> {
    if array.data_type() == to {
        return Ok(Arc::clone(array));
    }
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    arrow::compute::cast_with_options(array, to, &options).map_err(|error| Error::Data {
        code: SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        message: format!("a value of column \"{name}\" does not fit its Protobuf field"),
        detail: Some(error.to_string()),
    })
}

fn value_writer(value: Value, column: &Field, array: &ArrayRef, name: &str) -> Result<ValueWriter, Error> {
    let text = || Ok::<_, Error>(cast(array, &DataType::Utf8, name)?.as_string::<i32>().clone());
    Ok(match value {
        Value::Scalar(scalar) => scalar_writer(scalar, array, name)?,
        Value::Wrapper(scalar) => ValueWriter::Wrapper(Box::new(scalar_writer(scalar, array, name)?)),
        Value::Enum(of) if column.data_type() == &DataType::Utf8 => {
            ValueWriter::EnumName(text()?, Arc::new(EnumNames::new(&of)))
        }
        Value::Enum(_) => scalar_writer(Scalar::Int32, array, name)?,
        Value::Timestamp => {
            let zone = match array.data_type() {
                DataType::Timestamp(_, zone) => zone.clone(),
                _ => None,
            };
            let micros = cast(array, &DataType::Timestamp(TimeUnit::Microsecond, zone), name)?;
            ValueWriter::Timestamp(micros.as_primitive::<TimestampMicrosecondType>().clone())
        }
        Value::Duration => {
            let intervals = cast(array, &DataType::Interval(IntervalUnit::MonthDayNano), name)?;
            ValueWriter::Duration(intervals.as_primitive::<IntervalMonthDayNanoType>().clone())
        }
        Value::Known(known, _) if known.fits(array.data_type()) => match array.data_type() {
            DataType::Date32 => ValueWriter::Date(array.as_primitive::<Date32Type>().clone()),
            DataType::Decimal128(..) => ValueWriter::Decimal(array.as_primitive::<Decimal128Type>().clone()),
            _ => ValueWriter::TimeOfDay(array.as_primitive::<Time64MicrosecondType>().clone()),
        },
        Value::Message(message) | Value::Known(_, message) if is_json(column) => ValueWriter::Json(text()?, message),
        Value::Message(message) | Value::Known(_, message) => {
            let Some(parts) = array.as_struct_opt() else {
                return Err(Error::Internal(format!("column \"{name}\" is no struct")));
            };
            let path = format!("{name}.");
            ValueWriter::Message(fields(&message, parts.fields(), parts.columns(), &path)?)
        }
    })
}

fn scalar_writer(scalar: Scalar, array: &ArrayRef, name: &str) -> Result<ValueWriter, Error> {
    Ok(match scalar {
        Scalar::Bool => ValueWriter::Boolean(cast(array, &DataType::Boolean, name)?.as_boolean().clone()),
        Scalar::Float => {
            let values = cast(array, &DataType::Float32, name)?;
            ValueWriter::Real(values.as_primitive::<Float32Type>().clone())
        }
        Scalar::Double => {
            let values = cast(array, &DataType::Float64, name)?;
            ValueWriter::Double(values.as_primitive::<Float64Type>().clone())
        }
        Scalar::String => ValueWriter::Text(cast(array, &DataType::Utf8, name)?.as_string::<i32>().clone()),
        Scalar::Bytes => ValueWriter::Bytes(cast(array, &DataType::Binary, name)?.as_binary::<i32>().clone()),
        Scalar::Uint32 | Scalar::Fixed32 | Scalar::Uint64 | Scalar::Fixed64 => {
            let values = cast(array, &DataType::UInt64, name)?;
            ValueWriter::Unsigned(values.as_primitive::<UInt64Type>().clone(), scalar)
        }
        _ => {
            let values = cast(array, &DataType::Int64, name)?;
            ValueWriter::Signed(values.as_primitive::<Int64Type>().clone(), scalar)
        }
    })
}

fn put_fields(fields: &[FieldWriter], row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    fields.iter().try_for_each(|field| field.put(row, out))
}

impl FieldWriter {
    #[inline]
    fn put(&self, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return Ok(());
        }
        match &self.shape {
            Cells::One(values) => match self.hides_default && values.is_default(row) {
                true => Ok(()),
                false => self.put_value(values, row, out),
            },
            Cells::Repeated {
                offsets,
                elements,
                packed,
            } => {
                let rows = range(offsets, row);
                if rows.is_empty() {
                    return Ok(());
                }
                self.refuse_nulls(elements, rows.clone())?;
                if *packed {
                    put_tag(self.number, WireType::Length, out);
                    return put_delimited(out, |out| {
                        rows.clone()
                            .try_for_each(|row| self.put_untagged(&elements.values, row, out))
                    });
                }
                rows.clone()
                    .try_for_each(|row| self.put_value(&elements.values, row, out))
            }
            Cells::Map { offsets, keys, values } => {
                let rows = range(offsets, row);
                self.refuse_nulls(values, rows.clone())?;
                for row in rows {
                    put_tag(self.number, WireType::Length, out);
                    put_delimited(out, |out| {
                        put_tag(1, keys.layout(), out);
                        self.put_untagged(keys, row, out)?;
                        put_tag(2, values.values.layout(), out);
                        self.put_untagged(&values.values, row, out)
                    })?;
                }
                Ok(())
            }
        }
    }

    fn refuse_nulls(&self, elements: &Elements, mut rows: std::ops::Range<usize>) -> Result<(), Error> {
        match &elements.nulls {
            Some(nulls) if rows.any(|row| nulls.is_null(row)) => Err(Error::Data {
                code: SqlState::NULL_VALUE_NOT_ALLOWED,
                message: format!("an element of column \"{}\" is NULL", self.name),
                detail: Some("Repeated fields and maps of Protobuf cannot hold NULL.".into()),
            }),
            _ => Ok(()),
        }
    }

    fn put_value(&self, values: &ValueWriter, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.is_group
            && let ValueWriter::Message(fields) = values
        {
            put_tag(self.number, WireType::Group, out);
            put_fields(fields, row, out)?;
            put_tag(self.number, WireType::GroupEnd, out);
            return Ok(());
        }
        put_tag(self.number, values.layout(), out);
        self.put_untagged(values, row, out)
    }

    /// A value without the field's number before it.
    fn put_untagged(&self, values: &ValueWriter, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        match values {
            ValueWriter::Boolean(values) => out.push(values.value(row).into()),
            ValueWriter::Signed(values, scalar) => return self.put_signed(*scalar, values.value(row), out),
            ValueWriter::Unsigned(values, scalar) => return self.put_unsigned(*scalar, values.value(row), out),
            ValueWriter::Real(values) => out.extend_from_slice(&values.value(row).to_le_bytes()),
            ValueWriter::Double(values) => out.extend_from_slice(&values.value(row).to_le_bytes()),
            ValueWriter::Text(values) => put_bytes(values.value(row).as_bytes(), out),
            ValueWriter::Bytes(values) => put_bytes(values.value(row), out),
            ValueWriter::EnumName(values, names) => {
                let name = values.value(row);
                let Some(number) = names.number(name) else {
                    return Err(self.no_value(name, "It is no value of the enum."));
                };
                put_varint(i64::from(number) as u64, out);
            }
            ValueWriter::Timestamp(values) => {
                let micros = values.value(row);
                let nanos = micros.rem_euclid(1_000_000) * 1000;
                put_numbers([micros.div_euclid(1_000_000), nanos], out);
            }
            ValueWriter::Duration(values) => {
                let IntervalMonthDayNano {
                    months,
                    days,
                    nanoseconds,
                } = values.value(row);
                if months != 0 {
                    return Err(self.no_value(&format!("{months} months"), "A Duration of Protobuf has no months."));
                }
                let total = i128::from(days) * 86_400_000_000_000 + i128::from(nanoseconds);
                // Both parts have the same sign.
                let (seconds, nanos) = (total / 1_000_000_000, total % 1_000_000_000);
                put_numbers([seconds as i64, nanos as i64], out);
            }
            ValueWriter::Date(values) => {
                if put_date(values.value(row), out).is_none() {
                    return Err(self.out_of_range(shown(values, row)));
                }
            }
            ValueWriter::TimeOfDay(values) => put_time_of_day(values.value(row), out),
            ValueWriter::Decimal(values) => put_decimal(values.value(row), values.scale(), out),
            ValueWriter::Wrapper(inner) => {
                return put_delimited(out, |out| match inner.is_default(row) {
                    true => Ok(()),
                    false => {
                        put_tag(1, inner.layout(), out);
                        self.put_untagged(inner, row, out)
                    }
                });
            }
            ValueWriter::Json(values, message) => {
                let text = values.value(row);
                let bytes = message_of_json(message, text).map_err(|reason| {
                    self.no_value(
                        text,
                        &format!("It is no message \"{}\": {reason}.", message.full_name()),
                    )
                })?;
                put_bytes(&bytes, out);
            }
            ValueWriter::Message(fields) => return put_delimited(out, |out| put_fields(fields, row, out)),
        }
        Ok(())
    }

    fn put_signed(&self, scalar: Scalar, value: i64, out: &mut Vec<u8>) -> Result<(), Error> {
        let narrow = || i32::try_from(value).map_err(|_| self.out_of_range(value));
        match scalar {
            Scalar::Int32 => put_varint(i64::from(narrow()?) as u64, out),
            Scalar::Sint32 => put_varint(zagzig(narrow()?.into()), out),
            Scalar::Sfixed32 => out.extend_from_slice(&narrow()?.to_le_bytes()),
            Scalar::Sint64 => put_varint(zagzig(value), out),
            Scalar::Sfixed64 => out.extend_from_slice(&value.to_le_bytes()),
            _ => put_varint(value as u64, out),
        }
        Ok(())
    }

    fn put_unsigned(&self, scalar: Scalar, value: u64, out: &mut Vec<u8>) -> Result<(), Error> {
        let narrow = || u32::try_from(value).map_err(|_| self.out_of_range(value));
        match scalar {
            Scalar::Uint32 => put_varint(narrow()?.into(), out),
            Scalar::Fixed32 => out.extend_from_slice(&narrow()?.to_le_bytes()),
            Scalar::Fixed64 => out.extend_from_slice(&value.to_le_bytes()),
            _ => put_varint(value, out),
        }
        Ok(())
    }

    #[cold]
    fn out_of_range(&self, value: impl std::fmt::Display) -> Error {
        Error::Data {
            code: SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            message: format!(
                "value {value} of column \"{}\" is out of range for its Protobuf field",
                self.name
            ),
            detail: None,
        }
    }

    #[cold]
    fn no_value(&self, text: &str, detail: &str) -> Error {
        Error::Data {
            code: SqlState::INVALID_TEXT_REPRESENTATION,
            message: format!(
                "value \"{text}\" of column \"{}\" does not fit its Protobuf field",
                self.name
            ),
            detail: Some(detail.to_owned()),
        }
    }
}

fn range(offsets: &OffsetBuffer<i32>, row: usize) -> std::ops::Range<usize> {
    offsets[row] as usize..offsets[row + 1] as usize
}

#[cold]
fn shown(values: &dyn Array, row: usize) -> String {
    array_value_to_string(values, row).unwrap_or_default()
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

impl ValueWriter {
    fn layout(&self) -> WireType {
        match self {
            ValueWriter::Signed(_, scalar) | ValueWriter::Unsigned(_, scalar) => scalar.layout(),
            ValueWriter::Boolean(_) | ValueWriter::EnumName(..) => WireType::Varint,
            ValueWriter::Real(_) => WireType::Fixed32,
            ValueWriter::Double(_) => WireType::Fixed64,
            _ => WireType::Length,
        }
    }

    fn is_default(&self, row: usize) -> bool {
        match self {
            ValueWriter::Boolean(values) => !values.value(row),
            ValueWriter::Signed(values, _) => values.value(row) == 0,
            ValueWriter::Unsigned(values, _) => values.value(row) == 0,
            // Minus zero is another value.
            ValueWriter::Real(values) => values.value(row).to_bits() == 0,
            ValueWriter::Double(values) => values.value(row).to_bits() == 0,
            ValueWriter::Text(values) => values.value(row).is_empty(),
            ValueWriter::Bytes(values) => values.value(row).is_empty(),
            ValueWriter::EnumName(values, names) => names.number(values.value(row)) == Some(0),
            _ => false,
        }
    }
}

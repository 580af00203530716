//! Single values: from the wire into a column, and a field's default.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, EnumDescriptor, MessageDescriptor, SerializeOptions};

use crate::engine::formats::columns::{ColumnBuilder, Values, value_message};
use crate::engine::formats::decimal_bytes::rescaled;
use crate::engine::formats::protobuf::types::Scalar;
use crate::engine::formats::protobuf::wire::{Reader, WireResult, WireType, zigzag};
use crate::engine::formats::text_values::{ValueFault, ValueResult};

pub const NANOS_A_SECOND: i64 = 1_000_000_000;

/// The names of an enum's values by number.
#[derive(Debug)]
pub struct EnumNames {
    names: HashMap<i32, String>,
    numbers: HashMap<String, i32>,
}

impl EnumNames {
    pub fn new(of: &EnumDescriptor) -> EnumNames {
        let mut names = HashMap::new();
        let mut numbers = HashMap::new();
        for value in of.values() {
            // Of several names of a number the first is the one that is written.
            names.entry(value.number()).or_insert_with(|| value.name().to_owned());
            numbers.insert(value.name().to_owned(), value.number());
        }
        EnumNames { names, numbers }
    }

    /// The value of this name; a number stands for itself.
    pub fn number(&self, name: &str) -> Option<i32> {
        self.numbers.get(name).copied().or_else(|| name.parse().ok())
    }
}

/// A value off the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Raw<'a> {
    Boolean(bool),
    Signed(i64),
    Unsigned(u64),
    Real(f32),
    Double(f64),
    Bytes(&'a [u8]),
}

impl Scalar {
    /// What an absent value stands for.
    pub fn default_value(self) -> Raw<'static> {
        match self {
            Scalar::Bool => Raw::Boolean(false),
            Scalar::Uint32 | Scalar::Fixed32 | Scalar::Uint64 | Scalar::Fixed64 => Raw::Unsigned(0),
            Scalar::Float => Raw::Real(0.0),
            Scalar::Double => Raw::Double(0.0),
            Scalar::String | Scalar::Bytes => Raw::Bytes(&[]),
            _ => Raw::Signed(0),
        }
    }

    /// A value of this layout.
    #[inline(always)]
    pub fn read<'a>(self, reader: &mut Reader<'a>) -> WireResult<Raw<'a>> {
        Ok(match self {
            Scalar::Bool => Raw::Boolean(reader.varint()? != 0),
            // Numbers of 32 bits are cut to them, as everywhere.
            Scalar::Int32 => Raw::Signed(i64::from(reader.varint()? as u32 as i32)),
            Scalar::Int64 => Raw::Signed(reader.varint()? as i64),
            Scalar::Uint32 => Raw::Unsigned(u64::from(reader.varint()? as u32)),
            Scalar::Uint64 => Raw::Unsigned(reader.varint()?),
            Scalar::Sint32 => Raw::Signed(zigzag(u64::from(reader.varint()? as u32))),
            Scalar::Sint64 => Raw::Signed(zigzag(reader.varint()?)),
            Scalar::Fixed32 => Raw::Unsigned(u64::from(u32::from_le_bytes(reader.fixed()?))),
            Scalar::Fixed64 => Raw::Unsigned(u64::from_le_bytes(reader.fixed()?)),
            Scalar::Sfixed32 => Raw::Signed(i64::from(i32::from_le_bytes(reader.fixed()?))),
            Scalar::Sfixed64 => Raw::Signed(i64::from_le_bytes(reader.fixed()?)),
            Scalar::Float => Raw::Real(f32::from_le_bytes(reader.fixed()?)),
            Scalar::Double => Raw::Double(f64::from_le_bytes(reader.fixed()?)),
            Scalar::String | Scalar::Bytes => {
                let part = reader.part(0, WireType::Length)?;
                Raw::Bytes(&reader.bytes[part])
            }
        })
    }
}

/// Appends `raw` to the column; names are those of an enum whose column is text.
#[inline(always)]
pub fn push(column: &mut ColumnBuilder, raw: Raw<'_>, names: Option<&EnumNames>) -> Result<(), String> {
    match push_value(&mut column.values, raw, names) {
        Ok(()) => {
            column.wrote();
            Ok(())
        }
        Err(fault) => Err(described(column, fault, raw)),
    }
}

#[inline(always)]
fn push_value(values: &mut Values, raw: Raw<'_>, names: Option<&EnumNames>) -> ValueResult<()> {
    match (values, raw) {
        (Values::Integer { values, low, high }, Raw::Signed(value)) => {
            if value < *low || value > *high {
                return Err(ValueFault::OutOfRange);
            }
            values.push(value);
        }
        (Values::Integer { values, high, .. }, Raw::Unsigned(value)) => match i64::try_from(value) {
            Ok(value) if value <= *high => values.push(value),
            _ => return Err(ValueFault::OutOfRange),
        },
        (Values::Text(pieces), Raw::Bytes(text)) => match std::str::from_utf8(text) {
            Ok(_) => pieces.push(text),
            Err(_) => return Err(ValueFault::Syntax),
        },
        (Values::Text(pieces), Raw::Signed(number)) => {
            let name = names.and_then(|names| names.names.get(&(number as i32)));
            match name {
                Some(name) => pieces.push(name.as_bytes()),
                None => pieces.push(itoa::Buffer::new().format(number).as_bytes()),
            }
        }
        (Values::Binary(pieces), Raw::Bytes(bytes)) => pieces.push(bytes),
        (Values::Double(values), Raw::Double(value)) => values.push(value),
        (Values::Double(values), Raw::Real(value)) => values.push(value.into()),
        (Values::Real(values), Raw::Real(value)) => values.push(value),
        (Values::Boolean(values), Raw::Boolean(value)) => values.push(value),
        (Values::Unsigned(values), Raw::Unsigned(value)) => values.push(value),
        (Values::Unsigned(values), Raw::Signed(value)) => {
            values.push(u64::try_from(value).map_err(|_| ValueFault::OutOfRange)?);
        }
        (
            Values::Decimal {
                values,
                precision,
                scale,
            },
            Raw::Signed(_) | Raw::Unsigned(_),
        ) => {
            let whole = match raw {
                Raw::Unsigned(value) => i128::from(value),
                Raw::Signed(value) => i128::from(value),
                _ => 0,
            };
            values.push(rescaled(whole, 0, *precision, *scale).ok_or(ValueFault::OutOfRange)?);
        }
        (values @ Values::Json(_), Raw::Bytes(text)) => values.push_text(text)?,
        // Columns were compared with fields before.
        _ => return Err(ValueFault::Syntax),
    }
    Ok(())
}

#[cold]
fn described(column: &ColumnBuilder, fault: ValueFault, raw: Raw<'_>) -> String {
    match raw {
        Raw::Bytes(bytes) if std::str::from_utf8(bytes).is_err() => {
            "invalid byte sequence for encoding \"UTF8\"".to_owned()
        }
        Raw::Bytes(bytes) => value_message(&column.field, fault, bytes),
        Raw::Signed(value) => value_message(&column.field, fault, value.to_string().as_bytes()),
        Raw::Unsigned(value) => value_message(&column.field, fault, value.to_string().as_bytes()),
        other => value_message(&column.field, fault, format!("{other:?}").as_bytes()),
    }
}

/// Fields 1 to `N` of a message of whole numbers.
pub fn numbers<const N: usize>(mut reader: Reader<'_>) -> WireResult<[u64; N]> {
    let mut numbers = [0; N];
    while !reader.is_empty() {
        let (field, layout) = reader.tag()?;
        match numbers.get_mut((field as usize).wrapping_sub(1)) {
            Some(number) if layout == WireType::Varint => *number = reader.varint()?,
            _ => reader.skip(field, layout)?,
        }
    }
    Ok(numbers)
}

/// The seconds and nanoseconds of a `Timestamp` or `Duration`.
pub fn seconds_and_nanos(reader: Reader<'_>) -> WireResult<(i64, i32)> {
    let [seconds, nanos] = numbers(reader)?;
    Ok((seconds as i64, nanos as i32))
}

/// Microseconds since 1970; what is finer is cut off.
pub fn timestamp_micros(seconds: i64, nanos: i32) -> Option<i64> {
    let nanos = i64::from(nanos);
    if !(0..NANOS_A_SECOND).contains(&nanos) {
        return None;
    }
    seconds.checked_mul(1_000_000)?.checked_add(nanos / 1000)
}

pub fn duration_nanos(seconds: i64, nanos: i32) -> Option<i64> {
    seconds.checked_mul(NANOS_A_SECOND)?.checked_add(nanos.into())
}

/// The JSON of a message, as Protobuf defines it, with fields named as in the schema, in the order of their names, and those left
/// out that have no value.
pub fn json_of(message: &MessageDescriptor, bytes: &[u8]) -> Result<String, String> {
    let message = DynamicMessage::decode(message.clone(), bytes).map_err(|error| error.to_string())?;
    let options = SerializeOptions::new()
        .stringify_64_bit_integers(false)
        .use_proto_field_name(true);
    let json = message.serialize_with_options(serde_json::value::Serializer, &options);
    let mut json = json.map_err(|error| error.to_string())?;
    // Entries of maps come in another order each time.
    json.sort_all_objects();
    Ok(json.to_string())
}

/// The bytes of a message that is given in JSON.
pub fn message_of_json(message: &MessageDescriptor, text: &str) -> Result<Vec<u8>, String> {
    use prost::Message;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let message = DynamicMessage::deserialize(message.clone(), &mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    Ok(message.encode_to_vec())
}

//! Which types of columns fields of messages are, and which others they may be declared as.
//!
//! | field | column | also |
//! | --- | --- | --- |
//! | `bool` | BOOLEAN | |
//! | `int32` `sint32` `sfixed32` | INT | other integers, NUMERIC |
//! | `uint32` `fixed32` `int64` `sint64` `sfixed64` | BIGINT | other integers, NUMERIC |
//! | `uint64` `fixed64` | NUMERIC(20, 0) | integers: a value too large makes the record bad |
//! | `float`, `double` | REAL, DOUBLE PRECISION | `float` DOUBLE PRECISION |
//! | `string`, `bytes` | TEXT, BYTEA | `string` JSON |
//! | enum | TEXT: the name of the value, or its number when it has none | integers |
//! | message | STRUCT | JSON |
//! | message that holds itself or nothing, `Any`, `Struct`, `Value`, `ListValue` | JSON | |
//! | `Timestamp` | TIMESTAMPTZ | TIMESTAMP |
//! | `Duration` | INTERVAL | |
//! | `google.type.Date`, `TimeOfDay` | DATE, TIME | STRUCT, JSON |
//! | `confluent.type.Decimal` | NUMERIC | NUMERIC of other digits, STRUCT, JSON |
//! | `Int64Value` and the like | as the field in it, or NULL | |
//! | repeated, map | array, MAP | |

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, IntervalUnit, Schema, SchemaRef, TimeUnit};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

use crate::engine::connectors::METADATA_FIELD;
use crate::engine::error::Error;
use crate::engine::formats::columns::{EXTENSION_NAME, JSON_EXTENSION, is_json, type_word};
use crate::engine::formats::protobuf::known_messages::Known;
use crate::engine::formats::protobuf::wire::WireType;
use crate::error::{ErrorReport, SqlState};

/// A value without parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Float,
    Double,
    String,
    Bytes,
}

impl Scalar {
    pub fn layout(self) -> WireType {
        match self {
            Scalar::Fixed64 | Scalar::Sfixed64 | Scalar::Double => WireType::Fixed64,
            Scalar::Fixed32 | Scalar::Sfixed32 | Scalar::Float => WireType::Fixed32,
            Scalar::String | Scalar::Bytes => WireType::Length,
            _ => WireType::Varint,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Scalar::Bool => DataType::Boolean,
            Scalar::Int32 | Scalar::Sint32 | Scalar::Sfixed32 => DataType::Int32,
            Scalar::Uint32 | Scalar::Fixed32 | Scalar::Int64 | Scalar::Sint64 | Scalar::Sfixed64 => DataType::Int64,
            Scalar::Uint64 | Scalar::Fixed64 => DataType::Decimal128(20, 0),
            Scalar::Float => DataType::Float32,
            Scalar::Double => DataType::Float64,
            Scalar::String => DataType::Utf8,
            Scalar::Bytes => DataType::Binary,
        }
    }

    fn fits(self, column: &Field) -> bool {
        let of = column.data_type();
        match self {
            Scalar::Bool => of == &DataType::Boolean,
            Scalar::Float => matches!(of, DataType::Float32 | DataType::Float64),
            Scalar::Double => of == &DataType::Float64,
            Scalar::String => of == &DataType::Utf8,
            Scalar::Bytes => of == &DataType::Binary,
            _ => of.is_integer() || matches!(of, DataType::Decimal128(_, scale) if *scale >= 0),
        }
    }
}

/// What one value of a field is.
#[derive(Clone, Debug)]
pub enum Value {
    Scalar(Scalar),
    Enum(EnumDescriptor),
    Timestamp,
    Duration,
    /// A message that has nothing but a scalar, so that it can be NULL.
    Wrapper(Scalar),
    /// A message that is one value, unless the column holds the message.
    Known(Known, MessageDescriptor),
    Message(MessageDescriptor),
}

/// What a field is.
#[derive(Clone, Debug)]
pub enum Shape {
    One(Value),
    Repeated(Value),
    Map(Scalar, Value),
}

/// What `field` is.
pub fn shape(field: &FieldDescriptor) -> Shape {
    if let Kind::Message(entry) = field.kind()
        && field.is_map()
        && let Value::Scalar(key) = value(field, &entry.map_entry_key_field().kind())
    {
        return Shape::Map(key, value(field, &entry.map_entry_value_field().kind()));
    }
    match field.is_list() {
        true => Shape::Repeated(value(field, &field.kind())),
        false => Shape::One(value(field, &field.kind())),
    }
}

fn value(field: &FieldDescriptor, kind: &Kind) -> Value {
    Value::Scalar(match kind {
        Kind::Double => Scalar::Double,
        Kind::Float => Scalar::Float,
        Kind::Int32 => Scalar::Int32,
        Kind::Int64 => Scalar::Int64,
        Kind::Uint32 => Scalar::Uint32,
        Kind::Uint64 => Scalar::Uint64,
        Kind::Sint32 => Scalar::Sint32,
        Kind::Sint64 => Scalar::Sint64,
        Kind::Fixed32 => Scalar::Fixed32,
        Kind::Fixed64 => Scalar::Fixed64,
        Kind::Sfixed32 => Scalar::Sfixed32,
        Kind::Sfixed64 => Scalar::Sfixed64,
        Kind::Bool => Scalar::Bool,
        Kind::String => Scalar::String,
        Kind::Bytes => Scalar::Bytes,
        Kind::Enum(of) => return Value::Enum(of.clone()),
        Kind::Message(message) => return message_value(field, message),
    })
}

fn message_value(field: &FieldDescriptor, message: &MessageDescriptor) -> Value {
    if let Some(known) = Known::of(message, field) {
        return Value::Known(known, message.clone());
    }
    let wrapped = match message.full_name() {
        "google.protobuf.Timestamp" => return Value::Timestamp,
        "google.protobuf.Duration" => return Value::Duration,
        "google.protobuf.BoolValue" => Scalar::Bool,
        "google.protobuf.Int32Value" => Scalar::Int32,
        "google.protobuf.Int64Value" => Scalar::Int64,
        "google.protobuf.UInt32Value" => Scalar::Uint32,
        "google.protobuf.UInt64Value" => Scalar::Uint64,
        "google.protobuf.FloatValue" => Scalar::Float,
        "google.protobuf.DoubleValue" => Scalar::Double,
        "google.protobuf.StringValue" => Scalar::String,
        "google.protobuf.BytesValue" => Scalar::Bytes,
        _ => return Value::Message(message.clone()),
    };
    Value::Wrapper(wrapped)
}

/// Messages whose JSON is something else than their fields.
fn is_json_only(message: &MessageDescriptor) -> bool {
    let by_name = matches!(
        message.full_name(),
        "google.protobuf.Any" | "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue"
    );
    by_name || message.fields().len() == 0
}

/// The fields in the order of the schema's text.
pub fn fields(message: &MessageDescriptor) -> Vec<FieldDescriptor> {
    let declared = message.descriptor_proto().field.iter();
    let numbers = declared.filter_map(|field| u32::try_from(field.number()).ok());
    numbers.filter_map(|number| message.get_field(number)).collect()
}

/// The columns that messages have.
pub fn schema(message: &MessageDescriptor) -> SchemaRef {
    Arc::new(Schema::new(columns(message, &mut Vec::new())))
}

/// `above`: the messages that this one is in.
fn columns(message: &MessageDescriptor, above: &mut Vec<String>) -> Fields {
    above.push(message.full_name().to_owned());
    let columns = fields(message).iter().map(|field| column(field, above)).collect();
    above.pop();
    columns
}

fn column(field: &FieldDescriptor, above: &mut Vec<String>) -> Field {
    let name = field.name();
    let nullable = field.supports_presence() && !field.is_required();
    match shape(field) {
        Shape::One(value) => value_field(name, &value, nullable, above),
        Shape::Repeated(value) => {
            let element = value_field("item", &value, true, above);
            Field::new(name, DataType::List(Arc::new(element)), false)
        }
        Shape::Map(key, value) => {
            let entries = Fields::from(vec![
                Field::new("key", key.data_type(), false),
                value_field("value", &value, true, above),
            ]);
            let entries = Field::new("entries", DataType::Struct(entries), false);
            Field::new(name, DataType::Map(Arc::new(entries), false), false)
        }
    }
}

fn value_field(name: &str, value: &Value, nullable: bool, above: &mut Vec<String>) -> Field {
    let data_type = match value {
        Value::Scalar(scalar) | Value::Wrapper(scalar) => scalar.data_type(),
        Value::Enum(_) => DataType::Utf8,
        Value::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
        Value::Duration => DataType::Interval(IntervalUnit::MonthDayNano),
        Value::Known(known, _) => known.data_type(),
        Value::Message(message) if is_json_only(message) || above.iter().any(|name| name == message.full_name()) => {
            let json = [(EXTENSION_NAME.to_owned(), JSON_EXTENSION.to_owned())].into();
            return Field::new(name, DataType::Utf8, nullable).with_metadata(json);
        }
        Value::Message(message) => DataType::Struct(columns(message, above)),
    };
    Field::new(name, data_type, nullable)
}

/// The field that a column is: the one of its name, or the only one but for upper and lower case.
pub fn field_named(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    if let Some(field) = message.get_field_by_name(name) {
        return Some(field);
    }
    let mut others = message.fields().filter(|field| field.name().eq_ignore_ascii_case(name));
    match (others.next(), others.next()) {
        (Some(only), None) => Some(only),
        _ => None,
    }
}

/// What columns are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be read: all of them are fields.
    Read,
    /// To be written: what is left out must not be required either.
    Write,
    /// To be read as far as the message has them, which is a version of many.
    ReadVersion,
}

/// Whether these columns are fields, of types that fit.
pub fn check(message: &MessageDescriptor, columns: &Schema, purpose: Purpose) -> Result<(), Error> {
    let from_message = |column: &&FieldRef| !column.metadata().contains_key(METADATA_FIELD);
    let columns: Fields = columns.fields().iter().filter(from_message).cloned().collect();
    check_fields(message, &columns, "", purpose)
}

fn check_fields(message: &MessageDescriptor, columns: &Fields, path: &str, purpose: Purpose) -> Result<(), Error> {
    for column in columns {
        let path = format!("{path}{}", column.name());
        let Some(field) = field_named(message, column.name()) else {
            if purpose == Purpose::ReadVersion {
                continue;
            }
            let names: Vec<String> = fields(message).iter().map(|field| field.name().to_owned()).collect();
            return Err(mismatch(
                SqlState::UNDEFINED_COLUMN,
                format!("column \"{path}\" is no field of message \"{}\"", message.full_name()),
                format!("Its fields are: {}.", names.join(", ")),
            ));
        };
        let fits = match (shape(&field), column.data_type()) {
            (Shape::One(value), _) => check_value(&value, column, &path, purpose)?,
            (Shape::Repeated(value), DataType::List(element)) => check_value(&value, element, &path, purpose)?,
            (Shape::Map(key, value), DataType::Map(entries, _)) => match entries.data_type() {
                DataType::Struct(of) if of.len() == 2 => {
                    key.fits(&of[0]) && check_value(&value, &of[1], &path, purpose)?
                }
                _ => false,
            },
            _ => false,
        };
        if !fits {
            return Err(wrong_type(&path, column, &field));
        }
    }
    let missing = |field: &FieldDescriptor| {
        purpose == Purpose::Write
            && field.is_required()
            && !columns
                .iter()
                .any(|column| column.name().eq_ignore_ascii_case(field.name()))
    };
    match fields(message).into_iter().find(missing) {
        Some(field) => Err(mismatch(
            SqlState::UNDEFINED_COLUMN,
            format!(
                "message \"{}\" needs field \"{path}{}\"",
                message.full_name(),
                field.name()
            ),
            "Fields that are required need a column.".into(),
        )),
        None => Ok(()),
    }
}

fn check_value(value: &Value, column: &Field, path: &str, purpose: Purpose) -> Result<bool, Error> {
    let of = column.data_type();
    Ok(match value {
        Value::Scalar(scalar) | Value::Wrapper(scalar) => scalar.fits(column),
        Value::Enum(_) => of.is_integer() || of == &DataType::Utf8 && !is_json(column),
        Value::Timestamp => matches!(of, DataType::Timestamp(..)),
        Value::Duration => matches!(of, DataType::Interval(IntervalUnit::MonthDayNano)),
        Value::Known(known, _) if known.fits(of) => true,
        Value::Message(_) | Value::Known(..) if is_json(column) => true,
        Value::Message(message) | Value::Known(_, message) => match of {
            DataType::Struct(members) if !is_json_only(message) => {
                check_fields(message, members, &format!("{path}."), purpose)?;
                true
            }
            _ => false,
        },
    })
}

#[cold]
fn wrong_type(path: &str, column: &Field, field: &FieldDescriptor) -> Error {
    let message = field.parent_message();
    let wanted = self::column(field, &mut vec![message.full_name().to_owned()]);
    let word = |field: &Field| match is_json(field) {
        true => "json".to_owned(),
        false => match field.data_type() {
            DataType::List(element) => format!("{}[]", type_word(element.data_type())),
            other => type_word(other).to_owned(),
        },
    };
    let kind = match (field.kind(), field.is_list()) {
        (kind, true) if !field.is_map() => format!("repeated {kind:?}"),
        _ if field.is_map() => "map".to_owned(),
        (kind, _) => format!("{kind:?}"),
    };
    mismatch(
        SqlState::DATATYPE_MISMATCH,
        format!(
            "column \"{path}\" of type {} does not fit field \"{}\" of type {kind}",
            word(column),
            field.full_name()
        ),
        format!("Declare it as {}.", word(&wanted)),
    )
}

fn mismatch(code: SqlState, message: String, hint: String) -> Error {
    Error::Option(ErrorReport::new(code, message).with_hint(hint))
}

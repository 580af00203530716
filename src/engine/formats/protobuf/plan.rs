//! Where the fields of a message go: found out once, so that a record is one walk over its bytes.

use arrow::datatypes::{DataType, Field, Fields};
use prost_reflect::{FieldDescriptor, MessageDescriptor};

use crate::engine::error::Error;
use crate::engine::formats::columns::is_json;
use crate::engine::formats::protobuf::known_messages::Known;
use crate::engine::formats::protobuf::types::{self, Scalar, Shape};
use crate::engine::formats::protobuf::values::EnumNames;

/// Fields with numbers below this are found by an index.
const INDEXED_MAX: u32 = 1024;
const UNWANTED: u16 = u16::MAX;
/// Of what is no field: no message has it.
const NO_NUMBER: u32 = 0;

/// Of a message whose fields are columns of a struct.
#[derive(Debug)]
pub struct MessagePlan {
    /// The wanted fields, and those that push a wanted one out.
    pub fields: Vec<FieldPlan>,
    /// The field of each column.
    pub of_columns: Vec<usize>,
    by_number: Vec<u16>,
    /// Maps in it and below, by their numbers in [`super::decode`].
    pub maps: std::ops::Range<usize>,
    /// Columns in it and below.
    pub width: usize,
}

#[derive(Debug)]
pub struct FieldPlan {
    pub number: u32,
    pub target: Option<Target>,
    /// Columns of other members of the same oneof, and the maps below them.
    pub pushes_out: Vec<(usize, std::ops::Range<usize>)>,
}

#[derive(Debug)]
pub struct Target {
    pub column: usize,
    pub shape: TargetShape,
    /// An absent value is the default rather than NULL.
    pub has_default: bool,
}

#[derive(Debug)]
pub enum TargetShape {
    One(ValuePlan),
    Repeated(ValuePlan),
    Map { map: usize, key: Scalar, value: ValuePlan },
}

#[derive(Debug)]
pub enum ValuePlan {
    Scalar(Scalar),
    Enum(EnumNames),
    Timestamp,
    Duration,
    Wrapper(Scalar),
    Known(Known),
    Json(MessageDescriptor),
    Message(MessagePlan),
}

impl MessagePlan {
    /// `columns` were checked by [`types::check`]. One that is no field is read as one that is always absent.
    pub fn new(message: &MessageDescriptor, columns: &Fields) -> Result<MessagePlan, Error> {
        plan(message, columns, &mut 0)
    }

    /// The field of this number, when it matters.
    #[inline(always)]
    pub fn find(&self, number: u32) -> Option<&FieldPlan> {
        match self.by_number.get(number as usize) {
            Some(&UNWANTED) => None,
            Some(&index) => self.fields.get(usize::from(index)),
            None => self.find_large(number),
        }
    }

    fn find_large(&self, number: u32) -> Option<&FieldPlan> {
        match number < INDEXED_MAX {
            true => None,
            false => self.fields.iter().find(|field| field.number == number),
        }
    }
}

fn plan(message: &MessageDescriptor, columns: &Fields, maps: &mut usize) -> Result<MessagePlan, Error> {
    let first_map = *maps;
    let mut fields: Vec<FieldPlan> = Vec::new();
    let mut of_columns = Vec::new();
    let mut below = Vec::new();
    let mut width = 0;
    for (index, column) in columns.iter().enumerate() {
        let field = types::field_named(message, column.name());
        let first_below = *maps;
        let target = match &field {
            Some(field) => target(field, column, index, maps)?,
            None => unknown(column, index, maps),
        };
        width += 1 + target.shape.width();
        below.push(first_below..*maps);
        of_columns.push(fields.len());
        fields.push(FieldPlan {
            number: field.map_or(NO_NUMBER, |field| field.number()),
            target: Some(target),
            pushes_out: Vec::new(),
        });
    }
    for oneof in message.oneofs() {
        for member in oneof.fields() {
            let others = oneof.fields().filter(|other| other.number() != member.number());
            let place = |other: FieldDescriptor| {
                let known = fields.iter().find(|field| field.number == other.number())?;
                let column = known.target.as_ref()?.column;
                Some((column, below[column].clone()))
            };
            let pushes_out: Vec<_> = others.filter_map(place).collect();
            match fields.iter_mut().find(|field| field.number == member.number()) {
                Some(field) => field.pushes_out = pushes_out,
                None if pushes_out.is_empty() => {}
                None => fields.push(FieldPlan {
                    number: member.number(),
                    target: None,
                    pushes_out,
                }),
            }
        }
    }
    Ok(MessagePlan {
        by_number: by_number(&fields),
        fields,
        of_columns,
        maps: first_map..*maps,
        width,
    })
}

fn by_number(fields: &[FieldPlan]) -> Vec<u16> {
    let mut by_number = Vec::new();
    for (index, field) in fields.iter().enumerate().take(usize::from(UNWANTED)) {
        if field.number < INDEXED_MAX {
            let number = field.number as usize;
            by_number.resize(by_number.len().max(number + 1), UNWANTED);
            by_number[number] = index as u16;
        }
    }
    by_number
}

fn target(field: &FieldDescriptor, column: &Field, index: usize, maps: &mut usize) -> Result<Target, Error> {
    let broken = || Error::Internal(format!("column \"{}\" is not what its field is", column.name()));
    let shape = match (types::shape(field), column.data_type()) {
        (Shape::One(value), _) => TargetShape::One(value_plan(value, column, maps)?),
        (Shape::Repeated(value), DataType::List(element)) => TargetShape::Repeated(value_plan(value, element, maps)?),
        (Shape::Map(key, value), DataType::Map(entries, _)) => {
            let DataType::Struct(of) = entries.data_type() else {
                return Err(broken());
            };
            let map = *maps;
            *maps += 1;
            let value = value_plan(value, of.get(1).ok_or_else(broken)?, maps)?;
            TargetShape::Map { map, key, value }
        }
        _ => return Err(broken()),
    };
    Ok(Target {
        column: index,
        has_default: !field.supports_presence(),
        shape,
    })
}

/// A column that the message does not know. What must not be NULL has its type's default, as a field without presence has when it is absent.
fn unknown(column: &Field, index: usize, maps: &mut usize) -> Target {
    let required = !column.is_nullable();
    let scalar = match column.data_type() {
        DataType::Boolean => Some(Scalar::Bool),
        DataType::Float32 => Some(Scalar::Float),
        DataType::Float64 => Some(Scalar::Double),
        DataType::Binary => Some(Scalar::Bytes),
        DataType::Utf8 if !is_json(column) => Some(Scalar::String),
        DataType::Decimal128(..) => Some(Scalar::Int64),
        of if of.is_integer() => Some(Scalar::Int64),
        _ => None,
    };
    let none = || ValuePlan::Scalar(Scalar::Bytes);
    let shape = match column.data_type() {
        DataType::List(_) if required => TargetShape::Repeated(none()),
        DataType::Map(..) if required => {
            let (key, map) = (Scalar::String, *maps);
            *maps += 1;
            TargetShape::Map {
                map,
                key,
                value: none(),
            }
        }
        _ => TargetShape::One(scalar.map_or_else(none, ValuePlan::Scalar)),
    };
    Target {
        column: index,
        has_default: required && scalar.is_some(),
        shape,
    }
}

fn value_plan(value: types::Value, column: &Field, maps: &mut usize) -> Result<ValuePlan, Error> {
    Ok(match value {
        types::Value::Scalar(scalar) => ValuePlan::Scalar(scalar),
        types::Value::Enum(of) => ValuePlan::Enum(EnumNames::new(&of)),
        types::Value::Timestamp => ValuePlan::Timestamp,
        types::Value::Duration => ValuePlan::Duration,
        types::Value::Wrapper(scalar) => ValuePlan::Wrapper(scalar),
        types::Value::Known(known, _) if known.fits(column.data_type()) => ValuePlan::Known(known),
        types::Value::Message(message) | types::Value::Known(_, message) => match column.data_type() {
            DataType::Struct(members) => ValuePlan::Message(plan(&message, members, maps)?),
            _ if is_json(column) => ValuePlan::Json(message),
            _ => {
                return Err(Error::Internal(format!(
                    "column \"{}\" holds no message",
                    column.name()
                )));
            }
        },
    })
}

impl TargetShape {
    fn width(&self) -> usize {
        match self {
            TargetShape::One(value) => value.width(),
            // Elements are counted when they come.
            TargetShape::Repeated(_) | TargetShape::Map { .. } => 0,
        }
    }
}

impl ValuePlan {
    /// Columns that a value has below its own.
    pub fn width(&self) -> usize {
        match self {
            ValuePlan::Message(plan) => plan.width,
            _ => 0,
        }
    }
}

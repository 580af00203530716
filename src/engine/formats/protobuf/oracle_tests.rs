//! Random messages against `prost-reflect`: what it writes is read as it says, what we write it reads as we say.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Float32Type, Float64Type, Int32Type, Int64Type, IntervalMonthDayNanoType,
    SchemaRef, TimestampMicrosecondType,
};
use proptest::prelude::*;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::engine::connectors::testing::KeptBadRows;
use crate::engine::formats::columns::is_json;
use crate::engine::formats::protobuf::decode::{Framing, ProtobufDecoder};
use crate::engine::formats::protobuf::encode::ProtobufEncoder;
use crate::engine::formats::protobuf::values::EnumNames;
use crate::engine::formats::protobuf::{tests, types};
use crate::engine::formats::{Decoder, Encoder, Input};
use crate::engine::message::Chunk;

/// A value of a row, comparable: floats by their bits, maps in the order of their keys.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub(super) enum Cell {
    Null,
    Bool(bool),
    Int(i128),
    Bits(u64),
    Text(String),
    Bytes(Vec<u8>),
    List(Vec<Cell>),
    Map(Vec<(Cell, Cell)>),
    Struct(Vec<Cell>),
}

/// What a row of our columns holds.
fn column_cell(field: &Field, array: &ArrayRef, row: usize) -> Cell {
    if array.is_null(row) {
        return Cell::Null;
    }
    match field.data_type() {
        DataType::Boolean => Cell::Bool(array.as_boolean().value(row)),
        DataType::Int32 => Cell::Int(array.as_primitive::<Int32Type>().value(row).into()),
        DataType::Int64 => Cell::Int(array.as_primitive::<Int64Type>().value(row).into()),
        DataType::Decimal128(..) => Cell::Int(array.as_primitive::<Decimal128Type>().value(row)),
        DataType::Float32 => Cell::Bits(array.as_primitive::<Float32Type>().value(row).to_bits().into()),
        DataType::Float64 => Cell::Bits(array.as_primitive::<Float64Type>().value(row).to_bits()),
        DataType::Utf8 => Cell::Text(array.as_string::<i32>().value(row).to_owned()),
        DataType::Binary => Cell::Bytes(array.as_binary::<i32>().value(row).to_vec()),
        DataType::Timestamp(..) => Cell::Int(array.as_primitive::<TimestampMicrosecondType>().value(row).into()),
        DataType::Interval(_) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            assert_eq!((value.months, value.days), (0, 0));
            Cell::Int(value.nanoseconds.into())
        }
        DataType::List(element) => {
            let list = array.as_list::<i32>().value(row);
            Cell::List((0..list.len()).map(|at| column_cell(element, &list, at)).collect())
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(of) = entries.data_type() else {
                panic!("no entries")
            };
            let map = array.as_map().value(row);
            let entry = |at| {
                (
                    column_cell(&of[0], map.column(0), at),
                    column_cell(&of[1], map.column(1), at),
                )
            };
            sorted((0..map.len()).map(entry).collect())
        }
        DataType::Struct(members) => {
            let parts = array.as_struct();
            let member = |(field, column)| column_cell(field, column, row);
            Cell::Struct(
                members
                    .iter()
                    .map(AsRef::as_ref)
                    .zip(parts.columns())
                    .map(member)
                    .collect(),
            )
        }
        other => panic!("no test for {other}"),
    }
}

fn sorted(mut entries: Vec<(Cell, Cell)>) -> Cell {
    entries.sort_by(|left, right| left.0.partial_cmp(&right.0).unwrap());
    Cell::Map(entries)
}

/// What columns should hold of a message.
fn message_cells(message: &DynamicMessage, columns: &[Arc<Field>]) -> Vec<Cell> {
    let of_column = |column: &Arc<Field>| {
        let field = message.descriptor().get_field_by_name(column.name()).unwrap();
        if field.supports_presence() && !message.has_field(&field) {
            return Cell::Null;
        }
        let value = message.get_field(&field);
        match (value.as_ref(), column.data_type()) {
            (Value::List(values), DataType::List(element)) => Cell::List(
                values
                    .iter()
                    .map(|value| value_cell(value, &field.kind(), element))
                    .collect(),
            ),
            (Value::Map(map), DataType::Map(entries, _)) => {
                let DataType::Struct(of) = entries.data_type() else {
                    panic!("no entries")
                };
                let kind = field.kind();
                let kind = kind.as_message().unwrap().map_entry_value_field().kind();
                let entry = |(key, value): (&MapKey, &Value)| (key_cell(key), value_cell(value, &kind, &of[1]));
                sorted(map.iter().map(entry).collect())
            }
            (value, _) => value_cell(value, &field.kind(), column),
        }
    };
    columns.iter().map(of_column).collect()
}

fn key_cell(key: &MapKey) -> Cell {
    match key {
        MapKey::Bool(value) => Cell::Bool(*value),
        MapKey::I32(value) => Cell::Int((*value).into()),
        MapKey::I64(value) => Cell::Int((*value).into()),
        MapKey::U32(value) => Cell::Int((*value).into()),
        MapKey::U64(value) => Cell::Int((*value).into()),
        MapKey::String(value) => Cell::Text(value.clone()),
    }
}

fn value_cell(value: &Value, kind: &Kind, column: &Field) -> Cell {
    match value {
        Value::Bool(value) => Cell::Bool(*value),
        Value::I32(value) => Cell::Int((*value).into()),
        Value::I64(value) => Cell::Int((*value).into()),
        Value::U32(value) => Cell::Int((*value).into()),
        Value::U64(value) => Cell::Int((*value).into()),
        Value::F32(value) => Cell::Bits(value.to_bits().into()),
        Value::F64(value) => Cell::Bits(value.to_bits()),
        Value::String(value) => Cell::Text(value.clone()),
        Value::Bytes(value) => Cell::Bytes(value.to_vec()),
        Value::EnumNumber(number) => {
            let name = kind.as_enum().unwrap().get_value(*number);
            Cell::Text(name.map_or(number.to_string(), |value| value.name().to_owned()))
        }
        Value::Message(message) => message_cell(message, column),
        Value::List(_) | Value::Map(_) => panic!("not a single value"),
    }
}

fn message_cell(message: &DynamicMessage, column: &Field) -> Cell {
    let part = |name: &str| match message.get_field_by_name(name).unwrap().as_ref() {
        Value::I64(value) => i128::from(*value),
        Value::I32(value) => i128::from(*value),
        other => panic!("{other:?}"),
    };
    match (message.descriptor().full_name(), column.data_type()) {
        ("google.protobuf.Timestamp", _) => Cell::Int(part("seconds") * 1_000_000 + part("nanos") / 1000),
        ("google.protobuf.Duration", _) => Cell::Int(part("seconds") * 1_000_000_000 + part("nanos")),
        (_, DataType::Struct(members)) => Cell::Struct(message_cells(message, members)),
        _ if is_json(column) => {
            let options = prost_reflect::SerializeOptions::new()
                .stringify_64_bit_integers(false)
                .use_proto_field_name(true);
            let json = message.serialize_with_options(serde_json::value::Serializer, &options);
            let mut json = json.unwrap();
            json.sort_all_objects();
            Cell::Text(json.to_string())
        }
        _ => {
            let field = message.descriptor().get_field_by_name("value").unwrap();
            value_cell(&message.get_field(&field), &field.kind(), column)
        }
    }
}

/// Random messages of any type.
struct Random {
    rng: StdRng,
    depth: usize,
}

impl Random {
    fn message(&mut self, of: &MessageDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        match of.full_name() {
            "google.protobuf.Timestamp" => {
                let seconds = self.rng.random_range(-62_135_596_800i64..253_402_300_799);
                message.set_field_by_name("seconds", Value::I64(seconds));
                let micros = self.rng.random_range(0..1_000_000);
                message.set_field_by_name("nanos", Value::I32(micros * 1000));
                return message;
            }
            "google.protobuf.Duration" => {
                let seconds = self.rng.random_range(-9_000_000_000i64..9_000_000_000);
                let nanos = self.rng.random_range(0..1_000_000_000) * seconds.signum() as i32;
                message.set_field_by_name("seconds", Value::I64(seconds));
                message.set_field_by_name("nanos", Value::I32(nanos));
                return message;
            }
            "google.protobuf.Value" => {
                message.set_field_by_name("string_value", Value::String(self.text()));
                return message;
            }
            _ => {}
        }
        self.depth += 1;
        for field in of.fields() {
            let chance = if field.is_required() {
                1.0
            } else {
                0.6 / self.depth as f64
            };
            if self.rng.random_bool(chance) {
                let value = self.field(&field);
                message.set_field(&field, value);
            }
        }
        self.depth -= 1;
        message
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        let count = self.rng.random_range(0..5);
        if field.is_map() {
            let kind = field.kind();
            let entry = kind.as_message().unwrap();
            let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            let entries = (0..count * 3).map(|_| {
                let key = match self.value(&key) {
                    Value::Bool(value) => MapKey::Bool(value),
                    Value::I32(value) => MapKey::I32(value),
                    Value::I64(value) => MapKey::I64(value),
                    Value::U32(value) => MapKey::U32(value),
                    Value::U64(value) => MapKey::U64(value),
                    Value::String(value) => MapKey::String(value),
                    other => panic!("{other:?}"),
                };
                (key, self.value(&value))
            });
            return Value::Map(entries.collect::<HashMap<_, _>>());
        }
        match field.is_list() {
            true => Value::List((0..count).map(|_| self.value(&field.kind())).collect()),
            false => self.value(&field.kind()),
        }
    }

    fn text(&mut self) -> String {
        let length = *[0, 1, 3, 140].get(self.rng.random_range(0..4)).unwrap();
        let letters = ['a', '\n', 'é', '🦀', '"', '\0'];
        (0..length).map(|_| letters[self.rng.random_range(0..6)]).collect()
    }

    /// Small numbers, large ones, the ends.
    fn bits(&mut self) -> u64 {
        match self.rng.random_range(0..4) {
            0 => self.rng.random_range(0..200),
            1 => u64::MAX - self.rng.random_range(0..2),
            2 => 1 << self.rng.random_range(0..64),
            _ => self.rng.random(),
        }
    }

    fn value(&mut self, kind: &Kind) -> Value {
        let bits = self.bits();
        match kind {
            // Minus zero is left out by prost as if it were zero.
            Kind::Double if bits == 1 << 63 => Value::F64(0.0),
            Kind::Float if bits as u32 == 1 << 31 => Value::F32(0.0),
            Kind::Double => Value::F64(f64::from_bits(bits)),
            Kind::Float => Value::F32(f32::from_bits(bits as u32)),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(bits as i32),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(bits as i64),
            Kind::Uint32 | Kind::Fixed32 => Value::U32(bits as u32),
            Kind::Uint64 | Kind::Fixed64 => Value::U64(bits),
            Kind::Bool => Value::Bool(bits.is_multiple_of(2)),
            Kind::String => Value::String(self.text()),
            Kind::Bytes => Value::Bytes(bits.to_le_bytes()[..(bits % 9) as usize].to_vec().into()),
            Kind::Enum(of) => {
                let known: Vec<i32> = of.values().map(|value| value.number()).collect();
                let proto3 = of.parent_file().syntax() == prost_reflect::Syntax::Proto3;
                match proto3 && bits.is_multiple_of(5) {
                    true => Value::EnumNumber(77),
                    false => Value::EnumNumber(known[bits as usize % known.len()]),
                }
            }
            Kind::Message(of) => Value::Message(self.message(of)),
        }
    }
}

pub(super) fn decoded(message: &MessageDescriptor, schema: &SchemaRef, records: &[Vec<u8>]) -> RecordBatch {
    let mut decoder = ProtobufDecoder::new(message, schema, Framing::Message).unwrap();
    let bad = KeptBadRows::default();
    for record in records {
        let input = Input {
            bytes: record,
            offset: 0,
            place: "test",
            at_end: true,
        };
        assert_eq!(decoder.decode(input, usize::MAX, &bad).unwrap(), record.len());
    }
    assert!(bad.0.lock().unwrap().is_empty(), "{:?}", bad.0.lock().unwrap());
    decoder.take().unwrap()
}

pub(super) fn batch_cells(batch: &RecordBatch) -> Vec<Vec<Cell>> {
    let schema = batch.schema();
    let row = |row| {
        let columns = schema.fields().iter().zip(batch.columns());
        columns.map(|(field, column)| column_cell(field, column, row)).collect()
    };
    (0..batch.num_rows()).map(row).collect()
}

pub(super) fn random_messages(seed: u64, message: &MessageDescriptor) -> Vec<DynamicMessage> {
    let mut random = Random {
        rng: StdRng::seed_from_u64(seed),
        depth: 0,
    };
    (0..5).map(|_| random.message(message)).collect()
}

proptest! {
    #[test]
    fn what_prost_writes_is_read_and_what_we_write_prost_reads(
        seed: u64,
        name in prop_oneof![Just("t.Everything"), Just("t2.Old")],
    ) {
        let message = tests::message(name);
        let messages = random_messages(seed, &message);
        let records: Vec<Vec<u8>> = messages.iter().map(Message::encode_to_vec).collect();
        let schema = types::schema(&message);
        let batch = decoded(&message, &schema, &records);
        let expected: Vec<Vec<Cell>> = messages.iter().map(|of| message_cells(of, schema.fields())).collect();
        prop_assert_eq!(&batch_cells(&batch), &expected);

        let mut out = Vec::new();
        let mut start = 0;
        let mut again = Vec::new();
        let mut encoder = ProtobufEncoder::new(&message, &schema, Framing::Message).unwrap();
        encoder.encode_each(&Chunk::insert(batch), &mut out, &mut |_, out| {
            again.push(out[start..out.len() - 1].to_vec());
            start = out.len();
        }).unwrap();
        for (bytes, expected) in again.iter().zip(&expected) {
            let read = DynamicMessage::decode(message.clone(), bytes.as_slice()).unwrap();
            prop_assert_eq!(&message_cells(&read, schema.fields()), expected);
        }
    }

    /// Messages one after the other are one message: lists grow, messages merge, the last of other values counts.
    #[test]
    fn pieces_are_put_together(seed: u64) {
        let message = tests::message("t.Plain");
        let messages = random_messages(seed, &message);
        let record: Vec<u8> = messages.iter().flat_map(Message::encode_to_vec).collect();
        let whole = DynamicMessage::decode(message.clone(), record.as_slice()).unwrap();
        let schema = types::schema(&message);
        let batch = decoded(&message, &schema, &[record]);
        prop_assert_eq!(batch_cells(&batch), vec![message_cells(&whole, schema.fields())]);
    }

    #[test]
    fn columns_nobody_wants_are_left_out(seed: u64, wanted in proptest::collection::vec(any::<bool>(), 40)) {
        let message = tests::message("t.Everything");
        let messages = random_messages(seed, &message);
        let records: Vec<Vec<u8>> = messages.iter().map(Message::encode_to_vec).collect();
        let all = types::schema(&message);
        let kept: Vec<usize> = (0..all.fields().len()).filter(|at| wanted[*at]).collect();
        let schema = Arc::new(all.project(&kept).unwrap());
        let batch = decoded(&message, &schema, &records);
        let expected: Vec<Vec<Cell>> = messages.iter().map(|of| message_cells(of, schema.fields())).collect();
        prop_assert_eq!(batch_cells(&batch), expected);
    }

    /// A damaged record is a row or reported; those around it are what they were.
    #[test]
    fn damaged_records_leave_no_trace(seed: u64, at: prop::sample::Index, byte: u8) {
        let message = tests::message("t.Everything");
        let messages = random_messages(seed, &message);
        let records: Vec<Vec<u8>> = messages.iter().map(Message::encode_to_vec).collect();
        let schema = types::schema(&message);
        let expected: Vec<Vec<Cell>> = messages.iter().map(|of| message_cells(of, schema.fields())).collect();
        let mut decoder = ProtobufDecoder::new(&message, &schema, Framing::Message).unwrap();
        let mut kept = Vec::new();
        for (record, cells) in records.iter().zip(&expected) {
            let mut damaged = record.clone();
            if !damaged.is_empty() {
                let at = at.index(damaged.len());
                damaged[at] = byte;
            }
            for bytes in [&damaged, record] {
                let bad = KeptBadRows::default();
                let before = decoder.rows();
                let input = Input { bytes, offset: 0, place: "test", at_end: true };
                decoder.decode(input, usize::MAX, &bad).unwrap();
                let refused = bad.0.lock().unwrap().len();
                prop_assert_eq!(decoder.rows() + refused, before + 1);
                kept.extend((refused == 0).then_some((bytes == record).then_some(cells)));
            }
        }
        let rows = batch_cells(&decoder.take().unwrap());
        prop_assert_eq!(rows.len(), kept.len());
        for (row, expected) in rows.iter().zip(&kept) {
            if let Some(expected) = expected {
                prop_assert_eq!(row, *expected);
            }
        }
    }
}

#[test]
fn names_of_enums_are_found() {
    let message = tests::message("t.Everything");
    let Kind::Enum(of) = message.get_field_by_name("color").unwrap().kind() else {
        panic!("no enum")
    };
    let names = EnumNames::new(&of);
    assert_eq!(
        (names.number("RED"), names.number("9"), names.number("PINK")),
        (Some(1), Some(9), None)
    );
}

//! Random columns and rows, written and read back; records that are cut, mangled, of other schemas, or recursive.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::container::{ContainerDecoder, ContainerEncoder};
use super::decode::AvroDecoder;
use super::encode::AvroEncoder;
use super::{AvroOptions, derive};
use crate::engine::connectors::testing::{KeptBadRows, texts};
use crate::engine::formats::{Decoder, Encoder, Input};
use crate::engine::message::{Chunk, Weights};
use crate::error::{Report, SqlState};
use crate::types::SqlType;

/// The types that a column can have, those that hold others only above `depth` 0.
fn random_type(random: &mut StdRng, depth: u32) -> SqlType {
    let inner = |random: &mut StdRng| Box::new(random_type(random, depth - 1));
    match random.random_range(0..if depth > 0 { 23 } else { 20 }) {
        0 => SqlType::Boolean,
        1 => SqlType::TinyInt,
        2 => SqlType::SmallInt,
        3 => SqlType::Int,
        4 => SqlType::BigInt,
        5 => SqlType::UnsignedTinyInt,
        6 => SqlType::UnsignedSmallInt,
        7 => SqlType::UnsignedInt,
        8 => SqlType::UnsignedBigInt,
        9 => SqlType::Real,
        10 => SqlType::Double,
        11 => {
            let precision = random.random_range(1..=38);
            let scale = random.random_range(0..=precision) as i8;
            SqlType::Numeric { precision, scale }
        }
        12 => SqlType::Text,
        13 => SqlType::Json,
        14 => SqlType::Bytea,
        15 => SqlType::Date,
        16 => SqlType::Time,
        17 => SqlType::Timestamp,
        18 => SqlType::TimestampTz,
        19 => SqlType::Uuid,
        20 => SqlType::Array(inner(random)),
        21 => SqlType::Map(Box::new(SqlType::Text), inner(random)),
        _ => SqlType::Struct(
            (0..random.random_range(1..4))
                .map(|at| (format!("m{at}"), *inner(random)))
                .collect(),
        ),
    }
}

fn offsets(random: &mut StdRng, rows: usize) -> OffsetBuffer<i32> {
    OffsetBuffer::from_lengths((0..rows).map(|_| random.random_range(0..4)))
}

fn random_array(random: &mut StdRng, field: &Field, rows: usize) -> ArrayRef {
    let nulls: Vec<bool> = (0..rows)
        .map(|_| field.is_nullable() && random.random_bool(0.3))
        .collect();
    let nulls = NullBuffer::from_iter(nulls.into_iter().map(|is_null| !is_null));
    macro_rules! primitive {
        ($array:ident, $value:expr) => {
            $array::new((0..rows).map(|_| $value).collect(), Some(nulls))
        };
    }
    let text = |random: &mut StdRng| -> String {
        (0..random.random_range(0..6))
            .map(|_| ['a', '"', '\n', 'ä', '\0', '😀'][random.random_range(0..6)])
            .collect()
    };
    match field.data_type() {
        DataType::Boolean => Arc::new(BooleanArray::new(
            (0..rows).map(|_| random.random::<bool>()).collect(),
            Some(nulls),
        )),
        DataType::Int8 => Arc::new(primitive!(Int8Array, random.random())),
        DataType::Int16 => Arc::new(primitive!(Int16Array, random.random())),
        DataType::Int32 => Arc::new(primitive!(Int32Array, random.random())),
        DataType::Int64 => Arc::new(primitive!(
            Int64Array,
            random.random::<i64>() >> random.random_range(0..64)
        )),
        DataType::UInt8 => Arc::new(primitive!(UInt8Array, random.random())),
        DataType::UInt16 => Arc::new(primitive!(UInt16Array, random.random())),
        DataType::UInt32 => Arc::new(primitive!(UInt32Array, random.random())),
        DataType::UInt64 => Arc::new(primitive!(
            UInt64Array,
            random.random::<u64>() >> random.random_range(0..64)
        )),
        DataType::Float32 => Arc::new(primitive!(Float32Array, f32::from_bits(random.random()))),
        DataType::Float64 => Arc::new(primitive!(Float64Array, f64::from_bits(random.random()))),
        DataType::Decimal128(precision, scale) => {
            let limit = 10i128.pow((*precision).into());
            let numbers = primitive!(
                Decimal128Array,
                (random.random::<i128>() >> random.random_range(0..127)) % limit
            );
            Arc::new(numbers.with_precision_and_scale(*precision, *scale).unwrap())
        }
        DataType::Utf8 => {
            let texts: Vec<String> = (0..rows)
                .map(|_| match super::super::columns::is_json(field) {
                    true => format!("{{\"n\": {}}}", random.random::<i32>()),
                    false => text(random),
                })
                .collect();
            let texts = StringArray::from_iter_values(texts);
            Arc::new(StringArray::new(
                texts.offsets().clone(),
                texts.values().clone(),
                Some(nulls),
            ))
        }
        DataType::Binary => {
            let values: Vec<Vec<u8>> = (0..rows)
                .map(|_| (0..random.random_range(0..5)).map(|_| random.random()).collect())
                .collect();
            let values = BinaryArray::from_iter_values(values);
            Arc::new(BinaryArray::new(
                values.offsets().clone(),
                values.values().clone(),
                Some(nulls),
            ))
        }
        DataType::Date32 => Arc::new(primitive!(Date32Array, random.random_range(-100_000..100_000))),
        DataType::Time64(_) => Arc::new(primitive!(
            Time64MicrosecondArray,
            random.random_range(0..86_400_000_000)
        )),
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let times = primitive!(TimestampMicrosecondArray, random.random::<i64>() >> 2);
            Arc::new(times.with_timezone_opt(zone.clone()))
        }
        DataType::FixedSizeBinary(16) => {
            let values: Vec<u8> = (0..rows * 16).map(|_| random.random()).collect();
            Arc::new(FixedSizeBinaryArray::new(16, values.into(), Some(nulls)))
        }
        DataType::List(element) => {
            let offsets = offsets(random, rows);
            let values = random_array(random, element, offsets[rows] as usize);
            Arc::new(ListArray::new(Arc::clone(element), offsets, values, Some(nulls)))
        }
        DataType::Map(entries, ordered) => {
            let DataType::Struct(fields) = entries.data_type() else {
                panic!()
            };
            let offsets = offsets(random, rows);
            let count = offsets[rows] as usize;
            let arrays = fields.iter().map(|field| random_array(random, field, count)).collect();
            let values = StructArray::new(fields.clone(), arrays, None);
            Arc::new(MapArray::new(
                Arc::clone(entries),
                offsets,
                values,
                Some(nulls),
                *ordered,
            ))
        }
        DataType::Struct(fields) => {
            let arrays = fields.iter().map(|field| random_array(random, field, rows)).collect();
            Arc::new(StructArray::new(fields.clone(), arrays, Some(nulls)))
        }
        other => panic!("{other}"),
    }
}

fn random_rows(random: &mut StdRng) -> RecordBatch {
    let count = random.random_range(1..6);
    let column =
        |random: &mut StdRng, at: usize| random_type(random, 3).to_arrow_field(&format!("c{at}"), random.random());
    let fields: Vec<Field> = (0..count).map(|at| column(random, at)).collect();
    let rows = random.random_range(0..20);
    let columns = fields.iter().map(|field| random_array(random, field, rows)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// Each row as a record.
fn records(rows: &RecordBatch, options: &AvroOptions) -> Vec<Vec<u8>> {
    let mut encoder = AvroEncoder::new(rows.schema().fields(), options).unwrap();
    let (mut out, mut found, mut start) = (Vec::new(), Vec::new(), 0);
    let mut written = |_: usize, out: &[u8]| {
        found.push(out[start..].to_vec());
        start = out.len();
    };
    encoder
        .encode_each(&Chunk::insert(rows.clone()), &mut out, &mut written)
        .unwrap();
    found
}

fn by_schema(text: &str) -> AvroOptions {
    AvroOptions::by_schema(text)
}

fn derived(columns: &Fields) -> AvroOptions {
    by_schema(&derive::schema_of(columns, "n.R").unwrap().to_string())
}

fn input(bytes: &[u8]) -> Input<'_> {
    Input {
        bytes,
        offset: 0,
        place: "t/0",
        at_end: true,
    }
}

fn decode(decoder: &mut dyn Decoder, records: &[Vec<u8>]) -> Vec<String> {
    let bad = KeptBadRows::default();
    for record in records {
        decoder.decode(input(record), usize::MAX, &bad).unwrap();
    }
    bad.reasons()
}

proptest! {
    #[test]
    fn what_is_written_is_read(seed: u64) {
        let random = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(random);
        let options = derived(rows.schema().fields());
        let records = records(&rows, &options);
        let mut decoder = AvroDecoder::of_rows(&rows.schema(), &options).unwrap();
        prop_assert_eq!(decode(&mut decoder, &records), Vec::<String>::new());
        prop_assert_eq!(decoder.take().unwrap(), rows.clone());
        // The same as a file, whose pieces come as they come.
        let mut file = Vec::new();
        let mut encoder = ContainerEncoder::new(rows.schema().fields(), &AvroOptions::default()).unwrap();
        encoder.header(&mut file);
        let middle = random.random_range(0..=rows.num_rows());
        for piece in [rows.slice(0, middle), rows.slice(middle, rows.num_rows() - middle)] {
            encoder.encode(&Chunk::insert(piece), &mut file).unwrap();
        }
        let mut decoder = ContainerDecoder::new(&rows.schema()).unwrap();
        let (mut start, mut end) = (0, 0);
        while end < file.len() {
            end = (end + random.random_range(1..200)).min(file.len());
            let piece = Input { offset: start as u64, at_end: end == file.len(), ..input(&file[start..end]) };
            start += decoder.decode(piece, usize::MAX, &KeptBadRows::default()).unwrap();
        }
        prop_assert_eq!(start, file.len());
        prop_assert_eq!(decoder.take().unwrap(), rows);
    }

    #[test]
    fn columns_of_a_schema_read_what_was_written(seed: u64) {
        let random = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(random);
        let options = derived(rows.schema().fields());
        let columns = derive::columns_of(&options.given().unwrap().unwrap()).unwrap();
        // Some of them, in another order.
        let mut wanted: Vec<usize> = (0..columns.fields().len()).filter(|_| random.random()).collect();
        wanted.reverse();
        let columns: SchemaRef = Arc::new(columns.project(&wanted).unwrap());
        let mut decoder = AvroDecoder::of_rows(&columns, &options).unwrap();
        prop_assert_eq!(decode(&mut decoder, &records(&rows, &options)), Vec::<String>::new());
        let found = decoder.take().unwrap();
        for (place, &column) in wanted.iter().enumerate() {
            let (found, expected) = (found.column(place), rows.column(column));
            let scalar = !expected.data_type().is_nested() && !matches!(expected.data_type(), DataType::UInt64);
            if scalar {
                prop_assert_eq!(found, &arrow::compute::cast(expected, found.data_type()).unwrap());
            }
            prop_assert_eq!(found.logical_null_count(), expected.logical_null_count());
        }
    }

    #[test]
    fn broken_records_leave_no_trace(seed: u64) {
        let random = &mut StdRng::seed_from_u64(seed);
        let rows = random_rows(random);
        let options = derived(rows.schema().fields());
        let records = records(&rows, &options);
        let mut decoder = AvroDecoder::of_rows(&rows.schema(), &options).unwrap();
        let mut bad = 0;
        for record in &records {
            let mut broken = record.clone();
            match random.random_range(0..3) {
                0 => broken.truncate(random.random_range(0..=record.len())),
                1 => broken.push(random.random()),
                _ => broken = (0..random.random_range(0..40)).map(|_| random.random()).collect(),
            }
            let kept = KeptBadRows::default();
            let before = decoder.rows();
            decoder.decode(input(&broken), usize::MAX, &kept).unwrap();
            bad += kept.reasons().len();
            prop_assert_eq!(decoder.rows() - before + kept.reasons().len(), 1);
            decoder.decode(input(record), usize::MAX, &kept).unwrap();
        }
        let found = decoder.take().unwrap();
        prop_assert_eq!(found.num_rows(), records.len() * 2 - bad);
        found.columns().iter().for_each(|column| column.to_data().validate_full().unwrap());
    }
}

fn columns(columns: &[(&str, SqlType, bool)]) -> SchemaRef {
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, of, nullable)| of.to_arrow_field(name, *nullable))
        .collect();
    Arc::new(Schema::new(fields))
}

/// Rows as JSON, and reasons of bad ones.
fn decoded(options: &AvroOptions, columns: &SchemaRef, records: &[&[u8]]) -> (Vec<String>, Vec<String>) {
    let mut decoder = AvroDecoder::of_rows(columns, options).unwrap();
    let records: Vec<Vec<u8>> = records.iter().map(|record| record.to_vec()).collect();
    let bad = decode(&mut decoder, &records);
    (texts(decoder.take().unwrap()), bad)
}

#[test]
fn values_are_read_as_the_columns_are() {
    let options = by_schema(
        r#"{"type":"record","name":"R","fields":[
            {"name":"Id","type":"int"},
            {"name":"skipped","type":{"type":"map","values":["null","R"]}},
            {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
            {"name":"amount","type":["null",{"type":"bytes","logicalType":"decimal","precision":9,"scale":3}]},
            {"name":"price","type":"string"}]}"#,
    );
    let table = columns(&[
        ("price", SqlType::Numeric { precision: 6, scale: 2 }, true),
        ("id", SqlType::SmallInt, false),
        ("amount", SqlType::Numeric { precision: 5, scale: 2 }, true),
        ("at", SqlType::Timestamp, true),
        ("new", SqlType::Text, true),
    ]);
    // Id 7, no map, 1 s, 1.235 (two bytes 0x04d3), "12.5".
    let good = [&[14, 0, 0xd0, 0x0f, 2, 4, 0x04, 0xd3, 8], &b"12.5"[..]].concat();
    let no_number = [&[14, 0, 0, 0, 6], &b"abc"[..]].concat();
    // 40000 is no SMALLINT; 0x499602d8 thousandths no NUMERIC(5, 2).
    let too_large = [&[0x80, 0xf1, 0x04, 0, 0, 0, 2], &b"1"[..]].concat();
    let too_long = [&[14, 0, 0, 2, 8, 0x49, 0x96, 0x02, 0xd8, 2], &b"1"[..]].concat();
    let (rows, bad) = decoded(
        &options,
        &table,
        &[&no_number, &good, &too_large, &too_long, &[14, 0, 0, 4], &[]],
    );
    assert_eq!(
        rows,
        ["{\"price\":12.50,\"id\":7,\"amount\":1.24,\"at\":\"1970-01-01T00:00:01\",\"new\":null}"]
    );
    assert_eq!(
        bad,
        [
            "column \"price\": invalid input syntax for type numeric: \"abc\"",
            "column \"id\": value \"40000\" is out of range for type smallint",
            "column \"amount\": value \"1234567.896\" is out of range for type numeric",
            "column \"amount\": a union has no branch 2",
            "column \"id\": the record ends too early",
        ]
    );
}

#[test]
fn what_takes_no_bytes_cannot_be_endless() {
    let options = by_schema(
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"array","items":"null"}},
            {"name":"r","type":["null","R"]}]}"#,
    );
    let table = columns(&[("a", SqlType::Array(Box::new(SqlType::Int)), true)]);
    let mut endless = Vec::new();
    super::write::long(i64::MAX, &mut endless);
    // A record in a record in a record ..
    let deep = [&[0, 2].repeat(1000)[..], &[0, 0]].concat();
    let (rows, bad) = decoded(&options, &table, &[&endless, &deep, &[4, 0, 0]]);
    assert_eq!(rows, ["{\"a\":[null,null]}"]);
    assert_eq!(
        bad,
        [
            "column \"a\": an array has more items than there are bytes",
            "the record is nested more than 64 deep"
        ]
    );
}

#[test]
fn columns_that_do_not_fit_are_refused() {
    let options = by_schema(
        r#"{"type":"record","name":"R","fields":[{"name":"a","type":["int","string"]},
            {"name":"b","type":{"type":"array","items":"string"}}]}"#,
    );
    for (table, reason) in [
        (
            columns(&[("a", SqlType::Text, true)]),
            "column \"a\": union of int, string: of unions only those of null and one other type have a column's type",
        ),
        (
            columns(&[("b", SqlType::Text, true)]),
            "column \"b\": Avro type array cannot be read as text",
        ),
        (
            columns(&[
                ("b", SqlType::Array(Box::new(SqlType::Boolean)), false),
                ("a", SqlType::Int, true),
            ]),
            "column \"a\": union of int, string: of unions only those of null and one other type have a column's type",
        ),
    ] {
        let error = AvroDecoder::of_rows(&table, &options).err().unwrap();
        assert_eq!(error.code(), SqlState::DATATYPE_MISMATCH);
        assert_eq!(
            error.to_string(),
            format!("the columns do not fit option \"avro.schema\": {reason}")
        );
    }
    // What is NOT NULL and not in the schema makes the records bad: those of other schemas may have it.
    let table = columns(&[("c", SqlType::Int, false)]);
    let (rows, bad) = decoded(&options, &table, &[&[0, 2, 0]]);
    assert!(rows.is_empty());
    assert_eq!(
        bad,
        ["column \"c\": is NOT NULL, and the record's schema has no such field"]
    );
}

#[test]
fn rows_are_written_by_a_schema_that_was_there() {
    let options = by_schema(
        r#"{"type":"record","name":"R","fields":[
            {"name":"color","type":{"type":"enum","name":"C","symbols":["RED","BLUE"]}},
            {"name":"more","type":"string","default":"x"},
            {"name":"n","type":"double"},
            {"name":"maybe","type":["string","null"]}]}"#,
    );
    let table = columns(&[("n", SqlType::Int, false), ("color", SqlType::Text, true)]);
    let colors: ArrayRef = Arc::new(StringArray::from(vec!["BLUE"]));
    let rows = |color: ArrayRef| {
        RecordBatch::try_new(Arc::clone(&table), vec![Arc::new(Int32Array::from(vec![3])), color]).unwrap()
    };
    let expected = [&[2, 2, b'x'], &3f64.to_le_bytes()[..], &[2]].concat();
    assert_eq!(records(&rows(colors), &options), [expected]);
    let mut encoder = AvroEncoder::new(table.fields(), &options).unwrap();
    for (color, message) in [
        (
            Some("GREEN"),
            "column \"color\": invalid input value for enum: \"GREEN\"",
        ),
        (None, "column \"color\": null value where the schema has no null"),
    ] {
        let rows = rows(Arc::new(StringArray::from(vec![color])));
        let error = encoder.encode(&Chunk::insert(rows), &mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    let unknown = columns(&[("n", SqlType::Int, false), ("size", SqlType::Int, true)]);
    let error = AvroEncoder::new(unknown.fields(), &options).err().unwrap();
    assert!(
        error.to_string().ends_with("column \"size\" is not in the schema"),
        "{error}"
    );
    let few = columns(&[("n", SqlType::Int, false)]);
    let error = AvroEncoder::new(few.fields(), &options).err().unwrap();
    assert!(
        error
            .to_string()
            .ends_with("field \"color\" of the schema has no column and no default"),
        "{error}"
    );
}

const ENVELOPE: &str = r#"{"type":"record","name":"Envelope","namespace":"s.t","fields":[
    {"name":"before","type":["null",{"type":"record","name":"Value","fields":[{"name":"id","type":"long"},{"name":"t","type":["null","string"],"default":null}]}],"default":null},
    {"name":"after","type":["null","Value"],"default":null},
    {"name":"source","type":{"type":"record","name":"Source","fields":[{"name":"db","type":"string"}]}},
    {"name":"op","type":"string"},
    {"name":"ts_ms","type":["null","long"],"default":null}]}"#;

fn change(op: &str, before: Option<(i64, &str)>, after: Option<(i64, &str)>) -> Vec<u8> {
    let mut out = Vec::new();
    for image in [before, after] {
        super::write::long(image.is_some().into(), &mut out);
        if let Some((id, text)) = image {
            super::write::long(id, &mut out);
            super::write::long(1, &mut out);
            super::write::sized(text.as_bytes(), &mut out);
        }
    }
    super::write::sized(b"db", &mut out);
    super::write::sized(op.as_bytes(), &mut out);
    out.push(0);
    out
}

#[test]
fn changes_are_rows_that_come_and_go() {
    let options = by_schema(ENVELOPE);
    let table = columns(&[("t", SqlType::Text, true), ("id", SqlType::BigInt, false)]);
    let mut decoder = AvroDecoder::of_changes(&table, None, &options).unwrap();
    let records = [
        change("r", None, Some((1, "a"))),
        change("u", Some((1, "a")), Some((1, "b"))),
        change("u", None, Some((1, "c"))),
        change("d", Some((1, "b")), None),
        change("t", None, None),
        change("c", None, None),
    ];
    let bad = decode(&mut decoder, &records);
    assert!(bad[0].contains("REPLICA IDENTITY FULL"), "{bad:?}");
    assert!(bad[1].starts_with("TRUNCATE"), "{bad:?}");
    assert_eq!(bad[2], "the change record has no \"after\"");
    let (rows, weights) = decoder.take_changes().unwrap();
    assert_eq!(weights, Weights::Signed(vec![1, -1, 1, -1].into()));
    let row = |id: i64, text: &str| format!("{{\"t\":\"{text}\",\"id\":{id}}}");
    assert_eq!(texts(rows), [row(1, "a"), row(1, "a"), row(1, "b"), row(1, "b")]);
    // With a key only that is looked at.
    let mut decoder = AvroDecoder::of_changes(&table, Some(&[1]), &options).unwrap();
    assert!(decode(&mut decoder, &records[1..4]).is_empty());
    let (rows, weights) = decoder.take_changes().unwrap();
    assert_eq!(weights, Weights::Signed(vec![-1, 1, 1, -1].into()));
    assert_eq!(texts(rows)[3], "{\"t\":null,\"id\":1}");
    let no_envelope = by_schema(r#"{"type":"record","name":"R","fields":[{"name":"id","type":"long"}]}"#);
    let error = AvroDecoder::of_changes(&table, None, &no_envelope).err().unwrap();
    assert!(error.to_string().contains("is no change record"), "{error}");
}

#[test]
fn derived_schemas_are_those_that_others_expect() {
    let inner = SqlType::Struct(vec![("x".into(), SqlType::Date)]);
    let table = columns(&[
        ("id", SqlType::BigInt, false),
        ("at", SqlType::TimestampTz, true),
        ("many", SqlType::Array(Box::new(inner)), false),
    ]);
    let expected = serde_json::json!({ "type": "record", "name": "orders", "namespace": "shop", "fields": [
        { "name": "id", "type": "long" },
        { "name": "at", "type": ["null", { "type": "long", "logicalType": "timestamp-micros" }], "default": null },
        { "name": "many", "type": { "type": "array", "items": ["null", { "type": "record", "name": "shop.orders.many.item", "fields": [
            { "name": "x", "type": ["null", { "type": "int", "logicalType": "date" }], "default": null }] }] } }] });
    assert_eq!(derive::schema_of(table.fields(), "shop.orders").unwrap(), expected);
    assert_eq!(derive::record_name("2-orders.v1"), "_2_orders_v1");
    let odd: FieldRef = Arc::new(Field::new("a b", DataType::Int32, true));
    assert_eq!(
        derive::schema_of(&Fields::from(vec![odd]), "r").unwrap_err().code(),
        SqlState::INVALID_NAME
    );
    let interval = columns(&[("i", SqlType::Interval, true)]);
    assert_eq!(
        derive::schema_of(interval.fields(), "r").unwrap_err().code(),
        SqlState::FEATURE_NOT_SUPPORTED
    );
}

#[test]
fn files_that_are_damaged_say_where() {
    let table = columns(&[("n", SqlType::Int, false)]);
    let rows = RecordBatch::try_new(Arc::clone(&table), vec![Arc::new(Int32Array::from(vec![1, 2, 3]))]).unwrap();
    let mut encoder = ContainerEncoder::new(table.fields(), &AvroOptions::default()).unwrap();
    let mut file = Vec::new();
    encoder.header(&mut file);
    let start = file.len();
    encoder.encode(&Chunk::insert(rows), &mut file).unwrap();
    let failure = |file: &[u8]| {
        let mut decoder = ContainerDecoder::new(&table).unwrap();
        decoder
            .decode(input(file), 100, &KeptBadRows::default())
            .unwrap_err()
            .to_string()
    };
    assert!(failure(b"PAR1").contains("does not begin as"));
    assert!(failure(&file[..start - 1]).contains("header"));
    assert!(failure(&file[..file.len() - 1]).contains(&format!("the block at byte {start}")));
    let mut mangled = file.clone();
    *mangled.last_mut().unwrap() ^= 1;
    assert!(failure(&mangled).contains("mark"));
    // A value that does not fit is one bad row; the file goes on.
    let narrow = columns(&[("n", SqlType::Text, true)]);
    assert!(ContainerDecoder::after(&narrow, &file, "f").is_err());
    let mut decoder = ContainerDecoder::after(&table, &file, "f").unwrap();
    decoder
        .decode(input(&file[start..]), 100, &KeptBadRows::default())
        .unwrap();
    assert_eq!(decoder.rows(), 3);
}

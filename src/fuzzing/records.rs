//! Formats whose records mean something only by a schema: Avro and Protobuf, as messages, in files, and with the id of a registered schema in
//! front.

use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::decoders::{Make, Reports, checked, decoded, written_is_read};
use crate::engine::formats::avro::AvroOptions;
use crate::engine::formats::avro::container::{ContainerDecoder, ContainerEncoder};
use crate::engine::formats::avro::decode::AvroDecoder;
use crate::engine::formats::avro::derive::columns_of;
use crate::engine::formats::avro::encode::AvroEncoder;
use crate::engine::formats::avro::schema::AvroSchema;
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::protobuf::ProtobufOptions;
use crate::engine::formats::protobuf::decode::Framing;
use crate::engine::formats::protobuf::registered::RegisteredDecoder;
use crate::engine::formats::{Decoder, Encoder, Input};
use crate::engine::message::Chunk;
use crate::engine::schema_registry::{RegisteredSchema, SchemaKind, SchemaRegistry, frame};

/// Rows of `records`, each an input by itself, and how many were reported.
fn rows_of(make: Make<'_>, records: &[Vec<u8>]) -> (RecordBatch, usize) {
    let (mut decoder, reports) = (make(), Reports::default());
    for bytes in records {
        let input = Input {
            bytes,
            offset: 0,
            place: "input",
            at_end: true,
        };
        let taken = decoder.decode(input, 1, &reports);
        assert_eq!(taken.expect("records are refused one by one"), bytes.len());
    }
    let rows = decoder.take().expect("complete rows make a batch");
    (rows, reports.taken().len())
}

/// A record between two good ones, of which it changes nothing.
fn between_good_ones(make: Make<'_>, [first, last]: [Vec<u8>; 2], record: &[u8]) -> RecordBatch {
    let (clean, reported) = rows_of(make, &[first.clone(), last.clone()]);
    assert_eq!((clean.num_rows(), reported), (2, 0), "good records are rows");
    let (rows, reported) = rows_of(make, &[first, record.to_vec(), last]);
    assert_eq!(rows.num_rows() + reported, 3, "a record is a row or reported");
    assert_eq!(
        (rows.slice(0, 1), rows.slice(rows.num_rows() - 1, 1)),
        (clean.slice(0, 1), clean.slice(1, 1)),
        "a record left a trace in its neighbours"
    );
    rows
}

/// What `encoder` writes of the rows, without what it ends records with and with `header` in front of each.
fn records_of(mut encoder: impl Encoder, header: &[u8], end: usize, rows: &RecordBatch) -> Vec<Vec<u8>> {
    let (mut out, mut records, mut start) = (Vec::new(), Vec::new(), 0);
    let mut written = |_: usize, out: &[u8]| {
        records.push([header, &out[start..out.len() - end]].concat());
        start = out.len();
    };
    encoder
        .encode_each(&Chunk::insert(rows.clone()), &mut out, &mut written)
        .expect("rows can be written");
    records
}

fn records_are_read(make: Make<'_>, records: &[Vec<u8>], rows: &RecordBatch) {
    let (again, reported) = rows_of(make, records);
    assert_eq!(reported, 0, "what was written is refused");
    assert_eq!(&again, rows, "what was written is read otherwise");
}

/// With one of the ids that there are: who fetches records has asked for the schemas of all.
fn with_known_id(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    if let [0, a, b, c, d, ..] = data.as_mut_slice() {
        (*a, *b, *c, *d) = (0, 0, 0, *d % 4);
    }
    data
}

fn registry(kind: SchemaKind, texts: &[&str]) -> SchemaRegistry {
    let schema = |(id, text): (u32, &&str)| RegisteredSchema {
        id,
        kind,
        text: (*text).to_owned(),
        references: Vec::new(),
        refers_to: Vec::new(),
    };
    SchemaRegistry::of_known((0..).zip(texts).map(schema).collect())
}

/// Every kind of field.
const PROTOBUF: &str = include_str!("everything.proto");
/// Behind an id: it is the fifth message of its schema.
const EVERYTHING_PLACE: [u8; 2] = [2, 8];
/// Other versions of it: an older one, one with other messages too, one that does not fit.
const PROTOBUF_VERSIONS: [&str; 4] = [
    PROTOBUF,
    "syntax = 'proto3'; message Everything { int32 i32 = 2; string text = 10; repeated int32 packed = 16; }",
    "syntax = 'proto3'; message A { message B { int32 i32 = 1; oneof o { bool flag = 2; string text = 3; } map<string, int64> counts = 4; } } message C {}",
    "syntax = 'proto3'; message Everything { repeated string i32 = 2; }",
];

fn everything() -> &'static ProtobufOptions {
    static MESSAGE: OnceLock<ProtobufOptions> = OnceLock::new();
    MESSAGE.get_or_init(|| ProtobufOptions::of_text(PROTOBUF, "Everything").expect("a schema"))
}

pub fn protobuf_file(data: &[u8]) {
    let message = everything();
    let schema = message.schema();
    let make = || Box::new(message.decoder(&schema, Framing::Delimited).expect("its columns")) as Box<dyn Decoder>;
    let (outcome, _) = checked(&make, &schema, data);
    let encoder = message.encoder(&schema, Framing::Delimited).expect("its columns");
    written_is_read(&make, encoder, &outcome.rows);
}

pub fn protobuf(data: &[u8]) {
    let message = everything();
    let schema = message.schema();
    let make = || Box::new(message.decoder(&schema, Framing::Message).expect("its columns")) as Box<dyn Decoder>;
    let rows = between_good_ones(&make, [b"\x10\x01".to_vec(), b"\x10\x02".to_vec()], data);
    let encoder = message.encoder(&schema, Framing::Message).expect("its columns");
    records_are_read(&make, &records_of(encoder, &[], 1, &rows), &rows);
}

pub fn protobuf_framed(data: &[u8]) {
    let (message, data) = (everything(), with_known_id(data));
    let schema = message.schema();
    let registry = Arc::new(registry(SchemaKind::Protobuf, &PROTOBUF_VERSIONS));
    for given in [None, Some(message)] {
        let make = || {
            let decoder = RegisteredDecoder::new(&schema, Arc::clone(&registry), given, None);
            Box::new(decoder.expect("its columns")) as Box<dyn Decoder>
        };
        let header = [&frame::header(0)[..], &EVERYTHING_PLACE].concat();
        let good = |number: u8| [&header[..], &[0x10, number]].concat();
        let rows = between_good_ones(&make, [good(1), good(2)], &data);
        if given.is_none() {
            // What a version does not know is the default of the column's type, which is no value of an enum.
            continue;
        }
        let encoder = message.encoder(&schema, Framing::Message).expect("its columns");
        records_are_read(&make, &records_of(encoder, &header, 1, &rows), &rows);
    }
}

/// Every type of Avro.
const AVRO: &str = include_str!("everything.avsc");
/// Other versions of it: fewer fields in another order, more of them, one that does not fit.
const AVRO_VERSIONS: [&str; 4] = [
    AVRO,
    r#"{"type":"record","name":"R","fields":[{"name":"text","type":"bytes"},{"name":"id","type":"int"},{"name":"x","type":["null","R"]}]}"#,
    r#"{"type":"record","name":"R","fields":[{"name":"id","type":{"type":"fixed","name":"F","size":3}}]}"#,
    r#"{"type":"record","name":"R","fields":[{"name":"list","type":{"type":"array","items":{"type":"array","items":"null"}}},{"name":"id","type":"long"}]}"#,
];

/// A column for each field but the last, whose union is none.
fn avro_columns() -> SchemaRef {
    let mut schema: serde_json::Value = serde_json::from_str(AVRO).expect("JSON");
    schema["fields"].as_array_mut().expect("fields").pop();
    let schema = AvroSchema::parse(&schema.to_string(), &[]).expect("a schema");
    columns_of(&schema).expect("its columns")
}

/// Records that hold these numbers and little else, by the schema of the columns.
fn good_avro(schema: &SchemaRef, options: &AvroOptions, header: &[u8]) -> [Vec<u8>; 2] {
    let line = |id: u8| {
        format!(
            "{{\"id\":{id},\"flag\":true,\"small\":1,\"real\":0.5,\"raw\":\"\",\"color\":\"RED\",\"price\":1.5,\"day\":\"2026-01-01\",\
             \"time\":\"01:02:03\",\"at\":\"2026-01-01T00:00:00Z\",\"local\":\"2026-01-01T00:00:00\",\"list\":[1,null],\"map\":{{\"k\":\"v\"}}}}\n"
        )
    };
    let make = JsonDecoder::new(schema, JsonDecodeOptions::default()).expect("a schema");
    let text = line(1) + &line(2);
    let rows = decoded(Box::new(make), schema, text.as_bytes(), &[], 10);
    assert!(rows.reported.is_empty(), "{:?}", rows.reported);
    let encoder = AvroEncoder::new(schema.fields(), options).expect("the columns are written");
    let records = records_of(encoder, header, 0, &rows.rows);
    records.try_into().expect("two rows are two records")
}

pub fn avro(data: &[u8]) {
    let (schema, options) = (avro_columns(), AvroOptions::by_schema(AVRO));
    let make = || Box::new(AvroDecoder::of_rows(&schema, &options).expect("its columns")) as Box<dyn Decoder>;
    let rows = between_good_ones(&make, good_avro(&schema, &options, &[]), data);
    let encoder = AvroEncoder::new(schema.fields(), &options).expect("the columns are written");
    records_are_read(&make, &records_of(encoder, &[], 0, &rows), &rows);
}

pub fn avro_framed(data: &[u8]) {
    let (schema, data) = (avro_columns(), with_known_id(data));
    let (by_schema, by_registry) = (
        AvroOptions::by_schema(AVRO),
        AvroOptions::by_registry(registry(SchemaKind::Avro, &AVRO_VERSIONS)),
    );
    let make = || Box::new(AvroDecoder::of_rows(&schema, &by_registry).expect("its columns")) as Box<dyn Decoder>;
    let header = frame::header(0);
    let rows = between_good_ones(&make, good_avro(&schema, &by_schema, &header), &data);
    let encoder = AvroEncoder::new(schema.fields(), &by_schema).expect("the columns are written");
    records_are_read(&make, &records_of(encoder, &header, 0, &rows), &rows);
}

pub fn avro_file(data: &[u8]) {
    // Files say by which schema they were written; that of the columns holds whatever was in them.
    let (schema, options) = (avro_columns(), AvroOptions::default());
    let make = || Box::new(ContainerDecoder::new(&schema).expect("the columns are read")) as Box<dyn Decoder>;
    let (outcome, _) = checked(&make, &schema, data);
    let encoder = ContainerEncoder::new(schema.fields(), &options).expect("the columns are written");
    written_is_read(&make, encoder, &outcome.rows);
}

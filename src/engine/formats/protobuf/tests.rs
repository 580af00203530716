//! The decoder and the encoder against bytes made by hand, and what is said about wrong schemas.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, OnceLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use prost_reflect::{DescriptorPool, MessageDescriptor};

use crate::engine::connectors::options::{OptionReader, common_descriptions};
use crate::engine::connectors::testing::KeptBadRows;
use crate::engine::connectors::{ConnectorDescription, Direction};
use crate::engine::error::Error;
use crate::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};
use crate::engine::formats::protobuf::decode::{Framing, ProtobufDecoder};
use crate::engine::formats::protobuf::encode::ProtobufEncoder;
use crate::engine::formats::protobuf::types::Purpose;
use crate::engine::formats::protobuf::{ProtobufOptions, ProtobufTable, types};
use crate::engine::formats::{Decoder, Encoder, Input};
use crate::engine::message::Chunk;
use crate::error::Report;
use crate::options::ResolvedOptions;

/// Every kind of field.
const EVERYTHING: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
enum Color { NONE = 0; RED = 1; GREEN = 2; }
message Inner { int32 a = 1; optional string b = 2; repeated Inner2 more = 3; map<string, Inner2> by_name = 4; }
message Inner2 { uint64 n = 1; repeated sint64 many = 2; Color color = 3; oneof one { string x = 4; Inner3 y = 5; } }
message Inner3 { bool flag = 1; map<int32, bool> flags = 2; }
message Node { string name = 1; repeated Node children = 2; }
message Plain {
  int32 n = 1; optional int64 m = 2; Inner inner = 3; repeated int32 ns = 4; repeated Inner inners = 5;
  map<string, int64> counts = 6; map<bool, Inner3> threes = 7;
  oneof choice { string text = 8; Inner2 deep = 9; bytes raw = 10; }
}
message Everything {
  bool flag = 1; int32 i32 = 2; int64 i64 = 3; uint32 u32 = 4; uint64 u64 = 5; sint32 s32 = 6; sint64 s64 = 7;
  fixed32 f32 = 8; fixed64 f64 = 9; sfixed32 sf32 = 10; sfixed64 sf64 = 11; float real = 12; double double = 13;
  string text = 14; bytes raw = 15; Color color = 16; optional Color maybe_color = 17; optional int32 maybe = 18;
  Inner inner = 19; repeated Inner inners = 20; repeated int32 packed = 21; repeated sfixed64 unpacked = 22 [packed = false];
  repeated string texts = 23; repeated Color colors = 24; map<string, int64> counts = 25; map<uint32, Inner> by_number = 26;
  google.protobuf.Timestamp at = 27; google.protobuf.Duration took = 28; google.protobuf.StringValue wrapped = 29;
  repeated google.protobuf.Timestamp ats = 30; google.protobuf.Struct anything = 31; Node tree = 32;
  oneof choice { string chosen_text = 33; Inner2 chosen_inner = 34; int64 chosen_number = 2000; }
  google.protobuf.UInt64Value wrapped_number = 36; map<sint64, google.protobuf.Duration> durations = 37;
}
"#;

const OLD: &str = r#"
syntax = "proto2";
package t2;
enum Size { SMALL = 1; LARGE = 5; }
message Old {
  required int32 id = 1; optional string name = 2 [default = "none"]; optional Size size = 3; repeated int32 unpacked = 4;
  repeated int32 packed = 5 [packed = true]; optional group Part = 6 { optional int32 x = 1; repeated group Deep = 2 { optional string s = 1; } }
  repeated Size sizes = 7;
}
"#;

/// A message of the schemas above.
pub fn message(name: &str) -> MessageDescriptor {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| {
        let mut pool = DescriptorPool::new();
        for (text, main) in [(EVERYTHING, "t.Everything"), (OLD, "t2.Old")] {
            let found = read(&[("protobuf.schema", text), ("protobuf.message", main)]).unwrap();
            let files = found.message.parent_pool().file_descriptor_protos().cloned();
            for mut file in files {
                if file.name() == "schema.proto" {
                    file.name = Some(format!("{main}.proto"));
                }
                // Again one of those that come with the compiler.
                if pool.get_file_by_name(file.name()).is_none() {
                    pool.add_file_descriptor_proto(file).unwrap();
                }
            }
        }
        pool
    });
    pool.get_message_by_name(name).unwrap()
}

const FORMATS: &[&str] = &["protobuf"];

fn description() -> ConnectorDescription {
    ConnectorDescription {
        name: "test",
        title: "",
        summary: "",
        category: "",
        direction: Direction::Both,
        formats: FORMATS,
        options: common_descriptions(FORMATS),
    }
}

fn options(given: &[(&str, &str)]) -> ResolvedOptions {
    crate::engine::connectors::testing::given(given)
}

fn read(given: &[(&str, &str)]) -> Result<ProtobufOptions, Error> {
    let (description, options) = (description(), options(given));
    match ProtobufTable::read(&OptionReader::for_table(&description, &options)?)? {
        ProtobufTable::Given(given) => Ok(given),
        ProtobufTable::Registered(_) => panic!("a registry is named"),
    }
}

fn columns(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let field = |(name, of, nullable): &(&str, DataType, bool)| Field::new(*name, of.clone(), *nullable);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

/// The rows of these records as JSON, and the reasons of those that are none.
pub fn rows(message: &MessageDescriptor, schema: &SchemaRef, records: &[&[u8]]) -> (String, Vec<String>) {
    let mut decoder = ProtobufDecoder::new(message, schema, Framing::Message).unwrap();
    let bad = KeptBadRows::default();
    for bytes in records {
        let input = Input {
            bytes,
            offset: 0,
            place: "test",
            at_end: true,
        };
        decoder.decode(input, usize::MAX, &bad).unwrap();
    }
    let reasons = bad.reasons();
    let batch = decoder.take().unwrap();
    let mut out = Vec::new();
    JsonEncoder::new(schema, JsonEncodeOptions::default())
        .encode(&Chunk::insert(batch), &mut out)
        .unwrap();
    (String::from_utf8(out).unwrap(), reasons)
}

#[test]
fn absent_is_a_default_or_null() {
    let message = message("t.Plain");
    let schema = types::schema(&message);
    let (shown, bad) = rows(&message, &schema, &[b"", b"\x08\x07\x10\x00\x1a\x00"]);
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(
        shown,
        "{\"n\":0,\"m\":null,\"inner\":null,\"ns\":[],\"inners\":[],\"counts\":{},\"threes\":{},\"text\":null,\"deep\":null,\
         \"raw\":null}\n\
         {\"n\":7,\"m\":0,\"inner\":{\"a\":0,\"b\":null,\"more\":[],\"by_name\":{}},\"ns\":[],\"inners\":[],\"counts\":{},\
         \"threes\":{},\"text\":null,\"deep\":null,\"raw\":null}\n"
    );
}

#[test]
fn the_last_member_of_a_oneof_stays() {
    let message = message("t.Plain");
    let schema = columns(&[("text", DataType::Utf8, true), ("raw", DataType::Binary, true)]);
    // text, then raw; raw, then text; text, then the message that no column wants.
    let records: [&[u8]; 3] = [b"\x42\x01a\x52\x01b", b"\x52\x01b\x42\x01a", b"\x42\x01a\x4a\x00"];
    let (shown, bad) = rows(&message, &schema, &records);
    assert!(bad.is_empty(), "{bad:?}");
    assert_eq!(
        shown,
        "{\"text\":null,\"raw\":\"\\\\x62\"}\n{\"text\":\"a\",\"raw\":null}\n{\"text\":null,\"raw\":null}\n"
    );
}

#[test]
fn bad_records_say_why() {
    let message = message("t.Everything");
    let schema = columns(&[
        ("u64", DataType::Int64, false),
        ("text", DataType::Utf8, false),
        ("maybe", DataType::Int32, false),
    ]);
    let huge = b"\x28\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x90\x01\x01";
    let records: [&[u8]; 7] = [
        huge,
        b"\x72\x01\xff\x90\x01\x01",
        b"\x28\x01",
        b"\x28",
        b"\x2a\x00",
        b"\x72\x05a",
        b"\x28\x05\x90\x01\x02",
    ];
    let (shown, bad) = rows(&message, &schema, &records);
    assert_eq!(shown, "{\"u64\":5,\"text\":\"\",\"maybe\":2}\n");
    assert_eq!(
        bad,
        [
            "column \"u64\": value \"18446744073709551615\" is out of range for type bigint",
            "column \"text\": invalid byte sequence for encoding \"UTF8\"",
            "column \"maybe\": null value in a column that is NOT NULL",
            "invalid Protobuf message at byte 2: it ends inside of a number",
            "invalid Protobuf message at byte 2: a field in another layout than its type has",
            "invalid Protobuf message at byte 3: it ends inside of a value",
        ]
    );
}

#[test]
fn a_stream_may_be_cut_anywhere() {
    let message = message("t.Plain");
    let schema = columns(&[("n", DataType::Int32, false), ("text", DataType::Utf8, true)]);
    // 1, nothing, a bad one, 300 letters, the beginning of one.
    let mut stream = b"\x02\x08\x01\x00\x01\x08".to_vec();
    stream.extend(b"\xaf\x02\x42\xac\x02");
    stream.extend([b'x'; 300]);
    stream.extend(b"\x09\x08");
    let mut seen = Vec::new();
    for cut in 0..=stream.len() {
        let mut decoder = ProtobufDecoder::new(&message, &schema, Framing::Delimited).unwrap();
        let bad = KeptBadRows::default();
        let mut at = 0;
        for end in [cut, stream.len()] {
            let input = Input {
                bytes: &stream[at..end],
                offset: at as u64,
                place: "f",
                at_end: end == stream.len(),
            };
            at += decoder.decode(input, 100, &bad).unwrap();
        }
        assert_eq!(at, stream.len());
        let rows = decoder.take().unwrap();
        assert_eq!(rows.num_rows(), 3);
        let bad = bad.0.into_inner().unwrap();
        seen.push((rows, bad));
    }
    assert_eq!(
        seen[0].1,
        [
            (
                4,
                "invalid Protobuf message at byte 2: it ends inside of a number".to_owned()
            ),
            (311, "the input ends inside of a message".to_owned())
        ]
    );
    assert!(seen.iter().all(|one| *one == seen[0]));
}

#[test]
fn a_length_that_is_none_is_an_error() {
    let message = message("t.Plain");
    let schema = columns(&[("n", DataType::Int32, false)]);
    let mut decoder = ProtobufDecoder::new(&message, &schema, Framing::Delimited).unwrap();
    let input = Input {
        bytes: b"\x02\x08\x01\xff\xff\xff\xff\x7f",
        offset: 0,
        place: "a.pb",
        at_end: false,
    };
    let error = decoder.decode(input, 100, &KeptBadRows::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "what stands at byte 3 of \"a.pb\" is not the length of a Protobuf message"
    );
}

#[test]
fn what_cannot_be_written_is_an_error() {
    use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
    let message = message("t.Everything");
    let fault = |name: &str, array: ArrayRef| {
        let batch = RecordBatch::try_from_iter_with_nullable([(name, array, true)]).unwrap();
        let mut encoder = ProtobufEncoder::new(&message, &batch.schema(), Framing::Delimited)?;
        encoder.encode(&Chunk::insert(batch), &mut Vec::new())
    };
    let numbers = || Arc::new(Int64Array::from(vec![1, i64::MAX])) as ArrayRef;
    let said = |name: &str, array: ArrayRef| fault(name, array).unwrap_err().to_string();
    assert_eq!(
        said("i32", numbers()),
        "value 9223372036854775807 of column \"i32\" is out of range for its Protobuf field"
    );
    assert_eq!(
        said("u32", Arc::new(Int64Array::from(vec![-1]))),
        "a value of column \"u32\" does not fit its Protobuf field"
    );
    assert_eq!(
        said("color", Arc::new(StringArray::from(vec!["RED", "PINK"]))),
        "value \"PINK\" of column \"color\" does not fit its Protobuf field"
    );
    let list = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([Some([Some(1), None])]);
    assert_eq!(
        said("packed", Arc::new(list)),
        "an element of column \"packed\" is NULL"
    );
    assert_eq!(
        said("text", numbers()),
        "column \"text\" of type bigint does not fit field \"t.Everything.text\" of type string"
    );
    fault("i64", numbers()).unwrap();
}

#[test]
fn required_fields_need_columns_in_sinks() {
    let old = message("t2.Old");
    let name = columns(&[("name", DataType::Utf8, true)]);
    types::check(&old, &name, Purpose::Read).unwrap();
    let error = types::check(&old, &name, Purpose::Write).unwrap_err();
    assert_eq!(error.to_string(), "message \"t2.Old\" needs field \"id\"");
}

#[test]
fn columns_are_compared_with_fields() {
    let everything = message("t.Everything");
    let said = |name: &str, of: DataType| {
        let error = types::check(&everything, &columns(&[(name, of, true)]), Purpose::Read).unwrap_err();
        (error.to_string(), error.report().hint.unwrap_or_default())
    };
    assert_eq!(
        said("i32", DataType::Utf8),
        (
            "column \"i32\" of type text does not fit field \"t.Everything.i32\" of type int32".to_owned(),
            "Declare it as integer.".to_owned()
        )
    );
    assert_eq!(said("packed", DataType::Int32).1, "Declare it as integer[].");
    let (message, hint) = said("colour", DataType::Utf8);
    assert_eq!(message, "column \"colour\" is no field of message \"t.Everything\"");
    assert!(hint.starts_with("Its fields are: flag, i32, "), "{hint}");
    let inner = DataType::Struct(vec![Field::new("c", DataType::Int32, true)].into());
    assert_eq!(
        said("inner", inner).0,
        "column \"inner.c\" is no field of message \"t.Inner\""
    );
    // Upper and lower case are told apart only where that is needed.
    types::check(&everything, &columns(&[("TEXT", DataType::Utf8, true)]), Purpose::Read).unwrap();
}

#[test]
fn schemas_are_refused_with_the_place() {
    let said = |given: &[(&str, &str)]| {
        let error = read(given).unwrap_err();
        (error.to_string(), error.report().hint.unwrap_or_default())
    };
    let (message, _) = said(&[("protobuf.schema", "syntax = \"proto3\";\nmessage A {\n  int32 a 1;\n}")]);
    assert!(
        message.starts_with("invalid Protobuf schema: schema.proto:3:11: "),
        "{message}"
    );
    let (message, _) = said(&[(
        "protobuf.schema",
        "syntax = \"proto3\";\nmessage A {\n  Missing a = 1;\n}",
    )]);
    assert!(
        message.contains("schema.proto:3:") && message.contains("Missing"),
        "{message}"
    );
    let (message, _) = said(&[(
        "protobuf.schema",
        "syntax = \"proto3\";\nimport \"b.proto\";\nmessage A {}",
    )]);
    assert!(
        message.contains("schema.proto:2:1") && message.contains("b.proto"),
        "{message}"
    );
    let two = "syntax = \"proto3\"; package p; message A { message C {} } message B { message C {} }";
    assert_eq!(
        said(&[("protobuf.schema", two)]),
        (
            "option \"protobuf.message\" is missing".to_owned(),
            "The messages are: p.A, p.B.".to_owned()
        )
    );
    assert_eq!(
        said(&[("protobuf.schema", two), ("protobuf.message", "p.BB")]),
        (
            "message \"p.BB\" does not exist in the Protobuf schema".to_owned(),
            "Perhaps you meant \"p.B\". The messages are: p.A, p.B.".to_owned()
        )
    );
    assert_eq!(
        said(&[("protobuf.schema", two), ("protobuf.message", "C")]).0,
        "message name \"C\" is ambiguous"
    );
    read(&[("protobuf.schema", two), ("protobuf.message", "B")]).unwrap();
    assert_eq!(said(&[]).0, "format \"protobuf\" needs a schema");
    assert_eq!(
        said(&[("protobuf.schema", two), ("protobuf.schema_file", "a")]).0,
        "format \"protobuf\" takes one schema"
    );
}

#[test]
fn schemas_come_from_files_with_imports_and_from_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    let main = folder.path().join("deep/main.proto");
    std::fs::write(
        &main,
        "syntax = \"proto3\"; import \"deep/part.proto\"; message Main { Part part = 1; }",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("deep/part.proto"),
        "syntax = \"proto3\"; message Part { int32 n = 1; }",
    )
    .unwrap();
    let (path, include) = (main.to_str().unwrap(), folder.path().to_str().unwrap());
    let of_file = read(&[("protobuf.schema_file", path), ("protobuf.include", include)]).unwrap();
    let error = read(&[("protobuf.schema_file", path)]).unwrap_err().to_string();
    assert!(
        error.contains("main.proto:1:") && error.contains("deep/part.proto"),
        "{error}"
    );

    let compiled = folder.path().join("main.pb");
    std::fs::write(&compiled, of_file.message.parent_pool().encode_to_vec()).unwrap();
    let compiled = compiled.to_str().unwrap();
    let of_set = read(&[("protobuf.descriptor_file", compiled), ("protobuf.message", "Main")]).unwrap();
    assert_eq!(of_set.schema(), of_file.schema());
    assert_eq!(
        of_set.schema().field(0).data_type(),
        &DataType::Struct(vec![Field::new("n", DataType::Int32, false)].into())
    );
    let error = read(&[("protobuf.descriptor_file", path)]).unwrap_err().to_string();
    assert!(error.starts_with("invalid Protobuf descriptor set in file"), "{error}");
    let error = read(&[("protobuf.schema_file", "/nowhere/a.proto")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "could not read file \"/nowhere/a.proto\": No such file or directory"
    );
}

//! Protobuf through a broker and a schema registry, both processes, with Confluent's client on the other side.

#![allow(clippy::unwrap_used)]

use arrow::datatypes::SchemaRef;
use serde_json::{Value, json};

use super::avro_tests::{Systems, columns};
use super::*;
use crate::engine::connectors::testing::given;
use crate::engine::schema_registry::frame;
use crate::error::{Report, SqlState};
use crate::types::SqlType;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testing/confluent_protobuf.py");
const NEEDS: &str = "import grpc_tools.protoc, confluent_kafka.schema_registry.protobuf";
const PROTOBUF: (&str, &str) = ("format", "protobuf");

impl Systems {
    fn protobuf_rows(&self, columns: &SchemaRef, more: &[(&str, &str)]) -> Vec<String> {
        self.rows(columns, &[more, &[PROTOBUF]].concat())
    }

    fn inferred(&self, more: &[(&str, &str)]) -> Result<SchemaRef> {
        let options = given(&self.options(&[more, &[PROTOBUF]].concat()));
        Ok(self.bench.runtime.block_on(Kafka.infer_schema(&options))?.unwrap())
    }

    fn check(&self, columns: &SchemaRef, more: &[(&str, &str)]) -> Result<()> {
        let table = self.table(Some(columns), &[more, &[PROTOBUF]].concat())?;
        self.bench.runtime.block_on(table.check_outside(&[]))
    }

    fn latest(&self) -> Value {
        let path = format!("subjects/{}/versions/latest", self.subject());
        self.registry.ask("GET", &path, &Value::Null)
    }
}

const COMMON: &str = "syntax = \"proto3\"; package shop; message Money { int64 units = 1; int32 nanos = 2; }";
const ORDER: &str = r#"syntax = "proto3";
package shop;
import "common.proto";
import "google/protobuf/timestamp.proto";
message Unused { string x = 1; }
message Order {
  enum State { OPEN = 0; PAID = 1; }
  message Line { string article = 1; uint32 count = 2; }
  int64 id = 1;
  optional string customer = 2;
  Money price = 3;
  google.protobuf.Timestamp at = 4;
  repeated Line lines = 5;
  map<string, int32> counts = 6;
  State state = 7;
  oneof how { bytes card = 8; bool cash = 9; }
}"#;

#[test]
fn what_confluents_client_writes_is_read() {
    let Some(systems) = Systems::start() else { return };
    let files = json!({ "message": "shop.Order", "main": "order.proto",
        "files": { "common.proto": COMMON, "order.proto": ORDER } });
    let first = json!({ "id": 7, "customer": "ä", "price": { "units": 12, "nanos": 5 }, "at": "2026-02-03T04:05:06.000007Z",
        "lines": [{ "article": "a", "count": 2 }, {}], "counts": { "k": -1 }, "state": "PAID", "cash": false });
    let input = format!("{first}\n{}\n", json!({ "id": -1, "card": "AP8=" }));
    if systems
        .confluent(NEEDS, PROGRAM, "write", &files.to_string(), &input)
        .is_none()
    {
        return;
    }
    // The first message of the schema is another one.
    let order = ("protobuf.message", "Order");
    let table = systems.inferred(&[order]).unwrap();
    let rows = [
        "{\"id\":7,\"customer\":\"ä\",\"price\":{\"units\":12,\"nanos\":5},\"at\":\"2026-02-03T04:05:06.000007+00:00\",\
         \"lines\":[{\"article\":\"a\",\"count\":2},{\"article\":\"\",\"count\":0}],\"counts\":{\"k\":-1},\"state\":\"PAID\",\
         \"card\":null,\"cash\":false}",
        "{\"id\":-1,\"customer\":null,\"price\":null,\"at\":null,\"lines\":[],\"counts\":{},\"state\":\"OPEN\",\
         \"card\":\"\\\\x00ff\",\"cash\":null}",
    ];
    assert_eq!(systems.protobuf_rows(&table, &[order]), rows);
    assert_eq!(systems.protobuf_rows(&table, &[]), rows);
    assert_eq!(systems.bench.bad_rows.reasons(), Vec::<String>::new());
    // A record of another message than the table is about.
    assert!(
        systems
            .protobuf_rows(&table, &[("protobuf.message", "Unused")])
            .is_empty()
    );
    let reasons = systems.bench.bad_rows.reasons();
    assert!(
        reasons[0].ends_with("it is a message \"shop.Order\", not \"Unused\""),
        "{reasons:?}"
    );
}

/// Every type that a schema can be made of.
fn many_types() -> SchemaRef {
    columns(&[
        ("id", SqlType::BigInt, false),
        ("name", SqlType::Text, true),
        ("ok", SqlType::Boolean, true),
        ("n", SqlType::Int, false),
        ("x", SqlType::Double, true),
        ("at", SqlType::TimestampTz, true),
        ("raw", SqlType::Bytea, true),
        ("tags", SqlType::Array(Box::new(SqlType::Text)), false),
        (
            "counts",
            SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Int)),
            false,
        ),
        (
            "place",
            SqlType::Struct(vec![("x".into(), SqlType::Double), ("y".into(), SqlType::Real)]),
            true,
        ),
        (
            "price",
            SqlType::Numeric {
                precision: 10,
                scale: 2,
            },
            true,
        ),
        ("day", SqlType::Date, true),
        ("hour", SqlType::Time, false),
    ])
}

#[test]
fn confluents_client_reads_what_is_written() {
    let Some(systems) = Systems::start() else { return };
    let lines = r#"{"id":7,"name":"ä","ok":false,"n":3,"x":0.5,"at":"2026-02-03T04:05:06.000007Z","raw":"\\x00ff","tags":["a","b"],"counts":{"k":-1},"place":{"x":0.5,"y":1.5},"price":-12.34,"day":"2026-02-03","hour":"04:05:06.000007"}
{"id":-1,"n":0,"tags":[],"counts":{},"hour":"00:00:00"}
"#;
    systems.write(&many_types(), lines, &[PROTOBUF]).unwrap();
    let latest = systems.latest();
    assert_eq!(latest["schemaType"], "PROTOBUF");
    let text = latest["schema"].as_str().unwrap();
    for line in [
        "  int64 id = 1;",
        "  optional string name = 2;",
        "  int32 n = 4;",
        "  google.protobuf.Timestamp at = 6;",
        "  repeated string tags = 8;",
        "  map<string, int32> counts = 9;",
        "    optional double x = 1;",
        "  Place place = 10;",
        "  google.type.Date day = 12;",
    ] {
        assert!(text.lines().any(|known| known == line), "{text}");
    }
    // And so do we, with the columns that the registry tells.
    let inferred = systems.inferred(&[]).unwrap();
    assert_eq!(inferred.field(9).data_type(), many_types().field(9).data_type());
    for at in 10..13 {
        assert_eq!(inferred.field(at).data_type(), many_types().field(at).data_type());
    }
    assert!(!inferred.field(0).is_nullable() && inferred.field(1).is_nullable());
    assert_eq!(
        systems.protobuf_rows(&inferred, &[]),
        systems.protobuf_rows(&many_types(), &[])
    );
    let Some(found) = systems.confluent(NEEDS, PROGRAM, "read", "2", "") else {
        return;
    };
    let found: Vec<Value> = found.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = json!({ "id": "7", "name": "ä", "ok": false, "n": 3, "x": 0.5, "at": "2026-02-03T04:05:06.000007Z", "raw": "AP8=",
        "tags": ["a", "b"], "counts": { "k": -1 }, "place": { "x": 0.5, "y": 1.5 },
        "price": { "value": "+y4=", "precision": 4, "scale": 2 }, "day": { "year": 2026, "month": 2, "day": 3 },
        "hour": { "hours": 4, "minutes": 5, "seconds": 6, "nanos": 7000 } });
    let midnight = json!({ "hours": 0, "minutes": 0, "seconds": 0, "nanos": 0 });
    assert_eq!(
        found,
        [
            first,
            json!({ "id": "-1", "n": 0, "tags": [], "counts": {}, "hour": midnight })
        ]
    );
}

fn message(fields: &str) -> String {
    format!("syntax = \"proto3\"; message R {{ {fields} }}")
}

#[test]
fn each_record_is_read_by_its_own_schema() {
    let Some(systems) = Systems::start() else { return };
    let subject = systems.subject();
    let old = systems
        .registry
        .register_protobuf(&subject, &message("int32 a = 1;"), &[]);
    let common = systems.registry.new_subject();
    systems
        .registry
        .register_protobuf(&common, "syntax = \"proto3\"; message Inner { int64 v = 1; }", &[]);
    let next = "syntax = \"proto3\"; import \"inner.proto\"; message R { int32 a = 1; int64 b = 2; Inner c = 3; string more = 4; message N { int32 a = 5; } }";
    let next = systems
        .registry
        .register_protobuf(&subject, next, &[("inner.proto", &common)]);
    let other =
        systems
            .registry
            .register_protobuf(&systems.registry.new_subject(), &message("repeated string a = 1;"), &[]);
    let avro = systems.registry.register(
        &systems.registry.new_subject(),
        r#"{"type":"record","name":"O","fields":[{"name":"a","type":"int"}]}"#,
    );
    let framed = |id: u32, record: &[u8]| [&frame::header(id), record].concat();
    let records = [
        framed(old, &[0, 8, 1]),
        framed(next, &[0, 8, 2, 16, 3, 26, 2, 8, 4, 34, 1, b'x']),
        framed(other, &[0]),
        framed(avro, &[0]),
        framed(1_999_999_999, &[0]),
        b"\x08\x01".to_vec(),
        framed(old, &[0, 8]),
        framed(old, &[2, 2, 8, 1]),
        framed(old, &[]),
        // A message in the first one; and an empty first one.
        framed(next, &[4, 0, 0, 40, 9]),
        framed(old, &[0]),
    ];
    for _ in 0..20 {
        super::tests::produce_values(&systems.kafka.address, &systems.topic, &records);
    }
    let table = columns(&[
        ("b", SqlType::BigInt, true),
        ("a", SqlType::BigInt, false),
        (
            "c",
            SqlType::Struct(vec![("v".into(), SqlType::Int), ("w".into(), SqlType::Text)]),
            true,
        ),
        ("required", SqlType::Text, false),
        ("list", SqlType::Array(Box::new(SqlType::Int)), false),
        (
            "map",
            SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Int)),
            false,
        ),
        ("none", SqlType::Array(Box::new(SqlType::Int)), true),
    ]);
    let rows = systems.protobuf_rows(&table, &[]);
    let rest = "\"required\":\"\",\"list\":[],\"map\":{},\"none\":null}";
    let row = |b: &str, a: u8, c: &str| format!("{{\"b\":{b},\"a\":{a},\"c\":{c},{rest}");
    assert_eq!(
        rows[..4],
        [
            row("null", 1, "null"),
            row("3", 2, "{\"v\":4,\"w\":null}"),
            row("null", 9, "null"),
            row("null", 0, "null")
        ]
    );
    assert_eq!(rows.len(), 80);
    let reasons = systems.bench.bad_rows.reasons();
    assert_eq!(reasons.len(), 140);
    for (reason, said) in reasons.iter().zip([
        "does not fit the columns: column \"a\" of type bigint does not fit field \"R.a\"",
        "is of type Avro, not Protobuf",
        "not found",
        "its writer did not use the registry",
        "invalid Protobuf message at byte 2",
        "has no message at [1]",
        "ends where it says which message",
    ]) {
        assert!(reason.contains(said), "{reason}, not {said}");
    }
    if let Some(requests) = systems.registry.requests() {
        let asked = requests
            .iter()
            .filter(|line| line.starts_with("GET /schemas/ids/"))
            .count();
        assert_eq!(asked, 5, "{requests:?}");
    }
    // By the numbers of the schema that the table gives, whatever its fields are called.
    let by_numbers = [
        (
            "protobuf.schema",
            "syntax = \"proto3\"; message R { int64 first = 1; optional int64 second = 2; }",
        ),
        ("protobuf.confluent_schema_registry", "true"),
    ];
    let table = columns(&[("second", SqlType::BigInt, true), ("first", SqlType::BigInt, false)]);
    assert_eq!(
        systems.protobuf_rows(&table, &by_numbers)[..3],
        [
            "{\"second\":null,\"first\":1}",
            "{\"second\":3,\"first\":2}",
            "{\"second\":null,\"first\":0}"
        ]
    );
}

#[test]
fn a_sink_writes_by_the_latest_version_or_adds_to_it() {
    let Some(systems) = Systems::start() else { return };
    let one = columns(&[("id", SqlType::BigInt, false)]);
    let error = systems.check(&one, &[("type", "source")]).unwrap_err();
    assert_eq!(error.code(), SqlState::UNDEFINED_OBJECT);
    systems.check(&one, &[("type", "sink")]).unwrap();
    let first = "syntax = \"proto3\";\npackage p;\n// Kept.\nmessage R {\n  reserved 7;\n  message In {\n    int32 x = 4; // }\n  }\n  sint64 id = 3;\n  In inner = 2;\n}\nmessage Z {}\n";
    let id = systems.registry.register_protobuf(&systems.subject(), first, &[]);
    // All of the columns are fields: that schema it is, and its numbers.
    systems.check(&one, &[("type", "sink")]).unwrap();
    systems.write(&one, "{\"id\":5}\n", &[PROTOBUF]).unwrap();
    assert_eq!(systems.latest()["id"], id);
    let wider = columns(&[
        ("id", SqlType::BigInt, false),
        (
            "inner",
            SqlType::Struct(vec![("x".into(), SqlType::Int), ("y".into(), SqlType::Text)]),
            true,
        ),
        ("at", SqlType::Timestamp, true),
    ]);
    let error = systems
        .check(&wider, &[("type", "sink"), ("schema_registry.register", "false")])
        .unwrap_err();
    assert!(error.to_string().contains("column \"inner.y\" is no field"), "{error}");
    systems.check(&wider, &[("type", "sink")]).unwrap();
    let line = "{\"id\":6,\"inner\":{\"x\":1,\"y\":\"t\"},\"at\":\"2026-01-01T00:00:00Z\"}\n";
    systems.write(&wider, line, &[PROTOBUF]).unwrap();
    let latest = systems.latest();
    assert_eq!(
        latest["schema"],
        "syntax = \"proto3\";\npackage p;\n// Kept.\nmessage R {\n  reserved 7;\n  message In {\n    int32 x = 4; // }\n    \
         optional string y = 5;\n  }\n  sint64 id = 3;\n  In inner = 2;\n  google.protobuf.Timestamp at = 8;\n}\nmessage Z {}\n\n\
         import \"google/protobuf/timestamp.proto\";\n"
    );
    assert_eq!(
        systems.protobuf_rows(&wider, &[]),
        [
            "{\"id\":5,\"inner\":null,\"at\":null}",
            "{\"id\":6,\"inner\":{\"x\":1,\"y\":\"t\"},\"at\":\"2026-01-01T00:00:00\"}"
        ]
    );
    // What is there keeps its type.
    let wrong = columns(&[("id", SqlType::Text, false), ("more", SqlType::Int, true)]);
    let error = systems.check(&wrong, &[("type", "sink")]).unwrap_err();
    assert_eq!(error.code(), SqlState::DATATYPE_MISMATCH);
    let error = systems
        .check(&columns(&[("u", SqlType::Uuid, true)]), &[("type", "sink")])
        .unwrap_err();
    assert_eq!(error.code(), SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn a_schema_that_the_table_gives_is_registered_as_it_is() {
    let Some(systems) = Systems::start() else { return };
    let text = "syntax = \"proto3\"; package p; message A {} message B { message C { sint32 id = 9; } }";
    let more = [
        PROTOBUF,
        ("protobuf.schema", text),
        ("protobuf.message", "C"),
        ("protobuf.confluent_schema_registry", "true"),
    ];
    let table = columns(&[("id", SqlType::Int, false)]);
    systems.write(&table, "{\"id\":-1}\n", &more).unwrap();
    let latest = systems.latest();
    assert_eq!(latest["schema"], text);
    let raw = columns(&[("value", SqlType::Bytea, true)]);
    let id = latest["id"].as_u64().unwrap();
    assert_eq!(
        systems.rows(&raw, &[("format", "raw_bytes")]),
        [format!("{{\"value\":\"\\\\x00{id:08x}0402004801\"}}")]
    );
    assert_eq!(systems.rows(&table, &more), ["{\"id\":-1}"]);
    // Without the flag messages have no id, as with Avro.
    assert!(systems.rows(&table, &more[..3]).is_empty());
}

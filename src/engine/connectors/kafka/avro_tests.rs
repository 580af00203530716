//! Avro through a broker and a schema registry, both processes, with Confluent's client on the other side.

#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use serde_json::json;

use super::tests::create;
use super::*;
use crate::engine::connectors::testing::{Bench, given, read, texts};
use crate::engine::connectors::{SinkContext, SourcePoll};
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::{Decoder, Input};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::{Chunk, Weights};
use crate::error::{Report, SqlState};
use crate::testing::kafka::TestKafka;
use crate::testing::schema_registry::{TestRegistry, skip, test_python};
use crate::types::SqlType;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/testing/confluent_avro.py");

pub(super) struct Systems {
    pub kafka: TestKafka,
    pub registry: TestRegistry,
    pub topic: String,
    pub bench: Bench,
}

impl Systems {
    /// With a topic of one partition.
    pub fn start() -> Option<Systems> {
        let (kafka, registry) = (TestKafka::start()?, TestRegistry::start()?);
        let topic = kafka.new_topic();
        create(&kafka.address, &topic, 1);
        Some(Systems {
            kafka,
            registry,
            topic,
            bench: Bench::new(),
        })
    }

    pub fn subject(&self) -> String {
        format!("{}-value", self.topic)
    }

    pub fn options<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![
            ("bootstrap_servers", self.kafka.address.as_str()),
            ("schema_registry.url", self.registry.url.as_str()),
            ("topic", self.topic.as_str()),
            ("format", "avro"),
        ];
        all.extend_from_slice(more);
        all
    }

    pub fn table(&self, columns: Option<&SchemaRef>, more: &[(&str, &str)]) -> Result<Arc<dyn ConnectorTable>> {
        Kafka.resolve(&given(&self.options(more)), columns.cloned())
    }

    /// What a source with these columns reads, as JSON, up to the end of the topic.
    pub fn rows(&self, columns: &SchemaRef, more: &[(&str, &str)]) -> Vec<String> {
        let more = [more, &[("bounded", "true"), ("type", "source")]].concat();
        self.bench
            .rows(self.table(Some(columns), &more).unwrap().as_ref(), columns)
    }

    fn python(&self, action: &str, last: &str, input: &str) -> Option<Vec<String>> {
        self.confluent(
            "import confluent_kafka.schema_registry.avro",
            PROGRAM,
            action,
            last,
            input,
        )
    }

    /// Confluent's client; `None`: it is not there.
    pub fn confluent(&self, needs: &str, program: &str, action: &str, last: &str, input: &str) -> Option<Vec<String>> {
        let Some(python) = test_python(needs) else {
            skip("there is no Python with confluent-kafka");
            return None;
        };
        let mut process = Command::new(python)
            .args([
                program,
                action,
                &self.kafka.address,
                &self.registry.url,
                &self.topic,
                last,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let done = process.wait_with_output().unwrap();
        assert!(done.status.success());
        Some(
            String::from_utf8(done.stdout)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Writes rows by a sink, all in one epoch that is not committed by transaction.
    pub fn write(&self, columns: &SchemaRef, lines: &str, more: &[(&str, &str)]) -> Result<()> {
        let more = [more, &[("type", "sink"), ("commit_mode", "at_least_once")]].concat();
        let table = self.table(Some(columns), &more)?;
        self.write_by(
            table.as_ref(),
            Chunk::insert(batch(columns, lines)),
            SinkChangelog::Append,
        )
    }

    fn write_by(&self, table: &dyn ConnectorTable, chunk: Chunk, changelog: SinkChangelog) -> Result<()> {
        let schema = chunk.rows.schema();
        let mut sink = table.open_sink(SinkContext {
            ..self.bench.sink_context(&schema, changelog, &[])
        })?;
        while !sink.ready() {
            std::thread::sleep(Duration::from_millis(5));
        }
        sink.write(&chunk)?;
        let prepared = sink.prepare(crate::ids::Epoch(1))?;
        prepared.work.map_or(Ok(()), |work| work())
    }
}

pub(super) fn columns(columns: &[(&str, SqlType, bool)]) -> SchemaRef {
    let field = |(name, of, nullable): &(&str, SqlType, bool)| of.to_arrow_field(name, *nullable);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

fn batch(columns: &SchemaRef, lines: &str) -> RecordBatch {
    let mut decoder = JsonDecoder::new(columns, JsonDecodeOptions::default()).unwrap();
    let input = Input {
        bytes: lines.as_bytes(),
        offset: 0,
        place: "test",
        at_end: true,
    };
    let bad = crate::engine::connectors::testing::KeptBadRows::default();
    decoder.decode(input, usize::MAX, &bad).unwrap();
    assert_eq!(bad.reasons(), Vec::<String>::new());
    decoder.take().unwrap()
}

/// Every type that both sides have.
fn many_types() -> SchemaRef {
    columns(&[
        ("id", SqlType::BigInt, false),
        ("name", SqlType::Text, true),
        ("ok", SqlType::Boolean, true),
        (
            "price",
            SqlType::Numeric {
                precision: 12,
                scale: 3,
            },
            true,
        ),
        ("day", SqlType::Date, true),
        ("at", SqlType::TimestampTz, true),
        ("raw", SqlType::Bytea, true),
        ("tags", SqlType::Array(Box::new(SqlType::Text)), true),
        (
            "counts",
            SqlType::Map(Box::new(SqlType::Text), Box::new(SqlType::Int)),
            true,
        ),
        (
            "place",
            SqlType::Struct(vec![("x".into(), SqlType::Double), ("y".into(), SqlType::Real)]),
            true,
        ),
    ])
}

const MANY_TYPES: &str = r#"{"type":"record","name":"Many","namespace":"shop","fields":[
    {"name":"id","type":"long"},
    {"name":"name","type":["null","string"]},
    {"name":"ok","type":"boolean"},
    {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}},
    {"name":"day","type":{"type":"int","logicalType":"date"}},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"raw","type":"bytes"},
    {"name":"tags","type":{"type":"array","items":"string"}},
    {"name":"counts","type":{"type":"map","values":"int"}},
    {"name":"place","type":["null",{"type":"record","name":"Place","fields":[{"name":"x","type":"double"},{"name":"y","type":"float"}]}]},
    {"name":"other","type":["null","int","string"],"default":null}]}"#;

#[test]
fn what_confluents_client_writes_is_read() {
    let Some(systems) = Systems::start() else { return };
    let first = json!({ "id": 7, "name": "ä", "ok": true, "price": { "$decimal": "-12.345" }, "day": { "$date": "2026-02-03" },
        "at": { "$timestamp": "2026-02-03T04:05:06.000007+00:00" }, "raw": { "$bytes": "00ff" }, "tags": ["a", "b"],
        "counts": { "k": -1 }, "place": { "x": 0.5, "y": 1.5 }, "other": "text" });
    let second = json!({ "id": -1, "name": null, "ok": false, "price": { "$decimal": "0" }, "day": { "$date": "1969-12-31" },
        "at": { "$timestamp": "1969-12-31T23:59:59.999999+00:00" }, "raw": { "$bytes": "" }, "tags": [], "counts": {}, "place": null });
    if systems
        .python("write", MANY_TYPES, &format!("{first}\n{second}\n"))
        .is_none()
    {
        return;
    }
    assert_eq!(
        systems.rows(&many_types(), &[]),
        [
            "{\"id\":7,\"name\":\"ä\",\"ok\":true,\"price\":-12.345,\"day\":\"2026-02-03\",\"at\":\"2026-02-03T04:05:06.000007+00:00\",\
             \"raw\":\"\\\\x00ff\",\"tags\":[\"a\",\"b\"],\"counts\":{\"k\":-1},\"place\":{\"x\":0.5,\"y\":1.5}}",
            "{\"id\":-1,\"name\":null,\"ok\":false,\"price\":0.000,\"day\":\"1969-12-31\",\"at\":\"1969-12-31T23:59:59.999999+00:00\",\
             \"raw\":\"\\\\x\",\"tags\":[],\"counts\":{},\"place\":null}",
        ]
    );
    // The columns are those of the schema, but for a union that has none.
    let inferred = systems
        .bench
        .runtime
        .block_on(Kafka.infer_schema(&given(&systems.options(&[]))));
    assert!(inferred.unwrap_err().to_string().contains("union of null, int, string"));
}

#[test]
fn confluents_client_reads_what_is_written() {
    let Some(systems) = Systems::start() else { return };
    let lines = r#"{"id":7,"name":"ä","ok":true,"price":-12.345,"day":"2026-02-03","at":"2026-02-03T04:05:06.000007Z","raw":"\\x00ff","tags":["a",null],"counts":{"k":-1},"place":{"x":0.5,"y":1.5}}
{"id":-1}
"#;
    systems.write(&many_types(), lines, &[("key_field", "id")]).unwrap();
    let Some(found) = systems.python("read", "2", "") else {
        return;
    };
    let found: Vec<serde_json::Value> = found.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = json!({ "id": 7, "name": "ä", "ok": true, "price": { "$decimal": "-12.345" }, "day": "2026-02-03",
        "at": { "$timestamp": "2026-02-03T04:05:06.000007+00:00" }, "raw": { "$bytes": "00ff" }, "tags": ["a", null],
        "counts": { "k": -1 }, "place": { "x": 0.5, "y": 1.5 } });
    assert_eq!(found[0], json!({ "key": "7", "value": first }));
    assert_eq!(found[1]["value"]["id"], -1);
    assert!(found[1]["value"]["place"].is_null());
    // And so do we, with the columns that the registry tells.
    let inferred = systems
        .bench
        .runtime
        .block_on(Kafka.infer_schema(&given(&systems.options(&[]))));
    let inferred = inferred.unwrap().unwrap();
    assert_eq!(inferred.field(0).data_type(), many_types().field(0).data_type());
    assert!(!inferred.field(0).is_nullable());
    assert_eq!(systems.rows(&inferred, &[]), systems.rows(&many_types(), &[]));
}

fn two_fields(second: &str) -> String {
    format!(r#"{{"type":"record","name":"R","fields":[{{"name":"a","type":"int"}}{second}]}}"#)
}

#[test]
fn each_record_is_read_by_its_own_schema() {
    let Some(systems) = Systems::start() else { return };
    let subject = systems.subject();
    let old = systems.registry.register(&subject, &two_fields(""));
    let new = systems.registry.register(
        &subject,
        &two_fields(r#",{"name":"b","type":["null","long"],"default":null}"#),
    );
    let other = systems.registry.register(
        &systems.registry.new_subject(),
        r#"{"type":"record","name":"O","fields":[{"name":"a","type":{"type":"array","items":"int"}}]}"#,
    );
    let framed = |id: u32, record: &[u8]| [&crate::engine::schema_registry::frame::header(id), record].concat();
    let records = [
        framed(old, &[2]),
        framed(new, &[4, 2, 6]),
        framed(other, &[0]),
        framed(1_999_999_999, &[2]),
        b"{\"a\":1}".to_vec(),
        framed(old, &[2, 2]),
        framed(new, &[8, 0]),
    ];
    for _ in 0..20 {
        super::tests::produce_values(&systems.kafka.address, &systems.topic, &records);
    }
    let table = columns(&[("b", SqlType::BigInt, true), ("a", SqlType::BigInt, false)]);
    let rows = systems.rows(&table, &[]);
    assert_eq!(rows.len(), 60);
    assert_eq!(
        rows[..3],
        ["{\"b\":null,\"a\":1}", "{\"b\":3,\"a\":2}", "{\"b\":null,\"a\":4}"]
    );
    let reasons = systems.bench.bad_rows.reasons();
    assert_eq!(reasons.len(), 80);
    assert_eq!(systems.bench.bad_rows.offsets()[..4], [2, 3, 4, 5]);
    assert!(
        reasons[0].starts_with(&format!(
            "schema {other} does not fit the columns: column \"a\": Avro type array"
        )),
        "{reasons:?}"
    );
    assert!(reasons[1].contains("not found"), "{reasons:?}");
    assert!(
        reasons[2].contains("its writer did not use the registry"),
        "{reasons:?}"
    );
    assert!(reasons[3].starts_with("1 bytes follow the record"), "{reasons:?}");
    if let Some(requests) = systems.registry.requests() {
        let asked = requests
            .iter()
            .filter(|line| line.starts_with("GET /schemas/ids/"))
            .count();
        assert_eq!(asked, 4, "{requests:?}");
    }
}

#[test]
fn a_registry_that_is_away_is_waited_for() {
    let Some(kafka) = TestKafka::start() else { return };
    let Some(registry) = TestRegistry::start_own(&[]) else {
        return;
    };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 1);
    let mut systems = Systems {
        kafka,
        registry,
        topic,
        bench: Bench::new(),
    };
    let table = columns(&[("a", SqlType::Int, false)]);
    systems.write(&table, "{\"a\":1}\n{\"a\":2}\n", &[]).unwrap();
    let source = systems.table(Some(&table), &[("bounded", "true")]).unwrap();
    let sink = systems
        .table(Some(&table), &[("type", "sink"), ("commit_mode", "at_least_once")])
        .unwrap();
    systems.registry.stop();
    let mut source = systems.bench.source(source.as_ref(), &table, 0, 1, &[]).unwrap();
    let mut sink = sink
        .open_sink(systems.bench.sink_context(&table, SinkChangelog::Append, &[]))
        .unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < until {
        assert!(!sink.ready());
        match source.poll(100).unwrap() {
            SourcePoll::Pending(_) => std::thread::sleep(Duration::from_millis(5)),
            _ => panic!("nothing can be decoded without the schema"),
        }
    }
    systems.registry.start_again();
    assert_eq!(read(source.as_mut(), 100, 2), ["{\"a\":1}", "{\"a\":2}"]);
    while !sink.ready() {
        std::thread::sleep(Duration::from_millis(5));
    }
    sink.write(&Chunk::insert(batch(&table, "{\"a\":3}\n"))).unwrap();
    sink.prepare(crate::ids::Epoch(1))
        .unwrap()
        .work
        .map_or(Ok(()), |work| work())
        .unwrap();
    assert_eq!(systems.rows(&table, &[]).len(), 3);
    assert!(systems.bench.bad_rows.reasons().is_empty());
}

#[test]
fn what_does_not_fit_the_subject_is_said_beforehand() {
    let Some(systems) = Systems::start() else { return };
    let check = |columns: &SchemaRef, more: &[(&str, &str)]| {
        let table = systems.table(Some(columns), more).unwrap();
        systems.bench.runtime.block_on(table.check_outside(&[]))
    };
    let one = columns(&[("a", SqlType::Int, false)]);
    // Nothing is registered yet: that is an error only for what is declared as a source.
    check(&one, &[]).unwrap();
    check(&one, &[("type", "sink")]).unwrap();
    assert_eq!(
        check(&one, &[("type", "source")]).unwrap_err().code(),
        SqlState::UNDEFINED_OBJECT
    );
    systems.registry.register(&systems.subject(), &two_fields(""));
    check(&one, &[("type", "source")]).unwrap();
    check(&one, &[("type", "sink")]).unwrap();
    // The name of the record is kept, and a new field may be NULL.
    let more = columns(&[("a", SqlType::Int, false), ("b", SqlType::Text, true)]);
    check(&more, &[("type", "sink")]).unwrap();
    let required = columns(&[("a", SqlType::Int, false), ("b", SqlType::Text, false)]);
    let error = check(&required, &[("type", "sink")]).unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_TABLE_DEFINITION);
    assert!(error.to_string().to_uppercase().contains("BACKWARD"), "{error}");
    let error = systems.write(&required, "{\"a\":1,\"b\":\"x\"}\n", &[]).unwrap_err();
    assert_eq!(error.code(), SqlState::INVALID_TABLE_DEFINITION);
    // By the schema that is there.
    let given = [("type", "sink"), ("schema_registry.register", "false")];
    let error = check(&required, &given).unwrap_err();
    assert!(
        error.to_string().ends_with("column \"b\" is not in the schema"),
        "{error}"
    );
    systems
        .write(&one, "{\"a\":5}\n", &[("schema_registry.register", "false")])
        .unwrap();
    assert_eq!(systems.rows(&one, &[]), ["{\"a\":5}"]);
    let wrong = columns(&[("a", SqlType::Uuid, true)]);
    let error = check(&wrong, &[]).unwrap_err();
    assert_eq!(error.code(), SqlState::DATATYPE_MISMATCH);
    assert!(
        error
            .to_string()
            .contains("column \"a\": Avro type int cannot be read as uuid"),
        "{error}"
    );
}

#[test]
fn upserts_of_avro_are_read_and_written() {
    let Some(systems) = Systems::start() else { return };
    let table = columns(&[("id", SqlType::Int, false), ("n", SqlType::BigInt, true)]);
    let upsert = [
        ("envelope", "upsert"),
        ("commit_mode", "at_least_once"),
        ("bounded", "true"),
    ];
    let kafka = systems.table(Some(&table), &upsert).unwrap();
    let mut chunk = Chunk::insert(batch(
        &table,
        "{\"id\":1,\"n\":5}\n{\"id\":2,\"n\":6}\n{\"id\":1,\"n\":5}\n",
    ));
    chunk.weights = Weights::Signed(vec![1, 1, -1].into());
    systems
        .write_by(kafka.as_ref(), chunk, SinkChangelog::Upsert { key: vec![0] })
        .unwrap();
    let mut source = kafka
        .open_source(crate::engine::connectors::SourceContext {
            schema: Arc::clone(&table),
            key: Some(vec![0]),
            ..systems.bench.source_context()
        })
        .unwrap();
    let mut found = Vec::new();
    loop {
        match source.poll(100).unwrap() {
            SourcePoll::Rows { rows, .. } => found.extend(texts(rows).into_iter().map(|row| (1, row))),
            SourcePoll::Changes { rows, weights, .. } => found.extend(weights.iter().copied().zip(texts(rows))),
            SourcePoll::Pending(_) => std::thread::sleep(Duration::from_millis(1)),
            SourcePoll::SplitFinished { .. } => {}
            SourcePoll::Finished => break,
        }
    }
    let row = |weight: i64, text: &str| (weight, text.to_owned());
    assert_eq!(
        found,
        [
            row(1, "{\"id\":1,\"n\":5}"),
            row(1, "{\"id\":2,\"n\":6}"),
            row(-1, "{\"id\":1,\"n\":null}")
        ]
    );
}

#[test]
fn json_has_the_id_of_its_schema_in_front() {
    let Some(systems) = Systems::start() else { return };
    let table = columns(&[("a", SqlType::Int, false), ("t", SqlType::Text, true)]);
    let json = [("format", "json"), ("json.confluent_schema_registry", "true")];
    systems
        .write(&table, "{\"a\":1,\"t\":\"x\"}\n{\"a\":2}\n", &json)
        .unwrap();
    let latest = systems.registry.ask(
        "GET",
        &format!("subjects/{}/versions/latest", systems.subject()),
        &json!(null),
    );
    assert_eq!(latest["schemaType"], "JSON");
    let schema: serde_json::Value = serde_json::from_str(latest["schema"].as_str().unwrap()).unwrap();
    assert_eq!(schema["properties"]["a"], json!({ "type": "integer" }));
    let raw = columns(&[("value", SqlType::Bytea, true)]);
    let id = latest["id"].as_u64().unwrap();
    let framed = format!("{{\"value\":\"\\\\x00{id:08x}7b2261223a312c2274223a2278227d\"}}");
    assert_eq!(systems.rows(&raw, &[("format", "raw_bytes")])[0], framed);
    super::tests::produce_values(&systems.kafka.address, &systems.topic, &[b"{\"a\":3}".to_vec()]);
    assert_eq!(
        systems.rows(&table, &json),
        ["{\"a\":1,\"t\":\"x\"}", "{\"a\":2,\"t\":null}"]
    );
    assert!(systems.bench.bad_rows.reasons()[0].contains("its writer did not use the registry"));
}

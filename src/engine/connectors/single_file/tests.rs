//! One file: offsets, bad rows, and a sink that is cut back to its checkpoint.

#![allow(clippy::unwrap_used)]

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::engine::connectors::SourcePoll;
use crate::engine::connectors::testing::{Bench, given, read};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::Chunk;
use crate::error::{Report, SqlState};
use crate::ids::Epoch;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]))
}

fn table(path: &std::path::Path, more: &[(&str, &str)]) -> Arc<dyn ConnectorTable> {
    let path = path.to_str().unwrap();
    let options = [&[("path", path)], more].concat();
    SingleFile.resolve(&given(&options), Some(schema())).unwrap()
}

fn numbers(rows: Range<i64>) -> Chunk {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
    let column = Arc::new(Int64Array::from_iter_values(rows));
    Chunk::insert(RecordBatch::try_new(schema, vec![column]).unwrap())
}

use std::ops::Range;

#[test]
fn restores_in_the_middle_of_each_format() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let json: String = (0..5000)
        .map(|n| format!("{{\"n\":{n},\"name\":\"row {n}\"}}\n"))
        .collect();
    let csv: String = std::iter::once("name,n\n".to_owned())
        .chain((0..5000).map(|n| format!("\"row\n{n}\",{n}\n")))
        .collect();
    for (format, text) in [("json", json.trim_end()), ("csv", csv.trim_end())] {
        let path = folder.path().join(format);
        std::fs::write(&path, text).unwrap();
        let table = table(&path, &[("format", format)]);
        assert_eq!(bench.rows(table.as_ref(), &schema()).len(), 5000);
        for (before, after) in [(1, 1), (1, 3), (3, 2)] {
            bench.check_restore(table.as_ref(), &schema(), before, after, 1234);
        }
    }
}

#[test]
fn bad_rows_are_reported_with_their_place_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    std::fs::write(&path, "{\"n\":1}\n{\"n\":\"x\"}\nnot json\n{\"n\":2}").unwrap();
    let bench = Bench::new();
    let rows = bench.rows(table(&path, &[]).as_ref(), &schema());
    assert_eq!(rows, [r#"{"n":1,"name":null}"#, r#"{"n":2,"name":null}"#]);
    assert_eq!(bench.bad_rows.offsets(), [8, 18]);
    assert_eq!(
        bench.bad_rows.reasons()[0],
        "column \"n\": invalid input syntax for type bigint: \"x\""
    );
}

#[test]
fn a_rate_slows_the_file_down() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    std::fs::write(&path, "{\"n\":1}\n".repeat(10)).unwrap();
    let bench = Bench::new();
    let mut source = bench
        .source(table(&path, &[("rate", "10")]).as_ref(), &schema(), 0, 1, &[])
        .unwrap();
    assert_eq!(read(source.as_mut(), 100, 1).len(), 1);
    assert!(matches!(source.poll(100), Ok(SourcePoll::Pending(Some(_)))));
    bench.clock.advance_micros(500_000);
    assert_eq!(read(source.as_mut(), 100, 5).len(), 5);
}

#[test]
fn missing_files_and_folders_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let failure = |path: &std::path::Path| {
        let source = bench.source(table(path, &[]).as_ref(), &schema(), 0, 1, &[]);
        source.err().unwrap().report()
    };
    let missing = failure(&folder.path().join("none.json"));
    assert_eq!(missing.code, SqlState::UNDEFINED_FILE);
    assert!(missing.message.contains("none.json") && missing.message.ends_with("No such file or directory"));
    assert_eq!(failure(folder.path()).code, SqlState::WRONG_OBJECT_TYPE);
}

#[test]
fn the_sink_cuts_off_what_no_checkpoint_knows() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.json");
    std::fs::write(&path, "left over").unwrap();
    let bench = Bench::new();
    let table = table(&path, &[]);
    let open = |restored: &[String]| {
        let context = bench.sink_context(&numbers(0..0).rows.schema(), SinkChangelog::Append, restored);
        table.open_sink(context)
    };
    let mut sink = open(&[]).unwrap();
    sink.write(&numbers(0..2)).unwrap();
    let prepared = sink.prepare(Epoch(1)).unwrap();
    prepared.work.unwrap()().unwrap();
    let position = prepared.position.unwrap();
    assert_eq!(position, "{\"byte\":16}");
    sink.write(&numbers(2..4)).unwrap();
    sink.flush().unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    drop(sink);
    let mut sink = open(&[position]).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"n\":0}\n{\"n\":1}\n");
    sink.write(&numbers(7..8)).unwrap();
    sink.prepare(Epoch(2)).unwrap();
    assert_eq!(
        std::fs::read_to_string(&path).unwrap(),
        "{\"n\":0}\n{\"n\":1}\n{\"n\":7}\n"
    );
    let lost = open(&["{\"byte\":1000}".to_owned()]).err().unwrap().report();
    assert_eq!(lost.code, SqlState::DATA_CORRUPTED);
}

#[test]
fn a_csv_sink_writes_its_header_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.csv");
    let bench = Bench::new();
    let table = table(&path, &[("format", "csv")]);
    let mut restored = Vec::new();
    for epoch in 1..3 {
        let context = bench.sink_context(&numbers(0..0).rows.schema(), SinkChangelog::Append, &restored);
        let mut sink = table.open_sink(context).unwrap();
        sink.write(&numbers(0..1)).unwrap();
        restored = vec![sink.prepare(Epoch(epoch)).unwrap().position.unwrap()];
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "n\n0\n0\n");
}

#[test]
fn columns_are_inferred_from_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.json");
    std::fs::write(&path, "{\"n\":1,\"name\":\"x\"}\n{\"n\":2}\n").unwrap();
    let options = given(&[("path", path.to_str().unwrap())]);
    let bench = Bench::new();
    let inferred = bench
        .runtime
        .block_on(SingleFile.infer_schema(&options))
        .unwrap()
        .unwrap();
    assert_eq!(inferred, schema());
}

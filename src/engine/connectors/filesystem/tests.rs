//! Folders, globs and formats: what is read is what was written, from any offset.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::TimeUnit;

use super::*;
use crate::engine::connectors::testing::{Bench, given};
use crate::error::Report;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]))
}

fn table(path: &Path, format: &str) -> Arc<dyn ConnectorTable> {
    let options = given(&[("path", path.to_str().unwrap()), ("format", format)]);
    Filesystem.resolve(&options, Some(schema())).unwrap()
}

fn write_parquet(path: &Path, rows: std::ops::Range<i64>) {
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.clone().map(|n| format!("row {n}"))));
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(
        rows.clone().map(|n| n * 1000),
    ));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("name", names),
        ("n", Arc::new(Int64Array::from_iter_values(rows))),
        ("at", times),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let properties = parquet::file::properties::WriterProperties::builder()
        .set_max_row_group_row_count(Some(100))
        .build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn write_files(folder: &Path, format: &str) {
    for file in 0..5i64 {
        let rows = file * 1000..file * 1000 + 700;
        let path = folder.join(format!("part-{file}.{format}"));
        match format {
            "parquet" => write_parquet(&path, rows),
            "csv" => {
                let lines: String = rows.map(|n| format!("{n},\"row {n}\"\n")).collect();
                std::fs::write(path, format!("n,name\n{lines}")).unwrap();
            }
            _ => {
                let lines: String = rows.map(|n| format!("{{\"n\":{n},\"name\":\"row {n}\"}}\n")).collect();
                std::fs::write(path, lines.trim_end()).unwrap();
            }
        }
    }
}

#[test]
fn restores_at_another_parallelism_in_each_format() {
    let bench = Bench::new();
    for format in ["json", "csv", "parquet"] {
        let folder = tempfile::tempdir().unwrap();
        write_files(folder.path(), format);
        let table = table(folder.path(), format);
        assert_eq!(bench.rows(table.as_ref(), &schema()).len(), 3500, "{format}");
        for (before, after) in [(1, 1), (1, 3), (2, 3), (3, 2), (2, 7)] {
            bench.check_restore(table.as_ref(), &schema(), before, after, 950);
        }
    }
}

#[test]
fn globs_folders_hidden_files_and_the_file_column() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), "json");
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    std::fs::write(folder.path().join("deep/x.json"), "{\"n\":-1}").unwrap();
    std::fs::write(folder.path().join("_SUCCESS"), "").unwrap();
    let bench = Bench::new();
    assert_eq!(bench.rows(table(folder.path(), "json").as_ref(), &schema()).len(), 3501);
    let some = table(&folder.path().join("part-[12].json"), "json");
    assert_eq!(bench.rows(some.as_ref(), &schema()).len(), 1400);
    let deep = table(&folder.path().join("deep/*.json"), "json");
    let all_columns = deep.schema().unwrap();
    let rows = bench.rows(deep.as_ref(), &all_columns);
    let file = folder.path().join("deep/x.json");
    assert_eq!(
        rows,
        [format!("{{\"n\":-1,\"name\":null,\"_file\":\"{}\"}}", file.display())]
    );
}

#[test]
fn offsets_before_the_listing_are_those_restored() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), "json");
    let bench = Bench::new();
    let table = table(folder.path(), "json");
    let mut source = bench.source(table.as_ref(), &schema(), 0, 1, &[]).unwrap();
    crate::engine::connectors::testing::read(source.as_mut(), 50, 50);
    let offsets = source.offsets();
    let again = bench.source(table.as_ref(), &schema(), 0, 1, &offsets).unwrap();
    assert_eq!(again.offsets(), offsets);
}

#[test]
fn removed_and_missing_files_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), "json");
    let bench = Bench::new();
    let before = table(folder.path(), "json");
    let mut source = bench.source(before.as_ref(), &schema(), 0, 1, &[]).unwrap();
    crate::engine::connectors::testing::read(source.as_mut(), 50, 50);
    std::fs::remove_file(folder.path().join("part-0.json")).unwrap();
    let after = table(folder.path(), "json");
    let error = fails(&bench, after.as_ref(), &source.offsets());
    assert!(error.message.contains("was removed before"), "{}", error.message);
    let missing = table(&folder.path().join("none.json"), "json");
    let error = fails(&bench, missing.as_ref(), &[]);
    assert_eq!(error.code, SqlState::UNDEFINED_FILE);
}

fn fails(
    bench: &Bench,
    table: &dyn ConnectorTable,
    restored: &[crate::engine::connectors::SplitOffset],
) -> crate::error::ErrorReport {
    let mut source = bench.source(table, &schema(), 0, 1, restored).unwrap();
    for _ in 0..1000 {
        match source.poll(10) {
            Err(error) => return error.report(),
            Ok(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
    }
    panic!("no error")
}

#[test]
fn columns_are_inferred_from_the_first_file() {
    let bench = Bench::new();
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), "parquet");
    let options = given(&[("path", folder.path().to_str().unwrap()), ("format", "parquet")]);
    let inferred = bench
        .runtime
        .block_on(Filesystem.infer_schema(&options))
        .unwrap()
        .unwrap();
    let types: Vec<_> = inferred
        .fields()
        .iter()
        .map(|f| (f.name().as_str(), f.data_type().clone()))
        .collect();
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    assert_eq!(
        types,
        [("name", DataType::Utf8), ("n", DataType::Int64), ("at", timestamp)]
    );
    let table = Filesystem.resolve(&options, Some(Arc::clone(&inferred))).unwrap();
    assert_eq!(
        bench.rows(table.as_ref(), &inferred)[1],
        r#"{"name":"row 1","n":1,"at":"1970-01-01T00:00:00.000001"}"#
    );
}

#[test]
fn a_parquet_file_that_is_none_says_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.parquet"), "{}").unwrap();
    let error = fails(&Bench::new(), table(folder.path(), "parquet").as_ref(), &[]);
    assert!(error.message.contains("a.parquet"), "{}", error.message);
}

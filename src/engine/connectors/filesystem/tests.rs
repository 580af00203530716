//! Folders, globs and formats: what is read is what was written, from any offset.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::datatypes::TimeUnit;

use super::*;
use crate::engine::connectors::SourcePoll;
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

/// Waits for a source that does not end.
fn read_on(source: &mut dyn Source, rows: usize) -> Vec<String> {
    crate::engine::connectors::testing::read(source, 1000, rows)
}

#[test]
fn compressed_files_are_read_from_any_row() {
    let bench = Bench::new();
    for (compression, format) in [("gz", "json"), ("zst", "json"), ("gz", "csv"), ("zst", "csv")] {
        let plain = tempfile::tempdir().unwrap();
        write_files(plain.path(), format);
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(plain.path()).unwrap().flatten() {
            let name = format!("{}.{compression}", entry.file_name().to_string_lossy());
            let text = std::fs::read(entry.path()).unwrap();
            // Two members, as tools that append make them.
            let (first, second) = text.split_at(text.len() / 2);
            let kind = Compression::of_file(&name);
            let packed = [
                kind.member(first.to_vec()).unwrap(),
                kind.member(second.to_vec()).unwrap(),
            ]
            .concat();
            std::fs::write(folder.path().join(name), packed).unwrap();
        }
        let packed = table(folder.path(), format);
        assert_eq!(
            bench.rows(packed.as_ref(), &schema()).len(),
            3500,
            "{format} {compression}"
        );
        for (before, after) in [(1, 1), (2, 3)] {
            bench.check_restore(packed.as_ref(), &schema(), before, after, 950);
        }
        let options = given(&[("path", folder.path().to_str().unwrap()), ("format", format)]);
        let inferred = bench
            .runtime
            .block_on(Filesystem.infer_schema(&options))
            .unwrap()
            .unwrap();
        assert_eq!(inferred.fields().len(), 2);
    }
}

#[test]
fn a_file_that_is_not_compressed_as_it_says_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.json.gz"), "{\"n\":1}\n").unwrap();
    let error = fails(&Bench::new(), table(folder.path(), "json").as_ref(), &[]);
    assert_eq!(error.code, SqlState::DATA_CORRUPTED);
    assert!(
        error.message.contains("could not unpack file") && error.message.contains("a.json.gz"),
        "{}",
        error.message
    );
    let options = given(&[
        ("path", folder.path().to_str().unwrap()),
        ("format", "json"),
        ("compression", "none"),
    ]);
    let plain = Filesystem.resolve(&options, Some(schema())).unwrap();
    assert_eq!(Bench::new().rows(plain.as_ref(), &schema()).len(), 1);
}

#[test]
fn new_files_are_found_and_each_is_read_once() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new();
    let put = |file: i64| {
        let lines: String = (file * 10..file * 10 + 10)
            .map(|n| format!("{{\"n\":{n},\"name\":\"\"}}\n"))
            .collect();
        // Complete when it appears.
        std::fs::write(folder.path().join(".new"), lines).unwrap();
        std::fs::rename(
            folder.path().join(".new"),
            folder.path().join(format!("{file:03}.json")),
        )
        .unwrap();
    };
    let options = given(&[
        ("path", folder.path().to_str().unwrap()),
        ("format", "json"),
        ("refresh_interval", "5 ms"),
    ]);
    let table = Filesystem.resolve(&options, Some(schema())).unwrap();
    assert!(!table.bounded());
    put(0);
    let mut found = Vec::new();
    let mut offsets = Vec::new();
    // Lives of changing parallelism; files come before, in and between them.
    for life in 0..6 {
        let parallelism = life % 3 + 1;
        put(i64::from(life) * 2 + 1);
        let open = |subtask| {
            bench
                .source(table.as_ref(), &schema(), subtask, parallelism, &offsets)
                .unwrap()
        };
        let mut sources: Vec<_> = (0..parallelism).map(open).collect();
        put(i64::from(life) * 2 + 2);
        let wanted = (life as usize * 2 + 3) * 10 - 7;
        while found.len() < wanted {
            for source in &mut sources {
                if let SourcePoll::Rows { rows, .. } = source.poll(3).unwrap() {
                    found.extend(crate::engine::connectors::testing::texts(rows));
                }
            }
        }
        offsets = sources.iter().flat_map(|source| source.offsets()).collect();
    }
    let mut last = bench.source(table.as_ref(), &schema(), 0, 1, &offsets).unwrap();
    let wanted = 130 - found.len();
    found.extend(read_on(last.as_mut(), wanted));
    let mut numbers: Vec<i64> = found
        .iter()
        .map(|row| {
            serde_json::from_str::<serde_json::Value>(row).unwrap()["n"]
                .as_i64()
                .unwrap()
        })
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..130).collect::<Vec<_>>());
}

//! Tables of a real Postgres as sources: a snapshot and every change after it once, restarts, outages, what stops a reader; and
//! rows by a cursor.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::ManualClock;
use crate::engine::connectors::kept_outside::PipelineUse;
use crate::engine::connectors::postgres::Postgres;
use crate::engine::connectors::postgres::sink_tests::texts;
use crate::engine::connectors::postgres::slot::slot_name;
use crate::engine::connectors::postgres::tests::{columns, run};
use crate::engine::connectors::testing::{KeptBadRows, given};
use crate::engine::connectors::{
    Connector, ConnectorTable, Result, Source, SourceContext, SourcePoll, SplitOffset, Wake,
};
use crate::engine::formats::json::encode::row_text;
use crate::engine::message::Chunk;
use crate::error::Report;
use crate::ids::{Epoch, SubtaskIndex};
use crate::testing::postgres::TestPostgres;

struct Nobody;

impl Wake for Nobody {
    fn wake(&self) {}
}

/// A reader whose name is its own, also where tests share a server.
struct Table {
    table: Arc<dyn ConnectorTable>,
    key: Option<Vec<usize>>,
    reader: String,
}

impl Table {
    fn new(options: &[(&str, &str)], declared: &str, key: Option<Vec<usize>>) -> Table {
        Table {
            table: Postgres.resolve(&given(options), Some(columns(declared))).unwrap(),
            key,
            reader: format!(
                "{}/public.t",
                crate::ids::new_public_id(crate::ids::PublicIdKind::Pipeline)
            ),
        }
    }

    fn cdc(url: &str, declared: &str) -> Table {
        Table::new(
            &[
                ("url", url),
                ("table", "t"),
                ("mode", "cdc"),
                ("poll_interval", "10 ms"),
            ],
            declared,
            Some(vec![0]),
        )
    }

    fn open(&self, restored: Vec<SplitOffset>) -> Box<dyn Source> {
        let context = SourceContext {
            subtask: SubtaskIndex(0),
            parallelism: 1,
            schema: self.table.schema().unwrap(),
            key: self.key.clone(),
            restored,
            runtime: tokio::runtime::Handle::current(),
            waker: Arc::new(Nobody),
            clock: Arc::new(ManualClock::at(0)),
            bad_rows: Arc::new(KeptBadRows::default()),
            results: Arc::new(crate::engine::results::history::NoHistory),
            reader: Some(self.reader.clone()),
        };
        self.table.open_source(context).unwrap()
    }

    fn slot(&self) -> String {
        slot_name(&self.reader)
    }
}

/// A database of its own in which `sql` was run; `None` when there is no Postgres.
async fn database_with(sql: &str) -> Option<(TestPostgres, String)> {
    let server = TestPostgres::start().await?;
    let url = server.new_database().await;
    run(&url, sql).await;
    Some((server, url))
}

/// The next rows, each with its weight; waits for some.
async fn next(source: &mut dyn Source) -> Result<Vec<(i64, Value)>> {
    loop {
        let (rows, weights) = match source.poll(8192)? {
            SourcePoll::Rows { rows, .. } => (rows, None),
            SourcePoll::Changes { rows, weights, .. } => (rows, Some(weights)),
            _ => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
        };
        let chunk = Chunk::insert(rows);
        let row = |row: usize| {
            let weight = weights.as_ref().map_or(1, |weights| weights[row]);
            (weight, serde_json::from_str(&row_text(&chunk, row).unwrap()).unwrap())
        };
        return Ok((0..chunk.len()).map(row).collect());
    }
}

/// What the table is by what was read.
type Rows = BTreeMap<i64, Value>;

async fn read_until(source: &mut dyn Source, rows: &mut Rows, done: impl Fn(&Rows) -> bool) {
    while !done(rows) {
        apply(next(source).await.unwrap(), rows);
    }
}

fn apply(changes: Vec<(i64, Value)>, rows: &mut Rows) {
    for (weight, row) in changes {
        let id = row["id"].as_i64().unwrap();
        match weight {
            1 => rows.insert(id, row),
            _ => rows.remove(&id),
        };
    }
}

/// `1=a 2=b`.
fn shown(rows: &Rows) -> String {
    let rows = rows
        .iter()
        .map(|(id, row)| format!("{id}={}", row["name"].as_str().unwrap_or("NULL")));
    rows.collect::<Vec<_>>().join(" ")
}

const PAIRS: &str = "id BIGINT, name TEXT";

#[tokio::test(flavor = "multi_thread")]
async fn a_table_and_its_changes_across_restarts() {
    let Some((_server, url)) = database_with(
        "CREATE TABLE t (id int8 PRIMARY KEY, other int, name text); CREATE TABLE u (id int8 PRIMARY KEY, name text);
        INSERT INTO t VALUES (1, 0, 'a'), (2, 0, 'b'), (3, 0, NULL)",
    )
    .await
    else {
        return;
    };
    let table = Table::cdc(&url, PAIRS);
    table.table.check_outside(&["id".into()]).await.unwrap();
    let mut source = table.open(Vec::new());
    assert!(source.is_behind() && source.offsets().is_empty());
    let mut rows = Rows::new();
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 3).await;
    assert_eq!(shown(&rows), "1=a 2=b 3=NULL");
    run(
        &url,
        "INSERT INTO u VALUES (9, 'elsewhere'); INSERT INTO t VALUES (4, 0, 'd'); UPDATE t SET name = 'A' WHERE id = 1;
        UPDATE t SET id = 5 WHERE id = 2; DELETE FROM t WHERE id = 3",
    )
    .await;
    read_until(source.as_mut(), &mut rows, |rows| !rows.contains_key(&3)).await;
    assert_eq!(shown(&rows), "1=A 4=d 5=b");
    // The checkpoint is taken here; it becomes durable, and the slot follows.
    source.at_barrier(Epoch(1));
    let offsets = source.offsets();
    let position = format!(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'",
        table.slot()
    );
    let before = texts(&url, &position).await;
    source.epoch_decided(Epoch(1));
    while texts(&url, &position).await == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What comes after it is read by both lives.
    run(&url, "UPDATE t SET name = 'late' WHERE id = 4").await;
    read_until(source.as_mut(), &mut rows, |rows| rows[&4]["name"] == "late").await;
    drop(source);
    run(
        &url,
        "ALTER TABLE t ADD COLUMN more int, DROP COLUMN other; INSERT INTO t (id, name) VALUES (6, 'f')",
    )
    .await;
    let mut source = table.open(offsets.clone());
    let first = next(source.as_mut()).await.unwrap();
    assert_eq!(
        first[0],
        (1, serde_json::json!({"id": 4, "name": "late"})),
        "nothing before the checkpoint, nothing left out"
    );
    apply(first, &mut rows);
    read_until(source.as_mut(), &mut rows, |rows| rows.contains_key(&6)).await;
    // A checkpoint that the slot has left behind is refused.
    source.at_barrier(Epoch(2));
    let before = texts(&url, &position).await;
    source.epoch_decided(Epoch(2));
    while texts(&url, &position).await == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(source);
    let error = next(table.open(offsets).as_mut()).await.unwrap_err();
    assert!(
        error.code().as_str() == "55000" && error.to_string().contains("was moved on"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f_38_a_slot_that_is_gone_stops_the_reader() {
    let Some((_server, url)) =
        database_with("CREATE TABLE t (id int8 PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a')").await
    else {
        return;
    };
    let table = Table::cdc(&url, PAIRS);
    let mut source = table.open(Vec::new());
    read_until(source.as_mut(), &mut Rows::new(), |rows| rows.len() == 1).await;
    source.at_barrier(Epoch(1));
    let offsets = source.offsets();
    drop(source);
    run(&url, &format!("SELECT pg_drop_replication_slot('{}')", table.slot())).await;
    let error = next(table.open(offsets).as_mut()).await.unwrap_err();
    assert_eq!(error.code().as_str(), "55000");
    let expected = format!("replication slot \"{}\" of the Postgres server is gone", table.slot());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert!(error.hint().unwrap().contains("FROM CHECKPOINT 0"));
}

const TYPES: &str = "id INT, b BOOLEAN, i2 SMALLINT, f4 REAL, f8 DOUBLE, n NUMERIC(20,4), t TEXT, c CHAR(3), y BYTEA, d DATE, tm TIME, \
     ts TIMESTAMP, tz TIMESTAMPTZ, iv INTERVAL, u UUID, j JSON, jb JSONB, ints INT[], texts TEXT[], mood TEXT, net TEXT, whole STRUCT<x INT,y TEXT>";

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_goes_with_its_pipeline_even_while_it_is_made() {
    let Some((_server, url)) = database_with("CREATE TABLE t (id int8 PRIMARY KEY, name text)").await else {
        return;
    };
    let table = Table::cdc(&url, PAIRS);
    let slots = format!(
        "SELECT active::text FROM pg_replication_slots WHERE slot_name = '{}'",
        table.slot()
    );
    // A transaction for whose end a new slot has to wait.
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    crate::spawn::named("test connection", connection);
    client
        .batch_execute("BEGIN; INSERT INTO t VALUES (1, 'a')")
        .await
        .unwrap();
    let source = table.open(Vec::new());
    while texts(&url, &slots).await != ["true"] {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(source);
    let by = PipelineUse::Source(table.reader.clone());
    let kept = table.table.kept_outside(&by).unwrap();
    assert!(kept.by_hand.contains(&table.slot()), "{kept:?}");
    for _ in 0..2 {
        table.table.forget(&by).await.unwrap();
        assert!(texts(&url, &slots).await.is_empty());
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert!(texts(&url, &slots).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_has_the_values_of_the_snapshot() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    let values = r#"true, -32768, 0.1, 1e-300, 1234567890123456.7891, E'a\nb"ü\t\\', 'ab', '\xdeadbeef', '2024-02-29', '23:59:59.123456',
        '2024-02-29 12:00:00.000001', '2024-02-29 12:00:00+02', '1 year 2 mons -3 days 04:05:06.7', '6ecd8c99-4036-403d-bf84-cf8400f67836', E'{"a":\n1}', '{"b": [1, 2]}',
        '{1,NULL,3}', '{x,"y,\"z\\",NULL,"NULL"}', 'ok', '10.0.0.1', '{"x": 7, "y": "seven"}'"#;
    run(
        &url,
        &format!(
            "SET timezone = 'Asia/Tokyo'; CREATE TYPE mood AS ENUM ('sad', 'ok');
             CREATE TABLE t (id int PRIMARY KEY, b bool, i2 int2, f4 float4, f8 float8, n numeric(20,4), t text, c char(3), y bytea, d date,
                tm time, ts timestamp, tz timestamptz, iv interval, u uuid, j json, jb jsonb, ints int[], texts text[], mood mood, net inet, whole jsonb);
             INSERT INTO t VALUES (1, {values}); INSERT INTO t (id) VALUES (2)"
        ),
    )
    .await;
    let table = Table::cdc(&url, TYPES);
    table.table.check_outside(&["id".into()]).await.unwrap();
    let mut source = table.open(Vec::new());
    let mut rows = Rows::new();
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 2).await;
    run(
        &url,
        &format!("INSERT INTO t VALUES (3, {values}); INSERT INTO t (id) VALUES (4)"),
    )
    .await;
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 4).await;
    for (snapshot, change) in [(1, 3), (2, 4)] {
        let mut expected = rows[&snapshot].clone();
        expected["id"] = change.into();
        assert_eq!(rows[&change], expected);
    }
}

/// Writers raise the version of rows all the time; a reader gets each version that it gets once, none after a later one, and the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_among_writers_loses_and_doubles_nothing() {
    let Some((_server, url)) = database_with("CREATE TABLE t (id int8 PRIMARY KEY, version int8); INSERT INTO t SELECT n, 0 FROM generate_series(1, 40) AS n").await else {
        return;
    };
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let url = url.clone();
            crate::spawn::named("writer", async move {
                for round in 0..60 {
                    // Some transactions are long.
                    let pause = if round % 20 == writer {
                        "; SELECT pg_sleep(0.2)"
                    } else {
                        ""
                    };
                    let ids = format!("id % 7 = {}", (round + writer) % 7);
                    run(
                        &url,
                        // In one order, or two writers of the same rows wait for each other.
                        &format!(
                            "BEGIN; SELECT id FROM t WHERE {ids} ORDER BY id FOR UPDATE; \
                             UPDATE t SET version = version + 1 WHERE {ids}{pause}; COMMIT"
                        ),
                    )
                    .await;
                }
            })
        })
        .collect();
    let table = Table::cdc(&url, "id BIGINT, version BIGINT");
    let mut source = table.open(Vec::new());
    let mut versions: BTreeMap<i64, i64> = BTreeMap::new();
    let mut seen = async |source: &mut dyn Source| {
        for (_, row) in next(source).await.unwrap() {
            let (id, version) = (row["id"].as_i64().unwrap(), row["version"].as_i64().unwrap());
            let last = versions.insert(id, version);
            assert!(
                last.is_none_or(|last| last + 1 == version),
                "row {id}: {version} after {last:?}"
            );
        }
        versions.clone()
    };
    let mut read: BTreeMap<i64, i64> = BTreeMap::new();
    for writer in writers {
        while !writer.is_finished() {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
                now = seen(source.as_mut()) => read = now,
            }
        }
        writer.await.unwrap();
    }
    let expected: Vec<String> = texts(&url, "SELECT concat_ws(' ', id, version) FROM t ORDER BY id").await;
    let rows = |read: &BTreeMap<i64, i64>| -> Vec<String> {
        read.iter().map(|(id, version)| format!("{id} {version}")).collect()
    };
    let all = async {
        // Nothing more comes when all had come before the last writer was done.
        while rows(&read) != expected {
            read = seen(source.as_mut()).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(60), all).await.is_err() {
        assert_eq!(rows(&read), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_waited_out() {
    let Some((mut server, url)) =
        database_with("CREATE TABLE t (id int8 PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a')").await
    else {
        return;
    };
    let table = Table::cdc(&url, PAIRS);
    let mut source = table.open(Vec::new());
    let mut rows = Rows::new();
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 1).await;
    run(&url, "INSERT INTO t VALUES (2, 'b')").await;
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 2).await;
    let status = source.status();
    assert_eq!((status.unit, status.waits_for), ("bytes", None));
    assert_eq!(status.lags[0].lag, Some(0), "all of the log that there was is read");
    let end = status.lags[0].end.clone().unwrap();
    assert!(end.contains('/'), "{end}");
    if !server.stop().await {
        return;
    }
    assert!(matches!(source.poll(10).unwrap(), SourcePoll::Pending(_)));
    while source.status().waits_for.is_none() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    server.start_again().await;
    run(&url, "INSERT INTO t VALUES (3, 'c')").await;
    let again = next(source.as_mut()).await.unwrap();
    assert_eq!(again, [(1, serde_json::json!({"id": 3, "name": "c"}))]);
    assert_eq!(source.status().waits_for, None, "it is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn f_34_a_new_column_is_left_out() {
    let Some((_server, url)) =
        database_with("CREATE TABLE t (id int8 PRIMARY KEY, name text); INSERT INTO t VALUES (1, 'a')").await
    else {
        return;
    };
    let mut source = Table::cdc(&url, PAIRS).open(Vec::new());
    let mut rows = Rows::new();
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 1).await;
    run(
        &url,
        "ALTER TABLE t ADD COLUMN extra int; INSERT INTO t VALUES (2, 'b', 7); UPDATE t SET extra = 8, name = 'c' WHERE id = 1",
    )
    .await;
    read_until(source.as_mut(), &mut rows, |rows| {
        rows.len() == 2 && rows.get(&1).is_some_and(|row| row["name"] == "c")
    })
    .await;
    assert_eq!(rows[&2], serde_json::json!({"id": 2, "name": "b"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn f_34_what_cannot_be_followed_stops_the_reader() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    for (change, code, words) in [
        (
            "TRUNCATE t",
            "0A000",
            "table \"t\" of the Postgres server was truncated",
        ),
        (
            "ALTER TABLE t DROP COLUMN name; INSERT INTO t VALUES (2)",
            "42804",
            "column \"name\" is gone",
        ),
        (
            "ALTER TABLE t ALTER COLUMN id TYPE numeric; INSERT INTO t VALUES (2)",
            "42804",
            "column \"id\" of table \"t\" of the Postgres server has become numeric",
        ),
        (
            "UPDATE t SET short = 1",
            "55000",
            "left the large value of column \"name\" as it was",
        ),
    ] {
        run(
            &url,
            "DROP TABLE IF EXISTS t; CREATE TABLE t (id int8 PRIMARY KEY, name text, short int);
             ALTER TABLE t ALTER COLUMN name SET STORAGE EXTERNAL; INSERT INTO t VALUES (1, repeat('x', 9000))",
        )
        .await;
        let table = Table::cdc(&url, PAIRS);
        let mut source = table.open(Vec::new());
        read_until(source.as_mut(), &mut Rows::new(), |rows| rows.len() == 1).await;
        run(&url, change).await;
        let error = next(source.as_mut()).await.unwrap_err();
        assert!(
            error.code().as_str() == code && error.to_string().contains(words),
            "{change}: {} {error}",
            error.code().as_str()
        );
        drop(source);
        run(&url, &format!("SELECT pg_drop_replication_slot('{}')", table.slot())).await;
    }
    // With all of the old row in the log, the value is known.
    run(
        &url,
        "DROP TABLE t; CREATE TABLE t (id int8 PRIMARY KEY, name text, short int); ALTER TABLE t REPLICA IDENTITY FULL;
        ALTER TABLE t ALTER COLUMN name SET STORAGE EXTERNAL; INSERT INTO t VALUES (1, repeat('x', 9000))",
    )
    .await;
    let mut source = Table::cdc(&url, "id BIGINT, name TEXT, short INT");
    source.reader.push('2');
    let mut source = source.open(Vec::new());
    let mut rows = Rows::new();
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 1).await;
    run(&url, "UPDATE t SET short = 1").await;
    read_until(source.as_mut(), &mut rows, |rows| rows[&1]["short"] == 1).await;
    assert_eq!(rows[&1]["name"].as_str().unwrap().len(), 9000);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_found_beforehand() {
    let Some((_server, url)) = database_with(
        "CREATE TABLE t (id int8 PRIMARY KEY, name text); CREATE VIEW v AS SELECT * FROM t;
        CREATE TABLE silent (id int8 PRIMARY KEY); ALTER TABLE silent REPLICA IDENTITY NOTHING",
    )
    .await
    else {
        return;
    };
    let check = async |name: &str, mode: &str, declared: &str, key: &str| {
        let options = [
            ("url", url.as_str()),
            ("table", name),
            ("mode", mode),
            ("cursor_column", "at"),
        ];
        let table = Postgres.resolve(&given(&options), Some(columns(declared))).unwrap();
        let error = table.check_outside(&[key.to_owned()]).await.unwrap_err();
        format!("{} {error} {}", error.code().as_str(), error.hint().unwrap_or_default())
    };
    let said = check("v", "cdc", PAIRS, "id").await;
    assert!(
        said.starts_with("42809 table \"v\" of the Postgres server is not an ordinary table"),
        "{said}"
    );
    let said = check("t", "cdc", PAIRS, "name").await;
    assert!(
        said.starts_with("42P10 of rows that go") && said.contains("(id)") && said.contains("REPLICA IDENTITY FULL"),
        "{said}"
    );
    let said = check("silent", "cdc", "id BIGINT", "id").await;
    assert!(said.contains("logs nothing"), "{said}");
    let said = check("t", "cdc", "id BIGINT, nam TEXT", "id").await;
    assert!(said.starts_with("42703") && said.contains("\"name\""), "{said}");
    let said = check("t", "poll", PAIRS, "id").await;
    assert!(said.starts_with("42703 cursor column \"at\" does not exist"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_rows_come_by_their_cursor() {
    let Some((_server, url)) = database_with("CREATE TABLE t (at timestamptz, id int8, name text);
        INSERT INTO t SELECT '2024-01-01'::timestamptz + (n / 4) * interval '1 second', n, 'row' FROM generate_series(0, 24999) AS n;
        INSERT INTO t VALUES (NULL, -1, 'no cursor')").await else {
        return;
    };
    let options = [
        ("url", url.as_str()),
        ("table", "t"),
        ("mode", "poll"),
        ("cursor_column", "at"),
        ("poll_interval", "10 ms"),
    ];
    let table = Table::new(&options, PAIRS, None);
    table.table.check_outside(&[]).await.unwrap();
    let mut source = table.open(Vec::new());
    let mut ids: Vec<i64> = Vec::new();
    let mut offsets = Vec::new();
    while ids.len() < 25_000 {
        // Every piece is read by a life of its own.
        let mut source = table.open(offsets.clone());
        ids.extend(
            next(source.as_mut())
                .await
                .unwrap()
                .iter()
                .map(|(_, row)| row["id"].as_i64().unwrap()),
        );
        offsets = source.offsets();
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..25_000).collect::<Vec<_>>());
    let mut rows = Rows::new();
    read_until(source.as_mut(), &mut rows, |rows| rows.len() == 25_000).await;
    run(
        &url,
        "INSERT INTO t VALUES ('2025-01-01', 30000, 'new'), ('2025-01-01', 30001, 'new')",
    )
    .await;
    let new: Vec<i64> = next(source.as_mut())
        .await
        .unwrap()
        .iter()
        .map(|(_, row)| row["id"].as_i64().unwrap())
        .collect();
    assert_eq!(new.len(), 2);
}

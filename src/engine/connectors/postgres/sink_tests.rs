//! Rows written into a real Postgres: types, upserts and deletes, commits that are repeated, lost, late or refused.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::engine::connectors::kept_outside::PipelineUse;
use crate::engine::connectors::postgres::Postgres;
use crate::engine::connectors::postgres::sink::prepared;
use crate::engine::connectors::postgres::tests::{columns, run};
use crate::engine::connectors::testing::{Bench, KeptBadRows, given};
use crate::engine::connectors::{Committer, CommitterContext, Connector, ConnectorTable, Result};
use crate::engine::error::Error;
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::{Decoder, Input};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::{Chunk, Weights};
use crate::error::{Report, Retry};
use crate::ids::Epoch;
use crate::testing::postgres::TestPostgres;

fn table(options: &[(&str, &str)], declared: &str) -> Result<Arc<dyn ConnectorTable>> {
    Postgres.resolve(&given(options), Some(columns(declared)))
}

/// Rows as JSON, all of one sign.
fn chunk(declared: &str, lines: &str, weight: i64) -> Chunk {
    let schema = columns(declared);
    let mut decoder = JsonDecoder::new(&schema, JsonDecodeOptions::default()).unwrap();
    let input = Input {
        bytes: lines.as_bytes(),
        offset: 0,
        place: "test",
        at_end: true,
    };
    let bad_rows = KeptBadRows::default();
    decoder.decode(input, usize::MAX, &bad_rows).unwrap();
    let rows = decoder.take().unwrap();
    assert_eq!(rows.num_rows(), lines.lines().count(), "{lines}");
    Chunk {
        weights: match weight {
            1 => Weights::AllInsert,
            weight => Weights::Signed(vec![weight; rows.num_rows()].into()),
        },
        ..Chunk::insert(rows)
    }
}

/// What a subtask of a sink prepares of these rows.
fn output(declared: &str, key: &[usize], chunks: &[Chunk]) -> Bytes {
    let changelog = match key.is_empty() {
        true => SinkChangelog::Append,
        false => SinkChangelog::Upsert { key: key.to_vec() },
    };
    let schema = columns(declared);
    // Its runtime must not be dropped where others wait.
    let context = std::thread::spawn(move || Bench::new().sink_context(&schema, changelog, &[]));
    prepared(&context.join().unwrap(), chunks).unwrap().unwrap()
}

async fn committer(table: &Arc<dyn ConnectorTable>) -> Box<dyn Committer> {
    let sink = "pipe_1/public.t".to_owned();
    table.open_committer(CommitterContext { sink }).await.unwrap()
}

pub async fn texts(url: &str, sql: &str) -> Vec<String> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let driver = crate::spawn::named("test connection", connection);
    let rows = client.query(sql, &[]).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
    rows.iter()
        .map(|row| row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".into()))
        .collect()
}

const PAIRS: &str = "id BIGINT, name TEXT";

#[tokio::test]
async fn a_sink_whose_pipeline_is_dropped_leaves_no_note() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(&url, "CREATE TABLE t (id int8 PRIMARY KEY, name text)").await;
    let target = table(&[("url", &url), ("table", "t")], PAIRS).unwrap();
    let forget = async |sink: &str| target.forget(&PipelineUse::Sink(sink.to_owned())).await;
    // Before there is a table of commits.
    forget("pipe_1/public.t").await.unwrap();
    let rows = output(PAIRS, &[0], &[chunk(PAIRS, "{\"id\":1}", 1)]);
    committer(&target).await.commit(Epoch(1), vec![rows]).await.unwrap();
    let noted = "SELECT sink FROM laminar_commits";
    forget("pipe_2/public.t").await.unwrap();
    assert_eq!(texts(&url, noted).await, ["pipe_1/public.t"]);
    let of_first = PipelineUse::Sink("pipe_1/public.t".to_owned());
    let kept = target.kept_outside(&of_first).unwrap();
    assert!(
        kept.what.contains("row 'pipe_1/public.t' of table laminar_commits"),
        "{kept:?}"
    );
    forget("pipe_1/public.t").await.unwrap();
    assert!(texts(&url, noted).await.is_empty());
    assert!(
        target
            .kept_outside(&PipelineUse::Source("pipe_1/public.t".to_owned()))
            .is_none()
    );
}

#[tokio::test]
async fn an_epoch_is_there_once() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE SCHEMA \"Shop\"; CREATE TABLE \"Shop\".t (id int8 PRIMARY KEY, \"name\" text, other int DEFAULT 7)",
    )
    .await;
    let target = table(&[("url", &url), ("table", "Shop.t")], PAIRS).unwrap();
    target.check_outside(&["id".into()]).await.unwrap();
    let all = "SELECT concat_ws(' ', id, name, other) FROM \"Shop\".t ORDER BY id";
    let first = output(
        PAIRS,
        &[0],
        &[chunk(
            PAIRS,
            "{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"b\\t\\\\\"}",
            1,
        )],
    );
    let mut one = committer(&target).await;
    one.commit(Epoch(3), vec![first.clone()]).await.unwrap();
    one.commit(Epoch(3), vec![first.clone()]).await.unwrap();
    assert_eq!(texts(&url, all).await, ["1 a 7", "2 b\t\\ 7"]);
    // Two subtasks, and one that carries what an epoch before could not write.
    let second = output(
        PAIRS,
        &[0],
        &[
            chunk(PAIRS, "{\"id\":2}", -1),
            chunk(PAIRS, "{\"id\":1,\"name\":\"A\"}", 1),
        ],
    );
    let third = output(
        PAIRS,
        &[0],
        &[chunk(PAIRS, "{\"id\":1,\"name\":null}\n{\"id\":4,\"name\":\"d\"}", 1)],
    );
    let mut other = committer(&target).await;
    other.commit(Epoch(5), vec![second, third]).await.unwrap();
    let now = ["1 7", "4 d 7"];
    assert_eq!(texts(&url, all).await, now);
    // Who was replaced comes late with what was decided before.
    one.commit(Epoch(3), vec![first]).await.unwrap();
    one.commit(Epoch(4), vec![output(PAIRS, &[0], &[chunk(PAIRS, "{\"id\":9}", 1)])])
        .await
        .unwrap();
    assert_eq!(texts(&url, all).await, now);
    let noted = "SELECT concat_ws(' ', sink, epoch) FROM \"Shop\".laminar_commits";
    assert_eq!(texts(&url, noted).await, ["pipe_1/public.t 5"]);
    // Another sink has epochs of its own.
    let sink = "pipe_2/public.t".to_owned();
    let mut another = target.open_committer(CommitterContext { sink }).await.unwrap();
    another
        .commit(Epoch(1), vec![output(PAIRS, &[0], &[chunk(PAIRS, "{\"id\":9}", 1)])])
        .await
        .unwrap();
    assert_eq!(texts(&url, all).await, ["1 7", "4 d 7", "9 7"]);
}

const TYPES: &str = "b BOOLEAN, i1 TINYINT, i2 SMALLINT, i8 BIGINT, u8 BIGINT UNSIGNED, f4 REAL, f8 DOUBLE, n NUMERIC(20,4), t TEXT, \
     c CHAR(3), y BYTEA, d DATE, tm TIME, ts TIMESTAMP, tz TIMESTAMPTZ, iv INTERVAL, u UUID, j JSON, jb JSONB, ints INT[], \
     texts TEXT[], mood TEXT, whole STRUCT<x INT,y TEXT>";

#[tokio::test]
async fn every_type_arrives_as_it_is() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TABLE t (b bool, i1 int2, i2 int2, i8 int8, u8 numeric, f4 float4, f8 float8, n numeric(20,4), t varchar, c char(3),
            y bytea, d date, tm time, ts timestamp, tz timestamptz, iv interval, u uuid, j json, jb jsonb, ints int[], texts text[],
            mood mood, whole jsonb)",
    )
    .await;
    let target = table(&[("url", &url), ("table", "t")], TYPES).unwrap();
    target.check_outside(&[]).await.unwrap();
    let row = concat!(
        r#"{"b":true,"i1":-7,"i2":-32768,"i8":9223372036854775807,"u8":18446744073709551615,"f4":0.1,"f8":"-Infinity","#,
        r#""n":1234567890123456.7891,"t":"a\nb\"ü\t\\","c":"ab","y":"\\xdeadbeef","d":"2024-02-29","tm":"23:59:59.123456","#,
        r#""ts":"2024-02-29T12:00:00.000001","tz":"2024-02-29T12:00:00+02:00","iv":"14 months 3 days 14706700000 microseconds","#,
        r#""u":"6ecd8c99-4036-403d-bf84-cf8400f67836","j":{"a": 1},"jb":{"b": [1, 2]},"ints":[1,null,3],"texts":["x","y,\"z\\","NULL"],"#,
        r#""mood":"ok","whole":{"x":7,"y":"seven"}}"#,
        "\n{}"
    );
    let bytes = output(TYPES, &[], &[chunk(TYPES, row, 1)]);
    committer(&target).await.commit(Epoch(1), vec![bytes]).await.unwrap();
    let written = texts(&url, "SELECT row_to_json(r)::text FROM t AS r ORDER BY b NULLS LAST").await;
    assert_eq!(
        written[0],
        concat!(
            r#"{"b":true,"i1":-7,"i2":-32768,"i8":9223372036854775807,"u8":18446744073709551615,"f4":0.1,"f8":"-Infinity","#,
            r#""n":1234567890123456.7891,"t":"a\nb\"ü\t\\","c":"ab ","y":"\\xdeadbeef","d":"2024-02-29","tm":"23:59:59.123456","#,
            r#""ts":"2024-02-29T12:00:00.000001","tz":"2024-02-29T10:00:00+00:00","iv":"1 year 2 mons 3 days 04:05:06.7","#,
            r#""u":"6ecd8c99-4036-403d-bf84-cf8400f67836","j":{"a": 1},"jb":{"b": [1, 2]},"ints":[1,null,3],"#,
            r#""texts":["x","y,\"z\\","NULL"],"mood":"ok","whole":{"x": 7, "y": "seven"}}"#
        )
    );
    assert_eq!(
        texts(&url, "SELECT (r IS NULL)::text FROM t AS r ORDER BY b NULLS LAST").await,
        ["false", "true"]
    );
}

/// Between a client and the server; breaks one connection when it is told to.
struct Proxy {
    port: u16,
    breaks: Arc<AtomicU8>,
}

const NOTHING: u8 = 0;
const BEFORE_COMMIT: u8 = 1;
/// The server has committed, and the client does not hear of it.
const AFTER_COMMIT: u8 = 2;

impl Proxy {
    async fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let breaks = Arc::new(AtomicU8::new(NOTHING));
        let told = Arc::clone(&breaks);
        crate::spawn::named("proxy", async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("localhost", server)).await.unwrap();
                crate::spawn::named("proxied connection", forward(client, server, Arc::clone(&told)));
            }
        });
        Proxy { port, breaks }
    }
}

async fn forward(mut client: TcpStream, mut server: TcpStream, told: Arc<AtomicU8>) {
    let (mut question, mut answer) = (vec![0; 65536], vec![0; 65536]);
    let mut ending = false;
    loop {
        tokio::select! {
            read = client.read(&mut question) => {
                let Ok(length @ 1..) = read else { return };
                if question[..length].windows(7).any(|word| word == b"COMMIT\0") {
                    match told.swap(NOTHING, Ordering::SeqCst) {
                        BEFORE_COMMIT => return,
                        AFTER_COMMIT => ending = true,
                        _ => {}
                    }
                }
                if server.write_all(&question[..length]).await.is_err() { return }
            }
            read = server.read(&mut answer) => {
                let Ok(length @ 1..) = read else { return };
                if ending { return }
                if client.write_all(&answer[..length]).await.is_err() { return }
            }
        }
    }
}

#[tokio::test]
async fn f_14_a_connection_that_breaks_at_commit_is_asked_again() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(&url, "CREATE TABLE t (id int8, name text)").await;
    let mut away = url::Url::parse(&url).unwrap();
    let proxy = Proxy::start(away.port().unwrap()).await;
    away.set_host(Some("127.0.0.1")).unwrap();
    away.set_port(Some(proxy.port)).unwrap();
    let target = table(&[("url", away.as_str()), ("table", "t")], PAIRS).unwrap();
    let mut committer = committer(&target).await;
    for (epoch, breaks, there) in [(1, AFTER_COMMIT, "1"), (2, BEFORE_COMMIT, "1"), (3, AFTER_COMMIT, "3")] {
        let bytes = output(PAIRS, &[], &[chunk(PAIRS, "{\"id\":1,\"name\":\"a\"}", 1)]);
        proxy.breaks.store(breaks, Ordering::SeqCst);
        let lost = committer.commit(Epoch(epoch), vec![bytes.clone()]).await.unwrap_err();
        assert_eq!(lost.retry(), Retry::Backoff, "{lost}");
        assert_eq!(
            texts(&url, "SELECT count(*)::text FROM t").await,
            [there],
            "epoch {epoch}"
        );
        committer.commit(Epoch(epoch), vec![bytes]).await.unwrap();
        assert_eq!(texts(&url, "SELECT count(*)::text FROM t").await, [epoch.to_string()]);
    }
}

#[tokio::test]
async fn a_server_that_was_away_takes_the_epoch_later() {
    let Some(mut server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(&url, "CREATE TABLE t (id int8, name text)").await;
    let target = table(&[("url", &url), ("table", "t")], PAIRS).unwrap();
    let mut committer = committer(&target).await;
    let line = |id: u64| output(PAIRS, &[], &[chunk(PAIRS, &format!("{{\"id\":{id}}}"), 1)]);
    committer.commit(Epoch(1), vec![line(1)]).await.unwrap();
    if !server.stop().await {
        return;
    }
    for _ in 0..2 {
        let error = committer.commit(Epoch(2), vec![line(2)]).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Backoff, "{error}");
    }
    server.start_again().await;
    // Connections of the pool are found broken one by one.
    while let Err(error) = committer.commit(Epoch(2), vec![line(2)]).await {
        assert_eq!(error.retry(), Retry::Backoff, "{error}");
    }
    assert_eq!(texts(&url, "SELECT id::text FROM t ORDER BY id").await, ["1", "2"]);
}

#[tokio::test]
async fn what_the_server_refuses_is_said_in_its_words() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE TABLE t (id int8 PRIMARY KEY CHECK (id < 100), name text UNIQUE)",
    )
    .await;
    let target = table(&[("url", &url), ("table", "t")], PAIRS).unwrap();
    target.check_outside(&["id".into()]).await.unwrap();
    let mut committer = committer(&target).await;
    let mut refused = async |lines: &str| -> (String, String) {
        let bytes = output(PAIRS, &[0], &[chunk(PAIRS, lines, 1)]);
        let error = committer.commit(Epoch(1), vec![bytes]).await.unwrap_err();
        assert_eq!(error.retry(), Retry::Never);
        (error.code().as_str().to_owned(), error.to_string())
    };
    let (code, said) = refused("{\"id\":100}").await;
    assert!(
        code == "23514"
            && said.contains("could not write to table \"t\" of the Postgres server: ")
            && said.contains("t_id_check"),
        "{code} {said}"
    );
    let (code, said) = refused("{\"id\":1,\"name\":\"a\"}\n{\"id\":2,\"name\":\"a\"}").await;
    assert!(code == "23505" && said.contains("t_name_key"), "{code} {said}");
    assert_eq!(texts(&url, "SELECT id::text FROM t").await, [""; 0]);
    // A unique index would let it in any number of times.
    let schema = columns(PAIRS);
    let context =
        std::thread::spawn(move || Bench::new().sink_context(&schema, SinkChangelog::Upsert { key: vec![0] }, &[]));
    let error = prepared(&context.join().unwrap(), &[chunk(PAIRS, "{\"name\":\"a\"}", 1)]).unwrap_err();
    assert_eq!(error.code().as_str(), "23502");
}

#[tokio::test]
async fn what_does_not_fit_is_found_beforehand() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE TABLE t (id int8, name varchar(9), small int2, at timestamp, must int NOT NULL DEFAULT 1,
            twice int8 GENERATED ALWAYS AS (id * 2) STORED);
         CREATE UNIQUE INDEX ON t (name) WHERE id > 0; CREATE UNIQUE INDEX ON t (small, id);
         CREATE VIEW v AS SELECT 1 AS id; CREATE TABLE strict (id int8, must int NOT NULL);
         CREATE ROLE reader LOGIN; GRANT SELECT ON t TO reader; CREATE ROLE writer LOGIN; GRANT ALL ON t TO writer;
         REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    )
    .await;
    let of_user = |user: &str| {
        let mut url = url::Url::parse(&url).unwrap();
        url.set_username(user).unwrap();
        url.to_string()
    };
    let check = async |url: &str, name: &str, declared: &str, key: &[&str]| -> Result<(), String> {
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        let checked = table(&[("url", url), ("table", name)], declared)
            .unwrap()
            .check_outside(&key)
            .await;
        let said = |error: Error| format!("{} {error} {}", error.code().as_str(), error.hint().unwrap_or_default());
        checked.map_err(said)
    };
    let cases: &[(&str, &str, &[&str], &str, &str)] = &[
        ("missing", "id BIGINT", &[], "42P01", "does not exist"),
        ("v", "id INT", &[], "42809", "is not a table"),
        ("t", "id BIGINT, nam TEXT", &[], "42703", "Perhaps you meant \"name\""),
        (
            "t",
            "id BIGINT, small INT",
            &[],
            "42804",
            "declared as INT but is of type int2",
        ),
        ("t", "id TEXT", &[], "42804", "declared as TEXT but is of type int8"),
        (
            "t",
            "at TIMESTAMPTZ",
            &[],
            "42804",
            "declared as TIMESTAMPTZ but is of type timestamp",
        ),
        ("t", "id BIGINT, twice BIGINT", &[], "428C9", "generated always"),
        ("strict", "id BIGINT", &[], "23502", "must"),
        (
            "t",
            "id BIGINT, name TEXT",
            &["id"],
            "42P10",
            "ADD PRIMARY KEY (\"id\")",
        ),
        (
            "t",
            "id BIGINT, name TEXT",
            &["name"],
            "42P10",
            "no unique index on (\"name\")",
        ),
    ];
    for (name, declared, key, code, words) in cases {
        let said = check(&url, name, declared, key).await.unwrap_err();
        assert!(
            said.starts_with(code) && said.contains(words),
            "{name} {declared}: {said}"
        );
    }
    check(&url, "t", "id BIGINT, small SMALLINT, name TEXT", &["id", "small"])
        .await
        .unwrap();
    let said = check(&of_user("reader"), "t", "id BIGINT", &[]).await.unwrap_err();
    assert!(said.starts_with("42501 permission denied for table \"t\""), "{said}");
    let said = check(&of_user("writer"), "t", "id BIGINT", &[]).await.unwrap_err();
    assert!(
        said.starts_with("42501 permission denied for schema public") && said.contains("laminar_commits"),
        "{said}"
    );
}

#[tokio::test]
async fn many_rows_go_in_blocks() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(&url, "CREATE TABLE t (id int8 PRIMARY KEY, name text)").await;
    let target = table(&[("url", &url), ("table", "t")], PAIRS).unwrap();
    let lines = |from: u64, to: u64| -> String {
        let lines = (from..to).map(|id| format!("{{\"id\":{id},\"name\":\"row number {id} of many\"}}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    let bytes = output(PAIRS, &[0], &[chunk(PAIRS, &lines(0, 30_000), 1)]);
    committer(&target).await.commit(Epoch(1), vec![bytes]).await.unwrap();
    let changed = output(
        PAIRS,
        &[0],
        &[
            chunk(PAIRS, &lines(0, 20_000), -1),
            chunk(PAIRS, &lines(25_000, 40_000), 1),
        ],
    );
    committer(&target).await.commit(Epoch(2), vec![changed]).await.unwrap();
    let summary = "SELECT concat_ws(' ', count(*), min(id), max(id)) FROM t";
    assert_eq!(texts(&url, summary).await, ["20000 20000 39999"]);
}

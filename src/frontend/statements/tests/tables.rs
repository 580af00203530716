//! Internal tables: what several sessions see of each other, parameters, storage that fails.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use datafusion::common::ScalarValue;

use crate::catalog::objects::Object;
use crate::frontend::parameter::Parameter;
use crate::frontend::response::Response;
use crate::frontend::sql;
use crate::frontend::testing::{Client, TestServer, collect};
use crate::types::SqlType;

fn int(value: i32) -> Parameter {
    Parameter {
        sql_type: SqlType::Int,
        value: ScalarValue::Int32(Some(value)),
    }
}

async fn bound(client: &mut Client, text: &str, parameters: &[Parameter]) -> String {
    let statement = sql::parse(text).unwrap().remove(0);
    match client.session.run(&statement, parameters).await.unwrap() {
        Response::Complete { tag } => tag,
        Response::Rows { rows, .. } => collect(rows).await.unwrap().join(";"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_take_parameters() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client
        .run("CREATE TABLE t (a INT PRIMARY KEY, b TEXT, at TIMESTAMP)")
        .await;
    let text = Parameter {
        sql_type: SqlType::Text,
        value: ScalarValue::Utf8(Some("it's".into())),
    };
    assert_eq!(
        bound(&mut client, "INSERT INTO t (a, b) VALUES ($1, $2)", &[int(1), text]).await,
        "INSERT 0 1"
    );
    assert_eq!(
        bound(
            &mut client,
            "UPDATE t SET b = b || $2 WHERE a = $1 RETURNING b",
            &[int(1), int(7)]
        )
        .await,
        "it's7"
    );
    assert_eq!(
        bound(&mut client, "DELETE FROM t WHERE a = $1", &[int(1)]).await,
        "DELETE 1"
    );
    for (text, parameters, columns) in [
        (
            "INSERT INTO t VALUES ($1, $2, $3)",
            vec![SqlType::Int, SqlType::Text],
            None,
        ),
        (
            "UPDATE t SET b = $2 WHERE a = $1",
            vec![SqlType::Int, SqlType::Text],
            None,
        ),
        (
            "DELETE FROM t WHERE a = $1 RETURNING a, b AS c",
            vec![SqlType::Int],
            Some("a,c"),
        ),
        (
            "INSERT INTO t (a) VALUES ($1) RETURNING *",
            vec![SqlType::Int],
            Some("a,b,at"),
        ),
    ] {
        let statement = sql::parse(text).unwrap().remove(0);
        let described = client.session.describe(&statement, &[]).unwrap();
        assert_eq!(described.parameters[..parameters.len()], parameters, "{text}");
        let names = described.columns.map(|columns| {
            let names: Vec<_> = columns.fields().iter().map(|field| field.name().clone()).collect();
            names.join(",")
        });
        assert_eq!(names.as_deref(), columns, "{text}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_take_turns() {
    const WRITERS: i64 = 8;
    const ROUNDS: i64 = 10;
    let server = TestServer::start().await;
    let mut client = server.client();
    client
        .run("CREATE TABLE t (id INT PRIMARY KEY, n BIGINT); INSERT INTO t VALUES (1, 0)")
        .await;
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let mut client = server.client();
        writers.push(tokio::spawn(async move {
            for _ in 0..ROUNDS {
                assert_eq!(client.run("UPDATE t SET n = n + 1 WHERE id = 1").await, "UPDATE 1");
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // Nobody has computed over what another was about to change.
    assert_eq!(client.rows("SELECT n FROM t").await, [(WRITERS * ROUNDS).to_string()]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_seen_by_others_at_its_commit() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (server.client(), server.client());
    one.run("CREATE TABLE t (a INT PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    one.run("BEGIN; INSERT INTO t VALUES (2); DELETE FROM t WHERE a = 1")
        .await;
    assert_eq!(one.rows("SELECT a FROM t").await, ["2"]);
    assert_eq!(two.rows("SELECT a FROM t").await, ["1"]);
    let waiting = tokio::spawn(async move {
        let tag = two.run("INSERT INTO t SELECT max(a) + 1 FROM t").await;
        (two, tag)
    });
    assert_eq!(one.run("COMMIT").await, "COMMIT");
    let (mut two, tag) = waiting.await.unwrap();
    assert_eq!(tag, "INSERT 0 1");
    assert_eq!(two.rows("SELECT a FROM t ORDER BY a").await, ["2", "3"]);
    // A session that goes away gives its lock back.
    two.run("BEGIN; DELETE FROM t").await;
    drop(two);
    assert_eq!(one.run("UPDATE t SET a = a + 10").await, "UPDATE 2");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_waits_for_its_turn_can_be_cancelled() {
    let server = TestServer::start().await;
    let (mut one, mut two) = (server.client(), server.client());
    one.run("CREATE TABLE t (a INT); BEGIN; INSERT INTO t VALUES (1)").await;
    let waiting = two.run("INSERT INTO t VALUES (2)");
    assert!(tokio::time::timeout(Duration::from_millis(50), waiting).await.is_err());
    one.run("COMMIT").await;
    assert_eq!(one.run("INSERT INTO t VALUES (3)").await, "INSERT 0 1");
    assert_eq!(one.rows("SELECT a FROM t ORDER BY a").await, ["1", "3"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_cannot_be_written_are_undone() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client
        .run("CREATE TABLE t (a INT PRIMARY KEY); INSERT INTO t VALUES (1)")
        .await;
    let snapshot = server.server.catalog.snapshot();
    let table = snapshot.tables().next().unwrap();
    let folder = server
        .directory
        .path()
        .join("checkpoints")
        .join(&table.header.public_id);
    // Nothing can be created where a file is in the place of the directory.
    let aside = server.directory.path().join("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "").unwrap();
    let writing = tokio::spawn(async move {
        let error = client.error("INSERT INTO t VALUES (2)").await;
        (client, error)
    });
    // Until the job has noticed; then the storage is back.
    let failed = async {
        while !server
            .server
            .coordinator
            .events()
            .list()
            .iter()
            .any(|event| event.error.is_some())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), failed).await.unwrap();
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    let (mut client, error) = writing.await.unwrap();
    assert_eq!(error.code.as_str(), "40001", "{error:?}");
    assert_eq!(client.rows("SELECT a FROM t").await, ["1"]);
    assert_eq!(client.run("INSERT INTO t VALUES (2)").await, "INSERT 0 1");
    assert_eq!(client.rows("SELECT a FROM t ORDER BY a").await, ["1", "2"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_see_each_transaction_whole() {
    let server = TestServer::start().await;
    let (mut reader, mut writer) = (server.client(), server.client());
    writer
        .run("CREATE TABLE t (a INT PRIMARY KEY, b TEXT); INSERT INTO t VALUES (1, 'x')")
        .await;
    reader.run("BEGIN").await;
    reader.run("DECLARE s CURSOR FOR SUBSCRIBE t").await;
    assert_eq!(reader.rows("FETCH 1 FROM s WITH (timeout = '20 s')").await.len(), 1);
    writer
        .run("BEGIN; INSERT INTO t VALUES (2, 'y'); UPDATE t SET b = 'z' WHERE a = 1; COMMIT")
        .await;
    let mut changes = Vec::new();
    while changes.len() < 3 {
        changes.extend(reader.rows("FETCH 3 FROM s WITH (timeout = '20 s')").await);
    }
    let epochs: std::collections::BTreeSet<&str> = changes.iter().map(|line| line.split('|').next().unwrap()).collect();
    assert_eq!(epochs.len(), 1, "{changes:?}");
    let mut signed: Vec<&str> = changes.iter().map(|line| line.split_once('|').unwrap().1).collect();
    signed.sort_unstable();
    assert_eq!(signed, ["-1|1|x", "1|1|z", "1|2|y"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_table_leaves_nothing() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client.run("CREATE TABLE t (a INT); INSERT INTO t VALUES (1)").await;
    let snapshot = server.server.catalog.snapshot();
    let table = snapshot.tables().next().unwrap().clone();
    let folder = server
        .directory
        .path()
        .join("checkpoints")
        .join(&table.header.public_id);
    assert!(folder.exists());
    client.run("DROP TABLE t").await;
    let left = walk(&folder);
    assert!(left.is_empty(), "{left:?}");
    assert!(server.server.coordinator.job(table.header.oid).is_none());
    assert!(!matches!(
        server.server.catalog.snapshot().get(table.header.oid),
        Some(Object::Table(_))
    ));
    server.stop().await;
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}

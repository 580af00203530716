//! The wire with the server's own sessions behind it.

use std::sync::Arc;

use futures::{StreamExt, pin_mut};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use tokio_util::sync::CancellationToken;

use super::any_port;
use crate::frontend::pgwire::cancel::Backends;
use crate::frontend::pgwire::listener::{PgConfig, PgListener};
use crate::frontend::pgwire_sessions::PgSessions;
use crate::frontend::testing::TestServer;

struct Wired {
    server: TestServer,
    port: u16,
}

async fn start() -> Wired {
    let server = TestServer::start().await;
    let listener = PgListener::bind(PgConfig::at(any_port()), Arc::new(Backends::default()))
        .await
        .unwrap();
    let port = listener.local_address().port();
    let sessions = Arc::new(PgSessions::new(Arc::clone(&server.server), None));
    crate::spawn::named("test listener", listener.serve(sessions, CancellationToken::new()));
    Wired { server, port }
}

async fn connect(wired: &Wired) -> Client {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(wired.port)
        .user("laminar")
        .dbname("laminar");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    crate::spawn::named("test client", async move {
        // Ends with the client.
        let _ = connection.await;
    });
    client
}

fn rows(messages: &[SimpleQueryMessage]) -> Vec<Vec<Option<String>>> {
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statements_run_in_both_protocols() {
    let wired = start().await;
    let client = connect(&wired).await;
    let row = client
        .query_one("SELECT 1 AS a, 'x' AS b, NULL AS c", &[])
        .await
        .unwrap();
    assert_eq!(
        row.columns().iter().map(|column| column.name()).collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
    let echo = client.prepare_typed("SELECT $1", &[Type::INT4]).await.unwrap();
    let row = client.query_one(&echo, &[&41i32]).await.unwrap();
    assert_eq!(row.columns()[0].type_().name(), "int4");
    assert_eq!(row.get::<_, i32>(0), 41);
    let messages = client
        .simple_query("SET TIME ZONE 'Europe/Berlin'; SELECT TIMESTAMPTZ '2024-07-01 00:00:00+00'")
        .await
        .unwrap();
    assert_eq!(rows(&messages), [[Some("2024-07-01 02:00:00+02".to_owned())]]);
    let error = client.simple_query("SELECT * FROM nowhere").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(
        (error.code().code(), error.message()),
        ("42P01", "relation \"nowhere\" does not exist")
    );
    assert_eq!(
        error.position(),
        Some(&tokio_postgres::error::ErrorPosition::Original(15))
    );
    wired.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_is_created_read_and_subscribed_to() {
    let wired = start().await;
    let client = connect(&wired).await;
    wired.server.write(
        "in.json",
        "{\"id\": 1, \"name\": \"a\"}\n{\"id\": 2, \"name\": \"b\"}\n",
    );
    client
        .batch_execute(
            "CREATE TABLE people (id BIGINT, name TEXT) WITH (connector = 'single_file', path = '{{ DATA }}/in.json', \
             format = 'json', type = 'source')",
        )
        .await
        .unwrap();
    client
        .batch_execute(
            "CREATE PIPELINE counts WITH (wait = 'finished') AS SELECT name, count(*) AS n FROM people GROUP BY name",
        )
        .await
        .unwrap();
    let found = client
        .query("SELECT name, n FROM counts ORDER BY name", &[])
        .await
        .unwrap();
    let found: Vec<(String, i64)> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(found, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    let changes = client.query_raw("SUBSCRIBE counts", Vec::<i32>::new()).await.unwrap();
    pin_mut!(changes);
    for _ in 0..2 {
        let change = changes.next().await.unwrap().unwrap();
        assert_eq!(change.columns()[1].name(), "lm_diff");
    }
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    while let Some(next) = changes.next().await {
        if let Err(error) = next {
            assert_eq!(error.code().unwrap().code(), "57014");
        }
    }
    wired.server.stop().await;
}

/// What psql sends for its backslash commands, by psql itself when this machine has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_meta_commands_work() {
    let wired = start().await;
    let client = connect(&wired).await;
    client
        .batch_execute("CREATE TABLE ticks WITH (connector = 'impulse', event_rate = '10')")
        .await
        .unwrap();
    client
        .batch_execute("CREATE PIPELINE totals WITH (start = false) AS SELECT count(*) AS n FROM ticks")
        .await
        .unwrap();
    let commands = [
        "\\conninfo",
        "\\d",
        "\\d ticks",
        "\\d totals",
        "\\l",
        "\\dn",
        "\\dt",
        "\\dv",
        "\\dm",
        "\\du",
        "\\df",
    ];
    let mut process = std::process::Command::new("psql");
    process.args(["-X", "-h", "127.0.0.1", "-U", "laminar", "-d", "laminar", "-p"]);
    process.arg(wired.port.to_string()).stdin(std::process::Stdio::null());
    for command in commands {
        process.args(["-c", command]);
    }
    let output = match tokio::task::spawn_blocking(move || process.output()).await.unwrap() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => panic!("could not run psql: {error}"),
    };
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert_eq!(err, "", "{out}");
    for expected in [
        "You are connected to database \"laminar\"",
        "ticks",
        "counter",
        "totals",
        "bigint",
        "public",
    ] {
        assert!(out.contains(expected), "{expected} is not in {out}");
    }
    wired.server.stop().await;
}

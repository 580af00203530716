//! The tokio-postgres driver and psql, as users have them.

use std::error::Error as StdError;
use std::process::Stdio;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, pin_mut};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{TestServer, becomes, start};

async fn connect(server: &TestServer) -> Client {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(server.address.port())
        .user("u")
        .dbname("laminar");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    crate::spawn::named("test client", async move {
        // Ends with the client.
        let _ = connection.await;
    });
    client
}

/// The bytes of a value of any type.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Raw, Box<dyn StdError + Sync + Send>> {
        Ok(Raw(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[tokio::test]
async fn parameters_and_results_are_binary() {
    let server = start().await;
    let client = connect(&server).await;
    let echo = client.prepare_typed("echo", &[Type::INT4]).await.unwrap();
    let row = client.query_one(&echo, &[&7i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 7);
    assert_eq!(
        client
            .query_one(&echo, &[&None::<i32>])
            .await
            .unwrap()
            .get::<_, Option<i32>>(0),
        None
    );
    let echo = client.prepare_typed("echo", &[Type::TEXT]).await.unwrap();
    assert_eq!(client.query_one(&echo, &[&"é"]).await.unwrap().get::<_, String>(0), "é");
    let echo = client.prepare_typed("echo", &[Type::FLOAT8]).await.unwrap();
    assert_eq!(client.query_one(&echo, &[&1.5f64]).await.unwrap().get::<_, f64>(0), 1.5);
    let echo = client.prepare_typed("echo", &[Type::BYTEA]).await.unwrap();
    let bytes: &[u8] = &[0, 255];
    assert_eq!(
        client.query_one(&echo, &[&bytes]).await.unwrap().get::<_, Vec<u8>>(0),
        bytes
    );
    let echo = client.prepare_typed("echo", &[Type::INT8_ARRAY]).await.unwrap();
    let array = vec![Some(1i64), None, Some(3)];
    assert_eq!(
        client
            .query_one(&echo, &[&array])
            .await
            .unwrap()
            .get::<_, Vec<Option<i64>>>(0),
        array
    );
    let echo = client.prepare_typed("echo", &[Type::JSONB]).await.unwrap();
    let json = serde_json::json!({"a": [1, null]});
    assert_eq!(
        client
            .query_one(&echo, &[&json])
            .await
            .unwrap()
            .get::<_, serde_json::Value>(0),
        json
    );
    let echo = client.prepare_typed("echo", &[Type::TIMESTAMPTZ]).await.unwrap();
    let time = std::time::UNIX_EPOCH + Duration::from_micros(1_709_210_096_789_000);
    assert_eq!(
        client
            .query_one(&echo, &[&time])
            .await
            .unwrap()
            .get::<_, std::time::SystemTime>(0),
        time
    );
    let row = client.query_one(&echo, &[&time]).await.unwrap();
    assert_eq!(row.get::<_, Raw>(0).0, 0x0002_b583_4172_8608_i64.to_be_bytes());
}

#[tokio::test]
async fn large_results_arrive_whole() {
    let server = start().await;
    let client = connect(&server).await;
    let rows = client.query("rows 100500", &[]).await.unwrap();
    assert_eq!(rows.len(), 100_500);
    assert!(
        rows.iter()
            .enumerate()
            .all(|(at, row)| usize::try_from(row.get::<_, i32>(0)).unwrap() == at)
    );
}

#[tokio::test]
async fn pipelined_queries_are_answered_in_order() {
    let server = start().await;
    let client = connect(&server).await;
    let queries = (1..20).map(|count| {
        let client = &client;
        async move { client.query(&format!("rows {count}"), &[]).await.unwrap().len() }
    });
    let counts = futures::future::join_all(queries).await;
    assert_eq!(counts, (1..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn portals_in_a_transaction() {
    let server = start().await;
    let mut client = connect(&server).await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("rows 5", &[]).await.unwrap();
    let mut counts = Vec::new();
    for _ in 0..4 {
        counts.push(transaction.query_portal(&portal, 2).await.unwrap().len());
    }
    assert_eq!(counts, [2, 2, 1, 0]);
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn f_52_a_cancel_reaches_rows_in_both_protocols_and_the_session_goes_on() {
    let server = start().await;
    let client = connect(&server).await;
    for statement in ["endless", "flood"] {
        let rows = client.query_raw(statement, Vec::<i32>::new()).await.unwrap();
        pin_mut!(rows);
        rows.next().await.unwrap().unwrap();
        client.cancel_token().cancel_query(NoTls).await.unwrap();
        let error = rows.try_collect::<Vec<_>>().await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "57014");
        becomes(&server.fake.streams, 0).await;
    }
    let messages = client.simple_query_raw("endless").await.unwrap();
    pin_mut!(messages);
    messages.next().await.unwrap().unwrap();
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    let error = messages.try_collect::<Vec<_>>().await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "57014");
    assert_eq!(client.query("rows 2", &[]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_cancel_reaches_a_statement_before_its_rows() {
    let server = start().await;
    let client = connect(&server).await;
    let token = client.cancel_token();
    let (result, ()) = tokio::join!(client.batch_execute("sleep"), async {
        becomes(&server.fake.running, 1).await;
        token.cancel_query(NoTls).await.unwrap();
    });
    assert_eq!(result.unwrap_err().code().unwrap().code(), "57014");
}

#[tokio::test]
async fn statement_timeout_covers_running_and_rows() {
    let server = start().await;
    let client = connect(&server).await;
    client.batch_execute("set statement_timeout 60").await.unwrap();
    for statement in ["sleep", "endless", "flood"] {
        let error = client.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "57014", "{statement}");
    }
}

#[tokio::test]
async fn earlier_results_survive_a_later_error() {
    let server = start().await;
    let client = connect(&server).await;
    let messages = client.simple_query_raw("rows 2; nothing").await.unwrap();
    pin_mut!(messages);
    let mut rows = 0;
    let error = loop {
        match messages.next().await.unwrap() {
            Ok(SimpleQueryMessage::Row(_)) => rows += 1,
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(rows, 2);
    assert_eq!(
        error.as_db_error().unwrap().hint().unwrap(),
        "Use SHOW TABLES to list the tables."
    );
}

#[tokio::test]
async fn copy_out_streams() {
    let server = start().await;
    let client = connect(&server).await;
    let stream = client.copy_out("copy rows_2500 text").await.unwrap();
    let chunks: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
    let text = String::from_utf8(chunks.concat()).unwrap();
    assert_eq!(text.lines().count(), 2500);
    assert!(text.ends_with("2499\n"));
}

/// Runs psql when this machine has it; the answer is standard output and standard error.
async fn psql(server: &TestServer, commands: &[&str]) -> Option<(String, String)> {
    let mut process = std::process::Command::new("psql");
    process
        .args(["-X", "-A", "-t", "-h", "127.0.0.1", "-U", "u", "-d", "laminar", "-p"])
        .arg(server.address.port().to_string())
        .stdin(Stdio::null());
    for command in commands {
        process.args(["-c", command]);
    }
    let output = match tokio::task::spawn_blocking(move || process.output()).await.unwrap() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => panic!("could not run psql: {error}"),
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Some((text(output.stdout), text(output.stderr)))
}

#[tokio::test]
async fn psql_shows_rows_notices_and_errors() {
    let server = start().await;
    let Some((out, err)) = psql(&server, &["rows 2", "notice", "nothing", "copy rows_2 csv"]).await else {
        return;
    };
    assert_eq!(out, "0\n1\nNOTICE\nn\n0\n1\n");
    assert!(err.contains("NOTICE:  look here"), "{err}");
    assert!(
        err.contains("ERROR:  relation \"nothing\" does not exist\nLINE 1: nothing"),
        "{err}"
    );
    assert!(err.contains("HINT:  Use SHOW TABLES to list the tables."), "{err}");
}

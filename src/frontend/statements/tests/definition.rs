//! CREATE, SHOW CREATE, DESCRIBE, ALTER, DROP, with their errors.

#![allow(clippy::unwrap_used)]

use crate::error::ErrorReport;
use crate::frontend::testing::{Client, TestServer};

const ORDERS: &str = "CREATE TABLE public.orders (
    id BIGINT NOT NULL,
    price NUMERIC(10, 2),
    ts TIMESTAMP,
    doubled NUMERIC(12, 2) GENERATED ALWAYS AS (price * 2),
    PRIMARY KEY (id),
    WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
) WITH (
    connector = 'single_file',
    path = '{{ DATA }}/orders.json',
    format = 'json'
);";

fn hint(error: &ErrorReport) -> &str {
    error.hint.as_deref().unwrap_or_default()
}

async fn shown(client: &mut Client, kind: &str, name: &str) -> String {
    let rows = client.rows(&format!("SHOW CREATE {kind} {name}")).await;
    rows[0].split_once('|').unwrap().1.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn show_create_makes_the_same_again() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client
        .run("CREATE SECRET pw AS 'hunter2'; CREATE SECRET env FROM ENV 'DATA'")
        .await;
    client.run("CREATE SCHEMA s; SET search_path = s, public").await;
    client.run(ORDERS).await;
    client
        .run("CREATE CONNECTION files WITH (connector = 'filesystem', aws_access_key_id = 'a', aws_secret_access_key = SECRET pw)")
        .await;
    client
        .run("CREATE VIEW \"Big\" (\"Id\", p) AS SELECT id, price FROM orders WHERE price > 100")
        .await;
    client
        .run("CREATE PIPELINE kept WITH (parallelism = 2, start = false) AS SELECT * FROM \"Big\" WHERE p > 1000")
        .await;
    for (kind, name) in [
        ("TABLE", "public.orders"),
        ("CONNECTION", "s.files"),
        ("VIEW", "s.\"Big\""),
        ("PIPELINE", "s.kept"),
        ("SECRET", "public.env"),
    ] {
        let text = shown(&mut client, kind, name).await;
        assert!(!text.contains("hunter2"), "{text}");
        // The same again under the same name: everything that stands on it goes first.
        client
            .run(&format!("BEGIN; DROP {kind} {name} CASCADE; {text} COMMIT"))
            .await;
        assert_eq!(shown(&mut client, kind, name).await, text);
        client
            .run(
                "CREATE VIEW IF NOT EXISTS s.\"Big\" (\"Id\", p) AS SELECT id, price FROM orders WHERE price > 100;
                 CREATE PIPELINE IF NOT EXISTS s.kept WITH (parallelism = 2, start = false) AS SELECT * FROM \"Big\" WHERE p > 1000",
            )
            .await;
    }
    assert_eq!(shown(&mut client, "TABLE", "orders").await, ORDERS);
    let error = client.error("SHOW CREATE SECRET pw").await;
    assert_eq!(error.code.as_str(), "0A000");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_checked_when_created() {
    let server = TestServer::start().await;
    let mut client = server.client();
    let with = "WITH (connector = 'single_file', path = 'x', format = 'json')";
    for (text, code, hinted) in [
        (
            "CREATE TABLE t (a INT) WITH (connector = 'single_fil', path = 'x')",
            "22023",
            "single_file",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector = 'single_file', paht = 'x', format = 'json')",
            "22023",
            "path",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector = 'single_file', path = 'x', format = 'jsn')",
            "22023",
            "json",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector = 'single_file', path = 'x', format = 'json', type = 'sauce')",
            "22023",
            "source",
        ),
        (
            "CREATE TABLE t (a INT) WITH (connector = 'blackhole', type = 'source')",
            "42809",
            "",
        ),
        ("CREATE TABLE t (a INT) WITH (format = 'json')", "0A000", "connector"),
        (&format!("CREATE TABLE t (a NUMBR) {with}"), "42704", ""),
        (&format!("CREATE TABLE t (a INT, a TEXT) {with}"), "42701", ""),
        (
            &format!("CREATE TABLE t (abc INT, PRIMARY KEY (abd)) {with}"),
            "42703",
            "abc",
        ),
        (
            &format!("CREATE TABLE t (a INT, b INT GENERATED ALWAYS AS (c + 1)) {with}"),
            "42703",
            "",
        ),
        (&format!("CREATE TABLE t (a INT, WATERMARK FOR a) {with}"), "42804", ""),
        ("CREATE TABLE t (a INT) WITH (connection = nothing)", "42704", ""),
        (
            "CREATE TABLE nowhere.t (a INT) WITH (connector = 'blackhole')",
            "3F000",
            "",
        ),
    ] {
        let error = client.error(text).await;
        assert_eq!(error.code.as_str(), code, "{text}: {error:?}");
        assert!(hint(&error).contains(hinted), "{text}: {error:?}");
    }
    assert_eq!(client.rows("SHOW TABLES").await, Vec::<String>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_come_from_the_file() {
    let server = TestServer::start().await;
    let mut client = server.client();
    server.write("sample.json", "{\"a\": 1, \"b\": \"x\"}\n{\"a\": 2, \"b\": null}\n");
    client
        .run("CREATE TABLE t WITH (connector = 'single_file', path = '{{ DATA }}/sample.json', format = 'json', type = 'source')")
        .await;
    assert!(client.notice_texts()[0].contains("were inferred: (a BIGINT, b TEXT)"));
    let described = client.rows("DESCRIBE t").await;
    assert!(described[0].starts_with("a|bigint|"), "{described:?}");
    let missing = "CREATE TABLE m WITH (connector = 'single_file', path = '{{ DATA }}/nothing', format = 'json', type = 'source')";
    assert_eq!(client.error(missing).await.code.as_str(), "58P01");
    let unset = "CREATE TABLE m WITH (connector = 'single_file', path = '{{ NOTHING }}', format = 'json')";
    assert_eq!(client.error(unset).await.code.as_str(), "55000");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_exist_once_and_are_dropped_with_care() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client.run(ORDERS).await;
    assert_eq!(client.error(ORDERS).await.code.as_str(), "42P07");
    client
        .run(&ORDERS.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS"))
        .await;
    assert_eq!(client.notice_texts(), ["relation \"orders\" already exists, skipping"]);
    client
        .run("CREATE VIEW v AS SELECT id FROM orders; CREATE OR REPLACE VIEW v AS SELECT id, price FROM orders")
        .await;
    let error = client.error("DROP TABLE orders").await;
    assert_eq!(
        (error.code.as_str(), error.detail.as_deref()),
        ("2BP01", Some("view v depends on table orders"))
    );
    assert_eq!(client.error("DROP VIEW orders").await.code.as_str(), "42809");
    assert_eq!(
        client
            .error("CREATE VIEW w AS SELECT nam FROM orders")
            .await
            .code
            .as_str(),
        "42703"
    );
    let error = client.error("SELECT * FROM ordrs").await;
    assert_eq!((error.code.as_str(), error.position), ("42P01", Some(15)));
    assert!(hint(&error).contains("orders"));
    client.run("DROP TABLE IF EXISTS nothing").await;
    client.run("COMMENT ON TABLE orders IS 'all of them'").await;
    assert_eq!(client.rows("SELECT comment FROM laminar.tables").await, ["all of them"]);
    client.run("ALTER VIEW v RENAME TO w; DROP TABLE orders CASCADE").await;
    assert!(
        client
            .notice_texts()
            .iter()
            .any(|text| text.contains("drop cascades to view w"))
    );
    assert_eq!(client.rows("SHOW VIEWS").await, Vec::<String>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_are_altered_and_checked() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client.run(ORDERS).await;
    client.run("ALTER TABLE orders SET (format = 'csv')").await;
    assert!(shown(&mut client, "TABLE", "orders").await.contains("format = 'csv'"));
    assert_eq!(
        client
            .error("ALTER TABLE orders SET (formt = 'csv')")
            .await
            .code
            .as_str(),
        "22023"
    );
    assert_eq!(
        client
            .error("ALTER TABLE orders SET (connector = 'stdout')")
            .await
            .code
            .as_str(),
        "0A000"
    );
    client
        .run("CREATE PIPELINE p WITH (start = false) AS SELECT id FROM orders")
        .await;
    client.run("ALTER PIPELINE p SET (parallelism = 3)").await;
    assert!(shown(&mut client, "PIPELINE", "p").await.contains("parallelism = '3'"));
    assert_eq!(
        client
            .error("ALTER PIPELINE p SET (paralelism = 3)")
            .await
            .code
            .as_str(),
        "22023"
    );
    assert_eq!(
        client
            .error("ALTER PIPELINE nothing SET (parallelism = 3)")
            .await
            .code
            .as_str(),
        "42P01"
    );
    client
        .run("CREATE SECRET s AS 'a'; ALTER SECRET s AS 'b'; CREATE CONNECTION c WITH (connector = 'impulse')")
        .await;
    assert_eq!(
        client
            .error("CREATE CONNECTION d WITH (connector = 'impuls')")
            .await
            .code
            .as_str(),
        "22023"
    );
    client.run("VALIDATE CONNECTION c").await;
    let secrets = client.rows("SELECT * FROM laminar.secrets").await;
    assert!(secrets.len() == 1 && !secrets[0].contains("|b|"), "{secrets:?}");
    server.stop().await;
}

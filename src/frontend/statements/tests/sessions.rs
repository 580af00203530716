//! Settings, transactions, prepared statements, cursors, the extended protocol.

#![allow(clippy::unwrap_used)]

use datafusion::common::ScalarValue;

use crate::frontend::parameter::Parameter;
use crate::frontend::response::Response;
use crate::frontend::sql;
use crate::frontend::testing::{TestServer, collect};
use crate::frontend::transaction::TransactionStatus;
use crate::types::SqlType;

const TABLE: &str = "CREATE TABLE ticks WITH (connector = 'impulse', message_count = 5)";

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_set_shown_and_reset() {
    let server = TestServer::start().await;
    let mut client = server.client();
    assert!(client.rows("SHOW server_version").await[0].starts_with("16."));
    // At login a client is told everything.
    assert!(
        client
            .session
            .parameter_changes()
            .iter()
            .any(|(name, _)| *name == "server_version")
    );
    client
        .run("SET search_path = a, \"B\"; SET TIME ZONE 'Europe/Berlin'; SET statement_timeout = '5 s'")
        .await;
    assert_eq!(client.rows("SHOW search_path").await, ["a, \"B\""]);
    assert_eq!(
        client.session.parameter_changes(),
        [("TimeZone", "Europe/Berlin".to_owned())]
    );
    assert_eq!(client.session.statement_timeout().unwrap().as_secs(), 5);
    client.run("RESET ALL").await;
    assert_eq!(client.rows("SHOW TIME ZONE").await, ["UTC"]);
    assert!(client.rows("SHOW ALL").await.len() > 50);
    let error = client.error("SET aplication_name = 'x'").await;
    assert_eq!(error.code.as_str(), "42704");
    assert_eq!(client.error("SHOW nothing").await.code.as_str(), "42704");
    assert_eq!(client.error("SET ROLE somebody").await.code.as_str(), "42501");
    client.run("SET application_name = 'test'").await;
    assert_eq!(
        client
            .rows("SELECT application_name, state FROM laminar.sessions")
            .await,
        ["test|active"]
    );
    client.run("SET client_min_messages = error; CHECKPOINT").await;
    assert!(client.notices().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_all_or_nothing() {
    let server = TestServer::start().await;
    let mut client = server.client();
    let mut other = server.client();
    client
        .run(&format!("BEGIN; {TABLE}; CREATE VIEW v AS SELECT counter FROM ticks"))
        .await;
    assert_eq!(client.session.transaction_status(), TransactionStatus::InTransaction);
    assert_eq!(client.rows("SHOW TABLES").await.len(), 1);
    assert!(other.rows("SHOW TABLES").await.is_empty());
    client.run("ROLLBACK").await;
    assert!(client.rows("SHOW TABLES").await.is_empty());

    client.run(&format!("BEGIN; {TABLE}")).await;
    assert_eq!(client.error("SELECT * FROM nothing").await.code.as_str(), "42P01");
    assert_eq!(client.error("SELECT 1").await.code.as_str(), "25P02");
    assert_eq!(client.session.transaction_status(), TransactionStatus::Failed);
    assert_eq!(client.run("COMMIT").await, "ROLLBACK");
    assert!(client.rows("SHOW TABLES").await.is_empty());

    client
        .run(&format!(
            "BEGIN; {TABLE}; SAVEPOINT a; CREATE VIEW gone AS SELECT 1 AS x; ROLLBACK TO a;
             CREATE TABLE sink WITH (connector = 'blackhole') AS SELECT counter FROM ticks;
             CREATE PIPELINE p AS SELECT count(*) AS n FROM ticks; COMMIT"
        ))
        .await;
    assert_eq!(client.session.transaction_status(), TransactionStatus::Idle);
    client
        .run("WAIT FOR PIPELINE p FINISHED; WAIT FOR PIPELINE sink_pipeline FINISHED")
        .await;
    assert_eq!(other.rows("SELECT n FROM p").await, ["5"]);
    assert!(other.rows("SHOW VIEWS").await.is_empty());

    assert_eq!(client.error("BEGIN; STOP PIPELINE p").await.code.as_str(), "25001");
    client.run("ROLLBACK").await;
    assert_eq!(
        client.error("BEGIN READ ONLY; DROP PIPELINE p").await.code.as_str(),
        "25006"
    );
    client.run("ROLLBACK; COMMIT").await;
    assert_eq!(
        client.notice_texts().last().map(String::as_str),
        Some("there is no transaction in progress")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_prepared_and_described() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client.run("PREPARE q (int, text) AS SELECT $1 + 1 AS n, $2 AS t").await;
    assert_eq!(client.rows("EXECUTE q (41, 'x')").await, ["42|x"]);
    assert_eq!(client.error("EXECUTE q (1)").await.code.as_str(), "42601");
    assert_eq!(client.error("PREPARE q AS SELECT 1").await.code.as_str(), "42P05");
    client.run("DEALLOCATE q").await;
    assert_eq!(client.error("EXECUTE q (1, 'a')").await.code.as_str(), "26000");

    let parsed = sql::parse("SELECT $1::bigint AS a, name FROM laminar.tables WHERE name = $2")
        .unwrap()
        .remove(0);
    let description = client.session.describe(&parsed, &[]).unwrap();
    assert_eq!(description.parameters[0], SqlType::BigInt);
    assert_eq!(description.columns.unwrap().field(0).name(), "a");
    client.run(TABLE).await;
    let parameters = [
        Parameter {
            sql_type: SqlType::BigInt,
            value: ScalarValue::Int64(Some(7)),
        },
        Parameter {
            sql_type: SqlType::Text,
            value: ScalarValue::Utf8(Some("ticks".into())),
        },
    ];
    let Response::Rows { rows, .. } = client.session.run(&parsed, &parameters).await.unwrap() else {
        panic!()
    };
    assert_eq!(collect(rows).await.unwrap(), ["7|ticks"]);

    let streaming = sql::parse("SELECT counter FROM ticks WHERE counter >= $1")
        .unwrap()
        .remove(0);
    let description = client.session.describe(&streaming, &[Some(SqlType::BigInt)]).unwrap();
    assert_eq!(
        (description.parameters, description.columns.unwrap().fields().len()),
        (vec![SqlType::BigInt], 1)
    );
    let three = [Parameter {
        sql_type: SqlType::BigInt,
        value: ScalarValue::Int64(Some(3)),
    }];
    let Response::Rows { rows, .. } = client.session.run(&streaming, &three).await.unwrap() else {
        panic!()
    };
    assert_eq!(collect(rows).await.unwrap(), ["3", "4"]);

    for (text, columns) in [
        ("SHOW PIPELINES", Some(8)),
        ("SHOW search_path", Some(1)),
        ("EXPLAIN SELECT 1", Some(1)),
        ("DESCRIBE ticks", Some(6)),
        ("SUBSCRIBE (SELECT counter FROM ticks)", Some(3)),
        ("CREATE VIEW v AS SELECT 1", None),
        ("BEGIN", None),
        ("SET a.b = 1", None),
    ] {
        let parsed = sql::parse(text).unwrap().remove(0);
        let described = client.session.describe(&parsed, &[]).unwrap();
        assert_eq!(
            described.columns.map(|columns| columns.fields().len()),
            columns,
            "{text}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_described_by_their_place() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client
        .run("CREATE TABLE ticks (counter BIGINT) WITH (connector = 'impulse', message_count = 5)")
        .await;
    client
        .run("CREATE TABLE out (id BIGINT, name TEXT, amount NUMERIC(10, 2)) WITH (connector = 'blackhole')")
        .await;
    for (text, types) in [
        ("SELECT $1::int", "INT"),
        ("SELECT CAST($1 AS date), $2::float8 + 1", "DATE, DOUBLE PRECISION"),
        (
            "SELECT name FROM laminar.tables WHERE columns = $1 LIMIT $2 OFFSET $3",
            "INT, BIGINT, BIGINT",
        ),
        ("SELECT counter FROM ticks WHERE counter >= $1", "BIGINT"),
        (
            "SELECT counter FROM ticks WHERE counter IN ($1, $2) LIMIT $3",
            "BIGINT, BIGINT, BIGINT",
        ),
        ("SELECT counter + $1::int FROM ticks", "INT"),
        ("SELECT $1 FROM ticks", "TEXT"),
        ("INSERT INTO out VALUES ($1, $2, $3)", "BIGINT, TEXT, NUMERIC(10,2)"),
        ("INSERT INTO out (amount, id) VALUES ($1, $2)", "NUMERIC(10,2), BIGINT"),
        (
            "INSERT INTO out SELECT $2, 'x' FROM ticks WHERE counter < $1",
            "BIGINT, BIGINT",
        ),
        ("SUBSCRIBE (SELECT counter FROM ticks WHERE counter < $1)", "BIGINT"),
        (
            "COPY (SELECT name FROM laminar.tables WHERE columns = $1 ORDER BY name) TO STDOUT",
            "INT",
        ),
    ] {
        let parsed = sql::parse(text).unwrap().remove(0);
        let described = client
            .session
            .describe(&parsed, &[])
            .unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let shown: Vec<String> = described.parameters.iter().map(SqlType::to_sql).collect();
        assert_eq!(shown.join(", "), types, "{text}");
    }
    let integer = sql::parse("SELECT 1 AS one, 3000000000 AS big, 1.5 AS half")
        .unwrap()
        .remove(0);
    let columns = client.session.describe(&integer, &[]).unwrap().columns.unwrap();
    let shown: Vec<String> = columns
        .fields()
        .iter()
        .filter_map(|field| SqlType::from_arrow_field(field))
        .map(|of| of.to_sql())
        .collect();
    assert_eq!(shown, ["INT", "BIGINT", "NUMERIC(2,1)"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cursors_hand_out_rows_in_portions() {
    let server = TestServer::start().await;
    let mut client = server.client();
    assert_eq!(
        client.error("DECLARE c CURSOR FOR SELECT 1").await.code.as_str(),
        "25P01"
    );
    client
        .run("BEGIN; DECLARE c CURSOR FOR SELECT * FROM (VALUES (1), (2), (3), (4), (5)) AS v (n)")
        .await;
    assert_eq!(client.rows("FETCH 2 FROM c").await, ["1", "2"]);
    assert_eq!(client.run("MOVE 1 FROM c").await, "MOVE 1");
    assert_eq!(client.rows("FETCH NEXT FROM c").await, ["4"]);
    assert_eq!(client.run("FETCH ALL FROM c").await, "FETCH 1");
    assert_eq!(client.rows("FETCH 1 FROM c").await, Vec::<String>::new());
    client.run("COMMIT").await;
    assert_eq!(client.error("FETCH 1 FROM c").await.code.as_str(), "34000");

    client.run(TABLE).await;
    client
        .run("DECLARE s CURSOR FOR SUBSCRIBE (SELECT counter FROM ticks)")
        .await;
    assert_eq!(client.rows("FETCH 5 FROM s WITH (timeout = '20 s')").await.len(), 5);
    assert_eq!(client.run("CLOSE s; CLOSE ALL").await, "CLOSE CURSOR ALL");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_says_what_to_use() {
    let server = TestServer::start().await;
    let mut client = server.client();
    for text in [
        "CREATE SINK s FROM t",
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE",
        "CREATE ROLE r",
        "LISTEN x",
    ] {
        let error = client.error(text).await;
        assert_eq!(error.code.as_str(), "0A000", "{text}");
        assert!(error.hint.is_some(), "{text}");
    }
    client
        .run("DISCARD ALL; UNLISTEN *; ANALYZE; CREATE EXTENSION IF NOT EXISTS pgcrypto")
        .await;
    server.stop().await;
}

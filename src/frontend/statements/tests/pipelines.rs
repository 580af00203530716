//! Pipelines that run: kept results, sinks, foreground queries, subscriptions.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use datafusion::common::ScalarValue;
use futures::StreamExt;

use crate::frontend::parameter::Parameter;
use crate::frontend::response::Response;
use crate::frontend::sql;
use crate::frontend::testing::{Client, TestServer, collect, lines};
use crate::types::SqlType;

const BIDS: &str = "CREATE TABLE bids (auction BIGINT, price BIGINT, ts TIMESTAMP, WATERMARK FOR ts)
    WITH (connector = 'single_file', path = '{{ DATA }}/bids.json', format = 'json')";

async fn server_with_bids(count: usize) -> (TestServer, Client) {
    let server = TestServer::start().await;
    let rows: String = (0..count)
        .map(|number| {
            let (minute, second) = (number / 60, number % 60);
            let (auction, price) = (number % 3, number);
            format!(
                "{{\"auction\": {auction}, \"price\": {price}, \"ts\": \"2026-01-01 00:{minute:02}:{second:02}\"}}\n"
            )
        })
        .collect();
    server.write("bids.json", &rows);
    let mut client = server.client();
    client.run(BIDS).await;
    (server, client)
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_keeps_its_result() {
    let (server, mut client) = server_with_bids(90).await;
    let create = "CREATE PIPELINE totals WITH (wait = 'finished') AS SELECT auction, count(*) AS bids, max(price) AS top FROM bids GROUP BY auction";
    assert_eq!(client.run(create).await, "CREATE PIPELINE");
    let notices = client.notices();
    let started = notices
        .iter()
        .find(|notice| notice.report.message.contains("is starting as job job_"))
        .unwrap();
    assert!(started.report.hint.as_deref().unwrap().contains("SUBSCRIBE totals"));
    assert_eq!(
        sorted(client.rows("SELECT * FROM totals").await),
        ["0|30|87", "1|30|88", "2|30|89"]
    );
    assert_eq!(client.rows("SELECT top FROM totals WHERE auction = 1").await, ["88"]);
    assert_eq!(client.rows("SELECT sum(bids) FROM totals").await, ["90"]);
    assert_eq!(
        client.rows("SELECT name, state FROM laminar.pipelines").await,
        ["totals|Finished"]
    );
    assert_eq!(client.rows("SHOW PIPELINES LIKE 'tot%'").await.len(), 1);
    assert_eq!(client.rows("SHOW PIPELINES WHERE state = 'Running'").await.len(), 0);
    assert!(client.rows("DESCRIBE totals").await[0].starts_with("auction|bigint||unique|"));
    let subscribed = sorted(client.rows("SUBSCRIBE totals").await);
    assert!(
        subscribed.iter().all(|row| row.contains("|1|")) && subscribed.len() == 3,
        "{subscribed:?}"
    );
    assert_eq!(client.rows("COPY totals (auction) TO STDOUT").await.len(), 3);
    assert!(
        client
            .rows("EXPLAIN ANALYZE PIPELINE totals")
            .await
            .iter()
            .any(|row| row.starts_with("source"))
    );
    assert_eq!(client.run("DROP PIPELINE totals").await, "DROP PIPELINE");
    assert_eq!(client.error("SELECT * FROM totals").await.code.as_str(), "42P01");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_by_key_shows_each_key_once_an_epoch() {
    let (server, mut client) = server_with_bids(90).await;
    client
        .run("CREATE PIPELINE totals WITH (wait = 'finished') AS SELECT auction, count(*) AS bids, max(price) AS top FROM bids GROUP BY auction")
        .await;
    let without_epoch = |rows: Vec<String>| {
        let rows = rows.into_iter().map(|row| row.split_once('|').unwrap().1.to_owned());
        sorted(rows.collect())
    };
    let upserts = client.rows("SUBSCRIBE totals ENVELOPE UPSERT (KEY (auction))").await;
    assert_eq!(
        without_epoch(upserts),
        ["upsert|0|30|87", "upsert|1|30|88", "upsert|2|30|89"]
    );
    // What is no key is said to be none.
    let violated = client.rows("SUBSCRIBE totals ENVELOPE UPSERT (KEY (bids))").await;
    assert_eq!(without_epoch(violated), ["key_violation|30|NULL|NULL"]);
    let images = client
        .rows("SUBSCRIBE totals WITH (progress = true) ENVELOPE DEBEZIUM (KEY (auction))")
        .await;
    let images = without_epoch(images);
    assert_eq!(images[0], "false|insert|0|NULL|NULL|30|87");
    assert_eq!(images[3], "true|NULL|NULL|NULL|NULL|NULL|NULL");
    // Over a query, the last that is said of a key is how it is.
    let changes =
        "SUBSCRIBE (SELECT auction, count(*) AS bids FROM bids GROUP BY auction) ENVELOPE UPSERT (KEY (auction))";
    let rows = client.rows(changes).await;
    for auction in ["0", "1", "2"] {
        let of_key = format!("|upsert|{auction}|");
        assert_eq!(
            rows.iter().rfind(|row| row.contains(&of_key)).unwrap(),
            &format!("0{of_key}30")
        );
    }
    let missing = client.error("SUBSCRIBE totals ENVELOPE UPSERT (KEY (auktion))").await;
    assert_eq!(missing.code.as_str(), "42703");
    assert!(missing.hint.is_some_and(|hint| hint.contains("auction")));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_materialized_view_is_there_when_create_returns() {
    let (server, mut client) = server_with_bids(90).await;
    let simple = "CREATE MATERIALIZED VIEW totals AS SELECT auction, count(*) AS bids FROM bids GROUP BY auction";
    assert_eq!(client.run(simple).await, "CREATE MATERIALIZED VIEW");
    assert_eq!(client.rows("SELECT sum(bids) FROM totals").await, ["90"]);
    assert_eq!(client.rows("SHOW MATERIALIZED VIEWS").await.len(), 1);
    let refused = client
        .error("CREATE OR REPLACE PIPELINE totals AS SELECT auction FROM bids")
        .await;
    assert_eq!(refused.code.as_str(), "42809");
    client
        .run("CREATE OR REPLACE MATERIALIZED VIEW totals AS SELECT auction FROM bids WHERE price < 2")
        .await;
    assert_eq!(sorted(client.rows("SELECT * FROM totals").await), ["0", "1"]);
    client.run("DROP PIPELINE totals").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_delivered_to_sinks() {
    let (server, mut client) = server_with_bids(10).await;
    client.run("CREATE TABLE a WITH (connector = 'single_file', path = '{{ DATA }}/a.json', format = 'json', type = 'sink')").await;
    client.run("CREATE TABLE b WITH (connector = 'single_file', path = '{{ DATA }}/b.json', format = 'json', type = 'sink')").await;
    client
        .run(
            "CREATE PIPELINE two WITH (wait = 'finished') AS BEGIN
                INSERT INTO a SELECT price FROM bids WHERE price < 3;
                INSERT INTO b SELECT price, auction FROM bids WHERE price >= 8;
            END",
        )
        .await;
    assert_eq!(server.read("a.json").lines().count(), 3);
    assert_eq!(
        server.read("b.json").lines().next(),
        Some("{\"price\":8,\"auction\":2}")
    );
    assert!(client.rows("SHOW CREATE TABLE b").await[0].contains("price BIGINT"));
    assert_eq!(client.error("SELECT * FROM two").await.code.as_str(), "42809");

    client.run("CREATE TABLE c WITH (connector = 'single_file', path = '{{ DATA }}/c.json', format = 'json', type = 'sink')").await;
    assert_eq!(
        client.run("INSERT INTO c SELECT price FROM bids WHERE price > 4").await,
        "INSERT 0 5"
    );
    assert!(
        client
            .notice_texts()
            .iter()
            .any(|text| text.contains("CREATE PIPELINE"))
    );
    assert_eq!(server.read("c.json").lines().count(), 5);
    assert_eq!(client.rows("SELECT name FROM laminar.pipelines").await, ["two"]);

    client
        .run("CREATE TABLE d WITH (connector = 'single_file', path = '{{ DATA }}/d.json', format = 'json') AS SELECT price FROM bids WHERE price = 1")
        .await;
    client.run("WAIT FOR PIPELINE d_pipeline FINISHED").await;
    assert_eq!(server.read("d.json").trim(), "{\"price\":1}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_select_over_streams_runs_until_its_limit() {
    let (server, mut client) = server_with_bids(10).await;
    assert_eq!(client.rows("SELECT price FROM bids WHERE price > 7").await, ["8", "9"]);
    client
        .run("CREATE TABLE ticks WITH (connector = 'impulse', event_rate = 1000)")
        .await;
    assert_eq!(client.rows("SELECT counter FROM ticks LIMIT 3").await.len(), 3);
    let updating = client
        .error("SELECT counter, count(*) FROM ticks GROUP BY counter")
        .await;
    assert_eq!(updating.code.as_str(), "0A000");
    let rows = client
        .rows("SUBSCRIBE (SELECT auction, count(*) FROM bids GROUP BY auction)")
        .await;
    assert!(rows.len() >= 3, "{rows:?}");
    assert_eq!(client.error("SELECT 1 EMIT ON UPDATE").await.code.as_str(), "0A000");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_end_are_read_by_any_query() {
    let (server, mut client) = server_with_bids(90).await;
    client
        .run("CREATE PIPELINE totals WITH (wait = 'finished') AS SELECT auction, count(*) AS bids FROM bids GROUP BY auction")
        .await;
    client
        .run("CREATE TABLE ticks WITH (connector = 'impulse', event_rate = 1000)")
        .await;
    let newest = "SELECT price, auction FROM bids ORDER BY price DESC LIMIT 2";
    assert_eq!(client.rows(newest).await, ["89|2", "88|1"]);
    let grouped = "SELECT auction, count(*) FROM bids GROUP BY auction ORDER BY auction";
    assert_eq!(client.rows(grouped).await, ["0|30", "1|30", "2|30"]);
    assert_eq!(client.rows("SELECT count(*) FROM bids").await, ["90"]);
    let joined = "SELECT a.price, t.bids FROM bids a JOIN bids b ON a.price = b.price + 1 JOIN totals t ON t.auction = a.auction WHERE a.price < 3 ORDER BY 1";
    assert_eq!(client.rows(joined).await, ["1|30", "2|30"]);
    let above = "SELECT count(*) FROM bids WHERE price > (SELECT avg(price) FROM bids)";
    assert_eq!(client.rows(above).await, ["45"]);
    client
        .run("CREATE VIEW latest AS SELECT price FROM bids ORDER BY ts DESC LIMIT 1")
        .await;
    assert_eq!(client.rows("SELECT * FROM latest").await, ["89"]);
    assert_eq!(client.rows(&format!("COPY ({newest}) TO STDOUT")).await.len(), 2);
    let parsed = sql::parse("SELECT price FROM bids WHERE price < $1 ORDER BY price DESC LIMIT $2")
        .unwrap()
        .remove(0);
    let described = client.session.describe(&parsed, &[]).unwrap();
    assert_eq!(described.parameters, [SqlType::BigInt, SqlType::BigInt]);
    assert_eq!(described.columns.unwrap().fields().len(), 1);
    let number = |value| Parameter {
        sql_type: SqlType::BigInt,
        value: ScalarValue::Int64(Some(value)),
    };
    let Response::Rows { rows, .. } = client.session.run(&parsed, &[number(7), number(2)]).await.unwrap() else {
        panic!()
    };
    assert_eq!(collect(rows).await.unwrap(), ["6", "5"]);
    let plan = client.rows(&format!("EXPLAIN {newest}")).await.join("\n");
    assert!(plan.contains("Sort"), "{plan}");
    // Windows by event time are the streaming engine's.
    let windows = "SELECT TUMBLE(INTERVAL '1 minute') AS w, count(*) FROM bids GROUP BY w ORDER BY w";
    assert!(
        client
            .error(windows)
            .await
            .message
            .starts_with("ORDER BY is not supported")
    );
    // What does not end cannot be sorted.
    for endless in [
        "SELECT counter FROM ticks ORDER BY counter",
        "SELECT count(*) FROM ticks JOIN bids ON counter = price",
    ] {
        assert_eq!(client.error(endless).await.code.as_str(), "0A000", "{endless}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_without_files_is_told() {
    let server = TestServer::start().await;
    let mut client = server.client();
    let table = |name: &str, path: &str| {
        format!(
            "CREATE TABLE {name} (id BIGINT) WITH (connector = 'filesystem', path = '{{{{ DATA }}}}/{path}', format = 'json')"
        )
    };
    client.run(&table("exact", "missing.json")).await;
    for query in ["SELECT id FROM exact", "SELECT id FROM exact ORDER BY id"] {
        let error = client.error(query).await;
        assert_eq!(error.code.as_str(), "58P01", "{query}");
        assert!(error.message.contains("missing.json"), "{error:?}");
    }
    client.run(&table("pattern", "part-*.json")).await;
    client.run("CREATE TABLE nothing WITH (connector = 'blackhole')").await;
    client.notices();
    for statement in [
        "SELECT id FROM pattern",
        "SELECT id FROM pattern ORDER BY id",
        "CREATE PIPELINE p AS SELECT id FROM pattern",
        "INSERT INTO nothing SELECT id FROM pattern",
    ] {
        client.run(statement).await;
        let warnings = client.notice_texts();
        assert!(
            warnings
                .iter()
                .any(|text| text.starts_with("no file matches") && text.contains("part-*.json")),
            "{statement}: {warnings:?}"
        );
    }
    server.write("part-1.json", "{\"id\": 7}\n");
    assert_eq!(client.rows("SELECT id FROM pattern").await, ["7"]);
    assert!(client.notices().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_pipeline_is_stopped_followed_and_restarted() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client
        .run("CREATE TABLE ticks WITH (connector = 'impulse', event_rate = 1000)")
        .await;
    client
        .run("CREATE PIPELINE p WITH (wait = 'running') AS SELECT count(*) AS ticks FROM ticks")
        .await;
    client.run("WAIT FOR PIPELINE p CAUGHT UP TIMEOUT '30 s'").await;
    client
        .run("CHECKPOINT PIPELINE p; CREATE CHECKPOINT before FOR PIPELINE p")
        .await;
    assert_eq!(
        client
            .rows("SELECT kept_label FROM laminar.checkpoints WHERE kept_label IS NOT NULL")
            .await,
        ["before"]
    );
    let Response::Rows { schema, mut rows, .. } = client.try_run("SUBSCRIBE p WITH (progress)").await.unwrap() else {
        panic!()
    };
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["lm_epoch", "lm_progressed", "lm_diff", "ticks"]);
    let mut progressed = 0;
    while progressed < 3 {
        let batch = tokio::time::timeout(Duration::from_secs(30), rows.next())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        progressed += lines(&batch)
            .iter()
            .filter(|line| line.contains("|true|NULL|NULL"))
            .count();
    }
    drop(rows);
    assert_eq!(client.run("STOP PIPELINE p").await, "STOP PIPELINE");
    assert_eq!(client.rows("SELECT state FROM laminar.pipelines").await, ["Stopped"]);
    assert_eq!(client.error("STOP PIPELINE p").await.code.as_str(), "55000");
    let stopped: u64 = client.rows("SELECT ticks FROM p").await[0].parse().unwrap();
    client.run("START PIPELINE p; WAIT FOR PIPELINE p RUNNING; FLUSH").await;
    let later: u64 = client.rows("SELECT ticks FROM p").await[0].parse().unwrap();
    assert!(later >= stopped, "{stopped} {later}");
    assert_eq!(client.error("START PIPELINE p").await.code.as_str(), "55000");
    assert_eq!(
        client
            .error("RESTART FROM CHECKPOINT 999999 PIPELINE p")
            .await
            .code
            .as_str(),
        "42704"
    );
    client
        .run("ALTER PIPELINE p SET (parallelism = 2); WAIT FOR PIPELINE p RUNNING; DROP PIPELINE p")
        .await;
    assert_eq!(client.rows("SHOW JOBS").await, Vec::<String>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_can_be_read_as_soon_as_it_is_created() {
    let (server, mut client) = server_with_bids(10).await;
    for round in 0..5 {
        client
            .run(&format!(
                "CREATE PIPELINE p{round} AS SELECT price FROM bids; CREATE VIEW v{round} AS SELECT * FROM p{round}"
            ))
            .await;
        client.rows(&format!("SELECT count(*) FROM v{round}")).await;
        client
            .run(&format!("CREATE PIPELINE q{round} AS SELECT price FROM bids"))
            .await;
        client.run(&format!("SUBSCRIBE q{round}")).await;
    }
    client.run("CREATE PIPELINE idle WITH (start = false) AS SELECT price FROM bids; CREATE VIEW w AS SELECT price FROM idle").await;
    assert_eq!(client.error("SELECT * FROM w").await.code.as_str(), "55000");
    client.run("START PIPELINE idle; WAIT FOR PIPELINE idle FINISHED").await;
    assert_eq!(client.rows("SELECT count(*) FROM w").await, ["10"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_file_does_not_decide_what_is_written() {
    let (server, mut client) = server_with_bids(3).await;
    server.write("old.json", "{\"before\": \"x\"}\n");
    client
        .run("CREATE TABLE out WITH (connector = 'single_file', path = '{{ DATA }}/old.json', format = 'json')")
        .await;
    assert!(client.rows("DESCRIBE out").await[0].starts_with("before|text|"));
    // Nobody said that the file may go.
    for text in [
        "CREATE PIPELINE p AS INSERT INTO out SELECT price FROM bids",
        "INSERT INTO out SELECT price FROM bids",
        "CREATE TABLE fed WITH (connector = 'single_file', path = '{{ DATA }}/old.json', format = 'json') AS SELECT price FROM bids",
    ] {
        let error = client.error(text).await;
        assert_eq!(error.code.as_str(), "55000", "{text}");
        assert!(error.message.contains("old.json"), "{error:?}");
        assert!(error.hint.is_some_and(|hint| hint.contains("type = 'sink'")));
    }
    assert_eq!(server.read("old.json"), "{\"before\": \"x\"}\n");
    client.run("DROP TABLE out").await;
    client
        .run("CREATE TABLE out WITH (connector = 'single_file', path = '{{ DATA }}/old.json', format = 'json', type = 'sink')")
        .await;
    client
        .run("CREATE PIPELINE p WITH (wait = 'finished') AS INSERT INTO out SELECT price FROM bids")
        .await;
    assert!(client.rows("DESCRIBE out").await[0].starts_with("price|bigint|"));
    assert_eq!(server.read("old.json").lines().next(), Some("{\"price\":0}"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_can_be_given_where_a_table_is_read() {
    let (server, mut client) = server_with_bids(3).await;
    server.write("other.json", "{\"auction\": 77}\n");
    let other = "SELECT auction FROM bids WITH (path = '{{ DATA }}/other.json')";
    assert_eq!(client.rows(other).await, ["77"]);
    assert_eq!(client.rows("SELECT count(*) FROM (SELECT 1) AS one").await, ["1"]);
    let made_up = "SELECT counter FROM nowhere WITH (connector = 'impulse', message_count = 2)";
    assert_eq!(client.rows(made_up).await, ["0", "1"]);
    client
        .run(&format!("CREATE PIPELINE p WITH (wait = 'finished') AS {other}"))
        .await;
    assert_eq!(client.rows("SELECT * FROM p").await, ["77"]);
    assert_eq!(
        client.error(&format!("CREATE VIEW v AS {other}")).await.code.as_str(),
        "0A000"
    );
    assert_eq!(
        client.error("SELECT 1 FROM bids WITH (path)").await.code.as_str(),
        "42601"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_without_end_is_removed_when_cancelled() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client.run("CREATE TABLE ticks WITH (connector = 'impulse', event_rate = 100); CREATE TABLE nothing WITH (connector = 'blackhole')").await;
    let insert = client.try_run("INSERT INTO nothing SELECT counter FROM ticks");
    assert!(tokio::time::timeout(Duration::from_millis(500), insert).await.is_err());
    client.session.statement_failed();
    assert!(
        client
            .notice_texts()
            .iter()
            .any(|text| text.contains("until it is cancelled"))
    );
    for _ in 0..100 {
        if client.rows("SHOW PIPELINES").await.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(client.rows("SHOW PIPELINES").await.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_that_was_cut_off_is_removed_by_the_next_server() {
    let server = TestServer::start().await;
    let mut client = server.client();
    client.run("CREATE TABLE ticks WITH (connector = 'impulse', event_rate = 100); CREATE TABLE nothing WITH (connector = 'blackhole'); CREATE PIPELINE kept WITH (start = false) AS INSERT INTO nothing SELECT counter FROM ticks").await;
    let mut other = server.client();
    let insert = tokio::spawn(async move {
        other
            .try_run("INSERT INTO nothing SELECT counter FROM ticks")
            .await
            .is_err()
    });
    while client.rows("SHOW PIPELINES LIKE 'insert_%'").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    crate::frontend::statements::insert::remove_abandoned(&server.server).await;
    assert!(client.rows("SHOW PIPELINES LIKE 'insert_%'").await.is_empty());
    assert_eq!(client.rows("SHOW PIPELINES LIKE 'kept'").await.len(), 1);
    assert!(insert.await.unwrap());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_shown_stage_by_stage() {
    let (server, mut client) = server_with_bids(1).await;
    let query = "SELECT auction, count(*) FROM bids WHERE price > 1 GROUP BY auction";
    let all = client.rows(&format!("EXPLAIN {query}")).await.join("\n");
    for title in ["Logical plan", "Rewritten plan", "Physical plan", "Graph"] {
        assert!(all.contains(title), "{all}");
    }
    assert!(
        client
            .rows(&format!("EXPLAIN (PHYSICAL) {query}"))
            .await
            .join("\n")
            .contains("updating_aggregate")
    );
    assert!(client.rows(&format!("EXPLAIN (FORMAT JSON) {query}")).await[0].contains("\"nodes\""));
    assert!(
        client
            .rows(&format!("EXPLAIN (GRAPH, FORMAT DOT) CREATE PIPELINE p AS {query}"))
            .await[0]
            .starts_with("digraph")
    );
    assert!(!client.rows("EXPLAIN SELECT 1").await.is_empty());
    assert!(
        client
            .rows("EXPLAIN ANALYZE SELECT 1")
            .await
            .iter()
            .any(|line| line == "Rows: 1")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn option_mistakes_are_told_before_anything_is_made() {
    let (server, mut client) = server_with_bids(1).await;
    for (text, code) in [
        ("CREATE PIPELINE p WITH (paralelism = 2) AS SELECT 1", "22023"),
        ("CREATE PIPELINE p WITH (wait = 'long') AS SELECT 1", "22023"),
        ("CREATE PIPELINE p AS SELECT nothing FROM bids", "42703"),
        ("CREATE PIPELINE p AS INSERT INTO nowhere SELECT 1", "42P01"),
        ("CREATE PIPELINE p AS SELECT * FROM bids ORDER BY price", "0A000"),
        ("CREATE PIPELINE bids AS SELECT 1 AS a", "42P07"),
    ] {
        assert_eq!(client.error(text).await.code.as_str(), code, "{text}");
    }
    assert!(client.rows("SHOW PIPELINES").await.is_empty());
    server.stop().await;
}

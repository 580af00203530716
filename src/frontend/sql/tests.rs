//! Statements that must parse, what they mean, and where errors point.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use crate::catalog::objects::{ColumnKind, ObjectKind};
use crate::engine::graph::EmitMode;
use crate::error::Report;
use crate::frontend::sql::statement::*;
use crate::frontend::sql::{options, parse, parse_body};
use crate::options::RawOptionValue;

fn one(text: &str) -> Statement {
    let mut statements = parse(text).unwrap_or_else(|error| panic!("{text}: {error} at {:?}", error.position()));
    assert_eq!(statements.len(), 1, "{text}");
    statements.remove(0).statement
}

fn table(text: &str) -> CreateTable {
    match one(text) {
        Statement::CreateTable(table) => *table,
        other => panic!("{other:?}"),
    }
}

fn pipeline(text: &str) -> CreatePipeline {
    match one(text) {
        Statement::CreatePipeline(pipeline) => *pipeline,
        other => panic!("{other:?}"),
    }
}

#[test]
fn statements_keep_their_text_and_place() {
    let text = " SELECT 'ä;' ; -- x;\n  SHOW PIPELINES;";
    let statements = parse(text).unwrap();
    assert_eq!(statements.len(), 2);
    assert_eq!((statements[0].text.as_str(), statements[0].offset), ("SELECT 'ä;'", 1));
    assert_eq!(statements[1].text, "SHOW PIPELINES");
    let before: String = text.chars().take(statements[1].offset).collect();
    assert_eq!(before, " SELECT 'ä;' ; -- x;\n  ");
}

#[test]
fn a_table_with_everything() {
    let table = table(
        "create table if not exists shop.\"Orders\" (
            id BIGINT NOT NULL PRIMARY KEY,
            price NUMERIC(10, 2) DEFAULT 0.5 + 1 NOT NULL,
            tags ARRAY<STRUCT<name TEXT, more MAP<TEXT, ARRAY<INT>>>>,
            ts TIMESTAMP WITH TIME ZONE METADATA FROM 'timestamp',
            lst double precision[],
            total NUMERIC(10,2) GENERATED ALWAYS AS (price * (1 + 2)) STORED,
            small TINYINT UNSIGNED,
            WATERMARK FOR ts AS ts - INTERVAL '5 seconds'
        ) WITH (connector = 'kafka', topic = orders, 'source.offset' = 'earliest', rate = 10, password = SECRET my.pw,
            bootstrapServers = '{{ HOST }}', validate = false, TYPE = source, scan.mode = 'x')",
    );
    assert!(table.if_not_exists);
    assert_eq!(table.name.to_string(), "shop.Orders");
    let columns = table.columns.unwrap();
    let types: Vec<&str> = columns.iter().map(|column| column.sql_type.as_str()).collect();
    assert_eq!(
        types,
        [
            "BIGINT",
            "NUMERIC(10, 2)",
            "ARRAY<STRUCT<name TEXT, more MAP<TEXT, ARRAY<INT>>>>",
            "TIMESTAMP WITH TIME ZONE",
            "double precision[]",
            "NUMERIC(10,2)",
            "TINYINT UNSIGNED"
        ]
    );
    assert!(columns[0].not_null && columns[1].not_null && !columns[2].not_null);
    assert_eq!(columns[1].default.as_deref(), Some("0.5 + 1"));
    assert_eq!(columns[3].kind, ColumnKind::Metadata("timestamp".into()));
    let generated = ColumnKind::Generated {
        expression: "price * (1 + 2)".into(),
        stored: true,
    };
    assert_eq!(columns[5].kind, generated);
    assert_eq!(table.primary_key, ["id"]);
    let watermark = table.watermark.unwrap();
    assert_eq!(watermark.column, "ts");
    assert_eq!(watermark.expression.as_deref(), Some("ts - INTERVAL '5 seconds'"));
    let given = table.options.unwrap();
    assert_eq!(given.text("source.offset"), Some("earliest"));
    assert_eq!(given.text("topic"), Some("orders"));
    assert_eq!(given.text("rate"), Some("10"));
    assert_eq!(given.text("type"), Some("source"));
    assert_eq!(given.text("validate"), Some("false"));
    assert_eq!(given.text("scan.mode"), Some("x"));
    assert_eq!(given.text("bootstrap_servers"), Some("{{ HOST }}"));
    assert_eq!(given.get("password"), Some(&RawOptionValue::Secret("my.pw".into())));
}

#[test]
fn tables_without_columns_and_with_queries() {
    let sink = table("CREATE TABLE s WITH (connector = 'blackhole')");
    assert!(sink.columns.is_none() && sink.query.is_none() && sink.options.is_some());
    let fed = table("CREATE TABLE s WITH (connector = 'stdout') AS SELECT 1 AS a");
    assert_eq!(fed.query.unwrap().text, "SELECT 1 AS a");
    let internal = table("CREATE TABLE s AS SELECT 1");
    assert!(internal.options.is_none() && internal.query.is_some());
    let keyed = table("CREATE TABLE t (a INT, b INT, PRIMARY KEY (a, b), WATERMARK FOR c)");
    assert_eq!(keyed.primary_key, ["a", "b"]);
    assert_eq!(keyed.watermark.unwrap().expression, None);
}

#[test]
fn pipelines_have_three_bodies_and_files() {
    let kept = pipeline(
        "CREATE OR REPLACE PIPELINE p WITH (parallelism = 4, state_ttl = INTERVAL '1' DAY) AS SELECT a FROM t EMIT ON UPDATE",
    );
    assert!(kept.or_replace && !kept.materialized_view);
    assert_eq!(kept.body.text, "SELECT a FROM t EMIT ON UPDATE");
    assert_eq!(kept.options.text("parallelism"), Some("4"));
    assert_eq!(kept.options.text("state_ttl"), Some("1 day"));
    let [BodyStatement::Query(query)] = kept.body.statements.as_slice() else {
        panic!()
    };
    assert_eq!(query.emit, Some(EmitMode::OnUpdate));
    assert_eq!(query.query.to_string(), "SELECT a FROM t");

    let one_sink = pipeline("CREATE PIPELINE p AS INSERT INTO s (a, b) SELECT a, b FROM t");
    assert!(matches!(
        one_sink.body.statements.as_slice(),
        [BodyStatement::Insert(_)]
    ));

    let text = "CREATE PIPELINE p AS BEGIN INSERT INTO a SELECT 1; INSERT INTO b SELECT 2 EMIT ON WINDOW CLOSE; END";
    let several = pipeline(text);
    let [BodyStatement::Insert(_), BodyStatement::Insert(second)] = several.body.statements.as_slice() else {
        panic!()
    };
    assert_eq!(second.emit, Some(EmitMode::OnWindowClose));
    assert_eq!(second.text, "INSERT INTO b SELECT 2 EMIT ON WINDOW CLOSE");
    // What the catalog keeps reads back as the same.
    assert_eq!(parse_body(&several.body.text).unwrap().statements.len(), 2);

    let file = parse_body(
        "CREATE TABLE src (a INT) WITH (connector = 'impulse'); CREATE VIEW v AS SELECT a FROM src;
         SET updating_ttl = INTERVAL '1 hour'; CREATE TABLE out WITH (connector = 'stdout'); INSERT INTO out SELECT a FROM v;",
    );
    assert_eq!(file.unwrap().statements.len(), 5);
    assert_eq!(parse_body("SELECT 1; SELECT 2").unwrap_err().code().as_str(), "0A000");
    assert_eq!(
        parse_body("CREATE TABLE a (b INT)").unwrap_err().code().as_str(),
        "0A000"
    );

    let view = pipeline("CREATE MATERIALIZED VIEW IF NOT EXISTS v AS SELECT 1");
    assert!(view.materialized_view && view.if_not_exists);
}

#[test]
fn connections_in_both_spellings() {
    for text in [
        "CREATE CONNECTION k WITH (connector = 'kafka', broker = 'h:9092', sasl_mechanism = 'PLAIN', pw = SECRET s)",
        "CREATE CONNECTION k TO KAFKA (BROKER 'h:9092', SASL MECHANISM = 'PLAIN', PW SECRET s)",
    ] {
        let Statement::CreateConnection(create) = one(text) else {
            panic!("{text}")
        };
        assert_eq!(create.options.text("connector"), Some("kafka"));
        assert_eq!(create.options.text("broker"), Some("h:9092"));
        assert_eq!(create.options.text("sasl_mechanism"), Some("PLAIN"));
        assert_eq!(create.options.get("pw"), Some(&RawOptionValue::Secret("s".into())));
    }
    assert!(matches!(
        one("VALIDATE CONNECTION k"),
        Statement::ValidateConnection { .. }
    ));
}

#[test]
fn secrets_do_not_print() {
    for text in ["CREATE SECRET s AS 'hunter2'", "ALTER SECRET s AS 'hunter2'"] {
        assert!(!format!("{:?}", one(text)).contains("hunter2"));
    }
    let Statement::CreateSecret(create) = one("CREATE SECRET s FROM ENV 'VAR'") else {
        panic!()
    };
    assert_eq!(create.source, SecretText::Environment("VAR".into()));
    let Statement::CreateSecret(create) = one("CREATE SECRET IF NOT EXISTS s FROM FILE '/run/x'") else {
        panic!()
    };
    assert_eq!(create.source, SecretText::File("/run/x".into()));
}

/// One of each form of each statement.
const SURFACE: &[&str] = &[
    "ALTER PIPELINE p SET (parallelism = 8)",
    "ALTER PIPELINE p RESET (state_ttl)",
    "ALTER PIPELINE p RENAME TO q",
    "ALTER PIPELINE IF EXISTS p OWNER TO CURRENT_USER",
    "ALTER TABLE t ADD COLUMN c BIGINT",
    "ALTER TABLE t DROP COLUMN IF EXISTS c CASCADE",
    "ALTER TABLE t RENAME COLUMN a TO b",
    "ALTER TABLE t SET SCHEMA s",
    "ALTER CONNECTION c SET (broker = 'x')",
    "ALTER VIEW v RENAME TO w",
    "ALTER SECRET s FROM ENV 'V'",
    "START PIPELINE p",
    "STOP PIPELINE p",
    "STOP WITH CHECKPOINT PIPELINE p",
    "STOP NOW PIPELINE p",
    "RESTART PIPELINE p",
    "RESTART FROM CHECKPOINT 7 PIPELINE p",
    "CHECKPOINT PIPELINE p",
    "CHECKPOINT",
    "CREATE CHECKPOINT before_upgrade FOR PIPELINE p",
    "CREATE SCHEMA IF NOT EXISTS s AUTHORIZATION me",
    "DROP PIPELINE IF EXISTS a, b.c CASCADE",
    "DROP MATERIALIZED VIEW v RESTRICT",
    "DROP TABLE t",
    "DROP VIEW v",
    "DROP CONNECTION c",
    "DROP SECRET s",
    "DROP SCHEMA s CASCADE",
    "COMMENT ON TABLE t IS 'x'",
    "COMMENT ON COLUMN s.t.c IS NULL",
    "SHOW PIPELINES",
    "SHOW TABLES FROM public LIKE 'a%' WHERE name <> 'b'",
    "SHOW CHECKPOINTS FOR PIPELINE p",
    "SHOW MATERIALIZED VIEWS",
    "SHOW CREATE MATERIALIZED VIEW v",
    "SHOW CREATE TABLE t",
    "SHOW COLUMNS FROM t",
    "SHOW ALL",
    "SHOW TRANSACTION ISOLATION LEVEL",
    "show server_version",
    "SHOW myapp.user_id",
    "DESCRIBE t",
    "DESC EXTENDED t",
    "DESCRIBE TABLE t",
    "EXPLAIN SELECT 1",
    "EXPLAIN (SELECT 1)",
    "EXPLAIN (LOGICAL, FORMAT JSON) SELECT 1",
    "EXPLAIN (GRAPH, FORMAT DOT) CREATE PIPELINE p AS SELECT 1",
    "EXPLAIN REWRITTEN INSERT INTO a SELECT 1",
    "EXPLAIN ANALYZE PIPELINE p",
    "EXPLAIN PIPELINE p",
    "EXPLAIN (COSTS OFF, VERBOSE) SELECT 1",
    "SUBSCRIBE p",
    "SUBSCRIBE TO p WITH (snapshot = false, PROGRESS) AS OF EPOCH 4",
    "SUBSCRIBE (SELECT a FROM p) ENVELOPE UPSERT (KEY (a, b))",
    "SUBSCRIBE p ENVELOPE DEBEZIUM (KEY (a))",
    "COPY p TO STDOUT",
    "COPY p (a, b) TO STDOUT WITH (FORMAT csv, HEADER, DELIMITER ';', FORCE_QUOTE *)",
    "COPY (SELECT 1) TO STDOUT (FORMAT binary)",
    "COPY (SUBSCRIBE p) TO STDOUT",
    "COPY t FROM STDIN",
    "COPY t TO STDOUT CSV HEADER QUOTE '''' NULL 'x'",
    "FLUSH",
    "WAIT FOR PIPELINE p",
    "WAIT FOR PIPELINE p CAUGHT UP TIMEOUT '10 s'",
    "SET search_path = a, \"B\", public",
    "SET search_path TO DEFAULT",
    "SET LOCAL statement_timeout = '5 s'",
    "SET TIME ZONE 'UTC'",
    "SET TIME ZONE LOCAL",
    "SET TIME ZONE INTERVAL '+00:00' HOUR TO MINUTE",
    "SET NAMES 'utf8'",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED, READ ONLY",
    "SET TRANSACTION READ WRITE",
    "SET updating_ttl = INTERVAL '1 hour'",
    "SET extra_float_digits = -3",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET ROLE NONE",
    "SET CONSTRAINTS ALL DEFERRED",
    "SET client_min_messages TO warning",
    "RESET ALL",
    "RESET search_path",
    "DISCARD ALL",
    "BEGIN",
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "START TRANSACTION READ ONLY",
    "COMMIT AND CHAIN",
    "END WORK",
    "ROLLBACK",
    "ABORT",
    "SAVEPOINT a",
    "RELEASE SAVEPOINT a",
    "ROLLBACK TO SAVEPOINT a",
    "PREPARE q (int, text) AS SELECT $1, $2",
    "EXECUTE q (1, 'a')",
    "EXECUTE q",
    "DEALLOCATE ALL",
    "DEALLOCATE PREPARE q",
    "DECLARE c BINARY NO SCROLL CURSOR WITH HOLD FOR SELECT 1",
    "DECLARE c CURSOR FOR SUBSCRIBE p",
    "FETCH 100 FROM c",
    "FETCH FORWARD ALL IN c",
    "FETCH NEXT FROM c WITH (timeout = '1 s')",
    "FETCH c",
    "MOVE 5 FROM c",
    "CLOSE ALL",
    "INSERT INTO s SELECT * FROM t",
    "INSERT INTO s (a) VALUES (1), (2)",
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "(SELECT 1) UNION ALL (SELECT 2)",
    "VALUES (1, 2)",
    "TABLE t",
    "SELECT a == b, CAST(x AS STRUCT<a INT, b TEXT>), y::MAP<TEXT, INT>, z -> 'a' ->> 'b' FROM t",
    "SELECT window.start, count(*) FROM t GROUP BY TUMBLE(INTERVAL '1 minute')",
    "SELECT * FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1 minute'))",
    "SELECT * FROM TUMBLE(t, ts, INTERVAL '1 minute')",
    "SELECT * FROM events WITH (connector = 'impulse')",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY x) FILTER (WHERE x > 0) FROM t",
    "SELECT 'a' OPERATOR(pg_catalog.~) 'b' COLLATE pg_catalog.default",
    "ANALYZE t",
    "CREATE EXTENSION IF NOT EXISTS pgcrypto",
    "UNLISTEN *",
];

#[test]
fn every_statement_of_the_surface_parses() {
    for text in SURFACE {
        one(text);
    }
}

#[test]
fn what_others_have_says_what_to_use() {
    for text in [
        "CREATE SINK s FROM t",
        "MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE",
        "CREATE INDEX i ON t (a)",
        "CREATE FUNCTION f() RETURNS int AS $$ ; $$",
    ] {
        assert!(matches!(one(text), Statement::Unsupported { .. }), "{text}");
    }
}

#[test]
fn details_of_statements() {
    let Statement::Set(set) = one("SET search_path = a, \"B\", public") else {
        panic!()
    };
    assert_eq!(set.value.as_deref(), Some("a, \"B\", public"));
    let Statement::Set(set) = one("set timezone to -3") else {
        panic!()
    };
    assert_eq!((set.name.as_str(), set.value.as_deref()), ("timezone", Some("-3")));
    let Statement::Drop(drop) = one("DROP MATERIALIZED VIEW IF EXISTS a, s.b CASCADE") else {
        panic!()
    };
    assert_eq!(
        (drop.kind, drop.names.len(), drop.cascade, drop.if_exists),
        (ObjectKind::Pipeline, 2, true, true)
    );
    let Statement::Subscribe(subscribe) = one("SUBSCRIBE (SELECT (1)) WITH (snapshot = off)") else {
        panic!()
    };
    assert!(!subscribe.snapshot && !subscribe.progress);
    let Statement::Fetch(fetch) = one("FETCH FORWARD 7 FROM c") else {
        panic!()
    };
    assert_eq!((fetch.cursor.as_str(), fetch.rows), ("c", Some(7)));
    let Statement::Show(Show::Objects { view, like, filter, .. }) = one("SHOW JOBS LIKE 'x%' WHERE state = 'Running'")
    else {
        panic!()
    };
    assert_eq!(
        (view, like.as_deref(), filter.as_deref()),
        ("jobs", Some("x%"), Some("state = 'Running'"))
    );
    let Statement::Prepare(prepare) = one("PREPARE q (NUMERIC(3, 1), text) AS SELECT $1") else {
        panic!()
    };
    assert_eq!(prepare.types, ["NUMERIC(3, 1)", "text"]);
    assert_eq!(
        (prepare.statement.text.as_str(), prepare.statement.offset),
        ("SELECT $1", 35)
    );
}

#[test]
fn errors_point_at_the_token() {
    for (text, message, position) in [
        ("SELEC 1", "syntax error at or near \"SELEC\"", 1),
        ("SELECT 'ä' FRM t", "syntax error at or near \"t\"", 16),
        ("SELECT 1;\n SELECT a FROM t WHERE", "syntax error at end of input", 33),
        ("CREATE TABLE t (a INT,, b INT)", "syntax error at or near \",\"", 23),
        ("CREATE TABLE t (a)", "syntax error at or near \")\"", 18),
        ("CREATE TABLE select (a INT)", "syntax error at or near \"select\"", 14),
        ("CREATE PIPELINE p", "syntax error at end of input", 18),
        ("CREATE PIPELINE p AS", "syntax error at end of input", 21),
        ("SELECT (1 + ", "syntax error at end of input", 12),
        ("DROP PIPELINE p q", "syntax error at or near \"q\"", 17),
        (
            "CREATE TABLE t (a INT) WITH (x = 1, X = 2)",
            "option \"x\" is given twice",
            37,
        ),
        (
            "CREATE PIPELINE p AS BEGIN INSERT INTO a SELECT 1;",
            "syntax error at end of input",
            51,
        ),
        (
            "CREATE CONNECTION c WITH (connector 'kafka' broker)",
            "syntax error at or near \"broker\"",
            45,
        ),
        ("SHOW PIPELINES LIKE", "syntax error at end of input", 20),
        (")", "syntax error at or near \")\"", 1),
    ] {
        let error = parse(text).err().unwrap_or_else(|| panic!("{text} parses"));
        assert_eq!(error.to_string(), message, "{text}");
        assert_eq!(
            (error.code().as_str(), error.position()),
            ("42601", Some(position)),
            "{text}"
        );
    }
}

#[test]
fn option_names_and_values_print_as_they_read() {
    let text = "(\n    connector = 'kafka',\n    'source.offset' = 'it''s',\n    bootstrapServers = '{{ H }}',\n    pw = SECRET s.\"P w\"\n)";
    let table = table(&format!("CREATE TABLE t WITH {text}"));
    let printed = format!("(\n{}\n)", options::print(&table.options.unwrap(), "    "));
    assert_eq!(printed, text);
}

proptest! {
    /// Whatever is sent, the parser answers and its positions are inside the text.
    #[test]
    fn any_text_is_answered(words in prop::collection::vec(prop::sample::select(vec![
        "CREATE", "TABLE", "PIPELINE", "AS", "SELECT", "(", ")", ",", ";", "'a'", "b", "\"c\"", "BEGIN", "END", "INSERT", "INTO",
        "WITH", "=", "1", "$1", "FOR", "WATERMARK", "SUBSCRIBE", "COPY", "TO", "STDOUT", "SHOW", "EXPLAIN", "SET", "FETCH",
        "'", "/*", "$$", "EMIT", "ON", "UPDATE", "ä", "DROP", "ALTER", "<", ">>", "ARRAY", "CASE", "PREPARE", "DECLARE", "CURSOR",
    ]), 0..14)) {
        let text = words.join(" ");
        match parse(&text) {
            Ok(statements) => for statement in statements {
                let from_place: String = text.chars().skip(statement.offset).take(statement.text.chars().count()).collect();
                prop_assert_eq!(&from_place, &statement.text);
            },
            Err(error) => if let Some(position) = error.position() {
                prop_assert!((1..=text.chars().count() + 1).contains(&position));
            }
        }
    }
}

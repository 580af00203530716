//! Lookups in a real Postgres: types, misses, TLS, a server that goes away and comes back, and what is found wrong beforehand.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, IntervalMonthDayNanoType, Schema, SchemaRef};

use crate::clock::ManualClock;
use crate::engine::connectors::lookup::{Lookup, LookupAnswer, LookupContext};
use crate::engine::connectors::postgres::Postgres;
use crate::engine::connectors::testing::{KeptBadRows, given};
use crate::engine::connectors::{Connector, ConnectorTable, Result};
use crate::engine::formats::json::encode::row_text;
use crate::engine::message::Chunk;
use crate::error::{Report, Retry};
use crate::testing::postgres::TestPostgres;

pub async fn run(url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let driver = crate::spawn::named("test connection", connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}

/// `id BIGINT, name TEXT`; a comma inside a type has no blank behind it.
pub fn columns(declared: &str) -> SchemaRef {
    let mut fields = Vec::new();
    for column in declared.split(", ") {
        let (name, of) = column.split_once(' ').unwrap();
        fields.push(crate::types::parse(of).unwrap().to_arrow_field(name, true));
    }
    Arc::new(Schema::new(fields))
}

fn table(options: &[(&str, &str)], declared: &str) -> Result<Arc<dyn ConnectorTable>> {
    let options: Vec<(&str, &str)> = options.iter().copied().chain([("type", "lookup")]).collect();
    Postgres.resolve(&given(&options), Some(columns(declared)))
}

fn open(table: &Arc<dyn ConnectorTable>, key: &[&str], wanted: &[&str]) -> Arc<dyn Lookup> {
    let schema = table.schema().unwrap();
    let some = |names: &[&str]| -> SchemaRef {
        let fields = names.iter().map(|name| schema.field_with_name(name).unwrap().clone());
        Arc::new(Schema::new(fields.collect::<Vec<_>>()))
    };
    let context = LookupContext {
        table_name: "public.dim".into(),
        key: some(key),
        columns: some(wanted),
        clock: Arc::new(ManualClock::at(0)),
        bad_rows: Arc::new(KeptBadRows::default()),
    };
    table.open_lookup(context).unwrap()
}

/// A question of one text a column and row, cast to the key's types.
async fn ask(lookup: &Arc<dyn Lookup>, key: &str, rows: &[&[&str]]) -> Result<LookupAnswer> {
    let schema = columns(key);
    let column = |at: usize| {
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row[at])));
        match schema.field(at).data_type() {
            DataType::FixedSizeBinary(16) => {
                let bytes = rows
                    .iter()
                    .map(|row| uuid::Uuid::parse_str(row[at]).unwrap().into_bytes());
                Arc::new(arrow::array::FixedSizeBinaryArray::try_from_iter(bytes).unwrap()) as ArrayRef
            }
            of => cast(&texts, of).unwrap(),
        }
    };
    let keys = (0..schema.fields().len()).map(column).collect();
    lookup
        .lookup(&RecordBatch::try_new(Arc::clone(&schema), keys).unwrap())
        .await
}

/// `0: {"name":"x"}`, ordered.
fn shown(answer: &LookupAnswer) -> Vec<String> {
    let rows = Chunk::insert(answer.rows.clone());
    let mut lines: Vec<String> = (0..answer.keys.len())
        .map(|row| format!("{}: {}", answer.keys[row], row_text(&rows, row).unwrap()))
        .collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn rows_misses_and_several_rows_of_a_key() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE SCHEMA \"Shop\"; CREATE TABLE \"Shop\".dim (id int, \"Part\" text, name text);
         INSERT INTO \"Shop\".dim VALUES (1, 'a', 'one'), (1, 'a', 'uno'), (1, 'b', 'eins'), (2, 'a', NULL), (NULL, 'a', 'x')",
    )
    .await;
    let dim = table(
        &[("url", &url), ("table", "Shop.dim")],
        "id BIGINT, Part TEXT, name TEXT",
    )
    .unwrap();
    dim.check_lookup(&["id".into(), "Part".into()]).await.unwrap();
    let lookup = open(&dim, &["id", "Part"], &["name"]);
    let answer = ask(
        &lookup,
        "id BIGINT, Part TEXT",
        &[&["2", "a"], &["3", "a"], &["1", "a"], &["5000000000", "a"], &["1", "b"]],
    );
    assert_eq!(
        shown(&answer.await.unwrap()),
        [
            r#"0: {"name":null}"#,
            r#"2: {"name":"one"}"#,
            r#"2: {"name":"uno"}"#,
            r#"4: {"name":"eins"}"#
        ]
    );
    let none = ask(&lookup, "id BIGINT, Part TEXT", &[&["9", "it's \"quoted\"\\"]])
        .await
        .unwrap();
    assert_eq!((none.keys.len(), none.rows.num_columns()), (0, 1));

    let query = "SELECT id, string_agg(name, '+' ORDER BY name) AS names FROM \"Shop\".dim GROUP BY id;";
    let names = table(&[("url", &url), ("query", query)], "id INT, names TEXT").unwrap();
    names.check_lookup(&["id".into()]).await.unwrap();
    let lookup = open(&names, &["id"], &["names", "id"]);
    let answer = ask(&lookup, "id INT", &[&["1"]]).await.unwrap();
    assert_eq!(shown(&answer), [r#"0: {"names":"eins+one+uno","id":1}"#]);
}

const TYPES: &str = "id INT, b BOOLEAN, i2 SMALLINT, i8 BIGINT, f4 REAL, f8 DOUBLE, n NUMERIC(20,4), t TEXT, c CHAR(3), v VARCHAR(5), \
     y BYTEA, d DATE, tm TIME, ts TIMESTAMP, tz TIMESTAMPTZ, iv INTERVAL, u UUID, j JSON, jb JSONB, ints INT[], texts TEXT[], mood TEXT, \
     net TEXT, pair TEXT, whole STRUCT<x INT,y TEXT>";

#[tokio::test]
async fn every_type_arrives_as_it_is() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        r#"CREATE TYPE mood AS ENUM ('sad', 'ok'); CREATE TYPE pair AS (x int, y text);
        CREATE TABLE dim (id int, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric(20,4), t text, c char(3), v varchar(5),
            y bytea, d date, tm time, ts timestamp, tz timestamptz, iv interval, u uuid, j json, jb jsonb, ints int[], texts text[],
            mood mood, net inet, pair pair, whole pair);
        INSERT INTO dim VALUES (1, true, -32768, 9223372036854775807, 0.1, 1e-300, 1234567890123456.7891, E'a\nb"ü', 'ab', 'vwxyz',
            '\xdeadbeef', '2024-02-29', '23:59:59.123456', '2024-02-29 12:00:00.000001', '2024-02-29 12:00:00+02',
            '1 year 2 mons 3 days 04:05:06.7', '6ecd8c99-4036-403d-bf84-cf8400f67836', E'{"a":\n1}', '{"b": [1, 2]}', '{1,NULL,3}',
            '{x,"y,z"}', 'ok', '10.0.0.1', '(7,seven)', '(7,seven)');
        INSERT INTO dim (id) VALUES (2);"#,
    )
    .await;
    let dim = table(&[("url", &url), ("table", "dim")], TYPES).unwrap();
    dim.check_lookup(&["id".into()]).await.unwrap();
    let names: Vec<String> = dim
        .schema()
        .unwrap()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).filter(|name| *name != "iv").collect();
    let lookup = open(&dim, &["id"], &names);
    let answer = ask(&lookup, "id INT", &[&["1"], &["2"]]).await.unwrap();
    let lines = shown(&answer);
    assert_eq!(
        lines[0],
        concat!(
            r#"0: {"id":1,"b":true,"i2":-32768,"i8":9223372036854775807,"f4":0.1,"f8":1e-300,"n":1234567890123456.7891,"#,
            r#""t":"a\nb\"ü","c":"ab","v":"vwxyz","y":"\\xdeadbeef","d":"2024-02-29","tm":"23:59:59.123456","#,
            r#""ts":"2024-02-29T12:00:00.000001","tz":"2024-02-29T10:00:00+00:00","#,
            r#""u":"6ecd8c99-4036-403d-bf84-cf8400f67836","j":{"a": 1},"jb":{"b": [1, 2]},"ints":[1,null,3],"texts":["x","y,z"],"#,
            r#""mood":"ok","net":"10.0.0.1/32","pair":"(7,seven)","whole":{"x":7,"y":"seven"}}"#,
        )
    );
    let answer_of_interval = ask(&open(&dim, &["id"], &["iv"]), "id INT", &[&["1"]]).await.unwrap();
    let interval = answer_of_interval
        .rows
        .column(0)
        .as_primitive::<IntervalMonthDayNanoType>()
        .value(0);
    assert_eq!(
        (interval.months, interval.days, interval.nanoseconds),
        (14, 3, 14_706_700_000_000)
    );
    let row = answer.keys.iter().position(|key| *key == 1).unwrap();
    assert!(
        (1..names.len()).all(|column| answer.rows.column(column).is_null(row)),
        "{}",
        lines[1]
    );
}

#[tokio::test]
async fn keys_of_many_types_are_compared_by_the_server() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE TABLE dim (n numeric, c char(5), d date, ts timestamp, u uuid, b bool, v varchar(9), name text);
         INSERT INTO dim VALUES (1.50, 'ab', '2024-02-29', '2024-02-29 12:00', '6ecd8c99-4036-403d-bf84-cf8400f67836', true, 'v', 'found')",
    )
    .await;
    let declared = "n NUMERIC(10,4), c TEXT, d DATE, ts TIMESTAMP, u UUID, b BOOLEAN, v TEXT, name TEXT";
    let dim = table(&[("url", &url), ("table", "dim")], declared).unwrap();
    for (key, value, other) in [
        ("n NUMERIC(10,4)", "1.5", "1.51"),
        ("c TEXT", "ab", "abc"),
        ("d DATE", "2024-02-29", "2024-03-01"),
        ("ts TIMESTAMP", "2024-02-29T12:00:00", "2024-02-29T12:00:01"),
        (
            "u UUID",
            "6ecd8c99-4036-403d-bf84-cf8400f67836",
            "6ecd8c99-4036-403d-bf84-cf8400f67837",
        ),
        ("b BOOLEAN", "true", "false"),
        ("v TEXT", "v", "longer than nine letters"),
    ] {
        let name = key.split(' ').next().unwrap();
        dim.check_lookup(&[name.to_owned()]).await.unwrap();
        let lookup = open(&dim, &[name], &["name"]);
        let answer = ask(&lookup, key, &[&[other], &[value]]).await.unwrap();
        assert_eq!(shown(&answer), [r#"1: {"name":"found"}"#], "{key}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_found_beforehand() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(&url, "CREATE TABLE dim (id int8, name text, mood inet, at timestamp)").await;
    let check = async |relation: (&str, &str), declared: &str| -> String {
        let key = declared.split(' ').next().unwrap().to_owned();
        let error = table(&[("url", &url), relation], declared)
            .unwrap()
            .check_lookup(&[key])
            .await
            .unwrap_err();
        assert_eq!(error.retry(), Retry::Never);
        format!("{} {error} {}", error.code().as_str(), error.hint().unwrap_or_default())
    };
    let dim = ("table", "dim");
    let said = check(("table", "public.dmi"), "id BIGINT").await;
    assert!(
        said.starts_with("42P01 could not look at table \"public.dmi\"") && said.contains("does not exist"),
        "{said}"
    );
    let said = check(("query", "SELECT id FROM dim WHERE"), "id BIGINT").await;
    assert!(
        said.starts_with("42601 could not look at the query on the Postgres server: syntax error"),
        "{said}"
    );
    let said = check(dim, "id BIGINT, nam TEXT").await;
    assert!(
        said.starts_with("42703 column \"nam\" does not exist in table \"dim\"") && said.contains("\"name\""),
        "{said}"
    );
    // Any integer can be compared with any other, but a narrower column could not hold the answer.
    assert!(
        table(&[("url", &url), dim], "id INT")
            .unwrap()
            .check_lookup(&["id".into()])
            .await
            .is_ok()
    );
    let said = check(dim, "name TEXT, id INT").await;
    assert!(
        said.starts_with("42804 column \"id\" is declared as INT but is of type int8"),
        "{said}"
    );
    let said = check(dim, "id BIGINT, at TIMESTAMPTZ").await;
    assert!(
        said.contains("is declared as TIMESTAMPTZ but is of type timestamp") && said.contains("TIMESTAMP,"),
        "{said}"
    );
    let said = check(dim, "mood TEXT").await;
    assert!(
        said.contains("is of type inet") && said.contains("SELECT mood::text AS mood"),
        "{said}"
    );
}

#[tokio::test]
async fn columns_come_from_the_server() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE TABLE dim (id int, name varchar(3), price numeric(9,2), tags text[], net inet)",
    )
    .await;
    let options = given(&[("url", &url), ("table", "dim")]);
    let schema = Postgres.infer_schema(&options).await.unwrap().unwrap();
    let types: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| crate::types::SqlType::from_arrow_field(field).unwrap().to_sql())
        .collect();
    assert_eq!(types, ["INT", "TEXT", "NUMERIC(38,9)", "TEXT[]", "TEXT"]);
}

#[tokio::test]
async fn a_row_that_does_not_fit_fails_instead_of_vanishing() {
    let Some(server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE TABLE dim (id int, price numeric); INSERT INTO dim VALUES (1, 12345.678), (2, 1e30)",
    )
    .await;
    let dim = table(&[("url", &url), ("table", "dim")], "id INT, price NUMERIC(10,2)").unwrap();
    dim.check_lookup(&["id".into()]).await.unwrap();
    let lookup = open(&dim, &["id"], &["price"]);
    let error = ask(&lookup, "id INT", &[&["2"]]).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("a row of lookup table \"public.dim\" does not fit its columns"),
        "{error}"
    );
    assert_eq!(error.retry(), Retry::Never);
}

#[tokio::test]
async fn encrypted_and_by_parts() {
    let Some(server) = TestPostgres::start_with_tls().await else {
        return;
    };
    let url = server.new_database().await;
    let parts = url::Url::parse(&url).unwrap();
    let roots = server.certificate().unwrap().display().to_string();
    let port = parts.port().unwrap().to_string();
    let query = "SELECT 1 AS one, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    for (mode, encrypted) in [("disable", false), ("require", true), ("verify-full", true)] {
        let options = [
            ("host", "localhost"),
            ("port", &port),
            ("user", parts.username()),
            ("database", parts.path().trim_start_matches('/')),
            ("sslmode", mode),
            ("sslrootcert", &roots),
            ("query", query),
        ];
        let dim = table(&options, "one INT, ssl BOOLEAN").unwrap();
        let answer = ask(&open(&dim, &["one"], &["ssl"]), "one INT", &[&["1"]])
            .await
            .unwrap();
        assert_eq!(answer.rows.column(0).as_boolean().value(0), encrypted, "{mode}");
    }
}

#[tokio::test]
async fn a_server_that_was_away_answers_again() {
    let Some(mut server) = TestPostgres::start().await else {
        return;
    };
    let url = server.new_database().await;
    run(
        &url,
        "CREATE TABLE dim (id int, name text); INSERT INTO dim VALUES (1, 'one')",
    )
    .await;
    let dim = table(&[("url", &url), ("table", "dim")], "id INT, name TEXT").unwrap();
    let lookup = open(&dim, &["id"], &["name"]);
    assert_eq!(
        shown(&ask(&lookup, "id INT", &[&["1"]]).await.unwrap()),
        [r#"0: {"name":"one"}"#]
    );
    if !server.stop().await {
        return;
    }
    let error = ask(&lookup, "id INT", &[&["1"]]).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Backoff, "{error}");
    server.start_again().await;
    assert_eq!(
        shown(&ask(&lookup, "id INT", &[&["1"]]).await.unwrap()),
        [r#"0: {"name":"one"}"#]
    );
}

#[test]
fn options_are_checked_and_passwords_are_not_shown() {
    let said = |options: &[(&str, &str)]| {
        let error = table(options, "id INT").unwrap_err();
        assert_eq!(error.code().as_str(), "22023");
        assert!(
            !format!("{error} {error:?} {:?}", error.hint()).contains("hunter2"),
            "{error}"
        );
        error.to_string()
    };
    let url = ("url", "postgres://me:hunter2@h/d");
    assert_eq!(
        said(&[url]),
        "connector \"postgres\" needs option \"table\" or \"query\""
    );
    assert_eq!(
        said(&[("table", "t")]),
        "connector \"postgres\" needs option \"url\" or \"host\""
    );
    assert!(said(&[url, ("host", "h"), ("table", "t")]).contains("exclude each other"));
    assert!(said(&[url, ("query", "SELECT 1"), ("table", "t")]).contains("exclude each other"));
    assert!(said(&[("url", "postgres://me:hunter2@h/d?sslmode=maybe"), ("table", "t")]).contains("maybe"));
    assert!(said(&[("host", "h"), ("sslmode", "verify-full"), ("table", "t")]).contains("sslrootcert"));
    assert!(said(&[("host", "h"), ("port", "70000"), ("table", "t")]).contains("70000"));
    let fine = table(&[url, ("table", "t")], "id INT").unwrap();
    assert!(!format!("{fine:?}").contains("hunter2"));
}

//! One-shot queries over kept results and small system views.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::{ArrayRef, Int16Array, Int64Array, RecordBatch, StringArray, UInt32Array, new_empty_array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::datasource::{MemTable, TableProvider};
use futures::TryStreamExt;

use super::{Classification, ResultRows, classify, describe_select, parameter_types, plan_select};
use crate::error::{ErrorReport, Report};
use crate::ids::Oid;
use crate::planner::bind::BatchRelations;
use crate::planner::error::Error;
use crate::planner::tests::catalog::snapshot;
use crate::planner::{Settings, dialect};
use crate::types::SqlType;

#[derive(Debug)]
struct Totals;

fn totals_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("bidder", DataType::Int64, true),
        Field::new("count", DataType::Int64, true),
    ]))
}

fn totals(bidders: Vec<i64>) -> RecordBatch {
    let counts: Vec<i64> = bidders.iter().map(|bidder| bidder * 10).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(bidders)), Arc::new(Int64Array::from(counts))];
    RecordBatch::try_new(totals_schema(), columns).unwrap()
}

impl ResultRows for Totals {
    fn schema(&self) -> SchemaRef {
        totals_schema()
    }

    fn key(&self) -> Option<Vec<usize>> {
        Some(vec![0])
    }

    fn scan(&self) -> Box<dyn Iterator<Item = Result<RecordBatch, ErrorReport>> + Send> {
        Box::new([Ok(totals(vec![1, 2])), Ok(totals(vec![3]))].into_iter())
    }

    fn lookup(&self, key: &[ScalarValue]) -> Result<Option<RecordBatch>, ErrorReport> {
        match key {
            // 99 is only found by a look-up, so that tests can tell.
            [ScalarValue::Int64(Some(99))] => Ok(Some(totals(vec![99]))),
            _ => Ok(None),
        }
    }
}

struct Relations;

fn memory(fields: Vec<Field>, columns: Vec<ArrayRef>) -> Arc<dyn TableProvider> {
    let schema = Arc::new(Schema::new(fields));
    let columns = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| match columns.get(index) {
            Some(column) => Arc::clone(column),
            None => new_empty_array(field.data_type()),
        })
        .collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    Arc::new(MemTable::try_new(schema, vec![vec![batch]]).unwrap())
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn oids(values: &[u32]) -> ArrayRef {
    Arc::new(UInt32Array::from(values.to_vec()))
}

fn field(name: &str, of: SqlType) -> Field {
    of.to_arrow_field(name, true)
}

impl BatchRelations for Relations {
    fn system_relation(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        let oid = || SqlType::Oid;
        Some(match (schema, name) {
            ("pg_catalog", "pg_class") => memory(
                vec![
                    field("oid", oid()),
                    field("relname", SqlType::Name),
                    field("relnamespace", oid()),
                    field("relkind", SqlType::SystemChar),
                    field("reloftype", oid()),
                ],
                vec![
                    oids(&[20001, 20020]),
                    texts(&["bids", "totals"]),
                    oids(&[2200, 2200]),
                    texts(&["r", "m"]),
                    oids(&[0, 0]),
                ],
            ),
            ("pg_catalog", "pg_namespace") => memory(
                vec![field("oid", oid()), field("nspname", SqlType::Name)],
                vec![oids(&[11, 2200]), texts(&["pg_catalog", "public"])],
            ),
            ("pg_catalog", "pg_attribute") => memory(
                vec![
                    field("attrelid", oid()),
                    field("attname", SqlType::Name),
                    field("atttypid", oid()),
                    field("attnum", SqlType::SmallInt),
                    field("attcollation", oid()),
                ],
                vec![
                    oids(&[20001, 20001]),
                    texts(&["auction", "channel"]),
                    oids(&[20, 25]),
                    Arc::new(Int16Array::from(vec![1, 2])),
                    oids(&[0, 100]),
                ],
            ),
            ("pg_catalog", "pg_collation") => memory(
                vec![field("oid", oid()), field("collname", SqlType::Name)],
                vec![oids(&[100]), texts(&["default"])],
            ),
            ("pg_catalog", "pg_type") => memory(
                vec![field("oid", oid()), field("typcollation", oid())],
                vec![oids(&[20, 25]), oids(&[0, 101])],
            ),
            ("pg_catalog", "pg_policy") => memory(
                vec![
                    field("polname", SqlType::Name),
                    field("polroles", SqlType::Array(Box::new(SqlType::Oid))),
                ],
                Vec::new(),
            ),
            ("pg_catalog", "pg_roles") => memory(
                vec![field("oid", oid()), field("rolname", SqlType::Name)],
                vec![oids(&[10]), texts(&["laminar"])],
            ),
            _ => return None,
        })
    }

    fn pipeline_result(&self, pipeline: Oid) -> Option<Arc<dyn ResultRows>> {
        (pipeline == Oid(20020)).then(|| Arc::new(Totals) as Arc<dyn ResultRows>)
    }

    fn system_names(&self, schema: &str) -> Vec<String> {
        match schema {
            "pg_catalog" => vec!["pg_class".into(), "pg_namespace".into()],
            _ => Vec::new(),
        }
    }
}

fn run_with(sql: &str, parameters: &[ScalarValue]) -> Result<(Vec<String>, Vec<String>), Error> {
    let query = dialect::parse_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let planned = plan_select(
        &query,
        sql,
        &Arc::new(snapshot()),
        &Settings::default(),
        &Relations,
        parameters,
    )?;
    let names = planned
        .schema()
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches: Vec<RecordBatch> = runtime.block_on(async {
        let stream = planned.execute().await?;
        stream
            .try_collect()
            .await
            .map_err(|error| crate::planner::bind::positions::SourceText(sql).error(error))
    })?;
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values: Vec<String> = batch
                .columns()
                .iter()
                .map(|column| arrow::util::display::array_value_to_string(column, row).unwrap())
                .collect();
            rows.push(values.join("|"));
        }
    }
    Ok((names, rows))
}

#[track_caller]
fn check(sql: &str, names: &[&str], rows: &[&str]) {
    match run_with(sql, &[]) {
        Ok((actual_names, actual_rows)) => {
            assert_eq!(actual_names, names, "{sql}");
            assert_eq!(actual_rows, rows, "{sql}");
        }
        Err(error) => panic!("{sql}: {error} {:?}", error.hint()),
    }
}

#[test]
fn results_are_read_with_postgres_names() {
    check(
        "SELECT bidder, count FROM totals ORDER BY bidder",
        &["bidder", "count"],
        &["1|10", "2|20", "3|30"],
    );
    check("SELECT sum(count), sum(count) FROM totals", &["sum", "sum"], &["60|60"]);
    check(
        "SELECT 1, 'a', 1::int, NULL",
        &["?column?", "?column?", "int4", "?column?"],
        &["1|a|1|"],
    );
    check(
        "SELECT t.bidder, n.k FROM totals t JOIN (VALUES (1), (3)) AS n(k) ON n.k = t.bidder ORDER BY 1",
        &["bidder", "k"],
        &["1|1", "3|3"],
    );
    check("SELECT * FROM generate_series(1, 3) AS g(n)", &["n"], &["1", "2", "3"]);
}

#[test]
fn every_set_has_a_group_once_where_rows_are_sorted() {
    // More groups than a batch has rows.
    check(
        "SELECT count(*), count(a), max(place) FROM (SELECT a, b, sum(place) AS place FROM \
         (SELECT a, b, row_number() OVER (PARTITION BY a ORDER BY b) AS place \
          FROM (SELECT g / 3 AS a, g % 3 AS b FROM generate_series(0, 29999) AS s(g)) AS t) AS o \
         GROUP BY GROUPING SETS ((a, b), (b))) AS groups",
        &["count", "count", "max"],
        &["30003|30000|30000"],
    );
}

#[test]
fn a_union_is_sorted_whose_inputs_have_constants_and_equal_columns() {
    check(
        "SELECT a, b, row_number() OVER (PARTITION BY b ORDER BY a DESC) FROM \
         (SELECT 2 AS a, 0 AS b FROM (VALUES (1)) AS v(x) UNION ALL \
          SELECT length(s), length(s) FROM (VALUES ('x'), (''), ('xyz')) AS w(s)) AS u ORDER BY 1, 2",
        &["a", "b", "row_number"],
        &["0|0|2", "1|1|1", "2|0|1", "3|3|1"],
    );
}

#[test]
fn a_key_is_looked_up() {
    check("SELECT count FROM totals WHERE bidder = 99", &["count"], &["990"]);
    check(
        "SELECT count FROM totals WHERE bidder = 99 AND count > 1000",
        &["count"],
        &[],
    );
    check("SELECT count FROM totals WHERE count = 20", &["count"], &["20"]);
}

#[test]
fn psql_describes() {
    check(
        "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c \
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relname OPERATOR(pg_catalog.~) '^(bids)$' COLLATE pg_catalog.default \
         AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3",
        &["oid", "nspname", "relname"],
        &["20001|public|bids"],
    );
    check(
        "SELECT a.attname, pg_catalog.format_type(a.atttypid, -1), \
         (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t \
          WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation) AS attcollation \
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = '20001' AND a.attnum > 0 ORDER BY a.attnum",
        &["attname", "format_type", "attcollation"],
        &["auction|bigint|", "channel|text|default"],
    );
    check(
        "SELECT pol.polname, CASE WHEN pol.polroles = '{0}' THEN NULL ELSE pg_catalog.array_to_string(array(select \
         rolname from pg_catalog.pg_roles where oid = any (pol.polroles) order by 1),',') END \
         FROM pg_catalog.pg_policy pol ORDER BY 1",
        &["polname", "array_to_string"],
        &[],
    );
    check(
        "SELECT CASE WHEN c.reloftype = 0 THEN '' ELSE c.reloftype::pg_catalog.regtype::pg_catalog.text END, \
         c.oid::pg_catalog.regclass FROM pg_class c WHERE c.oid = '20001'",
        &["reloftype", "oid"],
        &["|bids"],
    );
}

#[test]
fn names_in_the_catalog() {
    check("SELECT 'bids'::regclass", &["regclass"], &["bids"]);
    check(
        "SELECT 'bids'::regclass::oid, 'int8'::regtype::text",
        &["oid", "text"],
        &["20001|bigint"],
    );
    check(
        "SELECT relname FROM pg_class WHERE oid = 'totals'::regclass",
        &["relname"],
        &["totals"],
    );
    check(
        "SELECT current_schema, current_schemas(true)",
        &["current_schema", "current_schemas"],
        &["public|[pg_catalog, public]"],
    );
    check("SELECT (current_schemas(false))[1]", &["current_schemas"], &["public"]);
    check(
        "SELECT 2 = ANY('{1,2}'::int[]), pg_typeof(1::bigint)",
        &["?column?", "pg_typeof"],
        &["true|bigint"],
    );
    let error = run_with("SELECT 'nope'::regclass", &[]).unwrap_err();
    assert_eq!(error.code().as_str(), "42P01");
}

#[test]
fn json_values() {
    check(
        "SELECT '{\"a\": [1, \"x\"]}'::json -> 'a' -> 1, '{\"a\": [1, \"x\"]}'::json -> 'a' ->> 1, \
         '{\"a\":{\"b\":2}}'::json #>> '{a,b}'",
        &["?column?", "?column?", "?column?"],
        &["\"x\"|x|2"],
    );
    check(
        "SELECT json_object('k', 1, 'l', json_array('a', NULL)), json_value('{\"a\":{\"b\":true}}', '$.a.b'), to_json(1.5)",
        &["json_object", "json_value", "to_json"],
        &["{\"k\":1,\"l\":[\"a\",null]}|true|1.5"],
    );
}

#[test]
fn parameters_have_types_and_values() {
    let sql = "SELECT count FROM totals WHERE bidder = $1 AND count > $2 LIMIT 10";
    let query = dialect::parse_query(sql).unwrap();
    let snapshot = Arc::new(snapshot());
    let types = parameter_types(
        &query,
        sql,
        &snapshot,
        &Settings::default(),
        &Relations,
        &[None, Some(SqlType::Int)],
    )
    .unwrap();
    assert_eq!(types, [SqlType::BigInt, SqlType::Int]);
    let columns = describe_select(&query, sql, &snapshot, &Settings::default(), &Relations, &[]).unwrap();
    assert_eq!(columns.field(0).name(), "count");
    let values = [ScalarValue::Int64(Some(99)), ScalarValue::Int32(Some(5))];
    assert_eq!(run_with(sql, &values).unwrap().1, ["990"]);
    assert_eq!(
        parameter_types(
            &dialect::parse_query("SELECT $1").unwrap(),
            "SELECT $1",
            &snapshot,
            &Settings::default(),
            &Relations,
            &[],
        )
        .unwrap(),
        [SqlType::Text]
    );
}

#[test]
fn queries_are_classified() {
    let classify = |sql: &str| classify(&dialect::parse_query(sql).unwrap(), &snapshot(), &Settings::default());
    assert_eq!(classify("SELECT * FROM totals"), Classification::Batch);
    assert_eq!(classify("SELECT 1"), Classification::Batch);
    assert_eq!(classify("SELECT * FROM pg_catalog.pg_class"), Classification::Batch);
    assert_eq!(classify("SELECT * FROM bids"), Classification::Stream);
    assert_eq!(
        classify("SELECT * FROM (SELECT * FROM per_auction) x"),
        Classification::Stream
    );
    assert_eq!(
        classify("WITH bids AS (SELECT 1) SELECT * FROM bids"),
        Classification::Batch
    );
    assert_eq!(
        classify("SELECT count(*) FROM TUMBLE(bids, ts, '1 s')"),
        Classification::Stream
    );
}

#[test]
fn wrong_queries() {
    let code = |sql: &str| run_with(sql, &[]).unwrap_err().code().as_str().to_owned();
    assert_eq!(code("SELECT * FROM pg_clas"), "42P01");
    assert_eq!(code("SELECT nope FROM totals"), "42703");
    assert_eq!(code("SELECT 1 / 0"), "22012");
    assert_eq!(code("SELECT 'x'::int"), "22P02");
    assert_eq!(code("SELECT current_setting('nope')"), "42704");
}

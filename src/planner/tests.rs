//! Queries and the graphs, errors and notices they give.

#![allow(clippy::unwrap_used)]

mod asof;
pub mod catalog;
mod joins;
mod top_n;

use datafusion::sql::sqlparser::ast::{Ident, ObjectName};

use crate::catalog::objects::Object;
use crate::engine::graph::{EmitMode, Exchange};
use crate::error::Report;
use crate::ids::Oid;
use crate::planner::rewrites::switches::Rewrite;
use crate::planner::tests::catalog::{snapshot, table};
use crate::planner::{Body, Compiled, Error, InsertStatement, Settings, Target, compile, dialect, explain};

fn compiled_with(body: &Body, target: Target, parallelism: u32) -> Result<Compiled, Error> {
    let settings = Settings {
        parallelism,
        ..Settings::default()
    };
    compile(body, target, &snapshot(), &settings)
}

fn query(sql: &str) -> Body {
    Body::query(dialect::parse_query(sql).unwrap(), sql)
}

fn insert(target: &str, columns: &[&str], sql: &str) -> InsertStatement {
    InsertStatement {
        target: ObjectName::from(Ident::new(target)),
        columns: columns.iter().map(|name| Ident::new(*name)).collect(),
        query: dialect::parse_query(sql).unwrap(),
    }
}

fn compiled(sql: &str) -> Compiled {
    let target = Target::Pipeline { oid: Oid(1) };
    compiled_with(&query(sql), target, 1).unwrap_or_else(|error| panic!("{sql}: {error} {:?}", error.hint()))
}

/// The operators of a kept query, without parallelism.
fn check(sql: &str, expected: &str) {
    let actual = compiled(sql).physical;
    assert_eq!(actual.trim(), unindented(expected).trim(), "{sql}\n{actual}");
}

fn unindented(text: &str) -> String {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let least = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(indent)
        .min()
        .unwrap_or(0);
    let lines: Vec<&str> = text.lines().map(|line| line.get(least..).unwrap_or_default()).collect();
    lines.join("\n")
}

fn error_of(body: &Body) -> (String, String, Option<String>, Option<usize>) {
    let error = compiled_with(body, Target::Pipeline { oid: Oid(1) }, 1).unwrap_err();
    (
        error.code().as_str().to_owned(),
        error.to_string(),
        error.hint(),
        error.position(),
    )
}

/// Code, and a part of message or hint; the position is that of `at` in the text.
fn check_error(sql: &str, code: &str, part: &str, at: Option<&str>) {
    let (actual, message, hint, position) = error_of(&query(sql));
    let said = format!("{message}\n{}", hint.unwrap_or_default());
    assert_eq!(actual, code, "{sql}: {said}");
    assert!(said.contains(part), "{sql}: {said}");
    if let Some(at) = at {
        let byte = sql.find(at).unwrap();
        assert_eq!(position, Some(sql[..byte].chars().count() + 1), "{sql}: {said}");
    }
}

const BIDS_TIME: &str = "watermark=ts - INTERVAL '5.000000000 SECS'";

#[test]
fn filters_and_projections_run_beside_the_source() {
    check(
        "SELECT auction, price * 2 AS double, upper(channel) FROM bids WHERE price > 10 AND channel == 'web'",
        &format!(
            "
            materialize
              project [auction, price * 2.0, upper(channel)]
                filter price > 10.0 AND channel = 'web'
                  source public.bids columns=[auction, price, channel] {BIDS_TIME}
            "
        ),
    );
}

#[test]
fn every_spelling_of_a_window_is_one_plan() {
    let expected = compiled("SELECT tumble(interval '10 seconds') AS window, count(*) AS n FROM bids GROUP BY window");
    for sql in [
        "SELECT tumble(interval '10 seconds') AS window, count(*) AS n FROM bids GROUP BY 1",
        "SELECT tumble('10 seconds') AS window, count(*) AS n FROM bids GROUP BY window",
        "SELECT TUMBLE(interval '10 seconds') AS window, count(*) AS n FROM bids GROUP BY TUMBLE(interval '10 seconds')",
        "SELECT TUMBLE(ts, INTERVAL '10 seconds') AS window, count(*) AS n FROM bids GROUP BY window",
        "SELECT tumble(ts, '10 seconds') AS window, count(*) AS n FROM public.bids b GROUP BY 1",
        "SELECT w AS window, n FROM (SELECT tumble('10 s') AS w, count(*) AS n FROM bids GROUP BY 1) x",
        "WITH x AS (SELECT *, tumble('10 s') AS window FROM bids) SELECT window, count(*) AS n FROM x GROUP BY window",
    ] {
        let actual = compiled(sql);
        assert_eq!(actual.physical, expected.physical, "{sql}");
        assert_eq!(ids(&actual), ids(&expected), "{sql}");
    }
}

fn ids(compiled: &Compiled) -> Vec<String> {
    compiled.graph.nodes.iter().map(|node| node.id.0.clone()).collect()
}

fn columns(compiled: &Compiled) -> Vec<String> {
    let output = compiled.output.as_ref().unwrap();
    output.fields().iter().map(|field| field.name().clone()).collect()
}

#[test]
fn starts_and_ends_of_windows() {
    let one = compiled(
        "SELECT tumble_start(ts, interval '1 minute') AS s, auction, count(*) FROM bids \
         GROUP BY TUMBLE(ts, interval '1 minute'), auction",
    );
    let expected = "window_aggregate window=tumble(1 min) keys=[auction] aggregates=[count(*)]";
    assert!(one.physical.contains(expected), "{}", one.physical);
    let two = compiled(
        "SELECT window_start, window_end, auction, sum(price) FROM TUMBLE(bids, ts, INTERVAL '10 seconds') \
         GROUP BY window_start, window_end, auction",
    );
    let expected = "window_aggregate window=tumble(10 s) keys=[auction] aggregates=[sum(price)]";
    assert!(two.physical.contains(expected), "{}", two.physical);
    assert_eq!(two.unique_key, ["auction", "window_start"]);
    assert_eq!(columns(&two), ["window_start", "window_end", "auction", "sum"]);
    let three = compiled(
        "SELECT window_start, count(*) FROM TABLE(TUMBLE(TABLE bids, DESCRIPTOR(ts), INTERVAL '10 seconds')) \
         GROUP BY window_start",
    );
    let expected = "window_aggregate window=tumble(10 s) keys=[] aggregates=[count(*)]";
    assert!(three.physical.contains(expected), "{}", three.physical);
    let only_end = compiled("SELECT tumble_end('1 h') AS e, max(price) FROM bids GROUP BY tumble_end('1 h')");
    assert!(
        only_end.physical.contains("window=tumble(1 h)"),
        "{}",
        only_end.physical
    );
}

#[test]
fn a_window_that_is_not_grouped_by_is_arithmetic() {
    let plan = compiled("SELECT auction, tumble(ts, '10 s') AS window FROM bids");
    assert!(plan.physical.contains("date_bin"), "{}", plan.physical);
}

#[test]
fn windows_survive_views_and_stars() {
    let all = compiled("SELECT * FROM per_auction WHERE bids > 3");
    assert_eq!(all.unique_key, ["auction", "window"]);
    assert!(all.append_only);
    let field = compiled("SELECT window.start, window.end, bids FROM per_auction WHERE window.start > '2024-01-01'");
    assert_eq!(columns(&field), ["start", "end", "bids"]);
    assert_eq!(all.depends_on, [Oid(20001), Oid(20010)]);
}

#[test]
fn an_aggregate_of_windows_is_a_window() {
    check(
        "SELECT window, max(bids) AS most FROM per_auction GROUP BY window",
        &format!(
            "
            materialize key=[window]
              project [{{start: start, end: end}}, max(bids)]
                window_aggregate window=tumble(10 s) keys=[] aggregates=[max(bids)]
                  project [count(*)]
                    window_aggregate window=tumble(10 s) keys=[auction] aggregates=[count(*)]
                      source public.bids columns=[auction] {BIDS_TIME}
            "
        ),
    );
}

#[test]
fn updating_aggregates() {
    check(
        "SELECT bidder, count(*), sum(price) FILTER (WHERE channel = 'web') AS web FROM bids GROUP BY bidder HAVING count(*) > 1",
        &format!(
            "
            materialize key=[bidder]
              filter count(*) > 1
                updating_aggregate keys=[bidder] aggregates=[count(*), sum(price) FILTER (WHERE (channel = 'web'))]
                  project [bidder, price, channel = 'web']
                    source public.bids columns=[bidder, price, channel] {BIDS_TIME}
            "
        ),
    );
    check(
        "SELECT count(*) FROM logs",
        "
        materialize
          updating_aggregate keys=[] aggregates=[count(*)]
            source public.logs columns=[level]
        ",
    );
    check(
        "SELECT DISTINCT level FROM logs",
        "
        materialize key=[level]
          updating_aggregate keys=[level] aggregates=[]
            source public.logs columns=[level]
        ",
    );
    check(
        "SELECT max(n) FROM (SELECT level, count(*) AS n FROM logs GROUP BY level) x",
        "
        materialize
          updating_aggregate keys=[] aggregates=[max(n)]
            project [count(*)]
              updating_aggregate keys=[level] aggregates=[count(*)]
                source public.logs columns=[level]
        ",
    );
    let nested = compiled("SELECT max(n) FROM (SELECT level, count(*) AS n FROM logs GROUP BY level) x");
    assert!(!nested.append_only);
}

#[test]
fn unions_unnest_and_values() {
    check(
        "SELECT line FROM logs UNION ALL SELECT url FROM clicks",
        "
        materialize
          union
            source public.logs columns=[line]
            source public.clicks columns=[url] time=processing
        ",
    );
    check(
        "SELECT line FROM logs UNION SELECT url FROM clicks",
        "
        materialize key=[line]
          updating_aggregate keys=[line] aggregates=[]
            union
              source public.logs columns=[line]
              source public.clicks columns=[url] time=processing
        ",
    );
    let twice = compiled("SELECT line FROM logs UNION ALL SELECT line FROM logs");
    let union = twice
        .graph
        .nodes
        .iter()
        .find(|node| node.operator.name() == "union")
        .unwrap();
    assert_ne!(union.inputs[0].from, union.inputs[1].from);
    let unnest = compiled("SELECT auction, unnest(tags) AS tag FROM bids");
    assert!(unnest.physical.contains("unnest ["), "{}", unnest.physical);
    assert_eq!(columns(&unnest), ["auction", "tag"]);
    for from in [
        "bids b CROSS JOIN UNNEST(b.tags) AS u(tag)",
        "bids b, UNNEST(tags) AS u(tag)",
        "bids AS b JOIN UNNEST(b.tags) AS u(tag) ON true",
    ] {
        let lateral = compiled(&format!(
            "SELECT b.auction, u.tag, count(*) FROM {from} WHERE tag <> '' GROUP BY b.auction, u.tag"
        ));
        assert_eq!(columns(&lateral), ["auction", "tag", "count"]);
        assert!(lateral.physical.contains("unnest ["), "{}", lateral.physical);
    }
    let values = compiled("SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v(n, t)");
    assert!(values.physical.contains("values 2 rows"), "{}", values.physical);
    assert!(!values.unbounded);
}

#[test]
fn structs_json_and_generated_columns() {
    let plan = compiled("SELECT item.name, payload->'user'->>'id' AS id, cents FROM bids");
    assert_eq!(columns(&plan), ["name", "id", "cents"]);
    assert!(
        plan.physical
            .contains("source public.bids columns=[item{name}, payload, cents]"),
        "{}",
        plan.physical
    );
}

#[test]
fn names_are_made_unique_for_kept_results() {
    assert_eq!(
        columns(&compiled("SELECT count(*), count(price), 1, 2 FROM bids")),
        ["count", "count_1", "?column?", "?column?_1"]
    );
    assert_eq!(
        columns(&compiled("SELECT auction, auction FROM bids")),
        ["auction", "auction_1"]
    );
}

#[test]
fn several_subtasks_exchange_by_key() {
    let target = Target::Pipeline { oid: Oid(1) };
    let sql = "SELECT bidder, tumble('10 s') AS window, count(*) FROM bids GROUP BY bidder, window";
    let wide = compiled_with(&query(sql), target, 3).unwrap();
    let text = explain::graph(&wide.graph);
    let expected = format!(
        "
        materialize key=[bidder, window] x3
          exchange hash(bidder, window)
            project [bidder, {{start: start, end: end}}, count(*)] x3
              window_aggregate window=tumble(10 s) keys=[bidder] aggregates=[count(*)] x3
                exchange hash(bidder)
                  window_aggregate partial aggregates=[count(*)] x3
                    source public.bids columns=[bidder] {BIDS_TIME} x3
        "
    );
    assert_eq!(text.trim(), unindented(&expected).trim(), "{text}");
    let narrow = compiled_with(&query(sql), target, 1).unwrap();
    let stateful = |compiled: &Compiled| -> Vec<String> {
        let kept = compiled
            .graph
            .nodes
            .iter()
            .filter(|node| !node.description.starts_with("partial"));
        kept.map(|node| node.id.0.clone()).collect()
    };
    assert_eq!(stateful(&wide), stateful(&narrow));
    assert!(explain::graph_dot(&wide.graph).contains("hash(bidder)"));
    assert_eq!(
        explain::graph_json(&wide.graph)["nodes"].as_array().unwrap().len(),
        wide.graph.nodes.len()
    );
}

#[test]
fn rewrites_can_be_switched_off() {
    let sql = "SELECT a.bidder FROM (SELECT bidder, count(*) AS n FROM bids GROUP BY bidder) AS a
               JOIN (SELECT bidder, count(*) AS n FROM bids GROUP BY bidder) AS b ON a.bidder = b.bidder";
    let counts = |disabled: &[Rewrite]| {
        let settings = Settings {
            parallelism: 2,
            disabled_rewrites: disabled.iter().copied().collect(),
            ..Settings::default()
        };
        let target = Target::Pipeline { oid: Oid(1) };
        let graph = compile(&query(sql), target, &snapshot(), &settings).unwrap().graph;
        let named = |name: &str| graph.nodes.iter().filter(|node| node.operator.name() == name).count();
        [named("updating_aggregate"), named("source")]
    };
    assert_eq!(counts(&[]), [2, 1], "the first and the last part of one aggregate");
    assert_eq!(counts(&[Rewrite::SharedSubplans]), [4, 1]);
    assert_eq!(counts(&[Rewrite::LocalGlobal]), [1, 1]);
}

/// Behind a join on the bidder a group by bidder and channel is whole where the bidder is, whichever side shows it.
#[test]
fn groups_within_a_key_of_a_join_stay_where_they_are() {
    let planned = |sql: &str, parallelism: u32, disabled: &[Rewrite]| {
        let settings = Settings {
            parallelism,
            disabled_rewrites: disabled.iter().copied().collect(),
            ..Settings::default()
        };
        let target = Target::Pipeline { oid: Oid(1) };
        compile(&query(sql), target, &snapshot(), &settings).unwrap()
    };
    let of = |keys: &str| {
        format!(
            "SELECT {keys}, max(b.price) FROM bids AS a JOIN bids AS b ON a.bidder = b.bidder AND a.auction < b.auction GROUP BY {keys}"
        )
    };
    let aggregates = |compiled: &Compiled| -> Vec<(String, Exchange)> {
        let nodes = compiled.graph.nodes.iter();
        let aggregates = nodes.filter(|node| node.operator.name() == "updating_aggregate");
        aggregates
            .map(|node| (node.id.0.clone(), node.inputs[0].exchange.clone()))
            .collect()
    };
    for keys in ["a.bidder, a.channel", "a.channel, b.bidder"] {
        let wide = planned(&of(keys), 2, &[]);
        assert!(wide.physical.contains("placed_by=[bidder]"), "{}", wide.physical);
        let [(id, exchange)] = aggregates(&wide).try_into().unwrap();
        assert!(matches!(exchange, Exchange::Forward), "{exchange:?}");
        // State outlives another parallelism: it is in the same place under the same name.
        assert_eq!(aggregates(&planned(&of(keys), 1, &[]))[0].0, id);
        let off = planned(&of(keys), 2, &[Rewrite::GroupJoin]);
        assert!(!off.physical.contains("placed_by"), "{}", off.physical);
        let [_, (other, exchange)] = aggregates(&off).try_into().unwrap();
        assert!(matches!(exchange, Exchange::Hash { .. }), "{exchange:?}");
        assert_ne!(other, id, "the state of one is not in the place of the other's");
    }
    for keys in ["a.channel", "a.bidder + 1, a.channel"] {
        let sent = planned(&of(keys), 2, &[]);
        assert!(!sent.physical.contains("placed_by"), "{}", sent.physical);
    }
    // The hash of a value twice is not that of the value.
    let twice = "SELECT a.bidder, count(*) FROM bids AS a JOIN bids AS b ON a.bidder = b.bidder AND a.bidder = b.auction GROUP BY a.bidder";
    let twice = planned(twice, 2, &[]);
    assert!(
        twice.physical.contains("placed_by=[bidder, bidder]"),
        "{}",
        twice.physical
    );
}

#[test]
fn distinct_aggregates_are_not_split() {
    let target = Target::Pipeline { oid: Oid(1) };
    let plan = compiled_with(
        &query("SELECT channel, count(DISTINCT bidder) FROM bids GROUP BY channel"),
        target,
        2,
    )
    .unwrap();
    assert!(!plan.physical.contains("partial"), "{}", plan.physical);
}

#[test]
fn sinks_take_columns_by_position_or_name() {
    let by_position = Body::inserts(vec![insert("out", &[], "SELECT auction, price, channel FROM bids")], "");
    let plan = compiled_with(&by_position, Target::Pipeline { oid: Oid(1) }, 4).unwrap();
    let text = explain::graph(&plan.graph);
    assert!(
        text.starts_with("sink public.out columns=[auction, price, note] x1\n  exchange single"),
        "{text}"
    );
    assert!(plan.output.is_none());
    assert_eq!(plan.sinks, [Oid(20004)]);
    let by_name = Body::inserts(
        vec![insert("out", &["note", "auction"], "SELECT channel, auction FROM bids")],
        "",
    );
    let plan = compiled_with(&by_name, Target::Pipeline { oid: Oid(1) }, 1).unwrap();
    let sink = plan.graph.nodes.last().unwrap();
    let names: Vec<&str> = sink
        .output
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["auction", "price", "note"]);
    assert!(sink.output.schema.field(1).data_type().is_floating());
    let literals = Body::inserts(vec![insert("out", &[], "SELECT '7', '1.5', NULL")], "");
    compiled_with(&literals, Target::Pipeline { oid: Oid(1) }, 1).unwrap();
}

#[test]
fn several_inserts_share_their_source() {
    let body = Body::inserts(
        vec![
            insert("out", &[], "SELECT auction, price, channel FROM bids WHERE price > 1"),
            insert("out", &[], "SELECT auction, price, channel FROM bids WHERE price < 0"),
            insert("inferred", &[], "SELECT bidder, price * 2 FROM bids"),
        ],
        "",
    );
    let plan = compiled_with(&body, Target::Pipeline { oid: Oid(1) }, 1).unwrap();
    let count = |name: &str| {
        plan.graph
            .nodes
            .iter()
            .filter(|node| node.operator.name() == name)
            .count()
    };
    assert_eq!((count("source"), count("union"), count("sink")), (1, 1, 2));
    let inferred = &plan.inferred_sinks[0];
    assert_eq!(inferred.table, Oid(20005));
    let columns: Vec<(&str, &str)> = inferred
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.sql_type.as_str()))
        .collect();
    assert_eq!(columns, [("bidder", "BIGINT"), ("?column?", "DOUBLE PRECISION")]);
}

fn insert_error(target: &str, columns: &[&str], sql: &str) -> (String, String) {
    let (code, message, ..) = error_of(&Body::inserts(vec![insert(target, columns, sql)], sql));
    (code, message)
}

#[test]
fn wrong_inserts() {
    let (code, message) = insert_error("out", &["auction"], "SELECT auction, price FROM bids");
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("42601", "INSERT has more expressions than target columns")
    );
    let (code, message) = insert_error("out", &[], "SELECT channel FROM bids");
    assert_eq!(
        (code.as_str(), message.as_str()),
        (
            "42804",
            "column \"auction\" is of type bigint but expression is of type text"
        )
    );
    assert_eq!(
        insert_error("out", &["note", "nope"], "SELECT channel, price FROM bids").0,
        "42703"
    );
    assert_eq!(insert_error("outt", &[], "SELECT 1").0, "42P01");
    assert_eq!(insert_error("generator", &[], "SELECT 1").0, "42809");
    assert_eq!(insert_error("per_auction", &[], "SELECT 1").0, "42809");
    assert_eq!(
        insert_error("out", &[], "SELECT bidder, count(*), 'x' FROM bids GROUP BY bidder").0,
        "0A000"
    );
}

#[test]
fn updates_reach_sinks_that_take_them() {
    let counts = "SELECT bidder, count(*) FROM bids GROUP BY bidder";
    for (sink, how) in [("upserts", "changelog=upsert"), ("changes", "changelog=debezium")] {
        let body = Body::inserts(vec![insert(sink, &[], counts)], "");
        let plan = compiled_with(&body, Target::Pipeline { oid: Oid(1) }, 1).unwrap();
        assert!(plan.physical.contains(how), "{}", plan.physical);
    }
}

#[test]
fn foreground_queries_go_to_the_client() {
    let plan = compiled_with(&query("SELECT channel FROM bids LIMIT 5"), Target::Foreground, 2).unwrap();
    let text = explain::graph(&plan.graph);
    assert!(
        text.starts_with("client_output limit=5 x1\n  exchange single"),
        "{text}"
    );
    let error = compiled_with(&query("SELECT channel FROM bids ORDER BY 1"), Target::Foreground, 2).unwrap_err();
    assert_eq!(error.code().as_str(), "0A000");
}

#[test]
fn what_cannot_be_continuous_says_what_works() {
    check_error(
        "SELECT * FROM bids ORDER BY price",
        "0A000",
        "order when you read",
        Some("price"),
    );
    check_error("SELECT * FROM bids OFFSET 3", "0A000", "LIMIT", None);
    check_error(
        "SELECT lag(price) OVER (ORDER BY price) FROM bids",
        "0A000",
        "OVER",
        None,
    );
    check_error("SELECT now() FROM bids", "0A000", "now()", Some("now"));
    check_error(
        "SELECT cumulate('1 s', '5 s') AS w, count(*) FROM bids GROUP BY w",
        "0A000",
        "TUMBLE",
        Some("cumulate"),
    );
    check_error(
        "SELECT tumble('1 month') AS w, count(*) FROM bids GROUP BY w",
        "0A000",
        "no fixed length",
        None,
    );
    check_error(
        "SELECT tumble('10 s') AS w, count(*) FROM logs GROUP BY w",
        "0A000",
        "WATERMARK",
        None,
    );
    check_error(
        "SELECT tumble(\"at\", '10 s') AS w, count(*) FROM clicks GROUP BY w",
        "0A000",
        "WATERMARK",
        None,
    );
    check_error(
        "SELECT tumble('10 s') AS w, channel, count(*) FROM bids GROUP BY ROLLUP (w, channel)",
        "0A000",
        "Put the window before the sets",
        None,
    );
    check_error(
        "SELECT price, rank() OVER (ORDER BY price) AS n FROM bids",
        "0A000",
        "WHERE rank <= 10",
        None,
    );
}

#[test]
fn grouping_sets_share_their_input_and_equal_sets_their_aggregate() {
    let count = |sql: &str| {
        let graph = compiled(sql).graph;
        let named = |name: &str| graph.nodes.iter().filter(|node| node.operator.name() == name).count();
        (named("source"), named("updating_aggregate"))
    };
    assert_eq!(
        count("SELECT channel, count(*) FROM bids GROUP BY ROLLUP (channel)"),
        (1, 2)
    );
    assert_eq!(
        count("SELECT channel, sum(price) FROM bids GROUP BY GROUPING SETS (channel, (channel), ())"),
        (1, 2)
    );
    assert_eq!(
        count("SELECT count(*) FROM bids GROUP BY CUBE (channel, price)"),
        (1, 4)
    );
}

#[test]
fn only_windows_that_late_rows_can_reach_allow_lateness() {
    let settings = Settings {
        allowed_lateness_ms: 60_000,
        ..Settings::default()
    };
    let plan = |sql: &str| compile(&query(sql), Target::Pipeline { oid: Oid(1) }, &snapshot(), &settings).unwrap();
    let nested = plan(
        "SELECT w, max(n) AS most FROM (SELECT tumble('10 s') AS w, channel, count(*) AS n FROM bids GROUP BY w, channel) \
         GROUP BY w",
    );
    assert_eq!(nested.physical.matches("window=").count(), 2, "{}", nested.physical);
    assert_eq!(
        nested.physical.matches("allowed_lateness=1 min").count(),
        1,
        "{}",
        nested.physical
    );
    // The outer window waits for the corrections, and is then given once.
    assert!(nested.append_only && nested.notices.is_empty());
    assert!(!plan("SELECT tumble('10 s') AS w, count(*) FROM bids GROUP BY w").append_only);
    let plain = plan("SELECT price FROM bids");
    assert_eq!(
        plain.notices[0].message,
        "allowed_lateness changes nothing: the query groups by no window"
    );
}

#[test]
fn generated_input_has_its_own_time() {
    let sql = "SELECT bid.auction AS auction, tumble('10 s') AS window, count(*) FROM bids WHERE bid IS NOT NULL GROUP BY 1, 2";
    let mut nexmark = table(0, "bids", &[], &[]);
    nexmark.options = crate::planner::tests::catalog::options(&[("connector", "nexmark"), ("event_rate", "1000")]);
    let mut body = query(sql);
    body.local_objects = vec![Object::Table(nexmark)];
    let plan = compiled_with(&body, Target::Validate, 2).unwrap();
    assert!(plan.unbounded);
    assert!(
        plan.physical.contains("window=tumble(10 s) keys=[bid.auction]"),
        "{}",
        plan.physical
    );
    let source = &plan.graph.nodes[0];
    assert!(source.output.event_time);
    let names: Vec<&str> = source
        .output
        .schema
        .fields()
        .iter()
        .map(|field| field.name().as_str())
        .collect();
    assert_eq!(names, ["bid"]);
}

#[test]
fn hidden_columns_are_not_stars() {
    let mut impulse = table(0, "ticks", &[], &[]);
    impulse.options = crate::planner::tests::catalog::options(&[("connector", "impulse"), ("event_rate", "10")]);
    let mut body = query("SELECT * FROM ticks");
    body.local_objects = vec![Object::Table(impulse)];
    let plan = compiled_with(&body, Target::Validate, 1).unwrap();
    assert!(
        columns(&plan).iter().all(|name| !name.starts_with('_')),
        "{:?}",
        columns(&plan)
    );
}

#[test]
fn random_values_cannot_be_taken_back() {
    let sql = "SELECT bidder, n * random() AS r FROM (SELECT bidder, count(*) AS n FROM bids GROUP BY bidder) x";
    check_error(sql, "0A000", "random", None);
    compiled("SELECT price * random() AS r FROM bids");
}

#[test]
fn wrong_names_have_code_hint_and_position() {
    check_error("SELECT auktion FROM bids", "42703", "\"auction\"", Some("auktion"));
    check_error("SELECT 'ä', auktion FROM bids", "42703", "\"auction\"", Some("auktion"));
    check_error("SELECT 1 FROM bidz", "42P01", "\"bids\"", Some("bidz"));
    check_error("SELECT 1 FROM nowhere.bids", "42P01", "", None);
    check_error("SELECT uper(channel) FROM bids", "42883", "\"upper\"", Some("uper"));
    check_error(
        "SELECT x.price FROM bids b",
        "42P01",
        "missing FROM-clause entry for table \"x\"",
        Some("x.price"),
    );
    check_error("SELECT bidder, price FROM bids GROUP BY bidder", "42803", "", None);
    check_error("SELECT sum(channel) FROM bids", "42883", "", None);
    check_error("SELECT 1 FROM generator g, generator g", "42712", "", None);
}

#[test]
fn state_without_bound_is_noticed() {
    let plan = compiled("SELECT bidder, count(*) FROM bids GROUP BY bidder");
    assert_eq!(plan.notices.len(), 1);
    assert!(plan.notices[0].message.contains("(bidder)"), "{:?}", plan.notices);
    assert!(
        plan.notices[0]
            .hint
            .as_deref()
            .unwrap_or_default()
            .contains("state_ttl")
    );
    assert!(
        compiled("SELECT level, count(*) FROM logs GROUP BY level")
            .notices
            .is_empty()
    );
    assert!(compiled("SELECT count(*) FROM bids").notices.is_empty());
}

#[test]
fn local_tables_hide_those_of_the_catalog() {
    let mut body = query("SELECT only_here FROM bids");
    body.local_objects = vec![Object::Table(table(0, "bids", &["only_here BIGINT"], &[]))];
    let plan = compiled_with(&body, Target::Validate, 1).unwrap();
    assert_eq!(columns(&plan), ["only_here"]);
    assert!(plan.depends_on.is_empty());
}

#[test]
fn emit_on_update_changes_while_open() {
    let mut body = query("SELECT tumble('10 s') AS window, count(*) FROM bids GROUP BY window");
    body.emit = Some(EmitMode::OnUpdate);
    let plan = compiled_with(&body, Target::Validate, 1).unwrap();
    assert!(!plan.append_only);
    assert!(plan.physical.contains("emit=update"), "{}", plan.physical);
}

#[test]
fn ids_survive_other_names_and_columns() {
    let ids_of = |sql: &str| ids(&compiled(sql));
    assert_eq!(
        ids_of("SELECT bidder AS b, sum(price) AS s FROM bids GROUP BY bidder"),
        ids_of("SELECT x.bidder, sum(x.price) FROM bids AS x GROUP BY 1")
    );
    assert_ne!(
        ids_of("SELECT bidder, sum(price) FROM bids GROUP BY bidder")[1..],
        ids_of("SELECT bidder, min(price) FROM bids GROUP BY bidder")[1..]
    );
    // A source keeps its offsets when more of its columns are read.
    assert_eq!(
        ids_of("SELECT bidder FROM bids")[0],
        ids_of("SELECT price, auction FROM bids")[0]
    );
}

//! ASOF and temporal joins, and the graphs, errors and notices they give.

use super::*;
use crate::engine::asof_spec::AsofJoinSpec;
use crate::engine::graph::OperatorSpec;

fn graph_of(sql: &str) -> String {
    let plan = compiled_with(&query(sql), Target::Pipeline { oid: Oid(1) }, 2);
    let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error} {:?}", error.hint()));
    explain::graph(&plan.graph).replace(BIDS_TIME, "wm")
}

fn check_graph(sql: &str, expected: &str) {
    let actual = graph_of(sql);
    assert_eq!(actual.trim(), unindented(expected).trim(), "{sql}\n{actual}");
}

fn asof_spec(sql: &str) -> AsofJoinSpec {
    let plan = compiled(sql);
    let mut joins = plan.graph.nodes.iter().filter_map(|node| match &node.operator {
        OperatorSpec::AsofJoin(spec) => Some(spec.as_ref().clone()),
        _ => None,
    });
    joins.next_back().unwrap()
}

/// What the join says of itself.
fn join_line(sql: &str) -> String {
    let text = compiled(sql).physical;
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(" on=[")).collect();
    assert_eq!(lines.len(), 1, "{sql}\n{text}");
    lines[0].trim().to_owned()
}

#[test]
fn only_columns_that_are_used_are_kept() {
    check_graph(
        "SELECT b.price, a.seller FROM bids b ASOF LEFT JOIN auctions a MATCH_CONDITION (b.ts >= a.ts) ON b.auction = a.id",
        "
        materialize x2
          exchange hash(price, seller)
            project [price, seller] x2
              asof_join left on=[auction = id] match=[ts >= ts] keeps=[one version a key] x2
                exchange hash(auction)
                  source public.bids columns=[auction, price, ts] wm x2
                exchange hash(id)
                  source public.auctions columns=[id, seller, ts] wm x2
        ",
    );
    check_graph(
        "SELECT b.price, a.seller FROM bids b JOIN auctions FOR SYSTEM_TIME AS OF b.ts AS a ON b.auction = a.id AND a.category = 10",
        "
        materialize x2
          exchange hash(price, seller)
            project [price, seller] x2
              temporal_join inner on=[auction = id] as_of=[ts] where=[category = 10] keeps=[one version a key] x2
                exchange hash(auction)
                  source public.bids columns=[auction, price, ts] wm x2
                exchange hash(id)
                  source public.auctions columns=[id, seller, category] wm x2
        ",
    );
}

#[test]
fn conditions_on_left_rows_are_asked_before_the_join() {
    check_graph(
        "SELECT b.price, a.seller FROM bids b ASOF LEFT JOIN auctions a MATCH_CONDITION (b.ts >= a.ts) ON b.auction = a.id \
         WHERE b.price > 5 AND a.category = 10",
        "
        materialize x2
          exchange hash(price, seller)
            project [price, seller] x2
              filter category = 10 x2
                project [price, seller, category] x2
                  asof_join left on=[auction = id] match=[ts >= ts] keeps=[one version a key] x2
                    exchange hash(auction)
                      filter price > 5.0 x2
                        source public.bids columns=[auction, price, ts] wm x2
                    exchange hash(id)
                      source public.auctions columns=[id, seller, category, ts] wm x2
        ",
    );
}

#[test]
fn every_spelling_is_one_join() {
    let lines = [
        "SELECT b.price FROM bids b ASOF JOIN auctions a MATCH_CONDITION (b.ts >= a.ts) ON b.auction = a.id",
        "SELECT b.price FROM bids b ASOF JOIN auctions a MATCH_CONDITION (a.ts <= b.ts) ON a.id = b.auction",
        "SELECT b.price FROM bids b ASOF INNER JOIN auctions a ON b.auction = a.id AND b.ts >= a.ts",
        "SELECT b.price FROM bids b asof join auctions a ON (b.ts >= a.ts AND b.auction = a.id)",
        "SELECT price FROM (bids b ASOF JOIN auctions a ON b.ts >= a.ts AND b.auction = a.id)",
    ]
    .map(join_line);
    assert_eq!(
        lines[0],
        "asof_join inner on=[auction = id] match=[ts >= ts] keeps=[one version a key]"
    );
    assert!(lines.iter().all(|line| *line == lines[0]), "{lines:?}");
    // What follows the equality in the words of the statement stays one condition.
    assert_eq!(
        join_line(
            "SELECT b.price FROM bids b ASOF JOIN auctions a MATCH_CONDITION (b.ts > a.ts) \
             ON b.auction = a.id AND (a.category = 10 OR b.price > 5)"
        ),
        "asof_join inner on=[auction = id] match=[ts > ts] where=[category = 10 OR price > 5.0] keeps=[one version a key]"
    );
}

#[test]
fn times_may_be_apart_from_event_times() {
    let sql = |condition: &str| {
        format!("SELECT b.price FROM bids b ASOF JOIN auctions a MATCH_CONDITION ({condition}) ON b.auction = a.id")
    };
    let held = |condition: &str| {
        let spec = asof_spec(&sql(condition));
        (spec.ahead_micros, spec.hold_micros)
    };
    assert_eq!(held("b.ts >= a.ts"), (0, 0));
    assert_eq!(held("b.ts - INTERVAL '10 seconds' >= a.ts"), (-10_000_000, 0));
    // A row asks for a version that may still come.
    assert_eq!(held("b.ts + INTERVAL '3 seconds' > a.ts"), (0, 3_000_000));
    assert_eq!(held("b.ts >= a.ts + INTERVAL '2 seconds'"), (0, 0));
    assert_eq!(held("b.ts >= a.ts - INTERVAL '2 seconds'"), (-2_000_000, 2_000_000));
    let windows = asof_spec(
        "SELECT w.n, a.seller FROM (SELECT auction, TUMBLE('1 minute') AS window, count(*) AS n FROM bids GROUP BY 1, 2) w \
         ASOF JOIN auctions a MATCH_CONDITION (w.window.end >= a.ts) ON w.auction = a.id",
    );
    assert_eq!(windows.ahead_micros, 0);
}

#[test]
fn rows_keep_their_event_time_and_window() {
    let joined = "FROM bids b ASOF LEFT JOIN auctions a MATCH_CONDITION (b.ts >= a.ts) ON b.auction = a.id";
    for window in ["TUMBLE(INTERVAL '1 minute')", "TUMBLE(b.ts, INTERVAL '1 minute')"] {
        let text = compiled(&format!("SELECT {window} AS window, count(*) AS n {joined} GROUP BY 1")).physical;
        assert!(text.contains("window_aggregate window=tumble(1 min)"), "{text}");
    }
    // Joined again: by the event time that the rows still have.
    let twice =
        format!("SELECT b.price {joined} ASOF JOIN auctions c MATCH_CONDITION (b.ts >= c.ts) ON b.auction = c.id");
    assert_eq!(compiled(&twice).physical.matches("asof_join").count(), 2);
    let near = "SELECT j.price, c.id FROM (SELECT b.* FROM bids b JOIN auctions FOR SYSTEM_TIME AS OF b.ts AS a ON b.auction = a.id) j \
                JOIN auctions c ON c.ts BETWEEN j.ts - INTERVAL '1 minute' AND j.ts";
    assert!(compiled(near).physical.contains("interval_join"));
}

#[test]
fn kept_versions_are_noticed() {
    let sql =
        "SELECT b.price, a.seller FROM bids b ASOF JOIN auctions a MATCH_CONDITION (b.ts >= a.ts) ON b.auction = a.id";
    let plan = compiled(sql);
    assert!(plan.append_only);
    assert_eq!(
        plan.notices
            .iter()
            .map(|notice| notice.message.as_str())
            .collect::<Vec<_>>(),
        ["the ASOF join on (auction = id) keeps the last version of every key for ever"]
    );
    let without_key = "SELECT b.price, a.seller FROM bids b ASOF JOIN auctions a ON b.ts >= a.ts";
    assert!(compiled(without_key).notices.is_empty());
}

#[test]
fn what_cannot_be_answered_once_is_refused_with_its_place() {
    let refused = |sql: &str, part: &str, at: &str| check_error(sql, "0A000", part, Some(at));
    let asof = |condition: &str| format!("SELECT b.price FROM bids b ASOF JOIN auctions a {condition}");
    for (condition, part, at) in [
        (
            "MATCH_CONDITION (b.ts <= a.ts) ON b.auction = a.id",
            "next row after",
            "b.ts <= a.ts",
        ),
        (
            "MATCH_CONDITION (b.price >= a.id) ON b.auction = a.id",
            "not the event time",
            "b.price >=",
        ),
        (
            "MATCH_CONDITION (b.ts >= b.ts) ON b.auction = a.id",
            "each side",
            "b.ts >= b.ts",
        ),
        ("ON b.auction = a.id", "needs a condition on times", "b.auction = a.id"),
        (
            "ON b.ts >= a.ts AND b.price > a.category",
            "several comparisons",
            "b.price >",
        ),
        ("MATCH_CONDITION (b.ts >= a.ts) USING (ts)", "USING", "auctions a"),
    ] {
        refused(&asof(condition), part, at);
    }
    refused(
        "SELECT 1 FROM bids b ASOF FULL JOIN auctions a ON b.ts >= a.ts",
        "inner or LEFT",
        "auctions a",
    );
    refused(
        "SELECT b.price FROM bids b JOIN auctions FOR SYSTEM_TIME AS OF b.price AS a ON b.auction = a.id",
        "not the event time",
        "b.price AS",
    );
    refused(
        "SELECT b.price FROM bids b JOIN auctions FOR SYSTEM_TIME AS OF b.ts AS a ON b.price > a.category",
        "equality",
        "b.ts AS",
    );
    refused(
        "SELECT price FROM bids FOR SYSTEM_TIME AS OF ts",
        "right side of a join",
        "bids FOR",
    );
    refused(
        "SELECT c.url FROM bids b ASOF JOIN clicks c ON b.ts >= c.at",
        "event time",
        "b.ts >=",
    );
    refused(
        "SELECT c.n FROM bids b ASOF JOIN (SELECT bidder, count(*) AS n, max(ts) AS ts FROM bids GROUP BY 1) c \
         ON b.bidder = c.bidder AND b.ts >= c.ts",
        "right side changes later",
        "b.ts >=",
    );
    refused(
        "SELECT c.n FROM (SELECT bidder, count(*) AS n, max(ts) AS ts FROM bids GROUP BY 1) c ASOF JOIN bids b \
         ON b.bidder = c.bidder AND c.ts >= b.ts",
        "left side changes later",
        "c.ts >=",
    );
}

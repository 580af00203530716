//! Joins and subqueries, and the graphs, errors and notices they give.

use super::*;
use crate::engine::graph::OperatorSpec;
use crate::engine::join_spec::{JoinBound, JoinKind, JoinSpec};

fn graph_of(sql: &str) -> String {
    let plan = compiled_with(&query(sql), Target::Pipeline { oid: Oid(1) }, 2);
    let plan = plan.unwrap_or_else(|error| panic!("{sql}: {error} {:?}", error.hint()));
    explain::graph(&plan.graph).replace(BIDS_TIME, "wm")
}

fn check_graph(sql: &str, expected: &str) {
    let actual = graph_of(sql);
    assert_eq!(actual.trim(), unindented(expected).trim(), "{sql}\n{actual}");
}

/// The line of the only join.
fn join_line(sql: &str) -> String {
    let text = compiled(sql).physical;
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(" on=[")).collect();
    assert_eq!(lines.len(), 1, "{sql}\n{text}");
    lines[0].trim().to_owned()
}

fn join_spec(sql: &str) -> JoinSpec {
    let plan = compiled(sql);
    let mut joins = plan.graph.nodes.iter().filter_map(|node| match &node.operator {
        OperatorSpec::Join(spec) => Some(spec.as_ref().clone()),
        _ => None,
    });
    joins.next_back().unwrap()
}

#[test]
fn both_sides_are_exchanged_by_key() {
    check_graph(
        "SELECT b.price, a.seller FROM bids b JOIN auctions a ON b.auction = a.id WHERE a.category = 10",
        "
        materialize x2
          exchange hash(price, seller)
            project [price, seller] x2
              join inner on=[auction = id] keeps=[all rows] x2
                exchange hash(auction)
                  source public.bids columns=[auction, price] wm x2
                exchange hash(id)
                  project [id, seller] x2
                    filter category = 10 x2
                      source public.auctions columns=[id, seller, category] wm x2
        ",
    );
}

#[test]
fn aggregates_of_one_key_are_joined_where_they_are() {
    let sql = "SELECT * FROM (SELECT bidder, count(*) AS n FROM bids GROUP BY bidder) c \
               JOIN (SELECT seller, count(*) AS m FROM auctions GROUP BY seller) s ON c.bidder = s.seller";
    let plan = compiled(sql);
    assert_eq!(plan.unique_key, ["bidder"]);
    assert!(!plan.append_only);
    let text = graph_of(sql);
    assert!(
        text.starts_with(
            "materialize key=[bidder] x2\n  join inner on=[bidder = seller] keeps=[all rows] x2\n    updating_aggregate"
        ),
        "{text}"
    );
}

#[test]
fn every_spelling_of_a_join_is_one() {
    let line = "join inner on=[auction = id] keeps=[all rows]";
    for sql in [
        "SELECT price FROM bids, auctions WHERE auction = id",
        "SELECT price FROM bids JOIN auctions ON id = auction",
        "SELECT b.price FROM bids b CROSS JOIN auctions a WHERE a.id = b.auction",
        "SELECT b.price FROM bids b JOIN LATERAL (SELECT id FROM auctions WHERE id = b.auction) a ON true",
        "WITH a AS (SELECT id FROM auctions) SELECT price FROM bids JOIN a ON auction = id",
    ] {
        assert_eq!(join_line(sql), line, "{sql}");
    }
    assert_eq!(
        join_line("SELECT b.price FROM bids b LEFT JOIN auctions a ON b.auction = a.id AND a.category > b.bidder"),
        "join left on=[auction = id] where=[CAST(category AS BIGINT) > bidder] keeps=[all rows]"
    );
    assert_eq!(
        join_line("SELECT x.price FROM bids x JOIN bids y ON x.auction + 1 = y.auction"),
        "join inner on=[auction + 1 = auction] keeps=[all rows]"
    );
    assert_eq!(
        join_line("SELECT a.id FROM auctions a JOIN auctions b ON a.id IS NOT DISTINCT FROM b.seller"),
        "join inner on=[id IS NOT DISTINCT FROM seller] keeps=[all rows]"
    );
}

#[test]
fn what_changes_and_what_identifies_rows() {
    let of = |sql: &str| {
        let plan = compiled(sql);
        (plan.append_only, plan.unique_key.join(","))
    };
    let counts = "(SELECT seller, count(*) AS n FROM auctions GROUP BY seller)";
    let sql =
        |join: &str| format!("SELECT b.bidder, s.seller, s.n FROM bids b {join} {counts} s ON b.bidder = s.seller");
    assert_eq!(of(&sql("JOIN")), (false, String::new()));
    let sides = "(SELECT bidder, sum(price) AS p FROM bids GROUP BY bidder) b";
    let sql =
        |join: &str| format!("SELECT b.bidder, b.p, s.seller, s.n FROM {sides} {join} {counts} s ON b.bidder = s.n");
    assert_eq!(of(&sql("JOIN")), (false, "seller".into()));
    assert_eq!(of(&sql("LEFT JOIN")), (false, "bidder,seller".into()));
    assert_eq!(of(&sql("RIGHT JOIN")), (false, "seller".into()));
    assert_eq!(of(&sql("FULL JOIN")), (false, String::new()));
    assert!(compiled("SELECT id FROM auctions WHERE id IN (SELECT auction FROM bids)").append_only);
    assert!(!compiled("SELECT b.price, a.id FROM bids b LEFT JOIN auctions a ON b.auction = a.id").append_only);
}

#[test]
fn equal_windows_bound_the_state() {
    check_graph(
        "SELECT x.auction, y.n FROM per_auction x LEFT JOIN \
         (SELECT seller, tumble('10 s') AS window, count(*) AS n FROM auctions GROUP BY 1, 2) y \
         ON x.window = y.window AND x.auction = y.seller",
        "
        materialize x2
          exchange hash(auction, n)
            project [auction, n] x2
              window_join left on=[window.start, window.end, auction = seller] keeps=[open windows] x2
                exchange hash(start, end, auction)
                  project [auction, window, start, end] x2
                    project [auction, {start: start, end: end}] x2
                      window_aggregate window=tumble(10 s) keys=[auction] aggregates=[count(*)] x2
                        exchange hash(auction)
                          window_aggregate partial aggregates=[count(*)] x2
                            source public.bids columns=[auction] wm x2
                exchange hash(start, end, seller)
                  project [seller, window, n, start, end] x2
                    project [seller, {start: start, end: end}, count(*)] x2
                      window_aggregate window=tumble(10 s) keys=[seller] aggregates=[count(*)] x2
                        exchange hash(seller)
                          window_aggregate partial aggregates=[count(*)] x2
                            source public.auctions columns=[seller] wm x2
        ",
    );
    let windows = |on: &str| {
        format!(
            "SELECT x.auction, y.bids FROM \
             (SELECT auction, window_start, window_end, count(*) AS bids FROM TUMBLE(bids, ts, INTERVAL '10 s') GROUP BY 1, 2, 3) x \
             FULL JOIN (SELECT auction, tumble_start('10 s') AS s, tumble_end('10 s') AS e, count(*) AS bids FROM bids \
             GROUP BY auction, tumble('10 s'), tumble_start('10 s'), tumble_end('10 s')) y ON {on} AND x.auction = y.auction"
        )
    };
    for on in [
        "x.window_start = y.s",
        "x.window_end = y.e",
        "x.window_start = y.s AND y.e = x.window_end",
    ] {
        let plan = compiled(&windows(on));
        assert!(plan.append_only, "{on}");
        assert!(plan.physical.contains("window_join full"), "{on}: {}", plan.physical);
        assert!(plan.notices.is_empty());
    }
    let raw = "SELECT b.auction FROM (SELECT *, tumble(ts, '10 s') AS w FROM bids) b \
               LEFT JOIN (SELECT *, tumble(ts, '10 s') AS w FROM auctions) a ON b.w = a.w AND a.id = b.auction";
    assert_eq!(
        join_line(raw),
        "window_join left on=[w.start, w.end, auction = id] keeps=[open windows]"
    );
}

#[test]
fn times_near_each_other_bound_the_state() {
    let of = |on: &str| {
        join_line(&format!(
            "SELECT b.price, a.id, a.ts FROM bids b JOIN auctions a ON b.auction = a.id AND {on}"
        ))
    };
    let ends = |on: &str| {
        let line = of(on);
        assert!(line.starts_with("interval_join"), "{on}: {line}");
        line.split_once(" keeps=").unwrap().1.to_owned()
    };
    let minute = "INTERVAL '1 minute'";
    assert_eq!(
        ends(&format!("b.ts BETWEEN a.ts - {minute} AND a.ts + INTERVAL '10 s'")),
        "[left 1 min, right 10 s]"
    );
    assert_eq!(
        ends(&format!("b.ts >= a.ts AND b.ts < a.ts + {minute}")),
        "[left 0 s, right 1 min]"
    );
    assert_eq!(
        ends(&format!("b.ts >= a.ts AND b.ts - a.ts < {minute}")),
        "[left 0 s, right 1 min]"
    );
    assert_eq!(
        ends(&format!("b.ts - {minute} <= a.ts AND a.ts <= b.ts")),
        "[left 0 s, right 1 min]"
    );
    assert_eq!(
        ends("b.ts BETWEEN a.ts AND a.expires"),
        "[left 0 s, right until a column says]"
    );
    // One end alone bounds one side alone; months have no fixed length; another column says nothing.
    for on in [
        "b.ts >= a.ts",
        "b.ts >= a.ts AND b.ts < a.ts + INTERVAL '1 month'",
        "b.ts BETWEEN a.expires AND a.expires + INTERVAL '1 s'",
    ] {
        assert!(of(on).starts_with("join inner"), "{on}");
    }
}

#[test]
fn an_interval_join_needs_no_key() {
    let plan = compiled(
        "SELECT b.price, a.id FROM bids b LEFT JOIN auctions a ON b.ts BETWEEN a.ts AND a.ts + INTERVAL '1 s'",
    );
    assert!(plan.append_only && plan.notices.is_empty());
    assert!(plan.physical.contains("interval_join left on=[]"), "{}", plan.physical);
}

#[test]
fn the_watermark_waits_for_rows_without_partner() {
    let hold = |join: &str| {
        let sql = format!(
            "SELECT b.price, a.id FROM bids b {join} auctions a ON b.auction = a.id AND b.ts BETWEEN a.ts - INTERVAL '2 s' AND a.ts + INTERVAL '5 s'"
        );
        match join_spec(&sql).bound {
            JoinBound::Time(time) => time.hold_micros,
            JoinBound::Kept { .. } => panic!("{sql} is not bounded"),
        }
    };
    assert_eq!(
        (hold("JOIN"), hold("LEFT JOIN"), hold("RIGHT JOIN"), hold("FULL JOIN")),
        (0, 2_000_000, 5_000_000, 5_000_000)
    );
}

#[test]
fn windows_survive_joins_on_windows() {
    let joined = "SELECT x.window, x.auction FROM per_auction x JOIN per_auction y ON x.window = y.window AND x.auction = y.bids";
    let again = compiled(&format!("SELECT window, count(*) FROM ({joined}) z GROUP BY window"));
    assert!(again.append_only);
    assert_eq!(again.unique_key, ["window"]);
    assert!(
        again.physical.contains("window_aggregate window=tumble(10 s) keys=[]"),
        "{}",
        again.physical
    );
    let field = compiled(&format!(
        "SELECT z.window.start, count(*) FROM ({joined}) z GROUP BY z.window.start"
    ));
    assert!(field.append_only, "{}", field.physical);
    // Of a join on something else, a window is a value like others.
    let other =
        compiled("SELECT x.window, count(*) FROM per_auction x JOIN auctions y ON x.auction = y.id GROUP BY x.window");
    assert!(!other.append_only);
    assert!(
        other
            .physical
            .contains("updating_aggregate keys=[window.start, window.end]"),
        "{}",
        other.physical
    );
    // A row without partner has no window of the other side.
    let padded = compiled(
        "SELECT window, count(*) FROM (SELECT y.window FROM per_auction x LEFT JOIN per_auction y \
         ON x.window = y.window AND x.auction = y.bids) z GROUP BY window",
    );
    assert!(padded.physical.contains("updating_aggregate"), "{}", padded.physical);
}

#[test]
fn hopping_windows_and_sessions_join_too() {
    for window in [
        "hop(interval '2 seconds', interval '10 seconds')",
        "session(interval '5 seconds')",
    ] {
        let side = |key: &str, table: &str| {
            format!("(SELECT {key} AS k, {window} AS window, count(*) AS n FROM {table} GROUP BY 1, 2)")
        };
        let (bids, auctions) = (side("bidder", "bids"), side("seller", "auctions"));
        let joined =
            format!("SELECT x.k, x.window, x.n FROM {bids} x JOIN {auctions} y ON x.window = y.window AND x.k = y.k");
        let plan = compiled(&joined);
        assert!(
            plan.append_only && plan.notices.is_empty(),
            "{window}: {}",
            plan.physical
        );
        assert!(
            plan.physical.contains("window_join inner"),
            "{window}: {}",
            plan.physical
        );
        let again = compiled(&format!("SELECT window, sum(n) FROM ({joined}) j GROUP BY window"));
        assert!(again.append_only, "{window}: {}", again.physical);
    }
}

#[test]
fn joined_rows_have_the_later_time() {
    let plan =
        compiled("SELECT tumble('10 s') AS w, count(*) FROM bids b JOIN auctions a ON b.auction = a.id GROUP BY w");
    assert!(plan.append_only);
    check_error(
        "SELECT tumble(b.ts, '10 s') AS w, count(*) FROM bids b JOIN auctions a ON b.auction = a.id GROUP BY w",
        "0A000",
        "TUMBLE(size)",
        None,
    );
    check_error(
        "SELECT tumble('10 s') AS w, count(*) FROM bids b LEFT JOIN auctions a ON b.auction = a.id GROUP BY w",
        "0A000",
        "event time",
        None,
    );
}

#[test]
fn subqueries_become_joins() {
    let kinds = [
        (
            "auction IN (SELECT id FROM auctions)",
            "join semi on=[auction = id] keeps=[all rows]",
        ),
        (
            "EXISTS (SELECT 1 FROM auctions a WHERE a.id = auction AND a.seller > bidder)",
            "join semi on=[auction = id] where=[seller > bidder] keeps=[all rows]",
        ),
        (
            "NOT EXISTS (SELECT 1 FROM auctions a WHERE a.id = auction)",
            "join anti on=[auction = id] keeps=[all rows]",
        ),
        (
            "auction IS NOT NULL AND auction NOT IN (SELECT id FROM auctions WHERE id IS NOT NULL)",
            "join anti on=[auction = id] keeps=[all rows]",
        ),
        (
            "price > 5 OR EXISTS (SELECT 1 FROM auctions a WHERE a.id = auction)",
            "join mark on=[auction = id] keeps=[all rows]",
        ),
        (
            "price > (SELECT avg(price) FROM bids)",
            "join inner on=[] where=[price > avg] keeps=[all rows]",
        ),
        (
            "price > (SELECT avg(price) FROM bids i WHERE i.auction = bids.auction)",
            "join inner on=[auction] where=[price > avg] keeps=[all rows]",
        ),
    ];
    for (condition, line) in kinds {
        assert_eq!(
            join_line(&format!("SELECT price FROM bids WHERE {condition}")),
            line,
            "{condition}"
        );
    }
    assert_eq!(
        join_line("SELECT auction, (SELECT max(seller) FROM auctions a WHERE a.id = b.auction) FROM bids b"),
        "join left on=[auction = id] keeps=[all rows]"
    );
    let semi = join_spec("SELECT id FROM auctions INTERSECT SELECT auction FROM bids");
    assert_eq!((semi.kind.word(), semi.null_equal.as_slice()), ("semi", &[true][..]));
    let except = join_spec("SELECT id FROM auctions EXCEPT SELECT auction FROM bids");
    assert!(matches!(except.kind, JoinKind::Anti(_)));
}

#[test]
fn several_joins_share_sources() {
    let plan = compiled(
        "SELECT a.id, b.price, c.url FROM auctions a JOIN bids b ON a.id = b.auction LEFT JOIN clicks c ON c.url = b.channel \
         JOIN bids d ON d.bidder = a.seller",
    );
    let count = |name: &str| {
        plan.graph
            .nodes
            .iter()
            .filter(|node| node.operator.name() == name)
            .count()
    };
    assert_eq!((count("join"), count("source")), (3, 3), "{}", plan.physical);
}

#[test]
fn joins_that_cannot_be_continuous_say_what_works() {
    let hint = "Join ON a.column = b.column";
    for sql in [
        "SELECT * FROM bids, clicks",
        "SELECT * FROM bids b JOIN clicks c ON true",
        "SELECT b.price FROM bids b JOIN auctions a ON b.price > a.id",
        "SELECT b.price FROM bids b WHERE EXISTS (SELECT 1 FROM auctions a WHERE a.seller > b.bidder)",
        "SELECT b.price FROM bids b WHERE price > (SELECT seller FROM auctions)",
    ] {
        check_error(sql, "0A000", hint, None);
    }
    for sql in [
        "SELECT ts FROM bids RIGHT JOIN auctions USING (ts)",
        "SELECT price FROM bids NATURAL FULL JOIN auctions",
        "SELECT * FROM bids LEFT JOIN auctions USING (ts)",
    ] {
        check_error(sql, "0A000", "USING and NATURAL", Some("auctions"));
    }
    compiled("SELECT ts, price FROM bids LEFT JOIN auctions USING (ts)");
    check_error(
        "SELECT auction FROM bids WHERE auction NOT IN (SELECT id FROM auctions)",
        "0A000",
        "NOT EXISTS",
        None,
    );
}

#[test]
fn joins_without_bound_are_noticed() {
    let messages =
        |sql: &str| -> Vec<String> { compiled(sql).notices.into_iter().map(|notice| notice.message).collect() };
    assert_eq!(
        messages("SELECT b.price FROM bids b JOIN auctions a ON b.auction = a.id"),
        ["the join on (auction = id) keeps every row of both sides for ever"]
    );
    assert!(messages("SELECT l.line FROM logs l JOIN logs m ON l.level = m.level").is_empty());
    let settings = Settings {
        updating_ttl_ms: Some(3_600_000),
        ..Settings::default()
    };
    let sql = "SELECT b.price FROM bids b JOIN auctions a ON b.auction = a.id";
    let plan = compile(&query(sql), Target::Validate, &snapshot(), &settings).unwrap();
    assert!(plan.notices.is_empty());
    assert!(plan.physical.contains("keeps=[rows for 1 h]"), "{}", plan.physical);
}

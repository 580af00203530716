//! Which filters make a ranking, and what is known of its result.

use super::*;

/// The line of the only ranking of `SELECT {columns} FROM (.. row_number() .. AS n ..) WHERE {condition}`.
fn ranking(columns: &str, condition: &str) -> (String, Compiled) {
    let sql = format!(
        "SELECT {columns} FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC) AS n FROM bids) x \
         WHERE {condition}"
    );
    let plan = compiled(&sql);
    let lines: Vec<&str> = plan.physical.lines().filter(|line| line.contains("top_n")).collect();
    assert_eq!(lines.len(), 1, "{sql}\n{}", plan.physical);
    (lines[0].trim().to_owned(), plan)
}

#[test]
fn constant_bounds_make_a_ranking() {
    for (condition, bounds) in [
        ("n <= 3", "top_n row_number() <= 3 "),
        ("n < 4", "top_n row_number() <= 3 "),
        ("3 >= n AND price > 7", "top_n row_number() <= 3 "),
        ("4::BIGINT > n", "top_n row_number() <= 3 "),
        ("n <= 3 AND n < 7", "top_n row_number() <= 3 "),
        ("n = 1", "top_n row_number() = 1 "),
        ("n < 2", "top_n row_number() = 1 "),
        ("n = 2", "top_n row_number() = 2 "),
        ("n IN (2)", "top_n row_number() = 2 "),
        ("n BETWEEN 2 AND 4", "top_n row_number() between 2 and 4 "),
        ("n > 1 AND NOT n > 4", "top_n row_number() between 2 and 4 "),
    ] {
        let (line, _) = ranking("auction, price", condition);
        assert!(line.starts_with(bounds), "{condition}: {line}");
        assert!(line.contains("rank=hidden"), "{condition}: {line}");
    }
}

#[test]
fn other_conditions_do_not() {
    for condition in [
        "n >= 3",
        "n <> 3",
        "n <= 3 OR n = 5",
        "n < price",
        "n % 2 = 0",
        "n + 1 < 4",
    ] {
        let sql = format!(
            "SELECT auction FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price) AS n FROM bids) x \
             WHERE {condition}"
        );
        check_error(&sql, "0A000", "WHERE rank <= 10", None);
    }
}

#[test]
fn the_key_of_a_ranking_is_known() {
    let (line, plan) = ranking("auction, price", "n = 1");
    assert!(line.contains("keeps=[1 row of each key]"), "{line}");
    assert_eq!(
        (plan.unique_key.as_slice(), plan.append_only),
        (&["auction".to_owned()][..], false)
    );
    let (line, plan) = ranking("n, auction, price", "n <= 2");
    assert!(line.contains("rank=shown"), "{line}");
    assert_eq!(plan.unique_key, ["auction", "n"]);
    assert!(ranking("auction, price", "n <= 2").1.unique_key.is_empty());
}

#[test]
fn rows_of_a_key_meet() {
    let plan = compiled_with(
        &query("SELECT DISTINCT ON (auction) auction, price FROM bids ORDER BY auction, price"),
        Target::Pipeline { oid: Oid(1) },
        2,
    );
    let text = explain::graph(&plan.unwrap().graph);
    let exchanges: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("exchange"))
        .collect();
    assert_eq!(exchanges, ["exchange hash(auction)"], "{text}");
}

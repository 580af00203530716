//! ASOF joins on scripts: which version is found, what comes out when, what is kept, what is late.

use crate::engine::asof_spec::AsofJoinSpec;
use crate::testing::asof_specs::{KEY, asof, asof_harness, with_residual};
use crate::testing::operator_harness::lines;

fn inner() -> AsofJoinSpec {
    asof(&[KEY], false)
}

fn outer() -> AsofJoinSpec {
    asof(&[KEY], true)
}

#[test]
fn rows_get_the_version_of_their_time_when_the_watermark_has_passed_them() {
    let mut harness = asof_harness(outer());
    let text = harness.run(
        "L+ 20 20 1 100
         L+ 10 10 1 101
         R+ 15 15 1 7
         R+ 5 5 1 6
         R+ 20 20 2 9
         L+ 20 20 2 102
         L+ 12 12 3 103
         W 20
         R+ 20 20 1 8
         L+ 30 30 1 104
         W 21
         W 31
         E",
    );
    assert_eq!(
        text,
        lines(
            "+ 1 101 5 6
             + 3 103 null null
             W 20
             + 1 100 20 8
             + 2 102 20 9
             W 21
             + 1 104 20 8
             W 31"
        )
    );
    assert_eq!(harness.operator().state_size().rows, 0);
}

#[test]
fn a_version_of_the_same_moment_may_be_too_late() {
    let mut harness = asof_harness(AsofJoinSpec {
        at_same_time: false,
        ..outer()
    });
    let text = harness.run(
        "R+ 10 10 1 6
         R+ 20 20 1 7
         L+ 10 10 1 100
         L+ 20 20 1 101
         L+ 21 21 1 102
         E",
    );
    assert_eq!(text, lines("+ 1 100 null null\n+ 1 101 10 6\n+ 1 102 20 7"));
}

#[test]
fn without_a_version_an_inner_join_shows_nothing() {
    let mut harness = asof_harness(inner());
    let text = harness.run(
        "R+ 10 10 1 6
         L+ 9 9 1 100
         L+ 10 10 1 101
         L+ 10 10 2 102
         L+ 11 11 null 103
         R+ 5 5 null 9
         W 20
         E",
    );
    assert_eq!(text, lines("+ 1 101 10 6\nW 20"));
}

#[test]
fn null_keys_match_only_where_they_are_equal() {
    let script = "R+ 10 10 null 6
         L+ 11 11 null 100
         E";
    assert_eq!(asof_harness(outer()).run(script), lines("+ null 100 null null"));
    let mut harness = asof_harness(AsofJoinSpec {
        null_equal: vec![true],
        ..inner()
    });
    assert_eq!(harness.run(script), lines("+ null 100 10 6"));
}

#[test]
fn of_versions_of_one_moment_the_greatest_counts() {
    for versions in [[7, 9, 8], [9, 8, 7], [8, 7, 9]] {
        let mut harness = asof_harness(inner());
        let mut script = String::new();
        for version in versions {
            script.push_str(&format!("R+ 10 10 1 {version}\n"));
            script.push_str("R+ 10 10 2 5\nL+ 9 9 1 0\n");
        }
        script.push_str("L+ 10 10 1 100\nL+ 12 12 2 101\nW 15\nL+ 16 16 1 102\nE");
        let text = harness.run(&script);
        assert_eq!(
            text,
            lines("+ 1 100 10 9\n+ 2 101 10 5\nW 15\n+ 1 102 10 9"),
            "{versions:?}"
        );
    }
}

#[test]
fn a_version_that_does_not_satisfy_the_condition_is_no_reason_to_look_for_another() {
    let script = "R+ 10 10 1 200
         R+ 20 20 1 50
         L+ 15 15 1 100
         L+ 25 25 1 101
         E";
    let mut harness = asof_harness(with_residual(outer()));
    assert_eq!(harness.run(script), lines("+ 1 100 10 200\n+ 1 101 null null"));
    let mut harness = asof_harness(with_residual(inner()));
    assert_eq!(harness.run(script), lines("+ 1 100 10 200"));
}

#[test]
fn one_version_a_key_is_kept_and_survives_a_restart() {
    let mut harness = asof_harness(inner());
    harness.run(
        "R+ 10 10 1 6
         R+ 11 11 1 7
         R+ 12 12 1 8
         R+ 12 12 2 5
         R+ 30 30 1 9
         L+ 30 30 1 100
         C 1
         W 20
         C 2",
    );
    assert_eq!(harness.operator().state_size().rows, 4);
    let text = harness.run(
        "R
         W 20
         L+ 25 25 1 101
         L+ 25 25 2 102
         L+ 19 19 1 103
         W 40
         C 3",
    );
    assert_eq!(text, lines("W 20\n+ 1 101 12 8\n+ 2 102 12 5\n+ 1 100 30 9\nW 40"));
    assert_eq!(harness.operator().late_rows(), 1);
    assert_eq!(harness.operator().state_size().rows, 2);
    // What was answered does not come again.
    assert_eq!(harness.run("R\nW 41\nL+ 50 50 1 104\nE"), lines("W 41\n+ 1 104 30 9"));
}

#[test]
fn late_rows_and_rows_without_a_time_are_counted_and_change_nothing() {
    let mut harness = asof_harness(outer());
    let text = harness.run(
        "R+ 10 10 1 6
         W 20
         R+ 15 15 1 7
         L+ 19 19 1 100
         L+ 30 null 1 101
         L+ 20 20 1 102
         E",
    );
    assert_eq!(text, lines("W 20\n+ 1 102 10 6"));
    assert_eq!(harness.operator().late_rows(), 3);
}

#[test]
fn with_a_ttl_a_version_answers_for_that_long() {
    let mut harness = asof_harness(AsofJoinSpec {
        ttl_micros: Some(10),
        ..outer()
    });
    let text = harness.run(
        "R+ 10 10 1 6
         R+ 15 15 2 7
         L+ 20 20 1 100
         L+ 21 21 1 101
         L+ 21 21 2 102
         W 23",
    );
    assert_eq!(text, lines("+ 1 100 10 6\n+ 1 101 null null\n+ 2 102 15 7\nW 23"));
    assert_eq!(harness.operator().state_size().rows, 1, "the other is forgotten");
    assert_eq!(
        harness.run("R+ 24 24 1 8\nL+ 25 25 1 103\nL+ 26 26 2 104\nE"),
        lines("+ 1 103 24 8\n+ 2 104 null null")
    );
}

#[test]
fn times_apart_from_the_event_time_hold_the_watermark_back() {
    // Rows ask for the version of 5 later than themselves.
    let mut harness = asof_harness(AsofJoinSpec {
        hold_micros: 5,
        ..inner()
    });
    let text = harness.run(
        "L+ 10 15 1 100
         R+ 9 9 1 6
         W 14
         R+ 14 14 1 7
         W 15
         W 16
         E",
    );
    assert_eq!(text, lines("W 9\nW 10\n+ 1 100 14 7\nW 11"));
}

#[test]
fn all_rows_have_one_key_when_there_is_none() {
    let mut harness = asof_harness(asof(&[], false));
    let text = harness.run(
        "R+ 10 10 1 6
         L+ 12 12 2 100
         E",
    );
    assert_eq!(text, lines("+ 2 100 10 6"));
}

//! Joins as scripts: each kind, NULL keys, retractions, bounds by time and by age, output in steps.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::logical_expr::Operator as Comparison;

use crate::clock::ManualClock;
use crate::engine::join_spec::{JoinBound, JoinKind, JoinSpec, Moment, RowMoments, Side, TimeBound, TimeShape};
use crate::testing::aggregate_specs::{context, context_with_clock, schema};
use crate::testing::join_harness::{JoinHarness, join, residual};
use crate::testing::operator_harness::{lines, sorted};

const INT: DataType = DataType::Int64;
const TIME: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

fn two_columns() -> SchemaRef {
    schema(&[("k", INT), ("v", INT)])
}

fn kept(kind: JoinKind) -> JoinHarness {
    JoinHarness::new(join(kind, &two_columns(), 0), None, context(0, 1))
}

fn check(harness: &mut JoinHarness, script: &str, expected: &str) {
    let actual = harness.run(script);
    assert_eq!(sorted(&actual), sorted(&lines(expected)), "{script}\ngave\n{actual}");
}

#[test]
fn inner_pairs_come_at_once_with_the_product_of_weights() {
    let mut inner = kept(JoinKind::Inner);
    check(&mut inner, "L+ 1 10\nL+ 2 20", "");
    check(
        &mut inner,
        "R+ 1 100\nR+2 1 200\nR+ 3 300",
        "+ 1 10 1 100\n+2 1 10 1 200",
    );
    check(&mut inner, "L-1 1 10", "- 1 10 1 100\n-2 1 10 1 200");
    check(&mut inner, "R+ 2 7\nB 1", "+ 2 20 2 7");
    assert_eq!(inner.operator().state_size().rows, 5);
}

#[test]
fn a_left_join_shows_nulls_only_of_rows_without_partner_at_the_barrier() {
    let mut left = kept(JoinKind::Left);
    check(&mut left, "L+ 1 10\nL+ 2 20", "");
    check(&mut left, "R+ 1 100", "+ 1 10 1 100");
    check(&mut left, "B 1", "+ 2 20 null null");
    check(&mut left, "R+ 2 200", "+ 2 20 2 200");
    check(&mut left, "B 2", "- 2 20 null null");
    check(&mut left, "R- 2 200\nR+ 2 201\nB 3", "- 2 20 2 200\n+ 2 20 2 201");
    check(&mut left, "R- 2 201\nB 4", "- 2 20 2 201\n+ 2 20 null null");
    check(&mut left, "L- 2 20\nB 5", "- 2 20 null null");
}

#[test]
fn a_full_join_shows_both_sides() {
    let mut full = kept(JoinKind::Full);
    check(
        &mut full,
        "L+ 1 10\nR+ 2 200\nB 1",
        "+ 1 10 null null\n+ null null 2 200",
    );
    check(&mut full, "R+ 1 100\nL+ 2 20", "+ 1 10 1 100\n+ 2 20 2 200");
    check(&mut full, "B 2", "- 1 10 null null\n- null null 2 200");
}

#[test]
fn null_keys_have_no_partner() {
    let mut full = kept(JoinKind::Full);
    check(
        &mut full,
        "L+ null 10\nR+ null 100\nB 1",
        "+ null 10 null null\n+ null null null 100",
    );
    check(&mut full, "L- null 10", "- null 10 null null");
    assert_eq!(full.operator().state_size().rows, 0);
    let mut spec = join(JoinKind::Inner, &two_columns(), 0);
    spec.null_equal = vec![true];
    let mut equal = JoinHarness::new(spec, None, context(0, 1));
    check(&mut equal, "L+ null 10\nR+ null 100", "+ null 10 null 100");
}

#[test]
fn semi_anti_and_mark_follow_the_other_side() {
    let side = Side::Left;
    let mut semi = kept(JoinKind::Semi(side));
    check(&mut semi, "L+ 1 10\nR+ 1 100\nR+ 1 101\nB 1", "+ 1 10");
    check(&mut semi, "R- 1 100\nB 2", "");
    check(&mut semi, "R- 1 101\nB 3", "- 1 10");
    let mut anti = kept(JoinKind::Anti(side));
    check(&mut anti, "L+ 1 10\nL+ null 5\nB 1", "+ null 5\n+ 1 10");
    check(&mut anti, "R+ 1 100\nB 2", "- 1 10");
    check(&mut anti, "R- 1 100\nB 3", "+ 1 10");
    let mut mark = kept(JoinKind::Mark(side));
    check(&mut mark, "L+ 1 10\nB 1", "+ 1 10 false");
    check(&mut mark, "R+ 1 100\nB 2", "- 1 10 false\n+ 1 10 true");
}

#[test]
fn a_semi_join_of_growing_inputs_does_not_wait() {
    let mut spec = join(JoinKind::Semi(Side::Left), &two_columns(), 0);
    spec.inputs[0].append_only = true;
    spec.inputs[1].append_only = true;
    let mut semi = JoinHarness::new(spec, None, context(0, 1));
    check(&mut semi, "L+ 1 10\nL+ 2 20\nR+ 1 100", "+ 1 10");
    check(&mut semi, "R+ 1 101\nR+ 1 102\nL+ 1 11\nB 1", "+ 1 11");
    check(&mut semi, "C 2\nR\nR+ 2 200\nR+ 1 103", "+ 2 20");
}

#[test]
fn the_residual_decides_about_partners() {
    let mut spec = join(JoinKind::Left, &two_columns(), 0);
    spec.residual = Some(residual(&two_columns(), 1, Comparison::Lt, 1));
    let mut left = JoinHarness::new(spec, None, context(0, 1));
    check(&mut left, "L+ 1 10\nR+ 1 5\nR+ 1 15\nB 1", "+ 1 10 1 15");
    check(&mut left, "R- 1 15\nB 2", "- 1 10 1 15\n+ 1 10 null null");
}

#[test]
fn what_comes_and_goes_between_barriers_says_nothing() {
    let mut left = kept(JoinKind::Left);
    check(&mut left, "L+ 1 10\nL- 1 10\nB 1", "");
    assert_eq!(left.operator().state_size().rows, 0);
    // A retraction may overtake its row.
    check(&mut left, "L- 1 10\n\nL+ 1 10\nB 2", "");
    check(
        &mut left,
        "R+ 1 5\nL+ 1 10\nB 3\nL- 1 10\nB 4",
        "+ 1 10 1 5\n- 1 10 1 5",
    );
}

#[test]
fn without_keys_every_row_meets_every_row() {
    let mut spec = join(JoinKind::Left, &two_columns(), 0);
    for input in &mut spec.inputs {
        input.keys.clear();
    }
    spec.null_equal.clear();
    spec.residual = Some(residual(&two_columns(), 1, Comparison::Gt, 1));
    let mut cross = JoinHarness::new(spec, None, context(0, 1));
    check(
        &mut cross,
        "L+ 1 10\nL+ 2 20\nR+ 0 15\nC 1",
        "+ 2 20 0 15\n+ 1 10 null null",
    );
    check(
        &mut cross,
        "R\nR- 0 15\nR+ 0 5\nC 2",
        "- 2 20 0 15\n+ 1 10 0 5\n+ 2 20 0 5\n- 1 10 null null",
    );
    check(&mut cross, "R\nL- 1 10\nB 3", "- 1 10 0 5");
}

#[test]
fn a_moment_has_several_rows() {
    let mut full = JoinHarness::new(
        interval(join(JoinKind::Full, &timed(), 1), 0, 0),
        Some(0),
        context(0, 1),
    );
    check(&mut full, "L+ 7 1\nL+ 7 1\nL+ 7 2\nR+ 7 1\nR+ 7 3", "+2 7 1 7 1");
    check(&mut full, "W 7", "W 7");
    check(&mut full, "W 8", "+ 7 2 null null\n+ null null 7 3\nW 8");
    check(&mut full, "R+ 7 2\nE", "");
    assert_eq!(full.operator().late_rows(), 1);
}

#[test]
fn snapshots_hold_what_changed_and_restore() {
    let mut full = kept(JoinKind::Full);
    full.run("L+ 1 10\nL+ 2 20\nR+ 2 200\nC 1");
    assert_eq!(full.state.rows("left") + full.state.rows("right"), 3);
    full.run("L- 1 10\nL+ 3 30\nC 2");
    // A tombstone and a new row; the others did not change.
    assert_eq!(full.state.rows("left"), 4);
    assert_eq!(full.state.rows("right"), 1);
    check(&mut full, "R\nL- 2 20\nB 3", "- 2 20 2 200\n+ null null 2 200");
    check(
        &mut full,
        "R+ 1 1\nR+ 3 3\nB 4",
        "+ null null 1 1\n+ 3 30 3 3\n- 3 30 null null",
    );
}

#[test]
fn many_matches_come_in_steps() {
    let mut inner = kept(JoinKind::Inner);
    let rows = |side: &str, count: usize| (0..count).map(|row| format!("{side}+ 1 {row}\n")).collect::<String>();
    inner.run(&rows("L", 300));
    inner.steps = 0;
    let out = inner.run(&rows("R", 300));
    assert_eq!(out.lines().count(), 90_000);
    assert!(inner.steps >= 10, "{}", inner.steps);
}

#[test]
fn old_rows_are_forgotten_in_silence() {
    let clock = Arc::new(ManualClock::at(0));
    let mut spec = join(JoinKind::Left, &two_columns(), 0);
    spec.bound = JoinBound::Kept { ttl_ms: Some(1000) };
    let shared: Arc<ManualClock> = Arc::clone(&clock);
    let mut left = JoinHarness::new(spec, None, context_with_clock(0, 1, shared));
    check(&mut left, "L+ 1 10\nR+ 1 100\nC 1", "+ 1 10 1 100");
    clock.advance_micros(600_000);
    check(&mut left, "R+ 1 101\nC 2", "+ 1 10 1 101");
    clock.advance_micros(600_000);
    check(&mut left, "B 3", "");
    assert_eq!(left.operator().state_size().rows, 1);
    check(&mut left, "C 4\nR\nL+ 1 11\nB 5", "+ 1 11 1 101");
    // What is left of a forgotten row is taken back from partners that are still known, and does not stay.
    check(&mut left, "L- 1 10\nB 6\nB 7", "- 1 10 1 101");
    check(&mut left, "R+ 1 102\nB 8", "+ 1 11 1 102");
}

/// `r.t BETWEEN l.t - before AND l.t + after`, both times being event time.
pub(super) fn interval(mut spec: JoinSpec, before: i64, after: i64) -> JoinSpec {
    let moments = |span: i64| RowMoments {
        done: Moment {
            column: 0,
            offset_micros: span + 1,
        },
        late: Moment {
            column: 0,
            offset_micros: 1,
        },
    };
    let hold = Side::BOTH.map(|side| match (spec.kind.counts(side), side) {
        (false, _) => 0,
        (true, Side::Left) => after,
        (true, Side::Right) => before,
    });
    spec.bound = JoinBound::Time(TimeBound {
        shape: TimeShape::Interval,
        rows: [moments(after), moments(before)],
        hold_micros: hold[0].max(hold[1]).max(0),
    });
    for input in &mut spec.inputs {
        input.append_only = true;
    }
    spec
}

fn timed() -> SchemaRef {
    schema(&[("t", TIME), ("k", INT)])
}

#[test]
fn rows_bounded_by_time_are_shown_once_and_forgotten() {
    let mut spec = interval(join(JoinKind::Left, &timed(), 1), 5, 10);
    // The bounds themselves are part of the condition; here only the upper one is needed.
    spec.residual = None;
    let mut left = JoinHarness::new(spec, Some(0), context(0, 1));
    check(&mut left, "L+ 100 1\nL+ 101 2\nB 1\nR+ 105 1", "+ 100 1 105 1");
    check(&mut left, "W 110", "W 100");
    check(&mut left, "W 111", "W 101");
    check(&mut left, "C 2\nR\nW 112", "+ 101 2 null null\nW 102");
    assert_eq!(left.operator().state_size().rows, 0);
    // Late: before the watermark.
    check(&mut left, "L+ 111 3\nL+ 112 4\nE", "+ 112 4 null null");
    assert_eq!(left.operator().late_rows(), 1);
}

#[test]
fn a_bounded_row_without_a_time_has_no_partner() {
    let mut left = JoinHarness::new(interval(join(JoinKind::Left, &timed(), 1), 5, 10), None, context(0, 1));
    check(&mut left, "W 50\nL+ null 1\nR+ null 1", "W 40\n+ null 1 null null");
    assert_eq!(left.operator().late_rows(), 0);
}

#[test]
fn rows_are_not_kept_for_an_input_that_has_ended() {
    let mut inner = kept(JoinKind::Inner);
    check(&mut inner, "L+ 1 10\nR+ 1 100\nR+ 2 200", "+ 1 10 1 100");
    check(&mut inner, "C 1\nX R", "");
    assert_eq!(inner.operator().state_size().rows, 2);
    check(&mut inner, "L+ 2 20\nL+ 3 30\nL- 1 10", "+ 2 20 2 200\n- 1 10 1 100");
    assert_eq!(inner.operator().state_size().rows, 2);
    // The checkpoint may still have them; they go again when that input ends again.
    check(&mut inner, "C 2\nR\nX R\nL+ 2 21", "+ 2 21 2 200");
    assert_eq!(inner.operator().state_size().rows, 2);
}

#[test]
fn rows_without_partner_are_shown_at_once_when_no_partner_can_come() {
    let mut full = kept(JoinKind::Full);
    check(&mut full, "L+ 1 10\nL+ 5 50\nR+ 1 100\nR+ 2 200", "+ 1 10 1 100");
    check(&mut full, "C 1", "+ 5 50 null null\n+ null null 2 200");
    check(&mut full, "L+ 6 60", "");
    check(&mut full, "X R", "+ 6 60 null null");
    check(
        &mut full,
        "L+ 2 20\nL+ 7 70\nL- 5 50",
        "+ 2 20 2 200\n+ 7 70 null null\n- 5 50 null null",
    );
    check(&mut full, "C 2", "- null null 2 200");
    // Nothing is shown again after a restart.
    check(&mut full, "R\nX R\nC 3", "");
    check(&mut full, "L- 2 20\nB 4", "- 2 20 2 200\n+ null null 2 200");

    let mut mark = kept(JoinKind::Mark(Side::Left));
    check(
        &mut mark,
        "R+ 1 100\nX R\nL+ 1 10\nL+ 2 20",
        "+ 1 10 true\n+ 2 20 false",
    );
    let mut anti = kept(JoinKind::Anti(Side::Right));
    check(&mut anti, "L+ 1 10\nX L\nR+ 1 100\nR+ 2 200", "+ 2 200");
}

#[test]
fn rows_bounded_by_time_are_shown_when_the_other_input_ends() {
    let mut spec = interval(join(JoinKind::Left, &timed(), 1), 5, 10);
    spec.residual = None;
    let mut left = JoinHarness::new(spec, Some(0), context(0, 1));
    check(&mut left, "L+ 100 1\nL+ 101 2\nR+ 105 1\nC 1", "+ 100 1 105 1");
    check(&mut left, "X R", "+ 101 2 null null");
    check(&mut left, "L+ 103 1\nL+ 104 3", "+ 103 1 105 1\n+ 104 3 null null");
    check(&mut left, "C 2\nR\nX R\nW 1000\nE", "W 990");
}

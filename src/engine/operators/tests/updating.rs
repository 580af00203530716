//! The updating aggregate as scripts.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::functions_aggregate::{array_agg, median, percentile_cont, stddev};
use datafusion::scalar::ScalarValue;

use crate::clock::ManualClock;
use crate::engine::graph::{AggregateFunction as F, AggregateSpec, OperatorSpec};
use crate::engine::operators::tests::updating::kinds::every_kind;
use crate::error::{Report, SqlState};
use crate::testing::aggregate_specs::{
    aggregate, call, context_with_clock, distinct, filtered, other, result_schema, schema, shape, updating_harness,
};
use crate::testing::operator_harness::{Harness, lines, sorted};

const INT: DataType = DataType::Int64;

fn key_and_value() -> arrow::datatypes::SchemaRef {
    schema(&[("k", DataType::Int64), ("v", DataType::Int64)])
}

fn count_and_sum(append_only: bool) -> AggregateSpec {
    let calls = vec![call(F::CountRows, &[], INT), call(F::Sum, &[1], INT)];
    aggregate(&[0], calls, append_only)
}

#[test]
fn changes_come_at_barriers_as_old_and_new() {
    let mut harness = updating_harness(count_and_sum(true), &key_and_value());
    assert_eq!(harness.run("+ 1 4\n+ 1 5\n+ 2 null\n"), "");
    assert_eq!(harness.run("B 1"), lines("+ 1 2 9\n+ 2 1 null"));
    assert_eq!(harness.run("B 2"), "");
    assert_eq!(harness.run("+ 1 1\n\n+ 1 1\nB 3"), lines("- 1 2 9\n+ 1 4 11"));
    assert_eq!(harness.run("+ 2 7\nE"), lines("- 2 1 null\n+ 2 2 7"));
    assert_eq!(harness.run("B 4"), "");
}

#[test]
fn the_last_row_takes_the_group_along() {
    let mut harness = updating_harness(count_and_sum(false), &key_and_value());
    harness.run("+ 1 4\n+ 2 5\nC 1");
    assert_eq!(harness.run("- 1 4\nB 2"), lines("- 1 1 4"));
    // Back before the next checkpoint, and another that no checkpoint ever saw.
    assert_eq!(harness.run("+ 1 6\n+ 3 1\n- 3 1\nB 3"), lines("+ 1 1 6"));
    assert_eq!(harness.run("- 2 5\nC 4"), lines("- 2 1 5"));
    assert_eq!(
        harness.run("R\n+ 1 1\n+ 2 9\nB 5"),
        lines("- 1 1 6\n+ 2 1 9\n+ 1 2 7").replace("+ 2 1 9\n+ 1 2 7", "+ 1 2 7\n+ 2 1 9")
    );
}

#[test]
fn an_update_that_changes_nothing_says_nothing() {
    let mut harness = updating_harness(count_and_sum(false), &key_and_value());
    harness.run("+ 1 4\nB 1");
    assert_eq!(harness.run("- 1 4\n+ 1 3\n+ 1 1\n- 1 0\nB 2"), "");
}

#[test]
fn a_global_aggregate_has_one_row_from_the_start() {
    let mut spec = count_and_sum(false);
    spec.keys.clear();
    let mut harness = updating_harness(spec, &key_and_value());
    assert_eq!(harness.run("B 1"), lines("+ 0 null"));
    assert_eq!(harness.run("C 2\nR\nB 3"), "");
    assert_eq!(harness.run("+ 1 5\nB 4"), lines("- 0 null\n+ 1 5"));
    assert_eq!(harness.run("- 1 5\nC 5"), lines("- 1 5\n+ 0 null"));
    assert_eq!(harness.run("R\nE"), "");
}

#[test]
fn no_aggregates_is_distinct() {
    let mut harness = updating_harness(aggregate(&[0, 1], vec![], false), &key_and_value());
    assert_eq!(harness.run("+ 1 1\n+ 1 1\n+ null 2\nB 1"), lines("+ 1 1\n+ null 2"));
    assert_eq!(harness.run("- 1 1\n+ null 2\nB 2"), "");
    assert_eq!(harness.run("- 1 1\nB 3"), lines("- 1 1"));
}

#[test]
fn distinct_arguments_count_once_and_survive() {
    let calls = vec![
        distinct(call(F::Count, &[1], INT)),
        distinct(call(F::Sum, &[1], INT)),
        distinct(call(F::Avg, &[1], DataType::Float64)),
    ];
    let mut harness = updating_harness(aggregate(&[0], calls, false), &key_and_value());
    assert_eq!(harness.run("+ 1 4\n+ 1 4\n+ 1 6\n+ 1 null\nC 1"), lines("+ 1 2 10 5.0"));
    assert_eq!(harness.run("R\n- 1 4\nC 2"), "");
    assert_eq!(harness.run("R\n- 1 4\nC 3"), lines("- 1 2 10 5.0\n+ 1 1 6 6.0"));
    assert_eq!(harness.run("R\n+ 1 6\n+ 1 4\nB 4"), lines("- 1 1 6 6.0\n+ 1 2 10 5.0"));
}

#[test]
fn extremes_go_back_when_rows_go() {
    let calls = vec![call(F::Min, &[1], INT), call(F::Max, &[1], INT)];
    let mut harness = updating_harness(aggregate(&[0], calls, false), &key_and_value());
    assert_eq!(
        harness.run("+ 1 4\n+ 1 9\n+ 1 9\n+ 1 -2\n+ 1 null\nC 1"),
        lines("+ 1 -2 9")
    );
    assert_eq!(harness.run("R\n- 1 9\n- 1 -2\nC 2"), lines("- 1 -2 9\n+ 1 4 9"));
    assert_eq!(harness.run("R\n- 1 9\nC 3"), lines("- 1 4 9\n+ 1 4 4"));
    assert_eq!(harness.run("R\n- 1 4\nC 4"), lines("- 1 4 4\n+ 1 null null"));
    assert_eq!(harness.run("R\n- 1 null\nC 5"), lines("- 1 null null"));
    assert_eq!(
        (harness.state.rows("groups") > 0, harness.run("R\nE")),
        (true, String::new())
    );
}

#[test]
fn filters_keep_rows_out_of_one_aggregate() {
    let input = schema(&[("k", INT), ("v", INT), ("f", DataType::Boolean)]);
    let calls = vec![
        call(F::CountRows, &[], INT),
        filtered(call(F::Sum, &[1], INT), 2),
        filtered(distinct(call(F::Count, &[1], INT)), 2),
    ];
    let mut harness = updating_harness(aggregate(&[0], calls, false), &input);
    assert_eq!(
        harness.run("+ 1 4 true\n+ 1 5 false\n+ 1 6 null\nB 1"),
        lines("+ 1 3 4 1")
    );
    assert_eq!(harness.run("- 1 4 true\nB 2"), lines("- 1 3 4 1\n+ 1 2 null 0"));
}

#[test]
fn a_sum_that_does_not_fit_is_an_error_and_may_pass_through_one() {
    let mut harness = updating_harness(count_and_sum(true), &key_and_value());
    let most = i64::MAX;
    // Above the range in between, inside it at the barrier.
    assert_eq!(
        harness.run(&format!("+ 1 {most}\n+ 1 5\n+ 1 -6\nB 1")),
        format!("+ 1 3 {}\n", most - 1)
    );
    let error = harness.try_run("+ 1 2\nB 2").unwrap_err();
    assert_eq!(error.code(), SqlState::NUMERIC_VALUE_OUT_OF_RANGE);
    assert_eq!(error.to_string(), "bigint out of range");
}

#[test]
fn library_functions_over_appended_rows_keep_their_state() {
    let input = key_and_value();
    let float = schema(&[("k", INT), ("v", DataType::Float64)]);
    let calls = vec![
        other(stddev::stddev_pop_udaf(), &float, &[1], &[], &[]),
        other(median::median_udaf(), &float, &[1], &[], &[]),
        other(array_agg::array_agg_udaf(), &float, &[1], &[], &[]),
    ];
    let mut harness = updating_harness(aggregate(&[0], calls, true), &float);
    assert_eq!(harness.run("+ 1 2\n+ 1 4\nC 1"), lines("+ 1 1.0 3.0 [2.0, 4.0]"));
    assert_eq!(harness.run("R\n+ 1 3\nB 2"), {
        let deviation = (2.0f64 / 3.0).sqrt();
        format!("- 1 1.0 3.0 [2.0, 4.0]\n+ 1 {deviation:?} 3.0 [2.0, 4.0, 3.0]\n")
    });
    drop(input);
}

#[test]
fn library_functions_over_changing_rows_are_computed_afresh() {
    let input = schema(&[("k", INT), ("v", DataType::Float64)]);
    let calls = vec![
        other(median::median_udaf(), &input, &[1], &[], &[]),
        other(array_agg::array_agg_udaf(), &input, &[1], &[(1, true)], &[]),
        other(
            percentile_cont::percentile_cont_udaf(),
            &input,
            &[1],
            &[],
            &[ScalarValue::Float64(Some(0.5))],
        ),
    ];
    let mut harness = updating_harness(aggregate(&[0], calls, false), &input);
    assert_eq!(
        harness.run("+ 1 2\n+ 1 4\n+ 1 9\nC 1"),
        lines("+ 1 4.0 [9.0, 4.0, 2.0] 4.0")
    );
    assert_eq!(
        harness.run("R\n- 1 4\n+ 1 2\nC 2"),
        lines("- 1 4.0 [9.0, 4.0, 2.0] 4.0\n+ 1 2.0 [9.0, 2.0, 2.0] 2.0")
    );
    assert_eq!(
        harness.run("R\n-2 1 2\n- 1 9\nC 3"),
        lines("- 1 2.0 [9.0, 2.0, 2.0] 2.0")
    );
    assert_eq!(harness.run("R\n+ 1 7\nB 4"), lines("+ 1 7.0 [7.0] 7.0"));
}

#[test]
fn groups_that_nobody_touches_expire() {
    let clock = ManualClock::at(1_000_000_000);
    let spec = AggregateSpec {
        state_ttl_ms: Some(1000),
        ..count_and_sum(false)
    };
    let input = key_and_value();
    let mut harness = Harness::new(
        OperatorSpec::UpdatingAggregate(spec.clone()),
        shape(Arc::clone(&input), false),
        shape(result_schema(&spec, &input, false), false),
        context_with_clock(0, 1, Arc::new(clock.clone())),
        None,
    );
    assert_eq!(harness.run("+ 1 4\n+ 2 5\nC 1"), lines("+ 1 1 4\n+ 2 1 5"));
    clock.advance_micros(600_000);
    assert_eq!(harness.run("+ 2 1\nC 2"), lines("- 2 1 5\n+ 2 2 6"));
    clock.advance_micros(600_000);
    // The stamp is saved: a restart does not begin the time anew, and the expired group is gone for good.
    assert_eq!(harness.run("R\nC 3"), lines("- 1 1 4"));
    assert_eq!(harness.run("R\nB 4\n+ 1 1\nB 5"), lines("+ 1 1 1"));
    clock.advance_micros(5_000_000);
    assert_eq!(sorted(&harness.run("B 6")), "- 1 1 1\n- 2 2 6");
    assert_eq!(
        harness.operator().state_size().rows,
        1,
        "only the group that the checkpoint holds"
    );
}

#[test]
fn what_changes_right_after_groups_are_shown_again_is_saved() {
    let mut harness = updating_harness(count_and_sum(false), &key_and_value());
    harness.run("+ 1 4\n+ 2 5\nC 1");
    assert_eq!(sorted(&harness.run("R again\n+ 1 6\nC 2")), "+ 1 2 10\n+ 2 1 5");
    assert_eq!(harness.run("R\n+ 1 1\nB 3"), lines("- 1 2 10\n+ 1 3 11"));
}

#[test]
fn every_kind_of_aggregate_comes_back_from_a_checkpoint() {
    for append_only in [true, false] {
        let (spec, input) = every_kind(append_only);
        let mut straight = updating_harness(spec.clone(), &input);
        let mut interrupted = updating_harness(spec, &input);
        let rows = "+ 1 5 2.5 1.50 true x\n+ 2 7 0.5 2.25 false y\n+ 1 -3 1.5 0.25 null a\n+ null 1 NaN 9.00 true zz";
        let more = "+ 1 8 0.125 3.75 false aa\n+ 2 null null null null null";
        let plain = straight.run(&format!("{rows}\nC 1\n{more}\nB 2"));
        assert_eq!(interrupted.run(&format!("{rows}\nC 1\nR\n{more}\nB 2")), plain);
        assert!(plain.contains("+ 1 3 10 "), "{plain}");
    }
}

pub(super) mod kinds {
    use super::*;

    /// One call of each aggregate of our own, over (k, int, float, decimal, bool, text).
    pub(crate) fn every_kind(append_only: bool) -> (AggregateSpec, arrow::datatypes::SchemaRef) {
        let decimal = DataType::Decimal128(10, 2);
        let input = schema(&[
            ("k", INT),
            ("i", DataType::Int32),
            ("f", DataType::Float64),
            ("d", decimal.clone()),
            ("b", DataType::Boolean),
            ("t", DataType::Utf8),
        ]);
        let calls = vec![
            call(F::CountRows, &[], INT),
            call(F::Sum, &[1], INT),
            call(F::Sum, &[2], DataType::Float64),
            call(F::Sum, &[3], DataType::Decimal128(20, 2)),
            call(F::Avg, &[1], DataType::Float64),
            call(F::Avg, &[2], DataType::Float64),
            call(F::Avg, &[3], DataType::Decimal128(14, 6)),
            call(F::Count, &[5], INT),
            call(F::Min, &[1], DataType::Int32),
            call(F::Max, &[2], DataType::Float64),
            call(F::Min, &[3], decimal),
            call(F::Max, &[5], DataType::Utf8),
            call(F::Min, &[5], DataType::Utf8),
            call(F::Max, &[4], DataType::Boolean),
            call(F::BoolAnd, &[4], DataType::Boolean),
            call(F::BoolOr, &[4], DataType::Boolean),
        ];
        (aggregate(&[0], calls, append_only), input)
    }
}

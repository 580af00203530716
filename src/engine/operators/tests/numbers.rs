//! What aggregates make of unusual numbers and types.

use arrow::datatypes::{DataType, TimeUnit};

use crate::engine::graph::{AggregateCall, AggregateFunction as F};
use crate::error::{Report, SqlState};
use crate::testing::aggregate_specs::{aggregate, call, distinct, schema, updating_harness};
use crate::testing::operator_harness::lines;

const INT: DataType = DataType::Int64;

/// Runs global aggregates over one column.
fn run(data_type: DataType, calls: Vec<AggregateCall>, append_only: bool, script: &str) -> String {
    let input = schema(&[("v", data_type)]);
    updating_harness(aggregate(&[], calls, append_only), &input).run(script)
}

#[test]
fn float_sums_are_compensated() {
    let sum = vec![call(F::Sum, &[0], DataType::Float64)];
    let many: String = (0..10).map(|_| "+ 0.1\n").collect();
    assert_eq!(
        run(DataType::Float64, sum.clone(), true, &format!("{many}B 1")),
        "+ 1.0\n"
    );
    // Large numbers come and go without taking small ones along.
    assert_eq!(
        run(DataType::Float64, sum, false, "+ 1\n+ 1e100\n+ 1\n- 1e100\nB 1"),
        "+ 2.0\n"
    );
}

#[test]
fn infinities_and_nan_can_be_taken_away_again() {
    let calls = vec![
        call(F::Sum, &[0], DataType::Float64),
        call(F::Avg, &[0], DataType::Float64),
    ];
    let script = "+ 1\n+ inf\nC 1\nR\n+ -inf\nC 2\nR\n- inf\nB 3\n- -inf\n+ 2\nB 4\n+ NaN\nB 5\n- NaN\nB 6";
    let expected = lines(
        "+ inf inf\n\
         - inf inf\n+ NaN NaN\n\
         - NaN NaN\n+ -inf -inf\n\
         - -inf -inf\n+ 3.0 1.5\n\
         - 3.0 1.5\n+ NaN NaN\n\
         - NaN NaN\n+ 3.0 1.5",
    );
    assert_eq!(run(DataType::Float64, calls, false, script), expected);
}

#[test]
fn nan_is_greatest_and_zero_has_no_sign() {
    let calls = vec![
        call(F::Min, &[0], DataType::Float64),
        call(F::Max, &[0], DataType::Float64),
        distinct(call(F::Count, &[0], INT)),
    ];
    for append_only in [true, false] {
        let script = "+ -0.0\n+ 0.0\n+ NaN\n+ 5\nB 1";
        assert_eq!(
            run(DataType::Float64, calls.clone(), append_only, script),
            "+ 0.0 NaN 3\n"
        );
    }
}

#[test]
fn decimals_keep_their_scale() {
    let calls = vec![
        call(F::Sum, &[0], DataType::Decimal128(20, 2)),
        call(F::Avg, &[0], DataType::Decimal128(14, 6)),
    ];
    let script = "+ 1.00\n+ 0.01\n+ 0.01\nC 1\nR\n- 0.01\nB 2";
    assert_eq!(
        run(DataType::Decimal128(10, 2), calls, false, script),
        lines("+ 1.02 0.340000\n- 1.02 0.340000\n+ 1.01 0.505000")
    );
}

#[test]
fn a_decimal_sum_that_does_not_fit_is_an_error() {
    let input = schema(&[("v", DataType::Decimal128(38, 0))]);
    let calls = vec![call(F::Sum, &[0], DataType::Decimal128(38, 0))];
    let mut harness = updating_harness(aggregate(&[], calls, true), &input);
    let most = "9".repeat(38);
    let error = harness.try_run(&format!("+ {most}\n+ {most}\nB 1")).unwrap_err();
    assert_eq!(error.code(), SqlState::NUMERIC_VALUE_OUT_OF_RANGE);
}

#[test]
fn unsigned_and_average_of_large_integers_are_exact_inside() {
    let calls = vec![
        call(F::Sum, &[0], DataType::UInt64),
        call(F::Avg, &[0], DataType::Float64),
    ];
    let most = u64::MAX;
    let script = format!("+ {most}\n+ {most}\n- {most}\nB 1");
    let average = most as f64;
    assert_eq!(
        run(DataType::UInt64, calls, false, &script),
        format!("+ {most} {average:?}\n")
    );
}

#[test]
fn extremes_of_times_and_text() {
    for (data_type, script, expected) in [
        (
            DataType::Timestamp(TimeUnit::Microsecond, None),
            "+ 12:00\n+ 09:30\nC 1\nR\n+ 10:00\nB 2",
            "+ 34200000000 43200000000\n",
        ),
        (DataType::Utf8, "+ b\n+ abc\n+ ä\nC 1\nR\n+ az\nB 2", "+ abc ä\n"),
        (DataType::Boolean, "+ true\nC 1\nR\nB 2", "+ true true\n"),
        (
            DataType::Date32,
            "+ 2024-02-29\n+ 1969-12-31\nC 1\nR\nB 2",
            "+ 1969-12-31 2024-02-29\n",
        ),
    ] {
        for append_only in [true, false] {
            let calls = vec![
                call(F::Min, &[0], data_type.clone()),
                call(F::Max, &[0], data_type.clone()),
            ];
            assert_eq!(run(data_type.clone(), calls, append_only, script), expected);
        }
    }
}

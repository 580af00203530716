//! The window aggregate as scripts.

use arrow::datatypes::{DataType, SchemaRef};

use crate::engine::graph::{AggregateFunction as F, AggregateSpec, EmitMode, WindowAggregateSpec, WindowSpec};
use crate::testing::aggregate_specs::{aggregate, call, distinct, schema, window_harness, windowed};
use crate::testing::operator_harness::lines;

const INT: DataType = DataType::Int64;

/// Time, key, value; windows of 10.
fn input() -> SchemaRef {
    schema(&[("t", INT), ("k", INT), ("v", INT)])
}

fn count_and_sum(append_only: bool) -> AggregateSpec {
    let calls = vec![call(F::CountRows, &[], INT), call(F::Sum, &[2], INT)];
    aggregate(&[1], calls, append_only)
}

#[test]
fn a_window_is_emitted_when_the_watermark_reaches_its_end() {
    let spec = windowed(count_and_sum(true), 10, EmitMode::OnWindowClose);
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(
        harness.run("+ 12 1 5\n+ 3 1 4\n+ 5 2 1\n+ 9 1 1\nW 9\nB 1"),
        lines("W 9")
    );
    assert_eq!(harness.run("W 10"), lines("+ 1 0 10 2 5\n+ 2 0 10 1 1\nW 10"));
    assert_eq!(harness.run("W idle"), lines("W idle"));
    // 9 is late now, 10 is not.
    assert_eq!(harness.run("+ 9 1 1\n+ 10 1 1\nE"), lines("+ 1 10 20 2 6"));
    assert_eq!(harness.operator().late_rows(), 1);
}

#[test]
fn windows_close_in_order_and_before_time_zero_too() {
    let spec = windowed(count_and_sum(true), 10, EmitMode::OnWindowClose);
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(
        harness.run("+ 25 1 1\n+ -5 1 2\n+ 11 1 3\nW 30"),
        lines("+ 1 -10 0 1 2\n+ 1 10 20 1 3\n+ 1 20 30 1 1\nW 30")
    );
}

#[test]
fn open_windows_and_the_watermark_survive() {
    let calls = vec![
        call(F::CountRows, &[], INT),
        distinct(call(F::Count, &[2], INT)),
        call(F::Max, &[2], INT),
    ];
    for append_only in [true, false] {
        let spec = windowed(aggregate(&[1], calls.clone(), append_only), 10, EmitMode::OnWindowClose);
        let mut harness = window_harness(spec, &input(), 0);
        harness.run("+ 1 1 1\n+ 12 1 5\n+ 13 2 5\nW 10\nC 1");
        assert_eq!(harness.run("R\n+ 9 1 1\n+ 14 1 5\n+ 15 1 6\nC 2"), "");
        assert_eq!(harness.operator().late_rows(), 1);
        assert_eq!(
            harness.run("R\n+ 16 2 4\nW 20"),
            lines("+ 1 10 20 3 2 6\n+ 2 10 20 2 2 5\nW 20")
        );
        assert_eq!(harness.run("E\nC 3\nR\nE"), "");
    }
}

#[test]
fn retractions_fold_inside_the_window() {
    let spec = windowed(count_and_sum(false), 10, EmitMode::OnWindowClose);
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(
        harness.run("+ 1 1 1\n+ 2 2 5\n- 1 1 1\nC 1\nR\n- 2 2 5\n+ 2 2 6\nW 10"),
        lines("+ 2 0 10 1 6\nW 10")
    );
}

#[test]
fn on_update_shows_open_windows_at_barriers() {
    let spec = windowed(count_and_sum(true), 10, EmitMode::OnUpdate);
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(
        harness.run("+ 1 1 1\n+ 11 1 2\nC 1"),
        lines("+ 1 0 10 1 1\n+ 1 10 20 1 2")
    );
    assert_eq!(harness.run("R\n+ 2 1 4\nB 2"), lines("- 1 0 10 1 1\n+ 1 0 10 2 5"));
    assert_eq!(harness.run("+ 3 1 1\nW 10"), lines("- 1 0 10 2 5\n+ 1 0 10 3 6\nW 10"));
    assert_eq!(harness.run("E\nB 3"), "");
}

#[test]
fn no_keys_gives_one_row_a_window_and_none_for_empty_ones() {
    let mut spec = count_and_sum(true);
    spec.keys.clear();
    let mut harness = window_harness(windowed(spec, 10, EmitMode::OnWindowClose), &input(), 0);
    assert_eq!(
        harness.run("+ 1 1 1\n+ 2 2 2\n+ 31 1 1\nC 1\nR\nW 50"),
        lines("+ 0 10 2 3\n+ 30 40 1 1\nW 50")
    );
}

fn hopping(aggregate: AggregateSpec, slide_micros: i64, size_micros: i64) -> WindowAggregateSpec {
    WindowAggregateSpec {
        aggregate,
        window: WindowSpec::Hop {
            slide_micros,
            size_micros,
        },
        emit: EmitMode::OnWindowClose,
        late_rows: None,
        allowed_lateness_micros: 0,
    }
}

fn sessions(aggregate: AggregateSpec, gap_micros: i64) -> WindowAggregateSpec {
    WindowAggregateSpec {
        aggregate,
        window: WindowSpec::Session { gap_micros },
        emit: EmitMode::OnWindowClose,
        late_rows: None,
        allowed_lateness_micros: 0,
    }
}

#[test]
fn a_row_is_in_every_window_that_hops_over_it() {
    let mut harness = window_harness(hopping(count_and_sum(true), 5, 10), &input(), 0);
    assert_eq!(harness.run("+ 7 1 3\n+ 12 1 4\nW 9"), lines("W 9"));
    assert_eq!(harness.run("W 10"), lines("+ 1 0 10 1 3\nW 10"));
    assert_eq!(harness.run("W 16"), lines("+ 1 5 15 2 7\nW 16"));
    // The windows of 4 have closed; of those of 12 the last is open.
    assert_eq!(harness.run("+ 4 1 1\n+ 12 1 1"), "");
    assert_eq!(harness.operator().late_rows(), 1);
    assert_eq!(harness.run("C 1\nR\nE"), lines("+ 1 10 20 2 5"));
}

#[test]
fn windows_that_close_together_come_in_order() {
    let mut harness = window_harness(hopping(count_and_sum(true), 2, 6), &input(), 0);
    assert_eq!(
        harness.run("+ 1 1 1\n+ 20 1 1\nW 30"),
        lines("+ 1 -4 2 1 1\n+ 1 -2 4 1 1\n+ 1 0 6 1 1\n+ 1 16 22 1 1\n+ 1 18 24 1 1\n+ 1 20 26 1 1\nW 30")
    );
}

#[test]
fn a_gap_between_windows_is_nobodys() {
    let mut harness = window_harness(hopping(count_and_sum(true), 10, 4), &input(), 0);
    assert_eq!(
        harness.run("+ 3 1 1\n+ 4 1 1\n+ 9 1 1\n+ 10 1 1\nW 20"),
        lines("+ 1 0 4 1 1\n+ 1 10 14 1 1\nW 20")
    );
    assert_eq!(harness.operator().late_rows(), 0);
}

#[test]
fn a_session_ends_a_gap_after_its_last_row() {
    let mut harness = window_harness(sessions(count_and_sum(true), 10), &input(), 0);
    assert_eq!(harness.run("+ 1 1 1\n+ 9 1 2\n+ 25 1 4\n+ 3 2 1\nW 12"), lines("W 12"));
    assert_eq!(harness.run("W 19"), lines("+ 2 3 13 1 1\n+ 1 1 19 2 3\nW 19"));
    // 9 would have been of the closed one; 16 begins before 25 and is less than 10 away from it.
    assert_eq!(harness.run("+ 9 1 1\n+ 16 1 8"), "");
    assert_eq!(harness.operator().late_rows(), 1);
    assert_eq!(harness.run("E"), lines("+ 1 16 35 2 12"));
}

#[test]
fn a_late_row_is_taken_for_as_long_as_allowed() {
    let spec = WindowAggregateSpec {
        allowed_lateness_micros: 5,
        ..windowed(count_and_sum(true), 10, EmitMode::OnWindowClose)
    };
    let mut harness = window_harness(spec.clone(), &input(), 0);
    assert_eq!(harness.run("+ 3 1 4\n+ 12 1 1\nW 10"), lines("+ 1 0 10 1 4\nW 5"));
    assert_eq!(
        harness.run("+ 9 1 1\n+ 8 2 7\nB 1"),
        lines("- 1 0 10 1 4\n+ 1 0 10 2 5\n+ 2 0 10 1 7")
    );
    // What was emitted before the restart is known after it.
    assert_eq!(harness.run("C 2\nR\n+ 7 1 1\nW 14"), lines("W 9"));
    assert_eq!(harness.run("W 15"), lines("- 1 0 10 2 5\n+ 1 0 10 3 6\nW 10"));
    assert_eq!(harness.operator().late_rows(), 0);
    assert_eq!(harness.run("+ 9 1 1\nE"), lines("+ 1 10 20 1 1"));
    assert_eq!(harness.operator().late_rows(), 1);
    // A window may begin with a late row.
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(harness.run("W 12\n+ 3 1 4\nB 1"), lines("W 7\n+ 1 0 10 1 4"));
    assert_eq!(harness.run("W 15\nE"), lines("W 10"));
}

#[test]
fn windows_that_hop_take_late_rows_each_for_its_time() {
    let spec = WindowAggregateSpec {
        allowed_lateness_micros: 3,
        ..hopping(count_and_sum(true), 5, 10)
    };
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(harness.run("+ 7 1 3\nW 10"), lines("+ 1 0 10 1 3\nW 7"));
    assert_eq!(harness.run("+ 7 1 1\nB 1"), lines("- 1 0 10 1 3\n+ 1 0 10 2 4"));
    assert_eq!(harness.run("C 2\nR\nW 13"), lines("W 10"));
    // Only the second window of 7 takes it.
    assert_eq!(harness.run("+ 7 1 1\nW 15"), lines("+ 1 5 15 3 5\nW 12"));
    assert_eq!(harness.run("E"), "");
}

#[test]
fn an_open_session_is_shown_and_taken_back_when_it_grows() {
    let spec = WindowAggregateSpec {
        emit: EmitMode::OnUpdate,
        ..sessions(count_and_sum(true), 10)
    };
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(
        harness.run("+ 1 1 1\n+ 30 1 2\nB 1"),
        lines("+ 1 1 11 1 1\n+ 1 30 40 1 2")
    );
    assert_eq!(harness.run("+ 8 1 1\nB 2"), lines("- 1 1 11 1 1\n+ 1 1 18 2 2"));
    // Two become one; what was shown goes before the watermark could pass it.
    assert_eq!(
        harness.run("+ 17 1 1\n+ 24 1 1\nW 15"),
        lines("- 1 1 18 2 2\n- 1 30 40 1 2\nW 15")
    );
    assert_eq!(harness.run("B 3"), lines("+ 1 1 40 5 6"));
    assert_eq!(harness.run("C 4\nR\nW 40"), lines("W 40"));
    assert_eq!(harness.run("+ 60 1 1\nE\nB 5"), lines("+ 1 60 70 1 1"));
}

#[test]
fn a_session_that_has_ended_takes_late_rows_for_as_long_as_allowed() {
    let spec = WindowAggregateSpec {
        allowed_lateness_micros: 5,
        ..sessions(count_and_sum(true), 10)
    };
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(harness.run("+ 1 1 1\nW 11"), lines("+ 1 1 11 1 1\nW 6"));
    // It goes on, so it has not ended.
    assert_eq!(harness.run("+ 5 1 2\nB 1"), lines("- 1 1 11 1 1"));
    assert_eq!(harness.run("C 2\nR\nW 15"), lines("+ 1 1 15 2 3\nW 10"));
    assert_eq!(harness.run("+ 0 1 1\nB 3"), lines("- 1 1 15 2 3\n+ 1 0 15 3 4"));
    assert_eq!(harness.run("C 4\nR\n+ 4 2 1\nB 5"), lines("+ 2 4 14 1 1"));
    assert_eq!(harness.run("W 20"), lines("W 15"));
    assert_eq!(harness.operator().late_rows(), 0);
    assert_eq!(harness.run("+ 4 2 1\nE"), "");
    assert_eq!(harness.operator().late_rows(), 1);
}

#[test]
fn a_session_changed_after_its_end_is_forgotten_once() {
    let spec = WindowAggregateSpec {
        allowed_lateness_micros: 5,
        ..sessions(count_and_sum(true), 10)
    };
    let mut harness = window_harness(spec, &input(), 0);
    assert_eq!(
        harness.run("+ 1 1 1\nW 11\n+ 1 1 1\nB 1"),
        lines("+ 1 1 11 1 1\nW 6\n- 1 1 11 1 1\n+ 1 1 11 2 2")
    );
    assert_eq!(
        harness.run("W 12\n+ 1 1 1\nW 16\nB 2"),
        lines("W 7\n- 1 1 11 2 2\n+ 1 1 11 3 3\nW 11")
    );
    assert_eq!(
        harness.run("+ 30 1 1\n+ 30 2 1\nE"),
        lines("+ 1 30 40 1 1\n+ 2 30 40 1 1")
    );
}

#[test]
fn a_row_between_two_sessions_makes_them_one_also_after_a_restart() {
    let calls = vec![
        call(F::CountRows, &[], INT),
        distinct(call(F::Count, &[2], INT)),
        call(F::Min, &[2], INT),
    ];
    let mut harness = window_harness(sessions(aggregate(&[1], calls, true), 10), &input(), 0);
    harness.run("+ 1 1 5\n+ 20 1 5\n+ 40 1 7\nC 1\nR");
    assert_eq!(
        harness.run("+ 11 1 6\n+ 10 1 6\nC 2\nR\nW 30"),
        lines("+ 1 1 30 4 2 5\nW 30")
    );
    assert_eq!(harness.run("C 3\nR\n+ 49 1 7\nE\nC 4\nR\nE"), lines("+ 1 40 59 2 1 7"));
}

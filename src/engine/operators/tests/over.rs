//! OVER on scripts: what comes out when, what is kept, what is late.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::{WindowFrame, WindowFunctionDefinition};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::PhysicalSortExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_plan::windows::create_window_expr;
use datafusion::scalar::ScalarValue;

use crate::engine::order_column::OrderColumn;
use crate::engine::over_spec::{FrameUnit, OverFunction, OverSpec, OverWork};
use crate::testing::operator_harness::lines;
use crate::testing::over_specs::{CURRENT, UNBOUNDED, by, frame, ordered, over_frame, over_harness, tkv, value};

fn shift(back: i64) -> OverFunction {
    OverFunction::Shift {
        value: value(),
        back,
        default: ScalarValue::Int64(Some(-1)),
    }
}

#[test]
fn rows_come_out_in_order_when_the_watermark_has_passed_them() {
    let running = over_frame(sum_udaf(), frame(FrameUnit::Range, UNBOUNDED, CURRENT));
    let functions = vec![
        OverFunction::RowNumber,
        OverFunction::Rank,
        OverFunction::DenseRank,
        shift(1),
        running,
    ];
    let mut harness = over_harness(ordered(&[1], functions, None));
    let text = harness.run(
        "+ 20 1 5
         + 10 1 7
         + 30 1 1
         + 10 2 9

         + 20 1 3
         W 30
         C 1
         + 40 1 2
         W 40
         R
         + 30 1 8
         + 30 2 8
         W 41
         E",
    );
    assert_eq!(
        text,
        lines(
            "+ 10 1 7 1 1 1 -1 7
             + 20 1 3 2 2 2 7 15
             + 20 1 5 3 2 2 3 15
             + 10 2 9 1 1 1 -1 9
             W 30
             + 30 1 1 4 4 3 5 16
             W 40
             + 30 1 1 4 4 3 5 24
             + 30 1 8 5 4 3 1 24
             + 30 2 8 2 2 2 9 17
             W 41"
        ),
        "after the restart the row of 40 is not there again: the harness has no source that repeats it"
    );
    assert_eq!(harness.operator().state_size().rows, 0);
}

#[test]
fn late_rows_are_counted_and_change_nothing() {
    let mut harness = over_harness(ordered(&[1], vec![OverFunction::RowNumber], None));
    let text = harness.run(
        "+ 10 1 1
         W 20
         + 19 1 2
         + 20 1 3
         W 21",
    );
    assert_eq!(text, lines("+ 10 1 1 1\nW 20\n+ 20 1 3 2\nW 21"));
    assert_eq!(harness.operator().late_rows(), 1);
}

#[test]
fn rows_wait_for_what_follows_and_hold_the_watermark_back() {
    let mut harness = over_harness(ordered(&[1], vec![shift(-1)], None));
    let text = harness.run(
        "+ 10 1 1
         + 20 1 2
         + 15 2 3
         W 30
         C 1
         R
         W 31
         + 40 2 4
         W 50
         E",
    );
    let expected = "+ 10 1 1 2\nW 15\nW 15\n+ 15 2 3 4\nW 20\n+ 20 1 2 -1\n+ 40 2 4 -1";
    assert_eq!(text, lines(expected));
}

#[test]
fn frames_bounded_by_time_wait_for_time_alone_and_forget() {
    let around = over_frame(sum_udaf(), frame(FrameUnit::Range, by(-10), by(5)));
    let mut harness = over_harness(ordered(&[1], vec![around], None));
    let text = harness.run(
        "+ 10 1 1
         + 14 1 2
         W 15
         + 22 1 4
         W 16
         W 28
         W 33",
    );
    assert_eq!(
        text,
        lines("W 10\n+ 10 1 1 3\nW 14\n+ 14 1 2 3\n+ 22 1 4 6\nW 28\nW 33")
    );
    assert_eq!(
        harness.operator().state_size().rows,
        0,
        "no later frame reaches back to 22"
    );
}

#[test]
fn running_keys_are_forgotten_with_a_ttl() {
    let mut harness = over_harness(ordered(&[1], vec![OverFunction::RowNumber], Some(100)));
    let text = harness.run(
        "+ 10 1 1
         + 90 2 1
         W 95
         C 1
         W 111
         C 2
         R
         + 120 1 1
         + 120 2 1
         W 121",
    );
    let expected = "+ 10 1 1 1\n+ 90 2 1 1\nW 95\nW 111\n+ 120 1 1 1\n+ 120 2 1 2\nW 121";
    assert_eq!(text, lines(expected));
}

fn whole(functions: Vec<Arc<dyn WindowExpr>>, append_only_input: bool) -> OverSpec {
    OverSpec {
        keys: vec![0, 1],
        order: vec![OrderColumn {
            column: 2,
            descending: true,
            nulls_first: true,
        }],
        carried: 3,
        work: OverWork::Whole {
            functions,
            done: None,
            hold_micros: 0,
            append_only_input,
        },
        late_rows: None,
    }
}

fn row_number_by_value(input: &SchemaRef) -> Arc<dyn WindowExpr> {
    let column = |name: &str, at| Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>;
    let order = PhysicalSortExpr {
        expr: column("v", 2),
        options: arrow::compute::SortOptions {
            descending: true,
            nulls_first: true,
        },
    };
    create_window_expr(
        &WindowFunctionDefinition::WindowUDF(row_number_udwf()),
        "n".into(),
        &[],
        &[column("t", 0), column("k", 1)],
        &[order],
        Arc::new(WindowFrame::new(Some(true))),
        Arc::clone(input),
        false,
        false,
        None,
    )
    .unwrap()
}

#[test]
fn partitions_that_end_are_computed_as_a_whole_and_may_change_before() {
    let mut harness = over_harness(whole(vec![row_number_by_value(&tkv())], false));
    let text = harness.run(
        "+ 10 1 5
         + 10 1 7
         + 20 1 9
         W 10
         - 10 1 7
         + 10 1 4
         + 10 1 4
         C 1
         R
         W 11
         - 10 1 4
         E",
    );
    let expected = "W 10\n+ 10 1 5 1\n+ 10 1 4 2\n+ 10 1 4 3\nW 11\n+ 20 1 9 1";
    assert_eq!(text, lines(expected));
    assert_eq!(harness.operator().late_rows(), 1);
    assert_eq!(harness.operator().state_size().rows, 0);
}

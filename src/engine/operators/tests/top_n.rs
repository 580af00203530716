//! Rankings as scripts.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};

use crate::clock::ManualClock;
use crate::engine::graph::OperatorSpec;
use crate::engine::join_spec::Moment;
use crate::engine::order_column::OrderColumn;
use crate::engine::top_n_spec::{RankFunction, TopNBound, TopNSpec};
use crate::testing::aggregate_specs::{context_with_clock, schema, shape};
use crate::testing::operator_harness::{Harness, lines};

use RankFunction::{DenseRank, Rank, RowNumber};

/// Key, order, value.
fn columns() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("o", DataType::Int64), ("v", DataType::Int64)])
}

/// By column 0, in the order of column 1.
pub(super) fn top_n(function: RankFunction, last: u64, append_only: bool) -> TopNSpec {
    TopNSpec {
        function,
        keys: vec![0],
        order: vec![OrderColumn {
            column: 1,
            descending: false,
            nulls_first: false,
        }],
        first: 1,
        last,
        columns: 3,
        shows_rank: false,
        append_only_input: append_only,
        bound: TopNBound::Kept { ttl_ms: None },
    }
}

fn with_rank(spec: TopNSpec) -> TopNSpec {
    TopNSpec {
        shows_rank: true,
        ..spec
    }
}

/// The input's columns, then the rank.
pub(super) fn result_schema(spec: &TopNSpec, input: &SchemaRef) -> SchemaRef {
    let fields = input.fields()[..spec.columns].iter();
    let mut columns: Vec<(&str, DataType)> = fields
        .map(|field| (field.name().as_str(), field.data_type().clone()))
        .collect();
    if spec.shows_rank {
        columns.push(("rank", DataType::UInt64));
    }
    schema(&columns)
}

fn harness_at(spec: TopNSpec, input: &SchemaRef, clock: &Arc<ManualClock>) -> Harness {
    let output = result_schema(&spec, input);
    let timed = matches!(spec.bound, TopNBound::Window(_));
    let (append_only, clock) = (spec.append_only_input, Arc::clone(clock));
    Harness::new(
        OperatorSpec::TopN(spec),
        shape(Arc::clone(input), append_only),
        shape(output, timed),
        context_with_clock(0, 1, clock),
        timed.then_some(0),
    )
}

fn harness(spec: TopNSpec) -> Harness {
    harness_at(spec, &columns(), &Arc::new(ManualClock::at(0)))
}

#[test]
fn the_first_row_of_each_key_is_kept_and_no_other() {
    let mut spec = top_n(RowNumber, 1, true);
    spec.order[0].descending = true;
    let mut harness = harness(spec);
    assert_eq!(harness.run("+ 1 4 0\n+ 1 9 1\n+ 2 5 2\n"), "");
    assert_eq!(harness.run("C 1"), lines("+ 1 9 1\n+ 2 5 2"));
    assert_eq!(harness.run("+ 1 3 7\n\n+ 1 8 7\nC 2"), "");
    assert_eq!(
        (harness.operator().state_size().rows, harness.state.rows("rows")),
        (2, 2)
    );
    assert_eq!(harness.run("R\n+ 1 10 3\n+ 1 11 3\nC 3"), lines("- 1 9 1\n+ 1 11 3"));
    assert_eq!(harness.run("R\nE"), "");
    assert_eq!(harness.operator().state_size().rows, 2);
}

#[test]
fn a_row_that_goes_brings_the_next_one_in() {
    let mut harness = harness(top_n(RowNumber, 2, false));
    assert_eq!(harness.run("+ 1 5 0\n+ 1 3 0\n+ 1 8 0\nC 1"), lines("+ 1 3 0\n+ 1 5 0"));
    assert_eq!(harness.run("R\n- 1 3 0\nC 2"), lines("- 1 3 0\n+ 1 8 0"));
    assert_eq!(harness.run("R\n- 1 8 0\nC 3"), lines("- 1 8 0"));
    // Gone and back in one epoch.
    assert_eq!(harness.run("R\n- 1 5 0\n\n+ 1 5 0\nC 4"), "");
    assert_eq!(harness.run("R\n- 1 5 0\nC 5"), lines("- 1 5 0"));
    assert_eq!(harness.operator().state_size().rows, 0);
    assert_eq!(harness.run("R\n+ 1 9 0\nB 6"), lines("+ 1 9 0"));
}

#[test]
fn ranks_that_shift_are_taken_back() {
    let mut harness = harness(with_rank(top_n(RowNumber, 2, false)));
    assert_eq!(harness.run("+ 1 5 0\n+ 1 3 0\nC 1"), lines("+ 1 3 0 1\n+ 1 5 0 2"));
    assert_eq!(harness.run("R\n+ 1 4 0\nC 2"), lines("- 1 5 0 2\n+ 1 4 0 2"));
    assert_eq!(
        harness.run("R\n+ 1 1 0\nC 3"),
        lines("- 1 3 0 1\n- 1 4 0 2\n+ 1 1 0 1\n+ 1 3 0 2")
    );
    assert_eq!(harness.run("R\n- 1 3 0\nB 4"), lines("- 1 3 0 2\n+ 1 4 0 2"));
}

#[test]
fn ties_share_a_rank() {
    let rows = "+ 1 1 7\n+ 1 1 8\n+ 1 2 0\n+ 1 3 0\n+ 1 2 1\nC 1";
    let mut rank = harness(with_rank(top_n(Rank, 2, true)));
    assert_eq!(rank.run(rows), lines("+ 1 1 7 1\n+ 1 1 8 1"));
    assert_eq!(rank.operator().state_size().rows, 2);
    assert_eq!(
        rank.run("R\n+ 1 0 0\nC 2"),
        lines("- 1 1 7 1\n- 1 1 8 1\n+ 1 0 0 1\n+ 1 1 7 2\n+ 1 1 8 2")
    );
    let mut rank = harness(with_rank(top_n(Rank, 3, true)));
    assert_eq!(rank.run(rows), lines("+ 1 1 7 1\n+ 1 1 8 1\n+ 1 2 0 3\n+ 1 2 1 3"));
    let mut dense = harness(with_rank(top_n(DenseRank, 2, true)));
    assert_eq!(dense.run(rows), lines("+ 1 1 7 1\n+ 1 1 8 1\n+ 1 2 0 2\n+ 1 2 1 2"));
    assert_eq!(dense.operator().state_size().rows, 4);
    assert_eq!(
        dense.run("R\n+ 1 0 0\n\n+ 1 5 0\nB 2"),
        lines("- 1 1 7 1\n- 1 1 8 1\n- 1 2 0 2\n- 1 2 1 2\n+ 1 0 0 1\n+ 1 1 7 2\n+ 1 1 8 2")
    );
}

#[test]
fn equal_rows_are_ordered_by_their_other_columns() {
    for rows in [
        "+ 1 5 7\n+ 1 5 3\n+ 1 5 null\nB 1",
        "+ 1 5 3\n\n+ 1 5 null\n\n+ 1 5 7\nB 1",
    ] {
        let mut numbers = harness(with_rank(top_n(RowNumber, 3, true)));
        assert_eq!(numbers.run(rows), lines("+ 1 5 3 1\n+ 1 5 7 2\n+ 1 5 null 3"));
    }
}

#[test]
fn copies_of_a_row_are_rows() {
    let mut hidden = harness(top_n(RowNumber, 2, true));
    assert_eq!(hidden.run("+3 1 5 0\nC 1"), lines("+2 1 5 0"));
    assert_eq!(hidden.run("R\n+ 1 4 0\nC 2"), lines("- 1 5 0\n+ 1 4 0"));
    assert_eq!(hidden.run("R\n+ 1 4 0\nB 3"), lines("- 1 5 0\n+ 1 4 0"));
    let mut numbered = harness(with_rank(top_n(RowNumber, 2, false)));
    assert_eq!(numbered.run("+3 1 5 0\nC 1"), lines("+ 1 5 0 1\n+ 1 5 0 2"));
    assert_eq!(numbered.run("R\n-2 1 5 0\nB 2"), lines("- 1 5 0 2"));
    let mut ranked = harness(with_rank(top_n(Rank, 2, false)));
    assert_eq!(ranked.run("+3 1 5 0\nC 1"), lines("+3 1 5 0 1"));
    assert_eq!(ranked.run("R\n-2 1 5 0\nB 2"), lines("-2 1 5 0 1"));
}

#[test]
fn nulls_come_where_the_order_says() {
    let rows = "+ 1 null 0\n+ 1 2 0\n+ 1 1 0\nB 1";
    let ordered = |descending: bool, nulls_first: bool| {
        let mut spec = with_rank(top_n(RowNumber, 2, true));
        spec.order[0].descending = descending;
        spec.order[0].nulls_first = nulls_first;
        harness(spec).run(rows)
    };
    assert_eq!(ordered(false, false), lines("+ 1 1 0 1\n+ 1 2 0 2"));
    assert_eq!(ordered(false, true), lines("+ 1 null 0 1\n+ 1 1 0 2"));
    assert_eq!(ordered(true, true), lines("+ 1 null 0 1\n+ 1 2 0 2"));
    assert_eq!(ordered(true, false), lines("+ 1 2 0 1\n+ 1 1 0 2"));
}

#[test]
fn ranks_from_the_middle_and_none_at_all() {
    let mut middle = top_n(RowNumber, 3, true);
    (middle.keys, middle.first) = (Vec::new(), 2);
    let mut harness_of_middle = harness(middle.clone());
    assert_eq!(harness_of_middle.run("+ 1 1 0\nC 1"), "");
    assert_eq!(
        harness_of_middle.run("R\n+ 2 2 0\n+ 3 3 0\n+ 4 4 0\nC 2"),
        lines("+ 2 2 0\n+ 3 3 0")
    );
    assert_eq!(harness_of_middle.run("R\n+ 5 0 0\nB 3"), lines("- 3 3 0\n+ 1 1 0"));
    let mut none = harness(top_n(Rank, 0, true));
    assert_eq!(none.run("+ 1 1 0\nC 1\n+ 1 1 0\nR\nE"), "");
    assert_eq!(none.operator().state_size().rows, 0);
}

#[test]
fn keys_without_rows_for_the_ttl_are_taken_back() {
    let clock = Arc::new(ManualClock::at(0));
    let mut spec = top_n(RowNumber, 1, false);
    spec.bound = TopNBound::Kept { ttl_ms: Some(100) };
    let mut harness = harness_at(spec.clone(), &columns(), &clock);
    assert_eq!(harness.run("+ 1 1 0\n+ 1 2 0\n+ 2 2 0\nC 1"), lines("+ 1 1 0\n+ 2 2 0"));
    clock.advance_micros(60_000);
    assert_eq!(harness.run("+ 1 3 0\nC 2"), "");
    clock.advance_micros(60_000);
    assert_eq!(harness.run("R\nC 3"), lines("- 2 2 0"));
    // What was forgotten cannot be taken back twice, and the key starts anew.
    assert_eq!(harness.run("R\n- 2 2 0\nC 4\n+ 2 9 0\nB 5"), lines("+ 2 9 0"));
    clock.advance_micros(60_000);
    assert_eq!(harness.run("B 6"), lines("- 1 1 0"));

    // All rows as one are not forgotten. A row that is not among the first keeps its key.
    spec.keys.clear();
    let mut global = harness_at(spec, &columns(), &clock);
    assert_eq!(global.run("+ 1 1 0\nB 1"), lines("+ 1 1 0"));
    let mut growing = top_n(RowNumber, 1, true);
    growing.bound = TopNBound::Kept { ttl_ms: Some(100) };
    let mut growing = harness_at(growing, &columns(), &clock);
    assert_eq!(growing.run("+ 1 1 0\nC 1"), lines("+ 1 1 0"));
    clock.advance_micros(60_000);
    assert_eq!(growing.run("+ 1 2 0\nC 2"), "");
    clock.advance_micros(60_000);
    assert_eq!(
        (growing.run("R\nB 3"), global.run("B 2")),
        (String::new(), String::new())
    );
    clock.advance_micros(60_000);
    assert_eq!(growing.run("B 4"), lines("- 1 1 0"));
}

#[test]
fn a_window_is_shown_once_when_it_is_over() {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let input = schema(&[("w", time), ("o", DataType::Int64), ("v", DataType::Int64)]);
    let mut spec = with_rank(top_n(RowNumber, 2, true));
    spec.bound = TopNBound::Window(Moment {
        column: 0,
        offset_micros: 10,
    });
    let mut harness = harness_at(spec, &input, &Arc::new(ManualClock::at(0)));
    assert_eq!(harness.run("+ 10 3 0\n+ 10 1 0\n+ 20 5 0\n+ 10 2 0\nC 1"), "");
    assert_eq!(harness.run("R\nW 19"), lines("W 19"));
    assert_eq!(harness.run("+ 10 0 0\nW 20"), lines("+ 10 0 0 1\n+ 10 1 0 2\nW 20"));
    // Late, and without a window.
    assert_eq!(harness.run("+ 10 0 1\n+ null 0 1\nC 2\nR\n+ 10 0 1\nC 3"), "");
    assert_eq!(
        (harness.operator().late_rows(), harness.operator().state_size().rows),
        (1, 1)
    );
    assert_eq!(harness.run("R\nE\nB 4"), lines("+ 20 5 0 1"));
    assert_eq!(harness.operator().state_size().rows, 0);
}

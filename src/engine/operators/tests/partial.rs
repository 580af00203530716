//! The first of two steps: when it flushes, and when it stops trying.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;

use crate::engine::graph::{AggregateFunction as F, OperatorSpec};
use crate::engine::message::{Chunk, Weights};
use crate::engine::operator::{Operator, Output, OutputItem};
use crate::engine::operators::build;
use crate::testing::aggregate_specs::{aggregate, call, context, schema, shape, two_phases};
use crate::testing::operator_harness::{Harness, lines, rows_of};

const INT: DataType = DataType::Int64;

fn parts() -> (
    OperatorSpec,
    crate::engine::graph::StreamShape,
    crate::engine::graph::StreamShape,
) {
    let input = schema(&[("k", INT), ("v", INT)]);
    let spec = aggregate(&[0], vec![call(F::Sum, &[1], INT)], false);
    let (partial, between, _) = two_phases(&spec, &input);
    let spec = OperatorSpec::UpdatingAggregate(partial);
    (spec, shape(input, false), shape(between, true))
}

#[test]
fn states_leave_before_a_barrier_and_nothing_stays() {
    let (spec, input, between) = parts();
    let mut harness = Harness::new(spec, input, between, context(0, 1), None);
    // Key, rows, sum, values.
    assert_eq!(
        harness.run("+ 1 5\n+ 1 6\n- 1 5\n+ 2 null\nB 1"),
        lines("+ 1 1 6 1\n+ 2 1 0 0")
    );
    assert_eq!(harness.run("B 2\nE"), "");
    assert_eq!(harness.run("+ 1 5\n- 1 4\nE"), lines("+ 1 0 1 0"));
    assert_eq!(harness.operator().state_size().rows, 0);
}

fn chunk(keys: impl Iterator<Item = i64>) -> Chunk {
    let keys: Int64Array = keys.collect();
    let values: ArrayRef = Arc::new(Int64Array::from(vec![1; keys.len()]));
    let rows = RecordBatch::try_new(schema(&[("k", INT), ("v", INT)]), vec![Arc::new(keys), values]).unwrap();
    Chunk::insert(rows)
}

fn drain(output: &mut Output) -> Vec<Chunk> {
    let items = output.take();
    items
        .filter_map(|item| match item {
            OutputItem::Data(chunk) => Some(chunk),
            OutputItem::Watermark(_) => None,
        })
        .collect()
}

#[test]
fn rows_that_do_not_reduce_pass_through() {
    let (spec, input, between) = parts();
    let mut operator: Box<dyn Operator> = build(&spec, Some(&input), &between, &context(0, 1)).unwrap();
    let mut output = Output::default();
    for at in 0..2 {
        operator
            .process(0, chunk(at * 8192..(at + 1) * 8192), &mut output)
            .unwrap();
    }
    assert_eq!(
        drain(&mut output).iter().map(Chunk::len).sum::<usize>(),
        16_384,
        "the table was full"
    );
    // From now on rows pass at once, also equal ones, with their weights.
    let mut passing = chunk([7, 7].into_iter());
    passing.weights = Weights::Signed(vec![3, -1].into());
    operator.process(0, passing, &mut output).unwrap();
    let passed: Vec<(String, i64)> = drain(&mut output).iter().flat_map(rows_of).collect();
    assert_eq!(passed, vec![("7 3 3 3".into(), 1), ("7 -1 -1 -1".into(), 1)]);
    // After about a million rows it is tried again.
    for _ in 0..129 {
        operator.process(0, chunk(0..8192), &mut output).unwrap();
    }
    drain(&mut output);
    operator.process(0, chunk([7, 7].into_iter()), &mut output).unwrap();
    assert!(drain(&mut output).is_empty());
}

#[test]
fn rows_that_reduce_are_collected() {
    let (spec, input, between) = parts();
    let mut operator = build(&spec, Some(&input), &between, &context(0, 1)).unwrap();
    let mut output = Output::default();
    for _ in 0..8 {
        operator
            .process(0, chunk((0..8192).map(|row| row % 10)), &mut output)
            .unwrap();
    }
    let chunks = drain(&mut output);
    assert_eq!(
        chunks.iter().map(Chunk::len).sum::<usize>(),
        10,
        "flushed once, for its size"
    );
}

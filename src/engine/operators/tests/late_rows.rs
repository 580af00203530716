//! Late rows that are kept as dead letters.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::DataType;

use crate::engine::graph::{AggregateFunction as F, EmitMode, OperatorSpec, WindowAggregateSpec};
use crate::engine::message::{Chunk, Watermark};
use crate::engine::operator::Output;
use crate::engine::operators::build;
use crate::testing::aggregate_specs::{aggregate, call, context, result_schema, schema, shape, windowed};

const INT: DataType = DataType::Int64;

#[test]
fn late_rows_are_kept_with_their_reason() {
    let input = schema(&[("k", INT), ("v", INT)]);
    let aggregated = aggregate(&[0], vec![call(F::Sum, &[1], INT)], true);
    let output = shape(result_schema(&aggregated, &input, true), true);
    let spec = WindowAggregateSpec {
        late_rows: Some("public.orders".to_owned()),
        ..windowed(aggregated, 60_000_000, EmitMode::OnWindowClose)
    };
    let context = context(0, 1);
    let input_shape = shape(Arc::clone(&input), true);
    let spec = OperatorSpec::WindowAggregate(spec);
    let mut operator = build(&spec, Some(&input_shape), &output, &context).unwrap();
    let rows = |numbers: &[(i64, i64, i64)]| {
        let column = |of: fn(&(i64, i64, i64)) -> i64| -> ArrayRef {
            let values: Int64Array = numbers.iter().map(|row| Some(of(row))).collect();
            Arc::new(values)
        };
        let columns = vec![column(|row| row.1), column(|row| row.2)];
        Chunk {
            event_time: Some(numbers.iter().map(|row| row.0).collect()),
            ..Chunk::insert(RecordBatch::try_new(Arc::clone(&input), columns).unwrap())
        }
    };
    let mut sent = Output::default();
    operator.on_watermark(Watermark::At(90_000_000), &mut sent).unwrap();
    let mixed = rows(&[(10_000_000, 1, 5), (70_000_000, 1, 6), (59_999_999, 2, 7)]);
    operator.process(0, mixed, &mut sent).unwrap();
    operator.process(0, rows(&[(0, 3, 8)]), &mut sent).unwrap();
    assert_eq!(operator.late_rows(), 3);
    let letters = context.dead_letters.letters();
    let kept: Vec<&str> = letters
        .iter()
        .map(|letter| std::str::from_utf8(&letter.raw).unwrap())
        .collect();
    assert_eq!(kept, ["{\"k\":1,\"v\":5}", "{\"k\":2,\"v\":7}", "{\"k\":3,\"v\":8}"]);
    assert_eq!(letters[0].table, "public.orders");
    assert_eq!(
        letters[0].error,
        "late: the window from 1970-01-01 00:00:00 to 1970-01-01 00:01:00 closed, the watermark is 1970-01-01 00:01:30"
    );
}

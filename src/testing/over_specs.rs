//! Specs of OVER, short enough to write in a test, over columns `t` (the time), `k`, `v`, all BIGINT.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::AggregateUDF;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::engine::graph::{AggregateFunction, OperatorSpec};
use crate::engine::order_column::OrderColumn;
use crate::engine::over_spec::{Frame, FrameBound, FrameUnit, OverFunction, OverSpec, OverWork};
use crate::testing::aggregate_specs::{context, other, schema, shape};
use crate::testing::operator_harness::Harness;

pub(crate) const UNBOUNDED: FrameBound = FrameBound::Unbounded;
pub(crate) const CURRENT: FrameBound = FrameBound::Current;

pub(crate) fn tkv() -> SchemaRef {
    schema(&[("t", DataType::Int64), ("k", DataType::Int64), ("v", DataType::Int64)])
}

pub(crate) fn value() -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new("v", 2))
}

pub(crate) fn frame(unit: FrameUnit, start: FrameBound, end: FrameBound) -> Frame {
    Frame { unit, start, end }
}

pub(crate) fn by(offset: i64) -> FrameBound {
    FrameBound::Offset(offset)
}

/// `function(v)` over the frame.
pub(crate) fn over_frame(function: Arc<AggregateUDF>, frame: Frame) -> OverFunction {
    let call = other(function, &tkv(), &[2], &[], &[]);
    let AggregateFunction::Other(function) = call.function else {
        panic!("a function of the library");
    };
    OverFunction::Aggregate {
        function,
        filter: None,
        frame,
    }
}

pub(crate) fn ordered(keys: &[usize], functions: Vec<OverFunction>, ttl_micros: Option<i64>) -> OverSpec {
    OverSpec {
        keys: keys.to_vec(),
        order: vec![OrderColumn {
            column: 0,
            descending: false,
            nulls_first: false,
        }],
        carried: 3,
        work: OverWork::Ordered { functions, ttl_micros },
        late_rows: None,
    }
}

/// `t`, `k`, `v` and the functions, all BIGINT.
pub(crate) fn output_schema(spec: &OverSpec) -> SchemaRef {
    let functions = match &spec.work {
        OverWork::Ordered { functions, .. } => functions.len(),
        OverWork::Whole { functions, .. } | OverWork::Changing { functions, .. } => functions.len(),
    };
    let mut fields: Vec<Field> = tkv().fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.extend((0..functions).map(|at| Field::new(format!("f{at}"), DataType::Int64, true)));
    Arc::new(Schema::new(fields))
}

pub(crate) fn over_harness(spec: OverSpec) -> Harness {
    let changes = matches!(spec.work, OverWork::Changing { .. });
    let output = shape(output_schema(&spec), !changes);
    let append_only = match spec.work {
        OverWork::Ordered { .. } => true,
        OverWork::Whole { append_only_input, .. } => append_only_input,
        OverWork::Changing { .. } => false,
    };
    let input = shape(tkv(), append_only);
    Harness::new(
        OperatorSpec::Over(Box::new(spec)),
        input,
        output,
        context(0, 1),
        Some(0),
    )
}

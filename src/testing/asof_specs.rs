//! Specs of ASOF joins, short enough to write in a test. Both inputs have the columns `t` (the event time), `m` (the time that is
//! compared), `k`, `v`; rows come out as `k`, `v` of the left one, `m`, `v` of its version.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::logical_expr::Operator as Comparison;

use crate::engine::asof_spec::{AsofForm, AsofInput, AsofJoinSpec};
use crate::engine::graph::{OperatorSpec, StreamShape};
use crate::engine::join_spec::{JoinColumn, Side};
use crate::testing::aggregate_specs::{context, schema, shape};
use crate::testing::join_harness::{JoinHarness, residual};

pub(crate) const TIME: usize = 1;
pub(crate) const KEY: usize = 2;
pub(crate) const VALUE: usize = 3;

pub(crate) fn tmkv() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let int = DataType::Int64;
    schema(&[("t", time.clone()), ("m", time), ("k", int.clone()), ("v", int)])
}

/// `m` is the event time.
pub(crate) fn asof(keys: &[usize], outer: bool) -> AsofJoinSpec {
    let input = || AsofInput {
        schema: tmkv(),
        keys: keys.to_vec(),
        time: Some(TIME),
        late_rows: None,
    };
    let of = |side, column| JoinColumn { side, column };
    AsofJoinSpec {
        form: AsofForm::Asof,
        inputs: [input(), input()],
        null_equal: vec![false; keys.len()],
        at_same_time: true,
        outer,
        residual: None,
        output: vec![
            of(Side::Left, KEY),
            of(Side::Left, VALUE),
            of(Side::Right, TIME),
            of(Side::Right, VALUE),
        ],
        ahead_micros: 0,
        hold_micros: 0,
        ttl_micros: None,
    }
}

/// With `left.v < right.v`.
pub(crate) fn with_residual(spec: AsofJoinSpec) -> AsofJoinSpec {
    let residual = Some(residual(&tmkv(), VALUE, Comparison::Lt, VALUE));
    AsofJoinSpec { residual, ..spec }
}

pub(crate) fn asof_shape(spec: &AsofJoinSpec) -> StreamShape {
    let field = |of: &JoinColumn| tmkv().field(of.column).clone();
    let fields: Vec<Field> = spec.output.iter().map(field).collect();
    shape(Arc::new(Schema::new(fields)), true)
}

pub(crate) fn asof_harness(spec: AsofJoinSpec) -> JoinHarness {
    let output = asof_shape(&spec);
    let spec = OperatorSpec::AsofJoin(Box::new(spec));
    JoinHarness::of(spec, [tmkv(), tmkv()], output, Some(0), context(0, 1))
}

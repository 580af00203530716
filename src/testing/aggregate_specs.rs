//! Shapes and specs of aggregations, short enough to write in a test.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::logical_expr::AggregateUDF;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{PhysicalSortExpr, expressions};

use crate::clock::{Clock, ManualClock};
use crate::engine::dead_letters::DeadLetters;
use crate::engine::graph::{
    AggregateCall, AggregateFunction, AggregatePhase, AggregateSpec, EmitMode, OperatorSpec, StreamShape,
    WindowAggregateSpec, WindowSpec,
};
use crate::engine::operators::BuildContext;
use crate::engine::operators::accumulators::partial_schema;
use crate::engine::results::Results;
use crate::ids::SubtaskIndex;
use crate::state::key_group::KeyGroups;
use crate::testing::operator_harness::Harness;

/// Columns by name and type, all nullable.
pub(crate) fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, data_type): &(&str, DataType)| Field::new(*name, data_type.clone(), true);
    Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()))
}

pub(crate) fn shape(schema: SchemaRef, append_only: bool) -> StreamShape {
    StreamShape {
        schema,
        append_only,
        unique_key: None,
        event_time: true,
    }
}

pub(crate) fn context(subtask: u32, parallelism: u32) -> BuildContext {
    context_with_clock(subtask, parallelism, Arc::new(ManualClock::at(0)))
}

pub(crate) fn context_with_clock(subtask: u32, parallelism: u32, clock: Arc<dyn Clock>) -> BuildContext {
    BuildContext {
        subtask: SubtaskIndex(subtask),
        parallelism,
        key_groups: KeyGroups::default(),
        clock,
        outside: None,
        results: Results::default(),
        dead_letters: DeadLetters::default(),
    }
}

pub(crate) fn call(function: AggregateFunction, arguments: &[usize], return_type: DataType) -> AggregateCall {
    AggregateCall {
        label: format!("{function:?}").to_lowercase(),
        function,
        arguments: arguments.to_vec(),
        filter: None,
        distinct: false,
        return_type,
    }
}

pub(crate) fn distinct(mut call: AggregateCall) -> AggregateCall {
    call.distinct = true;
    call
}

pub(crate) fn filtered(mut call: AggregateCall, filter: usize) -> AggregateCall {
    call.filter = Some(filter);
    call
}

/// Any function of the library over columns, ordered by columns (descending where the flag says so).
pub(crate) fn other(
    function: Arc<AggregateUDF>,
    input: &SchemaRef,
    arguments: &[usize],
    order_by: &[(usize, bool)],
    constants: &[datafusion::scalar::ScalarValue],
) -> AggregateCall {
    let column = |&at: &usize| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(input.field(at).name(), at)) };
    let mut expressions: Vec<_> = arguments.iter().map(column).collect();
    expressions.extend(constants.iter().map(|constant| expressions::lit(constant.clone())));
    let order = order_by
        .iter()
        .map(|(at, descending)| PhysicalSortExpr {
            expr: column(at),
            options: arrow::compute::SortOptions {
                descending: *descending,
                nulls_first: false,
            },
        })
        .collect();
    let expression = AggregateExprBuilder::new(function, expressions)
        .schema(Arc::clone(input))
        .alias("other")
        .order_by(order)
        .build()
        .expect("the function takes these arguments");
    let return_type = expression.field().data_type().clone();
    call(AggregateFunction::Other(Arc::new(expression)), arguments, return_type)
}

pub(crate) fn aggregate(keys: &[usize], aggregates: Vec<AggregateCall>, append_only_input: bool) -> AggregateSpec {
    AggregateSpec {
        keys: keys.to_vec(),
        placed_by: None,
        aggregates,
        phase: AggregatePhase::Single,
        append_only_input,
        state_ttl_ms: None,
    }
}

pub(crate) fn windowed(aggregate: AggregateSpec, size_micros: i64, emit: EmitMode) -> WindowAggregateSpec {
    WindowAggregateSpec {
        aggregate,
        window: WindowSpec::Tumble { size_micros },
        emit,
        late_rows: None,
        allowed_lateness_micros: 0,
    }
}

/// Output of the spec's last phase over the original input.
pub(crate) fn result_schema(spec: &AggregateSpec, input: &SchemaRef, window: bool) -> SchemaRef {
    let mut fields: Vec<Field> = spec.keys.iter().map(|&key| input.field(key).clone()).collect();
    if window {
        for name in ["window_start", "window_end"] {
            fields.push(Field::new(
                name,
                DataType::Timestamp(TimeUnit::Microsecond, None),
                false,
            ));
        }
    }
    for (at, call) in spec.aggregates.iter().enumerate() {
        fields.push(Field::new(format!("a{at}"), call.return_type.clone(), true));
    }
    Arc::new(Schema::new(fields))
}

/// The two steps of a spec: partial spec, schema between, final spec.
pub(crate) fn two_phases(spec: &AggregateSpec, input: &SchemaRef) -> (AggregateSpec, SchemaRef, AggregateSpec) {
    let partial = AggregateSpec {
        phase: AggregatePhase::Partial,
        ..spec.clone()
    };
    let between = partial_schema(&partial, input).expect("the spec can be split");
    let mut next = spec.keys.len() + 1;
    let aggregates = spec.aggregates.iter().enumerate().map(|(at, call)| {
        let prefix = format!("{at}.");
        let width = between
            .fields()
            .iter()
            .filter(|field| field.name().starts_with(&prefix))
            .count();
        next += width;
        AggregateCall {
            arguments: (next - width..next).collect(),
            filter: None,
            ..call.clone()
        }
    });
    let last = AggregateSpec {
        aggregates: aggregates.collect(),
        keys: (0..spec.keys.len()).collect(),
        phase: AggregatePhase::Final,
        ..spec.clone()
    };
    (partial, between, last)
}

/// A harness of the updating aggregate `spec`.
pub(crate) fn updating_harness(spec: AggregateSpec, input: &SchemaRef) -> Harness {
    let output = result_schema(&spec, input, false);
    let append_only = spec.append_only_input;
    Harness::new(
        OperatorSpec::UpdatingAggregate(spec),
        shape(Arc::clone(input), append_only),
        shape(output, false),
        context(0, 1),
        None,
    )
}

/// A harness of the window aggregate `spec`; event time is input column `time`.
pub(crate) fn window_harness(spec: WindowAggregateSpec, input: &SchemaRef, time: usize) -> Harness {
    let output = result_schema(&spec.aggregate, input, true);
    let append_only = spec.aggregate.append_only_input;
    Harness::new(
        OperatorSpec::WindowAggregate(spec),
        shape(Arc::clone(input), append_only),
        shape(output, true),
        context(0, 1),
        Some(time),
    )
}

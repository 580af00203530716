//! Aggregates: a Project that computes keys and arguments, an exchange that brings a key's rows together, the aggregate.
//!
//! Group-join. Behind a join rows are where the hash of its keys sends them. Where all of these are among the keys of the aggregate each
//! group lies within one key of the join, so it is whole where the join is: no joined row is sent. The state of such a group is
//! then placed by the join's keys ([`AggregateSpec::placed_by`]), at every parallelism. The same holds behind any
//! other operator that has its rows by a hash.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::{AggregateFunction as LogicalAggregate, AggregateFunctionParams};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;

use crate::engine::graph::{
    AggregateCall, AggregateFunction, AggregatePhase, AggregateSpec, EmitMode, GraphEdge, OperatorSpec, StreamShape,
    WindowAggregateSpec, WindowSpec,
};
use crate::engine::operators::accumulators;
use crate::error::SqlState;
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::Notice;
use crate::planner::error::{Error, Result};
use crate::planner::explain;
use crate::planner::graph::NewNode;
use crate::planner::physical::grouping_sets::{Grouping, OneSet};
use crate::planner::physical::times::{Distance, TimeFacts};
use crate::planner::physical::{Lowering, Spread, Stream, fingerprint_of, physical_expression};
use crate::planner::rewrites::grouping_sets::{GroupingSets, KeySet, keys_and_sets};
use crate::planner::rewrites::switches::Rewrite;
use crate::planner::rewrites::window_node::WindowAggregateNode;

/// What an aggregate works on.
pub(super) struct Prepared {
    pub stream: Stream,
    pub spec: AggregateSpec,
}

impl Lowering {
    pub(super) fn updating_aggregate(&mut self, aggregate: &Aggregate) -> Result<Stream> {
        let stream = self.lower(&aggregate.input)?;
        let (keys, sets) = keys_and_sets(aggregate)?;
        let prepared = self.prepare(stream, &aggregate.input, &keys, &aggregate.aggr_expr)?;
        let grouping = Grouping {
            keys: &keys,
            sets: sets.as_ref(),
            planned: aggregate.schema.as_arrow(),
            id: grouping_id(sets.as_ref(), keys.len()),
        };
        self.always_changing(prepared, &grouping)
    }

    /// One row a group, up to date.
    fn always_changing(&mut self, prepared: Prepared, grouping: &Grouping<'_>) -> Result<Stream> {
        self.notice_state(&prepared, grouping.keys);
        self.grouped(prepared, grouping, |lowering, set| {
            let schema = output_schema(&set.prepared, &[], &set.planned);
            let shape = StreamShape {
                schema,
                append_only: false,
                unique_key: Some((0..set.keys.len()).collect()),
                event_time: false,
            };
            let description = description(&set.keys, &set.prepared.spec);
            lowering.aggregate_node(set.prepared, shape, description, OperatorSpec::UpdatingAggregate)
        })
    }

    pub(super) fn window_aggregate(&mut self, node: &WindowAggregateNode) -> Result<Stream> {
        let stream = self.lower(&node.input)?;
        if let Some(bounds) = &node.bounds
            && !is_own_window(&stream, node, bounds)?
        {
            return self.aggregate_by_columns(stream, node, bounds);
        }
        let prepared = self.prepare(stream, &node.input, &node.keys, &node.aggregates)?;
        if !prepared.stream.shape.event_time {
            return Err(Error::not_supported(
                "a window needs event time, which not all inputs of the query have",
                "Declare a WATERMARK on every table that the window reads.",
            ));
        }
        if matches!(node.window, WindowSpec::Session { .. }) && !prepared.spec.append_only_input {
            return Err(Error::not_supported(
                "a SESSION window over changing rows is not supported: a row that goes may split a session",
                "Use a TUMBLE or HOP window, or put the session before what makes rows change.",
            ));
        }
        let late_rows = self.table_that_keeps_late_rows(prepared.stream.node);
        let lateness = self.lateness_over(prepared.stream.node);
        let grouping = Grouping {
            keys: &node.keys,
            sets: node.sets.as_ref(),
            planned: node.schema.as_arrow(),
            id: grouping_id(node.sets.as_ref(), node.schema.fields().len() - 1),
        };
        self.grouped(prepared, &grouping, |lowering, set| {
            // A late row is one dead letter, not one for each set.
            let late_rows = late_rows.clone().filter(|_| set.is_first);
            lowering.windows_of_set(node, set, late_rows, lateness)
        })
    }

    fn windows_of_set(
        &mut self,
        node: &WindowAggregateNode,
        set: OneSet,
        late_rows: Option<String>,
        allowed_lateness_micros: i64,
    ) -> Result<Stream> {
        let keys = set.keys.len();
        let bounds = [set.planned.field(keys).clone(), set.planned.field(keys + 1).clone()];
        let schema = output_schema(&set.prepared, &bounds, &set.planned);
        let shape = StreamShape {
            schema,
            append_only: node.emit == EmitMode::OnWindowClose && allowed_lateness_micros == 0,
            unique_key: Some((0..=keys).collect()),
            event_time: true,
        };
        let emit = match node.emit {
            EmitMode::OnWindowClose => "",
            EmitMode::OnUpdate => " emit=update",
        };
        let lateness = match allowed_lateness_micros {
            0 => String::new(),
            micros => format!(" allowed_lateness={}", explain::duration(micros)),
        };
        let window = format!("window={} ", explain::window(node.window));
        let description = format!("{window}{}{emit}{lateness}", description(&set.keys, &set.prepared.spec));
        let (window, emit) = (node.window, node.emit);
        let stream = self.aggregate_node(set.prepared, shape, description, move |aggregate| {
            OperatorSpec::WindowAggregate(WindowAggregateSpec {
                aggregate,
                window,
                emit,
                late_rows: late_rows.clone(),
                allowed_lateness_micros,
            })
        })?;
        let times = result_times(keys, node.window);
        Ok(Stream { times, ..stream })
    }

    /// The window is a pair of columns like others: in every group, and a part of every set.
    fn aggregate_by_columns(
        &mut self,
        stream: Stream,
        node: &WindowAggregateNode,
        bounds: &[Expr; 2],
    ) -> Result<Stream> {
        let group: Vec<Expr> = node.keys.iter().chain(bounds).cloned().collect();
        let prepared = self.prepare(stream, &node.input, &group, &node.aggregates)?;
        let with_bounds = |set: &KeySet| KeySet {
            keys: set.keys.iter().copied().chain(node.keys.len()..group.len()).collect(),
            ..set.clone()
        };
        let sets = node.sets.as_ref().map(|sets| GroupingSets {
            sets: sets.sets.iter().map(with_bounds).collect(),
            id_type: sets.id_type.clone(),
        });
        let grouping = Grouping {
            keys: &group,
            sets: sets.as_ref(),
            planned: node.schema.as_arrow(),
            id: grouping_id(sets.as_ref(), node.schema.fields().len() - 1),
        };
        self.always_changing(prepared, &grouping)
    }

    /// Computes keys, arguments and filters as columns.
    fn prepare(
        &mut self,
        stream: Stream,
        input: &LogicalPlan,
        group: &[Expr],
        aggregates: &[Expr],
    ) -> Result<Prepared> {
        let mut columns = Columns::default();
        let keys: Vec<usize> = group.iter().map(|expr| columns.of(expr)).collect();
        let calls: Vec<PlannedCall> = aggregates
            .iter()
            .map(|expr| planned_call(expr, &mut columns))
            .collect::<Result<_>>()?;
        let schema = input.schema();
        let expressions = columns
            .expressions
            .iter()
            .map(|expr| physical_expression(expr, schema))
            .collect::<Result<Vec<_>>>()?;
        let fields: Vec<Field> = columns
            .expressions
            .iter()
            .zip(columns.names())
            .map(|(expr, name)| {
                let field = datafusion::logical_expr::ExprSchemable::to_field(expr, schema.as_ref());
                let (_, field) = field.map_err(|error| SourceText("").error(error))?;
                Ok(field.as_ref().clone().with_name(name))
            })
            .collect::<Result<_>>()?;
        let texts = columns.expressions.iter().map(explain::expression).collect();
        let append_only_input = stream.shape.append_only;
        let stream = self.project(stream, expressions, Arc::new(Schema::new(fields)), texts);
        let aggregates = calls
            .into_iter()
            .map(|call| call.over(&stream.shape.schema, &columns))
            .collect::<Result<Vec<_>>>()?;
        Ok(Prepared {
            stream,
            spec: AggregateSpec {
                keys,
                placed_by: None,
                aggregates,
                phase: AggregatePhase::Single,
                append_only_input,
                state_ttl_ms: self.state_ttl_ms,
            },
        })
    }

    fn aggregate_node(
        &mut self,
        prepared: Prepared,
        output: StreamShape,
        description: String,
        operator: impl Fn(AggregateSpec) -> OperatorSpec,
    ) -> Result<Stream> {
        let Prepared { stream, spec } = prepared;
        let spec = self.placed(&stream, spec, &operator);
        let fingerprint = fingerprint(&spec, &output.schema, &operator(spec.clone()));
        let description = match &spec.placed_by {
            None => description,
            Some(places) => {
                let name = |&place: &usize| explain::column_name(output.schema.field(place).name());
                let names: Vec<String> = places.iter().map(name).collect();
                format!("{description} placed_by=[{}]", names.join(", "))
            }
        };
        let (spec, edge, parallelism) = self.bring_together(&stream, spec, &operator)?;
        let all: Vec<usize> = (0..spec.keys.len()).collect();
        let spread = Spread::by(spec.placed_by.as_ref().unwrap_or(&all));
        let node = self.builder.add(NewNode {
            operator: operator(spec),
            description,
            fingerprint,
            inputs: vec![edge],
            identified_by: Some(vec![stream.node]),
            output: output.clone(),
            parallelism,
            shared: true,
        });
        Ok(Stream {
            node,
            shape: output,
            bounded: stream.bounded,
            spread,
            times: TimeFacts::default(),
        })
    }

    /// The first table below `node` that was declared with `late_rows = 'dead_letter'`.
    pub(super) fn table_that_keeps_late_rows(&self, node: usize) -> Option<String> {
        let node = self.builder.node(node);
        match &node.operator {
            OperatorSpec::Source(source) => {
                let keeps = source.table.common().late_rows_dead_letter;
                keeps.then(|| source.table_name.clone())
            }
            _ => node
                .inputs
                .iter()
                .find_map(|edge| self.table_that_keeps_late_rows(edge.from)),
        }
    }

    /// The aggregate, to stay where the rows are if that is where its groups are whole.
    fn placed(
        &self,
        stream: &Stream,
        spec: AggregateSpec,
        operator: &impl Fn(AggregateSpec) -> OperatorSpec,
    ) -> AggregateSpec {
        let is_session = matches!(operator(spec.clone()), OperatorSpec::WindowAggregate(window)
            if matches!(window.window, WindowSpec::Session { .. }));
        let places = stream.spread.as_ref().and_then(|spread| spread.places_in(&spec.keys));
        let placed_by = places
            .filter(|places| !places.iter().copied().eq(0..spec.keys.len()))
            .filter(|_| !is_session && !self.disabled_rewrites.contains(&Rewrite::GroupJoin));
        AggregateSpec { placed_by, ..spec }
    }

    /// How the rows of a key reach one subtask, and what the aggregate there is left to do.
    fn bring_together(
        &mut self,
        stream: &Stream,
        spec: AggregateSpec,
        operator: &impl Fn(AggregateSpec) -> OperatorSpec,
    ) -> Result<(AggregateSpec, GraphEdge, u32)> {
        let wide = self.builder.node(stream.node).parallelism;
        // The hash of exactly these keys decides where a group's state is.
        if spec.placed_by.is_some() || stream.spread.as_ref().is_some_and(|spread| spread.is_by(&spec.keys)) {
            return Ok((spec, self.builder.forward(stream.node, wide), wide));
        }
        // What a session is shows only where all rows of a key meet. Rows that were aggregated before the exchange could not
        // be kept when they turn out to be late.
        let needs_rows = matches!(operator(spec.clone()), OperatorSpec::WindowAggregate(window)
            if window.late_rows.is_some() || matches!(window.window, WindowSpec::Session { .. }));
        let stays_whole = needs_rows || self.disabled_rewrites.contains(&Rewrite::LocalGlobal);
        if wide == 1 || stays_whole || !accumulators::decomposable(&spec.aggregates, spec.append_only_input) {
            let (edge, parallelism) = self.builder.keyed(stream.node, spec.keys.clone());
            return Ok((spec, edge, parallelism));
        }
        let partial = AggregateSpec {
            phase: AggregatePhase::Partial,
            state_ttl_ms: None,
            ..spec
        };
        let schema = accumulators::partial_schema(&partial, &stream.shape.schema)?;
        let last = final_phase(&partial, &stream.shape.schema, self.state_ttl_ms)?;
        let description = format!("partial aggregates=[{}]", labels(&partial));
        let node = self.builder.add(NewNode {
            fingerprint: fingerprint(&partial, &schema, &operator(partial.clone())),
            operator: operator(partial),
            description,
            inputs: vec![self.builder.forward(stream.node, wide)],
            identified_by: None,
            output: StreamShape {
                schema,
                append_only: true,
                unique_key: None,
                event_time: stream.shape.event_time,
            },
            parallelism: wide,
            shared: true,
        });
        let (edge, parallelism) = self.builder.keyed(node, last.keys.clone());
        Ok((last, edge, parallelism))
    }

    fn notice_state(&mut self, prepared: &Prepared, group: &[Expr]) {
        if self.state_ttl_ms.is_some() || prepared.stream.bounded || group.is_empty() {
            return;
        }
        let keys: Vec<String> = group.iter().map(explain::expression).collect();
        self.notices.push(Notice {
            code: SqlState::SUCCESSFUL_COMPLETION,
            message: format!("the aggregate keeps every value of ({}) for ever", keys.join(", ")),
            hint: Some(
                "Say WITH (state_ttl = '1 day') or SET updating_ttl = '1 day' to forget groups untouched for that long, \
                 or group by a TUMBLE window."
                    .into(),
            ),
        });
    }
}

/// Where the number of the set is, if there are sets: `place`.
fn grouping_id(sets: Option<&GroupingSets>, place: usize) -> usize {
    match sets {
        Some(_) => place,
        None => usize::MAX,
    }
}

/// What is known of the bounds in columns `start` and the next: results are at the last microsecond of their window.
fn result_times(start: usize, window: WindowSpec) -> TimeFacts {
    let mut times = TimeFacts::default();
    times.note(start + 1, Distance::exactly(1));
    match window {
        WindowSpec::Tumble { size_micros }
        | WindowSpec::Hop { size_micros, .. }
        | WindowSpec::Given { size_micros } => times.note(start, Distance::exactly(1i64.saturating_sub(size_micros))),
        // As long as its rows make it.
        WindowSpec::Session { .. } => {}
    }
    times
}

/// Whether the window that `bounds` say is the one that the rows are put into by their event time.
fn is_own_window(stream: &Stream, node: &WindowAggregateNode, bounds: &[Expr; 2]) -> Result<bool> {
    let schema = node.input.schema();
    let distance = |bound: &Expr| Ok::<_, Error>(stream.times.of(&physical_expression(bound, schema)?));
    let (start, end) = (distance(&bounds[0])?, distance(&bounds[1])?);
    let within = |of: Option<Distance>, least, most| of.is_some_and(|of| of.is_within(least, most));
    let last = |size: i64| size.saturating_sub(1);
    let is_own = match node.window {
        WindowSpec::Tumble { size_micros } => {
            within(start, last(size_micros).saturating_neg(), 0) && within(end, 1, size_micros)
        }
        // A session: its start is a key, see the rewrite.
        WindowSpec::Given { size_micros: 1 } => within(end, 1, 1),
        WindowSpec::Given { size_micros } => {
            let exact = last(size_micros).saturating_neg();
            within(start, exact, exact) && within(end, 1, 1)
        }
        WindowSpec::Hop { .. } | WindowSpec::Session { .. } => false,
    };
    Ok(stream.shape.event_time && is_own)
}

/// The columns that keys and aggregates are over; equal expressions once.
#[derive(Default)]
struct Columns {
    expressions: Vec<Expr>,
}

impl Columns {
    fn of(&mut self, expr: &Expr) -> usize {
        let expr = expr.clone().unalias();
        match self.expressions.iter().position(|known| *known == expr) {
            Some(index) => index,
            None => {
                self.expressions.push(expr);
                self.expressions.len() - 1
            }
        }
    }

    /// Every column's own: an expression and a cast of it would be called the same.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::with_capacity(self.expressions.len());
        for (index, expr) in self.expressions.iter().enumerate() {
            let mut name = expr.schema_name().to_string();
            if names.contains(&name) {
                name = format!("{expr} #{index}");
            }
            names.push(name);
        }
        names
    }
}

/// An aggregate whose arguments have columns.
struct PlannedCall {
    call: LogicalAggregate,
    arguments: Vec<usize>,
    filter: Option<usize>,
    label: String,
}

fn planned_call(expr: &Expr, columns: &mut Columns) -> Result<PlannedCall> {
    let call = match expr.clone().unalias() {
        Expr::AggregateFunction(call) => call,
        other => return Err(Error::Internal(format!("{other} is not an aggregate"))),
    };
    let label = explain::expression(&Expr::AggregateFunction(call.clone()));
    let constant = |expr: &Expr| matches!(expr, Expr::Literal(..));
    let counts_rows = call.func.name() == "count" && !call.params.distinct && call.params.args.iter().all(constant);
    let mut arguments = Vec::new();
    if !counts_rows {
        for argument in &call.params.args {
            // Other functions may need a constant to stay one; see `PlannedCall::over`.
            if !constant(argument) || is_own(call.func.name()) {
                arguments.push(columns.of(argument));
            }
        }
        for order in &call.params.order_by {
            if !constant(&order.expr) {
                arguments.push(columns.of(&order.expr));
            }
        }
    }
    let filter = call.params.filter.as_ref().map(|filter| columns.of(filter));
    Ok(PlannedCall {
        call,
        arguments,
        filter,
        label,
    })
}

/// Whether the engine computes the function by itself.
fn is_own(name: &str) -> bool {
    own_function(name).is_some()
}

fn own_function(name: &str) -> Option<AggregateFunction> {
    Some(match name {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "avg" => AggregateFunction::Avg,
        "bool_and" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        _ => return None,
    })
}

impl PlannedCall {
    /// The call over the columns of `schema`, which hold `columns`.
    fn over(self, schema: &SchemaRef, columns: &Columns) -> Result<AggregateCall> {
        let over = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| SourceText("").error(error))?;
        let names = columns.names();
        let column = |expr: Expr| {
            let index = columns.expressions.iter().position(|known| *known == expr);
            match (index, expr) {
                (_, literal @ Expr::Literal(..)) => Ok(literal),
                (Some(index), _) => Ok(Expr::Column(Column::new_unqualified(&names[index]))),
                (None, other) => Err(Error::Internal(format!("no column holds {other}"))),
            }
        };
        let AggregateFunctionParams {
            args,
            distinct,
            order_by,
            null_treatment,
            ..
        } = self.call.params;
        let simple = order_by.is_empty() && null_treatment.is_none();
        let args = args
            .into_iter()
            .map(|arg| column(arg.unalias()))
            .collect::<Result<Vec<_>>>()?;
        let order_by = order_by
            .into_iter()
            .map(|mut order| {
                order.expr = column(order.expr.unalias())?;
                Ok(order)
            })
            .collect::<Result<Vec<_>>>()?;
        let name = self.call.func.name().to_owned();
        let rewritten = Expr::AggregateFunction(LogicalAggregate::new_udf(
            Arc::clone(&self.call.func),
            args,
            distinct,
            None,
            order_by,
            null_treatment,
        ));
        let lowered = LoweredAggregateBuilder::new(
            &rewritten,
            &over,
            schema.as_ref(),
            &ExecutionProps::new(),
            &PhysicalPlanningContext::default(),
        )
        .with_name(self.label.clone())
        .build()
        .map_err(|error| SourceText("").error(error))?;
        let return_type = lowered.aggregate.field().data_type().clone();
        let function = match own_function(&name) {
            Some(AggregateFunction::Count) if self.arguments.is_empty() => AggregateFunction::CountRows,
            // Order and NULL handling change nothing in these.
            Some(own) if simple || !matches!(own, AggregateFunction::Count) => own,
            Some(own) => own,
            None => AggregateFunction::Other(lowered.aggregate),
        };
        Ok(AggregateCall {
            function,
            arguments: self.arguments,
            filter: self.filter,
            distinct,
            return_type,
            label: self.label,
        })
    }
}

/// Keys, window bounds and results, with the types that they really have.
fn output_schema(prepared: &Prepared, bounds: &[Field], planned: &Schema) -> SchemaRef {
    let input = &prepared.stream.shape.schema;
    let keys = prepared.spec.keys.iter().zip(planned.fields()).map(|(&key, planned)| {
        let field = input.field(key);
        planned
            .as_ref()
            .clone()
            .with_data_type(field.data_type().clone())
            .with_nullable(field.is_nullable())
    });
    let first_result = prepared.spec.keys.len() + bounds.len();
    let results = prepared
        .spec
        .aggregates
        .iter()
        .zip(planned.fields().iter().skip(first_result))
        .map(|(call, planned)| {
            planned
                .as_ref()
                .clone()
                .with_data_type(call.return_type.clone())
                .with_nullable(true)
        });
    Arc::new(Schema::new(
        keys.chain(bounds.iter().cloned()).chain(results).collect::<Vec<_>>(),
    ))
}

fn description(keys: &[Expr], spec: &AggregateSpec) -> String {
    let keys: Vec<String> = keys.iter().map(explain::expression).collect();
    format!("keys=[{}] aggregates=[{}]", keys.join(", "), labels(spec))
}

fn labels(spec: &AggregateSpec) -> String {
    let calls: Vec<&str> = spec.aggregates.iter().map(|call| call.label.as_str()).collect();
    calls.join(", ")
}

/// The aggregate over the states that `partial` puts out: keys, a count of rows, the states in order.
fn final_phase(partial: &AggregateSpec, input: &Schema, state_ttl_ms: Option<u64>) -> Result<AggregateSpec> {
    let mut next = partial.keys.len() + 1;
    let mut aggregates = Vec::with_capacity(partial.aggregates.len());
    for call in &partial.aggregates {
        let width = accumulators::state_fields(call, input, partial.append_only_input)?.len();
        aggregates.push(AggregateCall {
            arguments: (next..next + width).collect(),
            filter: None,
            ..call.clone()
        });
        next += width;
    }
    Ok(AggregateSpec {
        keys: (0..partial.keys.len()).collect(),
        placed_by: None,
        aggregates,
        phase: AggregatePhase::Final,
        append_only_input: partial.append_only_input,
        state_ttl_ms,
    })
}

/// What decides the state of an aggregate; not the phase, which depends on the parallelism.
fn fingerprint(spec: &AggregateSpec, output: &Schema, operator: &OperatorSpec) -> String {
    let calls: Vec<String> = spec
        .aggregates
        .iter()
        .map(|call| {
            let function = match &call.function {
                AggregateFunction::Other(function) => {
                    let arguments: Vec<_> = function.expressions();
                    let order: Vec<String> = function
                        .order_bys()
                        .iter()
                        .map(|sort| {
                            format!(
                                "{} {:?}",
                                crate::planner::graph::expression_fingerprint(&sort.expr),
                                sort.options
                            )
                        })
                        .collect();
                    format!(
                        "{} {} [{}]",
                        function.fun().name(),
                        fingerprint_of(&arguments, &Schema::empty()),
                        order.join(", ")
                    )
                }
                own => format!("{own:?}"),
            };
            format!("{function} {:?} {:?} {}", call.arguments, call.filter, call.distinct)
        })
        .collect();
    let window = match operator {
        // Slices or whole windows are kept.
        OperatorSpec::WindowAggregate(window) if window.allowed_lateness_micros > 0 => {
            format!("{:?} {:?} late", window.window, window.emit)
        }
        OperatorSpec::WindowAggregate(window) => format!("{:?} {:?}", window.window, window.emit),
        _ => String::new(),
    };
    let place = spec
        .placed_by
        .as_ref()
        .map_or_else(String::new, |places| format!("by {places:?} "));
    format!(
        "{:?} {place}[{}] {window} append={} {}",
        spec.keys,
        calls.join("; "),
        spec.append_only_input,
        fingerprint_of(&[], output),
    )
}

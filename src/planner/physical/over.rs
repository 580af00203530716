//! OVER: which rows of the input come together, in which order, and what says that all of them have come.
//!
//! Soundness. Where an expression of PARTITION BY is within known bounds of the event time, all rows of a partition are older
//! than a moment that its rows tell; once the watermark is past it the partition is whole. Else rows are worked off in order
//! of event time, which needs that they never change and that ORDER BY begins with the event time, or a constant more or less.
//! Rows that change anyway are kept, and their partitions computed again (`over_changing`). Anything else over rows that only come
//! in would need rows that are still to come, for ever, and is refused.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::DFSchema;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::{NullTreatment, Sort, WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Window, WindowFrame, WindowFrameBound, WindowFrameUnits};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::window::{PlainAggregateWindowExpr, SlidingAggregateWindowExpr, WindowExpr};
use datafusion::physical_planner::create_window_expr;
use datafusion::scalar::ScalarValue;

use crate::engine::graph::{OperatorSpec, StreamShape};
use crate::engine::join_spec::Moment;
use crate::engine::order_column::OrderColumn;
use crate::engine::over_spec::{Frame, FrameBound, FrameUnit, OverFunction, OverSpec, OverWork};
use crate::error::SqlState;
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::Notice;
use crate::planner::error::{Error, Result};
use crate::planner::explain;
use crate::planner::functions::window::{END, START};
use crate::planner::graph::{NewNode, expression_fingerprint};
use crate::planner::physical::times::{Distance, Place, TimeFacts, scalar_micros};
use crate::planner::physical::{
    Lowering, Spread, Stream, column_index, constant, fingerprint_of, one_row, physical_expression,
};
use crate::planner::rewrites::top_n::is_ranking;

/// One function call.
pub(super) struct Call {
    /// Which of the node's.
    at: usize,
    pub(super) function: WindowFunction,
}

/// Columns of the input, and expressions that become columns.
pub(super) struct Columns<'a> {
    pub(super) schema: &'a DFSchema,
    first: usize,
    pub(super) hidden: Vec<(Expr, Arc<dyn PhysicalExpr>)>,
}

/// When a partition is whole.
struct Bound {
    distance: Distance,
    /// Of what; a column, or a field of one.
    of: Expr,
}

impl Lowering {
    pub(super) fn over(&mut self, window: &Window) -> Result<Stream> {
        let mut stream = self.lower(&window.input)?;
        let width = stream.shape.schema.fields().len();
        if width != window.input.schema().fields().len() {
            return Err(Error::Internal("OVER over rows without columns".into()));
        }
        let mut groups: Vec<Vec<Call>> = Vec::new();
        for (at, expr) in window.window_expr.iter().enumerate() {
            let call = read_call(at, expr)?;
            let same = |group: &&mut Vec<Call>| {
                let (one, other) = (&group[0].function.params, &call.function.params);
                one.partition_by == other.partition_by && one.order_by == other.order_by
            };
            match groups.iter_mut().find(same) {
                Some(group) => group.push(call),
                None => groups.push(vec![call]),
            }
        }
        let mut placed: Vec<usize> = Vec::new();
        for group in &groups {
            stream = self.over_group(stream, window, group)?;
            placed.extend(group.iter().map(|call| call.at));
        }
        let in_order = placed.iter().enumerate().all(|(at, &of)| at == of);
        if in_order {
            return Ok(stream);
        }
        let schema = Arc::clone(&stream.shape.schema);
        let mut wanted: Vec<usize> = (0..width).collect();
        for at in 0..placed.len() {
            wanted.extend(placed.iter().position(|&of| of == at).map(|found| width + found));
        }
        let column = |&at: &usize| Arc::new(PhysicalColumn::new(schema.field(at).name(), at)) as Arc<dyn PhysicalExpr>;
        let fields: Vec<Field> = wanted.iter().map(|&at| schema.field(at).clone()).collect();
        let texts = fields.iter().map(|field| explain::column_name(field.name())).collect();
        Ok(self.project(
            stream,
            wanted.iter().map(column).collect(),
            Arc::new(Schema::new(fields)),
            texts,
        ))
    }

    /// Functions of one PARTITION BY and ORDER BY.
    fn over_group(&mut self, stream: Stream, window: &Window, calls: &[Call]) -> Result<Stream> {
        let schema = window.input.schema();
        let params = &calls[0].function.params;
        let bound = match stream.shape.event_time {
            true => bound_of_partition(&stream, &params.partition_by, schema)?,
            false => None,
        };
        let changes = bound.is_none() && !stream.shape.append_only;
        if !stream.shape.event_time && !changes {
            return Err(needs_event_time(window));
        }
        let mut columns = Columns {
            schema,
            first: stream.shape.schema.fields().len(),
            hidden: Vec::new(),
        };
        let mut keys: Vec<usize> = Vec::new();
        for expr in &params.partition_by {
            let column = columns.of(expr)?;
            if !keys.contains(&column) {
                keys.push(column);
            }
        }
        let mut order = Vec::new();
        for sort in &params.order_by {
            order.push(OrderColumn {
                column: columns.of(&sort.expr)?,
                descending: !sort.asc,
                nulls_first: sort.nulls_first,
            });
        }
        let work = match bound {
            None if changes => self.changing(&stream, calls, &columns)?,
            Some(bound) => whole(&stream, calls, bound, &mut columns)?,
            None => {
                in_order_of_time(&stream, &params.order_by, schema)?;
                let functions = calls.iter().map(|call| ordered_function(call, schema));
                let functions = functions.collect::<Result<Vec<_>>>()?;
                self.notice_kept_keys(&stream, &functions, &params.partition_by);
                let ttl_micros = self
                    .state_ttl_ms
                    .map(|ms| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000));
                OverWork::Ordered { functions, ttl_micros }
            }
        };
        let spec = OverSpec {
            keys,
            order,
            carried: columns.first,
            work,
            late_rows: self.table_that_keeps_late_rows(stream.node).filter(|_| !changes),
        };
        let results = result_fields(calls, &spec, window)?;
        let fields = stream.shape.schema.fields().iter().map(|field| field.as_ref().clone());
        let shape = StreamShape {
            schema: Arc::new(Schema::new(fields.chain(results).collect::<Vec<_>>())),
            append_only: !changes,
            unique_key: stream.shape.unique_key.clone(),
            event_time: !changes,
        };
        let texts = [
            description(calls, &spec),
            fingerprint(calls, &spec, schema, &shape.schema)?,
        ];
        let hidden = columns.hidden;
        Ok(self.over_node(stream, spec, hidden, shape, texts))
    }

    /// `texts` are description and fingerprint.
    fn over_node(
        &mut self,
        stream: Stream,
        spec: OverSpec,
        hidden: Vec<(Expr, Arc<dyn PhysicalExpr>)>,
        shape: StreamShape,
        [description, fingerprint]: [String; 2],
    ) -> Stream {
        let times = match shape.event_time {
            true => stream.times.clone(),
            false => TimeFacts::default(),
        };
        let bounded = stream.bounded;
        let stream = self.with_hidden(stream, hidden);
        let (edge, parallelism) = match &stream.spread {
            Some(spread) if spread.is_by(&spec.keys) => {
                let wide = self.builder.node(stream.node).parallelism;
                (self.builder.forward(stream.node, wide), wide)
            }
            _ => self.builder.keyed(stream.node, spec.keys.clone()),
        };
        let is_shown = spec.keys.iter().all(|&key| key < spec.carried);
        let spread = Spread::by(&spec.keys).filter(|_| is_shown);
        let node = self.builder.add(NewNode {
            operator: OperatorSpec::Over(Box::new(spec)),
            description,
            fingerprint,
            inputs: vec![edge],
            identified_by: None,
            output: shape.clone(),
            parallelism,
            shared: true,
        });
        Stream {
            node,
            shape,
            bounded,
            spread,
            times,
        }
    }

    /// The stream with further columns.
    fn with_hidden(&mut self, stream: Stream, hidden: Vec<(Expr, Arc<dyn PhysicalExpr>)>) -> Stream {
        if hidden.is_empty() {
            return stream;
        }
        let schema = Arc::clone(&stream.shape.schema);
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::new();
        let mut fields: Vec<Field> = Vec::new();
        let mut texts = Vec::new();
        for (at, field) in schema.fields().iter().enumerate() {
            expressions.push(Arc::new(PhysicalColumn::new(field.name(), at)));
            fields.push(field.as_ref().clone());
            texts.push(explain::column_name(field.name()));
        }
        for (expr, physical) in hidden {
            let of = physical.data_type(&schema).unwrap_or(DataType::Null);
            fields.push(Field::new(expr.schema_name().to_string(), of, true));
            texts.push(explain::expression(&expr));
            expressions.push(physical);
        }
        self.project(stream, expressions, Arc::new(Schema::new(fields)), texts)
    }

    fn notice_kept_keys(&mut self, stream: &Stream, functions: &[OverFunction], keys: &[Expr]) {
        let forgets = functions.iter().all(|function| function.horizon_micros().is_some());
        if forgets || self.state_ttl_ms.is_some() || stream.bounded || keys.is_empty() {
            return;
        }
        let keys: Vec<String> = keys.iter().map(explain::expression).collect();
        self.notices.push(Notice {
            code: SqlState::SUCCESSFUL_COMPLETION,
            message: format!("OVER keeps the last rows or values of every ({}) for ever", keys.join(", ")),
            hint: Some(
                "Say WITH (state_ttl = '1 day') or SET updating_ttl = '1 day' to forget keys without a row for that long, or use a \
                 frame bounded by time: RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW."
                    .into(),
            ),
        });
    }
}

impl Columns<'_> {
    /// The column that `expr` is or becomes.
    fn of(&mut self, expr: &Expr) -> Result<usize> {
        let expr = expr.clone().unalias();
        let physical = physical_expression(&expr, self.schema)?;
        if let Some(column) = column_index(&physical) {
            return Ok(column);
        }
        let known = self.hidden.iter().position(|(other, _)| *other == expr);
        Ok(self.first
            + known.unwrap_or_else(|| {
                self.hidden.push((expr, physical));
                self.hidden.len() - 1
            }))
    }
}

fn read_call(at: usize, expr: &Expr) -> Result<Call> {
    let Expr::WindowFunction(function) = expr.clone().unalias_nested().data else {
        return Err(Error::Internal(format!("{expr} is not a window function")));
    };
    let name = function.fun.name().to_owned();
    if function.params.distinct {
        return Err(Error::not_supported(
            format!("DISTINCT in {name}(..) OVER is not supported"),
            "Count each value once before: mark its first row by row_number() OVER (PARTITION BY .. the value ORDER BY ..).",
        ));
    }
    if function.params.null_treatment == Some(NullTreatment::IgnoreNulls) {
        return Err(Error::not_supported(
            format!("IGNORE NULLS in {name}(..) OVER is not supported in a continuous query"),
            "Leave rows without a value out before: FROM (SELECT .. WHERE value IS NOT NULL).",
        ));
    }
    Ok(Call {
        at,
        function: *function,
    })
}

/// The expression of PARTITION BY that says most closely when all rows of a partition have come.
fn bound_of_partition(stream: &Stream, keys: &[Expr], schema: &DFSchema) -> Result<Option<Bound>> {
    let mut best: Option<Bound> = None;
    for key in keys {
        let key = key.clone().unalias();
        let facts = stream.times.through(&[physical_expression(&key, schema)?]);
        for field in [None, Some(END), Some(START)] {
            let place = Place {
                column: 0,
                field: field.map(str::to_owned),
            };
            let Some(distance) = facts.at(&place) else {
                continue;
            };
            let width = |of: Distance| of.most.saturating_sub(of.least);
            if best.as_ref().is_none_or(|best| width(distance) < width(best.distance)) {
                let of = match field {
                    None => key.clone(),
                    Some(field) => get_field(key.clone(), field),
                };
                best = Some(Bound { distance, of });
            }
        }
    }
    Ok(best)
}

/// Partitions that the watermark ends.
fn whole(stream: &Stream, calls: &[Call], bound: Bound, columns: &mut Columns<'_>) -> Result<OverWork> {
    let Distance { least, most } = bound.distance;
    let done = if least == most {
        // All rows of the partition have one event time.
        None
    } else {
        Some(Moment {
            column: columns.of(&bound.of)?,
            offset_micros: least.saturating_neg(),
        })
    };
    let has_map = |field: &Arc<Field>| matches!(field.data_type(), DataType::Map(..));
    if !stream.shape.append_only && stream.shape.schema.fields().iter().any(has_map) {
        return Err(Error::not_supported(
            "OVER over changing rows with a MAP column is not supported",
            "Leave the column out, or take the values that you need from it before.",
        ));
    }
    let functions = calls.iter().map(|call| window_expression(call, columns.schema));
    Ok(OverWork::Whole {
        functions: functions.collect::<Result<_>>()?,
        done,
        hold_micros: most.saturating_sub(least),
        append_only_input: stream.shape.append_only,
    })
}

pub(super) fn window_expression(call: &Call, schema: &DFSchema) -> Result<Arc<dyn WindowExpr>> {
    create_window_expr(
        &Expr::WindowFunction(Box::new(call.function.clone())),
        schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
    .map_err(|error| SourceText("").error(error))
}

fn needs_event_time(window: &Window) -> Error {
    if !is_ranking(window) {
        return Error::not_supported(
            "OVER in a continuous query needs event time, which not all inputs of the query have",
            "Declare a WATERMARK on every table that it reads, or use OVER when you read the kept result.",
        );
    }
    Error::not_supported(
        "a rank without a constant upper bound is not supported in a continuous query whose inputs do not all have event time",
        "Keep the first rows only, in the query around it: WHERE rank <= 10; or declare a WATERMARK and ORDER BY its column; \
         or rank when you read from the pipeline.",
    )
}

/// Whether rows can be worked off as time goes on.
fn in_order_of_time(stream: &Stream, order: &[Sort], schema: &DFSchema) -> Result<()> {
    let Some(first) = order.first() else {
        return Err(Error::not_supported(
            "OVER without ORDER BY in a continuous query is not supported: its rows never all come",
            "ORDER BY the event time of the table, or PARTITION BY a window.",
        ));
    };
    let distance = stream.times.of(&physical_expression(&first.expr, schema)?);
    let is_time = distance.is_some_and(|distance| distance.least == distance.most);
    if is_time && first.asc {
        return Ok(());
    }
    let shown = explain::expression(&first.expr);
    let what = if is_time {
        format!("OVER (ORDER BY {shown} DESC) in a continuous query is not supported: later rows come first")
    } else {
        format!("OVER (ORDER BY {shown}) in a continuous query is not supported: \"{shown}\" is not the event time")
    };
    Err(Error::not_supported(
        what,
        "ORDER BY the column of WATERMARK FOR first, ascending; or PARTITION BY a window; or keep the first rows of a rank \
         only, in the query around it: WHERE rank <= 10.",
    ))
}

/// A call over rows in order of event time.
fn ordered_function(call: &Call, schema: &DFSchema) -> Result<OverFunction> {
    let params = &call.function.params;
    let argument = |at: usize| {
        let argument = params.args.get(at);
        argument.ok_or_else(|| Error::Internal(format!("{} lacks an argument", call.function.fun.name())))
    };
    let value = || physical_expression(argument(0)?, schema);
    let name = call.function.fun.name();
    if let WindowFunctionDefinition::AggregateUDF(_) = &call.function.fun {
        let filter = params.filter.as_ref();
        return Ok(OverFunction::Aggregate {
            function: Arc::new(aggregate_of(window_expression(call, schema)?.as_ref())?),
            filter: filter.map(|filter| physical_expression(filter, schema)).transpose()?,
            frame: frame_of(&params.window_frame)?,
        });
    }
    Ok(match name {
        "row_number" => OverFunction::RowNumber,
        "rank" => OverFunction::Rank,
        "dense_rank" => OverFunction::DenseRank,
        "lag" | "lead" => {
            let value = value()?;
            let of = value
                .data_type(schema.as_arrow())
                .map_err(|error| SourceText("").error(error))?;
            let by = params.args.get(1).map_or(Ok(1), |by| integer(by, name))?;
            let default = match params.args.get(2) {
                Some(default) => literal(default, &of, name)?,
                None => ScalarValue::try_from(&of).map_err(|error| SourceText("").error(error))?,
            };
            let back = if name == "lag" { by } else { by.saturating_neg() };
            OverFunction::Shift { value, back, default }
        }
        "first_value" | "nth_value" | "last_value" => {
            let (value, frame) = (value()?, frame_of(&params.window_frame)?);
            match name {
                "first_value" => OverFunction::Nth { value, n: 1, frame },
                "last_value" => OverFunction::Last { value, frame },
                _ => match integer(argument(1)?, name)? {
                    n if n > 0 => OverFunction::Nth { value, n, frame },
                    _ => {
                        let message = "argument of nth_value must be greater than zero";
                        return Err(Error::query(SqlState::INVALID_PARAMETER_VALUE, message));
                    }
                },
            }
        }
        other => {
            return Err(Error::not_supported(
                format!("{other}() OVER in order of time is not supported: it needs all rows of the partition"),
                "PARTITION BY a window, such as that of a windowed aggregate or TUMBLE(ts, '1 minute').",
            ));
        }
    })
}

fn aggregate_of(expression: &dyn WindowExpr) -> Result<AggregateFunctionExpr> {
    let of = expression.as_any();
    let plain = of
        .downcast_ref::<PlainAggregateWindowExpr>()
        .map(|of| of.get_aggregate_expr());
    let sliding = || {
        of.downcast_ref::<SlidingAggregateWindowExpr>()
            .map(|of| of.get_aggregate_expr())
    };
    plain
        .or_else(sliding)
        .cloned()
        .ok_or_else(|| Error::Internal(format!("{} is not an aggregate", expression.name())))
}

fn literal(expr: &Expr, of: &DataType, function: &str) -> Result<ScalarValue> {
    if !expr.column_refs().is_empty() || expr.is_volatile() {
        return Err(Error::not_supported(
            format!("{function}() with an offset or default that is not a constant is not supported"),
            "Give a constant, and compute the rest in an outer query: coalesce(lag(x) OVER (..), y).",
        ));
    }
    let value = constant(expr, &DFSchema::empty(), &one_row(), of)?;
    ScalarValue::try_from_array(&value, 0).map_err(|error| SourceText("").error(error))
}

fn integer(expr: &Expr, function: &str) -> Result<i64> {
    match literal(expr, &DataType::Int64, function)? {
        ScalarValue::Int64(Some(value)) => Ok(value),
        _ => {
            let message = format!("the offset of {function}() must not be NULL");
            Err(Error::query(SqlState::INVALID_PARAMETER_VALUE, message))
        }
    }
}

fn frame_of(frame: &WindowFrame) -> Result<Frame> {
    let unit = match frame.units {
        WindowFrameUnits::Rows => FrameUnit::Rows,
        WindowFrameUnits::Range => FrameUnit::Range,
        WindowFrameUnits::Groups => FrameUnit::Groups,
    };
    let offset = |value: &ScalarValue| match (unit, value) {
        (FrameUnit::Range, value) => scalar_micros(value).filter(|&micros| micros >= 0).ok_or_else(|| {
            Error::not_supported(
                format!("RANGE with an offset of {value} is not supported: it has no fixed length"),
                "Use an interval of days or less, such as INTERVAL '30 days'.",
            )
        }),
        (_, ScalarValue::UInt64(Some(rows))) => Ok(i64::try_from(*rows).unwrap_or(i64::MAX)),
        (_, other) => Err(Error::Internal(format!("a frame of {other}"))),
    };
    let bound = |bound: &WindowFrameBound| {
        Ok::<_, Error>(match bound {
            WindowFrameBound::CurrentRow => FrameBound::Current,
            WindowFrameBound::Preceding(value) if value.is_null() => FrameBound::Unbounded,
            WindowFrameBound::Following(value) if value.is_null() => return Err(unbounded_following()),
            WindowFrameBound::Preceding(value) => FrameBound::Offset(offset(value)?.saturating_neg()),
            WindowFrameBound::Following(value) => FrameBound::Offset(offset(value)?),
        })
    };
    Ok(Frame {
        unit,
        start: bound(&frame.start_bound)?,
        end: bound(&frame.end_bound)?,
    })
}

fn unbounded_following() -> Error {
    Error::not_supported(
        "UNBOUNDED FOLLOWING in a continuous query is not supported: what follows never ends",
        "End the frame at CURRENT ROW or n FOLLOWING; or PARTITION BY a window.",
    )
}

fn result_fields(calls: &[Call], spec: &OverSpec, window: &Window) -> Result<Vec<Field>> {
    let first = window.input.schema().fields().len();
    let mut fields = Vec::with_capacity(calls.len());
    for (at, call) in calls.iter().enumerate() {
        let planned = window.schema.field(first + call.at);
        let of = match &spec.work {
            OverWork::Whole { functions, .. } | OverWork::Changing { functions, .. } => {
                let field = functions[at].field().map_err(|error| SourceText("").error(error))?;
                field.data_type().clone()
            }
            OverWork::Ordered { functions, .. } => match &functions[at] {
                OverFunction::Aggregate { function, .. } => function.field().data_type().clone(),
                _ => planned.data_type().clone(),
            },
        };
        fields.push(planned.as_ref().clone().with_data_type(of).with_nullable(true));
    }
    Ok(fields)
}

fn description(calls: &[Call], spec: &OverSpec) -> String {
    let list = |expressions: &mut dyn Iterator<Item = String>| expressions.collect::<Vec<_>>().join(", ");
    let params = &calls[0].function.params;
    let keys = list(&mut params.partition_by.iter().map(explain::expression));
    let order = list(&mut params.order_by.iter().map(|sort| {
        let direction = if sort.asc { "" } else { " DESC" };
        format!("{}{direction}", explain::expression(&sort.expr))
    }));
    let functions = list(&mut calls.iter().map(call_text));
    let keeps = keeps_text(&spec.work);
    format!("keys=[{keys}] order=[{order}] functions=[{functions}] keeps=[{keeps}]")
}

fn call_text(call: &Call) -> String {
    let params = &call.function.params;
    let name = call.function.fun.name();
    let arguments: Vec<String> = params.args.iter().map(explain::expression).collect();
    let arguments = match (name, arguments.as_slice()) {
        ("count", [one]) if one == "1" => "*".to_owned(),
        _ => arguments.join(", "),
    };
    let filter = params.filter.as_ref().map_or(String::new(), |filter| {
        format!(" FILTER {}", explain::expression(filter))
    });
    let has_frame = matches!(call.function.fun, WindowFunctionDefinition::AggregateUDF(_))
        || matches!(name, "first_value" | "last_value" | "nth_value");
    let frame = if has_frame {
        format!(" {}", frame_text(&params.window_frame))
    } else {
        String::new()
    };
    format!("{name}({arguments}){filter}{frame}")
}

fn frame_text(frame: &WindowFrame) -> String {
    let offset = |value: &ScalarValue| match scalar_micros(value) {
        _ if value.is_null() => "UNBOUNDED".to_owned(),
        Some(micros) => explain::duration(micros),
        None => value.to_string(),
    };
    let bound = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => "CURRENT ROW".to_owned(),
        WindowFrameBound::Preceding(value) => format!("{} PRECEDING", offset(value)),
        WindowFrameBound::Following(value) => format!("{} FOLLOWING", offset(value)),
    };
    let (start, end) = (bound(&frame.start_bound), bound(&frame.end_bound));
    format!("{} {start} .. {end}", frame.units)
}

/// What is kept besides rows that the watermark has not passed.
fn keeps_text(work: &OverWork) -> String {
    let (functions, ttl) = match work {
        OverWork::Whole { .. } => return "rows until the watermark ends their partition".into(),
        OverWork::Changing { ttl_ms, .. } => {
            let ttl = ttl_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000));
            let ttl = ttl.map_or(String::new(), |ttl| format!(", for {}", explain::duration(ttl)));
            return format!("all rows, and computes what changed again{ttl}");
        }
        OverWork::Ordered { functions, ttl_micros } => (functions, ttl_micros),
    };
    let mut rows = 0;
    let mut micros = 0;
    let mut kept = Vec::new();
    for function in functions {
        match (function, function.frame().map(|frame| (frame.unit, frame.start))) {
            (OverFunction::Shift { back, .. }, _) => rows = rows.max(*back),
            (_, Some((FrameUnit::Range, FrameBound::Offset(by)))) => micros = micros.max(by.saturating_neg()),
            (_, Some((_, FrameBound::Offset(by)))) => rows = rows.max(by.saturating_neg()),
            _ => {}
        }
    }
    if functions.iter().any(OverFunction::is_running) {
        kept.push("running values of each key".to_owned());
    }
    if rows > 0 {
        kept.push(format!("{rows} rows or groups of each key"));
    }
    if micros > 0 {
        kept.push(explain::duration(micros));
    }
    if kept.is_empty() {
        kept.push("rows until the watermark passes them".into());
    }
    if let Some(ttl) = ttl {
        kept.push(format!("for {}", explain::duration(*ttl)));
    }
    kept.join(", ")
}

/// What decides the state and the results.
fn fingerprint(calls: &[Call], spec: &OverSpec, schema: &DFSchema, output: &Schema) -> Result<String> {
    let of = |expr: &Expr| Ok::<_, Error>(expression_fingerprint(&physical_expression(expr, schema)?));
    let mut functions = Vec::with_capacity(calls.len());
    for call in calls {
        let params = &call.function.params;
        let arguments = params.args.iter().map(of).collect::<Result<Vec<_>>>()?;
        let filter = params.filter.as_ref().map(|filter| of(filter)).transpose()?;
        let (name, frame) = (call.function.fun.name(), &params.window_frame);
        functions.push(format!("{name}({}) {filter:?} {frame}", arguments.join(", ")));
    }
    let done = match &spec.work {
        OverWork::Whole { done, .. } => format!("{done:?}"),
        OverWork::Ordered { .. } => String::new(),
        OverWork::Changing { .. } => "changing".to_owned(),
    };
    Ok(format!(
        "{:?} {:?} {} {done} [{}] {}",
        spec.keys,
        spec.order,
        spec.carried,
        functions.join("; "),
        fingerprint_of(&[], output)
    ))
}

//! Finds the windows of a query: GROUP BY over `tumble(..)`, `hop(..)` or `session(..)`, directly or through subqueries and
//! views, becomes a [`WindowAggregateNode`].
//!
//! Soundness: rows are put into windows by the event time that travels beside them, so the rewrite fires only for
//! `tumble(size)` and for `tumble(ts, size)` where `ts` is the event time itself; any other time column is refused.
//! Results of windows that are grouped by their window again have the last microsecond of it as their event time, which
//! tells which window that is; of sessions, whose length differs, the start is one more key.
//! A tumbling window that is not grouped by is arithmetic on its time column.

use std::sync::Arc;

use arrow::compute::kernels::cast_utils::parse_interval_month_day_nano;
use arrow::datatypes::{DataType, IntervalMonthDayNano, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, JoinType, ScalarValue};
use datafusion::functions::core::expr_fn::{get_field, named_struct};
use datafusion::functions::datetime::expr_fn::date_bin;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    Aggregate, Expr, Extension, LogicalPlan, LogicalPlanBuilder, Operator, binary_expr, cast, lit,
};

use crate::engine::graph::{EmitMode, WindowSpec};
use crate::error::{ErrorReport, SqlState};
use crate::planner::bind::tables::StreamTable;
use crate::planner::error::{Error, Result};
use crate::planner::functions::window::{END, HOP, SESSION, START, durations, is_window, usage};
use crate::planner::rewrites::asof_node::AsofJoinNode;
use crate::planner::rewrites::grouping_sets::{GroupingSets, KeySet, keys_and_sets};
use crate::planner::rewrites::text_literal;
use crate::planner::rewrites::window_node::{WINDOW, WindowAggregateNode};

/// What a column says about a window.
#[derive(Clone, Debug, PartialEq)]
struct WindowUse {
    /// The time column as named, at the place where it was named; `None` for the table's event time.
    by_event_time: bool,
    window: WindowSpec,
    /// The rows are results of this window.
    given: bool,
    part: Part,
    /// The rows came through a join since.
    joined: bool,
}

impl WindowUse {
    fn is_given_session(&self) -> bool {
        self.given && matches!(self.window, WindowSpec::Session { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    Start,
    End,
}

/// Replaces every aggregate over a window.
pub fn rewrite(plan: LogicalPlan, emit: EmitMode) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => match windowed(&aggregate, emit).map_err(external)? {
            Some(replacement) => Ok(Transformed::yes(replacement)),
            None => Ok(Transformed::no(LogicalPlan::Aggregate(aggregate))),
        },
        LogicalPlan::Distinct(distinct) => Ok(Transformed::no(LogicalPlan::Distinct(distinct))),
        other => Ok(Transformed::no(other)),
    });
    Ok(rewritten.map_err(from_datafusion)?.data)
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn from_datafusion(error: DataFusionError) -> Error {
    crate::planner::bind::positions::SourceText("").error(error)
}

fn windowed(aggregate: &Aggregate, emit: EmitMode) -> Result<Option<LogicalPlan>> {
    if let Some(distinct) = without_repeated_keys(aggregate).map_err(from_datafusion)? {
        return windowed(&distinct, emit);
    }
    let (group, sets) = keys_and_sets(aggregate)?;
    let mut window: Option<WindowUse> = None;
    let mut uses = Vec::with_capacity(group.len());
    for expr in &group {
        if contains_window_inside(expr) {
            return Err(Error::not_supported(
                "grouping by an expression over a window is not supported",
                "Group by the window itself, or by its start or end, and compute the expression in an outer query.",
            ));
        }
        let found = window_use(expr, &aggregate.input)?;
        if let Some(found) = &found {
            match &window {
                Some(first) if (first.window, first.given) != (found.window, found.given) => {
                    return Err(Error::not_supported(
                        "grouping by two different windows is not supported",
                        "Group by one window in a subquery and by the other in the query around it.",
                    ));
                }
                _ => window = Some(found.clone()),
            }
        }
        uses.push(found);
    }
    let Some(window) = window else {
        return Ok(None);
    };
    if !window.by_event_time {
        return Err(not_event_time());
    }
    let mut bounds = None;
    if uses.iter().flatten().any(|found| found.joined) {
        bounds = joined_bounds(&group, &uses);
        if bounds.is_none() {
            return Ok(None);
        }
    } else {
        require_event_time(&aggregate.input)?;
    }
    let Some((keys, sets)) = keys_of_node(&group, &uses, &window, sets)? else {
        return Ok(None);
    };
    let mut node = WindowAggregateNode::try_new(
        aggregate.input.as_ref().clone(),
        keys,
        aggregate.aggr_expr.clone(),
        window_of_node(&window),
        emit,
        sets,
    )
    .map_err(from_datafusion)?;
    node.bounds = bounds;
    projection_over(aggregate, &uses, node).map(Some)
}

/// What is grouped by besides the window, and the sets of it; `None` when results of windows are grouped by otherwise than by
/// their windows, as by any columns.
fn keys_of_node(
    group: &[Expr],
    uses: &[Option<WindowUse>],
    window: &WindowUse,
    sets: Option<GroupingSets>,
) -> Result<Option<(Vec<Expr>, Option<GroupingSets>)>> {
    let no_window = |(_, found): &(&Expr, &Option<WindowUse>)| found.is_none();
    let mut keys: Vec<Expr> = group
        .iter()
        .zip(uses)
        .filter(no_window)
        .map(|(expr, _)| expr.clone())
        .collect();
    let mut sets = match sets {
        Some(sets) if !all_have_the_window(&sets, uses) => {
            if window.given {
                return Ok(None);
            }
            return Err(Error::not_supported(
                "grouping sets of which not all have the window are not supported",
                "Put the window before the sets: GROUP BY window, ROLLUP (..); what is over all windows goes into a query \
                 around it.",
            ));
        }
        Some(sets) => Some(without_window(sets, uses)),
        None => None,
    };
    if window.is_given_session() {
        // By one bound alone several sessions are one group, which nothing tells to be complete.
        let Some(start) = session_start(group, uses) else {
            return Ok(None);
        };
        for set in sets.iter_mut().flat_map(|sets| &mut sets.sets) {
            set.keys.push(keys.len());
        }
        keys.push(start);
    }
    Ok(Some((keys, sets)))
}

fn all_have_the_window(sets: &GroupingSets, uses: &[Option<WindowUse>]) -> bool {
    let windows: Vec<usize> = (0..uses.len()).filter(|&index| uses[index].is_some()).collect();
    let has_it = |set: &KeySet| windows.iter().all(|index| set.keys.contains(index));
    sets.sets.iter().all(has_it)
}

/// The sets over the keys that are no windows.
fn without_window(sets: GroupingSets, uses: &[Option<WindowUse>]) -> GroupingSets {
    let position = |index: usize| uses[..index].iter().filter(|found| found.is_none()).count();
    let of_keys = |set: KeySet| KeySet {
        keys: set
            .keys
            .into_iter()
            .filter(|&index| uses[index].is_none())
            .map(position)
            .collect(),
        ..set
    };
    GroupingSets {
        sets: sets.sets.into_iter().map(of_keys).collect(),
        ..sets
    }
}

/// `GROUP BY k, (k)`: the aggregate's columns hold k once, and so must its keys.
fn without_repeated_keys(aggregate: &Aggregate) -> Result<Option<Aggregate>, DataFusionError> {
    let mut keys: Vec<Expr> = Vec::with_capacity(aggregate.group_expr.len());
    for key in &aggregate.group_expr {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    if keys.len() == aggregate.group_expr.len() {
        return Ok(None);
    }
    Aggregate::try_new(Arc::clone(&aggregate.input), keys, aggregate.aggr_expr.clone()).map(Some)
}

/// How rows are put into the windows: those that are results of windows by these.
fn window_of_node(window: &WindowUse) -> WindowSpec {
    match (window.given, window.window) {
        (true, WindowSpec::Session { .. }) => WindowSpec::Given { size_micros: 1 },
        (true, WindowSpec::Hop { size_micros, .. }) => WindowSpec::Given { size_micros },
        (_, window) => window,
    }
}

/// The start of the sessions that rows are results of, when both bounds are grouped by.
fn session_start(group: &[Expr], uses: &[Option<WindowUse>]) -> Option<Expr> {
    let part_of = |part: Part| {
        let found = |found: &Option<WindowUse>| found.as_ref().is_some_and(|found| found.part == part);
        uses.iter().position(found).map(|at| group[at].clone().unalias())
    };
    match (part_of(Part::Whole), part_of(Part::Start), part_of(Part::End)) {
        (Some(whole), _, _) => Some(get_field(whole, START)),
        (None, Some(start), Some(_)) => Some(start),
        _ => None,
    }
}

/// The columns of the aggregate that was, over those of the node.
fn projection_over(
    aggregate: &Aggregate,
    uses: &[Option<WindowUse>],
    node: WindowAggregateNode,
) -> Result<LogicalPlan> {
    let group_count = uses.len();
    // Beside the keys in the aggregate, at the end in the node.
    let ids = usize::from(node.sets.is_some());
    let mut key_columns =
        (0..node.keys.len()).map(|index| Expr::Column(Column::from(node.schema.qualified_field(index))));
    let first_aggregate = node.keys.len() + 2;
    let given_session = uses.iter().flatten().any(WindowUse::is_given_session);
    let start = match node.keys.len().checked_sub(1).filter(|_| given_session) {
        Some(last) => Expr::Column(Column::from(node.schema.qualified_field(last))),
        None => WindowAggregateNode::bound(START),
    };
    let mut columns = Vec::with_capacity(aggregate.schema.fields().len());
    for (index, (qualifier, field)) in aggregate.schema.iter().enumerate() {
        let value = if index < group_count {
            match &uses[index] {
                Some(found) => match found.part {
                    Part::Whole => named_struct(vec![
                        lit(START),
                        start.clone(),
                        lit(END),
                        WindowAggregateNode::bound(END),
                    ]),
                    Part::Start => start.clone(),
                    Part::End => WindowAggregateNode::bound(END),
                },
                None => key_columns
                    .next()
                    .ok_or_else(|| Error::Internal("a window aggregate lost a key".into()))?,
            }
        } else if index < group_count + ids {
            Expr::Column(Column::from(
                node.schema.qualified_field(node.schema.fields().len() - 1),
            ))
        } else {
            let position = first_aggregate + index - group_count - ids;
            Expr::Column(Column::from(node.schema.qualified_field(position)))
        };
        let named = match (&value, qualifier) {
            (Expr::Column(column), qualifier)
                if column.relation.as_ref() == qualifier && column.name == *field.name() =>
            {
                value
            }
            (_, Some(qualifier)) => value.alias_qualified(Some(qualifier.clone()), field.name()),
            (_, None) => value.alias(field.name()),
        };
        columns.push(named);
    }
    let extension = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    LogicalPlanBuilder::from(extension)
        .project(columns)
        .and_then(LogicalPlanBuilder::build)
        .map_err(from_datafusion)
}

/// What `expr` over `input` says about a window, looking through projections below.
fn window_use(expr: &Expr, input: &LogicalPlan) -> Result<Option<WindowUse>> {
    match expr {
        Expr::Alias(alias) => window_use(&alias.expr, input),
        Expr::ScalarFunction(call) if is_window(call.name()) => of_call(call, input).map(Some),
        Expr::ScalarFunction(call) if call.name() == "get_field" => {
            let [inner, field] = call.args.as_slice() else {
                return Ok(None);
            };
            let part = match text_literal(field) {
                Some(START) => Part::Start,
                Some(END) => Part::End,
                _ => return Ok(None),
            };
            Ok(window_use(inner, input)?
                .filter(|found| found.part == Part::Whole)
                .map(|found| WindowUse { part, ..found }))
        }
        // The window that the rows of `input` are results of: their event time lies in it.
        Expr::ScalarFunction(call) if call.name() == "named_struct" => match call.args.as_slice() {
            [_, start, _, end] => {
                let (start, end) = (window_use(start, input)?, window_use(end, input)?);
                Ok(match (start, end) {
                    (Some(start), Some(end)) if start.part == Part::Start && end.part == Part::End => Some(WindowUse {
                        part: Part::Whole,
                        ..start
                    }),
                    _ => None,
                })
            }
            _ => Ok(None),
        },
        Expr::Column(column) => match (origin(column, input), joined_side(column, input)) {
            (Some((expr, below)), _) => window_use(&expr, below),
            (None, Some((column, below))) => {
                Ok(window_use(&Expr::Column(column), below)?.map(|found| WindowUse { joined: true, ..found }))
            }
            (None, None) => Ok(bound_of_result(column, input)),
        },
        _ => Ok(None),
    }
}

/// The side of a join, or the input of a ranking, that a column comes from, and what it is there.
fn joined_side<'a>(column: &Column, plan: &'a LogicalPlan) -> Option<(Column, &'a LogicalPlan)> {
    let index = plan.schema().maybe_index_of_column(column)?;
    let join = match plan {
        LogicalPlan::Join(join) => join,
        // Ranked rows, which may have lost their event time.
        LogicalPlan::Window(ranking) => {
            let known = index < ranking.input.schema().fields().len();
            let below = || Column::from(ranking.input.schema().qualified_field(index));
            return known.then(|| (below(), ranking.input.as_ref()));
        }
        _ => return None,
    };
    let left = join.left.schema().fields().len();
    let (side, index) = match join.join_type {
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => (&join.right, index),
        _ if index < left => (&join.left, index),
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => return None,
        _ => (&join.right, index - left),
    };
    let known = index < side.schema().fields().len();
    known.then(|| (Column::from(side.schema().qualified_field(index)), side.as_ref()))
}

/// Start and end of the window that came through a join; `None` when the expressions may speak of several.
fn joined_bounds(group: &[Expr], uses: &[Option<WindowUse>]) -> Option<[Expr; 2]> {
    let mut parts: Vec<(Part, [Expr; 2])> = Vec::new();
    for (expr, found) in group.iter().zip(uses) {
        let Some(found) = found else {
            continue;
        };
        let of = bounds_of(expr, found)?;
        match parts.iter().find(|(part, _)| *part == found.part) {
            Some((_, known)) if *known != of => return None,
            Some(_) => {}
            None => parts.push((found.part, of)),
        }
    }
    match parts.as_slice() {
        [(_, bounds)] => Some(bounds.clone()),
        [(Part::Start, [start, _]), (Part::End, [_, end])] | [(Part::End, [_, end]), (Part::Start, [start, _])] => {
            Some([start.clone(), end.clone()])
        }
        _ => None,
    }
}

/// Start and end of the window of which `expr` is the whole or a part; a session has no size to tell one from the other.
fn bounds_of(expr: &Expr, found: &WindowUse) -> Option<[Expr; 2]> {
    let expr = expr.clone().unalias();
    let size = || {
        let micros = match found.window {
            WindowSpec::Tumble { size_micros }
            | WindowSpec::Hop { size_micros, .. }
            | WindowSpec::Given { size_micros } => size_micros,
            WindowSpec::Session { .. } => return None,
        };
        let interval = ScalarValue::new_interval_mdn(0, 0, micros.saturating_mul(1000));
        Some(Expr::Literal(interval, None))
    };
    Some(match found.part {
        Part::Whole => [get_field(expr.clone(), START), get_field(expr, END)],
        Part::Start => [expr.clone(), binary_expr(expr, Operator::Plus, size()?)],
        Part::End => [binary_expr(expr.clone(), Operator::Minus, size()?), expr],
    })
}

/// A bound of the window that a window aggregate below groups by.
fn bound_of_result(column: &Column, input: &LogicalPlan) -> Option<WindowUse> {
    let LogicalPlan::Extension(extension) = input else {
        return None;
    };
    let node = extension.node.as_any().downcast_ref::<WindowAggregateNode>()?;
    if column.relation.as_ref()?.table() != WINDOW {
        return None;
    }
    Some(WindowUse {
        by_event_time: true,
        window: node.window,
        given: true,
        part: if column.name == START { Part::Start } else { Part::End },
        joined: false,
    })
}

/// Whether a window is a part of a larger expression that would need its own grouping.
fn contains_window_inside(expr: &Expr) -> bool {
    let is_whole = |expr: &Expr| matches!(expr, Expr::ScalarFunction(call) if is_window(call.name()));
    let direct = match expr.clone().unalias() {
        Expr::ScalarFunction(call) if is_window(call.name()) => true,
        Expr::ScalarFunction(call) if call.name() == "get_field" => call.args.first().is_some_and(is_whole),
        _ => false,
    };
    !direct && expr.exists(|inner| Ok(is_whole(inner))).unwrap_or(false)
}

/// The expression that makes `column`, and the plan it is over; `None` at scans and other ends.
fn origin<'a>(column: &Column, plan: &'a LogicalPlan) -> Option<(Expr, &'a LogicalPlan)> {
    let index = plan.schema().maybe_index_of_column(column)?;
    match plan {
        LogicalPlan::Projection(projection) => Some((projection.expr[index].clone(), &projection.input)),
        LogicalPlan::SubqueryAlias(alias) => Some((
            Expr::Column(Column::from(alias.input.schema().qualified_field(index))),
            &alias.input,
        )),
        LogicalPlan::Filter(filter) => Some((
            Expr::Column(Column::from(filter.input.schema().qualified_field(index))),
            &filter.input,
        )),
        // The columns of its input, then the functions.
        LogicalPlan::Window(window) => (index < window.input.schema().fields().len()).then(|| {
            let column = Column::from(window.input.schema().qualified_field(index));
            (Expr::Column(column), window.input.as_ref())
        }),
        // The rows of its left side, each once, with their event time.
        LogicalPlan::Extension(extension) => {
            let join = extension.node.as_any().downcast_ref::<AsofJoinNode>()?;
            (index < join.left_width()).then(|| {
                let column = Column::from(join.left.schema().qualified_field(index));
                (Expr::Column(column), &join.left)
            })
        }
        _ => None,
    }
}

/// Whether `expr` is the event time of the rows of `input`.
fn is_event_time(expr: &Expr, input: &LogicalPlan) -> bool {
    match expr {
        Expr::Alias(alias) => is_event_time(&alias.expr, input),
        Expr::Cast(cast)
            if matches!(
                cast.field.data_type(),
                DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
            ) =>
        {
            is_event_time(&cast.expr, input)
        }
        Expr::Column(column) => match input {
            LogicalPlan::TableScan(scan) => {
                let table = scan.source.downcast_ref::<StreamTable>();
                let position = table.and_then(|table| {
                    let index = table.event_time_column?;
                    (*table.schema.field(index).name() == column.name).then_some(index)
                });
                position.is_some()
            }
            LogicalPlan::Union(union) => {
                let Some(index) = union.schema.maybe_index_of_column(column) else {
                    return false;
                };
                union.inputs.iter().all(|input| {
                    let column = Column::from(input.schema().qualified_field(index));
                    is_event_time(&Expr::Column(column), input)
                })
            }
            LogicalPlan::Extension(extension) if extension.node.name() == "WindowAggregate" => {
                column.relation.as_ref().is_some_and(|of| of.table() == WINDOW) && column.name == END
            }
            _ => origin(column, input).is_some_and(|(expr, below)| is_event_time(&expr, below)),
        },
        Expr::ScalarFunction(call) if call.name() == "get_field" => match call.args.as_slice() {
            [Expr::Column(column), field] => {
                origin(column, input).is_some_and(|(expr, below)| match expr.unalias() {
                    // The field of a column that is only passed on.
                    Expr::Column(inner) => {
                        let args = vec![Expr::Column(inner), field.clone()];
                        is_event_time(
                            &Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&call.func), args)),
                            below,
                        )
                    }
                    made => field_of(&made, text_literal(field)).is_some_and(|value| is_event_time(&value, below)),
                })
            }
            _ => false,
        },
        _ => false,
    }
}

/// The value of a field of `named_struct(..)`.
fn field_of(expr: &Expr, wanted: Option<&str>) -> Option<Expr> {
    match expr.clone().unalias() {
        Expr::ScalarFunction(call) if call.name() == "named_struct" => call
            .args
            .chunks_exact(2)
            .find(|pair| wanted.is_some() && text_literal(&pair[0]) == wanted)
            .map(|pair| pair[1].clone()),
        _ => None,
    }
}

fn of_call(call: &ScalarFunction, input: &LogicalPlan) -> Result<WindowUse> {
    let (time, window) = arguments(call)?;
    Ok(WindowUse {
        by_event_time: time.is_none_or(|time| is_event_time(time, input)),
        window,
        given: false,
        part: Part::Whole,
        joined: false,
    })
}

/// The time column, when given, and the window.
fn arguments(call: &ScalarFunction) -> Result<(Option<&Expr>, WindowSpec)> {
    let durations = durations(call.name());
    let (time, rest) = match call.args.len().checked_sub(durations) {
        Some(0) => (None, call.args.as_slice()),
        Some(1) => (call.args.first(), &call.args[1..]),
        _ => return Err(Error::query(SqlState::UNDEFINED_FUNCTION, usage(call.name()))),
    };
    let window = match (call.name(), rest) {
        (HOP, [slide, size]) => hop(size_of(slide)?, size_of(size)?)?,
        (SESSION, [gap]) => WindowSpec::Session {
            gap_micros: size_of(gap)?,
        },
        (_, [size]) => WindowSpec::Tumble {
            size_micros: size_of(size)?,
        },
        _ => return Err(Error::query(SqlState::UNDEFINED_FUNCTION, usage(call.name()))),
    };
    Ok((time, window))
}

/// More windows than this a row, and the slide was meant to be something else.
const WINDOWS_OF_A_ROW_MAX: i64 = 100_000;

fn hop(slide_micros: i64, size_micros: i64) -> Result<WindowSpec> {
    if size_micros / slide_micros > WINDOWS_OF_A_ROW_MAX {
        return Err(Error::Query(
            ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("a HOP of more than {WINDOWS_OF_A_ROW_MAX} windows over each row is not supported"),
            )
            .with_hint("The slide comes first: HOP(slide, size)."),
        ));
    }
    Ok(if slide_micros == size_micros {
        WindowSpec::Tumble { size_micros }
    } else {
        WindowSpec::Hop {
            slide_micros,
            size_micros,
        }
    })
}

fn size_of(expr: &Expr) -> Result<i64> {
    let literal = match expr {
        Expr::Alias(alias) => return size_of(&alias.expr),
        Expr::Cast(cast) => return size_of(&cast.expr),
        Expr::Literal(value, _) => value,
        _ => {
            return Err(Error::query(
                SqlState::INVALID_PARAMETER_VALUE,
                "the size of a window must be a constant interval",
            ));
        }
    };
    let size = match literal {
        ScalarValue::IntervalMonthDayNano(Some(interval)) => micros_of(*interval)?,
        ScalarValue::DurationMicrosecond(Some(size)) => *size,
        other => match other.try_as_str().flatten() {
            Some(text) => interval_micros(text)?,
            None => {
                return Err(Error::query(
                    SqlState::INVALID_PARAMETER_VALUE,
                    "the size of a window must be an interval, such as INTERVAL '10 seconds'",
                ));
            }
        },
    };
    if size <= 0 {
        return Err(Error::query(
            SqlState::INVALID_PARAMETER_VALUE,
            "the size of a window must be greater than zero",
        ));
    }
    Ok(size)
}

/// `10 seconds` as microseconds.
pub fn interval_micros(text: &str) -> Result<i64> {
    let interval = parse_interval_month_day_nano(text).map_err(|_| {
        Error::query(
            SqlState::INVALID_DATETIME_FORMAT,
            format!("invalid input syntax for type interval: \"{text}\""),
        )
    })?;
    micros_of(interval)
}

fn micros_of(interval: IntervalMonthDayNano) -> Result<i64> {
    if interval.months != 0 {
        return Err(Error::not_supported(
            "windows of months or years are not supported: they have no fixed length",
            "Use days or weeks, or group by date_trunc('month', ts).",
        ));
    }
    let days = i64::from(interval.days).checked_mul(86_400_000_000);
    days.and_then(|days| days.checked_add(interval.nanoseconds / 1000))
        .ok_or_else(|| Error::query(SqlState::INVALID_PARAMETER_VALUE, "the size of a window is too large"))
}

fn not_event_time() -> Error {
    Error::not_supported(
        "the time column of a window must be the event time of its table",
        "Name the column in CREATE TABLE: WATERMARK FOR column AS (column - INTERVAL '5 seconds'), or use TUMBLE(size).",
    )
}

/// Windows need event time all the way from the sources.
fn require_event_time(plan: &LogicalPlan) -> Result<()> {
    match plan {
        LogicalPlan::TableScan(scan) => match scan.source.downcast_ref::<StreamTable>() {
            Some(table) if table.event_time.is_none() => Err(Error::Query(
                ErrorReport::new(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!("table \"{}\" has no event time, which a window needs", table.name),
                )
                .with_hint(
                    "Declare it in CREATE TABLE: WATERMARK FOR column AS (column - INTERVAL '5 seconds'); \
                     or WITH (event_time = 'processing') for the wall clock.",
                ),
            )),
            _ => Ok(()),
        },
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => Err(Error::not_supported(
            "a window over VALUES is not supported: the rows have no event time",
            "Put the rows into a file and declare a table over it with a WATERMARK.",
        )),
        LogicalPlan::Aggregate(_) | LogicalPlan::Distinct(_) => Err(Error::not_supported(
            "a window over an aggregate without a window is not supported: its results have no event time",
            "Group by TUMBLE(..) in the inner query too.",
        )),
        other => other.inputs().into_iter().try_for_each(require_event_time),
    }
}

/// Windows that are left after [`rewrite`]: arithmetic where the time column is named, else refused.
pub fn lower_leftover(plan: LogicalPlan) -> Result<LogicalPlan> {
    let lowered = plan.transform_up_with_subqueries(|node| {
        let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr
                .transform_up(window_arithmetic)?
                .update_data(|expr| name.restore(expr)))
        })
    });
    Ok(lowered.map_err(from_datafusion)?.data)
}

fn window_arithmetic(expr: Expr) -> Result<Transformed<Expr>, DataFusionError> {
    let Expr::ScalarFunction(call) = &expr else {
        return Ok(Transformed::no(expr));
    };
    if !is_window(call.name()) {
        return Ok(Transformed::no(expr));
    }
    let (time, window) = arguments(call).map_err(external)?;
    let (Some(time), WindowSpec::Tumble { size_micros: size }) = (time, window) else {
        let name = call.name().to_uppercase();
        return Err(external(Error::not_supported(
            format!("{name} outside of GROUP BY is not supported"),
            "Group by it, or name the time column to compute the one window of a row: TUMBLE(column, size).",
        )));
    };
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let width = |micros: i64| {
        let nanoseconds = micros.saturating_mul(1000);
        Expr::Literal(ScalarValue::new_interval_mdn(0, 0, nanoseconds), None)
    };
    // The function takes its origin in nanoseconds only, whatever the time column counts in.
    let epoch = Expr::Literal(ScalarValue::TimestampNanosecond(Some(0), None), None);
    let start = cast(
        date_bin(width(size), cast(time.clone(), timestamp.clone()), epoch),
        timestamp,
    );
    let end = binary_expr(start.clone(), Operator::Plus, width(size));
    Ok(Transformed::yes(named_struct(vec![lit(START), start, lit(END), end])))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn intervals_are_read_in_micros() {
        assert_eq!(interval_micros("10 seconds").unwrap(), 10_000_000);
        assert_eq!(interval_micros("1 day").unwrap(), 86_400_000_000);
        assert_eq!(interval_micros("250 ms").unwrap(), 250_000);
        assert!(interval_micros("1 month").is_err());
        assert!(interval_micros("soon").is_err());
    }
}

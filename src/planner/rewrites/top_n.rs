//! Finds the rankings of a query.
//!
//! [`first_rows_as_ranks`] runs before the optimizer: `ORDER BY .. LIMIT n OFFSET m` and `DISTINCT ON` become filters on a ROW_NUMBER,
//! so that there is one form to look for. [`rewrite`] runs after it, when filters stand where their columns are made: a filter
//! with a constant upper bound on ROW_NUMBER, RANK or DENSE_RANK, right over the window function or some of its columns, becomes a [`TopNNode`]; what else
//! the filter says stays a filter above it. Filters on the partition's own columns are below by then.
//!
//! Soundness: a bound is taken only from a conjunct that compares the rank itself with a whole number, and only when the rank is the
//! one function of its OVER node. Everything else is left as it is, for OVER in order of time or over windows.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionDefinition};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, Extension, Filter, Limit, LogicalPlan, LogicalPlanBuilder, Operator, Projection,
    SortExpr, Window, lit,
};

use crate::engine::top_n_spec::RankFunction;
use crate::planner::bind::positions::SourceText;
use crate::planner::error::{Error, Result};
use crate::planner::functions::ranks::signed;
use crate::planner::rewrites::top_n_node::TopNNode;
use crate::planner::rewrites::window_node::WindowAggregateNode;

/// Turns LIMIT and DISTINCT ON into filters on a ROW_NUMBER.
pub fn first_rows_as_ranks(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_down_with_subqueries(|node| {
        let replacement = match &node {
            LogicalPlan::Limit(limit) => limited(limit).map_err(external)?,
            LogicalPlan::Distinct(Distinct::On(distinct)) => Some(distinct_on(distinct)?),
            _ => None,
        };
        Ok(match replacement {
            Some(replacement) => Transformed::yes(replacement),
            None => Transformed::no(node),
        })
    });
    Ok(rewritten.map_err(from_datafusion)?.data)
}

fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

fn from_datafusion(error: DataFusionError) -> Error {
    SourceText("").error(error)
}

/// The rows that a LIMIT leaves; `None` when they depend on the query around it.
fn limited(limit: &Limit) -> Result<Option<LogicalPlan>> {
    // A subquery of each row of the query around it may still become a join, without the LIMIT.
    if !limit.input.all_out_ref_exprs().is_empty() {
        return Ok(None);
    }
    let skip = row_count(limit.skip.as_deref())?.unwrap_or(0);
    let Some(fetch) = row_count(limit.fetch.as_deref())? else {
        return match skip {
            0 => Ok(Some(limit.input.as_ref().clone())),
            _ => Err(Error::not_supported(
                "OFFSET without LIMIT is not supported in a continuous query",
                "Give a LIMIT, too, or skip rows when you read: SELECT .. FROM the pipeline ORDER BY .. OFFSET n.",
            )),
        };
    };
    let last = skip.saturating_add(fetch);
    of_sorted(&limit.input, skip.saturating_add(1), last).map(Some)
}

/// A constant count of rows; `None` for NULL, which is no limit.
fn row_count(expr: Option<&Expr>) -> Result<Option<u64>> {
    let mut expr = match expr {
        None => return Ok(None),
        Some(expr) => expr,
    };
    while let Expr::Cast(cast) = expr {
        expr = &cast.expr;
    }
    let value = match expr {
        Expr::Literal(value, _) => value,
        _ => {
            return Err(Error::not_supported(
                "a LIMIT or OFFSET that is computed is not supported in a continuous query",
                "Give a constant number of rows.",
            ));
        }
    };
    if value.is_null() {
        return Ok(None);
    }
    match value.cast_to(&arrow::datatypes::DataType::Int64) {
        Ok(ScalarValue::Int64(Some(count))) if count >= 0 => Ok(Some(count.unsigned_abs())),
        _ => Err(Error::query(
            crate::error::SqlState::INVALID_PARAMETER_VALUE,
            "LIMIT and OFFSET of a continuous query must be whole numbers that are not negative",
        )),
    }
}

/// The rows `first..=last` of `plan` in the order of the Sort that is at its top.
fn of_sorted(plan: &LogicalPlan, first: u64, last: u64) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Sort(sort) => {
            ranked(&sort.input, Vec::new(), sort.expr.clone(), first, last).map_err(from_datafusion)
        }
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) if is_sorted(plan) => {
            let input = of_sorted(plan.inputs()[0], first, last)?;
            plan.with_new_exprs(plan.expressions(), vec![input])
                .map_err(from_datafusion)
        }
        LogicalPlan::Distinct(Distinct::On(_)) => Err(Error::not_supported(
            "LIMIT after DISTINCT ON is not supported in a continuous query",
            "Put DISTINCT ON into a subquery, and ORDER BY .. LIMIT around it.",
        )),
        other => ranked(&Arc::new(other.clone()), Vec::new(), Vec::new(), first, last).map_err(from_datafusion),
    }
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) | LogicalPlan::Distinct(Distinct::On(_)) => true,
        LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => is_sorted(plan.inputs()[0]),
        _ => false,
    }
}

/// The first row of each key.
fn distinct_on(distinct: &DistinctOn) -> Result<LogicalPlan, DataFusionError> {
    let mut order = distinct.sort_expr.clone().unwrap_or_default();
    // The keys come first in it, and are equal inside a partition.
    order.retain(|sort| !distinct.on_expr.contains(&sort.expr));
    let first = ranked(&distinct.input, distinct.on_expr.clone(), order, 1, 1)?;
    let columns = distinct.select_expr.iter().zip(distinct.schema.iter());
    let columns = columns.map(|(expr, (qualifier, field))| match expr {
        Expr::Column(column) if column.relation.as_ref() == qualifier && column.name == *field.name() => expr.clone(),
        _ => expr.clone().unalias().alias_qualified(qualifier.cloned(), field.name()),
    });
    LogicalPlanBuilder::from(first).project(columns)?.build()
}

/// The rows of `input` whose ROW_NUMBER is `first..=last`, without the number.
fn ranked(
    input: &Arc<LogicalPlan>,
    partition_by: Vec<Expr>,
    order_by: Vec<SortExpr>,
    first: u64,
    last: u64,
) -> Result<LogicalPlan, DataFusionError> {
    let mut function = WindowFunction::new(
        WindowFunctionDefinition::WindowUDF(signed(&row_number_udwf())),
        Vec::new(),
    );
    function.params.partition_by = partition_by;
    function.params.window_frame = datafusion::logical_expr::WindowFrame::new((!order_by.is_empty()).then_some(true));
    function.params.order_by = order_by;
    let window = Window::try_new(vec![Expr::from(function)], Arc::clone(input))?;
    let columns = input.schema().fields().len();
    let number = || Expr::Column(Column::from(window.schema.qualified_field(columns)));
    let bound = |rank: u64| lit(i64::try_from(rank).unwrap_or(i64::MAX));
    let mut bounds = number().lt_eq(bound(last));
    if first > 1 {
        bounds = bounds.and(number().gt_eq(bound(first)));
    }
    let kept = (0..columns).map(|at| Expr::Column(Column::from(input.schema().qualified_field(at))));
    let kept: Vec<Expr> = kept.collect();
    LogicalPlanBuilder::from(LogicalPlan::Window(window.clone()))
        .filter(bounds)?
        .project(kept)?
        .build()
}

/// Replaces every bounded rank.
pub fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_down(|node| {
        // A node that puts out nothing but its own expressions says whether the rank is looked at.
        let names_its_columns = match &node {
            LogicalPlan::Projection(_) | LogicalPlan::Aggregate(_) => true,
            LogicalPlan::Extension(extension) => extension.node.as_any().is::<WindowAggregateNode>(),
            _ => false,
        };
        if let Some(ranking) = Ranking::of(&node) {
            return Ok(Transformed::yes(ranking.plan(true)?));
        }
        if names_its_columns
            && let [input] = node.inputs().as_slice()
            && let Some(ranking) = Ranking::of(input)
            && !node.expressions().iter().any(|expr| ranking.is_read_by(expr))
        {
            let input = ranking.plan(false)?;
            return Ok(Transformed::yes(node.with_new_exprs(node.expressions(), vec![input])?));
        }
        Ok(Transformed::no(node))
    });
    Ok(rewritten.map_err(from_datafusion)?.data)
}

/// Whether the node ranks rows, and does nothing else.
pub fn is_ranking(window: &Window) -> bool {
    rank_of(window).is_some()
}

fn rank_of(window: &Window) -> Option<(RankFunction, &WindowFunction)> {
    let [expr] = window.window_expr.as_slice() else {
        return None;
    };
    let expr = match expr {
        Expr::Alias(alias) => alias.expr.as_ref(),
        plain => plain,
    };
    let Expr::WindowFunction(call) = expr else {
        return None;
    };
    let WindowFunctionDefinition::WindowUDF(function) = &call.fun else {
        return None;
    };
    let function = RankFunction::from_name(function.name())?;
    let is_plain = call.params.args.is_empty() && call.params.filter.is_none() && !call.params.distinct;
    is_plain.then_some((function, call))
}

/// A filter over a rank, taken apart.
struct Ranking<'a> {
    window: &'a Window,
    /// Some of its columns, when not all are wanted.
    columns: Option<&'a Projection>,
    function: RankFunction,
    call: &'a WindowFunction,
    first: u64,
    last: u64,
    /// What else the filter says.
    rest: Vec<Expr>,
}

impl<'a> Ranking<'a> {
    fn of(plan: &'a LogicalPlan) -> Option<Ranking<'a>> {
        let LogicalPlan::Filter(filter) = plan else {
            return None;
        };
        let (columns, window) = match filter.input.as_ref() {
            LogicalPlan::Projection(projection) if projection.expr.iter().all(is_column) => {
                (Some(projection), projection.input.as_ref())
            }
            plan => (None, plan),
        };
        let LogicalPlan::Window(window) = window else {
            return None;
        };
        let (function, call) = rank_of(window)?;
        let mut ranking = Ranking {
            window,
            columns,
            function,
            call,
            first: 1,
            last: u64::MAX,
            rest: Vec::new(),
        };
        for conjunct in split_conjunction(&filter.predicate) {
            match ranking.bound(conjunct) {
                Some((first, last)) => {
                    ranking.first = ranking.first.max(first);
                    ranking.last = ranking.last.min(last);
                }
                None => ranking.rest.push(conjunct.clone()),
            }
        }
        (ranking.last < u64::MAX).then_some(ranking)
    }

    /// The ranks that satisfy a comparison of the rank with a number.
    fn bound(&self, conjunct: &Expr) -> Option<(u64, u64)> {
        if let Expr::Between(between) = conjunct {
            let (low, high) = (whole_number(&between.low)?, whole_number(&between.high)?);
            return (self.is_rank(&between.expr) && !between.negated).then(|| within(low, high));
        }
        let Expr::BinaryExpr(comparison) = conjunct else {
            return None;
        };
        let (number, op) = match (self.is_rank(&comparison.left), self.is_rank(&comparison.right)) {
            (true, false) => (whole_number(&comparison.right)?, comparison.op),
            (false, true) => (whole_number(&comparison.left)?, comparison.op.swap()?),
            _ => return None,
        };
        Some(match op {
            Operator::Eq => within(number, number),
            Operator::Lt => within(1, number - 1),
            Operator::LtEq => within(1, number),
            Operator::Gt => within(number + 1, i128::MAX),
            Operator::GtEq => within(number, i128::MAX),
            _ => return None,
        })
    }

    /// Whether an expression of the filter is the rank.
    fn is_rank(&self, expr: &Expr) -> bool {
        match (expr, self.columns) {
            (Expr::Cast(cast), _) => cast.field.data_type().is_integer() && self.is_rank(&cast.expr),
            (Expr::Column(column), Some(columns)) => {
                let index = columns.schema.maybe_index_of_column(column);
                index.is_some_and(|index| self.is_rank_of_window(&columns.expr[index]))
            }
            (of_window, None) => self.is_rank_of_window(of_window),
            _ => false,
        }
    }

    fn is_rank_of_window(&self, expr: &Expr) -> bool {
        match expr {
            Expr::Alias(alias) => self.is_rank_of_window(&alias.expr),
            Expr::Column(column) => {
                self.window.schema.maybe_index_of_column(column) == Some(self.window.input.schema().fields().len())
            }
            _ => false,
        }
    }

    fn is_read_by(&self, expr: &Expr) -> bool {
        let reads = |expr: &Expr| {
            expr.column_refs()
                .into_iter()
                .any(|column| self.is_rank(&Expr::Column(column.clone())))
        };
        reads(expr) || self.rest.iter().any(reads)
    }

    fn plan(&self, shows_rank: bool) -> Result<LogicalPlan, DataFusionError> {
        let params = &self.call.params;
        let (qualifier, field) = self
            .window
            .schema
            .qualified_field(self.window.input.schema().fields().len());
        let node = TopNNode {
            input: self.window.input.as_ref().clone(),
            function: self.function,
            partition_by: params.partition_by.clone(),
            order_by: params.order_by.clone(),
            first: self.first,
            last: self.last,
            rank: shows_rank.then(|| (qualifier.cloned(), Arc::clone(field))),
            schema: Arc::clone(&self.window.schema),
        };
        let mut plan = LogicalPlan::Extension(Extension {
            node: Arc::new(node.with_schema()?),
        });
        if let Some(columns) = self.columns {
            let mut kept = columns.expr.clone();
            kept.retain(|expr| shows_rank || !self.is_rank_of_window(expr));
            plan = LogicalPlan::Projection(Projection::try_new(kept, Arc::new(plan))?);
        }
        match conjunction(self.rest.clone()) {
            Some(rest) => Ok(LogicalPlan::Filter(Filter::try_new(rest, Arc::new(plan))?)),
            None => Ok(plan),
        }
    }
}

fn is_column(expr: &Expr) -> bool {
    match expr {
        Expr::Alias(alias) => is_column(&alias.expr),
        expr => matches!(expr, Expr::Column(_)),
    }
}

/// The ranks from `low` to `high`: they begin with 1.
fn within(low: i128, high: i128) -> (u64, u64) {
    let rank = |number: i128| u64::try_from(number.max(0)).unwrap_or(u64::MAX);
    (rank(low.max(1)), rank(high))
}

fn whole_number(expr: &Expr) -> Option<i128> {
    let value = match expr {
        Expr::Cast(cast) if cast.field.data_type().is_integer() => return whole_number(&cast.expr),
        Expr::Literal(value, _) => value,
        _ => return None,
    };
    match value {
        ScalarValue::Int8(Some(number)) => Some(i128::from(*number)),
        ScalarValue::Int16(Some(number)) => Some(i128::from(*number)),
        ScalarValue::Int32(Some(number)) => Some(i128::from(*number)),
        ScalarValue::Int64(Some(number)) => Some(i128::from(*number)),
        ScalarValue::UInt32(Some(number)) => Some(i128::from(*number)),
        ScalarValue::UInt64(Some(number)) => Some(i128::from(*number)),
        _ => None,
    }
}

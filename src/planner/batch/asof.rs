//! ASOF joins of a one-shot SELECT, as joins and ranks, which DataFusion can run: every left row gets a number, is joined with all
//! versions up to its time, and keeps the first of these in the order of versions from the latest to the earliest.
//!
//! Versions of one key and time are told apart by the columns that the query uses, from left to right, as in a pipeline; so
//! columns that are not used are taken away first. Takes time and memory for every pair of a row and an earlier version.

use std::sync::Arc;

use arrow::row::{RowConverter, SortField};
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DataFusionError, ExprSchema, Result};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, Operator, col, lit, when};
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::{Optimizer, OptimizerContext};

use crate::engine::asof_spec::AsofForm;
use crate::planner::batch::coerced;
use crate::planner::error::Error;
use crate::planner::rewrites::asof_node::AsofJoinNode;

/// The number of a left row.
const ROW: &str = "lm_asof_row";
/// There when a version was found.
const FOUND: &str = "lm_asof_found";
/// Which version of a row it is, from the latest on.
const RANK: &str = "lm_asof_rank";

/// The plan without ASOF joins.
pub fn expand(plan: LogicalPlan) -> Result<LogicalPlan> {
    if !is_in(&plan)? {
        return Ok(plan);
    }
    let plan = coerced(plan);
    let context = OptimizerContext::new().with_skip_failing_rules(false);
    let pruned =
        Optimizer::with_rules(vec![Arc::new(OptimizeProjections::new())]).optimize(plan, &context, |_, _| {})?;
    let expanded = pruned.transform_up_with_subqueries(|node| {
        let LogicalPlan::Extension(extension) = &node else {
            return Ok(Transformed::no(node));
        };
        match extension.node.as_any().downcast_ref::<AsofJoinNode>() {
            Some(join) => Ok(Transformed::yes(as_ranks(join)?)),
            None => Ok(Transformed::no(node)),
        }
    })?;
    Ok(expanded.data)
}

fn is_in(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Extension(extension) = node {
            found |= extension.node.as_any().is::<AsofJoinNode>();
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(found)
}

fn as_ranks(join: &AsofJoinNode) -> Result<LogicalPlan> {
    let refused = |message: &str, hint: &str| {
        let error = Error::not_supported(message, hint).at(join.position);
        Err(DataFusionError::External(Box::new(error)))
    };
    if join.form == AsofForm::Temporal {
        return refused(
            "FOR SYSTEM_TIME AS OF over what is kept is not supported: it has no event time",
            "Name both times: a ASOF JOIN b MATCH_CONDITION (a.ts >= b.ts) ON a.key = b.key.",
        );
    }
    let Some((_, Operator::GtEq | Operator::Gt, time)) = join.comparison() else {
        return refused(
            "an ASOF join matches the last row up to a time",
            "Compare a time of each side: MATCH_CONDITION (a.ts >= b.ts), where a is the left side.",
        );
    };
    let mut shown = columns_of(&join.left);
    let left = LogicalPlanBuilder::from(join.left.clone()).window(vec![row_number().alias(ROW)])?;
    let mut right = columns_of(&join.right);
    let versions = right.clone();
    right.push(lit(true).alias(FOUND));
    let right = LogicalPlanBuilder::from(join.right.clone()).project(right)?.build()?;
    let on = join.keys.iter().cloned().chain([join.times.clone()]);
    let rank = row_number()
        .partition_by(vec![col(ROW)])
        .order_by(latest_first(join, time, &versions))
        .build()?;
    let ranked = left
        .join_on(right, join.join_type(), on)?
        .window(vec![rank.alias(RANK)])?
        .filter(col(RANK).eq(lit(1u64)))?;
    let satisfied = conjunction(join.residual.clone());
    let ranked = match &satisfied {
        Some(satisfied) if !join.outer => ranked.filter(satisfied.clone())?,
        _ => ranked,
    };
    for version in versions {
        shown.push(match (&satisfied, &version) {
            (Some(satisfied), Expr::Column(column)) if join.outer => {
                let answers = col(FOUND).is_not_null().and(satisfied.clone());
                let value = when(answers, version.clone()).end()?;
                value.alias_qualified(column.relation.clone(), column.name.clone())
            }
            _ => version,
        });
    }
    ranked.project(shown)?.build()
}

fn columns_of(plan: &LogicalPlan) -> Vec<Expr> {
    let columns = plan.schema().iter();
    columns.map(|column| Expr::Column(Column::from(column))).collect()
}

/// By time, then by all columns; as `row_order` of the engine has it, turned round.
fn latest_first(join: &AsofJoinNode, time: Expr, versions: &[Expr]) -> Vec<Sort> {
    let has_order = |version: &&Expr| {
        let of = version.column_refs().into_iter().next();
        let field = of.and_then(|column| join.right.schema().field_from_column(column).ok());
        field.is_some_and(|field| RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]))
    };
    let all = versions.iter().filter(has_order).cloned();
    std::iter::once(time)
        .chain(all)
        .map(|expr| expr.sort(false, false))
        .collect()
}

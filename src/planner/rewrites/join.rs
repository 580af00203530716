//! What is settled about joins before the physical side sees them: which terms of the condition are equalities of the sides;
//! every subquery of an expression has become a join, or is refused.

use datafusion::logical_expr::{BinaryExpr, Expr, LogicalPlan, Operator};

use crate::planner::bind::positions::SourceText;
use crate::planner::error::{Error, Result};
use crate::planner::rewrites::any_expression;

/// Refuses subqueries that the optimizer could not turn into joins.
pub fn refuse_leftover_subqueries(plan: &LogicalPlan) -> Result<()> {
    let is_subquery = |expr: &Expr| {
        matches!(
            expr,
            Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
        )
    };
    let found = any_expression(plan, is_subquery).map_err(|error| SourceText("").error(error))?;
    if found {
        return Err(Error::not_supported(
            "this subquery cannot be turned into a join, which a continuous query needs",
            "Relate it to the outer query by equalities only, or write it as a join in FROM.",
        ));
    }
    Ok(())
}

/// `left = right`, whichever way round it is written.
pub fn equality(expr: &Expr, left: &LogicalPlan, right: &LogicalPlan) -> Option<(Expr, Expr, bool)> {
    let Expr::BinaryExpr(BinaryExpr {
        left: one,
        op,
        right: other,
    }) = expr
    else {
        return None;
    };
    let null_equal = match op {
        Operator::Eq => false,
        Operator::IsNotDistinctFrom => true,
        _ => return None,
    };
    let is_over = |expr: &Expr, plan: &LogicalPlan| {
        let columns = expr.column_refs();
        !columns.is_empty() && columns.iter().all(|column| plan.schema().has_column(column))
    };
    if is_over(one, left) && is_over(other, right) {
        Some((one.as_ref().clone(), other.as_ref().clone(), null_equal))
    } else if is_over(one, right) && is_over(other, left) {
        Some((other.as_ref().clone(), one.as_ref().clone(), null_equal))
    } else {
        None
    }
}

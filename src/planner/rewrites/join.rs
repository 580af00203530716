//! What is settled about joins before the physical side sees them: every subquery of an expression has become one, or is
//! refused.

use datafusion::logical_expr::{Expr, LogicalPlan};

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

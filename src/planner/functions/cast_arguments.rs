//! Aggregates of columns and of casts of them side by side: `sum(v), sum(CAST(v AS BIGINT))`.
//!
//! DataFusion calls a cast by what it casts, and so would call both by one name, which the columns of an aggregate may not share. So
//! arguments with casts are called by what they are. Casts of constants stay as they are: some functions need constants.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawAggregateExpr};

use crate::planner::functions::Functions;

/// Comes after all other planners, which look at arguments as they are written.
pub fn register(functions: &mut Functions) {
    functions.expr_planners.push(Arc::new(CastArguments));
}

#[derive(Debug)]
struct CastArguments;

impl ExprPlanner for CastArguments {
    fn plan_aggregate(&self, mut raw: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        for argument in &mut raw.args {
            if casts_columns(argument)? {
                *argument = argument.clone().alias(argument.to_string());
            }
        }
        Ok(PlannerResult::Original(raw))
    }
}

fn casts_columns(argument: &Expr) -> Result<bool> {
    argument.exists(|expr| Ok(matches!(expr, Expr::Cast(_) | Expr::TryCast(_)) && expr.any_column_refs()))
}

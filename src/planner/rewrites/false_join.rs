//! A join whose condition is never true, settled before the condition is handed to its sides.
//!
//! `PushDownFilter` would put the constant below an aggregate without keys, which has a row even where it has no input.

use std::sync::Arc;

use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::Transformed;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{EmptyRelation, Expr, JoinType, LogicalPlan};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::scalar::ScalarValue;

#[derive(Debug)]
pub struct FalseJoins;

impl OptimizerRule for FalseJoins {
    fn name(&self) -> &str {
        "false_joins"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        let LogicalPlan::Join(mut join) = plan else {
            return Ok(Transformed::no(plan));
        };
        let is_never_true = matches!(
            &join.filter,
            Some(Expr::Literal(
                ScalarValue::Boolean(None | Some(false)) | ScalarValue::Null,
                _
            ))
        );
        if !is_never_true {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let without_partners = match join.join_type {
            JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi => {
                return Ok(Transformed::yes(nothing(&join.schema)));
            }
            JoinType::Left | JoinType::LeftAnti | JoinType::LeftMark => &mut join.right,
            JoinType::Right | JoinType::RightAnti | JoinType::RightMark => &mut join.left,
            // Its condition stays where it is.
            JoinType::Full => return Ok(Transformed::no(LogicalPlan::Join(join))),
        };
        if matches!(without_partners.as_ref(), LogicalPlan::EmptyRelation(_)) {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        *without_partners = Arc::new(nothing(without_partners.schema()));
        Ok(Transformed::yes(LogicalPlan::Join(join)))
    }
}

fn nothing(schema: &DFSchemaRef) -> LogicalPlan {
    LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::clone(schema),
    })
}

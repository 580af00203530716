//! What Postgres reads out of a string literal and DataFusion does not: `polroles = '{0}'`.
//!
//! An untyped literal takes the type of what it is compared with.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};

use crate::planner::functions::arrays;

/// Types the string literals that are compared with arrays.
pub fn settle(plan: LogicalPlan) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let settled = expr.transform_up(|inner| literal_of_array(inner, &schema))?;
            Ok(settled.update_data(|expr| name.restore(expr)))
        })
    })
    .data()
}

fn literal_of_array(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = expr else {
        return Ok(Transformed::no(expr));
    };
    if !matches!(
        op,
        Operator::Eq | Operator::NotEq | Operator::Lt | Operator::LtEq | Operator::Gt | Operator::GtEq
    ) {
        return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
    }
    let array_beside = |other: &Expr, literal: &Expr| -> Result<Option<Expr>> {
        let (Expr::Literal(ScalarValue::Utf8(Some(text)), _), Ok(DataType::List(element))) =
            (literal, other.get_type(schema))
        else {
            return Ok(None);
        };
        let value =
            arrays::parse(text, element.data_type()).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Some(Expr::Literal(value, None)))
    };
    let (left, right) = match (array_beside(&left, &right)?, array_beside(&right, &left)?) {
        (Some(right), _) => (left, Box::new(right)),
        (None, Some(left)) => (Box::new(left), right),
        (None, None) => return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right }))),
    };
    Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right })))
}

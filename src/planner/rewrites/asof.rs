//! Joins whose condition has the mark of an ASOF join become [`AsofJoinNode`]s, before any rule about joins sees them; and the one
//! rule about these.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{Expr, Extension, Join, JoinType, LogicalPlan, LogicalPlanBuilder, binary_expr};
use datafusion::optimizer::optimizer::ApplyOrder;
use datafusion::optimizer::{OptimizerConfig, OptimizerRule};
use datafusion::scalar::ScalarValue;

use crate::engine::asof_spec::AsofForm;
use crate::planner::bind::positions::SourceText;
use crate::planner::error::{Error, Result};
use crate::planner::functions::asof::{MARK, TEMPORAL};
use crate::planner::rewrites::asof_node::AsofJoinNode;
use crate::planner::rewrites::join::equality;
use crate::planner::rewrites::text_literal;

/// Replaces every marked join of `plan`.
pub fn rewrite(plan: LogicalPlan) -> Result<LogicalPlan> {
    let rewritten = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_marked(&join) => {
            let node = node_of(join)?;
            Ok(Transformed::yes(LogicalPlan::Extension(Extension {
                node: Arc::new(node),
            })))
        }
        other => Ok(Transformed::no(other)),
    });
    Ok(rewritten.map_err(|error| SourceText("").error(error))?.data)
}

fn is_marked(join: &Join) -> bool {
    let has_mark = |expr: &Expr| expr.exists(|inner| Ok(is_mark(inner))).unwrap_or(false);
    join.filter.as_ref().is_some_and(has_mark)
}

fn is_mark(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(call) if call.name() == MARK)
}

/// A condition on left columns alone is asked before the join: rows that fail it need not wait, and no answer depends on them.
#[derive(Debug)]
pub struct AsofFilters;

impl OptimizerRule for AsofFilters {
    fn name(&self) -> &str {
        "asof_filters"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::TopDown)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        let LogicalPlan::Filter(filter) = &plan else {
            return Ok(Transformed::no(plan));
        };
        let LogicalPlan::Extension(extension) = filter.input.as_ref() else {
            return Ok(Transformed::no(plan));
        };
        let Some(join) = extension.node.as_any().downcast_ref::<AsofJoinNode>() else {
            return Ok(Transformed::no(plan));
        };
        let goes_left = |conjunct: &Expr| {
            let columns = conjunct.column_refs();
            let is_left = columns.iter().all(|column| join.left.schema().has_column(column));
            !columns.is_empty() && is_left && !conjunct.is_volatile()
        };
        let conjuncts = split_conjunction_owned(filter.predicate.clone());
        let (left, rest): (Vec<Expr>, Vec<Expr>) = conjuncts.into_iter().partition(goes_left);
        let Some(predicate) = conjunction(left) else {
            return Ok(Transformed::no(plan));
        };
        let join = AsofJoinNode {
            left: LogicalPlanBuilder::from(join.left.clone()).filter(predicate)?.build()?,
            ..join.clone()
        };
        let joined = LogicalPlanBuilder::from(LogicalPlan::Extension(Extension { node: Arc::new(join) }));
        let filtered = match conjunction(rest) {
            Some(rest) => joined.filter(rest)?,
            None => joined,
        };
        Ok(Transformed::yes(filtered.build()?))
    }
}

/// What the mark says.
struct Mark {
    form: AsofForm,
    times: Expr,
    position: Option<usize>,
}

fn node_of(join: Join) -> Result<AsofJoinNode, DataFusionError> {
    let mut mark = None;
    let mut keys: Vec<Expr> = Vec::new();
    let mut rest: Vec<Expr> = Vec::new();
    for (left, right) in join.on {
        keys.push(binary_expr(left, datafusion::logical_expr::Operator::Eq, right));
    }
    for conjunct in join.filter.into_iter().flat_map(split_conjunction_owned) {
        if is_mark(&conjunct) {
            mark = Some(read_mark(conjunct)?);
        } else if equality(&conjunct, &join.left, &join.right).is_some() {
            if !keys.contains(&conjunct) {
                keys.push(conjunct);
            }
        } else if conjunct != Expr::Literal(true.into(), None) {
            rest.push(conjunct);
        }
    }
    let mark = mark.ok_or_else(lost)?;
    if mark.form == AsofForm::Temporal && keys.is_empty() {
        let error = Error::not_supported(
            "FOR SYSTEM_TIME AS OF without an equality between the sides is not supported",
            "Join ON the key of the table whose versions are looked up: ON a.key = b.key.",
        );
        return Err(DataFusionError::External(Box::new(error.at(mark.position))));
    }
    let unwrap = |plan: Arc<LogicalPlan>| Arc::try_unwrap(plan).unwrap_or_else(|shared| shared.as_ref().clone());
    AsofJoinNode {
        left: unwrap(join.left),
        right: unwrap(join.right),
        form: mark.form,
        outer: join.join_type == JoinType::Left,
        keys,
        times: mark.times,
        residual: conjunction(rest),
        position: mark.position,
        schema: join.schema,
    }
    .with_schema()
}

fn read_mark(expr: Expr) -> Result<Mark, DataFusionError> {
    let Expr::ScalarFunction(call) = expr else {
        return Err(lost());
    };
    let [form, times, position] = <[Expr; 3]>::try_from(call.args).map_err(|_| lost())?;
    let position = match &position {
        Expr::Literal(ScalarValue::Int64(Some(position)), _) => usize::try_from(*position).ok(),
        _ => None,
    };
    Ok(Mark {
        form: match text_literal(&form) {
            Some(TEMPORAL) => AsofForm::Temporal,
            _ => AsofForm::Asof,
        },
        times,
        position: position.filter(|&position| position > 0),
    })
}

fn lost() -> DataFusionError {
    DataFusionError::Internal("the mark of an ASOF join is not what it was".into())
}

//! Logical plan to logical plan: windows become nodes of their own, types are settled, DataFusion's rules that hold for
//! unbounded input run. Nothing here knows of operators or parallelism.

pub mod asof;
pub mod asof_node;
mod false_join;
pub mod grouping_sets;
pub mod join;
pub mod switches;
pub mod top_n;
pub mod top_n_node;
pub mod window;
pub mod window_node;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::filter_null_join_keys::FilterNullJoinKeys;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::propagate_empty_relation::PropagateEmptyRelation;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Analyzer, Optimizer, OptimizerConfig, OptimizerContext, OptimizerRule};

use crate::planner::functions::checked_arithmetic::checked;
use crate::planner::rewrites::false_join::FalseJoins;

/// Settles types, then simplifies.
pub fn optimize(plan: LogicalPlan, options: &ConfigOptions) -> Result<LogicalPlan> {
    let analyzed = checked(Analyzer::new().execute_and_check(plan, options, |_, _| {})?)?;
    // Without a start time `now()` is left alone instead of frozen.
    let mut options = options.clone();
    // There is nothing that could run a subquery by itself: all become joins.
    options.optimizer.enable_physical_uncorrelated_scalar_subquery = false;
    let context = OptimizerContext::new_with_config_options(Arc::new(options)).without_query_execution_start_time();
    Optimizer::with_rules(rules()).optimize(analyzed, &context, |_, _| {})
}

/// DataFusion's rules that keep their meaning on unbounded input and whose results the physical side can run.
///
/// Left out: rules about LIMIT, and `SingleDistinctToGroupBy`, which doubles the state.
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(RewriteSetComparison::new()),
        Arc::new(OptimizeUnions::new()),
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(FalseJoins),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(PropagateEmptyRelation::new()),
        Arc::new(FilterNullJoinKeys::default()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(asof::AsofFilters),
        Arc::new(WindowFields),
        Arc::new(EliminateGroupByConstant::new()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ]
}

/// `get_field(named_struct('start', a, 'end', b), 'start')` is `a`: a window's fields do not need the window.
#[derive(Debug)]
struct WindowFields;

impl OptimizerRule for WindowFields {
    fn name(&self) -> &str {
        "window_fields"
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>, DataFusionError> {
        plan.transform_up(|node| {
            let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                Ok(expr
                    .transform_up(field_of_struct)?
                    .update_data(|expr| name.restore(expr)))
            })
        })
    }
}

fn field_of_struct(expr: Expr) -> Result<Transformed<Expr>> {
    let replacement = match &expr {
        Expr::ScalarFunction(call) if call.name() == "get_field" => match call.args.as_slice() {
            [Expr::ScalarFunction(made), field] if made.name() == "named_struct" => {
                let wanted = text_literal(field);
                made.args
                    .chunks_exact(2)
                    .find(|pair| wanted.is_some() && text_literal(&pair[0]) == wanted)
                    .map(|pair| pair[1].clone())
            }
            _ => None,
        },
        _ => None,
    };
    Ok(match replacement {
        Some(value) => Transformed::yes(value),
        None => Transformed::no(expr),
    })
}

/// The text of a string literal.
pub fn text_literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Literal(value, _) => value.try_as_str().flatten(),
        _ => None,
    }
}

/// Whether any expression of `plan` makes `test` true.
pub fn any_expression(plan: &LogicalPlan, mut test: impl FnMut(&Expr) -> bool) -> Result<bool> {
    let mut found = false;
    plan.apply(|node| {
        node.apply_expressions(|expr| {
            found = found || expr.exists(|inner| Ok(test(inner)))?;
            Ok(if found {
                TreeNodeRecursion::Stop
            } else {
                TreeNodeRecursion::Continue
            })
        })
    })?;
    Ok(found)
}

//! Hides the order of rows where DataFusion (55.2) counts on it and must not.
//!
//! - Below an aggregate of grouping sets. It gives a group as soon as the columns change by which its input is sorted. That is right for a
//!   plain GROUP BY, and wrong for the sets that leave such a column out: they would come once for each of its values. An input
//!   sorted for OVER is the usual way to meet it.
//! - Above a union. A sort is moved into its inputs, each of which may leave out columns that are constant or equal to others there;
//!   the union of them no longer knows why it is sorted, and the plan is refused.
//!
//! A node in between hides the order, before any rule looks at it. What is lost: a union of sorted inputs is sorted again rather than merged.

use std::fmt::Formatter;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::union::UnionExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

#[derive(Debug)]
pub(super) struct HideOrder;

impl PhysicalOptimizerRule for HideOrder {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let of_sets = |aggregate: &AggregateExec| aggregate.group_expr().has_grouping_set();
            if node.is::<UnionExec>() {
                return Ok(Transformed::yes(OrderHidden::above(node)));
            }
            if !node.downcast_ref::<AggregateExec>().is_some_and(of_sets) {
                return Ok(Transformed::no(node));
            }
            let inputs = node.children().into_iter().cloned().map(OrderHidden::above).collect();
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(inputs, options)?))
        })
        .data()
    }

    fn name(&self) -> &str {
        "hide_order"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The rows of its input, of which nobody knows an order.
#[derive(Debug)]
struct OrderHidden {
    input: Arc<dyn ExecutionPlan>,
    properties: Arc<PlanProperties>,
}

impl OrderHidden {
    fn above(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(OrderHidden::of(input))
    }

    fn of(input: Arc<dyn ExecutionPlan>) -> OrderHidden {
        let mut properties = input.properties().as_ref().clone();
        let mut unordered = properties.eq_properties.clone();
        unordered.clear_orderings();
        properties.set_eq_properties(unordered);
        OrderHidden {
            input,
            properties: Arc::new(properties),
        }
    }
}

impl DisplayAs for OrderHidden {
    fn fmt_as(&self, _as: DisplayFormatType, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("OrderHidden")
    }
}

impl ExecutionPlan for OrderHidden {
    fn name(&self) -> &str {
        "OrderHidden"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _visit: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.input));
        Ok(Arc::new(OrderHidden::of(input)))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        self.input.execute(partition, context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use datafusion::execution::SessionStateBuilder;
    use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    const GROUPS: &str = "SELECT a, b, count(*), sum(place) FROM \
         (SELECT a, b, row_number() OVER (PARTITION BY a ORDER BY b) AS place \
          FROM (VALUES (1, 'x'), (1, 'y'), (1, 'z'), (2, 'x'), (2, 'x'), (3, 'y')) AS v(a, b)) AS o \
         GROUP BY GROUPING SETS ((a, b), (b))";

    fn rows_of(sql: &str, rules: Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>>) -> usize {
        let state = SessionStateBuilder::new()
            .with_default_features()
            .with_config(SessionConfig::new().with_target_partitions(1).with_batch_size(1))
            .with_physical_optimizer_rules(rules)
            .build();
        let context = SessionContext::new_with_state(state);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let batches = runtime
            .block_on(async { context.sql(sql).await?.collect().await })
            .unwrap();
        batches.iter().map(|batch| batch.num_rows()).sum()
    }

    #[test]
    fn groups_of_sets_come_several_times_without_it() {
        let mut rules = PhysicalOptimizer::new().rules;
        // When this fails, the rule can go.
        assert!(rows_of(GROUPS, rules.clone()) > 8);
        rules.insert(0, Arc::new(HideOrder));
        assert_eq!(rows_of(GROUPS, rules), 8);
    }
}

//! Keeps aggregates of grouping sets from counting on the order of their rows.
//!
//! DataFusion (55.2) gives a group as soon as the columns change by which its input is sorted. That is right for a plain GROUP BY, and wrong
//! for the sets that leave such a column out: they would come once for each of its values. An input sorted for OVER is the usual way to
//! meet it. A node below such an aggregate hides the order, before any rule looks at it.

use std::fmt::Formatter;
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
};

#[derive(Debug)]
pub(super) struct HideOrderFromGroupingSets;

impl PhysicalOptimizerRule for HideOrderFromGroupingSets {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|node| {
            let of_sets = |aggregate: &AggregateExec| aggregate.group_expr().has_grouping_set();
            if !node.downcast_ref::<AggregateExec>().is_some_and(of_sets) {
                return Ok(Transformed::no(node));
            }
            let hidden = |input: &Arc<dyn ExecutionPlan>| Arc::new(OrderHidden::of(Arc::clone(input))) as _;
            let inputs = node.children().into_iter().map(hidden).collect();
            let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute);
            Ok(Transformed::yes(node.replace_children(inputs, options)?))
        })
        .data()
    }

    fn name(&self) -> &str {
        "hide_order_from_grouping_sets"
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

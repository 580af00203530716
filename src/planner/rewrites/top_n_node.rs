//! The logical node of a ranking: the rows of its input whose rank lies within constant bounds, with the rank or without.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, SortExpr, UserDefinedLogicalNodeCore};

use crate::engine::top_n_spec::RankFunction;

/// Name and type of the column that a rank is in.
pub type RankColumn = (Option<TableReference>, FieldRef);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopNNode {
    pub input: LogicalPlan,
    pub function: RankFunction,
    pub partition_by: Vec<Expr>,
    pub order_by: Vec<SortExpr>,
    /// The ranks that are kept, both included.
    pub first: u64,
    pub last: u64,
    /// The last column of the output; `None` when nobody looks at it.
    pub rank: Option<RankColumn>,
    pub schema: DFSchemaRef,
}

impl TopNNode {
    /// The node with its schema: the input's columns, then the rank.
    pub fn with_schema(self) -> Result<TopNNode> {
        let columns = self
            .input
            .schema()
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)));
        let fields = columns.chain(self.rank.clone()).collect();
        let schema = DFSchema::new_with_metadata(fields, self.input.schema().metadata().clone())?;
        Ok(TopNNode {
            schema: Arc::new(schema),
            ..self
        })
    }

    /// The ranks that are kept, as a condition.
    pub fn bounds(&self) -> String {
        let name = self.function.name();
        match (self.first, self.last) {
            (first, last) if first == last => format!("{name}() = {last}"),
            (0 | 1, last) => format!("{name}() <= {last}"),
            (first, last) => format!("{name}() between {first} and {last}"),
        }
    }
}

impl Hash for TopNNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.function.hash(state);
        self.partition_by.hash(state);
        self.order_by.hash(state);
        (self.first, self.last, &self.rank).hash(state);
    }
}

impl PartialOrd for TopNNode {
    fn partial_cmp(&self, other: &TopNNode) -> Option<Ordering> {
        match (self.function, self.first, self.last).cmp(&(other.function, other.first, other.last)) {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            unequal => Some(unequal),
        }
    }
}

impl UserDefinedLogicalNodeCore for TopNNode {
    fn name(&self) -> &str {
        "TopN"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let order = self.order_by.iter().map(|sort| sort.expr.clone());
        self.partition_by.iter().cloned().chain(order).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |texts: Vec<String>| texts.join(", ");
        write!(
            f,
            "TopN: {}, partitionBy=[{}], orderBy=[{}]",
            self.bounds(),
            list(self.partition_by.iter().map(ToString::to_string).collect()),
            list(self.order_by.iter().map(ToString::to_string).collect()),
        )
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<TopNNode> {
        let input = inputs
            .pop()
            .ok_or_else(|| DataFusionError::Internal("a ranking has one input".into()))?;
        let order = exprs.split_off(self.partition_by.len().min(exprs.len()));
        let sort = |(expr, before): (Expr, &SortExpr)| SortExpr { expr, ..before.clone() };
        TopNNode {
            input,
            partition_by: exprs,
            order_by: order.into_iter().zip(&self.order_by).map(sort).collect(),
            ..self.clone()
        }
        .with_schema()
    }
}

//! The logical node of a windowed aggregate: keys, the window's start and end, the aggregates.
//!
//! Its window columns carry the qualifier [`WINDOW`], which no relation of a query can have.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, TimeUnit};
use datafusion::common::{Column, DFSchema, DFSchemaRef, Result, TableReference};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, UserDefinedLogicalNodeCore};

use crate::engine::graph::{EmitMode, WindowSpec};
use crate::planner::rewrites::grouping_sets::{GROUPING_ID, GroupingSets};

/// Qualifies the window's columns.
pub const WINDOW: &str = "(window)";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowAggregateNode {
    pub input: LogicalPlan,
    pub keys: Vec<Expr>,
    pub aggregates: Vec<Expr>,
    pub window: WindowSpec,
    pub emit: EmitMode,
    /// Start and end of the window over the input, when the rows came through a join since they got it: then it may not be
    /// the one that their event time is in.
    pub bounds: Option<[Expr; 2]>,
    /// Which keys are grouped by together; `None`: all of them. The last column is then `GROUPING_ID`.
    pub sets: Option<GroupingSets>,
    pub schema: DFSchemaRef,
}

impl WindowAggregateNode {
    pub fn try_new(
        input: LogicalPlan,
        keys: Vec<Expr>,
        aggregates: Vec<Expr>,
        window: WindowSpec,
        emit: EmitMode,
        sets: Option<GroupingSets>,
    ) -> Result<WindowAggregateNode> {
        // DataFusion's own node names and types the keys and aggregates.
        let plain = Aggregate::try_new(Arc::new(input.clone()), keys.clone(), aggregates.clone())?;
        let columns = plain
            .schema
            .iter()
            .map(|(qualifier, field)| (qualifier.cloned(), Arc::clone(field)));
        let (key_fields, aggregate_fields): (Vec<_>, Vec<_>) =
            columns.enumerate().partition(|(index, _)| *index < keys.len());
        let time = DataType::Timestamp(TimeUnit::Microsecond, None);
        let bound = |name: &str| {
            let field = Arc::new(Field::new(name, time.clone(), false));
            (Some(TableReference::bare(WINDOW)), field)
        };
        // A key is NULL in the sets without it.
        let key = |(qualifier, field): (_, Arc<Field>)| match sets {
            Some(_) => (qualifier, Arc::new(field.as_ref().clone().with_nullable(true))),
            None => (qualifier, field),
        };
        let id = sets
            .as_ref()
            .map(|sets| (None, Arc::new(Field::new(GROUPING_ID, sets.id_type.clone(), false))));
        let fields = key_fields
            .into_iter()
            .map(|(_, field)| key(field))
            .chain([bound("start"), bound("end")])
            .chain(aggregate_fields.into_iter().map(|(_, field)| field))
            .chain(id)
            .collect();
        let schema = DFSchema::new_with_metadata(fields, input.schema().metadata().clone())?;
        Ok(WindowAggregateNode {
            input,
            keys,
            aggregates,
            window,
            emit,
            bounds: None,
            sets,
            schema: Arc::new(schema),
        })
    }

    /// The column `start` or `end`.
    pub fn bound(name: &str) -> Expr {
        Expr::Column(Column::new(Some(TableReference::bare(WINDOW)), name))
    }

    fn expressions_text(expressions: &[Expr]) -> String {
        let texts: Vec<String> = expressions.iter().map(|expr| expr.schema_name().to_string()).collect();
        texts.join(", ")
    }
}

impl Hash for WindowAggregateNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.keys.hash(state);
        self.aggregates.hash(state);
        self.window.hash(state);
        self.bounds.hash(state);
        self.sets.hash(state);
        (self.emit == EmitMode::OnUpdate).hash(state);
    }
}

impl PartialOrd for WindowAggregateNode {
    fn partial_cmp(&self, other: &WindowAggregateNode) -> Option<Ordering> {
        match self.window.cmp(&other.window) {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            unequal => Some(unequal),
        }
    }
}

impl UserDefinedLogicalNodeCore for WindowAggregateNode {
    fn name(&self) -> &str {
        "WindowAggregate"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        let bounds = self.bounds.iter().flatten();
        self.keys
            .iter()
            .chain(&self.aggregates)
            .chain(bounds)
            .cloned()
            .collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "WindowAggregate: window=[{}], groupBy=[[{}]]",
            crate::planner::explain::window(self.window),
            Self::expressions_text(&self.keys),
        )?;
        if let Some(sets) = &self.sets {
            let texts: Vec<String> = sets.sets.iter().map(|set| format!("{:?}", set.keys)).collect();
            write!(f, ", sets=[{}]", texts.join(", "))?;
        }
        write!(f, ", aggr=[[{}]]", Self::expressions_text(&self.aggregates))
    }

    /// A filter on keys alone is the same before and after; DataFusion pushes by name, so nothing is pushed that a
    /// computed key could change.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, mut inputs: Vec<LogicalPlan>) -> Result<WindowAggregateNode> {
        let input = inputs
            .pop()
            .ok_or_else(|| datafusion::common::DataFusionError::Internal("a window aggregate has one input".into()))?;
        let mut aggregates = exprs.split_off(self.keys.len().min(exprs.len()));
        let bounds = aggregates.split_off(self.aggregates.len().min(aggregates.len()));
        let mut node =
            WindowAggregateNode::try_new(input, exprs, aggregates, self.window, self.emit, self.sets.clone())?;
        node.bounds = <[Expr; 2]>::try_from(bounds).ok();
        // Names above refer to the columns as they were first called; types are those that the input has now.
        if node.schema.fields().len() == self.schema.fields().len() {
            let named = self.schema.iter().zip(node.schema.fields());
            let fields = named.map(|((qualifier, name), field)| {
                let field = field.as_ref().clone().with_name(name.name());
                (qualifier.cloned(), Arc::new(field))
            });
            let metadata = node.schema.metadata().clone();
            node.schema = Arc::new(DFSchema::new_with_metadata(fields.collect(), metadata)?);
        }
        Ok(node)
    }

    fn necessary_children_exprs(&self, _output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let schema = self.input.schema();
        let mut needed = Vec::new();
        for expr in self
            .keys
            .iter()
            .chain(&self.aggregates)
            .chain(self.bounds.iter().flatten())
        {
            for column in expr.column_refs() {
                needed.push(schema.index_of_column(column).ok()?);
            }
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

//! Puts nodes into a job graph: names them, shares equal ones, decides exchanges and parallelism.
//!
//! An operator's id is a hash of what it does and of the ids of its inputs. It depends neither on the parallelism nor on
//! names that an optimizer made up, so that state is found again when the same query is compiled anew. Its lineage says
//! whether that state is also what another query would have: see [`GraphNode::lineage`].

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::engine::graph::{EventTimeExpr, Exchange, GraphEdge, GraphNode, JobGraph, OperatorSpec, StreamShape};
use crate::engine::over_spec::OverWork;
use crate::ids::OperatorId;
use crate::planner::error::{Error, Result};

/// Collects nodes in topological order.
pub struct GraphBuilder {
    nodes: Vec<GraphNode>,
    by_id: HashMap<OperatorId, usize>,
    parallelism: u32,
    /// Equal nodes are one.
    shares: bool,
}

/// A node to be added.
pub struct NewNode {
    pub operator: OperatorSpec,
    /// For EXPLAIN.
    pub description: String,
    /// All that decides what the operator does, without names.
    pub fingerprint: String,
    pub inputs: Vec<GraphEdge>,
    /// Nodes whose ids count as inputs, when they are not those of `inputs`: a final aggregate is the same operator
    /// whether or not there is a partial one before it.
    pub identified_by: Option<Vec<usize>>,
    pub output: StreamShape,
    pub parallelism: u32,
    /// Two equal nodes may be one. Not so when it has effects of its own.
    pub shared: bool,
}

impl GraphBuilder {
    pub fn new(parallelism: u32) -> GraphBuilder {
        GraphBuilder {
            nodes: Vec::new(),
            by_id: HashMap::new(),
            parallelism: parallelism.max(1),
            shares: true,
        }
    }

    /// Equal operators stay apart from now on; sources, of which there can only be one, do not.
    pub fn stop_sharing(&mut self) {
        self.shares = false;
    }

    pub fn parallelism(&self) -> u32 {
        self.parallelism
    }

    pub fn node(&self, index: usize) -> &GraphNode {
        &self.nodes[index]
    }

    pub fn nodes(&self) -> &[GraphNode] {
        &self.nodes
    }

    /// Adds the node, or finds an equal one.
    pub fn add(&mut self, new: NewNode) -> usize {
        let inputs: Vec<usize> = match &new.identified_by {
            Some(inputs) => inputs.clone(),
            None => new.inputs.iter().map(|edge| edge.from).collect(),
        };
        let input_ids: Vec<&str> = inputs.iter().map(|&input| self.nodes[input].id.0.as_str()).collect();
        let kind = new.operator.name();
        let lineage = self.lineage(&new);
        let shared = new.shared && (self.shares || new.inputs.is_empty());
        let mut occurrence = 0;
        loop {
            let id = operator_id(kind, &new.fingerprint, &input_ids, occurrence);
            match self.by_id.get(&id) {
                Some(&existing) if shared && self.nodes[existing].parallelism == new.parallelism => {
                    return existing;
                }
                Some(_) => occurrence += 1,
                None => {
                    let index = self.nodes.len();
                    self.by_id.insert(id.clone(), index);
                    self.nodes.push(GraphNode {
                        id,
                        lineage,
                        description: new.description,
                        operator: new.operator,
                        parallelism: new.parallelism,
                        inputs: new.inputs,
                        output: new.output,
                    });
                    return index;
                }
            }
        }
    }

    /// Unlike the id it follows a sink's input, and tells what a source reads: two columns of one type are the same number
    /// to every operator after it.
    fn lineage(&self, new: &NewNode) -> String {
        let edges = || new.inputs.iter().map(|edge| edge.from).collect();
        let inputs: Vec<usize> = match &new.identified_by {
            Some(inputs) if !inputs.is_empty() => inputs.clone(),
            _ => edges(),
        };
        let inputs: Vec<&str> = inputs.iter().map(|&input| self.nodes[input].lineage.as_str()).collect();
        let text = format!(
            "{}\n{}\n{}\n{}",
            new.operator.name(),
            new.fingerprint,
            beside_the_fingerprint(new),
            inputs.join(",")
        );
        format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
    }

    /// The edge that carries rows as they are between nodes of these widths.
    pub fn forward(&self, from: usize, to_parallelism: u32) -> GraphEdge {
        let exchange = if self.nodes[from].parallelism == to_parallelism {
            Exchange::Forward
        } else {
            Exchange::Single
        };
        GraphEdge { from, exchange }
    }

    /// The edge to a consumer of any width. Changes of one row stay in their order, those of different rows need not.
    pub fn spread(&self, from: usize, to_parallelism: u32) -> GraphEdge {
        let node = &self.nodes[from];
        if to_parallelism <= 1 || node.parallelism == to_parallelism {
            return self.forward(from, to_parallelism);
        }
        let columns = (0..node.output.schema.fields().len()).collect();
        GraphEdge {
            from,
            exchange: Exchange::Hash { columns },
        }
    }

    /// The edge that brings rows of one key together, and how wide their consumer is.
    pub fn keyed(&self, from: usize, columns: Vec<usize>) -> (GraphEdge, u32) {
        if columns.is_empty() || self.parallelism == 1 {
            return (self.forward(from, 1), 1);
        }
        let edge = GraphEdge {
            from,
            exchange: Exchange::Hash { columns },
        };
        (edge, self.parallelism)
    }

    pub fn finish(self) -> Result<JobGraph> {
        if self.nodes.is_empty() {
            return Err(Error::Internal("a pipeline without operators".into()));
        }
        Ok(JobGraph {
            nodes: self.nodes,
            parallelism: self.parallelism,
        })
    }
}

/// What state outlives, and rows do not.
fn beside_the_fingerprint(new: &NewNode) -> String {
    match &new.operator {
        OperatorSpec::Source(source) => {
            let time = |time: &EventTimeExpr| match time {
                EventTimeExpr::Expression(expression) => expression.to_string(),
                EventTimeExpr::ProcessingTime => "processing".to_owned(),
            };
            let event_time = source
                .event_time
                .as_ref()
                .map(|of| (time(&of.time), time(&of.watermark)));
            let columns: Vec<String> = source.projection.iter().flatten().map(ToString::to_string).collect();
            let read = columns_of(&source.physical_schema);
            format!("{read} {event_time:?} {columns:?} {}", columns_of(&new.output.schema))
        }
        OperatorSpec::Sink(sink) => format!("{:?} {}", sink.changelog, columns_of(&new.output.schema)),
        OperatorSpec::UpdatingAggregate(spec) => format!("{:?}", spec.state_ttl_ms),
        OperatorSpec::WindowAggregate(spec) => {
            format!("{:?} {}", spec.aggregate.state_ttl_ms, spec.allowed_lateness_micros)
        }
        OperatorSpec::Join(spec) => format!("{:?}", spec.bound),
        OperatorSpec::TopN(spec) => format!("{:?}", spec.bound),
        OperatorSpec::Over(spec) => match &spec.work {
            OverWork::Ordered { ttl_micros, .. } => format!("{ttl_micros:?}"),
            OverWork::Whole { .. } => String::new(),
            OverWork::Changing { ttl_ms, .. } => format!("changing {ttl_ms:?}"),
        },
        _ => String::new(),
    }
}

fn columns_of(schema: &Schema) -> String {
    let column = |field: &Arc<Field>| format!("{} {}", field.name(), field.data_type());
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ")
}

fn operator_id(kind: &str, fingerprint: &str, inputs: &[&str], occurrence: usize) -> OperatorId {
    let mut text = format!("{kind}\n{fingerprint}\n{}", inputs.join(","));
    if occurrence > 0 {
        text.push_str(&format!("\n#{occurrence}"));
    }
    OperatorId(format!("{kind}_{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes())))
}

/// An expression with its columns as numbers: what it computes, whatever they are called.
pub fn expression_fingerprint(expression: &Arc<dyn PhysicalExpr>) -> String {
    let anonymous = Arc::clone(expression)
        .transform_down(|node| {
            let index = node.downcast_ref::<Column>().map(Column::index);
            Ok(match index {
                Some(index) => Transformed::yes(Arc::new(Column::new("", index)) as Arc<dyn PhysicalExpr>),
                None => Transformed::no(node),
            })
        })
        .data();
    match anonymous {
        Ok(expression) => expression.to_string(),
        // The rewrite above has no way to fail; names are a worse fingerprint than numbers, but one.
        Err(_) => expression.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ids_depend_on_work_and_inputs_only() {
        let base = operator_id("filter", "a@0 > 1", &["source_1"], 0);
        assert_eq!(base, operator_id("filter", "a@0 > 1", &["source_1"], 0));
        assert_ne!(base, operator_id("filter", "a@0 > 2", &["source_1"], 0));
        assert_ne!(base, operator_id("filter", "a@0 > 1", &["source_2"], 0));
        assert_ne!(base, operator_id("filter", "a@0 > 1", &["source_1"], 1));
    }

    /// A source that gives this column.
    fn reading(column: &str) -> NewNode {
        let schema = Arc::new(Schema::new(vec![Field::new(
            column,
            arrow::datatypes::DataType::Int64,
            true,
        )]));
        let rows = arrow::array::RecordBatch::new_empty(Arc::clone(&schema));
        NewNode {
            operator: OperatorSpec::Values(rows),
            description: String::new(),
            fingerprint: column.to_owned(),
            inputs: Vec::new(),
            identified_by: None,
            output: StreamShape {
                schema,
                append_only: true,
                unique_key: None,
                event_time: false,
            },
            parallelism: 1,
            shared: true,
        }
    }

    #[test]
    fn a_lineage_follows_what_feeds_a_node_that_is_identified_by_nothing() {
        let of = |column: &str| {
            let mut builder = GraphBuilder::new(1);
            let source = builder.add(reading(column));
            let mut target = reading("target");
            target.inputs = vec![builder.forward(source, 1)];
            target.identified_by = Some(Vec::new());
            let target = builder.add(target);
            let node = builder.node(target);
            (node.id.clone(), node.lineage.clone())
        };
        assert_eq!(of("a"), of("a"));
        assert_eq!(of("a").0, of("b").0);
        assert_ne!(of("a").1, of("b").1);
    }

    #[test]
    fn fingerprints_forget_names() {
        let one: Arc<dyn PhysicalExpr> = Arc::new(Column::new("__common_expr_1", 3));
        let two: Arc<dyn PhysicalExpr> = Arc::new(Column::new("price", 3));
        assert_eq!(expression_fingerprint(&one), expression_fingerprint(&two));
    }
}

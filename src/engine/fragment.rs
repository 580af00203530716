//! Cuts a job graph into fragments: what one driver runs without any queue in between.
//!
//! A node joins the fragment of its input when the edge is `Forward`, it has no other input and both run the same number
//! of subtasks; otherwise it starts one, and its edges become channels. So does a node that may wait for answers from outside,
//! which then hold back nothing but what follows from its own input. A fragment is a tree of stages: stage 0 is the
//! head (source, values, or the merge of channels), each other stage has one parent.
//!
//! Pure: no threads, no I/O.

use crate::engine::error::Error;
use crate::engine::graph::{Exchange, GraphNode, JobGraph, OperatorSpec};

#[derive(Debug)]
pub struct FragmentPlan {
    /// In topological order.
    pub fragments: Vec<Fragment>,
    pub edges: Vec<ChannelEdge>,
}

#[derive(Debug)]
pub struct Fragment {
    pub parallelism: u32,
    pub head: FragmentHead,
    /// Parents before children; the first is the head.
    pub stages: Vec<Stage>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum FragmentHead {
    Source,
    Values,
    /// Indexes into [`FragmentPlan::edges`].
    Channels(Vec<usize>),
}

impl FragmentHead {
    /// Which input of the head's operator the edge feeds.
    pub fn input_of(&self, edge: usize) -> usize {
        match self {
            FragmentHead::Channels(edges) => edges.iter().position(|of| *of == edge).unwrap_or(0),
            FragmentHead::Source | FragmentHead::Values => 0,
        }
    }
}

#[derive(Debug)]
pub struct Stage {
    /// The node it runs; `None` for a head that only merges channels in front of its first operator.
    pub node: Option<usize>,
    /// Stages of this fragment that take what this one emits.
    pub children: Vec<usize>,
    /// Indexes into [`FragmentPlan::edges`].
    pub outputs: Vec<usize>,
}

/// An edge that became channels.
#[derive(Debug)]
pub struct ChannelEdge {
    pub from_fragment: usize,
    pub to_fragment: usize,
    pub exchange: Exchange,
}

impl FragmentPlan {
    pub fn of(graph: &JobGraph) -> Result<FragmentPlan, Error> {
        let mut plan = FragmentPlan {
            fragments: Vec::new(),
            edges: Vec::new(),
        };
        // Where each node runs: fragment and stage.
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(graph.nodes.len());
        for (index, node) in graph.nodes.iter().enumerate() {
            check_node(graph, index, node)?;
            let place = match fused_input(graph, node) {
                Some(input) => plan.fuse(places[input], index),
                None => plan.start(&places, index, node),
            };
            places.push(place);
        }
        Ok(plan)
    }

    fn fuse(&mut self, (fragment, parent): (usize, usize), node: usize) -> (usize, usize) {
        let stages = &mut self.fragments[fragment].stages;
        stages.push(Stage::of(Some(node)));
        let stage = stages.len() - 1;
        stages[parent].children.push(stage);
        (fragment, stage)
    }

    fn start(&mut self, places: &[(usize, usize)], index: usize, node: &GraphNode) -> (usize, usize) {
        let fragment = self.fragments.len();
        let head = match &node.operator {
            OperatorSpec::Source(_) => FragmentHead::Source,
            OperatorSpec::Values(_) => FragmentHead::Values,
            _ => FragmentHead::Channels(
                node.inputs
                    .iter()
                    .map(|edge| self.connect(places[edge.from], fragment, &edge.exchange))
                    .collect(),
            ),
        };
        let is_head = !matches!(head, FragmentHead::Channels(_));
        let mut stages = vec![Stage::of(is_head.then_some(index))];
        if !is_head {
            stages[0].children.push(1);
            stages.push(Stage::of(Some(index)));
        }
        let stage = stages.len() - 1;
        self.fragments.push(Fragment {
            parallelism: node.parallelism,
            head,
            stages,
        });
        (fragment, stage)
    }

    fn connect(&mut self, (from_fragment, from_stage): (usize, usize), to: usize, exchange: &Exchange) -> usize {
        let edge = self.edges.len();
        self.edges.push(ChannelEdge {
            from_fragment,
            to_fragment: to,
            exchange: exchange.clone(),
        });
        self.fragments[from_fragment].stages[from_stage].outputs.push(edge);
        edge
    }

    /// Every subtask of every fragment.
    pub fn subtasks(&self) -> usize {
        self.fragments
            .iter()
            .map(|fragment| fragment.parallelism as usize)
            .sum()
    }
}

impl Stage {
    fn of(node: Option<usize>) -> Stage {
        Stage {
            node,
            children: Vec::new(),
            outputs: Vec::new(),
        }
    }
}

impl Fragment {
    /// Whether rows enter the job here.
    pub fn is_input(&self) -> bool {
        !matches!(self.head, FragmentHead::Channels(_))
    }
}

/// The input whose fragment `node` joins.
fn fused_input(graph: &JobGraph, node: &GraphNode) -> Option<usize> {
    let [edge] = &node.inputs[..] else {
        return None;
    };
    let fused = edge.exchange == Exchange::Forward
        && !matches!(node.operator, OperatorSpec::Union | OperatorSpec::LookupJoin(_))
        && graph.nodes[edge.from].parallelism == node.parallelism;
    fused.then_some(edge.from)
}

fn check_node(graph: &JobGraph, index: usize, node: &GraphNode) -> Result<(), Error> {
    let wrong = |what: String| {
        Err(Error::Internal(format!(
            "job graph: node {index} ({}) {what}",
            node.operator.name()
        )))
    };
    if node.parallelism == 0 {
        return wrong("has no subtasks".into());
    }
    let is_input = matches!(node.operator, OperatorSpec::Source(_) | OperatorSpec::Values(_));
    match node.inputs.len() {
        0 if !is_input => return wrong("has no input".into()),
        0 => {}
        _ if is_input => return wrong("has an input".into()),
        1 if node.operator.has_two_inputs() => return wrong("has one input".into()),
        1 => {}
        2 if node.operator.has_two_inputs() => {}
        _ if !matches!(node.operator, OperatorSpec::Union) => return wrong("has several inputs".into()),
        _ => {}
    }
    for edge in &node.inputs {
        if edge.from >= index {
            return wrong("comes before its input".into());
        }
        let producers = graph.nodes[edge.from].parallelism;
        match &edge.exchange {
            Exchange::Forward if producers != node.parallelism => {
                return wrong(format!(
                    "has {} subtasks behind a forward edge from {producers}",
                    node.parallelism
                ));
            }
            Exchange::Single if node.parallelism != 1 => {
                return wrong("has several subtasks behind a single edge".into());
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::RecordBatch;
    use arrow::datatypes::Schema;

    use super::*;
    use crate::engine::graph::{GraphEdge, StreamShape};
    use crate::ids::OperatorId;

    fn node(operator: OperatorSpec, parallelism: u32, inputs: &[(usize, Exchange)]) -> GraphNode {
        GraphNode {
            id: OperatorId("x".into()),
            lineage: String::new(),
            description: String::new(),
            operator,
            parallelism,
            inputs: inputs
                .iter()
                .map(|(from, exchange)| GraphEdge {
                    from: *from,
                    exchange: exchange.clone(),
                })
                .collect(),
            output: StreamShape {
                schema: Arc::new(Schema::empty()),
                append_only: true,
                unique_key: None,
                event_time: false,
            },
        }
    }

    fn values() -> OperatorSpec {
        OperatorSpec::Values(RecordBatch::new_empty(Arc::new(Schema::empty())))
    }

    fn project() -> OperatorSpec {
        OperatorSpec::Project { expressions: vec![] }
    }

    fn plan(nodes: Vec<GraphNode>) -> Result<FragmentPlan, Error> {
        FragmentPlan::of(&JobGraph { nodes, parallelism: 2 })
    }

    #[test]
    fn forward_edges_fuse_and_fan_out_stays_a_tree() {
        let forward = || Exchange::Forward;
        let plan = plan(vec![
            node(values(), 2, &[]),
            node(project(), 2, &[(0, forward())]),
            node(project(), 2, &[(0, forward())]),
            node(project(), 2, &[(1, Exchange::Hash { columns: vec![0] })]),
            node(OperatorSpec::Union, 2, &[(2, forward()), (3, forward())]),
            node(project(), 2, &[(4, forward())]),
        ])
        .unwrap();
        assert_eq!(plan.fragments.len(), 3);
        let first = &plan.fragments[0];
        assert_eq!(first.head, FragmentHead::Values);
        assert_eq!(first.stages[0].children, [1, 2]);
        assert_eq!(first.stages[1].outputs, [0]);
        assert_eq!(first.stages[2].outputs, [1]);
        let keyed = &plan.fragments[1];
        assert_eq!(keyed.stages[0].node, None, "merges channels in front of the operator");
        assert_eq!(keyed.stages[1].node, Some(3));
        let union = &plan.fragments[2];
        assert_eq!(union.head, FragmentHead::Channels(vec![1, 2]));
        assert_eq!(union.stages[1].node, Some(4));
        assert_eq!(union.stages[2].node, Some(5));
        assert_eq!(plan.subtasks(), 6);
    }

    #[test]
    fn wrong_graphs_are_refused() {
        assert!(plan(vec![node(project(), 1, &[])]).is_err());
        assert!(plan(vec![node(project(), 1, &[(0, Exchange::Forward)])]).is_err());
        let uneven = vec![node(values(), 1, &[]), node(project(), 2, &[(0, Exchange::Forward)])];
        assert!(plan(uneven).is_err());
        let wide = vec![node(values(), 1, &[]), node(project(), 2, &[(0, Exchange::Single)])];
        assert!(plan(wide).is_err());
    }
}

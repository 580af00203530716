//! What a pipeline that gets another definition can go on with: which operators keep their state, which are computed again
//! and from which sources. Pure; `replace.rs` carries it out, `recovery.rs` does the same at every start from a checkpoint
//! of an earlier definition.
//!
//! State is a function of the input up to the checkpoint's offsets, so that of an operator of the same lineage stays right.
//! An operator without such state has to see all rows. They come from the sources, read again from the start, or from an
//! aggregate that is kept and puts out what it holds once more. Whatever else is fed by these sees rows a second time, so
//! it is computed again as well.
//!
//! Guarantee: the operators of the result have seen either all rows since the beginning or, kept, all rows up to the
//! offsets from which their sources go on; never a mixture. Not guaranteed: that a source can be read again; see
//! [`Evolution::objections`].

use std::collections::BTreeMap;

use crate::engine::graph::{AggregatePhase, EventTimeExpr, GraphNode, JobGraph, OperatorSpec, SourceSpec};
use crate::ids::OperatorId;

/// Operators with state in a checkpoint, and what decided their rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedLineages(pub BTreeMap<OperatorId, String>);

impl SavedLineages {
    /// What a checkpoint of a run of `graph` says.
    pub fn of_graph(graph: &JobGraph) -> SavedLineages {
        let stateful = graph.nodes.iter().filter(|node| node.operator.keeps_state());
        SavedLineages(stateful.map(|node| (node.id.clone(), node.lineage.clone())).collect())
    }

    fn has_state_of(&self, node: &GraphNode) -> bool {
        self.0.get(&node.id) == Some(&node.lineage)
    }
}

/// What becomes of an operator of the new definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fate {
    /// It has no state; what feeds it decides.
    Stateless,
    /// It goes on with its state.
    Kept,
    /// The same, and it puts out once more what it holds: some of those that it feeds are computed again.
    Repeated,
    /// The checkpoint has something under its name that is not used: offsets, a place in a target, state.
    Rebuilt,
    /// The checkpoint has nothing of it.
    New,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evolution {
    /// By node of the new graph.
    pub fates: Vec<Fate>,
    /// Operators whose state is forgotten.
    pub dropped: Vec<OperatorId>,
}

/// What `graph` goes on with from a checkpoint with `saved`.
pub fn evolve(saved: &SavedLineages, graph: &JobGraph) -> Evolution {
    let nodes = &graph.nodes;
    let feeders = feeders(graph);
    let stateful: Vec<usize> = (0..nodes.len())
        .filter(|&node| nodes[node].operator.keeps_state())
        .collect();
    let mut kept: Vec<bool> = nodes.iter().map(|node| saved.has_state_of(node)).collect();
    // Only ever takes away, so it comes to an end; it does when nobody sees a row twice or misses one.
    loop {
        let before = kept.clone();
        for &node in &stateful {
            for &feeder in &feeders[node] {
                if kept[feeder] && !kept[node] {
                    kept[feeder] = can_repeat(&nodes[feeder].operator);
                }
                if kept[node] && !kept[feeder] {
                    kept[node] = false;
                }
            }
        }
        for &feeder in &stateful {
            let fed = |node: &&usize| feeders[**node].contains(&feeder);
            if stateful.iter().filter(fed).any(|&node| !kept[node]) {
                for &node in stateful.iter().filter(fed) {
                    kept[node] = false;
                }
            }
        }
        if kept == before {
            break;
        }
    }
    let repeats = |feeder: usize| {
        stateful
            .iter()
            .any(|&node| !kept[node] && feeders[node].contains(&feeder))
    };
    let fate = |node: usize| match kept[node] {
        _ if !nodes[node].operator.keeps_state() => Fate::Stateless,
        true if repeats(node) => Fate::Repeated,
        true => Fate::Kept,
        false if saved.0.contains_key(&nodes[node].id) => Fate::Rebuilt,
        false => Fate::New,
    };
    let is_there = |id: &&OperatorId| nodes.iter().any(|node| node.id == **id);
    Evolution {
        fates: (0..nodes.len()).map(fate).collect(),
        dropped: saved.0.keys().filter(|id| !is_there(id)).cloned().collect(),
    }
}

/// For each node, the operators with state whose rows reach it through operators without.
fn feeders(graph: &JobGraph) -> Vec<Vec<usize>> {
    let mut feeders: Vec<Vec<usize>> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let mut own: Vec<usize> = Vec::new();
        for edge in &node.inputs {
            match graph.nodes[edge.from].operator.keeps_state() {
                true => own.push(edge.from),
                false => own.extend(&feeders[edge.from]),
            }
        }
        own.sort_unstable();
        own.dedup();
        feeders.push(own);
    }
    feeders
}

/// All that it ever put out, as it stands now, is in its state.
fn can_repeat(operator: &OperatorSpec) -> bool {
    matches!(operator, OperatorSpec::UpdatingAggregate(spec) if spec.phase != AggregatePhase::Partial)
}

impl Evolution {
    /// Operators that go on from the checkpoint, and whether they repeat what they hold. One without state has a watermark
    /// there, which counts when all that it gets comes from such.
    pub fn used(&self, graph: &JobGraph) -> BTreeMap<OperatorId, bool> {
        let feeders = feeders(graph);
        let goes_on = |node: usize| matches!(self.fates[node], Fate::Kept | Fate::Repeated);
        let nodes = (0..graph.nodes.len()).filter(|&node| match self.fates[node] {
            Fate::Stateless => feeders[node].iter().all(|&feeder| goes_on(feeder)),
            _ => goes_on(node),
        });
        nodes
            .map(|node| (graph.nodes[node].id.clone(), self.fates[node] == Fate::Repeated))
            .collect()
    }

    /// Readers of the result see no difference.
    pub fn keeps_result(&self, graph: &JobGraph) -> bool {
        let mut nodes = graph.nodes.iter().zip(&self.fates);
        nodes.any(|(node, fate)| matches!(node.operator, OperatorSpec::Materialize(_)) && *fate == Fate::Kept)
    }

    /// Why the result would not be that of the new definition over all rows, or what would be written twice; a sentence each.
    pub fn objections(&self, graph: &JobGraph) -> Vec<String> {
        let again = graph.nodes.iter().zip(&self.fates);
        let again = again.filter(|(_, fate)| **fate == Fate::Rebuilt).map(|(node, _)| node);
        again.filter_map(objection).collect()
    }
}

/// What speaks against computing an operator again that had come so far before.
pub fn objection(node: &GraphNode) -> Option<String> {
    match &node.operator {
        OperatorSpec::Source(source) => {
            let why = cannot_replay(source)?;
            Some(format!("Source \"{}\" cannot be read again: {why}.", source.table_name))
        }
        OperatorSpec::Sink(sink) if !sink.table.sink_begins_anew() => Some(format!(
            "Table \"{}\" would get rows again that were written to it.",
            sink.table_name
        )),
        _ => None,
    }
}

fn cannot_replay(source: &SourceSpec) -> Option<String> {
    let by_arrival = source.event_time.as_ref().is_some_and(|event_time| {
        let is_arrival = |time: &EventTimeExpr| matches!(time, EventTimeExpr::ProcessingTime);
        is_arrival(&event_time.time) || is_arrival(&event_time.watermark)
    });
    if by_arrival {
        return Some("its event time is when a row arrives".into());
    }
    source.table.cannot_replay()
}

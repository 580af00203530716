//! What is kept when a graph takes the place of another.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::kit::{GraphBuilder, Ledger, NumberTable};
use crate::engine::coordinator::evolution::{Evolution, Fate, SavedLineages, evolve};
use crate::engine::graph::{Exchange, JobGraph, OperatorSpec};

const COPY: Exchange = Exchange::Forward;

struct World {
    table: Arc<NumberTable>,
    ledger: Arc<Ledger>,
}

impl World {
    fn new() -> World {
        World {
            table: NumberTable::new(1, 1),
            ledger: Arc::default(),
        }
    }

    /// Lines `id = kind inputs`, such as `c = count a`.
    fn graph(&self, lines: &str) -> JobGraph {
        let mut graph = GraphBuilder::new(1);
        let mut by_id = BTreeMap::new();
        for line in lines.split(';') {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (id, kind) = (words[0], words[2]);
            let inputs: Vec<usize> = words[3..].iter().map(|input| by_id[input]).collect();
            let node = match kind {
                "source" => graph.source(id, &self.table),
                "count" => graph.count(id, inputs[0]),
                "sink" => graph.sink(id, inputs[0], &self.ledger),
                _ => {
                    let edges: Vec<(usize, Exchange)> = inputs.iter().map(|input| (*input, COPY)).collect();
                    let shape = graph.nodes[inputs[0]].output.clone();
                    graph.add(id, OperatorSpec::Union, &edges, shape)
                }
            };
            by_id.insert(id, node);
        }
        graph.build()
    }

    fn evolved(&self, from: &str, to: &str) -> (JobGraph, Evolution) {
        let to = self.graph(to);
        let evolution = evolve(&SavedLineages::of_graph(&self.graph(from)), &to);
        (to, evolution)
    }
}

fn told(from: &str, to: &str) -> String {
    let (graph, evolution) = World::new().evolved(from, to);
    let word = |fate: &Fate| match fate {
        Fate::Stateless => "-",
        Fate::Kept => "kept",
        Fate::Repeated => "repeated",
        Fate::Rebuilt => "rebuilt",
        Fate::New => "new",
    };
    let nodes = graph.nodes.iter().zip(&evolution.fates);
    let mut words: Vec<String> = nodes
        .map(|(node, fate)| format!("{} {}", node.id, word(fate)))
        .collect();
    words.extend(evolution.dropped.iter().map(|id| format!("{id} dropped")));
    words.join(", ")
}

#[test]
fn what_is_the_same_is_kept() {
    let graph = "a = source; u = union a; c = count u; s = sink c";
    assert_eq!(told(graph, graph), "a kept, u -, c kept, s kept");
    assert_eq!(
        told("x = source; s = sink x", graph),
        "a new, u -, c new, s rebuilt, x dropped"
    );
}

#[test]
fn an_aggregate_feeds_what_is_new_from_its_state() {
    let before = "a = source; c = count a; s = sink c";
    // The source goes on: nothing is read again.
    assert_eq!(
        told(before, "a = source; c = count a; f = filter c; t = sink f"),
        "a kept, c repeated, f -, t new, s dropped"
    );
    // A sink that it feeds as well gets all rows once more.
    assert_eq!(
        told(before, "a = source; c = count a; s = sink c; t = sink c"),
        "a kept, c repeated, s rebuilt, t new"
    );
}

#[test]
fn a_source_that_is_read_again_takes_along_all_that_it_feeds() {
    let before = "a = source; c = count a; s = sink c; b = source; d = count b; t = sink d";
    assert_eq!(
        told(
            before,
            "a = source; f = filter a; c = count f; s = sink c; b = source; d = count b; t = sink d"
        ),
        "a rebuilt, f -, c rebuilt, s rebuilt, b kept, d kept, t kept"
    );
    // The aggregate is the same, and its input comes twice.
    assert_eq!(
        told(
            "a = source; c = count a; s = sink c",
            "a = source; c = count a; s = sink c; n = sink a"
        ),
        "a rebuilt, c rebuilt, s rebuilt, n new"
    );
    // One side of a union is new: the other one feeds it from its state.
    assert_eq!(
        told(
            "a = source; c = count a; s = sink c",
            "a = source; c = count a; b = source; u = union b c; s = sink u"
        ),
        "a kept, c repeated, b new, u -, s rebuilt"
    );
}

#[test]
fn a_checkpoint_that_says_nothing_of_lineages_is_used_for_nothing() {
    let world = World::new();
    let graph = world.graph("a = source; c = count a; s = sink c");
    let mut saved = SavedLineages::of_graph(&graph);
    saved.0.values_mut().for_each(String::clear);
    let evolution = evolve(&saved, &graph);
    assert_eq!(evolution.fates, [Fate::Rebuilt; 3]);
    assert_eq!(
        evolution.objections(&graph),
        ["Table \"public.s\" would get rows again that were written to it."]
    );
}

/// A graph in which node `n` reads one or two nodes before it.
fn lines(choices: &[(u8, u8, u8)], variant: &[bool]) -> String {
    let mut lines = vec!["n0 = source".to_owned(), "m0 = source".to_owned()];
    let mut names = vec!["n0".to_owned(), "m0".to_owned()];
    for (at, (kind, one, two)) in choices.iter().enumerate() {
        let pick = |choice: &u8| names[usize::from(*choice) % names.len()].clone();
        let changed = variant.get(at).copied().unwrap_or(false);
        let name = format!("n{}{}", at + 1, if changed { "x" } else { "" });
        let (one, two) = (pick(one), pick(two));
        match kind % 4 {
            0 => lines.push(format!("{name} = count {one}")),
            1 if one != two => lines.push(format!("{name} = union {one} {two}")),
            1 | 2 => lines.push(format!("{name} = filter {one}")),
            _ => {
                lines.push(format!("{name} = sink {one}"));
                continue;
            }
        }
        names.push(name);
    }
    lines.join(";")
}

proptest! {
    /// Nobody misses a row and nobody sees one twice.
    #[test]
    fn all_or_only_what_is_missing(
        choices in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..10),
        variant in proptest::collection::vec(proptest::bool::weighted(0.2), 10),
    ) {
        let (graph, evolution) = World::new().evolved(&lines(&choices, &[]), &lines(&choices, &variant));
        let used = evolution.used(&graph);
        let kept = |node: usize| used.contains_key(&graph.nodes[node].id);
        let feeders = |node: usize| {
            let mut found = Vec::new();
            let mut pending: Vec<usize> = graph.nodes[node].inputs.iter().map(|edge| edge.from).collect();
            while let Some(from) = pending.pop() {
                match graph.nodes[from].operator.keeps_state() {
                    true => found.push(from),
                    false => pending.extend(graph.nodes[from].inputs.iter().map(|edge| edge.from)),
                }
            }
            found
        };
        for node in (0..graph.nodes.len()).filter(|&node| graph.nodes[node].operator.keeps_state()) {
            for feeder in feeders(node) {
                let gives_all = !kept(feeder) || used[&graph.nodes[feeder].id];
                prop_assert_eq!(gives_all, !kept(node), "{} feeds {}", graph.nodes[feeder].id, graph.nodes[node].id);
            }
        }
        // What did not change and shares no source with what did is kept.
        if !variant.iter().any(|changed| *changed) {
            prop_assert!(evolution.fates.iter().all(|fate| matches!(fate, Fate::Kept | Fate::Stateless)));
        }
    }
}

//! Rows that replace each other as scripts, and on random input against a map.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;

use crate::engine::graph::{OperatorSpec, StreamShape, UpsertNormaliseSpec};
use crate::engine::message::{BarrierKind, Chunk, Weights};
use crate::engine::operator::{Operator, Output, OutputItem};
use crate::engine::operators::build;
use crate::testing::aggregate_specs::{context, schema, shape};
use crate::testing::memory_state::Checkpoints;
use crate::testing::operator_harness::{Harness, lines, routed, rows_of};

fn key_and_value() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("v", DataType::Int64)])
}

fn spec() -> OperatorSpec {
    OperatorSpec::UpsertNormalise(UpsertNormaliseSpec { key: vec![0] })
}

fn harness(event_time: Option<usize>) -> Harness {
    let shape = StreamShape {
        event_time: event_time.is_some(),
        ..shape(key_and_value(), false)
    };
    Harness::new(spec(), shape.clone(), shape, context(0, 1), event_time)
}

#[test]
fn a_row_replaces_the_one_of_its_key() {
    let mut harness = harness(None);
    assert_eq!(harness.run("+ 1 4\n+ 2 5"), lines("+ 1 4\n+ 2 5"));
    assert_eq!(harness.run("+ 1 6"), lines("- 1 4\n+ 1 6"));
    assert_eq!(harness.run("- 1 null"), lines("- 1 6"));
    assert_eq!(harness.run("+ 1 null"), lines("+ 1 null"));
}

#[test]
fn what_changes_nothing_says_nothing() {
    let mut harness = harness(None);
    harness.run("+ 1 4");
    assert_eq!(harness.run("+ 1 4\n\n- 2 null\n\n+ 1 5\n+ 1 4\n\n+ 3 1\n- 3 null"), "");
    assert_eq!(harness.operator().state_size().rows, 1);
}

#[test]
fn the_last_word_of_a_chunk_counts() {
    let mut harness = harness(None);
    assert_eq!(harness.run("+ 1 4\n- 1 null\n+ 1 7"), lines("+ 1 7"));
    assert_eq!(harness.run("- 1 null\n+ 2 7\n+ 1 8\n- 1 null"), lines("- 1 7\n+ 2 7"));
}

#[test]
fn rows_survive_a_restart_and_are_forgotten_when_they_go() {
    let mut harness = harness(None);
    harness.run("+ 1 4\n+ 2 5\n+ 3 6\nC 1");
    assert_eq!(harness.state.rows("rows"), 3);
    assert_eq!(
        harness.run("R\n+ 1 4\n- 2 null\nC 2\nR\n+ 2 5\n+ 3 7"),
        lines("- 2 5\n- 3 6\n+ 2 5\n+ 3 7")
    );
    // Gone before any snapshot held it, and back before the next one.
    assert_eq!(
        harness.run("+ 4 1\n\n- 4 null\n\n- 1 null\n\n+ 1 9\nC 3"),
        lines("+ 4 1\n- 4 1\n- 1 4\n+ 1 9")
    );
    assert_eq!(harness.run("R\n+ 1 9\n- 4 null"), "");
}

#[test]
fn a_row_goes_with_the_time_that_it_came_with() {
    let mut harness = harness(Some(1));
    harness.run("+ 1 100\nC 1\nR");
    let chunk = Chunk {
        rows: batch(&[(1, Some(200)), (2, None)]),
        weights: Weights::Signed(vec![1, -1].into()),
        event_time: Some(vec![200, i64::MIN / 2].into()),
        key_hashes: None,
    };
    let shape = shape(key_and_value(), false);
    let mut operator = build(&spec(), Some(&shape), &shape, &context(0, 1)).unwrap();
    operator.restore(&harness.state.reader(0, 1)).unwrap();
    let mut output = Output::default();
    operator.process(0, chunk, &mut output).unwrap();
    let Some(OutputItem::Data(changes)) = output.take().next() else {
        panic!("the row changed");
    };
    assert_eq!(changes.event_time.as_deref(), Some([100, 200].as_slice()));
    assert_eq!(changes.weights, Weights::Signed(vec![-1, 1].into()));
}

fn batch(rows: &[(i64, Option<i64>)]) -> RecordBatch {
    let keys: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
    let values: Int64Array = rows.iter().map(|row| row.1).collect();
    RecordBatch::try_new(key_and_value(), vec![Arc::new(keys), Arc::new(values)]).unwrap()
}

#[derive(Clone, Debug)]
enum Action {
    /// Keys with their new value; `None`: the row goes.
    Change(Vec<(i64, Option<i64>)>),
    Checkpoint,
    Restart(u32),
}

fn action() -> impl Strategy<Value = Action> {
    let change = (0..12i64, prop::option::weighted(0.7, 0..4i64));
    prop_oneof![
        6 => prop::collection::vec(change, 1..10).prop_map(Action::Change),
        2 => Just(Action::Checkpoint),
        1 => (1..4u32).prop_map(Action::Restart),
    ]
}

struct Cluster {
    operators: Vec<Box<dyn Operator>>,
    checkpoints: Checkpoints,
    /// What came out, added up.
    folded: BTreeMap<String, i64>,
}

impl Cluster {
    fn start(&mut self, parallelism: u32) {
        let shape = StreamShape {
            event_time: false,
            ..shape(key_and_value(), false)
        };
        let start = |subtask: u32| {
            let mut operator = build(&spec(), Some(&shape), &shape, &context(subtask, parallelism)).unwrap();
            operator
                .restore(&self.checkpoints.state.reader(subtask, parallelism))
                .unwrap();
            operator
        };
        self.operators = (0..parallelism).map(start).collect();
        self.checkpoints.begin_run();
    }

    fn change(&mut self, changes: &[(i64, Option<i64>)]) {
        let weights: Vec<i64> = changes
            .iter()
            .map(|(_, value)| if value.is_some() { 1 } else { -1 })
            .collect();
        let chunk = Chunk {
            weights: Weights::Signed(weights.into()),
            ..Chunk::insert(batch(changes))
        };
        for (subtask, part) in routed(&chunk, &[0], self.operators.len() as u32) {
            let mut output = Output::default();
            self.operators[subtask].process(0, part, &mut output).unwrap();
            for item in output.take() {
                let OutputItem::Data(chunk) = item else { continue };
                for (row, weight) in rows_of(&chunk) {
                    let count = self.folded.entry(row).or_default();
                    *count += weight;
                    // Nothing goes that has not come, and nothing comes twice.
                    assert!((0..=1).contains(count));
                }
            }
        }
        self.folded.retain(|_, count| *count != 0);
    }

    fn checkpoint(&mut self) {
        let barrier = self.checkpoints.barrier(BarrierKind::Checkpoint);
        for operator in &mut self.operators {
            operator.on_barrier(barrier, &mut Output::default()).unwrap();
        }
        self.checkpoints.save(&mut self.operators);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_came_out_adds_up_to_the_last_word_on_each_key(actions in prop::collection::vec(action(), 1..30)) {
        let mut cluster = Cluster {
            operators: Vec::new(),
            checkpoints: Checkpoints::default(),
            folded: BTreeMap::new(),
        };
        cluster.start(2);
        let mut rows: BTreeMap<i64, i64> = BTreeMap::new();
        for action in &actions {
            match action {
                Action::Change(changes) => {
                    cluster.change(changes);
                    for &(key, value) in changes {
                        match value {
                            Some(value) => rows.insert(key, value),
                            None => rows.remove(&key),
                        };
                    }
                }
                Action::Checkpoint => cluster.checkpoint(),
                Action::Restart(parallelism) => {
                    cluster.checkpoint();
                    cluster.start(*parallelism);
                }
            }
            let expected: BTreeMap<String, i64> = rows.iter().map(|(key, value)| (format!("{key} {value}"), 1)).collect();
            prop_assert_eq!(&cluster.folded, &expected);
            let kept: u64 = cluster.operators.iter().map(|operator| operator.state_size().rows).sum();
            prop_assert_eq!(kept, rows.len() as u64);
        }
    }
}

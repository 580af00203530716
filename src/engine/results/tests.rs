//! Results from the operator that makes them to the reader, against a model and in the corners.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::scalar::ScalarValue;
use futures::FutureExt;
use proptest::prelude::*;

use crate::engine::graph::{MaterializeSpec, OperatorSpec};
use crate::engine::message::{Barrier, BarrierKind, Chunk, Weights};
use crate::engine::operator::{Operator, Output};
use crate::engine::operators::{BuildContext, build};
use crate::engine::results::{EpochChanges, PipelineResult, Results, Subscription};
use crate::error::{Report, SqlState};
use crate::ids::{Epoch, Oid};
use crate::testing::aggregate_specs::{context, schema, shape};
use crate::testing::memory_state::Checkpoints;
use crate::testing::operator_harness::{routed, rows_of};

pub(super) const PIPELINE: Oid = Oid(20000);

pub(super) type Row = (i64, Option<i64>);

pub(super) fn two_columns() -> SchemaRef {
    schema(&[("k", DataType::Int64), ("v", DataType::Int64)])
}

/// All subtasks of one result.
pub(super) struct Cluster {
    pub results: Results,
    key: Option<Vec<usize>>,
    append_only: bool,
    pub subtasks: Vec<Box<dyn Operator>>,
    pub checkpoints: Checkpoints,
}

impl Cluster {
    pub fn new(key: Option<Vec<usize>>, append_only: bool, parallelism: u32) -> Cluster {
        let mut cluster = Cluster {
            results: Results::default(),
            key,
            append_only,
            subtasks: Vec::new(),
            checkpoints: Checkpoints::default(),
        };
        cluster.start(parallelism);
        cluster
    }

    pub fn start(&mut self, parallelism: u32) {
        self.subtasks.clear();
        for subtask in 0..parallelism {
            let mut operator = self.build(subtask, parallelism);
            operator
                .restore(&self.checkpoints.state.reader(subtask, parallelism))
                .unwrap();
            self.subtasks.push(operator);
        }
        self.checkpoints.begin_run();
    }

    fn build(&self, subtask: u32, parallelism: u32) -> Box<dyn Operator> {
        let spec = OperatorSpec::Materialize(MaterializeSpec {
            pipeline: PIPELINE,
            key: self.key.clone(),
            append_only: self.append_only,
        });
        let context = BuildContext {
            results: self.results.clone(),
            ..context(subtask, parallelism)
        };
        let shape = shape(two_columns(), self.append_only);
        build(&spec, Some(&shape), &shape, &context).unwrap()
    }

    pub fn result(&self) -> Arc<PipelineResult> {
        self.results.get(PIPELINE).unwrap()
    }

    pub fn change(&mut self, rows: &[(Row, i64)]) {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(rows.iter().map(|row| row.0.0).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.0.1).collect::<Int64Array>()),
        ];
        let chunk = Chunk {
            weights: Weights::Signed(rows.iter().map(|row| row.1).collect()),
            ..Chunk::insert(RecordBatch::try_new(two_columns(), columns).unwrap())
        };
        let keys = self.key.clone().unwrap_or_else(|| vec![0, 1]);
        for (subtask, part) in routed(&chunk, &keys, self.subtasks.len() as u32) {
            self.subtasks[subtask].process(0, part, &mut Output::default()).unwrap();
        }
    }

    pub fn barrier(&mut self, kind: BarrierKind) {
        let barrier = self.checkpoints.barrier(kind);
        for operator in &mut self.subtasks {
            operator.on_barrier(barrier, &mut Output::default()).unwrap();
        }
        if kind.persists() {
            self.checkpoints.save(&mut self.subtasks);
        }
    }

    pub fn tick(&mut self) {
        self.barrier(BarrierKind::Tick);
    }

    /// Rows with how often each is there.
    pub fn read(&self) -> BTreeMap<String, i64> {
        let snapshot = self.result().snapshot();
        let mut rows = BTreeMap::new();
        let mut count = 0;
        for batch in snapshot.batches() {
            for (row, weight) in rows_of(&Chunk::insert(batch.unwrap())) {
                *rows.entry(row).or_default() += weight;
                count += 1;
            }
        }
        assert_eq!(count, snapshot.row_count());
        rows
    }

    fn lookup(&self, key: i64) -> Option<String> {
        let found = self.result().lookup(&[ScalarValue::Int64(Some(key))]).unwrap();
        found.map(|batch| {
            assert_eq!(batch.num_rows(), 1);
            rows_of(&Chunk::insert(batch))[0].0.clone()
        })
    }
}

fn barrier_at(operator: &mut dyn Operator, epoch: u64, kind: BarrierKind) {
    let barrier = Barrier {
        epoch: Epoch(epoch),
        kind,
    };
    operator.on_barrier(barrier, &mut Output::default()).unwrap();
}

fn text(row: &Row) -> String {
    format!("{} {}", row.0, row.1.map_or("null".into(), |value| value.to_string()))
}

/// What a subscription has said so far, folded; epochs must grow.
struct Follower {
    subscription: Subscription,
    rows: BTreeMap<String, i64>,
    epoch: Option<Epoch>,
}

impl Follower {
    fn new(subscription: Subscription) -> Follower {
        Follower {
            subscription,
            rows: BTreeMap::new(),
            epoch: None,
        }
    }

    /// True when the subscription has ended.
    fn catch_up(&mut self) -> bool {
        while let Some(next) = self.subscription.next().now_or_never() {
            let Some(changes) = next else {
                return true;
            };
            let EpochChanges {
                epoch,
                chunks,
                progress,
            } = changes.unwrap();
            assert!(self.epoch.is_none_or(|before| before < epoch), "each epoch comes once");
            if progress {
                self.epoch = Some(epoch);
            }
            for (row, weight) in chunks.iter().flat_map(rows_of) {
                *self.rows.entry(row).or_default() += weight;
            }
        }
        self.rows.retain(|_, count| *count != 0);
        false
    }
}

#[derive(Clone, Debug)]
enum Action {
    /// Key, new value (`None` removes), and whether the parts of the change come in the wrong order.
    Set(Vec<(i64, Option<Option<i64>>, bool)>),
    Tick,
    Checkpoint,
    Restart(u32),
    Subscribe,
}

fn action() -> impl Strategy<Value = Action> {
    let value = prop::option::weighted(0.7, prop::option::weighted(0.9, 0..4i64));
    prop_oneof![
        6 => prop::collection::vec((0..8i64, value, any::<bool>()), 1..10).prop_map(Action::Set),
        3 => Just(Action::Tick),
        2 => Just(Action::Checkpoint),
        1 => (1..4u32).prop_map(Action::Restart),
        1 => Just(Action::Subscribe),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn keyed(actions in prop::collection::vec(action(), 1..40)) {
        let mut cluster = Cluster::new(Some(vec![0]), false, 2);
        let mut model: BTreeMap<i64, Option<i64>> = BTreeMap::new();
        let mut follower = Follower::new(cluster.result().subscribe(true));
        for action in &actions {
            match action {
                Action::Set(changes) => {
                    for &(key, value, swapped) in changes {
                        let mut parts = Vec::new();
                        if let Some(old) = model.remove(&key) {
                            parts.push(((key, old), -1));
                        }
                        if let Some(new) = value {
                            parts.push(((key, new), 1));
                            model.insert(key, new);
                        }
                        if swapped {
                            parts.reverse();
                        }
                        cluster.change(&parts);
                    }
                    continue;
                }
                Action::Tick => cluster.tick(),
                Action::Checkpoint => cluster.barrier(BarrierKind::Checkpoint),
                Action::Restart(parallelism) => {
                    cluster.barrier(BarrierKind::Checkpoint);
                    cluster.start(*parallelism);
                    prop_assert!(follower.catch_up());
                    follower = Follower::new(cluster.result().subscribe(true));
                }
                Action::Subscribe => {
                    cluster.tick();
                    follower = Follower::new(cluster.result().subscribe(true));
                }
            }
            let expected: BTreeMap<String, i64> = model.iter().map(|(&key, &value)| (text(&(key, value)), 1)).collect();
            prop_assert_eq!(&cluster.read(), &expected);
            prop_assert!(!follower.catch_up());
            prop_assert_eq!(&follower.rows, &expected);
            for key in 0..8 {
                prop_assert_eq!(cluster.lookup(key), model.get(&key).map(|&value| text(&(key, value))));
            }
        }
    }

    #[test]
    fn unkeyed(actions in prop::collection::vec(action(), 1..40), append_only: bool) {
        let mut cluster = Cluster::new(None, append_only, 2);
        let mut model: BTreeMap<String, i64> = BTreeMap::new();
        let mut follower = Follower::new(cluster.result().subscribe(true));
        for action in &actions {
            match action {
                Action::Set(changes) => {
                    for &(key, value, remove) in changes {
                        let row = (key, value.flatten());
                        let count = model.entry(text(&row)).or_default();
                        let weight = if remove && !append_only && *count > 0 { -1 } else { 1 + key % 2 };
                        *count += weight;
                        cluster.change(&[(row, weight)]);
                    }
                    model.retain(|_, count| *count > 0);
                    continue;
                }
                Action::Restart(parallelism) => {
                    cluster.barrier(BarrierKind::Checkpoint);
                    cluster.start(*parallelism);
                    follower = Follower::new(cluster.result().subscribe(true));
                }
                Action::Checkpoint => cluster.barrier(BarrierKind::Checkpoint),
                Action::Tick | Action::Subscribe => cluster.tick(),
            }
            prop_assert_eq!(&cluster.read(), &model);
            prop_assert!(!follower.catch_up());
            prop_assert_eq!(&follower.rows, &model);
        }
    }
}

#[test]
fn readers_see_an_epoch_when_every_subtask_has_published_it() {
    let mut cluster = Cluster::new(Some(vec![0]), false, 2);
    let rows: Vec<(Row, i64)> = (0..20).map(|key| ((key, Some(1)), 1)).collect();
    cluster.change(&rows);
    cluster.tick();
    let mut follower = Follower::new(cluster.result().subscribe(false));
    let before = cluster.result().snapshot();
    let changes: Vec<(Row, i64)> = (0..20)
        .flat_map(|key| [((key, Some(1)), -1), ((key, Some(2)), 1)])
        .collect();
    cluster.change(&changes);
    barrier_at(cluster.subtasks[0].as_mut(), 2, BarrierKind::Tick);
    barrier_at(cluster.subtasks[0].as_mut(), 3, BarrierKind::Tick);
    follower.catch_up();
    assert_eq!(cluster.result().latest_epoch(), Epoch(1));
    assert!((0..20).all(|key| cluster.lookup(key) == Some(format!("{key} 1"))));
    assert!(cluster.read().keys().all(|row| row.ends_with(" 1")));
    assert!(follower.rows.is_empty());
    barrier_at(cluster.subtasks[1].as_mut(), 2, BarrierKind::Tick);
    follower.catch_up();
    assert_eq!(cluster.result().latest_epoch(), Epoch(2));
    assert!((0..20).all(|key| cluster.lookup(key) == Some(format!("{key} 2"))));
    assert_eq!(follower.rows.len(), 40);
    // A snapshot taken before stays what it was.
    let old: Vec<(String, i64)> = before
        .batches()
        .flat_map(|batch| rows_of(&Chunk::insert(batch.unwrap())))
        .collect();
    assert!(before.epoch() == Epoch(1) && old.len() == 20 && old.iter().all(|(row, _)| row.ends_with(" 1")));
}

#[test]
fn dead_rows_are_cleared_away() {
    let mut cluster = Cluster::new(Some(vec![0]), false, 1);
    let rows: Vec<(Row, i64)> = (0..50_000).map(|key| ((key, Some(key)), 1)).collect();
    cluster.change(&rows);
    cluster.tick();
    let full = cluster.subtasks[0].state_size();
    assert_eq!(full.rows, 50_000);
    let gone: Vec<(Row, i64)> = (0..49_000).map(|key| ((key, Some(key)), -1)).collect();
    cluster.change(&gone);
    cluster.tick();
    let sparse = cluster.subtasks[0].state_size();
    let snapshot = cluster.result().snapshot();
    let batches: Vec<RecordBatch> = snapshot.batches().map(Result::unwrap).collect();
    assert_eq!((snapshot.row_count(), sparse.rows), (1000, 1000));
    assert!(batches.len() <= 3, "{} batches for 1000 rows", batches.len());
    assert!((49_000..50_000).all(|key| cluster.lookup(key) == Some(format!("{key} {key}"))));
    assert_eq!(cluster.lookup(48_999), None);
}

#[test]
fn the_former_run_is_read_until_the_next_is_there() {
    let mut cluster = Cluster::new(Some(vec![0]), false, 1);
    cluster.change(&[((1, Some(1)), 1)]);
    cluster.barrier(BarrierKind::Checkpoint);
    cluster.subtasks.clear();
    assert_eq!(cluster.read().len(), 1, "a stopped job's result is readable");
    let mut first = cluster.build(0, 2);
    first.restore(&cluster.checkpoints.state.reader(0, 2)).unwrap();
    let mut second = cluster.build(1, 2);
    assert_eq!(cluster.read().len(), 1);
    second.restore(&cluster.checkpoints.state.reader(1, 2)).unwrap();
    assert_eq!(cluster.result().latest_epoch(), Epoch(0));
    assert_eq!(cluster.read().len(), 1);
    drop((first, second));
    // A start that failed halfway leaves nothing that the next start would join.
    drop(cluster.build(0, 2));
    cluster.start(2);
    assert_eq!(cluster.read().len(), 1);
}

#[test]
fn a_subscription_gets_the_last_epoch_and_then_ends() {
    let mut cluster = Cluster::new(Some(vec![0]), false, 2);
    let mut follower = Follower::new(cluster.result().subscribe(true));
    let rows: Vec<(Row, i64)> = (0..10).map(|key| ((key, Some(1)), 1)).collect();
    cluster.change(&rows);
    barrier_at(cluster.subtasks[0].as_mut(), 1, BarrierKind::Stop);
    let mut last = cluster.subtasks.pop().unwrap();
    // Subtask 0 is gone before subtask 1 has published.
    cluster.subtasks.clear();
    assert!(!follower.catch_up());
    barrier_at(last.as_mut(), 1, BarrierKind::Stop);
    assert!(follower.catch_up());
    assert_eq!(follower.rows.len(), 10);
    assert!(Follower::new(cluster.result().subscribe(false)).catch_up());
}

#[test]
fn a_reader_that_is_too_slow_is_ended_and_the_pipeline_goes_on() {
    let mut cluster = Cluster::new(None, true, 1);
    let mut slow = cluster.result().subscribe_bounded(false, 2000);
    for epoch in 0..100 {
        cluster.change(&[((epoch, Some(1)), 1)]);
        cluster.tick();
    }
    let error = slow.next().now_or_never().unwrap().unwrap().unwrap_err();
    assert_eq!(error.code(), SqlState::CONFIGURATION_LIMIT_EXCEEDED);
    assert!(error.hint().is_some());
    assert!(slow.next().now_or_never().unwrap().is_none());
    assert_eq!(cluster.result().snapshot().row_count(), 100);
}

#[test]
fn a_row_that_is_not_at_home_is_refused() {
    let cluster = Cluster::new(Some(vec![0]), false, 2);
    let mut refused = 0;
    for subtask in 0..2 {
        let mut operator = cluster.build(subtask, 2);
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![7])), Arc::new(Int64Array::from(vec![1]))];
        let chunk = Chunk::insert(RecordBatch::try_new(two_columns(), columns).unwrap());
        operator.process(0, chunk, &mut Output::default()).unwrap();
        let barrier = Barrier {
            epoch: Epoch(1),
            kind: BarrierKind::Tick,
        };
        refused += usize::from(operator.on_barrier(barrier, &mut Output::default()).is_err());
    }
    assert_eq!(refused, 1);
}

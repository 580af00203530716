//! A reader of a result that crashes, whose reader crashes too, while checkpoints that nobody needs are collected.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use futures::future::BoxFuture;
use proptest::prelude::*;
use tokio::sync::watch;

use crate::engine::connectors::testing::Bench;
use crate::engine::connectors::{ConnectorTable, Source, SourceContext, SourcePoll, SplitOffset};
use crate::engine::message::{BarrierKind, Chunk, Weights};
use crate::engine::operator::Result;
use crate::engine::results::follow::FollowedResult;
use crate::engine::results::history::{DurableEpoch, PinnedEpoch, ResultHistory};
use crate::engine::results::tests::{Cluster, PIPELINE, Row, two_columns};
use crate::engine::results::{PipelineResult, Results};
use crate::error::{Report, SqlState};
use crate::ids::{Epoch, Oid};
use crate::testing::operator_harness::rows_of;

type Pins = Vec<(Epoch, std::sync::Weak<dyn Send + Sync>)>;

/// Checkpoints by epoch.
struct History {
    results: Results,
    kept: Mutex<BTreeMap<Epoch, Vec<RecordBatch>>>,
    ended: Mutex<bool>,
    changed: watch::Sender<u64>,
    pins: Mutex<Pins>,
}

impl History {
    fn of(cluster: &Cluster) -> Arc<History> {
        Arc::new(History {
            results: cluster.results.clone(),
            kept: Mutex::default(),
            ended: Mutex::new(false),
            changed: watch::channel(0).0,
            pins: Mutex::default(),
        })
    }

    /// The epoch that the cluster has checkpointed is durable; all are collected but this, the pinned and the `needed`.
    fn decide(&self, cluster: &Cluster, needed: &[Epoch]) {
        let epoch = cluster.checkpoints.epoch;
        let rows = cluster.result().snapshot().batches().map(Result::unwrap).collect();
        let mut pins = self.pins.lock().unwrap();
        pins.retain(|(_, pin)| pin.strong_count() > 0);
        let mut kept = self.kept.lock().unwrap();
        let is_needed = |epoch: &Epoch| needed.contains(epoch) || pins.iter().any(|(pinned, _)| pinned == epoch);
        kept.retain(|epoch, _| is_needed(epoch));
        kept.insert(epoch, rows);
        drop((pins, kept));
        self.changed.send_modify(|count| *count += 1);
    }
}

impl ResultHistory for History {
    fn newest(&self, _pipeline: Oid) -> BoxFuture<'_, Result<Option<DurableEpoch>>> {
        let is_final = *self.ended.lock().unwrap();
        // As in `decide`, pins before epochs: nothing is collected in between.
        let mut pins = self.pins.lock().unwrap();
        let newest = self.kept.lock().unwrap().keys().next_back().copied();
        let pinned = |epoch| DurableEpoch {
            pinned: pinned(&mut pins, epoch),
            is_final,
        };
        Box::pin(std::future::ready(Ok(newest.map(pinned))))
    }

    fn changed(&self, _pipeline: Oid) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn rows(&self, _pipeline: Oid, epoch: Epoch) -> BoxFuture<'_, Result<Vec<RecordBatch>>> {
        let rows = self.kept.lock().unwrap().get(&epoch).cloned();
        Box::pin(async move {
            // Gives the cluster time to go on meanwhile.
            tokio::time::sleep(Duration::from_micros(200)).await;
            Ok(rows.unwrap_or_else(|| panic!("{epoch} was collected and is needed")))
        })
    }

    fn result(&self, pipeline: Oid) -> Option<Arc<PipelineResult>> {
        self.results.get(pipeline)
    }

    fn pin(&self, _pipeline: Oid, epoch: Epoch) -> PinnedEpoch {
        pinned(&mut self.pins.lock().unwrap(), epoch)
    }
}

fn pinned(pins: &mut Pins, epoch: Epoch) -> PinnedEpoch {
    let pin: Arc<dyn Send + Sync> = Arc::new(());
    pins.push((epoch, Arc::downgrade(&pin)));
    PinnedEpoch { epoch, pin }
}

fn open(bench: &Bench, history: &Arc<History>, append_only: bool, restored: &[SplitOffset]) -> Box<dyn Source> {
    let table = FollowedResult {
        pipeline: PIPELINE,
        name: "public.followed".into(),
        schema: two_columns(),
        append_only,
        bounded: false,
    };
    let context = SourceContext {
        schema: two_columns(),
        restored: restored.to_vec(),
        results: Arc::clone(history) as Arc<dyn ResultHistory>,
        ..bench.source_context()
    };
    table.open_source(context).unwrap()
}

/// Offsets, the epochs that they need, and what was folded up to them.
type Saved = (Vec<SplitOffset>, Vec<Epoch>, BTreeMap<String, i64>);

/// The reading pipeline: what it has folded, and what its last checkpoint says.
struct Reader {
    source: Box<dyn Source>,
    rows: BTreeMap<String, i64>,
    saved: Saved,
    ended: bool,
}

impl Reader {
    fn new(source: Box<dyn Source>) -> Reader {
        Reader {
            source,
            rows: BTreeMap::new(),
            saved: Saved::default(),
            ended: false,
        }
    }

    fn poll(&mut self) -> Result<bool> {
        let (rows, weights) = match self.source.poll(8192)? {
            SourcePoll::Rows { rows, .. } => (rows, Weights::AllInsert),
            SourcePoll::Changes { rows, weights, .. } => (rows, Weights::Signed(weights)),
            SourcePoll::Finished => {
                self.ended = true;
                return Ok(false);
            }
            SourcePoll::Pending(_) | SourcePoll::SplitFinished { .. } => return Ok(false),
        };
        let chunk = Chunk {
            weights,
            ..Chunk::insert(rows)
        };
        for (row, weight) in rows_of(&chunk) {
            *self.rows.entry(row).or_default() += weight;
        }
        self.rows.retain(|_, count| *count != 0);
        Ok(true)
    }

    fn until(&mut self, done: impl Fn(&Reader) -> bool) {
        let start = Instant::now();
        while !done(self) {
            if !self.poll().unwrap() {
                std::thread::sleep(Duration::from_micros(100));
            }
            assert!(start.elapsed() < Duration::from_secs(60), "nothing more comes");
        }
    }

    fn save(&mut self) {
        let needed = self.source.inputs().iter().map(|input| input.pinned.epoch).collect();
        self.saved = (self.source.offsets(), needed, self.rows.clone());
    }
}

#[derive(Clone, Debug)]
enum Action {
    Set(Vec<(i64, Option<i64>)>),
    Tick,
    Checkpoint,
    /// What was not checkpointed is lost.
    Crash(u32),
    Poll(usize),
    Save,
    RestartReader,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec((0..6i64, prop::option::weighted(0.7, 0..3i64)), 1..6).prop_map(Action::Set),
        3 => Just(Action::Tick),
        4 => Just(Action::Checkpoint),
        1 => (1..3u32).prop_map(Action::Crash),
        4 => (1..4usize).prop_map(Action::Poll),
        2 => Just(Action::Save),
        2 => Just(Action::RestartReader),
    ]
}

fn set(cluster: &mut Cluster, model: &mut BTreeMap<i64, i64>, key: i64, value: Option<i64>) {
    let mut parts: Vec<(Row, i64)> = Vec::new();
    if let Some(old) = model.remove(&key) {
        parts.push(((key, Some(old)), -1));
    }
    if let Some(new) = value {
        parts.push(((key, Some(new)), 1));
        model.insert(key, new);
    }
    cluster.change(&parts);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_has_what_the_result_has(actions in prop::collection::vec(action(), 1..60)) {
        let bench = Bench::new();
        let mut cluster = Cluster::new(Some(vec![0]), false, 2);
        let history = History::of(&cluster);
        let mut reader = Reader::new(open(&bench, &history, false, &[]));
        let (mut model, mut durable) = (BTreeMap::new(), BTreeMap::new());
        for action in actions {
            match action {
                Action::Set(changes) => {
                    for (key, value) in changes {
                        set(&mut cluster, &mut model, key, value);
                    }
                }
                Action::Tick => cluster.tick(),
                Action::Checkpoint => {
                    cluster.barrier(BarrierKind::Checkpoint);
                    history.decide(&cluster, &reader.saved.1);
                    durable = model.clone();
                }
                Action::Crash(parallelism) => {
                    cluster.start(parallelism);
                    model = durable.clone();
                }
                Action::Poll(times) => {
                    for _ in 0..times {
                        reader.poll().unwrap();
                        std::thread::sleep(Duration::from_micros(50));
                    }
                }
                Action::Save => reader.save(),
                Action::RestartReader => {
                    let saved = reader.saved.clone();
                    reader = Reader::new(open(&bench, &history, false, &saved.0));
                    reader.rows = saved.2.clone();
                    reader.saved = saved;
                }
            }
        }
        cluster.barrier(BarrierKind::Checkpoint);
        history.decide(&cluster, &reader.saved.1);
        reader.until(|reader| !reader.source.is_behind());
        prop_assert_eq!(&reader.rows, &cluster.read(), "caught up");
        *history.ended.lock().unwrap() = true;
        cluster.barrier(BarrierKind::Stop);
        history.decide(&cluster, &reader.saved.1);
        reader.until(|reader| reader.ended);
        prop_assert_eq!(reader.rows, cluster.read());
    }
}

#[test]
fn a_large_result_is_continued_in_its_middle() {
    let bench = Bench::new();
    let mut cluster = Cluster::new(None, true, 1);
    let history = History::of(&cluster);
    let rows: Vec<(Row, i64)> = (0..30_000).map(|key| ((key, Some(key)), 1)).collect();
    cluster.change(&rows);
    cluster.barrier(BarrierKind::Checkpoint);
    history.decide(&cluster, &[]);
    let mut reader = Reader::new(open(&bench, &history, true, &[]));
    reader.until(|reader| !reader.rows.is_empty());
    assert!(reader.rows.len() < 30_000);
    reader.save();
    let saved = reader.saved.clone();
    assert!(saved.0[0].offset.contains("rows"), "{:?}", saved.0);
    // The result goes on; the place that was saved is in an epoch that is no longer the newest.
    cluster.change(&[((30_000, Some(1)), 1)]);
    cluster.barrier(BarrierKind::Checkpoint);
    history.decide(&cluster, &saved.1);
    let mut again = Reader::new(open(&bench, &history, true, &saved.0));
    again.rows = saved.2;
    again.until(|reader| !reader.source.is_behind());
    assert_eq!(again.rows, cluster.read());
}

#[test]
fn a_growing_result_that_went_back_is_an_error() {
    let bench = Bench::new();
    let mut cluster = Cluster::new(None, true, 1);
    let history = History::of(&cluster);
    cluster.change(&[((1, Some(1)), 1), ((2, Some(2)), 1)]);
    cluster.barrier(BarrierKind::Checkpoint);
    history.decide(&cluster, &[]);
    let mut reader = Reader::new(open(&bench, &history, true, &[]));
    reader.until(|reader| reader.rows.len() == 2);
    cluster.subtasks.clear();
    let mut older = Cluster::new(None, true, 1);
    older.checkpoints.epoch = cluster.checkpoints.epoch;
    older.change(&[((1, Some(1)), 1)]);
    older.barrier(BarrierKind::Checkpoint);
    let start = Instant::now();
    history.decide(&older, &[]);
    let error = loop {
        match reader.poll() {
            Err(error) => break error,
            Ok(_) => std::thread::sleep(Duration::from_millis(1)),
        }
        assert!(start.elapsed() < Duration::from_secs(60));
    };
    assert_eq!(error.code(), SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.hint().is_some());
}

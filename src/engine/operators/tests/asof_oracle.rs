//! ASOF joins on random input: random arrival order, chunk cuts, watermarks, checkpoints with a rolling base, restarts at other
//! parallelisms. What came out at the end must be what the definition gives, row by row.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::cast;
use proptest::prelude::*;

use crate::engine::asof_spec::AsofJoinSpec;
use crate::engine::graph::OperatorSpec;
use crate::engine::join_spec::Side;
use crate::engine::message::{BarrierKind, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, OutputItem};
use crate::testing::aggregate_specs::context;
use crate::testing::asof_specs::{KEY, TIME, asof, asof_shape, tmkv, with_residual};
use crate::testing::join_harness::{feed, start};
use crate::testing::memory_state::Checkpoints;
use crate::testing::operator_harness::{routed, rows_of};

/// In the order of the columns, so that rows compare as versions do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    time: i64,
    /// The time that is compared.
    moment: i64,
    key: Option<i64>,
    value: Option<i64>,
}

type Folded = BTreeMap<String, i64>;

#[derive(Clone, Debug)]
enum Action {
    Insert(bool, Vec<Row>),
    Watermark,
    Checkpoint,
    Restart(u32),
}

fn row() -> impl Strategy<Value = Row> {
    (
        0..15i64,
        0..10i64,
        prop::option::weighted(0.9, 0..4i64),
        prop::option::weighted(0.8, -3..4i64),
    )
        .prop_map(|(time, moment, key, value)| Row {
            time,
            moment,
            key,
            value,
        })
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (any::<bool>(), prop::collection::vec(row(), 1..10)).prop_map(|(right, rows)| Action::Insert(right, rows)),
        4 => Just(Action::Watermark),
        2 => Just(Action::Checkpoint),
        1 => (1..4u32).prop_map(Action::Restart),
    ]
}

/// How far the compared time of each side is from its event time: from the first to less than the sum.
type Apart = [(i64, i64); 2];

fn apart() -> impl Strategy<Value = Option<Apart>> {
    let one = || (-6..6i64, 1..4i64);
    prop::option::of([one(), one()])
}

fn spec() -> impl Strategy<Value = (AsofJoinSpec, Option<Apart>)> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let keyed = prop::bool::weighted(0.8);
    let ttl = prop::option::weighted(0.3, 0..20i64);
    (flags, keyed, ttl, apart()).prop_map(
        |((outer, at_same_time, filtered, null_equal), keyed, ttl_micros, apart)| {
            let keys: &[usize] = if keyed { &[KEY] } else { &[] };
            let spec = asof(keys, outer);
            let mut spec = if filtered { with_residual(spec) } else { spec };
            spec.at_same_time = at_same_time;
            spec.null_equal.fill(null_equal);
            spec.ttl_micros = ttl_micros;
            match apart {
                Some([left, right]) => {
                    spec.ahead_micros = left.0.min(right.0);
                    spec.hold_micros = (left.0 + left.1 - 1 - spec.ahead_micros).max(0);
                }
                None => spec.inputs.iter_mut().for_each(|input| input.time = None),
            }
            (spec, apart)
        },
    )
}

struct Cluster {
    spec: AsofJoinSpec,
    apart: Option<Apart>,
    operators: Vec<Box<dyn Operator>>,
    checkpoints: Checkpoints,
    rows: [Vec<Row>; 2],
    folded: Folded,
    /// What was promised downstream.
    promised: Vec<i64>,
}

impl Cluster {
    fn new(spec: AsofJoinSpec, apart: Option<Apart>) -> Cluster {
        let mut cluster = Cluster {
            spec,
            apart,
            operators: Vec::new(),
            checkpoints: Checkpoints::default(),
            rows: [Vec::new(), Vec::new()],
            folded: BTreeMap::new(),
            promised: Vec::new(),
        };
        cluster.start(2);
        cluster
    }

    fn keys(&self) -> Vec<usize> {
        self.spec.inputs[0].keys.clone()
    }

    fn start(&mut self, parallelism: u32) {
        let parallelism = if self.keys().is_empty() { 1 } else { parallelism };
        let (spec, output) = (
            OperatorSpec::AsofJoin(Box::new(self.spec.clone())),
            asof_shape(&self.spec),
        );
        self.operators = (0..parallelism)
            .map(|subtask| start(&spec, &output, &context(subtask, parallelism), &self.checkpoints.state))
            .collect();
        let least = self.promised.iter().copied().min().unwrap_or(i64::MIN);
        self.promised = vec![least; parallelism as usize];
        self.checkpoints.begin_run();
    }

    fn process(&mut self, side: Side, rows: &[Row]) {
        let column =
            |of: fn(&Row) -> Option<i64>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<Int64Array>()) };
        let time = |of| cast(&column(of), tmkv().field(TIME).data_type()).unwrap();
        let columns = vec![
            time(|row| Some(row.time)),
            time(|row| Some(row.moment)),
            column(|row| row.key),
            column(|row| row.value),
        ];
        let chunk = Chunk {
            rows: RecordBatch::try_new(tmkv(), columns).unwrap(),
            weights: Weights::AllInsert,
            event_time: Some(rows.iter().map(|row| row.time).collect()),
            key_hashes: None,
        };
        for (subtask, part) in routed(&chunk, &self.keys(), self.operators.len() as u32) {
            let mut output = Output::default();
            feed(self.operators[subtask].as_mut(), side, part, &mut output);
            self.fold(subtask, output);
        }
    }

    fn fold(&mut self, subtask: usize, mut output: Output) {
        for item in output.take() {
            match item {
                OutputItem::Data(chunk) => {
                    for (row, weight) in rows_of(&chunk) {
                        *self.folded.entry(row).or_default() += weight;
                    }
                    for &time in chunk.event_time.iter().flat_map(|times| times.iter()) {
                        let promised = self.promised[subtask];
                        assert!(time >= promised, "a row of {time} after watermark {promised}");
                    }
                }
                OutputItem::Watermark(Watermark::At(time)) => {
                    self.promised[subtask] = self.promised[subtask].max(time);
                }
                OutputItem::Watermark(Watermark::Idle) => {}
            }
        }
    }

    fn each(&mut self, act: impl Fn(&mut dyn Operator, &mut Output)) {
        for at in 0..self.operators.len() {
            let mut output = Output::default();
            act(self.operators[at].as_mut(), &mut output);
            self.fold(at, output);
        }
    }

    fn checkpoint(&mut self) {
        let barrier = self.checkpoints.barrier(BarrierKind::Checkpoint);
        self.each(|operator, output| operator.on_barrier(barrier, output).unwrap());
        self.checkpoints.save(&mut self.operators);
    }

    /// The row at its place in time: `now` is when it comes.
    fn placed(&self, side: Side, row: Row, now: i64) -> Row {
        let time = now + row.time;
        let moment = match self.apart {
            Some(apart) => {
                let (least, width) = apart[side.index()];
                time + least + row.moment % width
            }
            None => time,
        };
        Row { time, moment, ..row }
    }

    fn run(&mut self, actions: &[Action]) {
        // Time moves on by 7 a batch.
        let mut now = 0;
        for action in actions {
            match action {
                Action::Insert(right, new) => {
                    let side = Side::BOTH[usize::from(*right)];
                    let new: Vec<Row> = new.iter().map(|row| self.placed(side, *row, now)).collect();
                    self.rows[side.index()].extend(&new);
                    self.process(side, &new);
                    now += 7;
                }
                Action::Watermark => {
                    self.each(|operator, output| operator.on_watermark(Watermark::At(now), output).unwrap());
                }
                Action::Checkpoint => self.checkpoint(),
                Action::Restart(parallelism) => {
                    self.checkpoint();
                    self.start(*parallelism);
                }
            }
        }
        self.each(|operator, output| operator.on_end(output).unwrap());
    }

    /// By definition: the version of one row.
    fn version_of(&self, row: &Row) -> Option<Row> {
        let spec = &self.spec;
        let same_key = |version: &&Row| match (row.key, version.key) {
            _ if spec.null_equal.is_empty() => true,
            (None, None) => spec.null_equal[0],
            (one, other) => one == other,
        };
        let before = |version: &&Row| match spec.at_same_time {
            true => version.moment <= row.moment,
            false => version.moment < row.moment,
        };
        let versions = self.rows[1].iter().filter(same_key).filter(before);
        let latest = versions.max_by_key(|version| (version.moment, **version))?;
        let is_fresh = spec.ttl_micros.is_none_or(|ttl| latest.moment + ttl >= row.moment);
        let satisfies =
            spec.residual.is_none() || matches!((row.value, latest.value), (Some(one), Some(other)) if one < other);
        (is_fresh && satisfies).then_some(*latest)
    }

    fn naive(&self) -> Folded {
        let text = |value: Option<i64>| value.map_or("null".into(), |value: i64| value.to_string());
        let mut folded = Folded::new();
        for row in &self.rows[0] {
            let version = self.version_of(row);
            if version.is_none() && !self.spec.outer {
                continue;
            }
            let line = [
                row.key,
                row.value,
                version.map(|version| version.moment),
                version.and_then(|version| version.value),
            ];
            *folded.entry(line.map(text).join(" ")).or_default() += 1;
        }
        folded
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_row_gets_the_version_of_its_time(
        (spec, apart) in spec(),
        actions in prop::collection::vec(action(), 1..40),
    ) {
        let mut cluster = Cluster::new(spec, apart);
        cluster.run(&actions);
        prop_assert_eq!(&cluster.folded, &cluster.naive());
        prop_assert_eq!(cluster.operators.iter().map(|operator| operator.late_rows()).sum::<u64>(), 0);
        prop_assert_eq!(cluster.operators.iter().map(|operator| operator.state_size().rows).sum::<u64>(), 0);
    }
}

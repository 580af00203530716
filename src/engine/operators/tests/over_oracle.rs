//! OVER in order of time on random input: random arrival order, chunk cuts, watermarks, checkpoints with a rolling base,
//! restarts at other parallelisms. What came out at the end must be what the definitions of the frames give, row by row.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::scalar::ScalarValue;
use proptest::prelude::*;

use crate::engine::graph::OperatorSpec;
use crate::engine::message::{BarrierKind, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, OutputItem};
use crate::engine::operators::build;
use crate::engine::over_spec::{Frame, FrameBound, FrameUnit, OverFunction, OverSpec, OverWork};
use crate::testing::aggregate_specs::{context, shape};
use crate::testing::memory_state::Checkpoints;
use crate::testing::operator_harness::{routed, rows_of};
use crate::testing::over_specs::{frame, ordered, output_schema, over_frame, tkv, value};

/// Time, key, value.
type Row = (i64, Option<i64>, Option<i64>);
type Folded = BTreeMap<String, i64>;

#[derive(Clone, Debug)]
enum Action {
    Insert(Vec<Row>),
    Watermark,
    Checkpoint,
    Restart(u32),
}

fn row() -> impl Strategy<Value = Row> {
    (
        0..15i64,
        prop::option::weighted(0.9, 0..4i64),
        prop::option::weighted(0.8, -3..4i64),
    )
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec(row(), 1..10).prop_map(Action::Insert),
        4 => Just(Action::Watermark),
        2 => Just(Action::Checkpoint),
        1 => (1..4u32).prop_map(Action::Restart),
    ]
}

fn bound() -> impl Strategy<Value = FrameBound> {
    prop_oneof![Just(FrameBound::Current), (-6..5i64).prop_map(FrameBound::Offset)]
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let unit = prop::sample::select(vec![FrameUnit::Rows, FrameUnit::Range, FrameUnit::Groups]);
    let start = prop_oneof![1 => Just(FrameBound::Unbounded), 2 => bound()];
    (unit, start, bound()).prop_map(|(unit, start, end)| frame(unit, start, end))
}

fn function() -> impl Strategy<Value = OverFunction> {
    prop_oneof![
        Just(OverFunction::RowNumber),
        Just(OverFunction::Rank),
        Just(OverFunction::DenseRank),
        (-3..4i64).prop_map(|back| OverFunction::Shift {
            value: value(),
            back,
            default: ScalarValue::Int64(Some(77))
        }),
        (1..4i64, any_frame()).prop_map(|(n, frame)| OverFunction::Nth {
            value: value(),
            n,
            frame
        }),
        any_frame().prop_map(|frame| OverFunction::Last { value: value(), frame }),
        any_frame().prop_map(|frame| over_frame(sum_udaf(), frame)),
        any_frame().prop_map(|frame| over_frame(min_udaf(), frame)),
    ]
}

struct Cluster {
    spec: OverSpec,
    operators: Vec<Box<dyn Operator>>,
    checkpoints: Checkpoints,
    rows: Vec<Row>,
    folded: Folded,
    /// What was promised downstream.
    promised: Vec<i64>,
}

impl Cluster {
    fn new(spec: OverSpec) -> Cluster {
        let mut cluster = Cluster {
            spec,
            operators: Vec::new(),
            checkpoints: Checkpoints::default(),
            rows: Vec::new(),
            folded: BTreeMap::new(),
            promised: Vec::new(),
        };
        cluster.start(2);
        cluster
    }

    fn start(&mut self, parallelism: u32) {
        let parallelism = if self.spec.keys.is_empty() { 1 } else { parallelism };
        let (input, output) = (shape(tkv(), true), shape(output_schema(&self.spec), true));
        let spec = OperatorSpec::Over(Box::new(self.spec.clone()));
        self.operators = (0..parallelism)
            .map(|subtask| {
                let mut operator = build(&spec, Some(&input), &output, &context(subtask, parallelism)).unwrap();
                operator
                    .restore(&self.checkpoints.state.reader(subtask, parallelism))
                    .unwrap();
                operator
            })
            .collect();
        let least = self.promised.iter().copied().min().unwrap_or(i64::MIN);
        self.promised = vec![least; parallelism as usize];
        self.checkpoints.begin_run();
    }

    fn process(&mut self, rows: &[Row]) {
        let column = |values: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
        let columns = vec![
            column(rows.iter().map(|row| Some(row.0)).collect()),
            column(rows.iter().map(|row| row.1).collect()),
            column(rows.iter().map(|row| row.2).collect()),
        ];
        let chunk = Chunk {
            rows: RecordBatch::try_new(tkv(), columns).unwrap(),
            weights: Weights::AllInsert,
            event_time: Some(rows.iter().map(|row| row.0).collect()),
            key_hashes: None,
        };
        for (subtask, part) in routed(&chunk, &self.spec.keys, self.operators.len() as u32) {
            let mut output = Output::default();
            self.operators[subtask].process(0, part, &mut output).unwrap();
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

    fn run(&mut self, actions: &[Action]) {
        // Time moves on by 7 a batch.
        let mut now = 0;
        for action in actions {
            match action {
                Action::Insert(new) => {
                    let new: Vec<Row> = new.iter().map(|row| (now + row.0, row.1, row.2)).collect();
                    self.rows.extend(&new);
                    self.process(&new);
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
}

fn text(value: Option<i64>) -> String {
    value.map_or("null".into(), |value| value.to_string())
}

/// By definition: which rows are in the frame of row `at`.
fn naive_frame(rows: &[Row], at: usize, frame: Frame) -> Vec<usize> {
    let group_of = |row: usize| {
        let mut times: Vec<i64> = rows[..=row].iter().map(|row| row.0).collect();
        times.dedup();
        times.len() as i64
    };
    let distance = |row: usize| match frame.unit {
        FrameUnit::Rows => row as i64 - at as i64,
        FrameUnit::Range => rows[row].0 - rows[at].0,
        FrameUnit::Groups => group_of(row) - group_of(at),
    };
    let offset = |bound: FrameBound| match bound {
        FrameBound::Unbounded => i64::MIN,
        FrameBound::Current => 0,
        FrameBound::Offset(by) => by,
    };
    let (least, most) = (offset(frame.start), offset(frame.end));
    (0..rows.len())
        .filter(|&row| (least..=most).contains(&distance(row)))
        .collect()
}

fn naive_function(rows: &[Row], at: usize, function: &OverFunction) -> Option<i64> {
    let earlier = || rows.iter().filter(|row| row.0 < rows[at].0);
    let covered = || {
        function
            .frame()
            .map(|frame| naive_frame(rows, at, frame))
            .unwrap_or_default()
    };
    match function {
        OverFunction::RowNumber => Some(at as i64 + 1),
        OverFunction::Rank => Some(earlier().count() as i64 + 1),
        OverFunction::DenseRank => {
            let mut times: Vec<i64> = earlier().map(|row| row.0).collect();
            times.dedup();
            Some(times.len() as i64 + 1)
        }
        OverFunction::Shift { back, .. } => {
            let target = usize::try_from(at as i64 - back).ok();
            target.and_then(|target| rows.get(target)).map_or(Some(77), |row| row.2)
        }
        OverFunction::Nth { n, .. } => covered().get(*n as usize - 1).and_then(|&row| rows[row].2),
        OverFunction::Last { .. } => covered().last().and_then(|&row| rows[row].2),
        OverFunction::Aggregate { function, .. } => {
            let values = covered().into_iter().filter_map(|row| rows[row].2);
            match function.fun().name() {
                "min" => values.min(),
                _ => values.map(Some).reduce(|one, other| Some(one? + other?)).flatten(),
            }
        }
    }
}

fn naive(spec: &OverSpec, rows: &[Row]) -> Folded {
    let OverWork::Ordered { functions, .. } = &spec.work else {
        return Folded::new();
    };
    let mut by_key: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
    for row in rows {
        let key = if spec.keys.is_empty() { None } else { row.1 };
        by_key.entry(key).or_default().push(*row);
    }
    let mut folded = Folded::new();
    for rows in by_key.values_mut() {
        rows.sort_unstable();
        for at in 0..rows.len() {
            let (time, key, value) = rows[at];
            let mut line = vec![time.to_string(), text(key), text(value)];
            line.extend(
                functions
                    .iter()
                    .map(|function| text(naive_function(rows, at, function))),
            );
            *folded.entry(line.join(" ")).or_default() += 1;
        }
    }
    folded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn functions_in_order_of_time(
        functions in prop::collection::vec(function(), 1..5),
        keyed in prop::bool::weighted(0.8),
        actions in prop::collection::vec(action(), 1..30),
    ) {
        let keys: &[usize] = if keyed { &[1] } else { &[] };
        let mut cluster = Cluster::new(ordered(keys, functions, None));
        cluster.run(&actions);
        prop_assert_eq!(&cluster.folded, &naive(&cluster.spec, &cluster.rows));
        prop_assert_eq!(cluster.operators.iter().map(|operator| operator.late_rows()).sum::<u64>(), 0);
        prop_assert_eq!(cluster.operators.iter().map(|operator| operator.state_size().rows).sum::<u64>(), 0);
    }
}

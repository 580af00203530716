//! Aggregations on random input against a naive one: random chunk cuts, barriers, checkpoints with a rolling base, restarts
//! at other parallelisms, one and two phases. What the changelog folds to must equal the naive result, and must never
//! hold a row other than 0 or 1 times at a barrier.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::engine::graph::{
    AggregateFunction as F, AggregatePhase, AggregateSpec, EmitMode, OperatorSpec, WindowAggregateSpec, WindowSpec,
};
use crate::engine::message::{BarrierKind, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, OutputItem};
use crate::engine::operators::build;
use crate::testing::aggregate_specs::{aggregate, call, context, distinct, result_schema, schema, shape, two_phases};
use crate::testing::memory_state::Checkpoints;
use crate::testing::operator_harness::{routed, rows_of};

const INT: DataType = DataType::Int64;
const TUMBLE: WindowSpec = WindowSpec::Tumble { size_micros: 10 };

/// With the lateness that it allows.
type Window = Option<(WindowSpec, EmitMode, i64)>;

/// Time, key, value.
type Row = (i64, Option<i64>, Option<i64>);

#[derive(Clone, Debug)]
enum Action {
    Insert(Vec<Row>),
    /// Takes rows away that are there.
    Retract(Vec<Index>),
    Tick,
    Checkpoint,
    Restart(u32),
}

fn row() -> impl Strategy<Value = Row> {
    (
        0..60i64,
        prop::option::weighted(0.9, 0..6i64),
        prop::option::weighted(0.8, -3..4i64),
    )
}

fn action(retractions: bool) -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec(row(), 1..12).prop_map(Action::Insert),
        if retractions { 5 } else { 0 } => prop::collection::vec(any::<Index>(), 1..8).prop_map(Action::Retract),
        2 => Just(Action::Tick),
        2 => Just(Action::Checkpoint),
        1 => (1..4u32).prop_map(Action::Restart),
    ]
}

fn input_schema() -> SchemaRef {
    schema(&[("t", INT), ("k", INT), ("v", INT)])
}

/// Operators of one aggregation, all subtasks, and what came out of them.
struct Cluster {
    /// Before the exchange, when in two phases.
    partial: Option<OperatorSpec>,
    last: OperatorSpec,
    between: SchemaRef,
    output: SchemaRef,
    append_only: bool,
    keys: Vec<usize>,
    partials: Vec<Box<dyn Operator>>,
    lasts: Vec<Box<dyn Operator>>,
    checkpoints: Checkpoints,
    folded: BTreeMap<String, i64>,
    /// The watermark that each of `lasts` has passed on.
    passed_on: Vec<i64>,
}

fn wrap(spec: &AggregateSpec, window: Window) -> OperatorSpec {
    match window {
        None => OperatorSpec::UpdatingAggregate(spec.clone()),
        Some((window, emit, allowed_lateness_micros)) => OperatorSpec::WindowAggregate(WindowAggregateSpec {
            aggregate: spec.clone(),
            window,
            emit,
            late_rows: None,
            allowed_lateness_micros,
        }),
    }
}

impl Cluster {
    fn new(spec: &AggregateSpec, window: Window, phases: u32) -> Cluster {
        let input = input_schema();
        let output = result_schema(spec, &input, window.is_some());
        let mut cluster = Cluster {
            partial: None,
            last: wrap(spec, window),
            between: Arc::clone(&input),
            output,
            append_only: spec.append_only_input,
            keys: spec.keys.clone(),
            partials: Vec::new(),
            lasts: Vec::new(),
            checkpoints: Checkpoints::default(),
            folded: BTreeMap::new(),
            passed_on: Vec::new(),
        };
        if phases == 2 {
            let (partial, between, last) = two_phases(spec, &input);
            assert_eq!(last.phase, AggregatePhase::Final);
            cluster.keys = last.keys.clone();
            cluster.partial = Some(wrap(&partial, window));
            cluster.last = wrap(&last, window);
            cluster.between = between;
        }
        cluster.start(2);
        cluster
    }

    fn start(&mut self, parallelism: u32) {
        let parallelism = if self.keys.is_empty() { 1 } else { parallelism };
        let between = shape(Arc::clone(&self.between), self.append_only);
        let output = shape(Arc::clone(&self.output), false);
        self.lasts = (0..parallelism)
            .map(|subtask| {
                let mut operator = build(&self.last, Some(&between), &output, &context(subtask, parallelism)).unwrap();
                operator
                    .restore(&self.checkpoints.state.reader(subtask, parallelism))
                    .unwrap();
                operator
            })
            .collect();
        self.partials = match &self.partial {
            None => Vec::new(),
            Some(spec) => {
                let input = shape(input_schema(), self.append_only);
                let build = |subtask| build(spec, Some(&input), &between, &context(subtask, 2)).unwrap();
                (0..2).map(build).collect()
            }
        };
        self.passed_on = vec![i64::MIN; self.lasts.len()];
        self.checkpoints.begin_run();
    }

    fn process(&mut self, rows: &[Row], weights: Option<Vec<i64>>) {
        let column = |values: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
        let columns = vec![
            column(rows.iter().map(|row| Some(row.0)).collect()),
            column(rows.iter().map(|row| row.1).collect()),
            column(rows.iter().map(|row| row.2).collect()),
        ];
        let chunk = Chunk {
            rows: RecordBatch::try_new(input_schema(), columns).unwrap(),
            weights: weights.map_or(Weights::AllInsert, |weights| Weights::Signed(weights.into())),
            event_time: Some(rows.iter().map(|row| row.0).collect()),
            key_hashes: None,
        };
        if self.partials.is_empty() {
            return self.exchange(chunk);
        }
        let mut output = Output::default();
        let upstream = rows.len() % 2;
        self.partials[upstream].process(0, chunk, &mut output).unwrap();
        self.pass_on(output);
    }

    fn pass_on(&mut self, mut output: Output) {
        let items: Vec<OutputItem> = output.take().collect();
        for item in items {
            if let OutputItem::Data(chunk) = item {
                self.exchange(chunk);
            }
        }
    }

    fn exchange(&mut self, chunk: Chunk) {
        for (subtask, part) in routed(&chunk, &self.keys, self.lasts.len() as u32) {
            let mut output = Output::default();
            self.lasts[subtask].process(0, part, &mut output).unwrap();
            self.fold(subtask, output);
        }
    }

    fn fold(&mut self, subtask: usize, mut output: Output) {
        for item in output.take() {
            match item {
                OutputItem::Data(chunk) => {
                    let times = chunk.event_time.iter().flat_map(|times| times.iter());
                    assert!(times.min().is_none_or(|&time| time >= self.passed_on[subtask]));
                    for (row, weight) in rows_of(&chunk) {
                        *self.folded.entry(row).or_default() += weight;
                    }
                }
                OutputItem::Watermark(Watermark::At(time)) => self.passed_on[subtask] = time,
                OutputItem::Watermark(Watermark::Idle) => {}
            }
        }
        self.folded.retain(|_, count| *count != 0);
    }

    fn watermark(&mut self, time: i64) {
        self.each(|operator, output| operator.on_watermark(Watermark::At(time), output).unwrap());
    }

    fn end(&mut self) {
        self.each(|operator, output| operator.on_end(output).unwrap());
    }

    fn each(&mut self, act: impl Fn(&mut dyn Operator, &mut Output)) {
        for at in 0..self.partials.len() {
            let mut output = Output::default();
            act(self.partials[at].as_mut(), &mut output);
            self.pass_on(output);
        }
        for at in 0..self.lasts.len() {
            let mut output = Output::default();
            act(self.lasts[at].as_mut(), &mut output);
            self.fold(at, output);
        }
    }

    fn barrier(&mut self, kind: BarrierKind) {
        let barrier = self.checkpoints.barrier(kind);
        self.each(|operator, output| operator.on_barrier(barrier, output).unwrap());
        assert!(self.folded.values().all(|&count| count == 1), "{:?}", self.folded);
        if kind.persists() {
            self.checkpoints.save(&mut self.lasts);
        }
    }

    fn run(&mut self, actions: &[Action], after_insert: impl Fn(&mut Cluster, &[Row])) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        for action in actions {
            match action {
                Action::Insert(new) => {
                    self.process(new, None);
                    rows.extend(new);
                    after_insert(self, new);
                }
                Action::Retract(which) => {
                    let mut gone = Vec::new();
                    for index in which {
                        if !rows.is_empty() {
                            gone.push(rows.swap_remove(index.index(rows.len())));
                        }
                    }
                    if !gone.is_empty() {
                        self.process(&gone, Some(vec![-1; gone.len()]));
                    }
                }
                Action::Tick => self.barrier(BarrierKind::Tick),
                Action::Checkpoint => self.barrier(BarrierKind::Checkpoint),
                Action::Restart(parallelism) => {
                    self.barrier(BarrierKind::Checkpoint);
                    self.start(*parallelism);
                }
            }
        }
        self.end();
        rows
    }
}

fn text(value: Option<i64>) -> String {
    value.map_or("null".into(), |value| value.to_string())
}

/// The results over the rows of one group, as text.
fn naive_aggregates(rows: &[Row], with_kept_values: bool) -> String {
    let values: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
    let sum = (!values.is_empty()).then(|| values.iter().sum::<i64>());
    let mut cells = vec![
        rows.len().to_string(),
        values.len().to_string(),
        text(sum),
        text(values.iter().min().copied()),
        text(values.iter().max().copied()),
    ];
    if with_kept_values {
        let unlike: BTreeSet<i64> = values.iter().copied().collect();
        cells.push(unlike.len().to_string());
        cells.push(text((!unlike.is_empty()).then(|| unlike.iter().sum())));
    }
    cells.join(" ")
}

fn calls(with_kept_values: bool) -> Vec<crate::engine::graph::AggregateCall> {
    let mut calls = vec![
        call(F::CountRows, &[], INT),
        call(F::Count, &[2], INT),
        call(F::Sum, &[2], INT),
        call(F::Min, &[2], INT),
        call(F::Max, &[2], INT),
    ];
    if with_kept_values {
        calls.push(distinct(call(F::Count, &[2], INT)));
        calls.push(distinct(call(F::Sum, &[2], INT)));
    }
    calls
}

fn naive(rows: &[Row], by: impl Fn(&Row) -> String, with_kept_values: bool) -> BTreeMap<String, i64> {
    naive_of_many(rows, |row| vec![by(row)], with_kept_values)
}

/// A row may be in several groups, or in none.
fn naive_of_many(rows: &[Row], by: impl Fn(&Row) -> Vec<String>, with_kept_values: bool) -> BTreeMap<String, i64> {
    let mut groups: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        for group in by(row) {
            groups.entry(group).or_default().push(*row);
        }
    }
    groups
        .into_iter()
        .map(|(key, rows)| {
            (
                format!("{key} {}", naive_aggregates(&rows, with_kept_values))
                    .trim()
                    .to_owned(),
                1,
            )
        })
        .collect()
}

/// Key and bounds of the windows of a row, straight from their definition.
fn windows_of(row: &Row, window: WindowSpec) -> Vec<String> {
    let (slide, size) = match window {
        WindowSpec::Tumble { size_micros } => (size_micros, size_micros),
        WindowSpec::Hop {
            slide_micros,
            size_micros,
        } => (slide_micros, size_micros),
        other => panic!("{other:?} has no windows of a fixed size"),
    };
    (-100..1000)
        .map(|number| number * slide)
        .filter(|start| (*start..start + size).contains(&row.0))
        .map(|start| format!("{} {start} {}", text(row.1), start + size))
        .collect()
}

/// Key and bounds of the session of every row: the sessions of a key by going through its times in order.
fn session_of(row: &Row, rows: &[Row], gap: i64, keyed: bool) -> String {
    let is_of_key = |other: &&Row| !keyed || other.1 == row.1;
    let mut times: Vec<i64> = rows.iter().filter(is_of_key).map(|other| other.0).collect();
    times.sort_unstable();
    let at = times.partition_point(|&time| time < row.0);
    let first = (1..=at)
        .rev()
        .find(|&at| times[at] - times[at - 1] >= gap)
        .map_or(times[0], |at| times[at]);
    let last = (at..times.len() - 1)
        .find(|&at| times[at + 1] - times[at] >= gap)
        .unwrap_or(times.len() - 1);
    let key = if keyed {
        format!("{} ", text(row.1))
    } else {
        String::new()
    };
    format!("{key}{first} {}", times[last] + gap)
}

/// Time moves on by `step` a batch; rows are up to 15 behind, as the watermark says.
fn moving(actions: Vec<Action>, step: i64) -> Vec<Action> {
    let mut now = 0;
    let moved = actions.into_iter().map(|action| match action {
        Action::Insert(rows) => {
            now += step;
            Action::Insert(rows.into_iter().map(|row| (now + row.0 % 15, row.1, row.2)).collect())
        }
        other => other,
    });
    moved.collect()
}

/// A true bound: batches begin `step` after each other, so the next has nothing before its own. With a greater step rows
/// come late, by the difference at most.
fn say_watermark(cluster: &mut Cluster, new: &[Row], step: i64) {
    if let Some(earliest) = new.iter().map(|row| row.0).min() {
        cluster.watermark(earliest - 15 + step);
    }
}

fn any_window() -> impl Strategy<Value = WindowSpec> {
    let hop = |(slide_micros, size_micros)| WindowSpec::Hop {
        slide_micros,
        size_micros,
    };
    prop_oneof![
        Just(TUMBLE),
        prop::sample::select(vec![
            (2, 10),
            (3, 10),
            (5, 10),
            (4, 6),
            (15, 10),
            (1, 16),
            (10, 20),
            (7, 21)
        ])
        .prop_map(hop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn updating(actions in prop::collection::vec(action(true), 1..25)) {
        let spec = aggregate(&[1], calls(true), false);
        let mut cluster = Cluster::new(&spec, None, 1);
        let rows = cluster.run(&actions, |_, _| ());
        prop_assert_eq!(&cluster.folded, &naive(&rows, |row| text(row.1), true));
    }

    #[test]
    fn updating_by_two_keys(actions in prop::collection::vec(action(true), 1..25)) {
        let spec = aggregate(&[2, 1], vec![call(F::CountRows, &[], INT)], false);
        let mut cluster = Cluster::new(&spec, None, 1);
        let rows = cluster.run(&actions, |_, _| ());
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for row in &rows {
            *counts.entry(format!("{} {}", text(row.2), text(row.1))).or_default() += 1;
        }
        let expected: BTreeMap<String, i64> = counts.iter().map(|(key, count)| (format!("{key} {count}"), 1)).collect();
        prop_assert_eq!(&cluster.folded, &expected);
    }

    #[test]
    fn updating_in_two_phases(actions in prop::collection::vec(action(false), 1..25)) {
        let spec = aggregate(&[1], calls(false), true);
        let mut cluster = Cluster::new(&spec, None, 2);
        let rows = cluster.run(&actions, |_, _| ());
        prop_assert_eq!(&cluster.folded, &naive(&rows, |row| text(row.1), false));
    }

    #[test]
    fn changing_input_in_two_phases(actions in prop::collection::vec(action(true), 1..25)) {
        let spec = aggregate(&[1], vec![call(F::CountRows, &[], INT), call(F::Sum, &[2], INT)], false);
        let mut cluster = Cluster::new(&spec, None, 2);
        let rows = cluster.run(&actions, |_, _| ());
        let expected: BTreeMap<String, i64> = naive(&rows, |row| text(row.1), false)
            .into_keys()
            .map(|row| {
                let cells: Vec<&str> = row.split(' ').collect();
                ([cells[0], cells[1], cells[3]].join(" "), 1)
            })
            .collect();
        prop_assert_eq!(&cluster.folded, &expected);
    }

    #[test]
    fn global(actions in prop::collection::vec(action(true), 1..25), phases in 1..3u32) {
        let calls = vec![call(F::CountRows, &[], INT), call(F::Sum, &[2], INT)];
        let mut cluster = Cluster::new(&aggregate(&[], calls, false), None, phases);
        let rows = cluster.run(&actions, |_, _| ());
        let values: Vec<i64> = rows.iter().filter_map(|row| row.2).collect();
        let sum = (!values.is_empty()).then(|| values.iter().sum::<i64>());
        let expected = BTreeMap::from([(format!("{} {}", rows.len(), text(sum)), 1)]);
        prop_assert_eq!(&cluster.folded, &expected);
    }

    #[test]
    fn windows(
        actions in prop::collection::vec(action(false), 1..25),
        phases in 1..3u32,
        on_update: bool,
        kept_values: bool,
        window in any_window(),
        lateness in prop_oneof![Just(0), 1..40i64],
    ) {
        let emit = if on_update { EmitMode::OnUpdate } else { EmitMode::OnWindowClose };
        let kept_values = kept_values && phases == 1;
        let spec = aggregate(&[1], calls(kept_values), true);
        let mut cluster = Cluster::new(&spec, Some((window, emit, lateness)), phases);
        let rows = cluster.run(&moving(actions, 7), |cluster, new| say_watermark(cluster, new, 7 + lateness));
        prop_assert_eq!(&cluster.folded, &naive_of_many(&rows, |row| windows_of(row, window), kept_values));
        prop_assert_eq!(cluster.lasts.iter().map(|operator| operator.late_rows()).sum::<u64>(), 0);
    }

    #[test]
    fn sessions(
        actions in prop::collection::vec(action(false), 1..25),
        kept_values: bool,
        keyed: bool,
        gap_micros in 1..12i64,
        step in 7..30i64,
        on_update: bool,
        lateness in prop_oneof![Just(0), 1..40i64],
    ) {
        let emit = if on_update { EmitMode::OnUpdate } else { EmitMode::OnWindowClose };
        let keys: &[usize] = if keyed { &[1] } else { &[] };
        let spec = aggregate(keys, calls(kept_values), true);
        let window = WindowSpec::Session { gap_micros };
        let mut cluster = Cluster::new(&spec, Some((window, emit, lateness)), 1);
        let rows = cluster.run(&moving(actions, step), |cluster, new| say_watermark(cluster, new, step + lateness));
        let expected = naive(&rows, |row| session_of(row, &rows, gap_micros, keyed), kept_values);
        prop_assert_eq!(&cluster.folded, &expected);
        prop_assert_eq!(cluster.lasts.iter().map(|operator| operator.late_rows()).sum::<u64>(), 0);
    }

    #[test]
    fn windows_over_changing_input(actions in prop::collection::vec(action(true), 1..25), window in any_window()) {
        let spec = aggregate(&[1], calls(true), false);
        let mut cluster = Cluster::new(&spec, Some((window, EmitMode::OnWindowClose, 0)), 1);
        let rows = cluster.run(&actions, |_, _| ());
        prop_assert_eq!(&cluster.folded, &naive_of_many(&rows, |row| windows_of(row, window), true));
    }
}

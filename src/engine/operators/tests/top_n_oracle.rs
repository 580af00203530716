//! Rankings on random input: order of rows, chunk cuts, retractions, barriers, checkpoints with a rolling base, restarts at other
//! parallelisms. At every barrier what came out must add up to the ranking of what came in, by sorting; at the end, by DataFusion's.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::engine::graph::OperatorSpec;
use crate::engine::join_spec::Moment;
use crate::engine::message::{BarrierKind, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, OutputItem};
use crate::engine::operators::build;
use crate::engine::operators::tests::top_n::{result_schema, top_n};
use crate::engine::top_n_spec::{RankFunction, TopNBound, TopNSpec};
use crate::testing::aggregate_specs::{context, schema, shape};
use crate::testing::memory_state::Checkpoints;
use crate::testing::operator_harness::{routed, rows_of};

/// Key, order, value.
type Row = [Option<i64>; 3];
type Folded = BTreeMap<String, i64>;

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
    let value = |most: i64| prop::option::weighted(0.9, 0..most);
    (value(3), value(6), value(3)).prop_map(|(key, order, value)| [key, order, value])
}

fn action(retractions: bool) -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => prop::collection::vec(row(), 1..12).prop_map(Action::Insert),
        if retractions { 6 } else { 0 } => prop::collection::vec(any::<Index>(), 1..10).prop_map(Action::Retract),
        2 => Just(Action::Tick),
        2 => Just(Action::Checkpoint),
        1 => (1..4u32).prop_map(Action::Restart),
    ]
}

fn specs(append_only: bool) -> impl Strategy<Value = TopNSpec> {
    let functions = vec![RankFunction::RowNumber, RankFunction::Rank, RankFunction::DenseRank];
    let shape = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.8));
    (prop::sample::select(functions), 1..3u64, 0..4u64, any::<bool>(), shape).prop_map(
        move |(function, first, more, shows_rank, (descending, nulls_first, keyed))| {
            let mut spec = top_n(function, first + more, append_only);
            spec.first = first;
            spec.shows_rank = shows_rank;
            spec.order[0].descending = descending;
            spec.order[0].nulls_first = nulls_first;
            if !keyed {
                spec.keys.clear();
            }
            spec
        },
    )
}

fn input_schema(timed: bool) -> SchemaRef {
    let key = match timed {
        true => DataType::Timestamp(TimeUnit::Microsecond, None),
        false => DataType::Int64,
    };
    schema(&[("k", key), ("o", DataType::Int64), ("v", DataType::Int64)])
}

fn batch(rows: &[Row], timed: bool) -> RecordBatch {
    let schema = input_schema(timed);
    let column = |at: usize| -> ArrayRef {
        let values: ArrayRef = Arc::new(Int64Array::from(rows.iter().map(|row| row[at]).collect::<Vec<_>>()));
        cast(&values, schema.field(at).data_type()).unwrap()
    };
    let columns = (0..3).map(column).collect();
    RecordBatch::try_new(schema, columns).unwrap()
}

/// All subtasks of one ranking, and what came out of them.
struct Cluster {
    spec: TopNSpec,
    operators: Vec<Box<dyn Operator>>,
    checkpoints: Checkpoints,
    rows: Vec<Row>,
    folded: Folded,
    retracted: bool,
}

impl Cluster {
    fn new(spec: TopNSpec) -> Cluster {
        let mut cluster = Cluster {
            spec,
            operators: Vec::new(),
            checkpoints: Checkpoints::default(),
            rows: Vec::new(),
            folded: BTreeMap::new(),
            retracted: false,
        };
        cluster.start(2);
        cluster
    }

    fn is_timed(&self) -> bool {
        matches!(self.spec.bound, TopNBound::Window(_))
    }

    fn start(&mut self, parallelism: u32) {
        let parallelism = if self.spec.keys.is_empty() { 1 } else { parallelism };
        let input = shape(input_schema(self.is_timed()), self.spec.append_only_input);
        let output = shape(result_schema(&self.spec, &input.schema), self.is_timed());
        let spec = OperatorSpec::TopN(self.spec.clone());
        let start = |subtask: u32| {
            let context = context(subtask, parallelism);
            let mut operator = build(&spec, Some(&input), &output, &context).unwrap();
            operator
                .restore(&self.checkpoints.state.reader(subtask, parallelism))
                .unwrap();
            operator
        };
        self.operators = (0..parallelism).map(start).collect();
        self.checkpoints.begin_run();
    }

    fn process(&mut self, rows: &[Row], weight: i64) {
        let chunk = Chunk {
            rows: batch(rows, self.is_timed()),
            weights: match weight {
                1 => Weights::AllInsert,
                weight => Weights::Signed(vec![weight; rows.len()].into()),
            },
            event_time: None,
            key_hashes: None,
        };
        for (subtask, part) in routed(&chunk, &self.spec.keys, self.operators.len() as u32) {
            let mut output = Output::default();
            self.operators[subtask].process(0, part, &mut output).unwrap();
            self.fold(output);
        }
    }

    fn fold(&mut self, mut output: Output) {
        for item in output.take() {
            let OutputItem::Data(chunk) = item else {
                continue;
            };
            for (row, weight) in rows_of(&chunk) {
                self.retracted |= weight < 0;
                *self.folded.entry(row).or_default() += weight;
            }
            // A row is taken back before it comes in another form.
            assert!(self.is_timed() == chunk.event_time.is_some());
        }
        self.folded.retain(|_, count| *count != 0);
    }

    fn each(&mut self, act: impl Fn(&mut dyn Operator, &mut Output)) {
        for at in 0..self.operators.len() {
            let mut output = Output::default();
            act(self.operators[at].as_mut(), &mut output);
            self.fold(output);
        }
    }

    fn barrier(&mut self, kind: BarrierKind) {
        let barrier = self.checkpoints.barrier(kind);
        self.each(|operator, output| operator.on_barrier(barrier, output).unwrap());
        if !self.is_timed() {
            assert_eq!(self.folded, sorted(&self.spec, &self.rows));
        }
        if kind.persists() {
            self.checkpoints.save(&mut self.operators);
        }
    }

    fn run(&mut self, actions: &[Action], after_insert: impl Fn(&mut Cluster, &[Row])) {
        for action in actions {
            match action {
                Action::Insert(new) => {
                    self.rows.extend(new);
                    self.process(new, 1);
                    after_insert(self, new);
                }
                Action::Retract(which) => {
                    let mut gone = Vec::new();
                    for index in which {
                        if !self.rows.is_empty() {
                            gone.push(self.rows.swap_remove(index.index(self.rows.len())));
                        }
                    }
                    if !gone.is_empty() {
                        self.process(&gone, -1);
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
        self.each(|operator, output| operator.on_end(output).unwrap());
        assert_eq!(self.folded, sorted(&self.spec, &self.rows));
        assert_eq!(self.folded, datafusion(&self.spec, &self.rows, self.is_timed()));
    }

    fn stored_rows(&self) -> u64 {
        self.operators.iter().map(|operator| operator.state_size().rows).sum()
    }
}

fn compare(left: Option<i64>, right: Option<i64>, descending: bool, nulls_first: bool) -> Ordering {
    match (left, right) {
        (Some(left), Some(right)) if descending => right.cmp(&left),
        (Some(left), Some(right)) => left.cmp(&right),
        (None, None) => Ordering::Equal,
        (None, _) if nulls_first => Ordering::Less,
        (None, _) => Ordering::Greater,
        (_, None) if nulls_first => Ordering::Greater,
        (_, None) => Ordering::Less,
    }
}

/// The ranking by sorting everything.
fn sorted(spec: &TopNSpec, rows: &[Row]) -> Folded {
    let mut partitions: BTreeMap<Option<i64>, Vec<Row>> = BTreeMap::new();
    for row in rows {
        let key = if spec.keys.is_empty() { None } else { row[0] };
        partitions.entry(key).or_default().push(*row);
    }
    let order = spec.order[0];
    let mut folded = Folded::new();
    for mut rows in partitions.into_values() {
        rows.sort_by(|left, right| {
            let by_order = compare(left[1], right[1], order.descending, order.nulls_first);
            (0..3).fold(by_order, |so_far, at| {
                so_far.then_with(|| compare(left[at], right[at], false, false))
            })
        });
        for (at, row) in rows.iter().enumerate() {
            let smaller = rows[..at].iter().filter(|other| other[1] != row[1]);
            let rank = match spec.function {
                RankFunction::RowNumber => at + 1,
                RankFunction::Rank => smaller.count() + 1,
                RankFunction::DenseRank => {
                    smaller
                        .map(|other| other[1])
                        .collect::<std::collections::BTreeSet<_>>()
                        .len()
                        + 1
                }
            } as u64;
            if (spec.first..=spec.last).contains(&rank) {
                let values = row.map(|value| value.map_or("null".into(), |value| value.to_string()));
                let rank = if spec.shows_rank {
                    format!(" {rank}")
                } else {
                    String::new()
                };
                *folded.entry(format!("{}{rank}", values.join(" "))).or_default() += 1;
            }
        }
    }
    folded
}

/// The same by DataFusion.
fn datafusion(spec: &TopNSpec, rows: &[Row], timed: bool) -> Folded {
    let order = spec.order[0];
    let direction = if order.descending { "DESC" } else { "ASC" };
    let nulls = if order.nulls_first { "FIRST" } else { "LAST" };
    let others = match spec.function {
        RankFunction::RowNumber => ", k, o, v",
        _ => "",
    };
    let partition = if spec.keys.is_empty() { "" } else { "PARTITION BY k" };
    let rank = if spec.shows_rank { ", n" } else { "" };
    let sql = format!(
        "SELECT k, o, v{rank} FROM (SELECT *, {}() OVER ({partition} ORDER BY o {direction} NULLS {nulls}{others}) AS n FROM t) \
         WHERE n BETWEEN {} AND {}",
        spec.function.name(),
        spec.first,
        spec.last
    );
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches = runtime.block_on(async {
        let session = SessionContext::new();
        session.register_batch("t", batch(rows, timed)).unwrap();
        session.sql(&sql).await.unwrap().collect().await.unwrap()
    });
    let mut folded = Folded::new();
    for rows in batches {
        for (row, weight) in rows_of(&Chunk::insert(rows)) {
            *folded.entry(row).or_default() += weight;
        }
    }
    folded
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn changing_input(spec in specs(false), actions in prop::collection::vec(action(true), 1..25)) {
        let mut cluster = Cluster::new(spec);
        cluster.run(&actions, |_, _| ());
    }

    #[test]
    fn growing_input(spec in specs(true), actions in prop::collection::vec(action(false), 1..25)) {
        let mut cluster = Cluster::new(spec);
        cluster.run(&actions, |_, _| ());
        // Five partitions at most, of which n rows are kept, or all ties.
        if cluster.spec.function == RankFunction::RowNumber {
            prop_assert!(cluster.stored_rows() <= 5 * cluster.spec.last);
        }
    }

    #[test]
    fn windows(spec in specs(true), actions in prop::collection::vec(action(false), 1..25)) {
        let mut spec = spec;
        spec.keys = vec![0];
        spec.bound = TopNBound::Window(Moment { column: 0, offset_micros: 10 });
        // Windows of 10, in which time moves on by 4 a batch; the rows of a batch are in three windows.
        let mut now = 0;
        let mut shifted = Vec::new();
        for action in actions {
            shifted.push(match action {
                Action::Insert(rows) => {
                    now += 4;
                    let window = |key: Option<i64>| Some(now / 10 * 10 + 10 * key.unwrap_or(0));
                    Action::Insert(rows.into_iter().map(|row| [window(row[0]), row[1], row[2]]).collect())
                }
                other => other,
            });
        }
        let mut cluster = Cluster::new(spec);
        cluster.run(&shifted, |cluster, new| {
            // No window that is later than the first of this batch is over, nor this one.
            let first = new.iter().filter_map(|row| row[0]).min().unwrap_or(0);
            let safe = Watermark::At(first.min(cluster.rows.last().and_then(|row| row[0]).unwrap_or(0) - 20));
            cluster.each(|operator, output| operator.on_watermark(safe, output).unwrap());
        });
        prop_assert!(!cluster.retracted);
        prop_assert_eq!(cluster.operators.iter().map(|operator| operator.late_rows()).sum::<u64>(), 0);
        prop_assert_eq!(cluster.stored_rows(), 0);
    }
}

//! Joins on random input: random order of both sides, chunk cuts, retractions, barriers, checkpoints with a rolling base, restarts
//! at other parallelisms. At every barrier what came out must add up to the join of what came in, by a naive join; at the end, by
//! DataFusion's.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::logical_expr::Operator as Comparison;
use datafusion::prelude::SessionContext;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::engine::join_spec::{JoinKind, JoinSpec, Side};
use crate::engine::message::{BarrierKind, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, OutputItem};
use crate::engine::operators::tests::join::interval;
use crate::testing::aggregate_specs::{context, schema};
use crate::testing::join_harness::{feed, join, output_shape, residual, start_join};
use crate::testing::memory_state::Checkpoints;
use crate::testing::operator_harness::{routed, rows_of};

/// Time, key, value.
type Row = (i64, Option<i64>, Option<i64>);
type Folded = BTreeMap<String, i64>;

const KEY: usize = 1;
const VALUE: usize = 2;

#[derive(Clone, Debug)]
enum Action {
    Insert(bool, Vec<Row>),
    /// Takes rows away that are there.
    Retract(bool, Vec<Index>),
    Tick,
    Checkpoint,
    Restart(u32),
}

fn row() -> impl Strategy<Value = Row> {
    (
        0..15i64,
        prop::option::weighted(0.9, 0..4i64),
        prop::option::weighted(0.9, 0..3i64),
    )
}

fn action(retractions: bool) -> impl Strategy<Value = Action> {
    prop_oneof![
        8 => (any::<bool>(), prop::collection::vec(row(), 1..10)).prop_map(|(side, rows)| Action::Insert(side, rows)),
        if retractions { 6 } else { 0 } =>
            (any::<bool>(), prop::collection::vec(any::<Index>(), 1..8)).prop_map(|(side, rows)| Action::Retract(side, rows)),
        2 => Just(Action::Tick),
        2 => Just(Action::Checkpoint),
        1 => (1..4u32).prop_map(Action::Restart),
    ]
}

fn input_schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    schema(&[("t", time), ("k", DataType::Int64), ("v", DataType::Int64)])
}

fn batch(rows: &[Row]) -> RecordBatch {
    let column = |values: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    let times = column(rows.iter().map(|row| Some(row.0)).collect());
    let columns = vec![
        cast(&times, input_schema().field(0).data_type()).unwrap(),
        column(rows.iter().map(|row| row.1).collect()),
        column(rows.iter().map(|row| row.2).collect()),
    ];
    RecordBatch::try_new(input_schema(), columns).unwrap()
}

/// All subtasks of one join, and what came out of them.
struct Cluster {
    spec: JoinSpec,
    timed: bool,
    operators: Vec<Box<dyn Operator>>,
    checkpoints: Checkpoints,
    rows: [Vec<Row>; 2],
    folded: Folded,
    retracted: bool,
    /// What was said to the operators.
    watermark: i64,
    /// What was promised downstream.
    watermarks: Vec<i64>,
}

impl Cluster {
    fn new(spec: JoinSpec, timed: bool) -> Cluster {
        let mut cluster = Cluster {
            spec,
            timed,
            operators: Vec::new(),
            checkpoints: Checkpoints::default(),
            rows: [Vec::new(), Vec::new()],
            folded: BTreeMap::new(),
            retracted: false,
            watermark: i64::MIN,
            watermarks: Vec::new(),
        };
        cluster.start(2);
        cluster
    }

    fn start(&mut self, parallelism: u32) {
        let output = output_shape(&self.spec, self.timed);
        self.operators = (0..parallelism)
            .map(|subtask| {
                start_join(
                    &self.spec,
                    &output,
                    &context(subtask, parallelism),
                    &self.checkpoints.state,
                )
            })
            .collect();
        self.watermarks = vec![i64::MIN; parallelism as usize];
        self.checkpoints.begin_run();
    }

    fn process(&mut self, side: Side, rows: &[Row], weight: i64) {
        let chunk = Chunk {
            rows: batch(rows),
            weights: match weight {
                1 => Weights::AllInsert,
                weight => Weights::Signed(vec![weight; rows.len()].into()),
            },
            event_time: Some(rows.iter().map(|row| row.0).collect()),
            key_hashes: None,
        };
        for (subtask, part) in routed(&chunk, &[KEY], self.operators.len() as u32) {
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
                        self.retracted |= weight < 0;
                        *self.folded.entry(row).or_default() += weight;
                    }
                    for &time in chunk.event_time.iter().flat_map(|times| times.iter()) {
                        let promised = self.watermarks[subtask];
                        assert!(time >= promised, "a row of {time} after watermark {promised}");
                    }
                }
                OutputItem::Watermark(Watermark::At(time)) => {
                    self.watermarks[subtask] = self.watermarks[subtask].max(time);
                }
                OutputItem::Watermark(Watermark::Idle) => {}
            }
        }
        self.folded.retain(|_, count| *count != 0);
    }

    fn each(&mut self, act: impl Fn(&mut dyn Operator, &mut Output)) {
        for at in 0..self.operators.len() {
            let mut output = Output::default();
            act(self.operators[at].as_mut(), &mut output);
            self.fold(at, output);
        }
    }

    fn watermark(&mut self, time: i64) {
        self.watermark = self.watermark.max(time);
        self.each(|operator, output| operator.on_watermark(Watermark::At(time), output).unwrap());
    }

    fn barrier(&mut self, kind: BarrierKind) {
        let barrier = self.checkpoints.barrier(kind);
        self.each(|operator, output| operator.on_barrier(barrier, output).unwrap());
        if !self.timed {
            assert_eq!(self.folded, naive(&self.spec, &self.rows, |_, _| true));
        }
        if kind.persists() {
            self.checkpoints.save(&mut self.operators);
        }
    }

    fn run(&mut self, actions: &[Action], after_insert: impl Fn(&mut Cluster, &[Row])) {
        for action in actions {
            match action {
                Action::Insert(right, new) => {
                    let side = Side::BOTH[usize::from(*right)];
                    self.rows[side.index()].extend(new);
                    self.process(side, new, 1);
                    after_insert(self, new);
                }
                Action::Retract(right, which) => {
                    let side = Side::BOTH[usize::from(*right)];
                    let rows = &mut self.rows[side.index()];
                    let mut gone = Vec::new();
                    for index in which {
                        // What is older is settled.
                        let open = |&at: &usize| !self.timed || rows[at].0 >= self.watermark;
                        let candidates: Vec<usize> = (0..rows.len()).filter(open).collect();
                        if !candidates.is_empty() {
                            gone.push(rows.swap_remove(candidates[index.index(candidates.len())]));
                        }
                    }
                    if !gone.is_empty() {
                        self.process(side, &gone, -1);
                    }
                }
                Action::Tick => self.barrier(BarrierKind::Tick),
                Action::Checkpoint => self.barrier(BarrierKind::Checkpoint),
                Action::Restart(parallelism) => {
                    self.barrier(BarrierKind::Checkpoint);
                    let promised = self.watermarks.iter().copied().min().unwrap_or(i64::MIN);
                    self.start(*parallelism);
                    self.watermarks.fill(promised);
                }
            }
        }
        self.each(|operator, output| operator.on_end(output).unwrap());
    }
}

fn text(row: &Row) -> String {
    let value = |value: Option<i64>| value.map_or("null".into(), |value| value.to_string());
    format!("{} {} {}", row.0, value(row.1), value(row.2))
}

/// The join by two loops.
fn naive(spec: &JoinSpec, rows: &[Vec<Row>; 2], also: impl Fn(&Row, &Row) -> bool) -> Folded {
    let matches = |left: &Row, right: &Row| {
        let keys = left.1 == right.1 && (left.1.is_some() || spec.null_equal[0]);
        let residual = match (spec.residual.is_some(), left.2, right.2) {
            (false, ..) => true,
            (true, Some(left), Some(right)) => left < right,
            _ => false,
        };
        keys && residual && also(left, right)
    };
    let mut folded = Folded::new();
    let mut put = |row: String| *folded.entry(row).or_default() += 1;
    let nulls = "null null null";
    let mut right_matched = vec![false; rows[1].len()];
    for left in &rows[0] {
        let mut matched = false;
        for (at, right) in rows[1].iter().enumerate() {
            if matches(left, right) {
                matched = true;
                right_matched[at] = true;
                if spec.kind.has_pairs() {
                    put(format!("{} {}", text(left), text(right)));
                }
            }
        }
        match spec.kind {
            JoinKind::Left | JoinKind::Full if !matched => put(format!("{} {nulls}", text(left))),
            JoinKind::Semi(Side::Left) if matched => put(text(left)),
            JoinKind::Anti(Side::Left) if !matched => put(text(left)),
            JoinKind::Mark(Side::Left) => put(format!("{} {matched}", text(left))),
            _ => {}
        }
    }
    for (right, matched) in rows[1].iter().zip(right_matched) {
        match spec.kind {
            JoinKind::Right | JoinKind::Full if !matched => put(format!("{nulls} {}", text(right))),
            JoinKind::Semi(Side::Right) if matched => put(text(right)),
            JoinKind::Anti(Side::Right) if !matched => put(text(right)),
            _ => {}
        }
    }
    folded
}

/// The same by DataFusion; `None` where it has no such join in SQL.
fn datafusion(spec: &JoinSpec, rows: &[Vec<Row>; 2], also: &str) -> Option<Folded> {
    let join = match spec.kind {
        JoinKind::Inner => "INNER",
        JoinKind::Left => "LEFT",
        JoinKind::Right => "RIGHT",
        JoinKind::Full => "FULL",
        JoinKind::Semi(Side::Left) => "LEFT SEMI",
        JoinKind::Semi(Side::Right) => "RIGHT SEMI",
        JoinKind::Anti(Side::Left) => "LEFT ANTI",
        JoinKind::Anti(Side::Right) => "RIGHT ANTI",
        JoinKind::Mark(_) => return None,
    };
    let key = if spec.null_equal[0] {
        "(l.k IS NOT DISTINCT FROM r.k)"
    } else {
        "l.k = r.k"
    };
    let residual = if spec.residual.is_some() { " AND l.v < r.v" } else { "" };
    let sql = format!("SELECT * FROM l {join} JOIN r ON {key}{residual}{also}");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let batches = runtime.block_on(async {
        let session = SessionContext::new();
        session.register_batch("l", batch(&rows[0])).unwrap();
        session.register_batch("r", batch(&rows[1])).unwrap();
        session.sql(&sql).await.unwrap().collect().await.unwrap()
    });
    let mut folded = Folded::new();
    for rows in batches {
        for (row, weight) in rows_of(&Chunk::insert(rows)) {
            *folded.entry(row).or_default() += weight;
        }
    }
    Some(folded)
}

fn kinds() -> Vec<JoinKind> {
    let mut kinds = vec![JoinKind::Inner, JoinKind::Left, JoinKind::Right, JoinKind::Full];
    for side in Side::BOTH {
        kinds.extend([JoinKind::Semi(side), JoinKind::Anti(side)]);
    }
    kinds.push(JoinKind::Mark(Side::Left));
    kinds
}

fn spec(kind: JoinKind, with_residual: bool, null_equal: bool) -> JoinSpec {
    let mut spec = join(kind, &input_schema(), KEY);
    spec.null_equal = vec![null_equal];
    spec.residual = with_residual.then(|| residual(&input_schema(), VALUE, Comparison::Lt, VALUE));
    spec
}

fn check_end(cluster: &Cluster, also: impl Fn(&Row, &Row) -> bool, sql: &str) {
    assert_eq!(cluster.folded, naive(&cluster.spec, &cluster.rows, also));
    if let Some(expected) = datafusion(&cluster.spec, &cluster.rows, sql) {
        assert_eq!(cluster.folded, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn changing_inputs(
        kind in prop::sample::select(kinds()),
        with_residual: bool,
        null_equal in prop::bool::weighted(0.2),
        actions in prop::collection::vec(action(true), 1..25),
    ) {
        let mut cluster = Cluster::new(spec(kind, with_residual, null_equal), false);
        cluster.run(&actions, |_, _| ());
        check_end(&cluster, |_, _| true, "");
    }

    #[test]
    fn growing_inputs(
        kind in prop::sample::select(kinds()),
        with_residual: bool,
        actions in prop::collection::vec(action(false), 1..25),
    ) {
        let mut spec = spec(kind, with_residual, false);
        for input in &mut spec.inputs {
            input.append_only = true;
        }
        let mut cluster = Cluster::new(spec, false);
        cluster.run(&actions, |_, _| ());
        check_end(&cluster, |_, _| true, "");
        if matches!(kind, JoinKind::Inner | JoinKind::Semi(_)) {
            prop_assert!(!cluster.retracted);
        }
    }

    #[test]
    fn inputs_bounded_by_time(
        kind in prop::sample::select(kinds()),
        before in 0..12i64,
        after in 0..12i64,
        changing: bool,
        actions in prop::collection::vec(action(true), 1..25),
    ) {
        let mut spec = interval(spec(kind, false, false), before, after);
        for input in &mut spec.inputs {
            input.append_only = !changing;
        }
        spec.residual = Some(time_residual(before, after));
        // Time moves on by 7 a batch; rows are up to 15 behind, as the watermark says.
        let mut now = 0;
        let mut shifted = Vec::new();
        for action in actions {
            shifted.push(match action {
                Action::Insert(side, rows) => {
                    now += 7;
                    Action::Insert(side, rows.into_iter().map(|row| (now + row.0, row.1, row.2)).collect())
                }
                Action::Retract(..) if !changing => Action::Tick,
                other => other,
            });
        }
        let mut cluster = Cluster::new(spec, true);
        cluster.run(&shifted, |cluster, new| {
            // A true bound: the next batch starts 7 later than this one, whose rows span 15.
            cluster.watermark(new.iter().map(|row| row.0).min().unwrap_or(0) - 7);
        });
        let near = |left: &Row, right: &Row| (left.0 - before..=left.0 + after).contains(&right.0);
        cluster.spec.residual = None;
        let sql = format!(
            " AND arrow_cast(r.t, 'Int64') BETWEEN arrow_cast(l.t, 'Int64') - {before} AND arrow_cast(l.t, 'Int64') + {after}"
        );
        check_end(&cluster, near, &sql);
        prop_assert!(changing || !cluster.retracted);
        prop_assert_eq!(cluster.operators.iter().map(|operator| operator.late_rows()).sum::<u64>(), 0);
        prop_assert_eq!(cluster.operators.iter().map(|operator| operator.state_size().rows).sum::<u64>(), 0);
    }
}

/// `r.t BETWEEN l.t - before AND l.t + after` over the times as numbers.
fn time_residual(before: i64, after: i64) -> crate::engine::join_spec::Residual {
    use arrow::datatypes::{Field, Schema};
    use datafusion::physical_expr::PhysicalExpr;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, cast as cast_expr, lit};
    let base = residual(&input_schema(), 0, Comparison::Lt, 0);
    let fields: Vec<Field> = base
        .schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone())
        .collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let number = |name: &str, at| cast_expr(Arc::new(Column::new(name, at)), &schema, DataType::Int64).unwrap();
    let difference: Arc<dyn PhysicalExpr> =
        Arc::new(BinaryExpr::new(number("r", 1), Comparison::Minus, number("l", 0)));
    let bound = |comparison, value: i64| -> Arc<dyn PhysicalExpr> {
        Arc::new(BinaryExpr::new(Arc::clone(&difference), comparison, lit(value)))
    };
    crate::engine::join_spec::Residual {
        predicate: Arc::new(BinaryExpr::new(
            bound(Comparison::GtEq, -before),
            Comparison::And,
            bound(Comparison::LtEq, after),
        )),
        ..base
    }
}

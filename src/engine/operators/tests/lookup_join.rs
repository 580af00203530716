//! Lookup joins: order while answers come late and in any order, what is asked and how often, and whole jobs with crashes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::logical_expr::Operator as Binary;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};
use tokio::sync::oneshot;

use crate::engine::connectors::lookup::{Lookup, LookupAnswer, LookupContext, LookupOptions};
use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{ConnectorTable, DeliveryGuarantee, Direction, Wake};
use crate::engine::error::Error;
use crate::engine::graph::{
    Exchange, GraphEdge, GraphNode, JobGraph, MaterializeSpec, OperatorSpec, SourceSpec, StreamShape,
};
use crate::engine::job_context::Outside;
use crate::engine::lookup_join_spec::LookupJoinSpec;
use crate::engine::message::{Barrier, BarrierKind, Watermark};
use crate::engine::operator::{Operator, Output, Waits};
use crate::engine::operators::{BuildContext, build};
use crate::error::{Report, Retry, SqlState};
use crate::ids::{Epoch, OperatorId};
use crate::testing::aggregate_specs::context;
use crate::testing::job_simulator::{Adversity, SIMULATED_PIPELINE, simulate};
use crate::testing::operator_harness::{chunk_of, describe};
use crate::testing::row_table::RowTable;

const SOON: Duration = Duration::from_secs(30);

fn ints(names: &[&str]) -> SchemaRef {
    let field = |name: &&str| Field::new(*name, DataType::Int64, true);
    Arc::new(Schema::new(names.iter().map(field).collect::<Vec<_>>()))
}

fn int_rows(schema: &SchemaRef, rows: &[Vec<i64>]) -> RecordBatch {
    let column = |at: usize| Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row[at]))) as ArrayRef;
    RecordBatch::try_new(Arc::clone(schema), (0..schema.fields().len()).map(column).collect()).unwrap()
}

fn column(index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new("c", index))
}

/// A question that the test answers when it likes.
struct Question {
    keys: Vec<i64>,
    answer: oneshot::Sender<Result<LookupAnswer, Error>>,
}

impl Question {
    /// So many rows for each key: `key, key * 10 + n`.
    fn answer(self, rows_of: impl Fn(i64) -> i64) {
        let answer = answer_of(&self.keys, rows_of);
        self.answer.send(Ok(answer)).ok().unwrap();
    }
}

fn answer_of(keys: &[i64], rows_of: impl Fn(i64) -> i64) -> LookupAnswer {
    let mut places = Vec::new();
    let mut rows = Vec::new();
    // Not in the order of the keys: nobody promises that.
    for (place, &key) in keys.iter().enumerate().rev() {
        for n in 0..rows_of(key) {
            places.push(place as u32);
            rows.push(vec![key, key * 10 + n]);
        }
    }
    LookupAnswer {
        rows: int_rows(&ints(&["id", "value"]), &rows),
        keys: places,
    }
}

struct Answering {
    questions: mpsc::Sender<Question>,
}

#[async_trait::async_trait]
impl Lookup for Answering {
    async fn lookup(&self, keys: &RecordBatch) -> Result<LookupAnswer, Error> {
        let (answer, answered) = oneshot::channel();
        let keys = keys.column(0).as_primitive::<Int64Type>().values().to_vec();
        self.questions.send(Question { keys, answer }).unwrap();
        answered.await.expect("the test answers")
    }
}

type OpenLookup = Arc<dyn Fn() -> Arc<dyn Lookup> + Send + Sync>;

struct FakeTable {
    open: OpenLookup,
}

impl std::fmt::Debug for FakeTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeTable")
    }
}

impl ConnectorTable for FakeTable {
    fn connector(&self) -> &'static str {
        "fake"
    }
    fn schema(&self) -> Option<SchemaRef> {
        None
    }
    fn direction(&self) -> Direction {
        Direction::Lookup
    }
    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }
    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }
    fn open_lookup(&self, _context: LookupContext) -> Result<Arc<dyn Lookup>, Error> {
        Ok((self.open)())
    }
}

fn spec(open: OpenLookup, left: bool, options: LookupOptions) -> LookupJoinSpec {
    LookupJoinSpec {
        table_name: "public.dim".into(),
        table: Arc::new(FakeTable { open }),
        options,
        left,
        keys: vec![0],
        key: ints(&["id"]),
        columns: ints(&["id", "value"]),
        filter: None,
        projection: vec![column(1)],
        input_columns: 2,
        residual: None,
    }
}

fn shape(names: &[&str]) -> StreamShape {
    StreamShape {
        schema: ints(names),
        append_only: true,
        unique_key: None,
        event_time: false,
    }
}

struct Woken(mpsc::Sender<()>);

impl Wake for Woken {
    fn wake(&self) {
        // The test may be over.
        let _ = self.0.send(());
    }
}

/// An operator whose questions the test answers.
struct Bench {
    operator: Box<dyn Operator>,
    output: Output,
    questions: mpsc::Receiver<Question>,
    woken: mpsc::Receiver<()>,
    _runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new(left: bool, change: impl FnOnce(&mut LookupJoinSpec)) -> Bench {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (questions, asked) = mpsc::channel();
        let open = move || {
            Arc::new(Answering {
                questions: questions.clone(),
            }) as Arc<dyn Lookup>
        };
        let mut spec = spec(Arc::new(open), left, LookupOptions::default());
        change(&mut spec);
        let (waker, woken) = mpsc::channel();
        let context = BuildContext {
            outside: Some(Outside {
                clock: Arc::new(crate::clock::SystemClock),
                runtime: runtime.handle().clone(),
                waker: Arc::new(Woken(waker)),
                metrics: Arc::default(),
            }),
            ..context(0, 1)
        };
        let spec = OperatorSpec::LookupJoin(Box::new(spec));
        let operator = build(&spec, Some(&shape(&["k", "n"])), &shape(&["k", "n", "value"]), &context).unwrap();
        Bench {
            operator,
            output: Output::default(),
            questions: asked,
            woken,
            _runtime: runtime,
        }
    }

    fn rows(&mut self, lines: &[&str]) {
        let chunk = chunk_of(&ints(&["k", "n"]), lines, None);
        self.operator.process(0, chunk, &mut self.output).unwrap();
    }

    fn watermark(&mut self, at: i64) {
        self.operator.on_watermark(Watermark::At(at), &mut self.output).unwrap();
    }

    fn question(&self) -> Question {
        self.questions.recv_timeout(SOON).unwrap()
    }

    /// Waits for an answer's wake-up; gives what came out since the last look.
    fn after_wake(&mut self) -> String {
        self.woken.recv_timeout(SOON).unwrap();
        self.operator.resume(&mut self.output).unwrap();
        self.seen()
    }

    fn seen(&mut self) -> String {
        describe(&mut self.output)
    }
}

#[test]
fn late_answers_do_not_change_the_order() {
    let mut bench = Bench::new(false, |_| {});
    bench.rows(&["+ 1 100", "+ 2 200", "+ 1 101"]);
    let first = bench.question();
    assert_eq!(first.keys, [1, 2], "each key once");
    bench.watermark(5);
    bench.watermark(7);
    bench.rows(&["+ 3 300", "+ 2 201"]);
    let second = bench.question();
    assert_eq!(second.keys, [3], "2 is asked for already");
    assert_eq!(bench.operator.waits(), Waits::TakesMore);
    second.answer(|_| 1);
    assert_eq!(bench.after_wake(), "", "what came first waits");
    first.answer(|key| key);
    assert_eq!(
        bench.after_wake(),
        "+ 1 100 10\n+ 2 200 20\n+ 2 200 21\n+ 1 101 10\nW 7\n+ 3 300 30\n+ 2 201 20\n+ 2 201 21\n"
    );
    assert_eq!(bench.operator.waits(), Waits::Nothing);
    bench.watermark(9);
    assert_eq!(bench.seen(), "W 9\n", "nothing waits: it goes on at once");
}

#[test]
fn answers_are_kept_also_that_there_is_nothing() {
    let mut bench = Bench::new(true, |_| {});
    bench.rows(&["+ 1 100", "+ 2 200", "+ null 300"]);
    bench.question().answer(|key| key - 1);
    assert_eq!(bench.after_wake(), "+ 1 100 null\n+ 2 200 20\n+ null 300 null\n");
    bench.rows(&["+ 2 201", "+ 1 101"]);
    assert_eq!(bench.seen(), "+ 2 201 20\n+ 1 101 null\n", "without a question");
    assert!(bench.questions.try_recv().is_err());
}

#[test]
fn least_recently_used_keys_go_first() {
    let mut bench = Bench::new(false, |spec| spec.options.cache_rows = 2);
    for key in ["+ 1 0", "+ 2 0", "+ 1 0", "+ 3 0"] {
        bench.rows(&[key]);
        if key != "+ 1 0" || bench.operator.waits() != Waits::Nothing {
            bench.question().answer(|_| 1);
            bench.after_wake();
        }
    }
    bench.rows(&["+ 1 1", "+ 3 1"]);
    assert!(bench.seen().ends_with("+ 1 1 10\n+ 3 1 30\n"), "1 was used after 2");
    bench.rows(&["+ 2 1"]);
    assert_eq!(bench.question().keys, [2]);
}

#[test]
fn old_answers_are_not_used() {
    let mut bench = Bench::new(false, |spec| spec.options.cache_ttl = Duration::ZERO);
    bench.rows(&["+ 1 0"]);
    let first = bench.question();
    bench.rows(&["+ 1 1"]);
    assert!(
        bench.questions.try_recv().is_err(),
        "the question under way serves both"
    );
    first.answer(|_| 1);
    assert_eq!(bench.after_wake(), "+ 1 0 10\n+ 1 1 10\n");
    bench.rows(&["+ 1 2"]);
    bench.question().answer(|_| 2);
    assert_eq!(bench.after_wake(), "+ 1 2 10\n+ 1 2 11\n");
}

#[test]
fn many_rows_and_small_caches_stay_right() {
    let mut bench = Bench::new(false, |spec| spec.options.cache_rows = 3_000);
    for round in 0..12 {
        // The last keys stay in use, the others give way: the batches of both are written anew.
        let lines: Vec<String> = (0..4_000)
            .map(|n| {
                if n >= 3_988 {
                    (n - 3_987) * 50_000
                } else {
                    round * 4_000 + n
                }
            })
            .map(|key| format!("+ {key} {round}"))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        bench.rows(&lines);
        bench.question().answer(|_| 3);
        let seen = bench.after_wake();
        assert_eq!(seen.lines().count(), 12_000);
        for line in seen.lines() {
            let words: Vec<i64> = line.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
            assert_eq!(words[0], words[2] / 10, "{line}");
        }
    }
    assert!(bench.operator.state_size().rows <= 3_000);
    assert!(
        bench.operator.state_size().bytes < 4_000_000,
        "{:?}",
        bench.operator.state_size()
    );
}

#[test]
fn conditions_besides_the_key() {
    let less =
        |left, right| Arc::new(BinaryExpr::new(column(left), Binary::Lt, column(right))) as Arc<dyn PhysicalExpr>;
    for (left, expected) in [
        (false, "+ 1 11 10\n"),
        (true, "+ 1 11 10\n+ 1 10 null\n+ 2 99 null\n+ 3 99 null\n"),
    ] {
        let mut bench = Bench::new(left, |spec| {
            // Over the answer: id < value, which is false for no key here but for 3, whose rows are left out.
            spec.filter = Some(less(0, 1));
            // Over the output: value < n.
            spec.residual = Some(less(2, 1));
        });
        bench.rows(&["+ 1 11", "+ 1 10", "+ 2 99", "+ 3 99"]);
        let question = bench.question();
        let rows = [[1, 10], [1, 12], [2, 100], [3, 3]].map(|row| row.to_vec());
        let answer = LookupAnswer {
            rows: int_rows(&ints(&["id", "value"]), &rows),
            keys: vec![0, 0, 1, 2],
        };
        question.answer.send(Ok(answer)).ok().unwrap();
        assert_eq!(bench.after_wake(), expected);
    }
}

#[test]
fn few_chunks_wait_and_no_barrier_overtakes_them() {
    let mut bench = Bench::new(false, |_| {});
    let mut questions = Vec::new();
    while bench.operator.waits() != Waits::Full {
        bench.rows(&[&format!("+ {} 0", questions.len())]);
        questions.push(bench.question());
    }
    assert_eq!(questions.len(), 4);
    let barrier = Barrier {
        epoch: Epoch(1),
        kind: BarrierKind::Tick,
    };
    assert!(bench.operator.on_barrier(barrier, &mut Output::default()).is_err());
    for question in questions {
        question.answer(|_| 1);
        bench.after_wake();
    }
    assert!(bench.operator.on_barrier(barrier, &mut Output::default()).is_ok());
}

#[test]
fn what_may_pass_is_asked_again_and_the_rest_fails() {
    let failed = |retry| Error::External {
        code: SqlState::CONNECTION_FAILURE,
        message: "gone away".into(),
        hint: None,
        retry,
    };
    let mut bench = Bench::new(false, |_| {});
    bench.rows(&["+ 1 0"]);
    bench.question().answer.send(Err(failed(Retry::Backoff))).ok().unwrap();
    bench.question().answer(|_| 1);
    assert_eq!(bench.after_wake(), "+ 1 0 10\n");
    bench.rows(&["+ 2 0"]);
    bench.question().answer.send(Err(failed(Retry::Never))).ok().unwrap();
    bench.woken.recv_timeout(SOON).unwrap();
    let error = bench.operator.resume(&mut Output::default()).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.retry()), ("gone away", Retry::Never));

    let mut bench = Bench::new(false, |spec| spec.options.timeout = Duration::from_millis(1));
    bench.rows(&["+ 1 0"]);
    bench.woken.recv_timeout(SOON).unwrap();
    let error = bench.operator.resume(&mut Output::default()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("lookup table \"public.dim\" did not answer within"),
        "{error}"
    );
    assert_eq!(error.retry(), Retry::Backoff);
    assert!(error.hint().is_some());
}

/// Answers after a while, of which each question has its own, or fails first.
struct Unsteady {
    asked: AtomicU64,
}

fn rows_of(key: i64) -> i64 {
    key % 4
}

#[async_trait::async_trait]
impl Lookup for Unsteady {
    async fn lookup(&self, keys: &RecordBatch) -> Result<LookupAnswer, Error> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_micros(number * 7919 % 700)).await;
        if number % 13 == 5 {
            return Err(Error::External {
                code: SqlState::CONNECTION_FAILURE,
                message: "try again".into(),
                hint: None,
                retry: Retry::Backoff,
            });
        }
        Ok(answer_of(keys.column(0).as_primitive::<Int64Type>().values(), rows_of))
    }
}

fn job(left: bool, parallelism: u32, cache_rows: usize, rows: &RecordBatch) -> JobGraph {
    let input = shape(&["k", "n"]);
    let output = shape(&["k", "n", "value"]);
    let source = RowTable {
        name: "public.s".into(),
        splits: vec![rows.slice(0, 300), rows.slice(300, rows.num_rows() - 300)],
        chunk_rows_max: 20,
        seed: 3,
    };
    let open = || {
        Arc::new(Unsteady {
            asked: AtomicU64::new(0),
        }) as Arc<dyn Lookup>
    };
    let options = LookupOptions {
        cache_rows,
        ..LookupOptions::default()
    };
    let node = |name: &str, operator, inputs: Vec<GraphEdge>, output: &StreamShape| GraphNode {
        id: OperatorId(name.into()),
        lineage: String::new(),
        description: String::new(),
        operator,
        parallelism,
        inputs,
        output: output.clone(),
    };
    let edge = |from, exchange| GraphEdge { from, exchange };
    let nodes = vec![
        node(
            "s",
            OperatorSpec::Source(SourceSpec {
                table_name: "public.s".into(),
                table: Arc::new(source),
                physical_schema: Arc::clone(&input.schema),
                key: None,
                event_time: None,
                projection: None,
            }),
            Vec::new(),
            &input,
        ),
        node(
            "l",
            OperatorSpec::LookupJoin(Box::new(spec(Arc::new(open), left, options))),
            vec![edge(0, Exchange::Forward)],
            &output,
        ),
        node(
            "m",
            OperatorSpec::Materialize(MaterializeSpec {
                pipeline: SIMULATED_PIPELINE,
                key: None,
                append_only: true,
            }),
            vec![edge(1, Exchange::Hash { columns: vec![0, 1, 2] })],
            &output,
        ),
    ];
    JobGraph { nodes, parallelism }
}

#[test]
fn jobs_with_crashes_and_barriers_end_with_every_pair_once() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let rows: Vec<Vec<i64>> = (0..700).map(|n| vec![n * n % 41, n]).collect();
    let input = int_rows(&ints(&["k", "n"]), &rows);
    for seed in 0..12 {
        let (left, cache_rows) = (seed % 2 == 0, [0, 5, 1000][seed as usize % 3]);
        let mut expected: Vec<(i64, i64, Option<i64>)> = Vec::new();
        for row in &rows {
            let (k, n) = (row[0], row[1]);
            expected.extend((0..rows_of(k)).map(|at| (k, n, Some(k * 10 + at))));
            if left && rows_of(k) == 0 {
                expected.push((k, n, None));
            }
        }
        let adversity = Adversity {
            crashes: 3,
            parallelism: 1..=3,
            turns_a_barrier: 40,
        };
        let compile = |parallelism: u32| Ok(job(left, parallelism, cache_rows, &input));
        let finished = simulate(&compile, adversity, seed, runtime.handle()).unwrap();
        let mut kept: Vec<(i64, i64, Option<i64>)> = Vec::new();
        for batch in &finished.kept {
            let column = |at: usize| batch.column(at).as_primitive::<Int64Type>().clone();
            let (k, n, value) = (column(0), column(1), column(2));
            kept.extend((0..batch.num_rows()).map(|row| {
                let value = value.iter().nth(row).flatten();
                (k.value(row), n.value(row), value)
            }));
        }
        kept.sort_unstable();
        expected.sort_unstable();
        assert_eq!(kept, expected, "seed {seed}");
    }
}

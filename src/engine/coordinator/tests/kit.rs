//! A small world outside: a source whose rows are a function of their number, a ledger to commit into, and
//! servers that can be crashed. Ledger, metadata and checkpoint storage outlive servers, as real ones do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::catalog::Catalog;
use crate::catalog::change::{Change, NewObject};
use crate::catalog::jobs::CheckpointRecord;
use crate::catalog::objects::{Object, ObjectHeader, ObjectKind, Pipeline};
use crate::catalog::secrets::SecretBox;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::clock::SystemClock;
use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{
    ConnectorTable, DeliveryGuarantee, Direction, Source, SourceContext, SourcePoll, SplitOffset,
};
use crate::engine::coordinator::replace::Replacement;
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::coordinator::{Coordinator, CoordinatorParts, PipelineCompiler, StartRequest, WaitFor};
use crate::engine::dead_letters::DeadLetters;
use crate::engine::error::Error;
use crate::engine::graph::{
    AggregateCall, AggregateFunction, AggregatePhase, AggregateSpec, Exchange, GraphEdge, GraphNode, JobGraph,
    OperatorSpec, SinkChangelog, SinkSpec, SourceSpec, StreamShape,
};
use crate::engine::results::Results;
use crate::engine::worker::Worker;
use crate::error::{ErrorReport, SqlState};
use crate::ids::{Epoch, Oid, OperatorId};
use crate::options::{RawOptionValue, RawOptions};
use crate::state::key_group::KEY_GROUPS_DEFAULT;
use crate::state::storage::{CheckpointStorage, Retries};
use crate::testing::faulty_objects::FaultyObjects;

pub use super::ledger::{Ledger, LedgerTable};
use super::shaky::ShakyStore;

type Result<T, E = Error> = std::result::Result<T, E>;

pub const KEYS: i64 = 37;

/// What the source does besides giving rows; shared by all its subtasks and runs.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// Rows of each split that may be given now.
    pub gate: AtomicU64,
    pub rows_a_poll: AtomicU64,
    pub polled_rows: AtomicU64,
    /// Rows after which to panic, and how often.
    pub panic_after: AtomicU64,
    pub panics: AtomicU32,
    /// Rows after which the data is bad.
    pub bad_after: AtomicU64,
}

/// Splits of numbered rows: `split * rows + n` in column `number`, `number % KEYS` in column `key`.
#[derive(Debug)]
pub struct NumberTable {
    pub splits: u64,
    pub rows: u64,
    pub behaviour: Arc<Behaviour>,
}

impl NumberTable {
    pub fn new(splits: u64, rows: u64) -> Arc<NumberTable> {
        let behaviour = Behaviour {
            gate: AtomicU64::new(u64::MAX),
            rows_a_poll: AtomicU64::new(97),
            panic_after: AtomicU64::new(u64::MAX),
            bad_after: AtomicU64::new(u64::MAX),
            ..Behaviour::default()
        };
        Arc::new(NumberTable {
            splits,
            rows,
            behaviour: Arc::new(behaviour),
        })
    }
}

pub fn number_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("number", DataType::Int64, true),
    ]))
}

#[async_trait::async_trait]
impl ConnectorTable for NumberTable {
    fn connector(&self) -> &'static str {
        "numbers"
    }
    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }
    fn schema(&self) -> Option<SchemaRef> {
        Some(number_schema())
    }
    fn direction(&self) -> Direction {
        Direction::Source
    }
    fn bounded(&self) -> bool {
        true
    }
    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }
    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let own =
            (0..self.splits).filter(|split| split % u64::from(context.parallelism) == u64::from(context.subtask.0));
        let position = |split: u64| {
            let name = format!("split-{split}");
            let saved = context.restored.iter().find(|offset| offset.split == name);
            (split, saved.map_or(0, |offset| offset.offset.parse().unwrap()))
        };
        Ok(Box::new(NumberSource {
            positions: own.map(position).collect(),
            told: Vec::new(),
            next: 0,
            rows: self.rows,
            behaviour: Arc::clone(&self.behaviour),
        }))
    }
}

struct NumberSource {
    /// Split and the next row of it.
    positions: Vec<(u64, u64)>,
    told: Vec<usize>,
    next: usize,
    rows: u64,
    behaviour: Arc<Behaviour>,
}

impl Source for NumberSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll> {
        let behaviour = &self.behaviour;
        for _ in 0..self.positions.len() {
            let index = self.next % self.positions.len();
            self.next += 1;
            let (split, position) = self.positions[index];
            if position >= self.rows {
                if !self.told.contains(&index) {
                    self.told.push(index);
                    return Ok(SourcePoll::SplitFinished { split: index });
                }
                continue;
            }
            let until = self.rows.min(behaviour.gate.load(Ordering::SeqCst));
            let count = until
                .saturating_sub(position)
                .min(behaviour.rows_a_poll.load(Ordering::SeqCst))
                .min(rows_max as u64);
            if count == 0 {
                continue;
            }
            if position >= behaviour.bad_after.load(Ordering::SeqCst) {
                return Err(Error::Data {
                    code: SqlState::DATA_EXCEPTION,
                    message: "row is bad".into(),
                    detail: None,
                });
            }
            if position >= behaviour.panic_after.load(Ordering::SeqCst)
                && behaviour
                    .panics
                    .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                    .is_ok()
            {
                panic!("the source has a bug");
            }
            self.positions[index].1 += count;
            behaviour.polled_rows.fetch_add(count, Ordering::SeqCst);
            let first = (split * self.rows + position) as i64;
            let numbers = first..first + count as i64;
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from_iter_values(
                    numbers.clone().map(|number| number % KEYS),
                )),
                Arc::new(Int64Array::from_iter_values(numbers)),
            ];
            let rows = RecordBatch::try_new(number_schema(), columns)?;
            return Ok(SourcePoll::Rows { split: index, rows });
        }
        if self.positions.iter().all(|(_, position)| *position >= self.rows) {
            return Ok(SourcePoll::Finished);
        }
        Ok(SourcePoll::Pending(Some(Instant::now() + Duration::from_millis(2))))
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offsets = self.positions.iter().map(|(split, position)| SplitOffset {
            split: format!("split-{split}"),
            offset: position.to_string(),
        });
        offsets.collect()
    }
}

/// When to crash, and what the source may give until then. The first crashes each open the gate a little further, so
/// that a fast machine is interrupted as well; patience grows with them, so that a slow one gets on.
pub struct Crashes {
    random: StdRng,
    pub count: u32,
}

impl Crashes {
    /// So many crashes happen for certain.
    pub const AT_LEAST: u32 = 12;

    pub fn seeded(seed: u64) -> Crashes {
        let random = StdRng::seed_from_u64(seed);
        Crashes { random, count: 0 }
    }

    pub fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    /// Opens the gate for the next run and gives the time after which to crash it.
    pub fn patience(&mut self, table: &NumberTable) -> Duration {
        let gate = match self.count {
            count if count < Self::AT_LEAST => table.rows * u64::from(count + 1) / u64::from(Self::AT_LEAST + 1),
            _ => u64::MAX,
        };
        table.behaviour.gate.store(gate, Ordering::SeqCst);
        Duration::from_millis(self.random.random_range(5..60 + 4 * u64::from(self.count)))
    }

    /// One more has happened.
    pub fn happened(&mut self) {
        self.count += 1;
        assert!(self.count < 400, "no progress");
    }
}

pub fn shape(columns: &[&str], append_only: bool) -> StreamShape {
    let fields: Vec<Field> = columns
        .iter()
        .map(|name| Field::new(*name, DataType::Int64, true))
        .collect();
    StreamShape {
        schema: Arc::new(Schema::new(fields)),
        append_only,
        unique_key: None,
        event_time: false,
    }
}

/// Collects nodes; each call gives the number of its node.
pub struct GraphBuilder {
    pub nodes: Vec<GraphNode>,
    pub parallelism: u32,
}

impl GraphBuilder {
    pub fn new(parallelism: u32) -> GraphBuilder {
        let nodes = Vec::new();
        GraphBuilder { nodes, parallelism }
    }

    pub fn add(
        &mut self,
        id: &str,
        operator: OperatorSpec,
        inputs: &[(usize, Exchange)],
        output: StreamShape,
    ) -> usize {
        let fed_by: Vec<&str> = inputs
            .iter()
            .map(|(from, _)| self.nodes[*from].lineage.as_str())
            .collect();
        let lineage = format!("{id}({})", fed_by.join(", "));
        self.nodes.push(GraphNode {
            id: OperatorId(id.into()),
            lineage,
            description: id.into(),
            operator,
            parallelism: self.parallelism,
            inputs: inputs
                .iter()
                .map(|(from, exchange)| GraphEdge {
                    from: *from,
                    exchange: exchange.clone(),
                })
                .collect(),
            output,
        });
        self.nodes.len() - 1
    }

    pub fn source(&mut self, id: &str, table: &Arc<NumberTable>) -> usize {
        let spec = SourceSpec {
            table_name: format!("public.{id}"),
            table: Arc::clone(table) as Arc<dyn ConnectorTable>,
            physical_schema: number_schema(),
            key: None,
            event_time: None,
            projection: None,
        };
        self.add(id, OperatorSpec::Source(spec), &[], shape(&["key", "number"], true))
    }

    /// `count(*)` by column 0, behind an exchange.
    pub fn count(&mut self, id: &str, input: usize) -> usize {
        let spec = AggregateSpec {
            keys: vec![0],
            placed_by: None,
            aggregates: vec![AggregateCall {
                function: AggregateFunction::CountRows,
                arguments: vec![],
                filter: None,
                distinct: false,
                return_type: DataType::Int64,
                label: "count(*)".into(),
            }],
            phase: AggregatePhase::Single,
            append_only_input: true,
            state_ttl_ms: None,
        };
        let exchange = Exchange::Hash { columns: vec![0] };
        let output = shape(&["key", "count"], false);
        self.add(id, OperatorSpec::UpdatingAggregate(spec), &[(input, exchange)], output)
    }

    pub fn sink(&mut self, id: &str, input: usize, ledger: &Arc<Ledger>) -> usize {
        let spec = SinkSpec {
            table_name: format!("public.{id}"),
            table: Arc::new(LedgerTable(Arc::clone(ledger))),
            changelog: SinkChangelog::Debezium { key: None },
        };
        let output = self.nodes[input].output.clone();
        self.add(id, OperatorSpec::Sink(spec), &[(input, Exchange::Forward)], output)
    }

    pub fn build(self) -> JobGraph {
        JobGraph {
            nodes: self.nodes,
            parallelism: self.parallelism,
        }
    }
}

/// `SELECT key, count(*) FROM numbers GROUP BY key` into the ledger.
pub fn count_graph(table: &Arc<NumberTable>, ledger: &Arc<Ledger>, parallelism: u32) -> JobGraph {
    let mut graph = GraphBuilder::new(parallelism);
    let source = graph.source("numbers", table);
    let count = graph.count("count", source);
    graph.sink("ledger", count, ledger);
    graph.build()
}

/// [`count_graph`] at any parallelism.
pub fn counting(table: &Arc<NumberTable>, ledger: &Arc<Ledger>) -> impl Fn(u32) -> JobGraph + Send + Sync + use<> {
    let (table, ledger) = (Arc::clone(table), Arc::clone(ledger));
    move |parallelism| count_graph(&table, &ledger, parallelism)
}

/// `SELECT key, number FROM numbers` into the ledger.
pub fn copy_graph(table: &Arc<NumberTable>, ledger: &Arc<Ledger>, parallelism: u32) -> JobGraph {
    let mut graph = GraphBuilder::new(parallelism);
    let source = graph.source("numbers", table);
    graph.sink("ledger", source, ledger);
    graph.build()
}

/// What [`count_graph`] must give at the end.
pub fn expected_counts(table: &NumberTable) -> BTreeMap<(i64, i64), i64> {
    let mut counts = BTreeMap::new();
    for number in 0..(table.splits * table.rows) as i64 {
        *counts.entry(number % KEYS).or_insert(0) += 1;
    }
    counts.into_iter().map(|entry| (entry, 1)).collect()
}

type MakeGraph = Arc<dyn Fn(u32) -> JobGraph + Send + Sync>;

struct Compiler {
    any: Mutex<MakeGraph>,
    /// By the text of the query.
    defined: Mutex<BTreeMap<String, MakeGraph>>,
}

impl PipelineCompiler for Compiler {
    fn compile(
        &self,
        pipeline: &Pipeline,
        parallelism: u32,
        _snapshot: &CatalogSnapshot,
    ) -> std::result::Result<JobGraph, ErrorReport> {
        match self.defined.lock().unwrap().get(&pipeline.query) {
            Some(graph) => Ok(graph(parallelism)),
            None => Ok(self.any.lock().unwrap()(parallelism)),
        }
    }
}

/// What outlives servers.
#[derive(Clone)]
pub struct World {
    pub store: Arc<ShakyStore>,
    pub storage: CheckpointStorage,
    secrets: String,
}

impl World {
    pub fn new() -> World {
        World {
            store: Arc::default(),
            storage: CheckpointStorage::open("memory:", &[]).unwrap(),
            secrets: "0".repeat(64),
        }
    }

    pub fn with_shaky_objects() -> (World, Arc<FaultyObjects>) {
        let objects = Arc::new(FaultyObjects::default());
        let retries = Retries {
            first_pause: Duration::from_micros(10),
            pause_max: Duration::from_micros(100),
            attempts_max: 5,
        };
        let world = World {
            storage: CheckpointStorage::over(Arc::clone(&objects) as Arc<dyn object_store::ObjectStore>, retries),
            ..World::new()
        };
        (world, objects)
    }

    pub fn checkpoints(&self, pipeline: Oid) -> Vec<CheckpointRecord> {
        use crate::catalog::store::CatalogStore;
        futures::executor::block_on(self.store.inner.latest_checkpoints(pipeline, 1000)).unwrap()
    }
}

/// A process: threads, tasks, nothing that lasts.
pub struct Server {
    runtime: Option<tokio::runtime::Runtime>,
    worker: Arc<Worker>,
    pub coordinator: Coordinator,
    pub catalog: Catalog,
    compiler: Arc<Compiler>,
}

pub const TEST_TIMEOUT: Duration = Duration::from_secs(60);

impl Server {
    pub fn start(world: &World, graph: impl Fn(u32) -> JobGraph + Send + Sync + 'static) -> Server {
        let settings = PipelineSettings {
            parallelism: 2,
            checkpoint_interval: Duration::from_millis(20),
            barrier_interval: Duration::from_millis(10),
            ..PipelineSettings::default()
        };
        Server::start_with(world, settings, graph)
    }

    pub fn start_with(
        world: &World,
        defaults: PipelineSettings,
        graph: impl Fn(u32) -> JobGraph + Send + Sync + 'static,
    ) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = Arc::clone(&world.store) as Arc<dyn crate::catalog::store::CatalogStore>;
        let secrets = SecretBox::from_text(&world.secrets).unwrap();
        let catalog = runtime
            .block_on(Catalog::open(store, secrets, Arc::new(SystemClock)))
            .unwrap();
        let worker = Arc::new(Worker::start(2, false).unwrap());
        let compiler = Arc::new(Compiler {
            any: Mutex::new(Arc::new(graph)),
            defined: Mutex::default(),
        });
        let coordinator = Coordinator::new(CoordinatorParts {
            memory_limit: None,
            catalog: catalog.clone(),
            storage: world.storage.clone(),
            compiler: Arc::clone(&compiler) as Arc<dyn PipelineCompiler>,
            results: Results::default(),
            worker: Arc::clone(&worker),
            dead_letters: DeadLetters::default(),
            clock: Arc::new(SystemClock),
            runtime: runtime.handle().clone(),
            defaults,
        });
        Server {
            runtime: Some(runtime),
            worker,
            coordinator,
            catalog,
            compiler,
        }
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let timed = async { tokio::time::timeout(TEST_TIMEOUT, future).await };
        self.runtime.as_ref().unwrap().block_on(timed).expect("the test hangs")
    }

    pub fn set_graph(&self, graph: impl Fn(u32) -> JobGraph + Send + Sync + 'static) {
        *self.compiler.any.lock().unwrap() = Arc::new(graph);
    }

    /// What pipelines with this query run.
    pub fn define(&self, query: &str, graph: impl Fn(u32) -> JobGraph + Send + Sync + 'static) {
        self.compiler
            .defined
            .lock()
            .unwrap()
            .insert(query.into(), Arc::new(graph));
    }

    /// The definition that CREATE OR REPLACE gives a pipeline.
    pub fn replacement(&self, pipeline: Oid, query: &str) -> Replacement {
        let snapshot = self.catalog.snapshot();
        let Some(Object::Pipeline(old)) = snapshot.get(pipeline) else {
            panic!("it is gone");
        };
        let new = Pipeline {
            query: query.into(),
            desired_running: true,
            ..old.clone()
        };
        Replacement {
            graph: self.compiler.compile(&new, 2, &snapshot).unwrap(),
            seen_at_micros: new.header.updated_at_micros,
            pipeline: new,
            depends_on: Vec::new(),
            also: Vec::new(),
            anyway: false,
        }
    }

    pub fn replace(&self, pipeline: Oid, query: &str) -> Result<()> {
        let replacement = self.replacement(pipeline, query);
        self.block_on(self.coordinator.replace(replacement)).map(|_| ())
    }

    /// Does it beside the test.
    pub fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.runtime.as_ref().unwrap().spawn(future));
    }

    pub fn create_pipeline(&self, name: &str, options: &[(&str, &str)]) -> Oid {
        let pipeline = Pipeline {
            header: ObjectHeader {
                oid: Oid(0),
                public_id: String::new(),
                schema: Some("public".into()),
                name: name.into(),
                owner: "laminar".into(),
                created_at_micros: 0,
                updated_at_micros: 0,
                comment: None,
            },
            query: "SELECT 1".into(),
            options: raw(options),
            columns: Vec::new(),
            unique_key: Vec::new(),
            append_only: false,
            bounded: false,
            materialized_view: false,
            desired_running: false,
            key_groups: KEY_GROUPS_DEFAULT,
            search_path: vec!["public".into()],
            counts_after: Default::default(),
        };
        let change = Change::Create {
            object: NewObject {
                object: Object::Pipeline(pipeline),
                depends_on: Vec::new(),
            },
            if_not_exists: false,
            or_replace: false,
        };
        self.block_on(self.catalog.apply(vec![change])).unwrap().created[0]
    }

    pub fn set_options(&self, name: &str, options: &[(&str, &str)]) {
        let change = Change::SetOptions {
            kind: ObjectKind::Pipeline,
            name: QualifiedName::new("public", name),
            set: raw(options),
            reset: Vec::new(),
        };
        self.block_on(self.catalog.apply(vec![change])).unwrap();
    }

    pub fn start_pipeline(&self, pipeline: Oid) {
        self.start_from(pipeline, None).unwrap();
    }

    pub fn start_from(&self, pipeline: Oid, restart_from: Option<Epoch>) -> Result<()> {
        let request = StartRequest { pipeline, restart_from };
        self.block_on(self.coordinator.start(request)).map(|_| ())
    }

    pub fn wait(&self, pipeline: Oid, goal: WaitFor) -> Result<()> {
        self.block_on(self.coordinator.wait(pipeline, goal))
    }

    pub fn wait_ended(&self, pipeline: Oid) {
        self.block_on(self.coordinator.wait_ended(pipeline));
    }

    /// As kill -9 does: nothing is flushed, nothing is said.
    pub fn crash(mut self) {
        let runtime = self.runtime.take().unwrap();
        self.worker.shutdown();
        runtime.shutdown_timeout(Duration::from_secs(5));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            self.worker.shutdown();
            runtime.shutdown_background();
        }
    }
}

fn raw(options: &[(&str, &str)]) -> RawOptions {
    let options = options.iter();
    RawOptions(
        options
            .map(|(name, value)| ((*name).to_owned(), RawOptionValue::Text((*value).to_owned())))
            .collect(),
    )
}

//! Stores that are down, full, or forget to answer; many crashes at changing parallelism; windows over crashes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::scalar::ScalarValue;
use rand::RngExt;

use super::kit::{Crashes, GraphBuilder, KEYS, Ledger, NumberTable, Server, World, counting, expected_counts, shape};
use crate::catalog::jobs::JobState;
use crate::engine::coordinator::{StopMode, WaitFor};
use crate::engine::graph::{
    EmitMode, EventTimeExpr, EventTimeSpec, Exchange, JobGraph, OperatorSpec, WindowAggregateSpec, WindowSpec,
};
use crate::ids::Oid;

/// Crashes a server after a random time, starts another at another parallelism, until the job has finished.
fn finish_with_crashes(
    seed: u64,
    world: &World,
    table: &NumberTable,
    graph: &(impl Fn(u32) -> JobGraph + Clone + Send + Sync + 'static),
) {
    let mut crashes = Crashes::seeded(seed);
    let mut pipeline: Option<Oid> = None;
    loop {
        let server = Server::start(world, graph.clone());
        let parallelism = crashes.random().random_range(1..=4).to_string();
        let oid = *pipeline.get_or_insert_with(|| {
            let oid = server.create_pipeline("p", &[]);
            server.start_pipeline(oid);
            server
                .block_on(
                    server
                        .coordinator
                        .stop(oid, StopMode::Immediate, Duration::from_secs(30)),
                )
                .unwrap();
            oid
        });
        server.set_options("p", &[("parallelism", &parallelism)]);
        let patience = crashes.patience(table);
        server.start_pipeline(oid);
        let finished = server
            .block_on(async { tokio::time::timeout(patience, server.coordinator.wait(oid, WaitFor::Finished)).await });
        match finished {
            Ok(result) => {
                result.unwrap();
                break;
            }
            Err(_) => {
                crashes.happened();
                server.crash();
            }
        }
    }
    assert!(crashes.count >= Crashes::AT_LEAST, "seed {seed}");
}

#[test]
fn f_01_crashes_at_changing_parallelism_lose_and_double_nothing() {
    for seed in 0..4 {
        let (world, table, ledger) = (World::new(), NumberTable::new(5, 20_000), Arc::new(Ledger::default()));
        finish_with_crashes(seed, &world, &table, &Arc::new(counting(&table, &ledger)).shared());
        assert_eq!(ledger.result(), expected_counts(&table), "seed {seed}");
    }
}

/// Closures are not `Clone` when what they hold is shared by reference; this shares them.
trait Shared {
    fn shared(self) -> impl Fn(u32) -> JobGraph + Clone + Send + Sync + 'static;
}

impl<F: Fn(u32) -> JobGraph + Send + Sync + 'static> Shared for Arc<F> {
    fn shared(self) -> impl Fn(u32) -> JobGraph + Clone + Send + Sync + 'static {
        move |parallelism| self(parallelism)
    }
}

const WINDOW: i64 = 1_000;
const KEY_FACTOR: i64 = 1_000_000_000;

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

/// `SELECT key * 1e9 + window_start, count(*) .. GROUP BY key, tumble(number, 1000)`, the number being the time.
fn window_graph(table: &Arc<NumberTable>, ledger: &Arc<Ledger>, parallelism: u32) -> JobGraph {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let mut graph = GraphBuilder::new(parallelism);
    let source = graph.source("numbers", table);
    let time = EventTimeExpr::Expression(Arc::new(CastExpr::new(column("number", 1), timestamp.clone(), None)));
    if let OperatorSpec::Source(spec) = &mut graph.nodes[source].operator {
        spec.event_time = Some(EventTimeSpec {
            time: time.clone(),
            watermark: time,
            idle_timeout_ms: 60_000,
            max_future_skew_ms: None,
        });
    }
    graph.nodes[source].output.event_time = true;
    let count = graph.count("window", source);
    let OperatorSpec::UpdatingAggregate(aggregate) = graph.nodes[count].operator.clone() else {
        panic!("count is an aggregate");
    };
    graph.nodes[count].operator = OperatorSpec::WindowAggregate(WindowAggregateSpec {
        aggregate,
        window: WindowSpec::Tumble { size_micros: WINDOW },
        emit: EmitMode::OnWindowClose,
        late_rows: None,
        allowed_lateness_micros: 0,
    });
    graph.nodes[count].output = shape(&["key", "start", "end", "count"], true);
    let mut fields: Vec<_> = graph.nodes[count]
        .output
        .schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    fields[1] = fields[1].clone().with_data_type(timestamp.clone());
    fields[2] = fields[2].clone().with_data_type(timestamp);
    graph.nodes[count].output.schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let factor = Arc::new(Literal::new(ScalarValue::Int64(Some(KEY_FACTOR))));
    let start = Arc::new(CastExpr::new(column("start", 1), DataType::Int64, None));
    let scaled = Arc::new(BinaryExpr::new(column("key", 0), Operator::Multiply, factor));
    let expressions: Vec<Arc<dyn PhysicalExpr>> = vec![
        Arc::new(BinaryExpr::new(scaled, Operator::Plus, start)),
        column("count", 3),
    ];
    let output = shape(&["key_and_start", "count"], true);
    let project = graph.add(
        "project",
        OperatorSpec::Project { expressions },
        &[(count, Exchange::Forward)],
        output,
    );
    graph.sink("ledger", project, ledger);
    graph.build()
}

#[test]
fn windows_over_crashes_equal_the_batch_result() {
    for seed in 10..13 {
        let (world, table, ledger) = (World::new(), NumberTable::new(4, 15_000), Arc::new(Ledger::default()));
        let graph = {
            let (table, ledger) = (Arc::clone(&table), Arc::clone(&ledger));
            Arc::new(move |parallelism| window_graph(&table, &ledger, parallelism))
        };
        finish_with_crashes(seed, &world, &table, &graph.shared());
        let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
        for number in 0..(table.splits * table.rows) as i64 {
            *counts
                .entry(number % KEYS * KEY_FACTOR + number / WINDOW * WINDOW)
                .or_insert(0) += 1;
        }
        let expected: BTreeMap<(i64, i64), i64> = counts.into_iter().map(|entry| (entry, 1)).collect();
        assert_eq!(ledger.result(), expected, "seed {seed}");
    }
}

#[test]
fn f_24_a_full_store_degrades_the_job_and_its_next_checkpoint_holds_everything() {
    let (world, objects) = World::with_shaky_objects();
    let (table, ledger) = (NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[("checkpoint_interval", "10 ms")]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    server.block_on(server.coordinator.checkpoint(pipeline, None)).unwrap();
    objects.full.store(true, Ordering::SeqCst);
    // These rows change state whose change marks go with the epochs that fail.
    table.behaviour.gate.store(2_000, Ordering::SeqCst);
    while server.coordinator.job(pipeline).unwrap().state != JobState::Degraded {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(server.block_on(server.coordinator.checkpoint(pipeline, None)).is_err());
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    objects.full.store(false, Ordering::SeqCst);
    let epoch = server.block_on(async {
        loop {
            if let Ok(epoch) = server.coordinator.checkpoint(pipeline, None).await {
                return epoch;
            }
        }
    });
    server.wait(pipeline, WaitFor::Epoch(epoch)).unwrap();
    while server.coordinator.job(pipeline).unwrap().state != JobState::Running {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(objects.refused.load(Ordering::SeqCst) >= 3);
    server.crash();
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    server.block_on(server.coordinator.resume_all());
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn f_08_lost_answers_of_the_metadata_store_lose_and_double_nothing() {
    let world = World::new();
    let (table, ledger) = (NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    world.store.lose_decisions.store(3, Ordering::SeqCst);
    server.block_on(server.coordinator.checkpoint(pipeline, None)).unwrap();
    assert!(world.store.unanswered.load(Ordering::SeqCst) >= 1);
    // Down for a while: the data goes on, checkpoints wait.
    world.store.down.store(true, Ordering::SeqCst);
    let before = world.store.unanswered.load(Ordering::SeqCst);
    table.behaviour.gate.store(3_000, Ordering::SeqCst);
    while table.behaviour.polled_rows.load(Ordering::SeqCst) < 6_000
        || world.store.unanswered.load(Ordering::SeqCst) < before + 3
    {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(server.coordinator.job(pipeline).unwrap().state, JobState::Running);
    world.store.down.store(false, Ordering::SeqCst);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(ledger.result(), expected_counts(&table));
    assert_eq!(ledger.replays.load(Ordering::SeqCst), 0);
}

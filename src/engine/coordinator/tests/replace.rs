//! CREATE OR REPLACE: the end is that of the new definition over all rows, whatever crashes on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;

use super::kit::{Crashes, GraphBuilder, KEYS, Ledger, NumberTable, Server, World, expected_counts};
use crate::catalog::change::{Change, PipelineReplacement};
use crate::catalog::jobs::{CheckpointRecord, JobState};
use crate::catalog::objects::Object;
use crate::engine::coordinator::{StopMode, WaitFor};
use crate::engine::graph::JobGraph;
use crate::error::{ErrorReport, SqlState};
use crate::ids::{Generation, Oid};

const LONG: Duration = Duration::from_secs(30);

/// Three pipelines over one table, each into ledgers of its own.
struct Definitions {
    table: Arc<NumberTable>,
    /// Counts by key.
    counts: Arc<Ledger>,
    /// The same counts, of whoever is replaced by that.
    again: Arc<Ledger>,
    copies: Arc<Ledger>,
}

impl Definitions {
    fn new(rows: u64) -> Definitions {
        Definitions {
            table: NumberTable::new(2, rows),
            counts: Arc::default(),
            again: Arc::default(),
            copies: Arc::default(),
        }
    }

    fn graph(&self, query: &'static str) -> impl Fn(u32) -> JobGraph + Send + Sync + use<> {
        let table = Arc::clone(&self.table);
        let ledgers = [&self.counts, &self.again, &self.copies].map(Arc::clone);
        move |parallelism| {
            let mut graph = GraphBuilder::new(parallelism);
            let source = graph.source("numbers", &table);
            if query.contains("counts") || query.contains("again") {
                let count = graph.count("count", source);
                if query.contains("counts") {
                    graph.sink("counts", count, &ledgers[0]);
                }
                if query.contains("again") {
                    graph.sink("again", count, &ledgers[1]);
                }
            }
            if query.contains("copies") {
                graph.sink("copies", source, &ledgers[2]);
            }
            graph.build()
        }
    }

    fn server(&self, world: &World) -> Server {
        let server = Server::start(world, self.graph("counts"));
        for query in ["again", "copies", "counts and copies"] {
            server.define(query, self.graph(query));
        }
        server
    }

    fn gate(&self, rows: u64) {
        self.table.behaviour.gate.store(rows, Ordering::SeqCst);
    }

    fn rows_read(&self) -> u64 {
        self.table.behaviour.polled_rows.swap(0, Ordering::SeqCst)
    }

    fn all_rows(&self) -> BTreeMap<(i64, i64), i64> {
        let numbers = 0..(self.table.splits * self.table.rows) as i64;
        numbers.map(|number| ((number % KEYS, number), 1)).collect()
    }
}

/// Runs until half of the rows are through.
fn half_way(definitions: &Definitions, server: &Server) -> Oid {
    definitions.gate(definitions.table.rows / 2);
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    pipeline
}

fn query_of(server: &Server, pipeline: Oid) -> String {
    match server.catalog.snapshot().get(pipeline) {
        Some(Object::Pipeline(found)) => found.query.clone(),
        _ => String::new(),
    }
}

#[test]
fn an_aggregate_that_is_kept_feeds_another_sink_and_no_row_is_read_again() {
    let (world, definitions) = (World::new(), Definitions::new(2_000));
    let server = definitions.server(&world);
    let pipeline = half_way(&definitions, &server);
    assert_eq!(definitions.rows_read(), 2_000);
    server.replace(pipeline, "again").unwrap();
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    assert_eq!(definitions.rows_read(), 0);
    let counts = definitions.counts.result();
    assert_eq!(
        counts.keys().map(|(_, count)| count).sum::<i64>(),
        2_000,
        "the old sink has what it had"
    );
    definitions.gate(u64::MAX);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(definitions.rows_read(), 2_000);
    assert_eq!(definitions.again.result(), expected_counts(&definitions.table));
    assert_eq!(definitions.counts.result(), counts, "it is written no more");
}

#[test]
fn what_cannot_be_kept_is_computed_from_all_rows() {
    let (world, definitions) = (World::new(), Definitions::new(2_000));
    let server = definitions.server(&world);
    let pipeline = half_way(&definitions, &server);
    definitions.rows_read();
    server.replace(pipeline, "copies").unwrap();
    definitions.gate(u64::MAX);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(definitions.rows_read(), 4_000);
    assert_eq!(definitions.copies.result(), definitions.all_rows());
    let records = world.checkpoints(pipeline);
    let manifest = futures::executor::block_on(crate::state::snapshot::load_manifest(
        &world.storage,
        &records[0].manifest_path,
    ));
    let operators: Vec<String> = manifest.unwrap().operators().into_iter().map(|id| id.0).collect();
    assert_eq!(
        operators,
        ["copies", "numbers"],
        "what is dropped is in no later checkpoint"
    );
}

#[test]
fn a_sink_that_would_get_rows_twice_refuses_and_the_old_definition_runs_on() {
    let (world, definitions) = (World::new(), Definitions::new(2_000));
    let server = definitions.server(&world);
    let pipeline = half_way(&definitions, &server);
    // The source is shared: it would be read again for both.
    let error: ErrorReport = server.replace(pipeline, "counts and copies").unwrap_err().into();
    assert_eq!(error.code, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.detail.unwrap().contains("public.counts"));
    definitions.gate(u64::MAX);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(definitions.counts.result(), expected_counts(&definitions.table));
    assert!(definitions.copies.result().is_empty());
    // With consent the rows come again; that is what was said.
    let mut replacement = server.replacement(pipeline, "counts and copies");
    replacement.anyway = true;
    server.block_on(server.coordinator.replace(replacement)).unwrap();
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(definitions.copies.result(), definitions.all_rows());
    assert!(definitions.counts.result().values().all(|weight| *weight == 2));
}

#[test]
fn a_finished_pipeline_of_the_same_definition_finishes_again_without_a_row() {
    let (world, definitions) = (World::new(), Definitions::new(1_000));
    let server = definitions.server(&world);
    let pipeline = half_way(&definitions, &server);
    definitions.gate(u64::MAX);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    definitions.rows_read();
    server.replace(pipeline, "SELECT 1").unwrap();
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(definitions.rows_read(), 0);
    assert_eq!(definitions.counts.result(), expected_counts(&definitions.table));
    // The end of an earlier definition is not the end of one that reads again.
    server.replace(pipeline, "copies").unwrap();
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(definitions.copies.result(), definitions.all_rows());
}

#[test]
fn output_that_was_decided_is_committed_before_the_definition_changes() {
    let (world, definitions) = (World::new(), Definitions::new(2_000));
    let server = definitions.server(&world);
    definitions.counts.refuse.store(u32::MAX, Ordering::SeqCst);
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    while world.checkpoints(pipeline).is_empty() {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(server.replace(pipeline, "again").is_err(), "the sink does not answer");
    assert_eq!(query_of(&server, pipeline), "SELECT 1");
    definitions.counts.refuse.store(0, Ordering::SeqCst);
    server.replace(pipeline, "again").unwrap();
    assert!(!definitions.counts.commits.lock().unwrap().is_empty());
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert!(world.checkpoints(pipeline).iter().all(|record| record.committed));
    assert_eq!(definitions.again.result(), expected_counts(&definitions.table));
}

#[test]
fn nothing_starts_a_pipeline_that_is_being_replaced_or_replaces_what_it_has_not_seen() {
    let (world, definitions) = (World::new(), Definitions::new(1_000));
    let server = definitions.server(&world);
    let pipeline = half_way(&definitions, &server);
    let stale = server.replacement(pipeline, "copies");
    server.set_options("p", &[("parallelism", "1")]);
    let error: ErrorReport = server.block_on(server.coordinator.replace(stale)).unwrap_err().into();
    assert_eq!(error.code, SqlState::SERIALIZATION_FAILURE);
    server.wait(pipeline, WaitFor::Running).unwrap();
    assert_eq!(query_of(&server, pipeline), "SELECT 1");
}

/// A crash after the old run has stopped: the old definition runs on. A crash right after the exchange: the new one starts.
#[test]
fn f_09_between_the_steps_there_is_one_definition_or_the_other() {
    let (world, definitions) = (World::new(), Definitions::new(2_000));
    let server = definitions.server(&world);
    let pipeline = half_way(&definitions, &server);
    let replacement = server.replacement(pipeline, "again");
    server.block_on(server.coordinator.shutdown());
    server.crash();
    let server = definitions.server(&world);
    server.block_on(server.coordinator.resume_all());
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    assert_eq!(server.coordinator.job(pipeline).unwrap().state, JobState::Running);
    server
        .block_on(server.coordinator.stop(pipeline, StopMode::Graceful, LONG))
        .unwrap();
    let generation = world.checkpoints(pipeline)[0].generation;
    let mut new = replacement.pipeline;
    new.counts_after = Generation(generation.0);
    let change = Change::ReplacePipeline(Box::new(PipelineReplacement {
        pipeline: new,
        depends_on: Vec::new(),
        seen_at_micros: replacement.seen_at_micros,
        keeps_result: false,
    }));
    server.block_on(server.catalog.apply(vec![change])).unwrap();
    server.crash();
    definitions.rows_read();
    definitions.gate(u64::MAX);
    let server = definitions.server(&world);
    server.block_on(server.coordinator.resume_all());
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(definitions.rows_read(), 2_000, "only what is left");
    assert_eq!(definitions.again.result(), expected_counts(&definitions.table));
}

fn replaced_with_crashes(query: &'static str, seed: u64) -> Definitions {
    let (world, definitions) = (World::new(), Definitions::new(3_000));
    let mut crashes = Crashes::seeded(seed);
    let mut server = definitions.server(&world);
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    let replaced_from = crashes.random().random_range(0..6);
    loop {
        let patience = crashes.patience(&definitions.table);
        if crashes.count >= replaced_from && query_of(&server, pipeline) != query {
            let replacement = server.replacement(pipeline, query);
            let coordinator = server.coordinator.clone();
            server.spawn(async move {
                // One that had finished before is as good; a refusal would show at the end.
                let _ = coordinator.replace(replacement).await;
            });
        }
        let finished = server.block_on(async {
            let finished = server.coordinator.wait(pipeline, WaitFor::Finished);
            tokio::time::timeout(patience, finished)
                .await
                .is_ok_and(|end| end.is_ok())
        });
        let is_of_this =
            |record: &CheckpointRecord| record.final_ && record.generation > counts_after(&server, pipeline);
        if finished
            && query_of(&server, pipeline) == query
            && world.checkpoints(pipeline).first().is_some_and(is_of_this)
        {
            return definitions;
        }
        crashes.happened();
        server.crash();
        server = definitions.server(&world);
        server.block_on(server.coordinator.resume_all());
    }
}

/// The newest run of the definition before.
fn counts_after(server: &Server, pipeline: Oid) -> Generation {
    match server.catalog.snapshot().get(pipeline) {
        Some(Object::Pipeline(found)) => found.counts_after,
        _ => Generation::default(),
    }
}

#[test]
fn crashes_at_any_moment_change_nothing_when_state_is_kept() {
    for seed in 0..6 {
        let definitions = replaced_with_crashes("again", seed);
        assert_eq!(
            definitions.again.result(),
            expected_counts(&definitions.table),
            "seed {seed}"
        );
    }
}

#[test]
fn crashes_at_any_moment_change_nothing_when_all_is_read_again() {
    for seed in 0..6 {
        let definitions = replaced_with_crashes("copies", seed);
        assert_eq!(definitions.copies.result(), definitions.all_rows(), "seed {seed}");
    }
}

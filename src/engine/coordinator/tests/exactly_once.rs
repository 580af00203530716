//! Every row counts exactly once in what was committed, whatever crashes, moves or is damaged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::kit::{Crashes, GraphBuilder, Ledger, NumberTable, Server, World, copy_graph, counting, expected_counts};
use crate::catalog::jobs::{CheckpointRecord, JobState};
use crate::catalog::store::CatalogStore;
use crate::engine::coordinator::{StopMode, WaitFor};
use crate::engine::events::EventKind;
use crate::engine::graph::{Exchange, OperatorSpec};
use crate::error::SqlState;
use crate::ids::{Epoch, Generation, Oid};

#[test]
fn the_end_of_the_input_is_checkpointed_and_committed() {
    let (world, table, ledger) = (World::new(), NumberTable::new(4, 5_000), Arc::new(Ledger::default()));
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[("parallelism", "2")]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(ledger.result(), expected_counts(&table));
    let newest = &world.checkpoints(pipeline)[0];
    assert!(newest.final_ && newest.committed);
    let status = server.coordinator.job(pipeline).unwrap();
    assert_eq!(status.state, JobState::Finished);
    assert!(!status.record.desired_running);
    let rows_in: u64 = status
        .operators
        .iter()
        .find(|op| op.name == "source")
        .unwrap()
        .total()
        .rows_out;
    assert_eq!(rows_in, 20_000);
    // Starting it again finds nothing to do, and nothing is written twice.
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(ledger.result(), expected_counts(&table));
    assert_eq!(world.checkpoints(pipeline)[0].epoch, newest.epoch);
}

#[test]
fn f_01_crashes_at_random_times_lose_and_double_nothing() {
    let mut crashes = Crashes::seeded(7);
    let (world, table, ledger) = (World::new(), NumberTable::new(5, 40_000), Arc::new(Ledger::default()));
    let mut pipeline = None;
    loop {
        let server = Server::start(&world, counting(&table, &ledger));
        let oid = *pipeline.get_or_insert_with(|| server.create_pipeline("p", &[("parallelism", "3")]));
        let patience = crashes.patience(&table);
        if crashes.count == 0 {
            server.start_pipeline(oid);
        } else {
            server.block_on(server.coordinator.resume_all());
        }
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
    assert!(crashes.count >= Crashes::AT_LEAST);
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn rescaling_moves_state_and_loses_nothing() {
    let (world, table, ledger) = (World::new(), NumberTable::new(3, 6_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(2_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[("parallelism", "1")]);
    server.start_pipeline(pipeline);
    for (gate, parallelism) in [(4_000, "3"), (u64::MAX, "2")] {
        server.wait(pipeline, WaitFor::CaughtUp).unwrap();
        server.set_options("p", &[("parallelism", parallelism)]);
        server.block_on(server.coordinator.rescale(pipeline)).unwrap();
        let status = server.coordinator.job(pipeline).unwrap();
        assert_eq!(status.record.parallelism.to_string(), parallelism);
        assert!(status.record.restored_epoch.is_some());
        table.behaviour.gate.store(gate, Ordering::SeqCst);
    }
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn diamonds_deliver_every_row_on_every_path() {
    let (world, table, ledger) = (World::new(), NumberTable::new(4, 20_000), Arc::new(Ledger::default()));
    let (copied, direct) = (Arc::clone(&table), Arc::new(Ledger::default()));
    let graph = {
        let (ledger, direct) = (Arc::clone(&ledger), Arc::clone(&direct));
        move |parallelism| {
            let mut graph = GraphBuilder::new(parallelism);
            let source = graph.source("numbers", &copied);
            let shape = graph.nodes[source].output.clone();
            // One path straight, one over an exchange, into one union; and a sink at the source itself.
            let hash = Exchange::Hash { columns: vec![1] };
            let keyed = graph.add("keyed", OperatorSpec::Union, &[(source, hash)], shape.clone());
            let inputs = [(source, Exchange::Forward), (keyed, Exchange::Forward)];
            let union = graph.add("union", OperatorSpec::Union, &inputs, shape);
            let count = graph.count("count", union);
            graph.sink("counted", count, &ledger);
            graph.sink("direct", source, &direct);
            graph.build()
        }
    };
    let server = Server::start(&world, graph);
    let pipeline = server.create_pipeline("p", &[("parallelism", "3")]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    let doubled: BTreeMap<(i64, i64), i64> = expected_counts(&table)
        .into_keys()
        .map(|(key, count)| ((key, count * 2), 1))
        .collect();
    assert_eq!(ledger.result(), doubled);
    assert_eq!(direct.result().len(), 80_000);
}

#[test]
fn f_05_f_10_output_decided_before_a_crash_is_committed_after_it() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    ledger.refuse.store(u32::MAX, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    // The corner: an epoch is decided, and the sink could not commit.
    let mut undone = Vec::new();
    while undone.is_empty() {
        std::thread::sleep(Duration::from_millis(5));
        undone = world
            .checkpoints(pipeline)
            .into_iter()
            .filter(|record| !record.committed)
            .collect();
    }
    assert!(ledger.commits.lock().unwrap().is_empty());
    server.crash();
    ledger.refuse.store(0, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    server.block_on(server.coordinator.resume_all());
    server.wait(pipeline, WaitFor::Finished).unwrap();
    let committed = ledger.commits.lock().unwrap().contains_key(&undone[0].epoch.0);
    assert!(committed, "epoch {} was not replayed", undone[0].epoch);
    assert!(world.checkpoints(pipeline).iter().all(|record| record.committed));
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn f_11_a_commit_whose_answer_was_lost_is_repeated_without_effect() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    ledger.lose_answers.store(true, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    server.wait_ended(pipeline);
    assert_eq!(server.coordinator.job(pipeline).unwrap().state, JobState::Failed);
    assert_eq!(ledger.commits.lock().unwrap().len(), 1);
    server.crash();
    ledger.lose_answers.store(false, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    server.block_on(server.coordinator.resume_all());
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert!(ledger.replays.load(Ordering::SeqCst) > 0, "the corner was not visited");
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn f_03_a_zombie_that_fails_does_not_come_back() {
    // The error may pass by itself, or not.
    for passes in [true, false] {
        let (world, ledger) = (World::new(), Arc::new(Ledger::default()));
        let (table, seen_by_zombie) = (NumberTable::new(2, 3_000), NumberTable::new(2, 3_000));
        for of in [&table, &seen_by_zombie] {
            of.behaviour.gate.store(1_000, Ordering::SeqCst);
        }
        let zombie = Server::start(&world, counting(&seen_by_zombie, &ledger));
        // It does not notice before it is too late.
        let pipeline = zombie.create_pipeline("p", &[("checkpoint_interval", "1 h")]);
        zombie.start_pipeline(pipeline);
        zombie.wait(pipeline, WaitFor::CaughtUp).unwrap();
        let server = Server::start(&world, counting(&table, &ledger));
        server.start_pipeline(pipeline);
        server.wait(pipeline, WaitFor::Running).unwrap();
        let behaviour = &seen_by_zombie.behaviour;
        match passes {
            true => behaviour.panics.store(1, Ordering::SeqCst),
            false => behaviour.bad_after.store(1_500, Ordering::SeqCst),
        }
        behaviour.panic_after.store(1_500, Ordering::SeqCst);
        behaviour.gate.store(2_000, Ordering::SeqCst);
        zombie.wait_ended(pipeline);
        let of_zombie = zombie.coordinator.job(pipeline).unwrap();
        assert_eq!(of_zombie.state, JobState::Stopped, "{:?}", of_zombie.error);
        assert_eq!(
            zombie.coordinator.events().list().last().unwrap().kind,
            EventKind::Replaced
        );
        table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
        server.wait(pipeline, WaitFor::Finished).unwrap();
        assert_eq!(ledger.result(), expected_counts(&table));
        let generation = |record: &CheckpointRecord| record.generation;
        assert!(
            world
                .checkpoints(pipeline)
                .iter()
                .map(generation)
                .all(|of| of == Generation(2))
        );
    }
}

#[test]
fn f_08_a_start_whose_answer_was_lost_is_no_second_run() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 1_000), Arc::new(Ledger::default()));
    world.store.lose_beginnings.store(2, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(world.store.unanswered.load(Ordering::SeqCst), 2);
    let store = &world.store.inner;
    assert_eq!(
        server.block_on(store.generation(pipeline)).unwrap(),
        Some(Generation(1))
    );
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn f_03_a_zombie_commits_nothing() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 3_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let zombie = Server::start(&world, counting(&table, &ledger));
    let pipeline = zombie.create_pipeline("p", &[]);
    zombie.start_pipeline(pipeline);
    zombie.wait(pipeline, WaitFor::CaughtUp).unwrap();
    // Another server takes the pipeline over while the first is still at work.
    let server = Server::start(&world, counting(&table, &ledger));
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Running).unwrap();
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    zombie.wait_ended(pipeline);
    assert_eq!(zombie.coordinator.job(pipeline).unwrap().state, JobState::Stopped);
    assert_eq!(ledger.result(), expected_counts(&table));
    let generations: Vec<u64> = world
        .checkpoints(pipeline)
        .iter()
        .map(|record| record.generation.0)
        .collect();
    assert!(
        generations.is_sorted_by(|newer, older| newer >= older),
        "{generations:?}"
    );
}

fn damage(world: &World, path: &str) {
    let whole = futures::executor::block_on(world.storage.read(path)).unwrap();
    let bytes = whole.slice(..whole.len() - 10);
    futures::executor::block_on(world.storage.delete(path)).unwrap();
    futures::executor::block_on(world.storage.create(path, bytes)).unwrap();
}

fn stopped_with_checkpoints(world: &World, table: &Arc<NumberTable>, ledger: &Arc<Ledger>) -> (Server, Oid) {
    table.behaviour.gate.store(500, Ordering::SeqCst);
    let server = Server::start(world, counting(table, ledger));
    let pipeline = server.create_pipeline("p", &[("checkpoint_interval", "1 h")]);
    server.start_pipeline(pipeline);
    for gate in [1_000, 1_500, 1_900] {
        server.wait(pipeline, WaitFor::CaughtUp).unwrap();
        server.block_on(server.coordinator.checkpoint(pipeline, None)).unwrap();
        table.behaviour.gate.store(gate, Ordering::SeqCst);
    }
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    server
        .block_on(
            server
                .coordinator
                .stop(pipeline, StopMode::Graceful, Duration::from_secs(30)),
        )
        .unwrap();
    (server, pipeline)
}

#[test]
fn f_20_the_previous_checkpoint_is_used_when_the_newest_is_damaged() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 2_000), Arc::new(Ledger::default()));
    let (server, pipeline) = stopped_with_checkpoints(&world, &table, &ledger);
    let records = world.checkpoints(pipeline);
    damage(&world, &records[0].manifest_path);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    let restored = server.coordinator.job(pipeline).unwrap().record.restored_epoch;
    assert_eq!(restored, Some(records[1].epoch));
    for record in world.checkpoints(pipeline) {
        damage(&world, &record.manifest_path);
    }
    server.start_pipeline(pipeline);
    let error: crate::error::ErrorReport = server.wait(pipeline, WaitFor::Running).unwrap_err().into();
    assert_eq!(error.code, SqlState::DATA_CORRUPTED);
    assert!(error.detail.unwrap().contains(".manifest"), "the files are named");
}

#[test]
fn a_restart_from_an_older_checkpoint_survives_a_crash_right_after() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 2_000), Arc::new(Ledger::default()));
    let (server, pipeline) = stopped_with_checkpoints(&world, &table, &ledger);
    let records = world.checkpoints(pipeline);
    let oldest = records.last().unwrap().epoch;
    table.behaviour.gate.store(0, Ordering::SeqCst);
    server.start_from(pipeline, Some(oldest)).unwrap();
    server.wait(pipeline, WaitFor::Running).unwrap();
    assert_eq!(
        server.coordinator.job(pipeline).unwrap().record.restored_epoch,
        Some(oldest)
    );
    let first = world.checkpoints(pipeline)[0].clone();
    assert!(first.epoch > records[0].epoch, "its state is the newest checkpoint now");
    server.crash();
    // Rows 500.. of each split come again: from checkpoint 1 they were not yet read.
    table.behaviour.polled_rows.store(0, Ordering::SeqCst);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    server.block_on(server.coordinator.resume_all());
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(table.behaviour.polled_rows.load(Ordering::SeqCst), 2 * 1_500);
    let error = server.start_from(pipeline, Some(Epoch(1 << 40)));
    server.wait_ended(pipeline);
    assert!(error.is_ok());
    let failed = server.coordinator.job(pipeline).unwrap();
    assert_eq!(failed.error.unwrap().code, SqlState::UNDEFINED_OBJECT);
}

#[test]
fn a_changed_pipeline_is_refused_instead_of_losing_its_state() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 2_000), Arc::new(Ledger::default()));
    let (server, pipeline) = stopped_with_checkpoints(&world, &table, &ledger);
    let (other_table, other_ledger) = (Arc::clone(&table), Arc::clone(&ledger));
    server.set_graph(move |parallelism| copy_graph(&other_table, &other_ledger, parallelism));
    server.start_pipeline(pipeline);
    server.wait_ended(pipeline);
    let status = server.coordinator.job(pipeline).unwrap();
    assert_eq!(status.state, JobState::Failed);
    let error = status.error.unwrap();
    assert_eq!(error.code, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
    assert!(error.hint.is_some());
    // From nothing it may.
    server.start_from(pipeline, Some(Epoch(0))).unwrap();
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
}

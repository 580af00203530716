//! Rows of the fault matrix (see `docs/faults.md`) for which one process with a world outside is enough.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::kit::{Ledger, NumberTable, Server, World, copy_graph, counting, expected_counts};
use crate::catalog::jobs::JobState;
use crate::engine::coordinator::WaitFor;
use crate::engine::events::EventKind;
use crate::error::SqlState;
use crate::ids::Epoch;

#[test]
fn f_12_a_prepare_that_fails_fails_the_epoch_and_moves_no_offset() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let graph = {
        let (table, ledger) = (Arc::clone(&table), Arc::clone(&ledger));
        move |parallelism| copy_graph(&table, &ledger, parallelism)
    };
    let server = Server::start(&world, graph);
    // Checkpoints come when they are asked for.
    let pipeline = server.create_pipeline("p", &[("checkpoint_interval", "1 h")]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    server.block_on(server.coordinator.checkpoint(pipeline, None)).unwrap();
    let before = world.checkpoints(pipeline);
    for (failing, read_again) in [(1, 2_000), (2, 4_000)] {
        table.behaviour.gate.fetch_add(1_000, Ordering::SeqCst);
        server.wait(pipeline, WaitFor::CaughtUp).unwrap();
        ledger.failing_prepares.store(failing, Ordering::SeqCst);
        table.behaviour.polled_rows.store(0, Ordering::SeqCst);
        let error = server
            .block_on(server.coordinator.checkpoint(pipeline, None))
            .unwrap_err();
        assert_eq!(error.to_string(), "the ledger cannot be reached");
        ledger.failing_prepares.store(0, Ordering::SeqCst);
        assert_eq!(world.checkpoints(pipeline).len(), before.len(), "nothing was decided");
        // Started again by itself, from the offsets of the checkpoint before.
        server.wait(pipeline, WaitFor::CaughtUp).unwrap();
        assert_eq!(table.behaviour.polled_rows.load(Ordering::SeqCst), read_again);
    }
    let failed = server.coordinator.events().list();
    let failed = failed.iter().filter(|event| event.kind == EventKind::Failed).count();
    assert_eq!(failed, 2, "each was noticed");
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    let result = ledger.result();
    assert_eq!(result.len(), 8_000, "no row is lost");
    assert!(result.values().all(|weight| *weight == 1), "none is there twice");
}

/// Goes through two crashes.
fn survive(world: &World, table: &Arc<NumberTable>, ledger: &Arc<Ledger>) {
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let mut server = Server::start(world, counting(table, ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    for gate in [2_000, 3_000] {
        let newest = |server: &Server| server.coordinator.job(pipeline).and_then(|job| job.committed_epoch);
        let next = newest(&server).map_or(Epoch(3), |epoch| Epoch(epoch.0 + 3));
        server.wait(pipeline, WaitFor::Epoch(next)).unwrap();
        table.behaviour.gate.store(gate, Ordering::SeqCst);
        server.crash();
        server = Server::start(world, counting(table, ledger));
        server.block_on(server.coordinator.resume_all());
    }
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(ledger.result(), expected_counts(table));
}

#[test]
fn f_33_a_pipeline_above_its_memory_limit_fails_alone() {
    let world = World::new();
    let (table, ledger) = (NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let other = server.create_pipeline("other", &[]);
    server.start_pipeline(other);
    let greedy = server.create_pipeline("greedy", &[("memory_limit", "1 kB")]);
    server.start_pipeline(greedy);
    server.wait_ended(greedy);
    let failed = server.coordinator.job(greedy).unwrap();
    assert_eq!(failed.state, JobState::Failed);
    let error = failed.error.unwrap();
    assert_eq!(error.code, SqlState::OUT_OF_MEMORY);
    assert!(error.message.starts_with("state takes "), "{error}");
    assert!(error.hint.unwrap().contains("memory_limit"));
    let tried = server.coordinator.events().list();
    let tried = tried.iter().filter(|event| event.kind == EventKind::Failed).count();
    assert_eq!(tried, 1, "to try again does not help");
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(other, WaitFor::Finished).unwrap();
}

#[test]
fn f_25_an_object_store_that_refuses_every_third_request_and_is_slow_only_delays() {
    let (world, objects) = World::with_shaky_objects();
    let (table, ledger) = (NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    objects.fails_every.store(3, Ordering::SeqCst);
    objects.latency_micros.store(5_000, Ordering::SeqCst);
    survive(&world, &table, &ledger);
    assert!(objects.faults.load(Ordering::SeqCst) > 0, "it did refuse");
}

#[test]
fn f_27_lists_that_are_out_of_date_lose_nothing() {
    let (world, objects) = World::with_shaky_objects();
    let (table, ledger) = (NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    // Of what comes from now on no list says anything.
    futures::executor::block_on(objects.list_no_news());
    survive(&world, &table, &ledger);
}

#[test]
fn f_08_a_metadata_store_that_is_away_holds_up_checkpoints_and_is_named() {
    let world = World::new();
    let (table, ledger) = (NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    world.store.down.store(true, Ordering::SeqCst);
    table.behaviour.gate.store(2_000, Ordering::SeqCst);
    let waits = server.block_on(async {
        loop {
            let waits = server.coordinator.job(pipeline).unwrap().commits.waits();
            if !waits.is_empty() {
                return waits;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waits[0].starts_with("metadata store: commit of epoch "), "{waits:?}");
    assert!(waits[0].ends_with("connection reset"), "{waits:?}");
    world.store.down.store(false, Ordering::SeqCst);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert!(server.coordinator.job(pipeline).unwrap().commits.waits().is_empty());
    assert_eq!(ledger.result(), expected_counts(&table));
}

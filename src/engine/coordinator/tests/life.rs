//! Starting, stopping, failing, waiting, foreground jobs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::kit::{GraphBuilder, Ledger, NumberTable, Server, World, copy_graph, counting, expected_counts};
use crate::catalog::jobs::JobState;
use crate::engine::coordinator::{StopMode, WaitFor};
use crate::engine::graph::{Exchange, JobGraph, OperatorSpec};
use crate::error::{ErrorReport, SqlState};

const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_stop_with_checkpoint_goes_on_where_it_was_and_one_at_once_from_the_checkpoint_before() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 3_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[("checkpoint_interval", "1 h")]);
    server.start_pipeline(pipeline);
    assert!(server.start_from(pipeline, None).is_err(), "it runs already");
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    server
        .block_on(server.coordinator.stop(pipeline, StopMode::Checkpoint, LONG))
        .unwrap();
    assert_eq!(server.coordinator.job(pipeline).unwrap().state, JobState::Stopped);
    assert_eq!(table.behaviour.polled_rows.swap(0, Ordering::SeqCst), 2_000);

    table.behaviour.gate.store(2_000, Ordering::SeqCst);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    assert_eq!(
        table.behaviour.polled_rows.swap(0, Ordering::SeqCst),
        2_000,
        "no row is read again"
    );
    server
        .block_on(server.coordinator.stop(pipeline, StopMode::Immediate, LONG))
        .unwrap();
    assert!(
        server
            .block_on(server.coordinator.stop(pipeline, StopMode::Graceful, LONG))
            .is_err()
    );

    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(
        table.behaviour.polled_rows.load(Ordering::SeqCst),
        4_000,
        "rows since the checkpoint are read again"
    );
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn a_slow_sink_holds_back_the_source() {
    let (world, table, ledger) = (
        World::new(),
        NumberTable::new(2, 2_000_000),
        Arc::new(Ledger::default()),
    );
    table.behaviour.rows_a_poll.store(8_192, Ordering::SeqCst);
    ledger.blocked.store(true, Ordering::SeqCst);
    let graph = {
        let (table, ledger) = (Arc::clone(&table), Arc::clone(&ledger));
        move |parallelism| {
            let mut graph = GraphBuilder::new(parallelism);
            let source = graph.source("numbers", &table);
            let shape = graph.nodes[source].output.clone();
            let hash = Exchange::Hash { columns: vec![0] };
            let keyed = graph.add("keyed", OperatorSpec::Union, &[(source, hash)], shape);
            graph.sink("ledger", keyed, &ledger);
            graph.build()
        }
    };
    let server = Server::start(&world, graph);
    let pipeline = server.create_pipeline("p", &[("parallelism", "2")]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Running).unwrap();
    let mut before = u64::MAX;
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let polled = table.behaviour.polled_rows.load(Ordering::SeqCst);
        if polled == before {
            break;
        }
        before = polled;
    }
    // What four channels, and the drivers around them, hold of 16-byte rows with a hash.
    assert!(before < 600_000, "{before} rows are in flight");
    assert_eq!(ledger.written_rows.load(Ordering::SeqCst), 0);
    ledger.unblock();
    server.wait(pipeline, WaitFor::Epoch(crate::ids::Epoch(1))).unwrap();
    assert!(ledger.written_rows.load(Ordering::SeqCst) > 0);
    server
        .block_on(server.coordinator.stop(pipeline, StopMode::Immediate, LONG))
        .unwrap();
}

#[test]
fn f_39_a_panic_is_recovered_from_and_touches_no_other_job() {
    let world = World::new();
    let (good, bad) = (NumberTable::new(2, 3_000), NumberTable::new(2, 3_000));
    let (good_ledger, bad_ledger) = (Arc::new(Ledger::default()), Arc::new(Ledger::default()));
    good.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&good, &good_ledger));
    let calm = server.create_pipeline("calm", &[]);
    server.start_pipeline(calm);
    server.wait(calm, WaitFor::Running).unwrap();
    bad.behaviour.panic_after.store(1_500, Ordering::SeqCst);
    bad.behaviour.panics.store(2, Ordering::SeqCst);
    server.set_graph(counting(&bad, &bad_ledger));
    let troubled = server.create_pipeline("troubled", &[]);
    server.start_pipeline(troubled);
    server.wait(troubled, WaitFor::Finished).unwrap();
    assert_eq!(bad.behaviour.panics.load(Ordering::SeqCst), 0, "it did panic twice");
    assert_eq!(bad_ledger.result(), expected_counts(&bad));
    assert_eq!(server.coordinator.job(calm).unwrap().state, JobState::Running);
    good.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(calm, WaitFor::Finished).unwrap();
    assert_eq!(good_ledger.result(), expected_counts(&good));
}

#[test]
fn bad_data_fails_the_job_at_once_and_says_where() {
    let (world, table, ledger) = (World::new(), NumberTable::new(1, 3_000), Arc::new(Ledger::default()));
    table.behaviour.bad_after.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    let error: ErrorReport = server.wait(pipeline, WaitFor::Finished).unwrap_err().into();
    assert_eq!(
        (error.code, error.message.as_str()),
        (SqlState::DATA_EXCEPTION, "row is bad")
    );
    assert!(error.detail.unwrap().contains("\"source\""));
    let status = server.coordinator.job(pipeline).unwrap();
    assert_eq!(status.state, JobState::Failed);
    let stored = futures::executor::block_on(async {
        use crate::catalog::store::CatalogStore;
        world.store.jobs(crate::catalog::jobs::JobFilter::default()).await
    })
    .unwrap();
    assert_eq!(stored[0].state, JobState::Failed);
    assert_eq!(stored[0].error.as_ref().unwrap().message, "row is bad");
}

#[test]
fn f_44_a_shutdown_checkpoints_and_the_next_server_goes_on() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 3_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[("checkpoint_interval", "1 h")]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    server.block_on(server.coordinator.shutdown());
    drop(server);
    assert_eq!(world.checkpoints(pipeline).len(), 1);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    server.block_on(server.coordinator.resume_all());
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(
        table.behaviour.polled_rows.load(Ordering::SeqCst),
        6_000,
        "no row is read twice"
    );
    assert_eq!(ledger.result(), expected_counts(&table));
}

#[test]
fn a_labelled_checkpoint_is_kept() {
    let (world, table, ledger) = (World::new(), NumberTable::new(1, 3_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = Server::start(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[("checkpoint_interval", "10 ms")]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    let epoch = server
        .block_on(server.coordinator.checkpoint(pipeline, Some("before".into())))
        .unwrap();
    server
        .wait(pipeline, WaitFor::Epoch(crate::ids::Epoch(epoch.0 + 60)))
        .unwrap();
    let records = world.checkpoints(pipeline);
    let kept = records
        .iter()
        .find(|record| record.epoch == epoch)
        .expect("it is still there");
    assert_eq!(kept.kept_label.as_deref(), Some("before"));
    assert!(records.len() < 40, "old ones are forgotten: {}", records.len());
}

fn client_graph(table: &Arc<NumberTable>, limit: Option<u64>) -> JobGraph {
    let mut graph = GraphBuilder::new(2);
    let source = graph.source("numbers", table);
    let shape = graph.nodes[source].output.clone();
    graph.parallelism = 1;
    graph.add(
        "client",
        OperatorSpec::ClientOutput { limit },
        &[(source, Exchange::Single)],
        shape,
    );
    graph.build()
}

fn idle_server(world: &World) -> Server {
    let (table, ledger) = (NumberTable::new(1, 1), Arc::new(Ledger::default()));
    Server::start(world, move |parallelism| copy_graph(&table, &ledger, parallelism))
}

#[test]
fn a_foreground_job_gives_all_rows_and_ends() {
    let server = idle_server(&World::new());
    let table = NumberTable::new(3, 10_000);
    let rows = server.block_on(async {
        let mut job = server
            .coordinator
            .run_foreground(client_graph(&table, None))
            .await
            .unwrap();
        let mut rows = 0;
        while let Some(chunk) = job.rows.recv().await {
            rows += chunk.unwrap().len();
        }
        rows
    });
    assert_eq!(rows, 30_000);
}

#[test]
fn a_limit_ends_a_foreground_job_exactly() {
    let server = idle_server(&World::new());
    let table = NumberTable::new(2, u64::MAX / 4);
    let rows = server.block_on(async {
        let mut job = server
            .coordinator
            .run_foreground(client_graph(&table, Some(1_234)))
            .await
            .unwrap();
        let mut rows = 0;
        while let Some(chunk) = job.rows.recv().await {
            rows += chunk.unwrap().len();
        }
        rows
    });
    assert_eq!(rows, 1_234);
}

#[test]
fn a_client_that_reads_nothing_or_goes_away_stops_the_source() {
    let server = idle_server(&World::new());
    let table = NumberTable::new(2, u64::MAX / 4);
    table.behaviour.rows_a_poll.store(8_192, Ordering::SeqCst);
    let job = server
        .block_on(server.coordinator.run_foreground(client_graph(&table, None)))
        .unwrap();
    let mut before = u64::MAX;
    let polled = || table.behaviour.polled_rows.load(Ordering::SeqCst);
    while polled() != before || before == 0 {
        before = polled();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(before < 1_000_000, "{before} rows wait for a client that reads nothing");
    let weak = Arc::downgrade(&job.metrics);
    drop(job);
    let gone = std::time::Instant::now() + LONG;
    while weak.strong_count() > 0 {
        assert!(std::time::Instant::now() < gone, "the job goes on without its client");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_error_of_a_foreground_job_reaches_the_client() {
    let server = idle_server(&World::new());
    let table = NumberTable::new(1, 3_000);
    table.behaviour.bad_after.store(1_000, Ordering::SeqCst);
    let error = server.block_on(async {
        let mut job = server
            .coordinator
            .run_foreground(client_graph(&table, None))
            .await
            .unwrap();
        loop {
            match job.rows.recv().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => break error,
                None => panic!("ended without the error"),
            }
        }
    });
    assert_eq!(error.message, "row is bad");
}

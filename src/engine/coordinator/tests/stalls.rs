//! Systems outside that take what they are given and never answer: who waits is seen, and nobody else waits with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::kit::{Ledger, NumberTable, Server, World, copy_graph, counting, expected_counts};
use crate::catalog::jobs::JobState;
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::coordinator::{JobStatus, StopMode, WaitFor};
use crate::engine::events::EventKind;
use crate::engine::graph::JobGraph;
use crate::ids::{Epoch, Oid};

const LONG: Duration = Duration::from_secs(30);

/// Five intervals are a stall, short as they are: a machine that is busy makes more of them than there are, never fewer.
fn impatient(world: &World, graph: impl Fn(u32) -> JobGraph + Send + Sync + 'static) -> Server {
    let settings = PipelineSettings {
        parallelism: 2,
        checkpoint_interval: Duration::from_millis(20),
        barrier_interval: Duration::from_millis(10),
        stall_least: Duration::ZERO,
        ..PipelineSettings::default()
    };
    Server::start_with(world, settings, graph)
}

fn wait_until(server: &Server, pipeline: Oid, is_so: impl Fn(&JobStatus) -> bool) -> JobStatus {
    server.block_on(async {
        loop {
            let status = server.coordinator.job(pipeline).unwrap();
            if is_so(&status) {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
}

fn told(server: &Server, pipeline: Oid, kind: EventKind) -> usize {
    let events = server.coordinator.events().list();
    let of = events
        .iter()
        .filter(|event| event.pipeline == pipeline && event.kind == kind);
    of.count()
}

/// The commit of an epoch is under way and stays so.
fn is_waiting(status: &JobStatus) -> bool {
    status.commits.sinks.values().any(|sink| sink.wait.is_some())
}

#[test]
fn f_37_a_sink_that_never_answers_degrades_its_pipeline_and_no_other() {
    let metrics = crate::metrics::install().unwrap();
    let shown = |value: u8| {
        let line = format!("laminar_pipeline_degraded{{pipeline=\"stuck\"}} {value}");
        metrics.render().lines().any(|shown| shown == line)
    };
    let world = World::new();
    let (table, ledger) = (NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let server = impatient(&world, counting(&table, &ledger));
    // The only one of this name in all tests: metrics are of the process.
    let pipeline = server.create_pipeline("stuck", &[]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    server.block_on(server.coordinator.checkpoint(pipeline, None)).unwrap();
    ledger.silent.store(true, Ordering::SeqCst);
    // Something to commit.
    table.behaviour.gate.store(2_000, Ordering::SeqCst);
    let degraded = |status: &JobStatus| status.state == JobState::Degraded && is_waiting(status);
    let status = wait_until(&server, pipeline, degraded);
    let sink = status.commits.sinks.values().next().unwrap();
    let wait = sink.wait.clone().unwrap();
    assert_eq!((sink.table.as_str(), wait.reason.as_deref()), ("public.ledger", None));
    assert_eq!(
        status.commits.decided.map(|(epoch, _)| epoch),
        Some(wait.epoch),
        "decided, but not committed"
    );
    assert!(status.committed_epoch < Some(wait.epoch));
    let error = status.error.unwrap();
    assert_eq!(error.code.as_str(), "57P03");
    assert!(
        error
            .message
            .starts_with("pipeline \"stuck\" has committed nothing for 0.1 s"),
        "{error}"
    );
    assert_eq!(status.last_error.unwrap().1.message, error.message);
    assert!(told(&server, pipeline, EventKind::Degraded) >= 1);
    assert!(shown(1));

    let (other_table, other_ledger) = (NumberTable::new(2, 2_000), Arc::new(Ledger::default()));
    server.set_graph(counting(&other_table, &other_ledger));
    let other = server.create_pipeline("other", &[]);
    server.start_pipeline(other);
    server.wait(other, WaitFor::Finished).unwrap();
    assert_eq!(other_ledger.result(), expected_counts(&other_table));
    assert!(
        is_waiting(&server.coordinator.job(pipeline).unwrap()),
        "the wait is not over"
    );

    ledger.silent.store(false, Ordering::SeqCst);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    let status = server.coordinator.job(pipeline).unwrap();
    assert_eq!(status.error, None);
    assert!(shown(0));
    assert!(!is_waiting(&status));
    assert!(told(&server, pipeline, EventKind::Recovered) >= 1);
    assert_eq!(ledger.result(), expected_counts(&table));
    assert_eq!(ledger.replays.load(Ordering::SeqCst), 0);
}

#[test]
fn f_37_nobody_who_stops_or_drops_waits_for_a_silent_sink() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    ledger.silent.store(true, Ordering::SeqCst);
    let server = impatient(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    wait_until(&server, pipeline, |status| {
        status.state == JobState::Degraded && is_waiting(status)
    });
    server
        .block_on(server.coordinator.stop(pipeline, StopMode::Immediate, LONG))
        .unwrap();
    assert_eq!(server.coordinator.job(pipeline).unwrap().state, JobState::Stopped);

    // The commit is made up for before inputs start: that is seen, too.
    server.start_pipeline(pipeline);
    let status = wait_until(&server, pipeline, |status| {
        status.state == JobState::Degraded && is_waiting(status)
    });
    assert!(status.operators.is_empty(), "nothing runs yet");
    let running =
        async { tokio::time::timeout(Duration::ZERO, server.coordinator.wait(pipeline, WaitFor::Running)).await };
    assert!(server.block_on(running).is_err(), "degraded is not running");
    server
        .block_on(server.coordinator.stop(pipeline, StopMode::Immediate, LONG))
        .unwrap();

    // A stop with a checkpoint waits for the sink; one at once ends that.
    ledger.silent.store(false, Ordering::SeqCst);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::CaughtUp).unwrap();
    ledger.silent.store(true, Ordering::SeqCst);
    table.behaviour.gate.store(2_000, Ordering::SeqCst);
    wait_until(&server, pipeline, is_waiting);
    let patient = async {
        tokio::time::timeout(
            Duration::from_millis(1),
            server.coordinator.stop(pipeline, StopMode::Graceful, LONG),
        )
        .await
    };
    assert!(server.block_on(patient).is_err());
    wait_until(&server, pipeline, |status| status.state == JobState::Stopping);
    let snapshot = server.catalog.snapshot();
    let dropped = snapshot.pipelines().find(|found| found.header.oid == pipeline).unwrap();
    server.block_on(server.coordinator.forget(dropped)).unwrap();
    assert!(server.coordinator.job(pipeline).is_none());
}

#[test]
fn f_37_work_of_a_prepare_that_never_ends_degrades_and_can_be_stopped() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    let graph = {
        let (table, ledger) = (Arc::clone(&table), Arc::clone(&ledger));
        move |parallelism| copy_graph(&table, &ledger, parallelism)
    };
    let server = impatient(&world, graph);
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Epoch(Epoch(1))).unwrap();
    ledger.stuck_prepares.store(true, Ordering::SeqCst);
    let status = wait_until(&server, pipeline, |status| {
        let prepares = |wait: &crate::engine::job_metrics::Waiting| wait.what.ends_with("to be prepared");
        let sink = status.operators.iter().find(|operator| operator.name == "sink");
        let waits = sink.and_then(|sink| sink.waits_for.as_ref()).is_some_and(prepares);
        let detail = status
            .error
            .as_ref()
            .and_then(|error| error.detail.clone())
            .unwrap_or_default();
        waits && status.state == JobState::Degraded && detail.contains("waits for what belongs to epoch")
    });
    assert!(!is_waiting(&status), "nothing is being committed");
    server
        .block_on(server.coordinator.stop(pipeline, StopMode::Immediate, LONG))
        .unwrap();
    ledger.stuck_prepares.store(false, Ordering::SeqCst);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.start_pipeline(pipeline);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    assert_eq!(ledger.result().len(), 8_000);
}

#[test]
fn an_outage_of_a_sink_is_waited_out_in_sight() {
    let (world, table, ledger) = (World::new(), NumberTable::new(2, 4_000), Arc::new(Ledger::default()));
    table.behaviour.gate.store(1_000, Ordering::SeqCst);
    ledger.away.store(true, Ordering::SeqCst);
    let server = impatient(&world, counting(&table, &ledger));
    let pipeline = server.create_pipeline("p", &[]);
    server.start_pipeline(pipeline);
    let waiting = |status: &JobStatus| status.state == JobState::Degraded && !status.commits.waits().is_empty();
    let status = wait_until(&server, pipeline, waiting);
    let begun = status.commits.sinks.values().next().unwrap().wait.clone().unwrap();
    let said = format!(
        "sink \"public.ledger\": commit of epoch {}: the ledger cannot be reached",
        begun.epoch
    );
    assert_eq!(status.commits.waits(), [said]);
    assert!(
        status
            .error
            .unwrap()
            .detail
            .unwrap()
            .contains("the ledger cannot be reached")
    );
    ledger.away.store(false, Ordering::SeqCst);
    table.behaviour.gate.store(u64::MAX, Ordering::SeqCst);
    server.wait(pipeline, WaitFor::Finished).unwrap();
    let sink = server
        .coordinator
        .job(pipeline)
        .unwrap()
        .commits
        .sinks
        .into_values()
        .next()
        .unwrap();
    assert!(sink.wait.is_none() && sink.last.is_some_and(|(_, at)| at >= begun.since_micros));
    assert_eq!(ledger.result(), expected_counts(&table));
}

//! The views that say how well pipelines get on: splits of sources, commits of sinks, freshness, what each delivers.
//!
//! Not guaranteed: that positions of one pipeline are of the same instant. Sources are looked at once a second and at barriers; the
//! end of a split is what the system outside said last.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array};

use crate::catalog::objects::{Object, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::catalog::system::Deliveries;
use crate::engine::connectors::{self, DeliveryGuarantee};
use crate::engine::coordinator::JobStatus;
use crate::engine::job_metrics::{OperatorStatus, SplitStatus, Waiting};
use crate::frontend::context::ServerContext;
use crate::frontend::system_views::{JobNames, small, text, time};
use crate::ids::Oid;
use crate::planner::bind::tables::declared_schema;

pub const SPLITS: &str = "pipeline TEXT, pipeline_schema TEXT, job TEXT, operator TEXT, table_name TEXT, subtask INT, split TEXT, position TEXT, end_position TEXT, lag BIGINT, lag_unit TEXT, state TEXT, watermark TIMESTAMPTZ, holds_back BOOLEAN";
pub const SINKS: &str = "pipeline TEXT, pipeline_schema TEXT, job TEXT, operator TEXT, table_name TEXT, delivery TEXT, committed_epoch BIGINT, committed_at TIMESTAMPTZ, commit_age_seconds DOUBLE, waits_for TEXT, waits_since TIMESTAMPTZ";
pub const FRESHNESS: &str = "pipeline TEXT, pipeline_schema TEXT, state TEXT, watermark TIMESTAMPTZ, event_lag_seconds DOUBLE, held_back_by TEXT, result_epoch BIGINT, checkpoint_epoch BIGINT, checkpoint_age_seconds DOUBLE, decided_epoch BIGINT, decided_age_seconds DOUBLE, waits_for TEXT, waits_since TIMESTAMPTZ, last_error TEXT, last_error_at TIMESTAMPTZ";

pub fn splits(server: &ServerContext, snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let jobs = live(server);
    let all: Vec<(&JobStatus, &OperatorStatus, u32, &SplitStatus)> = jobs
        .iter()
        .flat_map(|job| job.operators.iter().map(move |operator| (job, operator)))
        .flat_map(|(job, operator)| {
            let splits = operator.splits.iter();
            splits.map(move |(subtask, split)| (job, operator, *subtask, split))
        })
        .collect();
    let names = JobNames::of(all.iter().map(|(job, ..)| *job), snapshot);
    let split = || all.iter().map(|(.., split)| *split);
    let lags = split().map(|split| split.lag.map(signed));
    let holds = split().map(|split| Some(split.holds_back));
    vec![
        names.pipelines(),
        names.schemas(),
        text(all.iter().map(|(job, ..)| job.job.0.clone())),
        text(all.iter().map(|(_, operator, ..)| operator.id.0.clone())),
        text(all.iter().map(|(_, operator, ..)| operator.table.clone())),
        small(
            all.iter()
                .map(|(_, _, subtask, _)| i32::try_from(*subtask).unwrap_or(i32::MAX)),
        ),
        text(split().map(|split| split.split.clone())),
        text(split().map(|split| split.offset.clone())),
        text(split().map(|split| split.end.clone())),
        Arc::new(lags.collect::<Int64Array>()),
        text(split().map(|split| split.unit.map(str::to_owned))),
        text(split().map(|split| split.state.to_owned())),
        time(split().map(|split| split.watermark)),
        Arc::new(holds.collect::<BooleanArray>()),
    ]
}

pub fn sinks(server: &ServerContext, snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let jobs = live(server);
    let all: Vec<_> = jobs
        .iter()
        .flat_map(|job| job.commits.sinks.iter().map(move |(id, sink)| (job, id, sink)))
        .collect();
    let names = JobNames::of(all.iter().map(|(job, ..)| *job), snapshot);
    // What keeps a sink from preparing comes before what keeps it from committing.
    let waits = || {
        all.iter().map(|(job, id, sink)| {
            let operator = job.operators.iter().find(|operator| operator.id == **id);
            let prepares = operator.and_then(|operator| operator.waits_for.clone());
            prepares.or_else(|| {
                sink.wait.as_ref().map(|wait| Waiting {
                    what: wait.words(),
                    since_micros: wait.since_micros,
                })
            })
        })
    };
    let last = || all.iter().map(|(_, _, sink)| sink.last);
    let epochs = last().map(|last| last.map(|(epoch, _)| signed(epoch.0)));
    vec![
        names.pipelines(),
        names.schemas(),
        text(all.iter().map(|(job, ..)| job.job.0.clone())),
        text(all.iter().map(|(_, id, _)| id.0.clone())),
        text(all.iter().map(|(_, _, sink)| sink.table.clone())),
        text(all.iter().map(|(_, _, sink)| sink.delivery.as_str().to_owned())),
        Arc::new(epochs.collect::<Int64Array>()),
        time(last().map(|last| last.map(|(_, at)| at))),
        ages(server, last().map(|last| last.map(|(_, at)| at))),
        text(waits().map(|wait| wait.map(|wait| wait.what))),
        time(waits().map(|wait| wait.map(|wait| wait.since_micros))),
    ]
}

pub fn freshness(server: &ServerContext, snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let jobs = server.coordinator.jobs();
    let names = JobNames::of(&jobs, snapshot);
    let watermarks = || jobs.iter().map(least_watermark);
    let results = jobs.iter().map(|job| {
        let result = server.results.get(job.pipeline)?;
        Some(signed(result.latest_epoch().0))
    });
    let committed = jobs.iter().map(|job| job.committed_epoch.map(|epoch| signed(epoch.0)));
    let decided = || jobs.iter().map(|job| job.commits.decided);
    let decided_epochs = decided().map(|decided| decided.map(|(epoch, _)| signed(epoch.0)));
    let waits = || jobs.iter().map(longest_wait);
    let errors = || jobs.iter().map(|job| job.last_error.as_ref());
    vec![
        names.pipelines(),
        names.schemas(),
        text(jobs.iter().map(|job| job.state.as_str().to_owned())),
        time(watermarks()),
        ages(server, watermarks()),
        text(jobs.iter().map(held_back_by)),
        Arc::new(results.collect::<Int64Array>()),
        Arc::new(committed.collect::<Int64Array>()),
        ages(server, jobs.iter().map(|job| job.committed_at_micros)),
        Arc::new(decided_epochs.collect::<Int64Array>()),
        ages(server, decided().map(|decided| decided.map(|(_, at)| at))),
        text(waits().map(|wait| wait.map(|wait| wait.what))),
        time(waits().map(|wait| wait.map(|wait| wait.since_micros))),
        text(errors().map(|error| error.map(|(_, error)| error.message.clone()))),
        time(errors().map(|error| error.map(|(at, _)| *at))),
    ]
}

/// Jobs that go on.
fn live(server: &ServerContext) -> Vec<JobStatus> {
    let mut jobs = server.coordinator.jobs();
    jobs.retain(|job| !job.state.is_terminal());
    jobs
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn ages(server: &ServerContext, times: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let now = server.clock.now_micros();
    let ages = times.map(|at| at.map(|at| now.saturating_sub(at) as f64 / 1e6));
    Arc::new(ages.collect::<Float64Array>())
}

/// Over the sources; unknown while one has none.
fn least_watermark(job: &JobStatus) -> Option<i64> {
    let sources = job.operators.iter().filter(|operator| operator.name == "source");
    sources.map(|operator| operator.total().watermark).min().flatten()
}

/// The split that is least far of all that hold their source back.
fn held_back_by(job: &JobStatus) -> Option<String> {
    let of = |operator: &OperatorStatus| {
        let holding = operator.splits.iter().filter(|(_, split)| split.holds_back);
        let least = holding.min_by_key(|(_, split)| split.watermark)?;
        let table = operator.table.clone().unwrap_or_default();
        Some((
            least.1.watermark,
            format!("table \"{table}\", split \"{}\"", least.1.split),
        ))
    };
    let least = job.operators.iter().filter_map(of).min();
    least.map(|(_, words)| words)
}

/// What anything of the job has waited for the longest.
fn longest_wait(job: &JobStatus) -> Option<Waiting> {
    let sinks = job.commits.sinks.values().filter_map(|sink| {
        let wait = sink.wait.as_ref()?;
        Some(Waiting {
            what: format!("sink \"{}\": {}", sink.table, wait.words()),
            since_micros: wait.since_micros,
        })
    });
    let store = job.commits.store.iter().map(|wait| Waiting {
        what: format!("metadata store: {}", wait.words()),
        since_micros: wait.since_micros,
    });
    let operators = job.operators.iter().filter_map(|operator| {
        let wait = operator.waits_for.clone()?;
        let what = match &operator.table {
            Some(table) => format!("{} \"{table}\": {}", operator.name, wait.what),
            None => wait.what,
        };
        Some(Waiting { what, ..wait })
    });
    sinks.chain(store).chain(operators).min_by_key(|wait| wait.since_micros)
}

/// What tables and pipelines promise. Of a pipeline that was not started since the server was, nothing is known.
pub fn deliveries(server: &ServerContext, snapshot: &CatalogSnapshot) -> Deliveries {
    let tables = snapshot.tables().filter_map(|table| {
        let delivery = delivery_of(server, snapshot, table)?;
        Some((table.header.oid, delivery.as_str()))
    });
    let pipelines = server.coordinator.jobs().into_iter().map(|job| {
        let sinks = job.commits.sinks.values().map(|sink| sink.delivery);
        // Without a sink the result is kept, by checkpoints.
        let weakest = sinks.max_by_key(|delivery| weakness(*delivery));
        let delivery = weakest.unwrap_or(DeliveryGuarantee::ExactlyOnce);
        (job.pipeline, delivery.as_str())
    });
    Deliveries {
        tables: tables.collect(),
        pipelines: pipelines.collect::<HashMap<Oid, _>>(),
    }
}

fn weakness(delivery: DeliveryGuarantee) -> u8 {
    match delivery {
        DeliveryGuarantee::ExactlyOnce => 0,
        DeliveryGuarantee::AtLeastOnce => 1,
        DeliveryGuarantee::AtMostOnce => 2,
    }
}

/// `None`: its options do not say, such as when a secret of theirs is gone.
fn delivery_of(server: &ServerContext, snapshot: &CatalogSnapshot, table: &Table) -> Option<DeliveryGuarantee> {
    if table.is_internal() {
        return Some(DeliveryGuarantee::ExactlyOnce);
    }
    let environment = |name: &str| (server.environment)(name);
    let options = snapshot.resolve_options(&table.options, table.connection, &environment);
    let options = options.ok()?;
    let connector = match (options.get("connector"), table.connection) {
        (Some(connector), _) => connector.text.clone(),
        (None, Some(connection)) => match snapshot.get(Oid(connection)) {
            Some(Object::Connection(connection)) => connection.connector.clone(),
            _ => return None,
        },
        (None, None) => return None,
    };
    let declared = declared_schema(table).ok().filter(|schema| !schema.fields().is_empty());
    let resolved = connectors::find(&connector).ok()?.resolve(&options, declared).ok()?;
    Some(resolved.guarantee())
}

//! The rows of system views: those of the catalog, and those that only the running server knows (connectors, sessions,
//! operators, ..).
//!
//! A view is computed whole when it is scanned. Not guaranteed: that two views of one statement are of the same instant.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};

use crate::catalog::jobs::{CheckpointRecord, JobFilter, JobRecord};
use crate::catalog::objects::Object;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::catalog::system::{self, Activity, SessionFacts, SettingFacts};
use crate::engine::connectors::{Direction, REGISTRY};
use crate::engine::coordinator::JobStatus;
use crate::frontend::context::ServerContext;
use crate::frontend::error::{Error, Result};
use crate::frontend::session::Session;
use crate::frontend::settings::definitions::{self, Kind};
use crate::frontend::watch_views;
use crate::ids::Oid;
use crate::planner::functions::register_all;
use crate::types::SqlType;

/// What the views show of the session that looks.
#[derive(Debug)]
pub struct SystemFacts {
    facts: SessionFacts,
}

impl SystemFacts {
    pub fn of(session: &Session) -> SystemFacts {
        let settings = definitions::ALL.iter().map(|definition| SettingFacts {
            name: definition.name.to_owned(),
            value: session.settings().get(definition.name),
            default: definition.default.to_owned(),
            unit: matches!(definition.kind, Kind::Duration).then(|| "ms".to_owned()),
            description: definition.summary.to_owned(),
            kind: match definition.kind {
                Kind::Boolean => "bool",
                Kind::Integer(..) | Kind::Duration | Kind::Memory => "integer",
                Kind::Number => "real",
                Kind::Choice(_) => "enum",
                _ => "string",
            },
            settable: definition.kind != Kind::Fixed,
        });
        let activity = session.server().sessions.list().into_iter().map(|info| Activity {
            process: info.backend_pid,
            user: info.user,
            application_name: info.application_name,
            client_address: host_of(&info.client_address),
            client_port: port_of(&info.client_address),
            started_at_micros: info.connected_at_micros,
            statement_started_at_micros: info.statement_started_at_micros,
            state: info.state,
            query: info.statement,
        });
        SystemFacts {
            facts: SessionFacts {
                user: session.user().to_owned(),
                database: session.server().database.clone(),
                settings: settings.collect(),
                activity: activity.collect(),
            },
        }
    }
}

fn host_of(address: &str) -> Option<String> {
    let (host, _) = address.rsplit_once(':')?;
    Some(host.trim_matches(['[', ']']).to_owned())
}

fn port_of(address: &str) -> Option<i32> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// The columns of a system view; `None` when there is no such view.
pub fn schema_of(schema: &str, name: &str) -> Option<SchemaRef> {
    if schema == "laminar" {
        if name == "materialized_views" {
            return system::schema_of("laminar", "pipelines");
        }
        if let Some((_, columns)) = LIVE.get(name) {
            return Some(Arc::clone(columns));
        }
    }
    system::schema_of(schema, name)
}

/// Names of the views of a schema.
pub fn names(schema: &str) -> Vec<String> {
    let of_catalog = system::table_names()
        .filter(|(of, _)| *of == schema)
        .map(|(_, name)| name.to_owned());
    let mut names: Vec<String> = of_catalog.collect();
    if schema == "laminar" {
        names.push("materialized_views".to_owned());
        names.extend(LIVE.keys().map(|name| (*name).to_owned()));
    }
    names
}

/// The rows of a view now.
pub async fn rows(
    schema: &str,
    name: &str,
    server: &ServerContext,
    snapshot: &CatalogSnapshot,
    facts: &SystemFacts,
) -> Result<RecordBatch> {
    let missing = || Error::Internal(format!("there is no system view {schema}.{name}"));
    if schema != "laminar" {
        return system::rows(schema, name, snapshot, &facts.facts).ok_or_else(missing);
    }
    if let Some((make, columns)) = LIVE.get(name) {
        let arrays = make(server, snapshot);
        return RecordBatch::try_new(Arc::clone(columns), arrays).map_err(|error| Error::Internal(error.to_string()));
    }
    let shown = if name == "materialized_views" {
        "pipelines"
    } else {
        name
    };
    let jobs = jobs(server, shown).await?;
    let checkpoints = checkpoints(server, snapshot, shown).await?;
    let deliveries = match shown {
        "pipelines" | "tables" => watch_views::deliveries(server, snapshot),
        _ => system::Deliveries::default(),
    };
    let rows = system::laminar_rows(shown, snapshot, &jobs, &checkpoints, &deliveries).ok_or_else(missing)?;
    if name == "materialized_views" {
        only_materialized(&rows)
    } else {
        Ok(rows)
    }
}

/// Runs as the store has them, newer news of this process's runs over them.
async fn jobs(server: &ServerContext, view: &str) -> Result<Vec<JobRecord>> {
    if view != "pipelines" && view != "jobs" {
        return Ok(Vec::new());
    }
    let filter = JobFilter {
        pipeline: None,
        latest_only: view == "pipelines",
    };
    let mut jobs = server.catalog.store().jobs(filter).await?;
    for status in server.coordinator.jobs() {
        match jobs.iter_mut().find(|job| job.job == status.job) {
            Some(job) => *job = status.record,
            None => jobs.push(status.record),
        }
    }
    Ok(jobs)
}

/// Checkpoints that one view can show of one pipeline.
const CHECKPOINTS_SHOWN_MAX: usize = 1000;

async fn checkpoints(server: &ServerContext, snapshot: &CatalogSnapshot, view: &str) -> Result<Vec<CheckpointRecord>> {
    let limit = match view {
        "pipelines" => 1,
        "checkpoints" => CHECKPOINTS_SHOWN_MAX,
        _ => return Ok(Vec::new()),
    };
    let store = server.catalog.store();
    let mut all = Vec::new();
    let pipelines = snapshot.pipelines().map(|pipeline| pipeline.header.oid);
    let tables = snapshot.tables().filter(|table| table.is_internal());
    for oid in pipelines.chain(tables.map(|table| table.header.oid)) {
        all.extend(store.latest_checkpoints(oid, limit).await?);
    }
    Ok(all)
}

fn only_materialized(pipelines: &RecordBatch) -> Result<RecordBatch> {
    let flags = pipelines
        .column_by_name("materialized_view")
        .and_then(|column| column.as_any().downcast_ref::<BooleanArray>())
        .ok_or_else(|| Error::Internal("laminar.pipelines has no column materialized_view".to_owned()))?;
    filter_record_batch(pipelines, flags).map_err(|error| Error::Internal(error.to_string()))
}

type Make = fn(&ServerContext, &CatalogSnapshot) -> Vec<ArrayRef>;

/// Views that only the running server can fill.
static LIVE: LazyLock<BTreeMap<&'static str, (Make, SchemaRef)>> = LazyLock::new(|| {
    let views: [(&'static str, &str, Make); 13] = [
        ("connectors", CONNECTORS, connectors),
        ("databases", "name TEXT", databases),
        ("dead_letters", DEAD_LETTERS, dead_letters),
        ("events", EVENTS, events),
        ("freshness", watch_views::FRESHNESS, watch_views::freshness),
        ("functions", "name TEXT, kind TEXT", functions),
        ("operators", OPERATORS, operators),
        (
            "schemas",
            "name TEXT, id TEXT, oid BIGINT, owner TEXT, created_at TIMESTAMPTZ, comment TEXT",
            schemas,
        ),
        ("sessions", SESSIONS, sessions),
        ("sinks", watch_views::SINKS, watch_views::sinks),
        ("splits", watch_views::SPLITS, watch_views::splits),
        ("tasks", TASKS, tasks),
        ("workers", "name TEXT, state TEXT, jobs BIGINT, tasks BIGINT", workers),
    ];
    views
        .into_iter()
        .map(|(name, columns, make)| (name, (make, columns_of(columns))))
        .collect()
});

const CONNECTORS: &str = "name TEXT, title TEXT, direction TEXT, category TEXT, formats TEXT, options TEXT, required_options TEXT, summary TEXT";
const DEAD_LETTERS: &str = "table_name TEXT, at TIMESTAMPTZ, place TEXT, position BIGINT, error TEXT, raw BYTEA";
const EVENTS: &str = "at TIMESTAMPTZ, pipeline TEXT, pipeline_schema TEXT, job TEXT, event TEXT, severity TEXT, code TEXT, message TEXT, detail TEXT, hint TEXT";
const OPERATORS: &str = "pipeline TEXT, pipeline_schema TEXT, job TEXT, operator TEXT, name TEXT, description TEXT, parallelism INT, rows_in BIGINT, rows_out BIGINT, bytes_in BIGINT, bytes_out BIGINT, late_rows BIGINT, state_rows BIGINT, state_bytes BIGINT, busy_seconds DOUBLE, blocked_seconds DOUBLE, watermark TIMESTAMPTZ, waits_for TEXT, waits_since TIMESTAMPTZ";
const TASKS: &str = "pipeline TEXT, pipeline_schema TEXT, job TEXT, operator TEXT, name TEXT, subtask INT, rows_in BIGINT, rows_out BIGINT, late_rows BIGINT, state_rows BIGINT, state_bytes BIGINT, busy_seconds DOUBLE, blocked_seconds DOUBLE, watermark TIMESTAMPTZ";
const SESSIONS: &str = "pid INT, user_name TEXT, database TEXT, client_address TEXT, application_name TEXT, connected_at TIMESTAMPTZ, state TEXT, statement TEXT, statement_started_at TIMESTAMPTZ";

/// Columns out of `name TYPE, ..`.
fn columns_of(text: &str) -> SchemaRef {
    let fields = text.split(", ").filter_map(|column| {
        let (name, sql_type) = column.split_once(' ')?;
        let sql_type: SqlType = crate::types::parse(sql_type).ok()?;
        Some(sql_type.to_arrow_field(name, true))
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

pub(super) fn text<T: Into<Option<String>>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(values.into_iter().map(Into::into).collect::<StringArray>())
}

fn count(values: impl IntoIterator<Item = u64>) -> ArrayRef {
    let signed = values.into_iter().map(|value| i64::try_from(value).unwrap_or(i64::MAX));
    Arc::new(signed.map(Some).collect::<Int64Array>())
}

pub(super) fn small(values: impl IntoIterator<Item = i32>) -> ArrayRef {
    Arc::new(values.into_iter().map(Some).collect::<Int32Array>())
}

pub(super) fn time(values: impl IntoIterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(
        values
            .into_iter()
            .collect::<TimestampMicrosecondArray>()
            .with_timezone("+00:00"),
    )
}

fn seconds(values: impl IntoIterator<Item = u64>) -> ArrayRef {
    Arc::new(
        values
            .into_iter()
            .map(|nanos| Some(nanos as f64 / 1e9))
            .collect::<Float64Array>(),
    )
}

fn connectors(_server: &ServerContext, _snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let all: Vec<_> = REGISTRY.iter().map(|connector| connector.describe()).collect();
    let options = |required: bool| {
        let names = all.iter().map(move |one| {
            let listed = one
                .options
                .iter()
                .filter(move |option| option.required == required || !required);
            Some(listed.map(|option| option.name).collect::<Vec<_>>().join(", "))
        });
        text(names.collect::<Vec<_>>())
    };
    vec![
        text(all.iter().map(|one| Some(one.name.to_owned()))),
        text(all.iter().map(|one| Some(one.title.to_owned()))),
        text(all.iter().map(|one| {
            let also = if one.can_look_up() { ", lookup" } else { "" };
            Some(match one.direction {
                Direction::Source => format!("source{also}"),
                Direction::Sink => format!("sink{also}"),
                Direction::Both => format!("source, sink{also}"),
                Direction::Lookup => "lookup".to_owned(),
            })
        })),
        text(all.iter().map(|one| Some(one.category.to_owned()))),
        text(all.iter().map(|one| Some(one.formats.join(", ")))),
        options(false),
        options(true),
        text(all.iter().map(|one| Some(one.summary.to_owned()))),
    ]
}

fn databases(server: &ServerContext, _snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    vec![text([server.database.clone()])]
}

fn dead_letters(server: &ServerContext, _snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let letters = server.coordinator.dead_letters().letters();
    let raw = letters.iter().map(|letter| Some(letter.raw.as_slice()));
    vec![
        text(letters.iter().map(|letter| letter.table.clone())),
        time(letters.iter().map(|letter| Some(letter.at_micros))),
        text(letters.iter().map(|letter| letter.place.clone())),
        count(letters.iter().map(|letter| letter.offset)),
        text(letters.iter().map(|letter| letter.error.clone())),
        Arc::new(raw.collect::<arrow::array::BinaryArray>()),
    ]
}

fn events(server: &ServerContext, _snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let all = server.coordinator.events().list();
    let errors = || all.iter().map(|event| event.error.as_ref());
    vec![
        time(all.iter().map(|event| Some(event.at_micros))),
        text(all.iter().map(|event| event.name.clone())),
        text(all.iter().map(|event| event.schema.clone())),
        text(all.iter().map(|event| event.job.0.clone())),
        text(all.iter().map(|event| event.kind.as_str().to_owned())),
        text(all.iter().map(|event| event.kind.severity().as_str().to_owned())),
        text(
            all.iter()
                .map(|event| event.code().map(|code| code.as_str().to_owned())),
        ),
        text(all.iter().map(|event| event.message.clone())),
        text(errors().map(|error| error.and_then(|error| error.detail.clone()))),
        text(errors().map(|error| error.and_then(|error| error.hint.clone()))),
    ]
}

fn functions(_server: &ServerContext, _snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let functions = register_all(&crate::planner::settings::SessionFacts::default());
    let mut all: Vec<(String, &str)> = Vec::new();
    all.extend(functions.scalar.keys().map(|name| (name.clone(), "scalar")));
    all.extend(functions.aggregate.keys().map(|name| (name.clone(), "aggregate")));
    all.extend(functions.window.keys().map(|name| (name.clone(), "window")));
    all.extend(functions.table.keys().map(|name| (name.clone(), "table")));
    all.sort();
    vec![
        text(all.iter().map(|(name, _)| name.clone())),
        text(all.iter().map(|(_, kind)| (*kind).to_owned())),
    ]
}

fn schemas(_server: &ServerContext, snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let all: Vec<_> = snapshot
        .objects()
        .filter_map(|object| match object {
            Object::Schema(schema) => Some(&schema.header),
            _ => None,
        })
        .collect();
    vec![
        text(all.iter().map(|header| header.name.clone())),
        text(all.iter().map(|header| header.public_id.clone())),
        count(all.iter().map(|header| u64::from(header.oid.0))),
        text(all.iter().map(|header| header.owner.clone())),
        time(all.iter().map(|header| Some(header.created_at_micros))),
        text(all.iter().map(|header| header.comment.clone())),
    ]
}

fn sessions(server: &ServerContext, _snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let all = server.sessions.list();
    vec![
        small(all.iter().map(|info| info.backend_pid)),
        text(all.iter().map(|info| info.user.clone())),
        text(all.iter().map(|info| info.database.clone())),
        text(all.iter().map(|info| info.client_address.clone())),
        text(all.iter().map(|info| info.application_name.clone())),
        time(all.iter().map(|info| Some(info.connected_at_micros))),
        text(all.iter().map(|info| info.state.to_owned())),
        text(all.iter().map(|info| info.statement.clone())),
        time(all.iter().map(|info| info.statement_started_at_micros)),
    ]
}

fn workers(server: &ServerContext, _snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let running: Vec<_> = server
        .coordinator
        .jobs()
        .into_iter()
        .filter(|job| !job.state.is_terminal())
        .collect();
    let tasks = running
        .iter()
        .flat_map(|job| &job.operators)
        .map(|operator| operator.subtasks.len() as u64)
        .sum();
    vec![
        text(["local".to_owned()]),
        text(["running".to_owned()]),
        count([running.len() as u64]),
        count([tasks]),
    ]
}

/// The names of the pipelines that jobs belong to.
pub(super) struct JobNames(Vec<(Option<String>, Option<String>)>);

impl JobNames {
    pub(super) fn of<'a>(jobs: impl IntoIterator<Item = &'a JobStatus>, snapshot: &CatalogSnapshot) -> JobNames {
        JobNames(jobs.into_iter().map(|job| name_of(job.pipeline, snapshot)).collect())
    }

    pub(super) fn pipelines(&self) -> ArrayRef {
        text(self.0.iter().map(|(name, _)| name.clone()))
    }

    pub(super) fn schemas(&self) -> ArrayRef {
        text(self.0.iter().map(|(_, schema)| schema.clone()))
    }
}

fn name_of(pipeline: Oid, snapshot: &CatalogSnapshot) -> (Option<String>, Option<String>) {
    match snapshot.get(pipeline) {
        Some(object) => (Some(object.header().name.clone()), object.header().schema.clone()),
        None => (None, None),
    }
}

fn operators(server: &ServerContext, snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let jobs = server.coordinator.jobs();
    let all: Vec<_> = jobs
        .iter()
        .flat_map(|job| {
            job.operators
                .iter()
                .map(move |operator| (job, operator, operator.total()))
        })
        .collect();
    let names = JobNames::of(all.iter().map(|(job, ..)| *job), snapshot);
    vec![
        names.pipelines(),
        names.schemas(),
        text(all.iter().map(|(job, ..)| job.job.0.clone())),
        text(all.iter().map(|(_, operator, _)| operator.id.0.clone())),
        text(all.iter().map(|(_, operator, _)| operator.name.to_owned())),
        text(all.iter().map(|(_, operator, _)| operator.description.clone())),
        small(all.iter().map(|(_, operator, _)| operator.subtasks.len() as i32)),
        count(all.iter().map(|(.., total)| total.rows_in)),
        count(all.iter().map(|(.., total)| total.rows_out)),
        count(all.iter().map(|(.., total)| total.bytes_in)),
        count(all.iter().map(|(.., total)| total.bytes_out)),
        count(all.iter().map(|(.., total)| total.late_rows)),
        count(all.iter().map(|(.., total)| total.state_rows)),
        count(all.iter().map(|(.., total)| total.state_bytes)),
        seconds(all.iter().map(|(.., total)| total.busy_nanos)),
        seconds(all.iter().map(|(.., total)| total.blocked_nanos)),
        time(all.iter().map(|(.., total)| total.watermark)),
        text(
            all.iter()
                .map(|(_, operator, _)| operator.waits_for.as_ref().map(|wait| wait.what.clone())),
        ),
        time(
            all.iter()
                .map(|(_, operator, _)| operator.waits_for.as_ref().map(|wait| wait.since_micros)),
        ),
    ]
}

fn tasks(server: &ServerContext, snapshot: &CatalogSnapshot) -> Vec<ArrayRef> {
    let jobs = server.coordinator.jobs();
    let mut all = Vec::new();
    for job in &jobs {
        for operator in &job.operators {
            all.extend(
                (0_i32..)
                    .zip(&operator.subtasks)
                    .map(|(subtask, status)| (job, operator, subtask, *status)),
            );
        }
    }
    let names = JobNames::of(all.iter().map(|(job, ..)| *job), snapshot);
    vec![
        names.pipelines(),
        names.schemas(),
        text(all.iter().map(|(job, ..)| job.job.0.clone())),
        text(all.iter().map(|(_, operator, ..)| operator.id.0.clone())),
        text(all.iter().map(|(_, operator, ..)| operator.name.to_owned())),
        small(all.iter().map(|(_, _, subtask, _)| *subtask)),
        count(all.iter().map(|(.., status)| status.rows_in)),
        count(all.iter().map(|(.., status)| status.rows_out)),
        count(all.iter().map(|(.., status)| status.late_rows)),
        count(all.iter().map(|(.., status)| status.state_rows)),
        count(all.iter().map(|(.., status)| status.state_bytes)),
        seconds(all.iter().map(|(.., status)| status.busy_nanos)),
        seconds(all.iter().map(|(.., status)| status.blocked_nanos)),
        time(all.iter().map(|(.., status)| status.watermark)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_of_a_live_view_has_a_type() {
        for (name, columns) in [
            ("operators", OPERATORS),
            ("sessions", SESSIONS),
            ("connectors", CONNECTORS),
            ("tasks", TASKS),
            ("events", EVENTS),
            ("freshness", watch_views::FRESHNESS),
            ("sinks", watch_views::SINKS),
            ("splits", watch_views::SPLITS),
        ] {
            assert_eq!(
                columns_of(columns).fields().len(),
                columns.split(", ").count(),
                "{name}"
            );
        }
        assert!(schema_of("laminar", "materialized_views").is_some());
        assert!(schema_of("laminar", "nothing").is_none());
        assert!(names("laminar").contains(&"operators".to_owned()));
    }
}

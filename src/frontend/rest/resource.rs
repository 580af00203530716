//! Catalog objects as the resources of REST.

use chrono::{DateTime, SecondsFormat};
use serde_json::{Map, Value, json};

use super::error::{ApiError, ApiResult};
use super::model::{ConnectionProfile, ConnectionTable, JobResource, PipelineResource, TableSchema};
use super::statement::{BLOCK_END, BLOCK_START, DEFAULT_CHECKPOINT_INTERVAL_MICROS, DEFAULT_PARALLELISM};
use crate::catalog::objects::{Connection, Object, ObjectKind, Pipeline, Table};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::frontend::masked_options::{MASK, secret_names};
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions, normalize_name};
use crate::types::SqlType;

/// Parts of option names whose values are secret, for connectors that do not say so themselves.
const SECRET_WORDS: [&str; 6] = ["password", "secret", "token", "credential", "access_key", "api_key"];

/// The schema in which names without one are looked for.
const DEFAULT_SCHEMA: &str = "public";

/// The object that `id` names: by its id, else by its name, else by `schema.name`.
pub fn find<'a>(snapshot: &'a CatalogSnapshot, kind: ObjectKind, id: &str) -> ApiResult<&'a Object> {
    let by_id = snapshot.by_public_id(id).filter(|object| object.kind() == kind);
    let path = [DEFAULT_SCHEMA.to_owned()];
    let by_name = || snapshot.find(kind, &QualifiedName::unqualified(id), &path);
    let by_qualified_name = || {
        let (schema, name) = id.split_once('.')?;
        snapshot.find(kind, &QualifiedName::new(schema, name), &path)
    };
    by_id.or_else(by_name).or_else(by_qualified_name).ok_or_else(|| {
        let what = match kind {
            ObjectKind::Connection => "connection profile",
            other => other.word(),
        };
        ApiError::not_found(what, id)
    })
}

/// ISO 8601 in UTC, milliseconds.
fn iso_time(micros: i64) -> String {
    DateTime::from_timestamp_micros(micros)
        .map(|time| time.to_rfc3339_opts(SecondsFormat::Millis, true))
        .unwrap_or_default()
}

pub fn profile(connection: &Connection) -> ConnectionProfile {
    let header = &connection.header;
    ConnectionProfile {
        id: header.public_id.clone(),
        name: header.name.clone(),
        connector: connection.connector.clone(),
        description: connection.description.clone().or_else(|| header.comment.clone()),
        config: config(&connection.options, Some(&connection.connector), &["connector"]),
        created_at: iso_time(header.created_at_micros),
        updated_at: iso_time(header.updated_at_micros),
    }
}

pub fn table(snapshot: &CatalogSnapshot, table: &Table) -> ConnectionTable {
    let header = &table.header;
    let connection = match table.connection.and_then(|oid| snapshot.get(Oid(oid))) {
        Some(Object::Connection(connection)) => Some(connection),
        _ => None,
    };
    let own = |name: &str| table.options.text(name).map(str::to_owned);
    let connector = own("connector").or_else(|| connection.map(|connection| connection.connector.clone()));
    let shown_elsewhere = ["connector", "connection", "type", "event_time_field", "watermark_delay"];
    ConnectionTable {
        id: header.public_id.clone(),
        name: header.name.clone(),
        connection_profile_id: connection.map(|connection| connection.header.public_id.clone()),
        table_type: own("type"),
        schema: TableSchema {
            fields: Some(fields(table)),
            format: own("format").map(|format| json!({ format: {} })),
        },
        config: config(&table.options, connector.as_deref(), &shown_elsewhere),
        connector,
        event_time_field: own("event_time_field").or_else(|| table.watermark.as_ref().map(|mark| mark.column.clone())),
        watermark_delay: own("watermark_delay"),
        created_at: iso_time(header.created_at_micros),
        updated_at: iso_time(header.updated_at_micros),
    }
}

fn fields(table: &Table) -> Value {
    let field = |column: &crate::catalog::objects::Column| {
        let of = crate::types::parse(&column.sql_type);
        let data_type = of.as_ref().map_or_else(|_| column.sql_type.clone(), SqlType::to_sql);
        json!({"name": column.name, "data_type": data_type, "nullable": !column.not_null})
    };
    Value::Array(table.columns.iter().map(field).collect())
}

/// Options as JSON; secrets are masked.
fn config(options: &RawOptions, connector: Option<&str>, without: &[&str]) -> Map<String, Value> {
    let secret = connector.map(secret_names).unwrap_or_default();
    let mut config = Map::new();
    for (name, value) in &options.0 {
        let normalized = normalize_name(name);
        if without.contains(&normalized.as_str()) {
            continue;
        }
        let is_secret = secret.contains(&normalized) || SECRET_WORDS.iter().any(|word| normalized.contains(word));
        let shown = match value {
            RawOptionValue::Text(text) if !is_secret => text.clone(),
            RawOptionValue::Text(_) | RawOptionValue::Secret(_) => MASK.to_owned(),
        };
        config.insert(normalized, Value::String(shown));
    }
    config
}

/// A pipeline; `newest` is its newest job.
pub fn pipeline(
    pipeline: &Pipeline,
    newest: Option<&JobResource>,
    graph: Option<super::model::Graph>,
) -> PipelineResource {
    let header = &pipeline.header;
    let state = newest.map_or("Created", |job| job.state.as_str());
    let (action, action_text, action_in_progress) = action(state);
    PipelineResource {
        id: header.public_id.clone(),
        name: header.name.clone(),
        query: as_sent(&pipeline.query).to_owned(),
        udfs: Vec::new(),
        checkpoint_interval_micros: checkpoint_interval_micros(&pipeline.options),
        parallelism: pipeline
            .options
            .text("parallelism")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(DEFAULT_PARALLELISM),
        stop: if pipeline.desired_running { "none" } else { "checkpoint" },
        state: state.to_owned(),
        created_at: header.created_at_micros / 1000,
        action,
        action_text,
        action_in_progress,
        graph,
        preview: false,
    }
}

/// A file of statements was put into a block to be one statement.
fn as_sent(query: &str) -> &str {
    let inside = query
        .strip_prefix(BLOCK_START)
        .and_then(|rest| rest.strip_suffix(BLOCK_END));
    inside.unwrap_or(query)
}

/// What the user can do in a state: the value of `stop`, the word for it, whether something is under way.
fn action(state: &str) -> (Option<&'static str>, &'static str, bool) {
    match state {
        "Created" | "Stopped" | "Failed" | "Finished" => (Some("none"), "Start", false),
        "Running" | "Degraded" => (Some("checkpoint"), "Stop", false),
        "Stopping" => (None, "Stopping", true),
        "Scheduling" => (Some("checkpoint"), "Starting", true),
        "Recovering" => (Some("checkpoint"), "Recovering", true),
        "Rescaling" => (Some("checkpoint"), "Rescaling", true),
        _ => (None, "", false),
    }
}

fn checkpoint_interval_micros(options: &RawOptions) -> u64 {
    if let Some(micros) = options
        .text("checkpoint_interval_micros")
        .and_then(|text| text.trim().parse().ok())
    {
        return micros;
    }
    options
        .text("checkpoint_interval")
        .and_then(micros_of)
        .unwrap_or(DEFAULT_CHECKPOINT_INTERVAL_MICROS)
}

/// `10 s`, `500 ms`, `10000000 microseconds`, a bare number of seconds.
fn micros_of(text: &str) -> Option<u64> {
    let interval = crate::frontend::interval::parse(text)?;
    let days = i64::from(interval.months) * 30 + i64::from(interval.days);
    let micros = days.checked_mul(86_400_000_000)?.checked_add(interval.micros)?;
    u64::try_from(micros).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> RawOptions {
        RawOptions(
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), RawOptionValue::Text((*value).to_owned())))
                .collect(),
        )
    }

    #[test]
    fn secrets_are_masked() {
        let mut raw = options(&[
            ("path", "/x"),
            ("aws.secretAccessKey", "hunter2"),
            ("sasl_password", "hunter3"),
        ]);
        raw.0.push(("key".into(), RawOptionValue::Secret("s".into())));
        let shown = Value::Object(config(&raw, None, &[])).to_string();
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("/x"), "{shown}");
        assert_eq!(shown.matches(MASK).count(), 3, "{shown}");
    }

    #[test]
    fn intervals_become_micros() {
        for (text, micros) in [
            ("10 s", 10_000_000),
            ("500 ms", 500_000),
            ("10000000 microseconds", 10_000_000),
            ("7", 7_000_000),
        ] {
            assert_eq!(
                checkpoint_interval_micros(&options(&[("checkpoint_interval", text)])),
                micros,
                "{text}"
            );
        }
        assert_eq!(checkpoint_interval_micros(&options(&[])), 10_000_000);
    }

    #[test]
    fn times_are_iso() {
        assert_eq!(iso_time(1_709_210_096_789_000), "2024-02-29T12:34:56.789Z");
    }
}

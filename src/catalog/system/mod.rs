//! System views: `pg_catalog`, `information_schema` and `laminar`, as plain record batches computed from a snapshot.
//!
//! Which relations there are and their columns is data (`relations.txt`, `laminar.txt`); a relation that nothing here
//! fills is empty. Column names, order and types are those of Postgres 16. OIDs are persisted or functions of persisted
//! ones. Running SQL over the batches, casts to `regclass` and the functions by name are the planner's.

mod cluster;
mod definitions;
pub mod functions;
mod information_schema;
mod laminar;
mod names;
mod relations;
mod rows;
mod types;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;

pub use laminar::{Deliveries, laminar_rows};
pub use names::{role_oid, schema_oid};

use crate::catalog::snapshot::CatalogSnapshot;
use rows::Rows;

/// What the system views show beside the catalog.
#[derive(Clone, Debug, Default)]
pub struct SessionFacts {
    pub user: String,
    pub database: String,
    /// For `pg_settings`.
    pub settings: Vec<SettingFacts>,
    /// For `pg_stat_activity`.
    pub activity: Vec<Activity>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingFacts {
    pub name: String,
    pub value: String,
    pub default: String,
    pub unit: Option<String>,
    pub description: String,
    /// `bool`, `integer`, `real`, `string` or `enum`.
    pub kind: &'static str,
    pub settable: bool,
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activity {
    pub process: i32,
    pub user: String,
    pub application_name: String,
    pub client_address: Option<String>,
    pub client_port: Option<i32>,
    pub started_at_micros: i64,
    pub statement_started_at_micros: Option<i64>,
    /// `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`.
    pub state: &'static str,
    pub query: String,
}

/// Schema and name of every system relation, those of `laminar` included.
pub fn table_names() -> impl Iterator<Item = (&'static str, &'static str)> {
    definitions::RELATIONS
        .iter()
        .map(|relation| (relation.schema, relation.name))
}

/// The columns of a system relation.
pub fn schema_of(schema: &str, name: &str) -> Option<SchemaRef> {
    definitions::find(schema, name).map(|relation| Arc::clone(&relation.arrow))
}

/// The rows of a relation of `pg_catalog` or `information_schema`; [`laminar_rows`] has the others.
pub fn rows(schema: &str, name: &str, snapshot: &CatalogSnapshot, facts: &SessionFacts) -> Option<RecordBatch> {
    let mut rows = Rows::of(definitions::find(schema, name)?);
    match schema {
        "pg_catalog" => fill_pg_catalog(name, &mut rows, snapshot, facts),
        "information_schema" => fill_information_schema(name, &mut rows, snapshot, facts),
        _ => return None,
    }
    let own = rows.finish();
    match BUILT_IN.get(name).filter(|_| schema == "pg_catalog") {
        Some(built_in) => concat_batches(&own.schema(), [built_in, &own]).ok(),
        None => Some(own),
    }
}

/// Rows that never change: made once, because they are many and every `\d` reads them several times.
static BUILT_IN: LazyLock<HashMap<&'static str, RecordBatch>> = LazyLock::new(|| {
    let relations: [(&'static str, fn(&mut Rows)); 4] = [
        ("pg_class", relations::pg_class_of_system),
        ("pg_attribute", relations::pg_attribute_of_system),
        ("pg_type", types::pg_type),
        ("pg_proc", types::pg_proc),
    ];
    let build = |(name, fill): (&'static str, fn(&mut Rows))| {
        let mut rows = Rows::of(definitions::find("pg_catalog", name)?);
        fill(&mut rows);
        Some((name, rows.finish()))
    };
    relations.into_iter().filter_map(build).collect()
});

fn fill_pg_catalog(name: &str, rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    match name {
        "pg_class" => relations::pg_class(rows, snapshot),
        "pg_attribute" => relations::pg_attribute(rows, snapshot),
        "pg_attrdef" => relations::pg_attrdef(rows, snapshot),
        "pg_index" => relations::pg_index(rows, snapshot),
        "pg_constraint" => relations::pg_constraint(rows, snapshot),
        "pg_rewrite" => relations::pg_rewrite(rows, snapshot),
        "pg_depend" => relations::pg_depend(rows, snapshot),
        "pg_description" => relations::pg_description(rows, snapshot),
        "pg_tables" => relations::pg_tables(rows, snapshot),
        "pg_views" => relations::pg_views(rows, snapshot),
        "pg_matviews" => relations::pg_matviews(rows, snapshot),
        "pg_indexes" => relations::pg_indexes(rows, snapshot),
        "pg_namespace" => cluster::pg_namespace(rows, snapshot),
        "pg_database" => cluster::pg_database(rows, facts),
        "pg_roles" | "pg_authid" => cluster::pg_roles(rows, snapshot, facts),
        "pg_user" | "pg_shadow" => cluster::pg_user(rows, snapshot, facts),
        "pg_am" => cluster::pg_am(rows),
        "pg_tablespace" => cluster::pg_tablespace(rows),
        "pg_language" => cluster::pg_language(rows),
        "pg_collation" => cluster::pg_collation(rows),
        "pg_settings" => cluster::pg_settings(rows, &facts.settings),
        "pg_stat_activity" => cluster::pg_stat_activity(rows, facts),
        // The rest is empty: there are no triggers, policies, foreign tables.
        _ => {}
    }
}

fn fill_information_schema(name: &str, rows: &mut Rows, snapshot: &CatalogSnapshot, facts: &SessionFacts) {
    match name {
        "information_schema_catalog_name" => information_schema::catalog_name(rows, facts),
        "schemata" => information_schema::schemata(rows, snapshot, facts),
        "tables" => information_schema::tables(rows, snapshot, facts),
        "columns" => information_schema::columns(rows, snapshot, facts),
        "views" => information_schema::views(rows, snapshot, facts),
        "table_constraints" => information_schema::table_constraints(rows, snapshot, facts),
        "key_column_usage" => information_schema::key_column_usage(rows, snapshot, facts),
        "constraint_column_usage" => information_schema::constraint_column_usage(rows, snapshot, facts),
        "character_sets" => information_schema::character_sets(rows, facts),
        "enabled_roles" => information_schema::enabled_roles(rows, facts),
        _ => {}
    }
}

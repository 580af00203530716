//! An internal table as something that has a job.
//!
//! The job of a table is started, checkpointed, restored and forgotten as a pipeline's: under the table's OID and public id.
//! It has no query and no options, it always shall run, and its barriers come when statements ask for them.

use crate::catalog::objects::{Object, Pipeline, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::error::Error;
use crate::ids::Oid;
use crate::options::RawOptions;
use crate::state::key_group::KEY_GROUPS_DEFAULT;

/// The pipeline that keeps an internal table; `None` for a connected one.
pub fn keeper(table: &Table) -> Option<Pipeline> {
    let column = |column: &crate::catalog::objects::Column| (column.name.clone(), column.sql_type.clone());
    table.is_internal().then(|| Pipeline {
        header: table.header.clone(),
        query: String::new(),
        options: RawOptions::default(),
        columns: table.columns.iter().map(column).collect(),
        unique_key: table.primary_key.clone(),
        append_only: false,
        bounded: false,
        materialized_view: false,
        desired_running: true,
        key_groups: KEY_GROUPS_DEFAULT,
        search_path: table.search_path.clone(),
        counts_after: Default::default(),
    })
}

/// The pipeline of this OID, or the one that keeps the table of this OID.
pub fn job_owner(snapshot: &CatalogSnapshot, oid: Oid) -> Option<Pipeline> {
    match snapshot.get(oid)? {
        Object::Pipeline(pipeline) => Some(pipeline.clone()),
        Object::Table(table) => keeper(table),
        _ => None,
    }
}

/// How the job of `owner` runs.
pub fn settings_of(
    snapshot: &CatalogSnapshot,
    owner: &Pipeline,
    defaults: PipelineSettings,
) -> Result<PipelineSettings, Error> {
    let settings = PipelineSettings::of(&owner.options, defaults)?;
    let is_table = matches!(snapshot.get(owner.header.oid), Some(Object::Table(_)));
    Ok(match is_table {
        true => PipelineSettings {
            // One mailbox, read in order.
            parallelism: 1,
            on_demand: true,
            ..settings
        },
        false => settings,
    })
}

//! Lookup tables: connected tables that are asked for the rows of some keys, by `type = 'lookup'` or because their connector can do
//! nothing else.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::logical_expr::{Expr, TableSource};

use crate::catalog::objects::{Column, ColumnKind, Table};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::connectors::lookup::LookupOptions;
use crate::engine::connectors::{ConnectorTable, Direction};
use crate::error::{ErrorReport, SqlState};
use crate::ids::Oid;
use crate::options::ResolvedOptions;
use crate::planner::bind::Binder;
use crate::planner::bind::syntax::Purpose;
use crate::planner::bind::tables;
use crate::planner::error::{Error, Result};
use crate::planner::functions;
use crate::planner::settings::Settings;

/// A lookup table as one side of a join.
pub struct LookupTable {
    pub oid: Oid,
    /// `public.customers`.
    pub name: String,
    pub table: Arc<dyn ConnectorTable>,
    pub options: LookupOptions,
    /// The declared columns.
    pub schema: SchemaRef,
    /// All that the connector can be asked for.
    pub connector_schema: SchemaRef,
    /// Each declared column over the connector's.
    pub columns: Vec<Expr>,
    /// The columns of the PRIMARY KEY, among the connector's.
    pub key: Vec<usize>,
}

impl TableSource for LookupTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// Whether a table with these options is one.
pub fn is_lookup(options: &ResolvedOptions, table: &dyn ConnectorTable) -> bool {
    let declared = options.get("type").is_some_and(|of| is_lookup_word(&of.text));
    declared || table.direction() == Direction::Lookup
}

fn is_lookup_word(of: &str) -> bool {
    of.trim().eq_ignore_ascii_case("lookup")
}

/// The table, when it is a lookup table.
pub fn lookup(binder: &Binder<'_>, table: &Table) -> Result<Option<LookupTable>> {
    let declared = table.options.text("type").is_some_and(is_lookup_word);
    if !declared && !tables::can_only_look_up(binder, table) {
        return Ok(None);
    }
    let (_, resolved) = tables::resolve(binder, table, Some(tables::declared_schema(table)?))?;
    let Some(lookup_options) = resolved.lookup_options() else {
        return Err(Error::not_supported(
            format!(
                "rows cannot be looked up in tables of connector \"{}\"",
                resolved.connector()
            ),
            "SHOW CONNECTORS says which connectors have lookup tables.",
        ));
    };
    let name = &table.header.name;
    if !resolved.append_only() {
        return Err(Error::not_supported(
            format!("rows cannot be looked up in table \"{name}\", which holds changes"),
            "Look them up in the rows themselves, or read the table as a stream: a pipeline keeps what its changes leave.",
        ));
    }
    refuse_what_only_streams_have(table)?;
    let connector_schema = resolved
        .schema()
        .ok_or_else(|| invalid(format!("lookup table \"{name}\" has no columns"), "Declare them."))?;
    let declared = Schema::new(tables::declared_fields(table)?);
    let columns = tables::column_expressions(binder, table, &declared, &connector_schema)?;
    if table.primary_key.is_empty() {
        return Err(invalid(
            format!("lookup table \"{name}\" has no primary key"),
            "Declare PRIMARY KEY (column, ..): the columns by which rows are looked up.",
        ));
    }
    let key = table.primary_key.iter().map(|column| {
        connector_schema.index_of(column).map_err(|_| {
            invalid(
                format!("column \"{column}\" of the primary key of lookup table \"{name}\" is computed"),
                "Rows can be looked up by columns of the system outside only.",
            )
        })
    });
    Ok(Some(LookupTable {
        oid: table.header.oid,
        name: tables::qualified(table),
        options: lookup_options,
        schema: Arc::new(declared),
        columns,
        key: key.collect::<Result<Vec<_>>>()?,
        connector_schema,
        table: resolved,
    }))
}

/// What a lookup table must be, whatever it is joined to.
pub fn check(table: &Table, snapshot: &CatalogSnapshot, settings: &Settings) -> Result<()> {
    let functions = functions::register_all(&settings.session);
    let binder = Binder::new(snapshot, settings, &functions, &[], Purpose::Pipeline, None);
    lookup(&binder, table).map(|_| ())
}

fn refuse_what_only_streams_have(table: &Table) -> Result<()> {
    let name = &table.header.name;
    if table.watermark.is_some() {
        return Err(invalid(
            format!("lookup table \"{name}\" has a watermark"),
            "Its rows are those of the moment they are asked for: leave WATERMARK out.",
        ));
    }
    let metadata = |column: &&Column| matches!(column.kind, ColumnKind::Metadata(_));
    match table.columns.iter().find(metadata) {
        Some(column) => Err(Error::not_supported(
            format!(
                "metadata column \"{}\" of lookup table \"{name}\" is not supported",
                column.name
            ),
            "Leave it out.",
        )),
        None => Ok(()),
    }
}

fn invalid(message: String, hint: &str) -> Error {
    Error::Table(ErrorReport::new(SqlState::INVALID_TABLE_DEFINITION, message).with_hint(hint))
}

//! Statements that change internal tables: INSERT, UPDATE, DELETE, TRUNCATE, and their commit.
//!
//!     begin: write lock, rows as they are --> plan, run --> rules, unique keys --> RETURNING --> finish: commit, or keep for COMMIT
//!
//! Guarantees: a statement changes all it says or nothing; outside of a transaction block it answers after its changes are
//! durable, and nobody reads them before; two statements never compute over the same rows of a table at the same time. An answer that never came (the
//! client left, the server was killed) leaves open whether the statement took effect, as in Postgres.

pub mod change;
pub mod commit;
mod conflict;
pub mod describe;
pub mod durable;
pub mod insert;
mod unique;
mod writer;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast::{self, SelectItem};
use futures::TryStreamExt;

use crate::catalog::objects::{Object, Table};
use crate::catalog::snapshot::QualifiedName;
use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::relations::SessionRelations;
use crate::frontend::response::{Response, RowsTag};
use crate::frontend::session::Session;
use crate::frontend::table_rows::{MemoryRows, StatementRelations};
use crate::planner::batch::{self, BatchQuery, ResultRows};
use crate::planner::bind::names;
use crate::planner::bind::positions::SourceText;
use crate::planner::dml::statements::{Planning, TARGET_ROWS};

pub use crate::frontend::statements::dml::writer::{TableWrites, WritesMark, own_rows};

/// The table that a statement changes, and what the statement calls it.
pub struct Target {
    pub table: Table,
    pub alias: String,
}

impl Target {
    /// `verb`: as in "cannot update".
    pub fn find(session: &Session, name: &ast::ObjectName, alias: Option<&ast::Ident>, verb: &str) -> Result<Target> {
        let snapshot = session.snapshot();
        let qualified =
            names::qualified(name).ok_or_else(|| Error::Internal("a statement without a table".to_owned()))?;
        match snapshot.resolve_relation(&qualified, &session.search_path()) {
            Some(Object::Table(table)) if table.is_internal() => Ok(Target {
                alias: alias.map_or_else(|| table.header.name.clone(), names::folded),
                table: table.clone(),
            }),
            Some(other) => Err(unchangeable(other, verb)),
            None => Err(undefined(session, &qualified)),
        }
    }
}

/// The internal table of this name; `None` when it is something else, or nothing.
pub fn internal_table(session: &Session, name: &ast::ObjectName) -> Option<Table> {
    let snapshot = session.snapshot();
    match snapshot.resolve_relation(&names::qualified(name)?, &session.search_path())? {
        Object::Table(table) if table.is_internal() => Some(table.clone()),
        _ => None,
    }
}

fn unchangeable(object: &Object, verb: &str) -> Error {
    let name = &object.header().name;
    match object {
        Object::Table(_) => Error::not_supported(
            format!("{verb} of table \"{name}\", which is connected to an outside system,"),
            "Streams change by what arrives; compute the change in a pipeline, or keep the rows in a table without a connector.",
        ),
        other => Error::user(
            SqlState::WRONG_OBJECT_TYPE,
            format!("cannot {verb} {} \"{name}\"", other.kind().word()),
        ),
    }
}

fn undefined(session: &Session, name: &QualifiedName) -> Error {
    let snapshot = session.snapshot();
    let tables = snapshot.tables().filter(|table| table.is_internal());
    let names: Vec<&str> = tables.map(|table| table.header.name.as_str()).collect();
    Error::Undefined {
        code: SqlState::UNDEFINED_TABLE,
        what: "relation",
        name: name.to_string(),
        nearest: crate::error::nearest(&name.name, names).map(str::to_owned),
    }
}

/// All rows of a query at once: a statement changes nothing before it knows everything.
async fn collect(query: BatchQuery) -> Result<RecordBatch> {
    let schema = query.schema();
    let batches: Vec<RecordBatch> = query
        .execute()
        .await?
        .try_collect()
        .await
        .map_err(|error| SourceText("").error(error))?;
    Ok(concat_batches(&schema, &batches).map_err(crate::frontend::table_rows::internal)?)
}

/// Calls `with` with what planning a statement of `target` needs: the table has `rows`, those of `own` are found under
/// their names.
fn planning<T>(
    session: &Session,
    target: &Target,
    source: &str,
    rows: Option<&Arc<dyn ResultRows>>,
    own: Vec<(&'static str, Arc<dyn ResultRows>)>,
    with: impl FnOnce(&Planning<'_>) -> crate::planner::error::Result<T>,
) -> Result<T> {
    let session_relations = SessionRelations::of(session);
    let relations = StatementRelations {
        others: &session_relations,
        table: rows.map(|rows| (target.table.header.oid, Arc::clone(rows))),
        own,
    };
    with(&Planning {
        table: &target.table,
        text: source,
        snapshot: &session.snapshot(),
        settings: &session.planner_settings(),
        relations: &relations,
    })
    .map_err(Error::from)
}

/// The rows of RETURNING over the rows that were changed.
async fn returned(
    session: &Session,
    target: &Target,
    source: &str,
    items: &[SelectItem],
    changed: RecordBatch,
) -> Result<RecordBatch> {
    let own: Arc<dyn ResultRows> = Arc::new(MemoryRows { rows: changed });
    let query = planning(session, target, source, None, vec![(TARGET_ROWS, own)], |planning| {
        let query = planning.returning(&target.alias, items)?;
        batch::plan_select(
            &query,
            source,
            planning.snapshot,
            planning.settings,
            planning.relations,
            &[],
        )
    })?;
    collect(query).await
}

/// The columns of RETURNING, without running anything.
pub fn returned_columns(session: &Session, target: &Target, source: &str, items: &[SelectItem]) -> Result<SchemaRef> {
    let rows = RecordBatch::new_empty(crate::planner::dml::schema_of(&target.table)?);
    let own: Arc<dyn ResultRows> = Arc::new(MemoryRows { rows });
    planning(session, target, source, None, vec![(TARGET_ROWS, own)], |planning| {
        let query = planning.returning(&target.alias, items)?;
        batch::describe_select(
            &query,
            source,
            planning.snapshot,
            planning.settings,
            planning.relations,
            &[],
        )
    })
}

/// `INSERT 0 3`, or the rows of RETURNING with that tag.
fn response(verb: &'static str, count: usize, returned: Option<RecordBatch>) -> Response {
    match returned {
        Some(rows) => Response::batch(rows, RowsTag::Counted(verb)),
        None => Response::complete(format!("{verb} {count}")),
    }
}

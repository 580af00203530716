//! INSERT into an internal table, with ON CONFLICT and RETURNING.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use datafusion::sql::sqlparser::ast;

use crate::catalog::objects::Table;
use crate::frontend::error::{Error, Result};
use crate::frontend::response::{CopyIn, Response};
use crate::frontend::session::Session;
use crate::frontend::sql::statement::InsertText;
use crate::frontend::statements::dml::conflict::{self, Conflict};
use crate::frontend::statements::dml::writer::Writer;
use crate::frontend::statements::dml::{Target, collect, planning, response, returned, unique};
use crate::frontend::statements::query::wait_for_read_results;
use crate::frontend::table_rows::MemoryRows;
use crate::planner::batch::{BatchQuery, ResultRows};
use crate::planner::dialect;
use crate::planner::dml::statements::{EXCLUDED_ROWS, STATEMENT_SCHEMA};
use crate::types::SqlType;

/// What the statement says about its table.
pub fn target_of(table: Table, tree: &ast::Insert) -> Target {
    let alias = tree.table_alias.as_ref();
    let alias = alias.map(|alias| crate::planner::bind::names::folded(&alias.alias));
    Target {
        alias: alias.unwrap_or_else(|| table.header.name.clone()),
        table,
    }
}

pub async fn insert(session: &mut Session, table: Table, insert: &InsertText, source: &str) -> Result<Response> {
    let tree = insert.insert.as_ref();
    refuse_foreign(insert)?;
    let target = target_of(table, tree);
    let conflict = tree
        .on
        .as_ref()
        .map(|on| Conflict::read(&target.table, on))
        .transpose()?;
    if let Some(query) = &tree.source {
        wait_for_read_results(session, query.as_ref()).await;
    }
    let writer = Writer::begin(session, &target.table).await?;
    let query = planning(session, &target, source, Some(&writer.rows), Vec::new(), |planning| {
        let columns: Vec<ast::Ident> = tree
            .columns
            .iter()
            .filter_map(|name| name.0.last().and_then(ast::ObjectNamePart::as_ident).cloned())
            .collect();
        match &tree.source {
            Some(query) => planning.insert(query, &columns),
            None => planning.insert_defaults(),
        }
    })?;
    let proposed = proposed_rows(query, &writer).await?;
    finish(
        session,
        writer,
        &target,
        conflict,
        proposed,
        tree.returning.as_deref(),
        source,
    )
    .await
}

async fn proposed_rows(query: BatchQuery, writer: &Writer) -> Result<RecordBatch> {
    let rows = collect(query).await?;
    let stored: Vec<ArrayRef> = rows.columns().iter().map(Arc::clone).collect();
    Ok(writer.rules.complete(&stored, rows.num_rows())?)
}

/// Rows that are whole and keep the rules: into the table, or into conflicts.
async fn finish(
    session: &mut Session,
    writer: Writer,
    target: &Target,
    conflict: Option<Conflict<'_>>,
    proposed: RecordBatch,
    returning: Option<&[ast::SelectItem]>,
    source: &str,
) -> Result<Response> {
    let (removed, added) = match conflict {
        Some(conflict) => conflict::resolve(session, &writer, target, &conflict, &proposed, source).await?,
        None => (proposed.slice(0, 0), proposed),
    };
    unique::check(&target.table, writer.rows.as_ref(), &removed, &added)?;
    let answer = match returning {
        Some(items) => Some(returned(session, target, source, items, added.clone()).await?),
        None => None,
    };
    writer.finish(session, &removed, &added).await?;
    Ok(response("INSERT 0", added.num_rows(), answer))
}

/// The columns that COPY fills, by their names or all.
pub fn copied_columns(session: &Session, target: &Target, names: &[String]) -> Result<Vec<(String, SqlType)>> {
    let columns = planning(session, target, "", None, Vec::new(), |planning| {
        planning.named_columns(&identifiers(names))
    })?;
    let column = |column: &usize| {
        let column = &target.table.columns[*column];
        Ok((column.name.clone(), crate::types::parse(&column.sql_type)?))
    };
    columns.iter().map(column).collect()
}

/// Inserts the rows of a COPY; their number.
pub async fn copied(session: &mut Session, copy: &CopyIn, rows: RecordBatch) -> Result<u64> {
    let target = Target {
        alias: copy.table.header.name.clone(),
        table: copy.table.clone(),
    };
    let writer = Writer::begin(session, &target.table).await?;
    let names: Vec<String> = copy.columns.iter().map(|(name, _)| name.clone()).collect();
    let own: Arc<dyn ResultRows> = Arc::new(MemoryRows { rows });
    let query = planning(
        session,
        &target,
        "",
        Some(&writer.rows),
        vec![(EXCLUDED_ROWS, own)],
        |planning| {
            let rows = dialect::parse_query(&format!("SELECT * FROM {STATEMENT_SCHEMA}.{EXCLUDED_ROWS}"))?;
            planning.insert(&rows, &identifiers(&names))
        },
    )?;
    let added = proposed_rows(query, &writer).await?;
    let removed = added.slice(0, 0);
    unique::check(&target.table, writer.rows.as_ref(), &removed, &added)?;
    writer.finish(session, &removed, &added).await?;
    Ok(added.num_rows() as u64)
}

fn identifiers(names: &[String]) -> Vec<ast::Ident> {
    names.iter().map(|name| ast::Ident::with_quote('"', name)).collect()
}

fn refuse_foreign(insert: &InsertText) -> Result<()> {
    let tree = insert.insert.as_ref();
    let foreign = tree.or.is_some()
        || tree.ignore
        || tree.replace_into
        || tree.overwrite
        || !tree.assignments.is_empty()
        || tree.partitioned.is_some()
        || tree.output.is_some()
        || insert.emit.is_some();
    if foreign {
        return Err(Error::not_supported(
            "this form of INSERT",
            "Write INSERT INTO table (columns) VALUES (..) or SELECT ..",
        ));
    }
    Ok(())
}

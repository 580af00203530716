//! What the extended protocol asks of a statement that changes a table: parameters, and the columns of RETURNING.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast;

use crate::frontend::error::Result;
use crate::frontend::session::Session;
use crate::frontend::sql::placeholders;
use crate::frontend::sql::statement::InsertText;
use crate::frontend::statements::dml::change::{self, set_columns};
use crate::frontend::statements::dml::insert::target_of;
use crate::frontend::statements::dml::{internal_table, planning, returned_columns};
use crate::frontend::table_rows::{MemoryRows, NumberedRows};
use crate::planner::batch::{self, ResultRows};
use crate::planner::dml::schema_of;
use crate::planner::dml::statements::TARGET_ROWS;
use crate::types::{self, SqlType};

/// Of UPDATE and DELETE: what a cast says, else the column that a parameter fills or is compared with.
pub fn parameter_types(
    session: &Session,
    tree: &ast::Statement,
    source: &str,
    declared: &[Option<SqlType>],
) -> Result<Vec<Option<SqlType>>> {
    let Some(statement) = change::read(session, tree)? else {
        return Ok(Vec::new());
    };
    let target = &statement.target;
    let nothing = RecordBatch::new_empty(schema_of(&target.table)?);
    let rows: Arc<dyn ResultRows> = Arc::new(MemoryRows { rows: nothing });
    let numbered: Arc<dyn ResultRows> = Arc::new(NumberedRows::of(Arc::clone(&rows)));
    planning(
        session,
        target,
        source,
        Some(&rows),
        vec![(TARGET_ROWS, numbered)],
        |planning| {
            let set = set_columns(planning, statement.assignments.unwrap_or_default())?;
            let query = planning.changed_query(&target.alias, &statement.found(), &set)?;
            let mut types = declared.to_vec();
            let filled = set.iter().filter_map(|item| {
                let number = placeholders::number_of(&item.value)?.checked_sub(1)?;
                Some((number, types::parse(&target.table.columns[item.column].sql_type).ok()?))
            });
            let said = placeholders::said_types(&query).into_iter().enumerate();
            let said = said.filter_map(|(number, said)| Some((number, said?)));
            for (number, known) in said.chain(filled) {
                if types.len() <= number {
                    types.resize(number + 1, None);
                }
                types[number].get_or_insert(known);
            }
            let found = batch::parameter_types(
                &query,
                source,
                planning.snapshot,
                planning.settings,
                planning.relations,
                &types,
            )?;
            Ok(found.into_iter().map(Some).collect())
        },
    )
}

/// The columns of `INSERT .. RETURNING`; `None` without it.
pub fn insert_columns(session: &Session, insert: &InsertText, source: &str) -> Result<Option<SchemaRef>> {
    let tree = insert.insert.as_ref();
    let (ast::TableObject::TableName(name), Some(items)) = (&tree.table, &tree.returning) else {
        return Ok(None);
    };
    match internal_table(session, name) {
        Some(table) => returned_columns(session, &target_of(table, tree), source, items).map(Some),
        None => Ok(None),
    }
}

/// The columns of `UPDATE .. RETURNING` and `DELETE .. RETURNING`.
pub fn change_columns(session: &Session, tree: &ast::Statement, source: &str) -> Result<Option<SchemaRef>> {
    let Some(statement) = change::read(session, tree)? else {
        return Ok(None);
    };
    match statement.returning {
        Some(items) => returned_columns(session, &statement.target, source, items).map(Some),
        None => Ok(None),
    }
}

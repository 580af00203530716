//! UPDATE, DELETE, TRUNCATE.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::Int64Type;
use datafusion::sql::sqlparser::ast::{self, SelectItem, TableFactor, TableWithJoins};

use crate::frontend::error::{Error, Result};
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::statements::dml::writer::Writer;
use crate::frontend::statements::dml::{Target, collect, planning, response, returned, unique};
use crate::frontend::table_rows::{NumberedRows, internal};
use crate::planner::batch::ResultRows;
use crate::planner::bind::names;
use crate::planner::dml::rules::RowRules;
use crate::planner::dml::statements::{Found, Planning, SetColumn, TARGET_ROWS};

/// What UPDATE and DELETE have in common.
pub struct ChangeStatement<'a> {
    pub target: Target,
    pub from: &'a [TableWithJoins],
    pub selection: Option<&'a ast::Expr>,
    /// What is named before the statement.
    pub with: Option<&'a ast::With>,
    /// Of UPDATE.
    pub assignments: Option<&'a [ast::Assignment]>,
    pub returning: Option<&'a [SelectItem]>,
}

impl<'a> ChangeStatement<'a> {
    /// Which rows it finds.
    pub fn found(&self) -> Found<'a> {
        Found {
            with: self.with,
            from: self.from,
            selection: self.selection,
        }
    }
}

/// `None`: the statement changes no rows.
pub fn read<'a>(session: &Session, statement: &'a ast::Statement) -> Result<Option<ChangeStatement<'a>>> {
    match statement {
        ast::Statement::Update(update) => read_update(session, update).map(Some),
        ast::Statement::Delete(delete) => read_delete(session, delete).map(Some),
        ast::Statement::Query(query) => match query.body.as_ref() {
            ast::SetExpr::Update(inner) | ast::SetExpr::Delete(inner) => {
                let statement = read(session, inner)?;
                Ok(statement.map(|statement| ChangeStatement {
                    with: query.with.as_ref(),
                    ..statement
                }))
            }
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

fn read_update<'a>(session: &Session, update: &'a ast::Update) -> Result<ChangeStatement<'a>> {
    let foreign =
        update.or.is_some() || !update.order_by.is_empty() || update.limit.is_some() || update.output.is_some();
    if foreign || !update.table.joins.is_empty() {
        return Err(Error::not_supported(
            "this form of UPDATE",
            "Write UPDATE table SET column = value FROM .. WHERE ..",
        ));
    }
    let from = match &update.from {
        None => &[][..],
        Some(ast::UpdateTableFromKind::AfterSet(from) | ast::UpdateTableFromKind::BeforeSet(from)) => from.as_slice(),
    };
    Ok(ChangeStatement {
        target: target_of(session, &update.table.relation, "update")?,
        from,
        selection: update.selection.as_ref(),
        with: None,
        assignments: Some(&update.assignments),
        returning: update.returning.as_deref(),
    })
}

fn read_delete<'a>(session: &Session, delete: &'a ast::Delete) -> Result<ChangeStatement<'a>> {
    let (ast::FromTable::WithFromKeyword(from) | ast::FromTable::WithoutKeyword(from)) = &delete.from;
    let foreign = !delete.order_by.is_empty() || delete.limit.is_some() || delete.output.is_some();
    match from.as_slice() {
        [only] if only.joins.is_empty() && delete.tables.is_empty() && !foreign => Ok(ChangeStatement {
            target: target_of(session, &only.relation, "delete from")?,
            from: delete.using.as_deref().unwrap_or_default(),
            selection: delete.selection.as_ref(),
            with: None,
            assignments: None,
            returning: delete.returning.as_deref(),
        }),
        _ => Err(Error::not_supported(
            "this form of DELETE",
            "Write DELETE FROM table USING .. WHERE ..",
        )),
    }
}

fn target_of(session: &Session, relation: &TableFactor, verb: &str) -> Result<Target> {
    let TableFactor::Table { name, alias, .. } = relation else {
        return Err(Error::not_supported(
            format!("{verb} something other than a table"),
            "Name a table.",
        ));
    };
    Target::find(session, name, alias.as_ref().map(|alias| &alias.name), verb)
}

/// UPDATE and DELETE.
pub async fn change(session: &mut Session, statement: ChangeStatement<'_>, source: &str) -> Result<Response> {
    let ChangeStatement { target, .. } = &statement;
    let writer = Writer::begin(session, &target.table).await?;
    let rows: Arc<dyn ResultRows> = Arc::new(NumberedRows::of(Arc::clone(&writer.rows)));
    let (set, query) = planning(
        session,
        target,
        source,
        Some(&writer.rows),
        vec![(TARGET_ROWS, rows)],
        |planning| {
            let set = match statement.assignments {
                Some(assignments) => set_columns(planning, assignments)?,
                None => Vec::new(),
            };
            let query = planning.changed(&target.alias, &statement.found(), &set)?;
            Ok((set, query))
        },
    )?;
    let found = each_row_once(collect(query).await?)?;
    let removed = old_rows(&found, &writer.rules)?;
    let added = match statement.assignments {
        Some(_) => new_rows(&found, &set, &writer.rules)?,
        None => removed.slice(0, 0),
    };
    unique::check(&target.table, writer.rows.as_ref(), &removed, &added)?;
    let (verb, shown) = match statement.assignments {
        Some(_) => ("UPDATE", &added),
        None => ("DELETE", &removed),
    };
    let answer = match statement.returning {
        Some(items) => Some(returned(session, target, source, items, shown.clone()).await?),
        None => None,
    };
    writer.finish(session, &removed, &added).await?;
    Ok(response(verb, removed.num_rows(), answer))
}

/// What an UPDATE sets, column by column.
pub fn set_columns(
    planning: &Planning<'_>,
    assignments: &[ast::Assignment],
) -> crate::planner::error::Result<Vec<SetColumn>> {
    use crate::error::SqlState;
    use crate::planner::error::Error;
    let mut set: Vec<SetColumn> = Vec::new();
    for assignment in assignments {
        let pairs: Vec<(&ast::ObjectName, &ast::Expr)> = match (&assignment.target, &assignment.value) {
            (ast::AssignmentTarget::ColumnName(name), value) => vec![(name, value)],
            (ast::AssignmentTarget::Tuple(names), ast::Expr::Tuple(values)) if names.len() == values.len() => {
                names.iter().zip(values).collect()
            }
            (ast::AssignmentTarget::Tuple(_), ast::Expr::Tuple(_)) => {
                let message = "number of columns does not match number of values";
                return Err(Error::query(SqlState::SYNTAX_ERROR, message));
            }
            (ast::AssignmentTarget::Tuple(_), _) => {
                return Err(Error::not_supported(
                    "SET of several columns from a subquery is not supported",
                    "Write one subquery a column, or use UPDATE .. FROM.",
                ));
            }
        };
        for (name, value) in pairs {
            let Some(ident) = name.0.last().and_then(ast::ObjectNamePart::as_ident) else {
                return Err(Error::Internal("a column without a name".into()));
            };
            let position = crate::planner::bind::positions::SourceText(planning.text).position(ident.span);
            let column = planning
                .column(&names::folded(ident))
                .map_err(|error| error.at(position))?;
            if set.iter().any(|other| other.column == column) {
                let message = format!("multiple assignments to same column \"{}\"", names::folded(ident));
                return Err(Error::query(SqlState::SYNTAX_ERROR, message).at(position));
            }
            set.push(SetColumn {
                column,
                value: value.clone(),
            });
        }
    }
    Ok(set)
}

/// A row that FROM or USING finds several times is changed once, as the first of them says.
fn each_row_once(found: RecordBatch) -> Result<RecordBatch> {
    let numbers = found.column(0).as_primitive::<Int64Type>();
    let mut seen = HashSet::with_capacity(found.num_rows());
    let first: Vec<u32> = (0_u32..)
        .zip(numbers.values())
        .filter(|(_, number)| seen.insert(**number))
        .map(|(row, _)| row)
        .collect();
    if first.len() == found.num_rows() {
        return Ok(found);
    }
    Ok(take_record_batch(&found, &UInt32Array::from(first)).map_err(internal)?)
}

/// The rows as they were: behind the row number.
pub fn old_rows(found: &RecordBatch, rules: &RowRules) -> Result<RecordBatch> {
    let columns = found.columns()[1..=rules.schema().fields().len()].to_vec();
    Ok(RecordBatch::try_new(Arc::clone(rules.schema()), columns).map_err(internal)?)
}

/// The rows as they shall be: what is set comes behind the old columns.
pub fn new_rows(found: &RecordBatch, set: &[SetColumn], rules: &RowRules) -> Result<RecordBatch> {
    let behind = rules.schema().fields().len() + 1;
    let column = |column: &usize| -> ArrayRef {
        let at = match set.iter().position(|item| item.column == *column) {
            Some(index) => behind + index,
            None => column + 1,
        };
        Arc::clone(found.column(at))
    };
    let stored: Vec<ArrayRef> = rules.stored().iter().map(column).collect();
    Ok(rules.complete(&stored, found.num_rows())?)
}

pub async fn truncate(session: &mut Session, truncate: &ast::Truncate, source: &str) -> Result<Response> {
    let [only] = truncate.table_names.as_slice() else {
        return Err(Error::not_supported(
            "TRUNCATE of several tables",
            "Truncate one after the other.",
        ));
    };
    let statement = ChangeStatement {
        target: Target::find(session, &only.name, None, "truncate")?,
        from: &[],
        selection: None,
        with: None,
        assignments: None,
        returning: None,
    };
    change(session, statement, source).await?;
    Ok(Response::complete("TRUNCATE TABLE"))
}

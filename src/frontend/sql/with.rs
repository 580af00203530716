//! Statements that begin with WITH: a query, or INSERT, UPDATE or DELETE that reads the queries named before it.
//!
//! Those of an INSERT become part of the query whose rows it inserts. UPDATE and DELETE stay as the parser underneath gives
//! them: a query whose body is the statement.

use datafusion::sql::sqlparser::ast::{self, SetExpr};

use crate::frontend::error::{Error, Result};
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::statement::{InsertText, QueryText, Statement};

pub fn statement(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let QueryText { text, query, emit } = cursor.rest_as_query()?;
    let mut query = *query;
    if let Some(with) = &query.with {
        refuse_changes(with)?;
    }
    match *query.body {
        SetExpr::Insert(ast::Statement::Insert(mut insert)) => {
            if let (Some(with), Some(source)) = (query.with, &mut insert.source) {
                put_before(with, source)?;
            }
            Ok(Statement::Insert(Box::new(InsertText {
                text,
                insert: Box::new(insert),
                emit,
            })))
        }
        SetExpr::Update(_) | SetExpr::Delete(_) => Ok(Statement::Sql(Box::new(ast::Statement::Query(Box::new(query))))),
        body => {
            query.body = Box::new(body);
            Ok(Statement::Query(Box::new(QueryText {
                text,
                query: Box::new(query),
                emit,
            })))
        }
    }
}

/// The queries of `with` are seen by `query`, as are its own, which hide those of the same name.
fn put_before(mut with: ast::With, query: &mut ast::Query) -> Result<()> {
    let Some(own) = query.with.take() else {
        query.with = Some(with);
        return Ok(());
    };
    let name = |cte: &ast::Cte| crate::planner::bind::names::folded(&cte.alias.name);
    if let Some(twice) = own
        .cte_tables
        .iter()
        .map(name)
        .find(|own| with.cte_tables.iter().any(|cte| name(cte) == *own))
    {
        return Err(Error::not_supported(
            format!("WITH query \"{twice}\" before INSERT and another one of that name in its query"),
            "Give one of them another name.",
        ));
    }
    with.recursive |= own.recursive;
    with.cte_tables.extend(own.cte_tables);
    query.with = Some(with);
    Ok(())
}

fn refuse_changes(with: &ast::With) -> Result<()> {
    let changes = |cte: &ast::Cte| {
        matches!(
            cte.query.body.as_ref(),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
        )
    };
    match with.cte_tables.iter().find(|cte| changes(cte)) {
        Some(cte) => Err(Error::not_supported(
            format!("INSERT, UPDATE or DELETE in WITH query \"{}\"", cte.alias.name.value),
            "Make it a statement of its own, between BEGIN and COMMIT where both must happen or none.",
        )),
        None => Ok(()),
    }
}

//! What a pipeline runs: a query, an INSERT, `BEGIN INSERT ..; INSERT ..; END`, or a file of statements.

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::frontend::error::{Error, Result};
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::statement::{BodyStatement, BodyText, InsertText, Statement};
use crate::frontend::sql::{create, create_table, session};

/// Reads the rest of the cursor.
pub fn body(cursor: &mut Cursor<'_>) -> Result<BodyText> {
    let start = cursor.index();
    let block = cursor.take(&["BEGIN"]);
    if block {
        // The word TRANSACTION or a semicolon right here would be another statement altogether.
        cursor.take(&["ATOMIC"]);
    }
    let (first, end) = (cursor.index(), block_end(cursor, block)?);
    let mut statements = Vec::new();
    let mut from = first;
    while from < end {
        let to = next_semicolon(cursor, from, end);
        if to > from {
            statements.push(body_statement(&mut cursor.part(from..to))?);
        }
        from = to + 1;
    }
    if statements.is_empty() {
        cursor.back_to(first);
        return Err(cursor.unexpected("a query"));
    }
    let text = cursor.text(start..cursor.count()).to_owned();
    cursor.skip(cursor.count() - cursor.index());
    check_shape(&statements)?;
    Ok(BodyText {
        text,
        source: cursor.shared_source(),
        statements,
    })
}

/// Where the statements end: before the END of a block.
fn block_end(cursor: &Cursor<'_>, block: bool) -> Result<usize> {
    if !block {
        return Ok(cursor.count());
    }
    let mut last = cursor.count();
    while last > cursor.index() && is_semicolon(cursor, last - 1) {
        last -= 1;
    }
    let ends = last > cursor.index()
        && matches!(cursor.peek_at(last - 1 - cursor.index()), Some(Token::Word(word)) if word.value.eq_ignore_ascii_case("END"));
    if ends {
        Ok(last - 1)
    } else {
        Err(cursor.error_at(cursor.count(), "syntax error at end of input", Some("END".to_owned())))
    }
}

fn is_semicolon(cursor: &Cursor<'_>, index: usize) -> bool {
    cursor.peek_at(index - cursor.index()) == Some(&Token::SemiColon)
}

fn next_semicolon(cursor: &Cursor<'_>, from: usize, end: usize) -> usize {
    (from..end).find(|index| is_semicolon(cursor, *index)).unwrap_or(end)
}

fn body_statement(cursor: &mut Cursor<'_>) -> Result<BodyStatement> {
    let statement = if cursor.sees(&["INSERT"]) {
        BodyStatement::Insert(insert(cursor)?)
    } else if cursor.sees(&["CREATE", "TABLE"]) {
        BodyStatement::CreateTable(create_table::table(cursor)?)
    } else if cursor.sees(&["CREATE"]) {
        match create::view(cursor)? {
            Statement::CreateView(view) => BodyStatement::CreateView(*view),
            _ => return Err(cursor.unexpected("a view")),
        }
    } else if cursor.sees(&["SET"]) {
        match session::set(cursor)? {
            Statement::Set(set) => BodyStatement::Set(set),
            _ => return Err(cursor.unexpected("a setting")),
        }
    } else {
        BodyStatement::Query(cursor.rest_as_query()?)
    };
    cursor.expect_end()?;
    Ok(statement)
}

/// One query, or INSERTs; tables, views and settings beside them.
fn check_shape(statements: &[BodyStatement]) -> Result<()> {
    let queries = statements
        .iter()
        .filter(|s| matches!(s, BodyStatement::Query(_)))
        .count();
    let inserts = statements
        .iter()
        .filter(|s| match s {
            BodyStatement::Insert(_) => true,
            BodyStatement::CreateTable(table) => table.query.is_some(),
            _ => false,
        })
        .count();
    match (queries, inserts) {
        (1, 0) => Ok(()),
        (0, 1..) => Ok(()),
        (0, 0) => Err(Error::not_supported(
            "a pipeline without a SELECT or INSERT",
            "End it with the SELECT whose result to keep, or with INSERT INTO .. SELECT.",
        )),
        _ => Err(Error::not_supported(
            "a pipeline with several queries",
            "Give each SELECT a pipeline of its own, or feed sinks with INSERT INTO .. SELECT.",
        )),
    }
}

/// `INSERT INTO target [(columns)] query`.
pub fn insert(cursor: &mut Cursor<'_>) -> Result<InsertText> {
    let start = cursor.index();
    let (end, emit) = cursor.emit_suffix();
    let mut inner = cursor.part(start..end);
    let statement = inner.statement()?;
    inner.expect_end()?;
    let ast::Statement::Insert(insert) = statement else {
        return Err(cursor.unexpected("an INSERT statement"));
    };
    cursor.skip(cursor.count() - start);
    Ok(InsertText {
        text: cursor.text_from(start).to_owned(),
        insert: Box::new(insert),
        emit,
    })
}

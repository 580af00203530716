//! BEGIN, COMMIT, ROLLBACK, savepoints, with all their words.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::frontend::error::Result;
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::session::transaction_mode;
use crate::frontend::sql::statement::{Statement, Transaction};

pub fn begin(cursor: &mut Cursor<'_>) -> Result<Statement> {
    let tag = if cursor.take(&["BEGIN"]) {
        skip_block_word(cursor);
        "BEGIN"
    } else {
        cursor.expect(&["START", "TRANSACTION"])?;
        "START TRANSACTION"
    };
    let mut read_only = None;
    while let Some((name, value)) = transaction_mode(cursor)? {
        if name == "read_only" {
            read_only = Some(value == "on");
        }
        cursor.take_token(&Token::Comma);
    }
    Ok(Statement::Transaction(Transaction::Begin { tag, read_only }))
}

pub fn commit(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.skip(1);
    skip_block_word(cursor);
    Ok(Statement::Transaction(Transaction::Commit { chain: chain(cursor) }))
}

pub fn rollback(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.skip(1);
    skip_block_word(cursor);
    if cursor.take(&["TO"]) {
        cursor.take(&["SAVEPOINT"]);
        return Ok(Statement::Transaction(Transaction::RollbackTo(cursor.name()?)));
    }
    Ok(Statement::Transaction(Transaction::Rollback { chain: chain(cursor) }))
}

pub fn savepoint(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["SAVEPOINT"])?;
    Ok(Statement::Transaction(Transaction::Savepoint(cursor.name()?)))
}

pub fn release(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["RELEASE"])?;
    cursor.take(&["SAVEPOINT"]);
    Ok(Statement::Transaction(Transaction::Release(cursor.name()?)))
}

fn skip_block_word(cursor: &mut Cursor<'_>) {
    let _ = cursor.take(&["TRANSACTION"]) || cursor.take(&["WORK"]);
}

/// `AND CHAIN`, `AND NO CHAIN`.
fn chain(cursor: &mut Cursor<'_>) -> bool {
    if cursor.take(&["AND", "CHAIN"]) {
        return true;
    }
    cursor.take(&["AND", "NO", "CHAIN"]);
    false
}

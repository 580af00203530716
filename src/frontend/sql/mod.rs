//! Text to statements.
//!
//!     text --tokens--> tokens with places --split--> statements --cursor--> Statement, query trees of the parser below
//!
//! In reading order: [`tokens`] (and how statements are divided), [`cursor`], [`statement`] (what comes out), then one file
//! a family of statements. What SQL the parser underneath reads says `planner::dialect`; [`identifier`] reads and prints
//! names.
//!
//! Guarantee: a text parses whole or not at all; every error has its position in characters of the text as sent. Each
//! statement keeps its exact text.

pub mod body;
pub mod copy;
pub mod create;
pub mod create_table;
pub mod cursor;
pub mod identifier;
pub mod objects;
pub mod options;
pub mod placeholders;
pub mod reading;
pub mod session;
pub mod statement;
pub mod tokens;
pub mod transaction;
mod unsupported;
mod with;

use std::sync::Arc;

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::frontend::error::Result;
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::statement::{BodyText, ParsedStatement, Statement};
use crate::frontend::sql::tokens::{Tokens, characters_before};

/// The statements of a text, in order; empty ones are left out.
pub fn parse(text: &str) -> Result<Vec<ParsedStatement>> {
    let tokens = Tokens::read(text)?;
    let source: Arc<str> = Arc::from(text);
    tokens
        .statements()
        .into_iter()
        .map(|range| {
            let mut cursor = Cursor::new(&tokens, range.clone(), &source);
            let statement = parse_statement(&mut cursor)?;
            cursor.expect_end()?;
            Ok(ParsedStatement {
                statement,
                text: tokens.text(range.clone()).to_owned(),
                offset: characters_before(text, tokens.list[range.start].start),
                source: Arc::clone(&source),
            })
        })
        .collect()
}

/// What a pipeline runs, from the text that the catalog keeps.
pub fn parse_body(text: &str) -> Result<BodyText> {
    let tokens = Tokens::read(text)?;
    let source: Arc<str> = Arc::from(text);
    body::body(&mut Cursor::new(&tokens, 0..tokens.list.len(), &source))
}

type Rule = fn(&mut Cursor<'_>) -> Result<Statement>;

/// First words of a statement and who reads it from there; the first match counts, so longer ones come first.
const RULES: &[(&[&str], Rule)] = &[
    (&["CREATE", "CONNECTION"], create::connection),
    (&["CREATE", "SECRET"], create::secret),
    (&["CREATE", "TABLE"], create_table::statement),
    (&["CREATE", "PIPELINE"], create::pipeline),
    (&["CREATE", "OR", "REPLACE", "PIPELINE"], create::pipeline),
    (&["CREATE", "MATERIALIZED", "VIEW"], create::materialized_view),
    (
        &["CREATE", "OR", "REPLACE", "MATERIALIZED", "VIEW"],
        create::materialized_view,
    ),
    (&["CREATE", "VIEW"], create::view),
    (&["CREATE", "OR", "REPLACE", "VIEW"], create::view),
    (&["CREATE", "SCHEMA"], create::schema),
    (&["CREATE", "CHECKPOINT"], objects::create_checkpoint),
    (&["VALIDATE", "CONNECTION"], objects::validate_connection),
    (&["ALTER"], objects::alter),
    (&["START", "PIPELINE"], objects::start_pipeline),
    (&["STOP"], objects::stop_pipeline),
    (&["RESTART"], objects::restart_pipeline),
    (&["CHECKPOINT"], objects::checkpoint),
    (&["DROP"], objects::drop),
    (&["COMMENT"], objects::comment),
    (&["SHOW"], reading::show),
    (&["DESCRIBE"], reading::describe),
    (&["DESC"], reading::describe),
    (&["EXPLAIN"], reading::explain),
    (&["SUBSCRIBE"], reading::subscribe_statement),
    (&["FLUSH"], reading::flush),
    (&["WAIT"], reading::wait),
    (&["COPY"], copy::statement),
    (&["SET"], session::set),
    (&["RESET"], session::reset),
    (&["DISCARD"], session::discard),
    (&["BEGIN"], transaction::begin),
    (&["START", "TRANSACTION"], transaction::begin),
    (&["COMMIT"], transaction::commit),
    (&["END"], transaction::commit),
    (&["ROLLBACK"], transaction::rollback),
    (&["ABORT"], transaction::rollback),
    (&["SAVEPOINT"], transaction::savepoint),
    (&["RELEASE"], transaction::release),
    (&["PREPARE"], session::prepare),
    (&["EXECUTE"], session::execute),
    (&["DEALLOCATE"], session::deallocate),
    (&["DECLARE"], session::declare),
    (&["FETCH"], session::fetch),
    (&["MOVE"], session::fetch),
    (&["CLOSE"], session::close),
    (&["SELECT"], query),
    (&["WITH"], with::statement),
    (&["VALUES"], query),
    (&["TABLE"], query),
    (&["INSERT"], insert),
];

/// Reads one statement; what follows it is the caller's.
pub(crate) fn parse_statement(cursor: &mut Cursor<'_>) -> Result<Statement> {
    if let Some(statement) = unsupported::statement(cursor) {
        return Ok(statement);
    }
    if let Some((_, rule)) = RULES.iter().find(|(words, _)| cursor.sees(words)) {
        return rule(cursor);
    }
    if cursor.sees_token(&Token::LParen) {
        return query(cursor);
    }
    if !matches!(cursor.peek(), Some(Token::Word(_))) {
        return Err(cursor.unexpected("a statement"));
    }
    cursor.statement().map(|statement| Statement::Sql(Box::new(statement)))
}

fn query(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.rest_as_query().map(|query| Statement::Query(Box::new(query)))
}

fn insert(cursor: &mut Cursor<'_>) -> Result<Statement> {
    body::insert(cursor).map(|insert| Statement::Insert(Box::new(insert)))
}

#[cfg(test)]
mod tests;

//! `CREATE` of everything but tables: connections, secrets, pipelines, views, schemas.

use datafusion::sql::sqlparser::tokenizer::Token;

use crate::catalog::snapshot::QualifiedName;
use crate::frontend::error::{Error, Result};
use crate::frontend::sql::cursor::Cursor;
use crate::frontend::sql::statement::{
    BodyStatement, BodyText, CreateConnection, CreatePipeline, CreateSecret, CreateView, SecretText, Statement,
};
use crate::frontend::sql::{body, options};
use crate::options::{RawOptionValue, RawOptions};

/// `CREATE CONNECTION [IF NOT EXISTS] name WITH (..)`, or `TO KIND (..)`.
pub fn connection(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CREATE", "CONNECTION"])?;
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.qualified_name()?;
    let mut options = RawOptions::default();
    if cursor.take(&["TO"]) {
        let mut connector = cursor.any_word("a connector")?.to_lowercase();
        // `TO CONFLUENT SCHEMA REGISTRY (..)`.
        while matches!(cursor.peek(), Some(Token::Word(_))) && !cursor.sees(&["WITH"]) {
            connector = format!("{connector}_{}", cursor.any_word("a connector")?.to_lowercase());
        }
        options
            .0
            .push(("connector".to_owned(), RawOptionValue::Text(connector)));
        if cursor.sees_token(&Token::LParen) {
            options.0.extend(options::list(cursor)?.0);
        }
    }
    if cursor.take(&["WITH"]) {
        options.0.extend(options::list(cursor)?.0);
    }
    if options.get("connector").is_none() {
        let hint = "CREATE CONNECTION name WITH (connector = '..', ..); SHOW CONNECTORS lists them.";
        return Err(Error::user_with_hint(
            crate::error::SqlState::INVALID_PARAMETER_VALUE,
            "a connection needs the option \"connector\"",
            hint,
        ));
    }
    Ok(Statement::CreateConnection(CreateConnection {
        if_not_exists,
        name,
        options,
    }))
}

/// `CREATE SECRET [IF NOT EXISTS] name AS '..' | FROM ENV '..' | FROM FILE '..'`.
pub fn secret(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CREATE", "SECRET"])?;
    Ok(Statement::CreateSecret(CreateSecret {
        if_not_exists: cursor.if_not_exists(),
        name: cursor.qualified_name()?,
        source: secret_source(cursor)?,
    }))
}

pub fn secret_source(cursor: &mut Cursor<'_>) -> Result<SecretText> {
    if cursor.take(&["AS"]) {
        return cursor.string().map(SecretText::Value);
    }
    if cursor.take(&["FROM", "ENV"]) {
        return cursor.string().map(SecretText::Environment);
    }
    if cursor.take(&["FROM", "FILE"]) {
        return cursor.string().map(SecretText::File);
    }
    Err(cursor.unexpected("AS, FROM ENV or FROM FILE"))
}

/// `CREATE [OR REPLACE] PIPELINE [IF NOT EXISTS] name [WITH (..)] AS body`.
pub fn pipeline(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CREATE"])?;
    let or_replace = cursor.take(&["OR", "REPLACE"]);
    cursor.expect(&["PIPELINE"])?;
    let create = pipeline_after_its_word(cursor, or_replace)?;
    Ok(Statement::CreatePipeline(Box::new(create)))
}

/// `CREATE MATERIALIZED VIEW [IF NOT EXISTS] name [WITH (..)] AS query`.
pub fn materialized_view(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CREATE"])?;
    let or_replace = cursor.take(&["OR", "REPLACE"]);
    cursor.expect(&["MATERIALIZED", "VIEW"])?;
    let create = materialized_view_after_its_words(cursor, or_replace)?;
    Ok(Statement::CreatePipeline(Box::new(create)))
}

/// `REPLACE PIPELINE name [WITH (..)] AS body`, or the same of a materialized view.
pub fn replaced(cursor: &mut Cursor<'_>) -> Result<CreatePipeline> {
    cursor.expect(&["REPLACE"])?;
    if cursor.take(&["MATERIALIZED", "VIEW"]) {
        return materialized_view_after_its_words(cursor, true);
    }
    cursor.expect(&["PIPELINE"])?;
    pipeline_after_its_word(cursor, true)
}

fn pipeline_after_its_word(cursor: &mut Cursor<'_>, or_replace: bool) -> Result<CreatePipeline> {
    let (if_not_exists, name, options) = pipeline_head(cursor)?;
    let body = body::body(cursor)?;
    Ok(CreatePipeline {
        or_replace,
        if_not_exists,
        name,
        options,
        materialized_view: false,
        body,
    })
}

fn materialized_view_after_its_words(cursor: &mut Cursor<'_>, or_replace: bool) -> Result<CreatePipeline> {
    let (if_not_exists, name, options) = pipeline_head(cursor)?;
    let query = cursor.rest_as_query()?;
    let body = BodyText {
        text: query.text.clone(),
        source: cursor.shared_source(),
        statements: vec![BodyStatement::Query(query)],
    };
    Ok(CreatePipeline {
        or_replace,
        if_not_exists,
        name,
        options,
        materialized_view: true,
        body,
    })
}

fn pipeline_head(cursor: &mut Cursor<'_>) -> Result<(bool, QualifiedName, RawOptions)> {
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.qualified_name()?;
    let options = match cursor.take(&["WITH"]) {
        true => options::list(cursor)?,
        false => RawOptions::default(),
    };
    cursor.expect(&["AS"])?;
    Ok((if_not_exists, name, options))
}

/// `CREATE [OR REPLACE] VIEW [IF NOT EXISTS] name [(columns)] AS query`.
pub fn view(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CREATE"])?;
    let or_replace = cursor.take(&["OR", "REPLACE"]);
    cursor.expect(&["VIEW"])?;
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.qualified_name()?;
    let column_names = match cursor.sees_token(&Token::LParen) {
        true => cursor.name_list()?,
        false => Vec::new(),
    };
    cursor.expect(&["AS"])?;
    let query = cursor.rest_as_query()?;
    Ok(Statement::CreateView(Box::new(CreateView {
        or_replace,
        if_not_exists,
        name,
        column_names,
        query,
    })))
}

/// `CREATE SCHEMA [IF NOT EXISTS] name [AUTHORIZATION role]`.
pub fn schema(cursor: &mut Cursor<'_>) -> Result<Statement> {
    cursor.expect(&["CREATE", "SCHEMA"])?;
    let if_not_exists = cursor.if_not_exists();
    let name = cursor.name()?;
    if cursor.take(&["AUTHORIZATION"]) {
        cursor.any_word("a role")?;
    }
    Ok(Statement::CreateSchema { if_not_exists, name })
}

//! COPY .. TO STDOUT of a relation, a query, a subscription; COPY table FROM STDIN.

use arrow::array::RecordBatch;
use datafusion::sql::sqlparser::ast;

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::response::{CopyIn, Response};
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::{quote, quote_qualified};
use crate::frontend::sql::parse;
use crate::frontend::sql::statement::{Copy, CopyDirection, CopySource, ForceQuote, Statement};
use crate::frontend::statements::{dml, query, subscribe};

pub async fn copy(session: &mut Session, copy: &Copy, source: &str) -> Result<Response> {
    if copy.direction == CopyDirection::FromClient {
        return copy_in(session, copy);
    }
    let (schema, rows) = match &copy.source {
        CopySource::Query(text) => query::rows_of(session, text, source, &[]).await?,
        CopySource::Subscribe(subscription) => subscribe::changes(session, subscription, source).await?,
        CopySource::Relation { name, columns } => {
            let list = match columns.as_slice() {
                [] => "*".to_owned(),
                names => names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", "),
            };
            let text = format!("SELECT {list} FROM {}", quote_qualified(name));
            let Some(Statement::Query(select)) = parse(&text)?.pop().map(|parsed| parsed.statement) else {
                return Err(Error::Internal("COPY of a relation is not a query".to_owned()));
            };
            query::rows_of(session, &select, &text, &[]).await?
        }
    };
    if let ForceQuote::Columns(names) = &copy.format.force_quote {
        for name in names {
            if schema.index_of(name).is_err() {
                return Err(Error::user(
                    SqlState::UNDEFINED_COLUMN,
                    format!("column \"{name}\" does not exist"),
                ));
            }
        }
    }
    Ok(Response::CopyOut {
        format: copy.format.clone(),
        schema,
        rows,
    })
}

/// What the client shall send; its rows come to [`insert`].
fn copy_in(session: &Session, copy: &Copy) -> Result<Response> {
    let CopySource::Relation { name, columns } = &copy.source else {
        return Err(Error::user(
            SqlState::SYNTAX_ERROR,
            "COPY .. FROM needs the name of a table",
        ));
    };
    let parts = name.schema.iter().chain([&name.name]);
    let identifiers: Vec<ast::Ident> = parts.map(|part| ast::Ident::with_quote('"', part)).collect();
    let target = dml::Target::find(session, &ast::ObjectName::from(identifiers), None, "copy into")?;
    let columns = dml::insert::copied_columns(session, &target, columns)?;
    Ok(Response::CopyIn(Box::new(CopyIn {
        format: copy.format.clone(),
        columns,
        table: target.table,
    })))
}

/// Inserts what the client sent.
pub async fn insert(session: &mut Session, copy: &CopyIn, rows: RecordBatch) -> Result<u64> {
    dml::insert::copied(session, copy, rows).await
}

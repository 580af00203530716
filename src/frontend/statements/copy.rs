//! COPY .. TO STDOUT of a relation, a query, a subscription.

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::{quote, quote_qualified};
use crate::frontend::sql::parse;
use crate::frontend::sql::statement::{Copy, CopyDirection, CopySource, ForceQuote, Statement};
use crate::frontend::statements::{query, subscribe};

pub async fn copy(session: &mut Session, copy: &Copy, source: &str) -> Result<Response> {
    if copy.direction == CopyDirection::FromClient {
        return Err(Error::not_supported(
            "COPY .. FROM STDIN",
            "Write the rows to a file and read it with a table of connector 'single_file', then INSERT INTO .. SELECT.",
        ));
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

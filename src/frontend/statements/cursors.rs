//! DECLARE, FETCH, MOVE, CLOSE.
//!
//! A cursor keeps the rows of its query flowing: nothing is read ahead but what one batch holds. Those without HOLD end with
//! their transaction; a cursor for SUBSCRIBE may live outside of one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use tokio::time::Instant;

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::response::{Response, Rows, RowsTag};
use crate::frontend::session::Session;
use crate::frontend::settings::values;
use crate::frontend::sql::statement::{Declare, DeclareSource, Fetch};
use crate::frontend::statements::{query, subscribe};

/// Rows that one FETCH ALL of a cursor collects at most.
const FETCH_ROWS_MAX: u64 = 1_000_000;

#[derive(Default)]
pub(crate) struct Cursors(BTreeMap<String, Cursor>);

struct Cursor {
    schema: SchemaRef,
    /// Locked by nobody: a stream may not be shared between threads, but a session's future holds references to it.
    rows: Mutex<Rows>,
    /// Read and not yet fetched.
    rest: Option<RecordBatch>,
    ended: bool,
    hold: bool,
}

impl Cursors {
    pub fn close_all(&mut self) {
        self.0.clear();
    }

    /// Ends the cursors that live no longer than their transaction.
    pub fn end_transaction(&mut self) {
        self.0.retain(|_, cursor| cursor.hold);
    }

    pub fn schema(&self, name: &str) -> Result<SchemaRef> {
        self.0
            .get(name)
            .map(|cursor| Arc::clone(&cursor.schema))
            .ok_or_else(|| undefined(name))
    }
}

fn undefined(name: &str) -> Error {
    Error::user(
        SqlState::INVALID_CURSOR_NAME,
        format!("cursor \"{name}\" does not exist"),
    )
}

pub async fn declare(session: &mut Session, declare: &Declare, source: &str) -> Result<Response> {
    let is_subscription = matches!(declare.source, DeclareSource::Subscribe(_));
    if !session.in_block() && !declare.hold && !is_subscription {
        return Err(Error::user_with_hint(
            SqlState::NO_ACTIVE_SQL_TRANSACTION,
            "DECLARE CURSOR can only be used in transaction blocks",
            "BEGIN first, or say WITH HOLD.",
        ));
    }
    if session.cursors.0.contains_key(&declare.name) {
        return Err(Error::user(
            SqlState::DUPLICATE_CURSOR,
            format!("cursor \"{}\" already exists", declare.name),
        ));
    }
    if declare.binary {
        return Err(Error::not_supported(
            "a BINARY cursor",
            "Leave the word out; the protocol's Bind message asks for binary values.",
        ));
    }
    let (schema, rows) = match &declare.source {
        DeclareSource::Query(text) => query::rows_of(session, text, source, &[]).await?,
        DeclareSource::Subscribe(subscription) => subscribe::changes(session, subscription, source).await?,
    };
    let hold = declare.hold || (is_subscription && !session.in_block());
    session.cursors.0.insert(
        declare.name.clone(),
        Cursor {
            schema,
            rows: Mutex::new(rows),
            rest: None,
            ended: false,
            hold,
        },
    );
    Ok(Response::complete("DECLARE CURSOR"))
}

pub async fn fetch(session: &mut Session, fetch: &Fetch) -> Result<Response> {
    let deadline = match &fetch.timeout {
        None => None,
        Some(text) => Some(Instant::now() + values::timeout(text)?),
    };
    let Some(cursor) = session.cursors.0.get_mut(&fetch.cursor) else {
        return Err(undefined(&fetch.cursor));
    };
    let wanted = fetch.rows.unwrap_or(FETCH_ROWS_MAX + 1);
    let batches = cursor.take(wanted, deadline).await?;
    let count: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if fetch.rows.is_none() && count as u64 > FETCH_ROWS_MAX {
        return Err(Error::user_with_hint(
            SqlState::PROGRAM_LIMIT_EXCEEDED,
            format!("FETCH ALL gives at most {FETCH_ROWS_MAX} rows at once"),
            "FETCH a number of rows at a time.",
        ));
    }
    if fetch.discard {
        return Ok(Response::complete(format!("MOVE {count}")));
    }
    let schema = Arc::clone(&cursor.schema);
    let rows = futures::stream::iter(batches.into_iter().map(Ok)).boxed();
    Ok(Response::Rows {
        schema,
        rows,
        tag: RowsTag::Counted("FETCH"),
    })
}

impl Cursor {
    /// The next rows: as many as wanted, or fewer at the end of the query or at the deadline. Without a deadline a
    /// subscription's FETCH waits for its first row only.
    async fn take(&mut self, wanted: u64, deadline: Option<Instant>) -> Result<Vec<RecordBatch>> {
        let mut taken = Vec::new();
        let mut missing = usize::try_from(wanted).unwrap_or(usize::MAX);
        while missing > 0 {
            let Some(batch) = self.next_batch(deadline).await? else {
                break;
            };
            let count = batch.num_rows().min(missing);
            if count < batch.num_rows() {
                self.rest = Some(batch.slice(count, batch.num_rows() - count));
            }
            taken.push(batch.slice(0, count));
            missing -= count;
        }
        Ok(taken)
    }

    async fn next_batch(&mut self, deadline: Option<Instant>) -> Result<Option<RecordBatch>> {
        if let Some(rest) = self.rest.take() {
            return Ok(Some(rest));
        }
        if self.ended {
            return Ok(None);
        }
        let rows = self.rows.get_mut().unwrap_or_else(PoisonError::into_inner);
        let next = match deadline {
            None => rows.next().await,
            Some(deadline) => match tokio::time::timeout_at(deadline, rows.next()).await {
                Ok(next) => next,
                Err(_) => return Ok(None),
            },
        };
        match next {
            Some(batch) => batch.map(Some).map_err(Error::from),
            None => {
                self.ended = true;
                Ok(None)
            }
        }
    }
}

pub fn close(session: &mut Session, name: Option<&str>) -> Result<Response> {
    match name {
        None => {
            session.cursors.close_all();
            Ok(Response::complete("CLOSE CURSOR ALL"))
        }
        Some(name) => match session.cursors.0.remove(name) {
            Some(_) => Ok(Response::complete("CLOSE CURSOR")),
            None => Err(undefined(name)),
        },
    }
}

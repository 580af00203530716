//! Reads a table and then its changes, by logical decoding.
//!
//! First the slot is made, then a snapshot of the table is read, then the slot's transactions that the snapshot did not see: every
//! change is read once. A transaction is handed on as a whole, unless it has very many rows. Positions are in the checkpoint, and the
//! slot is moved on only when the checkpoint is durable, so that a restart finds the log it needs.
//!
//! Not guaranteed: a reader that starts again while the snapshot is being read (a crash, an outage) reads the table again and then
//! all changes since the slot was made: rows may go back for a moment, and are right when these changes are done.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, SchemaRef};
use futures::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, IsolationLevel};

use crate::engine::connectors::Result;
use crate::engine::connectors::postgres::changes::{ChangeReader, ChangesOffset, Rows, SeenBySnapshot};
use crate::engine::connectors::postgres::lookup::wanted_column;
use crate::engine::connectors::postgres::pgoutput;
use crate::engine::connectors::postgres::slot::{SlotSession, log_text, lost, parse_log};
use crate::engine::connectors::postgres::source::{Durable, LogPositions, Output, Piece, Reader};
use crate::engine::connectors::postgres::target::{Target, refused};
use crate::engine::connectors::postgres::{ROWS, TableSource, connection, failed, quote_always};
use crate::engine::error::Error;
use crate::engine::formats::columns::is_json;
use crate::error::{Retry, SqlState};
use crate::failpoint;

/// Rows of the snapshot that are handed on at once.
const SNAPSHOT_PIECE: usize = 8192;
/// Messages that are asked for at once; the transaction with the last of them comes whole.
const MESSAGES_A_QUESTION: i32 = 10_000;
/// A transaction with more rows than this comes in pieces.
const TRANSACTION_PIECE: usize = 100_000;

const CHANGES: &str = "SELECT data FROM pg_catalog.pg_logical_slot_get_binary_changes($1::text::name, $2::text::pg_lsn, $3::int4, \
     'proto_version', '1', 'publication_names', $4::text)";

pub struct CdcReader {
    pub source: Arc<TableSource>,
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// `None`: of a job that is never restored; then there is only the temporary one.
    pub slot: Option<String>,
    /// Given by the user; else one is made.
    pub publication: Option<String>,
    pub interval: Duration,
    /// `None`: nothing has been read.
    pub offset: Option<ChangesOffset>,
    /// A snapshot was begun before: parts of it may have been handed on.
    pub begun_before: bool,
    pub durable: Durable,
    /// The end of the server's log when it was last asked.
    pub log_end: Option<u64>,
}

pub fn parse_offset(text: &str) -> Result<ChangesOffset> {
    serde_json::from_str(text)
        .map_err(|error| Error::Internal(format!("offset of a changing Postgres table is \"{text}\": {error}")))
}

impl Reader for CdcReader {
    async fn session(&mut self, output: &Output) -> Result<()> {
        // Not given back: the temporary slot ends with the connection.
        let client = deadpool_postgres::Object::take(connection(&self.source.pool).await?);
        let client: &Client = &client;
        let named = self.source.named();
        let session = SlotSession { client, named: &named };
        session.set_up().await?;
        let target = Target::look(client, &self.source.relation, false).await?;
        let publication = match &self.publication {
            Some(given) => given.clone(),
            None => target.publication(),
        };
        let copy = self.begin(&session, &target, &publication).await?;
        if self.offset.as_ref().is_some_and(|offset| offset.in_snapshot) && !self.snapshot(&session, output).await? {
            return Ok(());
        }
        let table = (target.schema.clone(), target.table.clone());
        self.follow(&session, output, table, &copy, &publication).await
    }
}

impl CdcReader {
    /// The slots are there and begin where reading goes on; gives the temporary one.
    async fn begin(&mut self, session: &SlotSession<'_>, target: &Target, publication: &str) -> Result<String> {
        let temporary = format!("laminar_reader_{}", uuid::Uuid::new_v4().simple());
        let Some(offset) = &self.offset else {
            if self.publication.is_none() {
                session.make_publication(publication, &target.quoted()).await?;
            }
            let log = match &self.slot {
                Some(slot) => {
                    let log = session.make(slot, false).await?;
                    session.copy(slot, &temporary).await?;
                    log
                }
                None => session.make(&temporary, true).await?,
            };
            self.offset = Some(ChangesOffset {
                in_snapshot: true,
                log,
                ..ChangesOffset::default()
            });
            return Ok(temporary);
        };
        let named = session.named;
        let Some(slot) = &self.slot else {
            return Err(refused(
                SqlState::CONNECTION_FAILURE,
                format!("the connection that read the changes of {named} broke"),
                "A pipeline goes on where it was: CREATE PIPELINE.",
            ));
        };
        match session.position(slot).await? {
            None => return Err(lost(slot, named, "is gone")),
            Some(log) if log > offset.log => return Err(lost(slot, named, "was moved on")),
            Some(_) => {}
        }
        session.copy(slot, &temporary).await?;
        Ok(temporary)
    }

    /// The table as it is; false: nobody wants it any more.
    async fn snapshot(&mut self, session: &SlotSession<'_>, output: &Output) -> Result<bool> {
        let what = format!("could not read {}", session.named);
        let wrap = |error: tokio_postgres::Error| failed(&what, &error);
        session.outwait_transactions().await?;
        let again = std::mem::replace(&mut self.begun_before, true);
        let mut client = deadpool_postgres::Object::take(connection(&self.source.pool).await?);
        let of_snapshot = SlotSession {
            client: &client,
            named: session.named,
        };
        of_snapshot.set_up().await?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true);
        let transaction = transaction.start().await.map_err(wrap)?;
        let about = "SELECT pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_current_wal_insert_lsn()::text";
        let about = transaction.query_one(about, &[]).await.map_err(wrap)?;
        let until = parse_log(about.try_get(1).map_err(wrap)?)?;
        let seen = SeenBySnapshot::parse(about.try_get(0).map_err(wrap)?, until)?;
        let columns: Vec<String> = self
            .schema
            .fields()
            .iter()
            .map(|field| snapshot_column(field))
            .collect();
        let sql = format!(
            "SELECT pg_catalog.row_to_json(r)::text FROM (SELECT {} FROM {} AS {ROWS}) AS r",
            columns.join(", "),
            self.source.relation
        );
        let none: [&(dyn ToSql + Sync); 0] = [];
        let found = transaction.query_raw(&sql, none).await.map_err(wrap)?;
        let mut found = pin!(found);
        let mut rows = Rows::default();
        while let Some(row) = found.try_next().await.map_err(wrap)? {
            rows.push_object(1, row.try_get(0).map_err(wrap)?);
            if rows.signs.len() >= SNAPSHOT_PIECE && !self.put(output, std::mem::take(&mut rows), true).await? {
                return Ok(false);
            }
            failpoint::passed("postgres_source.in_snapshot");
        }
        if let Some(offset) = &mut self.offset {
            offset.in_snapshot = false;
            offset.snapshot = (!again).then_some(seen);
        }
        self.put(output, rows, true).await
    }

    async fn follow(
        &mut self,
        session: &SlotSession<'_>,
        output: &Output,
        table: (String, String),
        copy: &str,
        publication: &str,
    ) -> Result<()> {
        let offset = self.offset.clone().unwrap_or_default();
        let named = session.named.to_owned();
        let mut reader = ChangeReader::new(Arc::clone(&self.schema), self.key.clone(), table, named, offset);
        let mut confirmed = 0;
        loop {
            self.confirm(session, &mut confirmed).await?;
            let log = session.log_end().await?;
            self.log_end = Some(log);
            let messages = self
                .question(session, &mut reader, output, copy, publication, log)
                .await?;
            let Some(messages) = messages else { return Ok(()) };
            let behind = messages >= MESSAGES_A_QUESTION;
            if !behind {
                reader.reached(log);
            }
            let (rows, offset) = reader.take();
            self.offset = Some(offset);
            if !self.put(output, rows, behind).await? {
                return Ok(());
            }
            if !behind {
                // What became durable meanwhile is told at the next round.
                tokio::time::sleep(self.interval).await;
            }
        }
    }

    /// How many messages came; `None`: nobody wants them.
    async fn question(
        &mut self,
        session: &SlotSession<'_>,
        reader: &mut ChangeReader,
        output: &Output,
        copy: &str,
        publication: &str,
        log: u64,
    ) -> Result<Option<i32>> {
        let what = format!("could not read the changes of {}", session.named);
        let wrap = |error: tokio_postgres::Error| failed(&what, &error);
        let log = log_text(log);
        let parameters: [&(dyn ToSql + Sync); 4] = [&copy, &log, &MESSAGES_A_QUESTION, &publication];
        let found = session.client.query_raw(CHANGES, parameters).await.map_err(wrap)?;
        let mut found = pin!(found);
        let mut messages = 0;
        while let Some(row) = found.try_next().await.map_err(wrap)? {
            messages += 1;
            reader.read(pgoutput::parse(row.try_get(0).map_err(wrap)?)?)?;
            if reader.rows.signs.len() >= TRANSACTION_PIECE {
                let (rows, offset) = reader.take();
                self.offset = Some(offset);
                if !self.put(output, rows, true).await? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(messages))
    }

    /// Tells the server what a durable checkpoint has.
    async fn confirm(&mut self, session: &SlotSession<'_>, confirmed: &mut u64) -> Result<()> {
        let durable = self.durable.borrow_and_update().clone();
        let (Some(durable), Some(slot)) = (durable, &self.slot) else {
            return Ok(());
        };
        let durable = parse_offset(&durable)?;
        if durable.in_snapshot || durable.log <= *confirmed {
            return Ok(());
        }
        fail_on_purpose("postgres_source.before_confirm")?;
        // It may stand there already, or further: nothing before a durable checkpoint is asked for again.
        if session.position(slot).await?.is_some_and(|log| log < durable.log) {
            session.advance(slot, durable.log).await?;
        }
        *confirmed = durable.log;
        Ok(())
    }

    /// Read up to, and the end.
    fn log_positions(&self) -> Option<LogPositions> {
        let read = self.offset.as_ref().filter(|offset| !offset.in_snapshot)?.log;
        let end = self.log_end?.max(read);
        Some(LogPositions { read, end })
    }

    async fn put(&self, output: &Output, rows: Rows, behind: bool) -> Result<bool> {
        let offset = self.offset.as_ref().map(serde_json::to_string).transpose();
        let offset = offset.map_err(|error| Error::Internal(error.to_string()))?;
        Ok(output
            .send(Piece {
                rows,
                offset,
                behind,
                log: self.log_positions(),
            })
            .await)
    }
}

/// Text is what the type's output function writes, as in a change; a cast writes some types otherwise (CHAR, BOOLEAN, INET).
fn snapshot_column(field: &Field) -> String {
    if field.data_type() != &DataType::Utf8 || is_json(field) {
        return wanted_column(field);
    }
    let name = quote_always(field.name());
    format!("CASE WHEN {ROWS}.{name} IS NOT NULL THEN pg_catalog.format('%s', {ROWS}.{name}) END AS {name}")
}

fn fail_on_purpose(failpoint: &str) -> Result<()> {
    failpoint::reached(failpoint).map_err(|error| Error::External {
        code: SqlState::IO_ERROR,
        message: error.to_string(),
        hint: None,
        retry: Retry::Backoff,
    })
}

//! Reads the rows of a table or query again and again: those whose cursor column is greater than the greatest so far.
//!
//! Guarantee: each row that is found is delivered once, across restarts, too: the greatest cursor is the offset, and rows of one
//! cursor are never split. Not guaranteed: rows that appear late with a cursor that was passed already, as of a transaction that
//! took its number or time early and ended late; and rows whose cursor is NULL. Changes of rows and deletions are not seen.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use serde::{Deserialize, Serialize};
use tokio_postgres::Column;
use tokio_postgres::types::ToSql;

use crate::engine::connectors::Result;
use crate::engine::connectors::postgres::changes::Rows;
use crate::engine::connectors::postgres::lookup::wanted_column;
use crate::engine::connectors::postgres::source::{Output, Piece, Reader};
use crate::engine::connectors::postgres::target::refused;
use crate::engine::connectors::postgres::{ROWS, TableSource, connection, failed, quote_always};
use crate::engine::error::Error;
use crate::error::SqlState;

/// So many rows a question, and those with the cursor of the last.
const ROWS_A_QUESTION: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
struct Offset {
    cursor: String,
}

pub struct PollReader {
    source: Arc<TableSource>,
    schema: SchemaRef,
    column: String,
    interval: Duration,
    cursor: Option<String>,
}

impl PollReader {
    pub fn new(
        source: Arc<TableSource>,
        schema: SchemaRef,
        column: String,
        interval: Duration,
        restored: Option<String>,
    ) -> Result<PollReader> {
        let cursor = match restored {
            None => None,
            Some(text) => {
                let offset: Offset = serde_json::from_str(&text)
                    .map_err(|error| Error::Internal(format!("offset of a polled table is \"{text}\": {error}")))?;
                Some(offset.cursor)
            }
        };
        Ok(PollReader {
            source,
            schema,
            column,
            interval,
            cursor,
        })
    }

    /// The column's type is the server's: the cursor goes there as text that it wrote itself.
    async fn cursor_type(&self) -> Result<String> {
        let described = self.source.describe().await?;
        let column = cursor_column(&self.column, described.columns(), &self.source.named())?;
        let of = column.type_();
        Ok(format!("{}.{}", quote_always(of.schema()), quote_always(of.name())))
    }

    fn question(&self, of: &str) -> String {
        let cursor = format!("{ROWS}.{}", quote_always(&self.column));
        let wanted = match self.cursor {
            Some(_) => format!("{cursor} > $1::text::{of}"),
            None => format!("{cursor} IS NOT NULL"),
        };
        let columns: Vec<String> = self.schema.fields().iter().map(|field| wanted_column(field)).collect();
        format!(
            "SELECT {cursor}::text, (SELECT pg_catalog.row_to_json(r)::text FROM (SELECT {}) AS r) FROM {} AS {ROWS} \
             WHERE {wanted} ORDER BY {cursor} FETCH FIRST {ROWS_A_QUESTION} ROWS WITH TIES",
            columns.join(", "),
            self.source.relation,
        )
    }

    /// The next rows, and whether there may be more.
    async fn ask(&mut self, client: &tokio_postgres::Client, sql: &str) -> Result<(Rows, bool)> {
        let what = format!("could not read {}", self.source.named());
        let wrap = |error: tokio_postgres::Error| failed(&what, &error);
        let cursor = self.cursor.iter().map(|cursor| cursor as &(dyn ToSql + Sync));
        let found = client.query_raw(sql, cursor.collect::<Vec<_>>()).await.map_err(wrap)?;
        let mut found = pin!(found);
        let mut rows = Rows::default();
        let mut last = None;
        while let Some(row) = found.try_next().await.map_err(wrap)? {
            last = row.try_get(0).map_err(wrap)?;
            let object: &str = row.try_get(1).map_err(wrap)?;
            rows.push_object(1, object);
        }
        if last.is_some() {
            self.cursor = last;
        }
        let more = rows.signs.len() >= ROWS_A_QUESTION;
        Ok((rows, more))
    }
}

/// Asked by CREATE TABLE.
pub fn check_cursor(name: &str, columns: &[Column], named: &str) -> Result<()> {
    cursor_column(name, columns, named).map(|_| ())
}

fn cursor_column<'c>(name: &str, columns: &'c [Column], named: &str) -> Result<&'c Column> {
    columns.iter().find(|column| column.name() == name).ok_or_else(|| {
        let names: Vec<&str> = columns.iter().map(Column::name).collect();
        refused(
            SqlState::UNDEFINED_COLUMN,
            format!("cursor column \"{name}\" does not exist in {named}"),
            &format!("Its columns are: {}.", names.join(", ")),
        )
    })
}

impl Reader for PollReader {
    async fn session(&mut self, output: &Output) -> Result<()> {
        let of = self.cursor_type().await?;
        let client = connection(&self.source.pool).await?;
        loop {
            let sql = self.question(&of);
            let (rows, behind) = self.ask(&client, &sql).await?;
            let offset = self
                .cursor
                .clone()
                .map(|cursor| serde_json::to_string(&Offset { cursor }));
            let offset = offset.transpose().map_err(|error| Error::Internal(error.to_string()))?;
            if !output
                .send(Piece {
                    rows,
                    offset,
                    behind,
                    log: None,
                })
                .await
            {
                return Ok(());
            }
            if !behind {
                tokio::time::sleep(self.interval).await;
            }
        }
    }
}

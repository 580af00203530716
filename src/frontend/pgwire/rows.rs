//! Sending rows: from a stream of batches to the socket, with backpressure and without buffering a result.
//!
//! Rows go into the reply buffer; it is sent when it is large, and whenever the stream has nothing at the moment, so that an
//! endless result delivers each batch at once and a fast one is sent in large pieces. A client that does not read stops the
//! stream. Everything that can end a statement from outside is looked at between batches and during every wait.

use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::{BufMut, BytesMut};
use futures::{FutureExt, StreamExt};
use tokio::io::AsyncWrite;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::copy::CopyEncoder;
use super::encode::{BatchEncoder, RowEncoder, length_prefixed_self};
use super::error::Error;
use super::limits::FLUSH_BYTES;
use super::reply::ReplyWriter;
use crate::error::SqlState;
use crate::frontend::response::Rows;

/// What ends a statement from outside.
#[derive(Clone)]
pub struct Interrupts {
    /// The connection broke or the client closed it.
    pub gone: CancellationToken,
    /// The client said goodbye: nobody will read rows.
    pub farewell: CancellationToken,
    /// The server shuts down, or `pg_terminate_backend`.
    pub terminate: CancellationToken,
}

/// One statement's share of them.
pub struct StatementInterrupts<'a> {
    session: &'a Interrupts,
    cancel: &'a CancellationToken,
    deadline: Option<Instant>,
}

impl Interrupts {
    pub fn statement<'a>(
        &'a self,
        cancel: &'a CancellationToken,
        timeout: Option<Duration>,
    ) -> StatementInterrupts<'a> {
        StatementInterrupts {
            session: self,
            cancel,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        }
    }
}

impl StatementInterrupts<'_> {
    /// Waits for an interrupt and says it as the error that the client gets.
    pub async fn raised(&self) -> Error {
        let timeout = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.session.gone.cancelled() => Error::Disconnected,
            () = self.session.terminate.cancelled() => terminated(),
            () = self.cancel.cancelled() => cancelled("canceling statement due to user request"),
            () = timeout => cancelled("canceling statement due to statement timeout"),
        }
    }

    /// As [`StatementInterrupts::raised`], for statements whose only effect is their rows.
    pub async fn raised_while_sending(&self) -> Error {
        tokio::select! {
            biased;
            () = self.session.farewell.cancelled() => Error::Disconnected,
            error = self.raised() => error,
        }
    }
}

pub fn terminated() -> Error {
    Error::fatal(
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection due to administrator command",
    )
}

fn cancelled(message: &str) -> Error {
    Error::Statement(crate::error::ErrorReport::new(SqlState::QUERY_CANCELED, message))
}

/// How one row becomes a message.
pub trait RowMessage: Send {
    fn open(&self, batch: &RecordBatch) -> Result<BatchEncoder, Error>;
    fn put(&self, batch: &BatchEncoder, row: usize, out: &mut BytesMut) -> Result<(), Error>;
}

/// DataRow.
impl RowMessage for RowEncoder {
    fn open(&self, batch: &RecordBatch) -> Result<BatchEncoder, Error> {
        RowEncoder::open(self, batch)
    }

    fn put(&self, batch: &BatchEncoder, row: usize, out: &mut BytesMut) -> Result<(), Error> {
        batch.data_row(row, out)
    }
}

/// CopyData.
impl RowMessage for CopyEncoder {
    fn open(&self, batch: &RecordBatch) -> Result<BatchEncoder, Error> {
        CopyEncoder::open(self, batch)
    }

    fn put(&self, batch: &BatchEncoder, row: usize, out: &mut BytesMut) -> Result<(), Error> {
        copy_data(out, |out| self.row(batch, row, out))
    }
}

/// A CopyData message around what `write` appends; nothing when it appends nothing.
pub fn copy_data(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> Result<(), Error>) -> Result<(), Error> {
    let start = out.len();
    out.put_u8(b'd');
    let written = length_prefixed_self(out, write);
    if written.is_err() || out.len() == start + 5 {
        out.truncate(start);
    }
    written
}

/// Rows under way; kept in a portal between two Execute messages.
pub struct RunningRows<M> {
    message: M,
    stream: Rows,
    batch: Option<BatchEncoder>,
    next_row: usize,
}

/// Why sending stopped without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All rows, this many in this call.
    All(u64),
    /// As many as were asked for; there may be more.
    Limit,
}

impl<M: RowMessage> RunningRows<M> {
    pub fn new(message: M, stream: Rows) -> RunningRows<M> {
        RunningRows {
            message,
            stream,
            batch: None,
            next_row: 0,
        }
    }

    pub fn message(&self) -> &M {
        &self.message
    }

    /// Sends at most `rows_max` rows.
    pub async fn send<W: AsyncWrite + Unpin>(
        &mut self,
        replies: &mut ReplyWriter<W>,
        rows_max: Option<u64>,
        interrupts: &StatementInterrupts<'_>,
    ) -> Result<Sent, Error> {
        let mut sent = 0;
        loop {
            while let Some(batch) = self.batch.as_ref().filter(|batch| self.next_row < batch.row_count()) {
                if rows_max == Some(sent) {
                    return Ok(Sent::Limit);
                }
                self.message.put(batch, self.next_row, replies.buffer())?;
                self.next_row += 1;
                sent += 1;
                if replies.buffer().len() >= FLUSH_BYTES {
                    flush(replies, interrupts).await?;
                }
            }
            if rows_max == Some(sent) {
                return Ok(Sent::Limit);
            }
            match self.next_batch(replies, interrupts).await? {
                Some(batch) => {
                    self.batch = Some(self.message.open(&batch)?);
                    self.next_row = 0;
                }
                None => return Ok(Sent::All(sent)),
            }
        }
    }

    /// The next batch; what is in the buffer is sent before waiting for one.
    async fn next_batch<W: AsyncWrite + Unpin>(
        &mut self,
        replies: &mut ReplyWriter<W>,
        interrupts: &StatementInterrupts<'_>,
    ) -> Result<Option<RecordBatch>, Error> {
        if let Some(error) = interrupts.raised_while_sending().now_or_never() {
            return Err(error);
        }
        let next = match self.stream.next().now_or_never() {
            Some(next) => next,
            None => {
                flush(replies, interrupts).await?;
                tokio::select! {
                    biased;
                    error = interrupts.raised_while_sending() => return Err(error),
                    next = self.stream.next() => next,
                }
            }
        };
        next.transpose().map_err(Error::Statement)
    }
}

async fn flush<W: AsyncWrite + Unpin>(
    replies: &mut ReplyWriter<W>,
    interrupts: &StatementInterrupts<'_>,
) -> Result<(), Error> {
    tokio::select! {
        biased;
        error = interrupts.raised_while_sending() => Err(error),
        flushed = replies.flush() => flushed,
    }
}

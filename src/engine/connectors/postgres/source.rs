//! What all sources of Postgres tables share: a task on the I/O runtime reads ahead, rows are decoded on the shard.
//!
//! The task waits out outages by itself: it goes on where it was, and the pipeline does not notice.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use crate::engine::connectors::postgres::changes::Rows;
use crate::engine::connectors::postgres::slot::log_text;
use crate::engine::connectors::{
    BadRow, BadRowHandler, Result, Source, SourceContext, SourcePoll, SourceStatus, SplitLag, SplitOffset, Wake,
    keyed_schema,
};
use crate::engine::error::Error;
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::{Decoder, Input};
use crate::error::{Report, Retry, SqlState};
use crate::ids::Epoch;

/// The only split: the table.
const SPLIT: &str = "table";
/// Pieces that wait to be decoded.
const QUEUE_PIECES: usize = 4;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// Rows that were read, and where reading goes on after them.
pub struct Piece {
    pub rows: Rows,
    /// JSON; `None`: as before.
    pub offset: Option<String>,
    /// There is more at hand.
    pub behind: bool,
    /// Where the reader of a log stands.
    pub log: Option<LogPositions>,
}

/// Of the write-ahead log of the Postgres.
#[derive(Clone, Copy, Debug)]
pub struct LogPositions {
    /// Everything before this has been read.
    pub read: u64,
    pub end: u64,
}

/// What holds a reader up, in words.
type Trouble = Arc<Mutex<Option<String>>>;

/// The task's end of the queue.
pub struct Output {
    pieces: mpsc::Sender<Result<Piece>>,
    waker: Arc<dyn Wake>,
    trouble: Trouble,
}

impl Output {
    /// False: nobody reads any more.
    pub async fn send(&self, piece: Piece) -> bool {
        self.set_trouble(None);
        self.put(Ok(piece)).await
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    async fn put(&self, piece: Result<Piece>) -> bool {
        let sent = self.pieces.send(piece).await.is_ok();
        self.waker.wake();
        sent
    }
}

/// Reads a table until nobody wants more.
pub trait Reader: Send + 'static {
    /// One connection's worth: `Ok` when nobody wants more. Called again after an error that may pass.
    fn session(&mut self, output: &Output) -> impl Future<Output = Result<()>> + Send;
}

/// The offset of the last checkpoint that is decided.
pub type Durable = watch::Receiver<Option<String>>;

/// `make`: the reader of the only subtask that reads, given the restored offset.
pub fn open<R: Reader>(
    context: &SourceContext,
    table: String,
    changes: bool,
    make: impl FnOnce(Option<String>, Durable) -> Result<R>,
) -> Result<Box<dyn Source>> {
    let restored = context.restored.iter().find(|offset| offset.split == SPLIT);
    let restored = restored.map(|offset| offset.offset.clone());
    let (sender, pieces) = mpsc::channel(QUEUE_PIECES);
    let (durable, told) = watch::channel(restored.clone());
    let reads = context.subtask.0 == 0;
    let trouble = Trouble::default();
    let task = match reads {
        true => {
            let output = Output {
                pieces: sender,
                waker: Arc::clone(&context.waker),
                trouble: Arc::clone(&trouble),
            };
            let reader = make(restored.clone(), told)?;
            let _entered = context.runtime.enter();
            Some(crate::spawn::named(
                "reader of a Postgres table",
                run(reader, output, table.clone()),
            ))
        }
        false => None,
    };
    let schema = keyed_schema(&context.schema, context.key.as_deref());
    Ok(Box::new(PostgresSource {
        decoder: JsonDecoder::new(&schema, JsonDecodeOptions::default())?,
        table,
        changes,
        pieces,
        task,
        offset: restored,
        behind: reads,
        passed: VecDeque::new(),
        durable,
        trouble,
        log: None,
        bytes_read: 0,
    }))
}

async fn run(mut reader: impl Reader, output: Output, table: String) {
    let mut delay = RETRY_FIRST;
    loop {
        let began = tokio::time::Instant::now();
        let error = match reader.session(&output).await {
            Ok(()) => return,
            Err(error) => error,
        };
        if error.retry() != Retry::Backoff {
            output.put(Err(error)).await;
            return;
        }
        if began.elapsed() > RETRY_LONGEST {
            delay = RETRY_FIRST;
        }
        warn!(table, %error, "could not read a Postgres table, trying again");
        output.set_trouble(Some(error.to_string()));
        output.waker.wake();
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(RETRY_LONGEST);
    }
}

struct PostgresSource {
    table: String,
    /// Rows also go.
    changes: bool,
    decoder: JsonDecoder,
    pieces: mpsc::Receiver<Result<Piece>>,
    task: Option<tokio::task::JoinHandle<()>>,
    /// `None`: nothing has been read.
    offset: Option<String>,
    behind: bool,
    /// Barriers that passed, with the offset there.
    passed: VecDeque<(Epoch, Option<String>)>,
    durable: watch::Sender<Option<String>>,
    trouble: Trouble,
    log: Option<LogPositions>,
    bytes_read: u64,
}

impl Drop for PostgresSource {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl PostgresSource {
    fn decode(&mut self, rows: &Rows) -> Result<RecordBatch> {
        let input = Input {
            bytes: &rows.lines,
            offset: 0,
            place: &self.table,
            at_end: true,
        };
        self.decoder.decode(input, usize::MAX, &Refuse(&self.table))?;
        if self.decoder.rows() != rows.signs.len() {
            return Err(Error::Internal(format!(
                "{} rows of {} came of {}",
                self.decoder.rows(),
                self.table,
                rows.signs.len()
            )));
        }
        self.bytes_read += rows.lines.len() as u64;
        self.decoder.take()
    }
}

impl Source for PostgresSource {
    /// A piece at a time, whatever its size: no barrier cuts a transaction that fits into one.
    fn poll(&mut self, _rows_max: usize) -> Result<SourcePoll> {
        while let Ok(piece) = self.pieces.try_recv() {
            let piece = piece?;
            let rows = match piece.rows.is_empty() {
                true => None,
                false => Some(self.decode(&piece.rows)?),
            };
            self.offset = piece.offset.or(self.offset.take());
            self.behind = piece.behind;
            self.log = piece.log.or(self.log);
            let Some(rows) = rows else { continue };
            if !self.changes {
                return Ok(SourcePoll::Rows { split: 0, rows });
            }
            let weights = piece.rows.signs.iter().map(|sign| i64::from(*sign)).collect();
            return Ok(SourcePoll::Changes {
                split: 0,
                rows,
                weights,
            });
        }
        Ok(SourcePoll::Pending(None))
    }

    fn at_barrier(&mut self, epoch: Epoch) {
        if self.task.is_some() {
            self.passed.push_back((epoch, self.offset.clone()));
        }
    }

    fn epoch_decided(&mut self, epoch: Epoch) {
        let mut durable = None;
        while self.passed.front().is_some_and(|(passed, _)| *passed <= epoch) {
            durable = self.passed.pop_front().and_then(|(_, offset)| offset);
        }
        if durable.is_some() {
            self.durable.send_replace(durable);
        }
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offset = self.offset.iter().filter(|_| self.task.is_some());
        offset
            .map(|offset| SplitOffset {
                split: SPLIT.to_owned(),
                offset: offset.clone(),
            })
            .collect()
    }

    fn is_behind(&self) -> bool {
        self.behind
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn status(&self) -> SourceStatus {
        let lag = |log: LogPositions| SplitLag {
            end: Some(log_text(log.end)),
            lag: Some(log.end.saturating_sub(log.read)),
        };
        SourceStatus {
            lags: self.log.map(lag).into_iter().collect(),
            unit: "bytes",
            waits_for: self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// A row that does not fit its declared columns: without it, later changes of it would mean something else.
struct Refuse<'a>(&'a str);

impl BadRowHandler for Refuse<'_> {
    fn bad_row(&self, row: BadRow<'_>) -> Result<()> {
        Err(Error::Data {
            code: SqlState::DATA_EXCEPTION,
            message: format!("a row of {} does not fit its columns: {}", self.0, row.reason),
            detail: Some(format!("It is {}.", String::from_utf8_lossy(row.raw))),
        })
    }
}

//! Following a result: what it was, then every epoch's changes, in order, each once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::engine::error::Error;
use crate::engine::message::Chunk;
use crate::engine::operator::Result;
use crate::engine::results::snapshot::ResultSnapshot;
use crate::error::{ErrorReport, SqlState};
use crate::ids::Epoch;

/// Bytes of changes that may wait for a subscriber before it is ended.
pub const SUBSCRIPTION_BYTES_DEFAULT: usize = 64 << 20;

/// What an epoch without changes counts for.
const EPOCH_BYTES: usize = 64;

/// A piece of what happened in one epoch.
#[derive(Clone, Debug)]
pub struct EpochChanges {
    pub epoch: Epoch,
    /// Rows with weight -1 are gone, with weight 1 new; gone ones come before the new ones of their subtask.
    pub chunks: Arc<[Chunk]>,
    /// Nothing more of this epoch follows.
    pub progress: bool,
}

impl EpochChanges {
    fn memory_bytes(&self) -> usize {
        EPOCH_BYTES + self.chunks.iter().map(Chunk::memory_bytes).sum::<usize>()
    }
}

/// A reader's end. Dropping it ends the subscription.
pub struct Subscription {
    /// The rows of the beginning still to be handed out.
    initial: Option<Initial>,
    changes: UnboundedReceiver<EpochChanges>,
    backlog: Arc<Backlog>,
    ended: bool,
}

struct Initial {
    epoch: Epoch,
    batches: Box<dyn Iterator<Item = Result<arrow::array::RecordBatch>> + Send>,
}

/// The writer's end.
pub(crate) struct Subscriber {
    changes: UnboundedSender<EpochChanges>,
    backlog: Arc<Backlog>,
}

struct Backlog {
    bytes: AtomicUsize,
    limit: usize,
    overflowed: AtomicBool,
}

/// The two ends of a subscription that begins with `initial`.
pub(crate) fn subscription(initial: Option<ResultSnapshot>, limit: usize) -> (Subscriber, Subscription) {
    let (sender, receiver) = unbounded_channel();
    let backlog = Arc::new(Backlog {
        bytes: AtomicUsize::new(0),
        limit,
        overflowed: AtomicBool::new(false),
    });
    let subscriber = Subscriber {
        changes: sender,
        backlog: Arc::clone(&backlog),
    };
    let subscription = Subscription {
        initial: initial.map(|snapshot| Initial {
            epoch: snapshot.epoch(),
            batches: Box::new(snapshot.batches()),
        }),
        changes: receiver,
        backlog,
        ended: false,
    };
    (subscriber, subscription)
}

impl Subscriber {
    /// Hands over an epoch without waiting; false when the subscription is over.
    pub fn send(&self, changes: &EpochChanges) -> bool {
        let bytes = changes.memory_bytes();
        let waiting = self.backlog.bytes.fetch_add(bytes, Ordering::AcqRel);
        // A single epoch may be larger than the limit: it is let through to an idle reader.
        if waiting > 0 && waiting + bytes > self.backlog.limit {
            self.backlog.overflowed.store(true, Ordering::Release);
            return false;
        }
        self.changes.send(changes.clone()).is_ok()
    }
}

impl Subscription {
    /// The next piece; `None` when the job has ended. Safe to cancel: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<EpochChanges>> {
        if let Some(piece) = self.next_initial() {
            return Some(piece);
        }
        if self.ended {
            return None;
        }
        if self.backlog.overflowed.load(Ordering::Acquire) {
            self.ended = true;
            self.changes.close();
            return Some(Err(too_slow(self.backlog.limit)));
        }
        match self.changes.recv().await {
            Some(changes) => {
                self.backlog.bytes.fetch_sub(changes.memory_bytes(), Ordering::AcqRel);
                Some(Ok(changes))
            }
            None if self.backlog.overflowed.load(Ordering::Acquire) => {
                self.ended = true;
                Some(Err(too_slow(self.backlog.limit)))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    /// The beginning, a batch at a time; an empty last piece says that it is complete.
    fn next_initial(&mut self) -> Option<Result<EpochChanges>> {
        let initial = self.initial.as_mut()?;
        let epoch = initial.epoch;
        Some(match initial.batches.next() {
            Some(Ok(rows)) => Ok(EpochChanges {
                epoch,
                chunks: Arc::new([Chunk::insert(rows)]),
                progress: false,
            }),
            Some(Err(error)) => {
                self.ended = true;
                self.initial = None;
                Err(error)
            }
            None => {
                self.initial = None;
                Ok(EpochChanges {
                    epoch,
                    chunks: Arc::new([]),
                    progress: true,
                })
            }
        })
    }
}

fn too_slow(limit: usize) -> Error {
    let report = ErrorReport::new(
        SqlState::CONFIGURATION_LIMIT_EXCEEDED,
        format!("subscription is too slow: more than {limit} bytes of changes were waiting"),
    );
    Error::Option(report.with_hint("Read faster, subscribe to fewer rows, or subscribe again for the present state."))
}

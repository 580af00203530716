//! One table's mailbox: changes on their way from statements to the table's job.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;
use tokio::sync::watch;

use crate::engine::connectors::Wake;
use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::error::{Blame, ErrorReport, Retry, SqlState};
use crate::ids::Epoch;

/// Signed rows that become visible and durable together.
#[derive(Clone, Debug)]
pub struct Change {
    /// Pieces of a table are numbered from 1, over all runs of its job.
    pub sequence: u64,
    pub rows: RecordBatch,
    pub weights: ScalarBuffer<i64>,
}

/// Which run of the table's job: 0 before the first in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Run(pub u64);

/// What has become of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The run that it was put for goes on.
    Open,
    /// A later run has it.
    Durable,
    /// A later run began without it.
    Lost,
}

/// The right to write to a table. Given in the order in which it was asked for; dropping it passes it on.
pub type WriteGuard = tokio::sync::OwnedMutexGuard<()>;

#[derive(Default)]
pub struct InternalTable {
    writers: Arc<tokio::sync::Mutex<()>>,
    mailbox: Mutex<Mailbox>,
    progress: watch::Sender<Progress>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Progress {
    run: Run,
    /// The run's input is read: its result holds what it restored.
    open: bool,
    /// The last piece that the source has handed on.
    taken: u64,
    closed: bool,
}

#[derive(Default)]
struct Mailbox {
    /// The last number given.
    last: u64,
    waiting: VecDeque<Change>,
    /// Pieces that the readable result may not hold yet, oldest first; those that wait are among them.
    recent: VecDeque<Change>,
    /// Barriers that passed the source, and the last piece before each.
    cuts: VecDeque<(Epoch, u64)>,
    /// The last piece that each run, from 1, restored.
    restored: Vec<u64>,
    waker: Option<Arc<dyn Wake>>,
}

impl InternalTable {
    /// Waits for the right to write.
    pub async fn lock(&self) -> WriteGuard {
        Arc::clone(&self.writers).lock_owned().await
    }

    /// Waits until the table's job reads the mailbox.
    pub async fn opened(&self) -> Result<Run> {
        let mut progress = self.progress.subscribe();
        let seen = progress.wait_for(|progress| progress.open || progress.closed).await;
        match seen {
            Ok(progress) if !progress.closed => Ok(progress.run),
            _ => Err(gone()),
        }
    }

    /// What `read` gives, which is the table's result at some epoch, and the changes after that epoch. Only for who may
    /// write.
    pub fn recent<T>(&self, run: Run, read: impl FnOnce() -> Option<(T, Epoch)>) -> Result<(T, Vec<Change>)> {
        let mut mailbox = self.mailbox();
        self.check(run)?;
        let (result, epoch) =
            read().ok_or_else(|| Error::Internal("the result of an open internal table is missing".into()))?;
        let mut included = 0;
        while let Some((_, last)) = mailbox.cuts.front().copied().filter(|(cut, _)| *cut <= epoch) {
            included = last;
            mailbox.cuts.pop_front();
        }
        while mailbox.recent.front().is_some_and(|change| change.sequence <= included) {
            mailbox.recent.pop_front();
        }
        Ok((result, mailbox.recent.iter().cloned().collect()))
    }

    /// Hands a piece to the table's job, unless that was restarted since `run`; the piece's number.
    pub fn put(&self, run: Run, rows: RecordBatch, weights: Vec<i64>) -> Result<u64> {
        let mut mailbox = self.mailbox();
        self.check(run)?;
        mailbox.last += 1;
        let change = Change {
            sequence: mailbox.last,
            rows,
            weights: weights.into(),
        };
        mailbox.waiting.push_back(change.clone());
        mailbox.recent.push_back(change);
        if let Some(waker) = &mailbox.waker {
            waker.wake();
        }
        Ok(mailbox.last)
    }

    /// Waits until the source has handed the piece on: a barrier after that comes behind it.
    pub async fn taken(&self, run: Run, sequence: u64) -> Result<()> {
        let mut progress = self.progress.subscribe();
        let done = |progress: &Progress| progress.run != run || progress.closed || progress.taken >= sequence;
        match progress.wait_for(done).await {
            Ok(progress) if progress.run == run && !progress.closed => Ok(()),
            _ => Err(restarted()),
        }
    }

    /// Waits until another run reads the mailbox, or the table is gone.
    pub async fn next_run(&self, run: Run) {
        let mut progress = self.progress.subscribe();
        let done = |progress: &Progress| progress.closed || progress.run > run && progress.open;
        // An error means that the table is gone.
        let _ = progress.wait_for(done).await;
    }

    pub fn fate(&self, run: Run, sequence: u64) -> Fate {
        let mailbox = self.mailbox();
        // Runs are numbered from 1, so this is the one after.
        match mailbox.restored.get(run.0 as usize) {
            None => Fate::Open,
            Some(restored) if *restored >= sequence => Fate::Durable,
            Some(_) => Fate::Lost,
        }
    }

    fn check(&self, run: Run) -> Result<()> {
        let progress = *self.progress.borrow();
        if progress.closed {
            return Err(gone());
        }
        if progress.run == run { Ok(()) } else { Err(restarted()) }
    }

    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table was dropped.
    pub(super) fn close(&self) {
        self.progress.send_modify(|progress| progress.closed = true);
    }

    /// A new run begins with what the run before it saved: all pieces up to `restored`. What came later is lost.
    pub(super) fn attach(&self, restored: u64, waker: Arc<dyn Wake>) -> Run {
        let mut mailbox = self.mailbox();
        mailbox.waiting.clear();
        mailbox.recent.clear();
        mailbox.cuts.clear();
        mailbox.restored.push(restored);
        mailbox.waker = Some(waker);
        // The numbers of lost pieces are not used again.
        mailbox.last = mailbox.last.max(restored);
        let run = Run(mailbox.restored.len() as u64);
        self.progress.send_modify(|progress| {
            *progress = Progress {
                run,
                open: false,
                taken: restored,
                closed: progress.closed,
            };
        });
        run
    }

    /// The next piece for the source of `run`.
    pub(super) fn take(&self, run: Run) -> Option<Change> {
        let mut mailbox = self.mailbox();
        if self.progress.borrow().run != run {
            return None;
        }
        let next = mailbox.waiting.pop_front();
        let taken = next.as_ref().map(|change| change.sequence);
        self.progress.send_if_modified(|progress| {
            let before = *progress;
            progress.open = true;
            progress.taken = taken.unwrap_or(progress.taken);
            before != *progress
        });
        next
    }

    pub(super) fn cut(&self, run: Run, epoch: Epoch, taken: u64) {
        let mut mailbox = self.mailbox();
        // Barriers without changes between them need not be told apart.
        let known = mailbox.cuts.back().is_some_and(|(_, last)| *last == taken);
        if !known && self.progress.borrow().run == run {
            mailbox.cuts.push_back((epoch, taken));
        }
    }
}

fn gone() -> Error {
    Error::Reported(ErrorReport::new(
        SqlState::UNDEFINED_TABLE,
        "the table was dropped meanwhile",
    ))
}

fn restarted() -> Error {
    let message = "the job that keeps the table was restarted; nothing of the statement was kept";
    Error::Reported(ErrorReport {
        blame: Blame::External,
        retry: Retry::Backoff,
        ..ErrorReport::new(SqlState::SERIALIZATION_FAILURE, message).with_hint("Run it again.")
    })
}

//! The tail of a fragment whose rows go to the client of a foreground job, through a bounded queue.
//!
//! A full queue blocks the driver and so the whole job: a slow client slows its query down and nothing else. A client
//! that went away ends the job.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::engine::connectors::Wake;
use crate::engine::exchange::partition::slice_chunk;
use crate::engine::message::Chunk;
use crate::error::ErrorReport;

/// Chunks that wait for a client at most.
pub const CLIENT_CHUNKS_MAX: usize = 16;

/// What all subtasks of a foreground job share.
pub struct ClientQueue {
    sender: mpsc::Sender<Result<Chunk, ErrorReport>>,
    /// Rows that may still be sent.
    remaining: AtomicU64,
}

impl ClientQueue {
    pub fn new(limit: Option<u64>) -> (Arc<ClientQueue>, mpsc::Receiver<Result<Chunk, ErrorReport>>) {
        let (sender, receiver) = mpsc::channel(CLIENT_CHUNKS_MAX);
        let queue = ClientQueue {
            sender,
            remaining: AtomicU64::new(limit.unwrap_or(u64::MAX)),
        };
        (Arc::new(queue), receiver)
    }

    /// Takes up to `rows` of what may still be sent.
    fn claim(&self, rows: u64) -> u64 {
        let claim = |left: u64| Some(if left == u64::MAX { left } else { left - left.min(rows) });
        match self.remaining.fetch_update(Ordering::SeqCst, Ordering::SeqCst, claim) {
            Ok(u64::MAX) => rows,
            Ok(left) => left.min(rows),
            Err(_) => 0,
        }
    }

    pub fn is_exhausted(&self) -> bool {
        self.remaining.load(Ordering::SeqCst) == 0
    }

    /// Returns when the client has gone away.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    /// The last word to the client; waits for room.
    pub async fn fail(&self, report: ErrorReport) {
        // A client that went away needs no error.
        let _ = self.sender.send(Err(report)).await;
    }
}

pub struct ClientTail {
    queue: Arc<ClientQueue>,
    pending: VecDeque<Chunk>,
    waker: Arc<dyn Wake>,
    runtime: tokio::runtime::Handle,
}

impl ClientTail {
    pub fn new(queue: Arc<ClientQueue>, waker: Arc<dyn Wake>, runtime: tokio::runtime::Handle) -> ClientTail {
        ClientTail {
            queue,
            pending: VecDeque::new(),
            waker,
            runtime,
        }
    }

    pub fn write(&mut self, chunk: Chunk) {
        let rows = self.queue.claim(chunk.len() as u64) as usize;
        if rows == 0 {
            return;
        }
        let chunk = if rows < chunk.len() {
            slice_chunk(&chunk, 0, rows)
        } else {
            chunk
        };
        self.pending.push_back(chunk);
    }

    /// Sends what waits; false when the client has not taken enough yet: it will be asked again after a wake-up.
    pub fn drain(&mut self) -> bool {
        while let Some(chunk) = self.pending.pop_front() {
            match self.queue.sender.try_send(Ok(chunk)) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Closed(_)) => self.pending.clear(),
                Err(mpsc::error::TrySendError::Full(Ok(chunk))) => {
                    self.pending.push_front(chunk);
                    self.wake_on_room();
                    return false;
                }
                Err(mpsc::error::TrySendError::Full(Err(_))) => {}
            }
        }
        true
    }

    /// Whether the limit is reached and all of it is sent.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty() && self.queue.is_exhausted()
    }

    fn wake_on_room(&self) {
        let sender = self.queue.sender.clone();
        let waker = Arc::clone(&self.waker);
        let _context = self.runtime.enter();
        crate::spawn::named("client room", async move {
            // The permit is given back at once; a client that went away makes room, too.
            drop(sender.reserve().await);
            waker.wake();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_shared_and_not_exceeded() {
        let (queue, _receiver) = ClientQueue::new(Some(10));
        assert_eq!(queue.claim(4), 4);
        assert_eq!(queue.claim(4), 4);
        assert_eq!(queue.claim(4), 2);
        assert!(queue.is_exhausted());
        let (unlimited, _receiver) = ClientQueue::new(None);
        assert_eq!(unlimited.claim(1 << 40), 1 << 40);
        assert!(!unlimited.is_exhausted());
    }
}

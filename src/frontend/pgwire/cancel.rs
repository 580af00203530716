//! Backends: the numbers by which clients name their sessions from outside, to cancel a statement or to end a session.
//!
//! Guarantee: a cancel request with the wrong key does nothing and tells nothing, in constant time; with the right key it
//! reaches the statement that runs at that moment, its rows included, and no later one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// All sessions of the server.
#[derive(Default)]
pub struct Backends {
    entries: Mutex<HashMap<i32, Arc<Entry>>>,
    last_pid: AtomicI32,
}

struct Entry {
    secret: Vec<u8>,
    running: Mutex<Option<CancellationToken>>,
    terminate: CancellationToken,
}

/// A panic elsewhere cannot leave these maps half changed, so a poisoned lock is taken as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backends {
    /// A new session with a secret of `secret_bytes` random bytes. It ends when `shutdown` says so.
    pub fn register(self: &Arc<Self>, secret_bytes: usize, shutdown: &CancellationToken) -> Backend {
        let mut secret = vec![0; secret_bytes];
        rand::fill(&mut secret[..]);
        let entry = Arc::new(Entry {
            secret,
            running: Mutex::new(None),
            terminate: shutdown.child_token(),
        });
        let mut entries = lock(&self.entries);
        let pid = loop {
            let pid = self.last_pid.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
            // After two thousand million sessions numbers come again: skip those in use and those that are none.
            if pid > 0 && !entries.contains_key(&pid) {
                break pid;
            }
        };
        entries.insert(pid, Arc::clone(&entry));
        Backend {
            pid,
            entry,
            backends: Arc::clone(self),
        }
    }

    /// A CancelRequest packet.
    pub fn cancel_request(&self, pid: i32, key: &[u8]) {
        let entry = lock(&self.entries).get(&pid).map(Arc::clone);
        if let Some(entry) = entry
            && equal_in_constant_time(&entry.secret, key)
        {
            entry.cancel();
        }
    }

    /// `pg_cancel_backend`: whether there is such a session.
    pub fn cancel(&self, pid: i32) -> bool {
        let entry = lock(&self.entries).get(&pid).map(Arc::clone);
        entry.inspect(|entry| entry.cancel()).is_some()
    }

    /// `pg_terminate_backend`: whether there is such a session.
    pub fn terminate(&self, pid: i32) -> bool {
        let entry = lock(&self.entries).get(&pid).map(Arc::clone);
        entry.inspect(|entry| entry.terminate.cancel()).is_some()
    }

    pub fn count(&self) -> usize {
        lock(&self.entries).len()
    }
}

impl Entry {
    fn cancel(&self) {
        if let Some(running) = lock(&self.running).as_ref() {
            running.cancel();
        }
    }
}

/// One session's place among the backends; dropped when it ends.
pub struct Backend {
    pid: i32,
    entry: Arc<Entry>,
    backends: Arc<Backends>,
}

impl Backend {
    pub fn pid(&self) -> i32 {
        self.pid
    }

    pub fn secret(&self) -> &[u8] {
        &self.entry.secret
    }

    /// Cancelled when the session has to end.
    pub fn terminate(&self) -> &CancellationToken {
        &self.entry.terminate
    }

    /// From now until the guard is dropped, cancel requests reach its token.
    pub fn begin_statement(&self) -> RunningStatement {
        let token = CancellationToken::new();
        *lock(&self.entry.running) = Some(token.clone());
        RunningStatement {
            token,
            entry: Arc::clone(&self.entry),
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        lock(&self.backends.entries).remove(&self.pid);
    }
}

/// A statement that can be cancelled.
pub struct RunningStatement {
    token: CancellationToken,
    entry: Arc<Entry>,
}

impl RunningStatement {
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }
}

impl Drop for RunningStatement {
    fn drop(&mut self) {
        *lock(&self.entry.running) = None;
    }
}

/// Looks at every byte, whatever differs.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_cancels_and_only_what_runs() {
        let backends = Arc::new(Backends::default());
        let backend = backends.register(4, &CancellationToken::new());
        let other = backends.register(32, &CancellationToken::new());
        assert_ne!(backend.pid(), other.pid());
        let key = backend.secret().to_vec();
        backends.cancel_request(backend.pid(), &key);
        let statement = backend.begin_statement();
        assert!(
            !statement.token().is_cancelled(),
            "an earlier cancel must not reach a later statement"
        );
        let mut wrong = key.clone();
        wrong[3] ^= 1;
        backends.cancel_request(backend.pid(), &wrong);
        backends.cancel_request(backend.pid(), &key[..3]);
        backends.cancel_request(other.pid(), &key);
        assert!(!statement.token().is_cancelled());
        backends.cancel_request(backend.pid(), &key);
        assert!(statement.token().is_cancelled());
    }

    #[test]
    fn sessions_leave_when_dropped() {
        let backends = Arc::new(Backends::default());
        let backend = backends.register(4, &CancellationToken::new());
        let pid = backend.pid();
        assert!(backends.terminate(pid));
        assert!(backend.terminate().is_cancelled());
        drop(backend);
        assert_eq!(backends.count(), 0);
        assert!(!backends.cancel(pid));
    }
}

//! A system outside that takes what pipelines deliver, and fails as systems do: it refuses, forgets to answer, is away, or says nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, SchemaRef};
use bytes::Bytes;

use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{
    Committer, CommitterContext, ConnectorTable, DeliveryGuarantee, Direction, Prepared, Sink, SinkContext,
};
use crate::engine::error::Error;
use crate::engine::message::Chunk;
use crate::error::SqlState;
use crate::ids::Epoch;

type Result<T, E = Error> = std::result::Result<T, E>;

/// A system outside that takes rows of two numbers, with weights, in idempotent commits by epoch.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By epoch, what was committed.
    pub commits: Mutex<BTreeMap<u64, Vec<(i64, i64, i64)>>>,
    /// Commits that had been made before.
    pub replays: AtomicU32,
    /// How often to refuse a commit, for ever when `u32::MAX`.
    pub refuse: AtomicU32,
    /// How many of the next prepares fail, every other one in its work.
    pub failing_prepares: AtomicU32,
    /// Commits are begun and never answered.
    pub silent: AtomicBool,
    /// The work of prepares is begun and never ends.
    pub stuck_prepares: AtomicBool,
    /// Commits fail as when the ledger cannot be reached.
    pub away: AtomicBool,
    /// Commit, and say that it failed.
    pub lose_answers: AtomicBool,
    pub blocked: AtomicBool,
    pub written_rows: AtomicU64,
    wakers: Mutex<Vec<Arc<dyn WakeDebug>>>,
}

trait WakeDebug: Send + Sync + std::fmt::Debug {
    fn wake(&self);
}

struct Waker(Arc<dyn crate::engine::connectors::Wake>);

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("waker")
    }
}

impl WakeDebug for Waker {
    fn wake(&self) {
        self.0.wake();
    }
}

impl Ledger {
    /// Sum of the weights of every row.
    pub fn result(&self) -> BTreeMap<(i64, i64), i64> {
        let mut result = BTreeMap::new();
        for (key, value, weight) in self.commits.lock().unwrap().values().flatten() {
            *result.entry((*key, *value)).or_insert(0) += weight;
        }
        result.retain(|_, weight| *weight != 0);
        result
    }

    pub fn unblock(&self) {
        self.blocked.store(false, Ordering::SeqCst);
        for waker in &*self.wakers.lock().unwrap() {
            waker.wake();
        }
    }
}

#[derive(Debug)]
pub struct LedgerTable(pub Arc<Ledger>);

#[async_trait::async_trait]
impl ConnectorTable for LedgerTable {
    fn connector(&self) -> &'static str {
        "ledger"
    }
    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }
    fn schema(&self) -> Option<SchemaRef> {
        None
    }
    fn direction(&self) -> Direction {
        Direction::Sink
    }
    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }
    fn open_sink(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        self.0.wakers.lock().unwrap().push(Arc::new(Waker(context.waker)));
        Ok(Box::new(LedgerSink {
            ledger: Arc::clone(&self.0),
            rows: Vec::new(),
        }))
    }
    async fn open_committer(&self, _context: CommitterContext) -> Result<Box<dyn Committer>> {
        Ok(Box::new(LedgerCommitter(Arc::clone(&self.0))))
    }
}

struct LedgerSink {
    ledger: Arc<Ledger>,
    rows: Vec<(i64, i64, i64)>,
}

impl Sink for LedgerSink {
    fn ready(&mut self) -> bool {
        !self.ledger.blocked.load(Ordering::SeqCst)
    }
    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        let column = |index: usize| chunk.rows.column(index).as_primitive::<Int64Type>();
        for row in 0..chunk.len() {
            self.rows
                .push((column(0).value(row), column(1).value(row), chunk.weight(row)));
        }
        self.ledger.written_rows.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        Ok(())
    }
    fn prepare(&mut self, _epoch: Epoch) -> Result<Prepared> {
        let failing = self
            .ledger
            .failing_prepares
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if failing.is_ok_and(|left| left % 2 == 0) {
            return Err(out_of_reach());
        }
        let rows = std::mem::take(&mut self.rows);
        let ledger = Arc::clone(&self.ledger);
        Ok(Prepared {
            committable: (!rows.is_empty()).then(|| Bytes::from(serde_json::to_vec(&rows).unwrap())),
            position: None,
            work: Some(Box::new(move || {
                if failing.is_ok() {
                    return Err(out_of_reach());
                }
                while ledger.stuck_prepares.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            })),
        })
    }
}

struct LedgerCommitter(Arc<Ledger>);

#[async_trait::async_trait]
impl Committer for LedgerCommitter {
    async fn commit(&mut self, epoch: Epoch, committables: Vec<Bytes>) -> Result<()> {
        let refused = self
            .0
            .refuse
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
                u32::MAX => Some(left),
                left => left.checked_sub(1),
            });
        if refused.is_ok() {
            return Err(no_answer());
        }
        if self.0.away.load(Ordering::SeqCst) {
            return Err(out_of_reach());
        }
        while self.0.silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut commits = self.0.commits.lock().unwrap();
        if commits.contains_key(&epoch.0) {
            self.0.replays.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        let rows = committables
            .iter()
            .flat_map(|bytes| -> Vec<(i64, i64, i64)> { serde_json::from_slice(bytes).unwrap() });
        commits.insert(epoch.0, rows.collect());
        if self.0.lose_answers.load(Ordering::SeqCst) {
            return Err(no_answer());
        }
        Ok(())
    }
}

fn out_of_reach() -> Error {
    Error::External {
        code: SqlState::CONNECTION_FAILURE,
        message: "the ledger cannot be reached".into(),
        hint: None,
        retry: crate::error::Retry::Backoff,
    }
}

fn no_answer() -> Error {
    Error::External {
        code: SqlState::CONNECTION_FAILURE,
        message: "the ledger does not answer".into(),
        hint: None,
        retry: crate::error::Retry::Never,
    }
}

//! Asks a system outside without waiting for it: each question is a task of the I/O runtime, answers are fetched from a box.
//!
//! What may pass by itself is asked again, with growing pauses, until `lookup_timeout`; then the job fails, and starts again as
//! the policy says. Dropping the asker ends its tasks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::warn;

use crate::engine::connectors::lookup::{Lookup, LookupAnswer};
use crate::engine::error::Error;
use crate::engine::job_context::Outside;
use crate::engine::operator::Result;
use crate::error::{Report, Retry, SqlState};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

pub struct Questions {
    lookup: Arc<dyn Lookup>,
    outside: Outside,
    table_name: Arc<str>,
    timeout: Duration,
    replies: Arc<Mutex<Vec<Reply>>>,
    tasks: Vec<AbortHandle>,
}

pub struct Reply {
    /// The numbers of the keys in the question.
    pub asked: Vec<u32>,
    pub outcome: Result<LookupAnswer>,
}

impl Questions {
    pub fn new(lookup: Arc<dyn Lookup>, outside: Outside, table_name: &str, timeout: Duration) -> Questions {
        Questions {
            lookup,
            outside,
            table_name: table_name.into(),
            timeout,
            replies: Arc::default(),
            tasks: Vec::new(),
        }
    }

    /// Asks for the rows of `keys`, whose numbers are `asked`.
    pub fn ask(&mut self, asked: Vec<u32>, keys: RecordBatch) {
        self.tasks.retain(|task| !task.is_finished());
        let lookup = Arc::clone(&self.lookup);
        let (table_name, timeout) = (Arc::clone(&self.table_name), self.timeout);
        let (replies, waker) = (Arc::clone(&self.replies), Arc::clone(&self.outside.waker));
        let (metrics, clock) = (Arc::clone(&self.outside.metrics), Arc::clone(&self.outside.clock));
        let _entered = self.outside.runtime.enter();
        let task = crate::spawn::named("lookup", async move {
            let started = Instant::now();
            let outcome = answer(lookup.as_ref(), &keys, timeout, &table_name, &|what| {
                metrics.set_waits_for(what, clock.now_micros())
            })
            .await;
            metrics.set_waits_for(None, clock.now_micros());
            ::metrics::histogram!("laminar_lookup_seconds").record(started.elapsed());
            lock(&replies).push(Reply { asked, outcome });
            waker.wake();
        });
        self.tasks.push(task.abort_handle());
    }

    /// What has come since the last call.
    pub fn take_replies(&mut self) -> Vec<Reply> {
        std::mem::take(&mut *lock(&self.replies))
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// The box holds whole replies: a panic elsewhere leaves none half written.
fn lock(replies: &Mutex<Vec<Reply>>) -> MutexGuard<'_, Vec<Reply>> {
    replies.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    lookup: &dyn Lookup,
    keys: &RecordBatch,
    timeout: Duration,
    table_name: &str,
    waits_for: &(dyn Fn(Option<String>) + Sync),
) -> Result<LookupAnswer> {
    let deadline = Instant::now() + timeout;
    let mut pause = FIRST_PAUSE;
    let mut last = None;
    loop {
        match tokio::time::timeout_at(deadline, lookup.lookup(keys)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) if error.retry() == Retry::Never => return Err(error),
            Ok(Err(error)) => {
                warn!(table = table_name, %error, "a lookup failed and is repeated");
                waits_for(Some(format!("lookup table \"{table_name}\": {error}")));
                last = Some(error);
            }
            Err(_) => return Err(unanswered(table_name, timeout, last.as_ref())),
        }
        if Instant::now() + pause >= deadline {
            return Err(unanswered(table_name, timeout, last.as_ref()));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn unanswered(table_name: &str, timeout: Duration, last: Option<&Error>) -> Error {
    let reason = last.map(|error| format!(": {error}")).unwrap_or_default();
    Error::External {
        code: last.map_or(SqlState::QUERY_CANCELED, Report::code),
        message: format!(
            "lookup table \"{table_name}\" did not answer within {} s{reason}",
            timeout.as_secs_f64()
        ),
        hint: Some("Rows wait in front of the join for as long as the table's option lookup_timeout says.".into()),
        retry: Retry::Backoff,
    }
}

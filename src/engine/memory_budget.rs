//! How much memory the state of jobs may take: each job by its own limit, and all of the process together.
//!
//! Drivers report what their operators hold, some ten times a second. A job above its own limit fails. When all together are above the
//! process's limit, the job that holds most fails, whether or not it is the one that grows: that is where memory comes back from. It
//! fails alone and for good, with SQLSTATE 53200; the others go on. Jobs that keep the rows of tables count, and never have to go: without
//! them no statement could read or change the table.
//!
//! Not guaranteed: exactness. State counts by its operators' own estimate; batches under way, results that are read and what comes
//! between two looks do not count, so the process's limit is to leave room.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::engine::error::Error;

/// How often drivers look at their state.
pub const LOOK_AT_STATE: Duration = Duration::from_millis(100);

/// The limit of a process, and the jobs that share it.
#[derive(Debug, Default)]
pub struct MemoryBudget {
    /// Bytes.
    limit: Option<u64>,
    used: AtomicU64,
    jobs: Mutex<Vec<Weak<JobMemory>>>,
}

/// What one run of a job holds.
pub struct JobMemory {
    budget: Arc<MemoryBudget>,
    /// Bytes.
    limit: Option<u64>,
    keeps_table: bool,
    used: AtomicU64,
    /// Called once, when the job must end.
    fail: Box<dyn Fn(Error) + Send + Sync>,
    has_failed: AtomicBool,
}

impl std::fmt::Debug for JobMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobMemory")
            .field("used", &self.used)
            .finish_non_exhaustive()
    }
}

impl MemoryBudget {
    /// `limit` in bytes; `None`: only jobs have limits.
    pub fn new(limit: Option<u64>) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget {
            limit,
            ..MemoryBudget::default()
        })
    }

    /// A job of its own, with a limit of its own in bytes; `fail` must not wait.
    pub fn job(self: &Arc<Self>, limit: Option<u64>, fail: Box<dyn Fn(Error) + Send + Sync>) -> Arc<JobMemory> {
        self.add(limit, false, fail)
    }

    /// The job behind a table.
    pub fn table_job(self: &Arc<Self>) -> Arc<JobMemory> {
        self.add(None, true, Box::new(drop))
    }

    fn add(
        self: &Arc<Self>,
        limit: Option<u64>,
        keeps_table: bool,
        fail: Box<dyn Fn(Error) + Send + Sync>,
    ) -> Arc<JobMemory> {
        let job = Arc::new(JobMemory {
            budget: Arc::clone(self),
            limit,
            keeps_table,
            used: AtomicU64::new(0),
            fail,
            has_failed: AtomicBool::new(false),
        });
        let mut jobs = self.jobs();
        jobs.retain(|job| job.strong_count() > 0);
        jobs.push(Arc::downgrade(&job));
        job
    }

    fn jobs(&self) -> MutexGuard<'_, Vec<Weak<JobMemory>>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While a job that failed still holds memory, no other has to go.
    fn make_room(&self, limit: u64, used: u64) {
        let jobs: Vec<Arc<JobMemory>> = self.jobs().iter().filter_map(Weak::upgrade).collect();
        let jobs = jobs.iter().filter(|job| !job.keeps_table);
        let largest = jobs.max_by_key(|job| job.used.load(Ordering::Relaxed));
        if let Some(largest) = largest {
            largest.fail_once(|used_by_job| Error::ProcessOutOfMemory {
                used_by_job,
                used,
                limit,
            });
        }
    }
}

impl JobMemory {
    fn fail_once(&self, error: impl FnOnce(u64) -> Error) {
        if !self.has_failed.swap(true, Ordering::SeqCst) {
            (self.fail)(error(self.used.load(Ordering::Relaxed)));
        }
    }

    /// A subtask holds `after` bytes, where it held `before`.
    fn change(&self, before: u64, after: u64) {
        let add = |total: &AtomicU64| {
            // Wraps when it gets less.
            let difference = after.wrapping_sub(before);
            total.fetch_add(difference, Ordering::Relaxed).wrapping_add(difference)
        };
        let (used_by_job, used) = (add(&self.used), add(&self.budget.used));
        if after <= before {
            return;
        }
        if let Some(limit) = self.limit
            && used_by_job > limit
        {
            self.fail_once(|used| Error::JobOutOfMemory { used, limit });
        }
        if let Some(limit) = self.budget.limit
            && used > limit
        {
            self.budget.make_room(limit, used);
        }
    }
}

/// The part of one driver; what it holds is given back when it is dropped.
#[derive(Debug)]
pub struct MemoryShare {
    job: Arc<JobMemory>,
    bytes: u64,
}

impl MemoryShare {
    pub fn new(job: &Arc<JobMemory>) -> MemoryShare {
        MemoryShare {
            job: Arc::clone(job),
            bytes: 0,
        }
    }

    pub fn set(&mut self, bytes: u64) {
        self.job.change(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::error::Report;

    type Told = Arc<Mutex<Vec<String>>>;

    fn job(budget: &Arc<MemoryBudget>, limit: Option<u64>) -> (Arc<JobMemory>, Told) {
        let told = Told::default();
        let sink = Arc::clone(&told);
        let fail = move |error: Error| {
            assert_eq!(error.code().as_str(), "53200");
            sink.lock().unwrap().push(error.to_string());
        };
        (budget.job(limit, Box::new(fail)), told)
    }

    fn said(told: &Told) -> Vec<String> {
        std::mem::take(&mut *told.lock().unwrap())
    }

    #[test]
    fn f_33_a_job_above_its_own_limit_fails_once() {
        let budget = MemoryBudget::new(None);
        let (memory, told) = job(&budget, Some(100 << 20));
        let (mut first, mut second) = (MemoryShare::new(&memory), MemoryShare::new(&memory));
        first.set(60 << 20);
        second.set(40 << 20);
        assert!(said(&told).is_empty());
        second.set(41 << 20);
        first.set(70 << 20);
        assert_eq!(
            said(&told),
            ["state takes 101 MB, more than memory_limit allows: 100 MB"]
        );
    }

    #[test]
    fn f_33_a_process_above_its_limit_ends_its_largest_job_and_no_other() {
        let budget = MemoryBudget::new(Some(100 << 20));
        let (large, told_large) = job(&budget, None);
        let (small, told_small) = job(&budget, None);
        let mut of_large = MemoryShare::new(&large);
        let mut of_small = MemoryShare::new(&small);
        of_large.set(80 << 20);
        of_small.set(21 << 20);
        of_small.set(30 << 20);
        let expected = "state of all pipelines takes 101 MB, more than the server's memory_limit of 100 MB; this one's takes most, 80 MB";
        assert_eq!(said(&told_large), [expected]);
        drop(of_large);
        of_small.set(90 << 20);
        assert!(said(&told_small).is_empty(), "there is room again");
        of_small.set(110 << 20);
        assert_eq!(said(&told_small).len(), 1);
    }

    #[test]
    fn f_33_tables_count_and_stay() {
        let budget = MemoryBudget::new(Some(100 << 20));
        let (pipeline, told) = job(&budget, None);
        let mut of_table = MemoryShare::new(&budget.table_job());
        let mut of_pipeline = MemoryShare::new(&pipeline);
        of_pipeline.set(1 << 20);
        of_table.set(99 << 20);
        assert!(said(&told).is_empty());
        of_table.set(100 << 20);
        assert_eq!(said(&told).len(), 1);
    }
}

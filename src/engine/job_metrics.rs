//! Counters of a running job: written by its drivers with relaxed atomics, read by views, REST and `/metrics`.
//!
//! Not guaranteed: that counters of one operator are of the same instant. They start at zero with every run.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::engine::graph::{JobGraph, OperatorSpec};
use crate::engine::message::Watermark;
use crate::engine::operator::StateSize;
use crate::ids::OperatorId;

/// Counters of one subtask of one operator.
#[derive(Debug, Default)]
pub struct OperatorMetrics {
    rows_in: AtomicU64,
    rows_out: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    busy_nanos: AtomicU64,
    blocked_nanos: AtomicU64,
    late_rows: AtomicU64,
    state_rows: AtomicU64,
    state_bytes: AtomicU64,
    watermark: Time,
    waits_for: Mutex<Option<Waiting>>,
    splits: Mutex<Vec<SplitStatus>>,
}

/// What of the outside is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// In words for people.
    pub what: String,
    /// Microseconds since 1970-01-01 UTC.
    pub since_micros: i64,
}

/// One split of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitStatus {
    pub split: String,
    pub offset: String,
    pub end: Option<String>,
    pub lag: Option<u64>,
    pub unit: Option<&'static str>,
    /// `active`, `idle`; those that have ended are not shown.
    pub state: &'static str,
    pub watermark: Option<i64>,
    /// The watermark of its subtask waits for this split.
    pub holds_back: bool,
}

/// A time that may not be known.
#[derive(Debug)]
struct Time(AtomicI64);

impl Default for Time {
    fn default() -> Self {
        Time(AtomicI64::new(i64::MIN))
    }
}

impl OperatorMetrics {
    pub fn add_rows_in(&self, rows: usize) {
        self.rows_in.fetch_add(rows as u64, Ordering::Relaxed);
    }

    pub fn add_rows_out(&self, rows: usize) {
        self.rows_out.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Totals as a source or a sink counts them.
    pub fn set_bytes_in(&self, bytes: u64) {
        self.bytes_in.store(bytes, Ordering::Relaxed);
    }

    pub fn set_bytes_out(&self, bytes: u64) {
        self.bytes_out.store(bytes, Ordering::Relaxed);
    }

    pub fn add_busy(&self, time: Duration) {
        self.busy_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }

    pub fn add_blocked(&self, time: Duration) {
        self.blocked_nanos.fetch_add(nanos(time), Ordering::Relaxed);
    }

    pub fn set_watermark(&self, watermark: Watermark) {
        if let Watermark::At(at) = watermark {
            self.watermark.0.store(at, Ordering::Relaxed);
        }
    }

    pub fn set_state(&self, size: StateSize, late_rows: u64) {
        self.state_rows.store(size.rows, Ordering::Relaxed);
        self.state_bytes.store(size.bytes, Ordering::Relaxed);
        self.late_rows.store(late_rows, Ordering::Relaxed);
    }

    /// What of the outside holds the subtask up, in words for people; `None`: nothing does.
    pub fn set_waits_for(&self, what: Option<String>, now_micros: i64) {
        let mut waits_for = self.waits_for.lock().unwrap_or_else(PoisonError::into_inner);
        // Another reason is the same wait.
        let since_micros = waits_for.as_ref().map_or(now_micros, |waiting| waiting.since_micros);
        *waits_for = what.map(|what| Waiting { what, since_micros });
    }

    pub fn waits_for(&self) -> Option<Waiting> {
        self.waits_for.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_splits(&self, splits: Vec<SplitStatus>) {
        *self.splits.lock().unwrap_or_else(PoisonError::into_inner) = splits;
    }

    fn splits(&self) -> Vec<SplitStatus> {
        self.splits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn read(&self) -> SubtaskStatus {
        let watermark = self.watermark.0.load(Ordering::Relaxed);
        SubtaskStatus {
            rows_in: self.rows_in.load(Ordering::Relaxed),
            rows_out: self.rows_out.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            busy_nanos: self.busy_nanos.load(Ordering::Relaxed),
            blocked_nanos: self.blocked_nanos.load(Ordering::Relaxed),
            late_rows: self.late_rows.load(Ordering::Relaxed),
            state_rows: self.state_rows.load(Ordering::Relaxed),
            state_bytes: self.state_bytes.load(Ordering::Relaxed),
            watermark: (watermark != i64::MIN).then_some(watermark),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The counters of a subtask at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubtaskStatus {
    pub rows_in: u64,
    pub rows_out: u64,
    /// Taken from outside (sources).
    pub bytes_in: u64,
    /// Given to the outside (sinks).
    pub bytes_out: u64,
    /// Time spent in the operator itself.
    pub busy_nanos: u64,
    /// Time its driver waited for others to take what it had; on the first operator of a driver.
    pub blocked_nanos: u64,
    pub late_rows: u64,
    pub state_rows: u64,
    pub state_bytes: u64,
    /// Microseconds since 1970-01-01 UTC.
    pub watermark: Option<i64>,
}

/// All counters of a job, in the order of its graph.
#[derive(Debug, Default)]
pub struct JobMetrics {
    operators: Vec<OperatorEntry>,
}

#[derive(Debug)]
struct OperatorEntry {
    id: OperatorId,
    name: &'static str,
    description: String,
    table: Option<String>,
    subtasks: Vec<Arc<OperatorMetrics>>,
}

/// One operator for views and REST.
#[derive(Clone, Debug)]
pub struct OperatorStatus {
    pub id: OperatorId,
    pub name: &'static str,
    pub description: String,
    pub subtasks: Vec<SubtaskStatus>,
    /// The table that it reads or writes.
    pub table: Option<String>,
    /// What holds one of them up, the longest.
    pub waits_for: Option<Waiting>,
    /// Of all subtasks of a source, with the subtask.
    pub splits: Vec<(u32, SplitStatus)>,
}

impl OperatorStatus {
    /// Sums over the subtasks; the watermark is the least, and unknown while one is unknown.
    pub fn total(&self) -> SubtaskStatus {
        let mut total = SubtaskStatus {
            watermark: Some(i64::MAX),
            ..SubtaskStatus::default()
        };
        for subtask in &self.subtasks {
            total.rows_in += subtask.rows_in;
            total.rows_out += subtask.rows_out;
            total.bytes_in += subtask.bytes_in;
            total.bytes_out += subtask.bytes_out;
            total.busy_nanos += subtask.busy_nanos;
            total.blocked_nanos += subtask.blocked_nanos;
            total.late_rows += subtask.late_rows;
            total.state_rows += subtask.state_rows;
            total.state_bytes += subtask.state_bytes;
            total.watermark = total.watermark.zip(subtask.watermark).map(|(a, b)| a.min(b));
        }
        total.watermark = total.watermark.filter(|at| *at != i64::MAX);
        total
    }
}

impl JobMetrics {
    pub fn of(graph: &JobGraph) -> JobMetrics {
        let operators = graph.nodes.iter().map(|node| OperatorEntry {
            id: node.id.clone(),
            name: node.operator.name(),
            description: node.description.clone(),
            table: match &node.operator {
                OperatorSpec::Source(spec) => Some(spec.table_name.clone()),
                OperatorSpec::Sink(spec) => Some(spec.table_name.clone()),
                _ => None,
            },
            subtasks: (0..node.parallelism).map(|_| Arc::default()).collect(),
        });
        JobMetrics {
            operators: operators.collect(),
        }
    }

    /// Of subtask `subtask` of node `node` of the graph.
    pub fn of_subtask(&self, node: usize, subtask: u32) -> Arc<OperatorMetrics> {
        Arc::clone(&self.operators[node].subtasks[subtask as usize])
    }

    pub fn read(&self) -> Vec<OperatorStatus> {
        let operators = self.operators.iter().map(|operator| OperatorStatus {
            id: operator.id.clone(),
            name: operator.name,
            description: operator.description.clone(),
            subtasks: operator.subtasks.iter().map(|metrics| metrics.read()).collect(),
            table: operator.table.clone(),
            waits_for: (operator.subtasks.iter().filter_map(|metrics| metrics.waits_for()))
                .min_by_key(|waiting| waiting.since_micros),
            splits: (0..)
                .zip(&operator.subtasks)
                .flat_map(|(subtask, metrics)| metrics.splits().into_iter().map(move |split| (subtask, split)))
                .collect(),
        });
        operators.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_sum_and_take_the_least_watermark() {
        let first = OperatorMetrics::default();
        first.add_rows_in(5);
        first.set_watermark(Watermark::At(70));
        first.set_watermark(Watermark::Idle);
        let second = OperatorMetrics::default();
        second.add_rows_in(6);
        let mut status = OperatorStatus {
            id: OperatorId("x".into()),
            name: "filter",
            description: String::new(),
            subtasks: vec![first.read(), second.read()],
            table: None,
            waits_for: None,
            splits: Vec::new(),
        };
        assert_eq!(status.total().rows_in, 11);
        assert_eq!(status.total().watermark, None);
        second.set_watermark(Watermark::At(60));
        status.subtasks[1] = second.read();
        assert_eq!(status.total().watermark, Some(60));
    }
}

//! What the commits of a job's sinks are at, for those who look from outside: when each sink committed last, and since when it is
//! waited for, with the reason.
//!
//! Written by the tasks that commit, read by views. It outlives the runs of a job, so that a restart does not hide for how long a
//! system has been away.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::engine::connectors::DeliveryGuarantee;
use crate::engine::graph::{JobGraph, OperatorSpec};
use crate::ids::{Epoch, OperatorId};

#[derive(Debug, Default)]
pub struct CommitWatch {
    commits: Mutex<Commits>,
}

#[derive(Clone, Debug, Default)]
pub struct Commits {
    /// The newest decided checkpoint, and when that was.
    pub decided: Option<(Epoch, i64)>,
    /// The metadata store does not decide.
    pub store: Option<Wait>,
    pub sinks: BTreeMap<OperatorId, SinkCommits>,
}

#[derive(Clone, Debug)]
pub struct SinkCommits {
    /// `public.orders`.
    pub table: String,
    pub delivery: DeliveryGuarantee,
    /// The newest committed epoch, and when that was.
    pub last: Option<(Epoch, i64)>,
    pub wait: Option<Wait>,
}

/// Something outside that has not done what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    pub epoch: Epoch,
    pub since_micros: i64,
    /// What it said last; `None`: nothing at all.
    pub reason: Option<String>,
}

impl Wait {
    fn begin(wait: &mut Option<Wait>, epoch: Epoch, now_micros: i64) -> &mut Wait {
        // An attempt after an attempt is one wait.
        let begun = wait.take().filter(|wait| wait.epoch == epoch);
        wait.insert(begun.unwrap_or(Wait {
            epoch,
            since_micros: now_micros,
            reason: None,
        }))
    }

    /// `commit of epoch 7: no answer`.
    pub fn words(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("no answer");
        format!("commit of epoch {}: {reason}", self.epoch)
    }
}

impl CommitWatch {
    // A panic elsewhere cannot leave it half changed.
    fn commits(&self) -> MutexGuard<'_, Commits> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn read(&self) -> Commits {
        self.commits().clone()
    }

    /// The sinks of the job from now on.
    pub fn know(&self, graph: &JobGraph) {
        let mut commits = self.commits();
        let mut before = std::mem::take(&mut commits.sinks);
        for node in &graph.nodes {
            if let OperatorSpec::Sink(spec) = &node.operator {
                let known = before.remove(&node.id);
                let sink = SinkCommits {
                    table: spec.table_name.clone(),
                    delivery: spec.table.guarantee(),
                    last: known.as_ref().and_then(|known| known.last),
                    wait: known.and_then(|known| known.wait),
                };
                commits.sinks.insert(node.id.clone(), sink);
            }
        }
    }

    pub fn decided(&self, epoch: Epoch, now_micros: i64) {
        let mut commits = self.commits();
        commits.decided = Some((epoch, now_micros));
        commits.store = None;
    }

    pub fn undecided(&self, epoch: Epoch, reason: String, now_micros: i64) {
        Wait::begin(&mut self.commits().store, epoch, now_micros).reason = Some(reason);
    }

    /// A sink is asked to commit.
    pub fn asked(&self, sink: &OperatorId, epoch: Epoch, now_micros: i64) {
        if let Some(sink) = self.commits().sinks.get_mut(sink) {
            Wait::begin(&mut sink.wait, epoch, now_micros);
        }
    }

    /// .. and could not.
    pub fn refused(&self, sink: &OperatorId, epoch: Epoch, reason: String, now_micros: i64) {
        if let Some(sink) = self.commits().sinks.get_mut(sink) {
            Wait::begin(&mut sink.wait, epoch, now_micros).reason = Some(reason);
        }
    }

    /// It has everything up to this epoch.
    pub fn committed(&self, sink: &OperatorId, epoch: Epoch, now_micros: i64) {
        if let Some(sink) = self.commits().sinks.get_mut(sink) {
            sink.last = Some((epoch, now_micros));
            sink.wait = None;
        }
    }

    /// Nobody waits any more.
    pub fn give_up(&self) {
        let mut commits = self.commits();
        commits.store = None;
        commits.sinks.values_mut().for_each(|sink| sink.wait = None);
    }
}

impl Commits {
    /// What is waited for, in words.
    pub fn waits(&self) -> Vec<String> {
        let sinks = self.sinks.values().filter_map(|sink| {
            let wait = sink.wait.as_ref()?;
            Some(format!("sink \"{}\": {}", sink.table, wait.words()))
        });
        let store = self
            .store
            .iter()
            .map(|wait| format!("metadata store: {}", wait.words()));
        store.chain(sinks).collect()
    }
}

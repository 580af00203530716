//! The commit protocol: which epoch counts, and what is to be done next. Pure functions; the coordinator does the I/O.
//!
//! A run first takes a new generation (which fences every older run), then reads the records of decided epochs, then
//! follows [`plan_restore`]: sinks of undone epochs are committed, the newest usable checkpoint is restored, sources start.
//! Each epoch then goes through [`Stage`]s, oldest epoch first, as [`next_action`] says:
//!
//! 1. write the objects (nothing refers to them yet);
//! 2. decide: one conditional row update, [`verdict`], is the commit point;
//! 3. commit the sinks, idempotently;
//! 4. mark the epoch as committed.
//!
//! A crash before 2 loses the epoch, which is produced again; after 2 the next run finishes it. Any answer may be lost:
//! every action can be repeated. An epoch whose objects cannot be written is tried again, or ends the run, or is
//! abandoned; then the next epoch has to hold everything that it held: operators rebase all their groups
//! ([`crate::state::snapshot::rebase_range`] without a manifest), and what sinks prepared is committed with the next
//! epoch's.
//!
//! Guarantees, checked over all interleavings in the tests: decided epochs strictly grow, output is neither lost nor doubled, a
//! fenced run decides nothing. Not guaranteed: the same when the newest checkpoint is damaged after its sinks
//! committed; [`RestorePlan::repeated`] tells.

use crate::ids::{Epoch, Generation};

/// How far an epoch of this run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// Every subtask has handed over its snapshot.
    Collected,
    /// Objects and manifest are durable.
    Written,
    /// The metadata store has it.
    Decided,
    /// The sinks have published its output.
    SinksCommitted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Write,
    Decide,
    CommitSinks,
    MarkCommitted,
}

/// What to do next, given the epochs in flight in any order; `None` when there are none. One at a time and the oldest first: a
/// manifest builds on the one before, decisions are in order, and so is output.
pub fn next_action(in_flight: &[(Epoch, Stage)]) -> Option<(Epoch, Action)> {
    let (epoch, stage) = in_flight.iter().min_by_key(|(epoch, _)| *epoch)?;
    let action = match stage {
        Stage::Collected => Action::Write,
        Stage::Written => Action::Decide,
        Stage::Decided => Action::CommitSinks,
        Stage::SinksCommitted => Action::MarkCommitted,
    };
    Some((*epoch, action))
}

/// What the metadata store knows of a pipeline when an epoch is to be decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PipelineRow {
    /// Of the newest run.
    pub generation: Generation,
    /// The newest decided epoch, and whose it is.
    pub newest: Option<(Epoch, Generation)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The row may be updated: this epoch counts from now on.
    Decide,
    /// It was decided before, by this run, and the answer was lost.
    AlreadyDecided,
    /// A newer run exists: stop, write nothing more.
    Fenced,
}

/// Whether run `mine` may decide `epoch`. The metadata store must look and update in one transaction.
pub fn verdict(row: PipelineRow, mine: Generation, epoch: Epoch) -> Verdict {
    if row.newest == Some((epoch, mine)) {
        // Also when fenced meanwhile: the newer run found the epoch, as this one is about to.
        return Verdict::AlreadyDecided;
    }
    let grows = row.newest.is_none_or(|(newest, _)| newest < epoch);
    if row.generation == mine && grows {
        Verdict::Decide
    } else {
        Verdict::Fenced
    }
}

/// A decided epoch, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DecidedEpoch {
    pub epoch: Epoch,
    /// Its sinks have published.
    pub committed: bool,
}

/// How a run begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePlan {
    /// The checkpoint to restore; `None` is a fresh start.
    pub restore: Option<Epoch>,
    /// Commit the sinks of these with what their manifests hold, oldest first, and mark them, before any source starts.
    pub replay: Vec<Epoch>,
    /// The first epoch of this run.
    pub first: Epoch,
    /// Epochs after `restore` whose sinks have published: their output will be published again.
    pub repeated: Vec<Epoch>,
    /// Mark everything up to this as committed before any source starts: epochs after `restore` that were not published
    /// are given up. Left as they are, a later run would replay them beside what this one produces in their place.
    pub settle: Option<Epoch>,
}

/// Plans a run from the records, in any order, that were read after the generation was taken. `usable` says whether an epoch's manifest and blobs are whole.
///
/// Undone epochs after the restored one are not replayed but settled: what they prepared was never published and is produced
/// again.
pub fn plan_restore(records: &[DecidedEpoch], usable: impl Fn(Epoch) -> bool) -> RestorePlan {
    let mut records = records.to_vec();
    records.sort_by_key(|record| record.epoch);
    let restore = records
        .iter()
        .rev()
        .map(|record| record.epoch)
        .find(|epoch| usable(*epoch));
    let upto = |record: &&DecidedEpoch| restore.is_some_and(|restore| record.epoch <= restore);
    RestorePlan {
        restore,
        replay: records
            .iter()
            .filter(upto)
            .filter(|record| !record.committed)
            .map(|record| record.epoch)
            .collect(),
        first: records.last().map_or(Epoch(1), |record| record.epoch.next()),
        repeated: records
            .iter()
            .filter(|record| !upto(record) && record.committed)
            .map(|record| record.epoch)
            .collect(),
        settle: records
            .iter()
            .rev()
            .filter(|record| !upto(record))
            .find(|record| !record.committed)
            .map(|record| record.epoch),
    }
}

#[cfg(test)]
mod tests;

//! The protocol over all interleavings of a run and the zombie before it, with runs replaced at any step, up to two answers
//! lost, an epoch abandoned, and the newest checkpoint found damaged before its sinks committed. A run that stops anywhere is
//! a crash; what must hold is checked after every step.
//! And the same with mistakes built in, to show that the model would notice.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use super::*;

/// Units of input; each epoch takes one, and those of abandoned epochs.
const INPUT: u8 = 3;
const RUNS_MAX: usize = 3;
/// Epochs have gaps, and runs have different ones: else counting epochs would hide what generations are for.
const STRIDES: [u64; RUNS_MAX] = [2, 1, 3];
const LOST_ANSWERS_MAX: u8 = 2;

/// A mistake that the protocol must not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    ReadsRecordsBeforeFencing,
    DecidesWithoutLookingAtGeneration,
    DoesNotReplay,
    CommitsSinksBeforeDeciding,
    ReplaysUnderAnotherName,
    StartsEpochsFromOne,
    ForgetsOutputOfAbandonedEpochs,
    LeavesDamagedEpochsUnsettled,
}

/// A record of the metadata store; its manifest holds the state after input `upto` and prepared output of input `from..upto`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Record {
    epoch: Epoch,
    generation: Generation,
    from: u8,
    upto: u8,
    committed: bool,
    /// Was found damaged, and given up.
    damaged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Phase {
    Starting,
    Fenced,
    Replaying,
    Running,
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Run {
    phase: Phase,
    generation: Generation,
    /// As read at start, by a run that reads too early.
    records: Option<Vec<Record>>,
    replay: Vec<Epoch>,
    next_epoch: Epoch,
    position: u8,
    /// Output from here on is in no decided epoch.
    since: u8,
    in_flight: Vec<(Epoch, Stage)>,
}

impl Run {
    fn new() -> Run {
        Run {
            phase: Phase::Starting,
            generation: Generation(0),
            records: None,
            replay: Vec::new(),
            next_epoch: Epoch(0),
            position: 0,
            since: 0,
            in_flight: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    generation: Generation,
    records: Vec<Record>,
    /// Objects in checkpoint storage.
    written: BTreeSet<(Epoch, Generation)>,
    /// What the sinks' target shows: token of the commit, input.
    published: BTreeSet<((Epoch, Generation), u8)>,
    runs: Vec<Run>,
    lost_answers: u8,
    abandoned: u8,
    damages: u8,
}

impl World {
    fn new() -> World {
        World {
            generation: Generation(0),
            records: Vec::new(),
            written: BTreeSet::new(),
            published: BTreeSet::new(),
            runs: Vec::new(),
            lost_answers: 0,
            abandoned: 0,
            damages: 0,
        }
    }

    /// Every world that one step leads to.
    fn successors(&self, mistake: Mistake) -> Vec<World> {
        let mut next = Vec::new();
        if self.runs.len() < RUNS_MAX {
            let mut world = self.clone();
            if let Some(third) = self.runs.len().checked_sub(2) {
                world.end(third);
            }
            world.runs.push(Run::new());
            next.push(world);
        }
        for run in 0..self.runs.len() {
            if self.runs[run].phase == Phase::Ended {
                continue;
            }
            let mut world = self.clone();
            world.step(run, mistake, false);
            next.push(world);
            if self.abandoned == 0
                && self.runs[run]
                    .in_flight
                    .first()
                    .is_some_and(|(_, stage)| *stage == Stage::Collected)
            {
                let mut world = self.clone();
                world.abandon(run, mistake);
                next.push(world);
            }
            if self.runs[run].phase == Phase::Fenced && self.newest_can_be_damaged() {
                let mut world = self.clone();
                world.damages += 1;
                if let Some(record) = world.records.last_mut() {
                    record.damaged = true;
                }
                world.step(run, mistake, false);
                next.push(world);
            }
            if self.lost_answers < LOST_ANSWERS_MAX {
                let mut world = self.clone();
                world.lost_answers += 1;
                world.step(run, mistake, true);
                next.push(world);
            }
        }
        next
    }

    /// Only what was not published: the rest is not promised to survive damage. Nor is it while an older run may still
    /// publish what it has decided.
    fn newest_can_be_damaged(&self) -> bool {
        let Some(newest) = self.records.last() else {
            return false;
        };
        let token = (newest.epoch, newest.generation);
        let is_in_flight = self.runs.iter().any(|run| {
            run.generation == newest.generation && run.in_flight.iter().any(|(epoch, _)| *epoch == newest.epoch)
        });
        let is_replayed = self.runs.iter().any(|run| run.replay.contains(&newest.epoch));
        let is_published = self.published.iter().any(|(other, _)| *other == token);
        self.damages == 0 && !newest.committed && !is_published && !is_in_flight && !is_replayed
    }

    /// Equal ends are one state, and objects that nobody decides any more are none of its business.
    fn end(&mut self, run: usize) {
        self.runs[run] = Run {
            phase: Phase::Ended,
            ..Run::new()
        };
        let (records, runs) = (&self.records, &self.runs);
        self.written.retain(|(epoch, generation)| {
            records
                .iter()
                .any(|record| (record.epoch, record.generation) == (*epoch, *generation))
                || runs
                    .iter()
                    .any(|run| run.generation == *generation && run.in_flight.iter().any(|(flying, _)| flying == epoch))
        });
    }

    /// A run that learns that it was replaced ends. The last one starts again: who fenced it may be gone.
    fn fenced(&mut self, run: usize) {
        self.end(run);
        if run + 1 == RUNS_MAX {
            self.runs[run] = Run::new();
        }
    }

    /// The objects of an epoch cannot be written: the run goes on without it, and the next epoch holds its output too.
    fn abandon(&mut self, run: usize, mistake: Mistake) {
        self.abandoned += 1;
        let state = &mut self.runs[run];
        state.in_flight.clear();
        if mistake == Mistake::ForgetsOutputOfAbandonedEpochs {
            state.since = state.position;
        }
    }

    /// One action of a run. With `lost` it has its effect, but the run does not hear of it and will do it again.
    fn step(&mut self, run: usize, mistake: Mistake, lost: bool) {
        match self.runs[run].phase {
            Phase::Starting if mistake == Mistake::ReadsRecordsBeforeFencing && self.runs[run].records.is_none() => {
                self.runs[run].records = Some(self.records.clone());
            }
            Phase::Starting => {
                self.generation = self.generation.next();
                if !lost {
                    self.runs[run].generation = self.generation;
                    self.runs[run].phase = Phase::Fenced;
                }
            }
            Phase::Fenced => self.plan(run, mistake),
            Phase::Replaying => self.replay(run, mistake, lost),
            Phase::Running => self.advance(run, mistake, lost),
            Phase::Ended => {}
        }
    }

    fn plan(&mut self, run: usize, mistake: Mistake) {
        let records = self.runs[run].records.take().unwrap_or_else(|| self.records.clone());
        let decided: Vec<DecidedEpoch> = records
            .iter()
            .map(|record| DecidedEpoch {
                epoch: record.epoch,
                committed: record.committed,
            })
            .collect();
        let damaged = |epoch| records.iter().any(|record| record.epoch == epoch && record.damaged);
        let plan = plan_restore(&decided, |epoch| !damaged(epoch));
        if mistake != Mistake::LeavesDamagedEpochsUnsettled {
            let settle = plan.settle;
            self.records
                .iter_mut()
                .filter(|record| {
                    settle.is_some_and(|upto| record.epoch <= upto) && !plan.replay.contains(&record.epoch)
                })
                .for_each(|record| record.committed = true);
        }
        let state = &mut self.runs[run];
        state.position = records
            .iter()
            .find(|record| Some(record.epoch) == plan.restore)
            .map_or(0, |record| record.upto);
        state.since = state.position;
        let first = if mistake == Mistake::StartsEpochsFromOne {
            Epoch(1)
        } else {
            plan.first
        };
        state.next_epoch = Epoch(first.0 + STRIDES[run] - 1);
        state.replay = if mistake == Mistake::DoesNotReplay {
            Vec::new()
        } else {
            plan.replay
        };
        state.phase = Phase::Replaying;
    }

    /// Commits and marks one undone epoch; when there is none, starts the sources.
    fn replay(&mut self, run: usize, mistake: Mistake, lost: bool) {
        let Some(epoch) = self.runs[run].replay.first().copied() else {
            self.runs[run].phase = Phase::Running;
            return;
        };
        let Some(at) = self.records.iter().position(|record| record.epoch == epoch) else {
            return self.end(run);
        };
        let record = self.records[at].clone();
        let token = if mistake == Mistake::ReplaysUnderAnotherName {
            self.runs[run].generation
        } else {
            record.generation
        };
        if self.publish((epoch, token), record.from..record.upto) {
            // Publishing and marking are two steps; a crash may fall between.
            return;
        }
        self.records[at].committed = true;
        if !lost {
            self.runs[run].replay.remove(0);
        }
    }

    fn advance(&mut self, run: usize, mistake: Mistake, lost: bool) {
        let state = &mut self.runs[run];
        let Some((epoch, action)) = next_action(&state.in_flight) else {
            if state.since == INPUT {
                return self.end(run);
            }
            let epoch = state.next_epoch;
            state.next_epoch = Epoch(epoch.0 + STRIDES[run]);
            state.position = (state.position + 1).min(INPUT);
            state.in_flight.push((epoch, Stage::Collected));
            return;
        };
        let output = state.since..state.position;
        let generation = state.generation;
        let done = match action {
            Action::Write => {
                if mistake == Mistake::CommitsSinksBeforeDeciding {
                    self.publish((epoch, generation), output);
                }
                self.written.insert((epoch, generation));
                Stage::Written
            }
            Action::Decide => {
                if !self.decide(generation, epoch, output, mistake) {
                    return self.fenced(run);
                }
                Stage::Decided
            }
            Action::CommitSinks => {
                self.publish((epoch, generation), output);
                Stage::SinksCommitted
            }
            Action::MarkCommitted => {
                self.records
                    .iter_mut()
                    .filter(|record| record.epoch == epoch)
                    .for_each(|record| record.committed = true);
                if !lost {
                    self.runs[run].in_flight.retain(|(other, _)| *other != epoch);
                    self.runs[run].since = self.runs[run].position;
                }
                return;
            }
        };
        if !lost {
            self.runs[run].in_flight = vec![(epoch, done)];
        }
    }

    /// A commit of a sink, recognised by its token; whether it was the first.
    fn publish(&mut self, token: (Epoch, Generation), output: Range<u8>) -> bool {
        let before = self.published.len();
        self.published.extend(output.map(|input| (token, input)));
        self.published.len() > before
    }

    /// The conditional update of the metadata store.
    fn decide(&mut self, mine: Generation, epoch: Epoch, output: Range<u8>, mistake: Mistake) -> bool {
        let row = PipelineRow {
            generation: if mistake == Mistake::DecidesWithoutLookingAtGeneration {
                mine
            } else {
                self.generation
            },
            newest: self.records.last().map(|record| (record.epoch, record.generation)),
        };
        match verdict(row, mine, epoch) {
            Verdict::Fenced => false,
            Verdict::AlreadyDecided => true,
            Verdict::Decide => {
                self.records.push(Record {
                    epoch,
                    generation: mine,
                    from: output.start,
                    upto: output.end,
                    committed: false,
                    damaged: false,
                });
                true
            }
        }
    }

    /// What must hold always.
    fn violation(&self) -> Option<String> {
        if !self.records.is_sorted_by(|left, right| left.epoch < right.epoch) {
            return Some("decided epochs do not grow".into());
        }
        let mut upto = 0;
        for record in self.records.iter().filter(|record| !record.damaged) {
            if record.from != upto {
                return Some(format!("epoch {} continues from elsewhere", record.epoch));
            }
            upto = record.upto;
            if !self.written.contains(&(record.epoch, record.generation)) {
                return Some(format!("epoch {} was decided and is not there", record.epoch));
            }
            let published = |input| self.published.iter().any(|(_, candidate)| *candidate == input);
            if record.committed && !(record.from..record.upto).all(published) {
                return Some(format!("the output of epoch {} is lost", record.epoch));
            }
        }
        let inputs: Vec<u8> = self.published.iter().map(|(_, input)| *input).collect();
        if inputs.iter().collect::<HashSet<_>>().len() != inputs.len() {
            return Some("output is doubled".into());
        }
        let decided = |token: &(Epoch, Generation)| {
            self.records
                .iter()
                .any(|record| (record.epoch, record.generation) == *token)
        };
        self.published
            .iter()
            .find(|(token, _)| !decided(token))
            .map(|(token, _)| format!("{token:?} was never decided"))
    }

    fn is_over(&self) -> bool {
        self.runs.len() == RUNS_MAX && self.runs[RUNS_MAX - 1].phase == Phase::Ended
    }
}

struct Explored {
    states: usize,
    ends: usize,
    violation: Option<String>,
}

fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

fn explore(mistake: Mistake) -> Explored {
    // Fingerprints instead of worlds: millions of states in little memory.
    let mut seen = HashSet::new();
    let mut open = vec![World::new()];
    let mut ends = 0;
    let mut violation = None;
    while let Some(world) = open.pop() {
        if !seen.insert(fingerprint(&world)) {
            continue;
        }
        violation = world.violation();
        if world.generation > Generation(12) {
            violation = Some("runs start for ever".into());
        }
        if world.is_over() {
            ends += 1;
            // Whatever became of the others, the last one has produced what was missing.
            if violation.is_none() && world.published.len() != usize::from(INPUT) {
                violation = Some(format!("output is missing at the end: {world:?}"));
            }
        }
        if violation.is_some() {
            break;
        }
        open.extend(world.successors(mistake));
    }
    Explored {
        states: seen.len(),
        ends,
        violation,
    }
}

#[test]
fn f_05_f_06_no_interleaving_loses_or_doubles_output() {
    let explored = explore(Mistake::None);
    assert_eq!(explored.violation, None, "{} states", explored.states);
    // A model that shrinks has stopped to look at what it should.
    assert!(explored.states > 100_000, "{} states", explored.states);
    assert!(explored.ends > 10, "{} ends", explored.ends);
}

#[test]
fn every_mistake_is_noticed() {
    for mistake in [
        Mistake::ReadsRecordsBeforeFencing,
        Mistake::DecidesWithoutLookingAtGeneration,
        Mistake::DoesNotReplay,
        Mistake::CommitsSinksBeforeDeciding,
        Mistake::ReplaysUnderAnotherName,
        Mistake::StartsEpochsFromOne,
        Mistake::ForgetsOutputOfAbandonedEpochs,
        Mistake::LeavesDamagedEpochsUnsettled,
    ] {
        let explored = explore(mistake);
        assert!(
            explored.violation.is_some(),
            "{mistake:?} goes unnoticed over {} states",
            explored.states
        );
    }
}

#[test]
fn actions_follow_stages_oldest_epoch_first() {
    assert_eq!(next_action(&[]), None);
    let flight = [
        (Epoch(9), Stage::SinksCommitted),
        (Epoch(8), Stage::Written),
        (Epoch(10), Stage::Collected),
    ];
    assert_eq!(next_action(&flight), Some((Epoch(8), Action::Decide)));
    let stages = [Stage::Collected, Stage::Written, Stage::Decided, Stage::SinksCommitted];
    let actions = stages.map(|stage| next_action(&[(Epoch(1), stage)]).unwrap().1);
    assert_eq!(
        actions,
        [
            Action::Write,
            Action::Decide,
            Action::CommitSinks,
            Action::MarkCommitted
        ]
    );
}

#[test]
fn f_20_damage_falls_back_and_says_what_is_repeated() {
    let record = |epoch, committed| DecidedEpoch {
        epoch: Epoch(epoch),
        committed,
    };
    let records = [record(9, false), record(4, true), record(7, true), record(5, false)];
    let plan = plan_restore(&records, |_| true);
    assert_eq!((plan.restore, plan.first), (Some(Epoch(9)), Epoch(10)));
    assert_eq!(plan.settle, None);
    assert_eq!(plan.replay, [Epoch(5), Epoch(9)]);
    assert_eq!(plan.repeated, []);
    let plan = plan_restore(&records, |epoch| epoch < Epoch(6));
    assert_eq!((plan.restore, plan.first), (Some(Epoch(5)), Epoch(10)));
    assert_eq!(plan.replay, [Epoch(5)]);
    assert_eq!(plan.repeated, [Epoch(7)]);
    assert_eq!(plan.settle, Some(Epoch(9)));
    let plan = plan_restore(&records, |_| false);
    assert_eq!((plan.restore, plan.first), (None, Epoch(10)));
    assert_eq!(plan.replay, []);
    assert_eq!(plan_restore(&[], |_| true).first, Epoch(1));
}

//! The life of a job as a pure table: what happens in which phase, and what to do about it.
//!
//!     Starting -> Running -> Finishing -> Ended(Finished)          all input has ended
//!         ^          |  \--> Stopping --> Ended(Stopped)           the user asked, after a last checkpoint
//!         |          v                \-> Starting                 .. at another parallelism
//!         +---- Recovering                                         after an error, a little later each time
//!
//! No I/O and no time here; `job_task.rs` carries the actions out.

use crate::catalog::jobs::JobState;

/// Failures in a row before a job gives up. A job that ran well for a while starts counting again.
pub const ATTEMPTS_MAX: u32 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Looking for the checkpoint, compiling, restoring. `attempt`: failures in a row so far.
    Starting {
        attempt: u32,
        rescaling: bool,
    },
    Running {
        attempt: u32,
    },
    /// All input has ended: the final checkpoint is under way.
    Finishing {
        attempt: u32,
    },
    /// A last checkpoint is under way.
    Stopping {
        goal: StopGoal,
    },
    /// Waiting before the next attempt.
    Recovering {
        attempt: u32,
    },
    Ended(Outcome),
}

/// What a stop is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopGoal {
    /// The pipeline shall not run any more.
    User,
    /// It shall run on at another parallelism.
    Rescale,
    /// Another run follows that this one knows nothing of: the server goes down, or the definition is exchanged.
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Stopped,
    Failed,
    Finished,
    /// Stopped with the server.
    ShutDown,
    /// A newer run exists: this one says and records nothing more.
    Fenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Every driver is built and restored.
    Deployed,
    /// The newest checkpoint says that all input was processed.
    NothingLeft,
    /// Something went wrong; `again`: trying again may help.
    Failed {
        again: bool,
    },
    /// No failure for a while.
    Healthy,
    /// Every driver has ended.
    InputEnded,
    Stop {
        goal: StopGoal,
        at_once: bool,
    },
    /// The checkpoint of the stop barrier is decided, and the sinks have committed.
    FinalCommitted,
    Fenced,
    BackoffOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Begin a generation and look for the checkpoint.
    Start,
    /// Let the inputs go.
    Activate,
    /// As soon as no other barrier is under way.
    InjectStop,
    /// Drop all drivers; nothing of the run goes on.
    TearDown,
    /// Start again after the delay of this attempt.
    Backoff { attempt: u32 },
}

/// The whole table. Events that mean nothing in a phase change nothing.
pub fn transition(phase: Phase, event: Event) -> (Phase, Vec<Action>) {
    let unchanged = (phase, Vec::new());
    match (phase, event) {
        (Phase::Ended(_), _) => unchanged,
        (_, Event::Fenced) => (Phase::Ended(Outcome::Fenced), vec![Action::TearDown]),
        (phase, Event::Failed { again }) => failed(phase, again),
        (phase, Event::Stop { goal, at_once }) => stop(phase, goal, at_once),
        (Phase::Starting { attempt, .. }, Event::Deployed) => (Phase::Running { attempt }, vec![Action::Activate]),
        (Phase::Starting { .. }, Event::NothingLeft) => (Phase::Ended(Outcome::Finished), vec![Action::TearDown]),
        (Phase::Running { .. }, Event::Healthy) => (Phase::Running { attempt: 0 }, Vec::new()),
        (Phase::Running { attempt }, Event::InputEnded) => (Phase::Finishing { attempt }, vec![Action::InjectStop]),
        (Phase::Finishing { .. }, Event::FinalCommitted) => (Phase::Ended(Outcome::Finished), vec![Action::TearDown]),
        (Phase::Stopping { goal }, Event::FinalCommitted) => stopped(goal),
        (Phase::Recovering { attempt }, Event::BackoffOver) => {
            let rescaling = false;
            (Phase::Starting { attempt, rescaling }, vec![Action::Start])
        }
        _ => unchanged,
    }
}

fn failed(phase: Phase, again: bool) -> (Phase, Vec<Action>) {
    let attempt = match phase {
        Phase::Starting { attempt, .. } | Phase::Running { attempt } | Phase::Finishing { attempt } => attempt + 1,
        Phase::Stopping {
            goal: StopGoal::Rescale,
        } => 1,
        // It was to stop, and it has; the next start goes on from the last checkpoint.
        Phase::Stopping { goal } => return stopped(goal),
        Phase::Recovering { .. } | Phase::Ended(_) => return (phase, Vec::new()),
    };
    if !again || attempt > ATTEMPTS_MAX {
        return (Phase::Ended(Outcome::Failed), vec![Action::TearDown]);
    }
    let actions = vec![Action::TearDown, Action::Backoff { attempt }];
    (Phase::Recovering { attempt }, actions)
}

fn stop(phase: Phase, goal: StopGoal, at_once: bool) -> (Phase, Vec<Action>) {
    match phase {
        Phase::Running { .. } if !at_once => (Phase::Stopping { goal }, vec![Action::InjectStop]),
        // The final checkpoint is under way already; what comes after it was decided before.
        Phase::Finishing { .. } if !at_once => (phase, Vec::new()),
        Phase::Stopping {
            goal: StopGoal::Rescale,
        } if !at_once => (Phase::Stopping { goal }, Vec::new()),
        Phase::Stopping { .. } if !at_once => (phase, Vec::new()),
        // Nothing new has been processed since the last checkpoint, or nothing shall be kept.
        _ => stopped(goal),
    }
}

fn stopped(goal: StopGoal) -> (Phase, Vec<Action>) {
    match goal {
        StopGoal::User => (Phase::Ended(Outcome::Stopped), vec![Action::TearDown]),
        StopGoal::Shutdown => (Phase::Ended(Outcome::ShutDown), vec![Action::TearDown]),
        StopGoal::Rescale => {
            let phase = Phase::Starting {
                attempt: 0,
                rescaling: true,
            };
            (phase, vec![Action::TearDown, Action::Start])
        }
    }
}

impl Phase {
    /// As users see it.
    pub fn job_state(self) -> JobState {
        match self {
            Phase::Starting { rescaling: true, .. }
            | Phase::Stopping {
                goal: StopGoal::Rescale,
            } => JobState::Rescaling,
            Phase::Starting { attempt: 0, .. } => JobState::Scheduling,
            Phase::Starting { .. } | Phase::Recovering { .. } => JobState::Recovering,
            Phase::Running { .. } | Phase::Finishing { .. } => JobState::Running,
            Phase::Stopping { .. } => JobState::Stopping,
            Phase::Ended(Outcome::Failed) => JobState::Failed,
            Phase::Ended(Outcome::Finished) => JobState::Finished,
            Phase::Ended(_) => JobState::Stopped,
        }
    }

    pub fn is_ended(self) -> bool {
        matches!(self, Phase::Ended(_))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUNNING: Phase = Phase::Running { attempt: 0 };
    const STARTING: Phase = Phase::Starting {
        attempt: 0,
        rescaling: false,
    };

    fn stop_event(goal: StopGoal, at_once: bool) -> Event {
        Event::Stop { goal, at_once }
    }

    #[test]
    fn a_bounded_pipeline_runs_to_its_end() {
        let (phase, actions) = transition(STARTING, Event::Deployed);
        assert_eq!((phase, actions), (RUNNING, vec![Action::Activate]));
        let (phase, actions) = transition(phase, Event::InputEnded);
        assert_eq!(actions, [Action::InjectStop]);
        let (phase, actions) = transition(phase, Event::FinalCommitted);
        assert_eq!(phase, Phase::Ended(Outcome::Finished));
        assert_eq!(actions, [Action::TearDown]);
        assert_eq!(phase.job_state(), JobState::Finished);
    }

    #[test]
    fn a_stop_waits_for_its_checkpoint_unless_at_once() {
        let (phase, actions) = transition(RUNNING, stop_event(StopGoal::User, false));
        assert_eq!(
            (phase.job_state(), &actions[..]),
            (JobState::Stopping, &[Action::InjectStop][..])
        );
        assert_eq!(
            transition(phase, Event::FinalCommitted).0,
            Phase::Ended(Outcome::Stopped)
        );
        let (phase, actions) = transition(RUNNING, stop_event(StopGoal::User, true));
        assert_eq!(
            (phase, actions),
            (Phase::Ended(Outcome::Stopped), vec![Action::TearDown])
        );
    }

    #[test]
    fn rescaling_starts_again_after_the_checkpoint() {
        let (phase, _) = transition(RUNNING, stop_event(StopGoal::Rescale, false));
        assert_eq!(phase.job_state(), JobState::Rescaling);
        let (phase, actions) = transition(phase, Event::FinalCommitted);
        assert_eq!(phase.job_state(), JobState::Rescaling);
        assert_eq!(actions, [Action::TearDown, Action::Start]);
        // A stop by the user in between wins.
        let (phase, _) = transition(RUNNING, stop_event(StopGoal::Rescale, false));
        let (phase, _) = transition(phase, stop_event(StopGoal::User, false));
        assert_eq!(
            transition(phase, Event::FinalCommitted).0,
            Phase::Ended(Outcome::Stopped)
        );
    }

    #[test]
    fn failures_back_off_and_give_up() {
        let mut phase = RUNNING;
        for attempt in 1..=ATTEMPTS_MAX {
            let (next, actions) = transition(phase, Event::Failed { again: true });
            assert_eq!(actions, [Action::TearDown, Action::Backoff { attempt }]);
            assert_eq!(next.job_state(), JobState::Recovering);
            let (next, actions) = transition(next, Event::BackoffOver);
            assert_eq!(actions, [Action::Start]);
            phase = transition(next, Event::Deployed).0;
        }
        assert_eq!(
            transition(phase, Event::Failed { again: true }).0,
            Phase::Ended(Outcome::Failed)
        );
        let (healthy, _) = transition(phase, Event::Healthy);
        let (next, _) = transition(healthy, Event::Failed { again: true });
        assert_eq!(next, Phase::Recovering { attempt: 1 });
    }

    #[test]
    fn what_cannot_get_better_fails_at_once() {
        let (phase, _) = transition(RUNNING, Event::Failed { again: false });
        assert_eq!(phase, Phase::Ended(Outcome::Failed));
    }

    #[test]
    fn a_job_that_fails_while_stopping_is_stopped() {
        let (phase, _) = transition(RUNNING, stop_event(StopGoal::User, false));
        assert_eq!(
            transition(phase, Event::Failed { again: true }).0,
            Phase::Ended(Outcome::Stopped)
        );
    }

    fn phases() -> impl Strategy<Value = Phase> {
        let goal = prop_oneof![Just(StopGoal::User), Just(StopGoal::Rescale), Just(StopGoal::Shutdown)];
        prop_oneof![
            (0..12u32, any::<bool>()).prop_map(|(attempt, rescaling)| Phase::Starting { attempt, rescaling }),
            (0..12u32).prop_map(|attempt| Phase::Running { attempt }),
            (0..12u32).prop_map(|attempt| Phase::Finishing { attempt }),
            goal.prop_map(|goal| Phase::Stopping { goal }),
            (1..12u32).prop_map(|attempt| Phase::Recovering { attempt }),
            Just(Phase::Ended(Outcome::Finished)),
        ]
    }

    fn events() -> impl Strategy<Value = Event> {
        let goal = prop_oneof![Just(StopGoal::User), Just(StopGoal::Rescale), Just(StopGoal::Shutdown)];
        prop_oneof![
            Just(Event::Deployed),
            Just(Event::NothingLeft),
            any::<bool>().prop_map(|again| Event::Failed { again }),
            Just(Event::InputEnded),
            (goal, any::<bool>()).prop_map(|(goal, at_once)| Event::Stop { goal, at_once }),
            Just(Event::FinalCommitted),
            Just(Event::Fenced),
            Just(Event::BackoffOver),
        ]
    }

    proptest! {
        /// In every phase: an end tears down, a start follows a tear-down or an end of waiting, nothing follows an end.
        #[test]
        fn invariants(phase in phases(), event in events()) {
            let (next, actions) = transition(phase, event);
            if phase.is_ended() {
                prop_assert_eq!(next, phase);
                prop_assert!(actions.is_empty());
            } else if next.is_ended() {
                prop_assert_eq!(&actions[..], &[Action::TearDown][..]);
            }
            if actions.contains(&Action::Start) {
                let starting = matches!(next, Phase::Starting { .. });
                prop_assert!(starting);
                prop_assert!(actions[0] == Action::TearDown || event == Event::BackoffOver);
            }
        }
    }
}

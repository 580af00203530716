//! Follows barriers through the job: who has to pass them, who has, and what they handed over.
//!
//! The set waited for is all drivers of the deployment, fixed when the barrier is injected. One barrier is under way at a
//! time.
//!
//! Guarantee: a completed barrier that persists has, for every input driver, that driver's offsets.

use std::collections::BTreeSet;

use crate::engine::error::Error;
use crate::engine::job_context::{BarrierAck, DriverId, OperatorPart, PartContent};
use crate::engine::message::Barrier;

#[derive(Debug)]
pub struct BarrierTracker {
    drivers: BTreeSet<DriverId>,
    inputs: BTreeSet<DriverId>,
    current: Option<Passing>,
}

#[derive(Debug)]
struct Passing {
    barrier: Barrier,
    missing: BTreeSet<DriverId>,
    parts: Vec<OperatorPart>,
    caught_up: bool,
    started_at_micros: i64,
}

/// A barrier that every driver has passed.
#[derive(Debug)]
pub struct PassedBarrier {
    pub barrier: Barrier,
    pub parts: Vec<OperatorPart>,
    /// Every input had nothing more at hand when the barrier passed it.
    pub caught_up: bool,
    pub started_at_micros: i64,
}

impl BarrierTracker {
    pub fn new(drivers: BTreeSet<DriverId>, inputs: BTreeSet<DriverId>) -> BarrierTracker {
        BarrierTracker {
            drivers,
            inputs,
            current: None,
        }
    }

    pub fn is_busy(&self) -> bool {
        self.current.is_some()
    }

    /// The barrier under way.
    pub fn current(&self) -> Option<Barrier> {
        self.current.as_ref().map(|passing| passing.barrier)
    }

    /// The barrier under way and who has not passed it.
    pub fn missing(&self) -> Option<(Barrier, &BTreeSet<DriverId>)> {
        self.current.as_ref().map(|passing| (passing.barrier, &passing.missing))
    }

    pub fn start(&mut self, barrier: Barrier, now_micros: i64) -> Result<(), Error> {
        if let Some(current) = self.current() {
            return Err(Error::Internal(format!(
                "barrier {} was started while {} is under way",
                barrier.epoch, current.epoch
            )));
        }
        self.current = Some(Passing {
            barrier,
            missing: self.drivers.clone(),
            parts: Vec::new(),
            caught_up: true,
            started_at_micros: now_micros,
        });
        Ok(())
    }

    pub fn acknowledge(&mut self, ack: BarrierAck) -> Result<Option<PassedBarrier>, Error> {
        let unexpected = |what: &str| {
            Err(Error::Internal(format!(
                "driver {}.{} {what} barrier {}",
                ack.driver.fragment, ack.driver.subtask, ack.barrier.epoch
            )))
        };
        let Some(passing) = self.current.as_mut().filter(|passing| passing.barrier == ack.barrier) else {
            return unexpected("passed an unknown");
        };
        if !passing.missing.remove(&ack.driver) {
            return unexpected("passed twice the");
        }
        if self.inputs.contains(&ack.driver) {
            let has_offsets = ack
                .parts
                .iter()
                .any(|part| matches!(part.content, PartContent::Input(_)));
            if ack.barrier.kind.persists() && !has_offsets {
                return unexpected("gave no offsets for the");
            }
            passing.caught_up &= ack.caught_up;
        }
        passing.parts.extend(ack.parts);
        if !passing.missing.is_empty() {
            return Ok(None);
        }
        Ok(self.current.take().map(|passing| PassedBarrier {
            barrier: passing.barrier,
            parts: passing.parts,
            caught_up: passing.caught_up,
            started_at_micros: passing.started_at_micros,
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engine::message::BarrierKind;
    use crate::ids::Epoch;

    fn driver(fragment: usize, subtask: u32) -> DriverId {
        DriverId { fragment, subtask }
    }

    fn tracker() -> BarrierTracker {
        let drivers = BTreeSet::from([driver(0, 0), driver(0, 1), driver(1, 0)]);
        let inputs = BTreeSet::from([driver(0, 0), driver(0, 1)]);
        BarrierTracker::new(drivers, inputs)
    }

    fn barrier(epoch: u64, kind: BarrierKind) -> Barrier {
        Barrier {
            epoch: Epoch(epoch),
            kind,
        }
    }

    fn ack(driver: DriverId, barrier: Barrier, caught_up: bool) -> BarrierAck {
        BarrierAck {
            driver,
            barrier,
            caught_up,
            parts: Vec::new(),
        }
    }

    #[test]
    fn a_tick_completes_when_all_have_passed() {
        let tick = barrier(3, BarrierKind::Tick);
        let mut tracker = tracker();
        tracker.start(tick, 5).unwrap();
        assert!(tracker.start(tick, 5).is_err(), "one at a time");
        assert!(tracker.acknowledge(ack(driver(0, 0), tick, true)).unwrap().is_none());
        assert!(tracker.acknowledge(ack(driver(1, 0), tick, true)).unwrap().is_none());
        let passed = tracker.acknowledge(ack(driver(0, 1), tick, false)).unwrap().unwrap();
        assert!(!passed.caught_up, "one input had more");
        assert_eq!(passed.started_at_micros, 5);
        assert!(!tracker.is_busy());
    }

    #[test]
    fn a_checkpoint_without_the_offsets_of_an_input_is_refused() {
        let checkpoint = barrier(1, BarrierKind::Checkpoint);
        let mut tracker = tracker();
        tracker.start(checkpoint, 0).unwrap();
        assert!(tracker.acknowledge(ack(driver(1, 0), checkpoint, true)).is_ok());
        assert!(tracker.acknowledge(ack(driver(0, 0), checkpoint, true)).is_err());
    }

    #[test]
    fn stray_acknowledgements_are_errors() {
        let tick = barrier(1, BarrierKind::Tick);
        let mut tracker = tracker();
        assert!(tracker.acknowledge(ack(driver(0, 0), tick, true)).is_err());
        tracker.start(tick, 0).unwrap();
        assert!(
            tracker
                .acknowledge(ack(driver(0, 0), barrier(2, BarrierKind::Tick), true))
                .is_err()
        );
        tracker.acknowledge(ack(driver(0, 0), tick, true)).unwrap();
        assert!(tracker.acknowledge(ack(driver(0, 0), tick, true)).is_err());
        assert!(tracker.acknowledge(ack(driver(9, 0), tick, true)).is_err());
    }
}

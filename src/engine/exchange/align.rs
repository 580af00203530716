//! Barrier alignment over the input channels of one subtask, as a pure state machine.
//!
//! A channel that has delivered the barrier is blocked until all others have, so that everything before the barrier on
//! any channel is processed before it and nothing after it is.
//!
//! Every channel delivers every barrier, also after `End` (see `message::Message::End`), so that the set waited for is
//! simply all channels.

use crate::engine::error::Error;
use crate::engine::message::Barrier;

#[derive(Debug)]
pub struct BarrierAligner {
    delivered: Vec<bool>,
    missing: usize,
    current: Option<Barrier>,
}

impl BarrierAligner {
    pub fn new(channels: usize) -> BarrierAligner {
        BarrierAligner {
            delivered: vec![false; channels],
            missing: channels,
            current: None,
        }
    }

    /// Whether `channel` must not be read now.
    pub fn is_blocked(&self, channel: usize) -> bool {
        self.delivered[channel]
    }

    /// Whether some channels have delivered a barrier that others have not.
    pub fn is_aligning(&self) -> bool {
        self.current.is_some()
    }

    /// `channel` delivered `barrier`; gives the barrier back when it was the last to do so, and unblocks all.
    pub fn deliver(&mut self, channel: usize, barrier: Barrier) -> Result<Option<Barrier>, Error> {
        match self.current {
            Some(current) if current != barrier => {
                return Err(Error::Internal(format!(
                    "channel {channel} delivered barrier {} while barrier {} is being aligned",
                    barrier.epoch, current.epoch
                )));
            }
            _ => self.current = Some(barrier),
        }
        if std::mem::replace(&mut self.delivered[channel], true) {
            return Err(Error::Internal(format!(
                "channel {channel} delivered barrier {} twice",
                barrier.epoch
            )));
        }
        self.missing -= 1;
        if self.missing > 0 {
            return Ok(None);
        }
        self.delivered.fill(false);
        self.missing = self.delivered.len();
        self.current = None;
        Ok(Some(barrier))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;
    use crate::engine::message::BarrierKind;
    use crate::ids::Epoch;

    fn barrier(epoch: u64) -> Barrier {
        Barrier {
            epoch: Epoch(epoch),
            kind: BarrierKind::Checkpoint,
        }
    }

    #[test]
    fn one_channel_is_always_aligned() {
        let mut aligner = BarrierAligner::new(1);
        assert_eq!(aligner.deliver(0, barrier(1)).unwrap(), Some(barrier(1)));
        assert!(!aligner.is_blocked(0));
        assert_eq!(aligner.deliver(0, barrier(2)).unwrap(), Some(barrier(2)));
    }

    #[test]
    fn a_channel_is_blocked_until_all_have_delivered() {
        let mut aligner = BarrierAligner::new(3);
        assert_eq!(aligner.deliver(1, barrier(7)).unwrap(), None);
        assert!(aligner.is_blocked(1) && !aligner.is_blocked(0) && aligner.is_aligning());
        assert_eq!(aligner.deliver(0, barrier(7)).unwrap(), None);
        assert_eq!(aligner.deliver(2, barrier(7)).unwrap(), Some(barrier(7)));
        assert!(!aligner.is_blocked(0) && !aligner.is_blocked(1) && !aligner.is_aligning());
    }

    #[test]
    fn wrong_orders_are_errors() {
        let mut aligner = BarrierAligner::new(2);
        aligner.deliver(0, barrier(1)).unwrap();
        assert!(aligner.deliver(0, barrier(1)).is_err());
        let mut aligner = BarrierAligner::new(2);
        aligner.deliver(0, barrier(1)).unwrap();
        assert!(aligner.deliver(1, barrier(2)).is_err());
    }

    proptest! {
        /// Channels hold rows and barriers; read by any schedule, the rows seen before barrier n are exactly the rows that
        /// precede barrier n on their channels.
        #[test]
        fn barriers_cut_every_channel_at_the_same_place(
            rows in proptest::collection::vec(proptest::collection::vec(0usize..5, 4), 1..5),
            schedule in proptest::collection::vec(0usize..64, 400),
        ) {
            // rows[c][e] = number of rows of channel c in epoch e.
            let mut queues: Vec<std::collections::VecDeque<Option<u64>>> = rows.iter().map(|epochs| {
                epochs.iter().enumerate().flat_map(|(epoch, count)| {
                    std::iter::repeat_n(None, *count).chain([Some(epoch as u64)])
                }).collect()
            }).collect();
            let mut aligner = BarrierAligner::new(queues.len());
            let mut seen = 0usize;
            let mut next_epoch = 0u64;
            let mut step = 0;
            while queues.iter().any(|q| !q.is_empty()) {
                let readable: Vec<usize> = (0..queues.len())
                    .filter(|c| !aligner.is_blocked(*c) && !queues[*c].is_empty()).collect();
                prop_assert!(!readable.is_empty(), "alignment deadlocked");
                let channel = readable[schedule[step % schedule.len()] % readable.len()];
                step += 1;
                match queues[channel].pop_front().unwrap() {
                    None => seen += 1,
                    Some(epoch) => if let Some(aligned) = aligner.deliver(channel, barrier(epoch)).unwrap() {
                        prop_assert_eq!(aligned.epoch, Epoch(next_epoch));
                        let expected: usize = rows.iter()
                            .map(|epochs| epochs[..=next_epoch as usize].iter().sum::<usize>()).sum();
                        prop_assert_eq!(seen, expected);
                        next_epoch += 1;
                    }
                }
            }
            prop_assert_eq!(next_epoch, 4);
        }
    }
}

//! The consuming side of a driver's channels: fair reading, barrier alignment, watermark merge, end of input.

use crate::engine::error::Error;
use crate::engine::exchange::align::BarrierAligner;
use crate::engine::exchange::channel::Receiver;
use crate::engine::exchange::watermark::{Advance, WatermarkMerge};
use crate::engine::message::{Barrier, Chunk, Message, Watermark};

/// What the driver sees of all channels together.
#[derive(Debug)]
pub enum InputItem {
    /// With the number of the operator's input that it came by.
    Data(usize, Chunk),
    Watermark(Watermark),
    /// Aligned over all channels.
    Barrier(Barrier),
    /// All channels of this input of the operator have ended, and those of others have not.
    InputEnd(usize),
    /// All channels have ended.
    End,
    /// Nothing to read now; a channel wakes the driver.
    Nothing,
}

pub struct InputMerge {
    channels: Vec<Receiver>,
    /// Which input of the operator each channel belongs to.
    inputs: Vec<usize>,
    ended: Vec<bool>,
    aligner: BarrierAligner,
    watermarks: WatermarkMerge,
    /// The channel to read first next time, so that none starves.
    cursor: usize,
    /// Went idle together with an advance: said after it.
    idle_due: bool,
    /// This input has ended: said after the advance that came of it.
    input_end_due: Option<usize>,
}

impl InputMerge {
    /// Channels of one input.
    pub fn new(channels: Vec<Receiver>, restored_watermark: Option<i64>) -> InputMerge {
        let inputs = vec![0; channels.len()];
        InputMerge::of_inputs(channels, inputs, restored_watermark)
    }

    /// Channels, each with the input that it belongs to.
    pub fn of_inputs(channels: Vec<Receiver>, inputs: Vec<usize>, restored_watermark: Option<i64>) -> InputMerge {
        InputMerge {
            inputs,
            ended: vec![false; channels.len()],
            aligner: BarrierAligner::new(channels.len()),
            watermarks: WatermarkMerge::new(channels.len(), restored_watermark),
            channels,
            cursor: 0,
            idle_due: false,
            input_end_due: None,
        }
    }

    pub fn watermark(&self) -> Option<i64> {
        self.watermarks.current()
    }

    pub fn next_item(&mut self) -> Result<InputItem, Error> {
        if std::mem::take(&mut self.idle_due) {
            return Ok(InputItem::Watermark(Watermark::Idle));
        }
        if let Some(input) = self.input_end_due.take() {
            return Ok(InputItem::InputEnd(input));
        }
        let count = self.channels.len();
        for offset in 0..count {
            let channel = (self.cursor + offset) % count;
            while !self.aligner.is_blocked(channel) {
                let Some(message) = self.channels[channel].pop() else {
                    break;
                };
                if let Some(item) = self.take(channel, message)? {
                    self.cursor = (channel + 1) % count;
                    return Ok(item);
                }
            }
        }
        Ok(InputItem::Nothing)
    }

    fn take(&mut self, channel: usize, message: Message) -> Result<Option<InputItem>, Error> {
        let advance = match message {
            Message::Data(chunk) => return Ok(Some(InputItem::Data(self.inputs[channel], chunk))),
            Message::Barrier(barrier) => {
                return Ok(self.aligner.deliver(channel, barrier)?.map(InputItem::Barrier));
            }
            Message::Watermark(watermark) => self.watermarks.update(channel, watermark),
            Message::End => {
                if std::mem::replace(&mut self.ended[channel], true) {
                    return Err(Error::Internal(format!("channel {channel} ended twice")));
                }
                let advance = self.watermarks.finish(channel);
                if self.ended.iter().all(|ended| *ended) {
                    return Ok(Some(InputItem::End));
                }
                let input = self.inputs[channel];
                let goes_on = |(&of, &ended): (&usize, &bool)| of == input && !ended;
                if !self.inputs.iter().zip(&self.ended).any(goes_on) {
                    let item = self.advance(advance);
                    self.input_end_due = Some(input);
                    return Ok(item.or_else(|| self.input_end_due.take().map(InputItem::InputEnd)));
                }
                advance
            }
        };
        Ok(self.advance(advance))
    }

    fn advance(&mut self, advance: Advance) -> Option<InputItem> {
        match advance.at {
            Some(at) => {
                self.idle_due = advance.idle;
                Some(InputItem::Watermark(Watermark::At(at)))
            }
            None if advance.idle => Some(InputItem::Watermark(Watermark::Idle)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use super::*;
    use crate::engine::connectors::Wake;
    use crate::engine::exchange::channel::{Sender, channel};
    use crate::engine::message::BarrierKind;
    use crate::ids::Epoch;

    struct Nobody;
    impl Wake for Nobody {
        fn wake(&self) {}
    }

    fn inputs(count: usize) -> (Vec<Sender>, InputMerge) {
        let (senders, receivers) = (0..count)
            .map(|_| channel(Arc::new(Nobody) as Arc<dyn Wake>, Arc::new(Nobody) as Arc<dyn Wake>))
            .unzip();
        (senders, InputMerge::new(receivers, None))
    }

    fn barrier(epoch: u64) -> Message {
        Message::Barrier(Barrier {
            epoch: Epoch(epoch),
            kind: BarrierKind::Checkpoint,
        })
    }

    #[test]
    fn barriers_follow_the_end_of_a_channel() {
        let (mut senders, mut input) = inputs(2);
        senders[0].send(Message::End, 0);
        senders[0].send(barrier(1), 0);
        senders[1].send(Message::Watermark(Watermark::At(9)), 0);
        // Channel 0 ended, so that channel 1 alone decides.
        assert!(matches!(
            input.next_item().unwrap(),
            InputItem::Watermark(Watermark::At(9))
        ));
        assert!(matches!(input.next_item().unwrap(), InputItem::Nothing));
        senders[1].send(barrier(1), 0);
        assert!(matches!(input.next_item().unwrap(), InputItem::Barrier(_)));
        senders[1].send(Message::End, 0);
        assert!(matches!(input.next_item().unwrap(), InputItem::End));
        for sender in &mut senders {
            sender.send(barrier(2), 0);
        }
        assert!(matches!(input.next_item().unwrap(), InputItem::Barrier(_)));
    }

    #[test]
    fn an_input_ends_with_its_last_channel() {
        let (mut senders, receivers): (Vec<Sender>, Vec<_>) = (0..3)
            .map(|_| channel(Arc::new(Nobody) as Arc<dyn Wake>, Arc::new(Nobody) as Arc<dyn Wake>))
            .unzip();
        let mut input = InputMerge::of_inputs(receivers, vec![0, 0, 1], None);
        senders[1].send(Message::End, 0);
        assert!(matches!(input.next_item().unwrap(), InputItem::Nothing));
        senders[2].send(Message::Watermark(Watermark::At(9)), 0);
        assert!(matches!(input.next_item().unwrap(), InputItem::Nothing));
        senders[0].send(Message::End, 0);
        let advanced = input.next_item().unwrap();
        assert!(
            matches!(advanced, InputItem::Watermark(Watermark::At(9))),
            "{advanced:?}"
        );
        assert!(matches!(input.next_item().unwrap(), InputItem::InputEnd(0)));
        senders[2].send(Message::End, 0);
        assert!(matches!(input.next_item().unwrap(), InputItem::End));
    }

    #[test]
    fn advance_and_idle_come_one_after_the_other() {
        let (mut senders, mut input) = inputs(2);
        senders[0].send(Message::Watermark(Watermark::At(50)), 0);
        senders[0].send(Message::Watermark(Watermark::Idle), 0);
        senders[1].send(Message::Watermark(Watermark::At(10)), 0);
        senders[1].send(Message::Watermark(Watermark::Idle), 0);
        let mut seen = Vec::new();
        while let InputItem::Watermark(watermark) = input.next_item().unwrap() {
            seen.push(watermark);
        }
        assert_eq!(seen.last(), Some(&Watermark::Idle));
        assert_eq!(seen[seen.len() - 2], Watermark::At(50));
    }
}

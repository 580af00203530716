//! The producing side of one edge: routes chunks to channels, sends control messages to all of them.
//!
//! With several targets the parts of a chunk are small. They are collected up to the usual chunk size, and so is the
//! watermark behind them; a barrier, an end, idleness of the stream or of the driver sends them on. Holding a watermark
//! back behind its rows is always right; letting it overtake them never is.

use crate::engine::error::Error;
use crate::engine::exchange::channel::Sender;
use crate::engine::exchange::coalesce::concat_chunks;
use crate::engine::exchange::partition::Partitioner;
use crate::engine::message::{CHUNK_ROWS_TARGET, Chunk, Message, Watermark};
use crate::engine::operator::OutputItem;

/// Parts with at least this many rows are sent as they are when nothing is collected.
const PART_ROWS_SENT_AT_ONCE: usize = 1024;

pub struct ExchangeOutput {
    routing: Routing,
    targets: Vec<Target>,
}

enum Routing {
    /// One target: forward and single exchanges.
    Direct,
    Hash(Partitioner),
}

struct Target {
    sender: Sender,
    collected: Vec<Chunk>,
    rows: usize,
    bytes: usize,
    watermark: Option<i64>,
}

impl ExchangeOutput {
    pub fn direct(sender: Sender) -> ExchangeOutput {
        ExchangeOutput {
            routing: Routing::Direct,
            targets: vec![Target::new(sender)],
        }
    }

    /// `senders` in the order of the consumer's subtasks.
    pub fn hash(partitioner: Partitioner, senders: Vec<Sender>) -> ExchangeOutput {
        ExchangeOutput {
            routing: Routing::Hash(partitioner),
            targets: senders.into_iter().map(Target::new).collect(),
        }
    }

    pub fn item(&mut self, item: &OutputItem) -> Result<(), Error> {
        match item {
            OutputItem::Data(chunk) => self.data(chunk.clone()),
            OutputItem::Watermark(watermark) => self.watermark(*watermark),
        }
    }

    fn data(&mut self, chunk: Chunk) -> Result<(), Error> {
        match &mut self.routing {
            Routing::Direct => {
                let bytes = chunk.memory_bytes();
                self.targets[0].sender.send(Message::Data(chunk), bytes);
            }
            Routing::Hash(partitioner) => {
                let alone = self.targets.len() == 1;
                for part in partitioner.partition(chunk)? {
                    let target = &mut self.targets[part.target];
                    if alone || (target.collected.is_empty() && part.chunk.len() >= PART_ROWS_SENT_AT_ONCE) {
                        target.sender.send(Message::Data(part.chunk), part.bytes);
                    } else {
                        target.collect(part.chunk, part.bytes)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn watermark(&mut self, watermark: Watermark) -> Result<(), Error> {
        for target in &mut self.targets {
            match watermark {
                Watermark::At(at) if !target.collected.is_empty() => target.watermark = Some(at),
                other => {
                    target.flush()?;
                    target.sender.send(Message::Watermark(other), 0);
                }
            }
        }
        Ok(())
    }

    /// A barrier or the end: everything before it goes first.
    pub fn control(&mut self, message: &Message) -> Result<(), Error> {
        for target in &mut self.targets {
            target.flush()?;
            target.sender.send(message.clone(), 0);
        }
        Ok(())
    }

    /// The driver has nothing to do for now: nothing may lie around.
    pub fn flush_collected(&mut self) -> Result<(), Error> {
        self.targets.iter_mut().try_for_each(Target::flush)
    }

    /// Hands over what the channels did not take before; true when nothing is left.
    pub fn drain(&mut self) -> bool {
        // Every target is tried: one full channel must not hold back another (a barrier may wait there).
        let mut drained = true;
        for target in &mut self.targets {
            drained &= target.sender.flush();
        }
        drained
    }
}

impl Target {
    fn new(sender: Sender) -> Target {
        Target {
            sender,
            collected: Vec::new(),
            rows: 0,
            bytes: 0,
            watermark: None,
        }
    }

    fn collect(&mut self, chunk: Chunk, bytes: usize) -> Result<(), Error> {
        self.rows += chunk.len();
        self.bytes += bytes;
        self.collected.push(chunk);
        if self.rows >= CHUNK_ROWS_TARGET {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if let [_] = self.collected[..] {
            self.sender.send(Message::Data(self.collected.remove(0)), self.bytes);
        } else if !self.collected.is_empty() {
            let joined = concat_chunks(&self.collected)?;
            self.collected.clear();
            self.sender.send(Message::Data(joined), self.bytes);
        }
        self.rows = 0;
        self.bytes = 0;
        if let Some(at) = self.watermark.take() {
            self.sender.send(Message::Watermark(Watermark::At(at)), 0);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};

    use super::*;
    use crate::engine::connectors::Wake;
    use crate::engine::exchange::channel::{Receiver, channel};
    use crate::engine::message::{Barrier, BarrierKind};
    use crate::ids::Epoch;
    use crate::state::key_group::KeyGroups;

    struct Nobody;
    impl Wake for Nobody {
        fn wake(&self) {}
    }

    fn keyed(targets: u32) -> (ExchangeOutput, Vec<Receiver>) {
        let (senders, receivers) = (0..targets)
            .map(|_| channel(Arc::new(Nobody) as Arc<dyn Wake>, Arc::new(Nobody) as Arc<dyn Wake>))
            .unzip();
        let partitioner = Partitioner::new(vec![0], KeyGroups::default(), targets);
        (ExchangeOutput::hash(partitioner, senders), receivers)
    }

    fn chunk(values: std::ops::Range<i64>) -> OutputItem {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        OutputItem::Data(Chunk::insert(RecordBatch::try_from_iter([("k", column)]).unwrap()))
    }

    fn drain(receiver: &mut Receiver) -> Vec<Message> {
        std::iter::from_fn(|| receiver.pop()).collect()
    }

    #[test]
    fn small_parts_are_joined_and_the_watermark_stays_behind_them() {
        let (mut output, mut receivers) = keyed(2);
        for n in 0..5 {
            output.item(&chunk(n * 100..n * 100 + 100)).unwrap();
            output.item(&OutputItem::Watermark(Watermark::At(n))).unwrap();
        }
        assert!(receivers.iter_mut().all(|receiver| drain(receiver).is_empty()));
        let barrier = Barrier {
            epoch: Epoch(1),
            kind: BarrierKind::Tick,
        };
        output.control(&Message::Barrier(barrier)).unwrap();
        let mut rows = 0;
        for receiver in &mut receivers {
            let messages = drain(receiver);
            let [
                Message::Data(data),
                Message::Watermark(Watermark::At(4)),
                Message::Barrier(_),
            ] = &messages[..]
            else {
                panic!("unexpected {messages:?}");
            };
            rows += data.len();
        }
        assert_eq!(rows, 500);
    }

    #[test]
    fn an_idle_driver_keeps_nothing() {
        let (mut output, mut receivers) = keyed(3);
        output.item(&chunk(0..50)).unwrap();
        output.flush_collected().unwrap();
        let rows: usize = receivers
            .iter_mut()
            .flat_map(drain)
            .map(|message| match message {
                Message::Data(chunk) => chunk.len(),
                _ => 0,
            })
            .sum();
        assert_eq!(rows, 50);
    }

    #[test]
    fn large_parts_go_at_once() {
        let (mut output, mut receivers) = keyed(2);
        output.item(&chunk(0..8192)).unwrap();
        assert!(receivers.iter_mut().all(|receiver| drain(receiver).len() == 1));
    }
}

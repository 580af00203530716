//! The shard's side of reading: takes what the subtask's thread fetched, decodes it, knows where every partition stands.
//!
//! Guarantee: the offset reported of a partition is that of the first record not delivered, whatever the broker or the thread
//! have done since.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::engine::connectors::kafka::KafkaTable;
use crate::engine::connectors::kafka::consumer::{ConsumerThread, Item, Orders, QUEUE_BATCHES};
use crate::engine::connectors::kafka::decode::MessageDecoder;
use crate::engine::connectors::kafka::health::Health;
use crate::engine::connectors::kafka::messages::MessageBatch;
use crate::engine::connectors::kafka::options::SourceOptions;
use crate::engine::connectors::kafka::partitions::{Partition, Split, restored, unknown_partitions};
use crate::engine::connectors::{BadRowHandler, Result, Source, SourceContext, SourcePoll, SourceStatus, SplitOffset};
use crate::engine::error::Error;
use crate::ids::Epoch;

/// What ends with something that is no record, such as the mark of a transaction, ends when nothing has come for so long: a broker
/// may say that there is nothing more a moment before it shows what a transaction wrote that it has ended.
const SETTLED: Duration = Duration::from_millis(500);
/// Barriers whose epochs were neither decided nor given up that are remembered.
const BARRIERS_KEPT: usize = 16;

pub fn open(table: &KafkaTable, options: Arc<SourceOptions>, context: SourceContext) -> Result<Box<dyn Source>> {
    let decoder = MessageDecoder::new(
        &context.schema,
        context.key.as_deref(),
        &table.format,
        table.schema.as_ref(),
    )?;
    let found = restored(&context.restored, context.subtask.0, context.parallelism)?;
    let (sender, queue) = mpsc::channel(QUEUE_BATCHES);
    let orders = Arc::new(Orders::default());
    let health = Arc::<Health>::default();
    let thread = ConsumerThread {
        connection: table.connection.clone(),
        options: Arc::clone(&options),
        wanted: decoder.wanted(),
        subtask: context.subtask.0,
        parallelism: context.parallelism,
        splits: found.own.clone(),
        others_are_new: found.others_are_new,
        ends: std::collections::BTreeMap::new(),
        queue: sender,
        waker: context.waker,
        orders: Arc::clone(&orders),
        stands_still: false,
        health: Arc::clone(&health),
        schemas: table
            .format
            .registry_of_ids()
            .map(|registry| (registry, context.runtime)),
    };
    crate::spawn::thread(format!("kafka-source-{}", context.subtask.0), || thread.run())
        .map_err(|error| Error::Internal(format!("could not start a thread: {error}")))?;
    Ok(Box::new(KafkaSource {
        decoder,
        queue,
        orders,
        health,
        splits: found.own.into_iter().map(Reading::new).collect(),
        knows_all: false,
        was_polled: false,
        bounded: options.bounded,
        current: None,
        bad_rows: context.bad_rows,
        barriers: VecDeque::new(),
        bytes_read: 0,
    }))
}

/// A split and what is known of it.
struct Reading {
    split: Split,
    /// Since when there is nothing more for now.
    at_end: Option<Instant>,
    finished: bool,
}

impl Reading {
    fn new(split: Split) -> Reading {
        Reading {
            split,
            at_end: None,
            finished: false,
        }
    }

    fn has_ended(&self) -> bool {
        let position = &self.split.position;
        let is_settled = || self.at_end.is_some_and(|since| since.elapsed() >= SETTLED);
        position.end.is_some_and(|end| position.next >= end || is_settled())
    }
}

struct KafkaSource {
    decoder: MessageDecoder,
    queue: mpsc::Receiver<Item>,
    orders: Arc<Orders>,
    health: Arc<Health>,
    /// Those of the checkpoint, then those that were found.
    splits: Vec<Reading>,
    /// The thread has told all partitions that there were.
    knows_all: bool,
    was_polled: bool,
    bounded: bool,
    /// The batch that is being decoded, its split, and the next message.
    current: Option<(usize, MessageBatch, usize)>,
    bad_rows: Arc<dyn BadRowHandler>,
    /// Where the splits stood at barriers, to be told to the group once their epochs are decided.
    barriers: VecDeque<(Epoch, Vec<(Partition, i64)>)>,
    bytes_read: u64,
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.orders.stop();
    }
}

impl KafkaSource {
    fn decode(&mut self, rows_max: usize) -> Result<Option<SourcePoll>> {
        let Some((index, batch, start)) = self.current.take() else {
            return Ok(None);
        };
        let Split { partition, position } = self.splits[index].split.clone();
        // What has come since bounded input began is no part of it.
        let end = position.end.map_or(batch.len(), |end| batch.before(end));
        let bad_rows = self.bad_rows.as_ref();
        let decoded = self
            .decoder
            .decode(&batch, start, end, rows_max, &partition, bad_rows)?;
        let next = start + decoded.messages;
        if let Some(last) = next.checked_sub(1).and_then(|last| batch.get(last)) {
            self.splits[index].split.position.next = last.offset + 1;
        }
        if next < end {
            self.current = Some((index, batch, next));
        } else if let Some(end_of_input) = position.end
            && end < batch.len()
        {
            self.splits[index].split.position.next = end_of_input;
        }
        Ok(decoded
            .rows
            .map(|(rows, weights)| SourcePoll::decoded(index, rows, weights)))
    }

    fn take(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Splits(splits) => {
                self.splits.extend(splits.into_iter().map(Reading::new));
                self.knows_all = true;
            }
            Item::Messages(index, batch) => {
                self.bytes_read += batch.size() as u64;
                self.splits[index].at_end = None;
                if !self.splits[index].finished {
                    self.current = Some((index, batch, 0));
                }
            }
            Item::AtEnd(index) => self.splits[index].at_end = Some(Instant::now()),
            Item::Failed(error) => return Err(error),
        }
        Ok(())
    }

    /// When to look again whether bounded input has ended.
    fn settles_at(&self) -> Option<Instant> {
        let waiting = self.splits.iter().filter(|reading| self.bounded && !reading.finished);
        waiting
            .filter_map(|reading| reading.at_end)
            .min()
            .map(|since| since + SETTLED)
    }

    /// A split of bounded input that has just come to its end.
    fn ended_split(&mut self) -> Option<usize> {
        if !self.bounded || self.current.is_some() {
            return None;
        }
        let ended = self
            .splits
            .iter()
            .position(|reading| !reading.finished && reading.has_ended())?;
        self.splits[ended].finished = true;
        Some(ended)
    }
}

impl Source for KafkaSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll> {
        self.was_polled = true;
        loop {
            if let Some(rows) = self.decode(rows_max.max(1))? {
                return Ok(rows);
            }
            if self.current.is_some() {
                continue;
            }
            if let Some(split) = self.ended_split() {
                return Ok(SourcePoll::SplitFinished { split });
            }
            if self.bounded && self.knows_all && self.splits.iter().all(|reading| reading.finished) {
                return Ok(SourcePoll::Finished);
            }
            match self.queue.try_recv() {
                Ok(item) => self.take(item)?,
                Err(TryRecvError::Empty) => return Ok(SourcePoll::Pending(self.settles_at())),
                Err(TryRecvError::Disconnected) => {
                    return Err(Error::Internal("the thread of a Kafka source has ended".into()));
                }
            }
        }
    }

    fn at_barrier(&mut self, epoch: Epoch) {
        let stand = |reading: &Reading| (reading.split.partition.clone(), reading.split.position.next);
        self.barriers
            .push_back((epoch, self.splits.iter().map(stand).collect()));
        if self.barriers.len() > BARRIERS_KEPT {
            self.barriers.pop_front();
        }
    }

    fn epoch_decided(&mut self, epoch: Epoch) {
        while let Some((of, _)) = self.barriers.front()
            && *of <= epoch
        {
            if let Some((of, offsets)) = self.barriers.pop_front()
                && of == epoch
            {
                self.orders.commit(offsets);
            }
        }
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let mut offsets: Vec<SplitOffset> = self.splits.iter().map(|reading| reading.split.offset()).collect();
        // Before the first poll the question is how many splits there are.
        if !self.knows_all && self.was_polled {
            offsets.push(unknown_partitions());
        }
        offsets
    }

    fn is_behind(&self) -> bool {
        let waiting = |reading: &Reading| reading.at_end.is_none() && !reading.finished;
        !self.knows_all || self.current.is_some() || !self.queue.is_empty() || self.splits.iter().any(waiting)
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    fn status(&self) -> SourceStatus {
        let lag = |reading: &Reading| {
            let Split { partition, position } = &reading.split;
            self.health.lag(partition, position.next, reading.at_end.is_some())
        };
        SourceStatus {
            lags: self.splits.iter().map(lag).collect(),
            unit: "records",
            waits_for: self.health.trouble(),
        }
    }
}

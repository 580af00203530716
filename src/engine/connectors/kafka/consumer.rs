//! The thread of a subtask that talks to brokers: finds partitions, fetches, looks for new ones, commits to the group.
//!
//! Every partition has a queue of its own, so that "nothing more for now" is known of each. Nothing here waits for the shard but
//! a full channel; what a broker cannot do now is tried again for as long as it takes, what it refuses ends the job.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Message as _;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::{debug, info};

use crate::engine::connectors::kafka::broker_error::{code_of, external, words_of_code};
use crate::engine::connectors::kafka::client::Connection;
use crate::engine::connectors::kafka::health::{self, Health};
use crate::engine::connectors::kafka::listener::Listener;
use crate::engine::connectors::kafka::messages::{MessageBatch, Wanted};
use crate::engine::connectors::kafka::options::SourceOptions;
use crate::engine::connectors::kafka::partitions::{
    Partition, Position, Split, check_kept, discover, first_positions, written_ends,
};
use crate::engine::connectors::{Result, Wake};
use crate::engine::error::Error;
use crate::engine::schema_registry::{SchemaRegistry, frame};
use crate::error::{Report, Retry, SqlState};

/// Batches that wait for the shard.
pub const QUEUE_BATCHES: usize = 8;
/// What librdkafka fetches ahead, in kilobytes, over all partitions of the subtask.
const FETCH_AHEAD: &str = "16384";
/// A wait for messages; what else is to be done is looked at in between.
const WAIT: Duration = Duration::from_millis(100);
/// Between two attempts to reach a broker that cannot be reached.
const RETRY: Duration = Duration::from_millis(500);

/// A topic that is missing for so long is missing: brokers that have just started do not know all of theirs.
const MISSING_WITHIN: Duration = Duration::from_secs(15);

/// What the thread tells the source.
pub enum Item {
    /// More splits, after those that are known.
    Splits(Vec<Split>),
    Messages(usize, MessageBatch),
    /// The split has nothing more for now.
    AtEnd(usize),
    Failed(Error),
}

/// What the source tells the thread.
#[derive(Default)]
pub struct Orders {
    stop: AtomicBool,
    /// Committed to the group next.
    commit: Mutex<Option<Vec<(Partition, i64)>>>,
}

impl Orders {
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    pub fn commit(&self, offsets: Vec<(Partition, i64)>) {
        *self.commit.lock().unwrap_or_else(PoisonError::into_inner) = Some(offsets);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// What the thread is started with.
pub struct ConsumerThread {
    pub connection: Connection,
    pub options: Arc<SourceOptions>,
    pub wanted: Wanted,
    pub subtask: u32,
    pub parallelism: u32,
    /// Those of the checkpoint.
    pub splits: Vec<Split>,
    pub others_are_new: bool,
    /// Where bounded input ends, once that was asked.
    pub ends: BTreeMap<Partition, i64>,
    pub queue: mpsc::Sender<Item>,
    pub waker: Arc<dyn Wake>,
    pub orders: Arc<Orders>,
    /// A partition is not read any more, as a broker said that it does not have what is next.
    pub stands_still: bool,
    pub health: Arc<Health>,
    /// Where the schemas are whose ids stand in front of records; and what asks there.
    pub schemas: Option<(Arc<SchemaRegistry>, tokio::runtime::Handle)>,
}

/// The source is gone.
struct Gone;

fn is_missing(error: &Error) -> bool {
    error.code() == SqlState::UNDEFINED_TABLE
}

/// Set when any queue of the consumer has something.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    fn wait(&self) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(rung, WAIT, |rung| !*rung);
        *waited.unwrap_or_else(PoisonError::into_inner).0 = false;
    }
}

impl ConsumerThread {
    pub fn run(mut self) {
        if let Err(error) = self.work() {
            // The source may be gone by now; then nobody needs to know.
            let _ = self.tell(Item::Failed(error));
        }
    }

    fn tell(&self, item: Item) -> std::result::Result<(), Gone> {
        let told = self.queue.blocking_send(item);
        self.waker.wake();
        told.map_err(|_| Gone)
    }

    fn consumer(&self) -> Result<Arc<BaseConsumer<Listener>>> {
        let isolation = if self.options.read_committed {
            "read_committed"
        } else {
            "read_uncommitted"
        };
        let group = self.options.group.as_deref().unwrap_or("laminar");
        let own = [
            ("group.id", group),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            ("enable.partition.eof", "true"),
            ("auto.offset.reset", "error"),
            ("isolation.level", isolation),
            ("queued.max.messages.kbytes", FETCH_AHEAD),
            ("fetch.wait.max.ms", "100"),
            ("topic.metadata.refresh.interval.ms", "10000"),
            ("statistics.interval.ms", health::EVERY),
        ];
        Ok(Arc::new(self.connection.client::<BaseConsumer<Listener>>(
            &own,
            Listener::of_health(Arc::clone(&self.health)),
        )?))
    }

    fn work(&mut self) -> Result<()> {
        let consumer = self.consumer()?;
        let Some(mut found) = self.patiently(|this| this.find_more(&consumer, true))? else {
            return Ok(());
        };
        loop {
            if self.tell(Item::Splits(found.clone())).is_err() {
                return Ok(());
            }
            self.splits.append(&mut found);
            // Those that are known have been checked where they began, or are checked here after a restart.
            if self.patiently(|this| this.check_all_kept(&consumer))?.is_none() {
                return Ok(());
            }
            match self.fetch(&consumer)? {
                Some(more) => found = more,
                None => return Ok(()),
            }
        }
    }

    /// Tries until it goes well or can never; `None`: the source is gone.
    fn patiently<T>(&mut self, mut attempt: impl FnMut(&mut ConsumerThread) -> Result<T>) -> Result<Option<T>> {
        let begun = Instant::now();
        loop {
            match attempt(self) {
                Ok(done) => {
                    self.health.set_trouble(None);
                    return Ok(Some(done));
                }
                Err(error)
                    if error.retry() == Retry::Never && (!is_missing(&error) || begun.elapsed() > MISSING_WITHIN) =>
                {
                    return Err(error);
                }
                Err(error) => {
                    info!(%error, "the Kafka server cannot be asked now, trying again");
                    self.health.set_trouble(Some(error.to_string()));
                    self.waker.wake();
                }
            }
            if self.orders.is_stopped() {
                return Ok(None);
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Own partitions that are not known yet.
    fn find_more(&mut self, consumer: &BaseConsumer<Listener>, is_first: bool) -> Result<Vec<Split>> {
        let is_own = |partition: &Partition| partition.belongs_to(self.subtask, self.parallelism);
        let is_known = |partition: &Partition| self.splits.iter().any(|split| split.partition == *partition);
        let all = discover(consumer, &self.options.topics)?;
        let more: Vec<Partition> = all
            .into_iter()
            .filter(|found| is_own(found) && !is_known(found))
            .collect();
        if more.is_empty() || (self.others_are_new && self.options.bounded) {
            return Ok(Vec::new());
        }
        if is_first && !self.others_are_new {
            if self.options.bounded && self.ends.is_empty() {
                self.ends = written_ends(&self.connection, &more)?;
            }
            return first_positions(consumer, &self.options, &more, &self.ends);
        }
        info!(partitions = ?more, "new partitions are read from their start");
        let from_start = |partition: Partition| Split {
            partition,
            position: Position { next: 0, end: None },
        };
        let mut splits: Vec<Split> = more.into_iter().map(from_start).collect();
        for split in &mut splits {
            // Of a partition that nobody has read nothing is lost.
            split.position.next = super::partitions::bounds(consumer, &split.partition)?.0;
        }
        Ok(splits)
    }

    fn check_all_kept(&mut self, consumer: &BaseConsumer<Listener>) -> Result<()> {
        for split in &mut self.splits {
            check_kept(consumer, &self.options, split)?;
        }
        Ok(())
    }

    /// Fetches until there are new partitions; `None`: the source is gone.
    fn fetch(&mut self, consumer: &Arc<BaseConsumer<Listener>>) -> Result<Option<Vec<Split>>> {
        let bell = Arc::new(Bell::default());
        let queues = self.assign(consumer, &bell)?;
        let mut look_at = Instant::now() + self.options.discovery;
        let mut missing_since = None;
        while !self.orders.is_stopped() {
            self.commit(consumer);
            let Ok(found_any) = self.take_all(consumer, &queues)? else {
                return Ok(None);
            };
            if std::mem::take(&mut self.stands_still) {
                // The client reads such a partition no more until it is assigned anew. A broker that only stumbled has the
                // records after all, which is looked at first.
                std::thread::sleep(RETRY);
                return Ok(Some(Vec::new()));
            }
            if !self.options.bounded && Instant::now() >= look_at {
                look_at = Instant::now() + self.options.discovery;
                match self.find_more(consumer, false) {
                    Ok(more) if more.is_empty() => missing_since = None,
                    Ok(more) => return Ok(Some(more)),
                    Err(error) if is_missing(&error) => {
                        if missing_since.get_or_insert_with(Instant::now).elapsed() > MISSING_WITHIN {
                            return Err(error);
                        }
                    }
                    Err(error) if error.retry() == Retry::Never => return Err(error),
                    Err(error) => debug!(%error, "could not look for new partitions"),
                }
            }
            if !found_any {
                bell.wait();
            }
        }
        Ok(None)
    }

    /// Begins to fetch every split where it stands.
    fn assign(
        &self,
        consumer: &Arc<BaseConsumer<Listener>>,
        bell: &Arc<Bell>,
    ) -> Result<Vec<PartitionQueue<Listener>>> {
        let refused = |error: KafkaError| consumer.context().failed("could not read partitions", &error);
        let mut list = TopicPartitionList::new();
        for split in &self.splits {
            let (partition, next) = (&split.partition, Offset::Offset(split.position.next));
            list.add_partition_offset(&partition.topic, partition.number, next)
                .map_err(refused)?;
        }
        consumer.assign(&list).map_err(refused)?;
        let mut queues = Vec::with_capacity(self.splits.len());
        for split in &self.splits {
            let queue = consumer.split_partition_queue(&split.partition.topic, split.partition.number);
            let mut queue =
                queue.ok_or_else(|| Error::Internal(format!("partition \"{}\" has no queue", split.partition)))?;
            let bell = Arc::clone(bell);
            queue.set_nonempty_callback(move || bell.ring());
            queues.push(queue);
        }
        Ok(queues)
    }

    /// Takes what is there; says whether anything was.
    fn take_all(
        &mut self,
        consumer: &BaseConsumer<Listener>,
        queues: &[PartitionQueue<Listener>],
    ) -> Result<std::result::Result<bool, Gone>> {
        let mut found_any = false;
        // First what was fetched before the queues were split off, which comes before what is in them; and errors.
        while let Some(event) = consumer.poll(Duration::ZERO) {
            found_any = true;
            if self.take_from_main(event)?.is_err() {
                return Ok(Err(Gone));
            }
        }
        for (index, queue) in queues.iter().enumerate() {
            let mut batch = MessageBatch::default();
            let mut at_end = false;
            while !batch.is_full() {
                match queue.poll(Duration::ZERO) {
                    Some(Ok(message)) => self.add(&mut batch, index, &message),
                    Some(Err(KafkaError::PartitionEOF(_))) => {
                        at_end = true;
                        break;
                    }
                    Some(Err(error)) => self.heard(&error)?,
                    None => break,
                }
            }
            found_any |= at_end || !batch.is_empty();
            if self.hand_on(index, batch, at_end).is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(Ok(found_any))
    }

    fn add(&mut self, batch: &mut MessageBatch, index: usize, message: &BorrowedMessage<'_>) {
        // After a new assignment some may come again.
        if message.offset() >= self.splits[index].position.next {
            batch.push(message, self.wanted);
            self.splits[index].position.next = message.offset() + 1;
        }
    }

    fn hand_on(&self, index: usize, batch: MessageBatch, at_end: bool) -> std::result::Result<(), Gone> {
        if !batch.is_empty() {
            self.learn_schemas(&batch)?;
            self.tell(Item::Messages(index, batch))?;
        }
        if at_end { self.tell(Item::AtEnd(index)) } else { Ok(()) }
    }

    /// Asks for the schemas that nobody has asked for, for as long as it takes: decoders do not wait.
    fn learn_schemas(&self, batch: &MessageBatch) -> std::result::Result<(), Gone> {
        let Some((registry, runtime)) = &self.schemas else {
            return Ok(());
        };
        let mut last = None;
        for value in batch.values() {
            let Ok((id, _)) = frame::split(value) else { continue };
            if last.replace(id) == Some(id) || !registry.is_unknown(id) {
                continue;
            }
            match runtime.block_on(registry.ensure_waiting(id, || self.orders.is_stopped())) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(Gone),
                Err(error) => {
                    self.tell(Item::Failed(error))?;
                    return Err(Gone);
                }
            }
        }
        Ok(())
    }

    fn take_from_main(
        &mut self,
        event: std::result::Result<BorrowedMessage<'_>, KafkaError>,
    ) -> Result<std::result::Result<(), Gone>> {
        match event {
            Ok(message) => {
                let is_it = |split: &Split| {
                    split.partition.topic == message.topic() && split.partition.number == message.partition()
                };
                let Some(index) = self.splits.iter().position(is_it) else {
                    return Ok(Ok(()));
                };
                let mut batch = MessageBatch::default();
                self.add(&mut batch, index, &message);
                Ok(self.hand_on(index, batch, false))
            }
            // Does not say of which topic.
            Err(KafkaError::PartitionEOF(number)) => {
                let mut splits = self.splits.iter().enumerate();
                let mut of_number = splits.by_ref().filter(|(_, split)| split.partition.number == number);
                match (of_number.next(), of_number.next()) {
                    (Some((index, _)), None) => Ok(self.tell(Item::AtEnd(index))),
                    _ => Ok(Ok(())),
                }
            }
            Err(error) => self.heard(&error).map(Ok),
        }
    }

    /// An error that came in place of a message. Most are left to the client, which tries again.
    fn heard(&mut self, error: &KafkaError) -> Result<()> {
        use RDKafkaErrorCode as Code;
        match code_of(error) {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => {
                info!(%error, "a broker does not have the records that are read next, looking where partitions stand");
                self.stands_still = true;
                Ok(())
            }
            Some(code @ (Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed)) => Err(external(
                "could not read from the Kafka server",
                Some(code),
                &words_of_code(code),
            )),
            _ => {
                debug!(%error, "the Kafka server has trouble");
                Ok(())
            }
        }
    }

    fn commit(&self, consumer: &BaseConsumer<Listener>) {
        let ordered = self.orders.commit.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(offsets) = ordered.filter(|offsets| self.options.group.is_some() && !offsets.is_empty()) else {
            return;
        };
        let mut list = TopicPartitionList::new();
        for (partition, next) in &offsets {
            if list
                .add_partition_offset(&partition.topic, partition.number, Offset::Offset(*next))
                .is_err()
            {
                return;
            }
        }
        // For monitoring only: nothing depends on it.
        if let Err(error) = consumer.commit(&list, CommitMode::Async) {
            debug!(%error, "could not commit offsets to the group");
        }
    }
}

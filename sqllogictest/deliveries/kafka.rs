//! Topics: events that are written all the time, a part of them in transactions and some in transactions that are aborted, and
//! events that are delivered. What counts is what a reader of the test's own sees, who leaves out what is not committed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::deliveries::{EVENTS_A_SECOND, Ids, Input, Made, Result, Target, WITHIN, id_in};
use crate::kafka_broker::TestKafka;

/// In the committer.
const PLACES: &[&str] = &["kafka.before_progress", "kafka.before_commit", "kafka.after_commit"];
const PARTITIONS: i32 = 3;

/// A broker, started or named, and a topic.
struct Topic {
    broker: TestKafka,
    name: String,
}

impl Topic {
    async fn make() -> Result<Option<Topic>> {
        let broker = blocking(|| Ok(TestKafka::start())).await?;
        Ok(broker.map(|broker| Topic {
            name: broker.new_topic(),
            broker,
        }))
    }

    fn address(&self) -> String {
        self.broker.address.clone()
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
}

/// Read by a group that is told how far.
pub struct KafkaInput(Topic);

impl KafkaInput {
    pub async fn make() -> Made<KafkaInput> {
        let Some(topic) = Topic::make().await? else {
            return Ok(None);
        };
        create(&topic.broker.address, &topic.name).await?;
        Ok(Some(Arc::new(KafkaInput(topic))))
    }
}

#[async_trait::async_trait]
impl Input for KafkaInput {
    fn statement(&self, _rate: u64) -> String {
        format!(
            "CREATE TABLE events (id BIGINT, payload TEXT) WITH (connector = 'kafka', bootstrap_servers = '{}',
             topic = '{}', format = 'json', type = 'source', group_id = 'monitored')",
            self.0.broker.address, self.0.name
        )
    }

    async fn write(&self, stop: Arc<AtomicBool>) -> Result<u64> {
        let (address, topic) = (self.0.address(), self.0.name.clone());
        blocking(move || write_slowly(&address, &topic, &stop)).await
    }

    async fn check(&self, events: u64) -> Result<()> {
        let (address, topic) = (self.0.address(), self.0.name.clone());
        blocking(move || told_the_group(&address, &topic, events)).await
    }
}

pub struct KafkaTarget(Topic);

impl KafkaTarget {
    pub async fn make() -> Made<KafkaTarget> {
        Ok(Topic::make().await?.map(|topic| Arc::new(KafkaTarget(topic))))
    }
}

#[async_trait::async_trait]
impl Target for KafkaTarget {
    fn statement(&self, keyed: bool) -> String {
        let (key, form) = match keyed {
            true => (" PRIMARY KEY", "envelope = 'upsert'"),
            false => ("", "key_field = 'id'"),
        };
        format!(
            "CREATE TABLE delivered (id BIGINT{key}, payload TEXT) WITH (connector = 'kafka', bootstrap_servers = '{}', topic = '{}',
             format = 'json', type = 'sink', create_topic = true, partitions = {PARTITIONS}, {form})",
            self.0.broker.address, self.0.name
        )
    }

    fn places(&self) -> &'static [&'static str] {
        PLACES
    }

    async fn ids(&self) -> Result<Ids> {
        let (address, topic) = (self.0.address(), self.0.name.clone());
        blocking(move || committed_ids(&address, &topic)).await
    }
}

async fn create(address: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create()
        .map_err(|error| error.to_string())?;
    let topic = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let created = admin.create_topics([&topic], &AdminOptions::new()).await;
    created.map(|_| ()).map_err(|error| error.to_string())
}

/// Half of it in transactions, before every third of which another one is aborted.
fn write_slowly(address: &str, topic: &str, stop: &AtomicBool) -> Result<u64> {
    let text = |error: KafkaError| error.to_string();
    let plain: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create()
        .map_err(text)?;
    let transactional = |id: &str| -> Result<BaseProducer> {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", address)
            .set("transactional.id", id)
            .create()
            .map_err(text)?;
        producer.init_transactions(WITHIN).map_err(text)?;
        Ok(producer)
    };
    // Two, as the broker of the tests also names transactions that were aborted before the place that is read from: by that a
    // client leaves out what the same producer writes later.
    let (transactional, aborting) = (transactional(topic)?, transactional(&format!("{topic} aborted"))?);
    let send = |producer: &BaseProducer, ids: std::ops::Range<u64>| {
        for id in ids {
            let value = format!("{{\"id\":{id},\"payload\":\"event {id}\"}}");
            let record = BaseRecord::<str, str>::to(topic)
                .payload(&value)
                .partition((id % PARTITIONS as u64) as i32);
            producer.send(record).map_err(|(error, _)| text(error))?;
        }
        producer.flush(WITHIN).map_err(text)
    };
    let step = 50;
    let pause = Duration::from_secs_f64(step as f64 / EVENTS_A_SECOND as f64);
    let mut events = 0;
    for number in 0_u64.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let ids = events..events + step;
        let begun = Instant::now();
        if number.is_multiple_of(2) {
            send(&plain, ids)?;
        } else {
            if number % 6 == 1 {
                aborting.begin_transaction().map_err(text)?;
                send(&aborting, ids.clone())?;
                aborting.abort_transaction(WITHIN).map_err(text)?;
            }
            transactional.begin_transaction().map_err(text)?;
            send(&transactional, ids)?;
            transactional.commit_transaction(WITHIN).map_err(text)?;
        }
        events += step;
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
    }
    Ok(events)
}

/// The ids in the topic, in no order.
fn committed_ids(address: &str, topic: &str) -> Result<Ids> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "test")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .map_err(|error| error.to_string())?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .map_err(|error| error.to_string())?;
    }
    consumer.assign(&list).map_err(|error| error.to_string())?;
    let mut ids = Vec::new();
    let mut ended = std::collections::BTreeSet::new();
    let deadline = Instant::now() + WITHIN;
    while ended.len() < PARTITIONS as usize {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                ids.push(id_in(message.payload().unwrap_or_default()));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                ended.insert(partition);
            }
            Some(Err(error)) => return Err(error.to_string()),
            None if Instant::now() >= deadline => return Err(format!("topic {topic} has no end")),
            None => {}
        }
    }
    Ok(ids)
}

/// What the group was told adds up to all records, those of aborted transactions and their marks included.
fn told_the_group(address: &str, topic: &str, events: u64) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "monitored")
        .create()
        .map_err(|error| error.to_string())?;
    loop {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(topic, 0, PARTITIONS - 1);
        let told = consumer
            .committed_offsets(asked, WITHIN)
            .map_err(|error| error.to_string())?;
        let offsets = told
            .elements()
            .into_iter()
            .filter_map(|element| element.offset().to_raw());
        let sum: i64 = offsets.sum();
        if sum >= events as i64 {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(format!("the group was told of {sum} records only"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

//! Deliveries under fire into Kafka: from a file, and from a topic to a topic while that is written. What counts is what a reader
//! of the test's own sees, who leaves out what is not committed.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::delivery_kills::{Campaign, each_once, rate, wait_until_finished, write_events};
use crate::kafka_broker::TestKafka;
use crate::server_process::ServerProcess;

/// Places in the committer besides those of every sink.
const PLACES: &[&str] = &["kafka.before_progress", "kafka.before_commit", "kafka.after_commit"];
const EVENTS: u64 = 20_000;
const PARTITIONS: i32 = 3;
const WITHIN: Duration = Duration::from_secs(180);

pub async fn file_to_kafka() -> Result<(), String> {
    let Some(kafka) = broker().await? else { return Ok(()) };
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().display();
    write_events(&folder.path().join("events.json"), EVENTS).map_err(|error| error.to_string())?;
    let (address, topic) = (&kafka.address, kafka.new_topic());
    let campaign = Campaign {
        data_dir: &folder.path().join("data"),
        statements: vec![
            format!(
                "CREATE TABLE events (id BIGINT, payload TEXT)
                 WITH (connector = 'single_file', path = '{path}/events.json', format = 'json', rate = {})",
                rate(EVENTS, PLACES.len())
            ),
            target(address, &topic),
            delivery(1),
        ],
        places: PLACES,
    };
    let server = campaign.run().await?;
    wait_until_finished(&server, "delivery").await?;
    all_delivered(&server, address, &topic, Instant::now() + WITHIN).await
}

/// The brokers may still be marking the last transactions as ended.
async fn all_delivered(server: &ServerProcess, address: &str, topic: &str, deadline: Instant) -> Result<(), String> {
    loop {
        let ids = reading(address, topic).await?;
        if ids.len() as u64 >= EVENTS || Instant::now() >= deadline {
            let checked = each_once(EVENTS, ids.into_iter());
            return checked.map_err(|error| format!("{error}\n{}", server.log().join("\n")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Only with a broker that is named: the one that tests bring along has been seen to give a reader nothing for a minute on a
/// busy machine, and names transactions that were aborted long before.
pub async fn kafka_to_kafka() -> Result<(), String> {
    if std::env::var_os("LAMINAR_TEST_KAFKA").is_none() {
        println!("     skipped: LAMINAR_TEST_KAFKA names no broker");
        return Ok(());
    }
    let Some(kafka) = broker().await? else { return Ok(()) };
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let (address, from, to) = (kafka.address.clone(), kafka.new_topic(), kafka.new_topic());
    create(&address, &from).await?;
    let campaign = Campaign {
        data_dir: &folder.path().join("data"),
        statements: vec![
            format!(
                "CREATE TABLE events (id BIGINT, payload TEXT) WITH (connector = 'kafka', bootstrap_servers = '{address}',
                 topic = '{from}', format = 'json', type = 'source', group_id = 'monitored')"
            ),
            target(&address, &to),
            delivery(2),
        ],
        places: PLACES,
    };
    let writing = tokio::task::spawn_blocking({
        let (address, from) = (address.clone(), from.clone());
        move || write_slowly(&address, &from)
    });
    let server = campaign.run().await?;
    writing.await.map_err(|error| error.to_string())??;
    let deadline = Instant::now() + WITHIN;
    all_delivered(&server, &address, &to, deadline).await?;
    told_the_group(&address, &from, deadline).await
}

/// `None`: skipped, and said so.
async fn broker() -> Result<Option<TestKafka>, String> {
    let started = tokio::task::spawn_blocking(TestKafka::start).await;
    started.map_err(|error| error.to_string())
}

fn target(address: &str, topic: &str) -> String {
    format!(
        "CREATE TABLE delivered (id BIGINT, payload TEXT) WITH (connector = 'kafka', bootstrap_servers = '{address}', topic = '{topic}',
         format = 'json', type = 'sink', create_topic = true, partitions = {PARTITIONS}, key_field = 'id')"
    )
}

fn delivery(parallelism: u32) -> String {
    format!(
        "CREATE PIPELINE delivery WITH (checkpoint_interval = '50 milliseconds', parallelism = {parallelism}) AS
         INSERT INTO delivered SELECT id, upper(payload) AS payload FROM events"
    )
}

async fn create(address: &str, topic: &str) -> Result<(), String> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create()
        .map_err(|error| error.to_string())?;
    let topic = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let created = admin.create_topics([&topic], &AdminOptions::new()).await;
    created.map(|_| ()).map_err(|error| error.to_string())
}

/// As fast as a campaign needs it, half of it in transactions of which every third is aborted.
fn write_slowly(address: &str, topic: &str) -> Result<(), String> {
    let text = |error: KafkaError| error.to_string();
    let plain: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .create()
        .map_err(text)?;
    let transactional = |id: &str| -> Result<BaseProducer, String> {
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
    let pause = Duration::from_secs_f64(step as f64 / rate(EVENTS, PLACES.len()) as f64);
    for (number, start) in (0..EVENTS).step_by(step).enumerate() {
        let ids = start..(start + step as u64).min(EVENTS);
        let begun = Instant::now();
        if number % 2 == 0 {
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
        std::thread::sleep(pause.saturating_sub(begun.elapsed()));
    }
    Ok(())
}

type Ids = Vec<Result<u64, String>>;

async fn reading(address: &str, topic: &str) -> Result<Ids, String> {
    let (address, topic) = (address.to_owned(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || committed_ids(&address, &topic));
    read.await.map_err(|error| error.to_string())?
}

/// The ids in the topic, in no order.
fn committed_ids(address: &str, topic: &str) -> Result<Ids, String> {
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
                let value = message.payload().unwrap_or_default();
                let row: Result<serde_json::Value, _> = serde_json::from_slice(value);
                let id = row.ok().and_then(|row| row["id"].as_u64());
                ids.push(id.ok_or_else(|| format!("no id in {}", String::from_utf8_lossy(value))));
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
async fn told_the_group(address: &str, topic: &str, deadline: Instant) -> Result<(), String> {
    let (address, topic) = (address.to_owned(), topic.to_owned());
    let asking = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &address)
            .set("group.id", "monitored")
            .create()
            .map_err(|error| error.to_string())?;
        loop {
            let mut asked = TopicPartitionList::new();
            asked.add_partition_range(&topic, 0, PARTITIONS - 1);
            let told = consumer
                .committed_offsets(asked, WITHIN)
                .map_err(|error| error.to_string())?;
            let sum: i64 = told
                .elements()
                .iter()
                .filter_map(|element| element.offset().to_raw())
                .sum();
            if sum >= EVENTS as i64 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("the group was told of {sum} records only"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    asking.await.map_err(|error| error.to_string())?
}

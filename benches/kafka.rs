//! CPU per record of pipelines that read and write topics, beside a plain loop of the same client over the same topic.
//!
//! The loop consumes with read_committed and produces every value again, idempotently, untouched: what librdkafka costs. Laminar
//! also decodes and encodes; what decoding alone costs by arrow-json is measured too, so that the sum of both is the reference. See
//! README.md for how to read the output.

#[allow(dead_code)]
mod common;
#[path = "../src/testing/kafka.rs"]
mod kafka_broker;
#[path = "common/reference.rs"]
#[allow(dead_code)]
mod reference;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use common::{Outcome, Server, argument, connect, resident_mib, start};
use kafka_broker::TestKafka;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use reference::cpu_seconds;

const PARTITIONS: i32 = 4;
const INPUT: &str = "bids";
/// Nothing comes for so long: the broker does not answer.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// What Laminar runs, each to the end of the topic.
struct Pipeline {
    name: &'static str,
    /// Of the table `target`.
    options: &'static str,
    body: &'static str,
}

const PIPELINES: &[Pipeline] = &[
    Pipeline {
        name: "to Kafka, at least once",
        options: "commit_mode = 'at_least_once', ",
        body: "INSERT INTO target SELECT * FROM bids",
    },
    Pipeline {
        name: "to Kafka, exactly once",
        options: "",
        body: "INSERT INTO target SELECT * FROM bids",
    },
    Pipeline {
        name: "to windows of counts",
        options: "",
        body: "SELECT auction, TUMBLE(INTERVAL '10 seconds') AS window, count(*) FROM bids GROUP BY auction, window",
    },
    Pipeline {
        name: "to counts that change",
        options: "",
        body: "SELECT bidder, count(*) AS bids, max(price) AS highest FROM bids GROUP BY bidder",
    },
];

fn main() -> Outcome<()> {
    // With a million the client cannot read an answer of the broker that tests start; `LAMINAR_TEST_KAFKA` names another one.
    let records = argument("--events").unwrap_or(400_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let broker = TestKafka::start().ok_or("there is no broker")?;
    let address = broker.address.as_str();
    runtime.block_on(create(address, INPUT))?;
    produce(address, records)?;
    let bytes = bid(0).len();
    println!("{records} records of about {bytes} bytes in {PARTITIONS} partitions");
    runtime.block_on(create(address, "copied"))?;
    let copy = per_record(records, || copy(address, records))?;
    println!("{:<28}{copy:>12.0} ns a record", "plain loop");
    let decode = per_record(records, || decode(records))?;
    println!("{:<28}{decode:>12.0} ns a record", "arrow-json");
    println!(
        "{:<28}{:>12}{:>16}{:>10}{:>14}{:>14}",
        "pipeline", "ns/record", "records/cpu s", "peak MiB", "over loop", "over both"
    );
    for (number, pipeline) in PIPELINES.iter().enumerate() {
        let folder = tempfile::tempdir()?;
        let server = start(folder.path(), 1)?;
        let spent = runtime.block_on(measure(&server, address, number, pipeline))?;
        let ns = spent * 1e9 / records as f64;
        println!(
            "{:<28}{ns:>12.0}{:>16.0}{:>10}{:>14.2}{:>14.2}",
            pipeline.name,
            1e9 / ns,
            resident_mib(server.child.id()),
            ns / copy,
            ns / (copy + decode)
        );
    }
    Ok(())
}

fn bid(number: u64) -> String {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    format!(
        "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"channel-{}\",\
         \"url\":\"https://example.com/auctions/{}/item.htm?query=1\",\"date_time\":\"2026-01-01T{:02}:{:02}:{:02}.{:03}\"}}",
        mixed % 20_000,
        mixed / 7 % 50_000,
        mixed % 9_999_937,
        mixed % 10,
        mixed % 20_000,
        number / 36_000_000 % 24,
        number / 600_000 % 60,
        number / 10_000 % 60,
        number / 10 % 1000,
    )
}

async fn create(address: &str, topic: &str) -> Outcome<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", address).create()?;
    let topic = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    admin.create_topics([&topic], &AdminOptions::new()).await?;
    Ok(())
}

fn producer(address: &str) -> Outcome<BaseProducer> {
    Ok(ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("enable.idempotence", "true")
        .set("linger.ms", "5")
        .create()?)
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, value: &[u8]) -> Outcome<()> {
    loop {
        let record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition).payload(value);
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                producer.poll(Duration::from_millis(10));
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

fn produce(address: &str, records: u64) -> Outcome<()> {
    let producer = producer(address)?;
    for number in 0..records {
        send(
            &producer,
            INPUT,
            (number % PARTITIONS as u64) as i32,
            bid(number).as_bytes(),
        )?;
        if number.is_multiple_of(1000) {
            producer.poll(Duration::ZERO);
        }
    }
    Ok(producer.flush(SILENCE_MAX)?)
}

/// User and system time of this process for `work`, in nanoseconds a record.
fn per_record(records: u64, work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let before = cpu_seconds(std::process::id())?;
    work()?;
    Ok((cpu_seconds(std::process::id())? - before) * 1e9 / records as f64)
}

fn copy(address: &str, records: u64) -> Outcome<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "loop")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(INPUT, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let producer = producer(address)?;
    let (mut copied, mut heard) = (0, Instant::now());
    while copied < records {
        match consumer.poll(Duration::from_millis(100)) {
            Some(message) => {
                let message = message?;
                send(
                    &producer,
                    "copied",
                    message.partition(),
                    message.payload().unwrap_or_default(),
                )?;
                copied += 1;
                heard = Instant::now();
            }
            None if heard.elapsed() > SILENCE_MAX => return Err("the broker is silent".into()),
            None => {}
        }
        if copied.is_multiple_of(1000) {
            producer.poll(Duration::ZERO);
        }
    }
    Ok(producer.flush(SILENCE_MAX)?)
}

fn schema() -> SchemaRef {
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    Arc::new(Schema::new(vec![
        field("auction", DataType::Int64),
        field("bidder", DataType::Int64),
        field("price", DataType::Int64),
        field("channel", DataType::Utf8),
        field("url", DataType::Utf8),
        field(
            "date_time",
            DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None),
        ),
    ]))
}

/// Makes the values as well, which is part of what is measured and little beside it.
fn decode(records: u64) -> Outcome<()> {
    let mut decoder = ReaderBuilder::new(schema()).with_batch_size(8192).build_decoder()?;
    for number in 0..records {
        let value = bid(number);
        let mut rest = value.as_bytes();
        while !rest.is_empty() {
            let taken = decoder.decode(rest)?;
            rest = &rest[taken..];
            if !rest.is_empty() {
                std::hint::black_box(decoder.flush()?);
            }
        }
    }
    std::hint::black_box(decoder.flush()?);
    Ok(())
}

/// CPU seconds of the server.
async fn measure(server: &Server, address: &str, number: usize, pipeline: &Pipeline) -> Outcome<f64> {
    let client = connect(server.port).await?;
    let mut spent = 0.0;
    // The second run counts, as in the other benchmarks.
    for run in 0..2 {
        let topic = format!("target-{number}-{run}");
        create(address, &topic).await?;
        let columns = "auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP";
        client
            .batch_execute(&format!(
                "CREATE TABLE bids ({columns}) WITH (connector = 'kafka', bootstrap_servers = '{address}', topic = '{INPUT}',
                     format = 'json', type = 'source', bounded = true, event_time_field = 'date_time', watermark_delay = '1 second');
                 CREATE TABLE target ({columns}) WITH (connector = 'kafka', bootstrap_servers = '{address}', topic = '{topic}',
                     {}format = 'json', type = 'sink');
                 CREATE PIPELINE measured WITH (start = false, checkpoint_interval = '10 seconds') AS {}",
                pipeline.options, pipeline.body
            ))
            .await?;
        let before = cpu_seconds(server.child.id())?;
        client.batch_execute("START PIPELINE measured").await?;
        client.batch_execute("WAIT FOR PIPELINE measured FINISHED").await?;
        spent = cpu_seconds(server.child.id())? - before;
        client
            .batch_execute("DROP PIPELINE measured; DROP TABLE bids; DROP TABLE target")
            .await?;
    }
    Ok(spent)
}

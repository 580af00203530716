//! CPU per record of pipelines that read and write topics, beside a plain loop of the same client over the same topic.
//!
//! The loop consumes with read_committed and produces every value again, idempotently, untouched: what librdkafka costs. Laminar
//! also decodes and encodes; what decoding alone costs by arrow-json or arrow-avro is measured too, so that the sum of both is the
//! reference. `--encoding avro` runs only those with Avro. See README.md for how to read the output.

#[path = "../common/mod.rs"]
#[allow(dead_code)]
mod common;
mod encodings;
#[path = "../../src/testing/kafka.rs"]
mod kafka_broker;
#[path = "../common/reference.rs"]
#[allow(dead_code)]
mod reference;

use std::time::{Duration, Instant};

use common::{Outcome, Server, argument, connect, resident_mib, start};
use encodings::{AVRO_SCHEMA, ENCODINGS, Encoding};
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
use tokio::runtime::Runtime;

const PARTITIONS: i32 = 4;
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
    let only = option("--encoding");
    for encoding in &ENCODINGS {
        if only.as_deref().is_none_or(|only| only == encoding.name) {
            of_encoding(&runtime, address, records, encoding)?;
        }
    }
    Ok(())
}

fn of_encoding(runtime: &Runtime, address: &str, records: u64, encoding: &Encoding) -> Outcome<()> {
    let (input, copied) = (encoding.name, format!("{}-copied", encoding.name));
    runtime.block_on(create(address, input))?;
    runtime.block_on(create(address, &copied))?;
    produce(address, records, encoding)?;
    let bytes = (encoding.value)(0).len();
    println!(
        "{records} records of about {bytes} bytes of {} in {PARTITIONS} partitions",
        encoding.name
    );
    let copy = per_record(records, || copy(address, input, &copied, records))?;
    println!("{:<28}{copy:>12.0} ns a record", "plain loop");
    let decode = per_record(records, || (encoding.decode)(records))?;
    println!("{:<28}{decode:>12.0} ns a record", encoding.decoder);
    println!(
        "{:<28}{:>12}{:>16}{:>10}{:>14}{:>14}",
        "pipeline", "ns/record", "records/cpu s", "peak MiB", "over loop", "over both"
    );
    for (number, pipeline) in PIPELINES.iter().enumerate() {
        let folder = tempfile::tempdir()?;
        let server = start(folder.path(), 1)?;
        let target = format!("{input}-target-{number}");
        let spent = runtime.block_on(measure(&server, address, &target, encoding, pipeline))?;
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

/// The word after `name` on the command line.
fn option(name: &str) -> Option<String> {
    let mut words = std::env::args().skip_while(|word| word != name);
    words.nth(1)
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

fn produce(address: &str, records: u64, encoding: &Encoding) -> Outcome<()> {
    let producer = producer(address)?;
    for number in 0..records {
        let partition = (number % PARTITIONS as u64) as i32;
        send(&producer, encoding.name, partition, &(encoding.value)(number))?;
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

fn copy(address: &str, input: &str, output: &str, records: u64) -> Outcome<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "loop")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(input, partition, Offset::Beginning)?;
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
                    output,
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

/// CPU seconds of the server.
async fn measure(
    server: &Server,
    address: &str,
    target: &str,
    encoding: &Encoding,
    pipeline: &Pipeline,
) -> Outcome<f64> {
    let client = connect(server.port).await?;
    let format = encoding.options.replace("{schema}", AVRO_SCHEMA);
    let mut spent = 0.0;
    // The second run counts, as in the other benchmarks.
    for run in 0..2 {
        let topic = format!("{target}-{run}");
        create(address, &topic).await?;
        let columns = "auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP";
        client
            .batch_execute(&format!(
                "CREATE TABLE bids ({columns}) WITH (connector = 'kafka', bootstrap_servers = '{address}', topic = '{}',
                     {format}, type = 'source', bounded = true, event_time_field = 'date_time', watermark_delay = '1 second');
                 CREATE TABLE target ({columns}) WITH (connector = 'kafka', bootstrap_servers = '{address}', topic = '{topic}',
                     {}{format}, type = 'sink');
                 CREATE PIPELINE measured WITH (start = false, checkpoint_interval = '10 seconds') AS {}",
                encoding.name, pipeline.options, pipeline.body
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

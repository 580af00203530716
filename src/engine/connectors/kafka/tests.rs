//! A broker process: reading, restoring, partitions that come, records that went, transactions that crash; and what is wrong
//! beforehand. The mock brokers of librdkafka: errors and brokers that go away.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use arrow::array::Int64Array;
use arrow::datatypes::{DataType, Field};
use arrow::record_batch::RecordBatch;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message as _;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::*;
use crate::clock::Clock;
use crate::engine::connectors::testing::{Bench, given, read, texts};
use crate::engine::connectors::{SourcePoll, SourceStatus, SplitOffset};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::{Chunk, Weights};
use crate::error::{Report, Retry};
use crate::ids::{Epoch, SubtaskIndex};
use crate::testing::kafka::TestKafka;

const WITHIN: Duration = Duration::from_secs(30);

fn ids() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]))
}

fn table(address: &str, options: &[(&str, &str)]) -> Result<Arc<dyn ConnectorTable>> {
    let mut all = vec![("bootstrap_servers", address)];
    all.extend_from_slice(options);
    Kafka.resolve(&given(&all), Some(ids()))
}

/// Brokers in this process, with a topic "t"; all of them keep it.
fn mock_brokers(brokers: i32, partitions: i32) -> (MockCluster<'static, DefaultProducerContext>, String) {
    let cluster = MockCluster::new(brokers).unwrap();
    cluster.create_topic("t", partitions, brokers).unwrap();
    let address = cluster.bootstrap_servers();
    (cluster, address)
}

fn admin(address: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", address).create().unwrap()
}

pub fn create(address: &str, topic: &str, partitions: i32) {
    let topic = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let created = futures::executor::block_on(admin(address).create_topics([&topic], &AdminOptions::new())).unwrap();
    assert!(created.iter().all(std::result::Result::is_ok), "{created:?}");
}

fn add_partitions(address: &str, topic: &str, count: usize) {
    let more = NewPartitions::new(topic, count);
    let added = futures::executor::block_on(admin(address).create_partitions([&more], &AdminOptions::new())).unwrap();
    assert!(added.iter().all(std::result::Result::is_ok), "{added:?}");
}

/// Ids `from..to`, dealt to the partitions in turn.
fn produce(address: &str, topic: &str, partitions: i64, range: std::ops::Range<i64>) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    for id in range {
        let (key, value) = (format!("key {id}"), format!("{{\"id\":{id}}}"));
        let record = BaseRecord::to(topic)
            .key(&key)
            .payload(&value)
            .partition((id % partitions) as i32);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(WITHIN).unwrap();
}

pub fn produce_values(address: &str, topic: &str, values: &[Vec<u8>]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", address).create().unwrap();
    for value in values {
        let record = BaseRecord::<(), Vec<u8>>::to(topic).payload(value).partition(0);
        producer.send(record).map_err(|(error, _)| error).unwrap();
    }
    producer.flush(WITHIN).unwrap();
}

/// Values of the topic as a reader sees them who leaves out what is not committed.
fn values(address: &str, topic: &str) -> Vec<String> {
    let bench = Bench::new();
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, true)]));
    let options = given(&[
        ("bootstrap_servers", address),
        ("topic", topic),
        ("format", "raw_string"),
        ("bounded", "true"),
    ]);
    let table = Kafka.resolve(&options, Some(Arc::clone(&schema))).unwrap();
    let value = |row: String| {
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        row["value"].as_str().unwrap().to_owned()
    };
    bench.rows(table.as_ref(), &schema).into_iter().map(value).collect()
}

fn expected(range: std::ops::Range<i64>) -> Vec<String> {
    range.map(|id| format!("{{\"id\":{id}}}")).collect()
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_by_key(|row| (row.len(), row.clone()));
    rows
}

#[test]
fn bounded_topics_are_read_and_restored_at_any_parallelism() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 3);
    produce(&kafka.address, &topic, 3, 0..300);
    let bench = Bench::new();
    let table = table(&kafka.address, &[("topic", &topic), ("source.bounded", "true")]).unwrap();
    assert_eq!(sorted(bench.rows(table.as_ref(), &ids())), expected(0..300));
    for (before, after) in [(1, 1), (1, 2), (3, 2), (2, 5)] {
        bench.check_restore(table.as_ref(), &ids(), before, after, 40);
    }
}

#[test]
fn metadata_is_beside_the_value() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 1);
    produce(&kafka.address, &topic, 1, 0..2);
    let bench = Bench::new();
    let table = table(&kafka.address, &[("topic", &topic), ("bounded", "true")]).unwrap();
    let all = table.schema().unwrap();
    let wanted: Vec<usize> = ["_offset", "id", "_key", "_partition", "_topic"]
        .iter()
        .map(|name| all.index_of(name).unwrap())
        .collect();
    let schema: SchemaRef = Arc::new(all.project(&wanted).unwrap());
    let row =
        |n: i64| format!("{{\"_offset\":{n},\"id\":{n},\"_key\":\"key {n}\",\"_partition\":0,\"_topic\":\"{topic}\"}}");
    assert_eq!(bench.rows(table.as_ref(), &schema), [row(0), row(1)]);
}

#[test]
fn reading_begins_where_the_options_say() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 2);
    produce(&kafka.address, &topic, 2, 0..20);
    let bench = Bench::new();
    let read = |options: &[(&str, &str)]| {
        let options = [options, &[("topic", topic.as_str()), ("bounded", "true")]].concat();
        sorted(bench.rows(table(&kafka.address, &options).unwrap().as_ref(), &ids()))
    };
    assert_eq!(read(&[]), expected(0..20));
    assert_eq!(read(&[("offset", "latest")]), expected(0..0));
    assert_eq!(
        read(&[("offset", "explicit"), ("offsets", "0:9, 1:9")]),
        expected(18..20)
    );
    let past = ("offset_timestamp", "2020-01-01 00:00:00");
    assert_eq!(read(&[("offset", "timestamp"), past]), expected(0..20));
    let future = ("offset_timestamp", "2200-01-01 00:00:00");
    assert_eq!(read(&[("offset", "timestamp"), future]), expected(0..0));
}

/// Polls until `rows` are there, or time is over.
fn poll_rows(source: &mut dyn Source, rows: usize) -> Vec<String> {
    let deadline = Instant::now() + WITHIN;
    let mut found = Vec::new();
    while found.len() < rows && Instant::now() < deadline {
        match source.poll(1000).unwrap() {
            SourcePoll::Rows { rows, .. } => found.extend(texts(rows)),
            SourcePoll::Pending(_) => std::thread::sleep(Duration::from_millis(2)),
            _ => panic!("an endless source of rows"),
        }
    }
    found
}

fn wait_caught_up(source: &mut dyn Source) {
    let deadline = Instant::now() + WITHIN;
    while source.is_behind() {
        assert!(Instant::now() < deadline, "the source is behind for ever");
        assert!(matches!(source.poll(1000).unwrap(), SourcePoll::Pending(_)));
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn f_35_partitions_that_come_later_are_read_from_their_start() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 2);
    produce(&kafka.address, &topic, 2, 0..10);
    let bench = Bench::new();
    let options = [
        ("topic", topic.as_str()),
        ("offset", "latest"),
        ("discovery_interval", "200 ms"),
    ];
    let table = table(&kafka.address, &options).unwrap();
    let mut source = bench.source(table.as_ref(), &ids(), 0, 1, &[]).unwrap();
    wait_caught_up(source.as_mut());
    add_partitions(&kafka.address, &topic, 4);
    produce(&kafka.address, &topic, 4, 10..30);
    assert_eq!(sorted(poll_rows(source.as_mut(), 20)), expected(10..30));
    // So are those that come while nothing runs.
    let offsets = source.offsets();
    assert_eq!(offsets.len(), 4);
    drop(source);
    add_partitions(&kafka.address, &topic, 5);
    produce(&kafka.address, &topic, 5, 30..40);
    let mut source = bench.source(table.as_ref(), &ids(), 0, 1, &offsets).unwrap();
    assert_eq!(sorted(poll_rows(source.as_mut(), 10)), expected(30..40));
    wait_caught_up(source.as_mut());
}

#[test]
fn f_36_records_that_were_removed_before_they_were_read_are_named() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 1);
    produce(&kafka.address, &topic, 1, 0..10);
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset(&topic, 0, Offset::Offset(7)).unwrap();
    let removed = futures::executor::block_on(admin(&kafka.address).delete_records(&gone, &AdminOptions::new()));
    assert!(removed.is_ok(), "{:?}", removed.err());
    let bench = Bench::new();
    let restored = [SplitOffset {
        split: format!("{topic}/0"),
        offset: "{\"next\":3}".into(),
    }];
    let table_of = |lost: &str| table(&kafka.address, &[("topic", &topic), ("on_lost_offsets", lost)]).unwrap();
    let failing = table_of("fail");
    let mut source = bench.source(failing.as_ref(), &ids(), 0, 1, &restored).unwrap();
    let error = loop {
        match source.poll(10) {
            Ok(_) => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => break error,
        }
    };
    let message = format!("offsets 3 to 6 of partition \"{topic}/0\" were removed before they were read");
    assert_eq!((error.to_string(), error.retry()), (message, Retry::Never));
    let skipping = table_of("earliest");
    let mut source = bench.source(skipping.as_ref(), &ids(), 0, 1, &restored).unwrap();
    assert_eq!(poll_rows(source.as_mut(), 3), expected(7..10));
}

fn rows(range: std::ops::Range<i64>) -> Chunk {
    let numbers = Int64Array::from_iter_values(range);
    Chunk::insert(RecordBatch::try_new(ids(), vec![Arc::new(numbers)]).unwrap())
}

fn append_sink(bench: &Bench, table: &dyn ConnectorTable) -> Box<dyn Sink> {
    let context = bench.sink_context(&ids(), SinkChangelog::Append, &[]);
    table.open_sink(context).unwrap()
}

fn written(bench: &Bench, table: &dyn ConnectorTable, range: std::ops::Range<i64>) -> Vec<u8> {
    let mut sink = append_sink(bench, table);
    sink.write(&rows(range)).unwrap();
    let mut log = sink.prepare(Epoch(1)).unwrap().committable.unwrap().to_vec();
    // The clock of the bench stands in the past.
    let now = crate::clock::SystemClock.now_micros();
    log[1..9].copy_from_slice(&now.to_le_bytes());
    log
}

fn committer(bench: &Bench, table: &dyn ConnectorTable) -> Box<dyn Committer> {
    let context = CommitterContext {
        sink: "pl_1/public.t".into(),
    };
    bench.runtime.block_on(table.open_committer(context)).unwrap()
}

#[test]
fn an_epoch_is_written_once() {
    let Some(mut kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    let bench = Bench::new();
    let options = [("topic", topic.as_str()), ("create_topic", "true"), ("partitions", "2")];
    let table = table(&kafka.address, &options).unwrap();
    let commit = |committer: &mut Box<dyn Committer>, epoch: u64, range: std::ops::Range<i64>| {
        let committables = vec![
            written(&bench, table.as_ref(), range.start..range.start + 3).into(),
            written(&bench, table.as_ref(), range.start + 3..range.end).into(),
        ];
        bench.runtime.block_on(committer.commit(Epoch(epoch), committables))
    };
    let mut first = committer(&bench, table.as_ref());
    commit(&mut first, 5, 0..10).unwrap();
    commit(&mut first, 5, 0..10).unwrap();
    // Another run repeats what it does not know to be done, and takes over.
    let mut second = committer(&bench, table.as_ref());
    commit(&mut second, 5, 0..10).unwrap();
    commit(&mut second, 9, 10..20).unwrap();
    assert_eq!(sorted(values(&kafka.address, &topic)), expected(0..20));
    // The first is fenced; what it finds is that the epoch is in.
    commit(&mut first, 9, 10..20).unwrap();
    assert_eq!(sorted(values(&kafka.address, &topic)), expected(0..20));
    if kafka.stop() {
        std::thread::scope(|scope| {
            let commit = scope.spawn(|| commit(&mut second, 10, 20..30));
            std::thread::sleep(Duration::from_millis(1500));
            kafka.start_again();
            commit.join().unwrap().unwrap();
        });
        assert_eq!(sorted(values(&kafka.address, &topic)), expected(0..30));
    }
}

#[test]
fn f_03_what_a_crash_left_open_is_aborted_and_its_owner_fenced() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 1);
    let bench = Bench::new();
    let table = table(&kafka.address, &[("topic", &topic)]).unwrap();
    let zombie: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.address)
        .set("transactional.id", "laminar-pl_1/public.t")
        .create()
        .unwrap();
    zombie.init_transactions(WITHIN).unwrap();
    zombie.begin_transaction().unwrap();
    let record = BaseRecord::<str, str>::to(&topic).payload("{\"id\":-1}");
    zombie.send(record).map_err(|(error, _)| error).unwrap();
    zombie.flush(WITHIN).unwrap();
    let log = written(&bench, table.as_ref(), 0..4);
    let mut committer = committer(&bench, table.as_ref());
    bench
        .runtime
        .block_on(committer.commit(Epoch(1), vec![log.into()]))
        .unwrap();
    assert!(zombie.commit_transaction(WITHIN).is_err());
    assert_eq!(values(&kafka.address, &topic), expected(0..4));
}

#[test]
fn f_13_an_outage_longer_than_a_transaction_may_be_writes_the_epoch_once() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 1);
    let bench = Bench::new();
    let options = [("topic", topic.as_str()), ("transaction_timeout", "1 second")];
    let table = table(&kafka.address, &options).unwrap();
    let mut committer = committer(&bench, table.as_ref());
    let log = written(&bench, table.as_ref(), 0..2);
    let first = committer.commit(Epoch(1), vec![log.into()]);
    bench.runtime.block_on(first).unwrap();
    if !kafka.freeze() {
        return;
    }
    let log = written(&bench, table.as_ref(), 2..1000);
    let second = bench.runtime.spawn(async move {
        let committed = committer.commit(Epoch(2), vec![log.into()]).await;
        committed.map(|()| committer)
    });
    std::thread::sleep(Duration::from_secs(3));
    assert!(!second.is_finished(), "a broker that answers nothing has taken it");
    kafka.thaw();
    let mut committer = bench.runtime.block_on(second).unwrap().unwrap();
    let log = written(&bench, table.as_ref(), 1000..1003);
    let third = committer.commit(Epoch(3), vec![log.into()]);
    bench.runtime.block_on(third).unwrap();
    assert_eq!(sorted(values(&kafka.address, &topic)), expected(0..1003));
}

#[test]
fn f_13_a_transaction_that_the_broker_gave_up_is_written_again() {
    let (brokers, address) = mock_brokers(1, 1);
    let bench = Bench::new();
    let table = table(&address, &[("topic", "t")]).unwrap();
    let mut committer = committer(&bench, table.as_ref());
    let given_up = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH];
    brokers.request_errors(RDKafkaApiKey::EndTxn, &given_up);
    let log = written(&bench, table.as_ref(), 0..3);
    bench
        .runtime
        .block_on(committer.commit(Epoch(1), vec![log.into()]))
        .unwrap();
    // The mock keeps what was aborted.
    assert_eq!(raw_records(&address, "t", 6).len(), 6);
}

#[test]
fn an_old_epoch_of_which_the_broker_knows_nothing_is_an_error() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 1);
    let bench = Bench::new();
    let table = table(&kafka.address, &[("topic", &topic)]).unwrap();
    let mut log = written(&bench, table.as_ref(), 0..4);
    log[1..9].copy_from_slice(&0_i64.to_le_bytes());
    let mut committer = committer(&bench, table.as_ref());
    let error = bench
        .runtime
        .block_on(committer.commit(Epoch(3), vec![log.into()]))
        .unwrap_err();
    assert_eq!((error.code().as_str(), error.retry()), ("08007", Retry::Never));
    assert!(values(&kafka.address, &topic).is_empty());
}

/// Values and keys of partition 0, whatever became of their transactions.
fn raw_records(address: &str, topic: &str, count: usize) -> Vec<(Option<String>, Option<String>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", address)
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning).unwrap();
    consumer.assign(&list).unwrap();
    let deadline = Instant::now() + WITHIN;
    let mut found = Vec::new();
    while found.len() < count && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) {
            let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            found.push((text(message.key()), text(message.payload())));
        }
    }
    found
}

#[test]
fn rows_that_go_are_tombstones() {
    let Some(kafka) = TestKafka::start() else { return };
    let topic = kafka.new_topic();
    create(&kafka.address, &topic, 1);
    let bench = Bench::new();
    let options = [
        ("topic", topic.as_str()),
        ("envelope", "upsert"),
        ("commit_mode", "at_least_once"),
    ];
    let table = table(&kafka.address, &options).unwrap();
    let changelog = SinkChangelog::Upsert { key: vec![0] };
    let mut sink = table.open_sink(bench.sink_context(&ids(), changelog, &[])).unwrap();
    let mut chunk = rows(1..4);
    chunk.weights = Weights::Signed(vec![1, -1, 1].into());
    sink.write(&chunk).unwrap();
    (sink.prepare(Epoch(1)).unwrap().work.unwrap())().unwrap();
    let record = |key: &str, value: Option<&str>| (Some(key.to_owned()), value.map(str::to_owned));
    assert_eq!(
        raw_records(&kafka.address, &topic, 3),
        [
            record("1", Some("{\"id\":1}")),
            record("2", None),
            record("3", Some("{\"id\":3}"))
        ]
    );
    // And are read as such.
    let options = [("topic", topic.as_str()), ("envelope", "upsert"), ("bounded", "true")];
    let table = self::table(&kafka.address, &options).unwrap();
    let context = SourceContext {
        schema: ids(),
        key: Some(vec![0]),
        subtask: SubtaskIndex(0),
        ..bench.source_context()
    };
    let mut source = table.open_source(context).unwrap();
    let mut found = Vec::new();
    loop {
        match source.poll(100).unwrap() {
            SourcePoll::Rows { rows, .. } => found.extend(texts(rows).into_iter().map(|row| (row, 1))),
            SourcePoll::Changes { rows, weights, .. } => found.extend(texts(rows).into_iter().zip(weights.to_vec())),
            SourcePoll::Pending(_) => std::thread::sleep(Duration::from_millis(2)),
            SourcePoll::SplitFinished { .. } => {}
            SourcePoll::Finished => break,
        }
    }
    let row = |id: i64, weight: i64| (format!("{{\"id\":{id}}}"), weight);
    assert_eq!(found, [row(1, 1), row(2, -1), row(3, 1)]);
}

#[test]
fn errors_are_in_the_words_of_whoever_made_them() {
    let check = |options: &[(&str, &str)]| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(Kafka.check_connection(&given(options)))
    };
    let error = check(&[("bootstrap_servers", "127.0.0.1:1")]).unwrap_err();
    assert_eq!(error.code().as_str(), "08006");
    assert!(error.to_string().contains("Connection refused"), "{error}");
    let wrong = "acks=x, no.such=hunter2";
    let error = check(&[("bootstrap_servers", "127.0.0.1:1"), ("client_configs", wrong)]).unwrap_err();
    assert_eq!(error.code().as_str(), "22023");
    assert!(!error.to_string().contains("hunter2"), "{error}");
    let Some(kafka) = TestKafka::start() else { return };
    let address = kafka.address.as_str();
    let user = [("sasl_username", "me"), ("sasl_password", "hunter2")];
    // Brokers made for tests let everybody in; others say why they do not.
    if let Err(error) = check(&[&[("bootstrap_servers", address)], user.as_slice()].concat()) {
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let missing = table(address, &[("topic", "laminar-no-such-topic"), ("type", "sink")]).unwrap();
    let error = runtime.block_on(missing.check_outside(&[])).unwrap_err();
    assert_eq!(error.code().as_str(), "42P01", "{error}");
    runtime
        .block_on(Kafka.check_connection(&given(&[("bootstrap_servers", address)])))
        .unwrap();
}

#[test]
fn f_15_stumbling_brokers_lose_nothing() {
    let (brokers, address) = mock_brokers(3, 2);
    let bench = Bench::new();
    let options = [("topic", "t"), ("commit_mode", "at_least_once")];
    let table = table(&address, &options).unwrap();
    let mut sink = append_sink(&bench, table.as_ref());
    let stumbles = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    ];
    brokers.request_errors(RDKafkaApiKey::Produce, &stumbles);
    brokers.request_errors(RDKafkaApiKey::Fetch, &stumbles);
    for start in [0, 100, 200] {
        sink.write(&rows(start..start + 100)).unwrap();
        brokers
            .partition_leader("t", (start % 200 / 100) as i32, Some(1 + (start / 100) as i32))
            .unwrap();
        (sink.prepare(Epoch(1)).unwrap().work.unwrap())().unwrap();
    }
    let mut source = bench.source(table.as_ref(), &ids(), 0, 1, &[]).unwrap();
    let mut found = poll_rows(source.as_mut(), 150);
    brokers.broker_down(1).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    brokers.broker_up(1).unwrap();
    found.extend(poll_rows(source.as_mut(), 300 - found.len()));
    assert_eq!(sorted(found), expected(0..300));
}

#[test]
fn the_last_flush_outlives_the_sink() {
    let (brokers, address) = mock_brokers(1, 1);
    let bench = Bench::new();
    let options = [("topic", "t"), ("commit_mode", "at_least_once"), ("offset", "earliest")];
    let table = table(&address, &options).unwrap();
    let open = || append_sink(&bench, table.as_ref());
    let mut stopped = open();
    stopped.write(&rows(0..100)).unwrap();
    stopped.stopping();
    let last = stopped.prepare(Epoch(1)).unwrap().work.unwrap();
    drop(stopped);
    last().unwrap();
    let mut source = bench.source(table.as_ref(), &ids(), 0, 1, &[]).unwrap();
    assert_eq!(sorted(poll_rows(source.as_mut(), 100)), expected(0..100));
    // One that is cancelled in between waits for nothing.
    brokers.broker_down(1).unwrap();
    let mut cancelled = open();
    cancelled.write(&rows(100..101)).unwrap();
    let work = cancelled.prepare(Epoch(1)).unwrap().work.unwrap();
    drop(cancelled);
    assert!(matches!(work(), Err(Error::Stopped)));
}

/// As after a leader change: the new one does not know yet how far records are replicated.
#[test]
fn a_broker_that_does_not_have_the_next_records_for_a_moment_loses_nothing() {
    let (brokers, address) = mock_brokers(1, 2);
    produce(&address, "t", 2, 0..100);
    let bench = Bench::new();
    let table = table(&address, &[("topic", "t")]).unwrap();
    let mut source = bench.source(table.as_ref(), &ids(), 0, 1, &[]).unwrap();
    let mut found = poll_rows(source.as_mut(), 100);
    let stumbles = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE];
    brokers.request_errors(RDKafkaApiKey::Fetch, &stumbles);
    produce(&address, "t", 2, 100..200);
    found.extend(poll_rows(source.as_mut(), 100));
    assert_eq!(sorted(found), expected(0..200));
}

#[test]
fn the_lag_of_a_partition_is_what_the_brokers_say_and_an_outage_has_a_reason() {
    let (brokers, address) = mock_brokers(1, 1);
    let bench = Bench::new();
    let options = [("topic", "t"), ("commit_mode", "at_least_once")];
    let table = table(&address, &options).unwrap();
    let mut sink = append_sink(&bench, table.as_ref());
    sink.write(&rows(0..100)).unwrap();
    (sink.prepare(Epoch(1)).unwrap().work.unwrap())().unwrap();
    let mut source = bench.source(table.as_ref(), &ids(), 0, 1, &[]).unwrap();
    assert_eq!(poll_rows(source.as_mut(), 100).len(), 100);
    let deadline = Instant::now() + WITHIN;
    let mut until = |is_so: &dyn Fn(&SourceStatus) -> bool| loop {
        assert!(matches!(source.poll(1000).unwrap(), SourcePoll::Pending(_)));
        let status = source.status();
        if is_so(&status) {
            break;
        }
        assert!(Instant::now() < deadline, "{status:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    let end = |status: &SourceStatus| status.lags[0].end.clone();
    until(&|status| end(status).as_deref() == Some("100") && status.lags[0].lag == Some(0));
    until(&|status| status.unit == "records" && status.waits_for.is_none());
    brokers.broker_down(1).unwrap();
    until(&|status| status.waits_for.is_some());
    brokers.broker_up(1).unwrap();
    until(&|status| status.waits_for.is_none());
}

#[test]
fn a_record_that_no_broker_takes_is_an_error() {
    let (brokers, address) = mock_brokers(1, 1);
    let bench = Bench::new();
    let options = [("topic", "t"), ("commit_mode", "at_least_once")];
    let table = table(&address, &options).unwrap();
    let mut sink = append_sink(&bench, table.as_ref());
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED];
    brokers.request_errors(RDKafkaApiKey::Produce, &refused);
    sink.write(&rows(0..1)).unwrap();
    let error = (sink.prepare(Epoch(1)).unwrap().work.unwrap())().unwrap_err();
    assert_eq!(
        (error.code().as_str(), error.retry()),
        ("42501", Retry::Never),
        "{error}"
    );
}

#[test]
fn a_read_source_stops_its_thread() {
    let (_brokers, address) = mock_brokers(1, 1);
    produce(&address, "t", 1, 0..5);
    let bench = Bench::new();
    let table = table(&address, &[("topic", "t"), ("bounded", "true")]).unwrap();
    let mut source = bench.source(table.as_ref(), &ids(), 0, 1, &[]).unwrap();
    assert_eq!(read(source.as_mut(), 2, usize::MAX), expected(0..5));
}

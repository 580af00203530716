//! Exactly once: an epoch's records wait in the checkpoint and are written after it was decided, in one transaction.
//!
//! The transaction also holds a progress record: the epoch, kept by the broker as the committed offset of a group that has the name
//! of the sink. Who comes after a crash first takes over the transactional id, by which the broker fences the former owner
//! and aborts what it left open, then asks for the progress record, which now cannot change any more, and writes the epoch only if it is
//! not in yet. See `docs/adr/0009-kafka-sink.md`.
//!
//! Guarantee: readers with read_committed see all records of an epoch at once, and once. Not guaranteed: a decided epoch that was not
//! committed for a day, and whose sink has never committed one before or so long ago that the broker forgot: that is an error.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tracing::{info, warn};

use crate::clock::Clock;
use crate::engine::connectors::kafka::broker_error::code_of;
use crate::engine::connectors::kafka::client::ASK_TIMEOUT;
use crate::engine::connectors::kafka::destination::Destination;
use crate::engine::connectors::kafka::encode::RecordEncoder;
use crate::engine::connectors::kafka::listener::{HEARING, Listener};
use crate::engine::connectors::kafka::producer::base_record;
use crate::engine::connectors::kafka::records::{self, Record, RecordLog};
use crate::engine::connectors::{Committer, CommitterContext, Prepared, Result, Sink, SinkContext};
use crate::engine::error::Error;
use crate::engine::message::Chunk;
use crate::error::{Report, Retry, SqlState};
use crate::failpoint;
use crate::ids::Epoch;

/// A transaction that cannot be begun, written or ended for so long is given back to the coordinator.
const OUTAGE_WAITED_OUT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(300);
/// One step of a transaction; what takes longer is asked again.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Brokers keep the progress record this long at least (offsets.retention.minutes, by default a week, once a day).
const PROGRESS_KEPT_MICROS: i64 = 24 * 3600 * 1_000_000;
/// The progress record is kept under this partition of the topic.
const PROGRESS_PARTITION: i32 = 0;

/// Collects an epoch's records.
pub struct TransactionalSink {
    pub encoder: RecordEncoder,
    pub log: RecordLog,
    pub clock: std::sync::Arc<dyn Clock>,
    pub written: u64,
}

impl TransactionalSink {
    pub fn new(encoder: RecordEncoder, context: &SinkContext) -> TransactionalSink {
        TransactionalSink {
            encoder,
            log: RecordLog::default(),
            clock: std::sync::Arc::clone(&context.clock),
            written: 0,
        }
    }
}

impl Sink for TransactionalSink {
    fn ready(&mut self) -> bool {
        self.encoder.is_ready()
    }

    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        let (log, written) = (&mut self.log, &mut self.written);
        self.encoder.encode(chunk, |record| {
            *written += record.value.as_ref().map_or(0, |value| value.len() as u64);
            log.push(&record)
        })
    }

    fn prepare(&mut self, _epoch: Epoch) -> Result<Prepared> {
        Ok(Prepared {
            committable: self.log.take(self.clock.now_micros())?.map(Bytes::from),
            ..Prepared::default()
        })
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}

/// Writes epochs; one for all subtasks.
pub struct TransactionCommitter {
    destination: Destination,
    /// The transactional id, and the group that keeps progress.
    name: String,
    session: Option<Session>,
}

impl TransactionCommitter {
    pub fn new(destination: Destination, context: &CommitterContext) -> TransactionCommitter {
        TransactionCommitter {
            name: format!("{}-{}", destination.options.transactional_id_prefix, context.sink),
            destination,
            session: None,
        }
    }
}

#[async_trait::async_trait]
impl Committer for TransactionCommitter {
    async fn commit(&mut self, epoch: Epoch, committables: Vec<Bytes>) -> Result<()> {
        let committables = std::sync::Arc::new(committables);
        let deadline = Instant::now() + OUTAGE_WAITED_OUT;
        loop {
            let attempt = Attempt {
                destination: self.destination.clone(),
                name: self.name.clone(),
                session: self.session.take(),
                epoch,
                committables: std::sync::Arc::clone(&committables),
            };
            // A job that ends meanwhile leaves this to itself: to commit twice does nothing twice.
            let (session, outcome) = tokio::task::spawn_blocking(move || attempt.run())
                .await
                .map_err(|error| Error::Internal(format!("a commit to Kafka: {error}")))?;
            self.session = session;
            match outcome {
                Err(error) if error.retry() == Retry::Backoff && Instant::now() < deadline => {
                    info!(sink = self.name, %epoch, %error, "could not commit to Kafka, trying again");
                    tokio::time::sleep(RETRY).await;
                }
                outcome => return outcome,
            }
        }
    }
}

struct Attempt {
    destination: Destination,
    name: String,
    session: Option<Session>,
    epoch: Epoch,
    committables: std::sync::Arc<Vec<Bytes>>,
}

impl Attempt {
    /// The session, if it can be used again.
    fn run(self) -> (Option<Session>, Result<()>) {
        let opened = match self.session {
            Some(session) => Ok(session),
            None => Session::open(&self.destination, &self.name),
        };
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return (None, Err(error)),
        };
        match session.commit(&self.destination.topic, self.epoch, &self.committables) {
            Ok(()) => (Some(session), Ok(())),
            // What became of the transaction is found out by the next session.
            Err(error) => (None, Err(error)),
        }
    }
}

/// A producer that owns the transactional id, until somebody else takes it.
struct Session {
    producer: BaseProducer<Listener>,
    group: ConsumerGroupMetadata,
    /// The last epoch that is in.
    last: Option<u64>,
    /// Asked for progress; the group's name is known through it.
    _consumer: BaseConsumer<Listener>,
}

impl Session {
    /// After this the former owner can write nothing, and progress is that of all its transactions.
    fn open(destination: &Destination, name: &str) -> Result<Session> {
        destination.ensure_topic()?;
        let timeout = destination.options.transaction_timeout.as_millis().to_string();
        let mut properties = destination.producer_properties();
        properties.push(("transactional.id", name.to_owned()));
        properties.push(("transaction.timeout.ms", timeout.clone()));
        // May not be longer than the transaction.
        properties.push(("message.timeout.ms", timeout));
        let own: Vec<(&str, &str)> = properties.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let producer: BaseProducer<Listener> = destination.connection.client(&own, Listener::default())?;
        producer
            .init_transactions(STEP_TIMEOUT)
            .map_err(|error| failed(&producer, "could not begin to write transactions", &error))?;
        let own = [
            ("group.id", name),
            ("isolation.level", "read_committed"),
            ("enable.auto.commit", "false"),
        ];
        let consumer: BaseConsumer<Listener> = destination.connection.client(&own, Listener::default())?;
        let last = progress(&consumer, &destination.topic)?;
        let group = consumer
            .group_metadata()
            .ok_or_else(|| Error::Internal("a consumer without a group".into()))?;
        Ok(Session {
            producer,
            group,
            last,
            _consumer: consumer,
        })
    }

    fn commit(&mut self, topic: &str, epoch: Epoch, committables: &[Bytes]) -> Result<()> {
        if self.last.is_some_and(|last| last >= epoch.0) {
            info!(topic, %epoch, "the transaction of an earlier run was committed");
            return Ok(());
        }
        if self.last.is_none() {
            check_age(topic, epoch, committables)?;
        }
        self.step("could not begin a transaction", Producer::begin_transaction)?;
        for log in committables {
            records::read(log, |record| self.send(topic, &record))?;
        }
        failed_on_purpose("kafka.before_progress")?;
        let mut position = TopicPartitionList::new();
        position
            .add_partition_offset(topic, PROGRESS_PARTITION, Offset::Offset(epoch.0 as i64))
            .map_err(|error| failed(&self.producer, "could not note the epoch", &error))?;
        let group = &self.group;
        self.step("could not note the epoch in the transaction", |producer| {
            producer.send_offsets_to_transaction(&position, group, STEP_TIMEOUT)
        })?;
        failed_on_purpose("kafka.before_commit")?;
        self.step("could not commit a transaction", |producer| {
            producer.commit_transaction(STEP_TIMEOUT)
        })?;
        failed_on_purpose("kafka.after_commit")?;
        self.last = Some(epoch.0);
        Ok(())
    }

    /// A step that may be repeated as long as the client says so.
    fn step(
        &self,
        what: &str,
        step: impl Fn(&BaseProducer<Listener>) -> std::result::Result<(), KafkaError>,
    ) -> Result<()> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            match step(&self.producer) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && Instant::now() < deadline => {
                    self.producer.poll(RETRY);
                }
                Err(error) => {
                    // Its reports say why.
                    self.producer.poll(HEARING);
                    return Err(failed(&self.producer, what, &error));
                }
            }
        }
    }

    fn send(&self, topic: &str, record: &Record) -> Result<()> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            match self.producer.send(base_record(topic, record)) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) if Instant::now() < deadline => {
                    self.producer.poll(Duration::from_millis(10));
                }
                Err((error, _)) => {
                    let what = format!("could not write to topic \"{topic}\"");
                    return Err(failed(&self.producer, &what, &error));
                }
            }
        }
    }
}

/// The epoch that the broker remembers.
fn progress(consumer: &BaseConsumer<Listener>, topic: &str) -> Result<Option<u64>> {
    let mut asked = TopicPartitionList::new();
    asked.add_partition(topic, PROGRESS_PARTITION);
    let answer = consumer
        .committed_offsets(asked, ASK_TIMEOUT)
        .map_err(|error| consumer.context().failed("could not ask which epoch is in", &error))?;
    let elements = answer.elements();
    let found = elements.first().map(|element| (element.error(), element.offset()));
    match found {
        Some((Err(error), _)) => Err(consumer.context().failed("could not ask which epoch is in", &error)),
        Some((Ok(()), Offset::Offset(epoch))) => Ok(u64::try_from(epoch).ok()),
        _ => Ok(None),
    }
}

/// That a broker knows of no epoch means that there was none, unless it may have forgotten it.
fn check_age(topic: &str, epoch: Epoch, committables: &[Bytes]) -> Result<()> {
    let now = crate::clock::SystemClock.now_micros();
    for log in committables {
        if now.saturating_sub(records::taken_at(log)?) > PROGRESS_KEPT_MICROS {
            warn!(topic, %epoch, "it cannot be told whether an epoch was written");
            return Err(Error::External {
                code: SqlState::TRANSACTION_RESOLUTION_UNKNOWN,
                message: format!(
                    "it cannot be told whether checkpoint {epoch} was written to topic \"{topic}\": it is more than a day old, and \
                     the Kafka server remembers none of this pipeline"
                ),
                hint: Some("Look at the end of the topic; then create the pipeline anew.".into()),
                retry: Retry::Never,
            });
        }
    }
    Ok(())
}

/// Another run took the transactional id over: whether it wrote the epoch is asked by the next attempt.
fn failed(producer: &BaseProducer<Listener>, what: &str, error: &KafkaError) -> Error {
    use RDKafkaErrorCode as Code;
    let fenced = matches!(
        code_of(error),
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
    );
    match producer.context().failed(what, error) {
        Error::External {
            code, message, hint, ..
        } if fenced => Error::External {
            code,
            message,
            hint,
            retry: Retry::Backoff,
        },
        other => other,
    }
}

fn failed_on_purpose(name: &str) -> Result<()> {
    failpoint::reached(name).map_err(|error| Error::External {
        code: SqlState::IO_ERROR,
        message: error.to_string(),
        hint: None,
        retry: Retry::Backoff,
    })
}

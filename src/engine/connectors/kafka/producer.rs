//! Records at once: an idempotent producer, which writes while rows come and is waited for at a checkpoint.
//!
//! Guarantee: a checkpoint is complete only when the brokers have everything that was written before it. After a crash records
//! may be there twice. While no broker can be reached records wait here, and then the rows before them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use tracing::info;

use crate::engine::connectors::kafka::destination::Destination;
use crate::engine::connectors::kafka::encode::RecordEncoder;
use crate::engine::connectors::kafka::listener::{Delivery, Listener};
use crate::engine::connectors::kafka::records::Record;
use crate::engine::connectors::{Prepared, Result, Sink, SinkContext, Wake};
use crate::engine::error::Error;
use crate::engine::message::Chunk;
use crate::error::{Report, Retry};
use crate::ids::Epoch;

/// Records that wait because the producer takes no more.
const BACKLOG_MAX: usize = 16 * 1024;
/// A wait for the brokers; between two it is looked whether the job is still there.
const WAIT: Duration = Duration::from_millis(200);
/// For the last checkpoint of a job, whose sink nobody has any more, brokers are waited for so long.
const LAST_FLUSH: Duration = Duration::from_secs(60);

pub struct DirectSink {
    encoder: RecordEncoder,
    shared: Arc<Shared>,
    /// The next checkpoint is the last.
    is_stopping: bool,
    written: u64,
}

/// What the shard, the checkpoint's work and the producer's thread share.
struct Shared {
    destination: Destination,
    producer: ThreadedProducer<Listener>,
    outcome: Arc<Outcome>,
    /// In order; only its front is handed to the producer.
    backlog: Mutex<VecDeque<Record>>,
    /// The topic is there.
    open: AtomicBool,
    /// Until when brokers are waited for; set when the sink is gone.
    until: OnceLock<Instant>,
}

/// What became of records.
struct Outcome {
    waker: Arc<dyn Wake>,
    wanted: AtomicBool,
    failed: Mutex<Option<KafkaError>>,
    arrived: AtomicU64,
}

impl Delivery for Outcome {
    fn delivered(&self, outcome: std::result::Result<(), KafkaError>) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = outcome {
            let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
            failed.get_or_insert(error);
        }
        if self.wanted.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }
}

pub fn open(destination: Destination, encoder: RecordEncoder, context: &SinkContext) -> Result<DirectSink> {
    let outcome = Arc::new(Outcome {
        waker: Arc::clone(&context.waker),
        wanted: AtomicBool::new(false),
        failed: Mutex::new(None),
        arrived: AtomicU64::new(0),
    });
    let listener = Listener::of_deliveries(Arc::clone(&outcome) as Arc<dyn Delivery>);
    let mut properties = destination.producer_properties();
    // An outage is waited out, however long.
    properties.push(("message.timeout.ms", "0".to_owned()));
    let own: Vec<(&str, &str)> = properties.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let shared = Arc::new(Shared {
        producer: destination.connection.client(&own, listener)?,
        destination,
        outcome,
        backlog: Mutex::new(VecDeque::new()),
        open: AtomicBool::new(false),
        until: OnceLock::new(),
    });
    let opening = Arc::clone(&shared);
    // Not waited for: what it finds out shows at the next checkpoint.
    drop(context.runtime.spawn_blocking(move || opening.find_topic()));
    Ok(DirectSink {
        encoder,
        shared,
        is_stopping: false,
        written: 0,
    })
}

impl Drop for DirectSink {
    fn drop(&mut self) {
        // After the last barrier the sink is gone before its work is done.
        let patience = if self.is_stopping { LAST_FLUSH } else { Duration::ZERO };
        self.shared.until.get_or_init(|| Instant::now() + patience);
    }
}

impl Shared {
    fn is_gone(&self) -> bool {
        self.until.get().is_some_and(|until| Instant::now() >= *until)
    }

    /// Makes sure that the topic is there; before that nothing is sent.
    fn find_topic(&self) {
        while !self.is_gone() {
            match self.destination.ensure_topic() {
                Ok(()) => break,
                Err(error) if error.retry() == Retry::Never => {
                    info!(%error, "a topic cannot be written to");
                    break;
                }
                Err(error) => info!(%error, "the Kafka server cannot be reached now, trying again"),
            }
            std::thread::sleep(WAIT);
        }
        // Where it is missing the producer says so of each record.
        self.open.store(true, Ordering::SeqCst);
        self.outcome.waker.wake();
    }

    /// Hands on what the producer takes; whether nothing is left.
    fn send(&self) -> Result<bool> {
        self.check()?;
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.open.load(Ordering::SeqCst) {
            return Ok(backlog.is_empty());
        }
        while let Some(record) = backlog.front() {
            match self.producer.send(base_record(&self.destination.topic, record)) {
                Ok(()) => {
                    backlog.pop_front();
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => return Ok(false),
                Err((error, _)) => return Err(self.failed(&error)),
            }
        }
        Ok(true)
    }

    fn check(&self) -> Result<()> {
        let failed = self.outcome.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.as_ref().map_or(Ok(()), |error| Err(self.failed(error)))
    }

    fn failed(&self, error: &KafkaError) -> Error {
        let what = format!("could not write to topic \"{}\"", self.destination.topic);
        self.producer.context().failed(&what, error)
    }

    /// Waits until the brokers have everything.
    fn flush(&self) -> Result<()> {
        loop {
            if self.is_gone() {
                return Err(Error::Stopped);
            }
            let sent = self.send()?;
            match self.producer.flush(WAIT) {
                Ok(()) if sent => return self.check(),
                Ok(()) => {
                    if !self.open.load(Ordering::SeqCst) {
                        std::thread::sleep(WAIT);
                    }
                }
                Err(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)) => {}
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }
}

pub fn base_record<'a>(topic: &'a str, record: &'a Record) -> BaseRecord<'a, [u8], [u8]> {
    let mut base = BaseRecord::to(topic);
    base.key = record.key.as_deref();
    base.payload = record.value.as_deref();
    base.partition = record.partition;
    base.timestamp = record.timestamp;
    if !record.headers.is_empty() {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
        for (key, value) in &record.headers {
            headers = headers.insert(Header {
                key,
                value: value.as_deref(),
            });
        }
        base.headers = Some(headers);
    }
    base
}

impl Sink for DirectSink {
    fn ready(&mut self) -> bool {
        self.shared.outcome.wanted.store(true, Ordering::SeqCst);
        // An error is told by the write that follows.
        let sent = self.shared.send();
        let backlog = self.shared.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        self.encoder.is_ready() && (sent.is_err() || backlog.len() < BACKLOG_MAX)
    }

    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        let (shared, written) = (&self.shared, &mut self.written);
        self.encoder.encode(chunk, |record| {
            *written += record.value.as_ref().map_or(0, |value| value.len() as u64);
            shared
                .backlog
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back(record);
            Ok(())
        })?;
        shared.send().map(|_| ())
    }

    fn stopping(&mut self) {
        self.is_stopping = true;
    }

    fn prepare(&mut self, _epoch: Epoch) -> Result<Prepared> {
        let shared = Arc::clone(&self.shared);
        Ok(Prepared {
            work: Some(Box::new(move || shared.flush())),
            ..Prepared::default()
        })
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}

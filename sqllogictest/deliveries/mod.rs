//! Deliveries under fire: events go from an [`Input`] to a [`Target`] while the server dies again and again, see
//! [`campaign`]; afterwards the target holds every event once.
//!
//! Each system is a file here with what it is as an input and as a target; [`DELIVERIES`] says which are joined. Deliveries of
//! results that change are beside them, in [`results_in_postgres`].

mod campaign;
mod file;
mod folder;
mod kafka;
mod postgres;
mod results_in_postgres;

use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;

use crate::Summary;
use crate::deliveries::campaign::{Campaign, rate, wait_until_finished};

pub type Result<T> = std::result::Result<T, String>;

/// Of an input that is there from the beginning.
const EVENTS: u64 = 20_000;
/// Of one that is written while servers die.
const EVENTS_A_SECOND: u64 = 400;
/// What was delivered is to be seen this long after the last event was written.
const WITHIN: Duration = Duration::from_secs(180);
/// Deaths are mostly waited for, so that several deliveries have room beside each other.
const AT_A_TIME: usize = 2;

/// Where events come from: table `events` with columns `id`, numbers from 0 on, and `payload`, text `event 0` and so on.
#[async_trait::async_trait]
pub trait Input: Send + Sync {
    /// Makes the table. What is there from the beginning is read at `rate` events a second.
    fn statement(&self, rate: u64) -> String;

    /// Failpoints of its own.
    fn places(&self) -> &'static [&'static str] {
        &[]
    }

    /// All events are there from the beginning, and the pipeline ends with them.
    fn is_bounded(&self) -> bool {
        false
    }

    /// Its rows have a key and may change.
    fn is_keyed(&self) -> bool {
        false
    }

    /// Writes events while servers die, until `stop`, and says how many there are.
    async fn write(&self, stop: Arc<AtomicBool>) -> Result<u64>;

    /// What else is to be seen once all of `events` are delivered.
    async fn check(&self, _events: u64) -> Result<()> {
        Ok(())
    }
}

/// Where they go: table `delivered`.
#[async_trait::async_trait]
pub trait Target: Send + Sync {
    fn statement(&self, keyed: bool) -> String;

    /// What is inserted of `events`.
    fn columns(&self) -> &'static str {
        "id, upper(payload) AS payload"
    }

    fn parallelism(&self) -> u32 {
        2
    }

    fn places(&self) -> &'static [&'static str] {
        &[]
    }

    /// The ids that are there, in no order, each as often as it is; and what is wrong.
    async fn ids(&self) -> Result<Ids>;

    /// What was left lying about by a pipeline that has ended.
    async fn leftovers(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

pub type Ids = Vec<Result<u64>>;

/// `Ok(None)`: a system is missing, which was said, and the test is skipped.
type Made<T> = Result<Option<Arc<T>>>;
type Outcome = Pin<Box<dyn Future<Output = Result<()>>>>;

/// Name, the program it needs besides the server, the test.
const DELIVERIES: &[(&str, Option<&str>, fn() -> Outcome)] = &[
    ("scenario/delivery_file_to_file_f_10_f_11", None, || {
        Box::pin(deliver(file::FileInput::make(), file::FileTarget::make()))
    }),
    ("scenario/delivery_file_to_folder_f_10_f_11", None, || {
        Box::pin(deliver(file::FileInput::make(), folder::Folder::make()))
    }),
    (
        "scenario/delivery_file_to_object_store_f_10_f_11",
        Some("moto_server"),
        || Box::pin(async { deliver(file::FileInput::make(), folder::ObjectStore::make().await).await }),
    ),
    ("scenario/delivery_file_to_kafka_f_10_f_11", None, || {
        Box::pin(async { deliver(file::FileInput::make(), kafka::KafkaTarget::make().await).await })
    }),
    ("scenario/delivery_kafka_to_kafka_f_10_f_11", None, || {
        Box::pin(async { deliver(kafka::KafkaInput::make().await, kafka::KafkaTarget::make().await).await })
    }),
    ("scenario/delivery_kafka_to_postgres_f_10_f_11", None, || {
        Box::pin(async { deliver(kafka::KafkaInput::make().await, postgres::PostgresTarget::make().await).await })
    }),
    (
        "scenario/delivery_kafka_to_parquet_f_10_f_11",
        Some("moto_server"),
        || Box::pin(async { deliver(kafka::KafkaInput::make().await, folder::ObjectStore::make().await).await }),
    ),
    ("scenario/delivery_postgres_to_kafka_f_10_f_11", None, || {
        Box::pin(async { deliver(postgres::PostgresInput::make().await, kafka::KafkaTarget::make().await).await })
    }),
    ("scenario/delivery_file_to_postgres_f_10_f_11", None, || {
        Box::pin(results_in_postgres::file_to_postgres())
    }),
    ("scenario/delivery_postgres_to_postgres_f_10_f_11", None, || {
        Box::pin(results_in_postgres::postgres_to_postgres())
    }),
];

pub fn names() -> Vec<String> {
    DELIVERIES.iter().map(|(name, _, _)| (*name).to_owned()).collect()
}

pub async fn run(wanted: &dyn Fn(&str) -> bool, summary: &mut Summary) {
    let mut there = Vec::new();
    for (name, needs, test) in DELIVERIES.iter().filter(|(name, _, _)| wanted(name)) {
        match needs {
            Some(program) if Command::new(program).arg("--version").output().is_err() => summary.missing(name, program),
            _ => there.push((*name, *test)),
        }
    }
    let running = there.into_iter().map(|(name, test)| async move {
        let started = Instant::now();
        // On a thread of its own: it waits for processes.
        let runtime = tokio::runtime::Handle::current();
        let joined = tokio::task::spawn_blocking(move || runtime.block_on(test())).await;
        let outcome = joined.unwrap_or_else(|error| Err(error.to_string()));
        (name, outcome, started.elapsed().as_secs_f64())
    });
    let mut ended = futures::stream::iter(running).buffer_unordered(AT_A_TIME);
    while let Some((name, outcome, seconds)) = ended.next().await {
        summary.record(name, outcome, seconds);
    }
}

async fn deliver(input: Made<impl Input + 'static>, target: Made<impl Target>) -> Result<()> {
    let (Some(input), Some(target)) = (input?, target?) else {
        return Ok(());
    };
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let places: Vec<&str> = input.places().iter().chain(target.places()).copied().collect();
    let rate = rate(EVENTS, places.len());
    let campaign = Campaign {
        data_dir: &folder.path().join("data"),
        statements: vec![
            input.statement(rate),
            target.statement(input.is_keyed()),
            format!(
                "CREATE PIPELINE delivery WITH (checkpoint_interval = '50 milliseconds', parallelism = {}) AS
                 INSERT INTO delivered SELECT {} FROM events",
                target.parallelism(),
                target.columns()
            ),
        ],
        places: &places,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let writing = crate::spawn::named("events", {
        let (input, stop) = (Arc::clone(&input), Arc::clone(&stop));
        async move { input.write(stop).await }
    });
    let server = campaign.run().await;
    stop.store(true, Ordering::SeqCst);
    let events = writing.await.map_err(|error| error.to_string())??;
    let server = server?;
    if input.is_bounded() {
        wait_until_finished(&server, "delivery").await?;
    }
    let delivered = all_delivered(target.as_ref(), events).await;
    delivered.map_err(|error| format!("{error}\n{}", server.log().join("\n")))?;
    if input.is_bounded() {
        let left = target.leftovers().await?;
        if !left.is_empty() {
            return Err(format!("left: {left:?}"));
        }
    }
    input.check(events).await?;
    println!("     {events} events, each once");
    Ok(())
}

/// Endless input, and brokers that still mark the last transactions as ended: they are waited for.
async fn all_delivered(target: &impl Target, events: u64) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let ids = target.ids().await?;
        if ids.len() as u64 >= events || Instant::now() >= deadline {
            return each_once(events, ids.into_iter());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether `ids` are the numbers below `count`, each once.
pub fn each_once(count: u64, ids: impl Iterator<Item = Result<u64>>) -> Result<()> {
    let mut seen = vec![0_u32; count as usize];
    for id in ids {
        let id = id?;
        *seen
            .get_mut(id as usize)
            .ok_or_else(|| format!("there is an event {id} of {count}"))? += 1;
    }
    let those = |wanted: fn(u32) -> bool| -> Vec<usize> {
        let matching = seen.iter().enumerate().filter(|(_, times)| wanted(**times));
        matching.map(|(id, _)| id).collect()
    };
    let (lost, doubled) = (those(|times| times == 0), those(|times| times > 1));
    if lost.is_empty() && doubled.is_empty() {
        return Ok(());
    }
    Err(format!(
        "of {count} events {} were lost ({:?} ..) and {} delivered more than once ({:?} ..)",
        lost.len(),
        &lost[..lost.len().min(5)],
        doubled.len(),
        &doubled[..doubled.len().min(5)],
    ))
}

/// The id in `{"id": 1, "payload": "EVENT 1"}`.
fn id_in(record: &[u8]) -> Result<u64> {
    let row: serde_json::Value =
        serde_json::from_slice(record).map_err(|error| format!("{error} in {}", String::from_utf8_lossy(record)))?;
    match row["id"].as_u64() {
        Some(id) if row["payload"] == format!("EVENT {id}") => Ok(id),
        _ => Err(format!("not an event: {row}")),
    }
}

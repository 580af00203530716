//! A pipeline goes on while the server dies again and again between two steps of a checkpoint, and at random; afterwards the
//! target holds every row once.
//!
//! A [`Campaign`] says what is delivered from where to where. The places to die at are those of every sink's commit ([`PLACES`],
//! see `src/failpoint.rs`) and what the campaign adds; each is hit, or the campaign fails, also when input ends too early.
//!
//! `LAMINAR_TEST_KILLS` makes campaigns longer or shorter, `LAMINAR_TEST_SEED` repeats one.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::server_process::{ServerProcess, describe};

/// Between any two of them something can be done that the other side does not know of.
const PLACES: &[&str] = &[
    "checkpoint.before_write",
    "checkpoint.before_decide",
    "sink.after_prepare",
    "sink.before_commit",
    "sink.after_commit",
    "checkpoint.after_mark",
];

const KILLS: u64 = 30;
/// The server dies at one of the first passes through a place.
const PASSES_MAX: u64 = 3;
/// A life that is ended at random lasts up to this long after the server is ready.
const LIFE_MAX_MS: u64 = 800;
/// A failpoint that is not reached by then never is: no checkpoint is taken any more.
const REACHED_WITHIN: Duration = Duration::from_secs(30);

/// How long a life is on average, for the rate of inputs that have to outlast the kills.
const LIFE_SECONDS: f64 = 0.5;

/// What is delivered.
pub struct Campaign<'a> {
    /// Of the server.
    pub data_dir: &'a Path,
    /// Make connections, tables and pipelines, these with short checkpoint intervals.
    pub statements: Vec<String>,
    /// Places to die at besides [`PLACES`], in the sink's committer or the source.
    pub places: &'a [&'a str],
}

/// Of a campaign that dies at so many places besides [`PLACES`].
fn kills(further_places: usize) -> u64 {
    let setting = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let wanted: u64 = setting("LAMINAR_TEST_KILLS").unwrap_or(KILLS);
    wanted.max(2 * (PLACES.len() + further_places) as u64)
}

/// Events a second at which `events` outlast the kills of a campaign that dies at so many places besides [`PLACES`].
pub fn rate(events: u64, further_places: usize) -> u64 {
    ((events as f64 / (LIFE_SECONDS * kills(further_places) as f64)) as u64).max(1)
}

impl Campaign<'_> {
    /// Starts the pipeline and kills the server; gives the server of the last life, in which nothing dies any more. The
    /// caller waits until everything is delivered, and looks.
    pub async fn run(&self) -> Result<ServerProcess, String> {
        let seed = std::env::var("LAMINAR_TEST_SEED")
            .ok()
            .and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("     {} kills, seed {seed}", kills(self.places.len()));
        let mut random = StdRng::seed_from_u64(seed);
        self.create().await?;
        let places: Vec<&str> = PLACES.iter().chain(self.places).copied().collect();
        let mut deaths: BTreeMap<&str, u64> = BTreeMap::new();
        for kill in 0..kills(self.places.len()) {
            // In order, so that each has its turn; every other death is at random, as there are places that nobody has named.
            let place = places[(kill / 2) as usize % places.len()];
            if kill % 2 == 0 {
                self.die_at(place, random.random_range(1..=PASSES_MAX))?;
                *deaths.entry(place).or_default() += 1;
            } else {
                self.die_after(random.random_range(0..LIFE_MAX_MS)).await?;
                *deaths.entry("at random").or_default() += 1;
            }
        }
        println!("     died {deaths:?}");
        if let Some(place) = places.iter().find(|place| !deaths.contains_key(*place)) {
            return Err(format!("nobody died at {place}"));
        }
        ServerProcess::start(self.data_dir, &[])
    }

    async fn create(&self) -> Result<(), String> {
        let server = ServerProcess::start(self.data_dir, &[])?;
        let client = server.connect().await?;
        for statement in &self.statements {
            let done = client.simple_query(statement).await;
            done.map_err(|error| format!("{}\nin {statement}", describe(&error)))?;
        }
        Ok(())
    }

    fn die_at(&self, place: &str, pass: u64) -> Result<(), String> {
        ServerProcess::start_doomed(self.data_dir, &format!("{place}=kill@{pass}"), REACHED_WITHIN)
            .map_err(|error| format!("to die at pass {pass} of {place}: {error}"))
    }

    async fn die_after(&self, millis: u64) -> Result<(), String> {
        let mut server = ServerProcess::start(self.data_dir, &[])?;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        server.kill();
        Ok(())
    }
}

pub async fn wait_until_finished(server: &ServerProcess, pipeline: &str) -> Result<(), String> {
    let client = server.connect().await?;
    let waited = client
        .simple_query(&format!("WAIT FOR PIPELINE {pipeline} FINISHED"))
        .await;
    waited.map_err(|error| format!("{}\n{}", describe(&error), server.log().join("\n")))?;
    Ok(())
}

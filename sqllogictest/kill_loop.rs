//! kill -9, again and again: a file of a million events goes through a tumbling and an updating aggregate into files while
//! the server is killed at random times. At the end the files hold what one batch query over the same rows gives:
//! no row lost, none doubled.
//!
//! `LAMINAR_TEST_KILLS` and `LAMINAR_TEST_EVENTS` make the loop longer or shorter, `LAMINAR_TEST_SEED` repeats a run.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use datafusion::arrow::array::{Array, AsArray};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::prelude::{JsonReadOptions, SessionContext};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::server_process::{ServerProcess, describe};

const KILLS: u64 = 100;
const EVENTS: u64 = 1_000_000;
const KEYS: u64 = 1_000;
/// A life of the server lasts up to this long after it is ready.
const LIFE_MAX_MS: u64 = 1_200;
/// Slow enough that the input outlasts the kills.
const EVENTS_PER_SECOND: u64 = 13_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

pub async fn run() -> Result<(), String> {
    let kills = setting("LAMINAR_TEST_KILLS", KILLS);
    let events = setting("LAMINAR_TEST_EVENTS", EVENTS);
    let seed = setting("LAMINAR_TEST_SEED", u64::from(std::process::id()));
    println!("     kill loop: {kills} kills, {events} events, seed {seed}");
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let input = folder.path().join("events.json");
    write_events(&input, events).map_err(|error| error.to_string())?;
    let data_dir = folder.path().join("data");

    let mut server = ServerProcess::start(&data_dir, &[])?;
    create(&server, folder.path(), events, kills).await?;
    let mut random = StdRng::seed_from_u64(seed);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..LIFE_MAX_MS))).await;
        server.kill();
        server = ServerProcess::start(&data_dir, &[]).map_err(|error| format!("start after kill {kill}: {error}"))?;
    }
    let client = server.connect().await?;
    let state = state_of(&client).await?;
    if state == "Finished" && std::env::var_os("LAMINAR_TEST_EVENTS").is_none() {
        return Err(format!(
            "the input ended before the last of {kills} kills: the loop proves less than it says"
        ));
    }
    client
        .simple_query("WAIT FOR PIPELINE killed FINISHED")
        .await
        .map_err(|error| format!("{}\n{}", describe(&error), server.log().join("\n")))?;
    let expected = batch_results(&input).await.map_err(|error| error.to_string())?;
    compare(
        "windows",
        &read_windows(&folder.path().join("windows.json"))?,
        &expected.windows,
    )?;
    compare(
        "totals",
        &fold_totals(&folder.path().join("totals.json"))?,
        &expected.totals,
    )?;
    println!(
        "     kill loop: {kills} kills, {} windows and {} totals equal to the batch result",
        expected.windows.len(),
        expected.totals.len()
    );
    Ok(())
}

/// Deterministic events: a sequence number, a key that spreads unevenly, a value, a time that is out of order within two
/// seconds.
fn write_events(path: &Path, events: u64) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for sequence in 0..events {
        let mixed = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let key = (mixed % KEYS).min(mixed / KEYS % KEYS);
        let value = (mixed % 1_999) as i64 - 999;
        let millis = sequence * 10 + mixed % 2_000;
        let (seconds, fraction) = (millis / 1000, millis % 1000);
        writeln!(
            file,
            "{{\"seq\":{sequence},\"key\":{key},\"value\":{value},\"ts\":\"2026-01-{:02}T{:02}:{:02}:{:02}.{fraction:03}\"}}",
            1 + seconds / 86_400,
            seconds / 3600 % 24,
            seconds / 60 % 60,
            seconds % 60,
        )?;
    }
    file.flush()
}

async fn create(server: &ServerProcess, folder: &Path, events: u64, kills: u64) -> Result<(), String> {
    let client = server.connect().await?;
    let folder = folder.display();
    // Shorter loops get proportionally faster input.
    let rate = (EVENTS_PER_SECOND * events * KILLS / (EVENTS * kills.max(1))).max(1);
    let statements = [
        format!(
            "CREATE TABLE events (seq BIGINT, key BIGINT, value BIGINT, ts TIMESTAMP,
                 WATERMARK FOR ts AS (ts - INTERVAL '5 seconds'))
             WITH (connector = 'single_file', path = '{folder}/events.json', format = 'json', rate = {rate})"
        ),
        format!(
            "CREATE TABLE windows WITH (connector = 'single_file', path = '{folder}/windows.json', format = 'json', type = 'sink')"
        ),
        format!(
            "CREATE TABLE totals WITH (connector = 'single_file', path = '{folder}/totals.json', format = 'debezium_json', type = 'sink')"
        ),
        "CREATE PIPELINE killed WITH (checkpoint_interval = '100 milliseconds') AS BEGIN
             INSERT INTO windows
             SELECT key, window.start AS window_start, events, total
             FROM (SELECT key, TUMBLE(INTERVAL '10 seconds') AS window, count(*) AS events, sum(value) AS total
                   FROM events GROUP BY key, window);
             INSERT INTO totals
             SELECT key, count(*) AS events, sum(value) AS total, max(value) AS greatest FROM events GROUP BY key;
         END"
        .to_owned(),
    ];
    for statement in statements {
        client
            .simple_query(&statement)
            .await
            .map_err(|error| format!("{}\nin {statement}", describe(&error)))?;
    }
    Ok(())
}

async fn state_of(client: &tokio_postgres::Client) -> Result<String, String> {
    let row = client
        .query_one("SELECT state FROM laminar.pipelines WHERE name = 'killed'", &[])
        .await
        .map_err(|error| describe(&error))?;
    row.try_get(0).map_err(|error| error.to_string())
}

type Rows = BTreeMap<String, i64>;

struct Expected {
    /// Each row as text, with how often it occurs.
    windows: Rows,
    totals: Rows,
}

/// The same queries in DataFusion over the same file.
async fn batch_results(input: &Path) -> datafusion::error::Result<Expected> {
    let context = SessionContext::new();
    context
        .register_json("events", &input.to_string_lossy(), JsonReadOptions::default())
        .await?;
    let windows = "SELECT key, CAST(date_trunc('second', date_bin(INTERVAL '10 seconds', CAST(ts AS TIMESTAMP),
                       TIMESTAMP '1970-01-01T00:00:00')) AS BIGINT) / 1000000000 AS start, count(*), sum(value)
                   FROM events GROUP BY 1, 2";
    let totals = "SELECT key, count(*), sum(value), max(value) FROM events GROUP BY key";
    Ok(Expected {
        windows: collect(&context, windows).await?,
        totals: collect(&context, totals).await?,
    })
}

async fn collect(context: &SessionContext, sql: &str) -> datafusion::error::Result<Rows> {
    let mut rows = Rows::new();
    for batch in context.sql(sql).await?.collect().await? {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| column.as_primitive::<Int64Type>())
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns
                .iter()
                .map(|c| {
                    if c.is_null(row) {
                        "null".into()
                    } else {
                        c.value(row).to_string()
                    }
                })
                .collect();
            *rows.entry(values.join(",")).or_default() += 1;
        }
    }
    Ok(rows)
}

fn lines(path: &Path) -> Result<Vec<serde_json::Value>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).map_err(|error| format!("{}: {error} in {line}", path.display())))
        .collect()
}

fn read_windows(path: &Path) -> Result<Rows, String> {
    let mut rows = Rows::new();
    for line in lines(path)? {
        let start = line["window_start"]
            .as_str()
            .ok_or_else(|| format!("no window_start in {line}"))?;
        let text = format!(
            "{},{},{},{}",
            line["key"],
            epoch_seconds(start)?,
            line["events"],
            line["total"]
        );
        *rows.entry(text).or_default() += 1;
    }
    Ok(rows)
}

/// Applies every change in order; a change that takes away what is not there is an error of its own.
fn fold_totals(path: &Path) -> Result<Rows, String> {
    let mut rows = Rows::new();
    for line in lines(path)? {
        let text = |image: &serde_json::Value| {
            format!(
                "{},{},{},{}",
                image["key"], image["events"], image["total"], image["greatest"]
            )
        };
        if !line["before"].is_null() {
            let before = text(&line["before"]);
            match rows.remove(&before) {
                Some(1) => {}
                Some(count) => return Err(format!("row {before} was there {count} times")),
                None => return Err(format!("a change takes away {before}, which is not there: {line}")),
            }
        }
        if !line["after"].is_null() {
            *rows.entry(text(&line["after"])).or_default() += 1;
        }
    }
    Ok(rows)
}

fn epoch_seconds(text: &str) -> Result<i64, String> {
    let text = text.trim_end_matches('Z').replace(' ', "T");
    chrono::NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f")
        .map(|time| time.and_utc().timestamp())
        .map_err(|error| format!("{text}: {error}"))
}

fn compare(what: &str, actual: &Rows, expected: &Rows) -> Result<(), String> {
    let lost: Vec<_> = expected
        .iter()
        .filter(|(row, count)| actual.get(*row).unwrap_or(&0) < count)
        .collect();
    let doubled: Vec<_> = actual
        .iter()
        .filter(|(row, count)| expected.get(*row).unwrap_or(&0) < count)
        .collect();
    if lost.is_empty() && doubled.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{what}: {} rows lost, {} doubled or wrong of {}\nlost: {:?}\ndoubled or wrong: {:?}",
        lost.len(),
        doubled.len(),
        expected.len(),
        lost.iter().take(5).collect::<Vec<_>>(),
        doubled.iter().take(5).collect::<Vec<_>>()
    ))
}

//! Every query as a pipeline of the real server, its kept result compared row by row with a batch over the same events.
//!
//! The batch is a SELECT over the kept events, which the batch engine answers. Both speeds of event time, parallelism 1 and 2.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use tokio_postgres::Client;

use crate::SEED;
use crate::common::{Outcome, connect, start};
use crate::queries;

const RATES: [u64; 2] = [100_000, 10_000_000];

pub async fn run(events: u64, only: Option<u32>) -> Outcome<()> {
    let mut different = 0;
    for rate in RATES {
        let folder = tempfile::tempdir()?;
        let server = start(folder.path(), 2)?;
        let client = connect(server.port).await?;
        prepare(&client, events, rate).await?;
        println!("{events} events, {rate} a second of event time");
        for number in (0..queries::COUNT).filter(|&number| only.is_none_or(|only| only == number)) {
            different += check(&client, number).await?;
        }
    }
    match different {
        0 => Ok(()),
        _ => Err(format!("{different} results differ from the batch's").into()),
    }
}

/// The events as a table, and kept; the views over either, in schemas of the same names.
async fn prepare(client: &Client, events: u64, rate: u64) -> Outcome<()> {
    let options = format!("connector = 'nexmark', events = {events}, seed = {SEED}, first_event_rate = {rate}");
    client
        .batch_execute(&format!(
            "CREATE TABLE nexmark WITH ({options});
             CREATE TABLE nexmark_by_arrival WITH ({options}, event_time = 'processing');
             CREATE SCHEMA kept;
             CREATE PIPELINE kept.nexmark AS SELECT * FROM public.nexmark;
             WAIT FOR PIPELINE kept.nexmark FINISHED"
        ))
        .await?;
    for schema in ["public", "kept"] {
        client.batch_execute(&format!("SET search_path = {schema}")).await?;
        for view in ["person", "auction", "bid", "side_input"] {
            let text = queries::text_of(&format!("{view}.sql"))?;
            client.batch_execute(&format!("CREATE VIEW {view} AS {text}")).await?;
        }
    }
    let by_arrival = queries::text_of("bid_by_arrival.sql")?;
    let text = format!("SET search_path = public; CREATE VIEW bid_by_arrival AS {by_arrival}");
    Ok(client.batch_execute(&text).await?)
}

/// How many of the results differ.
async fn check(client: &Client, number: u32) -> Outcome<u32> {
    let query = queries::query(number)?;
    client.batch_execute("SET search_path = kept").await?;
    let expected = rows(client, &query.batch).await?;
    let count: i64 = expected.values().sum();
    client.batch_execute("SET search_path = public").await?;
    let mut different = 0;
    for parallelism in [1, 2] {
        client
            .batch_execute(&format!(
                "CREATE PIPELINE answer WITH (parallelism = {parallelism}, checkpoint_interval = '1 second') AS {}",
                query.stream
            ))
            .await?;
        client.batch_execute("WAIT FOR PIPELINE answer FINISHED").await?;
        let answer = rows(client, "SELECT * FROM answer").await?;
        client.batch_execute("DROP PIPELINE answer").await?;
        match first_difference(&answer, &expected) {
            None => println!("q{number:<4} parallelism {parallelism}: {count} rows, equal"),
            Some(difference) => {
                println!("q{number:<4} parallelism {parallelism}: {difference}");
                different += 1;
            }
        }
    }
    Ok(different)
}

/// The rows of a query as text, and how often each comes.
async fn rows(client: &Client, query: &str) -> Outcome<BTreeMap<String, i64>> {
    let copied = client.copy_out(&format!("COPY ({query}) TO STDOUT")).await?;
    let parts: Vec<Bytes> = copied.try_collect().await?;
    let text = String::from_utf8(parts.concat())?;
    let mut rows = BTreeMap::new();
    for line in text.lines() {
        *rows.entry(rounded(line)).or_insert(0) += 1;
    }
    Ok(rows)
}

/// Sums of doubles depend on their order in the last digits.
fn rounded(line: &str) -> String {
    let field = |field: &str| match field.parse::<f64>() {
        Ok(number) if field.contains('.') => format!("{number:.9e}"),
        _ => field.to_owned(),
    };
    line.split('\t').map(field).collect::<Vec<_>>().join("\t")
}

fn first_difference(answer: &BTreeMap<String, i64>, expected: &BTreeMap<String, i64>) -> Option<String> {
    let wrong = |(row, count): &(&String, &i64)| expected.get(*row) != Some(count);
    if let Some((row, count)) = answer.iter().find(wrong) {
        let right = expected.get(row).copied().unwrap_or(0);
        return Some(format!("a row came {count} times instead of {right}: {row}"));
    }
    let missing = expected.keys().find(|row| !answer.contains_key(*row))?;
    Some(format!("a row is missing: {missing}"))
}

//! Results that change, in a real Postgres: counts of events by key, and a copy of accounts between which money is moved.

use tokio_postgres::Client;

use crate::deliveries::campaign::{Campaign, rate, wait_until_finished};
use crate::deliveries::file::{events_in, write_events};
use crate::deliveries::postgres::{Outside, SINK_PLACES, SOURCE_PLACES, connect, execute, ids_of};
use crate::deliveries::{Result, each_once};

const INPUT_SECONDS_MIN: u64 = 30;

/// From a file: every event into a table without a key, and how many there are of each kind, which changes all the time, by key.
pub async fn file_to_postgres() -> Result<()> {
    let tables = "CREATE TABLE delivered (id int8, payload text); CREATE TABLE kinds (kind int8 PRIMARY KEY, events int8, last int8)";
    let Some(Outside { url, client, .. }) = &Outside::start(tables).await? else {
        return Ok(());
    };
    let events = 9_000;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    write_events(&folder.path().join("events.json"), events).map_err(|error| error.to_string())?;
    let options = "checkpoint_interval = '50 milliseconds'";
    let campaign = Campaign {
        data_dir: &folder.path().join("data"),
        statements: vec![
            format!("CREATE CONNECTION outside WITH (connector = 'postgres', url = '{url}')"),
            events_in(
                folder.path(),
                // Two deaths at each place take at least this long, however few kills are asked for.
                rate(events, SINK_PLACES.len()).min(events / INPUT_SECONDS_MIN)
            ),
            "CREATE TABLE delivered (id BIGINT, payload TEXT) WITH (connection = outside, table = 'delivered')".to_owned(),
            "CREATE TABLE kinds (kind BIGINT PRIMARY KEY, events BIGINT, last BIGINT) WITH (connection = outside, table = 'kinds')"
                .to_owned(),
            format!(
                "CREATE PIPELINE delivery WITH ({options}) AS INSERT INTO delivered SELECT id, upper(payload) FROM events"
            ),
            format!(
                "CREATE PIPELINE counts WITH ({options}) AS
                 INSERT INTO kinds SELECT id % 7 AS kind, count(*), max(id) FROM events WHERE id % 7 <> 3 GROUP BY 1"
            ),
        ],
        places: SINK_PLACES,
    };
    let server = campaign.run().await?;
    for pipeline in ["delivery", "counts"] {
        wait_until_finished(&server, pipeline).await?;
    }
    let ids = ids_of(client, "SELECT id FROM delivered").await?;
    each_once(events, ids.into_iter())?;
    let wrong = "SELECT coalesce(k.kind, w.kind) FROM kinds k
         FULL JOIN (SELECT id % 7 AS kind, count(*) AS events, max(id) AS last FROM delivered WHERE id % 7 <> 3 GROUP BY 1) w
         USING (kind, events, last) WHERE k.kind IS NULL OR w.kind IS NULL";
    let wrong = ids_of(client, wrong).await?;
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(format!("the counts of kinds {wrong:?} are wrong")),
    }
}

/// From one table to another: every change of accounts between which money is moved all the time arrives there.
pub async fn postgres_to_postgres() -> Result<()> {
    let tables = "CREATE TABLE accounts (id int8 PRIMARY KEY, balance int8, moves int8);
         INSERT INTO accounts SELECT n, 100, 0 FROM generate_series(0, 99) AS n;
         CREATE TABLE copies (id int8 PRIMARY KEY, balance int8, moves int8)";
    let Some(Outside { url, client, .. }) = &Outside::start(tables).await? else {
        return Ok(());
    };
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let places: Vec<&str> = SINK_PLACES.iter().chain(SOURCE_PLACES).copied().collect();
    let campaign = Campaign {
        data_dir: &folder.path().join("data"),
        statements: vec![
            format!("CREATE CONNECTION outside WITH (connector = 'postgres', url = '{url}')"),
            "CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT, moves BIGINT)
             WITH (connection = outside, table = 'accounts', mode = 'cdc', poll_interval = '20 milliseconds')"
                .to_owned(),
            "CREATE TABLE copies (id BIGINT PRIMARY KEY, balance BIGINT, moves BIGINT) WITH (connection = outside, table = 'copies')"
                .to_owned(),
            "CREATE PIPELINE copying WITH (checkpoint_interval = '50 milliseconds') AS INSERT INTO copies SELECT * FROM accounts"
                .to_owned(),
        ],
        places: &places,
    };
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mover = crate::spawn::named("money", move_money(connect(url).await?, stopped));
    let server = campaign.run().await;
    // The sender is dropped only here, so somebody listens.
    let _ = stop.send(true);
    let moved = mover.await.map_err(|error| error.to_string())??;
    let _server = server?;
    println!("     {moved} transactions");
    wait_until_equal(client).await
}

/// Every transaction takes from one account and gives to another; some accounts are closed and opened again.
async fn move_money(client: Client, stopped: tokio::sync::watch::Receiver<bool>) -> Result<u64> {
    let mut moved = 0_u64;
    while !*stopped.borrow() {
        let (from, to) = (moved * 7 % 100, moved * 13 % 100);
        let mut sql = format!(
            "BEGIN; UPDATE accounts SET balance = balance - 1, moves = moves + 1 WHERE id = {from};
             UPDATE accounts SET balance = balance + 1, moves = moves + 1 WHERE id = {to}; COMMIT;"
        );
        if moved.is_multiple_of(10) {
            let new = 1000 + moved;
            sql.push_str(&format!(
                "UPDATE accounts SET id = {new} WHERE id = {from}; DELETE FROM accounts WHERE id = {};
                 INSERT INTO accounts VALUES ({from}, 50, 0) ON CONFLICT DO NOTHING",
                new - 200
            ));
        }
        execute(&client, &sql).await?;
        moved += 1;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    Ok(moved)
}

/// Nothing is written any more: what is missing arrives, and then nothing is left over.
async fn wait_until_equal(outside: &Client) -> Result<()> {
    let wrong = "SELECT coalesce(a.id, c.id) FROM accounts a FULL JOIN copies c USING (id, balance, moves)
         WHERE a.id IS NULL OR c.id IS NULL";
    let mut found = Vec::new();
    for _ in 0..ATTEMPTS {
        found = ids_of(outside, wrong).await?;
        if found.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    Err(format!("accounts {found:?} are not copied right"))
}

/// A minute.
const ATTEMPTS: u32 = 600;

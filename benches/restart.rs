//! How long a killed server takes until a pipeline with much state goes on.
//!
//! An updating count by key grows to the wanted state, is killed with -9 after a checkpoint and started again; the time is from
//! the start of the process until the restored pipeline has committed its first new epoch. See README.md.

mod common;

use std::time::{Duration, Instant};

use common::{Outcome, argument, connect, resident_mib, start};
use tokio_postgres::Client;

fn main() -> Outcome<()> {
    let groups = argument("--groups").unwrap_or(700_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(groups))
}

async fn run(groups: u64) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let mut server = start(folder.path(), 1)?;
    println!("first start: ready in {}", server.ready_in);
    let client = connect(server.port).await?;
    client
        .batch_execute(&format!(
            "CREATE TABLE events WITH (connector = 'impulse');
             CREATE PIPELINE counted WITH (checkpoint_interval = '200 ms') AS
             SELECT counter % {groups} AS key, count(*) AS events, max(counter) AS last FROM events GROUP BY counter % {groups}"
        ))
        .await?;
    let state = wait_for_state(&client, groups).await?;
    server.child.kill()?;
    server.child.wait()?;
    for round in 1..=3 {
        let started = Instant::now();
        server = start(folder.path(), 1)?;
        let ready = started.elapsed();
        let client = connect(server.port).await?;
        let before = epoch(&client).await?;
        client.batch_execute("WAIT FOR PIPELINE counted RUNNING").await?;
        let running = started.elapsed();
        while epoch(&client).await? <= before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!(
            "restart {round}: {groups} groups, {:.0} MB of state: ready in {:.0} ms, restored and running after {:.0} ms, first new \
             epoch after {:.0} ms, peak {} MiB",
            state as f64 / 1e6,
            ready.as_secs_f64() * 1e3,
            running.as_secs_f64() * 1e3,
            started.elapsed().as_secs_f64() * 1e3,
            resident_mib(server.child.id())
        );
        server.child.kill()?;
        server.child.wait()?;
    }
    Ok(())
}

async fn epoch(client: &Client) -> Outcome<i64> {
    let row = client
        .query_one(
            "SELECT coalesce(max(epoch), 0)::bigint FROM laminar.checkpoints WHERE pipeline = 'counted'",
            &[],
        )
        .await?;
    Ok(row.get(0))
}

/// Until a checkpoint holds every group; gives the bytes of state.
async fn wait_for_state(client: &Client, groups: u64) -> Outcome<i64> {
    loop {
        let row = client
            .query_one(
                "SELECT coalesce(max(state_rows), 0)::bigint FROM laminar.checkpoints WHERE pipeline = 'counted'",
                &[],
            )
            .await?;
        if row.get::<_, i64>(0) >= groups as i64 {
            let row = client
                .query_one(
                    "SELECT coalesce(sum(state_bytes), 0)::bigint FROM laminar.operators WHERE pipeline = 'counted'",
                    &[],
                )
                .await?;
            return Ok(row.get(0));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

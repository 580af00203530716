//! Tables of a real Postgres: events that are inserted all the time and read as changes, and events that are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use crate::deliveries::{EVENTS_A_SECOND, Ids, Input, Made, Result, Target};
use crate::postgres_server::TestPostgres;
use crate::server_process::describe;

/// In the committer of a sink.
pub const SINK_PLACES: &[&str] = &["postgres_sink.before_commit", "postgres_sink.after_commit"];
/// In the reader of changes.
pub const SOURCE_PLACES: &[&str] = &["postgres_source.before_confirm"];

/// A server with a database of the test's own.
pub struct Outside {
    pub url: String,
    pub client: Client,
    _server: TestPostgres,
}

impl Outside {
    /// With what `sql` makes.
    pub async fn start(sql: &str) -> Result<Option<Outside>> {
        let Some(server) = TestPostgres::start().await else {
            return Ok(None);
        };
        let url = server.new_database().await;
        let client = connect(&url).await?;
        execute(&client, sql).await?;
        Ok(Some(Outside {
            url,
            client,
            _server: server,
        }))
    }
}

pub struct PostgresInput(Outside);

impl PostgresInput {
    pub async fn make() -> Made<PostgresInput> {
        let outside = Outside::start("CREATE TABLE events (id int8 PRIMARY KEY, payload text)").await?;
        Ok(outside.map(|outside| Arc::new(PostgresInput(outside))))
    }
}

#[async_trait::async_trait]
impl Input for PostgresInput {
    fn statement(&self, _rate: u64) -> String {
        format!(
            "CREATE TABLE events (id BIGINT PRIMARY KEY, payload TEXT)
             WITH (connector = 'postgres', url = '{}', table = 'events', mode = 'cdc', poll_interval = '20 milliseconds')",
            self.0.url
        )
    }

    fn places(&self) -> &'static [&'static str] {
        SOURCE_PLACES
    }

    fn is_keyed(&self) -> bool {
        true
    }

    async fn write(&self, stop: Arc<AtomicBool>) -> Result<u64> {
        let step = 20;
        let mut events = 0;
        while !stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            let sql = format!(
                "INSERT INTO events SELECT id, 'event ' || id FROM generate_series({events}, {}) AS id",
                events + step - 1
            );
            execute(&self.0.client, &sql).await?;
            events += step;
            let pause = Duration::from_secs_f64(step as f64 / EVENTS_A_SECOND as f64);
            tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
        }
        Ok(events)
    }
}

pub struct PostgresTarget(Outside);

impl PostgresTarget {
    pub async fn make() -> Made<PostgresTarget> {
        let outside = Outside::start("CREATE TABLE delivered (id int8, payload text)").await?;
        Ok(outside.map(|outside| Arc::new(PostgresTarget(outside))))
    }
}

#[async_trait::async_trait]
impl Target for PostgresTarget {
    fn statement(&self, _keyed: bool) -> String {
        format!(
            "CREATE TABLE delivered (id BIGINT, payload TEXT) WITH (connector = 'postgres', url = '{}', table = 'delivered')",
            self.0.url
        )
    }

    fn places(&self) -> &'static [&'static str] {
        SINK_PLACES
    }

    async fn ids(&self) -> Result<Ids> {
        ids_of(
            &self.0.client,
            "SELECT id FROM delivered WHERE payload = 'EVENT ' || id",
        )
        .await
    }
}

pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .map_err(|error| describe(&error))?;
    crate::spawn::named("connection to the Postgres outside", async {
        // It ends with the client, or with the server at the end of the test.
        let _ = connection.await;
    });
    Ok(client)
}

pub async fn execute(client: &Client, sql: &str) -> Result<()> {
    client
        .batch_execute(sql)
        .await
        .map_err(|error| format!("{}\nin {sql}", describe(&error)))
}

pub async fn ids_of(client: &Client, sql: &str) -> Result<Ids> {
    let rows = client.query(sql, &[]).await.map_err(|error| describe(&error))?;
    let id = |row: &tokio_postgres::Row| {
        let id: i64 = row.try_get(0).map_err(|error| error.to_string())?;
        u64::try_from(id).map_err(|error| error.to_string())
    };
    Ok(rows.iter().map(id).collect())
}

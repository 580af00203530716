//! What pipelines keep in the systems outside goes with them: slots and notes of a real Postgres, files that are not published.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use crate::postgres_server::TestPostgres;
use crate::scenarios::execute;
use crate::server_process::{ServerProcess, describe};

type Outcome<T = ()> = Result<T, String>;

const WITHIN: Duration = Duration::from_secs(60);

/// DROP, CASCADE and CREATE OR REPLACE remove what nobody uses any more and nothing else; what cannot be removed is told.
pub async fn dropped_pipelines_leave_nothing_outside() -> Outcome {
    let Some(mut postgres) = TestPostgres::start().await else {
        return Ok(());
    };
    let url = postgres.new_database().await;
    let (outside, _) = connect(&url).await?;
    let made = "CREATE TABLE events (id int8 PRIMARY KEY); CREATE TABLE copies (id int8 PRIMARY KEY);
                INSERT INTO events SELECT generate_series(1, 100)";
    outside_of(&outside, made).await?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let server = ServerProcess::start(&folder.path().join("data"), &[])?;
    let files = folder.path().join("files");
    execute(
        &server,
        &statements(&url, &files).iter().map(String::as_str).collect::<Vec<_>>(),
    )
    .await?;
    let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND NOT temporary";
    let notes = "SELECT count(*) FROM laminar_commits";
    until(&outside, "SELECT count(*) FROM copies", "100").await?;
    until(&outside, slots, "2").await?;
    wait_for("staged files", || hidden(&files) > 0).await?;

    // A new definition of the same sources and sinks goes on with what there is.
    let again =
        "CREATE OR REPLACE PIPELINE copying WITH (checkpoint_interval = '100 milliseconds', rebuild = 'anyway') AS
                 INSERT INTO copies SELECT id FROM events WHERE id > 0";
    execute(&server, &[again]).await?;
    outside_of(&outside, "INSERT INTO events VALUES (101)").await?;
    until(&outside, "SELECT count(*) FROM copies", "101").await?;
    until(&outside, slots, "2").await?;
    until(&outside, notes, "1").await?;
    // One without the sink needs no note of it.
    let kept = "CREATE OR REPLACE PIPELINE copying WITH (checkpoint_interval = '100 milliseconds', rebuild = 'anyway') AS SELECT id FROM events";
    execute(&server, &[kept]).await?;
    until(&outside, notes, "0").await?;
    until(&outside, slots, "2").await?;

    let published = published(&files);
    execute(&server, &["DROP PIPELINE archiving"]).await?;
    expect("hidden files", hidden(&files), 0)?;
    expect("published files", self::published(&files), published)?;
    until(&outside, slots, "1").await?;
    execute(&server, &["DROP TABLE events CASCADE"]).await?;
    until(&outside, slots, "0").await?;

    // While the server outside is away.
    execute(
        &server,
        &statements(&url, &files)[..1]
            .iter()
            .map(String::as_str)
            .collect::<Vec<_>>(),
    )
    .await?;
    execute(
        &server,
        &["CREATE PIPELINE counting AS SELECT count(*) AS n FROM events"],
    )
    .await?;
    until(&outside, slots, "1").await?;
    let (client, mut notices) = connect(&server.connection_string()).await?;
    if !postgres.stop().await {
        return Ok(());
    }
    outside_of(&client, "DROP PIPELINE counting").await?;
    let told = notices.recv().await.ok_or("nothing was told")?;
    let hint = told.hint().unwrap_or_default().to_owned();
    let by_hand = hint
        .split("there: ")
        .nth(1)
        .unwrap_or_default()
        .trim_end_matches('.')
        .to_owned();
    if told.severity() != "WARNING" || !told.message().contains("replication slot \"laminar_") || by_hand.is_empty() {
        return Err(format!("unclear: {} {told:?}", told.severity()));
    }
    postgres.start_again().await;
    let (outside, _) = connect(&url).await?;
    until(&outside, slots, "1").await?;
    outside_of(&outside, &by_hand).await?;
    until(&outside, slots, "0").await
}

fn statements(url: &str, files: &Path) -> [String; 5] {
    let postgres = |declared: &str, options: &str| {
        format!(
            "CREATE TABLE {declared} (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = '{url}', {options})"
        )
    };
    [
        postgres("events", "table = 'events', mode = 'cdc', poll_interval = '20 milliseconds'"),
        postgres("copies", "table = 'copies', type = 'sink'"),
        format!(
            "CREATE TABLE archive (id BIGINT) WITH (connector = 'filesystem', path = '{}', format = 'debezium_json', type = 'sink',
                 rollover_size = '1 GB', rollover_interval = '1 hour')",
            files.display()
        ),
        "CREATE PIPELINE copying WITH (checkpoint_interval = '100 milliseconds') AS INSERT INTO copies SELECT id FROM events"
            .to_owned(),
        "CREATE PIPELINE archiving WITH (checkpoint_interval = '100 milliseconds') AS INSERT INTO archive SELECT id FROM events"
            .to_owned(),
    ]
}

async fn connect(url: &str) -> Outcome<(Client, mpsc::UnboundedReceiver<DbError>)> {
    let connected = tokio_postgres::connect(url, NoTls).await;
    let (client, mut connection) = connected.map_err(|error| describe(&error))?;
    let (sender, notices) = mpsc::unbounded_channel();
    tokio::task::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                // Nobody listens any more.
                let _ = sender.send(notice);
            }
        }
    });
    Ok((client, notices))
}

async fn outside_of(client: &Client, sql: &str) -> Outcome {
    let done = client.batch_execute(sql).await;
    done.map_err(|error| format!("{}\nin {sql}", describe(&error)))
}

/// Asks until the answer is `wanted`.
async fn until(client: &Client, sql: &str, wanted: &str) -> Outcome {
    let started = Instant::now();
    loop {
        let answer = client.simple_query(sql).await;
        let found = match answer.as_ref().map(Vec::as_slice) {
            Ok(messages) => messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            }),
            Err(error) => Some(describe(error)),
        };
        if found.as_deref() == Some(wanted) {
            return Ok(());
        }
        if started.elapsed() > WITHIN {
            return Err(format!("{found:?} in place of {wanted} from {sql}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_for(what: &str, is_so: impl Fn() -> bool) -> Outcome {
    let started = Instant::now();
    while !is_so() {
        if started.elapsed() > WITHIN {
            return Err(format!("no {what}"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn expect(what: &str, found: usize, wanted: usize) -> Outcome {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{found} {what} in place of {wanted}")),
    }
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, |entries| {
        entries.flatten().filter(|entry| entry.path().is_file()).count()
    })
}

fn hidden(files: &Path) -> usize {
    entries(&files.join(".laminar"))
}

fn published(files: &Path) -> usize {
    entries(files)
}

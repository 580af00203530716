//! Rows of the fault matrix (`docs/faults.md`) that need whole processes: servers that die inside statements, that are stopped and
//! wake up, that lose their metadata store, whose disk is full.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::postgres_server::TestPostgres;
use crate::scenarios::{execute, single_value};
use crate::server_process::{ServerProcess, describe};

/// What happens sooner or later does so within this time, on the slowest machine.
const SOON: Duration = Duration::from_secs(90);

/// Asks until `is_it` says so of the answer; an answer that does not come is asked for again.
async fn ask_until(server: &ServerProcess, sql: &str, is_it: impl Fn(&str) -> bool) -> Result<String, String> {
    let deadline = Instant::now() + SOON;
    loop {
        let answer = single_value(server, sql).await;
        match &answer {
            Ok(value) if is_it(value) => return answer,
            _ if Instant::now() > deadline => {
                return Err(format!("{sql} still gives {answer:?}:\n{}", server.log().join("\n")));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A statement, and a question whose answer it changes.
struct Ddl {
    statement: &'static str,
    question: &'static str,
    before: &'static str,
    after: &'static str,
}

const fn ddl(statement: &'static str, question: &'static str, before: &'static str, after: &'static str) -> Ddl {
    Ddl {
        statement,
        question,
        before,
        after,
    }
}

const PIPELINES: &str = "SELECT coalesce(string_agg(name, ','), '-') FROM laminar.pipelines";
const WANTED: &str = "SELECT desired_running FROM laminar.pipelines";
const TABLES: &str = "SELECT coalesce(string_agg(name, ',' ORDER BY name), '-') FROM laminar.tables";
const SCHEMAS: &str = "SELECT count(*) FROM laminar.schemas WHERE name = 's'";
const SECRETS: &str = "SELECT count(*) FROM laminar.secrets";
const CONNECTIONS: &str = "SELECT count(*) FROM laminar.connections";
const VIEWS: &str = "SELECT count(*) FROM laminar.views";

/// In an order in which each can be run after those before it.
const STATEMENTS: &[Ddl] = &[
    ddl("CREATE SCHEMA s", SCHEMAS, "0", "1"),
    ddl("CREATE SECRET word AS 'hunter2'", SECRETS, "0", "1"),
    ddl(
        "CREATE CONNECTION away WITH (connector = 'kafka', bootstrap_servers = '127.0.0.1:1', validate = false)",
        CONNECTIONS,
        "0",
        "1",
    ),
    ddl(
        "CREATE TABLE ticks (counter BIGINT) WITH (connector = 'impulse', event_rate = 50)",
        TABLES,
        "-",
        "ticks",
    ),
    ddl("CREATE TABLE kept (id INT PRIMARY KEY)", TABLES, "ticks", "kept,ticks"),
    ddl("CREATE VIEW seen AS SELECT counter FROM ticks", VIEWS, "0", "1"),
    ddl(
        "CREATE PIPELINE p AS SELECT count(*) AS n FROM seen",
        PIPELINES,
        "-",
        "p",
    ),
    ddl(
        "COMMENT ON PIPELINE p IS 'mine'",
        "SELECT comment FROM laminar.pipelines",
        "NULL",
        "mine",
    ),
    ddl("ALTER PIPELINE p RENAME TO q", PIPELINES, "p", "q"),
    ddl("STOP PIPELINE q", WANTED, "t", "f"),
    ddl("START PIPELINE q", WANTED, "f", "t"),
    ddl(
        "CREATE OR REPLACE PIPELINE q WITH (rebuild = 'anyway') AS SELECT max(counter) AS n FROM seen",
        "SELECT query LIKE '%max(%' FROM laminar.pipelines",
        "f",
        "t",
    ),
    ddl("DROP PIPELINE q", PIPELINES, "q", "-"),
    ddl("DROP VIEW seen", VIEWS, "1", "0"),
    ddl("DROP TABLE kept", TABLES, "kept,ticks", "ticks"),
    ddl("DROP TABLE ticks", TABLES, "ticks", "-"),
    ddl("DROP CONNECTION away", CONNECTIONS, "1", "0"),
    ddl("DROP SECRET word", SECRETS, "1", "0"),
    ddl("DROP SCHEMA s", SCHEMAS, "1", "0"),
];

/// Every statement that changes the catalog dies once before the metadata transaction and once after it: then it is wholly absent,
/// or wholly there, and can be repeated or gone on from.
pub async fn killed_ddl() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let data = folder.path().join("data");
    drop(ServerProcess::start(&data, &[])?);
    for ddl in STATEMENTS {
        for place in ["ddl.before_commit", "ddl.after_commit"] {
            let failed = |text: String| format!("{text}\nat {place} of {}", ddl.statement);
            let mut server = ServerProcess::start_armed(&data, &format!("{place}=kill@1")).map_err(failed)?;
            let before = single_value(&server, ddl.question).await.map_err(failed)?;
            if before != ddl.before {
                return Err(failed(format!("\"{before}\" in place of \"{}\" before it", ddl.before)));
            }
            let client = server.connect().await?;
            match client.simple_query(ddl.statement).await {
                Ok(_) => return Err(failed("the server did not die".to_owned())),
                Err(error) if error.as_db_error().is_some() => return Err(failed(describe(&error))),
                Err(_) => {}
            }
            server.wait_until_dead(SOON).map_err(failed)?;
        }
        let server = ServerProcess::start(&data, &[])?;
        let after = single_value(&server, ddl.question).await?;
        if after != ddl.after {
            return Err(format!(
                "\"{after}\" in place of \"{}\" after {}",
                ddl.after, ddl.statement
            ));
        }
    }
    Ok(())
}

/// The metadata store is away for a while: pipelines go on, statements that need it say so, and all of it passes.
pub async fn metadata_outage() -> Result<(), String> {
    let Some(mut postgres) = TestPostgres::start().await else {
        return Ok(());
    };
    let url = postgres.new_database().await;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let server = ServerProcess::start(&folder.path().join("data"), &["--metadata", &url])?;
    let statements = [
        "CREATE TABLE ticks (counter BIGINT) WITH (connector = 'impulse', event_rate = 50)",
        "CREATE PIPELINE counted WITH (checkpoint_interval = '100 milliseconds', barrier_interval = '50 milliseconds',
             wait = 'running') AS SELECT count(*) AS n FROM ticks",
    ];
    execute(&server, &statements).await?;
    let committed = "SELECT checkpoint_epoch FROM laminar.freshness WHERE checkpoint_epoch IS NOT NULL";
    ask_until(&server, committed, |_| true).await?;
    if !postgres.stop().await {
        return Ok(());
    }
    // What is waited for is seen without the store.
    let waits = "SELECT waits_for FROM laminar.freshness WHERE pipeline = 'counted' AND waits_since IS NOT NULL";
    ask_until(&server, waits, |words| {
        words.starts_with("metadata store: commit of epoch ")
    })
    .await?;
    let before = single_value(&server, committed).await?;
    let count = "SELECT n FROM counted";
    let counted: u64 = single_value(&server, count).await?.parse().map_err(|_| "no number")?;
    ask_until(&server, count, |n| n.parse().is_ok_and(|n: u64| n > counted + 50)).await?;
    for _ in 0..2 {
        let client = server.connect().await?;
        let error = client
            .simple_query("CREATE SCHEMA s")
            .await
            .err()
            .ok_or("it was created")?;
        let database = error.as_db_error().ok_or_else(|| describe(&error))?;
        if database.code().code() != "08006" || database.hint().is_none() {
            return Err(format!("unclear: {}", describe(&error)));
        }
    }
    postgres.start_again().await;
    let before: u64 = before.parse().map_err(|_| "no epoch")?;
    ask_until(&server, committed, |epoch| {
        epoch.parse().is_ok_and(|epoch: u64| epoch > before)
    })
    .await?;
    execute(&server, &["CREATE SCHEMA s", "CHECKPOINT PIPELINE counted"]).await?;
    let state = single_value(&server, "SELECT state FROM laminar.pipelines").await?;
    match state.as_str() {
        "Running" => Ok(()),
        other => Err(format!("the pipeline is {other}")),
    }
}

/// Files of rows with ids in order, one after the other until this is told to end.
struct Rows {
    over: Arc<AtomicBool>,
    writer: JoinHandle<std::io::Result<u64>>,
}

impl Rows {
    fn begin(folder: &Path) -> Rows {
        let over = Arc::new(AtomicBool::new(false));
        let (folder, until) = (folder.to_owned(), Arc::clone(&over));
        let writer = std::thread::spawn(move || {
            std::fs::create_dir_all(&folder)?;
            let mut next = 0;
            while !until.load(Ordering::SeqCst) {
                let lines: String = (next..next + 100).map(|id| format!("{{\"id\":{id}}}\n")).collect();
                let hidden = folder.join(".next");
                std::fs::write(&hidden, lines)?;
                std::fs::rename(&hidden, folder.join(format!("{next:09}.json")))?;
                next += 100;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(next)
        });
        Rows { over, writer }
    }

    /// The number of rows.
    fn end(self) -> Result<u64, String> {
        self.over.store(true, Ordering::SeqCst);
        let written = self
            .writer
            .join()
            .map_err(|_| "the writer of rows panicked".to_owned())?;
        written.map_err(|error| error.to_string())
    }
}

/// A server is stopped in the middle, another one takes its pipeline over, then the first wakes up: it finds that it was replaced.
pub async fn zombie() -> Result<(), String> {
    let Some(postgres) = TestPostgres::start().await else {
        return Ok(());
    };
    let url = postgres.new_database().await;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().display();
    let rows = Rows::begin(&folder.path().join("events"));
    let checkpoints = format!("file://{path}/checkpoints");
    let arguments = ["--metadata", &url, "--checkpoint-url", &checkpoints];
    let (data, others) = (folder.path().join("data"), folder.path().join("others"));
    let first = ServerProcess::start(&data, &arguments)?;
    let statements = [
        format!(
            "CREATE TABLE events (id BIGINT)
             WITH (connector = 'filesystem', path = '{path}/events/*.json', format = 'json', refresh_interval = '50 milliseconds')"
        ),
        format!("CREATE TABLE delivered (id BIGINT) WITH (connector = 'filesystem', path = '{path}/delivered', format = 'json', type = 'sink')"),
        "CREATE PIPELINE delivery WITH (checkpoint_interval = '50 milliseconds') AS INSERT INTO delivered SELECT id FROM events"
            .to_owned(),
    ];
    let statements: Vec<&str> = statements.iter().map(String::as_str).collect();
    execute(&first, &statements).await?;
    let committed = "SELECT committed_epoch FROM laminar.sinks WHERE committed_epoch > 2";
    ask_until(&first, committed, |_| true).await?;
    first.signal("STOP")?;
    std::fs::create_dir_all(&others).map_err(|error| error.to_string())?;
    std::fs::copy(data.join("secret.key"), others.join("secret.key")).map_err(|error| error.to_string())?;
    let second = ServerProcess::start(&others, &arguments)?;
    ask_until(&second, committed, |_| true).await?;
    first.signal("CONT")?;
    wait_for_line(&first, "a newer run of the pipeline exists").await?;
    let written = rows.end()?;
    let again = format!(
        "CREATE TABLE again (id BIGINT) WITH (connector = 'filesystem', path = '{path}/delivered', format = 'json')"
    );
    execute(&second, &[&again]).await?;
    let found = "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || max(id) FROM again";
    let all = format!("{written} {written} {}", written - 1);
    let delivered = ask_until(&second, found, |found| found == all).await;
    delivered.map(drop).map_err(|error| format!("{error}, not {all}"))
}

async fn wait_for_line(server: &ServerProcess, part: &str) -> Result<(), String> {
    let deadline = Instant::now() + SOON;
    while !server.log().iter().any(|line| line.contains(part)) {
        if Instant::now() > deadline {
            return Err(format!("no line with \"{part}\":\n{}", server.log().join("\n")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// A small file system in memory; gone with this.
struct SmallDisk<'a>(&'a Path);

impl SmallDisk<'_> {
    /// `None`: not allowed here.
    fn mount(folder: &Path) -> Option<SmallDisk<'_>> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "laminar-test"])
            .arg(folder)
            .output();
        mounted
            .is_ok_and(|output| output.status.success())
            .then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // What is left goes with the mount namespace.
        let _ = Command::new("umount").arg("--lazy").arg(self.0).output();
    }
}

/// The disk of the checkpoints is full for a while: the pipeline is degraded, answers, and goes on by itself when there is room.
pub async fn full_disk() -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let small = folder.path().join("small");
    std::fs::create_dir(&small).map_err(|error| error.to_string())?;
    let Some(_disk) = SmallDisk::mount(&small) else {
        println!("     skipped: no file system can be mounted here");
        return Ok(());
    };
    let checkpoints = format!("file://{}", small.display());
    let server = ServerProcess::start(&folder.path().join("data"), &["--checkpoint-url", &checkpoints])?;
    let statements = [
        "CREATE TABLE ticks (counter BIGINT) WITH (connector = 'impulse', event_rate = 50)",
        "CREATE PIPELINE counted WITH (checkpoint_interval = '100 milliseconds', barrier_interval = '50 milliseconds',
             wait = 'running') AS SELECT count(*) AS n FROM ticks",
        "CHECKPOINT PIPELINE counted",
    ];
    execute(&server, &statements).await?;
    let filler = small.join("filler");
    let full = std::fs::write(&filler, vec![1; 8 << 20]);
    if full.is_ok() {
        return Err("the disk is not small".to_owned());
    }
    let state = "SELECT state || ': ' || coalesce(last_error, '-') FROM laminar.pipelines";
    ask_until(&server, state, |state| state.starts_with("Degraded: ")).await?;
    let code = "SELECT code FROM laminar.events WHERE event = 'checkpoint failed' LIMIT 1";
    let code = single_value(&server, code).await?;
    if code != "53100" {
        return Err(format!("a full disk is {code}"));
    }
    let count = "SELECT n FROM counted";
    let counted: u64 = single_value(&server, count).await?.parse().map_err(|_| "no number")?;
    ask_until(&server, count, |n| n.parse().is_ok_and(|n: u64| n > counted)).await?;
    std::fs::remove_file(&filler).map_err(|error| error.to_string())?;
    ask_until(&server, state, |state| state == "Running: -").await?;
    execute(&server, &["CHECKPOINT PIPELINE counted"]).await
}

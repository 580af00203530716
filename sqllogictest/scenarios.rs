//! What `.slt` cannot say: processes that die, streams that never end, clients that are programs.

use std::future::Future;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio_postgres::SimpleQueryMessage;

use crate::server_process::{ServerProcess, describe};
use crate::{Summary, faults, forgetting, kill_loop};

type Outcome = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// Name, the program it needs besides the server, the test.
const SCENARIOS: &[(&str, Option<&str>, fn() -> Outcome)] = &[
    ("scenario/cancel_ends_a_running_stream", None, || {
        Box::pin(cancel_ends_a_running_stream())
    }),
    ("scenario/endless_stream_arrives_over_extended", None, || {
        Box::pin(endless_stream_arrives_over_extended())
    }),
    ("scenario/second_server_on_the_same_data_is_refused_f_06", None, || {
        Box::pin(second_server_is_refused())
    }),
    ("scenario/port_in_use_is_a_clear_error", None, || {
        Box::pin(port_in_use_is_a_clear_error())
    }),
    ("scenario/terminate_takes_a_last_checkpoint_f_44", None, || {
        Box::pin(terminate_takes_a_last_checkpoint())
    }),
    ("scenario/damaged_checkpoint_falls_back_f_20", None, || {
        Box::pin(damaged_checkpoint_falls_back())
    }),
    ("scenario/killed_insert_leaves_no_pipeline", None, || {
        Box::pin(killed_insert_leaves_no_pipeline())
    }),
    ("scenario/killed_tables_keep_what_they_answered_f_09", None, || {
        Box::pin(killed_tables_keep_what_they_answered())
    }),
    ("scenario/copy_in_is_all_or_nothing", None, || {
        Box::pin(copy_in_is_all_or_nothing())
    }),
    ("scenario/big_select_does_not_buffer", None, || {
        Box::pin(big_select_does_not_buffer())
    }),
    ("scenario/psql_meta_commands", Some("psql"), || {
        Box::pin(psql_meta_commands())
    }),
    ("scenario/killed_ddl_f_09", None, || Box::pin(faults::killed_ddl())),
    ("scenario/metadata_outage_f_08", None, || {
        Box::pin(faults::metadata_outage())
    }),
    ("scenario/zombie_f_03", None, || Box::pin(faults::zombie())),
    ("scenario/full_disk_f_24", None, || Box::pin(faults::full_disk())),
    ("scenario/dropped_pipelines_leave_nothing_outside", None, || {
        Box::pin(forgetting::dropped_pipelines_leave_nothing_outside())
    }),
    ("scenario/kill_loop_f_01", None, || Box::pin(kill_loop::run())),
];

pub fn names() -> Vec<String> {
    SCENARIOS.iter().map(|(name, _, _)| (*name).to_owned()).collect()
}

pub async fn run(wanted: &dyn Fn(&str) -> bool, summary: &mut Summary) {
    for (name, needs, test) in SCENARIOS.iter().filter(|(name, _, _)| wanted(name)) {
        if let Some(program) = needs
            && Command::new(program).arg("--version").output().is_err()
        {
            summary.missing(name, program);
            continue;
        }
        let started = Instant::now();
        let outcome = test().await;
        summary.record(name, outcome, started.elapsed().as_secs_f64());
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    server: ServerProcess,
}

fn fixture() -> Result<Fixture, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let server = ServerProcess::start(&folder.path().join("data"), &[])?;
    Ok(Fixture { folder, server })
}

pub async fn execute(server: &ServerProcess, statements: &[&str]) -> Result<(), String> {
    let client = server.connect().await?;
    for statement in statements {
        client
            .simple_query(statement)
            .await
            .map_err(|error| format!("{}\nin {statement}", describe(&error)))?;
    }
    Ok(())
}

pub async fn single_value(server: &ServerProcess, sql: &str) -> Result<String, String> {
    let client = server.connect().await?;
    for message in client
        .simple_query(sql)
        .await
        .map_err(|error| format!("{}\nin {sql}", describe(&error)))?
    {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).unwrap_or("NULL").to_owned());
        }
    }
    Err(format!("no row from {sql}"))
}

const TICKING: &str = "CREATE TABLE ticks (counter BIGINT) WITH (connector = 'impulse', event_rate = 50)";

/// Several writers, each transaction of two rows; kills at any moment. What was answered is there, and transactions are whole.
async fn killed_tables_keep_what_they_answered() -> Result<(), String> {
    const WRITERS: usize = 3;
    const KILLS: u64 = 4;
    let mut fixture = fixture()?;
    execute(
        &fixture.server,
        &["CREATE TABLE t (id BIGINT, part INT, PRIMARY KEY (id, part))"],
    )
    .await?;
    let mut answered = std::collections::BTreeSet::new();
    for kill in 0..KILLS {
        let mut writers = Vec::new();
        for writer in 0..WRITERS {
            let client = fixture.server.connect().await?;
            writers.push(tokio::spawn(async move {
                let mut answered = Vec::new();
                for number in 0.. {
                    let id = kill * 1_000_000 + (writer as u64) * 100_000 + number;
                    let text = format!("BEGIN; INSERT INTO t VALUES ({id}, 1); INSERT INTO t VALUES ({id}, 2); COMMIT");
                    if client.simple_query(&text).await.is_err() {
                        break;
                    }
                    answered.push(id);
                }
                answered
            }));
        }
        tokio::time::sleep(Duration::from_millis(700 + 150 * kill)).await;
        fixture.server.kill();
        for writer in writers {
            answered.extend(writer.await.map_err(|error| error.to_string())?);
        }
        fixture.server = ServerProcess::start(&fixture.folder.path().join("data"), &[])?;
    }
    let client = fixture.server.connect().await?;
    let rows = client
        .simple_query("SELECT id, count(*) FROM t GROUP BY id")
        .await
        .map_err(|error| describe(&error))?;
    let mut found = std::collections::BTreeSet::new();
    for row in rows {
        if let SimpleQueryMessage::Row(row) = row {
            let id: u64 = row
                .get(0)
                .unwrap_or_default()
                .parse()
                .map_err(|_| "no number".to_owned())?;
            if row.get(1) != Some("2") {
                return Err(format!("half of transaction {id} is there"));
            }
            found.insert(id);
        }
    }
    if answered.is_empty() {
        return Err("nothing was written".into());
    }
    match answered.difference(&found).next() {
        Some(lost) => Err(format!("{lost} was answered for and is lost")),
        // Each writer may have had one commit without an answer at each kill.
        None if found.len() > answered.len() + WRITERS * KILLS as usize => Err("rows that nobody wrote".into()),
        None => Ok(()),
    }
}

async fn copy_in_is_all_or_nothing() -> Result<(), String> {
    use futures::SinkExt;
    let fixture = fixture()?;
    execute(
        &fixture.server,
        &["CREATE TABLE t (id INT PRIMARY KEY, name TEXT, made INT DEFAULT 7)"],
    )
    .await?;
    let client = fixture.server.connect().await?;
    for (sql, data, expected) in [
        (
            "COPY t (id, name) FROM STDIN WITH (FORMAT csv, HEADER)",
            "id,name\n1,\"a,b\"\n2,\n",
            Ok(2),
        ),
        ("COPY t FROM STDIN", "3\tx\t1\n4\t\\N\t2\n\\.\n", Ok(2)),
        ("COPY t FROM STDIN", "5\tx\t1\n1\ty\t2\n", Err("23505")),
        ("COPY t FROM STDIN", "5\tx\t1\nsix\ty\t2\n", Err("22P02")),
        ("COPY t FROM STDIN", "5\tx\n", Err("22P04")),
    ] {
        let sink = client
            .copy_in::<_, bytes::Bytes>(sql)
            .await
            .map_err(|error| describe(&error))?;
        let mut sink = Box::pin(sink);
        sink.send(bytes::Bytes::from_static(data.as_bytes()))
            .await
            .map_err(|error| describe(&error))?;
        let copied = sink.as_mut().finish().await;
        let state = copied.map_err(|error| error.code().map(|code| code.code().to_owned()).unwrap_or_default());
        if state != expected.map_err(str::to_owned) {
            return Err(format!("{sql} of {data:?} gave {state:?}"));
        }
    }
    let rows = single_value(
        &fixture.server,
        "SELECT string_agg(id || coalesce(name, '-') || made, ' ' ORDER BY id) FROM t",
    )
    .await?;
    match rows.as_str() {
        "1a,b7 2-7 3x1 4-2" => Ok(()),
        other => Err(format!("the table has {other}")),
    }
}

async fn cancel_ends_a_running_stream() -> Result<(), String> {
    let fixture = fixture()?;
    execute(&fixture.server, &[TICKING]).await?;
    let client = fixture.server.connect().await?;
    let token = client.cancel_token();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let _ = token.cancel_query(tokio_postgres::NoTls).await;
    });
    let ended = tokio::time::timeout(
        Duration::from_secs(10),
        client.simple_query("SELECT counter FROM ticks"),
    )
    .await;
    match ended.map_err(|_| "the stream went on after the cancel".to_owned())? {
        Ok(_) => Err("the stream ended without an error".into()),
        Err(error) if error.code().is_some_and(|code| code.code() == "57014") => Ok(()),
        Err(error) => Err(describe(&error)),
    }?;
    // The session goes on.
    client
        .simple_query("SELECT 1")
        .await
        .map(|_| ())
        .map_err(|error| describe(&error))
}

async fn endless_stream_arrives_over_extended() -> Result<(), String> {
    use futures::TryStreamExt;
    let fixture = fixture()?;
    execute(&fixture.server, &[TICKING]).await?;
    let client = fixture.server.connect().await?;
    let parameters: [&str; 0] = [];
    let rows = client
        .query_raw("SELECT counter FROM ticks", parameters)
        .await
        .map_err(|error| describe(&error))?;
    tokio::pin!(rows);
    for expected in 0..20_i64 {
        let next = tokio::time::timeout(Duration::from_secs(10), rows.try_next()).await;
        let row = next
            .map_err(|_| format!("row {expected} did not arrive"))?
            .map_err(|error| describe(&error))?;
        let counter: i64 = row.ok_or("the stream ended")?.get(0);
        if counter != expected {
            return Err(format!("row {counter} arrived in place of {expected}"));
        }
    }
    Ok(())
}

async fn second_server_is_refused() -> Result<(), String> {
    let fixture = fixture()?;
    match ServerProcess::start(&fixture.folder.path().join("data"), &[]) {
        Ok(_) => Err("a second server started on the same data".into()),
        Err(text) if text.contains("another server is using the data directory") => Ok(()),
        Err(text) => Err(format!("unclear error: {text}")),
    }
}

async fn port_in_use_is_a_clear_error() -> Result<(), String> {
    let fixture = fixture()?;
    let listen = format!("127.0.0.1:{}", fixture.server.sql_port);
    match ServerProcess::start(&fixture.folder.path().join("other"), &["--sql-listen", &listen]) {
        Ok(_) => Err("two servers listen on one port".into()),
        Err(text) if text.contains(&listen) && text.contains("in use") => Ok(()),
        Err(text) => Err(format!("unclear error: {text}")),
    }
}

async fn terminate_takes_a_last_checkpoint() -> Result<(), String> {
    let mut fixture = fixture()?;
    let counted = [
        TICKING,
        "CREATE PIPELINE counted WITH (checkpoint_interval = '1 hour', wait = 'running') AS SELECT count(*) AS n FROM ticks",
    ];
    execute(&fixture.server, &counted).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before: i64 = single_value(&fixture.server, "SELECT n FROM counted")
        .await?
        .parse()
        .map_err(|_| "not a number")?;
    if before == 0 {
        return Err("nothing was counted in three seconds".into());
    }
    let code = fixture.server.terminate()?;
    if code != Some(0) {
        return Err(format!("exit code {code:?}\n{}", fixture.server.log().join("\n")));
    }
    let server = ServerProcess::start(&fixture.folder.path().join("data"), &[])?;
    execute(&server, &["WAIT FOR PIPELINE counted RUNNING"]).await?;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let after: i64 = single_value(&server, "SELECT n FROM counted")
        .await?
        .parse()
        .map_err(|_| "not a number")?;
    if after < before {
        Err(format!("counted {before}, then {after} after the restart"))
    } else {
        Ok(())
    }
}

async fn damaged_checkpoint_falls_back() -> Result<(), String> {
    let mut fixture = fixture()?;
    let counted = [
        TICKING,
        "CREATE PIPELINE counted WITH (checkpoint_interval = '200 milliseconds', wait = 'running') AS SELECT count(*) AS n FROM ticks",
    ];
    execute(&fixture.server, &counted).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    fixture.server.kill();
    let newest = newest_file(&fixture.folder.path().join("data")).ok_or("no checkpoint was written")?;
    let mut bytes = std::fs::read(&newest).map_err(|error| error.to_string())?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&newest, bytes).map_err(|error| error.to_string())?;
    let server = ServerProcess::start(&fixture.folder.path().join("data"), &[])?;
    execute(&server, &["WAIT FOR PIPELINE counted RUNNING"]).await?;
    let name = newest.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if server
        .log()
        .iter()
        .any(|line| line.contains("WARN") && line.contains(&name))
    {
        Ok(())
    } else {
        Err(format!("no warning names {name}:\n{}", server.log().join("\n")))
    }
}

/// The newest file of the newest checkpoint below `folder`.
fn newest_file(folder: &std::path::Path) -> Option<std::path::PathBuf> {
    let mut newest: Option<(std::time::SystemTime, std::path::PathBuf)> = None;
    let mut folders = vec![folder.join("checkpoints")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(modified) = entry.metadata().and_then(|metadata| metadata.modified())
                && newest.as_ref().is_none_or(|(time, _)| modified > *time)
            {
                newest = Some((modified, path));
            }
        }
    }
    newest.map(|(_, path)| path)
}

async fn killed_insert_leaves_no_pipeline() -> Result<(), String> {
    let mut fixture = fixture()?;
    let kept = "CREATE PIPELINE kept AS SELECT count(*) AS n FROM ticks";
    let nothing = "CREATE TABLE nothing WITH (connector = 'blackhole')";
    execute(&fixture.server, &[TICKING, nothing, kept]).await?;
    let client = fixture.server.connect().await?;
    tokio::spawn(async move {
        client
            .simple_query("INSERT INTO nothing SELECT counter FROM ticks")
            .await
            .is_ok()
    });
    let count = "SELECT count(*) FROM laminar.pipelines";
    let deadline = Instant::now() + Duration::from_secs(10);
    while single_value(&fixture.server, count).await? != "2" {
        if Instant::now() > deadline {
            return Err("the INSERT did not begin".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    fixture.server.kill();
    fixture.server = ServerProcess::start(&fixture.folder.path().join("data"), &[])?;
    let left = single_value(&fixture.server, "SELECT string_agg(name, ' ') FROM laminar.pipelines").await?;
    match left.as_str() {
        "kept" => Ok(()),
        other => Err(format!("pipelines after the restart: {other}")),
    }
}

async fn big_select_does_not_buffer() -> Result<(), String> {
    use futures::TryStreamExt;
    const ROWS: u64 = 3_000_000;
    let fixture = fixture()?;
    let client = fixture.server.connect().await?;
    let before = fixture.server.resident_bytes();
    let parameters: [&str; 0] = [];
    let sql = format!("SELECT value, repeat('x', 100) AS text FROM generate_series(1, {ROWS}) AS t(value)");
    let rows = client
        .query_raw(&sql, parameters)
        .await
        .map_err(|error| describe(&error))?;
    tokio::pin!(rows);
    let mut count = 0;
    let mut most = 0;
    while rows.try_next().await.map_err(|error| describe(&error))?.is_some() {
        count += 1;
        if count % 200_000 == 0 {
            most = most.max(fixture.server.resident_bytes());
        }
    }
    if count != ROWS {
        return Err(format!("{count} rows of {ROWS}"));
    }
    // The rows are over 300 MB; what the server may keep is a fraction of that.
    let grown = most.saturating_sub(before);
    if grown > 150 << 20 {
        Err(format!("the server grew by {} MiB", grown >> 20))
    } else {
        Ok(())
    }
}

async fn psql_meta_commands() -> Result<(), String> {
    let fixture = fixture()?;
    let objects = [
        "CREATE TABLE ticks (counter BIGINT NOT NULL PRIMARY KEY, note TEXT) WITH (connector = 'impulse', event_rate = 50)",
        "CREATE VIEW doubled AS SELECT counter * 2 AS twice FROM ticks",
        "CREATE PIPELINE counted AS SELECT count(*) AS n FROM ticks",
        "CREATE TABLE people (id BIGINT PRIMARY KEY, email TEXT UNIQUE, age INT CHECK (age > 0))",
    ];
    execute(&fixture.server, &[TICKING, objects[1], objects[2], objects[3]]).await?;
    let url = format!("postgresql://laminar@127.0.0.1:{}/laminar", fixture.server.sql_port);
    let expectations = [
        ("\\d", vec!["ticks", "doubled", "counted"]),
        ("\\d ticks", vec!["counter", "bigint"]),
        ("\\d doubled", vec!["twice", "bigint"]),
        ("\\d counted", vec!["n", "bigint"]),
        ("\\d+ ticks", vec!["counter"]),
        (
            "\\d people",
            vec![
                "\"people_pkey\" PRIMARY KEY, btree (id)",
                "\"people_email_key\" UNIQUE CONSTRAINT, btree (email)",
                "Check constraints:",
                "\"people_age_check\" CHECK (age > 0)",
            ],
        ),
        ("\\dt", vec!["ticks"]),
        ("\\dv", vec!["doubled"]),
        ("\\dm", vec!["counted"]),
        ("\\l", vec!["laminar", "UTF8"]),
        ("\\dn", vec!["public"]),
        ("\\du", vec!["laminar"]),
        ("\\df", vec![]),
        ("\\conninfo", vec!["laminar"]),
    ];
    for (command, words) in expectations {
        let output = Command::new("psql")
            .args(["-X", "-v", "ON_ERROR_STOP=1", "-c", command, &url])
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() || errors.contains("ERROR") {
            return Err(format!("{command}: {errors}"));
        }
        if let Some(missing) = words.iter().find(|word| !text.contains(**word)) {
            return Err(format!("{command} does not show {missing}:\n{text}"));
        }
    }
    Ok(())
}

//! CPU per event of whole pipelines, beside the same SQL over the same rows in DataFusion's batch engine.
//!
//! Starts the real server, lets one pipeline at a time run to its end into `blackhole` with checkpoints every second, and
//! reads the process's CPU time before and after. See README.md for how to read the output.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use datafusion::prelude::{JsonReadOptions, SessionConfig, SessionContext};
use tokio_postgres::{Client, NoTls};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Query {
    name: &'static str,
    /// What Laminar runs; `{source}` is the table.
    stream: &'static str,
    /// What the batch engine runs over `events`.
    batch: &'static str,
}

const QUERIES: &[Query] = &[
    Query {
        name: "select_all",
        stream: "SELECT event_type, person, auction, bid, date_time FROM {source}",
        batch: "SELECT event_type, person, auction, bid, date_time FROM events",
    },
    Query {
        name: "filter",
        stream: "SELECT bid.auction, bid.price FROM {source} WHERE bid.auction % 123 = 0",
        batch: "SELECT bid['auction'], bid['price'] FROM events WHERE bid['auction'] % 123 = 0",
    },
    Query {
        name: "tumble_count_by_auction",
        stream: "SELECT bid.auction, TUMBLE(INTERVAL '10 seconds') AS window, count(*) FROM {source} \
                 WHERE bid IS NOT NULL GROUP BY bid.auction, window",
        batch: "SELECT bid['auction'], date_bin(INTERVAL '10 seconds', CAST(date_time AS TIMESTAMP)), count(*) FROM events \
                WHERE bid IS NOT NULL GROUP BY 1, 2",
    },
    Query {
        name: "updating_count_by_bidder",
        stream: "SELECT bid.bidder AS bidder, count(*) AS bids FROM {source} WHERE bid IS NOT NULL GROUP BY bid.bidder",
        batch: "SELECT bid['bidder'], count(*) FROM events WHERE bid IS NOT NULL GROUP BY 1",
    },
];

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() -> Outcome<()> {
    let events = argument("--events").unwrap_or(10_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(events))
}

fn argument(name: &str) -> Option<u64> {
    let arguments: Vec<String> = std::env::args().collect();
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1)?.parse().ok()
}

async fn run(events: u64) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.json");
    let mut writer = std::io::BufWriter::new(std::fs::File::create(&file)?);
    laminar::engine::connectors::nexmark::write_json(events, 42, &mut writer)?;
    drop(writer);
    let bytes = std::fs::metadata(&file)?.len();
    println!("{events} events, {} bytes each as JSON", bytes / events.max(1));

    let server = start(folder.path())?;
    let client = connect(server.port).await?;
    create_sources(&client, &file, events).await?;
    println!(
        "{:<28}{:<11}{:>12}{:>14}{:>12}{:>14}{:>8}",
        "query", "input", "ns/event", "events/cpu s", "RSS MiB", "batch ns", "ratio"
    );
    for query in QUERIES {
        let stream = measure_stream(&server, &client, query, "from_file", events).await?;
        let batch = measure_batch_file(query, &file, events).await?;
        report(query.name, "file", stream, batch, &server);
    }
    let generate = measure_stream(
        &server,
        &client,
        &Query {
            name: "generate",
            stream: "SELECT event_type FROM {source} WHERE event_type < 0",
            batch: "",
        },
        "generated",
        events,
    )
    .await?;
    println!("{:<28}{:<11}{generate:>12.0}", "generate only", "generator");
    for query in QUERIES {
        let stream = measure_stream(&server, &client, query, "generated", events).await?;
        let batch = measure_batch_memory(query, &file, events).await?;
        report(query.name, "generator", stream, batch, &server);
    }
    Ok(())
}

fn report(name: &str, input: &str, stream_ns: f64, batch_ns: f64, server: &Server) {
    println!(
        "{name:<28}{input:<11}{stream_ns:>12.0}{:>14.0}{:>12}{batch_ns:>14.0}{:>8.2}",
        1e9 / stream_ns,
        resident_mib(server.child.id()),
        stream_ns / batch_ns
    );
}

fn start(folder: &Path) -> Outcome<Server> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_laminar"))
        .args([
            "--sql-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
            "--shards",
            "1",
            "--data-dir",
        ])
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("stderr is piped")?).lines();
    let mut port = None;
    for line in lines.by_ref() {
        let line = line?;
        if let Some((_, address)) = line.split_once("listening for SQL on ") {
            port = address
                .split_whitespace()
                .next()
                .and_then(|a| a.rsplit_once(':'))
                .and_then(|(_, p)| p.parse().ok());
        }
        if let Some((_, time)) = line.split_once("ready in ") {
            println!("server ready in {time}");
            break;
        }
    }
    std::thread::spawn(move || lines.for_each(drop));
    Ok(Server {
        child,
        port: port.ok_or("the server did not say where it listens")?,
    })
}

async fn connect(port: u16) -> Outcome<Client> {
    let settings = format!("host=127.0.0.1 port={port} user=laminar dbname=laminar");
    let (client, connection) = tokio_postgres::connect(&settings, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn create_sources(client: &Client, file: &Path, events: u64) -> Outcome<()> {
    let file = file.display();
    client
        .batch_execute(&format!(
            "CREATE TABLE generated WITH (connector = 'nexmark', events = {events}, seed = 42);
             CREATE TABLE nothing WITH (connector = 'blackhole');
             CREATE TABLE from_file WITH (connector = 'single_file', path = '{file}', format = 'json', type = 'source',
                 event_time_field = 'date_time', watermark_delay = '4 seconds')"
        ))
        .await?;
    Ok(())
}

/// Nanoseconds of the server's CPU an event.
async fn measure_stream(server: &Server, client: &Client, query: &Query, source: &str, events: u64) -> Outcome<f64> {
    let select = query.stream.replace("{source}", source);
    let name = format!("{}_{source}", query.name);
    // Updating results have no place in a plain sink: they are kept by the pipeline instead.
    let body = if query.name.starts_with("updating") {
        select
    } else {
        format!("INSERT INTO nothing {select}")
    };
    client
        .batch_execute(&format!(
            "CREATE PIPELINE {name} WITH (start = false, checkpoint_interval = '1 second') AS {body}"
        ))
        .await?;
    let before = cpu_seconds(server.child.id())?;
    client.batch_execute(&format!("START PIPELINE {name}")).await?;
    client
        .batch_execute(&format!("WAIT FOR PIPELINE {name} FINISHED"))
        .await?;
    let spent = cpu_seconds(server.child.id())? - before;
    client.batch_execute(&format!("DROP PIPELINE {name}")).await?;
    Ok(spent * 1e9 / events as f64)
}

fn one_partition() -> SessionContext {
    let config = SessionConfig::new().with_target_partitions(1).with_batch_size(8192);
    SessionContext::new_with_config(config)
}

async fn measure_batch_file(query: &Query, file: &Path, events: u64) -> Outcome<f64> {
    let context = one_partition();
    context
        .register_json("events", &file.to_string_lossy(), JsonReadOptions::default())
        .await?;
    time_batch(&context, query, events).await
}

async fn measure_batch_memory(query: &Query, file: &Path, events: u64) -> Outcome<f64> {
    let context = one_partition();
    context
        .register_json("on_disk", &file.to_string_lossy(), JsonReadOptions::default())
        .await?;
    let table = context.table("on_disk").await?.cache().await?;
    context.register_table("events", table.into_view())?;
    time_batch(&context, query, events).await
}

async fn time_batch(context: &SessionContext, query: &Query, events: u64) -> Outcome<f64> {
    use futures::TryStreamExt;
    let started = Instant::now();
    let before = cpu_seconds(std::process::id())?;
    let mut rows = 0;
    let mut stream = context.sql(query.batch).await?.execute_stream().await?;
    while let Some(batch) = stream.try_next().await? {
        rows += batch.num_rows();
    }
    let spent = cpu_seconds(std::process::id())? - before;
    if rows == 0 {
        return Err(format!(
            "{}: the batch query gave no rows after {:?}",
            query.name,
            started.elapsed()
        )
        .into());
    }
    Ok(spent * 1e9 / events as f64)
}

/// User plus system time of all threads of a process, in seconds.
fn cpu_seconds(process: u32) -> Outcome<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let after_name = stat.rsplit_once(')').ok_or("unreadable stat")?.1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
    // The kernel's USER_HZ, which is 100 on every Linux that Rust runs on.
    Ok(ticks / 100.0)
}

fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|kilobytes| kilobytes.parse::<u64>().ok())
        .unwrap_or(0)
        / 1024
}

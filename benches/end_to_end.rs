//! CPU per event of whole pipelines, beside the same SQL over the same rows in DataFusion's batch engine.
//!
//! Starts the real server for each pipeline, lets it run to its end into `blackhole` with checkpoints every second, and
//! reads the process's CPU time before and after. See README.md for how to read the output.

mod common;
#[path = "common/reference.rs"]
mod reference;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use common::{Outcome, Server, argument, connect, resident_mib, start};
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use datafusion::prelude::{JsonReadOptions, SessionContext};
use laminar::engine::connectors::nexmark;
use reference::{cpu_seconds, one_partition, part_of};

const SEED: u64 = 42;

struct Query {
    name: &'static str,
    /// What Laminar runs; `{source}` is the table.
    stream: &'static str,
    /// What the batch engine runs over `events`.
    batch: &'static str,
    /// The columns that it reads, for the batch engine over the generator.
    reads: &'static [&'static str],
}

const QUERIES: &[Query] = &[
    Query {
        name: "select_all",
        stream: "SELECT event_type, person, auction, bid, date_time FROM {source}",
        batch: "SELECT event_type, person, auction, bid, date_time FROM events",
        reads: &["person", "auction", "bid", "event_type", "date_time"],
    },
    Query {
        name: "filter",
        stream: "SELECT bid.auction, bid.price FROM {source} WHERE bid.auction % 123 = 0",
        batch: "SELECT bid['auction'], bid['price'] FROM events WHERE bid['auction'] % 123 = 0",
        reads: &["bid.auction", "bid.price", "date_time"],
    },
    Query {
        name: "tumble_count_by_auction",
        stream: "SELECT bid.auction, TUMBLE(INTERVAL '10 seconds') AS window, count(*) FROM {source} \
                 WHERE bid IS NOT NULL GROUP BY bid.auction, window",
        batch: "SELECT bid['auction'], date_bin(INTERVAL '10 seconds', CAST(date_time AS TIMESTAMP)), count(*) FROM events \
                WHERE bid IS NOT NULL GROUP BY 1, 2",
        reads: &["bid.auction", "date_time"],
    },
    Query {
        name: "updating_count_by_bidder",
        stream: "SELECT bid.bidder AS bidder, count(*) AS bids FROM {source} WHERE bid IS NOT NULL GROUP BY bid.bidder",
        batch: "SELECT bid['bidder'], count(*) FROM events WHERE bid IS NOT NULL GROUP BY 1",
        reads: &["bid.bidder", "date_time"],
    },
];

/// The server's CPU time, and how much memory it ever had.
struct Spent {
    ns_an_event: f64,
    peak_mib: u64,
}

fn main() -> Outcome<()> {
    let events = argument("--events").unwrap_or(10_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(events))
}

async fn run(events: u64) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.json");
    let mut writer = std::io::BufWriter::new(std::fs::File::create(&file)?);
    nexmark::Events::first(events, SEED).write_json(&mut writer)?;
    drop(writer);
    let bytes = std::fs::metadata(&file)?.len();
    println!("{events} events, {} bytes each as JSON", bytes / events.max(1));
    println!(
        "{:<28}{:<11}{:>12}{:>14}{:>10}{:>14}{:>8}",
        "query", "input", "ns/event", "events/cpu s", "peak MiB", "batch ns", "ratio"
    );
    for query in QUERIES {
        let stream = measure_stream(folder.path(), &file, query, "from_file", events).await?;
        let batch = measure_batch_file(query, &file, events).await?;
        report(query.name, "file", &stream, batch);
    }
    for query in QUERIES {
        let stream = measure_stream(folder.path(), &file, query, "generated", events).await?;
        let batch = measure_batch_generator(query, events).await?;
        report(query.name, "generator", &stream, batch);
        println!("{:<39}{:>12.0}", "  of that generation", generation_ns(query, events)?);
    }
    Ok(())
}

fn report(name: &str, input: &str, stream: &Spent, batch_ns: f64) {
    println!(
        "{name:<28}{input:<11}{:>12.0}{:>14.0}{:>10}{batch_ns:>14.0}{:>8.2}",
        stream.ns_an_event,
        1e9 / stream.ns_an_event,
        stream.peak_mib,
        stream.ns_an_event / batch_ns
    );
}

async fn measure_stream(folder: &Path, file: &Path, query: &Query, source: &str, events: u64) -> Outcome<Spent> {
    let server = start(&folder.join(format!("{}_{source}", query.name)), 1)?;
    println!("  server ready in {}", server.ready_in);
    let client = connect(server.port).await?;
    let file = file.display();
    let select = query.stream.replace("{source}", source);
    // Updating results have no place in a plain sink: they are kept by the pipeline instead.
    let body = if query.name.starts_with("updating") {
        select
    } else {
        format!("INSERT INTO nothing {select}")
    };
    client
        .batch_execute(&format!(
            "CREATE TABLE generated WITH (connector = 'nexmark', events = {events}, seed = {SEED});
             CREATE TABLE nothing WITH (connector = 'blackhole');
             CREATE TABLE from_file WITH (connector = 'single_file', path = '{file}', format = 'json', type = 'source',
                 event_time_field = 'date_time', watermark_delay = '4 seconds')"
        ))
        .await?;
    let mut spent = 0.0;
    // The second run counts: the first finds no memory yet, which the reference's process has long had.
    for _ in 0..2 {
        client
            .batch_execute(&format!(
                "CREATE PIPELINE measured WITH (start = false, checkpoint_interval = '1 second') AS {body}"
            ))
            .await?;
        let before = cpu_seconds(server.child.id())?;
        client.batch_execute("START PIPELINE measured").await?;
        client.batch_execute("WAIT FOR PIPELINE measured FINISHED").await?;
        spent = cpu_seconds(server.child.id())? - before;
        client.batch_execute("DROP PIPELINE measured").await?;
    }
    Ok(Spent {
        ns_an_event: spent * 1e9 / events as f64,
        peak_mib: peak(&server),
    })
}

fn peak(server: &Server) -> u64 {
    resident_mib(server.child.id())
}

async fn measure_batch_file(query: &Query, file: &Path, events: u64) -> Outcome<f64> {
    let context = one_partition();
    context
        .register_json("events", &file.to_string_lossy(), JsonReadOptions::default())
        .await?;
    time_batch(&context, query, events).await
}

/// The generator as a table of the batch engine: the same events, made at the same cost.
struct Generated {
    schema: SchemaRef,
    events: u64,
}

impl fmt::Debug for Generated {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} generated events", self.events)
    }
}

impl PartitionStream for Generated {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let external = |error: laminar::engine::error::Error| DataFusionError::External(Box::new(error));
        let stream: Box<dyn Iterator<Item = _> + Send> = match nexmark::Events::first(self.events, SEED)
            .batches(&self.schema, 8192)
            .map_err(external)
        {
            Ok(batches) => Box::new(batches.map(move |batch| batch.map_err(external))),
            Err(error) => Box::new(std::iter::once(Err(error))),
        };
        let stream = futures::stream::iter(stream);
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), stream))
    }
}

async fn measure_batch_generator(query: &Query, events: u64) -> Outcome<f64> {
    let schema = part_of(&nexmark::columns::schema(), query.reads);
    let generated = Arc::new(Generated {
        schema: Arc::clone(&schema),
        events,
    });
    let context = one_partition();
    let table = StreamingTable::try_new(schema, vec![generated])?;
    context.register_table("events", Arc::new(table))?;
    time_batch(&context, query, events).await
}

fn generation_ns(query: &Query, events: u64) -> Outcome<f64> {
    let before = cpu_seconds(std::process::id())?;
    let schema = part_of(&nexmark::columns::schema(), query.reads);
    for batch in nexmark::Events::first(events, SEED).batches(&schema, 8192)? {
        std::hint::black_box(batch?);
    }
    Ok((cpu_seconds(std::process::id())? - before) * 1e9 / events as f64)
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

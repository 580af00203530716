//! CPU time an event and memory of the real server, beside DataFusion's batch engine in this process.
//!
//! Both make the events, or decode them, once: the batch engine into a table in memory that has only the columns of the query.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::datasource::MemTable;
use datafusion::prelude::{JsonReadOptions, SessionContext};
use futures::TryStreamExt;
use laminar::engine::connectors::nexmark::{Events, columns};

use crate::SEED;
use crate::common::{Outcome, Server, connect, resident_mib, start};
use crate::queries::{self, Query};
use crate::reference::{cpu_seconds, one_partition, part_of};

const VIEWS: [&str; 3] = ["person", "auction", "bid"];

pub struct Measured {
    pub events: u64,
    /// Events a second of event time.
    pub rate: u64,
    /// One query instead of all.
    pub only: Option<u32>,
}

/// Nanoseconds of CPU an event.
struct Batch {
    input: f64,
    query: f64,
}

pub async fn run(measured: &Measured) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("events.json");
    let mut writer = std::io::BufWriter::new(File::create(&file)?);
    measured.all().write_json(&mut writer)?;
    drop(writer);
    println!(
        "{} events, {} a second of event time, checkpoints every 10 seconds; ns of CPU an event",
        measured.events, measured.rate
    );
    println!(
        "{:<6}{:<10}{:>9}{:>14}{:>10}{:>9}{:>9}{:>8}{:>8}",
        "query", "input", "laminar", "events/cpu s", "peak MiB", "batch", "input", "ratio", "beyond"
    );
    for number in 0..queries::COUNT {
        if measured.only.is_some_and(|only| only != number) {
            continue;
        }
        let query = queries::query(number)?;
        for input in ["columns", "json"] {
            let (stream, peak) = measured.stream(folder.path(), &file, &query, input).await?;
            let batch = measured.batch(&file, &query, input).await?;
            report(number, input, stream, peak, &batch);
        }
    }
    Ok(())
}

fn report(number: u32, input: &str, stream: f64, peak: u64, batch: &Batch) {
    println!(
        "q{number:<5}{input:<10}{stream:>9.0}{:>14.0}{peak:>10}{:>9.0}{:>9.0}{:>8.2}{:>8.2}",
        1e9 / stream,
        batch.input + batch.query,
        batch.input,
        stream / (batch.input + batch.query),
        (stream - batch.input) / batch.query,
    );
}

impl Measured {
    fn all(&self) -> Events {
        Events {
            first_event_rate: self.rate as f64,
            ..Events::first(self.events, SEED)
        }
    }

    /// Nanoseconds an event, and the most memory.
    async fn stream(&self, folder: &Path, file: &Path, query: &Query, input: &str) -> Outcome<(f64, u64)> {
        let server = start(&folder.join(format!("q{}_{input}", query.number)), 1)?;
        println!("  server ready in {}", server.ready_in);
        let client = connect(server.port).await?;
        client.batch_execute(&self.tables(file, input)).await?;
        for view in ["person", "auction", "bid", "bid_by_arrival", "side_input"] {
            let text = queries::text_of(&format!("{view}.sql"))?;
            client.batch_execute(&format!("CREATE VIEW {view} AS {text}")).await?;
        }
        let mut spent = 0.0;
        // The second run counts: the first finds no memory yet, which the reference's process has long had.
        for _ in 0..2 {
            client
                .batch_execute(&format!(
                    "CREATE PIPELINE measured WITH (start = false, checkpoint_interval = '10 seconds') AS INSERT INTO nothing {}",
                    query.stream
                ))
                .await?;
            let before = cpu_seconds(server.child.id())?;
            client.batch_execute("START PIPELINE measured").await?;
            client.batch_execute("WAIT FOR PIPELINE measured FINISHED").await?;
            spent = cpu_seconds(server.child.id())? - before;
            client.batch_execute("DROP PIPELINE measured").await?;
        }
        Ok((spent * 1e9 / self.events as f64, peak(&server)))
    }

    fn tables(&self, file: &Path, input: &str) -> String {
        let source = match input {
            "json" => format!(
                "connector = 'single_file', path = '{}', format = 'json', type = 'source'",
                file.display()
            ),
            _ => format!(
                "connector = 'nexmark', events = {}, seed = {SEED}, first_event_rate = {}",
                self.events, self.rate
            ),
        };
        let by_time = match input {
            "json" => ", event_time_field = 'date_time', watermark_delay = '4 seconds'",
            _ => "",
        };
        format!(
            "CREATE TABLE nexmark WITH ({source}{by_time});
             CREATE TABLE nexmark_by_arrival WITH ({source}, event_time = 'processing');
             CREATE TABLE nothing WITH (connector = 'blackhole')"
        )
    }

    async fn batch(&self, file: &Path, query: &Query, input: &str) -> Outcome<Batch> {
        let paths: Vec<&str> = query.reads.iter().map(String::as_str).collect();
        let schema = part_of(&columns::schema(), &paths);
        let before = cpu_seconds(std::process::id())?;
        let rows = match input {
            "json" => decoded(file, &schema).await?,
            _ => self.all().batches(&schema, 8192)?.collect::<Result<Vec<_>, _>>()?,
        };
        let schema = rows.first().map_or(schema, RecordBatch::schema);
        let begun = cpu_seconds(std::process::id())?;
        let context = one_partition();
        context.register_table("nexmark", Arc::new(MemTable::try_new(schema, vec![rows])?))?;
        answer(&context, query).await?;
        let a_second = 1e9 / self.events as f64;
        Ok(Batch {
            input: (begun - before) * a_second,
            query: (cpu_seconds(std::process::id())? - begun) * a_second,
        })
    }
}

/// The lines as the batch engine reads them, in columns of `schema`.
async fn decoded(file: &Path, schema: &SchemaRef) -> Outcome<Vec<RecordBatch>> {
    let context = one_partition();
    let options = JsonReadOptions::default().schema(schema);
    let frame = context.read_json(file.to_string_lossy().as_ref(), options).await?;
    Ok(frame.collect().await?)
}

async fn answer(context: &SessionContext, query: &Query) -> Outcome<()> {
    for view in VIEWS {
        if let Some(text) = queries::batch_view(view, &query.reads) {
            context.sql(&text).await?;
        }
    }
    let side_input = queries::text_of("side_input.sql")?;
    context.sql(&format!("CREATE VIEW side_input AS {side_input}")).await?;
    let mut rows = 0;
    let mut stream = context.sql(&query.batch).await?.execute_stream().await?;
    while let Some(batch) = stream.try_next().await? {
        rows += batch.num_rows();
    }
    match rows {
        0 => Err(format!("the batch of q{} gave no rows", query.number).into()),
        _ => Ok(()),
    }
}

fn peak(server: &Server) -> u64 {
    resident_mib(server.child.id())
}

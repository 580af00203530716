//! How fast Nexmark JSON becomes columns, beside what others need for the same bytes on the same core.
//!
//!     cargo bench --bench json_decode
//!
//! Prints, for all columns and for three columns of the bids, nanoseconds an event and gigabytes a second: this decoder,
//! arrow-json's, and serde_json parsing each line into a tree. Then the speed of the generator and of the encoder. Each
//! figure is the best of several passes over the same bytes, in processor time; compare the lines with each other, not with other machines.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use laminar::engine::connectors::nexmark::Events;
use laminar::engine::connectors::nexmark::columns::{self, ColumnGenerator};
use laminar::engine::connectors::nexmark::generator::Generator;
use laminar::engine::connectors::{BadRow, BadRowHandler};
use laminar::engine::error::Error;
use laminar::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use laminar::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};
use laminar::engine::formats::{Decoder, Encoder, Input};
use laminar::engine::message::Chunk;

const EVENTS: u64 = 200_000;
const PASSES: usize = 5;
const ROWS: usize = 8192;
/// As sources hand bytes over.
const BLOCK: usize = 1024 * 1024;

struct NoBadRows;

impl BadRowHandler for NoBadRows {
    fn bad_row(&self, row: BadRow<'_>) -> Result<(), Error> {
        Err(Error::Internal(format!("bad row: {}", row.reason)))
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let mut text = Vec::new();
    Events::first(EVENTS, 0).write_json(&mut text)?;
    report("bytes an event", &format!("{}", text.len() as u64 / EVENTS));
    for (what, schema) in [
        ("all columns", columns::schema()),
        ("3 columns of bids", narrow_schema()?),
    ] {
        timed(&format!("{what}: this decoder"), text.len(), || decode(&schema, &text))?;
        timed(&format!("{what}: arrow-json"), text.len(), || {
            decode_by_arrow(&schema, &text)
        })?;
    }
    timed("serde_json values", text.len(), || decode_by_serde(&text))?;
    for (what, schema) in [
        ("all columns", columns::schema()),
        ("3 columns of bids", narrow_schema()?),
    ] {
        timed(&format!("{what}: generator"), text.len(), || generate(&schema))?;
    }
    encode(text.len())
}

fn narrow_schema() -> Result<SchemaRef, Box<dyn std::error::Error>> {
    let all = columns::schema();
    let bid = all.field_with_name("bid")?;
    let DataType::Struct(fields) = bid.data_type() else {
        return Err("bid is not a struct".into());
    };
    let wanted = ["auction", "price", "datetime"];
    let part: Fields = fields
        .iter()
        .filter(|field| wanted.contains(&field.name().as_str()))
        .cloned()
        .collect();
    Ok(Arc::new(Schema::new(vec![Field::new(
        "bid",
        DataType::Struct(part),
        true,
    )])))
}

fn decode(schema: &SchemaRef, text: &[u8]) -> Outcome {
    let mut decoder = JsonDecoder::new(schema, JsonDecodeOptions::default())?;
    let (mut taken, mut rows) = (0, 0);
    while taken < text.len() {
        let end = (taken + BLOCK).min(text.len());
        let input = Input {
            bytes: &text[taken..end],
            offset: taken as u64,
            place: "memory",
            at_end: end == text.len(),
        };
        taken += decoder.decode(input, ROWS, &NoBadRows)?;
        rows += decoder.take()?.num_rows() as u64;
    }
    expect_all(rows)
}

fn decode_by_arrow(schema: &SchemaRef, text: &[u8]) -> Outcome {
    let reader = arrow::json::ReaderBuilder::new(Arc::clone(schema))
        .with_batch_size(ROWS)
        .build(text)?;
    let mut rows = 0;
    for batch in reader {
        rows += batch?.num_rows() as u64;
    }
    expect_all(rows)
}

fn decode_by_serde(text: &[u8]) -> Outcome {
    let mut rows = 0;
    for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let value: serde_json::Value = serde_json::from_slice(line)?;
        rows += u64::from(std::hint::black_box(value).is_object());
    }
    expect_all(rows)
}

fn generate(schema: &SchemaRef) -> Outcome {
    let generator = Generator::new(0, 0, 10_000.0);
    let mut columns = ColumnGenerator::new(schema)?;
    let mut rows = 0;
    while rows < EVENTS {
        let end = (rows + ROWS as u64).min(EVENTS);
        rows += columns.generate(&generator, rows..end)?.num_rows() as u64;
    }
    expect_all(rows)
}

fn encode(bytes: usize) -> Outcome {
    let schema = columns::schema();
    let batch = ColumnGenerator::new(&schema)?.generate(&Generator::new(0, 0, 10_000.0), 0..EVENTS)?;
    let chunk = Chunk::insert(batch);
    let mut out = Vec::with_capacity(bytes + bytes / 8);
    timed("all columns: encoder", bytes, || {
        out.clear();
        JsonEncoder::new(&schema, JsonEncodeOptions::default()).encode(&chunk, &mut out)?;
        Ok(())
    })
}

fn expect_all(rows: u64) -> Outcome {
    if rows == EVENTS {
        Ok(())
    } else {
        Err(format!("{rows} rows instead of {EVENTS}").into())
    }
}

fn timed(what: &str, bytes: usize, mut pass: impl FnMut() -> Outcome) -> Outcome {
    let mut best = f64::INFINITY;
    for _ in 0..PASSES {
        let start = seconds();
        pass()?;
        best = best.min(seconds() - start);
    }
    let nanos = best * 1e9 / EVENTS as f64;
    report(
        what,
        &format!("{nanos:8.1} ns/event  {:6.3} GB/s", bytes as f64 / best / 1e9),
    );
    Ok(())
}

/// Time on a processor where the system tells it (Linux), so that other load counts less; else the time of day.
fn seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let on_processor = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos: Option<f64> = on_processor.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(
        || START.get_or_init(Instant::now).elapsed().as_secs_f64(),
        |nanos| nanos / 1e9,
    )
}

/// A benchmark's output is its standard output.
#[allow(clippy::print_stdout)]
fn report(what: &str, figure: &str) {
    println!("{what:36} {figure}");
}

//! What a keyed exchange costs a row: hash, route, gather, channel, at several partition counts; beside it the partitioner of
//! the batch engine over the same rows.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::metrics::Time;
use datafusion::physical_plan::repartition::BatchPartitioner;
use laminar::engine::exchange::partition::Partitioner;
use laminar::engine::message::Chunk;
use laminar::state::key_group::KeyGroups;

const ROWS: usize = 8192;
const CHUNKS: usize = 64;
const ROUNDS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let chunks = chunks()?;
    println!(
        "{:<12}{:>16}{:>22}{:>8}",
        "partitions", "ns/row", "batch engine ns/row", "ratio"
    );
    for partitions in [4_u32, 16, 64] {
        let ours = measure(
            &chunks,
            |partitioner, chunk| Ok(partitioner.partition(chunk.clone())?.len()),
            partitions,
        )?;
        let theirs = measure_batch_engine(&chunks, partitions)?;
        println!("{partitions:<12}{ours:>16.1}{theirs:>22.1}{:>8.2}", ours / theirs);
    }
    Ok(())
}

/// Bids: a key with many values, two numbers and a text of thirty bytes.
fn chunks() -> Result<Vec<Chunk>, Box<dyn Error>> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("auction", DataType::Int64, false),
        Field::new("bidder", DataType::Int64, false),
        Field::new("price", DataType::Int64, false),
        Field::new("channel", DataType::Utf8, false),
    ]));
    let mut state = 1_u64;
    let mut next = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as i64
    };
    let mut chunks = Vec::with_capacity(CHUNKS);
    for _ in 0..CHUNKS {
        let mut number = |below: i64| Int64Array::from_iter_values((0..ROWS).map(|_| next() % below));
        let (auctions, bidders, prices) = (number(100_000), number(10_000), number(1_000_000));
        let channels =
            StringArray::from_iter_values((0..ROWS).map(|row| format!("channel-of-thirty-bytes-{:06}", row % 997)));
        let columns: Vec<ArrayRef> = vec![
            Arc::new(auctions),
            Arc::new(bidders),
            Arc::new(prices),
            Arc::new(channels),
        ];
        chunks.push(Chunk::insert(RecordBatch::try_new(Arc::clone(&schema), columns)?));
    }
    Ok(chunks)
}

fn measure(
    chunks: &[Chunk],
    mut run: impl FnMut(&mut Partitioner, &Chunk) -> Result<usize, Box<dyn Error>>,
    partitions: u32,
) -> Result<f64, Box<dyn Error>> {
    let mut partitioner = Partitioner::new(vec![0], KeyGroups::default(), partitions);
    let mut parts = 0;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        for chunk in chunks {
            parts += run(&mut partitioner, chunk)?;
        }
    }
    let elapsed = started.elapsed();
    if parts == 0 {
        return Err("nothing was partitioned".into());
    }
    Ok(elapsed.as_nanos() as f64 / (ROUNDS * chunks.len() * ROWS) as f64)
}

fn measure_batch_engine(chunks: &[Chunk], partitions: u32) -> Result<f64, Box<dyn Error>> {
    let keys = vec![Arc::new(Column::new("auction", 0)) as _];
    let mut partitioner = BatchPartitioner::new_hash_partitioner(keys, partitions as usize, Time::new())?;
    let mut rows = 0;
    let started = Instant::now();
    for _ in 0..ROUNDS {
        for chunk in chunks {
            for part in partitioner.partition_iter(chunk.rows.clone())? {
                rows += part?.1.num_rows();
            }
        }
    }
    let elapsed = started.elapsed();
    if rows == 0 {
        return Err("nothing was partitioned".into());
    }
    Ok(elapsed.as_nanos() as f64 / (ROUNDS * chunks.len() * ROWS) as f64)
}

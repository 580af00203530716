//! Files as they lie: compressed ones, Parquet, Arrow.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::engine::connectors::filesystem::compression::Compression;
use crate::engine::formats::Encoder;
use crate::engine::formats::arrow_stream::{ArrowEncoder, ArrowReader};
use crate::engine::message::Chunk;
use crate::types::SqlType;

/// So many bytes of contents are looked at.
const CONTENTS_MAX: u64 = 1 << 20;
const BATCHES_MAX: usize = 64;

/// Contents are read or refused, and what is packed is unpacked again.
pub fn compressed(data: &[u8]) {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let unpack = |packed: &[u8]| -> std::io::Result<Vec<u8>> {
            let mut contents = Vec::new();
            let reader = compression.reader(packed)?;
            reader.take(CONTENTS_MAX).read_to_end(&mut contents)?;
            Ok(contents)
        };
        // Damage is an error; it never makes up contents beyond what was asked for.
        if let Ok(contents) = unpack(data) {
            assert!(contents.len() as u64 <= CONTENTS_MAX);
        }
        let packed = compression.member(data.to_vec()).expect("anything can be packed");
        let contents = unpack(&packed).expect("what was packed can be unpacked");
        assert_eq!(contents, &data[..data.len().min(CONTENTS_MAX as usize)]);
        let twice = [packed.as_slice(), packed.as_slice()].concat();
        assert!(unpack(&twice).is_ok(), "members one after the other are a file");
    }
}

/// A damaged file is refused, or breaks off its decoder, which the reader of files catches; the process goes on, with its memory.
pub fn parquet(data: &[u8]) {
    let file = Bytes::copy_from_slice(data);
    let read = catch_unwind(AssertUnwindSafe(|| {
        let Ok(builder) = ParquetRecordBatchReaderBuilder::try_new(file) else {
            return 0;
        };
        let Ok(batches) = builder.with_batch_size(128).build() else {
            return 0;
        };
        batches
            .take(BATCHES_MAX)
            .map_while(Result::ok)
            .map(|rows| rows.num_rows())
            .sum()
    }));
    assert!(read.is_err() || read.is_ok_and(|rows: usize| rows <= 128 * BATCHES_MAX));
}

/// The batches of a stream up to its end or its damage, and how many rows were left out of them.
fn batches(bytes: &[u8], skip: u64) -> Vec<RecordBatch> {
    let Ok(mut reader) = ArrowReader::open(bytes) else {
        return Vec::new();
    };
    reader.skip(skip);
    let mut batches = Vec::new();
    while let Ok(Some(batch)) = reader.next_batch() {
        batches.push(batch);
        if batches.len() == BATCHES_MAX {
            break;
        }
    }
    batches
}

/// A damaged stream is refused; what comes before the damage is read, from any row on, and is written and read again.
pub fn arrow(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let found = batches(bytes, 0);
    let rows: usize = found.iter().map(RecordBatch::num_rows).sum();
    let skip = usize::from(*first).min(rows);
    let rest: usize = batches(bytes, skip as u64).iter().map(RecordBatch::num_rows).sum();
    // Batches that are stepped over are not looked at, so that damage in them is not seen.
    assert!(
        found.len() == BATCHES_MAX || rest + skip >= rows,
        "rows were lost on the way to row {skip}"
    );
    let Some(one) = found.first() else { return };
    let schema = one.schema();
    let is_of_tables = |of: &DataType| !of.is_nested() && SqlType::from_arrow(of).is_some();
    if !schema.fields().iter().all(|field| is_of_tables(field.data_type())) {
        return;
    }
    let mut encoder = ArrowEncoder::new(&schema).expect("a schema");
    let mut out = Vec::new();
    encoder.header(&mut out);
    for batch in &found {
        encoder
            .encode(&Chunk::insert(batch.clone()), &mut out)
            .expect("rows can be written");
    }
    let written: Vec<&RecordBatch> = found.iter().filter(|batch| batch.num_rows() > 0).collect();
    let again = batches(&out, 0);
    assert!(again.iter().eq(written), "what was written is read otherwise");
}

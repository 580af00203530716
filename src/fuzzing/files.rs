//! Files as they lie: compressed ones, Parquet.

use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::engine::connectors::filesystem::compression::Compression;

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

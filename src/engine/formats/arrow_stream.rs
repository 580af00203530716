//! Arrow IPC: the stream format and the file format, which is a stream between a mark and a footer, and so is read as one.
//!
//! Guarantees: damaged input is an error, never a panic; it takes no more memory than it has bytes, or, where buffers are compressed, than
//! [`MESSAGE_MAX`]. Batches before the damage are read. Rows that were read before are stepped over without decoding them.
//!
//! Not here: big-endian streams, the format from before Arrow 0.15, files whose footer puts batches in another order than they lie in.

use std::collections::HashMap;
use std::io::{Error as IoError, ErrorKind, Read, Result as IoResult};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::convert::fb_to_schema;
use arrow::ipc::reader::{read_dictionary, read_record_batch};
use arrow::ipc::writer::StreamWriter;
use arrow::ipc::{Endianness, MessageHeader, RecordBatch as BatchHeader, root_as_message};

use crate::engine::error::Error;
use crate::engine::formats::added_rows::chunk_of_added;
use crate::engine::formats::{Encoder, Written};
use crate::engine::message::Chunk;

/// What files begin with; streams do not.
const MAGIC: [u8; 8] = *b"ARROW1\0\0";
/// Before the first message of a file.
const PADDING_MAX: u64 = 64;
const CONTINUATION: [u8; 4] = [0xff; 4];
const METADATA_MAX: u64 = 64 * 1024 * 1024;
/// Of the buffers of one message, packed or not.
pub const MESSAGE_MAX: u64 = 1024 * 1024 * 1024;
/// Rows that a batch may have without any bytes.
const EMPTY_ROWS_MAX: u64 = 64 * 1024;

/// Batches of a stream or a file.
pub struct ArrowReader<R> {
    from: R,
    /// Bytes taken.
    at: u64,
    is_file: bool,
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    projection: Option<Vec<usize>>,
    /// Rows to be left out.
    skipped: u64,
}

fn damaged(what: impl Into<String>) -> IoError {
    IoError::new(ErrorKind::InvalidData, what.into())
}

/// Decoders of damaged messages are known to panic.
fn guarded<T>(decode: impl FnOnce() -> Result<T, ArrowError>) -> IoResult<T> {
    match catch_unwind(AssertUnwindSafe(decode)) {
        Ok(decoded) => decoded.map_err(|error| damaged(error.to_string())),
        Err(_) => Err(damaged("the decoder of its messages broke off")),
    }
}

impl<R: Read> ArrowReader<R> {
    /// Reads the schema.
    pub fn open(from: R) -> IoResult<ArrowReader<R>> {
        let mut reader = ArrowReader {
            from,
            at: 0,
            is_file: false,
            schema: Arc::new(arrow::datatypes::Schema::empty()),
            dictionaries: HashMap::new(),
            projection: None,
            skipped: 0,
        };
        let mut start = reader.exactly(4)?;
        if start == MAGIC[..4] {
            if reader.exactly(4)? != MAGIC[4..] {
                return Err(damaged("it begins neither as an Arrow stream nor as a file"));
            }
            reader.is_file = true;
            start = reader.exactly(4)?;
            // Writers begin messages at multiples of 8 or of 64 bytes.
            while start == [0; 4] && reader.at <= PADDING_MAX {
                start = reader.exactly(4)?;
            }
        }
        let metadata = reader.metadata(&start)?;
        let metadata = metadata.ok_or_else(|| damaged("it has no schema"))?;
        let message = root_as_message(&metadata).map_err(|error| damaged(error.to_string()))?;
        let Some(schema) = message.header_as_schema() else {
            return Err(damaged("it does not begin with a schema"));
        };
        if schema.endianness() == Endianness::Big {
            return Err(damaged("its numbers are big-endian, which is not supported"));
        }
        reader.schema = Arc::new(guarded(|| Ok(fb_to_schema(schema)))?);
        reader.step_over(body_length(message.bodyLength())?)?;
        Ok(reader)
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Only columns with names that are `wanted`.
    pub fn project(&mut self, wanted: impl Fn(&str) -> bool) {
        let fields = self.schema.fields().iter().enumerate();
        let chosen = fields.filter(|(_, field)| wanted(field.name()));
        self.projection = Some(chosen.map(|(at, _)| at).collect());
    }

    /// Leaves so many rows out.
    pub fn skip(&mut self, rows: u64) {
        self.skipped = rows;
    }

    /// Rows that were to be left out and have not come.
    pub fn missing(&self) -> u64 {
        self.skipped
    }

    pub fn next_batch(&mut self) -> IoResult<Option<RecordBatch>> {
        loop {
            let mut start = Vec::new();
            self.from.by_ref().take(4).read_to_end(&mut start)?;
            self.at += start.len() as u64;
            if start.is_empty() && !self.is_file {
                return Ok(None);
            }
            let Some(metadata) = self.metadata(&start)? else {
                return Ok(None);
            };
            let message = root_as_message(&metadata).map_err(|error| damaged(error.to_string()))?;
            let length = body_length(message.bodyLength())?;
            let version = message.version();
            match message.header_type() {
                MessageHeader::RecordBatch => {
                    let header = message.header_as_record_batch();
                    let header = header.ok_or_else(|| damaged("a batch without a header"))?;
                    let rows = u64::try_from(header.length()).map_err(|_| damaged("a batch of fewer than no rows"))?;
                    if rows <= self.skipped {
                        self.skipped -= rows;
                        self.step_over(length)?;
                        continue;
                    }
                    let body = self.body(length, &header, rows)?;
                    let (schema, dictionaries) = (Arc::clone(&self.schema), &self.dictionaries);
                    let projection = self.projection.as_deref();
                    let batch =
                        guarded(|| read_record_batch(&body, header, schema, dictionaries, projection, &version))?;
                    if batch.num_rows() as u64 != rows {
                        return Err(damaged("a batch has another number of rows than it says"));
                    }
                    let start = std::mem::take(&mut self.skipped) as usize;
                    return Ok(Some(batch.slice(start, batch.num_rows() - start)));
                }
                MessageHeader::DictionaryBatch => {
                    let header = message.header_as_dictionary_batch();
                    let header = header.ok_or_else(|| damaged("a dictionary without a header"))?;
                    let values = header.data().ok_or_else(|| damaged("a dictionary without values"))?;
                    let rows =
                        u64::try_from(values.length()).map_err(|_| damaged("a dictionary of fewer than none"))?;
                    let body = self.body(length, &values, rows)?;
                    let (schema, dictionaries) = (&self.schema, &mut self.dictionaries);
                    guarded(|| read_dictionary(&body, header, schema, dictionaries, &version))?;
                }
                MessageHeader::Schema => return Err(damaged("it has a second schema")),
                _ => self.step_over(length)?,
            }
        }
    }

    fn exactly(&mut self, length: u64) -> IoResult<Vec<u8>> {
        let mut bytes = Vec::new();
        // Grows with what comes, whatever length is said.
        self.from.by_ref().take(length).read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        match bytes.len() as u64 == length {
            true => Ok(bytes),
            false => Err(self.ends_early()),
        }
    }

    fn ends_early(&self) -> IoError {
        damaged(format!(
            "it ends at byte {}, inside of a message or before its end",
            self.at
        ))
    }

    fn step_over(&mut self, length: u64) -> IoResult<()> {
        let skipped = std::io::copy(&mut self.from.by_ref().take(length), &mut std::io::sink())?;
        self.at += skipped;
        match skipped == length {
            true => Ok(()),
            false => Err(self.ends_early()),
        }
    }

    /// The description of the message that begins with `start`; `None`: the end.
    fn metadata(&mut self, start: &[u8]) -> IoResult<Option<Vec<u8>>> {
        if start.len() < CONTINUATION.len() {
            return Err(self.ends_early());
        }
        let at = self.at - CONTINUATION.len() as u64;
        if start != CONTINUATION {
            return Err(damaged(format!("what stands at byte {at} is no message of Arrow")));
        }
        let length = self.exactly(4)?;
        let length = length.first_chunk::<4>().map_or(0, |bytes| i32::from_le_bytes(*bytes));
        match u64::try_from(length) {
            Ok(0) => Ok(None),
            Ok(length) if length <= METADATA_MAX => self.exactly(length).map(Some),
            _ => Err(damaged(format!(
                "the message at byte {at} says that it has {length} bytes"
            ))),
        }
    }

    /// The buffers of a message, which can hold what its header says.
    fn body(&mut self, length: u64, header: &BatchHeader<'_>, rows: u64) -> IoResult<Buffer> {
        let body = self.exactly(length)?;
        let mut unpacked = length;
        if header.compression().is_some() {
            for buffer in header.buffers().into_iter().flatten() {
                let start = usize::try_from(buffer.offset()).ok();
                let said = start.and_then(|start| body.get(start..)?.first_chunk::<8>());
                let said = said.map_or(0, |bytes| i64::from_le_bytes(*bytes));
                unpacked = unpacked.saturating_add(u64::try_from(said).unwrap_or(0));
            }
        }
        if unpacked > MESSAGE_MAX {
            return Err(damaged(format!("a message has more than {MESSAGE_MAX} bytes")));
        }
        if rows > EMPTY_ROWS_MAX + 8 * unpacked {
            return Err(damaged(format!("{rows} rows are said to be in {unpacked} bytes")));
        }
        Ok(Buffer::from_vec(body))
    }
}

fn body_length(length: i64) -> IoResult<u64> {
    let length = u64::try_from(length).ok().filter(|length| *length <= MESSAGE_MAX);
    length.ok_or_else(|| {
        damaged(format!(
            "a message has more than {MESSAGE_MAX} bytes, or fewer than none"
        ))
    })
}

/// Rows as the batches of a stream. It has no mark at its end, so that more can follow after a restart.
pub struct ArrowEncoder {
    schema: SchemaRef,
    header: Vec<u8>,
    writer: StreamWriter<Vec<u8>>,
}

impl ArrowEncoder {
    pub fn new(schema: &SchemaRef) -> Result<ArrowEncoder, Error> {
        let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
        Ok(ArrowEncoder {
            schema: Arc::clone(schema),
            header: std::mem::take(writer.get_mut()),
            writer,
        })
    }
}

impl Encoder for ArrowEncoder {
    fn header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header);
    }

    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let rows = chunk_of_added(chunk)?.rows;
        if rows.num_rows() > 0 {
            let columns = rows.columns().iter().zip(self.schema.fields());
            let columns = columns.map(|(column, field)| arrow::compute::cast(column, field.data_type()));
            let columns = columns.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
            let schema = Arc::clone(&self.schema);
            let rows = crate::types::record_batch::batch_of_rows(schema, columns, rows.num_rows())?;
            self.writer.write(&rows)?;
            out.append(self.writer.get_mut());
        }
        (0..chunk.len()).for_each(|row| written(row, out));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{DictionaryArray, Int64Array, NullArray, StringArray, StringViewArray};
    use arrow::compute::concat_batches;
    use arrow::datatypes::{DataType, Field, Int8Type, Schema};
    use arrow::ipc::CompressionType;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions};

    use super::*;
    use crate::engine::message::Weights;

    fn rows(start: i64) -> RecordBatch {
        let texts = ["a", "a longer text than views keep inside", "c"];
        let dictionary: DictionaryArray<Int8Type> = texts[..(start % 3 + 1) as usize]
            .iter()
            .copied()
            .cycle()
            .take(100)
            .collect();
        RecordBatch::try_from_iter(vec![
            (
                "n",
                Arc::new(Int64Array::from_iter_values(start..start + 100)) as ArrayRef,
            ),
            (
                "text",
                Arc::new(StringArray::from_iter(
                    (0..100).map(|n| (n % 3 > 0).then(|| texts[n % 3])),
                )) as ArrayRef,
            ),
            (
                "view",
                Arc::new(StringViewArray::from_iter_values((0..100).map(|n| texts[n % 3]))) as ArrayRef,
            ),
            ("nothing", Arc::new(NullArray::new(100)) as ArrayRef),
            ("word", Arc::new(dictionary) as ArrayRef),
        ])
        .unwrap()
    }

    fn written(is_file: bool, compression: Option<CompressionType>) -> Vec<u8> {
        let schema = rows(0).schema();
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut bytes = Vec::new();
        if is_file {
            let options = options.with_dictionary_handling(arrow::ipc::writer::DictionaryHandling::Resend);
            // A file has one dictionary a column.
            let mut writer = FileWriter::try_new_with_options(&mut bytes, &schema, options).unwrap();
            (0..5).for_each(|_| writer.write(&rows(200)).unwrap());
            writer.finish().unwrap();
        } else {
            let mut writer = StreamWriter::try_new_with_options(&mut bytes, &schema, options).unwrap();
            (0..5).for_each(|batch| writer.write(&rows(batch * 100)).unwrap());
            writer.finish().unwrap();
        }
        bytes
    }

    fn read(bytes: &[u8], skip: u64, wanted: impl Fn(&str) -> bool) -> (Vec<RecordBatch>, Option<String>) {
        let mut batches = Vec::new();
        let mut reader = match ArrowReader::open(bytes) {
            Ok(reader) => reader,
            Err(error) => return (batches, Some(error.to_string())),
        };
        reader.project(wanted);
        reader.skip(skip);
        loop {
            match reader.next_batch() {
                Ok(Some(batch)) => batches.push(batch),
                Ok(None) => return (batches, None),
                Err(error) => return (batches, Some(error.to_string())),
            }
        }
    }

    #[test]
    fn streams_and_files_are_read_from_any_row_on() {
        for compression in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            for is_file in [false, true] {
                let bytes = written(is_file, compression);
                let expected: Vec<RecordBatch> = (0..5)
                    .map(|batch| rows(if is_file { 200 } else { batch * 100 }))
                    .collect();
                let expected = concat_batches(&expected[0].schema(), &expected).unwrap();
                for skip in [0, 1, 99, 100, 101, 250, 499] {
                    let (found, error) = read(&bytes, skip, |_| true);
                    assert_eq!(error, None);
                    let found = concat_batches(&found[0].schema(), &found).unwrap();
                    assert_eq!(found, expected.slice(skip as usize, 500 - skip as usize));
                }
                let (found, _) = read(&bytes, 450, |name| name == "word" || name == "n");
                assert_eq!(found[0], expected.project(&[0, 4]).unwrap().slice(450, 50));
                assert_eq!(read(&bytes, 500, |_| true), (Vec::new(), None));
            }
        }
    }

    #[test]
    fn damage_is_an_error_behind_the_batches_before_it() {
        for is_file in [false, true] {
            let bytes = written(is_file, Some(CompressionType::ZSTD));
            let (whole, _) = read(&bytes, 0, |_| true);
            for cut in 0..bytes.len() {
                let (found, error) = read(&bytes[..cut], 0, |_| true);
                assert!(found.len() <= 5 && found == whole[..found.len()]);
                assert!(found.len() == 5 || error.is_some() || !is_file);
            }
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 0xff;
                // Values may be others: nothing in the format notices that.
                let (found, _) = read(&changed, 0, |_| true);
                assert!(found.iter().map(RecordBatch::num_rows).sum::<usize>() <= 5 * EMPTY_ROWS_MAX as usize);
            }
        }
        for bytes in [
            &b""[..],
            b"ARROW1",
            b"ARROW1\0\0",
            b"PAR1....",
            b"\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\xff\xff\xff\xff\0\0\0\0",
        ] {
            assert!(ArrowReader::open(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_stream_goes_on_after_a_restart() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]));
        let batch = |start: i64| {
            let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(start..start + 3));
            RecordBatch::try_new(Arc::clone(&schema), vec![numbers]).unwrap()
        };
        let mut out = Vec::new();
        ArrowEncoder::new(&schema).unwrap().header(&mut out);
        for start in [0, 10] {
            let mut chunk = Chunk::insert(batch(start));
            chunk.weights = Weights::Signed(vec![1, 2, 0].into());
            ArrowEncoder::new(&schema).unwrap().encode(&chunk, &mut out).unwrap();
        }
        let (found, error) = read(&out, 0, |_| true);
        assert_eq!(error, None);
        let found = concat_batches(&schema, &found).unwrap();
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 1, 10, 11, 11]));
        assert_eq!(found.column(0), &numbers);
    }
}

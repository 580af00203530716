//! Object container files: the schema, a mark, then blocks of records, each packed by itself and followed by the mark.
//!
//! A block is taken whole, so a position in a file is always the start of one. How they are packed: see `codec`.
//!
//! Guarantee: a record whose values do not fit the columns is reported alone. Not guaranteed: the records after one that is no record at
//! all, as far as its block; nothing in a block says where they begin. They are counted in the report.
//!
//! The mark of files written here is a hash of the schema: who goes on with a file after a crash writes the same.

use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, SchemaRef};

use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::added_rows::for_each_added;
use crate::engine::formats::avro::AvroOptions;
use crate::engine::formats::avro::codec::{BLOCK_MAX, CODECS, Codec};
use crate::engine::formats::avro::plan::RecordPlan;
use crate::engine::formats::avro::read::{Datum, Decoded, fault, record, skip};
use crate::engine::formats::avro::schema::AvroSchema;
use crate::engine::formats::avro::write::{RecordWriter, long, sized};
use crate::engine::formats::columns::BatchBuilder;
use crate::engine::formats::registered::mismatch;
use crate::engine::formats::{Decoder, Encoder, Input, Written};
use crate::engine::message::Chunk;
use crate::error::SqlState;

const MAGIC: &[u8] = b"Obj\x01";
const MARK: usize = 16;

/// Unpacked at once, beyond which the rows so far are taken first: offsets in columns have 32 bits.
const UNPACKED_MAX: usize = 64 * 1024 * 1024;

/// What a file begins with.
#[derive(Debug)]
pub struct Header {
    pub schema: AvroSchema,
    codec: Codec,
    mark: [u8; MARK],
    length: usize,
}

/// The header at the start of `bytes`; `None`: there is more of it to come.
pub fn header(bytes: &[u8], place: &str, at_end: bool) -> Result<Option<Header>, Error> {
    if !bytes.starts_with(MAGIC) && (at_end || bytes.len() >= MAGIC.len()) {
        return Err(damaged(
            place,
            "it does not begin as an Avro object container file does",
        ));
    }
    let mut datum = Datum::new(bytes);
    match raw_header(&mut datum) {
        Err(_) if !at_end && bytes.len() < BLOCK_MAX => Ok(None),
        Err(found) => Err(damaged(
            place,
            &format!("its header cannot be read: {}", found.reason()),
        )),
        Ok((schema, codec, mark)) => {
            let name = codec.as_deref();
            let codec = Codec::find(name).ok_or_else(|| {
                let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
                Error::NotSupported {
                    what: format!("codec \"{name}\" of file \"{place}\""),
                    hint: Some(format!("{CODECS} are supported.")),
                }
            })?;
            let schema = schema.ok_or_else(|| damaged(place, "its header has no schema"))?;
            let schema = String::from_utf8_lossy(&schema).into_owned();
            Ok(Some(Header {
                schema: AvroSchema::parse(&schema, &[]).map_err(|reason| damaged(place, &reason))?,
                codec,
                mark,
                length: datum.at,
            }))
        }
    }
}

type RawHeader = (Option<Vec<u8>>, Option<Vec<u8>>, [u8; MARK]);

fn raw_header(datum: &mut Datum<'_>) -> Decoded<RawHeader> {
    datum.take(MAGIC.len())?;
    let (mut schema, mut codec) = (None, None);
    loop {
        let mut count = datum.long()?;
        if count < 0 {
            datum.long()?;
            count = count.saturating_neg();
        }
        if count == 0 {
            break;
        }
        for _ in 0..count {
            let name = datum.sized()?;
            let value = datum.sized()?;
            match name {
                b"avro.schema" => schema = Some(value.to_vec()),
                b"avro.codec" => codec = Some(value.to_vec()),
                _ => {}
            }
        }
    }
    let mut mark = [0; MARK];
    mark.copy_from_slice(datum.take(MARK)?);
    Ok((schema, codec, mark))
}

fn damaged(place: &str, what: &str) -> Error {
    Error::Data {
        code: SqlState::DATA_CORRUPTED,
        message: format!("could not read file \"{place}\": {what}"),
        detail: None,
    }
}

pub struct ContainerDecoder {
    columns: Fields,
    batch: BatchBuilder,
    file: Option<(Header, RecordPlan)>,
    /// Bytes that the rows were made of.
    unpacked: usize,
}

impl ContainerDecoder {
    /// From the start of a file.
    pub fn new(schema: &SchemaRef) -> Result<ContainerDecoder, Error> {
        Ok(ContainerDecoder {
            columns: schema.fields().clone(),
            batch: BatchBuilder::new(schema)?,
            file: None,
            unpacked: 0,
        })
    }

    /// From the start of a block; `head` is what the file begins with.
    pub fn after(schema: &SchemaRef, head: &[u8], place: &str) -> Result<ContainerDecoder, Error> {
        let mut decoder = ContainerDecoder::new(schema)?;
        decoder.begin(head, place, true)?;
        Ok(decoder)
    }

    /// Reads the header; gives its length once it is there.
    fn begin(&mut self, bytes: &[u8], place: &str, at_end: bool) -> Result<Option<usize>, Error> {
        let Some(header) = header(bytes, place, at_end)? else {
            return Ok(None);
        };
        let length = header.length;
        let plan = RecordPlan::of_rows(&header.schema, &self.columns);
        let plan = plan.map_err(|reason| mismatch(&format!("the schema of file \"{place}\""), &reason))?;
        self.file = Some((header, plan));
        Ok(Some(length))
    }

    /// Reads the block at the start of `input`; gives its length once all of it is there.
    fn block(&mut self, input: Input<'_>, bad_rows: &dyn BadRowHandler) -> Result<Option<usize>, Error> {
        let Some((header, plan)) = &self.file else {
            return Ok(None);
        };
        let mut datum = Datum::new(input.bytes);
        let (count, packed, mark) = match raw_block(&mut datum) {
            Ok(block) => block,
            Err(_) if !input.at_end && input.bytes.len() < BLOCK_MAX => return Ok(None),
            Err(found) => {
                let what = format!("the block at byte {}: {}", input.offset, found.reason());
                return Err(damaged(input.place, &what));
            }
        };
        if mark != header.mark {
            let what = format!("the block at byte {} does not end with the file's mark", input.offset);
            return Err(damaged(input.place, &what));
        }
        let contents = header.codec.unpack(packed).map_err(|error| {
            damaged(
                input.place,
                &format!("the block at byte {} cannot be unpacked: {error}", input.offset),
            )
        })?;
        self.unpacked += contents.len();
        let mut records = Datum::new(&contents);
        for number in 0..count {
            let start = records;
            let read = record(
                &header.schema,
                plan,
                &mut records,
                &mut self.batch.root,
                self.batch.rows,
            );
            let Err(found) = read else {
                self.batch.rows += 1;
                continue;
            };
            self.batch.roll_back();
            let (end, is_lost) = after_bad(&header.schema, start);
            let reason = match is_lost {
                false => found.reason(),
                true => format!(
                    "{}; with it go {} records after it in its block",
                    found.reason(),
                    count - number - 1
                ),
            };
            records = end;
            bad_rows.bad_row(BadRow {
                place: input.place,
                offset: input.offset,
                raw: &contents[start.at..end.at],
                reason: &reason,
            })?;
            if is_lost {
                break;
            }
        }
        if records.left() > 0 {
            return Err(damaged(
                input.place,
                &format!("the block at byte {} has more bytes than its records", input.offset),
            ));
        }
        Ok(Some(datum.at))
    }
}

/// Where the record after a bad one begins, which is known if that is a record, whatever its values; else the end.
fn after_bad<'a>(schema: &AvroSchema, start: Datum<'a>) -> (Datum<'a>, bool) {
    let mut end = start;
    let is_lost = skip(schema, schema.root, &mut end, 0).is_err();
    if is_lost {
        end.at = end.bytes.len();
    }
    (end, is_lost)
}

fn raw_block<'a>(datum: &mut Datum<'a>) -> Decoded<(i64, &'a [u8], &'a [u8])> {
    let count = datum.long()?;
    if count < 0 {
        return fault("the number of its records is negative");
    }
    let packed = datum.sized()?;
    let mark = datum.take(MARK)?;
    Ok((count, packed, mark))
}

impl Decoder for ContainerDecoder {
    fn decode(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        let mut at = 0;
        if self.file.is_none() {
            if input.bytes.is_empty() && input.at_end {
                return Ok(0);
            }
            match self.begin(input.bytes, input.place, input.at_end)? {
                Some(length) => at = length,
                None => return Ok(0),
            }
        }
        while at < input.bytes.len() && self.batch.rows < rows_max && self.unpacked < UNPACKED_MAX {
            let rest = Input {
                bytes: &input.bytes[at..],
                offset: input.offset + at as u64,
                ..input
            };
            match self.block(rest, bad_rows)? {
                Some(length) => at += length,
                None => break,
            }
        }
        Ok(at)
    }

    fn rows(&self) -> usize {
        self.batch.rows()
    }

    fn take(&mut self) -> Result<RecordBatch, Error> {
        self.unpacked = 0;
        self.batch.take()
    }
}

pub struct ContainerEncoder {
    schema: String,
    mark: [u8; MARK],
    writer: RecordWriter,
    records: Vec<u8>,
}

impl ContainerEncoder {
    pub fn new(columns: &Fields, options: &AvroOptions) -> Result<ContainerEncoder, Error> {
        let schema = options.sink_schema_text(columns)?;
        let parsed = options.sink_schema(columns)?;
        let writer = RecordWriter::of_rows(&parsed, columns);
        Ok(ContainerEncoder {
            mark: xxhash_rust::xxh3::xxh3_128(schema.as_bytes()).to_be_bytes(),
            schema,
            writer: writer.map_err(|reason| mismatch("the schema of its files", &reason))?,
            records: Vec::new(),
        })
    }
}

impl Encoder for ContainerEncoder {
    fn header(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(MAGIC);
        long(2, out);
        for (name, value) in [("avro.schema", self.schema.as_str()), ("avro.codec", "null")] {
            sized(name.as_bytes(), out);
            sized(value.as_bytes(), out);
        }
        long(0, out);
        out.extend_from_slice(&self.mark);
    }

    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let mut count = 0;
        self.records.clear();
        for_each_added(chunk, |row| {
            count += 1;
            self.writer.write(chunk.rows.columns(), row, &mut self.records)
        })?;
        if count > 0 {
            long(count, out);
            sized(&self.records, out);
            out.extend_from_slice(&self.mark);
        }
        (0..chunk.len()).for_each(|row| written(row, out));
        Ok(())
    }
}

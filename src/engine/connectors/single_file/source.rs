//! Reads the file in large blocks, on the shard: its bytes come from the page cache nearly always.
//!
//! Guarantee: the offset reported is that of the first record not yet delivered, so a restore neither repeats nor skips
//! one. Not guaranteed: anything about a file that is rewritten while it is read, except that a file shorter than the
//! restored offset is an error.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::connectors::rate::RateLimit;
use crate::engine::connectors::single_file::SingleFileTable;
use crate::engine::connectors::{BadRowHandler, Result, Source, SourceContext, SourcePoll, SplitOffset, files};
use crate::engine::error::Error;
use crate::engine::formats::csv::{CsvDecoder, CsvRecord};
use crate::engine::formats::{Decoder, Format, Input};
use crate::error::{Retry, SqlState};
use crate::ids::SubtaskIndex;

/// Bytes asked for at once.
const BLOCK: usize = 1024 * 1024;

/// The offset as it is checkpointed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Position {
    byte: u64,
}

pub fn open(table: &SingleFileTable, context: SourceContext) -> Result<Box<dyn Source>> {
    // There is one split; it belongs to the first subtask.
    if context.subtask != SubtaskIndex(0) {
        return Ok(Box::new(NoSplit));
    }
    let place = table.path.display().to_string();
    let mut file = open_file(&table.path)?;
    let decoder = decoder(table, &context, &mut file, &place)?;
    let start = restored(&context.restored, &place)?;
    let length = file
        .metadata()
        .map_err(|error| files::io_error("read", &place, &error))?
        .len();
    if start > length {
        return Err(shrunk(&place, start, length));
    }
    file.seek(SeekFrom::Start(start))
        .map_err(|error| files::io_error("read", &place, &error))?;
    Ok(Box::new(SingleFileSource {
        file,
        place,
        decoder,
        buffer: Vec::new(),
        start: 0,
        offset: start,
        at_end: false,
        finished: Finished::No,
        rate: table.rate.map(|rate| RateLimit::new(Arc::clone(&context.clock), rate)),
        bad_rows: context.bad_rows,
        bytes_read: 0,
    }))
}

fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|error| files::io_error("open", path.display(), &error))?;
    let metadata = file
        .metadata()
        .map_err(|error| files::io_error("open", path.display(), &error))?;
    if metadata.is_dir() {
        let error = std::io::Error::from(std::io::ErrorKind::IsADirectory);
        return Err(files::io_error("open", path.display(), &error));
    }
    Ok(file)
}

/// The first bytes of the file.
pub fn sample(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?
        .take(bytes_max as u64)
        .read_to_end(&mut bytes)
        .map_err(|error| files::io_error("read", path.display(), &error))?;
    Ok(bytes)
}

/// A CSV decoder needs the names of the file's columns wherever it begins.
fn decoder(table: &SingleFileTable, context: &SourceContext, file: &mut File, place: &str) -> Result<Box<dyn Decoder>> {
    if table.format.format != Format::Csv {
        return table.format.decoder(&context.schema, context.key.as_deref());
    }
    let options = table.format.csv.clone();
    let names = if options.header {
        let mut head = Vec::new();
        file.take(BLOCK as u64)
            .read_to_end(&mut head)
            .map_err(|error| files::io_error("read", place, &error))?;
        let mut record = CsvRecord::default();
        record.read(&head, head.len() < BLOCK, &options);
        record.texts()
    } else {
        let schema = table.schema.as_ref().unwrap_or(&context.schema);
        schema.fields().iter().map(|field| field.name().clone()).collect()
    };
    let (rows, key) = (&context.schema, context.key.as_deref());
    let records = CsvDecoder::new(&table.format.record_schema(rows, key)?, options, Some(&names))?;
    Ok(table.format.rows(Box::new(records), rows, key))
}

fn restored(offsets: &[SplitOffset], place: &str) -> Result<u64> {
    let Some(split) = offsets.first() else { return Ok(0) };
    let position: Position = serde_json::from_str(&split.offset)
        .map_err(|error| Error::Internal(format!("offset of file \"{place}\" cannot be read: {error}")))?;
    Ok(position.byte)
}

fn shrunk(place: &str, offset: u64, length: u64) -> Error {
    Error::External {
        code: SqlState::DATA_CORRUPTED,
        message: format!("file \"{place}\" is shorter than when it was read: {length} bytes, continuing at {offset}"),
        hint: Some("Put the file back, or create the pipeline anew.".into()),
        retry: Retry::Never,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Finished {
    No,
    SplitTold,
}

struct SingleFileSource {
    file: File,
    place: String,
    decoder: Box<dyn Decoder>,
    /// Bytes read and not decoded begin at `start`.
    buffer: Vec<u8>,
    start: usize,
    /// Where in the file `start` is.
    offset: u64,
    at_end: bool,
    finished: Finished,
    rate: Option<RateLimit>,
    bad_rows: Arc<dyn BadRowHandler>,
    bytes_read: u64,
}

impl SingleFileSource {
    fn read_block(&mut self) -> Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let kept = self.buffer.len();
        files::check_record_length(kept, &self.place, self.offset)?;
        // A long record doubles the block each time, so that it is not looked at over and over.
        let read = (&mut self.file)
            .take(BLOCK.max(kept) as u64)
            .read_to_end(&mut self.buffer)
            .map_err(|error| files::io_error("read", &self.place, &error))?;
        self.bytes_read += read as u64;
        self.at_end = read == 0;
        Ok(())
    }

    /// Decodes until there are rows or the file ends.
    fn decode(&mut self, rows_max: usize) -> Result<()> {
        loop {
            let input = Input {
                bytes: &self.buffer[self.start..],
                offset: self.offset,
                place: &self.place,
                at_end: self.at_end,
            };
            let taken = self.decoder.decode(input, rows_max, self.bad_rows.as_ref())?;
            self.start += taken;
            self.offset += taken as u64;
            if self.decoder.rows() > 0 {
                return Ok(());
            }
            if self.at_end {
                return Ok(());
            }
            self.read_block()?;
        }
    }
}

impl Source for SingleFileSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll> {
        if self.finished == Finished::SplitTold {
            return Ok(SourcePoll::Finished);
        }
        let rows_max = match &self.rate {
            None => rows_max,
            Some(rate) => match rate.due(rows_max) {
                Ok(rows) => rows,
                Err(when) => return Ok(SourcePoll::Pending(Some(when))),
            },
        };
        self.decode(rows_max.max(1))?;
        if self.decoder.rows() == 0 {
            self.finished = Finished::SplitTold;
            return Ok(SourcePoll::SplitFinished { split: 0 });
        }
        let (rows, weights) = self.decoder.take_changes()?;
        if let Some(rate) = &mut self.rate {
            rate.gave(rows.num_rows());
        }
        Ok(SourcePoll::decoded(0, rows, weights))
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        vec![SplitOffset {
            split: self.place.clone(),
            offset: format!("{{\"byte\":{}}}", self.offset),
        }]
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

/// A subtask for which there is nothing to read.
pub struct NoSplit;

impl Source for NoSplit {
    fn poll(&mut self, _rows_max: usize) -> Result<SourcePoll> {
        Ok(SourcePoll::Finished)
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        Vec::new()
    }
}

//! Appends to the file; its length is the position that a checkpoint keeps.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::engine::connectors::single_file::SingleFileTable;
use crate::engine::connectors::{Prepared, Result, Sink, SinkContext, files};
use crate::engine::error::Error;
use crate::engine::formats::Encoder;
use crate::engine::message::Chunk;
use crate::error::{Retry, SqlState};
use crate::ids::Epoch;

/// Bytes collected before the file is written to.
const BLOCK: usize = 256 * 1024;

/// The position as it is checkpointed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Position {
    byte: u64,
}

pub fn open(table: &SingleFileTable, context: &SinkContext) -> Result<Box<dyn Sink>> {
    let place = table.path.display().to_string();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&table.path)
        .map_err(|error| files::io_error("open", &place, &error))?;
    let length = restored_length(&context.restored, &place)?;
    let present = file
        .metadata()
        .map_err(|error| files::io_error("open", &place, &error))?
        .len();
    if present < length {
        return Err(shrunk(&place, length, present));
    }
    file.set_len(length)
        .and_then(|()| file.seek(SeekFrom::Start(length)))
        .map_err(|error| files::io_error("truncate", &place, &error))?;
    sync_folder(&table.path);
    let encoder = table.format.encoder(&context.schema, &context.changelog)?;
    let mut buffer = Vec::new();
    if length == 0 {
        encoder.header(&mut buffer);
    }
    Ok(Box::new(SingleFileSink {
        file,
        place,
        encoder,
        buffer,
        length,
        written: 0,
    }))
}

/// Makes a new file's name durable. Not every file system can; then the name is as durable as it makes it by itself.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
}

fn restored_length(restored: &[String], place: &str) -> Result<u64> {
    let Some(text) = restored.first() else { return Ok(0) };
    let position: Position = serde_json::from_str(text)
        .map_err(|error| Error::Internal(format!("position in file \"{place}\" cannot be read: {error}")))?;
    Ok(position.byte)
}

fn shrunk(place: &str, wanted: u64, present: u64) -> Error {
    Error::External {
        code: SqlState::DATA_CORRUPTED,
        message: format!("file \"{place}\" has lost rows: {present} bytes, {wanted} at the checkpoint"),
        hint: Some("Put the file back, or create the pipeline anew.".into()),
        retry: Retry::Never,
    }
}

struct SingleFileSink {
    file: File,
    place: String,
    encoder: Box<dyn Encoder>,
    buffer: Vec<u8>,
    /// Bytes in the file.
    length: u64,
    written: u64,
}

impl SingleFileSink {
    fn write_out(&mut self) -> Result<()> {
        self.file
            .write_all(&self.buffer)
            .map_err(|error| files::io_error("write to", &self.place, &error))?;
        self.length += self.buffer.len() as u64;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

impl Sink for SingleFileSink {
    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        self.encoder.encode(chunk, &mut self.buffer)?;
        if self.buffer.len() >= BLOCK {
            self.write_out()?;
        }
        Ok(())
    }

    fn prepare(&mut self, _epoch: Epoch) -> Result<Prepared> {
        self.write_out()?;
        let file = self
            .file
            .try_clone()
            .map_err(|error| files::io_error("sync", &self.place, &error))?;
        let place = self.place.clone();
        Ok(Prepared {
            committable: None,
            position: Some(format!("{{\"byte\":{}}}", self.length)),
            work: Some(Box::new(move || {
                file.sync_data()
                    .map_err(|error| files::io_error("sync", &place, &error))
            })),
        })
    }

    fn flush(&mut self) -> Result<()> {
        self.write_out()
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}

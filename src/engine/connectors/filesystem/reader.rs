//! Fetches files ahead of the shard, on the I/O runtime, into a bounded queue.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use tokio::sync::mpsc;

use crate::engine::connectors::filesystem::Files;
use crate::engine::connectors::filesystem::location::{InputFile, Location, store_error};
use crate::engine::connectors::filesystem::parquet_file;
use crate::engine::connectors::filesystem::source::Position;
use crate::engine::connectors::{Result, SplitOffset, Wake};
use crate::engine::error::Error;
use crate::engine::formats::Format;
use crate::engine::formats::csv::CsvRecord;
use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::error::{Retry, SqlState};

/// Bytes fetched at once; the queue holds a few such blocks.
const BLOCK: u64 = 2 * 1024 * 1024;
pub const QUEUE_ITEMS: usize = 4;

/// What the shard gets, file after file.
pub enum Item {
    /// The files of this subtask: split number, name, where to begin. Comes first, once.
    Files(Vec<(usize, String, Position)>),
    /// The file with this split number begins; the names of its CSV columns when its header is not in the bytes to come.
    Begin(usize, Option<Vec<String>>),
    Bytes(Bytes),
    Rows(RecordBatch),
    End,
    Failed(Error),
}

/// What the task that fetches works with.
pub struct Reader {
    pub files: Arc<Files>,
    pub subtask: usize,
    pub parallelism: usize,
    pub restored: Vec<SplitOffset>,
    /// Columns to take out of Parquet files.
    pub schema: SchemaRef,
    pub queue: mpsc::Sender<Item>,
    pub waker: Arc<dyn Wake>,
}

/// The source was dropped.
struct Gone;

impl Reader {
    pub async fn run(self) {
        if let Err(error) = self.read_all().await {
            // Nobody waits for it when the source is gone.
            let _ = self.send(Item::Failed(error)).await;
        }
        drop(self.queue);
        self.waker.wake();
    }

    async fn send(&self, item: Item) -> Result<(), Gone> {
        self.queue.send(item).await.map_err(|_| Gone)?;
        self.waker.wake();
        Ok(())
    }

    async fn read_all(&self) -> Result<()> {
        let listed = self.files.list().await?;
        let positions = positions(&self.restored)?;
        for (name, position) in &positions {
            if !position.finished && !listed.iter().any(|file| file.name == *name) {
                return Err(removed(name));
            }
        }
        let numbered = listed.iter().enumerate();
        let mine: Vec<_> = match self.files.format.append_only() {
            true => numbered.skip(self.subtask).step_by(self.parallelism).collect(),
            // A change means something only after those before it.
            false => numbered.take_while(|_| self.subtask == 0).collect(),
        };
        let position_of = |file: &InputFile| {
            let restored = positions.iter().find(|(name, _)| *name == file.name);
            restored.map_or(Position::default(), |(_, position)| *position)
        };
        let known = mine
            .iter()
            .map(|(split, file)| (*split, file.name.clone(), position_of(file)))
            .collect();
        if self.send(Item::Files(known)).await.is_err() {
            return Ok(());
        }
        for (split, file) in mine {
            let position = position_of(file);
            if position.finished {
                continue;
            }
            if self.read_file(split, file, position).await?.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn read_file(&self, split: usize, file: &InputFile, position: Position) -> Result<Result<(), Gone>> {
        if position.byte > file.size {
            return Err(shrunk(file, position.byte));
        }
        let names = self.header(file, position).await?;
        if self.send(Item::Begin(split, names)).await.is_err() {
            return Ok(Err(Gone));
        }
        let outcome = if self.files.format.format == Format::Parquet {
            self.read_rows(file, position.row).await?
        } else {
            self.read_bytes(file, position.byte).await?
        };
        match outcome {
            Ok(()) => Ok(self.send(Item::End).await),
            gone => Ok(gone),
        }
    }

    /// The names of the columns of a CSV file that is continued after its header.
    async fn header(&self, file: &InputFile, position: Position) -> Result<Option<Vec<String>>> {
        let options = &self.files.format.csv;
        if self.files.format.format != Format::Csv || !options.header || position.byte == 0 {
            return Ok(None);
        }
        let head = head(&self.files.location, file, BLOCK).await?;
        let mut record = CsvRecord::default();
        record.read(&head, head.len() as u64 == file.size, options);
        Ok(Some(record.texts()))
    }

    async fn read_bytes(&self, file: &InputFile, start: u64) -> Result<Result<(), Gone>> {
        let mut at = start;
        while at < file.size {
            let end = (at + BLOCK).min(file.size);
            let fetched = self.files.location.store.get_range(&file.path, at..end).await;
            let bytes = fetched.map_err(|error| store_error("read", &file.name, &error))?;
            if (bytes.len() as u64) < end - at {
                return Err(shrunk(file, end));
            }
            at = end;
            if self.send(Item::Bytes(bytes)).await.is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(Ok(()))
    }

    async fn read_rows(&self, file: &InputFile, start: u64) -> Result<Result<(), Gone>> {
        let builder = parquet_file::open(&self.files.location, file).await?;
        let roots: Vec<usize> = (0..builder.schema().fields().len())
            .filter(|index| {
                let name = builder.schema().field(*index).name();
                self.schema
                    .fields()
                    .iter()
                    .any(|wanted| wanted.name().eq_ignore_ascii_case(name))
            })
            .collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
        let mut stream = builder
            .with_projection(mask)
            .with_batch_size(CHUNK_ROWS_TARGET)
            .with_offset(start as usize)
            .build()
            .map_err(|error| parquet_file::failure(file, &error))?;
        while let Some(rows) = stream
            .try_next()
            .await
            .map_err(|error| parquet_file::failure(file, &error))?
        {
            let rows = parquet_file::fitted(&rows, &self.schema, file)?;
            if self.send(Item::Rows(rows)).await.is_err() {
                return Ok(Err(Gone));
            }
        }
        Ok(Ok(()))
    }
}

/// The restored positions. A subtask that had not listed its files yet reported those it was given, so of two positions of
/// a file the further one is true.
fn positions(restored: &[SplitOffset]) -> Result<Vec<(String, Position)>> {
    let mut positions: Vec<(String, Position)> = Vec::new();
    for offset in restored {
        let position: Position = serde_json::from_str(&offset.offset)
            .map_err(|error| Error::Internal(format!("offset of file \"{}\" cannot be read: {error}", offset.split)))?;
        match positions.iter_mut().find(|(name, _)| *name == offset.split) {
            Some((_, known)) => *known = (*known).max(position),
            None => positions.push((offset.split.clone(), position)),
        }
    }
    Ok(positions)
}

fn removed(name: &str) -> Error {
    Error::External {
        code: SqlState::UNDEFINED_FILE,
        message: format!("file \"{name}\" was removed before it was read to its end"),
        hint: Some("Put the file back, or create the pipeline anew.".into()),
        retry: Retry::Never,
    }
}

fn shrunk(file: &InputFile, offset: u64) -> Error {
    Error::External {
        code: SqlState::DATA_CORRUPTED,
        message: format!(
            "file \"{}\" is shorter than when it was read: {offset} bytes are missing",
            file.name
        ),
        hint: Some("Put the file back, or create the pipeline anew.".into()),
        retry: Retry::Never,
    }
}

/// The first bytes of a file.
pub async fn head(location: &Location, file: &InputFile, bytes_max: u64) -> Result<Bytes> {
    if file.size == 0 {
        return Ok(Bytes::new());
    }
    let fetched = location.store.get_range(&file.path, 0..bytes_max.min(file.size)).await;
    fetched.map_err(|error| store_error("read", &file.name, &error))
}

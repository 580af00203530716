//! Fetches files ahead of the shard, on the I/O runtime, into a bounded queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{FutureExt, TryStreamExt};
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use tokio::sync::mpsc;
use tracing::warn;

use crate::engine::connectors::filesystem::Files;
use crate::engine::connectors::filesystem::compression::Compression;
use crate::engine::connectors::filesystem::location::{InputFile, Location, store_error};
use crate::engine::connectors::filesystem::source::Position;
use crate::engine::connectors::filesystem::{arrow_file, parquet_file};
use crate::engine::connectors::{Result, SplitOffset, Wake};
use crate::engine::error::Error;
use crate::engine::formats::Format;
use crate::engine::formats::csv::CsvRecord;
use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::error::{Report, Retry, SqlState};

/// Bytes fetched at once; the queue holds a few such blocks.
const BLOCK: u64 = 2 * 1024 * 1024;
pub const QUEUE_ITEMS: usize = 4;

/// What the shard gets, file after file.
pub enum Item {
    /// More files of this subtask, which are its next splits.
    Files(Vec<String>),
    /// The file of this split was finished and is no longer there.
    Gone(usize),
    /// The file of this split begins; what is to be known of its header when that is not in the bytes to come.
    Begin(usize, Option<FileHead>),
    Bytes(Bytes),
    Rows(RecordBatch),
    End,
    Failed(Error),
}

/// What a file begins with that is continued after its header.
pub enum FileHead {
    /// The names of CSV columns.
    Names(Vec<String>),
    /// The header of an Avro file is in it.
    Bytes(Bytes),
}

/// What the task that fetches works with.
pub struct Reader {
    pub files: Arc<Files>,
    pub subtask: usize,
    pub parallelism: usize,
    /// The names of all restored splits.
    pub restored: BTreeSet<String>,
    /// Those of this subtask.
    pub splits: Vec<(String, Position)>,
    /// Columns to take out of Parquet and Arrow files.
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
        let listed = match self.files.refresh {
            None => self.files.list().await?,
            Some(_) => Arc::new(self.files.location.list().await?),
        };
        let by_name: HashMap<&str, &InputFile> = listed.iter().map(|file| (file.name.as_str(), file)).collect();
        let mut to_read = Vec::new();
        for (index, (name, position)) in self.splits.iter().enumerate() {
            match by_name.get(name.as_str()) {
                Some(_) if position.finished => {}
                Some(&file) => to_read.push((index, file.clone(), *position)),
                None if !position.finished => return Err(removed(name)),
                None => {
                    if self.send(Item::Gone(index)).await.is_err() {
                        return Ok(());
                    }
                }
            }
        }
        let mut known = self.restored.clone();
        let mut count = self.splits.len();
        let mut new = self.new_files(&listed, &mut known);
        loop {
            let names = new.iter().map(|file| file.name.clone()).collect();
            if self.send(Item::Files(names)).await.is_err() {
                return Ok(());
            }
            for file in new {
                to_read.push((count, file, Position::default()));
                count += 1;
            }
            to_read.sort_by(|left, right| left.1.name.cmp(&right.1.name));
            for (index, file, position) in to_read.drain(..) {
                // Decoders of others panic on some damaged files; that the queue ends would mean that all was read.
                let read = AssertUnwindSafe(self.read_file(index, &file, position)).catch_unwind();
                if read.await.unwrap_or_else(|_| Err(broke_off(&file)))?.is_err() {
                    return Ok(());
                }
            }
            let Some(interval) = self.files.refresh else {
                return Ok(());
            };
            tokio::time::sleep(interval).await;
            new = self.new_files(&self.list_again().await?, &mut known);
        }
    }

    /// The files that nobody knew and that this subtask reads.
    fn new_files(&self, listed: &[InputFile], known: &mut BTreeSet<String>) -> Vec<InputFile> {
        let new = listed.iter().filter(|file| known.insert(file.name.clone()));
        let mine = new.enumerate().filter(|(number, file)| self.is_mine(*number, file));
        mine.map(|(_, file)| file.clone()).collect()
    }

    fn is_mine(&self, number: usize, file: &InputFile) -> bool {
        match (self.files.format.append_only(), self.files.refresh) {
            // A change means something only after those before it.
            (false, _) => self.subtask == 0,
            (true, None) => number % self.parallelism == self.subtask,
            // Others may list at another moment and see another number of files.
            (true, Some(_)) => {
                let hash = xxhash_rust::xxh3::xxh3_64(file.name.as_bytes());
                hash % self.parallelism as u64 == self.subtask as u64
            }
        }
    }

    /// What cannot be listed now can be later.
    async fn list_again(&self) -> Result<Vec<InputFile>> {
        match self.files.location.list().await {
            Err(error) if error.retry() == Retry::Backoff => {
                warn!(%error, "could not look for new files, trying again");
                Ok(Vec::new())
            }
            listed => listed,
        }
    }

    async fn read_file(&self, split: usize, file: &InputFile, position: Position) -> Result<Result<(), Gone>> {
        if position.byte > file.size && file.compression == Compression::None {
            return Err(shrunk(file, position.byte));
        }
        let head = self.header(file, position).await?;
        if self.send(Item::Begin(split, head)).await.is_err() {
            return Ok(Err(Gone));
        }
        let outcome = if self.files.format.format == Format::Parquet {
            self.read_rows(file, position.row).await?
        } else if self.files.format.format == Format::Arrow {
            self.read_arrow(file, position.row).await?
        } else if file.compression != Compression::None {
            self.read_compressed(file, position.byte).await?
        } else {
            self.read_bytes(file, position.byte).await?
        };
        match outcome {
            Ok(()) => Ok(self.send(Item::End).await),
            gone => Ok(gone),
        }
    }

    /// The header of a file that is continued after it.
    async fn header(&self, file: &InputFile, position: Position) -> Result<Option<FileHead>> {
        let options = &self.files.format.csv;
        match self.files.format.format {
            Format::Avro if position.byte > 0 => {
                return head(&self.files.location, file, BLOCK)
                    .await
                    .map(|bytes| Some(FileHead::Bytes(bytes)));
            }
            Format::Csv if options.header && position.byte > 0 => {}
            _ => return Ok(None),
        }
        let head = head(&self.files.location, file, BLOCK).await?;
        let mut record = CsvRecord::default();
        let is_all = file.compression == Compression::None && head.len() as u64 == file.size;
        record.read(&head, is_all, options);
        Ok(Some(FileHead::Names(record.texts())))
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

    /// Contents have no places that could be jumped to: what was read before is unpacked again and left out.
    async fn read_compressed(&self, file: &InputFile, start: u64) -> Result<Result<(), Gone>> {
        let packed = self.packed(file);
        let (queue, waker, file) = (self.queue.clone(), Arc::clone(&self.waker), file.clone());
        let unpack = move || {
            let failed = |error: std::io::Error| damaged(&file.name, &error);
            let mut contents = file.compression.reader(packed).map_err(failed)?;
            let skipped = std::io::copy(&mut contents.by_ref().take(start), &mut std::io::sink()).map_err(failed)?;
            if skipped < start {
                return Err(shrunk(&file, start));
            }
            loop {
                let mut block = Vec::new();
                contents.by_ref().take(BLOCK).read_to_end(&mut block).map_err(failed)?;
                if block.is_empty() {
                    return Ok(Ok(()));
                }
                if queue.blocking_send(Item::Bytes(block.into())).is_err() {
                    return Ok(Err(Gone));
                }
                waker.wake();
            }
        };
        let unpacked = tokio::task::spawn_blocking(unpack).await;
        unpacked.map_err(|error| Error::Internal(format!("reading a compressed file broke off: {error}")))?
    }

    fn packed(&self, file: &InputFile) -> Packed {
        Packed {
            store: Arc::clone(&self.files.location.store),
            file: file.clone(),
            runtime: tokio::runtime::Handle::current(),
            at: 0,
            block: Bytes::new(),
        }
    }

    /// Batches have no places that are known; those before `start` are stepped over, but for their dictionaries.
    async fn read_arrow(&self, file: &InputFile, start: u64) -> Result<Result<(), Gone>> {
        let packed = self.packed(file);
        let (queue, waker) = (self.queue.clone(), Arc::clone(&self.waker));
        let (file, schema) = (file.clone(), Arc::clone(&self.schema));
        let name = file.clone();
        let read = move || {
            let failed = |error: std::io::Error| arrow_file::failure(&file, &error);
            let contents = file.compression.reader(packed).map_err(failed)?;
            let mut reader = arrow_file::open(contents, &schema, &file)?;
            reader.skip(start);
            while let Some(batch) = reader.next_batch().map_err(failed)? {
                for at in (0..batch.num_rows()).step_by(CHUNK_ROWS_TARGET) {
                    let rows = batch.slice(at, CHUNK_ROWS_TARGET.min(batch.num_rows() - at));
                    let rows = parquet_file::fitted(&rows, &schema, &file)?;
                    if queue.blocking_send(Item::Rows(rows)).is_err() {
                        return Ok(Err(Gone));
                    }
                    waker.wake();
                }
            }
            match reader.missing() {
                0 => Ok(Ok(())),
                _ => Err(shrunk(&file, start)),
            }
        };
        let read = tokio::task::spawn_blocking(read).await;
        read.unwrap_or_else(|_| Err(broke_off(&name)))
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

/// The restored positions by name, without those that are to be forgotten. Of two positions of a file the further one is true.
pub fn positions(restored: &[SplitOffset]) -> Result<Vec<(String, Position)>> {
    let mut positions: BTreeMap<String, Position> = BTreeMap::new();
    for offset in restored {
        let position: Position = serde_json::from_str(&offset.offset)
            .map_err(|error| Error::Internal(format!("offset of file \"{}\" cannot be read: {error}", offset.split)))?;
        let known = positions.entry(offset.split.clone()).or_default();
        *known = (*known).max(position);
    }
    Ok(positions.into_iter().filter(|(_, position)| !position.gone).collect())
}

fn broke_off(file: &InputFile) -> Error {
    Error::External {
        code: SqlState::DATA_CORRUPTED,
        message: format!("could not read file \"{}\": its decoder broke off", file.name),
        hint: Some("The file is damaged; the log names the place in the decoder.".into()),
        retry: Retry::Never,
    }
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

/// Reads the compressed bytes of a file, on a thread that may wait.
struct Packed {
    store: Arc<dyn ObjectStore>,
    file: InputFile,
    runtime: tokio::runtime::Handle,
    /// Of the next block.
    at: u64,
    block: Bytes,
}

impl Read for Packed {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.block.is_empty() && self.at < self.file.size {
            let end = (self.at + BLOCK).min(self.file.size);
            let fetched = self
                .runtime
                .block_on(self.store.get_range(&self.file.path, self.at..end));
            self.block = fetched.map_err(std::io::Error::other)?;
            self.at = end;
        }
        let count = out.len().min(self.block.len());
        out[..count].copy_from_slice(&self.block.split_to(count));
        Ok(count)
    }
}

/// What a compressed file could not be read for: the store, or its own bytes.
pub fn damaged(name: &str, error: &std::io::Error) -> Error {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<object_store::Error>())
    {
        Some(error) => store_error("read", name, error),
        None => Error::External {
            code: SqlState::DATA_CORRUPTED,
            message: format!("could not unpack file \"{name}\": {error}"),
            hint: Some("Option compression says how files are compressed when their names do not.".into()),
            retry: Retry::Never,
        },
    }
}

/// The first bytes of a file's contents.
pub async fn head(location: &Location, file: &InputFile, bytes_max: u64) -> Result<Bytes> {
    if file.size == 0 {
        return Ok(Bytes::new());
    }
    let fetched = location.store.get_range(&file.path, 0..bytes_max.min(file.size)).await;
    let bytes = fetched.map_err(|error| store_error("read", &file.name, &error))?;
    if file.compression == Compression::None {
        return Ok(bytes);
    }
    let mut contents = Vec::new();
    let unpacked = file.compression.reader(bytes.as_ref());
    let unpacked = unpacked.and_then(|contents_of| contents_of.take(bytes_max).read_to_end(&mut contents));
    match unpacked {
        // A piece of a compressed file ends somewhere.
        Err(error) if contents.is_empty() => Err(damaged(&file.name, &error)),
        _ => Ok(contents.into()),
    }
}

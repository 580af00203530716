//! Writes files that are seen whole or not at all, each row in one of them.
//!
//! A subtask has one open file a partition. Its bytes are staged where readers do not look; at a checkpoint they are durable, and
//! files that are due are named in it. When the epoch is decided these are published: renamed, put, or their upload completed.
//! A file that is not due goes on after the checkpoint, and after a crash with exactly the bytes that the checkpoint knows, at
//! whatever parallelism. Names are given once and for all: those of no other run, subtask or pipeline are equal.
//!
//! Guarantee: exactly once, for readers that look at files whose names do not begin with a dot. Not guaranteed: that a pipeline can
//! go back to a checkpoint older than one that has published its open files; it says so then.
//!
//! - [`options`] what the table says.
//! - [`layout`], [`rolling`] which file a row goes to, and when it ends: pure decisions.
//! - [`content`], [`parquet_content`] rows to bytes.
//! - [`target`], [`stage`], [`batch`], [`outage`] where bytes are before they are published.
//! - [`record`] what checkpoints keep. - [`committer`] publishes. - [`leftovers`] removes what nobody knows any more.

mod batch;
pub mod committer;
mod content;
mod layout;
pub mod leftovers;
pub mod options;
mod outage;
mod parquet_content;
mod record;
mod rolling;
mod stage;
pub mod target;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use object_store::ObjectStoreExt;

use crate::clock::Clock;
use crate::engine::connectors::filesystem::location::store_error;
use crate::engine::connectors::filesystem::sink::batch::Batch;
use crate::engine::connectors::filesystem::sink::content::Content;
use crate::engine::connectors::filesystem::sink::layout::Layout;
use crate::engine::connectors::filesystem::sink::options::SinkOptions;
use crate::engine::connectors::filesystem::sink::outage::waited_out;
use crate::engine::connectors::filesystem::sink::parquet_content::ParquetContent;
use crate::engine::connectors::filesystem::sink::record::{
    Committable, SavedFile, SavedSink, StagedFile, from_json, to_json,
};
use crate::engine::connectors::filesystem::sink::rolling::FileAge;
use crate::engine::connectors::filesystem::sink::stage::{LocalStage, RemoteStage, Stage, Uploader, gone};
use crate::engine::connectors::filesystem::sink::target::{SinkNames, Target};
use crate::engine::connectors::{Prepared, Result, Sink, SinkContext};
use crate::engine::error::Error;
use crate::engine::formats::added_rows::chunk_of_added;
use crate::engine::formats::{Encoder, Format, FormatOptions};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::Chunk;
use crate::ids::Epoch;

/// Bytes of parts on their way beyond which no more rows are taken.
const IN_FLIGHT_MAX: usize = 64 * 1024 * 1024;

pub fn open(
    target: Target,
    options: &SinkOptions,
    format: &FormatOptions,
    context: SinkContext,
) -> Result<Box<dyn Sink>> {
    if format.format == Format::Parquet {
        parquet_content::check_schema(&context.schema)?;
    }
    let subtask = context.subtask.0;
    let suffix = options.suffix(format);
    let names = SinkNames::new(&options.prefix, &context.sink, &suffix, context.generation.0, subtask);
    let restored: Vec<SavedSink> = context
        .restored
        .iter()
        .map(|text| from_json(text.as_bytes()))
        .collect::<Result<_>>()?;
    if subtask == 0 {
        let _entered = context.runtime.enter();
        let remove = leftovers::remove(target.clone(), names.clone(), restored.clone());
        crate::spawn::named("file sink leftovers", remove);
    }
    let place = match target {
        Target::Local(folder) => Place::Local(folder),
        Target::Remote(target) => {
            let (runtime, waker) = (context.runtime.clone(), Arc::clone(&context.waker));
            Place::Remote(Arc::new(Uploader::new(
                target,
                names.of_subtask(),
                options.part_bytes,
                runtime,
                waker,
            )))
        }
    };
    let encoder = match format.format {
        Format::Parquet => None,
        _ => Some(format.encoder(&context.schema, &context.changelog)?),
    };
    let mut sink = FileSink {
        layout: options.partitioning.layout(&context.schema)?,
        columns: fingerprint(&context.schema),
        takes_changes: context.changelog != SinkChangelog::Append,
        options: options.clone(),
        encoder,
        schema: context.schema,
        names,
        place,
        subtask,
        open: BTreeMap::new(),
        besides: Vec::new(),
        finished: Vec::new(),
        loading: None,
        rests: Vec::new(),
        is_changed: false,
        is_staged: false,
        is_stopping: false,
        failure: None,
        position: None,
        written: 0,
        clock: context.clock,
    };
    // Files of subtasks that there are no more are gone on with by others.
    let mine = restored
        .into_iter()
        .filter(|saved| saved.subtask % context.parallelism == subtask);
    sink.restore(mine.flat_map(|saved| saved.files).collect())?;
    Ok(Box::new(sink))
}

/// Of names and types.
fn fingerprint(schema: &SchemaRef) -> u64 {
    let columns = schema
        .fields()
        .iter()
        .map(|field| format!("{} {}\n", field.name(), field.data_type()));
    xxhash_rust::xxh3::xxh3_64(columns.collect::<String>().as_bytes())
}

enum Place {
    Local(PathBuf),
    Remote(Arc<Uploader>),
}

struct OpenFile {
    partition: String,
    content: Content,
    stage: Stage,
    age: FileAge,
    columns: u64,
}

impl OpenFile {
    fn age(&self) -> FileAge {
        FileAge {
            bytes: self.stage.bytes() + self.content.len() as u64,
            ..self.age
        }
    }
}

type Rests = Arc<Mutex<Option<Vec<(SavedFile, Vec<u8>)>>>>;

struct FileSink {
    options: SinkOptions,
    layout: Layout,
    encoder: Option<Box<dyn Encoder>>,
    schema: SchemaRef,
    columns: u64,
    /// Rows that go are written too, each beside the one that comes instead.
    takes_changes: bool,
    names: SinkNames,
    place: Place,
    subtask: u32,
    /// By partition.
    open: BTreeMap<String, OpenFile>,
    /// Restored files that have to end: of a partition that has another one, or of other columns.
    besides: Vec<OpenFile>,
    /// Since the last checkpoint.
    finished: Vec<Stage>,
    /// The rests of restored files, as soon as they are fetched.
    loading: Option<Rests>,
    /// Hidden objects that the last checkpoint needs.
    rests: Vec<String>,
    /// Since the last checkpoint.
    is_changed: bool,
    is_staged: bool,
    is_stopping: bool,
    /// Found where it could not be said.
    failure: Option<Error>,
    /// That of the last checkpoint.
    position: Option<String>,
    written: u64,
    clock: Arc<dyn Clock>,
}

impl FileSink {
    fn restore(&mut self, files: Vec<SavedFile>) -> Result<()> {
        match &self.place {
            Place::Local(folder) => {
                let folder = folder.clone();
                for file in files {
                    let stage = Stage::Local(LocalStage::restored(&folder, &file.staged)?);
                    self.go_on_with(file, stage)?;
                }
            }
            Place::Remote(uploader) if !files.is_empty() => {
                let rests = Rests::default();
                self.loading = Some(Arc::clone(&rests));
                uploader.spawn(load(files, rests, Arc::clone(uploader)));
            }
            Place::Remote(_) => {}
        }
        Ok(())
    }

    fn go_on_with(&mut self, file: SavedFile, stage: Stage) -> Result<()> {
        let staged = file.staged;
        let content = match (&file.content, &self.encoder) {
            (Some(saved), _) => Content::Parquet(Box::new(ParquetContent::restored(
                Arc::clone(&self.schema),
                self.options.parquet_compression,
                saved,
                staged.bytes,
            )?)),
            (None, _) => Content::Text {
                buffer: Vec::new(),
                compression: self.options.compression,
            },
        };
        self.rests.extend(staged.rest.map(|rest| rest.object));
        let restored = OpenFile {
            partition: file.partition,
            content,
            stage,
            age: FileAge {
                bytes: staged.bytes,
                rows: file.rows,
                opened_at_micros: file.opened_at_micros,
                written_at_micros: file.written_at_micros,
            },
            columns: file.columns,
        };
        self.is_changed = true;
        if restored.columns != self.columns || self.open.contains_key(&restored.partition) {
            self.besides.push(restored);
        } else {
            self.open.insert(restored.partition.clone(), restored);
        }
        Ok(())
    }

    /// Whether all that was restored is there.
    fn is_loaded(&mut self) -> Result<bool> {
        let Place::Remote(uploader) = &self.place else {
            return Ok(true);
        };
        let uploader = Arc::clone(uploader);
        if let Some(error) = uploader.take_failure() {
            return Err(error);
        }
        let Some(loading) = &self.loading else { return Ok(true) };
        let Some(files) = loading.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(false);
        };
        self.loading = None;
        for (file, rest) in files {
            let stage = Stage::Remote(RemoteStage::restored(&file.staged, rest, &uploader)?);
            self.go_on_with(file, stage)?;
        }
        Ok(true)
    }

    fn in_flight(&self) -> usize {
        match &self.place {
            Place::Local(_) => 0,
            Place::Remote(uploader) => uploader.in_flight(),
        }
    }

    fn new_file(&mut self, partition: &str) -> Result<OpenFile> {
        let name = self.names.next_file(partition);
        let stage = match &self.place {
            Place::Local(folder) => Stage::Local(LocalStage::new(folder, &name)),
            Place::Remote(uploader) => Stage::Remote(RemoteStage::new(&name, uploader)?),
        };
        let content = match &self.encoder {
            Some(encoder) => Content::text(encoder.as_ref(), self.options.compression),
            None => {
                let schema = Arc::clone(&self.schema);
                Content::Parquet(Box::new(ParquetContent::new(schema, self.options.parquet_compression)))
            }
        };
        let now = self.clock.now_micros();
        Ok(OpenFile {
            partition: partition.to_owned(),
            content,
            stage,
            age: FileAge {
                bytes: 0,
                rows: 0,
                opened_at_micros: now,
                written_at_micros: now,
            },
            columns: self.columns,
        })
    }

    /// Writes the rows of one partition, which may fill several files.
    fn write_partition(&mut self, partition: &str, mut chunk: Chunk) -> Result<()> {
        while !chunk.is_empty() {
            let mut file = match self.open.remove(partition) {
                Some(file) => file,
                None => self.new_file(partition)?,
            };
            let rows = chunk.len().min(self.options.rolling.rows_left(file.age.rows));
            let (now, later) = match rows < chunk.len() {
                // Changes that belong together stay together.
                true if !self.takes_changes => {
                    let rest = chunk.rows.slice(rows, chunk.len() - rows);
                    (Chunk::insert(chunk.rows.slice(0, rows)), Some(Chunk::insert(rest)))
                }
                _ => (chunk, None),
            };
            file.content.write(&now, self.encoder.as_mut())?;
            file.age.rows += now.len() as u64;
            file.age.written_at_micros = self.clock.now_micros();
            if file.content.len() >= file.content.block() {
                let bytes = file.content.take()?;
                self.written += bytes.len() as u64;
                file.stage.append(bytes)?;
            }
            if self.options.rolling.is_full(&file.age()) {
                self.finish(file)?;
            } else {
                self.open.insert(partition.to_owned(), file);
            }
            match later {
                Some(later) => chunk = later,
                None => break,
            }
        }
        Ok(())
    }

    fn finish(&mut self, mut file: OpenFile) -> Result<()> {
        let bytes = file.content.finish()?;
        self.written += bytes.len() as u64;
        file.stage.append(bytes)?;
        self.finished.push(file.stage);
        Ok(())
    }

    fn finish_due(&mut self) -> Result<()> {
        let now = self.clock.now_micros();
        for file in std::mem::take(&mut self.besides) {
            self.finish(file)?;
        }
        let is_due = |file: &OpenFile| {
            self.is_stopping || file.content.is_long() || self.options.rolling.is_due(&file.age(), now)
        };
        let due: Vec<String> = self
            .open
            .values()
            .filter(|file| is_due(file))
            .map(|file| file.partition.clone())
            .collect();
        for partition in due {
            if let Some(file) = self.open.remove(&partition) {
                self.finish(file)?;
            }
        }
        Ok(())
    }

    /// Ends what is due, and hands all bytes on. What of them becomes parts of uploads has to arrive before the checkpoint can
    /// name it.
    fn stage(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.is_staged, true) {
            return Ok(());
        }
        self.finish_due()?;
        for file in self.open.values_mut() {
            let bytes = file.content.take()?;
            self.written += bytes.len() as u64;
            file.stage.append(bytes)?;
        }
        Ok(())
    }

    /// What the checkpoint says of the files; `batch` makes them durable.
    fn save(&mut self, batch: &mut Batch) -> Result<(Vec<SavedFile>, Committable)> {
        let published = self.finished.iter_mut().map(|stage| batch.add(stage)).collect();
        self.finished.clear();
        let mut files = Vec::with_capacity(self.open.len());
        for file in self.open.values_mut() {
            files.push(SavedFile {
                staged: batch.add(&mut file.stage),
                partition: file.partition.clone(),
                rows: file.age.rows,
                opened_at_micros: file.age.opened_at_micros,
                written_at_micros: file.age.written_at_micros,
                columns: file.columns,
                content: file.content.saved()?,
            });
        }
        let mut committable = Committable {
            publish: published,
            obsolete: std::mem::take(&mut self.rests),
        };
        match batch.object() {
            None => {}
            Some(object) if files.is_empty() => committable.obsolete.push(object.to_owned()),
            Some(object) => self.rests.push(object.to_owned()),
        }
        Ok((files, committable))
    }
}

/// Fetches what restored files have beside their uploads.
async fn load(files: Vec<SavedFile>, rests: Rests, uploader: Arc<Uploader>) {
    let mut loaded = Vec::with_capacity(files.len());
    for file in files {
        match fetch(&file.staged, &uploader).await {
            Ok(rest) => loaded.push((file, rest)),
            Err(error) => return uploader.fail(error),
        }
    }
    *rests.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded);
    uploader.waker.wake();
}

async fn fetch(file: &StagedFile, uploader: &Uploader) -> Result<Vec<u8>> {
    let Some(rest) = &file.rest else { return Ok(Vec::new()) };
    let target = &uploader.target;
    let path = target.hidden(&rest.object)?;
    let get = async || match target
        .objects
        .get_range(&path, rest.start..rest.start + rest.bytes)
        .await
    {
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(object_store::Error::NotFound { .. }) => Err(gone(&target.shown(&path))),
        Err(error) => Err(store_error("read", &target.shown(&path), &error)),
    };
    waited_out(&uploader.unwanted, get).await
}

impl Sink for FileSink {
    fn ready(&mut self) -> bool {
        match self.is_loaded() {
            Ok(loaded) => loaded && self.in_flight() < IN_FLIGHT_MAX,
            // The write that follows says it.
            Err(error) => {
                self.failure = Some(error);
                true
            }
        }
    }

    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.is_changed |= !chunk.is_empty();
        self.is_staged = false;
        let chunk = match self.takes_changes {
            true => chunk.clone(),
            false => chunk_of_added(chunk)?,
        };
        for (partition, rows) in self.layout.split(chunk)? {
            self.write_partition(&partition, rows)?;
        }
        Ok(())
    }

    fn can_prepare(&mut self) -> bool {
        match self.is_loaded() {
            Ok(true) => {}
            Ok(false) => return false,
            Err(error) => {
                self.failure = Some(error);
                return true;
            }
        }
        if let Err(error) = self.stage() {
            self.failure = Some(error);
            return true;
        }
        self.in_flight() == 0
    }

    fn stopping(&mut self) {
        self.is_stopping = true;
    }

    fn prepare(&mut self, epoch: Epoch) -> Result<Prepared> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.stage()?;
        self.is_staged = false;
        if !std::mem::take(&mut self.is_changed) && self.finished.is_empty() && self.position.is_some() {
            return Ok(Prepared {
                position: self.position.clone(),
                ..Prepared::default()
            });
        }
        let mut batch = match &self.place {
            Place::Local(folder) => Batch::Local {
                folder: folder.clone(),
                dirty: Vec::new(),
            },
            Place::Remote(uploader) => Batch::Remote {
                object: self.names.rests(epoch.0),
                bytes: Vec::new(),
                uploader: Arc::clone(uploader),
            },
        };
        let (files, committable) = self.save(&mut batch)?;
        let position = to_json(&SavedSink {
            subtask: self.subtask,
            files,
        })?;
        self.position = Some(position.clone());
        let committable = match committable.is_empty() {
            true => None,
            false => Some(Bytes::from(to_json(&committable)?)),
        };
        Ok(Prepared {
            committable,
            position: Some(position),
            work: Some(Box::new(move || batch.write())),
        })
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        // After the last barrier the sink is gone before its work is done.
        if let Place::Remote(uploader) = &self.place
            && !self.is_stopping
        {
            uploader.unwanted.cancel();
        }
    }
}

#[cfg(test)]
mod tests;

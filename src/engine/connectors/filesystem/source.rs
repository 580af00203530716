//! Decodes what the reader fetched, on the shard.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::engine::connectors::filesystem::reader::{self, FileHead, Item, QUEUE_ITEMS, Reader};
use crate::engine::connectors::filesystem::{FILE, Files};
use crate::engine::connectors::{
    BadRowHandler, METADATA_FIELD, Result, Source, SourceContext, SourcePoll, SplitOffset, files, keyed_schema,
};
use crate::engine::formats::avro::container::ContainerDecoder;
use crate::engine::formats::csv::CsvDecoder;
use crate::engine::formats::{Decoder, Format, Input};
use crate::engine::message::Weights;
use crate::types::record_batch::batch_of_rows;

/// A file's offset as it is checkpointed. Ordered: further is greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// It was finished and is no longer there: the next start forgets it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gone: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub finished: bool,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub byte: u64,
    /// In Parquet files.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub row: u64,
}

fn is_false(value: &bool) -> bool {
    !value
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

pub fn open(files: Arc<Files>, table: Option<&SchemaRef>, context: SourceContext) -> Result<Box<dyn Source>> {
    let decoded = decoded_schema(&context.schema);
    let restored = reader::positions(&context.restored)?;
    let subtask = context.subtask.0 as usize;
    // All subtasks were given the same, so they agree on whose a file is before they have listed any.
    let is_mine = |number: usize| match files.format.append_only() {
        true => number % context.parallelism as usize == subtask,
        // A change means something only after those before it.
        false => subtask == 0,
    };
    let mine = restored.iter().enumerate().filter(|(number, _)| is_mine(*number));
    let splits: Vec<(String, Position)> = mine.map(|(_, split)| split.clone()).collect();
    let (sender, queue) = mpsc::channel(QUEUE_ITEMS);
    let reader = Reader {
        files: Arc::clone(&files),
        subtask,
        parallelism: context.parallelism as usize,
        restored: restored.into_iter().map(|(name, _)| name).collect(),
        splits: splits.clone(),
        schema: Arc::clone(&decoded),
        queue: sender,
        waker: context.waker,
    };
    let task = {
        let _entered = context.runtime.enter();
        crate::spawn::named("filesystem reader", reader.run())
    };
    Ok(Box::new(FilesystemSource {
        schema: keyed_schema(&context.schema, context.key.as_deref()),
        key: context.key.as_deref().map(|key| decoded_key(&context.schema, key)),
        all_names: decoded_schema(table.unwrap_or(&decoded))
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect(),
        decoded,
        files,
        queue,
        task,
        // Its end may not have been told before the checkpoint.
        finished_splits: (0..splits.len()).filter(|index| splits[*index].1.finished).collect(),
        splits,
        current: None,
        bad_rows: context.bad_rows,
        bytes_read: 0,
    }))
}

/// Without the columns that do not come out of files.
fn decoded_schema(schema: &SchemaRef) -> SchemaRef {
    let fields = schema
        .fields()
        .iter()
        .filter(|field| !field.metadata().contains_key(METADATA_FIELD));
    Arc::new(Schema::new(fields.cloned().collect::<Vec<_>>()))
}

/// Columns of `schema` as columns of its decoded part; one that comes from elsewhere is no part of a record's key.
fn decoded_key(schema: &SchemaRef, key: &[usize]) -> Vec<usize> {
    let comes_out_of_files = |&at: &usize| !schema.field(at).metadata().contains_key(METADATA_FIELD);
    let decoded: Vec<usize> = (0..schema.fields().len()).filter(comes_out_of_files).collect();
    key.iter()
        .filter_map(|at| decoded.iter().position(|place| place == at))
        .collect()
}

struct FilesystemSource {
    /// What is delivered.
    schema: SchemaRef,
    /// Over `decoded`.
    key: Option<Vec<usize>>,
    /// What comes out of files.
    decoded: SchemaRef,
    /// The columns of the table that come out of files.
    all_names: Vec<String>,
    files: Arc<Files>,
    queue: mpsc::Receiver<Item>,
    task: tokio::task::JoinHandle<()>,
    /// Name and position; a split's number is its place here.
    splits: Vec<(String, Position)>,
    current: Option<Current>,
    /// Splits whose end is to be reported next.
    finished_splits: VecDeque<usize>,
    bad_rows: Arc<dyn BadRowHandler>,
    bytes_read: u64,
}

/// The file that is being read.
struct Current {
    /// Index into `splits`.
    index: usize,
    /// `None` for Parquet and Arrow, whose rows come decoded.
    decoder: Option<Box<dyn Decoder>>,
    /// Bytes not decoded begin at `start`.
    buffer: Vec<u8>,
    start: usize,
    /// Rows not delivered.
    rows: Option<RecordBatch>,
    at_end: bool,
    /// The decoder wants more bytes.
    starved: bool,
}

impl Drop for FilesystemSource {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FilesystemSource {
    fn begin(&mut self, index: usize, head: Option<FileHead>) -> Result<()> {
        let format = &self.files.format;
        let decoder: Option<Box<dyn Decoder>> = match format.format {
            Format::Parquet | Format::Arrow => None,
            Format::Csv => {
                let names = match head {
                    Some(FileHead::Names(names)) => Some(names),
                    _ => None,
                };
                let names = names.or_else(|| (!format.csv.header).then(|| self.all_names.clone()));
                let (rows, key) = (&self.decoded, self.key.as_deref());
                let records = format.record_schema(rows, key)?;
                let records = CsvDecoder::new(&records, format.csv.clone(), names.as_deref())?;
                Some(format.rows(Box::new(records), rows, key))
            }
            Format::Avro => {
                let (rows, key) = (&self.decoded, self.key.as_deref());
                let records = format.record_schema(rows, key)?;
                let name = self.splits.get(index).map_or("", |(name, _)| name.as_str());
                let records = match head {
                    Some(FileHead::Bytes(head)) => ContainerDecoder::after(&records, &head, name)?,
                    _ => ContainerDecoder::new(&records)?,
                };
                Some(format.rows(Box::new(records), rows, key))
            }
            _ => Some(format.decoder(&self.decoded, self.key.as_deref())?),
        };
        self.current = Some(Current {
            index,
            decoder,
            buffer: Vec::new(),
            start: 0,
            rows: None,
            at_end: false,
            starved: true,
        });
        Ok(())
    }

    /// Rows of the current file, if there are any at hand.
    fn rows(&mut self, rows_max: usize) -> Result<Option<SourcePoll>> {
        let Some(mut current) = self.current.take() else {
            return Ok(None);
        };
        let index = current.index;
        let Some((name, mut position)) = self.splits.get(index).cloned() else {
            return Ok(None);
        };
        let rows = if current.decoder.is_some() {
            current.decode(rows_max, &name, &mut position, self.bad_rows.as_ref())?
        } else {
            let rows = current.slice(rows_max, &mut position);
            rows.map(|rows| (rows, Weights::AllInsert))
        };
        let exhausted = rows.is_none() && current.at_end;
        if exhausted {
            position.finished = true;
            self.finished_splits.push_back(index);
        } else {
            self.current = Some(current);
        }
        self.splits[index].1 = position;
        rows.map(|(rows, weights)| {
            let rows = self.with_metadata(rows, &name)?;
            Ok(SourcePoll::decoded(index, rows, weights))
        })
        .transpose()
    }

    fn with_metadata(&self, rows: RecordBatch, file: &str) -> Result<RecordBatch> {
        if self.schema.fields().len() == self.decoded.fields().len() {
            return Ok(rows);
        }
        let count = rows.num_rows();
        let mut decoded = rows.columns().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            columns.push(match field.metadata().get(METADATA_FIELD).map(String::as_str) {
                Some(FILE) => {
                    let names: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(file, count)));
                    arrow::compute::cast(&names, field.data_type())?
                }
                Some(_) => arrow::array::new_null_array(field.data_type(), count),
                None => decoded
                    .next()
                    .map_or_else(|| arrow::array::new_null_array(field.data_type(), count), Arc::clone),
            });
        }
        Ok(batch_of_rows(Arc::clone(&self.schema), columns, count)?)
    }

    /// Whether something was taken out of the queue.
    fn take(&mut self, item: Item) -> Result<()> {
        match item {
            Item::Files(names) => {
                let splits = names.into_iter().map(|name| (name, Position::default()));
                self.splits.extend(splits);
            }
            Item::Gone(index) => self.splits[index].1.gone = true,
            Item::Begin(index, head) => self.begin(index, head)?,
            Item::Bytes(bytes) => {
                self.bytes_read += bytes.len() as u64;
                if let Some(current) = &mut self.current {
                    current.buffer.drain(..current.start);
                    current.start = 0;
                    current.buffer.extend_from_slice(&bytes);
                    current.starved = false;
                }
            }
            Item::Rows(rows) => {
                self.bytes_read += rows.get_array_memory_size() as u64;
                if let Some(current) = &mut self.current {
                    current.rows = Some(rows);
                    current.starved = false;
                }
            }
            Item::End => {
                if let Some(current) = &mut self.current {
                    current.at_end = true;
                    current.starved = false;
                }
            }
            Item::Failed(error) => return Err(error),
        }
        Ok(())
    }
}

impl Current {
    fn decode(
        &mut self,
        rows_max: usize,
        place: &str,
        position: &mut Position,
        bad_rows: &dyn BadRowHandler,
    ) -> Result<Option<(RecordBatch, Weights)>> {
        let Some(decoder) = &mut self.decoder else {
            return Ok(None);
        };
        let input = Input {
            bytes: &self.buffer[self.start..],
            offset: position.byte,
            place,
            at_end: self.at_end,
        };
        let taken = decoder.decode(input, rows_max, bad_rows)?;
        self.start += taken;
        position.byte += taken as u64;
        self.starved = decoder.rows() < rows_max;
        if taken == 0 {
            files::check_record_length(self.buffer.len(), place, position.byte)?;
        }
        if decoder.rows() == 0 {
            return Ok(None);
        }
        decoder.take_changes().map(Some)
    }

    fn slice(&mut self, rows_max: usize, position: &mut Position) -> Option<RecordBatch> {
        let rows = self.rows.take()?;
        let count = rows.num_rows().min(rows_max.max(1));
        if count < rows.num_rows() {
            self.rows = Some(rows.slice(count, rows.num_rows() - count));
        }
        self.starved = self.rows.is_none();
        position.row += count as u64;
        (count > 0).then(|| rows.slice(0, count))
    }
}

impl Source for FilesystemSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll> {
        let rows_max = rows_max.max(1);
        loop {
            if let Some(split) = self.finished_splits.pop_front() {
                return Ok(SourcePoll::SplitFinished { split });
            }
            // At the end of a file what is left of it must be looked at even when the decoder had asked for more.
            if self
                .current
                .as_ref()
                .is_some_and(|current| !current.starved || current.at_end)
            {
                if let Some(rows) = self.rows(rows_max)? {
                    return Ok(rows);
                }
                continue;
            }
            match self.queue.try_recv() {
                Ok(item) => self.take(item)?,
                Err(TryRecvError::Empty) => return Ok(SourcePoll::Pending(None)),
                Err(TryRecvError::Disconnected) => return Ok(SourcePoll::Finished),
            }
        }
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offset = |(name, position): &(String, Position)| SplitOffset {
            split: name.clone(),
            // Numbers and flags only: cannot fail.
            offset: serde_json::to_string(position).unwrap_or_default(),
        };
        self.splits.iter().map(offset).collect()
    }

    fn bytes_read(&self) -> u64 {
        self.bytes_read
    }
}

//! Files as a lookup table: all rows are held in memory, by key.
//!
//! Files of this machine are looked at before every question and read again when one has come, gone or changed (size or time of
//! change); whatever they are, they are read again when what is held is older than `lookup_cache_ttl`. A question is answered from
//! one reading of all files.
//!
//! Not guaranteed: anything about a file that is written while it is read; put a new one in its place by renaming.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use crate::engine::connectors::filesystem::compression::Compression;
use crate::engine::connectors::filesystem::location::{InputFile, Location, store_error};
use crate::engine::connectors::filesystem::{arrow_file, parquet_file, reader};
use crate::engine::connectors::lookup::{Lookup, LookupAnswer, LookupContext};
use crate::engine::connectors::{METADATA_FIELD, Result};
use crate::engine::error::Error;
use crate::engine::formats::csv::CsvDecoder;
use crate::engine::formats::{Decoder, Format, FormatOptions, Input};
use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::error::{Retry, SqlState};
use crate::state::hash::hash_columns;
use crate::state::key_table::KeyTable;

/// What is to be read, and how.
#[derive(Debug)]
pub struct LookupFiles {
    pub location: Location,
    pub format: FormatOptions,
    /// The columns of the table, for CSV files without a header.
    pub names: Vec<String>,
    pub ttl: Duration,
}

/// The lookups of one table; those that ask for the same columns share what is held.
#[derive(Default)]
pub struct FileLookups {
    open: Mutex<HashMap<String, Arc<FileLookup>>>,
}

impl std::fmt::Debug for FileLookups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FileLookups")
    }
}

impl FileLookups {
    pub fn open(&self, files: LookupFiles, context: LookupContext) -> Arc<dyn Lookup> {
        let names = |schema: &Schema| {
            schema
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect::<Vec<_>>()
        };
        let which = format!("{:?} {:?}", names(&context.key), names(&context.columns));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lookup) = open.get(&which) {
            return Arc::clone(lookup) as Arc<dyn Lookup>;
        }
        let lookup = Arc::new(FileLookup::new(files, context));
        open.insert(which, Arc::clone(&lookup));
        lookup
    }
}

/// The names of the table's columns that are in its files.
pub fn file_columns(schema: Option<&SchemaRef>) -> Vec<String> {
    let fields = schema.iter().flat_map(|schema| schema.fields().iter());
    let in_files = fields.filter(|field| !field.metadata().contains_key(METADATA_FIELD));
    in_files.map(|field| field.name().clone()).collect()
}

struct FileLookup {
    files: LookupFiles,
    context: LookupContext,
    /// The columns to answer, then those of the key that are not among them.
    decoded: SchemaRef,
    key: Vec<usize>,
    held: tokio::sync::Mutex<Option<Arc<Held>>>,
}

/// One reading of all files.
struct Held {
    seen: Vec<(InputFile, Option<SystemTime>)>,
    at: Instant,
    rows: RecordBatch,
    keys: KeyTable,
    /// For each key the rows that have it.
    rows_of: Vec<Vec<u32>>,
}

impl FileLookup {
    fn new(files: LookupFiles, context: LookupContext) -> FileLookup {
        let mut fields: Vec<Arc<Field>> = context.columns.fields().iter().cloned().collect();
        let mut key = Vec::with_capacity(context.key.fields().len());
        for field in context.key.fields() {
            let known = fields.iter().position(|known| known.name() == field.name());
            key.push(known.unwrap_or(fields.len()));
            if known.is_none() {
                fields.push(Arc::clone(field));
            }
        }
        FileLookup {
            files,
            context,
            decoded: Arc::new(Schema::new(fields)),
            key,
            held: tokio::sync::Mutex::new(None),
        }
    }

    async fn held(&self) -> Result<Arc<Held>> {
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref()
            && held.at.elapsed() < self.files.ttl
            && (!self.files.location.is_local() || self.listed().await? == held.seen)
        {
            return Ok(Arc::clone(held));
        }
        let fresh = Arc::new(self.read().await?);
        *held = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    async fn listed(&self) -> Result<Vec<(InputFile, Option<SystemTime>)>> {
        let files = self.files.location.list().await?;
        let changed = |file: &InputFile| match self.files.location.is_local() {
            true => std::fs::metadata(&file.name).and_then(|meta| meta.modified()).ok(),
            false => None,
        };
        Ok(files
            .into_iter()
            .map(|file| {
                let at = changed(&file);
                (file, at)
            })
            .collect())
    }

    async fn read(&self) -> Result<Held> {
        let at = Instant::now();
        let seen = self.listed().await?;
        let mut batches = Vec::new();
        for (file, _) in &seen {
            match self.files.format.format {
                Format::Parquet => self.read_parquet(file, &mut batches).await?,
                Format::Arrow => self.read_arrow(file, &mut batches).await?,
                _ => self.read_text(file, &mut batches).await?,
            }
        }
        let rows = concat_batches(&self.decoded, &batches)?;
        let columns: Vec<ArrayRef> = self.key.iter().map(|&column| Arc::clone(rows.column(column))).collect();
        let types: Vec<_> = columns.iter().map(|column| column.data_type().clone()).collect();
        let mut keys = KeyTable::new(&types)?;
        let mut groups = Vec::with_capacity(rows.num_rows());
        keys.intern(&columns, &hashes(&columns, rows.num_rows()), &mut groups);
        let mut rows_of = vec![Vec::new(); keys.capacity_ids()];
        for (row, group) in groups.iter().enumerate() {
            // A NULL equals nothing.
            if columns.iter().all(|column| column.is_valid(row)) {
                rows_of[*group as usize].push(row as u32);
            }
        }
        let answered: Vec<usize> = (0..self.context.columns.fields().len()).collect();
        Ok(Held {
            seen,
            at,
            rows: rows.project(&answered)?,
            keys,
            rows_of,
        })
    }

    async fn read_parquet(&self, file: &InputFile, batches: &mut Vec<RecordBatch>) -> Result<()> {
        let builder = parquet_file::open(&self.files.location, file).await?;
        let mut stream = builder.build().map_err(|error| parquet_file::failure(file, &error))?;
        while let Some(rows) = stream
            .try_next()
            .await
            .map_err(|error| parquet_file::failure(file, &error))?
        {
            batches.push(parquet_file::fitted(&rows, &self.decoded, file)?);
        }
        Ok(())
    }

    async fn read_arrow(&self, file: &InputFile, batches: &mut Vec<RecordBatch>) -> Result<()> {
        let bytes = self.contents(file).await?;
        let mut reader = arrow_file::open(bytes.as_ref(), &self.decoded, file)?;
        while let Some(rows) = reader.next_batch().map_err(|error| arrow_file::failure(file, &error))? {
            batches.push(parquet_file::fitted(&rows, &self.decoded, file)?);
        }
        Ok(())
    }

    async fn contents(&self, file: &InputFile) -> Result<bytes::Bytes> {
        let fetched = match self.files.location.store.get(&file.path).await {
            Ok(fetched) => fetched.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = fetched.map_err(|error| store_error("read", &file.name, &error))?;
        unpacked(bytes, file).await
    }

    async fn read_text(&self, file: &InputFile, batches: &mut Vec<RecordBatch>) -> Result<()> {
        let bytes = self.contents(file).await?;
        let format = &self.files.format;
        let mut decoder: Box<dyn Decoder> = match format.format {
            Format::Csv => {
                let names = (!format.csv.header).then_some(self.files.names.as_slice());
                Box::new(CsvDecoder::new(&self.decoded, format.csv.clone(), names)?)
            }
            _ => format.decoder(&self.decoded, None)?,
        };
        let mut at = 0;
        loop {
            let input = Input {
                bytes: &bytes[at..],
                offset: at as u64,
                place: &file.name,
                at_end: true,
            };
            at += decoder.decode(input, CHUNK_ROWS_TARGET, self.context.bad_rows.as_ref())?;
            if decoder.rows() == 0 {
                return Ok(());
            }
            batches.push(decoder.take()?);
        }
    }
}

/// The contents of a file that may be compressed.
async fn unpacked(bytes: bytes::Bytes, file: &InputFile) -> Result<bytes::Bytes> {
    if file.compression == Compression::None {
        return Ok(bytes);
    }
    let (compression, name) = (file.compression, file.name.clone());
    let unpack = move || {
        let mut contents = Vec::new();
        let read = compression
            .reader(bytes.as_ref())
            .and_then(|mut reader| reader.read_to_end(&mut contents));
        match read {
            Ok(_) => Ok(contents.into()),
            Err(error) => Err(reader::damaged(&name, &error)),
        }
    };
    let unpacked = tokio::task::spawn_blocking(unpack).await;
    unpacked.map_err(|error| Error::Internal(error.to_string()))?
}

fn hashes(columns: &[ArrayRef], rows: usize) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(rows);
    hash_columns(columns, &mut hashes);
    hashes
}

/// A file that is not there may be on its way: it is being replaced.
fn may_come(error: Error) -> Error {
    match error {
        Error::External {
            code: SqlState::UNDEFINED_FILE,
            message,
            hint,
            ..
        } => Error::External {
            code: SqlState::UNDEFINED_FILE,
            message,
            hint,
            retry: Retry::Backoff,
        },
        other => other,
    }
}

#[async_trait::async_trait]
impl Lookup for FileLookup {
    async fn lookup(&self, keys: &RecordBatch) -> Result<LookupAnswer> {
        let held = self.held().await.map_err(may_come)?;
        let mut groups = Vec::with_capacity(keys.num_rows());
        let hashes = hashes(keys.columns(), keys.num_rows());
        held.keys.lookup(keys.columns(), &hashes, &mut groups);
        let (mut places, mut rows) = (Vec::new(), Vec::new());
        for (place, group) in groups.iter().enumerate() {
            for &row in group.iter().flat_map(|group| &held.rows_of[*group as usize]) {
                places.push(place as u32);
                rows.push(row);
            }
        }
        Ok(LookupAnswer {
            rows: take_record_batch(&held.rows, &UInt32Array::from(rows))?,
            keys: places,
        })
    }
}

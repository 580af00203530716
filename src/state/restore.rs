//! Reads a checkpoint back, at any parallelism.
//!
//! Opening fetches every blob and verifies length and checksum before anything is decoded, so that damage is found while the
//! coordinator can still fall back to the checkpoint before. Verified bytes are kept for the readers up to [`KEPT_BYTES`];
//! larger state is fetched, and verified, again.
//!
//! Guarantee: a reader sees each live row of its key groups once a write, oldest epoch first, and no row that a base replaced
//! or that has expired. Damage is [`Error::Damaged`], never other rows.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, UInt16Type};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{OperatorId, SubtaskIndex};
use crate::state::blob::Decoder;
use crate::state::error::Error;
use crate::state::key_group::{KeyGroup, KeyGroupRange, KeyGroups};
use crate::state::manifest::{Blob, Manifest, Part, SubtaskEntry, TableEntry};
use crate::state::storage::CheckpointStorage;
use crate::state::table::{StateReader, TableKind, leading_fields};

/// Blobs kept in memory between verification and reading.
const KEPT_BYTES: u64 = 512 << 20;
/// Blobs this near are fetched by one request.
const GAP_BYTES: u64 = 1 << 20;
const REQUEST_BYTES: u64 = 32 << 20;
const REQUESTS_AT_A_TIME: usize = 8;

/// The state of a committed checkpoint, or of a pipeline that never had one. Clones share everything.
#[derive(Clone)]
pub struct RestoredState {
    inner: Arc<Inner>,
}

struct Inner {
    key_groups: KeyGroups,
    source: Option<(CheckpointStorage, Manifest)>,
    kept: HashMap<BlobId, Bytes>,
}

/// Pack and offset.
type BlobId = (u32, u64);

impl RestoredState {
    /// Nothing: what a fresh start restores.
    pub fn fresh(key_groups: KeyGroups) -> RestoredState {
        RestoredState {
            inner: Arc::new(Inner {
                key_groups,
                source: None,
                kept: HashMap::new(),
            }),
        }
    }

    /// Fetches and verifies every blob of `manifest`.
    pub async fn open(storage: &CheckpointStorage, manifest: Manifest) -> Result<RestoredState, Error> {
        let keep = manifest.bytes() <= KEPT_BYTES;
        let parts = manifest.parts().map(Part::blob).collect();
        let kept = fetch_verified(storage, &manifest, parts, keep).await?;
        // What could not be committed would be lost.
        let committables = manifest.committables().map(|(_, blob)| blob).collect();
        fetch_verified(storage, &manifest, committables, false).await?;
        Ok(RestoredState {
            inner: Arc::new(Inner {
                key_groups: manifest.key_groups(),
                source: Some((storage.clone(), manifest)),
                kept,
            }),
        })
    }

    pub fn manifest(&self) -> Option<&Manifest> {
        self.inner.source.as_ref().map(|(_, manifest)| manifest)
    }

    pub fn key_groups(&self) -> KeyGroups {
        self.inner.key_groups
    }

    /// The rows of `operator` for one subtask. `runtime` fetches blobs that were too many to keep; the reader is then to be used outside of it.
    pub fn reader(
        &self,
        operator: &OperatorId,
        subtask: SubtaskIndex,
        parallelism: u32,
        runtime: Handle,
    ) -> Box<dyn StateReader + Send> {
        Box::new(Reader {
            inner: Arc::clone(&self.inner),
            operator: operator.clone(),
            owned: self.inner.key_groups.range_of(subtask.0, parallelism),
            runtime,
        })
    }

    /// What the sink's subtasks said of their targets, in order of the subtasks.
    pub fn sink_positions(&self, operator: &OperatorId) -> Vec<String> {
        self.subtasks(operator)
            .filter_map(|entry| entry.sink_position.clone())
            .collect()
    }

    /// The watermark that all former subtasks had reached; those that had ended hold nothing back. `None` when there is
    /// none, or one of them had none.
    pub fn watermark(&self, operator: &OperatorId) -> Option<i64> {
        let running = || self.subtasks(operator).filter(|entry| !entry.finished);
        if running().next().is_none() {
            return self.subtasks(operator).filter_map(|entry| entry.watermark).max();
        }
        running().map(|entry| entry.watermark).min().flatten()
    }

    /// Whether every former subtask had ended.
    pub fn finished(&self, operator: &OperatorId) -> bool {
        self.subtasks(operator).next().is_some() && self.subtasks(operator).all(|entry| entry.finished)
    }

    fn subtasks<'a>(&'a self, operator: &'a OperatorId) -> impl Iterator<Item = &'a SubtaskEntry> {
        let entries = self.manifest().map_or(&[][..], |manifest| &manifest.subtasks);
        entries.iter().filter(move |entry| entry.operator == operator.0)
    }
}

/// What sinks prepared at a checkpoint, by operator, in the order of their subtasks.
pub async fn read_committables(
    storage: &CheckpointStorage,
    manifest: &Manifest,
) -> Result<BTreeMap<OperatorId, Vec<Bytes>>, Error> {
    let listed: Vec<(OperatorId, Blob)> = manifest.committables().collect();
    let blobs = listed.iter().map(|(_, blob)| *blob).collect();
    let fetched = fetch_verified(storage, manifest, blobs, true).await?;
    let mut found: BTreeMap<OperatorId, Vec<Bytes>> = BTreeMap::new();
    for (operator, blob) in listed {
        // Of no length: nothing was fetched under its place, or another blob that begins there.
        let bytes = match blob.length {
            0 => Bytes::new(),
            _ => fetched.get(&(blob.pack, blob.offset)).cloned().unwrap_or_default(),
        };
        found.entry(operator).or_default().push(bytes);
    }
    Ok(found)
}

/// Checks length and checksum of every blob, without decoding.
pub async fn verify(storage: &CheckpointStorage, manifest: &Manifest) -> Result<(), Error> {
    let all = manifest.blobs().collect();
    fetch_verified(storage, manifest, all, false).await.map(|_| ())
}

async fn fetch_verified(
    storage: &CheckpointStorage,
    manifest: &Manifest,
    blobs: Vec<Blob>,
    keep: bool,
) -> Result<HashMap<BlobId, Bytes>, Error> {
    let fetched: Vec<Vec<(BlobId, Bytes)>> = futures::stream::iter(requests(blobs))
        .map(|request| fetch(storage, manifest, request, keep))
        .buffer_unordered(REQUESTS_AT_A_TIME)
        .try_collect()
        .await?;
    Ok(fetched.into_iter().flatten().collect())
}

/// Blobs of one pack that are fetched together.
struct Request {
    pack: u32,
    range: Range<u64>,
    blobs: Vec<Blob>,
}

fn requests(mut blobs: Vec<Blob>) -> Vec<Request> {
    blobs.retain(|blob| blob.length > 0);
    blobs.sort_by_key(|blob| (blob.pack, blob.offset));
    let mut requests: Vec<Request> = Vec::new();
    for blob in blobs {
        let end = blob.offset + blob.length;
        match requests.last_mut() {
            Some(last)
                if last.pack == blob.pack
                    && blob.offset <= last.range.end.saturating_add(GAP_BYTES)
                    && end - last.range.start <= REQUEST_BYTES =>
            {
                last.range.end = last.range.end.max(end);
                last.blobs.push(blob);
            }
            _ => requests.push(Request {
                pack: blob.pack,
                range: blob.offset..end,
                blobs: vec![blob],
            }),
        }
    }
    requests
}

async fn fetch(
    storage: &CheckpointStorage,
    manifest: &Manifest,
    request: Request,
    keep: bool,
) -> Result<Vec<(BlobId, Bytes)>, Error> {
    let path = &manifest.packs[request.pack as usize];
    let bytes = read_pack(storage, path, request.range.clone()).await?;
    let mut found = Vec::new();
    for blob in &request.blobs {
        let start = (blob.offset - request.range.start) as usize;
        let stored = bytes.slice(start.min(bytes.len())..(start + blob.length as usize).min(bytes.len()));
        check_blob(path, blob, &stored)?;
        if keep {
            found.push(((blob.pack, blob.offset), stored));
        }
    }
    Ok(found)
}

/// A pack that is gone, or shorter than it was, is damage: another checkpoint may be whole.
async fn read_pack(storage: &CheckpointStorage, path: &str, range: Range<u64>) -> Result<Bytes, Error> {
    match storage.read_range(path, range).await {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.is_not_found() => Err(damaged(path, "it does not exist")),
        Err(error) => Err(error),
    }
}

fn check_blob(path: &str, blob: &Blob, stored: &Bytes) -> Result<(), Error> {
    if stored.len() as u64 != blob.length {
        return Err(damaged(path, "it is shorter than it was"));
    }
    if xxh3_64(stored) != blob.checksum {
        return Err(damaged(path, "the checksum does not match"));
    }
    Ok(())
}

fn damaged(path: &str, reason: &str) -> Error {
    Error::Damaged {
        path: path.to_string(),
        reason: reason.to_string(),
    }
}

struct Reader {
    inner: Arc<Inner>,
    operator: OperatorId,
    owned: KeyGroupRange,
    runtime: Handle,
}

impl StateReader for Reader {
    fn read(
        &self,
        table: &str,
        visit: &mut dyn FnMut(RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<(), Error> {
        let Some((storage, manifest)) = &self.inner.source else {
            return Ok(());
        };
        let wanted = |entry: &&TableEntry| entry.operator == self.operator.0 && entry.table == table;
        let Some(entry) = manifest.tables.iter().find(wanted) else {
            return Ok(());
        };
        for part in entry
            .parts
            .iter()
            .filter(|part| entry.broadcast || part.key_groups().overlaps(self.owned))
        {
            let path = &manifest.packs[part.pack as usize];
            let blob = self.blob(storage, path, part)?;
            let range = (!entry.broadcast).then_some(self.owned);
            let live = LiveRows::new(entry, part, self.owned);
            for batch in Decoder::open(path, part.encoding, blob, range)? {
                let batch = batch?;
                check_columns(path, entry, &batch)?;
                let batch = live.filter(batch)?;
                if batch.num_rows() > 0 {
                    visit(batch).map_err(|error| Error::Restore {
                        table: table.to_string(),
                        reason: error.to_string(),
                    })?;
                }
            }
        }
        Ok(())
    }

    fn key_groups(&self) -> KeyGroups {
        self.inner.key_groups
    }

    fn owned(&self) -> KeyGroupRange {
        self.owned
    }
}

impl Reader {
    fn blob(&self, storage: &CheckpointStorage, path: &str, part: &Part) -> Result<Bytes, Error> {
        if let Some(blob) = self.inner.kept.get(&(part.pack, part.offset)) {
            return Ok(blob.clone());
        }
        let blob = self
            .runtime
            .block_on(read_pack(storage, path, part.offset..part.offset + part.length))?;
        check_blob(path, &part.blob(), &blob)?;
        Ok(blob)
    }
}

fn check_columns(path: &str, entry: &TableEntry, batch: &RecordBatch) -> Result<(), Error> {
    let kind = if entry.expiring {
        TableKind::ExpiringTimeKey
    } else {
        TableKind::GlobalKeyed
    };
    let schema = batch.schema();
    let fits = leading_fields(kind).iter().enumerate().all(|(index, wanted)| {
        schema
            .fields()
            .get(index)
            .is_some_and(|field| field.data_type() == wanted.data_type())
    });
    if fits {
        Ok(())
    } else {
        Err(damaged(path, "its columns are not those of a table"))
    }
}

/// Which rows of a part a reader gets.
struct LiveRows {
    /// By key group; `None`: all of them.
    groups: Option<Vec<bool>>,
    /// By key group, the time before which rows are dead; `None`: no row of the part is.
    expired: Option<Vec<i64>>,
}

impl LiveRows {
    fn new(entry: &TableEntry, part: &Part, owned: KeyGroupRange) -> LiveRows {
        if entry.broadcast {
            return LiveRows {
                groups: None,
                expired: None,
            };
        }
        let range = part.key_groups();
        let by_group = || (0..range.end).map(KeyGroup);
        let replaced = |group| entry.bases.get(group).is_some_and(|base| base > part.epoch);
        let all_owned = owned.start <= range.start && range.end <= owned.end;
        let none_replaced = entry.bases.greatest(range).is_none_or(|base| base <= part.epoch);
        let groups = (!all_owned || !none_replaced).then(|| {
            by_group()
                .map(|group| owned.contains(group) && !replaced(group))
                .collect()
        });
        let earliest = part.times.map_or(i64::MAX, |(earliest, _)| earliest);
        let none_expired = entry.expired.greatest(range).is_none_or(|before| before <= earliest);
        let expired = (!none_expired).then(|| {
            by_group()
                .map(|group| entry.expired.get(group).unwrap_or(i64::MIN))
                .collect()
        });
        LiveRows { groups, expired }
    }

    fn filter(&self, batch: RecordBatch) -> Result<RecordBatch, Error> {
        if self.groups.is_none() && self.expired.is_none() {
            return Ok(batch);
        }
        let groups = batch.column(0).as_primitive::<UInt16Type>().values();
        let mut live: Vec<bool> = match &self.groups {
            Some(wanted) => groups
                .iter()
                .map(|group| wanted.get(usize::from(*group)).copied().unwrap_or(false))
                .collect(),
            None => vec![true; batch.num_rows()],
        };
        if let Some(expired) = &self.expired {
            let times = batch.column(2).as_primitive::<Int64Type>().values();
            for (row, live) in live.iter_mut().enumerate() {
                *live &= times[row] >= expired.get(usize::from(groups[row])).copied().unwrap_or(i64::MIN);
            }
        }
        if live.iter().all(|live| *live) {
            return Ok(batch);
        }
        filter_record_batch(&batch, &BooleanArray::from(live))
            .map_err(|error| Error::Internal(format!("restoring state: {error}")))
    }
}

//! Writes a checkpoint: blobs, packs, manifest.
//!
//! What is small goes into the manifest object: one object. Otherwise packs are written first, a few at a time, then the manifest.
//! Nothing counts before the coordinator decides the epoch, so a failure at any place leaves only objects that nothing refers to.
//!
//! Guarantee: when [`write_checkpoint`] returned, manifest and packs are durable. Not guaranteed: that the epoch is decided.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};

use crate::ids::{Epoch, Generation, OperatorId, SubtaskIndex};
use crate::state::encode::{EncodedTable, encode_snapshot};
use crate::state::error::Error;
use crate::state::hash;
use crate::state::key_group::{KeyGroupRange, KeyGroups};
use crate::state::manifest::{BLOBS_START, CheckpointKind, FORMAT, Manifest, manifest_path, pack_path};
use crate::state::merge::{Place, merge};
use crate::state::storage::CheckpointStorage;
use crate::state::table::TableWrite;

/// Blobs of this size together go into the manifest object.
const INLINE_BYTES: usize = 64 << 10;
/// Packs are closed at this size: one request each, several at a time.
const PACK_BYTES: usize = 64 << 20;
const PACKS_AT_A_TIME: usize = 4;
/// Fewer rows than this are encoded on one thread.
const SPREAD_ROWS: usize = 16 * 1024;

/// What one subtask of one operator hands over at a barrier.
#[derive(Clone, Debug)]
pub struct SubtaskSnapshot {
    pub operator: OperatorId,
    pub subtask: SubtaskIndex,
    pub parallelism: u32,
    pub tables: Vec<TableWrite>,
    /// What a sink prepared; to be committed once the epoch was decided.
    pub committable: Option<Bytes>,
    /// Where a sink's target stands; given back at a restore.
    pub sink_position: Option<String>,
    pub watermark: Option<i64>,
    /// The subtask's input has ended and was flushed.
    pub finished: bool,
}

/// What a checkpoint is about.
#[derive(Clone, Debug)]
pub struct CheckpointHeader<'a> {
    pub epoch: Epoch,
    pub generation: Generation,
    /// The checkpoint that this run restored or wrote before; its parts are carried over.
    pub parent: Option<&'a Manifest>,
    pub key_groups: KeyGroups,
    pub kind: CheckpointKind,
    pub created_at_micros: i64,
    /// See [`Manifest::lineages`].
    pub lineages: BTreeMap<String, String>,
}

/// Writes everything and answers with the manifest and its path, which the coordinator decides by.
pub async fn write_checkpoint(
    storage: &CheckpointStorage,
    pipeline_path: &str,
    header: CheckpointHeader<'_>,
    snapshots: Vec<SubtaskSnapshot>,
) -> Result<(Manifest, String), Error> {
    check_header(&header)?;
    let snapshots: Arc<[SubtaskSnapshot]> = snapshots.into();
    let written = encode_all(Arc::clone(&snapshots), header.key_groups).await?;
    let path = manifest_path(pipeline_path, header.epoch, header.generation);
    let blobs = written.iter().flat_map(|write| &write.blobs).map(|blob| &blob.bytes);
    let committables = snapshots.iter().filter_map(|snapshot| snapshot.committable.as_ref());
    let layout = lay_out(blobs.chain(committables).collect(), &path, || {
        pack_path(pipeline_path, header.epoch, header.generation)
    });
    let merged = merge(header.parent, header.epoch.0, &snapshots, &written, &layout.places)?;
    let manifest = Manifest {
        format: FORMAT,
        pipeline: pipeline_path.to_string(),
        epoch: header.epoch.0,
        generation: header.generation.0,
        parent: header.parent.map(|parent| parent.epoch),
        sequence: header.parent.map_or(0, |parent| parent.sequence + 1),
        key_groups: header.key_groups.count(),
        hash_version: hash::VERSION,
        kind: header.kind,
        created_at_micros: header.created_at_micros,
        lineages: header.lineages.clone(),
        writer: uuid::Uuid::new_v4().simple().to_string(),
        packs: merged.packs,
        subtasks: merged.subtasks,
        tables: merged.tables,
    };
    let object = manifest.to_object(&layout.inline)?;
    futures::stream::iter(layout.packs.into_iter().map(Ok::<_, Error>))
        .try_for_each_concurrent(PACKS_AT_A_TIME, |(path, bytes)| async move {
            storage.create(&path, bytes).await
        })
        .await?;
    storage.create(&path, object).await?;
    Ok((manifest, path))
}

/// Reads a manifest and checks it.
pub async fn load_manifest(storage: &CheckpointStorage, path: &str) -> Result<Manifest, Error> {
    let Some(object) = storage.read_if_exists(path).await? else {
        return Err(Error::Damaged {
            path: path.to_string(),
            reason: "it does not exist".into(),
        });
    };
    Manifest::from_object(path, &object)
}

fn check_header(header: &CheckpointHeader<'_>) -> Result<(), Error> {
    let Some(parent) = header.parent else {
        return Ok(());
    };
    if parent.key_groups() != header.key_groups {
        return Err(Error::Internal("a pipeline keeps its number of key groups".into()));
    }
    if parent.epoch() >= header.epoch {
        return Err(Error::Internal(format!(
            "epoch {} follows epoch {}",
            header.epoch,
            parent.epoch()
        )));
    }
    Ok(())
}

/// Encodes where blocking is allowed; large snapshots on several threads.
async fn encode_all(snapshots: Arc<[SubtaskSnapshot]>, key_groups: KeyGroups) -> Result<Vec<EncodedTable>, Error> {
    let joined = |error: tokio::task::JoinError| Error::Internal(format!("encoding state: {error}"));
    let tables = snapshots.iter().flat_map(|snapshot| &snapshot.tables);
    let rows: usize = tables.flat_map(|table| &table.rows).map(|rows| rows.num_rows()).sum();
    if rows < SPREAD_ROWS {
        let all = tokio::task::spawn_blocking(move || {
            snapshots
                .iter()
                .map(|snapshot| encode_snapshot(snapshot, key_groups))
                .collect::<Result<Vec<_>, _>>()
        });
        return Ok(all.await.map_err(joined)??.into_iter().flatten().collect());
    }
    let encoded: Vec<Vec<EncodedTable>> = futures::stream::iter(0..snapshots.len())
        .map(|index| {
            let snapshots = Arc::clone(&snapshots);
            async move {
                tokio::task::spawn_blocking(move || encode_snapshot(&snapshots[index], key_groups))
                    .await
                    .map_err(joined)?
            }
        })
        .buffered(std::thread::available_parallelism().map_or(2, |cores| cores.get()))
        .try_collect()
        .await?;
    Ok(encoded.into_iter().flatten().collect())
}

/// Where every blob goes: those of tables, then what is to be committed.
struct Layout {
    /// One a blob.
    places: Vec<Place>,
    inline: Vec<Bytes>,
    packs: Vec<(String, Bytes)>,
}

fn lay_out(blobs: Vec<&Bytes>, manifest: &str, new_pack: impl Fn() -> String) -> Layout {
    let total: usize = blobs.iter().map(|blob| blob.len()).sum();
    let mut layout = Layout {
        places: Vec::with_capacity(blobs.len()),
        inline: Vec::new(),
        packs: Vec::new(),
    };
    if total <= INLINE_BYTES {
        let mut offset = BLOBS_START;
        for blob in blobs {
            layout.places.push((manifest.to_string(), offset));
            layout.inline.push(blob.clone());
            offset += blob.len() as u64;
        }
        return layout;
    }
    let mut open = (new_pack(), BytesMut::new());
    for blob in blobs {
        if !open.1.is_empty() && open.1.len() + blob.len() > PACK_BYTES {
            let (path, bytes) = std::mem::replace(&mut open, (new_pack(), BytesMut::new()));
            layout.packs.push((path, bytes.freeze()));
        }
        layout.places.push((open.0.clone(), open.1.len() as u64));
        open.1.extend_from_slice(blob);
    }
    layout.packs.push((open.0, open.1.freeze()));
    layout
}

/// Live bytes up to which rewriting everything is cheaper than keeping track of parts.
const REBASE_ALL_BYTES: u64 = 32 << 10;
/// Checkpoints in which every group is rebased once.
const REBASE_SLICES: u32 = 16;

/// Which of `owned` groups the next snapshot writes whole, by the newest manifest of this run (`None` before the first).
///
/// All of them when there is no manifest, when the state is tiny, and when the deltas have grown larger than the base;
/// else one slice of sixteen, in turn. So a restore reads at most sixteen epochs of deltas, and about twice the state.
/// Savepoints are to pass `None`.
pub fn rebase_range(
    manifest: Option<&Manifest>,
    _epoch: Epoch,
    key_groups: KeyGroups,
    owned: KeyGroupRange,
) -> KeyGroupRange {
    rolling_range(manifest, key_groups, owned, 1)
}

/// The same for checkpoints that come with every commit of a few rows: only each sixteenth writes a slice, or the slices
/// would be nearly all that is written. A restore reads at most 256 epochs of deltas, which are as small.
pub fn rebase_range_seldom(manifest: Option<&Manifest>, key_groups: KeyGroups, owned: KeyGroupRange) -> KeyGroupRange {
    rolling_range(manifest, key_groups, owned, u64::from(REBASE_SLICES))
}

fn rolling_range(
    manifest: Option<&Manifest>,
    key_groups: KeyGroups,
    owned: KeyGroupRange,
    every: u64,
) -> KeyGroupRange {
    let Some(manifest) = manifest else {
        return owned;
    };
    debug_assert_eq!(manifest.key_groups(), key_groups);
    let (mut base, mut deltas) = (0, 0);
    let tables = manifest.tables.iter().filter(|table| !table.broadcast);
    for part in tables
        .flat_map(|table| &table.parts)
        .filter(|part| part.key_groups().overlaps(owned))
    {
        let width = u64::from(part.end - part.start);
        let inside = u64::from(part.end.min(owned.end) - part.start.max(owned.start));
        let bytes = part.length * inside / width.max(1);
        *(if part.base { &mut base } else { &mut deltas }) += bytes;
    }
    if base + deltas <= REBASE_ALL_BYTES || deltas > base {
        return owned;
    }
    let turn = manifest.sequence + 1;
    if !turn.is_multiple_of(every) {
        return KeyGroupRange {
            start: owned.start,
            end: owned.start,
        };
    }
    let slice = (turn / every % u64::from(REBASE_SLICES)) as u32;
    let width = u32::from(owned.end - owned.start);
    let boundary = |slice: u32| owned.start + (slice * width / REBASE_SLICES) as u16;
    KeyGroupRange {
        start: boundary(slice),
        end: boundary(slice + 1),
    }
}

#[cfg(test)]
mod tests;

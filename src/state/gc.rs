//! Deletes checkpoint objects that no kept manifest reaches.
//!
//! The caller is the run of generation `fence`. It first deletes the records of checkpoints that are not to be kept, then reads
//! the records that are left, newest included, and passes their manifests. Of what these do not reach,
//!
//! - objects of newer generations are not touched: this run is a zombie to them;
//! - objects of this generation go when their epoch is before the newest kept one: decisions are in order, so nobody
//!   can come to need them, while uploads in flight have later epochs;
//! - objects of older generations go when they are older than [`GRACE_MICROS`], for zombies may still be writing.
//!
//! Everything is classified before the first delete; a kept manifest that cannot be read ends the collection with nothing
//! deleted. Names that are not ours are left alone.
//!
//! Guarantee: kept checkpoints stay whole, whatever crashes or runs beside. Not guaranteed: that garbage is gone after one
//! collection.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};

use crate::ids::{Epoch, Generation};
use crate::state::error::Error;
use crate::state::manifest::{directory, parse_name};
use crate::state::snapshot::load_manifest;
use crate::state::storage::{CheckpointStorage, StoredObject};

/// How long a run may go on writing without knowing that it was replaced.
pub const GRACE_MICROS: i64 = 24 * 3600 * 1_000_000;

const REQUESTS_AT_A_TIME: usize = 8;

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub deleted: u64,
    pub deleted_bytes: u64,
    pub kept: u64,
}

/// Collects the garbage of one pipeline. `keep`: the paths of the manifests of all records; `fence`: the caller's generation.
pub async fn collect(
    storage: &CheckpointStorage,
    pipeline_path: &str,
    keep: &[String],
    fence: Generation,
    now_micros: i64,
) -> Result<Collected, Error> {
    let reachable = reachable(storage, keep).await?;
    let directory = directory(pipeline_path);
    let objects = storage.list(&directory).await?;
    let (garbage, kept): (Vec<StoredObject>, Vec<StoredObject>) = objects
        .into_iter()
        .partition(|object| reachable.is_garbage(object, fence, now_micros));
    let collected = Collected {
        deleted: garbage.len() as u64,
        deleted_bytes: garbage.iter().map(|object| object.bytes).sum(),
        kept: kept.len() as u64,
    };
    futures::stream::iter(garbage.into_iter().map(Ok::<_, Error>))
        .try_for_each_concurrent(REQUESTS_AT_A_TIME, |object| async move {
            storage.delete(&object.path).await
        })
        .await?;
    storage.sweep_temporary(&directory, now_micros).await?;
    Ok(collected)
}

/// Deletes everything of a pipeline that was dropped; none of its runs is alive.
pub async fn delete_all(storage: &CheckpointStorage, pipeline_path: &str) -> Result<(), Error> {
    let objects = storage.list(pipeline_path.trim_matches('/')).await?;
    futures::stream::iter(objects.into_iter().map(Ok::<_, Error>))
        .try_for_each_concurrent(REQUESTS_AT_A_TIME, |object| async move {
            storage.delete(&object.path).await
        })
        .await
}

struct Reachable {
    paths: HashSet<String>,
    newest: Option<Epoch>,
}

async fn reachable(storage: &CheckpointStorage, keep: &[String]) -> Result<Reachable, Error> {
    let manifests: Vec<_> = futures::stream::iter(keep.to_vec())
        .map(|path| async move { load_manifest(storage, &path).await })
        .buffered(REQUESTS_AT_A_TIME)
        .try_collect()
        .await?;
    let mut paths: HashSet<String> = keep.iter().cloned().collect();
    let newest = manifests.iter().map(|manifest| manifest.epoch()).max();
    paths.extend(manifests.into_iter().flat_map(|manifest| manifest.packs));
    Ok(Reachable { paths, newest })
}

impl Reachable {
    fn is_garbage(&self, object: &StoredObject, fence: Generation, now_micros: i64) -> bool {
        let Some((epoch, generation)) = parse_name(&object.path) else {
            return false;
        };
        if self.paths.contains(&object.path) || generation > fence {
            return false;
        }
        if generation == fence {
            return self.newest.is_some_and(|newest| epoch < newest);
        }
        now_micros.saturating_sub(object.modified_micros) > GRACE_MICROS
    }
}

#[cfg(test)]
mod tests;

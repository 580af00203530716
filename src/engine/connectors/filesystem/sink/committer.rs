//! Publishes the files of a decided epoch, and only then do they have a name that readers see.
//!
//! Doing it again is harmless: a file that is there under its name, which nobody else ever gives, was published before.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::PartId;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutPayload};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::engine::connectors::filesystem::location::store_error;
use crate::engine::connectors::filesystem::sink::outage::{ATTEMPTS, tried};
use crate::engine::connectors::filesystem::sink::record::{Committable, SavedUpload, StagedFile, from_json};
use crate::engine::connectors::filesystem::sink::stage::{gone, sync_folder};
use crate::engine::connectors::filesystem::sink::target::{RemoteTarget, Target, staged_path};
use crate::engine::connectors::{Committer, Result, files};
use crate::engine::error::Error;
use crate::failpoint;
use crate::ids::Epoch;

/// Files published at the same time.
const PARALLEL: usize = 16;

pub struct FileCommitter {
    pub target: Target,
}

#[async_trait::async_trait]
impl Committer for FileCommitter {
    async fn commit(&mut self, _epoch: Epoch, committables: Vec<Bytes>) -> Result<()> {
        let mut all = Committable::default();
        for text in &committables {
            let committable: Committable = from_json(text)?;
            all.publish.extend(committable.publish);
            all.obsolete.extend(committable.obsolete);
        }
        match &self.target {
            Target::Local(folder) => {
                let folder = folder.clone();
                let published = tokio::task::spawn_blocking(move || publish_local(&folder, &all.publish));
                published.await.map_err(|error| Error::Internal(error.to_string()))?
            }
            Target::Remote(target) => {
                // Each by itself, so that a throttled store does not throw all of them back.
                let unwanted = CancellationToken::new();
                let publish = |file: StagedFile| {
                    let unwanted = &unwanted;
                    async move { tried(unwanted, ATTEMPTS, async || publish_remote(target, &file).await).await }
                };
                let published = futures::stream::iter(all.publish)
                    .map(publish)
                    .buffer_unordered(PARALLEL);
                published.try_collect::<()>().await?;
                // After all files: output of an epoch that was aborted comes together with that of the next.
                for hidden in &all.obsolete {
                    discard(target, hidden).await?;
                }
                Ok(())
            }
        }
    }
}

fn reached(file: &str) -> Result<()> {
    failpoint::reached("files.publish").map_err(|error| files::io_error("publish", file, &error))
}

fn publish_local(folder: &Path, published: &[StagedFile]) -> Result<()> {
    let mut changed: BTreeSet<PathBuf> = BTreeSet::new();
    for file in published {
        reached(&file.name)?;
        let path = folder.join(&file.name);
        let staged = staged_path(folder, &file.name);
        let parent = path.parent().unwrap_or(folder);
        if !parent.is_dir() {
            std::fs::create_dir_all(parent).map_err(|error| files::io_error("create", parent.display(), &error))?;
            changed.extend(
                parent
                    .ancestors()
                    .skip(1)
                    .take_while(|at| at.starts_with(folder))
                    .map(PathBuf::from),
            );
        }
        match std::fs::rename(&staged, &path) {
            Ok(()) => {}
            Err(_) if path.exists() => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(gone(&staged.display().to_string()));
            }
            Err(error) => return Err(files::io_error("publish", path.display(), &error)),
        }
        changed.insert(parent.to_owned());
    }
    for folder in &changed {
        sync_folder(folder)?;
    }
    Ok(())
}

async fn publish_remote(target: &RemoteTarget, file: &StagedFile) -> Result<()> {
    reached(&file.name)?;
    let path = target.path(&file.name)?;
    match complete(target, &path, file).await {
        Ok(()) => {}
        // Completed uploads and obsolete rests are gone: whether it is there says what that means.
        Err(error) => match target.objects.head(&path).await {
            Ok(_) => {}
            Err(object_store::Error::NotFound { .. }) => {
                return Err(match error {
                    object_store::Error::NotFound { .. } => gone(&target.shown(&path)),
                    other => store_error("publish", &target.shown(&path), &other),
                });
            }
            Err(unknown) => return Err(store_error("publish", &target.shown(&path), &unknown)),
        },
    }
    match &file.upload {
        Some(upload) => discard(target, &upload.note).await,
        None => Ok(()),
    }
}

async fn complete(target: &RemoteTarget, path: &ObjectPath, file: &StagedFile) -> Result<(), object_store::Error> {
    let rest = match &file.rest {
        Some(rest) => {
            let object = target.hidden(&rest.object).map_err(|error| generic(&error))?;
            target
                .objects
                .get_range(&object, rest.start..rest.start + rest.bytes)
                .await?
        }
        None => bytes::Bytes::new(),
    };
    let Some(SavedUpload { id, parts, .. }) = &file.upload else {
        // Again and again the same bytes.
        target.objects.put(path, PutPayload::from_bytes(rest)).await?;
        return Ok(());
    };
    let known = parts.iter().map(|part| PartId {
        content_id: part.clone(),
    });
    let mut parts: Vec<PartId> = known.collect();
    if !rest.is_empty() {
        let payload = PutPayload::from_bytes(rest);
        parts.push(target.uploads.put_part(path, id, parts.len(), payload).await?);
    }
    target.uploads.complete_multipart(path, id, parts).await?;
    Ok(())
}

fn generic(error: &Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "sink",
        source: error.to_string().into(),
    }
}

/// What stays because the store is away is found by the next run.
async fn discard(target: &RemoteTarget, hidden: &str) -> Result<()> {
    let path = target.hidden(hidden)?;
    if let Err(error) = target.objects.delete(&path).await {
        debug!(%error, hidden, "could not delete what a file sink no longer needs");
    }
    Ok(())
}

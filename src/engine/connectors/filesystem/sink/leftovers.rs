//! Removes what earlier runs of a sink have left and no checkpoint knows: staged files, rests, unfinished uploads. When its pipeline is
//! dropped, all of it.
//!
//! Runs beside the new run, which gives other names. Whatever it does not see or cannot remove stays for the next start:
//! nothing but space depends on it.

use std::collections::BTreeSet;
use std::path::Path;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path as ObjectPath;
use tracing::info;

use crate::engine::connectors::filesystem::location::store_error;
use crate::engine::connectors::filesystem::sink::record::{SavedSink, UploadNote};
use crate::engine::connectors::filesystem::sink::target::{HIDDEN, RemoteTarget, SinkNames, Target, base_name};
use crate::engine::connectors::kept_outside::KeptOutside;
use crate::engine::connectors::{Result, files};
use crate::engine::error::Error;

/// What the restored checkpoint goes on with.
#[derive(Default)]
struct Known {
    names: BTreeSet<String>,
    uploads: BTreeSet<String>,
}

impl Known {
    fn of(restored: &[SavedSink]) -> Known {
        let mut known = Known::default();
        for file in restored.iter().flat_map(|sink| &sink.files) {
            known.names.insert(format!("{}.staged", base_name(&file.staged.name)));
            known
                .names
                .extend(file.staged.rest.as_ref().map(|rest| rest.object.clone()));
            if let Some(upload) = &file.staged.upload {
                known.names.insert(upload.note.clone());
                known.uploads.insert(upload.id.clone());
            }
        }
        known
    }
}

pub async fn remove(target: Target, names: SinkNames, restored: Vec<SavedSink>) {
    let known = Known::of(&restored);
    let removed = match target {
        Target::Local(folder) => {
            let remove = move || remove_local(&folder.join(HIDDEN), &names, &known);
            tokio::task::spawn_blocking(remove).await.unwrap_or(0)
        }
        Target::Remote(target) => remove_remote(&target, &names, &known).await.unwrap_or(0),
    };
    if removed > 0 {
        info!(removed, "removed what earlier runs of a file sink had left");
    }
}

/// What a pipeline that is dropped may leave.
pub fn kept(path: &str, names: &SinkNames) -> KeptOutside {
    let (path, start) = (path.trim_end_matches('/'), names.start());
    KeptOutside {
        what: format!("files that were not published in \"{path}/{HIDDEN}\""),
        by_hand: format!("Nobody reads them; remove those whose names begin with \"{start}\"."),
    }
}

/// Removes everything of a sink that is not published: no run of it comes any more. `names`: of a run later than all.
pub async fn forget(target: Target, names: SinkNames) -> Result<()> {
    let folder = match target {
        Target::Remote(target) => {
            let removed = remove_remote(&target, &names, &Known::default()).await;
            let shown = target.shown(&target.path(HIDDEN)?);
            return removed
                .map(|_| ())
                .map_err(|error| store_error("remove", &shown, &error));
        }
        Target::Local(folder) => folder.join(HIDDEN),
    };
    let removed = tokio::task::spawn_blocking(move || forget_local(&folder, &names)).await;
    removed.map_err(|error| Error::Internal(error.to_string()))?
}

fn forget_local(hidden: &Path, names: &SinkNames) -> Result<()> {
    let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let entries = match std::fs::read_dir(hidden) {
        Err(error) if is_gone(&error) => return Ok(()),
        entries => entries.map_err(|error| files::io_error("open", hidden.display(), &error))?,
    };
    for entry in entries {
        let entry = entry.map_err(|error| files::io_error("open", hidden.display(), &error))?;
        if !names.is_of_earlier_run(&entry.file_name().to_string_lossy()) {
            continue;
        }
        match std::fs::remove_file(entry.path()) {
            Err(error) if !is_gone(&error) => {
                return Err(files::io_error("remove", entry.path().display(), &error));
            }
            _ => {}
        }
    }
    // Only when nobody else has anything in it; who needs it makes it again.
    let _ = std::fs::remove_dir(hidden);
    Ok(())
}

fn remove_local(hidden: &Path, names: &SinkNames, known: &Known) -> usize {
    let Ok(entries) = std::fs::read_dir(hidden) else {
        return 0;
    };
    let is_left = |entry: &std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        names.is_of_earlier_run(&name) && !known.names.contains(&name)
    };
    let left = entries.flatten().filter(is_left);
    left.filter(|entry| std::fs::remove_file(entry.path()).is_ok()).count()
}

async fn remove_remote(target: &RemoteTarget, names: &SinkNames, known: &Known) -> Result<usize, object_store::Error> {
    let Ok(hidden) = target.path(HIDDEN) else { return Ok(0) };
    let listed: Vec<_> = target.objects.list(Some(&hidden)).try_collect().await?;
    let mut removed = 0;
    for object in listed {
        let name = object.location.filename().unwrap_or_default();
        if !names.is_of_earlier_run(name) || known.names.contains(name) {
            continue;
        }
        if name.ends_with(".upload") {
            abort(target, &object.location, known).await?;
        }
        target.objects.delete(&object.location).await?;
        removed += 1;
    }
    Ok(removed)
}

async fn abort(target: &RemoteTarget, note: &ObjectPath, known: &Known) -> Result<(), object_store::Error> {
    let text = target.objects.get(note).await?.bytes().await?;
    let Ok(UploadNote { path, id }) = serde_json::from_slice(&text) else {
        return Ok(());
    };
    if known.uploads.contains(&id) {
        return Ok(());
    }
    let Ok(path) = ObjectPath::parse(path) else {
        return Ok(());
    };
    match target.uploads.abort_multipart(&path, &id).await {
        // It was completed, or aborted before.
        Err(object_store::Error::NotFound { .. }) => Ok(()),
        outcome => outcome,
    }
}

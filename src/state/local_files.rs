//! A directory as an object store whose objects survive a power cut.
//!
//! An object is written to a temporary file, synced, linked under its name (which fails when the name is taken), and the directory
//! is synced. So an object is there whole or not at all, and whoever was told that it is there finds it after a crash.
//!
//! Guarantee: after [`LocalFiles::create`] returned, name and bytes are on disk. Not guaranteed: anything on disks that
//! lie about syncing. On file systems without links the name is taken first and filled then; a crash may leave a torn
//! object, which nothing refers to yet.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use bytes::Bytes;

use crate::state::storage::StoredObject;

const TEMPORARY_PREFIX: &str = ".tmp-";

/// A temporary file this old belongs to nobody.
const TEMPORARY_AGE_MICROS: i64 = 24 * 3600 * 1_000_000;

#[derive(Clone, Debug)]
pub(super) struct LocalFiles {
    root: PathBuf,
    /// Directories known to be on disk.
    synced: Arc<Mutex<HashSet<PathBuf>>>,
}

impl LocalFiles {
    pub(super) fn new(root: PathBuf) -> LocalFiles {
        LocalFiles {
            root,
            synced: Arc::default(),
        }
    }

    /// Where `path`, a relative one with `/` between parts, lies.
    fn place(&self, path: &str) -> io::Result<PathBuf> {
        let relative = Path::new(path);
        if relative.components().all(|part| matches!(part, Component::Normal(_))) {
            Ok(self.root.join(relative))
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "path leaves the checkpoint directory",
            ))
        }
    }

    /// Writes a new object; `AlreadyExists` when the name is taken.
    pub(super) fn create(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let place = self.place(path)?;
        let directory = place.parent().unwrap_or(&self.root).to_path_buf();
        self.make_directory(&directory)?;
        let temporary = directory.join(format!("{TEMPORARY_PREFIX}{}", uuid::Uuid::new_v4().simple()));
        let written = write_synced(&temporary, bytes).and_then(|()| link(&temporary, &place, bytes));
        // A failure to tidy up must not hide how the write went; the sweeper comes by later.
        let _ = fs::remove_file(&temporary);
        written?;
        sync_directory(&directory)
    }

    /// Creates `directory` and its parents and syncs each into its parent.
    fn make_directory(&self, directory: &Path) -> io::Result<()> {
        let known = |synced: &HashSet<PathBuf>| synced.contains(directory);
        if known(&self.synced.lock().unwrap_or_else(PoisonError::into_inner)) && directory.is_dir() {
            return Ok(());
        }
        if let Some(parent) = directory.parent()
            && directory != self.root
        {
            self.make_directory(parent)?;
        }
        let created = if directory == self.root {
            fs::create_dir_all(directory)
        } else {
            fs::create_dir(directory)
        };
        match created {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if let Some(parent) = directory.parent() {
            sync_directory(parent)?;
        }
        self.synced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(directory.to_path_buf());
        Ok(())
    }

    pub(super) fn read(&self, path: &str) -> io::Result<Bytes> {
        fs::read(self.place(path)?).map(Bytes::from)
    }

    pub(super) fn read_range(&self, path: &str, range: Range<u64>) -> io::Result<Bytes> {
        let mut file = File::open(self.place(path)?)?;
        file.seek(SeekFrom::Start(range.start))?;
        let mut bytes = Vec::new();
        file.take(range.end.saturating_sub(range.start))
            .read_to_end(&mut bytes)?;
        Ok(bytes.into())
    }

    pub(super) fn delete(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.place(path)?)
    }

    /// Every object below `prefix`, temporary files left out.
    pub(super) fn list(&self, prefix: &str) -> io::Result<Vec<StoredObject>> {
        let mut found = Vec::new();
        self.walk(&self.place(prefix)?, &mut |object, temporary| {
            if !temporary {
                found.push(object);
            }
        })?;
        Ok(found)
    }

    /// Deletes temporary files that a crash left behind long ago.
    pub(super) fn sweep_temporary(&self, prefix: &str, now_micros: i64) -> io::Result<()> {
        let mut old = Vec::new();
        self.walk(&self.place(prefix)?, &mut |object, temporary| {
            if temporary && object.modified_micros < now_micros - TEMPORARY_AGE_MICROS {
                old.push(object.path);
            }
        })?;
        for path in old {
            not_found_is_fine(self.delete(&path))?;
        }
        Ok(())
    }

    fn walk(&self, directory: &Path, visit: &mut dyn FnMut(StoredObject, bool)) -> io::Result<()> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            // Files come and go while the directory is read.
            let Some(metadata) = found(entry.metadata())? else {
                continue;
            };
            let place = entry.path();
            if metadata.is_dir() {
                self.walk(&place, visit)?;
                continue;
            }
            let relative = place.strip_prefix(&self.root).unwrap_or(&place);
            let path = relative
                .components()
                .map(|part| part.as_os_str().to_string_lossy())
                .collect::<Vec<_>>()
                .join("/");
            let modified = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let object = StoredObject {
                path,
                bytes: metadata.len(),
                modified_micros: i64::try_from(modified.as_micros()).unwrap_or(i64::MAX),
            };
            visit(
                object,
                entry.file_name().to_string_lossy().starts_with(TEMPORARY_PREFIX),
            );
        }
        Ok(())
    }
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn not_found_is_fine(result: io::Result<()>) -> io::Result<()> {
    found(result).map(|_| ())
}

fn write_synced(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(place)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn link(temporary: &Path, place: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::hard_link(temporary, place) {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied
            ) =>
        {
            write_synced(place, bytes)
        }
        linked => linked,
    }
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Directories cannot be opened there; the file system journals names by itself.
#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn objects_are_created_once_and_leave_no_temporary_files() {
        let directory = tempfile::tempdir().unwrap();
        let files = LocalFiles::new(directory.path().join("new/root"));
        files.create("a/b/c", b"one").unwrap();
        let again = files.create("a/b/c", b"two").unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(files.read("a/b/c").unwrap(), "one");
        let names: Vec<_> = fs::read_dir(directory.path().join("new/root/a/b")).unwrap().collect();
        assert_eq!(names.len(), 1);
    }

    #[test]
    fn paths_stay_inside_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let files = LocalFiles::new(directory.path().join("root"));
        for path in ["../x", "/etc/x", "a/../../x"] {
            assert_eq!(
                files.create(path, b"").unwrap_err().kind(),
                io::ErrorKind::InvalidInput,
                "{path}"
            );
        }
    }

    #[test]
    fn lists_objects_and_sweeps_what_crashes_left() {
        let directory = tempfile::tempdir().unwrap();
        let files = LocalFiles::new(directory.path().to_path_buf());
        files.create("p/x", b"12").unwrap();
        let left = directory.path().join("p/.tmp-left");
        fs::write(&left, b"torn").unwrap();
        let objects = files.list("p").unwrap();
        assert_eq!(
            objects.iter().map(|o| (o.path.as_str(), o.bytes)).collect::<Vec<_>>(),
            [("p/x", 2)]
        );
        files.sweep_temporary("p", objects[0].modified_micros + 1000).unwrap();
        assert!(left.exists(), "may still be written");
        files
            .sweep_temporary("p", objects[0].modified_micros + 2 * TEMPORARY_AGE_MICROS)
            .unwrap();
        assert!(!left.exists());
        assert_eq!(files.list("nothing/here").unwrap().len(), 0);
    }
}

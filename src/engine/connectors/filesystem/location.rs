//! What `path` means, and which files are there.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::multipart::MultipartStore;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::engine::connectors::filesystem::compression::Compression;
use crate::engine::connectors::filesystem::sink::target::{RemoteTarget, Target};
use crate::engine::connectors::filesystem::stores::{self, Stores};
use crate::engine::connectors::options::wrong_value;
use crate::engine::connectors::{Result, files};
use crate::engine::error::Error;
use crate::error::{Retry, SqlState};

/// One file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// As users see it, and as its split is called.
    pub name: String,
    pub path: object_store::path::Path,
    pub size: u64,
    pub compression: Compression,
}

#[derive(Clone)]
pub struct Location {
    text: String,
    pub store: Arc<dyn ObjectStore>,
    uploads: Option<Arc<dyn MultipartStore>>,
    /// Of all files; `None`: what their names say.
    compression: Option<Compression>,
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    /// A file, folder or glob of this machine.
    Local(PathBuf),
    /// What lies below `prefix` and, with a pattern, matches it.
    Remote {
        prefix: object_store::path::Path,
        pattern: Option<glob::Pattern>,
        /// `s3://bucket/`: what file names begin with.
        root: String,
    },
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Location").field(&self.text).finish()
    }
}

const WILDCARDS: [char; 3] = ['*', '?', '['];

impl Location {
    /// No I/O; `settings` are credentials and the like.
    pub fn open(text: &str, settings: Vec<(&'static str, String)>) -> Result<Location> {
        let (stores, kind) = if text.contains("://") && !text.starts_with("file://") {
            remote(text, settings)?
        } else {
            let path = match text.strip_prefix("file://") {
                // A glob is not a URL that can be parsed.
                Some(path) if path.contains(WILDCARDS) => PathBuf::from(path),
                _ => files::local_path("path", text)?,
            };
            let stores = Stores {
                objects: Arc::new(LocalFileSystem::new()),
                uploads: None,
            };
            (stores, Kind::Local(path))
        };
        Ok(Location {
            text: text.to_owned(),
            store: stores.objects,
            uploads: stores.uploads,
            compression: None,
            kind,
        })
    }

    /// The same with files that are compressed so, whatever they are called.
    pub fn compressed(self, compression: Option<Compression>) -> Location {
        Location { compression, ..self }
    }

    /// Where a sink writes: the path names a folder then.
    pub fn target(&self) -> Result<Target> {
        if self.text.contains(WILDCARDS) {
            return Err(wrong_value(
                "path",
                &self.text,
                "A sink writes into one folder: name it without wildcards.",
            ));
        }
        match (&self.kind, &self.uploads) {
            (Kind::Local(path), _) => Ok(Target::Local(path.clone())),
            (Kind::Remote { prefix, root, .. }, Some(uploads)) => Ok(Target::Remote(RemoteTarget {
                objects: Arc::clone(&self.store),
                uploads: Arc::clone(uploads),
                prefix: prefix.clone(),
                root: root.clone(),
            })),
            (Kind::Remote { .. }, None) => Err(Error::NotSupported {
                what: format!("writing to \"{}\"", self.text),
                hint: Some("Files are written to local folders, s3, gs and az.".into()),
            }),
        }
    }

    /// Whether the path may be written to.
    pub fn is_folder(&self) -> bool {
        self.target().is_ok()
    }

    /// Whether the files are on this machine.
    pub fn is_local(&self) -> bool {
        matches!(self.kind, Kind::Local(_))
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// The files, ordered by name.
    pub async fn list(&self) -> Result<Vec<InputFile>> {
        let mut files = match &self.kind {
            Kind::Local(path) => list_local(path)?,
            Kind::Remote { prefix, pattern, root } => self.list_remote(prefix, pattern.as_ref(), root).await?,
        };
        files.sort_by(|left, right| left.name.cmp(&right.name));
        for file in &mut files {
            file.compression = self.compression.unwrap_or(Compression::of_file(&file.name));
        }
        Ok(files)
    }

    async fn list_remote(
        &self,
        prefix: &object_store::path::Path,
        pattern: Option<&glob::Pattern>,
        root: &str,
    ) -> Result<Vec<InputFile>> {
        let file = |meta: object_store::ObjectMeta| InputFile {
            name: format!("{root}{}", meta.location),
            size: meta.size,
            path: meta.location,
            compression: Compression::None,
        };
        if pattern.is_none()
            && let Ok(meta) = self.store.head(prefix).await
        {
            return Ok(vec![file(meta)]);
        }
        let listed = self.store.list(Some(prefix));
        let all: Vec<_> = listed
            .try_collect()
            .await
            .map_err(|error| store_error("list", &self.text, &error))?;
        let files: Vec<InputFile> = all
            .into_iter()
            .filter(|meta| is_wanted(&meta.location, pattern))
            .map(file)
            .collect();
        if files.is_empty() && pattern.is_none() {
            return Err(self.nothing_there());
        }
        Ok(files)
    }

    /// As a local path that does not exist.
    fn nothing_there(&self) -> Error {
        Error::External {
            code: SqlState::UNDEFINED_FILE,
            message: format!(
                "could not open file \"{}\": nothing has this name or begins with it",
                self.text
            ),
            hint: None,
            retry: Retry::Never,
        }
    }

    /// Whether a pattern or folder has no files at present.
    pub async fn is_empty(&self) -> Result<bool> {
        let (prefix, pattern) = match &self.kind {
            Kind::Local(path) => return Ok(list_local(path)?.is_empty()),
            Kind::Remote { pattern: None, .. } => return Ok(false),
            Kind::Remote { prefix, pattern, .. } => (prefix, pattern.as_ref()),
        };
        let mut listed = self.store.list(Some(prefix));
        loop {
            let next = listed.try_next().await;
            match next.map_err(|error| store_error("list", &self.text, &error))? {
                Some(meta) if is_wanted(&meta.location, pattern) => return Ok(false),
                Some(_) => {}
                None => return Ok(true),
            }
        }
    }
}

fn is_wanted(path: &object_store::path::Path, pattern: Option<&glob::Pattern>) -> bool {
    let options = glob::MatchOptions {
        require_literal_separator: true,
        ..glob::MatchOptions::new()
    };
    match pattern {
        Some(pattern) => pattern.matches_with(path.as_ref(), options),
        None => !path.parts().any(|part| is_hidden(part.as_ref())),
    }
}

fn remote(text: &str, settings: Vec<(&'static str, String)>) -> Result<(Stores, Kind)> {
    let base = match text.find(WILDCARDS) {
        Some(wildcard) => &text[..text[..wildcard].rfind('/').map_or(wildcard, |slash| slash + 1)],
        None => text,
    };
    let wrong = |reason: &dyn fmt::Display| wrong_value("path", text, &format!("{reason}."));
    let url = url::Url::parse(base).map_err(|error| wrong(&error))?;
    let (stores, prefix) = stores::open(&url, settings).map_err(|error| wrong(&error))?;
    // The store's root is the URL without the path inside it.
    let root = base
        .trim_end_matches('/')
        .strip_suffix(prefix.as_ref())
        .unwrap_or(base)
        .to_owned();
    let pattern = match text.strip_prefix(&root) {
        Some(inside) if base.len() < text.len() => Some(glob::Pattern::new(inside).map_err(|error| wrong(&error))?),
        _ => None,
    };
    let root = if root.ends_with('/') { root } else { format!("{root}/") };
    Ok((stores, Kind::Remote { prefix, pattern, root }))
}

/// Written by other programs for themselves: `.crc`, `_SUCCESS`, unfinished uploads.
fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn list_local(path: &Path) -> Result<Vec<InputFile>> {
    let text = path.to_string_lossy();
    let mut found = Vec::new();
    if text.contains(WILDCARDS) {
        let matches = glob::glob(&text).map_err(|error| wrong_value("path", &text, &format!("{error}.")))?;
        for entry in matches {
            let path = entry.map_err(|error| files::io_error("list", error.path().display(), error.error()))?;
            if path.is_file() {
                found.push(local_file(&path)?);
            }
        }
    } else if path.is_dir() {
        walk(path, &mut found)?;
    } else {
        found.push(local_file(path)?);
    }
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<InputFile>) -> Result<()> {
    let failed = |error: &std::io::Error| files::io_error("list", folder.display(), error);
    for entry in std::fs::read_dir(folder).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        if is_hidden(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found.push(local_file(&path)?);
        }
    }
    Ok(())
}

fn local_file(path: &Path) -> Result<InputFile> {
    let failed = |error: &std::io::Error| files::io_error("open", path.display(), error);
    let size = std::fs::metadata(path).map_err(|error| failed(&error))?.len();
    let absolute = std::path::absolute(path).map_err(|error| failed(&error))?;
    let inside = object_store::path::Path::from_absolute_path(&absolute)
        .map_err(|error| failed(&std::io::Error::other(error.to_string())))?;
    Ok(InputFile {
        name: path.display().to_string(),
        path: inside,
        size,
        compression: Compression::None,
    })
}

/// `could not read "s3://b/k": ..`.
pub fn store_error(action: &str, name: &str, error: &object_store::Error) -> Error {
    let (code, retry, hint) = match error {
        object_store::Error::NotFound { .. } => (SqlState::UNDEFINED_FILE, Retry::Never, None),
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => (
            SqlState::INSUFFICIENT_PRIVILEGE,
            Retry::Never,
            Some("Give credentials, such as aws_access_key_id = SECRET name.".to_owned()),
        ),
        _ => (SqlState::IO_ERROR, Retry::Backoff, None),
    };
    Error::External {
        code,
        message: format!("could not {action} file \"{name}\": {error}"),
        hint,
        retry,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parts(text: &str) -> (String, Option<String>, String) {
        match Location::open(text, vec![("aws_region", "eu".to_owned())])
            .unwrap()
            .kind
        {
            Kind::Remote { prefix, pattern, root } => {
                (prefix.to_string(), pattern.map(|pattern| pattern.to_string()), root)
            }
            Kind::Local(path) => (path.display().to_string(), None, String::new()),
        }
    }

    #[test]
    fn urls_are_taken_apart() {
        let root = "s3://bucket/".to_owned();
        assert_eq!(parts("s3://bucket/a/b.json"), ("a/b.json".into(), None, root.clone()));
        assert_eq!(parts("s3://bucket/a/"), ("a".into(), None, root.clone()));
        assert_eq!(parts("s3://bucket"), (String::new(), None, root.clone()));
        assert_eq!(
            parts("s3://bucket/a/x*/part-*.json"),
            ("a".into(), Some("a/x*/part-*.json".into()), root)
        );
        assert_eq!(parts("file:///tmp/*.json").0, "/tmp/*.json");
        assert_eq!(parts("/tmp/a b.json").0, "/tmp/a b.json");
        assert!(Location::open("ftp://host/file", Vec::new()).is_err());
    }
}

//! Where files are written: a folder of this machine or a prefix in an object store, and the hidden folder inside it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::multipart::MultipartStore;
use object_store::path::Path as ObjectPath;

use futures::TryStreamExt;

use crate::engine::connectors::filesystem::location::store_error;
use crate::engine::connectors::{Result, files};
use crate::engine::error::Error;

/// What is not published yet is here, below the table's path. Engines that read folders pass over names that begin with a dot.
pub const HIDDEN: &str = ".laminar";

#[derive(Clone, Debug)]
pub enum Target {
    Local(PathBuf),
    Remote(RemoteTarget),
}

impl Target {
    /// Whether it can be reached, and is a folder or can become one.
    pub async fn check(&self) -> Result<()> {
        match self {
            Target::Local(folder) if folder.exists() && !folder.is_dir() => {
                let error = std::io::Error::from(std::io::ErrorKind::NotADirectory);
                Err(files::io_error("write into", folder.display(), &error))
            }
            Target::Local(_) => Ok(()),
            Target::Remote(target) => {
                let mut listed = target.objects.list(Some(&target.path(HIDDEN)?));
                match listed.try_next().await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(store_error("write into", &target.shown(&target.prefix), &error)),
                }
            }
        }
    }
}

#[derive(Clone)]
pub struct RemoteTarget {
    pub objects: Arc<dyn ObjectStore>,
    pub uploads: Arc<dyn MultipartStore>,
    pub prefix: ObjectPath,
    /// `s3://bucket/`: what names begin with where users see them.
    pub root: String,
}

impl fmt::Debug for RemoteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.root, self.prefix)
    }
}

impl RemoteTarget {
    /// The object called `name` below the prefix.
    pub fn path(&self, name: &str) -> Result<ObjectPath> {
        let text = match self.prefix.as_ref() {
            "" => name.to_owned(),
            prefix => format!("{prefix}/{name}"),
        };
        ObjectPath::parse(&text)
            .map_err(|error| Error::Internal(format!("\"{text}\" cannot be the name of an object: {error}")))
    }

    pub fn hidden(&self, name: &str) -> Result<ObjectPath> {
        self.path(&format!("{HIDDEN}/{name}"))
    }

    /// As users see it.
    pub fn shown(&self, path: &ObjectPath) -> String {
        format!("{}{path}", self.root)
    }
}

/// The last part of a file's name, which is unique.
pub fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Where the file called `name` is before it is published.
pub fn staged_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(HIDDEN).join(format!("{}.staged", base_name(name)))
}

/// What the hidden and the published names of one sink begin with.
#[derive(Clone, Debug)]
pub struct SinkNames {
    start: String,
    suffix: String,
    generation: u64,
    subtask: u32,
    next: u64,
}

impl SinkNames {
    /// `sink` is the sink's name in the world: see [`SinkContext`](crate::engine::connectors::SinkContext).
    pub fn new(prefix: &str, sink: &str, suffix: &str, generation: u64, subtask: u32) -> SinkNames {
        SinkNames {
            start: format!("{prefix}{:016x}-", xxhash_rust::xxh3::xxh3_64(sink.as_bytes())),
            suffix: suffix.to_owned(),
            generation,
            subtask,
            next: 0,
        }
    }

    /// Of a run later than all that were.
    pub fn after_all(prefix: &str, sink: &str) -> SinkNames {
        SinkNames::new(prefix, sink, "", u64::MAX, 0)
    }

    /// What all names of the sink begin with.
    pub fn start(&self) -> &str {
        &self.start
    }

    /// What no other run and subtask begins a hidden name with.
    pub fn of_subtask(&self) -> String {
        format!("{}{:06}-{:03}", self.start, self.generation, self.subtask)
    }

    /// A name that no other run, subtask or pipeline ever gives, in `folder`.
    pub fn next_file(&mut self, folder: &str) -> String {
        let name = format!("{}-{:06}{}", self.of_subtask(), self.next, self.suffix);
        self.next += 1;
        match folder {
            "" => name,
            folder => format!("{folder}/{name}"),
        }
    }

    pub fn rests(&self, epoch: u64) -> String {
        format!("{}-{epoch}.rest", self.of_subtask())
    }

    /// Whether an earlier run of this sink has given the hidden file called `name` its name.
    pub fn is_of_earlier_run(&self, name: &str) -> bool {
        let generation = name.strip_prefix(&self.start).and_then(|rest| rest.split('-').next());
        generation
            .and_then(|text| text.parse::<u64>().ok())
            .is_some_and(|generation| generation < self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_they_are() {
        let mut names = SinkNames::new("part-", "pipe_1/public.t", ".json", 3, 1);
        let name = names.next_file("day=1");
        assert!(
            name.starts_with("day=1/part-") && name.ends_with("-000003-001-000000.json"),
            "{name}"
        );
        assert!(names.next_file("").ends_with("-000003-001-000001.json"));
        assert!(!names.is_of_earlier_run(base_name(&name)));
        let next_run = SinkNames::new("part-", "pipe_1/public.t", ".json", 4, 0);
        assert!(next_run.is_of_earlier_run(base_name(&name)));
        assert!(next_run.is_of_earlier_run(&names.rests(17)));
        let other = SinkNames::new("part-", "pipe_2/public.t", ".json", 4, 0);
        assert!(!other.is_of_earlier_run(base_name(&name)));
    }
}

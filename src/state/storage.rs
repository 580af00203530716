//! Where checkpoints are: a directory or an object store, by URL.
//!
//! Objects are immutable: created once, read, deleted. Every operation is retried with growing, jittered pauses while
//! the store says that trying again may help. A retried create may meet its own earlier success, and S3 may refuse a create
//! without the object existing; so after a refusal the object is read and compared: mine is success, none is tried again,
//! another's is [`Error::Exists`].
//!
//! Guarantee: after [`CheckpointStorage::create`] returned, the object is durable and nobody else's. Not guaranteed: that
//! listings are up to date; nothing but garbage collection uses them.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig};
use tracing::warn;
use url::Url;

use crate::state::error::Error;
use crate::state::local_files::LocalFiles;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A handle; clones share everything.
#[derive(Clone)]
pub struct CheckpointStorage {
    url: Arc<str>,
    backend: Backend,
    retries: Retries,
}

#[derive(Clone)]
enum Backend {
    Local(LocalFiles),
    Objects {
        store: Arc<dyn ObjectStore>,
        /// Of every path: the path of the URL.
        prefix: ObjectPath,
    },
}

/// How long and how often to try again.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    pub first_pause: Duration,
    pub pause_max: Duration,
    pub attempts_max: u32,
}

impl Default for Retries {
    /// About a minute in all: a throttled store has time to recover, a checkpoint is not held up for ever.
    fn default() -> Self {
        Retries {
            first_pause: Duration::from_millis(50),
            pause_max: Duration::from_secs(10),
            attempts_max: 14,
        }
    }
}

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    pub path: String,
    pub bytes: u64,
    pub modified_micros: i64,
}

impl CheckpointStorage {
    /// Opens `file:///path`, `s3://bucket/prefix`, `gs://..`, `az://..` or `memory:`. `options` are those of the store as the
    /// environment names them, in any case: `AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, `AWS_REGION`, ..; unknown ones are
    /// ignored. Nothing is read or written yet; see [`CheckpointStorage::check`].
    pub fn open(url: &str, options: &[(String, String)]) -> Result<CheckpointStorage> {
        let invalid = |reason: String| Error::InvalidUrl {
            url: url.to_string(),
            reason,
        };
        let parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
        let backend = match parsed.scheme() {
            "file" => {
                let root = parsed
                    .to_file_path()
                    .map_err(|()| invalid("the path must be absolute".into()))?;
                Backend::Local(LocalFiles::new(root))
            }
            _ => {
                let store = open_objects(&parsed, options).map_err(|error| invalid(error.to_string()))?;
                let store = store.ok_or_else(|| invalid(format!("unknown scheme \"{}\"", parsed.scheme())))?;
                let prefix = ObjectPath::from_url_path(parsed.path()).map_err(|error| invalid(error.to_string()))?;
                Backend::Objects { store, prefix }
            }
        };
        Ok(CheckpointStorage {
            url: url.into(),
            backend,
            retries: Retries::default(),
        })
    }

    /// Over a store that the caller made.
    pub fn over(store: Arc<dyn ObjectStore>, retries: Retries) -> CheckpointStorage {
        CheckpointStorage {
            url: store.to_string().into(),
            backend: Backend::Objects {
                store,
                prefix: ObjectPath::default(),
            },
            retries,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether the store can be written and read, and refuses to create an object twice; for server start and statements
    /// that name a URL.
    pub async fn check(&self) -> Result<()> {
        let path = format!("check/{}", uuid::Uuid::new_v4().simple());
        self.create(&path, Bytes::from_static(b"first")).await?;
        let second = self.create(&path, Bytes::from_static(b"second")).await;
        self.delete(&path).await?;
        match second {
            Err(Error::Exists { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(()) => Err(Error::InvalidUrl {
                url: self.url.to_string(),
                reason: "the store overwrites objects instead of refusing to create them twice".into(),
            }),
        }
    }

    /// Writes a new object.
    pub async fn create(&self, path: &str, bytes: Bytes) -> Result<()> {
        let action = "create";
        let mut attempt = 0;
        loop {
            let error = match self.create_once(path, bytes.clone()).await {
                Ok(()) => return Ok(()),
                Err(error @ (object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. })) => {
                    match self.read_if_exists(path).await? {
                        Some(found) if found == bytes => return Ok(()),
                        Some(_) => return Err(Error::Exists { path: path.into() }),
                        None => error,
                    }
                }
                Err(error) if may_pass(&error) => error,
                Err(error) => return Err(storage_error(action, path, error)),
            };
            attempt = self.pause(attempt, action, path, error).await?;
        }
    }

    async fn create_once(&self, path: &str, bytes: Bytes) -> object_store::Result<()> {
        match &self.backend {
            Backend::Local(files) => local(files, path, move |files, path| files.create(path, &bytes)).await,
            Backend::Objects { store, prefix } => {
                let options = PutOptions::from(PutMode::Create);
                store
                    .put_opts(&join(prefix, path), PutPayload::from_bytes(bytes), options)
                    .await
                    .map(|_| ())
            }
        }
    }

    pub async fn read(&self, path: &str) -> Result<Bytes> {
        self.retried("read", path, || async {
            match &self.backend {
                Backend::Local(files) => local(files, path, |files, path| files.read(path)).await,
                Backend::Objects { store, prefix } => store.get(&join(prefix, path)).await?.bytes().await,
            }
        })
        .await
    }

    /// The bytes of `range`; fewer when the object ends before it does.
    pub async fn read_range(&self, path: &str, range: Range<u64>) -> Result<Bytes> {
        self.retried("read", path, || async {
            let range = range.clone();
            match &self.backend {
                Backend::Local(files) => local(files, path, |files, path| files.read_range(path, range)).await,
                Backend::Objects { store, prefix } => get_range(store.as_ref(), &join(prefix, path), range).await,
            }
        })
        .await
    }

    /// `None` when there is no such object.
    pub async fn read_if_exists(&self, path: &str) -> Result<Option<Bytes>> {
        match self.read(path).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every object below `prefix`, a whole path component.
    pub async fn list(&self, prefix: &str) -> Result<Vec<StoredObject>> {
        self.retried("list", prefix, || async {
            match &self.backend {
                Backend::Local(files) => local(files, prefix, |files, prefix| files.list(prefix)).await,
                Backend::Objects { store, prefix: root } => {
                    store
                        .list(Some(&join(root, prefix)))
                        .map_ok(|meta| stored(root, &meta))
                        .try_collect()
                        .await
                }
            }
        })
        .await
    }

    /// Deletes an object; one that is not there is as good.
    pub async fn delete(&self, path: &str) -> Result<()> {
        let deleted = self
            .retried("delete", path, || async {
                match &self.backend {
                    Backend::Local(files) => local(files, path, |files, path| files.delete(path)).await,
                    Backend::Objects { store, prefix } => store.delete(&join(prefix, path)).await,
                }
            })
            .await;
        match deleted {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    /// Deletes what crashed writes left behind outside any object; only directories have such.
    pub async fn sweep_temporary(&self, prefix: &str, now_micros: i64) -> Result<()> {
        match &self.backend {
            Backend::Local(files) => local(files, prefix, move |files, prefix| {
                files.sweep_temporary(prefix, now_micros)
            })
            .await
            .map_err(|error| storage_error("sweep", prefix, error)),
            Backend::Objects { .. } => Ok(()),
        }
    }

    async fn retried<T, F>(&self, action: &'static str, path: &str, operation: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let mut attempt = 0;
        loop {
            match operation().await {
                Ok(value) => return Ok(value),
                Err(error) if may_pass(&error) => attempt = self.pause(attempt, action, path, error).await?,
                Err(error) => return Err(storage_error(action, path, error)),
            }
        }
    }

    /// Waits before attempt `attempt` + 1, or gives up with `error`.
    async fn pause(&self, attempt: u32, action: &'static str, path: &str, error: object_store::Error) -> Result<u32> {
        let disk = matches!(self.backend, Backend::Local(_));
        if disk || attempt + 1 >= self.retries.attempts_max {
            return Err(storage_error(action, path, error));
        }
        warn!(action, path, attempt, %error, "checkpoint storage failed, trying again");
        let ceiling = self
            .retries
            .first_pause
            .saturating_mul(1 << attempt.min(16))
            .min(self.retries.pause_max);
        tokio::time::sleep(ceiling.mul_f64(rand::random_range(0.5..1.0))).await;
        Ok(attempt + 1)
    }
}

/// The store behind `url`; `None` for a scheme that is not known.
fn open_objects(url: &Url, options: &[(String, String)]) -> object_store::Result<Option<Arc<dyn ObjectStore>>> {
    use object_store::aws::AmazonS3Builder;
    use object_store::azure::MicrosoftAzureBuilder;
    use object_store::gcp::GoogleCloudStorageBuilder;
    // Our own retries are outside; these are for what a single request meets.
    let retry = RetryConfig {
        max_retries: 2,
        retry_timeout: Duration::from_secs(30),
        ..RetryConfig::default()
    };
    macro_rules! configured {
        ($builder:expr) => {
            Arc::new(
                options
                    .iter()
                    .fold(
                        $builder.with_url(url.as_str()),
                        |builder, (name, value)| match name.to_ascii_lowercase().parse() {
                            Ok(key) => builder.with_config(key, value),
                            Err(_) => builder,
                        },
                    )
                    .with_retry(retry)
                    .build()?,
            )
        };
    }
    Ok(Some(match url.scheme() {
        "memory" => Arc::new(object_store::memory::InMemory::new()),
        "s3" | "s3a" => configured!(AmazonS3Builder::new()),
        "gs" => configured!(GoogleCloudStorageBuilder::new()),
        "az" | "abfs" | "abfss" | "azure" => configured!(MicrosoftAzureBuilder::new()),
        _ => return Ok(None),
    }))
}

/// Stores call a range that begins behind the end an error like any other; here it is empty, and not tried again.
async fn get_range(store: &dyn ObjectStore, path: &ObjectPath, range: Range<u64>) -> object_store::Result<Bytes> {
    match store.get_range(path, range.clone()).await {
        Err(error) if may_pass(&error) => match store.head(path).await {
            Ok(meta) if meta.size <= range.start => Ok(Bytes::new()),
            _ => Err(error),
        },
        other => other,
    }
}

fn join(prefix: &ObjectPath, path: &str) -> ObjectPath {
    if prefix.as_ref().is_empty() {
        ObjectPath::from(path)
    } else {
        ObjectPath::from(format!("{prefix}/{path}"))
    }
}

fn stored(root: &ObjectPath, meta: &object_store::ObjectMeta) -> StoredObject {
    let path = meta.location.as_ref();
    let relative = path.strip_prefix(root.as_ref()).unwrap_or(path);
    StoredObject {
        path: relative.trim_start_matches('/').to_string(),
        bytes: meta.size,
        modified_micros: meta.last_modified.timestamp_micros(),
    }
}

/// Runs a file operation where blocking is allowed.
async fn local<T: Send + 'static>(
    files: &LocalFiles,
    path: &str,
    operation: impl FnOnce(&LocalFiles, &str) -> std::io::Result<T> + Send + 'static,
) -> object_store::Result<T> {
    let files = files.clone();
    let owned = path.to_string();
    let done = tokio::task::spawn_blocking(move || operation(&files, &owned)).await?;
    done.map_err(|error| {
        let path = path.to_string();
        match error.kind() {
            std::io::ErrorKind::NotFound => object_store::Error::NotFound {
                path,
                source: error.into(),
            },
            std::io::ErrorKind::AlreadyExists => object_store::Error::AlreadyExists {
                path,
                source: error.into(),
            },
            _ => object_store::Error::Generic {
                store: "file",
                source: error.into(),
            },
        }
    })
}

/// Whether the same request may succeed later.
fn may_pass(error: &object_store::Error) -> bool {
    matches!(
        error,
        object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }
    )
}

fn storage_error(action: &'static str, path: &str, error: object_store::Error) -> Error {
    let path = path.to_string();
    if disk_is_full(&error) {
        return Error::DiskFull { action, path };
    }
    Error::Storage {
        action,
        path,
        source: error,
    }
}

fn disk_is_full(error: &object_store::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
            );
        }
        cause = error.source();
    }
    false
}

impl Error {
    /// Whether the store said that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Error::Storage {
                source: object_store::Error::NotFound { .. },
                ..
            }
        )
    }
}

#[cfg(test)]
mod tests;

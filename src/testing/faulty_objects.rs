//! An object store that fails in every way that real ones do: it says to slow down, loses answers, is full, is slow, lists what was
//! there some time ago.
//!
//! Faults come in an order that is given, or one in so many requests; both are the same in every run.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The store says to slow down.
    SlowDown,
    /// It is done, the answer is lost.
    LostAnswer,
    /// S3's 409: another write is under way, and comes to nothing.
    ConflictWithNobody,
    Denied,
}

#[derive(Debug, Default)]
pub struct FaultyObjects {
    inner: InMemory,
    /// What goes wrong next, the last one first.
    script: Mutex<Vec<Fault>>,
    /// One in so many requests fails, some after they were carried out; 0: none.
    pub fails_every: AtomicU32,
    /// Nothing can be written.
    pub full: AtomicBool,
    /// Every request takes so long.
    pub latency_micros: AtomicU64,
    /// What lists say, instead of what is there.
    stale: Mutex<Option<Vec<ObjectMeta>>>,
    pub requests: AtomicU32,
    /// Writes that were refused because it was full.
    pub refused: AtomicU32,
    /// Faults that happened.
    pub faults: AtomicU32,
    /// That were begun and have not ended.
    pub uploads: Mutex<BTreeSet<MultipartId>>,
}

impl std::fmt::Display for FaultyObjects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

fn generic(text: &'static str) -> object_store::Error {
    object_store::Error::Generic {
        store: "faulty",
        source: text.into(),
    }
}

impl FaultyObjects {
    pub fn with(faults: &[Fault]) -> Arc<FaultyObjects> {
        Arc::new(FaultyObjects {
            script: Mutex::new(faults.iter().rev().copied().collect()),
            ..FaultyObjects::default()
        })
    }

    pub fn failing_every(fails_every: u32) -> Arc<FaultyObjects> {
        Arc::new(FaultyObjects {
            fails_every: AtomicU32::new(fails_every),
            ..FaultyObjects::default()
        })
    }

    /// From now on lists say what is there now.
    pub async fn list_no_news(&self) {
        let now: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        *self.stale.lock().unwrap() = Some(now);
    }

    fn next(&self) -> Option<Fault> {
        let request = self.requests.fetch_add(1, Ordering::SeqCst);
        let fault = self.script.lock().unwrap().pop().or_else(|| self.periodic(request));
        self.faults.fetch_add(u32::from(fault.is_some()), Ordering::SeqCst);
        fault
    }

    fn periodic(&self, request: u32) -> Option<Fault> {
        // Without a period: what takes as many requests as there are between two faults would never succeed.
        let mixed = request.wrapping_mul(0x9E37_79B9) >> 8;
        match self.fails_every.load(Ordering::SeqCst) {
            0 => None,
            every if !mixed.is_multiple_of(every) => None,
            every if (mixed / every).is_multiple_of(2) => Some(Fault::SlowDown),
            _ => Some(Fault::LostAnswer),
        }
    }

    async fn wait(&self) {
        let latency = Duration::from_micros(self.latency_micros.load(Ordering::SeqCst));
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    async fn request<T>(
        &self,
        path: &Path,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        self.wait().await;
        match self.next() {
            None => request.await,
            Some(Fault::SlowDown) => Err(generic("503 SlowDown")),
            Some(Fault::LostAnswer) => {
                request.await?;
                Err(generic("connection reset"))
            }
            Some(Fault::ConflictWithNobody) => Err(object_store::Error::AlreadyExists {
                path: path.to_string(),
                source: "409".into(),
            }),
            Some(Fault::Denied) => Err(object_store::Error::PermissionDenied {
                path: path.to_string(),
                source: "403".into(),
            }),
        }
    }

    fn check_space(&self, path: &Path) -> object_store::Result<()> {
        if !self.full.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(object_store::Error::PermissionDenied {
            path: path.to_string(),
            source: "no space".into(),
        })
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyObjects {
    async fn put_opts(&self, path: &Path, bytes: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        self.check_space(path)?;
        self.request(path, self.inner.put_opts(path, bytes, options)).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.request(path, self.inner.get_opts(path, options)).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        match &*self.stale.lock().unwrap() {
            None => self.inner.list(prefix),
            Some(stale) => {
                let is_in = |meta: &&ObjectMeta| prefix.is_none_or(|prefix| meta.location.prefix_matches(prefix));
                let listed: Vec<_> = stale.iter().filter(is_in).cloned().map(Ok).collect();
                futures::stream::iter(listed).boxed()
            }
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait::async_trait]
impl MultipartStore for FaultyObjects {
    async fn create_multipart(&self, path: &Path) -> object_store::Result<MultipartId> {
        // A lost answer leaves an upload without a part, which costs nothing and which no store can tell us of.
        if self.next().is_some() {
            return Err(generic("503 SlowDown"));
        }
        let id = self.inner.create_multipart(path).await?;
        self.uploads.lock().unwrap().insert(id.clone());
        Ok(id)
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &MultipartId,
        index: usize,
        bytes: PutPayload,
    ) -> object_store::Result<PartId> {
        self.request(path, self.inner.put_part(path, id, index, bytes)).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        let completed = async {
            let completed = self.inner.complete_multipart(path, id, parts).await?;
            self.uploads.lock().unwrap().remove(id);
            Ok(completed)
        };
        self.request(path, completed).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> object_store::Result<()> {
        self.inner.abort_multipart(path, id).await?;
        self.uploads.lock().unwrap().remove(id);
        Ok(())
    }
}

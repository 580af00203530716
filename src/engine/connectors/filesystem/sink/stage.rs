//! The bytes of files that are not published yet.
//!
//! On this machine: a hidden file, appended to, synced at a checkpoint and cut to the checkpoint's length after a crash. In an
//! object store: a multipart upload of parts of one size, and a rest in memory that every checkpoint writes into a hidden object.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStoreExt, PutPayload};
use tokio_util::sync::CancellationToken;

use crate::engine::connectors::filesystem::location::store_error;
use crate::engine::connectors::filesystem::sink::outage::waited_out;
use crate::engine::connectors::filesystem::sink::record::{SavedUpload, StagedFile, UploadNote, to_json};
use crate::engine::connectors::filesystem::sink::target::{HIDDEN, RemoteTarget, base_name, staged_path};
use crate::engine::connectors::{Result, Wake, files};
use crate::engine::error::Error;
use crate::error::{Retry, SqlState};

pub enum Stage {
    Local(LocalStage),
    Remote(RemoteStage),
}

impl Stage {
    pub fn append(&mut self, bytes: Vec<u8>) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self {
            Stage::Local(stage) => stage.append(&bytes),
            Stage::Remote(stage) => stage.append(&bytes),
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Stage::Local(stage) => stage.bytes,
            Stage::Remote(stage) => stage.bytes,
        }
    }

    /// How a checkpoint names the file; of a remote one without its rest.
    pub fn saved(&self) -> StagedFile {
        match self {
            Stage::Local(stage) => stage.saved(),
            Stage::Remote(stage) => stage.saved(),
        }
    }
}

pub struct LocalStage {
    name: String,
    path: PathBuf,
    bytes: u64,
    /// Bytes were appended since the last sync.
    pub dirty: bool,
}

impl LocalStage {
    pub fn new(folder: &Path, name: &str) -> LocalStage {
        LocalStage {
            name: name.to_owned(),
            path: staged_path(folder, name),
            bytes: 0,
            dirty: false,
        }
    }

    /// Goes on with the bytes that a checkpoint knows.
    pub fn restored(folder: &Path, file: &StagedFile) -> Result<LocalStage> {
        let path = staged_path(folder, &file.name);
        let present = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(gone(&path.display().to_string()));
            }
            Err(error) => return Err(files::io_error("open", path.display(), &error)),
        };
        if present < file.bytes {
            return Err(gone(&path.display().to_string()));
        }
        let cut = || OpenOptions::new().write(true).open(&path)?.set_len(file.bytes);
        cut().map_err(|error| files::io_error("truncate", path.display(), &error))?;
        Ok(LocalStage {
            name: file.name.clone(),
            path,
            bytes: file.bytes,
            dirty: present > file.bytes,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn saved(&self) -> StagedFile {
        StagedFile {
            name: self.name.clone(),
            bytes: self.bytes,
            upload: None,
            rest: None,
        }
    }

    /// No file stays open: there may be one for each of very many partitions.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let open = || OpenOptions::new().append(true).create(true).open(&self.path);
        let opened = open().or_else(|error| match (error.kind(), self.path.parent()) {
            (std::io::ErrorKind::NotFound, Some(folder)) => {
                std::fs::create_dir_all(folder)?;
                open()
            }
            _ => Err(error),
        });
        opened
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|error| files::io_error("write to", self.path.display(), &error))?;
        self.bytes += bytes.len() as u64;
        self.dirty = true;
        Ok(())
    }
}

/// Makes staged files durable, and their names.
pub fn sync(folder: &Path, staged: &[PathBuf]) -> Result<()> {
    for path in staged {
        File::open(path)
            .and_then(|file| file.sync_all())
            .map_err(|error| files::io_error("sync", path.display(), &error))?;
    }
    if staged.is_empty() {
        return Ok(());
    }
    // The first time these folders are new themselves.
    sync_folder(&folder.join(HIDDEN))?;
    sync_folder(folder)?;
    match folder.parent() {
        Some(parent) if parent.is_dir() => sync_folder(parent),
        _ => Ok(()),
    }
}

pub fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(|error| files::io_error("sync", folder.display(), &error))
}

/// What a checkpoint goes on with is not there.
pub fn gone(name: &str) -> Error {
    Error::External {
        code: SqlState::DATA_CORRUPTED,
        message: format!("output that is not published yet is gone: \"{name}\""),
        hint: Some(
            "Either it was removed, or the checkpoint is older than one that published it. Put it back, or create the pipeline anew."
                .into(),
        ),
        retry: Retry::Never,
    }
}

/// Sends parts of all files of one subtask.
pub struct Uploader {
    pub target: RemoteTarget,
    /// What hidden names of this run and subtask begin with.
    run: String,
    /// Bytes of a part.
    part: usize,
    pub runtime: tokio::runtime::Handle,
    pub waker: Arc<dyn Wake>,
    /// Bytes on their way.
    in_flight: AtomicUsize,
    failure: Mutex<Option<Error>>,
    pub unwanted: CancellationToken,
}

impl Uploader {
    pub fn new(
        target: RemoteTarget,
        run: String,
        part: usize,
        runtime: tokio::runtime::Handle,
        waker: Arc<dyn Wake>,
    ) -> Uploader {
        Uploader {
            target,
            run,
            part,
            runtime,
            waker,
            in_flight: AtomicUsize::new(0),
            failure: Mutex::new(None),
            unwanted: CancellationToken::new(),
        }
    }

    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    pub fn take_failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub fn fail(&self, error: Error) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.waker.wake();
    }

    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _entered = self.runtime.enter();
        crate::spawn::named("file upload", work);
    }
}

#[derive(Default)]
struct Upload {
    begun: Option<Begun>,
    parts: Vec<String>,
    waiting: VecDeque<Bytes>,
    is_running: bool,
}

#[derive(Clone)]
struct Begun {
    id: String,
    note: String,
}

pub struct RemoteStage {
    name: String,
    path: ObjectPath,
    upload: Arc<Mutex<Upload>>,
    /// What is no part yet.
    rest: Vec<u8>,
    bytes: u64,
    uploader: Arc<Uploader>,
}

impl RemoteStage {
    pub fn new(name: &str, uploader: &Arc<Uploader>) -> Result<RemoteStage> {
        Ok(RemoteStage {
            name: name.to_owned(),
            path: uploader.target.path(name)?,
            upload: Arc::default(),
            rest: Vec::new(),
            bytes: 0,
            uploader: Arc::clone(uploader),
        })
    }

    /// Goes on with the upload and the rest that a checkpoint knows.
    pub fn restored(file: &StagedFile, rest: Vec<u8>, uploader: &Arc<Uploader>) -> Result<RemoteStage> {
        let mut stage = RemoteStage::new(&file.name, uploader)?;
        if let Some(SavedUpload { id, parts, note }) = file.upload.clone() {
            stage.upload = Arc::new(Mutex::new(Upload {
                begun: Some(Begun { id, note }),
                parts,
                ..Upload::default()
            }));
        }
        stage.bytes = file.bytes;
        stage.rest = rest;
        Ok(stage)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.rest.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
        let size = self.uploader.part;
        while self.rest.len() >= size {
            let after = self.rest.split_off(size);
            let part = std::mem::replace(&mut self.rest, after);
            self.send(Bytes::from(part));
        }
        Ok(())
    }

    fn send(&self, part: Bytes) {
        self.uploader.in_flight.fetch_add(part.len(), Ordering::SeqCst);
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        upload.waiting.push_back(part);
        if !std::mem::replace(&mut upload.is_running, true) {
            let sending = Sending {
                name: self.name.clone(),
                path: self.path.clone(),
                upload: Arc::clone(&self.upload),
                uploader: Arc::clone(&self.uploader),
            };
            self.uploader.spawn(sending.run());
        }
    }

    pub fn rest(&self) -> &[u8] {
        &self.rest
    }

    /// The parts; all have arrived when nothing is on its way.
    pub fn saved(&self) -> StagedFile {
        let upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        StagedFile {
            name: self.name.clone(),
            bytes: self.bytes,
            upload: upload.begun.clone().map(|Begun { id, note }| SavedUpload {
                id,
                parts: upload.parts.clone(),
                note,
            }),
            rest: None,
        }
    }
}

/// Sends the waiting parts of one file, one after the other.
struct Sending {
    name: String,
    path: ObjectPath,
    upload: Arc<Mutex<Upload>>,
    uploader: Arc<Uploader>,
}

impl Sending {
    async fn run(self) {
        loop {
            let next = {
                let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
                let next = upload.waiting.front().cloned();
                upload.is_running = next.is_some();
                next.map(|part| (part, upload.begun.clone(), upload.parts.len()))
            };
            let Some((part, begun, index)) = next else { return };
            match self.send(part.clone(), begun, index).await {
                Ok((begun, sent)) => {
                    let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
                    upload.begun = Some(begun);
                    upload.parts.push(sent);
                    upload.waiting.pop_front();
                    self.uploader.in_flight.fetch_sub(part.len(), Ordering::SeqCst);
                }
                Err(error) => return self.uploader.fail(error),
            }
            self.uploader.waker.wake();
        }
    }

    async fn send(&self, part: Bytes, begun: Option<Begun>, index: usize) -> Result<(Begun, String)> {
        let uploader = &self.uploader;
        let begun = match begun {
            Some(begun) => begun,
            None => self.begin().await?,
        };
        let put = async || {
            let payload = PutPayload::from_bytes(part.clone());
            let sent = uploader
                .target
                .uploads
                .put_part(&self.path, &begun.id, index, payload)
                .await;
            sent.map_err(|error| self.failed(&error))
        };
        let sent = waited_out(&uploader.unwanted, put).await?;
        Ok((begun, sent.content_id))
    }

    /// The note comes before any part: an upload that nobody knows costs nothing while it is empty.
    async fn begin(&self) -> Result<Begun> {
        let target = &self.uploader.target;
        let create = async || {
            let created = target.uploads.create_multipart(&self.path).await;
            created.map_err(|error| self.failed(&error))
        };
        let id = waited_out(&self.uploader.unwanted, create).await?;
        let note = format!("{}-{}.upload", self.uploader.run, base_name(&self.name));
        let text = to_json(&UploadNote {
            path: self.path.to_string(),
            id: id.clone(),
        })?;
        let hidden = target.hidden(&note)?;
        let put = async || {
            let put = target.objects.put(&hidden, text.clone().into()).await;
            put.map(drop).map_err(|error| self.failed(&error))
        };
        waited_out(&self.uploader.unwanted, put).await?;
        Ok(Begun { id, note })
    }

    fn failed(&self, error: &object_store::Error) -> Error {
        store_error("write to", &self.uploader.target.shown(&self.path), error)
    }
}

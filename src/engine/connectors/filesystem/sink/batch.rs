//! What one checkpoint has to make durable before it may complete.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutPayload};

use crate::engine::connectors::Result;
use crate::engine::connectors::filesystem::location::store_error;
use crate::engine::connectors::filesystem::sink::outage::{ATTEMPTS, tried};
use crate::engine::connectors::filesystem::sink::record::{Rest, StagedFile};
use crate::engine::connectors::filesystem::sink::stage::{self, Stage, Uploader};

pub enum Batch {
    /// Files to be synced.
    Local { folder: PathBuf, dirty: Vec<PathBuf> },
    /// The rests of all files, one after the other, in one hidden object.
    Remote {
        object: String,
        bytes: Vec<u8>,
        uploader: Arc<Uploader>,
    },
}

impl Batch {
    /// How the checkpoint names the file.
    pub fn add(&mut self, stage: &mut Stage) -> StagedFile {
        match (self, stage) {
            (Batch::Local { dirty, .. }, Stage::Local(stage)) => {
                if std::mem::take(&mut stage.dirty) {
                    dirty.push(stage.path().to_owned());
                }
                stage.saved()
            }
            (Batch::Remote { object, bytes, .. }, Stage::Remote(stage)) => {
                let rest = stage.rest();
                let piece = Rest {
                    object: object.clone(),
                    start: bytes.len() as u64,
                    bytes: rest.len() as u64,
                };
                bytes.extend_from_slice(rest);
                StagedFile {
                    rest: (piece.bytes > 0).then_some(piece),
                    ..stage.saved()
                }
            }
            // A sink has stages of one kind.
            (_, stage) => stage.saved(),
        }
    }

    /// The hidden object, if it gets any bytes.
    pub fn object(&self) -> Option<&str> {
        match self {
            Batch::Remote { object, bytes, .. } if !bytes.is_empty() => Some(object),
            _ => None,
        }
    }

    /// Blocks until all of it is durable.
    pub fn write(self) -> Result<()> {
        match self {
            Batch::Local { folder, dirty } => stage::sync(&folder, &dirty),
            Batch::Remote { bytes, .. } if bytes.is_empty() => Ok(()),
            Batch::Remote {
                object,
                bytes,
                uploader,
            } => {
                let target = &uploader.target;
                let path = target.hidden(&object)?;
                let payload = PutPayload::from_bytes(Bytes::from(bytes));
                let put = async || {
                    let put = target.objects.put(&path, payload.clone()).await;
                    put.map(drop)
                        .map_err(|error| store_error("write to", &target.shown(&path), &error))
                };
                uploader.runtime.block_on(tried(&uploader.unwanted, ATTEMPTS, put))
            }
        }
    }
}

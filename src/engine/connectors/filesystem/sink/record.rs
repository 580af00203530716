//! What checkpoints keep of a sink, as JSON: files that are open, and files that are to be published.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::engine::connectors::Result;
use crate::engine::error::Error;

/// The position of one subtask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSink {
    pub subtask: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<SavedFile>,
}

/// A file that goes on after the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedFile {
    pub staged: StagedFile,
    /// The folders below the table's path that say its partition; empty without any.
    pub partition: String,
    pub rows: u64,
    pub opened_at_micros: i64,
    pub written_at_micros: i64,
    /// Of the columns: rows of other columns go into another file.
    pub columns: u64,
    /// What content that has a structure needs to go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// Bytes that are durable and invisible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// What it is published as, below the table's path, with slashes.
    pub name: String,
    pub bytes: u64,
    /// In object stores: the bytes before the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<SavedUpload>,
    /// In object stores: the bytes that are in no upload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest: Option<Rest>,
}

/// A multipart upload that is not completed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedUpload {
    pub id: String,
    pub parts: Vec<String>,
    /// The hidden object that says which upload there is.
    pub note: String,
}

/// What a hidden object says of an upload, for whoever has to abort it: stores have no common way to list uploads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadNote {
    pub path: String,
    pub id: String,
}

/// A piece of a hidden object that holds the rests of several files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    pub object: String,
    pub start: u64,
    pub bytes: u64,
}

/// What one subtask wants done when the epoch is decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committable {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<StagedFile>,
    /// Hidden objects that nothing needs after that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub obsolete: Vec<String>,
}

impl Committable {
    pub fn is_empty(&self) -> bool {
        self.publish.is_empty() && self.obsolete.is_empty()
    }
}

pub fn to_json<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::Internal(format!("output of a file sink cannot be noted: {error}")))
}

pub fn from_json<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| Error::Internal(format!("output of a file sink cannot be read: {error}")))
}

//! What a checkpoint consists of: which bytes of which objects, and what is to be known to go on from them.
//!
//! A manifest object is `MAGIC blobs.. json json_length(u64) checksum(u64) MAGIC`, numbers little-endian, the checksum XXH3-64 of all before it. Small
//! checkpoints have their blobs inside, so that they cost one object; later manifests may refer to those as to any pack.
//!
//! A table is a list of parts, each a blob with rows of one epoch, and marks: per key group, the epoch of the last base. Rows of
//! a group that are older than its base are dead; a part all of whose rows are dead is not listed.
//!
//! Guarantee: immutable once written; everything it lists exists at that time, and garbage collection keeps it. Fields are added
//! only with defaults, or [`FORMAT`] grows.

use std::collections::BTreeMap;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{Epoch, Generation, OperatorId};
use crate::state::error::Error;
use crate::state::key_group::{KeyGroupRange, KeyGroups};
use crate::state::marks::Marks;

/// The newest format that this server reads and the one that it writes.
pub const FORMAT: u32 = 2;

const MAGIC: &[u8; 8] = b"LMCKPT01";
const FOOTER: usize = 8 + 8 + MAGIC.len();

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Where the pipeline's objects are.
    pub pipeline: String,
    pub(super) epoch: u64,
    pub(super) generation: u64,
    /// The epoch whose parts were carried over.
    pub parent: Option<u64>,
    /// Counts the manifests of the chain; decides which groups are rebased next.
    pub sequence: u64,
    pub(super) key_groups: u16,
    /// [`crate::state::hash::VERSION`] of the writer.
    pub hash_version: u32,
    pub kind: CheckpointKind,
    pub created_at_micros: i64,
    /// By operator, what decided its rows: whether another definition of the pipeline can go on with its state. Empty in
    /// checkpoints of versions that did not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lineages: BTreeMap<String, String>,
    /// Different for every attempt to write a manifest.
    pub writer: String,
    /// Objects that parts are in.
    pub packs: Vec<String>,
    pub subtasks: Vec<SubtaskEntry>,
    pub tables: Vec<TableEntry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointKind {
    Checkpoint,
    Savepoint,
    /// Taken because the job was to stop.
    Stop,
}

/// What one subtask of an operator left beside its tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubtaskEntry {
    pub operator: String,
    pub subtask: u32,
    pub parallelism: u32,
    pub watermark: Option<i64>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub finished: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sink_position: Option<String>,
    /// To be committed once this epoch was decided; of this epoch only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committable: Option<Blob>,
}

/// Bytes in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blob {
    /// Index into [`Manifest::packs`].
    pub pack: u32,
    pub offset: u64,
    pub length: u64,
    /// XXH3-64.
    pub checksum: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    pub operator: String,
    pub table: String,
    pub expiring: bool,
    pub broadcast: bool,
    /// Rows of a group with an epoch before its mark are replaced by a base.
    #[serde(default, skip_serializing_if = "Marks::is_empty")]
    pub bases: Marks<u64>,
    /// Rows of a group with a time before its mark are dead.
    #[serde(default, skip_serializing_if = "Marks::is_empty")]
    pub expired: Marks<i64>,
    /// Oldest first.
    pub parts: Vec<Part>,
}

/// A blob with rows of one table, written at one epoch by one subtask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Index into [`Manifest::packs`].
    pub pack: u32,
    pub offset: u64,
    pub length: u64,
    /// XXH3-64 of the blob.
    pub checksum: u64,
    pub encoding: Encoding,
    pub base: bool,
    pub epoch: u64,
    pub subtask: u32,
    pub parallelism: u32,
    /// Groups of the rows, `start..end`.
    pub start: u16,
    pub end: u16,
    /// Least and greatest time of the rows of an expiring table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<(i64, i64)>,
    pub rows: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    Parquet,
    /// The Arrow stream format, for types that Parquet does not have.
    Arrow,
}

impl Part {
    pub fn key_groups(&self) -> KeyGroupRange {
        KeyGroupRange {
            start: self.start,
            end: self.end,
        }
    }

    pub fn blob(&self) -> Blob {
        Blob {
            pack: self.pack,
            offset: self.offset,
            length: self.length,
            checksum: self.checksum,
        }
    }
}

impl Manifest {
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    pub fn generation(&self) -> Generation {
        Generation(self.generation)
    }

    pub fn key_groups(&self) -> KeyGroups {
        KeyGroups::new(self.key_groups).expect("checked when the manifest was read or written")
    }

    /// Rows in all parts; dead ones included.
    pub fn state_rows(&self) -> u64 {
        self.parts().map(|part| part.rows).sum()
    }

    /// Bytes of all parts, those carried over included.
    pub fn bytes(&self) -> u64 {
        self.parts().map(|part| part.length).sum()
    }

    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.tables.iter().flat_map(|table| &table.parts)
    }

    /// What is to be committed, by operator, in the order of subtasks.
    pub fn committables(&self) -> impl Iterator<Item = (OperatorId, Blob)> {
        let entries = self.subtasks.iter();
        entries.filter_map(|entry| Some((OperatorId(entry.operator.clone()), entry.committable?)))
    }

    /// Everything that the manifest lists.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Blob> {
        let committables = self.subtasks.iter().filter_map(|entry| entry.committable);
        self.parts().map(Part::blob).chain(committables)
    }

    /// The operators that left anything.
    pub fn operators(&self) -> Vec<OperatorId> {
        let mut names: Vec<&str> = self.subtasks.iter().map(|entry| entry.operator.as_str()).collect();
        names.extend(self.tables.iter().map(|entry| entry.operator.as_str()));
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| OperatorId(name.to_string())).collect()
    }

    /// The manifest object, around blobs that begin at [`BLOBS_START`].
    pub(super) fn to_object(&self, blobs: &[Bytes]) -> Result<Bytes, Error> {
        let json = serde_json::to_vec(self).map_err(|error| Error::Internal(format!("manifest: {error}")))?;
        let inline: usize = blobs.iter().map(Bytes::len).sum();
        let mut object = BytesMut::with_capacity(MAGIC.len() + inline + json.len() + FOOTER);
        object.put_slice(MAGIC);
        blobs.iter().for_each(|blob| object.put_slice(blob));
        object.put_slice(&json);
        object.put_u64_le(json.len() as u64);
        object.put_u64_le(xxh3_64(&object));
        object.put_slice(MAGIC);
        Ok(object.freeze())
    }

    /// Reads a manifest object; whatever is wrong with it is [`Error::Damaged`], unless it is newer than this server.
    pub fn from_object(path: &str, object: &[u8]) -> Result<Manifest, Error> {
        let damaged = |reason: String| Error::Damaged {
            path: path.to_string(),
            reason,
        };
        let json = json_of(object).map_err(|reason| damaged(reason.to_string()))?;
        let format: FormatOnly = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        if format.format > FORMAT {
            return Err(Error::NewerFormat {
                found: format.format,
                supported: FORMAT,
            });
        }
        let manifest: Manifest = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        manifest.check().map_err(damaged)?;
        Ok(manifest)
    }

    /// What reading relies on, so that it need not be checked again.
    fn check(&self) -> Result<(), String> {
        if KeyGroups::new(self.key_groups).is_none() {
            return Err(format!("{} key groups", self.key_groups));
        }
        if self.hash_version != crate::state::hash::VERSION {
            return Err(format!("keys are hashed by version {}", self.hash_version));
        }
        let is_nowhere =
            |blob: &Blob| blob.pack as usize >= self.packs.len() || blob.offset.checked_add(blob.length).is_none();
        match self.blobs().find(is_nowhere) {
            Some(blob) => Err(format!("a blob of {} bytes is in no pack", blob.length)),
            None => Ok(()),
        }
    }
}

/// Where the first blob inside a manifest object begins.
pub(super) const BLOBS_START: u64 = MAGIC.len() as u64;

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

fn json_of(object: &[u8]) -> Result<&[u8], &'static str> {
    let body = object.strip_suffix(MAGIC).ok_or("the end is missing")?;
    let (checked, checksum) = body.split_last_chunk::<8>().ok_or("too short")?;
    if xxh3_64(checked) != u64::from_le_bytes(*checksum) {
        return Err("the checksum does not match");
    }
    let (rest, length) = checked.split_last_chunk::<8>().ok_or("too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| "the length does not fit")?;
    let start = rest.len().checked_sub(length).ok_or("the length does not fit")?;
    Ok(&rest[start..])
}

/// Names of objects: `<pipeline>/checkpoints/<epoch>-<generation>-<random>`, `.manifest` or `.pack`. Random, so that an attempt
/// to write an epoch can follow a failed one; the metadata store says which manifest counts.
pub(super) fn manifest_path(pipeline: &str, epoch: Epoch, generation: Generation) -> String {
    object_path(pipeline, epoch, generation, "manifest")
}

pub(super) fn pack_path(pipeline: &str, epoch: Epoch, generation: Generation) -> String {
    object_path(pipeline, epoch, generation, "pack")
}

fn object_path(pipeline: &str, epoch: Epoch, generation: Generation, kind: &str) -> String {
    let random = uuid::Uuid::new_v4().simple();
    format!(
        "{}/{:020}-{:020}-{random}.{kind}",
        directory(pipeline),
        epoch.0,
        generation.0
    )
}

pub(super) fn directory(pipeline: &str) -> String {
    format!("{}/checkpoints", pipeline.trim_matches('/'))
}

/// Whose object this is; `None` for names that are not ours.
pub(super) fn parse_name(path: &str) -> Option<(Epoch, Generation)> {
    let name = path.rsplit('/').next()?;
    let stem = name.strip_suffix(".manifest").or_else(|| name.strip_suffix(".pack"))?;
    let mut parts = stem.split('-');
    let epoch = parts.next()?.parse().ok()?;
    let generation = parts.next()?.parse().ok()?;
    Some((Epoch(epoch), Generation(generation)))
}

fn is_false(value: &bool) -> bool {
    !value
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn manifest() -> Manifest {
        let mut bases = Marks::default();
        bases.set(KeyGroupRange { start: 0, end: 64 }, 7);
        Manifest {
            format: FORMAT,
            pipeline: "pipelines/1".into(),
            epoch: 7,
            generation: 2,
            parent: Some(6),
            sequence: 3,
            key_groups: 64,
            hash_version: 1,
            kind: CheckpointKind::Checkpoint,
            created_at_micros: -5,
            lineages: BTreeMap::from([("agg".to_owned(), "5e".to_owned())]),
            writer: "w".into(),
            packs: vec!["a".into()],
            subtasks: vec![SubtaskEntry {
                operator: "sink".into(),
                subtask: 0,
                parallelism: 1,
                watermark: Some(i64::MIN),
                finished: true,
                sink_position: Some("{}".into()),
                committable: Some(Blob {
                    pack: 0,
                    offset: 8,
                    length: 3,
                    checksum: 1,
                }),
            }],
            tables: vec![TableEntry {
                operator: "agg".into(),
                table: "groups".into(),
                expiring: true,
                broadcast: false,
                bases,
                expired: Marks::default(),
                parts: vec![Part {
                    pack: 0,
                    offset: 8,
                    length: 3,
                    checksum: u64::MAX,
                    encoding: Encoding::Parquet,
                    base: true,
                    epoch: 7,
                    subtask: 0,
                    parallelism: 1,
                    start: 0,
                    end: 64,
                    times: Some((i64::MIN, i64::MAX)),
                    rows: 1,
                }],
            }],
        }
    }

    #[test]
    fn objects_round_trip() {
        let object = manifest().to_object(&[Bytes::from_static(b"abc")]).unwrap();
        assert_eq!(&object[BLOBS_START as usize..BLOBS_START as usize + 3], b"abc");
        assert_eq!(Manifest::from_object("m", &object).unwrap(), manifest());
    }

    #[test]
    fn f_20_every_flipped_bit_and_every_truncation_is_noticed() {
        let object = manifest().to_object(&[Bytes::from_static(b"abc")]).unwrap().to_vec();
        for bit in 0..object.len() * 8 {
            let mut flipped = object.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let error = Manifest::from_object("m", &flipped).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "bit {bit}: {error}");
        }
        for length in 0..object.len() {
            let error = Manifest::from_object("m", &object[..length]).unwrap_err();
            assert!(matches!(error, Error::Damaged { .. }), "length {length}: {error}");
        }
    }

    #[test]
    fn newer_formats_are_said_to_be_newer() {
        let newer = Manifest {
            format: FORMAT + 1,
            ..manifest()
        };
        let object = newer.to_object(&[]).unwrap();
        match Manifest::from_object("m", &object) {
            Err(Error::NewerFormat { found, supported }) => assert_eq!((found, supported), (FORMAT + 1, FORMAT)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lies_under_a_right_checksum_are_noticed() {
        let mut lying = manifest();
        lying.packs.clear();
        let object = lying.to_object(&[]).unwrap();
        assert!(matches!(
            Manifest::from_object("m", &object),
            Err(Error::Damaged { .. })
        ));
        let lying = Manifest {
            key_groups: 1000,
            ..manifest()
        };
        assert!(Manifest::from_object("m", &lying.to_object(&[]).unwrap()).is_err());
    }

    #[test]
    fn names_tell_epoch_and_generation() {
        let path = manifest_path("/pipelines/1/", Epoch(12), Generation(3));
        assert!(path.starts_with("pipelines/1/checkpoints/"));
        assert_eq!(parse_name(&path), Some((Epoch(12), Generation(3))));
        let pack = pack_path("p", Epoch(12), Generation(3));
        assert_eq!(parse_name(&pack), Some((Epoch(12), Generation(3))));
        assert_eq!(parse_name("p/checkpoints/notes.txt"), None);
    }
}

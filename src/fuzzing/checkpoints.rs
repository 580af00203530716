//! Checkpoints that were damaged: every change of an object is an error that names it.

use std::sync::{Arc, OnceLock};

use arrow::array::{ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray, UInt16Array};
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Runtime;
use xxhash_rust::xxh3::xxh3_64;

use crate::ids::{Epoch, Generation, OperatorId, SubtaskIndex};
use crate::state::blob::Decoder;
use crate::state::error::Error;
use crate::state::key_group::{KeyGroupRange, KeyGroups};
use crate::state::manifest::{CheckpointKind, Encoding, Manifest};
use crate::state::restore::RestoredState;
use crate::state::snapshot::{CheckpointHeader, SubtaskSnapshot, load_manifest, write_checkpoint};
use crate::state::storage::{CheckpointStorage, Retries};
use crate::state::table::{Distribution, OP_PUT, TableKind, TableWrite, leading_fields};

const NAME: &str = "pipelines/1/manifest";

/// Bytes that call themselves a manifest are one, or damaged; also when their checksum is right.
pub fn manifest(data: &[u8]) {
    let mut sealed = b"LMCKPT01".to_vec();
    sealed.extend_from_slice(data);
    sealed.extend((data.len() as u64).to_le_bytes());
    sealed.extend(xxh3_64(&sealed).to_le_bytes());
    sealed.extend(b"LMCKPT01");
    for object in [data, sealed.as_slice()] {
        match Manifest::from_object(NAME, object) {
            Ok(manifest) => {
                // What reading goes by can be asked for.
                let _ = (manifest.bytes(), manifest.operators(), manifest.key_groups());
            }
            Err(Error::Damaged { path, .. }) => assert_eq!(path, NAME, "the error names the object"),
            Err(Error::NewerFormat { .. }) => {}
            Err(other) => panic!("a damaged manifest is {other}"),
        }
    }
}

/// Bytes in place of a blob whose checksum is right give rows or an error that names the object.
pub fn blob(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let encoding = match first.is_multiple_of(2) {
        true => Encoding::Parquet,
        false => Encoding::Arrow,
    };
    let wanted = first.is_multiple_of(3).then_some(KeyGroupRange { start: 3, end: 9 });
    let checked = |error: Error| match error {
        Error::Damaged { path, .. } => assert_eq!(path, NAME, "the error names the object"),
        other => panic!("a damaged blob is {other}"),
    };
    match Decoder::open(NAME, encoding, Bytes::copy_from_slice(bytes), wanted) {
        Ok(batches) => {
            for rows in batches.take(64) {
                match rows {
                    Ok(rows) => assert!(rows.num_rows() <= 1 << 24),
                    Err(error) => return checked(error),
                }
            }
        }
        Err(error) => checked(error),
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
    })
}

/// The path and the bytes of a checkpoint with a table of Parquet, one of Arrow, and what a sink left.
fn sound() -> &'static (String, Bytes) {
    static OBJECT: OnceLock<(String, Bytes)> = OnceLock::new();
    OBJECT.get_or_init(|| {
        let store = Arc::new(InMemory::new());
        let storage = CheckpointStorage::over(Arc::clone(&store) as Arc<dyn ObjectStore>, Retries::default());
        let key_groups = KeyGroups::new(32).expect("a number of key groups");
        let snapshot = SubtaskSnapshot {
            operator: OperatorId("aggregate".into()),
            subtask: SubtaskIndex(0),
            parallelism: 1,
            tables: vec![table("groups", 40), table("more", 3)],
            committable: Some(bytes::Bytes::from_static(b"to be committed")),
            sink_position: Some("7".into()),
            watermark: Some(5),
            finished: false,
        };
        let header = CheckpointHeader {
            epoch: Epoch(1),
            generation: Generation(1),
            parent: None,
            key_groups,
            kind: CheckpointKind::Checkpoint,
            created_at_micros: 0,
            lineages: [("aggregate".to_owned(), "1".to_owned())].into(),
        };
        let written = write_checkpoint(&storage, "pipelines/1", header, vec![snapshot]);
        let (_, path) = runtime().block_on(written).expect("memory takes it");
        let object = runtime().block_on(async { store.get(&path.as_str().into()).await?.bytes().await });
        (path, object.expect("what was written is there"))
    })
}

fn table(name: &'static str, count: i64) -> TableWrite {
    let mut fields = leading_fields(TableKind::GlobalKeyed);
    fields.push(Field::new("key", DataType::Int64, false));
    fields.push(Field::new("value", DataType::Utf8, true));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from_iter_values(
            (0..count).map(|key| (key * 32 / count) as u16),
        )),
        Arc::new(Int8Array::from_iter_values((0..count).map(|_| OP_PUT))),
        Arc::new(Int64Array::from_iter_values(0..count)),
        Arc::new(StringArray::from_iter(
            (0..count).map(|key| (key % 3 > 0).then(|| format!("value {key}"))),
        )),
    ];
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns of these fields");
    TableWrite {
        table: name,
        kind: TableKind::GlobalKeyed,
        distribution: Distribution::KeyGroups,
        rebased: None,
        expired_before: None,
        rows: vec![rows],
    }
}

/// A sound checkpoint with some bytes exchanged, or cut: each three bytes of `data` are a place and what is added there.
pub fn checkpoint(data: &[u8]) {
    let (path, object) = sound();
    let mut damaged = object.to_vec();
    for change in data.chunks(3).take(64) {
        match change {
            [high, low, by] => {
                let at = usize::from(u16::from_be_bytes([*high, *low])) % damaged.len();
                damaged[at] = damaged[at].wrapping_add(*by);
            }
            rest => damaged.truncate(damaged.len() - rest.len()),
        }
        if damaged.is_empty() {
            break;
        }
    }
    let is_sound = damaged == *object;
    let store = Arc::new(InMemory::new());
    let storage = CheckpointStorage::over(Arc::clone(&store) as Arc<dyn ObjectStore>, Retries::default());
    let opened = runtime().block_on(async {
        let put = store.put(&path.as_str().into(), damaged.into()).await;
        put.expect("memory takes it");
        let manifest = load_manifest(&storage, path).await?;
        RestoredState::open(&storage, manifest).await
    });
    match opened {
        Ok(_) => assert!(is_sound, "damage was not noticed"),
        Err(Error::Damaged { path: named, .. }) => {
            assert!(!is_sound, "a sound checkpoint is refused");
            assert_eq!(&named, path, "the error names the object");
        }
        Err(other) => panic!("a damaged checkpoint is {other}"),
    }
}

//! Storage against stores that fail in every way that real ones do, and against a server that speaks the S3 protocol.
#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;

use arrow::array::{ArrayRef, Int8Array, RecordBatch, UInt16Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};

use super::*;
use crate::error::{Report, Retry, SqlState};
use crate::ids::{Epoch, Generation, OperatorId, SubtaskIndex};
use crate::state::gc::{collect, delete_all};
use crate::state::key_group::KeyGroups;
use crate::state::manifest::{CheckpointKind, Manifest};
use crate::state::restore::{RestoredState, verify};
use crate::state::snapshot::{CheckpointHeader, SubtaskSnapshot, load_manifest, write_checkpoint};
use crate::state::table::*;
use crate::testing::azure_server::azure_server;
use crate::testing::faulty_objects::{Fault, FaultyObjects};
use crate::testing::s3_server::s3_server;

fn over(store: &Arc<FaultyObjects>) -> CheckpointStorage {
    let retries = Retries {
        first_pause: Duration::from_micros(10),
        pause_max: Duration::from_micros(100),
        attempts_max: 5,
    };
    CheckpointStorage::over(Arc::clone(store) as Arc<dyn ObjectStore>, retries)
}

#[tokio::test]
async fn f_25_f_26_creates_survive_what_passes() {
    use Fault::*;
    for faults in [
        &[SlowDown, SlowDown, SlowDown][..],
        &[LostAnswer],
        &[SlowDown, LostAnswer, SlowDown],
        &[ConflictWithNobody],
        &[ConflictWithNobody, SlowDown, LostAnswer],
    ] {
        let store = FaultyObjects::with(faults);
        let storage = over(&store);
        storage.create("p/x", Bytes::from_static(b"mine")).await.unwrap();
        assert_eq!(storage.read("p/x").await.unwrap(), "mine", "{faults:?}");
    }
}

#[tokio::test]
async fn creates_find_out_who_was_first() {
    let store = FaultyObjects::with(&[]);
    let storage = over(&store);
    storage.create("p/x", Bytes::from_static(b"theirs")).await.unwrap();
    let error = storage.create("p/x", Bytes::from_static(b"mine")).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(storage.read("p/x").await.unwrap(), "theirs");
    storage.create("p/x", Bytes::from_static(b"theirs")).await.unwrap();
}

#[tokio::test]
async fn what_does_not_pass_is_reported_at_once_and_the_rest_not_for_ever() {
    let store = FaultyObjects::with(&[Fault::Denied]);
    let error = over(&store).create("p/x", Bytes::new()).await.unwrap_err();
    assert_eq!(store.requests.load(Ordering::SeqCst), 1);
    assert_eq!(error.code(), SqlState::IO_ERROR);
    let store = FaultyObjects::with(&[Fault::SlowDown; 100]);
    let error = over(&store).create("p/x", Bytes::new()).await.unwrap_err();
    assert_eq!(store.requests.load(Ordering::SeqCst), 5);
    assert_eq!(error.retry(), Retry::Backoff);
    assert!(error.detail().unwrap().contains("SlowDown"));
    assert!(error.to_string().contains("could not create \"p/x\""));
}

/// What every kind of store must do alike.
async fn behaves(storage: &CheckpointStorage) {
    storage.check().await.unwrap();
    let missing = storage.read("p/none").await.unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    assert_eq!(storage.read_if_exists("p/none").await.unwrap(), None);
    let bytes = Bytes::from((0..=255u8).cycle().take(100_000).collect::<Vec<_>>());
    storage.create("p/checkpoints/one", bytes.clone()).await.unwrap();
    storage
        .create("p/checkpoints/two", Bytes::from_static(b"2"))
        .await
        .unwrap();
    storage
        .create("pp/checkpoints/other", Bytes::from_static(b"3"))
        .await
        .unwrap();
    let again = storage.create("p/checkpoints/one", Bytes::from_static(b"other")).await;
    assert!(matches!(again, Err(Error::Exists { .. })));
    storage.create("p/checkpoints/one", bytes.clone()).await.unwrap();
    assert_eq!(storage.read("p/checkpoints/one").await.unwrap(), bytes);
    assert_eq!(
        storage.read_range("p/checkpoints/one", 1000..1010).await.unwrap(),
        bytes.slice(1000..1010)
    );
    assert_eq!(
        storage.read_range("p/checkpoints/one", 99_990..200_000).await.unwrap(),
        bytes.slice(99_990..)
    );
    assert_eq!(
        storage
            .read_range("p/checkpoints/one", 100_001..200_000)
            .await
            .unwrap()
            .len(),
        0
    );
    assert!(storage.read_range("p/none", 0..10).await.unwrap_err().is_not_found());
    let mut listed = storage.list("p").await.unwrap();
    listed.sort_by(|left, right| left.path.cmp(&right.path));
    let expected = [("p/checkpoints/one", 100_000), ("p/checkpoints/two", 1)];
    assert_eq!(
        listed
            .iter()
            .map(|object| (object.path.as_str(), object.bytes))
            .collect::<Vec<_>>(),
        expected
    );
    assert!(
        listed
            .iter()
            .all(|object| object.modified_micros > 1_600_000_000_000_000)
    );
    storage.delete("p/checkpoints/one").await.unwrap();
    storage.delete("p/checkpoints/one").await.unwrap();
    assert_eq!(storage.list("p").await.unwrap().len(), 1);
    storage.delete("p/checkpoints/two").await.unwrap();
    holds_checkpoints(storage).await;
}

/// A checkpoint with a pack goes in and comes out, is collected when it is not kept, and its damage is noticed.
async fn holds_checkpoints(storage: &CheckpointStorage) {
    let (first, first_path) = checkpoint(storage, 1).await;
    let (second, second_path) = checkpoint(storage, 2).await;
    let loaded = load_manifest(storage, &second_path).await.unwrap();
    assert_eq!(loaded, second);
    verify(storage, &first).await.unwrap();
    let state = RestoredState::open(storage, loaded).await.unwrap();
    let runtime = tokio::runtime::Handle::current();
    let reader = state.reader(&OperatorId("o".into()), SubtaskIndex(0), 1, runtime);
    let mut rows = 0;
    let mut count = |batch: RecordBatch| {
        rows += batch.num_rows();
        Ok(())
    };
    reader.read("rows", &mut count).unwrap();
    assert_eq!(rows, ROWS);
    let collected = collect(storage, "p", std::slice::from_ref(&second_path), Generation(1), 0)
        .await
        .unwrap();
    assert_eq!(collected.deleted, 2, "manifest and pack of the first");
    assert!(storage.read_if_exists(&first_path).await.unwrap().is_none());
    let pack = &second.packs[0];
    let bytes = storage.read(pack).await.unwrap();
    storage.delete(pack).await.unwrap();
    for damaged in [None, Some(bytes.slice(..100)), Some(bytes.slice(..0))] {
        if let Some(damaged) = damaged {
            storage.create(pack, damaged).await.unwrap();
        }
        let error = verify(storage, &second).await.unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        storage.delete(pack).await.unwrap();
    }
    delete_all(storage, "p").await.unwrap();
    assert_eq!(storage.list("p").await.unwrap(), []);
}

const ROWS: usize = 30_000;

async fn checkpoint(storage: &CheckpointStorage, epoch: u64) -> (Manifest, String) {
    let mut fields = leading_fields(TableKind::GlobalKeyed);
    fields.push(Field::new("value", DataType::UInt64, false));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from_iter_values((0..ROWS).map(|row| (row % 1024) as u16))),
        Arc::new(Int8Array::from(vec![OP_PUT; ROWS])),
        Arc::new(UInt64Array::from_iter_values(
            (0..ROWS as u64).map(|row| row.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        )),
    ];
    let table = TableWrite {
        table: "rows",
        kind: TableKind::GlobalKeyed,
        distribution: Distribution::KeyGroups,
        rebased: None,
        expired_before: None,
        rows: vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()],
    };
    let snapshot = SubtaskSnapshot {
        operator: OperatorId("o".into()),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        tables: vec![table],
        committable: None,
        sink_position: None,
        watermark: None,
        finished: false,
    };
    let header = CheckpointHeader {
        epoch: Epoch(epoch),
        generation: Generation(1),
        parent: None,
        key_groups: KeyGroups::default(),
        kind: CheckpointKind::Checkpoint,
        created_at_micros: 0,
        lineages: Default::default(),
    };
    write_checkpoint(storage, "p", header, vec![snapshot]).await.unwrap()
}

#[tokio::test]
async fn directories_and_memory_behave() {
    let directory = tempfile::tempdir().unwrap();
    let url = url::Url::from_file_path(directory.path().join("with space")).unwrap();
    behaves(&CheckpointStorage::open(url.as_str(), &[]).unwrap()).await;
    behaves(&CheckpointStorage::open("memory:", &[]).unwrap()).await;
    behaves(&CheckpointStorage::open("memory:///some/prefix", &[]).unwrap()).await;
}

#[tokio::test]
async fn urls_that_cannot_be_used_are_refused() {
    for url in ["", "nonsense", "ftp://host/path", "file://host/path", "/plain/path"] {
        let error = CheckpointStorage::open(url, &[])
            .err()
            .unwrap_or_else(|| panic!("{url} was accepted"));
        assert_eq!(error.code(), SqlState::INVALID_PARAMETER_VALUE, "{url}");
        assert!(error.hint().unwrap().contains("s3://"));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn f_23_a_full_disk_says_so() {
    // Writing to /dev/full fails with ENOSPC; the storage sees the same error from a full file system.
    let error = std::fs::write("/dev/full", b"x").unwrap_err();
    let error = storage_error(
        "create",
        "p/x",
        object_store::Error::Generic {
            store: "file",
            source: error.into(),
        },
    );
    assert_eq!(error.code(), SqlState::DISK_FULL);
    assert_eq!(error.retry(), Retry::Backoff);
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("file"), b"").unwrap();
    let url = url::Url::from_file_path(directory.path().join("file/below")).unwrap();
    let storage = CheckpointStorage::open(url.as_str(), &[]).unwrap();
    let error = storage.check().await.unwrap_err();
    assert_eq!(error.code(), SqlState::IO_ERROR);
}

#[tokio::test]
async fn object_stores_behave() {
    let Some(server) = s3_server().await else { return };
    let options = [
        ("AWS_ENDPOINT_URL", server.endpoint()),
        ("AWS_ACCESS_KEY_ID", "test".into()),
        ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ALLOW_HTTP", "true".into()),
        ("UNRELATED", "x".into()),
    ]
    .map(|(name, value)| (name.to_string(), value));
    behaves(&CheckpointStorage::open("s3://bucket/some/prefix", &options).unwrap()).await;
    behaves(&CheckpointStorage::open("s3://bucket", &options).unwrap()).await;
    let nowhere = CheckpointStorage::open("s3://no-such-bucket/x", &options)
        .unwrap()
        .check()
        .await
        .unwrap_err();
    assert_eq!(nowhere.code(), SqlState::IO_ERROR, "{nowhere}");
}

#[tokio::test]
async fn azure_blobs_are_stored() {
    let Some(server) = azure_server().await else { return };
    let options: Vec<(String, String)> = server
        .options()
        .map(|(name, value)| (name.replace("allow_http", "azure_allow_http").to_uppercase(), value))
        .to_vec();
    behaves(&CheckpointStorage::open("az://container/some/prefix", &options).unwrap()).await;
    behaves(&CheckpointStorage::open("az://container", &options).unwrap()).await;
    let nowhere = CheckpointStorage::open("az://no-such-container/x", &options).unwrap();
    let error = nowhere.check().await.unwrap_err();
    assert_eq!(error.code(), SqlState::IO_ERROR, "{error}");
}

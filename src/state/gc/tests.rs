//! Random histories of runs, failed uploads and collections: what is kept stays whole, the rest goes.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::*;
use arrow::datatypes::Schema;
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::ids::{OperatorId, SubtaskIndex};
use crate::state::key_group::{KeyGroupRange, KeyGroups};
use crate::state::manifest::{CheckpointKind, Manifest, pack_path};
use crate::state::restore::verify;
use crate::state::snapshot::{CheckpointHeader, SubtaskSnapshot, write_checkpoint};
use crate::state::table::*;

const PIPELINE: &str = "pipelines/7";
const LATER: i64 = i64::MAX / 2;

fn storage() -> CheckpointStorage {
    CheckpointStorage::open("memory:", &[]).unwrap()
}

/// Rows of one key group each; many rows make packs, few go into the manifest.
async fn checkpoint(
    storage: &CheckpointStorage,
    epoch: u64,
    generation: u64,
    parent: Option<&Manifest>,
    rebased: Option<KeyGroupRange>,
    rows: usize,
) -> (Manifest, String) {
    let key_groups = KeyGroups::new(16).unwrap();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from_iter_values(
            (0..rows).map(|row| (row * 16 / rows) as u16),
        )),
        Arc::new(Int8Array::from(vec![OP_PUT; rows])),
        Arc::new(StringArray::from_iter_values(
            (0..rows).map(|row| format!("{epoch}-{}", row * 7919)),
        )),
    ];
    let mut fields = leading_fields(TableKind::GlobalKeyed);
    fields.push(arrow::datatypes::Field::new(
        "key",
        arrow::datatypes::DataType::Utf8,
        false,
    ));
    let write = TableWrite {
        table: "groups",
        kind: TableKind::GlobalKeyed,
        distribution: Distribution::KeyGroups,
        rebased,
        expired_before: None,
        rows: vec![RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()],
    };
    let snapshot = SubtaskSnapshot {
        operator: OperatorId("o".into()),
        subtask: SubtaskIndex(0),
        parallelism: 1,
        tables: vec![write],
        committable: None,
        sink_position: None,
        watermark: None,
        finished: false,
    };
    let header = CheckpointHeader {
        epoch: Epoch(epoch),
        generation: Generation(generation),
        parent,
        key_groups,
        kind: CheckpointKind::Checkpoint,
        created_at_micros: 0,
        lineages: Default::default(),
    };
    write_checkpoint(storage, PIPELINE, header, vec![snapshot])
        .await
        .unwrap()
}

#[derive(Clone, Debug)]
enum Event {
    Checkpoint {
        rebase: (u16, u16),
        large: bool,
    },
    /// Objects of an epoch that comes to nothing.
    AbandonedPack,
    /// A new run starts, from the newest kept or an older one.
    Restart {
        back: usize,
    },
    Retain(usize),
    Collect {
        now: bool,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => ((0..17u16, 0..17u16), prop::bool::weighted(0.2)).prop_map(|(rebase, large)| Event::Checkpoint { rebase, large }),
        1 => Just(Event::AbandonedPack),
        1 => (0..3usize).prop_map(|back| Event::Restart { back }),
        2 => (1..4usize).prop_map(Event::Retain),
        3 => any::<bool>().prop_map(|now| Event::Collect { now }),
    ]
}

/// What the metadata store would know.
struct History {
    storage: CheckpointStorage,
    kept: Vec<(Manifest, String)>,
    parent: Option<Manifest>,
    epoch: u64,
    generation: u64,
}

impl History {
    async fn apply(&mut self, event: &Event) {
        match event {
            Event::Checkpoint { rebase, large } => {
                self.epoch += 1;
                let range = KeyGroupRange {
                    start: rebase.0.min(rebase.1).min(16),
                    end: rebase.0.max(rebase.1).min(16),
                };
                let rows = if *large { 40_000 } else { 16 };
                let written = checkpoint(
                    &self.storage,
                    self.epoch,
                    self.generation,
                    self.parent.as_ref(),
                    Some(range),
                    rows,
                )
                .await;
                self.parent = Some(written.0.clone());
                self.kept.push(written);
            }
            Event::AbandonedPack => {
                self.epoch += 1;
                let path = pack_path(PIPELINE, Epoch(self.epoch), Generation(self.generation));
                self.storage.create(&path, Bytes::from_static(b"torn")).await.unwrap();
            }
            Event::Restart { back } => {
                self.generation += 1;
                let at = self.kept.len().saturating_sub(1 + back);
                self.parent = self.kept.get(at).map(|(manifest, _)| manifest.clone());
            }
            Event::Retain(count) => {
                // A run collects after it has decided an epoch: what the next one builds on is then among the newest.
                let drop = self.kept.len().saturating_sub(*count);
                let parent = self.parent.as_ref();
                let mut at = 0;
                self.kept.retain(|(manifest, _)| {
                    at += 1;
                    at > drop || Some(manifest) == parent
                });
            }
            Event::Collect { now } => self.collect(if *now { 0 } else { LATER }).await,
        }
    }

    async fn collect(&self, now_micros: i64) {
        let keep: Vec<String> = self.kept.iter().map(|(_, path)| path.clone()).collect();
        collect(&self.storage, PIPELINE, &keep, Generation(self.generation), now_micros)
            .await
            .unwrap();
        for (manifest, path) in &self.kept {
            assert_eq!(load_manifest(&self.storage, path).await.unwrap(), *manifest);
            verify(&self.storage, manifest).await.unwrap();
        }
        // The parent of what is written next is kept too, so the run can go on from it.
        if let Some(parent) = &self.parent
            && self.kept.iter().any(|(manifest, _)| manifest == parent)
        {
            verify(&self.storage, parent).await.unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn keeps_what_is_reachable_and_deletes_the_rest(events in prop::collection::vec(event(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut history =
                History { storage: storage(), kept: Vec::new(), parent: None, epoch: 0, generation: 1 };
            for event in &events {
                history.apply(event).await;
            }
            // A newer run, long after: only what is kept remains.
            history.generation += 1;
            history.collect(LATER).await;
            let mut expected: HashSet<String> = history.kept.iter().map(|(_, path)| path.clone()).collect();
            expected.extend(history.kept.iter().flat_map(|(manifest, _)| manifest.packs.clone()));
            let left: HashSet<String> =
                history.storage.list("pipelines").await.unwrap().into_iter().map(|object| object.path).collect();
            assert_eq!(left, expected);
        });
    }
}

#[tokio::test]
async fn what_cannot_be_read_stops_the_collection() {
    let storage = storage();
    let (_, old) = checkpoint(&storage, 1, 1, None, None, 16).await;
    let (_, kept) = checkpoint(&storage, 2, 1, None, None, 16).await;
    let missing = vec![kept.clone(), "pipelines/7/checkpoints/9-9-x.manifest".to_string()];
    assert!(
        collect(&storage, PIPELINE, &missing, Generation(9), LATER)
            .await
            .is_err()
    );
    let object = storage.read(&kept).await.unwrap();
    storage.delete(&kept).await.unwrap();
    storage.create(&kept, object.slice(..object.len() - 1)).await.unwrap();
    assert!(
        collect(&storage, PIPELINE, std::slice::from_ref(&kept), Generation(9), LATER)
            .await
            .is_err()
    );
    assert!(
        storage.read_if_exists(&old).await.unwrap().is_some(),
        "nothing was deleted"
    );
    storage.delete(&kept).await.unwrap();
    storage.create(&kept, object).await.unwrap();
    let collected = collect(&storage, PIPELINE, &[kept], Generation(9), LATER)
        .await
        .unwrap();
    assert_eq!((collected.deleted, collected.kept), (1, 1));
}

#[tokio::test]
async fn f_21_young_objects_newer_runs_and_foreign_files_stay() {
    let storage = storage();
    let (_, kept) = checkpoint(&storage, 5, 3, None, None, 16).await;
    let names = |epoch, generation| pack_path(PIPELINE, Epoch(epoch), Generation(generation));
    let (zombie, newer, in_flight, passed) = (names(9, 2), names(1, 4), names(6, 3), names(4, 3));
    for path in [
        &zombie,
        &newer,
        &in_flight,
        &passed,
        &format!("{PIPELINE}/checkpoints/README.txt"),
    ] {
        storage.create(path, Bytes::from_static(b"x")).await.unwrap();
    }
    let now = storage.list(PIPELINE).await.unwrap()[0].modified_micros;
    let keep = [kept];
    collect(&storage, PIPELINE, &keep, Generation(3), now + 1000)
        .await
        .unwrap();
    let exists = async |path: &str| storage.read_if_exists(path).await.unwrap().is_some();
    assert!(exists(&zombie).await && exists(&newer).await && exists(&in_flight).await);
    assert!(!exists(&passed).await);
    collect(&storage, PIPELINE, &keep, Generation(3), LATER).await.unwrap();
    assert!(!exists(&zombie).await && exists(&newer).await && exists(&in_flight).await);
    assert!(exists(&format!("{PIPELINE}/checkpoints/README.txt")).await);
    collect(&storage, PIPELINE, &[], Generation(4), LATER).await.unwrap();
    assert!(
        exists(&newer).await,
        "without a checkpoint nothing of this run is known to be passed"
    );
    delete_all(&storage, PIPELINE).await.unwrap();
    assert_eq!(storage.list(PIPELINE).await.unwrap().len(), 0);
}

/// Collections beside uploads, as a coordinator runs them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f_22_collections_beside_uploads_harm_nothing() {
    let directory_on_disk = tempfile::tempdir().unwrap();
    let url = url::Url::from_file_path(directory_on_disk.path()).unwrap();
    let storage = CheckpointStorage::open(url.as_str(), &[]).unwrap();
    let mut parent: Option<(Manifest, String)> = None;
    for epoch in 1..60 {
        let range = KeyGroupRange {
            start: (epoch % 16) as u16,
            end: (epoch % 16) as u16 + 1,
        };
        let rows = if epoch % 5 == 0 { 20_000 } else { 16 };
        let keep: Vec<String> = parent.iter().map(|(_, path)| path.clone()).collect();
        let upload = checkpoint(
            &storage,
            epoch,
            1,
            parent.as_ref().map(|(manifest, _)| manifest),
            Some(range),
            rows,
        );
        let (written, collected) = tokio::join!(upload, collect(&storage, PIPELINE, &keep, Generation(1), 0));
        collected.unwrap();
        verify(&storage, &written.0).await.unwrap();
        parent = Some(written);
    }
}

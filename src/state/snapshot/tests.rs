//! Random histories of writes, deletions, rebases, rescales and restores against a map; damage; small cases by hand.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use arrow::array::*;
use arrow::datatypes::*;
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::*;
use crate::state::hash::hash_word;
use crate::state::manifest::directory;
use crate::state::restore::{RestoredState, read_committables, verify};
use crate::state::table::*;

const PIPELINE: &str = "pipelines/1";
const KEY_GROUPS: u16 = 32;

fn key_groups() -> KeyGroups {
    KeyGroups::new(KEY_GROUPS).unwrap()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap()
}

fn group_of(key: i64) -> u16 {
    key_groups().group_of(hash_word(key as u64)).0
}

fn operator() -> OperatorId {
    OperatorId("aggregate".into())
}

/// Rows of (key, value or tombstone, time).
fn rows(kind: TableKind, cells: &[(i64, Option<i64>, i64)]) -> RecordBatch {
    let mut fields = leading_fields(kind);
    fields.push(Field::new("key", DataType::Int64, false));
    fields.push(Field::new("value", DataType::Int64, true));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(UInt16Array::from_iter_values(
            cells.iter().map(|(key, _, _)| group_of(*key)),
        )),
        Arc::new(Int8Array::from_iter_values(
            cells
                .iter()
                .map(|(_, value, _)| if value.is_some() { OP_PUT } else { OP_TOMBSTONE }),
        )),
    ];
    if kind == TableKind::ExpiringTimeKey {
        columns.push(Arc::new(Int64Array::from_iter_values(
            cells.iter().map(|(_, _, time)| *time),
        )));
    }
    columns.push(Arc::new(Int64Array::from_iter_values(
        cells.iter().map(|(key, _, _)| *key),
    )));
    columns.push(Arc::new(Int64Array::from_iter(
        cells.iter().map(|(_, value, _)| *value),
    )));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn write(table: &'static str, kind: TableKind, rows: Vec<RecordBatch>) -> TableWrite {
    TableWrite {
        table,
        kind,
        distribution: Distribution::KeyGroups,
        rebased: None,
        expired_before: None,
        rows,
    }
}

fn snapshot(subtask: u32, parallelism: u32, tables: Vec<TableWrite>) -> SubtaskSnapshot {
    SubtaskSnapshot {
        operator: operator(),
        subtask: SubtaskIndex(subtask),
        parallelism,
        tables,
        committable: None,
        sink_position: None,
        watermark: None,
        finished: false,
    }
}

fn header(epoch: u64, parent: Option<&Manifest>) -> CheckpointHeader<'_> {
    CheckpointHeader {
        epoch: Epoch(epoch),
        generation: Generation(1),
        parent,
        key_groups: key_groups(),
        kind: CheckpointKind::Checkpoint,
        created_at_micros: 0,
        lineages: Default::default(),
    }
}

fn memory() -> CheckpointStorage {
    CheckpointStorage::open("memory:", &[]).unwrap()
}

async fn checkpoint(
    storage: &CheckpointStorage,
    epoch: u64,
    parent: Option<&Manifest>,
    snapshots: Vec<SubtaskSnapshot>,
) -> Manifest {
    let (manifest, path) = write_checkpoint(storage, PIPELINE, header(epoch, parent), snapshots)
        .await
        .unwrap();
    assert_eq!(load_manifest(storage, &path).await.unwrap(), manifest);
    manifest
}

/// Every visited row of a table as (key, value, time) for one reader, in order.
fn read(
    state: &RestoredState,
    table: &str,
    subtask: u32,
    parallelism: u32,
    runtime: &Runtime,
) -> Vec<(i64, Option<i64>, i64)> {
    let reader = state.reader(
        &operator(),
        SubtaskIndex(subtask),
        parallelism,
        runtime.handle().clone(),
    );
    let mut found = Vec::new();
    reader
        .read(table, &mut |batch| {
            let numbers = |name: &str| {
                batch
                    .column_by_name(name)
                    .map(|column| column.as_primitive::<Int64Type>().clone())
            };
            let (keys, values, times) = (numbers("key").unwrap(), numbers("value").unwrap(), numbers(TIME_COLUMN));
            let ops = batch.column(1).as_primitive::<Int8Type>();
            for row in 0..batch.num_rows() {
                let value = (ops.value(row) == OP_PUT).then(|| values.value(row));
                found.push((
                    keys.value(row),
                    value,
                    times.as_ref().map_or(0, |times| times.value(row)),
                ));
            }
            Ok(())
        })
        .unwrap();
    found
}

/// Applies puts and tombstones in order, over all subtasks; fails when two subtasks get one key.
fn restored_map(state: &RestoredState, table: &str, parallelism: u32, runtime: &Runtime) -> BTreeMap<i64, i64> {
    let mut whole = BTreeMap::new();
    for subtask in 0..parallelism {
        let mut own = BTreeMap::new();
        for (key, value, _) in read(state, table, subtask, parallelism, runtime) {
            match value {
                Some(value) => own.insert(key, value),
                None => own.remove(&key),
            };
        }
        for (key, value) in own {
            assert_eq!(whole.insert(key, value), None, "key {key} at two subtasks");
        }
    }
    whole
}

/// One epoch of the property test.
#[derive(Clone, Debug)]
struct EpochPlan {
    /// Key and value, or deletion.
    changes: Vec<(i64, Option<i64>)>,
    /// Part of each subtask's range to rebase, in sixteenths; `None`: what the policy says.
    rebase: Option<(u16, u16)>,
    /// Restore into this parallelism afterwards.
    rescale: Option<u32>,
    epoch_gap: u64,
    /// Time that the expiring table forgets up to.
    expire: i64,
}

fn epoch_plan() -> impl Strategy<Value = EpochPlan> {
    let change = (0..60i64, prop_oneof![3 => any::<i64>().prop_map(Some), 1 => Just(None)]);
    (
        prop::collection::vec(change, 0..40),
        prop::option::of((0..16u16, 0..17u16)),
        prop::option::weighted(0.3, 1..6u32),
        1..4u64,
        0..60i64,
    )
        .prop_map(|(changes, rebase, rescale, epoch_gap, expire)| EpochPlan {
            changes,
            rebase,
            rescale,
            epoch_gap,
            expire,
        })
}

fn rebase_of(plan: &EpochPlan, parent: Option<&Manifest>, owned: KeyGroupRange) -> KeyGroupRange {
    match plan.rebase {
        None => rebase_range(parent, Epoch(0), key_groups(), owned),
        Some((from, to)) => {
            let width = owned.end - owned.start;
            KeyGroupRange {
                start: owned.start + width * from.min(to) / 16,
                end: owned.start + width * from.max(to).min(16) / 16,
            }
        }
    }
}

/// The operator under test: a map whose time is the key, so that expiry is a prefix of keys.
fn table_writes(
    plan: &EpochPlan,
    live: &BTreeMap<i64, i64>,
    windows: &BTreeMap<i64, i64>,
    horizon: i64,
    owned: KeyGroupRange,
    rebase: KeyGroupRange,
) -> Vec<TableWrite> {
    let mine = |key: i64| owned.contains(crate::state::key_group::KeyGroup(group_of(key)));
    let based = |key: i64| rebase.contains(crate::state::key_group::KeyGroup(group_of(key)));
    let mut writes = Vec::new();
    for (table, kind, state) in [
        ("groups", TableKind::GlobalKeyed, live),
        ("windows", TableKind::ExpiringTimeKey, windows),
    ] {
        let mut cells: Vec<(i64, Option<i64>, i64)> = state
            .iter()
            .filter(|(key, _)| mine(**key) && based(**key))
            .map(|(key, value)| (*key, Some(*value), *key))
            .collect();
        let mut changed: Vec<i64> = plan
            .changes
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| mine(*key) && !based(*key))
            .collect();
        changed.sort_unstable();
        changed.dedup();
        cells.extend(changed.into_iter().map(|key| (key, state.get(&key).copied(), key)));
        cells.reverse();
        let middle = cells.len() / 2;
        writes.push(TableWrite {
            rebased: (!rebase.is_empty()).then_some(rebase),
            expired_before: (kind == TableKind::ExpiringTimeKey).then_some(horizon),
            ..write(
                table,
                kind,
                vec![rows(kind, &cells[..middle]), rows(kind, &cells[middle..])],
            )
        });
    }
    writes
}

fn run_history(plans: &[EpochPlan], storage: &CheckpointStorage, runtime: &Runtime) {
    let (mut live, mut windows) = (BTreeMap::new(), BTreeMap::new());
    let (mut epoch, mut parallelism, mut horizon) = (0, 1, i64::MIN);
    let mut parent: Option<Manifest> = None;
    let mut fresh = true;
    for plan in plans {
        epoch += plan.epoch_gap;
        for (key, value) in &plan.changes {
            match value {
                Some(value) => {
                    live.insert(*key, *value);
                    windows.insert(*key, *value);
                }
                None => {
                    live.remove(key);
                    windows.remove(key);
                }
            }
        }
        horizon = horizon.max(plan.expire - 30);
        windows.retain(|key, _| *key >= horizon);
        let snapshots = (0..parallelism)
            .map(|subtask| {
                let owned = key_groups().range_of(subtask, parallelism);
                let base_for = if fresh { None } else { parent.as_ref() };
                let rebase = rebase_of(plan, base_for, owned);
                snapshot(
                    subtask,
                    parallelism,
                    table_writes(plan, &live, &windows, horizon, owned, rebase),
                )
            })
            .collect();
        let manifest = runtime.block_on(checkpoint(storage, epoch, parent.as_ref(), snapshots));
        let state = runtime
            .block_on(RestoredState::open(storage, manifest.clone()))
            .unwrap();
        for width in [1, parallelism, plan.rescale.unwrap_or(3)] {
            assert_eq!(restored_map(&state, "groups", width, runtime), live);
            assert_eq!(restored_map(&state, "windows", width, runtime), windows);
        }
        parallelism = plan.rescale.unwrap_or(parallelism);
        fresh = plan.rescale.is_some();
        parent = Some(manifest);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn restores_are_what_was_written(plans in prop::collection::vec(epoch_plan(), 1..25)) {
        run_history(&plans, &memory(), &runtime());
    }
}

#[test]
fn histories_on_disk_restore_too() {
    let directory = tempfile::tempdir().unwrap();
    let url = url::Url::from_file_path(directory.path()).unwrap();
    let storage = CheckpointStorage::open(url.as_str(), &[]).unwrap();
    let plan = |n: i64| EpochPlan {
        changes: (0..40)
            .map(|key| ((key * 7 + n) % 60, (key % 4 != 0).then_some(key * n)))
            .collect(),
        rebase: None,
        rescale: (n % 5 == 4).then_some((n % 3 + 1) as u32),
        epoch_gap: 1,
        expire: n * 3,
    };
    run_history(&(0..20).map(plan).collect::<Vec<_>>(), &storage, &runtime());
}

fn cells(range: std::ops::Range<i64>, value: i64) -> Vec<(i64, Option<i64>, i64)> {
    range.map(|key| (key, Some(value), key)).collect()
}

/// Deltas of a large state stay few: every slice is rebased in turn.
#[test]
fn the_number_of_deltas_is_bounded() {
    let runtime = runtime();
    let storage = memory();
    let mut parent: Option<Manifest> = None;
    for epoch in 1..60 {
        let owned = key_groups().all();
        let rebase = rebase_range(parent.as_ref(), Epoch(epoch * 10), key_groups(), owned);
        let based = |key: i64| rebase.contains(crate::state::key_group::KeyGroup(group_of(key)));
        let mut all: Vec<_> = cells(0..20_000, epoch as i64)
            .into_iter()
            .filter(|(key, _, _)| based(*key))
            .collect();
        let start = epoch as i64 * 50;
        all.extend(
            cells(start..start + 50, epoch as i64)
                .into_iter()
                .filter(|(key, _, _)| !based(*key)),
        );
        let write = TableWrite {
            rebased: Some(rebase),
            ..write(
                "groups",
                TableKind::GlobalKeyed,
                vec![rows(TableKind::GlobalKeyed, &all)],
            )
        };
        let manifest = runtime.block_on(checkpoint(
            &storage,
            epoch * 10,
            parent.as_ref(),
            vec![snapshot(0, 1, vec![write])],
        ));
        assert!(
            manifest.parts().count() <= 34,
            "epoch {epoch}: {}",
            manifest.parts().count()
        );
        if epoch > 1 {
            assert!(rebase.end - rebase.start <= 2, "a large state is not rewritten whole");
        }
        let oldest = manifest.parts().map(|part| part.epoch).min().unwrap();
        assert!(oldest + 170 >= epoch * 10);
        parent = Some(manifest);
    }
    let state = runtime
        .block_on(RestoredState::open(&storage, parent.unwrap()))
        .unwrap();
    assert_eq!(restored_map(&state, "groups", 2, &runtime).len(), 20_000);
}

#[test]
fn deltas_that_outweigh_the_base_are_replaced() {
    let runtime = runtime();
    let storage = memory();
    let all = key_groups().all();
    let based = TableWrite {
        rebased: Some(all),
        ..write(
            "groups",
            TableKind::GlobalKeyed,
            vec![rows(TableKind::GlobalKeyed, &cells(0..40_000, 1))],
        )
    };
    let mut manifest = runtime.block_on(checkpoint(&storage, 1, None, vec![snapshot(0, 1, vec![based])]));
    assert_ne!(rebase_range(Some(&manifest), Epoch(2), key_groups(), all), all);
    let mut seldom = Vec::new();
    for sequence in 0..256 {
        manifest.sequence = sequence;
        let range = rebase_range_seldom(Some(&manifest), key_groups(), all);
        seldom.extend((!range.is_empty()).then_some((range.start, range.end)));
    }
    seldom.sort_unstable();
    assert_eq!(seldom.len(), 16, "each slice once");
    assert!(seldom.windows(2).all(|pair| pair[0].1 == pair[1].0), "{seldom:?}");
    manifest.sequence = 0;
    for epoch in 2..4 {
        let delta = write(
            "groups",
            TableKind::GlobalKeyed,
            vec![rows(TableKind::GlobalKeyed, &cells(0..30_000, 2))],
        );
        manifest = runtime.block_on(checkpoint(
            &storage,
            epoch,
            Some(&manifest),
            vec![snapshot(0, 1, vec![delta])],
        ));
    }
    assert_eq!(rebase_range(Some(&manifest), Epoch(4), key_groups(), all), all);
    assert_eq!(rebase_range(None, Epoch(4), key_groups(), all), all);
}

fn offsets(subtask: u32, parallelism: u32, splits: &[(i64, i64)]) -> SubtaskSnapshot {
    let cells: Vec<_> = splits
        .iter()
        .map(|(split, offset)| (*split, Some(*offset), 0))
        .collect();
    let write = TableWrite {
        distribution: Distribution::Broadcast,
        ..write(
            "offsets",
            TableKind::GlobalKeyed,
            vec![rows(TableKind::GlobalKeyed, &cells)],
        )
    };
    snapshot(subtask, parallelism, vec![write])
}

#[test]
fn broadcast_tables_are_replaced_by_subtask_and_seen_by_all() {
    let runtime = runtime();
    let storage = memory();
    let seen = |manifest: &Manifest, parallelism: u32| {
        let state = runtime
            .block_on(RestoredState::open(&storage, manifest.clone()))
            .unwrap();
        let all: Vec<_> = (0..parallelism)
            .map(|subtask| {
                let rows = read(&state, "offsets", subtask, parallelism, &runtime);
                rows.into_iter()
                    .map(|(split, offset, _)| (split, offset.unwrap()))
                    .collect::<BTreeMap<_, _>>()
            })
            .collect();
        assert!(all.iter().all(|map| *map == all[0]));
        all[0].clone()
    };
    let three = vec![
        offsets(0, 3, &[(0, 10)]),
        offsets(1, 3, &[(1, 11)]),
        offsets(2, 3, &[(2, 12), (5, 15)]),
    ];
    let first = runtime.block_on(checkpoint(&storage, 1, None, three));
    assert_eq!(seen(&first, 2), BTreeMap::from([(0, 10), (1, 11), (2, 12), (5, 15)]));
    // One subtask speaks, the others have ended.
    let second = runtime.block_on(checkpoint(&storage, 2, Some(&first), vec![offsets(2, 3, &[(2, 22)])]));
    assert_eq!(seen(&second, 1), BTreeMap::from([(0, 10), (1, 11), (2, 22)]));
    // Rescaled to two: first one of them speaks, so all that was known stays; then both, so only they count.
    let third = runtime.block_on(checkpoint(
        &storage,
        3,
        Some(&second),
        vec![offsets(0, 2, &[(0, 30), (2, 32)])],
    ));
    assert_eq!(seen(&third, 4), BTreeMap::from([(0, 30), (1, 11), (2, 32)]));
    let both = vec![offsets(0, 2, &[(0, 40)]), offsets(1, 2, &[(1, 41)])];
    let fourth = runtime.block_on(checkpoint(&storage, 4, Some(&third), both));
    assert_eq!(seen(&fourth, 1), BTreeMap::from([(0, 40), (1, 41)]));
}

#[test]
fn silence_keeps_tables_and_subtasks() {
    let runtime = runtime();
    let storage = memory();
    let mut sink = snapshot(
        0,
        1,
        vec![write(
            "groups",
            TableKind::GlobalKeyed,
            vec![rows(TableKind::GlobalKeyed, &cells(0..5, 1))],
        )],
    );
    sink.committable = Some(Bytes::from_static(b"prepared"));
    sink.sink_position = Some("at 5".into());
    sink.watermark = Some(7);
    sink.finished = true;
    let first = runtime.block_on(checkpoint(&storage, 1, None, vec![sink]));
    let state = runtime.block_on(RestoredState::open(&storage, first.clone())).unwrap();
    let to_commit = |manifest: &Manifest| runtime.block_on(read_committables(&storage, manifest)).unwrap();
    let prepared = BTreeMap::from([(operator(), vec![Bytes::from_static(b"prepared")])]);
    assert_eq!(to_commit(&first), prepared);
    assert!(state.finished(&operator()));
    let second = runtime.block_on(checkpoint(&storage, 2, Some(&first), vec![]));
    assert!(to_commit(&second).is_empty(), "an epoch's committables are its own");
    let state = runtime.block_on(RestoredState::open(&storage, second)).unwrap();
    assert_eq!(state.sink_positions(&operator()), ["at 5"]);
    assert_eq!(state.watermark(&operator()), Some(7));
    assert!(state.finished(&operator()));
    assert_eq!(restored_map(&state, "groups", 1, &runtime).len(), 5);
    assert!(!state.finished(&OperatorId("another".into())));
}

#[test]
fn the_watermark_is_the_least_of_what_runs() {
    let runtime = runtime();
    let storage = memory();
    let with = |subtask: u32, watermark: Option<i64>, finished: bool| SubtaskSnapshot {
        watermark,
        finished,
        ..snapshot(subtask, 3, vec![])
    };
    let watermark = |snapshots: Vec<SubtaskSnapshot>, epoch: u64| {
        let manifest = runtime.block_on(checkpoint(&storage, epoch, None, snapshots));
        runtime
            .block_on(RestoredState::open(&storage, manifest))
            .unwrap()
            .watermark(&operator())
    };
    let all = |a, b, c| vec![with(0, a, false), with(1, b, false), with(2, c, true)];
    assert_eq!(watermark(all(Some(5), Some(3), Some(1)), 1), Some(3));
    assert_eq!(watermark(all(Some(5), None, Some(1)), 2), None);
    assert_eq!(
        watermark(vec![with(0, Some(1), true), with(1, Some(4), true)], 3),
        Some(4)
    );
    assert_eq!(RestoredState::fresh(key_groups()).watermark(&operator()), None);
}

/// Small checkpoints are one object, large ones a manifest and packs.
#[test]
fn small_checkpoints_are_one_object() {
    let runtime = runtime();
    let storage = memory();
    let groups = |range| {
        write(
            "groups",
            TableKind::GlobalKeyed,
            vec![rows(TableKind::GlobalKeyed, &cells(range, 1))],
        )
    };
    let first = runtime.block_on(checkpoint(
        &storage,
        1,
        None,
        vec![snapshot(0, 1, vec![groups(0..100)])],
    ));
    assert_eq!(runtime.block_on(storage.list(&directory(PIPELINE))).unwrap().len(), 1);
    let second = runtime.block_on(checkpoint(
        &storage,
        2,
        Some(&first),
        vec![snapshot(0, 1, vec![groups(0..50_000)])],
    ));
    assert_eq!(runtime.block_on(storage.list(&directory(PIPELINE))).unwrap().len(), 3);
    assert_eq!(second.packs.len(), 2, "the first manifest serves as a pack");
    let state = runtime.block_on(RestoredState::open(&storage, second)).unwrap();
    assert_eq!(restored_map(&state, "groups", 3, &runtime).len(), 50_000);
}

#[test]
fn f_20_damage_to_any_blob_is_found_before_decoding() {
    let runtime = runtime();
    let directory_on_disk = tempfile::tempdir().unwrap();
    let url = url::Url::from_file_path(directory_on_disk.path()).unwrap();
    let storage = CheckpointStorage::open(url.as_str(), &[]).unwrap();
    let groups = |range| {
        write(
            "groups",
            TableKind::GlobalKeyed,
            vec![rows(TableKind::GlobalKeyed, &cells(range, 1))],
        )
    };
    let first = runtime.block_on(checkpoint(&storage, 1, None, vec![snapshot(0, 1, vec![groups(0..20)])]));
    let second = runtime.block_on(checkpoint(
        &storage,
        2,
        Some(&first),
        vec![snapshot(0, 1, vec![groups(0..20_000)])],
    ));
    runtime.block_on(verify(&storage, &second)).unwrap();
    for part in second.parts() {
        let place = directory_on_disk.path().join(&second.packs[part.pack as usize]);
        let whole = std::fs::read(&place).unwrap();
        let (start, length) = (part.offset as usize, part.length as usize);
        let mut damages: Vec<Option<Vec<u8>>> = (0..64)
            .map(|n| {
                let mut flipped = whole.clone();
                flipped[start + n * (length - 1) / 63] ^= 1 << (n % 8);
                Some(flipped)
            })
            .collect();
        damages.extend([start, start + length / 2, start + length - 1, 0].map(|end| Some(whole[..end].to_vec())));
        damages.push(None);
        for damage in damages {
            std::fs::remove_file(&place).unwrap();
            if let Some(damage) = damage {
                std::fs::write(&place, damage).unwrap();
            }
            let error = runtime
                .block_on(RestoredState::open(&storage, second.clone()))
                .err()
                .unwrap();
            assert!(matches!(error, Error::Damaged { .. }), "{error}");
            assert!(runtime.block_on(verify(&storage, &second)).is_err());
            std::fs::write(&place, &whole).unwrap();
        }
    }
    let gone = runtime.block_on(load_manifest(&storage, "nowhere"));
    assert!(matches!(gone, Err(Error::Damaged { .. })));
}

#[test]
fn mistakes_of_operators_fail_the_checkpoint() {
    let runtime = runtime();
    let storage = memory();
    let attempt = |snapshot: SubtaskSnapshot| {
        runtime
            .block_on(write_checkpoint(&storage, PIPELINE, header(1, None), vec![snapshot]))
            .unwrap_err()
    };
    let all = rows(TableKind::GlobalKeyed, &cells(0..100, 1));
    let foreign = attempt(snapshot(
        0,
        2,
        vec![write("groups", TableKind::GlobalKeyed, vec![all.clone()])],
    ));
    assert!(foreign.to_string().contains("key group"), "{foreign}");
    let timeless = attempt(snapshot(
        0,
        1,
        vec![write("groups", TableKind::ExpiringTimeKey, vec![all.clone()])],
    ));
    assert!(timeless.to_string().contains(TIME_COLUMN), "{timeless}");
    let narrow = all.project(&[0, 1, 2]).unwrap();
    let mixed = attempt(snapshot(
        0,
        1,
        vec![write("groups", TableKind::GlobalKeyed, vec![all, narrow])],
    ));
    assert!(mixed.to_string().contains("differ"), "{mixed}");
}

#[test]
fn errors_of_the_visitor_name_the_table() {
    let runtime = runtime();
    let storage = memory();
    let groups = write(
        "groups",
        TableKind::GlobalKeyed,
        vec![rows(TableKind::GlobalKeyed, &cells(0..5, 1))],
    );
    let manifest = runtime.block_on(checkpoint(&storage, 1, None, vec![snapshot(0, 1, vec![groups])]));
    let state = runtime.block_on(RestoredState::open(&storage, manifest)).unwrap();
    let reader = state.reader(&operator(), SubtaskIndex(0), 1, runtime.handle().clone());
    let error = reader.read("groups", &mut |_| Err("does not fit".into())).unwrap_err();
    assert_eq!(error.to_string(), "could not restore table \"groups\": does not fit");
    reader.read("unknown", &mut |_| Err("never called".into())).unwrap();
}

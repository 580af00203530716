//! One suite for every metadata store.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use crate::catalog::Catalog;
use crate::catalog::change::{Change, NewObject};
use crate::catalog::error::Error;
use crate::catalog::jobs::{CheckpointKind, CheckpointRecord, Decision, InputEpoch, JobFilter, JobRecord, JobState};
use crate::catalog::objects::{Connection, Object, ObjectHeader, ObjectKind, Secret, Table, View};
use crate::catalog::secrets::SecretBox;
use crate::catalog::snapshot::QualifiedName;
use crate::catalog::store::{CatalogStore, CommitOutcome, StoreTransaction};
use crate::clock::ManualClock;
use crate::error::{ErrorReport, Report, SqlState};
use crate::ids::{Epoch, Generation, JobId, Oid, PublicIdKind, new_public_id};
use crate::options::{RawOptionValue, RawOptions};

/// Runs everything, each on a new empty store.
pub(crate) async fn run_all(mut fresh: impl AsyncFnMut() -> Arc<dyn CatalogStore>) {
    objects_come_back_as_written(fresh().await).await;
    changes_are_whole_or_nothing(fresh().await).await;
    oids_are_never_reused(fresh().await).await;
    concurrent_catalogs_do_not_lose_changes(fresh().await).await;
    secrets_are_sealed_in_the_store(fresh().await).await;
    generations_and_epochs_fence(fresh().await).await;
    decisions_are_those_of_the_commit_protocol(fresh().await).await;
    one_of_many_zombies_decides(fresh().await).await;
    epochs_that_others_continue_from_are_known(fresh().await).await;
    checkpoints_are_listed_kept_and_deleted(fresh().await).await;
    jobs_are_closed_updated_and_forgotten(fresh().await).await;
    records_of_a_pipeline_are_dropped(fresh().await).await;
    migrating_twice_changes_nothing(fresh().await).await;
}

/// A catalog with a few objects.
pub(crate) async fn write_something(store: &dyn CatalogStore) {
    let table = Arc::new(table("t", Some(1)));
    let outcome = store
        .commit(StoreTransaction {
            expected_version: store.version().await.unwrap(),
            next_oid: 16400,
            deletes: vec![],
            upserts: vec![(table, vec![Oid(2)])],
        })
        .await
        .unwrap();
    assert_eq!(outcome, CommitOutcome::Committed);
}

pub(crate) fn header(name: &str) -> ObjectHeader {
    ObjectHeader {
        oid: Oid(0),
        public_id: String::new(),
        schema: None,
        name: name.to_owned(),
        owner: "laminar".into(),
        created_at_micros: 0,
        updated_at_micros: 0,
        comment: None,
    }
}

pub(crate) fn table(name: &str, oid: Option<u32>) -> Object {
    let mut header = header(name);
    if let Some(oid) = oid {
        header.oid = Oid(oid);
        header.public_id = format!("tbl_{oid}");
        header.schema = Some("public".into());
    }
    Object::Table(Table {
        header,
        connection: None,
        columns: vec![],
        columns_inferred: true,
        primary_key: vec![],
        constraints: Vec::new(),
        watermark: None,
        options: RawOptions(vec![(
            "path".into(),
            RawOptionValue::Text("it's \"a\" \\ päth \u{1F980}\n".into()),
        )]),
        search_path: vec!["public".into()],
    })
}

pub(crate) fn view(name: &str, columns: &[(&str, &str)]) -> Object {
    Object::View(View {
        header: header(name),
        query: "SELECT 1".into(),
        column_names: vec![],
        columns: columns
            .iter()
            .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()))
            .collect(),
        search_path: vec!["public".into()],
    })
}

pub(crate) fn create(object: Object, depends_on: Vec<Oid>) -> Change {
    Change::Create {
        object: NewObject { object, depends_on },
        if_not_exists: false,
        or_replace: false,
    }
}

pub(crate) async fn open(store: &Arc<dyn CatalogStore>, secrets: &SecretBox) -> Catalog {
    let clock = Arc::new(ManualClock::at(1_700_000_000_000_000));
    Catalog::open(Arc::clone(store), secrets.clone(), clock).await.unwrap()
}

async fn objects_come_back_as_written(store: Arc<dyn CatalogStore>) {
    let secrets = SecretBox::ephemeral().unwrap();
    let catalog = open(&store, &secrets).await;
    let mut changes = catalog.changes();
    changes.mark_unchanged();
    let applied = catalog
        .apply(vec![
            create(table("t", None), vec![]),
            create(view("v", &[("a", "INT")]), vec![NewObject::created_by(0)]),
        ])
        .await
        .unwrap();
    assert_eq!(applied.created, vec![Oid(16384), Oid(16385)]);
    assert!(changes.has_changed().unwrap());
    assert_eq!(*changes.borrow_and_update(), applied.version);
    let again = open(&store, &secrets).await;
    let (before, after) = (catalog.snapshot(), again.snapshot());
    assert_eq!(before.version(), after.version());
    assert!(before.objects().eq(after.objects()));
    assert_eq!(after.objects().count(), 3);
    assert_eq!(after.dependencies(Oid(16385)), vec![Oid(16384)]);
    assert_eq!(after.dependents(Oid(16384))[0].header().name, "v");
    assert_eq!(
        after.get(Oid(16384)).unwrap().header().created_at_micros,
        1_700_000_000_000_000
    );
    let public_id = &after.get(Oid(16384)).unwrap().header().public_id;
    assert!(public_id.starts_with("tbl_"));
    assert_eq!(after.by_public_id(public_id).unwrap().oid(), Oid(16384));
    store.ping().await.unwrap();
}

async fn changes_are_whole_or_nothing(store: Arc<dyn CatalogStore>) {
    let catalog = open(&store, &SecretBox::ephemeral().unwrap()).await;
    let before = store.load().await.unwrap();
    let changes = vec![create(table("t", None), vec![]), create(view("t", &[]), vec![])];
    let error = catalog.apply(changes).await.unwrap_err();
    assert_eq!(error.code().as_str(), "42P07");
    assert_eq!(store.load().await.unwrap(), before);
    let stale = StoreTransaction {
        expected_version: before.version + 7,
        next_oid: 20000,
        deletes: vec![Oid(2200)],
        upserts: vec![(Arc::new(table("x", Some(5))), vec![])],
    };
    assert_eq!(store.commit(stale).await.unwrap(), CommitOutcome::VersionChanged);
    assert_eq!(store.load().await.unwrap(), before);
}

async fn oids_are_never_reused(store: Arc<dyn CatalogStore>) {
    let secrets = SecretBox::ephemeral().unwrap();
    for expected in 16384..16388 {
        // Opened anew each time: the next OID is the store's, not the process's.
        let catalog = open(&store, &secrets).await;
        let created = catalog
            .apply(vec![create(table("t", None), vec![])])
            .await
            .unwrap()
            .created;
        assert_eq!(created, vec![Oid(expected)]);
        let drop = Change::Drop {
            targets: vec![(ObjectKind::Table, QualifiedName::unqualified("t"))],
            if_exists: false,
            cascade: false,
        };
        let dropped = catalog.apply(vec![drop]).await.unwrap().dropped;
        assert_eq!(dropped[0].oid(), Oid(expected));
    }
}

async fn concurrent_catalogs_do_not_lose_changes(store: Arc<dyn CatalogStore>) {
    let secrets = SecretBox::ephemeral().unwrap();
    let catalogs = [open(&store, &secrets).await, open(&store, &secrets).await];
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let catalog = catalogs[number % 2].clone();
            crate::spawn::named("test change", async move {
                let created = catalog
                    .apply(vec![create(table(&format!("t{number}"), None), vec![])])
                    .await;
                created.unwrap().created[0]
            })
        })
        .collect();
    let mut oids = Vec::new();
    for task in tasks {
        oids.push(task.await.unwrap());
    }
    oids.sort_unstable();
    assert_eq!(oids, (16384..16392).map(Oid).collect::<Vec<_>>());
    // What the other process has made is found although it was never refreshed, and missing names are looked for again.
    catalogs[0]
        .apply(vec![create(table("late", None), vec![])])
        .await
        .unwrap();
    let comment = Change::Comment {
        kind: ObjectKind::Table,
        name: QualifiedName::unqualified("late"),
        comment: Some("c".into()),
    };
    catalogs[1].apply(vec![comment]).await.unwrap();
    catalogs[0].refresh().await.unwrap();
    let snapshot = catalogs[0].snapshot();
    let late = snapshot
        .find(ObjectKind::Table, &QualifiedName::new("public", "late"), &[])
        .unwrap();
    assert_eq!(late.header().comment.as_deref(), Some("c"));
    assert_eq!(snapshot.version(), store.version().await.unwrap());
}

async fn secrets_are_sealed_in_the_store(store: Arc<dyn CatalogStore>) {
    let secrets = SecretBox::ephemeral().unwrap();
    let catalog = open(&store, &secrets).await;
    let mut header = header("s");
    header.public_id = new_public_id(PublicIdKind::Secret);
    let source = catalog.seal_secret(&header.public_id, "hunter2").unwrap();
    let stolen = source.clone();
    let connection = Object::Connection(Connection {
        header: self::header("c"),
        connector: "kafka".into(),
        options: RawOptions(vec![("password".into(), RawOptionValue::Secret("s".into()))]),
        description: None,
    });
    let changes = vec![
        create(Object::Secret(Secret { header, source }), vec![]),
        create(connection, vec![]),
    ];
    let created = catalog.apply(changes).await.unwrap().created;
    let stored = store.load().await.unwrap();
    assert!(!format!("{stored:?}").contains("hunter2"));
    assert!(!serde_json::to_string(&stored.objects[1].0).unwrap().contains("hunter2"));
    // The connection needs the secret: found in its options.
    let snapshot = open(&store, &secrets).await.snapshot();
    assert_eq!(snapshot.dependencies(created[1]), vec![created[0]]);
    let options = snapshot
        .resolve_options(&RawOptions::default(), Some(created[1].0), &|_| None)
        .unwrap();
    assert_eq!(options.get("password").unwrap().text, "hunter2");
    assert!(!format!("{options:?}").contains("hunter2"));
    // A value sealed for one secret is not accepted for another.
    let other = Secret {
        header: self::header("other"),
        source: stolen,
    };
    let error = catalog
        .apply(vec![create(Object::Secret(other), vec![])])
        .await
        .unwrap_err();
    assert_eq!(error.code(), SqlState::INTERNAL_ERROR);
}

pub(crate) fn job(name: &str, pipeline: Oid) -> JobRecord {
    JobRecord {
        job: JobId(name.to_owned()),
        pipeline,
        generation: Generation(0),
        state: JobState::Created,
        desired_running: true,
        started_at_micros: 1000,
        finished_at_micros: None,
        restored_epoch: None,
        error: None,
        parallelism: 4,
    }
}

pub(crate) fn checkpoint(pipeline: Oid, epoch: u64, generation: u64) -> CheckpointRecord {
    CheckpointRecord {
        id: format!("chk_{}_{epoch}_{generation}", pipeline.0),
        pipeline,
        job: JobId(format!("job_{generation}")),
        epoch: Epoch(epoch),
        generation: Generation(generation),
        manifest_path: format!("p/{epoch}-{generation}"),
        kind: CheckpointKind::Checkpoint,
        state_rows: 10,
        bytes: 1 << 40,
        started_at: -1,
        finished_at: 2,
        committed: false,
        kept_label: None,
        final_: false,
        inputs: Vec::new(),
    }
}

const P: Oid = Oid(20000);

async fn generations_and_epochs_fence(store: Arc<dyn CatalogStore>) {
    store.migrate().await.unwrap();
    assert_eq!(store.generation(P).await.unwrap(), None);
    assert_eq!(store.decide_epoch(checkpoint(P, 1, 0)).await.unwrap(), Decision::Fenced);
    assert_eq!(
        store.begin_generation(P, job("a", P), None).await.unwrap(),
        Generation(1)
    );
    assert_eq!(
        store.decide_epoch(checkpoint(P, 5, 1)).await.unwrap(),
        Decision::Committed
    );
    // The answer was lost: asking again is no second decision and no refusal.
    assert_eq!(
        store.decide_epoch(checkpoint(P, 5, 1)).await.unwrap(),
        Decision::Committed
    );
    let mut other = checkpoint(P, 5, 1);
    other.id = "chk_other".into();
    assert_eq!(store.decide_epoch(other).await.unwrap(), Decision::Fenced);
    assert_eq!(store.decide_epoch(checkpoint(P, 4, 1)).await.unwrap(), Decision::Fenced);
    assert_eq!(
        store.begin_generation(P, job("b", P), None).await.unwrap(),
        Generation(2)
    );
    assert_eq!(store.generation(P).await.unwrap(), Some(Generation(2)));
    // The answer was lost: asking again begins nothing.
    assert_eq!(
        store.begin_generation(P, job("b", P), None).await.unwrap(),
        Generation(2)
    );
    // The first run had an error and would go on.
    let replaced = store.begin_generation(P, job("a2", P), Some(Generation(1))).await;
    assert!(matches!(replaced, Err(Error::Replaced)), "{replaced:?}");
    assert_eq!(store.generation(P).await.unwrap(), Some(Generation(2)));
    assert_eq!(store.jobs(JobFilter::default()).await.unwrap().len(), 2);
    assert_eq!(store.decide_epoch(checkpoint(P, 6, 1)).await.unwrap(), Decision::Fenced);
    assert_eq!(store.decide_epoch(checkpoint(P, 6, 3)).await.unwrap(), Decision::Fenced);
    assert_eq!(store.decide_epoch(checkpoint(P, 5, 2)).await.unwrap(), Decision::Fenced);
    assert_eq!(
        store.decide_epoch(checkpoint(P, 6, 2)).await.unwrap(),
        Decision::Committed
    );
    let epochs: Vec<_> = store
        .latest_checkpoints(P, 9)
        .await
        .unwrap()
        .iter()
        .map(|c| (c.epoch.0, c.generation.0))
        .collect();
    assert_eq!(epochs, [(6, 2), (5, 1)]);
    let going_on = store.begin_generation(P, job("b2", P), Some(Generation(2))).await;
    assert_eq!(going_on.unwrap(), Generation(3));
    // Another pipeline has a fence of its own.
    let other = Oid(20001);
    assert_eq!(
        store.begin_generation(other, job("c", other), None).await.unwrap(),
        Generation(1)
    );
    assert_eq!(
        store.decide_epoch(checkpoint(other, 1, 1)).await.unwrap(),
        Decision::Committed
    );
}

async fn one_of_many_zombies_decides(store: Arc<dyn CatalogStore>) {
    store.migrate().await.unwrap();
    let tasks: Vec<_> = (0..8)
        .map(|number| {
            let store = Arc::clone(&store);
            crate::spawn::named("test run", async move {
                let generation = store
                    .begin_generation(P, job(&format!("j{number}"), P), None)
                    .await
                    .unwrap();
                let mut decided = Vec::new();
                for epoch in 1..20 {
                    if store.decide_epoch(checkpoint(P, epoch, generation.0)).await.unwrap() == Decision::Committed {
                        decided.push((epoch, generation.0));
                    }
                }
                (generation, decided)
            })
        })
        .collect();
    let mut generations = Vec::new();
    let mut decided = Vec::new();
    for task in tasks {
        let (generation, epochs) = task.await.unwrap();
        generations.push(generation.0);
        decided.extend(epochs);
    }
    generations.sort_unstable();
    assert_eq!(generations, (1..=8).collect::<Vec<_>>());
    // Each epoch was decided once, later epochs never by older generations, and the store agrees.
    decided.sort_unstable();
    assert!(
        decided
            .windows(2)
            .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
    );
    let mut stored: Vec<_> = store
        .latest_checkpoints(P, 100)
        .await
        .unwrap()
        .iter()
        .map(|c| (c.epoch.0, c.generation.0))
        .collect();
    stored.reverse();
    assert_eq!(stored, decided);
    assert_eq!(stored.last().unwrap().0, 19);
}

/// The conditional update of a store is the pure function whose protocol was checked exhaustively.
async fn decisions_are_those_of_the_commit_protocol(store: Arc<dyn CatalogStore>) {
    use crate::state::commit::{PipelineRow, Verdict, verdict};
    store.migrate().await.unwrap();
    let mut pipeline = P;
    for (generation, newest) in [
        (1, None),
        (2, None),
        (2, Some((2, 1))),
        (2, Some((2, 2))),
        (1, Some((2, 1))),
    ] {
        for (mine, epoch) in (0..4).flat_map(|mine| (1..4).map(move |epoch| (mine, epoch))) {
            pipeline = Oid(pipeline.0 + 1);
            for begun in 1..=generation {
                let name = format!("{pipeline}_{begun}");
                store
                    .begin_generation(pipeline, job(&name, pipeline), None)
                    .await
                    .unwrap();
                if let Some((decided, by)) = newest
                    && by == begun
                {
                    store.decide_epoch(checkpoint(pipeline, decided, by)).await.unwrap();
                }
            }
            let row = PipelineRow {
                generation: Generation(generation),
                newest: newest.map(|(epoch, by)| (Epoch(epoch), Generation(by))),
            };
            let expected = match verdict(row, Generation(mine), Epoch(epoch)) {
                Verdict::Decide | Verdict::AlreadyDecided => Decision::Committed,
                Verdict::Fenced => Decision::Fenced,
            };
            let decision = store.decide_epoch(checkpoint(pipeline, epoch, mine)).await.unwrap();
            assert_eq!(decision, expected, "{row:?}, run {mine}, epoch {epoch}");
        }
    }
}

async fn epochs_that_others_continue_from_are_known(store: Arc<dyn CatalogStore>) {
    store.migrate().await.unwrap();
    let (reader, other) = (Oid(20002), Oid(20003));
    store.begin_generation(reader, job("r", reader), None).await.unwrap();
    for epoch in 1..=3 {
        let mut record = checkpoint(reader, epoch, 1);
        let of = |pipeline, epoch| InputEpoch {
            pipeline,
            epoch: Epoch(epoch),
        };
        record.inputs = vec![of(P, 10 * epoch), of(other, 5)];
        assert_eq!(store.decide_epoch(record.clone()).await.unwrap(), Decision::Committed);
        assert_eq!(store.latest_checkpoints(reader, 1).await.unwrap(), [record]);
    }
    store.delete_checkpoints(reader, &[Epoch(2)]).await.unwrap();
    let mut needed = store.epochs_needed_of(P).await.unwrap();
    needed.sort_unstable();
    assert_eq!(needed, [Epoch(10), Epoch(30)]);
    store.drop_pipeline_records(reader).await.unwrap();
    assert!(store.epochs_needed_of(P).await.unwrap().is_empty());
}

async fn checkpoints_are_listed_kept_and_deleted(store: Arc<dyn CatalogStore>) {
    store.migrate().await.unwrap();
    store.begin_generation(P, job("a", P), None).await.unwrap();
    for epoch in 1..=4 {
        let mut record = checkpoint(P, epoch, 1);
        record.kind = CheckpointKind::Stop;
        record.final_ = epoch == 4;
        record.kept_label = (epoch == 2).then(|| "label".to_owned());
        assert_eq!(store.decide_epoch(record).await.unwrap(), Decision::Committed);
    }
    store.mark_committed(P, Epoch(3)).await.unwrap();
    let mut expected = checkpoint(P, 4, 1);
    expected.kind = CheckpointKind::Stop;
    expected.final_ = true;
    let latest = store.latest_checkpoints(P, 2).await.unwrap();
    assert_eq!(latest[0], expected);
    assert_eq!(latest.iter().map(|c| c.committed).collect::<Vec<_>>(), [false, true]);
    assert_eq!(
        store.label_checkpoint(P, Epoch(3), Some("x".into())).await.unwrap(),
        Decision::Committed
    );
    assert_eq!(
        store.label_checkpoint(P, Epoch(2), None).await.unwrap(),
        Decision::Committed
    );
    assert_eq!(
        store.label_checkpoint(P, Epoch(9), None).await.unwrap(),
        Decision::Fenced
    );
    store
        .delete_checkpoints(P, &[Epoch(1), Epoch(4), Epoch(77)])
        .await
        .unwrap();
    let left: Vec<_> = store
        .latest_checkpoints(P, 100)
        .await
        .unwrap()
        .into_iter()
        .map(|c| (c.epoch.0, c.kept_label))
        .collect();
    assert_eq!(left, [(3, Some("x".to_owned())), (2, None)]);
    // Deleting forgets the record, not the fence.
    assert_eq!(store.decide_epoch(checkpoint(P, 4, 1)).await.unwrap(), Decision::Fenced);
}

async fn jobs_are_closed_updated_and_forgotten(store: Arc<dyn CatalogStore>) {
    store.migrate().await.unwrap();
    let mut first = job("a", P);
    first.generation = store.begin_generation(P, first.clone(), None).await.unwrap();
    first.state = JobState::Running;
    first.restored_epoch = Some(Epoch(3));
    assert_eq!(store.update_job(first.clone()).await.unwrap(), Decision::Committed);
    assert_eq!(store.jobs(JobFilter::default()).await.unwrap(), vec![first.clone()]);
    let mut second = job("b", P);
    second.started_at_micros = 2000;
    second.generation = store.begin_generation(P, second.clone(), None).await.unwrap();
    // The first ended without saying so, and may no longer say anything.
    assert_eq!(store.update_job(first.clone()).await.unwrap(), Decision::Fenced);
    let jobs = store.jobs(JobFilter::default()).await.unwrap();
    assert_eq!(
        jobs.iter().map(|job| job.job.0.as_str()).collect::<Vec<_>>(),
        ["b", "a"]
    );
    assert_eq!(
        (jobs[1].state, jobs[1].finished_at_micros),
        (JobState::Failed, Some(2000))
    );
    assert_eq!(jobs[1].error.as_ref().unwrap().code, SqlState::CRASH_SHUTDOWN);
    second.state = JobState::Failed;
    second.finished_at_micros = Some(3000);
    second.error = Some(ErrorReport::new(SqlState::DISK_FULL, "no 'space'").with_hint("Free some."));
    assert_eq!(store.update_job(second.clone()).await.unwrap(), Decision::Committed);
    let other = Oid(20001);
    store.begin_generation(other, job("c", other), None).await.unwrap();
    let newest = JobFilter {
        pipeline: Some(P),
        latest_only: true,
    };
    assert_eq!(store.jobs(newest).await.unwrap(), vec![second]);
    let latest_only = JobFilter {
        pipeline: None,
        latest_only: true,
    };
    assert_eq!(store.jobs(latest_only).await.unwrap().len(), 2);
    // A job's name cannot be used twice.
    assert!(store.begin_generation(P, job("a", P), None).await.is_err());
    assert_eq!(store.generation(P).await.unwrap(), Some(Generation(2)));
    for number in 0..110 {
        store
            .begin_generation(P, job(&format!("many{number}"), P), None)
            .await
            .unwrap();
    }
    let kept = JobFilter {
        pipeline: Some(P),
        latest_only: false,
    };
    let kept = store.jobs(kept).await.unwrap();
    assert_eq!(kept.len(), 100);
    assert_eq!(
        (kept[0].generation, kept[99].generation),
        (Generation(112), Generation(13))
    );
}

async fn records_of_a_pipeline_are_dropped(store: Arc<dyn CatalogStore>) {
    store.migrate().await.unwrap();
    let other = Oid(20001);
    for pipeline in [P, other] {
        store
            .begin_generation(pipeline, job(&format!("j{pipeline}"), pipeline), None)
            .await
            .unwrap();
        store.decide_epoch(checkpoint(pipeline, 1, 1)).await.unwrap();
    }
    assert_eq!(store.pipelines_with_records().await.unwrap(), vec![P, other]);
    store.drop_pipeline_records(P).await.unwrap();
    assert_eq!(store.pipelines_with_records().await.unwrap(), vec![other]);
    assert_eq!(store.latest_checkpoints(P, 9).await.unwrap(), vec![]);
    assert_eq!(store.jobs(JobFilter::default()).await.unwrap().len(), 1);
    assert_eq!(store.decide_epoch(checkpoint(P, 2, 1)).await.unwrap(), Decision::Fenced);
    assert_eq!(store.latest_checkpoints(other, 9).await.unwrap().len(), 1);
}

async fn migrating_twice_changes_nothing(store: Arc<dyn CatalogStore>) {
    store.migrate().await.unwrap();
    write_something(store.as_ref()).await;
    let before = store.load().await.unwrap();
    store.migrate().await.unwrap();
    assert_eq!(store.load().await.unwrap(), before);
    assert_eq!(before.objects[0].1, vec![Oid(2)]);
}

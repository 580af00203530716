//! What changes do to a snapshot, and their errors.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::catalog::change::{Change, PipelineReplacement, Plan, describe, plan};
use crate::catalog::error::Error;
use crate::catalog::objects::{Column, ColumnKind, Object, ObjectKind, Pipeline, Schema};
use crate::catalog::secrets::SecretBox;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::catalog::store_tests::{create, header, table, view};
use crate::error::Report;
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions};

fn empty() -> CatalogSnapshot {
    let mut public = header("public");
    public.oid = Oid(2200);
    public.public_id = "schema_public".into();
    let secrets = SecretBox::ephemeral().unwrap();
    CatalogSnapshot::new(1, 16384, [(Object::Schema(Schema { header: public }), vec![])], secrets)
}

fn after(base: &CatalogSnapshot, changes: Vec<Change>) -> Plan {
    plan(base, &changes, 5).unwrap()
}

fn refused(base: &CatalogSnapshot, change: Change) -> Error {
    plan(base, &[change], 5).unwrap_err()
}

fn schema(name: &str) -> Object {
    Object::Schema(Schema { header: header(name) })
}

fn pipeline(name: &str, columns: &[(&str, &str)]) -> Object {
    Object::Pipeline(Pipeline {
        header: header(name),
        query: "SELECT 1".into(),
        options: RawOptions::default(),
        columns: columns
            .iter()
            .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()))
            .collect(),
        unique_key: vec![],
        append_only: false,
        bounded: false,
        materialized_view: false,
        desired_running: false,
        key_groups: 1024,
        search_path: vec![],
        counts_after: Default::default(),
    })
}

fn in_schema(mut object: Object, schema: &str) -> Object {
    object.header_mut().schema = Some(schema.to_owned());
    object
}

fn drop(kind: ObjectKind, name: &str, if_exists: bool, cascade: bool) -> Change {
    let name = match name.split_once('.') {
        Some((schema, name)) => QualifiedName::new(schema, name),
        None => QualifiedName::unqualified(name),
    };
    Change::Drop {
        targets: vec![(kind, name)],
        if_exists,
        cascade,
    }
}

fn create_as(object: Object, if_not_exists: bool, or_replace: bool) -> Change {
    match create(object, vec![]) {
        Change::Create { object, .. } => Change::Create {
            object,
            if_not_exists,
            or_replace,
        },
        _ => unreachable!(),
    }
}

#[test]
fn relations_share_one_namespace() {
    let base = after(&empty(), vec![create(table("t", None), vec![])]).snapshot;
    for other in [table("t", None), view("t", &[]), pipeline("t", &[])] {
        let error = refused(&base, create(other.clone(), vec![]));
        assert_eq!(error.code().as_str(), "42P07");
        assert_eq!(error.to_string(), "relation \"t\" already exists");
        let plan = after(&base, vec![create_as(other, true, false)]);
        assert_eq!(plan.applied.skipped, ["relation \"t\" already exists, skipping"]);
        assert!(plan.transaction.is_none());
        assert_eq!(plan.snapshot.version(), base.version());
    }
    let other_schema = vec![
        create(schema("s"), vec![]),
        create(in_schema(table("t", None), "s"), vec![]),
    ];
    assert_eq!(after(&base, other_schema).applied.created.len(), 2);
    assert_eq!(
        refused(&base, create(schema("public"), vec![])).code().as_str(),
        "42P06"
    );
    assert_eq!(refused(&base, create(schema("pg_x"), vec![])).code().as_str(), "42602");
    assert_eq!(
        refused(&base, create(in_schema(table("x", None), "nope"), vec![]))
            .code()
            .as_str(),
        "3F000"
    );
    assert_eq!(
        refused(&base, create(in_schema(table("x", None), "pg_catalog"), vec![]))
            .code()
            .as_str(),
        "42501"
    );
}

#[test]
fn missing_objects_get_the_nearest_name() {
    let base = after(&empty(), vec![create(table("orders", None), vec![])]).snapshot;
    let error = refused(&base, drop(ObjectKind::Table, "ordesr", false, false));
    assert_eq!(error.code().as_str(), "42P01");
    assert_eq!(error.to_string(), "table \"ordesr\" does not exist");
    assert_eq!(error.hint().unwrap(), "Perhaps you meant \"orders\".");
    let error = refused(&base, drop(ObjectKind::Connection, "c", false, false));
    assert_eq!(error.code().as_str(), "42704");
    let error = refused(&base, drop(ObjectKind::View, "orders", false, false));
    assert_eq!(
        (error.code().as_str(), error.to_string().as_str()),
        ("42809", "\"orders\" is not a view")
    );
    let plan = after(
        &base,
        vec![
            drop(ObjectKind::View, "x", true, false),
            drop(ObjectKind::Table, "s.x", true, false),
        ],
    );
    assert_eq!(
        plan.applied.skipped,
        [
            "view \"x\" does not exist, skipping",
            "schema \"s\" does not exist, skipping"
        ]
    );
    assert_eq!(
        refused(&base, create(view("v", &[]), vec![Oid(999_999)]))
            .code()
            .as_str(),
        "42704"
    );
    assert!(plan_fails_on_later_placeholder(&base));
}

fn plan_fails_on_later_placeholder(base: &CatalogSnapshot) -> bool {
    use crate::catalog::change::NewObject;
    let changes = [
        create(view("v", &[]), vec![NewObject::created_by(1)]),
        create(table("t", None), vec![]),
    ];
    plan(base, &changes, 5).is_err()
}

/// t <- v <- w, and p on v.
fn family() -> (CatalogSnapshot, [Oid; 4]) {
    let t = after(&empty(), vec![create(table("t", None), vec![])]);
    let v = after(
        &t.snapshot,
        vec![create(view("v", &[("a", "INT")]), vec![t.applied.created[0]])],
    );
    let rest = after(
        &v.snapshot,
        vec![
            create(view("w", &[]), vec![v.applied.created[0]]),
            create(pipeline("p", &[("a", "INT")]), vec![v.applied.created[0]]),
        ],
    );
    let oids = [
        t.applied.created[0],
        v.applied.created[0],
        rest.applied.created[0],
        rest.applied.created[1],
    ];
    (rest.snapshot, oids)
}

#[test]
fn restrict_lists_dependents_and_cascade_takes_them() {
    let (base, oids) = family();
    let error = refused(&base, drop(ObjectKind::Table, "t", false, false));
    assert_eq!(error.code().as_str(), "2BP01");
    assert_eq!(
        error.to_string(),
        "cannot drop table t because other objects depend on it"
    );
    assert_eq!(
        error.detail().unwrap(),
        "view v depends on table t\nview w depends on view v\npipeline p depends on view v"
    );
    assert_eq!(
        error.hint().unwrap(),
        "Use DROP ... CASCADE to drop the dependent objects too."
    );
    let plan = after(&base, vec![drop(ObjectKind::Table, "t", false, true)]);
    assert_eq!(plan.applied.cascaded, ["view v", "view w", "pipeline p"]);
    assert_eq!(
        plan.applied.dropped.iter().map(Object::oid).collect::<Vec<_>>(),
        [oids[3], oids[2], oids[1], oids[0]]
    );
    assert_eq!(
        plan.applied.cascade_notice().unwrap().message,
        "drop cascades to 3 other objects"
    );
    let transaction = plan.transaction.unwrap();
    assert_eq!(transaction.deletes, oids);
    assert!(transaction.upserts.is_empty());
    assert_eq!(transaction.next_oid, 16388);
    assert_eq!(plan.snapshot.objects().count(), 1);
    // All dependents named in the same statement: no CASCADE needed.
    let names = ["t", "v", "w"].map(QualifiedName::unqualified);
    let kinds = [ObjectKind::Table, ObjectKind::View, ObjectKind::View];
    let mut targets: Vec<_> = kinds.into_iter().zip(names).collect();
    let all = |targets: &[(ObjectKind, QualifiedName)]| Change::Drop {
        targets: targets.to_vec(),
        if_exists: false,
        cascade: false,
    };
    assert_eq!(
        refused(&base, all(&targets)).detail().unwrap(),
        "pipeline p depends on view v"
    );
    targets.push((ObjectKind::Pipeline, QualifiedName::unqualified("p")));
    assert!(plan_of(&base, all(&targets)).applied.cascaded.is_empty());
}

fn plan_of(base: &CatalogSnapshot, change: Change) -> Plan {
    after(base, vec![change])
}

#[test]
fn schemas_hold_their_objects() {
    let objects = vec![
        create(schema("s"), vec![]),
        create(in_schema(table("t", None), "s"), vec![]),
    ];
    let base = after(&empty(), objects).snapshot;
    let error = refused(&base, drop(ObjectKind::Schema, "s", false, false));
    assert_eq!(error.detail().unwrap(), "table s.t depends on schema s");
    let plan = after(&base, vec![drop(ObjectKind::Schema, "s", false, true)]);
    assert_eq!(
        plan.applied.cascade_notice().unwrap().message,
        "drop cascades to table s.t"
    );
    assert_eq!(
        refused(&base, drop(ObjectKind::Schema, "pg_catalog", true, true))
            .code()
            .as_str(),
        "42501"
    );
    let rename = Change::Rename {
        kind: ObjectKind::Schema,
        name: QualifiedName::unqualified("s"),
        new_name: "s2".into(),
    };
    assert_eq!(refused(&base, rename).code().as_str(), "2BP01");
}

#[test]
fn views_are_replaced_in_place() {
    let (base, oids) = family();
    let plan = after(
        &base,
        vec![create_as(view("v", &[("a", "int"), ("b", "TEXT")]), false, true)],
    );
    assert_eq!(plan.applied.created, [oids[1]]);
    let replaced = plan.snapshot.get(oids[1]).unwrap();
    assert_eq!(
        replaced.header().public_id,
        base.get(oids[1]).unwrap().header().public_id
    );
    assert_eq!(plan.snapshot.dependencies(oids[1]), vec![]);
    assert_eq!(plan.snapshot.dependents(oids[1]).len(), 2);
    let messages = [
        (vec![], "cannot drop columns from view"),
        (vec![("b", "INT")], "cannot change name of view column \"a\" to \"b\""),
        (
            vec![("a", "TEXT")],
            "cannot change data type of view column \"a\" from int to text",
        ),
    ];
    for (columns, message) in messages {
        let error = refused(&base, create_as(view("v", &columns), false, true));
        assert_eq!((error.code().as_str(), error.to_string().as_str()), ("42P16", message));
    }
    let error = refused(&base, create_as(view("t", &[]), false, true));
    assert_eq!(
        (error.code().as_str(), error.to_string().as_str()),
        ("42809", "\"t\" is not a view")
    );
    assert_eq!(
        refused(&base, create_as(table("t", None), false, true)).code().as_str(),
        "0A000"
    );
    // v on w would close a circle.
    let Change::Create { mut object, .. } = create_as(view("v", &[("a", "INT")]), false, true) else {
        unreachable!()
    };
    object.depends_on = vec![oids[2]];
    let circle = Change::Create {
        object,
        if_not_exists: false,
        or_replace: true,
    };
    assert_eq!(refused(&base, circle).code().as_str(), "42P17");
    let plan = after(&base, vec![create_as(pipeline("p", &[("z", "TEXT")]), false, true)]);
    assert_eq!(plan.applied.created, [oids[3]]);
}

#[test]
fn a_replaced_pipeline_keeps_what_reads_it_right() {
    let base = after(&empty(), vec![create(pipeline("p", &[("a", "INT")]), vec![])]);
    let p = base.applied.created[0];
    let base = after(&base.snapshot, vec![create(view("v", &[("a", "INT")]), vec![p])]);
    let v = base.applied.created[0];
    let base = after(&base.snapshot, vec![create(pipeline("q", &[("a", "INT")]), vec![v])]).snapshot;
    let replaced = |columns: &[(&str, &str)], keeps_result: bool, seen_at_micros: i64| {
        let Object::Pipeline(mut new) = pipeline("p", columns) else {
            unreachable!()
        };
        new.header.oid = p;
        new.header.owner = "somebody else".into();
        new.key_groups = 64;
        Change::ReplacePipeline(Box::new(PipelineReplacement {
            pipeline: new,
            depends_on: vec![],
            seen_at_micros,
            keeps_result,
        }))
    };
    // `after` makes everything at 5.
    let error = refused(&base, replaced(&[("a", "INT")], false, 5));
    assert_eq!(error.code().as_str(), "2BP01");
    assert_eq!(
        error.detail().unwrap(),
        "pipeline q continues from the result of pipeline p"
    );
    assert_eq!(
        refused(&base, replaced(&[("a", "INT")], true, 4)).code().as_str(),
        "40001"
    );
    assert_eq!(
        refused(&base, replaced(&[("b", "INT")], true, 5)).code().as_str(),
        "42P16"
    );
    let plan = after(&base, vec![replaced(&[("a", "INT"), ("b", "INT")], true, 5)]);
    let Some(Object::Pipeline(new)) = plan.snapshot.get(p) else {
        unreachable!()
    };
    assert_eq!((new.columns.len(), new.key_groups), (2, 1024));
    assert_ne!(new.header.owner, "somebody else");
}

#[test]
fn renames_are_refused_when_texts_hold_the_name() {
    let (base, oids) = family();
    let rename = |kind, name: &str, new_name: &str| Change::Rename {
        kind,
        name: QualifiedName::unqualified(name),
        new_name: new_name.to_owned(),
    };
    let error = refused(&base, rename(ObjectKind::Table, "t", "t2"));
    assert_eq!(
        error.to_string(),
        "cannot rename table t because other objects depend on it"
    );
    assert_eq!(
        refused(&base, rename(ObjectKind::Pipeline, "p", "t")).code().as_str(),
        "42P07"
    );
    let plan = after(&base, vec![rename(ObjectKind::Pipeline, "p", "p2")]);
    assert_eq!(plan.snapshot.get(oids[3]).unwrap().header().name, "p2");
    assert!(
        plan.snapshot
            .find(ObjectKind::Pipeline, &QualifiedName::new("public", "p"), &[])
            .is_none()
    );
    assert_eq!(plan.snapshot.dependencies(oids[3]), vec![oids[1]]);
    // Swapping through a third name is one transaction.
    let swap = [("p", "x"), ("w", "p"), ("x", "w")];
    let kinds = [ObjectKind::Pipeline, ObjectKind::View, ObjectKind::Pipeline];
    let changes = swap
        .into_iter()
        .zip(kinds)
        .map(|((from, to), kind)| rename(kind, from, to))
        .collect();
    let plan = after(&base, changes);
    assert_eq!(plan.snapshot.get(oids[3]).unwrap().header().name, "w");
    assert_eq!(plan.transaction.unwrap().upserts.len(), 2);
}

#[test]
fn options_comments_owners_and_running() {
    let (base, oids) = family();
    let text = |text: &str| RawOptionValue::Text(text.to_owned());
    let name = || QualifiedName::unqualified("p");
    let kind = ObjectKind::Pipeline;
    let set = |options: &[(&str, &str)], reset: &[&str]| Change::SetOptions {
        kind,
        name: name(),
        set: RawOptions(options.iter().map(|(n, v)| ((*n).to_owned(), text(v))).collect()),
        reset: reset.iter().map(|name| (*name).to_owned()).collect(),
    };
    let changes = vec![
        set(&[("parallelism", "4"), ("stateTtl", "1 day")], &[]),
        set(&[("Parallelism", "8")], &["state_ttl", "nothing"]),
        Change::SetDesiredRunning {
            pipeline: oids[3],
            running: true,
        },
        Change::SetOwner {
            kind,
            name: name(),
            owner: "r".into(),
        },
        Change::Comment {
            kind,
            name: name(),
            comment: Some("hello".into()),
        },
    ];
    let plan = after(&base, changes);
    let Some(Object::Pipeline(pipeline)) = plan.snapshot.get(oids[3]) else {
        unreachable!()
    };
    assert_eq!(pipeline.options.0, [("parallelism".to_owned(), text("8"))]);
    assert_eq!((pipeline.desired_running, pipeline.header.owner.as_str()), (true, "r"));
    assert_eq!(
        (pipeline.header.comment.as_deref(), pipeline.header.updated_at_micros),
        (Some("hello"), 5)
    );
    assert_eq!(plan.transaction.unwrap().upserts.len(), 1);
    let columns = vec![Column {
        name: "a".into(),
        sql_type: "INT".into(),
        not_null: false,
        default: None,
        kind: ColumnKind::Physical,
    }];
    let set_columns = |table| Change::SetColumns {
        table,
        columns: columns.clone(),
    };
    let plan = after(&base, vec![set_columns(oids[0])]);
    let Some(Object::Table(table)) = plan.snapshot.get(oids[0]) else {
        unreachable!()
    };
    assert_eq!(table.columns, columns);
    assert_eq!(refused(&base, set_columns(oids[1])).code().as_str(), "42704");
    let on_view = Change::SetOptions {
        kind: ObjectKind::View,
        name: QualifiedName::unqualified("v"),
        set: RawOptions::default(),
        reset: vec![],
    };
    assert_eq!(refused(&base, on_view).code().as_str(), "42809");
    let unknown_secret = Change::SetOptions {
        kind,
        name: name(),
        set: RawOptions(vec![("password".into(), RawOptionValue::Secret("nope".into()))]),
        reset: vec![],
    };
    assert_eq!(
        refused(&base, unknown_secret).to_string(),
        "secret \"nope\" does not exist"
    );
}

#[derive(Clone, Debug)]
enum Step {
    Create(u8, Vec<u8>),
    Drop(u8, bool),
    Replace(u8, Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    let names = proptest::collection::vec(0u8..8, 0..3);
    prop_oneof![
        (0u8..8, names.clone()).prop_map(|(name, on)| Step::Create(name, on)),
        (0u8..8, any::<bool>()).prop_map(|(name, cascade)| Step::Drop(name, cascade)),
        (0u8..8, names).prop_map(|(name, on)| Step::Replace(name, on)),
    ]
}

/// A naive model: names with the names they depend on.
type Model = BTreeMap<u8, BTreeSet<u8>>;

fn closure(model: &Model, name: u8) -> BTreeSet<u8> {
    let mut reached = BTreeSet::from([name]);
    loop {
        let more: BTreeSet<u8> = model
            .iter()
            .filter(|(_, on)| !on.is_disjoint(&reached))
            .map(|(name, _)| *name)
            .collect();
        let before = reached.len();
        reached.extend(more);
        if reached.len() == before {
            return reached;
        }
    }
}

fn expected(model: &mut Model, step: &Step) -> bool {
    match step {
        Step::Create(name, on) => {
            let valid = !model.contains_key(name) && on.iter().all(|other| model.contains_key(other));
            if valid {
                model.insert(*name, on.iter().copied().collect());
            }
            valid
        }
        Step::Drop(name, cascade) => {
            let gone = closure(model, *name);
            let valid = model.contains_key(name) && (*cascade || gone.len() == 1);
            if valid {
                model.retain(|name, _| !gone.contains(name));
            }
            valid
        }
        Step::Replace(name, on) => {
            let circle = model.contains_key(name) && on.iter().any(|other| closure(model, *name).contains(other));
            let valid = on.iter().all(|other| model.contains_key(other)) && !circle;
            if valid {
                model.insert(*name, on.iter().copied().collect());
            }
            valid
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 1..40)) {
        let mut snapshot = empty();
        let mut model = Model::new();
        let mut highest = Oid(0);
        for step in steps {
            let oid_of = |name: &u8| {
                snapshot
                    .find(ObjectKind::View, &QualifiedName::new("public", format!("v{name}")), &[])
                    .map_or(Oid(4_000_000_000), Object::oid)
            };
            let change = match &step {
                Step::Create(name, on) => create(view(&format!("v{name}"), &[]), on.iter().map(oid_of).collect()),
                Step::Drop(name, cascade) => drop(ObjectKind::View, &format!("v{name}"), false, *cascade),
                Step::Replace(name, on) => {
                    let change = create(view(&format!("v{name}"), &[]), on.iter().map(oid_of).collect());
                    let Change::Create { object, .. } = change else { unreachable!() };
                    Change::Create { object, if_not_exists: false, or_replace: true }
                }
            };
            let outcome = plan(&snapshot, &[change], 0);
            prop_assert_eq!(outcome.is_ok(), expected(&mut model, &step), "{:?}", step);
            if let Ok(plan) = outcome {
                for oid in plan.applied.created.iter().filter(|oid| snapshot.get(**oid).is_none()) {
                    prop_assert!(*oid > highest);
                    highest = *oid;
                }
                snapshot = plan.snapshot;
            }
            let got: BTreeMap<String, BTreeSet<String>> = snapshot
                .views()
                .map(|view| {
                    let on = snapshot.dependencies(view.header.oid);
                    let on = on.iter().map(|oid| describe(snapshot.get(*oid).unwrap())).collect();
                    (format!("view {}", view.header.name), on)
                })
                .collect();
            let name = |name: &u8| format!("view v{name}");
            let want = model.iter().map(|(view, on)| (name(view), on.iter().map(name).collect())).collect();
            prop_assert_eq!(got, want);
        }
    }
}

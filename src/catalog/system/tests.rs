//! System views over a catalog with one object of each kind.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int16Type, UInt32Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::*;
use crate::catalog::change::{Change, plan};
use crate::catalog::jobs::{JobRecord, JobState};
use crate::catalog::objects::{
    Column, ColumnKind, Connection, Object, ObjectKind, Pipeline, Schema, Secret, SecretSource, Table,
    WatermarkDefinition,
};
use crate::catalog::secrets::SecretBox;
use crate::catalog::snapshot::QualifiedName;
use crate::catalog::store_tests::{checkpoint, create, header, job, view};
use crate::error::{ErrorReport, SqlState};
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions};

const T: u32 = 16384;
const V: u32 = 16385;
const M: u32 = 16386;
const SINK_ONLY: u32 = 16387;

fn column(name: &str, sql_type: &str) -> Column {
    Column {
        name: name.into(),
        sql_type: sql_type.into(),
        not_null: false,
        default: None,
        kind: ColumnKind::Physical,
    }
}

fn pipeline(name: &str, columns: &[(&str, &str)]) -> Object {
    Object::Pipeline(Pipeline {
        header: header(name),
        query: "SELECT k, count(*) AS n FROM t GROUP BY k;".into(),
        options: RawOptions(vec![("parallelism".into(), RawOptionValue::Text("3".into()))]),
        columns: columns
            .iter()
            .map(|(n, t)| ((*n).to_owned(), (*t).to_owned()))
            .collect(),
        unique_key: columns.iter().take(1).map(|(name, _)| (*name).to_owned()).collect(),
        append_only: false,
        bounded: false,
        materialized_view: false,
        desired_running: true,
        key_groups: 1024,
        search_path: vec![],
        counts_after: Default::default(),
    })
}

fn table() -> Object {
    let mut with_default = column("name", "VARCHAR(20)");
    with_default.default = Some("'x'".into());
    with_default.not_null = true;
    let mut generated = column("g", "INT");
    generated.kind = ColumnKind::Generated {
        expression: "k + 1".into(),
        stored: true,
    };
    let columns = vec![
        column("k", "BIGINT"),
        with_default,
        column("amount", "NUMERIC(10,2)"),
        column("tags", "TEXT[]"),
        generated,
    ];
    Object::Table(Table {
        header: header("t"),
        connection: None,
        columns,
        columns_inferred: false,
        primary_key: vec!["k".into()],
        constraints: Vec::new(),
        watermark: Some(WatermarkDefinition {
            column: "ts".into(),
            expression: None,
        }),
        options: RawOptions(vec![
            ("connector".into(), RawOptionValue::Text("single_file".into())),
            ("password".into(), RawOptionValue::Secret("s".into())),
        ]),
        search_path: vec![],
    })
}

fn snapshot() -> CatalogSnapshot {
    let secrets = SecretBox::ephemeral().unwrap();
    let mut public = header("public");
    public.oid = Oid(2200);
    public.public_id = "schema_public".into();
    let mut secret = header("s");
    secret.oid = Oid(16000);
    secret.public_id = "secret_s".into();
    secret.schema = Some("public".into());
    let source = SecretSource::Sealed(secrets.seal("secret_s", "hunter2").unwrap());
    let base = CatalogSnapshot::new(
        1,
        16384,
        [
            (Object::Schema(Schema { header: public }), vec![]),
            (Object::Secret(Secret { header: secret, source }), vec![]),
        ],
        secrets,
    );
    let connection = Object::Connection(Connection {
        header: header("c"),
        connector: "kafka".into(),
        options: RawOptions(vec![("password".into(), RawOptionValue::Secret("s".into()))]),
        description: None,
    });
    let mut other_owner = view("v2", &[("a", "INT")]);
    other_owner.header_mut().owner = "somebody".into();
    let changes = vec![
        create(table(), vec![]),
        create(view("v", &[("k", "BIGINT"), ("name", "TEXT")]), vec![Oid(T)]),
        create(pipeline("m", &[("k", "BIGINT"), ("n", "BIGINT")]), vec![Oid(V)]),
        create(pipeline("sink_only", &[]), vec![Oid(T)]),
        create(connection, vec![]),
        create(other_owner, vec![]),
        Change::Comment {
            kind: ObjectKind::Table,
            name: QualifiedName::unqualified("t"),
            comment: Some("the table".into()),
        },
    ];
    plan(&base, &changes, 1_000_000).unwrap().snapshot
}

fn facts() -> SessionFacts {
    SessionFacts {
        user: "laminar".into(),
        database: "laminar".into(),
        settings: vec![SettingFacts {
            name: "search_path".into(),
            value: "a".into(),
            default: "public".into(),
            unit: None,
            description: "d".into(),
            kind: "string",
            settable: true,
        }],
        activity: vec![Activity {
            process: 7,
            user: "laminar".into(),
            application_name: "psql".into(),
            client_address: Some("127.0.0.1".into()),
            client_port: Some(1),
            started_at_micros: 1,
            statement_started_at_micros: None,
            state: "idle",
            query: "SELECT 1".into(),
        }],
    }
}

/// Rows as maps from column to text; NULL is left out.
fn read(batch: &RecordBatch) -> Vec<BTreeMap<String, String>> {
    let options = FormatOptions::default();
    let schema = batch.schema();
    let formatters: Vec<_> = batch
        .columns()
        .iter()
        .map(|array| (array, ArrayFormatter::try_new(array.as_ref(), &options).unwrap()))
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            schema
                .fields()
                .iter()
                .zip(&formatters)
                .filter(|(_, (array, _))| array.is_valid(row))
                .map(|(field, (_, formatter))| (field.name().clone(), formatter.value(row).to_string()))
                .collect()
        })
        .collect()
}

fn select(name: &str, column: &str, value: &str) -> Vec<BTreeMap<String, String>> {
    let (schema, name) = name.split_once('.').unwrap_or(("pg_catalog", name));
    let batch = rows(schema, name, &snapshot(), &facts()).unwrap();
    read(&batch)
        .into_iter()
        .filter(|row| row.get(column).is_some_and(|found| found == value))
        .collect()
}

#[test]
fn every_relation_can_be_read() {
    let snapshot = snapshot();
    for (schema, name) in table_names() {
        let batch = match schema {
            "laminar" => laminar_rows(
                name,
                &snapshot,
                &[job("j", Oid(M))],
                &[checkpoint(Oid(M), 3, 1)],
                &Deliveries::default(),
            ),
            _ => rows(schema, name, &snapshot, &facts()),
        };
        assert_eq!(
            batch.unwrap().schema(),
            schema_of(schema, name).unwrap(),
            "{schema}.{name}"
        );
    }
    assert!(rows("pg_catalog", "nope", &snapshot, &facts()).is_none());
    assert!(rows("public", "t", &snapshot, &facts()).is_none());
    assert!(rows("laminar", "jobs", &snapshot, &facts()).is_none());
}

#[test]
fn classes_have_kinds_and_unique_oids() {
    let kind = |name: &str| {
        let found = select("pg_class", "relname", name);
        found.first().map(|row| {
            (
                row["relkind"].clone(),
                row["oid"].parse::<u32>().unwrap(),
                row["relhasindex"].clone(),
            )
        })
    };
    assert_eq!(kind("t"), Some(("r".into(), T, "true".into())));
    assert_eq!(kind("v"), Some(("v".into(), V, "false".into())));
    assert_eq!(kind("m"), Some(("m".into(), M, "true".into())));
    assert_eq!(kind("sink_only"), None);
    assert_eq!(kind("t_pkey").unwrap().0, "i");
    assert_eq!(kind("pg_class"), Some(("r".into(), 1259, "false".into())));
    let batch = rows("pg_catalog", "pg_class", &snapshot(), &facts()).unwrap();
    let oids = batch.column_by_name("oid").unwrap().as_primitive::<UInt32Type>();
    assert_eq!(oids.values().iter().collect::<BTreeSet<_>>().len(), oids.len());
}

#[test]
fn attributes_are_numbered_and_typed() {
    let shown: Vec<String> = select("pg_attribute", "attrelid", &T.to_string())
        .iter()
        .map(|row| {
            [
                "attnum",
                "attname",
                "atttypid",
                "atttypmod",
                "attnotnull",
                "atthasdef",
                "attgenerated",
                "attndims",
                "attcollation",
            ]
            .map(|column| row[column].as_str())
            .join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "1 k 20 -1 true false  0 0",
            "2 name 1043 24 true true  0 100",
            "3 amount 1700 655366 false false  0 0",
            "4 tags 1009 -1 false false  1 100",
            "5 g 23 -1 false true s 0 0",
        ]
    );
    let of_system = select("pg_attribute", "attrelid", "2601");
    let names: Vec<&str> = of_system.iter().map(|row| row["attname"].as_str()).collect();
    assert_eq!(names, ["oid", "amname", "amhandler", "amtype"]);
    assert_eq!(of_system[2]["atttypid"], "24");
    // Every relation of pg_class has as many attributes as it says.
    let batch = rows("pg_catalog", "pg_attribute", &snapshot(), &facts()).unwrap();
    let mut counts: BTreeMap<u32, i16> = BTreeMap::new();
    for oid in batch
        .column_by_name("attrelid")
        .unwrap()
        .as_primitive::<UInt32Type>()
        .values()
    {
        *counts.entry(*oid).or_default() += 1;
    }
    let classes = rows("pg_catalog", "pg_class", &snapshot(), &facts()).unwrap();
    let oids = classes.column_by_name("oid").unwrap().as_primitive::<UInt32Type>();
    let numbers = classes.column_by_name("relnatts").unwrap().as_primitive::<Int16Type>();
    for (oid, count) in oids.values().iter().zip(numbers.values()) {
        assert_eq!(counts.get(oid), Some(count), "{oid}");
    }
}

#[test]
fn keys_are_indexes_and_constraints() {
    let index = &select("pg_index", "indrelid", &T.to_string())[0];
    assert_eq!(
        (index["indisprimary"].as_str(), index["indkey"].as_str()),
        ("true", "[1]")
    );
    let of_result = &select("pg_index", "indrelid", &M.to_string())[0];
    assert_eq!(
        (of_result["indisprimary"].as_str(), of_result["indisunique"].as_str()),
        ("false", "true")
    );
    let constraint = &select("pg_constraint", "conrelid", &T.to_string())[0];
    assert_eq!(constraint["conindid"], index["indexrelid"]);
    assert_eq!(
        (constraint["conname"].as_str(), constraint["contype"].as_str()),
        ("t_pkey", "p")
    );
    assert!(select("pg_constraint", "conrelid", &M.to_string()).is_empty());
    let snapshot = snapshot();
    let oid = |row: &BTreeMap<String, String>, column: &str| row[column].parse::<u32>().unwrap();
    let index_oid = oid(index, "indexrelid");
    assert_eq!(
        functions::index_definition(&snapshot, index_oid, 0).unwrap(),
        "CREATE UNIQUE INDEX t_pkey ON public.t USING btree (k)"
    );
    assert_eq!(functions::index_definition(&snapshot, index_oid, 1).unwrap(), "k");
    assert_eq!(functions::index_definition(&snapshot, index_oid, 2), None);
    assert_eq!(
        functions::constraint_definition(&snapshot, oid(constraint, "oid")).unwrap(),
        "PRIMARY KEY (k)"
    );
    let defaults: Vec<String> = select("pg_attrdef", "adrelid", &T.to_string())
        .iter()
        .map(|row| format!("{} {}", row["adnum"], row["adbin"]))
        .collect();
    assert_eq!(defaults, ["2 'x'", "5 k + 1"]);
}

#[test]
fn functions_answer_like_postgres() {
    let snapshot = snapshot();
    let path = ["public".to_owned()];
    let t = QualifiedName::unqualified("t");
    assert_eq!(functions::relation_oid(&snapshot, &t, &path), Some(T));
    assert_eq!(functions::relation_oid(&snapshot, &t, &[]), None);
    assert_eq!(
        functions::relation_oid(&snapshot, &QualifiedName::new("public", "m_key"), &[]),
        Some(names::index_oid(M, 0))
    );
    assert_eq!(
        functions::relation_oid(&snapshot, &QualifiedName::unqualified("pg_class"), &[]),
        Some(1259)
    );
    assert_eq!(
        functions::relation_oid(&snapshot, &QualifiedName::unqualified("sink_only"), &path),
        None
    );
    assert_eq!(functions::relation_is_visible(&snapshot, T, &path), Some(true));
    assert_eq!(functions::relation_is_visible(&snapshot, T, &[]), Some(false));
    assert_eq!(functions::relation_is_visible(&snapshot, 1259, &[]), Some(true));
    assert_eq!(functions::relation_is_visible(&snapshot, SINK_ONLY, &path), None);
    assert_eq!(
        functions::object_description(&snapshot, T, Some("pg_class")).unwrap(),
        "the table"
    );
    assert_eq!(functions::object_description(&snapshot, T, Some("pg_namespace")), None);
    assert_eq!(
        functions::view_definition(&snapshot, M).unwrap(),
        " SELECT k, count(*) AS n FROM t GROUP BY k;"
    );
    assert_eq!(functions::role_name(&snapshot, "laminar", 10), "laminar");
    assert_eq!(
        functions::role_name(&snapshot, "laminar", role_oid("somebody")),
        "somebody"
    );
    assert_eq!(functions::role_name(&snapshot, "laminar", 77), "unknown (OID=77)");
    assert_eq!(functions::schema_name(&snapshot, 2200).unwrap(), "public");
    assert_eq!(
        functions::relation_name(&snapshot, 1259).unwrap(),
        ("pg_catalog".into(), "pg_class".into())
    );
    assert_eq!(
        (functions::type_oid("_int4"), functions::type_name(25)),
        (Some(1007), Some("text"))
    );
}

#[test]
fn dependencies_roles_and_schemas_join() {
    let depend: Vec<String> = select("pg_depend", "objid", &names::rule_oid(M).to_string())
        .iter()
        .map(|row| format!("{} {}", row["refobjid"], row["deptype"]))
        .collect();
    assert_eq!(depend, [format!("{M} i"), format!("{V} n")]);
    assert_eq!(
        select("pg_rewrite", "ev_class", &M.to_string())[0]["oid"],
        names::rule_oid(M).to_string()
    );
    let owner = &select("pg_class", "relname", "v2")[0]["relowner"];
    assert_eq!(select("pg_roles", "oid", owner)[0]["rolname"], "somebody");
    assert_eq!(select("pg_roles", "rolname", "laminar")[0]["rolsuper"], "true");
    let namespace = &select("pg_class", "relname", "t")[0]["relnamespace"];
    assert_eq!(select("pg_namespace", "oid", namespace)[0]["nspname"], "public");
    assert_eq!(select("pg_database", "datname", "laminar").len(), 1);
    assert_eq!(
        select("pg_description", "objoid", &T.to_string())[0]["description"],
        "the table"
    );
    assert_eq!(select("pg_settings", "name", "search_path")[0]["source"], "session");
    assert_eq!(select("pg_stat_activity", "pid", "7")[0]["application_name"], "psql");
}

#[test]
fn information_schema_has_the_standards_view() {
    let types: Vec<String> = ["t", "v", "m"]
        .iter()
        .map(|name| select("information_schema.tables", "table_name", name)[0]["table_type"].clone())
        .collect();
    assert_eq!(types, ["BASE TABLE", "VIEW", "MATERIALIZED VIEW"]);
    let columns = select("information_schema.columns", "table_name", "t");
    let shown: Vec<String> = columns
        .iter()
        .map(|row| {
            format!(
                "{} {} {} {}",
                row["ordinal_position"], row["data_type"], row["udt_name"], row["is_nullable"]
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "1 bigint int8 NO",
            "2 character varying varchar NO",
            "3 numeric numeric YES",
            "4 ARRAY _text YES",
            "5 integer int4 YES"
        ]
    );
    assert_eq!(
        (
            columns[1]["character_maximum_length"].as_str(),
            columns[1]["column_default"].as_str()
        ),
        ("20", "'x'")
    );
    assert_eq!(
        (
            columns[2]["numeric_precision"].as_str(),
            columns[2]["numeric_scale"].as_str()
        ),
        ("10", "2")
    );
    assert_eq!(
        (
            columns[4]["is_generated"].as_str(),
            columns[4]["generation_expression"].as_str()
        ),
        ("ALWAYS", "k + 1")
    );
    assert!(!columns[4].contains_key("column_default"));
    assert_eq!(
        select("information_schema.key_column_usage", "constraint_name", "t_pkey")[0]["column_name"],
        "k"
    );
    assert_eq!(
        select("information_schema.table_constraints", "table_name", "t")[0]["constraint_type"],
        "PRIMARY KEY"
    );
    assert_eq!(select("information_schema.schemata", "schema_name", "public").len(), 1);
}

#[test]
fn laminar_views_show_runs_and_no_secrets() {
    let snapshot = snapshot();
    let mut failed = job("job_1", Oid(M));
    failed.generation = crate::ids::Generation(1);
    failed.state = JobState::Failed;
    failed.error = Some(ErrorReport::new(SqlState::DISK_FULL, "no space").with_hint("Free some."));
    let running = JobRecord {
        job: crate::ids::JobId("job_2".into()),
        generation: crate::ids::Generation(2),
        state: JobState::Running,
        error: None,
        ..failed.clone()
    };
    let checkpoints = [
        checkpoint(Oid(M), 3, 1),
        checkpoint(Oid(M), 5, 2),
        checkpoint(Oid(M), 4, 1),
    ];
    let show = |name: &str, jobs: &[JobRecord]| {
        read(&laminar_rows(name, &snapshot, jobs, &checkpoints, &Deliveries::default()).unwrap())
    };
    let pipelines = show("pipelines", &[running.clone(), failed.clone()]);
    assert_eq!(pipelines.len(), 2);
    assert_eq!(
        (pipelines[0]["state"].as_str(), pipelines[0]["job"].as_str()),
        ("Running", "job_2")
    );
    assert_eq!(
        (
            pipelines[0]["checkpoint_epoch"].as_str(),
            pipelines[0]["parallelism"].as_str()
        ),
        ("5", "4")
    );
    assert!(!pipelines[0].contains_key("last_error"));
    assert_eq!(
        (pipelines[1]["state"].as_str(), pipelines[1]["parallelism"].as_str()),
        ("Created", "3")
    );
    assert_eq!(
        (
            pipelines[0]["keeps_result"].as_str(),
            pipelines[1]["keeps_result"].as_str()
        ),
        ("true", "false")
    );
    assert_eq!(show("pipelines", &[failed.clone()])[0]["last_error"], "no space");
    let jobs = show("jobs", &[failed, running]);
    assert_eq!(
        (jobs[0]["error_code"].as_str(), jobs[0]["pipeline"].as_str()),
        ("53100", "m")
    );
    assert_eq!(show("checkpoints", &[]).len(), 3);
    let connections = show("connections", &[]);
    assert_eq!(connections[0]["options"], "[password=SECRET s]");
    let secrets = show("secrets", &[]);
    assert_eq!(secrets[0]["source"], "value");
    let tables = show("tables", &[]);
    assert_eq!(
        (tables[0]["connector"].as_str(), tables[0]["primary_key"].as_str()),
        ("single_file", "[k]")
    );
    let Some(Object::Secret(secret)) = snapshot.get(Oid(16000)) else {
        unreachable!()
    };
    let SecretSource::Sealed(sealed) = &secret.source else {
        unreachable!()
    };
    for (_, name) in table_names().filter(|(schema, _)| *schema == "laminar") {
        let text = format!("{:?}", show(name, &[]));
        assert!(!text.contains("hunter2") && !text.contains(sealed.as_str()), "{name}");
    }
}

//! A backend with a catalog in memory that understands the statements REST builds, and keeps their texts.

use std::sync::{Arc, Mutex};

use crate::catalog::Catalog;
use crate::catalog::change::{Change, NewObject};
use crate::catalog::memory::MemoryStore;
use crate::catalog::objects::{Column, ColumnKind, Connection, Object, ObjectHeader, ObjectKind, Pipeline, Table};
use crate::catalog::secrets::SecretBox;
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::clock::ManualClock;
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::rest::backend::Backend;
use crate::frontend::rest::model::{Graph, GraphNode, JobMetrics, JobResource};
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions};

pub struct FakeBackend {
    catalog: Catalog,
    pub statements: Mutex<Vec<String>>,
    jobs: Mutex<Vec<(Oid, JobResource)>>,
    pub is_ready: Mutex<bool>,
}

impl FakeBackend {
    pub async fn new() -> FakeBackend {
        let clock = Arc::new(ManualClock::at(1_709_210_096_789_000));
        let secrets = SecretBox::ephemeral().unwrap();
        let catalog = Catalog::open(Arc::new(MemoryStore::new()), secrets, clock)
            .await
            .unwrap();
        FakeBackend {
            catalog,
            statements: Mutex::default(),
            jobs: Mutex::default(),
            is_ready: Mutex::new(true),
        }
    }

    async fn create(&self, object: Object, depends_on: Vec<Oid>) -> Result<(), ErrorReport> {
        let change = Change::Create {
            object: NewObject { object, depends_on },
            if_not_exists: false,
            or_replace: false,
        };
        self.catalog
            .apply(vec![change])
            .await
            .map(|_| ())
            .map_err(|error| error.report())
    }

    async fn drop_object(&self, kind: ObjectKind, name: &str) -> Result<(), ErrorReport> {
        let (schema, name) = name.split_once('.').unwrap();
        let change = Change::Drop {
            targets: vec![(kind, QualifiedName::new(schema, name))],
            if_exists: false,
            cascade: false,
        };
        self.catalog
            .apply(vec![change])
            .await
            .map(|_| ())
            .map_err(|error| error.report())
    }

    fn pipeline(&self, name: &str) -> Pipeline {
        let name = name.strip_prefix("public.").unwrap();
        let snapshot = self.catalog.snapshot();
        let found = snapshot.pipelines().find(|pipeline| pipeline.header.name == name);
        found.cloned().unwrap()
    }

    fn start(&self, pipeline: &Pipeline) {
        let mut jobs = self.jobs.lock().unwrap();
        let run_id = u64::try_from(jobs.len()).unwrap() + 1;
        let job = JobResource {
            id: format!("job_{run_id}"),
            pipeline_id: pipeline.header.public_id.clone(),
            running_desired: true,
            state: "Running".into(),
            run_id,
            start_time: Some(1),
            finish_time: None,
            tasks: Some(2),
            failure_message: None,
            created_at: 1,
            metrics: JobMetrics::default(),
        };
        jobs.insert(0, (pipeline.header.oid, job));
    }

    fn stop(&self, pipeline: &Pipeline) {
        for (oid, job) in self.jobs.lock().unwrap().iter_mut() {
            if *oid == pipeline.header.oid {
                job.state = "Stopped".into();
                job.running_desired = false;
                job.finish_time = Some(2);
            }
        }
    }

    async fn create_connection(&self, name: &str, options: RawOptions) -> Result<(), ErrorReport> {
        let connector = options.text("connector").unwrap().to_owned();
        let connection = Connection {
            header: header(name),
            connector,
            options,
            description: None,
        };
        self.create(Object::Connection(connection), Vec::new()).await
    }

    async fn create_table(&self, name: &str, text: &str, options: RawOptions) -> Result<(), ErrorReport> {
        let connection = options.text("connection").map(|name| {
            let snapshot = self.catalog.snapshot();
            let found = snapshot.connections().find(|connection| connection.header.name == name);
            found.unwrap().header.oid
        });
        let columns = match text.split_once(" (").filter(|(before, _)| !before.contains(" WITH")) {
            None => Vec::new(),
            Some((_, rest)) => rest.split(") WITH").next().unwrap().split(", ").map(column).collect(),
        };
        let table = Table {
            header: header(name),
            connection: connection.map(|oid| oid.0),
            columns_inferred: columns.is_empty(),
            columns,
            primary_key: Vec::new(),
            constraints: Vec::new(),
            watermark: None,
            options,
            search_path: Vec::new(),
        };
        self.create(Object::Table(table), connection.into_iter().collect())
            .await
    }

    async fn create_pipeline(&self, name: &str, text: &str, options: RawOptions) -> Result<(), ErrorReport> {
        let query = text.split_once(" AS ").unwrap().1;
        check(text)?;
        let pipeline = Pipeline {
            header: header(name),
            query: query.to_owned(),
            options,
            columns: Vec::new(),
            unique_key: Vec::new(),
            append_only: false,
            bounded: false,
            materialized_view: false,
            desired_running: false,
            key_groups: 1024,
            search_path: Vec::new(),
            counts_after: Default::default(),
        };
        self.create(Object::Pipeline(pipeline), Vec::new()).await
    }
}

/// The word `wrong` is a syntax error.
fn check(text: &str) -> Result<(), ErrorReport> {
    match text.find("wrong") {
        None => Ok(()),
        Some(at) => {
            let position = text[..at].chars().count() + 1;
            Err(ErrorReport::new(SqlState::SYNTAX_ERROR, "syntax error at or near \"wrong\"").with_position(position))
        }
    }
}

fn header(name: &str) -> ObjectHeader {
    ObjectHeader {
        oid: Oid(0),
        public_id: String::new(),
        schema: Some("public".into()),
        name: name.to_owned(),
        owner: "laminar".into(),
        created_at_micros: 0,
        updated_at_micros: 0,
        comment: None,
    }
}

fn column(text: &str) -> Column {
    let (name, of) = text.split_once(' ').unwrap();
    Column {
        name: name.to_owned(),
        sql_type: of.trim_end_matches(" NOT NULL").to_owned(),
        not_null: of.ends_with(" NOT NULL"),
        default: None,
        kind: ColumnKind::Physical,
    }
}

/// `a = 'b', c = 5` of the first WITH.
fn options(text: &str) -> RawOptions {
    let Some((_, rest)) = text.split_once("WITH (") else {
        return RawOptions::default();
    };
    let inside = rest.split(')').next().unwrap();
    let pairs = inside.split(", ").map(|pair| {
        let (name, value) = pair.split_once(" = ").unwrap();
        let value = RawOptionValue::Text(value.trim_matches('\'').to_owned());
        (name.trim_matches('\'').to_owned(), value)
    });
    RawOptions(pairs.collect())
}

impl Backend for FakeBackend {
    fn snapshot(&self) -> Arc<CatalogSnapshot> {
        self.catalog.snapshot()
    }

    async fn run(&self, text: &str) -> Result<(), ErrorReport> {
        self.statements.lock().unwrap().push(text.to_owned());
        let words: Vec<&str> = text.split(' ').collect();
        match words.as_slice() {
            ["CREATE", "CONNECTION", name, ..] => self.create_connection(name, options(text)).await,
            ["CREATE", "TABLE", "panic", ..] => panic!("asked to"),
            ["CREATE", "TABLE", name, ..] => self.create_table(name, text, options(text)).await,
            ["CREATE", "PIPELINE", name, ..] => self.create_pipeline(name, text, options(text)).await,
            ["DROP", "CONNECTION", name] => self.drop_object(ObjectKind::Connection, name).await,
            ["DROP", "TABLE", name] => self.drop_object(ObjectKind::Table, name).await,
            ["DROP", "PIPELINE", name] => self.drop_object(ObjectKind::Pipeline, name).await,
            ["START", "PIPELINE", name] => {
                self.start(&self.pipeline(name));
                Ok(())
            }
            ["STOP", .., name] => {
                self.stop(&self.pipeline(name));
                Ok(())
            }
            _ => panic!("the fake does not know {text}"),
        }
    }

    fn statement_count(&self, text: &str) -> Result<usize, ErrorReport> {
        Ok(text.split(';').filter(|part| !part.trim().is_empty()).count())
    }

    async fn jobs(&self, pipeline: Option<Oid>) -> Result<Vec<JobResource>, ErrorReport> {
        let jobs = self.jobs.lock().unwrap();
        let wanted = jobs
            .iter()
            .filter(|(oid, _)| pipeline.is_none_or(|pipeline| pipeline == *oid));
        Ok(wanted.map(|(_, job)| job.clone()).collect())
    }

    fn graph(&self, pipeline: &Pipeline) -> Option<Graph> {
        self.compile(&pipeline.query).ok()
    }

    fn compile(&self, query: &str) -> Result<Graph, ErrorReport> {
        check(query)?;
        Ok(Graph {
            nodes: vec![GraphNode {
                node_id: 0,
                operator: "op".into(),
                description: "values".into(),
                parallelism: 1,
            }],
            edges: Vec::new(),
        })
    }

    async fn ready(&self) -> Result<(), ErrorReport> {
        if *self.is_ready.lock().unwrap() {
            Ok(())
        } else {
            Err(ErrorReport::new(
                SqlState::CANNOT_CONNECT_NOW,
                "jobs are being taken up again",
            ))
        }
    }
}

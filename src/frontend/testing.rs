//! A whole server in a test: catalog in memory, checkpoints in a temporary directory, two shards.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::StreamExt;

use crate::catalog::Catalog;
use crate::catalog::memory::MemoryStore;
use crate::catalog::secrets::SecretBox;
use crate::clock::SystemClock;
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::coordinator::{Coordinator, CoordinatorParts};
use crate::engine::dead_letters::DeadLetters;
use crate::engine::internal_tables::InternalTables;
use crate::engine::results::Results;
use crate::engine::worker::Worker;
use crate::error::ErrorReport;
use crate::frontend::compiler::SqlPipelineCompiler;
use crate::frontend::context::ServerContext;
use crate::frontend::notice::Notice;
use crate::frontend::response::{Response, Rows};
use crate::frontend::session::{Session, SessionStart};
use crate::frontend::sql;
use crate::planner::settings::Environment;
use crate::state::storage::CheckpointStorage;

pub struct TestServer {
    pub server: Arc<ServerContext>,
    pub directory: tempfile::TempDir,
    worker: Arc<Worker>,
}

impl TestServer {
    pub async fn start() -> TestServer {
        let directory = tempfile::tempdir().unwrap();
        let secrets = SecretBox::ephemeral().unwrap();
        let catalog = Catalog::open(Arc::new(MemoryStore::new()), secrets, Arc::new(SystemClock))
            .await
            .unwrap();
        let url = format!("file://{}", directory.path().join("checkpoints").display());
        let data = directory.path().display().to_string();
        let environment: Environment = Arc::new(move |name| (name == "DATA").then(|| data.clone()));
        let worker = Arc::new(Worker::start(2, false).unwrap());
        let results = Results::default();
        let tables = InternalTables::default();
        let coordinator = Coordinator::new(CoordinatorParts {
            memory_limit: None,
            catalog: catalog.clone(),
            storage: CheckpointStorage::open(&url, &[]).unwrap(),
            compiler: Arc::new(SqlPipelineCompiler::new(Arc::clone(&environment), tables.clone())),
            results: results.clone(),
            worker: Arc::clone(&worker),
            dead_letters: DeadLetters::default(),
            clock: Arc::new(SystemClock),
            runtime: tokio::runtime::Handle::current(),
            defaults: PipelineSettings {
                parallelism: 1,
                checkpoint_interval: Duration::from_millis(100),
                barrier_interval: Duration::from_millis(20),
                ..PipelineSettings::default()
            },
        });
        let server = ServerContext::new(
            catalog,
            coordinator,
            results,
            tables,
            Arc::new(SystemClock),
            environment,
        );
        TestServer {
            server: Arc::new(server),
            directory,
            worker,
        }
    }

    pub fn client(&self) -> Client {
        let start = SessionStart {
            user: "laminar".into(),
            database: "laminar".into(),
            settings: Vec::new(),
            backend_pid: 1,
            client_address: "127.0.0.1:1".into(),
        };
        Client {
            session: Session::new(Arc::clone(&self.server), start).unwrap(),
        }
    }

    /// Writes a file below the directory that `{{ DATA }}` names.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap()
    }

    pub async fn stop(self) {
        self.server.coordinator.shutdown().await;
        self.worker.shutdown();
    }
}

pub struct Client {
    pub session: Session,
}

impl Client {
    /// Runs every statement of a text; the answer of the last.
    pub async fn try_run(&mut self, text: &str) -> Result<Response, ErrorReport> {
        let mut last = Response::Empty;
        for statement in sql::parse(text).map_err(ErrorReport::from)? {
            last = self.session.run(&statement, &[]).await?;
        }
        Ok(last)
    }

    /// The command tag of the last statement; rows are read to their end.
    pub async fn run(&mut self, text: &str) -> String {
        let response = self
            .try_run(text)
            .await
            .unwrap_or_else(|error| panic!("{text}: {error:?}"));
        match response {
            Response::Complete { tag } => tag,
            Response::Rows { rows, tag, .. } => {
                let count = collect(rows).await.unwrap().len();
                tag.complete(count as u64)
            }
            other => format!("{other:?}"),
        }
    }

    pub async fn error(&mut self, text: &str) -> ErrorReport {
        match self.try_run(text).await {
            Err(error) => error,
            Ok(Response::Rows { rows, .. } | Response::CopyOut { rows, .. }) => match collect(rows).await {
                Err(error) => error,
                Ok(rows) => panic!("{text}: {rows:?}"),
            },
            Ok(other) => panic!("{text}: {other:?}"),
        }
    }

    /// Rows as text, columns with `|` between.
    pub async fn rows(&mut self, text: &str) -> Vec<String> {
        match self
            .try_run(text)
            .await
            .unwrap_or_else(|error| panic!("{text}: {error:?}"))
        {
            Response::Rows { rows, .. } | Response::CopyOut { rows, .. } => {
                collect(rows).await.unwrap_or_else(|error| panic!("{text}: {error:?}"))
            }
            other => panic!("{text}: {other:?}"),
        }
    }

    pub fn notices(&mut self) -> Vec<Notice> {
        self.session.take_notices()
    }

    pub fn notice_texts(&mut self) -> Vec<String> {
        self.notices().into_iter().map(|notice| notice.report.message).collect()
    }
}

pub async fn collect(mut rows: Rows) -> Result<Vec<String>, ErrorReport> {
    let mut all = Vec::new();
    while let Some(batch) = rows.next().await {
        all.extend(lines(&batch?));
    }
    Ok(all)
}

pub fn lines(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<ArrayFormatter<'_>> = batch
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect::<Vec<_>>()
                .join("|")
        })
        .collect()
}

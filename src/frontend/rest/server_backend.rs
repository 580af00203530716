//! The server behind REST.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt;

use super::backend::Backend;
use super::model::{Graph, GraphEdge, GraphNode, JobMetrics, JobResource};
use crate::catalog::jobs::{JobFilter, JobRecord};
use crate::catalog::objects::Pipeline;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::coordinator::JobStatus;
use crate::engine::graph::{Exchange, JobGraph};
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::compiler::{SqlPipelineCompiler, compile_pipeline};
use crate::frontend::context::ServerContext;
use crate::frontend::response::Response;
use crate::frontend::session::{Session, SessionStart};
use crate::frontend::{sql, statements};
use crate::ids::{JobId, Oid};
use crate::options::RawOptions;

/// Who runs the statements of requests: REST has one token and so one role.
const ROLE: &str = "laminar";
/// What SHOW SESSIONS says of where a request came from.
const CLIENT: &str = "http";

pub struct ServerBackend {
    server: Arc<ServerContext>,
    compiler: SqlPipelineCompiler,
    jobs_resumed: AtomicBool,
}

impl ServerBackend {
    pub fn new(server: Arc<ServerContext>) -> ServerBackend {
        let compiler = SqlPipelineCompiler::new(Arc::clone(&server.environment), server.tables.clone());
        ServerBackend {
            server,
            compiler,
            jobs_resumed: AtomicBool::new(false),
        }
    }

    /// The jobs that ran before the restart run again: from now on `/readyz` says so.
    pub fn jobs_resumed(&self) {
        self.jobs_resumed.store(true, Ordering::Release);
    }

    fn session(&self) -> Result<Session, ErrorReport> {
        let start = SessionStart {
            user: ROLE.to_owned(),
            database: self.server.database.clone(),
            settings: Vec::new(),
            backend_pid: 0,
            client_address: CLIENT.to_owned(),
        };
        Session::new(Arc::clone(&self.server), start)
    }
}

impl Backend for ServerBackend {
    fn snapshot(&self) -> Arc<CatalogSnapshot> {
        self.server.catalog.snapshot()
    }

    async fn run(&self, text: &str) -> Result<(), ErrorReport> {
        let mut session = self.session()?;
        for statement in sql::parse(text).map_err(ErrorReport::from)? {
            let response = session.run(&statement, &[]).await?;
            if let Response::Rows { mut rows, .. } | Response::CopyOut { mut rows, .. } = response {
                while let Some(batch) = rows.next().await {
                    batch?;
                }
            }
        }
        Ok(())
    }

    fn statement_count(&self, text: &str) -> Result<usize, ErrorReport> {
        Ok(sql::parse(text).map_err(ErrorReport::from)?.len())
    }

    async fn jobs(&self, pipeline: Option<Oid>) -> Result<Vec<JobResource>, ErrorReport> {
        let filter = JobFilter {
            pipeline,
            latest_only: false,
        };
        let store = self.server.catalog.store();
        let mut records = store.jobs(filter).await.map_err(|error| error.report())?;
        let statuses = match pipeline {
            Some(pipeline) => Vec::from_iter(self.server.coordinator.job(pipeline)),
            None => self.server.coordinator.jobs(),
        };
        let live: HashMap<JobId, JobStatus> = statuses
            .into_iter()
            .map(|status| (status.job.clone(), status))
            .collect();
        // A job that was just started may not be in the store yet.
        let stored: HashSet<JobId> = records.iter().map(|record| record.job.clone()).collect();
        let new = live.values().filter(|status| !stored.contains(&status.job));
        records.extend(new.map(|status| status.record.clone()));
        // Identifiers of jobs sort by time.
        records.sort_by(|a, b| b.job.cmp(&a.job));
        let snapshot = self.snapshot();
        let jobs = records.iter().filter_map(|record| {
            let pipeline_id = snapshot.get(record.pipeline)?.header().public_id.clone();
            Some(job(record, pipeline_id, live.get(&record.job)))
        });
        Ok(jobs.collect())
    }

    fn graph(&self, pipeline: &Pipeline) -> Option<Graph> {
        let parallelism = pipeline
            .options
            .text("parallelism")
            .and_then(|text| text.trim().parse().ok());
        let compiled = compile_pipeline(&self.compiler, pipeline, parallelism.unwrap_or(1), &self.snapshot());
        compiled.ok().map(|compiled| graph(&compiled.graph))
    }

    fn compile(&self, query: &str) -> Result<Graph, ErrorReport> {
        let session = self.session()?;
        let body = sql::parse_body(query).map_err(ErrorReport::from)?;
        let compiled = statements::create_pipeline::compile(&session, &body, &RawOptions::default());
        Ok(graph(&compiled.map_err(ErrorReport::from)?.graph))
    }

    async fn ready(&self) -> Result<(), ErrorReport> {
        self.server
            .catalog
            .store()
            .ping()
            .await
            .map_err(|error| error.report())?;
        if self.jobs_resumed.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(ErrorReport::new(
            SqlState::CANNOT_CONNECT_NOW,
            "the jobs that ran before the restart are being taken up again",
        ))
    }
}

fn job(record: &JobRecord, pipeline_id: String, live: Option<&JobStatus>) -> JobResource {
    let state = live.map_or(record.state, |status| status.state);
    let error = live.and_then(|status| status.error.as_ref()).or(record.error.as_ref());
    JobResource {
        id: record.job.0.clone(),
        pipeline_id,
        running_desired: record.desired_running,
        state: state.as_str().to_owned(),
        run_id: record.generation.0,
        start_time: Some(record.started_at_micros / 1000),
        finish_time: record.finished_at_micros.map(|micros| micros / 1000),
        tasks: live.map(|status| status.operators.iter().map(|operator| operator.subtasks.len()).sum()),
        failure_message: error.map(|error| error.message.clone()),
        created_at: record.started_at_micros / 1000,
        metrics: live.map(metrics).unwrap_or_default(),
    }
}

/// Records in are those that sources gave, records out those that sinks took or that became results.
fn metrics(status: &JobStatus) -> JobMetrics {
    let mut metrics = JobMetrics::default();
    for operator in &status.operators {
        let total = operator.total();
        metrics.bytes_in += total.bytes_in;
        metrics.bytes_out += total.bytes_out;
        metrics.warnings += total.late_rows;
        match operator.name {
            "source" => metrics.records_in += total.rows_out,
            "sink" | "materialize" => metrics.records_out += total.rows_in,
            _ => {}
        }
    }
    metrics
}

fn graph(job: &JobGraph) -> Graph {
    let node = |(node_id, node): (usize, &crate::engine::graph::GraphNode)| GraphNode {
        node_id,
        operator: node.id.0.clone(),
        description: node.description.clone(),
        parallelism: node.parallelism,
    };
    let edges = job.nodes.iter().enumerate().flat_map(|(dest_id, node)| {
        node.inputs.iter().map(move |edge| GraphEdge {
            src_id: edge.from,
            dest_id,
            edge_type: exchange_word(&edge.exchange).to_owned(),
        })
    });
    Graph {
        nodes: job.nodes.iter().enumerate().map(node).collect(),
        edges: edges.collect(),
    }
}

fn exchange_word(exchange: &Exchange) -> &'static str {
    match exchange {
        Exchange::Forward => "forward",
        Exchange::Hash { .. } => "shuffle",
        Exchange::Single => "single",
    }
}

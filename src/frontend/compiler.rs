//! What the coordinator calls when it starts a pipeline, by way of the parser to the planner, or the job of a table.

use crate::catalog::objects::{Object, Pipeline};
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::coordinator::PipelineCompiler;
use crate::engine::graph::JobGraph;
use crate::engine::internal_tables::InternalTables;
use crate::error::{ErrorReport, Report};
use crate::frontend::body::planner_body;
use crate::frontend::error::{Error, Result};
use crate::frontend::pipeline_options::{allowed_lateness_ms, disabled_rewrites, state_ttl_ms};
use crate::frontend::sql;
use crate::planner::compiled::{Compiled, Target};
use crate::planner::dml::job_graph;
use crate::planner::settings::{Environment, SessionFacts, Settings};

/// Compiles pipelines from the catalog.
pub struct SqlPipelineCompiler {
    environment: Environment,
    tables: InternalTables,
}

impl SqlPipelineCompiler {
    pub fn new(environment: Environment, tables: InternalTables) -> SqlPipelineCompiler {
        SqlPipelineCompiler { environment, tables }
    }

    fn settings(&self, pipeline: &Pipeline, parallelism: u32, body_ttl_ms: Option<u64>) -> Result<Settings> {
        Ok(Settings {
            parallelism,
            search_path: pipeline.search_path.clone(),
            // A pipeline's results must not depend on who looks: times are computed in UTC.
            time_zone: "UTC".to_owned(),
            environment: Environment::clone(&self.environment),
            updating_ttl_ms: body_ttl_ms.or(state_ttl_ms(&pipeline.options)?),
            allowed_lateness_ms: allowed_lateness_ms(&pipeline.options)?,
            disabled_rewrites: disabled_rewrites(&pipeline.options)?,
            session: SessionFacts::default(),
        })
    }
}

/// The pipeline as planned, for EXPLAIN and REST too.
pub fn compile_pipeline(
    compiler: &SqlPipelineCompiler,
    pipeline: &Pipeline,
    parallelism: u32,
    snapshot: &CatalogSnapshot,
) -> Result<Compiled> {
    let text = sql::parse_body(&pipeline.query)?;
    let parsed = planner_body(&text, snapshot, &pipeline.search_path)?;
    let settings = compiler.settings(pipeline, parallelism, parsed.updating_ttl_ms)?;
    let target = Target::Pipeline {
        oid: pipeline.header.oid,
    };
    crate::planner::compile(&parsed.body, target, snapshot, &settings).map_err(Error::from)
}

impl PipelineCompiler for SqlPipelineCompiler {
    fn compile(
        &self,
        pipeline: &Pipeline,
        parallelism: u32,
        snapshot: &CatalogSnapshot,
    ) -> std::result::Result<JobGraph, ErrorReport> {
        if let Some(Object::Table(table)) = snapshot.get(pipeline.header.oid) {
            return job_graph(table, &self.tables).map_err(|error| error.report());
        }
        let compiled = compile_pipeline(self, pipeline, parallelism, snapshot).map_err(ErrorReport::from)?;
        Ok(compiled.graph)
    }
}

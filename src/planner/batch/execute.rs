//! Runs a planned query and streams its rows.

use std::sync::{Arc, LazyLock};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::single_distinct_to_groupby::SingleDistinctToGroupBy;
use datafusion::optimizer::{Optimizer, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::aggregate_statistics::AggregateStatistics;
use datafusion::physical_optimizer::filter_pushdown::FilterPushdown;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionConfig;
use futures::StreamExt;

use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::planner::batch::correlated;
use crate::planner::batch::hidden_order::HideOrder;
use crate::planner::bind;
use crate::planner::bind::positions::SourceText;
use crate::planner::error::Result;
use crate::planner::settings::Settings;
use crate::types::record_batch::batch_of_rows;

/// A query ready to run.
pub struct BatchQuery {
    plan: LogicalPlan,
    schema: SchemaRef,
    state: SessionState,
}

static RUNTIME: LazyLock<Arc<RuntimeEnv>> = LazyLock::new(|| Arc::new(RuntimeEnv::default()));

impl BatchQuery {
    pub(super) fn new(plan: LogicalPlan, schema: SchemaRef, settings: &Settings) -> BatchQuery {
        BatchQuery {
            plan,
            schema,
            state: session_state(settings),
        }
    }

    /// Columns as the client sees them.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The plan as bound and as optimized, for EXPLAIN.
    pub fn explain(&self) -> Result<(String, String)> {
        let optimized = self
            .state
            .optimize(&self.plan)
            .map_err(|error| SourceText("").error(error))?;
        Ok((
            crate::planner::explain::logical(&self.plan),
            crate::planner::explain::logical(&optimized),
        ))
    }

    /// Starts the query. Rows come as they are asked for.
    pub async fn execute(self) -> Result<SendableRecordBatchStream> {
        let physical = physical_plan(&self.state, self.plan).await?;
        let stream = execute_stream(physical, self.state.task_ctx()).map_err(|error| SourceText("").error(error))?;
        let schema = Arc::clone(&self.schema);
        let renamed = stream.map(move |batch| with_schema(batch?, &schema));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema, renamed)))
    }
}

/// As DataFusion plans it; where it cannot, with the correlated subqueries answered row by row.
async fn physical_plan(state: &SessionState, plan: LogicalPlan) -> Result<Arc<dyn ExecutionPlan>> {
    let first = state.create_physical_plan(&plan).await;
    let error = match first {
        Ok(physical) => return Ok(physical),
        Err(error) if correlated::is_in(&plan) => error,
        Err(error) => return Err(SourceText("").error(error)),
    };
    let answered = match correlated::answer(state, plan).await {
        Ok(answered) => answered,
        // What could not be planned says more than what could not be done instead.
        Err(_) => return Err(SourceText("").error(error)),
    };
    state
        .create_physical_plan(&answered)
        .await
        .map_err(|error| SourceText("").error(error))
}

fn with_schema(batch: RecordBatch, schema: &SchemaRef) -> datafusion::common::Result<RecordBatch> {
    Ok(batch_of_rows(
        Arc::clone(schema),
        batch.columns().to_vec(),
        batch.num_rows(),
    )?)
}

/// DataFusion's, without the one that adds up sums of decimals in a type other than it has planned.
fn optimizer_rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let mut rules = Optimizer::new().rules;
    rules.retain(|rule| rule.name() != SingleDistinctToGroupBy::new().name());
    rules
}

/// DataFusion's, without the one that takes the known number of rows below an inner aggregate for the answer of an outer one
/// that has a FILTER. (Nothing but VALUES knows its number of rows.) Without those that move filters a second time: behind an outer join
/// whose sides were exchanged they take one column for another. And with one that goes first: see `hidden_order`.
fn physical_optimizer_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let mut rules = PhysicalOptimizer::new().rules;
    let left_out = [
        AggregateStatistics::new().name().to_owned(),
        FilterPushdown::new().name().to_owned(),
        FilterPushdown::new_post_optimization().name().to_owned(),
    ];
    rules.retain(|rule| !left_out.iter().any(|name| name == rule.name()));
    rules.insert(0, Arc::new(HideOrder));
    rules
}

/// One partition: results come in the order in which they are made, and memory stays small.
fn session_state(settings: &Settings) -> SessionState {
    let mut config = SessionConfig::from(bind::options(settings))
        .with_target_partitions(1)
        .with_batch_size(CHUNK_ROWS_TARGET);
    // A string that only a view of its bytes would hold costs every consumer a conversion.
    config.options_mut().execution.parquet.schema_force_view_types = false;
    // It loses columns of joins on fields of structs, and takes two equal aggregates below such a join for one.
    config.options_mut().optimizer.enable_leaf_expression_pushdown = false;
    // A union that was made an interleave fails with an internal error when a later rule changes how its inputs are partitioned.
    config.options_mut().optimizer.prefer_existing_union = true;
    let mut state = SessionStateBuilder::new()
        .with_default_features()
        .with_optimizer_rules(optimizer_rules())
        .with_physical_optimizer_rules(physical_optimizer_rules())
        .with_config(config)
        .with_runtime_env(Arc::clone(&RUNTIME))
        .build();
    let options = Arc::clone(state.config_options());
    state.execution_props_mut().mark_start_execution(options);
    state
}

//! Makes the kept result of a pipeline readable without running the pipeline: after a restart of the server a finished or
//! stopped pipeline still answers SELECT.
//!
//! The operators that keep the result are restored from the checkpoint behind inputs without rows, and publish at one tick.
//! Nothing else of the pipeline is built: no source and no sink is opened.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::engine::coordinator::Shared;
use crate::engine::coordinator::deploy::deploy;
use crate::engine::coordinator::evolution::evolve;
use crate::engine::coordinator::persistence;
use crate::engine::coordinator::recovery::{StartPoint, catalog_error, compile, key_groups_of, pipeline_of};
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::error::Error;
use crate::engine::graph::{Exchange, GraphEdge, GraphNode, JobGraph, OperatorSpec};
use crate::engine::job_context::{JobEvent, RestorePoint, RunName};
use crate::engine::message::{Barrier, BarrierKind};
use crate::ids::{Epoch, Oid, OperatorId};
use crate::state::key_group::KeyGroups;

/// Of a pipeline that will not run because all its input was processed.
pub async fn load_results(shared: &Shared, start: &StartPoint) -> Result<(), Error> {
    match result_graph(&start.graph) {
        Some(graph) => {
            load(
                shared,
                graph,
                start.key_groups,
                Arc::clone(&start.restored),
                start.next_epoch,
            )
            .await
        }
        None => Ok(()),
    }
}

/// Of a pipeline that is not running, from its newest checkpoint. Without a checkpoint there is nothing to read.
pub async fn load_stopped(shared: &Shared, oid: Oid) -> Result<(), Error> {
    let records = shared
        .catalog
        .store()
        .latest_checkpoints(oid, 1)
        .await
        .map_err(catalog_error)?;
    let Some(record) = records.first() else {
        return Ok(());
    };
    let pipeline = pipeline_of(shared, oid)?;
    let settings = PipelineSettings::of(&pipeline.options, shared.defaults)?;
    let whole = compile(shared, &pipeline, settings.parallelism).await?;
    let Some(graph) = result_graph(&whole) else {
        return Ok(());
    };
    if record.generation <= pipeline.counts_after {
        let manifest = persistence::load(&shared.storage, &record.manifest_path).await?;
        if !evolve(&persistence::saved_lineages(&manifest), &whole).keeps_result(&whole) {
            // An earlier definition's.
            return Ok(());
        }
    }
    let runtime = shared.runtime.clone();
    let checkpoint = persistence::open_checkpoint(&shared.storage, &record.manifest_path, runtime).await?;
    let key_groups = key_groups_of(&pipeline)?;
    load(shared, graph, key_groups, checkpoint.restored, record.epoch.next()).await
}

/// The nodes that keep results, each behind an empty input; `None` when there are none.
fn result_graph(graph: &JobGraph) -> Option<JobGraph> {
    let mut nodes = Vec::new();
    for node in &graph.nodes {
        let (OperatorSpec::Materialize(_), Some(edge)) = (&node.operator, node.inputs.first()) else {
            continue;
        };
        let output = graph.nodes[edge.from].output.clone();
        nodes.push(GraphNode {
            id: OperatorId(format!("{}-no-input", node.id)),
            lineage: String::new(),
            description: String::new(),
            operator: OperatorSpec::Values(RecordBatch::new_empty(Arc::clone(&output.schema))),
            parallelism: node.parallelism,
            inputs: Vec::new(),
            output,
        });
        let from = nodes.len() - 1;
        let exchange = Exchange::Forward;
        nodes.push(GraphNode {
            inputs: vec![GraphEdge { from, exchange }],
            ..node.clone()
        });
    }
    (!nodes.is_empty()).then_some(JobGraph {
        nodes,
        parallelism: graph.parallelism,
    })
}

async fn load(
    shared: &Shared,
    graph: JobGraph,
    key_groups: KeyGroups,
    restored: Arc<dyn RestorePoint>,
    epoch: Epoch,
) -> Result<(), Error> {
    let (deployment, mut events) = deploy(
        shared,
        RunName::default(),
        graph,
        key_groups,
        restored,
        None,
        &shared.defaults,
    )?;
    let drivers: BTreeSet<_> = deployment.driver_ids().into_iter().collect();
    let mut not_ready = drivers.clone();
    let mut not_passed = drivers;
    let result = loop {
        match events.recv().await {
            Some(JobEvent::Ready(driver)) => {
                not_ready.remove(&driver);
                if not_ready.is_empty() {
                    let kind = BarrierKind::Tick;
                    deployment.inject(Barrier { epoch, kind });
                }
            }
            Some(JobEvent::Ack(ack)) => {
                not_passed.remove(&ack.driver);
                if not_passed.is_empty() {
                    break Ok(());
                }
            }
            Some(JobEvent::Failed(report)) => break Err(Error::Reported(report)),
            Some(JobEvent::Ended(_) | JobEvent::ClientServed) => {}
            None => break Err(Error::Internal("the drivers of a job are gone".into())),
        }
    };
    deployment.cancel().await;
    result
}

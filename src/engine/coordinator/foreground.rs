//! Jobs that run for one client: a streaming SELECT. No checkpoints, no recovery; rows go through a bounded queue.
//!
//! The job ends when its input has ended, when the client has as many rows as it asked for, when something fails (the
//! error is the last thing in the queue), or when the client drops the receiving end.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use tokio::sync::mpsc;

use crate::engine::client_tail::ClientQueue;
use crate::engine::coordinator::Shared;
use crate::engine::coordinator::deploy::deploy;
use crate::engine::coordinator::run::{News, Run};
use crate::engine::error::Error;
use crate::engine::graph::{JobGraph, OperatorSpec};
use crate::engine::job_context::{NothingSaved, RunName};
use crate::engine::job_metrics::JobMetrics;
use crate::engine::message::Chunk;
use crate::error::ErrorReport;
use crate::ids::Epoch;
use crate::state::key_group::KeyGroups;

/// A running foreground job. Dropping `rows` ends it.
pub struct ForegroundJob {
    pub schema: SchemaRef,
    /// Ends after the last row, or after an error.
    pub rows: mpsc::Receiver<Result<Chunk, ErrorReport>>,
    pub metrics: Arc<JobMetrics>,
}

pub fn start(shared: &Shared, graph: JobGraph) -> Result<ForegroundJob, Error> {
    let output = graph.nodes.iter().find_map(|node| match node.operator {
        OperatorSpec::ClientOutput { limit } => Some((Arc::clone(&node.output.schema), limit)),
        _ => None,
    });
    let Some((schema, limit)) = output else {
        return Err(Error::Internal("a foreground job has no client output".into()));
    };
    let (queue, rows) = ClientQueue::new(limit);
    let key_groups = KeyGroups::default();
    let restored = Arc::new(NothingSaved { key_groups });
    let (deployment, events) = deploy(
        shared,
        RunName::default(),
        graph,
        key_groups,
        restored,
        Some(Arc::clone(&queue)),
        &shared.defaults,
    )?;
    let metrics = Arc::clone(&deployment.context().metrics);
    let run = Run::new(deployment, events, shared.defaults, Epoch(1), None);
    let _entered = shared.runtime.enter();
    crate::spawn::named("foreground", serve(run, queue));
    Ok(ForegroundJob { schema, rows, metrics })
}

async fn serve(mut run: Run, queue: Arc<ClientQueue>) {
    let failure = loop {
        let news = tokio::select! {
            news = run.next() => news,
            () = queue.closed() => break None,
        };
        match news {
            News::Deployed => run.activate(),
            News::InputEnded | News::ClientServed => break None,
            News::Failed(report) => break Some(report),
            // Nothing is persisted.
            News::Committed(_) | News::FinalCommitted | News::Aborted(_) | News::Fenced => {}
        }
    };
    run.tear_down(failure.clone(), None).await;
    if let Some(report) = failure {
        tokio::select! {
            () = queue.fail(report) => {}
            () = queue.closed() => {}
        }
    }
}

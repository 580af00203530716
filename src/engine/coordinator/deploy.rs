//! From a graph and the state to start from to drivers on the shards.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::client_tail::ClientQueue;
use crate::engine::coordinator::Shared;
use crate::engine::error::Error;
use crate::engine::fragment::FragmentPlan;
use crate::engine::graph::JobGraph;
use crate::engine::job_context::{JobContext, JobEvent, RebasePolicy, RestorePoint, RestoreSlot};
use crate::engine::job_metrics::JobMetrics;
use crate::engine::results::history::ResultHistory;
use crate::engine::worker::Deployment;
use crate::state::key_group::KeyGroups;

pub fn deploy(
    shared: &Shared,
    pipeline: Option<String>,
    graph: JobGraph,
    key_groups: KeyGroups,
    restored: Arc<dyn RestorePoint>,
    client: Option<Arc<ClientQueue>>,
) -> Result<(Deployment, mpsc::UnboundedReceiver<JobEvent>), Error> {
    let (events, received) = mpsc::unbounded_channel();
    let plan = FragmentPlan::of(&graph)?;
    let context = JobContext {
        pipeline,
        metrics: Arc::new(JobMetrics::of(&graph)),
        plan,
        graph,
        key_groups,
        clock: Arc::clone(&shared.clock),
        runtime: shared.runtime.clone(),
        events,
        restored: RestoreSlot::new(restored),
        rebase: RebasePolicy::default(),
        operators: Arc::clone(&shared.operators),
        dead_letters: shared.dead_letters.clone(),
        results: Arc::clone(&shared.history) as Arc<dyn ResultHistory>,
        client,
    };
    Ok((shared.worker.deploy(Arc::new(context)), received))
}

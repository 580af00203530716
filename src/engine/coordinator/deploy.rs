//! From a graph and the state to start from to drivers on the shards.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::engine::client_tail::ClientQueue;
use crate::engine::coordinator::Shared;
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::error::Error;
use crate::engine::fragment::FragmentPlan;
use crate::engine::graph::JobGraph;
use crate::engine::job_context::{JobContext, JobEvent, RebasePolicy, RestorePoint, RestoreSlot, RunName};
use crate::engine::job_metrics::JobMetrics;
use crate::engine::results::history::ResultHistory;
use crate::engine::worker::Deployment;
use crate::error::Report;
use crate::state::key_group::KeyGroups;

pub fn deploy(
    shared: &Shared,
    run: RunName,
    graph: JobGraph,
    key_groups: KeyGroups,
    restored: Arc<dyn RestorePoint>,
    client: Option<Arc<ClientQueue>>,
    settings: &PipelineSettings,
) -> Result<(Deployment, mpsc::UnboundedReceiver<JobEvent>), Error> {
    let (events, received) = mpsc::unbounded_channel();
    let plan = FragmentPlan::of(&graph)?;
    let told = events.clone();
    let fail = move |error: Error| {
        // A run that is gone needs no memory.
        let _ = told.send(JobEvent::Failed(error.report()));
    };
    let context = JobContext {
        metrics: Arc::new(JobMetrics::of(&graph)),
        memory: match settings.on_demand {
            true => shared.memory.table_job(),
            false => shared.memory.job(settings.memory_limit, Box::new(fail)),
        },
        run,
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

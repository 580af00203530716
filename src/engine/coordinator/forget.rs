//! What pipelines keep in the systems outside is removed when nobody needs it any more: after DROP, and of what a replacement does
//! not use.
//!
//! Best effort, after the catalog has changed for good and the jobs have ended: what cannot be removed in time is told, by name.
//! Not guaranteed: that anything is removed when the server crashes between the two.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use tracing::{info, warn};

use crate::catalog::objects::Pipeline;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::engine::connectors::ConnectorTable;
use crate::engine::connectors::kept_outside::{KeptOutside, PipelineUse};
use crate::engine::coordinator::kept_table::settings_of;
use crate::engine::coordinator::recovery::compile_in;
use crate::engine::coordinator::{Coordinator, Result};
use crate::engine::graph::{JobGraph, OperatorSpec};

/// DROP waits for the systems outside so long at most.
const FORGET_TIMEOUT: Duration = Duration::from_secs(10);
/// Systems asked at the same time.
const ASKED_AT_ONCE: usize = 16;

/// What a pipeline still has outside although it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    pub pipeline: String,
    pub kept: KeptOutside,
    /// Why it could not be removed.
    pub reason: String,
}

/// A use of a table that leaves something outside.
pub(super) struct OutsideUse {
    pub by: PipelineUse,
    pipeline: String,
    table: Arc<dyn ConnectorTable>,
    kept: KeptOutside,
}

/// Each once: a pipeline may read a table at several places.
pub(super) fn outside_uses(pipeline: &Pipeline, graph: &JobGraph) -> Vec<OutsideUse> {
    let owner = &pipeline.header.public_id;
    let mut uses: Vec<OutsideUse> = Vec::new();
    for node in &graph.nodes {
        let (by, table) = match &node.operator {
            OperatorSpec::Source(spec) => (PipelineUse::Source(format!("{owner}/{}", spec.table_name)), &spec.table),
            OperatorSpec::Sink(spec) => (PipelineUse::Sink(format!("{owner}/{}", node.id)), &spec.table),
            _ => continue,
        };
        let Some(kept) = table.kept_outside(&by) else { continue };
        if uses.iter().all(|known| known.by != by) {
            uses.push(OutsideUse {
                by,
                pipeline: pipeline.header.name.clone(),
                table: Arc::clone(table),
                kept,
            });
        }
    }
    uses
}

/// All at the same time.
pub(super) async fn forget_uses(uses: Vec<OutsideUse>) -> Vec<Leftover> {
    let forgotten = futures::stream::iter(uses).map(forget_use).buffered(ASKED_AT_ONCE);
    forgotten.filter_map(std::future::ready).collect().await
}

async fn forget_use(of: OutsideUse) -> Option<Leftover> {
    let reason = match tokio::time::timeout(FORGET_TIMEOUT, of.table.forget(&of.by)).await {
        Ok(Ok(())) => {
            info!(
                pipeline = of.pipeline,
                what = of.kept.what,
                "removed what nobody needs any more"
            );
            return None;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("it took more than {} s", FORGET_TIMEOUT.as_secs()),
    };
    warn!(
        pipeline = of.pipeline,
        what = of.kept.what,
        reason,
        "left behind outside"
    );
    Some(Leftover {
        pipeline: of.pipeline,
        kept: of.kept,
        reason,
    })
}

impl Coordinator {
    /// After DROP, when the jobs have ended. `before`: the catalog in which the pipelines still were; of one that never was in
    /// it nothing has run.
    pub async fn forget_outside(&self, dropped: &[Pipeline], before: &Arc<CatalogSnapshot>) -> Vec<Leftover> {
        let mut uses = Vec::new();
        let mut leftovers = Vec::new();
        for pipeline in dropped
            .iter()
            .filter(|pipeline| before.get(pipeline.header.oid).is_some())
        {
            match self.uses_in(pipeline, before).await {
                Ok(found) => uses.extend(found),
                Err(error) => {
                    let name = pipeline.header.name.clone();
                    warn!(pipeline = name, %error, "it is not known what is left outside");
                    leftovers.push(Leftover {
                        pipeline: name,
                        kept: KeptOutside {
                            what: "what its connectors keep outside".to_owned(),
                            by_hand: "The pages of the connectors in the manual say what that is.".to_owned(),
                        },
                        reason: error.to_string(),
                    });
                }
            }
        }
        leftovers.extend(forget_uses(uses).await);
        leftovers
    }

    /// What the pipeline keeps outside by its definition in `snapshot`.
    pub(super) async fn uses_in(
        &self,
        pipeline: &Pipeline,
        snapshot: &Arc<CatalogSnapshot>,
    ) -> Result<Vec<OutsideUse>> {
        let settings = settings_of(snapshot, pipeline, self.shared.defaults)?;
        let graph = compile_in(&self.shared, pipeline, settings.parallelism, Arc::clone(snapshot)).await?;
        Ok(outside_uses(pipeline, &graph))
    }
}

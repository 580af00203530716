//! CREATE OR REPLACE of a pipeline that exists: it keeps its name, OID and history, and what of its state the new definition
//! can use.
//!
//!     stop with a checkpoint > commit what sinks had prepared > exchange the definition (one metadata transaction) > start
//!
//! Which state is kept is not written down anywhere: the definition says after which run it counts, and a start from a
//! checkpoint of an earlier run compares the operators ([`evolve`]). So a crash between any two steps leaves the old
//! pipeline, which runs on, or the new one, which starts from the same checkpoint.
//!
//! Guarantee: no output of the old definition is pending when the new one counts. Not guaranteed: that nothing else starts
//! the pipeline from another process meanwhile; there is one coordinator.

use std::time::Duration;

use tracing::info;

use crate::catalog::change::{Change, PipelineReplacement, plan};
use crate::catalog::jobs::{CheckpointRecord, JobFilter};
use crate::catalog::objects::Pipeline;
use crate::engine::coordinator::evolution::{Evolution, SavedLineages, evolve};
use crate::engine::coordinator::forget::{Leftover, OutsideUse, forget_uses, outside_uses};
use crate::engine::coordinator::job::StopGoal;
use crate::engine::coordinator::job_task::Command;
use crate::engine::coordinator::kept_table::settings_of;
use crate::engine::coordinator::recovery::{
    CHECKPOINTS_TRIED, StartFrom, catalog_error, compile, is_damage, pipeline_of, settle_commits,
};
use crate::engine::coordinator::{Coordinator, Result, Shared, lock, persistence};
use crate::engine::error::Error;
use crate::engine::graph::JobGraph;
use crate::error::{ErrorReport, SqlState};
use crate::ids::{Generation, JobId, Oid};

/// How long the last checkpoint of the old definition is waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// The new definition of a pipeline.
pub struct Replacement {
    /// Under the OID of the old one.
    pub pipeline: Pipeline,
    pub depends_on: Vec<Oid>,
    /// What else changes in the catalog with it.
    pub also: Vec<Change>,
    /// What it runs.
    pub graph: JobGraph,
    /// Whatever speaks against it.
    pub anyway: bool,
    /// When the definition that it was compared with was last changed.
    pub seen_at_micros: i64,
}

impl Replacement {
    /// In the catalog; `counts_after`: the newest run of the old definition.
    fn changes(&self, evolution: &Evolution, counts_after: Generation) -> Vec<Change> {
        let replaced = Change::ReplacePipeline(Box::new(PipelineReplacement {
            pipeline: Pipeline {
                counts_after,
                ..self.pipeline.clone()
            },
            depends_on: self.depends_on.clone(),
            seen_at_micros: self.seen_at_micros,
            keeps_result: evolution.keeps_result(&self.graph),
        }));
        std::iter::once(replaced).chain(self.also.iter().cloned()).collect()
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Replaced {
    /// The new definition's run.
    pub job: Option<JobId>,
    /// What the old definition had outside, the new one does not use, and could not be removed.
    pub leftovers: Vec<Leftover>,
}

/// A pipeline that is being replaced: nothing else starts it.
struct Held<'a> {
    coordinator: &'a Coordinator,
    pipeline: Oid,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        lock(&self.coordinator.replacing).remove(&self.pipeline);
    }
}

impl Coordinator {
    /// What a replacement by `graph` could go on with if it came now.
    pub async fn evolution(&self, pipeline: Oid, graph: &JobGraph) -> Result<Evolution> {
        let mut saved = saved_lineages(&self.shared, pipeline).await?;
        if saved.is_none() && self.is_running(pipeline) {
            // It will take its first checkpoint when it stops.
            let old = pipeline_of(&self.shared, pipeline)?;
            let settings = settings_of(&self.shared.catalog.snapshot(), &old, self.shared.defaults)?;
            saved = Some(SavedLineages::of_graph(
                &compile(&self.shared, &old, settings.parallelism).await?,
            ));
        }
        Ok(evolve(&saved.unwrap_or_default(), graph))
    }

    /// Replaces the pipeline. After an error it is what it was, and runs if it did.
    pub async fn replace(&self, replacement: Replacement) -> Result<Replaced> {
        let oid = replacement.pipeline.header.oid;
        let old = pipeline_of(&self.shared, oid)?;
        let mut unused = self.uses_before(&old).await;
        // It keeps its public id, of which the names outside are made.
        let used = outside_uses(&old, &replacement.graph);
        unused.retain(|before| used.iter().all(|now| now.by != before.by));
        let held = self.hold(&old)?;
        self.check_before_the_stop(&replacement).await?;
        let was_running = self.is_running(oid);
        if was_running {
            self.stop_for_another(oid).await;
        }
        let exchanged = self.exchange(&replacement).await;
        drop(held);
        let now = pipeline_of(&self.shared, oid)?;
        if exchanged.is_ok() && !now.desired_running {
            self.load_result(&now);
        }
        let started = match now.desired_running && (was_running || exchanged.is_ok()) {
            true => self.launch(&now, StartFrom::Newest).map(Some),
            false => Ok(None),
        };
        let job = exchanged.and(started)?;
        let leftovers = forget_uses(unused).await;
        Ok(Replaced { job, leftovers })
    }

    /// What the old definition keeps outside; nothing of one that does not compile any more.
    async fn uses_before(&self, old: &Pipeline) -> Vec<OutsideUse> {
        match self.uses_in(old, &self.shared.catalog.snapshot()).await {
            Ok(uses) => uses,
            Err(error) => {
                info!(pipeline = old.header.name, %error, "what the old definition keeps outside is not known");
                Vec::new()
            }
        }
    }

    /// With a checkpoint. One that does not come is done without: what was processed since the one before comes again.
    async fn stop_for_another(&self, pipeline: Oid) {
        // Not the user's wish: a server that crashes before the exchange starts the old definition again.
        let goal = StopGoal::Shutdown;
        let stop = |at_once: bool| self.ask(pipeline, move |answer| Command::Stop { goal, at_once, answer });
        // One that ends by itself in the meantime is just as well.
        if tokio::time::timeout(STOP_TIMEOUT, stop(false)).await.is_err() {
            let _ = stop(true).await;
        }
        self.wait_ended(pipeline).await;
    }

    /// What can be said at once is said while the old definition runs.
    async fn check_before_the_stop(&self, replacement: &Replacement) -> Result<()> {
        let pipeline = &replacement.pipeline;
        let evolution = self.evolution(pipeline.header.oid, &replacement.graph).await?;
        if !replacement.anyway {
            check(&pipeline.header.name, &evolution, &replacement.graph)?;
        }
        let changes = replacement.changes(&evolution, Generation::default());
        plan(
            &self.shared.catalog.snapshot(),
            &changes,
            self.shared.clock.now_micros(),
        )
        .map(drop)
        .map_err(catalog_error)
    }

    fn hold(&self, pipeline: &Pipeline) -> Result<Held<'_>> {
        let oid = pipeline.header.oid;
        if !lock(&self.replacing).insert(oid) {
            return Err(being_replaced(pipeline));
        }
        Ok(Held {
            coordinator: self,
            pipeline: oid,
        })
    }

    /// Refused while the definition is being exchanged.
    pub(super) fn check_not_replaced(&self, pipeline: &Pipeline) -> Result<()> {
        match lock(&self.replacing).contains(&pipeline.header.oid) {
            true => Err(being_replaced(pipeline)),
            false => Ok(()),
        }
    }

    /// Nothing of the pipeline runs.
    async fn exchange(&self, replacement: &Replacement) -> Result<()> {
        let oid = replacement.pipeline.header.oid;
        settle_commits(&self.shared, oid).await?;
        let saved = saved_lineages(&self.shared, oid).await?.unwrap_or_default();
        let evolution = evolve(&saved, &replacement.graph);
        if !replacement.anyway {
            check(&replacement.pipeline.header.name, &evolution, &replacement.graph)?;
        }
        let keeps_result = evolution.keeps_result(&replacement.graph);
        let renames = pipeline_of(&self.shared, oid)?.columns != replacement.pipeline.columns;
        let changes = replacement.changes(&evolution, self.newest_generation(oid).await?);
        self.shared.catalog.apply(changes).await.map_err(catalog_error)?;
        if !keeps_result || renames {
            // Whoever reads from now on gets the new columns, or waits for them.
            self.shared.history.forget_result(oid);
        }
        Ok(())
    }

    async fn newest_generation(&self, pipeline: Oid) -> Result<Generation> {
        let filter = JobFilter {
            pipeline: Some(pipeline),
            latest_only: true,
        };
        let records = self.shared.catalog.store().jobs(filter).await.map_err(catalog_error)?;
        Ok(records
            .first()
            .map_or_else(Generation::default, |record| record.generation))
    }
}

/// An error when the result would not be right.
fn check(name: &str, evolution: &Evolution, graph: &JobGraph) -> Result<()> {
    let objections = evolution.objections(graph);
    if objections.is_empty() {
        return Ok(());
    }
    let report = ErrorReport::new(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("pipeline \"{name}\" cannot be computed again as if it had always been so"),
    );
    Err(Error::Reported(report.with_detail(objections.join("\n")).with_hint(
        "EXPLAIN REPLACE PIPELINE shows what is kept. To replace it all the same: WITH (rebuild = 'anyway'). Or create another pipeline.",
    )))
}

fn being_replaced(pipeline: &Pipeline) -> Error {
    Error::Busy {
        pipeline: pipeline.header.name.clone(),
        state: "being replaced",
    }
}

/// Of the newest checkpoint that can be read; `None`: there is none.
async fn saved_lineages(shared: &Shared, pipeline: Oid) -> Result<Option<SavedLineages>> {
    let records: Vec<CheckpointRecord> = shared
        .catalog
        .store()
        .latest_checkpoints(pipeline, CHECKPOINTS_TRIED)
        .await
        .map_err(catalog_error)?;
    for record in &records {
        match persistence::load(&shared.storage, &record.manifest_path).await {
            Ok(manifest) => return Ok(Some(persistence::saved_lineages(&manifest))),
            Err(error) if is_damage(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

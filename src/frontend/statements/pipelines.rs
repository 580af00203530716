//! The life of pipelines: START, STOP, RESTART, CHECKPOINT, WAIT FOR; FLUSH.

use std::time::Duration;

use crate::catalog::objects::Pipeline;
use crate::catalog::snapshot::QualifiedName;
use crate::engine::coordinator::{StartRequest, StopMode, WaitFor};
use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::Notice;
use crate::frontend::response::Response;
use crate::frontend::session::{Outcome, Session, uninterrupted};
use crate::frontend::settings::values;
use crate::frontend::sql::statement::{StopWord, WaitForPipeline};
use crate::frontend::statements::create_pipeline::{tell_started, wait_for};
use crate::ids::Epoch;

/// How long STOP waits for the last checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

pub async fn start(session: &mut Session, name: &QualifiedName) -> Result<Response> {
    session.refuse_in_block("START PIPELINE")?;
    let pipeline = session.pipeline(name)?;
    start_from(session, &pipeline, None).await?;
    Ok(Response::complete("START PIPELINE"))
}

async fn start_from(session: &mut Session, pipeline: &Pipeline, restart_from: Option<Epoch>) -> Result<()> {
    let server = std::sync::Arc::clone(&session.server);
    let oid = pipeline.header.oid;
    let job = uninterrupted("start pipeline", async move {
        let request = StartRequest {
            pipeline: oid,
            restart_from,
        };
        Ok(server.coordinator.start(request).await?)
    })
    .await?;
    let outcome = Outcome {
        started: vec![(oid, job)],
        ..Outcome::default()
    };
    tell_started(session, &pipeline.header.name, &outcome);
    Ok(())
}

pub async fn stop(session: &mut Session, name: &QualifiedName, word: StopWord) -> Result<Response> {
    session.refuse_in_block("STOP PIPELINE")?;
    let pipeline = session.pipeline(name)?;
    let mode = match word {
        StopWord::Default => StopMode::Graceful,
        StopWord::WithCheckpoint => StopMode::Checkpoint,
        StopWord::Now => StopMode::Immediate,
    };
    stop_running(session, &pipeline, mode).await?;
    Ok(Response::complete("STOP PIPELINE"))
}

async fn stop_running(session: &Session, pipeline: &Pipeline, mode: StopMode) -> Result<()> {
    let server = std::sync::Arc::clone(&session.server);
    let oid = pipeline.header.oid;
    uninterrupted("stop pipeline", async move {
        Ok(server.coordinator.stop(oid, mode, STOP_TIMEOUT).await?)
    })
    .await
}

/// Without a checkpoint: a last one is taken and the pipeline goes on from it. With one: what came after it is undone.
pub async fn restart(session: &mut Session, name: &QualifiedName, from: Option<u64>) -> Result<Response> {
    session.refuse_in_block("RESTART PIPELINE")?;
    let pipeline = session.pipeline(name)?;
    let oid = pipeline.header.oid;
    if let Some(epoch) = from {
        check_checkpoint(session, &pipeline, Epoch(epoch)).await?;
    }
    let running = session
        .server
        .coordinator
        .job(oid)
        .is_some_and(|job| !job.state.is_terminal());
    if running {
        let mode = if from.is_some() {
            StopMode::Immediate
        } else {
            StopMode::Checkpoint
        };
        stop_running(session, &pipeline, mode).await?;
    }
    start_from(session, &pipeline, from.map(Epoch)).await?;
    Ok(Response::complete("RESTART PIPELINE"))
}

async fn check_checkpoint(session: &Session, pipeline: &Pipeline, epoch: Epoch) -> Result<()> {
    // Epoch 0 is empty state.
    if epoch == Epoch(0) {
        return Ok(());
    }
    let known = session
        .server
        .catalog
        .store()
        .latest_checkpoints(pipeline.header.oid, usize::MAX >> 1)
        .await?;
    if known.iter().any(|checkpoint| checkpoint.epoch == epoch) {
        return Ok(());
    }
    Err(Error::user_with_hint(
        SqlState::UNDEFINED_OBJECT,
        format!("pipeline \"{}\" has no checkpoint {epoch}", pipeline.header.name),
        format!(
            "SHOW CHECKPOINTS FOR PIPELINE {} lists them.",
            crate::frontend::sql::identifier::quote(&pipeline.header.name)
        ),
    ))
}

pub async fn checkpoint(session: &mut Session, name: &QualifiedName, label: Option<&str>) -> Result<Response> {
    session.refuse_in_block("CHECKPOINT PIPELINE")?;
    let pipeline = session.pipeline(name)?;
    let epoch = session
        .server
        .coordinator
        .checkpoint(pipeline.header.oid, label.map(str::to_owned))
        .await?;
    session.tell(Notice::of(format!(
        "checkpoint {epoch} of pipeline \"{}\" is complete",
        pipeline.header.name
    )));
    Ok(Response::complete(if label.is_some() {
        "CREATE CHECKPOINT"
    } else {
        "CHECKPOINT"
    }))
}

pub async fn wait(session: &mut Session, wait: &WaitForPipeline) -> Result<Response> {
    session.refuse_in_block("WAIT FOR PIPELINE")?;
    let pipeline = session.pipeline(&wait.name)?;
    let goal = wait_for(wait.until);
    let coordinator = session.server.coordinator.clone();
    let waiting = coordinator.wait(pipeline.header.oid, goal);
    match &wait.timeout {
        None => waiting.await?,
        Some(text) => {
            tokio::time::timeout(values::timeout(text)?, waiting)
                .await
                .map_err(|_| timed_out(&pipeline))??;
        }
    }
    Ok(Response::complete("WAIT"))
}

fn timed_out(pipeline: &Pipeline) -> Error {
    Error::user(
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("pipeline \"{}\" is not there yet", pipeline.header.name),
    )
}

/// Waits until every running pipeline has made visible what has reached it.
pub async fn flush(session: &mut Session) -> Result<Response> {
    let coordinator = session.server.coordinator.clone();
    let running = coordinator.jobs().into_iter().filter(|job| !job.state.is_terminal());
    let waits = running.map(|job| {
        let coordinator = coordinator.clone();
        async move {
            // A checkpoint is also a barrier through all operators: what came before it is visible after it. One that
            // ends or fails in the meantime has nothing more to show.
            let epoch = coordinator.checkpoint(job.pipeline, None).await.ok()?;
            coordinator.wait(job.pipeline, WaitFor::Epoch(epoch)).await.ok()
        }
    });
    futures::future::join_all(waits).await;
    Ok(Response::complete("FLUSH"))
}

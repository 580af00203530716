//! From computed changes to an answer that may be given: into the mailbox, a checkpoint, its decision.
//!
//! Many commits share a checkpoint: those that come while one is being written wait for the next.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::engine::internal_tables::{Fate, InternalTable, Run, WriteGuard};
use crate::error::{Blame, ErrorReport, Retry, SqlState};
use crate::frontend::context::ServerContext;
use crate::frontend::error::Result;
use crate::frontend::session::uninterrupted;
use crate::ids::Oid;

/// How long the outcome of a commit is looked for when the table's job has failed under it.
const OUTCOME_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// The changes of a statement or a transaction, with the right to make them.
pub struct Piece {
    pub table: Oid,
    pub name: String,
    pub internal: Arc<InternalTable>,
    pub guard: WriteGuard,
    pub run: Run,
    pub rows: RecordBatch,
    pub weights: Vec<i64>,
}

/// Makes the changes durable. Goes on when the client does not wait.
pub async fn commit(server: &Arc<ServerContext>, piece: Piece) -> Result<()> {
    let server = Arc::clone(server);
    uninterrupted("commit rows", async move { make_durable(&server, piece).await }).await
}

async fn make_durable(server: &ServerContext, piece: Piece) -> Result<()> {
    let Piece {
        table,
        name,
        internal,
        guard,
        run,
        rows,
        weights,
    } = piece;
    let sequence = internal.put(run, rows, weights)?;
    // Whoever is next sees the changes, and may share the checkpoint.
    drop(guard);
    let decided = async {
        internal.taken(run, sequence).await?;
        server.coordinator.checkpoint(table, None).await
    };
    let failure = match decided.await {
        Ok(_) => match internal.fate(run, sequence) {
            Fate::Open | Fate::Durable => return Ok(()),
            // The checkpoint was one of a later run.
            Fate::Lost => lost(&name, None),
        },
        Err(error) => {
            let reason = error.to_string();
            // The next run knows whether the changes had been decided.
            let _ = tokio::time::timeout(OUTCOME_TIMEOUT, internal.next_run(run)).await;
            match internal.fate(run, sequence) {
                Fate::Durable => return Ok(()),
                Fate::Lost => lost(&name, Some(reason)),
                Fate::Open => unknown(&name, reason),
            }
        }
    };
    Err(failure.into())
}

fn lost(name: &str, reason: Option<String>) -> ErrorReport {
    let message = format!("could not make the changes of table \"{name}\" durable; nothing of them was kept");
    ErrorReport {
        detail: reason,
        blame: Blame::External,
        retry: Retry::Backoff,
        ..ErrorReport::new(SqlState::SERIALIZATION_FAILURE, message).with_hint("Run the statement again.")
    }
}

fn unknown(name: &str, reason: String) -> ErrorReport {
    let message = format!("it is not known whether the changes of table \"{name}\" are durable");
    ErrorReport {
        detail: Some(reason),
        blame: Blame::External,
        ..ErrorReport::new(SqlState::TRANSACTION_RESOLUTION_UNKNOWN, message)
            .with_hint("Look whether they are there before you run the statement again.")
    }
}

//! One statement's hold on a table: the write lock, and the rows as the statement sees them.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;

use crate::catalog::jobs::JobState;
use crate::catalog::objects::Table;
use crate::engine::coordinator::WaitFor;
use crate::engine::internal_tables::{Change, InternalTable, Run, WriteGuard};
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::error::{Error, Result};
use crate::frontend::relations::at_latest_epoch;
use crate::frontend::session::Session;
use crate::frontend::statements::dml::commit;
use crate::frontend::table_rows::{ChangedRows, SignedRows, internal};
use crate::ids::Oid;
use crate::planner::batch::ResultRows;
use crate::planner::dml::rules::RowRules;

/// How long a statement waits for the job of a table that is just starting.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Changes of a transaction are put together until they are so many rows: few pieces are looked at faster than many.
const PIECE_ROWS_MAX: usize = 65_536;

/// What an open transaction has done to its table, and the lock that it keeps to its end.
pub struct TableWrites {
    pub table: Table,
    pub internal: Arc<InternalTable>,
    pub guard: WriteGuard,
    pub run: Run,
    pub pending: Vec<SignedRows>,
}

/// How much a transaction had changed when a savepoint was set: pieces, and rows of the last.
#[derive(Clone, Copy, Debug, Default)]
pub struct WritesMark {
    pieces: usize,
    rows: usize,
}

impl TableWrites {
    pub fn mark(&self) -> WritesMark {
        WritesMark {
            pieces: self.pending.len(),
            rows: self.pending.last().map_or(0, |last| last.rows.num_rows()),
        }
    }

    /// Undoes what came after the mark.
    pub fn back_to(&mut self, mark: WritesMark) {
        self.pending.truncate(mark.pieces);
        if let Some(last) = self.pending.last_mut() {
            last.rows = last.rows.slice(0, mark.rows);
            last.weights.truncate(mark.rows);
        }
    }

    pub fn add(&mut self, change: SignedRows) -> Result<()> {
        match self.pending.last_mut() {
            Some(last) if last.rows.num_rows() + change.rows.num_rows() <= PIECE_ROWS_MAX => {
                last.rows = concat_batches(&last.rows.schema(), [&last.rows, &change.rows]).map_err(internal)?;
                last.weights.extend(change.weights);
            }
            _ => self.pending.push(change),
        }
        Ok(())
    }

    /// The table's rows as the transaction sees them.
    pub fn rows(&self, session: &Session) -> Result<Arc<dyn ResultRows>> {
        rows_now(session, &self.table, &self.internal, self.run, &self.pending)
    }

    /// Everything as one piece; `None` when nothing was changed.
    pub fn into_piece(self) -> Result<Option<commit::Piece>> {
        let Some(first) = self.pending.first() else {
            return Ok(None);
        };
        let rows = concat_batches(&first.rows.schema(), self.pending.iter().map(|change| &change.rows));
        let rows = rows.map_err(internal)?;
        let weights = self.pending.iter().flat_map(|change| change.weights.iter().copied());
        Ok((rows.num_rows() > 0).then(|| commit::Piece {
            table: self.table.header.oid,
            name: self.table.header.name.clone(),
            internal: self.internal,
            guard: self.guard,
            run: self.run,
            weights: weights.collect(),
            rows,
        }))
    }
}

/// A statement that may write to its table.
pub struct Writer {
    /// Outside of a transaction block; inside, the transaction has them.
    writes: Option<TableWrites>,
    pub rules: RowRules,
    /// The rows before the statement.
    pub rows: Arc<dyn ResultRows>,
}

impl Writer {
    /// Waits for its turn, which outside of a transaction block ends with the statement, also when it fails or is cancelled.
    pub async fn begin(session: &mut Session, table: &Table) -> Result<Writer> {
        let rules = RowRules::of(table, &session.snapshot(), &session.planner_settings())?;
        check_transaction(session, table)?;
        let mut own = None;
        if session.transaction.writes().is_none() {
            let writes = lock(session, table).await?;
            match session.in_block() {
                true => session.transaction.keep_writes(writes),
                false => own = Some(writes),
            }
        }
        let writes = own.as_ref().or(session.transaction.writes());
        let rows = match writes {
            Some(writes) => writes.rows(session)?,
            None => return Err(Error::Internal("a writer without a table".to_owned())),
        };
        Ok(Writer {
            writes: own,
            rules,
            rows,
        })
    }

    /// Commits what the statement changes, or keeps it for the end of the transaction.
    pub async fn finish(self, session: &mut Session, removed: &RecordBatch, added: &RecordBatch) -> Result<()> {
        let change = SignedRows::of(removed, added)?;
        if change.weights.is_empty() {
            return Ok(());
        }
        let Some(mut writes) = self.writes else {
            return session.transaction.add_rows(change);
        };
        writes.add(change)?;
        match writes.into_piece()? {
            Some(piece) => commit::commit(session.server(), piece).await,
            None => Ok(()),
        }
    }
}

fn check_transaction(session: &Session, table: &Table) -> Result<()> {
    if !session.in_block() {
        return Ok(());
    }
    if session.transaction.snapshot().is_some() {
        return Err(Error::not_supported(
            "a transaction that changes both definitions and rows",
            "COMMIT the definitions first.",
        ));
    }
    match session.transaction.writes() {
        Some(writes) if writes.table.header.oid != table.header.oid => Err(Error::not_supported(
            format!(
                "a transaction that changes two tables (\"{}\" and \"{}\")",
                writes.table.header.name, table.header.name
            ),
            "COMMIT the changes of one table first.",
        )),
        _ => Ok(()),
    }
}

async fn lock(session: &Session, table: &Table) -> Result<TableWrites> {
    let oid = table.header.oid;
    let internal = session.server().tables.get(oid);
    restart_failed(session, table)?;
    let guard = internal.lock().await;
    let run = opened(session, &internal, table).await?;
    Ok(TableWrites {
        table: table.clone(),
        internal,
        guard,
        run,
        pending: Vec::new(),
    })
}

/// Waits until the job of a table has published what it restored; an error when it cannot.
pub async fn opened(session: &Session, internal: &InternalTable, table: &Table) -> Result<Run> {
    let coordinator = &session.server().coordinator;
    let both = async {
        tokio::select! {
            biased;
            run = internal.opened() => Ok(run?),
            // Such a job never finishes: this is how it has failed.
            ended = coordinator.wait(table.header.oid, WaitFor::Finished) => Err(not_there(table, ended.err())),
        }
    };
    tokio::time::timeout(START_TIMEOUT, both)
        .await
        .map_err(|_| not_there(table, None))?
}

/// A job that gave up is tried again by whoever needs it.
fn restart_failed(session: &Session, table: &Table) -> Result<()> {
    let coordinator = &session.server().coordinator;
    match coordinator.job(table.header.oid) {
        Some(job) if job.state == JobState::Failed => Ok(coordinator.start_table(table)?),
        _ => Ok(()),
    }
}

fn not_there(table: &Table, reason: Option<crate::engine::error::Error>) -> Error {
    let message = format!("the rows of table \"{}\" are not there", table.header.name);
    let mut report = ErrorReport::new(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message);
    report.detail = Some(match reason {
        Some(error) => format!("The job that keeps the table has ended: {}.", error.report().message),
        None => "They are still being restored.".to_owned(),
    });
    report
        .with_hint("SHOW JOBS and SHOW EVENTS tell more; try again.")
        .into()
}

/// What the job has published, what is on its way to it, and `pending`.
fn rows_now(
    session: &Session,
    table: &Table,
    internal_table: &InternalTable,
    run: Run,
    pending: &[SignedRows],
) -> Result<Arc<dyn ResultRows>> {
    let server = session.server();
    let (base, recent) = internal_table.recent(run, || at_latest_epoch(&server.results, table.header.oid))?;
    let mut changes: Vec<SignedRows> = recent.iter().map(signed).collect();
    changes.extend(pending.iter().cloned());
    match changes.is_empty() {
        true => Ok(base),
        false => Ok(Arc::new(ChangedRows::of(base, &changes)?)),
    }
}

fn signed(change: &Change) -> SignedRows {
    SignedRows {
        rows: change.rows.clone(),
        weights: change.weights.to_vec(),
    }
}

/// The relation of a transaction's own table, when it has one.
pub fn own_rows(session: &Session) -> Option<(Oid, Result<Arc<dyn ResultRows>>)> {
    let writes = session.transaction.writes()?;
    Some((writes.table.header.oid, writes.rows(session)))
}

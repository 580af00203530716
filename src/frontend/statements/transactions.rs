//! BEGIN, COMMIT, ROLLBACK, savepoints. A block changes either definitions or the rows of one internal table.

use crate::catalog::change::Change;
use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::Notice;
use crate::frontend::response::Response;
use crate::frontend::session::{Outcome, Session};
use crate::frontend::sql::statement::Transaction;
use crate::frontend::statements::create_pipeline::tell_started;
use crate::frontend::statements::dml::{self, TableWrites};
use crate::frontend::transaction::TransactionStatus;

pub async fn run(session: &mut Session, transaction: &Transaction) -> Result<Response> {
    match transaction {
        Transaction::Begin { tag, read_only } => Ok(begin(session, tag, *read_only)),
        Transaction::Commit { chain } => commit(session, *chain).await,
        Transaction::Rollback { chain } => Ok(rollback(session, *chain)),
        Transaction::Savepoint(name) => savepoint(session, name),
        Transaction::Release(name) => release(session, name),
        Transaction::RollbackTo(name) => rollback_to(session, name),
    }
}

fn begin(session: &mut Session, tag: &str, read_only: Option<bool>) -> Response {
    if session.in_block() {
        session.tell(Notice::warning(
            SqlState::ACTIVE_SQL_TRANSACTION,
            "there is already a transaction in progress",
        ));
        return Response::complete(tag);
    }
    let read_only = read_only.unwrap_or_else(|| session.settings.is_on("default_transaction_read_only"));
    session.transaction.begin(read_only);
    session.settings.begin_transaction();
    Response::complete(tag)
}

/// The block's changes are applied in one metadata transaction; an error leaves nothing of them.
async fn commit(session: &mut Session, chain: bool) -> Result<Response> {
    match session.transaction.status {
        TransactionStatus::Idle => {
            no_transaction(session);
            return Ok(Response::complete("COMMIT"));
        }
        TransactionStatus::Failed => return Ok(rollback(session, chain)),
        TransactionStatus::InTransaction => {}
    }
    let read_only = session.transaction.read_only;
    let (changes, writes) = session.transaction.end();
    session.cursors.end_transaction();
    if let Err(error) = apply(session, changes, writes).await {
        session.settings.end_transaction(false);
        return Err(error);
    }
    session.settings.end_transaction(true);
    if chain {
        begin(session, "BEGIN", Some(read_only));
    }
    Ok(Response::complete("COMMIT"))
}

async fn apply(session: &mut Session, changes: Vec<Change>, writes: Option<TableWrites>) -> Result<()> {
    if !changes.is_empty() {
        let outcome = session.apply_now(changes).await?;
        tell_all_started(session, outcome);
    }
    match writes.map(TableWrites::into_piece).transpose()?.flatten() {
        Some(piece) => dml::commit::commit(session.server(), piece).await,
        None => Ok(()),
    }
}

fn tell_all_started(session: &mut Session, outcome: Outcome) {
    let snapshot = session.snapshot();
    for started in outcome.started {
        if let Some(object) = snapshot.get(started.0) {
            let one = Outcome {
                started: vec![started],
                ..Outcome::default()
            };
            tell_started(session, &object.header().name, &one);
        }
    }
}

fn rollback(session: &mut Session, chain: bool) -> Response {
    if !session.in_block() {
        no_transaction(session);
        return Response::complete("ROLLBACK");
    }
    let read_only = session.transaction.read_only;
    drop(session.transaction.end());
    session.cursors.end_transaction();
    session.settings.end_transaction(false);
    if chain {
        begin(session, "BEGIN", Some(read_only));
    }
    Response::complete("ROLLBACK")
}

fn no_transaction(session: &mut Session) {
    session.tell(Notice::warning(
        SqlState::NO_ACTIVE_SQL_TRANSACTION,
        "there is no transaction in progress",
    ));
}

fn savepoint(session: &mut Session, name: &str) -> Result<Response> {
    require_block(session, "SAVEPOINT")?;
    session.transaction.savepoint(name);
    Ok(Response::complete("SAVEPOINT"))
}

fn release(session: &mut Session, name: &str) -> Result<Response> {
    require_block(session, "RELEASE SAVEPOINT")?;
    session.transaction.release(name)?;
    Ok(Response::complete("RELEASE"))
}

fn rollback_to(session: &mut Session, name: &str) -> Result<Response> {
    require_block(session, "ROLLBACK TO SAVEPOINT")?;
    let now = session.server.clock.now_micros();
    session.transaction.rollback_to(name, now)?;
    Ok(Response::complete("ROLLBACK"))
}

fn require_block(session: &Session, command: &str) -> Result<()> {
    if session.in_block() {
        return Ok(());
    }
    Err(Error::user(
        SqlState::NO_ACTIVE_SQL_TRANSACTION,
        format!("{command} can only be used in transaction blocks"),
    ))
}

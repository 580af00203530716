//! SET, SHOW of settings, RESET, DISCARD.

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::Notice;
use crate::frontend::response::{Response, RowsTag, text_schema};
use crate::frontend::session::Session;
use crate::frontend::sql::statement::{DiscardKind, Set, SetScope};
use crate::frontend::transaction::TransactionStatus;

pub fn set(session: &mut Session, set: &Set) -> Result<Response> {
    check_role(session, set)?;
    let in_block = session.transaction.status != TransactionStatus::Idle;
    if set.scope == SetScope::Local && !in_block {
        session.tell(Notice::warning(
            SqlState::NO_ACTIVE_SQL_TRANSACTION,
            "SET LOCAL can only be used in transaction blocks",
        ));
        return Ok(Response::complete("SET"));
    }
    // These are of the transaction, whatever the words were.
    let of_transaction = set.name.starts_with("transaction_");
    if of_transaction && !in_block {
        session.tell(Notice::warning(
            SqlState::NO_ACTIVE_SQL_TRANSACTION,
            "SET TRANSACTION can only be used in transaction blocks",
        ));
        return Ok(Response::complete("SET"));
    }
    let scope = if of_transaction { SetScope::Local } else { set.scope };
    session.settings.set(scope, &set.name, set.value.as_deref())?;
    Ok(Response::complete("SET"))
}

/// There is one role a session: that of who logged in.
fn check_role(session: &Session, set: &Set) -> Result<()> {
    if set.name != "role" && set.name != "session_authorization" {
        return Ok(());
    }
    match set.value.as_deref() {
        None | Some("none") => Ok(()),
        Some(role) if role == session.user => Ok(()),
        Some(role) => Err(Error::user_with_hint(
            SqlState::INSUFFICIENT_PRIVILEGE,
            format!("permission denied to set role \"{role}\""),
            "Connect as that user.",
        )),
    }
}

pub fn show(session: &Session, name: &str) -> Result<Response> {
    let value = session.settings.show(name)?;
    // The column is named as the setting is written in the list of all.
    let shown = crate::frontend::settings::definitions::find(name).map_or(name, |definition| definition.name);
    Ok(Response::text_table(
        text_schema(&[shown]),
        &[vec![Some(value)]],
        RowsTag::Fixed("SHOW".to_owned()),
    )?)
}

pub fn show_all(session: &Session) -> Result<Response> {
    let rows: Vec<Vec<Option<String>>> = session
        .settings
        .all()
        .into_iter()
        .map(|(name, value, summary)| vec![Some(name), Some(value), Some(summary)])
        .collect();
    Ok(Response::text_table(
        text_schema(&["name", "setting", "description"]),
        &rows,
        RowsTag::Fixed("SHOW".to_owned()),
    )?)
}

pub fn reset(session: &mut Session, name: Option<&str>) -> Result<Response> {
    match name {
        Some(name) => session.settings.reset(name)?,
        None => session.settings.reset_all(),
    }
    Ok(Response::complete("RESET"))
}

pub fn discard(session: &mut Session, what: DiscardKind) -> Result<Response> {
    let tag = match what {
        DiscardKind::All => {
            session.refuse_in_block("DISCARD ALL")?;
            session.prepared.clear();
            session.cursors.close_all();
            session.settings.reset_all();
            "DISCARD ALL"
        }
        DiscardKind::Plans => "DISCARD PLANS",
        DiscardKind::Sequences => "DISCARD SEQUENCES",
        DiscardKind::Temporary => "DISCARD TEMP",
    };
    Ok(Response::complete(tag))
}

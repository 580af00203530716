//! ALTER of every kind, COMMENT ON.

use crate::catalog::change::Change;
use crate::catalog::objects::{Object, ObjectKind};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::error::{Report, SqlState};
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::Notice;
use crate::frontend::pipeline_options;
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::statement::{Alter, AlterAction, Comment, CommentTarget, SecretText};
use crate::frontend::statements::{connections, secrets};
use crate::ids::Oid;
use crate::options::{RawOptions, normalize_name};

pub async fn alter(session: &mut Session, alter: &Alter) -> Result<Response> {
    let snapshot = session.snapshot();
    let tag = tag(alter.kind);
    let name = match snapshot.require(alter.kind, &alter.name, &session.search_path()) {
        Ok(_) => snapshot.qualify(alter.kind, &alter.name, &session.search_path()),
        Err(error) if alter.if_exists => {
            session.tell(Notice::of(format!("{}, skipping", error.report().message)));
            return Ok(Response::complete(tag));
        }
        Err(error) => return Err(error.into()),
    };
    match &alter.action {
        AlterAction::SetOptions(set) => set_options(session, alter.kind, name, set.clone(), Vec::new()).await?,
        AlterAction::ResetOptions(reset) => {
            set_options(session, alter.kind, name, RawOptions::default(), reset.clone()).await?
        }
        AlterAction::RenameTo(new_name) => rename(session, alter.kind, name, new_name).await?,
        AlterAction::OwnerTo(owner) => set_owner(session, alter.kind, name, owner).await?,
        AlterAction::SetSecret(text) => set_secret(session, &snapshot, name, text).await?,
        AlterAction::SetSchema(_) => {
            return Err(Error::not_supported(
                "ALTER .. SET SCHEMA",
                "Create the object in the other schema: definitions hold names.",
            ));
        }
        AlterAction::AddColumn { .. } | AlterAction::DropColumn { .. } | AlterAction::RenameColumn { .. } => {
            return Err(Error::not_supported(
                "changing the columns of a table",
                "DROP TABLE and CREATE TABLE with the columns that it should have; SHOW CREATE TABLE prints it.",
            ));
        }
    }
    Ok(Response::complete(tag))
}

fn tag(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Schema => "ALTER SCHEMA",
        ObjectKind::Secret => "ALTER SECRET",
        ObjectKind::Connection => "ALTER CONNECTION",
        ObjectKind::Table => "ALTER TABLE",
        ObjectKind::View => "ALTER VIEW",
        ObjectKind::Pipeline => "ALTER PIPELINE",
    }
}

async fn rename(session: &mut Session, kind: ObjectKind, name: QualifiedName, new_name: &str) -> Result<()> {
    session
        .apply(vec![Change::Rename {
            kind,
            name,
            new_name: new_name.to_owned(),
        }])
        .await?;
    Ok(())
}

async fn set_owner(session: &mut Session, kind: ObjectKind, name: QualifiedName, owner: &str) -> Result<()> {
    let owner = match owner {
        "current_user" | "session_user" | "current_role" => session.user.clone(),
        other => other.to_owned(),
    };
    session.apply(vec![Change::SetOwner { kind, name, owner }]).await?;
    Ok(())
}

async fn set_secret(
    session: &mut Session,
    snapshot: &CatalogSnapshot,
    name: QualifiedName,
    text: &SecretText,
) -> Result<()> {
    let secret = snapshot.require(ObjectKind::Secret, &name, &[])?;
    let source = secrets::seal(session, &secret.header().public_id, text)?;
    session.apply(vec![Change::AlterSecret { name, source }]).await?;
    Ok(())
}

async fn set_options(
    session: &mut Session,
    kind: ObjectKind,
    name: QualifiedName,
    set: RawOptions,
    reset: Vec<String>,
) -> Result<()> {
    match kind {
        ObjectKind::Pipeline => set_pipeline_options(session, name, &set, &reset).await,
        ObjectKind::Connection => set_connection_options(session, name, set, reset).await,
        ObjectKind::Table => set_table_options(session, name, set, reset).await,
        _ => Err(Error::user(
            SqlState::WRONG_OBJECT_TYPE,
            format!("a {} has no options", kind.word()),
        )),
    }
}

/// A running pipeline goes on with the new options from its next checkpoint.
async fn set_pipeline_options(
    session: &mut Session,
    name: QualifiedName,
    set: &RawOptions,
    reset: &[String],
) -> Result<()> {
    session.refuse_in_block("ALTER PIPELINE .. SET")?;
    let set = pipeline_options::read_changes(set)?;
    let reset: Vec<String> = reset
        .iter()
        .map(|option| pipeline_options::alterable(option).map(|option| option.name.to_owned()))
        .collect::<Result<_>>()?;
    let pipeline = session.pipeline(&name)?;
    if let Some(parallelism) = set.text("parallelism").and_then(|text| text.trim().parse::<u32>().ok())
        && parallelism > u32::from(pipeline.key_groups)
    {
        return Err(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            format!(
                "parallelism {parallelism} is more than the {} key groups of pipeline \"{}\"",
                pipeline.key_groups, name.name
            ),
        ));
    }
    let kind = ObjectKind::Pipeline;
    session
        .apply(vec![Change::SetOptions { kind, name, set, reset }])
        .await?;
    restart_if_running(session, pipeline.header.oid).await
}

async fn restart_if_running(session: &Session, pipeline: Oid) -> Result<()> {
    let running = session
        .server
        .coordinator
        .job(pipeline)
        .is_some_and(|job| !job.state.is_terminal());
    if running {
        session.server.coordinator.rescale(pipeline).await?;
    }
    Ok(())
}

async fn set_connection_options(
    session: &mut Session,
    name: QualifiedName,
    set: RawOptions,
    reset: Vec<String>,
) -> Result<()> {
    let snapshot = session.snapshot();
    let Object::Connection(connection) = snapshot.require(ObjectKind::Connection, &name, &[])? else {
        return Err(Error::Internal("a connection of another kind".into()));
    };
    if set.get("connector").is_some() || reset.iter().any(|option| normalize_name(option) == "connector") {
        return Err(Error::not_supported(
            "changing the connector of a connection",
            "Create another connection.",
        ));
    }
    let options = changed(&connection.options, &set, &reset);
    connections::check(
        session,
        &connection.connector,
        &options,
        connections::wants_check(&options)?,
    )
    .await?;
    tell_of_running(session, &snapshot, connection.header.oid);
    session
        .apply(vec![Change::SetOptions {
            kind: ObjectKind::Connection,
            name,
            set,
            reset,
        }])
        .await?;
    Ok(())
}

async fn set_table_options(
    session: &mut Session,
    name: QualifiedName,
    set: RawOptions,
    reset: Vec<String>,
) -> Result<()> {
    let snapshot = session.snapshot();
    let Object::Table(table) = snapshot.require(ObjectKind::Table, &name, &[])? else {
        return Err(Error::Internal("a table of another kind".into()));
    };
    if table.is_internal() {
        return Err(Error::not_supported(
            format!(
                "options of table \"{}\", which is connected to nothing,",
                table.header.name
            ),
            "Options are those of a connector.",
        ));
    }
    let fixed = ["connector", "connection", "connection_profile", "type"];
    let named = set.0.iter().map(|(option, _)| option).chain(&reset);
    if let Some(option) = named
        .into_iter()
        .find(|option| fixed.contains(&normalize_name(option).as_str()))
    {
        return Err(Error::not_supported(
            format!("changing the option \"{option}\" of a table"),
            "Create another table.",
        ));
    }
    let mut altered = table.clone();
    altered.options = changed(&table.options, &set, &reset);
    crate::frontend::statements::create_table::check_altered(session, &snapshot, &altered)?;
    tell_of_running(session, &snapshot, table.header.oid);
    session
        .apply(vec![Change::SetOptions {
            kind: ObjectKind::Table,
            name,
            set,
            reset,
        }])
        .await?;
    Ok(())
}

fn changed(options: &RawOptions, set: &RawOptions, reset: &[String]) -> RawOptions {
    let gone = |name: &str| {
        let name = normalize_name(name);
        set.get(&name).is_some() || reset.iter().any(|other| normalize_name(other) == name)
    };
    let kept = options.0.iter().filter(|(name, _)| !gone(name)).cloned();
    RawOptions(kept.chain(set.0.iter().cloned()).collect())
}

/// Options are read when a pipeline starts.
fn tell_of_running(session: &mut Session, snapshot: &CatalogSnapshot, changed: Oid) {
    let mut seen = vec![changed];
    let mut index = 0;
    let mut running = Vec::new();
    while index < seen.len() {
        for dependent in snapshot.dependents(seen[index]) {
            if seen.contains(&dependent.oid()) {
                continue;
            }
            seen.push(dependent.oid());
            let runs = session
                .server
                .coordinator
                .job(dependent.oid())
                .is_some_and(|job| !job.state.is_terminal());
            if runs {
                running.push(dependent.header().name.clone());
            }
        }
        index += 1;
    }
    if !running.is_empty() {
        let message = format!("running pipelines keep the old options: {}", running.join(", "));
        session.tell(Notice::of(message).with_hint("RESTART PIPELINE name makes them read the new ones."));
    }
}

pub async fn comment(session: &mut Session, comment: &Comment) -> Result<Response> {
    let CommentTarget::Object { kind, name } = &comment.target else {
        return Err(Error::not_supported(
            "COMMENT ON COLUMN",
            "Comment on the table: COMMENT ON TABLE name IS '..'.",
        ));
    };
    let name = session.snapshot().qualify(*kind, name, &session.search_path());
    session
        .apply(vec![Change::Comment {
            kind: *kind,
            name,
            comment: comment.text.clone(),
        }])
        .await?;
    Ok(Response::complete("COMMENT"))
}

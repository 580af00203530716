//! CREATE CONNECTION, VALIDATE CONNECTION.

use crate::catalog::change::{Change, NewObject};
use crate::catalog::objects::{Connection, Object, ObjectKind};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::engine::connectors;
use crate::error::SqlState;
use crate::frontend::body::new_header;
use crate::frontend::error::{Error, Result};
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::reading::boolean_word;
use crate::frontend::sql::statement::CreateConnection;
use crate::options::{RawOptionValue, RawOptions};

pub async fn create(session: &mut Session, create: &CreateConnection) -> Result<Response> {
    let name = session.name_to_create(&create.name)?;
    let connector = connector_name(&create.options)?;
    let mut header = new_header(&name);
    header.owner.clone_from(&session.user);
    let connection = Connection {
        header,
        connector,
        options: create.options.clone(),
        description: create.options.text("description").map(str::to_owned),
    };
    let exists = session.snapshot().find(ObjectKind::Connection, &name, &[]).is_some();
    if !exists {
        check(
            session,
            &connection.connector,
            &connection.options,
            wants_check(&create.options)?,
        )
        .await?;
    }
    let object = NewObject {
        object: Object::Connection(connection),
        depends_on: Vec::new(),
    };
    let change = Change::Create {
        object,
        if_not_exists: create.if_not_exists,
        or_replace: false,
    };
    session.apply(vec![change]).await?;
    Ok(Response::complete("CREATE CONNECTION"))
}

pub async fn validate(session: &mut Session, name: &QualifiedName) -> Result<Response> {
    let snapshot = session.snapshot();
    let Object::Connection(connection) = snapshot.require(ObjectKind::Connection, name, &session.search_path())? else {
        return Err(Error::Internal("a connection of another kind".into()));
    };
    check(session, &connection.connector, &connection.options, true).await?;
    Ok(Response::complete("VALIDATE CONNECTION"))
}

/// Checks the options by the connector's description and, when asked, reaches out.
pub(crate) async fn check(session: &mut Session, connector: &str, options: &RawOptions, reach_out: bool) -> Result<()> {
    let connector = connectors::find(connector)?;
    let resolved = resolved_options(&session.snapshot(), session, options)?;
    if reach_out {
        connector.check_connection(&resolved).await?;
        return Ok(());
    }
    connectors::options::OptionReader::for_connection(&connector.describe(), &resolved)?;
    Ok(())
}

fn resolved_options(
    snapshot: &CatalogSnapshot,
    session: &Session,
    options: &RawOptions,
) -> Result<crate::options::ResolvedOptions> {
    let environment = |name: &str| (session.server.environment)(name);
    Ok(snapshot.resolve_options(options, None, &environment)?)
}

fn connector_name(options: &RawOptions) -> Result<String> {
    match options.get("connector") {
        Some(RawOptionValue::Text(name)) => Ok(name.to_lowercase()),
        _ => Err(Error::user_with_hint(
            SqlState::INVALID_PARAMETER_VALUE,
            "a connection needs the option \"connector\"",
            "SHOW CONNECTORS lists them.",
        )),
    }
}

/// `validate = false` leaves out the part that reaches out.
pub(crate) fn wants_check(options: &RawOptions) -> Result<bool> {
    match options.text("validate") {
        None => Ok(true),
        Some(text) => boolean_word(text).ok_or_else(|| {
            Error::user_with_hint(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid value for option \"validate\": \"{text}\""),
                "Expected true or false.",
            )
        }),
    }
}

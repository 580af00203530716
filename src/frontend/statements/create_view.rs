//! CREATE VIEW, CREATE SCHEMA.

use crate::catalog::change::{Change, NewObject};
use crate::catalog::objects::{Object, Schema, View};
use crate::catalog::snapshot::QualifiedName;
use crate::error::SqlState;
use crate::frontend::body::new_header;
use crate::frontend::error::{Error, Result};
use crate::frontend::inline_tables;
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::statement::CreateView;
use crate::frontend::statements::query;
use crate::types::SqlType;

pub async fn create(session: &mut Session, create: &CreateView, source: &str) -> Result<Response> {
    let name = session.name_to_create(&create.name)?;
    if create.query.emit.is_some() {
        return Err(Error::not_supported(
            "EMIT in a view",
            "Say it where the view is used: CREATE PIPELINE .. EMIT ON ...",
        ));
    }
    if inline_tables::has_any(&create.query.query) {
        return Err(Error::not_supported(
            "options of a table in a view",
            "CREATE TABLE with these options, and use it in the view.",
        ));
    }
    // The stored text is read by the planner's parser: it has to read there too.
    crate::planner::dialect::parse_query(&create.query.text)?;
    let planned = query::plan_columns(session, &create.query, source)?;
    let mut columns = Vec::with_capacity(planned.schema.fields().len());
    for (index, field) in planned.schema.fields().iter().enumerate() {
        let name = create.column_names.get(index).unwrap_or_else(|| field.name());
        let sql_type = SqlType::from_arrow_field(field).map_or_else(|| "TEXT".to_owned(), |of| of.to_sql());
        columns.push((name.clone(), sql_type));
    }
    if create.column_names.len() > columns.len() {
        return Err(Error::user(
            SqlState::SYNTAX_ERROR,
            "CREATE VIEW specifies more column names than columns",
        ));
    }
    check_columns(&columns)?;
    let mut header = new_header(&name);
    header.owner.clone_from(&session.user);
    let view = View {
        header,
        query: create.query.text.clone(),
        column_names: create.column_names.clone(),
        columns,
        search_path: session.search_path(),
    };
    let object = NewObject {
        object: Object::View(view),
        depends_on: planned.depends_on,
    };
    let change = Change::Create {
        object,
        if_not_exists: create.if_not_exists,
        or_replace: create.or_replace,
    };
    session.apply(vec![change]).await?;
    Ok(Response::complete("CREATE VIEW"))
}

fn check_columns(columns: &[(String, String)]) -> Result<()> {
    for (index, (name, _)) in columns.iter().enumerate() {
        if columns[..index].iter().any(|(other, _)| other == name) {
            return Err(Error::user_with_hint(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{name}\" specified more than once"),
                "Give the columns names of their own: AS name.",
            ));
        }
    }
    Ok(())
}

pub async fn create_schema(session: &mut Session, if_not_exists: bool, name: &str) -> Result<Response> {
    let mut header = new_header(&QualifiedName::unqualified(name));
    header.owner.clone_from(&session.user);
    let object = NewObject {
        object: Object::Schema(Schema { header }),
        depends_on: Vec::new(),
    };
    session
        .apply(vec![Change::Create {
            object,
            if_not_exists,
            or_replace: false,
        }])
        .await?;
    Ok(Response::complete("CREATE SCHEMA"))
}

//! SHOW CREATE: a statement that makes the same object again. Secrets are named, never shown; one that was written as plain text is
//! masked, and has to be filled in.

use crate::catalog::objects::{
    Column, ColumnKind, Connection, Constraint, ConstraintKind, Object, ObjectHeader, ObjectKind, Pipeline, Secret,
    SecretSource, Table, View,
};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::frontend::error::{Error, Result};
use crate::frontend::masked_options::masked;
use crate::frontend::response::{Response, RowsTag, text_schema};
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::{quote, quote_literal, quote_qualified};
use crate::frontend::sql::options::print;
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions};
use crate::state::key_group::KEY_GROUPS_DEFAULT;

pub fn show_create(session: &Session, kind: ObjectKind, name: &QualifiedName) -> Result<Response> {
    let snapshot = session.snapshot();
    let object = snapshot.require(kind, name, &session.search_path())?;
    let text = create_text(object, &snapshot)?;
    let row = vec![Some(object.header().name.clone()), Some(text)];
    Ok(Response::text_table(
        schema(),
        &[row],
        RowsTag::Fixed("SHOW".to_owned()),
    )?)
}

pub(crate) fn schema() -> arrow::datatypes::SchemaRef {
    text_schema(&["name", "create_statement"])
}

/// The statement that creates `object`.
pub fn create_text(object: &Object, snapshot: &CatalogSnapshot) -> Result<String> {
    Ok(match object {
        Object::Schema(schema) => format!("CREATE SCHEMA {};", quote(&schema.header.name)),
        Object::Secret(secret) => secret_text(secret)?,
        Object::Connection(connection) => connection_text(connection),
        Object::Table(table) => table_text(table, snapshot)?,
        Object::View(view) => view_text(view),
        Object::Pipeline(pipeline) => pipeline_text(pipeline),
    })
}

fn name_of(header: &ObjectHeader) -> String {
    quote_qualified(&QualifiedName {
        schema: header.schema.clone(),
        name: header.name.clone(),
    })
}

fn secret_text(secret: &Secret) -> Result<String> {
    let name = name_of(&secret.header);
    match &secret.source {
        SecretSource::Environment(variable) => {
            Ok(format!("CREATE SECRET {name} FROM ENV {};", quote_literal(variable)))
        }
        SecretSource::File(path) => Ok(format!("CREATE SECRET {name} FROM FILE {};", quote_literal(path))),
        SecretSource::Sealed(_) => Err(Error::not_supported(
            format!("SHOW CREATE of secret \"{}\"", secret.header.name),
            "Nobody can read its value back; secrets FROM ENV and FROM FILE are shown.",
        )),
    }
}

fn with_clause(options: &RawOptions) -> String {
    if options.0.is_empty() {
        return String::new();
    }
    format!(" WITH (\n{}\n)", print(options, "    "))
}

fn connection_text(connection: &Connection) -> String {
    format!(
        "CREATE CONNECTION {}{};",
        name_of(&connection.header),
        with_clause(&masked(&connection.options, Some(&connection.connector)))
    )
}

fn table_text(table: &Table, snapshot: &CatalogSnapshot) -> Result<String> {
    let connection = match table.connection.and_then(|oid| snapshot.get(Oid(oid))) {
        Some(Object::Connection(connection)) => Some(connection.connector.as_str()),
        _ => None,
    };
    let mut options = masked(&table.options, table.options.text("connector").or(connection));
    if let Some(oid) = table.connection {
        let connection = snapshot.get(Oid(oid)).ok_or_else(|| {
            Error::Internal(format!(
                "connection {oid} of table \"{}\" is missing",
                table.header.name
            ))
        })?;
        let header = connection.header();
        let schema = header.schema.as_deref().unwrap_or("public");
        let value = RawOptionValue::Text(format!("{schema}.{}", header.name));
        options.0.insert(0, ("connection".to_owned(), value));
    }
    let mut lines: Vec<String> = table.columns.iter().map(column_text).collect();
    lines.extend(
        table
            .constraints
            .iter()
            .map(|constraint| constraint_text(table, constraint)),
    );
    if !table.primary_key.is_empty() && table.constraints.is_empty() {
        let names: Vec<String> = table.primary_key.iter().map(|name| quote(name)).collect();
        lines.push(format!("PRIMARY KEY ({})", names.join(", ")));
    }
    if let Some(watermark) = &table.watermark {
        let column = quote(&watermark.column);
        lines.push(match &watermark.expression {
            Some(expression) => format!("WATERMARK FOR {column} AS {expression}"),
            None => format!("WATERMARK FOR {column}"),
        });
    }
    let columns = match lines.is_empty() {
        true => String::new(),
        false => format!(" (\n    {}\n)", lines.join(",\n    ")),
    };
    Ok(format!(
        "CREATE TABLE {}{columns}{};",
        name_of(&table.header),
        with_clause(&options)
    ))
}

/// With its name, by which errors call it.
fn constraint_text(table: &Table, constraint: &Constraint) -> String {
    let columns = |names: &[String]| names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ");
    let rule = match &constraint.kind {
        ConstraintKind::PrimaryKey => format!("PRIMARY KEY ({})", columns(&table.primary_key)),
        ConstraintKind::Unique { columns: names } => format!("UNIQUE ({})", columns(names)),
        ConstraintKind::Check { expression } => format!("CHECK ({expression})"),
    };
    format!("CONSTRAINT {} {rule}", quote(&constraint.name))
}

fn column_text(column: &Column) -> String {
    let mut text = format!("{} {}", quote(&column.name), column.sql_type);
    match &column.kind {
        ColumnKind::Physical => {}
        ColumnKind::Metadata(key) => text.push_str(&format!(" METADATA FROM {}", quote_literal(key))),
        ColumnKind::Generated { expression, stored } => {
            let word = if *stored { " STORED" } else { "" };
            text.push_str(&format!(" GENERATED ALWAYS AS ({expression}){word}"));
        }
    }
    if column.not_null {
        text.push_str(" NOT NULL");
    }
    if let Some(default) = &column.default {
        text.push_str(&format!(" DEFAULT {default}"));
    }
    text
}

fn view_text(view: &View) -> String {
    let columns = match view.column_names.as_slice() {
        [] => String::new(),
        names => {
            let names: Vec<String> = names.iter().map(|name| quote(name)).collect();
            format!(" ({})", names.join(", "))
        }
    };
    format!("CREATE VIEW {}{columns} AS\n{};", name_of(&view.header), view.query)
}

fn pipeline_text(pipeline: &Pipeline) -> String {
    let mut options = pipeline.options.clone();
    if pipeline.key_groups != KEY_GROUPS_DEFAULT {
        options.0.push((
            "key_groups".to_owned(),
            RawOptionValue::Text(pipeline.key_groups.to_string()),
        ));
    }
    if !pipeline.desired_running {
        options
            .0
            .push(("start".to_owned(), RawOptionValue::Text("false".to_owned())));
    }
    let kind = if pipeline.materialized_view {
        "MATERIALIZED VIEW"
    } else {
        "PIPELINE"
    };
    format!(
        "CREATE {kind} {}{} AS\n{};",
        name_of(&pipeline.header),
        with_clause(&options),
        pipeline.query
    )
}

//! DESCRIBE, and what the extended protocol asks before it runs a statement.

use arrow::datatypes::SchemaRef;
use datafusion::sql::sqlparser::ast;

use crate::catalog::objects::{Column, ColumnKind, Object};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::response::{Description, Response, RowsTag, text_schema};
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::fold;
use crate::frontend::sql::placeholders;
use crate::frontend::sql::statement::{Explain, ParsedStatement, Show, Statement};
use crate::frontend::statements::{dml, explain, query, replace_pipeline, show, show_create, subscribe};
use crate::types::SqlType;

pub fn describe(session: &Session, name: &QualifiedName) -> Result<Response> {
    let snapshot = session.snapshot();
    let Some(object) = snapshot.resolve_relation(name, &session.search_path()) else {
        return describe_other(&snapshot, name);
    };
    let rows = match object {
        Object::Table(table) => table
            .columns
            .iter()
            .map(|column| {
                let is_key = table.primary_key.contains(&column.name);
                let is_time = table
                    .watermark
                    .as_ref()
                    .is_some_and(|watermark| watermark.column == column.name);
                column_row(
                    column,
                    is_key,
                    is_time.then(|| watermark_note(table.watermark.as_ref())),
                )
            })
            .collect(),
        Object::View(view) => plain_rows(&view.columns, &[]),
        Object::Pipeline(pipeline) => plain_rows(&pipeline.columns, &pipeline.unique_key),
        other => return Err(Error::Internal(format!("a relation that is a {}", other.kind().word()))),
    };
    Ok(Response::text_table(
        describe_schema(),
        &rows,
        RowsTag::Fixed("DESCRIBE".to_owned()),
    )?)
}

fn describe_schema() -> SchemaRef {
    text_schema(&["column", "type", "nullable", "key", "default", "extra"])
}

fn watermark_note(watermark: Option<&crate::catalog::objects::WatermarkDefinition>) -> String {
    match watermark.and_then(|watermark| watermark.expression.as_ref()) {
        Some(expression) => format!("watermark {expression}"),
        None => "watermark".to_owned(),
    }
}

fn column_row(column: &Column, is_key: bool, watermark: Option<String>) -> Vec<Option<String>> {
    let kind = match &column.kind {
        ColumnKind::Physical => None,
        ColumnKind::Metadata(key) => Some(format!("metadata from '{key}'")),
        ColumnKind::Generated { expression, .. } => Some(format!("generated always as ({expression})")),
    };
    let extra: Vec<String> = kind.into_iter().chain(watermark).collect();
    vec![
        Some(column.name.clone()),
        Some(shown_type(&column.sql_type)),
        Some(if column.not_null { "not null" } else { "" }.to_owned()),
        Some(if is_key { "primary key" } else { "" }.to_owned()),
        column.default.clone(),
        Some(extra.join(", ")),
    ]
}

fn plain_rows(columns: &[(String, String)], key: &[String]) -> Vec<Vec<Option<String>>> {
    let row = |(name, sql_type): &(String, String)| {
        let unique = if key.contains(name) { "unique" } else { "" };
        vec![
            Some(name.clone()),
            Some(shown_type(sql_type)),
            Some(String::new()),
            Some(unique.to_owned()),
            None,
            Some(String::new()),
        ]
    };
    columns.iter().map(row).collect()
}

/// As psql's `\d` shows it.
fn shown_type(text: &str) -> String {
    crate::types::parse(text).map_or_else(|_| text.to_owned(), |of| of.to_sql().to_lowercase())
}

/// System views, else an error with the nearest name.
fn describe_other(snapshot: &CatalogSnapshot, name: &QualifiedName) -> Result<Response> {
    let schemas: Vec<&str> = match &name.schema {
        Some(schema) => vec![schema],
        None => vec!["pg_catalog", "laminar", "information_schema"],
    };
    let found = schemas
        .into_iter()
        .find_map(|schema| crate::frontend::system_views::schema_of(schema, &name.name));
    let Some(columns) = found else {
        let relations = snapshot.objects().filter(|object| object.kind().is_relation());
        let names: Vec<&str> = relations.map(|object| object.header().name.as_str()).collect();
        return Err(Error::Undefined {
            code: SqlState::UNDEFINED_TABLE,
            what: "relation",
            name: name.to_string(),
            nearest: crate::error::nearest(&name.name, names).map(str::to_owned),
        });
    };
    let pairs: Vec<(String, String)> = columns
        .fields()
        .iter()
        .map(|field| {
            let sql_type = SqlType::from_arrow_field(field).map_or_else(|| "TEXT".to_owned(), |of| of.to_sql());
            (field.name().clone(), sql_type)
        })
        .collect();
    Ok(Response::text_table(
        describe_schema(),
        &plain_rows(&pairs, &[]),
        RowsTag::Fixed("DESCRIBE".to_owned()),
    )?)
}

/// Parameters and result columns of a statement.
pub(crate) fn description(
    session: &Session,
    parsed: &ParsedStatement,
    declared: &[Option<SqlType>],
) -> Result<Description> {
    if let Statement::Query(select) = &parsed.statement {
        return query::description(session, select, &parsed.source, declared);
    }
    // Continuous statements take their parameters as literals: those of which nobody says anything are text.
    let parameters: Vec<SqlType> = parameter_types(session, parsed, declared)?
        .into_iter()
        .map(|known| known.unwrap_or(SqlType::Text))
        .collect();
    let nulls: Vec<_> = parameters.iter().map(query::null_parameter).collect::<Result<_>>()?;
    let bound = placeholders::bind(parsed, &nulls)?;
    let columns = columns_of(session, bound.as_ref().unwrap_or(parsed))?;
    Ok(Description { parameters, columns })
}

/// What the client declared, else what a cast says, else the column that a parameter fills or is compared with.
fn parameter_types(
    session: &Session,
    parsed: &ParsedStatement,
    declared: &[Option<SqlType>],
) -> Result<Vec<Option<SqlType>>> {
    let mut types = declared.to_vec();
    types.resize(placeholders::count(parsed).max(declared.len()), None);
    let mut note = |found: Vec<Option<SqlType>>| {
        for (known, found) in types.iter_mut().zip(found) {
            if known.is_none() {
                *known = found;
            }
        }
    };
    if let Statement::Insert(insert) = &parsed.statement {
        note(insert_types(session, &insert.insert));
    }
    if let Statement::Sql(tree) = &parsed.statement {
        note(dml::describe::parameter_types(session, tree, &parsed.source, declared)?);
    }
    if let Some(query) = placeholders::query_in(&parsed.statement) {
        note(placeholders::said_types(query));
        if types.iter().any(Option::is_none) {
            query::infer_parameters(session, query, &parsed.source, &mut types)?;
        }
    }
    Ok(types)
}

/// `INSERT INTO t (a, b) VALUES ($1, $2)`, or the same with SELECT: the types of the columns.
fn insert_types(session: &Session, insert: &ast::Insert) -> Vec<Option<SqlType>> {
    let ast::TableObject::TableName(target) = &insert.table else {
        return Vec::new();
    };
    let snapshot = session.snapshot();
    let parts: Vec<String> = target.0.iter().filter_map(|part| part.as_ident().map(fold)).collect();
    let name = match parts.as_slice() {
        [.., schema, name] => QualifiedName::new(schema.clone(), name.clone()),
        [name] => QualifiedName::unqualified(name.clone()),
        [] => return Vec::new(),
    };
    let Some(Object::Table(table)) = snapshot.resolve_relation(&name, &session.search_path()) else {
        return Vec::new();
    };
    let stored = |column: &&Column| !matches!(column.kind, ColumnKind::Generated { .. });
    let of_column = |column: &Column| crate::types::parse(&column.sql_type).ok();
    let types: Vec<Option<SqlType>> = match insert.columns.as_slice() {
        [] => table.columns.iter().filter(stored).map(of_column).collect(),
        named => named
            .iter()
            .map(|name| {
                let name = name.0.last()?.as_ident().map(fold)?;
                of_column(table.columns.iter().find(|column| column.name == name)?)
            })
            .collect(),
    };
    insert
        .source
        .as_ref()
        .map_or_else(Vec::new, |query| placeholders::filling_types(query, &types))
}

fn columns_of(session: &Session, parsed: &ParsedStatement) -> Result<Option<SchemaRef>> {
    Ok(match &parsed.statement {
        Statement::Show(Show::Create { .. }) => Some(show_create::schema()),
        Statement::Show(Show::Columns { .. }) | Statement::Describe { .. } => Some(describe_schema()),
        Statement::Show(list) => {
            let (text, source) = show::query_of(list)?;
            query::description(session, &text, &source, &[])?.columns
        }
        Statement::ShowSetting { name } => {
            session.settings.show(name)?;
            let shown =
                crate::frontend::settings::definitions::find(name).map_or(name.as_str(), |definition| definition.name);
            Some(text_schema(&[shown]))
        }
        Statement::ShowAllSettings => Some(text_schema(&["name", "setting", "description"])),
        Statement::Insert(insert) => dml::describe::insert_columns(session, insert, &parsed.source)?,
        Statement::Sql(tree) => dml::describe::change_columns(session, tree, &parsed.source)?,
        Statement::Explain(Explain { .. }) => Some(explain::schema()),
        Statement::ExplainAnalyzePipeline { .. } => Some(explain::analyze_schema()),
        Statement::ExplainReplace(_) => Some(replace_pipeline::schema()),
        Statement::Subscribe(subscription) => Some(subscribe::columns(session, subscription, &parsed.source)?),
        Statement::Fetch(fetch) => {
            if fetch.discard {
                None
            } else {
                Some(session.cursors.schema(&fetch.cursor)?)
            }
        }
        Statement::Execute { name, .. } => match session.prepared.get(name) {
            Some(prepared) => {
                let declared: Vec<Option<SqlType>> = prepared.parameter_types.iter().cloned().map(Some).collect();
                description(session, &prepared.statement, &declared)?.columns
            }
            None => {
                return Err(Error::user(
                    SqlState::INVALID_SQL_STATEMENT_NAME,
                    format!("prepared statement \"{name}\" does not exist"),
                ));
            }
        },
        _ => None,
    })
}

//! CREATE TABLE without a connector: a table whose rows Laminar keeps, empty or filled once by a query.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast;

use crate::catalog::objects::{Column, ColumnKind, Constraint, ConstraintKind, ObjectKind, Table};
use crate::catalog::snapshot::QualifiedName;
use crate::error::{ErrorReport, SqlState};
use crate::frontend::body::table_object;
use crate::frontend::error::{Error, Result};
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::quote_qualified;
use crate::frontend::sql::statement::{ConstraintText, CreateTable, InsertText, QueryText};
use crate::frontend::statements::create_table::{check_names, created};
use crate::frontend::statements::{dml, query};
use crate::frontend::table_rows::converter;
use crate::planner::bind::names;
use crate::planner::dml::rules::RowRules;
use crate::planner::dml::schema_of;
use crate::planner::dml::statements::default_expression;
use crate::types::{self, SqlType};

pub async fn create(session: &mut Session, create: &CreateTable, source: &str) -> Result<Response> {
    refuse_streaming(create)?;
    let mut table = table_object(create, &session.snapshot(), &session.search_path())?;
    table.header.owner.clone_from(&session.user);
    if let Some(query) = &create.query {
        return create_filled(session, table, create, query, source).await;
    }
    check_names(&table)?;
    complete(&mut table, &create.constraints)?;
    check(session, &table)?;
    session.apply(vec![created(table, create.if_not_exists)]).await?;
    Ok(Response::complete("CREATE TABLE"))
}

/// What only streams have.
fn refuse_streaming(create: &CreateTable) -> Result<()> {
    let columns = create.columns.as_deref().unwrap_or_default();
    if columns
        .iter()
        .any(|column| matches!(column.kind, ColumnKind::Metadata(_)))
    {
        return Err(Error::not_supported(
            "METADATA in a table without a connector",
            "Metadata comes from a connector: WITH (connector = '..').",
        ));
    }
    if create.watermark.is_some() {
        return Err(Error::not_supported(
            "WATERMARK in a table without a connector",
            "Its rows come in no order of time; leave the watermark out.",
        ));
    }
    if columns.is_empty() && create.query.is_none() {
        return Err(Error::not_supported("a table without columns", "Declare at least one."));
    }
    Ok(())
}

/// Names what has no name as Postgres does, and says of the key that it is not NULL.
fn complete(table: &mut Table, constraints: &[ConstraintText]) -> Result<()> {
    for column in &mut table.columns {
        column.not_null |= table.primary_key.contains(&column.name);
    }
    let mut taken: HashSet<String> = HashSet::new();
    for constraint in constraints {
        let name = match &constraint.name {
            Some(name) if taken.contains(name) => {
                return Err(Error::user(
                    SqlState::DUPLICATE_OBJECT,
                    format!(
                        "constraint \"{name}\" for relation \"{}\" already exists",
                        table.header.name
                    ),
                ));
            }
            Some(name) => name.clone(),
            None => free_name(&given_name(table, constraint)?, &taken, constraints),
        };
        taken.insert(name.clone());
        table.constraints.push(Constraint {
            name,
            kind: constraint.kind.clone(),
        });
    }
    Ok(())
}

fn free_name(base: &str, taken: &HashSet<String>, constraints: &[ConstraintText]) -> String {
    let is_taken = |name: &str| {
        let given = constraints.iter().filter_map(|constraint| constraint.name.as_deref());
        taken.contains(name) || given.into_iter().any(|other| other == name)
    };
    let numbered = (1_u32..).map(|number| format!("{base}{number}"));
    let mut names = std::iter::once(base.to_owned()).chain(numbered);
    names.find(|name| !is_taken(name)).unwrap_or_else(|| base.to_owned())
}

fn given_name(table: &Table, constraint: &ConstraintText) -> Result<String> {
    let of = &table.header.name;
    Ok(match &constraint.kind {
        ConstraintKind::PrimaryKey => format!("{of}_pkey"),
        ConstraintKind::Unique { columns } => format!("{of}_{}_key", columns.join("_")),
        ConstraintKind::Check { expression } => {
            let used = match &constraint.column {
                Some(column) => BTreeSet::from([column.clone()]),
                None => columns_in(expression, &table.columns)?,
            };
            match used.into_iter().collect::<Vec<_>>().as_slice() {
                [only] => format!("{of}_{only}_check"),
                _ => format!("{of}_check"),
            }
        }
    })
}

/// The columns that an expression names.
fn columns_in(expression: &str, columns: &[Column]) -> Result<BTreeSet<String>> {
    let tree = crate::planner::dialect::parse_expression(expression)?;
    let mut found = BTreeSet::new();
    let _: ControlFlow<()> = ast::visit_expressions(&tree, |node| {
        if let ast::Expr::Identifier(ident) = node {
            let name = names::folded(ident);
            if columns.iter().any(|column| column.name == name) {
                found.insert(name);
            }
        }
        ControlFlow::Continue(())
    });
    Ok(found)
}

/// Everything that can be wrong with the definition is found now.
fn check(session: &Session, table: &Table) -> Result<()> {
    let snapshot = session.snapshot();
    let settings = session.planner_settings();
    for constraint in &table.constraints {
        if let ConstraintKind::Unique { columns } = &constraint.kind {
            for name in columns {
                if !table.columns.iter().any(|column| column.name == *name) {
                    return Err(Error::user(
                        SqlState::UNDEFINED_COLUMN,
                        format!("column \"{name}\" named in key does not exist"),
                    ));
                }
            }
        }
    }
    for column in &table.columns {
        let Some(default) = &column.default else { continue };
        if !matches!(column.kind, ColumnKind::Physical) {
            return Err(Error::user(
                SqlState::SYNTAX_ERROR,
                format!(
                    "both default and generation expression specified for column \"{}\" of table \"{}\"",
                    column.name, table.header.name
                ),
            ));
        }
        let of = types::parse(&column.sql_type)?.to_arrow();
        default_expression(default, &of, &snapshot, &settings)?;
    }
    RowRules::of(table, &snapshot, &settings)?;
    converter(&schema_of(table)?).map_err(|error| {
        ErrorReport::new(
            SqlState::FEATURE_NOT_SUPPORTED,
            format!(
                "a column of table \"{}\" has a type whose values cannot be compared",
                table.header.name
            ),
        )
        .with_detail(error.message)
        .with_hint("Keep it as JSON.")
    })?;
    Ok(())
}

/// `CREATE TABLE name AS query`: the table and its rows, or neither.
async fn create_filled(
    session: &mut Session,
    mut table: Table,
    create: &CreateTable,
    query: &QueryText,
    source: &str,
) -> Result<Response> {
    session.refuse_in_block("CREATE TABLE AS")?;
    if create.columns.is_some() {
        return Err(Error::not_supported(
            "columns in CREATE TABLE AS",
            "Name them in the query: SELECT a AS name; or CREATE TABLE and INSERT INTO .. SELECT.",
        ));
    }
    let name = QualifiedName {
        schema: table.header.schema.clone(),
        name: table.header.name.clone(),
    };
    let exists = session.snapshot().resolve_relation(&name, &[]).is_some();
    if !exists {
        let planned = query::plan_columns(session, query, source)?;
        table.columns = columns_of(&planned.schema)?;
        table.columns_inferred = false;
        check_names(&table)?;
        check(session, &table)?;
    }
    session.apply(vec![created(table, create.if_not_exists)]).await?;
    if exists {
        return Ok(Response::complete("CREATE TABLE AS"));
    }
    match fill(session, &name, query, source).await {
        Ok(rows) => Ok(Response::complete(format!("SELECT {rows}"))),
        Err(error) => {
            remove(session, name).await?;
            Err(error)
        }
    }
}

fn columns_of(schema: &arrow::datatypes::Schema) -> Result<Vec<Column>> {
    let column = |field: &arrow::datatypes::FieldRef| {
        let sql_type = SqlType::from_arrow_field(field).ok_or_else(|| {
            Error::not_supported(
                format!("the type of column \"{}\" ({})", field.name(), field.data_type()),
                "Cast it: column::TEXT.",
            )
        })?;
        Ok(Column {
            name: field.name().clone(),
            sql_type: sql_type.to_sql(),
            not_null: false,
            default: None,
            kind: ColumnKind::Physical,
        })
    };
    schema.fields().iter().map(column).collect()
}

async fn fill(session: &mut Session, name: &QualifiedName, query: &QueryText, source: &str) -> Result<String> {
    let text = format!("INSERT INTO {} SELECT 1", quote_qualified(name));
    let mut statements = crate::frontend::sql::parse(&text)?;
    let parsed = statements.pop().map(|parsed| parsed.statement);
    let Some(crate::frontend::sql::statement::Statement::Insert(insert)) = parsed else {
        return Err(Error::Internal("an INSERT that is none".to_owned()));
    };
    let mut insert: InsertText = *insert;
    insert.insert.source = Some(query.query.clone());
    let ast::TableObject::TableName(target) = &insert.insert.table else {
        return Err(Error::Internal("an INSERT without a table".to_owned()));
    };
    let Some(table) = dml::internal_table(session, target) else {
        return Err(Error::Internal("a table that was just created is missing".to_owned()));
    };
    match Box::pin(dml::insert::insert(session, table, &insert, source)).await? {
        Response::Complete { tag } => Ok(tag.rsplit(' ').next().unwrap_or("0").to_owned()),
        _ => Err(Error::Internal("an INSERT that gave rows".to_owned())),
    }
}

async fn remove(session: &mut Session, name: QualifiedName) -> Result<()> {
    let drop = crate::catalog::change::Change::Drop {
        targets: vec![(ObjectKind::Table, name)],
        if_exists: true,
        cascade: false,
    };
    session.apply(vec![drop]).await?;
    Ok(())
}

//! A pipeline's body for the planner: inserts taken apart, local tables and views as objects of the catalog's shape.

use datafusion::sql::sqlparser::ast;

use crate::catalog::objects::{Object, ObjectHeader, ObjectKind, Table, View};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::engine::graph::EmitMode;
use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::inline_tables;
use crate::frontend::settings::values;
use crate::frontend::sql::identifier::quote_qualified;
use crate::frontend::sql::statement::{BodyStatement, BodyText, CreateTable, CreateView, InsertText, QueryText};
use crate::ids::Oid;
use crate::options::{RawOptionValue, RawOptions, normalize_name};
use crate::planner::bind::names;
use crate::planner::body::{Body, InsertStatement, PipelineBody};

/// What the planner gets, and the settings that the body itself makes.
#[derive(Clone, Debug)]
pub struct PlannerBody {
    pub body: Body,
    /// `SET updating_ttl` in the body.
    pub updating_ttl_ms: Option<u64>,
}

/// Turns the statements of a body into what the planner reads.
pub fn planner_body(text: &BodyText, snapshot: &CatalogSnapshot, search_path: &[String]) -> Result<PlannerBody> {
    let mut parts = Parts::default();
    for statement in &text.statements {
        match statement {
            BodyStatement::Query(query) => {
                parts.emit(query.emit)?;
                parts.query = Some(query.query.clone());
            }
            BodyStatement::Insert(insert) => {
                parts.emit(insert.emit)?;
                parts.inserts.push(insert_statement(insert)?);
            }
            BodyStatement::CreateTable(create) => parts.table(create, snapshot, search_path)?,
            BodyStatement::CreateView(create) => parts.objects.push(local_view(create, search_path)),
            BodyStatement::Set(set) => parts.set(&set.name, set.value.as_deref())?,
        }
    }
    let queries = parts
        .query
        .iter_mut()
        .chain(parts.inserts.iter_mut().map(|insert| &mut insert.query));
    for query in queries {
        parts.objects.extend(inline_tables::take(query, snapshot, search_path)?);
    }
    let statement = match parts.query {
        Some(query) => PipelineBody::Query(query),
        None => PipelineBody::Inserts(parts.inserts),
    };
    Ok(PlannerBody {
        body: Body {
            statement,
            emit: parts.emit,
            local_objects: parts.objects,
            text: text.source.to_string(),
        },
        updating_ttl_ms: parts.updating_ttl_ms,
    })
}

/// A query alone, as SELECT and SUBSCRIBE have it.
pub fn query_body(query: &QueryText, source: &str, snapshot: &CatalogSnapshot, search_path: &[String]) -> Result<Body> {
    let mut tree = query.query.clone();
    let local_objects = inline_tables::take(&mut tree, snapshot, search_path)?;
    Ok(Body {
        statement: PipelineBody::Query(tree),
        emit: query.emit,
        local_objects,
        text: source.to_owned(),
    })
}

#[derive(Default)]
struct Parts {
    query: Option<Box<ast::Query>>,
    inserts: Vec<InsertStatement>,
    objects: Vec<Object>,
    emit: Option<EmitMode>,
    updating_ttl_ms: Option<u64>,
}

impl Parts {
    fn emit(&mut self, emit: Option<EmitMode>) -> Result<()> {
        let first = self.query.is_none() && self.inserts.is_empty();
        if !first && self.emit != emit {
            return Err(Error::not_supported(
                "a pipeline whose statements have different EMIT clauses",
                "Create one pipeline for each.",
            ));
        }
        self.emit = emit;
        Ok(())
    }

    fn table(&mut self, create: &CreateTable, snapshot: &CatalogSnapshot, search_path: &[String]) -> Result<()> {
        let options = create.options.clone().unwrap_or_default();
        if options.get("connector").is_none() && options.get("connection").is_none() {
            return Err(Error::not_supported(
                format!("table \"{}\" without a connector", create.name.name),
                "Add WITH (connector = '..'), or use CREATE VIEW.",
            ));
        }
        let table = table_object(create, snapshot, search_path)?;
        if let Some(query) = &create.query {
            self.emit(query.emit)?;
            self.inserts.push(feeding_insert(&create.name, query)?);
        }
        self.objects.push(Object::Table(table));
        Ok(())
    }

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<()> {
        if name != "updating_ttl" {
            return Err(Error::not_supported(
                format!("SET {name} inside a pipeline"),
                "A pipeline's body may set updating_ttl; other settings are options: WITH (..).",
            ));
        }
        let text = value.unwrap_or_default();
        let milliseconds = values::milliseconds(text).ok_or_else(|| {
            Error::user(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid value for parameter \"updating_ttl\": \"{text}\""),
            )
        })?;
        self.updating_ttl_ms = (milliseconds > 0).then_some(milliseconds);
        Ok(())
    }
}

/// `CREATE TABLE name WITH (..) AS query` feeds its table like this.
pub fn feeding_insert(name: &QualifiedName, query: &QueryText) -> Result<InsertStatement> {
    let parts = name.schema.iter().chain([&name.name]);
    let identifiers = parts.map(|part| ast::Ident::with_quote('"', part)).collect::<Vec<_>>();
    Ok(InsertStatement {
        target: ast::ObjectName::from(identifiers),
        columns: Vec::new(),
        query: query.query.clone(),
    })
}

/// The text of that INSERT.
pub fn feeding_insert_text(name: &QualifiedName, query: &QueryText) -> String {
    format!("INSERT INTO {} {}", quote_qualified(name), query.text)
}

pub fn insert_statement(insert: &InsertText) -> Result<InsertStatement> {
    let tree = insert.insert.as_ref();
    let unsupported = [
        (
            tree.returning.is_some(),
            "INSERT .. RETURNING",
            "Leave it out; SUBSCRIBE shows what is delivered.",
        ),
        (
            tree.on.is_some(),
            "INSERT .. ON CONFLICT",
            "Declare a PRIMARY KEY on the sink: connectors that can upsert do.",
        ),
        (
            tree.table_alias.is_some(),
            "an alias of INSERT's table",
            "Leave it out.",
        ),
    ];
    if let Some((_, what, hint)) = unsupported.into_iter().find(|(given, ..)| *given) {
        return Err(Error::not_supported(what, hint));
    }
    let ast::TableObject::TableName(target) = &tree.table else {
        return Err(Error::not_supported(
            "INSERT into something other than a table",
            "Name a table.",
        ));
    };
    let Some(query) = &tree.source else {
        return Err(Error::not_supported(
            "INSERT .. DEFAULT VALUES",
            "Write the values: INSERT INTO t VALUES (..).",
        ));
    };
    let columns = tree
        .columns
        .iter()
        .filter_map(|name| name.0.last().and_then(ast::ObjectNamePart::as_ident).cloned())
        .collect();
    Ok(InsertStatement {
        target: target.clone(),
        columns,
        query: query.clone(),
    })
}

/// The table of a CREATE TABLE, before the catalog has seen it. Its options keep everything but the connection, which is
/// kept by OID.
pub fn table_object(create: &CreateTable, snapshot: &CatalogSnapshot, search_path: &[String]) -> Result<Table> {
    let mut options = create.options.clone().unwrap_or_default();
    let connection = take_connection(&mut options, snapshot, search_path)?;
    Ok(Table {
        header: new_header(&create.name),
        connection: connection.map(|oid| oid.0),
        columns: create.columns.clone().unwrap_or_default(),
        columns_inferred: create.columns.is_none(),
        primary_key: create.primary_key.clone(),
        constraints: Vec::new(),
        watermark: create.watermark.clone(),
        options,
        search_path: search_path.to_vec(),
    })
}

/// Takes `connection = name` out of the options.
fn take_connection(
    options: &mut RawOptions,
    snapshot: &CatalogSnapshot,
    search_path: &[String],
) -> Result<Option<Oid>> {
    let is_connection = |name: &str| ["connection", "connection_profile"].contains(&normalize_name(name).as_str());
    let Some(index) = options.0.iter().position(|(name, _)| is_connection(name)) else {
        return Ok(None);
    };
    let (_, value) = options.0.remove(index);
    let RawOptionValue::Text(text) = value else {
        return Err(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            "option \"connection\" is the name of a connection, not a secret",
        ));
    };
    let name = match text.split_once('.') {
        Some((schema, name)) => QualifiedName::new(schema, name),
        None => QualifiedName::unqualified(text),
    };
    let object = snapshot.require(ObjectKind::Connection, &name, search_path)?;
    Ok(Some(object.oid()))
}

fn local_view(create: &CreateView, search_path: &[String]) -> Object {
    Object::View(View {
        header: new_header(&create.name),
        query: create.query.text.clone(),
        column_names: create.column_names.clone(),
        columns: Vec::new(),
        search_path: search_path.to_vec(),
    })
}

/// Tables that a body fills and that nothing uses yet, as they were declared: without the columns that were inferred for
/// reading. A file from an earlier run must not decide what is written now.
pub fn fresh_sinks(body: &Body, snapshot: &CatalogSnapshot, search_path: &[String]) -> Vec<Object> {
    let PipelineBody::Inserts(inserts) = &body.statement else {
        return Vec::new();
    };
    let mut sinks = Vec::new();
    for insert in inserts {
        let Some(name) = names::qualified(&insert.target) else {
            continue;
        };
        let Some(Object::Table(table)) = snapshot.resolve_relation(&name, search_path) else {
            continue;
        };
        let is_fresh =
            table.columns_inferred && !table.columns.is_empty() && snapshot.dependents(table.header.oid).is_empty();
        if is_fresh {
            let mut declared = table.clone();
            declared.columns.clear();
            sinks.push(Object::Table(declared));
        }
    }
    sinks
}

/// A header that the catalog completes.
pub fn new_header(name: &QualifiedName) -> ObjectHeader {
    ObjectHeader {
        oid: Oid(0),
        public_id: String::new(),
        schema: name.schema.clone(),
        name: name.name.clone(),
        owner: String::new(),
        created_at_micros: 0,
        updated_at_micros: 0,
        comment: None,
    }
}

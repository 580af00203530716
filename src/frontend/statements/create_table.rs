//! CREATE TABLE: connected tables with columns, without them (inferred or those of the query that feeds the table), and
//! with a query. Tables that Laminar keeps are those of [`internal_table`].

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::Schema;

use crate::catalog::change::{Change, NewObject};
use crate::catalog::objects::{Column, ColumnKind, Object, Table};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::engine::connectors::{self, ConnectorTable, Direction};
use crate::error::{SqlState, nearest};
use crate::frontend::body::{feeding_insert, feeding_insert_text, table_object};
use crate::frontend::error::{Error, Result};
use crate::frontend::inline_tables;
use crate::frontend::notice::Notice;
use crate::frontend::response::Response;
use crate::frontend::session::Session;
use crate::frontend::sql::identifier::{quote, quote_qualified};
use crate::frontend::sql::statement::{CreateTable, QueryText};
use crate::frontend::statements::connections::wants_check;
use crate::frontend::statements::{create_pipeline, internal_table};
use crate::ids::Oid;
use crate::options::ResolvedOptions;
use crate::planner::bind::tables::declared_schema;
use crate::planner::body::{Body, PipelineBody};
use crate::planner::compiled::Target;
use crate::types::{self, SqlType};

const TAG: &str = "CREATE TABLE";

pub async fn create(session: &mut Session, create: &CreateTable, source: &str) -> Result<Response> {
    let mut create = create.clone();
    create.name = session.name_to_create(&create.name)?;
    if create.options.as_ref().is_none_or(|options| options.0.is_empty()) {
        return internal_table::create(session, &create, source).await;
    }
    refuse_unconnected(&create)?;
    let snapshot = session.snapshot();
    let exists = snapshot.resolve_relation(&create.name, &[]).is_some();
    let mut table = table_object(&create, &snapshot, &session.search_path())?;
    table.header.owner.clone_from(&session.user);
    if exists {
        // The catalog says that it exists, as an error or a notice, before anything outside is asked.
        let change = created(table, create.if_not_exists);
        session.apply(vec![change]).await?;
        return Ok(Response::complete(TAG));
    }
    check_names(&table)?;
    let connector = Connector::of(session, &snapshot, &table)?;
    connector.check_type()?;
    if table.columns.is_empty() && create.query.is_none() {
        connector.infer_columns(session, &mut table).await?;
    }
    check_table(session, &snapshot, &table, &connector, create.query.is_some())?;
    if create.query.is_none() {
        connector.check_outside(&table).await?;
    }
    match &create.query {
        None => session.apply(vec![created(table, create.if_not_exists)]).await?,
        Some(query) => return create_fed(session, table, &connector, query, source, create.if_not_exists).await,
    };
    Ok(Response::complete(TAG))
}

pub(crate) fn created(table: Table, if_not_exists: bool) -> Change {
    let object = NewObject {
        object: Object::Table(table),
        depends_on: Vec::new(),
    };
    Change::Create {
        object,
        if_not_exists,
        or_replace: false,
    }
}

fn refuse_unconnected(create: &CreateTable) -> Result<()> {
    let connected = create.options.as_ref().is_some_and(|options| {
        ["connector", "connection", "connection_profile"]
            .iter()
            .any(|name| options.get(name).is_some())
    });
    if connected {
        return Ok(());
    }
    Err(Error::not_supported(
        "options of a table without a connector",
        "Name the system that its rows come from or go to: WITH (connector = '..', ..); SHOW CONNECTORS lists them. A table \
         whose rows Laminar keeps has no options.",
    ))
}

/// Columns are named once; keys and watermarks name columns.
pub(crate) fn check_names(table: &Table) -> Result<()> {
    let mut names = HashSet::new();
    for column in &table.columns {
        if !names.insert(column.name.as_str()) {
            return Err(Error::user(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{}\" specified more than once", column.name),
            ));
        }
        types::parse(&column.sql_type).map_err(Error::from)?;
    }
    if table.columns.is_empty() {
        return Ok(());
    }
    let watermark = table.watermark.iter().map(|watermark| (&watermark.column, "watermark"));
    let keys = table.primary_key.iter().map(|name| (name, "key"));
    for (name, what) in keys.chain(watermark) {
        if !names.contains(name.as_str()) {
            let message = format!("column \"{name}\" named in {what} does not exist");
            return Err(match nearest(name, names.iter().copied()) {
                Some(near) => Error::user_with_hint(
                    SqlState::UNDEFINED_COLUMN,
                    message,
                    format!("Perhaps you meant \"{near}\"."),
                ),
                None => Error::user(SqlState::UNDEFINED_COLUMN, message),
            });
        }
    }
    Ok(())
}

/// The connector of a table, with the options filled in.
struct Connector {
    connector: &'static dyn connectors::Connector,
    options: ResolvedOptions,
    validate: bool,
}

impl Connector {
    fn of(session: &Session, snapshot: &CatalogSnapshot, table: &Table) -> Result<Connector> {
        let environment = |name: &str| (session.server.environment)(name);
        let options = snapshot.resolve_options(&table.options, table.connection, &environment)?;
        let of_connection = match table.connection.and_then(|oid| snapshot.get(Oid(oid))) {
            Some(Object::Connection(connection)) => Some(connection.connector.clone()),
            _ => None,
        };
        let of_table = table.options.text("connector").map(str::to_lowercase);
        let name = match (of_table, of_connection) {
            (Some(own), Some(other)) if own != other => {
                return Err(Error::user(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("the connection is for connector \"{other}\", not \"{own}\""),
                ));
            }
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => return Err(Error::Internal("a connected table without a connector".into())),
        };
        let validate = wants_check(&table.options)?;
        Ok(Connector {
            connector: connectors::find(&name)?,
            options,
            validate,
        })
    }

    fn given_type(&self) -> Option<String> {
        self.options.get("type").map(|value| value.text.to_lowercase())
    }

    /// `type = ..` must be a direction that the connector has.
    fn check_type(&self) -> Result<()> {
        let Some(given) = self.given_type() else {
            return Ok(());
        };
        let name = self.connector.name();
        match (given.as_str(), self.connector.describe().direction) {
            ("source", Direction::Sink) => Err(Error::user(
                SqlState::WRONG_OBJECT_TYPE,
                format!("connector \"{name}\" cannot be read from"),
            )),
            ("sink", Direction::Source) => Err(Error::user(
                SqlState::WRONG_OBJECT_TYPE,
                format!("connector \"{name}\" cannot be written to"),
            )),
            ("source" | "sink", Direction::Lookup) => Err(Error::not_supported(
                format!("connector \"{name}\" as a {given}"),
                "Its tables can only be looked up in: use type = 'lookup'.",
            )),
            ("source" | "sink", _) => Ok(()),
            ("lookup", _) if self.connector.describe().can_look_up() => Ok(()),
            ("lookup", _) => Err(Error::not_supported(
                format!("connector \"{name}\" as a lookup table"),
                "SHOW CONNECTORS says which connectors have lookup tables.",
            )),
            _ => Err(Error::user_with_hint(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("invalid value for option \"type\": \"{given}\""),
                "Expected source, sink or lookup.",
            )),
        }
    }

    /// The table with its options typed and checked.
    fn resolve(&self, table: &Table) -> Result<Arc<dyn ConnectorTable>> {
        let declared = declared_schema(table)?;
        let declared = (!declared.fields().is_empty()).then_some(declared);
        Ok(self.connector.resolve(&self.options, declared)?)
    }

    /// Asks the system outside whether it has what is declared.
    async fn check_outside(&self, table: &Table) -> Result<()> {
        if !self.validate {
            return Ok(());
        }
        let resolved = self.resolve(table)?;
        match self.is_lookup() {
            true => resolved.check_lookup(&table.primary_key).await?,
            false => resolved.check_outside(&table.primary_key).await?,
        }
        Ok(())
    }

    fn may_be_source(&self) -> bool {
        self.given_type().as_deref() != Some("sink") && self.connector.describe().direction != Direction::Sink
    }

    fn is_lookup(&self) -> bool {
        self.given_type().as_deref() == Some("lookup") || self.connector.describe().direction == Direction::Lookup
    }

    /// Fills the columns of a source that was declared without any.
    async fn infer_columns(&self, session: &mut Session, table: &mut Table) -> Result<()> {
        if !self.validate {
            return Ok(());
        }
        let inferred = match self.may_be_source() {
            true => self.connector.infer_schema(&self.options).await,
            false => self.connector.known_schema(&self.options),
        };
        let inferred = match inferred {
            Ok(inferred) => inferred,
            // A file to be written does not exist yet; a table declared as a source has to.
            Err(error) if self.is_lookup() || self.given_type().as_deref() == Some("source") => {
                return Err(error.into());
            }
            Err(error) => {
                let message = format!(
                    "columns of table \"{}\" could not be inferred: {error}",
                    table.header.name
                );
                session.tell(Notice::of(message).with_hint("As a sink, it takes those of the query that feeds it."));
                None
            }
        };
        let Some(schema) = inferred else {
            return Ok(());
        };
        table.columns = inferred_columns(&schema)?;
        // A schema that was given is as good as columns: the query that feeds the table does not say others.
        table.columns_inferred = self.connector.known_schema(&self.options)?.is_none();
        let shown: Vec<String> = table
            .columns
            .iter()
            .map(|column| format!("{} {}", quote(&column.name), column.sql_type))
            .collect();
        session.tell(Notice::of(format!(
            "columns of table \"{}\" were inferred: ({})",
            table.header.name,
            shown.join(", ")
        )));
        Ok(())
    }
}

/// The columns of a schema that a connector tells.
fn inferred_columns(schema: &Schema) -> Result<Vec<Column>> {
    let column = |field: &arrow::datatypes::FieldRef| {
        let sql_type = SqlType::from_arrow_field(field).ok_or_else(|| {
            Error::not_supported(
                format!("the type of column \"{}\" ({})", field.name(), field.data_type()),
                "Declare the columns that you need.",
            )
        })?;
        Ok(Column {
            name: field.name().clone(),
            sql_type: sql_type.to_sql(),
            not_null: !field.is_nullable(),
            default: None,
            kind: match field.metadata().get(connectors::METADATA_FIELD) {
                Some(key) => ColumnKind::Metadata(key.clone()),
                None => ColumnKind::Physical,
            },
        })
    };
    schema.fields().iter().map(column).collect()
}

/// Everything that can be wrong with a table is found now: options, formats, columns, generated ones, the watermark.
fn check_table(
    session: &Session,
    snapshot: &CatalogSnapshot,
    table: &Table,
    connector: &Connector,
    is_fed: bool,
) -> Result<()> {
    let resolved = connector.resolve(table)?;
    if connector.is_lookup() {
        return check_lookup_table(session, snapshot, table);
    }
    let readable = connector.may_be_source() && resolved.direction() != Direction::Sink && resolved.schema().is_some();
    if !readable || is_fed {
        return Ok(());
    }
    let text = format!("SELECT * FROM {}", quote_qualified(&table_name(table)));
    let query = crate::planner::dialect::parse_query(&text)?;
    let body = Body {
        local_objects: vec![Object::Table(table.clone())],
        ..Body::query(query, text)
    };
    // A file sink that could be read too needs no columns of its own.
    match crate::planner::compile(&body, Target::Validate, snapshot, &session.planner_settings()) {
        Ok(_) => Ok(()),
        Err(_) if table.columns.is_empty() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn check_lookup_table(session: &Session, snapshot: &CatalogSnapshot, table: &Table) -> Result<()> {
    let settings = session.planner_settings();
    Ok(crate::planner::check_lookup_table(table, snapshot, &settings)?)
}

/// The same for a table whose options are changed.
pub(crate) fn check_altered(session: &Session, snapshot: &CatalogSnapshot, table: &Table) -> Result<()> {
    let connector = Connector::of(session, snapshot, table)?;
    check_table(session, snapshot, table, &connector, false)
}

fn table_name(table: &Table) -> QualifiedName {
    QualifiedName {
        schema: table.header.schema.clone(),
        name: table.header.name.clone(),
    }
}

/// `CREATE TABLE name WITH (..) AS SELECT ..`: the sink and, named `name_pipeline`, what feeds it; both or none.
async fn create_fed(
    session: &mut Session,
    mut table: Table,
    connector: &Connector,
    query: &QueryText,
    source: &str,
    if_not_exists: bool,
) -> Result<Response> {
    let name = table_name(&table);
    let snapshot = session.snapshot();
    let mut insert = feeding_insert(&name, query)?;
    let mut local_objects = inline_tables::take(&mut insert.query, &snapshot, &session.search_path())?;
    local_objects.push(Object::Table(table.clone()));
    let body = Body {
        statement: PipelineBody::Inserts(vec![insert]),
        emit: query.emit,
        local_objects,
        text: source.to_owned(),
    };
    let settings = session.planner_settings();
    let compiled = crate::planner::compile(&body, Target::Validate, &snapshot, &settings)?;
    create_pipeline::refuse_to_destroy(&compiled, |_| true)?;
    if let Some(sink) = compiled.inferred_sinks.iter().find(|sink| sink.table == Oid(0)) {
        table.columns.clone_from(&sink.columns);
    }
    connector.check_outside(&table).await?;
    let pipeline_name = QualifiedName {
        schema: name.schema.clone(),
        name: free_name(&snapshot, &name),
    };
    let mut pipeline = create_pipeline::new_pipeline(session, &pipeline_name, feeding_insert_text(&name, query));
    create_pipeline::keep_session_options(session, &mut pipeline.options);
    let mut depends_on = compiled.depends_on.clone();
    depends_on.retain(|oid| *oid != Oid(0));
    // The table is the first change of the list.
    depends_on.push(NewObject::created_by(0));
    let pipeline = NewObject {
        object: Object::Pipeline(pipeline),
        depends_on,
    };
    let changes = vec![
        created(table, if_not_exists),
        Change::Create {
            object: pipeline,
            if_not_exists: false,
            or_replace: false,
        },
    ];
    create_pipeline::tell_notices(session, &compiled);
    let outcome = session.apply(changes).await?;
    create_pipeline::tell_started(session, &pipeline_name.name, &outcome);
    Ok(Response::complete(TAG))
}

fn free_name(snapshot: &CatalogSnapshot, table: &QualifiedName) -> String {
    let taken = |name: &str| {
        let candidate = QualifiedName {
            schema: table.schema.clone(),
            name: name.to_owned(),
        };
        snapshot.resolve_relation(&candidate, &["public".to_owned()]).is_some()
    };
    let base = format!("{}_pipeline", table.name);
    if !taken(&base) {
        return base;
    }
    (2_u32..)
        .map(|number| format!("{base}_{number}"))
        .find(|name| !taken(name))
        .unwrap_or(base)
}

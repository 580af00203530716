//! Connected tables: what the statement declared, matched with what the connector delivers or takes.
//!
//! A source's columns are expressions over the connector's columns: casts to the declared types, and generated columns.
//! Event time comes from WATERMARK, else from `event_time_field`, else it is the wall clock; see [`event_time`].

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, TableSource, binary_expr, cast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::sql::planner::PlannerContext;

use crate::catalog::objects::{self, ColumnKind, Pipeline, Table};
use crate::engine::connectors::{self, ConnectorTable, Direction, METADATA_FIELD, SourceKey};
use crate::engine::operators::can_keep;
use crate::engine::results::follow::FollowedResult;
use crate::error::{ErrorReport, Report, SqlState, nearest};
use crate::ids::Oid;
use crate::options::ResolvedOptions;
use crate::planner::bind::Binder;
use crate::planner::bind::lookup_tables;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax;
use crate::planner::dialect;
use crate::planner::error::{Error, Result};
use crate::planner::functions::checked_arithmetic::checked_expression;
use crate::types;

/// A split without rows for this long stops holding back others, unless the table says otherwise.
const IDLE_TIMEOUT_DEFAULT_MS: u64 = 5_000;

/// Splits of bounded tables, and generated ones, have their rows at hand: one is silent only because its turn has not come, and
/// its rows must not be late for that. A hundred years.
const NEVER_IDLE_MS: u64 = 100 * 365 * 24 * 60 * 60 * 1000;

/// Rows further ahead of the wall clock than this do not move the watermark of an unbounded table.
const FUTURE_SKEW_DEFAULT_MS: u64 = 24 * 60 * 60 * 1000;

/// A connected table as a source of rows.
pub struct StreamTable {
    pub oid: Oid,
    /// `public.bids`.
    pub name: String,
    pub table: Arc<dyn ConnectorTable>,
    /// The declared columns.
    pub schema: SchemaRef,
    /// All that the connector delivers.
    pub connector_schema: SchemaRef,
    /// Each declared column over the connector's.
    pub columns: Vec<Expr>,
    pub event_time: Option<EventTime>,
    /// Which declared column is the event time, when one is.
    pub event_time_column: Option<usize>,
    /// Declared columns that identify a row at any moment, when the table keeps that promise itself.
    pub unique_key: Option<Vec<usize>>,
    /// Declared columns by which rows of the source replace each other, which is to be sorted out behind it.
    pub upsert_key: Option<Vec<usize>>,
}

#[derive(Clone, Debug)]
pub struct EventTime {
    pub time: TimeOf,
    pub watermark: TimeOf,
    pub idle_timeout_ms: u64,
    pub max_future_skew_ms: Option<u64>,
}

/// Over the connector's columns.
#[derive(Clone, Debug)]
pub enum TimeOf {
    Expression(Expr),
    Processing,
}

impl TableSource for StreamTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// `schema.name`, as messages and EXPLAIN show a table.
pub fn qualified(table: &Table) -> String {
    match &table.header.schema {
        Some(schema) => format!("{schema}.{}", table.header.name),
        None => table.header.name.clone(),
    }
}

/// The table as a source.
pub fn source(binder: &Binder<'_>, table: &Table) -> Result<StreamTable> {
    let (options, resolved) = resolve(binder, table, Some(declared_schema(table)?))?;
    if resolved.direction() == Direction::Sink {
        return Err(wrong_direction(table, "is a sink and cannot be read"));
    }
    if options
        .get("type")
        .is_some_and(|of| of.text.eq_ignore_ascii_case("sink"))
    {
        return Err(wrong_direction(
            table,
            "was declared with type = 'sink' and cannot be read",
        ));
    }
    let connector_schema = resolved.schema().ok_or_else(|| {
        Error::Table(
            ErrorReport::new(
                SqlState::INVALID_TABLE_DEFINITION,
                format!("table \"{}\" has no columns", table.header.name),
            )
            .with_hint("Declare them: CREATE TABLE name (column type, ..) WITH (..)."),
        )
    })?;
    let declared = declared_fields(table)?;
    let schema: SchemaRef = Arc::new(if table.columns.is_empty() {
        Schema::new(shown_fields(&connector_schema))
    } else {
        Schema::new(declared)
    });
    let columns = column_expressions(binder, table, &schema, &connector_schema)?;
    let (event_time, event_time_column) = event_time(binder, table, &resolved, &schema, &columns)?;
    let upsert_key = upsert_key(table, resolved.source_key(), &schema, &connector_schema)?;
    Ok(StreamTable {
        oid: table.header.oid,
        name: qualified(table),
        table: resolved,
        schema,
        connector_schema,
        columns,
        event_time,
        event_time_column,
        unique_key: upsert_key.clone(),
        upsert_key,
    })
}

/// The PRIMARY KEY of a table whose source delivers rows that replace each other.
fn upsert_key(table: &Table, use_of_key: SourceKey, schema: &Schema, connector: &Schema) -> Result<Option<Vec<usize>>> {
    let name = &table.header.name;
    match use_of_key {
        SourceKey::Unused => return Ok(None),
        SourceKey::Used if table.primary_key.is_empty() => return Ok(None),
        SourceKey::Required if table.primary_key.is_empty() => {
            return Err(Error::Table(
                ErrorReport::new(
                    SqlState::INVALID_TABLE_DEFINITION,
                    format!("table \"{name}\" is read as upserts and has no PRIMARY KEY"),
                )
                .with_hint("Declare the columns by which rows replace each other: PRIMARY KEY (column, ..)."),
            ));
        }
        SourceKey::Used | SourceKey::Required => {}
    }
    if let Some(column) = table
        .columns
        .iter()
        .find(|column| table.primary_key.contains(&column.name) && !matches!(column.kind, ColumnKind::Physical))
    {
        return Err(Error::not_supported(
            format!(
                "column \"{}\", which the record does not hold, in the PRIMARY KEY of \"{name}\"",
                column.name
            ),
            "Declare a key of columns that every change record has, and GROUP BY or DISTINCT ON the others.",
        ));
    }
    if !can_keep(connector) {
        return Err(Error::not_supported(
            format!("a MAP column in table \"{name}\", whose rows replace each other by key"),
            "Declare the column as JSON.",
        ));
    }
    Ok(table.primary_key.iter().map(|key| schema.index_of(key).ok()).collect())
}

/// The kept result of another pipeline as a source.
pub fn result(pipeline: &Pipeline) -> Result<StreamTable> {
    let field = |(name, sql_type): &(String, String)| {
        let sql_type = crate::types::parse(sql_type).map_err(Error::Table)?;
        Ok(sql_type.to_arrow_field(name, true))
    };
    let schema: SchemaRef = Arc::new(Schema::new(
        pipeline.columns.iter().map(field).collect::<Result<Vec<_>>>()?,
    ));
    let header = &pipeline.header;
    let name = match &header.schema {
        Some(schema) => format!("{schema}.{}", header.name),
        None => header.name.clone(),
    };
    let place = |key: &String| schema.index_of(key).ok();
    let key: Option<Vec<usize>> = pipeline.unique_key.iter().map(place).collect();
    Ok(StreamTable {
        oid: header.oid,
        table: Arc::new(FollowedResult {
            pipeline: header.oid,
            name: name.clone(),
            schema: Arc::clone(&schema),
            append_only: pipeline.append_only,
            bounded: pipeline.bounded,
        }),
        name,
        columns: schema
            .fields()
            .iter()
            .map(|field| Expr::Column(Column::new_unqualified(field.name())))
            .collect(),
        connector_schema: Arc::clone(&schema),
        schema,
        event_time: None,
        event_time_column: None,
        unique_key: key.filter(|key| !key.is_empty()),
        upsert_key: None,
    })
}

/// The table as a sink for rows of `columns`, which are declared ones or, for a table without any, the query's.
pub fn sink(binder: &Binder<'_>, table: &Table, columns: SchemaRef) -> Result<Arc<dyn ConnectorTable>> {
    let (options, resolved) = resolve(binder, table, Some(columns))?;
    if resolved.direction() == Direction::Source {
        return Err(wrong_direction(table, "is a source and cannot be written to"));
    }
    if lookup_tables::is_lookup(&options, resolved.as_ref()) {
        return Err(wrong_direction(table, "is a lookup table and cannot be written to"));
    }
    if options
        .get("type")
        .is_some_and(|of| of.text.eq_ignore_ascii_case("source"))
    {
        return Err(wrong_direction(
            table,
            "was declared with type = 'source' and cannot be written to",
        ));
    }
    Ok(resolved)
}

pub(super) fn wrong_direction(table: &Table, what: &str) -> Error {
    Error::query(
        SqlState::WRONG_OBJECT_TYPE,
        format!("table \"{}\" {what}", table.header.name),
    )
}

pub(super) fn resolve(
    binder: &Binder<'_>,
    table: &Table,
    declared: Option<SchemaRef>,
) -> Result<(ResolvedOptions, Arc<dyn ConnectorTable>)> {
    let environment = |name: &str| (binder.settings.environment)(name);
    let options = binder
        .snapshot
        .resolve_options(&table.options, table.connection, &environment)
        .map_err(|error| Error::Table(error.report()))?;
    if let Some(connection) = table.connection {
        binder.note_dependency(Oid(connection));
    }
    let Some(connector) = connector_name(binder, table, &options) else {
        return Err(Error::not_supported(
            format!("table \"{}\" cannot be written by a pipeline", table.header.name),
            "Keep the query's result: CREATE PIPELINE .. AS SELECT ..",
        ));
    };
    let declared = declared.filter(|schema| !schema.fields().is_empty());
    let resolved = find_connector(&connector)?.resolve(&options, declared)?;
    Ok((options, resolved))
}

#[cfg(test)]
fn find_connector(name: &str) -> connectors::Result<&'static dyn connectors::Connector> {
    match name {
        "test" => Ok(&crate::planner::tests::catalog::TestConnector),
        other => connectors::find(other),
    }
}

#[cfg(not(test))]
fn find_connector(name: &str) -> connectors::Result<&'static dyn connectors::Connector> {
    connectors::find(name)
}

fn connector_name(binder: &Binder<'_>, table: &Table, options: &ResolvedOptions) -> Option<String> {
    if let Some(connector) = options.get("connector") {
        return Some(connector.text.clone());
    }
    match binder.snapshot.get(Oid(table.connection?)) {
        Some(objects::Object::Connection(connection)) => Some(connection.connector.clone()),
        _ => None,
    }
}

/// Whether the table's connector has no other tables than lookup tables.
pub(super) fn can_only_look_up(binder: &Binder<'_>, table: &Table) -> bool {
    let own = table.options.text("connector").map(str::to_lowercase);
    let name = own.or_else(|| match binder.snapshot.get(Oid(table.connection?)) {
        Some(objects::Object::Connection(connection)) => Some(connection.connector.clone()),
        _ => None,
    });
    let connector = name.and_then(|name| find_connector(&name).ok());
    connector.is_some_and(|connector| connector.describe().direction == Direction::Lookup)
}

fn column_type(column: &objects::Column) -> Result<types::SqlType> {
    types::parse(&column.sql_type).map_err(Error::Table)
}

/// All declared columns.
pub fn declared_fields(table: &Table) -> Result<Vec<Field>> {
    let field = |column: &objects::Column| Ok(column_type(column)?.to_arrow_field(&column.name, !column.not_null));
    table.columns.iter().map(field).collect()
}

/// The columns that the connector is asked for; those with METADATA say so in the field.
pub fn declared_schema(table: &Table) -> Result<SchemaRef> {
    let mut fields = Vec::new();
    for column in &table.columns {
        let field = column_type(column)?.to_arrow_field(&column.name, !column.not_null);
        match &column.kind {
            ColumnKind::Physical => fields.push(field),
            ColumnKind::Metadata(key) => {
                let mut metadata = field.metadata().clone();
                metadata.insert(METADATA_FIELD.to_owned(), key.clone());
                fields.push(field.with_metadata(metadata));
            }
            ColumnKind::Generated { .. } => {}
        }
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// What a table without declared columns has: metadata columns are there only when they are declared.
fn shown_fields(connector: &Schema) -> Vec<Arc<Field>> {
    let shown = |field: &&Arc<Field>| !field.metadata().contains_key(METADATA_FIELD);
    connector.fields().iter().filter(shown).map(Arc::clone).collect()
}

pub(super) fn column_expressions(
    binder: &Binder<'_>,
    table: &Table,
    schema: &Schema,
    connector: &Schema,
) -> Result<Vec<Expr>> {
    if table.columns.is_empty() {
        let column = |field: Arc<Field>| Expr::Column(Column::new_unqualified(field.name()));
        return Ok(shown_fields(connector).into_iter().map(column).collect());
    }
    let mut columns = Vec::with_capacity(table.columns.len());
    let mut known: Vec<(String, Expr)> = Vec::new();
    for (column, field) in table.columns.iter().zip(schema.fields()) {
        if matches!(column.kind, ColumnKind::Generated { .. }) {
            continue;
        }
        let delivered = connector
            .field_with_name(&column.name)
            .map_err(|_| undelivered(table, column, connector))?;
        known.push((
            column.name.clone(),
            cast_to(Expr::Column(Column::new_unqualified(&column.name)), delivered, field),
        ));
    }
    for (column, field) in table.columns.iter().zip(schema.fields()) {
        let expression = match &column.kind {
            ColumnKind::Generated { expression, .. } => {
                let visible = visible_schema(schema, &known);
                let planned = expression_over(binder, expression, &visible)?;
                let planned = cast(planned, field.data_type().clone());
                substitute(planned, &known)?
            }
            _ => known
                .iter()
                .find(|(name, _)| *name == column.name)
                .map(|(_, expression)| expression.clone())
                .ok_or_else(|| Error::Internal(format!("column \"{}\" was not matched", column.name)))?,
        };
        columns.push(expression);
    }
    Ok(columns)
}

fn undelivered(table: &Table, column: &objects::Column, connector: &Schema) -> Error {
    let near = nearest(
        &column.name,
        connector.fields().iter().map(|field| field.name().as_str()),
    );
    let report = ErrorReport::new(
        SqlState::UNDEFINED_COLUMN,
        format!(
            "column \"{}\" of table \"{}\" is not delivered by its connector",
            column.name, table.header.name
        ),
    );
    Error::Table(match near {
        Some(near) => report.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => report,
    })
}

fn cast_to(expression: Expr, from: &Field, to: &Field) -> Expr {
    if from.data_type() == to.data_type() {
        expression
    } else {
        cast(expression, to.data_type().clone())
    }
}

/// The columns that a generated column may use.
fn visible_schema(schema: &Schema, known: &[(String, Expr)]) -> Schema {
    let fields: Vec<Arc<Field>> = schema
        .fields()
        .iter()
        .filter(|field| known.iter().any(|(name, _)| name == field.name()))
        .map(Arc::clone)
        .collect();
    Schema::new(fields)
}

/// The text of an expression over `schema`, with its types settled.
pub fn expression_over(binder: &Binder<'_>, text: &str, schema: &Schema) -> Result<Expr> {
    let source = SourceText(text);
    let plan = || -> Result<Expr> {
        let mut parsed = dialect::parse_expression(text)?;
        syntax::prepare_expression(&mut parsed, binder.functions, source)?;
        let schema = DFSchema::try_from(schema.clone()).map_err(|error| source.error(error))?;
        let expression = binder
            .sql_to_rel()
            .sql_to_expr(parsed, &schema, &mut PlannerContext::new())
            .map_err(|error| source.error(error))?;
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(Arc::new(schema.clone())).build());
        let coerced = simplifier
            .coerce(expression, &schema)
            .map_err(|error| source.error(error))?;
        let checked = checked_expression(coerced, &schema).map_err(|error| source.error(error))?;
        simplifier.simplify(checked).map_err(|error| source.error(error))
    };
    // Positions in the table's definition mean nothing to whoever uses the table.
    plan().map_err(Error::nowhere)
}

fn substitute(expression: Expr, known: &[(String, Expr)]) -> Result<Expr> {
    let replaced = expression.transform(|node| {
        if let Expr::Column(column) = &node
            && let Some((_, value)) = known.iter().find(|(name, _)| *name == column.name)
        {
            return Ok(Transformed::yes(value.clone()));
        }
        Ok(Transformed::no(node))
    });
    Ok(replaced.map_err(|error| SourceText("").error(error))?.data)
}

fn event_time(
    binder: &Binder<'_>,
    table: &Table,
    resolved: &Arc<dyn ConnectorTable>,
    schema: &SchemaRef,
    columns: &[Expr],
) -> Result<(Option<EventTime>, Option<usize>)> {
    let common = resolved.common();
    let generated = resolved.event_time_column();
    let idle_timeout_ms = match common.idle_timeout {
        Some(timeout) => whole_milliseconds(timeout),
        None if resolved.bounded() || generated.is_some() => NEVER_IDLE_MS,
        None => IDLE_TIMEOUT_DEFAULT_MS,
    };
    let named = table
        .watermark
        .as_ref()
        .map(|watermark| watermark.column.clone())
        .or_else(|| common.event_time_field.clone())
        .filter(|_| !common.processing_time);
    let name = match (&named, generated) {
        (Some(name), _) => name.as_str(),
        (None, Some(generated)) if !common.processing_time => generated,
        (None, _) => {
            // A bounded table is read as fast as it goes: the wall clock would say nothing about its rows.
            let spec = (common.processing_time || !resolved.bounded()).then_some(EventTime {
                time: TimeOf::Processing,
                watermark: TimeOf::Processing,
                idle_timeout_ms,
                max_future_skew_ms: None,
            });
            return Ok((spec, None));
        }
    };
    let index = schema.fields().iter().position(|field| field.name() == name);
    let time = match (index, &named) {
        (Some(index), _) => timestamp(&columns[index], schema.field(index))?,
        // The connector's own time need not be declared.
        (None, None) => Expr::Column(Column::new_unqualified(name)),
        (None, Some(_)) => return Err(no_time_column(table, name, schema)),
    };
    let definition = table
        .watermark
        .as_ref()
        .and_then(|definition| definition.expression.as_deref());
    let watermark = match (definition, common.watermark_delay) {
        (Some(text), _) => watermark_expression(binder, text, schema, columns)?,
        (None, Some(delay)) => delayed(time.clone(), whole_milliseconds(delay)),
        (None, None) => time.clone(),
    };
    let max_future_skew_ms = match common.max_future_skew {
        Some(skew) => Some(whole_milliseconds(skew)),
        // What is generated or read from the past keeps no step with the wall clock.
        None => (!resolved.bounded() && generated.is_none()).then_some(FUTURE_SKEW_DEFAULT_MS),
    };
    let spec = EventTime {
        time: TimeOf::Expression(time),
        watermark: TimeOf::Expression(watermark),
        idle_timeout_ms,
        max_future_skew_ms,
    };
    Ok((Some(spec), index))
}

fn no_time_column(table: &Table, name: &str, schema: &Schema) -> Error {
    let near = nearest(name, schema.fields().iter().map(|field| field.name().as_str()));
    let report = ErrorReport::new(
        SqlState::UNDEFINED_COLUMN,
        format!(
            "event time column \"{name}\" of table \"{}\" does not exist",
            table.header.name
        ),
    );
    Error::Table(match near {
        Some(near) => report.with_hint(format!("Perhaps you meant \"{near}\".")),
        None => report,
    })
}

fn whole_milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// A column as event time.
fn timestamp(column: &Expr, field: &Field) -> Result<Expr> {
    match field.data_type() {
        of if *of == timestamp_type() => Ok(column.clone()),
        DataType::Timestamp(_, _) | DataType::Date32 => Ok(cast(column.clone(), timestamp_type())),
        _ => Err(Error::Table(
            ErrorReport::new(
                SqlState::DATATYPE_MISMATCH,
                format!("event time column \"{}\" is not a timestamp", field.name()),
            )
            .with_hint("Declare a generated column: ts TIMESTAMP GENERATED ALWAYS AS (to_timestamp_millis(column))."),
        )),
    }
}

fn watermark_expression(binder: &Binder<'_>, text: &str, schema: &Schema, columns: &[Expr]) -> Result<Expr> {
    let planned = expression_over(binder, text, schema)?;
    let df_schema = DFSchema::try_from(schema.clone()).map_err(|error| SourceText("").error(error))?;
    let of = planned
        .get_type(&df_schema)
        .map_err(|error| SourceText("").error(error))?;
    if !matches!(of, DataType::Timestamp(_, _)) {
        return Err(Error::Table(ErrorReport::new(
            SqlState::DATATYPE_MISMATCH,
            "the expression of a WATERMARK must be a timestamp",
        )));
    }
    let planned = if of == timestamp_type() {
        planned
    } else {
        cast(planned, timestamp_type())
    };
    let known: Vec<(String, Expr)> = schema
        .fields()
        .iter()
        .map(|field| field.name().clone())
        .zip(columns.iter().cloned())
        .collect();
    substitute(planned, &known)
}

fn delayed(time: Expr, delay_ms: u64) -> Expr {
    let nanoseconds = i64::try_from(delay_ms)
        .unwrap_or(i64::MAX / 1_000_000)
        .saturating_mul(1_000_000);
    let delay = ScalarValue::new_interval_mdn(0, 0, nanoseconds);
    binary_expr(time, Operator::Minus, Expr::Literal(delay, None))
}

//! Text and names to a logical plan: what DataFusion's SQL planner asks for, answered from a catalog snapshot.
//!
//! Views are planned where they are used, with the search path of who created them. Connected tables become
//! [`tables::StreamTable`]s; what a one-shot SELECT can read comes from [`BatchRelations`].

mod asof_joins;
mod catalog_syntax;
mod grouping_sets;
mod lateral_unnest;
mod literals;
pub mod lookup_tables;
mod lookup_version;
pub mod names;
pub mod positions;
pub mod syntax;
pub mod tables;
mod types;
mod using;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use arrow::datatypes::{DataType, IntervalUnit, SchemaRef, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Column, DataFusionError, TableReference};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::{TableProvider, provider_as_source};
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, TypePlanner};
use datafusion::logical_expr::{
    AggregateUDF, Expr, HigherOrderUDF, LogicalPlan, LogicalPlanBuilder, ScalarUDF, TableSource, WindowUDF,
};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast::{Query, Statement};

use crate::catalog::objects::{Object, Table, View};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::engine::coordinator::kept_table::keeper;
use crate::error::nearest;
use crate::ids::Oid;
use crate::planner::batch::{ResultRows, result_table};
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::Purpose;
use crate::planner::dialect;
use crate::planner::error::{Error, Result, Undefined};
use crate::planner::functions::{Functions, asof};
use crate::planner::rewrites;
use crate::planner::settings::Settings;

/// Views that may stand on each other.
const VIEW_DEPTH_MAX: usize = 64;

/// What a one-shot SELECT can read besides VALUES.
pub trait BatchRelations {
    /// A system view of schema `pg_catalog`, `information_schema` or `laminar`.
    fn system_relation(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>>;
    /// The kept result of a pipeline; `None` when it keeps none, or has none yet.
    fn pipeline_result(&self, pipeline: Oid) -> Option<Arc<dyn ResultRows>>;
    /// A connected table that can be read to its end; `None` when it has none.
    fn connected_table(&self, table: &Table) -> Option<Arc<dyn TableProvider>> {
        let _ = table;
        None
    }
    /// Names of the system views of a schema, for hints.
    fn system_names(&self, schema: &str) -> Vec<String>;
}

/// Schemas of system views.
pub const SYSTEM_SCHEMAS: [&str; 3] = ["pg_catalog", "information_schema", "laminar"];

/// Answers the SQL planner's questions for one statement.
pub struct Binder<'a> {
    pub snapshot: &'a CatalogSnapshot,
    pub settings: &'a Settings,
    pub functions: &'a Functions,
    pub local: &'a [Object],
    pub purpose: Purpose,
    pub batch: Option<&'a dyn BatchRelations>,
    options: ConfigOptions,
    search_path: Vec<String>,
    view_depth: usize,
    shared: Rc<Shared>,
}

/// What a statement and the views in it have found so far.
#[derive(Default)]
struct Shared {
    sources: RefCell<HashMap<Oid, Arc<dyn TableSource>>>,
    depends_on: RefCell<BTreeSet<Oid>>,
}

impl<'a> Binder<'a> {
    pub fn new(
        snapshot: &'a CatalogSnapshot,
        settings: &'a Settings,
        functions: &'a Functions,
        local: &'a [Object],
        purpose: Purpose,
        batch: Option<&'a dyn BatchRelations>,
    ) -> Binder<'a> {
        Binder {
            snapshot,
            settings,
            functions,
            local,
            purpose,
            batch,
            options: options(settings),
            search_path: settings.search_path.clone(),
            view_depth: 0,
            shared: Rc::default(),
        }
    }

    /// The objects that the plans so far stand on.
    pub fn depends_on(&self) -> Vec<Oid> {
        self.shared.depends_on.borrow().iter().copied().collect()
    }

    pub fn note_dependency(&self, oid: Oid) {
        if oid != Oid(0) {
            self.shared.depends_on.borrow_mut().insert(oid);
        }
    }

    pub fn config(&self) -> &ConfigOptions {
        &self.options
    }

    /// Plans a query that `prepare` has not seen yet.
    pub fn plan(&self, query: &Query, source: SourceText<'_>) -> Result<LogicalPlan> {
        let mut query = query.clone();
        syntax::prepare(&mut query, self.purpose, self.functions, source)?;
        self.plan_prepared(query, source)
    }

    /// Plans a query that went through [`syntax::prepare`].
    pub fn plan_prepared(&self, mut query: Query, source: SourceText<'_>) -> Result<LogicalPlan> {
        lookup_version::settle(&mut query, self, source)?;
        let plan = self
            .sql_to_rel()
            .sql_statement_to_plan(Statement::Query(Box::new(query)))
            .map_err(|error| source.error(error))?;
        rewrites::asof::rewrite(plan)
    }

    pub fn sql_to_rel(&self) -> SqlToRel<'_, Binder<'a>> {
        SqlToRel::new_with_options(self, ParserOptions::from(&self.options.sql_parser))
    }

    /// The relation that a name in a query means: local to the pipeline, else in the catalog.
    pub fn find(&self, name: &QualifiedName) -> Option<&'a Object> {
        let is_local = |object: &&Object| {
            let header = object.header();
            header.name == name.name && (name.schema.is_none() || header.schema == name.schema)
        };
        if let Some(object) = self.local.iter().find(is_local) {
            return Some(object);
        }
        self.snapshot.resolve_relation(name, &self.search_path)
    }

    fn source(&self, name: &QualifiedName) -> Result<Arc<dyn TableSource>> {
        if let Some(source) = self.system_source(name, true) {
            return Ok(source);
        }
        let Some(object) = self.find(name) else {
            return match self.system_source(name, false) {
                Some(source) => Ok(source),
                None => Err(self.undefined(name)),
            };
        };
        let oid = object.oid();
        self.note_dependency(oid);
        if oid != Oid(0)
            && let Some(source) = self.shared.sources.borrow().get(&oid)
        {
            return Ok(Arc::clone(source));
        }
        let source = self.object_source(object)?;
        if oid != Oid(0) {
            self.shared.sources.borrow_mut().insert(oid, Arc::clone(&source));
        }
        Ok(source)
    }

    fn object_source(&self, object: &'a Object) -> Result<Arc<dyn TableSource>> {
        match object {
            Object::Table(table) if table.is_internal() => self.internal_source(table),
            Object::Table(table) if self.purpose == Purpose::Batch => {
                match self.batch.and_then(|batch| batch.connected_table(table)) {
                    Some(rows) => Ok(provider_as_source(rows)),
                    None => Err(Error::not_supported(
                        format!(
                            "table \"{}\" does not end: it cannot be read at once",
                            table.header.name
                        ),
                        "Create a pipeline that reads the table, and select from the pipeline.",
                    )),
                }
            }
            Object::Table(table) => match lookup_tables::lookup(self, table)? {
                Some(lookup) => Ok(Arc::new(lookup)),
                None => Ok(Arc::new(tables::source(self, table)?)),
            },
            Object::View(view) => Ok(Arc::new(self.view_source(view)?)),
            Object::Pipeline(pipeline) => {
                let name = &pipeline.header.name;
                match self.batch {
                    Some(batch) => batch
                        .pipeline_result(pipeline.header.oid)
                        .map(|rows| provider_as_source(result_table(rows)))
                        .ok_or_else(|| no_result(name, pipeline.columns.is_empty())),
                    None if pipeline.columns.is_empty() => Err(no_result(name, true)),
                    None => Ok(Arc::new(tables::result(pipeline)?)),
                }
            }
            other => Err(Error::query(
                crate::error::SqlState::WRONG_OBJECT_TYPE,
                format!(
                    "\"{}\" is a {} and cannot be read",
                    other.header().name,
                    other.kind().word()
                ),
            )),
        }
    }

    fn internal_source(&self, table: &Table) -> Result<Arc<dyn TableSource>> {
        let name = &table.header.name;
        match self.batch.filter(|_| self.purpose == Purpose::Batch) {
            Some(batch) => batch
                .pipeline_result(table.header.oid)
                .map(|rows| provider_as_source(result_table(rows)))
                .ok_or_else(|| Error::Internal(format!("the rows of table \"{name}\" are missing"))),
            None => match keeper(table) {
                Some(keeper) => Ok(Arc::new(tables::result(&keeper)?)),
                None => Err(Error::Internal(format!("table \"{name}\" is not kept"))),
            },
        }
    }

    /// A system view: `pg_catalog` comes before the search path, the others only when named.
    fn system_source(&self, name: &QualifiedName, implicit: bool) -> Option<Arc<dyn TableSource>> {
        let batch = self.batch?;
        let schema = match &name.schema {
            Some(schema) => schema.as_str(),
            None if implicit => "pg_catalog",
            None => self
                .search_path
                .iter()
                .map(String::as_str)
                .find(|schema| SYSTEM_SCHEMAS.contains(schema))?,
        };
        if !SYSTEM_SCHEMAS.contains(&schema) {
            return None;
        }
        batch.system_relation(schema, &name.name).map(provider_as_source)
    }

    fn view_source(&self, view: &View) -> Result<ViewSource> {
        let mut search_path = view.search_path.clone();
        if search_path.is_empty() {
            search_path.clone_from(&self.search_path);
        }
        if self.view_depth >= VIEW_DEPTH_MAX {
            return Err(Error::query(
                crate::error::SqlState::STATEMENT_TOO_COMPLEX,
                format!(
                    "view \"{}\" stands on more than {VIEW_DEPTH_MAX} other views",
                    view.header.name
                ),
            ));
        }
        let inner = Binder {
            snapshot: self.snapshot,
            settings: self.settings,
            functions: self.functions,
            // What is local to a pipeline must not change what a view of the catalog means.
            local: if view.header.oid == Oid(0) { self.local } else { &[] },
            purpose: self.purpose,
            batch: self.batch,
            options: self.options.clone(),
            search_path,
            view_depth: self.view_depth + 1,
            shared: Rc::clone(&self.shared),
        };
        // Positions in the view's text mean nothing to whoever uses the view; nodes that know theirs are to have none.
        let plan = dialect::parse_query(&view.query)
            .and_then(|query| inner.plan(&query, SourceText("")))
            .map_err(Error::nowhere)?;
        let plan = shown_columns(plan, &view.column_names).map_err(|error| SourceText("").error(error))?;
        Ok(ViewSource {
            schema: Arc::new(plan.schema().as_arrow().clone()),
            plan,
        })
    }

    fn undefined(&self, name: &QualifiedName) -> Error {
        let shown = match &name.schema {
            Some(schema) => format!("{schema}.{}", name.name),
            None => name.name.clone(),
        };
        let schema_missing = name.schema.as_ref().is_some_and(|schema| {
            self.snapshot.schema_oid(schema).is_none() && !SYSTEM_SCHEMAS.contains(&schema.as_str())
        });
        let hint = self.near(name).map(|near| format!("Perhaps you meant \"{near}\"."));
        Error::Undefined {
            kind: if schema_missing && hint.is_none() {
                Undefined::Schema
            } else {
                Undefined::Relation
            },
            name: if schema_missing && hint.is_none() {
                name.schema.clone().unwrap_or(shown)
            } else {
                shown
            },
            hint,
            position: None,
        }
    }

    fn near(&self, name: &QualifiedName) -> Option<String> {
        let relations = self
            .snapshot
            .objects()
            .chain(self.local)
            .filter(|object| object.kind().is_relation())
            .map(|object| object.header().name.clone());
        let system = SYSTEM_SCHEMAS
            .iter()
            .filter(|schema| name.schema.as_deref().is_none_or(|wanted| wanted == **schema))
            .flat_map(|schema| self.batch.map(|batch| batch.system_names(schema)).unwrap_or_default());
        let candidates: Vec<String> = match &name.schema {
            Some(schema) if SYSTEM_SCHEMAS.contains(&schema.as_str()) => system.collect(),
            _ => relations.chain(system).collect(),
        };
        nearest(&name.name, candidates.iter().map(String::as_str)).map(str::to_owned)
    }
}

fn no_result(name: &str, only_sinks: bool) -> Error {
    if only_sinks {
        Error::query(
            crate::error::SqlState::WRONG_OBJECT_TYPE,
            format!("pipeline \"{name}\" delivers to a table and keeps no result"),
        )
    } else {
        Error::Query(
            crate::error::ErrorReport::new(
                crate::error::SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
                format!("pipeline \"{name}\" has no result yet"),
            )
            .with_hint(format!("Start it: START PIPELINE {name}.")),
        )
    }
}

/// Planner options: identifiers as in Postgres, plain UTF-8 strings, spans for error positions.
pub fn options(settings: &Settings) -> ConfigOptions {
    let mut options = ConfigOptions::new();
    options.sql_parser.collect_spans = true;
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some(settings.time_zone.clone());
    options.optimizer.skip_failed_rules = false;
    options
}

/// Gives the columns the names of the list, or those they show.
pub fn shown_columns(plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan, DataFusionError> {
    let shown: Vec<String> = match names {
        [] => plan
            .schema()
            .fields()
            .iter()
            .map(|field| names::shown(field.name()).to_owned())
            .collect(),
        given => {
            let rest = plan.schema().fields().iter().skip(given.len());
            given
                .iter()
                .cloned()
                .chain(rest.map(|field| names::shown(field.name()).to_owned()))
                .collect()
        }
    };
    let unchanged = plan
        .schema()
        .fields()
        .iter()
        .zip(&shown)
        .all(|(field, name)| field.name() == name);
    if unchanged {
        return Ok(plan);
    }
    let columns: Vec<Expr> = plan
        .schema()
        .iter()
        .zip(&shown)
        .map(|((qualifier, field), name)| Expr::Column(Column::from((qualifier, field))).alias(name))
        .collect();
    LogicalPlanBuilder::from(plan).project(columns)?.build()
}

/// The type in which a result's column is kept and sent.
pub fn result_type(of: &DataType) -> DataType {
    match of {
        DataType::Null | DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Timestamp(_, zone) => {
            let zone = zone.as_ref().map(|_| Arc::from("+00:00"));
            DataType::Timestamp(TimeUnit::Microsecond, zone)
        }
        DataType::Date64 => DataType::Date32,
        DataType::Time32(_) | DataType::Time64(_) => DataType::Time64(TimeUnit::Microsecond),
        DataType::Interval(_) | DataType::Duration(_) => DataType::Interval(IntervalUnit::MonthDayNano),
        DataType::LargeList(element) => DataType::List(Arc::clone(element)),
        DataType::Dictionary(_, values) => result_type(values),
        other => other.clone(),
    }
}

struct ViewSource {
    schema: SchemaRef,
    plan: LogicalPlan,
}

impl TableSource for ViewSource {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}

/// `catalog.schema.table` keeps the last two.
pub fn qualified_name(reference: &TableReference) -> QualifiedName {
    QualifiedName {
        schema: reference.schema().map(str::to_owned),
        name: reference.table().to_owned(),
    }
}

impl ContextProvider for Binder<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>, DataFusionError> {
        self.source(&qualified_name(&name))
            .map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn get_table_function_source(&self, name: &str, args: Vec<Expr>) -> Result<Arc<dyn TableSource>, DataFusionError> {
        crate::planner::functions::table_function(self, name, args)
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>, DataFusionError> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.functions.expr_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Arc::new(types::Types))
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.functions
            .scalar
            .get(name)
            .map(Arc::clone)
            .or_else(|| asof::mark(name))
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        self.functions.higher_order.get(name).map(Arc::clone)
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.functions.aggregate.get(name).map(Arc::clone)
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.functions.window.get(name).map(Arc::clone)
    }

    fn get_variable_type(&self, _variable_names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        self.functions.scalar.keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        self.functions.higher_order.keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.functions.aggregate.keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.functions.window.keys().cloned().collect()
    }
}

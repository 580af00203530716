//! One-shot SELECT: DataFusion's own optimizer and executor over what is there now: kept results of pipelines, system
//! views, VALUES, generate_series.
//!
//! Guarantees: a pipeline's result is read at one epoch by all of a statement; rows are streamed, not collected (but for
//! correlated subqueries that only evaluation row by row can answer, see [`correlated`]).

mod analyze;
mod asof;
mod classify;
mod correlated;
mod execute;
mod hidden_order;
mod parameters;
mod rows;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{Column, ParamValues};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::optimizer::AnalyzerRule;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::scalar::ScalarValue;
use datafusion::sql::planner::PlannerContext;
use datafusion::sql::sqlparser::ast::{Query, Statement};

use crate::catalog::snapshot::CatalogSnapshot;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::{self, Purpose};
use crate::planner::bind::{BatchRelations, Binder, names, result_type};
use crate::planner::error::Result;
use crate::planner::functions::{self, Functions};
use crate::planner::rewrites;
use crate::planner::settings::Settings;

pub use classify::{Classification, classify};
pub use execute::BatchQuery;
pub use parameters::parameter_types;
pub use rows::{ResultRows, result_table};

/// Plans a query over what is there now; `parameters` are the values of `$1`, `$2`, ..
pub fn plan_select(
    query: &Query,
    text: &str,
    snapshot: &Arc<CatalogSnapshot>,
    settings: &Settings,
    relations: &dyn BatchRelations,
    parameters: &[ScalarValue],
) -> Result<BatchQuery> {
    let functions = functions::register_with_catalog(settings, snapshot);
    let types = parameters.iter().map(|value| Some(value.data_type())).collect();
    let bound = bind(query, text, snapshot, settings, relations, &functions, types)?;
    let source = SourceText(text);
    let filled = match parameters {
        [] => bound,
        values => bound
            .replace_params_with_values(&ParamValues::from(values.to_vec()))
            .map_err(|error| source.error(error))?,
    };
    let windowed = rewrites::window::lower_leftover(filled)?;
    let checked = functions::checked_arithmetic::checked(coerced(windowed)).map_err(|error| source.error(error))?;
    let plan = typed_result(checked, source)?;
    let shown = shown_schema(&plan);
    Ok(BatchQuery::new(plan, shown, settings))
}

/// Plans a query whose rows are put into a table: `shape` makes the table's columns of the query's.
pub fn plan_shaped(
    query: &Query,
    text: &str,
    snapshot: &Arc<CatalogSnapshot>,
    settings: &Settings,
    relations: &dyn BatchRelations,
    shape: &dyn Fn(LogicalPlan) -> Result<LogicalPlan>,
) -> Result<BatchQuery> {
    let functions = functions::register_with_catalog(settings, snapshot);
    let bound = bind(query, text, snapshot, settings, relations, &functions, Vec::new())?;
    let windowed = rewrites::window::lower_leftover(bound)?;
    let shaped = shape(coerced(windowed))?;
    // Behind the shape, as it casts to the types of the columns.
    let plan = functions::checked_arithmetic::checked(shaped).map_err(|error| SourceText(text).error(error))?;
    let shown = shown_schema(&plan);
    Ok(BatchQuery::new(plan, shown, settings))
}

/// The columns of a query without running it; parameters may have no values yet.
pub fn describe_select(
    query: &Query,
    text: &str,
    snapshot: &Arc<CatalogSnapshot>,
    settings: &Settings,
    relations: &dyn BatchRelations,
    parameters: &[Option<crate::types::SqlType>],
) -> Result<SchemaRef> {
    let functions = functions::register_with_catalog(settings, snapshot);
    let types = parameters
        .iter()
        .map(|of| of.as_ref().map(crate::types::SqlType::to_arrow))
        .collect();
    let bound = bind(query, text, snapshot, settings, relations, &functions, types)?;
    let source = SourceText(text);
    let windowed = rewrites::window::lower_leftover(bound)?;
    let checked = functions::checked_arithmetic::checked(coerced(windowed)).map_err(|error| source.error(error))?;
    Ok(shown_schema(&typed_result(checked, source)?))
}

fn bind(
    query: &Query,
    text: &str,
    snapshot: &CatalogSnapshot,
    settings: &Settings,
    relations: &dyn BatchRelations,
    functions: &Functions,
    parameters: Vec<Option<arrow::datatypes::DataType>>,
) -> Result<LogicalPlan> {
    let source = SourceText(text);
    let binder = Binder::new(snapshot, settings, functions, &[], Purpose::Batch, Some(relations));
    let mut query = query.clone();
    syntax::prepare(&mut query, Purpose::Batch, functions, source)?;
    let fields = parameters
        .into_iter()
        .map(|of| of.map(|of| Arc::new(arrow::datatypes::Field::new("", of, true))))
        .collect();
    let mut context = PlannerContext::new().with_prepare_param_data_types(fields);
    let plan = binder
        .sql_to_rel()
        .sql_statement_to_plan_with_context(Statement::Query(Box::new(query)), &mut context)
        .map_err(|error| source.error(error))?;
    let joined = rewrites::asof::rewrite(plan)?;
    analyze::settle(joined)
        .and_then(asof::expand)
        .map_err(|error| source.error(error))
}

/// The plan with its types settled: those of UNION, CASE and the like are not known before. What cannot be settled the
/// optimizer reports when the query runs.
fn coerced(plan: LogicalPlan) -> LogicalPlan {
    TypeCoercion::new()
        .analyze(plan.clone(), &ConfigOptions::new())
        .unwrap_or(plan)
}

/// The query's columns in the types that clients and the rest of Laminar know.
fn typed_result(plan: LogicalPlan, source: SourceText<'_>) -> Result<LogicalPlan> {
    let schema = plan.schema();
    let unchanged = schema
        .fields()
        .iter()
        .all(|field| result_type(field.data_type()) == *field.data_type());
    if unchanged {
        return Ok(plan);
    }
    let columns: Vec<Expr> = schema
        .iter()
        .map(|(qualifier, field)| {
            let column = Expr::Column(Column::from((qualifier, field)));
            let wanted = result_type(field.data_type());
            match wanted == *field.data_type() {
                true => column,
                false => cast(column, wanted).alias_qualified(qualifier.cloned(), field.name()),
            }
        })
        .collect();
    LogicalPlanBuilder::from(plan)
        .project(columns)
        .and_then(LogicalPlanBuilder::build)
        .map_err(|error| source.error(error))
}

/// Names as clients see them; any column may be NULL.
fn shown_schema(plan: &LogicalPlan) -> SchemaRef {
    let shown = |field: &Arc<arrow::datatypes::Field>| {
        field
            .as_ref()
            .clone()
            .with_name(names::shown(field.name()))
            .with_nullable(true)
    };
    Arc::new(Schema::new(
        plan.schema().fields().iter().map(shown).collect::<Vec<_>>(),
    ))
}

#[cfg(test)]
mod tests;

//! Types that `$1`, `$2`, .. of a continuous query get from what they are compared or computed with.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::sql::planner::PlannerContext;
use datafusion::sql::sqlparser::ast::{Query, Statement};

use crate::catalog::objects::Object;
use crate::catalog::snapshot::CatalogSnapshot;
use crate::planner::bind::positions::SourceText;
use crate::planner::bind::syntax::{self, Purpose};
use crate::planner::bind::{BatchRelations, Binder};
use crate::planner::error::Result;
use crate::planner::functions;
use crate::planner::settings::Settings;
use crate::types::SqlType;

/// One entry for each parameter from `$1` to the highest that the query uses; `None` when its place says nothing.
pub fn infer_parameter_types(
    query: &Query,
    text: &str,
    local: &[Object],
    snapshot: &CatalogSnapshot,
    settings: &Settings,
    relations: &dyn BatchRelations,
    given: &[Option<SqlType>],
) -> Result<Vec<Option<SqlType>>> {
    let source = SourceText(text);
    let functions = functions::register_all(&settings.session);
    let binder = Binder::new(
        snapshot,
        settings,
        &functions,
        local,
        Purpose::Foreground,
        Some(relations),
    );
    let mut query = query.clone();
    syntax::prepare(&mut query, Purpose::Foreground, &functions, source)?;
    let fields = given
        .iter()
        .map(|of| of.as_ref().map(|of| Arc::new(Field::new("", of.to_arrow(), true))))
        .collect();
    let mut context = PlannerContext::new().with_prepare_param_data_types(fields);
    let plan = binder
        .sql_to_rel()
        .sql_statement_to_plan_with_context(Statement::Query(Box::new(query)), &mut context)
        .map_err(|error| source.error(error))?;
    let found = plan.get_parameter_fields().map_err(|error| source.error(error))?;
    let mut types = Vec::new();
    for (name, field) in found {
        let Some(index) = name
            .trim_start_matches('$')
            .parse::<usize>()
            .ok()
            .and_then(|number| number.checked_sub(1))
        else {
            continue;
        };
        types.resize(types.len().max(index + 1), None);
        types[index] = field.and_then(|field| SqlType::from_arrow_field(&field));
    }
    Ok(types)
}

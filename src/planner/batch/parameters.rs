//! Types of `$1`, `$2`, .. of a prepared query: what the client said, else what the place needs, else text.

use std::sync::Arc;

use datafusion::sql::sqlparser::ast::Query;

use crate::catalog::snapshot::CatalogSnapshot;
use crate::planner::batch::bind;
use crate::planner::bind::BatchRelations;
use crate::planner::bind::positions::SourceText;
use crate::planner::error::Result;
use crate::planner::functions;
use crate::planner::settings::Settings;
use crate::types::SqlType;

/// One type for each parameter from `$1` to the highest used or given.
pub fn parameter_types(
    query: &Query,
    text: &str,
    snapshot: &Arc<CatalogSnapshot>,
    settings: &Settings,
    relations: &dyn BatchRelations,
    given: &[Option<SqlType>],
) -> Result<Vec<SqlType>> {
    let functions = functions::register_with_catalog(settings, snapshot);
    let types = given.iter().map(|of| of.as_ref().map(SqlType::to_arrow)).collect();
    let plan = bind(query, text, snapshot, settings, relations, &functions, types)?;
    let found = plan
        .get_parameter_fields()
        .map_err(|error| SourceText(text).error(error))?;
    let number = |name: &str| name.trim_start_matches('$').parse::<usize>().ok();
    let highest = found.keys().filter_map(|name| number(name)).max().unwrap_or(0);
    let mut types = Vec::new();
    for index in 1..=highest.max(given.len()) {
        let said = given.get(index - 1).cloned().flatten();
        let inferred = || {
            let field = found.get(&format!("${index}")).cloned().flatten()?;
            SqlType::from_arrow_field(&field)
        };
        types.push(said.or_else(inferred).unwrap_or(SqlType::Text));
    }
    Ok(types)
}

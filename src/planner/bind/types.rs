//! Types in queries are those of `types.rs`, whatever spelling.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast::DataType as SqlDataType;

use crate::types;

#[derive(Debug)]
pub struct Types;

impl TypePlanner for Types {
    fn plan_type_field(&self, sql_type: &SqlDataType) -> Result<Option<FieldRef>> {
        let text = sql_type.to_string().replace("pg_catalog.", "");
        match types::parse(&text) {
            Ok(parsed) => Ok(Some(Arc::new(parsed.to_arrow_field("", true)))),
            Err(error) => Err(DataFusionError::External(Box::new(error))),
        }
    }
}

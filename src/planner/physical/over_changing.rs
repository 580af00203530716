//! OVER over rows that change later: of tables, of aggregates, joins and rankings that correct what they put out.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema};
use datafusion::physical_expr::PhysicalExpr;

use crate::engine::over_spec::OverWork;
use crate::error::SqlState;
use crate::planner::bind::positions::SourceText;
use crate::planner::compiled::Notice;
use crate::planner::error::Result;
use crate::planner::explain;
use crate::planner::physical::over::{Call, Columns, window_expression};
use crate::planner::physical::top_n::{check_order, check_types};
use crate::planner::physical::{Lowering, Stream, physical_expression, repeatable};

impl Lowering {
    /// Partitions that are kept and computed again. `columns` has the expressions of PARTITION BY and ORDER BY.
    pub(super) fn changing(&mut self, stream: &Stream, calls: &[Call], columns: &Columns<'_>) -> Result<OverWork> {
        let params = &calls[0].function.params;
        let of = |expression: &Arc<dyn PhysicalExpr>| {
            let of = expression.data_type(&stream.shape.schema);
            of.map_err(|error| SourceText("").error(error))
        };
        let hidden: Vec<Arc<dyn PhysicalExpr>> = columns
            .hidden
            .iter()
            .map(|(_, physical)| Arc::clone(physical))
            .collect();
        repeatable(stream, &hidden)?;
        for sort in &params.order_by {
            check_order(&of(&physical_expression(&sort.expr, columns.schema)?)?, &sort.expr)?;
        }
        let mut fields: Vec<Arc<Field>> = stream.shape.schema.fields().iter().cloned().collect();
        for (expr, physical) in &columns.hidden {
            fields.push(Arc::new(Field::new(
                expr.schema_name().to_string(),
                of(physical)?,
                true,
            )));
        }
        check_types(&Arc::new(Schema::new(fields)))?;
        let functions = calls.iter().map(|call| window_expression(call, columns.schema));
        let functions = functions.collect::<Result<_>>()?;
        if self.state_ttl_ms.is_none() && !stream.bounded {
            let keys: Vec<String> = params.partition_by.iter().map(explain::expression).collect();
            let of_what = match keys.is_empty() {
                true => "and computes all of it".to_owned(),
                false => format!("and computes all rows of a value of ({})", keys.join(", ")),
            };
            self.notices.push(Notice {
                code: SqlState::SUCCESSFUL_COMPLETION,
                message: format!("OVER rows that change keeps all of them {of_what} again when one changes"),
                hint: Some("PARTITION BY something of which there are few rows each.".into()),
            });
        }
        Ok(OverWork::Changing {
            functions,
            ttl_ms: self.state_ttl_ms,
        })
    }
}

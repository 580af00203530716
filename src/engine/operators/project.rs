//! SELECT's expressions. A bare column is passed on without evaluation; weights and event time stay with their rows.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::engine::message::Chunk;
use crate::engine::operator::{Operator, Output, Result};
use crate::engine::operators::columns::{batch_of, evaluate};

pub(crate) struct Project {
    columns: Vec<Source>,
    schema: SchemaRef,
}

enum Source {
    Input(usize),
    Computed(Arc<dyn PhysicalExpr>),
}

impl Project {
    pub fn new(expressions: &[Arc<dyn PhysicalExpr>], schema: &SchemaRef) -> Project {
        let source = |expression: &Arc<dyn PhysicalExpr>| match expression.downcast_ref::<Column>() {
            Some(column) => Source::Input(column.index()),
            None => Source::Computed(Arc::clone(expression)),
        };
        Project {
            columns: expressions.iter().map(source).collect(),
            schema: Arc::clone(schema),
        }
    }
}

impl Operator for Project {
    fn name(&self) -> &'static str {
        "project"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, output: &mut Output) -> Result<()> {
        let column = |source: &Source| -> Result<ArrayRef> {
            match source {
                Source::Input(index) => Ok(Arc::clone(chunk.rows.column(*index))),
                Source::Computed(expression) => evaluate(expression, &chunk.rows),
            }
        };
        let columns = self.columns.iter().map(column).collect::<Result<Vec<_>>>()?;
        output.data(Chunk {
            rows: batch_of(&self.schema, columns, chunk.len())?,
            weights: chunk.weights,
            event_time: chunk.event_time,
            key_hashes: None,
        });
        Ok(())
    }
}

//! UNION ALL: chunks of every input pass, in the output's schema.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::engine::message::Chunk;
use crate::engine::operator::{Operator, Output, Result};
use crate::engine::operators::columns::batch_of;

pub(crate) struct Union {
    schema: SchemaRef,
}

impl Union {
    pub fn new(schema: &SchemaRef) -> Union {
        Union {
            schema: Arc::clone(schema),
        }
    }
}

impl Operator for Union {
    fn name(&self) -> &'static str {
        "union"
    }

    fn process(&mut self, _input: usize, mut chunk: Chunk, output: &mut Output) -> Result<()> {
        chunk.key_hashes = None;
        // Inputs may name their columns otherwise, and carry some where none are needed: rows of nothing cannot travel.
        if chunk.rows.schema_ref() != &self.schema {
            let columns = match self.schema.fields().is_empty() {
                true => Vec::new(),
                false => chunk.rows.columns().to_vec(),
            };
            chunk.rows = batch_of(&self.schema, columns, chunk.len())?;
        }
        output.data(chunk);
        Ok(())
    }
}

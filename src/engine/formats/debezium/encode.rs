//! Change records as Debezium writes them: `{"before": .., "after": .., "op": "c" | "d"}`, one a line.
//!
//! A row taken away is a `d` with the row in `before`, a row added a `c` with it in `after`; an update is both, in this
//! order. Consumers that keep rows by key end with the same table as with `u`.

use arrow::datatypes::SchemaRef;

use crate::engine::error::Error;
use crate::engine::formats::Encoder;
use crate::engine::formats::json::encode::{JsonEncodeOptions, RowWriter};
use crate::engine::message::Chunk;

pub struct DebeziumEncoder {
    options: JsonEncodeOptions,
}

impl DebeziumEncoder {
    pub fn new(_schema: &SchemaRef, options: JsonEncodeOptions) -> DebeziumEncoder {
        DebeziumEncoder { options }
    }
}

impl Encoder for DebeziumEncoder {
    fn encode(&mut self, chunk: &Chunk, out: &mut Vec<u8>) -> Result<(), Error> {
        let rows = RowWriter::new(chunk, self.options)?;
        for row in 0..chunk.len() {
            let weight = chunk.weight(row);
            for _ in 0..weight.unsigned_abs() {
                if weight < 0 {
                    out.extend_from_slice(b"{\"before\":");
                    rows.write(row, out);
                    out.extend_from_slice(b",\"after\":null,\"op\":\"d\"}\n");
                } else {
                    out.extend_from_slice(b"{\"before\":null,\"after\":");
                    rows.write(row, out);
                    out.extend_from_slice(b",\"op\":\"c\"}\n");
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::engine::message::Weights;

    #[test]
    fn weights_become_operations() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap();
        let mut chunk = Chunk::insert(rows);
        chunk.weights = Weights::Signed(vec![-1, 2].into());
        let mut out = Vec::new();
        DebeziumEncoder::new(&schema, JsonEncodeOptions::default())
            .encode(&chunk, &mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"before\":{\"n\":1},\"after\":null,\"op\":\"d\"}\n\
             {\"before\":null,\"after\":{\"n\":2},\"op\":\"c\"}\n\
             {\"before\":null,\"after\":{\"n\":2},\"op\":\"c\"}\n"
        );
    }
}

//! Change records as Debezium writes them, one a line: `{"before": .., "after": .., "op": "c" | "u" | "d"}`.
//!
//! A row taken away is a `d` with the row in `before`, a row added a `c` with it in `after`. Where rows have a key and both halves
//! of an update are in one chunk, they are a `u`; else they are a `d` and a `c`, with which consumers end at the same rows.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};

use crate::engine::error::Error;
use crate::engine::formats::json::encode::{JsonEncodeOptions, RowWriter};
use crate::engine::formats::{Encoder, Written};
use crate::engine::message::{Chunk, Weights};
use crate::engine::operators::keys::{GroupKeys, key_hashes};

/// No other half.
const NONE: u32 = u32::MAX;

pub struct DebeziumEncoder {
    options: JsonEncodeOptions,
    key: Option<Key>,
}

struct Key {
    columns: Vec<usize>,
    types: Vec<DataType>,
}

/// Of each row of a chunk, the row that is the other half of its update.
struct Halves(Vec<u32>);

impl DebeziumEncoder {
    /// `key`: columns that tell rows apart.
    pub fn new(schema: &SchemaRef, key: Option<&[usize]>, options: JsonEncodeOptions) -> DebeziumEncoder {
        let key = key.map(|columns| Key {
            columns: columns.to_vec(),
            types: columns.iter().map(|&at| schema.field(at).data_type().clone()).collect(),
        });
        DebeziumEncoder { options, key }
    }
}

impl Halves {
    /// A row that goes and the next of its key, when that comes.
    fn of(chunk: &Chunk, key: Option<&Key>) -> Result<Halves, Error> {
        let mut halves = vec![NONE; chunk.len()];
        let (Some(key), Weights::Signed(weights)) = (key, &chunk.weights) else {
            return Ok(Halves(halves));
        };
        let columns: Vec<ArrayRef> = key
            .columns
            .iter()
            .map(|&at| Arc::clone(chunk.rows.column(at)))
            .collect();
        let mut keys = GroupKeys::new(&key.types)?;
        let numbers = keys.intern(&columns, &key_hashes(&columns, chunk.len(), None))?;
        let mut gone = vec![NONE; keys.capacity()];
        for (row, &number) in numbers.iter().enumerate() {
            let before = std::mem::replace(&mut gone[number as usize], NONE);
            match weights[row] {
                -1 => gone[number as usize] = row as u32,
                1 if before != NONE => {
                    halves[row] = before;
                    halves[before as usize] = row as u32;
                }
                _ => {}
            }
        }
        Ok(Halves(halves))
    }

    fn other(&self, row: usize) -> Option<usize> {
        (self.0[row] != NONE).then(|| self.0[row] as usize)
    }
}

impl Encoder for DebeziumEncoder {
    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let rows = RowWriter::new(chunk, self.options)?;
        let halves = Halves::of(chunk, self.key.as_ref())?;
        for row in 0..chunk.len() {
            let weight = chunk.weight(row);
            match halves.other(row) {
                // Written where the row comes.
                Some(_) if weight < 0 => continue,
                Some(before) => {
                    write_change(&rows, Some(before), Some(row), "u", out);
                    written(row, out);
                    continue;
                }
                None => {}
            }
            for _ in 0..weight.unsigned_abs() {
                if weight < 0 {
                    write_change(&rows, Some(row), None, "d", out);
                } else {
                    write_change(&rows, None, Some(row), "c", out);
                }
                written(row, out);
            }
        }
        Ok(())
    }
}

fn write_change(rows: &RowWriter<'_>, before: Option<usize>, after: Option<usize>, op: &str, out: &mut Vec<u8>) {
    for (name, image) in [("{\"before\":", before), (",\"after\":", after)] {
        out.extend_from_slice(name.as_bytes());
        match image {
            Some(row) => rows.write(row, out),
            None => out.extend_from_slice(b"null"),
        }
    }
    out.extend_from_slice(b",\"op\":\"");
    out.extend_from_slice(op.as_bytes());
    out.extend_from_slice(b"\"}\n");
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
        DebeziumEncoder::new(&schema, None, JsonEncodeOptions::default())
            .encode(&chunk, &mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"before\":{\"n\":1},\"after\":null,\"op\":\"d\"}\n\
             {\"before\":null,\"after\":{\"n\":2},\"op\":\"c\"}\n\
             {\"before\":null,\"after\":{\"n\":2},\"op\":\"c\"}\n"
        );
    }

    #[test]
    fn halves_of_an_update_are_one_record() {
        let field = |name| Field::new(name, DataType::Int64, true);
        let schema: SchemaRef = Arc::new(Schema::new(vec![field("n"), field("k")]));
        let numbers = Arc::new(Int64Array::from(vec![1, 2, 3, 4, 5, 6]));
        let keys = Arc::new(Int64Array::from(vec![7, 8, 7, 8, 7, 9]));
        let mut chunk = Chunk::insert(RecordBatch::try_new(Arc::clone(&schema), vec![numbers, keys]).unwrap());
        chunk.weights = Weights::Signed(vec![-1, 1, 1, -1, -1, -1].into());
        let mut out = Vec::new();
        DebeziumEncoder::new(&schema, Some(&[1]), JsonEncodeOptions::default())
            .encode(&chunk, &mut out)
            .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"before\":null,\"after\":{\"n\":2,\"k\":8},\"op\":\"c\"}\n\
             {\"before\":{\"n\":1,\"k\":7},\"after\":{\"n\":3,\"k\":7},\"op\":\"u\"}\n\
             {\"before\":{\"n\":4,\"k\":8},\"after\":null,\"op\":\"d\"}\n\
             {\"before\":{\"n\":5,\"k\":7},\"after\":null,\"op\":\"d\"}\n\
             {\"before\":{\"n\":6,\"k\":9},\"after\":null,\"op\":\"d\"}\n"
        );
    }
}

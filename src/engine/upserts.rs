//! Changes between two barriers as the last word on each key, for sinks that keep a row a key.
//!
//! Halves of one change may come from different subtasks in any order; at a barrier all have come. So changes are added up
//! until then: what is left of a key is its new row, or the row that went. Memory: the rows that differ between two barriers.
//!
//! The planner has seen to it that at a barrier there is one row a key at most; that it is so is checked.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};

use crate::engine::error::Error;
use crate::engine::message::{CHUNK_ROWS_TARGET, Chunk, Weights};
use crate::engine::operators::keys::{GroupKeys, key_hashes};
use crate::engine::operators::net_rows::NetRows;
use crate::error::SqlState;
use crate::types::record_batch::batch_of_rows;

pub struct Upserts {
    key: Vec<usize>,
    schema: SchemaRef,
    rows: NetRows,
}

impl Upserts {
    pub fn new(key: &[usize], schema: &SchemaRef) -> Result<Upserts, Error> {
        Ok(Upserts {
            key: key.to_vec(),
            rows: net_rows(schema)?,
            schema: Arc::clone(schema),
        })
    }

    pub fn add(&mut self, chunk: &Chunk) -> Result<(), Error> {
        self.rows.add(chunk)
    }

    /// Rows that go (-1), each the only word on its key, then rows that come or replace another (+1).
    pub fn take(&mut self) -> Result<Vec<Chunk>, Error> {
        let rows = std::mem::replace(&mut self.rows, net_rows(&self.schema)?);
        let (gone, come) = rows.signs();
        let of = |&at: &usize| self.schema.field(at).data_type().clone();
        let mut keys = GroupKeys::new(&self.key.iter().map(of).collect::<Vec<_>>())?;
        let mut chunks = Vec::new();
        for part in come.chunks(CHUNK_ROWS_TARGET) {
            let columns = rows.gather(part);
            self.intern(&mut keys, &columns, part.len())?;
            chunks.push(self.chunk(columns, part.len(), 1)?);
        }
        if keys.len() < come.len() {
            return Err(Error::Data {
                code: SqlState::UNIQUE_VIOLATION,
                message: "two rows for one key of a table that keeps one".into(),
                detail: None,
            });
        }
        let mut deletes = Vec::new();
        for part in gone.chunks(CHUNK_ROWS_TARGET) {
            let numbers = self.intern(&mut keys, &rows.gather(part), part.len())?;
            let only: Vec<u32> = part
                .iter()
                .zip(numbers)
                .filter(|(_, number)| *number as usize >= come.len())
                .map(|(&row, _)| row)
                .collect();
            if !only.is_empty() {
                deletes.push(self.chunk(rows.gather(&only), only.len(), -1)?);
            }
        }
        deletes.append(&mut chunks);
        Ok(deletes)
    }

    fn intern(&self, keys: &mut GroupKeys, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>, Error> {
        let columns: Vec<ArrayRef> = self.key.iter().map(|&at| Arc::clone(&columns[at])).collect();
        keys.intern(&columns, &key_hashes(&columns, rows, None))
    }

    fn chunk(&self, columns: Vec<ArrayRef>, rows: usize, weight: i64) -> Result<Chunk, Error> {
        let rows = batch_of_rows(Arc::clone(&self.schema), columns, rows)?;
        Ok(Chunk {
            weights: match weight {
                1 => Weights::AllInsert,
                weight => Weights::Signed(vec![weight; rows.num_rows()].into()),
            },
            ..Chunk::insert(rows)
        })
    }
}

fn net_rows(schema: &SchemaRef) -> Result<NetRows, Error> {
    let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
    NetRows::new(&types)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{AsArray, Int64Array, RecordBatch};
    use arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    fn schema() -> SchemaRef {
        let field = |name| Field::new(name, DataType::Int64, true);
        Arc::new(Schema::new(vec![field("v"), field("k")]))
    }

    /// Key, value, weight.
    fn add(upserts: &mut Upserts, rows: &[(i64, i64, i64)]) {
        let values: Int64Array = rows.iter().map(|row| Some(row.1)).collect();
        let keys: Int64Array = rows.iter().map(|row| Some(row.0)).collect();
        let chunk = Chunk {
            weights: Weights::Signed(rows.iter().map(|row| row.2).collect()),
            ..Chunk::insert(RecordBatch::try_new(schema(), vec![Arc::new(values), Arc::new(keys)]).unwrap())
        };
        upserts.add(&chunk).unwrap();
    }

    fn taken(upserts: &mut Upserts) -> Vec<(i64, i64, i64)> {
        let mut rows = Vec::new();
        for chunk in upserts.take().unwrap() {
            let column = |at: usize| chunk.rows.column(at).as_primitive::<Int64Type>().clone();
            rows.extend((0..chunk.len()).map(|row| (column(1).value(row), column(0).value(row), chunk.weight(row))));
        }
        rows
    }

    #[test]
    fn the_last_word_on_a_key_is_independent_of_the_order_of_halves() {
        let mut upserts = Upserts::new(&[1], &schema()).unwrap();
        add(&mut upserts, &[(1, 10, 1), (2, 20, 1)]);
        assert_eq!(taken(&mut upserts), [(1, 10, 1), (2, 20, 1)]);
        // The new row of 1 comes before the old one goes; 2 goes; 3 comes and goes; 4 goes and comes as it was.
        add(&mut upserts, &[(1, 11, 1), (3, 30, 1), (4, 40, -1)]);
        add(&mut upserts, &[(1, 10, -1), (2, 20, -1), (3, 30, -1), (4, 40, 1)]);
        assert_eq!(taken(&mut upserts), [(2, 20, -1), (1, 11, 1)]);
        assert_eq!(taken(&mut upserts), []);
    }

    #[test]
    fn two_rows_of_a_key_are_an_error() {
        let mut upserts = Upserts::new(&[1], &schema()).unwrap();
        add(&mut upserts, &[(1, 10, 1), (1, 11, 1)]);
        assert!(matches!(
            upserts.take(),
            Err(Error::Data {
                code: SqlState::UNIQUE_VIOLATION,
                ..
            })
        ));
    }
}

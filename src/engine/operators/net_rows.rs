//! Rows that came and went, added up: what is left of a changing stream at its end.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::engine::message::{CHUNK_ROWS_TARGET, Chunk};
use crate::engine::operator::Result;
use crate::engine::operators::keys::{GroupKeys, key_hashes};

pub(crate) struct NetRows {
    /// Whole rows to numbers.
    rows: GroupKeys,
    /// How often each counts.
    weights: Vec<i64>,
}

impl NetRows {
    pub fn new(types: &[DataType]) -> Result<NetRows> {
        Ok(NetRows {
            rows: GroupKeys::new(types)?,
            weights: Vec::new(),
        })
    }

    pub fn add(&mut self, chunk: &Chunk) -> Result<()> {
        let columns = chunk.rows.columns();
        let rows = self.rows.intern(columns, &key_hashes(columns, chunk.len(), None))?;
        self.weights.resize(self.rows.capacity(), 0);
        for (at, &row) in rows.iter().enumerate() {
            self.weights[row as usize] += chunk.weight(at);
        }
        for row in rows {
            if self.weights[row as usize] == 0 && self.rows.is_live(row) {
                self.rows.remove(row);
            }
        }
        Ok(())
    }

    /// The numbers of rows that went more often than they came, and of those that came more often.
    pub fn signs(&self) -> (Vec<u32>, Vec<u32>) {
        let known = (0..self.weights.len() as u32).filter(|&row| self.weights[row as usize] != 0);
        known.partition(|&row| self.weights[row as usize] < 0)
    }

    /// How often a row is left.
    pub fn weight(&self, row: u32) -> i64 {
        self.weights[row as usize]
    }

    /// The columns of rows by their numbers.
    pub fn gather(&self, rows: &[u32]) -> Vec<ArrayRef> {
        self.rows.gather(rows)
    }

    /// The columns of what is left, in batches.
    pub fn batches(&self) -> impl Iterator<Item = Vec<ArrayRef>> + '_ {
        let times = |row: usize| usize::try_from(self.weights[row]).unwrap_or(0);
        let left: Vec<u32> = (0..self.weights.len())
            .flat_map(|row| std::iter::repeat_n(row as u32, times(row)))
            .collect();
        let starts = (0..left.len()).step_by(CHUNK_ROWS_TARGET);
        starts.map(move |start| {
            let end = (start + CHUNK_ROWS_TARGET).min(left.len());
            self.rows.gather(&left[start..end])
        })
    }
}

//! Routes the rows of a chunk to the subtasks that own their keys.
//!
//! The frozen hash is computed once and travels with the rows; key group and owner follow from it; a counting sort of
//! row numbers by owner and one `take` a column give a chunk whose slices go to the targets without another copy.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;

use crate::engine::error::Error;
use crate::engine::message::{Chunk, Weights};
use crate::state::hash::hash_rows;
use crate::state::key_group::{KeyGroup, KeyGroups};
use crate::types::record_batch::batch_of_rows;

/// Reused between chunks.
#[derive(Debug)]
pub struct Partitioner {
    columns: Vec<usize>,
    key_groups: KeyGroups,
    /// Owner of every key group.
    owners: Vec<u16>,
    targets: usize,
    hashes: Vec<u64>,
    row_targets: Vec<u16>,
    counts: Vec<u32>,
}

/// The rows of one target.
#[derive(Debug)]
pub struct Part {
    pub target: usize,
    pub chunk: Chunk,
    /// Its share of the bytes of the chunk that it is a slice of.
    pub bytes: usize,
}

impl Partitioner {
    pub fn new(columns: Vec<usize>, key_groups: KeyGroups, targets: u32) -> Partitioner {
        let owners = (0..key_groups.count())
            .map(|group| key_groups.owner_of(KeyGroup(group), targets) as u16)
            .collect();
        Partitioner {
            columns,
            key_groups,
            owners,
            targets: targets as usize,
            hashes: Vec::new(),
            row_targets: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// Splits `chunk` into at most one part a target; rows keep their order inside a part.
    pub fn partition(&mut self, chunk: Chunk) -> Result<Vec<Part>, Error> {
        let keys: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|column| ArrayRef::clone(chunk.rows.column(*column)))
            .collect();
        let rows = chunk.len();
        hash_rows(&keys, rows, &mut self.hashes);
        if self.targets == 1 {
            return Ok(vec![self.whole(chunk, 0)]);
        }
        self.count();
        if let Some(target) = self.counts.iter().position(|count| *count as usize == rows) {
            return Ok(vec![self.whole(chunk, target)]);
        }
        self.split(&chunk)
    }

    fn whole(&self, mut chunk: Chunk, target: usize) -> Part {
        chunk.key_hashes = Some(ScalarBuffer::from(self.hashes.clone()));
        let bytes = chunk.memory_bytes();
        Part { target, chunk, bytes }
    }

    fn count(&mut self) {
        self.counts.clear();
        self.counts.resize(self.targets, 0);
        self.row_targets.clear();
        self.row_targets.extend(self.hashes.iter().map(|hash| {
            let target = self.owners[usize::from(self.key_groups.group_of(*hash).0)];
            self.counts[usize::from(target)] += 1;
            target
        }));
    }

    fn split(&mut self, chunk: &Chunk) -> Result<Vec<Part>, Error> {
        let mut starts = Vec::with_capacity(self.targets);
        let mut next = 0u32;
        for count in &self.counts {
            starts.push(next);
            next += count;
        }
        let mut order = vec![0u32; chunk.len()];
        let mut cursors = starts.clone();
        for (row, target) in self.row_targets.iter().enumerate() {
            let cursor = &mut cursors[usize::from(*target)];
            order[*cursor as usize] = row as u32;
            *cursor += 1;
        }
        let sorted = take_chunk(chunk, order, &self.hashes)?;
        let bytes = sorted.memory_bytes();
        let rows = sorted.len();
        let parts = (0..self.targets)
            .filter(|target| self.counts[*target] > 0)
            .map(|target| {
                let (start, length) = (starts[target] as usize, self.counts[target] as usize);
                Part {
                    target,
                    chunk: slice_chunk(&sorted, start, length),
                    bytes: (bytes * length).div_ceil(rows),
                }
            });
        Ok(parts.collect())
    }
}

fn take_chunk(chunk: &Chunk, order: Vec<u32>, hashes: &[u64]) -> Result<Chunk, Error> {
    let weights = match &chunk.weights {
        Weights::AllInsert => Weights::AllInsert,
        Weights::Signed(weights) => Weights::Signed(order.iter().map(|row| weights[*row as usize]).collect()),
    };
    let event_time = chunk
        .event_time
        .as_ref()
        .map(|times| order.iter().map(|row| times[*row as usize]).collect());
    let key_hashes = Some(order.iter().map(|row| hashes[*row as usize]).collect());
    let order = UInt32Array::from(order);
    let columns = chunk
        .rows
        .columns()
        .iter()
        .map(|column| arrow::compute::take(column, &order, None))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Chunk {
        rows: batch_of_rows(chunk.rows.schema(), columns, order.len())?,
        weights,
        event_time,
        key_hashes,
    })
}

/// Rows `start..start + length` without a copy.
pub fn slice_chunk(chunk: &Chunk, start: usize, length: usize) -> Chunk {
    Chunk {
        rows: chunk.rows.slice(start, length),
        weights: match &chunk.weights {
            Weights::AllInsert => Weights::AllInsert,
            Weights::Signed(weights) => Weights::Signed(weights.slice(start, length)),
        },
        event_time: chunk.event_time.as_ref().map(|times| times.slice(start, length)),
        key_hashes: chunk.key_hashes.as_ref().map(|hashes| hashes.slice(start, length)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use proptest::prelude::*;

    use super::*;

    fn chunk(keys: &[i64], weighted: bool) -> Chunk {
        let schema = Arc::new(Schema::new(vec![
            Field::new("key", DataType::Int64, false),
            Field::new("text", DataType::Utf8, false),
        ]));
        let texts: Vec<String> = keys.iter().enumerate().map(|(n, key)| format!("{n}:{key}")).collect();
        let rows = RecordBatch::try_new(
            schema,
            vec![
                Arc::new(Int64Array::from(keys.to_vec())),
                Arc::new(StringArray::from(texts)),
            ],
        )
        .unwrap();
        let mut chunk = Chunk::insert(rows);
        chunk.event_time = Some((0..keys.len() as i64).collect());
        if weighted {
            chunk.weights = Weights::Signed(
                (0..keys.len() as i64)
                    .map(|n| if n % 2 == 0 { 1 } else { -1 })
                    .collect(),
            );
        }
        chunk
    }

    proptest! {
        /// Each row arrives once, at the owner of its key, with its own weight, time and hash, in order.
        #[test]
        fn rows_reach_their_owner_once(
            keys in proptest::collection::vec(-40i64..40, 0..300), targets in 1u32..7, weighted: bool,
        ) {
            let groups = KeyGroups::default();
            let input = chunk(&keys, weighted);
            let mut partitioner = Partitioner::new(vec![0], groups, targets);
            let mut seen = vec![false; keys.len()];
            for part in partitioner.partition(input).unwrap() {
                let times = part.chunk.event_time.clone().unwrap();
                let hashes = part.chunk.key_hashes.clone().unwrap();
                let key = part.chunk.rows.column(0).as_primitive::<Int64Type>();
                let text = part.chunk.rows.column(1).as_string::<i32>();
                let mut expected_hashes = Vec::new();
                hash_rows(&[ArrayRef::clone(part.chunk.rows.column(0))], part.chunk.len(), &mut expected_hashes);
                prop_assert_eq!(&hashes[..], &expected_hashes[..]);
                for row in 0..part.chunk.len() {
                    let original = times[row] as usize;
                    prop_assert!(!std::mem::replace(&mut seen[original], true));
                    prop_assert_eq!(key.value(row), keys[original]);
                    prop_assert_eq!(text.value(row), format!("{}:{}", original, keys[original]));
                    let weight = if weighted && original % 2 == 1 { -1 } else { 1 };
                    prop_assert_eq!(part.chunk.weight(row), weight);
                    prop_assert!(row == 0 || times[row - 1] < times[row]);
                    let owner = groups.owner_of(groups.group_of(hashes[row]), targets);
                    prop_assert_eq!(owner as usize, part.target);
                }
            }
            prop_assert!(seen.into_iter().all(|seen| seen) || keys.is_empty());
        }
    }

    #[test]
    fn without_key_columns_all_rows_go_to_one_target() {
        let mut partitioner = Partitioner::new(vec![], KeyGroups::default(), 4);
        let parts = partitioner.partition(chunk(&[1, 2, 3], false)).unwrap();
        assert_eq!(parts.len(), 1);
        let groups = KeyGroups::default();
        let owner = groups.owner_of(groups.group_of(crate::state::hash::SEED), 4);
        assert_eq!(parts[0].target, owner as usize);
        assert_eq!(parts[0].chunk.rows.column(0).len(), 3);
    }
}

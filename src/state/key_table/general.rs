//! The form for keys of strings, decimals, nested values and of several columns: 8-byte slots with a tag, keys in columns.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::state::error::Error;
use crate::state::key_table::Groups;
use crate::state::key_table::columns::{InputColumn, KeyColumn};
use crate::state::key_table::slots::{BLOCK, Index, NO_GROUP};

pub(super) struct GeneralTable {
    index: Index<u64>,
    /// Hashes by group.
    hashes: Vec<u64>,
    columns: Vec<KeyColumn>,
}

impl GeneralTable {
    pub(super) fn new(types: &[DataType]) -> Result<GeneralTable, Error> {
        Ok(GeneralTable {
            index: Index::new(),
            hashes: Vec::new(),
            columns: types.iter().map(KeyColumn::new).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn intern(&mut self, keys: &[ArrayRef], hashes: &[u64], groups: &mut Groups, out: &mut Vec<u32>) {
        let inputs = self.bind(keys);
        for first in (0..hashes.len()).step_by(BLOCK) {
            let block = &hashes[first..(first + BLOCK).min(hashes.len())];
            self.index.make_room(BLOCK);
            let (candidates, equal) = self.candidates(&inputs, first, block);
            for (at, hash) in block.iter().enumerate() {
                out.push(if equal[at] {
                    candidates[at]
                } else {
                    self.find_or_insert(*hash, &inputs, first + at, groups)
                });
            }
        }
    }

    pub(super) fn lookup(&self, keys: &[ArrayRef], hashes: &[u64], out: &mut Vec<Option<u32>>) {
        let inputs = self.bind(keys);
        for first in (0..hashes.len()).step_by(BLOCK) {
            let block = &hashes[first..(first + BLOCK).min(hashes.len())];
            let (candidates, equal) = self.candidates(&inputs, first, block);
            for (at, hash) in block.iter().enumerate() {
                out.push(if equal[at] {
                    Some(candidates[at])
                } else {
                    self.find(*hash, &inputs, first + at)
                });
            }
        }
    }

    fn bind<'a>(&self, keys: &'a [ArrayRef]) -> Vec<InputColumn<'a>> {
        self.columns
            .iter()
            .zip(keys)
            .map(|(column, key)| column.bind(key))
            .collect()
    }

    /// For each row of a block the group that it most likely has, and whether it has; what is left goes one by one.
    #[inline]
    fn candidates(&self, inputs: &[InputColumn<'_>], first: usize, block: &[u64]) -> ([u32; BLOCK], [bool; BLOCK]) {
        let mut candidates = [NO_GROUP; BLOCK];
        let mut equal = [false; BLOCK];
        for hash in block {
            self.index.prefetch(*hash);
        }
        for (at, hash) in block.iter().enumerate() {
            // A run of one key: the row before has asked already.
            let group = if at > 0 && block[at - 1] == *hash {
                candidates[at - 1]
            } else {
                self.index.first_match(*hash)
            };
            candidates[at] = group;
            equal[at] = group != NO_GROUP;
            if group != NO_GROUP {
                for column in &self.columns {
                    column.prefetch(group);
                }
            }
        }
        for (column, input) in self.columns.iter().zip(inputs) {
            column.compare_block(input, first, &candidates[..block.len()], &mut equal[..block.len()]);
        }
        (candidates, equal)
    }

    fn find(&self, hash: u64, inputs: &[InputColumn<'_>], row: usize) -> Option<u32> {
        self.index.find(hash, 0, |group| {
            self.columns
                .iter()
                .zip(inputs)
                .all(|(column, input)| column.equals(group, input, row))
        })
    }

    fn find_or_insert(&mut self, hash: u64, inputs: &[InputColumn<'_>], row: usize, groups: &mut Groups) -> u32 {
        if let Some(group) = self.find(hash, inputs, row) {
            return group;
        }
        let group = groups.allocate();
        for (column, input) in self.columns.iter_mut().zip(inputs) {
            column.set(group, input, row);
        }
        if group as usize == self.hashes.len() {
            self.hashes.push(hash);
        } else {
            self.hashes[group as usize] = hash;
        }
        self.index.insert(hash, 0, group);
        group
    }

    pub(super) fn remove(&mut self, group: u32) {
        self.index.remove(self.hashes[group as usize], group);
        for column in &mut self.columns {
            column.remove(group);
        }
    }

    pub(super) fn hash_of(&self, group: u32) -> u64 {
        self.hashes[group as usize]
    }

    pub(super) fn gather(&self, groups: &[u32]) -> Vec<ArrayRef> {
        self.columns.iter().map(|column| column.gather(groups)).collect()
    }

    pub(super) fn gather_columns(&self, columns: &[usize], groups: &[u32]) -> Vec<ArrayRef> {
        columns.iter().map(|&at| self.columns[at].gather(groups)).collect()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes()
            + self.hashes.capacity() * 8
            + self.columns.iter().map(KeyColumn::memory_bytes).sum::<usize>()
    }
}

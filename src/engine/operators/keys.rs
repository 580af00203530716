//! Group numbers of keys: the key table, and the hash that goes with it.
//!
//! The rule of hashes: `Chunk::key_hashes` is set by a hash exchange, for exactly the key columns of the operator right
//! behind it, in their order; every operator drops it from what it puts out. So an operator that finds hashes uses them,
//! and computes the same numbers when there are none. A key of no columns has hash 0: its key group is 0 and its owner
//! subtask 0, at any parallelism.

use std::borrow::Cow;

use arrow::array::ArrayRef;
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::DataType;

use crate::engine::operator::Result;
use crate::state::hash::hash_columns;
use crate::state::key_table::KeyTable;

/// Gives each key a dense number.
pub(crate) struct GroupKeys {
    /// `None` for a key of no columns, whose only group is number 0.
    table: Option<KeyTable>,
    only_group_exists: bool,
}

/// The hash of every key.
pub(crate) fn key_hashes<'a>(
    columns: &[ArrayRef],
    rows: usize,
    given: Option<&'a ScalarBuffer<u64>>,
) -> Cow<'a, [u64]> {
    match given {
        _ if columns.is_empty() => Cow::Owned(vec![0; rows]),
        Some(hashes) => Cow::Borrowed(hashes),
        None => {
            let mut hashes = Vec::with_capacity(rows);
            hash_columns(columns, &mut hashes);
            Cow::Owned(hashes)
        }
    }
}

impl GroupKeys {
    pub fn new(types: &[DataType]) -> Result<GroupKeys> {
        let table = if types.is_empty() {
            None
        } else {
            Some(KeyTable::new(types)?)
        };
        Ok(GroupKeys {
            table,
            only_group_exists: false,
        })
    }

    /// The group of each row; keys not seen before get new groups.
    pub fn intern(&mut self, columns: &[ArrayRef], hashes: &[u64]) -> Result<Vec<u32>> {
        match &mut self.table {
            Some(table) => {
                let mut groups = Vec::with_capacity(hashes.len());
                table.intern(columns, hashes, &mut groups);
                Ok(groups)
            }
            None => {
                self.only_group_exists |= !hashes.is_empty();
                Ok(vec![0; hashes.len()])
            }
        }
    }

    /// The group of each row; nothing is added.
    pub fn lookup(&self, columns: &[ArrayRef], hashes: &[u64]) -> Vec<Option<u32>> {
        match &self.table {
            Some(table) => {
                let mut groups = Vec::with_capacity(hashes.len());
                table.lookup(columns, hashes, &mut groups);
                groups
            }
            None => vec![self.only_group_exists.then_some(0); hashes.len()],
        }
    }

    /// Groups that exist.
    pub fn len(&self) -> usize {
        match &self.table {
            Some(table) => table.len(),
            None => usize::from(self.only_group_exists),
        }
    }

    /// Every group's number is below this.
    pub fn capacity(&self) -> usize {
        match &self.table {
            Some(table) => table.capacity_ids(),
            None => 1,
        }
    }

    pub fn is_live(&self, group: u32) -> bool {
        match &self.table {
            Some(table) => table.is_live(group),
            None => self.only_group_exists && group == 0,
        }
    }

    pub fn hash_of(&self, group: u32) -> u64 {
        self.table.as_ref().map_or(0, |table| table.hash_of(group))
    }

    pub fn gather(&self, groups: &[u32]) -> Vec<ArrayRef> {
        self.table
            .as_ref()
            .map_or_else(Vec::new, |table| table.gather_keys(groups))
    }

    /// Some of the key's columns.
    pub fn gather_columns(&self, columns: &[usize], groups: &[u32]) -> Vec<ArrayRef> {
        self.table
            .as_ref()
            .map_or_else(Vec::new, |table| table.gather_columns(columns, groups))
    }

    /// Frees the number for another key.
    pub fn remove(&mut self, group: u32) {
        match &mut self.table {
            Some(table) => table.remove(group),
            None => self.only_group_exists = false,
        }
    }

    pub fn clear(&mut self) {
        self.only_group_exists = false;
        if let Some(table) = &mut self.table {
            table.clear();
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.table.as_ref().map_or(0, KeyTable::memory_bytes)
    }
}

//! Keys to dense group ids: the heart of every keyed operator.
//!
//! A group id indexes the operator's own columns. Ids are given in order of first appearance, and ids of removed groups
//! are given again. Look-ups go through a block of rows at a time: first all slots are prefetched, then what the slots
//! point at, then keys are compared column by column; so cache misses overlap. Two forms exist, chosen by the key types:
//!
//! - one fixed-width column of up to 64 bits (integers, timestamps, floats): the key is inside its slot ([`words`]);
//! - anything else: a tag is in the slot, keys are in columns by group ([`general`]).
//!
//! NULL is a key like any other and equal to itself. Key equality is that of [`crate::state::canonical`].
//!
//! Guarantees: the same keys in the same order give the same ids; no batch pays for a growth of the whole index.
//! Not guaranteed: that memory is given back before [`KeyTable::clear`].
//!
//! Rules for callers: the hashes are those of [`crate::state::hash::hash_columns`] over the same columns; columns have exactly the types the
//! table was made with. Both are checked where it is cheap, and a violation panics.

mod arena;
mod bits;
mod columns;
mod general;
mod slots;
mod values;
mod words;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::state::canonical::{CanonicalKind, kind_of, plain};
use crate::state::error::Error;
use crate::state::hash::SEED;
use crate::state::key_table::bits::Bits;
use crate::state::key_table::general::GeneralTable;
use crate::state::key_table::slots::GROUPS_MAX;
use crate::state::key_table::words::WordTable;

pub struct KeyTable {
    types: Vec<DataType>,
    form: Form,
    groups: Groups,
}

enum Form {
    Words(WordTable),
    General(GeneralTable),
}

/// Which ids are in use.
#[derive(Default)]
struct Groups {
    live: Bits,
    free: Vec<u32>,
    next: u32,
    /// Given out by the last `intern`.
    new: Vec<u32>,
}

impl Groups {
    fn allocate(&mut self) -> u32 {
        let group = self.free.pop().unwrap_or_else(|| {
            assert!(self.next < GROUPS_MAX, "a key table holds fewer than 2^32 - 2 groups");
            self.next += 1;
            self.next - 1
        });
        self.live.set(group as usize, true);
        self.new.push(group);
        group
    }
}

impl KeyTable {
    /// A table for keys of these types; of no type at all, one group for every row.
    pub fn new(key_types: &[DataType]) -> Result<KeyTable, Error> {
        Ok(KeyTable {
            types: key_types.to_vec(),
            form: Form::new(key_types)?,
            groups: Groups::default(),
        })
    }

    pub fn key_types(&self) -> &[DataType] {
        &self.types
    }

    /// Puts the group of every row into `groups`, replacing what it held; unseen keys get new groups, which
    /// [`KeyTable::new_groups`] lists until the next call.
    pub fn intern(&mut self, keys: &[ArrayRef], hashes: &[u64], groups: &mut Vec<u32>) {
        groups.clear();
        groups.reserve(hashes.len());
        self.groups.new.clear();
        let keys = self.checked(keys, hashes);
        match &mut self.form {
            Form::Words(table) => table.intern(&keys[0], hashes, &mut self.groups, groups),
            Form::General(table) => table.intern(&keys, hashes, &mut self.groups, groups),
        }
    }

    /// Puts the group of every row into `groups`, replacing what it held; `None` for unseen keys.
    pub fn lookup(&self, keys: &[ArrayRef], hashes: &[u64], groups: &mut Vec<Option<u32>>) {
        groups.clear();
        groups.reserve(hashes.len());
        let keys = self.checked(keys, hashes);
        match &self.form {
            Form::Words(table) => table.lookup(&keys[0], hashes, groups),
            Form::General(table) => table.lookup(&keys, hashes, groups),
        }
    }

    /// The groups that the last [`KeyTable::intern`] gave out, in that order. Their accumulators are to be reset: an id may
    /// have been used before.
    pub fn new_groups(&self) -> &[u32] {
        &self.groups.new
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.groups.live.count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ids in use are below this; columns by group have this length.
    pub fn capacity_ids(&self) -> usize {
        self.groups.next as usize
    }

    pub fn is_live(&self, group: u32) -> bool {
        self.groups.live.get(group as usize)
    }

    /// The groups in use, ascending.
    pub fn live_groups(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.groups.next).filter(|group| self.is_live(*group))
    }

    /// Forgets a key. Its id is given to a later new key. Removing a group that is not in use does nothing.
    pub fn remove(&mut self, group: u32) {
        if !self.is_live(group) {
            return;
        }
        match &mut self.form {
            Form::Words(table) => table.remove(group),
            Form::General(table) => table.remove(group),
        }
        self.groups.live.set(group as usize, false);
        self.groups.free.push(group);
    }

    /// The hash that the group's key was interned with.
    pub fn hash_of(&self, group: u32) -> u64 {
        match &self.form {
            Form::Words(table) => table.hash_of(group),
            Form::General(table) => table.hash_of(group),
        }
    }

    /// The keys of `groups`, all in use, one array a key column, in the types that the table was made with.
    pub fn gather_keys(&self, groups: &[u32]) -> Vec<ArrayRef> {
        debug_assert!(groups.iter().all(|group| self.is_live(*group)));
        match &self.form {
            Form::Words(table) => vec![table.gather(groups)],
            Form::General(table) => table.gather(groups),
        }
    }

    /// Some of the key columns, by their numbers in the order given, as [`KeyTable::gather_keys`] gives all.
    pub fn gather_columns(&self, columns: &[usize], groups: &[u32]) -> Vec<ArrayRef> {
        debug_assert!(groups.iter().all(|group| self.is_live(*group)));
        match &self.form {
            Form::Words(table) => columns.iter().map(|_| table.gather(groups)).collect(),
            Form::General(table) => table.gather_columns(columns, groups),
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let form = match &self.form {
            Form::Words(table) => table.memory_bytes(),
            Form::General(table) => table.memory_bytes(),
        };
        form + self.groups.live.memory_bytes() + (self.groups.free.capacity() + self.groups.new.capacity()) * 4
    }

    /// Forgets every key and gives memory back; ids start from 0 again.
    pub fn clear(&mut self) {
        self.form = Form::new(&self.types).expect("the types were accepted before");
        self.groups = Groups::default();
    }

    /// Dictionaries spelt out, lengths checked.
    fn checked(&self, keys: &[ArrayRef], hashes: &[u64]) -> Vec<ArrayRef> {
        assert_eq!(keys.len(), self.types.len(), "one array for each key column");
        assert!(
            keys.iter().all(|key| key.len() == hashes.len()),
            "one hash for each row"
        );
        debug_assert!(!keys.is_empty() || hashes.iter().all(|hash| *hash == SEED));
        keys.iter().map(plain).collect()
    }
}

impl Form {
    fn new(types: &[DataType]) -> Result<Form, Error> {
        Ok(match types {
            [single] if kind_of(single) == CanonicalKind::Word => Form::Words(WordTable::new(single)?),
            types => Form::General(GeneralTable::new(types)?),
        })
    }
}

#[cfg(test)]
mod tests;

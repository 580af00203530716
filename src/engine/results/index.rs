//! Where the rows of each key are. A key is the result's key columns, or all columns where there is no key; then a row
//! may be there several times.

use hashbrown::HashMap;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::engine::operator::Result;
use crate::engine::operators::bits::Bits;
use crate::engine::results::segments::Location;
use crate::state::key_table::KeyTable;

pub(crate) struct RowIndex {
    keys: KeyTable,
    /// By group: one place of the key's row.
    first: Vec<Option<Location>>,
    /// Further places, of rows that are there several times.
    further: HashMap<u32, Vec<Location>>,
    /// Groups that changed since the last snapshot.
    pub changed: Bits,
    /// Groups that the last snapshot holds.
    pub persisted: Bits,
}

impl RowIndex {
    pub fn new(key_types: &[DataType]) -> Result<RowIndex> {
        Ok(RowIndex {
            keys: KeyTable::new(key_types)?,
            first: Vec::new(),
            further: HashMap::new(),
            changed: Bits::default(),
            persisted: Bits::default(),
        })
    }

    pub fn intern(&mut self, keys: &[ArrayRef], hashes: &[u64]) -> Vec<u32> {
        let mut groups = Vec::with_capacity(hashes.len());
        self.keys.intern(keys, hashes, &mut groups);
        if self.first.len() < self.keys.capacity_ids() {
            self.first.resize(self.keys.capacity_ids(), None);
        }
        groups
    }

    pub fn find(&self, keys: &[ArrayRef], hashes: &[u64]) -> Option<u32> {
        let mut groups = Vec::with_capacity(1);
        self.keys.lookup(keys, hashes, &mut groups);
        groups.first().copied().flatten()
    }

    pub fn hash_of(&self, group: u32) -> u64 {
        self.keys.hash_of(group)
    }

    pub fn gather_keys(&self, groups: &[u32]) -> Vec<ArrayRef> {
        self.keys.gather_keys(groups)
    }

    pub fn location(&self, group: u32) -> Option<Location> {
        self.first[group as usize]
    }

    /// How often the key's row is there.
    pub fn copies(&self, group: u32) -> usize {
        let further = self.further.get(&group).map_or(0, Vec::len);
        usize::from(self.first[group as usize].is_some()) + further
    }

    pub fn push(&mut self, group: u32, location: Location) {
        match &mut self.first[group as usize] {
            Some(_) => self.further.entry(group).or_default().push(location),
            vacant => *vacant = Some(location),
        }
    }

    pub fn pop(&mut self, group: u32) -> Option<Location> {
        if let Some(further) = self.further.get_mut(&group) {
            let last = further.pop();
            if further.is_empty() {
                self.further.remove(&group);
            }
            if last.is_some() {
                return last;
            }
        }
        self.first[group as usize].take()
    }

    /// A row was moved.
    pub fn relocate(&mut self, group: u32, from: Location, to: Location) {
        if self.first[group as usize] == Some(from) {
            self.first[group as usize] = Some(to);
        } else if let Some(place) = self
            .further
            .get_mut(&group)
            .and_then(|further| further.iter_mut().find(|place| **place == from))
        {
            *place = to;
        }
    }

    /// Groups that exist, in ascending order.
    pub fn live_groups(&self) -> impl Iterator<Item = u32> + '_ {
        self.keys.live_groups()
    }

    /// Forgets keys without rows, unless a snapshot holds them: the next one needs their columns for its tombstones.
    pub fn bury(&mut self, groups: impl IntoIterator<Item = u32>) {
        for group in groups {
            if self.keys.is_live(group) && self.copies(group) == 0 && !self.persisted.contains(group) {
                self.free(group);
            }
        }
    }

    fn free(&mut self, group: u32) {
        self.changed.remove(group);
        self.persisted.remove(group);
        self.keys.remove(group);
    }

    pub fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes()
            + self.first.capacity() * size_of::<Option<Location>>()
            + self.further.len() * 64
            + self.changed.memory_bytes()
            + self.persisted.memory_bytes()
    }
}

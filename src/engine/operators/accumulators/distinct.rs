//! DISTINCT: the values of each group, kept once for all aggregates over the same arguments, whatever their filters.
//!
//! An entry is a value of a group; it has a count for each aggregate (member). A member's aggregate takes a value in when
//! its count there rises above zero, and gives it back when the count falls to zero. Over input that only grows a count is 0 or 1: a value
//! that has been seen costs a look and changes nothing, neither here nor in the next snapshot.
//!
//! Entries are found by hash and are in no order. Counts may be below zero for a while, when a retraction arrives before
//! what it retracts.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::datatypes::DataType;

use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{EntryRows, KeptValues};
use crate::engine::operators::bits::Bits;
use crate::engine::operators::keys::{GroupKeys, key_hashes};

/// No entry.
const NONE: u32 = u32::MAX;

pub(crate) struct DistinctValues {
    types: Vec<DataType>,
    members: usize,
    /// Counts above one matter: values can go again.
    counts_rows: bool,
    /// The group and the value to the entry's number.
    entries: GroupKeys,
    known: Bits,
    /// Of each entry, one after the other for each member.
    counts: Vec<i64>,
    group: Vec<u32>,
    /// The entries of a group are a doubly linked list.
    next: Vec<u32>,
    previous: Vec<u32>,
    /// The first entry of each group.
    head: Vec<u32>,
    /// Differs from the last snapshot.
    changed: Bits,
    /// Part of the last snapshot.
    persisted: Bits,
    /// Part of the last snapshot, and gone since.
    dying: Vec<u32>,
}

/// Rows by which a value entered a member (+1) or left it (-1).
#[derive(Debug, Default)]
pub(crate) struct Crossings {
    pub rows: Vec<u32>,
    pub weights: Vec<i64>,
}

impl DistinctValues {
    /// Values of `types` for `members` aggregates over input that only grows, or also shrinks.
    pub fn new(types: Vec<DataType>, members: usize, append_only: bool) -> Result<DistinctValues> {
        let mut key_types = vec![DataType::UInt32];
        key_types.extend(types.iter().cloned());
        Ok(DistinctValues {
            entries: GroupKeys::new(&key_types)?,
            types,
            members,
            counts_rows: !append_only,
            known: Bits::default(),
            counts: Vec::new(),
            group: Vec::new(),
            next: Vec::new(),
            previous: Vec::new(),
            head: Vec::new(),
            changed: Bits::default(),
            persisted: Bits::default(),
            dying: Vec::new(),
        })
    }

    pub fn resize(&mut self, groups: usize) {
        if self.head.len() < groups {
            self.head.resize(groups, NONE);
        }
    }

    /// Adds `amount(row, member)` of each row's value to its group; tells what entered and left each member.
    pub fn add(
        &mut self,
        columns: &[ArrayRef],
        groups: &[u32],
        amount: impl Fn(usize, usize) -> i64,
    ) -> Result<Vec<Crossings>> {
        let entries = self.intern(columns, groups)?;
        let mut crossings: Vec<Crossings> = Vec::new();
        crossings.resize_with(self.members, Crossings::default);
        let mut sunk: Vec<u32> = Vec::new();
        for (row, &entry) in entries.iter().enumerate() {
            for (member, crossings) in crossings.iter_mut().enumerate() {
                let amount = amount(row, member);
                let count = &mut self.counts[entry as usize * self.members + member];
                let before = *count;
                *count = match self.counts_rows {
                    true => before + amount,
                    false => before.max(amount.min(1)),
                };
                if *count == before {
                    continue;
                }
                self.changed.insert(entry);
                let step = i64::from(*count > 0) - i64::from(before > 0);
                if step != 0 {
                    crossings.rows.push(row as u32);
                    crossings.weights.push(step);
                }
                if *count == 0 {
                    sunk.push(entry);
                }
            }
        }
        // A value that no row wanted, or that the last row left.
        for entry in sunk {
            if self.known.contains(entry) && self.is_empty(entry) {
                self.bury(entry);
            }
        }
        Ok(crossings)
    }

    /// The entry of each row's value; new ones count nothing.
    fn intern(&mut self, columns: &[ArrayRef], groups: &[u32]) -> Result<Vec<u32>> {
        let mut keys: Vec<ArrayRef> = vec![Arc::new(UInt32Array::from(groups.to_vec()))];
        keys.extend(columns.iter().cloned());
        let hashes = key_hashes(&keys, groups.len(), None);
        let entries = self.entries.intern(&keys, &hashes)?;
        let capacity = self.entries.capacity();
        if self.group.len() < capacity {
            self.counts.resize(capacity * self.members, 0);
            self.group.resize(capacity, NONE);
            self.next.resize(capacity, NONE);
            self.previous.resize(capacity, NONE);
        }
        for (&entry, &group) in entries.iter().zip(groups) {
            if self.known.insert(entry) {
                self.link(entry, group);
            }
        }
        Ok(entries)
    }

    fn link(&mut self, entry: u32, group: u32) {
        let first = std::mem::replace(&mut self.head[group as usize], entry);
        self.group[entry as usize] = group;
        self.next[entry as usize] = first;
        self.previous[entry as usize] = NONE;
        if first != NONE {
            self.previous[first as usize] = entry;
        }
    }

    fn counts_of(&self, entry: u32) -> &[i64] {
        let first = entry as usize * self.members;
        &self.counts[first..first + self.members]
    }

    fn is_empty(&self, entry: u32) -> bool {
        self.counts_of(entry).iter().all(|&count| count == 0)
    }

    /// Forgets an entry that counts nothing: at once, or with the next snapshot when the last one holds it.
    fn bury(&mut self, entry: u32) {
        if self.persisted.contains(entry) {
            self.dying.push(entry);
        } else {
            self.free(entry);
        }
    }

    fn free(&mut self, entry: u32) {
        let (previous, next) = (self.previous[entry as usize], self.next[entry as usize]);
        match previous {
            NONE => self.head[self.group[entry as usize] as usize] = next,
            previous => self.next[previous as usize] = next,
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        let first = entry as usize * self.members;
        self.counts[first..first + self.members].fill(0);
        self.known.remove(entry);
        self.changed.remove(entry);
        self.persisted.remove(entry);
        self.entries.remove(entry);
    }

    fn entries_in(&self, group: u32) -> impl Iterator<Item = u32> + '_ {
        let first = self.head.get(group as usize).copied().filter(|&entry| entry != NONE);
        std::iter::successors(first, |&entry| {
            Some(self.next[entry as usize]).filter(|&next| next != NONE)
        })
    }

    /// All entries of a group.
    pub fn entries_of(&self, group: u32) -> EntryRows {
        self.rows_of(&self.entries_in(group).collect::<Vec<_>>())
    }

    fn rows_of(&self, entries: &[u32]) -> EntryRows {
        let columns: Vec<usize> = (1..=self.types.len()).collect();
        let count = |member| entries.iter().map(|&entry| self.counts_of(entry)[member]).collect();
        EntryRows {
            groups: entries.iter().map(|&entry| self.group[entry as usize]).collect(),
            values: self.entries.gather_columns(&columns, entries),
            counts: (0..self.members).map(count).collect(),
        }
    }

    /// Empties a group.
    pub fn reset(&mut self, group: u32) {
        for entry in self.entries_in(group).collect::<Vec<_>>() {
            let first = entry as usize * self.members;
            self.counts[first..first + self.members].fill(0);
            self.changed.insert(entry);
            self.bury(entry);
        }
    }

    pub fn clear(&mut self) {
        self.entries.clear();
        self.known.clear();
        self.counts.fill(0);
        self.head.fill(NONE);
        self.changed.clear();
        self.persisted.clear();
        self.dying.clear();
    }

    pub fn memory_bytes(&self) -> usize {
        self.entries.memory_bytes()
            + self.counts.capacity() * 8
            + (self.group.capacity() + self.next.capacity() + self.previous.capacity() + self.head.capacity()) * 4
            + self.changed.memory_bytes()
            + self.persisted.memory_bytes()
    }
}

impl KeptValues for DistinctValues {
    fn types(&self) -> &[DataType] {
        &self.types
    }

    fn counts(&self) -> usize {
        self.members
    }

    fn drain_changes(&mut self, whole: &dyn Fn(u32) -> bool, any_whole: bool) -> Result<EntryRows> {
        let mut dead = std::mem::take(&mut self.dying);
        dead.sort_unstable();
        dead.dedup();
        // A value may have come back.
        dead.retain(|&entry| self.known.contains(entry) && self.persisted.contains(entry) && self.is_empty(entry));
        let is_whole = |values: &DistinctValues, entry: u32| any_whole && whole(values.group[entry as usize]);
        let mut chosen: Vec<u32> = dead.iter().copied().filter(|&entry| !is_whole(self, entry)).collect();
        chosen.extend(
            self.changed
                .iter()
                .filter(|&entry| !self.is_empty(entry) && !is_whole(self, entry)),
        );
        if any_whole {
            for group in (0..self.head.len() as u32).filter(|&group| whole(group)) {
                chosen.extend(self.entries_in(group).filter(|&entry| !self.is_empty(entry)));
            }
        }
        let rows = self.rows_of(&chosen);
        for &entry in &chosen {
            self.persisted.insert(entry);
        }
        self.changed.clear();
        for entry in dead {
            self.free(entry);
        }
        Ok(rows)
    }

    fn restore(&mut self, rows: &EntryRows) -> Result<()> {
        let entries = self.intern(&rows.values, &rows.groups)?;
        for (row, &entry) in entries.iter().enumerate() {
            for (member, counts) in rows.counts.iter().enumerate() {
                self.counts[entry as usize * self.members + member] = counts[row];
            }
            self.persisted.insert(entry);
        }
        for entry in entries {
            if self.known.contains(entry) && self.is_empty(entry) {
                self.free(entry);
            }
        }
        Ok(())
    }
}

/// Rows whose value counts: no argument is NULL. `None`: all.
pub(crate) fn without_nulls(arguments: &[ArrayRef], rows: usize) -> Option<Vec<u32>> {
    let nulls: Vec<_> = arguments
        .iter()
        .filter_map(|argument| argument.logical_nulls())
        .filter(|nulls| nulls.null_count() > 0)
        .collect();
    let valid = |&row: &u32| nulls.iter().all(|nulls| nulls.is_valid(row as usize));
    (!nulls.is_empty()).then(|| (0..rows as u32).filter(valid).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    /// Group, value, and the amount for each of two members.
    type Row = (u32, i64, [i64; 2]);

    fn add(values: &mut DistinctValues, rows: &[Row]) -> Vec<Vec<(u32, i64)>> {
        values.resize(4);
        let column: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
        let groups: Vec<u32> = rows.iter().map(|row| row.0).collect();
        let crossings = values
            .add(&[column], &groups, |row, member| rows[row].2[member])
            .unwrap();
        let pairs = |of: Crossings| of.rows.into_iter().zip(of.weights).collect();
        crossings.into_iter().map(pairs).collect()
    }

    fn drained(values: &mut DistinctValues, whole: Option<u32>) -> Vec<Row> {
        let rows = values
            .drain_changes(&|group| Some(group) == whole, whole.is_some())
            .unwrap();
        let value = rows.values[0].as_primitive::<Int64Type>();
        let row = |at: usize| {
            (
                rows.groups[at],
                value.value(at),
                [rows.counts[0][at], rows.counts[1][at]],
            )
        };
        let mut drained: Vec<Row> = (0..rows.groups.len()).map(row).collect();
        drained.sort_unstable();
        drained
    }

    #[test]
    fn each_member_sees_a_value_come_and_go_by_its_own_rows() {
        let mut values = DistinctValues::new(vec![DataType::Int64], 2, false).unwrap();
        let crossings = add(&mut values, &[(0, 7, [1, 0]), (0, 7, [1, 1]), (1, 7, [0, 1])]);
        assert_eq!(crossings, [vec![(0, 1)], vec![(1, 1), (2, 1)]]);
        let crossings = add(&mut values, &[(0, 7, [-1, -1]), (0, 7, [-1, 0]), (0, 8, [0, -1])]);
        assert_eq!(crossings, [vec![(1, -1)], vec![(0, -1)]]);
        // What overtook its row does not exist yet.
        assert_eq!(add(&mut values, &[(0, 8, [0, 1])]), [vec![], vec![]]);
        assert_eq!(drained(&mut values, None), [(1, 7, [0, 1])]);
    }

    #[test]
    fn snapshots_have_what_changed_what_is_gone_and_whole_groups() {
        let mut values = DistinctValues::new(vec![DataType::Int64], 2, false).unwrap();
        add(&mut values, &[(0, 1, [1, 0]), (0, 2, [1, 1]), (1, 1, [1, 0])]);
        assert_eq!(drained(&mut values, None).len(), 3);
        add(
            &mut values,
            &[(0, 1, [-1, 0]), (0, 3, [1, 0]), (0, 3, [-1, 0]), (1, 1, [2, 0])],
        );
        assert_eq!(drained(&mut values, None), [(0, 1, [0, 0]), (1, 1, [3, 0])]);
        assert_eq!(drained(&mut values, None), []);
        // Gone and back between two snapshots; a group that is written as a whole needs no word of what is gone.
        add(&mut values, &[(0, 2, [-1, -1]), (0, 2, [0, 1]), (1, 1, [-3, 0])]);
        assert_eq!(drained(&mut values, Some(1)), [(0, 2, [0, 1])]);
        values.reset(0);
        add(&mut values, &[(0, 9, [1, 1])]);
        assert_eq!(drained(&mut values, None), [(0, 2, [0, 0]), (0, 9, [1, 1])]);
    }

    #[test]
    fn what_is_read_back_goes_on() {
        let mut values = DistinctValues::new(vec![DataType::Int64], 2, true).unwrap();
        add(&mut values, &[(0, 1, [1, 0]), (0, 1, [1, 0]), (2, 5, [1, 1])]);
        let saved = values.drain_changes(&|_| false, false).unwrap();
        let mut restored = DistinctValues::new(vec![DataType::Int64], 2, true).unwrap();
        restored.resize(4);
        restored.restore(&saved).unwrap();
        assert_eq!(
            add(&mut restored, &[(0, 1, [1, 1]), (2, 5, [1, 1])]),
            [vec![], vec![(0, 1)]]
        );
        assert_eq!(drained(&mut restored, None), [(0, 1, [1, 1])]);
    }
}

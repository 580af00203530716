//! The values of each group with how often each counts, in value order: what retractable `min` and `max`, and
//! functions that cannot take rows back are computed from.
//!
//! A value is the order-preserving encoding of one or more columns (ascending, NULL first). The encoding lives in memory
//! only: entries are persisted as the columns themselves. Counts may be below zero for a while, when a retraction
//! arrives before what it retracts; such a value does not exist yet.

use std::collections::BTreeMap;
use std::collections::btree_map;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::row::{RowConverter, Rows, SortField};

use crate::engine::operator::Result;
use crate::engine::operators::accumulators::{EntryRows, GroupedRows, KeptValues};
use crate::engine::operators::bits::Bits;
use crate::state::canonical::canonical_floats;

/// Rough cost of one entry beside its bytes: tree slot, length, count.
const ENTRY_OVERHEAD_BYTES: usize = 48;

pub(crate) struct Multiset {
    converter: RowConverter,
    types: Vec<DataType>,
    groups: Vec<BTreeMap<Box<[u8]>, Entry>>,
    /// Groups with entries that changed since the last snapshot.
    changed: Bits,
    /// Entries that a snapshot holds and that are gone.
    removed: Vec<(u32, Box<[u8]>)>,
    entries: usize,
    entry_bytes: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    count: i64,
    changed: bool,
    /// Part of the last snapshot.
    persisted: bool,
}

impl Multiset {
    pub fn new(types: Vec<DataType>) -> Result<Multiset> {
        let fields = types.iter().cloned().map(SortField::new).collect();
        Ok(Multiset {
            converter: RowConverter::new(fields)?,
            types,
            groups: Vec::new(),
            changed: Bits::default(),
            removed: Vec::new(),
            entries: 0,
            entry_bytes: 0,
        })
    }

    pub fn resize(&mut self, groups: usize) {
        if self.groups.len() < groups {
            self.groups.resize_with(groups, BTreeMap::new);
        }
    }

    /// Adds rows; `changed` hears of each: row, count before, count after.
    pub fn update(
        &mut self,
        columns: &[ArrayRef],
        rows: GroupedRows<'_>,
        mut changed: impl FnMut(usize, i64, i64),
    ) -> Result<()> {
        let encoded = self.encode(columns)?;
        for (row, &group) in rows.groups.iter().enumerate() {
            let (before, after) = self.add(group, encoded.row(row).data(), rows.weight(row));
            changed(row, before, after);
        }
        Ok(())
    }

    pub(super) fn encode(&self, columns: &[ArrayRef]) -> Result<Rows> {
        let canonical: Vec<ArrayRef> = columns.iter().map(canonical_floats).collect();
        Ok(self.converter.convert_columns(&canonical)?)
    }

    fn add(&mut self, group: u32, value: &[u8], weight: i64) -> (i64, i64) {
        self.changed.insert(group);
        let entries = &mut self.groups[group as usize];
        let Some(entry) = entries.get_mut(value) else {
            let entry = Entry {
                count: weight,
                changed: true,
                persisted: false,
            };
            entries.insert(value.into(), entry);
            self.entries += 1;
            self.entry_bytes += value.len();
            return (0, weight);
        };
        let before = entry.count;
        entry.count += weight;
        entry.changed = true;
        let after = entry.count;
        if after == 0 {
            self.remove(group, value);
        }
        (before, after)
    }

    fn remove(&mut self, group: u32, value: &[u8]) {
        if let Some((key, entry)) = self.groups[group as usize].remove_entry(value) {
            self.entries -= 1;
            self.entry_bytes -= key.len();
            if entry.persisted {
                self.removed.push((group, key));
            }
        }
    }

    /// The values of `group` that exist, in order, with their counts.
    pub fn existing(&self, group: u32) -> impl DoubleEndedIterator<Item = (&[u8], i64)> {
        self.groups[group as usize]
            .iter()
            .filter(|(_, entry)| entry.count > 0)
            .map(|(value, entry)| (value.as_ref(), entry.count))
    }

    /// Decodes encoded values.
    pub fn decode<'a>(&self, values: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.converter.parser();
        let rows: Vec<_> = values.into_iter().map(|value| parser.parse(value)).collect();
        Ok(self.converter.convert_rows(rows)?)
    }

    /// All entries of a group.
    pub fn entries_of(&self, group: u32) -> Result<EntryRows> {
        let entries = &self.groups[group as usize];
        Ok(EntryRows {
            groups: vec![group; entries.len()],
            values: self.decode(entries.keys().map(AsRef::as_ref))?,
            counts: vec![entries.values().map(|entry| entry.count).collect()],
        })
    }

    /// Empties a group.
    pub fn reset(&mut self, group: u32) {
        if self.groups[group as usize].is_empty() {
            return;
        }
        self.changed.insert(group);
        for (key, entry) in std::mem::take(&mut self.groups[group as usize]) {
            self.entries -= 1;
            self.entry_bytes -= key.len();
            if entry.persisted {
                self.removed.push((group, key));
            }
        }
    }

    pub fn clear(&mut self) {
        self.groups.clear();
        self.changed.clear();
        self.removed.clear();
        self.entries = 0;
        self.entry_bytes = 0;
    }

    pub fn memory_bytes(&self) -> usize {
        let tree = self.entries * ENTRY_OVERHEAD_BYTES + self.entry_bytes;
        tree + self.groups.capacity() * size_of::<BTreeMap<Box<[u8]>, Entry>>() + self.changed.memory_bytes()
    }
}

impl KeptValues for Multiset {
    fn types(&self) -> &[DataType] {
        &self.types
    }

    fn counts(&self) -> usize {
        1
    }

    fn drain_changes(&mut self, whole: &dyn Fn(u32) -> bool, any_whole: bool) -> Result<EntryRows> {
        let mut groups = Vec::new();
        let mut counts = Vec::new();
        let mut values: Vec<Box<[u8]>> = Vec::new();
        for (group, value) in std::mem::take(&mut self.removed) {
            // A value that came back is written as an entry.
            let revived = self.groups[group as usize].contains_key(&value);
            if !revived && !whole(group) {
                groups.push(group);
                counts.push(0);
                values.push(value);
            }
        }
        // The same value may have gone several times.
        dedup_removed(&mut groups, &mut counts, &mut values);
        let visit: Vec<u32> = if any_whole {
            (0..self.groups.len() as u32)
                .filter(|&g| whole(g) || self.changed.contains(g))
                .collect()
        } else {
            self.changed.iter().collect()
        };
        for group in visit {
            let everything = whole(group);
            let Some(entries) = self.groups.get_mut(group as usize) else {
                continue;
            };
            for (value, entry) in entries.iter_mut() {
                if everything || entry.changed {
                    groups.push(group);
                    counts.push(entry.count);
                    values.push(value.clone());
                    entry.changed = false;
                    entry.persisted = true;
                }
            }
        }
        self.changed.clear();
        let columns = self.decode(values.iter().map(AsRef::as_ref))?;
        Ok(EntryRows {
            groups,
            values: columns,
            counts: vec![counts],
        })
    }

    fn restore(&mut self, entries: &EntryRows) -> Result<()> {
        let encoded = self.encode(&entries.values)?;
        for (row, (&group, &count)) in entries.groups.iter().zip(&entries.counts[0]).enumerate() {
            let value: Box<[u8]> = encoded.row(row).data().into();
            let bytes = value.len();
            match (self.groups[group as usize].entry(value), count) {
                (btree_map::Entry::Occupied(entry), 0) => {
                    entry.remove();
                    self.entries -= 1;
                    self.entry_bytes -= bytes;
                }
                (btree_map::Entry::Vacant(_), 0) => {}
                (btree_map::Entry::Occupied(mut entry), _) => entry.get_mut().count = count,
                (btree_map::Entry::Vacant(entry), _) => {
                    entry.insert(Entry {
                        count,
                        changed: false,
                        persisted: true,
                    });
                    self.entries += 1;
                    self.entry_bytes += bytes;
                }
            }
        }
        Ok(())
    }
}

fn dedup_removed(groups: &mut Vec<u32>, counts: &mut Vec<i64>, values: &mut Vec<Box<[u8]>>) {
    let mut pairs: Vec<(u32, Box<[u8]>)> = groups.drain(..).zip(values.drain(..)).collect();
    pairs.sort_unstable();
    pairs.dedup();
    counts.truncate(pairs.len());
    for (group, value) in pairs {
        groups.push(group);
        values.push(value);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};

    fn add(set: &mut Multiset, rows: &[(u32, i64, i64)]) {
        let values: ArrayRef = Arc::new(rows.iter().map(|row| row.1).collect::<Int64Array>());
        let groups: Vec<u32> = rows.iter().map(|row| row.0).collect();
        let weights: Vec<i64> = rows.iter().map(|row| row.2).collect();
        let grouped = GroupedRows {
            groups: &groups,
            weights: Some(&weights),
        };
        set.update(&[values], grouped, |_, _, _| ()).unwrap();
    }

    fn drained(set: &mut Multiset) -> Vec<(u32, i64, i64)> {
        let rows = set.drain_changes(&|_| false, false).unwrap();
        let values = rows.values[0].as_primitive::<arrow::datatypes::Int64Type>().clone();
        (0..rows.groups.len())
            .map(|row| (rows.groups[row], values.value(row), rows.counts[0][row]))
            .collect()
    }

    #[test]
    fn snapshots_hold_changes_once() {
        let mut set = Multiset::new(vec![DataType::Int64]).unwrap();
        set.resize(2);
        add(&mut set, &[(0, 7, 1), (0, -3, 1), (1, 7, 2)]);
        assert_eq!(drained(&mut set), vec![(0, -3, 1), (0, 7, 1), (1, 7, 2)]);
        assert_eq!(drained(&mut set), vec![]);
        // Gone, and gone and back again; a value never written leaves no trace.
        add(&mut set, &[(0, 7, -1), (1, 7, -2), (1, 7, 5), (1, 9, 1), (1, 9, -1)]);
        assert_eq!(drained(&mut set), vec![(0, 7, 0), (1, 7, 5)]);
    }

    #[test]
    fn values_below_zero_do_not_exist() {
        let mut set = Multiset::new(vec![DataType::Int64]).unwrap();
        set.resize(1);
        add(&mut set, &[(0, 1, -1), (0, 2, 1)]);
        assert_eq!(set.existing(0).count(), 1);
        add(&mut set, &[(0, 1, 2)]);
        assert_eq!(set.existing(0).count(), 2);
    }
}

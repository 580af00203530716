//! The rows of a partition in order. Most partitions have few, for which a sorted list is much smaller than a tree.

use std::collections::BTreeMap;

use crate::engine::operators::top_n::partition::Entry;
use crate::engine::operators::top_n::row_key::RowKey;

/// The longest list; a partition that was ever longer stays a tree. Tests have both with few rows.
const FEW_MAX: usize = if cfg!(test) { 2 } else { 16 };

#[derive(Debug)]
pub(super) enum RankedRows {
    /// Sorted.
    Few(Vec<(RowKey, Entry)>),
    Many(BTreeMap<RowKey, Entry>),
}

impl Default for RankedRows {
    fn default() -> RankedRows {
        RankedRows::Few(Vec::new())
    }
}

fn place(few: &[(RowKey, Entry)], row: &RowKey) -> Result<usize, usize> {
    few.binary_search_by(|(other, _)| other.cmp(row))
}

impl RankedRows {
    pub fn len(&self) -> usize {
        match self {
            RankedRows::Few(few) => few.len(),
            RankedRows::Many(many) => many.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = (&RowKey, &Entry)> {
        let (few, many) = match self {
            RankedRows::Few(few) => (&few[..], None),
            RankedRows::Many(many) => (&[][..], Some(many)),
        };
        few.iter()
            .map(|(row, entry)| (row, entry))
            .chain(many.into_iter().flatten())
    }

    pub fn keys(&self) -> impl Iterator<Item = &RowKey> {
        self.iter().map(|(row, _)| row)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&RowKey, &mut Entry)> {
        let (few, many) = match self {
            RankedRows::Few(few) => (&mut few[..], None),
            RankedRows::Many(many) => (&mut [][..], Some(many)),
        };
        few.iter_mut()
            .map(|(row, entry)| (&*row, entry))
            .chain(many.into_iter().flatten())
    }

    pub fn last(&self) -> Option<&RowKey> {
        match self {
            RankedRows::Few(few) => few.last().map(|(row, _)| row),
            RankedRows::Many(many) => many.last_key_value().map(|(row, _)| row),
        }
    }

    pub fn get_mut(&mut self, row: &RowKey) -> Option<&mut Entry> {
        match self {
            RankedRows::Few(few) => place(few, row).ok().map(|at| &mut few[at].1),
            RankedRows::Many(many) => many.get_mut(row),
        }
    }

    /// Gives what was there.
    pub fn insert(&mut self, row: RowKey, entry: Entry) -> Option<Entry> {
        let few = match self {
            RankedRows::Few(few) => few,
            RankedRows::Many(many) => return many.insert(row, entry),
        };
        match place(few, &row) {
            Ok(at) => Some(std::mem::replace(&mut few[at].1, entry)),
            Err(_) if few.len() == FEW_MAX => {
                let mut many: BTreeMap<RowKey, Entry> = std::mem::take(few).into_iter().collect();
                many.insert(row, entry);
                *self = RankedRows::Many(many);
                None
            }
            Err(at) => {
                if few.is_empty() {
                    // Many partitions have one row for ever.
                    few.reserve_exact(1);
                }
                few.insert(at, (row, entry));
                None
            }
        }
    }

    pub fn remove(&mut self, row: &RowKey) -> Option<Entry> {
        match self {
            RankedRows::Few(few) => place(few, row).ok().map(|at| few.remove(at).1),
            RankedRows::Many(many) => many.remove(row),
        }
    }

    /// Takes out `first` and all rows after it.
    pub fn split_off(&mut self, first: &RowKey) -> Vec<(RowKey, Entry)> {
        match self {
            RankedRows::Few(few) => few.split_off(place(few, first).unwrap_or_else(|at| at)),
            RankedRows::Many(many) => many.split_off(first).into_iter().collect(),
        }
    }

    pub fn into_rows(self) -> Vec<(RowKey, Entry)> {
        match self {
            RankedRows::Few(few) => few,
            RankedRows::Many(many) => many.into_iter().collect(),
        }
    }
}

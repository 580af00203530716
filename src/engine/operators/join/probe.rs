//! A stored chunk on its way past the rows of the other side: pairs of equal keys, so many at a time.
//!
//! Rows that are indexed are found by the number of the key; past those that wait without an index a [`Scan`] goes.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::ScalarBuffer;

use crate::engine::join_spec::{JoinColumn, Side};
use crate::engine::operator::Result;
use crate::engine::operators::columns::take_columns;
use crate::engine::operators::join::rows::{NONE, RowStore, Stored};
use crate::engine::operators::join::scan::Scan;
use crate::engine::operators::join::waiting_rows::WaitingRows;

/// Where the work on a chunk stands. The other side does not change meanwhile.
pub(super) struct Cursor {
    pub side: Side,
    /// The input's columns.
    pub columns: Vec<ArrayRef>,
    pub weights: Option<Vec<i64>>,
    /// Event time, when the output has one.
    pub times: Option<ScalarBuffer<i64>>,
    pub stored: Stored,
    /// Of rows that are not stored, and of which some may be shown by themselves: weights of the partners of each, summed.
    pub passing: Option<Vec<i64>>,
    way: Way,
}

enum Way {
    ByKey(KeyWalk),
    ByHash(Scan),
}

/// From row to row of the chunk, and from one row of its key to the next.
struct KeyWalk {
    keys: Vec<u32>,
    /// The row whose partners come next, and the partner to begin with; `None`: its first.
    at: usize,
    partner: Option<u32>,
}

/// The rows of the other side: indexed, or waiting.
#[derive(Clone, Copy)]
pub(super) struct Partners<'a> {
    pub store: &'a RowStore,
    pub waiting: Option<&'a WaitingRows>,
}

impl Partners<'_> {
    /// Of rows by number; `None`: all 1.
    pub fn weights(&self, numbers: &[u32]) -> Option<Vec<i64>> {
        match self.waiting {
            Some(waiting) => waiting.weights(numbers),
            None => Some(numbers.iter().map(|&row| self.store.weight[row as usize]).collect()),
        }
    }

    fn gather(&self, columns: &[usize], numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        match self.waiting {
            Some(waiting) => waiting.gather(columns, numbers),
            None => self.store.rows.gather(columns, numbers),
        }
    }
}

/// Rows of the chunk and their partners, one a pair.
#[derive(Default)]
pub(super) struct Pairs {
    pub rows: Vec<u32>,
    pub partners: Vec<u32>,
}

impl Pairs {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Those for which the verdict is true.
    pub fn kept(self, verdict: &BooleanArray) -> Pairs {
        if verdict.true_count() == self.len() {
            return self;
        }
        let mut kept = Pairs::default();
        for at in 0..self.len() {
            if verdict.is_valid(at) && verdict.value(at) {
                kept.rows.push(self.rows[at]);
                kept.partners.push(self.partners[at]);
            }
        }
        kept
    }
}

impl Cursor {
    pub fn by_key(side: Side, columns: Vec<ArrayRef>, keys: Vec<u32>, stored: Stored) -> Cursor {
        let walk = KeyWalk {
            keys,
            at: 0,
            partner: None,
        };
        Cursor::new(side, columns, Way::ByKey(walk), stored)
    }

    pub fn by_hash(side: Side, columns: Vec<ArrayRef>, scan: Scan, stored: Stored) -> Cursor {
        Cursor::new(side, columns, Way::ByHash(scan), stored)
    }

    fn new(side: Side, columns: Vec<ArrayRef>, way: Way, stored: Stored) -> Cursor {
        Cursor {
            side,
            columns,
            weights: None,
            times: None,
            stored,
            passing: None,
            way,
        }
    }

    /// Pairs are of equal hashes, not of equal keys.
    pub fn goes_by_hash(&self) -> bool {
        matches!(self.way, Way::ByHash(_))
    }

    pub fn weight(&self, row: u32) -> i64 {
        self.weights.as_ref().map_or(1, |weights| weights[row as usize])
    }

    pub fn is_finished(&self) -> bool {
        match &self.way {
            Way::ByKey(walk) => walk.at >= walk.keys.len(),
            Way::ByHash(scan) => scan.is_finished(),
        }
    }

    /// The next pairs, at most `most`.
    pub fn next_pairs(&mut self, other: &RowStore, most: usize) -> Pairs {
        match &mut self.way {
            Way::ByKey(walk) => walk.next_pairs(other, most),
            Way::ByHash(scan) => scan.next_pairs(most),
        }
    }

    /// Columns of the pairs.
    pub fn gather(&self, other: Partners<'_>, pairs: &Pairs, wanted: &[JoinColumn]) -> Result<Vec<ArrayRef>> {
        let theirs: Vec<usize> = wanted
            .iter()
            .filter(|column| column.side != self.side)
            .map(|column| column.column)
            .collect();
        let mine: Vec<ArrayRef> = wanted
            .iter()
            .filter(|column| column.side == self.side)
            .map(|column| ArrayRef::clone(&self.columns[column.column]))
            .collect();
        let mut theirs = other.gather(&theirs, &pairs.partners)?.into_iter();
        let mut mine = take_columns(&mine, &UInt32Array::from(pairs.rows.clone()))?.into_iter();
        let columns = wanted.iter().filter_map(|column| {
            if column.side == self.side {
                mine.next()
            } else {
                theirs.next()
            }
        });
        Ok(columns.collect())
    }
}

impl KeyWalk {
    fn next_pairs(&mut self, other: &RowStore, most: usize) -> Pairs {
        let mut pairs = Pairs::default();
        while self.at < self.keys.len() {
            let mut partner = self.partner.take().unwrap_or_else(|| other.first(self.keys[self.at]));
            while partner != NONE {
                if pairs.len() == most {
                    self.partner = Some(partner);
                    return pairs;
                }
                pairs.rows.push(self.at as u32);
                pairs.partners.push(partner);
                partner = other.after(partner);
            }
            self.at += 1;
        }
        pairs
    }
}

//! A stored chunk on its way past the rows of the other side: pairs of equal keys, so many at a time.

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;

use crate::engine::join_spec::{JoinColumn, Side};
use crate::engine::operator::Result;
use crate::engine::operators::columns::take_columns;
use crate::engine::operators::join::rows::{NONE, RowStore, Stored};

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
    keys: Vec<u32>,
    /// The row whose partners come next, and the partner to begin with; `None`: its first.
    at: usize,
    partner: Option<u32>,
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
}

impl Cursor {
    pub fn new(side: Side, columns: Vec<ArrayRef>, keys: Vec<u32>, stored: Stored) -> Cursor {
        Cursor {
            side,
            columns,
            weights: None,
            times: None,
            stored,
            passing: None,
            keys,
            at: 0,
            partner: None,
        }
    }

    /// For rows that are not stored.
    pub fn passing(side: Side, columns: Vec<ArrayRef>, keys: Vec<u32>, matched: Option<Vec<i64>>) -> Cursor {
        Cursor {
            passing: matched,
            ..Cursor::new(side, columns, keys, Stored::default())
        }
    }

    pub fn weight(&self, row: u32) -> i64 {
        self.weights.as_ref().map_or(1, |weights| weights[row as usize])
    }

    pub fn is_finished(&self) -> bool {
        self.at >= self.keys.len()
    }

    /// The next pairs, at most `most`.
    pub fn next_pairs(&mut self, other: &RowStore, most: usize) -> Pairs {
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

    /// Columns of the pairs.
    pub fn gather(&self, other: &RowStore, pairs: &Pairs, wanted: &[JoinColumn]) -> Result<Vec<ArrayRef>> {
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
        let mut theirs = other.rows.gather(&theirs, &pairs.partners)?.into_iter();
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

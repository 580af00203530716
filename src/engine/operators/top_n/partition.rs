//! The rows of one partition in their order, and which of them a ranking shows.

use crate::engine::operators::top_n::ranked_rows::RankedRows;
use crate::engine::operators::top_n::row_key::RowKey;
use crate::engine::top_n_spec::{RankFunction, TopNSpec};

/// A distinct row.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// How often it is there; never 0. Below zero may stand for a while, when a retraction overtakes its row.
    pub weight: i64,
    /// Differs from the last snapshot.
    pub changed: bool,
    /// Part of the last snapshot.
    pub persisted: bool,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    pub rows: RankedRows,
    /// So many ranks are taken that no row behind the last one can be shown. Kept where rows only come in.
    pub is_full: bool,
    /// When the window of the partition is over.
    pub moment: i64,
    /// Wall-clock milliseconds of the last row.
    pub stamp: i64,
}

/// A row in the result.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shown {
    pub(super) row: RowKey,
    /// 0 when ranks are not shown.
    pub(super) rank: u64,
    pub weight: i64,
}

/// Gives ranks to rows in order.
struct Ranks<'a> {
    function: RankFunction,
    /// Rows so far, of all and before the current ties.
    rows: u64,
    rows_before_ties: u64,
    /// Ties so far.
    distinct: u64,
    order: Option<&'a [u8]>,
}

impl<'a> Ranks<'a> {
    fn new(function: RankFunction) -> Ranks<'a> {
        Ranks {
            function,
            rows: 0,
            rows_before_ties: 0,
            distinct: 0,
            order: None,
        }
    }

    /// The rank of the next row; of the first of its copies.
    fn next(&mut self, row: &'a RowKey, weight: i64) -> u64 {
        if self.order != Some(row.order()) {
            self.order = Some(row.order());
            self.rows_before_ties = self.rows;
            self.distinct += 1;
        }
        let before = self.rows;
        self.rows += weight.unsigned_abs();
        match self.function {
            RankFunction::RowNumber => before + 1,
            RankFunction::Rank => self.rows_before_ties + 1,
            RankFunction::DenseRank => self.distinct,
        }
    }

    /// Whether a row that is greater than all so far has a rank beyond `last`.
    fn is_full(&self, last: u64) -> bool {
        match self.function {
            RankFunction::RowNumber | RankFunction::Rank => self.rows >= last,
            RankFunction::DenseRank => self.distinct >= last,
        }
    }
}

impl Partition {
    /// What the ranking shows of these rows, in order.
    pub fn shown(&self, spec: &TopNSpec) -> Vec<Shown> {
        let mut shown = Vec::new();
        let mut ranks = Ranks::new(spec.function);
        for (row, entry) in self.rows.iter().filter(|(_, entry)| entry.weight > 0) {
            let rank = ranks.next(row, entry.weight);
            if rank > spec.last {
                break;
            }
            let mut show = |rank: u64, weight: i64| {
                shown.push(Shown {
                    row: row.clone(),
                    rank: if spec.shows_rank { rank } else { 0 },
                    weight,
                });
            };
            if spec.function != RankFunction::RowNumber {
                if rank >= spec.first {
                    show(rank, entry.weight);
                }
                continue;
            }
            // Copies of a row have numbers of their own.
            let from = rank.max(spec.first);
            let to = spec.last.min(rank - 1 + entry.weight.unsigned_abs());
            if spec.shows_rank {
                (from..=to).for_each(|rank| show(rank, 1));
            } else if from <= to {
                show(rank, (to - from + 1) as i64);
            }
        }
        shown
    }

    /// Where rows only come in: takes out what is ranked beyond `last`, and gives it back.
    pub fn trim(&mut self, spec: &TopNSpec) -> Vec<(RowKey, Entry)> {
        let mut ranks = Ranks::new(spec.function);
        let mut beyond: Option<RowKey> = None;
        // Of a row with copies, so many may stay. A snapshot need not know: reading it back does the same again.
        let mut clipped: Option<(RowKey, i64)> = None;
        for (row, entry) in self.rows.iter() {
            let rank = ranks.next(row, entry.weight);
            if rank > spec.last {
                beyond = Some(row.clone());
                break;
            }
            let room = spec.last - rank + 1;
            if spec.function == RankFunction::RowNumber && entry.weight.unsigned_abs() > room {
                clipped = Some((row.clone(), room as i64));
            }
        }
        self.is_full = ranks.is_full(spec.last);
        if let Some((row, room)) = clipped
            && let Some(entry) = self.rows.get_mut(&row)
        {
            entry.weight = room;
        }
        match beyond {
            Some(row) => self.rows.split_off(&row),
            None => Vec::new(),
        }
    }

    /// Whether a row with these order columns cannot be shown, now or later, where rows only come in.
    pub fn has_no_place_for(&self, order: &[u8]) -> bool {
        self.is_full && self.rows.last().is_none_or(|last| last.order() < order)
    }
}

/// What is no more and what is new, given what is shown before and after, both in order.
pub(super) fn differences(before: Vec<Shown>, after: Vec<Shown>, gone: &mut Vec<Shown>, new: &mut Vec<Shown>) {
    let mut before = before.into_iter().peekable();
    for mut row in after {
        while let Some(old) = before.next_if(|old| (&old.row, old.rank) < (&row.row, row.rank)) {
            gone.push(old);
        }
        if let Some(mut old) = before.next_if(|old| (&old.row, old.rank) == (&row.row, row.rank)) {
            let change = row.weight - old.weight;
            if change < 0 {
                old.weight = -change;
                gone.push(old);
                continue;
            }
            row.weight = change;
        }
        if row.weight != 0 {
            new.push(row);
        }
    }
    gone.extend(before);
}

//! What a ranking does: the part of the job graph that planner and operator agree on.
//!
//! Partition keys, order and the moment of a window are columns of the input, every expression having been computed by a `Project`
//! before. Rows come by a hash exchange on exactly the keys, in their order, or the ranking has one subtask: the hash of the keys
//! decides where a partition is found after a restart.

use crate::engine::join_spec::Moment;
use crate::engine::order_column::OrderColumn;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopNSpec {
    pub function: RankFunction,
    /// Columns whose values make a partition; none: all rows are one.
    pub keys: Vec<usize>,
    /// Rows that are equal in these are ordered by all columns, ascending, NULL last; for RANK and DENSE_RANK they are ties.
    pub order: Vec<OrderColumn>,
    /// The ranks that are shown, both included; there are none when `last` is less than `first`.
    pub first: u64,
    pub last: u64,
    /// How many of the input's columns the output has; the others were computed for the ranking.
    pub columns: usize,
    /// The rank comes after them.
    pub shows_rank: bool,
    /// No retractions come: what falls out never comes back, and is forgotten.
    pub append_only_input: bool,
    pub bound: TopNBound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RankFunction {
    RowNumber,
    Rank,
    DenseRank,
}

/// How long partitions are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopNBound {
    /// For ever, or until no row has come for so long.
    Kept { ttl_ms: Option<u64> },
    /// Until the watermark reaches this moment, which all rows of a partition share: then they are shown once.
    Window(Moment),
}

impl RankFunction {
    /// As it is called in SQL.
    pub fn name(self) -> &'static str {
        match self {
            RankFunction::RowNumber => "row_number",
            RankFunction::Rank => "rank",
            RankFunction::DenseRank => "dense_rank",
        }
    }

    pub fn from_name(name: &str) -> Option<RankFunction> {
        [RankFunction::RowNumber, RankFunction::Rank, RankFunction::DenseRank]
            .into_iter()
            .find(|function| function.name() == name)
    }
}

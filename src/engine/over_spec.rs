//! What an OVER does: the part of the job graph that planner and operator agree on.
//!
//! All functions of one node share PARTITION BY and ORDER BY, whose expressions are columns of the input. Rows come by a hash
//! exchange on exactly the keys, or the node has one subtask: the hash of the keys decides where rows are found after a restart.

use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::scalar::ScalarValue;

use crate::engine::join_spec::Moment;
use crate::engine::order_column::OrderColumn;

#[derive(Clone, Debug)]
pub struct OverSpec {
    pub keys: Vec<usize>,
    pub order: Vec<OrderColumn>,
    /// The output is that many first columns of the input, then one column a function.
    pub carried: usize,
    pub work: OverWork,
    /// The table whose late rows are kept as dead letters; `None`: they are only counted.
    pub late_rows: Option<String>,
}

#[derive(Clone, Debug)]
pub enum OverWork {
    /// Rows never change and the first order column is the event time, ascending: results come out as the watermark passes.
    Ordered {
        functions: Vec<OverFunction>,
        /// Keys without a row for so long, in event time, may be forgotten.
        ttl_micros: Option<i64>,
    },
    /// The watermark says when all rows of a partition have come; it is computed then, as a whole.
    Whole {
        functions: Vec<Arc<dyn WindowExpr>>,
        /// No row of the partition comes when the watermark is past this; `None`: when it is past the row's event time.
        done: Option<Moment>,
        /// Rows come out that much after the watermark passed them, at most.
        hold_micros: i64,
        /// The input has no retractions.
        append_only_input: bool,
    },
    /// Rows may change at any time: partitions are kept, and computed again when they have changed.
    Changing {
        functions: Vec<Arc<dyn WindowExpr>>,
        /// Partitions without a row for so long, by the clock, are forgotten.
        ttl_ms: Option<u64>,
    },
}

/// A function over rows in order of event time. Values are over the input's columns.
#[derive(Clone, Debug)]
pub enum OverFunction {
    RowNumber,
    Rank,
    DenseRank,
    /// LAG by `back` rows; LEAD where that is negative.
    Shift {
        value: Arc<dyn PhysicalExpr>,
        back: i64,
        default: ScalarValue,
    },
    /// The `n`th row of the frame, from 1.
    Nth {
        value: Arc<dyn PhysicalExpr>,
        n: i64,
        frame: Frame,
    },
    Last {
        value: Arc<dyn PhysicalExpr>,
        frame: Frame,
    },
    Aggregate {
        function: Arc<AggregateFunctionExpr>,
        filter: Option<Arc<dyn PhysicalExpr>>,
        frame: Frame,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    pub unit: FrameUnit,
    pub start: FrameBound,
    pub end: FrameBound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameUnit {
    Rows,
    /// Offsets are microseconds of event time.
    Range,
    Groups,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameBound {
    /// UNBOUNDED PRECEDING; never an end.
    Unbounded,
    Current,
    /// FOLLOWING, or PRECEDING where it is negative.
    Offset(i64),
}

impl OverSpec {
    /// The word that EXPLAIN and metrics use.
    pub fn name(&self) -> &'static str {
        match self.work {
            OverWork::Ordered { .. } => "over",
            OverWork::Whole { .. } => "over_window",
            OverWork::Changing { .. } => "over_changing",
        }
    }
}

impl OverFunction {
    pub fn frame(&self) -> Option<Frame> {
        match self {
            OverFunction::Nth { frame, .. }
            | OverFunction::Last { frame, .. }
            | OverFunction::Aggregate { frame, .. } => Some(*frame),
            _ => None,
        }
    }

    /// Whether something is kept of every key for as long as it may come again.
    pub fn is_running(&self) -> bool {
        match self {
            OverFunction::RowNumber | OverFunction::Rank | OverFunction::DenseRank => true,
            OverFunction::Shift { .. } => false,
            _ => self.frame().is_some_and(|frame| frame.start == FrameBound::Unbounded),
        }
    }

    /// How long after a row its key is of no use any more, where time alone says so.
    pub fn horizon_micros(&self) -> Option<i64> {
        match self {
            OverFunction::Shift { back, .. } => (*back <= 0).then_some(0),
            _ => match self.frame()? {
                Frame {
                    start: FrameBound::Current,
                    ..
                } => Some(0),
                Frame {
                    start: FrameBound::Offset(offset),
                    ..
                } if offset >= 0 => Some(0),
                Frame {
                    unit: FrameUnit::Range,
                    start: FrameBound::Offset(offset),
                    ..
                } => Some(offset.saturating_neg()),
                _ => None,
            },
        }
    }

    /// Whether a row has to wait for rows after it.
    pub fn waits(&self) -> bool {
        match self {
            OverFunction::Shift { back, .. } => *back < 0,
            _ => self
                .frame()
                .is_some_and(|frame| matches!(frame.end, FrameBound::Offset(offset) if offset > 0)),
        }
    }

    /// How long a row waits at most, where the frame says so in time.
    pub fn waits_micros(&self) -> Option<i64> {
        match self.frame()? {
            Frame {
                unit: FrameUnit::Range,
                end: FrameBound::Offset(by),
                ..
            } => (by > 0).then_some(by),
            _ => None,
        }
    }
}

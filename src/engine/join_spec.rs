//! What a join does: the part of the job graph that planner and operator agree on.
//!
//! Keys, moments and all that the condition and the output use are columns of the inputs, every expression having been
//! computed by a `Project` before. Both inputs come by a hash exchange on exactly their keys, in the same order, or the join has
//! one subtask: the hash of the keys decides where a row is found after a restart.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

#[derive(Clone, Debug)]
pub struct JoinSpec {
    pub kind: JoinKind,
    /// Left, then right.
    pub inputs: [JoinInput; 2],
    /// For each key, whether NULL matches NULL (`IS NOT DISTINCT FROM`).
    pub null_equal: Vec<bool>,
    /// What a pair of rows with equal keys must satisfy besides.
    pub residual: Option<Residual>,
    /// The output's columns; a mark join has one more, the mark.
    pub output: Vec<JoinColumn>,
    pub bound: JoinBound,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
    /// Rows of the side that have a partner.
    Semi(Side),
    /// Rows of the side that have none.
    Anti(Side),
    /// All rows of the side, and whether they have a partner.
    Mark(Side),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Left,
    Right,
}

#[derive(Clone, Debug)]
pub struct JoinInput {
    pub schema: SchemaRef,
    /// As many as the other side has, of the same types.
    pub keys: Vec<usize>,
    /// No retractions come.
    pub append_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinColumn {
    pub side: Side,
    pub column: usize,
}

/// A condition over some columns of both inputs.
#[derive(Clone, Debug)]
pub struct Residual {
    /// Boolean, over `schema`, whose columns are `columns`.
    pub predicate: Arc<dyn PhysicalExpr>,
    pub columns: Vec<JoinColumn>,
    pub schema: SchemaRef,
}

/// How long rows are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinBound {
    /// Until they are taken back, or for so long since they came or changed.
    Kept { ttl_ms: Option<u64> },
    /// Until the watermark says that no partner can come any more.
    Time(TimeBound),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeBound {
    pub shape: TimeShape,
    /// Left, then right.
    pub rows: [RowMoments; 2],
    /// Rows shown without a partner are older than the watermark by less than this; what is told downstream is held back so far.
    pub hold_micros: i64,
}

/// For people: what the condition looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeShape {
    Window,
    Interval,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMoments {
    /// No partner comes when the watermark has reached this.
    pub done: Moment,
    /// When the watermark has reached this, partners may have been forgotten: a row that comes now is late.
    pub late: Moment,
}

/// A Timestamp(Microsecond) column plus a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub column: usize,
    pub offset_micros: i64,
}

impl JoinSpec {
    /// When a row of `side` is late, in a join bounded by time.
    pub fn late_moment(&self, side: Side) -> Option<&Moment> {
        match &self.bound {
            JoinBound::Time(time) => Some(&time.rows[side.index()].late),
            JoinBound::Kept { .. } => None,
        }
    }

    /// The word that EXPLAIN and metrics use.
    pub fn name(&self) -> &'static str {
        match &self.bound {
            JoinBound::Kept { .. } => "join",
            JoinBound::Time(time) => match time.shape {
                TimeShape::Window => "window_join",
                TimeShape::Interval => "interval_join",
            },
        }
    }
}

impl JoinKind {
    pub fn word(self) -> &'static str {
        match self {
            JoinKind::Inner => "inner",
            JoinKind::Left => "left",
            JoinKind::Right => "right",
            JoinKind::Full => "full",
            JoinKind::Semi(_) => "semi",
            JoinKind::Anti(_) => "anti",
            JoinKind::Mark(_) => "mark",
        }
    }

    /// Whether pairs of rows are put out.
    pub fn has_pairs(self) -> bool {
        matches!(
            self,
            JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full
        )
    }

    /// Whether what is put out of `side` depends on how many partners each row has.
    pub fn counts(self, side: Side) -> bool {
        match self {
            JoinKind::Inner => false,
            JoinKind::Left => side == Side::Left,
            JoinKind::Right => side == Side::Right,
            JoinKind::Full => true,
            JoinKind::Semi(of) | JoinKind::Anti(of) | JoinKind::Mark(of) => of == side,
        }
    }

    /// Whether a row is shown by itself, given whether it has partners; of a side that [`JoinKind::counts`].
    pub fn shows_alone(self, matched: bool) -> bool {
        match self {
            JoinKind::Inner => false,
            JoinKind::Left | JoinKind::Right | JoinKind::Full | JoinKind::Anti(_) => !matched,
            JoinKind::Semi(_) => matched,
            JoinKind::Mark(_) => true,
        }
    }

    pub fn is_mark(self) -> bool {
        matches!(self, JoinKind::Mark(_))
    }

    /// Whether the columns of `side` may be NULL for want of a partner.
    pub fn pads(self, side: Side) -> bool {
        match self {
            JoinKind::Left => side == Side::Right,
            JoinKind::Right => side == Side::Left,
            JoinKind::Full => true,
            _ => false,
        }
    }
}

impl Side {
    pub const BOTH: [Side; 2] = [Side::Left, Side::Right];

    pub fn index(self) -> usize {
        match self {
            Side::Left => 0,
            Side::Right => 1,
        }
    }

    pub fn other(self) -> Side {
        match self {
            Side::Left => Side::Right,
            Side::Right => Side::Left,
        }
    }
}

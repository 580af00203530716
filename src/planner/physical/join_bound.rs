//! What bounds the state of a join: conditions that relate times of both sides.
//!
//! Soundness. Let a condition say `right - left` is within [A, B] for a column of each side. A partner of a left row has its
//! column at most at `left + B`, so, when that column is at least `least` after its row's event time, its event time is at most
//! `left + B - least`: once the watermark is past that, no partner comes. The same holds the other way round with A. Rows older
//! than the watermark are dropped where a partner could have been forgotten already; that is when the watermark has passed the
//! earliest such moment of any partner.

use std::sync::Arc;

use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::scalar::ScalarValue;

use crate::planner::physical::times::{Distance, Place, ShiftedPlace, TimeFacts, literal_micros, moment_of};

/// `right - left` of two places is within these, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeCondition {
    pub left: Place,
    pub right: Place,
    pub least: Option<i64>,
    pub most: Option<i64>,
}

/// When the rows of one side are done, as a place of it plus a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoneAt {
    pub place: Place,
    pub offset: i64,
    /// A row is late when the watermark has reached this.
    pub late: Place,
    pub late_offset: i64,
    /// How long after its event time a row is done, when that is known.
    pub after: Option<i64>,
}

/// The bound of both sides, and how far the event times of two partners are from each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub rows: [DoneAt; 2],
    /// Right event time minus left event time; `None` when not known on both ends.
    pub apart: Option<Distance>,
}

/// Conditions on time among `conditions`, which are over the columns of the left side followed by those of the right; `split`
/// is where the right ones begin.
pub fn time_conditions(conditions: &[Arc<dyn PhysicalExpr>], split: usize) -> Vec<TimeCondition> {
    let mut found = Vec::new();
    for condition in conditions {
        collect(condition, split, &mut found);
    }
    found
}

fn collect(condition: &Arc<dyn PhysicalExpr>, split: usize, found: &mut Vec<TimeCondition>) {
    let Some(binary) = condition.downcast_ref::<BinaryExpr>() else {
        return;
    };
    if *binary.op() == Operator::And {
        collect(binary.left(), split, found);
        collect(binary.right(), split, found);
        return;
    }
    found.extend(compared(binary, split));
}

fn compared(binary: &BinaryExpr, split: usize) -> Option<TimeCondition> {
    let (one, other) = sides(binary)?;
    let one_is_left = one.place.column < split;
    if one_is_left == (other.place.column < split) {
        return None;
    }
    let (left, right, op) = if one_is_left {
        (one, other, *binary.op())
    } else {
        (other, one, binary.op().swap()?)
    };
    // left + l <op> right + r, so that right - left <op reversed> l - r.
    let difference = left.shift.checked_sub(right.shift)?;
    let (least, most) = match op {
        Operator::Eq => (Some(difference), Some(difference)),
        Operator::LtEq => (Some(difference), None),
        Operator::Lt => (Some(difference.checked_add(1)?), None),
        Operator::GtEq => (None, Some(difference)),
        Operator::Gt => (None, Some(difference.checked_sub(1)?)),
        _ => return None,
    };
    let mut right = right.place;
    right.column -= split;
    Some(TimeCondition {
        left: left.place,
        right,
        least,
        most,
    })
}

/// `a <op> b`, or `a - b <op> constant` as `a <op> b + constant`.
fn sides(binary: &BinaryExpr) -> Option<(ShiftedPlace, ShiftedPlace)> {
    if let (Some(one), Some(other)) = (moment_of(binary.left()), moment_of(binary.right())) {
        return Some((one, other));
    }
    let (inner, constant) = match (
        literal_micros(binary.right()),
        call_of(binary.left(), "interval_length"),
    ) {
        (Some(constant), _) => (binary.left(), constant),
        (None, Some([length])) => (length, literal_nanos(binary.right())?),
        _ => return None,
    };
    let inner = uncast(inner);
    let (one, other) = match (
        inner.downcast_ref::<BinaryExpr>(),
        call_of(inner, "timestamp_difference"),
    ) {
        (Some(difference), _) if *difference.op() == Operator::Minus => (difference.left(), difference.right()),
        (None, Some([one, other])) => (one, other),
        _ => return None,
    };
    let (one, mut other) = (moment_of(one)?, moment_of(other)?);
    other.shift = other.shift.checked_add(constant)?;
    Some((one, other))
}

/// What a cast is of.
fn uncast(expression: &Arc<dyn PhysicalExpr>) -> &Arc<dyn PhysicalExpr> {
    match expression.downcast_ref::<CastExpr>() {
        Some(cast) => uncast(cast.expr()),
        None => expression,
    }
}

/// The arguments of a call of the function `name`.
fn call_of<'a>(expression: &'a Arc<dyn PhysicalExpr>, name: &str) -> Option<&'a [Arc<dyn PhysicalExpr>]> {
    let call = expression.downcast_ref::<ScalarFunctionExpr>()?;
    (call.name() == name).then(|| call.args())
}

/// A constant number of nanoseconds that is a whole number of microseconds.
fn literal_nanos(expression: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    let nanos = match expression.downcast_ref::<Literal>()?.value() {
        ScalarValue::Int64(Some(nanos)) => *nanos,
        ScalarValue::Decimal128(Some(nanos), _, 0) => i64::try_from(*nanos).ok()?,
        _ => return None,
    };
    (nanos % 1000 == 0).then_some(nanos / 1000)
}

/// The bound that the conditions give; `None` when the rows of a side can have partners for ever.
pub fn bound(conditions: &[TimeCondition], left: &TimeFacts, right: &TimeFacts) -> Option<Bound> {
    // Per side: the condition that ends it soonest, with what is known of its own and of the other column.
    let mut ends: [Option<(DoneAt, Place, i64)>; 2] = [None, None];
    let mut apart = (None, None);
    for condition in conditions {
        let (own_left, own_right) = (left.at(&condition.left), right.at(&condition.right));
        if let (Some(most), Some(theirs)) = (condition.most, own_right) {
            let offset = most.checked_sub(theirs.least)?.checked_add(1)?;
            let late = (condition.right.clone(), theirs.least);
            consider(&mut ends[0], &condition.left, offset, own_left, late);
            if let Some(mine) = own_left {
                let candidate = most.saturating_sub(theirs.least).saturating_add(mine.most);
                apart.1 = Some(apart.1.map_or(candidate, |known: i64| known.min(candidate)));
            }
        }
        if let (Some(least), Some(theirs)) = (condition.least, own_left) {
            let offset = least.checked_neg()?.checked_sub(theirs.least)?.checked_add(1)?;
            let late = (condition.left.clone(), theirs.least);
            consider(&mut ends[1], &condition.right, offset, own_right, late);
            if let Some(mine) = own_right {
                let candidate = least.saturating_sub(mine.most).saturating_add(theirs.least);
                apart.0 = Some(apart.0.map_or(candidate, |known: i64| known.max(candidate)));
            }
        }
    }
    let [
        Some((mut left_end, right_late, right_least)),
        Some((mut right_end, left_late, left_least)),
    ] = ends
    else {
        return None;
    };
    // A partner of a left row is done, at the earliest, so long after the column that the right side's end is computed from.
    left_end.late = left_late;
    left_end.late_offset = 1i64.checked_sub(left_least)?;
    right_end.late = right_late;
    right_end.late_offset = 1i64.checked_sub(right_least)?;
    Some(Bound {
        rows: [left_end, right_end],
        apart: match apart {
            (Some(least), Some(most)) => Some(Distance { least, most }),
            _ => None,
        },
    })
}

fn consider(
    best: &mut Option<(DoneAt, Place, i64)>,
    place: &Place,
    offset: i64,
    own: Option<Distance>,
    (late, late_least): (Place, i64),
) {
    let after = own.map(|own| own.most.saturating_add(offset));
    let better = match (&best, after) {
        (None, _) => true,
        (Some((known, ..)), Some(after)) => known.after.is_none_or(|known| after < known),
        (Some(_), None) => false,
    };
    if better {
        let done = DoneAt {
            place: place.clone(),
            offset,
            late: place.clone(),
            late_offset: 0,
            after,
        };
        *best = Some((done, late, late_least));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn place(column: usize) -> Place {
        Place { column, field: None }
    }

    fn facts(distance: Distance) -> TimeFacts {
        let mut facts = TimeFacts::default();
        facts.note(0, distance);
        facts
    }

    fn condition(least: Option<i64>, most: Option<i64>) -> TimeCondition {
        TimeCondition {
            left: place(0),
            right: place(0),
            least,
            most,
        }
    }

    #[test]
    fn event_times_near_each_other() {
        let time = facts(Distance::ZERO);
        let found = bound(&[condition(Some(-5), None), condition(None, Some(10))], &time, &time).unwrap();
        assert_eq!((found.rows[0].offset, found.rows[0].late_offset), (11, 1));
        assert_eq!((found.rows[1].offset, found.rows[1].late_offset), (6, 1));
        assert_eq!(found.rows[0].after, Some(11));
        assert_eq!(found.apart, Some(Distance { least: -5, most: 10 }));
        assert_eq!(bound(&[condition(Some(-5), None)], &time, &time), None);
    }

    #[test]
    fn equal_windows_end_together() {
        // Rows inside of windows of 60: the end is 1 to 60 after them, the start 0 to 59 before.
        let same = [condition(Some(0), Some(0))];
        let ends = facts(Distance { least: 1, most: 60 });
        let found = bound(&same, &ends, &ends).unwrap();
        assert_eq!((found.rows[0].offset, found.rows[0].late_offset), (0, 0));
        let starts = facts(Distance { least: -59, most: 0 });
        let found = bound(&same, &starts, &starts).unwrap();
        assert_eq!((found.rows[0].offset, found.rows[0].late_offset), (60, 60));
        // Results of window aggregates are at the last moment of their window.
        let results = facts(Distance::exactly(1));
        assert_eq!(bound(&same, &results, &results).unwrap().apart, Some(Distance::ZERO));
    }

    #[test]
    fn a_column_that_says_nothing_of_event_time_can_still_end_its_row() {
        let time = facts(Distance::ZERO);
        let conditions = [
            condition(Some(0), None),
            TimeCondition {
                left: place(1),
                ..condition(None, Some(0))
            },
        ];
        let found = bound(&conditions, &time, &time).unwrap();
        assert_eq!((found.rows[0].place.column, found.rows[0].offset), (1, 1));
        assert_eq!(found.rows[0].after, None);
        assert_eq!(found.rows[0].late, place(0));
        assert_eq!(found.apart, None);
    }
}

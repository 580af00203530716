//! What is known of timestamp columns: how far each is from the event time of its row.
//!
//! The event time column is 0 away; the end of a window that a row is in between 1 microsecond and the window's size; `ts + INTERVAL`
//! is as far as `ts`, plus the interval. Joins get the bounds of their state from this, and a window that was carried through
//! a join is recognised by it. What is not known is simply not there.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, CastExpr, Column, Literal};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::scalar::ScalarValue;

/// A column, or a field of a column that is a struct.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub column: usize,
    pub field: Option<String>,
}

/// Bounds, both included, of value minus event time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Distance {
    pub least: i64,
    pub most: i64,
}

impl Distance {
    pub const ZERO: Distance = Distance { least: 0, most: 0 };

    pub fn exactly(micros: i64) -> Distance {
        Distance {
            least: micros,
            most: micros,
        }
    }

    /// The distance with `below` subtracted from the least and `above` added to the most.
    pub fn widened(self, below: i64, above: i64) -> Distance {
        Distance {
            least: self.least.saturating_sub(below),
            most: self.most.saturating_add(above),
        }
    }

    fn shifted(self, by: i64) -> Distance {
        self.widened(by.saturating_neg(), by)
    }

    pub fn is_within(self, least: i64, most: i64) -> bool {
        least <= self.least && self.most <= most
    }
}

/// Distances by place.
#[derive(Clone, Debug, Default)]
pub struct TimeFacts {
    distances: BTreeMap<Place, Distance>,
}

impl TimeFacts {
    pub fn note(&mut self, column: usize, distance: Distance) {
        self.distances.insert(Place { column, field: None }, distance);
    }

    pub fn at(&self, place: &Place) -> Option<Distance> {
        self.distances.get(place).copied()
    }

    /// The distance of what `expression` over these columns gives.
    pub fn of(&self, expression: &Arc<dyn PhysicalExpr>) -> Option<Distance> {
        if let Some(moment) = moment_of(expression) {
            return self.at(&moment.place).map(|distance| distance.shifted(moment.shift));
        }
        let call = uncast(expression).downcast_ref::<ScalarFunctionExpr>()?;
        match (call.name(), call.args()) {
            ("date_bin", [width, time, origin]) => {
                let width = literal_micros(width)?;
                let aligned = literal(origin).is_some_and(|origin| {
                    matches!(
                        origin,
                        ScalarValue::TimestampMicrosecond(Some(0), None)
                            | ScalarValue::TimestampNanosecond(Some(0), None)
                    )
                });
                let inner = self.of(time)?;
                (aligned && width > 0).then(|| inner.widened(width - 1, 0))
            }
            _ => None,
        }
    }

    /// What is known of the columns that `expressions` over these columns give.
    pub fn through(&self, expressions: &[Arc<dyn PhysicalExpr>]) -> TimeFacts {
        let mut facts = TimeFacts::default();
        for (column, expression) in expressions.iter().enumerate() {
            if let Some(distance) = self.of(expression) {
                facts.note(column, distance);
            }
            if let Some(from) = expression.downcast_ref::<Column>() {
                for (place, distance) in &self.distances {
                    if place.column == from.index() && place.field.is_some() {
                        let field = place.field.clone();
                        facts.distances.insert(Place { column, field }, *distance);
                    }
                }
            }
            for (name, value) in struct_fields(expression) {
                if let Some(distance) = self.of(&value) {
                    let field = Some(name);
                    facts.distances.insert(Place { column, field }, distance);
                }
            }
        }
        facts
    }

    /// What is known when rows may be of either.
    pub fn or(&self, other: &TimeFacts) -> TimeFacts {
        let both = |(place, mine): (&Place, &Distance)| {
            let theirs = other.at(place)?;
            let distance = Distance {
                least: mine.least.min(theirs.least),
                most: mine.most.max(theirs.most),
            };
            Some((place.clone(), distance))
        };
        TimeFacts {
            distances: self.distances.iter().filter_map(both).collect(),
        }
    }

    /// The same of columns that are now called otherwise; `None` leaves one out.
    pub fn moved(&self, to: impl Fn(usize) -> Option<usize>) -> TimeFacts {
        let moved = |(place, distance): (&Place, &Distance)| {
            let column = to(place.column)?;
            let field = place.field.clone();
            Some((Place { column, field }, *distance))
        };
        TimeFacts {
            distances: self.distances.iter().filter_map(moved).collect(),
        }
    }

    /// Every distance, changed.
    pub fn map(&self, change: impl Fn(Distance) -> Distance) -> TimeFacts {
        TimeFacts {
            distances: self
                .distances
                .iter()
                .map(|(place, &distance)| (place.clone(), change(distance)))
                .collect(),
        }
    }

    /// What is known by either; places are different.
    pub fn and(mut self, other: TimeFacts) -> TimeFacts {
        self.distances.extend(other.distances);
        self
    }
}

/// A timestamp column, or a field of a struct column, plus a constant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShiftedPlace {
    pub place: Place,
    pub shift: i64,
}

/// Reads `column`, `column.field`, and either plus or minus a constant interval.
pub fn moment_of(expression: &Arc<dyn PhysicalExpr>) -> Option<ShiftedPlace> {
    let expression = uncast(expression);
    if let Some(column) = expression.downcast_ref::<Column>() {
        let place = Place {
            column: column.index(),
            field: None,
        };
        return Some(ShiftedPlace { place, shift: 0 });
    }
    if let Some(binary) = expression.downcast_ref::<BinaryExpr>() {
        let sign = match binary.op() {
            Operator::Plus => 1,
            Operator::Minus => -1,
            _ => return None,
        };
        let (of, by) = match (literal_micros(binary.right()), literal_micros(binary.left())) {
            (Some(by), _) => (binary.left(), by.checked_mul(sign)?),
            (None, Some(by)) if sign == 1 => (binary.right(), by),
            _ => return None,
        };
        let inner = moment_of(of)?;
        return Some(ShiftedPlace {
            shift: inner.shift.checked_add(by)?,
            ..inner
        });
    }
    let call = expression.downcast_ref::<ScalarFunctionExpr>()?;
    match (call.name(), call.args()) {
        ("get_field", [of, field]) => {
            let column = of.downcast_ref::<Column>()?.index();
            let field = literal(field)?.try_as_str()??.to_owned();
            let place = Place {
                column,
                field: Some(field),
            };
            Some(ShiftedPlace { place, shift: 0 })
        }
        _ => None,
    }
}

/// The value that a cast between timestamps, which keeps the moment, is of.
fn uncast(expression: &Arc<dyn PhysicalExpr>) -> &Arc<dyn PhysicalExpr> {
    match expression.downcast_ref::<CastExpr>() {
        Some(cast) if keeps_moment(cast.cast_type()) => uncast(cast.expr()),
        _ => expression,
    }
}

fn keeps_moment(to: &DataType) -> bool {
    matches!(
        to,
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, None)
    )
}

fn struct_fields(expression: &Arc<dyn PhysicalExpr>) -> Vec<(String, Arc<dyn PhysicalExpr>)> {
    let Some(call) = expression
        .downcast_ref::<ScalarFunctionExpr>()
        .filter(|call| call.name() == "named_struct")
    else {
        return Vec::new();
    };
    let field = |pair: &[Arc<dyn PhysicalExpr>]| {
        let name = literal(&pair[0])?.try_as_str()??.to_owned();
        Some((name, Arc::clone(&pair[1])))
    };
    call.args().chunks_exact(2).filter_map(field).collect()
}

fn literal(expression: &Arc<dyn PhysicalExpr>) -> Option<&ScalarValue> {
    expression.downcast_ref::<Literal>().map(Literal::value)
}

/// A constant length of time.
pub fn literal_micros(expression: &Arc<dyn PhysicalExpr>) -> Option<i64> {
    scalar_micros(literal(expression)?)
}

pub fn scalar_micros(value: &ScalarValue) -> Option<i64> {
    match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months == 0 => {
            let days = i64::from(interval.days).checked_mul(86_400_000_000)?;
            let whole = interval.nanoseconds % 1000 == 0;
            days.checked_add(interval.nanoseconds / 1000).filter(|_| whole)
        }
        ScalarValue::IntervalDayTime(Some(interval)) => {
            let days = i64::from(interval.days).checked_mul(86_400_000_000)?;
            days.checked_add(i64::from(interval.milliseconds).checked_mul(1000)?)
        }
        ScalarValue::DurationSecond(Some(value)) => value.checked_mul(1_000_000),
        ScalarValue::DurationMillisecond(Some(value)) => value.checked_mul(1000),
        ScalarValue::DurationMicrosecond(Some(value)) => Some(*value),
        ScalarValue::DurationNanosecond(Some(value)) if value % 1000 == 0 => Some(value / 1000),
        _ => None,
    }
}

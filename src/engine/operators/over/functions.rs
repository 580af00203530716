//! The functions of an OVER in order of event time, over segments of one batch.
//!
//! A function that looks at rows only says which (LAG, FIRST_VALUE, ..), and all are fetched at the end at once. Aggregates use
//! the accumulators of the expression library: one that runs through all rows of a key where the frame starts at the first
//! one; one that slides where rows can be taken away exactly (`count`, and sums that are not of floating-point numbers, of which
//! what is left would depend on when the operator was restarted); else each frame is computed afresh.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, new_empty_array, new_null_array};
use arrow::compute::{filter_record_batch, interleave, prep_null_mask_filter};
use arrow::datatypes::DataType;
use datafusion::logical_expr::Accumulator;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::scalar::ScalarValue;

use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::other::scalars_to_column;
use crate::engine::operators::columns::{data_error, evaluate};
use crate::engine::operators::over::frame::Segment;
use crate::engine::over_spec::{Frame, FrameBound, OverFunction};

/// What a function keeps of a key.
pub(super) enum Running {
    Nothing,
    /// The value of the nth row, once it has come.
    Nth(Option<ScalarValue>),
    Aggregate {
        accumulator: Box<dyn Accumulator>,
        /// How many rows of the key are in it.
        absorbed: i64,
    },
}

impl Running {
    pub fn new(function: &OverFunction) -> Result<Running> {
        Ok(match function {
            OverFunction::Nth { frame, .. } if frame.start == FrameBound::Unbounded => Running::Nth(None),
            OverFunction::Aggregate { function, frame, .. } if frame.start == FrameBound::Unbounded => {
                Running::Aggregate {
                    accumulator: function.create_accumulator()?,
                    absorbed: 0,
                }
            }
            _ => Running::Nothing,
        })
    }

    pub fn absorbed(&self) -> i64 {
        match self {
            Running::Aggregate { absorbed, .. } => *absorbed,
            _ => 0,
        }
    }
}

/// Rows of one key, and which of them come out.
pub(super) struct Part<'a> {
    pub segment: Segment<'a>,
    /// Where the segment starts in the batch.
    pub at: usize,
    /// Rows before this have come out when this is done.
    pub until: usize,
    /// Rows and groups of the key that came out before.
    pub rows_done: i64,
    pub groups_done: i64,
}

impl Part<'_> {
    /// Rows of the key before the segment.
    pub fn rows_before(&self) -> i64 {
        self.rows_done - self.segment.kept as i64
    }

    fn new_rows(&self) -> std::ops::Range<usize> {
        self.segment.kept..self.until
    }

    /// Groups of the new rows before `row`.
    pub fn groups_since(&self, row: usize) -> i64 {
        let first = self.segment.group_of.get(self.segment.kept).copied().unwrap_or(0);
        (self.segment.group_of[row] - first) as i64
    }
}

/// Where a value is fetched from: the column, the default, what was kept of keys.
type Pick = (usize, usize);
const FROM_COLUMN: usize = 0;
const DEFAULT: Pick = (1, 0);
const FROM_KEPT: usize = 2;

/// A function at work on one batch.
pub(super) enum Working {
    Numbers(Vec<i64>),
    Picks {
        column: ArrayRef,
        default: Option<ScalarValue>,
        kept: Vec<ScalarValue>,
        picks: Vec<Pick>,
    },
    Values {
        arguments: Vec<ArrayRef>,
        /// How many rows before each passed the FILTER.
        passed: Option<Vec<usize>>,
        values: Vec<ScalarValue>,
    },
}

impl Working {
    pub fn new(function: &OverFunction, rows: &RecordBatch) -> Result<Working> {
        let picks = |value, default: Option<&ScalarValue>| {
            Ok::<_, Error>(Working::Picks {
                column: evaluate(value, rows)?,
                default: default.cloned(),
                kept: Vec::new(),
                picks: Vec::new(),
            })
        };
        match function {
            OverFunction::RowNumber | OverFunction::Rank | OverFunction::DenseRank => Ok(Working::Numbers(Vec::new())),
            OverFunction::Shift { value, default, .. } => picks(value, Some(default)),
            OverFunction::Nth { value, .. } | OverFunction::Last { value, .. } => picks(value, None),
            OverFunction::Aggregate { function, filter, .. } => {
                let Some(filter) = filter else {
                    return Ok(Working::Values {
                        arguments: arguments_of(function, rows)?,
                        passed: None,
                        values: Vec::new(),
                    });
                };
                let mask = evaluate(filter, rows)?;
                let mask = mask
                    .as_boolean_opt()
                    .ok_or_else(|| Error::Internal("the FILTER of a function is not boolean".into()))?;
                // It takes masks with nulls only.
                let mask = match mask.null_count() {
                    0 => mask.clone(),
                    _ => prep_null_mask_filter(mask),
                };
                let mut passed = Vec::with_capacity(mask.len() + 1);
                passed.push(0);
                for row in 0..mask.len() {
                    passed.push(passed[row] + usize::from(mask.value(row)));
                }
                Ok(Working::Values {
                    // Only what passed is evaluated: the filter may guard an error.
                    arguments: arguments_of(function, &filter_record_batch(rows, &mask)?)?,
                    passed: Some(passed),
                    values: Vec::new(),
                })
            }
        }
    }

    /// The values of the rows of `part` that come out.
    pub fn add(&mut self, function: &OverFunction, part: &Part<'_>, running: &mut Running) -> Result<()> {
        match (self, function) {
            (Working::Numbers(numbers), OverFunction::Rank) => {
                let segment = &part.segment;
                let first_of_group = |row: usize| segment.groups[segment.group_of[row]] as i64;
                numbers.extend(part.new_rows().map(|row| part.rows_before() + first_of_group(row) + 1));
            }
            (Working::Numbers(numbers), OverFunction::DenseRank) => {
                numbers.extend(part.new_rows().map(|row| part.groups_done + part.groups_since(row) + 1));
            }
            (Working::Numbers(numbers), _) => {
                numbers.extend(part.new_rows().map(|row| part.rows_before() + row as i64 + 1));
            }
            (Working::Picks { picks, .. }, OverFunction::Shift { back, .. }) => {
                picks.extend(part.new_rows().map(|row| shift(part, row, *back)));
            }
            (
                Working::Picks {
                    column, kept, picks, ..
                },
                OverFunction::Nth { n, frame, .. },
            ) => match running {
                Running::Nth(value) => running_nth(part, *n, *frame, value, (column, kept, picks))?,
                _ => picks.extend(part.new_rows().map(|row| {
                    let rows = part.segment.rows_of(*frame, row);
                    let nth = usize::try_from(n - 1).map_or(usize::MAX, |n| rows.start.saturating_add(n));
                    if nth < rows.end {
                        (FROM_COLUMN, part.at + nth)
                    } else {
                        DEFAULT
                    }
                })),
            },
            (Working::Picks { picks, .. }, OverFunction::Last { frame, .. }) => {
                picks.extend(part.new_rows().map(|row| {
                    let rows = part.segment.rows_of(*frame, row);
                    if rows.is_empty() {
                        DEFAULT
                    } else {
                        (FROM_COLUMN, part.at + rows.end - 1)
                    }
                }));
            }
            (
                Working::Values {
                    arguments,
                    passed,
                    values,
                },
                OverFunction::Aggregate { function, frame, .. },
            ) => Frames {
                part,
                frame: *frame,
                arguments,
                passed: passed.as_deref(),
            }
            .add(function, running, values)
            .map_err(data_error)?,
            _ => return Err(Error::Internal("a function at work on what is another's".into())),
        }
        Ok(())
    }

    pub fn finish(self, result: &DataType) -> Result<ArrayRef> {
        match self {
            Working::Numbers(numbers) => Ok(Arc::new(Int64Array::from(numbers))),
            Working::Values { values, .. } => scalars_to_column(values, result),
            Working::Picks {
                column,
                default,
                kept,
                picks,
            } => {
                if picks.is_empty() {
                    return Ok(new_empty_array(column.data_type()));
                }
                let default = match default {
                    Some(default) if !default.is_null() => default.cast_to(column.data_type())?.to_array()?,
                    _ => new_null_array(column.data_type(), 1),
                };
                let kept = if kept.is_empty() {
                    new_empty_array(column.data_type())
                } else {
                    scalars_to_column(kept, column.data_type())?
                };
                let parts: [&dyn Array; 3] = [column.as_ref(), default.as_ref(), kept.as_ref()];
                Ok(interleave(&parts, &picks)?)
            }
        }
    }
}

fn arguments_of(function: &AggregateFunctionExpr, rows: &RecordBatch) -> Result<Vec<ArrayRef>> {
    function
        .expressions()
        .iter()
        .map(|expression| evaluate(expression, rows))
        .collect()
}

fn shift(part: &Part<'_>, row: usize, back: i64) -> Pick {
    let target = i64::try_from(row)
        .ok()
        .and_then(|row| row.checked_sub(back))
        .and_then(|row| usize::try_from(row).ok());
    match target.filter(|&row| row < part.segment.len()) {
        Some(row) => (FROM_COLUMN, part.at + row),
        None => DEFAULT,
    }
}

fn running_nth(
    part: &Part<'_>,
    n: i64,
    frame: Frame,
    value: &mut Option<ScalarValue>,
    (column, kept, picks): (&ArrayRef, &mut Vec<ScalarValue>, &mut Vec<Pick>),
) -> Result<()> {
    let target = n - 1 - part.rows_before();
    if value.is_none()
        && let Ok(row) = usize::try_from(target)
        && row < part.segment.len()
    {
        *value = Some(ScalarValue::try_from_array(column, part.at + row)?);
    }
    let found = match value {
        Some(value) => {
            kept.push(value.clone());
            (FROM_KEPT, kept.len() - 1)
        }
        None => DEFAULT,
    };
    picks.extend(part.new_rows().map(|row| {
        let end = part.segment.rows_of(frame, row).end as i64;
        if target < end { found } else { DEFAULT }
    }));
    Ok(())
}

/// Whether taking rows away leaves exactly what there was before they came. (The library's sliding `min`, `max` and `avg` do not
/// go together with frames in which only NULLs are left.)
fn slides_exactly(function: &AggregateFunctionExpr, arguments: &[ArrayRef]) -> bool {
    match function.fun().name() {
        "count" => true,
        "sum" => arguments.iter().all(|argument| !argument.data_type().is_floating()),
        _ => false,
    }
}

/// The value of an accumulator that goes on.
fn value_so_far(
    function: &AggregateFunctionExpr,
    accumulator: &mut Box<dyn Accumulator>,
) -> LibraryResult<ScalarValue> {
    if !matches!(function.fun().name(), "median" | "percentile_cont") {
        return accumulator.evaluate();
    }
    // Asking these for their value empties them.
    let state = accumulator.state()?;
    let state = state
        .iter()
        .map(ScalarValue::to_array)
        .collect::<LibraryResult<Vec<_>>>()?;
    *accumulator = function.create_accumulator()?;
    accumulator.merge_batch(&state)?;
    let mut shown = function.create_accumulator()?;
    shown.merge_batch(&state)?;
    shown.evaluate()
}

/// The frames of the rows of one part, for one aggregate.
struct Frames<'a> {
    part: &'a Part<'a>,
    frame: Frame,
    arguments: &'a [ArrayRef],
    passed: Option<&'a [usize]>,
}

type LibraryResult<T = ()> = datafusion::error::Result<T>;

impl Frames<'_> {
    fn add(
        &self,
        function: &AggregateFunctionExpr,
        running: &mut Running,
        values: &mut Vec<ScalarValue>,
    ) -> LibraryResult {
        if let Running::Aggregate { accumulator, absorbed } = running {
            return self.running(function, accumulator, absorbed, values);
        }
        if slides_exactly(function, self.arguments)
            && let Ok(accumulator) = function.create_sliding_accumulator()
        {
            return self.sliding(function, accumulator, values);
        }
        self.afresh(function, values)
    }

    /// The arguments of rows `start..end` of the segment.
    fn slice(&self, start: usize, end: usize) -> Vec<ArrayRef> {
        let place = |row: usize| {
            let row = self.part.at + row;
            self.passed.map_or(row, |passed| passed[row])
        };
        let (start, end) = (place(start), place(end));
        self.arguments
            .iter()
            .map(|argument| argument.slice(start, end - start))
            .collect()
    }

    fn running(
        &self,
        function: &AggregateFunctionExpr,
        accumulator: &mut Box<dyn Accumulator>,
        absorbed: &mut i64,
        values: &mut Vec<ScalarValue>,
    ) -> LibraryResult {
        let before = self.part.rows_before();
        let mut value: Option<ScalarValue> = None;
        for row in self.part.new_rows() {
            let end = self.part.segment.rows_of(self.frame, row).end;
            let from = usize::try_from(*absorbed - before).unwrap_or(0);
            if end > from {
                accumulator.update_batch(&self.slice(from, end))?;
                *absorbed = before + end as i64;
                value = None;
            }
            values.push(match &value {
                Some(value) => value.clone(),
                None => value.insert(value_so_far(function, accumulator)?).clone(),
            });
        }
        Ok(())
    }

    fn sliding(
        &self,
        function: &AggregateFunctionExpr,
        mut accumulator: Box<dyn Accumulator>,
        values: &mut Vec<ScalarValue>,
    ) -> LibraryResult {
        let mut inside = 0..0;
        for row in self.part.new_rows() {
            let rows = self.part.segment.rows_of(self.frame, row);
            if rows.is_empty() {
                values.push(function.create_accumulator()?.evaluate()?);
                continue;
            }
            if rows.start >= inside.end {
                accumulator = function.create_sliding_accumulator()?;
                inside = rows.start..rows.start;
            }
            if rows.end > inside.end {
                accumulator.update_batch(&self.slice(inside.end, rows.end))?;
            }
            if rows.start > inside.start {
                accumulator.retract_batch(&self.slice(inside.start, rows.start))?;
            }
            inside = rows;
            values.push(accumulator.evaluate()?);
        }
        Ok(())
    }

    fn afresh(&self, function: &AggregateFunctionExpr, values: &mut Vec<ScalarValue>) -> LibraryResult {
        for row in self.part.new_rows() {
            let rows = self.part.segment.rows_of(self.frame, row);
            let mut accumulator = function.create_accumulator()?;
            if !rows.is_empty() {
                accumulator.update_batch(&self.slice(rows.start, rows.end))?;
            }
            values.push(accumulator.evaluate()?);
        }
        Ok(())
    }
}

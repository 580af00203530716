//! Rows as multisets: equal when each row of one is a row of the other. Floating-point numbers are equal when they are close, NaN
//! equals NaN, and there is one zero.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::engine::message::Chunk;

/// Relative difference of two numbers that count as one.
const TOLERANCE: f64 = 1e-9;

/// Each column as text or as a number, row by row.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Text(String),
    Number(f64),
}

impl Cell {
    fn is_like(&self, other: &Cell) -> bool {
        match (self, other) {
            (Cell::Number(a), Cell::Number(b)) => {
                a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
            }
            (a, b) => a == b,
        }
    }

    fn text(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Number(number) => format!("{number:.6e}"),
        }
    }
}

type Row = Vec<Cell>;

fn cells_of(column: &ArrayRef) -> Vec<Cell> {
    if column.data_type().is_floating() {
        let numbers = cast(column, &DataType::Float64).expect("a number");
        let numbers = numbers.as_primitive::<Float64Type>();
        let cell = |number: Option<f64>| match number {
            None => Cell::Text("null".into()),
            Some(number) => Cell::Number(number + 0.0),
        };
        return numbers.iter().map(cell).collect();
    }
    let options = FormatOptions::default().with_null("null");
    let formatter = ArrayFormatter::try_new(column, &options).expect("a printable type");
    let cell = |row| Cell::Text(formatter.value(row).to_string());
    (0..column.len()).map(cell).collect()
}

fn rows_of(batches: &[RecordBatch]) -> BTreeMap<Vec<String>, Vec<Row>> {
    let mut rows: BTreeMap<Vec<String>, Vec<Row>> = BTreeMap::new();
    for batch in batches {
        let columns: Vec<Vec<Cell>> = batch.columns().iter().map(cells_of).collect();
        for at in 0..batch.num_rows() {
            let row: Row = columns.iter().map(|column| column[at].clone()).collect();
            rows.entry(row.iter().map(Cell::text).collect()).or_default().push(row);
        }
    }
    rows
}

/// The rows in which the two differ, at most a few of each: `None` when they do not.
pub(crate) fn difference(actual: &[RecordBatch], expected: &[RecordBatch]) -> Option<String> {
    let (mut more, mut less) = (Vec::new(), Vec::new());
    let mut expected_rows = rows_of(expected);
    for (key, rows) in rows_of(actual) {
        let same = expected_rows.get_mut(&key);
        let mut same: Option<&mut Vec<Row>> = same;
        for row in rows {
            if same.as_mut().and_then(|same| same.pop()).is_none() {
                more.push(row);
            }
        }
    }
    less.extend(expected_rows.into_values().flatten());
    // Close numbers may have been rounded apart.
    more.retain(|row| {
        let like = less
            .iter()
            .position(|other: &Row| row.iter().zip(other).all(|(a, b)| a.is_like(b)));
        like.map(|at| less.swap_remove(at)).is_none()
    });
    if more.is_empty() && less.is_empty() {
        return None;
    }
    let shown = |rows: &[Row], sign: &str| {
        let lines = rows.iter().take(8).map(|row| {
            let cells: Vec<String> = row
                .iter()
                .map(|cell| match cell {
                    Cell::Text(text) => text.clone(),
                    Cell::Number(number) => format!("{number:?}"),
                })
                .collect();
            format!("{sign} {}\n", cells.join(" | "))
        });
        lines.collect::<String>()
    };
    Some(format!(
        "{} rows too many, {} rows missing\n{}{}",
        more.len(),
        less.len(),
        shown(&more, "+"),
        shown(&less, "-")
    ))
}

/// Rows with how often each counts, added up change by change.
#[derive(Default)]
pub(crate) struct Folded {
    weights: BTreeMap<Vec<String>, i64>,
}

impl Folded {
    pub fn add(&mut self, chunk: &Chunk) {
        let columns: Vec<Vec<Cell>> = chunk.rows.columns().iter().map(cells_of).collect();
        for at in 0..chunk.len() {
            let key: Vec<String> = columns.iter().map(|column| column[at].text()).collect();
            let weight = self.weights.entry(key).or_insert(0);
            *weight += chunk.weight(at);
        }
    }

    /// A row that was taken away more often than it was put in.
    pub fn negative(&self) -> Option<String> {
        let negative = self.weights.iter().find(|(_, weight)| **weight < 0);
        negative.map(|(row, weight)| format!("{weight:+} {}", row.join(" | ")))
    }

    /// Where it differs from `rows`, compared by text.
    pub fn difference(&self, rows: &[RecordBatch]) -> Option<String> {
        let mut left = self.weights.clone();
        for (key, rows) in rows_of(rows) {
            *left.entry(key).or_insert(0) -= rows.len() as i64;
        }
        left.retain(|_, weight| *weight != 0);
        let lines = left
            .iter()
            .take(8)
            .map(|(row, weight)| format!("{weight:+} {}\n", row.join(" | ")));
        (!left.is_empty()).then(|| lines.collect())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn rows(numbers: &[(i64, Option<f64>)]) -> Vec<RecordBatch> {
        let schema = Schema::new(vec![
            Field::new("k", DataType::Int64, true),
            Field::new("x", DataType::Float64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter_values(numbers.iter().map(|(k, _)| *k))),
            Arc::new(Float64Array::from_iter(numbers.iter().map(|(_, x)| *x))),
        ];
        vec![RecordBatch::try_new(Arc::new(schema), columns).unwrap()]
    }

    #[test]
    fn close_numbers_are_equal_and_others_are_not() {
        let nan = Some(f64::NAN);
        let one = rows(&[(1, Some(0.1 + 0.2)), (2, nan), (3, Some(-0.0)), (4, None), (4, None)]);
        let other = rows(&[(4, None), (2, nan), (3, Some(0.0)), (4, None), (1, Some(0.3))]);
        assert_eq!(difference(&one, &other), None);
        for wrong in [
            rows(&[(1, Some(0.3)), (2, nan), (3, Some(0.0)), (4, None)]),
            rows(&[(1, Some(0.31)), (2, nan), (3, Some(0.0)), (4, None), (4, None)]),
            rows(&[(1, Some(0.3)), (2, None), (3, Some(0.0)), (4, None), (4, None)]),
        ] {
            assert!(difference(&one, &wrong).is_some());
            assert!(difference(&wrong, &one).is_some());
        }
    }

    #[test]
    fn changes_add_up() {
        let batch = rows(&[(1, Some(1.0)), (2, None)]).remove(0);
        let mut folded = Folded::default();
        let chunk = Chunk::insert(batch.clone());
        let taken = Chunk {
            weights: crate::engine::message::Weights::Signed(vec![-1, -1].into()),
            ..chunk.clone()
        };
        folded.add(&chunk);
        assert_eq!(folded.difference(&[batch]), None);
        folded.add(&taken);
        assert!(folded.negative().is_none() && folded.difference(&[]).is_none());
        folded.add(&taken);
        assert!(folded.negative().is_some());
    }
}

//! Arithmetic of tumbling windows over microseconds since 1970-01-01 UTC.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use arrow::buffer::ScalarBuffer;

use crate::engine::graph::WindowSpec;

/// Stands for "this row has no event time"; such a row belongs to no window.
pub(crate) const NO_EVENT_TIME: i64 = i64::MIN;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tumbling {
    size: i64,
}

/// The rows of one window: all of a chunk, or some.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub start: i64,
    /// `None`: every row.
    pub rows: Option<Vec<u32>>,
}

impl Tumbling {
    pub fn new(window: WindowSpec) -> Tumbling {
        let WindowSpec::Tumble { size_micros } = window;
        Tumbling {
            size: size_micros.max(1),
        }
    }

    /// The start of the window that `time` is in.
    #[inline]
    pub fn start_of(self, time: i64) -> i64 {
        time.saturating_sub(time.rem_euclid(self.size))
    }

    #[inline]
    pub fn end_of(self, start: i64) -> i64 {
        start.saturating_add(self.size)
    }

    pub fn start_of_end(self, end: i64) -> i64 {
        end.saturating_sub(self.size)
    }

    /// Splits rows by window, windows in order of time. Usually all rows are in one, and nothing is copied.
    /// The second result counts rows without event time, which are in no slice.
    pub fn split(self, times: &ScalarBuffer<i64>) -> (Vec<Slice>, u64) {
        let Some((earliest, latest)) = bounds(times) else {
            return (Vec::new(), 0);
        };
        if earliest != NO_EVENT_TIME && self.start_of(earliest) == self.start_of(latest) {
            let slice = Slice {
                start: self.start_of(earliest),
                rows: None,
            };
            return (vec![slice], 0);
        }
        let mut slices: Vec<(i64, Vec<u32>)> = Vec::new();
        let mut without = 0;
        let mut last = 0;
        for (row, &time) in times.iter().enumerate() {
            if time == NO_EVENT_TIME {
                without += 1;
                continue;
            }
            let start = self.start_of(time);
            // Neighbouring rows are mostly of one window.
            if slices.get(last).is_none_or(|slice| slice.0 != start) {
                last = slices.iter().position(|slice| slice.0 == start).unwrap_or_else(|| {
                    slices.push((start, Vec::new()));
                    slices.len() - 1
                });
            }
            slices[last].1.push(row as u32);
        }
        slices.sort_by_key(|slice| slice.0);
        let slices = slices.into_iter().map(|(start, rows)| Slice {
            start,
            rows: Some(rows),
        });
        (slices.collect(), without)
    }

    /// The columns window start and window end of `rows` rows of one window.
    pub fn columns(self, start: i64, rows: usize) -> [ArrayRef; 2] {
        let column = |time: i64| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(vec![time; rows])) };
        [column(start), column(self.end_of(start))]
    }
}

fn bounds(times: &[i64]) -> Option<(i64, i64)> {
    let first = *times.first()?;
    Some(
        times
            .iter()
            .fold((first, first), |(low, high), &time| (low.min(time), high.max(time))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_aligned_to_the_epoch_on_both_sides() {
        let window = Tumbling::new(WindowSpec::Tumble { size_micros: 10 });
        assert_eq!(
            [window.start_of(-1), window.start_of(0), window.start_of(19)],
            [-10, 0, 10]
        );
        assert_eq!(window.end_of(-10), 0);
    }

    #[test]
    fn rows_are_split_by_window() {
        let window = Tumbling::new(WindowSpec::Tumble { size_micros: 10 });
        let (slices, without) = window.split(&ScalarBuffer::from(vec![11, 19, 10]));
        assert_eq!((slices, without), (vec![Slice { start: 10, rows: None }], 0));
        let (slices, without) = window.split(&ScalarBuffer::from(vec![11, 5, NO_EVENT_TIME, 12, -3]));
        let starts: Vec<_> = slices.into_iter().map(|slice| (slice.start, slice.rows)).collect();
        assert_eq!(without, 1);
        assert_eq!(
            starts,
            vec![(-10, Some(vec![4])), (0, Some(vec![1])), (10, Some(vec![0, 3]))]
        );
    }
}

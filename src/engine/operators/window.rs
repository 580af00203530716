//! Arithmetic of windows over microseconds since 1970-01-01 UTC.
//!
//! Time is cut into slices, the widest pieces that no window's bound falls into: for windows that follow each other a
//! slice is a window, for windows that overlap it is the greatest common divisor of their size and slide. Windows are
//! [start, end), start being a multiple of the slide.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use arrow::buffer::ScalarBuffer;

use crate::engine::error::Error;
use crate::engine::graph::WindowSpec;
use crate::engine::operator::Result;

/// Stands for "this row has no event time"; such a row belongs to no window.
pub(crate) const NO_EVENT_TIME: i64 = i64::MIN;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
    size: i64,
    slide: i64,
    /// Of a slice.
    width: i64,
    /// Rows are results of such windows already: the window of a row ends right after its time.
    given: bool,
}

/// The rows of one slice: all of a chunk, or some.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    pub start: i64,
    /// `None`: every row.
    pub rows: Option<Vec<u32>>,
}

impl Windows {
    /// An error for sessions, which have an operator of their own.
    pub fn new(window: WindowSpec) -> Result<Windows> {
        let (size, slide, given) = match window {
            WindowSpec::Tumble { size_micros } => (size_micros, size_micros, false),
            WindowSpec::Hop {
                slide_micros,
                size_micros,
            } => (size_micros, slide_micros, false),
            WindowSpec::Given { size_micros } => (size_micros, size_micros, true),
            WindowSpec::Session { .. } => return Err(Error::Internal("sessions have no slices".into())),
        };
        let (size, slide) = (size.max(1), slide.max(1));
        Ok(Windows {
            size,
            slide,
            width: greatest_common_divisor(size, slide),
            given,
        })
    }

    /// Whether a row belongs to more windows than one, or a window has more slices than one.
    pub fn overlap(self) -> bool {
        self.size != self.width
    }

    /// The start of the slice that `time` is in.
    #[inline]
    pub fn slice_of(self, time: i64) -> i64 {
        if self.given {
            return time.saturating_sub(self.size - 1);
        }
        time.saturating_sub(time.rem_euclid(self.width))
    }

    /// A time that stands for all times of the slice of `time`: it is in the same slice.
    #[inline]
    pub fn time_of_slice(self, time: i64) -> i64 {
        if self.given { time } else { self.slice_of(time) }
    }

    /// The number of the slice that starts at `start`; neighbours have neighbouring numbers.
    pub fn number_of(self, start: i64) -> i64 {
        start.div_euclid(self.width)
    }

    /// Numbers of the slices of the window that ends at `end`.
    pub fn numbers_of_window(self, end: i64) -> std::ops::Range<i64> {
        self.number_of(end.saturating_sub(self.size))..self.number_of(end)
    }

    pub fn width(self) -> i64 {
        self.width
    }

    #[inline]
    pub fn end_of(self, start: i64) -> i64 {
        start.saturating_add(self.size)
    }

    pub fn start_of_end(self, end: i64) -> i64 {
        end.saturating_sub(self.size)
    }

    /// The end of the last window that the slice is part of. With windows that leave gaps between them it may be before
    /// the slice: then it is part of none.
    #[inline]
    pub fn last_end(self, slice: i64) -> i64 {
        if self.given {
            return self.end_of(slice);
        }
        self.end_of(slice.saturating_sub(slice.rem_euclid(self.slide)))
    }

    /// The end of the first window that the slice is part of and that ends after `after`.
    pub fn first_end(self, slice: i64, after: i64) -> i64 {
        let earliest = slice.saturating_add(self.width).max(after.saturating_add(1));
        let start = earliest.saturating_sub(self.size);
        // The next multiple of the slide.
        let over = start.rem_euclid(self.slide);
        let start = if over == 0 {
            start
        } else {
            start.saturating_add(self.slide - over)
        };
        self.end_of(start)
    }

    /// The starts of the windows that the slice is part of, latest first.
    pub fn starts(self, slice: i64) -> impl Iterator<Item = i64> {
        let last = self.start_of_end(self.last_end(slice));
        let earliest = slice.saturating_add(self.width).saturating_sub(self.size);
        std::iter::successors(Some(last), move |start| start.checked_sub(self.slide))
            .take_while(move |&start| start >= earliest)
    }

    /// Splits rows by slice, slices in order of time. Usually all rows are in one, and nothing is copied. Rows that are in
    /// no window are in no slice; the second result counts rows without event time, which are in none either.
    pub fn split(self, times: &ScalarBuffer<i64>) -> (Vec<Slice>, u64) {
        let (slices, without) = self.split_all(times);
        if self.slide <= self.size {
            return (slices, without);
        }
        let kept = slices
            .into_iter()
            .filter(|slice| self.last_end(slice.start) > slice.start);
        (kept.collect(), without)
    }

    fn split_all(self, times: &ScalarBuffer<i64>) -> (Vec<Slice>, u64) {
        let Some((earliest, latest)) = bounds(times) else {
            return (Vec::new(), 0);
        };
        if earliest != NO_EVENT_TIME && self.slice_of(earliest) == self.slice_of(latest) {
            let slice = Slice {
                start: self.slice_of(earliest),
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
            let start = self.slice_of(time);
            // Neighbouring rows are mostly of one slice.
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

fn greatest_common_divisor(mut left: i64, mut right: i64) -> i64 {
    while right != 0 {
        (left, right) = (right, left % right);
    }
    left
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
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn hop(slide_micros: i64, size_micros: i64) -> Windows {
        let window = WindowSpec::Hop {
            slide_micros,
            size_micros,
        };
        Windows::new(window).unwrap()
    }

    /// The windows of a time, straight from their definition.
    fn by_definition(time: i64, slide: i64, size: i64) -> Vec<i64> {
        (-1000..1000)
            .map(|number| number * slide)
            .filter(|start| (*start..start + size).contains(&time))
            .collect()
    }

    #[test]
    fn slices_lead_to_the_windows_of_the_definition() {
        for (slide, size) in [(2, 10), (3, 10), (10, 10), (15, 10), (7, 1), (1, 5), (4, 6)] {
            let windows = hop(slide, size);
            for time in -30..30 {
                let expected = by_definition(time, slide, size);
                let slice = windows.slice_of(time);
                let mut starts: Vec<i64> = windows.starts(slice).collect();
                starts.reverse();
                assert_eq!(starts, expected, "time {time}, slide {slide}, size {size}");
                let split = windows.split(&ScalarBuffer::from(vec![time])).0;
                assert_eq!(split.is_empty(), expected.is_empty(), "time {time}, slide {slide}");
                let Some(last) = expected.last() else { continue };
                assert_eq!(windows.last_end(slice), last + size);
                assert_eq!(windows.first_end(slice, i64::MIN), expected[0] + size);
                for start in expected {
                    let end = start + size;
                    assert_eq!(windows.first_end(slice, end - 1), end);
                    assert!(windows.numbers_of_window(end).contains(&windows.number_of(slice)));
                }
            }
        }
    }

    #[test]
    fn windows_are_aligned_to_the_epoch_on_both_sides() {
        let window = Windows::new(WindowSpec::Tumble { size_micros: 10 }).unwrap();
        assert_eq!(
            [window.slice_of(-1), window.slice_of(0), window.slice_of(19)],
            [-10, 0, 10]
        );
        assert_eq!((window.end_of(-10), window.last_end(-10)), (0, 0));
    }

    #[test]
    fn a_given_window_ends_after_the_time_of_its_row() {
        let window = Windows::new(WindowSpec::Given { size_micros: 10 }).unwrap();
        assert_eq!((window.slice_of(14), window.last_end(5)), (5, 15));
        assert_eq!(window.slice_of(window.time_of_slice(14)), 5);
    }

    #[test]
    fn rows_are_split_by_window() {
        let window = Windows::new(WindowSpec::Tumble { size_micros: 10 }).unwrap();
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

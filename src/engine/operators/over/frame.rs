//! Which rows a frame covers, when that is known for good, and which rows no later frame will ask for.
//!
//! All positions are of a [`Segment`]: the rows of one key in order, first those that came out already, then those that the
//! watermark has passed.

use std::ops::Range;

use crate::engine::over_spec::{Frame, FrameBound, FrameUnit, OverFunction};

pub(super) struct Segment<'a> {
    pub times: &'a [i64],
    /// Where the groups of peers start; last the number of rows.
    pub groups: Vec<usize>,
    /// The group of each row.
    pub group_of: Vec<usize>,
    /// Rows that came out already.
    pub kept: usize,
}

/// What is said of the time after a segment's last row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// All rows before this are there.
    pub watermark: i64,
    /// No row follows.
    pub ended: bool,
}

impl<'a> Segment<'a> {
    /// `peers` are ranges of the segment.
    pub fn new(times: &'a [i64], peers: &[Range<usize>], kept: usize) -> Segment<'a> {
        let mut groups: Vec<usize> = peers.iter().map(|range| range.start).collect();
        groups.push(times.len());
        let mut group_of = Vec::with_capacity(times.len());
        for (group, range) in peers.iter().enumerate() {
            group_of.resize(group_of.len() + range.len(), group);
        }
        Segment {
            times,
            groups,
            group_of,
            kept,
        }
    }

    pub fn len(&self) -> usize {
        self.times.len()
    }

    fn group_count(&self) -> usize {
        self.groups.len() - 1
    }

    /// The first row with a time of at least `time`.
    fn first_at(&self, time: i64) -> usize {
        self.times.partition_point(|&of| of < time)
    }

    /// The first row after `time`.
    fn first_after(&self, time: i64) -> usize {
        self.times.partition_point(|&of| of <= time)
    }

    /// Where the group that is `offset` groups after `group` starts; the end when there is none.
    fn group_start(&self, group: usize, offset: i64) -> usize {
        let at = shifted(group, offset).min(self.group_count());
        self.groups[at]
    }

    /// The rows of the frame of row `row`; empty ones are anywhere.
    pub fn rows_of(&self, frame: Frame, row: usize) -> Range<usize> {
        let (group, time) = (self.group_of[row], self.times[row]);
        let start = match (frame.unit, frame.start) {
            (_, FrameBound::Unbounded) => 0,
            (FrameUnit::Rows, FrameBound::Current) => row,
            (FrameUnit::Rows, FrameBound::Offset(by)) => shifted(row, by).min(self.len()),
            (_, FrameBound::Current) => self.groups[group],
            (FrameUnit::Range, FrameBound::Offset(by)) => self.first_at(time.saturating_add(by)),
            (FrameUnit::Groups, FrameBound::Offset(by)) => self.group_start(group, by),
        };
        let end = match (frame.unit, frame.end) {
            (_, FrameBound::Unbounded) => self.len(),
            (FrameUnit::Rows, FrameBound::Current) => row + 1,
            (FrameUnit::Rows, FrameBound::Offset(by)) => shifted(row + 1, by).min(self.len()),
            (_, FrameBound::Current) => self.groups[group + 1],
            (FrameUnit::Range, FrameBound::Offset(by)) => self.first_after(time.saturating_add(by)),
            (FrameUnit::Groups, FrameBound::Offset(by)) => self.group_start(group + 1, by),
        };
        start..end.max(start)
    }

    /// How many rows, those that came out already among them, have all that `functions` need. Rows of one time are not
    /// divided.
    pub fn known(&self, functions: &[OverFunction], passed: Passed) -> usize {
        let mut known = self.len();
        if passed.ended {
            return known;
        }
        for function in functions.iter().filter(|function| function.waits()) {
            known = known.min(self.known_of(function, passed.watermark));
        }
        while known > self.kept && known < self.len() && self.times[known - 1] == self.times[known] {
            known -= 1;
        }
        known.max(self.kept)
    }

    fn known_of(&self, function: &OverFunction, watermark: i64) -> usize {
        let before_end = |by: i64| self.len().saturating_sub(usize::try_from(by).unwrap_or(usize::MAX));
        match function {
            OverFunction::Shift { back, .. } => before_end(back.saturating_neg()),
            _ => match function.frame() {
                Some(Frame {
                    unit,
                    end: FrameBound::Offset(by),
                    ..
                }) => match unit {
                    FrameUnit::Rows => before_end(by),
                    FrameUnit::Range => self.times.partition_point(|&time| time.saturating_add(by) < watermark),
                    FrameUnit::Groups => {
                        let by = usize::try_from(by).unwrap_or(usize::MAX);
                        self.groups[self.group_count().saturating_sub(by)]
                    }
                },
                _ => self.len(),
            },
        }
    }

    /// The first row that `function` may ask for when row `next` or a later one comes out; `absorbed` rows are in its
    /// running value.
    pub fn needed_from(&self, function: &OverFunction, next: usize, absorbed: usize, passed: Passed) -> usize {
        let time = self.times.get(next).copied().unwrap_or(passed.watermark);
        let group = self.group_of.get(next).copied().unwrap_or(self.group_count());
        let back = |unit: FrameUnit, by: i64| match unit {
            FrameUnit::Rows => shifted(next, by),
            FrameUnit::Range => self.first_at(time.saturating_add(by)),
            FrameUnit::Groups => self.group_start(group, by),
        };
        let needed = match function {
            OverFunction::RowNumber | OverFunction::Rank | OverFunction::DenseRank => next,
            OverFunction::Shift { back, .. } => shifted(next, back.saturating_neg()),
            OverFunction::Last {
                frame:
                    Frame {
                        unit,
                        start: FrameBound::Unbounded,
                        end: FrameBound::Offset(by),
                    },
                ..
            }
            | OverFunction::Nth {
                frame:
                    Frame {
                        unit,
                        start: FrameBound::Unbounded,
                        end: FrameBound::Offset(by),
                    },
                ..
            } if *by < 0 => match unit {
                // The last row of the frame may be of any age.
                FrameUnit::Range => self.first_after(time.saturating_add(*by)).saturating_sub(1),
                unit => back(*unit, *by),
            },
            OverFunction::Aggregate { frame, .. } if frame.start == FrameBound::Unbounded => absorbed,
            _ => match function.frame() {
                Some(Frame {
                    unit,
                    start: FrameBound::Offset(by),
                    ..
                }) => back(unit, by),
                _ => next,
            },
        };
        needed.min(next)
    }
}

/// `row + by`, not below 0.
fn shifted(row: usize, by: i64) -> usize {
    let by_abs = usize::try_from(by.unsigned_abs()).unwrap_or(usize::MAX);
    if by < 0 {
        row.saturating_sub(by_abs)
    } else {
        row.saturating_add(by_abs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(unit: FrameUnit, start: FrameBound, end: FrameBound) -> Frame {
        Frame { unit, start, end }
    }

    #[test]
    fn frames_cover_what_postgres_says() {
        use FrameBound::{Current, Offset, Unbounded};
        use FrameUnit::{Groups, Range, Rows};
        // Peers: 0, 1 2, 3, 4.
        let segment = Segment::new(&[10, 20, 20, 30, 50], &[0..1, 1..3, 3..4, 4..5], 0);
        let of = |unit, start, end, row| segment.rows_of(frame(unit, start, end), row);
        assert_eq!(of(Rows, Unbounded, Current, 1), 0..2);
        assert_eq!(of(Range, Unbounded, Current, 1), 0..3);
        assert_eq!(of(Rows, Offset(-1), Offset(1), 0), 0..2);
        assert_eq!(of(Rows, Offset(-1), Offset(1), 4), 3..5);
        assert_eq!(of(Rows, Offset(-3), Offset(-2), 1), 0..0);
        assert_eq!(of(Range, Offset(-10), Current, 3), 1..4);
        assert_eq!(of(Range, Offset(-10), Offset(20), 1), 0..4);
        assert_eq!(of(Range, Offset(1), Offset(20), 2), 3..4);
        assert_eq!(of(Groups, Offset(-1), Offset(1), 3), 1..5);
        assert_eq!(of(Groups, Current, Current, 2), 1..3);
        assert_eq!(of(Groups, Offset(-2), Offset(-1), 1), 0..1);
        assert!(of(Groups, Offset(-2), Offset(-1), 0).is_empty());
    }
}

//! Rows by the moment at which they are done: cheap to add to, and taken in order of the moment.
//!
//! Moments are put into buckets of about a second; only the bucket that is being taken from is sorted. A heap would touch
//! distant memory several times a row.

use std::collections::BTreeMap;

/// Microseconds of a bucket, as a power of two.
const BUCKET_BITS: u32 = 20;

#[derive(Default)]
pub(super) struct DueRows {
    buckets: BTreeMap<i64, Bucket>,
    len: usize,
}

#[derive(Default)]
struct Bucket {
    /// Moment and row.
    rows: Vec<(i64, u32)>,
    /// In descending order: the next is the last.
    sorted: bool,
}

impl DueRows {
    pub fn add(&mut self, moment: i64, row: u32) {
        let bucket = self.buckets.entry(moment >> BUCKET_BITS).or_default();
        bucket.rows.push((moment, row));
        bucket.sorted = false;
        self.len += 1;
    }

    /// The next row that is done at `watermark`, with its moment.
    pub fn take(&mut self, watermark: i64) -> Option<(i64, u32)> {
        let mut first = self.buckets.first_entry()?;
        if *first.key() > watermark >> BUCKET_BITS {
            return None;
        }
        let bucket = first.get_mut();
        if !bucket.sorted {
            bucket.rows.sort_unstable_by(|one, other| other.cmp(one));
            bucket.sorted = true;
        }
        let next = bucket.rows.pop_if(|(moment, _)| *moment <= watermark)?;
        if bucket.rows.is_empty() {
            first.remove();
        }
        self.len -= 1;
        Some(next)
    }

    pub fn clear(&mut self) {
        *self = DueRows::default();
    }

    pub fn memory_bytes(&self) -> usize {
        self.len * size_of::<(i64, u32)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_order_of_their_moments_up_to_the_watermark() {
        let mut due = DueRows::default();
        let moments = [5_000_000, -3, 7, 1 << 20, (1 << 20) - 1, i64::MAX, i64::MIN];
        for (row, moment) in moments.into_iter().enumerate() {
            due.add(moment, row as u32);
        }
        let mut taken = |watermark| std::iter::from_fn(|| due.take(watermark)).collect::<Vec<_>>();
        assert_eq!(taken(7), [(i64::MIN, 6), (-3, 1), (7, 2)]);
        assert_eq!(taken((1 << 20) - 2), []);
        assert_eq!(taken(1 << 20), [((1 << 20) - 1, 4), (1 << 20, 3)]);
        assert_eq!(taken(i64::MAX), [(5_000_000, 0), (i64::MAX, 5)]);
        assert_eq!(due.memory_bytes(), 0);
    }
}

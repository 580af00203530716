//! When a file is finished: pure decisions.

use std::time::Duration;

/// How old a file gets when only its size or its rows are limited, so that rows of a quiet table appear as well.
const INTERVAL_BESIDE_LIMITS: Duration = Duration::from_secs(300);

/// No file gets larger, whatever the user says: a multipart upload has at most 10,000 parts.
const BYTES_LIMIT: u64 = 64 * 1024 * 1024 * 1024;

/// Without any limit a file ends at the next checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rolling {
    pub bytes: Option<u64>,
    pub rows: Option<u64>,
    pub interval: Option<Duration>,
    /// Without new rows for so long.
    pub inactivity: Option<Duration>,
}

/// What a decision is made by.
#[derive(Clone, Copy, Debug)]
pub struct FileAge {
    pub bytes: u64,
    pub rows: u64,
    pub opened_at_micros: i64,
    pub written_at_micros: i64,
}

impl Rolling {
    fn at_each_checkpoint(&self) -> bool {
        *self == Rolling::default()
    }

    /// Nothing more goes into the file.
    pub fn is_full(&self, file: &FileAge) -> bool {
        file.bytes >= self.bytes.unwrap_or(BYTES_LIMIT).min(BYTES_LIMIT)
            || self.rows.is_some_and(|rows| file.rows >= rows)
    }

    /// How many rows fit into a file that has `rows`.
    pub fn rows_left(&self, rows: u64) -> usize {
        self.rows.map_or(usize::MAX, |most| {
            usize::try_from(most.saturating_sub(rows).max(1)).unwrap_or(usize::MAX)
        })
    }

    /// Whether the file ends with the checkpoint that is taken at `now_micros`.
    pub fn is_due(&self, file: &FileAge, now_micros: i64) -> bool {
        let older = |since: i64, limit: Duration| {
            u128::from(now_micros.saturating_sub(since).max(0).unsigned_abs()) >= limit.as_micros()
        };
        let interval = match self.inactivity {
            Some(_) => self.interval,
            None => Some(self.interval.unwrap_or(INTERVAL_BESIDE_LIMITS)),
        };
        self.at_each_checkpoint()
            || self.is_full(file)
            || interval.is_some_and(|interval| older(file.opened_at_micros, interval))
            || self
                .inactivity
                .is_some_and(|limit| older(file.written_at_micros, limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn file(bytes: u64, rows: u64, written_at_micros: i64) -> FileAge {
        FileAge {
            bytes,
            rows,
            opened_at_micros: 0,
            written_at_micros,
        }
    }

    #[test]
    fn without_limits_files_end_at_each_checkpoint() {
        let rolling = Rolling::default();
        assert!(rolling.is_due(&file(1, 1, 0), 0));
        assert!(!rolling.is_full(&file(1 << 30, 1 << 30, 0)));
    }

    #[test]
    fn limits() {
        let rows = Rolling {
            rows: Some(10),
            ..Rolling::default()
        };
        assert!(rows.is_full(&file(1, 10, 0)) && !rows.is_full(&file(1, 9, 0)));
        assert_eq!((rows.rows_left(7), rows.rows_left(10)), (3, 1));
        assert!(!rows.is_due(&file(1, 9, 0), 299 * SECOND));
        assert!(rows.is_due(&file(1, 9, 0), 300 * SECOND));
        let interval = Rolling {
            interval: Some(Duration::from_secs(60)),
            ..Rolling::default()
        };
        assert!(!interval.is_due(&file(1 << 40, 9, 0), 0) || interval.is_full(&file(1 << 40, 9, 0)));
        assert!(!interval.is_due(&file(1, 9, 0), 59 * SECOND));
        assert!(interval.is_due(&file(1, 9, 0), 60 * SECOND));
        // A clock that is set back ends nothing.
        assert!(!interval.is_due(&file(1, 9, 0), -60 * SECOND));
        let quiet = Rolling {
            inactivity: Some(Duration::from_secs(5)),
            ..Rolling::default()
        };
        assert!(!quiet.is_due(&file(1, 9, 1000 * SECOND), 1004 * SECOND));
        assert!(quiet.is_due(&file(1, 9, 1000 * SECOND), 1005 * SECOND));
    }
}

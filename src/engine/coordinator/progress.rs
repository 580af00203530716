//! Whether a job gets on: a pure stopwatch that is started again by every committed checkpoint.
//!
//! A job that has committed nothing for [`INTERVALS`] of its checkpoint intervals is degraded until it does, whatever the reason: a
//! sink that takes connections and never answers, a store that is away, a barrier that does not get through. Nothing is stopped
//! for that: there is nothing better to do than to wait, but somebody should know.

use std::time::{Duration, Instant};

/// So many checkpoint intervals without a committed checkpoint are too many.
pub const INTERVALS: u32 = 5;

#[derive(Debug)]
pub struct Progress {
    limit: Duration,
    /// When to look next.
    due: Instant,
}

impl Progress {
    /// `least`: shorter than this, the machine may just be busy.
    pub fn new(interval: Duration, least: Duration, now: Instant) -> Progress {
        let limit = (interval * INTERVALS).max(least);
        Progress {
            limit,
            due: now + limit,
        }
    }

    /// Something was committed.
    pub fn made(&mut self, now: Instant) {
        self.due = now + self.limit;
    }

    pub fn due(&self) -> Instant {
        self.due
    }

    /// True when the job turns out to be stalled, and again and again as long as it is: the reason may be another by then.
    pub fn look(&mut self, now: Instant) -> bool {
        let stalled = self.due <= now;
        if stalled {
            self.due = now + self.limit;
        }
        stalled
    }

    /// How long nothing may happen.
    pub fn limit(&self) -> Duration {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn five_intervals_without_a_commit_are_a_stall_until_the_next_one() {
        let start = Instant::now();
        let mut progress = Progress::new(SECOND, Duration::ZERO, start);
        assert!(!progress.look(start + 4 * SECOND));
        progress.made(start + 4 * SECOND);
        assert_eq!(progress.due(), start + 9 * SECOND);
        assert!(!progress.look(start + 8 * SECOND));
        assert!(progress.look(start + 9 * SECOND));
        assert!(!progress.look(start + 13 * SECOND));
        assert!(progress.look(start + 14 * SECOND), "it is said again, seldom");
        progress.made(start + 15 * SECOND);
        assert!(!progress.look(start + 19 * SECOND));
        assert!(progress.look(start + 20 * SECOND), "and again when it happens again");
    }

    #[test]
    fn short_intervals_get_more_time() {
        let start = Instant::now();
        let mut progress = Progress::new(Duration::from_millis(10), 5 * SECOND, start);
        assert!(!progress.look(start + 4 * SECOND));
        assert!(progress.look(start + 5 * SECOND));
    }
}

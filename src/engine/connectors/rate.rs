//! Holds a source to so many rows a second, without drift: what is due follows from the time since the start.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;

/// Rows that wait are given out in bursts of this length, so that a shard is not woken for every row.
const BURST_MICROS: f64 = 10_000.0;

pub struct RateLimit {
    clock: Arc<dyn Clock>,
    rows_a_second: f64,
    started_micros: i64,
    given: f64,
}

impl RateLimit {
    pub fn new(clock: Arc<dyn Clock>, rows_a_second: f64) -> RateLimit {
        let started_micros = clock.now_micros();
        RateLimit {
            clock,
            rows_a_second,
            started_micros,
            given: 0.0,
        }
    }

    /// How many of `rows_max` rows are due now; `Err` with the time to ask again when none is.
    pub fn due(&self, rows_max: usize) -> Result<usize, Instant> {
        let elapsed = (self.clock.now_micros() - self.started_micros) as f64;
        // The first row is due at once.
        let due = 1.0 + elapsed * self.rows_a_second / 1e6 - self.given;
        if due >= 1.0 {
            return Ok((due as usize).min(rows_max));
        }
        let wait = ((1.0 - due) / self.rows_a_second * 1e6).max(BURST_MICROS);
        Err(Instant::now() + Duration::from_micros(wait as u64))
    }

    pub fn gave(&mut self, rows: usize) {
        self.given += rows as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn gives_what_the_time_allows() {
        let clock = ManualClock::at(5);
        let mut rate = RateLimit::new(Arc::new(clock.clone()), 1000.0);
        assert_eq!(rate.due(10), Ok(1));
        rate.gave(1);
        assert!(rate.due(10).is_err());
        clock.advance_micros(5_000);
        assert_eq!(rate.due(3), Ok(3));
        assert_eq!(rate.due(10), Ok(5));
        rate.gave(5);
        clock.advance_micros(995_000);
        assert_eq!(rate.due(10_000), Ok(995));
    }
}

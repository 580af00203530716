//! How long a test waits for a process, on a machine that may stand still: what counts is time in which the test itself ran.
//!
//! A virtual machine that is paused for half a minute is seen by a clock, and by no process.

use std::time::{Duration, Instant};

/// Between two looks at the clock no more than this is counted; looks come every few milliseconds.
const STEP_MAX: Duration = Duration::from_millis(250);

pub struct Patience {
    left: Duration,
    looked: Instant,
}

impl Patience {
    pub fn of(duration: Duration) -> Patience {
        Patience {
            left: duration,
            looked: Instant::now(),
        }
    }

    /// To be asked again and again.
    pub fn is_over(&mut self) -> bool {
        let now = Instant::now();
        self.left = self.left.saturating_sub((now - self.looked).min(STEP_MAX));
        self.looked = now;
        self.left.is_zero()
    }
}

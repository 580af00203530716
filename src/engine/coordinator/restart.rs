//! How long to wait before a job is started again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// A job that ran this long without a failure starts counting failures from zero again.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// Doubles with every attempt (from 1), up to a limit, and half of it is chance, so that jobs that failed together do not
/// come back together. `chance` is in 0..1.
pub fn delay(attempt: u32, chance: f64) -> Duration {
    let doubled = FIRST.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    let whole = doubled.min(LONGEST);
    whole.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_a_limit() {
        assert_eq!(delay(1, 1.0), Duration::from_millis(100));
        assert_eq!(delay(1, 0.0), Duration::from_millis(50));
        assert_eq!(delay(3, 1.0), Duration::from_millis(400));
        assert_eq!(delay(40, 1.0), LONGEST);
        assert!(delay(40, 0.3) < LONGEST);
    }
}

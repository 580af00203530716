//! Waits out what goes away by itself: a store that is throttled, restarted or not reached.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::engine::connectors::Result;
use crate::engine::error::Error;
use crate::error::{Report, Retry};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// For what must come to an end by itself: whoever asked then begins anew.
pub const ATTEMPTS: u32 = 8;

/// Shorter ones are everyday.
const NOTABLE_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = if cfg!(test) {
    Duration::from_millis(100)
} else {
    Duration::from_secs(10)
};

/// Tries until it succeeds, fails for good, or nobody wants it any more.
pub async fn waited_out<T, F: Future<Output = Result<T>>>(
    unwanted: &CancellationToken,
    attempt: impl FnMut() -> F,
) -> Result<T> {
    tried(unwanted, u32::MAX, attempt).await
}

/// The same, at most so often.
pub async fn tried<T, F: Future<Output = Result<T>>>(
    unwanted: &CancellationToken,
    mut attempts: u32,
    mut attempt: impl FnMut() -> F,
) -> Result<T> {
    let mut pause = FIRST_PAUSE;
    loop {
        let outcome = tokio::select! {
            () = unwanted.cancelled() => return Err(Error::Stopped),
            outcome = attempt() => outcome,
        };
        match outcome {
            Err(error) if error.retry() == Retry::Backoff && attempts > 1 => {
                attempts -= 1;
                match pause < NOTABLE_PAUSE {
                    true => debug!(%error, "trying again to reach the store of a file sink"),
                    false => warn!(%error, "waiting for the store of a file sink"),
                }
                tokio::select! {
                    () = unwanted.cancelled() => return Err(Error::Stopped),
                    () = tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
            outcome => return outcome,
        }
    }
}

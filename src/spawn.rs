//! The one way to start a task or a thread: named, and with its panic reported instead of lost.
//!
//! Not guaranteed: that the task is restarted; whoever awaits the handle decides.

use std::future::Future;

use tokio::task::JoinHandle;
use tracing::{Instrument, error, info_span};

/// Spawns `future` on the current tokio runtime. A panic is logged with the task's name and surfaces in the handle.
pub fn named<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let span = info_span!("task", name);
    tokio::spawn(
        async move {
            let report = ReportPanic(name);
            let output = future.await;
            std::mem::forget(report);
            output
        }
        .instrument(span),
    )
}

/// Starts an operating-system thread with a name that tools show.
pub fn thread<F>(name: String, body: F) -> std::io::Result<std::thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    std::thread::Builder::new().name(name).spawn(body)
}

/// Dropped while unwinding only: the normal path forgets it.
struct ReportPanic(&'static str);

impl Drop for ReportPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(name = self.0, "task panicked");
        }
    }
}

//! The wire over real sockets: raw messages, tokio-postgres, psql.

#![allow(clippy::unwrap_used)]
//! Over real sockets, with a session that needs no database: raw messages, the tokio-postgres driver, psql.

mod driver;
mod fake;
mod login;
mod messages;
mod raw;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::fake::Fake;
use super::cancel::Backends;
use super::listener::{PgConfig, PgListener};

/// A listener with a fake session behind it.
struct TestServer {
    address: SocketAddr,
    fake: Arc<Fake>,
    backends: Arc<Backends>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn start() -> TestServer {
    start_with(PgConfig::at(any_port()), Fake::default()).await
}

async fn start_with(config: PgConfig, fake: Fake) -> TestServer {
    let backends = Arc::new(Backends::default());
    let listener = PgListener::bind(config, Arc::clone(&backends)).await.unwrap();
    let address = listener.local_address();
    let shutdown = CancellationToken::new();
    let fake = Arc::new(fake);
    let task = crate::spawn::named("test listener", listener.serve(Arc::clone(&fake), shutdown.clone()));
    TestServer {
        address,
        fake,
        backends,
        shutdown,
        task,
    }
}

/// Waits until a counter has a value; one second is what the client-gone promise allows.
async fn becomes(counter: &AtomicUsize, value: usize) {
    let waiting = async {
        while counter.load(Ordering::SeqCst) != value {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let seen = tokio::time::timeout(Duration::from_secs(1), waiting).await;
    assert!(
        seen.is_ok(),
        "still {} after a second, not {value}",
        counter.load(Ordering::SeqCst)
    );
}

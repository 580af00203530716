//! The HTTP listener, with TLS when there are files for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backend::Backend;
use super::guard::{Guard, Peer};
use super::router;
use crate::config::TlsFiles;
use crate::error::{ErrorReport, SqlState};
use crate::frontend::bind::bind;
use crate::frontend::tls::{self, Tls};
use crate::metrics::Metrics;

const ALPN_HTTP: &[u8] = b"http/1.1";
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Shaken hands that wait to be served.
const HANDSHAKES_QUEUED_MAX: usize = 64;
/// How long requests may take to end at a shutdown.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// How to listen.
#[derive(Clone, Debug)]
pub struct RestConfig {
    pub listen: SocketAddr,
    pub tls: Option<TlsFiles>,
    /// What clients send as bearer token.
    pub token: Option<String>,
    /// Clients of this machine need no token.
    pub trust_loopback: bool,
}

impl RestConfig {
    /// The defaults at an address.
    pub fn at(listen: SocketAddr) -> RestConfig {
        RestConfig {
            listen,
            tls: None,
            token: None,
            trust_loopback: true,
        }
    }
}

/// A bound listener; requests are answered once [`RestListener::serve`] runs.
pub struct RestListener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    guard: Guard,
}

impl RestListener {
    /// Binds the address. Other addresses than this machine's own need TLS and a token.
    pub async fn bind(config: RestConfig) -> Result<RestListener, ErrorReport> {
        let is_local = config.listen.ip().to_canonical().is_loopback();
        if !is_local && (config.tls.is_none() || config.token.is_none()) {
            return Err(ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!(
                    "refusing to listen on {} for HTTP without TLS and a token",
                    config.listen
                ),
            )
            .with_hint("Give a certificate, a key and a password, or listen on 127.0.0.1."));
        }
        let tls = config
            .tls
            .as_ref()
            .map(|files| tls::load(files, ALPN_HTTP))
            .transpose()?;
        let (listener, address) = bind(config.listen, "HTTP", "--http-listen").await?;
        Ok(RestListener {
            listener,
            address,
            tls,
            guard: Guard::new(config.token.as_deref(), config.trust_loopback, address),
        })
    }

    /// The port is the one that the system chose when the configured one was 0.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Answers requests until `shutdown`.
    pub async fn serve<B: Backend>(self, backend: Arc<B>, metrics: Metrics, shutdown: CancellationToken) {
        info!(address = %self.address, "listening for HTTP clients");
        let service = router(backend, metrics, self.guard).into_make_service_with_connect_info::<Peer>();
        let ended = shutdown.clone().cancelled_owned();
        let serving = async {
            match self.tls {
                None => axum::serve(self.listener, service).with_graceful_shutdown(ended).await,
                Some(tls) => {
                    let listener = TlsListener::start(self.listener, self.address, tls, shutdown.clone());
                    axum::serve(listener, service).with_graceful_shutdown(ended).await
                }
            }
        };
        let too_late = async {
            shutdown.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            served = serving => {
                if let Err(error) = served {
                    warn!(%error, "the HTTP listener ended");
                }
            }
            () = too_late => warn!("requests did not end in time"),
        }
    }
}

/// Accepts and shakes hands, each client in a task of its own: a slow one holds nobody up.
pub struct TlsListener {
    accepted: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    fn start(listener: TcpListener, address: SocketAddr, tls: Tls, shutdown: CancellationToken) -> TlsListener {
        let (sender, accepted) = mpsc::channel(HANDSHAKES_QUEUED_MAX);
        crate::spawn::named("https listener", accept_all(listener, tls, sender, shutdown));
        TlsListener { accepted, address }
    }
}

async fn accept_all(
    mut listener: TcpListener,
    tls: Tls,
    sender: mpsc::Sender<(TlsStream<TcpStream>, SocketAddr)>,
    shutdown: CancellationToken,
) {
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            // This one waits and tries again by itself when accepting fails.
            accepted = Listener::accept(&mut listener) => accepted,
        };
        let (acceptor, sender) = (tls.acceptor.clone(), sender.clone());
        crate::spawn::named("https handshake", async move {
            if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // The listener is gone at a shutdown: so is this client.
                let _ = sender.send((stream, peer)).await;
            }
        });
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The accepting task has ended at a shutdown, which also ends the server.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

//! The listener: accepts clients, logs them in, and lets them go at a shutdown.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgwire::messages::startup::Authentication;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::auth::Authenticator;
use super::cancel::{Backend, Backends};
use super::connection::{Connection, Replies};
use super::error::{Error, Severity};
use super::limits::{CONNECTIONS_MAX, LOGIN_TIMEOUT, LOGINS_MAX, SHUTDOWN_GRACE, STATEMENT_BYTES_MAX};
use super::message::FrameReader;
use super::reply::ReplyWriter;
use super::sql_session::{Login, SessionFactory, SqlSession};
use super::startup::{ALPN_POSTGRES, BoxedSocket, Opening, Startup, open};
use crate::config::TlsFiles;
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::bind::bind;
use crate::frontend::tls::{self, Tls};

/// How to listen.
#[derive(Clone, Debug)]
pub struct PgConfig {
    pub listen: SocketAddr,
    pub tls: Option<TlsFiles>,
    /// Clients of this machine need no password.
    pub trust_loopback: bool,
    /// Sessions at a time; [`CONNECTIONS_MAX`] unless set.
    pub connections_max: usize,
    /// Longest text of statements; [`STATEMENT_BYTES_MAX`] unless set.
    pub statement_bytes_max: usize,
}

impl PgConfig {
    /// The defaults at an address.
    pub fn at(listen: SocketAddr) -> PgConfig {
        PgConfig {
            listen,
            tls: None,
            trust_loopback: true,
            connections_max: CONNECTIONS_MAX,
            statement_bytes_max: STATEMENT_BYTES_MAX,
        }
    }
}

/// A bound listener: clients can connect already, and are answered once [`PgListener::serve`] runs.
pub struct PgListener {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<Tls>,
    config: PgConfig,
    backends: Arc<Backends>,
}

impl PgListener {
    /// Binds the address. Other addresses than this machine's own need TLS: passwords protect who connects, not what is sent.
    pub async fn bind(config: PgConfig, backends: Arc<Backends>) -> Result<PgListener, ErrorReport> {
        if !config.listen.ip().to_canonical().is_loopback() && config.tls.is_none() {
            return Err(ErrorReport::new(
                SqlState::INVALID_PARAMETER_VALUE,
                format!("refusing to listen on {} without TLS", config.listen),
            )
            .with_hint("Give a certificate and a key, or listen on 127.0.0.1."));
        }
        let tls = config
            .tls
            .as_ref()
            .map(|files| tls::load(files, ALPN_POSTGRES))
            .transpose()?;
        let (listener, address) = bind(config.listen, "Postgres", "--sql-listen").await?;
        Ok(PgListener {
            listener,
            address,
            tls,
            config,
            backends,
        })
    }

    /// The port is the one that the system chose when the configured one was 0.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts until `shutdown`, then ends all sessions with 57P01 and waits for them a little.
    pub async fn serve<F: SessionFactory>(self, sessions: Arc<F>, shutdown: CancellationToken) {
        let certificate = self.tls.as_ref().map(|tls| tls.certificate_pem.as_slice());
        let server = Arc::new(Server {
            authenticator: Authenticator::new(self.config.trust_loopback, certificate),
            tls: self.tls,
            sessions,
            backends: self.backends,
            connections_max: self.config.connections_max,
            statement_bytes_max: self.config.statement_bytes_max,
            connections: AtomicUsize::new(0),
            shutdown: shutdown.clone(),
        });
        let logins = Arc::new(Semaphore::new(LOGINS_MAX));
        let tasks = TaskTracker::new();
        info!(address = %self.address, "listening for Postgres clients");
        loop {
            let permit = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                permit = Arc::clone(&logins).acquire_owned() => permit,
            };
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let server = Arc::clone(&server);
                    let connection = tasks.track_future(async move { server.connect(stream, peer, permit).await });
                    crate::spawn::named("pgwire connection", connection);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close theirs.
                    warn!(%error, "could not accept a client");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
        tasks.close();
        if tokio::time::timeout(SHUTDOWN_GRACE, tasks.wait()).await.is_err() {
            warn!(sessions = tasks.len(), "sessions did not end in time");
        }
    }
}

struct Server<F> {
    authenticator: Authenticator,
    tls: Option<Tls>,
    sessions: Arc<F>,
    backends: Arc<Backends>,
    connections_max: usize,
    statement_bytes_max: usize,
    connections: AtomicUsize,
    shutdown: CancellationToken,
}

/// Counts a session while it lives.
struct ConnectionCount<'a>(&'a AtomicUsize);

impl Drop for ConnectionCount<'_> {
    fn drop(&mut self) {
        let before = self.0.fetch_sub(1, Ordering::Relaxed);
        publish_connections(before.saturating_sub(1));
    }
}

fn publish_connections(count: usize) {
    metrics::gauge!("laminar_pgwire_connections").set(u32::try_from(count).unwrap_or(u32::MAX));
}

impl<F: SessionFactory> Server<F> {
    /// One accepted socket, to its end. `login` is held until the client is logged in.
    async fn connect(&self, stream: TcpStream, peer: SocketAddr, login: impl Send) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "could not set TCP_NODELAY");
        }
        let opened = tokio::time::timeout(LOGIN_TIMEOUT, open(stream, self.tls.as_ref())).await;
        let (socket, encrypted, startup) = match opened {
            Ok(Ok(Opening::Session {
                socket,
                encrypted,
                startup,
            })) => (socket, encrypted, startup),
            Ok(Ok(Opening::Cancel { pid, key })) => return self.backends.cancel_request(pid, &key),
            Ok(Ok(Opening::Nothing) | Err(_)) | Err(_) => return,
        };
        let _counted = self.count_connection();
        let (read, write) = tokio::io::split(socket);
        let mut frames = FrameReader::new(read);
        let mut replies = ReplyWriter::new(write);
        let log_in = self.log_in(&startup, peer, encrypted, &mut frames, &mut replies);
        match tokio::time::timeout(LOGIN_TIMEOUT, log_in).await {
            Ok(Ok((session, backend))) => {
                drop(login);
                let connection = Connection::new(session, replies, backend, self.statement_bytes_max);
                Box::pin(connection.run(frames)).await;
            }
            Ok(Err(error)) => {
                debug!(%peer, %error, "a login failed");
                metrics::counter!("laminar_pgwire_logins_failed_total", "sqlstate" => error.code().as_str())
                    .increment(1);
                if replies.error(Severity::Fatal, &error.report()).is_ok() {
                    let _ = tokio::time::timeout(LOGIN_TIMEOUT, replies.close()).await;
                }
            }
            Err(_) => debug!(%peer, "a login took too long"),
        }
    }

    fn count_connection(&self) -> ConnectionCount<'_> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        publish_connections(before + 1);
        ConnectionCount(&self.connections)
    }

    async fn log_in(
        &self,
        startup: &Startup,
        peer: SocketAddr,
        encrypted: bool,
        frames: &mut FrameReader<tokio::io::ReadHalf<BoxedSocket>>,
        replies: &mut Replies,
    ) -> Result<(F::Session, Backend), Error> {
        let identity = startup.identity()?;
        if self.shutdown.is_cancelled() {
            return Err(Error::fatal(
                SqlState::CANNOT_CONNECT_NOW,
                "the database system is shutting down",
            ));
        }
        if self.connections.load(Ordering::Relaxed) > self.connections_max {
            let report = ErrorReport::new(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already")
                .with_hint(format!("The limit is {}; use a connection pool.", self.connections_max));
            return Err(Error::Fatal(report));
        }
        self.authenticate(&identity.user, peer.ip(), encrypted, frames, replies)
            .await?;
        let backend = self
            .backends
            .register(startup.protocol.cancel_key_bytes(), &self.shutdown);
        let login = Login {
            user: identity.user,
            database: identity.database,
            settings: identity.settings,
            backend_pid: backend.pid(),
            peer,
            encrypted,
        };
        let session = self.sessions.open(&login).await.map_err(Error::Fatal)?;
        replies.put(&Authentication::Ok)?;
        for (name, value) in session.reported_settings() {
            replies.setting(name, value)?;
        }
        put_backend_key(replies, &backend)?;
        Ok((session, backend))
    }

    async fn authenticate(
        &self,
        role: &str,
        peer: IpAddr,
        encrypted: bool,
        frames: &mut FrameReader<tokio::io::ReadHalf<BoxedSocket>>,
        replies: &mut Replies,
    ) -> Result<(), Error> {
        if self.authenticator.trusts(peer) {
            return Ok(());
        }
        let verifier = self.sessions.scram_verifier(role);
        self.authenticator
            .scram(frames, replies, role, peer, encrypted, verifier)
            .await
    }
}

/// BackendKeyData with a key of any length, which is new in protocol 3.2.
fn put_backend_key(replies: &mut Replies, backend: &Backend) -> Result<(), Error> {
    use bytes::BufMut;
    let out = replies.buffer();
    let length = i32::try_from(backend.secret().len() + 8).map_err(|_| Error::internal("a cancel key is too long"))?;
    out.put_u8(b'K');
    out.put_i32(length);
    out.put_i32(backend.pid());
    out.put_slice(backend.secret());
    Ok(())
}

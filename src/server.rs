//! The one place that constructs components and wires them: stores, shards, coordinator, listeners.
//!
//! Order at start: data directory and metadata store (which tells whether another server has them), checkpoint storage,
//! shards, coordinator, listeners; pipelines that shall run are being restored while clients can already connect. The line
//! `ready in N ms` says that both listeners accept.
//!
//! Order at the end (SIGTERM, Ctrl-C): no new statements, a last checkpoint of every pipeline, then the threads.
//! Guarantee: a kill at any moment loses nothing that this order would have kept; the order only saves the restart work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::catalog::memory::MemoryStore;
use crate::catalog::secrets::SecretBox;
use crate::catalog::store::CatalogStore;
use crate::catalog::{Catalog, postgres, sqlite};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Config, MetadataAddress};
use crate::engine::coordinator::settings::PipelineSettings;
use crate::engine::coordinator::{Coordinator, CoordinatorParts};
use crate::engine::dead_letters::DeadLetters;
use crate::engine::internal_tables::InternalTables;
use crate::engine::results::Results;
use crate::engine::worker::Worker;
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::compiler::SqlPipelineCompiler;
use crate::frontend::context::ServerContext;
use crate::frontend::pgwire::auth::build_verifier;
use crate::frontend::pgwire::cancel::Backends;
use crate::frontend::pgwire::listener::{PgConfig, PgListener};
use crate::frontend::pgwire_sessions::PgSessions;
use crate::frontend::rest::listener::{RestConfig, RestListener};
use crate::frontend::rest::server_backend::ServerBackend;
use crate::frontend::session::{Session, SessionStart};
use crate::frontend::sql;
use crate::frontend::statements::insert;
use crate::metrics;
use crate::state::storage::CheckpointStorage;

/// What exists once the server runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objects {
    AsStored,
    /// The demo's objects are created when they are not there.
    Demo,
}

/// The one role that may log in.
const ROLE: &str = "laminar";

/// The demo's statements.
const DEMO: &str = include_str!("demo.sql");

/// Threads for brokers, object stores and clients: they wait most of the time.
const IO_THREADS: usize = 2;

/// How long blocking work on the I/O threads may outlast the server.
const LAST_QUESTIONS: Duration = Duration::from_millis(500);

/// Runs until a signal ends it.
pub fn run(config: Config, objects: Objects) -> Result<(), ErrorReport> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(IO_THREADS)
        .thread_name("laminar-io")
        .enable_all()
        .build()
        .map_err(|error| {
            ErrorReport::new(
                SqlState::SYSTEM_ERROR,
                format!("could not start the I/O threads: {error}"),
            )
        })?;
    let outcome = runtime.block_on(async {
        let server = Server::start(config, started).await?;
        if objects == Objects::Demo {
            server.create_demo().await?;
        }
        wait_for_end().await;
        server.stop().await;
        Ok(())
    });
    // What still asks a system outside that does not answer is not waited for: what it does counts for nothing any more.
    runtime.shutdown_timeout(LAST_QUESTIONS);
    outcome
}

struct Server {
    context: Arc<ServerContext>,
    worker: Arc<Worker>,
    sql_address: std::net::SocketAddr,
    shutdown: CancellationToken,
    listeners: Vec<tokio::task::JoinHandle<()>>,
}

impl Server {
    async fn start(config: Config, started: Instant) -> Result<Server, ErrorReport> {
        for warning in &config.warnings {
            warn!("{warning}");
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        std::fs::create_dir_all(&config.data_dir).map_err(|error| data_dir_error(&config, &error))?;
        let catalog = open_catalog(&config, Arc::clone(&clock)).await?;
        let storage = CheckpointStorage::open(&config.checkpoint_url, &config::object_store_variables())
            .map_err(|error| error.report())?;
        let worker = Arc::new(start_worker(config.shards)?);
        let results = Results::default();
        let tables = InternalTables::default();
        let coordinator = Coordinator::new(CoordinatorParts {
            catalog: catalog.clone(),
            storage,
            compiler: Arc::new(SqlPipelineCompiler::new(config::environment(), tables.clone())),
            results: results.clone(),
            worker: Arc::clone(&worker),
            dead_letters: DeadLetters::default(),
            clock: Arc::clone(&clock),
            runtime: tokio::runtime::Handle::current(),
            defaults: PipelineSettings {
                checkpoint_interval: config.checkpoint_interval,
                barrier_interval: config.barrier_interval,
                ..PipelineSettings::default()
            },
            memory_limit: config.memory_limit.bytes(machine_memory()),
        });
        let context = Arc::new(ServerContext::new(
            catalog,
            coordinator,
            results,
            tables,
            clock,
            config::environment(),
        ));
        insert::remove_abandoned(&context).await;
        let shutdown = CancellationToken::new();
        let backend = Arc::new(ServerBackend::new(Arc::clone(&context)));
        let (sql_address, listeners) = listen(&config, &context, &backend, &shutdown).await?;
        backend.jobs_resumed();
        info!("ready in {} ms", started.elapsed().as_millis());
        Ok(Server {
            context,
            worker,
            sql_address,
            shutdown,
            listeners,
        })
    }

    /// Creates what the demo shows, and says how to look at it.
    async fn create_demo(&self) -> Result<(), ErrorReport> {
        let start = SessionStart {
            user: ROLE.to_owned(),
            database: self.context.database.clone(),
            settings: Vec::new(),
            backend_pid: 0,
            client_address: String::new(),
        };
        let mut session = Session::new(Arc::clone(&self.context), start)?;
        for statement in sql::parse(DEMO)? {
            session.run(&statement, &[]).await?;
        }
        let line = format!(
            "\nThe demo runs: auctions and bids, ten thousand events a second. Paste one of these:\n\n    \
             psql postgresql://laminar@{address}/laminar -c \"COPY (SUBSCRIBE TO channels) TO STDOUT\"\n    \
             psql postgresql://laminar@{address}/laminar -c \"SELECT auction, window.start, bids, highest FROM bids_per_auction ORDER BY window.start DESC, bids DESC LIMIT 10\"\n\n",
            address = self.sql_address
        );
        std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes()).map_err(|error| {
            ErrorReport::new(
                SqlState::IO_ERROR,
                format!("could not write to standard error: {error}"),
            )
        })
    }

    async fn stop(self) {
        info!("stopping: a last checkpoint of every pipeline");
        self.context.coordinator.shutdown().await;
        self.shutdown.cancel();
        for listener in self.listeners {
            // A listener that panicked has been reported already.
            let _ = listener.await;
        }
        self.worker.shutdown();
        info!("stopped");
    }
}

async fn open_catalog(config: &Config, clock: Arc<dyn Clock>) -> Result<Catalog, ErrorReport> {
    let store: Arc<dyn CatalogStore> = match &config.metadata {
        MetadataAddress::Sqlite(path) => sqlite::open(path).await?,
        MetadataAddress::Postgres(url) => postgres::open(url.reveal())?,
        MetadataAddress::Memory => Arc::new(MemoryStore::new()),
    };
    let secrets = match &config.secret_key {
        Some(key) => SecretBox::from_text(key.reveal())?,
        None => SecretBox::open_or_create(&config.data_dir.join("secret.key"))?,
    };
    Ok(Catalog::open(store, secrets, clock).await?)
}

fn data_dir_error(config: &Config, error: &std::io::Error) -> ErrorReport {
    let message = format!(
        "could not create the data directory \"{}\": {error}",
        config.data_dir.display()
    );
    ErrorReport::new(SqlState::IO_ERROR, message).with_hint("Name another one with --data-dir.")
}

/// Bytes; the container's where there is one.
fn machine_memory() -> Option<u64> {
    let memory = sysinfo::MemoryRefreshKind::nothing().with_ram();
    let system = sysinfo::System::new_with_specifics(sysinfo::RefreshKind::nothing().with_memory(memory)).ok()?;
    let of_machine = system.total_memory();
    let of_container = system.cgroup_limits().map_or(of_machine, |limits| limits.total_memory);
    Some(of_machine.min(of_container)).filter(|bytes| *bytes > 0)
}

fn start_worker(shards: Option<usize>) -> Result<Worker, ErrorReport> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Worker::start(shards.unwrap_or(cores), true)
        .map_err(|error| ErrorReport::new(SqlState::SYSTEM_ERROR, format!("could not start the shards: {error}")))
}

/// Binds both listeners before either is said to be ready, and sets pipelines going before either serves.
async fn listen(
    config: &Config,
    context: &Arc<ServerContext>,
    backend: &Arc<ServerBackend>,
    shutdown: &CancellationToken,
) -> Result<(std::net::SocketAddr, Vec<tokio::task::JoinHandle<()>>), ErrorReport> {
    let backends = Arc::new(Backends::default());
    let sql_config = PgConfig {
        tls: config.tls.clone(),
        connections_max: config.connections_max,
        statement_bytes_max: config.statement_bytes_max,
        ..PgConfig::at(config.sql_listen)
    };
    let sql_listener = PgListener::bind(sql_config, backends).await?;
    let http_config = RestConfig {
        tls: config.tls.clone(),
        token: config.password.as_ref().map(|password| password.reveal().to_owned()),
        ..RestConfig::at(config.http_listen)
    };
    let http_listener = RestListener::bind(http_config).await?;
    let sql_address = sql_listener.local_address();
    info!("listening for SQL on {sql_address}");
    info!("listening for HTTP on {}", http_listener.local_address());
    // The password itself is not kept, only what checks it.
    let verifier = config
        .password
        .as_ref()
        .map(|password| (ROLE.to_owned(), build_verifier(password.reveal())));
    let sessions = Arc::new(PgSessions::new(Arc::clone(context), verifier));
    let metrics = metrics::install()?;
    // Before the first statement, which must find the pipelines that shall run; after the ports are ours, since a server that
    // cannot have them must not take pipelines from another.
    context.coordinator.resume_all().await;
    let listeners = vec![
        crate::spawn::named("sql listener", sql_listener.serve(sessions, shutdown.clone())),
        crate::spawn::named(
            "http listener",
            http_listener.serve(Arc::clone(backend), metrics, shutdown.clone()),
        ),
    ];
    Ok((sql_address, listeners))
}

/// Until SIGTERM or Ctrl-C.
async fn wait_for_end() {
    let interrupted = tokio::signal::ctrl_c();
    let mut terminated = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(stream) => stream,
        Err(error) => {
            warn!(error = %error, "SIGTERM ends the server without a last checkpoint");
            let _ = interrupted.await;
            return;
        }
    };
    tokio::select! {
        _ = interrupted => {}
        _ = terminated.recv() => {}
    }
}

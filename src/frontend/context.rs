//! What every session works with: handles of all parts, and who is connected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::engine::coordinator::Coordinator;
use crate::engine::internal_tables::InternalTables;
use crate::engine::results::Results;
use crate::planner::settings::Environment;

/// One for the whole server.
pub struct ServerContext {
    pub catalog: Catalog,
    pub coordinator: Coordinator,
    pub results: Results,
    pub tables: InternalTables,
    pub clock: Arc<dyn Clock>,
    pub environment: Environment,
    pub sessions: SessionRegistry,
    /// The one database that clients connect to.
    pub database: String,
}

impl ServerContext {
    pub fn new(
        catalog: Catalog,
        coordinator: Coordinator,
        results: Results,
        tables: InternalTables,
        clock: Arc<dyn Clock>,
        environment: Environment,
    ) -> ServerContext {
        ServerContext {
            catalog,
            coordinator,
            results,
            tables,
            clock,
            environment,
            sessions: SessionRegistry::default(),
            database: "laminar".to_owned(),
        }
    }
}

/// A session as SHOW SESSIONS lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionInfo {
    pub backend_pid: i32,
    pub user: String,
    pub database: String,
    pub client_address: String,
    pub application_name: String,
    pub connected_at_micros: i64,
    /// `active`, `idle`, `idle in transaction`, `idle in transaction (aborted)`.
    pub state: &'static str,
    /// The statement that runs or ran last.
    pub statement: String,
    pub statement_started_at_micros: Option<i64>,
}

/// Who is connected. Cancel keys are the protocol's.
#[derive(Default)]
pub struct SessionRegistry {
    sessions: Mutex<BTreeMap<u64, SessionInfo>>,
    last: std::sync::atomic::AtomicU64,
}

impl SessionRegistry {
    fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, SessionInfo>> {
        // A panic elsewhere cannot leave the map half changed.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a session; [`SessionRegistry::leave`] with the answer ends it.
    pub fn enter(&self, info: SessionInfo) -> u64 {
        let number = self.last.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
        self.sessions().insert(number, info);
        number
    }

    pub fn leave(&self, number: u64) {
        self.sessions().remove(&number);
    }

    pub fn update(&self, number: u64, change: impl FnOnce(&mut SessionInfo)) {
        if let Some(info) = self.sessions().get_mut(&number) {
            change(info);
        }
    }

    /// In the order they connected.
    pub fn list(&self) -> Vec<SessionInfo> {
        self.sessions().values().cloned().collect()
    }
}

//! What a plan depends on besides the text and the catalog: the session's and the server's settings.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::planner::rewrites::switches::DisabledRewrites;

/// Reads an environment variable of the server, for `{{ VAR }}` in options.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

#[derive(Clone)]
pub struct Settings {
    /// Subtasks of every operator that can have more than one.
    pub parallelism: u32,
    /// Schemas in which unqualified names are looked up, in order.
    pub search_path: Vec<String>,
    pub time_zone: String,
    pub environment: Environment,
    /// Groups of an updating aggregate, and rows of a join, untouched for this long are forgotten; `None` = kept for ever.
    pub updating_ttl_ms: Option<u64>,
    /// For so long after its end a window takes late rows and is emitted again.
    pub allowed_lateness_ms: u64,
    pub disabled_rewrites: DisabledRewrites,
    pub session: SessionFacts,
}

/// What functions such as `current_user` and `current_setting` answer.
#[derive(Clone, Debug)]
pub struct SessionFacts {
    pub user: String,
    pub database: String,
    pub backend_pid: i32,
    /// As `version()` shows it.
    pub version: String,
    /// Settings by lower-case name, as SHOW prints them.
    pub parameters: BTreeMap<String, String>,
}

impl Default for SessionFacts {
    fn default() -> SessionFacts {
        SessionFacts {
            user: "laminar".into(),
            database: "laminar".into(),
            backend_pid: 0,
            version: format!("PostgreSQL 16.4 (Laminar {})", env!("CARGO_PKG_VERSION")),
            parameters: BTreeMap::new(),
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            parallelism: 1,
            search_path: vec!["public".into()],
            time_zone: "UTC".into(),
            environment: Arc::new(|_| None),
            updating_ttl_ms: None,
            allowed_lateness_ms: 0,
            disabled_rewrites: DisabledRewrites::new(),
            session: SessionFacts::default(),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("parallelism", &self.parallelism)
            .field("search_path", &self.search_path)
            .field("time_zone", &self.time_zone)
            .field("updating_ttl_ms", &self.updating_ttl_ms)
            .field("allowed_lateness_ms", &self.allowed_lateness_ms)
            .field("disabled_rewrites", &self.disabled_rewrites)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}

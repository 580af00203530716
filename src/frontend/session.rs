//! A conversation with one client: its settings, its transaction, its prepared statements and cursors.
//!
//! Knows no protocol. A statement's future may be dropped at any await (the client cancelled or left): what must not be left
//! half done runs in a task of its own, see [`uninterrupted`].

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::catalog::change::{Applied, Change};
use crate::catalog::objects::{Object, ObjectKind, Pipeline};
use crate::catalog::snapshot::{CatalogSnapshot, QualifiedName};
use crate::engine::coordinator::StartRequest;
use crate::engine::coordinator::forget::Leftover;
use crate::engine::coordinator::kept_table::keeper;
use crate::error::{ErrorReport, SqlState};
use crate::frontend::context::{ServerContext, SessionInfo};
use crate::frontend::error::{Error, Result};
use crate::frontend::notice::{Notice, Severity};
use crate::frontend::parameter::Parameter;
use crate::frontend::response::{CopyIn, Description, Response};
use crate::frontend::settings::{SessionSettings, values};
use crate::frontend::sql::statement::{ParsedStatement, SetScope, Statement, Transaction};
use crate::frontend::statements::{self, cursors::Cursors};
use crate::frontend::transaction::{TransactionBlock, TransactionStatus};
use crate::ids::{JobId, Oid};
use crate::planner::rewrites::switches::DisabledRewrites;
use crate::planner::settings::{Environment, SessionFacts, Settings};
use crate::types::SqlType;

/// Who connected, and what was asked for at once.
#[derive(Clone, Debug)]
pub struct SessionStart {
    pub user: String,
    pub database: String,
    pub settings: Vec<(String, String)>,
    pub backend_pid: i32,
    /// For SHOW SESSIONS; empty when there is none.
    pub client_address: String,
}

pub struct Session {
    pub(crate) server: Arc<ServerContext>,
    pub(crate) user: String,
    pub(crate) database: String,
    backend_pid: i32,
    pub(crate) settings: SessionSettings,
    pub(crate) transaction: TransactionBlock,
    pub(crate) prepared: HashMap<String, Arc<PreparedStatement>>,
    pub(crate) cursors: Cursors,
    notices: Vec<Notice>,
    number: u64,
}

/// A statement of PREPARE.
#[derive(Clone, Debug)]
pub struct PreparedStatement {
    pub statement: ParsedStatement,
    pub parameter_types: Vec<SqlType>,
}

/// What became of catalog changes.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub applied: Applied,
    /// Pipelines that were started, with their jobs.
    pub started: Vec<(Oid, JobId)>,
}

impl Session {
    pub fn new(server: Arc<ServerContext>, start: SessionStart) -> Result<Session, ErrorReport> {
        if start.database != server.database {
            let message = format!("database \"{}\" does not exist", start.database);
            let hint = format!("There is one database: \"{}\".", server.database);
            return Err(ErrorReport::new(SqlState::INVALID_CATALOG_NAME, message).with_hint(hint));
        }
        let mut settings = SessionSettings::new(start.settings).map_err(ErrorReport::from)?;
        settings.log_in(&start.user);
        let number = server.sessions.enter(SessionInfo {
            backend_pid: start.backend_pid,
            user: start.user.clone(),
            database: start.database.clone(),
            client_address: start.client_address,
            application_name: settings.get("application_name"),
            connected_at_micros: server.clock.now_micros(),
            state: "idle",
            statement: String::new(),
            statement_started_at_micros: None,
        });
        Ok(Session {
            server,
            user: start.user,
            database: start.database,
            backend_pid: start.backend_pid,
            settings,
            transaction: TransactionBlock::default(),
            prepared: HashMap::new(),
            cursors: Cursors::default(),
            notices: Vec::new(),
            number,
        })
    }

    /// Runs one statement.
    pub async fn run(&mut self, parsed: &ParsedStatement, parameters: &[Parameter]) -> Result<Response, ErrorReport> {
        self.note_activity(Some(parsed));
        let result = match self.check_allowed(&parsed.statement) {
            Ok(()) => Box::pin(statements::execute(self, parsed, parameters)).await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            self.transaction.fail();
        }
        self.note_activity(None);
        result.map_err(ErrorReport::from)
    }

    /// Inserts the rows of a COPY .. FROM STDIN; their number.
    pub async fn insert_copied(&mut self, copy: &CopyIn, rows: RecordBatch) -> Result<u64, ErrorReport> {
        let result = Box::pin(statements::copy::insert(self, copy, rows)).await;
        if result.is_err() {
            self.transaction.fail();
        }
        result.map_err(ErrorReport::from)
    }

    /// Parameter types and result columns, without running anything.
    pub fn describe(&self, parsed: &ParsedStatement, declared: &[Option<SqlType>]) -> Result<Description, ErrorReport> {
        statements::describe::description(self, parsed, declared).map_err(ErrorReport::from)
    }

    /// An error reached the client from elsewhere, or a statement was cancelled: an open transaction is failed now.
    pub fn statement_failed(&mut self) {
        self.transaction.fail();
        self.note_activity(None);
    }

    pub fn transaction_status(&self) -> TransactionStatus {
        self.transaction.status
    }

    /// Notices since the last call, as far as `client_min_messages` lets them through.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        let least = Severity::least_shown(&self.settings.get("client_min_messages"));
        let mut notices = std::mem::take(&mut self.notices);
        notices.retain(|notice| least.is_some_and(|least| notice.severity >= least));
        notices
    }

    pub fn settings(&self) -> &SessionSettings {
        &self.settings
    }

    /// Settings whose value the client has to be told, where it changed since the last call or the beginning.
    pub fn parameter_changes(&mut self) -> Vec<(&'static str, String)> {
        self.settings.changes_to_tell()
    }

    /// `None`: no limit.
    pub fn statement_timeout(&self) -> Option<Duration> {
        self.settings
            .milliseconds("statement_timeout")
            .map(Duration::from_millis)
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn server(&self) -> &Arc<ServerContext> {
        &self.server
    }

    /// Sets a parameter as SET does; REST uses it.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ErrorReport> {
        self.settings
            .set(SetScope::Session, name, Some(value))
            .map_err(ErrorReport::from)
    }

    pub(crate) fn tell(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    fn check_allowed(&self, statement: &Statement) -> Result<()> {
        let ends_block = matches!(
            statement,
            Statement::Transaction(
                Transaction::Commit { .. } | Transaction::Rollback { .. } | Transaction::RollbackTo(_)
            )
        );
        if self.transaction.status == TransactionStatus::Failed && !ends_block {
            return Err(Error::FailedTransaction);
        }
        if self.is_read_only() && statements::changes_something(statement) {
            return Err(Error::user(
                SqlState::READ_ONLY_SQL_TRANSACTION,
                "cannot execute a statement that changes something in a read-only transaction",
            ));
        }
        Ok(())
    }

    fn is_read_only(&self) -> bool {
        match self.transaction.status {
            TransactionStatus::Idle => self.settings.is_on("default_transaction_read_only"),
            _ => self.transaction.read_only || self.settings.is_on("transaction_read_only"),
        }
    }

    pub(crate) fn in_block(&self) -> bool {
        self.transaction.status != TransactionStatus::Idle
    }

    /// Refuses what cannot be undone inside a transaction block.
    pub(crate) fn refuse_in_block(&self, command: &str) -> Result<()> {
        if !self.in_block() {
            return Ok(());
        }
        Err(Error::user_with_hint(
            SqlState::ACTIVE_SQL_TRANSACTION,
            format!("{command} cannot run inside a transaction block"),
            "COMMIT first.",
        ))
    }

    /// The catalog as this session sees it.
    pub(crate) fn snapshot(&self) -> Arc<CatalogSnapshot> {
        self.transaction
            .snapshot()
            .unwrap_or_else(|| self.server.catalog.snapshot())
    }

    pub(crate) fn search_path(&self) -> Vec<String> {
        values::search_path(&self.settings.get("search_path"), &self.user)
    }

    /// `name` with the schema where it is created: its own, else the first of the search path that exists.
    pub(crate) fn name_to_create(&self, name: &QualifiedName) -> Result<QualifiedName> {
        if name.schema.is_some() {
            return Ok(name.clone());
        }
        let snapshot = self.snapshot();
        let path = self.search_path();
        match path.into_iter().find(|schema| snapshot.schema_oid(schema).is_some()) {
            Some(schema) => Ok(QualifiedName::new(schema, name.name.clone())),
            None => Err(Error::user(
                SqlState::INVALID_SCHEMA_NAME,
                "no schema has been selected to create in",
            )),
        }
    }

    pub(crate) fn pipeline(&self, name: &QualifiedName) -> Result<Pipeline> {
        let snapshot = self.snapshot();
        match snapshot.require(ObjectKind::Pipeline, name, &self.search_path())? {
            Object::Pipeline(pipeline) => Ok(pipeline.clone()),
            other => Err(Error::Internal(format!(
                "{} under the name of a pipeline",
                other.kind().word()
            ))),
        }
    }

    pub(crate) fn planner_settings(&self) -> Settings {
        Settings {
            parallelism: self.settings.get("parallelism").parse().unwrap_or(1),
            search_path: self.search_path(),
            time_zone: self.settings.get("timezone"),
            environment: Environment::clone(&self.server.environment),
            updating_ttl_ms: self.settings.milliseconds("updating_ttl"),
            allowed_lateness_ms: 0,
            disabled_rewrites: DisabledRewrites::new(),
            session: SessionFacts {
                user: self.user.clone(),
                database: self.database.clone(),
                backend_pid: self.backend_pid,
                parameters: self.settings.by_name(),
                ..SessionFacts::default()
            },
        }
    }

    /// Applies catalog changes, now or at COMMIT, and tells of what was skipped.
    pub(crate) async fn apply(&mut self, changes: Vec<Change>) -> Result<Outcome> {
        let outcome = if self.in_block() {
            let current = self.server.catalog.snapshot();
            let applied = self.transaction.add(current, changes, self.server.clock.now_micros())?;
            Outcome {
                applied,
                ..Outcome::default()
            }
        } else {
            self.apply_now(changes).await?
        };
        for skipped in &outcome.applied.skipped {
            self.tell(Notice::new(
                Severity::Notice,
                SqlState::DUPLICATE_TABLE,
                skipped.clone(),
            ));
        }
        if let Some(report) = outcome.applied.cascade_notice() {
            self.tell(Notice {
                severity: Severity::Notice,
                report,
            });
        }
        Ok(outcome)
    }

    /// Applies catalog changes; then what was dropped is stopped and forgotten, and what was created is started.
    pub(crate) async fn apply_now(&mut self, changes: Vec<Change>) -> Result<Outcome> {
        let server = Arc::clone(&self.server);
        let (outcome, warnings) = uninterrupted("apply changes", apply_changes(server, changes)).await?;
        for warning in warnings {
            self.tell(warning);
        }
        Ok(outcome)
    }

    fn note_activity(&self, running: Option<&ParsedStatement>) {
        let state = match (running, self.transaction.status) {
            (Some(_), _) => "active",
            (None, TransactionStatus::Idle) => "idle",
            (None, TransactionStatus::InTransaction) => "idle in transaction",
            (None, TransactionStatus::Failed) => "idle in transaction (aborted)",
        };
        let now = self.server.clock.now_micros();
        let application_name = self.settings.get("application_name");
        self.server.sessions.update(self.number, |info| {
            info.state = state;
            info.application_name = application_name;
            if let Some(parsed) = running {
                info.statement = shown_statement(parsed);
                info.statement_started_at_micros = Some(now);
            }
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.sessions.leave(self.number);
    }
}

/// Secrets are not shown to other sessions.
fn shown_statement(parsed: &ParsedStatement) -> String {
    match &parsed.statement {
        Statement::CreateSecret(create) => format!("CREATE SECRET {}", create.name),
        Statement::Alter(alter) if alter.kind == ObjectKind::Secret => format!("ALTER SECRET {}", alter.name),
        _ => parsed.text.chars().take(1024).collect(),
    }
}

/// Runs `work` to its end even when the caller is dropped.
pub(crate) async fn uninterrupted<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match crate::spawn::named(name, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::Internal(format!("the task \"{name}\" ended without an answer"))),
    }
}

async fn apply_changes(server: Arc<ServerContext>, changes: Vec<Change>) -> Result<(Outcome, Vec<Notice>)> {
    let before = server.catalog.snapshot();
    let applied = server.catalog.apply(changes).await?;
    let mut warnings = forget_dropped(&server, &applied.dropped, &before).await;
    let snapshot = server.catalog.snapshot();
    let mut started = Vec::new();
    for oid in &applied.created {
        let pipeline = match snapshot.get(*oid) {
            Some(Object::Pipeline(pipeline)) => pipeline,
            Some(Object::Table(table)) => {
                // One that IF NOT EXISTS found runs already.
                server.coordinator.start_table(table)?;
                continue;
            }
            _ => continue,
        };
        if !pipeline.desired_running {
            continue;
        }
        match server
            .coordinator
            .start(StartRequest {
                pipeline: *oid,
                restart_from: None,
            })
            .await
        {
            Ok(job) => started.push((*oid, job)),
            Err(error) => {
                let message = format!(
                    "pipeline \"{}\" was created but could not be started",
                    pipeline.header.name
                );
                warnings.push(Notice::warning(SqlState::WARNING, message).with_detail(error.to_string()));
            }
        }
    }
    Ok((Outcome { applied, started }, warnings))
}

/// Stops what was dropped, and removes what it kept here and, when all of it has ended, outside.
async fn forget_dropped(
    server: &Arc<ServerContext>,
    all_dropped: &[Object],
    before: &Arc<CatalogSnapshot>,
) -> Vec<Notice> {
    let mut warnings = Vec::new();
    let mut pipelines = Vec::new();
    for dropped in all_dropped {
        server.results.remove(dropped.oid());
        server.tables.remove(dropped.oid());
        if let Object::Pipeline(pipeline) = dropped {
            pipelines.push(pipeline.clone());
        }
        let owner = match dropped {
            Object::Pipeline(pipeline) => Some(pipeline.clone()),
            Object::Table(table) => keeper(table),
            _ => None,
        };
        if let Some(owner) = owner
            && let Err(error) = server.coordinator.forget(&owner).await
        {
            let message = format!(
                "{} \"{}\" was dropped, but not all that it left could be removed",
                dropped.kind().word(),
                owner.header.name
            );
            warnings.push(Notice::warning(SqlState::WARNING, message).with_detail(error.to_string()));
        }
    }
    let leftovers = server.coordinator.forget_outside(&pipelines, before).await;
    warnings.extend(leftovers.into_iter().map(|leftover| left_behind(leftover, "dropped")));
    warnings
}

/// `became`: what happened to the pipeline.
pub(crate) fn left_behind(leftover: Leftover, became: &str) -> Notice {
    let message = format!(
        "pipeline \"{}\" was {became}, but {} could not be removed",
        leftover.pipeline, leftover.kept.what
    );
    Notice::warning(SqlState::WARNING, message)
        .with_detail(leftover.reason)
        .with_hint(leftover.kept.by_hand)
}

//! Sessions as the Postgres protocol asks for them.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;

use crate::error::ErrorReport;
use crate::frontend::context::ServerContext;
use crate::frontend::notice::Notice;
use crate::frontend::parameter::Parameter;
use crate::frontend::pgwire::encode::datetime::Zone;
use crate::frontend::pgwire::encode::{ByteaOutput, OutputStyle};
use crate::frontend::pgwire::sql_session::{Login, SessionFactory, SqlSession};
use crate::frontend::response::{CopyIn, Description, Response};
use crate::frontend::session::{Session, SessionStart};
use crate::frontend::sql;
use crate::frontend::sql::statement::ParsedStatement;
use crate::frontend::transaction::TransactionStatus;
use crate::types::SqlType;

/// Opens a session for each client of one server.
pub struct PgSessions {
    server: Arc<ServerContext>,
    /// The user with a password, and its SCRAM verifier.
    verifier: Option<(String, String)>,
}

impl PgSessions {
    pub fn new(server: Arc<ServerContext>, verifier: Option<(String, String)>) -> PgSessions {
        PgSessions { server, verifier }
    }
}

impl SessionFactory for PgSessions {
    type Session = Session;

    async fn open(&self, login: &Login) -> Result<Session, ErrorReport> {
        let start = SessionStart {
            user: login.user.clone(),
            database: login.database.clone(),
            settings: login.settings.clone(),
            backend_pid: login.backend_pid,
            client_address: login.peer.to_string(),
        };
        Session::new(Arc::clone(&self.server), start)
    }

    fn scram_verifier(&self, role: &str) -> Option<String> {
        self.verifier
            .as_ref()
            .filter(|(user, _)| user == role)
            .map(|(_, verifier)| verifier.clone())
    }
}

impl SqlSession for Session {
    type Statement = ParsedStatement;

    fn parse(&self, text: &str) -> Result<Vec<ParsedStatement>, ErrorReport> {
        sql::parse(text).map_err(ErrorReport::from)
    }

    async fn describe(
        &mut self,
        statement: &ParsedStatement,
        declared: &[Option<SqlType>],
    ) -> Result<Description, ErrorReport> {
        Session::describe(self, statement, declared)
    }

    async fn run(&mut self, statement: &ParsedStatement, parameters: &[Parameter]) -> Result<Response, ErrorReport> {
        Session::run(self, statement, parameters).await
    }

    async fn insert_copied(&mut self, copy: &CopyIn, rows: RecordBatch) -> Result<u64, ErrorReport> {
        Session::insert_copied(self, copy, rows).await
    }

    fn statement_failed(&mut self) {
        Session::statement_failed(self);
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        Session::take_notices(self)
    }

    fn transaction_status(&self) -> TransactionStatus {
        Session::transaction_status(self)
    }

    fn reported_settings(&self) -> Vec<(String, String)> {
        owned(self.settings().told())
    }

    fn changed_settings(&mut self) -> Vec<(String, String)> {
        owned(self.parameter_changes())
    }

    fn output_style(&self) -> OutputStyle {
        OutputStyle {
            // The setting was checked when it was set.
            time_zone: Zone::parse(&self.settings().get("timezone")).unwrap_or_default(),
            bytea: match self.settings().get("bytea_output").as_str() {
                "escape" => ByteaOutput::Escape,
                _ => ByteaOutput::Hex,
            },
        }
    }

    fn statement_timeout(&self) -> Option<Duration> {
        Session::statement_timeout(self)
    }
}

fn owned(settings: Vec<(&'static str, String)>) -> Vec<(String, String)> {
    settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

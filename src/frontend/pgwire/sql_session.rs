//! What this folder needs of a session. The wire knows bytes, portals and flow; what a statement means is behind this trait.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use arrow::array::RecordBatch;

use super::encode::OutputStyle;
use crate::error::ErrorReport;
use crate::frontend::notice::Notice;
use crate::frontend::parameter::Parameter;
use crate::frontend::response::{CopyIn, Description, Response};
use crate::frontend::transaction::TransactionStatus;
use crate::types::SqlType;

/// Opens sessions and knows the roles.
pub trait SessionFactory: Send + Sync + 'static {
    type Session: SqlSession;

    /// A session for a client that has proved who it is. Errors are FATAL to the client: 3D000 for an unknown database, 22023
    /// for a setting that does not exist.
    fn open(&self, login: &Login) -> impl Future<Output = Result<Self::Session, ErrorReport>> + Send;

    /// The stored SCRAM verifier of a role, as `auth::build_verifier` makes it; `None`: unknown role, or without a password.
    fn scram_verifier(&self, role: &str) -> Option<String>;
}

/// Who connected, and what the startup packet asked for.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub database: String,
    /// Settings of the startup packet, those of `options` first.
    pub settings: Vec<(String, String)>,
    /// What BackendKeyData says and `pg_backend_pid()` must give.
    pub backend_pid: i32,
    pub peer: SocketAddr,
    pub encrypted: bool,
}

/// A conversation: runs one statement at a time.
pub trait SqlSession: Send + 'static {
    type Statement: Clone + Send + Sync + 'static;

    /// All statements of a text, or the first syntax error, its position counted in the whole text.
    fn parse(&self, text: &str) -> Result<Vec<Self::Statement>, ErrorReport>;

    /// Parameter types and result columns, without running anything. `declared` has the client's types of the first
    /// parameters, `None` where it leaves them to us.
    fn describe(
        &mut self,
        statement: &Self::Statement,
        declared: &[Option<SqlType>],
    ) -> impl Future<Output = Result<Description, ErrorReport>> + Send;

    /// Runs a statement. The future is dropped when the client cancels or goes away: what must not be left half done has to
    /// run in a task of its own.
    fn run(
        &mut self,
        statement: &Self::Statement,
        parameters: &[Parameter],
    ) -> impl Future<Output = Result<Response, ErrorReport>> + Send;

    /// Inserts what the client sent after [`Response::CopyIn`]; the number of rows.
    fn insert_copied(
        &mut self,
        copy: &CopyIn,
        rows: RecordBatch,
    ) -> impl Future<Output = Result<u64, ErrorReport>> + Send;

    /// An error was sent to the client, from wherever: an open transaction is failed now.
    fn statement_failed(&mut self);

    /// Notices since the last call.
    fn take_notices(&mut self) -> Vec<Notice>;

    fn transaction_status(&self) -> TransactionStatus;

    /// The settings that clients follow (ParameterStatus), with their values.
    fn reported_settings(&self) -> Vec<(String, String)>;

    /// Those that changed since the last call, or since the session began.
    fn changed_settings(&mut self) -> Vec<(String, String)>;

    fn output_style(&self) -> OutputStyle;

    /// `statement_timeout`; also covers sending the rows.
    fn statement_timeout(&self) -> Option<Duration> {
        None
    }
}

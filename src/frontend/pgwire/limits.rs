//! Every limit of the Postgres listener: its name, its default, what a client is told. One place, so that the manual can
//! list them.

use std::time::Duration;

/// The first packet, as in Postgres; longer: the connection is closed before anything is allocated.
pub const STARTUP_BYTES_MAX: usize = 10_000;

/// A message before login is complete; longer: 08P01, closed.
pub const LOGIN_FRAME_BYTES_MAX: usize = 16 * 1024;

/// A message of a logged-in client; longer: it is skipped, answered with 54000, and the session goes on.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A text of statements; longer: 54000.
pub const STATEMENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Received messages that wait for the session, in bytes; then the client has to wait.
pub const QUEUED_BYTES_MAX: usize = 1024 * 1024;

/// Received messages that wait for the session.
pub const QUEUED_MESSAGES_MAX: usize = 1024;

/// From connecting to being logged in; longer: closed.
pub const LOGIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Sessions at a time; more: 53300.
pub const CONNECTIONS_MAX: usize = 1000;

/// Sockets that are not logged in yet; more have to wait to be accepted.
pub const LOGINS_MAX: usize = 64;

/// Prepared statements of a session; more: 54000.
pub const PREPARED_STATEMENTS_MAX: usize = 1000;

/// Columns of a result, as in Postgres.
pub const COLUMNS_MAX: usize = 1664;

/// Replies are sent when they have this size, or when there is nothing to add at the moment.
pub const FLUSH_BYTES: usize = 64 * 1024;

/// How long running sessions may take to end at a shutdown.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// The data of one COPY FROM STDIN, which is kept until it is inserted as a whole.
pub const COPY_BYTES_MAX: usize = 256 << 20;

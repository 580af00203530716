//! One logged-in client: a task that reads its messages and one that answers them.
//!
//!     socket --reader--> queue (bounded in bytes) --> serve: simple, extended --> reply buffer --> socket
//!
//! The reader goes on while a statement runs, so a client that goes away or says goodbye is noticed at once. `serve` is
//! the only one that writes and the only one that touches the session, so replies are in the order of messages.
//!
//! Guarantee: a statement that panics ends its connection with XX000 and nothing else.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::cancel::Backend;
use super::error::{Error, Severity};
use super::extended::{Portal, Prepared};
use super::limits::{COPY_BYTES_MAX, FRAME_BYTES_MAX, QUEUED_BYTES_MAX, QUEUED_MESSAGES_MAX};
use super::message::{Frame, FrameReader, FrontendMessage, decode};
use super::reply::ReplyWriter;
use super::rows::{Interrupts, StatementInterrupts, terminated};
use super::sql_session::SqlSession;
use super::startup::BoxedSocket;
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::transaction::TransactionStatus;

pub type Replies = ReplyWriter<WriteHalf<BoxedSocket>>;

/// What a client said, or what is wrong with it.
pub struct Incoming {
    kind: u8,
    message: Result<FrontendMessage, Error>,
    /// Gives the bytes back to the queue when the message is done.
    _queued: OwnedSemaphorePermit,
}

pub struct Connection<S: SqlSession> {
    pub(super) session: S,
    pub(super) replies: Replies,
    pub(super) backend: Backend,
    pub(super) interrupts: Interrupts,
    pub(super) statements: HashMap<String, Prepared<S::Statement>>,
    pub(super) portals: HashMap<String, Portal<S::Statement>>,
    /// After an error in the extended protocol, until Sync.
    skip_to_sync: bool,
    statement_bytes_max: usize,
    /// What the client has said and nobody has looked at; `None` before and after serving.
    incoming: Option<mpsc::Receiver<Incoming>>,
}

impl<S: SqlSession> Connection<S> {
    pub fn new(session: S, replies: Replies, backend: Backend, statement_bytes_max: usize) -> Connection<S> {
        let interrupts = Interrupts {
            gone: CancellationToken::new(),
            farewell: CancellationToken::new(),
            terminate: backend.terminate().clone(),
        };
        Connection {
            session,
            replies,
            backend,
            interrupts,
            statements: HashMap::new(),
            portals: HashMap::new(),
            skip_to_sync: false,
            statement_bytes_max,
            incoming: None,
        }
    }

    /// Serves the client to the end of the connection.
    pub async fn run(mut self, frames: FrameReader<ReadHalf<BoxedSocket>>) {
        let (sender, receiver) = mpsc::channel(QUEUED_MESSAGES_MAX);
        let reader = crate::spawn::named("pgwire reader", read_messages(frames, sender, self.interrupts.clone()));
        self.incoming = Some(receiver);
        let served = AssertUnwindSafe(self.serve()).catch_unwind().await;
        self.incoming = None;
        let end = served.unwrap_or_else(|_| {
            metrics::counter!("laminar_panics_total", "component" => "pgwire").increment(1);
            error!(
                pid = self.backend.pid(),
                "a statement panicked; its connection is closed"
            );
            Err(Error::fatal(
                SqlState::INTERNAL_ERROR,
                "the server has a bug: the statement panicked",
            ))
        });
        if let Err(error) = end {
            debug!(pid = self.backend.pid(), %error, "connection ended");
            if !matches!(error, Error::Disconnected) && self.replies.error(Severity::Fatal, &error.report()).is_ok() {
                count_error(&error);
            }
        }
        tokio::select! {
            () = self.replies.close() => {}
            () = self.interrupts.gone.cancelled() => {}
            () = tokio::time::sleep(super::limits::SHUTDOWN_GRACE) => {}
        }
        reader.abort();
    }

    /// `Ok`: the client said goodbye.
    async fn serve(&mut self) -> Result<(), Error> {
        self.ready().await?;
        loop {
            let next = self.next_message().await?;
            if matches!(next.message, Ok(FrontendMessage::Terminate)) {
                return Ok(());
            }
            if self.skip_to_sync && !matches!(next.message, Ok(FrontendMessage::Sync)) {
                continue;
            }
            let kind = next.kind;
            match self.answer(next.message).await {
                Ok(()) => {}
                Err(error @ (Error::Disconnected | Error::Fatal(_))) => return Err(error),
                Err(error) => self.recover(kind, &error).await?,
            }
        }
    }

    async fn next_message(&mut self) -> Result<Incoming, Error> {
        let Some(incoming) = &mut self.incoming else {
            return Err(Error::Disconnected);
        };
        tokio::select! {
            biased;
            () = self.interrupts.terminate.cancelled() => Err(terminated()),
            next = incoming.recv() => next.ok_or(Error::Disconnected),
        }
    }

    /// Everything that the client copies in, up to its end.
    pub(super) async fn copied_data(&mut self, interrupts: &StatementInterrupts<'_>) -> Result<Vec<u8>, Error> {
        let mut data = Vec::new();
        loop {
            let next = tokio::select! {
                biased;
                error = interrupts.raised() => return Err(error),
                next = self.next_message() => next?,
            };
            match next.message? {
                FrontendMessage::CopyData(piece) if data.len() + piece.len() > COPY_BYTES_MAX => {
                    return Err(Error::Limit {
                        message: format!("the data of a COPY is longer than {COPY_BYTES_MAX} bytes"),
                        hint: "Load it with several COPY statements.",
                    });
                }
                FrontendMessage::CopyData(piece) => data.extend_from_slice(&piece),
                FrontendMessage::CopyDone => return Ok(data),
                FrontendMessage::CopyFail(reason) => {
                    let message = format!("COPY from stdin failed: {reason}");
                    return Err(Error::Statement(ErrorReport::new(SqlState::QUERY_CANCELED, message)));
                }
                FrontendMessage::Flush | FrontendMessage::Sync => {}
                FrontendMessage::Terminate => return Err(Error::Disconnected),
                _ => {
                    return Err(Error::protocol(format!(
                        "unexpected message type 0x{:02X} during COPY from stdin",
                        next.kind
                    )));
                }
            }
        }
    }

    async fn answer(&mut self, message: Result<FrontendMessage, Error>) -> Result<(), Error> {
        match message? {
            FrontendMessage::Query(text) => self.simple_query(&text).await,
            FrontendMessage::Parse(parse) => self.parse(parse).await,
            FrontendMessage::Bind(bind) => self.bind(bind),
            FrontendMessage::Describe(target) => self.describe(&target),
            FrontendMessage::Execute { portal, rows_max } => self.execute(portal, rows_max).await,
            FrontendMessage::Close(target) => {
                self.close(&target);
                Ok(())
            }
            FrontendMessage::Flush => self.flush().await,
            FrontendMessage::Sync => self.sync().await,
            FrontendMessage::FunctionCall => Err(Error::Unsupported {
                what: "the function call message".into(),
                hint: "Call the function with SELECT.".into(),
            }),
            // Sent after COPY FROM STDIN was refused or failed: Postgres ignores them, too.
            FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => Ok(()),
            FrontendMessage::Terminate => Ok(()),
            FrontendMessage::Password => Err(unexpected(b'p')),
            FrontendMessage::Unknown(kind) => Err(unexpected(kind)),
        }
    }

    /// Tells an error and finds the way back to the next statement: at once after a simple message, at the next Sync after an
    /// extended one.
    async fn recover(&mut self, kind: u8, error: &Error) -> Result<(), Error> {
        self.tell_error(error)?;
        match kind {
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' => {
                self.skip_to_sync = true;
                Ok(())
            }
            b'S' => self.sync().await,
            _ => self.ready().await,
        }
    }

    pub(super) fn tell_error(&mut self, error: &Error) -> Result<(), Error> {
        count_error(error);
        self.session.statement_failed();
        self.send_notices()?;
        self.replies.error(Severity::Error, &error.report())
    }

    pub(super) fn send_notices(&mut self) -> Result<(), Error> {
        for notice in self.session.take_notices() {
            self.replies.notice(&notice)?;
        }
        Ok(())
    }

    /// The statements of a text that is not too long.
    pub(super) fn statements_of(&self, text: &str) -> Result<Vec<S::Statement>, Error> {
        if text.len() > self.statement_bytes_max {
            return Err(Error::Limit {
                message: format!(
                    "a text of {} bytes is too long: the limit is {}",
                    text.len(),
                    self.statement_bytes_max
                ),
                hint: "Send less at a time, or raise the setting statement_bytes_max.",
            });
        }
        Ok(self.session.parse(text)?)
    }

    /// ReadyForQuery, after the settings that changed.
    pub(super) async fn ready(&mut self) -> Result<(), Error> {
        for (name, value) in self.session.changed_settings() {
            self.replies.setting(name, value)?;
        }
        let status = self.session.transaction_status();
        self.replies.ready(status)?;
        self.flush().await
    }

    async fn sync(&mut self) -> Result<(), Error> {
        self.skip_to_sync = false;
        if self.session.transaction_status() == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.ready().await
    }

    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        tokio::select! {
            biased;
            () = self.interrupts.gone.cancelled() => Err(Error::Disconnected),
            flushed = self.replies.flush() => flushed,
        }
    }
}

fn unexpected(kind: u8) -> Error {
    Error::fatal(
        SqlState::PROTOCOL_VIOLATION,
        format!("invalid frontend message type {kind}"),
    )
}

fn count_error(error: &Error) {
    metrics::counter!("laminar_pgwire_errors_total", "sqlstate" => error.code().as_str()).increment(1);
}

/// Reads until the client is gone or says goodbye.
async fn read_messages(
    mut frames: FrameReader<ReadHalf<BoxedSocket>>,
    sender: mpsc::Sender<Incoming>,
    interrupts: Interrupts,
) {
    let queue = Arc::new(Semaphore::new(QUEUED_BYTES_MAX));
    loop {
        let frame = match frames.next(FRAME_BYTES_MAX).await {
            Ok(frame) => frame,
            Err(_) => Frame::Closed,
        };
        let (kind, bytes, message) = match frame {
            Frame::Closed => {
                interrupts.gone.cancel();
                return;
            }
            Frame::Whole { kind, body } => (kind, body.len(), decode(kind, body)),
            Frame::TooLong { kind, bytes } => (kind, 0, Err(too_long(bytes))),
            Frame::Broken => {
                let error = Error::fatal(SqlState::PROTOCOL_VIOLATION, "invalid message length");
                (0, 0, Err(error))
            }
        };
        let is_last = matches!(message, Ok(FrontendMessage::Terminate) | Err(Error::Fatal(_)));
        if is_last {
            interrupts.farewell.cancel();
        }
        let share = u32::try_from(bytes.clamp(1, QUEUED_BYTES_MAX)).unwrap_or(1);
        let Ok(permit) = Arc::clone(&queue).acquire_many_owned(share).await else {
            return;
        };
        let incoming = Incoming {
            kind,
            message,
            _queued: permit,
        };
        if sender.send(incoming).await.is_err() || is_last {
            return;
        }
    }
}

fn too_long(bytes: usize) -> Error {
    Error::Limit {
        message: format!("a message of {bytes} bytes is too long: the limit is {FRAME_BYTES_MAX}"),
        hint: "Send large data in several statements, or by COPY.",
    }
}

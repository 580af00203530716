//! The simple protocol: a text of statements, each run and answered in turn, stopped by the first error.
//!
//! Guarantee: what was answered before an error stays answered.

use arrow::datatypes::SchemaRef;

use super::connection::Connection;
use super::copy::CopyEncoder;
use super::copy_in;
use super::encode::{Format, RowEncoder};
use super::error::Error;
use super::rows::{RunningRows, Sent, StatementInterrupts, copy_data};
use super::sql_session::SqlSession;
use crate::frontend::response::{CopyIn, Response, Rows, RowsTag};
use crate::frontend::sql::statement::{CopyFormat, CopyKind};
use crate::frontend::transaction::TransactionStatus;

impl<S: SqlSession> Connection<S> {
    pub(super) async fn simple_query(&mut self, text: &str) -> Result<(), Error> {
        // As in Postgres, a simple query does away with the unnamed statement and portal.
        self.statements.remove("");
        self.portals.remove("");
        let statements = self.statements_of(text)?;
        if statements.is_empty() {
            self.replies.put_empty(b'I');
        }
        for statement in &statements {
            self.run_simple(statement).await?;
        }
        if self.session.transaction_status() == TransactionStatus::Idle {
            self.portals.clear();
        }
        self.ready().await
    }

    async fn run_simple(&mut self, statement: &S::Statement) -> Result<(), Error> {
        metrics::counter!("laminar_pgwire_statements_total", "protocol" => "simple").increment(1);
        let running = self.backend.begin_statement();
        let own = self.interrupts.clone();
        let interrupts = own.statement(running.token(), self.session.statement_timeout());
        let response = tokio::select! {
            biased;
            error = interrupts.raised() => return Err(error),
            response = self.session.run(statement, &[]) => response?,
        };
        self.send_notices()?;
        match response {
            Response::Empty => self.replies.put_empty(b'I'),
            Response::Complete { tag } => self.replies.complete(&tag)?,
            Response::Rows { schema, rows, tag } => {
                let formats = vec![Format::Text; schema.fields().len()];
                self.replies.columns(&schema, &formats)?;
                let encoder = RowEncoder::new(schema, formats, self.session.output_style());
                let mut rows = RunningRows::new(encoder, rows);
                let sent = rows.send(&mut self.replies, None, &interrupts).await?;
                self.send_notices()?;
                self.replies.complete(&rows_tag(tag, sent))?;
            }
            Response::CopyOut { format, schema, rows } => self.copy_out(&format, schema, rows, &interrupts).await?,
            Response::CopyIn(copy) => self.copy_in(*copy, &interrupts).await?,
        }
        Ok(())
    }

    /// CopyOutResponse, the data, CopyDone, `COPY n`; in both protocols.
    pub(super) async fn copy_out(
        &mut self,
        format: &CopyFormat,
        schema: SchemaRef,
        rows: Rows,
        interrupts: &StatementInterrupts<'_>,
    ) -> Result<(), Error> {
        let encoder = CopyEncoder::new(format, schema, self.session.output_style())?;
        let code = encoder.format_code();
        let columns = encoder.schema().fields().len();
        let count = i16::try_from(columns).map_err(|_| Error::TooManyColumns { columns })?;
        let formats = vec![i16::from(code); columns];
        self.replies
            .put(&pgwire::messages::copy::CopyOutResponse::new(code, count, formats))?;
        copy_data(self.replies.buffer(), |out| {
            encoder.header(out);
            Ok(())
        })?;
        let mut rows = RunningRows::new(encoder, rows);
        let sent = rows.send(&mut self.replies, None, interrupts).await?;
        copy_data(self.replies.buffer(), |out| {
            rows.message().trailer(out);
            Ok(())
        })?;
        self.replies.put_empty(b'c');
        self.send_notices()?;
        self.replies.complete(&rows_tag(RowsTag::Counted("COPY"), sent))
    }
}

impl<S: SqlSession> Connection<S> {
    /// CopyInResponse, the client's data, `COPY n`; in both protocols.
    pub(super) async fn copy_in(&mut self, copy: CopyIn, interrupts: &StatementInterrupts<'_>) -> Result<(), Error> {
        let code = i8::from(copy.format.kind == CopyKind::Binary);
        let columns = copy.columns.len();
        let count = i16::try_from(columns).map_err(|_| Error::TooManyColumns { columns })?;
        let formats = vec![i16::from(code); columns];
        self.replies
            .put(&pgwire::messages::copy::CopyInResponse::new(code, count, formats))?;
        self.flush().await?;
        let data = self.copied_data(interrupts).await?;
        let zone = self.session.output_style().time_zone;
        let rows = copy_in::rows(&copy.format, &copy.columns, &data, &zone)?;
        drop(data);
        let inserted = tokio::select! {
            biased;
            error = interrupts.raised() => return Err(error),
            inserted = self.session.insert_copied(&copy, rows) => inserted?,
        };
        self.send_notices()?;
        self.replies.complete(&format!("COPY {inserted}"))
    }
}

/// The command tag after `sent`.
pub(super) fn rows_tag(tag: RowsTag, sent: Sent) -> String {
    match sent {
        Sent::All(rows) => tag.complete(rows),
        // Without a limit there is no such end.
        Sent::Limit => tag.complete(0),
    }
}

//! Replies to a client: collected in a buffer, sent when it is large or when there is nothing to add.
//!
//! Guarantee: a flush that is dropped half way loses and repeats nothing; what was not written stays in the buffer.

use arrow::datatypes::Schema;
use bytes::{BufMut, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::data::{FieldDescription, RowDescription};
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse, ReadyForQuery};
use pgwire::messages::startup::ParameterStatus;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::encode::{Format, column_type};
use super::error::{Error, Severity, response_fields};
use super::limits::COLUMNS_MAX;
use crate::error::ErrorReport;
use crate::frontend::notice::Notice;
use crate::frontend::transaction::TransactionStatus;

/// The sending half of a connection.
pub struct ReplyWriter<W> {
    socket: W,
    out: BytesMut,
}

impl<W: AsyncWrite + Unpin> ReplyWriter<W> {
    pub fn new(socket: W) -> ReplyWriter<W> {
        ReplyWriter {
            socket,
            out: BytesMut::new(),
        }
    }

    /// Where replies are appended.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Sends all that was appended.
    pub async fn flush(&mut self) -> Result<(), Error> {
        while !self.out.is_empty() {
            if self.socket.write_buf(&mut self.out).await? == 0 {
                return Err(Error::Disconnected);
            }
        }
        self.socket.flush().await?;
        Ok(())
    }

    /// Sends what is left and says goodbye to the socket; failures no longer matter.
    pub async fn close(&mut self) {
        if self.flush().await.is_ok() {
            // The peer may be gone already: there is nobody to tell.
            let _ = self.socket.shutdown().await;
        }
    }

    /// Appends a message of the pgwire crate.
    pub fn put(&mut self, message: &impl Message) -> Result<(), Error> {
        message
            .encode(&mut self.out)
            .map_err(|error| Error::internal(format!("could not encode a reply: {error}")))
    }

    /// Appends a message that is only its type byte: ParseComplete and the like.
    pub fn put_empty(&mut self, kind: u8) {
        self.out.put_u8(kind);
        self.out.put_i32(4);
    }

    pub fn error(&mut self, severity: Severity, report: &ErrorReport) -> Result<(), Error> {
        self.put(&ErrorResponse::new(response_fields(severity.as_str(), report)))
    }

    pub fn notice(&mut self, notice: &Notice) -> Result<(), Error> {
        self.put(&NoticeResponse::new(response_fields(
            notice.severity.as_str(),
            &notice.report,
        )))
    }

    pub fn complete(&mut self, tag: &str) -> Result<(), Error> {
        self.put(&CommandComplete::new(tag.to_owned()))
    }

    pub fn setting(&mut self, name: String, value: String) -> Result<(), Error> {
        self.put(&ParameterStatus::new(name, value))
    }

    pub fn ready(&mut self, status: TransactionStatus) -> Result<(), Error> {
        use pgwire::messages::response::TransactionStatus as Wire;
        let status = match status {
            TransactionStatus::Idle => Wire::Idle,
            TransactionStatus::InTransaction => Wire::Transaction,
            TransactionStatus::Failed => Wire::Error,
        };
        self.put(&ReadyForQuery::new(status))
    }

    /// RowDescription; `formats` has one entry a column.
    pub fn columns(&mut self, schema: &Schema, formats: &[Format]) -> Result<(), Error> {
        if schema.fields().len() > COLUMNS_MAX {
            return Err(Error::TooManyColumns {
                columns: schema.fields().len(),
            });
        }
        let mut fields = Vec::with_capacity(schema.fields().len());
        for (field, format) in schema.fields().iter().zip(formats) {
            let of = column_type(field)?;
            fields.push(FieldDescription::new(
                field.name().replace('\0', "\u{fffd}"),
                0,
                0,
                of.oid(),
                of.typlen(),
                of.typmod(),
                format_code(*format),
            ));
        }
        self.put(&RowDescription::new(fields))
    }
}

pub fn format_code(format: Format) -> i16 {
    match format {
        Format::Text => 0,
        Format::Binary => 1,
    }
}

//! Sinks whose records have the id of a registered schema in front: which schema that is, and how rows are written by it.
//!
//! What a registry is asked for is asked on the I/O runtime when the sink starts ([`SinkSchema::open`]); until the answer is there, the sink
//! takes no rows. An outage is waited out, a refusal is the sink's error. What each format asks is its own:
//! [`avro::encode::found`], [`protobuf::registry::RegisteredMessages::found`].

use std::sync::{Arc, OnceLock};

use arrow::datatypes::Fields;
use prost_reflect::MessageDescriptor;

use crate::engine::connectors::Wake;
use crate::engine::error::Error;
use crate::engine::formats::avro::write::RecordWriter;
use crate::engine::formats::protobuf::ProtobufTable;
use crate::engine::formats::{Format, FormatOptions, avro};
use crate::engine::schema_registry::frame;
use crate::error::{ErrorReport, Report, SqlState};

/// The schema of a sink's records, once the registry has told its id.
pub struct SinkSchema {
    ready: OnceLock<Result<Ready, ErrorReport>>,
}

/// What the registry has told.
pub struct Ready {
    /// What stands in front of records.
    pub header: Vec<u8>,
    pub writer: Writer,
}

/// What records are written by.
pub enum Writer {
    Avro(RecordWriter),
    Protobuf(MessageDescriptor),
    /// The columns.
    Json,
}

impl Ready {
    pub fn new(id: u32, writer: Writer) -> Ready {
        Ready {
            header: frame::header(id).to_vec(),
            writer,
        }
    }
}

impl SinkSchema {
    /// Asks the registry, if there is one, and wakes the sink when it has answered. `declared`: the columns that the schema is derived
    /// from; those that are `written` may have fewer NULLs.
    pub fn open(
        format: &FormatOptions,
        declared: &Fields,
        written: &Fields,
        runtime: &tokio::runtime::Handle,
        waker: &Arc<dyn Wake>,
    ) -> Option<Arc<SinkSchema>> {
        if !format.writes_ids() {
            return None;
        }
        let schema = Arc::new(SinkSchema { ready: OnceLock::new() });
        let (weak, format, waker) = (Arc::downgrade(&schema), format.clone(), Arc::clone(waker));
        let (declared, written) = (declared.clone(), written.clone());
        let asking = async move {
            let is_gone = || weak.strong_count() == 0;
            let found = found(&format, &declared, &written, is_gone).await;
            let answer = match found {
                Ok(None) => return,
                Ok(Some(ready)) => Ok(ready),
                Err(error) => Err(error.report()),
            };
            if let Some(schema) = weak.upgrade() {
                let _ = schema.ready.set(answer);
                waker.wake();
            }
        };
        let _entered = runtime.enter();
        drop(crate::spawn::named("schema of a sink", asking));
        Some(schema)
    }

    /// Whether rows can be written, if only to learn why not.
    pub fn is_ready(&self) -> bool {
        self.ready.get().is_some()
    }

    pub fn answer(&self) -> Result<&Ready, Error> {
        match self.ready.get() {
            Some(Ok(ready)) => Ok(ready),
            Some(Err(report)) => Err(Error::Reported(report.clone())),
            None => Err(Error::Internal("rows before the schema registry has answered".into())),
        }
    }
}

/// `None`: the sink is gone.
async fn found(
    format: &FormatOptions,
    declared: &Fields,
    written: &Fields,
    is_gone: impl Fn() -> bool,
) -> Result<Option<Ready>, Error> {
    match (&format.protobuf, &format.avro.registry) {
        (Some(ProtobufTable::Registered(messages)), _) => messages.found(declared, written, is_gone).await,
        (_, Some(registry)) => avro::encode::found(&format.avro, registry, declared, written, is_gone).await,
        _ => Err(Error::Internal(format!(
            "format \"{}\" without a schema registry",
            format.format.name()
        ))),
    }
}

impl FormatOptions {
    /// Whether the id of a schema stands in front of what a sink writes.
    fn writes_ids(&self) -> bool {
        match self.format {
            Format::Avro => self.avro.registry.is_some(),
            Format::Json => self.framed_json && self.avro.registry.is_some(),
            Format::Protobuf => matches!(self.protobuf, Some(ProtobufTable::Registered(_))),
            _ => false,
        }
    }
}

/// The schema at `place` tells no columns.
pub fn no_columns(place: &str, reason: &str) -> Error {
    Error::Option(
        ErrorReport::new(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("could not tell the columns of the schema of {place}: {reason}"),
        )
        .with_hint("Declare the columns that you need."),
    )
}

/// The schema at `place` is another one than the columns need.
pub fn mismatch(place: &str, reason: &str) -> Error {
    Error::Option(
        ErrorReport::new(
            SqlState::DATATYPE_MISMATCH,
            format!("the columns do not fit {place}: {reason}"),
        )
        .with_hint("Declare columns that fit; validate = false looks at the schemas of records only."),
    )
}

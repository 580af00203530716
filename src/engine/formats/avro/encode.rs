//! Rows to messages: each row one record, by the table's schema or by one that the registry gave an id, which goes in front.
//!
//! What a registry is asked for is asked on the I/O runtime when the sink starts ([`SinkSchema::open`]); until the answer is there, the sink
//! takes no rows. An outage is waited out, a refusal is the sink's error.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::Fields;

use crate::engine::connectors::Wake;
use crate::engine::error::Error;
use crate::engine::formats::Encoder;
use crate::engine::formats::avro::schema::AvroSchema;
use crate::engine::formats::avro::write::RecordWriter;
use crate::engine::formats::avro::{AvroOptions, mismatch, parsed};
use crate::engine::formats::json::encode::append_only_weight;
use crate::engine::message::Chunk;
use crate::engine::schema_registry::{SchemaKind, SchemaRegistry, frame};
use crate::error::{ErrorReport, Report, Retry};

/// The schema of a sink's records, once the registry has told its id.
pub struct SinkSchema {
    ready: OnceLock<Result<Ready, ErrorReport>>,
}

struct Ready {
    id: u32,
    /// Of Avro.
    writer: Option<RecordWriter>,
}

impl SinkSchema {
    /// Asks the registry, if there is one, and wakes the sink when it has answered. `declared`: the columns that the schema is derived
    /// from; those that are `written` may have fewer NULLs.
    pub fn open(
        options: &AvroOptions,
        declared: &Fields,
        written: &Fields,
        runtime: &tokio::runtime::Handle,
        waker: &Arc<dyn Wake>,
    ) -> Option<Arc<SinkSchema>> {
        let registry = Arc::clone(options.registry.as_ref()?);
        let schema = Arc::new(SinkSchema { ready: OnceLock::new() });
        let (weak, options, waker) = (Arc::downgrade(&schema), options.clone(), Arc::clone(waker));
        let (declared, written) = (declared.clone(), written.clone());
        let asking = async move {
            let is_gone = || weak.strong_count() == 0;
            let found = found(&options, &registry, &declared, &written, is_gone).await;
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

    /// What stands in front of records.
    pub fn header(&self) -> Result<[u8; frame::LENGTH], Error> {
        Ok(frame::header(self.answer()?.id))
    }

    fn answer(&self) -> Result<&Ready, Error> {
        match self.ready.get() {
            Some(Ok(ready)) => Ok(ready),
            Some(Err(report)) => Err(Error::Reported(report.clone())),
            None => Err(Error::Internal("rows before the schema registry has answered".into())),
        }
    }
}

/// `None`: the sink is gone.
async fn found(
    options: &AvroOptions,
    registry: &SchemaRegistry,
    declared: &Fields,
    written: &Fields,
    is_gone: impl Fn() -> bool,
) -> Result<Option<Ready>, Error> {
    let (subject, id, schema) = if options.subject.registers {
        let (subject, new) = loop {
            match options.new_schema(declared, registry).await {
                Err(error) if error.retry() == Retry::Backoff => {
                    tracing::info!(%error, "the schema registry cannot be asked now, trying again");
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
                found => break found?,
            }
            if is_gone() {
                return Ok(None);
            }
        };
        let Some(id) = registry.register_waiting(&subject, &new, is_gone).await? else {
            return Ok(None);
        };
        if new.kind == SchemaKind::Json {
            return Ok(Some(Ready { id, writer: None }));
        }
        let schema = AvroSchema::parse(&new.text, &[]).map_err(Error::Internal)?;
        (subject, id, schema)
    } else {
        let subject = options.subject_of(options.record_name.as_deref())?;
        let Some(latest) = registry.latest_waiting(&subject, is_gone).await? else {
            return Ok(None);
        };
        if options.kind == SchemaKind::Json {
            let id = latest.schema.id;
            return Ok(Some(Ready { id, writer: None }));
        }
        let schema = parsed(&latest.schema).map_err(|reason| mismatch(&format!("subject \"{subject}\""), &reason))?;
        (subject, latest.schema.id, schema)
    };
    let place = format!("schema {id} of subject \"{subject}\"");
    let writer = RecordWriter::of_rows(&schema, written).map_err(|reason| mismatch(&place, &reason))?;
    Ok(Some(Ready {
        id,
        writer: Some(writer),
    }))
}

pub struct AvroEncoder {
    by: By,
}

enum By {
    One(RecordWriter),
    Registered(Arc<SinkSchema>),
}

impl AvroEncoder {
    /// Records without an id in front.
    pub fn new(columns: &Fields, options: &AvroOptions) -> Result<AvroEncoder, Error> {
        let schema = options.sink_schema(columns)?;
        let writer = RecordWriter::of_rows(&schema, columns);
        Ok(AvroEncoder {
            by: By::One(writer.map_err(|reason| mismatch("option \"avro.schema\"", &reason))?),
        })
    }

    pub fn registered(schema: Arc<SinkSchema>) -> AvroEncoder {
        AvroEncoder {
            by: By::Registered(schema),
        }
    }
}

impl Encoder for AvroEncoder {
    fn encode_each(
        &mut self,
        chunk: &Chunk,
        out: &mut Vec<u8>,
        written: &mut dyn FnMut(usize, &[u8]),
    ) -> Result<(), Error> {
        let (id, writer) = match &self.by {
            By::One(writer) => (None, writer),
            By::Registered(schema) => match schema.answer()? {
                Ready {
                    id,
                    writer: Some(writer),
                } => (Some(*id), writer),
                Ready { writer: None, .. } => return Err(Error::Internal("a schema that is none of Avro's".into())),
            },
        };
        let columns = chunk.rows.columns();
        for row in 0..chunk.len() {
            for _ in 0..append_only_weight(chunk.weight(row))? {
                if let Some(id) = id {
                    out.extend_from_slice(&frame::header(id));
                }
                writer.write(columns, row, out)?;
                written(row, out);
            }
        }
        Ok(())
    }
}

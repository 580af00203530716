//! Rows to messages: each row one record, by the table's schema or by one that the registry gave an id, which goes in front.
//!
//! [`SinkSchema`] has what the registry was asked.

use std::sync::Arc;

use arrow::datatypes::Fields;

use crate::engine::error::Error;
use crate::engine::formats::added_rows::for_each_added;
use crate::engine::formats::avro::schema::AvroSchema;
use crate::engine::formats::avro::write::RecordWriter;
use crate::engine::formats::avro::{AvroOptions, parsed};
use crate::engine::formats::registered::{Ready, SinkSchema, Writer, mismatch};
use crate::engine::formats::{Encoder, Written};
use crate::engine::message::Chunk;
use crate::engine::schema_registry::client::waiting;
use crate::engine::schema_registry::{SchemaKind, SchemaRegistry};

/// What the registry says of a sink's schema; `None`: the sink is gone.
pub async fn found(
    options: &AvroOptions,
    registry: &SchemaRegistry,
    declared: &Fields,
    written: &Fields,
    is_gone: impl Fn() -> bool,
) -> Result<Option<Ready>, Error> {
    let (subject, id, schema) = if options.subject.registers {
        let Some((subject, new)) = waiting(&is_gone, || options.new_schema(declared, registry)).await? else {
            return Ok(None);
        };
        let Some(id) = waiting(&is_gone, || registry.register(&subject, &new)).await? else {
            return Ok(None);
        };
        if new.kind == SchemaKind::Json {
            return Ok(Some(Ready::new(id, Writer::Json)));
        }
        let schema = AvroSchema::parse(&new.text, &[]).map_err(Error::Internal)?;
        (subject, id, schema)
    } else {
        let subject = options.subject_of(options.record_name.as_deref())?;
        let Some(latest) = waiting(&is_gone, || registry.latest(&subject)).await? else {
            return Ok(None);
        };
        if options.kind == SchemaKind::Json {
            return Ok(Some(Ready::new(latest.schema.id, Writer::Json)));
        }
        let schema = parsed(&latest.schema).map_err(|reason| mismatch(&format!("subject \"{subject}\""), &reason))?;
        (subject, latest.schema.id, schema)
    };
    let place = format!("schema {id} of subject \"{subject}\"");
    let writer = RecordWriter::of_rows(&schema, written).map_err(|reason| mismatch(&place, &reason))?;
    Ok(Some(Ready::new(id, Writer::Avro(writer))))
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
    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let (header, writer) = match &self.by {
            By::One(writer) => (&[][..], writer),
            By::Registered(schema) => match schema.answer()? {
                Ready {
                    header,
                    writer: Writer::Avro(writer),
                } => (header.as_slice(), writer),
                _ => return Err(Error::Internal("a schema that is none of Avro's".into())),
            },
        };
        let columns = chunk.rows.columns();
        for_each_added(chunk, |row| {
            out.extend_from_slice(header);
            writer.write(columns, row, out)?;
            written(row, out);
            Ok(())
        })
    }
}

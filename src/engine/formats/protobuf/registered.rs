//! Messages with the id of a schema in front to rows: each by the schema of its own id.
//!
//! The schema of an id is compiled once, and each of its messages gets a plan over the table's columns when the first record of it comes: by the
//! names of fields, or by the fields of the schema that the table gives, whose numbers then count. A column that a schema does not know is
//! NULL, or its type's default when it must not be.
//!
//! Guarantee: a record that cannot be decoded, for whatever reason, is reported alone and leaves no trace in the columns; a schema
//! that does not fit the columns makes its own records bad and no others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use prost_reflect::{FileDescriptor, MessageDescriptor};

use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::protobuf::decode::Rows;
use crate::engine::formats::protobuf::plan::MessagePlan;
use crate::engine::formats::protobuf::registry::{is_called, parsed};
use crate::engine::formats::protobuf::types::{self, Purpose};
use crate::engine::formats::protobuf::{ProtobufOptions, frame};
use crate::engine::formats::{Decoder, Input};
use crate::engine::schema_registry::{SchemaOfId, SchemaRegistry, frame as id_frame};

pub struct RegisteredDecoder {
    rows: Rows,
    registry: Arc<SchemaRegistry>,
    /// By id; why a schema is none.
    writers: HashMap<u32, Result<WriterSchema, String>>,
    wanted: Wanted,
}

/// What records are read into.
struct Wanted {
    columns: SchemaRef,
    /// The message that the table gives.
    given: Option<(MessageDescriptor, Arc<MessagePlan>)>,
    /// The message that the table names.
    message: Option<String>,
}

/// A writer's schema and the messages of it that have come.
struct WriterSchema {
    file: FileDescriptor,
    plans: Vec<(Vec<u32>, Result<Arc<MessagePlan>, String>)>,
}

impl RegisteredDecoder {
    pub fn new(
        schema: &SchemaRef,
        registry: Arc<SchemaRegistry>,
        given: Option<&ProtobufOptions>,
        message: Option<&str>,
    ) -> Result<RegisteredDecoder, Error> {
        let mut rows = Rows::new(schema)?;
        let given = match given {
            Some(given) => {
                given.check(schema, false)?;
                let plan = MessagePlan::new(&given.message, schema.fields())?;
                rows.prepare(&plan);
                Some((given.message.clone(), Arc::new(plan)))
            }
            None => None,
        };
        Ok(RegisteredDecoder {
            rows,
            registry,
            writers: HashMap::new(),
            wanted: Wanted {
                columns: Arc::clone(schema),
                given,
                message: message.map(str::to_owned),
            },
        })
    }

    /// The outer error is the table's end, the inner one the record's.
    fn record(&mut self, bytes: &[u8]) -> Result<Result<(), String>, Error> {
        let (id, rest) = match id_frame::split(bytes) {
            Ok(parts) => parts,
            Err(reason) => return Ok(Err(reason)),
        };
        let writer = match self.writers.entry(id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => match self.registry.known(id) {
                Some(SchemaOfId::Schema(schema)) => unknown.insert(parsed(&schema).map(|file| WriterSchema {
                    file,
                    plans: Vec::new(),
                })),
                Some(SchemaOfId::Missing(words)) => return Ok(Err(words.to_string())),
                None => return Err(Error::Internal(format!("schema {id} was not asked for"))),
            },
        };
        let read = writer.as_mut().map_err(|reason| reason.clone()).and_then(|writer| {
            let (places, message) = frame::split(rest)?;
            let plan = writer.plan(id, &places, &self.wanted, &mut self.rows)?;
            self.rows.read(plan, message)
        });
        Ok(read)
    }
}

impl WriterSchema {
    /// How the message at `places` is read.
    fn plan(&mut self, id: u32, places: &[u32], wanted: &Wanted, rows: &mut Rows) -> Result<&Arc<MessagePlan>, String> {
        let at = match self.plans.iter().position(|(known, _)| known == places) {
            Some(at) => at,
            None => {
                let message = frame::message_at(&self.file, places)
                    .ok_or_else(|| format!("schema {id} has no message at {places:?}"))?;
                let plan = wanted.plan(&message);
                if let Ok(plan) = &plan {
                    rows.prepare(plan);
                }
                let plan = plan.map_err(|reason| format!("schema {id} does not fit the columns: {reason}"));
                self.plans.push((places.to_vec(), plan));
                self.plans.len() - 1
            }
        };
        self.plans[at].1.as_ref().map_err(Clone::clone)
    }
}

impl Wanted {
    fn plan(&self, message: &MessageDescriptor) -> Result<Arc<MessagePlan>, String> {
        let other = |wanted: &str| format!("it is a message \"{}\", not \"{wanted}\"", message.full_name());
        match (&self.given, &self.message) {
            (Some((given, plan)), _) if given.full_name() == message.full_name() => return Ok(Arc::clone(plan)),
            (Some((given, _)), _) => return Err(other(given.full_name())),
            (None, Some(name)) if !is_called(message, name) => return Err(other(name)),
            _ => {}
        }
        let plan = types::check(message, &self.columns, Purpose::ReadVersion)
            .and_then(|()| MessagePlan::new(message, self.columns.fields()));
        plan.map(Arc::new).map_err(|error| error.to_string())
    }
}

impl Decoder for RegisteredDecoder {
    fn decode(&mut self, input: Input<'_>, _rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        if let Err(reason) = self.record(input.bytes)? {
            bad_rows.bad_row(BadRow {
                place: input.place,
                offset: input.offset,
                raw: input.bytes,
                reason: &reason,
            })?;
        }
        Ok(input.bytes.len())
    }

    fn rows(&self) -> usize {
        self.rows.count()
    }

    fn take(&mut self) -> Result<RecordBatch, Error> {
        self.rows.take()
    }
}

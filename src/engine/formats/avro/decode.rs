//! Messages to rows: each input is one record, written by the table's schema or by that of the id in front of it.
//!
//! Guarantee: a record that cannot be decoded, for whatever reason, is reported alone and leaves no trace in the columns; a schema
//! that does not fit the columns makes its own records bad and no others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Fields, SchemaRef};

use crate::engine::connectors::{BadRow, BadRowHandler, keyed_schema};
use crate::engine::error::Error;
use crate::engine::formats::avro::changes::{ChangePlan, Changes};
use crate::engine::formats::avro::plan::RecordPlan;
use crate::engine::formats::avro::read::{Datum, Decoded, fault, record};
use crate::engine::formats::avro::schema::AvroSchema;
use crate::engine::formats::avro::{AvroOptions, parsed};
use crate::engine::formats::columns::BatchBuilder;
use crate::engine::formats::registered::mismatch;
use crate::engine::formats::{Decoder, Input, with_key};
use crate::engine::message::Weights;
use crate::engine::schema_registry::{SchemaOfId, SchemaRegistry, frame};

/// A writer's schema and what it means for the columns.
struct Resolved {
    schema: Arc<AvroSchema>,
    plan: Plan,
}

enum Plan {
    Rows(RecordPlan),
    Changes(Box<ChangePlan>),
}

enum Writers {
    One(Resolved),
    /// By id; why a schema does not fit.
    Registered {
        registry: Arc<SchemaRegistry>,
        resolved: HashMap<u32, Result<Resolved, String>>,
    },
}

pub struct AvroDecoder {
    writers: Writers,
    columns: Fields,
    batch: BatchBuilder,
    /// Records are changes.
    changes: Option<Changes>,
}

impl AvroDecoder {
    /// Of records that are rows.
    pub fn of_rows(schema: &SchemaRef, options: &AvroOptions) -> Result<AvroDecoder, Error> {
        AvroDecoder::new(schema.fields(), BatchBuilder::new(schema)?, options, None)
    }

    /// Of records that are changes to rows, which replace each other by the columns `key`.
    pub fn of_changes(schema: &SchemaRef, key: Option<&[usize]>, options: &AvroOptions) -> Result<AvroDecoder, Error> {
        let columns = with_key(schema, key);
        let batch = BatchBuilder::shown_as(&columns, &keyed_schema(schema, key))?;
        AvroDecoder::new(
            columns.fields(),
            batch,
            options,
            Some(Changes::new(columns.fields().len(), key)),
        )
    }

    fn new(
        columns: &Fields,
        batch: BatchBuilder,
        options: &AvroOptions,
        changes: Option<Changes>,
    ) -> Result<AvroDecoder, Error> {
        options.check_source()?;
        let writers = match (&options.registry, options.given()?) {
            (Some(registry), _) => Writers::Registered {
                registry: Arc::clone(registry),
                resolved: HashMap::new(),
            },
            (None, Some(schema)) => {
                let resolved = resolve(schema, columns, changes.as_ref());
                Writers::One(resolved.map_err(|reason| mismatch("option \"avro.schema\"", &reason))?)
            }
            (None, None) => return Err(Error::Internal("Avro without a schema".into())),
        };
        Ok(AvroDecoder {
            writers,
            columns: columns.clone(),
            batch,
            changes,
        })
    }

    fn record(&mut self, bytes: &[u8]) -> Result<Decoded<()>, Error> {
        let (resolved, bytes) = match &mut self.writers {
            Writers::One(resolved) => (&*resolved, bytes),
            Writers::Registered { registry, resolved } => {
                let (id, bytes) = match frame::split(bytes) {
                    Ok(parts) => parts,
                    Err(reason) => return Ok(fault(reason)),
                };
                let resolved = match resolved.entry(id) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => match registry.known(id) {
                        Some(SchemaOfId::Schema(schema)) => {
                            let found = parsed(&schema).map(Arc::new);
                            let found = found.and_then(|found| resolve(found, &self.columns, self.changes.as_ref()));
                            unknown.insert(
                                found.map_err(|reason| format!("schema {id} does not fit the columns: {reason}")),
                            )
                        }
                        Some(SchemaOfId::Missing(words)) => return Ok(fault(words.to_string())),
                        None => return Err(Error::Internal(format!("schema {id} was not asked for"))),
                    },
                };
                match resolved {
                    Ok(resolved) => (&*resolved, bytes),
                    Err(reason) => return Ok(fault(reason.clone())),
                }
            }
        };
        let mut datum = Datum::new(bytes);
        let row = self.batch.rows;
        let read = match (&resolved.plan, &mut self.changes) {
            (Plan::Changes(plan), Some(changes)) => changes.read(&resolved.schema, plan, &mut datum, &mut self.batch),
            (Plan::Rows(plan), _) => {
                let read = record(&resolved.schema, plan, &mut datum, &mut self.batch.root, row);
                read.map(|()| 1)
            }
            (Plan::Changes(_), None) => fault("changes are not expected"),
        };
        Ok(read.and_then(|rows| match datum.left() {
            0 => {
                self.batch.rows = row + rows;
                Ok(())
            }
            left => fault(format!(
                "{left} bytes follow the record: it was written by another schema"
            )),
        }))
    }
}

fn resolve(schema: Arc<AvroSchema>, columns: &Fields, changes: Option<&Changes>) -> Result<Resolved, String> {
    let plan = match changes {
        None => Plan::Rows(RecordPlan::of_rows(&schema, columns)?),
        Some(changes) => Plan::Changes(Box::new(ChangePlan::new(&schema, columns, changes)?)),
    };
    Ok(Resolved { schema, plan })
}

impl Decoder for AvroDecoder {
    fn decode(&mut self, input: Input<'_>, _rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        if let Err(found) = self.record(input.bytes)? {
            self.batch.roll_back();
            if let Some(changes) = &mut self.changes {
                changes.roll_back(self.batch.rows);
            }
            bad_rows.bad_row(BadRow {
                place: input.place,
                offset: input.offset,
                raw: input.bytes,
                reason: &found.reason(),
            })?;
        }
        Ok(input.bytes.len())
    }

    fn rows(&self) -> usize {
        self.batch.rows()
    }

    fn take(&mut self) -> Result<RecordBatch, Error> {
        self.batch.take()
    }

    fn take_changes(&mut self) -> Result<(RecordBatch, Weights), Error> {
        let weights = self.changes.as_mut().map_or(Weights::AllInsert, Changes::take_weights);
        Ok((self.batch.take()?, weights))
    }
}

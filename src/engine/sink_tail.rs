//! The tail of a fragment that writes outside: holds back what the sink does not take, prepares at barriers.
//!
//! Rows of a sink that keeps a row a key are held back until a barrier: see `upserts`.
//!
//! Guarantee: rows before a barrier are written before the sink prepares for it, rows after it later.

use arrow::datatypes::SchemaRef;
use std::collections::VecDeque;

use crate::engine::connectors::{Prepared, Sink};
use crate::engine::error::Error;
use crate::engine::graph::SinkChangelog;
use crate::engine::message::{Barrier, BarrierKind, Chunk};
use crate::engine::upserts::Upserts;
use crate::failpoint;
use crate::types::record_batch::batch_of_rows;

pub struct SinkTail {
    sink: Box<dyn Sink>,
    /// The sink's own names and types; operators above may have named their columns otherwise.
    schema: SchemaRef,
    /// For a sink that keeps a row a key: what changed since the last barrier.
    upserts: Option<Box<Upserts>>,
    pending: VecDeque<Chunk>,
    barrier: Option<Barrier>,
}

impl SinkTail {
    pub fn new(sink: Box<dyn Sink>, schema: SchemaRef, changelog: &SinkChangelog) -> Result<SinkTail, Error> {
        let upserts = match changelog {
            SinkChangelog::Upsert { key } => Some(Box::new(Upserts::new(key, &schema)?)),
            SinkChangelog::Append | SinkChangelog::Debezium { .. } => None,
        };
        Ok(SinkTail {
            sink,
            schema,
            upserts,
            pending: VecDeque::new(),
            barrier: None,
        })
    }

    /// Writes `chunk`, or keeps it until [`SinkTail::drain`] can.
    pub fn write(&mut self, mut chunk: Chunk) -> Result<(), Error> {
        let columns = chunk.rows.columns().to_vec();
        chunk.rows = batch_of_rows(SchemaRef::clone(&self.schema), columns, chunk.len())?;
        if let Some(upserts) = &mut self.upserts {
            return upserts.add(&chunk);
        }
        if self.pending.is_empty() && self.sink.ready() {
            return self.sink.write(&chunk);
        }
        self.pending.push_back(chunk);
        Ok(())
    }

    /// A barrier comes after everything written so far; [`SinkTail::drain`] deals with it.
    pub fn barrier(&mut self, barrier: Barrier) {
        self.barrier = Some(barrier);
    }

    /// Writes what was kept. `Blocked`: the sink wakes the driver later.
    pub fn drain(&mut self) -> Result<SinkProgress, Error> {
        if let (Some(upserts), Some(_)) = (&mut self.upserts, &self.barrier) {
            self.pending.extend(upserts.take()?);
        }
        while !self.pending.is_empty() {
            if !self.sink.ready() {
                return Ok(SinkProgress::Blocked);
            }
            if let Some(chunk) = self.pending.pop_front() {
                self.sink.write(&chunk)?;
            }
        }
        match self.barrier.take() {
            Some(barrier) if barrier.kind.persists() => {
                if barrier.kind == BarrierKind::Stop {
                    self.sink.stopping();
                }
                if !self.sink.can_prepare() {
                    self.barrier = Some(barrier);
                    return Ok(SinkProgress::Blocked);
                }
                let prepared = self.sink.prepare(barrier.epoch)?;
                failpoint::passed("sink.after_prepare");
                Ok(SinkProgress::Prepared(prepared))
            }
            Some(_) => {
                self.sink.flush()?;
                Ok(SinkProgress::Drained)
            }
            None => Ok(SinkProgress::Drained),
        }
    }

    pub fn bytes_written(&self) -> u64 {
        self.sink.bytes_written()
    }
}

pub enum SinkProgress {
    Drained,
    Blocked,
    /// Everything before the barrier is written and prepared.
    Prepared(Prepared),
}

//! The first of two aggregation steps: reduces rows to states before an exchange.
//!
//! A small table, that fits the cache, collects; it is flushed when full, before every watermark and barrier, and at the
//! end, so that nothing is kept that a checkpoint would have to hold. Where the rows of a table are hardly fewer than the
//! rows that went in, the table only costs: rows then pass through as states of one row each, and reduction is tried
//! again after a while, since streams drift.
//!
//! In a window aggregation the slice of time is part of the key and the event time of what comes out. Late rows are the
//! final step's business: it alone knows which windows are closed.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, SchemaRef};

use crate::engine::error::Error;
use crate::engine::graph::{AggregateSpec, WindowSpec};
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::aggregates::{AggregateLayout, Aggregates};
use crate::engine::operators::columns::{as_int64, batch_of, int64, take_chunk, weights_of};
use crate::engine::operators::group_table::GroupTable;
use crate::engine::operators::window::{NO_EVENT_TIME, Windows};

/// Groups that still fit the second-level cache.
const GROUPS_LIMIT: usize = 16_384;
/// Input rows after which a flush is due even when few groups were seen.
const ROWS_LIMIT: u64 = 65_536;
/// Rows that a verdict on the reduction is based on.
const PROBE_ROWS: u64 = 16_384;
/// Below so many rows a group, reduction does not pay.
const WORTH_RATIO: f64 = 1.5;
/// Rows that pass through before reduction is tried again.
const PASS_ROWS: u64 = 1 << 20;

pub(crate) struct PartialAggregate {
    table: GroupTable,
    /// Where rows that pass through become states.
    single_rows: Aggregates,
    window: Option<Windows>,
    output: SchemaRef,
    /// Input rows in the table.
    rows: u64,
    /// Rows and groups flushed since the last verdict.
    probed: (u64, u64),
    /// Rows that still pass through.
    passing: u64,
    without_event_time: u64,
}

impl PartialAggregate {
    pub fn new(
        spec: &AggregateSpec,
        window: Option<WindowSpec>,
        input: &SchemaRef,
        output: &SchemaRef,
    ) -> Result<PartialAggregate> {
        let layout = AggregateLayout::new(spec, input)?;
        let mut key_types = layout.key_types();
        if window.is_some() {
            key_types.insert(0, DataType::Int64);
        }
        Ok(PartialAggregate {
            table: GroupTable::new(&layout, &key_types, false)?,
            single_rows: Aggregates::new(&layout)?,
            window: window.map(Windows::new).transpose()?,
            output: Arc::clone(output),
            rows: 0,
            probed: (0, 0),
            passing: 0,
            without_event_time: 0,
        })
    }

    /// A time that stands for the slice of each row.
    fn slice_times(&self, windows: Windows, chunk: &Chunk) -> Result<ArrayRef> {
        let times = chunk.event_time.as_ref().ok_or_else(no_event_time)?;
        Ok(int64(times.iter().map(|&time| windows.time_of_slice(time)).collect()))
    }

    fn keys(&self, chunk: &Chunk) -> Result<Vec<ArrayRef>> {
        let mut keys = self.table.layout.key_columns(&chunk.rows);
        if let Some(windows) = self.window {
            keys.insert(0, self.slice_times(windows, chunk)?);
        }
        Ok(keys)
    }

    /// Takes out rows that belong to no window.
    fn with_event_time(&mut self, chunk: Chunk) -> Result<Chunk> {
        let (Some(_), Some(times)) = (self.window, &chunk.event_time) else {
            return Ok(chunk);
        };
        if !times.contains(&NO_EVENT_TIME) {
            return Ok(chunk);
        }
        let kept: Vec<u32> = (0..chunk.len() as u32)
            .filter(|&row| times[row as usize] != NO_EVENT_TIME)
            .collect();
        self.without_event_time += (chunk.len() - kept.len()) as u64;
        take_chunk(&chunk, &kept.into())
    }

    fn pass_through(&mut self, chunk: &Chunk, output: &mut Output) -> Result<()> {
        let groups: Vec<u32> = (0..chunk.len() as u32).collect();
        self.single_rows.clear();
        self.single_rows.resize(groups.len());
        self.single_rows.apply(&chunk.rows, &groups, weights_of(chunk))?;
        let counts = (0..groups.len()).map(|row| chunk.weight(row)).collect();
        let states = self.single_rows.states(&groups)?;
        let keys = self.keys(chunk)?;
        self.emit(keys, counts, states, output)
    }

    fn flush(&mut self, output: &mut Output) -> Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let groups: Vec<u32> = self.table.live().collect();
        for part in groups.chunks(CHUNK_ROWS_TARGET) {
            let keys = self.table.keys.gather(part);
            let counts = part
                .iter()
                .map(|&group| self.table.aggregates.row_count(group))
                .collect();
            let states = self.table.aggregates.states(part)?;
            self.emit(keys, counts, states, output)?;
        }
        self.table.clear();
        self.probed.0 += self.rows;
        self.probed.1 += groups.len() as u64;
        self.rows = 0;
        if self.probed.0 >= PROBE_ROWS {
            if (self.probed.0 as f64) < WORTH_RATIO * self.probed.1 as f64 {
                self.passing = PASS_ROWS;
            }
            self.probed = (0, 0);
        }
        Ok(())
    }

    fn emit(
        &self,
        mut keys: Vec<ArrayRef>,
        counts: Vec<i64>,
        states: Vec<ArrayRef>,
        output: &mut Output,
    ) -> Result<()> {
        let event_time: Option<ScalarBuffer<i64>> = match self.window {
            Some(_) => Some(as_int64(&keys.remove(0))?.values().clone()),
            None => None,
        };
        let rows = counts.len();
        keys.push(int64(counts));
        keys.extend(states);
        let rows: RecordBatch = batch_of(&self.output, keys, rows)?;
        output.data(Chunk {
            rows,
            weights: Weights::AllInsert,
            event_time,
            key_hashes: None,
        });
        Ok(())
    }
}

pub(crate) fn no_event_time() -> Error {
    Error::Internal("a window aggregate got rows without event time".into())
}

impl Operator for PartialAggregate {
    fn name(&self) -> &'static str {
        "partial_aggregate"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, output: &mut Output) -> Result<()> {
        let chunk = self.with_event_time(chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        let rows = chunk.len() as u64;
        if self.passing > 0 {
            self.passing = self.passing.saturating_sub(rows);
            return self.pass_through(&chunk, output);
        }
        let keys = self.keys(&chunk)?;
        let groups = self.table.assign(&keys, chunk.len(), None)?;
        self.table.apply(&chunk.rows, &groups, weights_of(&chunk))?;
        self.rows += rows;
        if self.table.keys.len() >= GROUPS_LIMIT || self.rows >= ROWS_LIMIT {
            self.flush(output)?;
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        // Without windows nobody waits for the watermark: reduction goes on.
        if self.window.is_some() {
            self.flush(output)?;
        }
        output.watermark(watermark);
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        self.flush(output)
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.flush(output)
    }

    fn state_size(&self) -> StateSize {
        StateSize {
            rows: self.table.keys.len() as u64,
            bytes: self.table.memory_bytes() as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.without_event_time
    }
}

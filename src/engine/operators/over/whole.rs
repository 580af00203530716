//! OVER whose partitions end: the watermark says when all rows of one have come, and it is computed then, as a whole, by the
//! window expressions of the library. Any ORDER BY, any frame, any window function; also over input with retractions.
//!
//! A row belongs to a partition of which nothing more comes once the watermark has passed a moment (`done`): the event time of
//! the row itself, where all rows of the partition have one, or a bound of the window that it is partitioned by. Rows come out
//! then, with their own event time; what is told downstream is held back by how much older they may be. Rows that ORDER BY does
//! not tell apart are ordered as `order` says.
//!
//! A row is late when the watermark has passed that moment: dropped, counted, kept as a dead letter when the table says so.
//!
//! State: tables `rows` (see `row_store`) and `watermark`. Retractions are kept beside the rows that they take back until then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::concat;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use datafusion::physical_expr::window::WindowExpr;

use crate::engine::dead_letters::LateRows;
use crate::engine::error::Error;
use crate::engine::join_spec::Moment;
use crate::engine::message::{Chunk, Watermark};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::closed_upto;
use crate::engine::operators::columns::{batch_of, data_error, take_batch, weights_of};
use crate::engine::operators::over::{ROWS_A_STEP, hashes_of, put_chunks, without_late};
use crate::engine::operators::partial_aggregate::no_event_time;
use crate::engine::operators::row_order::{RowOrder, agreeing};
use crate::engine::operators::row_store::RowStore;
use crate::engine::operators::window::NO_EVENT_TIME;
use crate::engine::over_spec::{OverSpec, OverWork};
use crate::state::table::{SnapshotContext, StateReader, TableWrite};

pub(crate) struct OverWindow {
    spec: OverSpec,
    functions: Vec<Arc<dyn WindowExpr>>,
    done: Option<Moment>,
    hold_micros: i64,
    nets: bool,
    order: RowOrder,
    output: SchemaRef,
    rows: RowStore,
    /// When the partition of a row is done, and its number.
    pending: BinaryHeap<Reverse<(i64, u32)>>,
    watermark: Option<i64>,
    late: u64,
    late_rows: Option<LateRows>,
}

impl OverWindow {
    pub fn new(spec: &OverSpec, input: &SchemaRef, output: &SchemaRef) -> Result<OverWindow> {
        let OverWork::Whole {
            functions,
            done,
            hold_micros,
            append_only_input,
        } = &spec.work
        else {
            return Err(Error::Internal("OVER of whole partitions without an end".into()));
        };
        Ok(OverWindow {
            functions: functions.clone(),
            done: done.clone(),
            hold_micros: *hold_micros,
            nets: !append_only_input,
            order: RowOrder::new(&spec.keys, &spec.order, input)?,
            output: Arc::clone(output),
            rows: RowStore::new("rows", input),
            pending: BinaryHeap::new(),
            spec: spec.clone(),
            watermark: None,
            late: 0,
            late_rows: None,
        })
    }

    /// Late rows go there, as they come.
    pub fn keeping_late_rows(mut self, late_rows: Option<LateRows>) -> OverWindow {
        self.late_rows = late_rows;
        self
    }

    /// When the partition of each row is done.
    fn moments(&self, rows: &RecordBatch, times: &[i64]) -> Result<Vec<i64>> {
        let Some(done) = &self.done else {
            return Ok(times.to_vec());
        };
        let column = rows
            .column(done.column)
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| Error::Internal("the end of a partition is not a timestamp".into()))?;
        let moment = |row: usize| {
            if column.is_null(row) {
                NO_EVENT_TIME
            } else {
                column.value(row).saturating_add(done.offset_micros)
            }
        };
        Ok((0..rows.num_rows()).map(moment).collect())
    }

    /// Puts out the partitions that are done before `watermark`.
    fn close(&mut self, watermark: i64, ended: bool, output: &mut Output) -> Result<()> {
        loop {
            let mut done: Vec<u32> = Vec::new();
            let mut last = None;
            while let Some(&Reverse((moment, row))) = self.pending.peek()
                && (moment < watermark || ended)
                && (done.len() < ROWS_A_STEP || last == Some(moment))
            {
                self.pending.pop();
                last = Some(moment);
                done.push(row);
            }
            if done.is_empty() {
                return Ok(());
            }
            self.put_out(&done, output)?;
            done.into_iter().for_each(|row| self.rows.remove(row));
        }
    }

    fn put_out(&self, numbers: &[u32], output: &mut Output) -> Result<()> {
        let rows = self.rows.gather(numbers)?;
        let mut sorted = self.order.sort(&rows, &vec![(); numbers.len()])?;
        if self.nets {
            sorted = self.netted(
                numbers,
                &take_batch(&rows, &UInt32Array::from(sorted.clone()))?,
                &sorted,
            )?;
        }
        let rows = take_batch(&rows, &UInt32Array::from(sorted.clone()))?;
        let mut results: Vec<Vec<ArrayRef>> = vec![Vec::new(); self.functions.len()];
        for partition in agreeing(&rows, &self.spec.keys)? {
            let rows = rows.slice(partition.start, partition.len());
            for (function, results) in self.functions.iter().zip(&mut results) {
                results.push(function.evaluate(&rows).map_err(data_error)?);
            }
        }
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut columns = rows.columns()[..self.spec.carried].to_vec();
        for parts in &results {
            let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
            columns.push(concat(&parts)?);
        }
        let times: Vec<i64> = sorted
            .iter()
            .map(|&row| self.rows.time[numbers[row as usize] as usize])
            .collect();
        put_chunks(&batch_of(&self.output, columns, sorted.len())?, &times, output);
        Ok(())
    }

    /// Of rows that agree, as many as remain; `rows` are those of `sorted`.
    fn netted(&self, numbers: &[u32], rows: &RecordBatch, sorted: &[u32]) -> Result<Vec<u32>> {
        let mut kept = Vec::with_capacity(sorted.len());
        for equal in self.order.equal(rows)? {
            let weight = |&row: &u32| self.rows.weight[numbers[row as usize] as usize];
            let left: i64 = sorted[equal.clone()].iter().map(weight).sum();
            kept.extend(std::iter::repeat_n(
                sorted[equal.start],
                usize::try_from(left).unwrap_or(0),
            ));
        }
        Ok(kept)
    }
}

impl Operator for OverWindow {
    fn name(&self) -> &'static str {
        self.spec.name()
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        let times = chunk.event_time.as_ref().ok_or_else(no_event_time)?;
        let mut moments = self.moments(&chunk.rows, times)?;
        let mut hashes = hashes_of(&chunk, &self.spec.keys);
        let letters = self.late_rows.as_ref();
        let (chunk, late) = without_late(chunk, &mut moments, &mut hashes, self.watermark, letters)?;
        self.late += late;
        let times = chunk.event_time.as_ref().ok_or_else(no_event_time)?;
        let numbers = self.rows.add(&chunk.rows, times, &hashes, weights_of(&chunk))?;
        for (number, moment) in numbers.into_iter().zip(moments) {
            self.pending.push(Reverse((moment, number)));
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        let Watermark::At(time) = watermark else {
            output.watermark(watermark);
            return Ok(());
        };
        if self.watermark.is_none_or(|before| before < time) {
            self.watermark = Some(time);
            self.close(time, false, output)?;
        }
        output.watermark(Watermark::At(time.saturating_sub(self.hold_micros)));
        Ok(())
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.watermark = Some(i64::MAX);
        self.close(i64::MAX, true, output)
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        Ok(vec![self.rows.write(context)?, closed_upto::write(self.watermark)?])
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.watermark = closed_upto::read(state)?;
        self.rows.restore(state)?;
        for part in self.rows.live().chunks(ROWS_A_STEP) {
            let rows = self.rows.gather(part)?;
            let times: Vec<i64> = part.iter().map(|&row| self.rows.time[row as usize]).collect();
            for (&row, moment) in part.iter().zip(self.moments(&rows, &times)?) {
                self.pending.push(Reverse((moment, row)));
            }
        }
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        StateSize {
            rows: self.rows.len() as u64,
            bytes: (self.rows.memory_bytes() + self.pending.capacity() * 16) as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

//! Rankings: of each partition the rows whose ROW_NUMBER, RANK or DENSE_RANK is within constant bounds, with the rank or without.
//!
//! Rows are kept in order (`row_key` says which), each distinct row once with how often it counts. Where rows only come in,
//! those ranked beyond the last rank shown are forgotten: they can only fall further. Where rows change, all are kept, so that a
//! retraction brings the next one in.
//!
//! At every barrier, and at the end of input, the partitions touched since the last one emit what became of them: first the rows
//! that are shown no more, then the new ones, each with its rank; nothing when all is as before. A ranking inside windows (its
//! partitions share a window, and rows only come in) emits a partition once, when the watermark has reached the end of the window, and
//! forgets it; the rows get the last moment of the window as their event time. A row for a window that is over, or for none, is dropped
//! and counted.
//!
//! With a TTL a partition that no row has come for that long is retracted and forgotten; a retraction of one of its former rows
//! counts below zero, shows nothing, and is forgotten at the next barrier.
//!
//! Guarantee: the result depends on which rows have come, not on their order, the parallelism or restarts.

mod partition;
mod ranked_rows;
mod row_key;
mod state;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array, UInt64Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};
use hashbrown::HashMap;

use crate::clock::Clock;
use crate::engine::error::Error;
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::BuildContext;
use crate::engine::operators::bits::Bits;
use crate::engine::operators::closed_upto;
use crate::engine::operators::columns::{batch_of, take_batch, take_chunk, weights_from};
use crate::engine::operators::keys::{GroupKeys, key_hashes};
pub(crate) use crate::engine::operators::top_n::partition::Shown;
use crate::engine::operators::top_n::partition::{Entry, Partition, differences};
pub(crate) use crate::engine::operators::top_n::row_key::can_rank;
use crate::engine::operators::top_n::row_key::{RowCodec, RowKey};
use crate::engine::operators::top_n::state::RowTable;
use crate::engine::top_n_spec::{TopNBound, TopNSpec};
use crate::state::table::{SnapshotContext, StateReader, TableWrite};

/// At least so many partitions are looked at for expiry at each barrier; of many a sixteenth.
const EXPIRY_STEP: usize = 4096;

/// What a row costs besides its bytes, about.
const ROW_OVERHEAD: usize = 64;

pub(crate) struct TopN {
    spec: TopNSpec,
    input: SchemaRef,
    output: SchemaRef,
    codec: RowCodec,
    table: RowTable,
    keys: GroupKeys,
    /// By number of the key.
    partitions: Vec<Partition>,
    /// What was shown of the partitions touched since the last barrier, before they were.
    before: Vec<(u32, Vec<Shown>)>,
    touched: Bits,
    /// Rows that differ from the last snapshot; some may have gone since.
    changed: Vec<(u32, RowKey)>,
    /// Rows of the last snapshot that are gone: hash and moment of their partition.
    dead: HashMap<RowKey, (u64, i64)>,
    /// Windows by their end; those of partitions that are gone are skipped.
    due: BinaryHeap<Reverse<(i64, u32)>>,
    /// What no earlier row comes after; in a ranking inside windows.
    watermark: Option<i64>,
    late: u64,
    clock: Arc<dyn Clock>,
    /// Where the search for expired partitions goes on.
    expiry: u32,
    rows: usize,
    bytes: usize,
}

impl TopN {
    pub fn new(spec: &TopNSpec, input: &SchemaRef, output: &SchemaRef, context: &BuildContext) -> Result<TopN> {
        let key_types: Vec<DataType> = spec
            .keys
            .iter()
            .map(|&key| input.field(key).data_type().clone())
            .collect();
        let timed = matches!(spec.bound, TopNBound::Window(_));
        Ok(TopN {
            codec: RowCodec::new(input, &spec.order)?,
            table: RowTable::new(input, timed, ttl_of(spec).is_some()),
            keys: GroupKeys::new(&key_types)?,
            spec: spec.clone(),
            input: Arc::clone(input),
            output: Arc::clone(output),
            partitions: Vec::new(),
            before: Vec::new(),
            touched: Bits::default(),
            changed: Vec::new(),
            dead: HashMap::new(),
            due: BinaryHeap::new(),
            watermark: None,
            late: 0,
            clock: Arc::clone(&context.clock),
            expiry: 0,
            rows: 0,
            bytes: 0,
        })
    }

    /// The partition of each row; new ones are empty.
    fn intern(&mut self, rows: &RecordBatch, hashes: Option<&ScalarBuffer<u64>>) -> Result<Vec<u32>> {
        let columns: Vec<ArrayRef> = self.spec.keys.iter().map(|&key| Arc::clone(rows.column(key))).collect();
        let hashes = key_hashes(&columns, rows.num_rows(), hashes);
        let groups = self.keys.intern(&columns, &hashes)?;
        let capacity = self.keys.capacity().max(self.partitions.len());
        self.partitions.resize_with(capacity, Partition::default);
        Ok(groups)
    }

    /// The end of each row's window; the least possible when it has none.
    fn moments(&self, rows: &RecordBatch) -> Result<Option<Vec<i64>>> {
        let TopNBound::Window(moment) = &self.spec.bound else {
            return Ok(None);
        };
        let times = rows
            .column(moment.column)
            .as_primitive_opt::<TimestampMicrosecondType>()
            .ok_or_else(|| Error::Internal("the window of a ranking does not end at a timestamp".into()))?;
        let value = |row: usize| match times.is_null(row) {
            true => i64::MIN,
            false => times.value(row).saturating_add(moment.offset_micros),
        };
        Ok(Some((0..times.len()).map(value).collect()))
    }

    /// Leaves out rows whose window is over, or that have none, and counts them.
    fn without_late(&mut self, chunk: Chunk) -> Result<Chunk> {
        let Some(moments) = self.moments(&chunk.rows)? else {
            return Ok(chunk);
        };
        let over = self.watermark.unwrap_or(i64::MIN);
        if moments.iter().all(|&moment| moment > over) {
            return Ok(chunk);
        }
        let kept: Vec<u32> = (0..chunk.len() as u32)
            .filter(|&row| moments[row as usize] > over)
            .collect();
        self.late += (chunk.len() - kept.len()) as u64;
        take_chunk(&chunk, &UInt32Array::from(kept))
    }

    /// Notes when the rows came: that their partitions live, or when they end.
    fn note_times(&mut self, groups: &[u32], rows: &RecordBatch) -> Result<()> {
        if ttl_of(&self.spec).is_some() {
            let now = self.clock.now_millis();
            for &group in groups {
                let partition = &mut self.partitions[group as usize];
                if partition.stamp == now {
                    continue;
                }
                partition.stamp = now;
                // The first row tells the next snapshot.
                if let Some((row, entry)) = partition.rows.iter_mut().next()
                    && !std::mem::replace(&mut entry.changed, true)
                {
                    self.changed.push((group, row.clone()));
                }
            }
        }
        if let Some(moments) = self.moments(rows)? {
            for (&group, moment) in groups.iter().zip(moments) {
                let partition = &mut self.partitions[group as usize];
                if partition.rows.is_empty() && partition.moment != moment {
                    partition.moment = moment;
                    self.due.push(Reverse((moment, group)));
                }
            }
        }
        Ok(())
    }

    /// Remembers what is shown of a partition that is about to change.
    fn touch(&mut self, group: u32) {
        let emits_changes = matches!(self.spec.bound, TopNBound::Kept { .. });
        if emits_changes && self.touched.insert(group) {
            let shown = self.partitions[group as usize].shown(&self.spec);
            self.before.push((group, shown));
        }
    }

    fn add(&mut self, group: u32, row: RowKey, weight: i64) {
        let length = row.len() + ROW_OVERHEAD;
        let partition = &mut self.partitions[group as usize];
        if let Some(entry) = partition.rows.get_mut(&row) {
            entry.weight += weight;
            if entry.weight == 0 {
                self.remove(group, &row);
            } else if !std::mem::replace(&mut entry.changed, true) {
                self.changed.push((group, row));
            }
            return;
        }
        let entry = Entry {
            weight,
            changed: true,
            persisted: self.dead.remove(&row).is_some(),
        };
        partition.rows.insert(row.clone(), entry);
        self.changed.push((group, row));
        self.rows += 1;
        self.bytes += length;
    }

    fn remove(&mut self, group: u32, row: &RowKey) {
        if let Some(entry) = self.partitions[group as usize].rows.remove(row) {
            self.note_removed(group, row.clone(), entry);
        }
    }

    fn note_removed(&mut self, group: u32, row: RowKey, entry: Entry) {
        self.rows -= 1;
        self.bytes -= row.len() + ROW_OVERHEAD;
        if entry.persisted {
            let moment = self.partitions[group as usize].moment;
            self.dead.insert(row, (self.keys.hash_of(group), moment));
        }
    }

    /// Forgets what can never be shown.
    fn trim(&mut self, group: u32) {
        if self.spec.append_only_input {
            for (row, entry) in self.partitions[group as usize].trim(&self.spec) {
                self.note_removed(group, row, entry);
            }
        }
    }

    /// Takes a row as a snapshot holds it; 0 for one that is gone.
    fn restore_row(&mut self, group: u32, row: RowKey, weight: i64) {
        let partition = &mut self.partitions[group as usize];
        let length = row.len() + ROW_OVERHEAD;
        let entry = Entry {
            weight,
            changed: false,
            persisted: true,
        };
        let (before, after) = match weight {
            0 => (partition.rows.remove(&row), None),
            _ => (partition.rows.insert(row, entry), Some(entry)),
        };
        let count = |entry: Option<Entry>| usize::from(entry.is_some());
        self.rows = self.rows + count(after) - count(before);
        self.bytes = self.bytes + count(after) * length - count(before) * length;
    }

    /// Frees the number of a partition without rows.
    fn release_if_empty(&mut self, group: u32) {
        if self.keys.is_live(group) && self.partitions[group as usize].rows.is_empty() {
            self.partitions[group as usize] = Partition::default();
            self.keys.remove(group);
        }
    }

    /// The partitions touched since the last call, with what they showed before. Each is to be settled.
    pub fn take_touched(&mut self) -> Vec<(u32, Vec<Shown>)> {
        self.expire();
        std::mem::take(&mut self.before)
    }

    /// What a touched partition shows now.
    pub fn settle(&mut self, partition: u32) -> Vec<Shown> {
        self.touched.remove(partition);
        self.drop_below_zero(partition);
        let shown = self.partitions[partition as usize].shown(&self.spec);
        self.release_if_empty(partition);
        shown
    }

    /// The columns of rows, all that the input has.
    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a Shown>) -> Result<Vec<ArrayRef>> {
        self.codec.decode(rows.map(|shown| &shown.row))
    }

    /// Shows what became of the partitions that were touched.
    fn emit(&mut self, output: &mut Output) -> Result<()> {
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for (group, before) in self.take_touched() {
            let after = self.settle(group);
            differences(before, after, &mut gone, &mut new);
            if gone.len() + new.len() >= CHUNK_ROWS_TARGET {
                self.put_out(std::mem::take(&mut gone), std::mem::take(&mut new), None, output)?;
            }
        }
        self.put_out(gone, new, None, output)
    }

    /// Below zero at a barrier is what remains of the retraction of a row that was forgotten.
    fn drop_below_zero(&mut self, group: u32) {
        if ttl_of(&self.spec).is_none() {
            return;
        }
        let rows = self.partitions[group as usize].rows.iter();
        let below: Vec<RowKey> = rows
            .filter(|(_, entry)| entry.weight < 0)
            .map(|(row, _)| row.clone())
            .collect();
        for row in below {
            self.remove(group, &row);
        }
    }

    /// Empties partitions that no row has come for since the TTL.
    fn expire(&mut self) {
        let Some(ttl_ms) = ttl_of(&self.spec) else {
            return;
        };
        let ttl_ms = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        let deadline = self.clock.now_millis().saturating_sub(ttl_ms);
        let capacity = self.partitions.len();
        let step = EXPIRY_STEP.max(capacity.div_ceil(16)).min(capacity);
        for _ in 0..step {
            let group = self.expiry;
            self.expiry = if (group + 1) as usize >= capacity { 0 } else { group + 1 };
            let is_old = self.partitions[group as usize].stamp <= deadline;
            if !is_old || !self.keys.is_live(group) || self.touched.contains(group) {
                continue;
            }
            self.touch(group);
            for (row, entry) in std::mem::take(&mut self.partitions[group as usize].rows).into_rows() {
                self.note_removed(group, row, entry);
            }
        }
    }

    /// Shows the partitions whose window is over, and forgets them.
    fn close(&mut self, watermark: i64, output: &mut Output) -> Result<()> {
        let (mut new, mut times) = (Vec::new(), Vec::new());
        while let Some(&Reverse((moment, group))) = self.due.peek()
            && moment <= watermark
        {
            self.due.pop();
            if !self.keys.is_live(group) || self.partitions[group as usize].moment != moment {
                continue;
            }
            let partition = std::mem::take(&mut self.partitions[group as usize]);
            let shown = partition.shown(&self.spec);
            times.resize(times.len() + shown.len(), moment - 1);
            new.extend(shown);
            self.rows -= partition.rows.len();
            self.bytes -= partition.rows.keys().map(|row| row.len() + ROW_OVERHEAD).sum::<usize>();
            self.keys.remove(group);
            if new.len() >= CHUNK_ROWS_TARGET {
                let times = std::mem::take(&mut times);
                self.put_out(Vec::new(), std::mem::take(&mut new), Some(times), output)?;
            }
        }
        self.put_out(Vec::new(), new, Some(times), output)
    }

    fn put_out(&self, gone: Vec<Shown>, new: Vec<Shown>, times: Option<Vec<i64>>, output: &mut Output) -> Result<()> {
        let length = gone.len() + new.len();
        if length == 0 {
            return Ok(());
        }
        let all = || gone.iter().chain(&new);
        let mut columns = self.decode(all())?;
        columns.truncate(self.spec.columns);
        if self.spec.shows_rank {
            let ranks: UInt64Array = all().map(|shown| shown.rank).collect();
            columns.push(Arc::new(ranks));
        }
        let weights = gone.iter().map(|shown| -shown.weight);
        let weights = weights.chain(new.iter().map(|shown| shown.weight)).collect();
        output.data(Chunk {
            rows: batch_of(&self.output, columns, length)?,
            weights: weights_from(weights),
            event_time: times.map(ScalarBuffer::from),
            key_hashes: None,
        });
        Ok(())
    }
}

/// One partition of all rows is never forgotten, as the row of an aggregate of all rows is not.
fn ttl_of(spec: &TopNSpec) -> Option<u64> {
    match spec.bound {
        TopNBound::Kept { ttl_ms } if !spec.keys.is_empty() => ttl_ms,
        _ => None,
    }
}

impl Operator for TopN {
    fn name(&self) -> &'static str {
        "top_n"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        let chunk = self.without_late(chunk)?;
        if chunk.is_empty() {
            return Ok(());
        }
        let groups = self.intern(&chunk.rows, chunk.key_hashes.as_ref())?;
        self.note_times(&groups, &chunk.rows)?;
        let order = self.codec.order(&chunk.rows)?;
        let wanted: Vec<u32> = (0..chunk.len() as u32)
            .filter(|&row| {
                let partition = &self.partitions[groups[row as usize] as usize];
                !partition.has_no_place_for(order.of(row as usize))
            })
            .collect();
        // Most rows of a long stream are not among the first: they are not even encoded.
        let whole = if wanted.len() == chunk.len() {
            self.codec.whole(&chunk.rows)?
        } else {
            self.codec
                .whole(&take_batch(&chunk.rows, &UInt32Array::from(wanted.clone()))?)?
        };
        let (mut grown, mut space) = (Vec::new(), Vec::new());
        for (at, &row) in wanted.iter().enumerate() {
            let (row, group) = (row as usize, groups[row as usize]);
            self.touch(group);
            let key = RowKey::new(order.of(row), whole.row(at).data(), &mut space);
            self.add(group, key, chunk.weight(row));
            grown.push(group);
        }
        grown.sort_unstable();
        grown.dedup();
        grown.into_iter().for_each(|group| self.trim(group));
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        if let Watermark::At(time) = watermark
            && matches!(self.spec.bound, TopNBound::Window(_))
            && self.watermark.is_none_or(|before| before < time)
        {
            self.watermark = Some(time);
            self.close(time, output)?;
        }
        output.watermark(watermark);
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        match self.spec.bound {
            TopNBound::Kept { .. } => self.emit(output),
            TopNBound::Window(_) => Ok(()),
        }
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        match self.spec.bound {
            TopNBound::Kept { .. } => self.emit(output),
            TopNBound::Window(_) => {
                self.watermark = Some(i64::MAX);
                self.close(i64::MAX, output)
            }
        }
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let mut writes = vec![self.write_rows(context)?];
        if matches!(self.spec.bound, TopNBound::Window(_)) {
            writes.push(closed_upto::write(self.watermark)?);
        }
        Ok(writes)
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        if matches!(self.spec.bound, TopNBound::Window(_)) {
            self.watermark = closed_upto::read(state)?;
        }
        self.read_all_rows(state)?;
        for group in 0..self.partitions.len() as u32 {
            self.release_if_empty(group);
            if !self.keys.is_live(group) {
                continue;
            }
            self.trim(group);
            if matches!(self.spec.bound, TopNBound::Window(_)) {
                let moment = self.partitions[group as usize].moment;
                self.due.push(Reverse((moment, group)));
            }
        }
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        let overhead = self.keys.memory_bytes() + self.partitions.capacity() * size_of::<Partition>();
        StateSize {
            rows: self.rows as u64,
            bytes: (self.bytes + overhead) as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

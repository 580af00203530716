//! OVER by event time: functions over the rows of a key in order, put out as the watermark passes them.
//!
//! A row waits until the watermark has passed it, so that all rows before it and all its peers are there, and then until
//! what follows in its frame is known. Rows of one key and time come out together, those of a key in order of time, with their
//! own event time; what is told downstream is held back for rows that wait. Rows that ORDER BY does not tell apart are ordered
//! by `order`, so that the result is the same whatever the order of arrival.
//!
//! A row older than the watermark is late: dropped, counted, kept as a dead letter when the table says so. Rows without an
//! event time are dropped and counted likewise. Input has no retractions.
//!
//! State: tables `rows` (see `row_store`), `keys` (see `keys`) and `watermark` (see `closed_upto`). Keys are forgotten when no frame
//! needs their rows and nothing runs on; with a TTL all are, when their last row is older than the watermark by that much.
//!
//! [`whole::OverWindow`] computes partitions that the watermark ends, [`changing::OverChanging`] those whose rows change.

pub(crate) mod changing;
mod frame;
mod functions;
mod keys;
pub(crate) mod whole;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::SchemaRef;

use crate::engine::dead_letters::LateRows;
use crate::engine::error::Error;
use crate::engine::message::{CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::closed_upto;
use crate::engine::operators::columns::{batch_of, take_chunk, take_columns};
use crate::engine::operators::keys::key_hashes;
use crate::engine::operators::over::frame::{Passed, Segment};
use crate::engine::operators::over::functions::{Part, Working};
use crate::engine::operators::over::keys::Keys;
use crate::engine::operators::partial_aggregate::no_event_time;
use crate::engine::operators::row_order::{RowOrder, agreeing};
use crate::engine::operators::row_store::RowStore;
use crate::engine::operators::window::NO_EVENT_TIME;
use crate::engine::over_spec::{OverFunction, OverSpec, OverWork};
use crate::state::table::{SnapshotContext, StateReader, TableWrite};

/// So many rows, and their peers, are worked on at a time.
const ROWS_A_STEP: usize = 65_536;

pub(crate) struct Over {
    spec: OverSpec,
    functions: Arc<Vec<OverFunction>>,
    /// Columns that make peers.
    order_columns: Vec<usize>,
    order: RowOrder,
    output: SchemaRef,
    rows: RowStore,
    /// Time and number of rows that the watermark has not passed.
    pending: BinaryHeap<Reverse<(i64, u32)>>,
    keys: Keys,
    /// Time of the first row that waits for what follows, and its key; out of date where the key says otherwise.
    waiting: BinaryHeap<Reverse<(i64, u32)>>,
    /// Time of the last row and key, of keys that are forgotten some time after it.
    expiring: BinaryHeap<Reverse<(i64, u32)>>,
    /// That time.
    horizon: Option<i64>,
    watermark: Option<i64>,
    late: u64,
    late_rows: Option<LateRows>,
}

/// Keys whose rows are looked at in one step: all rows of each, one key after the other.
struct Work {
    keys: Vec<u32>,
    ends: Vec<usize>,
    numbers: Vec<u32>,
    times: Vec<i64>,
    rows: RecordBatch,
}

impl Over {
    pub fn new(spec: &OverSpec, input: &SchemaRef, output: &SchemaRef) -> Result<Over> {
        let OverWork::Ordered { functions, ttl_micros } = &spec.work else {
            return Err(Error::Internal("OVER in order without an order".into()));
        };
        let functions = Arc::new(functions.clone());
        let key_types: Vec<_> = spec
            .keys
            .iter()
            .map(|&key| input.field(key).data_type().clone())
            .collect();
        let by_time = functions
            .iter()
            .try_fold(0, |most: i64, of| of.horizon_micros().map(|micros| most.max(micros)));
        Ok(Over {
            order_columns: spec.order.iter().map(|order| order.column).collect(),
            order: RowOrder::new(&[], &spec.order, input)?,
            output: Arc::clone(output),
            rows: RowStore::new("rows", input),
            pending: BinaryHeap::new(),
            keys: Keys::new(&functions, &key_types, input)?,
            waiting: BinaryHeap::new(),
            expiring: BinaryHeap::new(),
            horizon: by_time.or(*ttl_micros),
            functions,
            spec: spec.clone(),
            watermark: None,
            late: 0,
            late_rows: None,
        })
    }

    /// Late rows go there, as they come.
    pub fn keeping_late_rows(mut self, late_rows: Option<LateRows>) -> Over {
        self.late_rows = late_rows;
        self
    }

    /// Works off the rows before `watermark`, in steps.
    fn advance(&mut self, watermark: i64, ended: bool, output: &mut Output) -> Result<()> {
        loop {
            let mut passed = Vec::new();
            while let Some(&Reverse((time, row))) = self.pending.peek()
                && (time < watermark || ended)
                && (passed.len() < ROWS_A_STEP || passed.last().is_some_and(|&(last, _)| last == time))
            {
                self.pending.pop();
                passed.push((time, row));
            }
            let next = self.pending.peek().map(|&Reverse((time, _))| time);
            let more = next.filter(|&time| time < watermark || ended);
            let upto = Passed {
                watermark: more.unwrap_or(watermark),
                ended: ended && more.is_none(),
            };
            self.step(&passed, upto, output)?;
            if more.is_none() {
                return self.expire(watermark);
            }
        }
    }

    fn step(&mut self, passed: &[(i64, u32)], upto: Passed, output: &mut Output) -> Result<()> {
        let mut touched = self.settle(passed)?;
        self.wake(upto, &mut touched);
        // Only keys that have rows come here; each once.
        touched.sort_unstable();
        touched.dedup();
        if touched.is_empty() {
            return Ok(());
        }
        let work = self.gather(touched)?;
        self.work_off(&work, upto, output)
    }

    /// Gives rows that the watermark has passed to their keys, in order; the keys.
    fn settle(&mut self, passed: &[(i64, u32)]) -> Result<Vec<u32>> {
        if passed.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<u32> = passed.iter().map(|&(_, row)| row).collect();
        let rows = self.rows.gather(&numbers)?;
        let columns: Vec<ArrayRef> = self.spec.keys.iter().map(|&key| Arc::clone(rows.column(key))).collect();
        let hashes: Vec<u64> = numbers.iter().map(|&row| self.rows.hash[row as usize]).collect();
        let keys = self.keys.intern(&columns, &hashes)?;
        let rank: Vec<(u32, i64)> = keys.iter().zip(passed).map(|(&key, &(time, _))| (key, time)).collect();
        for row in self.order.sort(&rows, &rank)? {
            let (key, time) = rank[row as usize];
            let number = numbers[row as usize];
            let key = self.keys.get_mut(key)?;
            if key.upto.is_some_and(|upto| time <= upto) {
                // Only after a restore from subtasks that had come further than others.
                self.late += 1;
                self.rows.remove(number);
            } else {
                key.rows.push(number);
            }
        }
        Ok(keys)
    }

    /// Keys with rows whose time of waiting is over.
    fn wake(&mut self, upto: Passed, touched: &mut Vec<u32>) {
        let micros = self.functions.iter().filter_map(OverFunction::waits_micros).max();
        if micros.is_none() && !upto.ended {
            return;
        }
        while let Some(&Reverse((time, key))) = self.waiting.peek()
            && (upto.ended || time.saturating_add(micros.unwrap_or(0)) < upto.watermark)
        {
            self.waiting.pop();
            if self.first_waiting(key) == Some(time) {
                touched.push(key);
            }
        }
    }

    fn first_waiting(&self, key: u32) -> Option<i64> {
        let key = self.keys.get(key)?;
        key.rows.get(key.kept).map(|&row| self.rows.time[row as usize])
    }

    fn gather(&self, keys: Vec<u32>) -> Result<Work> {
        let mut numbers = Vec::new();
        let mut ends = Vec::with_capacity(keys.len());
        for &key in &keys {
            if let Some(key) = self.keys.get(key) {
                numbers.extend_from_slice(&key.rows);
            }
            ends.push(numbers.len());
        }
        Ok(Work {
            rows: self.rows.gather(&numbers)?,
            times: numbers.iter().map(|&row| self.rows.time[row as usize]).collect(),
            numbers,
            keys,
            ends,
        })
    }

    fn work_off(&mut self, work: &Work, upto: Passed, output: &mut Output) -> Result<()> {
        let mut working = self
            .functions
            .iter()
            .map(|function| Working::new(function, &work.rows))
            .collect::<Result<Vec<_>>>()?;
        let peers = agreeing(&work.rows, &self.order_columns)?;
        let mut peers = peers.as_slice();
        let mut out: Vec<u32> = Vec::new();
        let mut start = 0;
        for (&key, &end) in work.keys.iter().zip(&work.ends) {
            let own = peers_of(&mut peers, start..end);
            let until = self.one_key(key, (start..end, &own), work, upto, &mut working)?;
            out.extend((start + until.start) as u32..(start + until.end) as u32);
            start = end;
        }
        self.put_out(work, &out, working, output)
    }

    /// Rows of the key that come out.
    fn one_key(
        &mut self,
        number: u32,
        (range, peers): (Range<usize>, &[Range<usize>]),
        work: &Work,
        upto: Passed,
        working: &mut [Working],
    ) -> Result<Range<usize>> {
        let functions = Arc::clone(&self.functions);
        let key = self.keys.get_mut(number)?;
        let segment = Segment::new(&work.times[range.clone()], peers, key.kept);
        let until = segment.known(&functions, upto);
        let part = Part {
            segment,
            at: range.start,
            until,
            rows_done: key.rows_done,
            groups_done: key.groups_done,
        };
        let segment = &part.segment;
        let mut needed = until;
        for ((function, working), running) in functions.iter().zip(working).zip(&mut key.running) {
            working.add(function, &part, running)?;
            let absorbed = usize::try_from(running.absorbed() - part.rows_before()).unwrap_or(0);
            needed = needed.min(segment.needed_from(function, until, absorbed, upto));
        }
        let new = segment.kept..until;
        if !new.is_empty() {
            key.rows_done += new.len() as i64;
            key.groups_done += part.groups_since(until - 1) + 1;
            key.upto = Some(segment.times[until - 1]);
        }
        if upto.ended {
            // Nothing follows.
            needed = segment.len();
        }
        key.kept = until.max(needed) - needed;
        for row in key.rows.drain(..needed) {
            self.rows.remove(row);
        }
        let waits = segment.times.get(until).copied().filter(|_| !upto.ended);
        let expires = key.upto.filter(|_| self.horizon.is_some() && !key.queued);
        if let Some(last) = expires {
            key.queued = true;
            self.expiring.push(Reverse((last, number)));
        }
        if let Some(time) = waits {
            self.waiting.push(Reverse((time, number)));
        }
        if upto.ended {
            self.keys.forget(number);
        } else {
            self.keys.note_changed(number);
        }
        Ok(new)
    }

    /// The rows `out` of `work` with what the functions give for them.
    fn put_out(&self, work: &Work, out: &[u32], working: Vec<Working>, output: &mut Output) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let carried = &work.rows.columns()[..self.spec.carried];
        let mut columns = take_columns(carried, &UInt32Array::from(out.to_vec()))?;
        for (at, working) in working.into_iter().enumerate() {
            columns.push(working.finish(self.output.field(self.spec.carried + at).data_type())?);
        }
        let rows = batch_of(&self.output, columns, out.len())?;
        let times: Vec<i64> = out.iter().map(|&row| work.times[row as usize]).collect();
        put_chunks(&rows, &times, output);
        Ok(())
    }

    /// Forgets keys whose last row is old enough.
    fn expire(&mut self, watermark: i64) -> Result<()> {
        let Some(horizon) = self.horizon else {
            return Ok(());
        };
        while let Some(&Reverse((last, number))) = self.expiring.peek()
            && last.saturating_add(horizon) < watermark
        {
            self.expiring.pop();
            // Other numbers are of a key that had this one before.
            let Some((key, upto)) = self.keys.get(number).and_then(|key| Some((key, key.upto?))) else {
                continue;
            };
            if upto > last && key.queued {
                self.expiring.push(Reverse((upto, number)));
            } else if upto == last && key.rows.len() == key.kept {
                let key = self.keys.get_mut(number)?;
                for row in std::mem::take(&mut key.rows) {
                    self.rows.remove(row);
                }
                self.keys.forget(number);
            } else if upto == last {
                // Its rows wait, and put it here again.
                self.keys.get_mut(number)?.queued = false;
            }
        }
        Ok(())
    }

    /// What can be said downstream when `watermark` has come: rows that wait are still to come out.
    fn promise(&mut self, watermark: i64) -> i64 {
        while let Some(&Reverse((time, key))) = self.waiting.peek() {
            if self.first_waiting(key) == Some(time) {
                return time.min(watermark);
            }
            self.waiting.pop();
        }
        // Rows that waited before a restart are here again.
        let pending = self.pending.peek().map_or(watermark, |&Reverse((time, _))| time);
        pending.min(watermark)
    }

    /// After a restore: rows that came out already back to their keys, in order; the others are passed anew.
    fn sort_restored(&mut self) -> Result<()> {
        let numbers = self.rows.live();
        for part in numbers.chunks(ROWS_A_STEP) {
            let rows = self.rows.gather(part)?;
            let columns: Vec<ArrayRef> = self.spec.keys.iter().map(|&key| Arc::clone(rows.column(key))).collect();
            let hashes: Vec<u64> = part.iter().map(|&row| self.rows.hash[row as usize]).collect();
            let keys = self.keys.intern(&columns, &hashes)?;
            for (&row, key) in part.iter().zip(keys) {
                let time = self.rows.time[row as usize];
                let key = self.keys.get_mut(key)?;
                if key.upto.is_some_and(|upto| time <= upto) {
                    key.rows.push(row);
                } else {
                    self.pending.push(Reverse((time, row)));
                }
            }
        }
        self.keys.drop_unknown();
        let keys: Vec<u32> = self.keys.all().collect();
        let work = self.gather(keys)?;
        let mut rank: Vec<(usize, i64)> = Vec::with_capacity(work.numbers.len());
        for (at, &end) in work.ends.iter().enumerate() {
            rank.extend(work.times[rank.len()..end].iter().map(|&time| (at, time)));
        }
        let sorted = self.order.sort(&work.rows, &rank)?;
        let mut sorted = sorted.into_iter().map(|row| work.numbers[row as usize]);
        for &number in &work.keys {
            let queue = self.horizon.is_some();
            let key = self.keys.get_mut(number)?;
            key.rows = sorted.by_ref().take(key.rows.len()).collect();
            key.kept = key.rows.len();
            key.queued = queue;
            if let Some(upto) = key.upto.filter(|_| queue) {
                self.expiring.push(Reverse((upto, number)));
            }
        }
        Ok(())
    }
}

/// The first of `peers`, as ranges inside of `rows`; they are taken away. Peers of two keys that are neighbours may be one range.
fn peers_of(peers: &mut &[Range<usize>], rows: Range<usize>) -> Vec<Range<usize>> {
    let mut own = Vec::new();
    while let Some(first) = peers.first()
        && first.start < rows.end
    {
        let start = first.start.max(rows.start) - rows.start;
        own.push(start..first.end.min(rows.end) - rows.start);
        if first.end > rows.end {
            break;
        }
        *peers = &peers[1..];
    }
    own
}

/// The hash of each row's key.
pub(crate) fn hashes_of(chunk: &Chunk, keys: &[usize]) -> Vec<u64> {
    let columns: Vec<ArrayRef> = keys.iter().map(|&key| Arc::clone(chunk.rows.column(key))).collect();
    key_hashes(&columns, chunk.len(), chunk.key_hashes.as_ref()).into_owned()
}

/// `rows` in chunks that are not too large.
pub(crate) fn put_chunks(rows: &RecordBatch, times: &[i64], output: &mut Output) {
    for start in (0..rows.num_rows()).step_by(CHUNK_ROWS_TARGET) {
        let len = CHUNK_ROWS_TARGET.min(rows.num_rows() - start);
        output.data(Chunk {
            rows: rows.slice(start, len),
            weights: Weights::AllInsert,
            event_time: Some(times[start..start + len].to_vec().into()),
            key_hashes: None,
        });
    }
}

/// Leaves out rows that are due before `watermark`, or have no time; counts and keeps them.
pub(crate) fn without_late(
    chunk: Chunk,
    due: &mut Vec<i64>,
    hashes: &mut Vec<u64>,
    watermark: Option<i64>,
    letters: Option<&LateRows>,
) -> Result<(Chunk, u64)> {
    let least = watermark.unwrap_or(i64::MIN);
    let is_late = |row: usize| due[row] == NO_EVENT_TIME || due[row] < least;
    let (late, kept): (Vec<u32>, Vec<u32>) = (0..chunk.len() as u32).partition(|&row| is_late(row as usize));
    if late.is_empty() {
        return Ok((chunk, 0));
    }
    if let (Some(letters), Some(watermark)) = (letters, watermark) {
        for &row in late.iter().filter(|&&row| due[row as usize] != NO_EVENT_TIME) {
            letters.keep_passed(&chunk, row, due[row as usize], watermark)?;
        }
    }
    *due = kept.iter().map(|&row| due[row as usize]).collect();
    *hashes = kept.iter().map(|&row| hashes[row as usize]).collect();
    let count = late.len() as u64;
    Ok((take_chunk(&chunk, &UInt32Array::from(kept))?, count))
}

impl Operator for Over {
    fn name(&self) -> &'static str {
        self.spec.name()
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        if chunk.weights != Weights::AllInsert {
            return Err(Error::Internal("OVER in order got a retraction".into()));
        }
        let mut times = chunk.event_time.as_ref().ok_or_else(no_event_time)?.to_vec();
        let mut hashes = hashes_of(&chunk, &self.spec.keys);
        let letters = self.late_rows.as_ref();
        let (chunk, late) = without_late(chunk, &mut times, &mut hashes, self.watermark, letters)?;
        self.late += late;
        let numbers = self.rows.add(&chunk.rows, &times, &hashes, None)?;
        for (number, time) in numbers.into_iter().zip(times) {
            self.pending.push(Reverse((time, number)));
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
            self.advance(time, false, output)?;
        }
        let promised = self.promise(time);
        output.watermark(Watermark::At(promised));
        Ok(())
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.watermark = Some(i64::MAX);
        self.advance(i64::MAX, true, output)?;
        // What a checkpoint still holds is dead with the last row.
        for number in self.rows.live() {
            self.rows.remove(number);
        }
        let keys: Vec<u32> = self.keys.all().collect();
        keys.into_iter().for_each(|key| self.keys.forget(key));
        Ok(())
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let rows = self.rows.write(context)?;
        let keys = self.keys.write(context)?;
        Ok(vec![rows, keys, closed_upto::write(self.watermark)?])
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.watermark = closed_upto::read(state)?;
        self.keys.restore(state)?;
        self.rows.restore(state)?;
        self.sort_restored()
    }

    fn state_size(&self) -> StateSize {
        let heaps = self.pending.capacity() + self.waiting.capacity() + self.expiring.capacity();
        StateSize {
            rows: (self.rows.len() + self.keys.len()) as u64,
            bytes: (self.rows.memory_bytes() + self.keys.memory_bytes() + heaps * 16) as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

//! ASOF joins: each row of the left input with the latest row of its key on the right, the version that held at its time.
//!
//! Rows of both sides wait until the watermark of both has passed them; then they are worked off together in order of time: a
//! version takes the place of the one before it, a row to be answered takes the version that is there. So each row is answered
//! once, when nothing can come any more that would change the answer; the output only grows, in order of time, with the event time
//! of the left rows. Of versions of one key and time the greatest counts, compared column by column from left to right.
//!
//! A row older than the watermark is late: dropped, counted, kept as a dead letter when its table says so. Rows without a time
//! are dropped and counted likewise. Neither input has retractions.
//!
//! State: tables `left` and `right` of rows (see `row_store`), and `watermark` (see `closed_upto`). Left rows are those that wait.
//! Right rows are those that wait and one version a key; which these are is in no table, since working off the right rows again
//! gives the same. With a TTL a version answers rows up to so much later than itself, and is then forgotten.

mod pending;
mod versions;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::datatypes::{DataType, SchemaRef, TimestampMicrosecondType};

use crate::engine::asof_spec::{AsofInput, AsofJoinSpec};
use crate::engine::dead_letters::LateRows;
use crate::engine::error::Error;
use crate::engine::graph::StreamShape;
use crate::engine::join_spec::{JoinColumn, Residual, Side};
use crate::engine::message::{Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::BuildContext;
use crate::engine::operators::asof::pending::Pending;
use crate::engine::operators::asof::versions::{Put, Versions};
use crate::engine::operators::bits::Bits;
use crate::engine::operators::closed_upto;
use crate::engine::operators::columns::{batch_of, evaluate, take_chunk};
use crate::engine::operators::over::{hashes_of, put_chunks, without_late};
use crate::engine::operators::row_order::RowOrder;
use crate::engine::operators::row_store::{NO_ROW, RowStore};
use crate::engine::operators::window::NO_EVENT_TIME;
use crate::state::table::{SnapshotContext, StateReader, TableWrite};

/// So many rows, and others of the last one's time, are worked on at a time.
const ROWS_A_STEP: usize = 65_536;

pub(crate) struct AsofJoin {
    spec: AsofJoinSpec,
    output: SchemaRef,
    left: Waiting,
    right: Waiting,
    versions: Versions,
    /// Of right rows.
    order: RowOrder,
    watermark: Option<i64>,
    late: u64,
}

/// The rows of one side that are kept, and those of them that the watermark has not passed.
struct Waiting {
    input: AsofInput,
    rows: RowStore,
    pending: Pending,
    late_rows: Option<LateRows>,
}

/// A row whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Event {
    time: i64,
    /// Of two rows of one time this is first.
    turn: u8,
    row: u32,
}

/// The rows of one side in a step, in order of time.
#[derive(Default)]
struct Due {
    rows: Vec<u32>,
    times: Vec<i64>,
}

impl Due {
    fn add(&mut self, event: Event) {
        self.rows.push(event.row);
        self.times.push(event.time);
    }
}

impl Waiting {
    fn new(name: &'static str, input: &AsofInput, context: &BuildContext) -> Waiting {
        let late = input.late_rows.as_deref();
        Waiting {
            input: input.clone(),
            rows: RowStore::new(name, &input.schema),
            pending: Pending::default(),
            late_rows: late.map(|table| context.dead_letters.late_rows(table, Arc::clone(&context.clock))),
        }
    }

    /// The times of a chunk's rows that are compared.
    fn times(&self, chunk: &Chunk) -> Result<Vec<i64>> {
        match self.input.time {
            Some(column) => micros(chunk.rows.column(column)),
            None => Ok(event_times(chunk)?.to_vec()),
        }
    }

    fn add(&mut self, chunk: &Chunk, times: &[i64], hashes: &[u64]) -> Result<()> {
        let numbers = self.rows.add(&chunk.rows, event_times(chunk)?, hashes, None)?;
        self.pending.add(times, &numbers);
        Ok(())
    }

    /// The key columns of rows, and the hashes of the keys.
    fn keys(&self, rows: &[u32]) -> Result<(Vec<ArrayRef>, Vec<u64>)> {
        let columns = self.rows.gather_columns(&self.input.keys, rows)?;
        let hashes = rows.iter().map(|&row| self.rows.hash[row as usize]).collect();
        Ok((columns, hashes))
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.rows.restore(state)?;
        let rows = self.rows.live();
        let times: Vec<i64> = match self.input.time {
            Some(column) => micros(&self.rows.gather_columns(&[column], &rows)?[0])?,
            None => rows.iter().map(|&row| self.rows.time[row as usize]).collect(),
        };
        self.pending.add(&times, &rows);
        Ok(())
    }

    fn clear(&mut self) {
        for row in self.rows.live() {
            self.rows.remove(row);
        }
    }

    fn memory_bytes(&self) -> usize {
        self.rows.memory_bytes() + self.pending.memory_bytes()
    }
}

impl AsofJoin {
    pub fn new(spec: &AsofJoinSpec, output: &StreamShape, context: &BuildContext) -> Result<AsofJoin> {
        let [left, right] = &spec.inputs;
        let key_types: Vec<DataType> = right
            .keys
            .iter()
            .map(|&key| right.schema.field(key).data_type().clone())
            .collect();
        Ok(AsofJoin {
            output: Arc::clone(&output.schema),
            left: Waiting::new("left", left, context),
            right: Waiting::new("right", right, context),
            versions: Versions::new(&key_types, spec.ttl_micros)?,
            order: RowOrder::new(&[], &[], &right.schema)?,
            spec: spec.clone(),
            watermark: None,
            late: 0,
        })
    }

    /// All rows whose time is before this have come.
    fn complete_before(&self) -> Option<i64> {
        let ahead = self.spec.ahead_micros;
        self.watermark.map(|watermark| watermark.saturating_add(ahead))
    }

    /// Leaves out rows with a NULL in their key that no row can match for it.
    fn without_null_keys(
        &self,
        side: Side,
        chunk: Chunk,
        times: &mut Vec<i64>,
        hashes: &mut Vec<u64>,
    ) -> Result<Chunk> {
        let keys = self.spec.inputs[side.index()].keys.iter().zip(&self.spec.null_equal);
        let nulls: Vec<_> = keys
            .filter(|(_, null_equal)| !**null_equal)
            .filter_map(|(&key, _)| chunk.rows.column(key).logical_nulls())
            .filter(|nulls| nulls.null_count() > 0)
            .collect();
        let is_shown = side == Side::Left && self.spec.outer;
        if nulls.is_empty() || is_shown {
            return Ok(chunk);
        }
        let has_key = |row: &u32| nulls.iter().all(|nulls| nulls.is_valid(*row as usize));
        let kept: Vec<u32> = (0..chunk.len() as u32).filter(has_key).collect();
        *times = kept.iter().map(|&row| times[row as usize]).collect();
        *hashes = kept.iter().map(|&row| hashes[row as usize]).collect();
        take_chunk(&chunk, &UInt32Array::from(kept))
    }

    /// Works off all rows before `time`, or all that there are.
    fn advance(&mut self, time: i64, ended: bool, output: &mut Output) -> Result<()> {
        let (left_turn, right_turn) = self.turns();
        let mut events: Vec<Event> = Vec::new();
        for (side, turn) in [(&mut self.left, left_turn), (&mut self.right, right_turn)] {
            let due = side.pending.take_before(time, ended);
            events.extend(due.into_iter().map(|(time, row)| Event { time, turn, row }));
        }
        // Two runs: merged in one pass.
        events.sort();
        let mut rest = events.as_slice();
        while !rest.is_empty() {
            let (step, after) = rest.split_at(step_len(rest));
            self.step(step, output)?;
            rest = after;
        }
        for row in self.versions.expire(time) {
            self.right.rows.remove(row);
        }
        Ok(())
    }

    /// Of rows of one time, which side comes first: a version that answers its own moment must be there before.
    fn turns(&self) -> (u8, u8) {
        if self.spec.at_same_time { (1, 0) } else { (0, 1) }
    }

    /// Works off `events`, which are all rows of their moments.
    fn step(&mut self, events: &[Event], output: &mut Output) -> Result<()> {
        let (left_turn, _) = self.turns();
        let (mut left, mut right) = (Due::default(), Due::default());
        for &event in events {
            let due = if event.turn == left_turn { &mut left } else { &mut right };
            due.add(event);
        }
        let (columns, hashes) = self.right.keys(&right.rows)?;
        let right_keys = self.versions.intern(&columns, &hashes)?;
        let outranked = self.outranked(&right, &right_keys)?;
        let (columns, hashes) = self.left.keys(&left.rows)?;
        let mut left_keys = self.versions.lookup(&columns, &hashes).into_iter();
        let mut right_keys = right_keys.into_iter().zip(0u32..);
        let mut found: Vec<u32> = Vec::with_capacity(left.rows.len());
        let mut gone: Vec<u32> = Vec::new();
        for event in events {
            if event.turn == left_turn {
                found.push(self.versions.find(left_keys.next().flatten(), event.time));
                continue;
            }
            let Some((key, at)) = right_keys.next() else {
                return Err(Error::Internal("an ASOF join lost a version".into()));
            };
            if outranked.contains(at) {
                gone.push(event.row);
                continue;
            }
            match self.versions.put(key, event.row, event.time) {
                Put::First => {}
                Put::Replaces(before) => gone.push(before),
                Put::TooLate => {
                    // Only after a restore from subtasks that had come further than others.
                    self.late += 1;
                    gone.push(event.row);
                }
            }
        }
        self.answer(&left, found, output)?;
        left.rows.iter().for_each(|&row| self.left.rows.remove(row));
        gone.into_iter().for_each(|row| self.right.rows.remove(row));
        Ok(())
    }

    /// Which of these versions are of the same key and time as a greater one.
    fn outranked(&self, due: &Due, keys: &[u32]) -> Result<Bits> {
        let mut tied: Vec<u32> = Vec::new();
        let mut at = 0;
        for moment in due.times.chunk_by(|one, other| one == other) {
            let from = tied.len();
            if moment.len() > 1 {
                tied.extend(at..at + moment.len() as u32);
                tied[from..].sort_unstable_by_key(|&at| keys[at as usize]);
                let alone = from + keep_repeated(&mut tied[from..], |at| keys[at as usize]);
                tied.truncate(alone);
            }
            at += moment.len() as u32;
        }
        let mut outranked = Bits::default();
        if tied.is_empty() {
            return Ok(outranked);
        }
        let rows: Vec<u32> = tied.iter().map(|&at| due.rows[at as usize]).collect();
        let rank: Vec<(i64, u32)> = tied
            .iter()
            .map(|&at| (due.times[at as usize], keys[at as usize]))
            .collect();
        let sorted = self.order.sort(&self.right.rows.gather(&rows)?, &rank)?;
        for pair in sorted.windows(2) {
            if rank[pair[0] as usize] == rank[pair[1] as usize] {
                outranked.insert(tied[pair[0] as usize]);
            }
        }
        Ok(outranked)
    }

    /// Puts rows out with the versions that were found for them.
    fn answer(&self, left: &Due, mut found: Vec<u32>, output: &mut Output) -> Result<()> {
        if let Some(residual) = &self.spec.residual {
            self.without_unsatisfied(residual, &left.rows, &mut found)?;
        }
        let mut rows = Vec::new();
        let shown: &[u32] = match self.spec.outer {
            true => &left.rows,
            false => {
                let is_found = |(_, found): &(&u32, &u32)| **found != NO_ROW;
                rows.extend(left.rows.iter().zip(&found).filter(is_found).map(|(&row, _)| row));
                found.retain(|&found| found != NO_ROW);
                &rows
            }
        };
        if shown.is_empty() {
            return Ok(());
        }
        let columns = self.gather(&self.spec.output, shown, &found)?;
        let batch = batch_of(&self.output, columns, shown.len())?;
        let times: Vec<i64> = shown.iter().map(|&row| self.left.rows.time[row as usize]).collect();
        put_chunks(&batch, &times, output);
        Ok(())
    }

    /// Takes versions away from rows that do not satisfy the condition with them.
    fn without_unsatisfied(&self, residual: &Residual, left: &[u32], found: &mut [u32]) -> Result<()> {
        let pairs: Vec<usize> = (0..left.len()).filter(|&at| found[at] != NO_ROW).collect();
        if pairs.is_empty() {
            return Ok(());
        }
        let rows: Vec<u32> = pairs.iter().map(|&at| left[at]).collect();
        let versions: Vec<u32> = pairs.iter().map(|&at| found[at]).collect();
        let columns = self.gather(&residual.columns, &rows, &versions)?;
        let batch = batch_of(&residual.schema, columns, rows.len())?;
        let verdict = evaluate(&residual.predicate, &batch)?;
        let verdict = verdict
            .as_boolean_opt()
            .ok_or_else(|| Error::Internal("the condition of a join is not boolean".into()))?;
        for (at, &pair) in pairs.iter().enumerate() {
            if verdict.is_null(at) || !verdict.value(at) {
                found[pair] = NO_ROW;
            }
        }
        Ok(())
    }

    /// `wanted` of rows side by side with versions.
    fn gather(&self, wanted: &[JoinColumn], rows: &[u32], versions: &[u32]) -> Result<Vec<ArrayRef>> {
        let of = |side: Side| -> Vec<usize> {
            let own = wanted.iter().filter(|column| column.side == side);
            own.map(|column| column.column).collect()
        };
        let mut left = self.left.rows.gather_columns(&of(Side::Left), rows)?.into_iter();
        let mut right = self.right.rows.gather_columns(&of(Side::Right), versions)?.into_iter();
        let column = |column: &JoinColumn| match column.side {
            Side::Left => left.next(),
            Side::Right => right.next(),
        };
        Ok(wanted.iter().filter_map(column).collect())
    }
}

/// How many of `events` to work on at once: all of a moment, since the greatest of its versions counts.
fn step_len(events: &[Event]) -> usize {
    let Some(last) = events.get(ROWS_A_STEP - 1) else {
        return events.len();
    };
    ROWS_A_STEP + events[ROWS_A_STEP..].partition_point(|event| event.time == last.time)
}

/// Moves what has an equal neighbour to the front of `sorted`; how many there are.
fn keep_repeated(sorted: &mut [u32], key: impl Fn(u32) -> u32) -> usize {
    let mut kept = 0;
    let mut start = 0;
    while start < sorted.len() {
        let of = key(sorted[start]);
        let same = sorted[start..].iter().take_while(|&&at| key(at) == of).count();
        if same > 1 {
            sorted.copy_within(start..start + same, kept);
            kept += same;
        }
        start += same;
    }
    kept
}

fn event_times(chunk: &Chunk) -> Result<&[i64]> {
    match &chunk.event_time {
        Some(times) => Ok(times),
        None => Err(Error::Internal("an ASOF join got rows without event time".into())),
    }
}

/// The moments of a column; none for NULL.
fn micros(column: &ArrayRef) -> Result<Vec<i64>> {
    let times = column
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or_else(|| Error::Internal("the time column of an ASOF join is not a timestamp".into()))?;
    let of = |row: usize| match times.is_null(row) {
        true => NO_EVENT_TIME,
        false => times.value(row),
    };
    Ok((0..times.len()).map(of).collect())
}

impl Operator for AsofJoin {
    fn name(&self) -> &'static str {
        self.spec.name()
    }

    fn process(&mut self, input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        if chunk.weights != Weights::AllInsert {
            return Err(Error::Internal("an ASOF join got a retraction".into()));
        }
        let complete_before = self.complete_before();
        let side = Side::BOTH[input];
        let waiting = match side {
            Side::Left => &self.left,
            Side::Right => &self.right,
        };
        let mut times = waiting.times(&chunk)?;
        let mut hashes = hashes_of(&chunk, &waiting.input.keys);
        let letters = waiting.late_rows.as_ref();
        let (chunk, late) = without_late(chunk, &mut times, &mut hashes, complete_before, letters)?;
        let chunk = self.without_null_keys(side, chunk, &mut times, &mut hashes)?;
        self.late += late;
        if chunk.is_empty() {
            return Ok(());
        }
        match side {
            Side::Left => self.left.add(&chunk, &times, &hashes),
            Side::Right => self.right.add(&chunk, &times, &hashes),
        }
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        let Watermark::At(time) = watermark else {
            output.watermark(watermark);
            return Ok(());
        };
        if self.watermark.is_none_or(|before| before < time) {
            self.watermark = Some(time);
            self.advance(time.saturating_add(self.spec.ahead_micros), false, output)?;
        }
        output.watermark(Watermark::At(time.saturating_sub(self.spec.hold_micros)));
        Ok(())
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.watermark = Some(i64::MAX);
        self.advance(i64::MAX, true, output)?;
        // What a checkpoint still holds is dead with the last row.
        self.right.clear();
        self.versions.clear();
        Ok(())
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let left = self.left.rows.write(context)?;
        let right = self.right.rows.write(context)?;
        Ok(vec![left, right, closed_upto::write(self.watermark)?])
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.watermark = closed_upto::read(state)?;
        self.left.restore(state)?;
        self.right.restore(state)
    }

    fn state_size(&self) -> StateSize {
        let bytes = self.left.memory_bytes() + self.right.memory_bytes() + self.versions.memory_bytes();
        StateSize {
            rows: (self.left.rows.len() + self.right.rows.len()) as u64,
            bytes: bytes as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

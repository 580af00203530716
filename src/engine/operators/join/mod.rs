//! Joins: a symmetric hash join over two inputs of weighted rows.
//!
//! A chunk is stored on its side and then matched with what the other side holds, so each pair is found once, when its
//! second row comes. Pairs come out at once with the product of the weights. Rows shown by themselves (of the preserved side
//! of an outer join, of semi, anti and mark joins) come out
//!
//! - when they are done, in a join bounded by time, unless it is a semi join;
//! - with the chunk that gave them their first partner, in a semi join whose inputs only grow;
//! - else at the next barrier, netted: what is put out at a barrier is what changed since the last one.
//!
//! Rows of a side are indexed by key, or, in joins bounded by time, wait without an index until they are asked for too often
//! ([`waiting_rows`]).
//!
//! When one input has ended, rows of the other wait for nobody: they are matched, shown if they are shown by themselves, and not
//! stored.
//!
//! So at every barrier all that was put out adds up to exactly the join of all that came in. NULL keys have no partner and are
//! not stored. A row that is late in a join bounded by time is dropped and counted.
//!
//! With a TTL rows are forgotten that long after they came or changed, silently: what was put out of them stays, and a
//! retraction that comes later takes back what the other side still knows of.
//!
//! Joined rows have the later event time of both; the output has event time when its shape says so. Weights below zero may
//! stand for a while, when a retraction overtakes its row.

mod arrival;
mod due_rows;
mod probe;
mod row_columns;
mod rows;
mod scan;
mod state;
mod waiting_rows;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, new_null_array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, SchemaRef};

use crate::clock::Clock;
use crate::engine::graph::StreamShape;
use crate::engine::join_spec::{JoinBound, JoinColumn, JoinKind, JoinSpec, Side, TimeBound};
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::BuildContext;
use crate::engine::operators::closed_upto;
use crate::engine::operators::columns::{as_int64, batch_of, take_buffer, take_chunk, take_columns, weights_from};
use crate::engine::operators::join::arrival::moments_of;
use crate::engine::operators::join::probe::{Cursor, Pairs, Partners};
use crate::engine::operators::join::rows::{RowStore, SharedKeys, StoreOptions};
use crate::engine::operators::join::state::SideTable;
use crate::engine::operators::join::waiting_rows::{WaitingRows, can_wait};
use crate::state::table::{SnapshotContext, StateReader, TableWrite};

/// At least so many rows are looked at for expiry at each barrier; of a large side a sixteenth.
const EXPIRY_STEP: usize = 4096;

/// When rows are shown by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timing {
    AtBarrier,
    AtOnce,
    WhenDone,
}

pub(crate) struct Join {
    spec: JoinSpec,
    timing: Timing,
    output: SchemaRef,
    /// The output has event time; the last column of stored rows is theirs.
    tracks_time: bool,
    keys: SharedKeys,
    /// The rows of each side: indexed here, or ..
    stores: [RowStore; 2],
    /// .. not indexed, for a side whose rows can wait, until it is asked too often.
    waiting: [Option<WaitingRows>; 2],
    tables: [SideTable; 2],
    /// A chunk not yet worked off.
    cursor: Option<Cursor>,
    /// What no earlier row comes after; of joins bounded by time.
    watermark: Option<i64>,
    /// No more rows come on this side.
    ended: [bool; 2],
    late: u64,
    clock: Arc<dyn Clock>,
    /// Where the search for expired rows goes on.
    expiry: [u32; 2],
}

/// Rows of one side by number, to be put out by themselves.
#[derive(Default)]
struct Alone {
    rows: Vec<u32>,
    weights: Vec<i64>,
    marks: Vec<bool>,
}

impl Alone {
    fn add(&mut self, row: u32, weight: i64, matched: bool) {
        if weight != 0 {
            self.rows.push(row);
            self.weights.push(weight);
            self.marks.push(matched);
        }
    }
}

impl Join {
    pub fn new(spec: &JoinSpec, output: &StreamShape, context: &BuildContext) -> Result<Join> {
        let tracks_time = output.event_time;
        let left = &spec.inputs[0];
        let key_types: Vec<DataType> = left
            .keys
            .iter()
            .map(|&key| left.schema.field(key).data_type().clone())
            .collect();
        let timing = timing(spec);
        let build = |side: Side| -> Result<(RowStore, SideTable, Option<WaitingRows>)> {
            let input = &spec.inputs[side.index()];
            let mut types: Vec<DataType> = input
                .schema
                .fields()
                .iter()
                .map(|field| field.data_type().clone())
                .collect();
            if tracks_time {
                types.push(DataType::Int64);
            }
            let stamped = ttl_of(spec).is_some();
            let options = StoreOptions {
                only_grows: input.append_only && !spec.kind.counts(side) && !stamped,
                counted: spec.kind.counts(side),
                tracks_touched: timing != Timing::WhenDone,
                timed: matches!(spec.bound, JoinBound::Time(_)),
                stamped,
            };
            Ok((
                RowStore::new(&types, options)?,
                SideTable::new(side, &types, &input.keys, options),
                (options.only_grows && options.timed && can_wait(&key_types)).then(WaitingRows::default),
            ))
        };
        let (left_store, left_table, left_waiting) = build(Side::Left)?;
        let (right_store, right_table, right_waiting) = build(Side::Right)?;
        Ok(Join {
            spec: spec.clone(),
            timing,
            output: Arc::clone(&output.schema),
            tracks_time,
            keys: SharedKeys::new(&key_types)?,
            stores: [left_store, right_store],
            waiting: [left_waiting, right_waiting],
            tables: [left_table, right_table],
            cursor: None,
            watermark: None,
            ended: [false, false],
            late: 0,
            clock: Arc::clone(&context.clock),
            expiry: [0, 0],
        })
    }

    fn time(&self) -> Option<&TimeBound> {
        match &self.spec.bound {
            JoinBound::Time(time) => Some(time),
            JoinBound::Kept { .. } => None,
        }
    }

    /// Leaves out rows that come too late, and counts them.
    fn without_late(&mut self, side: Side, chunk: Chunk) -> Result<Chunk> {
        let (Some(time), Some(watermark)) = (self.time(), self.watermark) else {
            return Ok(chunk);
        };
        let late = &time.rows[side.index()].late;
        let moments = moments_of(chunk.rows.column(late.column), late.offset_micros)?;
        if moments.iter().all(|&moment| moment > watermark) {
            return Ok(chunk);
        }
        // NULL has no time to be late by.
        let keep = |&row: &u32| moments[row as usize] > watermark || moments[row as usize] == i64::MIN;
        let kept: Vec<u32> = (0..chunk.len() as u32).filter(keep).collect();
        self.late += (chunk.len() - kept.len()) as u64;
        take_chunk(&chunk, &UInt32Array::from(kept))
    }

    /// Leaves out rows that no row can be a partner of; shows them where such rows are shown.
    fn without_unmatchable(&mut self, side: Side, chunk: Chunk, output: &mut Output) -> Result<Chunk> {
        let mut columns: Vec<usize> = Vec::new();
        for (&key, null_equal) in self.spec.inputs[side.index()].keys.iter().zip(&self.spec.null_equal) {
            if !null_equal {
                columns.push(key);
            }
        }
        if let Some(time) = self.time() {
            let moments = &time.rows[side.index()];
            columns.extend([moments.done.column, moments.late.column]);
        }
        columns.retain(|&column| chunk.rows.column(column).logical_null_count() > 0);
        if columns.is_empty() {
            return Ok(chunk);
        }
        let nulls: Vec<_> = columns
            .iter()
            .filter_map(|&column| chunk.rows.column(column).logical_nulls())
            .collect();
        let (gone, kept): (Vec<u32>, Vec<u32>) =
            (0..chunk.len() as u32).partition(|&row| nulls.iter().any(|nulls| nulls.is_null(row as usize)));
        if self.spec.kind.counts(side) && self.spec.kind.shows_alone(false) {
            let alone = take_chunk(&chunk, &UInt32Array::from(gone))?;
            let rows = alone.len();
            let own = |column: usize| Arc::clone(alone.rows.column(column));
            let columns = self.alone_columns(side, rows, own, || vec![false; rows]);
            output.data(Chunk {
                rows: batch_of(&self.output, columns, rows)?,
                weights: alone.weights.clone(),
                event_time: alone.event_time.clone().filter(|_| self.tracks_time),
                key_hashes: None,
            });
        }
        take_chunk(&chunk, &UInt32Array::from(kept))
    }

    /// The output columns of rows of `side` without a partner.
    fn alone_columns(
        &self,
        side: Side,
        rows: usize,
        mut own: impl FnMut(usize) -> ArrayRef,
        marks: impl FnOnce() -> Vec<bool>,
    ) -> Vec<ArrayRef> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.output.fields().len());
        for (at, column) in self.spec.output.iter().enumerate() {
            columns.push(if column.side == side {
                own(column.column)
            } else {
                new_null_array(self.output.field(at).data_type(), rows)
            });
        }
        if self.spec.kind.is_mark() {
            columns.push(Arc::new(BooleanArray::from(marks())));
        }
        columns
    }

    /// Works on the current chunk until it is done or a chunk of output is full; true when there is more to do.
    fn step(&mut self, output: &mut Output) -> Result<bool> {
        let Some(mut cursor) = self.cursor.take() else {
            return Ok(false);
        };
        let other = cursor.side.other().index();
        let pairs = cursor.next_pairs(&self.stores[other], CHUNK_ROWS_TARGET);
        let pairs = self.with_equal_keys(&cursor, pairs)?;
        let pairs = self.satisfying(&cursor, pairs)?;
        if !pairs.is_empty() {
            self.count(&mut cursor, &pairs);
            if self.spec.kind.has_pairs() {
                output.data(self.pair_chunk(&cursor, &pairs)?);
            }
        }
        if !cursor.is_finished() {
            self.cursor = Some(cursor);
            return Ok(true);
        }
        let side = cursor.side.index();
        self.show_passed(&cursor, output)?;
        for row in cursor.stored.zeroed {
            self.stores[side].bury(row, &mut self.keys)?;
        }
        if self.timing == Timing::AtOnce {
            self.flush(output)?;
        }
        Ok(false)
    }

    /// Adds the pairs to the counts of both sides.
    fn count(&mut self, cursor: &mut Cursor, pairs: &Pairs) {
        if cursor.passing.is_none() && self.stores.iter().all(|store| store.counted.is_none()) {
            return;
        }
        let weights = partners(&self.stores, &self.waiting, cursor.side.other()).weights(&pairs.partners);
        let weight = |at: usize| weights.as_ref().map_or(1, |weights| weights[at]);
        let [left, right] = &mut self.stores;
        let (own, other) = match cursor.side {
            Side::Left => (left, right),
            Side::Right => (right, left),
        };
        if let Some(matched) = &mut cursor.passing {
            for (at, &row) in pairs.rows.iter().enumerate() {
                matched[row as usize] += weight(at);
            }
        } else if let Some(counted) = &mut own.counted {
            for (at, &row) in pairs.rows.iter().enumerate() {
                if cursor.stored.uncounted[row as usize] {
                    counted.matches[cursor.stored.rows[row as usize] as usize] += weight(at);
                }
            }
        }
        if let Some(counted) = &mut other.counted {
            for (&row, &partner) in pairs.rows.iter().zip(&pairs.partners) {
                counted.matches[partner as usize] += cursor.weight(row);
                counted.touch(partner);
                other.changed.insert(partner);
            }
        }
    }

    /// Shows rows that were not stored, as far as they are shown by themselves.
    fn show_passed(&self, cursor: &Cursor, output: &mut Output) -> Result<()> {
        let Some(matched) = &cursor.passing else {
            return Ok(());
        };
        let shown = |&row: &u32| self.spec.kind.shows_alone(matched[row as usize] > 0);
        let rows: Vec<u32> = (0..matched.len() as u32).filter(shown).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let marks = || rows.iter().map(|&row| matched[row as usize] > 0).collect();
        let indices = UInt32Array::from(rows.clone());
        let own = take_columns(&cursor.columns, &indices)?;
        let own = |column: usize| Arc::clone(&own[column]);
        let columns = self.alone_columns(cursor.side, rows.len(), own, marks);
        output.data(Chunk {
            rows: batch_of(&self.output, columns, rows.len())?,
            weights: weights_from(rows.iter().map(|&row| cursor.weight(row)).collect()),
            event_time: cursor.times.as_ref().map(|times| take_buffer(times, &indices)),
            key_hashes: None,
        });
        Ok(())
    }

    /// Rows of `side` get no partner any more: shows those that are shown by themselves, and forgets all.
    fn release(&mut self, side: Side, output: &mut Output) -> Result<()> {
        if self.stores[side.index()].counted.is_none() {
            // What a checkpoint holds of them is read and dropped again at the next start.
            self.stores[side.index()].clear(&mut self.keys);
            if let Some(waiting) = &mut self.waiting[side.index()] {
                waiting.clear();
            }
            return Ok(());
        }
        let rows: Vec<u32> = self.stores[side.index()].live().collect();
        match self.timing {
            Timing::WhenDone => {
                for rows in rows.chunks(CHUNK_ROWS_TARGET) {
                    self.show_done(side, rows, output)?;
                }
            }
            Timing::AtBarrier | Timing::AtOnce => self.flush(output)?,
        }
        // A checkpoint must not hold what was shown.
        for row in rows {
            self.stores[side.index()].forget(row, &mut self.keys)?;
        }
        Ok(())
    }

    fn pair_chunk(&self, cursor: &Cursor, pairs: &Pairs) -> Result<Chunk> {
        let other = partners(&self.stores, &self.waiting, cursor.side.other());
        let mut wanted = self.spec.output.clone();
        if self.tracks_time {
            wanted.push(self.time_column(cursor.side.other()));
        }
        let mut columns = cursor.gather(other, pairs, &wanted)?;
        let event_time = match (&cursor.times, self.tracks_time.then(|| columns.pop()).flatten()) {
            (Some(mine), Some(theirs)) => {
                let theirs = as_int64(&theirs)?.values();
                let later = |(&row, &theirs): (&u32, &i64)| mine[row as usize].max(theirs);
                Some(pairs.rows.iter().zip(theirs).map(later).collect::<ScalarBuffer<i64>>())
            }
            _ => None,
        };
        let theirs = other.weights(&pairs.partners);
        let theirs = |at: usize| theirs.as_ref().map_or(1, |weights| weights[at]);
        let weight = |(at, &row): (usize, &u32)| cursor.weight(row) * theirs(at);
        Ok(Chunk {
            rows: batch_of(&self.output, columns, pairs.len())?,
            weights: weights_from(pairs.rows.iter().enumerate().map(weight).collect()),
            event_time,
            key_hashes: None,
        })
    }

    /// Where the stored rows of `side` have their event time.
    fn time_column(&self, side: Side) -> JoinColumn {
        JoinColumn {
            side,
            column: self.spec.inputs[side.index()].schema.fields().len(),
        }
    }

    /// Shows what became of rows that are shown by themselves.
    fn flush(&mut self, output: &mut Output) -> Result<()> {
        for side in Side::BOTH {
            let Some(counted) = &mut self.stores[side.index()].counted else {
                continue;
            };
            let touched = counted.take_touched();
            for part in touched.chunks(CHUNK_ROWS_TARGET / 2) {
                self.flush_rows(side, part, output)?;
            }
        }
        Ok(())
    }

    fn flush_rows(&mut self, side: Side, rows: &[u32], output: &mut Output) -> Result<()> {
        let kind = self.spec.kind;
        let store = &mut self.stores[side.index()];
        let (mut gone, mut new) = (Alone::default(), Alone::default());
        for &row in rows {
            if !store.is_known(row) {
                continue;
            }
            let weight = store.weight[row as usize];
            let Some(counted) = &mut store.counted else {
                continue;
            };
            let matched = counted.is_matched(row);
            let wanted = if kind.shows_alone(matched) { weight } else { 0 };
            let shown = counted.shown[row as usize];
            let mark = counted.shown_matched.contains(row);
            if kind.is_mark() && shown != 0 && mark != matched {
                gone.add(row, -shown, mark);
                new.add(row, wanted, matched);
            } else if wanted < shown {
                gone.add(row, wanted - shown, matched);
            } else {
                new.add(row, wanted - shown, matched);
            }
            note_shown(counted, row, wanted, matched);
        }
        gone.rows.append(&mut new.rows);
        gone.weights.append(&mut new.weights);
        gone.marks.append(&mut new.marks);
        self.show(side, gone, output)?;
        for &row in rows {
            self.stores[side.index()].bury(row, &mut self.keys)?;
        }
        Ok(())
    }

    fn show(&self, side: Side, alone: Alone, output: &mut Output) -> Result<()> {
        if alone.rows.is_empty() {
            return Ok(());
        }
        let store = &self.stores[side.index()];
        let wanted: Vec<usize> = self
            .spec
            .output
            .iter()
            .filter(|of| of.side == side)
            .map(|of| of.column)
            .collect();
        let mut own = store.rows.gather(&wanted, &alone.rows)?.into_iter();
        let rows = alone.rows.len();
        let own = |_| own.next().expect("one was gathered for each column of this side");
        let event_time = match self.tracks_time {
            true => {
                let times = store.rows.gather(&[self.time_column(side).column], &alone.rows)?;
                Some(as_int64(&times[0])?.values().clone())
            }
            false => None,
        };
        let columns = self.alone_columns(side, rows, own, || alone.marks);
        output.data(Chunk {
            rows: batch_of(&self.output, columns, rows)?,
            weights: weights_from(alone.weights),
            event_time,
            key_hashes: None,
        });
        Ok(())
    }

    /// Forgets rows that no partner can come for, and shows those that are shown without one.
    fn expire_by_time(&mut self, watermark: i64, output: &mut Output) -> Result<()> {
        for waiting in self.waiting.iter_mut().flatten() {
            waiting.expire(watermark)?;
        }
        for side in Side::BOTH {
            loop {
                let done = self.stores[side.index()].take_done(watermark, CHUNK_ROWS_TARGET);
                if done.is_empty() {
                    break;
                }
                if self.timing == Timing::WhenDone {
                    self.show_done(side, &done, output)?;
                }
                for row in done {
                    self.stores[side.index()].drop_done(row, &mut self.keys)?;
                }
            }
        }
        Ok(())
    }

    /// Shows rows that no partner can come for.
    fn show_done(&self, side: Side, rows: &[u32], output: &mut Output) -> Result<()> {
        let store = &self.stores[side.index()];
        let Some(counted) = &store.counted else {
            return Ok(());
        };
        let mut alone = Alone::default();
        for &row in rows {
            let matched = counted.is_matched(row);
            if self.spec.kind.shows_alone(matched) {
                alone.add(row, store.weight[row as usize], matched);
            }
        }
        self.show(side, alone, output)
    }

    /// Forgets rows that nothing happened to for the TTL.
    fn expire_by_age(&mut self) -> Result<()> {
        let Some(ttl_ms) = ttl_of(&self.spec) else {
            return Ok(());
        };
        let ttl_ms = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        let deadline = self.clock.now_millis().saturating_sub(ttl_ms);
        for (store, next) in self.stores.iter_mut().zip(&mut self.expiry) {
            let capacity = store.capacity();
            let step = EXPIRY_STEP.max(capacity.div_ceil(16)).min(capacity);
            for _ in 0..step {
                let row = *next;
                *next = if (row + 1) as usize >= capacity { 0 } else { row + 1 };
                let stamp = store.stamps.as_ref().and_then(|stamps| stamps.get(row as usize));
                let is_old = stamp.is_some_and(|&stamp| stamp <= deadline);
                // Below zero at a barrier is what remains of the retraction of a forgotten row.
                if store.is_live(row) && (is_old || store.weight[row as usize] < 0) {
                    store.forget(row, &mut self.keys)?;
                }
            }
        }
        Ok(())
    }
}

/// The rows of `side`, for rows of the other to be matched with.
fn partners<'a>(stores: &'a [RowStore; 2], waiting: &'a [Option<WaitingRows>; 2], side: Side) -> Partners<'a> {
    Partners {
        store: &stores[side.index()],
        waiting: waiting[side.index()].as_ref(),
    }
}

fn note_shown(counted: &mut rows::Counted, row: u32, weight: i64, matched: bool) {
    counted.shown[row as usize] = weight;
    if matched {
        counted.shown_matched.insert(row);
    } else {
        counted.shown_matched.remove(row);
    }
}

fn ttl_of(spec: &JoinSpec) -> Option<u64> {
    match spec.bound {
        JoinBound::Kept { ttl_ms } => ttl_ms,
        JoinBound::Time(_) => None,
    }
}

fn timing(spec: &JoinSpec) -> Timing {
    let only_grows = spec.inputs.iter().all(|input| input.append_only);
    match (&spec.bound, spec.kind) {
        (JoinBound::Time(_), JoinKind::Semi(_)) => Timing::AtOnce,
        (JoinBound::Time(_), _) => Timing::WhenDone,
        (JoinBound::Kept { .. }, JoinKind::Semi(_)) if only_grows => Timing::AtOnce,
        (JoinBound::Kept { .. }, _) => Timing::AtBarrier,
    }
}

impl Operator for Join {
    fn name(&self) -> &'static str {
        self.spec.name()
    }

    fn process(&mut self, input: usize, chunk: Chunk, output: &mut Output) -> Result<()> {
        let side = Side::BOTH[input];
        let chunk = self.without_late(side, chunk)?;
        let chunk = self.without_unmatchable(side, chunk, output)?;
        if !chunk.is_empty() {
            self.cursor = Some(self.begin(side, &chunk)?);
            self.step(output)?;
        }
        Ok(())
    }

    fn resume(&mut self, output: &mut Output) -> Result<bool> {
        self.step(output)
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        let hold = self.time().map_or(0, |time| time.hold_micros);
        if let Watermark::At(time) = watermark
            && self.time().is_some()
            && self.watermark.is_none_or(|before| before < time)
        {
            self.watermark = Some(time);
            self.expire_by_time(time, output)?;
        }
        output.watermark(match watermark {
            Watermark::At(time) => Watermark::At(time.saturating_sub(hold)),
            Watermark::Idle => Watermark::Idle,
        });
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        self.flush(output)?;
        self.expire_by_age()
    }

    fn on_input_end(&mut self, input: usize, output: &mut Output) -> Result<()> {
        let side = Side::BOTH[input];
        self.ended[input] = true;
        self.release(side.other(), output)
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.flush(output)?;
        if self.time().is_some() {
            // What a checkpoint still holds is dead with the last row.
            self.watermark = Some(i64::MAX);
            self.expire_by_time(i64::MAX, output)?;
        }
        Ok(())
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let mut writes = Vec::with_capacity(3);
        for side in Side::BOTH.map(Side::index) {
            let table = &self.tables[side];
            writes.push(match &mut self.waiting[side] {
                Some(waiting) => table.write_waiting(waiting, context, self.watermark)?,
                None => table.write(&mut self.stores[side], &mut self.keys, context, self.watermark)?,
            });
        }
        if self.time().is_some() {
            writes.push(closed_upto::write(self.watermark)?);
        }
        Ok(writes)
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        if self.time().is_some() {
            self.watermark = closed_upto::read(state)?;
        }
        let watermark = self.watermark;
        let is_done = |moment| watermark.is_some_and(|watermark| moment <= watermark);
        for side in Side::BOTH {
            let (table, store, keys) = (
                &self.tables[side.index()],
                &mut self.stores[side.index()],
                &mut self.keys,
            );
            let mut waiting = self.waiting[side.index()].as_mut();
            let late = self.spec.late_moment(side);
            state.read(table.name, &mut |rows| match (&mut waiting, late) {
                (Some(waiting), Some(late)) => Ok(table.read_waiting(waiting, &rows, late, is_done)?),
                _ => Ok(table.read(store, keys, &rows, is_done)?),
            })?;
        }
        if self.timing == Timing::WhenDone {
            return Ok(());
        }
        // What a barrier showed is what its snapshot implies.
        for store in &mut self.stores {
            let live: Vec<u32> = store.live().collect();
            let Some(counted) = &mut store.counted else {
                continue;
            };
            for row in live {
                let matched = counted.is_matched(row);
                let shown = if self.spec.kind.shows_alone(matched) {
                    store.weight[row as usize]
                } else {
                    0
                };
                note_shown(counted, row, shown, matched);
            }
        }
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        let waiting = || self.waiting.iter().flatten();
        let rows = self
            .stores
            .iter()
            .map(RowStore::len)
            .chain(waiting().map(WaitingRows::len));
        let bytes = self.stores.iter().map(RowStore::memory_bytes);
        let bytes = bytes.chain(waiting().map(WaitingRows::memory_bytes)).sum::<usize>();
        StateSize {
            rows: rows.map(|rows| rows as u64).sum(),
            bytes: (bytes + self.keys.memory_bytes()) as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

//! GROUP BY a session: for each key, rows that follow each other by less than the gap.
//!
//! A session is [first row, last row + gap). A row that is less than the gap away from an open session extends it, to either
//! side; one that lies between two makes them one. A session is emitted, once, when the watermark reaches its end, and all
//! are at the end of input. A row is late when no open session takes it and a session of its own would be over already: it
//! is dropped and counted, and kept as a dead letter when the table says so.
//!
//! With [`EmitMode::OnUpdate`] open sessions are shown at every barrier; with allowed lateness (see `allowed_lateness`) sessions
//! that have ended stay for that long. A session that was shown and grows, or becomes part of another, is taken back as it
//! was, before the watermark goes on; what became of it is shown at the barrier, unless it has to end anew before.
//!
//! Rows of the result have the last microsecond of the session as their event time.
//!
//! A session is a group of the group table, by key and start: when rows out of order move its start, or two sessions
//! become one, what the former groups had is added to the new one. Input has no retractions.
//!
//! State: tables `sessions` and `session_values` (see `group_state`) by the key's hash; the time of a session's last row is a
//! hidden last aggregate. Table `watermark`: see `closed_upto`. What was shown is not stored: at the barrier of the snapshot it
//! is every session, or every one that has ended.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::engine::dead_letters::LateRows;
use crate::engine::error::Error;
use crate::engine::graph::{
    AggregateCall, AggregateFunction, AggregateSpec, EmitMode, WindowAggregateSpec, WindowSpec,
};
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::aggregates::AggregateLayout;
use crate::engine::operators::allowed_lateness::AllowedLateness;
use crate::engine::operators::closed_upto;
use crate::engine::operators::columns::{as_int64, batch_of, int64, take_chunk, weights_of};
use crate::engine::operators::group_state::{StateShape, TableNames};
use crate::engine::operators::group_table::GroupTable;
use crate::engine::operators::keys::{GroupKeys, key_hashes};
use crate::engine::operators::partial_aggregate::no_event_time;
use crate::engine::operators::window::NO_EVENT_TIME;
use crate::state::table::{SnapshotContext, StateReader, TableKind, TableWrite};
use crate::types::record_batch::batch_of_rows;

const TABLES: TableNames = TableNames {
    groups: "sessions",
    values: "session_values",
};

/// A session that has no group yet.
const NO_GROUP: u32 = u32::MAX;

const NOT_DUE: i64 = i64::MIN;

pub(crate) struct SessionAggregate {
    gap: i64,
    emit: EmitMode,
    lateness: AllowedLateness,
    output: SchemaRef,
    layout: Arc<AggregateLayout>,
    /// Input with the event time as last column.
    timed_input: SchemaRef,
    /// Groups by key and start.
    table: GroupTable,
    shape: StateShape,
    keys: GroupKeys,
    /// Open sessions of each key, few as a rule.
    of_key: Vec<Vec<u32>>,
    sessions: Vec<Session>,
    free: Vec<u32>,
    /// End at the time of entry, or when an ended session is over; session, its `born`: may be out of date, which shows when
    /// it is due.
    due: BinaryHeap<Reverse<(i64, u32, u64)>>,
    born: u64,
    /// Rows shown before that no longer hold.
    taken_back: Vec<Chunk>,
    /// Sessions changed since the last barrier, with their `born`.
    changed: Vec<(u32, u64)>,
    watermark: Option<i64>,
    late: u64,
    late_rows: Option<LateRows>,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    key: u32,
    first: i64,
    last: i64,
    group: u32,
    /// The start by which the group is known.
    group_start: i64,
    /// Tells this session from others that had its number; 0: none.
    born: u64,
    /// It became part of this one.
    merged_into: Option<u32>,
    /// First and end as they were last emitted, when that still holds.
    shown: Option<(i64, i64)>,
    /// It is among the changed ones.
    changed: bool,
    /// The entry in `due` that counts; `NOT_DUE` when it has been taken out.
    due: i64,
}

/// Sessions that a chunk has changed.
#[derive(Default)]
struct Touched {
    /// Session of each row that is not late.
    sessions: Vec<u32>,
    rows: Vec<u32>,
    /// Sessions that became part of another.
    merged: Vec<u32>,
}

impl SessionAggregate {
    pub fn new(spec: &WindowAggregateSpec, input: &SchemaRef, output: &SchemaRef) -> Result<SessionAggregate> {
        let WindowSpec::Session { gap_micros } = spec.window else {
            return Err(Error::Internal("a session aggregate without a gap".into()));
        };
        if !spec.aggregate.append_only_input {
            return Err(Error::Internal(
                "a session aggregate over input with retractions".into(),
            ));
        }
        let mut fields: Vec<Field> = input.fields().iter().map(|field| field.as_ref().clone()).collect();
        fields.push(Field::new("(time)", DataType::Int64, true));
        let timed_input = Arc::new(Schema::new(fields));
        let layout = AggregateLayout::new(&with_last(&spec.aggregate, input.fields().len()), &timed_input)?;
        let key_types = layout.key_types();
        let mut group_types = key_types.clone();
        group_types.push(DataType::Int64);
        let mut table = GroupTable::new(&layout, &group_types, false)?;
        Ok(SessionAggregate {
            gap: gap_micros.max(1),
            emit: spec.emit,
            lateness: AllowedLateness::new(spec.allowed_lateness_micros),
            output: Arc::clone(output),
            // Without a key there is one subtask, and any hash will do.
            shape: StateShape::new(TABLES, &mut table, &group_types, TableKind::GlobalKeyed)
                .hashed_by(key_types.len().max(1)),
            keys: GroupKeys::new(&key_types)?,
            layout,
            timed_input,
            table,
            of_key: Vec::new(),
            sessions: Vec::new(),
            free: Vec::new(),
            due: BinaryHeap::new(),
            born: 0,
            taken_back: Vec::new(),
            changed: Vec::new(),
            watermark: None,
            late: 0,
            late_rows: None,
        })
    }

    /// Late rows go there, as they come into the aggregate.
    pub fn keeping_late_rows(mut self, late_rows: Option<LateRows>) -> SessionAggregate {
        self.late_rows = late_rows;
        self
    }

    fn count_late(&mut self, chunk: &Chunk, row: u32, time: i64) -> Result<()> {
        self.late += 1;
        match (&self.late_rows, self.watermark) {
            (Some(letters), Some(watermark)) if time != NO_EVENT_TIME => {
                letters.keep(chunk, Some(&[row]), (time, time.saturating_add(self.gap)), watermark)
            }
            _ => Ok(()),
        }
    }

    fn end_of(&self, session: u32) -> i64 {
        self.sessions[session as usize].last.saturating_add(self.gap)
    }

    /// The session of a row, if it is not late.
    fn place(&mut self, key: u32, time: i64, touched: &mut Touched) -> Option<u32> {
        let mut found: Option<u32> = None;
        let mut at = 0;
        while at < self.of_key[key as usize].len() {
            let number = self.of_key[key as usize][at];
            let session = self.sessions[number as usize];
            let takes = time < session.last.saturating_add(self.gap) && session.first < time.saturating_add(self.gap);
            if !takes {
                at += 1;
                continue;
            }
            match found {
                None => {
                    let session = &mut self.sessions[number as usize];
                    session.first = session.first.min(time);
                    session.last = session.last.max(time);
                    found = Some(number);
                    at += 1;
                }
                Some(into) => {
                    let target = &mut self.sessions[into as usize];
                    target.first = target.first.min(session.first);
                    target.last = target.last.max(session.last);
                    self.sessions[number as usize].merged_into = Some(into);
                    self.of_key[key as usize].swap_remove(at);
                    touched.merged.push(number);
                }
            }
        }
        if found.is_none() {
            let end = time.saturating_add(self.gap);
            if self.lateness.is_over(end, self.watermark) {
                return None;
            }
            found = Some(self.open(key, time, time, NO_GROUP));
        }
        found
    }

    fn open(&mut self, key: u32, first: i64, last: i64, group: u32) -> u32 {
        self.born += 1;
        let session = Session {
            key,
            first,
            last,
            group,
            group_start: first,
            born: self.born,
            merged_into: None,
            shown: None,
            changed: false,
            due: NOT_DUE,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.sessions[number as usize] = session;
                number
            }
            None => {
                self.sessions.push(session);
                (self.sessions.len() - 1) as u32
            }
        };
        self.of_key[key as usize].push(number);
        self.look_again_at(number, last.saturating_add(self.gap));
        number
    }

    fn look_again_at(&mut self, number: u32, due: i64) {
        let session = &mut self.sessions[number as usize];
        session.due = due;
        self.due.push(Reverse((due, number, session.born)));
    }

    fn resolve(&self, mut session: u32) -> u32 {
        while let Some(into) = self.sessions[session as usize].merged_into {
            session = into;
        }
        session
    }

    /// Gives sessions that are new, or start elsewhere, a group of their own, and them what the former groups had.
    fn settle(&mut self, touched: &Touched) -> Result<()> {
        let mut moved: Vec<u32> = touched
            .sessions
            .iter()
            .copied()
            .filter(|&number| {
                let session = &self.sessions[number as usize];
                session.merged_into.is_none() && (session.group == NO_GROUP || session.group_start != session.first)
            })
            .collect();
        // Without a row of this chunk a session can only have grown by taking in another.
        moved.extend(
            touched
                .merged
                .iter()
                .map(|&number| self.resolve(number))
                .filter(|&number| {
                    let session = &self.sessions[number as usize];
                    session.group == NO_GROUP || session.group_start != session.first
                }),
        );
        moved.sort_unstable();
        moved.dedup();
        let key_numbers: Vec<u32> = moved.iter().map(|&number| self.sessions[number as usize].key).collect();
        let starts = moved
            .iter()
            .map(|&number| self.sessions[number as usize].first)
            .collect();
        let mut columns = self.keys.gather(&key_numbers);
        let hashes: ScalarBuffer<u64> = key_numbers.iter().map(|&key| self.keys.hash_of(key)).collect();
        let hashes = (!columns.is_empty()).then_some(&hashes);
        columns.push(int64(starts));
        let groups = self.table.assign(&columns, moved.len(), hashes)?;
        for (&number, &group) in moved.iter().zip(&groups) {
            let former = self.sessions[number as usize].group;
            if former != NO_GROUP {
                self.move_rows(former, group)?;
            }
            let session = &mut self.sessions[number as usize];
            session.group = group;
            session.group_start = session.first;
        }
        for &number in &touched.merged {
            let from = self.sessions[number as usize].group;
            let into = self.sessions[self.resolve(number) as usize].group;
            if from != NO_GROUP && from != into {
                self.move_rows(from, into)?;
            }
        }
        Ok(())
    }

    fn move_rows(&mut self, from: u32, into: u32) -> Result<()> {
        self.table.aggregates.absorb(from, into)?;
        self.table.changed.insert(into);
        self.table.bury(from);
        Ok(())
    }

    fn forget(&mut self, number: u32) {
        self.sessions[number as usize].born = 0;
        self.sessions[number as usize].merged_into = None;
        self.free.push(number);
    }

    /// Whether sessions may be emitted more than once.
    fn is_updating(&self) -> bool {
        self.emit == EmitMode::OnUpdate || self.lateness.is_any()
    }

    /// Takes back what was shown of sessions that a chunk is about to change, and notes that they change.
    fn take_back(&mut self, touched: &Touched) -> Result<()> {
        let mut numbers: Vec<u32> = touched.sessions.iter().chain(&touched.merged).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        for &number in &numbers {
            let number = self.resolve(number);
            let end = self.end_of(number);
            let has_ended = self.watermark.is_some_and(|watermark| end <= watermark);
            // It had ended, and has to end again.
            if !has_ended && self.sessions[number as usize].due > end {
                self.look_again_at(number, end);
            }
            let session = &mut self.sessions[number as usize];
            if !std::mem::replace(&mut session.changed, true) {
                self.changed.push((number, session.born));
            }
        }
        let shown: Vec<(u32, (i64, i64))> = numbers
            .into_iter()
            .filter_map(|number| Some((number, self.sessions[number as usize].shown.take()?)))
            .collect();
        for part in shown.chunks(CHUNK_ROWS_TARGET) {
            let weights = Weights::Signed(vec![-1; part.len()].into());
            let chunk = self.rows_of(part, weights)?;
            self.taken_back.push(chunk);
        }
        Ok(())
    }

    fn emit_taken_back(&mut self, output: &mut Output) {
        for chunk in self.taken_back.drain(..) {
            output.data(chunk);
        }
    }

    /// Shows what became of the changed sessions, but for those that are only shown when they end.
    fn emit_changed(&mut self, output: &mut Output) -> Result<()> {
        let mut visible = Vec::with_capacity(self.changed.len());
        for (number, born) in std::mem::take(&mut self.changed) {
            let end = self.end_of(number);
            let has_ended = self.watermark.is_some_and(|watermark| end <= watermark);
            let session = &mut self.sessions[number as usize];
            if session.born != born {
                continue;
            }
            session.changed = false;
            if session.shown.is_none() && (self.emit == EmitMode::OnUpdate || has_ended) {
                visible.push(number);
            }
        }
        self.show(visible, output)
    }

    /// Emits sessions, in order of time.
    fn show(&mut self, mut numbers: Vec<u32>, output: &mut Output) -> Result<()> {
        numbers.sort_unstable_by_key(|&number| {
            let session = &self.sessions[number as usize];
            (session.last, session.first, session.born)
        });
        for part in numbers.chunks(CHUNK_ROWS_TARGET) {
            let bounds: Vec<(u32, (i64, i64))> = part
                .iter()
                .map(|&number| (number, (self.sessions[number as usize].first, self.end_of(number))))
                .collect();
            output.data(self.rows_of(&bounds, Weights::AllInsert)?);
            for (number, bounds) in bounds {
                self.sessions[number as usize].shown = Some(bounds);
            }
        }
        Ok(())
    }

    /// Emits the sessions whose end the watermark has reached, and forgets those that are over.
    fn close(&mut self, watermark: i64, output: &mut Output) -> Result<()> {
        let (mut ended, mut over) = (Vec::new(), Vec::new());
        while let Some(&Reverse((due, number, born))) = self.due.peek()
            && due <= watermark
        {
            self.due.pop();
            let session = &mut self.sessions[number as usize];
            if (session.born, session.due) != (born, due) {
                continue;
            }
            session.due = NOT_DUE;
            let end = self.end_of(number);
            if end > watermark {
                self.look_again_at(number, end);
                continue;
            }
            if self.sessions[number as usize].shown.is_none() {
                ended.push(number);
            }
            if self.lateness.is_over(end, Some(watermark)) {
                over.push(number);
            } else {
                self.look_again_at(number, self.lateness.over_at(end));
            }
        }
        self.show(ended, output)?;
        for number in over {
            let Session { key, group, .. } = self.sessions[number as usize];
            self.of_key[key as usize].retain(|&other| other != number);
            if self.of_key[key as usize].is_empty() {
                self.keys.remove(key);
            }
            self.table.bury(group);
            self.forget(number);
        }
        Ok(())
    }

    /// Sessions with these bounds as rows of the result.
    fn rows_of(&mut self, sessions: &[(u32, (i64, i64))], weights: Weights) -> Result<Chunk> {
        let groups: Vec<u32> = sessions
            .iter()
            .map(|&(number, _)| self.sessions[number as usize].group)
            .collect();
        let starts: Vec<i64> = sessions.iter().map(|(_, bounds)| bounds.0).collect();
        let ends: Vec<i64> = sessions.iter().map(|(_, bounds)| bounds.1).collect();
        let time = |values: Vec<i64>| -> ArrayRef { Arc::new(TimestampMicrosecondArray::from(values)) };
        let mut columns = self.table.keys.gather(&groups);
        columns.pop();
        let times: ScalarBuffer<i64> = ends.iter().map(|end| end - 1).collect();
        columns.push(time(starts));
        columns.push(time(ends));
        let mut results = self.table.aggregates.outputs(&groups)?;
        results.pop();
        columns.extend(results);
        Ok(Chunk {
            rows: batch_of(&self.output, columns, sessions.len())?,
            weights,
            event_time: Some(times),
            key_hashes: None,
        })
    }

    /// The chunk's rows with their time as last column.
    fn timed(&self, rows: &RecordBatch, times: &ScalarBuffer<i64>) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        columns.push(int64(times.to_vec()));
        Ok(batch_of_rows(Arc::clone(&self.timed_input), columns, rows.num_rows())?)
    }

    /// Finds the sessions again in the restored groups.
    fn reopen(&mut self) -> Result<()> {
        let groups: Vec<u32> = self.table.live().filter(|&group| self.table.has_rows(group)).collect();
        for part in groups.chunks(CHUNK_ROWS_TARGET) {
            let mut columns = self.table.keys.gather(part);
            let starts = columns
                .pop()
                .ok_or_else(|| Error::Internal("a session without a start".into()))?;
            let last = self.table.aggregates.outputs(part)?.pop();
            let last = last.ok_or_else(|| Error::Internal("a session without an end".into()))?;
            let (starts, last) = (as_int64(&starts)?, as_int64(&last)?);
            let hashes: Vec<u64> = part.iter().map(|&group| self.table.keys.hash_of(group)).collect();
            let keys = self.keys.intern(&columns, &hashes)?;
            self.of_key
                .resize_with(self.keys.capacity().max(self.of_key.len()), Vec::new);
            for (row, (&key, &group)) in keys.iter().zip(part).enumerate() {
                let number = self.open(key, starts.value(row), last.value(row), group);
                let end = self.end_of(number);
                let has_ended = self.watermark.is_some_and(|watermark| end <= watermark);
                if self.emit == EmitMode::OnUpdate || self.lateness.is_any() && has_ended {
                    self.sessions[number as usize].shown = Some((starts.value(row), end));
                }
            }
        }
        Ok(())
    }
}

/// `spec` with a last aggregate that is the time of a group's last row, column `time` of the input.
fn with_last(spec: &AggregateSpec, time: usize) -> AggregateSpec {
    let mut spec = spec.clone();
    spec.aggregates.push(AggregateCall {
        function: AggregateFunction::Max,
        arguments: vec![time],
        filter: None,
        distinct: false,
        return_type: DataType::Int64,
        label: "last".into(),
    });
    spec
}

impl Operator for SessionAggregate {
    fn name(&self) -> &'static str {
        "session_aggregate"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        let times = chunk.event_time.clone().ok_or_else(no_event_time)?;
        let columns = self.layout.key_columns(&chunk.rows);
        let hashes = key_hashes(&columns, chunk.len(), chunk.key_hashes.as_ref());
        let keys = self.keys.intern(&columns, &hashes)?;
        self.of_key
            .resize_with(self.keys.capacity().max(self.of_key.len()), Vec::new);
        let mut touched = Touched::default();
        for (row, (&key, &time)) in keys.iter().zip(times.iter()).enumerate() {
            let session = match time {
                NO_EVENT_TIME => None,
                time => self.place(key, time, &mut touched),
            };
            match session {
                Some(session) => {
                    touched.sessions.push(session);
                    touched.rows.push(row as u32);
                }
                None => self.count_late(&chunk, row as u32, time)?,
            }
        }
        if self.is_updating() {
            self.take_back(&touched)?;
        }
        self.settle(&touched)?;
        let groups: Vec<u32> = touched
            .sessions
            .iter()
            .map(|&number| self.sessions[self.resolve(number) as usize].group)
            .collect();
        if touched.rows.len() == chunk.len() {
            let rows = self.timed(&chunk.rows, &times)?;
            self.table.apply(&rows, &groups, weights_of(&chunk))?;
        } else {
            let kept = take_chunk(&chunk, &UInt32Array::from(touched.rows))?;
            let rows = self.timed(&kept.rows, kept.event_time.as_ref().ok_or_else(no_event_time)?)?;
            self.table.apply(&rows, &groups, weights_of(&kept))?;
        }
        for number in touched.merged {
            self.forget(number);
        }
        let any_late = groups.len() < keys.len();
        for key in keys.into_iter().filter(|_| any_late) {
            // Late rows leave nothing behind.
            if self.keys.is_live(key) && self.of_key[key as usize].is_empty() {
                self.keys.remove(key);
            }
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        if let Watermark::At(time) = watermark
            && self.watermark.is_none_or(|before| before < time)
        {
            self.watermark = Some(time);
            self.emit_taken_back(output);
            self.close(time, output)?;
        }
        output.watermark(self.lateness.passed_on(watermark));
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        self.emit_taken_back(output);
        self.emit_changed(output)
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.watermark = Some(i64::MAX);
        self.emit_taken_back(output);
        self.close(i64::MAX, output)
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let mut writes = self.shape.snapshot(&mut self.table, context, true)?;
        writes.push(closed_upto::write(self.watermark)?);
        Ok(writes)
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.watermark = closed_upto::read(state)?;
        self.shape.restore(&mut self.table, state)?;
        self.reopen()
    }

    fn state_size(&self) -> StateSize {
        StateSize {
            rows: (self.sessions.len() - self.free.len()) as u64,
            bytes: (self.table.memory_bytes()
                + self.keys.memory_bytes()
                + self.sessions.capacity() * size_of::<Session>()
                + self.of_key.capacity() * size_of::<Vec<u32>>()
                + self.due.capacity() * size_of::<(i64, u32, u64)>()) as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

//! GROUP BY a tumbling or hopping window, or by the window that rows are results of.
//!
//! A window closes when the watermark reaches its end; its result is emitted, once, before the watermark passes on. With
//! [`EmitMode::OnUpdate`] changes are emitted at every barrier while the window is open and the rest when it closes; a
//! closed window's rows stay. At the end of input every window closes. Rows of the result have the last microsecond of
//! the window as their event time. A window with allowed lateness is emitted when it ends and stays open for that long: what
//! late rows change of it is emitted at barriers (see `allowed_lateness`).
//!
//! Where windows overlap, a row is added once, to its slice, and windows are put together from slices when they close (see
//! `slice_blocks`). Aggregates whose states cannot be added up, and windows that emit more than once, have a table for each
//! window instead, to which a row is added as often as it has windows.
//!
//! A row is late when all its windows have closed: it is dropped and counted, and kept as a dead letter when the table says
//! so. A row without event time is dropped and counted. A row that comes while only some of its windows are open is in those.
//!
//! State: tables `windows` and `window_values` (see `group_state`), expiring, with `_time` the start of the slice or window
//! plus the window's size: a row with `_time` at or before the watermark belongs to closed windows and is dead, so
//! `expired_before` is the watermark (less the allowed lateness) + 1. A window that has ended has been emitted as it is in
//! the snapshot, which the barrier made true. Table `watermark` (broadcast) keeps what the operator has closed up to, so that
//! late rows stay late after a restore; a former set of subtasks gives the least of theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, SchemaRef};

use crate::engine::dead_letters::LateRows;
use crate::engine::graph::{EmitMode, WindowAggregateSpec};
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::accumulators::decomposable;
use crate::engine::operators::aggregates::AggregateLayout;
use crate::engine::operators::allowed_lateness::AllowedLateness;
use crate::engine::operators::changes::Changes;
use crate::engine::operators::closed_upto;
use crate::engine::operators::columns::{batch_of, take_chunk, weights_from, weights_of};
use crate::engine::operators::group_state::{SnapshotScope, StateShape, TableNames, split_by_time};
use crate::engine::operators::group_table::GroupTable;
use crate::engine::operators::partial_aggregate::no_event_time;
use crate::engine::operators::slice_blocks::SliceBlocks;
use crate::engine::operators::window::{Slice, Windows};
use crate::state::table::{SnapshotContext, StateReader, TableKind, TableWrite};

const TABLES: TableNames = TableNames {
    groups: "windows",
    values: "window_values",
};

/// Tables of closed windows kept for the next ones, and the memory each may hold on to.
const POOLED_TABLES: usize = 2;
const POOLED_BYTES: usize = 64 << 20;

pub(crate) struct WindowAggregate {
    layout: Arc<AggregateLayout>,
    key_types: Vec<DataType>,
    shape: StateShape,
    windows: Windows,
    sharing: Sharing,
    emit: EmitMode,
    lateness: AllowedLateness,
    output: SchemaRef,
    /// By start: windows, or slices where windows share them.
    open: BTreeMap<i64, OpenWindow>,
    pool: Vec<GroupTable>,
    /// Windows that end at or before this have ended, and are closed when no lateness is allowed.
    watermark: Option<i64>,
    late: u64,
    late_rows: Option<LateRows>,
}

enum Sharing {
    /// Every window has a table of its own.
    Apart,
    /// Every slice has a table; windows are added up from them.
    Slices(SliceBlocks),
}

/// A window or a slice.
struct OpenWindow {
    table: GroupTable,
    /// Of a window that has been emitted and may be again.
    changes: Option<Changes>,
}

impl WindowAggregate {
    pub fn new(spec: &WindowAggregateSpec, input: &SchemaRef, output: &SchemaRef) -> Result<WindowAggregate> {
        let layout = AggregateLayout::new(&spec.aggregate, input)?;
        let key_types = layout.key_types();
        let mut table = GroupTable::new(&layout, &key_types, false)?;
        let windows = Windows::new(spec.window)?;
        let adds_up = decomposable(&spec.aggregate.aggregates, spec.aggregate.append_only_input);
        let lateness = AllowedLateness::new(spec.allowed_lateness_micros);
        let emits_once = spec.emit == EmitMode::OnWindowClose && !lateness.is_any();
        let sharing = if windows.overlap() && adds_up && emits_once {
            Sharing::Slices(SliceBlocks::default())
        } else {
            Sharing::Apart
        };
        Ok(WindowAggregate {
            shape: StateShape::new(TABLES, &mut table, &key_types, TableKind::ExpiringTimeKey),
            layout,
            key_types,
            windows,
            sharing,
            emit: spec.emit,
            lateness,
            output: Arc::clone(output),
            open: BTreeMap::new(),
            pool: vec![table],
            watermark: None,
            late: 0,
            late_rows: None,
        })
    }

    /// Late rows go there, as they come into the aggregate.
    pub fn keeping_late_rows(mut self, late_rows: Option<LateRows>) -> WindowAggregate {
        self.late_rows = late_rows;
        self
    }

    /// Whether nothing more is to come of the window or slice that starts at `start`.
    fn is_closed(&self, start: i64) -> bool {
        let end = match self.sharing {
            Sharing::Apart => self.windows.end_of(start),
            Sharing::Slices(_) => self.windows.last_end(start),
        };
        self.lateness.is_over(end, self.watermark)
    }

    /// Whether changes of the window that starts at `start` are emitted from now on.
    fn emits_changes(&self, start: i64) -> bool {
        let has_ended = || {
            self.watermark
                .is_some_and(|watermark| self.windows.end_of(start) <= watermark)
        };
        self.emit == EmitMode::OnUpdate || self.lateness.is_any() && has_ended()
    }

    fn new_table(pool: &mut Vec<GroupTable>, layout: &Arc<AggregateLayout>, keys: &[DataType]) -> Result<GroupTable> {
        match pool.pop() {
            Some(table) => Ok(table),
            None => GroupTable::new(layout, keys, false),
        }
    }

    fn pool(&mut self, mut table: GroupTable) {
        if self.pool.len() < POOLED_TABLES && table.memory_bytes() < POOLED_BYTES {
            table.clear();
            self.pool.push(table);
        }
    }

    fn open_window(&mut self, start: i64) -> Result<&mut OpenWindow> {
        if !self.open.contains_key(&start) {
            let table = Self::new_table(&mut self.pool, &self.layout, &self.key_types)?;
            let changes = self.emits_changes(start).then(Changes::default);
            self.open.insert(start, OpenWindow { table, changes });
        }
        Ok(self.open.get_mut(&start).expect("it was just put there"))
    }

    fn add(&mut self, start: i64, chunk: &Chunk, hashes: Option<&ScalarBuffer<u64>>) -> Result<()> {
        let keys = self.layout.key_columns(&chunk.rows);
        let window = self.open_window(start)?;
        let groups = window.table.assign(&keys, chunk.len(), hashes)?;
        if let Some(changes) = &mut window.changes {
            changes.before_update(&mut window.table, &groups)?;
        }
        window.table.apply(&chunk.rows, &groups, weights_of(chunk))
    }

    fn count_late(&mut self, chunk: &Chunk, slice: &Slice) -> Result<()> {
        self.late += match (self.layout.represented_rows(&chunk.rows)?, &slice.rows) {
            (None, None) => chunk.len() as u64,
            (None, Some(rows)) => rows.len() as u64,
            (Some(counts), None) => counts.iter().map(|count| count.unsigned_abs()).sum(),
            (Some(counts), Some(rows)) => rows.iter().map(|&row| counts[row as usize].unsigned_abs()).sum(),
        };
        if let (Some(letters), Some(watermark)) = (&self.late_rows, self.watermark) {
            // The last one that they could have been in.
            let end = self.windows.last_end(slice.start);
            let window = (self.windows.start_of_end(end), end);
            letters.keep(chunk, slice.rows.as_deref(), window, watermark)?;
        }
        Ok(())
    }

    /// Adds rows of one slice to the windows that are open.
    fn add_slice(&mut self, slice: i64, chunk: &Chunk, hashes: Option<&ScalarBuffer<u64>>) -> Result<()> {
        if let Sharing::Slices(blocks) = &mut self.sharing {
            blocks.invalidate(self.windows.number_of(slice));
            return self.add(slice, chunk, hashes);
        }
        for start in self.windows.starts(slice) {
            if self.is_closed(start) {
                break;
            }
            self.add(start, chunk, hashes)?;
        }
        Ok(())
    }

    /// Closes the windows that are over; those that end at or before `after` have closed before.
    fn close(&mut self, after: Option<i64>, output: &mut Output) -> Result<()> {
        let mut after = after.unwrap_or(i64::MIN);
        while let Some((&start, _)) = self.open.first_key_value() {
            let end = match self.sharing {
                Sharing::Apart => self.windows.end_of(start),
                Sharing::Slices(_) => self.windows.first_end(start, after),
            };
            if !self.lateness.is_over(end, self.watermark) {
                break;
            }
            match self.sharing {
                Sharing::Apart => self.close_apart(start, output)?,
                Sharing::Slices(_) => self.close_sharing(end, output)?,
            }
            after = end;
        }
        Ok(())
    }

    /// Emits the windows that have ended and are not over, once.
    fn emit_ended(&mut self, output: &mut Output) -> Result<()> {
        let mut open = std::mem::take(&mut self.open);
        let ended = open
            .iter_mut()
            .take_while(|(start, _)| self.emits_changes(**start))
            .filter(|(_, window)| window.changes.is_none());
        let emitted = ended.map(|(&start, window)| {
            window.changes = Some(Changes::default());
            self.emit_table(start, &mut window.table, output)
        });
        let emitted = emitted.collect();
        self.open = open;
        emitted
    }

    fn close_apart(&mut self, start: i64, output: &mut Output) -> Result<()> {
        let Some(mut window) = self.open.remove(&start) else {
            return Ok(());
        };
        if window.changes.is_some() {
            self.emit_changes(start, &mut window, output)?;
        } else {
            self.emit_table(start, &mut window.table, output)?;
        }
        self.pool(window.table);
        Ok(())
    }

    /// Emits the window that ends at `end`, and forgets the slices that it is the last window of.
    fn close_sharing(&mut self, end: i64, output: &mut Output) -> Result<()> {
        let start = self.windows.start_of_end(end);
        let windows = self.windows;
        let mut slices: BTreeMap<i64, &mut GroupTable> = self
            .open
            .range_mut(start..end)
            .map(|(&slice, open)| (windows.number_of(slice), &mut open.table))
            .collect();
        let mut whole = Self::new_table(&mut self.pool, &self.layout, &self.key_types)?;
        if let Sharing::Slices(blocks) = &mut self.sharing {
            let (pool, layout, keys) = (&mut self.pool, &self.layout, &self.key_types);
            let mut fresh = || Self::new_table(pool, layout, keys);
            blocks.add_up(windows.numbers_of_window(end), &mut slices, &mut whole, &mut fresh)?;
            blocks.forget_before(windows.number_of(start.saturating_add(windows.width())));
        }
        self.emit_table(start, &mut whole, output)?;
        self.pool(whole);
        while let Some((&slice, _)) = self.open.first_key_value()
            && windows.last_end(slice) <= end
        {
            if let Some((_, open)) = self.open.pop_first() {
                self.pool(open.table);
            }
        }
        Ok(())
    }

    fn emit_table(&self, start: i64, table: &mut GroupTable, output: &mut Output) -> Result<()> {
        let groups: Vec<u32> = table.live().filter(|&group| table.has_rows(group)).collect();
        for part in groups.chunks(CHUNK_ROWS_TARGET) {
            let keys = table.keys.gather(part);
            let results = table.aggregates.outputs(part)?;
            output.data(self.result_chunk(start, keys, results, part.len(), Weights::AllInsert)?);
        }
        Ok(())
    }

    fn emit_changes(&self, start: i64, window: &mut OpenWindow, output: &mut Output) -> Result<()> {
        let Some(changes) = &mut window.changes else {
            return Ok(());
        };
        changes.drain(&mut window.table, |rows| {
            let count = rows.weights.len();
            let weights = weights_from(rows.weights);
            output.data(self.result_chunk(start, rows.keys, rows.outputs, count, weights)?);
            Ok(())
        })?;
        Ok(())
    }

    fn result_chunk(
        &self,
        start: i64,
        keys: Vec<ArrayRef>,
        results: Vec<ArrayRef>,
        rows: usize,
        weights: Weights,
    ) -> Result<Chunk> {
        let mut columns = keys;
        columns.extend(self.windows.columns(start, rows));
        columns.extend(results);
        let last_moment = self.windows.end_of(start) - 1;
        Ok(Chunk {
            rows: batch_of(&self.output, columns, rows)?,
            weights,
            event_time: Some(vec![last_moment; rows].into()),
            key_hashes: None,
        })
    }

    /// Hands each open window its part of the rows.
    fn restore_rows(
        &mut self,
        rows: &RecordBatch,
        apply: impl Fn(&StateShape, &mut GroupTable, &RecordBatch) -> Result<()>,
    ) -> Result<()> {
        for (end, part) in split_by_time(rows)? {
            let start = self.windows.start_of_end(end);
            if self.is_closed(start) {
                continue;
            }
            self.open_window(start)?;
            if let Some(window) = self.open.get_mut(&start) {
                apply(&self.shape, &mut window.table, &part)?;
            }
        }
        Ok(())
    }
}

impl Operator for WindowAggregate {
    fn name(&self) -> &'static str {
        "window_aggregate"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, _output: &mut Output) -> Result<()> {
        let times = chunk.event_time.as_ref().ok_or_else(no_event_time)?;
        let (slices, without) = self.windows.split(times);
        self.late += without;
        for slice in slices {
            let last_end = self.windows.last_end(slice.start);
            if self.lateness.is_over(last_end, self.watermark) {
                self.count_late(&chunk, &slice)?;
                continue;
            }
            match slice.rows {
                None => self.add_slice(slice.start, &chunk, chunk.key_hashes.as_ref())?,
                Some(rows) => {
                    let hashes: Option<ScalarBuffer<u64>> = chunk
                        .key_hashes
                        .as_ref()
                        .map(|hashes| rows.iter().map(|&row| hashes[row as usize]).collect());
                    let part = take_chunk(&chunk, &UInt32Array::from(rows))?;
                    self.add_slice(slice.start, &part, hashes.as_ref())?;
                }
            }
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        if let Watermark::At(time) = watermark
            && self.watermark.is_none_or(|before| before < time)
        {
            let before = self.watermark.replace(time);
            self.close(before, output)?;
            if self.lateness.is_any() {
                self.emit_ended(output)?;
            }
        }
        output.watermark(self.lateness.passed_on(watermark));
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        if self.emit == EmitMode::OnUpdate || self.lateness.is_any() {
            let mut open = std::mem::take(&mut self.open);
            let emitted = open
                .iter_mut()
                .try_for_each(|(&start, window)| self.emit_changes(start, window, output));
            self.open = open;
            emitted?;
        }
        Ok(())
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        // What a checkpoint still holds of these windows is dead with them.
        let before = self.watermark.replace(i64::MAX);
        self.close(before, output)
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let mut groups = Vec::new();
        let mut values = Vec::new();
        for (&start, window) in &mut self.open {
            let scope = SnapshotScope {
                context,
                time: Some(self.windows.end_of(start)),
            };
            groups.extend(self.shape.write_groups(&mut window.table, &scope, |_, _| false)?);
            values.extend(self.shape.write_values(&mut window.table, &scope)?);
        }
        let expired_before = self
            .watermark
            .map(|watermark| self.lateness.over_upto(watermark).saturating_add(1));
        let mut writes = self.shape.table_writes(context, expired_before, groups, values);
        writes.push(closed_upto::write(self.watermark)?);
        Ok(writes)
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.watermark = closed_upto::read(state)?;
        state.read(TABLES.groups, &mut |rows| {
            Ok(self.restore_rows(&rows, |shape, table, rows| shape.read_groups(table, rows))?)
        })?;
        if self.shape.keeps_values() {
            state.read(TABLES.values, &mut |rows| {
                Ok(self.restore_rows(&rows, |shape, table, rows| shape.read_values(table, rows))?)
            })?;
        }
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        let rows: usize = self.open.values().map(|window| window.table.keys.len()).sum();
        let held: usize = self.open.values().map(|window| window.table.memory_bytes()).sum();
        let pooled: usize = self.pool.iter().map(GroupTable::memory_bytes).sum();
        let added_up = match &self.sharing {
            Sharing::Apart => 0,
            Sharing::Slices(blocks) => blocks.memory_bytes(),
        };
        StateSize {
            rows: rows as u64,
            bytes: (held + pooled + added_up) as u64,
        }
    }

    fn late_rows(&self) -> u64 {
        self.late
    }
}

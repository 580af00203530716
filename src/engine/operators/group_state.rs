//! How a group table is written down and read back.
//!
//! Two tables, both keyed by the group's key columns `k0..`:
//!
//! - groups: `rows` (inserted minus retracted), `touched` (wall-clock milliseconds, only with a TTL), state columns `s0..`;
//! - kept values: `set` (of which aggregate or aggregates), `count0..`, and for each set its value columns
//!   `v<set>_<column>`, NULL in the rows of other sets. A row is one value of one group; a set with fewer counts has 0 in the others.
//!
//! In an expiring table `_time` (the end of the window) comes before the key and is part of it. A key is written at most
//! once an epoch: with its state, or as a tombstone.

use std::sync::Arc;

use arrow::array::AsArray;
use arrow::array::{Array, ArrayRef, Int8Array, Int64Array, RecordBatch, UInt16Array, UInt32Array, new_null_array};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::Int8Type;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt16Type};
use hashbrown::HashSet;

use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::EntryRows;
use crate::engine::operators::bits::Bits;
use crate::engine::operators::columns::{as_int64, int64, take_batch};
use crate::engine::operators::group_table::GroupTable;
use crate::engine::operators::keys::key_hashes;
use crate::state::key_group::KeyGroupRange;
use crate::state::table::{
    Distribution, OP_PUT, OP_TOMBSTONE, STATE_BATCH_ROWS, SnapshotContext, StateReader, TIME_COLUMN, TableKind,
    TableWrite, leading_fields,
};
use crate::types::record_batch::batch_of_rows;

/// What an operator calls its two tables.
#[derive(Clone, Copy)]
pub(crate) struct TableNames {
    pub groups: &'static str,
    pub values: &'static str,
}

/// Both tables of one operator: their names and schemas.
pub(crate) struct StateShape {
    names: TableNames,
    kind: TableKind,
    groups: SchemaRef,
    values: SchemaRef,
    keys: usize,
    /// How many of the key columns decide the key group.
    hashed: usize,
    stamped: bool,
    /// Value columns of each set.
    set_widths: Vec<usize>,
    /// Counts of each set.
    set_counts: Vec<usize>,
}

/// Which rows of a table a snapshot takes.
pub(crate) struct SnapshotScope<'a> {
    pub context: &'a SnapshotContext,
    /// The time of all rows, in an expiring table.
    pub time: Option<i64>,
}

impl SnapshotScope<'_> {
    /// Of `groups` those in the key groups that are written in full.
    fn rebased(&self, table: &GroupTable, groups: impl Iterator<Item = u32>) -> Bits {
        let mut rebased = Bits::default();
        if self.context.rebase.is_empty() {
            return rebased;
        }
        let groups: Vec<u32> = groups.collect();
        for (group, hash) in groups.iter().zip(table.place_hashes(&groups)) {
            if self.context.rebase.contains(self.context.key_groups.group_of(hash)) {
                rebased.insert(*group);
            }
        }
        rebased
    }

    fn leading(&self, table: &GroupTable, groups: &[u32], ops: Int8Array) -> Vec<ArrayRef> {
        let hashes = table.place_hashes(groups).into_iter();
        let key_groups: UInt16Array = hashes.map(|hash| self.context.key_groups.group_of(hash).0).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(key_groups), Arc::new(ops)];
        if let Some(time) = self.time {
            columns.push(int64(vec![time; groups.len()]));
        }
        columns
    }
}

impl StateShape {
    pub fn new(names: TableNames, table: &mut GroupTable, key_types: &[DataType], kind: TableKind) -> StateShape {
        let nullable = |name: String, data_type: &DataType| Field::new(name, data_type.clone(), true);
        let keys: Vec<Field> = key_types
            .iter()
            .enumerate()
            .map(|(at, data_type)| nullable(format!("k{at}"), data_type))
            .collect();
        let mut groups = leading_fields(kind);
        groups.extend(keys.iter().cloned());
        groups.push(nullable("rows".into(), &DataType::Int64));
        let stamped = table.stamps.is_some();
        if stamped {
            groups.push(nullable("touched".into(), &DataType::Int64));
        }
        for (at, field) in table.layout.state_fields.iter().enumerate() {
            groups.push(nullable(format!("s{at}"), field.data_type()));
        }
        let mut values = leading_fields(kind);
        values.extend(keys);
        values.push(Field::new("set", DataType::UInt16, false));
        let set_counts: Vec<usize> = table.aggregates.kept_values().map(|set| set.counts()).collect();
        for count in 0..set_counts.iter().copied().max().unwrap_or(0) {
            values.push(Field::new(format!("count{count}"), DataType::Int64, false));
        }
        let mut set_widths = Vec::new();
        for (set, kept) in table.aggregates.kept_values().enumerate() {
            for (column, data_type) in kept.types().iter().enumerate() {
                values.push(nullable(format!("v{set}_{column}"), data_type));
            }
            set_widths.push(kept.types().len());
        }
        StateShape {
            names,
            kind,
            groups: Arc::new(Schema::new(groups)),
            values: Arc::new(Schema::new(values)),
            keys: key_types.len(),
            hashed: key_types.len(),
            stamped,
            set_widths,
            set_counts,
        }
    }

    /// How many columns of counts the values table has.
    fn count_columns(&self) -> usize {
        self.set_counts.iter().copied().max().unwrap_or(0)
    }

    /// Only the first `hashed` key columns decide the key group; the others tell rows of one key apart.
    pub fn hashed_by(self, hashed: usize) -> StateShape {
        StateShape { hashed, ..self }
    }

    fn assign(&self, table: &mut GroupTable, rows: &RecordBatch) -> Result<Vec<u32>> {
        let keys = self.key_columns(rows);
        if self.hashed == self.keys {
            return table.assign(&keys, rows.num_rows(), None);
        }
        let hashes: ScalarBuffer<u64> = key_hashes(&keys[..self.hashed], rows.num_rows(), None)
            .into_owned()
            .into();
        table.assign(&keys, rows.num_rows(), Some(&hashes))
    }

    /// What a snapshot of a table without times holds: groups that changed, tombstones of those that died. Groups without
    /// rows are left out where `skips_empty`.
    pub fn snapshot(
        &self,
        table: &mut GroupTable,
        context: &SnapshotContext,
        skips_empty: bool,
    ) -> Result<Vec<TableWrite>> {
        let scope = SnapshotScope { context, time: None };
        let dying = table.take_dying();
        let mut groups = self.write_tombstones(table, &scope, &dying)?;
        let is_empty = |table: &GroupTable, group: u32| skips_empty && table.aggregates.row_count(group) == 0;
        groups.extend(self.write_groups(table, &scope, is_empty)?);
        let values = self.write_values(table, &scope)?;
        for group in dying {
            table.free(group);
        }
        Ok(self.table_writes(context, None, groups, values))
    }

    /// Rows of both tables for a snapshot; the values table only when there are such.
    pub fn table_writes(
        &self,
        context: &SnapshotContext,
        expired_before: Option<i64>,
        groups: Vec<RecordBatch>,
        values: Vec<RecordBatch>,
    ) -> Vec<TableWrite> {
        let write = |table, rows| TableWrite {
            table,
            kind: self.kind,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before,
            rows,
        };
        let mut writes = vec![write(self.names.groups, groups)];
        if self.keeps_values() {
            writes.push(write(self.names.values, values));
        }
        writes
    }

    /// Fills a table without times from what snapshots hold.
    pub fn restore(&self, table: &mut GroupTable, state: &dyn StateReader) -> Result<()> {
        state.read(self.names.groups, &mut |rows| Ok(self.read_groups(table, &rows)?))?;
        if self.keeps_values() {
            state.read(self.names.values, &mut |rows| Ok(self.read_values(table, &rows)?))?;
        }
        Ok(())
    }

    pub fn keeps_values(&self) -> bool {
        !self.set_widths.is_empty()
    }

    fn leading_width(&self) -> usize {
        match self.kind {
            TableKind::GlobalKeyed => 2,
            TableKind::ExpiringTimeKey => 3,
        }
    }

    /// Writes the groups that changed, and all of the groups that are rebased, except those for which `skip` says so.
    pub fn write_groups(
        &self,
        table: &mut GroupTable,
        scope: &SnapshotScope<'_>,
        skip: impl Fn(&GroupTable, u32) -> bool,
    ) -> Result<Vec<RecordBatch>> {
        let chosen: Vec<u32> = if scope.context.rebase.is_empty() {
            table.changed.iter().filter(|&group| !skip(table, group)).collect()
        } else {
            let rebased = scope.rebased(table, table.live());
            table
                .live()
                .filter(|&group| table.changed.contains(group) || rebased.contains(group))
                .filter(|&group| !skip(table, group))
                .collect()
        };
        let mut batches = Vec::new();
        for groups in chosen.chunks(STATE_BATCH_ROWS) {
            let mut columns = scope.leading(table, groups, Int8Array::from(vec![OP_PUT; groups.len()]));
            columns.extend(table.keys.gather(groups));
            columns.push(int64(
                groups.iter().map(|&group| table.aggregates.row_count(group)).collect(),
            ));
            if let Some(stamps) = &table.stamps {
                columns.push(int64(groups.iter().map(|&group| stamps[group as usize]).collect()));
            }
            columns.extend(table.aggregates.states(groups)?);
            batches.push(batch(&self.groups, columns, groups.len())?);
            for &group in groups {
                table.persisted.insert(group);
            }
        }
        table.changed.clear();
        Ok(batches)
    }

    /// Writes that `groups` are gone. Those of a rebased key group need no tombstone.
    pub fn write_tombstones(
        &self,
        table: &GroupTable,
        scope: &SnapshotScope<'_>,
        groups: &[u32],
    ) -> Result<Vec<RecordBatch>> {
        let rebased = scope.rebased(table, groups.iter().copied());
        let gone: Vec<u32> = groups
            .iter()
            .copied()
            .filter(|&group| !rebased.contains(group))
            .collect();
        let mut batches = Vec::new();
        for groups in gone.chunks(STATE_BATCH_ROWS) {
            let mut columns = scope.leading(table, groups, Int8Array::from(vec![OP_TOMBSTONE; groups.len()]));
            columns.extend(table.keys.gather(groups));
            for field in &self.groups.fields()[columns.len()..] {
                columns.push(new_null_array(field.data_type(), groups.len()));
            }
            batches.push(batch(&self.groups, columns, groups.len())?);
        }
        Ok(batches)
    }

    /// Writes the kept values that changed, came or went.
    pub fn write_values(&self, table: &mut GroupTable, scope: &SnapshotScope<'_>) -> Result<Vec<RecordBatch>> {
        if !self.keeps_values() {
            return Ok(Vec::new());
        }
        let any_rebased = !scope.context.rebase.is_empty();
        let rebased = scope.rebased(table, table.live());
        let is_rebased = |group: u32| rebased.contains(group);
        let mut drained = Vec::with_capacity(self.set_widths.len());
        for kept in table.aggregates.kept_values() {
            drained.push(kept.drain_changes(&is_rebased, any_rebased)?);
        }
        let mut batches = Vec::new();
        for (set, rows) in drained.into_iter().enumerate() {
            for start in (0..rows.groups.len()).step_by(STATE_BATCH_ROWS) {
                let length = STATE_BATCH_ROWS.min(rows.groups.len() - start);
                batches.push(self.values_batch(table, scope, set, &rows, start, length)?);
            }
        }
        Ok(batches)
    }

    fn values_batch(
        &self,
        table: &GroupTable,
        scope: &SnapshotScope<'_>,
        set: usize,
        rows: &EntryRows,
        start: usize,
        length: usize,
    ) -> Result<RecordBatch> {
        let groups = &rows.groups[start..start + length];
        let is_gone = |at: usize| rows.counts.iter().all(|counts| counts[at] == 0);
        let op = |at: usize| if is_gone(at) { OP_TOMBSTONE } else { OP_PUT };
        let mut columns = scope.leading(table, groups, (start..start + length).map(op).collect());
        columns.extend(table.keys.gather(groups));
        columns.push(Arc::new(UInt16Array::from(vec![set as u16; length])));
        for count in 0..self.count_columns() {
            columns.push(int64(match rows.counts.get(count) {
                Some(counts) => counts[start..start + length].to_vec(),
                None => vec![0; length],
            }));
        }
        for (other, &width) in self.set_widths.iter().enumerate() {
            for column in 0..width {
                columns.push(if other == set {
                    rows.values[column].slice(start, length)
                } else {
                    new_null_array(self.values.field(columns.len()).data_type(), length)
                });
            }
        }
        batch(&self.values, columns, length)
    }

    /// Applies a batch of the groups table. Later rows of a key replace earlier ones.
    pub fn read_groups(&self, table: &mut GroupTable, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.groups, rows)?;
        let ops = rows.column(1).as_primitive::<Int8Type>().values().clone();
        let mut start = 0;
        while start < ops.len() {
            let length = ops[start..].iter().take_while(|&&op| op == ops[start]).count();
            let run = rows.slice(start, length);
            if ops[start] == OP_PUT {
                self.put_groups(table, &run)?;
            } else {
                for group in self.assign(table, &run)? {
                    if table.keys.is_live(group) {
                        table.free(group);
                    }
                }
            }
            start += length;
        }
        Ok(())
    }

    fn put_groups(&self, table: &mut GroupTable, rows: &RecordBatch) -> Result<()> {
        let groups = self.assign(table, rows)?;
        let last = last_of_each(&groups);
        let (rows, groups) = if last.len() == groups.len() {
            (rows.clone(), groups)
        } else {
            let indices = UInt32Array::from(last);
            let kept = indices.values().iter().map(|&row| groups[row as usize]).collect();
            (take_batch(rows, &indices)?, kept)
        };
        for &group in &groups {
            table.aggregates.reset(group);
            table.persisted.insert(group);
        }
        let mut at = self.leading_width() + self.keys;
        let counts = as_int64(rows.column(at))?.clone();
        at += 1;
        if self.stamped {
            let touched = as_int64(rows.column(at))?;
            at += 1;
            if let Some(stamps) = &mut table.stamps {
                for (&group, &stamp) in groups.iter().zip(touched.values()) {
                    stamps[group as usize] = stamp;
                }
            }
        }
        table
            .aggregates
            .merge_states(&rows.columns()[at..], counts.values(), &groups)
    }

    /// Applies a batch of the values table, after all groups have been read. Values of a group that is not there are
    /// left out: their group ended without them.
    pub fn read_values(&self, table: &mut GroupTable, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.values, rows)?;
        let at = self.leading_width() + self.keys;
        let sets = rows.column(at).as_primitive::<UInt16Type>().clone();
        let first_count = at + 1;
        let ops = rows.column(1).as_primitive::<Int8Type>();
        let groups = self.assign(table, rows)?;
        let mut first_column = first_count + self.count_columns();
        for (set, &width) in self.set_widths.iter().enumerate() {
            let chosen: Vec<u32> = (0..rows.num_rows() as u32)
                .filter(|&row| usize::from(sets.value(row as usize)) == set)
                .filter(|&row| table.persisted.contains(groups[row as usize]))
                .collect();
            let counts_of = |column: usize| -> Result<Vec<i64>> {
                let counts: &Int64Array = as_int64(rows.column(first_count + column))?;
                let count = |&row: &u32| {
                    let row = row as usize;
                    if ops.value(row) == OP_PUT { counts.value(row) } else { 0 }
                };
                Ok(chosen.iter().map(count).collect())
            };
            let entries = EntryRows {
                groups: chosen.iter().map(|&row| groups[row as usize]).collect(),
                counts: (0..self.set_counts[set]).map(counts_of).collect::<Result<_>>()?,
                values: crate::engine::operators::columns::take_columns(
                    &rows.columns()[first_column..first_column + width],
                    &UInt32Array::from(chosen),
                )?,
            };
            if let Some(kept) = table.aggregates.kept_values().nth(set) {
                kept.restore(&entries)?;
            }
            first_column += width;
        }
        for group in groups {
            if !table.persisted.contains(group) && table.keys.is_live(group) {
                table.free(group);
            }
        }
        Ok(())
    }

    fn key_columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        let start = self.leading_width();
        rows.columns()[start..start + self.keys].to_vec()
    }
}

/// The last row of every group, in order.
fn last_of_each(groups: &[u32]) -> Vec<u32> {
    let mut seen = HashSet::with_capacity(groups.len());
    let mut last: Vec<u32> = (0..groups.len() as u32)
        .rev()
        .filter(|&row| seen.insert(groups[row as usize]))
        .collect();
    last.reverse();
    last
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch> {
    Ok(batch_of_rows(Arc::clone(schema), columns, rows)?)
}

/// Splits rows of an expiring table by their time, in the order of first appearance.
pub(crate) fn split_by_time(rows: &RecordBatch) -> Result<Vec<(i64, RecordBatch)>> {
    let column = rows
        .column_by_name(TIME_COLUMN)
        .ok_or_else(|| Error::Internal(format!("state has no column \"{TIME_COLUMN}\"")))?;
    let times = as_int64(column)?;
    let mut parts: Vec<(i64, Vec<u32>)> = Vec::new();
    for (row, &time) in times.values().iter().enumerate() {
        match parts.iter_mut().rev().find(|part| part.0 == time) {
            Some(part) => part.1.push(row as u32),
            None => parts.push((time, vec![row as u32])),
        }
    }
    if let [(time, _)] = parts.as_slice() {
        return Ok(vec![(*time, rows.clone())]);
    }
    parts
        .into_iter()
        .map(|(time, indices)| Ok((time, take_batch(rows, &UInt32Array::from(indices))?)))
        .collect()
}

/// State of another shape means another query: better no start than a wrong one.
pub(crate) fn check_schema(expected: &SchemaRef, found: &RecordBatch) -> Result<()> {
    let types =
        |schema: &Schema| -> Vec<DataType> { schema.fields().iter().map(|field| field.data_type().clone()).collect() };
    let (expected, found) = (types(expected), types(found.schema_ref()));
    if expected == found {
        Ok(())
    } else {
        Err(Error::Internal(format!(
            "state has columns {found:?} where {expected:?} are expected"
        )))
    }
}

/// The range that a table says it wrote in full.
pub(crate) fn rebased_range(context: &SnapshotContext) -> Option<KeyGroupRange> {
    (!context.rebase.is_empty()).then_some(context.rebase)
}

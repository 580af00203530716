//! Rows that an operator holds until the watermark has passed them, and beyond: of an OVER those that frames still need, of an
//! ASOF join the versions that rows to come may find.
//!
//! Rows stay in the batches in which they came; a row has a number, and columns by number say where it is. When most of what
//! is held is dead, or the batches are many and small, the live rows are copied into a new one.
//!
//! Each store is a table: `hash` of the key, `seq` (together they name a row: rows of one hash are always in one subtask), `time` in
//! microseconds, `weight`, columns `c0..`. A row is written once, and its end once, in a later epoch.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt16Array, new_null_array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use hashbrown::HashMap;

use crate::engine::operator::Result;
use crate::engine::operators::bits::Bits;
use crate::engine::operators::columns::{as_int64, batch_of, int64};
use crate::engine::operators::group_state::{check_schema, rebased_range};
use crate::state::table::{
    Distribution, OP_PUT, OP_TOMBSTONE, STATE_BATCH_ROWS, SnapshotContext, StateReader, TableKind, TableWrite,
    leading_fields,
};
use crate::types::record_batch::batch_of_rows;

/// No row, where a number is asked for.
pub(crate) const NO_ROW: u32 = u32::MAX;

/// So many dead rows do not matter.
const DEAD_ROWS_KEPT: usize = 8192;
/// So many batches do not matter, however small they are.
const BATCHES_KEPT: usize = 256;
const ROWS_A_SMALL_BATCH: usize = 1024;
/// Columns before the row's own.
const OWN_COLUMNS: usize = 6;

pub(crate) struct RowStore {
    name: &'static str,
    input: SchemaRef,
    table: SchemaRef,
    batches: Vec<RecordBatch>,
    /// Batch and row in it.
    place: Vec<(u32, u32)>,
    pub time: Vec<i64>,
    pub hash: Vec<u64>,
    pub weight: Vec<i64>,
    seq: Vec<i64>,
    next_seq: i64,
    live: Bits,
    count: usize,
    free: Vec<u32>,
    /// Rows in `batches`, dead ones too.
    held: usize,
    /// Part of the last snapshot.
    persisted: Bits,
    fresh: Bits,
    /// Hash and seq of rows that the last snapshot holds and that are gone since.
    gone: Vec<(u64, i64)>,
}

impl RowStore {
    /// `name` is that of the table.
    pub fn new(name: &'static str, input: &SchemaRef) -> RowStore {
        let long = |name: &str| Field::new(name, DataType::Int64, true);
        let mut fields = leading_fields(TableKind::GlobalKeyed);
        fields.extend(["hash", "seq", "time", "weight"].map(long));
        let column = |(at, field): (usize, &Arc<Field>)| Field::new(format!("c{at}"), field.data_type().clone(), true);
        fields.extend(input.fields().iter().enumerate().map(column));
        RowStore {
            name,
            input: Arc::new(nullable(input)),
            table: Arc::new(Schema::new(fields)),
            batches: Vec::new(),
            place: Vec::new(),
            time: Vec::new(),
            hash: Vec::new(),
            weight: Vec::new(),
            seq: Vec::new(),
            next_seq: 0,
            live: Bits::default(),
            count: 0,
            free: Vec::new(),
            held: 0,
            persisted: Bits::default(),
            fresh: Bits::default(),
            gone: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn live(&self) -> Vec<u32> {
        self.live.iter().collect()
    }

    /// Takes all rows of a batch; their numbers.
    pub fn add(
        &mut self,
        rows: &RecordBatch,
        times: &[i64],
        hashes: &[u64],
        weights: Option<&[i64]>,
    ) -> Result<Vec<u32>> {
        self.compact()?;
        let batch = self.keep(rows.columns().to_vec(), rows.num_rows())?;
        let mut numbers = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let number = self.place_row((batch, row as u32));
            let at = number as usize;
            self.time[at] = times[row];
            self.hash[at] = hashes[row];
            self.weight[at] = weights.map_or(1, |weights| weights[row]);
            self.seq[at] = self.next_seq;
            self.next_seq += 1;
            self.fresh.insert(number);
            numbers.push(number);
        }
        Ok(numbers)
    }

    fn keep(&mut self, columns: Vec<ArrayRef>, rows: usize) -> Result<u32> {
        let batch = batch_of_rows(Arc::clone(&self.input), columns, rows)?;
        self.batches.push(batch);
        self.held += rows;
        Ok((self.batches.len() - 1) as u32)
    }

    fn place_row(&mut self, place: (u32, u32)) -> u32 {
        let number = match self.free.pop() {
            Some(number) => {
                self.place[number as usize] = place;
                number
            }
            None => {
                self.place.push(place);
                self.time.push(0);
                self.hash.push(0);
                self.weight.push(0);
                self.seq.push(0);
                (self.place.len() - 1) as u32
            }
        };
        self.live.insert(number);
        self.count += 1;
        number
    }

    pub fn remove(&mut self, number: u32) {
        self.live.remove(number);
        self.fresh.remove(number);
        self.count -= 1;
        if self.persisted.contains(number) {
            self.persisted.remove(number);
            self.gone.push((self.hash[number as usize], self.seq[number as usize]));
        }
        self.free.push(number);
    }

    /// The rows with these numbers, in that order.
    pub fn gather(&self, numbers: &[u32]) -> Result<RecordBatch> {
        let all: Vec<usize> = (0..self.input.fields().len()).collect();
        batch_of(&self.input, self.gather_columns(&all, numbers)?, numbers.len())
    }

    /// Some columns of the rows with these numbers, in that order; NULL for [`NO_ROW`].
    pub fn gather_columns(&self, columns: &[usize], numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        let nowhere = self.batches.len();
        let mut any_missing = self.batches.is_empty();
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(numbers.len());
        for &number in numbers {
            any_missing |= number == NO_ROW;
            places.push(match self.place.get(number as usize) {
                Some(&(batch, row)) => (batch as usize, row as usize),
                None => (nowhere, 0),
            });
        }
        let mut gathered = Vec::with_capacity(columns.len());
        for &at in columns {
            let missing = any_missing.then(|| new_null_array(self.input.field(at).data_type(), 1));
            let mut parts: Vec<&dyn arrow::array::Array> =
                self.batches.iter().map(|batch| batch.column(at).as_ref()).collect();
            parts.extend(missing.as_deref());
            gathered.push(interleave(&parts, &places)?);
        }
        Ok(gathered)
    }

    fn compact(&mut self) -> Result<()> {
        let mostly_dead = self.held > 2 * self.count + DEAD_ROWS_KEPT;
        let crumbled = self.batches.len() > BATCHES_KEPT && self.batches.len() * ROWS_A_SMALL_BATCH > self.held;
        if !mostly_dead && !crumbled {
            return Ok(());
        }
        let numbers = self.live();
        let rows = self.gather(&numbers)?;
        self.batches = vec![rows];
        self.held = numbers.len();
        for (row, number) in numbers.into_iter().enumerate() {
            self.place[number as usize] = (0, row as u32);
        }
        Ok(())
    }

    /// Writes new rows, all of the rebased groups, and what is gone.
    pub fn write(&mut self, context: &SnapshotContext) -> Result<TableWrite> {
        let group_of = |hash: u64| context.key_groups.group_of(hash);
        let is_rebased = |hash: u64| context.rebase.contains(group_of(hash));
        let mut rows = Vec::new();
        let gone: Vec<(u64, i64)> = std::mem::take(&mut self.gone);
        let gone: Vec<(u64, i64)> = gone.into_iter().filter(|&(hash, _)| !is_rebased(hash)).collect();
        for part in gone.chunks(STATE_BATCH_ROWS) {
            let groups: UInt16Array = part.iter().map(|&(hash, _)| group_of(hash).0).collect();
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(groups),
                Arc::new(Int8Array::from(vec![OP_TOMBSTONE; part.len()])),
                int64(part.iter().map(|&(hash, _)| hash as i64).collect()),
                int64(part.iter().map(|&(_, seq)| seq).collect()),
            ];
            for field in &self.table.fields()[columns.len()..] {
                columns.push(new_null_array(field.data_type(), part.len()));
            }
            rows.push(batch_of(&self.table, columns, part.len())?);
        }
        let chosen: Vec<u32> = if context.rebase.is_empty() {
            self.fresh.iter().collect()
        } else {
            let wanted = |&row: &u32| self.fresh.contains(row) || is_rebased(self.hash[row as usize]);
            self.live.iter().filter(wanted).collect()
        };
        for part in chosen.chunks(STATE_BATCH_ROWS) {
            let of = |values: &[i64]| int64(part.iter().map(|&row| values[row as usize]).collect());
            let groups: UInt16Array = part.iter().map(|&row| group_of(self.hash[row as usize]).0).collect();
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(groups),
                Arc::new(Int8Array::from(vec![OP_PUT; part.len()])),
                int64(part.iter().map(|&row| self.hash[row as usize] as i64).collect()),
                of(&self.seq),
                of(&self.time),
                of(&self.weight),
            ];
            columns.extend(self.gather(part)?.columns().iter().cloned());
            rows.push(batch_of(&self.table, columns, part.len())?);
        }
        for &row in &chosen {
            self.persisted.insert(row);
        }
        self.fresh.clear();
        Ok(TableWrite {
            table: self.name,
            kind: TableKind::GlobalKeyed,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before: None,
            rows,
        })
    }

    /// Takes back what snapshots hold.
    pub fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        let mut numbers: HashMap<(u64, i64), u32> = HashMap::new();
        state.read(self.name, &mut |rows| Ok(self.read(&rows, &mut numbers)?))?;
        Ok(())
    }

    fn read(&mut self, rows: &RecordBatch, numbers: &mut HashMap<(u64, i64), u32>) -> Result<()> {
        check_schema(&self.table, rows)?;
        let ops = rows.column(1).as_primitive::<Int8Type>();
        let [hashes, seqs, times, weights] = [2, 3, 4, 5].map(|at| as_int64(rows.column(at)));
        let (hashes, seqs, times, weights) = (hashes?, seqs?, times?, weights?);
        let batch = self.keep(rows.columns()[OWN_COLUMNS..].to_vec(), rows.num_rows())?;
        for row in 0..rows.num_rows() {
            let id = (hashes.value(row) as u64, seqs.value(row));
            self.next_seq = self.next_seq.max(id.1 + 1);
            if let Some(before) = numbers.remove(&id) {
                self.live.remove(before);
                self.persisted.remove(before);
                self.count -= 1;
                self.free.push(before);
            }
            if ops.value(row) != OP_PUT {
                continue;
            }
            let number = self.place_row((batch, row as u32));
            let at = number as usize;
            (self.hash[at], self.seq[at]) = id;
            self.time[at] = times.value(row);
            self.weight[at] = weights.value(row);
            self.persisted.insert(number);
            numbers.insert(id, number);
        }
        Ok(())
    }

    pub fn memory_bytes(&self) -> usize {
        let batches: usize = self.batches.iter().map(RecordBatch::get_array_memory_size).sum();
        batches + self.place.capacity() * (8 + 4 * 8) + self.gone.capacity() * 16 + self.live.memory_bytes() * 3
    }
}

/// Rows that were restored may be of a schema whose columns were all declared nullable.
fn nullable(schema: &Schema) -> Schema {
    let field = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())
}

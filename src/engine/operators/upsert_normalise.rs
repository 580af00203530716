//! Rows that replace each other by their key, as rows that come and go.
//!
//! A row that comes (+) replaces the row of its key, one that goes (-) takes it away; of that only the key is looked at. What
//! is put out takes away exactly what was put out before, so whatever the source repeats or leaves out does no harm: a row
//! that comes again as it is, or that goes without being there, changes nothing. Within a chunk the last word on a key counts.
//!
//! A row that goes has the event time that it came with.
//!
//! State: table `rows`, one row a key: the key's columns, the others, and where the stream has event time `time`. It is kept
//! until the key is taken away, as a table's row is; no TTL ends it.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int8Array, RecordBatch, UInt16Array, UInt32Array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use arrow::row::{RowConverter, SortField};

use crate::engine::error::Error;
use crate::engine::graph::{StreamShape, UpsertNormaliseSpec};
use crate::engine::message::Chunk;
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::bits::Bits;
use crate::engine::operators::columns::{as_int64, batch_of, int64, take_columns, weights_from};
use crate::engine::operators::group_state::{check_schema, rebased_range};
use crate::engine::operators::keys::{GroupKeys, key_hashes};
use crate::state::table::{
    Distribution, OP_PUT, OP_TOMBSTONE, STATE_BATCH_ROWS, SnapshotContext, StateReader, TableKind, TableWrite,
    leading_fields,
};

const ROWS_TABLE: &str = "rows";

/// Not seen in the chunk.
const NONE: u32 = u32::MAX;

pub(crate) struct UpsertNormalise {
    key: Vec<usize>,
    schema: SchemaRef,
    keys: GroupKeys,
    codec: RowConverter,
    /// The row of each key, all columns as bytes that stand for exactly these values; `None`: there is none.
    rows: Vec<Option<Box<[u8]>>>,
    /// Its event time, where the stream has one.
    times: Option<Vec<i64>>,
    /// The last row of each key in the chunk at hand.
    last: Vec<u32>,
    /// Differs from the last snapshot.
    changed: Bits,
    /// Part of the last snapshot.
    persisted: Bits,
    table: SchemaRef,
    /// The columns that are not the key's, in the order of the table.
    others: Vec<usize>,
    live: usize,
    bytes: usize,
}

/// What a chunk changes.
#[derive(Default)]
struct Changes {
    gone: Vec<Box<[u8]>>,
    gone_times: Vec<i64>,
    /// Rows of the chunk.
    come: Vec<u32>,
}

/// Whether rows of these columns can be kept.
pub(crate) fn can_keep(schema: &Schema) -> bool {
    RowConverter::supports_fields(&sort_fields(schema))
}

fn sort_fields(schema: &Schema) -> Vec<SortField> {
    let fields = schema.fields().iter();
    fields.map(|field| SortField::new(field.data_type().clone())).collect()
}

impl UpsertNormalise {
    pub fn new(spec: &UpsertNormaliseSpec, output: &StreamShape) -> Result<UpsertNormalise> {
        let schema = Arc::clone(&output.schema);
        let of = |&at: &usize| schema.field(at).data_type().clone();
        let key_types: Vec<DataType> = spec.key.iter().map(of).collect();
        let others: Vec<usize> = (0..schema.fields().len()).filter(|at| !spec.key.contains(at)).collect();
        let mut fields = leading_fields(TableKind::GlobalKeyed);
        for (at, of) in key_types.iter().enumerate() {
            fields.push(Field::new(format!("k{at}"), of.clone(), true));
        }
        for (at, of) in others.iter().map(of).enumerate() {
            fields.push(Field::new(format!("c{at}"), of, true));
        }
        if output.event_time {
            fields.push(Field::new("time", DataType::Int64, true));
        }
        Ok(UpsertNormalise {
            keys: GroupKeys::new(&key_types)?,
            codec: RowConverter::new(sort_fields(&schema))?,
            key: spec.key.clone(),
            schema,
            rows: Vec::new(),
            times: output.event_time.then(Vec::new),
            last: Vec::new(),
            changed: Bits::default(),
            persisted: Bits::default(),
            table: Arc::new(Schema::new(fields)),
            others,
            live: 0,
            bytes: 0,
        })
    }

    /// The number of each row's key.
    fn intern(&mut self, columns: &[ArrayRef], hashes: &[u64]) -> Result<Vec<u32>> {
        let keys = self.keys.intern(columns, hashes)?;
        let capacity = self.keys.capacity();
        if self.rows.len() < capacity {
            self.rows.resize(capacity, None);
            self.last.resize(capacity, NONE);
            if let Some(times) = &mut self.times {
                times.resize(capacity, 0);
            }
        }
        Ok(keys)
    }

    /// Puts `row` in the place of the row of `key`; gives that.
    fn replace(&mut self, key: u32, row: Option<Box<[u8]>>) -> Option<Box<[u8]>> {
        let length = |row: &Option<Box<[u8]>>| row.as_ref().map_or(0, |row| row.len());
        self.bytes += length(&row);
        self.live += usize::from(row.is_some());
        let before = std::mem::replace(&mut self.rows[key as usize], row);
        self.bytes -= length(&before);
        self.live -= usize::from(before.is_some());
        before
    }

    /// Takes in the last row of each key.
    fn apply(&mut self, chunk: &Chunk, keys: &[u32]) -> Result<Changes> {
        let encoded = self.codec.convert_columns(chunk.rows.columns())?;
        let mut order = Vec::new();
        for (row, &key) in keys.iter().enumerate() {
            if std::mem::replace(&mut self.last[key as usize], row as u32) == NONE {
                order.push(key);
            }
        }
        let mut changes = Changes::default();
        for key in order {
            let row = std::mem::replace(&mut self.last[key as usize], NONE);
            let bytes = encoded.row(row as usize);
            let comes = chunk.weight(row as usize) > 0;
            let before = self.rows[key as usize].as_deref();
            if before == comes.then_some(bytes.data()) {
                self.forget_absent(key);
                continue;
            }
            self.changed.insert(key);
            if let Some(gone) = self.replace(key, comes.then(|| bytes.data().into())) {
                changes.gone.push(gone);
                changes
                    .gone_times
                    .extend(self.times.as_ref().map(|times| times[key as usize]));
            }
            if comes {
                changes.come.push(row);
                if let (Some(times), Some(given)) = (&mut self.times, &chunk.event_time) {
                    times[key as usize] = given[row as usize];
                }
            }
            self.forget_absent(key);
        }
        Ok(changes)
    }

    /// Frees the number of a key without a row, unless the next snapshot must say that it is gone.
    fn forget_absent(&mut self, key: u32) {
        if self.rows[key as usize].is_none() && !self.persisted.contains(key) {
            self.changed.remove(key);
            self.keys.remove(key);
        }
    }

    /// First what goes, then what comes.
    fn emit(&self, chunk: &Chunk, changes: Changes, output: &mut Output) -> Result<()> {
        let (gone, come) = (changes.gone.len(), changes.come.len());
        let come_rows = UInt32Array::from(changes.come);
        let mut columns = take_columns(chunk.rows.columns(), &come_rows)?;
        if gone > 0 {
            let before = self.decode(changes.gone.iter().map(AsRef::as_ref))?;
            for (before, column) in before.iter().zip(&mut columns) {
                *column = concat(&[before.as_ref(), column.as_ref()])?;
            }
        }
        let event_time = chunk.event_time.as_ref().map(|times| {
            let come = come_rows.values().iter().map(|&row| times[row as usize]);
            changes.gone_times.iter().copied().chain(come).collect()
        });
        let weights = std::iter::repeat_n(-1, gone).chain(std::iter::repeat_n(1, come));
        output.data(Chunk {
            rows: batch_of(&self.schema, columns, gone + come)?,
            weights: weights_from(weights.collect()),
            event_time,
            key_hashes: None,
        });
        Ok(())
    }

    fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.codec.parser();
        Ok(self.codec.convert_rows(rows.map(|row| parser.parse(row)))?)
    }

    fn batch(&self, context: &SnapshotContext, keys: &[u32], op: i8) -> Result<RecordBatch> {
        let key_group = |&key: &u32| context.key_groups.group_of(self.keys.hash_of(key)).0;
        let key_groups: UInt16Array = keys.iter().map(key_group).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(key_groups), Arc::new(Int8Array::from(vec![op; keys.len()]))];
        columns.extend(self.keys.gather(keys));
        if op == OP_PUT {
            let rows = keys.iter().filter_map(|&key| self.rows[key as usize].as_deref());
            let all = self.decode(rows)?;
            columns.extend(self.others.iter().map(|&at| Arc::clone(&all[at])));
            if let Some(times) = &self.times {
                columns.push(int64(keys.iter().map(|&key| times[key as usize]).collect()));
            }
        } else {
            for field in &self.table.fields()[columns.len()..] {
                columns.push(new_null_array(field.data_type(), keys.len()));
            }
        }
        batch_of(&self.table, columns, keys.len())
    }

    /// Applies a batch that was read back, its rows in order.
    fn read(&mut self, batch: &RecordBatch) -> Result<()> {
        check_schema(&self.table, batch)?;
        let (leading, count) = (2, batch.num_rows());
        let key_columns = &batch.columns()[leading..leading + self.key.len()];
        let keys = self.intern(key_columns, &key_hashes(key_columns, count, None))?;
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        for at in 0..self.schema.fields().len() {
            let place = match self.key.iter().position(|&key| key == at) {
                Some(place) => Some(leading + place),
                None => {
                    let place = self.others.iter().position(|&other| other == at);
                    place.map(|place| leading + self.key.len() + place)
                }
            };
            let place = place.ok_or_else(|| Error::Internal(format!("column {at} is nowhere in the state")))?;
            columns.push(Arc::clone(batch.column(place)));
        }
        let encoded = self.codec.convert_columns(&columns)?;
        let ops = batch.column(1).as_primitive::<Int8Type>();
        let times = match &self.times {
            Some(_) => Some(as_int64(batch.column(batch.num_columns() - 1))?),
            None => None,
        };
        for (at, &key) in keys.iter().enumerate() {
            let is_put = ops.value(at) == OP_PUT;
            self.replace(key, is_put.then(|| encoded.row(at).data().into()));
            if let (Some(times), Some(read), true) = (&mut self.times, times, is_put) {
                times[key as usize] = read.value(at);
            }
            if is_put {
                self.persisted.insert(key);
            } else {
                self.persisted.remove(key);
            }
        }
        Ok(())
    }

    /// Frees the numbers of keys that turned out to be gone.
    fn forget_all_absent(&mut self) {
        for key in 0..self.rows.len() as u32 {
            if self.keys.is_live(key) {
                self.forget_absent(key);
            }
        }
    }
}

impl Operator for UpsertNormalise {
    fn name(&self) -> &'static str {
        "upsert_normalise"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, output: &mut Output) -> Result<()> {
        let columns: Vec<ArrayRef> = self.key.iter().map(|&at| Arc::clone(chunk.rows.column(at))).collect();
        let hashes = key_hashes(&columns, chunk.len(), chunk.key_hashes.as_ref());
        let keys = self.intern(&columns, &hashes)?;
        let changes = self.apply(&chunk, &keys)?;
        self.emit(&chunk, changes, output)
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        let is_rebased =
            |keys: &GroupKeys, key: u32| context.rebase.contains(context.key_groups.group_of(keys.hash_of(key)));
        let changed: Vec<u32> = self.changed.iter().collect();
        let (kept, gone): (Vec<u32>, Vec<u32>) =
            changed.into_iter().partition(|&key| self.rows[key as usize].is_some());
        let kept: Vec<u32> = if context.rebase.is_empty() {
            kept
        } else {
            let is_due = |&key: &u32| {
                self.rows[key as usize].is_some() && (self.changed.contains(key) || is_rebased(&self.keys, key))
            };
            (0..self.rows.len() as u32).filter(is_due).collect()
        };
        let mut rows = Vec::new();
        // A rebased range says by itself what is not in it.
        let told: Vec<u32> = gone
            .iter()
            .copied()
            .filter(|&key| !is_rebased(&self.keys, key))
            .collect();
        for part in told.chunks(STATE_BATCH_ROWS) {
            rows.push(self.batch(context, part, OP_TOMBSTONE)?);
        }
        for part in kept.chunks(STATE_BATCH_ROWS) {
            rows.push(self.batch(context, part, OP_PUT)?);
        }
        for key in kept {
            self.persisted.insert(key);
        }
        self.changed.clear();
        for key in gone {
            self.persisted.remove(key);
            self.forget_absent(key);
        }
        Ok(vec![TableWrite {
            table: ROWS_TABLE,
            kind: TableKind::GlobalKeyed,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before: None,
            rows,
        }])
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        state.read(ROWS_TABLE, &mut |rows| Ok(self.read(&rows)?))?;
        self.forget_all_absent();
        Ok(())
    }

    fn state_size(&self) -> StateSize {
        let places = self.rows.capacity() * (size_of::<Option<Box<[u8]>>>() + 4)
            + self.times.as_ref().map_or(0, |times| times.capacity() * 8);
        StateSize {
            rows: self.live as u64,
            bytes: (self.keys.memory_bytes() + self.bytes + places) as u64,
        }
    }
}

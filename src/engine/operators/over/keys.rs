//! What an OVER keeps of each key: how far its rows came out, the rows that frames still need, values that run on.
//!
//! Table `keys`, by the key columns `k0..`: `upto` (event time of the last row that came out), `rows` and `groups` (how many
//! came out), and of each function what [`Running`] has: `n<i>`, whether the nth row was there, and `v<i>`, its value; `a<i>`,
//! the rows absorbed, and `s<i>_<column>`, the state of the accumulator. A key is written at most once an epoch: as it is, or
//! as a tombstone. Which rows are kept is in no table: those of table `rows` that are not later than `upto`.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int8Array, RecordBatch, UInt16Array, new_null_array};
use arrow::datatypes::{DataType, Field, Int8Type, Schema, SchemaRef};
use datafusion::scalar::ScalarValue;

use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::accumulators::other::scalars_to_column;
use crate::engine::operators::bits::Bits;
use crate::engine::operators::columns::{as_int64, batch_of, int64};
use crate::engine::operators::group_state::{check_schema, rebased_range};
use crate::engine::operators::keys::{GroupKeys, key_hashes};
use crate::engine::operators::over::functions::Running;
use crate::engine::over_spec::OverFunction;
use crate::state::table::{
    Distribution, OP_PUT, OP_TOMBSTONE, STATE_BATCH_ROWS, SnapshotContext, StateReader, TableKind, TableWrite,
    leading_fields,
};

const TABLE: &str = "keys";

pub(super) struct Key {
    /// Rows in order: `kept` that came out and are still needed, then those that wait for what follows.
    pub rows: Vec<u32>,
    pub kept: usize,
    /// Event time of the last row that came out.
    pub upto: Option<i64>,
    pub rows_done: i64,
    pub groups_done: i64,
    pub running: Vec<Running>,
    /// Is in the queue of keys to be forgotten.
    pub queued: bool,
}

pub(super) struct Keys {
    functions: Arc<Vec<OverFunction>>,
    running: bool,
    table: GroupKeys,
    keys: Vec<Option<Key>>,
    /// How many of them there are.
    count: usize,
    schema: SchemaRef,
    key_width: usize,
    /// Types of the state columns of each function.
    widths: Vec<Vec<DataType>>,
    changed: Bits,
    persisted: Bits,
    /// Without anything to remember, but part of the last snapshot.
    dying: Vec<u32>,
}

impl Keys {
    pub fn new(functions: &Arc<Vec<OverFunction>>, key_types: &[DataType], input: &Schema) -> Result<Keys> {
        let nullable = |name: String, of: &DataType| Field::new(name, of.clone(), true);
        let mut fields = leading_fields(TableKind::GlobalKeyed);
        fields.extend(
            key_types
                .iter()
                .enumerate()
                .map(|(at, of)| nullable(format!("k{at}"), of)),
        );
        fields.extend(["upto", "rows", "groups"].map(|name| nullable(name.into(), &DataType::Int64)));
        let mut widths = Vec::new();
        for (at, function) in functions.iter().enumerate() {
            let types = match (Running::new(function)?, function) {
                (Running::Nth(_), OverFunction::Nth { value, .. }) => {
                    let of = value.data_type(input)?;
                    fields.push(nullable(format!("n{at}"), &DataType::Boolean));
                    fields.push(nullable(format!("v{at}"), &of));
                    vec![of]
                }
                (Running::Aggregate { .. }, OverFunction::Aggregate { function, .. }) => {
                    fields.push(nullable(format!("a{at}"), &DataType::Int64));
                    let states = function.state_fields()?;
                    for (column, state) in states.iter().enumerate() {
                        fields.push(nullable(format!("s{at}_{column}"), state.data_type()));
                    }
                    states.iter().map(|state| state.data_type().clone()).collect()
                }
                _ => Vec::new(),
            };
            widths.push(types);
        }
        Ok(Keys {
            running: functions.iter().any(OverFunction::is_running),
            functions: Arc::clone(functions),
            table: GroupKeys::new(key_types)?,
            keys: Vec::new(),
            count: 0,
            schema: Arc::new(Schema::new(fields)),
            key_width: key_types.len(),
            widths,
            changed: Bits::default(),
            persisted: Bits::default(),
            dying: Vec::new(),
        })
    }

    /// The number of each row's key; new keys start with nothing.
    pub fn intern(&mut self, columns: &[ArrayRef], hashes: &[u64]) -> Result<Vec<u32>> {
        let numbers = self.table.intern(columns, hashes)?;
        self.keys
            .resize_with(self.table.capacity().max(self.keys.len()), || None);
        for &number in &numbers {
            if self.keys[number as usize].is_none() {
                self.keys[number as usize] = Some(self.fresh()?);
                self.count += 1;
            }
        }
        Ok(numbers)
    }

    fn fresh(&self) -> Result<Key> {
        Ok(Key {
            rows: Vec::new(),
            kept: 0,
            upto: None,
            rows_done: 0,
            groups_done: 0,
            running: self.functions.iter().map(Running::new).collect::<Result<_>>()?,
            queued: false,
        })
    }

    pub fn get(&self, number: u32) -> Option<&Key> {
        self.keys.get(number as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, number: u32) -> Result<&mut Key> {
        self.keys
            .get_mut(number as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| Error::Internal("a key of OVER that is not there".into()))
    }

    /// The key is other than the last snapshot has it; it goes when there is nothing to remember of it.
    pub fn note_changed(&mut self, number: u32) {
        let nothing = |key: &Key| key.rows.is_empty() && (!self.running || key.rows_done == 0);
        if self.get(number).is_some_and(nothing) {
            self.forget(number);
        } else {
            self.changed.insert(number);
        }
    }

    /// Forgets the key, whatever is known of it; its rows are the caller's.
    pub fn forget(&mut self, number: u32) {
        self.changed.remove(number);
        self.keys[number as usize] = None;
        self.count -= 1;
        if self.persisted.contains(number) {
            self.dying.push(number);
        } else {
            self.table.remove(number);
        }
    }

    /// All keys there are.
    pub fn all(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.keys.len() as u32).filter(|&number| self.keys[number as usize].is_some())
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn write(&mut self, context: &SnapshotContext) -> Result<TableWrite> {
        let is_rebased = |table: &GroupKeys, number: u32| {
            let group = context.key_groups.group_of(table.hash_of(number));
            context.rebase.contains(group)
        };
        let mut dead = std::mem::take(&mut self.dying);
        dead.sort_unstable();
        dead.dedup();
        // One that came again has not died.
        dead.retain(|&number| self.keys[number as usize].is_none());
        let gone: Vec<u32> = dead
            .iter()
            .copied()
            .filter(|&number| !is_rebased(&self.table, number))
            .collect();
        let mut rows = Vec::new();
        for part in gone.chunks(STATE_BATCH_ROWS) {
            rows.push(self.batch(context, part, OP_TOMBSTONE)?);
        }
        for number in dead {
            self.persisted.remove(number);
            self.table.remove(number);
        }
        let wanted = |&number: &u32| {
            // A key of which nothing came out is known from its rows, unless the last snapshot has a former one.
            let is_known = self.persisted.contains(number) || self.get(number).is_some_and(|key| key.upto.is_some());
            is_known && (self.changed.contains(number) || is_rebased(&self.table, number))
        };
        let chosen: Vec<u32> = if context.rebase.is_empty() {
            self.changed.iter().filter(wanted).collect()
        } else {
            self.all().filter(wanted).collect()
        };
        for part in chosen.chunks(STATE_BATCH_ROWS) {
            rows.push(self.batch(context, part, OP_PUT)?);
        }
        for &number in &chosen {
            self.persisted.insert(number);
        }
        self.changed.clear();
        Ok(TableWrite {
            table: TABLE,
            kind: TableKind::GlobalKeyed,
            distribution: Distribution::KeyGroups,
            rebased: rebased_range(context),
            expired_before: None,
            rows,
        })
    }

    fn batch(&mut self, context: &SnapshotContext, numbers: &[u32], op: i8) -> Result<RecordBatch> {
        let group = |&number: &u32| context.key_groups.group_of(self.table.hash_of(number)).0;
        let groups: UInt16Array = numbers.iter().map(group).collect();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(groups), Arc::new(Int8Array::from(vec![op; numbers.len()]))];
        columns.extend(self.table.gather(numbers));
        if op == OP_PUT {
            for of in [
                |key: &Key| key.upto.unwrap_or(i64::MIN),
                |key: &Key| key.rows_done,
                |key: &Key| key.groups_done,
            ] {
                let value = |&number: &u32| self.get(number).map_or(0, of);
                columns.push(int64(numbers.iter().map(value).collect()));
            }
            for at in 0..self.functions.len() {
                columns.extend(self.function_columns(at, numbers)?);
            }
        } else {
            for field in &self.schema.fields()[columns.len()..] {
                columns.push(new_null_array(field.data_type(), numbers.len()));
            }
        }
        batch_of(&self.schema, columns, numbers.len())
    }

    /// What the function at `at` keeps of each key.
    fn function_columns(&mut self, at: usize, numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        let functions = Arc::clone(&self.functions);
        let types = self.widths[at].clone();
        let mut flags: Vec<bool> = Vec::new();
        let mut absorbed_rows: Vec<i64> = Vec::new();
        let mut states: Vec<Vec<ScalarValue>> = vec![Vec::with_capacity(numbers.len()); types.len()];
        for &number in numbers {
            match (&mut self.get_mut(number)?.running[at], &functions[at]) {
                (Running::Nth(value), _) => {
                    flags.push(value.is_some());
                    states[0].push(match value {
                        Some(value) => value.clone(),
                        None => ScalarValue::try_from(&types[0])?,
                    });
                }
                (Running::Aggregate { accumulator, absorbed }, OverFunction::Aggregate { function, .. }) => {
                    absorbed_rows.push(*absorbed);
                    // Giving the state away may empty the accumulator.
                    let state = accumulator.state()?;
                    let mut same = function.create_accumulator()?;
                    let columns = state.iter().map(ScalarValue::to_array).collect::<Result<Vec<_>, _>>()?;
                    same.merge_batch(&columns)?;
                    *accumulator = same;
                    for (column, value) in states.iter_mut().zip(state) {
                        column.push(value);
                    }
                }
                _ => {}
            }
        }
        let mut columns: Vec<ArrayRef> = Vec::new();
        match functions[at] {
            OverFunction::Nth { .. } if !types.is_empty() => columns.push(Arc::new(BooleanArray::from(flags))),
            OverFunction::Aggregate { .. } if !types.is_empty() => columns.push(int64(absorbed_rows)),
            _ => {}
        }
        for (values, of) in states.into_iter().zip(&types) {
            columns.push(scalars_to_column(values, of)?);
        }
        Ok(columns)
    }

    pub fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        state.read(TABLE, &mut |rows| Ok(self.read(&rows)?))?;
        Ok(())
    }

    fn read(&mut self, rows: &RecordBatch) -> Result<()> {
        check_schema(&self.schema, rows)?;
        let columns = &rows.columns()[2..2 + self.key_width];
        let hashes = key_hashes(columns, rows.num_rows(), None);
        let numbers = self.intern(columns, &hashes)?;
        let ops = rows.column(1).as_primitive::<Int8Type>();
        let first = 2 + self.key_width;
        let [upto, done, groups] = [0, 1, 2].map(|at| as_int64(rows.column(first + at)));
        let (upto, done, groups) = (upto?, done?, groups?);
        for (row, &number) in numbers.iter().enumerate() {
            if ops.value(row) != OP_PUT {
                // The same key may follow in the same batch.
                self.keys[number as usize] = Some(self.fresh()?);
                self.persisted.remove(number);
                continue;
            }
            let mut key = self.fresh()?;
            key.upto = Some(upto.value(row));
            key.rows_done = done.value(row);
            key.groups_done = groups.value(row);
            let mut at = first + 3;
            for (running, types) in key.running.iter_mut().zip(&self.widths) {
                if types.is_empty() {
                    continue;
                }
                let states = &rows.columns()[at + 1..at + 1 + types.len()];
                read_running(running, rows.column(at), states, row)?;
                at += 1 + types.len();
            }
            self.keys[number as usize] = Some(key);
            self.persisted.insert(number);
        }
        Ok(())
    }

    /// After a restore: keys whose tombstone was read are gone.
    pub fn drop_unknown(&mut self) {
        let unknown: Vec<u32> = self
            .all()
            .filter(|&number| self.get(number).is_some_and(|key| key.upto.is_none()))
            .collect();
        for number in unknown {
            self.forget(number);
        }
    }

    pub fn memory_bytes(&self) -> usize {
        let running = |key: &Key| -> usize {
            let of = |running: &Running| match running {
                Running::Aggregate { accumulator, .. } => accumulator.size(),
                Running::Nth(Some(value)) => value.size(),
                _ => 0,
            };
            key.running.iter().map(of).sum::<usize>() + key.rows.capacity() * 4
        };
        self.table.memory_bytes()
            + self.keys.capacity() * size_of::<Option<Key>>()
            + self.keys.iter().flatten().map(running).sum::<usize>()
    }
}

fn read_running(running: &mut Running, first: &ArrayRef, states: &[ArrayRef], row: usize) -> Result<()> {
    match running {
        Running::Nothing => {}
        Running::Nth(value) => {
            let known = first
                .as_boolean_opt()
                .is_some_and(|known| known.is_valid(row) && known.value(row));
            *value = match states {
                [column] if known => Some(ScalarValue::try_from_array(column, row)?),
                _ => None,
            };
        }
        Running::Aggregate { accumulator, absorbed } => {
            *absorbed = as_int64(first)?.value(row);
            let states: Vec<ArrayRef> = states.iter().map(|column| column.slice(row, 1)).collect();
            accumulator.merge_batch(&states)?;
        }
    }
    Ok(())
}

//! SUBSCRIBE .. ENVELOPE: the changes of an epoch, one row for each key, instead of a row for each insertion and deletion.
//!
//! UPSERT: `lm_epoch`, `lm_state`, the key's columns, the others. DEBEZIUM: the others twice, `before_x` and `after_x`.
//! `lm_state` is `upsert`, with DEBEZIUM `insert` where there was nothing before, `delete`, or `key_violation` when one key
//! has several rows: it is no key.
//!
//! Guarantee: within one epoch a key comes once, and a change that was undone in the same epoch not at all.
//! Not guaranteed: that two rows of a key which came in different epochs are noticed; nothing is kept between epochs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};

use crate::engine::message::{Chunk, Weights};
use crate::error::{ErrorReport, SqlState, nearest};
use crate::frontend::error::{Error, Result};
use crate::frontend::sql::statement::Envelope;

/// How a subscription shows changes by key.
#[derive(Clone, Debug)]
pub struct KeyedForm {
    input: SchemaRef,
    /// Columns of the input, in the order of the KEY clause.
    keys: Vec<usize>,
    others: Vec<usize>,
    debezium: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Insert,
    Upsert,
    Delete,
    KeyViolation,
}

/// The changes of one key: rows of the input with their weights, equal rows added up.
#[derive(Default)]
struct KeyChanges {
    first: u32,
    rows: Vec<(u32, i64)>,
}

/// One row of the output, as rows of the input.
struct Shown {
    key: u32,
    state: State,
    before: Option<u32>,
    after: Option<u32>,
}

impl KeyedForm {
    /// `None` when the envelope is the plain one. The names of the key must be columns of `input`.
    pub fn of(envelope: &Envelope, input: &SchemaRef) -> Result<Option<KeyedForm>> {
        let (names, debezium) = match envelope {
            Envelope::None => return Ok(None),
            Envelope::Upsert(names) => (names, false),
            Envelope::Debezium(names) => (names, true),
        };
        let mut keys = Vec::with_capacity(names.len());
        for name in names {
            let Ok(index) = input.index_of(name) else {
                return Err(Error::Undefined {
                    code: SqlState::UNDEFINED_COLUMN,
                    what: "column",
                    name: name.clone(),
                    nearest: nearest(name, input.fields().iter().map(|field| field.name().as_str())).map(str::to_owned),
                });
            };
            if keys.contains(&index) {
                let message = format!("column \"{name}\" specified more than once in KEY");
                return Err(Error::user(SqlState::DUPLICATE_COLUMN, message));
            }
            keys.push(index);
        }
        Ok(Some(KeyedForm {
            input: Arc::clone(input),
            others: (0..input.fields().len())
                .filter(|index| !keys.contains(index))
                .collect(),
            keys,
            debezium,
        }))
    }

    /// The columns behind `lm_epoch` and `lm_progressed`.
    pub fn fields(&self) -> Vec<Field> {
        let field = |index: usize| self.input.field(index).clone().with_nullable(true);
        let named = |prefix: &str, index: usize| {
            let field = field(index);
            let name = format!("{prefix}{}", field.name());
            field.with_name(name)
        };
        let mut fields = vec![Field::new("lm_state", DataType::Utf8, true)];
        fields.extend(self.keys.iter().map(|index| field(*index)));
        if self.debezium {
            fields.extend(self.others.iter().map(|index| named("before_", *index)));
            fields.extend(self.others.iter().map(|index| named("after_", *index)));
        } else {
            fields.extend(self.others.iter().map(|index| field(*index)));
        }
        fields
    }

    /// All changes of one epoch, in the columns of [`KeyedForm::fields`].
    pub fn columns(&self, chunks: &[Chunk]) -> Result<Vec<ArrayRef>, ErrorReport> {
        self.shown_columns(chunks).map_err(|error| {
            let message = format!("changes could not be put in order by key: {error}");
            ErrorReport::new(SqlState::INTERNAL_ERROR, message)
        })
    }

    fn shown_columns(&self, chunks: &[Chunk]) -> Result<Vec<ArrayRef>, ArrowError> {
        let all = concat_batches(&self.input, chunks.iter().map(|chunk| &chunk.rows))?;
        let shown: Vec<Shown> = self
            .by_key(&all, &weights(chunks))?
            .iter()
            .filter_map(|changes| changes.shown(self.debezium))
            .collect();
        let states = shown.iter().map(|row| row.state.as_str());
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from_iter_values(states))];
        let picked = |columns: &[usize], rows: UInt32Array| -> Result<Vec<ArrayRef>, ArrowError> {
            columns
                .iter()
                .map(|column| take(all.column(*column), &rows, None))
                .collect()
        };
        columns.extend(picked(&self.keys, shown.iter().map(|row| Some(row.key)).collect())?);
        if self.debezium {
            columns.extend(picked(&self.others, shown.iter().map(|row| row.before).collect())?);
        }
        columns.extend(picked(&self.others, shown.iter().map(|row| row.after).collect())?);
        Ok(columns)
    }

    /// In the order in which the keys came.
    fn by_key(&self, all: &RecordBatch, weights: &[i64]) -> Result<Vec<KeyChanges>, ArrowError> {
        let keys = comparable(all, &self.keys)?;
        let rows = comparable(all, &self.others)?;
        let (keys, rows) = (
            bytes_of(keys.as_ref(), weights.len()),
            bytes_of(rows.as_ref(), weights.len()),
        );
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        let mut places_in_key: HashMap<(usize, &[u8]), usize> = HashMap::new();
        let mut groups: Vec<KeyChanges> = Vec::new();
        for (row, weight) in (0_u32..).zip(weights) {
            let index = row as usize;
            let place = *places.entry(keys[index]).or_insert_with(|| {
                groups.push(KeyChanges {
                    first: row,
                    rows: Vec::new(),
                });
                groups.len() - 1
            });
            let changes = &mut groups[place].rows;
            match places_in_key.entry((place, rows[index])) {
                Entry::Occupied(same) => changes[*same.get()].1 += weight,
                Entry::Vacant(new) => {
                    new.insert(changes.len());
                    changes.push((row, *weight));
                }
            }
        }
        Ok(groups)
    }
}

impl KeyChanges {
    /// `None` when nothing has changed in the end.
    fn shown(&self, debezium: bool) -> Option<Shown> {
        let of_sign = |sign: i64| self.rows.iter().filter(move |(_, weight)| weight.signum() == sign);
        let single = |sign: i64| match of_sign(sign).collect::<Vec<_>>().as_slice() {
            [] => Ok(None),
            [(row, weight)] if weight.abs() == 1 => Ok(Some(*row)),
            _ => Err(()),
        };
        let (state, before, after) = match (single(-1), single(1)) {
            (Ok(None), Ok(None)) => return None,
            (Ok(None), Ok(Some(after))) if debezium => (State::Insert, None, Some(after)),
            (Ok(before), Ok(Some(after))) => (State::Upsert, before, Some(after)),
            (Ok(Some(before)), Ok(None)) => (State::Delete, Some(before), None),
            _ => (State::KeyViolation, None, None),
        };
        Some(Shown {
            key: self.first,
            state,
            before,
            after,
        })
    }
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            State::Insert => "insert",
            State::Upsert => "upsert",
            State::Delete => "delete",
            State::KeyViolation => "key_violation",
        }
    }
}

fn weights(chunks: &[Chunk]) -> Vec<i64> {
    let of_chunk = |chunk: &Chunk| match &chunk.weights {
        Weights::AllInsert => vec![1; chunk.len()],
        Weights::Signed(weights) => weights.to_vec(),
    };
    chunks.iter().flat_map(of_chunk).collect()
}

/// Rows as bytes that are equal when the rows are; `None` for rows without columns.
fn comparable(all: &RecordBatch, columns: &[usize]) -> Result<Option<Rows>, ArrowError> {
    if columns.is_empty() {
        return Ok(None);
    }
    let arrays: Vec<ArrayRef> = columns.iter().map(|column| Arc::clone(all.column(*column))).collect();
    let fields = arrays.iter().map(|array| SortField::new(array.data_type().clone()));
    let converter = RowConverter::new(fields.collect())?;
    converter.convert_columns(&arrays).map(Some)
}

fn bytes_of(rows: Option<&Rows>, count: usize) -> Vec<&[u8]> {
    match rows {
        Some(rows) => rows.iter().map(|row| row.data()).collect(),
        // Rows without columns are all the same.
        None => vec![&[]; count],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Array, AsArray, Int64Array};
    use arrow::buffer::ScalarBuffer;
    use arrow::datatypes::{Int64Type, Schema};

    use super::*;

    fn form(envelope: Envelope) -> KeyedForm {
        let fields = vec![
            Field::new("k", DataType::Int64, true),
            Field::new("v", DataType::Int64, true),
        ];
        KeyedForm::of(&envelope, &Arc::new(Schema::new(fields)))
            .unwrap()
            .unwrap()
    }

    fn chunk(rows: &[(i64, i64, i64)]) -> Chunk {
        let column = |of: fn(&(i64, i64, i64)) -> i64| -> ArrayRef {
            Arc::new(rows.iter().map(|row| Some(of(row))).collect::<Int64Array>())
        };
        let schema = form(Envelope::Upsert(vec!["k".into()])).input;
        let batch = RecordBatch::try_new(schema, vec![column(|row| row.1), column(|row| row.2)]).unwrap();
        Chunk {
            weights: Weights::Signed(rows.iter().map(|row| row.0).collect::<ScalarBuffer<i64>>()),
            ..Chunk::insert(batch)
        }
    }

    fn lines(columns: &[ArrayRef]) -> Vec<String> {
        let states = columns[0].as_string::<i32>();
        (0..states.len())
            .map(|row| {
                let numbers = columns[1..].iter().map(|column| {
                    let column = column.as_primitive::<Int64Type>();
                    match column.is_null(row) {
                        true => "-".to_owned(),
                        false => column.value(row).to_string(),
                    }
                });
                format!("{} {}", states.value(row), numbers.collect::<Vec<_>>().join(" "))
            })
            .collect()
    }

    fn check(rows: &[(i64, i64, i64)], upsert: &[&str], debezium: &[&str]) {
        let key = || vec!["k".to_owned()];
        let shown = |envelope| lines(&form(envelope).columns(&[chunk(rows)]).unwrap());
        assert_eq!(shown(Envelope::Upsert(key())), upsert, "{rows:?}");
        assert_eq!(shown(Envelope::Debezium(key())), debezium, "{rows:?}");
    }

    #[test]
    fn a_key_comes_once() {
        check(&[(1, 1, 10)], &["upsert 1 10"], &["insert 1 - 10"]);
        check(&[(-1, 1, 10), (1, 1, 11)], &["upsert 1 11"], &["upsert 1 10 11"]);
        check(&[(1, 1, 11), (-1, 1, 10)], &["upsert 1 11"], &["upsert 1 10 11"]);
        check(&[(-1, 1, 10)], &["delete 1 -"], &["delete 1 10 -"]);
        check(&[(1, 1, 10), (-1, 1, 10)], &[], &[]);
        check(
            &[(1, 1, 10), (1, 2, 20), (1, 1, 11)],
            &["key_violation 1 -", "upsert 2 20"],
            &["key_violation 1 - -", "insert 2 - 20"],
        );
        check(&[(2, 1, 10)], &["key_violation 1 -"], &["key_violation 1 - -"]);
    }

    #[test]
    fn the_key_may_be_the_whole_row() {
        let whole = form(Envelope::Upsert(vec!["v".into(), "k".into()]));
        let names: Vec<String> = whole.fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["lm_state", "v", "k"]);
        let columns = whole.columns(&[chunk(&[(1, 1, 10), (-1, 2, 20)])]).unwrap();
        assert_eq!(lines(&columns), ["upsert 10 1", "delete 20 2"]);
    }

    #[test]
    fn the_key_must_exist() {
        let input = form(Envelope::Upsert(vec!["k".into()])).input;
        assert!(KeyedForm::of(&Envelope::Upsert(vec!["kk".into()]), &input).is_err());
        assert!(KeyedForm::of(&Envelope::Debezium(vec!["k".into(), "k".into()]), &input).is_err());
    }
}

//! A chunk comes to a join: it is stored if rows may come on the other side, and its way past the rows of that side begins; the
//! pairs that it finds are looked at.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute::and;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::TimestampMicrosecondType;

use crate::engine::error::Error;
use crate::engine::join_spec::{JoinColumn, Moment, Side};
use crate::engine::message::Chunk;
use crate::engine::operator::Result;
use crate::engine::operators::columns::{batch_of, evaluate, int64, weights_of};
use crate::engine::operators::join::probe::{Cursor, Pairs, Partners};
use crate::engine::operators::join::rows::{NewRows, Stored};
use crate::engine::operators::join::scan::Scan;
use crate::engine::operators::join::waiting_rows::{WaitingChunk, WaitingRows};
use crate::engine::operators::join::{Join, partners, ttl_of};
use crate::engine::operators::keys::key_hashes;

/// A chunk and what is known of it besides.
struct Arrival<'a> {
    chunk: &'a Chunk,
    key_columns: Vec<ArrayRef>,
    hashes: ScalarBuffer<u64>,
    /// Event time, when the output has one.
    times: Option<ScalarBuffer<i64>>,
    /// When each row is done, and when late; nothing in a join without time.
    done: Vec<i64>,
    late: Vec<i64>,
}

impl Join {
    /// The way of a chunk past the rows of the other side; the chunk is stored if rows may come there.
    pub(super) fn begin(&mut self, side: Side, chunk: &Chunk) -> Result<Cursor> {
        let arrival = self.arrival(side, chunk)?;
        let other = side.other().index();
        if self.waiting[other]
            .as_ref()
            .is_some_and(WaitingRows::is_asked_too_often)
        {
            self.index_waiting(side.other())?;
        }
        let ended = self.ended[other];
        let (keys, stored) = if ended {
            (None, Stored::default())
        } else {
            self.store(side, &arrival)?
        };
        let columns = chunk.rows.columns().to_vec();
        let mut cursor = match &mut self.waiting[other] {
            Some(waiting) => {
                let scan = Scan::new(waiting, arrival.hashes, &arrival.done, &arrival.late);
                Cursor::by_hash(side, columns, scan, stored)
            }
            None => {
                let keys = keys.unwrap_or_else(|| self.keys.find(&arrival.key_columns, &arrival.hashes));
                Cursor::by_key(side, columns, keys, stored)
            }
        };
        cursor.passing = (ended && self.spec.kind.counts(side)).then(|| vec![0; chunk.len()]);
        cursor.weights = weights_of(chunk).map(<[i64]>::to_vec);
        cursor.times = arrival.times;
        Ok(cursor)
    }

    fn arrival<'a>(&self, side: Side, chunk: &'a Chunk) -> Result<Arrival<'a>> {
        let keys = &self.spec.inputs[side.index()].keys;
        let key_columns: Vec<ArrayRef> = keys.iter().map(|&key| Arc::clone(chunk.rows.column(key))).collect();
        let hashes = match &chunk.key_hashes {
            Some(hashes) => hashes.clone(),
            None => key_hashes(&key_columns, chunk.len(), None).into_owned().into(),
        };
        let times = match (&chunk.event_time, self.tracks_time) {
            (_, false) => None,
            (Some(times), true) => Some(times.clone()),
            (None, true) => return Err(Error::Internal("a join got rows without event time".into())),
        };
        let (done, late) = match self.time() {
            Some(time) => {
                let row = &time.rows[side.index()];
                let moments = |of: &Moment| moments_of(chunk.rows.column(of.column), of.offset_micros);
                (moments(&row.done)?, moments(&row.late)?)
            }
            None => (Vec::new(), Vec::new()),
        };
        Ok(Arrival {
            chunk,
            key_columns,
            hashes,
            times,
            done,
            late,
        })
    }

    /// Gives the numbers of the rows' keys where they have any.
    fn store(&mut self, side: Side, arrival: &Arrival<'_>) -> Result<(Option<Vec<u32>>, Stored)> {
        let mut columns = arrival.chunk.rows.columns().to_vec();
        columns.extend(arrival.times.as_ref().map(|times| int64(times.to_vec())));
        let weights = weights_of(arrival.chunk);
        if let Some(waiting) = &mut self.waiting[side.index()] {
            waiting.add(WaitingChunk::new(
                columns,
                arrival.hashes.clone(),
                weights.map(|weights| weights.to_vec().into()),
                arrival.done.clone(),
                arrival.late.clone(),
            ))?;
            return Ok((None, Stored::default()));
        }
        let keys = self.keys.intern(&arrival.key_columns, &arrival.hashes)?;
        let new = NewRows {
            columns: &columns,
            keys: &keys,
            weights,
            done: self.time().is_some().then_some(&arrival.done[..]),
            now: ttl_of(&self.spec).map_or(0, |_| self.clock.now_millis()),
        };
        let stored = self.stores[side.index()].add(&new, &mut self.keys)?;
        Ok((Some(keys), stored))
    }

    /// From now on rows of `side` are indexed.
    fn index_waiting(&mut self, side: Side) -> Result<()> {
        let Some(waiting) = self.waiting[side.index()].take() else {
            return Ok(());
        };
        let store = &mut self.stores[side.index()];
        for chunk in waiting.chunks {
            let keys = &self.spec.inputs[side.index()].keys;
            let key_columns: Vec<ArrayRef> = keys.iter().map(|&key| Arc::clone(&chunk.columns[key])).collect();
            let keys = self.keys.intern(&key_columns, &chunk.hashes)?;
            if chunk.persisted {
                let rows = store.intern(&chunk.columns, &keys, &mut self.keys)?;
                for (at, row) in rows.into_iter().enumerate() {
                    let weight = chunk.weights.as_ref().map_or(1, |weights| weights[at]);
                    store.restore(row, weight, Some(chunk.done[at]));
                }
                continue;
            }
            let new = NewRows {
                columns: &chunk.columns,
                keys: &keys,
                weights: chunk.weights.as_deref(),
                done: Some(&chunk.done),
                now: 0,
            };
            store.add(&new, &mut self.keys)?;
        }
        Ok(())
    }

    fn partners_of(&self, cursor: &Cursor) -> Partners<'_> {
        partners(&self.stores, &self.waiting, cursor.side.other())
    }

    /// Of pairs that were found by hash those whose keys are equal.
    pub(super) fn with_equal_keys(&self, cursor: &Cursor, pairs: Pairs) -> Result<Pairs> {
        if !cursor.goes_by_hash() || pairs.is_empty() {
            return Ok(pairs);
        }
        let wanted: Vec<JoinColumn> = Side::BOTH
            .into_iter()
            .flat_map(|side| {
                let keys = self.spec.inputs[side.index()].keys.iter();
                keys.map(move |&column| JoinColumn { side, column })
            })
            .collect();
        let columns = cursor.gather(self.partners_of(cursor), &pairs, &wanted)?;
        let (left, right) = columns.split_at(columns.len() / 2);
        let mut equal: Option<BooleanArray> = None;
        for (left, right) in left.iter().zip(right) {
            let of_column = not_distinct(left, right)?;
            equal = Some(match equal {
                Some(before) => and(&before, &of_column)?,
                None => of_column,
            });
        }
        Ok(match equal {
            Some(equal) => pairs.kept(&equal),
            None => pairs,
        })
    }

    /// The pairs that satisfy what the join asks for besides equal keys.
    pub(super) fn satisfying(&self, cursor: &Cursor, pairs: Pairs) -> Result<Pairs> {
        let Some(residual) = self.spec.residual.as_ref().filter(|_| !pairs.is_empty()) else {
            return Ok(pairs);
        };
        let columns = cursor.gather(self.partners_of(cursor), &pairs, &residual.columns)?;
        let batch = batch_of(&residual.schema, columns, pairs.len())?;
        let verdict = evaluate(&residual.predicate, &batch)?;
        let verdict = verdict
            .as_boolean_opt()
            .ok_or_else(|| Error::Internal("the condition of a join is not boolean".into()))?;
        Ok(pairs.kept(verdict))
    }
}

/// Times plus a constant; the least possible for NULL.
pub(super) fn moments_of(column: &ArrayRef, offset_micros: i64) -> Result<Vec<i64>> {
    let times = column
        .as_primitive_opt::<TimestampMicrosecondType>()
        .ok_or_else(|| Error::Internal("the time column of a join is not a timestamp".into()))?;
    let values = times.values().iter().enumerate().map(|(row, value)| {
        if times.is_null(row) {
            i64::MIN
        } else {
            value.saturating_add(offset_micros)
        }
    });
    Ok(values.collect())
}

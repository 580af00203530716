//! Keys that were asked for and the rows that were answered: the cache of a lookup join, least recently used keys going first.
//!
//! Each key has a dense number, as in the other operators. Rows stay in the batches they came in; a key has a range of one. A key
//! that a waiting chunk needs is pinned: it has its answer until the chunk has gone on, however small the cache is, and is asked
//! for once however many chunks wait for it.
//!
//! Guarantee: memory is in proportion to the keys kept: batches of which most rows belong to no key any more are written anew.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, SchemaRef};
use metrics::counter;

use crate::engine::connectors::lookup::{LookupAnswer, LookupOptions};
use crate::engine::error::Error;
use crate::engine::operator::Result;
use crate::engine::operators::columns::{take_batch, take_columns};
use crate::engine::operators::keys::{GroupKeys, key_hashes};
use crate::types::record_batch::batch_of_rows;

/// No key: of a row whose key has a NULL, and the ends of lists.
pub const NONE: u32 = u32::MAX;

/// Batches are written anew only when there is this much to gain.
const ROWS_WORTH_MOVING: usize = 32 * 1024;

/// Where the rows of a key are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub batch: u32,
    pub start: u32,
    pub rows: u32,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// The number belongs to no key, or to one nobody has asked for yet.
    Unasked,
    Asked,
    Answered {
        range: Range,
        at: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    state: State,
    /// Chunks that wait for the key, or are on their way past it.
    pins: u32,
    /// Neighbours in the list of unpinned keys with an answer, by when they were used last.
    older: u32,
    newer: u32,
}

const FRESH: Entry = Entry {
    state: State::Unasked,
    pins: 0,
    older: NONE,
    newer: NONE,
};

/// Rows that were answered together.
struct Answered {
    rows: RecordBatch,
    /// Of keys that are still there.
    live: usize,
}

pub struct Answers {
    keys: GroupKeys,
    entries: Vec<Entry>,
    batches: HashMap<u32, Answered>,
    next_batch: u32,
    rows_held: usize,
    rows_live: usize,
    oldest: u32,
    newest: u32,
    /// Keys in the list.
    idle: usize,
    idle_max: usize,
    ttl: Duration,
}

/// The keys of a chunk.
pub struct Wanted {
    /// For each row its key's number, or [`NONE`].
    pub of_rows: Vec<u32>,
    /// Each number once; these are pinned.
    pub distinct: Vec<u32>,
    /// Those of them that are to be asked for now.
    pub missing: Vec<u32>,
}

impl Answers {
    pub fn new(key_types: &[DataType], options: &LookupOptions) -> Result<Answers> {
        Ok(Answers {
            keys: GroupKeys::new(key_types)?,
            entries: Vec::new(),
            batches: HashMap::new(),
            next_batch: 0,
            rows_held: 0,
            rows_live: 0,
            oldest: NONE,
            newest: NONE,
            idle: 0,
            idle_max: options.cache_rows,
            ttl: options.cache_ttl,
        })
    }

    /// Numbers and pins the keys of a chunk; those in `missing` count as asked from now on.
    pub fn want(&mut self, keys: &[ArrayRef], rows: usize, now: Instant) -> Result<Wanted> {
        let complete: Vec<u32> = (0..rows as u32)
            .filter(|&row| keys.iter().all(|column| column.is_valid(row as usize)))
            .collect();
        let mut of_rows = vec![NONE; rows];
        let indices = UInt32Array::from(complete);
        let columns = take_columns(keys, &indices)?;
        let hashes = key_hashes(&columns, indices.len(), None);
        let numbers = self.keys.intern(&columns, &hashes)?;
        self.entries.resize(self.entries.len().max(self.keys.capacity()), FRESH);
        let (mut distinct, mut missing) = (Vec::new(), Vec::new());
        let mut seen = HashSet::new();
        for (&row, &key) in indices.values().iter().zip(&numbers) {
            of_rows[row as usize] = key;
            if seen.insert(key) {
                distinct.push(key);
                if self.pin(key, now) {
                    missing.push(key);
                }
            }
        }
        counter!("laminar_lookup_hits_total").increment((distinct.len() - missing.len()) as u64);
        counter!("laminar_lookup_misses_total").increment(missing.len() as u64);
        Ok(Wanted {
            of_rows,
            distinct,
            missing,
        })
    }

    /// Whether the key must be asked for.
    fn pin(&mut self, key: u32, now: Instant) -> bool {
        let entry = self.entries[key as usize];
        let is_idle = entry.pins == 0;
        let good = match entry.state {
            State::Unasked => false,
            State::Asked => true,
            // What another chunk is about to use does not change under it.
            State::Answered { at, .. } => !is_idle || now.saturating_duration_since(at) < self.ttl,
        };
        if is_idle && matches!(entry.state, State::Answered { .. }) {
            self.unlink(key);
        }
        self.entries[key as usize].pins += 1;
        if !good {
            self.forget_rows(key);
            self.entries[key as usize].state = State::Asked;
        }
        !good
    }

    /// The columns of these keys.
    pub fn key_columns(&self, keys: &[u32]) -> Vec<ArrayRef> {
        self.keys.gather(keys)
    }

    /// Whether all these keys have their answer.
    pub fn are_answered(&self, keys: &[u32]) -> bool {
        let answered = |key: &u32| matches!(self.entries[*key as usize].state, State::Answered { .. });
        keys.iter().all(answered)
    }

    /// Takes the answer about `asked`. Keys without rows have that as their answer.
    pub fn answer(&mut self, asked: &[u32], answer: LookupAnswer, now: Instant) -> Result<()> {
        let answer = by_key(answer, asked.len())?;
        let batch = self.next_batch;
        self.next_batch = self.next_batch.wrapping_add(1);
        let mut at = 0;
        for (place, &key) in asked.iter().enumerate() {
            let start = at;
            while at < answer.keys.len() && answer.keys[at] as usize == place {
                at += 1;
            }
            let range = Range {
                batch,
                start: start as u32,
                rows: (at - start) as u32,
            };
            self.entries[key as usize].state = State::Answered { range, at: now };
        }
        let rows = answer.rows.num_rows();
        if rows > 0 {
            self.rows_held += rows;
            self.rows_live += rows;
            let answered = Answered {
                rows: answer.rows,
                live: rows,
            };
            self.batches.insert(batch, answered);
        }
        Ok(())
    }

    /// The rows of a pinned key with an answer.
    pub fn range(&self, key: u32) -> Range {
        match self.entries[key as usize].state {
            State::Answered { range, .. } => range,
            State::Unasked | State::Asked => Range {
                batch: NONE,
                start: 0,
                rows: 0,
            },
        }
    }

    pub fn batch(&self, batch: u32) -> Option<&RecordBatch> {
        self.batches.get(&batch).map(|answered| &answered.rows)
    }

    /// A chunk has gone past these keys; what the cache has no room for is forgotten.
    pub fn unpin(&mut self, keys: &[u32]) -> Result<()> {
        for &key in keys {
            let entry = &mut self.entries[key as usize];
            entry.pins -= 1;
            if entry.pins == 0 {
                self.link_newest(key);
            }
        }
        while self.idle > self.idle_max {
            let key = self.oldest;
            self.unlink(key);
            self.forget_rows(key);
            self.entries[key as usize] = FRESH;
            self.keys.remove(key);
        }
        self.rewrite_if_worth_it()
    }

    fn link_newest(&mut self, key: u32) {
        let before = self.newest;
        self.entries[key as usize].older = before;
        self.entries[key as usize].newer = NONE;
        if before == NONE {
            self.oldest = key;
        } else {
            self.entries[before as usize].newer = key;
        }
        self.newest = key;
        self.idle += 1;
    }

    fn unlink(&mut self, key: u32) {
        let Entry { older, newer, .. } = self.entries[key as usize];
        if older == NONE {
            self.oldest = newer;
        } else {
            self.entries[older as usize].newer = newer;
        }
        if newer == NONE {
            self.newest = older;
        } else {
            self.entries[newer as usize].older = older;
        }
        self.idle -= 1;
    }

    fn forget_rows(&mut self, key: u32) {
        let Range { batch, rows, .. } = self.range(key);
        if rows == 0 {
            return;
        }
        self.rows_live -= rows as usize;
        if let Some(answered) = self.batches.get_mut(&batch) {
            answered.live -= rows as usize;
            if answered.live == 0 {
                self.rows_held -= answered.rows.num_rows();
                self.batches.remove(&batch);
            }
        }
    }

    /// One batch of all live rows instead of many with gaps.
    fn rewrite_if_worth_it(&mut self) -> Result<()> {
        if self.rows_held < 2 * self.rows_live + ROWS_WORTH_MOVING {
            return Ok(());
        }
        let numbers: Vec<u32> = self.batches.keys().copied().collect();
        let place: HashMap<u32, usize> = numbers
            .iter()
            .enumerate()
            .map(|(place, &batch)| (batch, place))
            .collect();
        let mut picked = Vec::with_capacity(self.rows_live);
        let batch = self.next_batch;
        for entry in &mut self.entries {
            let State::Answered { range, .. } = &mut entry.state else {
                continue;
            };
            let Some(&from) = place.get(&range.batch).filter(|_| range.rows > 0) else {
                continue;
            };
            let start = picked.len() as u32;
            picked.extend((range.start..range.start + range.rows).map(|row| (from, row as usize)));
            *range = Range { batch, start, ..*range };
        }
        let sources: Vec<&RecordBatch> = numbers.iter().map(|batch| &self.batches[batch].rows).collect();
        let Some(schema) = sources.first().map(|batch| batch.schema()) else {
            return Ok(());
        };
        let rows = interleaved(&schema, &sources, &picked)?;
        self.next_batch = self.next_batch.wrapping_add(1);
        self.rows_held = picked.len();
        let live = picked.len();
        self.batches = HashMap::from([(batch, Answered { rows, live })]);
        Ok(())
    }

    /// Keys kept.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn memory_bytes(&self) -> usize {
        let rows: usize = self
            .batches
            .values()
            .map(|batch| batch.rows.get_array_memory_size())
            .sum();
        rows + self.keys.memory_bytes() + self.entries.capacity() * size_of::<Entry>()
    }
}

/// The rows ordered by their keys.
fn by_key(answer: LookupAnswer, asked: usize) -> Result<LookupAnswer> {
    if answer.keys.len() != answer.rows.num_rows() || answer.keys.iter().any(|&key| key as usize >= asked) {
        return Err(Error::Internal("a lookup's answer does not fit its question".into()));
    }
    if answer.keys.is_sorted() {
        return Ok(answer);
    }
    let mut order: Vec<u32> = (0..answer.keys.len() as u32).collect();
    order.sort_by_key(|&row| answer.keys[row as usize]);
    Ok(LookupAnswer {
        keys: order.iter().map(|&row| answer.keys[row as usize]).collect(),
        rows: take_batch(&answer.rows, &order.into())?,
    })
}

/// The rows `picked`: which of `sources`, and which row of it.
pub fn interleaved(schema: &SchemaRef, sources: &[&RecordBatch], picked: &[(usize, usize)]) -> Result<RecordBatch> {
    if picked.is_empty() {
        return Ok(RecordBatch::new_empty(SchemaRef::clone(schema)));
    }
    let mut columns = Vec::with_capacity(schema.fields().len());
    for column in 0..schema.fields().len() {
        let arrays: Vec<_> = sources.iter().map(|batch| batch.column(column).as_ref()).collect();
        columns.push(interleave(&arrays, picked)?);
    }
    Ok(batch_of_rows(SchemaRef::clone(schema), columns, picked.len())?)
}

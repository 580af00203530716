//! Rows of a join's side that nobody has asked for by key yet: chunks as they came, without an index.
//!
//! Putting a row into an index costs much more than looking at it once, and in a join bounded by time most rows leave before they
//! have been looked at often: the other side asks seldom, or only about times at which they are not. So the rows wait as chunks,
//! each with the moments between which it can matter; who asks walks over the chunks whose moments fit
//! ([`Scan`](super::scan::Scan)). A side that is asked too often gets its index after all ([`WaitingRows::is_asked_too_often`]).
//!
//! Only for sides that only grow, of joins bounded by time, whose rows are never shown by themselves, with keys that can be
//! compared in columns ([`can_wait`]).

use arrow::array::{ArrayRef, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::concat;
use arrow::datatypes::DataType;

use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::engine::operator::Result;
use crate::engine::operators::columns::{take_buffer, take_columns};
use crate::engine::operators::join::row_columns::{gather_from, memory_of};

/// A row in an index costs as much as so many looks at it in passing. Tests have both sorts of rows with few.
const LOOKS_PER_ROW: u64 = if cfg!(test) { 1 } else { 32 };

/// So many looks are given away before anybody counts.
const LOOKS_FREE: u64 = if cfg!(test) { 4 } else { 1 << 20 };

/// Whether rows with such keys can wait: equality of columns has to mean what equality of keys means.
pub(super) fn can_wait(key_types: &[DataType]) -> bool {
    let is_plain = |of: &DataType| {
        of.is_integer()
            || matches!(
                of,
                DataType::Boolean
                    | DataType::Utf8
                    | DataType::Utf8View
                    | DataType::Binary
                    | DataType::BinaryView
                    | DataType::Date32
                    | DataType::Timestamp(..)
                    | DataType::Decimal128(..)
            )
    };
    !key_types.is_empty() && key_types.iter().all(is_plain)
}

#[derive(Default)]
pub(super) struct WaitingRows {
    pub chunks: Vec<WaitingChunk>,
    rows: usize,
    /// Rows that came, and rows that were looked at, since the beginning.
    added: u64,
    looked_at: u64,
}

#[derive(Clone)]
pub(super) struct WaitingChunk {
    /// As the side's table has them.
    pub columns: Vec<ArrayRef>,
    /// Of the keys.
    pub hashes: ScalarBuffer<u64>,
    /// `None`: all 1.
    pub weights: Option<ScalarBuffer<i64>>,
    /// From when on no partner comes.
    pub done: ScalarBuffer<i64>,
    /// When a row that comes is late.
    pub late: ScalarBuffer<i64>,
    /// The last snapshot has the rows.
    pub persisted: bool,
    moments: Moments,
}

/// What is to be known of a chunk without looking at its rows.
#[derive(Clone, Copy)]
struct Moments {
    least_late: i64,
    most_done: i64,
    /// When to leave out the rows that are done: half of them are, and so much time has passed since then that the others seem to
    /// stay.
    thin_out_at: i64,
}

impl Moments {
    fn of(done: &[i64], late: &[i64]) -> Moments {
        let mut sorted = done.to_vec();
        let middle = sorted.len() / 2;
        let (before, half, after) = sorted.select_nth_unstable(middle);
        let least = before.iter().copied().min().unwrap_or(*half);
        let most = after.iter().copied().max().unwrap_or(*half);
        Moments {
            least_late: late.iter().copied().min().unwrap_or(i64::MAX),
            most_done: most,
            thin_out_at: half.saturating_add(half.saturating_sub(least)),
        }
    }
}

impl WaitingChunk {
    /// At least one row; all of the same length.
    pub fn new(
        columns: Vec<ArrayRef>,
        hashes: ScalarBuffer<u64>,
        weights: Option<ScalarBuffer<i64>>,
        done: Vec<i64>,
        late: Vec<i64>,
    ) -> WaitingChunk {
        WaitingChunk {
            moments: Moments::of(&done, &late),
            columns,
            hashes,
            weights,
            done: done.into(),
            late: late.into(),
            persisted: false,
        }
    }

    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether no row of it can be a partner of rows that are late from `least_late` on and done at `most_done` at most: a row
    /// is not late before its partner is done.
    fn is_apart_from(&self, least_late: i64, most_done: i64) -> bool {
        self.moments.most_done < least_late || most_done < self.moments.least_late
    }

    pub fn take(&self, rows: &[u32]) -> Result<WaitingChunk> {
        let indices = UInt32Array::from(rows.to_vec());
        let of = |values: &ScalarBuffer<i64>| take_buffer(values, &indices);
        let (done, late) = (of(&self.done), of(&self.late));
        Ok(WaitingChunk {
            columns: take_columns(&self.columns, &indices)?,
            hashes: rows.iter().map(|&row| self.hashes[row as usize]).collect(),
            weights: self.weights.as_ref().map(of),
            moments: Moments::of(&done, &late),
            done,
            late,
            persisted: self.persisted,
        })
    }

    fn followed_by(&self, next: &WaitingChunk) -> Result<WaitingChunk> {
        let both = |(one, other): (&ArrayRef, &ArrayRef)| concat(&[one.as_ref(), other.as_ref()]);
        let columns = self.columns.iter().zip(&next.columns).map(both);
        let weights = |chunk: &WaitingChunk| match &chunk.weights {
            Some(weights) => weights.to_vec(),
            None => vec![1; chunk.len()],
        };
        let joined = |one: &[i64], other: &[i64]| [one, other].concat();
        let no_weights = self.weights.is_none() && next.weights.is_none();
        let chunk = WaitingChunk::new(
            columns.collect::<Result<Vec<_>, _>>()?,
            [&self.hashes[..], &next.hashes[..]].concat().into(),
            (!no_weights).then(|| joined(&weights(self), &weights(next)).into()),
            joined(&self.done, &next.done),
            joined(&self.late, &next.late),
        );
        Ok(WaitingChunk {
            persisted: self.persisted,
            ..chunk
        })
    }

    fn memory_bytes(&self) -> usize {
        let longs = if self.weights.is_some() { 4 } else { 3 };
        self.columns.iter().map(memory_of).sum::<usize>() + self.len() * longs * 8
    }
}

impl WaitingRows {
    pub fn add(&mut self, chunk: WaitingChunk) -> Result<()> {
        self.rows += chunk.len();
        self.added += chunk.len() as u64;
        let mut new = chunk;
        // As when counting in binary: each row is copied once for each doubling.
        while let Some(before) = self.chunks.last()
            && before.persisted == new.persisted
            && before.len() <= new.len()
            && before.len() + new.len() <= CHUNK_ROWS_TARGET
        {
            new = before.followed_by(&new)?;
            self.chunks.pop();
        }
        self.chunks.push(new);
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    /// The chunks that may have partners of rows with such moments, each with the number of its first row. Rows are numbered
    /// through all chunks, until the next change.
    pub fn chunks_between(&mut self, done: &[i64], late: &[i64]) -> Vec<(u32, &WaitingChunk)> {
        let least_late = late.iter().copied().min().unwrap_or(i64::MAX);
        let most_done = done.iter().copied().max().unwrap_or(i64::MIN);
        let mut first = 0;
        let mut found = Vec::new();
        for chunk in &self.chunks {
            if !chunk.is_apart_from(least_late, most_done) {
                self.looked_at += chunk.len() as u64;
                found.push((first, chunk));
            }
            first += chunk.len() as u32;
        }
        found
    }

    /// So often that an index would have been cheaper.
    pub fn is_asked_too_often(&self) -> bool {
        self.looked_at > LOOKS_FREE + LOOKS_PER_ROW * self.added
    }

    /// Columns of rows by number.
    pub fn gather(&self, columns: &[usize], numbers: &[u32]) -> Result<Vec<ArrayRef>> {
        let places = self.places(numbers);
        let mut used: Vec<usize> = places.iter().map(|&(chunk, _)| chunk).collect();
        used.sort_unstable();
        used.dedup();
        let of_used: Vec<(usize, usize)> = match used.as_slice() {
            [_] => places.iter().map(|&(_, row)| (0, row)).collect(),
            _ => places
                .iter()
                .map(|&(chunk, row)| (used.partition_point(|&before| before < chunk), row))
                .collect(),
        };
        let chunks: Vec<&[ArrayRef]> = used.iter().map(|&chunk| &self.chunks[chunk].columns[..]).collect();
        gather_from(&chunks, &of_used, columns)
    }

    /// Of rows by number; `None`: all 1.
    pub fn weights(&self, numbers: &[u32]) -> Option<Vec<i64>> {
        self.chunks.iter().find(|chunk| chunk.weights.is_some())?;
        let weight =
            |(chunk, row): (usize, usize)| self.chunks[chunk].weights.as_ref().map_or(1, |weights| weights[row]);
        Some(self.places(numbers).into_iter().map(weight).collect())
    }

    /// Chunk and row of each number.
    fn places(&self, numbers: &[u32]) -> Vec<(usize, usize)> {
        let mut firsts = Vec::with_capacity(self.chunks.len());
        let mut next = 0;
        for chunk in &self.chunks {
            firsts.push(next);
            next += chunk.len() as u32;
        }
        let mut last = 0..0;
        let mut last_chunk = 0;
        let place = |&number: &u32| {
            if !last.contains(&number) {
                last_chunk = firsts.partition_point(|&first| first <= number) - 1;
                last = firsts[last_chunk]..firsts.get(last_chunk + 1).copied().unwrap_or(next);
            }
            (last_chunk, (number - last.start) as usize)
        };
        numbers.iter().map(place).collect()
    }

    /// Forgets rows that no partner can come for at `watermark`: at once what costs nothing, the rest in time.
    pub fn expire(&mut self, watermark: i64) -> Result<()> {
        let is_due =
            |chunk: &WaitingChunk| chunk.moments.most_done <= watermark || chunk.moments.thin_out_at <= watermark;
        if !self.chunks.iter().any(is_due) {
            return Ok(());
        }
        for chunk in std::mem::take(&mut self.chunks) {
            if chunk.moments.most_done <= watermark {
                self.rows -= chunk.len();
            } else if chunk.moments.thin_out_at <= watermark {
                let kept: Vec<u32> = (0..chunk.len() as u32)
                    .filter(|&row| chunk.done[row as usize] > watermark)
                    .collect();
                self.rows -= chunk.len() - kept.len();
                self.chunks.push(chunk.take(&kept)?);
            } else {
                self.chunks.push(chunk);
            }
        }
        Ok(())
    }

    pub fn clear(&mut self) {
        self.chunks.clear();
        self.rows = 0;
    }

    pub fn memory_bytes(&self) -> usize {
        self.chunks.iter().map(WaitingChunk::memory_bytes).sum()
    }
}

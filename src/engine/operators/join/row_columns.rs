//! The columns of the rows that one side of a join holds, by row number.
//!
//! Two forms. Rows of a side that can lose rows are found by what they are: equal rows are one, in a table by hash. Rows of a side that
//! only grows need not be found: the chunks that they came in are kept as they are, which costs neither hashing nor copying.
//! Chunks that are small are put together, and those of which most rows are gone are cut, so that what is held stays in proportion
//! to the rows that there are.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt32Array, new_empty_array};
use arrow::compute::{concat, interleave};
use arrow::datatypes::DataType;

use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::engine::operator::Result;
use crate::engine::operators::columns::take_columns;
use crate::engine::operators::keys::{GroupKeys, key_hashes};

pub(super) enum RowColumns {
    ByContent(GroupKeys),
    AsTheyCome(Segments),
}

/// Chunks of rows.
pub(super) struct Segments {
    types: Vec<DataType>,
    segments: Vec<Option<Segment>>,
    free_segments: Vec<u32>,
    /// Small ones that were added last, with which the next may be put together.
    small: Vec<u32>,
    /// The segment of each row, and where it is there.
    places: Vec<(u32, u32)>,
    free_rows: Vec<u32>,
    bytes: usize,
}

struct Segment {
    columns: Vec<ArrayRef>,
    /// The numbers of its rows; [`GONE`] of those that are gone.
    rows: Vec<u32>,
    live: usize,
    bytes: usize,
}

const GONE: u32 = u32::MAX;

impl RowColumns {
    pub fn new(types: &[DataType], only_grows: bool) -> Result<RowColumns> {
        Ok(match only_grows {
            true => RowColumns::AsTheyCome(Segments::new(types.to_vec())),
            false => RowColumns::ByContent(GroupKeys::new(types)?),
        })
    }

    /// The numbers of rows, new ones where they are new.
    pub fn add(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Vec<u32>> {
        match self {
            RowColumns::ByContent(table) => {
                let hashes = key_hashes(columns, rows, None);
                table.intern(columns, &hashes)
            }
            RowColumns::AsTheyCome(segments) => segments.add(columns, rows),
        }
    }

    /// Every row's number is below this.
    pub fn capacity(&self) -> usize {
        match self {
            RowColumns::ByContent(table) => table.capacity(),
            RowColumns::AsTheyCome(segments) => segments.places.len(),
        }
    }

    /// Some columns of some rows.
    pub fn gather(&self, columns: &[usize], rows: &[u32]) -> Result<Vec<ArrayRef>> {
        match self {
            RowColumns::ByContent(table) => Ok(table.gather_columns(columns, rows)),
            RowColumns::AsTheyCome(segments) => segments.gather(columns, rows),
        }
    }

    /// Frees the number for another row.
    pub fn remove(&mut self, row: u32) -> Result<()> {
        match self {
            RowColumns::ByContent(table) => table.remove(row),
            RowColumns::AsTheyCome(segments) => segments.remove(row)?,
        }
        Ok(())
    }

    pub fn clear(&mut self) {
        match self {
            RowColumns::ByContent(table) => table.clear(),
            RowColumns::AsTheyCome(segments) => *segments = Segments::new(std::mem::take(&mut segments.types)),
        }
    }

    pub fn memory_bytes(&self) -> usize {
        match self {
            RowColumns::ByContent(table) => table.memory_bytes(),
            RowColumns::AsTheyCome(segments) => segments.bytes + segments.places.capacity() * 8,
        }
    }
}

impl Segments {
    fn new(types: Vec<DataType>) -> Segments {
        Segments {
            types,
            segments: Vec::new(),
            free_segments: Vec::new(),
            small: Vec::new(),
            places: Vec::new(),
            free_rows: Vec::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, columns: &[ArrayRef], count: usize) -> Result<Vec<u32>> {
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            rows.push(self.free_rows.pop().unwrap_or_else(|| {
                self.places.push((GONE, 0));
                self.places.len() as u32 - 1
            }));
        }
        let mut new = Segment::new(columns.to_vec(), rows.clone());
        // As when counting in binary: each row is copied once for each doubling.
        while let Some(&before) = self.small.last()
            && self.fits(before, &new)
        {
            self.small.pop();
            if let Some(before) = self.take(before) {
                new = before.followed_by(new)?;
            }
        }
        let is_small = new.rows.len() * 2 <= CHUNK_ROWS_TARGET;
        let number = self.put(new);
        if is_small {
            self.small.push(number);
        } else {
            self.small.clear();
        }
        Ok(rows)
    }

    /// Whether the two are to be put together; so is what is no longer there.
    fn fits(&self, before: u32, new: &Segment) -> bool {
        self.segments[before as usize].as_ref().is_none_or(|before| {
            before.rows.len() <= new.rows.len() && before.rows.len() + new.rows.len() <= CHUNK_ROWS_TARGET
        })
    }

    fn take(&mut self, segment: u32) -> Option<Segment> {
        let taken = self.segments[segment as usize].take()?;
        self.bytes -= taken.bytes;
        self.free_segments.push(segment);
        Some(taken)
    }

    fn put(&mut self, segment: Segment) -> u32 {
        let number = self.free_segments.pop().unwrap_or_else(|| {
            self.segments.push(None);
            self.segments.len() as u32 - 1
        });
        for (offset, &row) in segment.rows.iter().enumerate() {
            if row != GONE {
                self.places[row as usize] = (number, offset as u32);
            }
        }
        self.bytes += segment.bytes;
        self.segments[number as usize] = Some(segment);
        number
    }

    fn remove(&mut self, row: u32) -> Result<()> {
        let (number, offset) = std::mem::replace(&mut self.places[row as usize], (GONE, 0));
        self.free_rows.push(row);
        let Some(segment) = self.segments.get_mut(number as usize).and_then(Option::as_mut) else {
            return Ok(());
        };
        segment.rows[offset as usize] = GONE;
        segment.live -= 1;
        if segment.live == 0 {
            self.take(number);
        } else if segment.live * 4 < segment.rows.len()
            && let Some(sparse) = self.take(number)
        {
            self.put(sparse.without_gone()?);
        }
        Ok(())
    }

    fn gather(&self, columns: &[usize], rows: &[u32]) -> Result<Vec<ArrayRef>> {
        // Segments that the rows are in, and each row's place in those.
        let mut used: Vec<&Segment> = Vec::new();
        let mut numbers: HashMap<u32, usize> = HashMap::new();
        let mut last: Option<(u32, usize)> = None;
        let mut places: Vec<(usize, usize)> = Vec::with_capacity(rows.len());
        for &row in rows {
            let (number, offset) = self.places[row as usize];
            let at = match last {
                Some((known, at)) if known == number => at,
                _ => *numbers.entry(number).or_insert_with(|| {
                    used.extend(self.segments[number as usize].as_ref());
                    used.len() - 1
                }),
            };
            last = Some((number, at));
            places.push((at, offset as usize));
        }
        if used.is_empty() {
            return Ok(columns
                .iter()
                .map(|&column| new_empty_array(&self.types[column]))
                .collect());
        }
        let used: Vec<&[ArrayRef]> = used.iter().map(|segment| &segment.columns[..]).collect();
        gather_from(&used, &places, columns)
    }
}

/// Some columns of rows of several chunks, at least one; places are chunk and row.
pub(super) fn gather_from(
    chunks: &[&[ArrayRef]],
    places: &[(usize, usize)],
    columns: &[usize],
) -> Result<Vec<ArrayRef>> {
    if let [only] = chunks {
        let wanted: Vec<ArrayRef> = columns.iter().map(|&column| Arc::clone(&only[column])).collect();
        let rows = places.iter().map(|&(_, row)| row as u32).collect::<UInt32Array>();
        return take_columns(&wanted, &rows);
    }
    let gathered = |&column: &usize| -> Result<ArrayRef> {
        let arrays: Vec<&dyn Array> = chunks.iter().map(|chunk| chunk[column].as_ref()).collect();
        Ok(interleave(&arrays, places)?)
    };
    columns.iter().map(gathered).collect()
}

impl Segment {
    fn new(columns: Vec<ArrayRef>, rows: Vec<u32>) -> Segment {
        let bytes = columns.iter().map(memory_of).sum::<usize>() + rows.len() * 4;
        Segment {
            live: rows.iter().filter(|&&row| row != GONE).count(),
            columns,
            rows,
            bytes,
        }
    }

    fn followed_by(self, next: Segment) -> Result<Segment> {
        let both = |(one, other): (&ArrayRef, &ArrayRef)| concat(&[one.as_ref(), other.as_ref()]);
        let columns = self.columns.iter().zip(&next.columns).map(both);
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let mut rows = self.rows;
        rows.extend(next.rows);
        Ok(Segment::new(columns, rows))
    }

    fn without_gone(self) -> Result<Segment> {
        let kept: Vec<u32> = (0..self.rows.len() as u32)
            .filter(|&at| self.rows[at as usize] != GONE)
            .collect();
        let rows = kept.iter().map(|&at| self.rows[at as usize]).collect();
        Ok(Segment::new(
            take_columns(&self.columns, &UInt32Array::from(kept))?,
            rows,
        ))
    }
}

/// Of the values alone: a slice may have much more behind it.
pub(super) fn memory_of(column: &ArrayRef) -> usize {
    let whole = column.get_array_memory_size();
    column.to_data().get_slice_memory_size().unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn add(rows: &mut RowColumns, values: std::ops::Range<i64>) -> Vec<u32> {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(values));
        rows.add(std::slice::from_ref(&column), column.len()).unwrap()
    }

    fn values(rows: &RowColumns, numbers: &[u32]) -> Vec<i64> {
        let columns = rows.gather(&[0], numbers).unwrap();
        columns[0].as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn rows_keep_their_numbers_while_chunks_are_put_together_and_cut() {
        let mut rows = RowColumns::new(&[DataType::Int64], true).unwrap();
        let mut numbers: Vec<u32> = Vec::new();
        for value in 0..2000 {
            numbers.extend(add(&mut rows, value..value + 1));
        }
        numbers.extend(add(&mut rows, 2000..12_000));
        assert_eq!(values(&rows, &numbers), (0..12_000).collect::<Vec<_>>());
        let RowColumns::AsTheyCome(segments) = &rows else {
            panic!("of a side that only grows");
        };
        let chunks = segments.segments.iter().flatten().count();
        assert!(chunks < 20, "{chunks} chunks");
        let all = segments.bytes;
        let (kept, gone): (Vec<u32>, Vec<u32>) = numbers.iter().partition(|&&number| number % 10 == 0);
        let of_kept = values(&rows, &kept);
        for row in gone {
            rows.remove(row).unwrap();
        }
        assert_eq!(values(&rows, &kept), of_kept);
        let RowColumns::AsTheyCome(segments) = &rows else {
            panic!("of a side that only grows");
        };
        assert!(segments.bytes * 2 < all, "{} of {all} bytes", segments.bytes);
        // Numbers are used again.
        let again = add(&mut rows, -5..0);
        assert!(again.iter().all(|number| numbers.contains(number)));
        assert_eq!(values(&rows, &again), [-5, -4, -3, -2, -1]);
        assert!(values(&rows, &[]).is_empty());
    }

    /// Chunks of all sizes come, rows go in any order: each row keeps its values under its number.
    #[test]
    fn rows_are_what_they_were_whatever_comes_and_goes() {
        use rand::rngs::StdRng;
        use rand::{RngExt, SeedableRng};

        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut rows = RowColumns::new(&[DataType::Int64], true).unwrap();
            let mut held: Vec<(u32, i64)> = Vec::new();
            let mut next = 0;
            for _ in 0..300 {
                let most = [1, 3, 50, 600, 9000][random.random_range(0..5)];
                let count = random.random_range(1..=most);
                held.extend(add(&mut rows, next..next + count).into_iter().zip(next..));
                next += count;
                let from = random.random_range(0..=held.len());
                let to = (from + random.random_range(0..=2 * most as usize)).min(held.len());
                for (row, _) in held.drain(from..to) {
                    rows.remove(row).unwrap();
                }
                let some: Vec<(u32, i64)> = (0..held.len().min(50))
                    .map(|_| held[random.random_range(0..held.len())])
                    .collect();
                let (numbers, expected): (Vec<u32>, Vec<i64>) = some.into_iter().unzip();
                assert_eq!(values(&rows, &numbers), expected, "seed {seed}");
            }
            let (numbers, expected): (Vec<u32>, Vec<i64>) = held.into_iter().unzip();
            assert_eq!(values(&rows, &numbers), expected, "seed {seed}");
        }
    }
}

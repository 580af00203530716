//! The rows that one side of a join holds: each distinct row once, with how often it counts; or, of a side that only grows and of
//! which no row is shown by itself, each row as it came.
//!
//! A row has a number; columns by number hold its key, weight, partners. Rows of one key are a doubly linked list, so that a
//! probe walks exactly the rows of its key and a retraction unlinks without a search. Rows that count zero are in no list;
//! one that a snapshot knows keeps its number until the next snapshot has written that it is gone.
//!
//! Invariants: a row is linked exactly when its weight is not zero; `matches` is right for linked rows only.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::engine::operator::Result;
use crate::engine::operators::bits::Bits;
use crate::engine::operators::join::due_rows::DueRows;
use crate::engine::operators::join::row_columns::RowColumns;
use crate::engine::operators::keys::GroupKeys;

/// No row.
pub(super) const NONE: u32 = u32::MAX;

/// The keys of both sides.
pub(super) struct SharedKeys {
    pub table: GroupKeys,
    /// Rows of both sides by key, linked or not.
    rows: Vec<u32>,
}

impl SharedKeys {
    pub fn new(types: &[DataType]) -> Result<SharedKeys> {
        Ok(SharedKeys {
            table: GroupKeys::new(types)?,
            rows: Vec::new(),
        })
    }

    /// The number of each row's key; [`NONE`] of one that no row has.
    pub fn find(&self, columns: &[ArrayRef], hashes: &[u64]) -> Vec<u32> {
        let found = self.table.lookup(columns, hashes);
        found.into_iter().map(|key| key.unwrap_or(NONE)).collect()
    }

    /// The number of each row's key.
    pub fn intern(&mut self, columns: &[ArrayRef], hashes: &[u64]) -> Result<Vec<u32>> {
        let keys = self.table.intern(columns, hashes)?;
        self.rows.resize(self.table.capacity().max(self.rows.len()), 0);
        Ok(keys)
    }

    fn release(&mut self, key: u32) {
        self.rows[key as usize] -= 1;
        if self.rows[key as usize] == 0 {
            self.table.remove(key);
        }
    }

    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.rows.capacity() * 4
    }
}

/// What is shown of rows by themselves, and with how many partners.
#[derive(Default)]
pub(super) struct Counted {
    /// Weights of the partners of each row, summed.
    pub matches: Vec<i64>,
    /// How often the row is shown by itself now.
    pub shown: Vec<i64>,
    /// Which mark it is shown with.
    pub shown_matched: Bits,
    /// Whether anybody asks for touched rows.
    tracks_touched: bool,
    touched: Bits,
    touched_rows: Vec<u32>,
}

impl Counted {
    pub fn touch(&mut self, row: u32) {
        if self.tracks_touched && self.touched.insert(row) {
            self.touched_rows.push(row);
        }
    }

    pub fn take_touched(&mut self) -> Vec<u32> {
        let rows = std::mem::take(&mut self.touched_rows);
        for &row in &rows {
            self.touched.remove(row);
        }
        rows
    }

    pub fn is_matched(&self, row: u32) -> bool {
        self.matches[row as usize] > 0
    }
}

/// Which optional columns a store has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreOptions {
    /// Rows are shown by themselves, depending on their partners.
    pub counted: bool,
    /// .. as soon as those change, not only when the row is done.
    pub tracks_touched: bool,
    pub timed: bool,
    pub stamped: bool,
    /// Rows never go before they are done: none is looked for by what it is.
    pub only_grows: bool,
}

pub(super) struct RowStore {
    pub rows: RowColumns,
    known: Bits,
    pub key: Vec<u32>,
    next: Vec<u32>,
    previous: Vec<u32>,
    /// The first row of each key.
    head: Vec<u32>,
    pub weight: Vec<i64>,
    pub counted: Option<Counted>,
    /// When no partner can come any more.
    pub done: Option<Vec<i64>>,
    /// By that moment; entries of rows that are gone, or of others that got their number, are skipped when they are due.
    due: DueRows,
    /// Wall-clock milliseconds of the last change.
    pub stamps: Option<Vec<i64>>,
    /// Differs from the last snapshot.
    pub changed: Bits,
    /// Part of the last snapshot.
    pub persisted: Bits,
    /// Part of the last snapshot, and gone since.
    dying: Vec<u32>,
    in_chunk: Bits,
    linked: usize,
}

/// A chunk's rows on their way into a store.
pub(super) struct NewRows<'a> {
    pub columns: &'a [ArrayRef],
    pub keys: &'a [u32],
    pub weights: Option<&'a [i64]>,
    pub done: Option<&'a [i64]>,
    pub now: i64,
}

/// What became of them.
#[derive(Default)]
pub(super) struct Stored {
    pub rows: Vec<u32>,
    /// For each row of the chunk, whether its partners are yet to be counted.
    pub uncounted: Vec<bool>,
    /// Rows that count zero now.
    pub zeroed: Vec<u32>,
}

impl RowStore {
    pub fn new(types: &[DataType], options: StoreOptions) -> Result<RowStore> {
        Ok(RowStore {
            rows: RowColumns::new(types, options.only_grows)?,
            known: Bits::default(),
            key: Vec::new(),
            next: Vec::new(),
            previous: Vec::new(),
            head: Vec::new(),
            weight: Vec::new(),
            counted: options.counted.then(|| Counted {
                tracks_touched: options.tracks_touched,
                ..Counted::default()
            }),
            done: options.timed.then(Vec::new),
            due: DueRows::default(),
            stamps: options.stamped.then(Vec::new),
            changed: Bits::default(),
            persisted: Bits::default(),
            dying: Vec::new(),
            in_chunk: Bits::default(),
            linked: 0,
        })
    }

    /// The first row of a key.
    #[inline]
    pub fn first(&self, key: u32) -> u32 {
        self.head.get(key as usize).copied().unwrap_or(NONE)
    }

    /// The next row of the same key.
    #[inline]
    pub fn after(&self, row: u32) -> u32 {
        self.next[row as usize]
    }

    pub fn len(&self) -> usize {
        self.linked
    }

    /// Row numbers are below this.
    pub fn capacity(&self) -> usize {
        self.rows.capacity()
    }

    /// Whether the number is in use, be it by a row that counts zero.
    pub fn is_known(&self, row: u32) -> bool {
        self.known.contains(row)
    }

    pub fn is_live(&self, row: u32) -> bool {
        self.known.contains(row) && self.weight[row as usize] != 0
    }

    /// The numbers of whole rows; what is new counts zero.
    pub fn intern(&mut self, columns: &[ArrayRef], keys: &[u32], shared: &mut SharedKeys) -> Result<Vec<u32>> {
        let rows = self.rows.add(columns, keys.len())?;
        self.grow(shared.table.capacity());
        for (&row, &key) in rows.iter().zip(keys) {
            if self.known.insert(row) {
                shared.rows[key as usize] += 1;
                self.key[row as usize] = key;
                self.weight[row as usize] = 0;
                if let Some(counted) = &mut self.counted {
                    counted.matches[row as usize] = 0;
                    counted.shown[row as usize] = 0;
                }
            }
        }
        Ok(rows)
    }

    fn grow(&mut self, keys: usize) {
        let capacity = self.rows.capacity();
        if self.weight.len() < capacity {
            self.key.resize(capacity, NONE);
            self.next.resize(capacity, NONE);
            self.previous.resize(capacity, NONE);
            self.weight.resize(capacity, 0);
            if let Some(counted) = &mut self.counted {
                counted.matches.resize(capacity, 0);
                counted.shown.resize(capacity, 0);
            }
            for column in [&mut self.done, &mut self.stamps].into_iter().flatten() {
                column.resize(capacity, 0);
            }
        }
        if self.head.len() < keys {
            self.head.resize(keys, NONE);
        }
    }

    /// Adds the weights of a chunk's rows.
    pub fn add(&mut self, new: &NewRows<'_>, shared: &mut SharedKeys) -> Result<Stored> {
        let rows = self.intern(new.columns, new.keys, shared)?;
        // Of each different row: where it comes first, and how often it counted before.
        let mut firsts: Vec<(u32, i64)> = Vec::with_capacity(rows.len());
        for (at, &row) in rows.iter().enumerate() {
            if self.in_chunk.insert(row) {
                firsts.push((at as u32, self.weight[row as usize]));
            }
            self.weight[row as usize] += new.weights.map_or(1, |weights| weights[at]);
        }
        let mut stored = Stored {
            uncounted: vec![false; rows.len()],
            rows,
            zeroed: Vec::new(),
        };
        for (at, before) in firsts {
            let at = at as usize;
            let row = stored.rows[at];
            self.in_chunk.remove(row);
            if let (Some(column), Some(done)) = (&mut self.done, new.done)
                && before == 0
            {
                column[row as usize] = done[at];
                self.due.add(done[at], row);
            }
            if let Some(stamps) = &mut self.stamps {
                stamps[row as usize] = new.now;
            }
            stored.uncounted[at] = self.settle(row, before);
            if self.weight[row as usize] == 0 {
                stored.zeroed.push(row);
            }
        }
        Ok(stored)
    }

    /// Brings the lists in line with a row's new weight; true when its partners are yet to be counted.
    fn settle(&mut self, row: u32, before: i64) -> bool {
        let after = self.weight[row as usize];
        self.changed.insert(row);
        if let Some(counted) = &mut self.counted {
            counted.touch(row);
        }
        match (before == 0, after == 0) {
            (true, false) => {
                self.link(row);
                if let Some(counted) = &mut self.counted {
                    counted.matches[row as usize] = 0;
                }
                true
            }
            (false, true) => {
                self.unlink(row);
                false
            }
            _ => false,
        }
    }

    fn link(&mut self, row: u32) {
        let key = self.key[row as usize] as usize;
        let first = self.head[key];
        self.next[row as usize] = first;
        self.previous[row as usize] = NONE;
        if first != NONE {
            self.previous[first as usize] = row;
        }
        self.head[key] = row;
        self.linked += 1;
    }

    fn unlink(&mut self, row: u32) {
        let (previous, next) = (self.previous[row as usize], self.next[row as usize]);
        match previous {
            NONE => self.head[self.key[row as usize] as usize] = next,
            previous => self.next[previous as usize] = next,
        }
        if next != NONE {
            self.previous[next as usize] = previous;
        }
        self.linked -= 1;
    }

    /// A row that counts zero, and of which nothing is shown, is forgotten: at once, or with the next snapshot when the last
    /// one holds it.
    pub fn bury(&mut self, row: u32, shared: &mut SharedKeys) -> Result<()> {
        if !self.known.contains(row) || self.weight[row as usize] != 0 {
            return Ok(());
        }
        if self
            .counted
            .as_ref()
            .is_some_and(|counted| counted.shown[row as usize] != 0)
        {
            return Ok(());
        }
        if self.persisted.contains(row) {
            self.dying.push(row);
            return Ok(());
        }
        self.free(row, shared)
    }

    /// Forgets a row whatever it counts, without a word; storage forgets it with the next snapshot.
    pub fn forget(&mut self, row: u32, shared: &mut SharedKeys) -> Result<()> {
        if self.weight[row as usize] != 0 {
            self.unlink(row);
            self.weight[row as usize] = 0;
        }
        if let Some(counted) = &mut self.counted {
            counted.shown[row as usize] = 0;
        }
        self.bury(row, shared)
    }

    /// Forgets a row at once: storage does not hold it, or knows by itself that it is dead.
    pub fn drop_done(&mut self, row: u32, shared: &mut SharedKeys) -> Result<()> {
        if self.weight[row as usize] != 0 {
            self.unlink(row);
            self.weight[row as usize] = 0;
        }
        self.free(row, shared)
    }

    fn free(&mut self, row: u32, shared: &mut SharedKeys) -> Result<()> {
        self.known.remove(row);
        self.changed.remove(row);
        self.persisted.remove(row);
        self.rows.remove(row)?;
        shared.release(self.key[row as usize]);
        Ok(())
    }

    /// Forgets all rows without a word; what storage holds of them is not taken back.
    pub fn clear(&mut self, shared: &mut SharedKeys) {
        for row in 0..self.capacity() as u32 {
            if self.known.contains(row) {
                shared.release(self.key[row as usize]);
            }
        }
        self.rows.clear();
        for column in [&mut self.key, &mut self.next, &mut self.previous] {
            *column = Vec::new();
        }
        self.head.fill(NONE);
        self.weight = Vec::new();
        for column in [&mut self.done, &mut self.stamps].into_iter().flatten() {
            *column = Vec::new();
        }
        self.due.clear();
        for bits in [&mut self.known, &mut self.changed, &mut self.persisted] {
            bits.clear();
        }
        self.dying.clear();
        self.linked = 0;
    }

    /// Rows that no partner can come for at `watermark`, in order of that moment; at most `most`.
    pub fn take_done(&mut self, watermark: i64, most: usize) -> Vec<u32> {
        let mut rows = Vec::new();
        while rows.len() < most
            && let Some((moment, row)) = self.due.take(watermark)
        {
            let is_it = self.known.contains(row)
                && self.done.as_ref().is_some_and(|done| done[row as usize] == moment)
                && self.in_chunk.insert(row);
            if is_it {
                rows.push(row);
            }
        }
        for &row in &rows {
            self.in_chunk.remove(row);
        }
        rows
    }

    /// Rows for which tombstones are due; they are free after [`RowStore::free_dead`].
    pub fn dead(&mut self) -> Vec<u32> {
        let mut dead = std::mem::take(&mut self.dying);
        dead.sort_unstable();
        dead.dedup();
        dead.retain(|&row| self.known.contains(row) && self.weight[row as usize] == 0 && self.persisted.contains(row));
        dead
    }

    pub fn free_dead(&mut self, dead: &[u32], shared: &mut SharedKeys) -> Result<()> {
        dead.iter().try_for_each(|&row| self.free(row, shared))
    }

    /// Puts a row back as a snapshot holds it.
    pub fn restore(&mut self, row: u32, weight: i64, done: Option<i64>) {
        let before = self.weight[row as usize];
        self.weight[row as usize] = weight;
        match (before == 0, weight == 0) {
            (true, false) => self.link(row),
            (false, true) => self.unlink(row),
            _ => {}
        }
        self.persisted.insert(row);
        if let (Some(column), Some(done)) = (&mut self.done, done) {
            column[row as usize] = done;
            if before == 0 {
                self.due.add(done, row);
            }
        }
    }

    /// All rows that count.
    pub fn live(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.capacity() as u32).filter(|&row| self.is_live(row))
    }

    pub fn memory_bytes(&self) -> usize {
        let longs = [&self.done, &self.stamps]
            .into_iter()
            .flatten()
            .map(Vec::capacity)
            .sum::<usize>();
        let counted = self.counted.as_ref().map_or(0, |counted| {
            (counted.matches.capacity() + counted.shown.capacity()) * 8 + counted.touched_rows.capacity() * 4
        });
        self.rows.memory_bytes()
            + (self.weight.capacity() + longs) * 8
            + (self.key.capacity() + self.next.capacity() + self.previous.capacity() + self.head.capacity()) * 4
            + self.due.memory_bytes()
            + counted
            + self.changed.memory_bytes()
            + self.persisted.memory_bytes()
    }
}

//! Partners among rows that wait without an index: a table of the hashes of the fewer rows, past which the others walk.
//!
//! What it gives are pairs with equal hashes of their keys; whether the keys are equal is for who asks to see.

use arrow::buffer::ScalarBuffer;

use crate::engine::operators::join::probe::Pairs;
use crate::engine::operators::join::rows::NONE;
use crate::engine::operators::join::waiting_rows::WaitingRows;

/// Slots of the table a row: so many that most rows that have no partner meet an empty one.
const SLOTS_PER_ROW: usize = 8;

pub(super) struct Scan {
    table: HashTable,
    /// The table holds the waiting rows, not those that look for partners.
    table_holds_waiting: bool,
    walking: Vec<Walk>,
    /// Where the walk stands: which of `walking`, its row, and the entry of the table to go on with.
    at: usize,
    row: usize,
    entry: Option<u32>,
}

/// Rows that walk, and the number of the first.
struct Walk {
    first: u32,
    hashes: ScalarBuffer<u64>,
}

/// Rows by the hash of their key.
struct HashTable {
    /// The first entry of each slot.
    heads: Vec<u32>,
    entries: Vec<Entry>,
    /// To bring a hash down to a slot.
    shift: u32,
}

struct Entry {
    hash: u64,
    number: u32,
    next: u32,
}

impl Scan {
    /// `hashes`, `done` and `late` are those of the rows that look for partners.
    pub fn new(waiting: &mut WaitingRows, hashes: ScalarBuffer<u64>, done: &[i64], late: &[i64]) -> Scan {
        let rows = hashes.len();
        let looking = Walk { first: 0, hashes };
        let chunks = waiting.chunks_between(done, late);
        let found = chunks.iter().map(|(_, chunk)| chunk.len()).sum::<usize>();
        let waiting = chunks.into_iter().map(|(first, chunk)| Walk {
            first,
            hashes: chunk.hashes.clone(),
        });
        let (table, table_holds_waiting, walking) = match found {
            0 => (HashTable::new(0), true, Vec::new()),
            _ if found < rows => (HashTable::of(waiting, found), true, vec![looking]),
            _ => (HashTable::of([looking], rows), false, waiting.collect()),
        };
        Scan {
            table,
            table_holds_waiting,
            walking,
            at: 0,
            row: 0,
            entry: None,
        }
    }

    pub fn is_finished(&self) -> bool {
        self.at >= self.walking.len()
    }

    /// The next pairs, at most `most`; fewer only at the end.
    pub fn next_pairs(&mut self, most: usize) -> Pairs {
        let (mut in_table, mut passing) = (Vec::new(), Vec::new());
        'walks: while let Some(walk) = self.walking.get(self.at) {
            while let Some(&hash) = walk.hashes.get(self.row) {
                let mut entry = self.entry.take().unwrap_or_else(|| self.table.first(hash));
                while entry != NONE {
                    if in_table.len() == most {
                        self.entry = Some(entry);
                        break 'walks;
                    }
                    let found = &self.table.entries[entry as usize];
                    if found.hash == hash {
                        in_table.push(found.number);
                        passing.push(walk.first + self.row as u32);
                    }
                    entry = found.next;
                }
                self.row += 1;
            }
            (self.at, self.row) = (self.at + 1, 0);
        }
        match self.table_holds_waiting {
            true => Pairs {
                rows: passing,
                partners: in_table,
            },
            false => Pairs {
                rows: in_table,
                partners: passing,
            },
        }
    }
}

impl HashTable {
    fn new(rows: usize) -> HashTable {
        let slots = (rows * SLOTS_PER_ROW).next_power_of_two().max(2);
        HashTable {
            heads: vec![NONE; slots],
            entries: Vec::with_capacity(rows),
            shift: u64::BITS - slots.trailing_zeros(),
        }
    }

    fn of(walks: impl IntoIterator<Item = Walk>, rows: usize) -> HashTable {
        let mut table = HashTable::new(rows);
        for walk in walks {
            for (number, &hash) in (walk.first..).zip(walk.hashes.iter()) {
                let slot = table.slot(hash);
                let next = std::mem::replace(&mut table.heads[slot], table.entries.len() as u32);
                table.entries.push(Entry { hash, number, next });
            }
        }
        table
    }

    /// Some bits of the hash are the same in all rows of a subtask; multiplied, all bits count.
    #[inline]
    fn slot(&self, hash: u64) -> usize {
        (hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize
    }

    #[inline]
    fn first(&self, hash: u64) -> u32 {
        self.heads[self.slot(hash)]
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::engine::operators::join::waiting_rows::WaitingChunk;

    /// Rows with the moments `late` = `done` - 10: partners are those with less than ten between them.
    fn chunk(hashes: &[u64], done: &[i64]) -> WaitingChunk {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(hashes.iter().map(|&hash| hash as i64)));
        let late = done.iter().map(|done| done - 10).collect();
        WaitingChunk::new(vec![column], hashes.to_vec().into(), None, done.to_vec(), late)
    }

    /// Every pair of equal hashes in chunks that are not apart is found once, however many are taken at a time, and whichever
    /// side is in the table.
    #[test]
    fn finds_what_a_nested_loop_finds() {
        for seed in 0..60 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut waiting = WaitingRows::default();
            let mut all: Vec<(u64, i64)> = Vec::new();
            let mut watermark = i64::MIN;
            let some = |random: &mut StdRng, most: usize, around: i64| -> (Vec<u64>, Vec<i64>) {
                let count = random.random_range(1..=most);
                let hash = |random: &mut StdRng| u64::from(random.random_range(0..40_u8)) << 57;
                let rows = (0..count).map(|_| (hash(random), around + random.random_range(0..30)));
                rows.unzip()
            };
            for step in 0..20 {
                let (hashes, done) = some(&mut random, 60, step * 8);
                all.extend(hashes.iter().copied().zip(done.iter().copied()));
                waiting.add(chunk(&hashes, &done)).unwrap();
                if random.random_range(0..6) == 0 {
                    watermark = step * 8;
                    waiting.expire(watermark).unwrap();
                    all.retain(|&(_, done)| done > watermark);
                }
            }
            let most = [5, 2000][random.random_range(0..2)];
            let (hashes, done) = some(&mut random, most, 60);
            let late: Vec<i64> = done.iter().map(|done| done - 10).collect();
            let mut scan = Scan::new(&mut waiting, hashes.clone().into(), &done, &late);
            let mut found = Vec::new();
            while !scan.is_finished() {
                let pairs = scan.next_pairs(random.random_range(1..50));
                let partners = waiting.gather(&[0], &pairs.partners).unwrap();
                let partners = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&partners[0]).clone();
                for (at, &row) in pairs.rows.iter().enumerate() {
                    assert_eq!(hashes[row as usize] as i64, partners.value(at), "seed {seed}");
                    found.push((row, pairs.partners[at]));
                }
            }
            let distinct: BTreeSet<_> = found.iter().copied().collect();
            assert_eq!(distinct.len(), found.len(), "seed {seed}: a pair came twice");
            // Rows that are done may be found too; whoever asks sees that they are not meant.
            let near = |row: usize, theirs: i64| theirs > watermark && theirs >= late[row] && done[row] >= theirs - 10;
            let expected = (0..hashes.len()).map(|row| {
                let is_partner = |&&(hash, theirs): &&(u64, i64)| hash == hashes[row] && near(row, theirs);
                all.iter().filter(is_partner).count()
            });
            let expected: usize = expected.sum();
            let done_of = |number: u32| {
                let mut first = 0;
                for chunk in &waiting.chunks {
                    if ((number - first) as usize) < chunk.len() {
                        return chunk.done[(number - first) as usize];
                    }
                    first += chunk.len() as u32;
                }
                unreachable!("the number of no row")
            };
            let is_meant = |&&(row, partner): &&(u32, u32)| near(row as usize, done_of(partner));
            assert_eq!(found.iter().filter(is_meant).count(), expected, "seed {seed}");
        }
    }
}

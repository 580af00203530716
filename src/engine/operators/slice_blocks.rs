//! Overlapping windows from the slices they share, without adding every slice up again for every window.
//!
//! Slices are added up in blocks of two, four, eight .. neighbours, aligned to their size; a window is put together from the
//! few blocks that cover it (at most twice the logarithm of its slices). Each block is made once, from its two halves, and
//! is thrown away when a row still comes for one of its slices, or when all of it lies before every open window.
//!
//! Only for aggregates whose states can be added up. Memory: at most the slices' once more for each doubling.

use std::collections::BTreeMap;

use arrow::buffer::ScalarBuffer;

use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::engine::operator::Result;
use crate::engine::operators::group_table::GroupTable;

/// Blocks are named by how often they doubled and their number among those of their size: level, number.
type Block = (u32, i64);

/// No window has more slices than 2 to this.
const LEVELS: u32 = 62;

#[derive(Default)]
pub(crate) struct SliceBlocks {
    built: BTreeMap<Block, GroupTable>,
}

impl SliceBlocks {
    /// A row came for slice `number`: what was added up with it is no longer true.
    pub fn invalidate(&mut self, number: i64) {
        if self.built.is_empty() {
            return;
        }
        for level in 1..LEVELS {
            self.built.remove(&(level, number >> level));
        }
    }

    /// Forgets blocks that lie before slice `number`.
    pub fn forget_before(&mut self, number: i64) {
        self.built.retain(|&(level, at), _| (at + 1) << level > number);
    }

    pub fn memory_bytes(&self) -> usize {
        self.built.values().map(GroupTable::memory_bytes).sum()
    }

    /// Adds the slices of `numbers` up into `window`, which is empty. `slices` are by number.
    pub fn add_up(
        &mut self,
        numbers: std::ops::Range<i64>,
        slices: &mut BTreeMap<i64, &mut GroupTable>,
        window: &mut GroupTable,
        fresh: &mut dyn FnMut() -> Result<GroupTable>,
    ) -> Result<()> {
        for block in cover(numbers) {
            self.add_block(block, slices, window, fresh)?;
        }
        Ok(())
    }

    fn add_block(
        &mut self,
        block: Block,
        slices: &mut BTreeMap<i64, &mut GroupTable>,
        into: &mut GroupTable,
        fresh: &mut dyn FnMut() -> Result<GroupTable>,
    ) -> Result<()> {
        if let Some(table) = self.built.get_mut(&block) {
            return add(table, into);
        }
        let (level, at) = block;
        let mut present = slices.range_mut(at << level..(at + 1) << level);
        let Some((_, only)) = present.next() else {
            return Ok(());
        };
        if present.next().is_none() {
            return add(only, into);
        }
        let mut table = fresh()?;
        self.add_block((level - 1, at * 2), slices, &mut table, fresh)?;
        self.add_block((level - 1, at * 2 + 1), slices, &mut table, fresh)?;
        add(&mut table, into)?;
        self.built.insert(block, table);
        Ok(())
    }
}

/// Adds every group of `from` to `into`.
pub(crate) fn add(from: &mut GroupTable, into: &mut GroupTable) -> Result<()> {
    let live: Vec<u32> = from.live().collect();
    for groups in live.chunks(CHUNK_ROWS_TARGET) {
        let keys = from.keys.gather(groups);
        let hashes: ScalarBuffer<u64> = groups.iter().map(|&group| from.keys.hash_of(group)).collect();
        let counts: Vec<i64> = groups.iter().map(|&group| from.aggregates.row_count(group)).collect();
        let states = from.aggregates.states(groups)?;
        let targets = into.assign(&keys, groups.len(), Some(&hashes))?;
        into.aggregates.merge_states(&states, &counts, &targets)?;
    }
    Ok(())
}

/// The fewest aligned blocks that make up `numbers`.
fn cover(numbers: std::ops::Range<i64>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut at = numbers.start;
    while at < numbers.end {
        let aligned = if at == 0 {
            LEVELS - 1
        } else {
            at.trailing_zeros().min(LEVELS - 1)
        };
        let left = (numbers.end - at).unsigned_abs();
        let level = aligned.min(left.ilog2());
        blocks.push((level, at >> level));
        at += 1 << level;
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cover_is_whole_and_small() {
        for (start, length) in [(0, 1), (0, 60), (3, 60), (-7, 5), (-64, 128), (1, 1000), (-1, 1)] {
            let blocks = cover(start..start + length);
            let numbers: Vec<i64> = blocks
                .iter()
                .flat_map(|&(level, at)| at << level..(at + 1) << level)
                .collect();
            assert_eq!(numbers, (start..start + length).collect::<Vec<_>>());
            assert!(blocks.len() as u32 <= 2 * (length as u64).ilog2() + 2, "{blocks:?}");
        }
    }
}

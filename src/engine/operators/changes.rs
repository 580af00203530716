//! What changed in a group table since the last barrier, as `-old`, `+new` rows.
//!
//! The first time a group is touched its result is remembered; at the barrier it is compared with the result of then.
//! A group that ends as it began says nothing.

use arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array, make_comparator, new_null_array};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{SortOptions, concat};

use crate::engine::operator::Result;
use crate::engine::operators::bits::Bits;
use crate::engine::operators::columns::take_columns;
use crate::engine::operators::group_table::GroupTable;

/// Groups compared at a time: with an old and a new row for each, one chunk.
const GROUPS_A_BLOCK: usize = 4096;

#[derive(Default)]
pub(crate) struct Changes {
    touched: Bits,
    blocks: Vec<Block>,
    /// A global aggregate: its one group is shown whatever its count of rows.
    always_shown: bool,
    /// The row of a global aggregate has been emitted.
    global_emitted: bool,
}

/// Groups touched together, as they were before.
struct Block {
    groups: Vec<u32>,
    shown: Vec<bool>,
    /// `None` when nothing was shown.
    outputs: Option<Vec<ArrayRef>>,
}

/// Rows to emit: first what is no more, then what is new.
pub(crate) struct ChangedRows {
    pub keys: Vec<ArrayRef>,
    pub outputs: Vec<ArrayRef>,
    pub weights: Vec<i64>,
}

impl Changes {
    pub fn of_global() -> Changes {
        Changes {
            always_shown: true,
            ..Changes::default()
        }
    }

    /// The result of before a restart has been emitted already.
    pub fn set_global_emitted(&mut self) {
        self.global_emitted = true;
    }

    /// After a restart: no result has been emitted to those that get it now. All groups count as touched, so the next snapshot
    /// has all of them: it could not tell which of them rows have come for since.
    pub fn show_again(&mut self, table: &mut GroupTable) {
        self.global_emitted = false;
        let groups: Vec<u32> = table.live().filter(|&group| self.touched.insert(group)).collect();
        for &group in &groups {
            table.changed.insert(group);
        }
        self.blocks.push(Block {
            shown: vec![false; groups.len()],
            groups,
            outputs: None,
        });
    }

    pub fn is_global_pending(&self) -> bool {
        self.always_shown && !self.global_emitted
    }

    pub fn is_touched(&self, group: u32) -> bool {
        self.touched.contains(group)
    }

    /// Remembers the results of groups that are about to change, and marks them for the next snapshot: a group touched since
    /// the last barrier is one changed since the last snapshot.
    pub fn before_update(&mut self, table: &mut GroupTable, groups: &[u32]) -> Result<()> {
        let fresh: Vec<u32> = groups
            .iter()
            .copied()
            .filter(|&group| self.touched.insert(group))
            .collect();
        if fresh.is_empty() {
            return Ok(());
        }
        for &group in &fresh {
            table.changed.insert(group);
        }
        let shown: Vec<bool> = if self.always_shown {
            vec![self.global_emitted; fresh.len()]
        } else {
            fresh.iter().map(|&group| table.has_rows(group)).collect()
        };
        let outputs = if shown.contains(&true) {
            Some(table.aggregates.outputs(&fresh)?)
        } else {
            None
        };
        self.blocks.push(Block {
            groups: fresh,
            shown,
            outputs,
        });
        Ok(())
    }

    /// Emits what changed, forgets it, and returns the groups that had been touched.
    pub fn drain(
        &mut self,
        table: &mut GroupTable,
        mut emit: impl FnMut(ChangedRows) -> Result<()>,
    ) -> Result<Vec<u32>> {
        let mut touched = Vec::new();
        for block in merge_blocks(std::mem::take(&mut self.blocks), table)? {
            for start in (0..block.groups.len()).step_by(GROUPS_A_BLOCK) {
                let length = GROUPS_A_BLOCK.min(block.groups.len() - start);
                let part = block.slice(start, length);
                if let Some(rows) = self.compare(&part, table)? {
                    emit(rows)?;
                }
            }
            touched.extend(block.groups);
        }
        for &group in &touched {
            self.touched.remove(group);
        }
        if self.always_shown && !touched.is_empty() {
            self.global_emitted = true;
        }
        Ok(touched)
    }

    fn compare(&self, block: &Block, table: &mut GroupTable) -> Result<Option<ChangedRows>> {
        let now = table.aggregates.outputs(&block.groups)?;
        let differs = match &block.outputs {
            Some(before) => any_differs(before, &now, block.groups.len())?,
            None => vec![true; block.groups.len()],
        };
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        for (row, &group) in block.groups.iter().enumerate() {
            let shows = self.always_shown || table.has_rows(group);
            let changed = shows != block.shown[row] || differs[row];
            if block.shown[row] && changed {
                gone.push(row as u32);
            }
            if shows && changed {
                new.push(row as u32);
            }
        }
        if gone.is_empty() && new.is_empty() {
            return Ok(None);
        }
        let groups: Vec<u32> = gone.iter().chain(&new).map(|&row| block.groups[row as usize]).collect();
        let weights = std::iter::repeat_n(-1, gone.len())
            .chain(std::iter::repeat_n(1, new.len()))
            .collect();
        let outputs = match &block.outputs {
            Some(before) => {
                let before = take_columns(before, &UInt32Array::from(gone))?;
                let now = take_columns(&now, &UInt32Array::from(new))?;
                let both = before.iter().zip(&now).map(|(b, n)| concat(&[b.as_ref(), n.as_ref()]));
                both.collect::<Result<_, _>>()?
            }
            None => take_columns(&now, &UInt32Array::from(new))?,
        };
        Ok(Some(ChangedRows {
            keys: table.keys.gather(&groups),
            outputs,
            weights,
        }))
    }
}

impl Block {
    fn slice(&self, start: usize, length: usize) -> Block {
        let slice = |column: &ArrayRef| column.slice(start, length);
        Block {
            groups: self.groups[start..start + length].to_vec(),
            shown: self.shown[start..start + length].to_vec(),
            outputs: self.outputs.as_ref().map(|outputs| outputs.iter().map(slice).collect()),
        }
    }
}

/// Joins small blocks, so that what is emitted comes in chunks of a useful size.
fn merge_blocks(blocks: Vec<Block>, table: &GroupTable) -> Result<Vec<Block>> {
    let mut merged = Vec::new();
    let mut pending: Vec<Block> = Vec::new();
    let mut rows = 0;
    for block in blocks {
        rows += block.groups.len();
        pending.push(block);
        if rows >= GROUPS_A_BLOCK {
            merged.push(join_blocks(std::mem::take(&mut pending), table)?);
            rows = 0;
        }
    }
    if !pending.is_empty() {
        merged.push(join_blocks(pending, table)?);
    }
    Ok(merged)
}

fn join_blocks(mut blocks: Vec<Block>, table: &GroupTable) -> Result<Block> {
    if blocks.len() == 1 {
        return Ok(blocks.swap_remove(0));
    }
    let outputs = if blocks.iter().any(|block| block.outputs.is_some()) {
        let mut joined = Vec::with_capacity(table.layout.output_types.len());
        for (at, data_type) in table.layout.output_types.iter().enumerate() {
            let columns: Vec<ArrayRef> = blocks
                .iter()
                .map(|block| match &block.outputs {
                    Some(outputs) => ArrayRef::clone(&outputs[at]),
                    None => new_null_array(data_type, block.groups.len()),
                })
                .collect();
            let columns: Vec<&dyn Array> = columns.iter().map(AsRef::as_ref).collect();
            joined.push(concat(&columns)?);
        }
        Some(joined)
    } else {
        None
    };
    Ok(Block {
        groups: blocks.iter().flat_map(|block| block.groups.iter().copied()).collect(),
        shown: blocks.iter().flat_map(|block| block.shown.iter().copied()).collect(),
        outputs,
    })
}

pub(crate) fn any_differs(before: &[ArrayRef], now: &[ArrayRef], rows: usize) -> Result<Vec<bool>> {
    let mut differs = vec![false; rows];
    for (before, now) in before.iter().zip(now) {
        let column = column_differs(before, now)?;
        for (row, differs) in differs.iter_mut().enumerate() {
            *differs |= column.value(row);
        }
    }
    Ok(differs)
}

pub(crate) fn column_differs(before: &ArrayRef, now: &ArrayRef) -> Result<BooleanArray> {
    if !before.data_type().is_nested() {
        return Ok(distinct(before, now)?);
    }
    let compare = make_comparator(before, now, SortOptions::default())?;
    Ok((0..before.len()).map(|row| Some(compare(row, row).is_ne())).collect())
}

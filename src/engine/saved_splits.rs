//! What an earlier run saved of a source's splits: offsets, watermarks, ends.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Int64Type;

use crate::engine::connectors::SplitOffset;
use crate::engine::error::Error;
use crate::state::table::StateReader;

/// The table of a source's offsets and watermarks.
pub const OFFSETS_TABLE: &str = "offsets";

/// What an earlier run saved of a source: all splits of all its subtasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedSplits {
    pub(super) splits: Vec<SavedSplit>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SavedSplit {
    pub split: String,
    pub offset: String,
    pub watermark: Option<i64>,
    pub finished: bool,
}

impl SavedSplits {
    pub fn read(reader: &dyn StateReader) -> Result<SavedSplits, Error> {
        let mut splits = Vec::new();
        let mut positions = HashMap::new();
        reader.read(OFFSETS_TABLE, &mut |batch| {
            for split in decode_splits(&batch)? {
                // The last word on a split counts.
                match positions.get(&split.split) {
                    Some(position) => splits[*position] = split,
                    None => {
                        positions.insert(split.split.clone(), splits.len());
                        splits.push(split);
                    }
                }
            }
            Ok(())
        })?;
        Ok(SavedSplits { splits })
    }

    /// In the form that a source is opened with.
    pub fn offsets(&self) -> Vec<SplitOffset> {
        let offsets = self.splits.iter().map(|saved| SplitOffset {
            split: saved.split.clone(),
            offset: saved.offset.clone(),
        });
        offsets.collect()
    }
}

fn decode_splits(batch: &RecordBatch) -> Result<Vec<SavedSplit>, Box<dyn std::error::Error + Send + Sync>> {
    let column = |name: &str| {
        batch
            .column_by_name(name)
            .ok_or_else(|| format!("column \"{name}\" is missing"))
    };
    let split = column("split")?
        .as_string_opt::<i32>()
        .ok_or("column \"split\" is not text")?;
    let offset = column("offset")?
        .as_string_opt::<i32>()
        .ok_or("column \"offset\" is not text")?;
    let watermark = column("watermark")?
        .as_primitive_opt::<Int64Type>()
        .ok_or("column \"watermark\" is not a number")?;
    let finished = column("finished")?
        .as_boolean_opt()
        .ok_or("column \"finished\" is not boolean")?;
    let rows = (0..batch.num_rows()).map(|row| SavedSplit {
        split: split.value(row).to_owned(),
        offset: offset.value(row).to_owned(),
        watermark: watermark.is_valid(row).then(|| watermark.value(row)),
        finished: finished.value(row),
    });
    Ok(rows.collect())
}

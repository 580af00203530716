//! Deals events to splits and delivers them.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::connectors::nexmark::NexmarkTable;
use crate::engine::connectors::nexmark::columns::ColumnGenerator;
use crate::engine::connectors::nexmark::generator::{EVENTS_A_BLOCK, Generator};
use crate::engine::connectors::rate::RateLimit;
use crate::engine::connectors::{Result, Source, SourceContext, SourcePoll, SplitOffset};
use crate::engine::error::Error;

/// The offset as it is checkpointed: how many events of the split were delivered.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Position {
    events: u64,
    base_micros: i64,
}

struct Split {
    index: u64,
    delivered: u64,
    /// Events it has in all.
    total: u64,
    generator: Generator,
    base_micros: i64,
    /// The end was reported.
    told: bool,
}

struct NexmarkSource {
    columns: ColumnGenerator,
    splits: Vec<Split>,
    split_count: u64,
    rate: Option<RateLimit>,
}

pub fn open(table: &NexmarkTable, context: SourceContext) -> Result<Box<dyn Source>> {
    let now = context.clock.now_micros();
    // All splits of a run count from one moment, also those that are read for the first time after a restore.
    let mut base_micros = table.base_micros.unwrap_or(now);
    let mut positions = Vec::new();
    for offset in &context.restored {
        let position: Position = serde_json::from_str(&offset.offset)
            .map_err(|error| Error::Internal(format!("offset of nexmark cannot be read: {error}")))?;
        base_micros = position.base_micros;
        positions.push((offset.split.as_str(), position));
    }
    let mine = (0..table.splits).filter(|split| split % u64::from(context.parallelism) == u64::from(context.subtask.0));
    let splits: Vec<Split> = mine
        .map(|index| {
            let name = index.to_string();
            let restored = positions.iter().find(|(split, _)| *split == name);
            Split {
                index,
                delivered: restored.map_or(0, |(_, position)| position.events),
                total: table
                    .events
                    .map_or(u64::MAX, |events| events_of_split(index, table.splits, events)),
                generator: Generator::new(table.seed, base_micros, table.first_event_rate),
                base_micros,
                told: false,
            }
        })
        .collect();
    let share = splits.len() as f64 / table.splits as f64;
    Ok(Box::new(NexmarkSource {
        columns: ColumnGenerator::new(&context.schema)?,
        rate: table
            .event_rate
            .map(|rate| RateLimit::new(Arc::clone(&context.clock), rate * share)),
        splits,
        split_count: table.splits,
    }))
}

/// Block b of 50 events belongs to split b modulo the number of splits.
fn events_of_split(split: u64, splits: u64, events: u64) -> u64 {
    let (blocks, rest) = (events / EVENTS_A_BLOCK, events % EVENTS_A_BLOCK);
    let whole = (blocks + splits - 1 - split) / splits;
    whole * EVENTS_A_BLOCK + if blocks % splits == split { rest } else { 0 }
}

/// The numbers of the split's events `from..from + count`.
fn event_numbers(split: u64, splits: u64, from: u64, count: u64) -> Vec<Range<u64>> {
    let mut ranges = Vec::with_capacity((count / EVENTS_A_BLOCK + 2) as usize);
    let (mut from, end) = (from, from + count);
    while from < end {
        let (block, place) = (from / EVENTS_A_BLOCK, from % EVENTS_A_BLOCK);
        let length = (EVENTS_A_BLOCK - place).min(end - from);
        let first = (block * splits + split) * EVENTS_A_BLOCK + place;
        ranges.push(first..first + length);
        from += length;
    }
    ranges
}

impl Source for NexmarkSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll> {
        if let Some(split) = self
            .splits
            .iter_mut()
            .find(|split| !split.told && split.delivered >= split.total)
        {
            split.told = true;
            return Ok(SourcePoll::SplitFinished {
                split: split.index as usize,
            });
        }
        // The one that is furthest behind, so that event time advances evenly.
        let open = self.splits.iter_mut().filter(|split| !split.told);
        let Some(split) = open.min_by_key(|split| split.delivered) else {
            return Ok(SourcePoll::Finished);
        };
        let rows = match &self.rate {
            None => rows_max,
            Some(rate) => match rate.due(rows_max) {
                Ok(rows) => rows,
                Err(when) => return Ok(SourcePoll::Pending(Some(when))),
            },
        };
        let rows = (rows.max(1) as u64).min(split.total - split.delivered);
        let ranges = event_numbers(split.index, self.split_count, split.delivered, rows);
        let batch = self.columns.generate(&split.generator, ranges.into_iter().flatten())?;
        split.delivered += rows;
        if let Some(rate) = &mut self.rate {
            rate.gave(rows as usize);
        }
        Ok(SourcePoll::Rows {
            split: split.index as usize,
            rows: batch,
        })
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offset = |split: &Split| SplitOffset {
            split: split.index.to_string(),
            offset: format!(
                "{{\"events\":{},\"base_micros\":{}}}",
                split.delivered, split.base_micros
            ),
        };
        self.splits.iter().map(offset).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_partition_the_events() {
        for (splits, events) in [(1, 0), (1, 49), (3, 1000), (16, 12_345), (7, 50 * 7), (5, 50 * 7 + 1)] {
            let mut all: Vec<u64> = (0..splits)
                .flat_map(|split| {
                    let count = events_of_split(split, splits, events);
                    event_numbers(split, splits, 0, count).into_iter().flatten()
                })
                .collect();
            all.sort_unstable();
            assert_eq!(all, (0..events).collect::<Vec<_>>(), "{splits} splits");
        }
    }

    #[test]
    fn a_split_continues_anywhere() {
        let whole: Vec<u64> = event_numbers(2, 5, 0, 500).into_iter().flatten().collect();
        for from in [0, 1, 49, 50, 51, 333] {
            let rest: Vec<u64> = event_numbers(2, 5, from, 500 - from).into_iter().flatten().collect();
            assert_eq!(rest, whole[from as usize..]);
        }
    }
}

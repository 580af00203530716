//! Rows in immutable segments, with one bitmap of dead rows a segment.
//!
//! What a reader was given never changes: rows are only appended, into a new batch; a bitmap that a reader may hold is
//! copied before a bit is set. Segments more than half dead are rewritten.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, interleave};
use arrow::datatypes::SchemaRef;

use crate::engine::message::CHUNK_ROWS_TARGET;
use crate::engine::operator::Result;

/// Rows of a full segment.
const SEGMENT_ROWS: usize = CHUNK_ROWS_TARGET;

/// Where a row is. Changes when its segment is rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Location {
    segment: u32,
    offset: u32,
}

/// A segment as readers see it.
#[derive(Clone, Debug)]
pub(crate) struct SegmentView {
    rows: RecordBatch,
    /// One bit a row.
    dead: Option<Arc<Vec<u64>>>,
}

#[derive(Debug)]
struct Segment {
    view: SegmentView,
    /// What each row belongs to in the index, or its key group where there is none.
    owners: Vec<u32>,
    dead: usize,
}

#[derive(Debug)]
pub(crate) struct Segments {
    schema: SchemaRef,
    /// By number; numbers of rewritten segments are used again.
    slots: Vec<Option<Segment>>,
    free: Vec<u32>,
    /// The segment that is not full.
    tail: Option<u32>,
    live: u64,
}

impl SegmentView {
    /// The rows that are alive.
    pub fn rows(&self) -> Result<RecordBatch> {
        let Some(dead) = &self.dead else {
            return Ok(self.rows.clone());
        };
        let alive: BooleanArray = (0..self.rows.num_rows())
            .map(|row| Some(dead[row / 64] & (1 << (row % 64)) == 0))
            .collect();
        Ok(filter_record_batch(&self.rows, &alive)?)
    }

    pub fn memory_bytes(&self) -> usize {
        let columns = self.rows.columns().iter();
        // Slices of one batch share its buffers: each counts its part.
        let held: usize = columns
            .map(|column| {
                column
                    .to_data()
                    .get_slice_memory_size()
                    .unwrap_or_else(|_| column.get_array_memory_size())
            })
            .sum();
        held + self.dead.as_ref().map_or(0, |dead| dead.len() * 8)
    }
}

impl Segments {
    pub fn new(schema: &SchemaRef) -> Segments {
        Segments {
            schema: Arc::clone(schema),
            slots: Vec::new(),
            free: Vec::new(),
            tail: None,
            live: 0,
        }
    }

    pub fn live(&self) -> u64 {
        self.live
    }

    /// Appends rows and says where each went, in order.
    pub fn append(&mut self, rows: &RecordBatch, owners: &[u32], mut placed: impl FnMut(u32, Location)) -> Result<()> {
        let mut start = 0;
        while start < rows.num_rows() {
            let (slot, filled) = self.tail_with_space();
            let length = (SEGMENT_ROWS - filled).min(rows.num_rows() - start);
            let part = rows.slice(start, length);
            for (at, &owner) in owners[start..start + length].iter().enumerate() {
                let location = Location {
                    segment: slot,
                    offset: (filled + at) as u32,
                };
                placed(owner, location);
            }
            self.extend(slot, part, &owners[start..start + length])?;
            self.live += length as u64;
            start += length;
        }
        Ok(())
    }

    fn tail_with_space(&mut self) -> (u32, usize) {
        if let Some(slot) = self.tail
            && let Some(segment) = &self.slots[slot as usize]
            && segment.owners.len() < SEGMENT_ROWS
        {
            return (slot, segment.owners.len());
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.tail = Some(slot);
        (slot, 0)
    }

    fn extend(&mut self, slot: u32, rows: RecordBatch, owners: &[u32]) -> Result<()> {
        let place = &mut self.slots[slot as usize];
        match place {
            None => {
                *place = Some(Segment {
                    view: SegmentView { rows, dead: None },
                    owners: owners.to_vec(),
                    dead: 0,
                });
            }
            Some(segment) => {
                segment.view.rows = concat_batches(&self.schema, [&segment.view.rows, &rows])?;
                segment.owners.extend_from_slice(owners);
                if let Some(dead) = &mut segment.view.dead {
                    Arc::make_mut(dead).resize(segment.owners.len().div_ceil(64), 0);
                }
            }
        }
        Ok(())
    }

    pub fn delete(&mut self, location: Location) {
        let Some(segment) = &mut self.slots[location.segment as usize] else {
            return;
        };
        let words = segment.owners.len().div_ceil(64);
        let dead = segment.view.dead.get_or_insert_with(|| Arc::new(vec![0; words]));
        let (word, bit) = (location.offset as usize / 64, 1u64 << (location.offset % 64));
        if dead[word] & bit == 0 {
            Arc::make_mut(dead)[word] |= bit;
            segment.dead += 1;
            self.live -= 1;
        }
    }

    /// The rows at `locations`, in that order.
    pub fn gather(&self, locations: &[Location]) -> Result<Vec<ArrayRef>> {
        let mut slots: Vec<u32> = locations.iter().map(|location| location.segment).collect();
        slots.sort_unstable();
        slots.dedup();
        let batches: Vec<&RecordBatch> = slots
            .iter()
            .filter_map(|&slot| self.slots[slot as usize].as_ref())
            .map(|segment| &segment.view.rows)
            .collect();
        let indices: Vec<(usize, usize)> = locations
            .iter()
            .map(|location| {
                let at = slots.binary_search(&location.segment).unwrap_or(0);
                (at, location.offset as usize)
            })
            .collect();
        (0..self.schema.fields().len())
            .map(|column| {
                if batches.is_empty() {
                    return Ok(arrow::array::new_empty_array(self.schema.field(column).data_type()));
                }
                let arrays: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(column).as_ref()).collect();
                Ok(interleave(&arrays, &indices)?)
            })
            .collect()
    }

    /// The batch that holds a row, and where in it: stays valid whatever happens here later.
    pub fn row(&self, location: Location) -> Option<(RecordBatch, usize)> {
        let segment = self.slots[location.segment as usize].as_ref()?;
        Some((segment.view.rows.clone(), location.offset as usize))
    }

    /// Rewrites segments that are more than half dead; `moved` hears where each surviving row went: owner, from, to.
    pub fn compact(&mut self, mut moved: impl FnMut(u32, Location, Location)) -> Result<()> {
        for slot in 0..self.slots.len() as u32 {
            let Some(segment) = &self.slots[slot as usize] else {
                continue;
            };
            let is_filling = self.tail == Some(slot) && segment.dead < segment.owners.len();
            if segment.dead * 2 <= segment.owners.len() || is_filling {
                continue;
            }
            let Some(segment) = self.slots[slot as usize].take() else {
                continue;
            };
            if self.tail == Some(slot) {
                self.tail = None;
            }
            let alive = segment.alive();
            let rows = segment.view.rows()?;
            let owners: Vec<u32> = alive.iter().map(|&row| segment.owners[row as usize]).collect();
            self.live -= owners.len() as u64;
            let mut at = 0;
            self.append(&rows, &owners, |owner, to| {
                let from = Location {
                    segment: slot,
                    offset: alive[at],
                };
                at += 1;
                moved(owner, from, to);
            })?;
            self.free.push(slot);
        }
        Ok(())
    }

    /// What readers get: the segments as they are now.
    pub fn views(&self) -> Vec<SegmentView> {
        self.slots
            .iter()
            .flatten()
            .map(|segment| segment.view.clone())
            .collect()
    }

    /// For each segment, the live rows whose owner `wanted` says yes to, with their owners.
    pub fn select(&self, wanted: impl Fn(u32) -> bool) -> Result<Vec<(RecordBatch, Vec<u32>)>> {
        let mut selected = Vec::new();
        for segment in self.slots.iter().flatten() {
            let rows: Vec<u32> = segment
                .alive()
                .into_iter()
                .filter(|&row| wanted(segment.owners[row as usize]))
                .collect();
            if !rows.is_empty() {
                let owners = rows.iter().map(|&row| segment.owners[row as usize]).collect();
                let indices = UInt32Array::from(rows);
                let batch = arrow::compute::take_record_batch(&segment.view.rows, &indices)?;
                selected.push((batch, owners));
            }
        }
        Ok(selected)
    }

    pub fn memory_bytes(&self) -> usize {
        let segments = self.slots.iter().flatten();
        segments
            .map(|segment| segment.view.memory_bytes() + segment.owners.capacity() * 4)
            .sum()
    }
}

impl Segment {
    fn alive(&self) -> Vec<u32> {
        let rows = 0..self.owners.len() as u32;
        match &self.view.dead {
            None => rows.collect(),
            Some(dead) => rows
                .filter(|&row| dead[row as usize / 64] & (1 << (row % 64)) == 0)
                .collect(),
        }
    }
}

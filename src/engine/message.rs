//! All that flows between operators: [`Chunk`], [`Watermark`], [`Barrier`], end of input.
//!
//! Order on one channel is meaning: a watermark speaks of the chunks after it, a barrier divides what is in a snapshot
//! from what is not. Between channels there is no order.

use arrow::array::RecordBatch;
use arrow::buffer::ScalarBuffer;

use crate::ids::Epoch;

/// Rows a source or an operator aims at in one chunk.
pub const CHUNK_ROWS_TARGET: usize = 8192;

/// Rows of one schema, with how often each counts and when it happened.
///
/// Shapes: `weights`, `event_time` and `key_hashes`, where present, have one entry a row of `rows`.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub rows: RecordBatch,
    pub weights: Weights,
    /// Microseconds since 1970-01-01 UTC, beside the schema so that projections may drop the column it came from.
    /// Absent on streams without event time.
    pub event_time: Option<ScalarBuffer<i64>>,
    /// The frozen hash of the key that the last exchange routed by; operators keyed alike reuse it.
    pub key_hashes: Option<ScalarBuffer<u64>>,
}

/// How often a row counts: a Z-set. Insert-only streams carry nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Weights {
    AllInsert,
    /// +1 inserts a row, -1 takes one away; other values count as that many. Never 0.
    Signed(ScalarBuffer<i64>),
}

/// "No row before this time follows", in microseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watermark {
    At(i64),
    /// The channel says nothing for now and must not hold others back.
    Idle,
}

/// Divides the stream; everything before it belongs to `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    pub epoch: Epoch,
    pub kind: BarrierKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    /// Emit consistent changes; persist nothing.
    Tick,
    /// Persist.
    Checkpoint,
    /// Persist everything, and keep it.
    Savepoint,
    /// Persist, then end: sources produce nothing after it.
    Stop,
}

impl BarrierKind {
    /// Whether operators snapshot at this barrier.
    pub fn persists(self) -> bool {
        self != BarrierKind::Tick
    }
}

/// One item on a channel.
#[derive(Clone, Debug)]
pub enum Message {
    Data(Chunk),
    Watermark(Watermark),
    Barrier(Barrier),
    /// The input is exhausted: no data and no watermark follow. Barriers still do, so that what was flushed at the end
    /// is checkpointed and committed like everything else.
    End,
}

impl Chunk {
    /// An insert-only chunk without event time.
    pub fn insert(rows: RecordBatch) -> Chunk {
        Chunk {
            rows,
            weights: Weights::AllInsert,
            event_time: None,
            key_hashes: None,
        }
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.num_rows() == 0
    }

    /// The weight of row `row`.
    pub fn weight(&self, row: usize) -> i64 {
        match &self.weights {
            Weights::AllInsert => 1,
            Weights::Signed(weights) => weights[row],
        }
    }

    /// Bytes that the chunk keeps alive, for the capacity of channels. Shared buffers count in full.
    pub fn memory_bytes(&self) -> usize {
        let side =
            self.event_time.as_ref().map_or(0, |t| t.len() * 8) + self.key_hashes.as_ref().map_or(0, |h| h.len() * 8);
        self.rows.get_array_memory_size() + side
    }
}

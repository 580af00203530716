//! The shape of every operator: a synchronous state machine that is handed messages and collects output.
//!
//! The driver owns every wait, aligns barriers, merges watermarks and calls the methods; an operator never blocks, so it
//! can be tested without a runtime and nothing can slip into the middle of a chunk.
//!
//! Order of calls for one operator: `restore` once (also on a fresh start, with an empty reader), then `process`,
//! `on_watermark`, `on_input_end` and `on_barrier` in stream order; `snapshot` right after `on_barrier` when the barrier persists;
//! `on_end` once when every input has ended, after which only barriers come.

use crate::engine::error::Error;
use crate::engine::message::{Barrier, Chunk, Watermark};
use crate::state::table::{SnapshotContext, StateReader, TableWrite};

pub type Result<T, E = Error> = std::result::Result<T, E>;

pub trait Operator: Send {
    /// The word that EXPLAIN, metrics and errors use, such as `tumbling_aggregate`.
    fn name(&self) -> &'static str;

    /// Takes the rows of `chunk`, which came from input `input` of the operator (0 for all but joins).
    fn process(&mut self, input: usize, chunk: Chunk, output: &mut Output) -> Result<()>;

    /// Goes on with a chunk whose output is large; true while there is more. Asked after every `process`, and again, each time
    /// after what came out was handed on, before anything else is given to the operator.
    fn resume(&mut self, _output: &mut Output) -> Result<bool> {
        Ok(false)
    }

    /// Whether something that was given to it waits for an answer from outside. The waker that the operator was built with calls
    /// for a [`resume`](Operator::resume) when one has come.
    fn waits(&self) -> Waits {
        Waits::Nothing
    }

    /// The combined watermark of all inputs advanced (or went idle). The default passes it on.
    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        output.watermark(watermark);
        Ok(())
    }

    /// A barrier is aligned: emit what must be visible at it. The driver passes the barrier itself on.
    fn on_barrier(&mut self, _barrier: Barrier, _output: &mut Output) -> Result<()> {
        Ok(())
    }

    /// Hands over what must survive; O(changed rows), no I/O.
    fn snapshot(&mut self, _context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        Ok(Vec::new())
    }

    /// Takes back what earlier runs handed over.
    fn restore(&mut self, _state: &dyn StateReader) -> Result<()> {
        Ok(())
    }

    /// One of several inputs has ended; others go on. Said again after a restart, when that input ends again.
    fn on_input_end(&mut self, _input: usize, _output: &mut Output) -> Result<()> {
        Ok(())
    }

    /// After `restore`: what is held goes out at the next barrier as if none of it had, because those that get it are new.
    /// Asked only of operators that `coordinator/evolution.rs` counts on.
    fn repeat(&mut self) -> Result<()> {
        Err(Error::Internal(format!(
            "operator \"{}\" cannot put out its state again",
            self.name()
        )))
    }

    /// Input has ended: flush everything. The driver passes the end on.
    fn on_end(&mut self, _output: &mut Output) -> Result<()> {
        Ok(())
    }

    /// What the operator holds now.
    fn state_size(&self) -> StateSize {
        StateSize::default()
    }

    /// Rows dropped for being older than the watermark, since start.
    fn late_rows(&self) -> u64 {
        0
    }
}

/// Whether an operator waits for an answer from outside; only one that reads channels may, as with `resume`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    Nothing,
    /// Rows and watermarks may follow meanwhile, which the operator keeps in order. A barrier and the end of input may not:
    /// the driver holds them back.
    TakesMore,
    /// Nothing may follow.
    Full,
}

/// How much an operator keeps, for views and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    pub rows: u64,
    pub bytes: u64,
}

/// Collects what an operator emits, in order. The driver hands it on to every consumer.
#[derive(Debug, Default)]
pub struct Output {
    items: Vec<OutputItem>,
}

#[derive(Debug)]
pub enum OutputItem {
    Data(Chunk),
    Watermark(Watermark),
}

impl Output {
    /// Empty chunks are dropped here, so that operators need not check.
    pub fn data(&mut self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.items.push(OutputItem::Data(chunk));
        }
    }

    pub fn watermark(&mut self, watermark: Watermark) {
        self.items.push(OutputItem::Watermark(watermark));
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes everything collected so far.
    pub fn take(&mut self) -> std::vec::Drain<'_, OutputItem> {
        self.items.drain(..)
    }
}

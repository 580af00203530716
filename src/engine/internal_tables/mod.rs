//! Tables that Laminar keeps itself: the way of a statement's changes into the job that keeps the table.
//!
//!     statement --put--> mailbox --source--> Materialize (engine/results)      decided by a checkpoint
//!         ^                 |
//!         +---- recent -----+   changes that the readable result does not hold yet
//!
//! A table's job is a source over the table's mailbox and an operator that keeps the result. A statement that changes the
//! table holds the table's one write lock, computes over the result and what is on the way to it, and puts its changes into
//! the mailbox as one piece; then others may write while a checkpoint makes the piece durable.
//!
//! Guarantees: a piece is in one epoch, whole. The number of the last piece is the source's offset, so that after a restart
//! of the job it is known of every piece whether it is there or lost. Nobody computes over changes that a restart undid: a
//! piece is refused when the job has been restarted since its statement began.
//! Not guaranteed: that a piece which was put is durable; the statement has to wait for that.

mod mailbox;
mod source;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::ids::Oid;

pub use crate::engine::internal_tables::mailbox::{Change, Fate, InternalTable, Run, WriteGuard};
pub use crate::engine::internal_tables::source::InternalTableSource;

/// The internal tables of this process. A handle: clones see the same.
#[derive(Clone, Default)]
pub struct InternalTables {
    tables: Arc<Mutex<HashMap<Oid, Arc<InternalTable>>>>,
}

impl InternalTables {
    /// The table's mailbox, which is made when it is first asked for.
    pub fn get(&self, table: Oid) -> Arc<InternalTable> {
        Arc::clone(self.lock().entry(table).or_default())
    }

    /// Forgets a table that was dropped: whoever waits for it hears that it is gone.
    pub fn remove(&self, table: Oid) {
        if let Some(table) = self.lock().remove(&table) {
            table.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Oid, Arc<InternalTable>>> {
        // A panic elsewhere cannot leave the map half changed.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

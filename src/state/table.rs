//! The persistence contract: what an operator hands over at a barrier and gets back at restore.
//!
//! Operators own typed memory; a table is only how that memory is written down. Two kinds exist:
//!
//! - [`TableKind::GlobalKeyed`]: key to value, kept until a tombstone. Aggregation state, source offsets, results.
//! - [`TableKind::ExpiringTimeKey`]: rows with a time; a row whose time is before the table's watermark is dead and need
//!   not be deleted. Windows, joins.
//!
//! Every batch written begins with the columns of [`leading_fields`]: `_key_group` (UInt16), `_op` (Int8: [`OP_PUT`] or
//! [`OP_TOMBSTONE`]) and, for an expiring table, `_time` (Int64); the operator's own columns follow, key columns first.
//!
//! Guarantee of a restore: for every key group of the reader's range, batches arrive oldest epoch first; what a later
//! base replaced is left out; so applying puts and tombstones in order gives the state at the committed epoch.
//! Not guaranteed: that a key appears once (a later put of the same key replaces the earlier).

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field};

use crate::ids::Epoch;
use crate::state::key_group::{KeyGroupRange, KeyGroups};

/// Column names and codes that every table shares.
pub const KEY_GROUP_COLUMN: &str = "_key_group";
pub const OP_COLUMN: &str = "_op";
pub const TIME_COLUMN: &str = "_time";
pub const OP_TOMBSTONE: i8 = 0;
pub const OP_PUT: i8 = 1;

/// At most so many rows are in one batch of a [`TableWrite`]: what an operator copies at a time.
pub const STATE_BATCH_ROWS: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TableKind {
    GlobalKeyed,
    ExpiringTimeKey,
}

/// Who gets a table's rows back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distribution {
    /// Rows follow their key group.
    KeyGroups,
    /// Every subtask gets the rows of all former subtasks: source offsets. Such a table is small and is written whole
    /// at every checkpoint; what a subtask wrote last replaces what it wrote before.
    Broadcast,
}

/// One table's part of one subtask's snapshot.
#[derive(Clone, Debug)]
pub struct TableWrite {
    /// Unique inside the operator, such as `groups` or `offsets`.
    pub table: &'static str,
    pub kind: TableKind,
    pub distribution: Distribution,
    /// The key groups of which `rows` holds everything; of the others it holds what changed since the last snapshot.
    /// Ignored for broadcast tables.
    pub rebased: Option<KeyGroupRange>,
    /// For an expiring table: rows with a time before this are dead.
    pub expired_before: Option<i64>,
    /// Batches of one schema, beginning with [`leading_fields`].
    pub rows: Vec<RecordBatch>,
}

/// What a snapshot must cover.
#[derive(Clone, Copy, Debug)]
pub struct SnapshotContext {
    pub epoch: Epoch,
    pub key_groups: KeyGroups,
    /// The range that the subtask owns.
    pub owned: KeyGroupRange,
    /// Write every row of these groups, changed or not (a rolling rewrite of the base; the whole of `owned` for the
    /// first checkpoint of a run and for savepoints). Empty when nothing is due.
    pub rebase: KeyGroupRange,
}

/// Gives an operator its rows back. Called on the operator's own thread, which may block on it.
pub trait StateReader {
    /// Visits the batches of `table` in the order that the module describes; no visit when the table was never written.
    /// Each batch has the columns as written, restricted to rows of the subtask's key groups (all rows when broadcast).
    fn read(
        &self,
        table: &str,
        visit: &mut dyn FnMut(RecordBatch) -> Result<(), Box<dyn std::error::Error + Send + Sync>>,
    ) -> Result<(), crate::state::error::Error>;

    fn key_groups(&self) -> KeyGroups;
    fn owned(&self) -> KeyGroupRange;
}

/// The columns that every batch of a table begins with.
pub fn leading_fields(kind: TableKind) -> Vec<Field> {
    let mut fields = vec![
        Field::new(KEY_GROUP_COLUMN, DataType::UInt16, false),
        Field::new(OP_COLUMN, DataType::Int8, false),
    ];
    if kind == TableKind::ExpiringTimeKey {
        fields.push(Field::new(TIME_COLUMN, DataType::Int64, false));
    }
    fields
}

//! Newtypes for the numbers and names that must not be confused.

use std::fmt;

/// Persisted object identifier, shown as Postgres shows an `oid`; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(pub u32);

/// The first OID given to a user's object; Postgres's own start is the same.
pub const FIRST_USER_OID: u32 = 16384;

/// Names one run of a pipeline: `job_` and a sortable unique part.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(pub String);

/// Names an operator of a pipeline across restarts: a hash of what it does and of its inputs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperatorId(pub String);

/// Which of an operator's parallel instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubtaskIndex(pub u32);

/// Numbers barriers of a pipeline; grows strictly over all its runs, gaps are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Epoch(pub u64);

/// Numbers runs of a pipeline; whoever holds an older one is a zombie and can commit nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Generation(pub u64);

impl Epoch {
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl Generation {
    pub fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

/// The prefixes of identifiers that REST and the system views show; they never change once given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicIdKind {
    Schema,
    Secret,
    Connection,
    Table,
    View,
    Pipeline,
    Job,
    Checkpoint,
    Function,
    Error,
}

impl PublicIdKind {
    pub fn prefix(self) -> &'static str {
        match self {
            PublicIdKind::Schema => "schema",
            PublicIdKind::Secret => "secret",
            PublicIdKind::Connection => "prof",
            PublicIdKind::Table => "tbl",
            PublicIdKind::View => "view",
            PublicIdKind::Pipeline => "pipe",
            PublicIdKind::Job => "job",
            PublicIdKind::Checkpoint => "chk",
            PublicIdKind::Function => "udf",
            PublicIdKind::Error => "err",
        }
    }
}

/// A new identifier such as `pipe_0190a6e2c3f17b0e8d2f5a7c9b1e3d4f`; sorts by creation time.
pub fn new_public_id(kind: PublicIdKind) -> String {
    format!("{}_{}", kind.prefix(), uuid::Uuid::now_v7().simple())
}

macro_rules! display_inner {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

display_inner!(Oid, JobId, OperatorId, SubtaskIndex, Epoch, Generation);

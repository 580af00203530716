//! What a pipeline keeps in the systems outside beside its rows: a replication slot, files that are not published, notes of commits.
//!
//! Nobody but the pipeline has a use for it, so it goes when the pipeline is dropped. Best effort: a system that cannot be reached
//! keeps it, and the user is told what it is and how to remove it.

/// How a pipeline used a table, by a name that no other pipeline ever has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PipelineUse {
    /// As [`SourceContext::reader`](super::SourceContext::reader).
    Source(String),
    /// As [`CommitterContext::sink`](super::CommitterContext::sink).
    Sink(String),
}

/// For messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptOutside {
    /// `replication slot "x" of the Postgres server`.
    pub what: String,
    /// What somebody does who removes it without Laminar: a sentence.
    pub by_hand: String,
}

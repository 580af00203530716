//! What compiling a pipeline gives.

use arrow::datatypes::SchemaRef;

use crate::catalog::objects;
use crate::engine::graph::JobGraph;
use crate::error::SqlState;
use crate::ids::Oid;

/// What the graph is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Runs as this pipeline; a query's result is kept under its OID.
    Pipeline { oid: Oid },
    /// Runs until its client has enough; rows of a query go to the client.
    Foreground,
    /// Only checked: the graph is not going to run.
    Validate,
}

/// A pipeline, planned.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The plan as bound, for EXPLAIN.
    pub logical: String,
    /// The plan after the rewrites.
    pub rewritten: String,
    /// Operators, without how many of each.
    pub physical: String,
    pub graph: JobGraph,
    /// Columns of the result; `None` when the pipeline only delivers to sinks.
    pub output: Option<SchemaRef>,
    /// Names of the result's columns that identify a row; empty when nothing is known to.
    pub unique_key: Vec<String>,
    /// Rows of the result never change once emitted.
    pub append_only: bool,
    /// Some source does not end by itself.
    pub unbounded: bool,
    pub notices: Vec<Notice>,
    /// Every object of the catalog that the pipeline uses.
    pub depends_on: Vec<Oid>,
    /// Sinks without columns, and those that the query gives them. Local sinks have OID 0.
    pub inferred_sinks: Vec<InferredSink>,
    /// Tables delivered to.
    pub sinks: Vec<Oid>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct InferredSink {
    pub table: Oid,
    pub name: String,
    pub columns: Vec<objects::Column>,
}

/// Something the user should know, sent as a NOTICE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub code: SqlState,
    pub message: String,
    pub hint: Option<String>,
}

//! SQL text to job graph: bind, rewrite, physical, graph. Pure and synchronous.
//!
//! | stage | module | prints with |
//! |---|---|---|
//! | names and types | [`bind`] | `EXPLAIN (LOGICAL)` |
//! | windows, DataFusion's rules | [`rewrites`] | `EXPLAIN (LOGICAL)`, second part |
//! | operators | [`physical`] | `EXPLAIN (PHYSICAL)` |
//! | ids, exchanges, parallelism | [`graph`] | `EXPLAIN (GRAPH)` |
//!
//! One-shot SELECT takes another way after binding: [`batch`]. So do statements that change internal tables: [`dml`].

pub mod asof_tokens;
pub mod assignment;
pub mod batch;
pub mod bind;
pub mod body;
mod compile;
pub mod compiled;
pub mod dialect;
pub mod dml;
pub mod error;
pub mod explain;
pub mod functions;
pub mod graph;
pub mod parameters;
pub mod physical;
pub mod rewrites;
pub mod settings;
#[cfg(test)]
pub(crate) mod tests;

pub use bind::lookup_tables::check as check_lookup_table;
pub use body::{Body, InsertStatement, PipelineBody};
pub use compile::compile;
pub use compiled::{Compiled, InferredSink, Notice, Target};
pub use error::Error;
pub use settings::{SessionFacts, Settings};

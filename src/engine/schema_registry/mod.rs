//! Schema registries that speak Confluent's REST API: subjects with versions of schemas, each schema with an id that travels in
//! front of every record.
//!
//! - [`options`] how tables and connections name a registry, and which subject a table is about.
//! - [`client`] the questions, the answers, and which failures pass.
//! - [`frame`] the five bytes in front of a record.
//!
//! Guarantees: a schema is asked for once and kept for good, an id that the registry does not know is asked for at most every
//! [`client::MISSING_KEPT`]; never a question for each record. What the registry says is in the error in its own words; passwords never
//! are. Nothing here runs on a shard: decoders look at what is known ([`SchemaRegistry::known`]), and whoever fetches the records
//! has asked before ([`SchemaRegistry::ensure`]).
//!
//! Not here: contexts, deletion, modes, OAuth.

pub mod client;
pub mod frame;
pub mod options;
#[cfg(test)]
mod tests;

pub use client::{NewSchema, Reference, RegisteredSchema, SchemaKind, SchemaOfId, SchemaRegistry, SubjectVersion};
pub use options::{SubjectStrategy, TableSubject};

//! What users defined, and what became of it: objects, dependencies, jobs, checkpoints, secrets.
//!
//! SQL text and raw options are kept as written; nothing here interprets them. Every change goes through
//! `Catalog::apply` as one metadata transaction.

pub mod objects;

//! Statements against a whole server.

mod definition;
mod pipelines;
mod sessions;
mod tables;

//! Laminar: a streaming SQL server that speaks the Postgres wire protocol.
//!
//! The modules in reading order, each importing only from those to its right (`tidy.rs` checks it):
//!
//!     main > server > frontend > planner > engine > { state, catalog } > leaf files of src/
//!
//! - [`server`] constructs every component and wires them.
//! - [`frontend`] is all that clients see: SQL statements, the Postgres protocol, REST.
//! - [`planner`] turns SQL text and a catalog snapshot into a job graph; pure and synchronous.
//! - [`engine`] runs job graphs: shards, operators, exchanges, connectors, formats, the coordinator.
//! - [`state`] is what survives a crash: key groups, tables, Parquet snapshots, manifests.
//! - [`catalog`] is what users defined: objects, their dependencies, jobs, secrets.

pub mod catalog;
pub mod clock;
pub mod config;
pub mod engine;
pub mod error;
pub mod failpoint;
pub mod frontend;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ids;
pub mod logging;
pub mod metrics;
pub mod options;
pub mod planner;
pub mod postgres;
pub mod server;
pub mod shell;
pub mod spawn;
pub mod state;
#[cfg(test)]
pub mod testing;
#[cfg(test)]
mod tidy;
pub mod types;

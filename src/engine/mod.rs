//! Runs job graphs: the data plane (shards, drivers, operators, exchanges, connectors) and the control plane (coordinator).
//!
//!     coordinator --start, barriers--> worker --> shard 0: driver, driver, ..   one driver = one fragment's subtask
//!          ^                             |        shard 1: driver, driver, ..   exchanges between shards are rings
//!          +------ acks, snapshots ------+
//!
//! Knows no SQL and no client protocol. Only [`coordinator`] imports the catalog.

pub mod connectors;
pub mod error;
pub mod formats;
pub mod graph;
pub mod message;
pub mod operator;

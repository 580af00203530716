//! Runs job graphs: the data plane (shards, drivers, operators, exchanges, connectors) and the control plane (coordinator).
//!
//!     coordinator --start, barriers--> worker --> shard 0: driver, driver, ..   one driver = one fragment's subtask
//!          ^                             |        shard 1: driver, driver, ..   exchanges between shards are rings
//!          +------ acks, snapshots ------+
//!
//! Knows no SQL and no client protocol. Only [`coordinator`] imports the catalog.

pub mod asof_spec;
pub mod client_tail;
pub mod connectors;
pub mod coordinator;
pub mod dead_letters;
pub mod driver;
pub mod error;
pub mod events;
pub mod exchange;
pub mod formats;
pub mod fragment;
pub mod graph;
pub mod internal_tables;
pub mod job_context;
pub mod job_metrics;
pub mod join_spec;
pub mod lookup_join_spec;
pub mod memory_budget;
pub mod message;
pub mod operator;
pub mod operators;
pub mod order_column;
pub mod over_spec;
pub mod results;
mod saved_splits;
pub mod schema_registry;
pub mod shard;
pub mod sink_tail;
pub mod source_head;
pub mod top_n_spec;
pub mod upserts;
pub mod values_source;
pub mod worker;

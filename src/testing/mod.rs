//! What tests share: systems outside that they start for themselves, rows written as text, memory in place of stores.

pub(crate) mod aggregate_specs;
pub(crate) mod asof_specs;
pub(crate) mod azure_server;
pub mod certificates;
pub(crate) mod faulty_objects;
pub(crate) mod job_simulator;
pub(crate) mod join_harness;
pub mod kafka;
pub mod kafka_gate;
pub(crate) mod memory_state;
mod nexmark;
pub(crate) mod operator_harness;
pub(crate) mod over_specs;
pub mod postgres;
pub(crate) mod random_queries;
pub(crate) mod row_sets;
pub(crate) mod row_table;
pub(crate) mod s3_server;
pub mod schema_registry;

//! What survives: operators hand over rows at a barrier, get them back after a crash.
//!
//! Reading order: [`key_group`] and [`hash`] say where a key lives; [`table`] is the contract between operators and
//! snapshots; the rest writes, finds and deletes the files behind it.
//!
//! Guarantee: a restored table holds exactly the rows written at and before the committed epoch, at any parallelism.
//! Not guaranteed: any order of rows, or that an uncommitted epoch leaves no files behind (the sweeper removes them).

pub mod error;
pub mod hash;
pub mod key_group;
pub mod table;

//! What survives: operators hand over rows at a barrier, get them back after a crash.
//!
//! Reading order: [`key_group`] and [`hash`] say where a key lives; [`key_table`] finds it there in memory; [`table`] is the
//! contract between operators and snapshots; [`snapshot`] writes, [`restore`] reads, [`manifest`] is what they agree on,
//! [`storage`] is where the files are, [`gc`] deletes them; [`commit`] says which epoch counts.
//!
//! Guarantee: a restored table holds exactly the rows written at and before the committed epoch, at any parallelism.
//! Not guaranteed: any order of rows, or that an uncommitted epoch leaves no files behind (the sweeper removes them).

pub(crate) mod blob;
pub mod canonical;
pub mod commit;
mod encode;
pub mod error;
pub mod gc;
pub mod hash;
pub mod key_group;
pub mod key_table;
mod local_files;
pub mod manifest;
pub mod marks;
mod merge;
pub mod restore;
pub mod snapshot;
pub mod storage;
pub mod table;

//! Whole jobs in one process, with a world outside that survives crashes.

#![allow(clippy::unwrap_used)]

mod evolution;
mod exactly_once;
mod faults;
mod kit;
mod ledger;
mod life;
mod replace;
mod shaky;
mod stalls;
mod trouble;

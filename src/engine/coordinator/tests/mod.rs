//! Whole jobs in one process, with a world outside that survives crashes.

#![allow(clippy::unwrap_used)]

mod exactly_once;
mod kit;
mod life;
mod shaky;
mod trouble;

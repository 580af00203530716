//! The auction benchmark, q0 to q22: what an event costs beside DataFusion's batch engine, and whether the answers agree.
//!
//! - [`queries`] the files of this folder and the columns that each reads.
//! - [`measure`] CPU time and memory of the real server, from columns and from JSON.
//! - [`verify`] every query run by the real server, its result compared with a batch row by row.
//!
//! See README.md for how to run it and how to read it.

#[path = "../common/mod.rs"]
mod common;
mod measure;
mod queries;
#[path = "../common/reference.rs"]
mod reference;
mod verify;

use common::{Outcome, argument};

pub const SEED: u64 = 42;

fn main() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let only = argument("--query").map(|number| number as u32);
    if std::env::args().any(|argument| argument == "--verify") {
        let events = argument("--events").unwrap_or(1_000_000);
        return runtime.block_on(verify::run(events, only));
    }
    let measured = measure::Measured {
        events: argument("--events").unwrap_or(5_000_000),
        rate: argument("--rate").unwrap_or(100_000),
        only,
    };
    runtime.block_on(measure::run(&measured))
}

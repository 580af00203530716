//! Tests of operators as scripts, and against an oracle on random input.

#![allow(clippy::unwrap_used)]

mod asof;
mod asof_oracle;
mod join;
mod join_oracle;
mod late_rows;
mod lookup_join;
mod numbers;
mod oracle;
mod over;
mod over_oracle;
mod partial;
mod stateless;
mod top_n;
mod top_n_oracle;
mod updating;
mod upsert_normalise;
mod windows;

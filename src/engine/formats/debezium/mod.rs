//! Change records as Debezium writes them: `{"before": .., "after": .., "op": "c" | "r" | "u" | "d"}`, one a line, alone or as the
//! `payload` beside a `schema`.
//!
//! - [`change`] what a record says, whatever it is written in.
//! - [`decode`] lines to rows that come and go.
//! - [`encode`] rows that come and go to lines.

pub mod change;
mod decode;
pub mod encode;

pub use decode::decoder;

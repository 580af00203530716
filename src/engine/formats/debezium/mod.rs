//! Change records as Debezium writes them: `{"before": .., "after": .., "op": "c" | "r" | "u" | "d"}`, one a line, alone or as the
//! `payload` beside a `schema`.
//!
//! - [`decode`] lines to rows that come and go.
//! - [`encode`] rows that come and go to lines.

mod decode;
pub mod encode;

pub use decode::decoder;

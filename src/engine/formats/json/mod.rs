//! JSON lines: one record a line, a record being an object or an array of objects.
//!
//! - [`decode`] lines to columns; the hot path of every pipeline that reads text.
//! - [`parser`] walks one line: values, strings, numbers, what is skipped.
//! - [`scan`] finds the end of a string 16 bytes at a time.
//! - [`shape`] predicts field names.
//! - [`encode`] columns to lines; [`schema`] the JSON Schema of columns.

pub mod decode;
pub mod encode;
pub(super) mod parser;
pub(super) mod scan;
pub mod schema;
pub(super) mod shape;

#[cfg(test)]
mod oracle_tests;

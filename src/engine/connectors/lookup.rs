//! Lookup tables: systems outside that are asked for the rows of some keys, instead of being read from start to end.
//!
//! A connector that can do this answers [`Lookup::lookup`] on the I/O runtime; who asks (`operators/lookup_join`) keeps answers
//! for a while, asks again after errors that may pass, and gives up after `lookup_timeout`.
//!
//! Not guaranteed: that two answers about one key agree. An answer is what the system had when it was asked.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::clock::Clock;
use crate::engine::connectors::options::{OptionReader, duration_option, integer_option};
use crate::engine::connectors::{BadRowHandler, Direction, OptionDescription, Result};

const CACHE_ROWS_DEFAULT: usize = 100_000;
const CACHE_TTL_DEFAULT: Duration = Duration::from_secs(60);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// What a lookup is opened with.
#[derive(Clone)]
pub struct LookupContext {
    /// `public.customers`, for messages.
    pub table_name: String,
    /// The columns by which rows are asked for, in the order of the keys; among those of the table.
    pub key: SchemaRef,
    /// The columns to answer, in this order.
    pub columns: SchemaRef,
    pub clock: Arc<dyn Clock>,
    pub bad_rows: Arc<dyn BadRowHandler>,
}

/// A table that answers keys.
#[async_trait::async_trait]
pub trait Lookup: Send + Sync {
    /// The rows with these keys, of which no two are equal and none has a NULL. An error that may pass by itself says so
    /// (`Retry::Backoff`): the same keys are asked again.
    async fn lookup(&self, keys: &RecordBatch) -> Result<LookupAnswer>;
}

/// Zero or more rows a key.
#[derive(Clone, Debug)]
pub struct LookupAnswer {
    /// Columns as in [`LookupContext::columns`].
    pub rows: RecordBatch,
    /// For each row, the row of the question that has its key.
    pub keys: Vec<u32>,
}

/// The options of every lookup table, typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookupOptions {
    /// The connector itself holds all rows: answers are not kept besides.
    pub held: bool,
    /// Keys of which a subtask keeps the answer; 0 = none. Those without rows count, too.
    pub cache_rows: usize,
    /// How long an answer is good.
    pub cache_ttl: Duration,
    /// How long a question may go unanswered, with all its repetitions, before the job fails.
    pub timeout: Duration,
}

impl Default for LookupOptions {
    fn default() -> Self {
        LookupOptions {
            held: false,
            cache_rows: CACHE_ROWS_DEFAULT,
            cache_ttl: CACHE_TTL_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
        }
    }
}

impl LookupOptions {
    pub fn read(reader: &OptionReader<'_>) -> Result<LookupOptions> {
        let default = LookupOptions::default();
        let rows = reader.integer("lookup_cache_rows", 0)?;
        Ok(LookupOptions {
            held: false,
            cache_rows: rows
                .and_then(|rows| usize::try_from(rows).ok())
                .unwrap_or(default.cache_rows),
            cache_ttl: reader.duration("lookup_cache_ttl")?.unwrap_or(default.cache_ttl),
            timeout: reader.duration("lookup_timeout")?.unwrap_or(default.timeout),
        })
    }

    /// Those of a table whose connector holds all rows.
    pub fn held(reader: &OptionReader<'_>) -> Result<LookupOptions> {
        Ok(LookupOptions {
            held: true,
            cache_rows: 0,
            ..LookupOptions::read(reader)?
        })
    }
}

/// Descriptions of the options of every lookup table; one without a cache of answers has only `lookup_cache_ttl`.
pub fn lookup_descriptions(cached: bool) -> Vec<OptionDescription> {
    let mut options = vec![
        duration_option(
            "lookup_cache_ttl",
            &[],
            Some("1 minute"),
            "Lookup: how long what was read or answered is used before it is asked for again.",
        ),
        duration_option(
            "lookup_timeout",
            &[],
            Some("1 minute"),
            "Lookup: how long rows wait for an answer, repetitions included, before the job fails.",
        ),
    ];
    if cached {
        options.push(integer_option(
            "lookup_cache_rows",
            &[],
            Some("100000"),
            "Lookup: keys of which each subtask keeps the answer, also that there is none; 0 keeps nothing.",
        ));
    }
    for option in &mut options {
        option.direction = Direction::Lookup;
    }
    options
}

//! Takes the rows of an epoch and has them ready for the commit, see [`committable`](super::committable). Touches no network.
//!
//! Memory: the rows of an epoch as text, compressed.

use arrow::array::ArrayRef;
use bytes::Bytes;

use crate::engine::connectors::postgres::committable::{Head, Lines, VERSION, Writer};
use crate::engine::connectors::postgres::copy_text;
use crate::engine::connectors::{Prepared, Result, Sink, SinkContext};
use crate::engine::error::Error;
use crate::engine::graph::SinkChangelog;
use crate::engine::message::Chunk;
use crate::error::SqlState;
use crate::ids::Epoch;

pub struct PostgresSink {
    columns: Vec<String>,
    /// See [`SinkChangelog::Upsert`].
    key: Option<Vec<usize>>,
    writer: Writer,
}

impl PostgresSink {
    pub fn new(context: &SinkContext) -> PostgresSink {
        let columns: Vec<String> = context
            .schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        let key = match &context.changelog {
            SinkChangelog::Upsert { key } => Some(key.clone()),
            SinkChangelog::Append | SinkChangelog::Debezium { .. } => None,
        };
        let names = |key: &Vec<usize>| key.iter().map(|&at| columns[at].clone()).collect();
        PostgresSink {
            writer: Writer::new(Head {
                version: VERSION,
                key: key.as_ref().map(names),
                columns: columns.clone(),
            }),
            columns,
            key,
        }
    }

    /// A unique index of the server lets NULL in any number of times.
    fn refuse_null_keys(&self, chunk: &Chunk) -> Result<()> {
        for &at in self.key.iter().flatten() {
            if chunk.rows.column(at).null_count() > 0 {
                return Err(Error::Data {
                    code: SqlState::NOT_NULL_VIOLATION,
                    message: format!(
                        "null value in column \"{}\" of the primary key of a Postgres table",
                        self.columns[at]
                    ),
                    detail: None,
                });
            }
        }
        Ok(())
    }

    fn write_lines(&mut self, kind: Lines, columns: &[&ArrayRef], rows: usize) -> Result<()> {
        self.writer.begin(kind);
        for row in 0..rows {
            copy_text::write_row(columns, row, &mut self.writer.open)?;
            self.writer.line_ended();
        }
        Ok(())
    }
}

impl Sink for PostgresSink {
    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        self.refuse_null_keys(chunk)?;
        let rows = chunk.len();
        let columns: Vec<&ArrayRef> = chunk.rows.columns().iter().collect();
        // Chunks of a sink with a key are of one sign, those of others have no other.
        let goes = (0..rows).any(|row| chunk.weight(row) < 0);
        match (&self.key, goes) {
            (Some(key), true) => {
                let columns: Vec<&ArrayRef> = key.iter().map(|&at| columns[at]).collect();
                self.write_lines(Lines::Gone, &columns, rows)
            }
            (None, true) => Err(Error::Internal("a sink without a key was given rows that go".into())),
            (_, false) => {
                let weighted = (0..rows).any(|row| chunk.weight(row) != 1);
                if !weighted {
                    return self.write_lines(Lines::Rows, &columns, rows);
                }
                // Several equal rows at once.
                let times = (0..rows as u32).flat_map(|row| {
                    let times = usize::try_from(chunk.weight(row as usize)).unwrap_or(0);
                    std::iter::repeat_n(row, times)
                });
                let indices = arrow::array::UInt32Array::from_iter_values(times);
                let repeated = columns
                    .iter()
                    .map(|column| arrow::compute::take(column, &indices, None))
                    .collect::<std::result::Result<Vec<ArrayRef>, _>>()?;
                let columns: Vec<&ArrayRef> = repeated.iter().collect();
                self.write_lines(Lines::Rows, &columns, indices.values().len())
            }
        }
    }

    fn prepare(&mut self, _epoch: Epoch) -> Result<Prepared> {
        Ok(Prepared {
            committable: self.writer.take()?.map(Bytes::from),
            ..Prepared::default()
        })
    }

    fn bytes_written(&self) -> u64 {
        self.writer.bytes()
    }
}

/// For tests of the committer.
#[cfg(test)]
pub fn prepared(context: &SinkContext, chunks: &[Chunk]) -> Result<Option<Bytes>> {
    let mut sink: Box<dyn Sink> = Box::new(PostgresSink::new(context));
    for chunk in chunks {
        sink.write(chunk)?;
    }
    Ok(sink.prepare(Epoch(1))?.committable)
}

//! One line, one row with one column: its text (`raw_string`) or its bytes (`raw_bytes`).

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};

use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::added_rows::for_each_added;
use crate::engine::formats::columns::{BatchBuilder, Values};
use crate::engine::formats::{Decoder, Encoder, Input, Written};
use crate::engine::message::Chunk;

pub struct RawDecoder {
    batch: BatchBuilder,
    /// The column is text, so bytes must be UTF-8.
    text: bool,
    /// Input is one record, whatever is in it, instead of lines.
    whole: bool,
}

impl RawDecoder {
    pub fn new(schema: &SchemaRef) -> Result<RawDecoder, Error> {
        let text = only_column(schema)? != &DataType::Binary;
        Ok(RawDecoder {
            batch: BatchBuilder::new(schema)?,
            text,
            whole: false,
        })
    }

    /// Every input is one row.
    pub fn of_messages(schema: &SchemaRef) -> Result<RawDecoder, Error> {
        let lines = RawDecoder::new(schema)?;
        Ok(RawDecoder { whole: true, ..lines })
    }
}

/// The type of the only column, which a query may also leave out.
fn only_column(schema: &SchemaRef) -> Result<&DataType, Error> {
    match schema.fields().as_ref() {
        [] => Ok(&DataType::Utf8),
        [field] if matches!(field.data_type(), DataType::Utf8 | DataType::Binary) => Ok(field.data_type()),
        _ => Err(Error::NotSupported {
            what: "a raw format with other than one column of type TEXT or BYTEA".into(),
            hint: Some("Declare one column, such as \"value TEXT\".".into()),
        }),
    }
}

impl Decoder for RawDecoder {
    fn decode(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        if self.whole {
            self.record(input.bytes, input.offset, input.place, bad_rows)?;
            return Ok(input.bytes.len());
        }
        let mut at = 0;
        while self.batch.rows < rows_max && at < input.bytes.len() {
            let rest = &input.bytes[at..];
            let (line, length) = match memchr::memchr(b'\n', rest) {
                Some(end) => (&rest[..end], end + 1),
                None if input.at_end => (rest, rest.len()),
                None => break,
            };
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.record(line, input.offset + at as u64, input.place, bad_rows)?;
            at += length;
        }
        Ok(at)
    }

    fn rows(&self) -> usize {
        self.batch.rows()
    }

    fn take(&mut self) -> Result<RecordBatch, Error> {
        self.batch.take()
    }
}

impl RawDecoder {
    fn record(&mut self, raw: &[u8], offset: u64, place: &str, bad_rows: &dyn BadRowHandler) -> Result<(), Error> {
        if self.text && std::str::from_utf8(raw).is_err() {
            return bad_rows.bad_row(BadRow {
                place,
                offset,
                raw,
                reason: "invalid byte sequence for encoding \"UTF8\"",
            });
        }
        self.push(raw);
        Ok(())
    }

    fn push(&mut self, line: &[u8]) {
        if let Some(column) = self.batch.root.fields.first_mut()
            && let Values::Text(pieces) | Values::Json(pieces) | Values::Binary(pieces) = &mut column.values
        {
            pieces.push(line);
            column.wrote();
        }
        self.batch.rows += 1;
    }
}

pub struct RawEncoder {
    text: bool,
}

impl RawEncoder {
    pub fn new(schema: &SchemaRef) -> Result<RawEncoder, Error> {
        Ok(RawEncoder {
            text: only_column(schema)? != &DataType::Binary,
        })
    }
}

impl Encoder for RawEncoder {
    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let column = chunk.rows.column(0);
        for_each_added(chunk, |row| {
            if column.is_valid(row) {
                out.extend_from_slice(if self.text {
                    column.as_string::<i32>().value(row).as_bytes()
                } else {
                    column.as_binary::<i32>().value(row)
                });
            }
            out.push(b'\n');
            written(row, out);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::datatypes::{Field, Schema};

    use super::*;
    use crate::engine::connectors::testing::KeptBadRows;
    use crate::engine::message::Weights;

    #[test]
    fn lines_come_back_as_written() {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("value", DataType::Utf8, false)]));
        let mut decoder = RawDecoder::new(&schema).unwrap();
        let bad = KeptBadRows::default();
        let input = Input {
            bytes: b"a\r\n\nb\xff\nlast",
            offset: 10,
            place: "f",
            at_end: true,
        };
        assert_eq!(decoder.decode(input, 10, &bad).unwrap(), input.bytes.len());
        let rows = decoder.take().unwrap();
        assert_eq!(bad.offsets(), [14]);
        let mut out = Vec::new();
        let mut encoder = RawEncoder::new(&schema).unwrap();
        let mut chunk = Chunk::insert(rows);
        encoder.encode(&chunk, &mut out).unwrap();
        assert_eq!(out, b"a\n\nlast\n");
        // A row that counts twice is two lines.
        out.clear();
        chunk.weights = Weights::Signed(vec![2, 0, 1].into());
        encoder.encode(&chunk, &mut out).unwrap();
        assert_eq!(out, b"a\na\nlast\n");
    }
}

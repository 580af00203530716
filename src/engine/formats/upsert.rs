//! Upserts as records: each a whole row that replaces the one of its key; a field that is true marks a row that goes. The form
//! in which changes travel when only the last word on a key is of interest, for any format whose records have named fields.
//!
//! The marker is not a column of the table; a record without it is a row that comes. Guarantee: what the encoder wrote,
//! the decoder reads back.
//!
//! A row that goes is a record like others: what is NOT NULL must be there.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::engine::connectors::{BadRowHandler, keyed_schema};
use crate::engine::error::Error;
use crate::engine::formats::{Decoder, Encoder, Input, Written};
use crate::engine::message::{Chunk, Weights};
use crate::error::{ErrorReport, SqlState};
use crate::types::record_batch::batch_of_rows;

/// The columns of the records: those of the rows, and the marker.
pub fn record_schema(rows: &SchemaRef, marker: &str) -> Result<SchemaRef, Error> {
    if rows.field_with_name(marker).is_ok() {
        return Err(Error::Option(
            ErrorReport::new(
                SqlState::DUPLICATE_COLUMN,
                format!("column \"{marker}\" has the name of the field that marks rows that go"),
            )
            .with_hint("Name another field: upsert.delete_field = '..'."),
        ));
    }
    let mut fields: Vec<Arc<Field>> = rows.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(marker, DataType::Boolean, true)));
    Ok(Arc::new(Schema::new(fields)))
}

/// Takes the marker off.
pub struct UpsertDecoder {
    /// Of [`record_schema`].
    records: Box<dyn Decoder>,
    rows: SchemaRef,
}

impl UpsertDecoder {
    pub fn new(records: Box<dyn Decoder>, rows: &SchemaRef, key: Option<&[usize]>) -> UpsertDecoder {
        UpsertDecoder {
            records,
            rows: keyed_schema(rows, key),
        }
    }
}

impl Decoder for UpsertDecoder {
    fn decode(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        self.records.decode(input, rows_max, bad_rows)
    }

    fn rows(&self) -> usize {
        self.records.rows()
    }

    fn take(&mut self) -> Result<RecordBatch, Error> {
        Ok(self.take_changes()?.0)
    }

    fn take_changes(&mut self) -> Result<(RecordBatch, Weights), Error> {
        let records = self.records.take()?;
        let mut columns = records.columns().to_vec();
        let marker = columns.pop();
        let marker = marker
            .as_ref()
            .and_then(|marker| marker.as_boolean_opt())
            .ok_or_else(|| Error::Internal("upserts without a marker".into()))?;
        let goes = |row: usize| marker.is_valid(row) && marker.value(row);
        let weights = match (0..records.num_rows()).any(goes) {
            false => Weights::AllInsert,
            true => Weights::Signed(
                (0..records.num_rows())
                    .map(|row| if goes(row) { -1 } else { 1 })
                    .collect(),
            ),
        };
        let rows = batch_of_rows(Arc::clone(&self.rows), columns, records.num_rows())?;
        Ok((rows, weights))
    }
}

/// Puts the marker on.
pub struct UpsertEncoder {
    records: Box<dyn Encoder>,
    schema: SchemaRef,
}

impl UpsertEncoder {
    /// `records` writes rows of `schema`, which is a [`record_schema`].
    pub fn new(records: Box<dyn Encoder>, schema: SchemaRef) -> UpsertEncoder {
        UpsertEncoder { records, schema }
    }
}

impl Encoder for UpsertEncoder {
    fn header(&self, out: &mut Vec<u8>) {
        self.records.header(out);
    }

    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let goes: BooleanArray = (0..chunk.len()).map(|row| Some(chunk.weight(row) < 0)).collect();
        let mut columns = chunk.rows.columns().to_vec();
        columns.push(Arc::new(goes) as ArrayRef);
        let records = RecordBatch::try_new(Arc::clone(&self.schema), columns)?;
        self.records.encode_each(&Chunk::insert(records), out, written)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::Int64Array;

    use super::*;
    use crate::engine::connectors::testing::KeptBadRows;
    use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
    use crate::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};

    fn numbers() -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)]))
    }

    fn decoded(text: &str) -> (Vec<i64>, Weights) {
        let schema = record_schema(&numbers(), "gone").unwrap();
        let records = JsonDecoder::new(&schema, JsonDecodeOptions::default()).unwrap();
        let mut decoder = UpsertDecoder::new(Box::new(records), &numbers(), Some(&[0]));
        let input = Input {
            bytes: text.as_bytes(),
            offset: 0,
            place: "test",
            at_end: true,
        };
        decoder.decode(input, 100, &KeptBadRows::default()).unwrap();
        let (rows, weights) = decoder.take_changes().unwrap();
        let numbers = rows.column(0).as_primitive::<arrow::datatypes::Int64Type>();
        (numbers.values().to_vec(), weights)
    }

    #[test]
    fn the_marker_is_a_sign() {
        let text = "{\"n\":1}\n{\"n\":1,\"gone\":true}\n{\"n\":2,\"gone\":\"false\"}\n{\"gone\":null,\"n\":3}\n";
        assert_eq!(
            decoded(text),
            (vec![1, 1, 2, 3], Weights::Signed(vec![1, -1, 1, 1].into()))
        );
        assert_eq!(decoded("{\"n\":5}"), (vec![5], Weights::AllInsert));
    }

    #[test]
    fn what_is_written_is_read() {
        let schema = record_schema(&numbers(), "gone").unwrap();
        let records = Box::new(JsonEncoder::new(&schema, JsonEncodeOptions::default()));
        let mut chunk =
            Chunk::insert(RecordBatch::try_new(numbers(), vec![Arc::new(Int64Array::from(vec![1, 2]))]).unwrap());
        chunk.weights = Weights::Signed(vec![-1, 1].into());
        let mut out = Vec::new();
        UpsertEncoder::new(records, schema).encode(&chunk, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "{\"n\":1,\"gone\":true}\n{\"n\":2,\"gone\":false}\n");
        assert_eq!(decoded(&text), (vec![1, 2], chunk.weights));
    }

    #[test]
    fn a_column_cannot_have_the_name_of_the_marker() {
        assert!(record_schema(&numbers(), "n").is_err());
    }
}

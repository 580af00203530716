//! Rows as Postgres sends them: one prepared writer a column, then rows without a look at types.
//!
//!     RowEncoder     once a result: column types, formats, session style
//!     BatchEncoder   once a batch: a writer for each column, bound to its array
//!     data_row       once a row: length and value of each column, appended to the connection's buffer
//!
//! The layouts are Postgres's own (`src/backend/utils/adt` of version 16); expected bytes in the tests are from a real
//! server. `text` and `binary` write the two formats, `json` what has no type of its own in Postgres (STRUCT, MAP).
//!
//! Guarantee: lengths are checked, never cut; a row that cannot be encoded leaves the buffer as it was.

mod binary;
pub mod datetime;
mod json;
mod number;
mod text;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, SchemaRef};
use bytes::{BufMut, BytesMut};

pub use self::datetime::Zone;
use super::error::Error;
use crate::types::SqlType;

type Result<T, E = Error> = std::result::Result<T, E>;

/// How a value is sent, as the client asked at Bind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Binary,
}

/// What a session's settings change in the text of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputStyle {
    pub time_zone: Zone,
    pub bytea: ByteaOutput,
}

/// `bytea_output`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ByteaOutput {
    #[default]
    Hex,
    Escape,
}

/// Writes the values of one array.
pub(super) trait ValueWriter: Send {
    fn is_null(&self, row: usize) -> bool;
    /// The value alone, without its length. Only called on rows that are not null.
    fn write(&self, row: usize, out: &mut BytesMut) -> Result<()>;
}

pub(super) type Writer = Box<dyn ValueWriter>;

/// Encodes the batches of one result.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    schema: SchemaRef,
    formats: Vec<Format>,
    style: OutputStyle,
}

impl RowEncoder {
    /// `formats` has one entry a column.
    pub fn new(schema: SchemaRef, formats: Vec<Format>, style: OutputStyle) -> RowEncoder {
        debug_assert_eq!(schema.fields().len(), formats.len(), "one format a column");
        RowEncoder { schema, formats, style }
    }

    /// All columns as text, as the simple protocol sends them.
    pub fn text(schema: SchemaRef, style: OutputStyle) -> RowEncoder {
        let formats = vec![Format::Text; schema.fields().len()];
        RowEncoder::new(schema, formats, style)
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Binds writers to a batch, which must have the columns that the result was announced with.
    pub fn open(&self, batch: &RecordBatch) -> Result<BatchEncoder> {
        if batch.num_columns() != self.schema.fields().len() {
            return Err(Error::internal(format!(
                "a result of {} columns got a batch of {}",
                self.schema.fields().len(),
                batch.num_columns()
            )));
        }
        let mut writers = Vec::with_capacity(batch.num_columns());
        for ((array, field), format) in batch.columns().iter().zip(self.schema.fields()).zip(&self.formats) {
            writers.push(value_writer(array, field, *format, &self.style)?);
        }
        let field_count = i16::try_from(writers.len()).map_err(|_| Error::TooManyColumns { columns: writers.len() })?;
        Ok(BatchEncoder {
            writers,
            field_count,
            rows: batch.num_rows(),
        })
    }
}

/// The rows of one batch.
pub struct BatchEncoder {
    writers: Vec<Writer>,
    field_count: i16,
    rows: usize,
}

impl BatchEncoder {
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// Appends a whole DataRow message.
    pub fn data_row(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        let start = out.len();
        out.put_u8(b'D');
        out.put_i32(0);
        let result = self.tuple(row, out).and_then(|()| patch_length(out, start + 1, 0));
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    /// Appends field count, then length and value of each column: the body of a DataRow and a tuple of binary COPY.
    pub fn tuple(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        out.put_i16(self.field_count);
        for writer in &self.writers {
            if writer.is_null(row) {
                out.put_i32(-1);
            } else {
                length_prefixed(out, |out| writer.write(row, out))?;
            }
        }
        Ok(())
    }

    /// The writers, for formats with other separators between values.
    pub(super) fn writers(&self) -> &[Writer] {
        &self.writers
    }
}

/// A length word, then what `write` appends.
pub(super) fn length_prefixed(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.put_i32(0);
    write(out)?;
    patch_length(out, at, 4)
}

/// A length word that counts itself, as messages have it, then what `write` appends.
pub(super) fn length_prefixed_self(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut) -> Result<()>) -> Result<()> {
    let at = out.len();
    out.put_i32(0);
    write(out)?;
    patch_length(out, at, 0)
}

/// Fills the length word at `at` with the bytes from there to the end, less `excluded`.
fn patch_length(out: &mut BytesMut, at: usize, excluded: usize) -> Result<()> {
    let length = out.len() - at - excluded;
    let word = i32::try_from(length).map_err(|_| Error::ValueTooLong { bytes: length })?;
    out[at..at + 4].copy_from_slice(&word.to_be_bytes());
    Ok(())
}

/// The writer of one array. `field` tells the logical type, the array its own layout.
pub(super) fn value_writer(array: &ArrayRef, field: &Field, format: Format, style: &OutputStyle) -> Result<Writer> {
    let array = plain(array)?;
    match format {
        Format::Text => text::writer(&array, field, style),
        Format::Binary => binary::writer(&array, field, style),
    }
}

/// Dictionaries, run ends and list views as the plain layout of their values.
fn plain(array: &ArrayRef) -> Result<ArrayRef> {
    let target = match array.data_type() {
        DataType::Dictionary(_, values) => values.as_ref().clone(),
        DataType::RunEndEncoded(_, values) => values.data_type().clone(),
        DataType::ListView(element) => DataType::List(Arc::clone(element)),
        DataType::LargeListView(element) => DataType::LargeList(Arc::clone(element)),
        _ => return Ok(Arc::clone(array)),
    };
    cast(array, &target).map_err(|error| Error::internal(format!("could not unpack a {}: {error}", array.data_type())))
}

/// The SQL type of a result column.
pub fn column_type(field: &Field) -> Result<SqlType> {
    SqlType::from_arrow_field(field).ok_or_else(|| Error::unsupported_column(field))
}

/// For arrays of Arrow's type Null.
struct AllNull;

impl ValueWriter for AllNull {
    fn is_null(&self, _row: usize) -> bool {
        true
    }

    fn write(&self, _row: usize, _out: &mut BytesMut) -> Result<()> {
        Ok(())
    }
}

/// A typed array and what to do with one of its rows.
struct ArrayWriter<A, F> {
    array: A,
    write: F,
}

impl<A: Array + 'static, F: Fn(&A, usize, &mut BytesMut) -> Result<()> + Send> ValueWriter for ArrayWriter<A, F> {
    fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    fn write(&self, row: usize, out: &mut BytesMut) -> Result<()> {
        (self.write)(&self.array, row, out)
    }
}

fn array_writer<A: Array + 'static>(
    array: A,
    write: impl Fn(&A, usize, &mut BytesMut) -> Result<()> + Send + 'static,
) -> Writer {
    Box::new(ArrayWriter { array, write })
}

#[cfg(test)]
mod tests;

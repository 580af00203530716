//! COPY .. TO STDOUT: rows as text, CSV or binary, as `COPY` of Postgres writes them.
//!
//! Guarantee: what is written here, Postgres's COPY FROM with the same options reads back to the same values.

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use bytes::{BufMut, BytesMut};

use super::encode::{BatchEncoder, Format, OutputStyle, RowEncoder};
use super::error::Error;
use crate::error::SqlState;
use crate::frontend::sql::statement::{CopyFormat, CopyKind, ForceQuote};

/// The options of a COPY statement, ready for writing: single bytes, one force-quote flag a column.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    Text { delimiter: u8, null: String, header: bool },
    Csv(CsvLayout),
    Binary,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct CsvLayout {
    delimiter: u8,
    null: String,
    header: bool,
    quote: u8,
    escape: u8,
    force_quote: Vec<bool>,
}

impl Layout {
    fn new(format: &CopyFormat, schema: &Schema) -> Result<Layout, Error> {
        Ok(match format.kind {
            CopyKind::Binary => Layout::Binary,
            CopyKind::Text => Layout::Text {
                delimiter: single_byte("delimiter", format.delimiter)?,
                null: format.null.clone(),
                header: format.header,
            },
            CopyKind::Csv => Layout::Csv(CsvLayout {
                delimiter: single_byte("delimiter", format.delimiter)?,
                null: format.null.clone(),
                header: format.header,
                quote: single_byte("quote", format.quote)?,
                escape: single_byte("escape", format.escape)?,
                force_quote: force_quote(&format.force_quote, schema)?,
            }),
        })
    }
}

fn single_byte(option: &str, character: char) -> Result<u8, Error> {
    if character.is_ascii() {
        return u8::try_from(character).map_err(|error| Error::internal(error.to_string()));
    }
    Err(Error::BadValue {
        code: SqlState::FEATURE_NOT_SUPPORTED,
        message: format!("COPY {option} must be a single one-byte character"),
    })
}

fn force_quote(wanted: &ForceQuote, schema: &Schema) -> Result<Vec<bool>, Error> {
    let columns = schema.fields();
    match wanted {
        ForceQuote::None => Ok(Vec::new()),
        ForceQuote::All => Ok(vec![true; columns.len()]),
        ForceQuote::Columns(names) => {
            if let Some(unknown) = names.iter().find(|name| schema.index_of(name).is_err()) {
                return Err(Error::BadValue {
                    code: SqlState::UNDEFINED_COLUMN,
                    message: format!("column \"{unknown}\" of FORCE_QUOTE does not exist"),
                });
            }
            Ok(columns.iter().map(|field| names.contains(field.name())).collect())
        }
    }
}

const BINARY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// Writes the payloads of CopyData messages: one header, one payload a row, one trailer.
pub struct CopyEncoder {
    layout: Layout,
    rows: RowEncoder,
}

impl CopyEncoder {
    pub fn new(format: &CopyFormat, schema: SchemaRef, style: OutputStyle) -> Result<CopyEncoder, Error> {
        let layout = Layout::new(format, &schema)?;
        let value_format = match layout {
            Layout::Binary => Format::Binary,
            Layout::Text { .. } | Layout::Csv(_) => Format::Text,
        };
        let formats = vec![value_format; schema.fields().len()];
        Ok(CopyEncoder {
            layout,
            rows: RowEncoder::new(schema, formats, style),
        })
    }

    /// 0 for textual formats, 1 for binary, as CopyOutResponse says it.
    pub fn format_code(&self) -> i8 {
        i8::from(self.layout == Layout::Binary)
    }

    pub fn schema(&self) -> &SchemaRef {
        self.rows.schema()
    }

    /// What comes before the first row; empty when there is nothing.
    pub fn header(&self, out: &mut BytesMut) {
        let names = || self.rows.schema().fields().iter().map(|field| field.name().as_bytes());
        match &self.layout {
            Layout::Binary => {
                out.put_slice(BINARY_SIGNATURE);
                out.put_i32(0);
                out.put_i32(0);
            }
            Layout::Text { delimiter, header, .. } if *header => {
                for (at, name) in names().enumerate() {
                    if at > 0 {
                        out.put_u8(*delimiter);
                    }
                    text_value(name, *delimiter, out);
                }
                out.put_u8(b'\n');
            }
            Layout::Csv(options) if options.header => {
                for (at, name) in names().enumerate() {
                    if at > 0 {
                        out.put_u8(options.delimiter);
                    }
                    csv_value(name, options, false, out);
                }
                out.put_u8(b'\n');
            }
            Layout::Text { .. } | Layout::Csv(_) => {}
        }
    }

    pub fn open(&self, batch: &RecordBatch) -> Result<BatchEncoder, Error> {
        self.rows.open(batch)
    }

    /// One row, with its line end.
    pub fn row(&self, batch: &BatchEncoder, row: usize, out: &mut BytesMut) -> Result<(), Error> {
        match &self.layout {
            Layout::Binary => batch.tuple(row, out),
            Layout::Text { delimiter, null, .. } => {
                let separated = separated(batch, row, *delimiter, null, out, |_, value, out| {
                    text_value(value, *delimiter, out);
                });
                out.put_u8(b'\n');
                separated
            }
            Layout::Csv(options) => {
                let single = batch.writers().len() == 1;
                let separated = separated(
                    batch,
                    row,
                    options.delimiter,
                    &options.null,
                    out,
                    |column, value, out| {
                        let forced = options.force_quote.get(column).copied().unwrap_or(false);
                        // A lone `\.` would end the data.
                        csv_value(value, options, forced || (single && value == b"\\."), out);
                    },
                );
                out.put_u8(b'\n');
                separated
            }
        }
    }

    /// What comes after the last row.
    pub fn trailer(&self, out: &mut BytesMut) {
        if self.layout == Layout::Binary {
            out.put_i16(-1);
        }
    }
}

fn separated(
    batch: &BatchEncoder,
    row: usize,
    delimiter: u8,
    null: &str,
    out: &mut BytesMut,
    put: impl Fn(usize, &[u8], &mut BytesMut),
) -> Result<(), Error> {
    for (column, writer) in batch.writers().iter().enumerate() {
        if column > 0 {
            out.put_u8(delimiter);
        }
        if writer.is_null(row) {
            out.put_slice(null.as_bytes());
        } else {
            let start = out.len();
            writer.write(row, out)?;
            let value = out.split_off(start);
            put(column, &value, out);
        }
    }
    Ok(())
}

fn text_value(value: &[u8], delimiter: u8, out: &mut BytesMut) {
    for byte in value {
        let escaped = match byte {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x0b => b'v',
            b'\\' => b'\\',
            other if *other == delimiter => delimiter,
            other => {
                out.put_u8(*other);
                continue;
            }
        };
        out.put_u8(b'\\');
        out.put_u8(escaped);
    }
}

fn csv_value(value: &[u8], options: &CsvLayout, forced: bool, out: &mut BytesMut) {
    let special = |byte: &u8| *byte == options.delimiter || *byte == options.quote || matches!(byte, b'\n' | b'\r');
    if !forced && value != options.null.as_bytes() && !value.iter().any(special) {
        out.put_slice(value);
        return;
    }
    out.put_u8(options.quote);
    for byte in value {
        if *byte == options.quote || *byte == options.escape {
            out.put_u8(options.escape);
        }
        out.put_u8(*byte);
    }
    out.put_u8(options.quote);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn copy(format: &CopyFormat, values: &[Option<&str>]) -> Vec<u8> {
        let mut fields = vec![Field::new("a", DataType::Int32, true)];
        let mut columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(Int32Array::from(vec![1]))];
        for (at, value) in values.iter().enumerate() {
            fields.push(Field::new(format!("c{at}"), DataType::Utf8, true));
            columns.push(Arc::new(StringArray::from(vec![*value])));
        }
        let schema = Arc::new(Schema::new(fields));
        let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
        let encoder = CopyEncoder::new(format, schema, OutputStyle::default()).unwrap();
        let mut out = BytesMut::new();
        encoder.header(&mut out);
        let rows = encoder.open(&batch).unwrap();
        encoder.row(&rows, 0, &mut out).unwrap();
        encoder.trailer(&mut out);
        out.to_vec()
    }

    /// Expected bytes from PostgreSQL 15.
    #[test]
    fn text_escapes_like_postgres() {
        let out = copy(
            &CopyFormat::new(CopyKind::Text),
            &[None, Some("a\tb\nc\\d\r\u{8}\u{c}\u{b}"), Some("")],
        );
        assert_eq!(out, b"1\t\\N\ta\\tb\\nc\\\\d\\r\\b\\f\\v\t\n");
    }

    #[test]
    fn csv_quotes_like_postgres() {
        let options = CopyFormat {
            header: true,
            ..CopyFormat::new(CopyKind::Csv)
        };
        let values = [None, Some("a,b\"c"), Some(""), Some("x\ny"), Some("\\."), Some(" sp ")];
        let out = copy(&options, &values);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a,c0,c1,c2,c3,c4,c5\n1,,\"a,b\"\"c\",\"\",\"x\ny\",\\., sp \n"
        );
        let options = CopyFormat {
            delimiter: ';',
            null: "NULL".into(),
            quote: '\'',
            escape: '\'',
            force_quote: ForceQuote::All,
            ..CopyFormat::new(CopyKind::Csv)
        };
        let out = copy(&options, &[None, Some("NULL")]);
        assert_eq!(String::from_utf8(out).unwrap(), "'1';NULL;'NULL'\n");
    }

    #[test]
    fn binary_has_signature_and_trailer() {
        let out = copy(&CopyFormat::new(CopyKind::Binary), &[Some("ab"), None]);
        let expected =
            b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\x03\0\0\0\x04\0\0\0\x01\0\0\0\x02ab\xff\xff\xff\xff\xff\xff";
        assert_eq!(out, expected);
    }
}

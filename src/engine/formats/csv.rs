//! Comma-separated values (RFC 4180 and its relatives): fields by position, or by name when the file has a header.
//!
//! Fields may be quoted and then hold delimiters, line breaks and doubled quotes. An unquoted field that equals
//! `null_string` (by default: nothing) is NULL. A row with more or fewer fields than expected is a bad row.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use arrow::util::display::ArrayFormatter;

use crate::engine::connectors::options::{OptionReader, wrong_value};
use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::added_rows::for_each_added;
use crate::engine::formats::columns::{BatchBuilder, value_message};
use crate::engine::formats::json::encode::{write_hex_digits, write_timestamp_text};
use crate::engine::formats::{Decoder, Encoder, Input, Written};
use crate::engine::message::Chunk;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    pub delimiter: u8,
    pub quote: u8,
    /// Stands before a quote inside a quoted field; equal to `quote`: quotes are doubled.
    pub escape: u8,
    pub header: bool,
    pub null_string: String,
}

impl Default for CsvOptions {
    fn default() -> Self {
        CsvOptions {
            delimiter: b',',
            quote: b'"',
            escape: b'"',
            header: true,
            null_string: String::new(),
        }
    }
}

impl CsvOptions {
    pub fn read(options: &OptionReader<'_>) -> Result<CsvOptions, Error> {
        let character = |name: &'static str| -> Result<Option<u8>, Error> {
            let Some(text) = options.text(name) else {
                return Ok(None);
            };
            match text.as_bytes() {
                b"\\t" => Ok(Some(b'\t')),
                [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(Some(*byte)),
                _ => Err(wrong_value(name, text, "It is one ASCII character, or \\t.")),
            }
        };
        let quote = character("csv.quote")?.unwrap_or(b'"');
        Ok(CsvOptions {
            delimiter: character("csv.delimiter")?.unwrap_or(b','),
            quote,
            escape: character("csv.escape")?.unwrap_or(quote),
            header: options.flag("csv.header")?.unwrap_or(true),
            null_string: options.text("csv.null_string").unwrap_or("").to_owned(),
        })
    }
}

/// Cuts records into fields.
#[derive(Debug, Default)]
pub struct CsvRecord {
    data: Vec<u8>,
    /// End of each field in `data`, and whether it was quoted.
    ends: Vec<(usize, bool)>,
}

impl CsvRecord {
    /// The record at the front of `bytes`: its length with the line break, or `None` when it is not complete.
    pub fn read(&mut self, bytes: &[u8], at_end: bool, options: &CsvOptions) -> Option<usize> {
        self.data.clear();
        self.ends.clear();
        let mut at = 0;
        loop {
            let quoted = bytes.get(at) == Some(&options.quote);
            if quoted {
                at = self.quoted(bytes, at + 1, at_end, options)?;
            }
            let rest = &bytes[at..];
            let length = match memchr::memchr2(options.delimiter, b'\n', rest) {
                Some(length) => length,
                None if at_end => rest.len(),
                None => return None,
            };
            let delimited = rest.get(length) == Some(&options.delimiter);
            let text = &rest[..length];
            let text = if delimited {
                text
            } else {
                text.strip_suffix(b"\r").unwrap_or(text)
            };
            self.data.extend_from_slice(text);
            self.ends.push((self.data.len(), quoted));
            at += length;
            if !delimited {
                return Some((at + 1).min(bytes.len()));
            }
            at += 1;
        }
    }

    /// The inside of a quoted field; gives the position after its closing quote.
    fn quoted(&mut self, bytes: &[u8], start: usize, at_end: bool, options: &CsvOptions) -> Option<usize> {
        let mut at = start;
        loop {
            let Some(length) = memchr::memchr2(options.quote, options.escape, &bytes[at..]) else {
                if at_end {
                    self.data.extend_from_slice(&bytes[at..]);
                    return Some(bytes.len());
                }
                return None;
            };
            self.data.extend_from_slice(&bytes[at..at + length]);
            at += length;
            let next = bytes.get(at + 1);
            if next.is_none() && !at_end {
                return None;
            }
            let escapes =
                bytes[at] == options.escape && next.is_some_and(|n| *n == options.quote || *n == options.escape);
            if escapes {
                self.data.push(bytes[at + 1]);
                at += 2;
            } else if bytes[at] == options.quote {
                return Some(at + 1);
            } else {
                self.data.push(bytes[at]);
                at += 1;
            }
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A field's text and whether it was quoted.
    pub fn field(&self, index: usize) -> (&[u8], bool) {
        let start = if index == 0 { 0 } else { self.ends[index - 1].0 };
        let (end, quoted) = self.ends[index];
        (&self.data[start..end], quoted)
    }

    pub fn texts(&self) -> Vec<String> {
        (0..self.len())
            .map(|index| String::from_utf8_lossy(self.field(index).0).into_owned())
            .collect()
    }
}

pub struct CsvDecoder {
    batch: BatchBuilder,
    options: CsvOptions,
    record: CsvRecord,
    /// For each field of the file the column that wants it; `None` until the header was read.
    columns: Option<Vec<Option<usize>>>,
    schema: SchemaRef,
}

impl CsvDecoder {
    /// `names` are the file's columns in order: from its header, which is then not read again, or, for a file without
    /// one, those of the whole table, of which `schema` may want a part. `None`: the header comes first in the input, or
    /// the columns are exactly those of `schema`.
    pub fn new(schema: &SchemaRef, options: CsvOptions, names: Option<&[String]>) -> Result<CsvDecoder, Error> {
        let mut decoder = CsvDecoder {
            batch: BatchBuilder::new(schema)?,
            record: CsvRecord::default(),
            columns: None,
            schema: Arc::clone(schema),
            options,
        };
        match names {
            Some(names) => decoder.set_names(names),
            None if !decoder.options.header => decoder.columns = Some((0..schema.fields().len()).map(Some).collect()),
            None => {}
        }
        Ok(decoder)
    }

    fn set_names(&mut self, names: &[String]) {
        let fields = self.schema.fields();
        let find = |name: &String| {
            let name = name.trim_start_matches('\u{feff}').trim();
            let exact = fields.iter().position(|field| field.name() == name);
            exact.or_else(|| fields.iter().position(|field| field.name().eq_ignore_ascii_case(name)))
        };
        self.columns = Some(names.iter().map(find).collect());
    }

    /// Writes the fields of the record just read as a row.
    fn push_record(&mut self) -> Result<(), String> {
        let columns = self.columns.as_deref().unwrap_or_default();
        if self.record.len() != columns.len() {
            return Err(format!(
                "{} fields where {} are expected",
                self.record.len(),
                columns.len()
            ));
        }
        let row = self.batch.rows;
        for (index, column) in columns.iter().enumerate() {
            let Some(column) = column else { continue };
            let (text, quoted) = self.record.field(index);
            let builder = &mut self.batch.root.fields[*column];
            if !quoted && text == self.options.null_string.as_bytes() {
                continue;
            }
            if std::str::from_utf8(text).is_err() {
                return Err("invalid byte sequence for encoding \"UTF8\"".into());
            }
            builder.push_text(row, text).map_err(|fault| {
                let field = &builder.field;
                format!("column \"{}\": {}", field.name(), value_message(field, fault, text))
            })?;
        }
        for required in &self.batch.root.required {
            let column = &self.batch.root.fields[*required];
            if column.rows <= row {
                return Err(format!(
                    "column \"{}\": null value in a column that is NOT NULL",
                    column.field.name()
                ));
            }
        }
        self.batch.rows += 1;
        Ok(())
    }
}

impl Decoder for CsvDecoder {
    fn decode(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        let mut at = 0;
        while self.batch.rows < rows_max && at < input.bytes.len() {
            let rest = &input.bytes[at..];
            let Some(length) = self.record.read(rest, input.at_end, &self.options) else {
                break;
            };
            if self.columns.is_none() {
                let names = self.record.texts();
                self.set_names(&names);
            } else if !rest[..length].iter().all(|byte| matches!(byte, b'\n' | b'\r'))
                && let Err(reason) = self.push_record()
            {
                self.batch.roll_back();
                bad_rows.bad_row(BadRow {
                    place: input.place,
                    offset: input.offset + at as u64,
                    raw: rest[..length].trim_ascii_end(),
                    reason: &reason,
                })?;
            }
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

pub struct CsvEncoder {
    schema: SchemaRef,
    options: CsvOptions,
}

impl CsvEncoder {
    pub fn new(schema: &SchemaRef, options: CsvOptions) -> CsvEncoder {
        CsvEncoder {
            schema: Arc::clone(schema),
            options,
        }
    }

    fn write_field(&self, text: &[u8], out: &mut Vec<u8>) {
        let options = &self.options;
        let special =
            |byte: &u8| matches!(*byte, b'\n' | b'\r') || *byte == options.delimiter || *byte == options.quote;
        if text != options.null_string.as_bytes() && !text.iter().any(special) {
            out.extend_from_slice(text);
            return;
        }
        out.push(options.quote);
        for byte in text {
            if *byte == options.quote || (*byte == options.escape) {
                out.push(options.escape);
            }
            out.push(*byte);
        }
        out.push(options.quote);
    }
}

impl Encoder for CsvEncoder {
    fn header(&self, out: &mut Vec<u8>) {
        if !self.options.header {
            return;
        }
        for (index, field) in self.schema.fields().iter().enumerate() {
            if index > 0 {
                out.push(self.options.delimiter);
            }
            self.write_field(field.name().as_bytes(), out);
        }
        out.push(b'\n');
    }

    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let columns = chunk.rows.columns();
        let cells = columns.iter().map(CsvCells::new).collect::<Result<Vec<_>, _>>()?;
        let mut text = Vec::new();
        for_each_added(chunk, |row| {
            for (index, cells) in cells.iter().enumerate() {
                if index > 0 {
                    out.push(self.options.delimiter);
                }
                if columns[index].is_null(row) {
                    out.extend_from_slice(self.options.null_string.as_bytes());
                    continue;
                }
                text.clear();
                cells.write(row, &mut text);
                self.write_field(&text, out);
            }
            out.push(b'\n');
            written(row, out);
            Ok(())
        })
    }
}

/// A column's values as text.
enum CsvCells<'a> {
    Timestamp(&'a [i64], bool),
    Binary(&'a arrow::array::BinaryArray),
    Other(ArrayFormatter<'a>),
}

impl<'a> CsvCells<'a> {
    fn new(column: &'a arrow::array::ArrayRef) -> Result<CsvCells<'a>, Error> {
        use arrow::array::AsArray;
        use arrow::datatypes::TimestampMicrosecondType;
        static FORMAT: arrow::util::display::FormatOptions<'static> = arrow::util::display::FormatOptions::new();
        Ok(match column.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, zone) => CsvCells::Timestamp(
                column.as_primitive::<TimestampMicrosecondType>().values(),
                zone.is_some(),
            ),
            DataType::Binary => CsvCells::Binary(column.as_binary()),
            _ => CsvCells::Other(ArrayFormatter::try_new(column.as_ref(), &FORMAT)?),
        })
    }

    fn write(&self, row: usize, out: &mut Vec<u8>) {
        use std::io::Write;
        match self {
            CsvCells::Timestamp(values, zoned) => write_timestamp_text(values[row], b' ', *zoned, out),
            CsvCells::Binary(array) => {
                out.extend_from_slice(b"\\x");
                write_hex_digits(array.value(row), out);
            }
            // Writing to a vector cannot fail; what a value's formatter refuses is left out.
            CsvCells::Other(formatter) => {
                let _ = write!(out, "{}", formatter.value(row));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::datatypes::{Field, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::engine::connectors::testing::KeptBadRows;
    use crate::engine::formats::json::encode::row_text;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("name", DataType::Utf8, true),
        ]))
    }

    fn rows(batch: RecordBatch) -> Vec<String> {
        let chunk = Chunk::insert(batch);
        (0..chunk.len()).map(|row| row_text(&chunk, row).unwrap()).collect()
    }

    fn decode(text: &[u8], options: CsvOptions, cut: usize) -> (Vec<String>, KeptBadRows) {
        let mut decoder = CsvDecoder::new(&schema(), options, None).unwrap();
        let bad = KeptBadRows::default();
        let mut taken = 0;
        for (end, at_end) in [(cut, false), (text.len(), true)] {
            let input = Input {
                bytes: &text[taken..end],
                offset: taken as u64,
                place: "f",
                at_end,
            };
            taken += decoder.decode(input, usize::MAX, &bad).unwrap();
        }
        assert_eq!(taken, text.len());
        (rows(decoder.take().unwrap()), bad)
    }

    #[test]
    fn quotes_nulls_and_bad_rows_wherever_the_input_is_cut() {
        let text = b"name,extra,ID\r\n\"a, \"\"b\"\"\nc\",x,1\r\n,x,2\n\"\",x,3\nbad,x,y\nshort,4\nlast,x,5";
        for cut in 0..text.len() {
            let (rows, bad) = decode(text, CsvOptions::default(), cut);
            let expected = [
                r#"{"id":1,"name":"a, \"b\"\nc"}"#,
                r#"{"id":2,"name":null}"#,
                r#"{"id":3,"name":""}"#,
                r#"{"id":5,"name":"last"}"#,
            ];
            assert_eq!(rows, expected, "cut at {cut}");
            assert_eq!(bad.offsets(), [45, 53], "cut at {cut}");
        }
    }

    #[test]
    fn other_dialects() {
        let options = CsvOptions {
            delimiter: b';',
            quote: b'\'',
            escape: b'\\',
            header: false,
            null_string: "NULL".into(),
        };
        let (rows, _) = decode(b"1;'it\\'s \\\\'\n2;NULL\n3;'NULL'\n", options, 5);
        assert_eq!(
            rows,
            [
                r#"{"id":1,"name":"it's \\"}"#,
                r#"{"id":2,"name":null}"#,
                r#"{"id":3,"name":"NULL"}"#
            ]
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            names in proptest::collection::vec(proptest::option::of("[a,\"\\n\\r;\\\\é]{0,6}"), 0..20),
            backslash in any::<bool>(),
        ) {
            let options = CsvOptions { escape: if backslash { b'\\' } else { b'"' }, ..CsvOptions::default() };
            let ids = (0..names.len() as i64).collect::<Vec<_>>();
            let columns: Vec<arrow::array::ArrayRef> = vec![
                Arc::new(arrow::array::Int64Array::from(ids)),
                Arc::new(arrow::array::StringArray::from(names)),
            ];
            let batch = RecordBatch::try_new(schema(), columns).unwrap();
            let mut encoder = CsvEncoder::new(&schema(), options.clone());
            let mut text = Vec::new();
            encoder.header(&mut text);
            encoder.encode(&Chunk::insert(batch.clone()), &mut text).unwrap();
            let (read, bad) = decode(&text, options, text.len() / 2);
            prop_assert_eq!(bad.offsets(), Vec::<u64>::new());
            prop_assert_eq!(read, rows(batch));
        }
    }
}

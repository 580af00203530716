//! Lines of JSON to columns, in one walk over the bytes.
//!
//! Only wanted columns are made; other values are stepped over, yet must be JSON. Field names are predicted
//! ([`super::shape`]), strings found 16 bytes at a time, integers and timestamps read in place, nothing is allocated a row.
//!
//! What fits what, beyond the obvious: a string into a number, boolean, date or timestamp column when it reads as one; any
//! value into a text column as its text; an integer into a timestamp column only when `json.timestamp_format` says its
//! unit. A missing field is NULL. Of a field given twice the last counts.
//!
//! Guarantee: a line that is not wanted for any reason leaves no trace in the columns and is reported once, with its byte
//! offset; the lines around it are not affected.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::columns::{BatchBuilder, ColumnBuilder, StructBuilder, Values, value_message};
use crate::engine::formats::json::parser::{Fault, NumberToken, Parsed, Parser, StringToken, syntax};
use crate::engine::formats::json::shape::SKIP;
use crate::engine::formats::text_values::{self, ValueFault, ValueResult};
use crate::engine::formats::{Decoder, Input, TimestampFormat};
use crate::engine::message::Weights;

/// UTF-8 is checked this many bytes ahead, so that they are still in the cache when they are parsed.
const UTF8_STRIDE: usize = 32 * 1024;

#[derive(Clone, Copy, Debug, Default)]
pub struct JsonDecodeOptions {
    pub timestamp_format: TimestampFormat,
    /// A value that does not fit its column becomes NULL instead of making the row bad.
    pub ignore_parse_errors: bool,
    /// The whole record goes as text into the only column.
    pub unstructured: bool,
}

/// What one line holds.
pub trait Line: Send {
    /// Reads one line and its line feed, and completes the rows that it holds; what a refused line has written is rolled
    /// back by the caller.
    fn read(&mut self, parser: &mut Parser<'_>, batch: &mut BatchBuilder, options: &JsonDecodeOptions) -> Parsed<()>;

    /// The weights of the rows that are taken.
    fn take_weights(&mut self) -> Weights {
        Weights::AllInsert
    }
}

/// A record, or an array of records.
#[derive(Default)]
pub struct Records;

impl Line for Records {
    #[inline(always)]
    fn read(&mut self, parser: &mut Parser<'_>, batch: &mut BatchBuilder, options: &JsonDecodeOptions) -> Parsed<()> {
        record(parser, batch, options)
    }
}

pub type JsonDecoder = LineDecoder<Records>;

/// Lines of one kind, `L`, to columns.
pub struct LineDecoder<L> {
    line: L,
    batch: BatchBuilder,
    options: JsonDecodeOptions,
    /// The last line of an input that does not end with a line feed.
    last_line: Vec<u8>,
    unescaped: Vec<u8>,
}

impl JsonDecoder {
    pub fn new(schema: &SchemaRef, options: JsonDecodeOptions) -> Result<JsonDecoder, Error> {
        Ok(LineDecoder::of_lines(Records, BatchBuilder::new(schema)?, options))
    }
}

impl<L: Line> LineDecoder<L> {
    pub fn of_lines(line: L, batch: BatchBuilder, options: JsonDecodeOptions) -> LineDecoder<L> {
        LineDecoder {
            line,
            batch,
            options,
            last_line: Vec::new(),
            unescaped: Vec::new(),
        }
    }

    /// Decodes lines of `input`, which holds whole lines, until `rows_max` rows are there; gives the bytes taken.
    fn lines(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        let bytes = input.bytes;
        let mut parser = Parser {
            bytes,
            at: 0,
            unescaped: std::mem::take(&mut self.unescaped),
        };
        let mut checked = 0;
        while parser.at < bytes.len() && self.batch.rows < rows_max {
            if matches!(bytes[parser.at], b'\n' | b' ' | b'\r' | b'\t') {
                parser.at += 1;
                continue;
            }
            let start = parser.at;
            if start >= checked {
                checked = utf8_end(bytes, start);
            }
            let outcome = if start >= checked {
                syntax(start, "invalid byte sequence for encoding \"UTF8\"")
            } else {
                self.line.read(&mut parser, &mut self.batch, &self.options)
            };
            if let Err(fault) = outcome {
                self.batch.roll_back();
                let end = line_end(bytes, start);
                let reason = match is_beginning(&bytes[start..end]) {
                    true => {
                        "the record does not end on its line: a line is a record, or an array of records".to_owned()
                    }
                    false => reason(&fault, start),
                };
                bad_rows.bad_row(BadRow {
                    place: input.place,
                    offset: input.offset + start as u64,
                    raw: &bytes[start..end],
                    reason: &reason,
                })?;
                parser.at = end + 1;
            }
        }
        self.unescaped = parser.unescaped;
        Ok(parser.at.min(bytes.len()))
    }
}

impl<L: Line> Decoder for LineDecoder<L> {
    fn decode(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        let whole = memchr::memrchr(b'\n', input.bytes).map_or(0, |last| last + 1);
        let lines = Input {
            bytes: &input.bytes[..whole],
            ..input
        };
        let taken = self.lines(lines, rows_max, bad_rows)?;
        let rest = &input.bytes[whole..];
        if taken < whole || !input.at_end || rest.is_empty() || self.batch.rows >= rows_max {
            return Ok(taken);
        }
        let mut last_line = std::mem::take(&mut self.last_line);
        last_line.clear();
        last_line.extend_from_slice(rest);
        last_line.push(b'\n');
        let last = Input {
            bytes: &last_line,
            offset: input.offset + whole as u64,
            ..input
        };
        // One line is taken whole, however many rows it holds.
        self.lines(last, usize::MAX, bad_rows)?;
        self.last_line = last_line;
        Ok(input.bytes.len())
    }

    fn rows(&self) -> usize {
        self.batch.rows()
    }

    fn take(&mut self) -> Result<RecordBatch, Error> {
        self.batch.take()
    }

    fn take_changes(&mut self) -> Result<(RecordBatch, Weights), Error> {
        Ok((self.batch.take()?, self.line.take_weights()))
    }
}

/// The end of the lines from `start` on that are UTF-8, about [`UTF8_STRIDE`] further; `start` when the first is not.
fn utf8_end(bytes: &[u8], start: usize) -> usize {
    let stride = (start + UTF8_STRIDE).min(bytes.len());
    let end = (line_end(bytes, stride) + 1).min(bytes.len());
    match std::str::from_utf8(&bytes[start..end]) {
        Ok(_) => end,
        Err(error) => {
            let valid = start + error.valid_up_to();
            memchr::memrchr(b'\n', &bytes[start..valid]).map_or(start, |last| start + last + 1)
        }
    }
}

/// The line feed at or after `start`, or the end.
fn line_end(bytes: &[u8], start: usize) -> usize {
    memchr::memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |length| start + length)
}

/// Whether the line is the first of a record, or an array, that was laid out over several.
#[cold]
fn is_beginning(line: &[u8]) -> bool {
    matches!(line.trim_ascii(), b"{" | b"[" | b"[{")
}

#[cold]
fn reason(fault: &Fault, line_start: usize) -> String {
    match fault {
        Fault::Syntax { at, what } => format!("invalid JSON at byte {}: {what}", at - line_start + 1),
        Fault::Value { column, message } => format!("column \"{column}\": {message}"),
        Fault::Record { message } => message.clone(),
    }
}

/// One line: an object, or an array of objects, each a row.
#[inline(always)]
fn record(parser: &mut Parser<'_>, batch: &mut BatchBuilder, options: &JsonDecodeOptions) -> Parsed<()> {
    let rows = if options.unstructured {
        unstructured(parser, batch, batch.rows)?;
        1
    } else if parser.peek() == b'[' {
        records(parser, batch, options)?
    } else {
        object(parser, &mut batch.root, batch.rows, 0, options)?;
        1
    };
    parser.skip_blanks();
    if parser.peek() != b'\n' {
        return syntax(parser.at, "text after the record");
    }
    parser.at += 1;
    batch.rows += rows;
    Ok(())
}

fn records(parser: &mut Parser<'_>, batch: &mut BatchBuilder, options: &JsonDecodeOptions) -> Parsed<usize> {
    let mut rows = 0;
    parser.enter(0)?;
    if parser.closes(b']') {
        return Ok(0);
    }
    loop {
        object(parser, &mut batch.root, batch.rows + rows, 1, options)?;
        rows += 1;
        if !parser.another(b']')? {
            return Ok(rows);
        }
    }
}

fn unstructured(parser: &mut Parser<'_>, batch: &mut BatchBuilder, row: usize) -> Parsed<()> {
    let start = parser.at;
    parser.skip_value(0)?;
    let text = parser.slice(start, parser.at);
    for column in &mut batch.root.fields {
        column.align(row);
        if let Values::Text(pieces) | Values::Json(pieces) = &mut column.values {
            pieces.push(text);
            column.wrote();
        }
    }
    Ok(())
}

/// An object into the fields of a struct, at `row`.
#[inline(always)]
pub(in crate::engine::formats) fn object(
    parser: &mut Parser<'_>,
    target: &mut StructBuilder,
    row: usize,
    depth: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    if parser.peek() != b'{' {
        return syntax(parser.at, "expected an object");
    }
    parser.enter(depth)?;
    if !parser.closes(b'}') {
        let mut position = 0;
        loop {
            let column;
            (column, position) = field_column(parser, target, position)?;
            if column == SKIP {
                parser.skip_value(depth + 1)?;
            } else {
                value(parser, &mut target.fields[column], row, depth + 1, options)?;
            }
            if !parser.another(b'}')? {
                break;
            }
        }
    }
    for index in &target.required {
        if target.fields[*index].rows <= row {
            return missing(&target.fields[*index]);
        }
    }
    Ok(())
}

/// Steps over a field's name; gives the column that wants it and the position to predict next.
#[inline(always)]
pub(in crate::engine::formats) fn field_column(
    parser: &mut Parser<'_>,
    target: &mut StructBuilder,
    position: usize,
) -> Parsed<(usize, usize)> {
    if let Some((column, length, next)) = target.shape.predict(parser.bytes, parser.at, position) {
        parser.at += length;
        parser.skip_blanks();
        return Ok((column, next));
    }
    let name = parser.field_name()?;
    let plainly = name != StringToken::Unescaped;
    let column = target
        .shape
        .learn(parser.token_bytes(name), plainly, position, &target.fields);
    Ok((column, position + 1))
}

#[cold]
pub(in crate::engine::formats) fn missing(column: &ColumnBuilder) -> Parsed<()> {
    Err(Box::new(Fault::Value {
        column: column.field.name().clone(),
        message: "null value in a column that is NOT NULL".into(),
    }))
}

/// One value into a column, at `row`.
#[inline(always)]
pub(in crate::engine::formats) fn value(
    parser: &mut Parser<'_>,
    column: &mut ColumnBuilder,
    row: usize,
    depth: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    column.align(row);
    let byte = parser.peek();
    if byte == b'n' {
        parser.expect_literal(b"null")?;
        if !column.field.is_nullable() {
            return missing(column);
        }
        column.push_nulls(1);
        return Ok(());
    }
    let start = parser.at;
    match present_value(parser, column, byte, depth, options) {
        Ok(()) => {
            column.wrote();
            Ok(())
        }
        Err(fault) => refused(fault, parser, column, row, start, depth, options),
    }
}

/// The value at `start` was refused: NULL if the table says so and it is JSON, else the fault with the column's path.
#[cold]
fn refused(
    fault: Box<Fault>,
    parser: &mut Parser<'_>,
    column: &mut ColumnBuilder,
    row: usize,
    start: usize,
    depth: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    let Fault::Value { column: path, message } = *fault else {
        return Err(fault);
    };
    if options.ignore_parse_errors && column.field.is_nullable() {
        column.truncate(row);
        parser.at = start;
        parser.skip_value(depth)?;
        column.push_nulls(1);
        return Ok(());
    }
    let name = column.field.name();
    let column = if path.is_empty() {
        name.clone()
    } else {
        format!("{name}.{path}")
    };
    Err(Box::new(Fault::Value { column, message }))
}

/// A value other than null. A refused value's column path starts empty; [`refused`] puts the names before it.
#[inline(always)]
fn present_value(
    parser: &mut Parser<'_>,
    column: &mut ColumnBuilder,
    byte: u8,
    depth: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    match &mut column.values {
        Values::Text(pieces) if byte == b'"' => {
            let token = parser.string()?;
            pieces.push(parser.token_bytes(token));
            Ok(())
        }
        Values::Integer { values, low, high } if byte != b'"' => {
            let number = scalar_number(parser, byte, depth)?;
            let read = match number.short_integer {
                Some(value) => Ok(value),
                None => long_integer(parser.slice(number.start, number.end)),
            };
            match read {
                Ok(value) if value >= *low && value <= *high => {
                    values.push(value);
                    Ok(())
                }
                Ok(_) => unfit(column, ValueFault::OutOfRange, parser.slice(number.start, number.end)),
                Err(fault) => unfit(column, fault, parser.slice(number.start, number.end)),
            }
        }
        Values::Timestamp { values, dates } if byte == b'"' => {
            let token = parser.string()?;
            let text = parser.token_bytes(token);
            match text_values::timestamp(text, dates) {
                Ok(micros) => {
                    values.push(micros);
                    Ok(())
                }
                Err(fault) => unfit(column, fault, text),
            }
        }
        Values::Struct(fields) => {
            if byte != b'{' {
                return other_kind(parser, column, depth);
            }
            nested_object(parser, fields, column.rows, depth, options)
        }
        _ => other_value(parser, column, byte, depth, options),
    }
}

fn long_integer(text: &[u8]) -> ValueResult<i64> {
    i64::try_from(text_values::integer(text)?).map_err(|_| ValueFault::OutOfRange)
}

/// Kept out of line: structs may hold structs.
#[inline(never)]
fn nested_object(
    parser: &mut Parser<'_>,
    fields: &mut StructBuilder,
    row: usize,
    depth: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    object(parser, fields, row, depth, options)
}

/// The columns and values that are not on the fast path.
#[inline(never)]
fn other_value(
    parser: &mut Parser<'_>,
    column: &mut ColumnBuilder,
    byte: u8,
    depth: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    match &mut column.values {
        Values::Json(pieces) | Values::Text(pieces) => {
            let start = parser.at;
            parser.skip_value(depth)?;
            pieces.push(parser.slice(start, parser.at));
            Ok(())
        }
        Values::List { offsets, element } => {
            if byte != b'[' {
                return other_kind(parser, column, depth);
            }
            list(parser, element, depth, options)?;
            offsets.push(element.rows as i32);
            Ok(())
        }
        Values::Map { offsets, key, value } => {
            if byte != b'{' {
                return other_kind(parser, column, depth);
            }
            map(parser, key, value, depth, options)?;
            offsets.push(key.rows as i32);
            Ok(())
        }
        _ if byte == b'"' => {
            let token = parser.string()?;
            let text = parser.token_bytes(token);
            push_scalar_text(column, text)
        }
        _ if byte == b't' || byte == b'f' => boolean(parser, column, byte),
        _ => {
            let number = scalar_number(parser, byte, depth)?;
            push_number(parser, column, number, options)
        }
    }
}

fn boolean(parser: &mut Parser<'_>, column: &mut ColumnBuilder, byte: u8) -> Parsed<()> {
    let literal: &'static [u8] = if byte == b't' { b"true" } else { b"false" };
    parser.expect_literal(literal)?;
    match &mut column.values {
        Values::Boolean(values) => {
            values.push(byte == b't');
            Ok(())
        }
        _ => unfit(column, ValueFault::Syntax, literal),
    }
}

/// A number where a scalar is wanted; other JSON values are stepped over and refused.
#[inline(always)]
fn scalar_number(parser: &mut Parser<'_>, byte: u8, depth: usize) -> Parsed<NumberToken> {
    if byte.is_ascii_digit() || byte == b'-' {
        return parser.number();
    }
    unexpected_kind(parser, depth)
}

#[cold]
fn unexpected_kind<T>(parser: &mut Parser<'_>, depth: usize) -> Parsed<T> {
    let start = parser.at;
    parser.skip_value(depth)?;
    let text = String::from_utf8_lossy(parser.slice(start, parser.at)).into_owned();
    let shown: String = text.chars().take(100).collect();
    Err(Box::new(Fault::Value {
        column: String::new(),
        message: format!("a value of this kind does not fit the column's type: {shown}"),
    }))
}

#[cold]
fn other_kind(parser: &mut Parser<'_>, column: &ColumnBuilder, depth: usize) -> Parsed<()> {
    let start = parser.at;
    parser.skip_value(depth)?;
    unfit(column, ValueFault::Syntax, parser.slice(start, parser.at))
}

#[cold]
fn unfit(column: &ColumnBuilder, fault: ValueFault, text: &[u8]) -> Parsed<()> {
    Err(Box::new(Fault::Value {
        column: String::new(),
        message: value_message(&column.field, fault, text),
    }))
}

fn push_scalar_text(column: &mut ColumnBuilder, text: &[u8]) -> Parsed<()> {
    match column.values.push_text(text) {
        Ok(()) => Ok(()),
        Err(fault) => unfit(column, fault, text),
    }
}

fn push_number(
    parser: &Parser<'_>,
    column: &mut ColumnBuilder,
    number: NumberToken,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    let text = parser.slice(number.start, number.end);
    let refused = match &mut column.values {
        Values::Timestamp { values, .. } => match epoch_micros(number, text, options.timestamp_format) {
            Some(Ok(micros)) => {
                values.push(micros);
                return Ok(());
            }
            Some(Err(fault)) => fault,
            None => return timestamp_without_unit(text),
        },
        // Debezium writes a date as days and a time as microseconds.
        Values::Date(values) => match number.short_integer.and_then(|days| i32::try_from(days).ok()) {
            Some(days) => {
                values.push(days);
                return Ok(());
            }
            None => ValueFault::OutOfRange,
        },
        Values::Time(values) => match number.short_integer {
            Some(micros) if (0..text_values::MICROS_A_DAY).contains(&micros) => {
                values.push(micros);
                return Ok(());
            }
            _ => ValueFault::OutOfRange,
        },
        Values::Boolean(_) | Values::Interval(_) | Values::Uuid(_) | Values::Binary(_) => ValueFault::Syntax,
        _ => return push_scalar_text(column, text),
    };
    unfit(column, refused, text)
}

/// A number as a timestamp; `None` when the table does not say its unit.
fn epoch_micros(number: NumberToken, text: &[u8], format: TimestampFormat) -> Option<ValueResult<i64>> {
    let micros_each = match format {
        TimestampFormat::Rfc3339 => return None,
        TimestampFormat::UnixSeconds => 1_000_000,
        TimestampFormat::UnixMillis => 1000,
        TimestampFormat::UnixMicros => 1,
        TimestampFormat::UnixNanos => {
            let nanos = number.short_integer.map_or_else(|| long_integer(text), Ok);
            return Some(nanos.map(|nanos| nanos.div_euclid(1000)));
        }
    };
    Some(match number.short_integer {
        Some(count) => count.checked_mul(micros_each).ok_or(ValueFault::OutOfRange),
        None => {
            let digits = micros_each.ilog10() as i32;
            text_values::scaled_integer(text, digits)
                .and_then(|micros| i64::try_from(micros).map_err(|_| ValueFault::OutOfRange))
        }
    })
}

#[cold]
fn timestamp_without_unit(text: &[u8]) -> Parsed<()> {
    Err(Box::new(Fault::Value {
        column: String::new(),
        message: format!(
            "a timestamp is written as the number {}; set json.timestamp_format to its unit, such as unix_millis",
            String::from_utf8_lossy(text)
        ),
    }))
}

fn list(parser: &mut Parser<'_>, element: &mut ColumnBuilder, depth: usize, options: &JsonDecodeOptions) -> Parsed<()> {
    parser.enter(depth)?;
    if parser.closes(b']') {
        return Ok(());
    }
    loop {
        let row = element.rows;
        value(parser, element, row, depth + 1, options)?;
        if !parser.another(b']')? {
            return Ok(());
        }
    }
}

fn map(
    parser: &mut Parser<'_>,
    keys: &mut ColumnBuilder,
    values: &mut ColumnBuilder,
    depth: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    parser.enter(depth)?;
    if parser.closes(b'}') {
        return Ok(());
    }
    loop {
        let name = parser.field_name()?;
        push_scalar_text(keys, parser.token_bytes(name))?;
        keys.wrote();
        value(parser, values, keys.rows - 1, depth + 1, options)?;
        if !parser.another(b'}')? {
            return Ok(());
        }
    }
}

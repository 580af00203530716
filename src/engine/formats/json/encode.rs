//! Columns to lines of JSON.
//!
//! NULL is written as `null`, structs as objects, lists as arrays, maps as objects; JSON values stay JSON; NaN and the
//! infinities, which JSON has no words for, are `null`. Timestamps look like `2023-10-09T17:13:20.200`, with a fraction of
//! three or six digits only when there is one; those with a time zone end in `+00:00`. Bytes are written as Postgres does,
//! `\x0aff`.

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, FixedSizeBinaryArray, StringArray, StringViewArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, SchemaRef, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::engine::error::Error;
use crate::engine::formats::added_rows::for_each_added;
use crate::engine::formats::columns::is_json;
use crate::engine::formats::json::scan;
use crate::engine::formats::text_values::{MICROS_A_DAY, civil_from_days};
use crate::engine::formats::{Encoder, TimestampFormat, Written};
use crate::engine::message::Chunk;

#[derive(Clone, Copy, Debug, Default)]
pub struct JsonEncodeOptions {
    pub timestamp_format: TimestampFormat,
    pub decimal: DecimalEncoding,
    /// JSON values are written as strings that hold their text.
    pub text_values: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecimalEncoding {
    #[default]
    Number,
    Text,
    /// Base64 of the unscaled value, big-endian two's complement, as Kafka Connect does.
    Bytes,
}

pub struct JsonEncoder {
    options: JsonEncodeOptions,
}

impl JsonEncoder {
    pub fn new(_schema: &SchemaRef, options: JsonEncodeOptions) -> JsonEncoder {
        JsonEncoder { options }
    }
}

impl Encoder for JsonEncoder {
    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error> {
        let rows = RowWriter::new(chunk, self.options)?;
        for_each_added(chunk, |row| {
            rows.write(row, out);
            out.push(b'\n');
            written(row, out);
            Ok(())
        })
    }
}

/// The rows of a chunk, ready to be written as objects.
pub struct RowWriter<'a> {
    root: Cells<'a>,
}

impl<'a> RowWriter<'a> {
    pub fn new(chunk: &'a Chunk, options: JsonEncodeOptions) -> Result<RowWriter<'a>, Error> {
        let schema = chunk.rows.schema_ref();
        let root = Cells::of_fields(schema.fields(), chunk.rows.columns(), options)?;
        Ok(RowWriter { root })
    }

    pub fn write(&self, row: usize, out: &mut Vec<u8>) {
        self.root.write(row, out);
    }
}

/// One column of a batch, its type taken apart once for all rows.
struct Column<'a> {
    nulls: Option<&'a NullBuffer>,
    cells: Cells<'a>,
}

enum Cells<'a> {
    Null,
    Boolean(&'a BooleanArray),
    Int8(&'a [i8]),
    Int16(&'a [i16]),
    Int32(&'a [i32]),
    Int64(&'a [i64]),
    UInt8(&'a [u8]),
    UInt16(&'a [u16]),
    UInt32(&'a [u32]),
    UInt64(&'a [u64]),
    Real(&'a [f32]),
    Double(&'a [f64]),
    Decimal {
        values: &'a [i128],
        scale: i8,
        encoding: DecimalEncoding,
    },
    Text(&'a StringArray),
    TextView(&'a StringViewArray),
    /// Texts that are JSON already.
    Json(&'a StringArray),
    Binary(&'a BinaryArray),
    Timestamp {
        values: &'a [i64],
        unit: TimeUnit,
        zoned: bool,
        format: TimestampFormat,
    },
    Date(&'a [i32]),
    Time(&'a [i64]),
    Uuid(&'a FixedSizeBinaryArray),
    /// Each with `"name":` as it is written.
    Struct(Vec<(Vec<u8>, Column<'a>)>),
    List {
        offsets: &'a OffsetBuffer<i32>,
        element: Box<Column<'a>>,
    },
    Map {
        offsets: &'a OffsetBuffer<i32>,
        keys: Box<Column<'a>>,
        values: Box<Column<'a>>,
    },
    /// Types met rarely, as text by Arrow's own formatter.
    Formatted(arrow::util::display::ArrayFormatter<'a>),
}

impl<'a> Cells<'a> {
    fn of_fields(
        fields: &'a [FieldRef],
        columns: &'a [ArrayRef],
        options: JsonEncodeOptions,
    ) -> Result<Cells<'a>, Error> {
        let mut members = Vec::with_capacity(fields.len());
        for (field, column) in fields.iter().zip(columns) {
            let mut name = Vec::with_capacity(field.name().len() + 3);
            write_string(field.name(), &mut name);
            name.push(b':');
            members.push((name, Column::new(field, column, options)?));
        }
        Ok(Cells::Struct(members))
    }

    fn of_text(field: &Field, array: &'a dyn Array, options: JsonEncodeOptions) -> Cells<'a> {
        if is_json(field) && !options.text_values {
            Cells::Json(array.as_string())
        } else {
            Cells::Text(array.as_string())
        }
    }

    fn of_timestamp(array: &'a dyn Array, unit: TimeUnit, zoned: bool, format: TimestampFormat) -> Cells<'a> {
        let values: &[i64] = match unit {
            TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
            TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
            TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
            TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
        };
        Cells::Timestamp {
            values,
            unit,
            zoned,
            format,
        }
    }

    fn of_other(array: &'a dyn Array) -> Result<Cells<'a>, Error> {
        static FORMAT: arrow::util::display::FormatOptions<'static> = arrow::util::display::FormatOptions::new();
        let formatter = arrow::util::display::ArrayFormatter::try_new(array, &FORMAT)?;
        Ok(Cells::Formatted(formatter))
    }
}

impl<'a> Column<'a> {
    fn new(field: &'a Field, array: &'a ArrayRef, options: JsonEncodeOptions) -> Result<Column<'a>, Error> {
        let any: &dyn Array = array.as_ref();
        let cells = match field.data_type() {
            DataType::Null => Cells::Null,
            DataType::Boolean => Cells::Boolean(any.as_boolean()),
            DataType::Int8 => Cells::Int8(any.as_primitive::<Int8Type>().values()),
            DataType::Int16 => Cells::Int16(any.as_primitive::<Int16Type>().values()),
            DataType::Int32 => Cells::Int32(any.as_primitive::<Int32Type>().values()),
            DataType::Int64 => Cells::Int64(any.as_primitive::<Int64Type>().values()),
            DataType::UInt8 => Cells::UInt8(any.as_primitive::<UInt8Type>().values()),
            DataType::UInt16 => Cells::UInt16(any.as_primitive::<UInt16Type>().values()),
            DataType::UInt32 => Cells::UInt32(any.as_primitive::<UInt32Type>().values()),
            DataType::UInt64 => Cells::UInt64(any.as_primitive::<UInt64Type>().values()),
            DataType::Float32 => Cells::Real(any.as_primitive::<Float32Type>().values()),
            DataType::Float64 => Cells::Double(any.as_primitive::<Float64Type>().values()),
            DataType::Decimal128(_, scale) => Cells::Decimal {
                values: any.as_primitive::<Decimal128Type>().values(),
                scale: *scale,
                encoding: options.decimal,
            },
            DataType::Utf8 => Cells::of_text(field, any, options),
            DataType::Utf8View => Cells::TextView(any.as_string_view()),
            DataType::Binary => Cells::Binary(any.as_binary()),
            DataType::Timestamp(unit, zone) => {
                Cells::of_timestamp(any, *unit, zone.is_some(), options.timestamp_format)
            }
            DataType::Date32 => Cells::Date(any.as_primitive::<Date32Type>().values()),
            DataType::Time64(TimeUnit::Microsecond) => {
                Cells::Time(any.as_primitive::<Time64MicrosecondType>().values())
            }
            DataType::FixedSizeBinary(16) => Cells::Uuid(any.as_fixed_size_binary()),
            DataType::Struct(fields) => Cells::of_fields(fields, any.as_struct().columns(), options)?,
            DataType::List(element) => Cells::List {
                offsets: any.as_list::<i32>().offsets(),
                element: Box::new(Column::new(element, any.as_list::<i32>().values(), options)?),
            },
            DataType::Map(entries, _) => Cells::of_map(entries, any, options)?,
            _ => Cells::of_other(any)?,
        };
        Ok(Column {
            nulls: array.nulls(),
            cells,
        })
    }

    #[inline]
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self.nulls {
            Some(nulls) if nulls.is_null(row) => out.extend_from_slice(b"null"),
            _ => self.cells.write(row, out),
        }
    }
}

impl<'a> Cells<'a> {
    fn of_map(entries: &'a FieldRef, array: &'a dyn Array, options: JsonEncodeOptions) -> Result<Cells<'a>, Error> {
        let map = array.as_map();
        let DataType::Struct(fields) = entries.data_type() else {
            return Err(Error::Internal("map entries are not a struct".into()));
        };
        Ok(Cells::Map {
            offsets: map.offsets(),
            keys: Box::new(Column::new(&fields[0], map.keys(), options)?),
            values: Box::new(Column::new(&fields[1], map.values(), options)?),
        })
    }

    /// A value that is not NULL.
    fn write(&self, row: usize, out: &mut Vec<u8>) {
        match self {
            Cells::Null => out.extend_from_slice(b"null"),
            Cells::Boolean(array) => out.extend_from_slice(if array.value(row) { b"true" } else { b"false" }),
            Cells::Int8(values) => write_integer(values[row], out),
            Cells::Int16(values) => write_integer(values[row], out),
            Cells::Int32(values) => write_integer(values[row], out),
            Cells::Int64(values) => write_integer(values[row], out),
            Cells::UInt8(values) => write_integer(values[row], out),
            Cells::UInt16(values) => write_integer(values[row], out),
            Cells::UInt32(values) => write_integer(values[row], out),
            Cells::UInt64(values) => write_integer(values[row], out),
            Cells::Real(values) => write_float(values[row], values[row].is_finite(), out),
            Cells::Double(values) => write_float(values[row], values[row].is_finite(), out),
            Cells::Decimal {
                values,
                scale,
                encoding,
            } => write_decimal(values[row], *scale, *encoding, out),
            Cells::Text(array) => write_string(array.value(row), out),
            Cells::TextView(array) => write_string(array.value(row), out),
            Cells::Json(array) => write_json(array.value(row), out),
            Cells::Binary(array) => write_hex(array.value(row), out),
            Cells::Timestamp {
                values,
                unit,
                zoned,
                format,
            } => write_timestamp(values[row], *unit, *zoned, *format, out),
            Cells::Date(values) => quoted(out, |out| write_date(values[row], out)),
            Cells::Time(values) => quoted(out, |out| write_time(values[row], out)),
            Cells::Uuid(array) => write_uuid(array.value(row), out),
            Cells::Struct(members) => write_struct(members, row, out),
            Cells::List { offsets, element } => write_list(offsets, element, row, out),
            Cells::Map { offsets, keys, values } => write_map(offsets, keys, values, row, out),
            Cells::Formatted(formatter) => write_string(&formatter.value(row).to_string(), out),
        }
    }
}

fn write_struct(members: &[(Vec<u8>, Column<'_>)], row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for (index, (name, column)) in members.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name);
        column.write(row, out);
    }
    out.push(b'}');
}

fn write_list(offsets: &OffsetBuffer<i32>, element: &Column<'_>, row: usize, out: &mut Vec<u8>) {
    out.push(b'[');
    for index in offsets[row]..offsets[row + 1] {
        if index > offsets[row] {
            out.push(b',');
        }
        element.write(index as usize, out);
    }
    out.push(b']');
}

fn write_map(offsets: &OffsetBuffer<i32>, keys: &Column<'_>, values: &Column<'_>, row: usize, out: &mut Vec<u8>) {
    out.push(b'{');
    for index in offsets[row]..offsets[row + 1] {
        if index > offsets[row] {
            out.push(b',');
        }
        let start = out.len();
        keys.write(index as usize, out);
        // JSON has only strings as names.
        if out[start] != b'"' {
            out.insert(start, b'"');
            out.push(b'"');
        }
        out.push(b':');
        values.write(index as usize, out);
    }
    out.push(b'}');
}

fn quoted(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    out.push(b'"');
    write(out);
    out.push(b'"');
}

pub fn write_integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn write_float(value: impl ryu::Float, finite: bool, out: &mut Vec<u8>) {
    if finite {
        out.extend_from_slice(ryu::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(b"null");
    }
}

fn write_decimal(value: i128, scale: i8, encoding: DecimalEncoding, out: &mut Vec<u8>) {
    match encoding {
        DecimalEncoding::Number => write_decimal_text(value, scale, out),
        DecimalEncoding::Text => quoted(out, |out| write_decimal_text(value, scale, out)),
        DecimalEncoding::Bytes => {
            use base64::Engine;
            let bytes = value.to_be_bytes();
            // The shortest form that keeps the sign.
            let sign = if value < 0 { 0xff } else { 0 };
            let skip = (0..15)
                .take_while(|&index| bytes[index] == sign && (bytes[index + 1] ^ sign) & 0x80 == 0)
                .count();
            let text = base64::engine::general_purpose::STANDARD.encode(&bytes[skip..]);
            quoted(out, |out| out.extend_from_slice(text.as_bytes()));
        }
    }
}

pub fn write_decimal_text(value: i128, scale: i8, out: &mut Vec<u8>) {
    if value < 0 {
        out.push(b'-');
    }
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value.unsigned_abs()).as_bytes();
    let Ok(scale) = usize::try_from(scale) else {
        out.extend_from_slice(digits);
        out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        return;
    };
    if scale == 0 {
        out.extend_from_slice(digits);
        return;
    }
    let whole = digits.len().saturating_sub(scale);
    if whole == 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + scale - digits.len(), b'0');
    } else {
        out.extend_from_slice(&digits[..whole]);
        out.push(b'.');
    }
    out.extend_from_slice(&digits[whole..]);
}

/// A JSON value keeps its text, but on one line: line feeds can only stand between its tokens.
fn write_json(text: &str, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(text.as_bytes());
    for byte in &mut out[start..] {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

pub fn write_string(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    out.push(b'"');
    let mut start = 0;
    loop {
        let end = scan::string_end(bytes, start);
        out.extend_from_slice(&bytes[start..end]);
        let Some(byte) = bytes.get(end) else { break };
        write_escape(*byte, out);
        start = end + 1;
    }
    out.push(b'"');
}

#[cold]
fn write_escape(byte: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"\"\\\\x");
    write_hex_digits(bytes, out);
    out.push(b'"');
}

pub fn write_hex_digits(bytes: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

fn write_uuid(bytes: &[u8], out: &mut Vec<u8>) {
    let mut buffer = uuid::Uuid::encode_buffer();
    let text = uuid::Uuid::from_slice(bytes)
        .unwrap_or_default()
        .hyphenated()
        .encode_lower(&mut buffer);
    quoted(out, |out| out.extend_from_slice(text.as_bytes()));
}

fn write_timestamp(value: i64, unit: TimeUnit, zoned: bool, format: TimestampFormat, out: &mut Vec<u8>) {
    let micros = match unit {
        TimeUnit::Second => value.saturating_mul(1_000_000),
        TimeUnit::Millisecond => value.saturating_mul(1000),
        TimeUnit::Microsecond => value,
        TimeUnit::Nanosecond => value.div_euclid(1000),
    };
    match format {
        TimestampFormat::Rfc3339 => quoted(out, |out| write_timestamp_text(micros, b'T', zoned, out)),
        TimestampFormat::UnixSeconds => write_integer(micros.div_euclid(1_000_000), out),
        TimestampFormat::UnixMillis => write_integer(micros.div_euclid(1000), out),
        TimestampFormat::UnixMicros => write_integer(micros, out),
        TimestampFormat::UnixNanos => write_integer(micros.saturating_mul(1000), out),
    }
}

pub fn write_timestamp_text(micros: i64, separator: u8, zoned: bool, out: &mut Vec<u8>) {
    write_date(micros.div_euclid(MICROS_A_DAY) as i32, out);
    out.push(separator);
    write_time(micros.rem_euclid(MICROS_A_DAY), out);
    if zoned {
        out.extend_from_slice(b"+00:00");
    }
}

pub fn write_date(days: i32, out: &mut Vec<u8>) {
    let (year, month, day) = civil_from_days(days);
    if (0..10_000).contains(&year) {
        two_digits((year / 100) as u32, out);
        two_digits((year % 100) as u32, out);
    } else {
        write_integer(year, out);
    }
    out.push(b'-');
    two_digits(month, out);
    out.push(b'-');
    two_digits(day, out);
}

pub fn write_time(micros: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = ((micros / 1_000_000) as u32, (micros % 1_000_000) as u32);
    two_digits(seconds / 3600, out);
    out.push(b':');
    two_digits(seconds / 60 % 60, out);
    out.push(b':');
    two_digits(seconds % 60, out);
    if fraction == 0 {
        return;
    }
    out.push(b'.');
    let millis = fraction / 1000;
    out.push(b'0' + (millis / 100) as u8);
    two_digits(millis % 100, out);
    if fraction % 1000 != 0 {
        let micros = fraction % 1000;
        out.push(b'0' + (micros / 100) as u8);
        two_digits(micros % 100, out);
    }
}

fn two_digits(value: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + (value / 10 % 10) as u8, b'0' + (value % 10) as u8]);
}

/// Text of one row, for tests and messages.
pub fn row_text(chunk: &Chunk, row: usize) -> Result<String, Error> {
    let mut out = Vec::new();
    RowWriter::new(chunk, JsonEncodeOptions::default())?.write(row, &mut out);
    String::from_utf8(out).map_err(|_| Error::Internal("JSON that is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
    use arrow::datatypes::Schema;

    use super::*;
    use crate::engine::message::Weights;

    fn encoded(columns: Vec<(Field, ArrayRef)>, options: JsonEncodeOptions) -> String {
        let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        let schema = Arc::new(Schema::new(fields));
        let chunk = Chunk::insert(RecordBatch::try_new(Arc::clone(&schema), arrays).unwrap());
        let mut out = Vec::new();
        JsonEncoder::new(&schema, options).encode(&chunk, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn numbers_strings_and_times() {
        let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
        let text = encoded(
            vec![
                (
                    Field::new("i", DataType::Int64, true),
                    Arc::new(Int64Array::from(vec![Some(-5), None])),
                ),
                (
                    Field::new("d", DataType::Float64, true),
                    Arc::new(Float64Array::from(vec![392.25, f64::NAN])),
                ),
                (
                    Field::new("t", DataType::Utf8, true),
                    Arc::new(StringArray::from(vec!["a\"b\\c\nd\u{1}é", ""])),
                ),
                (
                    Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
                    Arc::new(TimestampMicrosecondArray::from(vec![1_696_871_600_200_000, -1])),
                ),
                (
                    Field::new("z", zoned, true),
                    Arc::new(TimestampMicrosecondArray::from(vec![0, 0]).with_timezone("+00:00")),
                ),
            ],
            JsonEncodeOptions::default(),
        );
        assert_eq!(
            text,
            "{\"i\":-5,\"d\":392.25,\"t\":\"a\\\"b\\\\c\\nd\\u0001é\",\"at\":\"2023-10-09T17:13:20.200\",\
             \"z\":\"1970-01-01T00:00:00+00:00\"}\n\
             {\"i\":null,\"d\":null,\"t\":\"\",\"at\":\"1969-12-31T23:59:59.999999\",\"z\":\"1970-01-01T00:00:00+00:00\"}\n"
        );
    }

    #[test]
    fn decimals_in_each_encoding() {
        let mut out = Vec::new();
        for (value, scale, text) in [
            (12345, 2, "123.45"),
            (-5, 2, "-0.05"),
            (5, 0, "5"),
            (7, -2, "700"),
            (0, 3, "0.000"),
        ] {
            out.clear();
            write_decimal_text(value, scale, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
        out.clear();
        write_decimal(-1, 2, DecimalEncoding::Bytes, &mut out);
        write_decimal(128, 2, DecimalEncoding::Bytes, &mut out);
        assert_eq!(out, b"\"/w==\"\"AIA=\"");
    }

    #[test]
    fn json_values_stay_json() {
        let metadata = [("ARROW:extension:name".to_string(), "arrow.json".to_string())].into();
        let field = Field::new("v", DataType::Utf8, true).with_metadata(metadata);
        let array: ArrayRef = Arc::new(StringArray::from(vec!["{\"a\":\n1}"]));
        let plain = encoded(vec![(field.clone(), Arc::clone(&array))], JsonEncodeOptions::default());
        assert_eq!(plain, "{\"v\":{\"a\": 1}}\n");
        let options = JsonEncodeOptions {
            text_values: true,
            ..JsonEncodeOptions::default()
        };
        assert_eq!(encoded(vec![(field, array)], options), "{\"v\":\"{\\\"a\\\":\\n1}\"}\n");
    }

    #[test]
    fn retractions_are_refused() {
        let schema = Arc::new(Schema::new(vec![Field::new("i", DataType::Int64, true)]));
        let rows = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(vec![1]))]).unwrap();
        let mut chunk = Chunk::insert(rows);
        chunk.weights = Weights::Signed(vec![-1].into());
        let error = JsonEncoder::new(&schema, JsonEncodeOptions::default()).encode(&chunk, &mut Vec::new());
        assert!(error.is_err());
    }
}

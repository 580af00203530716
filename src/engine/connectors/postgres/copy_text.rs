//! Rows as the text format of COPY: a line a row, tabs between columns, `\N` for NULL.
//!
//! Each value is written as its type's input function on the server reads it. Arrays are array literals; structs and maps, also as
//! elements, are JSON. The first and the last value of dates and timestamps are the infinities, as everywhere in Laminar.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Field, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, IntervalUnit, Schema, Time64MicrosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};

use crate::engine::error::Error;
use crate::engine::formats::json::encode::{
    JsonEncodeOptions, RowWriter, write_date, write_decimal_text, write_hex_digits, write_integer, write_time,
    write_timestamp_text,
};
use crate::engine::formats::text_values::civil_from_days;
use crate::engine::message::Chunk;
use crate::types::float_text::{double_text, real_text};

const MICROS_A_DAY: i64 = 86_400_000_000;

/// Appends `columns` of a row as a line.
pub fn write_row(columns: &[&ArrayRef], row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut value = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        if index > 0 {
            out.push(b'\t');
        }
        if column.is_null(row) {
            out.extend_from_slice(b"\\N");
            continue;
        }
        value.clear();
        write_value(column, row, &mut value)?;
        escape(&value, out);
    }
    out.push(b'\n');
    Ok(())
}

/// What would end the value or the line, and the sign that says so.
fn escape(value: &[u8], out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some(at) = rest
        .iter()
        .position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r'))
    {
        out.extend_from_slice(&rest[..at]);
        let letter = match rest[at] {
            b'\t' => b't',
            b'\n' => b'n',
            b'\r' => b'r',
            other => other,
        };
        out.extend_from_slice(&[b'\\', letter]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// A value that is not NULL.
fn write_value(column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let any: &dyn Array = column.as_ref();
    match any.data_type() {
        DataType::Boolean => out.push(if any.as_boolean().value(row) { b't' } else { b'f' }),
        DataType::Utf8 => out.extend_from_slice(any.as_string::<i32>().value(row).as_bytes()),
        DataType::Utf8View => out.extend_from_slice(any.as_string_view().value(row).as_bytes()),
        DataType::Binary => {
            out.extend_from_slice(b"\\x");
            write_hex_digits(any.as_binary::<i32>().value(row), out);
        }
        DataType::FixedSizeBinary(16) => {
            let uuid = uuid::Uuid::from_slice(any.as_fixed_size_binary().value(row)).unwrap_or_default();
            out.extend_from_slice(
                uuid.hyphenated()
                    .encode_lower(&mut uuid::Uuid::encode_buffer())
                    .as_bytes(),
            );
        }
        DataType::List(_) => write_array(&any.as_list::<i32>().value(row), out)?,
        DataType::Struct(_) | DataType::Map(_, _) => write_json(column, row, out)?,
        DataType::Date32 | DataType::Time64(_) | DataType::Timestamp(_, _) | DataType::Interval(_) => {
            write_time_value(any, row, out)?;
        }
        _ => write_number(any, row, out)?,
    }
    Ok(())
}

fn write_number(any: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    match any.data_type() {
        DataType::Int8 => write_integer(any.as_primitive::<Int8Type>().value(row), out),
        DataType::Int16 => write_integer(any.as_primitive::<Int16Type>().value(row), out),
        DataType::Int32 => write_integer(any.as_primitive::<Int32Type>().value(row), out),
        DataType::Int64 => write_integer(any.as_primitive::<Int64Type>().value(row), out),
        DataType::UInt8 => write_integer(any.as_primitive::<UInt8Type>().value(row), out),
        DataType::UInt16 => write_integer(any.as_primitive::<UInt16Type>().value(row), out),
        DataType::UInt32 => write_integer(any.as_primitive::<UInt32Type>().value(row), out),
        DataType::UInt64 => write_integer(any.as_primitive::<UInt64Type>().value(row), out),
        DataType::Float32 => real_text(any.as_primitive::<Float32Type>().value(row), out),
        DataType::Float64 => double_text(any.as_primitive::<Float64Type>().value(row), out),
        DataType::Decimal128(_, scale) => {
            write_decimal_text(any.as_primitive::<Decimal128Type>().value(row), *scale, out);
        }
        other => return Err(Error::Internal(format!("{other} has no text for Postgres"))),
    }
    Ok(())
}

fn write_time_value(any: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    match any.data_type() {
        DataType::Date32 => {
            let days = any.as_primitive::<Date32Type>().value(row);
            match days {
                i32::MAX => out.extend_from_slice(b"infinity"),
                i32::MIN => out.extend_from_slice(b"-infinity"),
                days => with_era(days, out, write_date),
            }
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            write_time(any.as_primitive::<Time64MicrosecondType>().value(row), out);
        }
        DataType::Timestamp(unit, zone) => {
            let micros = match unit {
                TimeUnit::Second => any
                    .as_primitive::<TimestampSecondType>()
                    .value(row)
                    .saturating_mul(1_000_000),
                TimeUnit::Millisecond => any
                    .as_primitive::<TimestampMillisecondType>()
                    .value(row)
                    .saturating_mul(1000),
                TimeUnit::Microsecond => any.as_primitive::<TimestampMicrosecondType>().value(row),
                TimeUnit::Nanosecond => any
                    .as_primitive::<TimestampNanosecondType>()
                    .value(row)
                    .div_euclid(1000),
            };
            write_timestamp(micros, zone.is_some(), out);
        }
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            let interval = any.as_primitive::<IntervalMonthDayNanoType>().value(row);
            // No style of the server writes units so that none runs over into the next; its input reads them.
            let (months, days, micros) = (interval.months, interval.days, interval.nanoseconds / 1000);
            out.extend_from_slice(format!("{months} months {days} days {micros} microseconds").as_bytes());
        }
        other => return Err(Error::Internal(format!("{other} has no text for Postgres"))),
    }
    Ok(())
}

fn write_timestamp(micros: i64, zoned: bool, out: &mut Vec<u8>) {
    match micros {
        i64::MAX => out.extend_from_slice(b"infinity"),
        i64::MIN => out.extend_from_slice(b"-infinity"),
        micros => {
            let of_day = micros.rem_euclid(MICROS_A_DAY);
            let days = micros.div_euclid(MICROS_A_DAY) as i32;
            with_era(days, out, |days, out| {
                write_timestamp_text(i64::from(days) * MICROS_A_DAY + of_day, b' ', zoned, out);
            });
        }
    }
}

/// Years before the first are counted from it and carry BC: the year 0 is 1 BC.
fn with_era(days: i32, out: &mut Vec<u8>, write: impl FnOnce(i32, &mut Vec<u8>)) {
    let (year, ..) = civil_from_days(days);
    let start = out.len();
    write(days, out);
    if year > 0 {
        return;
    }
    let written = out.split_off(start);
    // A year of this size is written with its sign, the year 0 with four digits.
    let rest = written
        .iter()
        .skip(1)
        .position(|byte| *byte == b'-')
        .map_or(0, |at| at + 1);
    out.extend_from_slice(format!("{:04}", 1 - year).as_bytes());
    out.extend_from_slice(&written[rest..]);
    out.extend_from_slice(b" BC");
}

/// `{1,NULL,"quoted"}`, also of arrays.
fn write_array(elements: &ArrayRef, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut element = Vec::new();
    out.push(b'{');
    for at in 0..elements.len() {
        if at > 0 {
            out.push(b',');
        }
        if elements.is_null(at) {
            out.extend_from_slice(b"NULL");
            continue;
        }
        element.clear();
        write_value(elements, at, &mut element)?;
        if matches!(elements.data_type(), DataType::List(_)) {
            out.extend_from_slice(&element);
            continue;
        }
        out.push(b'"');
        for byte in &element {
            if matches!(byte, b'"' | b'\\') {
                out.push(b'\\');
            }
            out.push(*byte);
        }
        out.push(b'"');
    }
    out.push(b'}');
    Ok(())
}

/// The value alone in an object, whose frame is taken off again.
fn write_json(column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let schema = Arc::new(Schema::new(vec![Field::new("v", column.data_type().clone(), true)]));
    let chunk = Chunk::insert(RecordBatch::try_new(schema, vec![column.slice(row, 1)])?);
    let mut object = Vec::new();
    RowWriter::new(&chunk, JsonEncodeOptions::default())?.write(0, &mut object);
    let frame = br#"{"v":"#.len();
    let inner = object.get(frame..object.len().saturating_sub(1));
    out.extend_from_slice(inner.ok_or_else(|| Error::Internal("an object without its value".into()))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Date32Array, ListArray, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    fn text(column: ArrayRef) -> String {
        let mut out = Vec::new();
        for row in 0..column.len() {
            write_row(&[&column], row, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_would_end_a_value_is_escaped() {
        let texts = StringArray::from(vec![Some("a\tb\nc\rd\\e"), None, Some(""), Some("\\N")]);
        assert_eq!(text(Arc::new(texts)), "a\\tb\\nc\\rd\\\\e\n\\N\n\n\\\\N\n");
    }

    #[test]
    fn years_and_infinities() {
        let days = |text: &str| crate::engine::formats::text_values::date(text.as_bytes()).unwrap();
        // -719528 is the first day of the year 0.
        let dates = Date32Array::from(vec![days("2024-02-29"), -719_528, -719_528 - 366, i32::MAX, i32::MIN]);
        assert_eq!(
            text(Arc::new(dates)),
            "2024-02-29\n0001-01-01 BC\n0003-12-31 BC\ninfinity\n-infinity\n"
        );
        let times =
            TimestampMicrosecondArray::from(vec![1, -719_528 * MICROS_A_DAY + 1, i64::MAX]).with_timezone("UTC");
        assert_eq!(
            text(Arc::new(times)),
            "1970-01-01 00:00:00.000001+00:00\n0001-01-01 00:00:00.000001+00:00 BC\ninfinity\n"
        );
    }

    #[test]
    fn arrays_are_literals() {
        let numbers = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), Some(vec![])]);
        assert_eq!(text(Arc::new(numbers)), "{\"1\",NULL}\n{}\n");
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a\"b\\", "NULL", ""]));
        let mut out = Vec::new();
        write_array(&texts, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a\"b\\","NULL",""}"#);
    }
}

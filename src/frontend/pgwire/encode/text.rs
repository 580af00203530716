//! Values in text format, as each type's output function in Postgres prints them.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, FixedSizeListArray, GenericByteArray, GenericListArray, OffsetSizeTrait,
    PrimitiveArray,
};
use arrow::datatypes::{
    ArrowPrimitiveType, ByteArrayType, DataType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
    Decimal256Type, DecimalType, DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType,
    DurationSecondType, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    IntervalDayTimeType, IntervalMonthDayNanoType, IntervalUnit, IntervalYearMonthType, Time32MillisecondType,
    Time32SecondType, Time64MicrosecondType, Time64NanosecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use bytes::{BufMut, BytesMut};

use super::datetime::{
    date_text, interval_text, nanos_to_micros, time_text, timestamp_text, timestamptz_text, to_micros,
};
use super::number::decimal_text;
use super::{AllNull, ByteaOutput, Format, OutputStyle, Result, Writer, array_writer, json, value_writer};
use crate::frontend::pgwire::error::Error;
use crate::types::float_text::{double_text, real_text};
use crate::types::{EXTENSION_NAME_KEY, UUID_EXTENSION};

/// The writer of `array`, whose column is `field`.
pub(super) fn writer(array: &ArrayRef, field: &Field, style: &OutputStyle) -> Result<Writer> {
    let data_type = array.data_type();
    if let Some(writer) = number_writer(array).or_else(|| string_writer(array)) {
        return Ok(writer);
    }
    if let Some(writer) = bytes_writer(array, field, style).or_else(|| interval_writer(array)) {
        return Ok(writer);
    }
    match data_type {
        DataType::Null => Ok(Box::new(AllNull)),
        DataType::Boolean => Ok(array_writer(array.as_boolean().clone(), boolean)),
        DataType::Date32 => Ok(primitive::<Date32Type>(array, |days, out| {
            date_text(days, out);
            Ok(())
        })),
        DataType::Date64 => Ok(primitive::<Date64Type>(array, |millis, out| {
            date_text(days_of_millis(millis)?, out);
            Ok(())
        })),
        DataType::Time32(_) | DataType::Time64(_) => time_writer(array),
        DataType::Timestamp(unit, zone) => Ok(timestamp_writer(array, *unit, zone.is_some(), style, b' ')),
        DataType::List(element) => list(array.as_list::<i32>().clone(), element, style),
        DataType::LargeList(element) => list(array.as_list::<i64>().clone(), element, style),
        DataType::FixedSizeList(element, _) => fixed_list(array.as_fixed_size_list().clone(), element, style),
        DataType::Struct(_) | DataType::Map(_, _) => json::writer(array, field),
        _ => Err(Error::unsupported_column(field)),
    }
}

fn boolean(array: &BooleanArray, row: usize, out: &mut BytesMut) -> Result<()> {
    out.put_u8(if array.value(row) { b't' } else { b'f' });
    Ok(())
}

/// A writer over the native values of a primitive array.
pub(super) fn primitive<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    write: impl Fn(T::Native, &mut BytesMut) -> Result<()> + Send + 'static,
) -> Writer {
    let array: PrimitiveArray<T> = array.as_primitive::<T>().clone();
    array_writer(array, move |array, row, out| write(array.value(row), out))
}

fn integer<T: ArrowPrimitiveType<Native: itoa::Integer>>(array: &ArrayRef) -> Writer {
    primitive::<T>(array, |value, out| {
        out.put_slice(itoa::Buffer::new().format(value).as_bytes());
        Ok(())
    })
}

/// Integers, floats and decimals.
pub(super) fn number_writer(array: &ArrayRef) -> Option<Writer> {
    Some(match array.data_type() {
        DataType::Int8 => integer::<Int8Type>(array),
        DataType::Int16 => integer::<Int16Type>(array),
        DataType::Int32 => integer::<Int32Type>(array),
        DataType::Int64 => integer::<Int64Type>(array),
        DataType::UInt8 => integer::<UInt8Type>(array),
        DataType::UInt16 => integer::<UInt16Type>(array),
        DataType::UInt32 => integer::<UInt32Type>(array),
        DataType::UInt64 => integer::<UInt64Type>(array),
        DataType::Float16 => primitive::<Float16Type>(array, |value, out| {
            real_text(value.to_f32(), out);
            Ok(())
        }),
        DataType::Float32 => primitive::<Float32Type>(array, |value, out| {
            real_text(value, out);
            Ok(())
        }),
        DataType::Float64 => primitive::<Float64Type>(array, |value, out| {
            double_text(value, out);
            Ok(())
        }),
        DataType::Decimal32(_, scale) => decimal::<Decimal32Type>(array, *scale),
        DataType::Decimal64(_, scale) => decimal::<Decimal64Type>(array, *scale),
        DataType::Decimal128(_, scale) => {
            let scale = *scale;
            primitive::<Decimal128Type>(array, move |value, out| {
                decimal_text(itoa::Buffer::new().format(value), scale, out);
                Ok(())
            })
        }
        DataType::Decimal256(_, scale) => decimal::<Decimal256Type>(array, *scale),
        _ => return None,
    })
}

fn decimal<T: DecimalType<Native: std::fmt::Display>>(array: &ArrayRef, scale: i8) -> Writer {
    primitive::<T>(array, move |value, out| {
        decimal_text(&value.to_string(), scale, out);
        Ok(())
    })
}

/// Text of every layout, also the storage of JSON.
pub(super) fn string_writer(array: &ArrayRef) -> Option<Writer> {
    Some(match array.data_type() {
        DataType::Utf8 => bytes_like(array.as_string::<i32>()),
        DataType::LargeUtf8 => bytes_like(array.as_string::<i64>()),
        DataType::Utf8View => array_writer(array.as_string_view().clone(), |array, row, out| {
            out.put_slice(array.value(row).as_bytes());
            Ok(())
        }),
        _ => return None,
    })
}

fn bytes_like<T: ByteArrayType>(array: &GenericByteArray<T>) -> Writer {
    array_writer(array.clone(), |array, row, out| {
        let value: &[u8] = array.value(row).as_ref();
        out.put_slice(value);
        Ok(())
    })
}

fn bytes_writer(array: &ArrayRef, field: &Field, style: &OutputStyle) -> Option<Writer> {
    let output = style.bytea;
    let write = move |value: &[u8], out: &mut BytesMut| bytea(value, output, out);
    Some(match array.data_type() {
        DataType::Binary => array_writer(array.as_binary::<i32>().clone(), move |array, row, out| {
            write(array.value(row), out);
            Ok(())
        }),
        DataType::LargeBinary => array_writer(array.as_binary::<i64>().clone(), move |array, row, out| {
            write(array.value(row), out);
            Ok(())
        }),
        DataType::BinaryView => array_writer(array.as_binary_view().clone(), move |array, row, out| {
            write(array.value(row), out);
            Ok(())
        }),
        DataType::FixedSizeBinary(16) if is_uuid(field) => {
            array_writer(array.as_fixed_size_binary().clone(), |array, row, out| {
                uuid(array.value(row), out);
                Ok(())
            })
        }
        DataType::FixedSizeBinary(_) => array_writer(array.as_fixed_size_binary().clone(), move |array, row, out| {
            write(array.value(row), out);
            Ok(())
        }),
        _ => return None,
    })
}

pub(super) fn is_uuid(field: &Field) -> bool {
    field
        .metadata()
        .get(EXTENSION_NAME_KEY)
        .is_some_and(|name| name == UUID_EXTENSION)
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex(byte: u8, out: &mut BytesMut) {
    out.put_u8(HEX[usize::from(byte >> 4)]);
    out.put_u8(HEX[usize::from(byte & 15)]);
}

fn bytea(value: &[u8], output: ByteaOutput, out: &mut BytesMut) {
    match output {
        ByteaOutput::Hex => {
            out.put_slice(b"\\x");
            for byte in value {
                hex(*byte, out);
            }
        }
        ByteaOutput::Escape => {
            for byte in value {
                match byte {
                    b'\\' => out.put_slice(b"\\\\"),
                    0x20..=0x7e => out.put_u8(*byte),
                    other => {
                        out.put_u8(b'\\');
                        for shift in [6, 3, 0] {
                            out.put_u8(b'0' + ((other >> shift) & 7));
                        }
                    }
                }
            }
        }
    }
}

fn uuid(value: &[u8], out: &mut BytesMut) {
    for (at, byte) in value.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.put_u8(b'-');
        }
        hex(*byte, out);
    }
}

fn days_of_millis(millis: i64) -> Result<i32> {
    i32::try_from(millis.div_euclid(86_400_000)).map_err(|_| Error::TimestampOutOfRange)
}

/// Days since 1970 of both date layouts.
pub(super) fn date_days(array: &ArrayRef, write: impl Fn(i32, &mut BytesMut) -> Result<()> + Send + 'static) -> Writer {
    match array.data_type() {
        DataType::Date64 => primitive::<Date64Type>(array, move |millis, out| write(days_of_millis(millis)?, out)),
        _ => primitive::<Date32Type>(array, write),
    }
}

fn time_writer(array: &ArrayRef) -> Result<Writer> {
    time_micros(array, |micros, out| {
        time_text(micros, out);
        Ok(())
    })
}

/// Microseconds since midnight of every time layout.
pub(super) fn time_micros(
    array: &ArrayRef,
    write: impl Fn(i64, &mut BytesMut) -> Result<()> + Send + 'static,
) -> Result<Writer> {
    Ok(match array.data_type() {
        DataType::Time32(TimeUnit::Second) => {
            primitive::<Time32SecondType>(array, move |seconds, out| write(i64::from(seconds) * 1_000_000, out))
        }
        DataType::Time32(_) => {
            primitive::<Time32MillisecondType>(array, move |millis, out| write(i64::from(millis) * 1000, out))
        }
        DataType::Time64(TimeUnit::Nanosecond) => {
            primitive::<Time64NanosecondType>(array, move |nanos, out| write(nanos_to_micros(nanos), out))
        }
        DataType::Time64(_) => primitive::<Time64MicrosecondType>(array, write),
        other => return Err(Error::internal(format!("{other} is not a time"))),
    })
}

pub(super) fn timestamp_writer(
    array: &ArrayRef,
    unit: TimeUnit,
    has_zone: bool,
    style: &OutputStyle,
    separator: u8,
) -> Writer {
    let zone = style.time_zone;
    timestamp_micros(array, unit, move |micros, out| {
        if has_zone {
            timestamptz_text(micros, &zone, separator, out);
        } else {
            timestamp_text(micros, separator, out);
        }
        Ok(())
    })
}

/// Microseconds since 1970 of every timestamp layout.
pub(super) fn timestamp_micros(
    array: &ArrayRef,
    unit: TimeUnit,
    write: impl Fn(i64, &mut BytesMut) -> Result<()> + Send + 'static,
) -> Writer {
    match unit {
        TimeUnit::Second => {
            primitive::<TimestampSecondType>(array, move |value, out| write(to_micros(value, unit)?, out))
        }
        TimeUnit::Millisecond => {
            primitive::<TimestampMillisecondType>(array, move |value, out| write(to_micros(value, unit)?, out))
        }
        TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(array, write),
        TimeUnit::Nanosecond => {
            primitive::<TimestampNanosecondType>(array, move |value, out| write(to_micros(value, unit)?, out))
        }
    }
}

pub(super) fn interval_writer(array: &ArrayRef) -> Option<Writer> {
    interval_parts(array, |months, days, micros, out| {
        interval_text(months, days, micros, out);
        Ok(())
    })
}

/// Months, days and microseconds of every interval and duration layout.
pub(super) fn interval_parts(
    array: &ArrayRef,
    write: impl Fn(i32, i32, i64, &mut BytesMut) -> Result<()> + Send + 'static,
) -> Option<Writer> {
    Some(match array.data_type() {
        DataType::Interval(IntervalUnit::YearMonth) => {
            primitive::<IntervalYearMonthType>(array, move |months, out| write(months, 0, 0, out))
        }
        DataType::Interval(IntervalUnit::DayTime) => primitive::<IntervalDayTimeType>(array, move |value, out| {
            write(0, value.days, i64::from(value.milliseconds) * 1000, out)
        }),
        DataType::Interval(IntervalUnit::MonthDayNano) => {
            primitive::<IntervalMonthDayNanoType>(array, move |value, out| {
                write(value.months, value.days, nanos_to_micros(value.nanoseconds), out)
            })
        }
        DataType::Duration(unit) => {
            let unit = *unit;
            let write = move |value: i64, out: &mut BytesMut| write(0, 0, to_micros(value, unit)?, out);
            match unit {
                TimeUnit::Second => primitive::<DurationSecondType>(array, write),
                TimeUnit::Millisecond => primitive::<DurationMillisecondType>(array, write),
                TimeUnit::Microsecond => primitive::<DurationMicrosecondType>(array, write),
                TimeUnit::Nanosecond => primitive::<DurationNanosecondType>(array, write),
            }
        }
        _ => return None,
    })
}

fn list<O: OffsetSizeTrait>(array: GenericListArray<O>, element: &Field, style: &OutputStyle) -> Result<Writer> {
    let elements = value_writer(array.values(), element, Format::Text, style)?;
    let nested = is_list(element.data_type());
    Ok(array_writer(array, move |array, row, out| {
        let offsets = array.value_offsets();
        write_list(
            &elements,
            offsets[row].as_usize()..offsets[row + 1].as_usize(),
            nested,
            out,
        )
    }))
}

fn fixed_list(array: FixedSizeListArray, element: &Field, style: &OutputStyle) -> Result<Writer> {
    let elements = value_writer(array.values(), element, Format::Text, style)?;
    let nested = is_list(element.data_type());
    Ok(array_writer(array, move |array, row, out| {
        let length = usize::try_from(array.value_length()).unwrap_or(0);
        // A sliced array starts later in its values than at zero.
        let start = usize::try_from(array.value_offset(row)).unwrap_or(0);
        write_list(&elements, start..start + length, nested, out)
    }))
}

pub(super) fn is_list(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _) => true,
        DataType::ListView(_) | DataType::LargeListView(_) => true,
        DataType::Dictionary(_, values) => is_list(values),
        _ => false,
    }
}

/// `{1,NULL,"a b"}`; nested arrays are not quoted.
fn write_list(elements: &Writer, rows: std::ops::Range<usize>, nested: bool, out: &mut BytesMut) -> Result<()> {
    out.put_u8(b'{');
    let first = rows.start;
    for row in rows {
        if row > first {
            out.put_u8(b',');
        }
        if elements.is_null(row) {
            out.put_slice(b"NULL");
            continue;
        }
        let start = out.len();
        elements.write(row, out)?;
        if !nested && needs_quotes(&out[start..]) {
            quote_from(start, out);
        }
    }
    out.put_u8(b'}');
    Ok(())
}

fn needs_quotes(value: &[u8]) -> bool {
    value.is_empty()
        || value.eq_ignore_ascii_case(b"null")
        || value
            .iter()
            .any(|byte| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',' | b' ' | 0x09..=0x0d))
}

/// Puts what was written from `start` on into double quotes.
fn quote_from(start: usize, out: &mut BytesMut) {
    let value = out.split_off(start);
    out.put_u8(b'"');
    for byte in &value {
        if matches!(byte, b'"' | b'\\') {
            out.put_u8(b'\\');
        }
        out.put_u8(*byte);
    }
    out.put_u8(b'"');
}

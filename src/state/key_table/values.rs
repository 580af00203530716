//! From canonical words back to arrays of the original type.

use std::sync::Arc;

use arrow::array::{ArrayRef, ArrowPrimitiveType, BooleanArray, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::*;

/// Words as an array of `data_type`.
pub(super) fn word_array(
    data_type: &DataType,
    words: impl Iterator<Item = u64>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    use DataType::*;
    match data_type {
        Boolean => Arc::new(BooleanArray::new(
            words.map(|word| word != 0).collect::<Vec<_>>().into(),
            nulls,
        )),
        Int8 => primitive::<Int8Type>(data_type, words.map(|word| word as i8), nulls),
        Int16 => primitive::<Int16Type>(data_type, words.map(|word| word as i16), nulls),
        Int32 => primitive::<Int32Type>(data_type, words.map(|word| word as i32), nulls),
        Int64 => primitive::<Int64Type>(data_type, words.map(|word| word as i64), nulls),
        UInt8 => primitive::<UInt8Type>(data_type, words.map(|word| word as u8), nulls),
        UInt16 => primitive::<UInt16Type>(data_type, words.map(|word| word as u16), nulls),
        UInt32 => primitive::<UInt32Type>(data_type, words.map(|word| word as u32), nulls),
        UInt64 => primitive::<UInt64Type>(data_type, words, nulls),
        Float16 => primitive::<Float16Type>(data_type, words.map(|word| half::from_f64(f64::from_bits(word))), nulls),
        Float32 => primitive::<Float32Type>(data_type, words.map(|word| f64::from_bits(word) as f32), nulls),
        Float64 => primitive::<Float64Type>(data_type, words.map(f64::from_bits), nulls),
        Interval(IntervalUnit::DayTime) => primitive::<IntervalDayTimeType>(
            data_type,
            words.map(|word| IntervalDayTimeType::make_value((word >> 32) as i32, word as i32)),
            nulls,
        ),
        _ => time_array(data_type, words.map(|word| word as i64), nulls),
    }
}

/// Narrowing to half precision without naming the crate that defines it.
mod half {
    use arrow::datatypes::{ArrowPrimitiveType, Float16Type};

    type Half = <Float16Type as ArrowPrimitiveType>::Native;

    pub(super) fn from_f64(value: f64) -> Half {
        Half::from_f64(value)
    }
}

fn time_array(data_type: &DataType, values: impl Iterator<Item = i64>, nulls: Option<NullBuffer>) -> ArrayRef {
    use DataType::*;
    match data_type {
        Date32 => primitive::<Date32Type>(data_type, values.map(|value| value as i32), nulls),
        Date64 => primitive::<Date64Type>(data_type, values, nulls),
        Time32(TimeUnit::Second) => primitive::<Time32SecondType>(data_type, values.map(|value| value as i32), nulls),
        Time32(_) => primitive::<Time32MillisecondType>(data_type, values.map(|value| value as i32), nulls),
        Time64(TimeUnit::Microsecond) => primitive::<Time64MicrosecondType>(data_type, values, nulls),
        Time64(_) => primitive::<Time64NanosecondType>(data_type, values, nulls),
        Timestamp(TimeUnit::Second, _) => primitive::<TimestampSecondType>(data_type, values, nulls),
        Timestamp(TimeUnit::Millisecond, _) => primitive::<TimestampMillisecondType>(data_type, values, nulls),
        Timestamp(TimeUnit::Microsecond, _) => primitive::<TimestampMicrosecondType>(data_type, values, nulls),
        Timestamp(TimeUnit::Nanosecond, _) => primitive::<TimestampNanosecondType>(data_type, values, nulls),
        Duration(TimeUnit::Second) => primitive::<DurationSecondType>(data_type, values, nulls),
        Duration(TimeUnit::Millisecond) => primitive::<DurationMillisecondType>(data_type, values, nulls),
        Duration(TimeUnit::Microsecond) => primitive::<DurationMicrosecondType>(data_type, values, nulls),
        Duration(TimeUnit::Nanosecond) => primitive::<DurationNanosecondType>(data_type, values, nulls),
        Interval(_) => primitive::<IntervalYearMonthType>(data_type, values.map(|value| value as i32), nulls),
        other => unreachable!("type {other} is not stored as words"),
    }
}

/// 128-bit values as an array of `data_type`.
pub(super) fn wide_array(
    data_type: &DataType,
    values: impl Iterator<Item = u128>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    use DataType::*;
    match data_type {
        Decimal32(_, _) => primitive::<Decimal32Type>(data_type, values.map(|value| value as i32), nulls),
        Decimal64(_, _) => primitive::<Decimal64Type>(data_type, values.map(|value| value as i64), nulls),
        Decimal128(_, _) => primitive::<Decimal128Type>(data_type, values.map(|value| value as i128), nulls),
        Interval(_) => primitive::<IntervalMonthDayNanoType>(
            data_type,
            values.map(|value| {
                IntervalMonthDayNanoType::make_value((value >> 96) as i32, (value >> 64) as i32, value as i64)
            }),
            nulls,
        ),
        other => unreachable!("type {other} is not stored in 128 bits"),
    }
}

/// `data_type` refines `T`: a time zone, a precision and scale.
fn primitive<T: ArrowPrimitiveType>(
    data_type: &DataType,
    values: impl Iterator<Item = T::Native>,
    nulls: Option<NullBuffer>,
) -> ArrayRef {
    let array = PrimitiveArray::<T>::new(values.collect::<Vec<_>>().into(), nulls);
    Arc::new(array.with_data_type(data_type.clone()))
}

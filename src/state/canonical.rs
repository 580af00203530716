//! The canonical form of column values: what makes two values one key.
//!
//! Values of every fixed-width type of up to 64 bits become one word: integers, dates, times and timestamps their value as
//! `i64`; booleans 0 or 1; floating-point numbers the bits of the `f64` of the same value, with one zero and one NaN.
//! Decimals and long intervals become 128 bits, strings and binaries their bytes. So INT 5 and BIGINT 5 are one key, and
//! a dictionary or a string view is the same key as the plain string.
//!
//! Guarantee: frozen. Hashes of stored keys depend on it; see [`crate::state::hash`].

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, StringViewArray, make_array};
use arrow::datatypes::*;

/// The one NaN that all NaNs become.
const NAN_BITS: u64 = 0x7ff8_0000_0000_0000;

/// A column in canonical form. Entries of NULL rows are arbitrary.
pub enum Canonical<'a> {
    /// One word a row.
    Words(Cow<'a, [u64]>),
    /// 128 bits a row.
    Wide(Vec<u128>),
    /// Bytes.
    Bytes(BytesColumn<'a>),
    /// Structs, lists and whatever else has an inside of its own.
    Nested,
}

/// The form that values of a type take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CanonicalKind {
    Word,
    Wide,
    Bytes,
    Nested,
}

/// Reads strings and binaries of every layout.
pub enum BytesColumn<'a> {
    Small { offsets: &'a [i32], data: &'a [u8] },
    Large { offsets: &'a [i64], data: &'a [u8] },
    Fixed { width: usize, data: &'a [u8] },
    StringView(&'a StringViewArray),
    BinaryView(&'a BinaryViewArray),
}

impl<'a> BytesColumn<'a> {
    /// The bytes of row `row`.
    #[inline]
    pub fn get(&self, row: usize) -> &'a [u8] {
        match self {
            BytesColumn::Small { offsets, data } => &data[offsets[row] as usize..offsets[row + 1] as usize],
            BytesColumn::Large { offsets, data } => &data[offsets[row] as usize..offsets[row + 1] as usize],
            BytesColumn::Fixed { width, data } => &data[row * width..(row + 1) * width],
            BytesColumn::StringView(array) => array.value(row).as_bytes(),
            BytesColumn::BinaryView(array) => array.value(row),
        }
    }
}

/// The word of a floating-point number.
#[inline]
pub fn float_word(value: f64) -> u64 {
    if value == 0.0 {
        0
    } else if value.is_nan() {
        NAN_BITS
    } else {
        value.to_bits()
    }
}

/// The form that values of `data_type` take. Dictionaries take the form of their values.
pub fn kind_of(data_type: &DataType) -> CanonicalKind {
    use DataType::*;
    match data_type {
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float16 | Float32 | Float64 => {
            CanonicalKind::Word
        }
        Date32 | Date64 | Time32(_) | Time64(_) | Timestamp(_, _) | Duration(_) => CanonicalKind::Word,
        Interval(IntervalUnit::YearMonth | IntervalUnit::DayTime) => CanonicalKind::Word,
        Interval(IntervalUnit::MonthDayNano) | Decimal32(_, _) | Decimal64(_, _) | Decimal128(_, _) => {
            CanonicalKind::Wide
        }
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView | FixedSizeBinary(_) => CanonicalKind::Bytes,
        Dictionary(_, values) => kind_of(values),
        _ => CanonicalKind::Nested,
    }
}

/// `array` in canonical form. Dictionaries must have been [`plain`]ed before; they count as nested here.
pub fn canonical(array: &dyn Array) -> Canonical<'_> {
    if let DataType::Dictionary(_, _) = array.data_type() {
        return Canonical::Nested;
    }
    match kind_of(array.data_type()) {
        CanonicalKind::Word => words(array).map_or(Canonical::Nested, Canonical::Words),
        CanonicalKind::Wide => wide(array).map_or(Canonical::Nested, Canonical::Wide),
        CanonicalKind::Bytes => bytes(array).map_or(Canonical::Nested, Canonical::Bytes),
        CanonicalKind::Nested => Canonical::Nested,
    }
}

/// `array` with one zero and one NaN, which Arrow's orders put behind every number; also inside of nested values.
pub fn canonical_floats(array: &ArrayRef) -> ArrayRef {
    if !has_floats(array.data_type()) {
        return ArrayRef::clone(array);
    }
    match array.data_type() {
        DataType::Float16 => Arc::new(array.as_primitive::<Float16Type>().unary::<_, Float16Type>(|value| {
            if value.is_nan() {
                half_nan()
            } else if value.to_f32() == 0.0 {
                Default::default()
            } else {
                value
            }
        })),
        DataType::Float32 => Arc::new(
            array
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|value| if value.is_nan() { f32::NAN } else { value + 0.0 }),
        ),
        DataType::Float64 => Arc::new(
            array
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|value| if value.is_nan() { f64::NAN } else { value + 0.0 }),
        ),
        _ => {
            let data = array.to_data();
            let children = data
                .child_data()
                .iter()
                .map(|child| canonical_floats(&make_array(child.clone())).to_data())
                .collect();
            let rebuilt = data
                .into_builder()
                .child_data(children)
                .build()
                .expect("only values of floats changed");
            make_array(rebuilt)
        }
    }
}

fn half_nan() -> <Float16Type as ArrowPrimitiveType>::Native {
    <Float16Type as ArrowPrimitiveType>::Native::NAN
}

/// Whether [`canonical_floats`] has anything to do.
pub fn has_floats(data_type: &DataType) -> bool {
    let inside = |field: &FieldRef| has_floats(field.data_type());
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => inside(field),
        DataType::ListView(field) | DataType::LargeListView(field) | DataType::Map(field, _) => inside(field),
        DataType::Struct(fields) => fields.iter().any(inside),
        DataType::Dictionary(_, values) => has_floats(values),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| inside(field)),
        DataType::RunEndEncoded(_, values) => inside(values),
        _ => false,
    }
}

/// The values of a dictionary spelt out; other arrays as they are.
pub fn plain(array: &ArrayRef) -> ArrayRef {
    match array.as_any_dictionary_opt() {
        Some(dictionary) => {
            let values = arrow::compute::take(dictionary.values().as_ref(), dictionary.keys(), None)
                .expect("a dictionary's keys are inside its values");
            plain(&values)
        }
        None => ArrayRef::clone(array),
    }
}

macro_rules! widened {
    ($array:expr, $kind:ty) => {
        Cow::Owned(
            $array
                .as_primitive::<$kind>()
                .values()
                .iter()
                .map(|v| i64::from(*v) as u64)
                .collect(),
        )
    };
}

/// 64-bit values are words as they lie in memory.
macro_rules! as_they_are {
    ($array:expr, $kind:ty) => {
        Cow::Borrowed($array.as_primitive::<$kind>().values().inner().typed_data::<u64>())
    };
}

fn words(array: &dyn Array) -> Option<Cow<'_, [u64]>> {
    use DataType::*;
    Some(match array.data_type() {
        Boolean => Cow::Owned(array.as_boolean().values().iter().map(u64::from).collect()),
        Int8 => widened!(array, Int8Type),
        Int16 => widened!(array, Int16Type),
        Int32 => widened!(array, Int32Type),
        Int64 => as_they_are!(array, Int64Type),
        UInt8 => widened!(array, UInt8Type),
        UInt16 => widened!(array, UInt16Type),
        UInt32 => widened!(array, UInt32Type),
        UInt64 => as_they_are!(array, UInt64Type),
        Float16 => Cow::Owned(
            array
                .as_primitive::<Float16Type>()
                .values()
                .iter()
                .map(|v| float_word(v.to_f64()))
                .collect(),
        ),
        Float32 => Cow::Owned(
            array
                .as_primitive::<Float32Type>()
                .values()
                .iter()
                .map(|v| float_word(f64::from(*v)))
                .collect(),
        ),
        Float64 => Cow::Owned(
            array
                .as_primitive::<Float64Type>()
                .values()
                .iter()
                .map(|v| float_word(*v))
                .collect(),
        ),
        _ => return time_words(array),
    })
}

fn time_words(array: &dyn Array) -> Option<Cow<'_, [u64]>> {
    use DataType::*;
    Some(match array.data_type() {
        Date32 => widened!(array, Date32Type),
        Date64 => as_they_are!(array, Date64Type),
        Time32(TimeUnit::Second) => widened!(array, Time32SecondType),
        Time32(_) => widened!(array, Time32MillisecondType),
        Time64(TimeUnit::Microsecond) => as_they_are!(array, Time64MicrosecondType),
        Time64(_) => as_they_are!(array, Time64NanosecondType),
        Timestamp(TimeUnit::Second, _) => as_they_are!(array, TimestampSecondType),
        Timestamp(TimeUnit::Millisecond, _) => as_they_are!(array, TimestampMillisecondType),
        Timestamp(TimeUnit::Microsecond, _) => as_they_are!(array, TimestampMicrosecondType),
        Timestamp(TimeUnit::Nanosecond, _) => as_they_are!(array, TimestampNanosecondType),
        Duration(TimeUnit::Second) => as_they_are!(array, DurationSecondType),
        Duration(TimeUnit::Millisecond) => as_they_are!(array, DurationMillisecondType),
        Duration(TimeUnit::Microsecond) => as_they_are!(array, DurationMicrosecondType),
        Duration(TimeUnit::Nanosecond) => as_they_are!(array, DurationNanosecondType),
        Interval(IntervalUnit::YearMonth) => widened!(array, IntervalYearMonthType),
        Interval(IntervalUnit::DayTime) => Cow::Owned(
            array
                .as_primitive::<IntervalDayTimeType>()
                .values()
                .iter()
                .map(|v| u64::from(v.days as u32) << 32 | u64::from(v.milliseconds as u32))
                .collect(),
        ),
        _ => return None,
    })
}

fn wide(array: &dyn Array) -> Option<Vec<u128>> {
    Some(match array.data_type() {
        DataType::Decimal32(_, _) => array
            .as_primitive::<Decimal32Type>()
            .values()
            .iter()
            .map(|v| i128::from(*v) as u128)
            .collect(),
        DataType::Decimal64(_, _) => array
            .as_primitive::<Decimal64Type>()
            .values()
            .iter()
            .map(|v| i128::from(*v) as u128)
            .collect(),
        DataType::Decimal128(_, _) => array
            .as_primitive::<Decimal128Type>()
            .values()
            .iter()
            .map(|v| *v as u128)
            .collect(),
        DataType::Interval(IntervalUnit::MonthDayNano) => array
            .as_primitive::<IntervalMonthDayNanoType>()
            .values()
            .iter()
            .map(|v| {
                u128::from(v.months as u32) << 96 | u128::from(v.days as u32) << 64 | u128::from(v.nanoseconds as u64)
            })
            .collect(),
        _ => return None,
    })
}

fn bytes(array: &dyn Array) -> Option<BytesColumn<'_>> {
    Some(match array.data_type() {
        DataType::Utf8 => small(array.as_string::<i32>()),
        DataType::Binary => small(array.as_binary::<i32>()),
        DataType::LargeUtf8 => large(array.as_string::<i64>()),
        DataType::LargeBinary => large(array.as_binary::<i64>()),
        DataType::Utf8View => BytesColumn::StringView(array.as_string_view()),
        DataType::BinaryView => BytesColumn::BinaryView(array.as_binary_view()),
        DataType::FixedSizeBinary(width) => BytesColumn::Fixed {
            width: *width as usize,
            data: array.as_fixed_size_binary().value_data(),
        },
        _ => return None,
    })
}

fn small<T: ByteArrayType<Offset = i32>>(array: &arrow::array::GenericByteArray<T>) -> BytesColumn<'_> {
    BytesColumn::Small {
        offsets: array.value_offsets(),
        data: array.value_data(),
    }
}

fn large<T: ByteArrayType<Offset = i64>>(array: &arrow::array::GenericByteArray<T>) -> BytesColumn<'_> {
    BytesColumn::Large {
        offsets: array.value_offsets(),
        data: array.value_data(),
    }
}

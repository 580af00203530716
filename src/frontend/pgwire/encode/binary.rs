//! Values in binary format, as each type's send function in Postgres lays them out. Types whose binary form is their text
//! go to `text`.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteArray};
use arrow::datatypes::{
    ArrowNativeType, ByteArrayType, DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type,
    DecimalType, Field, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use bytes::{BufMut, BytesMut};

use super::datetime::{postgres_days, postgres_micros};
use super::number::decimal_binary;
use super::text::{date_days, interval_parts, is_list, primitive, string_writer, time_micros, timestamp_micros};
use super::{
    AllNull, Format, OutputStyle, Result, Writer, array_writer, column_type, json, length_prefixed, value_writer,
};
use crate::frontend::pgwire::error::Error;
use crate::types::SqlType;

/// The version byte of `jsonb_send`.
const JSONB_VERSION: u8 = 1;

/// The writer of `array`, whose column is `field`.
pub(super) fn writer(array: &ArrayRef, field: &Field, style: &OutputStyle) -> Result<Writer> {
    let of = column_type(field)?;
    if let Some(writer) = number_writer(array, &of) {
        return Ok(writer);
    }
    if let Some(text) = string_writer(array) {
        return Ok(if of == SqlType::Jsonb { jsonb(array, text) } else { text });
    }
    if let Some(writer) = interval_parts(array, interval) {
        return Ok(writer);
    }
    match array.data_type() {
        DataType::Null => Ok(Box::new(AllNull)),
        DataType::Boolean => Ok(array_writer(array.as_boolean().clone(), |array, row, out| {
            out.put_u8(u8::from(array.value(row)));
            Ok(())
        })),
        DataType::Binary => Ok(raw(array.as_binary::<i32>())),
        DataType::LargeBinary => Ok(raw(array.as_binary::<i64>())),
        DataType::BinaryView => Ok(array_writer(array.as_binary_view().clone(), |array, row, out| {
            out.put_slice(array.value(row));
            Ok(())
        })),
        DataType::FixedSizeBinary(_) => Ok(array_writer(array.as_fixed_size_binary().clone(), |array, row, out| {
            out.put_slice(array.value(row));
            Ok(())
        })),
        DataType::Date32 | DataType::Date64 => Ok(date_days(array, |days, out| {
            out.put_i32(postgres_days(days)?);
            Ok(())
        })),
        DataType::Time32(_) | DataType::Time64(_) => time_micros(array, |micros, out| {
            out.put_i64(micros);
            Ok(())
        }),
        DataType::Timestamp(unit, _) => Ok(timestamp_micros(array, *unit, |micros, out| {
            out.put_i64(postgres_micros(micros)?);
            Ok(())
        })),
        DataType::List(_) | DataType::LargeList(_) | DataType::FixedSizeList(_, _) => list(array, field, &of, style),
        DataType::Struct(_) | DataType::Map(_, _) => json::writer(array, field),
        _ => Err(Error::unsupported_column(field)),
    }
}

/// Numbers in the width of the Postgres type that the client was told: an unsigned integer in the next wider one.
fn number_writer(array: &ArrayRef, of: &SqlType) -> Option<Writer> {
    Some(match array.data_type() {
        DataType::Int8 => primitive::<Int8Type>(array, |value, out| {
            out.put_i16(i16::from(value));
            Ok(())
        }),
        DataType::Int16 => primitive::<Int16Type>(array, |value, out| {
            out.put_i16(value);
            Ok(())
        }),
        DataType::Int32 => primitive::<Int32Type>(array, |value, out| {
            out.put_i32(value);
            Ok(())
        }),
        DataType::Int64 => primitive::<Int64Type>(array, |value, out| {
            out.put_i64(value);
            Ok(())
        }),
        DataType::UInt8 => primitive::<UInt8Type>(array, |value, out| {
            out.put_i16(i16::from(value));
            Ok(())
        }),
        DataType::UInt16 => primitive::<UInt16Type>(array, |value, out| {
            out.put_i32(i32::from(value));
            Ok(())
        }),
        DataType::UInt32 if *of == SqlType::Oid => primitive::<UInt32Type>(array, |value, out| {
            out.put_u32(value);
            Ok(())
        }),
        DataType::UInt32 => primitive::<UInt32Type>(array, |value, out| {
            out.put_i64(i64::from(value));
            Ok(())
        }),
        DataType::UInt64 => primitive::<UInt64Type>(array, |value, out| {
            decimal_binary(itoa::Buffer::new().format(value), 0, out)
        }),
        DataType::Float16 => primitive::<Float16Type>(array, |value, out| {
            out.put_f32(value.to_f32());
            Ok(())
        }),
        DataType::Float32 => primitive::<Float32Type>(array, |value, out| {
            out.put_f32(value);
            Ok(())
        }),
        DataType::Float64 => primitive::<Float64Type>(array, |value, out| {
            out.put_f64(value);
            Ok(())
        }),
        DataType::Decimal32(_, scale) => decimal::<Decimal32Type>(array, *scale),
        DataType::Decimal64(_, scale) => decimal::<Decimal64Type>(array, *scale),
        DataType::Decimal128(_, scale) => {
            let scale = *scale;
            primitive::<Decimal128Type>(array, move |value, out| {
                decimal_binary(itoa::Buffer::new().format(value), scale, out)
            })
        }
        DataType::Decimal256(_, scale) => decimal::<Decimal256Type>(array, *scale),
        _ => return None,
    })
}

fn decimal<T: DecimalType<Native: std::fmt::Display>>(array: &ArrayRef, scale: i8) -> Writer {
    primitive::<T>(array, move |value, out| decimal_binary(&value.to_string(), scale, out))
}

fn raw<T: ByteArrayType>(array: &GenericByteArray<T>) -> Writer {
    array_writer(array.clone(), |array, row, out| {
        let value: &[u8] = array.value(row).as_ref();
        out.put_slice(value);
        Ok(())
    })
}

fn interval(months: i32, days: i32, micros: i64, out: &mut BytesMut) -> Result<()> {
    out.put_i64(micros);
    out.put_i32(days);
    out.put_i32(months);
    Ok(())
}

fn jsonb(array: &ArrayRef, text: Writer) -> Writer {
    array_writer(ArrayRef::clone(array), move |_, row, out| {
        out.put_u8(JSONB_VERSION);
        text.write(row, out)
    })
}

/// Which rows of the next level belong to each row of a list array.
struct Level {
    array: ArrayRef,
}

impl Level {
    fn rows(&self, row: usize) -> Range<usize> {
        match self.array.data_type() {
            DataType::LargeList(_) => {
                let offsets = self.array.as_list::<i64>().value_offsets();
                offsets[row].as_usize()..offsets[row + 1].as_usize()
            }
            DataType::FixedSizeList(_, _) => {
                let list = self.array.as_fixed_size_list();
                let start = usize::try_from(list.value_offset(row)).unwrap_or(0);
                start..start + usize::try_from(list.value_length()).unwrap_or(0)
            }
            _ => {
                let offsets = self.array.as_list::<i32>().value_offsets();
                offsets[row].as_usize()..offsets[row + 1].as_usize()
            }
        }
    }
}

/// An array of one or more dimensions: dimension count, null flag, element OID, the size of each dimension, the elements.
fn list(array: &ArrayRef, field: &Field, of: &SqlType, style: &OutputStyle) -> Result<Writer> {
    let mut levels = Vec::new();
    let mut inner = ArrayRef::clone(array);
    let mut element = field.clone();
    while is_list(inner.data_type()) {
        let (values, values_field) = level_values(&inner)?;
        levels.push(Level { array: inner });
        inner = super::plain(&values)?;
        element = values_field;
    }
    let mut element_type = of;
    while let SqlType::Array(next) = element_type {
        element_type = next;
    }
    let element_oid = element_type.oid();
    let elements = value_writer(&inner, &element, Format::Binary, style)?;
    Ok(array_writer(ArrayRef::clone(array), move |_, row, out| {
        write_list(&levels, &elements, element_oid, row, out)
    }))
}

fn level_values(array: &ArrayRef) -> Result<(ArrayRef, Field)> {
    Ok(match array.data_type() {
        DataType::List(element) => (
            ArrayRef::clone(array.as_list::<i32>().values()),
            element.as_ref().clone(),
        ),
        DataType::LargeList(element) => (
            ArrayRef::clone(array.as_list::<i64>().values()),
            element.as_ref().clone(),
        ),
        DataType::FixedSizeList(element, _) => (
            ArrayRef::clone(array.as_fixed_size_list().values()),
            element.as_ref().clone(),
        ),
        other => return Err(Error::internal(format!("{other} is not a list"))),
    })
}

fn write_list(levels: &[Level], elements: &Writer, element_oid: u32, row: usize, out: &mut BytesMut) -> Result<()> {
    let mut dimensions = Vec::with_capacity(levels.len());
    let mut rows = row..row + 1;
    for level in levels {
        let mut size = None;
        let mut next: Option<Range<usize>> = None;
        for row in rows.clone() {
            let of_row = level.rows(row);
            let is_uniform = size.is_none_or(|size| size == of_row.len());
            let follows = next.as_ref().is_none_or(|next| next.end == of_row.start);
            if level.array.is_null(row) || !is_uniform || !follows {
                return Err(Error::RaggedArray);
            }
            size = Some(of_row.len());
            next = Some(next.map_or(of_row.start, |next| next.start)..of_row.end);
        }
        dimensions.push(size.unwrap_or(0));
        rows = next.unwrap_or(0..0);
    }
    let is_empty = rows.is_empty();
    let has_null = rows.clone().any(|row| elements.is_null(row));
    out.put_i32(if is_empty { 0 } else { word(dimensions.len())? });
    out.put_i32(i32::from(has_null));
    out.put_u32(element_oid);
    if is_empty {
        return Ok(());
    }
    for size in dimensions {
        out.put_i32(word(size)?);
        // Postgres arrays count from 1.
        out.put_i32(1);
    }
    for row in rows {
        if elements.is_null(row) {
            out.put_i32(-1);
        } else {
            length_prefixed(out, |out| elements.write(row, out))?;
        }
    }
    Ok(())
}

fn word(count: usize) -> Result<i32> {
    i32::try_from(count).map_err(|_| Error::ValueTooLong { bytes: count })
}

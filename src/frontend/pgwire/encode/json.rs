//! STRUCT and MAP as JSON text, as `to_json` of Postgres writes a composite: numbers and booleans bare, everything else a
//! string, JSON values as they are, timestamps in ISO 8601. Members are always there; what is missing is `null`.

use arrow::array::{Array, ArrayRef, AsArray, MapArray, StructArray};
use arrow::datatypes::{DataType, Field, FieldRef};
use bytes::{BufMut, BytesMut};

use super::text::{is_list, number_writer, string_writer, timestamp_writer};
use super::{Format, OutputStyle, Result, Writer, array_writer, plain, value_writer};
use crate::frontend::pgwire::error::Error;
use crate::types::{EXTENSION_NAME_KEY, JSON_EXTENSION};

/// The writer of `array`, whose column is `field`, as a JSON value. Times are in UTC: the session's zone must not change
/// what is inside of a value.
pub(super) fn writer(array: &ArrayRef, field: &Field) -> Result<Writer> {
    let array = &plain(array)?;
    if let Some(number) = number_writer(array) {
        return Ok(finite_or_quoted(array, number));
    }
    if let Some(text) = string_writer(array) {
        let is_json = field
            .metadata()
            .get(EXTENSION_NAME_KEY)
            .is_some_and(|name| name == JSON_EXTENSION);
        return Ok(if is_json { text } else { quoted(array, text) });
    }
    if is_list(array.data_type()) {
        return list(array);
    }
    match array.data_type() {
        DataType::Boolean => Ok(array_writer(array.as_boolean().clone(), |array, row, out| {
            out.put_slice(if array.value(row) { b"true" } else { b"false" });
            Ok(())
        })),
        DataType::Timestamp(unit, zone) => {
            let text = timestamp_writer(array, *unit, zone.is_some(), &OutputStyle::default(), b'T');
            Ok(quoted(array, text))
        }
        DataType::Struct(fields) => structure(array.as_struct().clone(), fields),
        DataType::Map(entries, _) => map(array.as_map().clone(), entries),
        _ => {
            let text = value_writer(array, field, Format::Text, &OutputStyle::default())?;
            Ok(quoted(array, text))
        }
    }
}

/// JSON has no NaN and no infinity: those are strings.
fn finite_or_quoted(array: &ArrayRef, number: Writer) -> Writer {
    array_writer(ArrayRef::clone(array), move |_, row, out| {
        let start = out.len();
        number.write(row, out)?;
        if out[start..].iter().any(u8::is_ascii_uppercase) {
            let text = out.split_off(start);
            string(&text, out);
        }
        Ok(())
    })
}

fn quoted(array: &ArrayRef, text: Writer) -> Writer {
    array_writer(ArrayRef::clone(array), move |_, row, out| {
        let start = out.len();
        text.write(row, out)?;
        let value = out.split_off(start);
        string(&value, out);
        Ok(())
    })
}

/// A JSON string of UTF-8 text.
fn string(text: &[u8], out: &mut BytesMut) {
    out.put_u8(b'"');
    for byte in text {
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            0x08 => out.put_slice(b"\\b"),
            0x0c => out.put_slice(b"\\f"),
            0x00..=0x1f => out.put_slice(format!("\\u{byte:04x}").as_bytes()),
            other => out.put_u8(*other),
        }
    }
    out.put_u8(b'"');
}

fn value_or_null(writer: &Writer, row: usize, out: &mut BytesMut) -> Result<()> {
    if writer.is_null(row) {
        out.put_slice(b"null");
        Ok(())
    } else {
        writer.write(row, out)
    }
}

fn list(array: &ArrayRef) -> Result<Writer> {
    let (values, element) = match array.data_type() {
        DataType::List(element) => (array.as_list::<i32>().values(), element),
        DataType::LargeList(element) => (array.as_list::<i64>().values(), element),
        DataType::FixedSizeList(element, _) => (array.as_fixed_size_list().values(), element),
        other => return Err(Error::internal(format!("{other} is not a list"))),
    };
    let elements = writer(values, element)?;
    Ok(array_writer(ArrayRef::clone(array), move |array, row, out| {
        let rows = list_rows(array, row);
        out.put_u8(b'[');
        let first = rows.start;
        for row in rows {
            if row > first {
                out.put_u8(b',');
            }
            value_or_null(&elements, row, out)?;
        }
        out.put_u8(b']');
        Ok(())
    }))
}

fn list_rows(array: &ArrayRef, row: usize) -> std::ops::Range<usize> {
    use arrow::array::OffsetSizeTrait;
    fn between<O: OffsetSizeTrait>(offsets: &[O], row: usize) -> std::ops::Range<usize> {
        offsets[row].as_usize()..offsets[row + 1].as_usize()
    }
    match array.data_type() {
        DataType::LargeList(_) => between(array.as_list::<i64>().value_offsets(), row),
        DataType::FixedSizeList(_, _) => {
            let list = array.as_fixed_size_list();
            let start = usize::try_from(list.value_offset(row)).unwrap_or(0);
            start..start + usize::try_from(list.value_length()).unwrap_or(0)
        }
        _ => between(array.as_list::<i32>().value_offsets(), row),
    }
}

fn structure(array: StructArray, fields: &[FieldRef]) -> Result<Writer> {
    let mut members = Vec::with_capacity(fields.len());
    for (field, column) in fields.iter().zip(array.columns()) {
        let mut name = BytesMut::new();
        string(field.name().as_bytes(), &mut name);
        members.push((name.freeze(), writer(column, field)?));
    }
    Ok(array_writer(array, move |_, row, out| {
        out.put_u8(b'{');
        for (at, (name, value)) in members.iter().enumerate() {
            if at > 0 {
                out.put_u8(b',');
            }
            out.put_slice(name);
            out.put_u8(b':');
            value_or_null(value, row, out)?;
        }
        out.put_u8(b'}');
        Ok(())
    }))
}

fn map(array: MapArray, entries: &Field) -> Result<Writer> {
    let DataType::Struct(fields) = entries.data_type() else {
        return Err(Error::internal("the entries of a map are not a struct"));
    };
    let keys = value_writer(array.keys(), &fields[0], Format::Text, &OutputStyle::default())?;
    let values = writer(array.values(), &fields[1])?;
    Ok(array_writer(array, move |array, row, out| {
        let offsets = array.value_offsets();
        let rows = usize::try_from(offsets[row]).unwrap_or(0)..usize::try_from(offsets[row + 1]).unwrap_or(0);
        out.put_u8(b'{');
        let first = rows.start;
        for row in rows {
            if row > first {
                out.put_u8(b',');
            }
            let start = out.len();
            keys.write(row, out)?;
            let key = out.split_off(start);
            string(&key, out);
            out.put_u8(b':');
            value_or_null(&values, row, out)?;
        }
        out.put_u8(b'}');
        Ok(())
    }))
}

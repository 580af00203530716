//! COPY .. FROM STDIN: text, CSV or binary, as Postgres's COPY TO writes them, to rows.
//!
//! Guarantee: all data is read before any row is inserted; an error names the line (in binary: the row) where it is.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_empty_array};
use arrow::datatypes::{Field, Schema};
use datafusion::common::ScalarValue;

use super::encode::{Format, Zone};
use super::error::Error;
use super::parameter::decode;
use crate::error::{ErrorReport, Report, SqlState};
use crate::frontend::sql::statement::{CopyFormat, CopyKind};
use crate::types::SqlType;
use crate::types::record_batch::batch_of_rows;

const BINARY_SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// The values of a row, NULL being none.
type Values = Vec<Option<Vec<u8>>>;

/// The rows in `data`, in columns of these names and types.
pub fn rows(
    format: &CopyFormat,
    columns: &[(String, SqlType)],
    data: &[u8],
    zone: &Zone,
) -> Result<RecordBatch, Error> {
    let value_format = match format.kind {
        CopyKind::Binary => Format::Binary,
        CopyKind::Text | CopyKind::Csv => Format::Text,
    };
    let mut reader: Box<dyn FnMut() -> Result<Option<Values>, Error> + '_> = match format.kind {
        CopyKind::Text => text(format, data),
        CopyKind::Csv => csv(format, data),
        CopyKind::Binary => binary(data)?,
    };
    let mut values: Vec<Vec<ScalarValue>> = columns.iter().map(|_| Vec::new()).collect();
    let mut line = 0;
    let mut header = format.header;
    loop {
        line += 1;
        let Some(row) = reader().map_err(|error| at_line(error, line))? else {
            break;
        };
        if std::mem::take(&mut header) {
            continue;
        }
        let decoded = decode_row(row, columns, value_format, zone).map_err(|error| at_line(error, line))?;
        for (column, value) in values.iter_mut().zip(decoded) {
            column.push(value);
        }
    }
    let rows = values.first().map_or(0, Vec::len);
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
    for (values, (_, of)) in values.into_iter().zip(columns) {
        arrays.push(match values.is_empty() {
            true => new_empty_array(&of.to_arrow()),
            false => ScalarValue::iter_to_array(values).map_err(|error| Error::internal(error.to_string()))?,
        });
    }
    let field = |(array, (name, _)): (&ArrayRef, &(String, SqlType))| Field::new(name, array.data_type().clone(), true);
    let schema = Schema::new(arrays.iter().zip(columns).map(field).collect::<Vec<_>>());
    batch_of_rows(Arc::new(schema), arrays, rows).map_err(|error| Error::internal(error.to_string()))
}

fn decode_row(
    row: Values,
    columns: &[(String, SqlType)],
    format: Format,
    zone: &Zone,
) -> Result<Vec<ScalarValue>, Error> {
    if row.len() > columns.len() {
        return Err(bad_file("extra data after last expected column"));
    }
    if let Some((name, _)) = columns.get(row.len()) {
        return Err(bad_file(format!("missing data for column \"{name}\"")));
    }
    let value = |(value, (_, of)): (Option<Vec<u8>>, &(String, SqlType))| {
        decode(of, format, value.as_deref(), zone).map(|parameter| parameter.value)
    };
    row.into_iter().zip(columns).map(value).collect()
}

fn bad_file(message: impl Into<String>) -> Error {
    Error::BadValue {
        code: SqlState::BAD_COPY_FILE_FORMAT,
        message: message.into(),
    }
}

fn at_line(error: Error, line: usize) -> Error {
    let report = error.report();
    Error::Statement(ErrorReport {
        detail: report
            .detail
            .clone()
            .or_else(|| Some(format!("In line {line} of the data."))),
        ..report
    })
}

type Reader<'a> = Box<dyn FnMut() -> Result<Option<Values>, Error> + 'a>;

/// Lines with backslashes; `\.` alone ends the data.
fn text<'a>(format: &'a CopyFormat, data: &'a [u8]) -> Reader<'a> {
    let mut rest = data;
    Box::new(move || {
        if rest.is_empty() {
            return Ok(None);
        }
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
        if line == b"\\." {
            rest = &[];
            return Ok(None);
        }
        Ok(Some(text_values(format, line)))
    })
}

fn text_values(format: &CopyFormat, line: &[u8]) -> Values {
    let mut values = Vec::new();
    let mut start = 0;
    let mut at = 0;
    let mut field = |raw: &[u8]| {
        values.push((raw != format.null.as_bytes()).then(|| unescaped(raw)));
    };
    while at < line.len() {
        if line[at] == b'\\' {
            at += 2;
        } else if char::from(line[at]) == format.delimiter {
            field(&line[start..at]);
            at += 1;
            start = at;
        } else {
            at += 1;
        }
    }
    field(&line[start..]);
    values
}

fn unescaped(raw: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(raw.len());
    let mut at = 0;
    while let Some(byte) = raw.get(at) {
        at += 1;
        let Some(escaped) = raw.get(at).filter(|_| *byte == b'\\') else {
            value.push(*byte);
            continue;
        };
        at += 1;
        let digits = |base: u32, from: usize, most: usize| {
            let digits = raw[from..].iter().take(most);
            digits.take_while(|digit| char::from(**digit).is_digit(base)).count()
        };
        let number = |base: u32, range: &[u8]| {
            let value = range.iter().filter_map(|digit| char::from(*digit).to_digit(base));
            value.fold(0_u32, |sum, digit| sum * base + digit) as u8
        };
        match escaped {
            b'b' => value.push(0x08),
            b'f' => value.push(0x0c),
            b'n' => value.push(b'\n'),
            b'r' => value.push(b'\r'),
            b't' => value.push(b'\t'),
            b'v' => value.push(0x0b),
            b'x' if digits(16, at, 2) > 0 => {
                let count = digits(16, at, 2);
                value.push(number(16, &raw[at..at + count]));
                at += count;
            }
            b'0'..=b'7' => {
                let count = digits(8, at - 1, 3);
                value.push(number(8, &raw[at - 1..at - 1 + count]));
                at += count - 1;
            }
            other => value.push(*other),
        }
    }
    value
}

/// Quoted values may hold delimiters and line ends, and are never NULL.
fn csv<'a>(format: &'a CopyFormat, data: &'a [u8]) -> Reader<'a> {
    let mut rest = data;
    Box::new(move || {
        if rest.is_empty() || rest == b"\\." || rest.starts_with(b"\\.\n") || rest.starts_with(b"\\.\r\n") {
            return Ok(None);
        }
        let (values, read) = csv_values(format, rest)?;
        rest = &rest[read..];
        Ok(Some(values))
    })
}

fn csv_values(format: &CopyFormat, data: &[u8]) -> Result<(Values, usize), Error> {
    let is = |byte: u8, character: char| char::from(byte) == character;
    let mut values = Vec::new();
    let (mut value, mut was_quoted, mut quoted) = (Vec::new(), false, false);
    let mut at = 0;
    let finish = |value: &mut Vec<u8>, was_quoted: &mut bool, values: &mut Values| {
        let value = std::mem::take(value);
        let is_null = !std::mem::take(was_quoted) && value == format.null.as_bytes();
        values.push((!is_null).then_some(value));
    };
    while let Some(byte) = data.get(at).copied() {
        at += 1;
        if quoted {
            let next = data.get(at).copied();
            let escapes = next.filter(|next| is(*next, format.quote) || is(*next, format.escape));
            match escapes {
                Some(next) if is(byte, format.escape) => {
                    value.push(next);
                    at += 1;
                }
                _ if is(byte, format.quote) => quoted = false,
                _ => value.push(byte),
            }
        } else if is(byte, format.quote) {
            (quoted, was_quoted) = (true, true);
        } else if is(byte, format.delimiter) {
            finish(&mut value, &mut was_quoted, &mut values);
        } else if byte == b'\n' {
            finish(&mut value, &mut was_quoted, &mut values);
            return Ok((values, at));
        } else if !(byte == b'\r' && data.get(at).is_none_or(|next| *next == b'\n')) {
            value.push(byte);
        }
    }
    if quoted {
        return Err(bad_file("unterminated CSV quoted field"));
    }
    finish(&mut value, &mut was_quoted, &mut values);
    Ok((values, at))
}

fn binary(data: &[u8]) -> Result<Reader<'_>, Error> {
    let mut rest = data
        .strip_prefix(BINARY_SIGNATURE)
        .ok_or_else(|| bad_file("COPY file signature not recognized"))?;
    let _flags: [u8; 4] = taken(&mut rest)?;
    let extension = u32::from_be_bytes(taken(&mut rest)?);
    rest = rest
        .get(usize::try_from(extension).unwrap_or(usize::MAX)..)
        .ok_or_else(|| bad_file("invalid COPY file header"))?;
    Ok(Box::new(move || {
        let count = i16::from_be_bytes(taken(&mut rest)?);
        if count == -1 {
            return Ok(None);
        }
        let mut values = Vec::new();
        for _ in 0..count {
            let length = i32::from_be_bytes(taken(&mut rest)?);
            values.push(match usize::try_from(length) {
                Err(_) => None,
                Ok(length) => {
                    let value = rest
                        .get(..length)
                        .ok_or_else(|| bad_file("unexpected EOF in COPY data"))?;
                    rest = &rest[length..];
                    Some(value.to_vec())
                }
            });
        }
        Ok(Some(values))
    }))
}

fn taken<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Error> {
    let (first, behind) = rest
        .split_first_chunk::<N>()
        .ok_or_else(|| bad_file("unexpected EOF in COPY data"))?;
    *rest = behind;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(format: &CopyFormat, data: &str) -> Result<Vec<String>, Error> {
        let columns = [("a".to_owned(), SqlType::Int), ("b".to_owned(), SqlType::Text)];
        let batch = rows(format, &columns, data.as_bytes(), &Zone::default())?;
        let cell = |column: usize, row: usize| {
            let value = ScalarValue::try_from_array(batch.column(column), row).unwrap();
            if value.is_null() {
                "NULL".to_owned()
            } else {
                value.to_string()
            }
        };
        Ok((0..batch.num_rows())
            .map(|row| format!("{}|{}", cell(0, row), cell(1, row)))
            .collect())
    }

    #[test]
    fn text_is_read_as_it_is_written() {
        let format = CopyFormat::new(CopyKind::Text);
        assert_eq!(
            read(&format, "1\tx\\ty\\\\\n\\N\t\\N\r\n3\t\\101\\x42\\q\n\\.\n9\tignored").unwrap(),
            ["1|x\ty\\", "NULL|NULL", "3|ABq"]
        );
        assert_eq!(read(&format, "").unwrap(), [""; 0]);
        for (data, message) in [
            ("1\n", "missing data for column \"b\""),
            ("1\tx\ty\n", "extra data after last expected column"),
        ] {
            let error = read(&format, data).unwrap_err().report();
            assert_eq!((error.code.as_str(), error.message.as_str()), ("22P04", message));
        }
        let error = read(&format, "1\tx\none\ty\n").unwrap_err().report();
        assert_eq!(error.code.as_str(), "22P02");
        assert_eq!(error.detail.as_deref(), Some("In line 2 of the data."));
    }

    #[test]
    fn csv_is_read_as_it_is_written() {
        let format = CopyFormat {
            header: true,
            ..CopyFormat::new(CopyKind::Csv)
        };
        assert_eq!(
            read(&format, "a,b\n1,\"x,\"\"y\"\"\nz\"\r\n2,\n3,\"\"\n,end").unwrap(),
            ["1|x,\"y\"\nz", "2|NULL", "3|", "NULL|end"]
        );
        let error = read(&format, "a,b\n1,\"x\n").unwrap_err().report();
        assert_eq!(error.message, "unterminated CSV quoted field");
    }

    #[test]
    fn binary_is_read() {
        let mut data = BINARY_SIGNATURE.to_vec();
        data.extend([0; 8]);
        for (id, text) in [(7_i32, Some("x")), (8, None)] {
            data.extend(2_i16.to_be_bytes());
            data.extend(4_i32.to_be_bytes());
            data.extend(id.to_be_bytes());
            data.extend(text.map_or(-1, |text| text.len() as i32).to_be_bytes());
            data.extend(text.unwrap_or_default().as_bytes());
        }
        data.extend((-1_i16).to_be_bytes());
        let columns = [("a".to_owned(), SqlType::Int), ("b".to_owned(), SqlType::Text)];
        let format = CopyFormat::new(CopyKind::Binary);
        let batch = rows(&format, &columns, &data, &Zone::default()).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(batch.column(1).null_count(), 1);
        assert!(rows(&format, &columns, &data[..30], &Zone::default()).is_err());
    }
}

//! Parameters of Bind: from text or binary format to typed values.
//!
//! Guarantee: a value of the wrong form is 22P02 (text), 22P03 (binary), 22003 (range) or 22007 (dates), never another value.

use arrow::compute::kernels::cast_utils::{Parser, string_to_datetime};
use arrow::datatypes::{Date32Type, IntervalMonthDayNano, Time64MicrosecondType};
use datafusion::common::ScalarValue;

use super::encode::datetime::{POSTGRES_EPOCH_DAYS, POSTGRES_EPOCH_MICROS};
use super::encode::{Format, Zone};
use super::error::Error;
use crate::error::SqlState;
use crate::frontend::interval::{self, Interval};
use crate::frontend::parameter::Parameter;
use crate::types::SqlType;

type Result<T, E = Error> = std::result::Result<T, E>;

/// Decodes one parameter; `None` is NULL.
pub fn decode(of: &SqlType, format: Format, bytes: Option<&[u8]>, zone: &Zone) -> Result<Parameter> {
    let value = match (bytes, format) {
        (None, _) => null(of)?,
        (Some(bytes), Format::Text) => from_text(of, utf8(bytes)?, zone)?,
        (Some(bytes), Format::Binary) => from_binary(of, bytes)?,
    };
    Ok(Parameter {
        sql_type: of.clone(),
        value,
    })
}

fn null(of: &SqlType) -> Result<ScalarValue> {
    ScalarValue::try_from(&of.to_arrow()).map_err(|error| Error::internal(error.to_string()))
}

fn utf8(bytes: &[u8]) -> Result<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => Err(Error::BadValue {
            code: SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            message: "invalid byte sequence for encoding \"UTF8\"".into(),
        }),
    }
}

fn bad_text(of: &SqlType, text: &str) -> Error {
    let code = match of {
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::TimestampTz | SqlType::Interval => {
            SqlState::INVALID_DATETIME_FORMAT
        }
        _ => SqlState::INVALID_TEXT_REPRESENTATION,
    };
    Error::BadValue {
        code,
        message: format!(
            "invalid input syntax for type {}: \"{}\"",
            of.information_schema_name(),
            text.chars().take(200).collect::<String>()
        ),
    }
}

fn out_of_range(of: &SqlType, text: &str) -> Error {
    Error::BadValue {
        code: SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
        message: format!(
            "value \"{text}\" is out of range for type {}",
            of.information_schema_name()
        ),
    }
}

fn integer<T: TryFrom<i128>>(of: &SqlType, text: &str) -> Result<T> {
    let number: i128 = text.trim().parse().map_err(|_| bad_text(of, text))?;
    T::try_from(number).map_err(|_| out_of_range(of, text.trim()))
}

fn from_text(of: &SqlType, text: &str, zone: &Zone) -> Result<ScalarValue> {
    Ok(match of {
        SqlType::Boolean => ScalarValue::Boolean(Some(boolean(of, text)?)),
        SqlType::TinyInt => ScalarValue::Int8(Some(integer(of, text)?)),
        SqlType::SmallInt => ScalarValue::Int16(Some(integer(of, text)?)),
        SqlType::Int => ScalarValue::Int32(Some(integer(of, text)?)),
        SqlType::BigInt => ScalarValue::Int64(Some(integer(of, text)?)),
        SqlType::UnsignedTinyInt => ScalarValue::UInt8(Some(integer(of, text)?)),
        SqlType::UnsignedSmallInt => ScalarValue::UInt16(Some(integer(of, text)?)),
        SqlType::UnsignedInt | SqlType::Oid => ScalarValue::UInt32(Some(integer(of, text)?)),
        SqlType::UnsignedBigInt => ScalarValue::UInt64(Some(integer(of, text)?)),
        SqlType::Real => ScalarValue::Float32(Some(text.trim().parse().map_err(|_| bad_text(of, text))?)),
        SqlType::Double => ScalarValue::Float64(Some(text.trim().parse().map_err(|_| bad_text(of, text))?)),
        SqlType::Numeric { .. } => numeric(of, text)?,
        SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::Json
        | SqlType::Jsonb
        | SqlType::Name
        | SqlType::SystemChar => ScalarValue::Utf8(Some(text.to_owned())),
        SqlType::Bytea => ScalarValue::Binary(Some(bytea(of, text)?)),
        SqlType::Uuid => {
            let parsed = uuid::Uuid::parse_str(text.trim()).map_err(|_| bad_text(of, text))?;
            ScalarValue::FixedSizeBinary(16, Some(parsed.as_bytes().to_vec()))
        }
        SqlType::Date => {
            let date = text.trim().split([' ', 'T']).next().unwrap_or_default();
            ScalarValue::Date32(Some(Date32Type::parse(date).ok_or_else(|| bad_text(of, text))?))
        }
        SqlType::Time => {
            let micros = Time64MicrosecondType::parse(text.trim()).ok_or_else(|| bad_text(of, text))?;
            ScalarValue::Time64Microsecond(Some(micros))
        }
        SqlType::Timestamp => ScalarValue::TimestampMicrosecond(Some(timestamp(of, text, None)?), None),
        SqlType::TimestampTz => {
            ScalarValue::TimestampMicrosecond(Some(timestamp(of, text, Some(zone))?), Some("+00:00".into()))
        }
        SqlType::Interval => {
            let parsed = interval::parse(text).ok_or_else(|| bad_text(of, text))?;
            interval_value(parsed)?
        }
        SqlType::Array(element) => array_from_text(of, element, text, zone)?,
        SqlType::Struct(_) | SqlType::Map(_, _) => return Err(unsupported(of)),
    })
}

fn unsupported(of: &SqlType) -> Error {
    Error::Unsupported {
        what: format!("a parameter of type {of}"),
        hint: "Pass its parts as parameters of their own, or as JSON text.".into(),
    }
}

fn boolean(of: &SqlType, text: &str) -> Result<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "tr" | "tru" | "true" | "y" | "ye" | "yes" | "on" | "1" => Ok(true),
        "f" | "fa" | "fal" | "fals" | "false" | "n" | "no" | "of" | "off" | "0" => Ok(false),
        _ => Err(bad_text(of, text)),
    }
}

/// Keeps the digits as given: the precision and scale of the value are its own.
fn numeric(of: &SqlType, text: &str) -> Result<ScalarValue> {
    let trimmed = text.trim();
    let (mantissa, exponent) = match trimmed.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| bad_text(of, text))?),
        None => (trimmed, 0),
    };
    let (negative, unsigned) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits: String = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad_text(of, text));
    }
    let fraction = i32::try_from(fraction.len()).map_err(|_| out_of_range(of, trimmed))?;
    let scale = fraction
        .checked_sub(exponent)
        .ok_or_else(|| out_of_range(of, trimmed))?;
    let mut value: i128 = digits.parse().map_err(|_| out_of_range(of, trimmed))?;
    if scale < 0 {
        let factor = 10i128
            .checked_pow(scale.unsigned_abs())
            .ok_or_else(|| out_of_range(of, trimmed))?;
        value = value.checked_mul(factor).ok_or_else(|| out_of_range(of, trimmed))?;
    }
    decimal(of, trimmed, if negative { -value } else { value }, scale.max(0))
}

fn decimal(of: &SqlType, shown: &str, value: i128, scale: i32) -> Result<ScalarValue> {
    let scale = i8::try_from(scale)
        .ok()
        .filter(|scale| *scale <= 38)
        .ok_or_else(|| out_of_range(of, shown))?;
    if value.unsigned_abs() >= 10u128.pow(38) {
        return Err(out_of_range(of, shown));
    }
    Ok(ScalarValue::Decimal128(Some(value), 38, scale))
}

/// Hex and escape format.
fn bytea(of: &SqlType, text: &str) -> Result<Vec<u8>> {
    let bad = || bad_text(of, text);
    if let Some(hex) = text.strip_prefix("\\x") {
        let digits: Vec<u8> = hex
            .chars()
            .filter(|c| !c.is_ascii_whitespace())
            .map(|c| {
                c.to_digit(16)
                    .and_then(|digit| u8::try_from(digit).ok())
                    .ok_or_else(bad)
            })
            .collect::<Result<_>>()?;
        if !digits.len().is_multiple_of(2) {
            return Err(bad());
        }
        return Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = match (first, after) {
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                after
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                after
            }
            (b'\\', _) => return Err(bad()),
            (other, after) => {
                bytes.push(*other);
                after
            }
        };
    }
    Ok(bytes)
}

/// Microseconds since 1970. With `zone`, a text without an offset is in that zone; without, an offset is ignored, as
/// Postgres does for TIMESTAMP.
fn timestamp(of: &SqlType, text: &str, zone: Option<&Zone>) -> Result<i64> {
    let trimmed = text.trim();
    match trimmed.to_ascii_lowercase().as_str() {
        "infinity" | "+infinity" => return Ok(i64::MAX),
        "-infinity" => return Ok(i64::MIN),
        "epoch" => return Ok(0),
        _ => {}
    }
    let (local, has_offset) = split_offset(trimmed);
    let local = local.trim_end();
    let parse = |text: &str| {
        string_to_datetime(&chrono::Utc, text)
            .map(|at| at.timestamp_micros())
            .map_err(|_| bad_text(of, trimmed))
    };
    match zone {
        None => parse(local),
        Some(_) if has_offset => parse(trimmed),
        Some(zone) => Ok(zone.instant_of_local(parse(local)?)),
    }
}

/// Splits `2024-01-01 00:00:00+02` before its offset.
fn split_offset(text: &str) -> (&str, bool) {
    let after_date = text.find([' ', 'T', 't']).unwrap_or(text.len());
    let time = &text[after_date..];
    match time.find(['+', '-', 'Z', 'z']) {
        Some(at) => (&text[..after_date + at], true),
        None => (text, false),
    }
}

/// `{1,NULL,"a b"}`, of one dimension.
fn array_from_text(of: &SqlType, element: &SqlType, text: &str, zone: &Zone) -> Result<ScalarValue> {
    let bad = || bad_text(of, text);
    let inner = text
        .trim()
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        .ok_or_else(bad)?;
    let mut values = Vec::new();
    let mut rest = inner.chars().peekable();
    while rest.peek().is_some() {
        let mut value = String::new();
        let mut quoted = false;
        while rest.next_if(char::is_ascii_whitespace).is_some() {}
        if rest.next_if_eq(&'"').is_some() {
            quoted = true;
            loop {
                match rest.next().ok_or_else(bad)? {
                    '"' => break,
                    '\\' => value.push(rest.next().ok_or_else(bad)?),
                    other => value.push(other),
                }
            }
            while rest.next_if(char::is_ascii_whitespace).is_some() {}
        } else {
            while let Some(character) = rest.next_if(|c| *c != ',') {
                match character {
                    '{' | '}' => return Err(multidimensional()),
                    '"' => return Err(bad()),
                    '\\' => value.push(rest.next().ok_or_else(bad)?),
                    other => value.push(other),
                }
            }
            value.truncate(value.trim_end().len());
        }
        if !quoted && value.eq_ignore_ascii_case("null") {
            values.push(null(element)?);
        } else if !quoted && value.is_empty() {
            return Err(bad());
        } else {
            values.push(from_text(element, &value, zone)?);
        }
        match rest.next() {
            None => {}
            Some(',') if rest.peek().is_some() => {}
            Some(_) => return Err(bad()),
        }
    }
    list(element, values)
}

fn multidimensional() -> Error {
    Error::Unsupported {
        what: "a parameter that is an array of arrays".into(),
        hint: "Pass a one-dimensional array.".into(),
    }
}

fn list(element: &SqlType, values: Vec<ScalarValue>) -> Result<ScalarValue> {
    let element_type = element.to_arrow();
    // Values of NUMERIC have each their own scale: the list has one.
    let values = match element {
        SqlType::Numeric { .. } => values
            .into_iter()
            .map(|value| value.cast_to(&element_type))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Error::BadValue {
                code: SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
                message: error.strip_backtrace(),
            })?,
        _ => values,
    };
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(
        &values,
        &element_type,
    )))
}

/// Reads fixed-width parts and remembers what for.
struct Bytes<'a> {
    of: &'a SqlType,
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn bad(&self) -> Error {
        Error::BadValue {
            code: SqlState::INVALID_BINARY_REPRESENTATION,
            message: format!(
                "incorrect binary data format for type {}",
                self.of.information_schema_name()
            ),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (first, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.bad())?;
        self.rest = rest;
        Ok(*first)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8]> {
        let (first, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.bad())?;
        self.rest = rest;
        Ok(first)
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(i16::from_be_bytes(self.take()?))
    }

    fn i32(&mut self) -> Result<i32> {
        Ok(i32::from_be_bytes(self.take()?))
    }

    fn i64(&mut self) -> Result<i64> {
        Ok(i64::from_be_bytes(self.take()?))
    }

    fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad()) }
    }
}

fn from_binary(of: &SqlType, bytes: &[u8]) -> Result<ScalarValue> {
    let mut input = Bytes { of, rest: bytes };
    let value = match of {
        SqlType::Boolean => ScalarValue::Boolean(Some(input.take::<1>()? != [0])),
        SqlType::TinyInt => {
            let number = input.i16()?;
            ScalarValue::Int8(Some(
                i8::try_from(number).map_err(|_| out_of_range(of, &number.to_string()))?,
            ))
        }
        SqlType::SmallInt => ScalarValue::Int16(Some(input.i16()?)),
        SqlType::Int => ScalarValue::Int32(Some(input.i32()?)),
        SqlType::BigInt => ScalarValue::Int64(Some(input.i64()?)),
        SqlType::UnsignedTinyInt => {
            let number = input.i16()?;
            ScalarValue::UInt8(Some(
                u8::try_from(number).map_err(|_| out_of_range(of, &number.to_string()))?,
            ))
        }
        SqlType::UnsignedSmallInt => {
            let number = input.i32()?;
            ScalarValue::UInt16(Some(
                u16::try_from(number).map_err(|_| out_of_range(of, &number.to_string()))?,
            ))
        }
        SqlType::UnsignedInt => {
            let number = input.i64()?;
            ScalarValue::UInt32(Some(
                u32::try_from(number).map_err(|_| out_of_range(of, &number.to_string()))?,
            ))
        }
        SqlType::Oid => ScalarValue::UInt32(Some(u32::from_be_bytes(input.take()?))),
        SqlType::UnsignedBigInt => {
            let ScalarValue::Decimal128(Some(value), _, scale) = numeric_binary(&mut input)? else {
                return Err(input.bad());
            };
            let whole = value / 10i128.pow(u32::from(scale.unsigned_abs()));
            ScalarValue::UInt64(Some(
                u64::try_from(whole).map_err(|_| out_of_range(of, &whole.to_string()))?,
            ))
        }
        SqlType::Real => ScalarValue::Float32(Some(f32::from_be_bytes(input.take()?))),
        SqlType::Double => ScalarValue::Float64(Some(f64::from_be_bytes(input.take()?))),
        SqlType::Numeric { .. } => numeric_binary(&mut input)?,
        SqlType::Text
        | SqlType::Varchar(_)
        | SqlType::Char(_)
        | SqlType::Json
        | SqlType::Name
        | SqlType::SystemChar => {
            return Ok(ScalarValue::Utf8(Some(utf8(bytes)?.to_owned())));
        }
        SqlType::Jsonb => {
            if input.take::<1>()? != [1] {
                return Err(input.bad());
            }
            return Ok(ScalarValue::Utf8(Some(utf8(input.rest)?.to_owned())));
        }
        SqlType::Bytea => return Ok(ScalarValue::Binary(Some(bytes.to_vec()))),
        SqlType::Uuid => ScalarValue::FixedSizeBinary(16, Some(input.take::<16>()?.to_vec())),
        SqlType::Date => ScalarValue::Date32(Some(match input.i32()? {
            infinite @ (i32::MAX | i32::MIN) => infinite,
            days => days
                .checked_add(POSTGRES_EPOCH_DAYS)
                .ok_or(Error::TimestampOutOfRange)?,
        })),
        SqlType::Time => ScalarValue::Time64Microsecond(Some(input.i64()?)),
        SqlType::Timestamp => ScalarValue::TimestampMicrosecond(Some(instant(input.i64()?)?), None),
        SqlType::TimestampTz => ScalarValue::TimestampMicrosecond(Some(instant(input.i64()?)?), Some("+00:00".into())),
        SqlType::Interval => {
            let (micros, days, months) = (input.i64()?, input.i32()?, input.i32()?);
            interval_value(Interval { months, days, micros })?
        }
        SqlType::Array(element) => array_from_binary(&mut input, element)?,
        SqlType::Struct(_) | SqlType::Map(_, _) => return Err(unsupported(of)),
    };
    input.end()?;
    Ok(value)
}

fn instant(since_2000: i64) -> Result<i64> {
    match since_2000 {
        infinite @ (i64::MAX | i64::MIN) => Ok(infinite),
        micros => micros
            .checked_add(POSTGRES_EPOCH_MICROS)
            .ok_or(Error::TimestampOutOfRange),
    }
}

fn interval_value(interval: Interval) -> Result<ScalarValue> {
    let nanos = interval.micros.checked_mul(1000).ok_or(Error::TimestampOutOfRange)?;
    Ok(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(
        interval.months,
        interval.days,
        nanos,
    ))))
}

fn numeric_binary(input: &mut Bytes<'_>) -> Result<ScalarValue> {
    let group_count = input.i16()?;
    let weight = i32::from(input.i16()?);
    let sign = u16::from_be_bytes(input.take()?);
    let scale = i32::from(input.i16()?);
    if !matches!(sign, 0 | 0x4000) || group_count < 0 || scale < 0 {
        return Err(out_of_range(input.of, if sign == 0xC000 { "NaN" } else { "infinity" }));
    }
    let too_large = |of: &SqlType| out_of_range(of, "a numeric of more than 38 digits");
    let mut value: i128 = 0;
    let mut exponent = 0;
    for position in 0..i32::from(group_count) {
        let group = input.i16()?;
        if !(0..10_000).contains(&group) {
            return Err(input.bad());
        }
        value = value
            .checked_mul(10_000)
            .and_then(|value| value.checked_add(i128::from(group)))
            .ok_or_else(|| too_large(input.of))?;
        exponent = (weight - position) * 4;
    }
    // The value is `value * 10^exponent`; it is kept with `scale` fraction digits.
    let shift = exponent + scale;
    let factor = 10i128
        .checked_pow(shift.unsigned_abs())
        .ok_or_else(|| too_large(input.of))?;
    let unscaled = if shift >= 0 {
        value.checked_mul(factor)
    } else {
        Some(value / factor)
    };
    let unscaled = unscaled.ok_or_else(|| too_large(input.of))?;
    decimal(input.of, "numeric", if sign == 0 { unscaled } else { -unscaled }, scale)
}

fn array_from_binary(input: &mut Bytes<'_>, element: &SqlType) -> Result<ScalarValue> {
    let dimensions = input.i32()?;
    let _has_null = input.i32()?;
    let _element_oid = input.i32()?;
    let count = match dimensions {
        0 => 0,
        1 => {
            let count = input.i32()?;
            let _lower_bound = input.i32()?;
            count
        }
        _ => return Err(multidimensional()),
    };
    let mut values = Vec::new();
    for _ in 0..count {
        values.push(match usize::try_from(input.i32()?) {
            Ok(length) => from_binary(element, input.slice(length)?)?,
            Err(_) => null(element)?,
        });
    }
    list(element, values)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::ArrayRef;
    use bytes::BytesMut;

    use super::*;
    use crate::error::Report;
    use crate::frontend::pgwire::encode::{OutputStyle, RowEncoder};

    fn text(of: &str, text: &str) -> Result<ScalarValue> {
        let of = crate::types::parse(of).unwrap();
        decode(&of, Format::Text, Some(text.as_bytes()), &Zone::Utc).map(|parameter| parameter.value)
    }

    /// The value as the encoder writes it: what a client sent must come back.
    fn encoded(of: &str, value: &ScalarValue, format: Format) -> Vec<u8> {
        let of = crate::types::parse(of).unwrap();
        let array: ArrayRef = value.to_array().unwrap();
        let field = of.to_arrow_field("p", true).with_data_type(array.data_type().clone());
        let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(vec![field]));
        let batch = arrow::array::RecordBatch::try_new(std::sync::Arc::clone(&schema), vec![array]).unwrap();
        let encoder = RowEncoder::new(schema, vec![format], OutputStyle::default());
        let mut out = BytesMut::new();
        encoder.open(&batch).unwrap().tuple(0, &mut out).unwrap();
        out[6..].to_vec()
    }

    #[test]
    fn values_come_back_in_both_formats() {
        let cases = [
            ("boolean", "t"),
            ("tinyint", "-5"),
            ("smallint", "-32768"),
            ("int", "2147483647"),
            ("bigint", "-9223372036854775808"),
            ("tinyint unsigned", "255"),
            ("smallint unsigned", "65535"),
            ("int unsigned", "4294967295"),
            ("bigint unsigned", "18446744073709551615"),
            ("oid", "4294967295"),
            ("real", "1.5"),
            ("double", "1e+100"),
            ("double", "NaN"),
            ("double", "-Infinity"),
            ("numeric", "-12345678901234567890.123456789"),
            ("numeric", "0.00"),
            ("numeric", "1.10"),
            ("numeric", "10000"),
            ("text", "é x"),
            ("jsonb", "{\"a\": 1}"),
            ("bytea", "\\x00ff61"),
            ("uuid", "00112233-4455-6677-8899-aabbccddeeff"),
            ("date", "2024-02-29"),
            ("time", "12:34:56.789"),
            ("timestamp", "2024-02-29 12:34:56.789"),
            ("timestamp", "infinity"),
            ("timestamptz", "2024-02-29 12:34:56+00"),
            ("interval", "1 year 2 mons 3 days 04:05:06.789"),
            ("interval", "-1 mons +2 days"),
            ("interval", "1 day -00:00:01"),
            ("int[]", "{1,NULL,3}"),
            ("text[]", "{\"a b\",NULL,\"NULL\",\"q\\\"\"}"),
            ("int[]", "{}"),
        ];
        for (of, shown) in cases {
            let value = text(of, shown).unwrap();
            assert_eq!(
                String::from_utf8(encoded(of, &value, Format::Text)).unwrap(),
                shown,
                "{of}"
            );
            let binary = encoded(of, &value, Format::Binary);
            let parsed = crate::types::parse(of).unwrap();
            let again = decode(&parsed, Format::Binary, Some(&binary), &Zone::Utc)
                .unwrap()
                .value;
            assert_eq!(
                encoded(of, &again, Format::Text),
                shown.as_bytes(),
                "{of} {shown} by binary"
            );
        }
    }

    #[test]
    fn other_spellings() {
        assert_eq!(
            text("numeric", "1.5e3").unwrap(),
            ScalarValue::Decimal128(Some(1500), 38, 0)
        );
        assert_eq!(text("boolean", " YES ").unwrap(), ScalarValue::Boolean(Some(true)));
        assert_eq!(
            text("bytea", "a\\\\b\\001").unwrap(),
            ScalarValue::Binary(Some(b"a\\b\x01".to_vec()))
        );
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        let of = SqlType::TimestampTz;
        let local = decode(&of, Format::Text, Some(b"2024-07-01 02:00:00"), &berlin).unwrap();
        let offset = decode(&of, Format::Text, Some(b"2024-07-01 05:30:00+05:30"), &berlin).unwrap();
        assert_eq!(local, offset);
        assert_eq!(
            text("timestamp", "2024-07-01 02:00:00+02").unwrap(),
            text("timestamp", "2024-07-01T02:00:00").unwrap()
        );
    }

    #[test]
    fn null_has_a_type() {
        let parameter = decode(&SqlType::Int, Format::Binary, None, &Zone::Utc).unwrap();
        assert_eq!(parameter.value, ScalarValue::Int32(None));
    }

    fn code(of: &str, shown: &str) -> SqlState {
        text(of, shown).unwrap_err().code()
    }

    #[test]
    fn wrong_values_have_their_codes() {
        assert_eq!(code("int", "x"), SqlState::INVALID_TEXT_REPRESENTATION);
        assert_eq!(code("int", "3000000000"), SqlState::NUMERIC_VALUE_OUT_OF_RANGE);
        assert_eq!(code("numeric", "1e40"), SqlState::NUMERIC_VALUE_OUT_OF_RANGE);
        assert_eq!(code("numeric", "."), SqlState::INVALID_TEXT_REPRESENTATION);
        assert_eq!(code("date", "2024-13-01"), SqlState::INVALID_DATETIME_FORMAT);
        assert_eq!(code("timestamp", "yesterdayish"), SqlState::INVALID_DATETIME_FORMAT);
        assert_eq!(code("uuid", "1"), SqlState::INVALID_TEXT_REPRESENTATION);
        assert_eq!(code("int[]", "{{1}}"), SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(code("int[]", "1,2"), SqlState::INVALID_TEXT_REPRESENTATION);
        let short = decode(&SqlType::Int, Format::Binary, Some(&[0, 1]), &Zone::Utc);
        assert_eq!(short.unwrap_err().code(), SqlState::INVALID_BINARY_REPRESENTATION);
        let long = decode(&SqlType::Int, Format::Binary, Some(&[0, 1, 2, 3, 4]), &Zone::Utc);
        assert_eq!(long.unwrap_err().code(), SqlState::INVALID_BINARY_REPRESENTATION);
        let latin1 = decode(&SqlType::Text, Format::Text, Some(&[0xe9]), &Zone::Utc);
        assert_eq!(latin1.unwrap_err().code(), SqlState::CHARACTER_NOT_IN_REPERTOIRE);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        use proptest::prelude::*;
        let types = [
            "int",
            "numeric",
            "int[]",
            "interval",
            "timestamp",
            "jsonb",
            "uuid",
            "bigint unsigned",
            "date",
        ];
        proptest!(|(of in 0..types.len(), bytes in proptest::collection::vec(any::<u8>(), 0..40))| {
            let of = crate::types::parse(types[of]).unwrap();
            let _ = decode(&of, Format::Binary, Some(&bytes), &Zone::Utc);
            let _ = decode(&of, Format::Text, Some(&bytes), &Zone::Utc);
        });
    }
}

//! Numbers: decimals of any width from their digits, floats as the shortest text that reads back.
//!
//! NUMERIC binary: i16 digits, weight, sign, scale, then base-10000 digits, as in `numeric_send`. Float text follows
//! Postgres since version 12, where `extra_float_digits` of 1 and more change nothing: fixed notation for exponents from -4
//! to 14 (float8) or 5 (float4), else scientific with at least two exponent digits.

use bytes::{BufMut, BytesMut};

use super::Result;
use crate::frontend::pgwire::error::Error;

/// A decimal number as text; `digits` is its unscaled value, with a sign when negative.
pub(super) fn decimal_text(digits: &str, scale: i8, out: &mut BytesMut) {
    let (negative, digits) = match digits.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, digits),
    };
    if negative {
        out.put_u8(b'-');
    }
    let Ok(scale) = usize::try_from(scale) else {
        out.put_slice(digits.as_bytes());
        if digits != "0" {
            out.put_bytes(b'0', usize::from(scale.unsigned_abs()));
        }
        return;
    };
    if scale == 0 {
        out.put_slice(digits.as_bytes());
    } else if digits.len() > scale {
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        out.put_slice(whole.as_bytes());
        out.put_u8(b'.');
        out.put_slice(fraction.as_bytes());
    } else {
        out.put_slice(b"0.");
        out.put_bytes(b'0', scale - digits.len());
        out.put_slice(digits.as_bytes());
    }
}

const NUMERIC_NEGATIVE: u16 = 0x4000;
const DIGITS_PER_GROUP: usize = 4;

/// The same number in `numeric_send`'s layout.
pub(super) fn decimal_binary(digits: &str, scale: i8, out: &mut BytesMut) -> Result<()> {
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => (NUMERIC_NEGATIVE, rest),
        None => (0, digits),
    };
    let fraction_digits = usize::try_from(scale).unwrap_or(0);
    // Digits aligned so that the decimal point falls between two groups of four.
    let mut aligned = Vec::with_capacity(digits.len() + 2 * DIGITS_PER_GROUP);
    let whole_digits = if scale < 0 {
        digits.len() + usize::from(scale.unsigned_abs())
    } else {
        digits.len().saturating_sub(fraction_digits)
    };
    let leading = (DIGITS_PER_GROUP - whole_digits % DIGITS_PER_GROUP) % DIGITS_PER_GROUP;
    aligned.resize(leading + fraction_digits.saturating_sub(digits.len()), b'0');
    aligned.extend_from_slice(digits.as_bytes());
    aligned.resize(aligned.len().max(leading + whole_digits), b'0');
    aligned.resize(aligned.len().next_multiple_of(DIGITS_PER_GROUP), b'0');

    let groups: Vec<i16> = aligned.chunks_exact(DIGITS_PER_GROUP).map(group_value).collect();
    let first = groups.iter().position(|group| *group != 0).unwrap_or(groups.len());
    let last = groups
        .iter()
        .rposition(|group| *group != 0)
        .map_or(first, |last| last + 1);
    let significant = &groups[first..last];
    let whole_groups = (leading + whole_digits) / DIGITS_PER_GROUP;
    let weight = if significant.is_empty() {
        0
    } else {
        offset(whole_groups)? - offset(first)? - 1
    };
    let is_zero = significant.is_empty();

    out.put_i16(offset(significant.len())?);
    out.put_i16(weight);
    out.put_u16(if is_zero { 0 } else { sign });
    out.put_i16(offset(fraction_digits)?);
    for group in significant {
        out.put_i16(*group);
    }
    Ok(())
}

fn group_value(digits: &[u8]) -> i16 {
    digits
        .iter()
        .fold(0, |value, digit| value * 10 + i16::from(digit - b'0'))
}

fn offset(count: usize) -> Result<i16> {
    i16::try_from(count).map_err(|_| Error::internal("a decimal has too many digits"))
}

/// A float8 as text.
pub(super) fn double_text(value: f64, out: &mut BytesMut) {
    if value.is_finite() {
        shortest(ryu::Buffer::new().format_finite(value), 15, out);
    } else {
        out.put_slice(non_finite(value.is_nan(), value > 0.0));
    }
}

/// A float4 as text.
pub(super) fn real_text(value: f32, out: &mut BytesMut) {
    if value.is_finite() {
        shortest(ryu::Buffer::new().format_finite(value), 6, out);
    } else {
        out.put_slice(non_finite(value.is_nan(), value > 0.0));
    }
}

fn non_finite(is_nan: bool, positive: bool) -> &'static [u8] {
    match (is_nan, positive) {
        (true, _) => b"NaN",
        (false, true) => b"Infinity",
        (false, false) => b"-Infinity",
    }
}

/// Lays out the digits that ryu found (`12.5`, `1e-7`, `-1.25e30`) as Postgres does.
fn shortest(found: &str, scientific_from: i32, out: &mut BytesMut) {
    let (negative, magnitude) = match found.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, found),
    };
    if negative {
        out.put_u8(b'-');
    }
    let (mantissa, exponent) = magnitude.split_once('e').unwrap_or((magnitude, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = [0u8; 40];
    let mut length = 0;
    for digit in whole.bytes().chain(fraction.bytes()) {
        digits[length] = digit;
        length += 1;
    }
    let zeros = digits[..length].iter().take_while(|digit| **digit == b'0').count();
    let digits = &digits[zeros..length];
    let significant = digits
        .iter()
        .rposition(|digit| *digit != b'0')
        .map_or(0, |last| last + 1);
    if significant == 0 {
        out.put_u8(b'0');
        return;
    }
    let exponent: i32 = exponent.parse().expect("ryu writes a decimal exponent");
    // The exponent of the first significant digit.
    let point = i32::try_from(whole.len()).expect("ryu writes at most 17 digits");
    let skipped = i32::try_from(zeros).expect("ryu writes at most 17 digits");
    let leading_exponent = exponent + point - skipped - 1;
    let digits = &digits[..significant];
    if (-4..scientific_from).contains(&leading_exponent) {
        fixed(digits, leading_exponent, out);
    } else {
        scientific(digits, leading_exponent, out);
    }
}

fn fixed(digits: &[u8], leading_exponent: i32, out: &mut BytesMut) {
    match usize::try_from(leading_exponent) {
        Ok(exponent) if digits.len() > exponent + 1 => {
            out.put_slice(&digits[..=exponent]);
            out.put_u8(b'.');
            out.put_slice(&digits[exponent + 1..]);
        }
        Ok(exponent) => {
            out.put_slice(digits);
            out.put_bytes(b'0', exponent + 1 - digits.len());
        }
        Err(_) => {
            out.put_slice(b"0.");
            for _ in leading_exponent..-1 {
                out.put_u8(b'0');
            }
            out.put_slice(digits);
        }
    }
}

fn scientific(digits: &[u8], leading_exponent: i32, out: &mut BytesMut) {
    out.put_u8(digits[0]);
    if digits.len() > 1 {
        out.put_u8(b'.');
        out.put_slice(&digits[1..]);
    }
    out.put_u8(b'e');
    out.put_u8(if leading_exponent < 0 { b'-' } else { b'+' });
    let exponent = leading_exponent.unsigned_abs();
    if exponent < 10 {
        out.put_u8(b'0');
    }
    out.put_slice(itoa::Buffer::new().format(exponent).as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// Expected texts from PostgreSQL 15.
    #[test]
    fn floats_are_postgres_text() {
        let doubles = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (1.5, "1.5"),
            (100000.0, "100000"),
            (999999999999999.0, "999999999999999"),
            (1e15, "1e+15"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1e100, "1e+100"),
            (-1.25e-7, "-1.25e-07"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (0.1, "0.1"),
            (1e14, "100000000000000"),
            (123456.789, "123456.789"),
        ];
        for (value, expected) in doubles {
            assert_eq!(text(|out| double_text(value, out)), expected);
        }
        let reals = [
            (-0.0f32, "-0"),
            (100000.0, "100000"),
            (999999.0, "999999"),
            (1e6, "1e+06"),
            (1234567.0, "1.234567e+06"),
            (0.00001, "1e-05"),
            (1e30, "1e+30"),
            (0.1, "0.1"),
            (16777216.0, "1.6777216e+07"),
            (f32::MAX, "3.4028235e+38"),
        ];
        for (value, expected) in reals {
            assert_eq!(text(|out| real_text(value, out)), expected);
        }
    }

    #[test]
    fn every_float_reads_back() {
        use proptest::prelude::*;
        proptest!(|(value in any::<f64>().prop_filter("finite", |value| value.is_finite()))| {
            let read: f64 = text(|out| double_text(value, out)).parse().unwrap();
            prop_assert_eq!(read.to_bits(), value.to_bits());
        });
        proptest!(|(value in any::<f32>().prop_filter("finite", |value| value.is_finite()))| {
            let read: f32 = text(|out| real_text(value, out)).parse().unwrap();
            prop_assert_eq!(read.to_bits(), value.to_bits());
        });
    }

    #[test]
    fn decimals_are_postgres_text() {
        let cases = [
            ("0", 0, "0"),
            ("0", 2, "0.00"),
            ("5", 2, "0.05"),
            ("-5", 2, "-0.05"),
            ("12345", 2, "123.45"),
            ("12", -3, "12000"),
            ("0", -3, "0"),
        ];
        for (digits, scale, expected) in cases {
            assert_eq!(text(|out| decimal_text(digits, scale, out)), expected);
        }
    }

    /// Expected bytes from `numeric_send` of PostgreSQL 15.
    #[test]
    fn decimals_are_postgres_binary() {
        let cases = [
            ("0", 0, "0000000000000000"),
            ("0", 2, "0000000000000002"),
            ("1", 0, "00010000000000000001"),
            ("-1", 0, "00010000400000000001"),
            ("10000", 0, "00010001000000000001"),
            ("9999", 0, "0001000000000000270f"),
            ("1", 4, "0001ffff000000040001"),
            ("1", 5, "0001fffe0000000503e8"),
            ("12345678", 3, "0003000100000003000109291a7c"),
            (
                "-12345678901234567890123456789",
                9,
                "000800044000000904d2162e23340d801ed204d2162e2328",
            ),
            ("100000000", 0, "00010002000000000001"),
            ("110", 2, "0002000000000002000103e8"),
            ("5", 1, "0001ffff000000011388"),
            (
                "99999999999999999999999999999999999999",
                0,
                "000a0009000000000063270f270f270f270f270f270f270f270f270f",
            ),
            ("10000000", 4, "000100000000000403e8"),
            ("1", -8, "00010002000000000001"),
        ];
        for (digits, scale, expected) in cases {
            let mut out = BytesMut::new();
            decimal_binary(digits, scale, &mut out).unwrap();
            let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{digits} scale {scale}");
        }
    }
}

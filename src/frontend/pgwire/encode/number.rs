//! Decimals of any width from their digits.
//!
//! NUMERIC binary: i16 digits, weight, sign, scale, then base-10000 digits, as in `numeric_send`.

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
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

//! Floats as Postgres writes them, to clients and in casts to text: the shortest digits that read back.
//!
//! As since Postgres 12, where `extra_float_digits` of 1 and more change nothing: fixed notation for exponents from -4 to 14
//! (float8) or 5 (float4), else scientific with at least two exponent digits; `NaN`, `Infinity`, `-Infinity`.

use bytes::BufMut;

/// A float8 as text.
pub fn double_text(value: f64, out: &mut impl BufMut) {
    if value.is_finite() {
        shortest(ryu::Buffer::new().format_finite(value), 15, out);
    } else {
        out.put_slice(non_finite(value.is_nan(), value > 0.0));
    }
}

/// A float4 as text.
pub fn real_text(value: f32, out: &mut impl BufMut) {
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
fn shortest(found: &str, scientific_from: i32, out: &mut impl BufMut) {
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

fn fixed(digits: &[u8], leading_exponent: i32, out: &mut impl BufMut) {
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

fn scientific(digits: &[u8], leading_exponent: i32, out: &mut impl BufMut) {
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

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
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
}

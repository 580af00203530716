//! Text to values: what the decoders of JSON strings, JSON numbers and CSV fields share.
//!
//! The grammar is that of Postgres input functions where a stream can use it: `t`/`yes`/`1` are booleans, `NaN` and
//! `Infinity` floats, timestamps are RFC 3339 or `YYYY-MM-DD HH:MM:SS[.fraction][zone]`. A timestamp's digits beyond
//! microseconds are cut off, as batch engines do; one with a zone is moved to UTC, also when the column has none.
//!
//! Guarantee: nothing here panics on any input, and no value is silently clamped.

/// Why a text is not a value of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueFault {
    Syntax,
    OutOfRange,
}

pub type ValueResult<T> = Result<T, ValueFault>;

/// A whole number, optionally written with a fraction or an exponent that leave it whole (`12.0`, `1e3`).
pub fn integer(text: &[u8]) -> ValueResult<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() {
        return Err(ValueFault::Syntax);
    }
    if digits.len() <= 36 && digits.iter().all(u8::is_ascii_digit) {
        let value = digits
            .iter()
            .fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
        return Ok(if negative { -value } else { value });
    }
    let number = DecimalText::split(text)?;
    let mut value = number.digits;
    let mut shift = number.exponent.saturating_sub(number.fraction_digits);
    while shift < 0 && value != 0 {
        if value % 10 != 0 {
            return Err(ValueFault::Syntax);
        }
        value /= 10;
        shift += 1;
    }
    while shift > 0 && value != 0 {
        value = value.checked_mul(10).ok_or(ValueFault::OutOfRange)?;
        shift -= 1;
    }
    Ok(if number.negative { -value } else { value })
}

/// The number times `10^scale`, rounded half away from zero.
pub fn scaled_integer(text: &[u8], scale: i32) -> ValueResult<i128> {
    let number = DecimalText::split(text)?;
    let shift = number
        .exponent
        .saturating_sub(number.fraction_digits)
        .saturating_add(scale);
    let mut value = number.digits;
    if value == 0 {
        return Ok(0);
    }
    if shift > 38 {
        return Err(ValueFault::OutOfRange);
    }
    if shift >= 0 {
        for _ in 0..shift {
            value = value.checked_mul(10).ok_or(ValueFault::OutOfRange)?;
        }
    } else if shift < -39 {
        value = 0;
    } else {
        for _ in shift..-1 {
            value /= 10;
        }
        value = (value + 5) / 10;
    }
    Ok(if number.negative { -value } else { value })
}

/// A number as written: sign, digits without the point, how many follow the point, exponent.
struct DecimalText {
    negative: bool,
    digits: i128,
    fraction_digits: i32,
    exponent: i32,
}

impl DecimalText {
    fn split(text: &[u8]) -> ValueResult<DecimalText> {
        let (negative, mut rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let mut number = DecimalText {
            negative,
            digits: 0,
            fraction_digits: 0,
            exponent: 0,
        };
        let (mut seen, mut point) = (false, false);
        while let [byte, tail @ ..] = rest {
            match byte {
                b'0'..=b'9' => {
                    seen = true;
                    number.take_digit(byte - b'0', point)?;
                }
                b'.' if !point => point = true,
                b'e' | b'E' if seen => {
                    number.exponent = exponent(tail)?;
                    break;
                }
                _ => return Err(ValueFault::Syntax),
            }
            rest = tail;
        }
        if seen { Ok(number) } else { Err(ValueFault::Syntax) }
    }

    fn take_digit(&mut self, digit: u8, fraction: bool) -> ValueResult<()> {
        let wider = self
            .digits
            .checked_mul(10)
            .and_then(|v| v.checked_add(i128::from(digit)));
        match wider {
            Some(value) => {
                self.digits = value;
                self.fraction_digits += i32::from(fraction);
                Ok(())
            }
            // Digits after the point beyond what any type keeps only matter for rounding, which has 38 before them.
            None if fraction => Ok(()),
            None => Err(ValueFault::OutOfRange),
        }
    }
}

fn exponent(text: &[u8]) -> ValueResult<i32> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(ValueFault::Syntax);
    }
    let value = digits
        .iter()
        .fold(0i32, |value, digit| (value * 10 + i32::from(digit - b'0')).min(100_000));
    Ok(if negative { -value } else { value })
}

/// A decimal of `precision` digits, `scale` of them after the point.
pub fn decimal(text: &[u8], precision: u8, scale: i8) -> ValueResult<i128> {
    let value = scaled_integer(text, i32::from(scale))?;
    match 10i128.checked_pow(u32::from(precision)) {
        Some(limit) if value.abs() >= limit => Err(ValueFault::OutOfRange),
        _ => Ok(value),
    }
}

const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// A double. Short plain decimals, which are nearly all there are, need one exact division.
pub fn double(text: &[u8]) -> ValueResult<f64> {
    if let Some(value) = short_double(text) {
        return Ok(value);
    }
    let text = std::str::from_utf8(text).map_err(|_| ValueFault::Syntax)?;
    text.parse::<f64>().map_err(|_| ValueFault::Syntax)
}

/// Digits with at most one point, at most 15 digits: mantissa and power of ten are exact, so one division rounds right.
fn short_double(text: &[u8]) -> Option<f64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 16 {
        return None;
    }
    let mut mantissa = 0u64;
    let mut point = None;
    for (index, byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => mantissa = mantissa * 10 + u64::from(byte - b'0'),
            b'.' if point.is_none() => point = Some(index),
            _ => return None,
        }
    }
    let fraction = match point {
        Some(_) if digits.len() == 1 => return None,
        Some(index) => digits.len() - index - 1,
        None => 0,
    };
    if mantissa >= 1 << 53 {
        return None;
    }
    let value = mantissa as f64 / EXACT_POWERS[fraction];
    Some(if negative { -value } else { value })
}

pub fn real(text: &[u8]) -> ValueResult<f32> {
    let text = std::str::from_utf8(text).map_err(|_| ValueFault::Syntax)?;
    text.parse::<f32>().map_err(|_| ValueFault::Syntax)
}

pub fn boolean(text: &[u8]) -> ValueResult<bool> {
    let mut lower = [0u8; 5];
    let lower = lower.get_mut(..text.len()).ok_or(ValueFault::Syntax)?;
    lower.copy_from_slice(text);
    lower.make_ascii_lowercase();
    match &*lower {
        b"true" | b"t" | b"yes" | b"y" | b"on" | b"1" => Ok(true),
        b"false" | b"f" | b"no" | b"n" | b"off" | b"0" => Ok(false),
        _ => Err(ValueFault::Syntax),
    }
}

/// Remembers the last date: consecutive rows nearly always share it.
#[derive(Clone, Copy, Debug, Default)]
pub struct DateCache {
    text: [u8; 10],
    days: i32,
}

impl DateCache {
    #[inline]
    fn days(&mut self, text: &[u8; 10]) -> ValueResult<i32> {
        if self.text != *text {
            self.days = date(text)?;
            self.text = *text;
        }
        Ok(self.days)
    }
}

/// `YYYY-MM-DD` as days since 1970-01-01.
pub fn date(text: &[u8]) -> ValueResult<i32> {
    let text: &[u8; 10] = text.try_into().map_err(|_| ValueFault::Syntax)?;
    if text[4] != b'-' || text[7] != b'-' {
        return Err(ValueFault::Syntax);
    }
    let year = i32::try_from(digits(&text[..4])?).map_err(|_| ValueFault::OutOfRange)?;
    let (month, day) = (digits(&text[5..7])?, digits(&text[8..])?);
    if !(1..=12).contains(&month) || day == 0 || day > days_in_month(year, month) {
        return Err(ValueFault::OutOfRange);
    }
    Ok(days_from_civil(year, month, day))
}

fn days_in_month(year: i32, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar; years are counted from March, so that the leap day
/// is the last of its year, in eras of 400 years.
fn days_from_civil(year: i32, month: u32, day: u32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = ((month + 9) % 12) as i32;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i32 - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The year, month and day that are `days` after 1970-01-01.
pub fn civil_from_days(days: i32) -> (i32, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i32::from(month <= 2);
    (year, month as u32, day as u32)
}

pub const MICROS_A_DAY: i64 = 86_400_000_000;

/// The years 0 to 9999, in microseconds since 1970-01-01.
const YEARS_WRITTEN: std::ops::Range<i64> = -719_528 * MICROS_A_DAY..2_932_897 * MICROS_A_DAY;

/// A timestamp as microseconds since 1970-01-01 UTC.
#[inline]
pub fn timestamp(text: &[u8], dates: &mut DateCache) -> ValueResult<i64> {
    let Some((date_text, rest)) = text.split_first_chunk::<10>() else {
        return Err(ValueFault::Syntax);
    };
    let midnight = i64::from(dates.days(date_text)?) * MICROS_A_DAY;
    match rest {
        [] => Ok(midnight),
        [b'T' | b't' | b' ', clock @ ..] => {
            let (micros, zone) = time_of_day(clock)?;
            let offset = zone_offset(zone)?;
            let utc = midnight + micros - offset;
            // A zone can move it out of the years that can be written.
            match offset == 0 || YEARS_WRITTEN.contains(&utc) {
                true => Ok(utc),
                false => Err(ValueFault::OutOfRange),
            }
        }
        _ => Err(ValueFault::Syntax),
    }
}

/// `HH:MM[:SS[.fraction]]` as microseconds since midnight.
pub fn time(text: &[u8]) -> ValueResult<i64> {
    match time_of_day(text)? {
        (micros, []) => Ok(micros),
        _ => Err(ValueFault::Syntax),
    }
}

/// The time at the front of `text`, and what follows it.
#[inline]
fn time_of_day(text: &[u8]) -> ValueResult<(i64, &[u8])> {
    let Some(([h1, h2, b':', m1, m2], rest)) = text.split_first_chunk::<5>() else {
        return Err(ValueFault::Syntax);
    };
    let (hours, minutes) = (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?);
    let (seconds, rest) = match rest {
        [b':', s1, s2, rest @ ..] => (two_digits(*s1, *s2)?, rest),
        [b':', ..] => return Err(ValueFault::Syntax),
        _ => (0, rest),
    };
    if hours > 23 || minutes > 59 || seconds > 59 {
        return Err(ValueFault::OutOfRange);
    }
    let (fraction, rest) = match rest {
        [b'.' | b',', digits @ ..] => fraction_micros(digits)?,
        _ => (0, rest),
    };
    Ok(((hours * 3600 + minutes * 60 + seconds) * 1_000_000 + fraction, rest))
}

#[inline]
fn fraction_micros(text: &[u8]) -> ValueResult<(i64, &[u8])> {
    // Milliseconds, as nearly everybody writes them.
    if let [a, b, c, rest @ ..] = text
        && rest.first().is_none_or(|next| !next.is_ascii_digit())
    {
        let (a, b, c) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'), c.wrapping_sub(b'0'));
        if a <= 9 && b <= 9 && c <= 9 {
            return Ok(((i64::from(a) * 100 + i64::from(b) * 10 + i64::from(c)) * 1000, rest));
        }
    }
    any_fraction_micros(text)
}

fn any_fraction_micros(text: &[u8]) -> ValueResult<(i64, &[u8])> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return Err(ValueFault::Syntax);
    }
    let kept = &text[..count.min(6)];
    let micros = kept
        .iter()
        .fold(0i64, |micros, digit| micros * 10 + i64::from(digit - b'0'));
    let micros = micros * 10i64.pow(6 - kept.len() as u32);
    Ok((micros, &text[count..]))
}

/// Microseconds that a zone is ahead of UTC; nothing means UTC.
#[inline]
fn zone_offset(text: &[u8]) -> ValueResult<i64> {
    if text.is_empty() || text == b"Z" {
        return Ok(0);
    }
    other_zone_offset(text)
}

fn other_zone_offset(text: &[u8]) -> ValueResult<i64> {
    let text = text.strip_prefix(b" ").unwrap_or(text);
    let (sign, rest) = match text {
        [] | b"Z" | b"z" | b"UTC" => return Ok(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Err(ValueFault::Syntax),
    };
    let (hours, minutes) = match rest {
        [h1, h2] => (two_digits(*h1, *h2)?, 0),
        [h1, h2, m1, m2] | [h1, h2, b':', m1, m2] => (two_digits(*h1, *h2)?, two_digits(*m1, *m2)?),
        _ => return Err(ValueFault::Syntax),
    };
    if hours > 15 || minutes > 59 {
        return Err(ValueFault::OutOfRange);
    }
    Ok(sign * (hours * 60 + minutes) * 60_000_000)
}

#[inline]
fn two_digits(tens: u8, ones: u8) -> ValueResult<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    if tens > 9 || ones > 9 {
        return Err(ValueFault::Syntax);
    }
    Ok(i64::from(tens * 10 + ones))
}

fn digits(text: &[u8]) -> ValueResult<u32> {
    text.iter().try_fold(0u32, |value, byte| {
        if byte.is_ascii_digit() {
            Ok(value * 10 + u32::from(byte - b'0'))
        } else {
            Err(ValueFault::Syntax)
        }
    })
}

/// Bytes written as Postgres does (`\x0aff`) or, as Debezium does, in base64.
pub fn bytes(text: &[u8]) -> ValueResult<Vec<u8>> {
    use base64::Engine;
    match text {
        [b'\\', b'x', hex @ ..] => {
            if hex.len() % 2 != 0 {
                return Err(ValueFault::Syntax);
            }
            hex.chunks(2)
                .map(|pair| Ok(nibble(pair[0])? << 4 | nibble(pair[1])?))
                .collect()
        }
        _ => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| ValueFault::Syntax),
    }
}

fn nibble(digit: u8) -> ValueResult<u8> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ValueFault::Syntax),
    }
}

pub fn uuid(text: &[u8]) -> ValueResult<[u8; 16]> {
    uuid::Uuid::try_parse_ascii(text)
        .map(uuid::Uuid::into_bytes)
        .map_err(|_| ValueFault::Syntax)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn stamp(text: &str) -> ValueResult<i64> {
        timestamp(text.as_bytes(), &mut DateCache::default())
    }

    #[test]
    fn timestamps_in_every_spelling() {
        let base = 1_696_871_600_000_000;
        for (text, micros) in [
            ("2023-10-09T17:13:20Z", 0),
            ("2023-10-09T17:13:20+00:00", 0),
            ("2023-10-09T19:13:20+02:00", 0),
            ("2023-10-09T11:43:20-0530", 0),
            ("2023-10-09 17:13:20", 0),
            ("2023-10-09 17:13:20 UTC", 0),
            ("2023-10-09T17:13:20.2", 200_000),
            ("2023-10-09T17:13:20.200+00:00", 200_000),
            ("2023-10-09T17:13:20.123456789Z", 123_456),
            ("2023-10-09T17:13", -20_000_000),
        ] {
            assert_eq!(stamp(text), Ok(base + micros), "{text}");
        }
        for text in [
            "",
            "2023-10-09T",
            "2023-10-09T1:2:3",
            "2023-1-09",
            "2023-10-09T17:13:20.",
            "2023-10-09T17:13:20+",
        ] {
            assert_eq!(stamp(text), Err(ValueFault::Syntax), "{text}");
        }
        for text in [
            "2023-13-09",
            "2023-02-29",
            "2023-10-09T25:00:00",
            "2023-10-09T23:60:00",
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59.999999-00:01",
        ] {
            assert_eq!(stamp(text), Err(ValueFault::OutOfRange), "{text}");
        }
    }

    #[test]
    fn a_bad_date_does_not_stay_in_the_cache() {
        let mut dates = DateCache::default();
        assert!(timestamp(b"2023-02-30", &mut dates).is_err());
        assert!(timestamp(b"2023-02-30", &mut dates).is_err());
        assert_eq!(timestamp(b"1970-01-02", &mut dates), Ok(MICROS_A_DAY));
    }

    #[test]
    fn numbers_round_and_refuse() {
        assert_eq!(integer(b"12.0"), Ok(12));
        assert_eq!(integer(b"1e3"), Ok(1000));
        assert_eq!(integer(b"12.5"), Err(ValueFault::Syntax));
        assert_eq!(integer(b"12.04"), Err(ValueFault::Syntax));
        assert_eq!(integer(b"1e60"), Err(ValueFault::OutOfRange));
        assert_eq!(integer(b"-"), Err(ValueFault::Syntax));
        assert_eq!(decimal(b"1.005", 10, 2), Ok(101));
        assert_eq!(decimal(b"-1.005", 10, 2), Ok(-101));
        assert_eq!(decimal(b"123.45e1", 10, 2), Ok(123_450));
        assert_eq!(decimal(b"1000", 5, 2), Err(ValueFault::OutOfRange));
        assert_eq!(decimal(b"1e999999999", 38, 2), Err(ValueFault::OutOfRange));
        assert_eq!(decimal(b"1e-999999999", 38, 2), Ok(0));
        assert_eq!(decimal(b".", 38, 2), Err(ValueFault::Syntax));
        assert_eq!(boolean(b"Yes"), Ok(true));
        assert!(boolean(b"falsehood").is_err());
    }

    #[test]
    fn bytes_in_hex_and_base64() {
        assert_eq!(bytes(b"\\x00ff"), Ok(vec![0, 255]));
        assert_eq!(bytes(b"AP8="), Ok(vec![0, 255]));
        assert!(bytes(b"\\x0").is_err());
    }

    proptest! {
        #[test]
        fn doubles_agree_with_the_standard_library(text in "-?[0-9]{1,18}(\\.[0-9]{1,18})?(e-?[0-9]{1,3})?") {
            prop_assert_eq!(double(text.as_bytes()).unwrap().to_bits(), text.parse::<f64>().unwrap().to_bits());
        }

        #[test]
        fn dates_agree_with_chrono(days in -719_000i32..2_900_000) {
            let date_chrono = chrono::DateTime::from_timestamp(i64::from(days) * 86_400, 0).unwrap().date_naive();
            prop_assert_eq!(date(date_chrono.to_string().as_bytes()), Ok(days));
            use chrono::Datelike;
            prop_assert_eq!(civil_from_days(days), (date_chrono.year(), date_chrono.month(), date_chrono.day()));
        }

        #[test]
        fn no_text_panics(text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = (stamp(&String::from_utf8_lossy(&text)), integer(&text), decimal(&text, 38, 9), double(&text));
            let _ = (boolean(&text), date(&text), time(&text), bytes(&text), uuid(&text));
        }
    }
}

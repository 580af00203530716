//! Dates, times and intervals: the text of `DateStyle = ISO` and `IntervalStyle = postgres`, and the binary epochs.
//!
//! Values are Arrow's (since 1970, any unit) and become microseconds since 1970, then Postgres's (since 2000). Postgres's
//! infinities are the extreme integers in both. The calendar is the proleptic Gregorian one of Postgres, with years before 1
//! shown as BC.

use bytes::{BufMut, BytesMut};
use chrono::{DateTime, Offset, TimeZone};

use super::Result;
use crate::frontend::pgwire::error::Error;

pub(super) const MICROS_PER_SECOND: i64 = 1_000_000;
pub(super) const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;
/// From 1970-01-01 to 2000-01-01.
pub(crate) const POSTGRES_EPOCH_DAYS: i32 = 10_957;
pub(crate) const POSTGRES_EPOCH_MICROS: i64 = 10_957 * MICROS_PER_DAY;

/// The session's TimeZone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zone {
    #[default]
    Utc,
    Named(chrono_tz::Tz),
    /// Seconds east of UTC.
    Fixed(i32),
}

impl Zone {
    /// Reads a value of the setting: a name of the zone database, or a fixed offset, as `+05:30` or as Postgres shows it
    /// (`<+05>-05`).
    pub fn parse(setting: &str) -> Option<Zone> {
        if ["utc", "gmt", "etc/utc", "z", "zulu"].contains(&setting.to_ascii_lowercase().as_str()) {
            return Some(Zone::Utc);
        }
        if let Some(rest) = setting.strip_prefix('<') {
            // POSIX: the part in brackets is what is shown (ISO sign), the rest is what it means (opposite sign).
            let shown = rest.split_once('>')?.0;
            return Zone::offset(shown);
        }
        if let Some(fixed) = Zone::offset(setting) {
            return Some(fixed);
        }
        let named = setting.parse().ok().or_else(|| {
            let mut names = chrono_tz::TZ_VARIANTS.iter();
            names.find(|zone| zone.name().eq_ignore_ascii_case(setting)).copied()
        });
        named.map(Zone::Named)
    }

    /// `+05`, `-03:30`.
    fn offset(text: &str) -> Option<Zone> {
        let (sign, digits) = match text.split_at_checked(1)? {
            ("+", rest) => (1, rest),
            ("-", rest) => (-1, rest),
            _ => return None,
        };
        let mut seconds = 0;
        for (part, weight) in digits.split(':').zip([3600, 60, 1]) {
            let number: i32 = part.parse().ok().filter(|number| (0..=59).contains(number))?;
            seconds += number * weight;
        }
        Some(Zone::Fixed(sign * seconds))
    }

    /// Seconds east of UTC at an instant.
    fn offset_at(&self, micros: i64) -> i32 {
        match self {
            Zone::Utc => 0,
            Zone::Fixed(seconds) => *seconds,
            // Outside of chrono's years no zone rule is known.
            Zone::Named(zone) => DateTime::from_timestamp_micros(micros).map_or(0, |at| {
                zone.offset_from_utc_datetime(&at.naive_utc()).fix().local_minus_utc()
            }),
        }
    }

    /// The instant at which a wall clock in this zone shows `local` microseconds, for parameters given without an offset.
    pub(crate) fn instant_of_local(&self, local: i64) -> i64 {
        let first = local - i64::from(self.offset_at(local)) * MICROS_PER_SECOND;
        // The offset in force at the instant itself; they differ only near a change of the rule.
        local - i64::from(self.offset_at(first)) * MICROS_PER_SECOND
    }
}

/// Arrow's unit counted in Postgres's.
pub(super) fn to_micros(value: i64, unit: arrow::datatypes::TimeUnit) -> Result<i64> {
    use arrow::datatypes::TimeUnit;
    let scaled = match unit {
        TimeUnit::Microsecond => Some(value),
        TimeUnit::Second => value.checked_mul(MICROS_PER_SECOND),
        TimeUnit::Millisecond => value.checked_mul(1000),
        TimeUnit::Nanosecond => Some(nanos_to_micros(value)),
    };
    scaled.ok_or(Error::TimestampOutOfRange)
}

/// Rounds half up.
pub(super) fn nanos_to_micros(nanos: i64) -> i64 {
    nanos.div_euclid(1000) + i64::from(nanos.rem_euclid(1000) >= 500)
}

/// Since 2000, as `timestamp_send` has it.
pub(super) fn postgres_micros(micros: i64) -> Result<i64> {
    if micros == i64::MAX || micros == i64::MIN {
        return Ok(micros);
    }
    micros
        .checked_sub(POSTGRES_EPOCH_MICROS)
        .ok_or(Error::TimestampOutOfRange)
}

/// Since 2000, as `date_send` has it.
pub(super) fn postgres_days(days: i32) -> Result<i32> {
    if days == i32::MAX || days == i32::MIN {
        return Ok(days);
    }
    days.checked_sub(POSTGRES_EPOCH_DAYS).ok_or(Error::TimestampOutOfRange)
}

pub(super) fn date_text(days: i32, out: &mut BytesMut) {
    if infinity(days == i32::MAX, days == i32::MIN, out) {
        return;
    }
    let (year, month, day) = civil_from_days(i64::from(days));
    calendar_date(year, month, day, out);
    era(year, out);
}

/// `separator` is a space in SQL and `T` in JSON.
pub(super) fn timestamp_text(micros: i64, separator: u8, out: &mut BytesMut) {
    if infinity(micros == i64::MAX, micros == i64::MIN, out) {
        return;
    }
    let year = date_and_time(micros, separator, out);
    era(year, out);
}

pub(super) fn timestamptz_text(micros: i64, zone: &Zone, separator: u8, out: &mut BytesMut) {
    if infinity(micros == i64::MAX, micros == i64::MIN, out) {
        return;
    }
    let offset = zone.offset_at(micros);
    let year = date_and_time(
        micros.saturating_add(i64::from(offset) * MICROS_PER_SECOND),
        separator,
        out,
    );
    offset_text(offset, separator == b'T', out);
    era(year, out);
}

/// Gives the year, which decides what follows.
fn date_and_time(micros: i64, separator: u8, out: &mut BytesMut) -> i64 {
    let (year, month, day) = civil_from_days(micros.div_euclid(MICROS_PER_DAY));
    calendar_date(year, month, day, out);
    out.put_u8(separator);
    time_text(micros.rem_euclid(MICROS_PER_DAY), out);
    year
}

/// `HH:MM:SS[.ffffff]` without trailing zeros.
pub(super) fn time_text(micros: i64, out: &mut BytesMut) {
    let seconds = micros / MICROS_PER_SECOND;
    two_digits(seconds / 3600, out);
    out.put_u8(b':');
    two_digits(seconds / 60 % 60, out);
    out.put_u8(b':');
    two_digits(seconds % 60, out);
    fraction(micros % MICROS_PER_SECOND, out);
}

pub(super) fn interval_text(months: i32, days: i32, micros: i64, out: &mut BytesMut) {
    let mut parts = IntervalParts {
        out,
        is_first: true,
        after_negative: false,
    };
    parts.add(i64::from(months) / 12, "year");
    parts.add(i64::from(months) % 12, "mon");
    parts.add(i64::from(days), "day");
    let IntervalParts {
        out,
        is_first,
        after_negative,
    } = parts;
    if !is_first && micros == 0 {
        return;
    }
    if !is_first {
        out.put_u8(b' ');
    }
    if micros < 0 {
        out.put_u8(b'-');
    } else if after_negative {
        out.put_u8(b'+');
    }
    let magnitude = micros.unsigned_abs();
    let seconds = magnitude / MICROS_PER_SECOND.unsigned_abs();
    let hours = seconds / 3600;
    if hours < 10 {
        out.put_u8(b'0');
    }
    out.put_slice(itoa::Buffer::new().format(hours).as_bytes());
    for part in [seconds / 60 % 60, seconds % 60] {
        out.put_u8(b':');
        two_digits(i64::try_from(part).unwrap_or(0), out);
    }
    let rest = magnitude % MICROS_PER_SECOND.unsigned_abs();
    fraction(i64::try_from(rest).unwrap_or(0), out);
}

struct IntervalParts<'a> {
    out: &'a mut BytesMut,
    is_first: bool,
    after_negative: bool,
}

impl IntervalParts<'_> {
    fn add(&mut self, value: i64, unit: &str) {
        if value == 0 {
            return;
        }
        if !self.is_first {
            self.out.put_u8(b' ');
        }
        if self.after_negative && value > 0 {
            self.out.put_u8(b'+');
        }
        self.out.put_slice(itoa::Buffer::new().format(value).as_bytes());
        self.out.put_u8(b' ');
        self.out.put_slice(unit.as_bytes());
        if value != 1 {
            self.out.put_u8(b's');
        }
        self.is_first = false;
        self.after_negative = value < 0;
    }
}

fn infinity(positive: bool, negative: bool, out: &mut BytesMut) -> bool {
    if positive {
        out.put_slice(b"infinity");
    } else if negative {
        out.put_slice(b"-infinity");
    }
    positive || negative
}

fn calendar_date(year: i64, month: i64, day: i64, out: &mut BytesMut) {
    // There is no year 0: 1 BC is astronomical year 0.
    let shown = if year <= 0 { 1 - year } else { year };
    for limit in [1000, 100, 10] {
        if shown < limit {
            out.put_u8(b'0');
        }
    }
    out.put_slice(itoa::Buffer::new().format(shown).as_bytes());
    out.put_u8(b'-');
    two_digits(month, out);
    out.put_u8(b'-');
    two_digits(day, out);
}

fn era(year: i64, out: &mut BytesMut) {
    if year <= 0 {
        out.put_slice(b" BC");
    }
}

/// `+00`, `+05:30`, `-03:30:52`; JSON always has the minutes.
fn offset_text(seconds: i32, minutes_always: bool, out: &mut BytesMut) {
    out.put_u8(if seconds < 0 { b'-' } else { b'+' });
    let magnitude = i64::from(seconds.unsigned_abs());
    two_digits(magnitude / 3600, out);
    if minutes_always || magnitude % 3600 != 0 {
        out.put_u8(b':');
        two_digits(magnitude / 60 % 60, out);
    }
    if magnitude % 60 != 0 {
        out.put_u8(b':');
        two_digits(magnitude % 60, out);
    }
}

fn two_digits(value: i64, out: &mut BytesMut) {
    let value = u8::try_from(value).unwrap_or(0);
    out.put_u8(b'0' + value / 10 % 10);
    out.put_u8(b'0' + value % 10);
}

fn fraction(micros: i64, out: &mut BytesMut) {
    if micros == 0 {
        return;
    }
    let mut digits = [b'0'; 6];
    let mut rest = u32::try_from(micros).unwrap_or(0);
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    let significant = digits
        .iter()
        .rposition(|digit| *digit != b'0')
        .map_or(0, |last| last + 1);
    out.put_u8(b'.');
    out.put_slice(&digits[..significant]);
}

/// Year, month and day of a day since 1970-01-01, in the proleptic Gregorian calendar: the well-known computation on
/// 400-year eras that begin on the first of March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let shifted = days + 719_468;
    let era = shifted.div_euclid(DAYS_PER_ERA);
    let day_of_era = shifted.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
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

    /// Expected texts and binary values (since 2000) from PostgreSQL 15.
    #[test]
    fn timestamps_are_postgres_text() {
        let cases = [
            (0, "2000-01-01 00:00:00"),
            (0xfffc_a2fe_c4c8_1fff_u64.cast_signed(), "1969-12-31 23:59:59.999999"),
            (0x0002_b583_4172_8608, "2024-02-29 12:34:56.789"),
            (0xff1a_f9de_ec5b_2000_u64.cast_signed(), "0044-03-15 00:00:00 BC"),
            (0x0487_cea3_0706_6120, "12345-01-01 00:00:00.5"),
            (0xff1f_e2ff_c59c_6000_u64.cast_signed(), "0001-01-01 00:00:00"),
        ];
        for (since_2000, expected) in cases {
            let micros = since_2000 + POSTGRES_EPOCH_MICROS;
            assert_eq!(text(|out| timestamp_text(micros, b' ', out)), expected);
            assert_eq!(postgres_micros(micros).unwrap(), since_2000);
        }
        assert_eq!(text(|out| timestamp_text(i64::MAX, b' ', out)), "infinity");
        assert_eq!(text(|out| timestamp_text(i64::MIN, b' ', out)), "-infinity");
        assert_eq!(postgres_micros(i64::MAX).unwrap(), i64::MAX);
    }

    #[test]
    fn zones_are_postgres_text() {
        let winter = 1_704_067_200_000_000;
        let summer = 1_719_792_000_000_000;
        let year_1880 = -2_840_140_800_000_000;
        let cases = [
            ("UTC", winter, "2024-01-01 00:00:00+00"),
            ("America/St_Johns", winter, "2023-12-31 20:30:00-03:30"),
            ("America/St_Johns", summer, "2024-06-30 21:30:00-02:30"),
            ("America/St_Johns", year_1880, "1879-12-31 20:29:08-03:30:52"),
            ("europe/berlin", winter, "2024-01-01 01:00:00+01"),
            ("Europe/Berlin", summer, "2024-07-01 02:00:00+02"),
            ("<+05>-05", winter, "2024-01-01 05:00:00+05"),
            ("<-03:30>+03:30", winter, "2023-12-31 20:30:00-03:30"),
            ("+05:30", winter, "2024-01-01 05:30:00+05:30"),
        ];
        for (setting, micros, expected) in cases {
            let zone = Zone::parse(setting).unwrap();
            assert_eq!(
                text(|out| timestamptz_text(micros, &zone, b' ', out)),
                expected,
                "{setting}"
            );
        }
        let zone = Zone::parse("UTC").unwrap();
        assert_eq!(
            text(|out| timestamptz_text(winter, &zone, b'T', out)),
            "2024-01-01T00:00:00+00:00"
        );
        assert_eq!(Zone::parse("Mars/Olympus"), None);
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        assert_eq!(berlin.instant_of_local(winter + 3_600 * MICROS_PER_SECOND), winter);
    }

    #[test]
    fn dates_are_postgres_text() {
        let cases = [
            (0, "2000-01-01"),
            (-1, "1999-12-31"),
            (0xfff4_9d7b_u32.cast_signed(), "0044-03-15 BC"),
            (0x002c_95d4, "10000-01-01"),
        ];
        for (since_2000, expected) in cases {
            let days = since_2000 + POSTGRES_EPOCH_DAYS;
            assert_eq!(text(|out| date_text(days, out)), expected);
            assert_eq!(postgres_days(days).unwrap(), since_2000);
        }
        assert_eq!(text(|out| date_text(i32::MAX, out)), "infinity");
    }

    #[test]
    fn dates_agree_with_chrono() {
        use proptest::prelude::*;
        proptest!(|(days in -700_000i32..2_900_000)| {
            let expected = chrono::DateTime::from_timestamp(i64::from(days) * 86_400, 0).unwrap();
            prop_assert_eq!(text(|out| date_text(days, out)), expected.format("%Y-%m-%d").to_string());
        });
    }

    #[test]
    fn times_are_postgres_text() {
        let cases = [
            (0, "00:00:00"),
            (MICROS_PER_DAY - 1, "23:59:59.999999"),
            (MICROS_PER_DAY, "24:00:00"),
            (43_200_500_000, "12:00:00.5"),
        ];
        for (micros, expected) in cases {
            assert_eq!(text(|out| time_text(micros, out)), expected);
        }
    }

    #[test]
    fn intervals_are_postgres_text() {
        let hms = |h: i64, m: i64, s: i64| (h * 3600 + m * 60 + s) * MICROS_PER_SECOND;
        let cases = [
            (0, 0, 0, "00:00:00"),
            (12, 0, 0, "1 year"),
            (-12, 0, 0, "-1 years"),
            (14, 3, hms(4, 5, 6) + 789_000, "1 year 2 mons 3 days 04:05:06.789"),
            (-1, 2, 0, "-1 mons +2 days"),
            (0, 1, -hms(0, 0, 1), "1 day -00:00:01"),
            (0, -1, hms(2, 3, 0), "-1 days +02:03:00"),
            (0, -3, -hms(4, 5, 6) - 500_000, "-3 days -04:05:06.5"),
            (0, 0, 1, "00:00:00.000001"),
            (0, 0, hms(100, 0, 0), "100:00:00"),
            (-14, 3, -hms(4, 5, 6), "-1 years -2 mons +3 days -04:05:06"),
        ];
        for (months, days, micros, expected) in cases {
            assert_eq!(text(|out| interval_text(months, days, micros, out)), expected);
        }
    }

    #[test]
    fn units_become_micros() {
        use arrow::datatypes::TimeUnit;
        assert_eq!(to_micros(1, TimeUnit::Second).unwrap(), 1_000_000);
        assert_eq!(to_micros(1_499, TimeUnit::Nanosecond).unwrap(), 1);
        assert_eq!(to_micros(1_500, TimeUnit::Nanosecond).unwrap(), 2);
        assert_eq!(to_micros(-1, TimeUnit::Nanosecond).unwrap(), 0);
        assert!(to_micros(i64::MAX, TimeUnit::Second).is_err());
    }
}

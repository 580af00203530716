//! Reads intervals as clients send them: Postgres's own output, its verbose form, and ISO 8601 durations.
//!
//! <https://www.postgresql.org/docs/16/datatype-datetime.html#DATATYPE-INTERVAL-INPUT>. Fractions of units longer than a
//! second spill into smaller units as Postgres does, with 30 days a month.

/// Months, days, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    pub months: i32,
    pub days: i32,
    pub micros: i64,
}

const MICROS_PER_SECOND: f64 = 1e6;
const MICROS_PER_DAY: f64 = 86_400e6;
const DAYS_PER_MONTH: f64 = 30.0;

#[derive(Clone, Copy)]
enum Unit {
    Micros(f64),
    Days(f64),
    Months(f64),
}

/// `None` when the text is no interval or does not fit.
pub fn parse(text: &str) -> Option<Interval> {
    let lower = text.trim().to_ascii_lowercase();
    let mut parsed = match lower.strip_prefix('p') {
        Some(duration) => iso(duration)?,
        None => words(&lower)?,
    };
    if lower.ends_with(" ago") {
        parsed = Interval {
            months: parsed.months.checked_neg()?,
            days: parsed.days.checked_neg()?,
            micros: parsed.micros.checked_neg()?,
        };
    }
    Some(parsed)
}

/// `1 year 2 mons -3 days +04:05:06.789`, also without spaces before units.
fn words(text: &str) -> Option<Interval> {
    let text = text.strip_prefix('@').unwrap_or(text);
    let text = text.strip_suffix(" ago").unwrap_or(text);
    let mut sum = Interval::default();
    let mut pending: Option<&str> = None;
    for word in text.split_whitespace() {
        if word.contains(':') {
            if pending.is_some() {
                return None;
            }
            sum.micros = sum.micros.checked_add(clock(word)?)?;
            continue;
        }
        let number_end = word
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | '+' | '-'))
            .unwrap_or(word.len());
        let (number, name) = word.split_at(number_end);
        match (pending.take(), number, name) {
            (None, number, "") => pending = Some(number),
            (None, number, name) if !number.is_empty() => add(&mut sum, number, unit(name)?)?,
            (Some(number), "", name) => add(&mut sum, number, unit(name)?)?,
            _ => return None,
        }
    }
    // A bare number is seconds.
    if let Some(number) = pending {
        add(&mut sum, number, Unit::Micros(MICROS_PER_SECOND))?;
    } else if text.trim().is_empty() {
        return None;
    }
    Some(sum)
}

/// `1y2m3dt4h5m6.5s`, in lower case and without the P.
fn iso(text: &str) -> Option<Interval> {
    let mut sum = Interval::default();
    let (date, time) = text.split_once('t').unwrap_or((text, ""));
    let mut parts = 0;
    for (part, is_time) in [(date, false), (time, true)] {
        let mut rest = part;
        while !rest.is_empty() {
            let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
            let (number, after) = rest.split_at(end);
            let (designator, after) = after.split_at(1);
            let unit = match (designator, is_time) {
                ("y", false) => Unit::Months(12.0),
                ("m", false) => Unit::Months(1.0),
                ("w", false) => Unit::Days(7.0),
                ("d", false) => Unit::Days(1.0),
                ("h", true) => Unit::Micros(3600.0 * MICROS_PER_SECOND),
                ("m", true) => Unit::Micros(60.0 * MICROS_PER_SECOND),
                ("s", true) => Unit::Micros(MICROS_PER_SECOND),
                _ => return None,
            };
            add(&mut sum, number, unit)?;
            parts += 1;
            rest = after;
        }
    }
    (parts > 0).then_some(sum)
}

/// `[-]HH:MM[:SS[.ffffff]]`.
fn clock(word: &str) -> Option<i64> {
    let (sign, unsigned) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let mut parts = unsigned.split(':');
    let hours: i64 = digits(parts.next()?)?;
    let minutes: i64 = digits(parts.next()?).filter(|minutes| *minutes < 60)?;
    let (seconds, fraction) = match parts.next() {
        None => (0, 0),
        Some(part) => {
            let (whole, fraction) = part.split_once('.').unwrap_or((part, "0"));
            let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
            (digits(whole).filter(|seconds| *seconds < 60)?, digits(&six)?)
        }
    };
    if parts.next().is_some() {
        return None;
    }
    let total = hours.checked_mul(3600)?.checked_add(minutes * 60 + seconds)?;
    total.checked_mul(1_000_000)?.checked_add(fraction)?.checked_mul(sign)
}

fn digits(text: &str) -> Option<i64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

fn unit(name: &str) -> Option<Unit> {
    Some(match name {
        "us" | "usec" | "usecs" | "microsecond" | "microseconds" => Unit::Micros(1.0),
        "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => Unit::Micros(1000.0),
        "s" | "sec" | "secs" | "second" | "seconds" => Unit::Micros(MICROS_PER_SECOND),
        "m" | "min" | "mins" | "minute" | "minutes" => Unit::Micros(60.0 * MICROS_PER_SECOND),
        "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Micros(3600.0 * MICROS_PER_SECOND),
        "d" | "day" | "days" => Unit::Days(1.0),
        "w" | "week" | "weeks" => Unit::Days(7.0),
        "mon" | "mons" | "month" | "months" => Unit::Months(1.0),
        "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12.0),
        "decade" | "decades" => Unit::Months(120.0),
        "century" | "centuries" => Unit::Months(1200.0),
        "millennium" | "millennia" => Unit::Months(12_000.0),
        _ => return None,
    })
}

fn add(sum: &mut Interval, number: &str, unit: Unit) -> Option<()> {
    let value: f64 = number.parse().ok()?;
    let (months, days, micros) = match unit {
        Unit::Micros(micros) => (0.0, 0.0, (value * micros).round()),
        Unit::Days(days) => {
            let days = value * days;
            (0.0, days.trunc(), (days.fract() * MICROS_PER_DAY).round())
        }
        // A fraction of a year is whole months, one of a month is days.
        Unit::Months(1.0) => {
            let days = value.fract() * DAYS_PER_MONTH;
            (value.trunc(), days.trunc(), (days.fract() * MICROS_PER_DAY).round())
        }
        Unit::Months(months) => ((value * months).round(), 0.0, 0.0),
    };
    sum.months = sum.months.checked_add(whole_i32(months)?)?;
    sum.days = sum.days.checked_add(whole_i32(days)?)?;
    sum.micros = sum.micros.checked_add(whole_i64(micros)?)?;
    Some(())
}

fn whole_i32(value: f64) -> Option<i32> {
    whole_i64(value).and_then(|value| i32::try_from(value).ok())
}

/// Floats below 2^63 in magnitude convert exactly once they are whole.
fn whole_i64(value: f64) -> Option<i64> {
    const LIMIT: f64 = 9.2e18;
    #[allow(clippy::cast_possible_truncation)]
    (value.abs() < LIMIT).then_some(value as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, months: i32, days: i32, micros: i64) {
        assert_eq!(parse(text), Some(Interval { months, days, micros }), "{text}");
    }

    /// Expected parts from PostgreSQL 15.
    #[test]
    fn spellings() {
        check("1 year 2 mons 3 days 04:05:06.789", 14, 3, 14_706_789_000);
        check("-1 mons +2 days", -1, 2, 0);
        check("1 day -00:00:01", 0, 1, -1_000_000);
        check("@ 1 hour 30 mins ago", 0, 0, -5_400_000_000);
        check("1.5 days", 0, 1, 43_200_000_000);
        check("1.5 years", 18, 0, 0);
        check("1.5 months", 1, 15, 0);
        check("10s", 0, 0, 10_000_000);
        check("10", 0, 0, 10_000_000);
        check("2 weeks", 0, 14, 0);
        check("250 ms", 0, 0, 250_000);
        check("P1Y2M3DT4H5M6.5S", 14, 3, 14_706_500_000);
        check("PT0.5S", 0, 0, 500_000);
        check("100:00:00", 0, 0, 360_000_000_000);
    }

    #[test]
    fn what_is_no_interval() {
        for text in [
            "",
            "abc",
            "1 fortnight",
            "1 2 days",
            "P",
            "PT5Y",
            "1:2:3:4",
            "99999999999 years",
            "00:61:00",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}

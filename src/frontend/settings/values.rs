//! Values of settings: checked, and printed as Postgres prints them.

use std::str::FromStr;
use std::time::Duration;

use crate::error::SqlState;
use crate::frontend::error::{Error, Result};
use crate::frontend::settings::definitions::{Definition, Kind};
use crate::frontend::sql::identifier::quote;
use crate::frontend::sql::reading::boolean_word;

/// The value in its printed form.
pub fn read(definition: &Definition, value: &str) -> Result<String> {
    let wrong = |expected: &str| Error::SettingValue {
        name: definition.name.to_owned(),
        value: value.to_owned(),
        expected: expected.to_owned(),
    };
    match definition.kind {
        Kind::Fixed | Kind::Text => Ok(value.to_owned()),
        Kind::Boolean => match boolean_word(value) {
            Some(true) => Ok("on".to_owned()),
            Some(false) => Ok("off".to_owned()),
            None => Err(wrong("on or off")),
        },
        Kind::Integer(least, most) => match value.trim().parse::<i64>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number.to_string()),
            _ => Err(wrong(&format!("a whole number from {least} to {most}"))),
        },
        Kind::Number => match value.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => Ok(value.trim().to_owned()),
            _ => Err(wrong("a number")),
        },
        Kind::Duration => milliseconds(value)
            .map(print_milliseconds)
            .ok_or_else(|| wrong("a duration such as '5 s', or milliseconds")),
        Kind::Interval => match value.trim() {
            "" | "0" => Ok(String::new()),
            text if milliseconds(text).is_some() => Ok(text.to_owned()),
            _ => Err(wrong("an interval such as '1 hour'")),
        },
        Kind::Choice(choices) => {
            let lower = value.trim().to_lowercase();
            let boolean = boolean_word(&lower).map(|on| if on { "on" } else { "off" });
            let found = choices
                .iter()
                .find(|choice| **choice == lower || Some(**choice) == boolean);
            found
                .map(|choice| (*choice).to_owned())
                .ok_or_else(|| wrong(&format!("one of {}", choices.join(", "))))
        }
        Kind::TimeZone => {
            time_zone(value).ok_or_else(|| wrong("a time zone such as 'UTC', 'Europe/Berlin' or '+02:00'"))
        }
        Kind::DateStyle => date_style(value).ok_or_else(|| wrong("ISO with MDY, DMY or YMD")),
        Kind::Encoding => {
            let plain: String = value
                .to_lowercase()
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .collect();
            match plain.as_str() {
                "utf8" | "unicode" | "sqlascii" => Ok("UTF8".to_owned()),
                _ => Err(Error::not_supported(
                    format!("the encoding \"{value}\""),
                    "All text is UTF8: SET client_encoding = 'UTF8'.",
                )),
            }
        }
        Kind::Memory => Ok(value.to_owned()),
    }
}

/// The TIMEOUT of a statement.
pub fn timeout(text: &str) -> Result<Duration> {
    let milliseconds = milliseconds(text).ok_or_else(|| {
        Error::user_with_hint(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid timeout: \"{text}\""),
            "Write it as '5 seconds', '250 ms' or '1:30:00'.",
        )
    })?;
    Ok(Duration::from_millis(milliseconds))
}

/// `5s`, `5 s`, `1 hour 30 minutes`, `250` (milliseconds), `01:30:00`.
pub fn milliseconds(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(number) = text.parse::<u64>() {
        return Some(number);
    }
    if text.contains(':') {
        let mut parts = text.split(':');
        let (hours, minutes) = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
        let seconds = parts.next().map_or(Ok(0.0), str::parse::<f64>).ok()?;
        return whole(((hours * 60 + minutes) as f64 * 60.0 + seconds) * 1000.0);
    }
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..number_end].parse().ok()?;
        let unit_text = rest[number_end..].trim_start();
        let unit_end = unit_text.find(|c: char| !c.is_alphabetic()).unwrap_or(unit_text.len());
        total += number * unit_milliseconds(&unit_text[..unit_end])?;
        rest = unit_text[unit_end..].trim_start_matches([' ', ',']);
    }
    whole(total)
}

fn whole(milliseconds: f64) -> Option<u64> {
    // Far within what an f64 counts exactly.
    (milliseconds.is_finite() && (0.0..=9e15).contains(&milliseconds)).then(|| milliseconds.round() as u64)
}

fn unit_milliseconds(unit: &str) -> Option<f64> {
    Some(match unit.to_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => 0.001,
        "ms" | "millisecond" | "milliseconds" | "msec" | "msecs" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
        "h" | "hour" | "hours" | "hr" | "hrs" => 3_600e3,
        "d" | "day" | "days" => 86_400e3,
        "w" | "week" | "weeks" => 604_800e3,
        _ => return None,
    })
}

/// In the largest unit that divides it, as Postgres prints.
pub fn print_milliseconds(value: u64) -> String {
    if value == 0 {
        return "0".to_owned();
    }
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)] {
        if value.is_multiple_of(size) {
            return format!("{}{unit}", value / size);
        }
    }
    format!("{value}ms")
}

/// A name of the time zone database, or a fixed offset as `+02:00`.
fn time_zone(value: &str) -> Option<String> {
    let value = value.trim();
    match value.to_uppercase().as_str() {
        "UTC" | "Z" | "GMT" | "DEFAULT" | "LOCAL" | "ETC/UTC" => return Some("UTC".to_owned()),
        _ => {}
    }
    if let Some(offset) = fixed_offset(value) {
        return Some(offset);
    }
    if let Ok(zone) = chrono_tz::Tz::from_str(value) {
        return Some(zone.name().to_owned());
    }
    chrono_tz::TZ_VARIANTS
        .iter()
        .map(|zone| zone.name())
        .find(|name| name.eq_ignore_ascii_case(value))
        .map(str::to_owned)
}

fn fixed_offset(value: &str) -> Option<String> {
    let (sign, digits) = match value.split_at_checked(1)? {
        ("-", rest) => ('-', rest),
        ("+", rest) => ('+', rest),
        _ => ('+', value),
    };
    let (hours, minutes) = match digits.split_once([':', '.']) {
        Some((hours, minutes)) => (hours.parse::<u32>().ok()?, minutes.get(..2)?.parse::<u32>().ok()?),
        None if digits.len() == 4 => (digits[..2].parse().ok()?, digits[2..].parse().ok()?),
        None => (digits.parse().ok()?, 0),
    };
    (hours <= 15 && minutes < 60).then(|| format!("{sign}{hours:02}:{minutes:02}"))
}

/// The output style is always ISO; the order of day and month is kept.
fn date_style(value: &str) -> Option<String> {
    let mut order = "MDY";
    for word in value.split([',', ' ']).filter(|word| !word.is_empty()) {
        match word.to_uppercase().as_str() {
            "ISO" => {}
            "MDY" | "US" | "NONEURO" | "NONEUROPEAN" => order = "MDY",
            "DMY" | "EURO" | "EUROPEAN" => order = "DMY",
            "YMD" => order = "YMD",
            _ => return None,
        }
    }
    Some(format!("ISO, {order}"))
}

/// The schemas of a search path; `"$user"` is the user's schema.
pub fn search_path(value: &str, user: &str) -> Vec<String> {
    let mut schemas = Vec::new();
    let mut rest = value.trim();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => match quoted.find('"') {
                Some(end) => (quoted[..end].to_owned(), &quoted[end + 1..]),
                None => (quoted.to_owned(), ""),
            },
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].trim().to_lowercase(), &rest[end..])
            }
        };
        let name = if name == "$user" { user.to_owned() } else { name };
        if !name.is_empty() {
            schemas.push(name);
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    schemas
}

/// As SET search_path would take it.
pub fn print_search_path(schemas: &[String]) -> String {
    let quoted: Vec<String> = schemas.iter().map(|schema| quote(schema)).collect();
    quoted.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("250", Some(250)),
            ("5s", Some(5000)),
            ("5 seconds", Some(5000)),
            ("1 hour 30 minutes", Some(5_400_000)),
            ("01:30:00", Some(5_400_000)),
            ("1.5 min", Some(90_000)),
            ("1 day", Some(86_400_000)),
            ("", Some(0)),
            ("soon", None),
            ("5 parsecs", None),
            ("-5 s", None),
        ] {
            let expected = if text.is_empty() { Some(0) } else { expected };
            assert_eq!(milliseconds(text), expected, "{text}");
        }
        for (value, printed) in [(0, "0"), (1500, "1500ms"), (5000, "5s"), (3_600_000, "1h")] {
            assert_eq!(print_milliseconds(value), printed);
        }
    }

    #[test]
    fn time_zones() {
        for (text, expected) in [
            ("utc", Some("UTC")),
            ("europe/berlin", Some("Europe/Berlin")),
            ("-3", Some("-03:00")),
            ("+00:00", Some("+00:00")),
            ("+0530", Some("+05:30")),
            ("Mars/Base", None),
            ("+99", None),
        ] {
            assert_eq!(time_zone(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn search_paths() {
        assert_eq!(search_path("\"$user\", public", "me"), ["me", "public"]);
        assert_eq!(search_path(" A ,\"B,c\", d", "me"), ["a", "B,c", "d"]);
        assert_eq!(search_path("", "me"), Vec::<String>::new());
        assert_eq!(print_search_path(&["a".to_owned(), "B".to_owned()]), "a, \"B\"");
    }
}

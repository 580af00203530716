//! A row in the server's text as a JSON object, which takes the way of all JSON from there.

use arrow::datatypes::{DataType, Field};

use crate::engine::connectors::postgres::pgoutput::Cell;
use crate::engine::formats::columns::is_json;
use crate::engine::formats::json::encode::write_string;

/// How the text of a column becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// A string: decoders read every type from it.
    Text,
    /// It is JSON.
    Json,
    /// An interval in the style `postgres`: `1 year 2 mons -3 days +04:05:06.7`.
    Interval,
    /// An array literal.
    Array(Box<Form>),
}

impl Form {
    /// By the declared column: text takes arrays and JSON as they are written.
    pub fn of(field: &Field) -> Form {
        match field.data_type() {
            DataType::List(element) => Form::Array(Box::new(Form::of(element))),
            DataType::Struct(_) | DataType::Map(_, _) => Form::Json,
            DataType::Utf8 if is_json(field) => Form::Json,
            DataType::Interval(_) => Form::Interval,
            _ => Form::Text,
        }
    }
}

/// Appends `,"name":value`, or without the comma when the object begins.
pub fn write_member(name: &str, form: &Form, cell: Cell<'_>, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    write_string(name, out);
    out.push(b':');
    match cell {
        Cell::Null | Cell::Unchanged => out.extend_from_slice(b"null"),
        Cell::Text(text) => write_value(form, &String::from_utf8_lossy(text), out),
    }
}

fn write_value(form: &Form, text: &str, out: &mut Vec<u8>) {
    match form {
        Form::Text => write_string(text, out),
        Form::Interval => write_string(&units_of_interval(text), out),
        // Line feeds stand between tokens only, and rows are lines.
        Form::Json => out.extend(
            text.bytes()
                .map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }),
        ),
        Form::Array(element) => {
            // `[0:2]={..}` says where counting begins, if not at one.
            let from = if text.starts_with('[') {
                text.find('=').map_or(0, |at| at + 1)
            } else {
                0
            };
            let mut rest = &text.as_bytes()[from..];
            write_array(element, &mut rest, out);
        }
    }
}

/// Months, days and microseconds, which every reader of intervals takes for what they are; a text that is none stays as it is.
fn units_of_interval(text: &str) -> String {
    let (mut months, mut days, mut micros) = (0_i64, 0_i64, 0_i64);
    let mut words = text.split(' ');
    while let Some(word) = words.next() {
        if word.contains(':') {
            match micros_of_time(word) {
                Some(time) => micros += time,
                None => return text.to_owned(),
            }
            continue;
        }
        let (Ok(count), Some(unit)) = (word.parse::<i64>(), words.next()) else {
            return text.to_owned();
        };
        match unit.trim_end_matches('s') {
            "year" => months += count.saturating_mul(12),
            "mon" => months += count,
            "day" => days += count,
            _ => return text.to_owned(),
        }
    }
    format!("{months} months {days} days {micros} microseconds")
}

/// `-04:05:06.7`
fn micros_of_time(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim_start_matches('+')),
    };
    let mut parts = digits.split(':');
    let (hours, minutes) = (parts.next()?.parse::<i64>().ok()?, parts.next()?.parse::<i64>().ok()?);
    let (seconds, fraction) = parts
        .next()?
        .split_once('.')
        .unwrap_or((digits.rsplit(':').next()?, "0"));
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let seconds = (hours.checked_mul(60)?.checked_add(minutes)?).checked_mul(60)? + seconds.parse::<i64>().ok()?;
    let micros = seconds.checked_mul(1_000_000)?.checked_add(micros)?;
    Some(if negative { -micros } else { micros })
}

/// `rest` begins with `{`; afterwards it begins after the `}` that belongs to it.
fn write_array(element: &Form, rest: &mut &[u8], out: &mut Vec<u8>) {
    out.push(b'[');
    *rest = rest.get(1..).unwrap_or_default();
    let start = out.len();
    while let Some(&byte) = rest.first() {
        match byte {
            b'}' => {
                *rest = &rest[1..];
                break;
            }
            b',' => *rest = &rest[1..],
            _ => {
                if out.len() > start {
                    out.push(b',');
                }
                write_element(element, byte, rest, out);
            }
        }
    }
    out.push(b']');
}

fn write_element(element: &Form, first: u8, rest: &mut &[u8], out: &mut Vec<u8>) {
    if first == b'{' {
        let inner = match element {
            Form::Array(inner) => inner,
            other => other,
        };
        write_array(inner, rest, out);
        return;
    }
    let (text, quoted) = take_element(rest);
    match (quoted, text.as_str()) {
        (false, "NULL") => out.extend_from_slice(b"null"),
        (_, text) => write_value(element, text, out),
    }
}

/// An element without its quotes.
fn take_element(rest: &mut &[u8]) -> (String, bool) {
    let quoted = rest.first() == Some(&b'"');
    let mut at = usize::from(quoted);
    let mut text = Vec::new();
    while let Some(&byte) = rest.get(at) {
        match byte {
            b'\\' => {
                at += 1;
                text.extend(rest.get(at));
            }
            b'"' if quoted => {
                at += 1;
                break;
            }
            b',' | b'}' if !quoted => break,
            other => text.push(other),
        }
        at += 1;
    }
    *rest = rest.get(at..).unwrap_or_default();
    (String::from_utf8_lossy(&text).into_owned(), quoted)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn json(form: &Form, text: &str) -> String {
        let mut out = Vec::new();
        write_value(form, text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn intervals_have_three_units() {
        for (text, units) in [
            (
                "1 year 2 mons -3 days +04:05:06.7",
                "14 months -3 days 14706700000 microseconds",
            ),
            ("-00:00:01.000002", "0 months 0 days -1000002 microseconds"),
            ("-1 years -1 mons", "-13 months 0 days 0 microseconds"),
            ("00:00:00", "0 months 0 days 0 microseconds"),
            ("infinity", "infinity"),
        ] {
            assert_eq!(json(&Form::Interval, text), format!("\"{units}\""));
        }
    }

    #[test]
    fn arrays_of_the_server_are_arrays() {
        let texts = Form::Array(Box::new(Form::Text));
        assert_eq!(json(&texts, "{}"), "[]");
        assert_eq!(
            json(&texts, r#"{1,NULL,"NULL","a\"b\\,}",x y}"#),
            r#"["1",null,"NULL","a\"b\\,}","x y"]"#
        );
        assert_eq!(json(&texts, "[0:1]={a,b}"), r#"["a","b"]"#);
        let nested = Form::Array(Box::new(texts));
        assert_eq!(json(&nested, "{{1,2},{3,NULL}}"), r#"[["1","2"],["3",null]]"#);
        let objects = Form::Array(Box::new(Form::Json));
        assert_eq!(json(&objects, r#"{"{\"a\": 1}",2}"#), r#"[{"a": 1},2]"#);
        // Nothing that is no array hangs or panics.
        for text in ["", "{", "{a", "{\"a", "x", "{a,{"] {
            json(&nested, text);
        }
    }
}

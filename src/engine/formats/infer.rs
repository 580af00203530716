//! Guesses the columns of a file from its beginning.
//!
//! BOOLEAN, BIGINT, DOUBLE PRECISION and TIMESTAMP when every value seen is one; TEXT when texts or a mixture; objects and
//! arrays become structs and lists, or JSON when they do not agree on a shape. All columns may be NULL: what was not seen
//! proves nothing.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use serde_json::Value;

use crate::engine::error::Error;
use crate::engine::formats::columns::{EXTENSION_NAME, JSON_EXTENSION};
use crate::engine::formats::csv::{CsvOptions, CsvRecord};
use crate::engine::formats::text_values::{self, DateCache};
use crate::engine::formats::{Format, FormatOptions, avro};
use crate::error::SqlState;

/// As much of a file as is looked at.
pub const SAMPLE_BYTES: usize = 1024 * 1024;

/// What the values seen so far have in common.
#[derive(Clone, Debug, PartialEq)]
enum Guess {
    /// Only NULLs.
    Nothing,
    Boolean,
    Integer,
    Double,
    Timestamp,
    Text,
    Struct(Vec<(String, Guess)>),
    List(Box<Guess>),
    Json,
}

/// The columns of a file that begins with `sample`; `None` for formats that say it themselves.
pub fn infer(options: &FormatOptions, sample: &[u8], place: &str) -> Result<Option<SchemaRef>, Error> {
    // A sample that was cut ends inside a record.
    let whole = sample.len() < SAMPLE_BYTES;
    let columns = match options.format {
        Format::Json if options.json_decode.unstructured => return Ok(Some(one_column(Guess::Json))),
        Format::Json => json_columns(sample, whole),
        Format::Csv => csv_columns(sample, whole, &options.csv),
        Format::RawString => return Ok(Some(one_column(Guess::Text))),
        Format::RawBytes => return Ok(Some(raw_bytes())),
        Format::Avro => {
            let header = avro::container::header(sample, place, true)?;
            let columns = header
                .map(|header| avro::derive::columns_of(&header.schema))
                .transpose();
            return columns.map_err(|reason| Error::Data {
                code: SqlState::INVALID_TABLE_DEFINITION,
                message: format!("could not tell the columns of file \"{place}\": {reason}"),
                detail: None,
            });
        }
        Format::Protobuf => return Ok(options.known_schema()),
        Format::DebeziumJson | Format::DebeziumAvro | Format::Parquet | Format::Arrow => return Ok(None),
    };
    if columns.is_empty() {
        return Err(Error::Data {
            code: SqlState::INVALID_TABLE_DEFINITION,
            message: format!("could not tell the columns of file \"{place}\""),
            detail: Some(format!("It begins with no record of format {}.", options.format.name())),
        });
    }
    Ok(Some(Arc::new(Schema::new(fields(columns)))))
}

fn one_column(guess: Guess) -> SchemaRef {
    Arc::new(Schema::new(fields(vec![("value".to_owned(), guess)])))
}

fn raw_bytes() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("value", DataType::Binary, true)]))
}

fn fields(columns: Vec<(String, Guess)>) -> Fields {
    columns.into_iter().map(|(name, guess)| field(&name, guess)).collect()
}

fn field(name: &str, guess: Guess) -> Field {
    let data_type = match guess {
        Guess::Boolean => DataType::Boolean,
        Guess::Integer => DataType::Int64,
        Guess::Double => DataType::Float64,
        Guess::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        Guess::Nothing | Guess::Text | Guess::Json => DataType::Utf8,
        Guess::Struct(ref members) => DataType::Struct(fields(members.clone())),
        Guess::List(ref element) => DataType::List(Arc::new(field("item", element.as_ref().clone()))),
    };
    let field = Field::new(name, data_type, true);
    if guess == Guess::Json {
        return field.with_metadata([(EXTENSION_NAME.to_owned(), JSON_EXTENSION.to_owned())].into());
    }
    field
}

fn json_columns(sample: &[u8], whole: bool) -> Vec<(String, Guess)> {
    let end = if whole {
        sample.len()
    } else {
        memchr::memrchr(b'\n', sample).unwrap_or(sample.len())
    };
    let mut columns = Vec::new();
    for line in sample[..end].split(|byte| *byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Value::Object(record)) => add_members(&mut columns, record),
            Ok(Value::Array(records)) => {
                for record in records {
                    if let Value::Object(record) = record {
                        add_members(&mut columns, record);
                    }
                }
            }
            _ => {}
        }
    }
    columns
}

fn add_members(columns: &mut Vec<(String, Guess)>, record: serde_json::Map<String, Value>) {
    for (name, value) in record {
        add(columns, name, of_json(value));
    }
}

fn add(columns: &mut Vec<(String, Guess)>, name: String, guess: Guess) {
    match columns.iter_mut().find(|(known, _)| *known == name) {
        Some((_, known)) => *known = merge(std::mem::replace(known, Guess::Nothing), guess),
        None => columns.push((name, guess)),
    }
}

fn of_json(value: Value) -> Guess {
    match value {
        Value::Null => Guess::Nothing,
        Value::Bool(_) => Guess::Boolean,
        Value::Number(number) if number.is_i64() => Guess::Integer,
        Value::Number(_) => Guess::Double,
        Value::String(text) if is_timestamp(text.as_bytes()) => Guess::Timestamp,
        Value::String(_) => Guess::Text,
        Value::Array(values) => {
            let element = values.into_iter().map(of_json).fold(Guess::Nothing, merge);
            Guess::List(Box::new(element))
        }
        Value::Object(members) if members.is_empty() => Guess::Json,
        Value::Object(members) => Guess::Struct(
            members
                .into_iter()
                .map(|(name, value)| (name, of_json(value)))
                .collect(),
        ),
    }
}

/// A bare date is left as text: as a timestamp it would be written back with a time that nobody gave.
fn is_timestamp(text: &[u8]) -> bool {
    text.len() > 10 && text_values::timestamp(text, &mut DateCache::default()).is_ok()
}

fn merge(left: Guess, right: Guess) -> Guess {
    match (left, right) {
        (Guess::Nothing, other) | (other, Guess::Nothing) => other,
        (Guess::Integer, Guess::Double) | (Guess::Double, Guess::Integer) => Guess::Double,
        (Guess::Struct(mut members), Guess::Struct(others)) => {
            others
                .into_iter()
                .for_each(|(name, guess)| add(&mut members, name, guess));
            Guess::Struct(members)
        }
        (Guess::List(left), Guess::List(right)) => Guess::List(Box::new(merge(*left, *right))),
        (left, right) if left == right => left,
        (Guess::Struct(_) | Guess::List(_) | Guess::Json, _) | (_, Guess::Struct(_) | Guess::List(_) | Guess::Json) => {
            Guess::Json
        }
        _ => Guess::Text,
    }
}

fn csv_columns(sample: &[u8], whole: bool, options: &CsvOptions) -> Vec<(String, Guess)> {
    let mut columns: Vec<(String, Guess)> = Vec::new();
    let mut record = CsvRecord::default();
    let mut rest = sample;
    let mut first = true;
    while !rest.is_empty() {
        let Some(length) = record.read(rest, whole, options) else {
            break;
        };
        let blank = rest[..length].iter().all(|byte| matches!(byte, b'\n' | b'\r'));
        rest = &rest[length..];
        if blank {
            continue;
        }
        if std::mem::take(&mut first) {
            let names = record.texts();
            let name = |(index, text): (usize, String)| match options.header {
                true => text.trim_start_matches('\u{feff}').trim().to_owned(),
                false => format!("column_{}", index + 1),
            };
            columns = names
                .into_iter()
                .enumerate()
                .map(name)
                .map(|name| (name, Guess::Nothing))
                .collect();
            if options.header {
                continue;
            }
        }
        if record.len() != columns.len() {
            continue;
        }
        for (index, (_, known)) in columns.iter_mut().enumerate() {
            let (text, quoted) = record.field(index);
            if quoted || text != options.null_string.as_bytes() {
                *known = merge(std::mem::replace(known, Guess::Nothing), of_text(text));
            }
        }
    }
    columns
}

fn of_text(text: &[u8]) -> Guess {
    if text_values::integer(text).is_ok_and(|value| i64::try_from(value).is_ok()) && !text.contains(&b'.') {
        Guess::Integer
    } else if text
        .first()
        .is_some_and(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.'))
        && text_values::double(text).is_ok()
    {
        Guess::Double
    } else if matches!(text.to_ascii_lowercase().as_slice(), b"true" | b"false") {
        Guess::Boolean
    } else if is_timestamp(text) {
        Guess::Timestamp
    } else {
        Guess::Text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(columns: Vec<(String, Guess)>) -> Vec<String> {
        columns
            .into_iter()
            .map(|(name, guess)| format!("{name} {guess:?}"))
            .collect()
    }

    #[test]
    fn json_values_are_merged_over_records() {
        let sample = br#"{"a":1,"b":"2023-09-18T14:23:10Z","c":{"x":1},"d":[1],"e":null,"f":1}
            not json
            {"a":1.5,"b":"2023-09-18 14:23:10","c":{"y":true},"d":[2.5],"f":"t","g":"2023-09-18"}
            {"a":1"#;
        assert_eq!(
            shown(json_columns(sample, false)),
            [
                "a Double",
                "b Timestamp",
                "c Struct([(\"x\", Integer), (\"y\", Boolean)])",
                "d List(Double)",
                "e Nothing",
                "f Text",
                "g Text",
            ]
        );
        assert_eq!(merge(Guess::Struct(vec![]), Guess::Integer), Guess::Json);
    }

    #[test]
    fn csv_values_are_merged_over_records() {
        let sample = b"id,price,ok,at,note\n1,2,true,2023-09-18T14:23:10Z,\n2,2.5,false,,x\n\n3";
        let expected = ["id Integer", "price Double", "ok Boolean", "at Timestamp", "note Text"];
        assert_eq!(shown(csv_columns(sample, true, &CsvOptions::default())), expected);
        let options = CsvOptions {
            header: false,
            ..CsvOptions::default()
        };
        assert_eq!(
            shown(csv_columns(b"1,a\n", true, &options)),
            ["column_1 Integer", "column_2 Text"]
        );
    }
}

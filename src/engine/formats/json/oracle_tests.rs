//! The decoder against serde_json and arrow-json, on any input and cut anywhere.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use proptest::prelude::*;
use serde_json::Value;

use crate::engine::connectors::testing::{KeptBadRows, texts};
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::{Decoder, Input, TimestampFormat};

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

fn decoder(schema: &SchemaRef) -> JsonDecoder {
    JsonDecoder::new(schema, JsonDecodeOptions::default()).unwrap()
}

/// Decodes `text`, handed over in pieces that end at `cuts`, at most `rows_max` rows a call.
fn decode_cut(
    decoder: &mut JsonDecoder,
    text: &[u8],
    cuts: &[usize],
    rows_max: usize,
) -> (Vec<RecordBatch>, KeptBadRows) {
    let bad = KeptBadRows::default();
    let mut batches = Vec::new();
    let mut taken = 0;
    let ends = cuts.iter().map(|cut| (*cut, false)).chain([(text.len(), true)]);
    for (end, at_end) in ends {
        loop {
            let input = Input {
                bytes: &text[taken..end.max(taken)],
                offset: taken as u64,
                place: "f",
                at_end,
            };
            taken += decoder.decode(input, rows_max, &bad).unwrap();
            if decoder.rows() == 0 {
                break;
            }
            batches.push(decoder.take().unwrap());
        }
    }
    assert_eq!(taken, text.len());
    (batches, bad)
}

fn decode(schema: &SchemaRef, text: &str) -> (Vec<String>, KeptBadRows) {
    let (batches, bad) = decode_cut(&mut decoder(schema), text.as_bytes(), &[], usize::MAX);
    (batches.into_iter().flat_map(texts).collect(), bad)
}

fn wide_schema() -> SchemaRef {
    let inner: Fields = vec![
        Field::new("x", DataType::Int64, true),
        Field::new("y", DataType::Utf8, true),
        Field::new(
            "z",
            DataType::List(Arc::new(Field::new("item", DataType::Int64, true))),
            true,
        ),
    ]
    .into();
    schema(vec![
        Field::new("a", DataType::Int64, true),
        Field::new("b", DataType::Utf8, true),
        Field::new("c", DataType::Float64, true),
        Field::new("d", DataType::Boolean, true),
        Field::new("s", DataType::Struct(inner.clone()), true),
        Field::new(
            "l",
            DataType::List(Arc::new(Field::new("item", DataType::Struct(inner), true))),
            true,
        ),
        Field::new("i", DataType::Int32, true),
    ])
}

/// Records whose fields have the types of [`wide_schema`], in any order, with others between.
fn typed_record() -> impl Strategy<Value = String> {
    let number = any::<i64>().prop_map(|v| v.to_string());
    let text = any::<String>().prop_map(|v| serde_json::to_string(&v).unwrap());
    let float = (-1e15..1e15f64).prop_map(|v| format!("{v:?}"));
    let flag = prop_oneof![Just("true".to_owned()), Just("false".to_owned())];
    let list = proptest::collection::vec(any::<i64>(), 0..4).prop_map(|v| serde_json::to_string(&v).unwrap());
    let inner = (number.clone(), text.clone(), list.clone(), 0usize..4).prop_map(|(x, y, z, keep)| {
        let members = [
            format!("\"x\":{x}"),
            format!("\"y\" : {y}"),
            format!("\"z\": {z}"),
            "\"w\":{}".to_owned(),
        ];
        format!("{{{}}}", members[keep..].join(", "))
    });
    let inners = proptest::collection::vec(inner.clone(), 0..3).prop_map(|v| format!("[{}]", v.join(" , ")));
    let unknown = prop_oneof![inner.clone(), list, text.clone(), Just("null".to_owned())];
    let small = any::<i32>().prop_map(|v| v.to_string());
    let member = prop_oneof![
        number.prop_map(|v| ("a", v)),
        text.prop_map(|v| ("b", v)),
        float.prop_map(|v| ("c", v)),
        flag.prop_map(|v| ("d", v)),
        inner.prop_map(|v| ("s", v)),
        inners.prop_map(|v| ("l", v)),
        small.prop_map(|v| ("i", v)),
        unknown.prop_map(|v| ("unknown", v)),
        prop_oneof![Just("a"), Just("b"), Just("s"), Just("l")].prop_map(|name| (name, "null".to_owned())),
    ];
    proptest::collection::vec(member, 0..9).prop_map(|members| {
        let mut seen = std::collections::HashSet::new();
        let members = members.into_iter().filter(|(name, _)| seen.insert(*name));
        let members: Vec<_> = members.map(|(name, value)| format!("\"{name}\": {value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

fn by_arrow_json(schema: &SchemaRef, text: &str) -> Vec<RecordBatch> {
    arrow::json::ReaderBuilder::new(Arc::clone(schema))
        .build(std::io::Cursor::new(text))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

proptest! {
    #[test]
    fn agrees_with_arrow_json_however_it_is_cut(
        records in proptest::collection::vec(typed_record(), 1..12),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..4),
        rows_max in 1usize..5,
        terminated in any::<bool>(),
    ) {
        let schema = wide_schema();
        let mut text = records.join("\n");
        if terminated { text.push('\n') }
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
        cuts.sort_unstable();
        let (batches, bad) = decode_cut(&mut decoder(&schema), text.as_bytes(), &cuts, rows_max);
        prop_assert_eq!(bad.reasons(), Vec::<String>::new());
        let ours = arrow::compute::concat_batches(&schema, &batches).unwrap();
        let theirs = arrow::compute::concat_batches(&schema, &by_arrow_json(&schema, &text)).unwrap();
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn takes_what_serde_json_takes(
        line in prop_oneof![
            "[ \\[\\]{}\",:0-9eE.+\\-tfnul\\\\]{0,24}",
            "\\{\"[ab]\":[ \\[\\]{}\",:0-9eE.+\\-tfnul\\\\]{0,12}\\}",
            "\\{\"u\":\"(\\\\u[dD][89abcdef][0-9]{2}|\\\\[nrtbfux/]|[a-é])*\"\\}",
        ],
    ) {
        // No column wants anything, so only the syntax decides.
        let schema = schema(vec![Field::new("wanted", DataType::Int64, true)]);
        let (rows, bad) = decode(&schema, &line);
        let expected = match serde_json::from_str(&line) {
            Ok(Value::Object(_)) => Some(1),
            Ok(Value::Array(values)) if values.iter().all(Value::is_object) => Some(values.len()),
            _ => None,
        };
        if line.trim().is_empty() {
            prop_assert_eq!((rows.len(), bad.offsets().len()), (0, 0));
        } else {
            prop_assert_eq!((!bad.offsets().is_empty(), rows.len()), (expected.is_none(), expected.unwrap_or(0)));
        }
    }

    #[test]
    fn broken_lines_leave_no_trace(
        lines in proptest::collection::vec(
            (typed_record(), proptest::option::of((any::<prop::sample::Index>(), any::<u8>()))), 1..10),
    ) {
        let schema = wide_schema();
        let mut text = Vec::new();
        let mut good = String::new();
        let mut offsets = Vec::new();
        for (record, damage) in &lines {
            match damage {
                None => {
                    good.push_str(record);
                    good.push('\n');
                    text.extend_from_slice(record.as_bytes());
                }
                // Cut short inside the object and followed by rubbish: never a record.
                Some((at, byte)) => {
                    offsets.push(text.len() as u64);
                    let kept = at.index(record.len());
                    text.push(b'{');
                    text.extend_from_slice(&record.as_bytes()[1..kept.max(1)]);
                    text.push(if *byte == b'\n' { 0xff } else { *byte });
                    text.push(0xff);
                }
            }
            text.push(b'\n');
        }
        let (batches, bad) = decode_cut(&mut decoder(&schema), &text, &[], usize::MAX);
        let ours: Vec<_> = batches.into_iter().flat_map(texts).collect();
        prop_assert_eq!(ours, decode(&schema, &good).0);
        prop_assert_eq!(bad.offsets(), offsets);
    }

    #[test]
    fn any_bytes_are_survived(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(bytes.len() + 1);
        let schema = wide_schema();
        let (whole, _) = decode_cut(&mut decoder(&schema), &bytes, &[], usize::MAX);
        let (parts, _) = decode_cut(&mut decoder(&schema), &bytes, &[cut], usize::MAX);
        let rows = |batches: Vec<RecordBatch>| batches.into_iter().flat_map(texts).collect::<Vec<_>>();
        prop_assert_eq!(rows(whole), rows(parts));
    }
}

#[test]
fn values_go_into_columns_of_other_kinds_when_they_fit() {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let schema = schema(vec![
        Field::new("n", DataType::Int32, true),
        Field::new("t", DataType::Utf8, true),
        Field::new("d", DataType::Decimal128(10, 2), true),
        Field::new("at", timestamp, true),
        Field::new("f", DataType::Float64, true),
        Field::new("o", DataType::Boolean, true),
    ]);
    let text = r#"{"n":"12","t":5.50,"d":"1.005","at":"2023-10-09 17:13:20.5","f":"NaN","o":"yes"}
{"n":12.0,"t":{"a": [1]},"d":2,"f":1e3,"o":null}
{"n":3000000000}
{"n":1.5}
{"n":true}
{"n":[1,{"a":2}]}
{"at":1696871600}
{"o":1}
"#;
    let (rows, bad) = decode(&schema, text);
    assert_eq!(
        rows,
        [
            r#"{"n":12,"t":"5.50","d":1.01,"at":"2023-10-09T17:13:20.500","f":null,"o":true}"#,
            r#"{"n":12,"t":"{\"a\": [1]}","d":2.00,"at":null,"f":1000.0,"o":null}"#,
        ]
    );
    let reasons = bad.reasons();
    assert_eq!(reasons.len(), 6, "{reasons:?}");
    assert_eq!(
        reasons[0],
        "column \"n\": value \"3000000000\" is out of range for type integer"
    );
    assert_eq!(
        reasons[1],
        "column \"n\": invalid input syntax for type integer: \"1.5\""
    );
    assert!(reasons[4].contains("json.timestamp_format"));
}

#[test]
fn numbers_are_timestamps_of_the_unit_given() {
    let schema = schema(vec![Field::new(
        "at",
        DataType::Timestamp(TimeUnit::Microsecond, None),
        true,
    )]);
    for (format, text) in [
        (TimestampFormat::UnixSeconds, "1696871600.25"),
        (TimestampFormat::UnixMillis, "1696871600250"),
        (TimestampFormat::UnixMicros, "1696871600250000"),
        (TimestampFormat::UnixNanos, "1696871600250000999"),
    ] {
        let options = JsonDecodeOptions {
            timestamp_format: format,
            ..JsonDecodeOptions::default()
        };
        let mut decoder = JsonDecoder::new(&schema, options).unwrap();
        let line = format!("{{\"at\":{text}}}");
        let (batches, bad) = decode_cut(&mut decoder, line.as_bytes(), &[], 10);
        assert_eq!(bad.reasons(), Vec::<String>::new());
        assert_eq!(
            texts(batches[0].clone()),
            [r#"{"at":"2023-10-09T17:13:20.250"}"#],
            "{format:?}"
        );
    }
}

#[test]
fn required_fields_maps_json_and_nested_names_in_messages() {
    let entries = Field::new(
        "entries",
        DataType::Struct(
            vec![
                Field::new("keys", DataType::Int64, false),
                Field::new("values", DataType::Utf8, true),
            ]
            .into(),
        ),
        false,
    );
    let inner = DataType::Struct(vec![Field::new("k", DataType::Int64, false)].into());
    let json = [("ARROW:extension:name".to_owned(), "arrow.json".to_owned())].into();
    let schema = schema(vec![
        Field::new("m", DataType::Map(Arc::new(entries), false), true),
        Field::new("j", DataType::Utf8, true).with_metadata(json),
        Field::new("s", inner, true),
    ]);
    let text = r#"{"m":{"1":"a","2":null},"j":{"x": "y"},"s":{"k":1}}
{"m":null,"j":"text","s":null}
{"m":{"x":"a"}}
{"s":{}}
{"s":{"k":null}}
{"s":{"k":"?"}}
"#;
    let (rows, bad) = decode(&schema, text);
    assert_eq!(
        rows,
        [
            r#"{"m":{"1":"a","2":null},"j":{"x": "y"},"s":{"k":1}}"#,
            r#"{"m":null,"j":"text","s":null}"#,
        ]
    );
    assert_eq!(
        bad.reasons(),
        [
            "column \"m\": invalid input syntax for type bigint: \"x\"",
            "column \"s.k\": null value in a column that is NOT NULL",
            "column \"s.k\": null value in a column that is NOT NULL",
            "column \"s.k\": invalid input syntax for type bigint: \"?\"",
        ]
    );
}

#[test]
fn fields_given_twice_other_cases_and_arrays_of_records() {
    let schema = schema(vec![
        Field::new("datetime", DataType::Int64, true),
        Field::new(
            "s",
            DataType::Struct(vec![Field::new("a", DataType::Int64, true)].into()),
            true,
        ),
    ]);
    let text = r#"{"dateTime":1,"dateTime":2,"s":{"a":1},"s":{}}
[{"datetime":3},{"s":{"a":4}}]
[]
[{"datetime":5},{"datetime":"x"}]
{"date\u0054ime":6}"#;
    let (rows, bad) = decode(&schema, text);
    assert_eq!(
        rows,
        [
            r#"{"datetime":2,"s":{"a":null}}"#,
            r#"{"datetime":3,"s":null}"#,
            r#"{"datetime":null,"s":{"a":4}}"#,
            r#"{"datetime":6,"s":null}"#,
        ]
    );
    assert_eq!(bad.offsets().len(), 1);
}

#[test]
fn parse_errors_become_null_when_asked() {
    let schema = wide_schema();
    let options = JsonDecodeOptions {
        ignore_parse_errors: true,
        ..JsonDecodeOptions::default()
    };
    let mut decoder = JsonDecoder::new(&schema, options).unwrap();
    let text = br#"{"a":"x","b":"kept","s":{"x":"y","y":"kept","z":[1,"x",2]},"l":{"no":"list"},"i":[1]}
{"a":}"#;
    let (batches, bad) = decode_cut(&mut decoder, text, &[], 10);
    assert_eq!(
        texts(batches[0].clone()),
        [r#"{"a":null,"b":"kept","c":null,"d":null,"s":{"x":null,"y":"kept","z":[1,null,2]},"l":null,"i":null}"#]
    );
    assert_eq!(bad.offsets().len(), 1);
}

#[test]
fn whole_records_as_text() {
    let schema = schema(vec![Field::new("value", DataType::Utf8, true)]);
    let options = JsonDecodeOptions {
        unstructured: true,
        ..JsonDecodeOptions::default()
    };
    let mut decoder = JsonDecoder::new(&schema, options).unwrap();
    let (batches, bad) = decode_cut(&mut decoder, b" {\"a\": 1} \n[1, 2]\nx\n", &[], 10);
    assert_eq!(
        texts(batches[0].clone()),
        [r#"{"value":"{\"a\": 1}"}"#, r#"{"value":"[1, 2]"}"#]
    );
    assert_eq!(bad.offsets(), [18]);
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let schema = wide_schema();
    let text = format!("{{\"u\":{}\n{{\"a\":1}}", "[".repeat(1_000_000));
    let (rows, bad) = decode(&schema, &text);
    assert_eq!(rows.len(), 1);
    assert!(bad.reasons()[0].contains("nested too deeply"));
}

#[test]
fn records_over_several_lines_are_told_so() {
    let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("a", DataType::Int64, true)]));
    let mut decoder = JsonDecoder::new(&schema, JsonDecodeOptions::default()).unwrap();
    let bad = KeptBadRows::default();
    let input = Input {
        bytes: b"[\n  {\"a\":1},\n{\"a\":2}\n]\n",
        offset: 0,
        place: "f",
        at_end: true,
    };
    decoder.decode(input, 10, &bad).unwrap();
    assert_eq!(decoder.rows(), 1);
    assert_eq!(
        bad.reasons()[0],
        "the record does not end on its line: a line is a record, or an array of records"
    );
}

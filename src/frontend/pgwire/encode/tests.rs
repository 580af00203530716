//! Values against the bytes that Postgres sends for them.

#![allow(clippy::unwrap_used)]
//! Expected texts and bytes are from PostgreSQL 15.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, FixedSizeBinaryArray, Float64Array,
    Int8Array, Int32Array, Int64Array, IntervalMonthDayNanoArray, ListArray, MapBuilder, MapFieldNames, NullArray,
    StringArray, StringBuilder, StringViewArray, StructArray, Time64MicrosecondArray, TimestampMicrosecondArray,
    TimestampNanosecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{Int32Type, IntervalMonthDayNano, Schema};

use super::*;

fn column(array: ArrayRef, sql: &str) -> (Field, ArrayRef) {
    let field = crate::types::parse(sql).unwrap().to_arrow_field("c", true);
    (field.with_data_type(array.data_type().clone()), array)
}

fn encode(field: &Field, array: &ArrayRef, format: Format, style: &OutputStyle) -> Vec<Option<Vec<u8>>> {
    let writer = value_writer(array, field, format, style).unwrap();
    (0..array.len())
        .map(|row| {
            (!writer.is_null(row)).then(|| {
                let mut out = BytesMut::new();
                writer.write(row, &mut out).unwrap();
                out.to_vec()
            })
        })
        .collect()
}

fn check(column: (Field, ArrayRef), texts: &[Option<&str>], hexes: &[Option<&str>]) {
    let (field, array) = column;
    let style = OutputStyle::default();
    let seen: Vec<Option<String>> = encode(&field, &array, Format::Text, &style)
        .into_iter()
        .map(|value| value.map(|value| String::from_utf8(value).unwrap()))
        .collect();
    assert_eq!(
        seen,
        texts.iter().map(|text| text.map(str::to_owned)).collect::<Vec<_>>()
    );
    let seen: Vec<Option<String>> = encode(&field, &array, Format::Binary, &style)
        .into_iter()
        .map(|value| value.map(|value| value.iter().map(|byte| format!("{byte:02x}")).collect()))
        .collect();
    assert_eq!(seen, hexes.iter().map(|hex| hex.map(str::to_owned)).collect::<Vec<_>>());
}

#[test]
fn booleans_and_integers() {
    check(
        column(
            Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)])),
            "boolean",
        ),
        &[Some("t"), None, Some("f")],
        &[Some("01"), None, Some("00")],
    );
    check(
        column(Arc::new(Int8Array::from(vec![-1])), "tinyint"),
        &[Some("-1")],
        &[Some("ffff")],
    );
    check(
        column(Arc::new(Int64Array::from(vec![i64::MIN])), "bigint"),
        &[Some("-9223372036854775808")],
        &[Some("8000000000000000")],
    );
    check(
        column(Arc::new(UInt32Array::from(vec![u32::MAX])), "int unsigned"),
        &[Some("4294967295")],
        &[Some("00000000ffffffff")],
    );
    check(
        column(Arc::new(UInt32Array::from(vec![16384])), "oid"),
        &[Some("16384")],
        &[Some("00004000")],
    );
    check(
        column(Arc::new(UInt64Array::from(vec![10000])), "bigint unsigned"),
        &[Some("10000")],
        &[Some("00010001000000000001")],
    );
}

#[test]
fn floats_and_decimals() {
    check(
        column(Arc::new(Float64Array::from(vec![1.5, f64::NAN])), "double"),
        &[Some("1.5"), Some("NaN")],
        &[Some("3ff8000000000000"), Some("7ff8000000000000")],
    );
    let decimal = Decimal128Array::from(vec![110, -12_345_678])
        .with_precision_and_scale(10, 3)
        .unwrap();
    check(
        column(Arc::new(decimal), "numeric(10,3)"),
        &[Some("0.110"), Some("-12345.678")],
        &[Some("0001ffff00000003044c"), Some("0003000140000003000109291a7c")],
    );
}

#[test]
fn texts_and_bytes() {
    check(
        column(Arc::new(StringArray::from(vec![Some("é"), None])), "text"),
        &[Some("é"), None],
        &[Some("c3a9"), None],
    );
    check(
        column(Arc::new(StringViewArray::from(vec!["a"])), "text"),
        &[Some("a")],
        &[Some("61")],
    );
    let dictionary: DictionaryArray<Int32Type> = vec!["x", "y", "x"].into_iter().collect();
    let field = Field::new("c", dictionary.data_type().clone(), true);
    check(
        (field, Arc::new(dictionary)),
        &[Some("x"), Some("y"), Some("x")],
        &[Some("78"), Some("79"), Some("78")],
    );
    check(
        column(Arc::new(BinaryArray::from(vec![b"\x00\xffa".as_ref()])), "bytea"),
        &[Some("\\x00ff61")],
        &[Some("00ff61")],
    );
    let escape = OutputStyle {
        bytea: ByteaOutput::Escape,
        ..OutputStyle::default()
    };
    let (field, array) = column(Arc::new(BinaryArray::from(vec![b"\x00\\a".as_ref()])), "bytea");
    assert_eq!(
        encode(&field, &array, Format::Text, &escape),
        vec![Some(b"\\000\\\\a".to_vec())]
    );
    check(
        column(Arc::new(StringArray::from(vec![r#"{"a": 1}"#])), "json"),
        &[Some(r#"{"a": 1}"#)],
        &[Some("7b2261223a20317d")],
    );
    check(
        column(Arc::new(StringArray::from(vec![r#"{"a": 1}"#])), "jsonb"),
        &[Some(r#"{"a": 1}"#)],
        &[Some("017b2261223a20317d")],
    );
    let uuid: Vec<u8> = (0..=15).map(|n| n * 0x11).collect();
    let array = FixedSizeBinaryArray::try_from_iter(std::iter::once(uuid)).unwrap();
    check(
        column(Arc::new(array), "uuid"),
        &[Some("00112233-4455-6677-8899-aabbccddeeff")],
        &[Some("00112233445566778899aabbccddeeff")],
    );
    let nulls: ArrayRef = Arc::new(NullArray::new(2));
    check(
        (Field::new("c", DataType::Null, true), nulls),
        &[None, None],
        &[None, None],
    );
}

#[test]
fn dates_and_times() {
    check(
        column(Arc::new(Date32Array::from(vec![10_957])), "date"),
        &[Some("2000-01-01")],
        &[Some("00000000")],
    );
    check(
        column(Arc::new(Time64MicrosecondArray::from(vec![43_200_500_000])), "time"),
        &[Some("12:00:00.5")],
        &[Some("0000000a0ef35120")],
    );
    check(
        column(
            Arc::new(TimestampMicrosecondArray::from(vec![1_709_210_096_789_000])),
            "timestamp",
        ),
        &[Some("2024-02-29 12:34:56.789")],
        &[Some("0002b58341728608")],
    );
    let nanos = TimestampNanosecondArray::from(vec![1_709_210_096_789_000_400]).with_timezone("+00:00");
    check(
        (Field::new("c", nanos.data_type().clone(), true), Arc::new(nanos)),
        &[Some("2024-02-29 12:34:56.789+00")],
        &[Some("0002b58341728608")],
    );
    let interval = IntervalMonthDayNano::new(14, 3, 14_706_789_000_000);
    check(
        column(Arc::new(IntervalMonthDayNanoArray::from(vec![interval])), "interval"),
        &[Some("1 year 2 mons 3 days 04:05:06.789")],
        &[Some("000000036c97ca88000000030000000e")],
    );
}

#[test]
fn the_session_zone_changes_text_only() {
    let array: ArrayRef =
        Arc::new(TimestampMicrosecondArray::from(vec![1_704_067_200_000_000]).with_timezone("+00:00"));
    let (field, array) = column(array, "timestamptz");
    let style = OutputStyle {
        time_zone: Zone::parse("Europe/Berlin").unwrap(),
        ..OutputStyle::default()
    };
    let text = encode(&field, &array, Format::Text, &style);
    assert_eq!(text, vec![Some(b"2024-01-01 01:00:00+01".to_vec())]);
    let utc = encode(&field, &array, Format::Binary, &OutputStyle::default());
    assert_eq!(encode(&field, &array, Format::Binary, &style), utc);
}

#[test]
fn arrays() {
    let array =
        ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None, Some(3)]), None, Some(vec![])]);
    check(
        column(Arc::new(array), "int[]"),
        &[Some("{1,NULL,3}"), None, Some("{}")],
        &[
            Some("00000001000000010000001700000003000000010000000400000001ffffffff0000000400000003"),
            None,
            Some("000000000000000000000017"),
        ],
    );
    let mut builder = arrow::array::ListBuilder::new(StringBuilder::new());
    let values = [
        Some("a b"),
        Some(""),
        Some("NULL"),
        Some("x\"y"),
        Some("c\\d"),
        Some("{"),
        Some("k,l"),
        None,
        Some("plain"),
        Some("null"),
        Some("é"),
        Some(" "),
    ];
    builder.append_value(values);
    let (field, array) = column(Arc::new(builder.finish()), "text[]");
    let text = encode(&field, &array, Format::Text, &OutputStyle::default());
    let expected = r#"{"a b","","NULL","x\"y","c\\d","{","k,l",NULL,plain,"null",é," "}"#;
    assert_eq!(text, vec![Some(expected.as_bytes().to_vec())]);
}

fn nested(rows: &[&[i32]]) -> (Field, ArrayRef) {
    let mut builder = arrow::array::ListBuilder::new(arrow::array::ListBuilder::new(Int32Array::builder(4)));
    for row in rows {
        for value in *row {
            builder.values().values().append_value(*value);
        }
        builder.values().append(true);
    }
    builder.append(true);
    column(Arc::new(builder.finish()), "int[][]")
}

#[test]
fn arrays_of_arrays() {
    check(
        nested(&[&[1, 2], &[3, 4]]),
        &[Some("{{1,2},{3,4}}")],
        &[Some(
            "000000020000000000000017000000020000000100000002000000010000000400000001000000040000000200000004000000030000000400000004",
        )],
    );
    let (field, ragged) = nested(&[&[1, 2], &[3]]);
    let text = encode(&field, &ragged, Format::Text, &OutputStyle::default());
    assert_eq!(text, vec![Some(b"{{1,2},{3}}".to_vec())]);
    let writer = value_writer(&ragged, &field, Format::Binary, &OutputStyle::default()).unwrap();
    assert!(matches!(writer.write(0, &mut BytesMut::new()), Err(Error::RaggedArray)));
}

#[test]
fn structs_and_maps_are_json() {
    let json = crate::types::parse("json").unwrap().to_arrow_field("j", true);
    let fields = vec![
        (
            Arc::new(Field::new("id", DataType::Int32, true)),
            Arc::new(Int32Array::from(vec![Some(1), None])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("na\"me", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec!["x\n\u{1}", "y"])) as ArrayRef,
        ),
        (
            Arc::new(json),
            Arc::new(StringArray::from(vec!["[1]", "null"])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("f", DataType::Float64, true)),
            Arc::new(Float64Array::from(vec![1.5, f64::NAN])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("t", crate::types::SqlType::Timestamp.to_arrow(), true)),
            Arc::new(TimestampMicrosecondArray::from(vec![500_000, 0])) as ArrayRef,
        ),
    ];
    let array: ArrayRef = Arc::new(StructArray::from(fields));
    let field = Field::new("s", array.data_type().clone(), true);
    let texts = encode(&field, &array, Format::Text, &OutputStyle::default());
    let expected = [
        r#"{"id":1,"na\"me":"x\n\u0001","j":[1],"f":1.5,"t":"1970-01-01T00:00:00.5"}"#,
        r#"{"id":null,"na\"me":"y","j":null,"f":"NaN","t":"1970-01-01T00:00:00"}"#,
    ];
    for (text, expected) in texts.into_iter().zip(expected) {
        assert_eq!(String::from_utf8(text.unwrap()).unwrap(), expected);
    }

    let names = MapFieldNames {
        entry: "entries".into(),
        key: "key".into(),
        value: "value".into(),
    };
    let mut builder = MapBuilder::new(Some(names), StringBuilder::new(), Int32Array::builder(2));
    builder.keys().append_value("k");
    builder.values().append_value(7);
    builder.append(true).unwrap();
    let array: ArrayRef = Arc::new(builder.finish());
    let field = Field::new("m", array.data_type().clone(), true);
    check((field, array), &[Some(r#"{"k":7}"#)], &[Some("7b226b223a377d")]);
}

#[test]
fn a_row_is_one_message() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("a", DataType::Int32, true),
        Field::new("b", DataType::Utf8, true),
    ]));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![1, 2])),
        Arc::new(StringArray::from(vec![Some("xy"), None])),
    ];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let encoder = RowEncoder::text(schema, OutputStyle::default());
    let rows = encoder.open(&batch).unwrap();
    let mut out = BytesMut::new();
    rows.data_row(0, &mut out).unwrap();
    assert_eq!(&out[..], b"D\0\0\0\x11\0\x02\0\0\0\x011\0\0\0\x02xy");
    out.clear();
    rows.data_row(1, &mut out).unwrap();
    assert_eq!(&out[..], b"D\0\0\0\x0f\0\x02\0\0\0\x012\xff\xff\xff\xff");
}

#[test]
fn a_row_that_fails_leaves_nothing() {
    let (field, array) = nested(&[&[1, 2], &[3]]);
    let schema = Arc::new(Schema::new(vec![field]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![array]).unwrap();
    let encoder = RowEncoder::new(schema, vec![Format::Binary], OutputStyle::default());
    let mut out = BytesMut::from(&b"before"[..]);
    assert!(encoder.open(&batch).unwrap().data_row(0, &mut out).is_err());
    assert_eq!(&out[..], b"before");
}

#[test]
fn unions_are_refused_with_a_hint() {
    use crate::error::Report;
    let union = DataType::Union(
        arrow::datatypes::UnionFields::empty(),
        arrow::datatypes::UnionMode::Sparse,
    );
    let error = column_type(&Field::new("u", union, true)).unwrap_err();
    assert_eq!(error.code(), crate::error::SqlState::FEATURE_NOT_SUPPORTED);
    assert!(error.hint().is_some());
}

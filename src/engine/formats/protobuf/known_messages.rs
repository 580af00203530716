//! Messages of well-known files that are single values of SQL: `google.type.Date`, `google.type.TimeOfDay` and `confluent.type.Decimal`.
//!
//! A Decimal says itself how many digits it has after the point; a NUMERIC column has one number of them, which a schema made by
//! Kafka Connect or by us notes beside the field. What is finer is rounded, what has too many digits before the point is bad.
//!
//! Not known: Dates without a year, month or day, which the type allows. They are bad records for a DATE column; as STRUCT they are read.

use std::convert::Infallible;
use std::ops::RangeInclusive;

use arrow::datatypes::{DataType, Date32Type, TimeUnit};
use chrono::{Datelike, NaiveDate};
use prost_reflect::{FieldDescriptor, MapKey, MessageDescriptor, Value as ReflectValue};

use crate::engine::formats::columns::Values;
use crate::engine::formats::decimal_bytes::{number_of, rescaled, shortest};
use crate::engine::formats::protobuf::values::{NANOS_A_SECOND, numbers};
use crate::engine::formats::protobuf::wire::{
    Reader, WireResult, WireType, put_delimited, put_number, put_numbers, put_tag, put_varint,
};
use crate::types::{NUMERIC_DEFAULT_PRECISION, NUMERIC_DEFAULT_SCALE, NUMERIC_MAX_PRECISION};

const FIELD_OPTIONS: &str = "google.protobuf.FieldOptions";
const FIELD_META: &str = "confluent.field_meta";
/// That a Date of Google can have.
const YEARS: RangeInclusive<i32> = 1..=9999;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Date,
    TimeOfDay,
    /// With the digits that columns made of it have.
    Decimal {
        precision: u8,
        scale: i8,
    },
}

impl Known {
    /// What messages of this kind are in `field`, if they are single values.
    pub fn of(message: &MessageDescriptor, field: &FieldDescriptor) -> Option<Known> {
        Some(match message.full_name() {
            "google.type.Date" => Known::Date,
            "google.type.TimeOfDay" => Known::TimeOfDay,
            "confluent.type.Decimal" => {
                let (precision, scale) =
                    noted_digits(field).unwrap_or((NUMERIC_DEFAULT_PRECISION, NUMERIC_DEFAULT_SCALE));
                Known::Decimal { precision, scale }
            }
            _ => return None,
        })
    }

    pub fn data_type(self) -> DataType {
        match self {
            Known::Date => DataType::Date32,
            Known::TimeOfDay => DataType::Time64(TimeUnit::Microsecond),
            Known::Decimal { precision, scale } => DataType::Decimal128(precision, scale),
        }
    }

    /// Whether a column of this type holds the value; otherwise it holds the message.
    pub fn fits(self, of: &DataType) -> bool {
        match self {
            Known::Decimal { .. } => matches!(of, DataType::Decimal128(..)),
            _ => of == &self.data_type(),
        }
    }

    /// Appends a message's value to a column; or says why it is none.
    pub(in crate::engine::formats) fn read(
        self,
        reader: Reader<'_>,
        values: &mut Values,
    ) -> WireResult<Result<(), String>> {
        Ok(match (self, values) {
            (Known::Date, Values::Date(values)) => {
                let [year, month, day] = numbers(reader)?.map(|number| number as i32);
                days(year, month, day)
                    .map(|days| values.push(days))
                    .ok_or_else(|| format!("no date: year {year}, month {month}, day {day}"))
            }
            (Known::TimeOfDay, Values::Time(values)) => {
                let [hours, minutes, seconds, nanos] = numbers(reader)?.map(|number| number as i32);
                micros(hours, minutes, seconds, nanos)
                    .map(|micros| values.push(micros))
                    .ok_or_else(|| format!("no time of day: {hours} h {minutes} min {seconds} s {nanos} ns"))
            }
            (
                Known::Decimal { .. },
                Values::Decimal {
                    values,
                    precision,
                    scale,
                },
            ) => {
                let (bytes, from) = decimal(reader)?;
                number_of(bytes)
                    .and_then(|number| rescaled(number, from, *precision, *scale))
                    .map(|number| values.push(number))
                    .ok_or_else(|| format!("a decimal is out of range for type numeric({precision}, {scale})"))
            }
            _ => Err("the column has another type than its field".into()),
        })
    }
}

/// Precision and scale, as they are noted beside a field.
fn noted_digits(field: &FieldDescriptor) -> Option<(u8, i8)> {
    let options = field.parent_pool().get_message_by_name(FIELD_OPTIONS)?;
    let extension = options.get_extension_by_full_name(FIELD_META)?;
    let noted = field.options();
    let noted = noted.get_extension(&extension);
    let params = noted.as_message()?.get_field_by_name("params")?;
    let number = |key: &str| {
        let value = params.as_map()?.get(&MapKey::String(key.to_owned()))?;
        ReflectValue::as_str(value)?.parse::<u8>().ok()
    };
    let precision = number("precision").unwrap_or(NUMERIC_DEFAULT_PRECISION);
    let scale = number("scale")?;
    let is_type = (1..=NUMERIC_MAX_PRECISION).contains(&precision) && scale <= precision;
    is_type.then_some((precision, scale as i8))
}

/// The whole number of a Decimal, and its digits after the point.
fn decimal<'a>(mut reader: Reader<'a>) -> WireResult<(&'a [u8], i32)> {
    let (mut value, mut scale): (&[u8], i32) = (&[], 0);
    while !reader.is_empty() {
        match reader.tag()? {
            (1, WireType::Length) => {
                let part = reader.part(1, WireType::Length)?;
                value = &reader.bytes[part];
            }
            (3, WireType::Varint) => scale = reader.varint()? as i32,
            (number, layout) => reader.skip(number, layout)?,
        }
    }
    Ok((value, scale))
}

/// Days since 1970.
fn days(year: i32, month: i32, day: i32) -> Option<i32> {
    let (month, day) = (u32::try_from(month).ok()?, u32::try_from(day).ok()?);
    let date = NaiveDate::from_ymd_opt(year, month, day).filter(|date| YEARS.contains(&date.year()));
    date.map(Date32Type::from_naive_date)
}

/// Microseconds since midnight; what is finer is cut off.
fn micros(hours: i32, minutes: i32, seconds: i32, nanos: i32) -> Option<i64> {
    let is_time = (0..24).contains(&hours)
        && (0..60).contains(&minutes)
        && (0..60).contains(&seconds)
        && (0..NANOS_A_SECOND).contains(&nanos.into());
    let seconds = i64::from(hours) * 3600 + i64::from(minutes) * 60 + i64::from(seconds);
    is_time.then(|| seconds * 1_000_000 + i64::from(nanos) / 1000)
}

/// `None`: the type has no such year.
pub fn put_date(days: i32, out: &mut Vec<u8>) -> Option<()> {
    let date = Date32Type::to_naive_date_opt(days).filter(|date| YEARS.contains(&date.year()))?;
    put_numbers([date.year().into(), date.month().into(), date.day().into()], out);
    Some(())
}

pub fn put_time_of_day(micros: i64, out: &mut Vec<u8>) {
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    put_numbers([seconds / 3600, seconds / 60 % 60, seconds % 60, fraction * 1000], out);
}

pub fn put_decimal(number: i128, scale: i8, out: &mut Vec<u8>) {
    let bytes = number.to_be_bytes();
    let digits = shortest(&bytes);
    let precision = number.unsigned_abs().checked_ilog10().unwrap_or(0) + 1;
    let inside = |out: &mut Vec<u8>| {
        put_tag(1, WireType::Length, out);
        put_varint(digits.len() as u64, out);
        out.extend_from_slice(digits);
        put_number(2, precision.into(), out);
        put_number(3, scale.into(), out);
        Ok::<(), Infallible>(())
    };
    let Ok(()) = put_delimited(out, inside);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::{ArrayRef, Date32Array, Decimal128Array, RecordBatch, Time64MicrosecondArray};
    use arrow::datatypes::{Field, Schema, SchemaRef};

    use crate::engine::formats::protobuf::decode::Framing;
    use crate::engine::formats::protobuf::encode::ProtobufEncoder;
    use crate::engine::formats::protobuf::tests::rows;
    use crate::engine::formats::protobuf::{schema, types};
    use crate::engine::formats::{Encoder, Written};
    use crate::engine::message::Chunk;

    use super::*;

    const DAY: &str = r#"syntax = "proto3";
        import "google/type/date.proto";
        import "google/type/timeofday.proto";
        import "google/type/money.proto";
        import "confluent/meta.proto";
        import "confluent/type/decimal.proto";
        message Day {
            google.type.Date date = 1;
            google.type.TimeOfDay time = 2;
            confluent.type.Decimal noted = 3 [(confluent.field_meta) = { params: [{ key: "scale" value: "2" }, { key: "precision" value: "5" }] }];
            confluent.type.Decimal plain = 4;
            repeated confluent.type.Decimal many = 5 [(confluent.field_meta).params = { key: "scale" value: "0" }];
            google.type.Money money = 6;
        }"#;

    fn day() -> MessageDescriptor {
        schema::of_text(DAY, "Day").unwrap()
    }

    fn only(name: &str) -> SchemaRef {
        let all = types::schema(&day());
        Arc::new(Schema::new(vec![all.field_with_name(name).unwrap().clone()]))
    }

    #[test]
    fn columns_have_the_digits_that_are_noted() {
        let all = types::schema(&day());
        let of = |name: &str| all.field_with_name(name).unwrap().data_type().clone();
        assert_eq!(of("date"), DataType::Date32);
        assert_eq!(of("time"), DataType::Time64(TimeUnit::Microsecond));
        assert_eq!(of("noted"), DataType::Decimal128(5, 2));
        let plain = DataType::Decimal128(NUMERIC_DEFAULT_PRECISION, NUMERIC_DEFAULT_SCALE);
        assert_eq!(of("plain"), plain);
        let many = Field::new("item", DataType::Decimal128(38, 0), true);
        assert_eq!(of("many"), DataType::List(Arc::new(many)));
        assert!(matches!(of("money"), DataType::Struct(parts) if parts.len() == 3));
    }

    #[test]
    fn values_are_read_and_written() {
        let arrays: [(&str, ArrayRef, &[&[u8]]); 3] = [
            // 1969-12-31, 9999-12-31
            (
                "date",
                Arc::new(Date32Array::from(vec![-1, 2_932_896])),
                &[
                    b"\x0a\x07\x08\xb1\x0f\x10\x0c\x18\x1f",
                    b"\x0a\x07\x08\x8f\x4e\x10\x0c\x18\x1f",
                ],
            ),
            (
                "time",
                Arc::new(Time64MicrosecondArray::from(vec![0, 3_661_000_001])),
                &[b"\x12\x00", b"\x12\x09\x08\x01\x10\x01\x18\x01\x20\xe8\x07"],
            ),
            (
                "noted",
                Arc::new(
                    Decimal128Array::from(vec![0, -128, 99_999])
                        .with_precision_and_scale(5, 2)
                        .unwrap(),
                ),
                &[
                    b"\x1a\x07\x0a\x01\x00\x10\x01\x18\x02",
                    b"\x1a\x07\x0a\x01\x80\x10\x03\x18\x02",
                    b"\x1a\x09\x0a\x03\x01\x86\x9f\x10\x05\x18\x02",
                ],
            ),
        ];
        for (name, array, wire) in arrays {
            let batch = RecordBatch::try_new(only(name), vec![Arc::clone(&array)]).unwrap();
            let mut messages: Vec<Vec<u8>> = Vec::new();
            let mut keep = |_: usize, bytes: &[u8]| messages.push(bytes.to_vec());
            let keep: &mut Written<'_> = &mut keep;
            let mut encoder = ProtobufEncoder::new(&day(), &only(name), Framing::Message).unwrap();
            encoder
                .encode_each(&Chunk::insert(batch.clone()), &mut Vec::new(), keep)
                .unwrap();
            let mut written = Vec::new();
            for (at, whole) in messages.iter().enumerate() {
                let from = if at == 0 { 0 } else { messages[at - 1].len() };
                written.push(&whole[from..whole.len() - 1]);
            }
            assert_eq!(written, wire, "{name}");
            let (shown, bad) = rows(&day(), &only(name), wire);
            assert_eq!((shown, bad), (shown_rows(&batch), Vec::new()), "{name}");
        }
    }

    fn shown_rows(batch: &RecordBatch) -> String {
        use crate::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};
        let mut out = Vec::new();
        JsonEncoder::new(&batch.schema(), JsonEncodeOptions::default())
            .encode(&Chunk::insert(batch.clone()), &mut out)
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn decimals_of_other_digits_are_rounded() {
        // 1.235, 1E+2, nothing at all, and 10 in more bytes than it needs.
        let records: [&[u8]; 4] = [
            b"\x1a\x06\x0a\x02\x04\xd3\x18\x03",
            b"\x1a\x0e\x0a\x01\x01\x18\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\x1a\x00",
            b"\x1a\x14\x0a\x12\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x0a",
        ];
        let (shown, bad) = rows(&day(), &only("noted"), &records);
        assert_eq!(bad, Vec::<String>::new());
        assert_eq!(
            shown,
            "{\"noted\":1.24}\n{\"noted\":100.00}\n{\"noted\":0.00}\n{\"noted\":10.00}\n"
        );
    }

    #[test]
    fn what_is_no_value_is_bad_and_leaves_nothing() {
        let said = |name: &str, record: &[u8]| {
            let (shown, bad) = rows(&day(), &only(name), &[record]);
            assert_eq!(shown, "");
            bad.join("; ")
        };
        let out_of_range = "a decimal is out of range for type numeric(5, 2)";
        let cases: [(&str, &[u8], &str); 5] = [
            (
                "date",
                b"\x0a\x05\x08\xea\x0f\x10\x02",
                "no date: year 2026, month 2, day 0",
            ),
            ("date", b"\x0a\x00", "no date: year 0, month 0, day 0"),
            ("time", b"\x12\x02\x08\x18", "no time of day: 24 h 0 min 0 s 0 ns"),
            ("noted", b"\x1a\x05\x0a\x03\x01\x86\xa0", out_of_range),
            ("noted", b"\x1a\x09\x0a\x01\x01\x18\x80\x80\x80\x80\x08", out_of_range),
        ];
        for (column, record, reason) in cases {
            assert_eq!(said(column, record), format!("column \"{column}\": {reason}"));
        }
    }

    #[test]
    fn the_message_itself_can_be_had() {
        let parts = ["year", "month", "day"].map(|part| Field::new(part, DataType::Int32, false));
        let parts = DataType::Struct(parts.to_vec().into());
        let schema = Arc::new(Schema::new(vec![Field::new("date", parts, true)]));
        let (shown, bad) = rows(&day(), &schema, &[b"\x0a\x05\x08\xea\x0f\x10\x02"]);
        assert_eq!(
            (shown.as_str(), bad.len()),
            ("{\"date\":{\"year\":2026,\"month\":2,\"day\":0}}\n", 0)
        );
    }
}

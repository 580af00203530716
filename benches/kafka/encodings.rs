//! The records of the benchmark, in each encoding, and what reads them beside Laminar.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::json::ReaderBuilder;
use arrow_avro::schema::{AvroSchema, Fingerprint, FingerprintAlgorithm, SchemaStore};

use crate::common::Outcome;

const BATCH_ROWS: usize = 8192;

/// How a bid is written.
pub struct Encoding {
    pub name: &'static str,
    /// Options of both tables; `{schema}` is [`AVRO_SCHEMA`].
    pub options: &'static str,
    /// What decodes as the reference.
    pub decoder: &'static str,
    pub value: fn(u64) -> Vec<u8>,
    /// Decodes so many records, which it also makes: that is part of what is measured and little beside it.
    pub decode: fn(u64) -> Outcome<()>,
}

pub const ENCODINGS: [Encoding; 2] = [
    Encoding {
        name: "json",
        options: "format = 'json'",
        decoder: "arrow-json",
        value: json,
        decode: decode_json,
    },
    Encoding {
        name: "avro",
        options: "format = 'avro', avro.schema = '{schema}'",
        decoder: "arrow-avro",
        value: avro,
        decode: decode_avro,
    },
];

pub const AVRO_SCHEMA: &str = r#"{"type": "record", "name": "Bid", "fields": [
    {"name": "auction", "type": "long"}, {"name": "bidder", "type": "long"}, {"name": "price", "type": "long"},
    {"name": "channel", "type": "string"}, {"name": "url", "type": "string"},
    {"name": "date_time", "type": {"type": "long", "logicalType": "local-timestamp-micros"}}]}"#;

/// The first moment of 2026, in microseconds.
const START: i64 = 1_767_225_600_000_000;

struct Bid {
    auction: u64,
    bidder: u64,
    price: u64,
    channel: u64,
    /// Since the start.
    milliseconds: u64,
}

fn bid(number: u64) -> Bid {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    Bid {
        auction: mixed % 20_000,
        bidder: mixed / 7 % 50_000,
        price: mixed % 9_999_937,
        channel: mixed % 10,
        milliseconds: number / 10 % 86_400_000,
    }
}

fn url(bid: &Bid) -> String {
    format!("https://example.com/auctions/{}/item.htm?query=1", bid.auction)
}

fn json(number: u64) -> Vec<u8> {
    let bid = bid(number);
    let (seconds, milliseconds) = (bid.milliseconds / 1000, bid.milliseconds % 1000);
    format!(
        "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"channel-{}\",\
         \"url\":\"{}\",\"date_time\":\"2026-01-01T{:02}:{:02}:{:02}.{milliseconds:03}\"}}",
        bid.auction,
        bid.bidder,
        bid.price,
        bid.channel,
        url(&bid),
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
    )
    .into_bytes()
}

fn avro(number: u64) -> Vec<u8> {
    let bid = bid(number);
    let mut out = Vec::with_capacity(96);
    for number in [bid.auction, bid.bidder, bid.price] {
        long(number as i64, &mut out);
    }
    for text in [format!("channel-{}", bid.channel), url(&bid)] {
        long(text.len() as i64, &mut out);
        out.extend_from_slice(text.as_bytes());
    }
    long(START + bid.milliseconds as i64 * 1000, &mut out);
    out
}

/// Zigzag, seven bits a byte, the least first.
fn long(number: i64, out: &mut Vec<u8>) {
    let mut rest = ((number << 1) ^ (number >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn decode_json(records: u64) -> Outcome<()> {
    let mut decoder = ReaderBuilder::new(schema())
        .with_batch_size(BATCH_ROWS)
        .build_decoder()?;
    for number in 0..records {
        let value = json(number);
        let mut rest = value.as_slice();
        while !rest.is_empty() {
            let taken = decoder.decode(rest)?;
            rest = &rest[taken..];
            if !rest.is_empty() {
                std::hint::black_box(decoder.flush()?);
            }
        }
    }
    std::hint::black_box(decoder.flush()?);
    Ok(())
}

fn decode_avro(records: u64) -> Outcome<()> {
    let mut known = SchemaStore::new_with_type(FingerprintAlgorithm::Id);
    known.set(Fingerprint::Id(1), AvroSchema::new(AVRO_SCHEMA.to_owned()))?;
    let mut decoder = arrow_avro::reader::ReaderBuilder::new()
        .with_writer_schema_store(known)
        .with_active_fingerprint(Fingerprint::Id(1))
        .with_batch_size(BATCH_ROWS)
        .build_decoder()?;
    let (mut value, mut rows) = (Vec::new(), 0);
    for number in 0..records {
        value.clear();
        // It reads no record without the id of its schema.
        value.extend_from_slice(&[0, 0, 0, 0, 1]);
        value.extend_from_slice(&avro(number));
        let mut rest = value.as_slice();
        while !rest.is_empty() {
            let taken = decoder.decode(rest)?;
            rest = &rest[taken..];
            if decoder.batch_is_full() {
                rows += decoder.flush()?.map_or(0, |batch| batch.num_rows());
            }
        }
    }
    rows += decoder.flush()?.map_or(0, |batch| batch.num_rows());
    match rows as u64 == records {
        true => Ok(()),
        false => Err(format!("arrow-avro read {rows} of {records} records").into()),
    }
}

fn schema() -> SchemaRef {
    let field = |name: &str, of: DataType| Field::new(name, of, true);
    Arc::new(Schema::new(vec![
        field("auction", DataType::Int64),
        field("bidder", DataType::Int64),
        field("price", DataType::Int64),
        field("channel", DataType::Utf8),
        field("url", DataType::Utf8),
        field("date_time", DataType::Timestamp(TimeUnit::Microsecond, None)),
    ]))
}

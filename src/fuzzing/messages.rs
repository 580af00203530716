//! Messages of brokers, of Postgres, and of clients.

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

use crate::engine::connectors::kafka::Kafka;
use crate::engine::connectors::kafka::decode::MessageDecoder;
use crate::engine::connectors::kafka::messages::batch_of;
use crate::engine::connectors::kafka::partitions::Partition;
use crate::engine::connectors::options::OptionReader;
use crate::engine::connectors::{Connector, METADATA_FIELD};
use crate::engine::formats::FormatOptions;
use crate::engine::message::Weights;
use crate::frontend::pgwire::message::{self, Frame, FrameReader};
use crate::fuzzing::decoders::Reports;
use crate::options::{ResolvedOptions, ResolvedValue};

fn options(given: &[(&str, &str)]) -> FormatOptions {
    let fixed = [("bootstrap_servers", "h:1"), ("topic", "t")];
    let value = |(name, text): &(&str, &str)| {
        let value = ResolvedValue {
            text: (*text).to_owned(),
            sensitive: false,
        };
        ((*name).to_owned(), value)
    };
    let given = ResolvedOptions(fixed.iter().chain(given).map(value).collect());
    let description = Kafka.describe();
    let reader = OptionReader::for_table(&description, &given).expect("options that there are");
    FormatOptions::read(&reader).expect("a format that there is")
}

/// Records with keys and values, cut at bytes 0xff and 0xfe; 0xfd stands for no value.
fn records(data: &[u8]) -> Vec<(i64, Option<&[u8]>, Option<&[u8]>)> {
    let mut found = Vec::new();
    for (offset, record) in (0..).zip(data.split(|byte| *byte == 0xff)) {
        let (key, value) = match record.iter().position(|byte| *byte == 0xfe) {
            Some(at) => (Some(&record[..at]), &record[at + 1..]),
            None => (None, record),
        };
        found.push((offset, key, (value != [0xfd]).then_some(value)));
    }
    found
}

/// However many rows are asked for at a time, the same rows come, and each message is a row or reported.
pub fn kafka(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let formats: [(&[(&str, &str)], Option<&[usize]>); 5] = [
        (&[("format", "json")], None),
        (&[("format", "json"), ("envelope", "upsert")], Some(&[0])),
        (&[("format", "debezium_json")], Some(&[0])),
        (&[("format", "csv")], None),
        (
            &[
                ("format", "protobuf"),
                (
                    "protobuf.schema",
                    "syntax = \"proto3\"; message M { int64 id = 1; optional string name = 2; }",
                ),
            ],
            None,
        ),
    ];
    let (given, key) = formats[usize::from(*first) % formats.len()];
    let format = options(given);
    let of_key = [(METADATA_FIELD.to_owned(), "key".to_owned())];
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("k", DataType::Binary, true).with_metadata(of_key.into()),
    ]));
    let batch = batch_of(&records(rest));
    let run = |rows_max: usize| {
        let mut decoder = MessageDecoder::new(&schema, key, &format, Some(&schema)).expect("columns that fit");
        let reports = Reports::default();
        let partition = Partition {
            topic: "t".into(),
            number: 0,
        };
        let (mut at, mut batches, mut weights) = (0, Vec::new(), Vec::new());
        while at < batch.len() {
            let found = decoder
                .decode(&batch, at, batch.len(), rows_max, &partition, &reports)
                .expect("messages are refused one by one");
            assert!(found.messages > 0, "no message was taken");
            at += found.messages;
            if let Some((rows, of)) = found.rows {
                match of {
                    Weights::AllInsert => weights.extend(std::iter::repeat_n(1, rows.num_rows())),
                    Weights::Signed(of) => weights.extend_from_slice(&of),
                }
                batches.push(rows);
            }
        }
        let shown = batches
            .first()
            .map_or_else(|| Arc::clone(&schema), |rows| rows.schema());
        let rows = concat_batches(&shown, &batches).expect("batches of one decoder fit each other");
        (rows, weights, reports.taken())
    };
    assert_eq!(
        run(usize::MAX),
        run(1),
        "how many rows are asked for changes what comes"
    );
}

/// Messages of the server's output plugin are read or refused.
pub fn pgoutput(data: &[u8]) {
    // Both are answers.
    let _ = crate::engine::connectors::postgres::pgoutput::parse(data);
}

/// What a client sends is cut into frames however it arrives, and each is a message or refused.
pub fn pgwire(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else {
        return;
    };
    let cut = usize::from(*first).min(bytes.len());
    let (head, tail) = bytes.split_at(cut);
    let whole = frames(bytes);
    assert_eq!(
        whole,
        frames(tokio::io::AsyncReadExt::chain(head, tail)),
        "how frames arrive changes them"
    );
    for frame in whole {
        if let Frame::Whole { kind, body } = frame {
            let length = body.len();
            if let Ok(message::FrontendMessage::CopyData(data)) = message::decode(kind, body) {
                assert_eq!(data.len(), length);
            }
        }
    }
    // The body alone, of every kind.
    for kind in *b"QPBDECHSXdcfFp" {
        let _ = message::decode(kind, Bytes::copy_from_slice(bytes));
    }
}

fn frames(input: impl tokio::io::AsyncRead + Unpin) -> Vec<Frame> {
    use futures::FutureExt;
    let mut reader = FrameReader::new(input);
    let mut found = Vec::new();
    loop {
        let next = reader.next(1024).now_or_never();
        match next.expect("bytes at hand need no waiting") {
            Ok(frame @ (Frame::Broken | Frame::Closed)) => {
                found.push(frame);
                return found;
            }
            Ok(frame) => found.push(frame),
            Err(error) => panic!("bytes at hand cannot fail: {error}"),
        }
    }
}

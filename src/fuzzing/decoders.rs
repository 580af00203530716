//! The decoders of formats.

use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::columns::{EXTENSION_NAME, JSON_EXTENSION};
use crate::engine::formats::csv::{CsvDecoder, CsvEncoder, CsvOptions};
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};
use crate::engine::formats::raw::RawDecoder;
use crate::engine::formats::upsert::{self, UpsertDecoder};
use crate::engine::formats::{Decoder, Encoder, Input, debezium};
use crate::engine::message::{Chunk, Weights};
use crate::types::record_batch::batch_of_rows;

/// What was reported: offset, bytes, reason.
type Reported = (u64, Vec<u8>, String);

/// Keeps what is reported.
#[derive(Default)]
pub struct Reports(Mutex<Vec<Reported>>);

impl BadRowHandler for Reports {
    fn bad_row(&self, row: BadRow<'_>) -> Result<(), Error> {
        let report = (row.offset, row.raw.to_vec(), row.reason.to_owned());
        self.0.lock().expect("nothing panics with it").push(report);
        Ok(())
    }
}

impl Reports {
    pub fn taken(self) -> Vec<Reported> {
        self.0.into_inner().expect("nothing panics with it")
    }
}

/// All that came out of an input.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub rows: RecordBatch,
    pub weights: Vec<i64>,
    pub reported: Vec<Reported>,
    /// The input as a whole was refused.
    pub error: Option<String>,
}

/// Decodes `bytes`, which become known up to each of `cuts` in turn, `rows_max` rows at a time.
pub fn decoded(
    mut decoder: Box<dyn Decoder>,
    schema: &SchemaRef,
    bytes: &[u8],
    cuts: &[usize],
    rows_max: usize,
) -> Outcome {
    let reports = Reports::default();
    let (mut batches, mut weights, mut error) = (Vec::new(), Vec::new(), None);
    let (mut at, mut piece) = (0, 0);
    loop {
        let end = cuts.get(piece).copied().unwrap_or(bytes.len()).clamp(at, bytes.len());
        let input = Input {
            bytes: &bytes[at..end],
            offset: at as u64,
            place: "input",
            at_end: piece >= cuts.len(),
        };
        match decoder.decode(input, rows_max, &reports) {
            Ok(taken) => {
                assert!(taken <= input.bytes.len(), "took more than there was");
                at += taken;
            }
            Err(refused) => error = Some(refused.to_string()),
        }
        let full = decoder.rows() >= rows_max;
        if decoder.rows() > 0 {
            let (rows, of) = decoder.take_changes().expect("complete rows make a batch");
            assert_eq!(decoder.rows(), 0, "rows were taken and stayed");
            match of {
                Weights::AllInsert => weights.extend(std::iter::repeat_n(1, rows.num_rows())),
                Weights::Signed(of) => weights.extend_from_slice(&of),
            }
            batches.push(rows);
        }
        if error.is_some() || !full && piece >= cuts.len() {
            break;
        }
        piece += usize::from(!full);
    }
    assert!(error.is_some() || at == bytes.len(), "something was left over");
    // Rows that are delivered may have other rules about NULL than columns have.
    let shown = batches.first().map_or_else(|| Arc::clone(schema), RecordBatch::schema);
    let rows = match shown.fields().is_empty() {
        true => {
            let count = batches.iter().map(RecordBatch::num_rows).sum();
            batch_of_rows(shown, Vec::new(), count).expect("rows without columns")
        }
        false => concat_batches(&shown, &batches).expect("batches of one decoder fit each other"),
    };
    assert_eq!(rows.num_rows(), weights.len(), "every row has a weight");
    Outcome {
        rows,
        weights,
        reported: reports.taken(),
        error,
    }
}

/// The first bytes say where the rest is cut.
fn with_cuts(data: &[u8]) -> (Vec<usize>, usize, &[u8]) {
    let Some(([first, second, rows, ..], rest)) = data.split_first_chunk::<4>() else {
        return (Vec::new(), 1, data);
    };
    let at = |byte: u8| usize::from(byte) * rest.len().div_ceil(255).max(1);
    let mut cuts = vec![at(*first).min(rest.len()), at(*second).min(rest.len())];
    cuts.sort_unstable();
    (cuts, usize::from(*rows % 5) + 1, rest)
}

pub type Make<'a> = &'a dyn Fn() -> Box<dyn Decoder>;

/// What comes out of the input, which is the same however it is cut.
pub fn checked(make: Make<'_>, schema: &SchemaRef, data: &[u8]) -> (Outcome, Vec<u8>) {
    let (cuts, rows_max, bytes) = with_cuts(data);
    let whole = decoded(make(), schema, bytes, &[], 1 << 20);
    let pieces = decoded(make(), schema, bytes, &cuts, rows_max);
    assert_eq!(whole, pieces, "how the input is cut changes what comes out");
    (whole, bytes.to_vec())
}

/// Lines whose bad ones are taken out give the same rows and nothing to report.
fn bad_lines_leave_no_trace(make: Make<'_>, schema: &SchemaRef, outcome: &Outcome, bytes: &[u8]) {
    let mut good = bytes.to_vec();
    for (offset, raw, _) in outcome.reported.iter().rev() {
        let start = *offset as usize;
        good.drain(start..start + raw.len());
    }
    let again = decoded(make(), schema, &good, &[], 1 << 20);
    assert!(
        again.reported.is_empty(),
        "a good line was refused: {:?}",
        again.reported
    );
    assert_eq!(
        (&again.rows, &again.weights),
        (&outcome.rows, &outcome.weights),
        "a bad line left a trace"
    );
}

/// What `encoder` writes of the rows is what they are when it is read.
pub fn written_is_read(make: Make<'_>, mut encoder: impl Encoder, rows: &RecordBatch) {
    let mut out = Vec::new();
    encoder.header(&mut out);
    encoder
        .encode(&Chunk::insert(rows.clone()), &mut out)
        .expect("rows can be written");
    let again = decoded(make(), &rows.schema(), &out, &[], 1 << 20);
    assert!(
        again.reported.is_empty(),
        "what was written is refused: {:?}",
        again.reported
    );
    assert_eq!(&again.rows, rows, "what was written is read otherwise");
}

fn json_field(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
        .with_metadata([(EXTENSION_NAME.to_owned(), JSON_EXTENSION.to_owned())].into())
}

/// Every type that decoders of text make.
fn schema() -> SchemaRef {
    let inner: Fields = vec![
        Field::new("x", DataType::Int32, true),
        Field::new("y", DataType::Utf8, true),
    ]
    .into();
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("small", DataType::Int16, true),
        Field::new("big", DataType::UInt64, true),
        Field::new("price", DataType::Decimal128(12, 3), true),
        Field::new("ok", DataType::Boolean, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("raw", DataType::Binary, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true),
        Field::new("day", DataType::Date32, true),
        Field::new("time", DataType::Time64(TimeUnit::Microsecond), true),
        Field::new("uuid", DataType::FixedSizeBinary(16), true),
        json_field("any"),
        Field::new("inner", DataType::Struct(inner.clone()), true),
        Field::new(
            "list",
            DataType::List(Arc::new(Field::new("item", DataType::Int64, true))),
            true,
        ),
        Field::new(
            "inners",
            DataType::List(Arc::new(Field::new("item", DataType::Struct(inner), true))),
            true,
        ),
    ]))
}

fn flat_schema() -> SchemaRef {
    let schema = schema();
    let flat: Vec<usize> = (0..schema.fields().len())
        .filter(|at| !schema.field(*at).data_type().is_nested())
        .collect();
    Arc::new(schema.project(&flat).expect("columns that there are"))
}

pub fn json(data: &[u8]) {
    let schema = schema();
    let make =
        || Box::new(JsonDecoder::new(&schema, JsonDecodeOptions::default()).expect("a schema")) as Box<dyn Decoder>;
    let (outcome, bytes) = checked(&make, &schema, data);
    bad_lines_leave_no_trace(&make, &schema, &outcome, &bytes);
    let encoder = JsonEncoder::new(&schema, JsonEncodeOptions::default());
    written_is_read(&make, encoder, &outcome.rows);
}

pub fn debezium(data: &[u8]) {
    let schema = schema();
    for key in [None, Some(&[0][..])] {
        let make = || {
            let decoder = debezium::decoder(&schema, key, JsonDecodeOptions::default());
            Box::new(decoder.expect("a schema")) as Box<dyn Decoder>
        };
        let (outcome, bytes) = checked(&make, &schema, data);
        bad_lines_leave_no_trace(&make, &schema, &outcome, &bytes);
    }
}

pub fn upsert(data: &[u8]) {
    let schema = schema();
    let records = upsert::record_schema(&schema, "__deleted").expect("no column has this name");
    let make = || {
        let lines = JsonDecoder::new(&records, JsonDecodeOptions::default()).expect("a schema");
        Box::new(UpsertDecoder::new(Box::new(lines), &schema, Some(&[0]))) as Box<dyn Decoder>
    };
    let (outcome, bytes) = checked(&make, &schema, data);
    bad_lines_leave_no_trace(&make, &schema, &outcome, &bytes);
}

pub fn csv(data: &[u8]) {
    let schema = flat_schema();
    let header = data.first().is_some_and(|byte| byte.is_multiple_of(2));
    let options = CsvOptions {
        header,
        ..CsvOptions::default()
    };
    let names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
    let make = || {
        let names = (!header).then_some(names.as_slice());
        Box::new(CsvDecoder::new(&schema, options.clone(), names).expect("a schema")) as Box<dyn Decoder>
    };
    let (outcome, _) = checked(&make, &schema, data);
    written_is_read(&make, CsvEncoder::new(&schema, options.clone()), &outcome.rows);
}

pub fn raw(data: &[u8]) {
    for of in [DataType::Utf8, DataType::Binary] {
        let schema: SchemaRef = Arc::new(Schema::new(vec![Field::new("value", of.clone(), false)]));
        let make = || Box::new(RawDecoder::new(&schema).expect("one column")) as Box<dyn Decoder>;
        let (outcome, bytes) = checked(&make, &schema, data);
        let lines =
            bytes.split(|byte| *byte == b'\n').count() - usize::from(bytes.last().is_none_or(|last| *last == b'\n'));
        assert_eq!(
            outcome.rows.num_rows() + outcome.reported.len(),
            lines,
            "a line is a row or reported"
        );
    }
}

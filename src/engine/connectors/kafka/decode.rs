//! Messages to rows: a message is one record of the format, or, in JSON, an array of them. Metadata columns are put beside.
//!
//! A message without a value: in upsert mode the row of its key goes; in Debezium's format it says nothing new; else it is a bad row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::engine::connectors::kafka::messages::{Message, MessageBatch, Wanted};
use crate::engine::connectors::kafka::partitions::Partition;
use crate::engine::connectors::{BadRow, BadRowHandler, METADATA_FIELD, Result, keyed_schema};
use crate::engine::error::Error;
use crate::engine::formats::csv::CsvDecoder;
use crate::engine::formats::json::decode::JsonDecoder;
use crate::engine::formats::{Decoder, Format, FormatOptions, Input};
use crate::engine::message::Weights;
use crate::engine::schema_registry::frame;
use crate::types;
use crate::types::record_batch::batch_of_rows;

/// The keys of `METADATA FROM 'key'`, with the types of the columns `_key` that every table has.
pub fn metadata_fields() -> Vec<Field> {
    let json = types::SqlType::Json.to_arrow_field("_headers", true);
    [
        (Field::new("_topic", DataType::Utf8, false), "topic"),
        (Field::new("_partition", DataType::Int32, false), "partition"),
        (Field::new("_offset", DataType::Int64, false), "offset"),
        (Field::new("_key", DataType::Utf8, true), "key"),
        (
            Field::new("_timestamp", DataType::Timestamp(TimeUnit::Microsecond, None), true),
            "timestamp",
        ),
        (json, "headers"),
    ]
    .into_iter()
    .map(|(field, key)| {
        let mut metadata = field.metadata().clone();
        metadata.insert(METADATA_FIELD.to_owned(), key.to_owned());
        field.with_metadata(metadata)
    })
    .collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MetadataColumn {
    Topic,
    Partition,
    Offset,
    Key,
    Timestamp,
    Headers,
}

fn metadata_column(field: &Field) -> Result<Option<MetadataColumn>> {
    let Some(key) = field.metadata().get(METADATA_FIELD) else {
        return Ok(None);
    };
    Ok(Some(match key.as_str() {
        "topic" => MetadataColumn::Topic,
        "partition" => MetadataColumn::Partition,
        "offset" | "offset_id" => MetadataColumn::Offset,
        "key" => MetadataColumn::Key,
        "timestamp" => MetadataColumn::Timestamp,
        "headers" => MetadataColumn::Headers,
        other => {
            return Err(Error::NotSupported {
                what: format!("METADATA FROM '{other}' in connector \"kafka\""),
                hint: Some("There are topic, partition, offset, key, timestamp and headers.".into()),
            });
        }
    }))
}

/// Whether every declared metadata column is one that there is, and can have its type.
pub fn check_metadata(schema: &Schema) -> Result<()> {
    for field in schema.fields() {
        let Some(column) = metadata_column(field)? else {
            continue;
        };
        let from = match column {
            MetadataColumn::Topic | MetadataColumn::Headers => DataType::Utf8,
            MetadataColumn::Key if field.data_type() == &DataType::Binary => continue,
            MetadataColumn::Key => DataType::Utf8,
            MetadataColumn::Partition => DataType::Int32,
            MetadataColumn::Offset => DataType::Int64,
            MetadataColumn::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
        };
        if !arrow::compute::can_cast_types(&from, field.data_type()) {
            return Err(Error::NotSupported {
                what: format!("column \"{}\" METADATA with type {}", field.name(), field.data_type()),
                hint: Some(
                    "Topic, key and headers are text, partition and offset integers, timestamp is a timestamp.".into(),
                ),
            });
        }
    }
    Ok(())
}

pub struct MessageDecoder {
    /// What is delivered.
    schema: SchemaRef,
    metadata: Vec<Option<MetadataColumn>>,
    records: Box<dyn Decoder>,
    /// Of rows that go without a record of their own: nothing but the key is NOT NULL.
    tombstones: Option<Tombstones>,
    format: Format,
    framed_json: bool,
    /// The message of each row that was decoded.
    row_messages: Vec<usize>,
    text_key: bool,
    /// The value as one line.
    line: Vec<u8>,
}

struct Tombstones {
    decoder: Box<dyn Decoder>,
    key_names: Vec<String>,
    marker: String,
}

/// Rows that were decoded from the first messages of a batch.
pub struct Decoded {
    /// How many messages were looked at.
    pub messages: usize,
    pub rows: Option<(RecordBatch, Weights)>,
}

impl MessageDecoder {
    /// `all`: the table's columns, whose order a format without names goes by.
    pub fn new(
        schema: &SchemaRef,
        key: Option<&[usize]>,
        format: &FormatOptions,
        all: Option<&SchemaRef>,
    ) -> Result<MessageDecoder> {
        let metadata = schema.fields().iter().map(|field| metadata_column(field));
        let metadata = metadata.collect::<Result<Vec<_>>>()?;
        let decoded: Vec<usize> = (0..metadata.len()).filter(|at| metadata[*at].is_none()).collect();
        let decoded_schema: SchemaRef = Arc::new(schema.project(&decoded)?);
        let decoded_key: Option<Vec<usize>> = key.map(|key| {
            let places = key.iter().filter_map(|at| decoded.iter().position(|place| place == at));
            places.collect()
        });
        let decoded_key = decoded_key.as_deref();
        let tombstones = match (&format.upsert_marker, decoded_key) {
            (Some(marker), Some(key)) => Some(Tombstones {
                decoder: tombstone_decoder(format, &keyed_schema(&decoded_schema, Some(key)), key)?,
                key_names: key.iter().map(|at| decoded_schema.field(*at).name().clone()).collect(),
                marker: marker.clone(),
            }),
            _ => None,
        };
        let records: Box<dyn Decoder> = match format.format {
            Format::Csv => {
                let names = value_names(all.unwrap_or(schema));
                Box::new(CsvDecoder::new(&decoded_schema, format.csv.clone(), Some(&names))?)
            }
            _ => format.message_decoder(&decoded_schema, decoded_key)?,
        };
        let is_text_key = |(field, column): (&Arc<Field>, &Option<MetadataColumn>)| {
            *column == Some(MetadataColumn::Key) && field.data_type() != &DataType::Binary
        };
        Ok(MessageDecoder {
            text_key: schema.fields().iter().zip(&metadata).any(is_text_key),
            schema: keyed_schema(schema, key),
            metadata,
            records,
            tombstones,
            format: format.format,
            framed_json: format.framed_json,
            row_messages: Vec::new(),
            line: Vec::new(),
        })
    }

    pub fn wanted(&self) -> Wanted {
        Wanted {
            key: self.tombstones.is_some() || self.metadata.contains(&Some(MetadataColumn::Key)),
            headers: self.metadata.contains(&Some(MetadataColumn::Headers)),
        }
    }

    /// Decodes messages of `batch` from `start` up to `end`, until about `rows_max` rows are there. Rows that go without a record come by
    /// themselves, so that all rows of one answer were made by one decoder.
    pub fn decode(
        &mut self,
        batch: &MessageBatch,
        start: usize,
        end: usize,
        rows_max: usize,
        partition: &Partition,
        bad_rows: &dyn BadRowHandler,
    ) -> Result<Decoded> {
        let place = partition.to_string();
        let mut at = start;
        let mut tombstones = false;
        self.row_messages.clear();
        while let Some(message) = batch.get(at).filter(|_| at < end) {
            let is_tombstone = self.tombstones.is_some() && batch.value_line(message).is_none();
            let rows = self.row_messages.len();
            if rows >= rows_max || rows > 0 && is_tombstone != tombstones {
                break;
            }
            tombstones = is_tombstone;
            let reports = ReportsOffset {
                bad_rows,
                place: &place,
                offset: message.offset,
            };
            self.message(batch, message, is_tombstone, &reports)?;
            let decoded = match &self.tombstones {
                Some(tombstones) if is_tombstone => tombstones.decoder.rows(),
                _ => self.records.rows(),
            };
            self.row_messages.resize(decoded, at);
            at += 1;
        }
        let rows = match &mut self.tombstones {
            _ if self.row_messages.is_empty() => None,
            Some(of) if tombstones => Some(of.decoder.take_changes()?),
            _ => Some(self.records.take_changes()?),
        };
        let rows = rows.map(|(rows, weights)| self.with_metadata(rows, batch, partition).map(|rows| (rows, weights)));
        Ok(Decoded {
            messages: at - start,
            rows: rows.transpose()?,
        })
    }

    fn message(
        &mut self,
        batch: &MessageBatch,
        message: &Message,
        is_tombstone: bool,
        reports: &ReportsOffset<'_>,
    ) -> Result<()> {
        let bad = |raw: &[u8], reason: &str| {
            reports.bad_row(BadRow {
                place: reports.place,
                offset: message.offset as u64,
                raw,
                reason,
            })
        };
        let key = batch.key(message);
        if let Some(key) = key
            && self.text_key
            && std::str::from_utf8(key).is_err()
        {
            return bad(key, "the key is not text: declare its column as BYTEA");
        }
        let Some(line) = batch.value_line(message) else {
            return match &mut self.tombstones {
                Some(tombstones) if is_tombstone => match tombstones.record(key.unwrap_or_default()) {
                    Some(record) => decode_one(tombstones.decoder.as_mut(), &record, reports),
                    None => bad(
                        key.unwrap_or_default(),
                        "the key of a record without a value cannot be read",
                    ),
                },
                // What Debezium writes after the change that takes a row away.
                _ if self.format.is_debezium() => Ok(()),
                _ => bad(b"", "the record has no value, and the table no envelope = 'upsert'"),
            };
        };
        let line = match frame::split(&line[..line.len() - 1]) {
            _ if !self.framed_json => line,
            // What the schema says is for the columns to say.
            Ok(_) => &line[frame::LENGTH..],
            Err(reason) => return bad(&line[..line.len() - 1], &reason),
        };
        let value = &line[..line.len() - 1];
        match self.format {
            Format::RawString | Format::RawBytes | Format::Protobuf | Format::Avro | Format::DebeziumAvro => {
                decode_one(self.records.as_mut(), value, reports)
            }
            Format::Json | Format::DebeziumJson if memchr::memchr(b'\n', value).is_some() => {
                // Between the parts of a value a line feed means nothing, and inside of a string there is none.
                self.line.clear();
                self.line
                    .extend(line.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
                self.line.push(b'\n');
                decode_one(self.records.as_mut(), &self.line, reports)
            }
            _ => decode_one(self.records.as_mut(), line, reports),
        }
    }

    fn with_metadata(&self, rows: RecordBatch, batch: &MessageBatch, partition: &Partition) -> Result<RecordBatch> {
        let count = rows.num_rows();
        let mut decoded = rows.columns().iter();
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.metadata.len());
        for (field, metadata) in self.schema.fields().iter().zip(&self.metadata) {
            columns.push(match metadata {
                None => decoded
                    .next()
                    .map(Arc::clone)
                    .ok_or_else(|| Error::Internal("a column is missing".into()))?,
                Some(column) => {
                    let values = self.metadata_values(*column, field, batch, partition);
                    arrow::compute::cast(&values, field.data_type())?
                }
            });
        }
        Ok(batch_of_rows(Arc::clone(&self.schema), columns, count)?)
    }

    fn metadata_values(
        &self,
        column: MetadataColumn,
        field: &Field,
        batch: &MessageBatch,
        partition: &Partition,
    ) -> ArrayRef {
        let messages = || self.row_messages.iter().filter_map(|at| batch.get(*at));
        let text = |bytes: &'_ [u8]| String::from_utf8_lossy(bytes).into_owned();
        let count = self.row_messages.len();
        match column {
            MetadataColumn::Topic => Arc::new(StringArray::from_iter_values(std::iter::repeat_n(
                &partition.topic,
                count,
            ))),
            MetadataColumn::Partition => Arc::new(Int32Array::from_value(partition.number, count)),
            MetadataColumn::Offset => Arc::new(messages().map(|message| message.offset).collect::<Int64Array>()),
            MetadataColumn::Timestamp => Arc::new(
                messages()
                    .map(|message| message.timestamp)
                    .collect::<TimestampMillisecondArray>(),
            ),
            MetadataColumn::Key if field.data_type() == &DataType::Binary => {
                Arc::new(messages().map(|message| batch.key(message)).collect::<BinaryArray>())
            }
            MetadataColumn::Key => Arc::new(
                messages()
                    .map(|message| batch.key(message).map(text))
                    .collect::<StringArray>(),
            ),
            MetadataColumn::Headers => Arc::new(
                messages()
                    .map(|message| batch.headers(message).map(text))
                    .collect::<StringArray>(),
            ),
        }
    }
}

/// Keys are read as JSON or text, whatever values are written in.
fn tombstone_decoder(format: &FormatOptions, rows: &SchemaRef, key: &[usize]) -> Result<Box<dyn Decoder>> {
    let records = format.record_schema(rows, Some(key))?;
    let records = JsonDecoder::new(&records, format.json_decode)?;
    Ok(format.rows(Box::new(records), rows, Some(key)))
}

/// Names of the columns that come out of values.
fn value_names(schema: &SchemaRef) -> Vec<String> {
    let of_value = schema
        .fields()
        .iter()
        .filter(|field| !field.metadata().contains_key(METADATA_FIELD));
    of_value.map(|field| field.name().clone()).collect()
}

fn decode_one(decoder: &mut dyn Decoder, bytes: &[u8], reports: &ReportsOffset<'_>) -> Result<()> {
    let mut at = 0;
    loop {
        let input = Input {
            bytes: &bytes[at..],
            offset: 0,
            place: reports.place,
            at_end: true,
        };
        let taken = decoder.decode(input, usize::MAX, reports)?;
        at += taken;
        if at >= bytes.len() || taken == 0 {
            return Ok(());
        }
    }
}

impl Tombstones {
    /// A record that says what the key says: an object by its fields, anything else as the only column's value.
    fn record(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut record = match serde_json::from_slice::<serde_json::Value>(key) {
            Ok(serde_json::Value::Object(fields)) => match fields.get("payload") {
                // With the schema that Kafka Connect puts around it.
                Some(serde_json::Value::Object(payload)) if fields.contains_key("schema") => payload.clone(),
                _ => fields,
            },
            _ => {
                let [name] = self.key_names.as_slice() else { return None };
                let text = std::str::from_utf8(key).ok().filter(|text| !text.is_empty())?;
                [(name.clone(), text.into())].into_iter().collect()
            }
        };
        record.insert(self.marker.clone(), true.into());
        let mut line = serde_json::to_vec(&record).ok()?;
        line.push(b'\n');
        Some(line)
    }
}

/// A bad row is found by its message's offset.
struct ReportsOffset<'a> {
    bad_rows: &'a dyn BadRowHandler,
    place: &'a str,
    offset: i64,
}

impl BadRowHandler for ReportsOffset<'_> {
    fn bad_row(&self, row: BadRow<'_>) -> Result<()> {
        self.bad_rows.bad_row(BadRow {
            place: self.place,
            offset: self.offset as u64,
            ..row
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::connectors::Connector;
    use crate::engine::connectors::kafka::Kafka;
    use crate::engine::connectors::kafka::messages::batch_of;
    use crate::engine::connectors::options::OptionReader;
    use crate::engine::connectors::testing::{KeptBadRows, given, texts};

    type Given<'a> = (Option<&'a str>, Option<&'a str>);

    /// Rows with their weights, and the offsets of bad ones, of messages with keys and values.
    fn decoded(options: &[(&str, &str)], key: Option<&[usize]>, messages: &[Given<'_>]) -> (Vec<String>, Vec<u64>) {
        let options = given(&[&[("bootstrap_servers", "h:1"), ("topic", "t")], options].concat());
        let description = Kafka.describe();
        let format = FormatOptions::read(&OptionReader::for_table(&description, &options).unwrap()).unwrap();
        let name = Field::new("name", DataType::Utf8, key.is_some());
        let schema: SchemaRef = match format.format {
            Format::RawString => Arc::new(Schema::new(vec![name])),
            _ => Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false), name])),
        };
        let mut decoder = MessageDecoder::new(&schema, key, &format, Some(&schema)).unwrap();
        let messages: Vec<_> = (10..)
            .zip(messages)
            .map(|(offset, (key, value))| (offset, key.map(str::as_bytes), value.map(str::as_bytes)))
            .collect();
        let batch = batch_of(&messages);
        let bad = KeptBadRows::default();
        let partition = Partition {
            topic: "t".into(),
            number: 0,
        };
        let (mut at, mut rows) = (0, Vec::new());
        while at < batch.len() {
            let found = decoder.decode(&batch, at, batch.len(), 2, &partition, &bad).unwrap();
            at += found.messages;
            if let Some((batch, weights)) = found.rows {
                let texts = texts(batch).into_iter().enumerate();
                rows.extend(texts.map(|(row, text)| match &weights {
                    Weights::Signed(weights) if weights[row] < 0 => format!("- {text}"),
                    _ => format!("+ {text}"),
                }));
            }
        }
        (rows, bad.offsets())
    }

    #[test]
    fn a_message_is_a_record_however_it_is_laid_out() {
        let messages = [
            (None, Some("{\"id\":1,\n \"name\":\"a\"}\n")),
            (None, Some("[{\"id\":2,\"name\":\"b\"}, {\"id\":3,\"name\":\"c\"}]")),
            (None, Some("{\"id\":4}")),
            (None, None),
            (None, Some("{\"id\":5,\"name\":\"d\"}")),
        ];
        let row = |id: i64, name: &str| format!("+ {{\"id\":{id},\"name\":\"{name}\"}}");
        let rows = vec![row(1, "a"), row(2, "b"), row(3, "c"), row(5, "d")];
        assert_eq!(decoded(&[], None, &messages), (rows, vec![12, 13]));
        let messages = [(None, Some("1,a\n")), (None, Some("2,\"b\nb\""))];
        let rows = vec![row(1, "a"), row(2, "b\\nb")];
        assert_eq!(decoded(&[("format", "csv")], None, &messages), (rows, vec![]));
        let messages = [(None, Some("a\nb\n")), (None, Some(""))];
        let rows = vec!["+ {\"name\":\"a\\nb\\n\"}".to_owned(), "+ {\"name\":\"\"}".to_owned()];
        assert_eq!(decoded(&[("format", "raw_string")], None, &messages), (rows, vec![]));
    }

    #[test]
    fn records_without_a_value_take_rows_away() {
        let messages = [
            (Some("1"), Some("{\"id\":1,\"name\":\"a\"}")),
            (Some("1"), None),
            (Some("{\"id\":2}"), None),
            (Some("{\"schema\":{},\"payload\":{\"id\":3}}"), None),
            (None, None),
            (Some("x"), None),
            (Some("4"), Some("{\"id\":4,\"name\":null}")),
            (Some("4"), Some("{\"id\":4,\"__deleted\":true}")),
        ];
        let row = |sign: char, id: i64, name: &str| format!("{sign} {{\"id\":{id},\"name\":{name}}}");
        let rows = vec![
            row('+', 1, "\"a\""),
            row('-', 1, "null"),
            row('-', 2, "null"),
            row('-', 3, "null"),
            row('+', 4, "null"),
            row('-', 4, "null"),
        ];
        let found = decoded(&[("envelope", "upsert")], Some(&[0]), &messages);
        assert_eq!(found, (rows, vec![14, 15]));
    }

    #[test]
    fn debezium_says_nothing_by_them() {
        let messages = [
            (
                None,
                Some("{\"before\":null,\"after\":{\"id\":1,\"name\":\"a\"},\"op\":\"c\"}"),
            ),
            (
                None,
                Some("{\"before\":{\"id\":1,\"name\":\"a\"},\"after\":null,\"op\":\"d\"}"),
            ),
            (Some("{\"id\":1}"), None),
        ];
        let rows = vec![
            "+ {\"id\":1,\"name\":\"a\"}".to_owned(),
            "- {\"id\":1,\"name\":\"a\"}".to_owned(),
        ];
        assert_eq!(decoded(&[("format", "debezium_json")], None, &messages), (rows, vec![]));
    }
}

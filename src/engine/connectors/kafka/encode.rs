//! Rows to records: the format makes the value, columns named by options the key, the partition, the timestamp, the headers.
//!
//! In upsert mode a row that goes is a record without a value, which is how compacted topics delete.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};

use crate::engine::connectors::Result;
use crate::engine::connectors::kafka::options::{SinkOptions, invalid};
use crate::engine::connectors::kafka::records::Record;
use crate::engine::error::Error;
use crate::engine::formats::avro::encode::AvroEncoder;
use crate::engine::formats::columns::is_json;
use crate::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};
use crate::engine::formats::protobuf::encode::RegisteredEncoder;
use crate::engine::formats::registered::SinkSchema;
use crate::engine::formats::{Encoder, Format, FormatOptions};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::{Chunk, Weights};

pub struct RecordEncoder {
    values: Box<dyn Encoder>,
    /// What a registry is still to say.
    registered: Option<Arc<SinkSchema>>,
    /// Values end with a line feed that is no part of them.
    lines: bool,
    /// Of the value.
    columns: Vec<usize>,
    schema: SchemaRef,
    key: Option<KeyEncoder>,
    timestamp: Option<usize>,
    partition: Option<usize>,
    headers: Option<usize>,
    /// Rows that go are records without a value.
    upsert: bool,
    buffer: Vec<u8>,
}

impl RecordEncoder {
    pub fn new(
        schema: &SchemaRef,
        changelog: &SinkChangelog,
        format: &FormatOptions,
        options: &SinkOptions,
        registered: impl FnOnce(&SchemaRef) -> Option<Arc<SinkSchema>>,
    ) -> Result<RecordEncoder> {
        let column = |option: &str, name: &Option<String>| match name {
            Some(name) => column_named(schema, option, name).map(Some),
            None => Ok(None),
        };
        let headers = column("sink.headers_field", &options.headers)?;
        let columns: Vec<usize> = (0..schema.fields().len()).filter(|at| Some(*at) != headers).collect();
        let value_schema: SchemaRef = Arc::new(schema.project(&columns)?);
        let changelog = changelog_of_value(changelog, &columns);
        let mut key = Vec::new();
        for name in &options.key {
            key.push(column_named(schema, "sink.key_field", name)?);
        }
        if let (SinkChangelog::Upsert { key: of_table }, true) = (&changelog, key.is_empty()) {
            key = of_table.iter().filter_map(|at| columns.get(*at).copied()).collect();
        }
        if let SinkChangelog::Debezium { key: Some(of_table) } = &changelog
            && key.is_empty()
        {
            key = of_table.iter().filter_map(|at| columns.get(*at).copied()).collect();
        }
        let registered = registered(&value_schema);
        let values: Box<dyn Encoder> = match (format.format, &registered) {
            (Format::Protobuf, Some(schema)) => Box::new(RegisteredEncoder::new(Arc::clone(schema))),
            (Format::Avro, Some(schema)) => Box::new(AvroEncoder::registered(Arc::clone(schema))),
            (Format::Avro, None) => Box::new(AvroEncoder::new(value_schema.fields(), &format.avro)?),
            _ => format.record_encoder(&value_schema, &changelog)?,
        };
        let encoder = RecordEncoder {
            values,
            registered,
            lines: format.format != Format::Avro,
            columns,
            schema: value_schema,
            key: KeyEncoder::new(schema, key, format.json_encode)?,
            timestamp: column("sink.timestamp_field", &options.timestamp)?,
            partition: column("sink.partition_field", &options.partition)?,
            headers,
            upsert: matches!(changelog, SinkChangelog::Upsert { .. }),
            buffer: Vec::new(),
        };
        encoder.check_types(schema)?;
        Ok(encoder)
    }

    /// Whether it is known how rows are written.
    pub fn is_ready(&self) -> bool {
        self.registered.as_ref().is_none_or(|schema| schema.is_ready())
    }

    fn check_types(&self, schema: &SchemaRef) -> Result<()> {
        let wrong = |option: &str, at: Option<usize>, wanted: &str, fits: &dyn Fn(usize) -> bool| match at {
            Some(at) if !fits(at) => Err(invalid(
                &format!(
                    "column \"{}\" of option \"{option}\" is not {wanted}",
                    schema.field(at).name()
                ),
                "Name a column of that type, or cast it in the query.",
            )),
            _ => Ok(()),
        };
        let of = |at: usize| schema.field(at).data_type();
        wrong("sink.timestamp_field", self.timestamp, "a timestamp", &|at| {
            matches!(of(at), DataType::Timestamp(..))
        })?;
        wrong("sink.partition_field", self.partition, "an integer", &|at| {
            of(at).is_integer()
        })?;
        wrong("sink.headers_field", self.headers, "JSON or text", &|at| {
            is_json(schema.field(at)) || of(at) == &DataType::Utf8
        })
    }

    /// Calls `each` with the records that say what `chunk` changes, in its order.
    pub fn encode(&mut self, chunk: &Chunk, mut each: impl FnMut(Record) -> Result<()>) -> Result<()> {
        let rows = chunk.rows.columns();
        let keys = match &mut self.key {
            Some(key) => Some(key.encode(chunk)?),
            None => None,
        };
        let timestamps = self.timestamp.map(|at| millis(&rows[at])).transpose()?;
        let partitions = self.partition.map(|at| whole_numbers(&rows[at])).transpose()?;
        let headers = self.headers.map(|at| rows[at].as_string::<i32>());
        let value_rows = RecordBatch::try_new(
            Arc::clone(&self.schema),
            self.columns.iter().map(|at| Arc::clone(&rows[*at])).collect(),
        )?;
        let mut values = Chunk::insert(value_rows);
        // A row that goes is encoded like the others, and then left out.
        values.weights = if self.upsert {
            Weights::AllInsert
        } else {
            chunk.weights.clone()
        };
        let mut fault = None;
        let mut start = 0;
        let (upsert, lines) = (self.upsert, self.lines);
        // Avro's encoder writes it itself.
        let header = match &self.registered {
            Some(schema) if lines => schema.answer()?.header.clone(),
            _ => Vec::new(),
        };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        self.values.encode_each(&values, &mut buffer, &mut |row, out| {
            let goes = upsert && chunk.weight(row) < 0;
            let value = &out[start..out.len() - usize::from(lines)];
            start = out.len();
            let record = || -> Result<Record> {
                Ok(Record {
                    key: keys.as_ref().and_then(|keys| keys[row].clone()),
                    value: (!goes).then(|| [&header, value].concat()),
                    partition: match &partitions {
                        Some(numbers) if numbers.is_valid(row) => Some(partition_number(numbers.value(row))?),
                        _ => None,
                    },
                    timestamp: timestamps
                        .as_ref()
                        .filter(|times| times.is_valid(row))
                        .map(|times| times.value(row)),
                    headers: match headers {
                        Some(texts) if texts.is_valid(row) => headers_of(texts.value(row))?,
                        _ => Vec::new(),
                    },
                })
            };
            if fault.is_none() {
                fault = record().and_then(&mut each).err();
            }
        })?;
        self.buffer = buffer;
        fault.map_or(Ok(()), Err)
    }
}

/// Columns of the value are counted without those that are no part of it.
fn changelog_of_value(changelog: &SinkChangelog, columns: &[usize]) -> SinkChangelog {
    let moved = |key: &[usize]| {
        let places = key
            .iter()
            .filter_map(|at| columns.iter().position(|column| column == at));
        places.collect::<Vec<usize>>()
    };
    match changelog {
        SinkChangelog::Append => SinkChangelog::Append,
        SinkChangelog::Upsert { key } => SinkChangelog::Upsert { key: moved(key) },
        SinkChangelog::Debezium { key } => SinkChangelog::Debezium {
            key: key.as_deref().map(moved),
        },
    }
}

fn column_named(schema: &Schema, option: &str, name: &str) -> Result<usize> {
    schema.index_of(name).map_err(|_| {
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        invalid(
            &format!("column \"{name}\" of option \"{option}\" does not exist"),
            &format!("The columns are: {}.", names.join(", ")),
        )
    })
}

fn millis(column: &ArrayRef) -> Result<arrow::array::PrimitiveArray<TimestampMillisecondType>> {
    let cast = arrow::compute::cast(column, &DataType::Timestamp(TimeUnit::Millisecond, None))?;
    Ok(cast.as_primitive::<TimestampMillisecondType>().clone())
}

fn whole_numbers(column: &ArrayRef) -> Result<arrow::array::Int64Array> {
    let cast = arrow::compute::cast(column, &DataType::Int64)?;
    Ok(cast.as_primitive::<Int64Type>().clone())
}

fn partition_number(number: i64) -> Result<i32> {
    i32::try_from(number)
        .ok()
        .filter(|number| *number >= 0)
        .ok_or_else(|| Error::Data {
            code: crate::error::SqlState::NUMERIC_VALUE_OUT_OF_RANGE,
            message: format!("{number} is no number of a partition"),
            detail: None,
        })
}

/// The fields of a JSON object: texts as they are, others as JSON, NULL as a header without a value.
fn headers_of(text: &str) -> Result<Vec<(String, Option<Vec<u8>>)>> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).map_err(|_| Error::Data {
        code: crate::error::SqlState::INVALID_TEXT_REPRESENTATION,
        message: "headers are not a JSON object".into(),
        detail: None,
    })?;
    let bytes = |value: serde_json::Value| match value {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(text.into_bytes()),
        other => Some(other.to_string().into_bytes()),
    };
    Ok(fields.into_iter().map(|(name, value)| (name, bytes(value))).collect())
}

/// One column as its text (bytes as they are), several as a JSON object.
struct KeyEncoder {
    columns: Vec<usize>,
    schema: SchemaRef,
    objects: JsonEncoder,
}

impl KeyEncoder {
    fn new(schema: &Schema, columns: Vec<usize>, options: JsonEncodeOptions) -> Result<Option<KeyEncoder>> {
        if columns.is_empty() {
            return Ok(None);
        }
        let schema: SchemaRef = Arc::new(schema.project(&columns)?);
        Ok(Some(KeyEncoder {
            columns,
            objects: JsonEncoder::new(&schema, options),
            schema,
        }))
    }

    /// A key for each row; `None` where the only column is NULL.
    fn encode(&mut self, chunk: &Chunk) -> Result<Vec<Option<Vec<u8>>>> {
        let columns: Vec<ArrayRef> = self
            .columns
            .iter()
            .map(|at| Arc::clone(chunk.rows.column(*at)))
            .collect();
        if let [column] = columns.as_slice() {
            match column.data_type() {
                DataType::Utf8 if !is_json(self.schema.field(0)) => {
                    let texts = column.as_string::<i32>();
                    return Ok(texts
                        .iter()
                        .map(|text| text.map(|text| text.as_bytes().to_vec()))
                        .collect());
                }
                DataType::Binary => {
                    let values = column.as_binary::<i32>();
                    return Ok(values.iter().map(|value| value.map(<[u8]>::to_vec)).collect());
                }
                _ => {}
            }
        }
        let prefix = match columns.as_slice() {
            [_] => Some(
                serde_json::to_string(self.schema.field(0).name())
                    .unwrap_or_default()
                    .len()
                    + 2,
            ),
            _ => None,
        };
        let only = columns.first().filter(|_| columns.len() == 1).cloned();
        let rows = Chunk::insert(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        let mut out = Vec::new();
        let mut keys = Vec::with_capacity(rows.len());
        let mut start = 0;
        self.objects.encode_each(&rows, &mut out, &mut |row, out| {
            let object = &out[start..out.len() - 1];
            start = out.len();
            keys.push(match (&only, prefix) {
                (Some(column), _) if column.is_null(row) => None,
                (Some(_), Some(prefix)) => Some(unquoted(&object[prefix..object.len() - 1]).to_vec()),
                _ => Some(object.to_vec()),
            });
        })?;
        Ok(keys)
    }
}

/// Texts that are no strings of the user have nothing to escape.
fn unquoted(value: &[u8]) -> &[u8] {
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    inner.unwrap_or(value)
}

//! Formats: bytes to columns and back.
//!
//! A [`Decoder`] takes records from the front of a buffer and collects columns; an [`Encoder`] appends records to one.
//! Neither knows where bytes come from. Adding a format: a file here, a line in [`Format`] and [`FORMATS`].
//!
//! Guarantee: how input is cut into buffers never changes the rows; a record that cannot be decoded is reported with its
//! bytes and leaves no trace in the columns.

pub mod added_rows;
pub mod arrow_stream;
pub mod avro;
pub mod columns;
pub mod csv;
pub mod debezium;
mod decimal_bytes;
pub mod infer;
pub mod json;
pub mod protobuf;
pub mod raw;
pub mod registered;
pub mod text_values;
pub mod upsert;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::engine::connectors::options::{OptionReader, choice_option, flag_option, text_option};
use crate::engine::connectors::{BadRowHandler, OptionDescription, SinkChangelogSupport, SourceKey};
use crate::engine::error::Error;
use crate::engine::formats::avro::AvroOptions;
use crate::engine::formats::avro::decode::AvroDecoder;
use crate::engine::formats::csv::CsvOptions;
use crate::engine::formats::json::decode::{JsonDecodeOptions, JsonDecoder};
use crate::engine::formats::json::encode::{DecimalEncoding, JsonEncodeOptions, JsonEncoder};
use crate::engine::formats::protobuf::decode::Framing;
use crate::engine::formats::protobuf::{ProtobufOptions, ProtobufTable};
use crate::engine::formats::raw::{RawDecoder, RawEncoder};
use crate::engine::formats::upsert::{UpsertDecoder, UpsertEncoder};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::{Chunk, Weights};
use crate::engine::schema_registry::SchemaRegistry;

/// Bytes at hand.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub bytes: &'a [u8],
    /// Where in the file or stream they begin.
    pub offset: u64,
    /// What bad rows are reported with: a file's name.
    pub place: &'a str,
    /// Nothing follows: the last record need not be terminated.
    pub at_end: bool,
}

/// Bytes to columns.
pub trait Decoder: Send {
    /// Takes whole records from the front of `input` until about `rows_max` rows are collected, and gives how many bytes
    /// they were. Fewer bytes than there are, with fewer rows than asked for, means that the rest is a piece of a record.
    fn decode(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error>;

    /// Rows collected.
    fn rows(&self) -> usize;

    /// The rows collected, which are then gone from here.
    fn take(&mut self) -> Result<RecordBatch, Error>;

    /// The rows collected and how often each counts; a format of changes takes rows away as well.
    fn take_changes(&mut self) -> Result<(RecordBatch, Weights), Error> {
        Ok((self.take()?, Weights::AllInsert))
    }
}

/// Told of every record which row it is about, and the bytes that end with it.
pub type Written<'a> = dyn FnMut(usize, &[u8]) + 'a;

/// Columns to bytes.
pub trait Encoder: Send {
    /// What a new file begins with.
    fn header(&self, _out: &mut Vec<u8>) {}

    /// Appends the rows of `chunk`, each as whole records, and tells `written` of each.
    fn encode_each(&mut self, chunk: &Chunk, out: &mut Vec<u8>, written: &mut Written<'_>) -> Result<(), Error>;

    /// Appends the rows of `chunk`, each as whole records.
    fn encode(&mut self, chunk: &Chunk, out: &mut Vec<u8>) -> Result<(), Error> {
        self.encode_each(chunk, out, &mut |_, _| {})
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    DebeziumJson,
    Csv,
    RawString,
    RawBytes,
    Protobuf,
    Parquet,
    Arrow,
    Avro,
    DebeziumAvro,
}

/// Every format by its name in `format = '..'`.
pub const FORMATS: &[(&str, Format)] = &[
    ("json", Format::Json),
    ("debezium_json", Format::DebeziumJson),
    ("csv", Format::Csv),
    ("raw_string", Format::RawString),
    ("raw_bytes", Format::RawBytes),
    ("protobuf", Format::Protobuf),
    ("parquet", Format::Parquet),
    ("arrow", Format::Arrow),
    ("avro", Format::Avro),
    ("debezium_avro", Format::DebeziumAvro),
];

impl Format {
    pub fn find(name: &str) -> Option<Format> {
        FORMATS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, format)| *format)
    }

    pub fn name(self) -> &'static str {
        FORMATS
            .iter()
            .find(|(_, format)| *format == self)
            .map_or("", |(name, _)| name)
    }

    /// Whether records are changes as Debezium writes them.
    pub fn is_debezium(self) -> bool {
        matches!(self, Format::DebeziumJson | Format::DebeziumAvro)
    }
}

/// How timestamps are written as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampFormat {
    #[default]
    Rfc3339,
    UnixSeconds,
    UnixMillis,
    UnixMicros,
    UnixNanos,
}

pub const TIMESTAMP_FORMATS: &[&str] = &["rfc3339", "unix_seconds", "unix_millis", "unix_micros", "unix_nanos"];

impl TimestampFormat {
    fn from_name(name: &str) -> TimestampFormat {
        match name {
            "unix_seconds" => TimestampFormat::UnixSeconds,
            "unix_millis" => TimestampFormat::UnixMillis,
            "unix_micros" => TimestampFormat::UnixMicros,
            "unix_nanos" => TimestampFormat::UnixNanos,
            _ => TimestampFormat::Rfc3339,
        }
    }
}

/// A table's format with its options.
#[derive(Clone, Debug)]
pub struct FormatOptions {
    pub format: Format,
    pub json_decode: JsonDecodeOptions,
    pub json_encode: JsonEncodeOptions,
    pub csv: CsvOptions,
    /// Also the registry of JSON.
    pub avro: AvroOptions,
    /// The id of a schema stands in front of records of JSON.
    pub framed_json: bool,
    /// Of format `protobuf`.
    pub protobuf: Option<ProtobufTable>,
    /// Records replace each other by the table's key; this field marks those that go.
    pub upsert_marker: Option<String>,
}

impl FormatOptions {
    /// From the options of a table whose connector offers `formats`, of which the first is the default.
    pub fn read(options: &OptionReader<'_>) -> Result<FormatOptions, Error> {
        let name = options.choice("format")?.unwrap_or("json");
        let format = Format::find(name).unwrap_or(Format::Json);
        let framed_json = format == Format::Json && options.flag("json.confluent_schema_registry")?.unwrap_or(false);
        let timestamp_format = match options.choice("json.timestamp_format")? {
            Some(name) => TimestampFormat::from_name(name),
            None if format == Format::DebeziumJson => TimestampFormat::UnixMillis,
            None => TimestampFormat::Rfc3339,
        };
        Ok(FormatOptions {
            format,
            json_decode: JsonDecodeOptions {
                timestamp_format,
                ignore_parse_errors: options.flag("json.ignore_parse_errors")?.unwrap_or(false),
                unstructured: options.flag("json.unstructured")?.unwrap_or(false),
            },
            json_encode: JsonEncodeOptions {
                timestamp_format,
                decimal: match options.choice("json.decimal_encoding")? {
                    Some("string") => DecimalEncoding::Text,
                    Some("bytes") => DecimalEncoding::Bytes,
                    _ => DecimalEncoding::Number,
                },
                text_values: options.flag("json.text_values")?.unwrap_or(false),
            },
            csv: CsvOptions::read(options)?,
            avro: match format {
                Format::Avro | Format::DebeziumAvro => AvroOptions::read(options)?,
                Format::Json if framed_json => AvroOptions::of_json(options)?,
                _ => AvroOptions::default(),
            },
            framed_json,
            protobuf: match format {
                Format::Protobuf => Some(ProtobufTable::read(options)?),
                _ => None,
            },
            upsert_marker: upsert_marker(options, format)?,
        })
    }

    /// Where the schemas are without which records cannot be decoded.
    pub fn registry_of_ids(&self) -> Option<Arc<SchemaRegistry>> {
        if let Some(ProtobufTable::Registered(messages)) = &self.protobuf {
            return Some(messages.registry());
        }
        let needs = matches!(self.format, Format::Avro | Format::DebeziumAvro);
        self.avro.registry.as_ref().filter(|_| needs).map(Arc::clone)
    }

    /// The columns of a table declared without any, where the format's options say them.
    pub fn known_schema(&self) -> Option<SchemaRef> {
        self.given_message().map(ProtobufOptions::schema)
    }

    /// Whether the format's options know these columns; asked where the table says what its columns are.
    pub fn check_columns(&self, declared: Option<&SchemaRef>, is_sink: bool) -> Result<(), Error> {
        match (self.given_message(), declared) {
            (Some(protobuf), Some(declared)) => protobuf.check(declared, is_sink),
            _ => Ok(()),
        }
    }

    fn given_message(&self) -> Option<&ProtobufOptions> {
        self.protobuf.as_ref().and_then(ProtobufTable::given)
    }

    fn protobuf(&self) -> Result<&ProtobufOptions, Error> {
        self.given_message()
            .ok_or_else(|| Error::Internal("format \"protobuf\" without a schema".into()))
    }

    /// Whether records add rows only.
    pub fn append_only(&self) -> bool {
        !self.format.is_debezium() && self.upsert_marker.is_none()
    }

    /// What a source of this format does with the table's PRIMARY KEY.
    pub fn source_key(&self) -> SourceKey {
        match self.format {
            format if format.is_debezium() => SourceKey::Used,
            _ if self.upsert_marker.is_some() => SourceKey::Required,
            _ => SourceKey::Unused,
        }
    }

    /// How changes are written.
    pub fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        match (self.format, &self.upsert_marker, primary_key) {
            (Format::DebeziumJson, ..) => SinkChangelogSupport::Any(SinkChangelog::Debezium { key: None }),
            (_, Some(_), Some(key)) => SinkChangelogSupport::Any(SinkChangelog::Upsert { key: key.to_vec() }),
            (_, Some(_), None) => SinkChangelogSupport::NeedsKey,
            _ => SinkChangelogSupport::AppendOnly,
        }
    }

    /// The columns that records of a source have, of which [`FormatOptions::rows`] makes rows of `schema`.
    pub fn record_schema(&self, schema: &SchemaRef, key: Option<&[usize]>) -> Result<SchemaRef, Error> {
        match &self.upsert_marker {
            Some(marker) => upsert::record_schema(&with_key(schema, key), marker),
            None => Ok(Arc::clone(schema)),
        }
    }

    /// A decoder of rows from one of records.
    pub fn rows(&self, records: Box<dyn Decoder>, schema: &SchemaRef, key: Option<&[usize]>) -> Box<dyn Decoder> {
        match &self.upsert_marker {
            Some(_) => Box::new(UpsertDecoder::new(records, schema, key)),
            None => records,
        }
    }

    /// A decoder of formats of records; Parquet and Arrow are read by connectors of files, a batch at a time. `key`: see [`SourceContext::key`].
    ///
    /// [`SourceContext::key`]: crate::engine::connectors::SourceContext::key
    pub fn decoder(&self, schema: &SchemaRef, key: Option<&[usize]>) -> Result<Box<dyn Decoder>, Error> {
        let records = self.record_schema(schema, key)?;
        let decoder: Box<dyn Decoder> = match self.format {
            Format::Json => Box::new(JsonDecoder::new(&records, self.json_decode)?),
            Format::Csv => Box::new(csv::CsvDecoder::new(&records, self.csv.clone(), None)?),
            Format::RawString | Format::RawBytes => Box::new(RawDecoder::new(schema)?),
            Format::DebeziumJson => Box::new(debezium::decoder(schema, key, self.json_decode)?),
            Format::Avro => Box::new(avro::container::ContainerDecoder::new(&records)?),
            Format::Protobuf => Box::new(self.protobuf()?.decoder(schema, Framing::Delimited)?),
            Format::Parquet | Format::Arrow | Format::DebeziumAvro => {
                return Err(self.unsupported("read as a stream of bytes"));
            }
        };
        Ok(self.rows(decoder, schema, key))
    }

    /// A decoder of inputs that are one record each.
    pub fn message_decoder(&self, schema: &SchemaRef, key: Option<&[usize]>) -> Result<Box<dyn Decoder>, Error> {
        Ok(match self.format {
            Format::RawString | Format::RawBytes => Box::new(RawDecoder::of_messages(schema)?),
            Format::Protobuf => match &self.protobuf {
                Some(ProtobufTable::Registered(messages)) => Box::new(messages.decoder(schema)?),
                _ => Box::new(self.protobuf()?.decoder(schema, Framing::Message)?),
            },
            Format::Avro => {
                let records = self.record_schema(schema, key)?;
                self.rows(Box::new(AvroDecoder::of_rows(&records, &self.avro)?), schema, key)
            }
            Format::DebeziumAvro => Box::new(AvroDecoder::of_changes(schema, key, &self.avro)?),
            _ => self.decoder(schema, key)?,
        })
    }

    /// An encoder of streams of records.
    pub fn encoder(&self, schema: &SchemaRef, changelog: &SinkChangelog) -> Result<Box<dyn Encoder>, Error> {
        match (&self.upsert_marker, changelog) {
            _ if self.format == Format::Protobuf => Ok(Box::new(self.protobuf()?.encoder(schema, Framing::Delimited)?)),
            (Some(marker), SinkChangelog::Upsert { .. }) => {
                let records = upsert::record_schema(schema, marker)?;
                let encoder = self.record_encoder(&records, changelog)?;
                Ok(Box::new(UpsertEncoder::new(encoder, records)))
            }
            _ => self.record_encoder(schema, changelog),
        }
    }

    /// An encoder of rows without a mark on those that go, each a record by itself but for a line feed at its end.
    pub fn record_encoder(&self, schema: &SchemaRef, changelog: &SinkChangelog) -> Result<Box<dyn Encoder>, Error> {
        let key = match changelog {
            SinkChangelog::Debezium { key } => key.as_deref(),
            SinkChangelog::Append | SinkChangelog::Upsert { .. } => None,
        };
        Ok(match self.format {
            Format::Json => Box::new(JsonEncoder::new(schema, self.json_encode)),
            Format::DebeziumJson => Box::new(debezium::encode::DebeziumEncoder::new(schema, key, self.json_encode)),
            Format::Csv => Box::new(csv::CsvEncoder::new(schema, self.csv.clone())),
            Format::Arrow => Box::new(arrow_stream::ArrowEncoder::new(schema)?),
            Format::RawString | Format::RawBytes => Box::new(RawEncoder::new(schema)?),
            Format::Avro => Box::new(avro::container::ContainerEncoder::new(schema.fields(), &self.avro)?),
            Format::DebeziumAvro => {
                return Err(Error::NotSupported {
                    what: "writing format \"debezium_avro\"".into(),
                    hint: Some("Write debezium_json, or avro with envelope = 'upsert'.".into()),
                });
            }
            Format::Protobuf => Box::new(self.protobuf()?.encoder(schema, Framing::Message)?),
            Format::Parquet => return Err(self.unsupported("written as a stream of bytes")),
        })
    }

    fn unsupported(&self, what: &str) -> Error {
        Error::NotSupported {
            what: format!("format \"{}\" {what}", self.format.name()),
            hint: Some("json, csv and raw_string are.".into()),
        }
    }
}

/// The field that marks rows that go, when the table says that its records are upserts.
fn upsert_marker(options: &OptionReader<'_>, format: Format) -> Result<Option<String>, Error> {
    if options.choice("envelope")? != Some("upsert") {
        return Ok(None);
    }
    match format {
        Format::Json | Format::Csv | Format::Avro => Ok(options.text("upsert.delete_field").map(str::to_owned)),
        other => Err(Error::NotSupported {
            what: format!("envelope = 'upsert' with format \"{}\"", other.name()),
            hint: Some("json, csv and avro have fields by name, one of which can mark rows that go.".into()),
        }),
    }
}

/// The key's columns are never NULL.
pub fn with_key(schema: &SchemaRef, key: Option<&[usize]>) -> SchemaRef {
    let field = |(at, field): (usize, &Arc<Field>)| {
        let in_key = key.is_some_and(|key| key.contains(&at));
        field.as_ref().clone().with_nullable(field.is_nullable() && !in_key)
    };
    Arc::new(Schema::new(
        schema.fields().iter().enumerate().map(field).collect::<Vec<_>>(),
    ))
}

/// The options of all formats, for connectors that offer any.
pub fn option_descriptions() -> Vec<OptionDescription> {
    let mut options = envelope_options();
    options.extend([
        choice_option(
            "json.timestamp_format",
            &["timestamp_format"],
            TIMESTAMP_FORMATS,
            "How timestamps are written: as text, or as a number of this unit.",
        ),
        flag_option(
            "json.ignore_parse_errors",
            &["ignore_parse_errors"],
            Some("false"),
            "Values that do not fit their column become NULL instead of making the row bad.",
        ),
        flag_option(
            "json.unstructured",
            &["unstructured"],
            Some("false"),
            "The whole record goes into the only column, of type JSON or TEXT.",
        ),
        choice_option(
            "json.decimal_encoding",
            &["decimal_encoding"],
            &["number", "string", "bytes"],
            "How NUMERIC values are written.",
        ),
        flag_option(
            "json.text_values",
            &["text_values"],
            Some("false"),
            "JSON values are written as strings that hold their text.",
        ),
        flag_option(
            "json.confluent_schema_registry",
            &["json.schema_registry"],
            Some("false"),
            "The id of a JSON Schema in the registry stands in front of records.",
        ),
    ]);
    options.extend(csv_options());
    options.extend(avro::descriptions());
    options.extend(protobuf::option_descriptions());
    for option in &mut options {
        option.scope = crate::engine::connectors::OptionScope::Table;
    }
    options
}

fn envelope_options() -> Vec<OptionDescription> {
    vec![
        OptionDescription {
            default: Some("none"),
            ..choice_option(
                "envelope",
                &[],
                &["none", "upsert"],
                "Whether records stand by themselves, or each replaces the one of its PRIMARY KEY.",
            )
        },
        text_option(
            "upsert.delete_field",
            &["delete_field"],
            Some("__deleted"),
            "The field of an upsert that is true when the row goes.",
        ),
    ]
}

fn csv_options() -> Vec<OptionDescription> {
    vec![
        text_option(
            "csv.delimiter",
            &["delimiter"],
            Some(","),
            "One character between fields.",
        ),
        text_option(
            "csv.quote",
            &["quote"],
            Some("\""),
            "One character around fields that need it.",
        ),
        text_option(
            "csv.escape",
            &["escape"],
            None,
            "One character before a quote inside a quoted field; by default the quote is doubled.",
        ),
        flag_option(
            "csv.header",
            &["header"],
            Some("true"),
            "The first line names the columns.",
        ),
        text_option(
            "csv.null_string",
            &["null_string", "null"],
            Some(""),
            "An unquoted field with this text is NULL.",
        ),
    ]
}

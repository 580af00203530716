//! Topics of Kafka, and of what speaks its protocol.
//!
//! Source: a split is a partition, its offset that of the next record; partitions are assigned by us, never by a consumer group, and
//! the offsets in the checkpoint are the only ones that count. Partitions that come later are read from their start. Sink:
//! exactly once by transactions, or at least once.
//!
//! - [`options`] what tables and connections are given.
//! - [`client`] clients of brokers; [`listener`] what is heard on their connections; [`broker_error`] what errors mean.
//! - [`partitions`] which partitions there are and where reading begins; [`consumer`] the thread that fetches; [`messages`] what it
//!   hands on; [`decode`] rows out of that; [`source`] the shard's side.
//! - [`destination`] the topic of a sink; [`encode`] records out of rows; [`records`] their log; [`producer`] at least once;
//!   [`committer`] exactly once.

mod broker_error;
mod client;
mod committer;
mod consumer;
pub(crate) mod decode;
mod destination;
mod encode;
mod health;
mod listener;
pub(crate) mod messages;
mod options;
pub(crate) mod partitions;
mod producer;
mod records;
mod source;

use std::sync::Arc;

use arrow::datatypes::{Field, Fields, Schema, SchemaRef};

use crate::engine::connectors::kafka::client::Connection;
use crate::engine::connectors::kafka::committer::{TransactionCommitter, TransactionalSink};
use crate::engine::connectors::kafka::destination::Destination;
use crate::engine::connectors::kafka::encode::RecordEncoder;
use crate::engine::connectors::kafka::options::{FORMATS, SinkOptions, SourceOptions, Topics, invalid};
use crate::engine::connectors::options::{CommonOptions, OptionReader};
use crate::engine::connectors::{
    Committer, CommitterContext, Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction,
    METADATA_FIELD, NothingToCommit, Result, Sink, SinkChangelogSupport, SinkContext, Source, SourceContext, SourceKey,
};
use crate::engine::error::Error;
use crate::engine::formats::avro::changes::{ChangePlan, Changes};
use crate::engine::formats::avro::derive;
use crate::engine::formats::avro::plan::RecordPlan;
use crate::engine::formats::avro::schema::AvroSchema;
use crate::engine::formats::protobuf::ProtobufTable;
use crate::engine::formats::registered::SinkSchema;
use crate::engine::formats::{Format, FormatOptions};
use crate::engine::graph::SinkChangelog;
use crate::engine::schema_registry::SchemaRegistry;
use crate::options::ResolvedOptions;

pub struct Kafka;

#[async_trait::async_trait]
impl Connector for Kafka {
    fn name(&self) -> &'static str {
        "kafka"
    }

    fn describe(&self) -> ConnectorDescription {
        ConnectorDescription {
            name: "kafka",
            title: "Kafka",
            summary: "Reads topics of Kafka and writes them, exactly once.",
            category: "streams",
            direction: Direction::Both,
            formats: FORMATS,
            options: options::descriptions(),
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let format = FormatOptions::read(&reader)?;
        options::check_format(&format)?;
        if let Some(declared) = &declared {
            decode::check_metadata(declared)?;
        }
        let topics = Topics::read(&reader)?;
        let use_of = options.get("type").map(|of| of.text.trim().to_ascii_lowercase());
        match (format.format, use_of.as_deref()) {
            (Format::Avro, Some("sink")) => {}
            (Format::DebeziumAvro, Some("sink")) => {
                drop(format.encoder(&Arc::new(Schema::empty()), &SinkChangelog::Append)?)
            }
            (Format::Avro | Format::DebeziumAvro, _) if declared.is_some() => format.avro.check_source()?,
            _ => {}
        }
        if use_of.as_deref() == Some("sink") && topics.only().is_none() {
            return Err(several_topics());
        }
        let is_sink = use_of.as_deref() == Some("sink");
        let of_value = without(declared.as_ref(), reader.text("sink.headers_field"));
        format.check_columns(of_value.as_ref(), is_sink)?;
        Ok(Arc::new(KafkaTable {
            connection: Connection::read(&reader)?,
            source: Arc::new(SourceOptions::read(&reader, topics)?),
            sink: Arc::new(SinkOptions::read(&reader)?),
            schema: declared.map(|declared| with_metadata(&declared)),
            format,
            common: reader.common()?,
            is_sink,
            is_source: use_of.as_deref() == Some("source"),
        }))
    }

    fn known_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        Ok(FormatOptions::read(&reader)?.known_schema())
    }

    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        let description = self.describe();
        let format = FormatOptions::read(&OptionReader::for_table(&description, options)?)?;
        match format.format {
            Format::Avro => format.avro.infer(derive::columns_of).await,
            Format::DebeziumAvro => format.avro.infer(derive::columns_of_changes).await,
            Format::Protobuf => match &format.protobuf {
                Some(ProtobufTable::Registered(messages)) => messages.infer().await.map(Some),
                _ => Ok(format.known_schema()),
            },
            _ => Ok(format.known_schema()),
        }
    }

    async fn check_connection(&self, options: &ResolvedOptions) -> Result<()> {
        let description = self.describe();
        let reader = OptionReader::for_connection(&description, options)?;
        let connection = Connection::read(&reader)?;
        let registry = SchemaRegistry::read(&reader)?;
        let validate = options.get("validate").is_none_or(|value| value.text.trim() != "false");
        if !validate {
            return Ok(());
        }
        if let Some(registry) = registry {
            registry.check().await?;
        }
        // One topic that need not be there asks for less than the names of all.
        blocking(move || connection.check(Some("laminar")).map(|_| ())).await
    }
}

async fn blocking(ask: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let joined = tokio::task::spawn_blocking(ask).await;
    joined.unwrap_or_else(|error| Err(Error::Internal(format!("asking the Kafka server: {error}"))))
}

fn several_topics() -> Error {
    invalid("a sink writes to one topic", "Give topic = '..' one name.")
}

/// The columns that values have: headers are no part of them.
fn without(declared: Option<&SchemaRef>, headers: Option<&str>) -> Option<SchemaRef> {
    let fields = declared?.fields().iter();
    let of_value = fields.filter(|field| Some(field.name().as_str()) != headers).cloned();
    Some(Arc::new(Schema::new(of_value.collect::<Vec<_>>())))
}

/// Declared columns, and those of the message that are there without being declared.
fn with_metadata(declared: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = declared.fields().iter().cloned().collect();
    for field in decode::metadata_fields() {
        if !fields.iter().any(|known| known.name() == field.name()) {
            fields.push(Arc::new(field));
        }
    }
    Arc::new(Schema::new(fields))
}

#[derive(Debug)]
struct KafkaTable {
    connection: Connection,
    source: Arc<SourceOptions>,
    sink: Arc<SinkOptions>,
    schema: Option<SchemaRef>,
    format: FormatOptions,
    common: CommonOptions,
    /// `type = 'sink'`.
    is_sink: bool,
    /// `type = 'source'`.
    is_source: bool,
}

impl KafkaTable {
    /// The schema of a sink's records that a registry has to give an id to.
    fn sink_schema(&self, written: &SchemaRef, context: &SinkContext) -> Option<Arc<SinkSchema>> {
        let declared = self.value_columns().unwrap_or_else(|| written.fields().clone());
        SinkSchema::open(
            &self.format,
            &declared,
            written.fields(),
            &context.runtime,
            &context.waker,
        )
    }

    /// The declared columns that are in a record's value.
    fn value_columns(&self) -> Option<Fields> {
        let is_value = |field: &&Arc<Field>| {
            !field.metadata().contains_key(METADATA_FIELD) && Some(field.name()) != self.sink.headers.as_ref()
        };
        Some(
            self.schema
                .as_ref()?
                .fields()
                .iter()
                .filter(is_value)
                .cloned()
                .collect(),
        )
    }

    /// Whether what is registered fits the columns.
    async fn check_schema(&self, key: &[String]) -> Result<()> {
        let Some(columns) = self.value_columns() else {
            return Ok(());
        };
        match self.format.format {
            Format::Avro if self.is_sink => self.format.avro.check_writable(&columns).await,
            Format::Json if self.is_sink && self.format.framed_json => self.format.avro.check_writable(&columns).await,
            Format::Avro => {
                let fits = |schema: &AvroSchema| RecordPlan::of_rows(schema, &columns).map(drop);
                self.format.avro.check_readable(fits, self.is_source).await
            }
            Format::DebeziumAvro => {
                let key: Vec<usize> = key.iter().filter_map(|name| Some(columns.find(name)?.0)).collect();
                let changes = Changes::new(columns.len(), (!key.is_empty()).then_some(&key));
                let fits = |schema: &AvroSchema| ChangePlan::new(schema, &columns, &changes).map(drop);
                self.format.avro.check_readable(fits, self.is_source).await
            }
            Format::Protobuf => match &self.format.protobuf {
                Some(ProtobufTable::Registered(messages)) if self.is_sink => messages.check_writable(&columns).await,
                Some(ProtobufTable::Registered(messages)) => messages.check_readable(&columns, self.is_source).await,
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn destination(&self) -> Result<Destination> {
        let topic = self.source.topics.only().ok_or_else(several_topics)?;
        Ok(Destination {
            connection: self.connection.clone(),
            topic: topic.to_owned(),
            options: Arc::clone(&self.sink),
        })
    }
}

#[async_trait::async_trait]
impl ConnectorTable for KafkaTable {
    fn connector(&self) -> &'static str {
        "kafka"
    }

    fn schema(&self) -> Option<SchemaRef> {
        self.schema.clone()
    }

    fn direction(&self) -> Direction {
        Direction::Both
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn bounded(&self) -> bool {
        self.source.bounded
    }

    fn append_only(&self) -> bool {
        self.format.append_only()
    }

    fn source_key(&self) -> SourceKey {
        self.format.source_key()
    }

    fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        self.format.sink_changelog(primary_key)
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        if self.sink.exactly_once {
            DeliveryGuarantee::ExactlyOnce
        } else {
            DeliveryGuarantee::AtLeastOnce
        }
    }

    async fn check_outside(&self, key: &[String]) -> Result<()> {
        self.check_schema(key).await?;
        let (connection, source) = (self.connection.clone(), Arc::clone(&self.source));
        if self.is_sink || self.sink.create_topic.is_some() {
            let destination = self.destination()?;
            return blocking(move || destination.ensure_topic()).await;
        }
        blocking(move || {
            connection.check(source.topics.only())?;
            partitions::discover(&connection.asker()?, &source.topics).map(|_| ())
        })
        .await
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        source::open(self, Arc::clone(&self.source), context)
    }

    fn open_sink(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        let registered = |written: &SchemaRef| self.sink_schema(written, &context);
        let encoder = RecordEncoder::new(
            &context.schema,
            &context.changelog,
            &self.format,
            &self.sink,
            registered,
        )?;
        if self.sink.exactly_once {
            return Ok(Box::new(TransactionalSink::new(encoder, &context)));
        }
        Ok(Box::new(producer::open(self.destination()?, encoder, &context)?))
    }

    async fn open_committer(&self, context: CommitterContext) -> Result<Box<dyn Committer>> {
        if !self.sink.exactly_once {
            return Ok(Box::new(NothingToCommit));
        }
        Ok(Box::new(TransactionCommitter::new(self.destination()?, &context)))
    }
}

#[cfg(test)]
mod avro_tests;
#[cfg(test)]
mod protobuf_tests;
#[cfg(test)]
mod security_tests;
#[cfg(test)]
mod tests;

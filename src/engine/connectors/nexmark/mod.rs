//! The Nexmark auction: people, auctions and bids, generated.
//!
//! Event number n is the same event whenever and wherever it is generated, for one seed: of 50 events one is a person,
//! three are auctions, 46 are bids. Events are dealt to a fixed number of splits in blocks of 50; a split's offset is how
//! many of its events were delivered. So results do not depend on parallelism, restarts or speed.
//!
//! - [`generator`] what event n is.
//! - [`columns`] events as Arrow columns, wanted columns only.
//! - [`source`] the connector's source.

pub mod columns;
pub mod generator;
mod source;

use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use crate::engine::connectors::impulse::time_option;
use crate::engine::connectors::nexmark::columns::ColumnGenerator;
use crate::engine::connectors::nexmark::generator::Generator;
use crate::engine::connectors::options::{
    CommonOptions, OptionReader, common_descriptions, integer_option, number_option, text_option,
};
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, Result, Source, SourceContext, files,
};
use crate::engine::formats::Encoder;
use crate::engine::formats::json::encode::{JsonEncodeOptions, JsonEncoder};
use crate::engine::message::Chunk;
use crate::options::ResolvedOptions;

/// Event times begin here unless the table says otherwise.
const BASE_TIME: &str = "2015-07-15 00:00:00";

/// Event time advances by 1/10,000 s an event unless the table says otherwise.
const EVENT_RATE: f64 = 10_000.0;

pub struct Nexmark;

#[async_trait::async_trait]
impl Connector for Nexmark {
    fn name(&self) -> &'static str {
        "nexmark"
    }

    fn describe(&self) -> ConnectorDescription {
        let mut options = vec![
            number_option(
                "event_rate",
                &["rate"],
                None,
                "Events a second; without it as fast as possible.",
            ),
            number_option(
                "first_event_rate",
                &[],
                None,
                "Events a second of event time; event_rate by default, else 10000.",
            ),
            integer_option(
                "events",
                &["message_count"],
                None,
                "Events in all; without it the source never ends.",
            ),
            integer_option("seed", &[], Some("0"), "Other seeds, other events."),
            text_option(
                "base_time",
                &[],
                Some(BASE_TIME),
                "The event time of event 0: a timestamp, or now.",
            ),
            integer_option("splits", &[], Some("16"), "Parts that can be read in parallel."),
        ];
        options.extend(common_descriptions(&[]));
        ConnectorDescription {
            name: "nexmark",
            title: "Nexmark",
            summary: "Generates the auction events of the Nexmark benchmark.",
            category: "generators",
            direction: Direction::Source,
            formats: &[],
            options,
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let schema = declared.unwrap_or_else(columns::schema);
        ColumnGenerator::new(&schema)?;
        let event_rate = reader.positive_number("event_rate")?;
        let base_time = reader.text("base_time").unwrap_or(BASE_TIME);
        Ok(Arc::new(NexmarkTable {
            schema,
            event_rate,
            first_event_rate: reader
                .positive_number("first_event_rate")?
                .or(event_rate)
                .unwrap_or(EVENT_RATE),
            events: reader.integer("events", 0)?.map(|events| events as u64),
            seed: reader.integer("seed", i64::MIN)?.unwrap_or(0) as u64,
            base_micros: match base_time.trim() {
                "now" => None,
                text => Some(time_option("base_time", text)?),
            },
            splits: reader.integer("splits", 1)?.unwrap_or(16) as u64,
            common: reader.common()?,
        }))
    }

    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        OptionReader::for_table(&self.describe(), options)?;
        Ok(Some(columns::schema()))
    }
}

#[derive(Debug)]
pub(super) struct NexmarkTable {
    schema: SchemaRef,
    event_rate: Option<f64>,
    first_event_rate: f64,
    events: Option<u64>,
    seed: u64,
    /// `None`: the wall clock at the start.
    base_micros: Option<i64>,
    splits: u64,
    common: CommonOptions,
}

impl ConnectorTable for NexmarkTable {
    fn connector(&self) -> &'static str {
        "nexmark"
    }

    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn direction(&self) -> Direction {
        Direction::Source
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn event_time_column(&self) -> Option<&'static str> {
        self.schema
            .index_of(columns::DATE_TIME)
            .is_ok()
            .then_some(columns::DATE_TIME)
    }

    fn bounded(&self) -> bool {
        self.events.is_some()
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn cannot_replay(&self) -> Option<String> {
        let begins_now = self.base_micros.is_none();
        begins_now.then(|| "its events begin at the time of the start (base_time = 'now')".into())
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        source::open(self, context)
    }
}

/// Events of the generator, for benchmarks and tests without a table: what a table with the same options delivers.
#[derive(Clone, Debug)]
pub struct Events {
    pub numbers: Range<u64>,
    pub seed: u64,
    /// Events a second of event time.
    pub first_event_rate: f64,
}

impl Events {
    /// The first `count` events at the usual rate.
    pub fn first(count: u64, seed: u64) -> Events {
        Events {
            numbers: 0..count,
            seed,
            first_event_rate: EVENT_RATE,
        }
    }

    /// Batches of `rows` with columns of `schema`, any part of [`columns::schema`].
    pub fn batches(self, schema: &SchemaRef, rows: u64) -> Result<impl Iterator<Item = Result<RecordBatch>> + use<>> {
        let mut columns = ColumnGenerator::new(schema)?;
        let generator = Generator::new(self.seed, time_option("base_time", BASE_TIME)?, self.first_event_rate);
        let mut first = self.numbers.start;
        Ok(std::iter::from_fn(move || {
            let end = (first + rows).min(self.numbers.end);
            let batch = (first < end).then(|| columns.generate(&generator, first..end));
            first = end;
            batch
        }))
    }

    /// Lines of JSON with the columns of the table.
    pub fn write_json(self, out: &mut impl Write) -> Result<()> {
        const ROWS: u64 = 4096;
        let schema = columns::schema();
        let mut encoder = JsonEncoder::new(&schema, JsonEncodeOptions::default());
        let mut buffer = Vec::new();
        for rows in self.batches(&schema, ROWS)? {
            buffer.clear();
            encoder.encode(&Chunk::insert(rows?), &mut buffer)?;
            out.write_all(&buffer)
                .map_err(|error| files::io_error("write to", "of events", &error))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

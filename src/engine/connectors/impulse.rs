//! Counts: the simplest input that never ends.
//!
//! Split i of `splits` (one by default) counts from 0 to `message_count` and gives i as `subtask_index`, whatever the
//! parallelism. With `event_time_interval` row n happened n intervals after the start, otherwise when it was made.
//!
//! Guarantee: with `event_time_interval` and `start_time` the rows are the same on every run, and after a restore always
//! continue as if uninterrupted.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::engine::connectors::options::{
    CommonOptions, OptionReader, common_descriptions, integer_option, number_option, parse_duration, text_option,
    wrong_value,
};
use crate::engine::connectors::rate::RateLimit;
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, METADATA_FIELD, OptionKind, Result,
    Source, SourceContext, SourcePoll, SplitOffset,
};
use crate::engine::error::Error;
use crate::engine::formats::text_values::{self, DateCache};
use crate::options::ResolvedOptions;
use crate::types::record_batch::batch_of_rows;

pub struct Impulse;

#[async_trait::async_trait]
impl Connector for Impulse {
    fn name(&self) -> &'static str {
        "impulse"
    }

    fn describe(&self) -> ConnectorDescription {
        let mut options = vec![
            number_option(
                "event_rate",
                &["rate"],
                None,
                "Rows a second in all; without it as fast as possible.",
            ),
            integer_option(
                "message_count",
                &["events"],
                None,
                "Rows of each split; without it the source never ends.",
            ),
            text_option(
                "event_time_interval",
                &["interval"],
                None,
                "Event time between two rows: a duration, or a number of microseconds.",
            ),
            text_option(
                "start_time",
                &[],
                None,
                "The event time of row 0; by default the time of the start.",
            ),
            integer_option("splits", &[], Some("1"), "Counters that run side by side."),
        ];
        options.extend(common_descriptions(&[]));
        debug_assert!(options.iter().all(|option| option.kind != OptionKind::Secret));
        ConnectorDescription {
            name: "impulse",
            title: "Impulse",
            summary: "Counts, at a given rate or as fast as possible.",
            category: "generators",
            direction: Direction::Source,
            formats: &[],
            options,
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        Ok(Arc::new(ImpulseTable {
            schema: schema(declared.as_ref())?,
            rate: reader.positive_number("event_rate")?,
            count: reader.integer("message_count", 0)?.map(|count| count as u64),
            interval_micros: interval(&reader)?,
            start_micros: reader
                .text("start_time")
                .map(|text| time_option("start_time", text))
                .transpose()?,
            splits: reader.integer("splits", 1)?.unwrap_or(1) as u64,
            common: reader.common()?,
        }))
    }

    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        OptionReader::for_table(&self.describe(), options)?;
        Ok(Some(Arc::new(Schema::new(counter_fields()))))
    }
}

fn interval(reader: &OptionReader<'_>) -> Result<Option<i64>> {
    let Some(text) = reader.text("event_time_interval") else {
        return Ok(None);
    };
    let micros = match text.trim().parse::<i64>() {
        Ok(micros) => micros,
        Err(_) => i64::try_from(parse_duration("event_time_interval", text)?.as_micros()).unwrap_or(i64::MAX),
    };
    if micros < 0 {
        return Err(wrong_value("event_time_interval", text, "It must not be negative."));
    }
    Ok(Some(micros))
}

/// A timestamp given as an option.
pub fn time_option(name: &str, text: &str) -> Result<i64> {
    text_values::timestamp(text.trim().as_bytes(), &mut DateCache::default())
        .map_err(|_| wrong_value(name, text, "It is a timestamp such as '2026-01-01 00:00:00'."))
}

const COUNTER: &str = "counter";
const SUBTASK_INDEX: &str = "subtask_index";
const TIMESTAMP: &str = "timestamp";

fn counter_fields() -> Vec<Field> {
    vec![
        Field::new(COUNTER, DataType::UInt64, false),
        Field::new(SUBTASK_INDEX, DataType::UInt64, false),
    ]
}

fn time_field(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, None), false)
}

/// The counter's columns and the time; declared columns may be a part of them, of any integer or timestamp type.
fn schema(declared: Option<&SchemaRef>) -> Result<SchemaRef> {
    let metadata = [(METADATA_FIELD.to_owned(), TIMESTAMP.to_owned())].into();
    let time = time_field("_timestamp").with_metadata(metadata);
    let mut fields = match declared {
        None => counter_fields(),
        Some(declared) => declared.fields().iter().map(|field| field.as_ref().clone()).collect(),
    };
    for field in &fields {
        if column_of(field).is_none() {
            return Err(Error::NotSupported {
                what: format!(
                    "column \"{}\" of type {} in connector \"impulse\"",
                    field.name(),
                    field.data_type()
                ),
                hint: Some("Its columns are counter and subtask_index, integers, and timestamp.".into()),
            });
        }
    }
    if !fields.iter().any(|field| field.name() == "_timestamp") {
        fields.push(time);
    }
    Ok(Arc::new(Schema::new(fields)))
}

#[derive(Clone, Copy)]
enum Column {
    Counter,
    SubtaskIndex,
    Time,
}

fn column_of(field: &Field) -> Option<Column> {
    let integer = field.data_type().is_integer();
    let time = matches!(field.data_type(), DataType::Timestamp(_, _));
    match field
        .metadata()
        .get(METADATA_FIELD)
        .map_or(field.name().as_str(), String::as_str)
    {
        COUNTER if integer => Some(Column::Counter),
        SUBTASK_INDEX if integer => Some(Column::SubtaskIndex),
        TIMESTAMP | "_timestamp" if time => Some(Column::Time),
        _ => None,
    }
}

#[derive(Debug)]
struct ImpulseTable {
    schema: SchemaRef,
    rate: Option<f64>,
    count: Option<u64>,
    interval_micros: Option<i64>,
    start_micros: Option<i64>,
    splits: u64,
    common: CommonOptions,
}

impl ConnectorTable for ImpulseTable {
    fn connector(&self) -> &'static str {
        "impulse"
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
        Some("_timestamp")
    }

    fn bounded(&self) -> bool {
        self.count.is_some()
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn cannot_replay(&self) -> Option<String> {
        let is_fixed = self.interval_micros.is_some() && self.start_micros.is_some();
        (!is_fixed).then(|| "its rows have the time at which they are made".into())
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let parallelism = u64::from(context.parallelism);
        let mine = (0..self.splits).filter(|split| split % parallelism == u64::from(context.subtask.0));
        let now = context.clock.now_micros();
        let mut splits = Vec::new();
        for index in mine {
            let restored = context.restored.iter().find(|offset| offset.split == index.to_string());
            let position = match restored {
                Some(offset) => serde_json::from_str(&offset.offset)
                    .map_err(|error| Error::Internal(format!("offset of impulse cannot be read: {error}")))?,
                None => Position {
                    counter: 0,
                    start_micros: self.start_micros.unwrap_or(now),
                },
            };
            splits.push(Split {
                index,
                position,
                told: false,
            });
        }
        let share = splits.len() as f64 / self.splits as f64;
        let rate = self
            .rate
            .map(|rate| RateLimit::new(Arc::clone(&context.clock), rate * share));
        Ok(Box::new(ImpulseSource {
            schema: context.schema,
            count: self.count.unwrap_or(u64::MAX),
            interval_micros: self.interval_micros,
            rate,
            splits,
            clock: context.clock,
        }))
    }
}

/// The offset as it is checkpointed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Position {
    counter: u64,
    start_micros: i64,
}

struct Split {
    index: u64,
    position: Position,
    /// The end was reported.
    told: bool,
}

struct ImpulseSource {
    schema: SchemaRef,
    count: u64,
    interval_micros: Option<i64>,
    rate: Option<RateLimit>,
    splits: Vec<Split>,
    clock: Arc<dyn Clock>,
}

impl Source for ImpulseSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll> {
        if let Some(split) = self
            .splits
            .iter_mut()
            .find(|s| !s.told && s.position.counter >= self.count)
        {
            split.told = true;
            return Ok(SourcePoll::SplitFinished {
                split: split.index as usize,
            });
        }
        // The one that is furthest behind, so that splits advance together.
        let Some(next) = (0..self.splits.len())
            .filter(|index| !self.splits[*index].told)
            .min_by_key(|index| self.splits[*index].position.counter)
        else {
            return Ok(SourcePoll::Finished);
        };
        let rows = match &self.rate {
            None => rows_max,
            Some(rate) => match rate.due(rows_max) {
                Ok(rows) => rows,
                Err(when) => return Ok(SourcePoll::Pending(Some(when))),
            },
        };
        let left = self.count - self.splits[next].position.counter;
        let rows = (rows as u64).min(left).max(1);
        let batch = self.rows(&self.splits[next], rows)?;
        self.splits[next].position.counter += rows;
        if let Some(rate) = &mut self.rate {
            rate.gave(rows as usize);
        }
        Ok(SourcePoll::Rows {
            split: self.splits[next].index as usize,
            rows: batch,
        })
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offset = |split: &Split| SplitOffset {
            split: split.index.to_string(),
            offset: format!(
                "{{\"counter\":{},\"start_micros\":{}}}",
                split.position.counter, split.position.start_micros
            ),
        };
        self.splits.iter().map(offset).collect()
    }
}

impl ImpulseSource {
    fn rows(&self, split: &Split, rows: u64) -> Result<RecordBatch> {
        let first = split.position.counter;
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for field in self.schema.fields() {
            let column: ArrayRef = match column_of(field) {
                Some(Column::Counter) => Arc::new(UInt64Array::from_iter_values(first..first + rows)),
                Some(Column::SubtaskIndex) => Arc::new(UInt64Array::from_value(split.index, rows as usize)),
                Some(Column::Time) => Arc::new(self.times(split, rows)),
                None => return Err(Error::Internal(format!("impulse has no column \"{}\"", field.name()))),
            };
            columns.push(arrow::compute::cast(&column, field.data_type())?);
        }
        Ok(batch_of_rows(Arc::clone(&self.schema), columns, rows as usize)?)
    }

    fn times(&self, split: &Split, rows: u64) -> TimestampMicrosecondArray {
        let first = split.position.counter;
        match self.interval_micros {
            Some(interval) => {
                let start = split.position.start_micros;
                let time = |counter: u64| start.wrapping_add(interval.wrapping_mul(counter as i64));
                TimestampMicrosecondArray::from_iter_values((first..first + rows).map(time))
            }
            None => TimestampMicrosecondArray::from_value(self.clock.now_micros(), rows as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::connectors::testing::{Bench, given, read};

    fn table(options: &[(&str, &str)]) -> Arc<dyn ConnectorTable> {
        Impulse.resolve(&given(options), None).unwrap()
    }

    #[test]
    fn counts_with_event_time() {
        let table = table(&[
            ("message_count", "3"),
            ("event_time_interval", "200 ms"),
            ("start_time", "2023-10-09 17:13:20"),
        ]);
        let rows = Bench::new().rows(table.as_ref(), &table.schema().unwrap());
        assert_eq!(
            rows[1],
            r#"{"counter":1,"subtask_index":0,"_timestamp":"2023-10-09T17:13:20.200"}"#
        );
        assert_eq!(rows.len(), 3);
        assert!(table.bounded());
    }

    #[test]
    fn restores_at_another_parallelism() {
        let table = table(&[("message_count", "1000"), ("splits", "5"), ("interval", "1000")]);
        let bench = Bench::new();
        let schema = table.schema().unwrap();
        for (before, after) in [(1, 1), (1, 3), (2, 3), (3, 1), (2, 7)] {
            bench.check_restore(table.as_ref(), &schema, before, after, 777);
        }
    }

    #[test]
    fn a_rate_holds_rows_back() {
        let table = table(&[("event_rate", "100")]);
        let bench = Bench::new();
        let mut source = bench
            .source(table.as_ref(), &table.schema().unwrap(), 0, 1, &[])
            .unwrap();
        assert_eq!(read(source.as_mut(), 50, 1).len(), 1);
        assert!(matches!(source.poll(50), Ok(SourcePoll::Pending(Some(_)))));
        bench.clock.advance_micros(100_000);
        assert_eq!(read(source.as_mut(), 50, 10).len(), 10);
        assert!(!table.bounded());
    }

    #[test]
    fn declared_columns_are_checked() {
        let declared: SchemaRef = Arc::new(Schema::new(vec![Field::new("couter", DataType::Int64, false)]));
        assert!(Impulse.resolve(&given(&[]), Some(declared)).is_err());
    }
}

//! Events as Arrow columns. Only wanted columns, and wanted fields of the struct columns, are generated, each in a loop of
//! its own.
//!
//! Exactly one of `person`, `auction`, `bid` is set in a row.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::engine::connectors::Result;
use crate::engine::connectors::nexmark::generator::{Generator, Kind};
use crate::engine::error::Error;
use crate::types::record_batch::batch_of_rows;

pub const DATE_TIME: &str = "date_time";
const EVENT_TYPE: &str = "event_type";

type Integer = fn(&Generator, u64) -> i64;
type Text = fn(&Generator, u64, &mut Vec<u8>);

/// How a field of an event comes about.
#[derive(Clone, Copy)]
enum Recipe {
    Integer(Integer),
    Time(Integer),
    Text(Text),
}

const PERSON: &[(&str, Recipe)] = &[
    ("id", Recipe::Integer(Generator::person_id)),
    ("name", Recipe::Text(Generator::person_name)),
    ("email_address", Recipe::Text(Generator::person_email)),
    ("credit_card", Recipe::Text(Generator::person_credit_card)),
    ("city", Recipe::Text(Generator::person_city)),
    ("state", Recipe::Text(Generator::person_state)),
    ("datetime", Recipe::Time(Generator::time)),
    ("extra", Recipe::Text(Generator::person_extra)),
];

const AUCTION: &[(&str, Recipe)] = &[
    ("id", Recipe::Integer(Generator::auction_id)),
    ("item_name", Recipe::Text(Generator::auction_item_name)),
    ("description", Recipe::Text(Generator::auction_description)),
    ("initial_bid", Recipe::Integer(Generator::auction_initial_bid)),
    ("reserve", Recipe::Integer(Generator::auction_reserve)),
    ("datetime", Recipe::Time(Generator::time)),
    ("expires", Recipe::Time(Generator::auction_expires)),
    ("seller", Recipe::Integer(Generator::auction_seller)),
    ("category", Recipe::Integer(Generator::auction_category)),
    ("extra", Recipe::Text(Generator::auction_extra)),
];

const BID: &[(&str, Recipe)] = &[
    ("auction", Recipe::Integer(Generator::bid_auction)),
    ("bidder", Recipe::Integer(Generator::bid_bidder)),
    ("price", Recipe::Integer(Generator::bid_price)),
    ("channel", Recipe::Text(Generator::bid_channel)),
    ("url", Recipe::Text(Generator::bid_url)),
    ("datetime", Recipe::Time(Generator::time)),
    ("extra", Recipe::Text(Generator::bid_extra)),
];

const STRUCTS: &[(&str, Kind, &[(&str, Recipe)])] = &[
    ("person", Kind::Person, PERSON),
    ("auction", Kind::Auction, AUCTION),
    ("bid", Kind::Bid, BID),
];

impl Recipe {
    fn data_type(self) -> DataType {
        match self {
            Recipe::Integer(_) => DataType::Int64,
            Recipe::Time(_) => timestamp(),
            Recipe::Text(_) => DataType::Utf8,
        }
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// All columns.
pub fn schema() -> SchemaRef {
    let mut fields = Vec::new();
    for (name, _, recipes) in STRUCTS {
        let members: Fields = recipes
            .iter()
            .map(|(name, recipe)| Field::new(*name, recipe.data_type(), true))
            .collect();
        fields.push(Field::new(*name, DataType::Struct(members), true));
    }
    fields.push(Field::new(EVENT_TYPE, DataType::Int32, false));
    fields.push(Field::new(DATE_TIME, timestamp(), false));
    Arc::new(Schema::new(fields))
}

enum Column {
    Struct {
        kind: Kind,
        fields: Fields,
        recipes: Vec<Recipe>,
    },
    EventType,
    DateTime,
}

/// Generates the columns of one schema.
pub struct ColumnGenerator {
    schema: SchemaRef,
    columns: Vec<Column>,
    events: Vec<u64>,
}

impl ColumnGenerator {
    /// `schema` may name any part of [`schema`], in any order, nullable or not.
    pub fn new(schema: &SchemaRef) -> Result<ColumnGenerator> {
        Ok(ColumnGenerator {
            schema: Arc::clone(schema),
            columns: schema
                .fields()
                .iter()
                .map(|field| column(field))
                .collect::<Result<_>>()?,
            events: Vec::new(),
        })
    }

    /// The events with these numbers, in order.
    pub fn generate(&mut self, generator: &Generator, events: impl IntoIterator<Item = u64>) -> Result<RecordBatch> {
        self.events.clear();
        self.events.extend(events);
        let events = &self.events;
        let mut arrays = Vec::with_capacity(self.columns.len());
        for column in &self.columns {
            arrays.push(generate_column(column, generator, events)?);
        }
        Ok(batch_of_rows(Arc::clone(&self.schema), arrays, events.len())?)
    }
}

fn column(field: &Field) -> Result<Column> {
    match (field.name().as_str(), field.data_type()) {
        (EVENT_TYPE, DataType::Int32) => Ok(Column::EventType),
        (DATE_TIME, data_type) if *data_type == timestamp() => Ok(Column::DateTime),
        (name, DataType::Struct(fields)) if field.is_nullable() => {
            let known = STRUCTS.iter().find(|(known, _, _)| *known == name);
            let (_, kind, recipes) = known.ok_or_else(|| no_column(field.name(), field))?;
            let recipe = |member: &Arc<Field>| {
                let found = recipes.iter().find(|(name, _)| *name == member.name());
                match found {
                    Some((_, recipe)) if recipe.data_type() == *member.data_type() => Ok(*recipe),
                    _ => Err(no_column(&format!("{name}.{}", member.name()), member)),
                }
            };
            Ok(Column::Struct {
                kind: *kind,
                recipes: fields.iter().map(recipe).collect::<Result<_>>()?,
                fields: fields.clone(),
            })
        }
        _ => Err(no_column(field.name(), field)),
    }
}

fn no_column(path: &str, field: &Field) -> Error {
    Error::NotSupported {
        what: format!("column \"{path}\" of type {} in connector \"nexmark\"", field.data_type()),
        hint: Some(
            "Leave the columns out to get all: person, auction and bid, which are structs that may be NULL, event_type INT, \
             date_time TIMESTAMP."
                .into(),
        ),
    }
}

fn generate_column(column: &Column, generator: &Generator, events: &[u64]) -> Result<ArrayRef> {
    Ok(match column {
        Column::EventType => Arc::new(Int32Array::from_iter_values(
            events.iter().map(|event| Kind::of(*event).number()),
        )),
        Column::DateTime => Arc::new(TimestampMicrosecondArray::from_iter_values(
            events.iter().map(|event| generator.time(*event)),
        )),
        Column::Struct { kind, fields, recipes } => {
            let rows = BooleanBuffer::collect_bool(events.len(), |row| Kind::of(events[row]) == *kind);
            let children = recipes
                .iter()
                .map(|recipe| generate_field(*recipe, generator, events, &rows))
                .collect();
            let nulls = Some(NullBuffer::new(rows));
            Arc::new(StructArray::try_new_with_length(
                fields.clone(),
                children,
                nulls,
                events.len(),
            )?)
        }
    })
}

/// A field in the rows of its kind; NULL in the others.
fn generate_field(recipe: Recipe, generator: &Generator, events: &[u64], rows: &BooleanBuffer) -> ArrayRef {
    let nulls = Some(NullBuffer::new(rows.clone()));
    match recipe {
        Recipe::Integer(value) => Arc::new(Int64Array::new(integers(value, generator, events, rows), nulls)),
        Recipe::Time(value) => Arc::new(TimestampMicrosecondArray::new(
            integers(value, generator, events, rows),
            nulls,
        )),
        Recipe::Text(text) => {
            let mut data = Vec::with_capacity(events.len() * 24);
            let mut offsets = Vec::with_capacity(events.len() + 1);
            offsets.push(0i32);
            let mut written = 0;
            for row in rows.set_indices() {
                offsets.resize(row + 1, written);
                text(generator, events[row], &mut data);
                written = data.len() as i32;
                offsets.push(written);
            }
            offsets.resize(events.len() + 1, written);
            let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
            Arc::new(StringArray::new(offsets, Buffer::from_vec(data), nulls))
        }
    }
}

fn integers(value: Integer, generator: &Generator, events: &[u64], rows: &BooleanBuffer) -> ScalarBuffer<i64> {
    let mut values = vec![0i64; events.len()];
    for row in rows.set_indices() {
        values[row] = value(generator, events[row]);
    }
    ScalarBuffer::from(values)
}

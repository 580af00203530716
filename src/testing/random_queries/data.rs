//! Random tables: columns of all types, rows with NULLs and extremes, out of order within the bound that the watermark allows.

use std::sync::Arc;

use arrow::array::{ArrayRef, ListArray, RecordBatch, StringArray, StructArray, UInt32Array, new_empty_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::{cast, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::RngExt;
use rand::rngs::StdRng;

use crate::catalog::objects::{self, WatermarkDefinition};
use crate::planner::tests::catalog;
use crate::testing::row_table::RowTable;
use crate::types;

/// What the grammar may do with a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Small enough to add up and multiply.
    Int,
    /// Up to the type's bounds.
    WideInt,
    Text,
    Bool,
    /// Multiples of 1/4, small: sums are exact in any order.
    Float,
    /// NaN, infinities, both zeros, the largest and the least.
    WildFloat,
    Numeric,
    WideNumeric,
    Date,
    /// Without time zone.
    Time,
    TimeTz,
    TimeOfDay,
    Bytes,
    List,
    /// `STRUCT<a BIGINT, b TEXT>`.
    Struct,
    /// A window.
    Window,
    /// A number that depends on the order of its computation: to be looked at, and for nothing else.
    Rough,
}

#[derive(Clone, Debug)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// A table with its rows.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    pub definition: objects::Table,
    pub rows: Arc<RowTable>,
}

/// Seconds by which rows may come late.
const DISORDER_SECONDS: i64 = 5;

/// Columns that every table has, so that tables can be joined; the last is event time.
const COMMON: &[(&str, &str, Kind)] = &[
    ("k", "BIGINT", Kind::Int),
    ("s", "TEXT", Kind::Text),
    ("v", "INT", Kind::Int),
    ("ts", "TIMESTAMP", Kind::Time),
];

const OTHERS: &[(&str, Kind)] = &[
    ("SMALLINT", Kind::Int),
    ("BIGINT", Kind::WideInt),
    ("INT", Kind::WideInt),
    ("NUMERIC(10,2)", Kind::Numeric),
    ("NUMERIC(38,6)", Kind::WideNumeric),
    ("DOUBLE PRECISION", Kind::Float),
    ("DOUBLE PRECISION", Kind::WildFloat),
    ("REAL", Kind::WildFloat),
    ("BOOLEAN", Kind::Bool),
    ("DATE", Kind::Date),
    ("TIMESTAMP", Kind::Time),
    ("TIMESTAMPTZ", Kind::TimeTz),
    ("TIME", Kind::TimeOfDay),
    ("BYTEA", Kind::Bytes),
    ("BIGINT[]", Kind::List),
    ("STRUCT<a BIGINT, b TEXT>", Kind::Struct),
];

pub fn table(random: &mut StdRng, number: u32) -> Table {
    let name = format!("t{number}");
    let mut columns: Vec<(String, &str, Kind)> = COMMON
        .iter()
        .map(|(name, of, kind)| ((*name).to_owned(), *of, *kind))
        .collect();
    for at in 0..random.random_range(1..6) {
        let (of, kind) = OTHERS[random.random_range(0..OTHERS.len())];
        columns.push((format!("x{at}"), of, kind));
    }
    let declared: Vec<String> = columns.iter().map(|(name, of, _)| format!("{name} {of}")).collect();
    let declared: Vec<&str> = declared.iter().map(String::as_str).collect();
    let mut definition = catalog::table(21_000 + number, &name, &declared, &[("bounded", "true")]);
    definition.watermark = Some(WatermarkDefinition {
        column: "ts".into(),
        expression: Some(format!("ts - INTERVAL '{DISORDER_SECONDS} seconds'")),
    });
    let field = |(name, of, _): &(String, &str, Kind)| types::parse(of).expect("a type").to_arrow_field(name, true);
    let schema: SchemaRef = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let kinds: Vec<Kind> = columns.iter().map(|(_, _, kind)| *kind).collect();
    let rows = RowTable {
        name: format!("public.{name}"),
        splits: splits(random, &schema, &kinds),
        chunk_rows_max: random.random_range(1..40),
        seed: random.random(),
    };
    Table {
        name,
        columns: columns
            .into_iter()
            .map(|(name, _, kind)| Column { name, kind })
            .collect(),
        definition,
        rows: Arc::new(rows),
    }
}

/// All rows, in the order in which they happened, dealt to splits in the order in which they come.
fn splits(random: &mut StdRng, schema: &SchemaRef, kinds: &[Kind]) -> Vec<RecordBatch> {
    let count = random.random_range(0..70usize);
    let mut at = 0;
    let mut arrivals = Vec::new();
    let mut times = Vec::new();
    for row in 0..count {
        // Now and then a long silence, which ends sessions.
        at += match random.random_range(0..12) {
            0 => random.random_range(5_000..40_000),
            1..4 => 0,
            _ => random.random_range(0..3_000),
        };
        times.push(at);
        arrivals.push((at + random.random_range(0..=DISORDER_SECONDS * 1000), row));
    }
    let column = |(field, kind): (&Arc<Field>, &Kind)| match field.name().as_str() {
        "ts" => {
            let text = times.iter().map(|at| Some(time_text(*at)));
            cast(&StringArray::from_iter(text), field.data_type()).expect("a time")
        }
        _ => values(random, field.data_type(), *kind, count),
    };
    let columns: Vec<ArrayRef> = schema.fields().iter().zip(kinds).map(column).collect();
    let rows = RecordBatch::try_new(Arc::clone(schema), columns).expect("columns of the schema");
    arrivals.sort_unstable();
    let mut dealt: Vec<Vec<u32>> = vec![Vec::new(); random.random_range(1..=3)];
    for (_, row) in arrivals {
        let split = random.random_range(0..dealt.len());
        dealt[split].push(row as u32);
    }
    let taken = |rows_of_split: Vec<u32>| take_record_batch(&rows, &UInt32Array::from(rows_of_split)).expect("rows");
    dealt.into_iter().map(taken).collect()
}

fn time_text(millis: i64) -> String {
    let seconds = millis / 1000;
    format!(
        "2024-02-28T{:02}:{:02}:{:02}.{:03}",
        22 + seconds / 3600 % 2,
        seconds / 60 % 60,
        seconds % 60,
        millis % 1000
    )
}

fn values(random: &mut StdRng, of: &DataType, kind: Kind, count: usize) -> ArrayRef {
    let valid: Vec<bool> = (0..count).map(|_| random.random_range(0..8) != 0).collect();
    values_where(random, of, kind, &valid)
}

/// NULL where not `valid`; inside of a struct, too, as sources deliver them.
fn values_where(random: &mut StdRng, of: &DataType, kind: Kind, valid: &[bool]) -> ArrayRef {
    let (count, nulls) = (valid.len(), NullBuffer::from(valid));
    match of {
        DataType::List(item) => {
            let lengths = valid
                .iter()
                .map(|valid| if *valid { random.random_range(0..4) } else { 0 });
            let lengths: Vec<usize> = lengths.collect();
            let items = values(random, item.data_type(), Kind::Int, lengths.iter().sum());
            let offsets = OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(Arc::clone(item), offsets, items, Some(nulls)))
        }
        DataType::Struct(fields) => {
            let parts = fields
                .iter()
                .map(|field| match field.data_type() {
                    DataType::Int64 => values_where(random, field.data_type(), Kind::Int, valid),
                    other => values_where(random, other, Kind::Text, valid),
                })
                .collect();
            Arc::new(StructArray::new(fields.clone(), parts, Some(nulls)))
        }
        _ if count == 0 => new_empty_array(of),
        _ => {
            let texts = valid.iter().map(|valid| valid.then(|| text_of(random, of, kind)));
            let texts: StringArray = texts.collect();
            cast(&texts, of).unwrap_or_else(|error| panic!("{texts:?} as {of}: {error}"))
        }
    }
}

fn chosen(random: &mut StdRng, texts: &[&str]) -> String {
    texts[random.random_range(0..texts.len())].to_owned()
}

fn text_of(random: &mut StdRng, of: &DataType, kind: Kind) -> String {
    match kind {
        Kind::Int => random.random_range(-4..9).to_string(),
        Kind::WideInt => match of {
            DataType::Int32 => chosen(random, &["-2147483648", "2147483647", "0", "-1", "7"]),
            _ => chosen(
                random,
                &[
                    "-9223372036854775808",
                    "9223372036854775807",
                    "0",
                    "-1",
                    "9007199254740993",
                ],
            ),
        },
        Kind::Text => chosen(random, &["", "a", "b", "A", "ab", "a b", "žluť", "%_", "10", "𝄞"]),
        Kind::Bool => chosen(random, &["true", "false"]),
        Kind::Float => (f64::from(random.random_range(-40..40)) / 4.0).to_string(),
        Kind::WildFloat => match of {
            DataType::Float32 => chosen(random, &["NaN", "inf", "-inf", "0", "-0", "3.4e38", "1e-45", "1.5"]),
            _ => chosen(
                random,
                &["NaN", "inf", "-inf", "0", "-0", "1.7e308", "5e-324", "1.5", "-2"],
            ),
        },
        Kind::Numeric => format!("{}.{:02}", random.random_range(-9..99), random.random_range(0..100)),
        Kind::WideNumeric => chosen(
            random,
            &[
                "99999999999999999999999999999999.999999",
                "-99999999999999999999999999999999.999999",
                "0.000001",
                "0",
                "12.5",
            ],
        ),
        Kind::Date => chosen(
            random,
            &["2024-02-29", "1969-12-31", "1970-01-01", "9999-12-31", "0001-01-01"],
        ),
        Kind::Time | Kind::TimeTz => {
            let of_day = time_text(random.random_range(0..90_000));
            match (kind, random.random_range(0..8)) {
                (Kind::TimeTz, 0) => "1969-12-31T23:59:59.999999Z".into(),
                (Kind::TimeTz, _) => format!("{of_day}Z"),
                (_, 0) => "0001-01-01T00:00:00".into(),
                _ => of_day,
            }
        }
        Kind::TimeOfDay => chosen(random, &["00:00:00", "23:59:59.999999", "12:30:00"]),
        Kind::Bytes => chosen(random, &["", "x", "\u{1}\u{2}", "xyz"]),
        Kind::List | Kind::Struct | Kind::Window | Kind::Rough => unreachable!("built from its parts"),
    }
}

/// The rows of all splits as one batch.
pub fn all_rows(splits: &[RecordBatch]) -> RecordBatch {
    concat_batches(&splits[0].schema(), splits).expect("one schema")
}

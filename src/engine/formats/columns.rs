//! Columns under construction: rows go in one value at a time, whole Arrow arrays come out.
//!
//! Unlike Arrow's own builders these can take rows back: a record that turns out to be broken in its last field leaves
//! nothing behind ([`ColumnBuilder::truncate`]). A value is written for a row number; rows that were passed over are NULL,
//! filled in when the next value or the end comes, so that an absent field costs nothing.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, ListArray, MapArray, PrimitiveArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, MutableBuffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Field, FieldRef, Fields, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, SchemaRef,
    Time64MicrosecondType, TimeUnit, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use crate::engine::error::Error;
use crate::engine::formats::json::shape::Shape;
use crate::engine::formats::text_values::{self, DateCache, ValueFault, ValueResult};
use crate::types::record_batch::batch_of_rows;

/// Field metadata that marks a text column as JSON.
pub const EXTENSION_NAME: &str = "ARROW:extension:name";
pub const JSON_EXTENSION: &str = "arrow.json";

/// Whether the column holds JSON texts.
pub fn is_json(field: &Field) -> bool {
    field
        .metadata()
        .get(EXTENSION_NAME)
        .is_some_and(|name| name == JSON_EXTENSION)
}

/// One column, growing.
#[derive(Debug)]
pub struct ColumnBuilder {
    pub(super) field: FieldRef,
    /// Rows that have a value or NULL; later ones are still open.
    pub(super) rows: usize,
    /// First row and count of each run of NULLs, ascending.
    nulls: Vec<(usize, usize)>,
    pub(super) values: Values,
}

/// What a column collects, by how its values are written.
#[derive(Debug)]
pub(super) enum Values {
    Boolean(Vec<bool>),
    /// Every integer type that fits i64; `low..=high` is the column's range.
    Integer {
        values: Vec<i64>,
        low: i64,
        high: i64,
    },
    Unsigned(Vec<u64>),
    Real(Vec<f32>),
    Double(Vec<f64>),
    Decimal {
        values: Vec<i128>,
        precision: u8,
        scale: i8,
    },
    Text(Pieces),
    Json(Pieces),
    Binary(Pieces),
    Timestamp {
        values: Vec<i64>,
        dates: DateCache,
    },
    Date(Vec<i32>),
    Time(Vec<i64>),
    Interval(Vec<IntervalMonthDayNano>),
    Uuid(Vec<u8>),
    Struct(StructBuilder),
    List {
        offsets: Vec<i32>,
        element: Box<ColumnBuilder>,
    },
    Map {
        offsets: Vec<i32>,
        key: Box<ColumnBuilder>,
        value: Box<ColumnBuilder>,
    },
}

/// Strings one after the other. Offsets are 32 bits: a batch comes from one input buffer, which is far below 2 GiB.
#[derive(Debug)]
pub(super) struct Pieces {
    offsets: Vec<i32>,
    pub(super) data: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct StructBuilder {
    pub(super) fields: Vec<ColumnBuilder>,
    /// Indexes of the fields that are NOT NULL.
    pub(super) required: Vec<usize>,
    pub(super) shape: Shape,
}

impl Pieces {
    fn new() -> Pieces {
        Pieces {
            offsets: vec![0],
            data: Vec::new(),
        }
    }

    /// Ends the piece whose bytes were appended to `data`.
    #[inline]
    pub(super) fn close(&mut self) {
        self.offsets.push(self.data.len() as i32);
    }

    #[inline]
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.data.extend_from_slice(piece);
        self.close();
    }

    fn pad(&mut self, count: usize) {
        let end = self.data.len() as i32;
        self.offsets.resize(self.offsets.len() + count, end);
    }

    fn truncate(&mut self, rows: usize) {
        self.offsets.truncate(rows + 1);
        self.data.truncate(self.offsets.last().map_or(0, |end| *end as usize));
    }

    fn take(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let data_capacity = self.data.len() + self.data.len() / 8;
        let offsets_capacity = self.offsets.len();
        let data = std::mem::replace(&mut self.data, Vec::with_capacity(data_capacity));
        let mut fresh = Vec::with_capacity(offsets_capacity);
        fresh.push(0);
        let offsets = std::mem::replace(&mut self.offsets, fresh);
        (OffsetBuffer::new(ScalarBuffer::from(offsets)), Buffer::from_vec(data))
    }
}

impl ColumnBuilder {
    pub fn new(field: &FieldRef) -> Result<ColumnBuilder, Error> {
        Ok(ColumnBuilder {
            field: Arc::clone(field),
            rows: 0,
            nulls: Vec::new(),
            values: Values::new(field)?,
        })
    }

    /// Makes `row` the next row to write: rows before it that have nothing become NULL; a value that it already has (a
    /// field given twice: the last one counts) is dropped.
    #[inline]
    pub(super) fn align(&mut self, row: usize) {
        if self.rows < row {
            self.push_nulls(row - self.rows);
        } else if self.rows > row {
            self.truncate(row);
        }
    }

    /// The value for row `rows` was appended to `values`.
    #[inline]
    pub(super) fn wrote(&mut self) {
        self.rows += 1;
    }

    pub(super) fn push_nulls(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        match self.nulls.last_mut() {
            Some((start, length)) if *start + *length == self.rows => *length += count,
            _ => self.nulls.push((self.rows, count)),
        }
        self.rows += count;
        self.values.pad(count);
    }

    /// Forgets everything from row `rows` on, also what was half written.
    pub fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        while let Some((start, length)) = self.nulls.last_mut() {
            if *start >= rows {
                self.nulls.pop();
            } else {
                *length = (*length).min(rows - *start);
                break;
            }
        }
        self.values.truncate(self.rows);
    }

    /// Writes `text` as the value of `row`, read as the column's type.
    pub fn push_text(&mut self, row: usize, text: &[u8]) -> ValueResult<()> {
        self.align(row);
        self.values.push_text(text)?;
        self.wrote();
        Ok(())
    }

    /// The first `rows` rows as an array; the builder is empty afterwards.
    pub fn finish(&mut self, rows: usize) -> Result<ArrayRef, Error> {
        self.align(rows);
        let nulls = self.take_nulls(rows);
        self.rows = 0;
        self.values.finish(self.field.data_type(), rows, nulls)
    }

    fn take_nulls(&mut self, rows: usize) -> Option<NullBuffer> {
        if self.nulls.is_empty() {
            return None;
        }
        let mut bits = MutableBuffer::new(0);
        bits.resize(rows.div_ceil(8), 0xff);
        for (start, length) in self.nulls.drain(..) {
            clear_bits(bits.as_slice_mut(), start, length);
        }
        Some(NullBuffer::new(BooleanBuffer::new(bits.into(), 0, rows)))
    }
}

fn clear_bits(bits: &mut [u8], start: usize, length: usize) {
    let end = start + length;
    let mut bit = start;
    while bit < end && !bit.is_multiple_of(8) {
        bits[bit / 8] &= !(1 << (bit % 8));
        bit += 1;
    }
    let whole = (end.saturating_sub(bit)) / 8;
    bits[bit / 8..bit / 8 + whole].fill(0);
    bit += whole * 8;
    while bit < end {
        bits[bit / 8] &= !(1 << (bit % 8));
        bit += 1;
    }
}

impl Values {
    fn new(field: &Field) -> Result<Values, Error> {
        let integer = |low, high| Values::Integer {
            values: Vec::new(),
            low,
            high,
        };
        Ok(match field.data_type() {
            DataType::Boolean => Values::Boolean(Vec::new()),
            DataType::Int8 => integer(i8::MIN.into(), i8::MAX.into()),
            DataType::Int16 => integer(i16::MIN.into(), i16::MAX.into()),
            DataType::Int32 => integer(i32::MIN.into(), i32::MAX.into()),
            DataType::Int64 => integer(i64::MIN, i64::MAX),
            DataType::UInt8 => integer(0, u8::MAX.into()),
            DataType::UInt16 => integer(0, u16::MAX.into()),
            DataType::UInt32 => integer(0, u32::MAX.into()),
            DataType::UInt64 => Values::Unsigned(Vec::new()),
            DataType::Float32 => Values::Real(Vec::new()),
            DataType::Float64 => Values::Double(Vec::new()),
            DataType::Decimal128(precision, scale) => Values::Decimal {
                values: Vec::new(),
                precision: *precision,
                scale: *scale,
            },
            DataType::Utf8 if is_json(field) => Values::Json(Pieces::new()),
            DataType::Utf8 => Values::Text(Pieces::new()),
            DataType::Binary => Values::Binary(Pieces::new()),
            DataType::Timestamp(_, _) => Values::Timestamp {
                values: Vec::new(),
                dates: DateCache::default(),
            },
            DataType::Date32 => Values::Date(Vec::new()),
            DataType::Time64(TimeUnit::Microsecond) => Values::Time(Vec::new()),
            DataType::Interval(IntervalUnit::MonthDayNano) => Values::Interval(Vec::new()),
            DataType::FixedSizeBinary(16) => Values::Uuid(Vec::new()),
            DataType::Struct(fields) => Values::Struct(StructBuilder::new(fields)?),
            DataType::List(element) => Values::List {
                offsets: vec![0],
                element: Box::new(ColumnBuilder::new(element)?),
            },
            DataType::Map(entries, _) => Values::new_map(entries)?,
            other => {
                return Err(Error::NotSupported {
                    what: format!("type {other} of column \"{}\" in this format", field.name()),
                    hint: None,
                });
            }
        })
    }

    fn new_map(entries: &FieldRef) -> Result<Values, Error> {
        let DataType::Struct(fields) = entries.data_type() else {
            return Err(Error::Internal("map entries are not a struct".into()));
        };
        let [key, value] = fields.as_ref() else {
            return Err(Error::Internal("map entries do not have two fields".into()));
        };
        Ok(Values::Map {
            offsets: vec![0],
            key: Box::new(ColumnBuilder::new(key)?),
            value: Box::new(ColumnBuilder::new(value)?),
        })
    }

    /// Appends a placeholder for each of `count` NULLs.
    fn pad(&mut self, count: usize) {
        fn zeros<T: Default + Clone>(values: &mut Vec<T>, count: usize) {
            values.resize(values.len() + count, T::default());
        }
        match self {
            Values::Boolean(values) => zeros(values, count),
            Values::Integer { values, .. } | Values::Timestamp { values, .. } | Values::Time(values) => {
                zeros(values, count);
            }
            Values::Unsigned(values) => zeros(values, count),
            Values::Real(values) => zeros(values, count),
            Values::Double(values) => zeros(values, count),
            Values::Decimal { values, .. } => zeros(values, count),
            Values::Text(pieces) | Values::Json(pieces) | Values::Binary(pieces) => pieces.pad(count),
            Values::Date(values) => zeros(values, count),
            Values::Interval(values) => zeros(values, count),
            Values::Uuid(values) => zeros(values, count * 16),
            // The fields fill themselves when their next value comes.
            Values::Struct(_) => {}
            Values::List { offsets, .. } | Values::Map { offsets, .. } => {
                let end = offsets.last().copied().unwrap_or(0);
                offsets.resize(offsets.len() + count, end);
            }
        }
    }

    fn truncate(&mut self, rows: usize) {
        match self {
            Values::Boolean(values) => values.truncate(rows),
            Values::Integer { values, .. } | Values::Timestamp { values, .. } | Values::Time(values) => {
                values.truncate(rows);
            }
            Values::Unsigned(values) => values.truncate(rows),
            Values::Real(values) => values.truncate(rows),
            Values::Double(values) => values.truncate(rows),
            Values::Decimal { values, .. } => values.truncate(rows),
            Values::Text(pieces) | Values::Json(pieces) | Values::Binary(pieces) => pieces.truncate(rows),
            Values::Date(values) => values.truncate(rows),
            Values::Interval(values) => values.truncate(rows),
            Values::Uuid(values) => values.truncate(rows * 16),
            Values::Struct(fields) => fields.fields.iter_mut().for_each(|field| field.truncate(rows)),
            Values::List { offsets, element } => {
                offsets.truncate(rows + 1);
                element.truncate(offsets[rows] as usize);
            }
            Values::Map { offsets, key, value } => {
                offsets.truncate(rows + 1);
                key.truncate(offsets[rows] as usize);
                value.truncate(offsets[rows] as usize);
            }
        }
    }

    pub(super) fn push_text(&mut self, text: &[u8]) -> ValueResult<()> {
        match self {
            Values::Boolean(values) => values.push(text_values::boolean(text)?),
            Values::Integer { values, low, high } => {
                let value = i64::try_from(text_values::integer(text)?).map_err(|_| ValueFault::OutOfRange)?;
                if value < *low || value > *high {
                    return Err(ValueFault::OutOfRange);
                }
                values.push(value);
            }
            Values::Unsigned(values) => {
                values.push(u64::try_from(text_values::integer(text)?).map_err(|_| ValueFault::OutOfRange)?);
            }
            Values::Real(values) => values.push(text_values::real(text)?),
            Values::Double(values) => values.push(text_values::double(text)?),
            Values::Decimal {
                values,
                precision,
                scale,
            } => values.push(text_values::decimal(text, *precision, *scale)?),
            Values::Text(pieces) => pieces.push(text),
            Values::Json(pieces) => {
                let valid = std::str::from_utf8(text)
                    .is_ok_and(|text| serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok());
                if !valid {
                    return Err(ValueFault::Syntax);
                }
                pieces.push(text);
            }
            Values::Binary(pieces) => pieces.push(&text_values::bytes(text)?),
            Values::Timestamp { values, dates } => values.push(text_values::timestamp(text, dates)?),
            Values::Date(values) => values.push(text_values::date(text)?),
            Values::Time(values) => values.push(text_values::time(text)?),
            Values::Interval(values) => {
                let text = std::str::from_utf8(text).map_err(|_| ValueFault::Syntax)?;
                let value = arrow::compute::kernels::cast_utils::parse_interval_month_day_nano(text)
                    .map_err(|_| ValueFault::Syntax)?;
                values.push(value);
            }
            Values::Uuid(values) => values.extend_from_slice(&text_values::uuid(text)?),
            Values::Struct(_) | Values::List { .. } | Values::Map { .. } => return Err(ValueFault::Syntax),
        }
        Ok(())
    }

    fn finish(&mut self, data_type: &DataType, rows: usize, nulls: Option<NullBuffer>) -> Result<ArrayRef, Error> {
        Ok(match self {
            Values::Boolean(values) => {
                let bits: BooleanBuffer = values.drain(..).collect();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Values::Integer { values, .. } => finish_integers(data_type, taken(values), nulls)?,
            Values::Unsigned(values) => primitive::<UInt64Type>(taken(values), nulls),
            Values::Real(values) => primitive::<Float32Type>(taken(values), nulls),
            Values::Double(values) => primitive::<Float64Type>(taken(values), nulls),
            Values::Decimal {
                values,
                precision,
                scale,
            } => Arc::new(
                Decimal128Array::new(ScalarBuffer::from(taken(values)), nulls)
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            Values::Text(pieces) | Values::Json(pieces) => {
                let (offsets, data) = pieces.take();
                // SAFETY: every piece is a part of input whose UTF-8 was checked, cut at ASCII bytes, or was unescaped into
                // whole characters; `data` grows only together with `offsets`.
                Arc::new(unsafe { StringArray::new_unchecked(offsets, data, nulls) })
            }
            Values::Binary(pieces) => {
                let (offsets, data) = pieces.take();
                Arc::new(BinaryArray::new(offsets, data, nulls))
            }
            Values::Timestamp { values, .. } => finish_timestamps(data_type, taken(values), nulls)?,
            Values::Date(values) => primitive::<Date32Type>(taken(values), nulls),
            Values::Time(values) => primitive::<Time64MicrosecondType>(taken(values), nulls),
            Values::Interval(values) => primitive::<IntervalMonthDayNanoType>(taken(values), nulls),
            Values::Uuid(values) => Arc::new(FixedSizeBinaryArray::try_new(
                16,
                Buffer::from_vec(taken(values)),
                nulls,
            )?),
            Values::Struct(fields) => Arc::new(fields.finish(data_type, rows, nulls)?),
            Values::List { offsets, element } => {
                let field = Arc::clone(&element.field);
                let offsets = taken_offsets(offsets);
                let elements = element.finish(last(&offsets))?;
                Arc::new(ListArray::try_new(field, offsets, elements, nulls)?)
            }
            Values::Map { offsets, key, value } => finish_map(data_type, offsets, key, value, nulls)?,
        })
    }
}

fn finish_map(
    data_type: &DataType,
    offsets: &mut Vec<i32>,
    key: &mut ColumnBuilder,
    value: &mut ColumnBuilder,
    nulls: Option<NullBuffer>,
) -> Result<ArrayRef, Error> {
    let DataType::Map(entries_field, ordered) = data_type else {
        return Err(Error::Internal("map column is not a map".into()));
    };
    let offsets = taken_offsets(offsets);
    let count = last(&offsets);
    let fields = Fields::from(vec![Arc::clone(&key.field), Arc::clone(&value.field)]);
    let entries = StructArray::try_new(fields, vec![key.finish(count)?, value.finish(count)?], None)?;
    let map = MapArray::try_new(Arc::clone(entries_field), offsets, entries, nulls, *ordered)?;
    Ok(Arc::new(map))
}

/// Takes the values, leaving room for as many again.
fn taken<T>(values: &mut Vec<T>) -> Vec<T> {
    let capacity = values.len();
    std::mem::replace(values, Vec::with_capacity(capacity))
}

fn taken_offsets(offsets: &mut Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(offsets, vec![0])))
}

fn last(offsets: &OffsetBuffer<i32>) -> usize {
    offsets.last().map_or(0, |end| *end as usize)
}

fn primitive<T: ArrowPrimitiveType>(values: Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(ScalarBuffer::from(values), nulls))
}

fn finish_integers(data_type: &DataType, values: Vec<i64>, nulls: Option<NullBuffer>) -> Result<ArrayRef, Error> {
    // The range was checked when the values were written.
    macro_rules! narrow {
        ($type:ty, $native:ty) => {
            primitive::<$type>(values.into_iter().map(|value| value as $native).collect(), nulls)
        };
    }
    Ok(match data_type {
        DataType::Int64 => primitive::<Int64Type>(values, nulls),
        DataType::Int32 => narrow!(Int32Type, i32),
        DataType::Int16 => narrow!(Int16Type, i16),
        DataType::Int8 => narrow!(Int8Type, i8),
        DataType::UInt32 => narrow!(UInt32Type, u32),
        DataType::UInt16 => narrow!(UInt16Type, u16),
        DataType::UInt8 => narrow!(UInt8Type, u8),
        other => return Err(Error::Internal(format!("integers collected for {other}"))),
    })
}

/// `values` are microseconds.
fn finish_timestamps(data_type: &DataType, values: Vec<i64>, nulls: Option<NullBuffer>) -> Result<ArrayRef, Error> {
    let DataType::Timestamp(unit, zone) = data_type else {
        return Err(Error::Internal(format!("timestamps collected for {data_type}")));
    };
    let zone = zone.clone();
    let scaled =
        |change: fn(i64) -> i64| ScalarBuffer::from(values.iter().map(|value| change(*value)).collect::<Vec<_>>());
    Ok(match unit {
        TimeUnit::Microsecond => {
            Arc::new(TimestampMicrosecondArray::new(ScalarBuffer::from(values), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Millisecond => {
            Arc::new(TimestampMillisecondArray::new(scaled(|v| v.div_euclid(1000)), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Second => {
            Arc::new(TimestampSecondArray::new(scaled(|v| v.div_euclid(1_000_000)), nulls).with_timezone_opt(zone))
        }
        TimeUnit::Nanosecond => {
            Arc::new(TimestampNanosecondArray::new(scaled(|v| v.saturating_mul(1000)), nulls).with_timezone_opt(zone))
        }
    })
}

impl StructBuilder {
    pub(super) fn new(fields: &Fields) -> Result<StructBuilder, Error> {
        Ok(StructBuilder {
            fields: fields.iter().map(ColumnBuilder::new).collect::<Result<_, _>>()?,
            required: (0..fields.len())
                .filter(|index| !fields[*index].is_nullable())
                .collect(),
            shape: Shape::default(),
        })
    }

    fn finish(&mut self, data_type: &DataType, rows: usize, nulls: Option<NullBuffer>) -> Result<StructArray, Error> {
        let DataType::Struct(fields) = data_type else {
            return Err(Error::Internal("struct column is not a struct".into()));
        };
        let columns = self.finish_fields(rows)?;
        Ok(StructArray::try_new_with_length(fields.clone(), columns, nulls, rows)?)
    }

    fn finish_fields(&mut self, rows: usize) -> Result<Vec<ArrayRef>, Error> {
        self.fields.iter_mut().map(|field| field.finish(rows)).collect()
    }
}

/// The rows of a batch, growing: what decoders write to.
#[derive(Debug)]
pub struct BatchBuilder {
    schema: SchemaRef,
    pub(super) root: StructBuilder,
    /// Complete rows.
    pub(super) rows: usize,
}

impl BatchBuilder {
    pub fn new(schema: &SchemaRef) -> Result<BatchBuilder, Error> {
        BatchBuilder::shown_as(schema, schema)
    }

    /// Values are refused by `schema`; batches have the schema `shown`, which differs in what may be NULL: fields of a row may
    /// be left out.
    pub fn shown_as(schema: &SchemaRef, shown: &SchemaRef) -> Result<BatchBuilder, Error> {
        Ok(BatchBuilder {
            schema: Arc::clone(shown),
            root: StructBuilder::new(schema.fields())?,
            rows: 0,
        })
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Forgets what was written of rows that are not complete.
    pub fn roll_back(&mut self) {
        let rows = self.rows;
        self.root.fields.iter_mut().for_each(|field| field.truncate(rows));
    }

    /// The complete rows; the builder is empty afterwards.
    pub fn take(&mut self) -> Result<RecordBatch, Error> {
        let rows = std::mem::take(&mut self.rows);
        let columns = self.root.finish_fields(rows)?;
        Ok(batch_of_rows(Arc::clone(&self.schema), columns, rows)?)
    }
}

/// The type's word in messages, as Postgres says it.
pub fn type_word(data_type: &DataType) -> &'static str {
    match data_type {
        DataType::Boolean => "boolean",
        DataType::Int8 => "tinyint",
        DataType::Int16 => "smallint",
        DataType::Int32 => "integer",
        DataType::Int64 => "bigint",
        DataType::UInt8 => "tinyint unsigned",
        DataType::UInt16 => "smallint unsigned",
        DataType::UInt32 => "integer unsigned",
        DataType::UInt64 => "bigint unsigned",
        DataType::Float32 => "real",
        DataType::Float64 => "double precision",
        DataType::Decimal128(_, _) => "numeric",
        DataType::Utf8 => "text",
        DataType::Binary => "bytea",
        DataType::Timestamp(_, None) => "timestamp",
        DataType::Timestamp(_, Some(_)) => "timestamp with time zone",
        DataType::Date32 => "date",
        DataType::Time64(_) => "time",
        DataType::Interval(_) => "interval",
        DataType::FixedSizeBinary(16) => "uuid",
        DataType::Struct(_) => "struct",
        DataType::List(_) => "array",
        DataType::Map(_, _) => "map",
        _ => "this type",
    }
}

/// As Postgres words it: `invalid input syntax for type bigint: "abc"`.
pub fn value_message(field: &Field, fault: ValueFault, text: &[u8]) -> String {
    const SHOWN: usize = 100;
    let shown = String::from_utf8_lossy(&text[..text.len().min(SHOWN)]);
    let dots = if text.len() > SHOWN { ".." } else { "" };
    let word = if is_json(field) {
        "json"
    } else {
        type_word(field.data_type())
    };
    match fault {
        ValueFault::Syntax => format!("invalid input syntax for type {word}: \"{shown}{dots}\""),
        ValueFault::OutOfRange => format!("value \"{shown}{dots}\" is out of range for type {word}"),
    }
}

//! One record of Avro's binary encoding into columns, as a [`RecordPlan`] says.
//!
//! Every length is checked against what is there before anything is made of it. What was half written when a fault is found is for
//! the caller to roll back.

use arrow::datatypes::{DecimalType, IntervalMonthDayNano};

use crate::engine::formats::avro::plan::{FieldStep, Read, RecordPlan};
use crate::engine::formats::avro::schema::{AvroSchema, DEPTH_MAX, Kind, NodeId};
use crate::engine::formats::columns::{ColumnBuilder, StructBuilder, Values, value_message};
use crate::engine::formats::decimal_bytes::{number_of, rescaled};
use crate::engine::formats::text_values::ValueFault;

/// Items of arrays that take no bytes, in all.
const EMPTY_ITEMS_MAX: usize = 1 << 16;
const MICROS_OF_DAY: i64 = 86_400_000_000;

/// Why a record cannot be decoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    /// The column, with the names inside of it; empty: the record as a whole.
    path: String,
    message: String,
}

pub type Decoded<T> = Result<T, Box<Fault>>;

impl Fault {
    pub fn reason(self) -> String {
        match self.path.is_empty() {
            true => self.message,
            false => format!("column \"{}\": {}", self.path, self.message),
        }
    }

    #[cold]
    fn within(mut self: Box<Fault>, name: &str) -> Box<Fault> {
        self.path = match self.path.is_empty() {
            true => name.to_owned(),
            false => format!("{name}.{}", self.path),
        };
        self
    }
}

#[cold]
pub fn fault<T>(message: impl Into<String>) -> Decoded<T> {
    Err(Box::new(Fault {
        path: String::new(),
        message: message.into(),
    }))
}

/// The bytes of a record, and how far they were read.
#[derive(Clone, Copy, Debug)]
pub struct Datum<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    /// How many items of arrays there may still be: few bytes cannot become a lot of memory.
    items_left: usize,
}

impl<'a> Datum<'a> {
    pub fn new(bytes: &'a [u8]) -> Datum<'a> {
        Datum {
            bytes,
            at: 0,
            items_left: bytes.len() + EMPTY_ITEMS_MAX,
        }
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Zigzag, seven bits a byte, the least significant first.
    #[inline]
    pub fn long(&mut self) -> Decoded<i64> {
        let mut value = 0u64;
        let mut shift = 0;
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            if shift == 63 && byte > 1 {
                return fault("an integer has more than 64 bits");
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
            shift += 7;
        }
        ended()
    }

    #[inline]
    pub fn take(&mut self, length: usize) -> Decoded<&'a [u8]> {
        let Some(piece) = self.bytes[self.at..].get(..length) else {
            return ended();
        };
        self.at += length;
        Ok(piece)
    }

    /// Bytes or text, with their length before them.
    #[inline]
    pub fn sized(&mut self) -> Decoded<&'a [u8]> {
        match usize::try_from(self.long()?) {
            Ok(length) => self.take(length),
            Err(_) => fault("a length is negative"),
        }
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// How many items the next block of an array or map has; 0 at the end.
    fn block(&mut self) -> Decoded<usize> {
        let mut count = self.long()?;
        if count < 0 {
            // Its length in bytes is there for those who step over it.
            self.long()?;
            count = count.saturating_neg();
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        match self.items_left.checked_sub(count) {
            Some(left) => self.items_left = left,
            None => return fault("an array has more items than there are bytes"),
        }
        Ok(count)
    }
}

#[cold]
fn ended<T>() -> Decoded<T> {
    fault("the record ends too early")
}

/// Reads a record into the columns of `target`, at `row`.
pub(in crate::engine::formats) fn record(
    schema: &AvroSchema,
    plan: &RecordPlan,
    datum: &mut Datum<'_>,
    target: &mut StructBuilder,
    row: usize,
) -> Decoded<()> {
    if let Some(column) = &plan.missing {
        let message = "is NOT NULL, and the record's schema has no such field".to_owned();
        let path = column.clone();
        return Err(Box::new(Fault { path, message }));
    }
    for step in &plan.steps {
        match step {
            FieldStep::Skip(node) => skip(schema, *node, datum, 0)?,
            FieldStep::Read(column, read) => {
                let column = &mut target.fields[*column];
                column.align(row);
                value(schema, read, datum, column).map_err(|fault| fault.within(column.field.name()))?;
            }
        }
    }
    Ok(())
}

/// Reads the next value of `column`.
fn value(schema: &AvroSchema, read: &Read, datum: &mut Datum<'_>, column: &mut ColumnBuilder) -> Decoded<()> {
    match read {
        Read::Null => null(column),
        Read::Optional(of_null, read) => match datum.long()? {
            branch if branch == *of_null => null(column),
            0 | 1 => value(schema, read, datum, column),
            branch => fault(format!("a union has no branch {branch}")),
        },
        Read::Only(read) => match datum.long()? {
            0 => value(schema, read, datum, column),
            branch => fault(format!("a union has no branch {branch}")),
        },
        _ => {
            present(schema, read, datum, column)?;
            column.wrote();
            Ok(())
        }
    }
}

fn null(column: &mut ColumnBuilder) -> Decoded<()> {
    if !column.field.is_nullable() {
        return fault("null value in a column that is NOT NULL");
    }
    column.push_nulls(1);
    Ok(())
}

/// A value that is there, without counting it.
fn present(schema: &AvroSchema, read: &Read, datum: &mut Datum<'_>, column: &mut ColumnBuilder) -> Decoded<()> {
    let row = column.rows;
    match (read, &mut column.values) {
        (Read::Integer, _) => {
            let number = datum.long()?;
            return integer(column, number.into());
        }
        (Read::Scaled(by, per), values) => {
            let number = datum.long()?;
            return scaled(values, number, *by, *per);
        }
        (Read::Text, values) => {
            let text = datum.sized()?;
            if std::str::from_utf8(text).is_err() {
                return fault("invalid byte sequence for encoding \"UTF8\"");
            }
            match values {
                Values::Text(pieces) => pieces.push(text),
                values => {
                    if let Err(found) = values.push_text(text) {
                        return fault(value_message(&column.field, found, text));
                    }
                }
            }
        }
        (Read::Record(plan), Values::Struct(fields)) => record(schema, plan, datum, fields, row)?,
        (Read::List(read), Values::List { offsets, element }) => {
            items(datum, |datum| value(schema, read, datum, element))?;
            offsets.push(offset(element.rows)?);
        }
        (
            Read::Map(read),
            Values::Map {
                offsets,
                key,
                value: of_map,
            },
        ) => {
            items(datum, |datum| {
                let name = datum.sized()?;
                match (&mut key.values, std::str::from_utf8(name)) {
                    (Values::Text(pieces), Ok(_)) => pieces.push(name),
                    _ => return fault("invalid byte sequence for encoding \"UTF8\""),
                }
                key.wrote();
                value(schema, read, datum, of_map)
            })?;
            offsets.push(offset(key.rows)?);
        }
        _ => return scalar(read, datum, column),
    }
    Ok(())
}

/// A value that holds no others, but for the most frequent ones.
fn scalar(read: &Read, datum: &mut Datum<'_>, column: &mut ColumnBuilder) -> Decoded<()> {
    match (read, &mut column.values) {
        (Read::Boolean, Values::Boolean(values)) => match datum.take(1)? {
            [0] => values.push(false),
            [1] => values.push(true),
            other => return fault(format!("byte {} is no boolean", other[0])),
        },
        (Read::Float, Values::Real(values)) => values.push(f32::from_le_bytes(datum.array()?)),
        (Read::Float, Values::Double(values)) => values.push(f32::from_le_bytes(datum.array()?).into()),
        (Read::Double, Values::Double(values)) => values.push(f64::from_le_bytes(datum.array()?)),
        (Read::Double, Values::Real(_)) => return narrowed(column, f64::from_le_bytes(datum.array()?)),
        (Read::Bytes, Values::Binary(pieces)) => pieces.push(datum.sized()?),
        (Read::Fixed(size), Values::Binary(pieces)) => pieces.push(datum.take(*size)?),
        (Read::Fixed(size), Values::Uuid(values)) => values.extend_from_slice(datum.take(*size)?),
        (Read::Symbol(symbols), Values::Text(pieces)) => {
            let number = datum.long()?;
            match usize::try_from(number).ok().and_then(|number| symbols.get(number)) {
                Some(symbol) => pieces.push(symbol.as_bytes()),
                None => return fault(format!("an enum has no symbol {number}")),
            }
        }
        (Read::Symbol(_), values) => return symbol_elsewhere(values, read, datum),
        (Read::Decimal(size, scale), _) => {
            let bytes = match size {
                Some(size) => datum.take(*size)?,
                None => datum.sized()?,
            };
            return decimal(column, bytes, *scale);
        }
        (Read::Duration, Values::Interval(values)) => values.push(duration(datum)?),
        _ => return fault("the column has another type than its plan"),
    }
    Ok(())
}

/// An enum's symbol in a column of text that is JSON.
#[cold]
fn symbol_elsewhere(values: &mut Values, read: &Read, datum: &mut Datum<'_>) -> Decoded<()> {
    let (Read::Symbol(symbols), Values::Json(pieces)) = (read, values) else {
        return fault("the column has another type than its plan");
    };
    let number = datum.long()?;
    match usize::try_from(number).ok().and_then(|number| symbols.get(number)) {
        Some(symbol) => pieces.push(format!("\"{symbol}\"").as_bytes()),
        None => return fault(format!("an enum has no symbol {number}")),
    }
    Ok(())
}

fn offset(rows: usize) -> Decoded<i32> {
    i32::try_from(rows).or_else(|_| fault("an array has too many items"))
}

fn items(datum: &mut Datum<'_>, mut each: impl FnMut(&mut Datum<'_>) -> Decoded<()>) -> Decoded<()> {
    loop {
        let count = datum.block()?;
        if count == 0 {
            return Ok(());
        }
        for _ in 0..count {
            each(datum)?;
        }
    }
}

fn out_of_range<T>(column: &ColumnBuilder, number: &str) -> Decoded<T> {
    fault(value_message(&column.field, ValueFault::OutOfRange, number.as_bytes()))
}

/// A whole number into a column of whatever kind of number.
#[inline]
fn integer(column: &mut ColumnBuilder, number: i128) -> Decoded<()> {
    match &mut column.values {
        Values::Integer { values, low, high } if number >= (*low).into() && number <= (*high).into() => {
            values.push(number as i64);
        }
        Values::Date(values) if i32::try_from(number).is_ok() => values.push(number as i32),
        Values::Unsigned(values) if u64::try_from(number).is_ok() => values.push(number as u64),
        Values::Real(values) => values.push(number as f32),
        Values::Double(values) => values.push(number as f64),
        Values::Decimal {
            values,
            precision,
            scale,
        } => match rescaled(number, 0, *precision, *scale) {
            Some(number) => values.push(number),
            None => return out_of_range(column, &number.to_string()),
        },
        _ => return out_of_range(column, &number.to_string()),
    }
    Ok(())
}

fn scaled(values: &mut Values, number: i64, by: i64, per: i64) -> Decoded<()> {
    let Some(micros) = number.checked_mul(by).map(|number| number.div_euclid(per)) else {
        return fault(format!("time {number} is out of range"));
    };
    match values {
        Values::Timestamp { values, .. } => values.push(micros),
        Values::Time(values) if (0..MICROS_OF_DAY).contains(&micros) => values.push(micros),
        Values::Time(_) => return fault(format!("time {number} is not within a day")),
        _ => return fault("the column has another type than its plan"),
    }
    Ok(())
}

fn narrowed(column: &mut ColumnBuilder, number: f64) -> Decoded<()> {
    let narrow = number as f32;
    if narrow.is_infinite() && number.is_finite() {
        return out_of_range(column, &number.to_string());
    }
    if let Values::Real(values) = &mut column.values {
        values.push(narrow);
    }
    Ok(())
}

fn decimal(column: &mut ColumnBuilder, bytes: &[u8], scale: i8) -> Decoded<()> {
    let Some(number) = number_of(bytes) else {
        return fault("a decimal has more than 38 digits");
    };
    match &mut column.values {
        Values::Decimal {
            values,
            precision,
            scale: of_column,
        } => match rescaled(number, scale.into(), *precision, *of_column) {
            Some(number) => values.push(number),
            None => {
                let shown = arrow::datatypes::Decimal128Type::format_decimal(number, 38, scale);
                return out_of_range(column, &shown);
            }
        },
        _ => return integer(column, number),
    }
    Ok(())
}

/// Months, days and milliseconds.
fn duration(datum: &mut Datum<'_>) -> Decoded<IntervalMonthDayNano> {
    let mut part = || datum.array().map(u32::from_le_bytes);
    let (months, days, millis) = (part()?, part()?, part()?);
    match (i32::try_from(months), i32::try_from(days)) {
        (Ok(months), Ok(days)) => Ok(IntervalMonthDayNano::new(months, days, i64::from(millis) * 1_000_000)),
        _ => fault("a duration is out of range"),
    }
}

/// Steps over a value.
pub fn skip(schema: &AvroSchema, node: NodeId, datum: &mut Datum<'_>, depth: usize) -> Decoded<()> {
    if depth > DEPTH_MAX {
        return fault(format!("the record is nested more than {DEPTH_MAX} deep"));
    }
    match &schema.node(node).kind {
        Kind::Null => {}
        Kind::Boolean => drop(datum.take(1)?),
        Kind::Int | Kind::Long | Kind::Enum { .. } => drop(datum.long()?),
        Kind::Float => drop(datum.take(4)?),
        Kind::Double => drop(datum.take(8)?),
        Kind::Bytes | Kind::String => drop(datum.sized()?),
        Kind::Fixed { size, .. } => drop(datum.take(*size)?),
        Kind::Record { fields, .. } => {
            for field in fields {
                skip(schema, field.node, datum, depth + 1)?;
            }
        }
        Kind::Array(of_items) => items(datum, |datum| skip(schema, *of_items, datum, depth + 1))?,
        Kind::Map(values) => items(datum, |datum| {
            datum.sized()?;
            skip(schema, *values, datum, depth + 1)
        })?,
        Kind::Union(branches) => {
            let number = datum.long()?;
            match usize::try_from(number).ok().and_then(|number| branches.get(number)) {
                Some(branch) => skip(schema, *branch, datum, depth + 1)?,
                None => return fault(format!("a union has no branch {number}")),
            }
        }
    }
    Ok(())
}

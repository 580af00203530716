//! Messages to columns, in one walk over the bytes.
//!
//! Fields go from the wire into their columns; those that no column wants are stepped over. A message is read in two steps: its
//! fields as they come, in any order and perhaps several times, then what is left open when it ends: defaults, the ends of
//! lists, maps. So a nested message that comes in pieces is put together; of another value given twice the last counts; of
//! the members of a oneof the last one stays; of entries of a map with the same key the last one.
//!
//! A field that comes in another layout than its type has makes the record bad: whoever wrote it had another schema, and the
//! values of other fields would be wrong as well.
//!
//! Not noticed: required fields that no column wants.
//!
//! [`Framing`] says what input is: one message, or messages that each begin with their length. A length that cannot be right
//! leaves no way to find the next message: that is an error rather than a bad record.

use std::ops::Range;

use arrow::array::RecordBatch;
use arrow::datatypes::{IntervalMonthDayNano, SchemaRef};
use prost_reflect::MessageDescriptor;

use crate::engine::connectors::{BadRow, BadRowHandler};
use crate::engine::error::Error;
use crate::engine::formats::columns::{BatchBuilder, ColumnBuilder, StructBuilder, Values};
use crate::engine::formats::protobuf::map_keys;
use crate::engine::formats::protobuf::plan::{FieldPlan, MessagePlan, Target, TargetShape, ValuePlan};
use crate::engine::formats::protobuf::types::{self, Purpose, Scalar};
use crate::engine::formats::protobuf::values::{
    EnumNames, duration_nanos, json_of, push, seconds_and_nanos, timestamp_micros,
};
use crate::engine::formats::protobuf::wire::{Reader, WireFault, WireType, leading_varint};
use crate::engine::formats::{Decoder, Input};
use crate::error::SqlState;

/// A message longer than this is none.
const MESSAGE_MAX: u64 = 256 * 1024 * 1024;
/// Values that the elements of one record's lists and maps may take, so that a small record cannot fill the memory.
const VALUES_MAX: usize = 32 * 1024 * 1024;

/// What input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One message.
    Message,
    /// Messages, each after its length as a varint.
    Delimited,
}

pub struct ProtobufDecoder {
    rows: Rows,
    plan: MessagePlan,
    framing: Framing,
}

/// Rows that messages have become.
pub struct Rows {
    batch: BatchBuilder,
    open: Open,
}

/// Why a record is none.
#[derive(Debug)]
enum Fault {
    Wire(WireFault),
    Value { column: String, message: String },
}

impl From<WireFault> for Fault {
    #[cold]
    fn from(fault: WireFault) -> Fault {
        Fault::Wire(fault)
    }
}

type Decoded<T> = Result<T, Fault>;

#[cold]
fn value_fault<T>(column: &ColumnBuilder, message: String) -> Decoded<T> {
    Err(Fault::Value {
        column: column.field.name().clone(),
        message,
    })
}

impl Rows {
    pub fn new(schema: &SchemaRef) -> Result<Rows, Error> {
        Ok(Rows {
            batch: BatchBuilder::new(schema)?,
            open: Open {
                entries: Vec::new(),
                values: 0,
            },
        })
    }

    /// Has to be told each plan before messages are read by it.
    pub fn prepare(&mut self, plan: &MessagePlan) {
        let maps = self.open.entries.len().max(plan.maps.end);
        self.open.entries.resize(maps, Vec::new());
    }

    pub fn count(&self) -> usize {
        self.batch.rows()
    }

    pub fn take(&mut self) -> Result<RecordBatch, Error> {
        self.batch.take()
    }

    /// One message as a row; or why it is none, and then nothing of it stays.
    pub fn read(&mut self, plan: &MessagePlan, raw: &[u8]) -> Result<(), String> {
        let row = self.batch.rows;
        let mut reader = Reader::new(raw);
        self.open.values = 0;
        let read = message(plan, &mut self.batch.root, row, &mut reader, &mut self.open)
            .and_then(|()| finish(plan, &mut self.batch.root, row, reader, &mut self.open));
        match read {
            Ok(()) => {
                self.batch.rows += 1;
                Ok(())
            }
            Err(fault) => Err(self.undo(fault)),
        }
    }

    #[cold]
    fn undo(&mut self, fault: Fault) -> String {
        self.batch.roll_back();
        self.open.entries.iter_mut().for_each(Vec::clear);
        match fault {
            Fault::Wire(fault) => format!("invalid Protobuf message at byte {}: {}", fault.at + 1, fault.what),
            Fault::Value { column, message } => format!("column \"{column}\": {message}"),
        }
    }
}

impl ProtobufDecoder {
    pub fn new(message: &MessageDescriptor, schema: &SchemaRef, framing: Framing) -> Result<ProtobufDecoder, Error> {
        types::check(message, schema, Purpose::Read)?;
        let plan = MessagePlan::new(message, schema.fields())?;
        let mut rows = Rows::new(schema)?;
        rows.prepare(&plan);
        Ok(ProtobufDecoder { rows, plan, framing })
    }

    /// One message, which is reported when it is bad.
    fn record(&mut self, raw: &[u8], offset: u64, place: &str, bad_rows: &dyn BadRowHandler) -> Result<(), Error> {
        self.rows.read(&self.plan, raw).or_else(|reason| {
            bad_rows.bad_row(BadRow {
                place,
                offset,
                raw,
                reason: &reason,
            })
        })
    }

    fn delimited(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        let mut at = 0;
        while self.rows.count() < rows_max && at < input.bytes.len() {
            let rest = &input.bytes[at..];
            let offset = input.offset + at as u64;
            let prefix = match leading_varint(rest) {
                Some(Ok((length, prefix))) if length <= MESSAGE_MAX => Some((length as usize, prefix)),
                Some(_) => return Err(no_length(input.place, offset)),
                None => None,
            };
            let whole = prefix.filter(|(length, prefix)| *length <= rest.len() - prefix);
            let Some((length, prefix)) = whole else {
                if !input.at_end {
                    break;
                }
                bad_rows.bad_row(BadRow {
                    place: input.place,
                    offset,
                    raw: rest,
                    reason: "the input ends inside of a message",
                })?;
                return Ok(input.bytes.len());
            };
            self.record(&rest[prefix..prefix + length], offset, input.place, bad_rows)?;
            at += prefix + length;
        }
        Ok(at)
    }
}

#[cold]
fn no_length(place: &str, offset: u64) -> Error {
    Error::Data {
        code: SqlState::DATA_CORRUPTED,
        message: format!("what stands at byte {offset} of \"{place}\" is not the length of a Protobuf message"),
        detail: Some("Files hold messages that each begin with their length as a varint. Where the next one begins is not known.".into()),
    }
}

impl Decoder for ProtobufDecoder {
    fn decode(&mut self, input: Input<'_>, rows_max: usize, bad_rows: &dyn BadRowHandler) -> Result<usize, Error> {
        match self.framing {
            Framing::Delimited => self.delimited(input, rows_max, bad_rows),
            Framing::Message => {
                self.record(input.bytes, input.offset, input.place, bad_rows)?;
                Ok(input.bytes.len())
            }
        }
    }

    fn rows(&self) -> usize {
        self.rows.count()
    }

    fn take(&mut self) -> Result<RecordBatch, Error> {
        self.rows.take()
    }
}

/// What is open while a record is read.
struct Open {
    /// Of each map, the places of its entries: which of them count is known at its end.
    entries: Vec<Vec<Range<usize>>>,
    /// Of elements.
    values: usize,
}

impl Open {
    fn count(&mut self, values: usize, reader: &Reader<'_>) -> Decoded<()> {
        self.values += values;
        match self.values > VALUES_MAX {
            true => Ok(reader.fault("it has too many elements")?),
            false => Ok(()),
        }
    }
}

/// The fields of a message into the columns of a struct, at `row`; [`finish`] ends it.
fn message(
    plan: &MessagePlan,
    target: &mut StructBuilder,
    row: usize,
    reader: &mut Reader<'_>,
    open: &mut Open,
) -> Decoded<()> {
    while !reader.is_empty() {
        let (number, layout) = reader.tag()?;
        let Some(field) = plan.find(number) else {
            reader.skip(number, layout)?;
            continue;
        };
        if !field.pushes_out.is_empty() {
            push_out(field, target, row, open);
        }
        match &field.target {
            Some(of) => one_field(of, &mut target.fields[of.column], row, (number, layout), reader, open)?,
            None => reader.skip(number, layout)?,
        }
    }
    Ok(())
}

/// Takes back what other members of the oneof have written.
fn push_out(field: &FieldPlan, target: &mut StructBuilder, row: usize, open: &mut Open) {
    for (column, maps) in &field.pushes_out {
        let column = &mut target.fields[*column];
        if column.rows > row {
            column.truncate(row);
            open.entries[maps.clone()].iter_mut().for_each(Vec::clear);
        }
    }
}

#[inline(always)]
fn one_field(
    of: &Target,
    column: &mut ColumnBuilder,
    row: usize,
    tag: (u32, WireType),
    reader: &mut Reader<'_>,
    open: &mut Open,
) -> Decoded<()> {
    match &of.shape {
        TargetShape::One(ValuePlan::Scalar(scalar)) => scalar_value(*scalar, column, row, tag.1, reader),
        TargetShape::One(ValuePlan::Message(plan)) => {
            let part = part(tag, reader)?;
            // Pieces of the same message are put together.
            if column.rows <= row {
                column.align(row);
                column.wrote();
            }
            match &mut column.values {
                Values::Struct(inside) => message(plan, inside, row, &mut reader.of(part), open),
                _ => Ok(()),
            }
        }
        TargetShape::One(plan) => value(plan, column, row, tag, reader, open),
        TargetShape::Repeated(plan) => {
            column.align(row);
            match &mut column.values {
                Values::List { element, .. } => elements(plan, element, tag, reader, open),
                _ => Ok(()),
            }
        }
        TargetShape::Map { map, value, .. } => {
            open.count(2 + value.width(), reader)?;
            let part = part(tag, reader)?;
            open.entries[*map].push(part);
            Ok(())
        }
    }
}

#[inline(always)]
fn scalar_value(
    scalar: Scalar,
    column: &mut ColumnBuilder,
    row: usize,
    layout: WireType,
    reader: &mut Reader<'_>,
) -> Decoded<()> {
    expect(layout, scalar.layout(), reader)?;
    let raw = scalar.read(reader)?;
    column.align(row);
    push(column, raw, None).or_else(|message| value_fault(column, message))
}

#[inline(always)]
fn expect(found: WireType, wanted: WireType, reader: &Reader<'_>) -> Decoded<()> {
    match found == wanted {
        true => Ok(()),
        false => Ok(reader.fault("a field in another layout than its type has")?),
    }
}

/// The place of a nested message.
fn part((number, layout): (u32, WireType), reader: &mut Reader<'_>) -> Decoded<Range<usize>> {
    match layout {
        WireType::Length | WireType::Group => Ok(reader.part(number, layout)?),
        _ => Ok(reader.fault("a field in another layout than its type has")?),
    }
}

/// Elements of a list: one, or a run of numbers.
fn elements(
    plan: &ValuePlan,
    element: &mut ColumnBuilder,
    tag: (u32, WireType),
    reader: &mut Reader<'_>,
    open: &mut Open,
) -> Decoded<()> {
    let scalar = match plan {
        ValuePlan::Scalar(scalar) => *scalar,
        ValuePlan::Enum(_) => Scalar::Int32,
        _ => Scalar::Bytes,
    };
    if tag.1 != WireType::Length || scalar.layout() == WireType::Length {
        open.count(1 + plan.width(), reader)?;
        return value(plan, element, element.rows, tag, reader, open);
    }
    let run = reader.part(tag.0, WireType::Length)?;
    let mut packed = reader.of(run);
    while !packed.is_empty() {
        open.count(1, &packed)?;
        value(plan, element, element.rows, (tag.0, scalar.layout()), &mut packed, open)?;
    }
    Ok(())
}

/// One value into a column, at `row`, whole.
fn value(
    plan: &ValuePlan,
    column: &mut ColumnBuilder,
    row: usize,
    tag: (u32, WireType),
    reader: &mut Reader<'_>,
    open: &mut Open,
) -> Decoded<()> {
    match plan {
        ValuePlan::Scalar(scalar) => scalar_value(*scalar, column, row, tag.1, reader),
        ValuePlan::Enum(names) => {
            column.align(row);
            expect(tag.1, WireType::Varint, reader)?;
            let raw = Scalar::Int32.read(reader)?;
            push(column, raw, Some(names)).or_else(|message| value_fault(column, message))
        }
        of => {
            column.align(row);
            let part = part(tag, reader)?;
            nested(of, column, row, reader.of(part), open)
        }
    }
}

/// A message that is one value, into a column that ends at `row`.
fn nested(
    plan: &ValuePlan,
    column: &mut ColumnBuilder,
    row: usize,
    mut reader: Reader<'_>,
    open: &mut Open,
) -> Decoded<()> {
    match plan {
        ValuePlan::Timestamp => {
            let (seconds, nanos) = seconds_and_nanos(reader)?;
            match (timestamp_micros(seconds, nanos), &mut column.values) {
                (Some(micros), Values::Timestamp { values, .. }) => values.push(micros),
                _ => return value_fault(column, format!("timestamp out of range: {seconds} s {nanos} ns")),
            }
        }
        ValuePlan::Duration => {
            let (seconds, nanos) = seconds_and_nanos(reader)?;
            match (duration_nanos(seconds, nanos), &mut column.values) {
                (Some(nanos), Values::Interval(values)) => values.push(IntervalMonthDayNano::new(0, 0, nanos)),
                _ => return value_fault(column, format!("interval out of range: {seconds} s {nanos} ns")),
            }
        }
        ValuePlan::Wrapper(scalar) => {
            let mut raw = scalar.default_value();
            while !reader.is_empty() {
                match reader.tag()? {
                    (1, layout) => {
                        expect(layout, scalar.layout(), &reader)?;
                        raw = scalar.read(&mut reader)?;
                    }
                    (number, layout) => reader.skip(number, layout)?,
                }
            }
            return push(column, raw, None).or_else(|message| value_fault(column, message));
        }
        ValuePlan::Known(known) => {
            let read = known.read(reader, &mut column.values)?;
            read.or_else(|message| value_fault(column, message))?;
        }
        ValuePlan::Json(message) => {
            let text = json_of(message, &reader.bytes[reader.at..reader.end])
                .or_else(|message| value_fault(column, message))?;
            if let Values::Json(pieces) = &mut column.values {
                pieces.push(text.as_bytes());
            }
        }
        ValuePlan::Message(plan) => {
            if let Values::Struct(inside) = &mut column.values {
                message(plan, inside, row, &mut reader, open)?;
                finish(plan, inside, row, reader, open)?;
            }
        }
        ValuePlan::Scalar(_) | ValuePlan::Enum(_) => {}
    }
    column.wrote();
    Ok(())
}

/// Ends a message: what did not come, and what could have gone on. `record` is what its parts are places in.
fn finish(
    plan: &MessagePlan,
    target: &mut StructBuilder,
    row: usize,
    record: Reader<'_>,
    open: &mut Open,
) -> Decoded<()> {
    for (column, &field) in target.fields.iter_mut().zip(&plan.of_columns) {
        let Some(of) = &plan.fields[field].target else { continue };
        match &of.shape {
            TargetShape::One(value) if column.rows <= row => absent(of, value, column, row)?,
            TargetShape::One(ValuePlan::Message(plan)) => {
                if let Values::Struct(inside) = &mut column.values {
                    finish(plan, inside, row, record, open)?;
                }
            }
            TargetShape::One(_) => {}
            TargetShape::Repeated(_) => {
                column.align(row);
                if let Values::List { offsets, element } = &mut column.values {
                    offsets.push(element.rows as i32);
                }
                column.wrote();
            }
            TargetShape::Map { map, key, value } => {
                column.align(row);
                let places = std::mem::take(&mut open.entries[*map]);
                if let Values::Map {
                    offsets,
                    key: keys,
                    value: values,
                } = &mut column.values
                {
                    for place in map_keys::last_of_each(&places, *key, record)? {
                        entry((*key, keys), (value, values), record.of(place), open)?;
                    }
                    offsets.push(keys.rows as i32);
                }
                column.wrote();
                let mut places = places;
                places.clear();
                open.entries[*map] = places;
            }
        }
    }
    Ok(())
}

/// A value that did not come.
#[inline(always)]
fn absent(of: &Target, value: &ValuePlan, column: &mut ColumnBuilder, row: usize) -> Decoded<()> {
    if of.has_default {
        return default(value, column, row);
    }
    match column.field.is_nullable() {
        true => Ok(()),
        false => value_fault(column, "null value in a column that is NOT NULL".into()),
    }
}

fn default(value: &ValuePlan, column: &mut ColumnBuilder, row: usize) -> Decoded<()> {
    column.align(row);
    let (scalar, names): (Scalar, Option<&EnumNames>) = match value {
        ValuePlan::Scalar(scalar) => (*scalar, None),
        ValuePlan::Enum(names) => (Scalar::Int32, Some(names)),
        // Only messages are left, which have presence.
        _ => return Ok(()),
    };
    push(column, scalar.default_value(), names).or_else(|message| value_fault(column, message))
}

/// One entry of a map, in which both key and value may be left out.
fn entry(
    (key, keys): (Scalar, &mut ColumnBuilder),
    (plan, values): (&ValuePlan, &mut ColumnBuilder),
    mut reader: Reader<'_>,
    open: &mut Open,
) -> Decoded<()> {
    let row = keys.rows;
    let whole = reader;
    let mut raw = key.default_value();
    while !reader.is_empty() {
        match reader.tag()? {
            (1, layout) => {
                expect(layout, key.layout(), &reader)?;
                raw = key.read(&mut reader)?;
            }
            (2, layout) => value(plan, values, row, (2, layout), &mut reader, open)?,
            (number, layout) => reader.skip(number, layout)?,
        }
    }
    push(keys, raw, None).or_else(|message| value_fault(keys, message))?;
    if values.rows > row {
        return Ok(());
    }
    match plan {
        ValuePlan::Scalar(_) | ValuePlan::Enum(_) => default(plan, values, row),
        _ => {
            // An absent message is one without fields.
            values.align(row);
            nested(plan, values, row, whole.of(whole.end..whole.end), open)
        }
    }
}

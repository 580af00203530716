//! Change records to rows that come (+1) and go (-1).
//!
//! A line is walked once to find `op`, `before` and `after`, which Debezium writes in no useful order, then the images that
//! count are decoded as records of JSON are. `null`, and an envelope whose `payload` is null, is what Kafka calls a
//! tombstone: it says nothing that the `d` before it did not say.
//!
//! With a key, rows replace each other by it (see `upsert_normalise`): of `before` only the key is read, which is all that
//! databases give by default, and an update may come without. Without a key a row goes as it came, so `u` and `d` must have
//! every column in `before`.
//!
//! Not noticed: a `before` without key whose columns are there, but NULL because the database did not log them.

use arrow::datatypes::SchemaRef;

use crate::engine::connectors::keyed_schema;
use crate::engine::error::Error;
use crate::engine::formats::columns::{BatchBuilder, StructBuilder};
use crate::engine::formats::debezium::change::{self, Operation};
use crate::engine::formats::json::decode::{
    JsonDecodeOptions, Line, LineDecoder, field_column, missing, object, value,
};
use crate::engine::formats::json::parser::{Fault, Parsed, Parser, syntax};
use crate::engine::formats::json::shape::SKIP;
use crate::engine::formats::{Decoder, with_key};
use crate::engine::message::Weights;

/// A decoder of change records with images of `schema`, which replace each other by the columns `key`.
pub fn decoder(
    schema: &SchemaRef,
    key: Option<&[usize]>,
    options: JsonDecodeOptions,
) -> Result<impl Decoder + use<>, Error> {
    let batch = BatchBuilder::shown_as(&with_key(schema, key), &keyed_schema(schema, key))?;
    let line = ChangeLine {
        in_key: key.map(|key| (0..schema.fields().len()).map(|at| key.contains(&at)).collect()),
        weights: Vec::new(),
    };
    Ok(LineDecoder::of_lines(line, batch, options))
}

struct ChangeLine {
    /// Of each column, whether it is part of the key.
    in_key: Option<Vec<bool>>,
    /// Of the complete rows.
    weights: Vec<i64>,
}

/// Where in the line what stands.
#[derive(Default)]
struct Envelope<'a> {
    before: Option<usize>,
    after: Option<usize>,
    /// The operation as it is written, with its quotes.
    op: Option<&'a [u8]>,
    /// There is a `payload`, which is null.
    is_tombstone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Before,
    After,
    Op,
    Payload,
    Other,
}

impl Part {
    fn named(name: &[u8], depth: usize) -> Part {
        match name {
            b"before" => Part::Before,
            b"after" => Part::After,
            b"op" => Part::Op,
            b"payload" if depth == 0 => Part::Payload,
            _ => Part::Other,
        }
    }
}

impl Line for ChangeLine {
    fn read(&mut self, parser: &mut Parser<'_>, batch: &mut BatchBuilder, options: &JsonDecodeOptions) -> Parsed<()> {
        let envelope = envelope(parser)?;
        parser.skip_blanks();
        if parser.peek() != b'\n' {
            return syntax(parser.at, "text after the record");
        }
        let end = parser.at + 1;
        if !envelope.is_tombstone {
            self.images(&envelope, parser, batch, options)?;
        }
        parser.at = end;
        Ok(())
    }

    fn take_weights(&mut self) -> Weights {
        change::weights(std::mem::take(&mut self.weights))
    }
}

impl ChangeLine {
    /// Decodes the images that the operation is about.
    fn images(
        &mut self,
        envelope: &Envelope<'_>,
        parser: &mut Parser<'_>,
        batch: &mut BatchBuilder,
        options: &JsonDecodeOptions,
    ) -> Parsed<()> {
        let first = batch.rows;
        let mut row = first;
        let operation = Operation::read(envelope.op).or_else(|reason| refused(&reason))?;
        if operation != Operation::Create {
            let may_lack = operation == Operation::Update && self.in_key.is_some();
            row += usize::from(self.before(envelope, may_lack, parser, batch, options)?);
        }
        let gone = row - first;
        if operation != Operation::Delete {
            let Some(after) = envelope.after else {
                return refused(change::NO_AFTER);
            };
            parser.at = after;
            object(parser, &mut batch.root, row, 1, options)?;
            row += 1;
        }
        self.weights.extend(std::iter::repeat_n(-1, gone));
        self.weights.extend(std::iter::repeat_n(1, row - first - gone));
        batch.rows = row;
        Ok(())
    }

    /// Whether there is a row that goes. Where it `may_lack`, one without a key is none.
    fn before(
        &self,
        envelope: &Envelope<'_>,
        may_lack: bool,
        parser: &mut Parser<'_>,
        batch: &mut BatchBuilder,
        options: &JsonDecodeOptions,
    ) -> Parsed<bool> {
        let row = batch.rows;
        let Some(before) = envelope.before else {
            return match (may_lack, &self.in_key) {
                (true, _) => Ok(false),
                (false, Some(_)) => refused(change::NO_BEFORE_KEYED),
                (false, None) => refused(change::NO_BEFORE),
            };
        };
        parser.at = before;
        let Some(in_key) = &self.in_key else {
            object(parser, &mut batch.root, row, 1, options)?;
            return whole(&batch.root, row).map(|()| true);
        };
        match key(parser, &mut batch.root, in_key, row, options) {
            Ok(()) => Ok(true),
            Err(fault) if may_lack && matches!(*fault, Fault::Value { .. }) => {
                batch.roll_back();
                Ok(false)
            }
            Err(fault) => Err(fault),
        }
    }
}

/// Finds the parts of a change record, stepping over them.
fn envelope<'a>(parser: &mut Parser<'a>) -> Parsed<Envelope<'a>> {
    let mut found = Envelope::default();
    match parser.peek() {
        b'n' => {
            parser.expect_literal(b"null")?;
            found.is_tombstone = true;
        }
        b'{' => members(parser, 0, &mut found)?,
        _ => return syntax(parser.at, "expected an object"),
    }
    Ok(found)
}

fn members<'a>(parser: &mut Parser<'a>, depth: usize, found: &mut Envelope<'a>) -> Parsed<()> {
    parser.enter(depth)?;
    if parser.closes(b'}') {
        return Ok(());
    }
    loop {
        let name = parser.field_name()?;
        let part = Part::named(parser.token_bytes(name), depth);
        let start = parser.at;
        let image = (parser.peek() != b'n').then_some(start);
        if part == Part::Payload && parser.peek() == b'{' {
            members(parser, depth + 1, found)?;
        } else {
            parser.skip_value(depth + 1)?;
        }
        match part {
            Part::Before => found.before = image,
            Part::After => found.after = image,
            Part::Op => found.op = Some(parser.slice(start, parser.at)),
            Part::Payload => found.is_tombstone = image.is_none(),
            Part::Other => {}
        }
        if !parser.another(b'}')? {
            return Ok(());
        }
    }
}

/// The key of an image; its other fields are stepped over.
fn key(
    parser: &mut Parser<'_>,
    target: &mut StructBuilder,
    in_key: &[bool],
    row: usize,
    options: &JsonDecodeOptions,
) -> Parsed<()> {
    if parser.peek() != b'{' {
        return syntax(parser.at, "expected an object");
    }
    parser.enter(1)?;
    if !parser.closes(b'}') {
        let mut position = 0;
        loop {
            let column;
            (column, position) = field_column(parser, target, position)?;
            if column == SKIP || !in_key[column] {
                parser.skip_value(2)?;
            } else {
                value(parser, &mut target.fields[column], row, 2, options)?;
            }
            if !parser.another(b'}')? {
                break;
            }
        }
    }
    let absent = |(column, in_key): (usize, &bool)| *in_key && target.fields[column].rows <= row;
    match in_key.iter().enumerate().position(absent) {
        Some(column) => missing(&target.fields[column]),
        None => Ok(()),
    }
}

/// Every column was in the image.
fn whole(image: &StructBuilder, row: usize) -> Parsed<()> {
    match image.fields.iter().find(|column| column.rows <= row) {
        Some(column) => Err(Box::new(Fault::Value {
            column: column.field.name().clone(),
            message: change::NOT_IN_BEFORE.into(),
        })),
        None => Ok(()),
    }
}

#[cold]
fn refused<T>(message: &str) -> Parsed<T> {
    Err(Box::new(Fault::Record {
        message: message.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::engine::connectors::testing::KeptBadRows;
    use crate::engine::formats::Input;
    use crate::engine::formats::json::encode::row_text;
    use crate::engine::message::Chunk;

    /// `id` NOT NULL, `n` NOT NULL, `t`.
    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("n", DataType::Int64, false),
            Field::new("t", DataType::Utf8, true),
        ]))
    }

    /// Rows with their signs, and the reasons of what was refused.
    fn decoded(key: Option<&[usize]>, lines: &str) -> (Vec<String>, Vec<String>) {
        let mut decoder = decoder(&schema(), key, JsonDecodeOptions::default()).unwrap();
        let bad = KeptBadRows::default();
        let input = Input {
            bytes: lines.as_bytes(),
            offset: 0,
            place: "test",
            at_end: true,
        };
        assert_eq!(decoder.decode(input, 1000, &bad).unwrap(), lines.len());
        let (rows, weights) = decoder.take_changes().unwrap();
        let chunk = Chunk {
            weights,
            ..Chunk::insert(rows)
        };
        let text = |row| format!("{:+} {}", chunk.weight(row), row_text(&chunk, row).unwrap());
        ((0..chunk.len()).map(text).collect(), bad.reasons())
    }

    const UPDATE: &str = r#"{"before":{"id":1,"n":2,"t":null},"after":{"id":1,"n":3,"t":"x"},"op":"u","ts_ms":5}"#;

    #[test]
    fn operations_become_signs() {
        let lines = [
            r#"{"op":"r","after":{"t":"a","n":1,"id":1},"source":{"db":{"op":"d"}}}"#,
            r#"{"schema":{"before":1},"payload":{"before":null,"after":{"id":2,"n":2},"op":"c"}}"#,
            UPDATE,
            r#"{"before":{"id":2,"n":2,"t":null},"after":null,"op":"d"}"#,
            "null",
            r#"{"schema":null,"payload":null}"#,
        ]
        .join("\n");
        let (rows, bad) = decoded(None, &lines);
        let expected = [
            r#"+1 {"id":1,"n":1,"t":"a"}"#,
            r#"+1 {"id":2,"n":2,"t":null}"#,
            r#"-1 {"id":1,"n":2,"t":null}"#,
            r#"+1 {"id":1,"n":3,"t":"x"}"#,
            r#"-1 {"id":2,"n":2,"t":null}"#,
        ];
        assert_eq!((rows, bad), (expected.map(str::to_owned).to_vec(), Vec::new()));
    }

    #[test]
    fn with_a_key_nothing_else_of_before_counts() {
        let lines = [
            UPDATE,
            r#"{"before":null,"after":{"id":1,"n":4},"op":"u"}"#,
            r#"{"before":{"n":null},"after":{"id":1,"n":5},"op":"u"}"#,
            r#"{"before":{"id":1,"n":null,"t":null},"after":null,"op":"d"}"#,
            r#"{"before":{"id":2,"n":{}},"op":"d"}"#,
        ]
        .join("\n");
        let (rows, bad) = decoded(Some(&[0]), &lines);
        let expected = [
            r#"-1 {"id":1,"n":null,"t":null}"#,
            r#"+1 {"id":1,"n":3,"t":"x"}"#,
            r#"+1 {"id":1,"n":4,"t":null}"#,
            r#"+1 {"id":1,"n":5,"t":null}"#,
            r#"-1 {"id":1,"n":null,"t":null}"#,
            r#"-1 {"id":2,"n":null,"t":null}"#,
        ];
        assert_eq!((rows, bad), (expected.map(str::to_owned).to_vec(), Vec::new()));
    }

    #[test]
    fn what_is_no_change_is_refused_and_leaves_nothing() {
        let refused = |key: Option<&[usize]>, line: &str| {
            let around = r#"{"after":{"id":7,"n":7},"op":"c"}"#;
            let (rows, bad) = decoded(key, &format!("{around}\n{line}\n{around}\n"));
            assert_eq!(rows, [r#"+1 {"id":7,"n":7,"t":null}"#; 2], "{line}");
            assert_eq!(bad.len(), 1, "{line}");
            bad[0].clone()
        };
        let key: Option<&[usize]> = Some(&[0]);
        for (line, reason) in [
            (r#"{"id":1}"#, "the record has no \"op\": it is no change record"),
            (r#"{"op":"x"}"#, "unknown \"op\" \"x\" in a change record"),
            (r#"{"op":"t"}"#, "TRUNCATE (\"op\": \"t\") does not say which rows go"),
            (r#"{"op":"c","after":null}"#, "the change record has no \"after\""),
            (
                r#"{"op":"d","before":null}"#,
                "the change record has no \"before\": which row goes is not known",
            ),
            (
                r#"{"op":"d","before":{"n":1}}"#,
                "column \"id\": null value in a column that is NOT NULL",
            ),
            (
                r#"{"op":"c","after":{"id":1}}"#,
                "column \"n\": null value in a column that is NOT NULL",
            ),
            (
                r#"{"op":"c","after":{"id":1,"n":"x"}}"#,
                "column \"n\": invalid input syntax for type bigint: \"x\"",
            ),
        ] {
            assert_eq!(refused(key, line), reason, "{line}");
        }
        assert!(refused(None, r#"{"op":"u","before":null,"after":{"id":1,"n":2}}"#).contains("REPLICA IDENTITY FULL"));
        assert!(
            refused(None, r#"{"op":"d","before":{"id":1,"n":2}}"#).starts_with("column \"t\": is not in \"before\"")
        );
        assert!(refused(key, r#"{"op":"c","after":{"id":1,"n":2}} 1"#).starts_with("invalid JSON"));
        assert!(refused(key, "[]").starts_with("invalid JSON"));
        // The image before the broken one is gone as well.
        assert!(refused(key, r#"{"op":"u","before":{"id":1},"after":{"id":1}}"#).starts_with("column \"n\""));
    }
}

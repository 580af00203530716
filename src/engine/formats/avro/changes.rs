//! Debezium's change records in Avro: a record with `before`, `after` and `op`, as in JSON ([`crate::engine::formats::debezium`]).
//!
//! A record is walked once to find these, which come before the operation that says what they mean, then the images that count are read.

use arrow::datatypes::Fields;

use crate::engine::formats::avro::plan::{FieldStep, RecordPlan, position};
use crate::engine::formats::avro::read::{Datum, Decoded, fault, record, skip};
use crate::engine::formats::avro::schema::{AvroSchema, Kind, NodeId, Optional};
use crate::engine::formats::columns::BatchBuilder;
use crate::engine::formats::debezium::change::{self, Operation};
use crate::engine::message::Weights;

/// Rows that come and go, as far as they were decoded.
pub struct Changes {
    /// Of each column, whether it is part of the key.
    in_key: Option<Vec<bool>>,
    weights: Vec<i64>,
}

/// How envelopes of one schema are read.
pub struct ChangePlan {
    fields: Vec<(NodeId, Part)>,
    before: Image,
    after: Image,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Before,
    After,
    Operation,
    Other,
}

struct Image {
    optional: Optional,
    node: NodeId,
    plan: RecordPlan,
    /// The columns that are not in it; the first is named.
    absent: Option<String>,
}

impl Image {
    fn is_null(&self, branch: i64) -> bool {
        matches!(self.optional, Optional::NullIs(of_null) if of_null == branch)
    }
}

impl ChangePlan {
    pub fn new(schema: &AvroSchema, columns: &Fields, changes: &Changes) -> Result<ChangePlan, String> {
        let (name, fields) = schema.record()?;
        let no_envelope =
            |what: &str| format!("record {name} is no change record: it has no field \"{what}\" as Debezium writes it");
        let node = |what: &str| {
            let found = fields.iter().find(|field| field.name == what);
            found.map(|field| field.node).ok_or_else(|| no_envelope(what))
        };
        if schema.node(node("op")?).kind != Kind::String {
            return Err(no_envelope("op"));
        }
        let image = |what: &str| {
            let (of_row, optional) = schema.optional(node(what)?)?;
            let Kind::Record { fields, .. } = &schema.node(of_row).kind else {
                return Err(no_envelope(what));
            };
            let absent = columns.iter().find(|column| position(fields, column.name()).is_none());
            let mut plan = RecordPlan::new(schema, fields, columns)?;
            if let (Some(in_key), "before") = (&changes.in_key, what) {
                for (step, field) in plan.steps.iter_mut().zip(fields) {
                    if matches!(step, FieldStep::Read(column, _) if !in_key[*column]) {
                        *step = FieldStep::Skip(field.node);
                    }
                }
                let of_key = columns.iter().zip(in_key).filter(|(_, in_key)| **in_key);
                let missing = of_key
                    .map(|(column, _)| column)
                    .find(|column| position(fields, column.name()).is_none());
                plan.missing = missing.map(|column| column.name().clone());
            }
            Ok(Image {
                optional,
                node: of_row,
                plan,
                absent: absent.map(|column| column.name().clone()),
            })
        };
        let part = |name: &str| match name {
            "before" => Part::Before,
            "after" => Part::After,
            "op" => Part::Operation,
            _ => Part::Other,
        };
        Ok(ChangePlan {
            before: image("before")?,
            after: image("after")?,
            fields: fields.iter().map(|field| (field.node, part(&field.name))).collect(),
        })
    }
}

impl Changes {
    pub fn new(columns: usize, key: Option<&[usize]>) -> Changes {
        Changes {
            in_key: key.map(|key| (0..columns).map(|at| key.contains(&at)).collect()),
            weights: Vec::new(),
        }
    }

    pub fn take_weights(&mut self) -> Weights {
        change::weights(std::mem::take(&mut self.weights))
    }

    pub fn roll_back(&mut self, rows: usize) {
        self.weights.truncate(rows);
    }

    /// Reads a change record; gives how many rows it is.
    pub fn read(
        &mut self,
        schema: &AvroSchema,
        plan: &ChangePlan,
        datum: &mut Datum<'_>,
        batch: &mut BatchBuilder,
    ) -> Decoded<usize> {
        let (mut before, mut after, mut operation) = (None, None, None);
        for (node, part) in &plan.fields {
            match part {
                Part::Before => before = image(schema, &plan.before, datum)?,
                Part::After => after = image(schema, &plan.after, datum)?,
                Part::Operation => operation = Some(datum.sized()?),
                Part::Other => skip(schema, *node, datum, 0)?,
            }
        }
        let quoted = operation.map(|op| [b"\"", op, b"\""].concat());
        let operation = Operation::read(quoted.as_deref()).or_else(fault)?;
        let first = batch.rows;
        let mut row = first;
        if operation != Operation::Create && self.goes(schema, plan, before, operation, batch)? {
            row += 1;
            self.weights.push(-1);
        }
        if operation != Operation::Delete {
            let Some(mut after) = after else {
                return fault(change::NO_AFTER);
            };
            record(schema, &plan.after.plan, &mut after, &mut batch.root, row)?;
            row += 1;
            self.weights.push(1);
        }
        Ok(row - first)
    }

    /// Reads the row that goes; false when the key alone will do to tell.
    fn goes(
        &self,
        schema: &AvroSchema,
        plan: &ChangePlan,
        before: Option<Datum<'_>>,
        operation: Operation,
        batch: &mut BatchBuilder,
    ) -> Decoded<bool> {
        let may_lack = operation == Operation::Update && self.in_key.is_some();
        let Some(mut before) = before else {
            return match (may_lack, &self.in_key) {
                (true, _) => Ok(false),
                (false, Some(_)) => fault(change::NO_BEFORE_KEYED),
                (false, None) => fault(change::NO_BEFORE),
            };
        };
        if let (None, Some(absent)) = (&self.in_key, &plan.before.absent) {
            return fault(format!("column \"{absent}\": {}", change::NOT_IN_BEFORE));
        }
        let row = batch.rows;
        match record(schema, &plan.before.plan, &mut before, &mut batch.root, row) {
            Ok(()) => Ok(true),
            Err(_) if may_lack => {
                batch.roll_back();
                Ok(false)
            }
            Err(fault) => Err(fault),
        }
    }
}

/// Steps over an image; where it begins, if it is not null.
fn image<'a>(schema: &AvroSchema, image: &Image, datum: &mut Datum<'a>) -> Decoded<Option<Datum<'a>>> {
    if image.optional != Optional::Plain {
        let branch = datum.long()?;
        if image.is_null(branch) {
            return Ok(None);
        }
        if !(0..2).contains(&branch) {
            return fault(format!("a union has no branch {branch}"));
        }
    }
    let start = *datum;
    skip(schema, image.node, datum, 0)?;
    Ok(Some(start))
}

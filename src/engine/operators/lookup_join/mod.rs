//! Lookup join: puts the rows that a system outside has for a key beside each row of a stream, as they are when they are asked for.
//!
//! A chunk whose keys are not all known waits until they are answered; chunks and watermarks behind it queue up, so that all
//! come out in the order they came in. The driver holds back barriers and the end of input meanwhile, so there is nothing to save:
//! a restart asks again for the rows since the last checkpoint.
//!
//! Guarantees: order is kept; a key that several waiting rows need is asked for once; few chunks wait at a time.
//! Not guaranteed: that two rows of one key see the same version of the table, or that a row sees the same one after a restart.

mod answers;
mod questions;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array,
};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use crate::engine::connectors::lookup::{LookupAnswer, LookupContext};
use crate::engine::error::Error;
use crate::engine::graph::StreamShape;
use crate::engine::lookup_join_spec::LookupJoinSpec;
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, Result, StateSize, Waits};
use crate::engine::operators::BuildContext;
use crate::engine::operators::columns::{batch_of, evaluate, take_buffer, take_columns};
use crate::engine::operators::lookup_join::answers::{Answers, NONE, Wanted, interleaved};
use crate::engine::operators::lookup_join::questions::Questions;

/// Chunks that may wait for answers at a time.
const WAITING_MAX: usize = 4;

pub(crate) struct LookupJoin {
    spec: LookupJoinSpec,
    output: SchemaRef,
    /// The table's side of the output; any column may be NULL.
    side: SchemaRef,
    /// One row of NULLs: the partner of rows that have none.
    nothing: RecordBatch,
    answers: Answers,
    questions: Questions,
    waiting: VecDeque<Waiting>,
    chunks_waiting: usize,
}

enum Waiting {
    Rows(Box<(Chunk, Wanted)>),
    Watermark(Watermark),
}

/// Rows of a chunk and their partners: a batch and a row in it, or none.
#[derive(Default)]
struct Pairs {
    rows: Vec<u32>,
    partners: Vec<Option<(u32, u32)>>,
}

impl Pairs {
    fn push(&mut self, row: u32, partner: Option<(u32, u32)>) {
        self.rows.push(row);
        self.partners.push(partner);
    }
}

impl LookupJoin {
    pub fn new(spec: &LookupJoinSpec, output: &StreamShape, context: &BuildContext) -> Result<LookupJoin> {
        let Some(outside) = context.outside.clone() else {
            return Err(Error::Internal("a lookup join has nothing to ask with".into()));
        };
        let bad_data = spec.table.common().bad_data;
        let clock = Arc::clone(&context.clock);
        let lookup = spec.table.open_lookup(LookupContext {
            table_name: spec.table_name.clone(),
            key: Arc::clone(&spec.key),
            columns: Arc::clone(&spec.columns),
            bad_rows: context.dead_letters.handler(&spec.table_name, bad_data, clock),
            clock: Arc::clone(&context.clock),
        })?;
        let side = side_schema(spec, &output.schema);
        let nothing: Vec<ArrayRef> = side
            .fields()
            .iter()
            .map(|field| new_null_array(field.data_type(), 1))
            .collect();
        let one = RecordBatchOptions::new().with_row_count(Some(1));
        let key_types: Vec<_> = spec
            .key
            .fields()
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        Ok(LookupJoin {
            nothing: RecordBatch::try_new_with_options(Arc::clone(&side), nothing, &one)?,
            side,
            answers: Answers::new(&key_types, &spec.options)?,
            questions: Questions::new(lookup, outside, &spec.table_name, spec.options.timeout),
            output: Arc::clone(&output.schema),
            spec: spec.clone(),
            waiting: VecDeque::new(),
            chunks_waiting: 0,
        })
    }

    fn ask(&mut self, missing: &[u32]) -> Result<()> {
        if missing.is_empty() {
            return Ok(());
        }
        let columns = self.answers.key_columns(missing);
        let keys = batch_of(&self.spec.key, columns, missing.len())?;
        self.questions.ask(missing.to_vec(), keys);
        Ok(())
    }

    fn take_replies(&mut self) -> Result<()> {
        for reply in self.questions.take_replies() {
            let answer = self.shaped(reply.outcome?)?;
            self.answers.answer(&reply.asked, answer, Instant::now())?;
        }
        Ok(())
    }

    /// The rows that count, in the shape they have in the output.
    fn shaped(&self, answer: LookupAnswer) -> Result<LookupAnswer> {
        let LookupAnswer { mut rows, mut keys } = answer;
        if let Some(filter) = &self.spec.filter {
            let mask = boolean(filter, &rows)?;
            let mut kept = mask.iter();
            keys.retain(|_| kept.next().flatten() == Some(true));
            rows = filter_record_batch(&rows, &mask)?;
        }
        let columns = self
            .spec
            .projection
            .iter()
            .map(|expression| evaluate(expression, &rows))
            .collect::<Result<Vec<_>>>()?;
        Ok(LookupAnswer {
            rows: batch_of(&self.side, columns, rows.num_rows())?,
            keys,
        })
    }

    /// Puts out what need not wait any more.
    fn advance(&mut self, output: &mut Output) -> Result<()> {
        while let Some(first) = self.waiting.front() {
            match first {
                Waiting::Rows(parked) if !self.answers.are_answered(&parked.1.distinct) => return Ok(()),
                Waiting::Rows(parked) => {
                    self.join(&parked.0, &parked.1, output)?;
                }
                Waiting::Watermark(watermark) => output.watermark(*watermark),
            }
            if let Some(Waiting::Rows(parked)) = self.waiting.pop_front() {
                self.chunks_waiting -= 1;
                self.answers.unpin(&parked.1.distinct)?;
            }
        }
        Ok(())
    }

    fn join(&self, chunk: &Chunk, wanted: &Wanted, output: &mut Output) -> Result<()> {
        let mut pairs = Pairs::default();
        for (row, &key) in wanted.of_rows.iter().enumerate() {
            let row = row as u32;
            let range = (key != NONE)
                .then(|| self.answers.range(key))
                .filter(|range| range.rows > 0);
            match range {
                Some(range) => (range.start..range.start + range.rows)
                    .for_each(|partner| pairs.push(row, Some((range.batch, partner)))),
                None if self.spec.left => pairs.push(row, None),
                None => {}
            }
            if pairs.rows.len() >= CHUNK_ROWS_TARGET {
                self.put_out(chunk, std::mem::take(&mut pairs), output)?;
            }
        }
        self.put_out(chunk, pairs, output)
    }

    /// All pairs of some rows of the chunk.
    fn put_out(&self, chunk: &Chunk, mut pairs: Pairs, output: &mut Output) -> Result<()> {
        let mut rows = self.rows_of(chunk, &pairs)?;
        if let Some(residual) = &self.spec.residual {
            let fits = boolean(residual, &rows)?;
            let fits = |pair: usize| pairs.partners[pair].is_none() || (fits.is_valid(pair) && fits.value(pair));
            pairs = fitting(&pairs, fits, self.spec.left);
            rows = self.rows_of(chunk, &pairs)?;
        }
        let indices = UInt32Array::from(pairs.rows);
        output.data(Chunk {
            rows,
            weights: Weights::AllInsert,
            event_time: chunk.event_time.as_ref().map(|times| take_buffer(times, &indices)),
            key_hashes: None,
        });
        Ok(())
    }

    fn rows_of(&self, chunk: &Chunk, pairs: &Pairs) -> Result<RecordBatch> {
        let indices = UInt32Array::from(pairs.rows.clone());
        let mut columns = take_columns(&chunk.rows.columns()[..self.spec.input_columns], &indices)?;
        let mut sources = vec![&self.nothing];
        let mut places: HashMap<u32, usize> = HashMap::new();
        let mut picked = Vec::with_capacity(pairs.partners.len());
        for partner in &pairs.partners {
            let Some((batch, row)) = *partner else {
                picked.push((0, 0));
                continue;
            };
            let place = match places.get(&batch) {
                Some(place) => *place,
                None => {
                    let rows = self.answers.batch(batch);
                    sources.push(rows.ok_or_else(|| Error::Internal("a looked-up row is gone".into()))?);
                    places.insert(batch, sources.len() - 1);
                    sources.len() - 1
                }
            };
            picked.push((place, row as usize));
        }
        columns.extend(interleaved(&self.side, &sources, &picked)?.columns().iter().cloned());
        batch_of(&self.output, columns, pairs.rows.len())
    }
}

/// The pairs that satisfy the condition; with `left`, a row of which none does has one without partner.
fn fitting(pairs: &Pairs, fits: impl Fn(usize) -> bool, left: bool) -> Pairs {
    let mut kept = Pairs::default();
    let mut at = 0;
    while at < pairs.rows.len() {
        let row = pairs.rows[at];
        let before = kept.rows.len();
        while at < pairs.rows.len() && pairs.rows[at] == row {
            if fits(at) {
                kept.push(row, pairs.partners[at]);
            }
            at += 1;
        }
        if left && kept.rows.len() == before {
            kept.push(row, None);
        }
    }
    kept
}

fn side_schema(spec: &LookupJoinSpec, output: &Schema) -> SchemaRef {
    let fields = &output.fields()[spec.input_columns.min(output.fields().len())..];
    let nullable = |field: &Arc<Field>| field.as_ref().clone().with_nullable(true);
    Arc::new(Schema::new(fields.iter().map(nullable).collect::<Vec<_>>()))
}

fn boolean(expression: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray> {
    let value = evaluate(expression, rows)?;
    value
        .as_boolean_opt()
        .cloned()
        .ok_or_else(|| Error::Internal(format!("a condition has type {}", value.data_type())))
}

impl Operator for LookupJoin {
    fn name(&self) -> &'static str {
        "lookup_join"
    }

    fn process(&mut self, _input: usize, chunk: Chunk, output: &mut Output) -> Result<()> {
        let keys: Vec<ArrayRef> = self
            .spec
            .keys
            .iter()
            .map(|&key| Arc::clone(chunk.rows.column(key)))
            .collect();
        let wanted = self.answers.want(&keys, chunk.len(), Instant::now())?;
        self.ask(&wanted.missing)?;
        self.waiting.push_back(Waiting::Rows(Box::new((chunk, wanted))));
        self.chunks_waiting += 1;
        self.advance(output)
    }

    fn resume(&mut self, output: &mut Output) -> Result<bool> {
        self.take_replies()?;
        self.advance(output)?;
        Ok(false)
    }

    fn waits(&self) -> Waits {
        match self.chunks_waiting {
            0 => Waits::Nothing,
            chunks if chunks < WAITING_MAX => Waits::TakesMore,
            _ => Waits::Full,
        }
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        match (self.waiting.back_mut(), watermark) {
            (None, _) => output.watermark(watermark),
            // Of two in a row only the later one says anything.
            (Some(Waiting::Watermark(last @ Watermark::At(_))), Watermark::At(_)) => *last = watermark,
            (Some(_), _) => self.waiting.push_back(Waiting::Watermark(watermark)),
        }
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, _output: &mut Output) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        Err(Error::Internal("a barrier overtook rows that wait for a lookup".into()))
    }

    fn state_size(&self) -> StateSize {
        StateSize {
            rows: self.answers.len() as u64,
            bytes: self.answers.memory_bytes() as u64,
        }
    }
}

//! Runs a join on a script: like `operator_harness`, with `L` or `R` before each row to say by which input it comes.
//!
//! A run of rows of one side is a chunk. Specs short enough to write in a test are here, too.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::Operator as Comparison;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};

use crate::engine::graph::{OperatorSpec, StreamShape};
use crate::engine::join_spec::{JoinBound, JoinColumn, JoinInput, JoinKind, JoinSpec, Residual, Side};
use crate::engine::message::{Barrier, BarrierKind, Chunk, Watermark};
use crate::engine::operator::{Operator, Output, Result};
use crate::engine::operators::{BuildContext, build};
use crate::ids::Epoch;
use crate::testing::memory_state::{MemoryState, snapshot_context};
use crate::testing::operator_harness::{chunk_of, describe};

pub(crate) struct JoinHarness {
    spec: OperatorSpec,
    inputs: [SchemaRef; 2],
    output: StreamShape,
    context: BuildContext,
    /// The input columns that hold event time, in microseconds.
    event_time: Option<usize>,
    operator: Box<dyn Operator>,
    pub state: MemoryState,
    snapshots: u64,
    /// How many chunks of output each chunk took.
    pub steps: usize,
}

impl JoinHarness {
    pub fn new(spec: JoinSpec, event_time: Option<usize>, context: BuildContext) -> JoinHarness {
        let output = output_shape(&spec, event_time.is_some());
        let inputs = spec.inputs.each_ref().map(|input| Arc::clone(&input.schema));
        JoinHarness::of(OperatorSpec::Join(Box::new(spec)), inputs, output, event_time, context)
    }

    /// Of any operator with a left and a right input.
    pub fn of(
        spec: OperatorSpec,
        inputs: [SchemaRef; 2],
        output: StreamShape,
        event_time: Option<usize>,
        context: BuildContext,
    ) -> JoinHarness {
        let state = MemoryState::default();
        JoinHarness {
            operator: start(&spec, &output, &context, &state),
            spec,
            inputs,
            output,
            context,
            event_time,
            state,
            snapshots: 0,
            steps: 0,
        }
    }

    pub fn operator(&self) -> &dyn Operator {
        self.operator.as_ref()
    }

    /// Runs the script; panics on an error.
    pub fn run(&mut self, script: &str) -> String {
        let mut output = Output::default();
        let mut text = String::new();
        let mut side = Side::Left;
        let mut rows: Vec<&str> = Vec::new();
        for line in script.lines().map(str::trim).chain([""]) {
            let of = match line.as_bytes() {
                [b'L', b'+' | b'-', ..] => Some(Side::Left),
                [b'R', b'+' | b'-', ..] => Some(Side::Right),
                _ => None,
            };
            if of != Some(side) && !rows.is_empty() {
                let chunk = chunk_of(&self.inputs[side.index()], &std::mem::take(&mut rows), self.event_time);
                self.steps += feed(self.operator.as_mut(), side, chunk, &mut output);
            }
            match of {
                Some(of) => {
                    side = of;
                    rows.push(&line[1..]);
                }
                None => self.control(line, &mut output).expect("the script runs"),
            }
            text.push_str(&describe(&mut output));
        }
        text
    }

    fn control(&mut self, line: &str, output: &mut Output) -> Result<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = || rest.parse().expect("a number");
        let barrier = |kind| Barrier {
            epoch: Epoch(number()),
            kind,
        };
        match word {
            "" => Ok(()),
            "W" => {
                let time = rest.parse().expect("microseconds");
                self.operator.on_watermark(Watermark::At(time), output)
            }
            "B" => self.operator.on_barrier(barrier(BarrierKind::Tick), output),
            "C" => {
                let barrier = barrier(BarrierKind::Checkpoint);
                self.operator.on_barrier(barrier, output)?;
                let everything = (self.snapshots == 0).then_some((0, 1));
                let context = snapshot_context(barrier.epoch.0, 0, 1, everything);
                self.snapshots += 1;
                let writes = self.operator.snapshot(&context)?;
                self.state.commit(vec![writes]);
                Ok(())
            }
            "R" => {
                self.operator = start(&self.spec, &self.output, &self.context, &self.state);
                Ok(())
            }
            // One input ends: `X L`.
            "X" => {
                let side = if rest == "L" { Side::Left } else { Side::Right };
                self.operator.on_input_end(side.index(), output)
            }
            "E" => self.operator.on_end(output),
            other => panic!("no such item in a script: {other}"),
        }
    }
}

/// Processes a chunk to its end; how many steps that took.
pub(crate) fn feed(operator: &mut dyn Operator, side: Side, chunk: Chunk, output: &mut Output) -> usize {
    operator.process(side.index(), chunk, output).expect("a good chunk");
    let mut steps = 1;
    while operator.resume(output).expect("a good chunk") {
        steps += 1;
    }
    steps
}

pub(crate) fn start_join(
    spec: &JoinSpec,
    output: &StreamShape,
    context: &BuildContext,
    state: &MemoryState,
) -> Box<dyn Operator> {
    start(&OperatorSpec::Join(Box::new(spec.clone())), output, context, state)
}

pub(crate) fn start(
    spec: &OperatorSpec,
    output: &StreamShape,
    context: &BuildContext,
    state: &MemoryState,
) -> Box<dyn Operator> {
    let mut operator = build(spec, None, output, context).expect("the operator can be built");
    operator
        .restore(&state.reader(context.subtask.0, context.parallelism))
        .expect("the state can be read");
    operator
}

/// All columns of what the join shows, nullable.
pub(crate) fn output_shape(spec: &JoinSpec, event_time: bool) -> StreamShape {
    let field = |(at, of): (usize, &JoinColumn)| {
        let field = spec.inputs[of.side.index()].schema.field(of.column);
        Field::new(format!("{at}"), field.data_type().clone(), true)
    };
    let mut fields: Vec<Field> = spec.output.iter().enumerate().map(field).collect();
    if spec.kind.is_mark() {
        fields.push(Field::new("mark", DataType::Boolean, false));
    }
    StreamShape {
        schema: Arc::new(Schema::new(fields)),
        append_only: false,
        unique_key: None,
        event_time,
    }
}

/// Inputs of the same shape joined on column `key` of both.
pub(crate) fn join(kind: JoinKind, schema: &SchemaRef, key: usize) -> JoinSpec {
    let input = || JoinInput {
        schema: Arc::clone(schema),
        keys: vec![key],
        append_only: false,
    };
    let all = |side| (0..schema.fields().len()).map(move |column| JoinColumn { side, column });
    let output = match kind {
        JoinKind::Semi(side) | JoinKind::Anti(side) | JoinKind::Mark(side) => all(side).collect(),
        _ => all(Side::Left).chain(all(Side::Right)).collect(),
    };
    JoinSpec {
        kind,
        inputs: [input(), input()],
        null_equal: vec![false],
        residual: None,
        output,
        bound: JoinBound::Kept { ttl_ms: None },
    }
}

/// `left.column <op> right.column`.
pub(crate) fn residual(schema: &SchemaRef, left: usize, comparison: Comparison, right: usize) -> Residual {
    let of = |side, column| JoinColumn { side, column };
    let field = |name: &str, column: usize| schema.field(column).clone().with_name(name);
    let compared = BinaryExpr::new(Arc::new(Column::new("l", 0)), comparison, Arc::new(Column::new("r", 1)));
    Residual {
        predicate: Arc::new(compared),
        columns: vec![of(Side::Left, left), of(Side::Right, right)],
        schema: Arc::new(Schema::new(vec![field("l", left), field("r", right)])),
    }
}

//! Runs one operator on a script and writes down what comes out, so that a test is two pieces of text.
//!
//! A script has one item a line:
//!
//!     + 1 4        a row (values by column; `null`); `-` takes one away, `+3` and `-2` count so often
//!                  (an empty line) ends a chunk; so does everything that is not a row
//!     W 12:00      a watermark, as a time of 1970-01-01 or in microseconds; `W idle`
//!     B 3          a tick of epoch 3
//!     C 3          a checkpoint of epoch 3: barrier, snapshot of what changed; the first one writes everything
//!     R            restart from the last checkpoint
//!     R again      the same, for consumers that have nothing of what it emitted before
//!     E            end of input
//!
//! Output has rows in the same form, in the order they came, and watermarks. Row order inside a block of equal sign is
//! the operator's; [`sorted`] makes it canonical.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::buffer::ScalarBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::engine::graph::{OperatorSpec, StreamShape};
use crate::engine::message::{Barrier, BarrierKind, Chunk, Watermark, Weights};
use crate::engine::operator::{Operator, Output, OutputItem, Result};
use crate::engine::operators::columns::take_chunk;
use crate::engine::operators::{BuildContext, build};
use crate::ids::Epoch;
use crate::state::hash::hash_columns;
use crate::state::key_group::KeyGroups;
use crate::testing::memory_state::{MemoryState, snapshot_context};
use crate::types::record_batch::batch_of_rows;

/// What each subtask gets of a chunk behind a hash exchange by the columns `keys`: its number and its rows, which are some.
/// Every other part comes with its hashes, as rows that were partitioned before do.
pub(crate) fn routed(chunk: &Chunk, keys: &[usize], parallelism: u32) -> Vec<(usize, Chunk)> {
    let columns: Vec<ArrayRef> = keys.iter().map(|&key| Arc::clone(chunk.rows.column(key))).collect();
    let mut hashes = vec![0; chunk.len()];
    if !keys.is_empty() {
        hash_columns(&columns, &mut hashes);
    }
    let groups = KeyGroups::default();
    let mut parts = Vec::new();
    for subtask in 0..parallelism {
        let own: Vec<u32> = (0..chunk.len() as u32)
            .filter(|&row| groups.owner_of(groups.group_of(hashes[row as usize]), parallelism) == subtask)
            .collect();
        if own.is_empty() {
            continue;
        }
        let with_hashes = own.len().is_multiple_of(2) && !keys.is_empty();
        let kept: Vec<u64> = own.iter().map(|&row| hashes[row as usize]).collect();
        let mut part = take_chunk(chunk, &own.into()).expect("the rows are the chunk's");
        part.key_hashes = with_hashes.then(|| kept.into());
        parts.push((subtask as usize, part));
    }
    parts
}

pub(crate) struct Harness {
    spec: OperatorSpec,
    input: StreamShape,
    output: StreamShape,
    context: BuildContext,
    /// The input column that holds event time, in microseconds.
    event_time: Option<usize>,
    operator: Box<dyn Operator>,
    pub state: MemoryState,
    snapshots: u64,
}

impl Harness {
    pub fn new(
        spec: OperatorSpec,
        input: StreamShape,
        output: StreamShape,
        context: BuildContext,
        event_time: Option<usize>,
    ) -> Harness {
        let state = MemoryState::default();
        let operator = start(&spec, &input, &output, &context, &state);
        Harness {
            spec,
            input,
            output,
            context,
            event_time,
            operator,
            state,
            snapshots: 0,
        }
    }

    pub fn operator(&self) -> &dyn Operator {
        self.operator.as_ref()
    }

    /// Runs the script; panics on an error.
    pub fn run(&mut self, script: &str) -> String {
        self.try_run(script).expect("the script runs")
    }

    pub fn try_run(&mut self, script: &str) -> Result<String> {
        let mut output = Output::default();
        let mut text = String::new();
        let mut rows: Vec<&str> = Vec::new();
        for line in script.lines().map(str::trim).chain([""]) {
            if line.starts_with(['+', '-']) {
                rows.push(line);
                continue;
            }
            if !rows.is_empty() {
                let chunk = chunk_of(&self.input.schema, &std::mem::take(&mut rows), self.event_time);
                self.operator.process(0, chunk, &mut output)?;
            }
            self.control(line, &mut output)?;
            text.push_str(&describe(&mut output));
        }
        Ok(text)
    }

    fn control(&mut self, line: &str, output: &mut Output) -> Result<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let barrier = |kind| Barrier {
            epoch: Epoch(rest.parse().expect("an epoch")),
            kind,
        };
        match word {
            "" => Ok(()),
            "W" if rest == "idle" => self.operator.on_watermark(Watermark::Idle, output),
            "W" => self.operator.on_watermark(Watermark::At(time_of(rest)), output),
            "B" => self.operator.on_barrier(barrier(BarrierKind::Tick), output),
            "C" => {
                let barrier = barrier(BarrierKind::Checkpoint);
                self.operator.on_barrier(barrier, output)?;
                let everything = (self.snapshots == 0).then_some((0, 1));
                let context = snapshot_context(
                    barrier.epoch.0,
                    self.context.subtask.0,
                    self.context.parallelism,
                    everything,
                );
                self.snapshots += 1;
                let writes = self.operator.snapshot(&context)?;
                self.state.commit(vec![writes]);
                Ok(())
            }
            "R" => {
                self.operator = start(&self.spec, &self.input, &self.output, &self.context, &self.state);
                match rest {
                    "again" => self.operator.repeat(),
                    _ => Ok(()),
                }
            }
            "E" => self.operator.on_end(output),
            other => panic!("no such item in a script: {other}"),
        }
    }
}

fn start(
    spec: &OperatorSpec,
    input: &StreamShape,
    output: &StreamShape,
    context: &BuildContext,
    state: &MemoryState,
) -> Box<dyn Operator> {
    let mut operator = build(spec, Some(input), output, context).expect("the operator can be built");
    operator
        .restore(&state.reader(context.subtask.0, context.parallelism))
        .expect("the state can be read");
    operator
}

/// `12:00` or microseconds.
fn time_of(text: &str) -> i64 {
    match text.split_once(':') {
        Some((hours, minutes)) => {
            let part = |text: &str| text.parse::<i64>().expect("a number");
            (part(hours) * 60 + part(minutes)) * 60_000_000
        }
        None => text.parse().expect("microseconds"),
    }
}

/// A chunk of `schema` from lines such as `+ 1 x` and `-2 7 null`.
pub(crate) fn chunk_of(schema: &SchemaRef, lines: &[&str], event_time: Option<usize>) -> Chunk {
    let mut weights = Vec::new();
    let mut cells: Vec<Vec<Option<String>>> = vec![Vec::new(); schema.fields().len()];
    for line in lines {
        let mut words = line.split_whitespace();
        let weight = words.next().expect("a sign");
        weights.push(match weight {
            "+" => 1,
            "-" => -1,
            number => number.parse().expect("a weight"),
        });
        for (column, cell) in cells.iter_mut().enumerate() {
            let word = words
                .next()
                .unwrap_or_else(|| panic!("{line}: no value for column {column}"));
            let is_time =
                matches!(schema.field(column).data_type(), DataType::Timestamp(_, _)) || event_time == Some(column);
            cell.push(match word {
                "null" => None,
                word if is_time => Some(time_of(word).to_string()),
                word => Some(word.to_owned()),
            });
        }
        assert!(words.next().is_none(), "{line}: too many values");
    }
    let column = |(cells, field): (Vec<Option<String>>, &Arc<arrow::datatypes::Field>)| -> ArrayRef {
        let text: ArrayRef = Arc::new(StringArray::from(cells));
        let text = match field.data_type() {
            DataType::Timestamp(_, _) => cast(&text, &DataType::Int64).expect("microseconds"),
            _ => text,
        };
        cast(&text, field.data_type()).expect("a value of the column's type")
    };
    let columns: Vec<ArrayRef> = cells.into_iter().zip(schema.fields()).map(column).collect();
    let times = event_time.map(|at| -> ScalarBuffer<i64> {
        let times = cast(&columns[at], &DataType::Int64).expect("microseconds");
        times.as_primitive::<Int64Type>().values().clone()
    });
    Chunk {
        rows: batch_of_rows(Arc::clone(schema), columns, weights.len()).expect("a batch"),
        weights: if weights.iter().all(|&weight| weight == 1) {
            Weights::AllInsert
        } else {
            Weights::Signed(weights.into())
        },
        event_time: times,
        key_hashes: None,
    }
}

/// Rows and watermarks as text, one a line.
pub(crate) fn describe(output: &mut Output) -> String {
    let mut text = String::new();
    for item in output.take() {
        match item {
            OutputItem::Watermark(Watermark::At(time)) => text.push_str(&format!("W {time}\n")),
            OutputItem::Watermark(Watermark::Idle) => text.push_str("W idle\n"),
            OutputItem::Data(chunk) => {
                for (row, weight) in rows_of(&chunk) {
                    let sign = match weight {
                        1 => "+".into(),
                        -1 => "-".into(),
                        other => format!("{other:+}"),
                    };
                    text.push_str(&format!("{sign} {row}\n"));
                }
            }
        }
    }
    text
}

/// Each row as its values separated by a blank, with its weight. Timestamps are microseconds.
pub(crate) fn rows_of(chunk: &Chunk) -> Vec<(String, i64)> {
    let options = FormatOptions::default().with_null("null");
    let columns: Vec<ArrayRef> = chunk
        .rows
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Timestamp(_, _) => cast(column, &DataType::Int64).expect("microseconds"),
            _ => Arc::clone(column),
        })
        .collect();
    let formatters: Vec<_> = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("a printable type"))
        .collect();
    (0..chunk.len())
        .map(|row| {
            let values: Vec<String> = formatters
                .iter()
                .map(|formatter| formatter.value(row).to_string())
                .collect();
            (values.join(" "), chunk.weight(row))
        })
        .collect()
}

/// The lines in order of their text.
pub(crate) fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// An expected output: the lines without indentation.
pub(crate) fn lines(text: &str) -> String {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| format!("{line}\n"))
        .collect()
}

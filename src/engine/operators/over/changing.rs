//! OVER over rows that change later: partitions are kept whole, and one that was touched is computed again at the next barrier, by
//! the window expressions of the library. Any ORDER BY, any frame, any window function.
//!
//! What is put out at a barrier is the difference of what the touched partitions gave before and what they give now. Rows that ORDER BY
//! does not tell apart are ordered by all columns, ascending, NULL last, so that the result depends on nothing but the rows.
//!
//! A change costs its whole partition, not what it changes. The rows are kept as those of a ranking without bounds
//! ([`TopN`], which has the state, the TTL and the restart).

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::concat;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::window::WindowExpr;

use crate::engine::error::Error;
use crate::engine::message::{Barrier, CHUNK_ROWS_TARGET, Chunk, Watermark};
use crate::engine::operator::{Operator, Output, Result, StateSize};
use crate::engine::operators::BuildContext;
use crate::engine::operators::columns::{batch_of, data_error, weights_from};
use crate::engine::operators::net_rows::NetRows;
use crate::engine::operators::top_n::{Shown, TopN};
use crate::engine::over_spec::{OverSpec, OverWork};
use crate::engine::top_n_spec::{RankFunction, TopNBound, TopNSpec};
use crate::state::table::{SnapshotContext, StateReader, TableWrite};

pub(crate) struct OverChanging {
    spec: OverSpec,
    functions: Vec<Arc<dyn WindowExpr>>,
    input: SchemaRef,
    output: SchemaRef,
    rows: TopN,
}

/// Partitions before (-1) or after (+1) a change.
#[derive(Default)]
struct States {
    rows: Vec<Shown>,
    /// Where each ends in `rows`, and its sign.
    ends: Vec<(usize, i64)>,
}

impl States {
    fn add(&mut self, rows: Vec<Shown>, sign: i64) {
        if !rows.is_empty() {
            self.rows.extend(rows);
            self.ends.push((self.rows.len(), sign));
        }
    }
}

impl OverChanging {
    pub fn new(spec: &OverSpec, input: &SchemaRef, output: &SchemaRef, context: &BuildContext) -> Result<OverChanging> {
        let OverWork::Changing { functions, ttl_ms } = &spec.work else {
            return Err(Error::Internal("OVER of changing rows over others".into()));
        };
        let all_rows = TopNSpec {
            function: RankFunction::RowNumber,
            keys: spec.keys.clone(),
            order: spec.order.clone(),
            first: 1,
            last: u64::MAX,
            columns: spec.carried,
            shows_rank: false,
            append_only_input: false,
            bound: TopNBound::Kept { ttl_ms: *ttl_ms },
        };
        Ok(OverChanging {
            functions: functions.clone(),
            rows: TopN::new(&all_rows, input, input, context)?,
            input: Arc::clone(input),
            output: Arc::clone(output),
            spec: spec.clone(),
        })
    }

    fn emit(&mut self, output: &mut Output) -> Result<()> {
        let mut states = States::default();
        for (partition, before) in self.rows.take_touched() {
            let after = self.rows.settle(partition);
            if before == after {
                continue;
            }
            states.add(before, -1);
            states.add(after, 1);
            if states.rows.len() >= CHUNK_ROWS_TARGET {
                self.put_out(&std::mem::take(&mut states), output)?;
            }
        }
        self.put_out(&states, output)
    }

    /// The difference of what partitions gave and give.
    fn put_out(&self, states: &States, output: &mut Output) -> Result<()> {
        let mut parts: Vec<Vec<ArrayRef>> = Vec::with_capacity(states.ends.len());
        let mut weights: Vec<i64> = Vec::new();
        let mut start = 0;
        for &(end, sign) in &states.ends {
            let rows = self.rows_of(&states.rows[start..end])?;
            start = end;
            let mut columns = rows.columns()[..self.spec.carried].to_vec();
            for function in &self.functions {
                columns.push(function.evaluate(&rows).map_err(data_error)?);
            }
            parts.push(columns);
            weights.resize(weights.len() + rows.num_rows(), sign);
        }
        if parts.is_empty() {
            return Ok(());
        }
        let column = |at: usize| {
            let parts: Vec<&dyn Array> = parts.iter().map(|columns| columns[at].as_ref()).collect();
            concat(&parts)
        };
        let columns = (0..self.output.fields().len())
            .map(column)
            .collect::<Result<Vec<_>, _>>()?;
        let length = weights.len();
        self.put_out_net(
            &Chunk {
                rows: batch_of(&self.output, columns, length)?,
                weights: weights_from(weights),
                event_time: None,
                key_hashes: None,
            },
            output,
        )
    }

    fn put_out_net(&self, chunk: &Chunk, output: &mut Output) -> Result<()> {
        let fields = self.output.fields().iter();
        let types: Vec<DataType> = fields.map(|field| field.data_type().clone()).collect();
        let mut net = NetRows::new(&types)?;
        net.add(chunk)?;
        let (mut rows, new) = net.signs();
        rows.extend(new);
        for rows in rows.chunks(CHUNK_ROWS_TARGET) {
            output.data(Chunk {
                rows: batch_of(&self.output, net.gather(rows), rows.len())?,
                weights: weights_from(rows.iter().map(|&row| net.weight(row)).collect()),
                event_time: None,
                key_hashes: None,
            });
        }
        Ok(())
    }

    /// Each as often as it counts.
    fn rows_of(&self, rows: &[Shown]) -> Result<RecordBatch> {
        let times = |row: &Shown| usize::try_from(row.weight).unwrap_or(0);
        let count = rows.iter().map(times).sum();
        let columns = self
            .rows
            .decode(rows.iter().flat_map(|row| std::iter::repeat_n(row, times(row))))?;
        batch_of(&self.input, columns, count)
    }
}

impl Operator for OverChanging {
    fn name(&self) -> &'static str {
        self.spec.name()
    }

    fn process(&mut self, input: usize, chunk: Chunk, output: &mut Output) -> Result<()> {
        self.rows.process(input, chunk, output)
    }

    fn on_watermark(&mut self, watermark: Watermark, output: &mut Output) -> Result<()> {
        output.watermark(watermark);
        Ok(())
    }

    fn on_barrier(&mut self, _barrier: Barrier, output: &mut Output) -> Result<()> {
        self.emit(output)
    }

    fn on_end(&mut self, output: &mut Output) -> Result<()> {
        self.emit(output)
    }

    fn snapshot(&mut self, context: &SnapshotContext) -> Result<Vec<TableWrite>> {
        self.rows.snapshot(context)
    }

    fn restore(&mut self, state: &dyn StateReader) -> Result<()> {
        self.rows.restore(state)
    }

    fn state_size(&self) -> StateSize {
        self.rows.state_size()
    }
}

//! A bounded table over rows in memory: the same rows in the same order for whoever reads it, cut into chunks at random places.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{
    ConnectorTable, DeliveryGuarantee, Direction, Source, SourceContext, SourcePoll, SplitOffset,
};
use crate::engine::error::Error;
use crate::engine::graph::{JobGraph, OperatorSpec};
use crate::types::record_batch::batch_of_rows;

/// Rows of each split in the order in which they come.
#[derive(Debug)]
pub(crate) struct RowTable {
    /// As in the catalog: `public.t`.
    pub name: String,
    pub splits: Vec<RecordBatch>,
    /// Rows a chunk has at most.
    pub chunk_rows_max: usize,
    pub seed: u64,
}

impl RowTable {
    /// The first rows of each split, as many as `offsets` says; all of a split that it does not name.
    pub fn prefix(&self, offsets: &[(String, String)]) -> Vec<RecordBatch> {
        let of_split = |(split, rows): (usize, &RecordBatch)| {
            let known = offsets.iter().find(|(name, _)| *name == split_name(split));
            let count = known.map_or(0, |(_, offset)| offset.parse().expect("a count"));
            rows.slice(0, count)
        };
        self.splits.iter().enumerate().map(of_split).collect()
    }
}

/// Lets the sources of `graph` read `tables`, which were planned with any connector.
pub(crate) fn read_from(graph: &mut JobGraph, tables: &[Arc<RowTable>]) {
    for node in &mut graph.nodes {
        if let OperatorSpec::Source(source) = &mut node.operator {
            let found = tables.iter().find(|table| table.name == source.table_name);
            source.table = Arc::clone(found.expect("a table of that name")) as Arc<dyn ConnectorTable>;
        }
    }
}

fn split_name(split: usize) -> String {
    format!("split-{split}")
}

#[async_trait::async_trait]
impl ConnectorTable for RowTable {
    fn connector(&self) -> &'static str {
        "rows"
    }
    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }
    fn schema(&self) -> Option<SchemaRef> {
        Some(self.splits[0].schema())
    }
    fn direction(&self) -> Direction {
        Direction::Source
    }
    fn bounded(&self) -> bool {
        true
    }
    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }
    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>, Error> {
        let own =
            (0..self.splits.len()).filter(|split| split % context.parallelism as usize == context.subtask.0 as usize);
        let open = |split: usize| {
            let name = split_name(split);
            let saved = context.restored.iter().find(|offset| offset.split == name);
            OpenSplit {
                rows: narrowed_rows(&self.splits[split], &context.schema),
                position: saved.map_or(0, |offset| offset.offset.parse().expect("a count")),
                name,
                told: false,
            }
        };
        Ok(Box::new(RowSource {
            splits: own.map(open).collect(),
            chunk_rows_max: self.chunk_rows_max,
            random: StdRng::seed_from_u64(self.seed ^ u64::from(context.subtask.0)),
        }))
    }
}

struct OpenSplit {
    name: String,
    rows: RecordBatch,
    position: usize,
    told: bool,
}

struct RowSource {
    splits: Vec<OpenSplit>,
    chunk_rows_max: usize,
    random: StdRng,
}

impl Source for RowSource {
    fn poll(&mut self, rows_max: usize) -> Result<SourcePoll, Error> {
        let open: Vec<usize> = (0..self.splits.len())
            .filter(|split| !self.splits[*split].told)
            .collect();
        if open.is_empty() {
            return Ok(SourcePoll::Finished);
        }
        if self.random.random_range(0..4) == 0 {
            return Ok(SourcePoll::Pending(Some(Instant::now())));
        }
        let split = open[self.random.random_range(0..open.len())];
        let chosen = &mut self.splits[split];
        let left = chosen.rows.num_rows() - chosen.position;
        if left == 0 {
            chosen.told = true;
            return Ok(SourcePoll::SplitFinished { split });
        }
        let count = self
            .random
            .random_range(1..=self.chunk_rows_max.min(rows_max))
            .min(left);
        let rows = chosen.rows.slice(chosen.position, count);
        chosen.position += count;
        Ok(SourcePoll::Rows { split, rows })
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        let offset = |split: &OpenSplit| SplitOffset {
            split: split.name.clone(),
            offset: split.position.to_string(),
        };
        self.splits.iter().map(offset).collect()
    }
}

/// The columns of `schema`, and of structs the fields that it asks for.
fn narrowed_rows(rows: &RecordBatch, schema: &SchemaRef) -> RecordBatch {
    let column = |field: &Arc<Field>| {
        let whole = rows.column_by_name(field.name()).expect("a column of that name");
        narrowed(whole, field.data_type())
    };
    let columns = schema.fields().iter().map(column).collect();
    batch_of_rows(Arc::clone(schema), columns, rows.num_rows()).expect("the columns of the schema")
}

fn narrowed(array: &ArrayRef, to: &DataType) -> ArrayRef {
    match to {
        DataType::Struct(fields) if array.data_type() != to => {
            let whole = array.as_struct();
            let part = |field: &Arc<Field>| {
                narrowed(
                    whole.column_by_name(field.name()).expect("a field of that name"),
                    field.data_type(),
                )
            };
            let parts = fields.iter().map(part).collect();
            Arc::new(StructArray::new(fields.clone(), parts, whole.nulls().cloned()))
        }
        _ => Arc::clone(array),
    }
}

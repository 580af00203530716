//! The mailbox of an internal table as the input of the table's job.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::engine::connectors::options::CommonOptions;
use crate::engine::connectors::{
    ConnectorTable, DeliveryGuarantee, Direction, Result, Source, SourceContext, SourcePoll, SplitOffset,
};
use crate::engine::error::Error;
use crate::engine::internal_tables::mailbox::{InternalTable, Run};
use crate::ids::Epoch;

const CHANGES_SPLIT: &str = "changes";

/// What the job of an internal table reads. One subtask: pieces are whole.
pub struct InternalTableSource {
    table: Arc<InternalTable>,
    schema: SchemaRef,
}

impl InternalTableSource {
    pub fn new(table: Arc<InternalTable>, schema: SchemaRef) -> InternalTableSource {
        InternalTableSource { table, schema }
    }
}

impl fmt::Debug for InternalTableSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("InternalTableSource")
    }
}

impl ConnectorTable for InternalTableSource {
    fn connector(&self) -> &'static str {
        "internal"
    }

    fn schema(&self) -> Option<SchemaRef> {
        Some(Arc::clone(&self.schema))
    }

    fn direction(&self) -> Direction {
        Direction::Source
    }

    fn common(&self) -> CommonOptions {
        CommonOptions::default()
    }

    fn append_only(&self) -> bool {
        false
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        let saved = context.restored.iter().find(|offset| offset.split == CHANGES_SPLIT);
        let taken = match saved {
            Some(offset) => offset
                .offset
                .parse()
                .map_err(|_| Error::Internal(format!("offset of an internal table is \"{}\"", offset.offset)))?,
            None => 0,
        };
        Ok(Box::new(Changes {
            run: self.table.attach(taken, context.waker),
            table: Arc::clone(&self.table),
            taken,
        }))
    }
}

struct Changes {
    table: Arc<InternalTable>,
    run: Run,
    /// The last piece that was handed on.
    taken: u64,
}

impl Source for Changes {
    /// A piece at a time, whatever its size: no barrier may cut one.
    fn poll(&mut self, _rows_max: usize) -> Result<SourcePoll> {
        let Some(change) = self.table.take(self.run) else {
            return Ok(SourcePoll::Pending(None));
        };
        self.taken = change.sequence;
        Ok(SourcePoll::Changes {
            split: 0,
            rows: change.rows,
            weights: change.weights,
        })
    }

    fn at_barrier(&mut self, epoch: Epoch) {
        self.table.cut(self.run, epoch, self.taken);
    }

    fn offsets(&self) -> Vec<SplitOffset> {
        vec![SplitOffset {
            split: CHANGES_SPLIT.to_owned(),
            offset: self.taken.to_string(),
        }]
    }
}

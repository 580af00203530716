//! Takes rows and forgets them: for benchmarks, and for pipelines run for their metrics.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::engine::connectors::options::{CommonOptions, OptionReader, common_descriptions};
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, Prepared, Result, Sink,
    SinkChangelogSupport, SinkContext,
};
use crate::engine::graph::SinkChangelog;
use crate::engine::message::Chunk;
use crate::ids::Epoch;
use crate::options::ResolvedOptions;

pub struct Blackhole;

#[async_trait::async_trait]
impl Connector for Blackhole {
    fn name(&self) -> &'static str {
        "blackhole"
    }

    fn describe(&self) -> ConnectorDescription {
        ConnectorDescription {
            name: "blackhole",
            title: "Blackhole",
            summary: "Takes rows and forgets them.",
            category: "testing",
            direction: Direction::Sink,
            formats: &[],
            options: common_descriptions(&[]),
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        Ok(Arc::new(BlackholeTable {
            schema: declared,
            common: reader.common()?,
        }))
    }
}

#[derive(Debug)]
struct BlackholeTable {
    schema: Option<SchemaRef>,
    common: CommonOptions,
}

impl ConnectorTable for BlackholeTable {
    fn connector(&self) -> &'static str {
        "blackhole"
    }

    fn schema(&self) -> Option<SchemaRef> {
        self.schema.clone()
    }

    fn direction(&self) -> Direction {
        Direction::Sink
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn sink_changelog(&self, _primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        SinkChangelogSupport::Any(SinkChangelog::Debezium { key: None })
    }

    /// Nothing can be lost that is kept nowhere.
    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    /// Nothing is twice where nothing is kept.
    fn sink_begins_anew(&self) -> bool {
        true
    }

    fn open_sink(&self, _context: SinkContext) -> Result<Box<dyn Sink>> {
        Ok(Box::new(BlackholeSink { bytes: 0 }))
    }
}

struct BlackholeSink {
    bytes: u64,
}

impl Sink for BlackholeSink {
    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        self.bytes += chunk.memory_bytes() as u64;
        Ok(())
    }

    fn prepare(&mut self, _epoch: Epoch) -> Result<Prepared> {
        Ok(Prepared::default())
    }

    fn bytes_written(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::connectors::testing::{Bench, given};
    use crate::engine::message::Weights;

    #[test]
    fn takes_anything_and_has_no_formats() {
        let table = Blackhole.resolve(&given(&[]), None).unwrap();
        let bench = Bench::new();
        let schema: SchemaRef = Arc::new(arrow::datatypes::Schema::empty());
        let context = bench.sink_context(&schema, SinkChangelog::Debezium { key: None }, &[]);
        let mut sink = table.open_sink(context).unwrap();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
        let rows = arrow::array::RecordBatch::try_new_with_options(schema, vec![], &options).unwrap();
        let mut chunk = Chunk::insert(rows);
        chunk.weights = Weights::Signed(vec![-1].into());
        sink.write(&chunk).unwrap();
        assert!(sink.prepare(Epoch(1)).unwrap().committable.is_none());
        assert!(Blackhole.resolve(&given(&[("format", "json")]), None).is_err());
    }
}

//! Writes rows to the server's standard output.
//!
//! At most once in a crash, at least once after it: what was printed since the last checkpoint is printed again.

use std::io::Write;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::engine::connectors::options::{CommonOptions, OptionReader, common_descriptions};
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, Prepared, Result, Sink,
    SinkChangelogSupport, SinkContext, files,
};
use crate::engine::formats::{Encoder, FormatOptions};
use crate::engine::message::Chunk;
use crate::ids::Epoch;
use crate::options::ResolvedOptions;

const FORMATS: &[&str] = &["json", "debezium_json", "csv", "raw_string"];

pub struct Stdout;

#[async_trait::async_trait]
impl Connector for Stdout {
    fn name(&self) -> &'static str {
        "stdout"
    }

    fn describe(&self) -> ConnectorDescription {
        ConnectorDescription {
            name: "stdout",
            title: "Standard output",
            summary: "Prints rows on the standard output of the server.",
            category: "testing",
            direction: Direction::Sink,
            formats: FORMATS,
            options: common_descriptions(FORMATS),
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        Ok(Arc::new(StdoutTable {
            schema: declared,
            format: FormatOptions::read(&reader)?,
            common: reader.common()?,
        }))
    }
}

#[derive(Debug)]
struct StdoutTable {
    schema: Option<SchemaRef>,
    format: FormatOptions,
    common: CommonOptions,
}

impl ConnectorTable for StdoutTable {
    fn connector(&self) -> &'static str {
        "stdout"
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

    fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        self.format.sink_changelog(primary_key)
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::AtLeastOnce
    }

    fn open_sink(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        let encoder = self.format.encoder(&context.schema, &context.changelog)?;
        let mut buffer = Vec::new();
        encoder.header(&mut buffer);
        Ok(Box::new(StdoutSink {
            encoder,
            buffer,
            written: 0,
        }))
    }
}

/// Only Debezium records can take rows away.
struct StdoutSink {
    encoder: Box<dyn Encoder>,
    buffer: Vec<u8>,
    written: u64,
}

impl StdoutSink {
    fn print(&mut self) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        let outcome = stdout.write_all(&self.buffer).and_then(|()| stdout.flush());
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        outcome.map_err(|error| files::io_error("write to", "standard output", &error))
    }
}

impl Sink for StdoutSink {
    fn write(&mut self, chunk: &Chunk) -> Result<()> {
        self.encoder.encode(chunk, &mut self.buffer)?;
        self.print()
    }

    fn prepare(&mut self, _epoch: Epoch) -> Result<Prepared> {
        self.print()?;
        Ok(Prepared::default())
    }

    fn bytes_written(&self) -> u64 {
        self.written
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::connectors::testing::given;
    use crate::engine::graph::SinkChangelog;

    #[test]
    fn only_debezium_takes_rows_away() {
        let changelog = |format: &str| {
            let table = Stdout.resolve(&given(&[("format", format)]), None).unwrap();
            assert!(
                table
                    .open_source(crate::engine::connectors::testing::Bench::new().source_context())
                    .is_err()
            );
            table.sink_changelog(None)
        };
        assert_eq!(changelog("json"), SinkChangelogSupport::AppendOnly);
        assert_eq!(
            changelog("debezium_json"),
            SinkChangelogSupport::Any(SinkChangelog::Debezium { key: None })
        );
        assert!(Stdout.resolve(&given(&[("format", "parquet")]), None).is_err());
    }
}

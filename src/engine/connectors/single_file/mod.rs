//! One file of this machine, read to its end or written from its start.
//!
//! Source: one split, whose offset is a byte offset; a file is bounded input. Sink: exactly once. A fresh start empties
//! the file; a restore cuts it to the length it had at the checkpoint. Readers of the file see rows before the epoch that
//! wrote them is decided; what they see may be cut off again after a crash. A file that has content is only emptied for a
//! table that says `type = 'sink'`. Lookup: held in memory, see `filesystem/lookup`.

mod sink;
mod source;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::engine::connectors::filesystem::location::Location;
use crate::engine::connectors::filesystem::lookup::{FileLookups, LookupFiles, file_columns};
use crate::engine::connectors::lookup::{Lookup, LookupContext, LookupOptions, lookup_descriptions};
use crate::engine::connectors::options::{
    CommonOptions, OptionReader, common_descriptions, number_option, text_option,
};
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, OptionDescription, Result, Sink,
    SinkChangelogSupport, SinkContext, Source, SourceContext, SourceKey, files,
};
use crate::engine::formats::{FormatOptions, infer};
use crate::options::ResolvedOptions;

const FORMATS: &[&str] = &["json", "debezium_json", "csv", "raw_string", "raw_bytes", "protobuf"];

pub struct SingleFile;

#[async_trait::async_trait]
impl Connector for SingleFile {
    fn name(&self) -> &'static str {
        "single_file"
    }

    fn describe(&self) -> ConnectorDescription {
        let mut options = vec![
            OptionDescription {
                required: true,
                ..text_option(
                    "path",
                    &[],
                    None,
                    "The file: a path or a file:// URL of the server's machine.",
                )
            },
            OptionDescription {
                direction: Direction::Source,
                ..number_option(
                    "rate",
                    &["event_rate"],
                    None,
                    "At most this many rows a second; without it as fast as possible.",
                )
            },
        ];
        options.extend(lookup_descriptions(false));
        options.extend(common_descriptions(FORMATS));
        ConnectorDescription {
            name: "single_file",
            title: "Single file",
            summary: "Reads a file once from start to end, or writes one, exactly once.",
            category: "files",
            direction: Direction::Both,
            formats: FORMATS,
            options,
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let declared_sink = options
            .get("type")
            .is_some_and(|of| of.text.trim().eq_ignore_ascii_case("sink"));
        let format = FormatOptions::read(&reader)?;
        format.check_columns(declared.as_ref(), declared_sink)?;
        Ok(Arc::new(SingleFileTable {
            path: files::local_path("path", reader.required("path")?)?,
            declared_sink,
            rate: reader.positive_number("rate")?,
            schema: declared,
            format,
            common: reader.common()?,
            lookup: LookupOptions::held(&reader)?,
            lookups: FileLookups::default(),
        }))
    }

    fn known_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        Ok(FormatOptions::read(&reader)?.known_schema())
    }

    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let path = files::local_path("path", reader.required("path")?)?;
        let format = FormatOptions::read(&reader)?;
        if let Some(schema) = format.known_schema() {
            return Ok(Some(schema));
        }
        let sample = source::sample(&path, infer::SAMPLE_BYTES)?;
        infer::infer(&format, &sample, &path.display().to_string())
    }
}

#[derive(Debug)]
pub(super) struct SingleFileTable {
    path: PathBuf,
    /// `type = 'sink'`: what is in the file may be overwritten.
    declared_sink: bool,
    rate: Option<f64>,
    schema: Option<SchemaRef>,
    format: FormatOptions,
    common: CommonOptions,
    lookup: LookupOptions,
    lookups: FileLookups,
}

#[async_trait::async_trait]
impl ConnectorTable for SingleFileTable {
    fn connector(&self) -> &'static str {
        "single_file"
    }

    fn schema(&self) -> Option<SchemaRef> {
        self.schema.clone()
    }

    fn direction(&self) -> Direction {
        Direction::Both
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn bounded(&self) -> bool {
        true
    }

    fn append_only(&self) -> bool {
        self.format.append_only()
    }

    fn source_key(&self) -> SourceKey {
        self.format.source_key()
    }

    fn sink_parallelism_max(&self) -> Option<u32> {
        Some(1)
    }

    fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        self.format.sink_changelog(primary_key)
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    fn would_destroy(&self) -> Option<String> {
        let has_content = || std::fs::metadata(&self.path).is_ok_and(|file| file.is_file() && file.len() > 0);
        (!self.declared_sink && has_content()).then(|| self.path.display().to_string())
    }

    fn sink_begins_anew(&self) -> bool {
        true
    }

    fn lookup_options(&self) -> Option<LookupOptions> {
        Some(self.lookup)
    }

    async fn check_lookup(&self, _key: &[String]) -> Result<()> {
        source::sample(&self.path, 0).map(|_| ())
    }

    fn open_lookup(&self, context: LookupContext) -> Result<Arc<dyn Lookup>> {
        let files = LookupFiles {
            location: Location::open(&self.path.to_string_lossy(), Vec::new())?,
            format: self.format.clone(),
            names: file_columns(self.schema.as_ref()),
            ttl: self.lookup.cache_ttl,
        };
        Ok(self.lookups.open(files, context))
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        source::open(self, context)
    }

    fn open_sink(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        sink::open(self, &context)
    }
}

#[cfg(test)]
mod tests;

//! Many files, of this machine or of an object store, read once each.
//!
//! A split is a file; its offset is the byte of its contents (or, in Parquet, the row) to continue at. Files are listed once per
//! run, in order of their names, and dealt to the subtasks in turn. After a restore files that are new are read too, finished ones
//! are not read again, and a file that was removed before its end is an error. With `refresh_interval` they are listed again and
//! again; then their names say whose they are.
//!
//! A path without wildcards that names nothing is an error; a pattern or folder without files is empty, with a warning.
//!
//! Changes are meant in order: files of a format of changes are all read by one subtask.
//!
//! Not guaranteed: anything about files that change while they are read.
//!
//! As a sink, see [`sink`].
//!
//! As a lookup table the files are held in memory, see [`lookup`].
//!
//! - [`location`] what `path` means: globs, folders, URLs; listing.
//! - [`compression`] gzip and zstd. - [`stores`] object stores by URL.
//! - [`reader`] fetches bytes and Parquet rows ahead, on the I/O runtime.
//! - [`parquet_file`] columns of Parquet files.
//! - [`source`] decodes them on the shard.

mod arrow_file;
pub(crate) mod compression;
pub(crate) mod location;
pub(in crate::engine::connectors) mod lookup;
pub(crate) mod parquet_file;
mod reader;
mod sink;
mod source;
mod stores;

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::engine::connectors::filesystem::compression::Compression;
use crate::engine::connectors::filesystem::location::Location;
use crate::engine::connectors::filesystem::lookup::{FileLookups, LookupFiles};
use crate::engine::connectors::filesystem::sink::committer::FileCommitter;
use crate::engine::connectors::filesystem::sink::options::SinkOptions;
use crate::engine::connectors::filesystem::sink::target::SinkNames;
use crate::engine::connectors::kept_outside::{KeptOutside, PipelineUse};
use crate::engine::connectors::lookup::{Lookup, LookupContext, LookupOptions, lookup_descriptions};
use crate::engine::connectors::options::{
    CommonOptions, OptionReader, choice_option, common_descriptions, duration_option, flag_option, text_option,
};
use crate::engine::connectors::{
    Committer, CommitterContext, Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction,
    METADATA_FIELD, OptionDescription, OptionKind, OptionScope, Result, Sink, SinkChangelogSupport, SinkContext,
    Source, SourceContext, SourceKey,
};
use crate::engine::error::Error;
use crate::engine::formats::{Format, FormatOptions, infer};
use crate::error::SqlState;
use crate::options::ResolvedOptions;

const FORMATS: &[&str] = &[
    "json",
    "debezium_json",
    "csv",
    "parquet",
    "arrow",
    "raw_string",
    "raw_bytes",
    "avro",
    "protobuf",
];

/// Names of options that go to the object store as they are.
const STORE_PREFIXES: [&str; 4] = ["aws_", "google_", "azure_", "allow_http"];

pub struct Filesystem;

fn store_option(name: &'static str, secret: bool, summary: &'static str) -> OptionDescription {
    OptionDescription {
        kind: if secret { OptionKind::Secret } else { OptionKind::Text },
        scope: OptionScope::Both,
        ..text_option(name, &[], None, summary)
    }
}

fn store_options() -> Vec<OptionDescription> {
    vec![
        store_option(
            "aws_access_key_id",
            true,
            "S3: who asks; without it the machine's role.",
        ),
        store_option("aws_secret_access_key", true, "S3: the key's secret."),
        store_option("aws_session_token", true, "S3: the token of a temporary key."),
        store_option("aws_region", false, "S3: the bucket's region."),
        store_option(
            "aws_endpoint",
            false,
            "S3: the URL of another store that speaks S3, such as MinIO.",
        ),
        store_option(
            "aws_virtual_hosted_style_request",
            false,
            "S3: whether the bucket is part of the host name.",
        ),
        store_option("aws_skip_signature", false, "S3: true for public buckets."),
        store_option(
            "google_service_account",
            false,
            "Google Cloud Storage: the path of a key file.",
        ),
        store_option(
            "google_service_account_key",
            true,
            "Google Cloud Storage: a key file's contents.",
        ),
        store_option("azure_storage_account_name", false, "Azure: the account."),
        store_option(
            "azure_endpoint",
            false,
            "Azure: the URL of another place than the public cloud, such as a private endpoint or Azurite.",
        ),
        store_option("azure_storage_account_key", true, "Azure: the account's key."),
        store_option("azure_storage_sas_key", true, "Azure: a shared access signature."),
        OptionDescription {
            scope: OptionScope::Both,
            ..flag_option("allow_http", &[], None, "Whether the store may be asked without TLS.")
        },
    ]
}

fn compression_option() -> OptionDescription {
    choice_option(
        "compression",
        &["source.compression"],
        &["none", "gzip", "zstd"],
        "How files are compressed; those read by the end of their names by default, those written not at all.",
    )
}

fn refresh_option() -> OptionDescription {
    OptionDescription {
        direction: Direction::Source,
        ..duration_option(
            "refresh_interval",
            &["source.refresh_interval", "discovery_interval"],
            None,
            "How often files that are new are looked for; without it once, and the table ends.",
        )
    }
}

#[async_trait::async_trait]
impl Connector for Filesystem {
    fn name(&self) -> &'static str {
        "filesystem"
    }

    fn describe(&self) -> ConnectorDescription {
        let mut options = vec![OptionDescription {
            required: true,
            scope: OptionScope::Both,
            ..text_option(
                "path",
                &[],
                None,
                "A file, a folder, a glob such as /data/*.json, or a URL: file, s3, gs, az, http.",
            )
        }];
        options.push(compression_option());
        options.push(refresh_option());
        options.extend(sink::options::descriptions());
        options.extend(store_options());
        options.extend(lookup_descriptions(false));
        options.extend(common_descriptions(FORMATS));
        ConnectorDescription {
            name: "filesystem",
            title: "File system and object storage",
            summary: "Reads files of a folder, a glob or an object store, or writes them, exactly once.",
            category: "files",
            direction: Direction::Both,
            formats: FORMATS,
            options,
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let (files, common) = self.read(options)?;
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let is_sink = options
            .get("type")
            .is_some_and(|of| of.text.trim().eq_ignore_ascii_case("sink"));
        let sink = SinkOptions::read(&reader, &files.format)?;
        files.format.check_columns(declared.as_ref(), is_sink)?;
        if is_sink {
            files.location.target()?;
            sink.check_columns(&files.format, declared.as_ref())?;
        }
        Ok(Arc::new(FilesystemTable {
            is_sink,
            sink,
            schema: match is_sink {
                true => declared,
                false => declared.map(|declared| with_file_column(&declared)),
            },
            files: Arc::new(files),
            common,
            lookup: LookupOptions::held(&reader)?,
            lookups: FileLookups::default(),
        }))
    }

    async fn check_connection(&self, options: &ResolvedOptions) -> Result<()> {
        let description = self.describe();
        let reader = OptionReader::for_connection(&description, options)?;
        let validate = options.get("validate").is_none_or(|value| value.text.trim() != "false");
        if let Some(path) = reader.text("path")
            && validate
        {
            Location::open(path, store_settings(&reader))?.list().await?;
        }
        Ok(())
    }

    fn known_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        Ok(self.read(options)?.0.format.known_schema())
    }

    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        let (files, _) = self.read(options)?;
        if let Some(schema) = files.format.known_schema() {
            return Ok(Some(schema));
        }
        let listed = files.location.list().await?;
        let Some(first) = listed.first() else {
            return Err(Error::Data {
                code: SqlState::UNDEFINED_FILE,
                message: format!("no file matches \"{}\"", files.location.text()),
                detail: Some("The columns are taken from the first file.".into()),
            });
        };
        if files.format.format == Format::Parquet {
            return parquet_file::schema(&files.location, first).await.map(Some);
        }
        let sample = reader::head(&files.location, first, infer::SAMPLE_BYTES as u64).await?;
        if files.format.format == Format::Arrow {
            return arrow_file::schema(&sample, first).map(Some);
        }
        infer::infer(&files.format, &sample, &first.name)
    }
}

impl Filesystem {
    fn read(&self, options: &ResolvedOptions) -> Result<(Files, CommonOptions)> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let files = Files {
            location: Location::open(reader.required("path")?, store_settings(&reader))?
                .compressed(Compression::by_option(reader.choice("compression")?)),
            refresh: reader.duration("refresh_interval")?,
            listed: tokio::sync::OnceCell::new(),
            format: FormatOptions::read(&reader)?,
        };
        Ok((files, reader.common()?))
    }
}

fn store_settings(reader: &OptionReader<'_>) -> Vec<(&'static str, String)> {
    reader.given_texts(|name| STORE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// The key of `METADATA FROM 'file'`.
const FILE: &str = "file";

fn with_file_column(declared: &SchemaRef) -> SchemaRef {
    let mut fields: Vec<Arc<Field>> = declared.fields().iter().cloned().collect();
    if !fields.iter().any(|field| field.name() == "_file") {
        let metadata = [(METADATA_FIELD.to_owned(), FILE.to_owned())].into();
        fields.push(Arc::new(
            Field::new("_file", DataType::Utf8, false).with_metadata(metadata),
        ));
    }
    Arc::new(Schema::new(fields))
}

/// What all subtasks of a run share.
#[derive(Debug)]
struct Files {
    location: Location,
    /// How often files that are new are looked for; `None`: once, and the source ends.
    refresh: Option<Duration>,
    /// Listed by the first subtask that needs it, so that all deal the same files.
    listed: tokio::sync::OnceCell<Arc<Vec<location::InputFile>>>,
    format: FormatOptions,
}

impl Files {
    async fn list(&self) -> Result<Arc<Vec<location::InputFile>>> {
        let listed = self
            .listed
            .get_or_try_init(async || self.location.list().await.map(Arc::new))
            .await?;
        Ok(Arc::clone(listed))
    }
}

#[derive(Debug)]
struct FilesystemTable {
    /// `type = 'sink'`.
    is_sink: bool,
    sink: SinkOptions,
    schema: Option<SchemaRef>,
    files: Arc<Files>,
    common: CommonOptions,
    lookup: LookupOptions,
    lookups: FileLookups,
}

#[async_trait::async_trait]
impl ConnectorTable for FilesystemTable {
    fn connector(&self) -> &'static str {
        "filesystem"
    }

    fn schema(&self) -> Option<SchemaRef> {
        self.schema.clone()
    }

    fn direction(&self) -> Direction {
        match (self.is_sink, self.files.location.is_folder()) {
            (true, _) => Direction::Sink,
            (false, true) => Direction::Both,
            (false, false) => Direction::Source,
        }
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn bounded(&self) -> bool {
        self.files.refresh.is_none()
    }

    fn append_only(&self) -> bool {
        self.files.format.append_only()
    }

    fn source_key(&self) -> SourceKey {
        self.files.format.source_key()
    }

    fn guarantee(&self) -> DeliveryGuarantee {
        DeliveryGuarantee::ExactlyOnce
    }

    async fn input_warning(&self) -> Option<String> {
        // What cannot be listed is an error where it is read.
        let is_empty = self.files.location.is_empty().await.unwrap_or(false);
        is_empty.then(|| format!("no file matches \"{}\"", self.files.location.text()))
    }

    /// Changes mean something in their order, which subtasks have not in common.
    fn sink_parallelism_max(&self) -> Option<u32> {
        (!self.files.format.append_only()).then_some(1)
    }

    fn sink_changelog(&self, primary_key: Option<&[usize]>) -> SinkChangelogSupport {
        self.files.format.sink_changelog(primary_key)
    }

    async fn check_outside(&self, _key: &[String]) -> Result<()> {
        match self.is_sink {
            true => self.files.location.target()?.check().await,
            false => Ok(()),
        }
    }

    fn open_sink(&self, context: SinkContext) -> Result<Box<dyn Sink>> {
        sink::open(self.files.location.target()?, &self.sink, &self.files.format, context)
    }

    async fn open_committer(&self, _context: CommitterContext) -> Result<Box<dyn Committer>> {
        Ok(Box::new(FileCommitter {
            target: self.files.location.target()?,
        }))
    }

    fn kept_outside(&self, by: &PipelineUse) -> Option<KeptOutside> {
        match by {
            PipelineUse::Sink(sink) => Some(sink::leftovers::kept(
                self.files.location.text(),
                &SinkNames::after_all(&self.sink.prefix, sink),
            )),
            PipelineUse::Source(_) => None,
        }
    }

    async fn forget(&self, by: &PipelineUse) -> Result<()> {
        match by {
            PipelineUse::Sink(sink) => {
                let names = SinkNames::after_all(&self.sink.prefix, sink);
                sink::leftovers::forget(self.files.location.target()?, names).await
            }
            PipelineUse::Source(_) => Ok(()),
        }
    }

    fn lookup_options(&self) -> Option<LookupOptions> {
        Some(self.lookup)
    }

    async fn check_lookup(&self, _key: &[String]) -> Result<()> {
        self.files.location.list().await.map(|_| ())
    }

    fn open_lookup(&self, context: LookupContext) -> Result<Arc<dyn Lookup>> {
        let files = LookupFiles {
            location: self.files.location.clone(),
            format: self.files.format.clone(),
            names: lookup::file_columns(self.schema.as_ref()),
            ttl: self.lookup.cache_ttl,
        };
        Ok(self.lookups.open(files, context))
    }

    fn open_source(&self, context: SourceContext) -> Result<Box<dyn Source>> {
        source::open(Arc::clone(&self.files), self.schema.as_ref(), context)
    }
}

#[cfg(test)]
mod tests;

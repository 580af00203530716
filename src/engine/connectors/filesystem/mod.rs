//! Many files, of this machine or of an object store, read once each.
//!
//! A split is a file; its offset is the byte (or, in Parquet, the row) to continue at. Files are listed once per run, in
//! order of their names, and dealt to the subtasks in turn. After a restore files that are new are read too, finished ones
//! are not read again, and a file that was removed before its end is an error.
//!
//! A path without wildcards that names nothing is an error; a pattern or folder without files is empty, with a warning.
//!
//! Changes are meant in order: files of a format of changes are all read by one subtask.
//!
//! Not guaranteed: anything about files that change while they are read.
//!
//! As a lookup table the files are held in memory, see [`lookup`].
//!
//! - [`location`] what `path` means: globs, folders, URLs; listing.
//! - [`reader`] fetches bytes and Parquet rows ahead, on the I/O runtime.
//! - [`parquet_file`] columns of Parquet files.
//! - [`source`] decodes them on the shard.

pub(in crate::engine::connectors) mod location;
pub(in crate::engine::connectors) mod lookup;
mod parquet_file;
mod reader;
mod source;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::engine::connectors::filesystem::location::Location;
use crate::engine::connectors::filesystem::lookup::{FileLookups, LookupFiles};
use crate::engine::connectors::lookup::{Lookup, LookupContext, LookupOptions, lookup_descriptions};
use crate::engine::connectors::options::{CommonOptions, OptionReader, common_descriptions, flag_option, text_option};
use crate::engine::connectors::{
    Connector, ConnectorDescription, ConnectorTable, DeliveryGuarantee, Direction, METADATA_FIELD, OptionDescription,
    OptionKind, OptionScope, Result, Source, SourceContext, SourceKey,
};
use crate::engine::error::Error;
use crate::engine::formats::{Format, FormatOptions, infer};
use crate::error::SqlState;
use crate::options::ResolvedOptions;

const FORMATS: &[&str] = &["json", "debezium_json", "csv", "parquet", "raw_string", "raw_bytes"];

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
        store_option("azure_storage_account_key", true, "Azure: the account's key."),
        store_option("azure_storage_sas_key", true, "Azure: a shared access signature."),
        OptionDescription {
            scope: OptionScope::Both,
            ..flag_option("allow_http", &[], None, "Whether the store may be asked without TLS.")
        },
    ]
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
        options.extend(store_options());
        options.extend(lookup_descriptions(false));
        options.extend(common_descriptions(FORMATS));
        ConnectorDescription {
            name: "filesystem",
            title: "File system and object storage",
            summary: "Reads files of a folder, a glob or an object store.",
            category: "files",
            direction: Direction::Source,
            formats: FORMATS,
            options,
        }
    }

    fn resolve(&self, options: &ResolvedOptions, declared: Option<SchemaRef>) -> Result<Arc<dyn ConnectorTable>> {
        let (files, common) = self.read(options)?;
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        Ok(Arc::new(FilesystemTable {
            schema: declared.map(|declared| with_file_column(&declared)),
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

    async fn infer_schema(&self, options: &ResolvedOptions) -> Result<Option<SchemaRef>> {
        let (files, _) = self.read(options)?;
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
        infer::infer(&files.format, &sample, &first.name)
    }
}

impl Filesystem {
    fn read(&self, options: &ResolvedOptions) -> Result<(Files, CommonOptions)> {
        let description = self.describe();
        let reader = OptionReader::for_table(&description, options)?;
        let files = Files {
            location: Location::open(reader.required("path")?, store_settings(&reader))?,
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
        Direction::Source
    }

    fn common(&self) -> CommonOptions {
        self.common.clone()
    }

    fn bounded(&self) -> bool {
        true
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

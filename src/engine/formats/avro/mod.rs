//! Avro: records in messages, with or without a schema registry; object container files; Debezium's changes.
//!
//! - [`schema`] schemas, parsed. [`derive`] schemas from columns and columns from schemas.
//! - [`plan`] how a writer's records become rows; [`read`] does it; [`decode`] with one schema, or with that of each record's id.
//! - [`write`] rows to records; [`encode`] with one schema, or with the one that a registry gave an id.
//! - [`changes`] Debezium's envelope. [`container`] files, and [`codec`] how they are packed.
//!
//! The table's columns are the reader's schema: what Avro calls schema resolution happens between the writer's schema and them, once for
//! each schema. Records are read straight into columns. Why not by `arrow-avro`: see `docs/adr/0012-avro.md`.

pub mod changes;
mod codec;
pub mod container;
pub mod decode;
pub mod derive;
pub mod encode;
#[cfg(test)]
mod oracle_tests;
pub mod plan;
pub mod read;
pub mod schema;
pub mod write;

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{Fields, SchemaRef};

use crate::engine::connectors::options::{OptionReader, text_option};
use crate::engine::connectors::{OptionDescription, files};
use crate::engine::error::Error;
use crate::engine::formats::avro::schema::AvroSchema;
use crate::engine::formats::json;
use crate::engine::formats::registered::{mismatch, no_columns};
use crate::engine::schema_registry::client::is_missing;
use crate::engine::schema_registry::{NewSchema, RegisteredSchema, SchemaKind, SchemaRegistry, TableSubject};
use crate::error::{ErrorReport, SqlState};

/// What a table says about Avro.
#[derive(Clone, Debug, Default)]
pub struct AvroOptions {
    /// Of what sinks register.
    kind: SchemaKind,
    /// Of records without an id in front.
    given: Option<GivenSchema>,
    record_name: Option<String>,
    /// Where the schemas of records are, unless the table gives one.
    pub registry: Option<Arc<SchemaRegistry>>,
    subject: TableSubject,
    topic: Option<String>,
}

/// A schema that the table names.
#[derive(Clone, Debug)]
enum GivenSchema {
    Text(Arc<AvroSchema>, Arc<str>),
    /// Read when it is needed.
    File(PathBuf),
}

pub fn descriptions() -> Vec<OptionDescription> {
    vec![
        text_option(
            "avro.schema",
            &["avro_schema"],
            None,
            "The schema that records are written by, when they do not come with the id of one.",
        ),
        text_option(
            "avro.schema_file",
            &["avro_schema_file"],
            None,
            "The file with that schema, instead of its text.",
        ),
        text_option(
            "avro.record_name",
            &["avro_record_name"],
            None,
            "The full name of the records that a sink writes; by default that of the subject's latest schema, or the topic's name.",
        ),
    ]
}

impl AvroOptions {
    pub fn read(options: &OptionReader<'_>) -> Result<AvroOptions, Error> {
        let given = match (options.text("avro.schema"), options.text("avro.schema_file")) {
            (Some(_), Some(_)) => {
                return Err(invalid(
                    "options \"avro.schema\" and \"avro.schema_file\" exclude each other",
                    "Give one of them.",
                ));
            }
            (Some(text), None) => Some(GivenSchema::parse(text)?),
            (None, Some(path)) => Some(GivenSchema::File(files::local_path("avro.schema_file", path)?)),
            (None, None) => None,
        };
        let topic = options.text("topic").map(|topic| topic.trim().to_owned());
        Ok(AvroOptions {
            registry: match given {
                Some(_) => None,
                None => SchemaRegistry::read(options)?,
            },
            kind: SchemaKind::Avro,
            given,
            record_name: options.text("avro.record_name").map(|name| name.trim().to_owned()),
            subject: TableSubject::read(options)?,
            topic: topic.filter(|topic| !topic.contains(',')),
        })
    }

    /// What a table of JSON says about its registry.
    pub fn of_json(options: &OptionReader<'_>) -> Result<AvroOptions, Error> {
        let read = AvroOptions::read(options)?;
        if read.registry.is_none() {
            return Err(invalid(
                "json.confluent_schema_registry needs option \"schema_registry.url\"",
                "Give it to the connection.",
            ));
        }
        Ok(AvroOptions {
            kind: SchemaKind::Json,
            ..read
        })
    }

    /// By the schemas of `registry`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn by_registry(registry: SchemaRegistry) -> AvroOptions {
        AvroOptions {
            registry: Some(Arc::new(registry)),
            ..AvroOptions::default()
        }
    }

    /// By `schema`, which is none of a registry's.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn by_schema(schema: &str) -> AvroOptions {
        AvroOptions {
            given: GivenSchema::parse(schema).ok(),
            ..AvroOptions::default()
        }
    }

    /// The schema that the table names.
    pub fn given(&self) -> Result<Option<Arc<AvroSchema>>, Error> {
        Ok(self.given_text()?.map(|(schema, _)| schema))
    }

    fn given_text(&self) -> Result<Option<(Arc<AvroSchema>, Arc<str>)>, Error> {
        let parsed = match &self.given {
            None => return Ok(None),
            Some(GivenSchema::File(path)) => {
                let read = std::fs::read_to_string(path);
                GivenSchema::parse(&read.map_err(|error| files::io_error("open", path.display(), &error))?)?
            }
            Some(given) => given.clone(),
        };
        match parsed {
            GivenSchema::Text(schema, text) => Ok(Some((schema, text))),
            GivenSchema::File(_) => Ok(None),
        }
    }

    /// Whether it is known what a source's records are written by.
    pub fn check_source(&self) -> Result<(), Error> {
        if self.given.is_some() || self.registry.is_some() {
            return Ok(());
        }
        Err(invalid(
            "records of Avro cannot be read without the schema that they were written by",
            "Give the connection schema_registry.url, or the table avro.schema or avro.schema_file, or say type = 'sink'.",
        ))
    }

    fn default_name(&self) -> String {
        match (&self.record_name, &self.topic) {
            (Some(name), _) => name.clone(),
            (None, Some(topic)) => derive::record_name(topic),
            (None, None) => derive::RECORD_NAME.to_owned(),
        }
    }

    /// The subject of the table's schema.
    fn subject_of(&self, record: Option<&str>) -> Result<String, Error> {
        self.subject.required(self.topic.as_deref(), record)
    }

    /// The columns of a source that declares none.
    pub async fn infer(&self, of: fn(&AvroSchema) -> Result<SchemaRef, String>) -> Result<Option<SchemaRef>, Error> {
        if let Some(schema) = self.given()? {
            return of(&schema)
                .map(Some)
                .map_err(|reason| no_columns("option \"avro.schema\"", &reason));
        }
        let Some((subject, schema)) = self.latest().await? else {
            return Ok(None);
        };
        let columns = of(&schema);
        columns
            .map(Some)
            .map_err(|reason| no_columns(&format!("subject \"{subject}\""), &reason))
    }

    /// The latest schema of the table's subject; `None` without a registry.
    async fn latest(&self) -> Result<Option<(String, AvroSchema)>, Error> {
        let Some(registry) = &self.registry else {
            return Ok(None);
        };
        let subject = self.subject_of(self.record_name.as_deref())?;
        let latest = registry.latest(&subject).await?;
        let schema = parsed(&latest.schema).map_err(|reason| no_columns(&format!("subject \"{subject}\""), &reason))?;
        Ok(Some((subject, schema)))
    }

    /// Whether a source's columns can be read from what is registered. `must_be_there`: that there is nothing yet is an error.
    pub async fn check_readable(
        &self,
        fits: impl Fn(&AvroSchema) -> Result<(), String>,
        must_be_there: bool,
    ) -> Result<(), Error> {
        if let Some(schema) = self.given()? {
            return fits(&schema).map_err(|reason| mismatch("option \"avro.schema\"", &reason));
        }
        match self.latest().await {
            Err(error) if is_missing(&error) && !must_be_there => Ok(()),
            Err(error) => Err(error),
            Ok(None) => Ok(()),
            Ok(Some((subject, schema))) => fits(&schema)
                .map_err(|reason| mismatch(&format!("the latest schema of subject \"{subject}\""), &reason)),
        }
    }

    /// Whether a sink's columns can be written: the registry's rules for what would be registered, or the schema that is there.
    pub async fn check_writable(&self, columns: &Fields) -> Result<(), Error> {
        let Some(registry) = &self.registry else {
            return self.sink_schema(columns).map(drop);
        };
        if !self.subject.registers {
            if self.kind == SchemaKind::Json {
                return registry
                    .latest(&self.subject_of(self.record_name.as_deref())?)
                    .await
                    .map(drop);
            }
            let Some((subject, schema)) = self.latest().await? else {
                return Ok(());
            };
            let place = format!("the latest schema of subject \"{subject}\"");
            return write::RecordWriter::of_rows(&schema, columns)
                .map(drop)
                .map_err(|reason| mismatch(&place, &reason));
        }
        let (subject, schema) = self.new_schema(columns, registry).await?;
        registry.check_compatible(&subject, &schema).await
    }

    /// The schema of a sink without a registry.
    pub fn sink_schema(&self, columns: &Fields) -> Result<Arc<AvroSchema>, Error> {
        if let Some(schema) = self.given()? {
            let fits = write::RecordWriter::of_rows(&schema, columns);
            fits.map_err(|reason| mismatch("option \"avro.schema\"", &reason))?;
            return Ok(schema);
        }
        let text = derive::schema_of(columns, &self.default_name())?.to_string();
        AvroSchema::parse(&text, &[]).map(Arc::new).map_err(Error::Internal)
    }

    /// The text of a sink's schema without a registry, as files keep it.
    pub fn sink_schema_text(&self, columns: &Fields) -> Result<String, Error> {
        self.sink_schema(columns)?;
        match self.given_text()? {
            Some((_, text)) => Ok(text.to_string()),
            None => Ok(derive::schema_of(columns, &self.default_name())?.to_string()),
        }
    }

    /// What a sink registers, and where. Records keep the name that they have in the subject's latest schema.
    async fn new_schema(&self, columns: &Fields, registry: &SchemaRegistry) -> Result<(String, NewSchema), Error> {
        let mut name = self.default_name();
        let subject = self.subject_of(Some(&name))?;
        if self.record_name.is_none() && self.kind == SchemaKind::Avro {
            match registry.latest(&subject).await {
                Ok(latest) => {
                    let schema = parsed(&latest.schema);
                    if let Some(Ok((known, _))) = schema.as_ref().ok().map(AvroSchema::record) {
                        name = known.to_owned();
                    }
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let text = match self.kind {
            SchemaKind::Json => json::schema::schema_of(columns, &name).to_string(),
            _ => derive::schema_of(columns, &name)?.to_string(),
        };
        let kind = self.kind;
        let refers_to = Vec::new();
        Ok((subject, NewSchema { kind, text, refers_to }))
    }
}

impl GivenSchema {
    fn parse(text: &str) -> Result<GivenSchema, Error> {
        let schema = AvroSchema::parse(text, &[]).map_err(|reason| {
            invalid(
                &format!("option \"avro.schema\" has no Avro schema: {reason}"),
                "It is a record in JSON.",
            )
        })?;
        Ok(GivenSchema::Text(Arc::new(schema), text.into()))
    }
}

/// A registered schema as one of Avro.
pub fn parsed(schema: &RegisteredSchema) -> Result<AvroSchema, String> {
    match schema.kind {
        SchemaKind::Avro => AvroSchema::parse(&schema.text, &schema.references),
        kind => Err(format!("schema {} is of type {kind:?}, not Avro", schema.id)),
    }
}

fn invalid(message: &str, hint: &str) -> Error {
    Error::Option(ErrorReport::new(SqlState::INVALID_PARAMETER_VALUE, message).with_hint(hint))
}

//! What a schema registry is asked about a table's messages: columns, whether they fit, what a sink writes by.
//!
//! A sink whose columns are all fields of the subject's latest version writes by that version. Otherwise it registers a next one, which is
//! the latest with a field more for each new column: the numbers that fields have are what older and newer records have in
//! common. The first version is made of the columns; a schema that the table gives is registered as it is.
//!
//! Not here: contexts; rules and tags of `confluent/meta.proto`, which are left as they are.

use std::sync::Arc;

use arrow::datatypes::{Fields, Schema, SchemaRef};
use prost_reflect::{FileDescriptor, MessageDescriptor};

use crate::engine::connectors::options::OptionReader;
use crate::engine::error::Error;
use crate::engine::formats::avro::derive::{RECORD_NAME, record_name};
use crate::engine::formats::protobuf::registered::RegisteredDecoder;
use crate::engine::formats::protobuf::types::{self, Purpose};
use crate::engine::formats::protobuf::{ProtobufOptions, derive, frame, schema};
use crate::engine::formats::registered::{Ready, Writer, mismatch, no_columns};
use crate::engine::schema_registry::client::{is_missing, waiting};
use crate::engine::schema_registry::{NewSchema, RegisteredSchema, SchemaKind, SchemaRegistry, TableSubject};

/// A table's messages, whose schemas are in a registry.
#[derive(Clone, Debug)]
pub struct RegisteredMessages {
    registry: Arc<SchemaRegistry>,
    subject: TableSubject,
    topic: Option<String>,
    /// The name of the message, with or without its package.
    message: Option<String>,
    given: Option<ProtobufOptions>,
}

/// What a sink writes by.
enum SinkMessage {
    /// This message of the schema with this id.
    Known(u32, MessageDescriptor),
    /// This message of a schema that is to be registered.
    New(NewSchema, MessageDescriptor),
}

impl RegisteredMessages {
    pub fn read(
        options: &OptionReader<'_>,
        registry: Arc<SchemaRegistry>,
        given: Option<ProtobufOptions>,
    ) -> Result<RegisteredMessages, Error> {
        let text = |name: &str| options.text(name).map(|text| text.trim().to_owned());
        Ok(RegisteredMessages {
            registry,
            subject: TableSubject::read(options)?,
            topic: text("topic").filter(|topic| !topic.contains(',')),
            message: text("protobuf.message").map(|name| name.trim_start_matches('.').to_owned()),
            given,
        })
    }

    pub fn registry(&self) -> Arc<SchemaRegistry> {
        Arc::clone(&self.registry)
    }

    pub fn given(&self) -> Option<&ProtobufOptions> {
        self.given.as_ref()
    }

    pub fn decoder(&self, schema: &SchemaRef) -> Result<RegisteredDecoder, Error> {
        let registry = Arc::clone(&self.registry);
        RegisteredDecoder::new(schema, registry, self.given.as_ref(), self.message.as_deref())
    }

    /// The name of the message, as far as the table says it.
    fn name(&self) -> Option<&str> {
        match &self.given {
            Some(given) => Some(given.message.full_name()),
            None => self.message.as_deref(),
        }
    }

    fn default_name(&self) -> String {
        match (self.name(), &self.topic) {
            (Some(name), _) => name.to_owned(),
            (None, Some(topic)) => record_name(topic),
            (None, None) => RECORD_NAME.to_owned(),
        }
    }

    /// The columns of a table that declares none.
    pub async fn infer(&self) -> Result<SchemaRef, Error> {
        if let Some(given) = &self.given {
            return Ok(given.schema());
        }
        let subject = self.subject.required(self.topic.as_deref(), self.name())?;
        let latest = self.registry.latest(&subject).await?;
        let message = self.message_of(&latest.schema);
        let message = message.map_err(|reason| no_columns(&format!("subject \"{subject}\""), &reason))?;
        Ok(types::schema(&message))
    }

    /// The message of a schema that the table names, by default the first.
    fn message_of(&self, schema: &RegisteredSchema) -> Result<MessageDescriptor, String> {
        let file = parsed(schema)?;
        let Some(name) = self.name() else {
            let first = file.messages().next();
            return first.ok_or_else(|| "the Protobuf schema has no message".to_owned());
        };
        let message = schema::find(file.parent_pool(), Some(&file), Some(name)).map_err(|error| error.to_string())?;
        match message.parent_file().name() == file.name() {
            true => Ok(message),
            false => Err(format!(
                "message \"{}\" is in a file that the schema imports",
                message.full_name()
            )),
        }
    }

    /// Whether a source's columns can be read from what is registered. `must_be_there`: that there is nothing yet is an error.
    pub async fn check_readable(&self, columns: &Fields, must_be_there: bool) -> Result<(), Error> {
        let subject = self.subject.required(self.topic.as_deref(), self.name())?;
        let latest = match self.registry.latest(&subject).await {
            Err(error) if is_missing(&error) && !must_be_there => return Ok(()),
            latest => latest?,
        };
        let place = format!("the latest schema of subject \"{subject}\"");
        let message = self
            .message_of(&latest.schema)
            .map_err(|reason| mismatch(&place, &reason))?;
        types::check(&message, &Schema::new(columns.clone()), Purpose::ReadVersion)
            .map_err(|error| mismatch(&place, &error.to_string()))
    }

    /// Whether a sink's columns can be written, by the registry's rules for what would be registered.
    pub async fn check_writable(&self, columns: &Fields) -> Result<(), Error> {
        match self.sink_message(columns).await? {
            (_, SinkMessage::Known(..)) => Ok(()),
            (subject, SinkMessage::New(new, _)) => self.registry.check_compatible(&subject, &new).await,
        }
    }

    /// The subject, and what rows of these columns are written by.
    async fn sink_message(&self, columns: &Fields) -> Result<(String, SinkMessage), Error> {
        let name = self.default_name();
        let subject = self.subject.required(self.topic.as_deref(), Some(&name))?;
        let found = match &self.given {
            Some(given) if self.subject.registers => {
                given.check(&Schema::new(columns.clone()), true)?;
                SinkMessage::New(new_schema(derive::registrable(given)?, None), given.message.clone())
            }
            _ => match self.registry.latest(&subject).await {
                Err(error) if is_missing(&error) && self.subject.registers => {
                    let text = derive::text_of(columns, &name)?;
                    let message = derive::message_named(&text, &[], &name)?;
                    SinkMessage::New(new_schema(text, None), message)
                }
                latest => self.after(&latest?.schema, &subject, columns)?,
            },
        };
        Ok((subject, found))
    }

    /// By the subject's latest version, or by the one that comes after it.
    fn after(&self, latest: &RegisteredSchema, subject: &str, columns: &Fields) -> Result<SinkMessage, Error> {
        let place = format!("the latest schema of subject \"{subject}\"");
        let message = self.message_of(latest).map_err(|reason| mismatch(&place, &reason))?;
        let schema = Schema::new(columns.clone());
        let fits = |message: &MessageDescriptor, purpose| {
            types::check(message, &schema, purpose).map_err(|error| mismatch(&place, &error.to_string()))
        };
        match fits(&message, Purpose::Write) {
            Ok(()) => return Ok(SinkMessage::Known(latest.id, message)),
            Err(error) if !self.subject.registers => return Err(error),
            Err(_) => {}
        }
        // What is there keeps its number and its type.
        fits(&message, Purpose::ReadVersion)?;
        let text = derive::extended(&latest.text, &message, columns)?;
        let message = derive::message_named(&text, &latest.references, message.full_name())?;
        fits(&message, Purpose::Write)?;
        Ok(SinkMessage::New(new_schema(text, Some(latest)), message))
    }

    /// What the registry says of a sink's schema; `None`: the sink is gone.
    pub async fn found(
        &self,
        declared: &Fields,
        written: &Fields,
        is_gone: impl Fn() -> bool,
    ) -> Result<Option<Ready>, Error> {
        let Some((subject, found)) = waiting(&is_gone, || self.sink_message(declared)).await? else {
            return Ok(None);
        };
        let (id, message) = match found {
            SinkMessage::Known(id, message) => (id, message),
            SinkMessage::New(new, message) => match waiting(&is_gone, || self.registry.register(&subject, &new)).await?
            {
                Some(id) => (id, message),
                None => return Ok(None),
            },
        };
        types::check(&message, &Schema::new(written.clone()), Purpose::Write)
            .map_err(|error| mismatch(&format!("schema {id} of subject \"{subject}\""), &error.to_string()))?;
        let places = frame::places_of(&message);
        let mut ready = Ready::new(id, Writer::Protobuf(message));
        frame::put(&places, &mut ready.header);
        Ok(Some(ready))
    }
}

fn new_schema(text: String, of: Option<&RegisteredSchema>) -> NewSchema {
    NewSchema {
        kind: SchemaKind::Protobuf,
        text,
        refers_to: of.map(|schema| schema.refers_to.clone()).unwrap_or_default(),
    }
}

/// A registered schema as one of Protobuf.
pub fn parsed(schema: &RegisteredSchema) -> Result<FileDescriptor, String> {
    match schema.kind {
        SchemaKind::Protobuf => schema::registered(&schema.text, &schema.references),
        kind => Err(format!("schema {} is of type {kind:?}, not Protobuf", schema.id)),
    }
}

/// Whether this is the message's name, which may leave out the package.
pub fn is_called(message: &MessageDescriptor, name: &str) -> bool {
    let full = message.full_name();
    full == name || full.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
}

//! Protobuf: messages to rows and back, by the description of the message in a schema.
//!
//! A record of Kafka is one message; a file holds messages that each begin with their length as a varint, which is what
//! `writeDelimitedTo` of Protobuf's own libraries writes.
//!
//! - [`schema`] which message, from a text, a `.proto` file or a compiled descriptor set.
//! - [`types`] fields and types of columns: inferred ones, and which others fit.
//! - [`known_files`] what schemas may import without bringing it along, [`known_messages`] those that are single values.
//! - [`wire`] the wire format. - [`values`] single values. - [`map_keys`] entries of maps that count.
//! - [`plan`] where fields go; [`decode`] messages to columns. - [`encode`] columns to messages.
//!
//! Messages may come with the id of a schema in a registry in front: [`frame`] what stands there, [`registered`] a plan for each id over the
//! same columns, [`registry`] what the registry is asked, [`derive`] the schema that a sink registers.

pub mod decode;
mod derive;
pub mod encode;
pub mod frame;
mod known_files;
mod known_messages;
mod map_keys;
mod plan;
pub mod registered;
pub mod registry;
mod schema;
mod types;
mod values;
mod wire;

use arrow::datatypes::{Schema, SchemaRef};
use prost_reflect::MessageDescriptor;

use crate::engine::connectors::OptionDescription;
use crate::engine::connectors::options::{OptionReader, flag_option, text_option};
use crate::engine::error::Error;
use crate::engine::formats::protobuf::decode::{Framing, ProtobufDecoder};
use crate::engine::formats::protobuf::encode::ProtobufEncoder;
use crate::engine::formats::protobuf::registry::RegisteredMessages;
use crate::engine::formats::protobuf::types::Purpose;
use crate::engine::schema_registry::SchemaRegistry;
use crate::error::{ErrorReport, SqlState};

/// What a table says about its messages.
#[derive(Clone, Debug)]
pub enum ProtobufTable {
    Given(ProtobufOptions),
    /// The id of a schema stands in front of each.
    Registered(RegisteredMessages),
}

impl ProtobufTable {
    pub fn read(options: &OptionReader<'_>) -> Result<ProtobufTable, Error> {
        let given = ProtobufOptions::read(options)?;
        let framed = options.flag("protobuf.confluent_schema_registry")?;
        if !framed.unwrap_or(given.is_none()) {
            return given.map(ProtobufTable::Given).ok_or_else(schema::missing);
        }
        match SchemaRegistry::read(options)? {
            Some(registry) => Ok(ProtobufTable::Registered(RegisteredMessages::read(
                options, registry, given,
            )?)),
            None if framed.is_none() => Err(schema::missing()),
            None => Err(Error::Option(
                ErrorReport::new(
                    SqlState::INVALID_PARAMETER_VALUE,
                    "protobuf.confluent_schema_registry needs option \"schema_registry.url\"",
                )
                .with_hint("Give it to the connection."),
            )),
        }
    }

    /// The message that the table gives, which is that of records without ids.
    pub fn given(&self) -> Option<&ProtobufOptions> {
        match self {
            ProtobufTable::Given(given) => Some(given),
            ProtobufTable::Registered(registered) => registered.given(),
        }
    }
}

/// The message that records are.
#[derive(Clone)]
pub struct ProtobufOptions {
    message: MessageDescriptor,
    text: Option<String>,
}

impl std::fmt::Debug for ProtobufOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProtobufOptions")
            .field(&self.message.full_name())
            .finish()
    }
}

impl ProtobufOptions {
    /// `None`: the table gives no schema.
    pub fn read(options: &OptionReader<'_>) -> Result<Option<ProtobufOptions>, Error> {
        let given = schema::given(options)?;
        Ok(given.map(|schema::Given { message, text }| ProtobufOptions { message, text }))
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub fn of_text(text: &str, name: &str) -> Result<ProtobufOptions, Error> {
        Ok(ProtobufOptions {
            message: schema::of_text(text, name)?,
            text: Some(text.to_owned()),
        })
    }

    /// The columns that the message has.
    pub fn schema(&self) -> SchemaRef {
        types::schema(&self.message)
    }

    /// Whether the message can be read into, or written from, these columns.
    pub fn check(&self, columns: &Schema, is_sink: bool) -> Result<(), Error> {
        let purpose = if is_sink { Purpose::Write } else { Purpose::Read };
        types::check(&self.message, columns, purpose)
    }

    pub fn decoder(&self, schema: &SchemaRef, framing: Framing) -> Result<ProtobufDecoder, Error> {
        ProtobufDecoder::new(&self.message, schema, framing)
    }

    pub fn encoder(&self, schema: &SchemaRef, framing: Framing) -> Result<ProtobufEncoder, Error> {
        ProtobufEncoder::new(&self.message, schema, framing)
    }
}

pub fn option_descriptions() -> [OptionDescription; 6] {
    [
        text_option(
            "protobuf.schema",
            &[],
            None,
            "The text of the .proto file that describes the message.",
        ),
        text_option(
            "protobuf.schema_file",
            &[],
            None,
            "The .proto file that describes the message, on the server's machine.",
        ),
        text_option(
            "protobuf.descriptor_file",
            &["protobuf.descriptor_set_file"],
            None,
            "A compiled descriptor set with its imports, instead of a .proto file.",
        ),
        text_option(
            "protobuf.include",
            &[],
            None,
            "The folder in which imports are looked for; that of the .proto file by default.",
        ),
        text_option(
            "protobuf.message",
            &["protobuf.message_name"],
            None,
            "The message that a record is; needed when the schema has several.",
        ),
        flag_option(
            "protobuf.confluent_schema_registry",
            &["protobuf.schema_registry"],
            None,
            "Whether the id of a schema stands in front of messages; it does when a registry is named and no schema is given.",
        ),
    ]
}

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod python_tests;
#[cfg(test)]
mod tests;

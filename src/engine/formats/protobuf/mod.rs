//! Protobuf: messages to rows and back, by the description of the message in a schema.
//!
//! A record of Kafka is one message; a file holds messages that each begin with their length as a varint, which is what
//! `writeDelimitedTo` of Protobuf's own libraries writes.
//!
//! - [`schema`] which message, from a text, a `.proto` file or a compiled descriptor set.
//! - [`types`] fields and types of columns: inferred ones, and which others fit.
//! - [`wire`] the wire format. - [`values`] single values. - [`map_keys`] entries of maps that count.
//! - [`plan`] where fields go; [`decode`] messages to columns. - [`encode`] columns to messages.
//!
//! A schema that comes with each record, by its number in a registry, is another [`MessagePlan`] a number over the same columns:
//! what precedes the message is a matter of [`decode::Framing`].
//!
//! [`MessagePlan`]: plan::MessagePlan

pub mod decode;
pub mod encode;
mod map_keys;
mod plan;
mod schema;
mod types;
mod values;
mod wire;

use arrow::datatypes::{Schema, SchemaRef};
use prost_reflect::MessageDescriptor;

use crate::engine::connectors::OptionDescription;
use crate::engine::connectors::options::{OptionReader, text_option};
use crate::engine::error::Error;
use crate::engine::formats::protobuf::decode::{Framing, ProtobufDecoder};
use crate::engine::formats::protobuf::encode::ProtobufEncoder;

/// The message that records are.
#[derive(Clone)]
pub struct ProtobufOptions {
    message: MessageDescriptor,
}

impl std::fmt::Debug for ProtobufOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ProtobufOptions")
            .field(&self.message.full_name())
            .finish()
    }
}

impl ProtobufOptions {
    pub fn read(options: &OptionReader<'_>) -> Result<ProtobufOptions, Error> {
        Ok(ProtobufOptions {
            message: schema::message(options)?,
        })
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub fn of_text(text: &str, name: &str) -> Result<ProtobufOptions, Error> {
        Ok(ProtobufOptions {
            message: schema::of_text(text, name)?,
        })
    }

    /// The columns that the message has.
    pub fn schema(&self) -> SchemaRef {
        types::schema(&self.message)
    }

    /// Whether the message can be read into, or written from, these columns.
    pub fn check(&self, columns: &Schema, is_sink: bool) -> Result<(), Error> {
        types::check(&self.message, columns, is_sink)
    }

    pub fn decoder(&self, schema: &SchemaRef, framing: Framing) -> Result<ProtobufDecoder, Error> {
        ProtobufDecoder::new(&self.message, schema, framing)
    }

    pub fn encoder(&self, schema: &SchemaRef, framing: Framing) -> Result<ProtobufEncoder, Error> {
        ProtobufEncoder::new(&self.message, schema, framing)
    }
}

pub fn option_descriptions() -> [OptionDescription; 5] {
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
    ]
}

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod python_tests;
#[cfg(test)]
mod tests;

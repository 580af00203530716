//! Messages as they travel from the thread that fetches to the shard that decodes: bytes one after the other, few allocations.

use std::ops::Range;

use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers};

/// A batch is handed on with so many messages or bytes.
const MESSAGES_MAX: usize = 4096;
const BYTES_MAX: usize = 1024 * 1024;

/// What is copied out of messages beside their values.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub key: bool,
    pub headers: bool,
}

/// Messages of one partition, in order.
#[derive(Default)]
pub struct MessageBatch {
    bytes: Vec<u8>,
    messages: Vec<Message>,
}

pub struct Message {
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp: Option<i64>,
    key: Option<Range<usize>>,
    /// The value and a line feed.
    value: Option<Range<usize>>,
    /// As a JSON object.
    headers: Option<Range<usize>>,
}

impl MessageBatch {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.messages.len() >= MESSAGES_MAX || self.bytes.len() >= BYTES_MAX
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// How many messages come before `offset`.
    pub fn before(&self, offset: i64) -> usize {
        self.messages.partition_point(|message| message.offset < offset)
    }

    pub fn get(&self, index: usize) -> Option<&Message> {
        self.messages.get(index)
    }

    pub fn key(&self, message: &Message) -> Option<&[u8]> {
        message.key.clone().map(|range| &self.bytes[range])
    }

    /// The value, followed by a line feed that is not part of it.
    pub fn value_line(&self, message: &Message) -> Option<&[u8]> {
        message.value.clone().map(|range| &self.bytes[range])
    }

    /// The values that there are.
    pub fn values(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.messages.iter().filter_map(|message| self.value_line(message));
        lines.map(|line| &line[..line.len() - 1])
    }

    pub fn headers(&self, message: &Message) -> Option<&[u8]> {
        message.headers.clone().map(|range| &self.bytes[range])
    }

    fn add(&mut self, piece: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(piece);
        start..self.bytes.len()
    }

    pub fn push(&mut self, message: &BorrowedMessage<'_>, wanted: Wanted) {
        let value = message.payload().map(|value| {
            let start = self.add(value).start;
            self.bytes.push(b'\n');
            start..self.bytes.len()
        });
        let key = message.key().filter(|_| wanted.key).map(|key| self.add(key));
        let headers = message.headers().filter(|_| wanted.headers).map(|headers| {
            let object = headers_object(headers.iter().map(|header| (header.key, header.value)));
            self.add(object.as_bytes())
        });
        self.messages.push(Message {
            offset: message.offset(),
            timestamp: message.timestamp().to_millis(),
            key,
            value,
            headers,
        });
    }
}

/// Values that are no text are written as Postgres writes bytes; of a name given twice the last value counts.
pub fn headers_object<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> String {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes
            .iter()
            .fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    };
    let fields = headers.map(|(name, value)| (name.to_owned(), value.map(text).into()));
    serde_json::Value::Object(fields.collect()).to_string()
}

#[cfg(any(test, feature = "fuzzing"))]
pub fn batch_of(messages: &[(i64, Option<&[u8]>, Option<&[u8]>)]) -> MessageBatch {
    let mut batch = MessageBatch::default();
    for (offset, key, value) in messages {
        let value = value.map(|value| {
            let start = batch.add(value).start;
            batch.bytes.push(b'\n');
            start..batch.bytes.len()
        });
        let key = key.map(|key| batch.add(key));
        batch.messages.push(Message {
            offset: *offset,
            timestamp: Some(*offset * 1000),
            key,
            value,
            headers: None,
        });
    }
    batch
}

//! What a sink's subtask has ready at a checkpoint: the rows of the epoch as COPY takes them, in compressed blocks, and which
//! columns they have. It says everything that the commit needs, so that a later definition of the table can finish it.
//!
//! Layout: the length of the head (4 bytes), the head as JSON, then blocks: what is in it (1 byte), its length (4 bytes), lines
//! compressed with LZ4. Numbers are little-endian. Keys that go come before rows.

use serde::{Deserialize, Serialize};

use crate::engine::connectors::Result;
use crate::engine::error::Error;

/// Lines of about so many bytes are compressed together.
const BLOCK: usize = 256 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub version: u32,
    pub columns: Vec<String>,
    /// By which rows replace each other and go; without, they only come.
    pub key: Option<Vec<String>>,
}

pub const VERSION: u32 = 1;

/// What lines of a block are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lines {
    /// Keys of rows that go.
    Gone,
    /// Rows that come or replace others.
    Rows,
}

/// Collects lines of one kind after the other.
pub struct Writer {
    head: Head,
    blocks: Vec<u8>,
    kind: Lines,
    closed: u64,
    /// Lines that are not in a block yet.
    pub open: Vec<u8>,
}

impl Writer {
    pub fn new(head: Head) -> Writer {
        Writer {
            head,
            blocks: Vec::new(),
            kind: Lines::Rows,
            closed: 0,
            open: Vec::new(),
        }
    }

    /// Lines of this kind follow.
    pub fn begin(&mut self, kind: Lines) {
        if self.kind != kind {
            self.close_block();
            self.kind = kind;
        }
    }

    /// What is in [`Writer::open`] are whole lines.
    pub fn line_ended(&mut self) {
        if self.open.len() >= BLOCK {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let compressed = lz4_flex::compress_prepend_size(&self.open);
        self.blocks.push(match self.kind {
            Lines::Gone => 0,
            Lines::Rows => 1,
        });
        self.blocks.extend_from_slice(&(compressed.len() as u32).to_le_bytes());
        self.blocks.extend_from_slice(&compressed);
        self.closed += self.open.len() as u64;
        self.open.clear();
    }

    /// Of all lines so far, as text.
    pub fn bytes(&self) -> u64 {
        self.closed + self.open.len() as u64
    }

    /// What was collected since the last call; `None`: nothing.
    pub fn take(&mut self) -> Result<Option<Vec<u8>>> {
        self.close_block();
        if self.blocks.is_empty() {
            return Ok(None);
        }
        let head = serde_json::to_vec(&self.head).map_err(|error| Error::Internal(error.to_string()))?;
        let mut bytes = Vec::with_capacity(4 + head.len() + self.blocks.len());
        bytes.extend_from_slice(&(head.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.append(&mut self.blocks);
        Ok(Some(bytes))
    }
}

/// Reads what a [`Writer`] gave.
pub struct Reader<'a> {
    pub head: Head,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(mut bytes: &'a [u8]) -> Result<Reader<'a>> {
        let length = take_length(&mut bytes)?;
        let head = take(&mut bytes, length)?;
        let head: Head = serde_json::from_slice(head).map_err(|error| damaged(&error.to_string()))?;
        if head.version != VERSION {
            return Err(damaged(&format!("it has version {}", head.version)));
        }
        Ok(Reader { head, rest: bytes })
    }

    /// The lines of the next block, if it is of this kind.
    pub fn next(&mut self, kind: Lines) -> Result<Option<Vec<u8>>> {
        let wanted = match kind {
            Lines::Gone => 0,
            Lines::Rows => 1,
        };
        if self.rest.first() != Some(&wanted) {
            return Ok(None);
        }
        self.rest = &self.rest[1..];
        let length = take_length(&mut self.rest)?;
        let block = take(&mut self.rest, length)?;
        let lines = lz4_flex::decompress_size_prepended(block).map_err(|error| damaged(&error.to_string()))?;
        Ok(Some(lines))
    }

    pub fn has(&self, kind: Lines) -> bool {
        self.rest.first() == Some(&u8::from(kind == Lines::Rows))
    }

    pub fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }
}

fn take_length(bytes: &mut &[u8]) -> Result<usize> {
    let length = take(bytes, 4)?;
    let length: [u8; 4] = length.try_into().map_err(|_| damaged("a length is missing"))?;
    Ok(u32::from_le_bytes(length) as usize)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or_else(|| damaged("it ends early"))?;
    *bytes = rest;
    Ok(taken)
}

fn damaged(reason: &str) -> Error {
    Error::Internal(format!(
        "output of a Postgres sink in a checkpoint cannot be read: {reason}"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn head() -> Head {
        Head {
            version: VERSION,
            columns: vec!["a".into(), "B".into()],
            key: Some(vec!["a".into()]),
        }
    }

    #[test]
    fn lines_come_back_by_kind() {
        let mut writer = Writer::new(head());
        assert_eq!(writer.take().unwrap(), None);
        writer.begin(Lines::Gone);
        writer.open.extend_from_slice(b"1\n2\n");
        writer.line_ended();
        writer.begin(Lines::Rows);
        for number in 0..100_000 {
            writer.open.extend_from_slice(format!("{number}\tx\n").as_bytes());
            writer.line_ended();
        }
        let bytes = writer.take().unwrap().unwrap();
        assert_eq!(writer.take().unwrap(), None);
        let mut reader = Reader::new(&bytes).unwrap();
        assert_eq!(reader.head, head());
        assert!(reader.has(Lines::Gone) && !reader.has(Lines::Rows));
        assert_eq!(reader.next(Lines::Gone).unwrap().unwrap(), b"1\n2\n");
        assert_eq!(reader.next(Lines::Gone).unwrap(), None);
        let mut lines = Vec::new();
        while let Some(block) = reader.next(Lines::Rows).unwrap() {
            assert!(block.ends_with(b"\n"));
            lines.extend(block);
        }
        assert!(reader.is_at_end());
        let expected: String = (0..100_000).map(|number| format!("{number}\tx\n")).collect();
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
        for cut in [0, 3, 20, bytes.len() - 1] {
            let read = Reader::new(&bytes[..cut]).and_then(|mut reader| {
                while reader.next(Lines::Gone)?.is_some() {}
                while reader.next(Lines::Rows)?.is_some() {}
                Ok(())
            });
            assert!(read.is_err(), "{cut}");
        }
    }
}

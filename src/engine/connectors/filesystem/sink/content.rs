//! The bytes of one file: rows go in, bytes come out, at any checkpoint all of them.
//!
//! What was taken out is never looked at again, so that it may be on its way to an object store; what the end of a file needs
//! besides is small and goes into the checkpoint.

use crate::engine::connectors::Result;
use crate::engine::connectors::filesystem::compression::Compression;
use crate::engine::connectors::filesystem::sink::parquet_content::ParquetContent;
use crate::engine::formats::Encoder;
use crate::engine::message::Chunk;

/// Row groups of a Parquet file that goes on over so many checkpoints; each is described in every checkpoint after it.
const ROW_GROUPS_MAX: usize = 500;

pub enum Content {
    /// Records one after the other. Compressed, each piece taken out is a member by itself, as the formats allow.
    Text {
        buffer: Vec<u8>,
        compression: Compression,
    },
    Parquet(Box<ParquetContent>),
}

impl Content {
    /// A new file of records.
    pub fn text(encoder: &dyn Encoder, compression: Compression) -> Content {
        let mut buffer = Vec::new();
        encoder.header(&mut buffer);
        Content::Text { buffer, compression }
    }

    /// `encoder`: of records; Parquet needs none.
    pub fn write(&mut self, chunk: &Chunk, encoder: Option<&mut Box<dyn Encoder>>) -> Result<()> {
        match (self, encoder) {
            (Content::Text { buffer, .. }, Some(encoder)) => encoder.encode(chunk, buffer),
            (Content::Text { .. }, None) => Ok(()),
            (Content::Parquet(content), _) => content.write(&chunk.rows),
        }
    }

    /// About how many bytes are inside.
    pub fn len(&self) -> usize {
        match self {
            Content::Text { buffer, .. } => buffer.len(),
            Content::Parquet(content) => content.len(),
        }
    }

    /// How many bytes inside are worth taking out before a checkpoint asks for it.
    pub fn block(&self) -> usize {
        match self {
            Content::Text { .. } => 1024 * 1024,
            // A row group: engines skip and read these, so they had better be large.
            Content::Parquet(_) => 32 * 1024 * 1024,
        }
    }

    /// What a checkpoint has to keep of the file has become large.
    pub fn is_long(&self) -> bool {
        matches!(self, Content::Parquet(content) if content.row_groups() >= ROW_GROUPS_MAX)
    }

    /// Takes all bytes out that there are so far.
    pub fn take(&mut self) -> Result<Vec<u8>> {
        match self {
            Content::Text { buffer, .. } if buffer.is_empty() => Ok(Vec::new()),
            Content::Text { buffer, compression } => compression.member(std::mem::take(buffer)),
            Content::Parquet(content) => content.take(),
        }
    }

    /// Takes out the rest of the file.
    pub fn finish(&mut self) -> Result<Vec<u8>> {
        let mut bytes = self.take()?;
        if let Content::Parquet(content) = self {
            bytes.extend(content.footer()?);
        }
        Ok(bytes)
    }

    /// What a checkpoint needs after [`Content::take`].
    pub fn saved(&self) -> Result<Option<String>> {
        match self {
            Content::Text { .. } => Ok(None),
            Content::Parquet(content) => content.saved().map(Some),
        }
    }
}

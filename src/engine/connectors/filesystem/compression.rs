//! Compressed files: gzip and zstd, told by the option or by the file's name.

use std::io::{Read, Write};

use crate::engine::connectors::Result;
use crate::engine::error::Error;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the name of the option; `None`: by the names of files.
    pub fn by_option(name: Option<&str>) -> Option<Compression> {
        match name {
            Some("none") => Some(Compression::None),
            Some("gzip") => Some(Compression::Gzip),
            Some("zstd") => Some(Compression::Zstd),
            _ => None,
        }
    }

    pub fn of_file(name: &str) -> Compression {
        let ending = name.rsplit('.').next().unwrap_or_default();
        match ending.to_ascii_lowercase().as_str() {
            "gz" | "gzip" => Compression::Gzip,
            "zst" | "zstd" => Compression::Zstd,
            _ => Compression::None,
        }
    }

    /// What the names of compressed files end with.
    pub fn suffix(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
        }
    }

    /// `bytes` compressed by themselves: members one after the other are a file.
    pub fn member(self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let packed = match self {
            Compression::None => Ok(bytes),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&bytes).and_then(|()| encoder.finish())
            }
            Compression::Zstd => zstd::bulk::compress(&bytes, zstd::DEFAULT_COMPRESSION_LEVEL),
        };
        packed.map_err(|error| Error::Internal(format!("could not compress: {error}")))
    }

    /// What reads the contents out of `packed`.
    pub fn reader<'a>(self, packed: impl Read + Send + 'a) -> std::io::Result<Box<dyn Read + Send + 'a>> {
        Ok(match self {
            Compression::None => Box::new(packed),
            Compression::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
            Compression::Zstd => Box::new(zstd::stream::read::Decoder::new(packed)?),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn members_make_a_file() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let mut file = compression.member(b"first ".to_vec()).unwrap();
            file.extend(compression.member(b"second".to_vec()).unwrap());
            let mut text = String::new();
            compression
                .reader(file.as_slice())
                .unwrap()
                .read_to_string(&mut text)
                .unwrap();
            assert_eq!(text, "first second");
            assert_eq!(
                Compression::of_file(&format!("a.json{}", compression.suffix())),
                compression
            );
        }
    }
}

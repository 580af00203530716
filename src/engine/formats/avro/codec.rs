//! How blocks of container files are packed: null, deflate, zstandard and snappy; others are refused by name.
//!
//! Guarantee: a block gives no more than [`BLOCK_MAX`] bytes, and takes no more memory than that, whatever is in it.

use std::borrow::Cow;
use std::io::{Error, ErrorKind, Read, Result};

/// Of a block, packed or not.
pub const BLOCK_MAX: usize = 256 * 1024 * 1024;
/// Behind what snappy has packed: CRC-32 of what it was, big-endian.
const CHECKSUM: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Null,
    Deflate,
    Zstandard,
    Snappy,
}

pub const CODECS: &str = "null, deflate, zstandard and snappy";

impl Codec {
    /// By its name in a file's header, which may be left out.
    pub fn find(name: Option<&[u8]>) -> Option<Codec> {
        match name {
            None | Some(b"null") => Some(Codec::Null),
            Some(b"deflate") => Some(Codec::Deflate),
            Some(b"zstandard") => Some(Codec::Zstandard),
            Some(b"snappy") => Some(Codec::Snappy),
            Some(_) => None,
        }
    }

    pub fn unpack(self, packed: &[u8]) -> Result<Cow<'_, [u8]>> {
        match self {
            Codec::Null => Ok(packed.into()),
            Codec::Deflate => read_all(flate2::read::DeflateDecoder::new(packed)),
            Codec::Zstandard => read_all(zstd::stream::read::Decoder::new(packed)?),
            Codec::Snappy => unpack_snappy(packed),
        }
    }
}

fn read_all(unpacked: impl Read) -> Result<Cow<'static, [u8]>> {
    let mut contents = Vec::new();
    let length = unpacked.take(BLOCK_MAX as u64 + 1).read_to_end(&mut contents)?;
    check_length(length)?;
    Ok(contents.into())
}

fn unpack_snappy(packed: &[u8]) -> Result<Cow<'static, [u8]>> {
    let Some((packed, checksum)) = packed.split_last_chunk::<CHECKSUM>() else {
        return Err(Error::new(ErrorKind::UnexpectedEof, "its checksum is missing"));
    };
    check_length(snap::raw::decompress_len(packed)?)?;
    let contents = snap::raw::Decoder::new().decompress_vec(packed)?;
    let mut found = flate2::Crc::new();
    found.update(&contents);
    if found.sum() != u32::from_be_bytes(*checksum) {
        return Err(Error::new(ErrorKind::InvalidData, "its checksum is wrong"));
    }
    Ok(contents.into())
}

fn check_length(length: usize) -> Result<()> {
    match length > BLOCK_MAX {
        true => Err(Error::other(format!("it has more than {BLOCK_MAX} bytes"))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn snappy(contents: &[u8]) -> Vec<u8> {
        let mut packed = snap::raw::Encoder::new().compress_vec(contents).unwrap();
        let mut checksum = flate2::Crc::new();
        checksum.update(contents);
        packed.extend(checksum.sum().to_be_bytes());
        packed
    }

    #[test]
    fn a_block_comes_back_or_is_refused() {
        let contents = b"one two three one two three one two three".repeat(9);
        let packed = snappy(&contents);
        assert!(packed.len() < contents.len());
        assert_eq!(Codec::Snappy.unpack(&packed).unwrap(), contents);
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 1;
            assert!(Codec::Snappy.unpack(&damaged).is_err(), "byte {at}");
            assert!(Codec::Snappy.unpack(&packed[..at]).is_err(), "up to byte {at}");
        }
    }

    #[test]
    fn a_block_that_says_it_is_huge_takes_no_memory() {
        // The length in front, as 4 GiB less one, and nothing of it.
        let refusal = Codec::Snappy
            .unpack(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0])
            .unwrap_err();
        assert!(refusal.to_string().contains("more than"), "{refusal}");
        let zeros = zstd::stream::encode_all(std::io::repeat(0).take(BLOCK_MAX as u64 + 1), 1).unwrap();
        assert!(zeros.len() < 1024 * 1024);
        let refusal = Codec::Zstandard.unpack(&zeros).unwrap_err();
        assert!(refusal.to_string().contains("more than"), "{refusal}");
    }
}

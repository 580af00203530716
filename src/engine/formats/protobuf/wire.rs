//! The wire format: varints, tags, and stepping over what nobody wants.
//!
//! Guarantee: nothing here panics on any input, reads behind its end, or allocates.

/// Groups inside of groups deeper than this are refused, as elsewhere.
const DEPTH_MAX: usize = 100;
/// Of a field's number, which has 29 bits.
const NUMBER_MAX: u64 = (1 << 29) - 1;

use std::convert::Infallible;

/// Why bytes are no message, and where.
#[derive(Debug)]
pub struct WireFault {
    pub at: usize,
    pub what: &'static str,
}

pub type WireResult<T> = Result<T, WireFault>;

/// How a value is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireType {
    Varint,
    Fixed64,
    Length,
    Group,
    GroupEnd,
    Fixed32,
}

/// A part of a record, read from its front. Places are those in the record.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub end: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader {
            bytes,
            at: 0,
            end: bytes.len(),
        }
    }

    /// The part of the same record.
    pub fn of(&self, part: std::ops::Range<usize>) -> Reader<'a> {
        Reader {
            bytes: self.bytes,
            at: part.start,
            end: part.end,
        }
    }

    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    #[cold]
    pub fn fault<T>(&self, what: &'static str) -> WireResult<T> {
        Err(WireFault { at: self.at, what })
    }

    #[inline(always)]
    pub fn varint(&mut self) -> WireResult<u64> {
        match self.bytes[..self.end].get(self.at) {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> WireResult<u64> {
        match leading_varint(&self.bytes[self.at.min(self.end)..self.end]) {
            Some(Ok((value, length))) => {
                self.at += length;
                Ok(value)
            }
            Some(Err(())) => self.fault("a number of more than 64 bits"),
            None => self.fault("it ends inside of a number"),
        }
    }

    /// The number and layout of the next field.
    #[inline(always)]
    pub fn tag(&mut self) -> WireResult<(u32, WireType)> {
        let start = self.at;
        let tag = self.varint()?;
        let number = tag >> 3;
        if number == 0 || number > NUMBER_MAX {
            return Err(WireFault {
                at: start,
                what: "a field with a number that there is not",
            });
        }
        let layout = match tag & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Length,
            3 => WireType::Group,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => {
                return Err(WireFault {
                    at: start,
                    what: "a field of a layout that there is not",
                });
            }
        };
        Ok((number as u32, layout))
    }

    #[inline(always)]
    pub fn fixed<const N: usize>(&mut self) -> WireResult<[u8; N]> {
        match self.bytes[..self.end].get(self.at..).and_then(<[u8]>::first_chunk::<N>) {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => self.fault("it ends inside of a value"),
        }
    }

    /// The place of a value that says its length, or of the inside of group `number`.
    #[inline(always)]
    pub fn part(&mut self, number: u32, layout: WireType) -> WireResult<std::ops::Range<usize>> {
        if layout == WireType::Group {
            let start = self.at;
            let end = self.group_end(number, 1)?;
            return Ok(start..end);
        }
        let length = self.varint()?;
        if length > (self.end - self.at) as u64 {
            return self.fault("it ends inside of a value");
        }
        let start = self.at;
        self.at += length as usize;
        Ok(start..self.at)
    }

    /// Steps over a value.
    pub fn skip(&mut self, number: u32, layout: WireType) -> WireResult<()> {
        self.skip_at(number, layout, 0)
    }

    fn skip_at(&mut self, number: u32, layout: WireType, depth: usize) -> WireResult<()> {
        match layout {
            WireType::Varint => self.varint().map(|_| ()),
            WireType::Fixed64 => self.fixed::<8>().map(|_| ()),
            WireType::Fixed32 => self.fixed::<4>().map(|_| ()),
            WireType::Length => self.part(number, layout).map(|_| ()),
            WireType::Group => self.group_end(number, depth + 1).map(|_| ()),
            WireType::GroupEnd => self.fault("a group ends that did not begin"),
        }
    }

    /// Steps behind the end of a group; gives where its inside ends.
    fn group_end(&mut self, number: u32, depth: usize) -> WireResult<usize> {
        if depth > DEPTH_MAX {
            return self.fault("groups are nested too deeply");
        }
        loop {
            let end = self.at;
            match self.tag()? {
                (found, WireType::GroupEnd) if found == number => return Ok(end),
                (_, WireType::GroupEnd) => return self.fault("a group ends that did not begin"),
                (inner, layout) => self.skip_at(inner, layout, depth)?,
            }
        }
    }
}

/// The varint at the front and its length; `None` when it goes on behind the end.
pub fn leading_varint(bytes: &[u8]) -> Option<Result<(u64, usize), ()>> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        // Of the tenth byte one bit is left.
        if index == 9 && *byte > 1 {
            return Some(Err(()));
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            return Some(Ok((value, index + 1)));
        }
    }
    None
}

#[inline]
pub fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[inline]
pub fn zagzig(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub fn put_tag(number: u32, layout: WireType, out: &mut Vec<u8>) {
    let bits = match layout {
        WireType::Varint => 0,
        WireType::Fixed64 => 1,
        WireType::Length => 2,
        WireType::Group => 3,
        WireType::GroupEnd => 4,
        WireType::Fixed32 => 5,
    };
    put_varint(u64::from(number) << 3 | bits, out);
}

/// A field of a number, unless it is the default.
pub fn put_number(field: u32, number: i64, out: &mut Vec<u8>) {
    if number != 0 {
        put_tag(field, WireType::Varint, out);
        put_varint(number as u64, out);
    }
}

/// A message, after its length, whose fields from 1 on are these numbers.
pub fn put_numbers<const N: usize>(numbers: [i64; N], out: &mut Vec<u8>) {
    let inside = |out: &mut Vec<u8>| {
        (1..)
            .zip(numbers)
            .for_each(|(field, number)| put_number(field, number, out));
        Ok::<(), Infallible>(())
    };
    let Ok(()) = put_delimited(out, inside);
}

/// Writes what `inside` writes after its length.
pub fn put_delimited<E>(out: &mut Vec<u8>, inside: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    let start = out.len();
    // One byte is nearly always enough.
    out.push(0);
    inside(out)?;
    let length = out.len() - start - 1;
    if length < 0x80 {
        out[start] = length as u8;
        return Ok(());
    }
    let mut prefix = Vec::with_capacity(10);
    put_varint(length as u64, &mut prefix);
    out.splice(start..=start, prefix);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn long_insides_get_long_lengths() {
        for length in [0, 127, 128, 20_000] {
            let mut out = vec![9];
            put_delimited::<()>(&mut out, |out| {
                out.resize(out.len() + length, 7);
                Ok(())
            })
            .unwrap();
            let mut reader = Reader::new(&out);
            reader.at = 1;
            let part = reader.part(1, WireType::Length).unwrap();
            assert_eq!((part.len(), part.end), (length, out.len()));
        }
    }

    #[test]
    fn what_is_no_field_is_said() {
        let skipped = |bytes: &[u8]| {
            let mut reader = Reader::new(bytes);
            let (number, layout) = reader.tag()?;
            reader.skip(number, layout)
        };
        // A group in a group, then its end.
        skipped(&[0x0b, 0x13, 0x08, 0x01, 0x14, 0x0c]).unwrap();
        for (bytes, what) in [
            (&[0x00][..], "a field with a number that there is not"),
            (&[0x0f], "a field of a layout that there is not"),
            (&[0x08, 0x80], "it ends inside of a number"),
            (&[0x0a, 0x05, 0x01], "it ends inside of a value"),
            (&[0x09, 1, 2], "it ends inside of a value"),
            (&[0x0c], "a group ends that did not begin"),
            (&[0x0b, 0x14], "a group ends that did not begin"),
            (&[0x0b], "it ends inside of a number"),
            (&[0x0b; 200], "groups are nested too deeply"),
            (
                &[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2],
                "a number of more than 64 bits",
            ),
        ] {
            assert_eq!(skipped(bytes).unwrap_err().what, what, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_come_back(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(value, &mut out);
            prop_assert_eq!(Reader::new(&out).varint().unwrap(), value);
            prop_assert_eq!(leading_varint(&out[..out.len() - 1]), None);
            prop_assert_eq!(zigzag(zagzig(signed)), signed);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let mut reader = Reader::new(&bytes);
            while let Ok((number, layout)) = reader.tag() {
                if reader.skip(number, layout).is_err() {
                    break;
                }
            }
        }
    }
}

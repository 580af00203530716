//! What stands between the id of a schema and a message of it: which of the schema's messages it is.
//!
//! A count and that many places, each of a message in the file or in the message before, as varints in zigzag; a single zero byte is
//! the first message of the file, which nearly all are. Entries of maps, which compilers make messages of, have no place: registries
//! count what stands in the text.

use std::borrow::Cow;

use prost_reflect::{FileDescriptor, MessageDescriptor};

use crate::engine::formats::protobuf::wire::{leading_varint, put_varint, zagzig, zigzag};

/// Messages in messages deeper than this are refused.
const DEPTH_MAX: usize = 100;
const FIRST: &[u32] = &[0];

/// The places and the message behind them.
pub fn split(bytes: &[u8]) -> Result<(Cow<'static, [u32]>, &[u8]), String> {
    match bytes {
        [0, message @ ..] => Ok((Cow::Borrowed(FIRST), message)),
        _ => long(bytes),
    }
}

#[cold]
fn long(bytes: &[u8]) -> Result<(Cow<'static, [u32]>, &[u8]), String> {
    let mut rest = bytes;
    let mut next = || -> Result<i64, String> {
        let Some(Ok((value, length))) = leading_varint(rest) else {
            return Err("the record ends where it says which message of the schema it is".into());
        };
        rest = &rest[length..];
        Ok(zigzag(value))
    };
    let wrong = |number: i64| format!("the record says {number} where it says which message of the schema it is");
    let count = next()?;
    let count = usize::try_from(count).ok().filter(|count| *count <= DEPTH_MAX);
    let count = count.ok_or_else(|| "the record does not say which message of the schema it is".to_owned())?;
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        let place = next()?;
        places.push(u32::try_from(place).map_err(|_| wrong(place))?);
    }
    // Written at length.
    if places.is_empty() {
        places.push(0);
    }
    Ok((Cow::Owned(places), rest))
}

/// What stands in front of messages at `places`.
pub fn put(places: &[u32], out: &mut Vec<u8>) {
    if places == FIRST {
        return out.push(0);
    }
    put_varint(zagzig(places.len() as i64), out);
    for place in places {
        put_varint(zagzig(i64::from(*place)), out);
    }
}

/// The message at `places`.
pub fn message_at(file: &FileDescriptor, places: &[u32]) -> Option<MessageDescriptor> {
    let (first, inner) = places.split_first()?;
    let mut message = file.messages().nth(*first as usize)?;
    for place in inner {
        let child = message
            .child_messages()
            .filter(|child| !child.is_map_entry())
            .nth(*place as usize);
        message = child?;
    }
    Some(message)
}

/// Where a message is.
pub fn places_of(message: &MessageDescriptor) -> Vec<u32> {
    let mut places = Vec::new();
    let mut current = message.clone();
    loop {
        let is_it = |other: &MessageDescriptor| other.full_name() == current.full_name();
        let parent = current.parent_message();
        let place = match &parent {
            Some(parent) => parent
                .child_messages()
                .filter(|child| !child.is_map_entry())
                .position(|other| is_it(&other)),
            None => current.parent_file().messages().position(|other| is_it(&other)),
        };
        places.push(place.unwrap_or_default() as u32);
        match parent {
            Some(parent) => current = parent,
            None => break,
        }
    }
    places.reverse();
    places
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engine::formats::protobuf::schema;

    #[test]
    fn places_are_split_off_again() {
        for places in [&[0][..], &[1], &[0, 0], &[2, 1, 300]] {
            let mut bytes = Vec::new();
            put(places, &mut bytes);
            bytes.push(7);
            assert_eq!(split(&bytes), Ok((Cow::Borrowed(places), &[7][..])));
        }
        // Confluent's documentation: [1, 0] is 04 02 00.
        let mut bytes = Vec::new();
        put(&[1, 0], &mut bytes);
        assert_eq!(bytes, [4, 2, 0]);
        for bytes in [
            &b""[..],
            b"\x01",
            b"\x04\x00",
            b"\x02\x01",
            b"\xff",
            b"\xff\xff\x03\x00",
        ] {
            assert!(split(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn messages_are_found_by_their_places() {
        let text = "syntax = 'proto3'; message A { map<string, int32> m = 1; message B { message C {} } message D {} } message E {}";
        let file = schema::registered(text, &[]).unwrap();
        for (places, name) in [
            (&[0][..], "A"),
            (&[0, 0], "A.B"),
            (&[0, 0, 0], "A.B.C"),
            (&[0, 1], "A.D"),
            (&[1], "E"),
        ] {
            let message = message_at(&file, places).unwrap();
            assert_eq!((message.full_name(), places_of(&message)), (name, places.to_vec()));
        }
        assert!(message_at(&file, &[2]).is_none() && message_at(&file, &[0, 2]).is_none());
    }
}

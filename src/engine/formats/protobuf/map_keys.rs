//! Which entries of a map count: of those with the same key the last.

use std::collections::HashSet;
use std::ops::Range;

use crate::engine::formats::protobuf::types::Scalar;
use crate::engine::formats::protobuf::values::Raw;
use crate::engine::formats::protobuf::wire::{Reader, WireResult};

/// So many entries are compared with each other.
const COMPARED_MAX: usize = 8;

/// A key that can be compared.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The places of the entries that count, in the order in which they came.
pub fn last_of_each(places: &[Range<usize>], of: Scalar, record: Reader<'_>) -> WireResult<Vec<Range<usize>>> {
    if places.len() <= 1 {
        return Ok(places.to_vec());
    }
    let keys = places.iter().map(|place| key(of, record.of(place.clone())));
    let keys: Vec<Key<'_>> = keys.collect::<WireResult<_>>()?;
    let mut kept = Vec::with_capacity(places.len());
    if places.len() <= COMPARED_MAX {
        for (index, place) in places.iter().enumerate() {
            if !keys[index + 1..].contains(&keys[index]) {
                kept.push(place.clone());
            }
        }
        return Ok(kept);
    }
    let mut seen = HashSet::with_capacity(places.len());
    for (key, place) in keys.into_iter().zip(places).rev() {
        if seen.insert(key) {
            kept.push(place.clone());
        }
    }
    kept.reverse();
    Ok(kept)
}

fn key(of: Scalar, mut reader: Reader<'_>) -> WireResult<Key<'_>> {
    let mut raw = of.default_value();
    while !reader.is_empty() {
        let (number, layout) = reader.tag()?;
        match number == 1 && layout == of.layout() {
            true => raw = of.read(&mut reader)?,
            false => reader.skip(number, layout)?,
        }
    }
    Ok(match raw {
        Raw::Boolean(value) => Key::Number(value.into()),
        Raw::Signed(value) => Key::Number(value as u64),
        Raw::Unsigned(value) => Key::Number(value),
        Raw::Bytes(value) => Key::Bytes(value),
        // No keys of maps.
        Raw::Real(value) => Key::Number(value.to_bits().into()),
        Raw::Double(value) => Key::Number(value.to_bits()),
    })
}

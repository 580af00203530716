//! The version of each key that answers rows now: its row number and its time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

use crate::engine::operator::Result;
use crate::engine::operators::bits::Bits;
use crate::engine::operators::keys::GroupKeys;
use crate::engine::operators::row_store::NO_ROW;

pub(super) struct Versions {
    keys: GroupKeys,
    /// By key.
    row: Vec<u32>,
    time: Vec<i64>,
    ttl_micros: Option<i64>,
    /// Time of a version and key, each key once, while there is a TTL; out of date where the key has a newer version.
    expiring: BinaryHeap<Reverse<(i64, u32)>>,
    queued: Bits,
}

/// What became of a version.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    First,
    /// This row answers nothing any more.
    Replaces(u32),
    /// There is a later one.
    TooLate,
}

impl Versions {
    pub fn new(key_types: &[DataType], ttl_micros: Option<i64>) -> Result<Versions> {
        Ok(Versions {
            keys: GroupKeys::new(key_types)?,
            row: Vec::new(),
            time: Vec::new(),
            ttl_micros,
            expiring: BinaryHeap::new(),
            queued: Bits::default(),
        })
    }

    /// Numbers of the keys of versions that are about to be put.
    pub fn intern(&mut self, columns: &[ArrayRef], hashes: &[u64]) -> Result<Vec<u32>> {
        let keys = self.keys.intern(columns, hashes)?;
        let capacity = self.keys.capacity();
        if self.row.len() < capacity {
            self.row.resize(capacity, NO_ROW);
            self.time.resize(capacity, 0);
        }
        Ok(keys)
    }

    /// Numbers of keys that have, or are about to get, a version.
    pub fn lookup(&self, columns: &[ArrayRef], hashes: &[u64]) -> Vec<Option<u32>> {
        self.keys.lookup(columns, hashes)
    }

    pub fn put(&mut self, key: u32, row: u32, time: i64) -> Put {
        let at = key as usize;
        let before = self.row[at];
        if before != NO_ROW && self.time[at] > time {
            return Put::TooLate;
        }
        self.row[at] = row;
        self.time[at] = time;
        if self.ttl_micros.is_some() && self.queued.insert(key) {
            self.expiring.push(Reverse((time, key)));
        }
        match before {
            NO_ROW => Put::First,
            before => Put::Replaces(before),
        }
    }

    /// The version that answers a row of `time`.
    #[inline]
    pub fn find(&self, key: Option<u32>, time: i64) -> u32 {
        let Some(key) = key else {
            return NO_ROW;
        };
        let at = key as usize;
        match self.ttl_micros {
            Some(ttl) if self.time[at].saturating_add(ttl) < time => NO_ROW,
            _ => self.row[at],
        }
    }

    /// Forgets versions that answer no row of `time` or later; their rows.
    pub fn expire(&mut self, time: i64) -> Vec<u32> {
        let mut gone = Vec::new();
        let Some(ttl) = self.ttl_micros else {
            return gone;
        };
        while let Some(&Reverse((known, key))) = self.expiring.peek()
            && known.saturating_add(ttl) < time
        {
            self.expiring.pop();
            let at = key as usize;
            if self.time[at].saturating_add(ttl) < time {
                gone.push(self.row[at]);
                self.row[at] = NO_ROW;
                self.queued.remove(key);
                self.keys.remove(key);
            } else {
                self.expiring.push(Reverse((self.time[at], key)));
            }
        }
        gone
    }

    pub fn clear(&mut self) {
        self.keys.clear();
        self.row.clear();
        self.time.clear();
        self.expiring.clear();
        self.queued.clear();
    }

    pub fn memory_bytes(&self) -> usize {
        self.keys.memory_bytes()
            + self.row.capacity() * 4
            + self.time.capacity() * 8
            + self.expiring.capacity() * 16
            + self.queued.memory_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use arrow::array::Int64Array;

    use super::*;
    use crate::engine::operators::keys::key_hashes;

    fn column(values: &[i64]) -> Vec<ArrayRef> {
        vec![Arc::new(Int64Array::from(values.to_vec()))]
    }

    #[test]
    fn a_version_answers_until_it_is_replaced_or_too_old() {
        let mut versions = Versions::new(&[DataType::Int64], Some(10)).unwrap();
        let columns = column(&[7, 8]);
        let hashes = key_hashes(&columns, 2, None).into_owned();
        let keys = versions.intern(&columns, &hashes).unwrap();
        assert_eq!(versions.find(Some(keys[0]), 5), NO_ROW, "it has none yet");
        assert_eq!(versions.put(keys[0], 100, 1), Put::First);
        assert_eq!(versions.put(keys[1], 101, 2), Put::First);
        assert_eq!(versions.put(keys[0], 102, 5), Put::Replaces(100));
        assert_eq!(versions.put(keys[0], 103, 4), Put::TooLate);
        assert_eq!(versions.find(Some(keys[0]), 15), 102);
        assert_eq!(versions.find(Some(keys[0]), 16), NO_ROW);
        assert_eq!(versions.find(None, 5), NO_ROW);
        assert!(versions.expire(12).is_empty());
        assert_eq!(versions.expire(13), [101]);
        assert_eq!(versions.expire(16), [102]);
        assert_eq!(versions.lookup(&columns, &hashes), [None, None]);
    }
}

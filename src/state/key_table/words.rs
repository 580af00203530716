//! The form for one fixed-width key column: 16-byte slots with the key inside, so that a hit costs one cache miss.

use arrow::array::{Array, ArrayRef};
use arrow::compute::{can_cast_types, cast};
use arrow::datatypes::DataType;

use crate::state::canonical::{Canonical, canonical};
use crate::state::error::Error;
use crate::state::hash::{hash_null, hash_word};
use crate::state::key_table::Groups;
use crate::state::key_table::bits::Bits;
use crate::state::key_table::columns::plain_type;
use crate::state::key_table::slots::{BLOCK, Index};
use crate::state::key_table::values::word_array;

pub(super) struct WordTable {
    data_type: DataType,
    index: Index<u128>,
    /// Keys by group, for gathering.
    keys: Vec<u64>,
    /// NULL has no word; it lives beside the index.
    null: Option<u32>,
}

impl WordTable {
    pub(super) fn new(data_type: &DataType) -> Result<WordTable, Error> {
        if !can_cast_types(plain_type(data_type), data_type) {
            return Err(Error::UnsupportedKey {
                data_type: data_type.to_string(),
            });
        }
        Ok(WordTable {
            data_type: data_type.clone(),
            index: Index::new(),
            keys: Vec::new(),
            null: None,
        })
    }

    pub(super) fn intern(&mut self, key: &ArrayRef, hashes: &[u64], groups: &mut Groups, out: &mut Vec<u32>) {
        let words = self.words_of(key);
        let nulls = key.nulls().filter(|nulls| nulls.null_count() > 0);
        let mut previous = Previous::default();
        for first in (0..hashes.len()).step_by(BLOCK) {
            let last = (first + BLOCK).min(hashes.len());
            self.index.make_room(BLOCK);
            for hash in &hashes[first..last] {
                self.index.prefetch(*hash);
            }
            for row in first..last {
                if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                    out.push(self.intern_null(groups));
                    continue;
                }
                let word = words[row];
                if let Some(group) = previous.same(word) {
                    out.push(group);
                    continue;
                }
                let hash = hashes[row];
                let group = match self.index.find(hash, word, |_| true) {
                    Some(group) => group,
                    None => self.insert(hash, word, groups),
                };
                previous = Previous(Some((word, group)));
                out.push(group);
            }
        }
    }

    pub(super) fn lookup(&self, key: &ArrayRef, hashes: &[u64], out: &mut Vec<Option<u32>>) {
        let words = self.words_of(key);
        let nulls = key.nulls().filter(|nulls| nulls.null_count() > 0);
        for first in (0..hashes.len()).step_by(BLOCK) {
            let last = (first + BLOCK).min(hashes.len());
            for hash in &hashes[first..last] {
                self.index.prefetch(*hash);
            }
            for row in first..last {
                out.push(if nulls.is_some_and(|nulls| nulls.is_null(row)) {
                    self.null
                } else {
                    self.index.find(hashes[row], words[row], |_| true)
                });
            }
        }
    }

    fn words_of<'a>(&self, key: &'a ArrayRef) -> std::borrow::Cow<'a, [u64]> {
        assert_eq!(
            key.data_type(),
            plain_type(&self.data_type),
            "a key column has the type that the table was made with"
        );
        match canonical(key.as_ref()) {
            Canonical::Words(words) => words,
            _ => unreachable!("this form is for keys of words"),
        }
    }

    #[inline(never)]
    fn insert(&mut self, hash: u64, word: u64, groups: &mut Groups) -> u32 {
        debug_assert_eq!(hash, hash_word(word), "rows are hashed by their key");
        let group = groups.allocate();
        self.store(group, word);
        self.index.insert(hash, word, group);
        group
    }

    #[cold]
    fn intern_null(&mut self, groups: &mut Groups) -> u32 {
        if let Some(group) = self.null {
            return group;
        }
        let group = groups.allocate();
        self.store(group, 0);
        self.null = Some(group);
        group
    }

    fn store(&mut self, group: u32, word: u64) {
        if group as usize == self.keys.len() {
            self.keys.push(word);
        } else {
            self.keys[group as usize] = word;
        }
    }

    pub(super) fn remove(&mut self, group: u32) {
        if self.null == Some(group) {
            self.null = None;
        } else {
            self.index.remove(hash_word(self.keys[group as usize]), group);
        }
    }

    pub(super) fn hash_of(&self, group: u32) -> u64 {
        if self.null == Some(group) {
            hash_null()
        } else {
            hash_word(self.keys[group as usize])
        }
    }

    pub(super) fn gather(&self, groups: &[u32]) -> ArrayRef {
        let mut null = Bits::default();
        if let Some(group) = self.null {
            null.set(group as usize, true);
        }
        let plain = plain_type(&self.data_type);
        let words = groups.iter().map(|group| self.keys[*group as usize]);
        let array = word_array(plain, words, null.gather(groups));
        if plain == &self.data_type {
            array
        } else {
            cast(&array, &self.data_type).expect("checked when the table was made")
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes() + self.keys.capacity() * 8
    }
}

/// Runs of one key are common: hot keys, sorted input.
#[derive(Clone, Copy, Default)]
struct Previous(Option<(u64, u32)>);

impl Previous {
    #[inline(always)]
    fn same(self, word: u64) -> Option<u32> {
        match self.0 {
            Some((previous, group)) if previous == word => Some(group),
            _ => None,
        }
    }
}

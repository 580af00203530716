//! A growing set of flags by group: which keys are NULL, which groups are alive.

use arrow::buffer::NullBuffer;

#[derive(Default)]
pub(super) struct Bits {
    words: Vec<u64>,
    set: usize,
}

impl Bits {
    #[inline(always)]
    pub(super) fn any(&self) -> bool {
        self.set > 0
    }

    /// How many flags are set.
    pub(super) fn count(&self) -> usize {
        self.set
    }

    #[inline(always)]
    pub(super) fn get(&self, index: usize) -> bool {
        self.words
            .get(index / 64)
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    pub(super) fn set(&mut self, index: usize, value: bool) {
        if index / 64 >= self.words.len() {
            if !value {
                return;
            }
            self.words.resize(index / 64 + 1, 0);
        }
        let before = self.get(index);
        let bit = 1u64 << (index % 64);
        if value {
            self.words[index / 64] |= bit;
        } else {
            self.words[index / 64] &= !bit;
        }
        self.set = self.set + usize::from(value) - usize::from(before);
    }

    /// The flags of `groups` as the NULLs of an array.
    pub(super) fn gather(&self, groups: &[u32]) -> Option<NullBuffer> {
        if !self.any() {
            return None;
        }
        Some(
            groups
                .iter()
                .map(|group| !self.get(*group as usize))
                .collect::<Vec<bool>>()
                .into(),
        )
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.words.capacity() * 8
    }
}

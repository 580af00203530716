//! Key groups: the unit in which keyed state is moved between subtasks.
//!
//! A key belongs to one of [`KeyGroups`] groups by the high bits of its hash, for the life of the pipeline; subtasks own
//! contiguous ranges of groups. Rescaling moves ranges and never looks at keys.

/// How many key groups a pipeline has; fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyGroups(u16);

/// A group's number, below the pipeline's [`KeyGroups::count`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyGroup(pub u16);

/// Groups `start..end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyGroupRange {
    pub start: u16,
    pub end: u16,
}

/// The default number of groups: parallelism up to 64 still leaves 16 groups a subtask to move.
pub const KEY_GROUPS_DEFAULT: u16 = 1024;

impl Default for KeyGroups {
    fn default() -> Self {
        KeyGroups(KEY_GROUPS_DEFAULT)
    }
}

impl KeyGroups {
    /// `count` must be a power of two between 1 and 32768, so that a group is a shift of the hash.
    pub fn new(count: u16) -> Option<KeyGroups> {
        (count.is_power_of_two() && count <= 32768).then_some(KeyGroups(count))
    }

    pub fn count(self) -> u16 {
        self.0
    }

    /// The group of a key: the high bits of its hash. Hash tables inside operators use the low bits, so that the keys of
    /// one subtask do not crowd together.
    #[inline]
    pub fn group_of(self, hash: u64) -> KeyGroup {
        let bits = self.0.trailing_zeros();
        KeyGroup(if bits == 0 { 0 } else { (hash >> (64 - bits)) as u16 })
    }

    /// The groups that subtask `subtask` of `parallelism` owns. Ranges of all subtasks cover every group once.
    pub fn range_of(self, subtask: u32, parallelism: u32) -> KeyGroupRange {
        let boundary = |n: u32| (u64::from(n) * u64::from(self.0)).div_ceil(u64::from(parallelism)) as u16;
        KeyGroupRange {
            start: boundary(subtask),
            end: boundary(subtask + 1),
        }
    }

    /// The subtask that owns `group`; the inverse of [`KeyGroups::range_of`].
    #[inline]
    pub fn owner_of(self, group: KeyGroup, parallelism: u32) -> u32 {
        (u64::from(group.0) * u64::from(parallelism) / u64::from(self.0)) as u32
    }

    pub fn all(self) -> KeyGroupRange {
        KeyGroupRange { start: 0, end: self.0 }
    }
}

impl KeyGroupRange {
    pub fn contains(self, group: KeyGroup) -> bool {
        self.start <= group.0 && group.0 < self.end
    }

    pub fn overlaps(self, other: KeyGroupRange) -> bool {
        self.start < other.end && other.start < self.end
    }

    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_every_group_once_and_agree_with_owner() {
        for count in [1u16, 2, 64, 1024, 32768] {
            let groups = KeyGroups::new(count).expect("power of two");
            for parallelism in [1u32, 2, 3, 5, 16, 64, 100] {
                let mut next = 0;
                for subtask in 0..parallelism {
                    let range = groups.range_of(subtask, parallelism);
                    assert_eq!(range.start, next);
                    next = range.end;
                    for group in range.start..range.end {
                        assert_eq!(groups.owner_of(KeyGroup(group), parallelism), subtask);
                    }
                }
                assert_eq!(next, count);
            }
        }
    }

    #[test]
    fn group_is_the_high_bits() {
        assert_eq!(KeyGroups::default().group_of(u64::MAX), KeyGroup(1023));
        assert_eq!(KeyGroups::default().group_of(1 << 54), KeyGroup(1));
        assert_eq!(KeyGroups::new(1).expect("one").group_of(u64::MAX), KeyGroup(0));
        assert_eq!(KeyGroups::new(1000), None);
    }
}

//! The index of a key table: open addressing with linear probing over slots that hold a tag and a group id.
//!
//! A slot's tag is the low half of the key's hash. It decides the home of the slot at every size of the table, so growth
//! and deletion never look at keys: both are sweeps through slots. Group ids are stored plus one, so that zeroed memory
//! is an empty table.
//!
//! Growth: above [`DRAIN_BYTES`] the old slots stay beside the new ones and are moved a few at a time with each block of
//! rows, so that no batch pays for all of them; below, at once.
//!
//! Guarantee: at most three quarters of the slots are used. Not guaranteed: that the index shrinks before `clear`.

/// Rows looked up together: enough to overlap their cache misses, few enough to keep in registers and L1.
pub(super) const BLOCK: usize = 32;

/// Group ids end below this; the two values above mark slots.
pub(super) const GROUPS_MAX: u32 = u32::MAX - 1;

/// What [`Index::first_match`] answers when nothing fits.
pub(super) const NO_GROUP: u32 = u32::MAX;

const SLOTS_FIRST: usize = 64;
const DRAIN_BYTES: usize = 64 << 20;
/// Old slots moved with every row of a block: the old table is empty long before the new one is full.
const DRAIN_PER_ROW: usize = 4;
/// In the old table: was moved, but probing goes on behind it.
const MOVED: u64 = u32::MAX as u64;

/// A slot: tag in the high half of its meta word, group id plus one in the low half, and maybe the key itself.
pub(super) trait Slot: Copy {
    const EMPTY: Self;
    fn new(tag: u32, group: u32, key: u64) -> Self;
    fn meta(self) -> u64;
    /// Whether the key in the slot is `key`; forms without a key say yes.
    fn has_key(self, key: u64) -> bool;
    fn zeroed(count: usize) -> Vec<Self>;
    fn moved() -> Self;
}

/// Tag and group; keys are elsewhere.
impl Slot for u64 {
    const EMPTY: u64 = 0;

    #[inline(always)]
    fn new(tag: u32, group: u32, _key: u64) -> u64 {
        u64::from(tag) << 32 | u64::from(group + 1)
    }

    #[inline(always)]
    fn meta(self) -> u64 {
        self
    }

    #[inline(always)]
    fn has_key(self, _key: u64) -> bool {
        true
    }

    fn zeroed(count: usize) -> Vec<u64> {
        vec![0; count]
    }

    fn moved() -> u64 {
        MOVED
    }
}

/// Key in the low half, tag and group in the high half. A plain integer, so that a fresh table is zeroed lazily by the
/// operating system.
impl Slot for u128 {
    const EMPTY: u128 = 0;

    #[inline(always)]
    fn new(tag: u32, group: u32, key: u64) -> u128 {
        u128::from(<u64 as Slot>::new(tag, group, 0)) << 64 | u128::from(key)
    }

    #[inline(always)]
    fn meta(self) -> u64 {
        (self >> 64) as u64
    }

    #[inline(always)]
    fn has_key(self, key: u64) -> bool {
        self as u64 == key
    }

    fn zeroed(count: usize) -> Vec<u128> {
        vec![0; count]
    }

    fn moved() -> u128 {
        u128::from(MOVED) << 64
    }
}

#[inline(always)]
fn tag_of(meta: u64) -> u32 {
    (meta >> 32) as u32
}

#[inline(always)]
fn group_plus_one(meta: u64) -> u32 {
    meta as u32
}

/// Brings the cache line of `place` near before it is needed. A hint only: nothing is read.
#[inline(always)]
pub(super) fn prefetch<T>(place: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address has no effect on memory and cannot fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(place.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

pub(super) struct Index<S> {
    slots: Vec<S>,
    /// Entries in `slots` and, while draining, in `old`.
    used: usize,
    old: Option<Draining<S>>,
    drain_bytes: usize,
}

struct Draining<S> {
    slots: Vec<S>,
    /// Slots before this were moved.
    next: usize,
}

impl<S: Slot> Index<S> {
    pub(super) fn new() -> Index<S> {
        Index::draining_above(DRAIN_BYTES)
    }

    fn draining_above(drain_bytes: usize) -> Index<S> {
        Index {
            slots: S::zeroed(SLOTS_FIRST),
            used: 0,
            old: None,
            drain_bytes,
        }
    }

    #[inline(always)]
    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    pub(super) fn memory_bytes(&self) -> usize {
        (self.slots.capacity() + self.old.as_ref().map_or(0, |old| old.slots.capacity())) * size_of::<S>()
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, hash: u64) {
        prefetch(self.slots.as_ptr().wrapping_add(hash as u32 as usize & self.mask()));
        if let Some(old) = &self.old {
            prefetch(
                old.slots
                    .as_ptr()
                    .wrapping_add(hash as u32 as usize & (old.slots.len() - 1)),
            );
        }
    }

    /// Call before every block of at most `rows` inserts.
    #[inline]
    pub(super) fn make_room(&mut self, rows: usize) {
        if self.old.is_some() {
            self.drain(rows * DRAIN_PER_ROW);
        }
        while (self.used + rows) * 4 > self.slots.len() * 3 {
            self.grow();
        }
    }

    #[cold]
    fn grow(&mut self) {
        self.drain(usize::MAX);
        let doubled = S::zeroed(self.slots.len() * 2);
        let old = std::mem::replace(&mut self.slots, doubled);
        let bytes = old.len() * size_of::<S>();
        self.old = Some(Draining { slots: old, next: 0 });
        if bytes <= self.drain_bytes {
            self.drain(usize::MAX);
        }
    }

    /// Moves up to `count` old slots. Growing splits each run of slots into two, so both ends are written in order.
    fn drain(&mut self, count: usize) {
        let Some(mut old) = self.old.take() else {
            return;
        };
        let end = old.next.saturating_add(count).min(old.slots.len());
        for place in old.next..end {
            let slot = old.slots[place];
            let meta = slot.meta();
            if meta != 0 && meta != MOVED {
                self.place(slot);
                old.slots[place] = S::moved();
            }
        }
        old.next = end;
        if end < old.slots.len() {
            self.old = Some(old);
        }
    }

    #[inline(always)]
    fn place(&mut self, slot: S) {
        let mask = self.mask();
        let mut at = tag_of(slot.meta()) as usize & mask;
        while self.slots[at].meta() != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// The group of the first slot with this tag, to be checked against its key, or [`NO_GROUP`]. Does not look into what
    /// is still to be moved.
    #[inline(always)]
    pub(super) fn first_match(&self, hash: u64) -> u32 {
        let tag = hash as u32;
        let mask = self.mask();
        let mut at = tag as usize & mask;
        loop {
            let meta = self.slots[at].meta();
            if meta == 0 {
                return NO_GROUP;
            }
            if tag_of(meta) == tag {
                return group_plus_one(meta) - 1;
            }
            at = (at + 1) & mask;
        }
    }

    /// The group with this hash and key for which `equal` holds.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, key: u64, equal: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = hash as u32;
        if let Some(group) = find_in(&self.slots, tag, key, &equal) {
            return Some(group);
        }
        match &self.old {
            Some(old) => find_in(&old.slots, tag, key, &equal),
            None => None,
        }
    }

    /// Adds a key that is not there. Room was made before.
    #[inline(always)]
    pub(super) fn insert(&mut self, hash: u64, key: u64, group: u32) {
        self.place(S::new(hash as u32, group, key));
        self.used += 1;
    }

    /// Takes out `group`, whose key has this hash.
    pub(super) fn remove(&mut self, hash: u64, group: u32) {
        let tag = hash as u32;
        if let Some(at) = position(&self.slots, tag, group) {
            self.close_gap(at);
        } else if let Some(old) = &mut self.old
            && let Some(at) = position(&old.slots, tag, group)
        {
            old.slots[at] = S::moved();
        } else {
            debug_assert!(false, "group {group} has another hash than it was interned with");
            return;
        }
        self.used -= 1;
    }

    /// Empties slot `gap` and moves back what probed past it, so that no mark has to stay behind.
    fn close_gap(&mut self, mut gap: usize) {
        let mask = self.mask();
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let meta = self.slots[at].meta();
            if meta == 0 {
                break;
            }
            let home = tag_of(meta) as usize & mask;
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.slots[gap] = self.slots[at];
                gap = at;
            }
        }
        self.slots[gap] = S::EMPTY;
    }
}

#[inline(always)]
fn find_in<S: Slot>(slots: &[S], tag: u32, key: u64, equal: &impl Fn(u32) -> bool) -> Option<u32> {
    let mask = slots.len() - 1;
    let mut at = tag as usize & mask;
    loop {
        let slot = slots[at];
        let meta = slot.meta();
        if meta == 0 {
            return None;
        }
        if tag_of(meta) == tag && meta != MOVED && slot.has_key(key) {
            let group = group_plus_one(meta) - 1;
            if equal(group) {
                return Some(group);
            }
        }
        at = (at + 1) & mask;
    }
}

fn position<S: Slot>(slots: &[S], tag: u32, group: u32) -> Option<usize> {
    let mask = slots.len() - 1;
    let mut at = tag as usize & mask;
    let wanted = <u64 as Slot>::new(tag, group, 0);
    loop {
        let meta = slots[at].meta();
        if meta == wanted {
            return Some(at);
        }
        if meta == 0 {
            return None;
        }
        at = (at + 1) & mask;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::state::hash::hash_word;

    /// Every size is drained bit by bit, with removals and look-ups in between.
    #[test]
    fn draining_loses_and_doubles_nothing() {
        let mut index = Index::<u128>::draining_above(0);
        let mut model = HashMap::new();
        for step in 0..20_000u64 {
            index.make_room(1);
            assert_eq!(index.find(hash_word(step), step, |_| true), None);
            index.insert(hash_word(step), step, step as u32);
            model.insert(step, step as u32);
            if step % 3 == 0 {
                let gone = step / 2;
                if let Some(group) = model.remove(&gone) {
                    index.remove(hash_word(gone), group);
                }
                assert_eq!(index.find(hash_word(gone), gone, |_| true), None);
            }
            let any = step / 3;
            assert_eq!(index.find(hash_word(any), any, |_| true), model.get(&any).copied());
        }
        assert_eq!(index.used, model.len());
        for key in 0..20_000u64 {
            assert_eq!(index.find(hash_word(key), key, |_| true), model.get(&key).copied());
        }
    }

    #[test]
    fn equal_tags_are_told_apart() {
        let mut index = Index::<u64>::new();
        for group in 0..20 {
            index.make_room(1);
            index.insert(7, 0, group);
        }
        for group in 0..20 {
            assert_eq!(index.find(7, 0, |candidate| candidate == group), Some(group));
        }
        index.remove(7, 3);
        assert_eq!(index.find(7, 0, |candidate| candidate == 3), None);
        assert_eq!(index.find(7, 0, |candidate| candidate == 19), Some(19));
    }
}

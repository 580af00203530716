//! Bytes of keys by group: 16-byte views, short ones whole inside the view, long ones in blocks.
//!
//! A view holds the length, then up to 12 bytes, or for more the first 4 bytes and the place of all. Most comparisons end at the view.
//!
//! Guarantee: space of removed keys is at most what the live ones take, plus [`GARBAGE_FREE`]. Not guaranteed: that bytes keep their
//! place; collecting garbage moves them.

const INLINE: usize = 12;
const BLOCK_FIRST: usize = 4 << 10;
const BLOCK_MAX: usize = 1 << 20;
/// Garbage below this is not worth a collection.
const GARBAGE_FREE: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Arena {
    blocks: Vec<Vec<u8>>,
    views: Vec<u128>,
    /// Bytes in blocks, of live and of removed keys.
    live: usize,
    dead: usize,
}

/// Length and the first bytes: for short strings all there is.
#[inline(always)]
fn short_view(bytes: &[u8]) -> u128 {
    let mut view = [0u8; 16];
    view[..4].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    view[4..4 + bytes.len()].copy_from_slice(bytes);
    u128::from_le_bytes(view)
}

/// Length and the first four bytes of a long string.
#[inline(always)]
fn long_head(bytes: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])) << 32 | bytes.len() as u64
}

#[inline(always)]
fn view_len(view: u128) -> usize {
    view as u32 as usize
}

impl Arena {
    #[inline(always)]
    pub(super) fn view_place(&self, group: u32) -> *const u128 {
        self.views.as_ptr().wrapping_add(group as usize)
    }

    pub(super) fn get<'a>(&'a self, group: u32, inline: &'a mut [u8; 16]) -> &'a [u8] {
        let view = self.views[group as usize];
        let len = view_len(view);
        if len <= INLINE {
            *inline = view.to_le_bytes();
            &inline[4..4 + len]
        } else {
            self.long(view)
        }
    }

    #[inline(always)]
    fn long(&self, view: u128) -> &[u8] {
        let block = (view >> 64) as u32 as usize;
        let offset = (view >> 96) as u32 as usize;
        &self.blocks[block][offset..offset + view_len(view)]
    }

    #[inline(always)]
    pub(super) fn equals(&self, group: u32, bytes: &[u8]) -> bool {
        let view = self.views[group as usize];
        if bytes.len() <= INLINE {
            view == short_view(bytes)
        } else {
            view as u64 == long_head(bytes) && self.long(view) == bytes
        }
    }

    /// Sets the bytes of `group`, which has none or is the next.
    pub(super) fn set(&mut self, group: u32, bytes: &[u8]) {
        assert!(bytes.len() < u32::MAX as usize, "a key is shorter than 4 GiB");
        let view = if bytes.len() <= INLINE {
            short_view(bytes)
        } else {
            self.append(bytes)
        };
        if group as usize == self.views.len() {
            self.views.push(view);
        } else {
            self.views[group as usize] = view;
        }
    }

    fn append(&mut self, bytes: &[u8]) -> u128 {
        let fits = self
            .blocks
            .last()
            .is_some_and(|block| block.capacity() - block.len() >= bytes.len());
        if !fits {
            let size = (BLOCK_FIRST << self.blocks.len().min(8))
                .min(BLOCK_MAX)
                .max(bytes.len());
            self.blocks.push(Vec::with_capacity(size));
        }
        let number = self.blocks.len() - 1;
        let block = &mut self.blocks[number];
        let offset = block.len();
        block.extend_from_slice(bytes);
        self.live += bytes.len();
        u128::from(long_head(bytes)) | u128::from(number as u32) << 64 | u128::from(offset as u32) << 96
    }

    /// Forgets the bytes of `group`; collects garbage when there is more of it than of anything else.
    pub(super) fn remove(&mut self, group: u32) {
        let len = view_len(self.views[group as usize]);
        self.views[group as usize] = 0;
        if len > INLINE {
            self.live -= len;
            self.dead += len;
            if self.dead > self.live + GARBAGE_FREE {
                self.collect();
            }
        }
    }

    fn collect(&mut self) {
        let old = std::mem::take(&mut self.blocks);
        self.live = 0;
        self.dead = 0;
        for group in 0..self.views.len() {
            let view = self.views[group];
            let len = view_len(view);
            if len > INLINE {
                let block = (view >> 64) as u32 as usize;
                let offset = (view >> 96) as u32 as usize;
                self.views[group] = self.append(&old[block][offset..offset + len]);
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.views.capacity() * 16 + self.blocks.iter().map(Vec::capacity).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_around_the_inline_limit() {
        let mut arena = Arena::default();
        let texts: Vec<String> = (0..40)
            .map(|len| "abcdefghijklmnopqrstuvwxyz0123456789ABCDEF"[..len].to_string())
            .collect();
        for (group, text) in texts.iter().enumerate() {
            arena.set(group as u32, text.as_bytes());
        }
        let mut inline = [0; 16];
        for (group, text) in texts.iter().enumerate() {
            assert_eq!(arena.get(group as u32, &mut inline), text.as_bytes());
            for (other, candidate) in texts.iter().enumerate() {
                assert_eq!(arena.equals(group as u32, candidate.as_bytes()), group == other);
            }
        }
        let padded = b"ab\0";
        assert!(!arena.equals(2, padded), "zero bytes count");
    }

    #[test]
    fn garbage_is_collected_and_live_bytes_survive() {
        let mut arena = Arena::default();
        let text = |group: u32| format!("a key that is certainly not inline, number {group:>10}");
        for group in 0..100_000 {
            arena.set(group, text(group).as_bytes());
        }
        let full = arena.memory_bytes();
        for group in 0..99_000 {
            arena.remove(group);
        }
        assert!(arena.memory_bytes() < full / 2);
        let mut inline = [0; 16];
        for group in 99_000..100_000 {
            assert_eq!(arena.get(group, &mut inline), text(group).as_bytes());
        }
        arena.set(5, b"reused");
        assert!(arena.equals(5, b"reused"));
    }
}

//! Finds the byte that ends the plain part of a JSON string: a quote, a backslash or a control character.
//!
//! x86-64 always has SSE2, so its 16-byte compares need no detection at run time; other machines take 8 bytes at a time in
//! a general register.

/// The index of the first quote, backslash or control character at or after `from`; the length when there is none.
#[inline(always)]
pub fn string_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(block) = bytes.get(at..at + BLOCK) {
        let mask = special_mask(block);
        if mask != 0 {
            return at + first(mask);
        }
        at += BLOCK;
    }
    while at < bytes.len() && !is_special(bytes[at]) {
        at += 1;
    }
    at
}

#[inline(always)]
fn is_special(byte: u8) -> bool {
    byte == b'"' || byte == b'\\' || byte < 0x20
}

#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 16;

/// One bit a byte.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn special_mask(block: &[u8]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_max_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    debug_assert_eq!(block.len(), BLOCK);
    // SAFETY: SSE2 is part of x86-64, and `block` has the 16 bytes that are loaded, for which no alignment is asked.
    unsafe {
        let data = _mm_loadu_si128(block.as_ptr().cast());
        let quote = _mm_cmpeq_epi8(data, _mm_set1_epi8(b'"' as i8));
        let backslash = _mm_cmpeq_epi8(data, _mm_set1_epi8(b'\\' as i8));
        // Unsigned `data <= 0x1f`: the maximum of both is 0x1f.
        let limit = _mm_set1_epi8(0x1f);
        let control = _mm_cmpeq_epi8(_mm_max_epu8(data, limit), limit);
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control)) as u32
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn first(mask: u32) -> usize {
    mask.trailing_zeros() as usize
}

#[cfg(not(target_arch = "x86_64"))]
const BLOCK: usize = 8;

/// The high bit of each special byte; bits above the lowest one set may be wrong (a borrow runs upwards).
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn special_mask(block: &[u8]) -> u64 {
    swar_mask(block)
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn first(mask: u64) -> usize {
    mask.trailing_zeros() as usize / 8
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn swar_mask(block: &[u8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    let data = block.first_chunk::<8>().map_or(0, |eight| u64::from_le_bytes(*eight));
    let zero_bytes = |value: u64| value.wrapping_sub(ONES) & !value & HIGH;
    let quote = zero_bytes(data ^ (ONES * b'"' as u64));
    let backslash = zero_bytes(data ^ (ONES * b'\\' as u64));
    let control = data.wrapping_sub(ONES * 0x20) & !data & HIGH;
    quote | backslash | control
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn byte_by_byte(bytes: &[u8], from: usize) -> usize {
        (from..bytes.len())
            .find(|at| is_special(bytes[*at]))
            .unwrap_or(bytes.len())
    }

    proptest! {
        #[test]
        fn finds_what_a_plain_loop_finds(
            bytes in proptest::collection::vec(
                prop_oneof![8 => 0x20u8..=0xff, 1 => Just(b'"'), 1 => Just(b'\\'), 1 => 0u8..0x20], 0..100),
            from in 0usize..100,
        ) {
            let from = from.min(bytes.len());
            prop_assert_eq!(string_end(&bytes, from), byte_by_byte(&bytes, from));
        }

        #[test]
        fn the_portable_mask_finds_the_same(bytes in proptest::array::uniform8(any::<u8>())) {
            let found = swar_mask(&bytes).trailing_zeros() as usize / 8;
            prop_assert_eq!(found, byte_by_byte(&bytes, 0));
        }
    }
}

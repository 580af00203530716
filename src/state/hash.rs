//! The frozen hash of keys, version 1: decides the key group of every row, now and after every upgrade.
//!
//! Canonical bytes of a value decide its hash, never its Arrow type: INT 5 and BIGINT 5 meet in one group. The forms are
//! those of [`crate::state::canonical`].
//!
//! Definition. `fold(a, b)` is the 128-bit product of two 64-bit numbers, its halves xored. A row starts with the state
//! [`SEED`]; each column absorbs its value, in column order, and the last state is the hash:
//!
//! - a word `w`: with `x = state ^ S0`, `y = w ^ S1`, `p = x * y` (128 bits): `fold(x ^ low(p) ^ S2, y ^ high(p) ^ S3)`;
//! - 128 bits: the low word, then the high word;
//! - bytes: see [`absorb_bytes`]; NULL: `fold(state ^ S3, NULL_WORD)`;
//! - a struct: its fields in order; a list: its length, then the hash of each element; a map: as the list of its entries;
//!   a union: its type id, then the hash of the value.
//!
//! The multiply-and-fold step and its constants are those that wyhash published
//! (<https://github.com/wangyi-fudan/wyhash>, public domain).
//!
//! Guarantee: for a value of one meaning the number never changes ([`VERSION`] would). Not guaranteed: resistance to somebody
//! who chooses keys to collide.

use arrow::array::{Array, ArrayRef, AsArray, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal256Type, Int16Type, Int32Type, Int64Type, RunEndIndexType};

use crate::state::canonical::{BytesColumn, Canonical, canonical, plain};

/// Recorded in every checkpoint.
pub const VERSION: u32 = 1;

/// The hash of a row without key columns.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

const S0: u64 = 0x2d35_8dcc_aa6c_78a5;
const S1: u64 = 0x8bb8_4b93_962e_acc9;
const S2: u64 = 0x4b33_a62e_d433_d4a3;
const S3: u64 = 0x4d5a_2da5_1de1_aa47;
const NULL_WORD: u64 = 0xa076_1d64_78bd_642f;

/// Puts the hash of every row of `columns`, which have one length, into `out`, replacing what it held.
pub fn hash_columns(columns: &[ArrayRef], out: &mut Vec<u64>) {
    let rows = columns.first().map_or(0, |column| column.len());
    hash_rows(columns, rows, out);
}

/// The same with the number of rows said, for keys of no columns.
pub fn hash_rows(columns: &[ArrayRef], rows: usize, out: &mut Vec<u64>) {
    out.clear();
    out.resize(rows, SEED);
    for (index, column) in columns.iter().enumerate() {
        assert_eq!(column.len(), rows, "key columns have one length");
        absorb_column(column, out, index == 0);
    }
}

/// The hash of a key of one word: an integer, a timestamp, a float's canonical bits.
#[inline]
pub fn hash_word(word: u64) -> u64 {
    absorb_word(SEED, word)
}

/// The hash of a key that is one NULL.
#[inline]
pub fn hash_null() -> u64 {
    absorb_null(SEED)
}

/// The hash of bytes that are not a column: names of splits, files.
pub fn hash_bytes(bytes: &[u8]) -> u64 {
    absorb_bytes(SEED, bytes)
}

#[inline(always)]
fn multiply(a: u64, b: u64) -> (u64, u64) {
    let product = u128::from(a) * u128::from(b);
    (product as u64, (product >> 64) as u64)
}

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let (low, high) = multiply(a, b);
    low ^ high
}

/// Two rounds: with one, keys that differ in few bits would crowd into few key groups. Xoring the product into the
/// factors keeps the state alive when a factor is zero.
#[inline(always)]
fn absorb_word(state: u64, word: u64) -> u64 {
    let (x, y) = (state ^ S0, word ^ S1);
    let (low, high) = multiply(x, y);
    fold(x ^ low ^ S2, y ^ high ^ S3)
}

#[inline(always)]
fn absorb_null(state: u64) -> u64 {
    fold(state ^ S3, NULL_WORD)
}

#[inline(always)]
fn absorb_wide(state: u64, value: u128) -> u64 {
    absorb_word(absorb_word(state, value as u64), (value >> 64) as u64)
}

#[inline(always)]
fn read_8(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline(always)]
fn read_4(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u64::from(u32::from_le_bytes(word))
}

/// Absorbs a string: 16 bytes a round from the front while more than 16 are left, then two words that cover the rest,
/// then the length. All reads are little-endian.
///
/// The two words `a`, `b` of a rest of `n` bytes (of a string of `len`): 8 or more bytes, or a string longer than 16: the last
/// 16 or, for strings of up to 16, the first 8 and the last 8; 4 to 7: the first 4 and the last 4; 1 to 3: the first, middle (`n / 2`) and last byte in one word,
/// and 0; none: 0 and 0.
#[inline]
pub(crate) fn absorb_bytes(state: u64, bytes: &[u8]) -> u64 {
    let len = bytes.len();
    let mut state = state ^ S0;
    let (a, b) = if len > 16 {
        let mut at = 0;
        while len - at > 16 {
            state = fold(read_8(bytes, at) ^ S1, read_8(bytes, at + 8) ^ state);
            at += 16;
        }
        (read_8(bytes, len - 16), read_8(bytes, len - 8))
    } else if len >= 8 {
        (read_8(bytes, 0), read_8(bytes, len - 8))
    } else if len >= 4 {
        (read_4(bytes, 0), read_4(bytes, len - 4))
    } else if len > 0 {
        let (first, middle, last) = (bytes[0], bytes[len / 2], bytes[len - 1]);
        (u64::from(first) << 16 | u64::from(middle) << 8 | u64::from(last), 0)
    } else {
        (0, 0)
    };
    let (x, y) = (a ^ S1, b ^ state);
    let (low, high) = multiply(x, y);
    fold(x ^ low ^ S2 ^ len as u64, y ^ high ^ S3)
}

/// Absorbs column `array` into the states of its rows. `fresh`: every state is [`SEED`].
fn absorb_column(array: &ArrayRef, states: &mut [u64], fresh: bool) {
    let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
    match canonical(array.as_ref()) {
        Canonical::Words(words) => absorb_each(states, nulls.as_ref(), |state, row| absorb_word(state, words[row])),
        Canonical::Wide(wide) => absorb_each(states, nulls.as_ref(), |state, row| absorb_wide(state, wide[row])),
        Canonical::Bytes(bytes) => absorb_bytes_column(states, nulls.as_ref(), &bytes),
        Canonical::Nested => absorb_nested(array, nulls.as_ref(), states, fresh),
    }
}

/// The inner loop: the state of each row becomes `absorb(state, row)`, or that of NULL.
#[inline(always)]
fn absorb_each(states: &mut [u64], nulls: Option<&NullBuffer>, absorb: impl Fn(u64, usize) -> u64) {
    match nulls {
        None => {
            for (row, state) in states.iter_mut().enumerate() {
                *state = absorb(*state, row);
            }
        }
        Some(nulls) => {
            for (row, state) in states.iter_mut().enumerate() {
                *state = if nulls.is_null(row) {
                    absorb_null(*state)
                } else {
                    absorb(*state, row)
                };
            }
        }
    }
}

fn absorb_bytes_column(states: &mut [u64], nulls: Option<&NullBuffer>, bytes: &BytesColumn<'_>) {
    // The layout is matched outside the loop for the common one.
    if let BytesColumn::Small { offsets, data } = bytes {
        absorb_each(states, nulls, |state, row| {
            absorb_bytes(state, &data[offsets[row] as usize..offsets[row + 1] as usize])
        });
    } else {
        absorb_each(states, nulls, |state, row| absorb_bytes(state, bytes.get(row)));
    }
}

fn absorb_nested(array: &ArrayRef, nulls: Option<&NullBuffer>, states: &mut [u64], fresh: bool) {
    match array.data_type() {
        DataType::Null => states.iter_mut().for_each(|state| *state = absorb_null(*state)),
        DataType::Dictionary(_, _) => absorb_dictionary(array, states, fresh),
        DataType::Struct(_) => absorb_struct(array.as_struct(), nulls, states),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let offsets = list.value_offsets();
            absorb_lists(list.values(), nulls, states, |row| {
                offsets[row] as usize..offsets[row + 1] as usize
            });
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let offsets = list.value_offsets();
            absorb_lists(list.values(), nulls, states, |row| {
                offsets[row] as usize..offsets[row + 1] as usize
            });
        }
        DataType::FixedSizeList(_, width) => {
            let width = *width as usize;
            absorb_lists(array.as_fixed_size_list().values(), nulls, states, |row| {
                row * width..(row + 1) * width
            });
        }
        DataType::Map(_, _) => {
            let map = array.as_map();
            let offsets = map.value_offsets();
            let entries: ArrayRef = std::sync::Arc::new(map.entries().clone());
            absorb_lists(&entries, nulls, states, |row| {
                offsets[row] as usize..offsets[row + 1] as usize
            });
        }
        DataType::ListView(_) => {
            let list = array.as_list_view::<i32>();
            let (offsets, sizes) = (list.value_offsets(), list.value_sizes());
            absorb_lists(list.values(), nulls, states, |row| {
                offsets[row] as usize..(offsets[row] + sizes[row]) as usize
            });
        }
        DataType::LargeListView(_) => {
            let list = array.as_list_view::<i64>();
            let (offsets, sizes) = (list.value_offsets(), list.value_sizes());
            absorb_lists(list.values(), nulls, states, |row| {
                offsets[row] as usize..(offsets[row] + sizes[row]) as usize
            });
        }
        _ => absorb_rare(array, nulls, states, fresh),
    }
}

fn absorb_rare(array: &ArrayRef, nulls: Option<&NullBuffer>, states: &mut [u64], fresh: bool) {
    match array.data_type() {
        DataType::Decimal256(_, _) => {
            let values = array.as_primitive::<Decimal256Type>().values();
            absorb_each(states, nulls, |state, row| {
                let (low, high) = values[row].to_parts();
                absorb_wide(absorb_wide(state, low), high as u128)
            });
        }
        DataType::Union(_, _) => absorb_union(array, states),
        DataType::RunEndEncoded(ends, _) => {
            let plain = match ends.data_type() {
                DataType::Int16 => spell_out_runs::<Int16Type>(array),
                DataType::Int32 => spell_out_runs::<Int32Type>(array),
                _ => spell_out_runs::<Int64Type>(array),
            };
            absorb_column(&plain, states, fresh);
        }
        other => unreachable!("type {other} has a canonical form"),
    }
}

/// A value of the dictionary is hashed once when the states allow it, and like the plain value in any case.
fn absorb_dictionary(array: &ArrayRef, states: &mut [u64], fresh: bool) {
    let dictionary = array.as_any_dictionary();
    let values = dictionary.values();
    if !fresh || values.len() > array.len() || values.is_empty() {
        return absorb_column(&plain(array), states, fresh);
    }
    let mut hashes = vec![SEED; values.len()];
    absorb_column(values, &mut hashes, true);
    let keys = dictionary.normalized_keys();
    absorb_each(states, dictionary.keys().nulls(), |_, row| hashes[keys[row]]);
}

fn absorb_struct(array: &StructArray, nulls: Option<&NullBuffer>, states: &mut [u64]) {
    let before = nulls.map(|_| states.to_vec());
    for column in array.columns() {
        absorb_column(column, states, false);
    }
    if let (Some(nulls), Some(before)) = (nulls, before) {
        for row in 0..states.len() {
            if nulls.is_null(row) {
                states[row] = absorb_null(before[row]);
            }
        }
    }
}

fn absorb_lists(
    values: &ArrayRef,
    nulls: Option<&NullBuffer>,
    states: &mut [u64],
    range_of: impl Fn(usize) -> std::ops::Range<usize>,
) {
    let mut elements = Vec::new();
    hash_columns(std::slice::from_ref(values), &mut elements);
    absorb_each(states, nulls, |state, row| {
        let range = range_of(row);
        let state = absorb_word(state, range.len() as u64);
        elements[range]
            .iter()
            .fold(state, |state, element| absorb_word(state, *element))
    });
}

fn absorb_union(array: &ArrayRef, states: &mut [u64]) {
    let DataType::Union(fields, _) = array.data_type() else {
        return;
    };
    let union = array.as_union();
    let mut children: Vec<Vec<u64>> = vec![Vec::new(); 128];
    for (type_id, _) in fields.iter() {
        hash_columns(
            std::slice::from_ref(union.child(type_id)),
            &mut children[type_id as usize],
        );
    }
    for (row, state) in states.iter_mut().enumerate() {
        let type_id = union.type_id(row);
        let value = children[type_id as usize][union.value_offset(row)];
        *state = absorb_word(absorb_word(*state, type_id as u64), value);
    }
}

fn spell_out_runs<R: RunEndIndexType>(array: &ArrayRef) -> ArrayRef {
    let runs = array.as_run::<R>();
    let indices: arrow::array::UInt64Array = (0..array.len())
        .map(|row| runs.get_physical_index(row) as u64)
        .collect();
    arrow::compute::take(runs.values().as_ref(), &indices, None).expect("a run's index is inside its values")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::buffer::OffsetBuffer;
    use arrow::compute::cast;
    use arrow::datatypes::*;

    use super::*;
    use crate::state::key_group::KeyGroups;

    fn hashes(columns: &[ArrayRef]) -> Vec<u64> {
        let mut out = Vec::new();
        hash_columns(columns, &mut out);
        out
    }

    fn one(array: impl Array + 'static) -> Vec<u64> {
        hashes(&[Arc::new(array) as ArrayRef])
    }

    /// Computed from the definition by a program of its own in another language. These numbers are in the checkpoints of users: a change
    /// that breaks this test loses their state.
    #[test]
    fn numbers_never_change() {
        assert_eq!(
            one(Int64Array::from(vec![
                Some(0),
                Some(1),
                Some(5),
                Some(-1),
                Some(1 << 62),
                Some(i64::MIN),
                None
            ])),
            [
                0xe90d2659e66eee2b,
                0xf5fa6384a8d13017,
                0xcd7f6536cc7e9d65,
                0x6163d32c1e7cc957,
                0xdaa0f8ca71c1f819,
                0x4a4c0c799f1a4dc6,
                0x7dd00e20387afc43
            ]
        );
        let strings = [
            ("", 0x611a9ba596b449fu64),
            ("a", 0x429ddf3eaea89b26),
            ("abc", 0x3562ecbf88003c98),
            ("abcd", 0xd21327fd8775b972),
            ("abcdefg", 0xba1a244d7453c6a7),
            ("abcdefgh", 0x1ab3c484e29efef0),
            ("0123456789abcdef", 0x72f75b1a0a8840ac),
            ("0123456789abcdefg", 0x91ff43515c3f0b7d),
            (
                "Grüße, Laminar: the quick brown fox jumps over 13 dogs",
                0xd141b2f46d7a1883,
            ),
        ];
        for (text, hash) in strings {
            assert_eq!(one(StringArray::from(vec![text])), [hash], "{text}");
            assert_eq!(hash_bytes(text.as_bytes()), hash);
        }
        assert_eq!(
            one(Float64Array::from(vec![-0.0, 1.5, -1.5, -f64::NAN, f64::INFINITY])),
            [
                0xe90d2659e66eee2b,
                0x634a15ffbbb73908,
                0xc382f4d027b8c299,
                0xa47d49be73eea40b,
                0xabeec060b5552755
            ]
        );
        let decimals = Decimal128Array::from(vec![0, 123456, -1, 10i128.pow(37)]);
        assert_eq!(
            one(decimals),
            [
                0x2efca43970ddc35e,
                0xb6e3115e76fafb15,
                0xa862a9deabf44885,
                0x356e8668563be4dd
            ]
        );
    }

    #[test]
    fn numbers_of_rows_and_nested_values_never_change() {
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), None, Some(5)]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("x"), Some("x"), None]));
        let expected = [0x93c7a47ff5e692fb, 0x7cc407f824891f70, 0xdbe0b5f30a81e539];
        assert_eq!(hashes(&[Arc::clone(&ints), Arc::clone(&texts)]), expected);
        let row = StructArray::from(vec![
            (Arc::new(Field::new("a", DataType::Int64, true)), ints),
            (Arc::new(Field::new("b", DataType::Utf8, true)), texts),
        ]);
        assert_eq!(one(row), expected);
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
            Some(vec![Some(1), Some(2)]),
            Some(vec![]),
            Some(vec![None]),
            None,
        ]);
        assert_eq!(
            one(lists),
            [0xd44b7c5bc5d5f370, 0xe90d2659e66eee2b, 0x6b9a481b3660e8df, hash_null()]
        );
    }

    #[test]
    fn the_value_decides_and_not_the_type() {
        let ints: ArrayRef = Arc::new(Int64Array::from(vec![Some(5), None, Some(100), Some(0)]));
        let expected = hashes(&[Arc::clone(&ints)]);
        for other in [
            DataType::Int8,
            DataType::Int16,
            DataType::Int32,
            DataType::UInt8,
            DataType::UInt64,
            DataType::Date64,
            DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into())),
            DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Int16)),
        ] {
            let same = cast(&ints, &other).unwrap();
            assert_eq!(hashes(&[same]), expected, "{other}");
        }
        let texts: ArrayRef = Arc::new(StringArray::from(vec![
            Some("longer than twelve bytes"),
            None,
            Some(""),
            Some("x"),
        ]));
        let expected = hashes(&[Arc::clone(&texts)]);
        for other in [
            DataType::LargeUtf8,
            DataType::Utf8View,
            DataType::Binary,
            DataType::BinaryView,
            DataType::LargeBinary,
            DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8)),
        ] {
            let same = cast(&texts, &other).unwrap();
            assert_eq!(hashes(&[same]), expected, "{other}");
        }
        assert_eq!(
            one(Float32Array::from(vec![1.5, -0.0])),
            one(Float64Array::from(vec![1.5, 0.0]))
        );
        let uuids = FixedSizeBinaryArray::try_from_iter([b"abcd".as_slice(), b"efgh"].into_iter()).unwrap();
        assert_eq!(one(uuids), one(StringArray::from(vec!["abcd", "efgh"])));
    }

    #[test]
    fn dictionaries_after_another_column_hash_like_plain_columns() {
        let first: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4]));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None, Some("b"), Some("a")]));
        let dictionary = cast(
            &texts,
            &DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8)),
        )
        .unwrap();
        assert_eq!(hashes(&[Arc::clone(&first), dictionary]), hashes(&[first, texts]));
    }

    #[test]
    fn slices_hash_like_whole_columns() {
        let row = StructArray::from(vec![
            (
                Arc::new(Field::new("a", DataType::Boolean, true)),
                Arc::new(BooleanArray::from(vec![Some(true), None, Some(false), Some(true)])) as ArrayRef,
            ),
            (
                Arc::new(Field::new("b", DataType::FixedSizeBinary(2), true)),
                Arc::new(FixedSizeBinaryArray::try_from_iter(["aa", "bb", "cc", "dd"].into_iter()).unwrap())
                    as ArrayRef,
            ),
        ]);
        let list = ListArray::new(
            Arc::new(Field::new("item", row.data_type().clone(), true)),
            OffsetBuffer::new(vec![0, 1, 1, 3, 4].into()),
            Arc::new(row.clone()),
            Some(vec![true, false, true, true].into()),
        );
        let sparse = StructArray::new(
            row.fields().clone(),
            row.columns().to_vec(),
            Some(vec![true, false, true, false].into()),
        );
        for array in [Arc::new(row) as ArrayRef, Arc::new(list), Arc::new(sparse)] {
            let whole = hashes(&[Arc::clone(&array)]);
            assert_eq!(hashes(&[array.slice(1, 3)]), whole[1..], "{}", array.data_type());
        }
        let hash = one(NullArray::new(2));
        assert_eq!(hash, [hash_null(), hash_null()]);
    }

    #[test]
    fn runs_and_unions_hash_their_values() {
        let plain = StringArray::from(vec![Some("a"), Some("a"), None, Some("b")]);
        let runs = RunArray::try_new(
            &Int32Array::from(vec![2, 3, 4]),
            &StringArray::from(vec![Some("a"), None, Some("b")]),
        )
        .unwrap();
        assert_eq!(one(runs.slice(1, 3)), one(plain)[1..]);
        let fields = UnionFields::from_fields(vec![
            Field::new("i", DataType::Int32, true),
            Field::new("s", DataType::Utf8, true),
        ]);
        let children: Vec<ArrayRef> = vec![
            Arc::new(Int32Array::from(vec![7, 8])),
            Arc::new(StringArray::from(vec!["x"])),
        ];
        let union = UnionArray::try_new(fields, vec![0i8, 1, 0].into(), Some(vec![0, 0, 1].into()), children).unwrap();
        let all = one(union.clone());
        assert_eq!(all[0], absorb_word(absorb_word(SEED, 0), hash_word(7)));
        assert_eq!(all[1], absorb_word(absorb_word(SEED, 1), hash_bytes(b"x")));
        assert_eq!(one(union.slice(2, 1)), all[2..]);
    }

    /// A chi-square of keys over key groups and over buckets, for keys that users have: counters, multiples, times.
    #[test]
    fn keys_spread_over_groups_and_buckets() {
        let groups = KeyGroups::default();
        for step in [1u64, 2, 1000, 1 << 20, 1 << 32, 1 << 44, 1_000_000_007] {
            let mut high = vec![0u32; 1024];
            let mut low = vec![0u32; 1024];
            for index in 0..102_400u64 {
                let hash = hash_word(index.wrapping_mul(step));
                high[groups.group_of(hash).0 as usize] += 1;
                low[(hash & 1023) as usize] += 1;
            }
            for counts in [high, low] {
                let chi: f64 = counts.iter().map(|c| (f64::from(*c) - 100.0).powi(2) / 100.0).sum();
                // 1023 degrees of freedom: mean 1023, deviation 45.
                assert!((700.0..1350.0).contains(&chi), "step {step}: {chi}");
            }
        }
    }
}

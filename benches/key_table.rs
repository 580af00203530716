//! How long the key table takes for a row, at 1 thousand, 1 million and 30 million groups, beside hashbrown and the group
//! values of DataFusion on the same rows.
//!
//!     cargo bench --bench key_table                      # all
//!     cargo bench --bench key_table -- --groups 1000000  # one size
//!
//! Every side hashes and finds (or adds) the group of each row: Laminar by `hash_columns` and `KeyTable::intern`, hashbrown by the same
//! hash and a `HashTable`, DataFusion by `GroupValues::intern` with its own hash. `insert` meets every key for the first
//! time, in random order; `probe` meets known keys at random; `hot` meets ten keys in half of the rows. Figures are CPU nanoseconds a row.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use hashbrown::HashTable;
use laminar::state::hash::hash_columns;
use laminar::state::key_table::KeyTable;

const BATCH_ROWS: usize = 8192;
/// Batches made before a stretch that is timed, so that making them is not.
const BATCHES: usize = 32;
const ROWS_MIN: usize = 4_000_000;
const PROBES_MAX: usize = 20_000_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Keys {
    Int,
    Text,
    TwoInts,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pass {
    Insert,
    Probe,
    Hot,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let wanted = arguments
        .iter()
        .position(|argument| argument == "--groups")
        .map(|at| arguments[at + 1].parse().unwrap());
    let sizes = wanted.map_or(vec![1_000, 1_000_000, 30_000_000], |groups: usize| vec![groups]);
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "keys     groups    pass      laminar  hashbrown  datafusion  to hashbrown  to datafusion   (ns a row)"
    )
    .unwrap();
    for groups in sizes {
        for keys in [Keys::Int, Keys::Text, Keys::TwoInts] {
            if groups > 10_000_000 && keys == Keys::Text {
                // Half a minute of making strings, and several gigabytes, for what 1 million groups show as well.
                continue;
            }
            report(&mut out, keys, groups);
        }
    }
}

fn report(out: &mut impl Write, keys: Keys, groups: usize) {
    let laminar = measure(&mut Laminar::new(keys), keys, groups);
    let hashbrown = measure(&mut Hashbrown::new(keys), keys, groups);
    let datafusion = measure(&mut DataFusion::new(keys), keys, groups);
    for (at, pass) in [Pass::Insert, Pass::Probe, Pass::Hot].into_iter().enumerate() {
        let (ours, brown, fusion) = (laminar[at], hashbrown[at], datafusion[at]);
        let (to_brown, to_fusion) = (ours / brown, ours / fusion);
        writeln!(
            out,
            "{:<8} {groups:<9} {:<8} {ours:>8.1} {brown:>10.1} {fusion:>11.1} {to_brown:>13.2} {to_fusion:>14.2}",
            format!("{keys:?}"),
            format!("{pass:?}"),
        )
        .unwrap();
    }
}

/// One of the three sides.
trait Side {
    fn intern(&mut self, columns: &[ArrayRef]) -> u64;
}

/// Nanoseconds a row of each pass.
fn measure(side: &mut dyn Side, keys: Keys, groups: usize) -> [f64; 3] {
    [Pass::Insert, Pass::Probe, Pass::Hot].map(|pass| {
        let rows = if pass == Pass::Insert {
            groups
        } else {
            (groups * 2).clamp(ROWS_MIN, PROBES_MAX)
        };
        let mut timed = 0.0;
        let mut check = 0u64;
        let mut done = 0;
        while done < rows {
            let batches: Vec<Vec<ArrayRef>> = (0..BATCHES)
                .map(|batch| done + batch * BATCH_ROWS)
                .filter(|start| *start < rows)
                .map(|start| columns(keys, pass, groups, start..(start + BATCH_ROWS).min(rows)))
                .collect();
            let start = cpu_nanos();
            for batch in &batches {
                check = check.wrapping_add(side.intern(batch));
                done += batch[0].len();
            }
            timed += cpu_nanos() - start;
        }
        std::hint::black_box(check);
        timed / rows as f64
    })
}

/// CPU time of this thread, so that other work on the machine does not count.
fn cpu_nanos() -> f64 {
    thread_local!(static START: Instant = Instant::now());
    std::fs::read_to_string("/proc/thread-self/schedstat")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| START.with(|start| start.elapsed().as_nanos() as f64))
}

fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn columns(keys: Keys, pass: Pass, groups: usize, rows: std::ops::Range<usize>) -> Vec<ArrayRef> {
    let number = |row: usize| -> usize {
        match pass {
            // A walk over all groups in scattered order: groups and the odd step have no common factor.
            Pass::Insert => (row as u64 * 7_368_787 % groups as u64) as usize,
            Pass::Hot if row.is_multiple_of(2) => row / 2 % 10,
            _ => (mix(row as u64) % groups as u64) as usize,
        }
    };
    let key = |row: usize| mix(number(row) as u64) as i64;
    let ints =
        |shift: u32| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.clone().map(|row| key(row) >> shift))) };
    match keys {
        Keys::Int => vec![ints(0)],
        Keys::TwoInts => vec![ints(0), ints(48)],
        Keys::Text => vec![Arc::new(StringArray::from_iter_values(
            rows.clone().map(|row| format!("customer-{}", key(row))),
        ))],
    }
}

fn types(keys: Keys) -> Vec<DataType> {
    match keys {
        Keys::Int => vec![DataType::Int64],
        Keys::Text => vec![DataType::Utf8],
        Keys::TwoInts => vec![DataType::Int64, DataType::Int64],
    }
}

struct Laminar {
    table: KeyTable,
    hashes: Vec<u64>,
    groups: Vec<u32>,
}

impl Laminar {
    fn new(keys: Keys) -> Laminar {
        Laminar {
            table: KeyTable::new(&types(keys)).unwrap(),
            hashes: Vec::new(),
            groups: Vec::new(),
        }
    }
}

impl Side for Laminar {
    fn intern(&mut self, columns: &[ArrayRef]) -> u64 {
        hash_columns(columns, &mut self.hashes);
        self.table.intern(columns, &self.hashes, &mut self.groups);
        self.groups.iter().map(|group| u64::from(*group)).sum()
    }
}

/// What one would write by hand: the key beside its number.
struct Hashbrown {
    keys: Keys,
    hashes: Vec<u64>,
    ints: HashTable<(u64, i64, u32)>,
    pairs: HashTable<(u64, (i64, i64), u32)>,
    texts: HashTable<(u64, Box<str>, u32)>,
}

impl Hashbrown {
    fn new(keys: Keys) -> Hashbrown {
        Hashbrown {
            keys,
            hashes: Vec::new(),
            ints: HashTable::new(),
            pairs: HashTable::new(),
            texts: HashTable::new(),
        }
    }
}

fn find_or_add<K, Q: ?Sized>(
    table: &mut HashTable<(u64, K, u32)>,
    hash: u64,
    key: &Q,
    equal: impl Fn(&K, &Q) -> bool,
    own: impl Fn(&Q) -> K,
) -> u64 {
    if let Some((_, _, group)) = table.find(hash, |(_, candidate, _)| equal(candidate, key)) {
        return u64::from(*group);
    }
    let group = table.len() as u32;
    table.insert_unique(hash, (hash, own(key), group), |(hash, _, _)| *hash);
    u64::from(group)
}

impl Side for Hashbrown {
    fn intern(&mut self, columns: &[ArrayRef]) -> u64 {
        hash_columns(columns, &mut self.hashes);
        let mut sum = 0;
        match self.keys {
            Keys::Int => {
                let keys = columns[0].as_primitive::<Int64Type>().values();
                for (key, hash) in keys.iter().zip(&self.hashes) {
                    sum += find_or_add(&mut self.ints, *hash, key, |left, right| left == right, |key| *key);
                }
            }
            Keys::TwoInts => {
                let first = columns[0].as_primitive::<Int64Type>().values();
                let second = columns[1].as_primitive::<Int64Type>().values();
                for ((first, second), hash) in first.iter().zip(second).zip(&self.hashes) {
                    let key = (*first, *second);
                    sum += find_or_add(&mut self.pairs, *hash, &key, |left, right| left == right, |key| *key);
                }
            }
            Keys::Text => {
                let keys = columns[0].as_string::<i32>();
                for (row, hash) in self.hashes.iter().enumerate() {
                    let key = keys.value(row);
                    sum += find_or_add(
                        &mut self.texts,
                        *hash,
                        key,
                        |left, right| **left == *right,
                        |key| key.into(),
                    );
                }
            }
        }
        sum
    }
}

struct DataFusion {
    values: Box<dyn GroupValues>,
    groups: Vec<usize>,
}

impl DataFusion {
    fn new(keys: Keys) -> DataFusion {
        let fields: Vec<Field> = types(keys)
            .into_iter()
            .enumerate()
            .map(|(at, data_type)| Field::new(format!("k{at}"), data_type, false))
            .collect();
        DataFusion {
            values: new_group_values(Arc::new(Schema::new(fields)), &GroupOrdering::None).unwrap(),
            groups: Vec::new(),
        }
    }
}

impl Side for DataFusion {
    fn intern(&mut self, columns: &[ArrayRef]) -> u64 {
        self.values.intern(columns, &mut self.groups).unwrap();
        self.groups.iter().map(|group| *group as u64).sum()
    }
}

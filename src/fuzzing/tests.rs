//! Replays the checked-in inputs, as they are and changed at random.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// Changed inputs of each target; fewer when the time is up, so that a slow machine is only less thorough.
const CHANGED: usize = 2000;
const TIME_MAX: Duration = Duration::from_secs(4);

fn corpora() -> BTreeMap<String, Vec<(String, Vec<u8>)>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let entry = entry.unwrap();
        let mut inputs = Vec::new();
        for file in std::fs::read_dir(entry.path()).unwrap() {
            let path = file.unwrap().path();
            inputs.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
        inputs.sort();
        found.insert(entry.file_name().to_string_lossy().into_owned(), inputs);
    }
    found
}

/// Runs the target; a failure says which input it was, in a way that can be made a file.
fn run(name: &str, target: fn(&[u8]), from: &str, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
        let text: String = input.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        panic!("target \"{name}\" fails for an input made of {from}; printf '{text}' makes it");
    }
}

#[test]
fn every_target_has_inputs_and_every_input_a_target() {
    let corpora = corpora();
    let folders: Vec<&str> = corpora.keys().map(String::as_str).collect();
    let targets: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        folders, targets,
        "TARGETS are in alphabetical order, each with a folder in fuzz/corpus"
    );
    assert!(corpora.values().all(|inputs| !inputs.is_empty()));
}

#[test]
fn known_inputs_keep_the_promises() {
    for (name, inputs) in corpora() {
        let target = target(&name).unwrap();
        run(&name, target, "nothing", &[]);
        for (from, input) in &inputs {
            run(&name, target, from, input);
        }
    }
}

/// One of: a bit flipped, a byte exchanged, a piece left out, doubled, taken from another input, a number at its end.
fn changed(random: &mut StdRng, inputs: &[(String, Vec<u8>)]) -> (String, Vec<u8>) {
    let pick = |random: &mut StdRng| inputs[random.random_range(0..inputs.len())].clone();
    let (from, mut input) = pick(random);
    for _ in 0..random.random_range(1..4) {
        if input.is_empty() {
            input = vec![0];
        }
        let start = random.random_range(0..input.len());
        let end = (start + random.random_range(1..16)).min(input.len());
        match random.random_range(0..6) {
            0 => input[start] ^= 1 << random.random_range(0..8),
            1 => input[start] = random.random(),
            2 => drop(input.drain(start..end)),
            3 => {
                let piece = input[start..end].to_vec();
                input.splice(start..start, piece);
            }
            4 => {
                let (_, other) = pick(random);
                let at = random.random_range(0..=other.len());
                let piece = other[at..(at + 24).min(other.len())].to_vec();
                input.splice(start..end, piece);
            }
            _ => {
                let ends = [0x00, 0x01, 0x7f, 0x80, 0xff, b'\n', b'"', b'\\', b'{', b'9', b'-', b'.'];
                input[start] = ends[random.random_range(0..ends.len())];
            }
        }
    }
    (from, input)
}

/// Every target gets a test of its own, so that they run beside each other.
macro_rules! changed_inputs_keep_the_promises {
    ($($name:ident),*) => {
        mod changed_inputs {
            use super::*;

            $(
                #[test]
                fn $name() {
                    let name = stringify!($name);
                    let inputs = corpora().remove(name).unwrap();
                    let target = target(name).unwrap();
                    let seed: u64 = std::env::var("LAMINAR_FUZZ_SEED").ok().map_or(7, |text| text.parse().unwrap());
                    let mut random = StdRng::seed_from_u64(seed);
                    let started = Instant::now();
                    for _ in 0..CHANGED {
                        let (from, input) = changed(&mut random, &inputs);
                        run(name, target, &from, &input);
                        if started.elapsed() > TIME_MAX {
                            break;
                        }
                    }
                }
            )*

            #[test]
            fn none_is_left_out() {
                let named = [$(stringify!($name)),*];
                assert_eq!(named.to_vec(), TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
            }
        }
    };
}

changed_inputs_keep_the_promises!(
    arrow,
    avro,
    avro_file,
    avro_framed,
    blob,
    checkpoint,
    compressed,
    csv,
    debezium,
    json,
    kafka,
    manifest,
    parquet,
    pgoutput,
    pgwire,
    protobuf,
    protobuf_file,
    protobuf_framed,
    protobuf_schema,
    raw,
    sql,
    upsert
);

//! Every fuzz target with every input of its corpus, on a stable toolchain: no panic, no overflow of a small
//! stack, and memory in proportion to the input.
//!
//! The inputs are the files of `fuzz/corpus/<target>` and those too large to be files, made in `generated`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod generated;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use peak_alloc::PeakAlloc;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// What tokio gives its workers.
const STACK: usize = 2 * 1024 * 1024;
/// Memory that an input may cost whatever its size: 65,536 decoded values of one byte are the most expensive that
/// are taken, and a vector has half of its room to spare at worst.
const FLOOR: usize = 8 * 1024 * 1024;
/// Memory per byte of input, several copies included.
const FACTOR: usize = 32;

type Inputs = BTreeMap<String, Vec<(String, Vec<u8>)>>;

fn inputs() -> Inputs {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut inputs = Inputs::new();
    for target in fs::read_dir(root).unwrap() {
        let target = target.unwrap();
        let name = target.file_name().into_string().unwrap();
        let mut files: Vec<_> = fs::read_dir(target.path())
            .unwrap()
            .map(|file| {
                let file = file.unwrap();
                let name = file.file_name().into_string().unwrap();
                (name, fs::read(file.path()).unwrap())
            })
            .collect();
        files.sort();
        inputs.insert(name, files);
    }
    for (target, name, bytes) in generated::inputs() {
        let of_target = inputs.entry(target.to_owned()).or_default();
        of_target.push((name, bytes));
    }
    inputs
}

/// The names of the programs for the fuzzer.
fn programs() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let files = fs::read_dir(root).unwrap().map(|file| file.unwrap().path());
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.map(stem).collect()
}

/// Runs a target on a thread of its own and returns the most memory it held at one time.
fn run(target: fn(&[u8]), input: &[u8]) -> Result<usize, String> {
    ALLOCATOR.reset_peak_usage();
    let before = ALLOCATOR.current_usage();
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, || target(input)).unwrap();
        thread.join().map_err(|_| "panicked".to_owned())
    })?;
    Ok(ALLOCATOR.peak_usage().saturating_sub(before))
}

fn targets() -> BTreeMap<&'static str, fn(&[u8])> {
    eventhubs_processor::fuzz::TARGETS
        .iter()
        .chain(eventhubs_emulator::fuzz::TARGETS)
        .copied()
        .collect()
}

/// Memory is counted for the whole process, so one test runs at a time.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn no_input_of_the_corpora_does_harm() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let targets = targets();
    let inputs = inputs();
    let named: BTreeSet<_> = targets.keys().map(|name| (*name).to_owned()).collect();
    let found: BTreeSet<_> = inputs.keys().cloned().collect();
    assert_eq!(named, found, "targets and corpora");
    assert_eq!(found, programs(), "targets and their programs");

    let mut failures = Vec::new();
    for (name, target) in targets {
        let inputs = &inputs[name];
        let mut most = (0, "");
        // What is set up once per process counts for nobody.
        run(target, b"").unwrap();
        for (input, bytes) in inputs {
            match run(target, bytes) {
                Ok(used) if used > FLOOR + FACTOR * bytes.len() => {
                    failures.push(format!("{name}/{input}: {used} bytes"));
                }
                Ok(used) => most = most.max((used, input)),
                Err(error) => failures.push(format!("{name}/{input}: {error}")),
            }
        }
        println!(
            "{name}: {} inputs, most memory {} KiB by {}",
            inputs.len(),
            most.0 / 1024,
            most.1
        );
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// A little of what the fuzzer does, on every run: `EHP_SEED` repeats one, `EHP_CASES` makes it more.
#[test]
fn no_input_like_those_of_the_corpora_does_harm() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed: u64 = number("EHP_SEED").unwrap_or_else(|| rand::rng().random());
    let cases = number("EHP_CASES").unwrap_or(200);
    println!("EHP_SEED={seed}");
    let inputs = inputs();
    for (name, target) in targets() {
        let mut rng = SmallRng::seed_from_u64(seed);
        let small: Vec<_> = inputs[name]
            .iter()
            .filter(|(_, bytes)| bytes.len() <= 16 * 1024)
            .collect();
        for case in 0..cases {
            let (origin, bytes) = small.choose(&mut rng).unwrap();
            let (_, other) = small.choose(&mut rng).unwrap();
            let mutant = mutant(bytes, other, &mut rng);
            match run(target, &mutant) {
                Ok(used) => assert!(
                    used <= FLOOR + FACTOR * mutant.len(),
                    "{name}, case {case}, from {origin}: {used} bytes for {mutant:02x?}"
                ),
                Err(error) => {
                    panic!("{name}, case {case}, from {origin}: {error} on {mutant:02x?}")
                }
            }
        }
    }
}

/// An input with a few changes: bits, bytes, pieces gone, doubled, or from another input.
fn mutant(bytes: &[u8], other: &[u8], rng: &mut SmallRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..40)).min(bytes.len());
        match rng.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..40)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
            4 => drop(bytes.splice(at..end, [0xff; 4])),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
    bytes
}

//! Fuzz targets: functions that take any bytes, as a stranger may send them, and must hold their promises.
//!
//! A test calls [`check`] with its target. Under `cargo test` the target gets each file of its corpus and changed copies of
//! them, the same ones in every run. Under `scripts/fuzz` it gets what AFL++ makes of the corpus, until it is stopped.

use std::ffi::OsStr;
use std::panic::{catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

/// Changed copies of each file of a corpus, few enough that all targets together take a second or two.
const COPIES: u64 = 200;

/// Changes of one copy, at most.
const CHANGES_MAX: usize = 4;

/// Bytes at the limits of numbers, and bytes that separate parts of the formats.
const EDGES: &[u8] = b"\x00\x01\x02\x7f\x80\xff \t\r\n%/\\.;,:=\"{}[]0-";

/// The corpus of this target.
fn folder(target: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    tests.join("fuzz/corpus").join(target)
}

/// Runs a target. The name is that of its folder in `tests/fuzz/corpus`.
///
/// # Panics
///
/// Panics where the target does, and names the input.
pub fn check(name: &str, target: fn(&[u8])) {
    #[cfg(feature = "fuzz")]
    with_afl(target);
    let corpus = corpus(&folder(name));
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    for (file, seed) in &corpus {
        try_input(target, seed, &format!("{name}/{file}"));
        let mut random = Random::new(seed);
        for number in 1..=COPIES {
            let other = &corpus[random.below(corpus.len())].1;
            let copy = changed(seed, other, &mut random);
            try_input(target, &copy, &format!("{name}/{file}, copy {number}"));
        }
    }
}

/// Gives the target what AFL++ sends, and ends the process when AFL++ wants a new one.
#[cfg(feature = "fuzz")]
#[expect(
    clippy::exit,
    reason = "AFL++ forks here, so the thread that waits for this test is missing"
)]
fn with_afl(target: fn(&[u8])) {
    afl::fuzz(true, target);
    std::process::exit(0)
}

/// The files of a corpus with their names, in the order of the names.
fn corpus(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).expect("a target has a corpus");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("a folder that can be read").path())
        .collect();
    files.sort();
    let named = files.into_iter().map(|path| {
        let name = path.file_name().map(OsStr::to_string_lossy);
        let bytes = std::fs::read(&path).expect("a file that can be read");
        (name.unwrap_or_default().into_owned(), bytes)
    });
    named.collect()
}

fn try_input(target: fn(&[u8]), input: &[u8], origin: &str) {
    if let Err(panic) = catch_unwind(|| target(input)) {
        let [text, hex] = [input.escape_ascii().to_string(), hex::encode(input)];
        eprintln!("{origin} fails: {text}\nin hex: {hex}");
        resume_unwind(panic);
    }
}

/// A copy with a few changes; `other` is another file of the corpus.
fn changed(seed: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut copy = seed.to_vec();
    for _ in 0..=random.below(CHANGES_MAX) {
        let at = random.below(copy.len() + 1);
        let end = (at + random.below(16)).min(copy.len());
        match random.below(7) {
            0 if at < copy.len() => copy[at] ^= 1 << random.below(8),
            1 if at < copy.len() => copy[at] = EDGES[random.below(EDGES.len())],
            2 => copy.insert(at, EDGES[random.below(EDGES.len())]),
            3 => drop(copy.drain(at..end)),
            4 => copy.truncate(at),
            5 => {
                let again = copy[at..end].to_vec();
                drop(copy.splice(at..at, again));
            }
            _ => {
                let from = random.below(other.len() + 1);
                copy.truncate(at);
                copy.extend_from_slice(&other[from..]);
            }
        }
    }
    copy
}

/// Numbers that look random and are the same in every run (xorshift64).
struct Random(u64);

impl Random {
    /// The numbers that belong to these bytes (FNV-1a).
    fn new(seed: &[u8]) -> Self {
        let hash = seed.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash.max(1))
    }

    /// A number below `limit`, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("less than a usize")
    }
}

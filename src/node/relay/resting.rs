//! Scripts of the wallet that have no transaction yet, and about which the chain source is asked seldom.
//!
//! LDK draws two addresses of the wallet for each channel that a peer begins, and in every sync ldk-node asks about every address
//! that was ever drawn. So a stranger who begins channels and gives them up would make each sync longer, for good. Money reaches
//! such an address only by a transaction that closes the channel. The node makes this transaction, or hears of it because it
//! watches the channel, so it passes through the relay. Addresses that people were given are asked about in every sync.
//!
//! Remove this file when ldk-node draws no new address for a channel that is not funded (ldk-node 0.7.1 draws them in
//! `get_destination_script` and `get_shutdown_scriptpubkey`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use bitcoin::Address;
use bitcoin::hashes::{Hash as _, sha256};
use bytes::Bytes;

use super::Relay;
use super::question::{Answer, Learned, Question};
use crate::secret_file;

/// The file in the node's folder that lists these scripts, one per line: its hash, and when the chain source was first and last
/// asked about it (Unix seconds), or why it is asked about in every sync.
const FILE: &str = "scripts.resting";

/// The most scripts in the list, some 150 bytes each. Any others are asked about in every sync.
const MAX: usize = 50_000;

/// How long a script rests at least, in seconds. It rests as long as it has been known to be empty: so a script rests more and
/// more, and costs some ten requests in a year.
const REST_MIN_SECS: u64 = 24 * 3_600;

/// How long it rests at most, in seconds.
const REST_MAX_SECS: u64 = 30 * 24 * 3_600;

/// What is known of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// People were given its address, and may pay to it at any time.
    Given,
    /// A transaction that the chain source does not show yet pays to it.
    Paid,
    /// It was empty each time.
    Empty { first_secs: u64, asked_secs: u64 },
}

/// The scripts without a transaction.
#[derive(Debug)]
pub(super) struct Resting {
    file: PathBuf,
    scripts: HashMap<sha256::Hash, Script>,
    is_written: bool,
}

impl Resting {
    /// Reads the scripts of earlier runs from this folder. A script that is missing is asked about again.
    pub(super) fn read(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) => {
                if error.kind() != std::io::ErrorKind::NotFound {
                    tracing::warn!("Failed to read {}: {error}", file.display());
                }
                String::new()
            }
        };
        Self {
            file,
            scripts: text.lines().filter_map(line).take(MAX).collect(),
            is_written: true,
        }
    }

    /// Whether this script is taken to be still empty.
    fn rests(&self, script: &sha256::Hash, now_secs: u64) -> bool {
        let Some(Script::Empty {
            first_secs,
            asked_secs,
        }) = self.scripts.get(script)
        else {
            return false;
        };
        let known_secs = asked_secs.saturating_sub(*first_secs);
        let rest_secs = known_secs.clamp(REST_MIN_SECS, REST_MAX_SECS);
        // Those that were asked about together do not all end their rest together.
        let early_secs = rest_secs / 2 * u64::from(script.as_byte_array()[0]) / 255;
        // After a clock was set back, it is asked about again.
        *asked_secs <= now_secs && now_secs < asked_secs + rest_secs - early_secs
    }

    /// Notes whether the chain source has transactions of this script.
    fn heard(&mut self, script: sha256::Hash, is_empty: bool, now_secs: u64) {
        let known = self.scripts.get(&script).copied();
        let first_secs = match known {
            Some(Script::Given) => return,
            Some(_) if !is_empty => {
                self.scripts.remove(&script);
                self.is_written = false;
                return;
            }
            Some(Script::Paid) => return,
            Some(Script::Empty { first_secs, .. }) => first_secs.min(now_secs),
            None if is_empty => now_secs,
            None => return,
        };
        let asked_secs = now_secs;
        self.put(
            script,
            Script::Empty {
                first_secs,
                asked_secs,
            },
        );
    }

    /// Notes that a transaction on the chain pays to this script, which ends its rest.
    fn paid(&mut self, script: sha256::Hash) {
        if matches!(self.scripts.get(&script), Some(Script::Empty { .. })) {
            self.put(script, Script::Paid);
        }
    }

    /// Notes that a transaction of this node pays to this script, about which nobody may have been asked yet.
    fn pays(&mut self, script: sha256::Hash) {
        if self.scripts.get(&script) != Some(&Script::Given) {
            self.put(script, Script::Paid);
        }
    }

    fn put(&mut self, script: sha256::Hash, known: Script) {
        if self.scripts.len() < MAX || self.scripts.contains_key(&script) {
            self.is_written &= self.scripts.insert(script, known) == Some(known);
        }
    }

    /// Writes the list, if it has changed.
    fn write(&mut self) {
        if self.is_written {
            return;
        }
        let lines = self.scripts.iter().map(|(script, known)| match known {
            Script::Given => format!("{script} given\n"),
            Script::Paid => format!("{script} paid\n"),
            Script::Empty {
                first_secs,
                asked_secs,
            } => format!("{script} {first_secs} {asked_secs}\n"),
        });
        let text: String = lines.collect();
        match secret_file::replace(&self.file, &text) {
            Ok(()) => self.is_written = true,
            Err(error) => tracing::warn!("Failed to write {}: {error}", self.file.display()),
        }
    }
}

/// Parses a line. Skips an invalid line: its script is asked about again.
fn line(text: &str) -> Option<(sha256::Hash, Script)> {
    let mut parts = text.split(' ');
    let script = parts.next()?.parse().ok()?;
    let known = match parts.next()? {
        "given" => Script::Given,
        "paid" => Script::Paid,
        first_secs => Script::Empty {
            first_secs: first_secs.parse().ok()?,
            asked_secs: parts.next()?.parse().ok()?,
        },
    };
    Some((script, known))
}

/// The hash by which an Esplora API knows a script.
pub(super) fn hash(script: &bitcoin::Script) -> sha256::Hash {
    sha256::Hash::hash(script.as_bytes())
}

impl Relay {
    fn resting(&self) -> MutexGuard<'_, Resting> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to a question about a script that rests.
    pub(super) fn rests(&self, question: &Question) -> Option<Answer> {
        let Question::History(script, None) = question else {
            return None;
        };
        let rests = self.resting().rests(script, self.clock.unix_secs());
        rests.then(|| Answer::Body(Bytes::from_static(b"[]")))
    }

    /// Notes what an answer tells of scripts.
    pub(super) fn hear_scripts(&self, question: &Question, learned: &Learned) {
        let mut resting = self.resting();
        for script in &learned.paid {
            resting.paid(*script);
        }
        if let Question::History(script, None) = question {
            resting.heard(*script, learned.is_empty, self.clock.unix_secs());
        }
    }

    /// Notes the scripts that a transaction of this node pays to.
    pub(super) fn pays(&self, tx: &bitcoin::Transaction) {
        let mut resting = self.resting();
        for output in &tx.output {
            resting.pays(hash(&output.script_pubkey));
        }
    }

    /// Asks about this address in every sync from now on, because people are given it. Blocks on the disk.
    pub(in crate::node) fn gives(&self, address: &Address) {
        let mut resting = self.resting();
        resting.put(hash(&address.script_pubkey()), Script::Given);
        resting.write();
    }

    /// Writes down which scripts rest. Blocks on the disk.
    pub(super) fn keep_resting(&self) {
        self.resting().write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_SECS: u64 = 24 * 3_600;

    fn script(byte: u8) -> sha256::Hash {
        sha256::Hash::from_byte_array([byte; 32])
    }

    #[test]
    fn an_empty_script_rests_longer_and_longer_and_wakes_when_it_is_paid() {
        let folder = tempfile::tempdir().unwrap();
        let mut resting = Resting::read(folder.path());
        let (empty, used) = (script(0), script(1));
        assert!(!resting.rests(&empty, 100));
        resting.heard(empty, true, 100);
        resting.heard(used, false, 100);
        assert!(resting.rests(&empty, 101) && !resting.rests(&used, 101));
        assert!(!resting.rests(&empty, 99), "the clock was set back");
        let mut now_secs = 100;
        let mut asked = 0;
        while now_secs < 100 + 365 * DAY_SECS {
            if !resting.rests(&empty, now_secs) {
                resting.heard(empty, true, now_secs);
                asked += 1;
            }
            now_secs += 3_600;
        }
        assert!((5..=20).contains(&asked), "{asked} requests in a year");
        resting.paid(empty);
        resting.paid(script(9));
        assert!(!resting.rests(&empty, now_secs));
        resting.heard(empty, true, now_secs);
        assert!(!resting.rests(&empty, now_secs), "it is not in a block yet");
        resting.heard(empty, false, now_secs);
        assert!(resting.scripts.is_empty());
        // A transaction of this node is not always at the chain source yet when it is first asked.
        resting.pays(script(9));
        resting.heard(script(9), true, now_secs);
        assert!(!resting.rests(&script(9), now_secs));
        resting.put(script(8), Script::Given);
        resting.pays(script(8));
        resting.heard(script(8), false, now_secs);
        resting.heard(script(8), true, now_secs);
        assert!(
            !resting.rests(&script(8), now_secs),
            "it may be paid to again"
        );
    }

    #[test]
    fn what_rests_is_known_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut resting = Resting::read(folder.path());
        for byte in 0..100 {
            resting.heard(script(byte), true, 100);
        }
        resting.paid(script(7));
        resting.put(script(200), Script::Given);
        resting.write();
        let again = Resting::read(folder.path());
        assert_eq!(again.scripts, resting.scripts);
        let ends = (0..100).map(|byte| {
            let mut secs = (100..200_000).step_by(60);
            secs.find(|now_secs| !again.rests(&script(byte), *now_secs))
        });
        let ends: std::collections::BTreeSet<_> = ends.collect();
        assert!(ends.len() > 50, "their rests end at different times");
        std::fs::write(&resting.file, "x\n\n00 1\n").unwrap();
        assert!(Resting::read(folder.path()).scripts.is_empty());
    }
}

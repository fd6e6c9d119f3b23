//! Scripts of the wallet without any transaction yet, which the relay seldom asks about.
//!
//! For each channel that a peer begins, LDK draws two addresses of the wallet, and ldk-node asks
//! about every drawn address in every sync. A stranger who begins and abandons channels would thus
//! lengthen each sync for good. Only a transaction that closes the channel pays such an address.
//! The node makes or watches this transaction, so the relay sees it. Addresses that were given to
//! people are asked about in every sync.
//!
//! Remove this file when ldk-node draws no new address for a channel that is not funded (ldk-node
//! 0.7.1 draws them in `get_destination_script` and `get_shutdown_scriptpubkey`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::address::{Address, NetworkUnchecked};
use bitcoin::hashes::{Hash as _, sha256};
use serde::de::IgnoredAny;
use tokio::time::Instant;

use crate::base::secret_file;

use super::Relay;
use super::question::{Learned, Question};

/// The file in the node's folder that lists these scripts. Each line has a script's hash, and
/// either the times of the first and the last question about it (Unix seconds) or `paid`.
const FILE: &str = "scripts.resting";

/// The file in the node's folder that lists the addresses given to people, one per line.
pub(crate) const GIVEN: &str = "addresses.given";

/// The file in the node's folder with the deposit address.
const DEPOSIT: &str = "deposit.address";

/// The most scripts in the list, about 150 bytes each. Scripts beyond it are asked about in every
/// sync.
const MAX: usize = 50_000;

/// The shortest rest in seconds; `rests` shortens each rest by up to half. A rest is as long as the
/// script is known to be empty, so rests grow: about 20 to 30 requests in the first year, 12 to 25
/// in later years.
const REST_MIN_SECS: u64 = 24 * 3_600;

/// The longest rest, in seconds.
const REST_MAX_SECS: u64 = 30 * 24 * 3_600;

/// The least time between two writes of the list, for each script in it. It limits writes to about
/// 9 KB a second, however many scripts the list has.
const WRITE_PAUSE_EACH: Duration = Duration::from_millis(10);

/// The known state of a script, which decides whether it rests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Script {
    /// People were given the address, and may pay to it at any time.
    Given,
    /// A transaction pays to the script or once did. That transaction may have been replaced or
    /// reorganised away.
    Paid,
    /// The script was empty each time it was asked about.
    Empty { first_secs: u64, asked_secs: u64 },
}

/// The wallet's scripts and their states.
#[derive(Debug)]
pub(super) struct Resting {
    file: PathBuf,
    scripts: HashMap<sha256::Hash, Script>,
    is_written: bool,
    /// The time before which the list is not written again, unless `rewrite_resting` moves it.
    rewrite_at: Instant,
}

impl Resting {
    /// Reads the scripts of earlier runs from this folder. A script that is missing is asked about
    /// again.
    pub(super) fn read(folder: &Path) -> Self {
        let file = folder.join(FILE);
        let text = secret_file::read_list_or_warn(&file);
        let mut scripts: HashMap<_, _> = text.lines().filter_map(line).take(MAX).collect();
        for given in [GIVEN, DEPOSIT] {
            let text = std::fs::read_to_string(folder.join(given)).unwrap_or_default();
            scripts.extend(text.lines().filter_map(given_line));
        }
        Self {
            file,
            scripts,
            is_written: true,
            rewrite_at: Instant::now(),
        }
    }

    /// Whether the relay reports this script as empty without asking an endpoint.
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
        // Rests that began together end at different times.
        let early_secs = rest_secs / 2 * u64::from(script.as_byte_array()[0]) / 255;
        // If the clock was set back, the script is asked about again.
        *asked_secs <= now_secs && now_secs < asked_secs + rest_secs - early_secs
    }

    /// Records whether the chain source has transactions of this script.
    fn heard(&mut self, script: sha256::Hash, is_empty: bool, now_secs: u64) {
        let first_secs = match self.scripts.get(&script) {
            Some(Script::Given) => return,
            Some(_) | None if !is_empty => return self.put(script, Script::Paid),
            Some(Script::Paid) => return,
            // After a clock that was far off, or a long time without a run, rests start short
            // again.
            Some(Script::Empty {
                first_secs,
                asked_secs,
            }) if now_secs < asked_secs.saturating_add(2 * REST_MAX_SECS) => {
                now_secs.min(*first_secs)
            }
            Some(Script::Empty { .. }) | None => now_secs,
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

    /// Records that a transaction in an answer pays to this script, confirmed or not, which ends
    /// its rest. Ignores unknown scripts, because most belong to others.
    fn paid(&mut self, script: sha256::Hash) {
        if matches!(self.scripts.get(&script), Some(Script::Empty { .. })) {
            self.put(script, Script::Paid);
        }
    }

    /// Records that a transaction of this node pays to this script, even if the script is unknown
    /// so far.
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

    /// Returns the list if it must be written: it has changed, and the last write is long enough
    /// ago for its length.
    fn unwritten(&mut self, now: Instant) -> Option<String> {
        if self.is_written || now < self.rewrite_at {
            return None;
        }
        let lines = self.scripts.iter().map(|(script, known)| match known {
            // Given addresses are listed in their own file.
            Script::Given => String::new(),
            Script::Paid => format!("{script} paid\n"),
            Script::Empty {
                first_secs,
                asked_secs,
            } => format!("{script} {first_secs} {asked_secs}\n"),
        });
        self.is_written = true;
        self.rewrite_at =
            now + WRITE_PAUSE_EACH * u32::try_from(self.scripts.len()).unwrap_or(u32::MAX);
        Some(lines.collect())
    }
}

/// Parses a line. Skips an invalid line: the relay then asks about that script again.
fn line(text: &str) -> Option<(sha256::Hash, Script)> {
    let mut parts = text.split(' ');
    let script = parts.next()?.parse().ok()?;
    let known = match parts.next()? {
        "paid" => Script::Paid,
        first_secs => Script::Empty {
            first_secs: first_secs.parse().ok()?,
            asked_secs: parts.next()?.parse().ok()?,
        },
    };
    Some((script, known))
}

/// Parses a line with an address. Skips an invalid line.
fn given_line(text: &str) -> Option<(sha256::Hash, Script)> {
    let address: Address<NetworkUnchecked> = text.trim().parse().ok()?;
    let script = address.assume_checked().script_pubkey();
    Some((hash(&script), Script::Given))
}

/// Returns the hash by which an Esplora API identifies a script.
pub(super) fn hash(script: &bitcoin::Script) -> sha256::Hash {
    sha256::Hash::hash(script.as_bytes())
}

impl Relay {
    fn resting(&self) -> MutexGuard<'_, Resting> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this question asks about a script that rests. Only for questions of ldk-node's
    /// wallet.
    pub(super) fn rests(&self, question: &Question) -> bool {
        let Question::History(script, None) = question else {
            return false;
        };
        self.resting().rests(script, self.clock.unix_secs())
    }

    /// Records the answer to a question of ldk-node's wallet.
    pub(super) fn hear_history(&self, question: &Question, body: &[u8]) {
        if let Question::History(script, None) = question {
            let txs: Result<Vec<IgnoredAny>, _> = serde_json::from_slice(body);
            let is_empty = txs.is_ok_and(|txs| txs.is_empty());
            let now_secs = self.clock.unix_secs();
            self.resting().heard(*script, is_empty, now_secs);
        }
    }

    /// Records the scripts that transactions in an answer pay to.
    pub(super) fn hear_scripts(&self, learned: &Learned) {
        let mut resting = self.resting();
        for script in &learned.paid {
            resting.paid(*script);
        }
    }

    /// Records the scripts that a transaction of this node pays to.
    pub(super) fn pays(&self, tx: &bitcoin::Transaction) {
        let mut resting = self.resting();
        for output in &tx.output {
            resting.pays(hash(&output.script_pubkey));
        }
    }

    /// Makes the relay ask about this address in every sync from now on, because it was given to
    /// people.
    pub(crate) fn gives(&self, address: &Address) {
        let script = hash(&address.script_pubkey());
        self.resting().put(script, Script::Given);
    }

    /// Makes the next write of the list due at once.
    pub(super) fn rewrite_resting(&self) {
        self.resting().rewrite_at = Instant::now();
    }

    /// Writes the list of scripts, if a write is due. Blocks on the disk.
    pub(super) fn keep_resting(&self) {
        // The lock keeps an older list from replacing a newer one.
        let writing = self.writing_resting.lock();
        let _writing = writing.unwrap_or_else(PoisonError::into_inner);
        let (file, text) = {
            let mut resting = self.resting();
            let text = resting.unwritten(Instant::now());
            (resting.file.clone(), text)
        };
        let Some(text) = text else { return };
        if let Err(error) = secret_file::replace(&file, &text) {
            tracing::warn!("Failed to write {}: {error}", file.display());
            self.resting().is_written = false;
        }
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
        let much_later_secs = now_secs + 10 * REST_MAX_SECS;
        resting.heard(empty, true, much_later_secs);
        let next_secs = much_later_secs + REST_MIN_SECS;
        assert!(
            !resting.rests(&empty, next_secs),
            "it rests for a day again"
        );
        resting.paid(empty);
        resting.paid(script(9));
        assert!(!resting.rests(&empty, now_secs));
        resting.heard(empty, true, now_secs);
        assert!(!resting.rests(&empty, now_secs), "it is not in a block yet");
        resting.heard(empty, false, now_secs);
        resting.heard(empty, true, now_secs);
        assert!(
            !resting.rests(&empty, now_secs),
            "its transaction may come back"
        );
        resting.heard(used, true, now_secs);
        assert!(!resting.rests(&used, now_secs));
        assert_eq!(resting.scripts.len(), 2);
        // The chain source may not have a transaction of this node yet when it is first asked.
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
    fn resting_scripts_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let mut resting = Resting::read(folder.path());
        for byte in 0..100 {
            resting.heard(script(byte), true, 100);
        }
        resting.paid(script(7));
        let text = resting.unwritten(Instant::now()).unwrap();
        assert_eq!(resting.unwritten(Instant::now()), None);
        std::fs::write(&resting.file, text).unwrap();
        resting.heard(script(0), true, 101);
        assert_eq!(resting.unwritten(Instant::now()), None, "too soon");
        assert!(
            resting
                .unwritten(Instant::now() + WRITE_PAUSE_EACH * 100)
                .is_some()
        );
        resting.heard(script(0), true, 100);
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
        let script = bitcoin::Script::new().to_p2wsh();
        let address = Address::from_script(&script, bitcoin::Network::Regtest).unwrap();
        for file in [GIVEN, DEPOSIT] {
            std::fs::write(folder.path().join(file), format!("{address}\nx\n")).unwrap();
            let read = Resting::read(folder.path());
            assert_eq!(read.scripts.values().collect::<Vec<_>>(), [&Script::Given]);
            std::fs::remove_file(folder.path().join(file)).unwrap();
        }
    }
}

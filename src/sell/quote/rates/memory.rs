//! A small file with the last accepted rate of each currency. After a start, the first answers are
//! compared with these rates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::base::error_chain::chain;
use crate::base::price::Rate;
use crate::base::secret_file;

use super::config::{RateConfig, Watched};
use super::judge;
use super::taken::Taken;

/// The age at which a stored rate is ignored: within a month a currency may change by any amount.
const AGE_MAX: Duration = Duration::from_secs(30 * 86_400);

/// The shortest time between two writes to the disk, which may be a memory card. A change larger
/// than the permitted difference between sources is written at once.
const NOTE_EVERY: Duration = Duration::from_secs(10 * 60);

/// The file and its content.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    /// The content. A `std` mutex: held while the file is written, but not on the threads that
    /// serve requests.
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// The rates by currency.
    rates: BTreeMap<String, Line>,
    /// Whether the log has reported that the file cannot be written.
    is_told_failing: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    micros_per_btc: u64,
    /// The time at which the sources were asked, in Unix milliseconds.
    asked_ms: u64,
    /// A hash of the settings under which the rate was accepted. The rate is not used under other
    /// settings, because an operator changes them to accept a rate that jumped.
    settings: String,
}

impl Memory {
    /// Reads the file. A file that is missing or cannot be read counts as empty. Blocks.
    pub(super) fn open(path: &Path) -> Self {
        let read = || -> Result<BTreeMap<String, Line>, String> {
            let text = secret_file::read(path).map_err(|error| chain(&error))?;
            serde_json::from_str(&text).map_err(|error| error.to_string())
        };
        let rates = if path.exists() {
            read().unwrap_or_else(|why| {
                tracing::warn!("Failed to read the last rates in {}: {why}", path.display());
                BTreeMap::new()
            })
        } else {
            BTreeMap::new()
        };
        Self {
            path: path.to_owned(),
            kept: Mutex::new(Kept {
                rates,
                is_told_failing: false,
            }),
        }
    }

    /// The last rate that was accepted under these settings, if it is still plausible.
    pub(super) fn of(&self, config: &RateConfig, watched: &Watched, now_ms: u64) -> Option<Taken> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let line = kept.rates.get(&config.currency.to_string())?;
        let age = Duration::from_millis(now_ms.saturating_sub(line.asked_ms));
        let rate = Rate {
            currency: config.currency,
            micros_per_btc: line.micros_per_btc,
        };
        let is_good = line.settings == fingerprint(config, watched)
            && age <= AGE_MAX
            && rate.is_possible()
            && judge::is_within_bounds(watched, rate);
        is_good.then_some(Taken {
            rate,
            asked_ms: line.asked_ms,
        })
    }

    /// Stores an accepted rate, unless the file has a recent rate that agrees with it. Blocks.
    pub(super) fn note(&self, config: &RateConfig, watched: &Watched, taken: Taken) {
        let line = Line {
            micros_per_btc: taken.rate.micros_per_btc,
            asked_ms: taken.asked_ms,
            settings: fingerprint(config, watched),
        };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let currency = config.currency.to_string();
        if kept.rates.get(&currency).is_some_and(|known| {
            // If the clock was set back, the stored rate does not count as recent.
            let age_ms = line.asked_ms.checked_sub(known.asked_ms);
            let is_young = age_ms.is_some_and(|age_ms| Duration::from_millis(age_ms) < NOTE_EVERY);
            let known_rate = Rate {
                currency: config.currency,
                micros_per_btc: known.micros_per_btc,
            };
            is_young && known.settings == line.settings && judge::agrees(known_rate, taken.rate)
        }) {
            return;
        }
        kept.rates.insert(currency, line);
        let text = serde_json::to_string(&kept.rates).expect("numbers and text can be written");
        match secret_file::replace(&self.path, &text) {
            Ok(()) => kept.is_told_failing = false,
            Err(error) if !kept.is_told_failing => {
                kept.is_told_failing = true;
                tracing::warn!(
                    "Failed to write the last rates to {}: {error}",
                    self.path.display()
                );
            }
            Err(_) => {}
        }
    }
}

/// A hash of one currency's settings. Only a hash is kept, because a URL may contain a key.
fn fingerprint(config: &RateConfig, watched: &Watched) -> String {
    let mut hash = Sha256::new();
    let bound = |rate: Option<Rate>| rate.map_or(0, |rate| rate.micros_per_btc);
    hash.update(format!(
        "{} {} {} {} {} {}\n",
        config.currency,
        watched.quorum,
        watched.refresh.as_millis(),
        watched.max_age.as_millis(),
        bound(watched.at_least),
        bound(watched.at_most),
    ));
    for source in &watched.sources {
        hash.update(format!("{}\n{}\n", source.address.uri(), source.pointer));
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sell::quote::{RateOrigin, Source};

    const NOW_MS: u64 = 1_800_000_000_000;

    fn config(url: &str, at_most: Option<u64>) -> (RateConfig, Watched) {
        let currency = "USD".parse().unwrap();
        let watched = Watched {
            sources: vec![Source {
                address: url.parse().unwrap(),
                pointer: "/usd".parse().unwrap(),
            }],
            quorum: 1,
            refresh: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            max_age: Duration::from_secs(600),
            at_least: None,
            at_most: at_most.map(|micros_per_btc| Rate {
                currency,
                micros_per_btc,
            }),
        };
        let origin = RateOrigin::Watched(watched.clone());
        (RateConfig { currency, origin }, watched)
    }

    fn taken(units: u64, asked_ms: u64) -> Taken {
        let currency = "USD".parse().unwrap();
        let micros_per_btc = units * 1_000_000;
        Taken {
            rate: Rate {
                currency,
                micros_per_btc,
            },
            asked_ms,
        }
    }

    #[test]
    fn a_rate_is_kept_for_its_settings_and_for_a_month() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rates.json");
        let (config_a, watched) = config("https://a.example/?key=secret", None);
        Memory::open(&file).note(&config_a, &watched, taken(97_000, NOW_MS));
        let again = Memory::open(&file);
        let known = taken(97_000, NOW_MS);
        assert_eq!(again.of(&config_a, &watched, NOW_MS), Some(known));
        let month_ms = 30 * 86_400_000;
        assert_eq!(
            again.of(&config_a, &watched, NOW_MS + month_ms),
            Some(known)
        );
        assert_eq!(again.of(&config_a, &watched, NOW_MS + month_ms + 1), None);
        // The clock was set back; the rate is still known, with its old time.
        assert_eq!(again.of(&config_a, &watched, 0), Some(known));
        for (config, watched) in [
            config("https://a.example/?key=other", None),
            config("https://a.example/?key=secret", Some(1)),
        ] {
            assert_eq!(again.of(&config, &watched, NOW_MS), None);
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains("secret") && !text.contains("example"),
            "{text}"
        );
    }

    #[test]
    fn similar_rates_are_not_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rates.json");
        let (config, watched) = config("https://a.example/", None);
        let memory = Memory::open(&file);
        let minute_ms = 60_000;
        for (units, minutes, is_noted) in [
            (97_000, 0, true),
            (97_500, 1, false),
            (97_500, 9, false),
            (97_500, 10, true),
            (110_000, 11, true),
        ] {
            let taken = taken(units, NOW_MS + minutes * minute_ms);
            memory.note(&config, &watched, taken);
            let known = Memory::open(&file).of(&config, &watched, NOW_MS);
            assert_eq!(known == Some(taken), is_noted, "{units} {minutes}");
        }
    }

    #[test]
    fn impossible_rates_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rates.json");
        let (config, watched) = config("https://a.example/", None);
        for micros_per_btc in [0, 1, u64::MAX] {
            let line = Line {
                micros_per_btc,
                asked_ms: NOW_MS,
                settings: fingerprint(&config, &watched),
            };
            let lines = BTreeMap::from([("USD", line)]);
            let text = serde_json::to_string(&lines).unwrap();
            secret_file::replace(&file, &text).unwrap();
            assert_eq!(Memory::open(&file).of(&config, &watched, NOW_MS), None);
        }
        for text in ["{", "[]", "{\"USD\": 5}"] {
            secret_file::replace(&file, text).unwrap();
            assert_eq!(Memory::open(&file).of(&config, &watched, NOW_MS), None);
        }
    }
}

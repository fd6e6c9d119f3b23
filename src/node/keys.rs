//! The seed: BIP 39 words in a file, read here once, for ldk-node and for the minter.

use std::path::{Path, PathBuf};

use bitcoin::Network;
use ldk_node::bip39::{self, Mnemonic};

use crate::invoice::{KeyError, PaymentKeys};
use crate::secret_file::{self, SecretFileError};

/// Bytes of entropy behind 24 words.
const ENTROPY_BYTES: usize = 32;

/// The words, and the keys derived from them.
#[derive(Clone)]
pub struct NodeKeys {
    mnemonic: Mnemonic,
    payment_keys: PaymentKeys,
}

impl std::fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NodeKeys(…)")
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// What stands in it are no words, or not all of them, or not in this order.
    #[error("{path} holds no BIP 39 words: {why}")]
    NotWords {
        /// The file.
        path: PathBuf,
        /// What is wrong, without a word of it.
        why: &'static str,
    },
    /// The words make no key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl NodeKeys {
    /// Reads the words from this file; on a first start draws 24 new ones and writes them.
    pub fn open(path: &Path, network: Network) -> Result<Self, SeedError> {
        let draw = || {
            let mut entropy = [0; ENTROPY_BYTES];
            getrandom::fill(&mut entropy)?;
            let mnemonic = Mnemonic::from_entropy(&entropy).expect("32 bytes make 24 words");
            Ok(mnemonic.to_string())
        };
        let words = secret_file::read_or_make(path, draw)?;
        Self::from_words(read(&words, path)?, network)
    }

    /// Whether these are words of a seed; `file` is where they come from, for the complaint.
    pub fn check(words: &str, file: &Path) -> Result<(), SeedError> {
        read(words, file).map(|_| ())
    }

    /// Writes the words of a seed that is there already into this file, which must not exist.
    pub fn restore(path: &Path, words: &str, network: Network) -> Result<Self, SeedError> {
        let mnemonic = read(words, path)?;
        let written = secret_file::write_new(path, &mnemonic.to_string());
        written.map_err(|source| SecretFileError::Io {
            path: path.to_owned(),
            source,
        })?;
        Self::from_words(mnemonic, network)
    }

    fn from_words(mnemonic: Mnemonic, network: Network) -> Result<Self, SeedError> {
        let payment_keys = PaymentKeys::from_seed(&mnemonic.to_seed_normalized(""), network)?;
        Ok(Self {
            mnemonic,
            payment_keys,
        })
    }

    /// The keys that invoices are made with.
    pub fn payment_keys(&self) -> PaymentKeys {
        self.payment_keys.clone()
    }

    pub(super) fn mnemonic(&self) -> Mnemonic {
        self.mnemonic.clone()
    }
}

/// Reads words as people keep them: over several lines, or in capitals.
fn read(words: &str, path: &Path) -> Result<Mnemonic, SeedError> {
    let words: Vec<_> = words.split_whitespace().map(str::to_lowercase).collect();
    let mnemonic = Mnemonic::parse_normalized(&words.join(" "));
    mnemonic.map_err(|error| SeedError::NotWords {
        path: path.to_owned(),
        why: complaint(error),
    })
}

/// Says what is wrong without repeating any of it.
fn complaint(error: bip39::Error) -> &'static str {
    match error {
        bip39::Error::BadWordCount(_) => "there must be 12, 15, 18, 21 or 24 words",
        bip39::Error::UnknownWord(_) => "one of them is not in the English word list",
        bip39::Error::BadEntropyBitCount(_) => "their number does not fit",
        bip39::Error::InvalidChecksum => {
            "their checksum does not fit: one is wrong, or their order is"
        }
        bip39::Error::AmbiguousLanguages(_) => "they could be of several languages",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_made_once_and_read_ever_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.words");
        let first = NodeKeys::open(&path, Network::Regtest).unwrap();
        let second = NodeKeys::open(&path, Network::Regtest).unwrap();
        assert_eq!(
            first.payment_keys().node_id(),
            second.payment_keys().node_id()
        );
        assert_eq!(
            std::fs::read_to_string(&path)
                .unwrap()
                .split_whitespace()
                .count(),
            24
        );
    }

    #[test]
    fn wrong_words_are_refused_and_not_repeated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.words");
        for words in [
            "zoo zoo zoo",
            "frobnicate ".repeat(12).as_str(),
            "zoo ".repeat(24).as_str(),
        ] {
            secret_file::write_new(&path, words).unwrap();
            let error = NodeKeys::open(&path, Network::Regtest)
                .unwrap_err()
                .to_string();
            assert!(
                !error.contains("zoo") && !error.contains("frobnicate"),
                "{error}"
            );
            std::fs::remove_file(&path).unwrap();
        }
    }
}

//! The seed: BIP 39 words in a file, read once here for ldk-node and for the minter.

use std::path::{Path, PathBuf};

use bip39::Mnemonic;
use bitcoin::bip32::{self, ChildNumber, Xpriv};
use bitcoin::secp256k1::{Secp256k1, SecretKey};
use bitcoin::{Network, ScriptBuf};
use hmac::{Hmac, Mac as _};
use lightning::sign::KeysManager;
use sha2::Sha256;

use crate::base::secret_file::{self, SecretFileError};
use crate::protocol::invoice::{KeyError, PaymentKeys};

/// The entropy of 24 words, in bytes.
const ENTROPY_BYTES: usize = 32;

/// The index under which LDK derives the keys that a peer's closing transaction pays to us.
const STATIC_PAYMENT_INDEX: u32 = 8;

/// The index under which ldk-node derives the keys of a remote store.
const STORE_INDEX: u32 = 877;

/// The input from which the backup key is derived. The number at the end leaves room for a later
/// version.
const BACKUP_KEY: &[u8] = b"tollhouse backup 1";

/// The seed words and the keys derived from them.
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

/// The reason why the keys could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file's content is not a list of BIP 39 words, or words are missing or in the wrong
    /// order.
    #[error("{path} holds no BIP 39 words: {why}")]
    NotWords {
        /// The path of the file.
        path: PathBuf,
        /// The fault, described without any of the words.
        why: String,
    },
    /// No key can be derived from the words.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl NodeKeys {
    /// Reads the words from this file. On the first start, draws 24 new words and writes them.
    pub fn open(path: &Path, network: Network) -> Result<Self, SeedError> {
        let draw = || {
            let mut entropy = [0; ENTROPY_BYTES];
            getrandom::fill(&mut entropy)?;
            let mnemonic = Mnemonic::from_entropy(&entropy).expect("32 bytes make 24 words");
            Ok(mnemonic.to_string())
        };
        let words = secret_file::read_or_make(path, draw)?;
        Self::parse(&words, path, network)
    }

    /// Reads the words from this file, which must exist.
    pub fn read(path: &Path, network: Network) -> Result<Self, SeedError> {
        Self::parse(&secret_file::read(path)?, path, network)
    }

    /// Parses the words themselves. Errors name `path` as their source. No key depends on the
    /// network.
    pub fn parse(words: &str, path: &Path, network: Network) -> Result<Self, SeedError> {
        Self::from_words(read(words, path)?, network)
    }

    /// Checks that these are valid seed words. Errors name `file` as their source.
    pub fn check(words: &str, file: &Path) -> Result<(), SeedError> {
        read(words, file).map(|_| ())
    }

    /// Writes the words of an existing seed to this file, which must not exist.
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

    /// Returns the keys that sign invoices.
    pub fn payment_keys(&self) -> PaymentKeys {
        self.payment_keys.clone()
    }

    /// Returns the words as they are in their file.
    pub fn words(&self) -> String {
        self.mnemonic.to_string()
    }

    /// Returns the key that encrypts backups. The words alone are enough to derive it.
    pub fn backup_key(&self) -> [u8; 32] {
        let mut key = Hmac::<Sha256>::new_from_slice(&self.mnemonic.to_seed_normalized(""))
            .expect("HMAC takes keys of any length");
        key.update(BACKUP_KEY);
        key.finalize().into_bytes().into()
    }

    /// Returns LDK's own keys, for reading what LDK has written. The times only seed randomness,
    /// which is not used here.
    pub(crate) fn keys_manager(&self) -> KeysManager {
        let seed = self.mnemonic.to_seed_normalized("");
        let master = Xpriv::new_master(Network::Bitcoin, &seed)
            .expect("the payment keys were derived from it already");
        KeysManager::new(&master.private_key.secret_bytes(), 0, 0, true)
    }

    /// Returns the scripts that a peer's closing transaction may pay to us. For each key, the
    /// script of a channel without anchors comes first.
    pub(crate) fn closing_scripts(&self) -> Vec<ScriptBuf> {
        self.keys_manager()
            .possible_v2_counterparty_closed_balance_spks(&Secp256k1::signing_only())
    }

    /// Returns the secret key of one of the scripts that a peer's closing transaction pays to us
    /// (LDK's path 8'/number').
    pub(crate) fn static_payment_key(&self, number: u32) -> SecretKey {
        let secp = Secp256k1::signing_only();
        let seed = self.mnemonic.to_seed_normalized("");
        let derive = || {
            let ldk = Xpriv::new_master(Network::Bitcoin, &seed)?;
            let master = Xpriv::new_master(Network::Bitcoin, &ldk.private_key.secret_bytes())?;
            let path = [STATIC_PAYMENT_INDEX, number].map(|index| ChildNumber::Hardened { index });
            Ok::<_, bip32::Error>(master.derive_priv(&secp, &path)?.private_key)
        };
        derive().expect("LDK derives the same keys from the same seed")
    }

    /// Returns the seed from which ldk-node derives the keys of a remote store (877').
    pub(crate) fn store_seed(&self) -> [u8; 32] {
        let seed = self.mnemonic.to_seed_normalized("");
        let derive = || {
            let master = Xpriv::new_master(Network::Bitcoin, &seed)?;
            let path = [ChildNumber::Hardened { index: STORE_INDEX }];
            let derived = master.derive_priv(&Secp256k1::signing_only(), &path)?;
            Ok::<_, bip32::Error>(derived.private_key.secret_bytes())
        };
        derive().expect("ldk-node derives the same from the same seed")
    }

    pub(crate) fn mnemonic(&self) -> Mnemonic {
        self.mnemonic.clone()
    }
}

/// Reads words as people keep them: over several lines, in capitals, or with the numbers that
/// `tollhouse init` shows.
fn read(words: &str, path: &Path) -> Result<Mnemonic, SeedError> {
    let is_number = |word: &&str| {
        let number = word.trim_end_matches(['.', ')', ':']);
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let words = words.split_whitespace().filter(|word| !is_number(word));
    let words: Vec<_> = words.map(str::to_lowercase).collect();
    let mnemonic = Mnemonic::parse_normalized(&words.join(" "));
    mnemonic.map_err(|error| SeedError::NotWords {
        path: path.to_owned(),
        why: complaint(error),
    })
}

/// Describes the fault without repeating any of the words.
fn complaint(error: bip39::Error) -> String {
    let why = match error {
        bip39::Error::BadWordCount(_) => "there must be 12, 15, 18, 21 or 24 words",
        bip39::Error::UnknownWord(index) => {
            return format!("word {} is not in the English word list", index + 1);
        }
        bip39::Error::BadEntropyBitCount(_) => "their number does not fit",
        bip39::Error::InvalidChecksum => {
            "their checksum does not fit: one is wrong, or their order is"
        }
        bip39::Error::AmbiguousLanguages(_) => "they could be of several languages",
    };
    why.to_owned()
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

    #[test]
    fn the_keys_behind_what_a_closing_pays_are_those_of_ldk() {
        let folder = tempfile::tempdir().unwrap();
        let keys = NodeKeys::open(&folder.path().join("seed.words"), Network::Regtest).unwrap();
        let scripts = keys.closing_scripts();
        assert_eq!(scripts.len(), 2_000);
        for number in [0, 1, 999] {
            let secret = keys.static_payment_key(number);
            let public = bitcoin::CompressedPublicKey(secret.public_key(&Secp256k1::new()));
            let plain = ScriptBuf::new_p2wpkh(&public.wpubkey_hash());
            let anchored =
                lightning::ln::chan_utils::get_to_countersigner_keyed_anchor_redeemscript(
                    &public.0,
                );
            let at = 2 * number as usize;
            assert_eq!(
                [&scripts[at], &scripts[at + 1]],
                [&plain, &anchored.to_p2wsh()]
            );
        }
    }

    #[test]
    fn words_are_taken_as_people_write_them() {
        let words = format!("{}art", "abandon ".repeat(23));
        let over_lines = format!("  {}\n", words.replace(' ', "\n"));
        let parse = |words: &str| NodeKeys::parse(words, Path::new("-"), Network::Regtest);
        let (one, other) = (parse(&words).unwrap(), parse(&over_lines).unwrap());
        assert_eq!(one.backup_key(), other.backup_key());
        assert_eq!(other.words(), words);
    }
}

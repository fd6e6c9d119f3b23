//! The master keys of the tokens, in a file with one line for each epoch, the newest first. A line
//! with only 64 hex digits is epoch 0.
//!
//! ```text
//! 1 <64 hex digits>
//! 0 <64 hex digits> until 1800000000
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::base::secret_file::{self, SecretFileError};
use crate::protocol::l402::{MasterKey, RootKeys};

/// The keys and their file.
#[derive(Debug)]
pub struct Keyring {
    /// The path of the file.
    path: PathBuf,
    /// The keys that tokens are minted and verified with. A `std` lock: held for a look-up, never
    /// across an await.
    in_force: RwLock<Arc<RootKeys>>,
    /// All keys, the newest first. A `std` mutex: held to copy them.
    all: Mutex<Vec<MasterKey>>,
    /// Allows one rotation at a time. A `std` mutex: held on a blocking thread while the file is
    /// written and backed up.
    rotating: Mutex<()>,
}

/// A key, without its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// The number of the epoch, which each of its tokens contains.
    pub number: u16,
    /// When tokens of this epoch expire, in Unix seconds; `None` for the current epoch.
    pub until_secs: Option<u64>,
}

/// An error while reading or rotating the keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// The file does not contain valid keys.
    #[error(
        "{0} holds no master keys: a line of 64 hex digits belongs there, or after a rotation one line for each epoch"
    )]
    NotKeys(PathBuf),
    /// All epoch numbers are used.
    #[error("there were 65,536 master keys: no further one can be told from them")]
    NoMore,
    /// The new key could not be made or stored. The old key stays in force.
    #[error("failed to make or keep a new master key")]
    Io(#[from] io::Error),
}

impl Keyring {
    /// Reads the keys. Makes the first key if the file does not exist.
    pub fn open(path: &Path) -> Result<Self, KeyringError> {
        let text = secret_file::read_or_make(path, || Ok(hex::encode(draw()?)))?;
        let all = read(&text).ok_or_else(|| KeyringError::NotKeys(path.to_owned()))?;
        let in_force = keys(&all).ok_or_else(|| KeyringError::NotKeys(path.to_owned()))?;
        Ok(Self {
            path: path.to_owned(),
            in_force: RwLock::new(Arc::new(in_force)),
            all: Mutex::new(all),
            rotating: Mutex::default(),
        })
    }

    /// The keys that tokens are minted and verified with now.
    pub(super) fn in_force(&self) -> Arc<RootKeys> {
        let keys = self.in_force.read();
        Arc::clone(&keys.unwrap_or_else(PoisonError::into_inner))
    }

    /// All epochs, the newest first.
    pub fn epochs(&self) -> Vec<Epoch> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = |key: &MasterKey| Epoch {
            number: key.epoch,
            until_secs: key.until_secs,
        };
        all.iter().map(epoch).collect()
    }

    /// Makes a new key, which mints all tokens from now on. Tokens of earlier keys stay valid until
    /// `until_secs`, or until the earlier end that their key already has. On an error, the keys
    /// stay unchanged. Blocks on the disk.
    pub fn rotate(&self, until_secs: u64) -> Result<Vec<Epoch>, KeyringError> {
        self.rotate_behind(until_secs, || Ok(()))
    }

    /// Rotates the key, and calls `before_it_mints` between writing the new key to disk and minting
    /// with it, so that a backup can be made. If that call fails, the keys stay unchanged.
    pub fn rotate_behind<E: From<KeyringError>>(
        &self,
        until_secs: u64,
        before_it_mints: impl FnOnce() -> Result<(), E>,
    ) -> Result<Vec<Epoch>, E> {
        let _turn = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.keys();
        let rotated = rotated(&before, until_secs)?;
        let in_force = keys(&rotated).expect("the new key is there");
        let replace = |keys: &[MasterKey]| {
            secret_file::replace(&self.path, &write(keys)).map_err(KeyringError::from)
        };
        replace(&rotated)?;
        if let Err(error) = before_it_mints() {
            replace(&before)?;
            return Err(error);
        }
        *self
            .in_force
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(in_force);
        *self.all.lock().unwrap_or_else(PoisonError::into_inner) = rotated;
        Ok(self.epochs())
    }

    fn keys(&self) -> Vec<MasterKey> {
        let all = self.all.lock();
        all.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Puts a new key, which mints from now on, in front of the given keys.
fn rotated(all: &[MasterKey], until_secs: u64) -> Result<Vec<MasterKey>, KeyringError> {
    let newest = all.iter().map(|key| key.epoch).max().unwrap_or(0);
    let new = MasterKey {
        epoch: newest.checked_add(1).ok_or(KeyringError::NoMore)?,
        secret: draw()?,
        until_secs: None,
    };
    let older = all.iter().map(|key| MasterKey {
        until_secs: Some(key.until_secs.unwrap_or(u64::MAX).min(until_secs)),
        ..key.clone()
    });
    Ok(std::iter::once(new).chain(older).collect())
}

fn draw() -> io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    Ok(secret)
}

fn keys(all: &[MasterKey]) -> Option<RootKeys> {
    let (current, older) = all.split_first()?;
    Some(RootKeys::new(current, older))
}

fn read(text: &str) -> Option<Vec<MasterKey>> {
    let mut all = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let words: Vec<_> = line.split_whitespace().collect();
        let (epoch, secret, until) = match words.as_slice() {
            [secret] => ("0", secret, None),
            [epoch, secret] => (*epoch, secret, None),
            [epoch, secret, "until", until] => (*epoch, secret, Some(until)),
            _ => return None,
        };
        let mut bytes = [0; 32];
        hex::decode_to_slice(secret, &mut bytes).ok()?;
        all.push(MasterKey {
            epoch: epoch.parse().ok()?,
            secret: bytes,
            until_secs: until.map(|until| until.parse()).transpose().ok()?,
        });
    }
    let (current, older) = all.split_first()?;
    let is_in_order = older.is_sorted_by(|a, b| a.epoch > b.epoch)
        && older
            .first()
            .is_none_or(|first| first.epoch < current.epoch);
    let is_dated = current.until_secs.is_none() && older.iter().all(|key| key.until_secs.is_some());
    (is_in_order && is_dated).then_some(all)
}

fn write(all: &[MasterKey]) -> String {
    let line = |key: &MasterKey| {
        let until = key.until_secs.map(|until| format!(" until {until}"));
        let secret = hex::encode(key.secret);
        format!("{} {secret}{}", key.epoch, until.unwrap_or_default())
    };
    all.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_that_is_not_backed_up_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let keyring = Keyring::open(&path).unwrap();
        let before = secret_file::read(&path).unwrap();
        let failed: Result<_, KeyringError> = keyring.rotate_behind(2_000, || {
            assert_eq!(
                Keyring::open(&path).unwrap().epochs().len(),
                2,
                "the new key is on the disk"
            );
            assert_eq!(
                keyring.in_force().epoch(),
                0,
                "the new key does not mint yet"
            );
            Err(KeyringError::NoMore)
        });
        assert!(failed.is_err());
        assert_eq!(keyring.epochs().len(), 1);
        let after = secret_file::read(&path).unwrap();
        assert!(after.contains(before.trim()) && after.trim().lines().count() == 1);
    }

    #[test]
    fn a_rotation_is_there_after_a_restart_and_the_old_key_retires_on_its_day() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let keyring = Keyring::open(&path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(first.trim().len(), 64);
        keyring.rotate(2_000).unwrap();
        let epochs = keyring.rotate(3_000).unwrap();
        let again = Keyring::open(&path).unwrap();
        assert_eq!(again.epochs(), epochs);
        let epochs: Vec<_> = epochs
            .iter()
            .map(|epoch| (epoch.number, epoch.until_secs))
            .collect();
        assert_eq!(epochs, [(2, None), (1, Some(3_000)), (0, Some(2_000))]);
        let identifier = |epoch| {
            crate::protocol::l402::Identifier {
                payment_hash: [1; 32],
                token_id: crate::protocol::l402::TokenId::new(epoch, 0, [2; 32]),
            }
            .to_bytes()
        };
        let is_good = |epoch, now_secs| {
            let keys = again.in_force();
            keys.root_key(&identifier(epoch), now_secs).is_some()
        };
        assert!(is_good(0, 1_999) && !is_good(0, 2_000));
        assert!(is_good(1, 2_999) && !is_good(1, 3_000));
        assert!(is_good(2, u64::MAX) && !is_good(3, 0));
    }

    #[test]
    fn what_is_no_keyring_is_refused() {
        let secret = "ab".repeat(32);
        for text in [
            "ab".to_owned(),
            format!("0 {secret} until"),
            format!("0 {secret} until tomorrow"),
            format!("0 {secret} until 5"),
            format!("1 {secret}\n0 {secret}"),
            format!("0 {secret}\n1 {secret} until 5"),
            format!("2 {secret}\n2 {secret} until 5"),
            format!("65536 {secret}"),
        ] {
            assert!(read(&text).is_none(), "{text}");
        }
        assert!(read(&format!("1 {secret}\n0 {secret} until 5\n")).is_some());
    }
}

//! Root keys: derived from a master key and the identifier, never stored.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::identifier::{IDENTIFIER_BYTES, Identifier};

/// The label that separates these root keys from any other key derived from the same master key.
const ROOT_KEY_LABEL: &[u8] = b"l402-root-v1";

/// The secret from which the root keys of tokens are derived: random bytes, one key per epoch.
#[derive(Clone)]
pub struct MasterKey {
    /// The epoch of this key, which is part of the token id.
    pub epoch: u16,
    /// The secret bytes.
    pub secret: [u8; 32],
    /// The time until which this key's tokens are valid, Unix seconds; `None` for no end.
    pub until_secs: Option<u64>,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey")
            .field("epoch", &self.epoch)
            .field("secret", &"…")
            .field("until_secs", &self.until_secs)
            .finish()
    }
}

/// All master keys whose tokens are valid. The newest key mints, the older ones only verify.
#[derive(Clone)]
pub struct RootKeys {
    /// The epoch and HMAC state of the newest master key, ready to be copied.
    current: (u16, Hmac<Sha256>),
    /// The keys of older epochs. Some of them have an end.
    older: Vec<Older>,
}

/// A key that only verifies.
#[derive(Clone)]
struct Older {
    epoch: u16,
    state: Hmac<Sha256>,
    until_secs: Option<u64>,
}

impl fmt::Debug for RootKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootKeys")
            .field("epoch", &self.current.0)
            .finish_non_exhaustive()
    }
}

impl RootKeys {
    /// Builds the keys: `current` mints and verifies, `older` only verifies.
    pub fn new(current: &MasterKey, older: &[MasterKey]) -> Self {
        let older = older.iter().map(|key| Older {
            epoch: key.epoch,
            state: keyed(&key.secret),
            until_secs: key.until_secs,
        });
        Self {
            current: (current.epoch, keyed(&current.secret)),
            older: older.collect(),
        }
    }

    /// The epoch in which new tokens are minted.
    pub fn epoch(&self) -> u16 {
        self.current.0
    }

    /// The root key of this token; `None` if its epoch is unknown or retired.
    pub fn root_key(&self, identifier: &[u8; IDENTIFIER_BYTES], now_secs: u64) -> Option<[u8; 32]> {
        let epoch = Identifier::from_bytes(identifier)?.token_id.epoch();
        let mut state = self.state(epoch, now_secs)?.clone();
        state.update(ROOT_KEY_LABEL);
        state.update(identifier);
        Some(state.finalize().into_bytes().into())
    }
}

impl RootKeys {
    /// Whether tokens of this epoch are valid now.
    pub fn is_in_force(&self, epoch: u16, now_secs: u64) -> bool {
        self.state(epoch, now_secs).is_some()
    }

    fn state(&self, epoch: u16, now_secs: u64) -> Option<&Hmac<Sha256>> {
        if epoch == self.current.0 {
            return Some(&self.current.1);
        }
        let older = self.older.iter().find(|older| older.epoch == epoch)?;
        let is_retired = older.until_secs.is_some_and(|until| now_secs >= until);
        (!is_retired).then_some(&older.state)
    }
}

/// An HMAC-SHA256 state with this key, ready for messages.
pub(super) fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::l402::TokenId;

    #[test]
    fn an_older_epoch_verifies_and_an_unknown_one_does_not() {
        let first = MasterKey {
            epoch: 0,
            secret: [1; 32],
            until_secs: None,
        };
        let second = MasterKey {
            epoch: 1,
            secret: [2; 32],
            until_secs: None,
        };
        let identifier = |epoch| {
            Identifier {
                payment_hash: [3; 32],
                token_id: TokenId::new(epoch, 0, [4; 32]),
            }
            .to_bytes()
        };
        let before = RootKeys::new(&first, &[]);
        let after = RootKeys::new(&second, std::slice::from_ref(&first));
        assert_eq!(
            before.root_key(&identifier(0), 0),
            after.root_key(&identifier(0), 0)
        );
        assert_ne!(
            after.root_key(&identifier(0), 0),
            after.root_key(&identifier(1), 0)
        );
        assert_eq!(before.root_key(&identifier(1), 0), None);
        assert_eq!(after.epoch(), 1);
    }

    #[test]
    fn the_secret_is_never_printed() {
        let key = MasterKey {
            epoch: 0,
            secret: [0xab; 32],
            until_secs: None,
        };
        assert!(!format!("{key:?}").contains("171"));
        assert!(!format!("{:?}", RootKeys::new(&key, &[])).contains("171"));
    }
}

//! The identifier inside a token: which payment it belongs to, and which token it is.

use std::fmt;

/// Length of an identifier: version (2), payment hash (32), token id (32).
pub const IDENTIFIER_BYTES: usize = 66;

/// The only identifier version there is.
const VERSION: [u8; 2] = [0, 0];

/// Marks a token id that says when it was minted. One in 256 of the older ones, which were random there, has it by chance.
const DATED: u8 = 1;

/// What tells one token from another; attenuated copies of a token share it. Only the server reads it:
///
/// | bytes | what |
/// |---|---|
/// | 2 | epoch of the master key that it was minted under, big-endian |
/// | 1 | 1: a time follows |
/// | 5 | when it was minted, Unix seconds, big-endian |
/// | 24 | random |
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub [u8; 32]);

impl TokenId {
    /// A token id of this epoch and time out of fresh random bytes, the first eight of which give way to both.
    pub fn new(epoch: u16, minted_secs: u64, mut random: [u8; 32]) -> Self {
        random[..2].copy_from_slice(&epoch.to_be_bytes());
        random[2] = DATED;
        random[3..8].copy_from_slice(&minted_secs.to_be_bytes()[3..]);
        Self(random)
    }

    /// When the token was minted, Unix seconds; 0 if it does not say.
    pub fn minted_secs(&self) -> u64 {
        if self.0[2] != DATED {
            return 0;
        }
        let mut secs = [0; 8];
        secs[3..].copy_from_slice(&self.0[3..8]);
        u64::from_be_bytes(secs)
    }

    /// The epoch of the master key that this token was minted under.
    pub fn epoch(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }
}

/// A token id is not secret: it names a token in books and logs, and opens nothing.
impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Version ‖ payment hash ‖ token id, the first field of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identifier {
    /// SHA-256 of the preimage that the payer learns.
    pub payment_hash: [u8; 32],
    /// Which token this is.
    pub token_id: TokenId,
}

impl Identifier {
    /// The 66 bytes that stand in the token.
    pub fn to_bytes(self) -> [u8; IDENTIFIER_BYTES] {
        let mut bytes = [0; IDENTIFIER_BYTES];
        bytes[..2].copy_from_slice(&VERSION);
        bytes[2..34].copy_from_slice(&self.payment_hash);
        bytes[34..].copy_from_slice(&self.token_id.0);
        bytes
    }

    /// Reads exactly 66 bytes of version 0; anything else is `None`.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; IDENTIFIER_BYTES] = bytes.try_into().ok()?;
        if bytes[..2] != VERSION {
            return None;
        }
        let mut payment_hash = [0; 32];
        payment_hash.copy_from_slice(&bytes[2..34]);
        let mut token_id = [0; 32];
        token_id.copy_from_slice(&bytes[34..]);
        Some(Self {
            payment_hash,
            token_id: TokenId(token_id),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_66_bytes_of_version_0_are_read() {
        let identifier = Identifier {
            payment_hash: [7; 32],
            token_id: TokenId::new(0x0102, 1_700_000_000, [9; 32]),
        };
        let bytes = identifier.to_bytes();
        assert_eq!(Identifier::from_bytes(&bytes), Some(identifier));
        assert_eq!(identifier.token_id.epoch(), 0x0102);
        assert_eq!(identifier.token_id.minted_secs(), 1_700_000_000);
        assert_eq!(identifier.token_id.0[8..], [9; 24]);
        assert_eq!(TokenId([9; 32]).minted_secs(), 0);
        assert_eq!(Identifier::from_bytes(&bytes[..65]), None);
        assert_eq!(Identifier::from_bytes(&[&bytes[..], &[0]].concat()), None);
        let mut other_version = bytes;
        other_version[1] = 1;
        assert_eq!(Identifier::from_bytes(&other_version), None);
    }
}

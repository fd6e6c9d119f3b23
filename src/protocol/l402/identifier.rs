//! The identifier inside a token, which names its payment and the token itself.

use std::fmt;

/// Length of an identifier: version (2), payment hash (32), token id (32).
pub const IDENTIFIER_BYTES: usize = 66;

/// The only identifier version.
const VERSION: [u8; 2] = [0, 0];

/// Marks a token id that contains the time of minting. Older token ids have a random byte here, and
/// one in 256 of them has this value by chance.
const DATED: u8 = 1;

/// The id of a token, which its attenuated copies share. Only the server reads the content:
///
/// | bytes | content |
/// |---|---|
/// | 2 | epoch of the master key that minted the token, big-endian |
/// | 1 | 1: a time follows |
/// | 5 | time of minting, Unix seconds, big-endian |
/// | 24 | random |
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(pub [u8; 32]);

impl TokenId {
    /// A token id with this epoch and time. They replace the first eight of the fresh random bytes.
    pub fn new(epoch: u16, minted_secs: u64, mut random: [u8; 32]) -> Self {
        random[..2].copy_from_slice(&epoch.to_be_bytes());
        random[2] = DATED;
        random[3..8].copy_from_slice(&minted_secs.to_be_bytes()[3..]);
        Self(random)
    }

    /// The time of minting, Unix seconds; 0 if the id does not contain it.
    pub fn minted_secs(&self) -> u64 {
        if self.0[2] != DATED {
            return 0;
        }
        let mut secs = [0; 8];
        secs[3..].copy_from_slice(&self.0[3..8]);
        u64::from_be_bytes(secs)
    }

    /// The epoch of the master key that minted this token.
    pub fn epoch(&self) -> u16 {
        u16::from_be_bytes([self.0[0], self.0[1]])
    }
}

/// Prints the whole token id, because it is not secret: it names a token in ledger and logs, and
/// opens nothing.
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
    /// The token's id.
    pub token_id: TokenId,
}

impl Identifier {
    /// The 66 bytes of the identifier in the token.
    pub fn to_bytes(self) -> [u8; IDENTIFIER_BYTES] {
        let mut bytes = [0; IDENTIFIER_BYTES];
        bytes[..2].copy_from_slice(&VERSION);
        bytes[2..34].copy_from_slice(&self.payment_hash);
        bytes[34..].copy_from_slice(&self.token_id.0);
        bytes
    }

    /// Parses exactly 66 bytes of version 0. Returns `None` for anything else.
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

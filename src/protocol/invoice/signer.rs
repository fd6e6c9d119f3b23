//! Signs invoices, the most expensive part of a challenge. `secp256k1` 0.31 makes the same
//! signatures as the version 0.29 that `bitcoin` uses, in two thirds of the time. Its types stay in
//! this file.

use std::fmt;

use secp256k1::{Message, Secp256k1, SecretKey, SignOnly};

/// Bytes of a BOLT 11 signature: 64, and the recovery id.
pub(super) const SIGNATURE_BYTES: usize = 65;

/// Signs with the node's key.
pub(super) struct Signer {
    /// The signing context. It is kept, because creating one costs more than a signature.
    secp: Secp256k1<SignOnly>,
    /// The node's key.
    secret: SecretKey,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer(…)")
    }
}

impl Signer {
    /// A signer with this key, which must be valid.
    pub(super) fn new(secret: [u8; 32]) -> Self {
        let mut secp = Secp256k1::signing_only();
        let mut seed = [0; 32];
        // The seed blinds the computation against side channels. Signatures are the same without
        // it.
        if getrandom::fill(&mut seed).is_ok() {
            secp.seeded_randomize(&seed);
        }
        Self {
            secp,
            secret: SecretKey::from_byte_array(secret).expect("it is the bytes of a good key"),
        }
    }

    /// Signs the hash of an invoice.
    pub(super) fn sign(&self, hash: [u8; 32]) -> [u8; SIGNATURE_BYTES] {
        let message = Message::from_digest(hash);
        let signature = self.secp.sign_ecdsa_recoverable(message, &self.secret);
        let (recovery, signature) = signature.serialize_compact();
        let recovery = u8::try_from(i32::from(recovery)).expect("a recovery id is at most 3");
        let mut signed = [recovery; SIGNATURE_BYTES];
        signed[..64].copy_from_slice(&signature);
        signed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitcoin::secp256k1 as yardstick;

    proptest::proptest! {
        #[test]
        fn signatures_are_those_of_the_library_that_bitcoin_brings(secret: [u8; 32], hash: [u8; 32]) {
            let Ok(key) = yardstick::SecretKey::from_slice(&secret) else {
                return Ok(());
            };
            let message = yardstick::Message::from_digest(hash);
            let theirs = yardstick::Secp256k1::signing_only().sign_ecdsa_recoverable(&message, &key);
            let (recovery, theirs) = theirs.serialize_compact();
            let ours = Signer::new(secret).sign(hash);
            proptest::prop_assert_eq!(&ours[..64], &theirs[..]);
            proptest::prop_assert_eq!(i32::from(ours[64]), recovery.to_i32());
        }
    }
}

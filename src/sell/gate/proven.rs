//! A cache of credentials whose proof holds. A credential that is presented again, byte for byte,
//! skips the HMAC chain and the SHA-256. Caveats, counts, revocations and retired keys are checked
//! for each request.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

use crate::protocol::l402::Proven;
use crate::protocol::l402::credential::only_credential;

/// The number of locks over the table. With sixteen, two cores rarely wait for each other.
const SHARDS: usize = 16;

/// The most credentials in one shard. All shards hold 4,096, of about 700 bytes each.
const SHARD_MAX: usize = 256;

/// The longest header that is kept. A header with one of our credentials has about 500 bytes.
const HEADER_BYTES_MAX: usize = 1_024;

/// The number of bytes at the end of a header that are hashed to find its entry. They hold the
/// preimage in 64 digits and the end of the signature, which differs between tokens. Hashing the
/// whole header would cost more time than the cache saves.
const END_BYTES: usize = 112;

/// The cache. `std` mutexes: held for a look-up, never across an await.
pub(super) struct ProvenBefore {
    shards: [Mutex<Shard>; SHARDS],
    /// The hash keys, so that clients cannot predict where a header is stored.
    spread: RandomState,
}

/// The entries by the hash of their header's end. Of two entries with the same hash, the later one
/// stays.
type Shard = HashMap<u64, Kept, BuildHasherDefault<Spread>>;

/// A credential whose proof holds.
struct Kept {
    /// The whole value of the `Authorization` header that presented it.
    header: Box<[u8]>,
    /// The result of the proof.
    proven: Arc<Proven>,
}

/// A hasher that returns the number itself, because the keys are already hashes.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called for the keys of a `Shard`, but correct nonetheless.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// The entries are left out, because they contain credentials.
impl std::fmt::Debug for ProvenBefore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProvenBefore").finish_non_exhaustive()
    }
}

impl ProvenBefore {
    pub(super) fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            spread: RandomState::new(),
        }
    }

    /// Returns the locked shard and the key for this header.
    fn place(&self, header: &[u8]) -> (MutexGuard<'_, Shard>, u64) {
        let end = &header[header.len().saturating_sub(END_BYTES)..];
        let number = self.spread.hash_one(end);
        // The shard's own table uses the highest and the lowest bits of the hash, so the index uses
        // others.
        let index = usize::try_from((number >> 32) % SHARDS as u64).unwrap_or(0);
        let shard = self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (shard, number)
    }

    /// Returns the credential in these headers, if its proof is in the cache.
    pub(super) fn find(&self, headers: &HeaderMap) -> Option<Arc<Proven>> {
        let header = only(headers)?;
        let (shard, number) = self.place(header);
        let kept = shard.get(&number)?;
        // A client that does not know the secret end of the header finds no entry, so no guess is
        // compared with a secret.
        (*kept.header == *header).then(|| Arc::clone(&kept.proven))
    }

    /// Stores the credential of these headers.
    pub(super) fn keep(&self, headers: &HeaderMap, proven: &Arc<Proven>) {
        let Some(header) = only(headers) else {
            return;
        };
        let (mut shard, number) = self.place(header);
        if shard.len() >= SHARD_MAX {
            // Credentials that are still in use are stored again at their next request.
            shard.clear();
        }
        let kept = Kept {
            header: header.into(),
            proven: Arc::clone(proven),
        };
        shard.insert(number, kept);
    }
}

/// Returns the header if it holds a single credential. With several credentials, each request
/// decides which one applies, so no proof is cached.
fn only(headers: &HeaderMap) -> Option<&[u8]> {
    only_credential(headers).filter(|header| header.len() <= HEADER_BYTES_MAX)
}

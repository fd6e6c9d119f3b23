//! Credentials that were proven before: who presents one again, letter for letter, is spared the HMAC chain and the SHA-256.
//! What changes from request to request, caveats, counts, revocations and retired keys, is looked at each time.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;

use crate::protocol::l402::Proven;
use crate::protocol::l402::credential::only_credential;

/// Locks over the table; two cores rarely meet in one of sixteen.
const SHARDS: usize = 16;

/// Credentials in one shard: 4,096 in all, of some 700 bytes each.
const SHARD_MAX: usize = 256;

/// A longer header is not worth its place: one of ours has some 500 bytes.
const HEADER_BYTES_MAX: usize = 1_024;

/// As much of a header's end as its place is found by: the preimage, 64 digits, and the end of the signature before it, in
/// which no two tokens are alike. To go over all of it would take longer than what is saved is worth.
const END_BYTES: usize = 112;

/// The table. `std` mutexes: held for a look-up, never across an await.
pub(super) struct ProvenBefore {
    shards: [Mutex<Shard>; SHARDS],
    /// Strangers cannot foresee where a header goes.
    spread: RandomState,
}

/// Each under a number that its header's end gives. Of two with the same number the later one stays.
type Shard = HashMap<u64, Kept, BuildHasherDefault<Spread>>;

/// A credential that was proven.
struct Kept {
    /// The whole value of the `Authorization` header that presented it.
    header: Box<[u8]>,
    /// What it is.
    proven: Arc<Proven>,
}

/// A number that is spread already is its own hash.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Never called for the keys of a `Shard`, and right all the same.
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

/// The keys are credentials.
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

    /// Where a header's credential is kept.
    fn place(&self, header: &[u8]) -> (MutexGuard<'_, Shard>, u64) {
        let end = &header[header.len().saturating_sub(END_BYTES)..];
        let number = self.spread.hash_one(end);
        // Not by the digits that the shard's own table goes by, which are the first and the last.
        let index = usize::try_from((number >> 32) % SHARDS as u64).unwrap_or(0);
        let shard = self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (shard, number)
    }

    /// What these headers present, if it was proven before.
    pub(super) fn find(&self, headers: &HeaderMap) -> Option<Arc<Proven>> {
        let header = only(headers)?;
        let (shard, number) = self.place(header);
        let kept = shard.get(&number)?;
        // Who does not know the end, which is the secret, gets no further than `get`: nothing is compared with a guess.
        (*kept.header == *header).then(|| Arc::clone(&kept.proven))
    }

    /// Remembers what these headers present.
    pub(super) fn keep(&self, headers: &HeaderMap, proven: &Arc<Proven>) {
        let Some(header) = only(headers) else {
            return;
        };
        let (mut shard, number) = self.place(header);
        if shard.len() >= SHARD_MAX {
            // Whoever is still there comes in again with the next request.
            shard.clear();
        }
        let kept = Kept {
            header: header.into(),
            proven: Arc::clone(proven),
        };
        shard.insert(number, kept);
    }
}

/// The single header with a single credential. With several credentials, each request decides which one opens the door, so
/// no proof is cached for them.
fn only(headers: &HeaderMap) -> Option<&[u8]> {
    only_credential(headers).filter(|header| header.len() <= HEADER_BYTES_MAX)
}

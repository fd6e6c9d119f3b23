//! Credentials that were proven before: who presents one again, letter for letter, is spared the HMAC chain and the SHA-256.
//! What changes from request to request, caveats, counts, revocations and retired keys, is looked at each time.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderMap;
use http::header::AUTHORIZATION;

use crate::l402::credential::{MACAROON_HEADERS, is_of_l402};
use crate::l402::verify::Proven;

/// Locks over the table; two cores rarely meet in one of sixteen.
const SHARDS: usize = 16;

/// Credentials in one shard: 4,096 in all, of some 700 bytes each.
const SHARD_MAX: usize = 256;

/// A longer header is not worth its place: one of ours has some 500 bytes.
const HEADER_BYTES_MAX: usize = 1_024;

/// The table, under the whole value of the `Authorization` header. `std` mutexes: held for a look-up, never across an await.
pub(super) struct ProvenBefore {
    shards: [Mutex<Shard>; SHARDS],
    /// Strangers cannot foresee where a header goes.
    spread: RandomState,
}

type Shard = HashMap<Box<[u8]>, Arc<Proven>>;

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

    fn shard(&self, header: &[u8]) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.spread.hash_one(header) % SHARDS as u64).unwrap_or(0);
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// What these headers present, if it was proven before.
    pub(super) fn find(&self, headers: &HeaderMap) -> Option<Arc<Proven>> {
        let header = only(headers)?;
        self.shard(header).get(header).map(Arc::clone)
    }

    /// Remembers what these headers present.
    pub(super) fn keep(&self, headers: &HeaderMap, proven: &Arc<Proven>) {
        let Some(header) = only(headers) else {
            return;
        };
        let mut shard = self.shard(header);
        if shard.len() >= SHARD_MAX {
            // Whoever is still there comes in again with the next request.
            shard.clear();
        }
        shard.insert(header.into(), Arc::clone(proven));
    }
}

/// The one header that presents something of ours. Of several, which one opens the door is decided each time; and what another
/// header has proven must never be kept under this one, which may be anything.
fn only(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let header = values.next()?.as_bytes();
    let is_only = values.next().is_none()
        && header.len() <= HEADER_BYTES_MAX
        && is_of_l402(header)
        && !MACAROON_HEADERS
            .iter()
            .any(|name| headers.contains_key(name));
    is_only.then_some(header)
}

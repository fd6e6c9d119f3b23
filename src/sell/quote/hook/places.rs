//! The limit on the running calls to a hook. Part of it is reserved for holders of valid
//! credentials, and no single network of clients can use all of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most concurrent calls to one hook. At 10 ms per call, this allows 6,400 calls per second.
const PLACES: usize = 64;

/// The most concurrent calls for strangers; the rest is reserved for holders.
const STRANGERS_MAX: usize = 48;

/// The most concurrent calls for strangers of one network, so that at least four networks have
/// room.
const OF_STRANGERS_MAX: usize = 12;

/// The most concurrent calls for holders of one network.
const OF_HOLDERS_MAX: usize = 32;

/// The client that causes a call to the hook, identified by its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Asking {
    /// A client with a credential that could open the request.
    Holder(IpAddr),
    /// Any other client.
    Stranger(IpAddr),
}

/// The places of one hook; each running call takes one. A `std` mutex: held for a moment.
#[derive(Debug, Default)]
pub(super) struct Places(Arc<Mutex<Taken>>);

#[derive(Debug, Default)]
struct Taken {
    pub(super) all: usize,
    pub(super) strangers: usize,
    /// The number of places that each network takes; at most one entry per place.
    pub(super) by_network: HashMap<Asking, usize>,
}

/// One place. Dropping this value frees the place.
#[derive(Debug)]
#[must_use = "dropping it frees the place"]
pub(super) struct Place {
    taken: Arc<Mutex<Taken>>,
    asking: Option<Asking>,
}

impl Places {
    /// Takes a place for this client. Returns `None` if no place is free for the client. A call
    /// without a client (`asking` is `None`) is not limited to a share.
    pub(super) fn take(&self, asking: Option<Asking>) -> Option<Place> {
        let mut taken = lock(&self.0);
        let of_network = asking.and_then(|asking| taken.by_network.get(&asking).copied());
        let max_of_network = match asking {
            Some(Asking::Stranger(_)) if taken.strangers >= STRANGERS_MAX => return None,
            Some(Asking::Stranger(_)) => OF_STRANGERS_MAX,
            Some(Asking::Holder(_)) => OF_HOLDERS_MAX,
            None => PLACES,
        };
        if taken.all >= PLACES || of_network.unwrap_or(0) >= max_of_network {
            return None;
        }
        taken.all += 1;
        if let Some(asking) = asking {
            taken.strangers += usize::from(matches!(asking, Asking::Stranger(_)));
            *taken.by_network.entry(asking).or_default() += 1;
        }
        Some(Place {
            taken: Arc::clone(&self.0),
            asking,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        let Some(asking) = self.asking else {
            return;
        };
        taken.strangers -= usize::from(matches!(asking, Asking::Stranger(_)));
        if let Some(count) = taken.by_network.get_mut(&asking) {
            *count -= 1;
            if *count == 0 {
                taken.by_network.remove(&asking);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many places as this client can get.
    fn all(places: &Places, asking: Asking) -> Vec<Place> {
        std::iter::from_fn(|| places.take(Some(asking))).collect()
    }

    fn network(number: u8) -> IpAddr {
        [192, 0, number, 0].into()
    }

    #[test]
    fn strangers_leave_places_to_holders_and_one_network_leaves_some_to_others() {
        let places = Places::default();
        let taken: Vec<_> = (0..9)
            .map(|number| all(&places, Asking::Stranger(network(number))))
            .collect();
        let counts: Vec<_> = taken.iter().map(Vec::len).collect();
        assert_eq!(counts, [12, 12, 12, 12, 0, 0, 0, 0, 0]);
        // Holders of the same network still get places.
        let holders = all(&places, Asking::Holder(network(0)));
        assert_eq!(holders.len(), 16);
        drop(taken);
        let more = all(&places, Asking::Holder(network(0)));
        assert_eq!(holders.len() + more.len(), 32);
        assert_eq!(all(&places, Asking::Stranger(network(0))).len(), 12);
        drop((holders, more));
        let left = lock(&places.0);
        assert_eq!((left.all, left.strangers, left.by_network.len()), (0, 0, 0));
    }
}

//! The places of HTTP/2 requests: one connection has many, so the limit on connections does not limit them. What the gate has
//! let through gets a place; who only asks takes none from those who were let through.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sell::gate::network;

/// Of all places one client may have one in so many: nobody alone can take them all.
const SHARE: usize = 4;

/// A client that has not paid holds no more places than are free, so that a new client always finds one. It may
/// hold this many in any case.
const UNPAID_MIN: usize = 2;

/// A listener's places; on every request that came by HTTP/2.
#[derive(Clone, Debug)]
pub(super) struct Places(Arc<All>);

#[derive(Debug)]
struct All {
    /// For what was let through.
    served: Arc<Semaphore>,
    /// For answers of our own that wait until their client takes them.
    own: Arc<Semaphore>,
    /// How many of the first kind one client may have.
    share: usize,
    /// How many it has. A `std` mutex: held to count.
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    /// Whose it is, and where that is counted; nobody's where the answer is our own.
    holder: Option<(Places, IpAddr)>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// So many; each client has room for all requests of one connection at least.
    pub(super) fn new(max: usize, of_a_connection: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(All {
            served: Arc::new(Semaphore::new(max)),
            own: Arc::new(Semaphore::new(max)),
            share: (max / SHARE).max(of_a_connection),
            held: Mutex::default(),
        }))
    }

    /// A place for this client, if there is one.
    pub(super) fn take(&self, client: IpAddr, is_paid: bool) -> Option<Place> {
        let permit = Arc::clone(&self.0.served).try_acquire_owned().ok()?;
        let network = network(client);
        let mut held = self.held();
        let count = held.get(&network).copied().unwrap_or(0);
        let left = self.0.served.available_permits();
        if count >= self.0.share || (!is_paid && count > left && count >= UNPAID_MIN) {
            return None;
        }
        held.insert(network, count + 1);
        drop(held);
        Some(Place {
            holder: Some((self.clone(), network)),
            _permit: permit,
        })
    }

    /// A place for an answer of our own.
    pub(super) fn take_own(&self) -> Option<Place> {
        let permit = Arc::clone(&self.0.own).try_acquire_owned().ok()?;
        Some(Place {
            holder: None,
            _permit: permit,
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, network)) = &self.holder else {
            return;
        };
        let mut held = places.held();
        if let Some(count) = held.get_mut(network) {
            *count -= 1;
            if *count == 0 {
                held.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Places, client: &str, count: usize) -> Vec<Place> {
        let client = client.parse().unwrap();
        (0..count)
            .map_while(|_| places.take(client, true))
            .collect()
    }

    #[test]
    fn one_client_has_its_share_and_no_more() {
        let places = Places::new(40, 3);
        let first = take(&places, "192.0.2.1", 40);
        assert_eq!(first.len(), 10);
        let network = take(&places, "2001:db8::1", 5);
        assert_eq!(take(&places, "2001:db8::2", 40).len(), 5);
        assert_eq!(take(&places, "2001:db8:0:100::1", 40).len(), 10);
        drop((first, network));
        assert_eq!(take(&places, "192.0.2.1", 40).len(), 10);
        assert!(places.held().is_empty());
    }

    #[test]
    fn clients_that_have_not_paid_leave_places_to_new_ones() {
        let places = Places::new(400, 100);
        let mut held = Vec::new();
        for number in 1..=8 {
            let client = format!("192.0.2.{number}").parse().unwrap();
            held.extend((0..400).map_while(|_| places.take(client, false)));
        }
        assert!(held.len() < 400);
        assert!(
            places
                .take("198.51.100.1".parse().unwrap(), false)
                .is_some()
        );
    }

    #[test]
    fn there_is_room_for_a_whole_connection_and_for_no_more_than_all() {
        assert_eq!(take(&Places::new(40, 30), "::1", 40).len(), 30);
        assert_eq!(take(&Places::new(2, 30), "::1", 40).len(), 2);
    }

    #[test]
    fn answers_of_our_own_take_no_place_from_what_is_served() {
        let places = Places::new(2, 2);
        let own = [places.take_own(), places.take_own(), places.take_own()];
        assert_eq!(own.iter().flatten().count(), 2);
        assert_eq!(take(&places, "::1", 2).len(), 2);
    }
}

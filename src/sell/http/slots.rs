//! Limits concurrent HTTP/2 requests. One connection carries many requests, so the limit on
//! connections does not limit their number. A permitted request takes a place. Our own answers,
//! such as challenges, have separate places.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sell::gate::network;

/// The fraction of all places that one client may hold: a quarter, so that no client takes all of
/// them.
const SHARE: usize = 4;

/// A client that has not paid may hold at most as many places as are free, but always this many. So
/// a new client finds a place.
const UNPAID_MIN: usize = 2;

/// The places of a listener. Every HTTP/2 request carries them as an extension.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<All>);

#[derive(Debug)]
struct All {
    /// Places for permitted requests.
    served: Arc<Semaphore>,
    /// Places for our own answers, until their clients have taken them.
    own: Arc<Semaphore>,
    /// The most places for permitted requests that one client may hold.
    share: usize,
    /// The places that each network holds. A `std` mutex: held to count.
    held: Mutex<HashMap<IpAddr, usize>>,
}

/// A place. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place {
    /// The client that this place is charged to; `None` for answers that we generate.
    holder: Option<(Places, IpAddr)>,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// Creates `max` places. One client may hold a quarter of them, but at least as many as one
    /// connection can have requests.
    pub(crate) fn new(max: usize, of_a_connection: usize) -> Self {
        let max = max.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(All {
            served: Arc::new(Semaphore::new(max)),
            own: Arc::new(Semaphore::new(max)),
            share: (max / SHARE).max(of_a_connection),
            held: Mutex::default(),
        }))
    }

    /// Takes a place for this client. Returns `None` if no place is free or if the client holds its
    /// share.
    pub(crate) fn take(&self, client: IpAddr, is_paid: bool) -> Option<Place> {
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

    /// Takes a place for an answer that we generate.
    pub(crate) fn take_own(&self) -> Option<Place> {
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

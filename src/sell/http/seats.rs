//! The places of a listener's connections. No network holds more than its share. When all places
//! are taken, a new connection displaces one of the network with the most unpaid connections. The
//! longest idle connection goes first.

mod guest;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::sell::gate::network;

use guest::unpaid;

pub(crate) use guest::{Guest, Held};

/// The most connections that wait for a place. Each is a socket that is not read.
const WAITING_MAX: usize = 64;

/// How often a waiting connection checks whether another can be displaced.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A listener's places.
#[derive(Clone, Debug)]
pub(super) struct Seats(Arc<All>);

#[derive(Debug)]
struct All {
    /// The number of places.
    max: usize,
    /// The number of places that one network may hold.
    share: usize,
    /// The connections that hold a place. A `std` mutex: held to count, never across an await.
    table: Mutex<Table>,
    /// Notified when a place becomes free.
    freed: Notify,
    /// Limits the connections that wait for a place.
    line: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Table {
    /// All connections, by the network or proxy that they are charged to.
    pub(super) holders: HashMap<Holder, Vec<Guest>>,
    /// The number of connections.
    pub(super) count: usize,
    /// The number of the next connection.
    pub(super) next: u64,
}

/// The network or proxy that a connection is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Holder {
    /// A client's network.
    Network(IpAddr),
    /// One connection of a trusted proxy, which carries many clients.
    Proxy(u64),
}

/// A place; dropping it frees the place.
#[derive(Debug)]
#[must_use = "dropping it frees the place"]
pub(super) struct Seat {
    seats: Seats,
    holder: Holder,
    guest: Guest,
}

/// An accepted connection.
#[derive(Debug)]
#[must_use = "dropping it gives up the place"]
pub(super) enum Coming {
    /// The connection has a place.
    Seated(Seat),
    /// The connection waits for a place.
    Waiting {
        seats: Seats,
        address: IpAddr,
        is_proxy: bool,
        _place_in_line: OwnedSemaphorePermit,
    },
}

/// The reason why a connection gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoSeat {
    /// The network holds its share, and all of its connections are busy.
    Share,
    /// No connection may be displaced: all carry paid answers, or belong to networks that hold no
    /// more than this one.
    Full,
}

impl Seats {
    /// Creates `max` places, of which one network may hold `share`.
    pub(super) fn new(max: usize, share: usize) -> Self {
        Self(Arc::new(All {
            max,
            share: share.clamp(1, max.max(1)),
            table: Mutex::default(),
            freed: Notify::new(),
            line: Arc::new(Semaphore::new(WAITING_MAX)),
        }))
    }

    /// Accepts a connection from this address, which may displace another one. Returns `None` if
    /// the network of the address holds its share and is busy, or if too many connections wait
    /// already. `is_proxy` marks a trusted proxy, which has no share.
    pub(super) fn let_in(&self, address: IpAddr, is_proxy: bool) -> Option<Coming> {
        match self.try_take(address, is_proxy) {
            Ok(seat) => Some(Coming::Seated(seat)),
            Err(NoSeat::Share) => None,
            Err(NoSeat::Full) => {
                let place_in_line = Arc::clone(&self.0.line).try_acquire_owned().ok()?;
                Some(Coming::Waiting {
                    seats: self.clone(),
                    address,
                    is_proxy,
                    _place_in_line: place_in_line,
                })
            }
        }
    }

    fn try_take(&self, address: IpAddr, is_proxy: bool) -> Result<Seat, NoSeat> {
        let mut table = self.table();
        let number = table.next;
        table.next += 1;
        let holder = if is_proxy {
            Holder::Proxy(number)
        } else {
            Holder::Network(network(address))
        };
        self.make_room(&mut table, holder, true)?;
        let guest = Guest::new(number);
        table.put(holder, guest.clone());
        drop(table);
        Ok(Seat {
            seats: self.clone(),
            holder,
            guest,
        })
    }

    /// Makes room for one more connection of this holder. `needs_place` is false if the connection
    /// already holds a place under another holder.
    fn make_room(
        &self,
        table: &mut Table,
        holder: Holder,
        needs_place: bool,
    ) -> Result<(), NoSeat> {
        let is_full = needs_place && table.count >= self.0.max;
        let held = table.holders.get(&holder).map_or(0, Vec::len);
        // A share that covers all places is not enforced.
        let is_at_share = held >= self.0.share
            && self.0.share < self.0.max
            && matches!(holder, Holder::Network(_));
        let leaving = match (is_at_share, is_full) {
            (false, false) => return Ok(()),
            (true, _) => table.readiest_of_its_own(holder).ok_or(NoSeat::Share)?,
            (false, true) => table.readiest(holder).ok_or(NoSeat::Full)?,
        };
        leaving.1.send_away();
        table.remove(leaving.0, leaving.1.number());
        Ok(())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coming {
    /// Waits up to this long for the connection's place. Returns `None` if it gets none.
    pub(super) async fn seat(self, patience: Duration) -> Option<Seat> {
        let (seats, address, is_proxy) = match &self {
            Self::Seated(_) => return self.seated(),
            Self::Waiting {
                seats,
                address,
                is_proxy,
                ..
            } => (seats, *address, *is_proxy),
        };
        let waited = timeout(patience, async {
            loop {
                // Also tries again when no place was freed: a paid answer may have ended.
                let _ = timeout(LOOK_EVERY, seats.0.freed.notified()).await;
                match seats.try_take(address, is_proxy) {
                    Ok(seat) => return Some(seat),
                    Err(NoSeat::Share) => {
                        // This task may have consumed the notice of a free place, so it passes the
                        // notice on.
                        seats.0.freed.notify_one();
                        return None;
                    }
                    Err(NoSeat::Full) => {}
                }
            }
        });
        waited.await.ok().flatten()
    }

    fn seated(self) -> Option<Seat> {
        match self {
            Self::Seated(seat) => Some(seat),
            Self::Waiting { .. } => None,
        }
    }
}

impl Table {
    fn put(&mut self, holder: Holder, guest: Guest) {
        self.holders.entry(holder).or_default().push(guest);
        self.count += 1;
    }

    /// Removes a connection, and returns whether it was there.
    fn remove(&mut self, holder: Holder, number: u64) -> bool {
        let Some(guests) = self.holders.get_mut(&holder) else {
            return false;
        };
        let Some(index) = guests.iter().position(|guest| guest.number() == number) else {
            return false;
        };
        guests.swap_remove(index);
        if guests.is_empty() {
            self.holders.remove(&holder);
        }
        self.count -= 1;
        true
    }

    /// Selects the connection that a new one of this holder displaces. From another network, an
    /// unpaid connection is displaced only if that network has more unpaid ones. A payer's
    /// connection is displaced only if its network has at least two more connections.
    fn readiest(&self, newcomer: Holder) -> Option<(Holder, Guest)> {
        let own = self.holders.get(&newcomer).map(Vec::as_slice);
        let own_count = own.map_or(0, <[Guest]>::len);
        let own_unpaid = own.map_or(0, unpaid);
        let ready = self.holders.iter().flat_map(|(holder, guests)| {
            let (count, unpaid) = (guests.len(), unpaid(guests));
            let is_own = *holder == newcomer;
            guests.iter().filter_map(move |guest| {
                let readiness = guest.readiness(count, unpaid)?;
                let may_be_cut = readiness.is_idle || matches!(holder, Holder::Network(_));
                let is_fair = if is_own {
                    !guest.is_busy()
                } else if readiness.is_unpaid {
                    unpaid > own_unpaid && may_be_cut
                } else {
                    count > own_count + 1
                };
                is_fair.then_some((readiness, *holder, guest))
            })
        });
        let (_, holder, guest) = ready.max_by_key(|(readiness, ..)| *readiness)?;
        Some((holder, guest.clone()))
    }

    /// Selects the connection that a new one of the same holder displaces. It is never one that is
    /// being answered.
    fn readiest_of_its_own(&self, holder: Holder) -> Option<(Holder, Guest)> {
        let guests = self.holders.get(&holder)?;
        let (count, unpaid) = (guests.len(), unpaid(guests));
        let ready = guests.iter().filter(|guest| !guest.is_busy());
        let ready = ready.filter_map(|guest| Some((guest.readiness(count, unpaid)?, guest)));
        let (_, guest) = ready.max_by_key(|(readiness, _)| *readiness)?;
        Some((holder, guest.clone()))
    }
}

impl Seat {
    /// The connection that holds the place.
    pub(super) fn guest(&self) -> &Guest {
        &self.guest
    }

    /// Charges the connection to the client that a proxy named. Returns `false` if that client's
    /// network holds its share, or if the connection was displaced.
    pub(super) fn charge_to(&mut self, client: IpAddr) -> bool {
        let seats = self.seats.clone();
        let mut table = seats.table();
        let holder = Holder::Network(network(client));
        // The connection was displaced, so it no longer holds a place.
        if !table.remove(self.holder, self.guest.number()) {
            return false;
        }
        let is_allowed = seats.make_room(&mut table, holder, false).is_ok();
        if is_allowed {
            table.put(holder, self.guest.clone());
            self.holder = holder;
        } else {
            seats.0.freed.notify_one();
        }
        is_allowed
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.seats.table();
        if table.remove(self.holder, self.guest.number()) {
            drop(table);
            self.seats.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Opens `count` connections from one address, and returns those that get a place.
    fn sit(seats: &Seats, from: &str, count: usize) -> Vec<Seat> {
        let seat = |_| seats.try_take(address(from), false).ok();
        (0..count).filter_map(seat).collect()
    }

    fn stay<'a>(of: impl IntoIterator<Item = &'a Seat>) -> usize {
        let leave = |seat: &&Seat| !seat.guest.is_sent_away();
        of.into_iter().filter(leave).count()
    }

    #[test]
    fn a_network_at_its_share_displaces_its_own_longest_idle_connection() {
        let seats = Seats::new(16, 4);
        let first = sit(&seats, "192.0.2.1", 9);
        assert_eq!((first.len(), stay(&first)), (9, 4));
        assert_eq!(stay(&first[..5]), 0);
        // All addresses of one IPv6 network share its places.
        let second = [sit(&seats, "2001:db8::1", 3), sit(&seats, "2001:db8::2", 3)];
        assert_eq!(stay(second.iter().flatten()), 4);
        // A connection that is being answered is not displaced by its own network.
        let busy: Vec<_> = first[5..].iter().map(|seat| seat.guest.ask()).collect();
        assert_eq!(
            seats.try_take(address("192.0.2.1"), false).err(),
            Some(NoSeat::Share)
        );
        drop(busy);
        assert!(seats.try_take(address("192.0.2.1"), false).is_ok());
    }

    #[test]
    fn a_newcomer_finds_a_place_when_several_networks_hold_all_of_them() {
        let seats = Seats::new(16, 4);
        let hoarders = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
        let held: Vec<_> = hoarders
            .iter()
            .flat_map(|from| sit(&seats, from, 4))
            .collect();
        // Unpaid answers are cut although they are running.
        let busy: Vec<_> = held.iter().map(|seat| seat.guest.ask()).collect();
        let newcomers: Vec<_> = (1..=8)
            .flat_map(|number| sit(&seats, &format!("198.51.100.{number}"), 1))
            .collect();
        assert_eq!((newcomers.len(), stay(&newcomers)), (8, 8));
        assert_eq!(stay(&held), 8);
        for hoarder in held.chunks(4) {
            assert_eq!(stay(hoarder), 2, "evenly");
        }
        // The hoarders do not displace connections of networks that hold fewer.
        for from in hoarders {
            drop(sit(&seats, from, 4));
        }
        assert_eq!(stay(&newcomers), 8);
        drop(busy);
    }

    #[test]
    fn a_payer_stays_and_an_answer_that_was_paid_for_is_never_cut() {
        let seats = Seats::new(4, 4);
        let paid = sit(&seats, "192.0.2.1", 2);
        let answers: Vec<_> = paid.iter().map(|seat| seat.guest.pay()).collect();
        let asking = paid[1].guest.ask();
        let others = sit(&seats, "192.0.2.2", 2);
        drop(answers);
        let newcomers = sit(&seats, "192.0.2.3", 1);
        assert_eq!((stay(&newcomers), stay(&others), stay(&paid)), (1, 1, 2));
        // When all connections are payers', an idle one gives way if its network has more than the
        // newcomer's.
        let all = [sit(&seats, "192.0.2.4", 1), others, newcomers];
        let also_paid: Vec<_> = all.iter().flatten().map(|seat| seat.guest.pay()).collect();
        drop(also_paid);
        let newcomer = sit(&seats, "192.0.2.5", 1);
        assert_eq!(
            (stay(&newcomer), stay(&paid[..1]), stay(&paid[1..])),
            (1, 0, 1)
        );
        drop(asking);
    }

    #[test]
    fn a_trusted_proxy_has_no_share_and_each_of_its_clients_has() {
        let seats = Seats::new(16, 4);
        let proxy = |_| seats.try_take(address("10.0.0.1"), true).ok();
        let mut held: Vec<_> = (0..10).filter_map(proxy).collect();
        assert_eq!(stay(&held), 10);
        let named = held
            .iter_mut()
            .map(|seat| seat.charge_to(address("192.0.2.1")));
        assert_eq!(named.filter(|named| *named).count(), 10);
        assert_eq!(stay(&held), 4);
        drop(held);
        assert_eq!(seats.table().count, 0);
        assert!(seats.table().holders.is_empty());
    }

    #[tokio::test]
    async fn a_connection_without_a_place_waits_for_a_limited_time() {
        let seats = Seats::new(1, 1);
        let first = sit(&seats, "192.0.2.1", 1);
        let (answer, asking) = (first[0].guest.pay(), first[0].guest.ask());
        let come = || seats.let_in(address("192.0.2.2"), false).unwrap();
        assert!(come().seat(Duration::from_millis(20)).await.is_none());
        let line: Vec<_> = (0..WAITING_MAX).map(|_| come()).collect();
        assert!(seats.let_in(address("192.0.2.2"), false).is_none());
        drop(line);
        let waiting = come().seat(Duration::from_secs(20));
        let (second, ()) = tokio::join!(waiting, async move { drop((answer, asking, first)) });
        assert!(second.is_some());
    }
}

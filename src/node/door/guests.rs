//! The connections at the Lightning listener, and the rules by which one is cut to make room for another. Pure except for the
//! tokens that cut a connection.

mod strikes;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::PeersConfig;

use strikes::Strikes;
pub(in crate::node) use strikes::Violation;

/// The most connections of peers without a channel, whatever the settings allow: with 250 such peers LDK accepts no others (its
/// `MAX_NO_CHANNEL_PEERS`), and the peers that this node has dialled come on top.
const WITHOUT_CHANNEL_MAX: usize = 220;

/// The maximum number of peers with a remembered network, 60 bytes each. Beyond it, the table drops peers with
/// expendable connections, and adds them again when they connect.
const PEERS_MAX: usize = 10_000;

/// The period for one network or peer, from its first violation. Too many violations block it until the period ends.
const STRUCK_FOR: Duration = Duration::from_secs(3_600);

/// How often the peers of a network may exceed the limits within [`STRUCK_FOR`]: people make mistakes.
const STRIKES: u32 = 3;

/// The same for this machine, from which all peers connect behind a proxy such as Tor's.
const STRIKES_OF_LOOPBACK: u32 = 60;

/// The most violations by all strangers together within [`ALL_STRUCK_FOR`], because an attacker may use many networks. Beyond it,
/// only kept peers stay connected.
const STRIKES_IN_ALL: u32 = 100;

/// The period for all strangers together: what each violation leaves behind stays for good.
const ALL_STRUCK_FOR: Duration = Duration::from_secs(24 * 3_600);

/// If a peer's connection ended before its peer was known, it is taken to be one of the connections that ended within this time.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// The most such connections that are remembered, each 40 bytes.
const ENDED_MAX: usize = 1_000;

/// The connections.
#[derive(Debug)]
pub(super) struct Guests {
    max: usize,
    of_network_max: usize,
    next: u64,
    /// The connections by their numbers, which follow the order of arrival.
    all: std::collections::BTreeMap<u64, Guest>,
    /// The network that each peer last connected from, and whether its connection is never cut to make room.
    networks: HashMap<PublicKey, (IpAddr, bool)>,
    /// The networks of connections that ended before their peer was known, and when they ended, the newest last.
    ended: VecDeque<(IpAddr, Instant)>,
    /// How often the peers of a network exceeded the limits, and when they first did.
    struck: Strikes<IpAddr>,
    /// The same for each peer.
    struck_peers: Strikes<PublicKey>,
    /// The same for all strangers together.
    struck_in_all: Strikes<()>,
    refused: u64,
}

#[derive(Debug)]
struct Guest {
    from: IpAddr,
    /// The port that ldk-node sees it come from, once it is passed on.
    port: Option<u16>,
    /// Whether its peer has finished the handshake.
    is_shown: bool,
    /// Its peer, once that is known.
    peer: Option<PublicKey>,
    /// Whether it is never cut to make room: its peer has a channel, or the operator chose its peer.
    is_kept: bool,
    cut: CancellationToken,
    /// See [`Entered::released`].
    released: CancellationToken,
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Entered {
    /// Its number.
    pub(super) number: u64,
    /// Cancelled when the connection is to end.
    pub(super) cut: CancellationToken,
    /// Cancelled once everything may pass. While all strangers are blocked, or after violations from the peer's network, ldk-node
    /// first receives only enough to identify the peer.
    pub(super) released: CancellationToken,
}

impl Guests {
    pub(super) fn new(config: &PeersConfig) -> Self {
        Self {
            max: config.connections_max,
            of_network_max: config.connections_per_network.min(config.connections_max),
            next: 0,
            all: std::collections::BTreeMap::new(),
            networks: HashMap::new(),
            ended: VecDeque::new(),
            struck: Strikes::within(STRUCK_FOR),
            struck_peers: Strikes::within(STRUCK_FOR),
            struck_in_all: Strikes::within(ALL_STRUCK_FOR),
            refused: 0,
        }
    }

    /// Admits a connection, and cuts another one if its network, or the whole table, is full. `None` if no connection is
    /// expendable.
    pub(super) fn enter(&mut self, from: IpAddr, now: Instant) -> Option<Entered> {
        let home = network(from);
        let of_home = |guest: &Guest| network(guest.from) == home && !guest.is_kept;
        let count = self.all.values().filter(|guest| of_home(guest)).count();
        let has_room = if count >= self.of_network_max {
            self.make_room(of_home)
        } else if self.all.len() >= self.max || self.without_channel() >= WITHOUT_CHANNEL_MAX {
            // Connections that have not finished the handshake make room first, whatever their network.
            let silent = self.largest_network(|guest| !guest.is_shown);
            let largest = silent.or_else(|| self.largest_network(|_| true));
            self.make_room(|guest| !guest.is_kept && Some(network(guest.from)) == largest)
        } else {
            true
        };
        if !has_room {
            self.refused += 1;
            return None;
        }
        let number = self.next;
        self.next += 1;
        let (cut, released) = (CancellationToken::new(), CancellationToken::new());
        // Also one from this machine, whose limit is higher: a peer that is blocked itself is cut before it asks for channels again.
        let is_suspected = self.struck.is_beyond(&home, STRIKES, now);
        if !is_suspected && !self.is_shut_out(&home, now) {
            released.cancel();
        }
        self.all.insert(
            number,
            Guest {
                from,
                port: None,
                is_shown: false,
                peer: None,
                is_kept: false,
                cut: cut.clone(),
                released: released.clone(),
            },
        );
        Some(Entered {
            number,
            cut,
            released,
        })
    }

    fn is_shut_out(&self, home: &IpAddr, now: Instant) -> bool {
        let max = if home.is_loopback() {
            STRIKES_OF_LOOPBACK
        } else {
            STRIKES
        };
        self.struck.is_beyond(home, max, now) || self.are_all_shut_out(now)
    }

    /// Whether only kept peers connect, because the strangers together exceeded the limits too often.
    pub(super) fn are_all_shut_out(&self, now: Instant) -> bool {
        self.struck_in_all.is_beyond(&(), STRIKES_IN_ALL, now)
    }

    fn without_channel(&self) -> usize {
        self.all.values().filter(|guest| !guest.is_kept).count()
    }

    /// The network with the most expendable connections; among several, the one with the oldest connection.
    fn largest_network(&self, those: impl Fn(&Guest) -> bool) -> Option<IpAddr> {
        let mut counts: HashMap<IpAddr, (usize, Reverse<u64>)> = HashMap::new();
        let may = |guest: &&Guest| !guest.is_kept && those(guest);
        for (number, guest) in self.all.iter().filter(|(_, guest)| may(guest)) {
            let first = (0, Reverse(*number));
            counts.entry(network(guest.from)).or_insert(first).0 += 1;
        }
        let largest = counts.into_iter().max_by_key(|(_, weight)| *weight);
        largest.map(|(network, _)| network)
    }

    /// Cuts the oldest of these connections that has not finished the handshake, otherwise the oldest of all of these; `false` if
    /// there are none.
    fn make_room(&mut self, may: impl Fn(&Guest) -> bool) -> bool {
        let those = || self.all.iter().filter(|(_, guest)| may(guest));
        let number = those()
            .find(|(_, guest)| !guest.is_shown)
            .or_else(|| those().next())
            .map(|(number, _)| *number);
        let Some(guest) = number.and_then(|number| self.all.remove(&number)) else {
            return false;
        };
        guest.cut.cancel();
        self.refused += 1;
        true
    }

    /// Cuts the oldest connection that may be cut, those that have not finished the handshake first.
    pub(super) fn cut_oldest(&mut self) {
        self.make_room(|guest| !guest.is_kept);
    }

    /// Removes a connection that has ended.
    pub(super) fn leave(&mut self, number: u64, now: Instant) {
        let Some(guest) = self.all.remove(&number) else {
            return;
        };
        if guest.is_shown && guest.peer.is_none() {
            self.ended.push_back((network(guest.from), now));
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
    }

    /// Counts a connection that was turned away for another reason.
    pub(super) fn turned_away(&mut self) {
        self.refused += 1;
    }

    /// Notes the port from which a connection reaches ldk-node.
    pub(super) fn passed_on(&mut self, number: u64, port: u16) {
        if let Some(guest) = self.all.get_mut(&number) {
            guest.port = Some(port);
        }
    }

    /// Notes that the peer of a connection has finished the handshake.
    pub(super) fn shown(&mut self, number: u64) {
        if let Some(guest) = self.all.get_mut(&number) {
            guest.is_shown = true;
        }
    }

    /// Notes the peer of each connection, and releases the connection. One from a network that is shut out is cut instead, unless
    /// its peer is kept. A peer that exceeded the limits too often itself is cut, and is not kept for its channel.
    pub(super) fn know(
        &mut self,
        peers: &[ldk_node::PeerDetails],
        keeps: impl Fn(&PublicKey) -> bool,
    ) {
        let by_port: HashMap<u16, PublicKey> = peers
            .iter()
            .filter(|peer| peer.is_connected)
            .filter_map(|peer| Some((loopback_port(&peer.address)?, peer.node_id)))
            .collect();
        let now = Instant::now();
        if self.networks.len() > PEERS_MAX {
            self.networks.retain(|_, (_, is_kept)| *is_kept);
        }
        let mut strangers = Vec::new();
        for guest in self.all.values_mut() {
            let peer = guest.port.and_then(|port| by_port.get(&port));
            let Some(peer) = peer else { continue };
            let is_out = self.struck_peers.is_beyond(peer, STRIKES, now);
            let home = network(guest.from);
            guest.peer = Some(*peer);
            guest.is_kept = keeps(peer) && !is_out;
            self.networks.insert(*peer, (home, guest.is_kept));
            if guest.is_kept {
                guest.released.cancel();
            } else {
                strangers.push((is_out, home, guest.cut.clone(), guest.released.clone()));
            }
        }
        for (is_out, home, cut, released) in strangers {
            if is_out || self.is_shut_out(&home, now) {
                self.refused += u64::from(!cut.is_cancelled());
                cut.cancel();
            } else {
                released.cancel();
            }
        }
    }

    /// The network that this peer last connected from.
    pub(super) fn network_of(&self, peer: &PublicKey) -> Option<IpAddr> {
        self.networks.get(peer).map(|(home, _)| *home)
    }

    /// The address that this peer is connected from.
    pub(super) fn address_of(&self, peer: &PublicKey) -> Option<IpAddr> {
        let mut guests = self.all.values();
        guests
            .find(|guest| guest.peer == Some(*peer))
            .map(|guest| guest.from)
    }

    /// Counts a peer that exceeded the limits on strangers, against itself and its network.
    pub(super) fn strike(&mut self, peer: &PublicKey, violation: Violation, now: Instant) {
        self.struck_peers.add(*peer, violation, now);
        self.struck_in_all.add((), violation, now);
        if let Some(home) = self.network_of(peer) {
            self.struck.add(home, violation, now);
            return;
        }
        // It hung up before its connection was known to be its own. Each ended connection counts for one strike only.
        let ended = std::mem::take(&mut self.ended).into_iter();
        let recent = ended.filter(|(_, at)| now.saturating_duration_since(*at) <= ENDED_WITHIN);
        let homes: HashSet<_> = recent.map(|(home, _)| home).collect();
        for home in homes {
            self.struck.add(home, violation, now);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Connections that were turned away or cut.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

/// The port of an address on loopback.
fn loopback_port(address: &SocketAddress) -> Option<u16> {
    match address {
        SocketAddress::TcpIpV4 { addr, port } if Ipv4Addr::from(*addr).is_loopback() => Some(*port),
        SocketAddress::TcpIpV4 { .. }
        | SocketAddress::TcpIpV6 { .. }
        | SocketAddress::OnionV2(_)
        | SocketAddress::OnionV3 { .. }
        | SocketAddress::Hostname { .. } => None,
    }
}

/// The network of an address, a /24 (IPv4) or a /48 (IPv6): a client that has one address of it is taken to have all of them.
pub(in crate::node) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::reach::testing::peer;
    use super::super::super::strangers::testing::config;
    use super::*;

    fn guests(max: usize, of_network: usize) -> Guests {
        Guests::new(&PeersConfig {
            connections_max: max,
            connections_per_network: of_network,
            ..config()
        })
    }

    fn enter(guests: &mut Guests, from: &str) -> Option<Entered> {
        guests.enter(from.parse().unwrap(), Instant::now())
    }

    /// Makes ldk-node report this connection as that of peer `number`.
    fn known(guests: &mut Guests, entered: &Entered, number: u8, is_kept: bool) {
        let port = 1_000 + u16::from(number);
        guests.passed_on(entered.number, port);
        guests.shown(entered.number);
        let details = ldk_node::PeerDetails {
            node_id: peer(number),
            address: SocketAddress::TcpIpV4 {
                addr: [127, 0, 0, 1],
                port,
            },
            is_persisted: false,
            is_connected: true,
        };
        guests.know(&[details], |_| is_kept);
    }

    #[test]
    fn of_one_network_the_oldest_that_says_nothing_makes_room() {
        let mut guests = guests(100, 3);
        let real = enter(&mut guests, "192.0.2.1").unwrap();
        known(&mut guests, &real, 1, false);
        let idle = enter(&mut guests, "192.0.2.2").unwrap();
        let late = enter(&mut guests, "192.0.2.3").unwrap();
        let fourth = enter(&mut guests, "192.0.2.4").unwrap();
        assert!(idle.cut.is_cancelled() && !real.cut.is_cancelled());
        assert!(!late.cut.is_cancelled() && !fourth.cut.is_cancelled());
        assert_eq!((guests.count(), guests.refused()), (3, 1));
        assert!(enter(&mut guests, "198.51.100.1").is_some());
        assert_eq!(guests.count(), 4);
    }

    #[test]
    fn when_it_is_full_the_largest_network_makes_room_and_who_is_kept_does_not() {
        let mut guests = guests(4, 4);
        let kept = enter(&mut guests, "203.0.113.9").unwrap();
        known(&mut guests, &kept, 1, true);
        let other = enter(&mut guests, "198.51.100.1").unwrap();
        let flood: Vec<_> = (0..2)
            .map(|_| enter(&mut guests, "192.0.2.7").unwrap())
            .collect();
        let new = enter(&mut guests, "203.0.113.8").unwrap();
        assert!(flood[0].cut.is_cancelled() && !flood[1].cut.is_cancelled());
        for entered in [&kept, &other, &new] {
            assert!(!entered.cut.is_cancelled());
        }
        for (number, entered) in [(2, &other), (3, &flood[1]), (4, &new)] {
            known(&mut guests, entered, number, true);
        }
        assert!(enter(&mut guests, "192.0.2.1").is_none());
    }

    #[test]
    fn who_went_beyond_the_bounds_too_often_is_cut_and_who_has_a_channel_is_not() {
        let mut guests = guests(10, 10);
        let bad = enter(&mut guests, "192.0.2.1").unwrap();
        let neighbour = enter(&mut guests, "192.0.2.2").unwrap();
        known(&mut guests, &bad, 1, false);
        for _ in 0..=STRIKES {
            guests.strike(&peer(1), Violation::Channel, Instant::now());
        }
        known(&mut guests, &bad, 1, false);
        assert!(bad.cut.is_cancelled());
        known(&mut guests, &neighbour, 2, true);
        assert!(!neighbour.cut.is_cancelled());
        let far = enter(&mut guests, "192.0.3.2").unwrap();
        known(&mut guests, &far, 3, false);
        assert!(!far.cut.is_cancelled());
    }

    /// Whether a connection from there is admitted and waits until its peer is known.
    fn is_held(guests: &mut Guests, from: &str) -> bool {
        let entered = enter(guests, from).unwrap();
        !entered.released.is_cancelled()
    }

    #[test]
    fn who_hangs_up_at_once_is_shut_out() {
        let mut guests = guests(10, 10);
        for number in 0..=u8::try_from(STRIKES).unwrap() {
            assert!(!is_held(&mut guests, "192.0.2.3"));
            let bad = enter(&mut guests, "192.0.2.1").unwrap();
            guests.passed_on(bad.number, 7);
            guests.shown(bad.number);
            guests.leave(bad.number, Instant::now());
            guests.strike(&peer(100 + number), Violation::Channel, Instant::now());
        }
        assert!(is_held(&mut guests, "192.0.2.1"));
        assert!(!is_held(&mut guests, "192.0.3.1"));
    }

    #[test]
    fn only_kept_peers_of_a_blocked_network_are_released() {
        let mut guests = guests(10, 10);
        let home = network("192.0.2.1".parse().unwrap());
        for _ in 0..=STRIKES {
            guests.struck.add(home, Violation::Channel, Instant::now());
        }
        // It has never connected before.
        let customer = enter(&mut guests, "192.0.2.1").unwrap();
        let stranger = enter(&mut guests, "192.0.2.2").unwrap();
        assert!(!customer.released.is_cancelled() && !stranger.released.is_cancelled());
        known(&mut guests, &customer, 1, true);
        known(&mut guests, &stranger, 2, false);
        assert!(customer.released.is_cancelled() && !customer.cut.is_cancelled());
        assert!(!stranger.released.is_cancelled() && stranger.cut.is_cancelled());
    }

    #[test]
    fn of_this_machine_a_blocked_peer_is_cut_before_it_asks_again_and_others_are_not() {
        let mut guests = guests(10, 10);
        let bad = enter(&mut guests, "127.0.0.1").unwrap();
        known(&mut guests, &bad, 1, false);
        for _ in 0..=STRIKES {
            guests.strike(&peer(1), Violation::Channel, Instant::now());
        }
        let again = enter(&mut guests, "127.0.0.1").unwrap();
        let other = enter(&mut guests, "127.0.0.1").unwrap();
        assert!(!again.released.is_cancelled() && !other.released.is_cancelled());
        known(&mut guests, &again, 1, false);
        known(&mut guests, &other, 2, false);
        assert!(again.cut.is_cancelled() && !again.released.is_cancelled());
        assert!(other.released.is_cancelled() && !other.cut.is_cancelled());
    }

    #[test]
    fn a_channel_does_not_keep_a_peer_that_goes_beyond_the_bounds_itself() {
        let mut guests = guests(10, 10);
        let bad = enter(&mut guests, "192.0.2.1").unwrap();
        known(&mut guests, &bad, 1, true);
        let other = enter(&mut guests, "192.0.2.9").unwrap();
        known(&mut guests, &other, 2, true);
        for _ in 0..=STRIKES {
            guests.strike(&peer(1), Violation::Channel, Instant::now());
        }
        known(&mut guests, &bad, 1, true);
        known(&mut guests, &other, 2, true);
        assert!(bad.cut.is_cancelled() && !other.cut.is_cancelled());
        guests.leave(bad.number, Instant::now());
        assert!(is_held(&mut guests, "192.0.2.1"));
    }

    #[test]
    fn strangers_of_many_networks_are_shut_out_together_and_kept_peers_are_not() {
        let mut guests = guests(300, 10);
        for number in 1..=u8::try_from(STRIKES_IN_ALL).unwrap() + 1 {
            let bad = enter(&mut guests, &format!("198.51.{number}.1")).unwrap();
            assert!(bad.released.is_cancelled());
            known(&mut guests, &bad, number, false);
            guests.strike(&peer(number), Violation::Channel, Instant::now());
        }
        assert!(guests.are_all_shut_out(Instant::now()));
        let stranger = enter(&mut guests, "192.0.2.1").unwrap();
        known(&mut guests, &stranger, 200, false);
        assert!(stranger.cut.is_cancelled());
        let customer = enter(&mut guests, "203.0.113.9").unwrap();
        known(&mut guests, &customer, 201, true);
        assert!(customer.released.is_cancelled() && !customer.cut.is_cancelled());
        let later = Instant::now() + ALL_STRUCK_FOR + Duration::from_secs(1);
        assert!(!guests.are_all_shut_out(later));
    }

    #[test]
    fn a_refused_channel_counts_less_than_one_that_is_given_up() {
        let mut guests = guests(10, 10);
        let honest = enter(&mut guests, "192.0.2.1").unwrap();
        known(&mut guests, &honest, 1, false);
        for _ in 0..STRIKES * Violation::Channel.weight() {
            guests.strike(&peer(1), Violation::Refused, Instant::now());
        }
        known(&mut guests, &honest, 1, false);
        assert!(!honest.cut.is_cancelled());
        guests.strike(&peer(1), Violation::Refused, Instant::now());
        known(&mut guests, &honest, 1, false);
        assert!(honest.cut.is_cancelled());
    }

    #[test]
    fn a_network_is_a_24_or_a_48() {
        for (address, home) in [
            ("192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2::3", "2001:db8:1::"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(network(address), home.parse::<IpAddr>().unwrap());
        }
    }
}

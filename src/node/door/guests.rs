//! The connections at the Lightning listener, and the rules by which one is cut to make room for
//! another. Pure except for the tokens that cut a connection.

mod strikes;

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::node::config::PeersConfig;

use strikes::Strikes;
pub(in crate::node) use strikes::Violation;

/// The maximum number of connections of peers without a channel, whatever the settings allow. With
/// 250 such peers LDK accepts no others (its `MAX_NO_CHANNEL_PEERS`), and the peers that this node
/// has dialled count as well.
const WITHOUT_CHANNEL_MAX: usize = 220;

/// The maximum number of peers with a remembered network, 60 bytes each. Beyond it, the table drops
/// peers that are not kept, and adds them again when they connect.
const PEERS_MAX: usize = 10_000;

/// The period for one network or peer, from its first violation on. Too many violations block the
/// network or peer until the period ends.
const STRUCK_FOR: Duration = Duration::from_secs(3_600);

/// The number of violations that the peers of a network may commit within [`STRUCK_FOR`], because
/// people make mistakes.
const STRIKES: u32 = 3;

/// The number of violations that peers may commit from this machine's own address. Behind a proxy
/// such as Tor's, all peers connect from there.
const STRIKES_OF_LOOPBACK: u32 = 60;

/// The number of violations that all strangers together may commit within [`ALL_STRUCK_FOR`],
/// because an attacker may use many networks. Beyond it, only kept peers stay connected.
const STRIKES_IN_ALL: u32 = 100;

/// The period in which the violations of all strangers add up. It is long, because each violation
/// leaves permanent data behind.
const ALL_STRUCK_FOR: Duration = Duration::from_secs(24 * 3_600);

/// A peer may hang up before ldk-node reports which connection was its own. Its violation then
/// counts against the networks of all connections that ended within this time.
const ENDED_WITHIN: Duration = Duration::from_secs(10);

/// The maximum number of remembered connections that ended before their peer was known, each 40
/// bytes.
const ENDED_MAX: usize = 1_000;

/// The connections at the listener.
#[derive(Debug)]
pub(super) struct Guests {
    max: usize,
    of_network_max: usize,
    next: u64,
    /// The connections by number, in the order of arrival.
    all: std::collections::BTreeMap<u64, Guest>,
    /// The network from which each peer last connected, and whether the peer is kept: its
    /// connection is never cut to make room.
    networks: HashMap<PublicKey, (IpAddr, bool)>,
    /// The networks of connections that ended before their peer was known, and when they ended, the
    /// newest last.
    ended: VecDeque<(IpAddr, Instant)>,
    /// The violations by the peers of each network.
    struck: Strikes<IpAddr>,
    /// The violations by each peer.
    struck_peers: Strikes<PublicKey>,
    /// The violations by all strangers together.
    struck_in_all: Strikes<()>,
    refused: u64,
}

#[derive(Debug)]
struct Guest {
    from: IpAddr,
    /// The port from which the connection reaches ldk-node, once it is passed on.
    port: Option<u16>,
    /// Whether the peer has finished the handshake.
    is_shown: bool,
    /// The peer, once it is known.
    peer: Option<PublicKey>,
    /// Whether the connection is never cut to make room, because its peer has a channel or was
    /// chosen by the operator.
    is_kept: bool,
    cut: CancellationToken,
    /// See [`Entered::released`].
    released: CancellationToken,
}

/// A connection that was let in.
#[derive(Debug)]
pub(super) struct Entered {
    /// The connection's number.
    pub(super) number: u64,
    /// Cancelled when the connection is to end.
    pub(super) cut: CancellationToken,
    /// Cancelled once all bytes may pass. While all strangers are blocked, or after violations from
    /// the peer's network, ldk-node first receives only enough bytes to identify the peer.
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

    /// Admits a connection. If its network or the whole table is full, another connection is cut.
    /// Returns `None` if no connection may be cut.
    pub(super) fn enter(&mut self, from: IpAddr, now: Instant) -> Option<Entered> {
        let home = network(from);
        let of_home = |guest: &Guest| network(guest.from) == home && !guest.is_kept;
        let count = self.all.values().filter(|guest| of_home(guest)).count();
        let has_room = if count >= self.of_network_max {
            self.make_room(of_home)
        } else if self.all.len() >= self.max || self.without_channel() >= WITHOUT_CHANNEL_MAX {
            // Connections that have not finished the handshake are cut first, whatever their
            // network.
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
        // Connections from this machine are held after the same number of violations, although its
        // limit is higher. So a peer that is itself blocked is cut before it requests channels
        // again.
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

    /// Whether only kept peers may stay connected, because all strangers together exceeded the
    /// limits too often.
    pub(super) fn are_all_shut_out(&self, now: Instant) -> bool {
        self.struck_in_all.is_beyond(&(), STRIKES_IN_ALL, now)
    }

    fn without_channel(&self) -> usize {
        self.all.values().filter(|guest| !guest.is_kept).count()
    }

    /// The network with the most connections that may be cut; among equals, the one with the oldest
    /// connection.
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

    /// Cuts one of these connections: the oldest that has not finished the handshake, otherwise the
    /// oldest of all. Returns `false` if no connection matches.
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

    /// Cuts the oldest connection that may be cut, preferring those that have not finished the
    /// handshake.
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

    /// Notes the peer of each connection, and releases the connection. If the network is blocked
    /// and the peer is not kept, the connection is cut instead. A peer that itself exceeded the
    /// limits too often is cut even if it has a channel.
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

    /// The address from which this peer is connected.
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
        // The peer hung up before its connection was identified. Each ended connection counts for
        // one violation only.
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

    /// The number of connections that were turned away or cut.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

/// The port of a loopback address; `None` for any other address.
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

/// The network of an address, a /24 (IPv4) or a /48 (IPv6). A client with one address in it may
/// have all the others, too.
pub(in crate::node) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << 8)).into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 80)).into(),
    }
}

#[cfg(test)]
mod tests;

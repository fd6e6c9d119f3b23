//! The Lightning listener, in front of ldk-node's own listener on loopback. ldk-node's listener
//! ends for good when the system first runs out of file descriptors (ldk-node 0.7.1 unwraps the
//! result of `accept`). It also accepts connections without a limit. Remove this file when ldk-node
//! has fixed both.
//!
//! The door cannot read the encrypted bytes that pass through. So it learns the peer of a
//! connection from ldk-node, by the port from which the connection reaches ldk-node.

mod guests;

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::secp256k1::PublicKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::config::Config;
use super::error::NodeError;

pub(super) use guests::Violation;
use guests::{Entered, Guests};

/// The maximum time for a peer to finish the handshake (BOLT 8: three messages, of which the peer
/// sends two).
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);

/// The size in bytes of the first message of BOLT 8, and of the answer to it.
const ACT_BYTES: usize = 50;

/// The version byte at the beginning of the first message.
const ACT_VERSION: u8 = 0;

/// The maximum number of bytes from a peer of a blocked network before ldk-node has identified it.
/// That is enough for the last message of the handshake (66 bytes) and for `init` (some 100 bytes;
/// BOLT 1). It is not enough for a whole `open_channel` after them (353 bytes after at least 40;
/// BOLT 2).
const UNKNOWN_BYTES: u64 = 400;

/// The pause before the next accept after the operating system ran out of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The number of file descriptors that must be free before another connection is passed on to
/// ldk-node, which does not survive running out of them.
const DESCRIPTORS_SPARE: usize = 16;

/// The maximum time for ldk-node to accept a connection on loopback.
const ONWARD_WITHIN: Duration = Duration::from_secs(5);

/// The minimum time between two log lines about a fault of the listener, and between two restarts
/// of the node because of a fault.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The listener.
#[derive(Debug)]
pub(super) struct Door {
    /// The address at which ldk-node listens.
    onward: SocketAddr,
    /// The connections. A `std` mutex: held to compare a few hundred of them, never across an
    /// await.
    guests: Mutex<Guests>,
    /// The current fault, and when it was last logged. A `std` mutex: held to copy a line, never
    /// across an await.
    fault: Mutex<Option<(String, Instant)>>,
    /// Notified when ldk-node's listener is dead, so that the node must be restarted.
    is_dead: Notify,
}

/// The state of the listener.
#[derive(Clone, Debug, Default)]
pub(super) struct DoorStatus {
    /// The number of connections now.
    pub(super) connections: usize,
    /// The number of connections that were turned away or cut.
    pub(super) refused: u64,
    /// Whether Tollhouse blocks all strangers without a confirmed channel, because strangers
    /// exceeded the limits too often.
    pub(super) is_shut: bool,
    /// The current fault.
    pub(super) fault: Option<String>,
}

impl Door {
    /// A door that does not listen yet; `None` if the settings have no address for it.
    pub(super) fn of(config: &Config) -> Option<Self> {
        if config.listen.is_empty() {
            return None;
        }
        let onward = free_port().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        Some(Self {
            guests: Mutex::new(Guests::new(&config.peers)),
            onward,
            fault: Mutex::default(),
            is_dead: Notify::new(),
        })
    }

    /// The address at which ldk-node has to listen.
    pub(super) fn onward(&self) -> SocketAddr {
        self.onward
    }

    /// Binds the addresses.
    pub(super) async fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, NodeError> {
        let mut listeners = Vec::new();
        for address in addresses {
            let bound = TcpListener::bind(address).await;
            listeners.push(bound.map_err(|source| NodeError::Listen {
                address: *address,
                source,
            })?);
        }
        Ok(listeners)
    }

    /// Accepts peers until `stop`. `is_running` says whether ldk-node listens.
    pub(super) async fn run(
        self: &Arc<Self>,
        listeners: Vec<TcpListener>,
        is_running: watch::Receiver<bool>,
        stop: CancellationToken,
    ) {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let (door, is_running) = (Arc::clone(self), is_running.clone());
            let stop = stop.clone();
            accepting.spawn(async move { door.accept(listener, is_running, stop).await });
        }
        while accepting.join_next().await.is_some() {}
    }

    async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        is_running: watch::Receiver<bool>,
        stop: CancellationToken,
    ) {
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, from)) => {
                    let Some(guest) = self.guests().enter(from.ip(), Instant::now()) else {
                        continue;
                    };
                    let (door, is_running) = (Arc::clone(&self), is_running.clone());
                    let stop = stop.clone();
                    connections.spawn(async move {
                        tokio::select! {
                            () = door.pass(stream, &guest, &is_running) => {}
                            () = guest.cut.cancelled() => {}
                            () = stop.cancelled() => {}
                        }
                        door.guests().leave(guest.number, Instant::now());
                    });
                }
                Err(error) => {
                    // In most cases the file descriptors have run out. Cutting a connection frees
                    // some. Connections that have not finished the handshake are cut first.
                    self.guests().cut_oldest();
                    self.tell(format!("failed to accept a Lightning peer: {error}"));
                    sleep_until(Instant::now() + ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Passes a connection on to ldk-node, then copies bytes both ways until the connection ends.
    async fn pass(&self, stream: TcpStream, guest: &Entered, is_running: &watch::Receiver<bool>) {
        let deadline = Instant::now() + HANDSHAKE_WITHIN;
        let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let (mut from_peer, mut to_peer) = stream.into_split();
        // A peer that does not send its first message costs ldk-node nothing.
        let mut act = [0; ACT_BYTES];
        let begun = timeout(until(deadline), from_peer.read_exact(&mut act)).await;
        if !matches!(begun, Ok(Ok(_))) || act[0] != ACT_VERSION || !*is_running.borrow() {
            return;
        }
        let Some(onward) = self.dial(is_running).await else {
            return;
        };
        if let Ok(address) = onward.local_addr() {
            self.guests().passed_on(guest.number, address.port());
        }
        let _ = from_peer.as_ref().set_nodelay(true);
        let _ = onward.set_nodelay(true);
        let (mut from_ldk, mut to_ldk) = onward.into_split();
        let up = async {
            to_ldk.write_all(&act).await?;
            if !guest.released.is_cancelled() {
                let mut first = (&mut from_peer).take(UNKNOWN_BYTES);
                copy(&mut first, &mut to_ldk).await?;
                if first.limit() > 0 {
                    return Ok(0);
                }
                guest.released.cancelled().await;
            }
            copy(&mut from_peer, &mut to_ldk).await
        };
        let down = async {
            // After its answer, ldk-node sends nothing more until the peer has finished the
            // handshake.
            let mut buffer = vec![0; ACT_BYTES];
            from_ldk.read_exact(&mut buffer).await?;
            to_peer.write_all(&buffer).await?;
            let mut first = vec![0; 1_024];
            let read = timeout(until(deadline), from_ldk.read(&mut first)).await;
            let count = read.map_err(|_| std::io::ErrorKind::TimedOut)??;
            if count == 0 {
                return Ok(0);
            }
            self.guests().shown(guest.number);
            to_peer.write_all(&first[..count]).await?;
            drop(first);
            copy(&mut from_ldk, &mut to_peer).await
        };
        // If one direction ends, the other ends, too: Lightning has no half-closed connections.
        let _ended: std::io::Result<u64> = tokio::select! {
            ended = up => ended,
            ended = down => ended,
        };
    }

    /// Connects to ldk-node.
    async fn dial(&self, is_running: &watch::Receiver<bool>) -> Option<TcpStream> {
        if !are_descriptors_left() {
            self.guests().turned_away();
            self.tell(
                "too few file descriptors are left to let in a Lightning peer: raise the limit (systemd: LimitNOFILE)"
                    .to_owned(),
            );
            return None;
        }
        let mut dialled = timeout(ONWARD_WITHIN, TcpStream::connect(self.onward)).await;
        if matches!(&dialled, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused) {
            // One retry, because the node is restarted after the second failure.
            sleep_until(Instant::now() + ACCEPT_PAUSE).await;
            dialled = timeout(ONWARD_WITHIN, TcpStream::connect(self.onward)).await;
        }
        match dialled {
            Ok(Ok(stream)) => {
                self.heal();
                Some(stream)
            }
            Ok(Err(_)) | Err(_) if !*is_running.borrow() => None,
            Ok(Err(error)) => {
                let what = format!("the node's own listener takes no connection ({error})");
                // Other errors come from this system, and a restarted node would meet them, too.
                if self.tell(what) && error.kind() == ErrorKind::ConnectionRefused {
                    self.is_dead.notify_one();
                }
                None
            }
            Err(_) => {
                self.tell("the node's own listener does not answer".to_owned());
                None
            }
        }
    }

    /// Waits until ldk-node's listener is found dead. Only a restart of the node repairs it.
    pub(super) async fn dead(&self) {
        self.is_dead.notified().await;
    }

    /// Notes the peer of each connection, by the port from which it reaches ldk-node. `keeps` says
    /// which peers' connections are never cut to make room.
    pub(super) fn know(&self, peers: &[ldk_node::PeerDetails], keeps: impl Fn(&PublicKey) -> bool) {
        self.guests().know(peers, keeps);
    }

    /// The network that a peer last connected from.
    pub(super) fn network_of(&self, peer: &PublicKey) -> Option<IpAddr> {
        self.guests().network_of(peer)
    }

    /// The address of a peer that ldk-node sees on loopback.
    pub(super) fn address_of(&self, peer: &PublicKey) -> Option<IpAddr> {
        self.guests().address_of(peer)
    }

    /// Counts a peer that exceeded the limits on strangers.
    pub(super) fn strike(&self, peer: &PublicKey, violation: Violation) {
        let now = Instant::now();
        let mut guests = self.guests();
        let were_out = guests.are_all_shut_out(now);
        guests.strike(peer, violation, now);
        if guests.are_all_shut_out(now) && !were_out {
            tracing::warn!(
                "Strangers exceeded the channel limits too often: for up to a day, only peers with a confirmed channel, providers, and \
                 peers that you trust or dialled can connect"
            );
        }
    }

    pub(super) fn status(&self) -> DoorStatus {
        let guests = self.guests();
        DoorStatus {
            connections: guests.count(),
            refused: guests.refused(),
            is_shut: guests.are_all_shut_out(Instant::now()),
            fault: self.fault().as_ref().map(|(what, _)| what.clone()),
        }
    }

    /// Logs a fault, unless one was logged within [`TELL_EVERY`] and still exists. Returns whether
    /// it logged it.
    fn tell(&self, what: String) -> bool {
        let mut fault = self.fault();
        let now = Instant::now();
        let is_told = fault
            .as_ref()
            .is_some_and(|(_, told)| now < *told + TELL_EVERY);
        if is_told {
            return false;
        }
        tracing::error!("{} (peers that are connected stay)", sentence(&what));
        *fault = Some((what, now));
        true
    }

    /// Ends the fault: a connection to ldk-node has succeeded.
    fn heal(&self) {
        let mut fault = self.fault();
        if fault
            .as_ref()
            .is_some_and(|(_, told)| told.elapsed() > ACCEPT_PAUSE)
        {
            *fault = None;
            tracing::info!("Lightning peers are let in again");
        }
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fault(&self) -> MutexGuard<'_, Option<(String, Instant)>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The text with a capital first letter.
fn sentence(what: &str) -> String {
    let mut chars = what.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// An unused port on a random loopback address. ldk-node binds it some seconds later if the chain
/// source is slow. On 127.0.0.1, a connection of any program could take the port meanwhile, and the
/// node would not start. Systems other than Linux may have no other loopback address.
fn free_port() -> std::io::Result<SocketAddr> {
    let mut drawn = [0; 3];
    let address = match getrandom::fill(&mut drawn) {
        Ok(()) => Ipv4Addr::new(127, drawn[0], drawn[1], drawn[2].clamp(1, 254)),
        Err(_) => Ipv4Addr::LOCALHOST,
    };
    let bound = std::net::TcpListener::bind((address, 0));
    let bound = bound.or_else(|_| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    bound?.local_addr()
}

/// Whether [`DESCRIPTORS_SPARE`] files can be opened now.
fn are_descriptors_left() -> bool {
    let opened: std::io::Result<Vec<_>> = (0..DESCRIPTORS_SPARE)
        .map(|_| std::fs::File::open("/dev/null"))
        .collect();
    opened.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_port_for_the_node_is_at_an_address_that_no_other_program_uses() {
        let drawn: Vec<_> = (0..8).map(|_| free_port().unwrap().ip()).collect();
        assert!(drawn.iter().all(IpAddr::is_loopback), "{drawn:?}");
        let others = drawn.iter().filter(|ip| **ip != Ipv4Addr::LOCALHOST);
        assert_eq!(others.count(), 8, "{drawn:?}");
    }

    /// Connects a blocked peer, and returns its end of the connection and ldk-node's end.
    async fn shut_out(
        door: &Arc<Door>,
        entered: Entered,
        tasks: &mut JoinSet<()>,
    ) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap());
        let (peer, accepted) = tokio::join!(peer, listener.accept());
        let ldk = TcpListener::bind(door.onward).await.unwrap();
        let passing = Arc::clone(door);
        tasks.spawn(async move {
            let (_running, is_running) = watch::channel(true);
            passing
                .pass(accepted.unwrap().0, &entered, &is_running)
                .await;
        });
        let mut peer = peer.unwrap();
        peer.write_all(&[ACT_VERSION; ACT_BYTES]).await.unwrap();
        let (mut node, _) = ldk.accept().await.unwrap();
        node.read_exact(&mut [0; ACT_BYTES]).await.unwrap();
        node.write_all(&[0; ACT_BYTES]).await.unwrap();
        (peer, node)
    }

    #[tokio::test]
    async fn a_blocked_peer_cannot_request_a_channel_before_it_is_identified() {
        let door = Arc::new(Door {
            onward: free_port().unwrap(),
            guests: Mutex::new(Guests::new(&super::super::strangers::testing::config())),
            fault: Mutex::default(),
            is_dead: Notify::new(),
        });
        let entered = Entered {
            number: 0,
            cut: CancellationToken::new(),
            released: CancellationToken::new(),
        };
        let released = entered.released.clone();
        let mut tasks = JoinSet::new();
        let (mut peer, mut node) = shut_out(&door, entered, &mut tasks).await;
        let sent = [7; 1_000];
        peer.write_all(&sent).await.unwrap();
        let mut first = vec![0; usize::try_from(UNKNOWN_BYTES).unwrap()];
        node.read_exact(&mut first).await.unwrap();
        let more = timeout(Duration::from_millis(100), node.read_u8()).await;
        assert!(more.is_err(), "no byte more");
        released.cancel();
        let mut rest = vec![0; sent.len() - first.len()];
        node.read_exact(&mut rest).await.unwrap();
        drop(peer);
        assert_eq!(node.read(&mut [0; 1]).await.unwrap(), 0);
    }
}

//! The Lightning listener, in front of ldk-node's own, which is on loopback: that one ends for good when the system is out of file
//! descriptors once (ldk-node 0.7.1 unwraps `accept`), and takes connections without bound. Remove when ldk-node does better.
//!
//! What passes through is encrypted; whose connection it is, ldk-node tells by the port that it comes from.

mod guests;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bitcoin::secp256k1::PublicKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{Config, NodeError};

use guests::Guests;

/// How long a peer may take until it has shown who it is (BOLT 8: three messages, of which it sends two).
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(15);

/// The first message of BOLT 8, and the answer to it, in bytes.
const ACT_BYTES: usize = 50;

/// The version that the first message begins with.
const ACT_VERSION: u8 = 0;

/// How long to wait before accepting again when the operating system is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// File descriptors that must be free before another connection is passed on to ldk-node, which does not survive to find none.
const DESCRIPTORS_SPARE: usize = 16;

/// How long ldk-node may take to accept on loopback.
const ONWARD_WITHIN: Duration = Duration::from_secs(5);

/// The least time between two lines in the log about what goes wrong here, and between two restarts of the node for it.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// The listener.
#[derive(Debug)]
pub(super) struct Door {
    /// Where ldk-node listens.
    onward: SocketAddr,
    /// A `std` mutex: held to compare a few hundred connections, never across an await.
    guests: Mutex<Guests>,
    /// What is wrong, since when it was last told. A `std` mutex: held to copy a line.
    fault: Mutex<Option<(String, Instant)>>,
    /// ldk-node's listener is gone: another node is wanted.
    is_dead: Notify,
}

/// How it does.
#[derive(Clone, Debug, Default)]
pub(super) struct DoorStatus {
    /// Connections now.
    pub(super) connections: usize,
    /// Connections that were turned away or cut.
    pub(super) refused: u64,
    /// What is wrong with it.
    pub(super) fault: Option<String>,
}

impl Door {
    /// A door that is not opened yet; `None` if the node listens nowhere.
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

    /// Where ldk-node has to listen.
    pub(super) fn onward(&self) -> SocketAddr {
        self.onward
    }

    /// Takes the ports.
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

    /// Lets peers in until told to stop. `is_running` says whether ldk-node listens.
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
                            () = door.pass(stream, guest.number, &is_running) => {}
                            () = guest.cut.cancelled() => {}
                            () = stop.cancelled() => {}
                        }
                        door.guests().leave(guest.number, Instant::now());
                    });
                }
                Err(error) => {
                    // Out of descriptors, as a rule: who has not shown who it is makes room.
                    self.guests().cut_oldest();
                    self.tell(format!("failed to accept a Lightning peer: {error}"));
                    sleep_until(Instant::now() + ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Passes a connection on to ldk-node, and bytes both ways until it ends.
    async fn pass(&self, stream: TcpStream, number: u64, is_running: &watch::Receiver<bool>) {
        let deadline = Instant::now() + HANDSHAKE_WITHIN;
        let until = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        let (mut from_peer, mut to_peer) = stream.into_split();
        // Who does not begin to speak costs ldk-node nothing.
        let mut act = [0; ACT_BYTES];
        let begun = timeout(until(deadline), from_peer.read_exact(&mut act)).await;
        if !matches!(begun, Ok(Ok(_))) || act[0] != ACT_VERSION || !*is_running.borrow() {
            return;
        }
        let Some(onward) = self.dial(is_running).await else {
            return;
        };
        if let Ok(address) = onward.local_addr() {
            self.guests().passed_on(number, address.port());
        }
        let _ = from_peer.as_ref().set_nodelay(true);
        let _ = onward.set_nodelay(true);
        let (mut from_ldk, mut to_ldk) = onward.into_split();
        let up = async {
            to_ldk.write_all(&act).await?;
            copy(&mut from_peer, &mut to_ldk).await
        };
        let down = async {
            // What ldk-node says after its answer it says to a peer that it knows.
            let mut buffer = vec![0; ACT_BYTES];
            from_ldk.read_exact(&mut buffer).await?;
            to_peer.write_all(&buffer).await?;
            let mut first = vec![0; 1_024];
            let read = timeout(until(deadline), from_ldk.read(&mut first)).await;
            let count = read.map_err(|_| std::io::ErrorKind::TimedOut)??;
            if count == 0 {
                return Ok(0);
            }
            self.guests().shown(number);
            to_peer.write_all(&first[..count]).await?;
            drop(first);
            copy(&mut from_ldk, &mut to_peer).await
        };
        // When one side has ended, so has the other: Lightning knows no half-closed connection.
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
            // Asked twice, before anybody is restarted for it.
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
                // Any other error is this system's, and another node would meet it, too.
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

    /// Waits until ldk-node's listener is found dead, which only another node mends.
    pub(super) async fn dead(&self) {
        self.is_dead.notified().await;
    }

    /// Notes which connection is whose, by the ports that ldk-node sees them come from. `keeps` says who is not to make room.
    pub(super) fn know(&self, peers: &[ldk_node::PeerDetails], keeps: impl Fn(&PublicKey) -> bool) {
        self.guests().know(peers, keeps);
    }

    /// The network that a peer came from last.
    pub(super) fn network_of(&self, peer: &PublicKey) -> Option<IpAddr> {
        self.guests().network_of(peer)
    }

    /// Where a peer is that ldk-node sees on loopback.
    pub(super) fn address_of(&self, peer: &PublicKey) -> Option<IpAddr> {
        self.guests().address_of(peer)
    }

    /// A peer went beyond the bounds of strangers.
    pub(super) fn strike(&self, peer: &PublicKey) {
        self.guests().strike(peer, Instant::now());
    }

    pub(super) fn status(&self) -> DoorStatus {
        let guests = self.guests();
        DoorStatus {
            connections: guests.count(),
            refused: guests.refused(),
            fault: self.fault().as_ref().map(|(what, _)| what.clone()),
        }
    }

    /// Tells what is wrong, not too often; `true` if it was told.
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

    /// It works.
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

/// With a capital.
fn sentence(what: &str) -> String {
    let mut chars = what.chars();
    let first = chars.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

/// A port of loopback that nobody uses. ldk-node takes it a moment later.
fn free_port() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// Whether so many files could be opened now.
fn are_descriptors_left() -> bool {
    let opened: std::io::Result<Vec<_>> = (0..DESCRIPTORS_SPARE)
        .map(|_| std::fs::File::open("/dev/null"))
        .collect();
    opened.is_ok()
}

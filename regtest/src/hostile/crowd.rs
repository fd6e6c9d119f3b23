//! Peers that complete the handshake and then stay idle: LDK limits how many peers without a channel it keeps, and refuses all
//! others beyond that.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use ldk_node::lightning::ln::peer_handler::{
    ErroringMessageHandler, IgnoringMessageHandler, MessageHandler, PeerManager,
};
use ldk_node::lightning::sign::KeysManager;
use ldk_node::lightning::util::logger::{Logger, Record};
use lightning_net_tokio::{SocketDescriptor, setup_outbound};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{Instant, sleep_until};

use super::sockets;
use crate::parent;
use crate::payer::Peer;

/// How long the runtime's tasks may take to end.
const RUNTIME_STOP: Duration = Duration::from_secs(1);
/// How long a handshake may take on a busy machine.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// The time between two checks whether the handshake is done.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A logger that drops the log lines of a peer, which a test does not need.
struct Silent;

impl Logger for Silent {
    fn log(&self, _: Record<'_>) {}
}

/// One peer, which handles no channels, no gossip and no onion messages.
type Peers = PeerManager<
    SocketDescriptor,
    Arc<ErroringMessageHandler>,
    Arc<IgnoringMessageHandler>,
    Arc<IgnoringMessageHandler>,
    Arc<Silent>,
    Arc<IgnoringMessageHandler>,
    Arc<KeysManager>,
    Arc<IgnoringMessageHandler>,
>;

/// Connected peers, each with an id of its own; dropping the value disconnects them.
pub struct Crowd {
    peers: Vec<Arc<Peers>>,
    runtime: Option<Runtime>,
}

impl std::fmt::Debug for Crowd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Crowd")
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

impl Crowd {
    /// Connects this many peers, one after the other, all from an address that no other peer in a test uses. Refused connections
    /// are left out.
    ///
    /// # Errors
    /// When this process has no more sockets.
    pub async fn connect(to: Peer, count: u16) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("crowd")
            .enable_all()
            .build()
            .context("failed to build the crowd's runtime")?;
        let mut peers = Vec::new();
        for number in 0..count {
            let Some(stream) = sockets::connect(to.address).await? else {
                continue;
            };
            let stream = stream.into_std().context("failed to take a socket over")?;
            let peer = Arc::new(peer(number));
            runtime.spawn(setup_outbound(Arc::clone(&peer), to.node_id, stream));
            let end = Instant::now() + HANDSHAKE_DEADLINE;
            while peer.list_peers().is_empty() && Instant::now() < end {
                sleep_until(Instant::now() + LOOK_AGAIN).await;
            }
            peers.push(peer);
        }
        Ok(Self {
            peers,
            runtime: Some(runtime),
        })
    }

    /// The number of peers that the merchant keeps connected.
    #[must_use]
    pub fn left(&self) -> usize {
        let is_connected = |peer: &&Arc<Peers>| !peer.list_peers().is_empty();
        self.peers.iter().filter(is_connected).count()
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            parent::off_runtime(|| runtime.shutdown_timeout(RUNTIME_STOP));
        }
    }
}

/// The peer with this number.
fn peer(number: u16) -> Peers {
    let mut seed = [3; 32];
    seed[..2].copy_from_slice(&number.to_be_bytes());
    let keys = Arc::new(KeysManager::new(&seed, 0, 0, true));
    let handlers = MessageHandler {
        chan_handler: Arc::new(ErroringMessageHandler::new()),
        route_handler: Arc::new(IgnoringMessageHandler {}),
        onion_message_handler: Arc::new(IgnoringMessageHandler {}),
        custom_message_handler: Arc::new(IgnoringMessageHandler {}),
        send_only_message_handler: Arc::new(IgnoringMessageHandler {}),
    };
    Peers::new(handlers, 0, &seed, Arc::new(Silent), keys)
}

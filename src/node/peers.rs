//! The peers of the node.

use std::sync::Arc;

use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;
use serde::Serialize;
use utoipa::ToSchema;

use super::channel_error::ChannelError;
use super::core::Core;
use super::door::Door;
use super::operation::{OperationError, refused};
use super::peer_address::PeerAddress;
use super::strangers::Strangers;

/// A peer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Peer {
    /// The peer's node id, hex.
    pub node_id: String,
    /// The peer's address.
    pub address: String,
    /// Whether the peer is connected.
    pub is_connected: bool,
}

/// The peers of the node.
#[derive(Debug)]
pub struct Peers {
    core: Arc<Core>,
    strangers: Strangers,
    /// The door that lets peers connect; `None` if `node.listen` is empty.
    door: Option<Arc<Door>>,
}

impl Peers {
    pub(super) fn new(core: &Arc<Core>, strangers: &Strangers, door: Option<&Arc<Door>>) -> Self {
        Self {
            core: Arc::clone(core),
            strangers: strangers.clone(),
            door: door.cloned(),
        }
    }

    /// The peers that the node knows.
    pub async fn list(&self) -> Result<Vec<Peer>, OperationError> {
        let door = self.door.clone();
        self.core
            .read("list the peers", move |node| {
                Ok(shown_peers(node, door.as_deref()))
            })
            .await
    }

    /// The peers that the node knows. Takes locks of the node.
    pub(super) fn of(&self, node: &ldk_node::Node) -> Vec<Peer> {
        shown_peers(node, self.door.as_deref())
    }

    /// Connects to a peer. If `is_kept`, the node also connects to it after each start.
    pub async fn connect(&self, peer: PeerAddress, is_kept: bool) -> Result<(), ChannelError> {
        let standings = self.strangers.standings().clone();
        self.core
            .operate("connect to the peer", move |node| {
                let address = dialled(node, &peer)?;
                standings.choose(peer.node_id);
                let connected = node.connect(peer.node_id, address, is_kept);
                connected.map_err(|error| unreachable("connect to the peer", &peer.node_id, error))
            })
            .await
    }

    /// Disconnects a peer and forgets it. A peer with a channel reconnects by itself, or is dialled
    /// again when it is needed.
    pub async fn disconnect(&self, node_id: &str) -> Result<(), ChannelError> {
        let peer: PeerAddress = node_id.parse()?;
        self.core
            .operate("disconnect the peer", move |node| {
                let disconnected = node.disconnect(peer.node_id);
                Ok(disconnected.map_err(refused("disconnect the peer"))?)
            })
            .await
    }
}

/// The address to dial: the given one, or the last known one.
pub(super) fn dialled(
    node: &ldk_node::Node,
    peer: &PeerAddress,
) -> Result<SocketAddress, ChannelError> {
    if let Some(address) = &peer.address {
        return Ok(address.clone());
    }
    let known = node.list_peers().into_iter();
    let mut known = known.filter(|known| known.node_id == peer.node_id);
    known
        .next()
        .map(|known| known.address)
        .ok_or_else(|| ChannelError::NoAddressOfPeer(peer.node_id.to_string()))
}

/// The operator's error for a failed connection.
pub(super) fn unreachable(
    what: &'static str,
    node_id: &PublicKey,
    error: ldk_node::NodeError,
) -> ChannelError {
    let is_unreachable = matches!(
        error,
        ldk_node::NodeError::ConnectionFailed | ldk_node::NodeError::InvalidSocketAddress
    );
    if is_unreachable {
        return ChannelError::PeerUnreachable(node_id.to_string());
    }
    refused(what)(error).into()
}

impl From<&ldk_node::PeerDetails> for Peer {
    fn from(peer: &ldk_node::PeerDetails) -> Self {
        Self {
            node_id: peer.node_id.to_string(),
            address: peer.address.to_string(),
            is_connected: peer.is_connected,
        }
    }
}

/// The peers with the addresses that they connected from. For ldk-node, they all connect from
/// loopback.
fn shown_peers(node: &ldk_node::Node, door: Option<&Door>) -> Vec<Peer> {
    let address = |peer: &ldk_node::PeerDetails| {
        let door = door.filter(|_| peer.is_connected)?;
        door.address_of(&peer.node_id)
    };
    let shown = |peer: &ldk_node::PeerDetails| match address(peer) {
        None => Peer::from(peer),
        Some(address) => Peer {
            address: address.to_string(),
            ..Peer::from(peer)
        },
    };
    node.list_peers().iter().map(shown).collect()
}

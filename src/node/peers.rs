//! Peers: whom the node speaks to.

use std::str::FromStr;

use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;

use super::Node;
use super::operation::{OperationError, refused};

/// A node, and where it is reached if that is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its id.
    pub(super) node_id: PublicKey,
    /// Where it listens.
    pub(super) address: Option<SocketAddress>,
}

impl FromStr for PeerAddress {
    type Err = OperationError;

    /// Reads `ID@HOST:PORT`, or `ID` for one that is known already.
    fn from_str(text: &str) -> Result<Self, OperationError> {
        let not_a_peer = || OperationError::NotAPeer(text.to_owned());
        let (node_id, address) = match text.trim().split_once('@') {
            Some((node_id, address)) => (node_id, Some(address)),
            None => (text.trim(), None),
        };
        let address = address.map(SocketAddress::from_str).transpose();
        Ok(Self {
            node_id: node_id.parse().map_err(|_| not_a_peer())?,
            address: address.map_err(|_| not_a_peer())?,
        })
    }
}

impl Node {
    /// Connects to a peer, now and, if it is to be kept, after each start.
    pub async fn connect(&self, peer: PeerAddress, is_kept: bool) -> Result<(), OperationError> {
        let standings = self.strangers.standings().clone();
        self.operate("connect to the peer", move |node| {
            let address = dialled(node, &peer)?;
            standings.choose(peer.node_id);
            let connected = node.connect(peer.node_id, address, is_kept);
            connected.map_err(|error| unreachable("connect to the peer", &peer.node_id, error))
        })
        .await
    }

    /// Lets go of a peer and forgets it. A peer with a channel comes back by itself, or is asked back when it is wanted.
    pub async fn disconnect(&self, node_id: &str) -> Result<(), OperationError> {
        let peer: PeerAddress = node_id.parse()?;
        self.operate("disconnect the peer", move |node| {
            let disconnected = node.disconnect(peer.node_id);
            disconnected.map_err(refused("disconnect the peer"))
        })
        .await
    }
}

/// Where to dial: where it was said to be, or where it was the last time.
pub(super) fn dialled(
    node: &ldk_node::Node,
    peer: &PeerAddress,
) -> Result<SocketAddress, OperationError> {
    if let Some(address) = &peer.address {
        return Ok(address.clone());
    }
    let known = node.list_peers().into_iter();
    let mut known = known.filter(|known| known.node_id == peer.node_id);
    known
        .next()
        .map(|known| known.address)
        .ok_or_else(|| OperationError::NoAddressOfPeer(peer.node_id.to_string()))
}

/// What a failed connection means.
pub(super) fn unreachable(
    what: &'static str,
    node_id: &PublicKey,
    error: ldk_node::NodeError,
) -> OperationError {
    let is_unreachable = matches!(
        error,
        ldk_node::NodeError::ConnectionFailed | ldk_node::NodeError::InvalidSocketAddress
    );
    if is_unreachable {
        return OperationError::PeerUnreachable(node_id.to_string());
    }
    refused(what)(error)
}

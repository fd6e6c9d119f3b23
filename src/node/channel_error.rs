//! The errors of operations on channels and peers.

use super::operation::OperationError;
use super::wallet_error::WalletError;

/// The amount exceeds what the channels can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked_msat} msat are more than the {sendable_msat} msat that the channels can send now")]
pub struct AboveChannels {
    /// The requested amount.
    pub asked_msat: u64,
    /// The amount that can be sent.
    pub sendable_msat: u64,
}

/// The reasons why nothing was done with a channel or a peer.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The node did not do it.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The wallet cannot pay for it.
    #[error(transparent)]
    Wallet(#[from] WalletError),
    /// The amount exceeds what the channels can send.
    #[error(transparent)]
    AboveChannels(#[from] AboveChannels),
    /// The channel does not exist.
    #[error("there is no channel {0}; `tollhouse channels list` shows those that there are")]
    NoChannel(String),
    /// The channel's peer is offline, or the channel is not ready.
    #[error("the peer of channel {0} is away, or the channel is not ready: nothing was done")]
    PeerAway(String),
    /// The address of the peer is unknown.
    #[error("peer {0} is not known here: say where it is, as in ID@HOST:PORT")]
    NoAddressOfPeer(String),
    /// The text does not name a peer.
    #[error("`{0}` names no peer: write it as ID@HOST:PORT, the id being 66 hex digits")]
    NotAPeer(String),
    /// The connection to the peer failed.
    #[error(
        "peer {0} takes no connection, or says nothing on it: is the address right, and is it running?"
    )]
    PeerUnreachable(String),
    /// An announced channel needs a node alias and an address in the settings.
    #[error(
        "an announced channel needs `node.alias` and `node.listen` in the settings; a private one does not"
    )]
    NotAnnounceable,
}

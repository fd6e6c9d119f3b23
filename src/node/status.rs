//! The status of the node for the operator.

use serde::Serialize;
use utoipa::ToSchema;

use crate::channel_state::vss::StoreStatus;

use super::chain::status::ChainStatus;
use super::channels::Channel;
use super::closed::Balances;
use super::peers::Peer;
use super::recovery::progress::{OldChannel, Recovery};
use super::strangers::StrangersStatus;

/// The current status of the node.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Status {
    /// Whether the node runs.
    pub running: bool,
    /// The node's phase, in words.
    pub phase: String,
    /// The time since which the node runs or waits, Unix seconds.
    pub since_secs: Option<u64>,
    /// The network's name in the settings.
    pub network: String,
    /// The node id, hex.
    pub node_id: Option<String>,
    /// The addresses on which the node accepts peers.
    pub p2p: Vec<String>,
    /// The node's peers, and whether they are connected.
    pub peers: Vec<Peer>,
    /// The node's channels.
    pub channels: Vec<Channel>,
    /// The limits for peers that the operator did not choose, and their current use.
    pub strangers: StrangersStatus,
    /// The node's money.
    pub balances: Option<Balances>,
    /// The address for on-chain deposits.
    pub deposit_address: Option<String>,
    /// The amount that can arrive now, in msat.
    pub inbound_msat: u64,
    /// The reason why nothing can be sold now, and the remedy; `None` while the node can sell.
    pub unready: Option<String>,
    /// The time when the node last read the chain for its channels, Unix seconds.
    pub lightning_synced_secs: Option<u64>,
    /// The time when the node last read the chain for its wallet, Unix seconds.
    pub onchain_synced_secs: Option<u64>,
    /// The height of the best block that the node knows.
    pub block_height: Option<u32>,
    /// The progress of a recovery from a backup, while there is one.
    pub recovery: Option<Recovery>,
    /// The chain source.
    pub chain: ChainStatus,
    /// Old channels that a recovery left unclosed, as found within the last hour.
    pub unclosed_old_channels: Vec<OldChannel>,
    /// The server that keeps the channels' state, if there is one.
    pub store: Option<StoreStatus>,
    /// The time when money, peers and channels were read, Unix seconds.
    pub described_secs: Option<u64>,
    /// Whether the node waits for its store, so that money, peers and channels may be out of date.
    pub is_stuck: bool,
}

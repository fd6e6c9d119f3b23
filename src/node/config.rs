//! What the node needs to know.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::secp256k1::PublicKey;

use crate::chain::ChainConfig;
use crate::channel_state::vss::Vss;

use super::{WithdrawConfig, liquidity};

/// What the node needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network.
    pub network: Network,
    /// What the settings call the network; of custom signets there are several.
    pub preset: String,
    /// Where ldk-node keeps its state.
    pub folder: PathBuf,
    /// What the node is called in gossip; empty for nothing.
    pub alias: String,
    /// Who keeps the channels' state, if not the folder.
    pub vss: Option<Vss>,
    /// Where peers connect to; empty for nowhere.
    pub listen: Vec<SocketAddr>,
    /// Where the chain is read from.
    pub chain: ChainConfig,
    /// Where money above a threshold goes.
    pub withdraw: Option<WithdrawConfig>,
    /// What is kept on chain to pay for closing channels.
    pub reserve: Reserve,
    /// What peers that the operator did not choose may do.
    pub peers: PeersConfig,
    /// Where the map of the network comes from.
    pub gossip: Gossip,
    /// Who provides inbound liquidity.
    pub liquidity: liquidity::Config,
}

/// Coins kept on chain for each channel, to close it and to claim payments from a peer that cheats. An anchor channel that
/// would need more than there is, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing for channels with trusted peers, [`RESERVE_SAT`] for each other one.
    None,
    /// The same, said by an operator who names at least one trusted peer.
    Trusted,
    /// This much for every channel.
    PerChannel {
        /// In sat.
        sat: u64,
    },
}

/// Where the map of the network comes from, which only outgoing payments over several hops need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gossip {
    /// From nowhere.
    None,
    /// From nowhere until it is wanted; then from this server, or from peers where none is known.
    Auto(Option<String>),
    /// Fetched whole from this server at the start, and what is new once an hour.
    Rapid(String),
    /// Told by peers, all of it.
    PeerToPeer,
}

/// Coins kept for a channel with a peer that is not trusted, in sat. At 10 sat/vB they pay for a commitment transaction with
/// its anchor (500 vB) and for claiming some seven payments in flight (280 vB each). It is ldk-node's own default.
pub const RESERVE_SAT: u64 = 25_000;

/// What peers that the operator did not choose may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeersConfig {
    /// Whether any peer may open a channel, or only those that the operator trusts or has dialled.
    pub anyone_opens: bool,
    /// Peers that are trusted as the liquidity providers are.
    pub trusted: Vec<PublicKey>,
    /// The smallest channel that a stranger may open, in sat.
    pub channel_min_sat: u64,
    /// The largest, in sat.
    pub channel_max_sat: u64,
    /// Channels of strangers that may wait for confirmations at once.
    pub pending_max: usize,
    /// The same of one peer.
    pub pending_per_peer: usize,
    /// How long the funding of such a channel may stay unseen.
    pub pending_timeout: Duration,
    /// Channels of strangers in all.
    pub channels_max: usize,
    /// The same of one peer.
    pub channels_per_peer: usize,
    /// The same of the peers of one network.
    pub channels_per_network: usize,
    /// Connections to `listen` at once.
    pub connections_max: usize,
    /// The same from one network, of peers without a channel.
    pub connections_per_network: usize,
    /// Payments without an invoice (keysend) that are remembered; the oldest are forgotten.
    pub keysends_max: usize,
}

//! The settings of the node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::secp256k1::PublicKey;

use crate::base::amount::Msat;
use crate::chain::{ChainConfig, ChainSource};
use crate::channel_state::vss::Vss;
use crate::sell::quote::InvoiceSource;

use super::liquidity::settings as liquidity;

/// The settings of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network.
    pub network: Network,
    /// The name of the network in the settings. There can be several custom signets.
    pub preset: String,
    /// The folder of ldk-node's state.
    pub folder: PathBuf,
    /// The node's name in gossip; empty for none.
    pub alias: String,
    /// The server that keeps the channels' state; `None` to keep it in the folder.
    pub vss: Option<Vss>,
    /// The addresses on which the node accepts peers; empty for none.
    pub listen: Vec<SocketAddr>,
    /// The chain source.
    pub chain: ChainConfig,
    /// The settings for withdrawing money above a threshold.
    pub withdraw: Option<WithdrawConfig>,
    /// The coins kept on chain to pay for closing channels.
    pub reserve: Reserve,
    /// The limits for peers that the operator did not choose.
    pub peers: PeersConfig,
    /// The source of the network map.
    pub gossip: Gossip,
    /// The providers of inbound liquidity.
    pub liquidity: liquidity::Config,
}

impl Config {
    /// Whether the wallet receives mempool transactions every two seconds, and not only at a sync.
    pub(super) fn sees_mempool(&self) -> bool {
        matches!(self.chain.source, ChainSource::Bitcoind(_))
    }
}

/// The settings of the automatic withdrawal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WithdrawConfig {
    /// The threshold, which applies to the channels and to the wallet separately.
    pub above: Msat,
    /// The amount that is left after a withdrawal.
    pub keep: Msat,
    /// The interval between two checks.
    pub every: Duration,
    /// The destination.
    pub to: WithdrawTo,
}

/// The destination of a withdrawal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WithdrawTo {
    /// This address. On-chain money goes there by a transaction, channel money by a splice.
    Address(String),
    /// Invoices from this source, for channel money only.
    Invoices(InvoiceSource),
}

/// The coins kept on chain for each channel, to close it and to claim payments from a peer that
/// cheats. The node refuses an anchor channel if its coins do not suffice for the reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing for channels with trusted peers, [`RESERVE_SAT`] for every other channel.
    None,
    /// The same as `None`, set explicitly by an operator who names at least one trusted peer.
    Trusted,
    /// The same amount for every channel.
    PerChannel {
        /// The amount in sat.
        sat: u64,
    },
}

/// The source of the network map, which is needed only for outgoing payments over several hops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gossip {
    /// No map.
    None,
    /// No map until a payment needs one. Then the map comes from this server, or from peers if no
    /// server is given.
    Auto(Option<String>),
    /// A snapshot from this server at the start, and updates once an hour.
    Rapid(String),
    /// Gossip from peers.
    PeerToPeer,
}

/// The coins kept for a channel with an untrusted peer, in sat. At 10 sat/vB they pay for a
/// commitment transaction with its anchor (500 vB), and for claiming about seven payments in flight
/// (280 vB each). This is ldk-node's own default.
pub const RESERVE_SAT: u64 = 25_000;

/// The limits for peers that the operator did not choose, which are called strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeersConfig {
    /// Whether any peer may open a channel, or only a peer that the operator trusts or has dialled.
    pub anyone_opens: bool,
    /// Peers that are trusted as much as the liquidity providers.
    pub trusted: Vec<PublicKey>,
    /// The smallest channel that a stranger may open, in sat.
    pub channel_min_sat: u64,
    /// The largest channel that a stranger may open, in sat.
    pub channel_max_sat: u64,
    /// The maximum number of channels of strangers that may wait for confirmations at once.
    pub pending_max: usize,
    /// The maximum number of such channels of one peer.
    pub pending_per_peer: usize,
    /// The longest time that the funding of such a channel may stay unseen.
    pub pending_timeout: Duration,
    /// The maximum number of channels of strangers.
    pub channels_max: usize,
    /// The maximum number of channels of one stranger.
    pub channels_per_peer: usize,
    /// The maximum number of channels of strangers from one network.
    pub channels_per_network: usize,
    /// The maximum number of connections to `listen` at once.
    pub connections_max: usize,
    /// The maximum number of connections from one network by peers without a channel.
    pub connections_per_network: usize,
    /// The maximum number of records of payments without an invoice (keysend). The oldest records
    /// are deleted.
    pub keysends_max: usize,
}

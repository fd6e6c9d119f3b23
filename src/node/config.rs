//! What the node needs to know.

use std::net::SocketAddr;
use std::path::PathBuf;

use bitcoin::Network;

use super::vss::Vss;
use super::{ChainConfig, WithdrawConfig, liquidity};

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
    /// Where the map of the network comes from.
    pub gossip: Gossip,
    /// Who provides inbound liquidity.
    pub liquidity: liquidity::Config,
}

/// What is kept on chain to pay for closing channels. A channel that would need more than there is, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing: a force-close pays with what there is.
    None,
    /// Nothing for channels of the liquidity providers, which are trusted to get closings confirmed; ldk-node's default for
    /// others.
    Trusted,
    /// So much for every channel.
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

//! The manifest at the beginning of a backup: its time, its node, and the parts that follow.

use serde::{Deserialize, Serialize};

/// The folders from which a backup contains files, as prefixes of the parts' names.
pub(super) const NODE: &str = "node";
pub(super) const LEDGER: &str = "ledger";
pub(super) const SETTINGS: &str = "settings";
/// The file of the seed words, which is in every backup.
pub(super) const WORDS: &str = "seed.words";

/// The table of contents of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// When the backup was made, Unix seconds.
    pub created_secs: u64,
    /// The version of the program that made the backup.
    pub created_by: String,
    /// The Bitcoin network of the node.
    pub network: String,
    /// The node id, in hex.
    pub node_id: String,
    /// The block height up to which the node's channels knew the chain.
    pub height: Option<u32>,
    /// Whether the program had stopped cleanly and was not started again before the backup was
    /// made.
    pub is_clean_stop: bool,
    /// Whether the node was recovering from an older backup when this one was made.
    #[serde(default)]
    pub is_recovering: bool,
    /// The server that keeps the channel state, if the state is not in the backup. The server
    /// always has the newest state.
    #[serde(default)]
    pub channels_on: Option<String>,
    /// The channels with a monitor, including those that a recovery has set aside.
    pub channels: Vec<ChannelEntry>,
    /// The parts of the backup, in their order.
    pub parts: Vec<PartEntry>,
}

/// A channel, as its monitor knew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelEntry {
    /// The channel id, in hex.
    pub channel_id: String,
    /// The peer's node id, in hex.
    pub counterparty: String,
    /// The funding output of the channel.
    pub funding: String,
    /// The number of updates of its monitor.
    pub update_id: u64,
    /// The node's balance in the channel, in sat.
    pub balance_sat: u64,
}

/// A file in the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// The path of the file relative to the data folder.
    pub name: String,
    /// The length of the file.
    pub bytes: u64,
    /// The SHA-256 of the file, in hex.
    pub sha256: String,
}

//! What stands at the beginning of a backup: when, of what, and which parts follow.

use serde::{Deserialize, Serialize};

/// The parts of the old folders that a backup has files of.
pub(super) const NODE: &str = "node";
pub(super) const LEDGER: &str = "ledger";
pub(super) const SETTINGS: &str = "settings";
/// The words' file, which is in every backup.
pub(super) const WORDS: &str = "seed.words";

/// A backup's table of contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// When it was made, Unix seconds.
    pub created_secs: u64,
    /// The version of the program that made it.
    pub created_by: String,
    /// The network.
    pub network: String,
    /// The node, hex.
    pub node_id: String,
    /// The block up to which the node's channels knew the chain.
    pub height: Option<u32>,
    /// Whether the program had ended in good order and was not started again before it was made.
    pub is_clean_stop: bool,
    /// Whether the node was recovering from an older backup when it was made.
    #[serde(default)]
    pub is_recovering: bool,
    /// Where the channels' state is, if it is not in the backup: on this server, always the newest.
    #[serde(default)]
    pub channels_on: Option<String>,
    /// Channels with a monitor, those included that a recovery has set aside.
    pub channels: Vec<ChannelEntry>,
    /// What follows, in this order.
    pub parts: Vec<PartEntry>,
}

/// A channel, as its monitor knew it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelEntry {
    /// Its id, hex.
    pub channel_id: String,
    /// Who is at the other end, hex.
    pub counterparty: String,
    /// The output that holds its money.
    pub funding: String,
    /// How many changes its monitor has seen.
    pub update_id: u64,
    /// What is ours in it, in sat.
    pub balance_sat: u64,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// Where it belongs in the data folder.
    pub name: String,
    /// How long it is.
    pub bytes: u64,
    /// Its SHA-256, hex.
    pub sha256: String,
}

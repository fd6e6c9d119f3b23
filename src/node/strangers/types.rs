//! The types of the channels, with anchors or without, and their last comparison with the coins.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use lightning::ln::types::ChannelId;
use tokio::time::Instant;

use crate::base::{error_chain, secret_file};
use crate::channel_state::copy;
use crate::keys::NodeKeys;

use super::super::config::Config;

/// The file in the node's folder that lists the anchor channels, one per line. It is used only if a
/// server stores the channels' state.
const ANCHORED: &str = "channels.anchored";

/// The last comparison of the channels with the coins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Covered {
    pub(super) at: Instant,
    /// The number of strangers' channels at the comparison.
    pub(super) channels: usize,
    /// When the wallet had last synced with the chain, Unix seconds. Its coins change with a sync.
    pub(super) read_secs: Option<u64>,
}

/// The types of the channels, with anchors or without; the type of a channel never changes.
#[derive(Debug)]
pub(super) struct Types {
    source: Source,
    pub(super) known: HashMap<ChannelId, bool>,
}

/// The source of the types.
#[derive(Debug)]
enum Source {
    /// The monitors in this folder.
    Monitors(PathBuf, Box<NodeKeys>),
    /// The wallet's coins at the opening, because a server stores the monitors. ldk-node accepts no
    /// anchor channel while coins are missing, so a channel that was opened without coins has no
    /// anchors. This file lists the anchor channels; any other channel is taken to have none.
    Coins(PathBuf),
}

impl Types {
    pub(super) fn of(config: &Config, keys: &NodeKeys) -> Self {
        if config.vss.is_none() {
            return Self::in_folder(&config.folder, keys);
        }
        let file = config.folder.join(ANCHORED);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let anchored = text.lines().filter_map(|line| {
            let id: [u8; 32] = hex::decode(line).ok()?.try_into().ok()?;
            Some((ChannelId(id), true))
        });
        Self {
            known: anchored.collect(),
            source: Source::Coins(file),
        }
    }

    pub(super) fn in_folder(folder: &Path, keys: &NodeKeys) -> Self {
        Self {
            source: Source::Monitors(folder.to_owned(), Box::new(keys.clone())),
            known: HashMap::new(),
        }
    }

    /// Whether `opened` need not be called for this channel.
    pub(super) fn knows(&self, channel: &ChannelId) -> bool {
        match &self.source {
            Source::Monitors(..) => true,
            Source::Coins(_) => self.known.contains_key(channel),
        }
    }

    /// Notes a new channel, and whether the wallet had coins for anchors when the channel was
    /// accepted. Blocks on the disk.
    pub(super) fn opened(&mut self, channel: ChannelId, has_coins: bool) {
        let Source::Coins(file) = &self.source else {
            return;
        };
        if self.known.contains_key(&channel) {
            return;
        }
        self.known.insert(channel, has_coins);
        if !has_coins {
            return;
        }
        let anchored = self.known.iter().filter(|(_, has)| **has);
        let lines: String = anchored.map(|(id, _)| format!("{id}\n")).collect();
        if let Err(error) = secret_file::replace(file, &lines) {
            tracing::warn!("Failed to write {}: {error}", file.display());
        }
    }

    /// Whether this channel has anchors. Blocks on the disk for a new channel.
    pub(super) fn has_anchors(&mut self, channel: &ChannelId) -> bool {
        let (folder, keys) = match &self.source {
            Source::Monitors(folder, keys) => (folder, keys),
            Source::Coins(_) => return self.known.get(channel).copied().unwrap_or(false),
        };
        if !self.known.contains_key(channel) {
            match copy::anchors(folder, keys) {
                Ok(found) => self.known = found,
                Err(error) => {
                    tracing::warn!(
                        "Failed to read of which kind the channels are: {}",
                        error_chain::chain(&error)
                    );
                }
            }
            // Each channel is looked up once, even if it is not found.
            self.known.entry(*channel).or_insert(true);
        }
        self.known.get(channel).copied().unwrap_or(true)
    }
}

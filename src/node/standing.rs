//! The standing of a peer: trusted, chosen by the operator, or a stranger. Any peer that finds the
//! port can connect and open a channel. So the standing decides which channels the node relies on,
//! how payers reach it and which coins it reserves on chain.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitcoin::secp256k1::PublicKey;
use ldk_node::ChannelDetails;
use serde::Serialize;
use utoipa::ToSchema;

use super::config::Config;
use crate::base::secret_file;

/// The file with the peers that the operator dialled or opened a channel with, one node id a line,
/// in the node's folder.
const FILE: &str = "peers.chosen";

/// The maximum number of chosen peers that are remembered. Each takes 67 bytes in the file, and an
/// operator does not dial that many by hand.
const CHOSEN_MAX: usize = 1_000;

/// The standing of a peer, from the most to the least trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// A liquidity provider, or a peer that `node.peers` names. Its channels need no coins on
    /// chain.
    Trusted,
    /// A peer that the operator dialled or opened a channel with.
    Chosen,
    /// Any other peer.
    Stranger,
}

/// The standings of the peers. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Standings {
    trusted: Arc<BTreeSet<PublicKey>>,
    /// A `std` mutex: held for a look-up, or while a short file is written on a thread that may
    /// block.
    chosen: Arc<Mutex<Chosen>>,
}

#[derive(Debug)]
struct Chosen {
    file: PathBuf,
    peers: BTreeSet<PublicKey>,
}

impl Standings {
    /// Builds the standings from these settings, and from the peers that the operator chose in
    /// earlier runs.
    pub(super) fn of(config: &Config) -> Self {
        Self::in_folder(&config.folder, trusted(config))
    }

    /// Builds the standings from these trusted peers, and from the chosen peers in this folder.
    pub(super) fn in_folder(folder: &Path, trusted: impl IntoIterator<Item = PublicKey>) -> Self {
        let file = folder.join(FILE);
        let peers = read(&file).unwrap_or_else(|error| {
            tracing::warn!("Failed to read {}: {error}", file.display());
            BTreeSet::new()
        });
        Self {
            trusted: Arc::new(trusted.into_iter().collect()),
            chosen: Arc::new(Mutex::new(Chosen { file, peers })),
        }
    }

    /// The standing of this peer.
    pub(super) fn of_peer(&self, peer: &PublicKey) -> Standing {
        if self.trusted.contains(peer) {
            Standing::Trusted
        } else if self.chosen().peers.contains(peer) {
            Standing::Chosen
        } else {
            Standing::Stranger
        }
    }

    /// The standing of this channel's peer. Only the operator opens channels from this node, so the
    /// peer of an outbound channel is not a stranger.
    pub(super) fn of_channel(&self, channel: &ChannelDetails) -> Standing {
        match self.of_peer(&channel.counterparty_node_id) {
            Standing::Stranger if channel.is_outbound => Standing::Chosen,
            standing @ (Standing::Trusted | Standing::Chosen | Standing::Stranger) => standing,
        }
    }

    /// The number of peers that the settings trust.
    pub(super) fn trusted_count(&self) -> usize {
        self.trusted.len()
    }

    /// Remembers a peer that the operator chose. Blocks on the disk.
    pub(super) fn choose(&self, peer: PublicKey) {
        let mut chosen = self.chosen();
        if chosen.peers.len() >= CHOSEN_MAX || !chosen.peers.insert(peer) {
            return;
        }
        let lines: String = chosen.peers.iter().map(|id| format!("{id}\n")).collect();
        if let Err(error) = secret_file::replace(&chosen.file, &lines) {
            tracing::warn!("Failed to write {}: {error}", chosen.file.display());
        }
    }

    fn chosen(&self) -> MutexGuard<'_, Chosen> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The peers that the settings trust: their channels need no coins on chain.
pub(super) fn trusted(config: &Config) -> impl Iterator<Item = PublicKey> {
    let providers = config.liquidity.providers().map(|it| it.node_id);
    providers.chain(config.peers.trusted.iter().copied())
}

/// Reads the node ids, one a line. A line that is not a node id is skipped.
fn read(file: &Path) -> io::Result<BTreeSet<PublicKey>> {
    let text = secret_file::read_list(file)?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

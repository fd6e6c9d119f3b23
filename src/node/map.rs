//! The map of the network, which only payments that go out over several hops need: put off until the first of them wants it.
//!
//! ldk-node settles at its building where gossip comes from. So the node is built to want none, and built again, in the same
//! process, when a map is wanted; from then on it fetches what is new like any other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};
use utoipa::ToSchema;

use super::{Gossip, Node, NodeUnavailable};

/// Notes in the node's folder that a map was wanted once: the next start fetches one at once.
const FILE: &str = "gossip.wanted";

/// How long a map may take: a second for the node, some megabytes for the snapshot, and a slow line.
const DEADLINE: Duration = Duration::from_secs(60);

/// How often it is looked whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How large the map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Map {
    /// Nodes on it.
    pub nodes: usize,
    /// Channels on it.
    pub channels: usize,
}

/// Why there is no map.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// None is wanted.
    #[error(
        "there is no map of the network: node.gossip is \"none\". Write \"auto\", and start the program again"
    )]
    NotWanted,
    /// It did not come.
    #[error(
        "no map of the network was fetched within {} seconds: is the server of snapshots there? The log says more. It is tried again \
         every hour, and at every start",
        DEADLINE.as_secs()
    )]
    NotFetched,
    /// That it is wanted cannot be noted.
    #[error("failed to note that a map is wanted")]
    Note(#[source] std::io::Error),
    /// The node.
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
}

impl Gossip {
    /// Where the map comes from now: from nowhere as long as it is put off.
    pub(super) fn now(&self, folder: &Path) -> Self {
        let Self::Auto(url) = self else {
            return self.clone();
        };
        match url {
            _ if !folder.join(FILE).exists() => Self::None,
            Some(url) => Self::Rapid(url.clone()),
            None => Self::PeerToPeer,
        }
    }
}

impl Node {
    /// Sees to it that there is a map, for whoever pays somebody more than one hop away. If it was put off until now, the
    /// node stops and starts for it: for a second it cannot be paid, and payments under way go on after that.
    pub async fn fetch_map(&self) -> Result<Map, MapError> {
        self.uses_channels()?;
        let (gossip, folder) = (&self.config.gossip, &self.config.folder);
        if *gossip == Gossip::None {
            return Err(MapError::NotWanted);
        }
        // Weak, because it must go: but its place in memory is not given to another node meanwhile.
        let before = Arc::downgrade(&self.running()?);
        let was_put_off = gossip.now(folder) == Gossip::None;
        if was_put_off {
            let file = folder.join(FILE);
            let noted =
                tokio::task::spawn_blocking(move || std::fs::File::create(file)?.sync_all());
            let noted = noted.await.map_err(NodeUnavailable::Panicked)?;
            noted.map_err(MapError::Note)?;
            tracing::info!("A map of the network is wanted: the node starts again, to fetch it");
            self.another_wanted.notify_one();
        }
        let is_fetched = matches!(gossip.now(folder), Gossip::Rapid(_));
        let there = async {
            let mut tick = interval(LOOK_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Ok(node) = self.running() else { continue };
                if was_put_off && Arc::downgrade(&node).ptr_eq(&before) {
                    continue;
                }
                let graph = node.network_graph();
                let map = Map {
                    nodes: graph.list_nodes().len(),
                    channels: graph.list_channels().len(),
                };
                // Peers tell theirs by and by; a snapshot is there, all of it, when its time is noted. (Of one whose time was noted
                // before a kill, and which was not, nothing may be there.)
                let is_noted = node.status().latest_rgs_snapshot_timestamp.is_some();
                if !is_fetched || (is_noted && map.channels > 0) {
                    return map;
                }
            }
        };
        timeout(DEADLINE, there)
            .await
            .map_err(|_| MapError::NotFetched)
    }
}

//! The map of the network, which only outgoing payments over several hops need. It is not fetched
//! until the first of these payments.
//!
//! ldk-node fixes its gossip source when it is built. So the node is first built without gossip,
//! and built again in the same process when a map is needed. From then on, it fetches updates like
//! any other node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval, timeout};
use utoipa::ToSchema;

use super::config::Gossip;
use super::core::Core;
use super::error::NodeUnavailable;

/// The file in the node's folder that records that a map was needed once. The next start then
/// fetches a map at once.
const FILE: &str = "gossip.wanted";

/// The longest time to get a map: a second for the node, and the time to load some megabytes over a
/// slow line.
const DEADLINE: Duration = Duration::from_secs(60);

/// The interval at which the code checks whether the map is complete.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The size of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Map {
    /// The number of nodes on the map.
    pub nodes: usize,
    /// The number of channels on the map.
    pub channels: usize,
}

/// The reasons why the map is missing.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The settings exclude a map.
    #[error(
        "there is no map of the network: node.gossip is \"none\". Write \"auto\", and start the program again"
    )]
    NotWanted,
    /// The map did not arrive in time.
    #[error(
        "no map of the network was fetched within {} seconds: is the server of snapshots there? The log says more. It is tried again \
         every hour, and at every start",
        DEADLINE.as_secs()
    )]
    NotFetched,
    /// The need for a map could not be recorded.
    #[error("failed to note that a map is wanted")]
    Note(#[source] std::io::Error),
    /// The node is unavailable.
    #[error(transparent)]
    Node(#[from] NodeUnavailable),
}

impl Gossip {
    /// The gossip source to use now. For `Auto`, this is `None` until a payment has needed the
    /// network graph.
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

/// Fetches the map of the network.
#[derive(Debug)]
pub(super) struct NetworkMap {
    core: Arc<Core>,
}

impl NetworkMap {
    pub(super) fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
        }
    }

    /// Ensures that there is a map, for payments over more than one hop. If the map was put off
    /// until now, the node restarts to fetch it. For about a second the node cannot receive
    /// payments; payments in flight continue afterwards.
    pub(super) async fn fetch(&self) -> Result<Map, MapError> {
        self.core.uses_channels()?;
        let (gossip, folder) = (&self.core.config.gossip, &self.core.config.folder);
        if *gossip == Gossip::None {
            return Err(MapError::NotWanted);
        }
        // The weak reference lets the old node be dropped, but prevents another node from getting
        // its memory address.
        let before = Arc::downgrade(&self.core.running()?);
        let was_put_off = gossip.now(folder) == Gossip::None;
        if was_put_off {
            let file = folder.join(FILE);
            let noted =
                tokio::task::spawn_blocking(move || std::fs::File::create(file)?.sync_all());
            let noted = noted.await.map_err(NodeUnavailable::Panicked)?;
            noted.map_err(MapError::Note)?;
            tracing::info!("A map of the network is wanted: the node starts again, to fetch it");
            self.core.restart();
        }
        let is_fetched = matches!(gossip.now(folder), Gossip::Rapid(_));
        let there = async {
            let mut tick = interval(LOOK_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let Ok(node) = self.core.running() else {
                    continue;
                };
                if was_put_off && Arc::downgrade(&node).ptr_eq(&before) {
                    continue;
                }
                let graph = node.network_graph();
                let map = Map {
                    nodes: graph.list_nodes().len(),
                    channels: graph.list_channels().len(),
                };
                // Gossip from peers arrives bit by bit, so an incomplete map is accepted. A
                // snapshot is complete once its time is recorded. (If the program was killed
                // between recording the time and storing the snapshot, the map may be empty.)
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

//! The source of the node's chain data: Esplora APIs behind our own relay, an Electrum server, or
//! the operator's bitcoind.

mod behind;
mod block_clock;
mod fee_rate;
mod status;
mod watch;

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use bitcoin::Network;
use ldk_node::config::{ElectrumSyncConfig, EsploraSyncConfig};

use crate::base::clock::Clock;
use crate::chain::bitcoind::Credentials;
use crate::chain::esplora::{self, Relay};
use crate::chain::{Bitcoind, ChainSource};

use super::{Config, NodeError};

pub use status::ChainStatus;
pub use watch::{CLOCK_OFF_SECS, clock_minutes};

pub(super) use behind::judged;
pub(super) use watch::{Looks, keep};

/// The node's state for its chain source, at run time.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// The relay in front of Esplora APIs, once it is open.
    relay: OnceLock<Arc<Relay>>,
    /// The results of the syncs. A `std` mutex: held to copy a few words, never across an await.
    looks: Mutex<Looks>,
    /// A time that has certainly passed, for sources whose servers do not report their time. A
    /// `std` mutex: never held across an await.
    passed: Mutex<Option<block_clock::Passed>>,
}

impl Chain {
    /// The relay in front of Esplora APIs, if the source has them and it is open.
    pub(super) fn relay(&self) -> Option<&Arc<Relay>> {
        self.relay.get()
    }
}

/// Opens the relay, if the chain source is Esplora.
pub(super) async fn open(
    chain: &Chain,
    config: &Config,
    clock: &Clock,
) -> Result<Option<(Arc<Relay>, tokio::net::TcpListener)>, NodeError> {
    let ChainSource::Esplora {
        urls,
        requests_per_hour,
    } = &config.chain.source
    else {
        return Ok(None);
    };
    let opening = esplora::Config {
        network: config.network,
        endpoints: urls.clone(),
        requests_per_hour: *requests_per_hour,
        kept: config.folder.join(esplora::SAVED),
        needs_fees: config.network == Network::Bitcoin,
        waits: esplora::Waits::default(),
    };
    let (relay, listener) = Relay::open(opening, clock.clone())
        .await
        .map_err(NodeError::Relay)?;
    // A node runs only once. If it ran again, it would use the first relay, which is as good.
    let relay = Arc::clone(chain.relay.get_or_init(|| relay));
    Ok(Some((relay, listener)))
}

/// The chain source in ldk-node's terms.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// The URL of the relay.
    Esplora(String),
    /// The URL of the server.
    Electrum(String),
    /// The bitcoind and the credentials for it.
    Bitcoind(Bitcoind, Credentials),
}

impl Told {
    /// Sets this source in ldk-node's builder, with ldk-node's background syncs turned off: they
    /// have no budget, run even with nothing to watch, and retry only at their next turn. For a
    /// bitcoind, ldk-node polls every two seconds.
    pub(super) fn set(self, builder: &mut ldk_node::Builder) {
        let background_sync_config = None;
        match self {
            Self::Esplora(url) => {
                let config = EsploraSyncConfig {
                    background_sync_config,
                };
                builder.set_chain_source_esplora(url, Some(config));
            }
            Self::Electrum(url) => {
                let config = ElectrumSyncConfig {
                    background_sync_config,
                };
                builder.set_chain_source_electrum(url, Some(config));
            }
            Self::Bitcoind(bitcoind, Credentials { user, password }) => {
                // ldk-node resolves the host itself, and expects no brackets around it.
                let host = bitcoind.host.trim_matches(['[', ']']).to_owned();
                builder.set_chain_source_bitcoind_rpc(host, bitcoind.port, user, password);
            }
        }
    }
}

/// Whether this node was never built before. If a new node were built without its bitcoind, it
/// would begin at the genesis block.
pub(super) fn is_new(folder: &Path) -> bool {
    !folder.join(crate::channel_state::copy::FILE).exists()
}

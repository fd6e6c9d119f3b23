//! Where the chain is read from: Esplora APIs behind a relay of our own, an Electrum server, or a bitcoind of one's own.

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

/// What the node knows of its chain source while it runs.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// What stands in front of Esplora APIs, once it is open.
    relay: OnceLock<Arc<Relay>>,
    /// How the looks at the chain go. A `std` mutex: held to copy a few words.
    looks: Mutex<Looks>,
    /// What time it is at least, where servers do not tell theirs. A `std` mutex, too.
    passed: Mutex<Option<block_clock::Passed>>,
}

impl Chain {
    /// What stands in front of Esplora APIs.
    pub(super) fn relay(&self) -> Option<&Arc<Relay>> {
        self.relay.get()
    }
}

/// Opens the relay, if there is one to be.
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
    // A node is run once; if it were run again, the first relay would be no worse.
    let relay = Arc::clone(chain.relay.get_or_init(|| relay));
    Ok(Some((relay, listener)))
}

/// What ldk-node is told of its chain source.
#[derive(Clone, Debug)]
pub(super) enum Told {
    /// The URL of the relay.
    Esplora(String),
    /// The URL of the server.
    Electrum(String),
    /// The bitcoind and what it was logged in to with.
    Bitcoind(Bitcoind, Credentials),
}

impl Told {
    /// Points ldk-node there. It does not look at the chain by itself, but for a bitcoind, which it asks every two seconds:
    /// its loops know neither a budget nor that there may be nothing to watch, and try again only at their next turn.
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
                // It looks addresses up itself, without the brackets of a URL.
                let host = bitcoind.host.trim_matches(['[', ']']).to_owned();
                builder.set_chain_source_bitcoind_rpc(host, bitcoind.port, user, password);
            }
        }
    }
}

/// Whether this node was never built before: built without its bitcoind, it would begin at the first block of all.
pub(super) fn is_new(folder: &Path) -> bool {
    !folder.join(crate::channel_state::copy::FILE).exists()
}

//! Where the chain is read from: Esplora APIs behind a relay of our own, an Electrum server, or a bitcoind of one's own.

mod ask;
mod behind;
mod bitcoind;
mod electrum;
mod jump;
mod proof;
mod status;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bitcoin::Network;
use ldk_node::config::{ElectrumSyncConfig, EsploraSyncConfig};

use crate::base::clock::Clock;

use super::relay::{self, Relay};
use super::{Config, NodeError};

pub use ask::{Seen, seen};
pub use status::ChainStatus;
pub use watch::{CLOCK_OFF_SECS, clock_minutes};

pub(super) use behind::judged;
pub(super) use bitcoind::{Credentials, complaint, credentials};
pub(super) use watch::{Looks, keep};

/// What the relay remembers from one start to the next, in the node's folder.
const KEPT: &str = "chain.json";

/// Where the chain is read from, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainConfig {
    /// From where.
    pub source: ChainSource,
    /// Time between two looks, where there is something to watch; ldk-node's own minimum is 10 s.
    pub sync_interval: Duration,
}

/// Where the chain is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainSource {
    /// Esplora APIs.
    Esplora {
        /// Their base URLs, without a slash at the end, the best one first.
        urls: Vec<String>,
        /// Requests an hour to each of them.
        requests_per_hour: usize,
    },
    /// An Electrum server, as `ssl://host:port` or `tcp://host:port`.
    Electrum(String),
    /// A bitcoind.
    Bitcoind(Bitcoind),
}

/// A bitcoind, by its RPC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitcoind {
    /// Its name or address.
    pub host: String,
    /// The port of its RPC.
    pub port: u16,
    /// How to log in.
    pub login: Login,
}

/// How to log in to a bitcoind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// With a name and what stands in a file.
    Password {
        /// The name.
        user: String,
        /// The file with the password.
        file: PathBuf,
    },
    /// With the file that bitcoind writes each time that it starts.
    Cookie(PathBuf),
}

impl fmt::Display for ChainSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Esplora { urls, .. } => f.write_str(&urls.join(", ")),
            Self::Electrum(url) => f.write_str(url),
            Self::Bitcoind(bitcoind) => write!(f, "bitcoind {}:{}", bitcoind.host, bitcoind.port),
        }
    }
}

/// What the node knows of its chain source while it runs.
#[derive(Debug, Default)]
pub(super) struct Chain {
    /// What stands in front of Esplora APIs, once it is open.
    relay: OnceLock<Arc<Relay>>,
    /// How the looks at the chain go. A `std` mutex: held to copy a few words.
    looks: Mutex<Looks>,
    /// What time it is at least, where servers do not tell theirs. A `std` mutex, too.
    passed: Mutex<Option<proof::Passed>>,
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
    let opening = relay::Config {
        network: config.network,
        endpoints: urls.clone(),
        requests_per_hour: *requests_per_hour,
        kept: config.folder.join(KEPT),
        needs_fees: config.network == Network::Bitcoin,
        waits: relay::Waits::default(),
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
    !folder.join(super::state::FILE).exists()
}

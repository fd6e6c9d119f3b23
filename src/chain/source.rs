//! The chain source, as the settings name it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The chain source and how often it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainConfig {
    /// The source.
    pub source: ChainSource,
    /// The time between two syncs while something is watched; ldk-node's own minimum is 10 s.
    pub sync_interval: Duration,
}

/// A source of chain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainSource {
    /// Esplora APIs.
    Esplora {
        /// The base URLs, without a trailing slash, the preferred one first.
        urls: Vec<String>,
        /// The requests per hour to each of them.
        requests_per_hour: usize,
    },
    /// An Electrum server, as `ssl://host:port` or `tcp://host:port`.
    Electrum(String),
    /// A bitcoind node.
    Bitcoind(Bitcoind),
}

/// The RPC of a bitcoind node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitcoind {
    /// The host name or address.
    pub host: String,
    /// The port of the RPC.
    pub port: u16,
    /// The login for the RPC.
    pub login: Login,
}

/// The login for a bitcoind node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// A user name, and a password from a file.
    Password {
        /// The user name.
        user: String,
        /// The file that holds the password.
        file: PathBuf,
    },
    /// The cookie file that bitcoind writes at each start.
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

//! Where the chain is read from, as the settings name it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

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

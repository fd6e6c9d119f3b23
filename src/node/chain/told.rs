//! The chain source in the form that ldk-node's builder takes.

use std::path::Path;

use ldk_node::config::{ElectrumSyncConfig, EsploraSyncConfig};

use crate::chain::Bitcoind;
use crate::chain::bitcoind::Credentials;

/// The chain source in ldk-node's terms.
#[derive(Clone, Debug)]
pub(in crate::node) enum Told {
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
    pub(in crate::node) fn set(self, builder: &mut ldk_node::Builder) {
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
pub(in crate::node) fn is_new(folder: &Path) -> bool {
    !folder.join(crate::channel_state::copy::FILE).exists()
}

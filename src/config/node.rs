//! The node's settings.

use std::path::Path;
use std::time::Duration;

use bitcoin::Network;

use crate::node;

use super::Meaning;
use super::raw::Raw;
use super::web_address::is_web_address;

/// ldk-node's own minimum between two looks at the chain.
const SYNC_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// The longest alias in gossip (BOLT 7).
const ALIAS_BYTES_MAX: usize = 32;

impl Meaning<'_> {
    pub(super) fn node(&mut self, raw: &Raw, data_dir: &Path) -> node::Config {
        let network = match raw.node.network.as_str() {
            "bitcoin" => Network::Bitcoin,
            "testnet" => Network::Testnet,
            "signet" => Network::Signet,
            "regtest" => Network::Regtest,
            other => {
                self.complain(
                    "node.network",
                    format!(
                        "`{other}` is no network; there are bitcoin, testnet, signet and regtest"
                    ),
                );
                Network::Regtest
            }
        };
        if raw.node.alias.len() > ALIAS_BYTES_MAX {
            self.complain("node.alias", "an alias has at most 32 bytes");
        }
        let esplora = raw.node.chain.esplora.trim_end_matches('/').to_owned();
        if esplora.is_empty() {
            self.complain(
                "node.chain.esplora",
                "give the base URL of an Esplora API, as in \"https://example.com/api\"",
            );
        } else if !is_web_address(&esplora) {
            self.complain(
                "node.chain.esplora",
                format!("`{esplora}` is no http or https URL"),
            );
        }
        let sync_interval = self.span("node.chain.sync_interval", &raw.node.chain.sync_interval);
        if sync_interval < SYNC_INTERVAL_MIN {
            self.complain("node.chain.sync_interval", "at least 10s");
        }
        node::Config {
            network,
            folder: data_dir.join("node"),
            alias: raw.node.alias.clone(),
            listen: raw
                .node
                .listen
                .iter()
                .map(|address| self.address("node.listen", address))
                .collect(),
            chain: node::ChainConfig {
                esplora,
                sync_interval,
            },
        }
    }
}

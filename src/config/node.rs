//! The node's settings.

use std::path::Path;
use std::time::Duration;

use bitcoin::Network;

use crate::node;

use super::Meaning;
use super::presets::Preset;
use super::raw::Raw;
use super::web_address::is_web_address;

/// ldk-node's own minimum between two looks at the chain.
const SYNC_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// The longest alias in gossip (BOLT 7).
const ALIAS_BYTES_MAX: usize = 32;

impl Meaning<'_> {
    pub(super) fn node(&mut self, raw: &Raw, data_dir: &Path) -> node::Config {
        let preset = self.preset(&raw.node);
        let preset = preset.as_ref();
        if raw.node.alias.len() > ALIAS_BYTES_MAX {
            self.complain("node.alias", "an alias has at most 32 bytes");
        }
        let mut esplora = raw.node.chain.esplora.trim_end_matches('/').to_owned();
        let known = preset.map_or(&[][..], Preset::esplora);
        if esplora.is_empty() {
            esplora = known.first().cloned().unwrap_or_default();
        }
        if esplora.is_empty() {
            self.complain(
                "node.chain.esplora",
                "none is known for this network: give the base URL of an Esplora API, as in \"https://example.com/api\"",
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
            network: preset.map_or(Network::Regtest, |preset| preset.network),
            preset: raw.node.network.clone(),
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
            reserve: self.reserve(&raw.node),
            gossip: self.gossip(&raw.node, preset),
            liquidity: self.liquidity(&raw.node.liquidity, preset),
        }
    }
}

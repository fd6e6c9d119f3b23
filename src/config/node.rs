//! The node's settings.

use std::path::Path;

use bitcoin::Network;

use crate::base::text;
use crate::node;

use super::meaning::Meaning;
use super::raw::Raw;

/// The longest alias in gossip (BOLT 7).
const ALIAS_BYTES_MAX: usize = 32;

impl Meaning<'_> {
    pub(super) fn node(&mut self, raw: &Raw, data_dir: &Path) -> node::Config {
        let preset = self.preset(&raw.node);
        let preset = preset.as_ref();
        let network = preset.map_or(Network::Regtest, |preset| preset.network);
        if raw.node.alias.len() > ALIAS_BYTES_MAX {
            self.complain("node.alias", "an alias has at most 32 bytes");
        }
        if let Err(unseen) = text::readable(&raw.node.alias) {
            self.complain("node.alias", unseen.to_string());
        }
        if !raw.node.alias.is_empty() && raw.node.listen.is_empty() {
            let what = "a node with a name is one that others find: give it an address in node.listen, or no name";
            self.complain("node.alias", what);
        }
        let chain = self.chain(&raw.node.chain, preset);
        let withdraw = raw.node.withdraw.as_ref();
        let vss = raw.node.vss.as_ref();
        node::Config {
            vss: vss.and_then(|raw| self.vss(raw)),
            withdraw: withdraw.and_then(|raw| self.withdraw(raw, network)),
            network,
            preset: raw.node.network.clone(),
            folder: data_dir.join("node"),
            alias: raw.node.alias.clone(),
            listen: raw
                .node
                .listen
                .iter()
                .map(|address| self.address("node.listen", address))
                .collect(),
            chain,
            reserve: self.reserve(&raw.node),
            peers: self.peers(&raw.node.peers),
            gossip: self.gossip(&raw.node, preset),
            liquidity: self.liquidity(&raw.node.liquidity, preset),
        }
    }
}

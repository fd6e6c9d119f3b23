//! Tells ldk-node's builder about the providers, the reserve and the gossip source.

use ldk_node::config::AnchorChannelsConfig;

use crate::node::config::{Config, Gossip, RESERVE_SAT, Reserve};
use crate::node::standing::trusted;

use super::settings::Provider;

/// A URL whose fetch fails at once, without network traffic. With it, ldk-node gets no gossip.
const NO_GOSSIP: &str = "none:";

/// The on-chain reserve for each anchor channel. ldk-node refuses an anchor channel from a peer if
/// coins are missing for it, and an LDK peer then tries a channel without anchors. In such a
/// channel, the transactions that claim payments carry their own fees. So a peer cannot take
/// payments back, even from a node without coins.
pub(in crate::node) fn anchors(config: &Config) -> AnchorChannelsConfig {
    match config.reserve {
        // ldk-node relies on a trusted peer to get a closing confirmed. It still claims payments
        // with the coins that it has.
        Reserve::None | Reserve::Trusted => AnchorChannelsConfig {
            per_channel_reserve_sats: RESERVE_SAT,
            trusted_peers_no_reserve: trusted(config).collect(),
        },
        Reserve::PerChannel { sat } => AnchorChannelsConfig {
            per_channel_reserve_sats: sat,
            trusted_peers_no_reserve: Vec::new(),
        },
    }
}

/// Tells ldk-node about the providers and the gossip source. ldk-node then trusts these providers
/// with channels whose funding is not confirmed. If a provider takes its funding back, the sales
/// over that channel are lost.
pub(in crate::node) fn configure(builder: &mut ldk_node::Builder, config: &Config) {
    let token = |provider: &Provider| provider.token.as_ref().map(|token| token.0.clone());
    if let Some(provider) = &config.liquidity.provider {
        let address = provider.address.clone();
        builder.set_liquidity_source_lsps2(provider.node_id, address, token(provider));
    }
    if let Some(provider) = &config.liquidity.order_provider {
        let address = provider.address.clone();
        builder.set_liquidity_source_lsps1(provider.node_id, address, token(provider));
    }
    match config.gossip.now(&config.folder) {
        Gossip::None | Gossip::Auto(_) => builder.set_gossip_source_rgs(NO_GOSSIP.to_owned()),
        Gossip::Rapid(url) => builder.set_gossip_source_rgs(url),
        Gossip::PeerToPeer => builder.set_gossip_source_p2p(),
    };
}

//! Who provides liquidity, what it may cost, and what we trust them with.

use std::fmt;

use bitcoin::secp256k1::PublicKey;
use ldk_node::config::AnchorChannelsConfig;
use ldk_node::lightning::ln::msgs::SocketAddress;

use crate::base::amount::Msat;

use super::super::config::RESERVE_SAT;
use super::super::standing::trusted;
use super::super::{Config as NodeConfig, Gossip, Reserve, peers};

/// An address that is fetched at once and in vain, without touching the network: how ldk-node is told to want no gossip.
const NO_GOSSIP: &str = "none:";

/// Who provides liquidity, and what it may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Who opens a channel out of a payment (LSPS2).
    pub provider: Option<Provider>,
    /// Who sells channels (LSPS1).
    pub order_provider: Option<Provider>,
    /// What a provider may keep of an activation; or the share below, if that is more.
    pub fee_max: Msat,
    /// The share of an activation that it may keep, in percent; below a hundred.
    pub fee_max_percent: u32,
    /// What a first customer can buy all the same; its payment opens the channel.
    pub bundle: Option<KeptReady>,
    /// Below room for this many sales at the dearest price, inbound liquidity is said to be low.
    pub low_sales: u32,
    /// Providers that the network's preset knows (LSPS2).
    pub known: Vec<Provider>,
    /// The same of those that sell channels (LSPS1).
    pub known_sellers: Vec<Provider>,
}

/// A grant whose invoice is kept ready while nothing can be received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReady {
    /// The path of the route that it is sold on, or the service of a guard.
    pub route: String,
    /// Which of the grants there, if not the default one.
    pub grant: Option<String>,
}

/// A liquidity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// What the preset calls it; empty for one that is none of a preset's.
    pub name: String,
    /// Its node.
    pub node_id: PublicKey,
    /// Where its node is.
    pub address: SocketAddress,
    /// What it knows us by, if it wants that.
    pub token: Option<Token>,
    /// What is known of its terms, in words.
    pub published: Option<String>,
}

/// What a provider knows its customer by.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What is wrong with a provider's name or address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAProvider {
    /// No public key.
    #[error("a node id has 66 hex digits and begins with 02 or 03")]
    NodeId,
    /// No host and port.
    #[error("write host and port, as in \"203.0.113.5:9735\" or \"node.example:9735\"")]
    Address,
}

impl Provider {
    /// The provider with this node at this address.
    pub fn new(name: &str, node_id: &str, address: &str) -> Result<Self, NotAProvider> {
        Ok(Self {
            name: name.to_owned(),
            node_id: peers::node_id(node_id).ok_or(NotAProvider::NodeId)?,
            address: peers::socket_address(address).ok_or(NotAProvider::Address)?,
            token: None,
            published: None,
        })
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.name.is_empty() {
            write!(f, "{} ", self.name)?;
        }
        write!(f, "{}@{}", self.node_id, self.address)
    }
}

impl Config {
    /// What a provider may keep of this amount.
    pub fn ceiling(&self, amount: Msat) -> Msat {
        let share = amount.msat() / 100 * u64::from(self.fee_max_percent);
        Msat::new(share).unwrap_or(amount).max(self.fee_max)
    }

    /// The least amount that leaves enough for a channel, whatever the provider takes within the ceiling; whole satoshi.
    pub fn least(&self) -> Msat {
        let enough = super::NET_MIN;
        let rest_percent = u64::from(100_u32.saturating_sub(self.fee_max_percent)).max(1);
        let by_share = (enough.msat() * 100).div_ceil(rest_percent);
        let by_fee = enough.saturating_add(self.fee_max).msat();
        let sat = by_share.max(by_fee).div_ceil(1_000);
        Msat::from_sat(sat).unwrap_or(enough)
    }

    /// The providers that the operator chose.
    pub(in crate::node) fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.provider.iter().chain(&self.order_provider)
    }
}

/// What is kept on chain for each anchor channel. ldk-node refuses one that a peer opens while coins are missing for it, and an
/// LDK peer then tries a channel without anchors: the transactions that claim its payments carry their own fees, so nothing can
/// be taken back from a node without coins.
pub(in crate::node) fn anchors(config: &NodeConfig) -> AnchorChannelsConfig {
    match config.reserve {
        // ldk-node leaves it to a trusted peer to get a closing confirmed; payments it still claims with what there is.
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

/// Tells ldk-node of providers and gossip. It trusts each of these providers from then on with channels whose funding is
/// not confirmed: one that takes its funding back takes with it what was sold over the channel until then.
pub(in crate::node) fn configure(builder: &mut ldk_node::Builder, config: &NodeConfig) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn config(fee_max_sat: u64, fee_max_percent: u32) -> Config {
        Config {
            provider: None,
            order_provider: None,
            fee_max: Msat::from_sat(fee_max_sat).unwrap(),
            fee_max_percent,
            bundle: None,
            low_sales: 20,
            known: Vec::new(),
            known_sellers: Vec::new(),
        }
    }

    #[test]
    fn the_ceiling_is_the_larger_of_the_two() {
        let sat = |sat| Msat::from_sat(sat).unwrap();
        let usual = config(5_000, 10);
        for (amount, ceiling) in [(30_000, 5_000), (50_000, 5_000), (60_000, 6_000)] {
            assert_eq!(usual.ceiling(sat(amount)), sat(ceiling));
        }
    }

    #[test]
    fn the_least_amount_leaves_enough_whatever_is_taken() {
        for (fee, percent) in [(5_000, 10), (1, 90), (100_000, 0), (1, 0), (20_000, 50)] {
            let config = config(fee, percent);
            let least = config.least();
            let left = least.msat() - config.ceiling(least).msat();
            assert!(left >= super::super::NET_MIN.msat(), "{fee} {percent}");
        }
    }

    #[test]
    fn a_provider_has_a_key_and_an_address_and_its_token_is_not_shown() {
        let id = "034066e29e402d9cf55af1ae1026cc5adf92eed1e0e421785442f53717ad1453b0";
        assert_eq!(Provider::new("", "02", "a:1"), Err(NotAProvider::NodeId));
        assert_eq!(Provider::new("", id, "a"), Err(NotAProvider::Address));
        let mut provider = Provider::new("one", id, "node.example:9735").unwrap();
        assert_eq!(provider.to_string(), format!("one {id}@node.example:9735"));
        provider.token = Some(Token("hush".to_owned()));
        assert!(!format!("{provider:?}").contains("hush"));
    }
}

//! The settings of the liquidity providers: their fees and the trust that they get.

use std::fmt;

use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;

use crate::base::amount::Msat;

use super::super::peer_address;

/// The least amount, after the fee, from which a provider can make a working channel. The channel's
/// opener keeps a reserve of 1,000 sat, 660 sat in anchors and, at the lowest fee rates, about 750
/// sat for the closing fee: together 2,400 sat. This must fit into the tenth by which a provider
/// makes the channel larger than the payment. Smaller channels were seen to open and then to fail
/// their first payment.
const NET_MIN: Msat = Msat::from_sat(24_000).expect("it is less than all bitcoin");

/// The liquidity providers and the limits on their fees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The provider that opens a channel out of a payment (LSPS2).
    pub provider: Option<Provider>,
    /// The provider that sells channels (LSPS1).
    pub order_provider: Option<Provider>,
    /// The most that a provider may keep of an activation, or the share below if that is more.
    pub fee_max: Msat,
    /// The share of an activation that a provider may keep, in percent; below a hundred.
    pub fee_max_percent: u32,
    /// The grant that a first customer can buy while the node cannot receive payments. Its payment
    /// opens the channel.
    pub bundle: Option<KeptReady>,
    /// The number of sales at the highest price. With room for fewer, inbound liquidity counts as
    /// low.
    pub low_sales: u32,
    /// Providers that the network's preset knows (LSPS2).
    pub known: Vec<Provider>,
    /// Sellers of channels that the network's preset knows (LSPS1).
    pub known_sellers: Vec<Provider>,
}

/// A grant whose invoice is kept ready while the node cannot receive payments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptReady {
    /// The path of the route that sells the grant, or the service of a guard.
    pub route: String,
    /// The name of the grant on that route; `None` for the default grant.
    pub grant: Option<String>,
}

/// A liquidity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provider {
    /// The provider's name in the preset; empty if the preset does not list it.
    pub name: String,
    /// The id of the provider's node.
    pub node_id: PublicKey,
    /// The address of the provider's node.
    pub address: SocketAddress,
    /// The token that identifies us to the provider, if it needs one.
    pub token: Option<Token>,
    /// The known terms of the provider, in words.
    pub published: Option<String>,
}

/// The token that identifies a customer to the provider.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The errors in the id or address of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAProvider {
    /// The node id is not a public key.
    #[error("a node id has 66 hex digits and begins with 02 or 03")]
    NodeId,
    /// The address is not a host and a port.
    #[error("write host and port, as in \"203.0.113.5:9735\" or \"node.example:9735\"")]
    Address,
}

impl Provider {
    /// Creates the provider with this node at this address.
    pub fn new(name: &str, node_id: &str, address: &str) -> Result<Self, NotAProvider> {
        Ok(Self {
            name: name.to_owned(),
            node_id: peer_address::node_id(node_id).ok_or(NotAProvider::NodeId)?,
            address: peer_address::socket_address(address).ok_or(NotAProvider::Address)?,
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
    /// The most that a provider may keep of this amount.
    pub fn ceiling(&self, amount: Msat) -> Msat {
        let share = amount.msat() / 100 * u64::from(self.fee_max_percent);
        Msat::new(share).unwrap_or(amount).max(self.fee_max)
    }

    /// The least amount that leaves enough for a channel, even after the highest fee within the
    /// ceiling; whole satoshi.
    pub fn least(&self) -> Msat {
        let enough = NET_MIN;
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
            assert!(left >= NET_MIN.msat(), "{fee} {percent}");
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

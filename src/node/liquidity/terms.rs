//! The known terms of a provider's channel: those in the preset, our own limits, and a list of
//! hidden terms.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::node::config::{Gossip, Reserve};

use super::facet::Liquidity;
use super::settings::Provider;

/// The terms that ldk-node learns from a provider and does not pass on.
const HIDDEN: &[&str] = &[
    "the provider's least and proportional fee: they are asked for within the call that makes an activation invoice, which then \
     tells the whole fee of that amount",
    "the least and the largest payment that the provider takes: an amount outside of them is refused without saying why",
    "how much larger than the payment the channel will be, and how long the provider promises to keep it open",
    "until when the provider stands by its fee: a payment after that is refused and the payer keeps the money",
];

/// The trust that the providers get.
const TRUST: &str = "The providers that are set are trusted with channels whose funding is not confirmed yet: one that takes its \
                     funding back takes with it what was sold over that channel until then. No coins are kept on chain for their \
                     channels (node.reserve): one that cheats could take back the payments that it just passed on.";

/// The ways to get inbound liquidity, and their known terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Terms {
    /// The network's preset.
    pub network: String,
    /// The provider that opens a channel out of a payment (LSPS2), if one is set.
    pub provider: Option<ProviderTerms>,
    /// The provider that sells channels (LSPS1), if one is set.
    pub order_provider: Option<ProviderTerms>,
    /// Other providers that the preset knows. `node.liquidity.provider` accepts their names.
    pub known: Vec<ProviderTerms>,
    /// Other sellers of channels that the preset knows. `node.liquidity.order_provider` accepts
    /// their names.
    pub known_sellers: Vec<ProviderTerms>,
    /// The most that a provider may keep of an activation, in msat, or the share below if that is
    /// more.
    pub fee_max_msat: u64,
    /// The share of an activation that a provider may keep, in percent.
    pub fee_max_percent: u32,
    /// The least amount of an activation, in sat. With less, the channel is too small for its own
    /// first payment.
    pub amount_min_sat: u64,
    /// The reserve kept on chain for closing channels: `none`, `trusted`, or an amount per channel.
    pub reserve: String,
    /// The source of the network map for outgoing payments: `auto`, `none`, `rapid` or `p2p`.
    pub gossip: String,
    /// The terms that are unknown until an invoice is made.
    pub hidden: Vec<String>,
    /// The trust that the providers get.
    pub trust: String,
}

/// The known terms of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderTerms {
    /// The provider's name in the preset; empty if the preset does not list it.
    pub name: String,
    /// The id of the provider's node, hex.
    pub node_id: String,
    /// The address of the provider's node.
    pub address: String,
    /// Whether the provider is sent a token.
    pub has_token: bool,
    /// The terms that the preset lists for the provider. They are not verified.
    pub published: Option<String>,
}

impl From<&Provider> for ProviderTerms {
    fn from(provider: &Provider) -> Self {
        Self {
            name: provider.name.clone(),
            node_id: provider.node_id.to_string(),
            address: provider.address.to_string(),
            has_token: provider.token.is_some(),
            published: provider.published.clone(),
        }
    }
}

impl Liquidity {
    /// The ways to get inbound liquidity, and their known terms. Sends no request.
    pub fn terms(&self) -> Terms {
        let config = &self.core.config.liquidity;
        let all = |providers: &[Provider]| providers.iter().map(ProviderTerms::from).collect();
        Terms {
            network: self.core.config.preset.clone(),
            provider: config.provider.as_ref().map(ProviderTerms::from),
            order_provider: config.order_provider.as_ref().map(ProviderTerms::from),
            known: all(&config.known),
            known_sellers: all(&config.known_sellers),
            fee_max_msat: config.fee_max.msat(),
            fee_max_percent: config.fee_max_percent,
            amount_min_sat: config.least().msat() / 1_000,
            reserve: match self.core.config.reserve {
                Reserve::None => "none".to_owned(),
                Reserve::Trusted => "trusted".to_owned(),
                Reserve::PerChannel { sat } => format!("{sat} sat"),
            },
            gossip: match &self.core.config.gossip {
                Gossip::None => "none",
                Gossip::Auto(_) => "auto",
                Gossip::Rapid(_) => "rapid",
                Gossip::PeerToPeer => "p2p",
            }
            .to_owned(),
            hidden: HIDDEN.iter().map(|&line| line.to_owned()).collect(),
            trust: TRUST.to_owned(),
        }
    }
}

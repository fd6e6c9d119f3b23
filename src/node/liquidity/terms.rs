//! What a provider's channel costs, as far as anybody says: the preset's words, our own limits, and what is hidden.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::{Gossip, Node, Reserve};
use super::Provider;

/// What ldk-node asks a provider for and does not pass on.
const HIDDEN: &[&str] = &[
    "the provider's least and proportional fee: they are asked for within the call that makes an activation invoice, which then \
     tells the whole fee of that amount",
    "the least and the largest payment that the provider takes: an amount outside of them is refused without saying why",
    "how much larger than the payment the channel will be, and how long the provider promises to keep it open",
    "until when the provider stands by its fee: a payment after that is refused and the payer keeps the money",
];

/// What is trusted to whom.
const TRUST: &str = "The providers that are set are trusted with channels whose funding is not confirmed yet: one that takes its \
                     funding back takes with it what was sold over that channel until then. No coins are kept on chain for their \
                     channels (node.reserve): one that cheats could take back the payments that it just passed on.";

/// What is known of how to become reachable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Terms {
    /// The network's preset.
    pub network: String,
    /// Who opens a channel out of a payment (LSPS2), if anybody is set.
    pub provider: Option<ProviderTerms>,
    /// Who sells channels (LSPS1), if anybody is set.
    pub order_provider: Option<ProviderTerms>,
    /// Others that the preset knows: `node.liquidity.provider` takes their names.
    pub known: Vec<ProviderTerms>,
    /// The same of those that sell channels: `node.liquidity.order_provider` takes their names.
    pub known_sellers: Vec<ProviderTerms>,
    /// The most that a provider may keep of an activation, in msat; or the share below, if that is more.
    pub fee_max_msat: u64,
    /// The share that it may keep, in percent.
    pub fee_max_percent: u32,
    /// The least amount of an activation, in sat: less would make a channel too small for its own first payment.
    pub amount_min_sat: u64,
    /// What is kept on chain for closing channels: `none`, `trusted`, or an amount for each.
    pub reserve: String,
    /// Where the map of the network for outgoing payments comes from: `auto`, `none`, `rapid` or `p2p`.
    pub gossip: String,
    /// What nobody can be told before an invoice is made.
    pub hidden: Vec<String>,
    /// What is trusted to the provider.
    pub trust: String,
}

/// What is known of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderTerms {
    /// What the preset calls it; empty for one that is none of a preset's.
    pub name: String,
    /// Its node id, hex.
    pub node_id: String,
    /// Where its node is.
    pub address: String,
    /// Whether it is sent a token.
    pub has_token: bool,
    /// What the preset says of its terms; nobody has verified it.
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

impl Node {
    /// What is known of how to become reachable. Asks nobody.
    pub fn terms(&self) -> Terms {
        let config = &self.config.liquidity;
        let all = |providers: &[Provider]| providers.iter().map(ProviderTerms::from).collect();
        Terms {
            network: self.config.preset.clone(),
            provider: config.provider.as_ref().map(ProviderTerms::from),
            order_provider: config.order_provider.as_ref().map(ProviderTerms::from),
            known: all(&config.known),
            known_sellers: all(&config.known_sellers),
            fee_max_msat: config.fee_max.msat(),
            fee_max_percent: config.fee_max_percent,
            amount_min_sat: config.least().msat() / 1_000,
            reserve: match self.config.reserve {
                Reserve::None => "none".to_owned(),
                Reserve::Trusted => "trusted".to_owned(),
                Reserve::PerChannel { sat } => format!("{sat} sat"),
            },
            gossip: match &self.config.gossip {
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

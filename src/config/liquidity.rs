//! The settings of liquidity: its providers and their fees, the reserve on chain, and the source of
//! gossip.

use crate::base::amount::{AmountError, Msat};
use crate::base::secret_file;
use crate::node::liquidity::{Config, KeptReady, Provider, Token};
use crate::node::{Gossip, Reserve};
use crate::sell::route::{Access, RouteTable};

use super::meaning::Meaning;
use super::presets::{Preset, Presets};
use super::raw::{RawLiquidity, RawNode, RawProvider, TextOr};

/// The largest share of a payment that a provider may keep. With more, almost nothing would arrive.
const FEE_PERCENT_MAX: u32 = 90;

/// The largest reserve for a channel. A tenth of a bitcoin closes any channel at any fee rate seen
/// so far.
const RESERVE_SAT_MAX: u64 = 10_000_000;

impl Meaning<'_> {
    /// The preset of the network in `node.network`.
    pub(super) fn preset(&mut self, raw: &RawNode) -> Option<Preset> {
        let presets = if raw.presets.is_empty() {
            Presets::built_in()
        } else {
            match Presets::with_file(&self.folder.join(&raw.presets)) {
                Ok(presets) => presets,
                Err(complaint) => {
                    self.complaints.push(complaint);
                    return None;
                }
            }
        };
        let name = raw.network.as_str();
        if let Some(preset) = presets.find(name) {
            return Some(preset.clone());
        }
        let what = if name == "testnet4" {
            "testnet4 cannot be served: the Lightning library in here makes invoices for it that say regtest. Try mutinynet or signet"
                .to_owned()
        } else {
            let names: Vec<_> = presets.names().collect();
            format!("`{name}` is no network; there are {}", names.join(", "))
        };
        self.complain("node.network", what);
        None
    }

    /// The source of gossip, the map of the network.
    pub(super) fn gossip(&mut self, raw: &RawNode, preset: Option<&Preset>) -> Gossip {
        match raw.gossip.as_str() {
            "auto" => Gossip::Auto(preset.and_then(|preset| preset.rapid_gossip.clone())),
            "none" => Gossip::None,
            "p2p" => Gossip::PeerToPeer,
            "rapid" => match preset.map(|preset| preset.rapid_gossip.clone()) {
                Some(Some(url)) => Gossip::Rapid(url),
                // The missing network has already been reported.
                None => Gossip::None,
                Some(None) => {
                    let what = "no snapshot is known for this network: write \"p2p\" or \"none\", or name one in a file of node.presets";
                    self.complain("node.gossip", what);
                    Gossip::None
                }
            },
            other => {
                let what = format!(
                    "`{other}` is no source of gossip; there are auto, none, rapid and p2p"
                );
                self.complain("node.gossip", what);
                Gossip::None
            }
        }
    }

    /// The reserve on chain for closing channels.
    pub(super) fn reserve(&mut self, raw: &RawNode) -> Reserve {
        let has_provider = |raw: &TextOr<RawProvider>| match raw {
            TextOr::Text(name) => !name.is_empty(),
            TextOr::Table(_) => true,
        };
        let liquidity = &raw.liquidity;
        match raw.reserve.as_str() {
            "none" => Reserve::None,
            "trusted" => {
                let is_anybody_named = has_provider(&liquidity.provider)
                    || has_provider(&liquidity.order_provider)
                    || !raw.peers.trusted.is_empty();
                if !is_anybody_named {
                    let what = "no peer is trusted: set node.liquidity.provider or node.peers.trusted, or write \"none\" or \"25000 sat\"";
                    self.complain("node.reserve", what);
                }
                Reserve::Trusted
            }
            text => {
                let sat = text.parse::<Msat>().ok().and_then(Msat::whole_sat);
                let sat = sat.filter(|sat| (1..=RESERVE_SAT_MAX).contains(sat));
                if sat.is_none() {
                    let what = format!(
                        "`{text}` is no reserve: write \"none\", \"trusted\", or whole satoshi for each channel as in \"25000 sat\" (at \
                         most {RESERVE_SAT_MAX})"
                    );
                    self.complain("node.reserve", what);
                }
                Reserve::PerChannel {
                    sat: sat.unwrap_or(0),
                }
            }
        }
    }

    /// The liquidity providers and the limits on their fees.
    pub(super) fn liquidity(&mut self, raw: &RawLiquidity, preset: Option<&Preset>) -> Config {
        let known = preset.map_or_else(Vec::new, |preset| preset.lsps2.clone());
        let known_sellers = preset.map_or_else(Vec::new, |preset| preset.lsps1.clone());
        if raw.fee_max_percent > FEE_PERCENT_MAX {
            let what = format!("at most {FEE_PERCENT_MAX}");
            self.complain("node.liquidity.fee_max_percent", what);
        }
        let bundle = (!raw.bundle_route.is_empty()).then(|| KeptReady {
            route: raw.bundle_route.clone(),
            grant: (!raw.bundle_grant.is_empty()).then(|| raw.bundle_grant.clone()),
        });
        Config {
            bundle,
            provider: self.provider("node.liquidity.provider", &raw.provider, &known),
            order_provider: self.provider(
                "node.liquidity.order_provider",
                &raw.order_provider,
                &known_sellers,
            ),
            fee_max: self.amount("node.liquidity.fee_max", &raw.fee_max),
            fee_max_percent: raw.fee_max_percent.min(FEE_PERCENT_MAX),
            low_sales: raw.low_sales,
            known,
            known_sellers,
        }
    }

    /// Checks that the bundle for a first customer is on sale and costs enough to open a channel.
    /// The names of guards are not known yet.
    pub(super) fn bundle_fits(&mut self, liquidity: &Config, routes: &RouteTable) {
        let Some(kept) = &liquidity.bundle else {
            return;
        };
        if liquidity.provider.is_none() {
            let what = "there is nobody who would open a channel: name a node.liquidity.provider";
            self.complain("node.liquidity.bundle_route", what);
        }
        let offer = routes.iter().find_map(|route| match &route.access {
            Access::Paid(offer) if *route.name == *kept.route => Some(offer),
            Access::Paid(_) | Access::Free => None,
        });
        let Some(offer) = offer else {
            if routes.iter().next().is_some() {
                let what = format!("no route that is sold has the path `{}`", kept.route);
                self.complain("node.liquidity.bundle_route", what);
            }
            return;
        };
        match offer.bundle(kept.grant.as_deref()) {
            Err(why) => self.complain("node.liquidity.bundle_grant", why.to_string()),
            Ok((_, price)) if price < liquidity.least() => {
                let least = liquidity.least();
                let what = format!(
                    "at {price} it costs too little to open a channel: {least} or more, by the limits on the provider's fee"
                );
                self.complain("node.liquidity.bundle_grant", what);
            }
            Ok(_) => {}
        }
    }

    fn provider(
        &mut self,
        key: &str,
        raw: &TextOr<RawProvider>,
        known: &[Provider],
    ) -> Option<Provider> {
        let raw = match raw {
            TextOr::Text(name) if name.is_empty() => return None,
            TextOr::Text(name) => {
                let found = known.iter().find(|known| known.name == *name);
                if found.is_none() {
                    let names: Vec<_> = known.iter().map(|known| known.name.as_str()).collect();
                    let there = if names.is_empty() {
                        "none is known for this network".to_owned()
                    } else {
                        format!("there is {}", names.join(", "))
                    };
                    let what = format!(
                        "`{name}` is no provider of this network: {there}; or write {{ node_id = \"02…\", address = \"host:port\" }}"
                    );
                    self.complain(key, what);
                }
                return found.cloned();
            }
            TextOr::Table(raw) => raw,
        };
        let token = raw.token_file.as_ref().and_then(|file| {
            let key = format!("{key}.token_file");
            match secret_file::handed_over_line(&self.secret(&key, file)) {
                Ok(token) => Some(Token(token)),
                Err(error) => {
                    self.complain(&key, crate::base::error_chain::chain(&error));
                    None
                }
            }
        });
        match Provider::new("", &raw.node_id, &raw.address) {
            Ok(provider) => Some(Provider { token, ..provider }),
            Err(error) => {
                self.complain(key, error.to_string());
                None
            }
        }
    }

    fn amount(&mut self, key: &str, text: &str) -> Msat {
        let what = match text.parse::<Msat>() {
            Ok(amount) if amount > Msat::ZERO => return amount,
            Err(error @ AmountError::Grouped(_)) => error.to_string(),
            Ok(_) | Err(_) => format!("`{text}` is not an amount: write \"5000 sat\""),
        };
        self.complain(key, what);
        Msat::ZERO
    }
}

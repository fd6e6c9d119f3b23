//! The node's settings.

use std::path::Path;
use std::time::Duration;

use bitcoin::Network;
use bitcoin::address::{Address, NetworkUnchecked};

use crate::amount::Msat;
use crate::node;
use crate::quote::NoInvoiceSource;

use super::Meaning;
use super::presets::Preset;
use super::raw::{Raw, RawWithdraw};
use super::web_address::is_web_address;

/// ldk-node's own minimum between two looks at the chain.
const SYNC_INTERVAL_MIN: Duration = Duration::from_secs(10);

/// How often it is looked at whether there is too much, if the settings do not say; and at the most.
const WITHDRAW_EVERY: &str = "1h";
const WITHDRAW_EVERY_MIN: Duration = Duration::from_secs(60);

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
        let withdraw = raw.node.withdraw.as_ref();
        node::Config {
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
            chain: node::ChainConfig {
                esplora,
                sync_interval,
            },
            reserve: self.reserve(&raw.node),
            gossip: self.gossip(&raw.node, preset),
            liquidity: self.liquidity(&raw.node.liquidity, preset),
        }
    }
    fn withdraw(&mut self, raw: &RawWithdraw, network: Network) -> Option<node::WithdrawConfig> {
        let above = self.in_bitcoin("node.withdraw.above", &raw.above);
        let keep = match &raw.keep {
            None => Some(Msat::ZERO),
            Some(keep) => self.in_bitcoin("node.withdraw.keep", keep),
        };
        if let (Some(above), Some(keep)) = (above, keep)
            && keep >= above
        {
            self.complain(
                "node.withdraw.keep",
                "less than `above`, or nothing would ever be withdrawn",
            );
        }
        let every = raw.every.as_deref().unwrap_or(WITHDRAW_EVERY);
        let every = self.span("node.withdraw.every", every);
        if every < WITHDRAW_EVERY_MIN {
            self.complain("node.withdraw.every", "at least 1m");
        }
        let to = match (&raw.to, &raw.invoice_from) {
            (Some(address), None) => self.withdraw_address(address, network),
            (None, Some(source)) => match source.parse() {
                Ok(source) => Some(node::WithdrawTo::Invoices(source)),
                Err(error) => {
                    let error: NoInvoiceSource = error;
                    self.complain("node.withdraw.invoice_from", error.to_string());
                    None
                }
            },
            (Some(_), Some(_)) | (None, None) => {
                self.complain(
                    "node.withdraw",
                    "say where to: `to` (an address) or `invoice_from`, one of the two",
                );
                None
            }
        };
        Some(node::WithdrawConfig {
            above: above?,
            keep: keep?,
            every,
            to: to?,
        })
    }

    fn withdraw_address(&mut self, text: &str, network: Network) -> Option<node::WithdrawTo> {
        let address = text.parse::<Address<NetworkUnchecked>>();
        match address.map(|address| address.is_valid_for_network(network)) {
            Ok(true) => return Some(node::WithdrawTo::Address(text.to_owned())),
            Ok(false) => self.complain(
                "node.withdraw.to",
                format!("the address is not one of {network}"),
            ),
            Err(_) => self.complain(
                "node.withdraw.to",
                "that is no bitcoin address: a character is wrong or missing",
            ),
        }
        None
    }
}

//! The settings of withdrawals.

use std::time::Duration;

use bitcoin::Network;
use bitcoin::address::{Address, NetworkUnchecked};

use crate::base::amount::Msat;
use crate::node;
use crate::sell::quote::NoInvoiceSource;

use super::meaning::Meaning;
use super::raw::RawWithdraw;

/// The default and the shortest time between two checks whether the balance exceeds the limit.
const WITHDRAW_EVERY: &str = "1h";
const WITHDRAW_EVERY_MIN: Duration = Duration::from_secs(60);

impl Meaning<'_> {
    pub(super) fn withdraw(
        &mut self,
        raw: &RawWithdraw,
        network: Network,
    ) -> Option<node::WithdrawConfig> {
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

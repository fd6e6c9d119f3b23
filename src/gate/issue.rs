//! Issuing: an invoice and the token that its preimage will make good.

use crate::amount::Msat;
use crate::invoice::{Invoice, Terms, Unready};
use crate::l402::credential::encode_base64;
use crate::l402::{Identifier, TokenId, macaroon};
use crate::ledger;
use crate::route::Grant;

use super::{Gate, Unpaid, Why};

/// The price class of every route: a service has one price, so it has one class.
pub(super) const TIER: u32 = 0;

/// A challenge, ready to be written as headers and body.
#[derive(Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The invoice to pay.
    pub invoice: Invoice,
    /// The token, standard base64.
    pub macaroon: String,
    /// What it costs.
    pub price: Msat,
    /// What it buys.
    pub grant: Grant,
    /// The service that the token opens.
    pub service: std::sync::Arc<str>,
    /// Why the request was not served.
    pub why: Why,
}

impl std::fmt::Debug for Challenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Not the token: with a preimage it is money.
        f.debug_struct("Challenge")
            .field("service", &self.service)
            .field("price", &self.price)
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

/// Why there is not even a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The node could not be paid now.
    Unpayable(Unready),
    /// The operating system gives no randomness: nothing secret can be made.
    NoRandomness,
}

impl Gate {
    /// Makes an invoice and its token. Writes nothing that anybody waits for.
    pub fn challenge(&self, unpaid: &Unpaid<'_>) -> Result<Challenge, Denial> {
        let offer = unpaid.offer;
        let now_ms = self.clock.unix_ms();
        let now_secs = now_ms / 1_000;
        let price = offer.price;
        // One draw: the first half for the payment hash, the second for the token id.
        let mut random = [[0_u8; 32]; 2];
        getrandom::fill(random.as_flattened_mut()).map_err(|_| Denial::NoRandomness)?;
        let invoice = self
            .minter
            .mint(&Terms {
                amount: price,
                description: &format!("{}: {}", offer.service, offer.grant),
                now_secs,
                random: random[0],
            })
            .map_err(Denial::Unpayable)?;
        let identifier = Identifier {
            payment_hash: invoice.payment_hash,
            token_id: TokenId::new(self.keys.epoch(), now_secs, random[1]),
        };
        // A payer may pay in the invoice's last second and still gets what was sold.
        let valid_until_secs = invoice.expires_at_secs + offer.grant.valid.as_secs();
        let caveats = caveats(&offer.service, valid_until_secs, offer.grant.requests);
        let token =
            macaroon::mint(&self.keys, &identifier, &caveats).expect("the current epoch is known");
        self.ledger.challenge(ledger::Challenge {
            payment_hash: invoice.payment_hash,
            token_id: identifier.token_id.0,
            service: offer.service.clone(),
            route: unpaid.route.clone(),
            price_msat: price.msat(),
            challenged_ms: now_ms,
            expires_ms: invoice.expires_at_secs * 1_000,
            grant: None,
            rate: None,
        });
        Ok(Challenge {
            macaroon: encode_base64(&token),
            invoice,
            price,
            grant: offer.grant,
            service: offer.service.clone(),
            why: unpaid.why,
        })
    }
}

/// What the token is restricted to from the start.
fn caveats(service: &str, valid_until_secs: u64, requests: Option<u64>) -> Vec<String> {
    let mut caveats = vec![
        format!("services={service}:{TIER}"),
        format!("{service}_valid_until={valid_until_secs}"),
    ];
    caveats.extend(requests.map(|requests| format!("{service}_requests={requests}")));
    caveats
}

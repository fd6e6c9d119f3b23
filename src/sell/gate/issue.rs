//! Makes challenges: an invoice, and the token that its preimage makes valid.

use tracing::Level;

use crate::account::ledger;
use crate::base::amount::Msat;
use crate::protocol::invoice::{Invoice, Terms, Unready};
use crate::protocol::l402::base64::encode_base64;
use crate::protocol::l402::{Identifier, SoldAs, TokenId, macaroon};
use crate::sell::route::{Grant, Plan};

use super::bundles::{Instead, Wish};
use super::challenge::{Challenge, Choice, Denial};
use super::decision::Unpaid;
use super::state::Gate;

impl Gate {
    /// Makes an invoice and its token. Does not wait for the disk.
    pub fn challenge(&self, unpaid: &Unpaid<'_>) -> Result<Challenge, Denial> {
        // Checked first, so that a client over its limit causes no work.
        if !unpaid.is_counted {
            self.limiter
                .take_challenge(unpaid.client)
                .map_err(Denial::TooMany)?;
        }
        let made = self.issue(unpaid);
        // A challenge that was counted before the hook call stays counted.
        if !unpaid.is_counted && made.as_ref().is_err_and(Denial::took_nothing) {
            self.limiter.give_back_challenge(unpaid.client);
        }
        made
    }

    fn issue(&self, unpaid: &Unpaid<'_>) -> Result<Challenge, Denial> {
        let (offer, plan) = (unpaid.offer, unpaid.plan);
        let now_ms = self.clock.unix_ms();
        let now_secs = now_ms / 1_000;
        let (price, rate) = self.in_msat(plan.price.unwrap_or(unpaid.cost.class.price))?;
        let grant = unpaid.cost.grant(plan.grant);
        let said = unpaid.cost.quoted.as_ref();
        let said = said.and_then(|said| said.description.as_deref());
        // Randomness is read once: the first half for the payment hash, the second for the token
        // id.
        let mut random = [[0_u8; 32]; 2];
        getrandom::fill(random.as_flattened_mut()).map_err(|_| Denial::NoRandomness)?;
        let minted = self.minter.mint(&Terms {
            amount: price,
            description: &describe(&offer.service, &grant, said),
            now_secs,
            random: random[0],
        });
        let invoice = match minted {
            Ok(invoice) => invoice,
            Err(why) => self.laid_invoice(why, unpaid, price, now_ms)?,
        };
        let services = Services {
            first: (&offer.service, unpaid.cost.class.tier),
            plan,
            grant,
            price_msat: unpaid.cost.price_msat(),
            sold_as: unpaid.cost.quoted.as_ref().map(|said| said.sold_as),
        };
        // A token minted in the second of a revocation is dated one second later, so that it is not
        // revoked.
        let mintable_secs = services.names().map(|name| self.ledger.mintable_secs(name));
        let minted_secs = mintable_secs.max().unwrap_or(0).max(now_secs);
        let keys = self.keyring.in_force();
        let identifier = Identifier {
            payment_hash: invoice.payment_hash,
            token_id: TokenId::new(keys.epoch(), minted_secs, random[1]),
        };
        // An invoice paid in its last second still buys the full time. If the payment comes later,
        // the gate counts the time from the payment.
        let valid_until_secs = invoice.expires_at_secs + grant.valid.as_secs();
        let caveats = services.caveats(valid_until_secs);
        let token =
            macaroon::mint(&keys, &identifier, &caveats).expect("the current epoch is known");
        let is_default = std::ptr::eq(plan, offer.default_plan());
        self.ledger.challenge(ledger::Challenge {
            payment_hash: invoice.payment_hash,
            token_id: identifier.token_id.0,
            service: offer.service.clone(),
            route: unpaid.name.clone(),
            price_msat: price.msat(),
            challenged_ms: now_ms,
            expires_ms: invoice.expires_at_secs * 1_000,
            grant: (!is_default).then(|| plan.name.clone()),
            rate,
        });
        Ok(Challenge {
            macaroon: encode_base64(&token),
            invoice,
            price,
            grant,
            service: offer.service.clone(),
            choice: self.choice(unpaid),
            why: unpaid.why,
        })
    }

    /// Returns the invoice of the ready bundle if the client asked for that plan.
    fn laid_invoice(
        &self,
        why: Unready,
        unpaid: &Unpaid<'_>,
        price: Msat,
        now_ms: u64,
    ) -> Result<Invoice, Denial> {
        let wish = Wish {
            name: unpaid.name,
            offer: unpaid.offer,
            plan: unpaid.plan,
            network: unpaid.network,
            now_ms,
        };
        // A payment with an unreadable record does not count as paid.
        let is_paid = |payment_hash: &[u8; 32]| {
            let known = self.ledger.activation(payment_hash).ok().flatten();
            known.is_some_and(|activation| activation.settled_ms.is_some())
        };
        let instead = match self.bundles.instead(why, &wish, is_paid) {
            Instead::Invoice(invoice) => {
                let kind = "Handed out the invoice that opens a channel";
                if self.log.may(Level::INFO, kind, unpaid.name) {
                    tracing::info!(
                        payment.hash = hex::encode(invoice.payment_hash),
                        route.name = &**unpaid.name,
                        "{kind}: {price} for {} on {}",
                        unpaid.plan.name,
                        unpaid.name,
                    );
                }
                return Ok(invoice);
            }
            Instead::Other(name) => Some(name),
            Instead::Nothing => None,
        };
        Err(Denial::Unpayable { why, instead })
    }

    /// Lists the grants on sale for this request, if there are several.
    fn choice(&self, unpaid: &Unpaid<'_>) -> Vec<Choice> {
        if !unpaid.offer.has_choice() {
            return Vec::new();
        }
        let choice = |plan: &Plan| Choice {
            name: plan.name.clone(),
            price: self
                .in_msat(plan.price.unwrap_or(unpaid.cost.class.price))
                .ok()
                .map(|(price, _)| price),
            grant: unpaid.cost.grant(plan.grant),
            also: plan.also.iter().map(|(name, _)| name.clone()).collect(),
        };
        unpaid.offer.plans.iter().map(choice).collect()
    }
}

/// The description of an invoice: the hook's text, or else the grant.
pub fn describe(service: &str, grant: &Grant, said: Option<&str>) -> String {
    match said {
        Some(said) => format!("{service}: {said}"),
        None => format!("{service}: {grant}"),
    }
}

/// The contents of a token: its services and its limits.
struct Services<'a> {
    /// The requested service and its price class.
    first: (&'a str, u32),
    /// The plan that the client buys, which can open other services.
    plan: &'a Plan,
    /// The grant of the plan, with the hook's limits.
    grant: Grant,
    /// The price of a request, where a hook prices each one.
    price_msat: Option<u64>,
    /// The class under which the token is sold, for its caveat.
    sold_as: Option<SoldAs>,
}

impl<'a> Services<'a> {
    fn each(&self) -> impl Iterator<Item = (&'a str, u32)> + use<'a> {
        let also = self.plan.also.iter();
        std::iter::once(self.first).chain(also.map(|(name, tier)| (&**name, *tier)))
    }

    fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.each().map(|(name, _)| name)
    }

    /// Lists the caveats that the token is minted with. The grant appears once for each service,
    /// but its uses are counted once, by the token's id.
    fn caveats(&self, valid_until_secs: u64) -> Vec<String> {
        let listed: Vec<_> = self
            .each()
            .map(|(name, tier)| format!("{name}:{tier}"))
            .collect();
        let mut caveats = vec![format!("services={}", listed.join(","))];
        let (first, _) = self.first;
        let price_msat = self.price_msat;
        caveats.extend(price_msat.map(|price_msat| format!("{first}_price_msat={price_msat}")));
        let sold_as = self.sold_as;
        caveats.extend(sold_as.map(|sold_as| format!("{first}_class={sold_as}")));
        let grant = &self.grant;
        for name in self.names() {
            caveats.push(format!("{name}_valid_until={valid_until_secs}"));
            let limits = [
                ("requests", grant.requests),
                ("bytes", grant.bytes),
                ("seconds", grant.seconds),
            ];
            for (condition, limit) in limits {
                caveats.extend(limit.map(|limit| format!("{name}_{condition}={limit}")));
            }
        }
        caveats
    }
}

//! Issuing: an invoice and the token that its preimage will make good.

use std::sync::Arc;

use tracing::Level;

use crate::account::ledger;
use crate::base::amount::Msat;
use crate::base::pace::Room;
use crate::protocol::invoice::{Invoice, Terms, Unready};
use crate::protocol::l402::base64::encode_base64;
use crate::protocol::l402::{Identifier, SoldAs, TokenId, macaroon};
use crate::sell::quote::{AskError, HookError, Unpriced};
use crate::sell::route::{Grant, Plan, Unclassed};

use super::bundle::{Instead, Wish};
use super::{Gate, Unpaid, Why};

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
    pub service: Arc<str>,
    /// Everything that could be bought instead; empty where there is no choice.
    pub choice: Vec<Choice>,
    /// Why the request was not served.
    pub why: Why,
}

/// Something that could be bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What to ask for it by.
    pub name: Arc<str>,
    /// What it costs; `None` while a rate is missing.
    pub price: Option<Msat>,
    /// What it buys.
    pub grant: Grant,
    /// The other services that it opens.
    pub also: Vec<Arc<str>>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The node could not be paid now.
    Unpayable {
        /// Why not.
        why: Unready,
        /// What could be bought here all the same.
        instead: Option<Arc<str>>,
    },
    /// The operating system gives no randomness: nothing secret can be made.
    NoRandomness,
    /// The request has no price.
    Unclassed(Unclassed),
    /// The client wants to buy what is not sold here; the names of what is.
    UnknownGrant(String),
    /// The client, or the token, comes too often.
    TooMany(Room),
    /// What it costs is not known now.
    Unpriced(Unpriced),
}

impl Denial {
    /// Whether the denial is our doing and kept no hook busy, so that it does not count against the client. A hook
    /// that answered was kept busy, whatever its answer.
    pub(super) fn took_nothing(&self) -> bool {
        match self {
            Self::Unpayable { .. } | Self::NoRandomness => true,
            Self::Unpriced(Unpriced::Hook { why, .. }) => matches!(
                why,
                HookError::Busy | HookError::Ask(AskError::Unreachable { .. })
            ),
            Self::Unpriced(_) => true,
            Self::Unclassed(_) | Self::UnknownGrant(_) | Self::TooMany(_) => false,
        }
    }
}

impl Gate {
    /// Makes an invoice and its token. Writes nothing that anybody waits for.
    pub fn challenge(&self, unpaid: &Unpaid<'_>) -> Result<Challenge, Denial> {
        // Before anything is computed for somebody who asks too often.
        if !unpaid.is_counted {
            self.limiter
                .take_challenge(unpaid.client)
                .map_err(Denial::TooMany)?;
        }
        let made = self.issue(unpaid);
        // A challenge counted before the hook call stays counted.
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
        // One draw: the first half for the payment hash, the second for the token id.
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
        // A token that is minted in the second of a revocation is not revoked with those before it.
        let mintable_secs = services.names().map(|name| self.ledger.mintable_secs(name));
        let minted_secs = mintable_secs.max().unwrap_or(0).max(now_secs);
        let keys = self.keyring.in_force();
        let identifier = Identifier {
            payment_hash: invoice.payment_hash,
            token_id: TokenId::new(keys.epoch(), minted_secs, random[1]),
        };
        // An invoice paid in its last second still buys the full time. If it is paid later, the gate counts the
        // time from the payment.
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

    /// The invoice that was laid ready for what is asked for, if there is one.
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

    /// What could be bought for this request, where there is more than one thing.
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

/// What an invoice says it is for: what the hook says, or what is bought.
pub fn describe(service: &str, grant: &Grant, said: Option<&str>) -> String {
    match said {
        Some(said) => format!("{service}: {said}"),
        None => format!("{service}: {grant}"),
    }
}

/// The services that a token opens.
struct Services<'a> {
    /// The one that was asked for, with its price class.
    first: (&'a str, u32),
    /// What was bought, which may open others.
    plan: &'a Plan,
    /// What it is.
    grant: Grant,
    /// What a request may cost, where each has a price of its own.
    price_msat: Option<u64>,
    /// What the token is sold as, for its caveat.
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

    /// What the token is restricted to from the start. The grant stands there once for each service and is counted once,
    /// by the token's id.
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

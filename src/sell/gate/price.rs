//! The cost of one request.

use std::sync::Arc;
use std::time::Duration;

use crate::base::amount::Msat;
use crate::protocol::l402::caveat::Allowance;
use crate::protocol::l402::{Refusal, SoldAs, sold_as};
use crate::sell::quote::{Hooks, QuotedGrant, Rates};
use crate::sell::route::{Class, Grant, Offer};

/// The exchange rates and hooks that pricing depends on.
#[derive(Debug)]
pub struct Quotes {
    /// The exchange rates for prices in a currency.
    pub rates: Arc<Rates>,
    /// The hooks that price single requests.
    pub hooks: Hooks,
}

/// The cost of a request.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    /// The price, and the class that a token needs.
    pub(super) class: Class,
    /// The rest of the hook's answer; `None` on a route without a hook.
    pub(super) quoted: Option<Said>,
}

/// The hook's answer without the price.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// The description for the invoice.
    pub(super) description: Option<Arc<str>>,
    /// The grant that the payment buys.
    pub(super) grant: QuotedGrant,
    /// The class under which a token bought at this price is sold.
    pub(super) sold_as: SoldAs,
    /// Whether the hook is unavailable, so that the class of the request is unknown.
    pub(super) is_fallback: bool,
}

impl Cost {
    /// The grant that a payment buys: the hook's limits, and the route's own where the hook sets
    /// none.
    pub(super) fn grant(&self, grant: Grant) -> Grant {
        let Some(said) = &self.quoted else {
            return grant;
        };
        let valid = said.grant.valid_secs.map(Duration::from_secs);
        Grant {
            requests: said.grant.requests.or(grant.requests),
            bytes: said.grant.bytes.or(grant.bytes),
            seconds: said.grant.seconds.or(grant.seconds),
            valid: valid.unwrap_or(grant.valid),
        }
    }

    /// Whether a token was sold under the class that this request needs. Older tokens without a
    /// recorded class open the same requests as before.
    pub(super) fn is_sold_as(&self, allowance: &Allowance, offer: &Offer) -> bool {
        let (Some(said), Some(held)) = (&self.quoted, &allowance.sold_as) else {
            return true;
        };
        let grant = offer.default_plan().grant;
        let usual = sold_as::Said {
            requests: grant.requests,
            valid_secs: Some(grant.valid.as_secs()),
            bytes: grant.bytes,
            seconds: grant.seconds,
        };
        said.is_fallback || held.opens(&said.sold_as, &usual)
    }

    /// Returns the hook's grant for this request, and the validity in seconds that the token was
    /// sold with. Returns `None` unless the token was sold while the hook was unavailable, and the
    /// hook is available now.
    pub(super) fn back_after(&self, allowance: &Allowance) -> Option<(QuotedGrant, u64)> {
        let said = self.quoted.as_ref().filter(|said| !said.is_fallback)?;
        match allowance.sold_as? {
            SoldAs::Fallback(sold_secs) => Some((said.grant, sold_secs)),
            SoldAs::Class(_) | SoldAs::Grant(_) | SoldAs::Nothing => None,
        }
    }

    /// Narrows a token that was sold while the hook was unavailable to the hook's grant for this
    /// request. So a client gains nothing by taking the hook down.
    pub(super) fn limit(&self, allowance: &mut Allowance, now_secs: u64) -> Result<(), Refusal> {
        let Some((grant, sold_secs)) = self.back_after(allowance) else {
            return Ok(());
        };
        let least = |held: Option<u64>, given: Option<u64>| held.into_iter().chain(given).min();
        allowance.requests_max = least(allowance.requests_max, grant.requests);
        allowance.bytes_max = least(allowance.bytes_max, grant.bytes);
        allowance.seconds_max = least(allowance.seconds_max, grant.seconds);
        // `valid_until_secs` stays unchanged, because the ledger keeps the token's counts until
        // then.
        let sooner_secs = sold_secs.saturating_sub(grant.valid_secs.unwrap_or(sold_secs));
        let until_secs = allowance.valid_until_secs;
        if until_secs.is_some_and(|until| now_secs >= until.saturating_sub(sooner_secs)) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    /// The price that a token must have been sold at; `None` on a route without a hook.
    pub(super) fn price_msat(&self) -> Option<u64> {
        self.quoted.as_ref()?;
        self.class.price.fixed().map(Msat::msat)
    }
}

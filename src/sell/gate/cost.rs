//! The cost of a request, from the route's table or from the operator's price hook.

use std::borrow::Cow;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName};

use crate::base::amount::Msat;
use crate::base::price::{Price, Rate};
use crate::protocol::l402::caveat::Allowance;
use crate::protocol::l402::{Refusal, SoldAs, credential, sold_as};
use crate::sell::quote::{Asking, HookRequest, Hooks, QuotedGrant, Rates, Unpriced};
use crate::sell::route::{Class, Grant, Offer, Pricing, Selected, Selector, Unclassed, undisputed};

use super::issue::Denial;
use super::limit::wide_network;
use super::{Asked, Gate};

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
    grant: QuotedGrant,
    /// The class under which a token bought at this price is sold.
    pub(super) sold_as: SoldAs,
    /// Whether the hook is unavailable, so that the class of the request is unknown.
    is_fallback: bool,
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

impl From<QuotedGrant> for sold_as::Said {
    fn from(grant: QuotedGrant) -> Self {
        Self {
            requests: grant.requests,
            valid_secs: grant.valid_secs,
            bytes: grant.bytes,
            seconds: grant.seconds,
        }
    }
}

/// Returns the headers that choose the price, without our credential. The credential can share a
/// header with one for the upstream.
fn as_served<'h>(headers: &'h HeaderMap, by: &Selector) -> Cow<'h, HeaderMap> {
    match by {
        Selector::Header(name) if credential::may_be_in(name) => {
            let mut headers = headers.clone();
            credential::strip(&mut headers);
            Cow::Owned(headers)
        }
        Selector::Header(_) | Selector::Method | Selector::Query(_) => Cow::Borrowed(headers),
    }
}

/// Denies a request with a header that the upstream could read differently from the hook.
fn must_be_undisputed(headers: &HeaderMap, told: &[HeaderName]) -> Result<(), Denial> {
    if told.is_empty() {
        return Ok(());
    }
    // Our credential can share a header with one for the upstream.
    let mut headers = headers.clone();
    credential::strip(&mut headers);
    for name in told {
        if undisputed(&headers, name).is_err() {
            let by = Selector::Header(name.clone());
            return Err(Denial::Unclassed(Unclassed::Ambiguous(by.to_string())));
        }
    }
    Ok(())
}

impl Gate {
    /// Determines the cost of a request. Waits only for the hook, if the route has one.
    pub(super) async fn cost(
        &self,
        name: &str,
        offer: &Offer,
        asked: &Asked<'_>,
        is_stranger: bool,
    ) -> Result<Cost, Denial> {
        let in_settings = |class| Cost {
            class,
            quoted: None,
        };
        let asked_of = match &offer.pricing {
            Pricing::Flat(class) => return Ok(in_settings(*class)),
            Pricing::Table(table) => {
                let headers = as_served(asked.headers, &table.by);
                let selected = Selected {
                    method: asked.method,
                    query: asked.query,
                    headers: &headers,
                };
                let class = table.class(&selected);
                return class.map(in_settings).map_err(Denial::Unclassed);
            }
            Pricing::Hook(hook) => hook,
        };
        let quotes = self.quotes.get();
        let gone = || Denial::Unpriced(Unpriced::NoHook(asked_of.clone()));
        let hook = quotes.hooks.named(asked_of).ok_or_else(gone)?;
        must_be_undisputed(asked.headers, hook.headers())?;
        let request = HookRequest {
            method: asked.method,
            path: asked.path.as_str(),
            query: asked.query,
            headers: asked.headers,
            service: &offer.service,
            route: name,
        };
        // All clients without a known address count as one network.
        let network = asked.client.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let network = wide_network(network);
        let asking = if is_stranger {
            Asking::Stranger(network)
        } else {
            Asking::Holder(network)
        };
        let quoted = hook.quote_for(&request, Some(asking)).await;
        let quoted = quoted.map_err(Denial::Unpriced)?;
        Ok(Cost {
            class: Class {
                price: Price::Fixed(quoted.price),
                tier: 0,
            },
            quoted: Some(Said {
                description: quoted.description,
                grant: quoted.grant,
                sold_as: match quoted.class {
                    _ if quoted.is_fallback => {
                        SoldAs::Fallback(offer.default_plan().grant.valid.as_secs())
                    }
                    Some(class) => SoldAs::Class(class),
                    None => SoldAs::Grant(quoted.grant.into()),
                },
                is_fallback: quoted.is_fallback,
            }),
        })
    }

    /// Converts a price to bitcoin. Also returns the exchange rate, if one was needed.
    pub(super) fn in_msat(&self, price: Price) -> Result<(Msat, Option<Rate>), Denial> {
        let quotes = self.quotes.get();
        quotes.rates.in_msat(price).map_err(Denial::Unpriced)
    }
}

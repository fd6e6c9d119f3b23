//! What a request costs: by the route's table, or by what the operator's hook says of it.

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

use super::limit::wide_network;
use super::{Asked, Denial, Gate};

/// What pricing asks the world.
#[derive(Debug)]
pub struct Quotes {
    /// What prices in a currency go by.
    pub rates: Arc<Rates>,
    /// What sets prices by the request.
    pub hooks: Hooks,
}

/// What a request costs.
#[derive(Clone, Debug)]
pub(super) struct Cost {
    /// The price, and the class that a token has to have.
    pub(super) class: Class,
    /// What a hook said besides.
    pub(super) quoted: Option<Said>,
}

/// What a hook said besides the price.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// What the invoice says.
    pub(super) description: Option<Arc<str>>,
    /// What the payment buys.
    grant: QuotedGrant,
    /// What a token bought at this price is sold as.
    pub(super) sold_as: SoldAs,
    /// Whether the hook is away, so that the request's class is not known.
    is_fallback: bool,
}

impl Cost {
    /// What a payment buys: the route's grant, but for what a hook says.
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

    /// Whether a token was sold as what this request needs. Tokens sold before this was recorded open what they did
    /// before.
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

    /// The hook's grant for this request, and the seconds for which the route's own grant was sold while the hook
    /// was away. `None` if the token was not sold that way, or if the hook is still away.
    pub(super) fn back_after(&self, allowance: &Allowance) -> Option<(QuotedGrant, u64)> {
        let said = self.quoted.as_ref().filter(|said| !said.is_fallback)?;
        match allowance.sold_as? {
            SoldAs::Fallback(sold_secs) => Some((said.grant, sold_secs)),
            SoldAs::Class(_) | SoldAs::Grant(_) | SoldAs::Nothing => None,
        }
    }

    /// Limits a token that was sold while the hook was away to the grant that the hook gives for this request. So
    /// no client gains by taking the hook down.
    pub(super) fn limit(&self, allowance: &mut Allowance, now_secs: u64) -> Result<(), Refusal> {
        let Some((grant, sold_secs)) = self.back_after(allowance) else {
            return Ok(());
        };
        let least = |held: Option<u64>, given: Option<u64>| held.into_iter().chain(given).min();
        allowance.requests_max = least(allowance.requests_max, grant.requests);
        allowance.bytes_max = least(allowance.bytes_max, grant.bytes);
        allowance.seconds_max = least(allowance.seconds_max, grant.seconds);
        // The allowance keeps the token's own end, because the ledger keeps the counts until then.
        let sooner_secs = sold_secs.saturating_sub(grant.valid_secs.unwrap_or(sold_secs));
        let until_secs = allowance.valid_until_secs;
        if until_secs.is_some_and(|until| now_secs >= until.saturating_sub(sooner_secs)) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    /// What a token must have been worth, where each request has a price of its own.
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

/// The headers that choose the price, without our credential, which may share a header with one for the upstream.
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

/// Whoever serves the request must not read in it what the hook was not told.
fn must_be_undisputed(headers: &HeaderMap, told: &[HeaderName]) -> Result<(), Denial> {
    if told.is_empty() {
        return Ok(());
    }
    // A credential of ours may stand beside one for the upstream.
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
    /// What this request costs. Waits for the hook, if the route has one, and for nothing else.
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
        // Clients without a known address count as one network.
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

    /// A price in bitcoin, and the rate at which it is.
    pub(super) fn in_msat(&self, price: Price) -> Result<(Msat, Option<Rate>), Denial> {
        let quotes = self.quotes.get();
        quotes.rates.in_msat(price).map_err(Denial::Unpriced)
    }
}

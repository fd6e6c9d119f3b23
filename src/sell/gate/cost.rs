//! The cost of a request, from the route's table or from the operator's price hook.

use std::borrow::Cow;
use std::net::Ipv4Addr;

use http::header::{HeaderMap, HeaderName};

use crate::base::amount::Msat;
use crate::base::price::{Price, Rate};
use crate::protocol::l402::{SoldAs, credential, sold_as};
use crate::sell::quote::{Asking, HookRequest, QuotedGrant, Unpriced};
use crate::sell::route::{Class, Offer, Pricing, Selected, Selector, Unclassed, undisputed};

use super::challenge::Denial;
use super::decision::Asked;
use super::limit::wide_network;
use super::price::{Cost, Said};
use super::state::Gate;

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

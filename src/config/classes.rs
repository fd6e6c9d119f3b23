//! Price classes: ranks the prices of a service, so that a token for a cheap request never opens a
//! more expensive one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::price::{Currency, Price};
use crate::sell::route::{Access, Class, Offer, OfferError, Pricing, Route};

use super::meaning::Meaning;
use super::offers::UNRANKED;

impl Meaning<'_> {
    /// Gives every price of a service its class: a token for a cheap request never opens a more
    /// expensive one.
    pub(super) fn price_classes(&mut self, routes: &mut [Route]) {
        let mut services: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        for (index, route) in routes.iter().enumerate() {
            if let Access::Paid(offer) = &route.access {
                services
                    .entry(offer.service.clone())
                    .or_default()
                    .push(index);
            }
        }
        for (service, members) in &services {
            self.classes_of_service(service, members, routes);
        }
        for (number, route) in (1..).zip(routes.iter()) {
            if let Access::Paid(offer) = &route.access {
                self.must_be_sellable(number, offer);
            }
        }
        self.bundles(&services, routes);
    }

    fn classes_of_service(&mut self, service: &str, members: &[usize], routes: &mut [Route]) {
        let classes = |routes: &[Route]| -> Vec<(usize, Class)> {
            let of_route = |index: &usize| {
                let classes = offer(&routes[*index]).into_iter();
                let classes = classes.flat_map(|offer| offer.pricing.classes().copied());
                classes.map(|class| (*index, class)).collect::<Vec<_>>()
            };
            members.iter().flat_map(of_route).collect()
        };
        let is_hooked = |index: &&usize| {
            offer(&routes[**index]).is_some_and(|offer| matches!(offer.pricing, Pricing::Hook(_)))
        };
        let hooked = members.iter().filter(is_hooked).count();
        if hooked > 0 && hooked < members.len() {
            let number = members[0] + 1;
            self.complain(
                &format!("route[{number}].service"),
                format!(
                    "some prices of service `{service}` are set by a hook and others are not, so nobody can say which are dearer: \
                     give them services of their own"
                ),
            );
            return;
        }
        let all = classes(routes);
        let unranked = all
            .iter()
            .filter(|(_, class)| class.tier == UNRANKED)
            .count();
        if unranked == all.len() {
            self.same_grants(service, members, routes);
            self.rank(service, &all, members, routes);
        } else if let Some((index, _)) = all.iter().find(|(_, class)| class.tier == UNRANKED) {
            self.complain(
                &format!("route[{}].price", index + 1),
                format!("other prices of service `{service}` have a `tier`: give this one its own"),
            );
        }
        // A price must have a higher class than every lower price, or the token for the lower price
        // would open it.
        let all = classes(routes);
        for (index, dear) in &all {
            let opener = all.iter().find(|(_, cheap)| cheap.opens_dearer(dear));
            if let Some((_, cheap)) = opener.filter(|_| dear.tier != UNRANKED) {
                self.complain(
                    &format!("route[{}].price", index + 1),
                    format!(
                        "a token for {} (tier {}) of service `{service}` would open what costs {} (tier {}): a dearer price needs \
                         a higher tier",
                        cheap.price, cheap.tier, dear.price, dear.tier
                    ),
                );
            }
        }
    }

    /// Checks an offer of the settings by the rules for an offer made in code. Classes that
    /// undercut each other have already been reported.
    fn must_be_sellable(&mut self, number: usize, offer: &Offer) {
        match offer.check() {
            Ok(()) | Err(OfferError::Undercut { .. }) => {}
            Err(error) => {
                self.complain(
                    &format!("route[{number}].{}", error.key()),
                    error.to_string(),
                );
            }
        }
    }

    /// Requires equal grants in all routes of a service without `tier`: there, only the price
    /// separates two classes.
    fn same_grants(&mut self, service: &str, members: &[usize], routes: &[Route]) {
        let grant = |index: &usize| offer(&routes[*index]).map(|offer| offer.default_plan().grant);
        let Some((first, others)) = members.split_first() else {
            return;
        };
        for other in others {
            if let (Some(known), Some(grant)) = (grant(first), grant(other))
                && known != grant
            {
                self.complain(
                    &format!("route[{}].grant", other + 1),
                    format!(
                        "service `{service}` grants {known} in route {} and {grant} here: a token bought there would open this \
                         one, so give it another service name, the same grant, or each a `tier`",
                        first + 1
                    ),
                );
            }
        }
    }

    /// Ranks the prices: the cheapest is class 0, the next one class 1, and so on.
    fn rank(
        &mut self,
        service: &str,
        all: &[(usize, Class)],
        members: &[usize],
        routes: &mut [Route],
    ) {
        let Some((_, first)) = all.first() else {
            return;
        };
        if let Some((index, odd)) = all
            .iter()
            .find(|(_, class)| units(class.price) != units(first.price))
        {
            self.complain(
                &format!("route[{}].price", index + 1),
                format!(
                    "service `{service}` costs {} and {}, of which nobody can say which is dearer: give each a `tier`, or another \
                     service name",
                    first.price, odd.price
                ),
            );
            return;
        }
        let mut amounts: Vec<_> = all.iter().map(|(_, class)| amount(class.price)).collect();
        amounts.sort_unstable();
        amounts.dedup();
        for index in members {
            let Access::Paid(offer) = &mut routes[*index].access else {
                continue;
            };
            for class in offer.pricing.classes_mut() {
                let rank = amounts
                    .iter()
                    .position(|known| *known == amount(class.price));
                class.tier = rank
                    .and_then(|rank| rank.try_into().ok())
                    .unwrap_or(UNRANKED);
            }
        }
    }

    /// Checks that the other services of a grant are sold by a route, and up to a known class.
    fn bundles(&mut self, services: &BTreeMap<Arc<str>, Vec<usize>>, routes: &mut [Route]) {
        let top = |service: &str| -> Option<(u32, usize)> {
            let members = services.get(service)?;
            let mut tiers: Vec<_> = members
                .iter()
                .filter_map(|index| offer(&routes[*index]))
                .flat_map(|offer| offer.pricing.classes().map(|class| class.tier))
                .collect();
            tiers.sort_unstable();
            tiers.dedup();
            Some((*tiers.last()?, tiers.len()))
        };
        let tops: BTreeMap<Arc<str>, (u32, usize)> = services
            .keys()
            .filter_map(|service| Some((service.clone(), top(service)?)))
            .collect();
        for (number, route) in (1..).zip(routes) {
            let Access::Paid(offer) = &mut route.access else {
                continue;
            };
            let own = offer.service.clone();
            for plan in &mut offer.plans {
                for (service, tier) in &mut plan.also {
                    let what = match tops.get(service) {
                        // A grant that lists its own service was reported before.
                        _ if *service == own => None,
                        None if services.contains_key(service) => Some(format!(
                            "a hook sets the prices of `{service}`: a token for any of them cannot be part of a bundle"
                        )),
                        None => Some(format!("no route sells a service `{service}`")),
                        Some((_, classes)) if *classes > 1 && *tier == UNRANKED => Some(format!(
                            "service `{service}` has several price classes: say up to which, as in \"{service}:0\""
                        )),
                        Some((top, _)) => {
                            if *tier == UNRANKED {
                                *tier = *top;
                            }
                            None
                        }
                    };
                    if let Some(what) = what {
                        self.complain(&format!("route[{number}].grant.services"), what);
                    }
                }
            }
        }
    }
}

fn offer(route: &Route) -> Option<&Offer> {
    match &route.access {
        Access::Free => None,
        Access::Paid(offer) => Some(offer),
    }
}

/// The unit of a price. Prices in the same unit can be compared; `None` is bitcoin.
pub(super) fn units(price: Price) -> Option<Currency> {
    match price {
        Price::Fixed(_) => None,
        Price::Fiat(fiat) => Some(fiat.currency),
    }
}

pub(super) fn amount(price: Price) -> u64 {
    match price {
        Price::Fixed(amount) => amount.msat(),
        Price::Fiat(fiat) => fiat.micros,
    }
}

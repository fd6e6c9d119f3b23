//! The sold tokens that new settings invalidate: tokens of a service that is no longer sold, or of
//! a price class that now opens less.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::account::ledger::{Ledger, LedgerError, Living};
use crate::base::price::Price;
use crate::operate::api::Broken;
use crate::sell::route::{Access, Offer, Plan, RouteTable};

/// The time that a token may be valid beyond its grant: the longest time to pay its invoice.
const INVOICE_MAX_SECS: u64 = 86_400;

/// A reason why the new settings refuse a token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    /// The service is no longer sold.
    Service,
    /// The same price is now in a higher class.
    Class { price: String, old: u32, new: u32 },
}

/// The differences between two route tables.
struct Changes<'a> {
    before: &'a RouteTable,
    after: &'a RouteTable,
    /// Prices that move to a higher class: service, price, old class and new class.
    raised: Vec<(Arc<str>, Price, u32, u32)>,
}

/// Lists the tokens that a change of tables breaks, each kind with its count of valid tokens. A
/// count may be zero.
pub(super) fn broken(
    before: &RouteTable,
    after: &RouteTable,
    ledger: &Ledger,
    now_secs: u64,
) -> Result<Vec<Broken>, LedgerError> {
    let mut raised = before.classes_moved(after);
    raised.retain(|(_, _, old, new)| new > old);
    let changes = Changes {
        before,
        after,
        raised,
    };
    let mut losses = changes.possible();
    if losses.is_empty() {
        return Ok(Vec::new());
    }
    let plans = offers(before).flat_map(|offer| &offer.plans);
    let valid_secs = plans.map(|plan| plan.grant.valid.as_secs()).max();
    let since_secs = now_secs.saturating_sub(valid_secs.unwrap_or(0) + INVOICE_MAX_SECS);
    let are_all = ledger.each_living(since_secs * 1_000, |living| {
        if let Some(key) = changes.loss_of(living, now_secs)
            && let Some(count) = losses.get_mut(&key)
        {
            *count += 1;
        }
    })?;
    Ok(losses
        .into_iter()
        .map(|((service, loss), tokens)| Broken {
            what: told(&service, &loss),
            service,
            tokens,
            are_all_counted: are_all,
        })
        .collect())
}

fn told(service: &str, loss: &Loss) -> String {
    match loss {
        Loss::Service => format!(
            "no route sells {service} after the reload: its tokens become invalid. Keep the name to keep them valid"
        ),
        Loss::Class { price, old, new } => format!(
            "{price} of service {service} was price class {old} and is {new} after the reload: tokens sold at that \
             price then open only cheaper requests. Write `tier` beside the prices to keep them valid"
        ),
    }
}

fn offers(table: &RouteTable) -> impl Iterator<Item = &Offer> {
    table.iter().filter_map(|route| match &route.access {
        Access::Paid(offer) => Some(&**offer),
        Access::Free => None,
    })
}

impl Changes<'_> {
    /// Every possible loss, with a count of zero.
    fn possible(&self) -> BTreeMap<(String, Loss), u64> {
        let gone = offers(self.before).filter(|offer| !self.is_sold_later(&offer.service));
        let gone = gone.map(|offer| (offer.service.to_string(), Loss::Service));
        let raised = self.raised.iter().map(|(service, price, old, new)| {
            let loss = Loss::Class {
                price: price.to_string(),
                old: *old,
                new: *new,
            };
            (service.to_string(), loss)
        });
        gone.chain(raised).map(|key| (key, 0)).collect()
    }

    fn is_sold_later(&self, service: &str) -> bool {
        offers(self.after).any(|offer| &*offer.service == service)
    }

    /// The loss of this sale's token; `None` if the token stays valid or was already invalid.
    fn loss_of(&self, living: &Living, now_secs: u64) -> Option<(String, Loss)> {
        let service = living.sale.service.as_deref()?;
        let name = living.sale.grant.as_deref();
        let (offer, plan) = offers(self.before)
            .filter(|offer| &*offer.service == service)
            .find_map(|offer| {
                let mut plans = offer.plans.iter();
                let plan = match name {
                    None => Some(offer.default_plan()),
                    Some(name) => plans.find(|plan| &*plan.name == name),
                };
                Some((offer, plan?))
            })?;
        if !is_good(living, plan, now_secs) {
            return None;
        }
        if !self.is_sold_later(service) {
            let opens_another = plan.also.iter().any(|(other, _)| self.is_sold_later(other));
            return (!opens_another).then(|| (service.to_owned(), Loss::Service));
        }
        let of_service = self.raised.iter().filter(|it| &*it.0 == service);
        let mut sold_at = of_service.filter(|(_, price, _, _)| match (plan.price, price) {
            // A grant with its own price is sold in the most expensive class.
            (Some(_), price) => offer
                .pricing
                .classes()
                .all(|class| !is_dearer(class.price, *price)),
            (None, Price::Fixed(amount)) => living.sale.price_msat == Some(amount.msat()),
            // The current exchange rate says nothing about the rate at the time of the sale.
            (None, Price::Fiat(_)) => living.sale.rate.is_some(),
        });
        let (_, price, old, new) = sold_at.next()?;
        let loss = Loss::Class {
            price: price.to_string(),
            old: *old,
            new: *new,
        };
        Some((service.to_owned(), loss))
    }
}

/// Whether the first price is known to be above the second.
fn is_dearer(one: Price, other: Price) -> bool {
    match (one, other) {
        (Price::Fixed(one), Price::Fixed(other)) => one > other,
        (Price::Fiat(one), Price::Fiat(other)) => {
            one.currency == other.currency && one.micros > other.micros
        }
        (Price::Fixed(_), Price::Fiat(_)) | (Price::Fiat(_), Price::Fixed(_)) => false,
    }
}

/// Whether the token has time and use left.
fn is_good(living: &Living, plan: &Plan, now_secs: u64) -> bool {
    let Living { sale, used } = living;
    let from_ms = sale.expires_ms.unwrap_or(0).max(sale.settled_ms);
    let until_secs = used.as_ref().and_then(|used| used.valid_until_secs);
    let until_secs = until_secs.unwrap_or(from_ms / 1_000 + plan.grant.valid.as_secs());
    let has_left = |limit: Option<u64>, used: u64| limit.is_none_or(|limit| used < limit);
    let grant = &plan.grant;
    now_secs < until_secs
        && used.as_ref().is_none_or(|used| {
            has_left(grant.requests, used.requests)
                && has_left(grant.bytes, used.bytes)
                && has_left(grant.seconds, used.metered_ms / 1_000)
        })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use crate::account::ledger::record::Revoked;
    use crate::account::ledger::{Challenge, Config, Payment};
    use crate::base::clock::Clock;
    use crate::sell::route::{
        Class, Grant, Pattern, PriceTable, Pricing, Resource, Route, Selector,
    };

    use super::*;

    const NOW_SECS: u64 = 1_760_000_000;

    /// A table with one route that sells this service in classes of these prices, cheapest first.
    fn table(service: &str, prices: &[&str]) -> RouteTable {
        let classes = (0..).zip(prices).map(|(tier, price)| {
            let price = price.parse().unwrap();
            (tier.to_string(), Class { price, tier })
        });
        let mut offer = Offer::new(service, "1 sat".parse().unwrap(), Grant::default());
        offer.pricing = Pricing::Table(PriceTable {
            by: Selector::Query("size".to_owned()),
            values: classes.collect(),
            missing: None,
        });
        let route = Route {
            name: "/a/*".into(),
            pattern: Pattern::parse("/a/*").unwrap(),
            methods: vec![],
            access: Access::Paid(Box::new(offer)),
            resource: Resource::Files { folder: "/".into() },
        };
        RouteTable::new(vec![route]).unwrap()
    }

    /// A ledger with sales of `images`, each with its age and price.
    fn books(sales: &[(u64, u64)]) -> (Ledger, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            folder: folder.path().join("ledger"),
            challenges_max: 100,
            quotas_max: 100,
        };
        let clock = Clock::fixed(NOW_SECS);
        let ledger = Ledger::open(&config, clock).unwrap();
        for (number, (ago_secs, price_msat)) in (1..).zip(sales) {
            let challenged_ms = (NOW_SECS - ago_secs) * 1_000;
            ledger.challenge(Challenge {
                payment_hash: [number; 32],
                token_id: [number; 32],
                service: "images".into(),
                route: "/a/*".into(),
                price_msat: *price_msat,
                challenged_ms,
                expires_ms: challenged_ms + 600_000,
                grant: None,
                rate: None,
            });
            let payment = Payment {
                payment_hash: [number; 32],
                amount_msat: *price_msat,
            };
            ledger.settle(payment).unwrap();
        }
        (ledger, folder)
    }

    fn lost(
        before: &RouteTable,
        after: &RouteTable,
        ledger: &Ledger,
        now_secs: u64,
    ) -> Vec<(String, u64)> {
        let broken = broken(before, after, ledger, now_secs).unwrap();
        let shown = broken.into_iter().map(|it| {
            assert!(it.are_all_counted);
            (it.what, it.tokens)
        });
        shown.collect()
    }

    #[test]
    fn renaming_a_service_ends_all_its_valid_tokens() {
        let (ledger, _folder) = books(&[(0, 1_000), (60, 9_000), (120, 1_000)]);
        ledger.revoke(Revoked::Token([3; 32]), "").unwrap();
        let before = table("images", &["1 sat", "9 sat"]);
        let after = table("pictures", &["1 sat", "9 sat"]);
        let lost_now = lost(&before, &after, &ledger, NOW_SECS);
        assert_eq!(lost_now.len(), 1);
        assert!(
            lost_now[0].0.contains("images after the reload"),
            "{lost_now:?}"
        );
        assert_eq!(lost_now[0].1, 2, "one was revoked");
        let a_week_later = NOW_SECS + 7 * 86_400;
        assert_eq!(lost(&before, &after, &ledger, a_week_later)[0].1, 0);
        assert_eq!(lost(&before, &before, &ledger, NOW_SECS), []);
    }

    #[test]
    fn a_new_cheapest_price_ends_tokens_of_the_other_classes() {
        let (ledger, _folder) = books(&[(0, 1_000), (0, 9_000), (60, 9_000)]);
        let before = table("images", &["1 sat", "9 sat"]);
        let after = table("images", &["1 sat", "5 sat", "9 sat"]);
        let lost_now = lost(&before, &after, &ledger, NOW_SECS);
        assert_eq!(lost_now.len(), 1);
        assert!(
            lost_now[0].0.contains("was price class 1 and is 2"),
            "{lost_now:?}"
        );
        assert_eq!(lost_now[0].1, 2);
        let dearer = table("images", &["1 sat", "9 sat", "20 sat"]);
        assert_eq!(lost(&before, &dearer, &ledger, NOW_SECS), []);
    }
}

//! What the guards of a program sell, looked at together: what settings are held to when they are read, code is held to here.

use std::sync::Arc;

use crate::gate::Quotes;
use crate::live::Live;
use crate::price::{Currency, Price, PriceError};
use crate::quote::Unpriced;
use crate::route::{Class, Grant, Offer, Pricing, is_name};

/// Why there is no such guard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    /// The price cannot be read.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// It would make tokens that never verify.
    #[error("`{0}` is no name for a service or a grant: 1 to 64 of a-z, 0-9, - and _")]
    Name(Arc<str>),
    /// Nothing could be asked for in exchange for a payment.
    #[error("service `{0}` offers a grant of nothing: at least 1, or `None` for any number")]
    GrantOfNothing(Arc<str>),
    /// Nobody could say what is bought.
    #[error("service `{0}` offers no grant, or two of one name")]
    Plans(Arc<str>),
    /// A price of nothing.
    #[error("service `{0}` has a price of zero: leave the guard away from what is free")]
    PriceOfNothing(Arc<str>),
    /// A price in a currency that nobody knows the rate of.
    #[error("no rate is known for {0}: say where it comes from in a `[[rate]]` table")]
    Currency(Currency),
    /// A hook that is not there.
    #[error("there is no hook `{0}`: describe it in a `[[hook]]` table")]
    Hook(Arc<str>),
    /// A token for one request would open a dearer one.
    #[error(
        "a token for {cheap} (tier {cheap_tier}) of service `{service}` would open what costs {dear} (tier {dear_tier}): a \
         dearer price needs a higher tier, or a service of its own"
    )]
    Undercut {
        /// The service.
        service: Arc<str>,
        /// What the token costs.
        cheap: Price,
        /// The class of it.
        cheap_tier: u32,
        /// What it would open.
        dear: Price,
        /// The class of that.
        dear_tier: u32,
    },
    /// Two guards of one service and one class that sell different things.
    #[error(
        "service `{0}` is guarded twice, at another price or for another grant: a token bought at one would open the other, \
         so give them services or tiers of their own"
    )]
    Different(Arc<str>),
}

/// Adds what a guard sells to what the others do, if it goes together with them and with the settings.
pub(super) fn add(
    offers: &Live<Vec<Offer>>,
    quotes: &Quotes,
    offer: &Offer,
) -> Result<(), GuardError> {
    check(offer)?;
    can_be_priced(
        offer,
        |currency| quotes.rates.rate(currency) != Err(Unpriced::NoRate(currency)),
        |name| quotes.hooks.named(name).is_some(),
    )?;
    offers.update(|others| {
        if others.contains(offer) {
            return Ok(others.clone());
        }
        for other in others.iter().filter(|it| it.service == offer.service) {
            go_together(other, offer)?;
        }
        Ok(others.iter().chain([offer]).cloned().collect())
    })
}

/// Whether there is all that its prices want to know.
pub(crate) fn can_be_priced(
    offer: &Offer,
    is_rate_known: impl Fn(Currency) -> bool,
    is_hook: impl Fn(&str) -> bool,
) -> Result<(), GuardError> {
    for price in prices(offer) {
        if let Price::Fiat(fiat) = price
            && !is_rate_known(fiat.currency)
        {
            return Err(GuardError::Currency(fiat.currency));
        }
    }
    match &offer.pricing {
        Pricing::Hook(name) if !is_hook(name) => Err(GuardError::Hook(name.clone())),
        Pricing::Hook(_) | Pricing::Flat(_) | Pricing::Table(_) => Ok(()),
    }
}

/// Every price that the offer names.
fn prices(offer: &Offer) -> impl Iterator<Item = Price> {
    let of_requests = offer.pricing.classes().map(|class| class.price);
    of_requests.chain(offer.plans.iter().filter_map(|plan| plan.price))
}

/// What is wrong with it by itself.
fn check(offer: &Offer) -> Result<(), GuardError> {
    let service = || offer.service.clone();
    let also = offer.plans.iter().flat_map(|plan| &plan.also);
    let names = std::iter::once(&offer.service)
        .chain(offer.plans.iter().map(|plan| &plan.name))
        .chain(also.map(|(name, _)| name));
    for name in names {
        if !is_name(name) {
            return Err(GuardError::Name(name.clone()));
        }
    }
    let mut plans: Vec<_> = offer.plans.iter().map(|plan| &plan.name).collect();
    plans.sort_unstable();
    plans.dedup();
    if plans.is_empty() || plans.len() < offer.plans.len() {
        return Err(GuardError::Plans(service()));
    }
    if offer.plans.iter().any(|plan| is_nothing(&plan.grant)) {
        return Err(GuardError::GrantOfNothing(service()));
    }
    let is_free = |price: Price| match price {
        Price::Fixed(amount) => amount.msat() == 0,
        Price::Fiat(fiat) => fiat.micros == 0,
    };
    if prices(offer).any(is_free) {
        return Err(GuardError::PriceOfNothing(service()));
    }
    let classes: Vec<&Class> = offer.pricing.classes().collect();
    not_undercut(&offer.service, &classes)
}

fn is_nothing(grant: &Grant) -> bool {
    let limits = [grant.requests, grant.bytes, grant.seconds];
    limits.contains(&Some(0)) || grant.valid.as_secs() == 0
}

/// Whether two offers of one service can be told apart by their tokens, as far as they have to be.
fn go_together(one: &Offer, other: &Offer) -> Result<(), GuardError> {
    let different = || GuardError::Different(one.service.clone());
    let classes: Vec<&Class> = one
        .pricing
        .classes()
        .chain(other.pricing.classes())
        .collect();
    not_undercut(&one.service, &classes)?;
    let is_asked = |offer: &Offer| matches!(offer.pricing, Pricing::Hook(_));
    if is_asked(one) || is_asked(other) {
        let is_same = one.pricing == other.pricing && one.plans == other.plans;
        return if is_same { Ok(()) } else { Err(different()) };
    }
    let is_other = |(one_class, other_class): (&Class, &Class)| {
        one_class.tier == other_class.tier
            && (one_class.price != other_class.price || one.plans != other.plans)
    };
    let pairs = one.pricing.classes().flat_map(|one_class| {
        let others = other.pricing.classes();
        others.map(move |other_class| (one_class, other_class))
    });
    if pairs.into_iter().any(is_other) {
        return Err(different());
    }
    Ok(())
}

fn not_undercut(service: &Arc<str>, classes: &[&Class]) -> Result<(), GuardError> {
    for dear in classes {
        if let Some(cheap) = classes.iter().find(|cheap| cheap.opens_dearer(dear)) {
            return Err(GuardError::Undercut {
                service: service.clone(),
                cheap: cheap.price,
                cheap_tier: cheap.tier,
                dear: dear.price,
                dear_tier: dear.tier,
            });
        }
    }
    Ok(())
}

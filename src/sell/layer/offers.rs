//! Checks the offers of all guards in a program together, by the same rules as the settings.

use crate::base::live::Live;
use crate::base::price::{Currency, Price};
use crate::sell::gate::Quotes;
use crate::sell::quote::Unpriced;
use crate::sell::route::{Class, Offer, Pricing, not_undercut};

pub use crate::sell::route::OfferError as GuardError;

/// Adds the offer of a guard, if it is compatible with those of the other guards and with the
/// settings.
pub(super) fn add(
    offers: &Live<Vec<Offer>>,
    quotes: &Quotes,
    offer: &Offer,
) -> Result<(), GuardError> {
    offer.check()?;
    can_be_priced(
        offer,
        |currency| quotes.rates.rate(currency) != Err(Unpriced::NoRate(currency)),
        |name| quotes.hooks.named(name).is_some(),
    )?;
    offers.update(|others| {
        if others.contains(offer) {
            return Ok(others.clone());
        }
        for other in others {
            other.bundles_a_hook(offer)?;
            offer.bundles_a_hook(other)?;
        }
        for other in others.iter().filter(|it| it.service == offer.service) {
            go_together(other, offer)?;
        }
        Ok(others.iter().chain([offer]).cloned().collect())
    })
}

/// Checks that the exchange rates and hooks for the offer's prices exist.
pub(crate) fn can_be_priced(
    offer: &Offer,
    is_rate_known: impl Fn(Currency) -> bool,
    is_hook: impl Fn(&str) -> bool,
) -> Result<(), GuardError> {
    for price in offer.prices() {
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

/// Checks that a token for one of two offers of the same service does not wrongly open the other.
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

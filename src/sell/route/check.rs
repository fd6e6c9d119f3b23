//! Whether an offer makes sense by itself: one place for what settings say and for what code says.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::price::{Currency, Price, PriceError};

use super::{Class, Grant, Offer, PriceTable, Pricing, is_name};

/// The longest time of a grant: a hundred years. What is more fits no date.
const VALID_SECS_MAX: u64 = 100 * 365 * 86_400;

/// Grants to choose from on one route, at most: the 402 lists them.
pub const PLANS_MAX: usize = 16;

/// Services that one token opens besides its own, at most: each adds some 150 bytes to the token.
pub const SERVICES_MAX: usize = 8;

/// Values of a table of prices, at most.
pub const VALUES_MAX: usize = 64;

/// Why something cannot be sold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The price cannot be read.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// It would make tokens that never verify.
    #[error("`{0}` is not a valid name of a service or a grant: 1 to 64 of a-z, 0-9, - and _")]
    Name(Arc<str>),
    /// Nothing could be asked for in exchange for a payment.
    #[error("service `{0}` offers a grant of nothing: at least 1, or `None` for any number")]
    GrantOfNothing(Arc<str>),
    /// A time that no date can hold.
    #[error("service `{0}` offers a grant for more than a hundred years")]
    GrantOfAges(Arc<str>),
    /// It is not clear what is bought.
    #[error("service `{0}` offers no grant, or two of one name")]
    Plans(Arc<str>),
    /// More than a token or a 402 has room for.
    #[error("service `{service}` has more than {most} {what}")]
    TooMany {
        /// The service.
        service: Arc<str>,
        /// Of what.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// A price of nothing.
    #[error("service `{0}` has a price of zero: do not guard what is free")]
    PriceOfNothing(Arc<str>),
    /// A table of prices in which nothing can be found, or not one thing.
    #[error("service `{0}` has a table of prices without values, or with one of them twice")]
    Values(Arc<str>),
    /// A free quota that gives nothing.
    #[error("service `{0}` has a free quota of nothing: at least 1 request in 1 second")]
    QuotaOfNothing(Arc<str>),
    /// A price in a currency without a rate.
    #[error("no rate is known for {0}: say where it comes from in a `[[rate]]` table")]
    Currency(Currency),
    /// A hook that is not there.
    #[error("there is no hook `{0}`: describe it in a `[[hook]]` table")]
    Hook(Arc<str>),
    /// A grant at a fixed price where each request has its own.
    #[error(
        "a hook sets the price of each request of service `{0}`, and a grant at a fixed price could undercut it: let the hook answer \
         with a `grant`"
    )]
    GrantsBesideHook(Arc<str>),
    /// A grant that is cheaper than one of its requests.
    #[error(
        "`{plan}` costs {price} and can be bought with a request that costs {dear} alone: it must not cost less than the dearest \
         request"
    )]
    CheapGrant {
        /// The grant.
        plan: Arc<str>,
        /// Its price.
        price: Price,
        /// The price of the dearest request.
        dear: Price,
    },
    /// Two rules that exclude each other.
    #[error(
        "what the upstream of service `{0}` says of its work is known too late to cut by: leave out `metered_by`, or serve what runs \
         over"
    )]
    CutByMeter(Arc<str>),
    /// A grant that names its own service, perhaps with another class.
    #[error("the route's own service is always in it: take `{0}` out of the grant's services")]
    OwnService(Arc<str>),
    /// A grant that opens a service whose prices a hook sets.
    #[error("a hook sets the prices of `{0}`: a token for any of them cannot be part of a bundle")]
    BundledHook(Arc<str>),
    /// A token for one request would open a dearer one.
    #[error(
        "a token for {cheap} (tier {cheap_tier}) of service `{service}` would open what costs {dear} (tier {dear_tier}): a \
         dearer price needs a higher tier, or a service of its own"
    )]
    Undercut {
        /// The service.
        service: Arc<str>,
        /// The price of the token.
        cheap: Price,
        /// The class of it.
        cheap_tier: u32,
        /// The price of the request that it would open.
        dear: Price,
        /// The class of that request.
        dear_tier: u32,
    },
    /// Two guards of one service and one class that sell different things.
    #[error(
        "service `{0}` is guarded twice, at another price or for another grant: a token bought at one would open the other, \
         so give them services or tiers of their own"
    )]
    Different(Arc<str>),
}

impl OfferError {
    /// The key of a route's settings that it is about.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Name(_) | Self::Different(_) => "service",
            Self::Price(_)
            | Self::PriceOfNothing(_)
            | Self::Values(_)
            | Self::Currency(_)
            | Self::Hook(_)
            | Self::Undercut { .. } => "price",
            Self::GrantOfNothing(_) | Self::GrantOfAges(_) => "grant",
            Self::Plans(_)
            | Self::TooMany { .. }
            | Self::GrantsBesideHook(_)
            | Self::CheapGrant { .. } => "grants",
            Self::OwnService(_) | Self::BundledHook(_) => "grant.services",
            Self::QuotaOfNothing(_) => "free_quota",
            Self::CutByMeter(_) => "overrun",
        }
    }
}

impl Offer {
    /// Whether it can be sold as it is, as far as that can be said without other offers, rates and hooks.
    pub fn check(&self) -> Result<(), OfferError> {
        self.has_good_names()?;
        self.has_good_plans()?;
        self.has_good_prices()?;
        let service = || self.service.clone();
        let is_nothing = |free: &super::FreeQuota| free.requests == 0 || free.per.as_secs() == 0;
        if self.free.as_ref().is_some_and(is_nothing) {
            return Err(OfferError::QuotaOfNothing(service()));
        }
        if self.cuts_overrun && self.metered_by.is_some() {
            return Err(OfferError::CutByMeter(service()));
        }
        Ok(())
    }

    fn has_good_names(&self) -> Result<(), OfferError> {
        let also = self.plans.iter().flat_map(|plan| &plan.also);
        let names = std::iter::once(&self.service)
            .chain(self.plans.iter().map(|plan| &plan.name))
            .chain(also.clone().map(|(name, _)| name));
        for name in names {
            if !is_name(name) {
                return Err(OfferError::Name(name.clone()));
            }
        }
        let mut also = also.map(|(name, _)| name);
        if also.any(|name| *name == self.service) {
            return Err(OfferError::OwnService(self.service.clone()));
        }
        Ok(())
    }

    fn has_good_plans(&self) -> Result<(), OfferError> {
        let service = || self.service.clone();
        let names: BTreeSet<_> = self.plans.iter().map(|plan| &plan.name).collect();
        if names.is_empty() || names.len() < self.plans.len() {
            return Err(OfferError::Plans(service()));
        }
        let too_many = |what, most| OfferError::TooMany {
            service: service(),
            what,
            most,
        };
        if self.plans.len() > PLANS_MAX {
            return Err(too_many("grants", PLANS_MAX));
        }
        if self.plans.iter().any(|plan| plan.also.len() > SERVICES_MAX) {
            return Err(too_many("services in one grant", SERVICES_MAX));
        }
        if self.plans.iter().any(|plan| is_nothing(&plan.grant)) {
            return Err(OfferError::GrantOfNothing(service()));
        }
        let mut plans = self.plans.iter();
        if plans.any(|plan| plan.grant.valid.as_secs() > VALID_SECS_MAX) {
            return Err(OfferError::GrantOfAges(service()));
        }
        if matches!(self.pricing, Pricing::Hook(_))
            && (self.has_choice() || self.plans.iter().any(|plan| plan.price.is_some()))
        {
            return Err(OfferError::GrantsBesideHook(service()));
        }
        self.has_no_cheap_grant()
    }

    /// A grant that costs less than one of its dearest requests, bought with one of those, would be the way to buy them.
    fn has_no_cheap_grant(&self) -> Result<(), OfferError> {
        let classes: Vec<&Class> = self.pricing.classes().collect();
        if classes.iter().all(|class| class.tier == classes[0].tier) {
            return Ok(());
        }
        for plan in &self.plans {
            let Some(price) = plan.price else {
                continue;
            };
            let mut dearer = classes.iter().filter(|class| class.price.is_above(price));
            if let Some(dear) = dearer.next() {
                return Err(OfferError::CheapGrant {
                    plan: plan.name.clone(),
                    price,
                    dear: dear.price,
                });
            }
        }
        Ok(())
    }

    fn has_good_prices(&self) -> Result<(), OfferError> {
        if let Pricing::Table(table) = &self.pricing {
            self.has_good_values(table)?;
        }
        let is_free = |price: Price| match price {
            Price::Fixed(amount) => amount.msat() == 0,
            Price::Fiat(fiat) => fiat.micros == 0,
        };
        if self.prices().any(is_free) {
            return Err(OfferError::PriceOfNothing(self.service.clone()));
        }
        let classes: Vec<&Class> = self.pricing.classes().collect();
        not_undercut(&self.service, &classes)
    }

    fn has_good_values(&self, table: &PriceTable) -> Result<(), OfferError> {
        let values: BTreeSet<_> = table.values.iter().map(|(value, _)| value).collect();
        if values.is_empty() || values.len() < table.values.len() {
            return Err(OfferError::Values(self.service.clone()));
        }
        if values.len() > VALUES_MAX {
            return Err(OfferError::TooMany {
                service: self.service.clone(),
                what: "values in its table of prices",
                most: VALUES_MAX,
            });
        }
        Ok(())
    }

    /// Whether a grant of it opens a service whose prices a hook sets, by what the other one says.
    pub fn bundles_a_hook(&self, other: &Self) -> Result<(), OfferError> {
        let mut also = self.plans.iter().flat_map(|plan| &plan.also);
        let is_named = also.any(|(name, _)| *name == other.service);
        if is_named && matches!(other.pricing, Pricing::Hook(_)) {
            return Err(OfferError::BundledHook(other.service.clone()));
        }
        Ok(())
    }
}

fn is_nothing(grant: &Grant) -> bool {
    let limits = [grant.requests, grant.bytes, grant.seconds];
    limits.contains(&Some(0)) || grant.valid.as_secs() == 0
}

/// Whether no token of one of these classes opens what is known to be dearer.
pub fn not_undercut(service: &Arc<str>, classes: &[&Class]) -> Result<(), OfferError> {
    for dear in classes {
        if let Some(cheap) = classes.iter().find(|cheap| cheap.opens_dearer(dear)) {
            return Err(OfferError::Undercut {
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

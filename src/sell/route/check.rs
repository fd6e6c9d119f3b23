//! Checks whether an offer is valid by itself, for offers from settings and from code.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::base::price::{Currency, Price, PriceError};

use super::offer::{FreeQuota, Grant, Offer, is_name};
use super::pricing::{Class, PriceTable, Pricing};

/// The longest validity of a grant: a hundred years. A longer one could not be expressed as a date.
const VALID_SECS_MAX: u64 = 100 * 365 * 86_400;

/// The most grants on one route. A 402 answer lists all of them.
pub const PLANS_MAX: usize = 16;

/// The most other services that one token opens. Each adds about 150 bytes to the token.
pub const SERVICES_MAX: usize = 8;

/// The most values in a price table.
pub const VALUES_MAX: usize = 64;

/// The reason why an offer cannot be sold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// The price cannot be parsed.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// The name is empty, too long, or has characters that would break the token's caveats.
    #[error("`{0}` is not a valid name of a service or a grant: 1 to 64 of a-z, 0-9, - and _")]
    Name(Arc<str>),
    /// The grant has a limit of zero.
    #[error("service `{0}` offers a grant of nothing: at least 1, or `None` for any number")]
    GrantOfNothing(Arc<str>),
    /// The grant is valid for longer than a date can express.
    #[error("service `{0}` offers a grant for more than a hundred years")]
    GrantOfAges(Arc<str>),
    /// The offer has no grant, or two grants with the same name.
    #[error("service `{0}` offers no grant, or two of one name")]
    Plans(Arc<str>),
    /// The offer has more entries than a token or a 402 answer can hold.
    #[error("service `{service}` has more than {most} {what}")]
    TooMany {
        /// The service.
        service: Arc<str>,
        /// The kind of entries.
        what: &'static str,
        /// The maximum number of entries.
        most: usize,
    },
    /// The price is zero.
    #[error("service `{0}` has a price of zero: do not guard what is free")]
    PriceOfNothing(Arc<str>),
    /// The price table is empty, or has the same value twice.
    #[error("service `{0}` has a table of prices without values, or with one of them twice")]
    Values(Arc<str>),
    /// The free quota is zero.
    #[error("service `{0}` has a free quota of nothing: at least 1 request in 1 second")]
    QuotaOfNothing(Arc<str>),
    /// The price is in a currency without an exchange rate.
    #[error("no rate is known for {0}: say where it comes from in a `[[rate]]` table")]
    Currency(Currency),
    /// The hook does not exist.
    #[error("there is no hook `{0}`: describe it in a `[[hook]]` table")]
    Hook(Arc<str>),
    /// The offer has several grants or a fixed price, but a hook prices each request.
    #[error(
        "a hook sets the price of each request of service `{0}`, and a grant at a fixed price could undercut it: let the hook answer \
         with a `grant`"
    )]
    GrantsBesideHook(Arc<str>),
    /// A grant costs less than one of the requests that it opens.
    #[error(
        "`{plan}` costs {price} and can be bought with a request that costs {dear} alone: it must not cost less than the dearest \
         request"
    )]
    CheapGrant {
        /// The grant.
        plan: Arc<str>,
        /// Its price.
        price: Price,
        /// The price of the most expensive request.
        dear: Price,
    },
    /// Two settings contradict each other.
    #[error(
        "what the upstream of service `{0}` says of its work is known too late to cut by: leave out `metered_by`, or serve what runs \
         over"
    )]
    CutByMeter(Arc<str>),
    /// A grant lists its own service among the others that it opens.
    #[error("the route's own service is always in it: take `{0}` out of the grant's services")]
    OwnService(Arc<str>),
    /// A grant opens a service whose prices a hook sets.
    #[error("a hook sets the prices of `{0}`: a token for any of them cannot be part of a bundle")]
    BundledHook(Arc<str>),
    /// A token for one request would open a more expensive one.
    #[error(
        "a token for {cheap} (tier {cheap_tier}) of service `{service}` would open what costs {dear} (tier {dear_tier}): a \
         dearer price needs a higher tier, or a service of its own"
    )]
    Undercut {
        /// The service.
        service: Arc<str>,
        /// The price of the token.
        cheap: Price,
        /// The tier of the token.
        cheap_tier: u32,
        /// The price of the request that it would open.
        dear: Price,
        /// The tier of that request.
        dear_tier: u32,
    },
    /// Two guards have the same service and class, but sell different grants or prices.
    #[error(
        "service `{0}` is guarded twice, at another price or for another grant: a token bought at one would open the other, \
         so give them services or tiers of their own"
    )]
    Different(Arc<str>),
}

impl OfferError {
    /// The key of a route's settings that the error is about.
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
    /// Checks the offer, as far as possible without other offers, exchange rates and hooks.
    pub fn check(&self) -> Result<(), OfferError> {
        self.has_good_names()?;
        self.has_good_plans()?;
        self.has_good_prices()?;
        let service = || self.service.clone();
        let is_nothing = |free: &FreeQuota| free.requests == 0 || free.per.as_secs() == 0;
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

    /// Refuses a grant that costs less than one of the requests that it opens, because clients
    /// would buy it instead.
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

    /// Refuses a grant that opens the service of the other offer, if a hook prices that service.
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

/// Checks that no token of one of these classes opens a request that is known to cost more.
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

//! What is sold on a route: at which price, for which grant, and what comes free.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::base::amount::Msat;
use crate::base::price::Price;

use super::Pricing;

/// What one payment buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// How many requests; `None` for any number.
    pub requests: Option<u64>,
    /// How many response bytes; `None` for any number.
    pub bytes: Option<u64>,
    /// How many metered seconds of work; `None` for any number.
    pub seconds: Option<u64>,
    /// How long the token is good, from the latest moment at which its invoice can be paid in time.
    pub valid: Duration,
}

/// How long a token is good if nobody says otherwise: a day, in which nobody has to pay twice.
const VALID_DEFAULT: Duration = Duration::from_secs(86_400);

/// Any number of requests for a day.
impl Default for Grant {
    fn default() -> Self {
        Self {
            requests: None,
            bytes: None,
            seconds: None,
            valid: VALID_DEFAULT,
        }
    }
}

/// `5 requests within 1h`, `10000000 bytes within 1d`
impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: Option<u64>, noun: &str| {
            let s = if count == Some(1) { "" } else { "s" };
            count.map(|count| format!("{count} {noun}{s}"))
        };
        let mut parts: Vec<String> = [
            counted(self.requests, "request"),
            counted(self.bytes, "byte"),
            counted(self.seconds, "second").map(|seconds| format!("{seconds} of work")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if parts.is_empty() {
            parts.push("any number of requests".to_owned());
        }
        write!(f, "{} within {}", parts.join(", "), Span(self.valid))
    }
}

/// A span of time in the largest unit that it is a whole number of, as the settings take it.
#[derive(Clone, Copy, Debug)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secs = self.0.as_secs();
        for (unit_secs, unit) in [(86_400, "d"), (3_600, "h"), (60, "m")] {
            if secs != 0 && secs.is_multiple_of(unit_secs) {
                return write!(f, "{}{unit}", secs / unit_secs);
            }
        }
        write!(f, "{secs}s")
    }
}

/// One thing that a payment on a route can buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What a client asks for it by; the default one, which comes first, need not be asked for.
    pub name: Arc<str>,
    /// What it costs; `None` for what the request costs.
    pub price: Option<Price>,
    /// What it buys.
    pub grant: Grant,
    /// Other services that it opens, each with the price class up to which it does.
    pub also: Vec<(Arc<str>, u32)>,
}

/// The longest name of a service or a grant: a service's stands in every caveat of every token.
const NAME_BYTES_MAX: usize = 64;

/// Whether a service or a grant can be called this: a `:`, a `,` or a `=` would make tokens that never verify.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_allowed)
}

/// The name of a route's first plan, unless it has another.
pub const DEFAULT_PLAN: &str = "default";

/// Requests that a client may make without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeQuota {
    /// How many.
    pub requests: u64,
    /// Within this time from the first of them.
    pub per: Duration,
}

/// Why a grant's invoice cannot be made before anybody asks for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABundle {
    /// It is not sold.
    #[error("there is no grant `{name}` here; there are: {names}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        names: String,
    },
    /// What it costs depends on the request.
    #[error(
        "what a request costs depends on the request here: only a route with one price can be paid ahead"
    )]
    ByRequest,
    /// What it costs depends on a rate.
    #[error("its price is in a currency: only one in bitcoin stays what it is until somebody asks")]
    InCurrency,
    /// Nothing is asked for.
    #[error("the route lets everybody through (dry_run)")]
    DryRun,
}

/// Which delivered answers cost a use. A failed answer never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// All except those that bring the client nothing: answers to HEAD requests, 304, 401, 404, 410, 429 and redirects to the
    /// same shop.
    #[default]
    Delivered,
    /// Every delivered answer.
    All,
    /// As `Delivered`, but all requests for one file within ten minutes count as one, so that it can be fetched in parts.
    File,
}

/// What is sold on a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The service that the route belongs to: the name that stands in the token.
    pub service: Arc<str>,
    /// What a request costs.
    pub pricing: Pricing,
    /// What a payment can buy, the default first; never empty.
    pub plans: Vec<Plan>,
    /// What comes free.
    pub free: Option<FreeQuota>,
    /// Whether an answer that runs beyond the grant's bytes or seconds is cut off.
    pub cuts_overrun: bool,
    /// Which delivered answers cost a use.
    pub count: Count,
    /// The response header or trailer in which the upstream says how many seconds it worked.
    pub metered_by: Option<HeaderName>,
    /// Whether everything is let through, and only counted.
    pub is_dry_run: bool,
}

impl Offer {
    /// An offer of one grant at one price.
    pub fn new(service: &str, price: Price, grant: Grant) -> Self {
        Self {
            service: service.into(),
            pricing: Pricing::flat(price),
            plans: vec![Plan {
                name: DEFAULT_PLAN.into(),
                price: None,
                grant,
                also: Vec::new(),
            }],
            free: None,
            cuts_overrun: false,
            count: Count::default(),
            metered_by: None,
            is_dry_run: false,
        }
    }

    /// What is bought by who asks for nothing else.
    pub fn default_plan(&self) -> &Plan {
        &self.plans[0]
    }

    /// Whether clients can choose.
    pub fn has_choice(&self) -> bool {
        self.plans.len() > 1
    }

    /// Whether anything is sold by what an answer takes, and not only by the request.
    pub fn is_metered(&self) -> bool {
        let mut grants = self.plans.iter().map(|plan| &plan.grant);
        grants.any(|grant| grant.bytes.is_some() || grant.seconds.is_some())
    }

    /// The plan of this name.
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| &*plan.name == name)
    }

    /// A grant, the default one if none is named, and what it costs, if both are known before anybody asks.
    pub fn bundle(&self, name: Option<&str>) -> Result<(&Plan, Msat), NotABundle> {
        let plan = match name {
            None => self.default_plan(),
            Some(name) => self.plan(name).ok_or_else(|| {
                let names: Vec<_> = self.plans.iter().map(|plan| &*plan.name).collect();
                NotABundle::Unknown {
                    name: name.to_owned(),
                    names: names.join(", "),
                }
            })?,
        };
        if self.is_dry_run {
            return Err(NotABundle::DryRun);
        }
        let Pricing::Flat(class) = &self.pricing else {
            return Err(NotABundle::ByRequest);
        };
        let price = plan.price.unwrap_or(class.price).fixed();
        Ok((plan, price.ok_or(NotABundle::InCurrency)?))
    }

    /// All that it can cost, in bitcoin or in a currency, as far as no hook has to be asked.
    pub fn prices(&self) -> impl Iterator<Item = Price> {
        let of_plans = self.plans.iter().filter_map(|plan| plan.price);
        let of_requests = self.pricing.classes().map(|class| class.price);
        of_plans.chain(of_requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_reads_like_a_sentence() {
        let grant = |requests, bytes, seconds, secs| {
            Grant {
                requests,
                bytes,
                seconds,
                valid: Duration::from_secs(secs),
            }
            .to_string()
        };
        assert_eq!(grant(Some(5), None, None, 3_600), "5 requests within 1h");
        assert_eq!(grant(Some(1), None, None, 90), "1 request within 90s");
        let day = 86_400;
        assert_eq!(
            grant(None, None, None, day),
            "any number of requests within 1d"
        );
        assert_eq!(grant(None, Some(1_000), None, day), "1000 bytes within 1d");
        assert_eq!(
            grant(Some(5), None, Some(60), day),
            "5 requests, 60 seconds of work within 1d"
        );
    }
}

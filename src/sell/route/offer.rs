//! The offer of a route: its prices, its grants and its free quota.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::base::amount::Msat;
use crate::base::price::Price;

use super::pricing::Pricing;

/// The extent of access that one payment buys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The number of requests; `None` for any number.
    pub requests: Option<u64>,
    /// The number of response bytes; `None` for any number.
    pub bytes: Option<u64>,
    /// The number of metered seconds of work; `None` for any number.
    pub seconds: Option<u64>,
    /// How long the token is valid, counted from the expiry of its invoice.
    pub valid: Duration,
}

/// The default validity of a token: a day, so that a client does not pay twice within it.
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

/// A time span, displayed in the largest unit that divides it, as in the settings.
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

/// A named grant that a client can buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The name by which a client asks for the plan. The first plan is the default.
    pub name: Arc<str>,
    /// The price; `None` for the price of the request.
    pub price: Option<Price>,
    /// The grant that the payment buys.
    pub grant: Grant,
    /// The other services that the token opens, each with the highest price class that it reaches.
    pub also: Vec<(Arc<str>, u32)>,
}

/// The longest name of a service or a grant. The service's name is part of every caveat of a token.
const NAME_BYTES_MAX: usize = 64;

/// Whether this is a valid name for a service or a grant. A `:`, `,` or `=` would break the token's
/// caveats.
pub fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_')
    };
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_allowed)
}

/// The name of a route's first plan, unless the settings give another one.
pub const DEFAULT_PLAN: &str = "default";

/// The requests that a client may make without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeQuota {
    /// The number of requests.
    pub requests: u64,
    /// The time window, which begins with the first request.
    pub per: Duration,
}

/// The reason why the invoice for a grant cannot be made in advance.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotABundle {
    /// The route does not sell this grant.
    #[error("there is no grant `{name}` here; there are: {names}")]
    Unknown {
        /// The grant that was asked for.
        name: String,
        /// The grants on sale.
        names: String,
    },
    /// The price depends on the request.
    #[error(
        "what a request costs depends on the request here: only a route with one price can be paid ahead"
    )]
    ByRequest,
    /// The price depends on an exchange rate.
    #[error("its price is in a currency: only one in bitcoin stays what it is until somebody asks")]
    InCurrency,
    /// The route serves every request without payment.
    #[error("the route lets everybody through (dry_run)")]
    DryRun,
}

/// The kinds of delivered answers that count as a use. A failed answer never does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Count {
    /// All delivered answers except those that bring the client nothing: answers to HEAD requests,
    /// 304, 401, 404, 410, 429, and redirects within the same shop.
    #[default]
    Delivered,
    /// Every delivered answer.
    All,
    /// The same answers as `Delivered`, but all requests for one file within ten minutes count as
    /// one. So a client can fetch a file in parts.
    File,
}

/// The terms on which a route is sold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The service that the route belongs to, as named in its tokens.
    pub service: Arc<str>,
    /// The pricing of a request.
    pub pricing: Pricing,
    /// The grants on sale, the default first; never empty.
    pub plans: Vec<Plan>,
    /// The requests that each client may make without payment.
    pub free: Option<FreeQuota>,
    /// Whether an answer that runs beyond the grant's bytes or seconds is cut off.
    pub cuts_overrun: bool,
    /// The kinds of delivered answers that count as a use.
    pub count: Count,
    /// The response header or trailer in which the upstream reports the seconds that it worked.
    pub metered_by: Option<HeaderName>,
    /// Whether all requests are served without payment, and only counted.
    pub is_dry_run: bool,
}

impl Offer {
    /// Creates an offer of one grant at one price.
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

    /// The plan for a client that does not choose one.
    pub fn default_plan(&self) -> &Plan {
        &self.plans[0]
    }

    /// Whether clients can choose between several plans.
    pub fn has_choice(&self) -> bool {
        self.plans.len() > 1
    }

    /// Whether a grant limits the bytes or the seconds of answers.
    pub fn is_metered(&self) -> bool {
        let mut grants = self.plans.iter().map(|plan| &plan.grant);
        grants.any(|grant| grant.bytes.is_some() || grant.seconds.is_some())
    }

    /// Returns the plan of this name.
    pub fn plan(&self, name: &str) -> Option<&Plan> {
        self.plans.iter().find(|plan| &*plan.name == name)
    }

    /// Returns the named or the default plan and its price, if that price is known before a client
    /// asks.
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

    /// All prices of the offer, except those that a hook sets.
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

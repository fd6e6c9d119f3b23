//! The settings of a price hook, and its errors.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;

use crate::base::amount::Msat;
use crate::base::text::Unseen;

use super::super::address::Address;
use super::super::ask::AskError;

/// The settings of one price hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookConfig {
    /// The name by which routes refer to the hook.
    pub name: Arc<str>,
    /// The URL to ask.
    pub address: Address,
    /// The timeout for the whole call.
    pub timeout: Duration,
    /// The names of the request headers that the hook receives.
    pub headers: Vec<HeaderName>,
    /// How long an answer is reused for the same question; zero to ask for every request.
    pub cache: Duration,
    /// The highest price that is accepted. A higher price counts as a mistake.
    pub price_max: Msat,
    /// The reaction while the hook is unreachable.
    pub on_failure: OnFailure,
}

/// The reaction while a hook is away. Failures that a client can cause do not count as away: a bad
/// answer, a late answer or a broken connection. So they never make a request cheaper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Answer 503 instead of a challenge.
    Refuse,
    /// Sell at this price, with the route's own grant.
    Price(Msat),
}

/// The reason why a hook gave no price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// The hook gave no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The answer does not have the expected form.
    #[error("its answer is not understood ({why}): {said}")]
    NotUnderstood {
        /// The mistake and its place in the answer.
        why: String,
        /// The beginning of the answer.
        said: String,
    },
    /// The price is zero.
    #[error("it gave a price of zero, which sells nothing; a route is free by access = \"free\"")]
    Zero,
    /// The price is above `price_max`.
    #[error("it gave a price of {price_msat} msat, and price_max is {max}")]
    TooDear {
        /// The price that the hook gave.
        price_msat: u64,
        /// The limit in the settings.
        max: Msat,
    },
    /// The grant has a value that is zero or too large.
    #[error("it gave a grant whose `{0}` is zero, or too large")]
    Grant(&'static str),
    /// The description contains characters that must not be signed.
    #[error("it gave a bad description: {0}")]
    Description(#[source] Unseen),
    /// The class cannot be written into a token.
    #[error("it gave a class that is not 1 to 32 of a-z, 0-9, - and _")]
    Class,
    /// Too many calls to the hook are running, in total or for this client's network.
    #[error("too many requests to it are running already")]
    Busy,
}

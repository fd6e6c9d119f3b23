//! The settings of exchange rates.

use std::time::Duration;

use crate::base::price::{Currency, Rate};

use super::super::source::Source;

/// The settings for one currency's rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// The currency.
    pub currency: Currency,
    /// The origin of the rate.
    pub origin: RateOrigin,
}

/// The origin of a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateOrigin {
    /// A fixed rate from the settings.
    Fixed(Rate),
    /// A rate that is fetched from sources.
    Watched(Watched),
}

/// The settings for a rate that is fetched from sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The sources to ask.
    pub sources: Vec<Source>,
    /// The number of sources that must agree.
    pub quorum: usize,
    /// The time between two refreshes.
    pub refresh: Duration,
    /// The timeout for one source.
    pub timeout: Duration,
    /// The age up to which a rate is used.
    pub max_age: Duration,
    /// The lower bound: lower rates are rejected.
    pub at_least: Option<Rate>,
    /// The upper bound: higher rates are rejected.
    pub at_most: Option<Rate>,
}

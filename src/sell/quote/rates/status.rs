//! The state of the rates, as shown to the operator.

use serde::Serialize;
use utoipa::ToSchema;

use super::config::RateOrigin;
use super::rate::Entry;
use super::taken::Taken;

/// The state of one currency's rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RateStatus {
    /// The currency code.
    pub currency: String,
    /// Whether prices in this currency can be converted now.
    pub is_usable: bool,
    /// The price of a bitcoin by the last accepted answers, as in `97123.45 USD`.
    pub per_bitcoin: Option<String>,
    /// Seconds since the sources were asked for this rate; `None` for a fixed rate from the
    /// settings.
    pub age_secs: Option<u64>,
    /// The reason why the last answers were not accepted.
    pub doubt: Option<String>,
    /// The sources, in the order of the settings.
    pub sources: Vec<SourceStatus>,
}

/// The state of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SourceStatus {
    /// The source's URL, without the query.
    pub address: String,
    /// The price of a bitcoin by the source's last valid answer.
    pub per_bitcoin: Option<String>,
    /// Seconds since the source was asked for that answer.
    pub age_secs: Option<u64>,
    /// The reason why the source's last answer gave no rate.
    pub error: Option<String>,
}

pub(super) fn of(entry: &Entry, now_ms: u64) -> RateStatus {
    let currency = entry.config.currency.to_string();
    let watched = match &entry.config.origin {
        RateOrigin::Fixed(rate) => {
            return RateStatus {
                currency,
                is_usable: true,
                per_bitcoin: Some(rate.to_string()),
                age_secs: None,
                doubt: None,
                sources: Vec::new(),
            };
        }
        RateOrigin::Watched(watched) => watched,
    };
    let age_secs = |taken: Taken| now_ms.saturating_sub(taken.asked_ms) / 1_000;
    let shown = |taken: Taken| taken.rate.to_string();
    let known = entry.known();
    let sources = watched.sources.iter().zip(&known.sources);
    let sources = sources.map(|(source, last)| SourceStatus {
        address: source.address.to_string(),
        per_bitcoin: last.rate.map(shown),
        age_secs: last.rate.map(age_secs),
        error: last.error.as_ref().map(ToString::to_string),
    });
    RateStatus {
        currency,
        is_usable: known.usable(&entry.config, watched, now_ms).is_ok(),
        per_bitcoin: known.taken.map(shown),
        age_secs: known.taken.map(age_secs),
        doubt: known.doubt.as_ref().map(ToString::to_string),
        sources: sources.collect(),
    }
}

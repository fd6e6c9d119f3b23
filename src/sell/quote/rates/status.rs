//! What the operator sees of the rates.

use serde::Serialize;
use utoipa::ToSchema;

use super::{Entry, RateOrigin, Taken};

/// What is known of one currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct RateStatus {
    /// Its code.
    pub currency: String,
    /// Whether prices in it can be asked for now.
    pub is_usable: bool,
    /// What a bitcoin costs, as in `97123.45 USD`, by the last answers that were taken.
    pub per_bitcoin: Option<String>,
    /// How long ago its sources were asked for that; `None` for a rate of the settings.
    pub age_secs: Option<u64>,
    /// Why the last answers were not taken.
    pub doubt: Option<String>,
    /// Its sources, in the settings' order.
    pub sources: Vec<SourceStatus>,
}

/// What is known of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SourceStatus {
    /// Its URL, without the query.
    pub address: String,
    /// What a bitcoin cost by its last answer.
    pub per_bitcoin: Option<String>,
    /// How long ago it was asked for that.
    pub age_secs: Option<u64>,
    /// Why it gave nothing when it was last asked.
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

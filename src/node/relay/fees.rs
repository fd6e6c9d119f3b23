//! What a transaction costs: ldk-node does not start without an answer, so there always is one. What was heard last is kept in
//! a file; before anything was ever heard there are estimates that are built in.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::clock::Clock;

use super::endpoint::Endpoint;
use super::question::{Answer, Question};
use super::{NoAnswer, Relay};

/// What stands in for estimates that nobody has ever given us, in sat/vB by blocks: what ldk-node itself falls back to. High
/// where we pay to be in time, low where they say what we let a peer pay.
const BUILT_IN: &str = r#"{"1":32.0,"6":20.0,"12":4.0,"144":2.0,"1008":1.0}"#;

/// The same where money is worth nothing: ldk-node then takes 1 sat/vB.
const BUILT_IN_FOR_TESTS: &str = "{}";

/// What requests are counted over.
const HOUR_SECS: u64 = 3_600;

/// The estimates that are known.
#[derive(Debug)]
pub(super) struct Fees {
    /// Where they are kept.
    file: PathBuf,
    are_needed: bool,
    /// What was heard last. A `std` mutex: held to clone, never across an await.
    known: Mutex<Option<Heard>>,
}

/// Estimates, and when they were heard.
#[derive(Clone, Debug)]
struct Heard {
    estimates: Bytes,
    secs: u64,
}

/// What stands in the file.
#[derive(Debug, Deserialize, Serialize)]
struct Kept {
    /// Estimates as an Esplora API gives them.
    fee_estimates: Option<HashMap<u16, f64>>,
    /// When they were heard, Unix seconds.
    heard_secs: u64,
    /// Requests of the hour before `counted_secs`, by endpoint: a program that is started again and again keeps its budget.
    requests: HashMap<String, usize>,
    /// When they were counted, Unix seconds.
    counted_secs: u64,
}

impl Fees {
    /// Reads what was kept. A file that is not there or is torn costs nothing: what is in it comes again.
    pub(super) async fn open(
        file: PathBuf,
        are_needed: bool,
        endpoints: &[Endpoint],
        clock: &Clock,
    ) -> Self {
        let text = tokio::fs::read(&file).await.unwrap_or_default();
        let kept: Option<Kept> = serde_json::from_slice(&text).ok();
        let age_secs = |kept: &Kept| clock.unix_secs().saturating_sub(kept.counted_secs);
        if let Some(kept) = kept.as_ref().filter(|kept| age_secs(kept) < HOUR_SECS) {
            let now = Instant::now();
            // All of them as late as they can have been.
            let at = now.checked_sub(Duration::from_secs(age_secs(kept)));
            for endpoint in endpoints {
                let count = kept.requests.get(&endpoint.base).copied();
                endpoint.took_before(count.unwrap_or(0), at.unwrap_or(now));
            }
        }
        let heard = kept.and_then(|kept| {
            let estimates = serde_json::to_vec(&kept.fee_estimates?).ok()?;
            let learned = Question::Fees.check(&estimates).ok()?;
            (!are_needed || !learned.is_empty).then(|| Heard {
                estimates: estimates.into(),
                secs: kept.heard_secs,
            })
        });
        Self {
            file,
            are_needed,
            known: Mutex::new(heard),
        }
    }

    /// Whether an empty list is no answer.
    pub(super) fn are_needed(&self) -> bool {
        self.are_needed
    }

    /// When the estimates that are known were heard, Unix seconds; `None` if nobody has ever given any.
    pub(super) fn heard_secs(&self) -> Option<u64> {
        self.known().map(|heard| heard.secs)
    }

    fn known(&self) -> Option<Heard> {
        let known = self.known.lock();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn hear(&self, estimates: &Bytes, secs: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(Heard {
            estimates: estimates.clone(),
            secs,
        });
    }
}

impl Relay {
    /// Fee estimates: fresh ones, else the last ones, else those that are built in.
    pub(super) async fn fee_estimates(&self) -> Bytes {
        let is_fresh = self.known(&Question::Fees).is_some();
        let asked: Result<Answer, NoAnswer> = self.ask(&Question::Fees).await;
        if let Ok(Answer::Body(estimates)) = asked {
            if !is_fresh {
                self.fees.hear(&estimates, self.clock.unix_secs());
                self.keep().await;
            }
            return estimates;
        }
        self.known_estimates()
    }

    /// The last ones, else those that are built in.
    pub(super) fn known_estimates(&self) -> Bytes {
        match self.fees.known() {
            Some(heard) => heard.estimates,
            None if self.fees.are_needed => Bytes::from_static(BUILT_IN.as_bytes()),
            None => Bytes::from_static(BUILT_IN_FOR_TESTS.as_bytes()),
        }
    }

    /// Writes down what the next start wants to know.
    pub async fn keep(&self) {
        let now = Instant::now();
        let known = self.fees.known();
        let estimates = known
            .as_ref()
            .and_then(|heard| serde_json::from_slice(&heard.estimates).ok());
        let requests = self.endpoints.iter().map(|endpoint| {
            let (used, _) = endpoint.spending(now);
            (endpoint.base.clone(), used)
        });
        let kept = Kept {
            fee_estimates: estimates,
            heard_secs: known.map_or(0, |heard| heard.secs),
            requests: requests.collect(),
            counted_secs: self.clock.unix_secs(),
        };
        let file = &self.fees.file;
        // By a rename: half a file is none.
        let new = file.with_extension("new");
        let written = async {
            let text = serde_json::to_vec(&kept)?;
            tokio::fs::write(&new, text).await?;
            tokio::fs::rename(&new, file).await
        };
        if let Err(error) = written.await {
            tracing::warn!(
                "Failed to keep fee estimates in {}: {error}",
                file.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_in_is_good() {
        for (text, is_empty) in [(BUILT_IN, false), (BUILT_IN_FOR_TESTS, true)] {
            let learned = Question::Fees.check(text.as_bytes()).unwrap();
            assert_eq!(learned.is_empty, is_empty);
        }
    }
}

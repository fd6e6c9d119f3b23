//! What a transaction costs: ldk-node does not start without an answer, so there always is one. What was heard last is kept in
//! a file; before anything was ever heard there are estimates that are built in.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::chain::esplora::saved::Kept;

use super::question::{Answer, Question};
use super::{NoAnswer, Relay};

/// What stands in for estimates that nobody has ever given us, in sat/vB by blocks: what ldk-node itself falls back to. High
/// where we pay to be in time, low where they say what we let a peer pay.
const BUILT_IN: &str = r#"{"1":32.0,"6":20.0,"12":4.0,"144":2.0,"1008":1.0}"#;

/// The same where money is worth nothing: ldk-node then takes 1 sat/vB.
const BUILT_IN_FOR_TESTS: &str = "{}";

/// The estimates that are known.
#[derive(Debug)]
pub(super) struct Fees {
    are_needed: bool,
    /// What was heard last. A `std` mutex: held to clone, never across an await.
    known: Mutex<Option<Heard>>,
}

/// Estimates, and when they were heard.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// As an Esplora API gives them.
    pub(super) estimates: Bytes,
    /// When that was, Unix seconds.
    pub(super) secs: u64,
}

impl Fees {
    /// What is known of earlier starts.
    pub(super) fn new(are_needed: bool, kept: Option<&Kept>) -> Self {
        let heard = kept.and_then(|kept| {
            let estimates = serde_json::to_vec(kept.fee_estimates.as_ref()?).ok()?;
            let learned = Question::Fees.check(&estimates).ok()?;
            (!are_needed || !learned.is_empty).then(|| Heard {
                estimates: estimates.into(),
                secs: kept.heard_secs,
            })
        });
        Self {
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

    /// What was heard last.
    pub(super) fn known(&self) -> Option<Heard> {
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
    pub(super) async fn fee_estimates(self: &Arc<Self>) -> Bytes {
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

//! Fee estimates. ldk-node does not start without an answer, so the relay always gives one. The
//! last estimates are kept in a file. Until an endpoint has given any, built-in estimates are used.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::chain::esplora::saved::Kept;

use super::question::{Answer, Question};
use super::{NoAnswer, Relay};

/// The estimates until an endpoint has given any, in sat/vB by number of blocks: ldk-node's own
/// fallback values. They are high where we pay to confirm in time, and low where they decide what
/// we accept from a peer.
const BUILT_IN: &str = r#"{"1":32.0,"6":20.0,"12":4.0,"144":2.0,"1008":1.0}"#;

/// The built-in estimates for networks whose coins are worthless: none, so ldk-node uses 1 sat/vB.
const BUILT_IN_FOR_TESTS: &str = "{}";

/// The known estimates.
#[derive(Debug)]
pub(super) struct Fees {
    are_needed: bool,
    /// The last estimates that an endpoint gave. The `std` mutex is held to clone, never across an
    /// await.
    known: Mutex<Option<Heard>>,
}

/// Estimates, and the time at which an endpoint gave them.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    /// The estimates, in the format of an Esplora API.
    pub(super) estimates: Bytes,
    /// The time at which an endpoint gave them, in Unix seconds.
    pub(super) secs: u64,
}

impl Fees {
    /// Starts with the estimates that an earlier run has kept.
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

    /// Whether an empty list of estimates is refused.
    pub(super) fn are_needed(&self) -> bool {
        self.are_needed
    }

    /// Returns when an endpoint gave the known estimates, in Unix seconds; `None` if no endpoint
    /// has given any.
    pub(super) fn heard_secs(&self) -> Option<u64> {
        self.known().map(|heard| heard.secs)
    }

    /// Returns the last estimates that an endpoint gave.
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
    /// Returns fresh fee estimates, or else the last known ones, or else the built-in ones.
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

    /// Returns the last known estimates, or else the built-in ones.
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

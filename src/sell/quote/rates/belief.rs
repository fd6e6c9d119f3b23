//! The anchor: the accepted rate with which new rates are compared. A change that is too large for
//! a single answer is accepted once the sources have confirmed it for long enough.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::base::price::Rate;

use super::config::Watched;
use super::judge::{self, Doubt};

/// How long several servers must confirm a change that is too large for a single answer. Two
/// companies rarely make the same mistake for that long.
const CONFIRMED_BY_SEVERAL: Duration = Duration::from_secs(10 * 60);

/// How long a single server must confirm such a change: long enough for an operator to read the
/// log.
const CONFIRMED_BY_ONE: Duration = Duration::from_secs(24 * 3_600);

/// The fewest reports that confirm such a change.
const TIMES_MIN: u32 = 3;

/// The anchor of one currency and the change that waits for confirmation. Times count from the
/// machine's start, so setting the clock does not change them.
#[derive(Debug, Default)]
pub(super) struct Belief {
    /// The rate with which new rates are compared. It is replaced only after a while. Otherwise a
    /// rate that doubles with each answer would be accepted.
    anchor: Option<Anchor>,
    /// A rate too far from the anchor, which is accepted once it is confirmed.
    claim: Option<Claim>,
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    rate: Rate,
    /// The time at which the anchor was set.
    since: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    /// The rate in the most recent answer.
    rate: Rate,
    /// Confirmations by one or more servers.
    by_one: Witnessed,
    /// Uninterrupted confirmations by several servers.
    by_several: Witnessed,
}

/// The start and the number of a rate's confirmations.
#[derive(Clone, Copy, Debug)]
struct Witnessed {
    since: Duration,
    times: u32,
}

/// An accepted rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Believed {
    pub(super) rate: Rate,
    /// The previous rate, if the change was so large that it had to be confirmed.
    pub(super) changed_from: Option<Rate>,
}

impl Belief {
    /// Makes a known rate the anchor.
    pub(super) fn begin(&mut self, rate: Rate, now: Duration) {
        self.anchor = Some(Anchor { rate, since: now });
    }

    /// Judges the latest rates of the sources, each given with the name of its server.
    pub(super) fn judge(
        &mut self,
        watched: &Watched,
        given: &[(String, Rate)],
        now: Duration,
    ) -> Result<Believed, Doubt> {
        let rates: Vec<Rate> = given.iter().map(|(_, rate)| *rate).collect();
        let anchor = self.anchor;
        let judged = judge::judge(watched, &rates, anchor.map(|anchor| anchor.rate));
        match judged {
            Ok(rate) => {
                self.claim = None;
                let is_due = |anchor: Anchor| {
                    let wait = if is_by_several(given, rate) {
                        CONFIRMED_BY_SEVERAL
                    } else {
                        CONFIRMED_BY_ONE
                    };
                    now.saturating_sub(anchor.since) >= wait
                };
                if anchor.is_none_or(is_due) {
                    self.begin(rate, now);
                }
                Ok(Believed {
                    rate,
                    changed_from: None,
                })
            }
            Err(Doubt::Jumped { rate, last }) => {
                if !self.confirm(rate, is_by_several(given, rate), now) {
                    return Err(Doubt::Jumped { rate, last });
                }
                self.claim = None;
                self.begin(rate, now);
                Ok(Believed {
                    rate,
                    changed_from: Some(last),
                })
            }
            // Too few answers do not contradict the claim.
            Err(doubt @ Doubt::TooFew { .. }) => Err(doubt),
            Err(doubt) => {
                self.claim = None;
                Err(doubt)
            }
        }
    }

    /// Counts one more confirmation, and returns whether the rate is now confirmed.
    fn confirm(&mut self, rate: Rate, is_by_several: bool, now: Duration) -> bool {
        let first = Witnessed {
            since: now,
            times: 0,
        };
        let before = self
            .claim
            .filter(|claim| judge::is_near_level(claim.rate, rate));
        let mut claim = before.unwrap_or(Claim {
            rate,
            by_one: first,
            by_several: first,
        });
        claim.rate = rate;
        claim.by_one.times += 1;
        if is_by_several {
            claim.by_several.times += 1;
            if claim.by_several.times == 1 {
                claim.by_several.since = now;
            }
        } else {
            claim.by_several.times = 0;
        }
        self.claim = Some(claim);
        let has_stood = |witnessed: Witnessed, wait| {
            witnessed.times >= TIMES_MIN && now.saturating_sub(witnessed.since) >= wait
        };
        has_stood(claim.by_several, CONFIRMED_BY_SEVERAL)
            || has_stood(claim.by_one, CONFIRMED_BY_ONE)
    }
}

/// Whether at least two servers agree with this rate; two addresses of one server count as one.
fn is_by_several(given: &[(String, Rate)], rate: Rate) -> bool {
    let near = given
        .iter()
        .filter(|(_, other)| judge::agrees(*other, rate));
    let servers: BTreeSet<&str> = near.map(|(server, _)| server.as_str()).collect();
    servers.len() > 1
}

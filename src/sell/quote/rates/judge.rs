//! Decides whether the rates from the sources can be accepted. Pure functions.

use crate::base::price::Rate;

use super::config::Watched;

/// How far a source may be from the median and still agree with it, in percent. Exchanges differ by
/// less than one percent. A source that is off by more reports another currency, another coin or an
/// old rate.
const AGREE_PERCENT: u128 = 5;

/// The largest factor by which a rate may differ from the anchor, up or down. Bitcoin has never
/// doubled within days. A doubled rate is probably a mistake, such as cents instead of dollars,
/// unless the sources keep confirming it.
const CHANGE_MAX: u64 = 2;

/// How far two successive answers may differ, in percent, and still confirm the same new rate.
/// While a rate jumps, the market moves by that much.
const LEVEL_PERCENT: u128 = 25;

/// The reason why the sources' answers are not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// Fewer sources than the quorum gave a rate.
    #[error("{answered} of {asked} sources gave one, and {quorum} must")]
    TooFew {
        /// The number of sources that gave a rate.
        answered: usize,
        /// The number of sources that were asked.
        asked: usize,
        /// The number of rates that are needed.
        quorum: usize,
    },
    /// Fewer rates than the quorum agree with the median.
    #[error(
        "its sources disagree, they gave {given}; {quorum} must be within {AGREE_PERCENT} % of the median"
    )]
    Disagree {
        /// All rates that the sources gave.
        given: String,
        /// The number of sources that must agree.
        quorum: usize,
    },
    /// The median is outside the bounds in the settings.
    #[error("its sources gave {rate}, which is below at_least or above at_most")]
    OutOfBounds {
        /// The median.
        rate: Rate,
    },
    /// The median is too far from the anchor.
    #[error(
        "the sources report {rate} after {last}; accepted once two or more servers confirm it for ten minutes, or one for \
         a day. If it is right, change the currency's settings (such as `at_least` and `at_most`) to take it at once"
    )]
    Jumped {
        /// The median.
        rate: Rate,
        /// The anchor, which is the accepted rate used for comparison.
        last: Rate,
    },
}

/// Returns the median of the given rates, if it can be accepted at once. `last` is the rate to
/// compare it with, however old.
pub(super) fn judge(watched: &Watched, given: &[Rate], last: Option<Rate>) -> Result<Rate, Doubt> {
    let quorum = watched.quorum.max(1);
    let too_few = Doubt::TooFew {
        answered: given.len(),
        asked: watched.sources.len(),
        quorum,
    };
    if given.len() < quorum {
        return Err(too_few);
    }
    let rate = median(given).ok_or(too_few)?;
    if given.iter().filter(|other| agrees(**other, rate)).count() < quorum {
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        return Err(Doubt::Disagree {
            given: given.join(", "),
            quorum,
        });
    }
    if !is_within_bounds(watched, rate) {
        return Err(Doubt::OutOfBounds { rate });
    }
    let micros = rate.micros_per_btc;
    if let Some(last) = last
        && (micros > last.micros_per_btc.saturating_mul(CHANGE_MAX)
            || micros < last.micros_per_btc / CHANGE_MAX)
    {
        return Err(Doubt::Jumped { rate, last });
    }
    Ok(rate)
}

/// Whether the rate is neither below `at_least` nor above `at_most`.
pub(super) fn is_within_bounds(watched: &Watched, rate: Rate) -> bool {
    let micros = rate.micros_per_btc;
    let is_below = |bound: Rate| micros < bound.micros_per_btc;
    let is_above = |bound: Rate| micros > bound.micros_per_btc;
    !(watched.at_least.is_some_and(is_below) || watched.at_most.is_some_and(is_above))
}

/// Whether a source's rate agrees with this rate.
pub(super) fn agrees(other: Rate, rate: Rate) -> bool {
    is_off_by_at_most(other, rate, AGREE_PERCENT)
}

/// Whether two successive answers confirm the same new rate.
pub(super) fn is_near_level(one: Rate, other: Rate) -> bool {
    is_off_by_at_most(one, other, LEVEL_PERCENT)
}

fn is_off_by_at_most(other: Rate, rate: Rate, percent: u128) -> bool {
    let off = other.micros_per_btc.abs_diff(rate.micros_per_btc);
    u128::from(off) * 100 <= u128::from(rate.micros_per_btc) * percent
}

/// The middle rate, or the mean of the two middle rates.
fn median(given: &[Rate]) -> Option<Rate> {
    let mut sorted = given.to_vec();
    sorted.sort_by_key(|rate| rate.micros_per_btc);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(Rate {
        currency: upper.currency,
        micros_per_btc: lower.micros_per_btc.midpoint(upper.micros_per_btc),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rate(units: u64) -> Rate {
        Rate {
            currency: "USD".parse().unwrap(),
            micros_per_btc: units * 1_000_000,
        }
    }

    fn watched(sources: usize, quorum: usize) -> Watched {
        let source = crate::sell::quote::Source {
            address: "http://127.0.0.1:1".parse().unwrap(),
            pointer: "".parse().unwrap(),
        };
        Watched {
            sources: vec![source; sources],
            quorum,
            refresh: Duration::from_secs(60),
            timeout: Duration::from_secs(10),
            max_age: Duration::from_secs(600),
            at_least: None,
            at_most: None,
        }
    }

    fn judged(
        sources: usize,
        quorum: usize,
        given: &[u64],
        last: Option<u64>,
    ) -> Result<Rate, Doubt> {
        let given: Vec<Rate> = given.iter().copied().map(rate).collect();
        judge(&watched(sources, quorum), &given, last.map(rate))
    }

    #[test]
    fn the_median_is_taken_whatever_one_liar_says() {
        for lie in [1, 50_000, 100_001, 1_000_000_000_000] {
            let taken = judged(3, 2, &[lie, 100_000, 100_100], None).unwrap();
            let micros = taken.micros_per_btc;
            assert!(
                (rate(100_000).micros_per_btc..=rate(100_100).micros_per_btc).contains(&micros)
            );
        }
        assert_eq!(judged(1, 1, &[100_000], None), Ok(rate(100_000)));
        assert_eq!(judged(2, 2, &[100_000, 100_200], None), Ok(rate(100_100)));
        assert_eq!(
            judged(4, 3, &[100_300, 1, 100_000, 100_200], None),
            Ok(rate(100_100))
        );
    }

    #[test]
    fn a_liar_and_one_honest_source_give_no_rate() {
        for (quorum, given) in [
            (2, [100_000, 50_000]),
            (1, [100_000, 50_000]),
            (1, [100_000, 112_000]),
        ] {
            let doubt = judged(3, quorum, &given, Some(100_000)).unwrap_err();
            assert!(matches!(doubt, Doubt::Disagree { .. }), "{doubt}");
        }
    }

    #[test]
    fn too_few_answers_give_no_rate() {
        for (quorum, given) in [(1, vec![]), (2, vec![100_000]), (3, vec![100_000, 100_000])] {
            let doubt = judged(3, quorum, &given, None).unwrap_err();
            assert!(matches!(doubt, Doubt::TooFew { .. }), "{doubt}");
        }
        // A quorum of zero would accept a rate without any answer.
        assert!(judged(1, 0, &[], None).is_err());
    }

    #[test]
    fn what_more_than_doubles_or_halves_is_not_taken() {
        for (given, last, is_taken) in [
            (200_000, 100_000, true),
            (200_001, 100_000, false),
            (50_000, 100_000, true),
            (49_999, 100_000, false),
            (10_000_000, 100_000, false),
            (1, 100_000, false),
        ] {
            let judged = judged(1, 1, &[given], Some(last));
            assert_eq!(judged.is_ok(), is_taken, "{given} after {last}: {judged:?}");
        }
    }

    #[test]
    fn the_settings_bounds_hold_also_for_the_first_rate() {
        let bounded = Watched {
            at_least: Some(rate(10_000)),
            at_most: Some(rate(1_000_000)),
            ..watched(1, 1)
        };
        for (given, is_taken) in [
            (9_999, false),
            (10_000, true),
            (1_000_000, true),
            (1_000_001, false),
        ] {
            let judged = judge(&bounded, &[rate(given)], None);
            assert_eq!(judged.is_ok(), is_taken, "{given}: {judged:?}");
        }
    }
}

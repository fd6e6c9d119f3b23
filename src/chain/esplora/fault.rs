//! What is wrong with an endpoint, and how long it is left alone for it.

use std::time::Duration;

use http::StatusCode;

use super::block::OtherChain;
use super::question::Flaw;

/// The pause after a first failure, doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause: whoever is down that long may stay so, and another question costs little.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The first pause of one that says that we ask too often and not when to come again.
const LIMITED_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause that it may ask for: public servers count by the hour.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// The pause of one that is behind: block intervals are longer, and it is no fault.
const BEHIND_PAUSE: Duration = Duration::from_secs(30);

/// The pause of one without fee estimates: longer than they are waited for, so that a look asks once.
const NO_FEES_PAUSE: Duration = Duration::from_secs(4);

/// Why an endpoint gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Nobody there, or it broke off.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// Not in time.
    #[error("it did not answer within {within:?}")]
    Late {
        /// How long was waited.
        within: Duration,
    },
    /// Another status than one that answers.
    #[error("it answered {path} with status {status}: {said}")]
    Status {
        /// What was asked.
        path: String,
        /// The status.
        status: StatusCode,
        /// The beginning of what it said.
        said: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// More than is read.
    #[error("it answered {path} with more than {max} bytes")]
    TooLong {
        /// What is read at most.
        max: usize,
        /// What was asked.
        path: String,
    },
    /// 200, and something else than an answer.
    #[error("it answered {path} with {flaw}: is it an Esplora API?")]
    Garbage {
        /// What was asked.
        path: String,
        /// What is wrong with it.
        flaw: Flaw,
    },
    /// It has fewer blocks than are known.
    #[error("it is behind (blocks that it lacks: {blocks})")]
    Behind {
        /// How many.
        blocks: u32,
    },
    /// It is of another network, or of a branch of its own.
    #[error(transparent)]
    OtherChain(#[from] OtherChain),
    /// It has not even one that was settled long ago.
    #[error("it has no block {height}")]
    NoBlock {
        /// Which.
        height: u32,
    },
    /// It does not know the block that it calls the newest.
    #[error("it contradicts itself about its newest block")]
    Contradiction,
    /// It gives no fee estimates where they are needed.
    #[error("it has no fee estimates")]
    NoFees,
    /// There is nothing left of its budget.
    #[error("its requests of this hour are used up")]
    Spent,
}

impl Fault {
    /// How long an endpoint is left alone after so many failures.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = |first: Duration, most: Duration| {
            let factor = 1 << failures.saturating_sub(1).min(16);
            jittered(first.saturating_mul(factor).min(most))
        };
        match self {
            // Never earlier than it wants.
            Fault::Status {
                retry_after: Some(after),
                ..
            } => (*after).clamp(PAUSE_MIN, RETRY_AFTER_MAX),
            Fault::Status {
                status: StatusCode::TOO_MANY_REQUESTS,
                ..
            } => doubled(LIMITED_PAUSE, RETRY_AFTER_MAX),
            Fault::Behind { .. } | Fault::NoBlock { .. } => jittered(BEHIND_PAUSE),
            // Somebody has to change the settings, or another server has to stand behind that name.
            Fault::OtherChain(_) => jittered(PAUSE_MAX),
            Fault::NoFees => NO_FEES_PAUSE,
            Fault::Contradiction => PAUSE_MIN,
            Fault::Unreachable(_)
            | Fault::Late { .. }
            | Fault::Status { .. }
            | Fault::TooLong { .. }
            | Fault::Garbage { .. }
            | Fault::Spent => doubled(PAUSE_MIN, PAUSE_MAX),
        }
    }
}

/// Between three quarters and five quarters of it: a thousand nodes must not come back in the same second.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness it is the middle.
    let share = match getrandom::fill(&mut random) {
        Ok(()) => f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX),
        Err(_) => 0.5,
    };
    pause.mul_f64(0.75 + share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: StatusCode, retry_after: Option<Duration>) -> Fault {
        Fault::Status {
            path: "/blocks".to_owned(),
            status,
            said: String::new(),
            retry_after,
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_a_wish_is_respected() {
        let failing = status(StatusCode::INTERNAL_SERVER_ERROR, None);
        for (failures, secs) in [(1, 1.0), (2, 2.0), (5, 16.0), (40, 300.0)] {
            let pause = failing.pause(failures).as_secs_f64();
            assert!(
                (0.75..=1.25).contains(&(pause / secs)),
                "{failures}: {pause}"
            );
        }
        let wish = |secs| {
            let after = Some(Duration::from_secs(secs));
            status(StatusCode::TOO_MANY_REQUESTS, after)
                .pause(1)
                .as_secs()
        };
        assert_eq!((wish(0), wish(77), wish(1_000_000)), (1, 77, 3_600));
        let limited = status(StatusCode::TOO_MANY_REQUESTS, None).pause(1);
        assert!(limited >= Duration::from_secs(45));
    }
}

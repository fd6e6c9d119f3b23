//! The faults of an endpoint, and the pause after each of them.

use std::time::Duration;

use http::StatusCode;

use super::block::OtherChain;
use super::question::Flaw;

/// The pause after a first failure. Each further failure doubles it.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest pause. An endpoint that is down this long may stay down, and one more request costs
/// little.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// The first pause of an endpoint that reports too many requests without `Retry-After`.
const LIMITED_PAUSE: Duration = Duration::from_secs(60);

/// The longest pause that an endpoint may ask for: public servers count by the hour.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// The pause of an endpoint that is behind. Being behind is normal, and blocks take longer than
/// this pause.
const BEHIND_PAUSE: Duration = Duration::from_secs(30);

/// The pause of an endpoint without fee estimates. It is longer than the wait for estimates, so
/// that one sync asks once.
const NO_FEES_PAUSE: Duration = Duration::from_secs(4);

/// The reason why an endpoint gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The server did not accept the connection, or the connection broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// The answer did not come in time.
    #[error("it did not answer within {within:?}")]
    Late {
        /// The time limit.
        within: Duration,
    },
    /// The answer has a status that is not a valid answer.
    #[error("it answered {path} with status {status}: {said}")]
    Status {
        /// The requested path.
        path: String,
        /// The status.
        status: StatusCode,
        /// The beginning of the answer.
        said: String,
        /// The wait that the server asks for.
        retry_after: Option<Duration>,
    },
    /// The answer is too long.
    #[error("it answered {path} with more than {max} bytes")]
    TooLong {
        /// The longest answer that is read, in bytes.
        max: usize,
        /// The requested path.
        path: String,
    },
    /// The status is 200, but the answer is not valid.
    #[error("it answered {path} with {flaw}: is it an Esplora API?")]
    Garbage {
        /// The requested path.
        path: String,
        /// The flaw of the answer.
        flaw: Flaw,
    },
    /// The endpoint has fewer blocks than are known.
    #[error("it is behind (blocks that it lacks: {blocks})")]
    Behind {
        /// The number of missing blocks.
        blocks: u32,
    },
    /// The endpoint is on another network or on its own branch.
    #[error(transparent)]
    OtherChain(#[from] OtherChain),
    /// The endpoint has no block at a height at which our chain has one.
    #[error("it has no block {height}")]
    NoBlock {
        /// The height of the missing block.
        height: u32,
    },
    /// The endpoint does not know the block that it calls the newest.
    #[error("it contradicts itself about its newest block")]
    Contradiction,
    /// The endpoint gives no fee estimates although they are required.
    #[error("it has no fee estimates")]
    NoFees,
    /// The hourly budget of the endpoint is used up.
    #[error("its requests of this hour are used up")]
    Spent,
}

impl Fault {
    /// Returns how long an endpoint is paused after this many failures in a row.
    pub(super) fn pause(&self, failures: u32) -> Duration {
        let doubled = |first: Duration, most: Duration| {
            let factor = 1 << failures.saturating_sub(1).min(16);
            jittered(first.saturating_mul(factor).min(most))
        };
        match self {
            // No jitter, so that the server is not asked earlier than it wants, up to the longest
            // pause.
            Fault::Status {
                retry_after: Some(after),
                ..
            } => (*after).clamp(PAUSE_MIN, RETRY_AFTER_MAX),
            Fault::Status {
                status: StatusCode::TOO_MANY_REQUESTS,
                ..
            } => doubled(LIMITED_PAUSE, RETRY_AFTER_MAX),
            Fault::Behind { .. } | Fault::NoBlock { .. } => jittered(BEHIND_PAUSE),
            // This lasts until the settings change or another server answers at this address.
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

/// Returns a random pause between 75 % and 125 % of this one, so that a thousand nodes do
/// not come back in the same second.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness, the pause stays as it is.
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

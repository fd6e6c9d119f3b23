//! Decides by its connections whether a hook is away. A client must not be able to make a hook look
//! away: neither by a request that crashes the hook, nor by requests that keep it too busy to
//! accept another connection.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::base::clock::Clock;

use super::super::ask::{AskError, Connection};

/// How long a hook does not count as away after a connection: longer than requests keep it busy.
const DOUBT: Duration = Duration::from_secs(30);

/// How long a hook does not count as away after an unanswered request. The request may have crashed
/// the hook, and a restart may take minutes. An answer at least `DOUBT` later ends this period,
/// because it shows that the hook survived the request.
const DOUBT_UNANSWERED: Duration = Duration::from_secs(600);

/// The times of one hook's connections. A `std` mutex: held for a few instructions.
#[derive(Debug, Default)]
pub(super) struct Contact(Mutex<Times>);

/// Times since the machine started, so that setting the clock does not change them.
#[derive(Debug, Default)]
struct Times {
    /// The time of the hook's last connection.
    reached: Option<Duration>,
    /// The time of the last unanswered request; `None` if the hook has survived that request.
    unanswered: Option<Duration>,
}

/// A running request to the hook. It counts as unanswered if this value is dropped early, for
/// example because the client hangs up.
#[must_use = "call `heard` with the answer"]
pub(super) struct Asking<'a> {
    contact: &'a Contact,
    connection: &'a Connection,
    clock: &'a Clock,
    is_answered: bool,
}

impl Contact {
    pub(super) fn asking<'a>(&'a self, connection: &'a Connection, clock: &'a Clock) -> Asking<'a> {
        Asking {
            contact: self,
            connection,
            clock,
            is_answered: false,
        }
    }

    /// Whether a failure means that the hook is away.
    pub(super) fn is_away(&self, why: &AskError, now: Duration) -> bool {
        let times = self.times();
        let is_within = |time: Option<Duration>, doubt| {
            time.is_some_and(|time| now.saturating_sub(time) < doubt)
        };
        // A request may have crashed the hook, or still blocks it.
        if is_within(times.unanswered, DOUBT_UNANSWERED) {
            return false;
        }
        match why {
            AskError::Unreachable { is_absent, .. } => *is_absent,
            // The hook may be too busy to accept connections.
            AskError::NoConnection(_) => !is_within(times.reached, DOUBT),
            AskError::Late(_)
            | AskError::BrokeOff { .. }
            | AskError::Status { .. }
            | AskError::TooLong => false,
        }
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking<'_> {
    /// Records the outcome of the request.
    pub(super) fn heard(mut self, answer: &Result<Bytes, AskError>) {
        self.is_answered = match answer {
            Ok(_) | Err(AskError::Status { .. } | AskError::TooLong) => true,
            Err(
                AskError::Late(_)
                | AskError::NoConnection(_)
                | AskError::Unreachable { .. }
                | AskError::BrokeOff { .. },
            ) => false,
        };
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if !self.connection.is_made() {
            return;
        }
        let now = self.clock.since_boot();
        let mut times = self.contact.times();
        times.reached = Some(now);
        if !self.is_answered {
            times.unanswered = Some(now);
        } else if times
            .unanswered
            .is_some_and(|time| now.saturating_sub(time) >= DOUBT)
        {
            times.unanswered = None;
        }
    }
}

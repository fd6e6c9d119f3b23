//! Whether a hook is away, as far as its connections tell. A client must not be able to make a hook look away: neither by a
//! question that it dies of, nor by questions that keep it too busy to take another connection.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;

use super::super::ask::{AskError, Connection};

/// How long a hook that took a connection is not taken for away: longer than questions keep it busy.
const DOUBT: Duration = Duration::from_secs(30);

/// How long a hook that left a question unanswered is not taken for away: it may have died of the question, and its restart may
/// take minutes. An answer ends this, if it comes `DOUBT` later or more: by then the hook has survived the question.
const DOUBT_UNANSWERED: Duration = Duration::from_secs(600);

/// The times of its connections. A `std` mutex: held for a few instructions.
#[derive(Debug, Default)]
pub(super) struct Contact(Mutex<Times>);

/// Times since the machine's start, which no setting of the clock moves.
#[derive(Debug, Default)]
struct Times {
    /// When it last had a connection.
    reached: Option<Duration>,
    /// When it last took a question and left it without an answer. `None` again once it has survived that.
    unanswered: Option<Duration>,
}

/// A question on its way. Dropped, as when its client hangs up, it counts as one without an answer.
#[must_use = "say what was heard"]
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

    /// Whether a failure says that it is away.
    pub(super) fn is_away(&self, why: &AskError, now: Duration) -> bool {
        let times = self.times();
        let is_within = |time: Option<Duration>, doubt| {
            time.is_some_and(|time| now.saturating_sub(time) < doubt)
        };
        // It may have died of a question, or hang in it.
        if is_within(times.unanswered, DOUBT_UNANSWERED) {
            return false;
        }
        match why {
            AskError::Unreachable { is_absent, .. } => *is_absent,
            // It may have too much to do.
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
    /// Notes what came of it.
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

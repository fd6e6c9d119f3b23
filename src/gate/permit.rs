//! The proof that a request may be served. Only the gate makes one; serving consumes it.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::l402::TokenId;
use crate::ledger::{Left, QuotaUse, Reservation};

/// The longest work that an upstream may report for one request: what is more is a mistake in its unit.
const REPORTED_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Proof that a request may be served, used up by serving it. Dropped, its use counts as delivered.
#[derive(Debug)]
#[must_use = "a permit is given to the resource; dropped, its use counts as delivered"]
pub struct Permit {
    /// What it was given for.
    ground: Ground,
    /// Where the upstream says how long it worked.
    metered_by: Option<HeaderName>,
}

#[derive(Debug)]
enum Ground {
    Free,
    DryRun,
    Quota(QuotaUse),
    Paid(Reservation),
}

/// Why a permit was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The route is unguarded.
    Free,
    /// The route is sold, and lets everything through for now.
    DryRun,
    /// The client had free requests left.
    Quota,
    /// A credential was admitted.
    Paid,
}

impl Permit {
    pub(super) fn free() -> Self {
        Self::on(Ground::Free)
    }

    pub(super) fn dry_run() -> Self {
        Self::on(Ground::DryRun)
    }

    pub(super) fn quota(used: QuotaUse) -> Self {
        Self::on(Ground::Quota(used))
    }

    pub(super) fn paid(reservation: Reservation, metered_by: Option<&HeaderName>) -> Self {
        Self {
            ground: Ground::Paid(reservation),
            metered_by: metered_by.cloned(),
        }
    }

    fn on(ground: Ground) -> Self {
        Self {
            ground,
            metered_by: None,
        }
    }

    /// Why it was given.
    pub fn reason(&self) -> Reason {
        match self.ground {
            Ground::Free => Reason::Free,
            Ground::DryRun => Reason::DryRun,
            Ground::Quota(_) => Reason::Quota,
            Ground::Paid(_) => Reason::Paid,
        }
    }

    /// What is left to who holds it, behind this request.
    pub fn left(&self) -> Left {
        match &self.ground {
            Ground::Free | Ground::DryRun => Left::default(),
            Ground::Quota(used) => Left {
                requests: Some(used.left()),
                expires_secs: Some(used.until_secs()),
                ..Left::default()
            },
            Ground::Paid(reservation) => reservation.left(),
        }
    }

    /// The token that was admitted.
    pub fn token_id(&self) -> Option<TokenId> {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => None,
            Ground::Paid(reservation) => reservation.token_id().map(TokenId),
        }
    }

    /// Counts bytes of the answer and says how many of them may go out: fewer where an answer is cut at the grant's end.
    pub fn deliver(&self, bytes: usize) -> usize {
        let Ground::Paid(reservation) = &self.ground else {
            return bytes;
        };
        let allowed = reservation.deliver(bytes as u64);
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    /// Whether passing time has to be counted while the answer runs: about once a second, by [`Permit::pass_time`].
    pub fn is_timed(&self) -> bool {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => false,
            Ground::Paid(reservation) => reservation.is_timed(),
        }
    }

    /// Counts the time that has passed. `false` if the answer has to be cut off.
    pub fn pass_time(&mut self) -> bool {
        match &mut self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => true,
            // Whoever meters the work will say what counts; the end of the token's time is seen all the same.
            Ground::Paid(reservation) if self.metered_by.is_some() => !reservation.is_overdue(),
            Ground::Paid(reservation) => reservation.pass_time(),
        }
    }

    /// Whether the upstream is to say how long it worked, if it likes behind its answer.
    pub fn awaits_meter(&self) -> bool {
        self.metered_by.is_some()
    }

    /// The upstream will not say how long it works: the time that passes is what counts.
    pub fn meter_here(&mut self) {
        self.metered_by = None;
    }

    /// Reads how long the upstream worked, if it says so in these headers or trailers; otherwise the time until the last
    /// byte counts.
    pub fn read_meter(&mut self, headers: &HeaderMap) {
        let (Some(name), Ground::Paid(reservation)) = (&self.metered_by, &mut self.ground) else {
            return;
        };
        let Some(value) = headers.get(name) else {
            return;
        };
        let seconds = value
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let worked = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        match worked.filter(|worked| *worked <= REPORTED_MAX) {
            Some(worked) => {
                reservation.report(worked);
                // Said once, in the head or behind the body.
                self.metered_by = None;
            }
            None => tracing::warn!(
                "An upstream said {value:?} in {name}, which is no number of seconds: the time until the last byte counts"
            ),
        }
    }

    /// Returns the use to the holder: nothing was delivered, and it was not the holder's doing.
    pub fn give_back(self) {
        match self.ground {
            Ground::Free | Ground::DryRun => {}
            Ground::Quota(used) => used.give_back(),
            Ground::Paid(reservation) => reservation.give_back(),
        }
    }
}

//! The proof that a request may be served. Only the gate makes one; serving consumes it.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tracing::Level;

use crate::account::ledger::{Ledger, Left, QuotaUse, Reservation};
use crate::base::clock::Clock;
use crate::base::sparing::Sparing;
use crate::protocol::l402::TokenId;
use crate::sell::route::{Count, Offer};

use super::Keyring;

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
    /// Which answers cost a use.
    count: Count,
    /// The source of log lines written while this permit is served.
    cause: Cause,
}

/// The route that log lines name.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// Limits the log lines that requests can cause.
    pub(crate) log: Arc<Sparing>,
    /// The name of the route, or the service of a guard.
    pub(crate) route: Arc<str>,
}

impl Cause {
    /// Whether a line of this kind may be written now.
    pub(crate) fn may_log(&self, level: Level, kind: &'static str) -> bool {
        self.log.may(level, kind, &self.route)
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one: boxed, each paid request would allocate"
)]
#[derive(Debug)]
enum Ground {
    Free,
    DryRun,
    Quota(QuotaUse),
    Paid(Reservation, Opened),
}

/// What a token has opened; it may be revoked while it is open.
#[derive(Debug)]
pub(super) struct Opened {
    /// Knows what was revoked.
    pub(super) ledger: Arc<Ledger>,
    /// The service.
    pub(super) service: Arc<str>,
    /// The keys, to see which have retired.
    pub(super) keyring: Arc<Keyring>,
    /// The time source.
    pub(super) clock: Clock,
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

/// Why an answer is cut off before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The grant ran out during the answer, and the route cuts answers there.
    #[error("the grant is used up")]
    UsedUp,
    /// The token was revoked during the answer, or its root key was retired.
    #[error("the token is revoked")]
    Revoked,
}

impl Opened {
    /// Whether the token opens nothing any more, because it was revoked or its key has retired.
    fn is_revoked(&self, reservation: &Reservation) -> bool {
        let token_id = reservation.token_id().map(TokenId);
        token_id.is_some_and(|token_id| {
            let keys = self.keyring.in_force();
            self.ledger.is_revoked(&token_id, &self.service)
                || !keys.is_in_force(token_id.epoch(), self.clock.unix_secs())
        })
    }
}

impl Permit {
    pub(super) fn free(cause: Cause) -> Self {
        Self::on(Ground::Free, cause)
    }

    pub(super) fn dry_run(cause: Cause) -> Self {
        Self::on(Ground::DryRun, cause)
    }

    pub(super) fn quota(used: QuotaUse, cause: Cause) -> Self {
        Self::on(Ground::Quota(used), cause)
    }

    pub(super) fn paid(
        reservation: Reservation,
        opened: Opened,
        offer: &Offer,
        cause: Cause,
    ) -> Self {
        Self {
            ground: Ground::Paid(reservation, opened),
            metered_by: offer.metered_by.clone(),
            count: offer.count,
            cause,
        }
    }

    /// The same permit, counting time from now on: the wait for the hook is not charged to the holder.
    pub(super) fn admitted_now(mut self) -> Self {
        if let Ground::Paid(reservation, _) = &mut self.ground {
            reservation.count_from_now();
        }
        self
    }

    fn on(ground: Ground, cause: Cause) -> Self {
        Self {
            ground,
            metered_by: None,
            count: Count::default(),
            cause,
        }
    }

    /// The source of log lines written while this permit is served.
    pub(crate) fn cause(&self) -> &Cause {
        &self.cause
    }

    /// Why it was given.
    pub fn reason(&self) -> Reason {
        match self.ground {
            Ground::Free => Reason::Free,
            Ground::DryRun => Reason::DryRun,
            Ground::Quota(_) => Reason::Quota,
            Ground::Paid(..) => Reason::Paid,
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
            Ground::Paid(reservation, _) => reservation.left(),
        }
    }

    /// The token that was admitted.
    pub fn token_id(&self) -> Option<TokenId> {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => None,
            Ground::Paid(reservation, _) => reservation.token_id().map(TokenId),
        }
    }

    /// Whether other running answers may use up what is left before this one begins.
    pub fn is_shared(&self) -> bool {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => false,
            Ground::Paid(reservation, _) => reservation.is_shared(),
        }
    }

    /// Begins the answer, and holds `length` bytes for it if its length is known. `false` if other answers have
    /// used up the rest in the meantime; the caller then returns the permit.
    pub fn begin(&mut self, length: Option<u64>) -> bool {
        match &mut self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => true,
            Ground::Paid(reservation, _) => reservation.begin(length),
        }
    }

    /// Counts bytes of the answer and says how many of them may go out: fewer where an answer is cut at the grant's end.
    pub fn deliver(&mut self, bytes: usize) -> usize {
        let Ground::Paid(reservation, _) = &mut self.ground else {
            return bytes;
        };
        let allowed = reservation.deliver(bytes as u64);
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    /// Reserves the next `bytes` bytes of the answer, so that a message passes as a whole. `false` if the grant has less left:
    /// then the answer ends before that message.
    pub fn hold(&mut self, bytes: u64) -> bool {
        match &mut self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => true,
            Ground::Paid(reservation, _) => reservation.hold(bytes),
        }
    }

    /// Whether an answer has to be looked after while it runs: about once a second, by [`Permit::pass_time`], as long as something
    /// is delivered.
    pub fn is_watched(&self) -> bool {
        matches!(self.ground, Ground::Paid(..))
    }

    /// Whether the time that passes matters from the beginning, and not only if an answer runs for long.
    pub fn is_timed(&self) -> bool {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => false,
            Ground::Paid(reservation, _) => reservation.is_timed(),
        }
    }

    /// Counts the time that has passed. Fails if the answer must end: the time is used up, the token was revoked, or its root
    /// key was retired.
    pub fn pass_time(&mut self) -> Result<(), Over> {
        let Ground::Paid(reservation, opened) = &mut self.ground else {
            return Ok(());
        };
        // Whoever meters the work will say what counts; the end of the token's time is seen all the same.
        let has_time = if self.metered_by.is_some() {
            !reservation.is_overdue()
        } else {
            reservation.pass_time()
        };
        if opened.is_revoked(reservation) {
            return Err(Over::Revoked);
        }
        has_time.then_some(()).ok_or(Over::UsedUp)
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
        let (Some(name), Ground::Paid(reservation, _)) = (&self.metered_by, &mut self.ground)
        else {
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
            None if self
                .cause
                .may_log(Level::WARN, "An upstream's meter is not understood") =>
            {
                tracing::warn!(
                    route.name = &*self.cause.route,
                    "The upstream of {} said {value:?} in {name}, which is not a number of seconds: \
                     counting the time until the last byte",
                    self.cause.route
                );
            }
            None => {}
        }
    }

    /// Whether the use is given back although the answer was delivered, because it brought the client nothing. Never for a free
    /// use or with `count = "all"`, and limited per token, so that clients cannot make the upstream work for free without end.
    pub fn is_excused(&self) -> bool {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => false,
            Ground::Paid(reservation, _) => self.count != Count::All && reservation.is_excused(),
        }
    }

    /// Returns the use to the holder, because nothing was delivered and that was not the holder's doing. Returns
    /// what is left for the next request.
    pub fn give_back(self) -> Left {
        match self.ground {
            Ground::Free | Ground::DryRun => Left::default(),
            Ground::Quota(used) => {
                let expires_secs = Some(used.until_secs());
                Left {
                    requests: Some(used.give_back()),
                    expires_secs,
                    ..Left::default()
                }
            }
            Ground::Paid(reservation, _) => reservation.give_back(),
        }
    }

    /// Gives back a use that was reserved for the hook call and not needed.
    pub(super) fn withdraw(self) {
        match self.ground {
            Ground::Paid(reservation, _) => reservation.withdraw(),
            Ground::Free | Ground::DryRun | Ground::Quota(_) => {
                self.give_back();
            }
        }
    }

    /// Ends the use of a client that left before the first byte of an answer. A token gets its use back a few
    /// times; a free request counts.
    pub fn leave(self) {
        if let Ground::Paid(reservation, _) = self.ground {
            reservation.leave();
        }
    }
}

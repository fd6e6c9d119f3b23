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

use super::keyring::Keyring;

/// The longest work that an upstream can report for one request. A larger number is taken for a
/// wrong unit.
const REPORTED_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Proof that a request may be served. Serving consumes it. If it is dropped, its use counts as
/// delivered.
#[derive(Debug)]
#[must_use = "a permit is given to the resource; dropped, its use counts as delivered"]
pub struct Permit {
    /// The ground on which the permit was given.
    ground: Ground,
    /// The header or trailer in which the upstream reports how long it worked.
    metered_by: Option<HeaderName>,
    /// The kinds of answers that count as a use.
    count: Count,
    /// The source of log lines written while this permit is served.
    cause: Cause,
}

/// The source of log lines about a request.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    /// Limits the log lines that requests can cause.
    pub(crate) log: Arc<Sparing>,
    /// The name of the route, or the service of a guard.
    pub(crate) route: Arc<str>,
}

impl Cause {
    /// Whether a log line of this kind may be written now.
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

/// The data needed to see whether a token is revoked while its answer runs.
#[derive(Debug)]
pub(super) struct Opened {
    /// The ledger, which stores the revocations.
    pub(super) ledger: Arc<Ledger>,
    /// The service that the token opened.
    pub(super) service: Arc<str>,
    /// The keyring, which shows whether the token's key has retired.
    pub(super) keyring: Arc<Keyring>,
    /// The time source.
    pub(super) clock: Clock,
}

/// The reason why a permit was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The route is not sold.
    Free,
    /// The route is sold, but serves every request for now.
    DryRun,
    /// The client had free requests left.
    Quota,
    /// A credential was admitted.
    Paid,
}

/// The reason why an answer is cut off before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Over {
    /// The grant ran out during the answer, and the route cuts answers in this case.
    #[error("the grant is used up")]
    UsedUp,
    /// The token was revoked during the answer, or its key has retired.
    #[error("the token is revoked")]
    Revoked,
}

impl Opened {
    /// Whether the token was revoked or its key has retired.
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

    /// Restarts the time count of this permit, so that the wait for the hook is not charged to the
    /// holder.
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

    /// The reason why the permit was given.
    pub fn reason(&self) -> Reason {
        match self.ground {
            Ground::Free => Reason::Free,
            Ground::DryRun => Reason::DryRun,
            Ground::Quota(_) => Reason::Quota,
            Ground::Paid(..) => Reason::Paid,
        }
    }

    /// The rest of the holder's grant or quota after this request.
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

    /// Whether other running answers can use up the rest of the grant before this answer begins.
    pub fn is_shared(&self) -> bool {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => false,
            Ground::Paid(reservation, _) => reservation.is_shared(),
        }
    }

    /// Begins the answer, and holds `length` bytes for it if its length is known. Returns `false`
    /// if other answers have used up the rest in the meantime. The caller then gives the permit
    /// back.
    pub fn begin(&mut self, length: Option<u64>) -> bool {
        match &mut self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => true,
            Ground::Paid(reservation, _) => reservation.begin(length),
        }
    }

    /// Counts bytes of the answer, and returns how many of them may be sent. These are fewer than
    /// `bytes` if the answer is cut where the grant ends.
    pub fn deliver(&mut self, bytes: usize) -> usize {
        let Ground::Paid(reservation, _) = &mut self.ground else {
            return bytes;
        };
        let allowed = reservation.deliver(bytes as u64);
        usize::try_from(allowed).unwrap_or(usize::MAX)
    }

    /// Reserves the next `bytes` bytes of the answer, so that a message is sent as a whole. Returns
    /// `false` if the grant has less left. The answer then ends before that message.
    pub fn hold(&mut self, bytes: u64) -> bool {
        match &mut self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => true,
            Ground::Paid(reservation, _) => reservation.hold(bytes),
        }
    }

    /// Whether the caller must call [`Permit::pass_time`] about once a second while the answer is
    /// sent.
    pub fn is_watched(&self) -> bool {
        matches!(self.ground, Ground::Paid(..))
    }

    /// Whether time is charged from the start of the answer, and not only checked in a long one.
    pub fn is_timed(&self) -> bool {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => false,
            Ground::Paid(reservation, _) => reservation.is_timed(),
        }
    }

    /// Charges the time that has passed. Fails if the answer must end: the time is used up, the
    /// token was revoked, or its key has retired.
    pub fn pass_time(&mut self) -> Result<(), Over> {
        let Ground::Paid(reservation, opened) = &mut self.ground else {
            return Ok(());
        };
        // If the upstream meters the work, its report is charged. Only the token's expiry is
        // checked here.
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

    /// Whether the upstream is expected to report how long it worked. The report can be in a
    /// trailer.
    pub fn awaits_meter(&self) -> bool {
        self.metered_by.is_some()
    }

    /// Charges the time that passes, because the upstream will not report how long it worked.
    pub fn meter_here(&mut self) {
        self.metered_by = None;
    }

    /// Reads from headers or trailers how long the upstream worked. Without a report, the time
    /// until the last byte is charged.
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
                // Only the first report counts, from the headers or the trailers.
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

    /// Whether a delivered use goes back to the holder, because the answer brought the client
    /// nothing. Free uses and `count = "all"` never go back. A limit for each token keeps clients
    /// from making the upstream work for free again and again.
    pub fn is_excused(&self) -> bool {
        match &self.ground {
            Ground::Free | Ground::DryRun | Ground::Quota(_) => false,
            Ground::Paid(reservation, _) => self.count != Count::All && reservation.is_excused(),
        }
    }

    /// Gives the use back to the holder, because nothing was delivered and the holder was not at
    /// fault. Returns the rest of the grant for the next request.
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

    /// Gives back a use that was reserved for the hook call but not needed. For a minute, the token
    /// then reserves no use before the price is known.
    pub(super) fn withdraw(self) {
        match self.ground {
            Ground::Paid(reservation, _) => reservation.withdraw(),
            Ground::Free | Ground::DryRun | Ground::Quota(_) => {
                self.give_back();
            }
        }
    }

    /// Ends the use of a client that left before the first byte of an answer. A token gets its use
    /// back a few times. A free request stays counted.
    pub fn leave(self) {
        if let Ground::Paid(reservation, _) = self.ground {
            reservation.leave();
        }
    }
}

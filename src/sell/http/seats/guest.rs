//! A connection that holds a place: its activity, and how readily it is displaced.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a connection counts as a payer's after its last request with a valid credential, in
/// milliseconds: five minutes.
const PAYER_FOR_MS: u64 = 5 * 60 * 1_000;

/// How long a new connection without a request does not count as idle, in milliseconds: a handshake
/// over a slow line takes a second or two.
const YOUNG_FOR_MS: u64 = 5 * 1_000;

/// A connection that holds a place. Each of its requests carries it as an extension.
#[derive(Clone, Debug)]
pub(crate) struct Guest(Arc<State>);

#[derive(Debug)]
struct State {
    pub(super) number: u64,
    /// When the connection was accepted; all other times are milliseconds after that.
    pub(super) accepted: Instant,
    /// The number of requests that are being answered.
    pub(super) running: AtomicUsize,
    /// The number of paid requests that are being answered.
    pub(super) paid: AtomicUsize,
    /// When a request last began or ended; 0 before the first.
    pub(super) asked_ms: AtomicU64,
    /// When a request with a valid credential last began or ended; 0 before the first.
    pub(super) paid_ms: AtomicU64,
    /// Whether bytes wait for the client to take them.
    pub(super) is_writing: AtomicBool,
    /// Whether the connection has switched to another protocol. Its counts then no longer change.
    pub(super) is_tunnel: AtomicBool,
    /// Cancelled when the connection has to give up its place.
    pub(super) leave: CancellationToken,
}

/// Marks a connection as having a running request, or a paid one, until this is dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the request"]
pub(crate) struct Held {
    pub(super) guest: Guest,
    pub(super) is_paid: bool,
}

/// How readily a connection is displaced. The connection with the greatest value goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Readiness {
    /// Whether the connection is not a payer's.
    pub(super) is_unpaid: bool,
    /// The number of its network's connections. If this connection is unpaid, counts only unpaid
    /// ones.
    of_network: usize,
    /// Whether the connection is idle.
    pub(super) is_idle: bool,
    /// The time since the last request, in milliseconds.
    quiet_ms: u64,
    /// The number of the connection. Of two otherwise equal connections, the older goes first.
    number: Reverse<u64>,
}

/// The number of these connections that do not belong to a payer.
pub(super) fn unpaid(guests: &[Guest]) -> usize {
    guests.iter().filter(|guest| !guest.is_payer()).count()
}

impl Guest {
    pub(super) fn new(number: u64) -> Self {
        Self(Arc::new(State {
            number,
            accepted: Instant::now(),
            running: AtomicUsize::new(0),
            paid: AtomicUsize::new(0),
            asked_ms: AtomicU64::new(0),
            paid_ms: AtomicU64::new(0),
            is_writing: AtomicBool::new(false),
            is_tunnel: AtomicBool::new(false),
            leave: CancellationToken::new(),
        }))
    }

    /// Marks a request as running until the returned value is dropped.
    pub(in crate::sell::http) fn ask(&self) -> Held {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        self.0.asked_ms.store(self.now_ms(), Ordering::Relaxed);
        Held {
            guest: self.clone(),
            is_paid: false,
        }
    }

    /// Marks a paid request as running until the returned value is dropped. Until then, the
    /// connection is not displaced.
    pub(crate) fn pay(&self) -> Held {
        self.0.paid.fetch_add(1, Ordering::Relaxed);
        self.0.paid_ms.store(self.now_ms(), Ordering::Relaxed);
        Held {
            guest: self.clone(),
            is_paid: true,
        }
    }

    /// Records the switch to another protocol. The last request, paid or not, then stays counted as
    /// running.
    pub(in crate::sell::http) fn become_tunnel(&self) {
        self.0.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// Records whether bytes wait for the client to take them.
    pub(in crate::sell::http) fn note_writing(&self, is_writing: bool) {
        self.0.is_writing.store(is_writing, Ordering::Relaxed);
    }

    /// The number of the connection on its listener.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// Makes the connection give up its place.
    pub(super) fn send_away(&self) {
        self.0.leave.cancel();
    }

    /// Whether the connection has to give up its place.
    #[cfg(test)]
    pub(super) fn is_sent_away(&self) -> bool {
        self.0.leave.is_cancelled()
    }

    /// Waits until the connection has to give up its place.
    pub(in crate::sell::http) async fn must_leave(&self) {
        self.0.leave.cancelled().await;
    }

    /// Milliseconds since the connection was accepted, at least one.
    fn now_ms(&self) -> u64 {
        let passed = self.0.accepted.elapsed().as_millis();
        u64::try_from(passed).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.0.running.load(Ordering::Relaxed) > 0 || self.0.is_writing.load(Ordering::Relaxed)
    }

    fn is_payer(&self) -> bool {
        let paid_ms = self.0.paid_ms.load(Ordering::Relaxed);
        let is_recent = || self.now_ms().saturating_sub(paid_ms) < PAYER_FOR_MS;
        self.0.paid.load(Ordering::Relaxed) > 0 || (paid_ms > 0 && is_recent())
    }

    /// How readily the connection is displaced. Its network has `count` connections, of which
    /// `unpaid` are not a payer's. `None` if the connection must stay.
    pub(super) fn readiness(&self, count: usize, unpaid: usize) -> Option<Readiness> {
        let is_payer = self.is_payer();
        if self.0.paid.load(Ordering::Relaxed) > 0 || (is_payer && self.is_busy()) {
            return None;
        }
        let (now_ms, asked_ms) = (self.now_ms(), self.0.asked_ms.load(Ordering::Relaxed));
        let is_young = asked_ms == 0 && now_ms < YOUNG_FOR_MS;
        Some(Readiness {
            is_unpaid: !is_payer,
            of_network: if is_payer { count } else { unpaid },
            is_idle: !self.is_busy() && !is_young,
            quiet_ms: now_ms.saturating_sub(asked_ms),
            number: Reverse(self.0.number),
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let state = &self.guest.0;
        if state.is_tunnel.load(Ordering::Relaxed) {
            return;
        }
        let (count, ended_ms) = if self.is_paid {
            (&state.paid, &state.paid_ms)
        } else {
            (&state.running, &state.asked_ms)
        };
        count.fetch_sub(1, Ordering::Relaxed);
        ended_ms.store(self.guest.now_ms(), Ordering::Relaxed);
    }
}

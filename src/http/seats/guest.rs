//! A connection that holds a place: what it does, and how ready it is to give the place up.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a connection counts as a payer's after its last request with a good credential, in milliseconds: five minutes.
const PAYER_FOR_MS: u64 = 5 * 60 * 1_000;

/// A connection that has asked nothing yet is not idle within this time, in milliseconds: a handshake over a slow line takes a
/// second or two.
const YOUNG_FOR_MS: u64 = 5 * 1_000;

/// A connection that holds a place; on every request that came by it.
#[derive(Clone, Debug)]
pub(crate) struct Guest(Arc<State>);

#[derive(Debug)]
struct State {
    number: u64,
    /// When it was accepted; all other times are milliseconds after that.
    accepted: Instant,
    /// Requests that are being answered.
    running: AtomicUsize,
    /// How many of them were paid for.
    paid: AtomicUsize,
    /// When a request last began or ended; 0 before the first.
    asked_ms: AtomicU64,
    /// When a good credential was last shown; 0 for never.
    paid_ms: AtomicU64,
    /// Whether bytes wait until the client takes them.
    is_writing: AtomicBool,
    /// Whether it speaks another protocol now and stays as it is.
    is_tunnel: AtomicBool,
    /// Cancelled when it has to give up its place.
    leave: CancellationToken,
}

/// A request that is being answered, or a payment for one, until it is dropped.
#[derive(Debug)]
#[must_use = "dropped, the request is over"]
pub(crate) struct Held {
    guest: Guest,
    is_paid: bool,
}

/// How ready a connection is to give up its place: the greatest goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Readiness {
    /// Whether it has shown no good credential lately.
    pub(super) is_unpaid: bool,
    /// How many connections of that kind its network has.
    of_network: usize,
    /// Whether it asks nothing.
    pub(super) is_idle: bool,
    /// For how long nothing new was asked.
    quiet_ms: u64,
    /// The older one of two.
    number: Reverse<u64>,
}

/// How many of these have shown no good credential lately.
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

    /// Notes a request that is being answered.
    pub(in crate::http) fn ask(&self) -> Held {
        self.0.running.fetch_add(1, Ordering::Relaxed);
        self.0.asked_ms.store(self.now_ms(), Ordering::Relaxed);
        Held {
            guest: self.clone(),
            is_paid: false,
        }
    }

    /// Notes that a good credential was shown. While the value is held, the connection is not given up.
    pub(crate) fn pay(&self) -> Held {
        self.0.paid.fetch_add(1, Ordering::Relaxed);
        self.0.paid_ms.store(self.now_ms(), Ordering::Relaxed);
        Held {
            guest: self.clone(),
            is_paid: true,
        }
    }

    /// Notes that it leaves HTTP: what was asked for last is what it is from now on.
    pub(in crate::http) fn become_tunnel(&self) {
        self.0.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// Notes whether bytes wait until the client takes them.
    pub(in crate::http) fn note_writing(&self, is_writing: bool) {
        self.0.is_writing.store(is_writing, Ordering::Relaxed);
    }

    /// Its number among the connections of its listener.
    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// Has it give up its place.
    pub(super) fn send_away(&self) {
        self.0.leave.cancel();
    }

    /// Whether it has to.
    #[cfg(test)]
    pub(super) fn is_sent_away(&self) -> bool {
        self.0.leave.is_cancelled()
    }

    /// Waits until the connection has to give up its place.
    pub(in crate::http) async fn must_leave(&self) {
        self.0.leave.cancelled().await;
    }

    /// Milliseconds since it was accepted, at least one.
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

    /// How ready it is, in a network of so many connections; `None` if it is not to be given up.
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

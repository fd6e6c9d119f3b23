//! Gives ldk-node's client the headers for a request, but only while the lease is fresh. Without
//! them the client sends nothing.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;
use vss_client_ng::headers::{VssHeaderProvider, VssHeaderProviderError};

use crate::base::clock::Clock;
use crate::protocol::invoice::Unready;

use super::headers::{Current, Given, Named};
use super::place::Vss;
use super::trouble::{NOT_RENEWED, Trouble};

/// How long after a renewal was sent the client may send requests. The client waits ten seconds for
/// an answer. So when the lease expires for others, none of its requests is still in progress.
const FRESH: Duration = Duration::from_secs(18);

/// The headers for requests, while the lease is fresh.
pub(crate) struct Pass {
    /// The store and its server.
    place: String,
    pub(crate) headers: Arc<Current>,
    clock: Clock,
    /// A `std` mutex: held to copy a few words, never across an await.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// When the last answered renewal was sent, counted from the boot of the machine; `None`
    /// without a lease.
    pub(super) renewed: Option<Duration>,
    /// The server's current trouble, until it gives a good answer.
    pub(super) trouble: Option<Trouble>,
    /// The headers of the last answered renewal. Different headers may select another account,
    /// which does not have the node's state. State written to that account would be missing from
    /// this one.
    pub(super) named: Named,
}

/// The status of a server that keeps the channels' state, for the operator.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StoreStatus {
    /// The store and its server.
    pub place: String,
    /// Whether the node holds the lease of the store, without which it writes nothing.
    pub is_held: bool,
    /// How long ago the lease was renewed; absent without a lease.
    pub renewed_ago_secs: Option<u64>,
    /// Why the server gives no good answer, while it gives none.
    pub complaint: Option<String>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pass(…)")
    }
}

impl Pass {
    pub(crate) fn of(vss: &Vss, clock: Clock) -> Self {
        Self {
            place: vss.to_string(),
            headers: Arc::new(Current::of(&vss.headers)),
            clock,
            known: Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time for judging the lease. It includes time in suspension.
    pub(crate) fn now(&self) -> Duration {
        self.clock.since_boot()
    }

    /// Notes an answered renewal: when it was sent, and with which headers.
    pub(crate) fn renewed(&self, sent: Duration, named: Named) {
        *self.known() = Known {
            renewed: Some(sent),
            trouble: None,
            named,
        };
    }

    /// Whether the last renewal was sent with these headers.
    pub(crate) fn knows(&self, named: &Named) -> bool {
        self.known().named == *named
    }

    /// Notes that the node no longer holds the lease.
    pub(crate) fn ends(&self) {
        self.known().renewed = None;
    }

    /// Notes that the server gives no good answer. Returns whether the kind of trouble is new.
    pub(crate) fn is_troubled(&self, trouble: Trouble) -> bool {
        let mut known = self.known();
        let before = known.trouble.replace(trouble);
        let kind = |trouble: &Trouble| trouble.is_refusal();
        before.as_ref().map(kind) != known.trouble.as_ref().map(kind)
    }

    fn age(&self) -> Option<Duration> {
        let renewed = self.known().renewed?;
        Some(self.now().saturating_sub(renewed))
    }

    /// Whether the lease is fresh, so that requests may be sent.
    pub(crate) fn is_fresh(&self) -> bool {
        self.age().is_some_and(|age| age < FRESH)
    }

    /// The reason that buyers get while the node waits for its store.
    pub(crate) fn unready(&self) -> Unready {
        let known = self.known();
        let trouble = known.trouble.as_ref();
        trouble.map_or(Unready::StoreUnreachable, Trouble::unready)
    }

    pub(crate) fn status(&self) -> StoreStatus {
        StoreStatus {
            place: self.place.clone(),
            is_held: self.is_fresh(),
            renewed_ago_secs: self.age().map(|age| age.as_secs()),
            complaint: self.known().trouble.as_ref().map(ToString::to_string),
        }
    }
}

impl VssHeaderProvider for Pass {
    fn get_headers<'s, 'r, 'f>(&'s self, _request: &'r [u8]) -> Given<'f>
    where
        's: 'f,
        'r: 'f,
        Self: 'f,
    {
        let headers = if self.is_fresh() {
            Ok(self.known().named.clone())
        } else {
            let error = NOT_RENEWED.to_owned();
            Err(VssHeaderProviderError::AuthorizationError { error })
        };
        Box::pin(std::future::ready(headers))
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers::Headers;
    use super::*;

    fn pass(clock: &Clock) -> Pass {
        let vss = Vss {
            url: "https://vss.example.com".to_owned(),
            store_id: "one".to_owned(),
            headers: Headers::default(),
        };
        Pass::of(&vss, clock.clone())
    }

    #[tokio::test]
    async fn nothing_is_sent_without_a_fresh_lease_and_time_in_suspension_counts() {
        // In this test the machine's monotonic clock stands still, as it does in suspension.
        let clock = Clock::fixed(1_000);
        let pass = pass(&clock);
        pass.get_headers(b"").await.unwrap_err();
        pass.renewed(pass.now(), Named::new());
        clock.advance(FRESH - Duration::from_millis(1));
        pass.get_headers(b"").await.unwrap();
        clock.advance(Duration::from_millis(1));
        let error = pass.get_headers(b"").await.unwrap_err();
        assert!(error.to_string().contains(NOT_RENEWED), "{error}");
        // A late answer counts from the time at which its renewal was sent.
        let sent = pass.now();
        clock.advance(FRESH);
        pass.renewed(sent, Named::new());
        pass.get_headers(b"").await.unwrap_err();
        pass.renewed(pass.now(), Named::new());
        pass.get_headers(b"").await.unwrap();
        pass.ends();
        pass.get_headers(b"").await.unwrap_err();
    }

    #[tokio::test]
    async fn the_node_sends_the_headers_with_which_the_lease_was_renewed_and_no_newer_ones() {
        let pass = pass(&Clock::fixed(0));
        let named = |token: &str| Named::from([("authorization".to_owned(), token.to_owned())]);
        pass.renewed(pass.now(), named("first"));
        assert!(!pass.knows(&named("second")));
        assert_eq!(pass.get_headers(b"").await.unwrap(), named("first"));
        pass.renewed(pass.now(), named("second"));
        assert_eq!(pass.get_headers(b"").await.unwrap(), named("second"));
    }

    #[test]
    fn trouble_is_news_once_for_each_kind_and_over_with_a_renewal() {
        let pass = pass(&Clock::fixed(0));
        let away = || Trouble::Away("away".to_owned());
        let refused = || Trouble::Refused {
            file: None,
            said: String::new(),
        };
        let news = [away(), away(), refused(), refused(), away()].map(|it| pass.is_troubled(it));
        assert_eq!(news, [true, false, true, false, true]);
        assert!(pass.status().complaint.is_some());
        pass.renewed(pass.now(), Named::new());
        let status = pass.status();
        assert_eq!((status.complaint, status.is_held), (None, true));
        assert!(pass.is_troubled(refused()));
        assert_eq!(pass.unready(), Unready::StoreRefuses);
    }
}

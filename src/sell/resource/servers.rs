//! The servers of an upstream: chooses the next server for a request, and skips servers that do not
//! respond.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::time::Instant;

use crate::sell::route::Upstream;

use super::client::Client;

/// How long a server that refused a connection is skipped. After that a request tries it again, and
/// goes to another server if it fails. So clients notice nothing.
const PASSED_OVER: Duration = Duration::from_secs(5);

/// An upstream in use.
pub(super) struct Servers {
    /// The settings of the upstream.
    pub(super) upstream: Arc<Upstream>,
    /// The connections to the servers.
    pub(super) client: Client,
    /// The servers, in the order of the settings; at least one.
    pub(super) list: Box<[Arc<Server>]>,
    /// Counts the requests, so that equally busy servers take turns.
    turn: AtomicUsize,
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    /// The base URL, for the log.
    pub(super) base: Uri,
    scheme: Scheme,
    authority: Authority,
    /// The path of the base URL, without a final slash.
    path: String,
    /// The number of requests that the server is working on. Counted only if the upstream has
    /// several servers.
    in_flight: AtomicUsize,
    /// The end of the time in which the server is skipped, in milliseconds since `born`.
    passed_over_until_ms: AtomicU64,
    /// Whether the last health check succeeded.
    is_well: AtomicBool,
    /// Whether the last attempt to connect succeeded.
    is_open: AtomicBool,
    /// Whether the server has answered since the last call of `was_heard`.
    was_heard: AtomicBool,
    /// The time from which `passed_over_until_ms` counts.
    born: Instant,
}

/// The servers that a request has tried: one bit each, because the settings allow at most 32.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tried(u64);

impl Tried {
    fn has(self, index: usize) -> bool {
        self.0 & (1 << index) != 0
    }

    pub(super) fn count(self) -> usize {
        self.0.count_ones() as usize
    }
}

impl std::fmt::Debug for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Servers").field(&self.list).finish()
    }
}

impl Servers {
    /// Does not connect yet. Returns `None` for an invalid base URL, which the settings never
    /// allow.
    pub(super) fn new(upstream: &Arc<Upstream>) -> Option<Self> {
        let servers = upstream.servers.iter().map(Server::new);
        let list: Box<[_]> = servers.collect::<Option<Vec<_>>>()?.into();
        (!list.is_empty()).then(|| Self {
            client: Client::new(upstream),
            upstream: Arc::clone(upstream),
            list,
            turn: AtomicUsize::new(0),
        })
    }

    /// Picks the next server among those not tried yet: one that responds and has the fewest
    /// running requests.
    pub(super) fn pick(&self, tried: &mut Tried) -> &Arc<Server> {
        let index = if self.list.len() == 1 {
            0
        } else {
            self.pick_of_several(*tried)
        };
        tried.0 |= 1 << index;
        &self.list[index]
    }

    fn pick_of_several(&self, tried: Tried) -> usize {
        let count = self.list.len();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..count).map(|offset| turn.wrapping_add(offset) % count);
        in_turn
            .filter(|index| !tried.has(*index))
            // Picks the first of the least busy servers in turn. A server that is away is picked
            // only if all others are away, too.
            .min_by_key(|index| {
                let server = &self.list[*index];
                (!server.is_there(), server.in_flight.load(Ordering::Relaxed))
            })
            .unwrap_or(turn % count)
    }

    /// Counts a request on this server until the result is dropped. Returns `None` if the upstream
    /// has only one server.
    pub(super) fn in_flight(&self, server: &Arc<Server>) -> Option<InFlight> {
        (self.list.len() > 1).then(|| {
            server.in_flight.fetch_add(1, Ordering::Relaxed);
            InFlight(Arc::clone(server))
        })
    }
}

/// A request that a server is working on.
#[derive(Debug)]
pub(super) struct InFlight(Arc<Server>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Server {
    fn new(base: &Uri) -> Option<Arc<Self>> {
        Some(Arc::new(Self {
            base: base.clone(),
            scheme: base.scheme()?.clone(),
            authority: base.authority()?.clone(),
            path: base.path().trim_end_matches('/').to_owned(),
            in_flight: AtomicUsize::new(0),
            passed_over_until_ms: AtomicU64::new(0),
            is_well: AtomicBool::new(true),
            is_open: AtomicBool::new(true),
            was_heard: AtomicBool::new(false),
            born: Instant::now(),
        }))
    }

    /// Builds the URL of this path (with a leading slash) and query on the server.
    pub(super) fn uri(
        &self,
        prefix: &str,
        path: &str,
        query: Option<&str>,
    ) -> Result<Uri, http::Error> {
        let length = self.path.len() + prefix.len() + path.len();
        let mut text = String::with_capacity(length + query.map_or(0, |query| query.len() + 1));
        for part in [&self.path, prefix, path] {
            text.push_str(part);
        }
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_maybe_shared(Bytes::from(text))?);
        Ok(Uri::from_parts(parts)?)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether requests should go to this server.
    fn is_there(&self) -> bool {
        let until_ms = self.passed_over_until_ms.load(Ordering::Relaxed);
        // The clock is read only for a server that was skipped before.
        self.is_well.load(Ordering::Relaxed) && (until_ms == 0 || self.now_ms() >= until_ms)
    }

    /// The path of the base URL, without a final slash.
    pub(super) fn base_path(&self) -> &str {
        &self.path
    }

    /// The host and port to connect to.
    pub(super) fn place(&self) -> (&str, u16) {
        let host = self.authority.host();
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let usual = if self.scheme == Scheme::HTTPS {
            443
        } else {
            80
        };
        (
            bare.unwrap_or(host),
            self.authority.port_u16().unwrap_or(usual),
        )
    }

    /// Whether the server is down, as far as is known.
    pub(super) fn is_away(&self) -> bool {
        !(self.is_well.load(Ordering::Relaxed) && self.is_open.load(Ordering::Relaxed))
    }

    /// Records that the server has answered a request. Flags are written only if they change,
    /// because otherwise the cores would contend for a busy server's flags.
    pub(super) fn note_heard(&self) {
        for flag in [&self.is_open, &self.was_heard] {
            if !flag.load(Ordering::Relaxed) {
                flag.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Returns whether the server has answered since the last call, and resets the flag.
    pub(super) fn was_heard(&self) -> bool {
        self.was_heard.swap(false, Ordering::Relaxed)
    }

    /// Records whether a connection succeeded. Returns whether the state has changed.
    pub(super) fn note_connection(&self, is_open: bool) -> bool {
        self.is_open.swap(is_open, Ordering::Relaxed) != is_open
    }

    /// Skips the server for a while, because it refused a connection.
    pub(super) fn pass_over(&self) {
        self.note_connection(false);
        let passed_over_ms = u64::try_from(PASSED_OVER.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.now_ms().saturating_add(passed_over_ms);
        self.passed_over_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// Records the result of a health check. Returns whether the state has changed.
    pub(super) fn note_health(&self, is_well: bool) -> bool {
        if is_well {
            self.note_heard();
            self.passed_over_until_ms.store(0, Ordering::Relaxed);
        }
        self.is_well.swap(is_well, Ordering::Relaxed) != is_well
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Servers {
        let uri = |number: usize| format!("http://127.0.0.1:{}", number + 1).parse().unwrap();
        Servers::new(&Arc::new(Upstream::of((0..count).map(uri).collect()))).unwrap()
    }

    fn next(servers: &Servers) -> Uri {
        servers.pick(&mut Tried::default()).base.clone()
    }

    #[tokio::test]
    async fn equals_take_turns_and_the_busy_and_the_absent_are_passed_over() {
        let servers = servers(3);
        let [a, b, c] = [0, 1, 2].map(|index| servers.list[index].base.clone());
        let picked = [0; 4].map(|_| next(&servers));
        assert_eq!(picked, [&a, &b, &c, &a].map(Clone::clone));
        let busy = servers.in_flight(&servers.list[1]);
        assert!([0; 6].map(|_| next(&servers)).iter().all(|it| *it != b));
        drop(busy);
        assert!([0; 6].map(|_| next(&servers)).contains(&b));
        servers.list[0].pass_over();
        assert!([0; 6].map(|_| next(&servers)).iter().all(|it| *it != a));
        // Simulates the end of the waiting time.
        let until_ms = &servers.list[0].passed_over_until_ms;
        assert!(until_ms.swap(1, Ordering::Relaxed) >= 5_000);
        while servers.list[0].now_ms() == 0 {}
        assert!([0; 6].map(|_| next(&servers)).contains(&a));
        assert!(servers.list[2].note_health(false));
        assert!(!servers.list[2].note_health(false));
        assert!([0; 6].map(|_| next(&servers)).iter().all(|it| *it != c));
    }

    #[tokio::test]
    async fn each_is_tried_once_and_those_that_are_away_last() {
        let servers = servers(3);
        servers.list[1].pass_over();
        let mut tried = Tried::default();
        let picked: Vec<Uri> = (0..3)
            .map(|_| servers.pick(&mut tried).base.clone())
            .collect();
        assert_eq!(tried.count(), 3);
        assert_eq!(picked[2], servers.list[1].base);
        assert_ne!(picked[0], picked[1]);
    }

    #[tokio::test]
    async fn who_takes_no_connection_is_away_until_it_answers() {
        let servers = servers(1);
        let server = &servers.list[0];
        assert!(!server.is_away());
        server.pass_over();
        assert!(server.is_away());
        server.note_heard();
        assert!(!server.is_away());
        assert!(server.was_heard() && !server.was_heard());
        assert!(server.note_connection(false) && !server.note_connection(false));
        assert!(server.is_away());
    }

    #[test]
    fn an_address_is_connected_to_by_host_and_port() {
        let place = |base: &str| {
            let server = Server::new(&base.parse().unwrap()).unwrap();
            let (host, port) = server.place();
            (host.to_owned(), port)
        };
        assert_eq!(place("http://a.example/x"), ("a.example".to_owned(), 80));
        assert_eq!(place("https://a.example"), ("a.example".to_owned(), 443));
        assert_eq!(place("http://[::1]:3000"), ("::1".to_owned(), 3000));
    }

    #[test]
    fn an_address_is_put_together_of_its_parts() {
        let base = "https://example.org:8443/base/".parse().unwrap();
        let server = Server::new(&base).unwrap();
        let uri = server.uri("/v2", "/a%20b", Some("c=d&e")).unwrap();
        assert_eq!(uri, "https://example.org:8443/base/v2/a%20b?c=d&e");
        assert_eq!(
            server.uri("", "/", None).unwrap(),
            "https://example.org:8443/base/"
        );
        assert_eq!(
            server.uri("", "/", Some("")).unwrap(),
            "https://example.org:8443/base/?"
        );
    }
}

//! The servers of an upstream: which one is asked next, and which are better left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::time::Instant;

use crate::sell::route::Upstream;

use super::client::Client;

/// How long a server that did not take a connection is passed over. Then a request tries it again, which goes to another one
/// if it is still away: nobody notices.
const PASSED_OVER: Duration = Duration::from_secs(5);

/// An upstream at work.
pub(super) struct Servers {
    /// What the settings say of it.
    pub(super) upstream: Arc<Upstream>,
    /// Its connections.
    pub(super) client: Client,
    /// The servers, in the order of the settings; at least one.
    pub(super) list: Box<[Arc<Server>]>,
    /// Counts the requests: among equals each server has its turn.
    turn: AtomicUsize,
}

/// One server.
#[derive(Debug)]
pub(super) struct Server {
    /// Its base address, for the log.
    pub(super) base: Uri,
    scheme: Scheme,
    authority: Authority,
    /// The base address's path, without a slash at its end.
    path: String,
    /// Requests that it is working on. Only counted where there is a choice.
    in_flight: AtomicUsize,
    /// Until when it is passed over, in milliseconds since `born`.
    passed_over_until_ms: AtomicU64,
    /// What the last health check said.
    is_well: AtomicBool,
    /// Whether it took the last connection that was tried.
    is_open: AtomicBool,
    /// Whether it has answered since somebody last asked for that.
    was_heard: AtomicBool,
    /// When the counting of `passed_over_until_ms` began.
    born: Instant,
}

/// The servers that a request has been to: one bit each, the settings allow no more than 32.
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
    /// Nothing is connected yet. `None` if an address is none, which the settings never let through.
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

    /// The server to ask next: one that is there and has the least to do, of those not tried yet.
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
            // The first of the least: among equals, whose turn it is. One that is away is better than none.
            .min_by_key(|index| {
                let server = &self.list[*index];
                (!server.is_there(), server.in_flight.load(Ordering::Relaxed))
            })
            .unwrap_or(turn % count)
    }

    /// Counts a request on this server until it is dropped; nothing where there is no choice.
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

    /// The address of this path (which begins with a slash) and query on it.
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

    /// Whether nothing speaks against it.
    fn is_there(&self) -> bool {
        let until_ms = self.passed_over_until_ms.load(Ordering::Relaxed);
        // The clock is only read for one that was away once.
        self.is_well.load(Ordering::Relaxed) && (until_ms == 0 || self.now_ms() >= until_ms)
    }

    /// The path of the base URL, without a slash at its end.
    pub(super) fn base_path(&self) -> &str {
        &self.path
    }

    /// Host and port, as they are connected to.
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

    /// Whether it would answer, as far as is known.
    pub(super) fn is_away(&self) -> bool {
        !(self.is_well.load(Ordering::Relaxed) && self.is_open.load(Ordering::Relaxed))
    }

    /// Notes that it has answered a request. Written only where that is news: a busy server would have the cores fight for it.
    pub(super) fn note_heard(&self) {
        for flag in [&self.is_open, &self.was_heard] {
            if !flag.load(Ordering::Relaxed) {
                flag.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether it has answered since this was last asked.
    pub(super) fn was_heard(&self) -> bool {
        self.was_heard.swap(false, Ordering::Relaxed)
    }

    /// Notes whether it took a connection; whether that is news.
    pub(super) fn note_connection(&self, is_open: bool) -> bool {
        self.is_open.swap(is_open, Ordering::Relaxed) != is_open
    }

    /// Passes it over for a while: it took no connection.
    pub(super) fn pass_over(&self) {
        self.note_connection(false);
        let passed_over_ms = u64::try_from(PASSED_OVER.as_millis()).unwrap_or(u64::MAX);
        let until_ms = self.now_ms().saturating_add(passed_over_ms);
        self.passed_over_until_ms.store(until_ms, Ordering::Relaxed);
    }

    /// Notes what a health check said; whether that is news.
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
        // As if it were over.
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

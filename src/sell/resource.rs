//! What is sold: another server's answer, a file, or that of a handler of the same program. Cannot be called without a
//! [`Permit`].

mod body;
mod cache;
mod client;
mod delivered;
mod files;
mod forward;
mod framing;
pub mod handler;
mod headers;
mod health;
mod line;
mod names;
mod outgoing;
mod over;
mod servers;
mod tunnel;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use crate::account::ledger::Left;
use crate::base::via::{Circle, Via};
use crate::sell::gate::Permit;
use crate::sell::route::{Access, RequestPath, Resource, Route, RouteTable, Upstream};

pub use client::certificates;
pub use headers::{is_framing, is_ours, join_cookies, remove_named};

use files::{Files, Place};
use servers::Servers;

/// Whatever goes wrong inside a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body in either direction, streamed.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The limits on what is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The longest request body, in bytes.
    pub body_bytes_max: u64,
    /// How long a request body may take in all.
    pub body_timeout: Duration,
    /// How long an upstream may take until its response head, where its route says nothing else.
    pub upstream_timeout: Duration,
    /// How long it may pause within an answer, where its route says nothing else.
    pub idle_timeout: Duration,
}

/// A permitted request that was not served.
#[derive(Debug)]
pub struct Unserved {
    /// Why not.
    pub why: Failure,
    /// What the client's next request finds.
    pub left: Left,
}

impl Unserved {
    /// The use goes back to the holder.
    fn giving_back(permit: Permit, why: Failure) -> Self {
        let left = permit.give_back();
        Self { why, left }
    }

    /// The use counts: it was the client's doing.
    fn counting(permit: Permit, why: Failure) -> Self {
        let left = permit.left();
        Self { why, left }
    }
}

/// Why a permitted request was not served. The use goes back to the holder unless the request's own body was the reason.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// No such file, or none that is served.
    #[error("there is nothing here")]
    NotFound,
    /// A folder requested without a final slash: relative links in its index would break.
    #[error("the URL of a folder must end with a slash")]
    IsFolder,
    /// Files take GET and HEAD.
    #[error("a file takes GET and HEAD only")]
    MethodNotAllowed,
    /// The request's body is longer than the limit.
    #[error("the request's body is longer than {0} bytes")]
    BodyTooLarge(u64),
    /// The request's body did not arrive in time.
    #[error("the request's body took too long")]
    BodyTooSlow,
    /// The request's body ended before its time.
    #[error("the request's body broke off")]
    BodyBroken,
    /// The upstream did not answer.
    #[error("the upstream does not answer")]
    UpstreamUnreachable(#[source] BoxError),
    /// The upstream's answer is not HTTP, or has too many headers.
    #[error("the upstream sent an invalid response")]
    UpstreamUnreadable(#[source] BoxError),
    /// The upstream did not answer in time.
    #[error("the upstream took too long")]
    UpstreamTimeout,
    /// A file that is there cannot be read.
    #[error("failed to read a file")]
    Unreadable(#[source] std::io::Error),
    /// Other answers on the same token have taken all that was left before this one began.
    #[error("what was left is taken")]
    UsedUp,
}

/// Where a request comes from, as the upstream is told.
#[derive(Clone, Copy, Debug)]
pub struct Downstream {
    /// The client's address.
    pub client: std::net::IpAddr,
    /// Whether it came by TLS.
    pub is_secure: bool,
}

/// Serves what routes name.
#[derive(Debug)]
pub struct Resources {
    /// The limits.
    config: Config,
    /// The upstreams at work, each under the place in memory of what the route table says of it: no request compares settings.
    upstreams: HashMap<usize, AtWork>,
    /// What requests that are passed on say they came by.
    via: Via,
    /// Connections that were switched to another protocol.
    tunnels: TaskTracker,
    /// Cancelled when those that are left are to end.
    cut: CancellationToken,
    /// Serves the files of folders.
    files: Files,
}

/// A server behind what is sold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ServerStatus {
    /// Its base address.
    pub url: String,
    /// Whether it took no connection when that was last tried, or is not well.
    pub is_away: bool,
}

/// How the program ends.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Nothing new is begun.
    pub begin: CancellationToken,
    /// Nothing is waited for any more.
    pub hurry: CancellationToken,
    /// How long may be waited for what runs.
    pub grace: Duration,
}

/// What goes on beside the requests: servers are asked whether they are well, and tunnels run.
#[derive(Debug)]
#[must_use = "nobody is asked until it runs"]
pub struct Background {
    /// The upstreams.
    checked: Vec<Arc<Servers>>,
    /// The same as in [`Resources`].
    tunnels: TaskTracker,
    /// The same as in [`Resources`].
    cut: CancellationToken,
}

impl Background {
    /// Asks until told to stop, and then waits for the tunnels: until they end, or for as long as the program's end may take.
    /// A tunnel whose sides neither read nor write would never notice by itself.
    pub async fn run(self, stop: CancellationToken, ending: Ending) {
        let checks = health::check_all(&self.checked);
        // Without an upstream there is still something to wait for.
        let _ = stop.run_until_cancelled(checks).await;
        stop.cancelled().await;
        self.tunnels.close();
        let is_over = async {
            ending.begin.cancelled().await;
            let _ = timeout(ending.grace, ending.hurry.cancelled()).await;
        };
        tokio::select! {
            () = self.tunnels.wait() => {}
            () = is_over => {
                self.cut.cancel();
                self.tunnels.wait().await;
            }
        }
    }
}

/// An upstream at work.
#[derive(Debug)]
struct AtWork {
    /// What the route table says of it; held, so that nothing else comes to be in its place.
    _upstream: Arc<Upstream>,
    /// Its servers, shared by all that says the same.
    servers: Arc<Servers>,
}

impl Resources {
    /// With these limits, for what these routes name; and what is to be run beside.
    pub fn build(config: Config, routes: &RouteTable) -> (Self, Background) {
        Self::build_with(config, routes, &[], Via::new())
    }

    /// The same in the place of these: an upstream of which the settings say what they said before keeps its connections, and
    /// what is known of its servers.
    pub fn after(&self, config: Config, routes: &RouteTable) -> (Self, Background) {
        let known: Vec<_> = self.upstreams.values().collect();
        Self::build_with(config, routes, &known, self.via.clone())
    }

    fn build_with(
        config: Config,
        routes: &RouteTable,
        known: &[&AtWork],
        via: Via,
    ) -> (Self, Background) {
        let known = known.iter().map(|at_work| &at_work.servers);
        let mut alike: HashMap<&Upstream, Arc<Servers>> = known
            .map(|servers| (&*servers.upstream, Arc::clone(servers)))
            .collect();
        let mut upstreams = HashMap::new();
        let mut checked: HashMap<&Upstream, Arc<Servers>> = HashMap::new();
        for route in routes.iter() {
            let Resource::Upstream(forward) = &route.resource else {
                continue;
            };
            let upstream = &forward.upstream;
            let servers = match alike.get(&**upstream) {
                Some(servers) => Arc::clone(servers),
                None => match Servers::new(upstream) {
                    Some(servers) => Arc::new(servers),
                    None => continue,
                },
            };
            alike.insert(upstream, Arc::clone(&servers));
            checked.insert(upstream, Arc::clone(&servers));
            let at_work = AtWork {
                _upstream: Arc::clone(upstream),
                servers,
            };
            upstreams.insert(place(upstream), at_work);
        }
        let checked = checked.into_values().collect();
        let tunnels = TaskTracker::new();
        let cut = CancellationToken::new();
        let background = Background {
            checked,
            tunnels: tunnels.clone(),
            cut: cut.clone(),
        };
        let resources = Self {
            config,
            upstreams,
            via,
            tunnels,
            cut,
            files: Files::new(routes.secrets()),
        };
        (resources, background)
    }

    /// The servers of this upstream, if it is of the table that these resources were built for.
    fn servers(&self, upstream: &Arc<Upstream>) -> Option<&Servers> {
        let at_work = self.upstreams.get(&place(upstream))?;
        Some(&at_work.servers)
    }

    /// The servers behind what is sold, each once, and whether they are there, as far as requests, checks and attempts to connect
    /// have told.
    pub fn status(&self) -> Vec<ServerStatus> {
        let servers = self
            .upstreams
            .values()
            .flat_map(|it| it.servers.list.iter());
        let mut away: BTreeMap<String, bool> = BTreeMap::new();
        for server in servers {
            *away.entry(server.base.to_string()).or_default() |= server.is_away();
        }
        away.into_iter()
            .map(|(url, is_away)| ServerStatus { url, is_away })
            .collect()
    }

    /// The longest request body, in bytes.
    pub fn body_bytes_max(&self) -> u64 {
        self.config.body_bytes_max
    }

    /// Whether a request with these headers was passed on by us before, or by too many others.
    pub fn circle(&self, headers: &HeaderMap) -> Option<Circle> {
        self.via.circle(headers)
    }

    /// Looks whether there is something to sell at this path: a file that is not there, or cannot be read, is said to be so
    /// before any challenge. Only an upstream knows of its own paths.
    pub async fn look(&self, route: &Route, path: &RequestPath) -> Result<(), Failure> {
        match &route.resource {
            Resource::Upstream(_) => Ok(()),
            Resource::Files { folder } => self.files.look(in_folder(folder, route, path)).await,
        }
    }

    /// Serves the request and uses up the permit. The response's extensions say what is [left](Left).
    pub async fn serve(
        &self,
        permit: Permit,
        route: &Route,
        path: &RequestPath,
        downstream: Downstream,
        request: Request<Body>,
    ) -> Result<Response<Body>, Unserved> {
        // What is free for one client is not free for the next one, who would have it from a cache.
        let is_sold = permit.reason() != crate::sell::gate::Reason::Free;
        let is_head = *request.method() == Method::HEAD;
        let mut response = match &route.resource {
            Resource::Upstream(forward) => {
                let path = if forward.strip_prefix {
                    (route.pattern.rest(path), route.pattern.prefix())
                } else {
                    (path.wire(), "")
                };
                let offer = match &route.access {
                    Access::Free => None,
                    Access::Paid(offer) => Some(&**offer),
                };
                self.forward(permit, (forward, offer), path, downstream, request)
                    .await?
            }
            Resource::Files { folder } => {
                let place = in_folder(folder, route, path);
                self.files.serve(permit, place, request).await?
            }
        };
        if is_sold {
            cache::keep_private(response.headers_mut());
        }
        Ok(body::without_length(response, is_head))
    }
}

/// The place of a path in its route's folder.
fn in_folder<'a>(folder: &'a Path, route: &Route, path: &'a RequestPath) -> Place<'a> {
    Place {
        folder,
        path: route.pattern.rest(path),
        has_slash: path.as_str().ends_with('/'),
    }
}

/// Where it is in memory.
fn place(upstream: &Arc<Upstream>) -> usize {
    Arc::as_ptr(upstream).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sell::route::{Forward, Pattern};

    /// A free route to this server; what the settings read again is another value that says the same.
    fn table(servers: &[&str]) -> RouteTable {
        let route = |(number, server): (usize, &&str)| {
            let path = format!("/{number}/*");
            Route {
                name: path.as_str().into(),
                pattern: Pattern::parse(&path).unwrap(),
                methods: Vec::new(),
                access: Access::Free,
                resource: Resource::Upstream(Arc::new(Forward::to(server.parse().unwrap()))),
            }
        };
        RouteTable::new(servers.iter().enumerate().map(route).collect()).unwrap()
    }

    /// The servers behind each route.
    fn at_work(resources: &Resources, routes: &RouteTable) -> Vec<*const Servers> {
        let forwards = routes.iter().map(|route| match &route.resource {
            Resource::Upstream(forward) => &forward.upstream,
            Resource::Files { .. } => panic!("a folder"),
        });
        forwards
            .map(|upstream| std::ptr::from_ref(resources.servers(upstream).unwrap()))
            .collect()
    }

    #[tokio::test]
    async fn an_upstream_that_is_described_alike_is_one_also_when_the_settings_are_read_again() {
        let config = Config {
            body_bytes_max: 1,
            body_timeout: Duration::from_secs(1),
            upstream_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
        };
        let (a, b, c) = ("http://a", "http://b", "http://c");
        let first = table(&[a, b, a]);
        let (resources, _background) = Resources::build(config, &first);
        let before = at_work(&resources, &first);
        assert_eq!(before[0], before[2]);
        assert_ne!(before[0], before[1]);
        let second = table(&[c, b, b]);
        let (next, _background) = resources.after(config, &second);
        let after = at_work(&next, &second);
        assert_eq!((after[1], after[2]), (before[1], before[1]));
        assert!(!before.contains(&after[0]));
        let told = next.status().into_iter().map(|it| (it.url, it.is_away));
        let told: Vec<_> = told.collect();
        let there = |url: &str| (url.to_owned(), false);
        assert_eq!(told, [there("http://b/"), there("http://c/")]);
        // What the new table does not name is not served by its resources.
        assert_eq!(next.upstreams.len(), 3);
        let old = first.iter().next().unwrap();
        assert!(
            matches!(&old.resource, Resource::Upstream(it) if next.servers(&it.upstream).is_none())
        );
    }
}

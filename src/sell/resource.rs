//! Serves what the shop sells: the answer of another server, a file, or the answer of a handler in
//! the same program. Every call needs a [`Permit`].

mod body;
mod cache;
mod client;
mod delivered;
mod downstream;
mod failure;
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

use http::{HeaderMap, Method, Request, Response};
use serde::Serialize;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

use crate::base::via::{Circle, Via};

use super::gate::Permit;
use super::route::{Access, RequestPath, Resource, Route, RouteTable, Upstream};
use files::{Files, Place};
use servers::Servers;

pub use client::certificates;
pub use downstream::{Body, BoxError, Downstream};
pub use failure::{Failure, Unserved};
pub use headers::{is_framing, is_ours, join_cookies, remove_named};

/// The limits on forwarded requests.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The longest request body, in bytes.
    pub body_bytes_max: u64,
    /// The total time that a request body may take.
    pub body_timeout: Duration,
    /// How long an upstream may take to send its response head, unless the route sets another time.
    pub upstream_timeout: Duration,
    /// How long an upstream may pause within an answer, unless the route sets another time.
    pub idle_timeout: Duration,
}

/// Serves the resources of all routes.
#[derive(Debug)]
pub struct Resources {
    /// The limits.
    config: Config,
    /// The upstreams, by the memory address of their entry in the route table, so that no request
    /// has to compare settings.
    upstreams: HashMap<usize, AtWork>,
    /// The `Via` entry that is added to forwarded requests.
    via: Via,
    /// The connections that were switched to another protocol.
    tunnels: TaskTracker,
    /// Cancelled to end the remaining tunnels.
    cut: CancellationToken,
    /// Serves the files of folders.
    files: Files,
}

/// The state of a server behind the shop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ServerStatus {
    /// The base URL of the server.
    pub url: String,
    /// Whether the server refused the last connection or failed its last health check.
    pub is_away: bool,
}

/// The signals and the time limit of the program's shutdown.
#[derive(Clone, Debug)]
pub struct Ending {
    /// Cancelled when the shutdown begins.
    pub begin: CancellationToken,
    /// Cancelled to stop waiting at once.
    pub hurry: CancellationToken,
    /// The longest time to wait for running work.
    pub grace: Duration,
}

/// The background work: it checks the servers and waits for the tunnels to end.
#[derive(Debug)]
#[must_use = "nobody is asked until it runs"]
pub struct Background {
    /// The upstreams to check.
    checked: Vec<Arc<Servers>>,
    /// The tunnels, shared with [`Resources`].
    tunnels: TaskTracker,
    /// The signal that ends the tunnels, shared with [`Resources`].
    cut: CancellationToken,
}

impl Background {
    /// Checks the servers until `stop` is cancelled, and then waits for the tunnels to end. Ends
    /// the remaining tunnels when the time for the shutdown is over. A tunnel whose sides neither
    /// read nor write would not end by itself.
    pub async fn run(self, stop: CancellationToken, ending: Ending) {
        let checks = health::check_all(&self.checked);
        // Returns early if no upstream needs checks; the wait for `stop` follows in any case.
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

/// An upstream in use.
#[derive(Debug)]
struct AtWork {
    /// The entry in the route table. It is held so that its memory address is not reused.
    _upstream: Arc<Upstream>,
    /// The servers, shared by all entries with equal settings.
    servers: Arc<Servers>,
}

impl Resources {
    /// Builds the resources for these routes, and the background work that the caller must run.
    pub fn build(config: Config, routes: &RouteTable) -> (Self, Background) {
        Self::build_with(config, routes, &[], Via::new())
    }

    /// Builds the resources for new settings. An upstream whose settings have not changed keeps its
    /// connections and the state of its servers.
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

    /// Returns the servers of this upstream, if it belongs to the route table of these resources.
    fn servers(&self, upstream: &Arc<Upstream>) -> Option<&Servers> {
        let at_work = self.upstreams.get(&place(upstream))?;
        Some(&at_work.servers)
    }

    /// Lists each server behind the shop once. Its state comes from requests, health checks and
    /// attempts to connect.
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

    /// Returns the loop that a request with these headers is in: it passed this program before, or
    /// too many other servers.
    pub fn circle(&self, headers: &HeaderMap) -> Option<Circle> {
        self.via.circle(headers)
    }

    /// Checks that the path has something to sell. A missing or unreadable file is reported before
    /// any challenge. An upstream's paths are not checked, because only the upstream knows them.
    pub async fn look(&self, route: &Route, path: &RequestPath) -> Result<(), Failure> {
        match &route.resource {
            Resource::Upstream(_) => Ok(()),
            Resource::Files { folder } => self.files.look(in_folder(folder, route, path)).await,
        }
    }

    /// Serves the request and uses up the permit. The response's extensions contain the
    /// rest of the grant or quota.
    pub async fn serve(
        &self,
        permit: Permit,
        route: &Route,
        path: &RequestPath,
        downstream: Downstream,
        request: Request<Body>,
    ) -> Result<Response<Body>, Unserved> {
        // An answer within one client's free quota is private, too, because a cache must not serve
        // it to other clients.
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

/// Returns the place of a path in its route's folder.
fn in_folder<'a>(folder: &'a Path, route: &Route, path: &'a RequestPath) -> Place<'a> {
    Place {
        folder,
        path: route.pattern.rest(path),
        has_slash: path.as_str().ends_with('/'),
    }
}

/// The memory address of the upstream's entry.
fn place(upstream: &Arc<Upstream>) -> usize {
    Arc::as_ptr(upstream).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sell::route::{Forward, Pattern};

    /// Builds free routes to these servers. Each call creates new values, as reading the settings
    /// again does.
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
        // These resources do not serve an upstream that the new table does not contain.
        assert_eq!(next.upstreams.len(), 3);
        let old = first.iter().next().unwrap();
        assert!(
            matches!(&old.resource, Resource::Upstream(it) if next.servers(&it.upstream).is_none())
        );
    }
}

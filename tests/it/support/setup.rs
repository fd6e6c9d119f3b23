//! What a test may want of its shop, and the routes that every shop has.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tollhouse::sell::http::{self as public, Clients, Tls};
use tollhouse::sell::resource;
use tollhouse::sell::route::{
    Access, Forward, Grant, Offer, Pattern, Resource, Route, RouteTable, Upstream,
};

use super::DEADLINE;

/// What a test may want otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Behind `/up/*` and `/stripped/*` (sold as `up`) and `/open/*` (free); without one there are no such routes.
    pub(crate) upstream: Option<SocketAddr>,
    /// The same with all that settings can say of an upstream; one of the two.
    pub(crate) forward: Option<Forward>,
    /// The listener's limits.
    pub(crate) limits: public::Limits,
    pub(crate) resource: resource::Config,
    /// Who is believed and who is let in.
    pub(crate) clients: Clients,
    /// Whether connections begin with the PROXY protocol.
    pub(crate) proxy_protocol: bool,
    /// The certificate, if it speaks TLS.
    pub(crate) tls: Option<Tls>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            upstream: None,
            forward: None,
            limits: public::Limits {
                connections_max: 1_000,
                connections_of_network: 1_000,
                header_timeout: DEADLINE,
                write_timeout: DEADLINE,
                grace: DEADLINE,
            },
            resource: resource::Config {
                body_bytes_max: 64 * 1024,
                body_timeout: DEADLINE,
                upstream_timeout: DEADLINE,
                idle_timeout: DEADLINE,
            },
            clients: Clients::default(),
            proxy_protocol: false,
            tls: None,
        }
    }
}

impl Setup {
    /// A shop before this server.
    pub(crate) fn before(upstream: SocketAddr) -> Self {
        Self {
            upstream: Some(upstream),
            ..Self::default()
        }
    }

    /// A shop before an upstream, with all that settings can say of it.
    pub(crate) fn of(upstream: Upstream) -> Self {
        Self {
            forward: Some(Forward {
                upstream: upstream.into(),
                ..Forward::to("http://nobody".parse().unwrap())
            }),
            ..Self::default()
        }
    }

    /// The limits if a test sets no other.
    pub(crate) fn usual_limits() -> public::Limits {
        Self::default().limits
    }

    /// What the shop sells.
    pub(super) fn routes(&self, folder: &Path) -> Vec<Route> {
        let files = || Resource::Files {
            folder: folder.to_owned(),
        };
        let three = Grant {
            requests: Some(3),
            valid: Duration::from_secs(3_600),
            ..DAY
        };
        let mut routes = vec![
            route("/articles/*", paid("articles", DAY), files()),
            route("/counted/*", paid("counted", three), files()),
            route("/free/*", Access::Free, files()),
        ];
        if let Some(upstream) = self.upstream {
            let base = format!("http://{upstream}/base").parse().unwrap();
            routes.extend(upstream_routes(Forward::to(base)));
        }
        if let Some(forward) = &self.forward {
            routes.extend(upstream_routes(forward.clone()));
        }
        routes
    }
}

/// Any number of requests for a day.
const DAY: Grant = Grant {
    requests: None,
    bytes: None,
    seconds: None,
    valid: Duration::from_secs(86_400),
};

/// Routes in front of an upstream, sold and free.
pub(super) fn upstream_routes(forward: Forward) -> [Route; 3] {
    let upstream = |strip_prefix| {
        Resource::Upstream(Arc::new(Forward {
            strip_prefix,
            ..forward.clone()
        }))
    };
    [
        route("/up/*", paid("up", DAY), upstream(false)),
        route("/stripped/*", paid("up", DAY), upstream(true)),
        route("/open/*", Access::Free, upstream(false)),
    ]
}

fn route(path: &str, access: Access, resource: Resource) -> Route {
    Route {
        name: path.into(),
        pattern: Pattern::parse(path).unwrap(),
        methods: Vec::new(),
        access,
        resource,
    }
}

fn paid(service: &str, grant: Grant) -> Access {
    let price = "10 sat".parse().unwrap();
    Access::Paid(Box::new(Offer::new(service, price, grant)))
}

/// A table with a sold and a free route.
pub(crate) fn table_selling(sold: &str, free: &str) -> RouteTable {
    let files = || Resource::Files {
        folder: "unused".into(),
    };
    let sold = route(sold, paid("sold", DAY), files());
    RouteTable::new(vec![sold, route(free, Access::Free, files())]).unwrap()
}

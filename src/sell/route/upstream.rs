//! How a route's requests are forwarded: to which servers, under which path, with which headers. Pure.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use super::header::{folded, remove_alike};

/// What a route does to requests and answers between a client and the servers behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The servers, shared by all routes that name the same.
    pub upstream: Arc<Upstream>,
    /// Whether the route's own prefix is taken off the path before it is forwarded.
    pub strip_prefix: bool,
    /// What is put in front of the path then: empty, or with a slash at its beginning and none at its end.
    pub add_prefix: String,
    /// Whether paths with doubled (`//`) and encoded (`%2F`) slashes are passed on as they are.
    pub pass_slashes: bool,
    /// What is done to a request's headers.
    pub request_headers: HeaderEdits,
    /// What is done to an answer's headers.
    pub response_headers: HeaderEdits,
    /// Whether the upstream sees the credential.
    pub forward_credential: bool,
    /// The protocols that a connection may be switched to, in small letters.
    pub upgrades: Vec<String>,
    /// Whether redirects, links and cookies that name the upstream are left as they are.
    pub keeps_redirects: bool,
}

/// Some servers that do the same, and how they are spoken to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// Their base addresses; at least one.
    pub servers: Vec<Uri>,
    /// What they speak.
    pub protocol: Protocol,
    /// How long one may take to accept a connection, with DNS and TLS.
    pub connect_timeout: Duration,
    /// How long one may take until its response head, from the moment at which it has the request; `None` for what holds for
    /// all routes.
    pub first_byte_timeout: Option<Duration>,
    /// How long one may pause within an answer, or both sides of a switched connection; `None` for what holds for all routes.
    pub idle_timeout: Option<Duration>,
    /// How long a connection takes new requests after it was opened. The next one is opened to the server's current address.
    pub connection_age_max: Duration,
    /// The certificates (DER) of the authorities that are trusted instead of the public ones; empty for those.
    pub authorities: Vec<Vec<u8>>,
    /// How they are asked whether they are well; `None` if only requests tell.
    pub health: Option<Health>,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2: over TLS by ALPN, without it by prior knowledge. What gRPC wants.
    Http2,
}

/// How a server is asked whether it is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    /// The path below its base address that answers 2xx then.
    pub path: String,
    /// How often it is asked.
    pub every: Duration,
}

/// What is done to headers: first some are removed, then some are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// These go.
    pub remove: Vec<HeaderName>,
    /// These have this one value, whatever they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// How long a server may take to accept a connection if the settings do not say.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default of `connection_age_max`: a common DNS time-to-live.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

impl Forward {
    /// To one server, as if the settings named only its address.
    pub fn to(server: Uri) -> Self {
        Self {
            upstream: Arc::new(Upstream::of(vec![server])),
            strip_prefix: false,
            add_prefix: String::new(),
            pass_slashes: false,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            forward_credential: false,
            upgrades: vec!["websocket".to_owned()],
            keeps_redirects: false,
        }
    }
}

impl Upstream {
    /// These servers, as if the settings named only their addresses.
    pub fn of(servers: Vec<Uri>) -> Self {
        Self {
            servers,
            protocol: Protocol::Http1,
            connect_timeout: CONNECT_TIMEOUT,
            first_byte_timeout: None,
            idle_timeout: None,
            connection_age_max: CONNECTION_AGE_MAX,
            authorities: Vec::new(),
            health: None,
        }
    }
}

impl HeaderEdits {
    /// Does it to a request on its way to a server, which could take another of the client's headers for one of these.
    pub fn apply_alike(&self, headers: &mut HeaderMap) {
        self.remove_alike(headers);
        self.apply(headers);
    }

    /// Takes out everything that could be taken for one of these.
    pub fn remove_alike(&self, headers: &mut HeaderMap) {
        let set = self.set.iter().map(|(name, _)| name);
        for name in self.remove.iter().chain(set) {
            remove_alike(headers, name);
        }
    }

    /// Whether it takes out or replaces this header.
    pub fn names(&self, wanted: &HeaderName) -> bool {
        let set = self.set.iter().map(|(name, _)| name);
        let mut all = self.remove.iter().chain(set);
        all.any(|name| folded(name) == folded(wanted))
    }

    /// Does it.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }
}

//! How a route's requests are forwarded: to which servers, under which path, with which headers.
//! Pure.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Uri};

use super::header::{folded, remove_alike};

/// The changes that a route makes to requests and answers when it forwards them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The servers, shared by all routes that name the same ones.
    pub upstream: Arc<Upstream>,
    /// Whether the route's prefix is removed from the path before it is forwarded.
    pub strip_prefix: bool,
    /// The prefix that is added to the path: empty, or with a leading and without a trailing slash.
    pub add_prefix: String,
    /// Whether paths with doubled (`//`) or encoded (`%2F`) slashes are passed on unchanged.
    pub pass_slashes: bool,
    /// The changes to the headers of a request.
    pub request_headers: HeaderEdits,
    /// The changes to the headers of an answer.
    pub response_headers: HeaderEdits,
    /// Whether the credential is forwarded to the upstream.
    pub forward_credential: bool,
    /// The protocols that a connection may switch to, in lower case.
    pub upgrades: Vec<String>,
    /// Whether redirects, links and cookies that name the upstream are left unchanged.
    pub keeps_redirects: bool,
}

/// Equivalent servers, and the settings for connections to them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Upstream {
    /// The base addresses of the servers; at least one.
    pub servers: Vec<Uri>,
    /// The protocol that the servers speak.
    pub protocol: Protocol,
    /// How long a connection may take to open, with DNS and TLS.
    pub connect_timeout: Duration,
    /// How long a server may take to begin its response after it has received the request; `None`
    /// for the general setting.
    pub first_byte_timeout: Option<Duration>,
    /// How long a server may pause within an answer. On a switched connection, how long both sides
    /// may pause. `None` for the general setting.
    pub idle_timeout: Option<Duration>,
    /// How long a connection accepts new requests after it was opened. The next connection is
    /// opened to the server's current address.
    pub connection_age_max: Duration,
    /// The certificates (DER) of the trusted authorities. If empty, the public authorities are
    /// trusted.
    pub authorities: Vec<Vec<u8>>,
    /// The health check; `None` if only requests show whether a server is healthy.
    pub health: Option<Health>,
}

/// The protocol of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, as gRPC requires it: with TLS by ALPN, without TLS by prior knowledge.
    Http2,
}

/// The health check of a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Health {
    /// The path below the base address, which answers 2xx if the server is healthy.
    pub path: String,
    /// The interval between checks.
    pub every: Duration,
}

/// The changes to headers: some are removed, then some are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// The headers to remove.
    pub remove: Vec<HeaderName>,
    /// The headers to set, each to a single value.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// The default of `connect_timeout`.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The default of `connection_age_max`: a common DNS time-to-live.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(60);

impl Forward {
    /// Forwards to one server, as if the settings gave only its address.
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
    /// Uses these servers, as if the settings gave only their addresses.
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
    /// Applies the changes to a request for a server that could confuse similar header names.
    pub fn apply_alike(&self, headers: &mut HeaderMap) {
        self.remove_alike(headers);
        self.apply(headers);
    }

    /// Removes all headers that a server could confuse with the changed ones.
    pub fn remove_alike(&self, headers: &mut HeaderMap) {
        let set = self.set.iter().map(|(name, _)| name);
        for name in self.remove.iter().chain(set) {
            remove_alike(headers, name);
        }
    }

    /// Whether these changes remove or set this header, in any spelling that servers could confuse.
    pub fn names(&self, wanted: &HeaderName) -> bool {
        let set = self.set.iter().map(|(name, _)| name);
        let mut all = self.remove.iter().chain(set);
        all.any(|name| folded(name) == folded(wanted))
    }

    /// Applies the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name.clone(), value.clone());
        }
    }
}

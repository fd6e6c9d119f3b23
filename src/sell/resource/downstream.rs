//! The client of a request, and the bodies that pass between it and a resource.

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;

/// Any error inside a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A streamed request or response body.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The origin of a request, as reported to the upstream.
#[derive(Clone, Copy, Debug)]
pub struct Downstream {
    /// The client's address.
    pub client: std::net::IpAddr,
    /// Whether the request came over TLS.
    pub is_secure: bool,
}

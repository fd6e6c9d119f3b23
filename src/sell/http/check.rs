//! Refuses malformed requests, and requests that two programs could read differently, before the
//! route is looked up.

use axum::extract::Request;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN,
    TRANSFER_ENCODING,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use http_body::Body as _;

use crate::base::via::Circle;
use crate::sell::gate::ACCEPT_GRANT;
use crate::sell::resource::{join_cookies, remove_named};
use crate::sell::route::undisputed;

use super::head_limits::{HEADER_BYTES_MAX, HEADERS_MAX};

/// The reason why a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The client's address is blocked or not allowed.
    Blocked,
    /// The headers exceed the size limit.
    HeadersTooLarge,
    /// The request names no host, several hosts, or an invalid one.
    Host,
    /// The URL has another scheme than `http` or `https`.
    Scheme,
    /// The method is CONNECT or TRACE, which no route serves.
    NotForUs,
    /// The path is invalid or ambiguous.
    Path(crate::sell::route::PathError),
    /// The `Content-Length` is ambiguous, or differs from the length of the body.
    Length,
    /// The body exceeds the limit, which is given in bytes.
    BodyTooLarge(u64),
    /// A header that may occur only once is repeated, or comes with another that some servers treat
    /// as the same.
    Twice(HeaderName),
    /// The route exists, but does not serve this method.
    Method {
        /// The methods that the path supports.
        methods: Vec<Method>,
        /// Whether any of these methods is sold.
        is_paid: bool,
    },
    /// No route matches the path.
    NoRoute,
    /// Too many requests are being answered.
    Busy,
    /// The request has been here before, or has passed too many servers.
    Circle(Circle),
    /// The server is stopping and accepts no new requests.
    Stopping,
}

impl Refusal {
    /// Whether Tollhouse answers a preflight of a refused request, so that a script can read the
    /// refusal. A preflight for a free resource goes to the upstream.
    pub(crate) fn answers_preflight(&self) -> bool {
        match self {
            Self::Path(_) | Self::NoRoute => true,
            Self::Method { is_paid, .. } => *is_paid,
            Self::Blocked
            | Self::HeadersTooLarge
            | Self::Host
            | Self::Scheme
            | Self::NotForUs
            | Self::Length
            | Self::BodyTooLarge(_)
            | Self::Twice(_)
            | Self::Busy
            | Self::Circle(_)
            | Self::Stopping => false,
        }
    }

    /// The methods that the path supports; empty if unknown.
    pub(crate) fn methods(&self) -> &[Method] {
        if let Self::Method { methods, .. } = self {
            return methods;
        }
        &[]
    }
}

/// Checks a request, and sets its `Host` header, which all later steps read, whatever the HTTP
/// version.
pub(super) fn check(request: &mut Request, body_bytes_max: u64) -> Result<(), Refusal> {
    let headers = request.headers();
    let header_bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if header_bytes > HEADER_BYTES_MAX || headers.len() > HEADERS_MAX {
        return Err(Refusal::HeadersTooLarge);
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::NotForUs);
    }
    if let Some(host) = host(request)? {
        request.headers_mut().insert(HOST, host);
    }
    check_length(request, body_bytes_max)?;
    check_single(request.headers())?;
    // Headers that `Connection` names do not reach the upstream, so they must not set the price.
    remove_named(request.headers_mut());
    join_cookies(request.headers_mut());
    Ok(())
}

/// Returns the host if only the request target names one, as `:authority` does in HTTP/2. An
/// HTTP/1.0 client can do the same with a target in absolute form (RFC 9112).
fn host(request: &Request) -> Result<Option<HeaderValue>, Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    // RFC 9112, section 3.2: exactly one `Host`, which only HTTP/1.0 may omit.
    if hosts.next().is_some() || (host.is_none() && request.version() == Version::HTTP_11) {
        return Err(Refusal::Host);
    }
    let host = host
        .map(|host| plain(Authority::try_from(host.as_bytes()).map_err(|_| Refusal::Host)?))
        .transpose()?;
    let default_port = match request.uri().scheme() {
        None => 80,
        Some(scheme) if *scheme == Scheme::HTTP => 80,
        Some(scheme) if *scheme == Scheme::HTTPS => 443,
        Some(_) => return Err(Refusal::Scheme),
    };
    let target = request.uri().authority().cloned().map(plain).transpose()?;
    match (host, target) {
        (Some(host), Some(target)) => {
            // RFC 9112 gives the target precedence, but an upstream may ignore that rule.
            let port = |named: &Authority| named.port_u16().unwrap_or(default_port);
            let is_same = host.host().eq_ignore_ascii_case(target.host());
            if !is_same || port(&host) != port(&target) {
                return Err(Refusal::Host);
            }
            Ok(None)
        }
        (None, Some(target)) => HeaderValue::try_from(target.as_str())
            .map(Some)
            .map_err(|_| Refusal::Host),
        (None, None) if request.version() == Version::HTTP_2 => Err(Refusal::Host),
        (Some(_) | None, None) => Ok(None),
    }
}

/// Checks that this is a host, with an optional port and without user information.
fn plain(authority: Authority) -> Result<Authority, Refusal> {
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Refusal::Host);
    }
    Ok(authority)
}

/// Requires at most one `Content-Length`, in digits, and a body if that length is not zero.
/// Otherwise an upstream could wait for missing bytes and take them from the next request.
fn check_length(request: &Request, body_bytes_max: u64) -> Result<(), Refusal> {
    let mut lengths = request.headers().get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(());
    };
    let length = length
        .to_str()
        .ok()
        .filter(|length| length.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|length| length.parse::<u64>().ok())
        .ok_or(Refusal::Length)?;
    if lengths.next().is_some() || (length > 0 && request.body().is_end_stream()) {
        return Err(Refusal::Length);
    }
    if length > body_bytes_max {
        return Err(Refusal::BodyTooLarge(body_bytes_max));
    }
    Ok(())
}

/// Headers that decide how a request is read, or what it costs.
const SINGLE: [HeaderName; 5] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    HeaderName::from_static(ACCEPT_GRANT),
];

/// Refuses a request that repeats one of these headers: some servers would use the first value and
/// others the last. Also refuses headers that some servers treat as `Content-Type`.
fn check_single(headers: &HeaderMap) -> Result<(), Refusal> {
    for single in SINGLE {
        if headers.get_all(&single).iter().nth(1).is_some() {
            return Err(Refusal::Twice(single));
        }
    }
    undisputed(headers, &CONTENT_TYPE)
        .map(drop)
        .map_err(|_| Refusal::Twice(CONTENT_TYPE))
}

/// Whether this is a CORS preflight (Fetch standard), in which a browser asks for permission. A
/// preflight is never paid for or counted.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

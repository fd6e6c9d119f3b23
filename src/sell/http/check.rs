//! What is refused before anybody looks for a route: requests that two programs could read in two ways.

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

use super::{HEADER_BYTES_MAX, HEADERS_MAX};

/// Why a request is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Not a client that is let in.
    Blocked,
    /// More header bytes than are read.
    HeadersTooLarge,
    /// None, several, two that differ, or something else than text.
    Host,
    /// `http` and `https` are served, and nothing else.
    Scheme,
    /// CONNECT and TRACE, which no route means.
    NotForUs,
    /// A path that could be read in two ways.
    Path(crate::sell::route::PathError),
    /// A `Content-Length` that could be read in two ways, or is not that of the body.
    Length,
    /// Longer than the limit.
    BodyTooLarge(u64),
    /// A header that may occur only once is repeated, or comes with another that some servers take for it.
    Twice(HeaderName),
    /// The path is known, the method is not.
    Method {
        /// The methods that are served there.
        methods: Vec<Method>,
        /// Whether any of these methods is sold.
        is_paid: bool,
    },
    /// No route.
    NoRoute,
    /// More requests at once than are answered.
    Busy,
    /// The request goes in a circle.
    Circle(Circle),
    /// Nothing new is begun.
    Stopping,
}

impl Refusal {
    /// Whether Tollhouse answers a preflight of a refused request, so that a script can read the refusal. A preflight for a
    /// free resource goes to the upstream.
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

    /// The methods that are served instead; empty if unknown.
    pub(crate) fn methods(&self) -> &[Method] {
        if let Self::Method { methods, .. } = self {
            return methods;
        }
        &[]
    }
}

/// Checks a request, and gives it the one `Host` that everybody reads from here on, whatever HTTP it came by.
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
    // No price may go by what the upstream does not get.
    remove_named(request.headers_mut());
    join_cookies(request.headers_mut());
    Ok(())
}

/// The host that only the target names (HTTP/2's `:authority`, and RFC 9112's absolute form from a client of HTTP/1.0).
fn host(request: &Request) -> Result<Option<HeaderValue>, Refusal> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    // RFC 9112, section 3.2: exactly one, and HTTP/1.0 may do without.
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
            // RFC 9112 lets the target decide, but not everything behind us may have read that.
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

/// A host and perhaps a port: no user in front of it.
fn plain(authority: Authority) -> Result<Authority, Refusal> {
    if authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(Refusal::Host);
    }
    Ok(authority)
}

/// One length in digits, if any, and a body if it is not zero: whatever HTTP is spoken behind us must not wait for bytes
/// that are not there, and take them from the next request.
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

/// Refuses a request that repeats one of these headers: some servers would use the first value and others the last.
/// Also refuses headers that some servers take for `Content-Type`.
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

/// A browser asking whether it may ask (Fetch standard, CORS preflight): never paid for, never counted.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(ORIGIN)
        && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

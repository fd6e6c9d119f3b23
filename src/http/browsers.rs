//! Browsers whose scripts come from another origin (Fetch standard, CORS): what is sold is open to all of them.

use axum::body::Body;
use axum::response::Response;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::answer::{EXPIRES, list};

/// Which origins' scripts may read an answer.
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
/// What a browser's script may read of an answer to another origin; constants, for a value is checked letter by letter.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("WWW-Authenticate, Payment-Receipt, Retry-After");
/// The same where it says what is left.
const EXPOSED_BEHIND_PAYMENT: HeaderValue = HeaderValue::from_static(
    "WWW-Authenticate, Payment-Receipt, Retry-After, L402-Remaining-Requests, L402-Remaining-Bytes, \
     L402-Remaining-Seconds, L402-Expires",
);

/// The answer to a browser that asks whether it may ask.
pub(crate) fn preflight(methods: &[Method]) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
    // `*` does not cover Authorization, so the headers are named.
    headers.insert(
        ACCESS_CONTROL_ALLOW_HEADERS,
        HeaderValue::from_static(
            "Authorization, Content-Type, Accept-Payment, Accept-Grant, X-Grpc-Web, X-User-Agent, Grpc-Timeout",
        ),
    );
    let allowed = if methods.is_empty() {
        HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
    } else {
        list(methods)
    };
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, allowed);
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// Lets scripts of other origins read what was paid for, and the challenge before it; an upstream's own word stands.
pub(crate) fn open(headers: &mut HeaderMap) {
    let origin = headers.entry(ACCESS_CONTROL_ALLOW_ORIGIN);
    origin.or_insert(ANY_ORIGIN);
    let exposed = if headers.contains_key(EXPIRES) {
        EXPOSED_BEHIND_PAYMENT
    } else {
        EXPOSED
    };
    headers
        .entry(ACCESS_CONTROL_EXPOSE_HEADERS)
        .or_insert(exposed);
}

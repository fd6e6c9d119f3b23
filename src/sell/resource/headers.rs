//! Rules for headers of forwarded messages. Headers of a single connection are removed, a client's
//! claims about itself are removed, and verified facts are added.

use std::fmt;
use std::io::Write as _;
use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::protocol::l402::credential;
use crate::sell::gate::Permit;
use crate::sell::route::{Forward, folded};

use super::downstream::Downstream;

/// Headers of a single connection (RFC 9110, section 7.6.1), in addition to those that `Connection`
/// names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// The prefix that grpc-gateway strips from a header's name before it forwards the header.
const GRPC_METADATA: &str = "grpc-metadata-";

/// The prefix of our own headers.
const OURS: &str = "l402-";
const SERVICE: HeaderName = HeaderName::from_static("l402-service");
const TOKEN_ID: HeaderName = HeaderName::from_static("l402-token-id");

/// Whether this header belongs to one connection or marks the end of a message. Settings must not
/// change such a header.
pub fn is_framing(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || [CONTENT_LENGTH, EXPECT, TRAILER].contains(name)
}

/// Whether only this program may set this header.
pub fn is_ours(name: &HeaderName) -> bool {
    [FORWARDED, FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO].contains(name)
        || folded(name).starts_with(OURS)
}

pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove_named(headers);
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Removes the other headers that `Connection` names. The next server does not receive them, so no
/// earlier step may rely on them either.
pub fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Keeps three kinds of headers. Without its length, a body would be read as another
        // request. The host is ours to forward, and the credential is for us.
        .filter(|name| !is_framing(name) && *name != HOST && *name != AUTHORIZATION)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Joins several `Cookie` lines, which HTTP/2 allows (RFC 9113, section 8.2.3). So the price, the
/// hook and the upstream see the same cookies.
pub fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&HeaderValue> = headers.get_all(COOKIE).iter().collect();
    if lines.len() < 2 {
        return;
    }
    let is_sensitive = lines.iter().any(|line| line.is_sensitive());
    let cookies: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
    if let Ok(mut joined) = HeaderValue::try_from(cookies.join(&b"; "[..])) {
        joined.set_sensitive(is_sensitive);
        headers.insert(COOKIE, joined);
    }
}

/// Whether a list such as `Connection` or `TE` contains this name, in any case.
pub(super) fn names(headers: &HeaderMap, list: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(list).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        // An entry in `TE` can have parameters.
        .filter_map(|name| name.split(';').next())
        .any(|name| name.trim().eq_ignore_ascii_case(wanted))
}

/// Whether this header tells an upstream the origin of a request, the payer, or another method or
/// path. Values from a client are never forwarded.
fn is_claim(name: &HeaderName) -> bool {
    let name = folded(name);
    let name = name.strip_prefix(GRPC_METADATA).unwrap_or(&name);
    let begins = [OURS, "x-forwarded-", "x-original-", "x-rewrite-"];
    let names = [
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-http-method",
        "x-method",
    ];
    // Most headers that override the method contain one of these parts.
    let overrides = ["method-override", "override-method", "verb-override"];
    if overrides.iter().any(|part| name.contains(part)) {
        return true;
    }
    begins.iter().any(|begin| name.starts_with(begin)) || names.contains(&name)
}

/// Removes the headers about the payment, which only this program may set.
pub(super) fn remove_ours(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| folded(name).starts_with(OURS);
    let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Removes the client's claims about itself and about the way of the request.
pub(super) fn remove_claims(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_claim(name))
        .cloned()
        .collect();
    for claim in claims {
        headers.remove(claim);
    }
}

/// Applies the rules for headers to trailers, because some servers merge both. Without forwarding
/// settings, all trailers are removed.
pub(super) fn clean_trailers(trailers: &mut HeaderMap, forward: Option<&Forward>) {
    let Some(forward) = forward else {
        trailers.clear();
        return;
    };
    let framing: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_framing(name) || **name == HOST)
        .cloned()
        .collect();
    for name in framing {
        trailers.remove(name);
    }
    remove_claims(trailers);
    forward.request_headers.remove_alike(trailers);
    if !forward.forward_credential {
        credential::strip(trailers);
    }
}

/// Sets `Forwarded` (RFC 7239), `X-Forwarded-For`, `-Host` and `-Proto`. Also sets
/// `X-Forwarded-Prefix` if a prefix was removed from the path.
pub(super) fn set_forwarded(
    headers: &mut HeaderMap,
    downstream: Downstream,
    host: Option<&HeaderValue>,
    prefix: &str,
) {
    let client = downstream.client.to_canonical();
    let proto = if downstream.is_secure {
        "https"
    } else {
        "http"
    };
    if let Some(value) = forwarded(client, host, proto) {
        headers.insert(FORWARDED, value);
    }
    if let Some(client) = value(format_args!("{client}")) {
        headers.insert(FORWARDED_FOR, client);
    }
    if let Some(host) = host {
        headers.insert(FORWARDED_HOST, host.clone());
    }
    if let Some(prefix) = Some(prefix).filter(|prefix| !prefix.is_empty())
        && let Ok(prefix) = HeaderValue::from_str(prefix)
    {
        headers.insert(FORWARDED_PREFIX, prefix);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
}

/// Builds the value of `Forwarded`, such as `for=192.0.2.1;host="shop:8402";proto=http`.
fn forwarded(client: IpAddr, host: Option<&HeaderValue>, proto: &str) -> Option<HeaderValue> {
    // A host with a port must be quoted. A host with a quote or a backslash is invalid and omitted.
    let host = host
        .and_then(|host| host.to_str().ok())
        .filter(|host| !host.contains(['"', '\\']));
    let (before, host, after) = match host {
        Some(host) => (";host=\"", host, "\""),
        None => ("", "", ""),
    };
    match client {
        IpAddr::V4(client) => value(format_args!(
            "for={client}{before}{host}{after};proto={proto}"
        )),
        IpAddr::V6(client) => value(format_args!(
            "for=\"[{client}]\"{before}{host}{after};proto={proto}"
        )),
    }
}

/// The longest value that is formatted on the stack.
const SHORT_BYTES: usize = 128;

/// Formats a header value. Allocates only if the value is long.
fn value(parts: fmt::Arguments<'_>) -> Option<HeaderValue> {
    let mut buffer = [0; SHORT_BYTES];
    let mut rest = &mut buffer[..];
    if rest.write_fmt(parts).is_err() {
        return HeaderValue::try_from(parts.to_string()).ok();
    }
    let length = SHORT_BYTES - rest.len();
    HeaderValue::from_bytes(&buffer[..length]).ok()
}

/// gRPC codes that report a failure of the server and not a bad request: UNKNOWN (also for an
/// uncaught exception), UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS. DEADLINE_EXCEEDED is
/// not listed, because the client sets the deadline.
const GRPC_FAILURES: [&[u8]; 5] = [b"2", b"12", b"13", b"14", b"15"];

/// Whether these are the headers of a gRPC answer.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether these trailers report a failure of the server. gRPC sends them in the head if the answer
/// has no messages.
pub(super) fn is_failed_call(trailers: &HeaderMap) -> bool {
    let status = trailers.get("grpc-status");
    status.is_some_and(|status| GRPC_FAILURES.contains(&status.as_bytes()))
}

/// Sets the headers about the payment: the token id, and the route's service. A token may be valid
/// for several services.
pub(super) fn set_paid(headers: &mut HeaderMap, permit: &Permit, service: Option<&str>) {
    let Some(token_id) = permit.token_id() else {
        return;
    };
    let mut digits = [0; 64];
    let written = hex::encode_to_slice(token_id.0, &mut digits);
    if let (Ok(()), Ok(value)) = (written, HeaderValue::from_bytes(&digits)) {
        headers.insert(TOKEN_ID, value);
    }
    if let Some(Ok(service)) = service.map(HeaderValue::from_str) {
        headers.insert(SERVICE, service);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host that makes the value too long for the stack buffer.
    const LONG: &str = "a.very.long.name.of.a.host.that.goes.on.and.on.and.on.and.on.and.on.and.on.and.on.and.on.and.on.and.on.and.on.example";

    #[test]
    fn where_a_request_comes_from_is_said_as_the_standard_writes_it() {
        let host = |host: &'static str| HeaderValue::from_static(host);
        for (client, given, said) in [
            (
                "192.0.2.1",
                Some(host("shop.example")),
                "for=192.0.2.1;host=\"shop.example\";proto=http",
            ),
            (
                "2001:db8::1",
                Some(host("shop:8402")),
                "for=\"[2001:db8::1]\";host=\"shop:8402\";proto=http",
            ),
            (
                "192.0.2.1",
                Some(host("a\";for=\"b")),
                "for=192.0.2.1;proto=http",
            ),
            ("192.0.2.1", None, "for=192.0.2.1;proto=http"),
            (
                "192.0.2.1",
                Some(HeaderValue::from_static(LONG)),
                &format!("for=192.0.2.1;host=\"{LONG}\";proto=http"),
            ),
        ] {
            let value = forwarded(client.parse().unwrap(), given.as_ref(), "http").unwrap();
            assert_eq!(value, said);
        }
    }

    #[test]
    fn claims_are_known_in_every_spelling() {
        for claim in [
            "l402-service",
            "l402_token_id",
            "l402-token_id",
            "l402-anything",
            "x_forwarded_for",
            "x-forwarded-for",
            "forwarded",
            "x-real_ip",
            "l402.token.id",
            "x!real~ip",
            "grpc-metadata-l402-token-id",
            "grpc_metadata_l402_token_id",
            "grpc-metadata-x-forwarded-for",
            "x-http-method-override",
            "x_method_override",
            "http-method-override",
            "x-http-method",
        ] {
            assert!(is_claim(&HeaderName::from_static(claim)), "{claim}");
        }
        for other in ["l402", "x-l402-service", "x-forward", "token", "via"] {
            assert!(!is_claim(&HeaderName::from_static(other)), "{other}");
        }
    }
}

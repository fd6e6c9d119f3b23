//! Headers on their way through: what belongs to one connection stays there, what a client claims of itself goes, and what we
//! know is said.

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

use super::Downstream;

/// Speak of one connection only (RFC 9110, section 7.6.1), besides those that `Connection` names.
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

/// What grpc-gateway takes off a header's name before it hands it to the server behind.
const GRPC_METADATA: &str = "grpc-metadata-";

/// What our own headers begin with.
const OURS: &str = "l402-";
const SERVICE: HeaderName = HeaderName::from_static("l402-service");
const TOKEN_ID: HeaderName = HeaderName::from_static("l402-token-id");

/// Whether this header belongs to one connection or says where a message ends: never the settings' business.
pub fn is_framing(name: &HeaderName) -> bool {
    HOP_BY_HOP.contains(name) || [CONTENT_LENGTH, EXPECT, TRAILER].contains(name)
}

/// Whether we say this, and nobody else may.
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

/// Takes out what `Connection` names besides: the next one does not get it, so that nobody may go by it before either.
pub fn remove_named(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Without its length the body would be another request, the host is ours to forward, and the credential is for us.
        .filter(|name| !is_framing(name) && *name != HOST && *name != AUTHORIZATION)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Joins several `Cookie` lines, which HTTP/2 allows (RFC 9113, section 8.2.3), so that price, hook and upstream read the same.
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

/// Whether a list like that of `Connection` or `TE` names this, in any case.
pub(super) fn names(headers: &HeaderMap, list: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(list).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        // `TE` has parameters.
        .filter_map(|name| name.split(';').next())
        .any(|name| name.trim().eq_ignore_ascii_case(wanted))
}

/// Whether this header tells an upstream where a request comes from, who has paid, or what is really asked for: what a client
/// says there is never passed on.
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
    // Whoever lets a header choose another method calls it something of this kind.
    let overrides = ["method-override", "override-method", "verb-override"];
    if overrides.iter().any(|part| name.contains(part)) {
        return true;
    }
    begins.iter().any(|begin| name.starts_with(begin)) || names.contains(&name)
}

/// Takes out what only we say: who has paid, and for what.
pub(super) fn remove_ours(headers: &mut HeaderMap) {
    let is_ours = |name: &&HeaderName| folded(name).starts_with(OURS);
    let ours: Vec<HeaderName> = headers.keys().filter(is_ours).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// Takes out what a client claims about itself and its way here.
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

/// What a client may not say in a head it may not say behind its body either: there are servers that read both as one. On
/// its way by these rules; without any, nothing is passed on.
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

/// Sets `Forwarded` (RFC 7239), `X-Forwarded-For`, `-Host` and `-Proto`, and `X-Forwarded-Prefix` if a prefix was removed from
/// the path.
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

/// `for=192.0.2.1;host="shop:8402";proto=http`
fn forwarded(client: IpAddr, host: Option<&HeaderValue>, proto: &str) -> Option<HeaderValue> {
    // A host with a port is no token; one that would end the quotes is no host.
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

/// A value up to this length is put together on the stack.
const SHORT_BYTES: usize = 128;

/// A value of these parts, put together where nothing has to be allocated for it unless it is long.
fn value(parts: fmt::Arguments<'_>) -> Option<HeaderValue> {
    let mut buffer = [0; SHORT_BYTES];
    let mut rest = &mut buffer[..];
    if rest.write_fmt(parts).is_err() {
        return HeaderValue::try_from(parts.to_string()).ok();
    }
    let length = SHORT_BYTES - rest.len();
    HeaderValue::from_bytes(&buffer[..length]).ok()
}

/// Codes with which a server says that it failed, not that the request was wrong: UNKNOWN (which an error nobody caught
/// becomes), UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS. Not DEADLINE_EXCEEDED: the deadline is the client's own.
const GRPC_FAILURES: [&[u8]; 5] = [b"2", b"12", b"13", b"14", b"15"];

/// Whether an answer is one to a call of gRPC.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether these trailers, or a head that stands for both, say that the server failed.
pub(super) fn is_failed_call(trailers: &HeaderMap) -> bool {
    let status = trailers.get("grpc-status");
    status.is_some_and(|status| GRPC_FAILURES.contains(&status.as_bytes()))
}

/// Says who has paid, and for what: the route's own service, of the several that a token may open.
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

    /// Longer than what is put together on the stack.
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

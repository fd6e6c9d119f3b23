//! Finds the client's address behind trusted proxies. Each proxy appends its peer's address to the
//! list that it received. So the list is read from its end, and only while the writer of an entry
//! is trusted. Entries that a client forged come before those and are never reached.

use std::net::IpAddr;

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use crate::sell::resource::Downstream;

use super::browsers::Origins;
use super::networks::Networks;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The header that trusted proxies write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For` if present, otherwise `Forwarded`.
    #[default]
    Either,
    /// `X-Forwarded-For` and `X-Forwarded-Proto`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The trusted proxies and the admitted clients.
#[derive(Clone, Debug, Default)]
pub struct Clients {
    /// The proxies that are trusted to name their clients.
    pub trusted_proxies: Networks,
    /// The header that these proxies write.
    pub forwarded_header: ForwardedHeader,
    /// The networks that may connect; empty for all.
    pub allow: Networks,
    /// The networks that are refused, even if `allow` contains them.
    pub block: Networks,
    /// The origins that may send a browser's credentials.
    pub origins: Origins,
}

/// Removes the headers that name the client behind a proxy.
pub(super) fn forget_forwarded(headers: &mut HeaderMap) {
    for name in [FORWARDED, X_FORWARDED_FOR, X_FORWARDED_PROTO] {
        headers.remove(name);
    }
}

impl Clients {
    /// Whether this client may send requests.
    pub fn admits(&self, client: IpAddr) -> bool {
        let is_allowed = self.allow.is_empty() || self.allow.contains(client);
        is_allowed && !self.block.contains(client)
    }

    /// Determines the client of a request, and whether its connection is secure.
    pub fn downstream(&self, peer: Downstream, headers: &HeaderMap) -> Downstream {
        let peer = Downstream {
            client: peer.client.to_canonical(),
            ..peer
        };
        if !self.trusted_proxies.contains(peer.client) {
            return peer;
        }
        let is_standard = match self.forwarded_header {
            ForwardedHeader::Either => !headers.contains_key(X_FORWARDED_FOR),
            ForwardedHeader::XForwardedFor => false,
            ForwardedHeader::Forwarded => true,
        };
        if is_standard && headers.contains_key(FORWARDED) {
            self.walk(peer, entries(headers, FORWARDED).map(standard_hop))
        } else if self.forwarded_header == ForwardedHeader::Forwarded {
            peer
        } else {
            let hops = entries(headers, X_FORWARDED_FOR).map(|entry| {
                let client = node(entry?)?;
                Some(Hop {
                    client,
                    is_secure: None,
                })
            });
            // The last entry is from the proxy that is connected to us.
            let proto = entries(headers, X_FORWARDED_PROTO).next().flatten();
            Downstream {
                is_secure: proto.and_then(is_secure).unwrap_or(peer.is_secure),
                ..self.walk(peer, hops)
            }
        }
    }

    /// Follows the hops while the previous address is a trusted proxy. Stops at an entry that
    /// cannot be parsed.
    fn walk(&self, peer: Downstream, hops: impl Iterator<Item = Option<Hop>>) -> Downstream {
        let mut downstream = peer;
        for hop in hops {
            let Some(hop) = hop.filter(|_| self.trusted_proxies.contains(downstream.client)) else {
                break;
            };
            downstream = Downstream {
                client: hop.client,
                is_secure: hop.is_secure.unwrap_or(downstream.is_secure),
            };
        }
        downstream
    }
}

/// One entry that a proxy wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hop {
    client: IpAddr,
    is_secure: Option<bool>,
}

/// The entries of a list header over all its lines, the last one first. The split at commas ignores
/// quotes. An address has no comma, and an open quote from a client must not hide what a proxy
/// appended.
fn entries(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = Option<&str>> {
    let lines: Vec<&HeaderValue> = headers.get_all(name).iter().collect();
    lines.into_iter().rev().flat_map(|line| {
        // A line that is not text counts as one unreadable entry.
        let (text, unreadable) = match line.to_str() {
            Ok(text) => (Some(text), None),
            Err(_) => (None, Some(None)),
        };
        let entries = text
            .into_iter()
            .flat_map(|text| text.rsplit(',').map(str::trim));
        entries.map(Some).chain(unreadable)
    })
}

/// Parses `for="[2001:db8::1]:47011";proto=https;by=…;host=…`, with each name at most once.
fn standard_hop(entry: Option<&str>) -> Option<Hop> {
    let (mut client, mut proto) = (None, None);
    for pair in entry?.split(';') {
        let (name, value) = pair.trim().split_once('=')?;
        let value = unquoted(value)?;
        let slot = if name.eq_ignore_ascii_case("for") {
            &mut client
        } else if name.eq_ignore_ascii_case("proto") {
            &mut proto
        } else {
            continue;
        };
        if slot.replace(value).is_some() {
            return None;
        }
    }
    Some(Hop {
        client: node(client?)?,
        is_secure: proto.and_then(is_secure),
    })
}

/// Reads a token, or a quoted string without escapes, which an address never needs.
fn unquoted(value: &str) -> Option<&str> {
    let inner = match value.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?,
        None => value,
    };
    (!inner.contains(['"', '\\'])).then_some(inner)
}

/// Parses an address with an optional port. `unknown` and obfuscated names give `None`.
fn node(text: &str) -> Option<IpAddr> {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let is_good = rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port);
        let address: std::net::Ipv6Addr = address.parse().ok()?;
        return is_good.then(|| IpAddr::from(address).to_canonical());
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = text.split_once(':')?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    is_port(port).then_some(IpAddr::from(address))
}

fn is_secure(proto: &str) -> Option<bool> {
    match proto.to_ascii_lowercase().as_str() {
        "https" => Some(true),
        "http" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(forwarded_header: ForwardedHeader) -> Clients {
        Clients {
            trusted_proxies: Networks::parse(&["10.0.0.0/8", "2001:db8:aa::/48"]).unwrap(),
            forwarded_header,
            ..Clients::default()
        }
    }

    fn told(clients: &Clients, peer: &str, lines: &[(&'static str, &str)]) -> (String, bool) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let peer = Downstream {
            client: peer.parse().unwrap(),
            is_secure: false,
        };
        let downstream = clients.downstream(peer, &headers);
        (downstream.client.to_string(), downstream.is_secure)
    }

    const XFF: &str = "x-forwarded-for";
    const STANDARD: &str = "forwarded";

    /// The peer, the header lines, and the expected client.
    type Row = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
    );

    #[rustfmt::skip]
    const X_FORWARDED_FOR_ROWS: &[Row] = &[
        // Without a trusted proxy, the headers are ignored.
        ("192.0.2.1", &[(XFF, "203.0.113.9")], "192.0.2.1"),
        ("192.0.2.1", &[(STANDARD, "for=203.0.113.9")], "192.0.2.1"),
        ("::ffff:192.0.2.1", &[], "192.0.2.1"),
        // One proxy or several, in one header line or in three.
        ("10.0.0.1", &[], "10.0.0.1"),
        ("10.0.0.1", &[(XFF, "203.0.113.9")], "203.0.113.9"),
        ("::ffff:10.0.0.1", &[(XFF, "203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(XFF, "203.0.113.9, 10.0.0.2")], "203.0.113.9"),
        ("10.0.0.1", &[(XFF, "203.0.113.9"), (XFF, "10.0.0.3"), (XFF, "10.0.0.2")], "203.0.113.9"),
        ("10.0.0.1", &[(XFF, "10.0.0.3,10.0.0.2")], "10.0.0.3"),
        // Entries that the client forged come first in the list.
        ("10.0.0.1", &[(XFF, "127.0.0.1, 203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(XFF, "127.0.0.1"), (XFF, "203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(XFF, "10.0.0.7, 203.0.113.9, 10.0.0.2")], "203.0.113.9"),
        ("10.0.0.1", &[(XFF, "\"a, 203.0.113.9")], "203.0.113.9"),
        // An unreadable entry ends the walk at the last known address.
        ("10.0.0.1", &[(XFF, "")], "10.0.0.1"),
        ("10.0.0.1", &[(XFF, "unknown")], "10.0.0.1"),
        ("10.0.0.1", &[(XFF, "203.0.113.9, nonsense, 10.0.0.2")], "10.0.0.2"),
        ("10.0.0.1", &[(XFF, "203.0.113.9, , 10.0.0.2")], "10.0.0.2"),
        ("10.0.0.1", &[(XFF, "203.0.113.9"), (XFF, "ü")], "10.0.0.1"),
        ("10.0.0.1", &[(XFF, "0x7f.1")], "10.0.0.1"),
        ("10.0.0.1", &[(XFF, "203.0.113.009")], "10.0.0.1"),
        ("10.0.0.1", &[(XFF, "203.0.113.9:99999")], "10.0.0.1"),
        // Addresses with ports and brackets.
        ("10.0.0.1", &[(XFF, "203.0.113.9:4711")], "203.0.113.9"),
        ("10.0.0.1", &[(XFF, "2001:db8::9")], "2001:db8::9"),
        ("10.0.0.1", &[(XFF, "[2001:db8::9]:4711")], "2001:db8::9"),
        ("10.0.0.1", &[(XFF, "::ffff:203.0.113.9, 2001:db8:aa::1")], "203.0.113.9"),
    ];

    #[rustfmt::skip]
    const FORWARDED_ROWS: &[Row] = &[
        ("10.0.0.1", &[(STANDARD, "for=203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(STANDARD, "For=\"203.0.113.9:80\";proto=http;by=10.0.0.1")], "203.0.113.9"),
        ("10.0.0.1", &[(STANDARD, "for=\"[2001:db8::9]:4711\", for=10.0.0.2")], "2001:db8::9"),
        ("10.0.0.1", &[(STANDARD, "for=127.0.0.1, for=203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(STANDARD, "for=\"127.0.0.1, for=203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(STANDARD, "for=\"127.0.0.1"), (STANDARD, "for=203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(STANDARD, "for=203.0.113.9, for=_hidden")], "10.0.0.1"),
        ("10.0.0.1", &[(STANDARD, "for=203.0.113.9, for=unknown, for=10.0.0.2")], "10.0.0.2"),
        ("10.0.0.1", &[(STANDARD, "for=203.0.113.9;for=127.0.0.1")], "10.0.0.1"),
        ("10.0.0.1", &[(STANDARD, "proto=https")], "10.0.0.1"),
        ("10.0.0.1", &[(STANDARD, "203.0.113.9")], "10.0.0.1"),
        ("10.0.0.1", &[(STANDARD, "for=\"203.0.113.9\\\"\"")], "10.0.0.1"),
        // If both headers are present, `X-Forwarded-For` is used, because most proxies write that
        // one.
        ("10.0.0.1", &[(STANDARD, "for=127.0.0.1"), (XFF, "203.0.113.9")], "203.0.113.9"),
        ("10.0.0.1", &[(STANDARD, "for=127.0.0.1"), (XFF, "nonsense")], "10.0.0.1"),
    ];

    #[test]
    fn a_client_is_who_trusted_proxies_say_and_nobody_else() {
        let either = clients(ForwardedHeader::Either);
        for (peer, lines, client) in X_FORWARDED_FOR_ROWS.iter().chain(FORWARDED_ROWS) {
            assert_eq!(told(&either, peer, lines).0, *client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn only_the_header_that_proxies_write_is_read() {
        let both = [(STANDARD, "for=192.0.2.1"), (XFF, "203.0.113.9")];
        for (header, lines, client) in [
            (ForwardedHeader::XForwardedFor, &both[..], "203.0.113.9"),
            (ForwardedHeader::XForwardedFor, &both[..1], "10.0.0.1"),
            (ForwardedHeader::Forwarded, &both[..], "192.0.2.1"),
            (ForwardedHeader::Forwarded, &both[1..], "10.0.0.1"),
        ] {
            let clients = clients(header);
            assert_eq!(told(&clients, "10.0.0.1", lines).0, client, "{header:?}");
        }
    }

    #[test]
    fn whether_it_was_tls_is_what_the_trusted_proxy_says() {
        const PROTO: &str = "x-forwarded-proto";
        let either = clients(ForwardedHeader::Either);
        for (peer, lines, is_secure) in [
            ("192.0.2.1", vec![(PROTO, "https")], false),
            ("10.0.0.1", vec![(PROTO, "https")], true),
            (
                "10.0.0.1",
                vec![(XFF, "203.0.113.9"), (PROTO, "HTTPS")],
                true,
            ),
            ("10.0.0.1", vec![(PROTO, "https, http")], false),
            ("10.0.0.1", vec![(PROTO, "http"), (PROTO, "https")], true),
            ("10.0.0.1", vec![(PROTO, "gopher")], false),
            (
                "10.0.0.1",
                vec![(STANDARD, "for=203.0.113.9;proto=https")],
                true,
            ),
            (
                "10.0.0.1",
                vec![(STANDARD, "for=203.0.113.9;proto=https, for=10.0.0.2")],
                true,
            ),
            (
                "10.0.0.1",
                vec![(STANDARD, "for=127.0.0.1;proto=https, for=203.0.113.9")],
                false,
            ),
            (
                "10.0.0.1",
                vec![(STANDARD, "for=203.0.113.9"), (PROTO, "https")],
                false,
            ),
        ] {
            assert_eq!(told(&either, peer, &lines).1, is_secure, "{peer} {lines:?}");
        }
    }

    #[test]
    fn who_is_blocked_is_not_let_in_whatever_is_allowed() {
        let networks = |list: &[&str]| Networks::parse(list).unwrap();
        for (allow, block, client, is_admitted) in [
            (&[][..], &[][..], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "192.0.2.1", true),
            (&["192.0.2.0/24"], &[], "203.0.113.9", false),
            (&["192.0.2.0/24"], &[], "2001:db8::1", false),
            (&[], &["192.0.2.0/24"], "192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "::ffff:192.0.2.1", false),
            (&[], &["192.0.2.0/24"], "203.0.113.9", true),
            (&["192.0.2.0/24"], &["192.0.2.1"], "192.0.2.1", false),
            (&["192.0.2.1"], &["192.0.2.0/24"], "192.0.2.1", false),
        ] {
            let clients = Clients {
                allow: networks(allow),
                block: networks(block),
                ..Clients::default()
            };
            let admitted = clients.admits(client.parse().unwrap());
            assert_eq!(admitted, is_admitted, "{allow:?} {block:?} {client}");
        }
    }
}

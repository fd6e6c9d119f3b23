//! Settings that lead from this program back to itself: a route with one of its own listeners as
//! upstream, or a price hook or rate source behind its public listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ::http::Uri;

use crate::sell::http::TlsSource;
use crate::sell::quote::RateOrigin;
use crate::sell::route::Resource;

use super::settings::Config;

/// The time limit for resolving all names together. A name that takes longer is not checked.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);

/// The usual port of HTTPS, from which requests may be forwarded to another port.
const HTTPS_PORT: u16 = 443;

impl Config {
    /// Warnings about settings that lead back to this program. The program can run with them, but
    /// they are surely mistakes. Resolves names, for two seconds at most.
    pub fn circles(&self) -> Vec<String> {
        let ours = Ours::of(self);
        let mut warnings = Vec::new();
        for route in self.routes.iter() {
            let Resource::Upstream(forward) = &route.resource else {
                continue;
            };
            for server in &forward.upstream.servers {
                if let Some(which) = ours.listener_at(server) {
                    warnings.push(format!(
                        "route {}: its upstream {server} is {which}: every request would return to Tollhouse and fail with 508",
                        route.name
                    ));
                }
            }
        }
        for hook in &self.hooks {
            if let Some(which) = ours.listener_at(hook.address.uri()) {
                let name = &hook.name;
                warnings.push(format!(
                    "hook {name}: its url {} is {which}, which refuses this program's own requests",
                    hook.address
                ));
            }
        }
        for rate in &self.rates {
            let RateOrigin::Watched(watched) = &rate.origin else {
                continue;
            };
            for source in &watched.sources {
                if let Some(which) = ours.listener_at(source.address.uri()) {
                    warnings.push(format!(
                        "rate {}: its source {} is {which}: name the upstream server instead",
                        rate.currency, source.address
                    ));
                }
            }
        }
        warnings
    }
}

/// The addresses of this program's listeners.
struct Ours<'a> {
    public: SocketAddr,
    admin: SocketAddr,
    /// The domains of its certificate, if it comes from an ACME authority.
    names: &'a [String],
    /// The deadline for resolving names.
    until: Instant,
}

impl<'a> Ours<'a> {
    fn of(config: &'a Config) -> Self {
        let names = match &config.http.tls {
            Some(TlsSource::Acme(acme)) => acme.domains.as_slice(),
            Some(TlsSource::Files(_)) | None => &[],
        };
        Self {
            public: config.http.listen,
            admin: config.admin_listen,
            names,
            until: Instant::now() + NAMES_TIMEOUT,
        }
    }

    /// The listener of this program that the URI leads to, if any.
    fn listener_at(&self, uri: &Uri) -> Option<&'static str> {
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        let is_secure = uri.scheme_str() == Some("https");
        let usual = if is_secure { HTTPS_PORT } else { 80 };
        let port = uri.port_u16().unwrap_or(usual);
        let is_named = self
            .names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(host));
        if is_named && (port == self.public.port() || port == HTTPS_PORT) {
            return Some("this program's public listener");
        }
        let listeners = [
            (self.public, "this program's public listener"),
            (self.admin, "this program's operator's listener"),
        ];
        let mut at_port = listeners
            .into_iter()
            .filter(|(listen, _)| listen.port() == port)
            .peekable();
        at_port.peek()?;
        let addresses = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.addresses_of(host),
        };
        at_port
            .find(|(listen, _)| addresses.iter().any(|address| leads_to(*address, *listen)))
            .map(|(_, which)| which)
    }

    /// The addresses of a name; empty if the system does not resolve it in time.
    fn addresses_of(&self, host: &str) -> Vec<IpAddr> {
        let (tell, told) = mpsc::channel();
        let name = (host.to_owned(), 0_u16);
        // The lookup cannot be cancelled. One that hangs ends with the resolver's own timeout.
        std::thread::spawn(move || {
            let found = name.to_socket_addrs();
            let found = found.map(|found| found.map(|address| address.ip()).collect());
            // The receiver is gone if the deadline has passed.
            let _ = tell.send(found.unwrap_or_default());
        });
        let left = self.until.saturating_duration_since(Instant::now());
        told.recv_timeout(left).unwrap_or_default()
    }
}

/// Whether a connection to this address, at the listener's port, reaches this listener.
fn leads_to(address: IpAddr, listen: SocketAddr) -> bool {
    let loopback = |ip: IpAddr| match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => ip.to_canonical(),
    };
    let address = loopback(address);
    match listen.ip() {
        // An IPv6 socket on all addresses accepts IPv4 connections too.
        all if all.is_unspecified() => (all.is_ipv6() || address.is_ipv4()) && is_local(address),
        one => loopback(one) == address,
    }
}

/// Whether this machine has the address. A socket can be bound only to such an address.
fn is_local(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_under_each_of_its_addresses() {
        let ours = |public: &str| Ours {
            public: public.parse().unwrap(),
            admin: "127.0.0.1:8403".parse().unwrap(),
            names: &[],
            until: Instant::now() + Duration::from_secs(20),
        };
        for (public, uri, is_ours) in [
            ("127.0.0.1:8402", "http://127.0.0.1:8402", true),
            ("127.0.0.1:8402", "http://127.0.0.1:8402/base", true),
            ("127.0.0.1:8402", "http://0.0.0.0:8402", true),
            ("127.0.0.1:8402", "http://[::ffff:127.0.0.1]:8402", true),
            ("127.0.0.1:8402", "http://localhost:8402", true),
            ("127.0.0.1:8402", "http://LOCALHOST:8402", true),
            ("127.0.0.1:8402", "http://127.0.0.2:8402", false),
            ("127.0.0.1:8402", "http://127.0.0.1:8400", false),
            ("127.0.0.1:8402", "http://127.0.0.1", false),
            ("127.0.0.1:80", "http://127.0.0.1", true),
            ("127.0.0.1:443", "https://localhost", true),
            ("127.0.0.1:8402", "http://[::1]:8402", false),
            ("0.0.0.0:8402", "http://127.0.0.2:8402", true),
            ("0.0.0.0:8402", "http://192.0.2.1:8402", false),
            ("[::]:8402", "http://127.0.0.1:8402", true),
            ("[::]:8402", "http://[::1]:8402", true),
            ("[::1]:8402", "http://[::]:8402", true),
            // The operator's listener.
            ("127.0.0.1:8402", "https://127.0.0.1:8403", true),
        ] {
            let found = ours(public).listener_at(&uri.parse().unwrap());
            assert_eq!(found.is_some(), is_ours, "{public} {uri}");
        }
        let names = ["shop.example".to_owned()];
        let named = Ours {
            names: &names,
            ..ours("0.0.0.0:8443")
        };
        for (uri, is_ours) in [
            ("https://shop.example", true),
            ("https://Shop.example:8443/a", true),
            ("https://shop.example:9443", false),
        ] {
            let found = named.listener_at(&uri.parse().unwrap());
            assert_eq!(found.is_some(), is_ours, "{uri}");
        }
    }
}

//! Settings that lead from this program to itself: a route whose upstream is one of its own listeners, a hook or a source of
//! rates behind the public one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ::http::Uri;

use crate::http::TlsSource;
use crate::quote::RateOrigin;
use crate::route::Resource;

use super::Config;

/// How long all names together may take to be resolved. One that takes longer is not looked at.
const NAMES_TIMEOUT: Duration = Duration::from_secs(2);

/// Where HTTPS is, whatever port it is passed on to.
const HTTPS_PORT: u16 = 443;

impl Config {
    /// What these settings do that nobody can want, though the program can run with it. Names are looked up for it: it may take
    /// two seconds.
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
                        "route {}: its upstream {server} is {which}: every request would come back here, and is answered 508",
                        route.name
                    ));
                }
            }
        }
        for hook in &self.hooks {
            if let Some(which) = ours.listener_at(hook.address.uri()) {
                let name = &hook.name;
                warnings.push(format!(
                    "hook {name}: its url {} is {which}, which does not answer its own questions",
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
                        "rate {}: its source {} is {which}: ask the server behind it",
                        rate.currency, source.address
                    ));
                }
            }
        }
        warnings
    }
}

/// Where this program listens.
struct Ours<'a> {
    public: SocketAddr,
    admin: SocketAddr,
    /// The names in its certificate, if an authority gives one.
    names: &'a [String],
    /// Until when names are looked up.
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

    /// Which of our listeners this leads to, if any.
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

    /// The addresses of a name, if the system knows them soon.
    fn addresses_of(&self, host: &str) -> Vec<IpAddr> {
        let (tell, told) = mpsc::channel();
        let name = (host.to_owned(), 0_u16);
        // It cannot be told to stop; one that hangs ends with the resolver's own patience.
        std::thread::spawn(move || {
            let found = name.to_socket_addrs();
            let found = found.map(|found| found.map(|address| address.ip()).collect());
            // Nobody may be waiting any more.
            let _ = tell.send(found.unwrap_or_default());
        });
        let left = self.until.saturating_duration_since(Instant::now());
        told.recv_timeout(left).unwrap_or_default()
    }
}

/// Whether a connection to this address, at the same port, comes to this listener.
fn leads_to(address: IpAddr, listen: SocketAddr) -> bool {
    let loopback = |ip: IpAddr| match ip {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        IpAddr::V4(_) | IpAddr::V6(_) => ip.to_canonical(),
    };
    let address = loopback(address);
    match listen.ip() {
        // The one of IPv6 takes connections of IPv4 too.
        all if all.is_unspecified() => (all.is_ipv6() || address.is_ipv4()) && is_local(address),
        one => loopback(one) == address,
    }
}

/// Whether this machine has the address: only then it gives a socket there.
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
            // The operator's.
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

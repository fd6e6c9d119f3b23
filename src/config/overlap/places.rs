//! Compares servers by their addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs as _, UdpSocket};

use http::Uri;
use http::uri::Scheme;

/// The name that stands for this machine, for any of its addresses.
const HERE: &str = "localhost";

/// An address that no machine has (RFC 5737).
const NOBODYS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The location of files or of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// This machine's disk.
    Disk,
    /// A server.
    Server {
        /// The name or address, in normal form.
        host: String,
        /// The port. 80 and 443 count as one, because both lead to the same site.
        port: u16,
    },
}

impl Place {
    pub(super) fn of(server: &Uri) -> Self {
        let usual = match server.port_u16() {
            None | Some(80 | 443) => Some(80),
            Some(_) => None,
        };
        let is_web = matches!(server.scheme(), Some(scheme) if *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
        Self::Server {
            host: one_form(server.host().unwrap_or_default()),
            port: usual.filter(|_| is_web).or(server.port_u16()).unwrap_or(80),
        }
    }
}

/// Writes `localhost:3000`, or nothing for the disk, because file paths are absolute.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => Ok(()),
            Self::Server { host, port: 80 } => f.write_str(host),
            Self::Server { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

fn one_form(host: &str) -> String {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let bare = bare.trim_end_matches('.').to_ascii_lowercase();
    if bare == HERE || bare.ends_with(".localhost") {
        return HERE.to_owned();
    }
    match address(&bare) {
        Some(address) if is_here(address) => HERE.to_owned(),
        Some(address) => address.to_string(),
        None => bare,
    }
}

/// The address in `bare`, including short forms such as `127.1` that only the system's resolver
/// reads. Names are not resolved.
fn address(bare: &str) -> Option<IpAddr> {
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let is_number = |part: &str| {
        let hex = part.strip_prefix("0x");
        let mut digits = hex.unwrap_or(part).bytes();
        !part.is_empty()
            && digits
                .all(|byte| byte.is_ascii_digit() || (hex.is_some() && byte.is_ascii_hexdigit()))
    };
    if !bare.split('.').all(is_number) {
        return None;
    }
    let mut addresses = (bare, 0).to_socket_addrs().ok()?;
    addresses.next().map(|address| address.ip())
}

/// Whether the address belongs to this machine. Only such an address can be bound, unless the
/// system allows binding any address.
fn is_here(address: IpAddr) -> bool {
    let can_be_bound = |address: IpAddr| UdpSocket::bind((address, 0)).is_ok();
    address.is_loopback()
        || address.is_unspecified()
        || (can_be_bound(address) && !can_be_bound(NOBODYS.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(url: &str) -> Place {
        Place::of(&url.parse().unwrap())
    }

    #[test]
    fn addresses_of_one_server_are_the_same() {
        for same in [
            "http://LOCALHOST:3000",
            "http://localhost.:3000",
            "http://api.localhost:3000",
            "http://127.0.0.1:3000/",
            "http://127.0.0.2:3000",
            "http://127.1:3000",
            "http://2130706433:3000",
            "http://0x7f.1:3000",
            "http://0.0.0.0:3000",
            "http://[::1]:3000",
            "http://[::]:3000/base",
            "http://[::ffff:127.0.0.1]:3000",
            "https://localhost:3000",
        ] {
            assert_eq!(place("http://localhost:3000"), place(same), "{same}");
        }
        for same in [
            "http://example.org:80",
            "http://EXAMPLE.org.",
            "https://example.org",
            "https://example.org:443/a/",
        ] {
            assert_eq!(place("http://example.org"), place(same), "{same}");
        }
    }

    #[test]
    fn different_servers_are_not_the_same() {
        for other in [
            "http://localhost:3001",
            "http://localhost",
            "http://192.0.2.7:3000",
            "http://example.org:3000",
            "http://localhost.example.org:3000",
        ] {
            assert_ne!(place("http://localhost:3000"), place(other), "{other}");
        }
    }
}

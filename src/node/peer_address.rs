//! The id and the address of a Lightning node, as people write them.

use std::str::FromStr;

use bitcoin::secp256k1::PublicKey;
use ldk_node::lightning::ln::msgs::SocketAddress;

use super::channel_error::ChannelError;

/// The number of digits in a node id, a compressed public key in hex.
const NODE_ID_DIGITS: usize = 66;

/// The id of a node, and its address if known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node id.
    pub(super) node_id: PublicKey,
    /// The address on which the node listens.
    pub(super) address: Option<SocketAddress>,
}

impl FromStr for PeerAddress {
    type Err = ChannelError;

    /// Parses `ID@HOST:PORT`, or `ID` for a known peer.
    fn from_str(text: &str) -> Result<Self, ChannelError> {
        let not_a_peer = || ChannelError::NotAPeer(text.to_owned());
        let (node_id, address) = match text.trim().split_once('@') {
            Some((node_id, address)) => (node_id, Some(address)),
            None => (text.trim(), None),
        };
        let address = address.map(|text| socket_address(text).ok_or_else(not_a_peer));
        Ok(Self {
            node_id: self::node_id(node_id).ok_or_else(not_a_peer)?,
            address: address.transpose()?,
        })
    }
}

/// Parses a node id: 66 hex digits. The library accepts other forms of a key, which no other tool
/// shows.
pub fn node_id(text: &str) -> Option<PublicKey> {
    text.parse().ok().filter(|_| text.len() == NODE_ID_DIGITS)
}

/// Parses the address on which a node listens.
pub(super) fn socket_address(text: &str) -> Option<SocketAddress> {
    host_and_port(text)?;
    text.parse().ok()
}

/// Parses `host:port`, with a name, an IPv4 address, or an IPv6 address in brackets as the host.
/// All other code uses this parser.
pub fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
    let port: u16 = port.parse().ok().filter(|port| is_number && *port != 0)?;
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let is_good = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_host),
    };
    is_good.then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "034066e29e402d9cf55af1ae1026cc5adf92eed1e0e421785442f53717ad1453b0";

    #[test]
    fn a_host_and_a_port_are_both_there() {
        for (good, host, port) in [
            ("127.0.0.1:8332", "127.0.0.1", 8332),
            ("node.example:1", "node.example", 1),
            ("[::1]:8332", "[::1]", 8332),
        ] {
            assert_eq!(host_and_port(good), Some((host.to_owned(), port)));
        }
        for bad in [
            "",
            "a",
            "a:",
            ":1",
            "a:0",
            "a:+1",
            "a:65536",
            "a b:1",
            "http://a:1",
            "::1:1",
            "[a]:1",
            "[:1",
            "]:1",
        ] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_settings_and_the_operator_name_a_node_alike() {
        use super::super::liquidity::Provider;

        for (address, is_good) in [
            ("203.0.113.5:9735", true),
            ("[::1]:9735", true),
            ("node.example:9735", true),
            ("node.example:0", false),
            ("node.example", false),
            ("node.example:+9735", false),
            ("203.0.113.5: 9735", false),
            ("", false),
        ] {
            let named = format!("{ID}@{address}").parse::<PeerAddress>();
            assert_eq!(named.is_ok(), is_good, "{address}");
            assert_eq!(Provider::new("", ID, address).is_ok(), is_good, "{address}");
        }
        let uncompressed = format!("04{}", "ab".repeat(64));
        for id in ["", "02", &ID[1..], &uncompressed] {
            assert!(format!("{id}@a:1").parse::<PeerAddress>().is_err(), "{id}");
            assert!(Provider::new("", id, "a:1").is_err(), "{id}");
        }
    }
}

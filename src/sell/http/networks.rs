//! Lists of networks from the settings.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

/// A list of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// The reason why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// The text cannot be parsed.
    #[error(
        "`{0}` is no network: write an address or a CIDR, as in \"10.0.0.0/8\" or \"2001:db8::/32\""
    )]
    Unreadable(String),
    /// The address has bits beyond its prefix, so the text is ambiguous.
    #[error(
        "`{given}` has bits of an address behind its prefix: write \"{network}\", or the address alone"
    )]
    HostBits {
        /// The text from the settings.
        given: String,
        /// The network that contains the address.
        network: IpNet,
    },
}

impl Networks {
    /// Parses a list of networks.
    pub fn parse(list: &[impl AsRef<str>]) -> Result<Self, NetworkError> {
        list.iter()
            .map(|text| network(text.as_ref()))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether one of the networks contains this address. An IPv4 address written as IPv6 counts as
    /// IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&names.join(", "))
    }
}

fn network(text: &str) -> Result<IpNet, NetworkError> {
    let text = text.trim();
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network = IpNet::from_str(text).map_err(|_| NetworkError::Unreadable(text.to_owned()))?;
    if network.trunc() != network {
        return Err(NetworkError::HostBits {
            given: text.to_owned(),
            network: network.trunc(),
        });
    }
    Ok(canonical(network))
}

/// Converts a network of IPv4 addresses that is written as IPv6 to IPv4.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(inner) = network else {
        return network;
    };
    let mapped = inner.addr().to_ipv4_mapped();
    let prefix = inner.prefix_len().checked_sub(96);
    mapped
        .zip(prefix)
        .and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok())
        .map_or(network, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_a_network_however_it_is_written() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.0.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8::1", "2001:db9::1"),
            ("2001:db8::7", "2001:db8::7", "2001:db8::8"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::/0", "2001:db8::1", "203.0.113.9"),
        ] {
            let networks = Networks::parse(&[network]).unwrap();
            assert!(networks.contains(inside.parse().unwrap()), "{network}");
            assert!(!networks.contains(outside.parse().unwrap()), "{network}");
        }
        assert!(!Networks::default().contains("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for wrong in ["", "ten", "10.0.0.0/33", "10.0.0", "::/129", "10.0.0.0/8,"] {
            let error = Networks::parse(&[wrong]).unwrap_err();
            assert!(matches!(error, NetworkError::Unreadable(_)), "{wrong}");
        }
        let error = Networks::parse(&["10.0.0.1/8"]).unwrap_err();
        assert!(error.to_string().contains("\"10.0.0.0/8\""), "{error}");
    }
}

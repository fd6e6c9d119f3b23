//! The address of a server to ask: an `http` or `https` URL.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;

/// The URL of a server to ask. Its query may contain a secret key, so the URL is always shown
/// without the query.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Uri);

/// The reason why a text is not a usable URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The URL has no scheme, no host or an invalid port, or it contains a password.
    #[error("that is no http or https URL, as \"https://example.org/price\" is one")]
    NotWeb,
}

impl Address {
    /// Whether the traffic is safe from third parties: it is encrypted or never leaves this
    /// machine.
    pub fn is_private(&self) -> bool {
        self.0.scheme_str() == Some("https") || self.is_here()
    }

    /// Whether the host is this machine, judged only by the URL.
    pub(super) fn is_here(&self) -> bool {
        let host = self.0.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let bare = bare.trim_end_matches('.').to_ascii_lowercase();
        let is_local = bare == "localhost" || bare.ends_with(".localhost");
        bare.parse::<IpAddr>().map_or(is_local, |address| {
            // An unspecified address, such as 0.0.0.0, also leads to this machine.
            let address = address.to_canonical();
            address.is_loopback() || address.is_unspecified()
        })
    }

    /// The host and port in normal form.
    pub fn server(&self) -> String {
        let (host, port) = self.place();
        format!("{}:{port}", host.trim_end_matches('.').to_ascii_lowercase())
    }

    /// The host and port to connect to.
    pub fn place(&self) -> (&str, u16) {
        let host = self.0.host().unwrap_or_default();
        let usual = if self.0.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        (bare, self.0.port_u16().unwrap_or(usual))
    }

    /// The URL in the HTTP client's type.
    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri = text.parse::<Uri>().map_err(|_| AddressError::NotWeb)?;
        let authority = uri.authority().ok_or(AddressError::NotWeb)?;
        // The `http` crate accepts any digits as a port, or none, and then uses the scheme's
        // default port.
        let has_good_port = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => true,
            Some(rest) => rest
                .strip_prefix(':')
                .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0)),
            // The authority contains a password.
            None => false,
        };
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_web || authority.host().is_empty() || !has_good_port || text.contains('#') {
            return Err(AddressError::NotWeb);
        }
        Ok(Self(uri))
    }
}

/// Shows the URL without its query.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.scheme_str().unwrap_or_default();
        let authority = self
            .0
            .authority()
            .map_or("", |authority| authority.as_str());
        write!(f, "{scheme}://{authority}{}", self.0.path())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_asked_is_an_address() {
        for good in [
            "http://127.0.0.1:1/a?b=c",
            "https://example.org",
            "http://[::1]:8/",
        ] {
            assert!(good.parse::<Address>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "/price",
            "ftp://example.org",
            "http://example.org:0",
            "http://example.org:",
            "http://a:b@example.org",
            "http://example.org/#a",
        ] {
            assert_eq!(bad.parse::<Address>(), Err(AddressError::NotWeb), "{bad}");
        }
    }

    #[test]
    fn a_key_in_the_query_is_never_shown() {
        let address: Address = "https://example.org:444/price?key=secret".parse().unwrap();
        assert_eq!(address.to_string(), "https://example.org:444/price");
        assert_eq!(format!("{address:?}"), "https://example.org:444/price");
    }

    #[test]
    fn private_is_what_is_encrypted_or_stays_here() {
        for (text, is_private) in [
            ("https://example.org", true),
            ("http://127.0.0.1:1", true),
            ("http://127.8.0.1", true),
            ("http://[::1]:8/", true),
            ("http://localhost/", true),
            ("http://example.org", false),
            ("http://localhost.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(
                text.parse::<Address>().unwrap().is_private(),
                is_private,
                "{text}"
            );
        }
    }
}

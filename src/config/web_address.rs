//! The check of HTTP server addresses in the settings.

use crate::sell::quote::Address;

/// Whether the text is an HTTP URL with a scheme and a host, an optional port and path, and nothing
/// else.
pub(super) fn is_web_address(text: &str) -> bool {
    text.parse::<Address>().is_ok() && !text.contains('?')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_port_and_nothing_follows_the_path() {
        for good in [
            "http://127.0.0.1:3000",
            "http://[::1]:3000/base",
            "https://example.org",
            "https://example.org/api/",
        ] {
            assert!(is_web_address(good), "{good}");
        }
        for bad in [
            "",
            "example.org",
            "ftp://example.org",
            "http://",
            "http://example.org:",
            "http://example.org:0",
            "http://example.org:300O",
            "http://example.org:30000000",
            "http://user:password@example.org",
            "http://example.org/?a",
            "http://example.org/#a",
        ] {
            assert!(!is_web_address(bad), "{bad}");
        }
    }
}

//! The description of a request that the hook receives.

use std::collections::BTreeMap;

use http::header::HeaderName;
use http::{HeaderMap, Method};
use serde::Serialize;

use crate::protocol::l402::credential;

/// The request that needs a price.
#[derive(Clone, Copy, Debug)]
pub struct HookRequest<'a> {
    /// The method of the request.
    pub method: &'a Method,
    /// The normalised path.
    pub path: &'a str,
    /// The query, without the question mark.
    pub query: Option<&'a str>,
    /// All headers of the request. The hook receives only the headers named in its settings.
    pub headers: &'a HeaderMap,
    /// The name of the requested service.
    pub service: &'a str,
    /// The route that matches the request.
    pub route: &'a str,
}

#[derive(Debug, Serialize)]
struct Question<'a> {
    method: &'a str,
    path: &'a str,
    query: Option<&'a str>,
    /// The headers by name; several lines of one header are joined, as in RFC 9110. They are
    /// sorted, so that equal questions have equal text.
    headers: BTreeMap<&'a str, String>,
    service: &'a str,
    route: &'a str,
}

impl HookRequest<'_> {
    /// Returns the JSON text for the hook. It never contains a Tollhouse credential: a price
    /// request needs none, and the same request must have the same price before and after payment.
    pub(super) fn as_json(&self, chosen: &[HeaderName]) -> Vec<u8> {
        let mut headers = HeaderMap::with_capacity(chosen.len());
        for name in chosen {
            for value in self.headers.get_all(name) {
                headers.append(name, value.clone());
            }
        }
        credential::strip(&mut headers);
        let line = |name: &HeaderName| {
            let values = headers.get_all(name).iter();
            let values: Vec<_> = values
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            values.join(", ")
        };
        let question = Question {
            method: self.method.as_str(),
            path: self.path,
            query: self.query,
            headers: headers
                .keys()
                .map(|name| (name.as_str(), line(name)))
                .collect(),
            service: self.service,
            route: self.route,
        };
        serde_json::to_vec(&question).expect("text and maps of text can be written as JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_hook_is_told_the_chosen_headers_and_never_a_credential() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("accept", "text/plain"),
            ("accept", "text/html"),
            ("cookie", "not chosen"),
            ("authorization", "L402 AgEE:00"),
            ("authorization", "Basic dXNlcjpwYXNz"),
            ("macaroon", "00"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("x-bytes", HeaderValue::from_bytes(b"\xff").unwrap());
        let request = HookRequest {
            method: &Method::GET,
            path: "/a",
            query: None,
            headers: &headers,
            service: "s",
            route: "/*",
        };
        let chosen = ["x-bytes", "accept", "authorization", "macaroon", "x-none"];
        let chosen = chosen.map(HeaderName::from_static);
        let sent: serde_json::Value = serde_json::from_slice(&request.as_json(&chosen)).unwrap();
        let expected = serde_json::json!({
            "method": "GET", "path": "/a", "query": null, "service": "s", "route": "/*",
            "headers": {
                "accept": "text/plain, text/html",
                "authorization": "Basic dXNlcjpwYXNz",
                "x-bytes": "\u{fffd}",
            },
        });
        assert_eq!(sent, expected);
    }
}

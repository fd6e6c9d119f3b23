//! The upstream of a route and the settings for requests forwarded to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::base::error_chain::chain;
use crate::base::{secret_file, span};
use crate::sell::resource;
use crate::sell::route::{
    CONNECT_TIMEOUT, CONNECTION_AGE_MAX, Forward, HeaderEdits, Health, Protocol, RequestPath,
    Upstream,
};

use super::meaning::Meaning;
use super::raw::{RawFile, RawHeaders, RawHealth, RawRoute, RawUpstream, TextOr};
use super::web_address::is_web_address;

/// The most servers of one upstream, which is more than people list by hand.
const SERVERS_MAX: usize = 32;

/// The default time between two health checks of a server.
const HEALTH_EVERY: Duration = Duration::from_secs(10);

/// The most header names in one list of edits.
const EDITS_MAX: usize = 64;

/// The default protocol that a connection may switch to.
const UPGRADES: &str = "websocket";

/// The message whose headers are edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

impl Meaning<'_> {
    /// Reads the upstream of a route. Returns `None` after reporting a mistake in it.
    pub(super) fn forward(
        &mut self,
        key: &str,
        raw: &RawRoute,
        upstream: &TextOr<RawUpstream>,
    ) -> Option<Forward> {
        let before = self.complaints.len();
        let upstream = match upstream {
            TextOr::Text(url) => {
                let server = self.server(&format!("{key}.upstream"), url);
                server.map(|server| Upstream::of(vec![server]))
            }
            TextOr::Table(raw) => self.upstream(&format!("{key}.upstream"), raw),
        };
        let add_prefix = self.add_prefix(&format!("{key}.add_prefix"), raw.add_prefix.as_deref());
        let edits = |meaning: &mut Self, name, raw: &Option<RawHeaders>, side| {
            raw.as_ref().map_or_else(HeaderEdits::default, |raw| {
                meaning.edits(&format!("{key}.{name}"), raw, side)
            })
        };
        let request_headers = edits(self, "request_headers", &raw.request_headers, Side::Request);
        let response_headers = edits(
            self,
            "response_headers",
            &raw.response_headers,
            Side::Response,
        );
        let pass_slashes = self.pass_slashes(
            &format!("{key}.encoded_slashes"),
            raw.encoded_slashes.as_deref(),
        );
        let protocol = upstream.as_ref().map(|upstream| upstream.protocol);
        let upgrades = self.upgrades(&format!("{key}.upgrades"), raw, protocol);
        let keeps_redirects =
            self.keeps_redirects(&format!("{key}.redirects"), raw.redirects.as_deref());
        let sets_host = request_headers
            .set
            .iter()
            .any(|(name, _)| *name == header::HOST);
        if sets_host && protocol == Some(Protocol::Http2) {
            self.complain(
                &format!("{key}.request_headers.set.host"),
                "HTTP/2 names the host of the URL: leave it out",
            );
        }
        let upstream = Arc::new(upstream?);
        (self.complaints.len() == before).then(|| Forward {
            upstream,
            strip_prefix: raw.strip_prefix.unwrap_or(false),
            add_prefix,
            pass_slashes,
            request_headers,
            response_headers,
            forward_credential: raw.forward_credential.unwrap_or(false),
            upgrades,
            keeps_redirects,
        })
    }

    /// Reports keys that only make sense for a route with an upstream. Returns `None` if there are
    /// any.
    pub(super) fn nothing_forwarded(&mut self, key: &str, raw: &RawRoute) -> Option<()> {
        let given = [
            ("add_prefix", raw.add_prefix.is_some()),
            ("encoded_slashes", raw.encoded_slashes.is_some()),
            ("request_headers", raw.request_headers.is_some()),
            ("response_headers", raw.response_headers.is_some()),
            ("forward_credential", raw.forward_credential.is_some()),
            ("upgrades", raw.upgrades.is_some()),
            ("redirects", raw.redirects.is_some()),
        ];
        let Some((name, _)) = given.into_iter().find(|(_, is_given)| *is_given) else {
            return Some(());
        };
        self.complain(
            &format!("{key}.{name}"),
            "a route of `files` forwards nothing: leave this key out",
        );
        None
    }

    fn upstream(&mut self, key: &str, raw: &RawUpstream) -> Option<Upstream> {
        let urls: &[String] = match (&raw.url, &raw.urls) {
            (Some(url), None) => std::slice::from_ref(url),
            (None, Some(urls)) => urls,
            (None, None) | (Some(_), Some(_)) => {
                self.complain(
                    key,
                    "give `url = \"http://127.0.0.1:3000\"`, or several that do the same as `urls = [\"…\", \"…\"]`",
                );
                return None;
            }
        };
        let key_of_urls = match &raw.url {
            Some(_) => format!("{key}.url"),
            None => format!("{key}.urls"),
        };
        if urls.is_empty() || urls.len() > SERVERS_MAX {
            self.complain(&key_of_urls, format!("1 to {SERVERS_MAX} of them"));
            return None;
        }
        let mut servers = Vec::with_capacity(urls.len());
        for (number, url) in (1..).zip(urls) {
            let key = match &raw.url {
                Some(_) => key_of_urls.clone(),
                None => format!("{key_of_urls}[{number}]"),
            };
            let server = self.server(&key, url)?;
            if servers.contains(&server) {
                self.complain(&key, format!("{url} is there twice"));
                return None;
            }
            servers.push(server);
        }
        let protocol = match raw.protocol.as_deref() {
            None | Some("http1") => Protocol::Http1,
            Some("http2") => Protocol::Http2,
            Some(other) => {
                self.complain(
                    &format!("{key}.protocol"),
                    format!(
                        "`{other}` is no protocol; there are http1 and http2 (which gRPC wants)"
                    ),
                );
                Protocol::Http1
            }
        };
        let before = self.complaints.len();
        let upstream = Upstream {
            protocol,
            connect_timeout: self
                .span_of(key, "connect_timeout", raw.connect_timeout.as_deref())
                .unwrap_or(CONNECT_TIMEOUT),
            first_byte_timeout: self.span_of(
                key,
                "first_byte_timeout",
                raw.first_byte_timeout.as_deref(),
            ),
            idle_timeout: self.span_of(key, "idle_timeout", raw.idle_timeout.as_deref()),
            connection_age_max: self
                .span_of(key, "connection_age_max", raw.connection_age_max.as_deref())
                .unwrap_or(CONNECTION_AGE_MAX),
            authorities: self.authorities(key, raw.ca.as_deref(), &servers),
            health: raw
                .health
                .as_ref()
                .map(|raw| self.health(&format!("{key}.health"), raw)),
            servers,
        };
        (self.complaints.len() == before).then_some(upstream)
    }

    fn server(&mut self, key: &str, text: &str) -> Option<http::Uri> {
        match text.trim_end_matches('/').parse() {
            Ok(server) if is_web_address(text) => Some(server),
            _ => {
                self.complain(
                    key,
                    format!("`{text}` is no URL of a server: write \"http://127.0.0.1:3000\""),
                );
                None
            }
        }
    }

    fn span_of(&mut self, key: &str, name: &str, text: Option<&str>) -> Option<Duration> {
        span::parse(text?)
            .map_err(|what| self.complain(&format!("{key}.{name}"), what))
            .ok()
    }

    /// Reads the certificates in this file, which replace the public authorities.
    fn authorities(
        &mut self,
        key: &str,
        file: Option<&str>,
        servers: &[http::Uri],
    ) -> Vec<Vec<u8>> {
        let Some(file) = file else {
            return Vec::new();
        };
        let key = format!("{key}.ca");
        if servers
            .iter()
            .all(|server| server.scheme_str() == Some("http"))
        {
            self.complain(
                &key,
                "only https has certificates: write https:// in the URL, or leave this key out",
            );
        }
        let path = self.folder.join(file);
        let read = std::fs::read(&path).map_err(|error| error.to_string());
        let read = read.and_then(|pem| resource::certificates(&pem));
        read.unwrap_or_else(|what| {
            let shown = path.display();
            self.complain(
                &key,
                format!("{shown} is no PEM file with the certificates of an authority: {what}"),
            );
            Vec::new()
        })
    }

    fn health(&mut self, key: &str, raw: &RawHealth) -> Health {
        let is_path = raw.path.starts_with('/') && raw.path.parse::<PathAndQuery>().is_ok();
        if !is_path {
            self.complain(
                &format!("{key}.path"),
                format!("`{}` is no path: write \"/health\"", raw.path),
            );
        }
        Health {
            path: raw.path.clone(),
            every: self
                .span_of(key, "every", raw.every.as_deref())
                .unwrap_or(HEALTH_EVERY),
        }
    }

    fn keeps_redirects(&mut self, key: &str, text: Option<&str>) -> bool {
        match text {
            None | Some("rewrite") => false,
            Some("keep") => true,
            Some(other) => {
                self.complain(
                    key,
                    format!("`{other}` is neither \"rewrite\" nor \"keep\""),
                );
                false
            }
        }
    }

    fn add_prefix(&mut self, key: &str, text: Option<&str>) -> String {
        let Some(text) = text else {
            return String::new();
        };
        let is_plain = RequestPath::parse(text).is_ok_and(|path| path.wire() == text);
        if !is_plain || text.ends_with('/') {
            self.complain(
                key,
                format!("`{text}` is no prefix of a path: write \"/v2\", with a slash before and none behind"),
            );
        }
        text.to_owned()
    }

    /// Whether the route forwards doubled and encoded slashes.
    fn pass_slashes(&mut self, key: &str, text: Option<&str>) -> bool {
        match text {
            None | Some("refuse") => false,
            Some("pass") => true,
            Some(other) => {
                self.complain(key, format!("`{other}` is neither \"refuse\" nor \"pass\""));
                false
            }
        }
    }

    fn edits(&mut self, key: &str, raw: &RawHeaders, side: Side) -> HeaderEdits {
        if raw.set.len() + raw.remove.len() > EDITS_MAX {
            self.complain(key, format!("at most {EDITS_MAX} headers"));
        }
        let mut edits = HeaderEdits::default();
        for (number, name) in (1..).zip(&raw.remove) {
            edits
                .remove
                .extend(self.edited(&format!("{key}.remove[{number}]"), name));
        }
        for (name, value) in &raw.set {
            let key = format!("{key}.set.{name}");
            let name = self.edited(&key, name).filter(|name| {
                let what = if resource::is_ours(name) {
                    "we say there what we know, and nobody else can"
                } else if *name == header::HOST && side == Side::Response {
                    "an answer has none"
                } else {
                    return true;
                };
                self.complain(&key, format!("`{name}` is not to be set: {what}"));
                false
            });
            let value = match value {
                TextOr::Text(text) => HeaderValue::from_str(text)
                    .map_err(|_| self.complain(&key, "a header's value is one line of text"))
                    .ok(),
                TextOr::Table(RawFile { file }) => {
                    let file = self.secret(&key, file);
                    self.secret_value(&key, &file)
                }
            };
            edits.set.extend(name.zip(value));
        }
        edits
    }

    /// Reads the name of a header that may be edited.
    fn edited(&mut self, key: &str, text: &str) -> Option<HeaderName> {
        let Ok(name) = HeaderName::try_from(text) else {
            self.complain(key, format!("`{text}` is no header's name"));
            return None;
        };
        if resource::is_framing(&name) {
            self.complain(
                key,
                format!(
                    "`{name}` is not to be edited: it speaks of one connection, or frames the body"
                ),
            );
            return None;
        }
        Some(name)
    }

    /// Reads a secret header value, such as an upstream's key.
    fn secret_value(&mut self, key: &str, file: &Path) -> Option<HeaderValue> {
        let line = match secret_file::handed_over_line(file) {
            Ok(line) => line,
            Err(error) => {
                self.complain(key, chain(&error));
                return None;
            }
        };
        let Ok(mut value) = HeaderValue::from_str(&line) else {
            // The content of the file is not shown.
            self.complain(
                key,
                format!("{} holds no header value: one line of text", file.display()),
            );
            return None;
        };
        // Sensitive values are neither printed nor put into HTTP/2's table of headers.
        value.set_sensitive(true);
        Some(value)
    }

    /// The protocols that a connection may switch to. Protocols that carry HTTP are refused,
    /// because their requests would bypass the gate.
    fn upgrades(&mut self, key: &str, raw: &RawRoute, protocol: Option<Protocol>) -> Vec<String> {
        let Some(names) = &raw.upgrades else {
            return vec![UPGRADES.to_owned()];
        };
        if !names.is_empty() && protocol == Some(Protocol::Http2) {
            self.complain(
                key,
                "a connection is switched in HTTP/1.1 only: write [], or protocol = \"http1\"",
            );
        }
        let mut upgrades = Vec::with_capacity(names.len());
        for name in names {
            let name = name.to_ascii_lowercase();
            let is_name = HeaderName::try_from(name.as_str()).is_ok();
            let is_http = ["h2c", "h2", "http", "tls"].contains(&name.as_str());
            if !is_name || is_http {
                self.complain(
                    key,
                    format!("`{name}` is not to be switched to: write \"websocket\" or another protocol that is not HTTP"),
                );
            }
            upgrades.push(name);
        }
        upgrades
    }
}

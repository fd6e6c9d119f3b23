//! Rewrites headers of an answer that name the upstream, so that they name the route instead.
//!
//! Follows nginx with `proxy_redirect default` (`Location` and `Refresh`), `proxy_cookie_path` and
//! `proxy_cookie_domain`, with two differences. Bare paths are rewritten as well as whole URLs,
//! because most servers redirect by path today. The result is a path without a host, because
//! clients resolve it against the host that they asked.

use std::borrow::Cow;

use http::StatusCode;
use http::header::{
    CONTENT_LOCATION, Entry, HOST, HeaderMap, HeaderName, HeaderValue, LINK, LOCATION, REFRESH,
    SET_COOKIE,
};

use crate::sell::route::Forward;

use super::servers::{Server, Servers};

/// The prefix of cookie names that browsers accept only with `Path=/` and without a domain (RFC
/// 6265bis, section 4.1.3.2).
const HOST_COOKIE: &str = "__Host-";

/// A function that rewrites a header value. It returns `None` if the value stays unchanged.
type Rewrite<'n> = fn(&Names<'n>, &str) -> Option<String>;

/// The names that are rewritten in one answer.
#[derive(Clone, Copy)]
pub(super) struct Names<'a> {
    /// The forwarding settings of the route.
    pub(super) forward: &'a Forward,
    /// All servers of the upstream.
    pub(super) servers: &'a Servers,
    /// The server that answered.
    pub(super) server: &'a Server,
    /// The prefix that was removed from the path; empty if none was.
    pub(super) prefix: &'a str,
    /// The `Host` value of the client's request, if any.
    pub(super) host: Option<&'a HeaderValue>,
    /// The requested path, without the prefix.
    pub(super) asked: &'a str,
}

/// A parsed URL reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reference<'a> {
    /// Host and port, if the reference has them.
    place: Option<(&'a str, Option<u16>)>,
    /// The path: empty, or beginning with a slash.
    path: &'a str,
    /// Query and fragment, with their `?` or `#`.
    rest: &'a str,
}

impl<'a> Reference<'a> {
    /// Parses a URL reference. Returns `None` for a relative path, another scheme, or text that
    /// cannot be parsed.
    fn of(text: &'a str) -> Option<Self> {
        let after = |scheme: &str| {
            let begin = text.get(..scheme.len())?;
            begin
                .eq_ignore_ascii_case(scheme)
                .then(|| &text[scheme.len()..])
        };
        let (place, tail) = match after("http://").or(after("https://")).or(after("//")) {
            None if text.starts_with('/') => (None, text),
            None => return None,
            Some(rest) => {
                let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
                (Some(place(&rest[..end])?), &rest[end..])
            }
        };
        Some(Self {
            place,
            ..Self::on_server(tail)
        })
    }

    /// Parses a path with query and fragment, even if it begins with two slashes.
    fn on_server(text: &'a str) -> Self {
        let end = text.find(['?', '#']).unwrap_or(text.len());
        Self {
            place: None,
            path: &text[..end],
            rest: &text[end..],
        }
    }
}

/// Splits an authority into host and port. Returns `None` if it contains anything else.
fn place(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse().ok()?)),
        Some(_) | None => (authority, None),
    };
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    (!host.is_empty() && !host.contains('@')).then_some((bare.unwrap_or(host), port))
}

impl<'n> Names<'n> {
    /// Rewrites the headers that name the upstream.
    pub(super) fn publish(&self, headers: &mut HeaderMap) {
        if self.forward.keeps_redirects {
            return;
        }
        let rewrites: [(HeaderName, Rewrite<'n>); 5] = [
            (LOCATION, Self::reference),
            (CONTENT_LOCATION, Self::reference),
            (REFRESH, Self::refresh),
            (LINK, Self::link),
            (SET_COOKIE, Self::cookie),
        ];
        for (name, rewrite) in rewrites {
            // `entry` would allocate for an absent header.
            if !headers.contains_key(&name) {
                continue;
            }
            let Entry::Occupied(mut lines) = headers.entry(name) else {
                continue;
            };
            for line in lines.iter_mut() {
                let text = std::str::from_utf8(line.as_bytes()).ok();
                let rewritten = text.and_then(|text| rewrite(self, text));
                if let Some(Ok(value)) = rewritten.map(HeaderValue::try_from) {
                    *line = value;
                }
            }
        }
    }

    /// Rewrites a URL or path. Returns `None` if the text stays unchanged.
    fn reference(&self, text: &str) -> Option<String> {
        // If the requested path began with two slashes (`encoded_slashes`), an upstream's redirect
        // repeats that path and does not name a host.
        let text = text.trim();
        let reference = if self.asked.starts_with("//") && text.starts_with(self.asked) {
            Reference::on_server(text)
        } else {
            Reference::of(text)?
        };
        let server = match reference.place {
            None => self.server,
            Some(place) => self.named(place)?,
        };
        let path = self.path(reference.path, server)?;
        // A path that begins with two slashes would name another host.
        let dot = if path[1..].starts_with(['/', '\\']) {
            "/."
        } else {
            ""
        };
        let new = format!("{dot}{path}{}", reference.rest);
        (new != text).then_some(new)
    }

    /// Returns the server at this place: a server of the upstream, or the one that answered if the
    /// place is the requested host.
    fn named(&self, place: (&str, Option<u16>)) -> Option<&'n Server> {
        let by_client = || {
            let names_us = self.host.is_some_and(|host| is_place(host, place));
            names_us.then_some(self.server)
        };
        self.named_by_settings(place).or_else(by_client)
    }

    /// Does the same, but only with names from the settings, because a client can choose any
    /// `Host`.
    fn named_by_settings(&self, (host, port): (&str, Option<u16>)) -> Option<&'n Server> {
        let is_at = |server: &&std::sync::Arc<Server>| {
            let (own_host, own_port) = server.place();
            let is_usual = port.is_none() && [80, 443].contains(&own_port);
            host.eq_ignore_ascii_case(own_host) && (is_usual || port == Some(own_port))
        };
        if let Some(server) = self.servers.list.iter().find(is_at) {
            return Some(server);
        }
        let set = &self.forward.request_headers.set;
        let told = set
            .iter()
            .find(|(name, _)| *name == HOST)
            .map(|(_, value)| value);
        let is_told = told.is_some_and(|value| is_place(value, (host, port)));
        is_told.then_some(self.server)
    }

    /// Whether an answer only redirects the client to another path of the shop. Must be called
    /// before the names are rewritten.
    pub(super) fn sends_on(&self, is_read: bool, status: StatusCode, headers: &HeaderMap) -> bool {
        let is_ours = |place: (&str, Option<u16>)| self.named_by_settings(place).is_some();
        sends_on(is_read, status, headers, is_ours)
    }

    /// Returns the public path of a path on this server, or `None` if the route does not reach that
    /// path.
    fn path<'p>(&self, path: &'p str, server: &Server) -> Option<Cow<'p, str>> {
        let path = if path.is_empty() { "/" } else { path };
        let inner = (server.base_path(), self.forward.add_prefix.as_str());
        let rest = below(path, inner.0).and_then(|rest| below(rest, inner.1));
        let inner_bytes = inner.0.len() + inner.1.len();
        let is_public = !self.prefix.is_empty() && below(path, self.prefix).is_some();
        match rest {
            // The path may be public already, because some servers use `X-Forwarded-Prefix` or a
            // setting. The longer match decides.
            _ if is_public && (rest.is_none() || self.prefix.len() >= inner_bytes) => {
                Some(path.into())
            }
            Some(rest) if self.prefix.is_empty() && rest.is_empty() => Some("/".into()),
            Some(rest) if self.prefix.is_empty() => Some(rest.into()),
            Some(rest) => Some(format!("{}{rest}", self.prefix).into()),
            None => None,
        }
    }

    /// Rewrites a `Refresh` value such as `5; url=/path`, parsed as browsers do.
    fn refresh(&self, text: &str) -> Option<String> {
        let separator = text.find([';', ','])?;
        let after = text[separator + 1..].trim_start();
        let named = after
            .get(..3)
            .filter(|name| name.eq_ignore_ascii_case("url"));
        let target = after[named?.len()..].trim_start().strip_prefix('=')?;
        let target = target.trim_start();
        let quote = target.chars().next().filter(|it| ['"', '\''].contains(it));
        let target = match quote {
            None => target,
            Some(quote) => target[1..].split(quote).next().unwrap_or_default(),
        };
        let new = self.reference(target)?;
        let quote = quote.map(String::from).unwrap_or_default();
        Some(format!("{}url={quote}{new}{quote}", &text[..=separator]))
    }

    /// Rewrites a `Link` value such as `</path>; rel=next, <…>; title="…"` (RFC 8288).
    fn link(&self, text: &str) -> Option<String> {
        let mut new = String::with_capacity(text.len());
        let (mut rest, mut is_quoted, mut has_changed) = (text, false, false);
        while let Some(at) = rest.find(['<', '"', '\\']) {
            let (before, from) = rest.split_at(at);
            new.push_str(before);
            let target = from[1..]
                .split('>')
                .next()
                .filter(|it| it.len() + 1 < from.len());
            match (from.as_bytes()[0], target) {
                (b'<', Some(target)) if !is_quoted => {
                    let rewritten = self.reference(target);
                    has_changed |= rewritten.is_some();
                    new.push('<');
                    new.push_str(rewritten.as_deref().unwrap_or(target));
                    rest = &from[1 + target.len()..];
                    continue;
                }
                (b'"', _) => is_quoted = !is_quoted,
                _ => {}
            }
            // Within quotes, a backslash escapes the next character.
            let is_escape = is_quoted && from.starts_with('\\');
            let taken = from.chars().take(1 + usize::from(is_escape));
            let bytes = taken.map(char::len_utf8).sum();
            new.push_str(&from[..bytes]);
            rest = &from[bytes..];
        }
        new.push_str(rest);
        has_changed.then_some(new)
    }

    /// Rewrites a `Set-Cookie` value such as `name=value; Path=/; Domain=upstream`.
    fn cookie(&self, text: &str) -> Option<String> {
        let (pair, attributes) = text.split_once(';')?;
        if pair.trim_start().starts_with(HOST_COOKIE) {
            return None;
        }
        let mut new = pair.to_owned();
        let mut has_changed = false;
        for attribute in attributes.split(';') {
            let (name, value) = attribute.split_once('=').unwrap_or((attribute, ""));
            let (name, value) = (name.trim(), value.trim());
            if name.eq_ignore_ascii_case("domain") && self.is_upstreams_domain(value) {
                // Without `Domain`, the cookie belongs only to the host that the client requested.
                has_changed = true;
                continue;
            }
            new.push(';');
            let path = name
                .eq_ignore_ascii_case("path")
                .then(|| self.cookie_path(value))
                .flatten();
            match path.filter(|path| path != value) {
                Some(path) => {
                    has_changed = true;
                    new.push_str(" Path=");
                    new.push_str(&path);
                }
                None => new.push_str(attribute),
            }
        }
        has_changed.then_some(new)
    }

    /// Returns the public path for a cookie with this path, or `None` if the path stays unchanged.
    fn cookie_path(&self, path: &str) -> Option<String> {
        if !path.starts_with('/') {
            return None;
        }
        if let Some(public) = self.path(path, self.server) {
            if public == path {
                return None;
            }
            // The final slash is removed, because the route also serves the bare prefix.
            let is_root = public.strip_suffix('/') == Some(self.prefix);
            return Some(if is_root && !self.prefix.is_empty() {
                self.prefix.to_owned()
            } else {
                public.into_owned()
            });
        }
        // A cookie for the whole server becomes one for the whole route.
        let inner = format!("{}{}", self.server.base_path(), self.forward.add_prefix);
        let covers_all = below(&inner, path.trim_end_matches('/')).is_some();
        let all = if self.prefix.is_empty() {
            "/"
        } else {
            self.prefix
        };
        covers_all.then(|| all.to_owned())
    }

    /// Whether this domain is the upstream's and not one of the requested host. A browser would
    /// reject such a cookie.
    fn is_upstreams_domain(&self, domain: &str) -> bool {
        let domain = domain.strip_prefix('.').unwrap_or(domain);
        let is_of = |host: &str| {
            let begin = host.len().checked_sub(domain.len());
            let end = begin.and_then(|begin| host.get(begin..));
            let is_end = end.is_some_and(|end| end.eq_ignore_ascii_case(domain));
            let before = begin.map(|begin| &host[..begin]);
            is_end && before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let set = &self.forward.request_headers.set;
        let told = set.iter().filter(|(name, _)| *name == HOST);
        let told = told.filter_map(|(_, value)| Some(place(value.to_str().ok()?)?.0));
        let servers = self.servers.list.iter().map(|server| server.place().0);
        let ours = self.host.and_then(|host| place(host.to_str().ok()?));
        servers.chain(told).any(is_of) && !ours.is_some_and(|(host, _)| is_of(host))
    }
}

/// Returns the rest of a path after this prefix, if the prefix ends at a segment boundary. The
/// prefix has no final slash; the rest is empty or begins with a slash.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether this `Host` value names that place.
fn is_place(value: &HeaderValue, (host, port): (&str, Option<u16>)) -> bool {
    let Some((own_host, own_port)) = value.to_str().ok().and_then(place) else {
        return false;
    };
    let is_usual = |port: Option<u16>| matches!(port, None | Some(80 | 443));
    let is_port = port == own_port || (is_usual(port) && is_usual(own_port));
    own_host.eq_ignore_ascii_case(host) && is_port
}

/// Whether an answer only redirects to another path of the shop, where `is_ours` recognises the
/// shop's hosts. After a 301, 302 or 303 to a request that changes something (`is_read` is false),
/// the upstream has done the work (RFC 9110, section 15.4).
pub(super) fn sends_on(
    is_read: bool,
    status: StatusCode,
    headers: &HeaderMap,
    is_ours: impl Fn((&str, Option<u16>)) -> bool,
) -> bool {
    let is_undone = match status.as_u16() {
        301..=303 => is_read,
        307 | 308 => true,
        _ => false,
    };
    let location = headers.get(LOCATION).filter(|_| is_undone);
    let Some(Ok(location)) = location.map(|it| std::str::from_utf8(it.as_bytes())) else {
        return false;
    };
    let location = location.trim();
    match Reference::of(location) {
        Some(Reference {
            place: Some(place), ..
        }) => is_ours(place),
        // Browsers read backslashes as slashes, and the text after two slashes as a host.
        Some(_) => !location[1..].starts_with(['/', '\\']),
        // This is a relative path, unless it begins with a scheme or an unreadable host.
        None => {
            let first = location.split(['/', '?', '#']).next().unwrap_or_default();
            !location.starts_with(['/', '\\']) && !first.contains(':')
        }
    }
}

#[cfg(test)]
mod tests;

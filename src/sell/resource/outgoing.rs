//! A request to an upstream, in a form that suits all of its servers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderValue, TE,
    TRANSFER_ENCODING, VIA,
};
use http::{Method, Request, Response, Uri, Version};
use http_body_util::Limited;
use hyper_util::client::legacy;
use tokio::sync::watch;

use crate::base::via::{self, Via};
use crate::protocol::l402::credential;
use crate::sell::gate::Permit;
use crate::sell::route::{Forward, Offer, Protocol};

use super::body::{Talk, Terms, Unread, Upload, Uploaded, empty};
use super::client::cause;
use super::downstream::{Body, Downstream};
use super::headers::{names, remove_claims, remove_hop_by_hop, set_forwarded, set_paid};
use super::names::Names;
use super::servers::{Server, Servers};
use super::tunnel::Switch;

/// The only `TE` value that is sent. It is always our own value, because this program forwards
/// trailers.
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// The type of a body without `Content-Type` (RFC 9110, section 8.3).
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// The idempotent methods (RFC 9110, section 9.2.2).
const IDEMPOTENT: [Method; 5] = [
    Method::GET,
    Method::HEAD,
    Method::OPTIONS,
    Method::PUT,
    Method::DELETE,
];

/// A request that can be sent to any server of the upstream.
pub(super) struct Outgoing<'a> {
    /// The forwarding settings of the route.
    pub(super) forward: &'a Arc<Forward>,
    /// Whether trailers are forwarded. They are not if a header sets the price, because a trailer
    /// could contradict that header.
    with_trailers: bool,
    /// The normalised path, beginning with a slash.
    path: &'a str,
    /// The prefix that was removed from the path.
    prefix: &'a str,
    /// The `Host` value of the client's request.
    host: Option<HeaderValue>,
    /// The head of the request, copied for each attempt and taken by the last one.
    head: Option<http::request::Parts>,
    /// The body, taken by an attempt and returned if the attempt did not read it.
    body: Option<Body>,
    /// The place where an attempt returns an unread body; `None` if no other server can be tried.
    unread: Option<Unread>,
    /// The state of a two-way call over HTTP/2.
    talk: Option<Talk>,
    /// Whether the request has no body.
    is_empty: bool,
    /// Whether sending the request twice has the same effect as once (RFC 9110, section 9.2.2).
    pub(super) is_repeatable: bool,
    /// Whether the request only reads (GET or HEAD).
    is_read: bool,
    /// The protocol switch that the client asks for.
    pub(super) switch: Option<Switch>,
}

impl<'a> Outgoing<'a> {
    /// Takes the client's request and removes the headers of its connection.
    pub(super) fn new(
        forward: &'a Arc<Forward>,
        (path, prefix): (&'a str, &'a str),
        downstream: Downstream,
        request: Request<Body>,
        body_bytes_max: usize,
    ) -> Self {
        let (mut head, body) = request.into_parts();
        let is_empty = http_body::Body::is_end_stream(&body);
        let switch = Switch::of(&mut head, &forward.upgrades).filter(|_| is_empty);
        head.extensions = http::Extensions::new();
        let headers = &mut head.headers;
        let host = headers.remove(HOST);
        let wants_trailers = headers.contains_key(TE) && names(headers, &TE, "trailers");
        remove_hop_by_hop(headers);
        // Our server has already answered `Expect`.
        headers.remove(EXPECT);
        if !forward.forward_credential {
            credential::strip(headers);
        }
        remove_claims(headers);
        set_forwarded(headers, downstream, host.as_ref(), prefix);
        let body = if is_empty {
            body
        } else {
            Body::new(Limited::new(body, body_bytes_max))
        };
        speak(headers, forward.upstream.protocol, wants_trailers, is_empty);
        if let Some(switch) = &switch {
            switch.say(headers);
        }
        head.version = match forward.upstream.protocol {
            Protocol::Http1 => Version::HTTP_11,
            Protocol::Http2 => Version::HTTP_2,
        };
        let is_idempotent = IDEMPOTENT.contains(&head.method);
        let is_read = [Method::GET, Method::HEAD].contains(&head.method);
        Self {
            is_read,
            forward,
            with_trailers: true,
            path,
            prefix,
            host,
            head: Some(head),
            body: Some(body),
            unread: None,
            talk: None,
            is_empty,
            is_repeatable: is_empty && is_idempotent,
            switch,
        }
    }

    /// Adds our headers and the headers from the settings.
    pub(super) fn tell(&mut self, permit: &Permit, offer: Option<&Offer>, via: &Via) {
        self.with_trailers = !offer.is_some_and(|offer| offer.pricing.reads_headers());
        let Some(head) = &mut self.head else {
            return;
        };
        // Some servers (Rack) parse a body without a type as a form. Its fields would override the
        // query.
        let is_priced_by_query = offer.is_some_and(|offer| offer.pricing.reads_query());
        if is_priced_by_query && !self.is_empty && !head.headers.contains_key(CONTENT_TYPE) {
            head.headers.insert(CONTENT_TYPE, BYTES);
        }
        set_paid(
            &mut head.headers,
            permit,
            offer.map(|offer| &*offer.service),
        );
        if permit.awaits_meter() && !head.headers.contains_key(TE) {
            head.headers.insert(TE, TRAILERS);
            if self.forward.upstream.protocol == Protocol::Http1 {
                head.headers
                    .append(CONNECTION, HeaderValue::from_static("te"));
            }
        }
        let edits = &self.forward.request_headers;
        // The settings may remove other servers' `Via` entries, but not those that detect loops.
        let kept = if edits.names(&VIA) {
            via::kept(&head.headers)
        } else {
            Vec::new()
        };
        edits.apply_alike(&mut head.headers);
        for entry in kept {
            head.headers.append(VIA, entry);
        }
        via.say(&mut head.headers);
    }

    /// Prepares to send a body.
    pub(super) fn prepare(&mut self, servers: usize, idle_timeout: Duration) {
        if self.is_empty {
            return;
        }
        if servers > 1 {
            self.unread = Some(Unread::default());
        }
        // An HTTP/1.1 server answers after the body. An HTTP/2 server may answer while the body is
        // still being sent.
        if self.forward.upstream.protocol == Protocol::Http2 {
            self.talk = Some(Talk {
                has_begun: Arc::default(),
                pause_max: idle_timeout,
            });
        }
    }

    /// Builds the request for this server. Returns `None` if path and query do not form a valid
    /// URL.
    pub(super) fn attempt(
        &mut self,
        server: &Server,
        is_last: bool,
        body_timeout: Duration,
    ) -> Option<(Request<Body>, Option<watch::Receiver<Upload>>)> {
        let mut head = if is_last {
            self.head.take()
        } else {
            self.head.clone()
        }?;
        head.uri = self.uri(server, &head.uri)?;
        let body = self.body.take().unwrap_or_else(empty);
        if self.is_empty {
            return Some((Request::from_parts(head, body), None));
        }
        let terms = Terms {
            timeout: body_timeout,
            unread: self.unread.clone(),
            talk: self.talk.clone(),
            trailers: self.with_trailers.then(|| Arc::clone(self.forward)),
        };
        let (body, upload) = Uploaded::new(body, terms);
        Some((Request::from_parts(head, Body::new(body)), Some(upload)))
    }

    fn uri(&self, server: &Server, asked: &Uri) -> Option<Uri> {
        let prefix = &self.forward.add_prefix;
        server.uri(prefix, self.path, asked.query()).ok()
    }

    /// Records the start of this server's answer and rewrites the headers that name the server.
    /// Returns whether the answer only redirects to another path of the shop.
    pub(super) fn receive<B>(
        &self,
        servers: &Servers,
        server: &Server,
        response: &mut Response<B>,
    ) -> bool {
        if let Some(talk) = &self.talk {
            talk.has_begun.store(true, Ordering::Relaxed);
        }
        let names = Names {
            forward: self.forward,
            servers,
            server,
            prefix: self.prefix,
            host: self.host.as_ref(),
            asked: self.path,
        };
        let sends_on = names.sends_on(self.is_read, response.status(), response.headers());
        names.publish(response.headers_mut());
        sends_on
    }

    /// Whether another server may be tried after this error. Without a connection, nothing was
    /// sent. If a connection broke before the answer, the server may have acted on the request. So
    /// only a repeatable request without a body is sent again (RFC 9110, section 9.2.2).
    pub(super) fn may_go_elsewhere(&mut self, error: &legacy::Error) -> bool {
        if !self.is_empty {
            let unread = self.unread.as_ref();
            self.body = unread.and_then(|unread| {
                let mut unread = unread.lock().unwrap_or_else(PoisonError::into_inner);
                unread.take()
            });
            return error.is_connect() && self.body.is_some();
        }
        // An answer that cannot be parsed is still an answer, so no other server is tried.
        let is_sense = cause(error).is_none_or(|error| !error.is_parse() && !error.is_user());
        error.is_connect() || (self.is_repeatable && is_sense)
    }
}

/// Adds the headers for the connection to the upstream.
fn speak(headers: &mut HeaderMap, protocol: Protocol, wants_trailers: bool, is_empty: bool) {
    if wants_trailers {
        headers.insert(TE, TRAILERS);
    }
    match protocol {
        Protocol::Http1 => {
            if wants_trailers {
                headers.insert(CONNECTION, HeaderValue::from_static("te"));
            }
            if !is_empty && !headers.contains_key(CONTENT_LENGTH) {
                // hyper would drop the body of a GET of unknown length.
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Protocol::Http2 => {}
    }
}

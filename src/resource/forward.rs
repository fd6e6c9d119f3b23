//! Forwarding to an upstream: any HTTP server, streamed in both directions.

use std::error::Error as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderMap, HeaderValue, TE,
    TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Level;

use crate::gate::{Permit, Reason};
use crate::l402::credential;
use crate::route::{Forward, Offer, Protocol};
use crate::via::{self, Via};

use super::body::{Downloaded, Stalled, Talk, Terms, TooSlow, Unread, Upload, Uploaded, empty};
use super::client::{cause, is_unreadable};
use super::delivered::{Delivered, Shape};
use super::headers::{names, remove_claims, remove_hop_by_hop, set_forwarded, set_paid};
use super::servers::{InFlight, Server, Servers, Tried};
use super::tunnel::Switch;
use super::{Body, Downstream, Failure, Resources, Unserved};

/// The only word of `TE` that passes, and always as ours: the body's frames pass, and so do its trailers.
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// What a body is that nobody says more of (RFC 9110, section 8.3).
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A request as every server of an upstream would get it.
struct Outgoing<'a> {
    /// How it is forwarded.
    forward: &'a Arc<Forward>,
    /// Whether trailers pass: not where a header has set the price, which could be another one's behind the body.
    with_trailers: bool,
    /// The normalised path, beginning with a slash.
    path: &'a str,
    /// Taken by the last attempt; copied for those before.
    head: Option<http::request::Parts>,
    /// Taken by an attempt; one that was dropped unread comes back here.
    body: Option<Body>,
    /// Where an unread body comes back to; only where there is another server to ask.
    unread: Option<Unread>,
    /// The conversation that a body may become.
    talk: Option<Talk>,
    /// Whether there is no body.
    is_empty: bool,
    /// The protocol that the client would rather speak.
    switch: Option<Switch>,
}

/// How asking one server ended without an answer.
enum Unanswered {
    /// No connection, or one that broke.
    Broken(legacy::Error),
    /// The request's own body did.
    Upload(legacy::Error),
    /// It took too long.
    TooSlow,
}

impl Resources {
    /// Sends the request on and streams the answer back.
    pub(super) async fn forward(
        &self,
        permit: Permit,
        (forward, offer): (&Arc<Forward>, Option<&Offer>),
        path: &str,
        downstream: Downstream,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, Unserved> {
        let Some(servers) = self.servers(&forward.upstream) else {
            let what = "this route is not in the table that upstreams were built for";
            let why = Failure::UpstreamUnreachable(what.into());
            return Err(Unserved::giving_back(permit, why));
        };
        let is_head = *request.method() == Method::HEAD;
        let count = servers.list.len();
        let max = usize::try_from(self.config.body_bytes_max).unwrap_or(usize::MAX);
        // A free connection that is sold by what passes on it would have no end.
        if permit.reason() == Reason::Quota && offer.is_some_and(Offer::is_metered) {
            request.headers_mut().remove(UPGRADE);
        }
        let mut outgoing = Outgoing::new(forward, path, downstream, request, max);
        outgoing.tell(&permit, offer, &self.via);
        outgoing.prepare(count, self.idle_timeout(forward));
        let mut tried = Tried::default();
        let failure = loop {
            let server = servers.pick(&mut tried);
            let is_last = tried.count() == count;
            let Some((request, upload)) =
                outgoing.attempt(server, is_last, self.config.body_timeout)
            else {
                break Failure::NotFound;
            };
            let in_flight = servers.in_flight(server);
            let asked = self.ask(servers, request, upload).await;
            if asked.is_ok() {
                server.note_heard();
            }
            match asked {
                Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    return self.switch(permit, outgoing, response, in_flight);
                }
                Ok(response) => {
                    if let Some(talk) = &outgoing.talk {
                        talk.has_begun.store(true, Ordering::Relaxed);
                    }
                    let head = (forward, is_head);
                    return self.answer(permit, head, response, in_flight).await;
                }
                Err(Unanswered::Broken(error)) => {
                    if error.is_connect() {
                        server.pass_over();
                    }
                    if is_last || !outgoing.may_go_elsewhere(&error) {
                        break unanswered(error);
                    }
                    if permit
                        .cause()
                        .may_log(Level::WARN, "A server does not answer, another is asked")
                    {
                        tracing::warn!(
                            "{} does not answer, another server is asked: {}",
                            server.base,
                            crate::causes::chain(&error)
                        );
                    }
                }
                Err(Unanswered::Upload(error)) => {
                    // The holder's doing, and the upstream may have worked on what it got.
                    return Err(Unserved::counting(permit, self.body_failure(&error)));
                }
                // It may be at work on it.
                Err(Unanswered::TooSlow) => break Failure::UpstreamTimeout,
            }
        };
        Err(Unserved::giving_back(permit, failure))
    }

    /// Asks one server.
    async fn ask(
        &self,
        servers: &Servers,
        request: Request<Body>,
        upload: Option<watch::Receiver<Upload>>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let first_byte_timeout = servers.upstream.first_byte_timeout;
        let patience = self.patience(
            first_byte_timeout.unwrap_or(self.config.upstream_timeout),
            upload.clone(),
        );
        let answered = tokio::select! {
            answered = servers.client.request(request) => answered,
            () = patience => return Err(Unanswered::TooSlow),
        };
        answered.map_err(|error| match upload {
            Some(upload) if *upload.borrow() == Upload::Failed => Unanswered::Upload(error),
            Some(_) | None => Unanswered::Broken(error),
        })
    }

    /// Waits for as long as an upstream may take: its time begins when it has all of the request. A body that the upstream
    /// does not take is not waited for longer than one that the client does not send.
    async fn patience(
        &self,
        first_byte_timeout: Duration,
        upload: Option<watch::Receiver<Upload>>,
    ) {
        if let Some(mut upload) = upload {
            let ended = upload.wait_for(|upload| *upload != Upload::Running);
            // Either way the upload is over.
            let _ = tokio::time::timeout(self.config.body_timeout, ended).await;
        }
        tokio::time::sleep_until(Instant::now() + first_byte_timeout).await;
    }

    /// What the client gets of the upstream's answer.
    async fn answer(
        &self,
        mut permit: Permit,
        (forward, is_head): (&Arc<Forward>, bool),
        response: Response<Incoming>,
        in_flight: Option<InFlight>,
    ) -> Result<Response<Body>, Unserved> {
        let (mut parts, body) = response.into_parts();
        let shape = Shape {
            is_head,
            // gRPC is spoken in HTTP/2 only.
            can_be_call: forward.upstream.protocol == Protocol::Http2,
            is_open_ended: parts.version < Version::HTTP_2
                && !parts.headers.contains_key(TRANSFER_ENCODING)
                && !parts.headers.contains_key(CONTENT_LENGTH),
        };
        // Of our answer, whatever the upstream speaks.
        parts.version = Version::HTTP_11;
        remove_hop_by_hop(&mut parts.headers);
        // Before the settings hide it from the client.
        permit.read_meter(&parts.headers);
        forward.response_headers.apply(&mut parts.headers);
        let body = Downloaded::new(body, self.idle_timeout(forward), in_flight);
        let delivered = Delivered::of_answer(body, permit, &parts, shape).await;
        let (body, left) = delivered.map_err(in_time)?;
        parts.extensions.insert(left);
        Ok(Response::from_parts(parts, body))
    }

    fn idle_timeout(&self, forward: &Forward) -> Duration {
        let idle_timeout = forward.upstream.idle_timeout;
        idle_timeout.unwrap_or(self.config.idle_timeout)
    }

    /// Lets the client speak another protocol with the upstream, if that is what it asked for.
    fn switch(
        &self,
        mut permit: Permit,
        outgoing: Outgoing<'_>,
        mut response: Response<Incoming>,
        in_flight: Option<InFlight>,
    ) -> Result<Response<Body>, Unserved> {
        let forward = outgoing.forward;
        let granted = outgoing
            .switch
            .filter(|it| it.is_granted(response.headers()));
        let Some(switch) = granted else {
            let what = "it switched protocols without being asked";
            let why = Failure::UpstreamUnreachable(what.into());
            return Err(Unserved::giving_back(permit, why));
        };
        if !permit.begin(None) {
            return Err(Unserved::giving_back(permit, Failure::UsedUp));
        }
        let upstream = hyper::upgrade::on(&mut response);
        let (mut parts, _) = response.into_parts();
        permit.read_meter(&parts.headers);
        // Whoever has not said it by now has no way left to say it.
        permit.meter_here();
        remove_hop_by_hop(&mut parts.headers);
        forward.response_headers.apply(&mut parts.headers);
        switch.say(&mut parts.headers);
        parts.extensions = http::Extensions::new();
        parts.extensions.insert(permit.left());
        let tunnel = switch.tunnel(upstream, permit, self.idle_timeout(forward), in_flight);
        self.tunnels.spawn(tunnel.run(self.cut.clone()));
        Ok(Response::from_parts(parts, empty()))
    }

    /// What was wrong with the request's body.
    fn body_failure(&self, error: &legacy::Error) -> Failure {
        let mut cause = error.source();
        while let Some(error) = cause {
            if error.is::<LengthLimitError>() {
                return Failure::BodyTooLarge(self.config.body_bytes_max);
            }
            if error.is::<TooSlow>() {
                return Failure::BodyTooSlow;
            }
            cause = error.source();
        }
        Failure::BodyBroken
    }
}

impl<'a> Outgoing<'a> {
    /// The request as it came, but for what belongs to the connection that it came on.
    fn new(
        forward: &'a Arc<Forward>,
        path: &'a str,
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
        // It has been answered already.
        headers.remove(EXPECT);
        if !forward.forward_credential {
            credential::strip(headers);
        }
        remove_claims(headers);
        set_forwarded(headers, downstream, host);
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
        Self {
            forward,
            with_trailers: true,
            path,
            head: Some(head),
            body: Some(body),
            unread: None,
            talk: None,
            is_empty,
            switch,
        }
    }

    /// Adds what we and the settings say.
    fn tell(&mut self, permit: &Permit, offer: Option<&Offer>, via: &Via) {
        self.with_trailers = !offer.is_some_and(|offer| offer.pricing.reads_headers());
        let Some(head) = &mut self.head else {
            return;
        };
        // Some servers take a body of no kind for a form (Rack), and its fields for the query's.
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
        // Settings may take out what others said of the way; what tells a circle stays.
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

    /// Adds what a body needs.
    fn prepare(&mut self, servers: usize, idle_timeout: Duration) {
        if self.is_empty {
            return;
        }
        if servers > 1 {
            self.unread = Some(Unread::default());
        }
        // In HTTP/1.1 nobody answers before the request is there; in HTTP/2 a call may go on for hours.
        if self.forward.upstream.protocol == Protocol::Http2 {
            self.talk = Some(Talk {
                has_begun: Arc::default(),
                pause_max: idle_timeout,
            });
        }
    }

    /// The request for this server; `None` if its path and query make no address.
    fn attempt(
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

    /// Whether another server may be asked after this error. Where there was no connection, nothing was sent. Where one broke
    /// before the answer, the server may have done what it was asked: then only what can be done twice is asked again
    /// (RFC 9110, section 9.2.2).
    fn may_go_elsewhere(&mut self, error: &legacy::Error) -> bool {
        if !self.is_empty {
            let unread = self.unread.as_ref();
            self.body = unread.and_then(|unread| {
                let mut unread = unread.lock().unwrap_or_else(PoisonError::into_inner);
                unread.take()
            });
            return error.is_connect() && self.body.is_some();
        }
        let is_idempotent = self.head.as_ref().is_some_and(|head| {
            [
                Method::GET,
                Method::HEAD,
                Method::OPTIONS,
                Method::PUT,
                Method::DELETE,
            ]
            .contains(&head.method)
        });
        // An answer that makes no sense is an answer.
        let is_sense = cause(error).is_none_or(|error| !error.is_parse() && !error.is_user());
        error.is_connect() || (is_idempotent && is_sense)
    }
}

/// Why no server has answered.
fn unanswered(error: legacy::Error) -> Failure {
    if is_unreadable(&error) {
        Failure::UpstreamUnreadable(error.into())
    } else {
        Failure::UpstreamUnreachable(error.into())
    }
}

/// An upstream that paused for too long before the first byte took too long.
fn in_time(mut unserved: Unserved) -> Unserved {
    if let Failure::UpstreamUnreachable(error) = &unserved.why
        && error.is::<Stalled>()
    {
        unserved.why = Failure::UpstreamTimeout;
    }
    unserved
}

/// Headers that belong to the connection to the upstream.
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
                // hyper would leave out the body of a GET whose length it does not know.
                headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
        }
        Protocol::Http2 => {}
    }
}

//! Forwards requests to an upstream, which can be any HTTP server. Bodies are streamed in both
//! directions.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::LengthLimitError;
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::Level;

use crate::sell::gate::{Permit, Reason};
use crate::sell::route::{Forward, Offer, Protocol};

use super::Resources;
use super::body::{Downloaded, Stalled, TooSlow, Upload, empty};
use super::client::{Way, is_unreadable};
use super::delivered::{Delivered, Shape};
use super::downstream::{Body, Downstream};
use super::failure::{Failure, Unserved};
use super::headers::remove_hop_by_hop;
use super::outgoing::Outgoing;
use super::servers::{InFlight, Server, Servers, Tried};

/// The reason why one server gave no answer.
enum Unanswered {
    /// Path and query do not form a valid address.
    NoAddress,
    /// The connection failed or broke.
    Broken(legacy::Error),
    /// The request's own body failed.
    Upload(legacy::Error),
    /// The server took too long.
    TooSlow,
}

impl Resources {
    /// Forwards the request and streams the answer back. `path` is the path and the prefix that
    /// `strip_prefix` removed from it.
    pub(super) async fn forward(
        &self,
        permit: Permit,
        (forward, offer): (&Arc<Forward>, Option<&Offer>),
        path: (&str, &str),
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
        // On a route that charges by bytes or time, a switched connection within the free quota
        // would never end.
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
            let in_flight = servers.in_flight(server);
            let asked = self
                .ask_server(servers, server, &mut outgoing, is_last)
                .await;
            match asked {
                Ok(mut response) => {
                    let sends_on = outgoing.receive(servers, server, &mut response);
                    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                        return self.switch(permit, outgoing, response, in_flight);
                    }
                    drop(outgoing);
                    let shape = (is_head, sends_on);
                    return self
                        .answer(permit, (forward, shape), response, in_flight)
                        .await;
                }
                Err(Unanswered::NoAddress) => break Failure::NotFound,
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
                            crate::base::error_chain::chain(&error)
                        );
                    }
                }
                Err(Unanswered::Upload(error)) => {
                    // The client caused this failure, and the upstream may have acted on the part
                    // that it received.
                    return Err(Unserved::counting(permit, self.body_failure(&error)));
                }
                // The server may still be working on the request, so no other server is tried.
                Err(Unanswered::TooSlow) => break Failure::UpstreamTimeout,
            }
        };
        Err(Unserved::giving_back(permit, failure))
    }

    /// Sends the request to one server. If the server had closed a pooled connection before the
    /// request arrived, a repeatable request is sent again on a new connection. As in nginx, that
    /// does not count as a failure.
    async fn ask_server(
        &self,
        servers: &Servers,
        server: &Server,
        outgoing: &mut Outgoing<'_>,
        is_last: bool,
    ) -> Result<Response<Incoming>, Unanswered> {
        let (is_repeatable, body_timeout) = (outgoing.is_repeatable, self.config.body_timeout);
        let way = if is_repeatable {
            Way::Kept
        } else {
            Way::Careful
        };
        let sent = Instant::now();
        let (request, upload) = outgoing
            .attempt(server, is_last && !is_repeatable, body_timeout)
            .ok_or(Unanswered::NoAddress)?;
        let mut answered = self.ask(servers, (request, way), upload).await;
        if let Err(Unanswered::Broken(error)) = &answered
            && is_repeatable
            && servers.client.was_stale(error, sent)
        {
            let (request, upload) = outgoing
                .attempt(server, is_last, body_timeout)
                .ok_or(Unanswered::NoAddress)?;
            answered = self.ask(servers, (request, Way::Fresh), upload).await;
        }
        if answered.is_ok() {
            server.note_heard();
        }
        answered
    }

    /// Sends a request and waits for the head of the answer.
    async fn ask(
        &self,
        servers: &Servers,
        (request, way): (Request<Body>, Way),
        upload: Option<watch::Receiver<Upload>>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let first_byte_timeout = servers.upstream.first_byte_timeout;
        let patience = self.patience(
            first_byte_timeout.unwrap_or(self.config.upstream_timeout),
            upload.clone(),
        );
        let answered = tokio::select! {
            answered = servers.client.request(request, way) => answered,
            () = patience => return Err(Unanswered::TooSlow),
        };
        answered.map_err(|error| match upload {
            Some(upload) if *upload.borrow() == Upload::Failed => Unanswered::Upload(error),
            Some(_) | None => Unanswered::Broken(error),
        })
    }

    /// Waits for the longest time that an upstream may take. The time begins when the upstream has
    /// received the whole request. An upstream that does not read the body gets no more time than a
    /// client that does not send it.
    async fn patience(
        &self,
        first_byte_timeout: Duration,
        upload: Option<watch::Receiver<Upload>>,
    ) {
        if let Some(mut upload) = upload {
            let ended = upload.wait_for(|upload| *upload != Upload::Running);
            // The upload is over in either case.
            let _ = tokio::time::timeout(self.config.body_timeout, ended).await;
        }
        tokio::time::sleep_until(Instant::now() + first_byte_timeout).await;
    }

    /// Builds the client's response from the upstream's answer.
    async fn answer(
        &self,
        mut permit: Permit,
        (forward, (is_head, sends_on)): (&Arc<Forward>, (bool, bool)),
        response: Response<Incoming>,
        in_flight: Option<InFlight>,
    ) -> Result<Response<Body>, Unserved> {
        let (mut parts, body) = response.into_parts();
        let shape = Shape {
            is_head,
            sends_on,
            // gRPC works only over HTTP/2.
            can_be_call: forward.upstream.protocol == Protocol::Http2,
            is_open_ended: parts.version < Version::HTTP_2
                && !parts.headers.contains_key(TRANSFER_ENCODING)
                && !parts.headers.contains_key(CONTENT_LENGTH),
        };
        // The version of our answer, whatever version the upstream uses.
        parts.version = Version::HTTP_11;
        remove_hop_by_hop(&mut parts.headers);
        // Read before the settings hide this header from the client.
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

    /// Switches the connection to another protocol, if the client asked for that protocol.
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
        // The upstream can no longer report its working time, so the time is measured here.
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

    /// Returns the failure of the request's body.
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

/// Returns the failure for a server that did not answer.
fn unanswered(error: legacy::Error) -> Failure {
    if is_unreadable(&error) {
        Failure::UpstreamUnreadable(error.into())
    } else {
        Failure::UpstreamUnreachable(error.into())
    }
}

/// Turns a long pause before the first byte into a timeout.
fn in_time(mut unserved: Unserved) -> Unserved {
    if let Failure::UpstreamUnreachable(error) = &unserved.why
        && error.is::<Stalled>()
    {
        unserved.why = Failure::UpstreamTimeout;
    }
    unserved
}

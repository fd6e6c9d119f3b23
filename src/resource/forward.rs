//! Forwarding to an upstream: any HTTP server, streamed in both directions.

use std::borrow::Cow;
use std::error::Error as _;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::gate::Permit;
use crate::l402::credential;

use super::body::{Delivered, TooSlow, Upload, Uploaded};
use super::{Body, BoxError, Downstream, Failure, Resources};

/// Keeps connections to upstreams.
pub(super) type Client = legacy::Client<HttpsConnector<HttpConnector>, Body>;

/// How long an upstream may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long an unused connection is kept: below the 5 s after which Node, uvicorn and Apache drop theirs, for a request that
/// crosses such an end is lost.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// Speak of one connection only (RFC 9110, section 7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'a> {
    /// The upstream's address, its path without a slash at the end.
    pub(super) base: &'a Uri,
    /// The normalised path there, beginning with a slash.
    pub(super) path: &'a str,
    /// Where it comes from.
    pub(super) downstream: Downstream,
}

pub(super) fn client() -> Client {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT_TIMEOUT));
    let https = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    legacy::Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .build(https)
}

impl Resources {
    /// Sends the request on and streams the answer back.
    pub(super) async fn forward(
        &self,
        permit: Permit,
        target: Target<'_>,
        request: Request<Body>,
    ) -> Result<Response<Body>, Failure> {
        let Ok(uri) = target.uri(request.uri().query()) else {
            permit.give_back();
            return Err(Failure::NotFound);
        };
        let (request, upload) = self.outgoing(uri, target.downstream, request);
        let answered = tokio::select! {
            answered = self.client.request(request) => Some(answered),
            () = self.patience(upload.clone()) => None,
        };
        let failure = match answered {
            Some(Ok(response)) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                Failure::UpstreamUnreachable("it switched protocols without being asked".into())
            }
            Some(Ok(response)) => return Ok(answer(permit, response)),
            Some(Err(error)) if *upload.borrow() == Upload::Failed => {
                // The holder's doing, and the upstream may have worked on what it got: dropped, the use counts.
                drop(permit);
                return Err(self.body_failure(&error));
            }
            Some(Err(error)) => Failure::UpstreamUnreachable(error.into()),
            None => Failure::UpstreamTimeout,
        };
        permit.give_back();
        Err(failure)
    }

    /// Waits for as long as an upstream may take: its time begins when it has all of the request. A body that the upstream
    /// does not take is not waited for longer than one that the client does not send.
    async fn patience(&self, mut upload: watch::Receiver<Upload>) {
        let ended = upload.wait_for(|upload| *upload != Upload::Running);
        // Either way the upload is over.
        let _ = tokio::time::timeout(self.config.body_timeout, ended).await;
        tokio::time::sleep_until(Instant::now() + self.config.upstream_timeout).await;
    }

    fn outgoing(
        &self,
        uri: Uri,
        downstream: Downstream,
        request: Request<Body>,
    ) -> (Request<Body>, watch::Receiver<Upload>) {
        let (mut parts, body) = request.into_parts();
        parts.uri = uri;
        parts.version = Version::HTTP_11;
        parts.extensions = http::Extensions::new();
        let host = parts.headers.remove(HOST);
        remove_hop_by_hop(&mut parts.headers);
        // hyper has answered it already.
        parts.headers.remove(EXPECT);
        credential::strip(&mut parts.headers);
        set_forwarded(&mut parts.headers, downstream, host);
        let max = usize::try_from(self.config.body_bytes_max).unwrap_or(usize::MAX);
        if http_body::Body::is_end_stream(&body) {
            let (_, upload) = watch::channel(Upload::Ended);
            return (Request::from_parts(parts, body), upload);
        }
        if !parts.headers.contains_key(CONTENT_LENGTH) {
            // hyper would leave out the body of a GET whose length it does not know.
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(TRANSFER_ENCODING, chunked);
        }
        let limited = Body::new(Limited::new(body, max));
        let (body, upload) = Uploaded::new(limited, self.config.body_timeout);
        (Request::from_parts(parts, Body::new(body)), upload)
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

impl Target<'_> {
    fn uri(&self, query: Option<&str>) -> Result<Uri, http::Error> {
        let base_path = self.base.path().trim_end_matches('/');
        let path = match query {
            Some(query) => format!("{base_path}{}?{query}", self.path),
            None => format!("{base_path}{}", self.path),
        };
        let mut builder = Uri::builder().path_and_query(path);
        if let Some(scheme) = self.base.scheme() {
            builder = builder.scheme(scheme.clone());
        }
        if let Some(authority) = self.base.authority() {
            builder = builder.authority(authority.clone());
        }
        builder.build()
    }
}

/// Delivered from here on, unless the upstream itself says that it failed.
fn answer(permit: Permit, response: Response<Incoming>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    // Of our answer, whatever the upstream speaks.
    parts.version = Version::HTTP_11;
    remove_hop_by_hop(&mut parts.headers);
    let body = if parts.status.is_server_error() {
        permit.give_back();
        Body::new(body.map_err(BoxError::from))
    } else {
        Delivered::boxed(body, permit, &parts.headers)
    };
    Response::from_parts(parts, body)
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        // Whoever names it would turn the body into another request.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
    headers.remove(TRAILER);
}

/// Whether this header tells an upstream where a request comes from, or what it really asks for: what a client says there
/// is never passed on. Underscores count as dashes, as they do for servers that speak CGI or WSGI.
fn is_claim(name: &HeaderName) -> bool {
    let mut name = Cow::Borrowed(name.as_str());
    if name.contains('_') {
        name = Cow::Owned(name.replace('_', "-"));
    }
    let begins = ["x-forwarded-", "x-original-", "x-rewrite-"];
    let names = [
        "forwarded",
        "x-real-ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-http-method",
        "x-http-method-override",
        "x-method-override",
    ];
    begins.iter().any(|begin| name.starts_with(begin)) || names.contains(&&*name)
}

/// What the client claims about its way here is replaced by what we know.
fn set_forwarded(headers: &mut HeaderMap, downstream: Downstream, host: Option<HeaderValue>) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_claim(name))
        .cloned()
        .collect();
    for claim in claims {
        headers.remove(claim);
    }
    if let Ok(client) = HeaderValue::try_from(downstream.client.to_canonical().to_string()) {
        headers.insert("x-forwarded-for", client);
    }
    if let Some(host) = host {
        headers.insert("x-forwarded-host", host);
    }
    headers.insert("x-forwarded-proto", HeaderValue::from_static("http"));
}

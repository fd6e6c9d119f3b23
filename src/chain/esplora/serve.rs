//! The HTTP listener for the node.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::broadcast::Sent;
use super::question::{Answer, Question};
use super::{Relay, SEARCHES};

/// The most connections at once. ldk-node asks four questions at a time, and broadcasts beside
/// them. At the limit, the oldest connection that has not shown our secret path is closed, because
/// other users of this machine can find the port.
const CONNECTIONS_MAX: usize = 32;

/// How long a connection may be silent before it is closed, the node's own idle ones included. Half
/// a minute would be wrong: LDK rebroadcasts after 30 s, and its request would meet a connection
/// that is being closed.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before accepting again when the operating system has run out of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest transaction, in hexadecimal. Servers relay at most 400,000 weight units, which is
/// 400 KB.
const TX_BYTES_MAX: usize = 1024 * 1024;

/// A connection to the listener.
#[derive(Debug)]
struct Guest {
    task: AbortHandle,
    /// Whether the connection has requested a path below our secret one, which only the node knows.
    is_known: Arc<AtomicBool>,
}

impl Relay {
    /// Answers the node until the future is dropped. Once `stop` is cancelled, fee estimates come
    /// from memory and every other question fails at once, so that nothing waits for the chain.
    /// Broadcasts still go out.
    pub async fn run(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Infallible {
        tokio::select! {
            never = self.accept(listener, stop) => never,
            never = self.send_again() => never,
        }
    }

    async fn accept(
        self: &Arc<Self>,
        listener: TcpListener,
        stop: CancellationToken,
    ) -> Infallible {
        let mut connections = JoinSet::new();
        // The open connections, the oldest first.
        let mut guests = VecDeque::new();
        loop {
            while connections.try_join_next().is_some() {}
            guests.retain(|guest: &Guest| !guest.task.is_finished());
            if connections.len() >= CONNECTIONS_MAX {
                let is_stranger = |guest: &Guest| !guest.is_known.load(Ordering::Relaxed);
                let longest = guests.iter().position(is_stranger);
                if let Some(stranger) = longest.and_then(|at| guests.remove(at)) {
                    stranger.task.abort();
                }
                connections.join_next().await;
                continue;
            }
            match listener.accept().await {
                Ok((stream, _)) => {
                    let (relay, stop) = (Arc::clone(self), stop.clone());
                    let is_known = Arc::new(AtomicBool::new(false));
                    let shows = Arc::clone(&is_known);
                    let task =
                        connections.spawn(async move { relay.serve(stream, &shows, stop).await });
                    guests.push_back(Guest { task, is_known });
                }
                Err(error) => {
                    tracing::warn!("Failed to accept a connection of the node: {error}");
                    sleep_until(Instant::now() + ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(
        self: Arc<Self>,
        stream: TcpStream,
        is_known: &AtomicBool,
        stop: CancellationToken,
    ) {
        let service = service_fn(|request: Request<Incoming>| {
            if request.uri().path().starts_with(&self.root) {
                is_known.store(true, Ordering::Relaxed);
            }
            let (relay, stop) = (Arc::clone(&self), stop.clone());
            async move { Ok::<_, Infallible>(relay.answer(request, &stop).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!("A connection of the node ended: {error}");
        }
    }

    async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        stop: &CancellationToken,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path().strip_prefix(&self.root);
        let search = path.and_then(|path| path.strip_prefix(SEARCHES));
        let is_search = search.is_some();
        let path = search.or(path).map(str::to_owned);
        match (request.method(), path.as_deref()) {
            (&Method::POST, Some("/tx")) => self.send_on(request.into_body()).await,
            (&Method::GET, Some(path)) => {
                let Some(question) = Question::of(path) else {
                    return said(StatusCode::NOT_FOUND, "nobody asks that");
                };
                if question == Question::Fees {
                    let estimates = tokio::select! {
                        estimates = self.fee_estimates() => estimates,
                        () = stop.cancelled() => self.known_estimates(),
                    };
                    return said(StatusCode::OK, estimates);
                }
                if self.leaves_out(&question) {
                    return said(StatusCode::NOT_FOUND, "not found");
                }
                if !is_search && self.rests(&question) {
                    return said(StatusCode::OK, "[]");
                }
                tokio::select! {
                    answer = self.ask(&question) => match answer {
                        Ok(Answer::Body(body)) => {
                            self.hear_spender(&question, &body);
                            if !is_search {
                                self.hear_history(&question, &body);
                            }
                            said(StatusCode::OK, body)
                        }
                        Ok(Answer::NotThere) => said(StatusCode::NOT_FOUND, "not found"),
                        // Not 503, because ldk-node's client would then retry until its time is
                        // over.
                        Err(why) => said(StatusCode::BAD_GATEWAY, why.to_string()),
                    },
                    () = stop.cancelled() => said(StatusCode::BAD_GATEWAY, "the program is stopping"),
                }
            }
            _ => said(StatusCode::NOT_FOUND, "nothing is here"),
        }
    }

    async fn send_on(self: &Arc<Self>, body: Incoming) -> Response<Full<Bytes>> {
        let read = Limited::new(body, TX_BYTES_MAX).collect().await;
        let text = read
            .ok()
            .and_then(|read| String::from_utf8(read.to_bytes().to_vec()).ok());
        let Some(hex) = text else {
            return said(StatusCode::BAD_REQUEST, "no transaction");
        };
        match self.broadcast(hex).await {
            Sent::Accepted(txid) => said(StatusCode::OK, txid.to_string()),
            Sent::Refused(words) => said(StatusCode::BAD_REQUEST, words),
            Sent::Malformed => said(StatusCode::BAD_REQUEST, "no transaction"),
            Sent::Nowhere(why) => said(StatusCode::BAD_GATEWAY, why),
        }
    }
}

fn said(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

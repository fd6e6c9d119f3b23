//! The accept loop: hyper's own server, because `axum::serve` sets neither a header timeout nor a limit on sizes and
//! connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use tower::util::Oneshot;

use super::stall::Stallable;

/// What hyper buffers of one connection. The headers' own limit is lower and answered by us, with a body that explains it.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Header lines of one request.
const HEADERS_MAX: usize = 100;

/// How long to wait before accepting again when the operating system is out of something.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// What a client reads that had begun to ask and did not come to an end: hyper itself closes without a word.
const TOO_SLOW: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// How long a client that was answered may go on sending: it reads the answer meanwhile.
const LINGER: Duration = Duration::from_secs(2);

/// How much it may send then: a body of the largest size that is passed on by default, and more.
const LINGER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait in the operating system's queue.
    pub connections_max: usize,
    /// How long a client may take to send its headers, also on a connection that it keeps open.
    pub header_timeout: Duration,
    /// How long no write to a client may go on. The system's buffers let a slow reader look like none for minutes.
    pub write_timeout: Duration,
    /// How long requests in flight may take to finish once the program was told to stop.
    pub grace: Duration,
}

/// What ends a listener, or the whole program.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    /// Nothing new is begun, and what is in flight is finished within its grace.
    pub begin: CancellationToken,
    /// The grace is over.
    pub hurry: CancellationToken,
}

/// A listener and what answers on it.
#[derive(Debug)]
pub struct Server {
    /// What it is called in the log.
    pub name: &'static str,
    /// The listener.
    pub listener: TcpListener,
    /// What answers.
    pub router: Router,
    /// The limits.
    pub limits: Limits,
}

impl Server {
    /// Accepts until told to stop, then lets every request in flight finish, within the grace.
    pub async fn run(self, tracker: TaskTracker, stop: Stop) {
        let Self {
            name,
            listener,
            router,
            limits,
        } = self;
        let connections = Arc::new(Semaphore::new(limits.connections_max));
        let cut = CancellationToken::new();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .max_buf_size(BUFFER_BYTES_MAX)
            .max_headers(HEADERS_MAX);
        loop {
            let slot = tokio::select! {
                slot = Arc::clone(&connections).acquire_owned() => slot.expect("the semaphore is never closed"),
                () = stop.begin.cancelled() => break,
            };
            let (stream, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of file descriptors, most likely: busy looping would not free one.
                        tracing::warn!("Failed to accept a connection on the {name} listener: {error}");
                        tokio::time::sleep_until(tokio::time::Instant::now() + ACCEPT_BACKOFF).await;
                        continue;
                    }
                },
                () = stop.begin.cancelled() => break,
            };
            let stream = prepared(stream, limits.write_timeout);
            let answering = Answering {
                router: router.clone(),
                peer,
            };
            let connection = http.serve_connection(TokioIo::new(stream), answering);
            let ended = until_ended(connection, stop.begin.clone(), cut.clone());
            tracker.spawn(async move {
                ended.await;
                drop(slot);
            });
        }
        drop(listener);
        let in_flight = limits.connections_max - connections.available_permits();
        // All slots are free when the last connection has ended.
        let all = u32::try_from(limits.connections_max).unwrap_or(u32::MAX);
        let is_finished = tokio::select! {
            finished = tokio::time::timeout(limits.grace, connections.acquire_many(all)) => finished.is_ok(),
            () = stop.hurry.cancelled() => false,
        };
        if !is_finished {
            tracing::warn!("Gave up on requests in flight on the {name} listener");
            // Without it a client that reads nothing would keep the program from ending.
            cut.cancel();
        } else if in_flight > 0 {
            tracing::info!("Every connection of the {name} listener came to its end");
        }
    }
}

/// One connection's requests: each is told where it comes from and handed to the router.
#[derive(Debug)]
struct Answering {
    router: Router,
    peer: SocketAddr,
}

impl hyper::service::Service<Request<Incoming>> for Answering {
    type Response = Response;
    type Error = Infallible;
    type Future = Oneshot<Router, axum::extract::Request>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(ConnectInfo(self.peer));
        self.router.clone().oneshot(request.map(Body::new))
    }
}

/// One client's connection.
type Connection = http1::Connection<TokioIo<Stallable>, Answering>;

fn prepared(stream: TcpStream, write_timeout: Duration) -> Stallable {
    // Without it a small answer waits for the client's delayed acknowledgement: 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("Failed to set TCP_NODELAY: {error}");
    }
    Stallable::new(stream, write_timeout)
}

/// Answers on one connection until it ends: by itself, after `stop` with the request in flight, or at once when `cut`.
async fn until_ended(mut connection: Connection, stop: CancellationToken, cut: CancellationToken) {
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            tokio::select! {
                ended = &mut connection => ended,
                () = cut.cancelled() => return,
            }
        }
    };
    let parts = connection.into_parts();
    let Err(error) = ended else {
        tokio::select! {
            () = linger(parts.io.into_inner()) => {}
            () = stop.cancelled() => {}
        }
        return;
    };
    // A client that breaks off is not worth a line above debug.
    tracing::debug!("A connection ended: {error}");
    let is_timeout = error.is_timeout();
    // A kept connection that asks nothing more is closed without a word, as clients expect.
    if is_timeout && !parts.read_buf.is_empty() {
        // If it does not fit the socket's buffer, nobody reads it anyway.
        if let Err(error) = parts.io.inner().try_write(TOO_SLOW) {
            tracing::debug!("Failed to say that a client was too slow: {error}");
        }
    }
}

/// Takes what a client still sends after its answer: closing over it would reset the connection, and a client that was told
/// to pay in the middle of its upload would lose the invoice. One that has nothing more to say has closed already.
async fn linger(stream: Stallable) {
    let mut rest = stream.take(LINGER_BYTES_MAX);
    let mut nowhere = tokio::io::sink();
    let taken = tokio::io::copy(&mut rest, &mut nowhere);
    // Enough or not, the connection ends here.
    let _ = tokio::time::timeout(LINGER, taken).await;
}

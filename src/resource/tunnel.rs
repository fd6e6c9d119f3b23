//! Connections that were switched to another protocol, WebSocket mostly: what one side sends the other gets, until one of
//! them ends or both are silent for too long.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::gate::Permit;

use super::headers::names;
use super::servers::InFlight;

/// How long the other side may go on when one has said its last: none of the protocols that are tunnelled says more than a
/// farewell then.
const FAREWELL: Duration = Duration::from_secs(2);

/// A client's wish to speak another protocol.
#[derive(Debug)]
pub(super) struct Switch {
    /// Which.
    pub(super) protocol: HeaderValue,
    /// The client's connection, once the wish was granted.
    client: OnUpgrade,
}

impl Switch {
    /// The wish of this request, if it is one that these let pass. Others are passed over, as HTTP allows.
    pub(super) fn of(head: &mut http::request::Parts, allowed: &[String]) -> Option<Self> {
        let protocol = head.headers.get(UPGRADE)?.clone();
        let is_allowed = allowed
            .iter()
            .any(|allowed| allowed.as_bytes().eq_ignore_ascii_case(protocol.as_bytes()));
        let is_one = head.headers.get_all(UPGRADE).iter().count() == 1;
        if !is_allowed || !is_one || !names(&head.headers, &CONNECTION, "upgrade") {
            return None;
        }
        let client = head.extensions.remove::<OnUpgrade>()?;
        Some(Self { protocol, client })
    }

    /// Says it in a request or an answer.
    pub(super) fn say(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }

    /// Whether an answer grants it, and nothing else.
    pub(super) fn is_granted(&self, answer: &HeaderMap) -> bool {
        let granted = answer.get(UPGRADE).map(HeaderValue::as_bytes);
        granted.is_some_and(|granted| granted.eq_ignore_ascii_case(self.protocol.as_bytes()))
    }

    /// The tunnel between the client and the upstream whose answer granted it.
    pub(super) fn tunnel(
        self,
        upstream: OnUpgrade,
        permit: Permit,
        idle_timeout: Duration,
        in_flight: Option<InFlight>,
    ) -> Tunnel {
        Tunnel {
            client: self.client,
            upstream,
            permit,
            idle_timeout,
            _in_flight: in_flight,
        }
    }
}

/// A switched connection, from end to end.
#[derive(Debug)]
#[must_use = "a tunnel runs until it ends"]
pub(super) struct Tunnel {
    client: OnUpgrade,
    upstream: OnUpgrade,
    /// Held to the end: the use is delivered then.
    permit: Permit,
    idle_timeout: Duration,
    _in_flight: Option<InFlight>,
}

impl Tunnel {
    /// Passes on what comes until it ends. The end of the program cuts the client's connection, and with it the tunnel.
    pub(super) async fn run(self) {
        let (client, upstream) = match tokio::try_join!(self.client, self.upstream) {
            Ok(ends) => ends,
            // The client was gone before it was told.
            Err(error) => {
                tracing::debug!("A connection could not be switched: {error}");
                return;
            }
        };
        let activity = Activity::begin();
        let mut client = Watched {
            inner: TokioIo::new(client),
            activity: &activity,
            _permit: Some(self.permit),
        };
        let mut upstream = Watched {
            inner: TokioIo::new(upstream),
            activity: &activity,
            _permit: None,
        };
        tokio::select! {
            ended = copy_bidirectional(&mut client, &mut upstream) => {
                if let Err(error) = ended {
                    tracing::debug!("A switched connection broke: {error}");
                }
            }
            () = activity.is_over(self.idle_timeout) => {
                tracing::debug!("A switched connection was silent for too long");
            }
        }
    }
}

/// When something was last sent in a tunnel, in either direction.
#[derive(Debug)]
struct Activity {
    begun: Instant,
    /// Milliseconds since then.
    last_ms: AtomicU64,
    /// Told when one side has said its last.
    farewell: Notify,
}

impl Activity {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
            farewell: Notify::new(),
        }
    }

    fn note(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Waits until nothing was sent for this long, or for the time of a farewell once one side has ended.
    async fn is_over(&self, idle_timeout: Duration) {
        let mut patience = idle_timeout;
        loop {
            let last_ms = self.last_ms.load(Ordering::Relaxed);
            let until = self.begun + Duration::from_millis(last_ms) + patience;
            if Instant::now() >= until {
                return;
            }
            if timeout_at(until, self.farewell.notified()).await.is_ok() {
                patience = FAREWELL.min(idle_timeout);
            }
        }
    }
}

/// One side of a tunnel: everything that passes is seen here. What is written to the client's side is what it is given, what
/// is read from it is what it sends.
struct Watched<'a> {
    inner: TokioIo<Upgraded>,
    activity: &'a Activity,
    /// The client's side holds the permit.
    _permit: Option<Permit>,
}

impl AsyncRead for Watched<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read {
            self.activity.note();
            if buffer.filled().len() == before {
                self.activity.farewell.notify_one();
            }
        }
        read
    }
}

impl AsyncWrite for Watched<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if written.is_ready() {
            self.activity.note();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

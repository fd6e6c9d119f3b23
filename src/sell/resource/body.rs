//! Bodies in transit: a request body with a total deadline, and an upstream's answer with a limit
//! on each pause.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::{BodyExt as _, Empty};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::sell::route::Forward;

use super::downstream::{Body, BoxError};
use super::headers;
use super::servers::InFlight;

/// An empty body.
pub(super) fn empty() -> Body {
    Body::new(Empty::new().map_err(|never| match never {}))
}

/// Hides the length of a body that is not sent, because hyper would otherwise add `content-length:
/// 0`. A length in the head stays, except for 204 and 304, which have no length (RFC 9110, sections
/// 8.6 and 15.4.5).
pub(super) fn without_length(mut response: Response<Body>, is_head: bool) -> Response<Body> {
    let has_none = matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_none {
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    if is_head || has_none {
        response.map(|body| Body::new(Unmeasured(body)))
    } else {
        response
    }
}

/// A body without a size hint.
struct Unmeasured(Body);

impl HttpBody for Unmeasured {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

/// The body did not arrive in time.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body took too long")]
pub(super) struct TooSlow;

/// The state of a request body's upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// The body is still arriving.
    Running,
    /// The body is complete, or its rest is not needed.
    Ended,
    /// The client broke off the body, exceeded the size limit, or was too slow.
    Failed,
}

/// A place for a body that was never read, so that the next server can receive it. A `std` mutex:
/// held to store or take the body.
pub(super) type Unread = Arc<Mutex<Option<Body>>>;

/// A request body that reports its state and limits the total time of waiting for the client. Time
/// that the upstream takes to receive data is not counted.
pub(super) struct Uploaded {
    inner: Body,
    /// The remaining time of waiting for the client.
    patience: Duration,
    /// The start of the current wait for the client.
    waiting_since: Option<Instant>,
    /// Expires if the current wait is too long.
    deadline: Pin<Box<Sleep>>,
    progress: watch::Sender<Upload>,
    /// The place for the body if it is dropped unread; cleared by the first read.
    unread: Option<Unread>,
    /// The state of a two-way call, if the request can become one.
    talk: Option<Talk>,
    /// The forwarding settings for trailers; `None` removes all trailers.
    trailers: Option<Arc<Forward>>,
}

/// The rules for a request's body.
#[derive(Debug)]
pub(super) struct Terms {
    /// The total time of waiting for the client.
    pub(super) timeout: Duration,
    /// The place for the body if it is dropped unread.
    pub(super) unread: Option<Unread>,
    /// The state of a two-way call, if the request can become one.
    pub(super) talk: Option<Talk>,
    /// The forwarding settings for trailers; `None` removes all trailers.
    pub(super) trailers: Option<Arc<Forward>>,
}

/// A call with messages in both directions. After the upstream has begun to answer, only each pause
/// of the client is limited, like those of the upstream.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    /// Whether the upstream has begun to answer.
    pub(super) has_begun: Arc<AtomicBool>,
    /// The longest pause after the upstream has begun to answer.
    pub(super) pause_max: Duration,
}

impl Uploaded {
    pub(super) fn new(inner: Body, terms: Terms) -> (Self, watch::Receiver<Upload>) {
        let (progress, upload) = watch::channel(Upload::Running);
        let deadline = Box::pin(tokio::time::sleep_until(Instant::now() + terms.timeout));
        let body = Self {
            inner,
            patience: terms.timeout,
            waiting_since: None,
            deadline,
            progress,
            unread: terms.unread,
            talk: terms.talk,
            trailers: terms.trailers,
        };
        (body, upload)
    }

    /// The longest pause of the client, if the upstream has begun to answer.
    fn pause_max(&self) -> Option<Duration> {
        let talk = self.talk.as_ref()?;
        let has_begun = talk.has_begun.load(Ordering::Relaxed);
        has_begun.then_some(talk.pause_max)
    }

    /// Ready if the client has kept us waiting for too long.
    fn poll_deadline(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let is_new = self.waiting_since.is_none();
        let since = *self.waiting_since.get_or_insert(now);
        if is_new {
            let until = now + self.pause_max().unwrap_or(self.patience);
            self.deadline.as_mut().reset(until);
        }
        ready!(self.deadline.as_mut().poll(cx));
        match self.pause_max() {
            // The answer began in the middle of this pause.
            Some(pause_max) if since + pause_max > now => {
                self.deadline.as_mut().reset(since + pause_max);
                self.deadline.as_mut().poll(cx)
            }
            Some(_) | None => Poll::Ready(()),
        }
    }
}

impl Drop for Uploaded {
    fn drop(&mut self) {
        if let Some(unread) = self.unread.take() {
            let body = std::mem::replace(&mut self.inner, empty());
            *unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        }
        self.progress.send_if_modified(|upload| {
            let is_running = *upload == Upload::Running;
            if is_running {
                *upload = Upload::Ended;
            }
            is_running
        });
    }
}

impl HttpBody for Uploaded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.unread = None;
        let mut frame = Pin::new(&mut self.inner).poll_frame(cx);
        let now = Instant::now();
        if frame.is_pending() {
            let over = self.poll_deadline(now, cx);
            frame = over.map(|()| Some(Err(TooSlow.into())));
        } else if let Some(since) = self.waiting_since.take()
            && self.pause_max().is_none()
        {
            self.patience = self.patience.saturating_sub(now - since);
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::clean_trailers(trailers, self.trailers.as_deref());
        }
        match &frame {
            Poll::Ready(None) => drop(self.progress.send_replace(Upload::Ended)),
            Poll::Ready(Some(Err(_))) => drop(self.progress.send_replace(Upload::Failed)),
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The upstream paused for too long within its answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the upstream sent nothing for {}", crate::sell::route::Span(*.0))]
pub(super) struct Stalled(Duration);

/// The body of an upstream's answer, with a limit on each pause.
pub(super) struct Downloaded<B> {
    inner: B,
    idle_timeout: Duration,
    /// Expires if a pause is too long. Created at the first pause, because most answers arrive
    /// without one.
    idle: Option<Pin<Box<Sleep>>>,
    /// Whether the upstream pauses now.
    is_idle: bool,
    /// Counts the request as running until the body is dropped.
    _in_flight: Option<InFlight>,
}

impl<B> Downloaded<B> {
    pub(super) fn new(inner: B, idle_timeout: Duration, in_flight: Option<InFlight>) -> Self {
        Self {
            inner,
            idle_timeout,
            idle: None,
            is_idle: false,
            _in_flight: in_flight,
        }
    }

    /// Ready if the current pause is too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.idle_timeout;
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if !self.is_idle {
            self.is_idle = true;
            idle.as_mut().reset(until);
        }
        idle.as_mut().poll(cx)
    }
}

impl<B> HttpBody for Downloaded<B>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.is_idle = false;
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let stalled = Stalled(self.idle_timeout);
                self.poll_idle(cx).map(|()| Some(Err(stalled.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

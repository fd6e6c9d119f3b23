//! Bodies on their way: a request that must arrive in time, an upstream's answer that may pause for a time.

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

use super::servers::InFlight;
use super::{Body, BoxError, headers};

/// A body of nothing.
pub(super) fn empty() -> Body {
    Body::new(Empty::new().map_err(|never| match never {}))
}

/// Hides the length of a body that is not sent, unless the head says it: hyper would otherwise write `content-length: 0`. 204
/// and 304 have no length (RFC 9110, sections 8.6 and 15.4.5).
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

/// How far a request's body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Upload {
    /// It is still coming.
    Running,
    /// All of it has come, or nobody wants the rest.
    Ended,
    /// The client broke it off, sent more than it may, or was too slow.
    Failed,
}

/// Where a body goes that nobody has begun to read: to whoever asks the next server. A `std` mutex: held to put it in or to
/// take it out.
pub(super) type Unread = Arc<Mutex<Option<Body>>>;

/// A request body whose client may keep us waiting for a given time in all, however slowly it drips, and that tells how far
/// it is. What the upstream takes to take it is not the client's time.
pub(super) struct Uploaded {
    inner: Body,
    /// How much longer the client may keep us waiting.
    patience: Duration,
    /// Since when it does.
    waiting_since: Option<Instant>,
    /// Runs out while it does.
    deadline: Pin<Box<Sleep>>,
    progress: watch::Sender<Upload>,
    /// Where it goes if it is dropped unread; taken at the first reading.
    unread: Option<Unread>,
    /// The conversation that it may become.
    talk: Option<Talk>,
    /// How the trailers are passed on, if they are.
    trailers: Option<Arc<Forward>>,
}

/// What holds for a request's body.
#[derive(Debug)]
pub(super) struct Terms {
    /// How long the client may keep us waiting in all.
    pub(super) timeout: Duration,
    /// Where it goes if nobody reads it.
    pub(super) unread: Option<Unread>,
    /// The conversation that it may become.
    pub(super) talk: Option<Talk>,
    /// How the trailers are passed on, if they are.
    pub(super) trailers: Option<Arc<Forward>>,
}

/// A call with messages in both directions: once the upstream has begun to answer, the client may take its time between two
/// messages, as the upstream may.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    /// Whether the upstream has begun to answer.
    pub(super) has_begun: Arc<AtomicBool>,
    /// How long each pause may be then.
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

    /// How long a pause may be, if this is a conversation by now.
    fn pause_max(&self) -> Option<Duration> {
        let talk = self.talk.as_ref()?;
        let has_begun = talk.has_begun.load(Ordering::Relaxed);
        has_begun.then_some(talk.pause_max)
    }

    /// Whether the client has kept us waiting for too long.
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

/// An answer's body on its way from an upstream, which may pause for a given time only.
pub(super) struct Downloaded<B> {
    inner: B,
    idle_timeout: Duration,
    /// Runs out while the upstream pauses; made at its first pause: most answers are there in one piece.
    idle: Option<Pin<Box<Sleep>>>,
    /// Whether it pauses.
    is_idle: bool,
    /// Dropped with the body.
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

    /// Whether the pause is too long.
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

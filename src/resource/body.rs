//! Bodies: a response that holds its permit to the last byte, a request that must arrive in time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};

use crate::gate::Permit;

use super::{Body, BoxError};

/// A response body that holds the permit until it ends or the client hangs up; either way the use is delivered then.
pub(super) struct Delivered<B> {
    /// The body.
    inner: B,
    /// Dropped with the body.
    permit: Permit,
    /// Runs out about once a second while the time that passes is counted.
    tick: Option<Pin<Box<Sleep>>>,
    /// Whether the grant ended in the middle.
    is_over: bool,
}

/// How often the time of a running answer is counted: a crash loses no more of it.
const TICK: Duration = Duration::from_secs(1);

/// The grant ended in the middle of an answer, and the route cuts it there.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the token is used up in the middle of the answer")]
struct Over;

impl<B> Delivered<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn boxed(inner: B, mut permit: Permit, headers: &HeaderMap) -> Body {
        permit.read_meter(headers);
        let tick = permit
            .is_timed()
            .then(|| Box::pin(tokio::time::sleep_until(Instant::now() + TICK)));
        Body::new(Self {
            inner,
            permit,
            tick,
            is_over: false,
        })
    }
}

impl<B> HttpBody for Delivered<B>
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
        let this = &mut *self;
        while let Some(tick) = &mut this.tick
            && tick.as_mut().poll(cx).is_ready()
        {
            this.is_over |= !this.permit.pass_time();
            tick.as_mut().reset(Instant::now() + TICK);
        }
        if this.is_over {
            return Poll::Ready(Some(Err(Over.into())));
        }
        let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(cx)) else {
            return Poll::Ready(None);
        };
        let frame = frame.map_err(|error| {
            let error = error.into();
            // The client sees only that its answer ends early.
            tracing::warn!("An answer broke off in the middle: {error}");
            error
        })?;
        if let Some(trailers) = frame.trailers_ref() {
            this.permit.read_meter(trailers);
        }
        let frame = match frame.into_data() {
            Ok(mut data) => {
                let allowed = this.permit.deliver(data.len());
                this.is_over = allowed < data.len();
                if this.is_over && allowed == 0 {
                    return Poll::Ready(Some(Err(Over.into())));
                }
                data.truncate(allowed);
                Frame::data(data)
            }
            Err(frame) => frame,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
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
}

impl Uploaded {
    pub(super) fn new(inner: Body, timeout: Duration) -> (Self, watch::Receiver<Upload>) {
        let (progress, upload) = watch::channel(Upload::Running);
        let deadline = Box::pin(tokio::time::sleep_until(Instant::now() + timeout));
        let body = Self {
            inner,
            patience: timeout,
            waiting_since: None,
            deadline,
            progress,
        };
        (body, upload)
    }
}

impl Drop for Uploaded {
    fn drop(&mut self) {
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
        let mut frame = Pin::new(&mut self.inner).poll_frame(cx);
        let now = Instant::now();
        if frame.is_pending() {
            if self.waiting_since.is_none() {
                self.waiting_since = Some(now);
                let until = now + self.patience;
                self.deadline.as_mut().reset(until);
            }
            let over = self.deadline.as_mut().poll(cx);
            frame = over.map(|()| Some(Err(TooSlow.into())));
        } else if let Some(since) = self.waiting_since.take() {
            self.patience = self.patience.saturating_sub(now - since);
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

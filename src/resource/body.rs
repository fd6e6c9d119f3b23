//! Bodies: a response that holds its permit to the last byte, a request that must arrive in time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::gate::Permit;

use super::{Body, BoxError};

/// A response body that holds the permit until it ends or the client hangs up; either way the use is delivered then.
pub(super) struct Delivered<B> {
    /// The body.
    inner: B,
    /// Dropped with the body.
    _permit: Permit,
}

impl<B> Delivered<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn boxed(inner: B, permit: Permit) -> Body {
        Body::new(Self {
            inner,
            _permit: permit,
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
        Pin::new(&mut self.inner).poll_frame(cx).map_err(Into::into)
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

/// A request body that must have arrived in a given time, however slowly it drips.
pub(super) struct Timed {
    inner: Body,
    deadline: Pin<Box<Sleep>>,
}

impl Timed {
    pub(super) fn new(inner: Body, timeout: Duration) -> Self {
        Self {
            inner,
            deadline: Box::pin(tokio::time::sleep_until(Instant::now() + timeout)),
        }
    }
}

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        self.deadline
            .as_mut()
            .poll(cx)
            .map(|()| Some(Err(TooSlow.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

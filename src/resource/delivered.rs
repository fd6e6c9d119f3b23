//! A response that holds its permit to the last byte: what it delivers is counted, and a use of which the client got nothing goes
//! back to its holder.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, StatusCode, response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, Sleep};

use crate::gate::{Permit, Reason};
use crate::ledger::Left;

use super::{Body, BoxError, Failure, Unserved, headers};

/// How often the time of a running answer is counted: a crash loses no more of it.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// A connection that stays open for what may come, an event stream or a WebSocket, is a delivery by itself once it has been open for
/// so long: that nothing has happened is what its client wanted to know.
pub(super) const OPEN_DELIVERS: Duration = Duration::from_secs(10);

/// The grant ended in the middle of an answer, and the route cuts it there; or the token was revoked.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the token was used up or revoked during the answer")]
pub(super) struct Over;

/// What has to be known of an answer besides its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Whether it answers a HEAD request.
    pub(super) is_head: bool,
    /// Whether it can be that of gRPC.
    pub(super) can_be_call: bool,
    /// Whether the end of its connection ends it, so that nobody can tell an empty answer from one that broke off.
    pub(super) is_open_ended: bool,
}

/// A response body that holds the permit until it ends or the client hangs up. The use counts with the first byte that the client's
/// connection takes, or with the end of an answer that has none.
pub(super) struct Delivered<B> {
    /// The body.
    inner: B,
    /// Dropped with the body.
    permit: Option<Permit>,
    /// The first frame, if it was there before the head was sent.
    first: Option<Frame<Bytes>>,
    /// Whether the body had ended by then, and must not be asked again.
    has_ended: bool,
    /// Whether the use counts by now.
    has_begun: bool,
    /// Whether the client has waited for a first byte.
    was_awaited: bool,
    /// Since when the answer is there, where being connected is a delivery, too.
    open_since: Option<Instant>,
    /// See [`Shape`].
    is_open_ended: bool,
    /// Whether it is a call of gRPC.
    is_call: bool,
    /// Runs out about once a second while the time that passes is counted.
    tick: Option<Pin<Box<Sleep>>>,
    /// Where it is not: when to look whether the token is still good, the next time that something is to be delivered. A timer
    /// for each answer would cost more than all of the gate.
    look_at: Instant,
    /// Whether the grant ended in the middle.
    is_over: bool,
    /// Whether the connection was given a moment to send what was delivered until then.
    is_sent: bool,
}

impl<B> Delivered<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// The answer of whoever the request was passed on to: delivered from here on, unless this head says that it failed there. Then
    /// the use goes back to the holder. A call of gRPC, where they can be, says only behind its messages how it went.
    ///
    /// Where the length is known, the first byte is waited for: if none comes, the head says so, and that the use is back.
    /// Says besides what the client's next request finds.
    pub(super) async fn of_answer(
        inner: B,
        mut permit: Permit,
        head: &response::Parts,
        shape: Shape,
    ) -> Result<(Body, Left), Unserved> {
        permit.read_meter(&head.headers);
        let is_call = shape.can_be_call && headers::is_call(&head.headers);
        let has_failed =
            head.status.is_server_error() || (is_call && headers::is_failed_call(&head.headers));
        if has_failed {
            return Ok((Body::new(inner.map_err(Into::into)), permit.give_back()));
        }
        let length = length(&inner, head, shape.is_head);
        if !permit.begin(length) {
            return Err(Unserved::giving_back(permit, Failure::UsedUp));
        }
        let is_somebodys = matches!(permit.reason(), Reason::Quota | Reason::Paid);
        let mut body = Self::new(inner, permit, shape.is_open_ended);
        body.is_call = is_call;
        body.has_begun = length == Some(0);
        body.open_since = is_event_stream(&head.headers).then(Instant::now);
        let mut given_back = None;
        if is_somebodys && !is_call && !body.has_begun {
            let waits = length.is_some() && body.open_since.is_none();
            given_back = body.look_at_first(waits).await?;
        }
        let left = given_back.or_else(|| body.permit.as_ref().map(Permit::left));
        Ok((Body::new(body), left.unwrap_or_default()))
    }

    fn new(inner: B, permit: Permit, is_open_ended: bool) -> Self {
        let tick = permit
            .is_timed()
            .then(|| Box::pin(tokio::time::sleep_until(Instant::now() + TICK)));
        Self {
            inner,
            permit: Some(permit),
            first: None,
            has_ended: false,
            has_begun: false,
            was_awaited: false,
            open_since: None,
            is_open_ended,
            is_call: false,
            tick,
            look_at: Instant::now() + TICK,
            is_over: false,
            is_sent: false,
        }
    }

    /// Looks whether the body begins, or waits until it does, and says why it does not. Says besides what is left if the use went back.
    async fn look_at_first(&mut self, waits: bool) -> Result<Option<Left>, Unserved> {
        let first = poll_fn(|cx| {
            self.pass_time(cx);
            if self.is_over {
                return Poll::Ready(Some(Err(Over.into())));
            }
            let first = match Pin::new(&mut self.inner).poll_frame(cx) {
                Poll::Ready(first) => first,
                Poll::Pending => {
                    self.was_awaited = true;
                    return if waits {
                        Poll::Pending
                    } else {
                        Poll::Ready(None)
                    };
                }
            };
            self.has_ended = first.is_none();
            Poll::Ready(first.map(|first| first.map_err(Into::into)))
        });
        let error = match first.await {
            Some(Ok(first)) => {
                self.first = Some(first);
                return Ok(None);
            }
            None if self.has_ended => return Ok(self.end_well()),
            None => return Ok(None),
            Some(Err(error)) => error,
        };
        match self.permit.take() {
            // As where an answer is cut in the middle.
            Some(permit) if self.is_over => Err(Unserved::counting(permit, Failure::UsedUp)),
            Some(permit) => {
                let why = Failure::UpstreamUnreachable(error);
                Err(Unserved::giving_back(permit, why))
            }
            None => Ok(None),
        }
    }
}

impl<B> Delivered<B> {
    /// Counts the time that has passed, about once a second.
    fn pass_time(&mut self, cx: &mut Context<'_>) {
        while let (Some(tick), Some(permit)) = (&mut self.tick, &mut self.permit)
            && tick.as_mut().poll(cx).is_ready()
        {
            self.is_over |= !permit.pass_time();
            tick.as_mut().reset(Instant::now() + TICK);
        }
    }

    /// Looks about once a second whether who was served may still be: the token may have been revoked meanwhile.
    fn look(&mut self) {
        let Some(permit) = self.permit.as_mut().filter(|permit| permit.is_watched()) else {
            return;
        };
        if self.tick.is_some() || Instant::now() < self.look_at {
            return;
        }
        self.look_at = Instant::now() + TICK;
        self.is_over |= !permit.pass_time();
    }

    /// Ends an answer in the middle, after a moment for what was delivered until then.
    fn end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // The time that has passed is what was bought, also where nothing came in it.
        self.has_begun = true;
        if self.is_sent {
            return Poll::Ready(Some(Err(Over.into())));
        }
        // hyper drops what it has not sent yet when a body fails, and sends it while a body pauses.
        self.is_sent = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the client has had something.
    fn has_delivered(&self) -> bool {
        let was_open = self.open_since.map(|since| since.elapsed());
        self.has_begun || was_open.is_some_and(|time| time >= OPEN_DELIVERS)
    }

    /// Nothing more comes, by no doing of the client: the use goes back if it had nothing. Says what is left then.
    fn break_off(&mut self) -> Option<Left> {
        if self.has_delivered() {
            return None;
        }
        self.permit.take().map(Permit::give_back)
    }

    /// The body is at its end.
    fn end_well(&mut self) -> Option<Left> {
        let given_back = self.is_open_ended.then(|| self.break_off()).flatten();
        self.has_begun = true;
        given_back
    }

    /// Counts what a frame delivers, and takes off what goes beyond the grant where that is cut. `None` if nothing of it is left.
    fn count(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        if let Some(trailers) = frame.trailers_ref() {
            if self.is_call && headers::is_failed_call(trailers) {
                self.break_off();
            }
            if let Some(permit) = &mut self.permit {
                permit.read_meter(trailers);
            }
            self.has_begun = true;
        }
        let (mut data, permit) = match (frame.into_data(), &mut self.permit) {
            (Ok(data), Some(permit)) => (data, permit),
            (Ok(data), None) => return Some(Frame::data(data)),
            (Err(frame), _) => return Some(frame),
        };
        let allowed = permit.deliver(data.len());
        self.is_over = allowed < data.len();
        if self.is_over && allowed == 0 {
            self.break_off();
            return None;
        }
        self.has_begun |= allowed > 0;
        data.truncate(allowed);
        Some(Frame::data(data))
    }
}

/// A client that hangs up in the middle has had the answer. One that has waited for a first byte in vain has not.
impl<B> Drop for Delivered<B> {
    fn drop(&mut self) {
        if self.was_awaited
            && !self.has_delivered()
            && let Some(permit) = self.permit.take()
        {
            permit.leave();
        }
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
        this.pass_time(cx);
        if this.is_over {
            return this.end(cx);
        }
        let frame = match this.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None if this.has_ended => Poll::Ready(None),
            None => Pin::new(&mut this.inner).poll_frame(cx),
        };
        this.was_awaited |= frame.is_pending();
        let Some(frame) = ready!(frame) else {
            this.end_well();
            return Poll::Ready(None);
        };
        this.look();
        if this.is_over {
            return this.end(cx);
        }
        let frame = frame.map_err(|error| {
            let error = error.into();
            // The client sees only that its answer ends early.
            if let Some(permit) = &this.permit {
                let cause = permit.cause();
                if cause.may_log(tracing::Level::WARN, "An answer broke off in the middle") {
                    let route = &*cause.route;
                    tracing::warn!(
                        route.name = route,
                        "An answer of {route} broke off in the middle: {error}"
                    );
                }
            }
            this.break_off();
            error
        })?;
        match this.count(frame) {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => this.end(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && (self.has_ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // A frame that was taken out before is the client's, too.
        let (taken, mut rest) = (self.first_bytes(), self.inner.size_hint());
        let lower = rest.lower() + taken;
        if let Some(upper) = rest.upper() {
            rest.set_upper(upper + taken);
        }
        rest.set_lower(lower);
        rest
    }
}

impl<B> Delivered<B> {
    fn first_bytes(&self) -> u64 {
        let data = self.first.as_ref().and_then(Frame::data_ref);
        data.map_or(0, |data| data.len() as u64)
    }
}

/// How long the answer will be, if that is known.
fn length(body: &impl HttpBody, head: &response::Parts, is_head: bool) -> Option<u64> {
    let has_none = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    if is_head || has_none || body.is_end_stream() {
        return Some(0);
    }
    // tower-http's files say it in the head only.
    body.size_hint().exact().or_else(|| {
        let said = head.headers.get(CONTENT_LENGTH)?;
        said.to_str().ok()?.parse().ok()
    })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

//! A response that holds its permit to the last byte. It counts the delivered bytes, and returns
//! the use to the holder if the client received nothing.

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

use crate::account::ledger::Left;
use crate::sell::gate::{Over, Permit, Reason};

use super::downstream::{Body, BoxError};
use super::failure::{Failure, Unserved};
use super::framing::Framing;
use super::headers;
use super::over::Speech;

/// How often the time of a running answer is charged. A crash loses at most this much.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// How long an event stream or WebSocket must be open to count as delivered. Even without any
/// event, the client has then learned that nothing happened.
pub(super) const OPEN_DELIVERS: Duration = Duration::from_secs(10);

/// How long the rest of a message may take after the grant has ended.
pub(super) const REST: Duration = Duration::from_secs(2);

/// Facts about an answer that its head does not contain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    /// Whether the answer is for a HEAD request.
    pub(super) is_head: bool,
    /// Whether the answer only redirects to another path of the shop.
    pub(super) sends_on: bool,
    /// Whether the answer can be a gRPC answer.
    pub(super) can_be_call: bool,
    /// Whether only the end of the connection ends the answer, so that an empty answer looks like a
    /// broken one.
    pub(super) is_open_ended: bool,
}

/// A response body that holds the permit until the body ends or the client hangs up. The use counts
/// when the client's connection takes the first byte, or when an empty answer ends.
pub(super) struct Delivered<B> {
    /// The body.
    inner: B,
    /// The permit; `None` after the use was given back.
    permit: Option<Permit>,
    /// The first frame, if it arrived before the head was sent.
    first: Option<Frame<Bytes>>,
    /// Whether the body has ended and must not be polled again.
    has_ended: bool,
    /// Whether the use counts already.
    has_begun: bool,
    /// Whether the client had to wait for a frame.
    was_awaited: bool,
    /// When the answer started, if it is an event stream. A stream that stays open for
    /// `OPEN_DELIVERS` counts as delivered, even without an event.
    open_since: Option<Instant>,
    /// The field of the same name in [`Shape`].
    is_open_ended: bool,
    /// Whether the answer is a gRPC answer.
    is_call: bool,
    /// Expires about once a second, if time is charged.
    tick: Option<Pin<Box<Sleep>>>,
    /// The time of the next check for a revoked token, if time is not charged. A timer for each
    /// answer would cost more than the whole gate.
    look_at: Instant,
    /// The reason why the answer is cut off, once it is.
    over: Option<Over>,
    /// The protocol of the answer.
    speech: Speech,
    /// The position within the current message, for protocols whose messages must not be split.
    framing: Option<Framing>,
    /// The beginning of a message of unknown length.
    unread: Bytes,
    /// The deadline for the rest of a message when the answer is over.
    rest: Option<Pin<Box<Sleep>>>,
    /// Whether the client has received the reason, or has had time to receive the earlier data.
    is_said: bool,
}

impl<B> Delivered<B>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Wraps the answer of an upstream or service. If its head reports a failure, the use goes back
    /// to the holder. A gRPC answer reports failures only after its messages.
    ///
    /// If the length is known, waits for the first byte. If that byte never comes, the request
    /// fails before the head is sent. Also returns the rest of the grant for the next request.
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
        // `is_excused` is called last, because it counts towards a limit.
        if has_failed || (brings_nothing(head.status, shape) && permit.is_excused()) {
            return Ok((Body::new(inner.map_err(Into::into)), permit.give_back()));
        }
        let length = length(&inner, head, shape.is_head);
        if !permit.begin(length) {
            return Err(Unserved::giving_back(permit, Failure::UsedUp));
        }
        let is_somebodys = matches!(permit.reason(), Reason::Quota | Reason::Paid);
        let is_watched = permit.is_watched();
        let mut body = Self::new(inner, permit, shape.is_open_ended);
        body.is_call = is_call;
        if is_watched {
            body.speech = Speech::of(&head.headers, shape.can_be_call);
            body.framing = body.speech.framing();
        }
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
            over: None,
            speech: Speech::Plain,
            framing: None,
            unread: Bytes::new(),
            rest: None,
            is_said: false,
        }
    }

    /// Reads the first frame, and waits for it if `waits` is set. Fails if the body fails. Returns
    /// the rest of the grant if the use went back.
    async fn look_at_first(&mut self, waits: bool) -> Result<Option<Left>, Unserved> {
        let first = poll_fn(|cx| {
            self.pass_time(cx);
            if let Some(over) = self.over {
                return Poll::Ready(Some(Err(over.into())));
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
            // The use counts, as for an answer that is cut in the middle.
            Some(permit) if self.over.is_some() => Err(Unserved::counting(permit, Failure::UsedUp)),
            Some(permit) => {
                let why = Failure::UpstreamUnreachable(error);
                Err(Unserved::giving_back(permit, why))
            }
            None => Ok(None),
        }
    }
}

impl<B> Delivered<B> {
    /// Charges the time that has passed, about once a second.
    fn pass_time(&mut self, cx: &mut Context<'_>) {
        while let (Some(tick), Some(permit)) = (&mut self.tick, &mut self.permit)
            && tick.as_mut().poll(cx).is_ready()
        {
            self.over = self.over.or(permit.pass_time().err());
            tick.as_mut().reset(Instant::now() + TICK);
        }
    }

    /// Checks about once a second whether the token was revoked.
    fn look(&mut self) {
        let Some(permit) = self.permit.as_mut().filter(|permit| permit.is_watched()) else {
            return;
        };
        if self.tick.is_some() || Instant::now() < self.look_at {
            return;
        }
        self.look_at = Instant::now() + TICK;
        self.over = self.over.or(permit.pass_time().err());
    }

    /// The reason to end the answer here, if it ends. The answer ends between messages, unless the
    /// rest of a message arrives too late.
    fn over_here(&mut self, cx: &mut Context<'_>) -> Option<Over> {
        let over = self.over?;
        let is_within = self
            .framing
            .as_ref()
            .is_some_and(|framing| !framing.is_between());
        if is_within {
            let until = Instant::now() + REST;
            let rest = self
                .rest
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            if rest.as_mut().poll(cx).is_pending() {
                return None;
            }
            self.speech = Speech::Plain;
        }
        Some(over)
    }

    /// Cuts the answer off with the protocol's own status. Other protocols get an error, after a
    /// pause in which the client receives the earlier data.
    fn end(
        &mut self,
        over: Over,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        // The client paid for time, and that time has passed even without data.
        self.has_begun = true;
        let words = self.speech.last_words(over);
        if self.is_said {
            let broken = words.is_none().then(|| Err(over.into()));
            return Poll::Ready(broken);
        }
        self.is_said = true;
        if words.is_some() {
            return Poll::Ready(words.map(Ok));
        }
        // hyper drops unsent data when a body fails, but sends the data while a body is pending.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the client has received something.
    fn has_delivered(&self) -> bool {
        let was_open = self.open_since.map(|since| since.elapsed());
        self.has_begun || was_open.is_some_and(|time| time >= OPEN_DELIVERS)
    }

    /// Handles an end that the client did not cause: gives the use back if nothing was delivered.
    /// Returns the rest of the grant in that case.
    fn break_off(&mut self) -> Option<Left> {
        if self.has_delivered() {
            return None;
        }
        self.permit.take().map(Permit::give_back)
    }

    /// Handles an answer that broke off in the middle.
    fn broken(&mut self, error: BoxError) -> BoxError {
        // Logged here, because the client only sees an early end.
        if let Some(permit) = &self.permit {
            let cause = permit.cause();
            if cause.may_log(tracing::Level::WARN, "An answer broke off in the middle") {
                let route = &*cause.route;
                tracing::warn!(
                    route.name = route,
                    "An answer of {route} broke off in the middle: {error}"
                );
            }
        }
        self.break_off();
        error
    }

    /// Handles the regular end of the body.
    fn end_well(&mut self) -> Option<Left> {
        let given_back = self.is_open_ended.then(|| self.break_off()).flatten();
        self.has_begun = true;
        given_back
    }

    /// Returns the last bytes if they are not a whole message.
    fn take_unread(&mut self) -> Option<Frame<Bytes>> {
        let unread = std::mem::take(&mut self.unread);
        if unread.is_empty() {
            return None;
        }
        if let Some(permit) = &mut self.permit {
            permit.deliver(unread.len());
        }
        self.has_begun = true;
        Some(Frame::data(unread))
    }

    /// Charges a frame and cuts the bytes beyond the grant. Returns `None` if no bytes remain.
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
        let (data, permit) = match (frame.into_data(), &mut self.permit) {
            (Ok(data), Some(permit)) => (data, permit),
            (Ok(data), None) => return Some(Frame::data(data)),
            (Err(frame), _) => return Some(frame),
        };
        let mut data = joined(std::mem::take(&mut self.unread), data);
        let mut is_over = false;
        if let Some(framing) = &mut self.framing {
            let over = self.over;
            let (bytes, ends) = framing.pass(&data, |before, bytes| {
                over.is_none() && permit.hold(before.saturating_add(bytes))
            });
            self.unread = data.split_off(bytes);
            is_over = ends;
        }
        let allowed = permit.deliver(data.len());
        if is_over || allowed < data.len() {
            self.over = self.over.or(Some(Over::UsedUp));
            self.unread.clear();
        }
        self.has_begun |= allowed > 0;
        data.truncate(allowed);
        if data.is_empty() {
            if self.over.is_some() {
                self.break_off();
            }
            return None;
        }
        Some(Frame::data(data))
    }
}

/// Concatenates both.
fn joined(begin: Bytes, data: Bytes) -> Bytes {
    if begin.is_empty() {
        data
    } else {
        [begin, data].concat().into()
    }
}

/// A client that hangs up in the middle has received the answer, so the use counts. A client that
/// waited in vain for the first byte has received nothing.
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
        loop {
            if let Some(over) = this.over_here(cx) {
                return this.end(over, cx);
            }
            let frame = match this.first.take() {
                Some(first) => Poll::Ready(Some(Ok(first))),
                None if this.has_ended => Poll::Ready(None),
                None => Pin::new(&mut this.inner).poll_frame(cx),
            };
            this.was_awaited |= frame.is_pending();
            let Some(frame) = ready!(frame) else {
                this.has_ended = true;
                let unread = this.take_unread();
                this.end_well();
                return Poll::Ready(unread.map(Ok));
            };
            this.look();
            if let Some(over) = this.over_here(cx) {
                return this.end(over, cx);
            }
            let frame = frame.map_err(|error| this.broken(error.into()))?;
            if frame.is_trailers()
                && let Some(unread) = this.take_unread()
            {
                this.first = Some(frame);
                return Poll::Ready(Some(Ok(unread)));
            }
            let is_empty = frame.data_ref().is_some_and(Bytes::is_empty);
            match this.count(frame) {
                Some(frame) => return Poll::Ready(Some(Ok(frame))),
                None if is_empty => return Poll::Ready(Some(Ok(Frame::data(Bytes::new())))),
                // The frame was withheld: the answer is over, or a message's length is still
                // unknown.
                None => {}
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let is_all_there = self.first.is_none() && self.unread.is_empty();
        is_all_there && (self.has_ended || self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        // The first frame was taken from the body, but still goes to the client.
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

/// Whether a successful answer is useless to the client: it has no body by its nature, or it
/// demands another request.
fn brings_nothing(status: StatusCode, shape: Shape) -> bool {
    let asks_otherwise = [
        StatusCode::NOT_MODIFIED,
        StatusCode::UNAUTHORIZED,
        StatusCode::NOT_FOUND,
        StatusCode::GONE,
        StatusCode::TOO_MANY_REQUESTS,
    ];
    shape.is_head || shape.sends_on || asks_otherwise.contains(&status)
}

/// The length of the answer, if it is known.
fn length(body: &impl HttpBody, head: &response::Parts, is_head: bool) -> Option<u64> {
    let has_none = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
    if is_head || has_none || body.is_end_stream() {
        return Some(0);
    }
    // tower-http gives the length of a file only in the head.
    body.size_hint().exact().or_else(|| {
        let said = head.headers.get(CONTENT_LENGTH)?;
        said.to_str().ok()?.parse().ok()
    })
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

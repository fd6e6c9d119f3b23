//! Tunnels: connections that were switched to another protocol, usually WebSocket. Data is copied
//! in both directions until one side ends or both are idle for too long.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::sync::Notify;
use tokio::time::{Instant, interval_at, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::sell::gate::{Over, Permit};

use super::delivered::{OPEN_DELIVERS, TICK};
use super::framing::{Frames, Framing};
use super::headers::names;
use super::over::Ending;
use super::servers::InFlight;

/// How long the other side may continue after one side has ended. In all tunnelled protocols, only
/// a farewell follows then.
const FAREWELL: Duration = Duration::from_secs(2);

/// The WebSocket protocol. Its messages are never split, and its clients receive the reason for the
/// end of the connection.
const WEBSOCKET: &[u8] = b"websocket";

/// A client's request to switch to another protocol.
#[derive(Debug)]
pub(super) struct Switch {
    /// The name of the protocol.
    pub(super) protocol: HeaderValue,
    /// The client's connection, available after the switch.
    client: OnUpgrade,
}

impl Switch {
    /// Returns the switch that this request asks for, if its protocol is allowed. Other requests to
    /// switch are ignored, as HTTP permits.
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

    /// Adds the switch to the headers of a request or an answer.
    pub(super) fn say(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
    }

    /// Whether the answer switches to exactly this protocol.
    pub(super) fn is_granted(&self, answer: &HeaderMap) -> bool {
        let granted = answer.get(UPGRADE).map(HeaderValue::as_bytes);
        granted.is_some_and(|granted| granted.eq_ignore_ascii_case(self.protocol.as_bytes()))
    }

    /// Builds the tunnel between the client and the upstream that accepted the switch.
    pub(super) fn tunnel(
        self,
        upstream: OnUpgrade,
        permit: Permit,
        idle_timeout: Duration,
        in_flight: Option<InFlight>,
    ) -> Tunnel {
        let is_websocket = self.protocol.as_bytes().eq_ignore_ascii_case(WEBSOCKET);
        Tunnel {
            framing: is_websocket.then(|| Framing::new(Frames::WebSocket)),
            client: self.client,
            upstream,
            permit,
            idle_timeout,
            _in_flight: in_flight,
        }
    }
}

/// A switched connection between a client and an upstream.
#[derive(Debug)]
#[must_use = "a tunnel runs until it ends"]
pub(super) struct Tunnel {
    client: OnUpgrade,
    upstream: OnUpgrade,
    /// The state of the upstream's messages, if their format is known.
    framing: Option<Framing>,
    /// The permit, held until the tunnel ends; then the use is delivered.
    permit: Permit,
    idle_timeout: Duration,
    _in_flight: Option<InFlight>,
}

impl Tunnel {
    /// Copies data in both directions until the tunnel ends or `cut` is cancelled.
    pub(super) async fn run(self, cut: CancellationToken) {
        let (client, upstream) = match tokio::try_join!(self.client, self.upstream) {
            Ok(ends) => ends,
            // The client disconnected before the switch was complete.
            Err(error) => {
                tracing::debug!("A connection could not be switched: {error}");
                return;
            }
        };
        let activity = Activity::begin();
        let meter = Meter::new(self.permit);
        let mut client = Watched {
            inner: TokioIo::new(client),
            activity: &activity,
            sale: None,
        };
        let mut upstream = Watched {
            inner: TokioIo::new(upstream),
            activity: &activity,
            sale: Some(Sale::new(&meter, self.framing)),
        };
        let why = {
            let mut copying = pin!(copy_bidirectional(&mut client, &mut upstream));
            let ending = tokio::select! {
                ended = &mut copying => Err(match ended {
                    Ok(_) => "both sides closed it".to_owned(),
                    Err(error) => error.to_string(),
                }),
                () = activity.is_over(self.idle_timeout) => Ok(Ending::Silent),
                over = meter.is_over() => Ok(Ending::Over(over)),
                () = cut.cancelled() => Err("the program is stopping".to_owned()),
            };
            match ending {
                Ok(ending) if meter.end(ending) => {
                    // The client gets the rest of the message and a close frame, and may answer
                    // with its own.
                    let farewell = timeout(FAREWELL, &mut copying);
                    let _ = cut.run_until_cancelled(farewell).await;
                    ending.to_string()
                }
                Ok(ending) => ending.to_string(),
                Err(why) => why,
            }
        };
        tracing::debug!("A switched connection came to its end: {why}");
        let was_short = activity.begun.elapsed() < OPEN_DELIVERS;
        let permit = meter.into_permit();
        // A connection that the upstream soon ended without sending anything was useless to the
        // client. But the upstream may still have acted on data that the client sent.
        if was_short && activity.is_void() {
            if activity.has_asked.load(Ordering::Relaxed) {
                permit.leave();
            } else {
                permit.give_back();
            }
        }
    }
}

/// Charges the bytes sent to the client, like those of an answer, and the time that passes.
#[derive(Debug)]
struct Meter {
    /// The permit. A `std` mutex: held for a count, in one task.
    permit: Mutex<Permit>,
    /// The reason why the connection ends, once it ends.
    ending: OnceLock<Ending>,
    /// Whether the client has received the reason, or the upstream has closed the connection
    /// itself.
    is_told: AtomicBool,
    /// Wakes the task that reads from the upstream.
    reader: AtomicWaker,
}

impl Meter {
    fn new(permit: Permit) -> Self {
        Self {
            permit: Mutex::new(permit),
            ending: OnceLock::new(),
            is_told: AtomicBool::new(false),
            reader: AtomicWaker::new(),
        }
    }

    fn into_permit(self) -> Permit {
        self.permit
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn permit(&self) -> MutexGuard<'_, Permit> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops after the current message. Returns whether the client still needs the reason.
    fn end(&self, ending: Ending) -> bool {
        // Only the first reason is kept.
        let _ = self.ending.set(ending);
        self.reader.wake();
        !self.is_told.load(Ordering::Relaxed)
    }

    /// Waits until the paid time is used up or the token is revoked.
    async fn is_over(&self) -> Over {
        let mut tick = interval_at(Instant::now() + TICK, TICK);
        loop {
            tick.tick().await;
            if let Err(over) = self.permit().pass_time() {
                return over;
            }
        }
    }
}

/// The data from the upstream, as far as the grant allows.
struct Sale<'a> {
    meter: &'a Meter,
    /// The state of its messages, if their format is known.
    framing: Option<Framing>,
    /// The beginning of a message of unknown length.
    unread: Bytes,
    /// The close frame still to send, if any. The stream ends after it.
    last_words: Option<Bytes>,
}

impl<'a> Sale<'a> {
    fn new(meter: &'a Meter, framing: Option<Framing>) -> Self {
        Self {
            meter,
            framing,
            unread: Bytes::new(),
            last_words: None,
        }
    }

    /// The reason to end the connection here, if it ends; never within a message.
    fn ending_here(&self) -> Option<Ending> {
        let is_between = self.framing.as_ref().is_none_or(Framing::is_between);
        let ending = self.meter.ending.get().copied();
        ending.filter(|_| is_between)
    }

    /// Ends the connection. Sends a WebSocket close frame if the upstream has not sent one.
    fn end(&mut self, ending: Ending) {
        tracing::debug!("Closed an upgraded connection: {ending}");
        let framing = self.framing.as_ref();
        let is_told = framing.is_none_or(Framing::is_last);
        self.last_words = Some(if is_told {
            Bytes::new()
        } else {
            ending.close_frame()
        });
        self.meter.is_told.store(true, Ordering::Relaxed);
    }

    /// Returns how many of these bytes may be sent now. The remaining bytes wait until the length
    /// of their message is known, or the connection ends before them.
    fn take(&mut self, data: &[u8]) -> usize {
        let mut permit = self.meter.permit();
        let is_open = self.meter.ending.get().is_none();
        let (bytes, is_over) = match &mut self.framing {
            None => (data.len(), false),
            Some(framing) => framing.pass(data, |before, bytes| {
                is_open && permit.hold(before.saturating_add(bytes))
            }),
        };
        let allowed = permit.deliver(bytes);
        drop(permit);
        if is_over || allowed < bytes {
            let used_up = Ending::Over(Over::UsedUp);
            let ending = *self.meter.ending.get_or_init(|| used_up);
            self.end(ending);
        } else {
            self.unread = Bytes::copy_from_slice(&data[bytes..]);
        }
        allowed
    }
}

/// The time of the last data in a tunnel, in either direction.
#[derive(Debug)]
struct Activity {
    begun: Instant,
    /// Milliseconds from `begun` to the last data.
    last_ms: AtomicU64,
    /// Notified when one side has ended.
    farewell: Notify,
    /// The first event that decides about the use.
    first: OnceLock<First>,
    /// Whether the client has sent anything.
    has_asked: AtomicBool,
}

/// An event that decides whether the connection was useful to its client. Only the first one
/// counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// The upstream sent data, or the client ended the connection.
    Use,
    /// The upstream ended the connection.
    UpstreamEnd,
}

impl Activity {
    fn begin() -> Self {
        Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
            farewell: Notify::new(),
            first: OnceLock::new(),
            has_asked: AtomicBool::new(false),
        }
    }

    /// Records the result of reading one side.
    fn see(&self, is_upstream: bool, has_ended: bool) {
        let first = match (is_upstream, has_ended) {
            (true, true) => First::UpstreamEnd,
            (true, false) | (false, true) => First::Use,
            (false, false) => return self.has_asked.store(true, Ordering::Relaxed),
        };
        // Only the first event is kept.
        let _ = self.first.set(first);
    }

    /// Whether the upstream ended the connection without having sent any data.
    fn is_void(&self) -> bool {
        self.first.get() == Some(&First::UpstreamEnd)
    }

    fn note(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Waits until no data was sent for `idle_timeout`. After one side has ended, the limit is
    /// `FAREWELL`.
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

/// One side of a tunnel, which records all data that it reads or writes.
struct Watched<'a> {
    inner: TokioIo<Upgraded>,
    activity: &'a Activity,
    /// Charges the data that is read here; only data from the upstream is charged.
    sale: Option<Sale<'a>>,
}

impl Watched<'_> {
    /// Reads some bytes, or the end. Returns the number of bytes.
    fn read(
        &mut self,
        is_upstream: bool,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buffer));
        let bytes = buffer.filled().len() - before;
        self.activity.see(is_upstream, bytes == 0);
        read?;
        self.activity.note();
        if bytes == 0 {
            self.activity.farewell.notify_one();
        }
        Poll::Ready(Ok(bytes))
    }
}

impl AsyncRead for Watched<'_> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let Some(mut sale) = this.sale.take() else {
            return this.read(false, cx, buffer).map_ok(|_| ());
        };
        sale.meter.reader.register(cx.waker());
        let read = loop {
            if let Some(words) = &mut sale.last_words {
                // After that the stream ends as if the upstream had closed it. An error would drop
                // bytes that were charged but not sent yet.
                let said = words.split_to(words.len().min(buffer.remaining()));
                buffer.put_slice(&said);
                break Poll::Ready(Ok(()));
            }
            if let Some(ending) = sale.ending_here() {
                sale.end(ending);
                this.activity.farewell.notify_one();
                continue;
            }
            let before = buffer.filled().len();
            if buffer.remaining() <= sale.unread.len() {
                // The buffer is not empty, so its content is sent first.
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
            buffer.put_slice(&sale.unread);
            match this.read(true, cx, buffer) {
                Poll::Pending => {
                    buffer.set_filled(before);
                    break Poll::Pending;
                }
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                // An incomplete message is passed on unchanged.
                Poll::Ready(Ok(0)) => {
                    sale.unread.clear();
                    sale.meter.is_told.store(true, Ordering::Relaxed);
                    break Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {
                    let allowed = sale.take(&buffer.filled()[before..]);
                    buffer.set_filled(before + allowed);
                    if sale.last_words.is_some() {
                        this.activity.farewell.notify_one();
                    }
                    if allowed > 0 {
                        break Poll::Ready(Ok(()));
                    }
                }
            }
        };
        this.sale = Some(sale);
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

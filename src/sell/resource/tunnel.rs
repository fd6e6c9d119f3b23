//! Connections that were switched to another protocol, WebSocket mostly: what one side sends the other gets, until one of
//! them ends or both are silent for too long.

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

/// How long the other side may go on when one has said its last: none of the protocols that are tunnelled says more than a
/// farewell then.
const FAREWELL: Duration = Duration::from_secs(2);

/// The protocol. Its messages are never split, and its clients receive the reason for the end of the connection.
const WEBSOCKET: &[u8] = b"websocket";

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

/// A switched connection, from end to end.
#[derive(Debug)]
#[must_use = "a tunnel runs until it ends"]
pub(super) struct Tunnel {
    client: OnUpgrade,
    upstream: OnUpgrade,
    /// The state of the upstream's messages, if their format is known.
    framing: Option<Framing>,
    /// Held to the end: the use is delivered then.
    permit: Permit,
    idle_timeout: Duration,
    _in_flight: Option<InFlight>,
}

impl Tunnel {
    /// Passes on what comes until it ends, or until it is cut.
    pub(super) async fn run(self, cut: CancellationToken) {
        let (client, upstream) = match tokio::try_join!(self.client, self.upstream) {
            Ok(ends) => ends,
            // The client was gone before it was told.
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
                    // The client gets the rest of the message and a close frame, and may answer with its own.
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
        // A connection that the upstream ended at once, without a word, was of no use to anybody. What the client said may have
        // been done all the same.
        if was_short && activity.is_void() {
            if activity.has_asked.load(Ordering::Relaxed) {
                permit.leave();
            } else {
                permit.give_back();
            }
        }
    }
}

/// What passes to the client is counted as the bytes of an answer are, and so is the time that passes.
#[derive(Debug)]
struct Meter {
    /// A `std` mutex: held to count, in one task.
    permit: Mutex<Permit>,
    /// Why the connection ends, once it does.
    ending: OnceLock<Ending>,
    /// Whether the client has received the reason, or the upstream has closed the connection itself.
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

    /// Waits until the time that was bought is over, where that ends it, or until the token is revoked.
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
    /// The close frame still to send, if any; after it comes the end.
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

    /// Why the connection ends here, if it does; never within a message.
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

    /// How many of these bytes may be sent now. The rest waits for its length, or the connection ends there.
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

/// When something was last sent in a tunnel, in either direction.
#[derive(Debug)]
struct Activity {
    begun: Instant,
    /// Milliseconds since then.
    last_ms: AtomicU64,
    /// Told when one side has said its last.
    farewell: Notify,
    /// What was seen first.
    first: OnceLock<First>,
    /// Whether the client has sent anything.
    has_asked: AtomicBool,
}

/// What decides whether a connection was of use to its client, whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// The upstream sent something, or the client ended it.
    Use,
    /// The upstream ended it.
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

    /// Notes what came of reading one side.
    fn see(&self, is_upstream: bool, has_ended: bool) {
        let first = match (is_upstream, has_ended) {
            (true, true) => First::UpstreamEnd,
            (true, false) | (false, true) => First::Use,
            (false, false) => return self.has_asked.store(true, Ordering::Relaxed),
        };
        // Only the first counts.
        let _ = self.first.set(first);
    }

    /// Whether the upstream has ended it without having sent anything.
    fn is_void(&self) -> bool {
        self.first.get() == Some(&First::UpstreamEnd)
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

/// One side of a tunnel: everything that passes is seen here.
struct Watched<'a> {
    inner: TokioIo<Upgraded>,
    activity: &'a Activity,
    /// Counts what is read here; only what the upstream sends is sold.
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
                // Then ends as if the upstream had closed it: an error would drop bytes that were counted but not sent yet.
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
                // An incomplete message is passed on as it is.
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

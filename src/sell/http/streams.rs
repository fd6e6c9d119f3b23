//! The requests of HTTP/2 connections: one connection has many, only who counts them knows when it asks nothing, and a client
//! can take nothing of one answer while the connection itself never stands still.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::places::{Place, Places};
use super::seats::Held;

/// A listener's HTTP/2 requests.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    places: Places,
    /// How long a client may take nothing of an answer.
    timeout: Duration,
    /// The same of an answer of our own, which is short and was not let through by anybody.
    own_timeout: Duration,
    tracker: TaskTracker,
}

impl Streams {
    /// With these places.
    pub(super) fn new(
        places: Places,
        timeout: Duration,
        own_timeout: Duration,
        tracker: TaskTracker,
    ) -> Self {
        Self {
            places,
            timeout,
            own_timeout: own_timeout.min(timeout),
            tracker,
        }
    }

    /// Those of one connection.
    pub(super) fn of_a_connection(&self) -> StreamsOf {
        StreamsOf {
            all: self.clone(),
            running: watch::Sender::new(0),
            begun: Arc::default(),
        }
    }
}

/// A connection's HTTP/2 requests, and where hyper runs them.
#[derive(Clone, Debug)]
pub(super) struct StreamsOf {
    all: Streams,
    /// How many there are.
    running: watch::Sender<usize>,
    /// The one that was begun last, until it runs: hyper calls the service and hands what comes of it to its executor in one
    /// breath. A lock, because both are called through shared references.
    begun: Arc<Mutex<Option<Stream>>>,
}

impl StreamsOf {
    /// Begins one.
    pub(super) fn begin(&self) -> Arc<Progress> {
        self.running.send_modify(|running| *running += 1);
        let progress = Arc::new(Progress::new());
        let stream = Stream {
            progress: Arc::clone(&progress),
            running: self.running.clone(),
        };
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        progress
    }

    /// The listener's places.
    pub(super) fn places(&self) -> &Places {
        &self.all.places
    }

    /// How long a client may take nothing of an answer of our own.
    pub(super) fn own_timeout(&self) -> Duration {
        self.all.own_timeout
    }

    /// Waits until there has been none for this long.
    pub(super) async fn are_idle(&self, time: Duration) {
        let mut running = self.running.subscribe();
        loop {
            // The sender is here, so it cannot be closed.
            let _ = running.wait_for(|running| *running == 0).await;
            if tokio::time::timeout(time, running.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl<F> hyper::rt::Executor<F> for StreamsOf
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, answering: F) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = begun.take() else {
            self.all.tracker.spawn(answering);
            return;
        };
        let timeout = self.all.timeout;
        self.all.tracker.spawn(async move {
            tokio::select! {
                _ = answering => {}
                // Dropped, it is reset.
                () = stream.progress.stalls(timeout) => {
                    tracing::debug!("Gave up on an answer that its client does not take");
                }
            }
        });
    }
}

/// One request, until all of its answer is on its way.
#[derive(Debug)]
struct Stream {
    progress: Arc<Progress>,
    running: watch::Sender<usize>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.running.send_modify(|running| *running -= 1);
    }
}

/// Who is waited for: us, or the client.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// Since when the client could have taken something, in milliseconds after the beginning; 0 while it waits for us.
    offered_ms: AtomicU64,
    /// Less time than usual; set once. A `std` lock: read and written in passing.
    sooner: OnceLock<Duration>,
    /// Told of it.
    hurried: Notify,
}

impl Progress {
    fn new() -> Self {
        Self {
            begun: Instant::now(),
            offered_ms: AtomicU64::new(0),
            sooner: OnceLock::new(),
            hurried: Notify::new(),
        }
    }

    /// Gives the client no more than this from now on.
    pub(super) fn hurry(&self, timeout: Duration) {
        // Said once an answer.
        let _ = self.sooner.set(timeout);
        self.hurried.notify_one();
    }

    fn offer(&self) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.offered_ms.store(now.max(1), Ordering::Relaxed);
    }

    fn take(&self) {
        self.offered_ms.store(0, Ordering::Relaxed);
    }

    /// Waits until the client has taken nothing for this long, or up to twice as long: looking at it more often would cost
    /// every answer something.
    async fn stalls(&self, timeout: Duration) {
        loop {
            let timeout = self.sooner.get().map_or(timeout, |sooner| *sooner);
            let offered_ms = self.offered_ms.load(Ordering::Relaxed);
            let since = match offered_ms {
                0 => Instant::now(),
                ms => self.begun + Duration::from_millis(ms),
            };
            tokio::select! {
                () = tokio::time::sleep_until(since + timeout) => {}
                () = self.hurried.notified() => continue,
            }
            if offered_ms != 0 && offered_ms == self.offered_ms.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

/// An answer's body that tells who is waited for.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    progress: Arc<Progress>,
    /// Free for others when the body is on its way.
    _place: Option<Arc<Place>>,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B, progress: Arc<Progress>, place: Option<Arc<Place>>) -> Self {
        // hyper asks for the first piece when there is room for it.
        progress.offer();
        Self {
            body,
            progress,
            _place: place,
        }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_pending() {
            self.progress.take();
        } else {
            self.progress.offer();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body that keeps its connection's place until the body is sent.
#[derive(Debug)]
pub(super) struct Holding<B> {
    body: B,
    _asking: Held,
    /// Set for a paid request.
    _paying: Option<Arc<Held>>,
}

impl<B> Holding<B> {
    pub(super) fn new(body: B, asking: Held, paying: Option<Arc<Held>>) -> Self {
        Self {
            body,
            _asking: asking,
            _paying: paying,
        }
    }
}

impl<B: Body + Unpin> Body for Holding<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
